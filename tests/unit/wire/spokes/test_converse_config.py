"""Requests of Bedrock's Converse: tools, limits, the form of the answer, and thinking."""

from typing import Any

import orjson
import pytest

from sidecar.wire.neutral import (
    AnyPart,
    Message,
    Output,
    Reasoning,
    Report,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from sidecar.wire.spokes.converse.spoke import SPOKE

Json = dict[str, Any]
HAIKU = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
OPUS = "anthropic.claude-opus-4-6-v1"
NEWEST = "global.anthropic.claude-opus-4-8"
NOVA = "amazon.nova-pro-v1:0"
LLAMA = "meta.llama3-3-70b-instruct-v1:0"


def user(*parts: AnyPart) -> Message:
    return Message(role="user", parts=list(parts))


def assistant(*parts: AnyPart) -> Message:
    return Message(role="assistant", parts=list(parts))


HI = user(Text(text="hi"))
SAID_HI = {"role": "user", "content": [{"text": "hi"}]}


def written(**members: Any) -> tuple[Json, list[str], list[str]]:
    """The body, and what was lost and mapped."""
    report = Report()
    given: Json = {"format": "chat", "model": HAIKU, "messages": [HI]}
    body = SPOKE.write_request(Request(**{**given, **members}), report)
    return body, report.lost, report.mapped


# ---- tools

F = {"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object", "properties": {}}}}}
G = {"toolSpec": {"name": "g", "inputSchema": {"json": {"type": "object", "properties": {}}}}}
CALLED = [HI, assistant(ToolCall(id="a", name="g")), user(ToolResult(call_id="a", parts=[]))]


def test_tools() -> None:
    tools = [
        Tool(name="f", description="d", parameters={"type": "object"}, strict=True, cache="5m", extra={"x": 1}),
        Tool(name="g", description="", parameters={"properties": {"a": {}}}),
        Tool(name="h", custom=True),
        Tool(name="w", opaque={"type": "web_search"}),
    ]
    body, lost, mapped = written(tools=tools, tool_choice=ToolChoice(mode="auto", extra={"y": 1}), parallel_tools=False)
    assert body["toolConfig"] == {
        "tools": [
            {
                "toolSpec": {
                    "name": "f",
                    "description": "d",
                    "inputSchema": {"json": {"type": "object"}},
                    "strict": True,
                }
            },
            {"cachePoint": {"type": "default"}},
            {"toolSpec": {"name": "g", "inputSchema": {"json": {"type": "object", "properties": {"a": {}}}}}},
        ]
    }
    assert lost == ["tool_choice.y", "tools[0].x", "tools[2]", "tools[3]"]
    assert mapped == ["parallel_tools"]


@pytest.mark.parametrize(
    ("choice", "said", "mapped"),
    [
        (None, {"tools": [F, G]}, []),
        (ToolChoice(mode="auto"), {"tools": [F, G]}, []),
        (ToolChoice(mode="required"), {"tools": [F, G], "toolChoice": {"any": {}}}, []),
        (ToolChoice(mode="required", tools=["g"]), {"tools": [F, G], "toolChoice": {"tool": {"name": "g"}}}, []),
        (ToolChoice(mode="auto", tools=["g"]), {"tools": [G]}, ["tool_choice.tools"]),
        (
            ToolChoice(mode="required", tools=["f", "g"]),
            {"tools": [F, G], "toolChoice": {"any": {}}},
            ["tool_choice.tools"],
        ),
        (ToolChoice(mode="none"), None, ["tool_choice"]),
    ],
)
def test_a_choice(choice: ToolChoice | None, said: Json | None, mapped: list[str]) -> None:
    body, lost, changed = written(tools=[Tool(name="f"), Tool(name="g")], tool_choice=choice)
    assert (body.get("toolConfig"), lost, changed) == (said, [], mapped)


def test_calls_need_tools() -> None:
    """The service refuses calls in a conversation where no tools are offered."""
    body, lost, mapped = written(messages=CALLED)
    assert (body["toolConfig"], lost, mapped) == ({"tools": [G]}, [], ["tools"])
    body, lost, mapped = written(messages=CALLED, tools=[Tool(name="f")], tool_choice=ToolChoice(mode="none"))
    assert (body["toolConfig"], lost, mapped) == ({"tools": [F]}, ["tool_choice"], [])
    assert written(tool_choice=ToolChoice(mode="none"), parallel_tools=False) == ({"messages": [SAID_HI]}, [], [])


# ---- the answer


def test_limits() -> None:
    body, lost, mapped = written(
        max_tokens=9, temperature=1.5, top_p=0.5, top_k=3, stop=["END", " "], frequency_penalty=0, n=1, store=False
    )
    assert body == {
        "messages": [SAID_HI],
        "inferenceConfig": {"maxTokens": 9, "temperature": 1, "topP": 0.5, "stopSequences": ["END"]},
        "additionalModelRequestFields": {"top_k": 3},
        "additionalModelResponseFieldPaths": ["/stop_sequence"],
    }
    assert (lost, mapped) == (["stop[1]"], ["temperature"])


def test_limits_of_other_makers() -> None:
    body, lost, mapped = written(model=LLAMA, top_k=3, stop=["", " "], temperature=0, reasoning=Reasoning())
    assert body == {"messages": [SAID_HI], "inferenceConfig": {"temperature": 0, "stopSequences": [" "]}}
    assert (lost, mapped) == (["stop[0]", "top_k"], [])
    assert written(model=LLAMA, reasoning=Reasoning(effort="low"))[1] == ["reasoning"]


NOVA_2, OPEN = "us.amazon.nova-2-lite-v1:0", "openai.gpt-oss-120b-1:0"


@pytest.mark.parametrize(
    ("model", "reasoning", "limits", "said", "mapped"),
    [
        (NOVA_2, Reasoning(effort="low"), {}, {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}, []),
        (NOVA_2, Reasoning(effort="high"), {}, {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}}, []),
        (
            NOVA_2, Reasoning(effort="max"), {"max_tokens": 9},
            {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "medium"}}, ["reasoning"],
        ),
        (NOVA_2, Reasoning(effort="none"), {}, None, []),
        (NOVA_2, Reasoning(budget_tokens=0), {}, None, ["reasoning"]),
        (NOVA_2, Reasoning(show=True), {}, None, ["reasoning"]),
        (
            NOVA_2, Reasoning(adaptive=True), {},
            {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "medium"}}, ["reasoning"],
        ),
        (OPEN, Reasoning(effort="high"), {"max_tokens": 9}, {"reasoning_effort": "high"}, []),
        (OPEN, Reasoning(budget_tokens=5000), {}, {"reasoning_effort": "medium"}, ["reasoning"]),
        (OPEN, Reasoning(effort="none"), {}, {"reasoning_effort": "low"}, ["reasoning"]),
    ],
)  # fmt: skip
def test_efforts_of_other_makers(
    model: str, reasoning: Reasoning, limits: Json, said: Json | None, mapped: list[str]
) -> None:
    body, lost, told = written(model=model, reasoning=reasoning, **limits)
    assert (body.get("additionalModelRequestFields"), lost, told) == (said, [], mapped)


def test_what_the_service_does_not_have_is_lost() -> None:
    members: Json = {
        "n": 2, "frequency_penalty": 0.5, "presence_penalty": -1, "seed": 0, "logprobs": 0, "logit_bias": {"1": 1.0},
        "cache_key": "k", "cache_retention": "24h", "store": True, "verbosity": "low",
    }  # fmt: skip
    body, lost, mapped = written(**members)
    hints = {"cache_key", "cache_retention"}
    assert (body, set(mapped)) == ({"messages": [SAID_HI]}, hints)
    assert sorted(lost) == sorted(members.keys() - hints)
    assert written(cache_retention="in_memory", verbosity="medium")[1:] == ([], [])


@pytest.mark.parametrize(
    ("tier", "said", "told"),
    [
        (None, None, []),
        ("auto", None, []),
        ("standard_only", None, []),
        ("flex", {"type": "flex"}, []),
        ("priority", {"type": "priority"}, []),
        ("scale", None, ["service_tier"]),
    ],
)
def test_service_tiers(tier: str | None, said: Json | None, told: list[str]) -> None:
    body, lost, mapped = written(service_tier=tier)
    assert (body.get("serviceTier"), lost, mapped) == (said, [], told)


def test_labels() -> None:
    metadata = {"team": "a b", "": "x", "a|b": "x", "c": "é", "user": "mine"}
    body, lost, mapped = written(metadata=metadata, user="u", safety_identifier="h")
    assert body["requestMetadata"] == {"team": "a b", "user": "mine", "safety_identifier": "h"}
    assert (lost, mapped) == ([], ["metadata.", "metadata.a|b", "metadata.c", "user", "safety_identifier"])
    body, lost, mapped = written(metadata={f"k{number}": "v" for number in range(17)}, user="u")
    assert (len(body["requestMetadata"]), lost, mapped) == (16, [], ["metadata.k16", "user"])


def test_a_schema_is_a_text_and_closed() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": ["object", "null"]}, "b": {"enum": [{"type": "object"}]}},
        "anyOf": [{"type": "object", "additionalProperties": True}, True],
    }
    output = Output(schema=schema, name="n", description="d", strict=True, extra={"x": 1})
    body, lost, mapped = written(output=output)
    form = body["outputConfig"]["textFormat"]
    assert form["type"] == "json_schema"
    said = form["structure"]["jsonSchema"]
    assert (said["name"], said["description"]) == ("n", "d")
    assert orjson.loads(said["schema"]) == {
        "type": "object",
        "properties": {
            "a": {"type": ["object", "null"], "additionalProperties": False},
            "b": {"enum": [{"type": "object"}]},
        },
        "anyOf": [{"type": "object", "additionalProperties": True}, True],
        "additionalProperties": False,
    }
    assert (lost, mapped) == (["output.x"], [])
    assert written(output=Output(schema={}))[0]["outputConfig"]["textFormat"]["structure"] == {
        "jsonSchema": {"schema": "{}"}
    }


def test_any_json_and_what_cannot_be_written_are_lost() -> None:
    deep: Json = {}
    for _ in range(300):
        deep = {"items": deep}
    for output in (Output(), Output(schema=deep)):
        assert written(output=output) == ({"messages": [SAID_HI]}, ["output"], [])


# ---- thinking


def thought(model: str, **members: Any) -> tuple[Json, list[str], list[str]]:
    """What is said of thinking, without the messages."""
    body, lost, mapped = written(model=model, format="messages", **members)
    del body["messages"]
    return body, lost, mapped


def test_a_budget() -> None:
    body, lost, mapped = thought(HAIKU, reasoning=Reasoning(budget_tokens=2000), max_tokens=3000)
    assert body == {
        "inferenceConfig": {"maxTokens": 3000},
        "additionalModelRequestFields": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
    }
    assert (lost, mapped) == ([], [])


@pytest.mark.parametrize(
    ("reasoning", "limit", "budget", "mapped"),
    [
        (Reasoning(effort="low"), 9000, 1024, ["reasoning"]),
        (Reasoning(effort="high"), None, 16384, ["max_tokens", "reasoning"]),
        (Reasoning(adaptive=True), 9000, 4096, ["reasoning"]),
        (Reasoning(budget_tokens=5), 9000, 1024, ["reasoning"]),
        (Reasoning(budget_tokens=8000), 8000, 4000, ["reasoning"]),
        (Reasoning(budget_tokens=8000), 1000, None, ["reasoning"]),
        (Reasoning(effort="none"), 9000, None, []),
        (Reasoning(budget_tokens=0), 9000, None, []),
        (Reasoning(summary="auto"), 9000, None, ["reasoning"]),
        (Reasoning(show=False), 9000, None, []),
    ],
)
def test_budgets(reasoning: Reasoning, limit: int | None, budget: int | None, mapped: list[str]) -> None:
    body, lost, changed = thought(HAIKU, reasoning=reasoning, max_tokens=limit)
    thinking = body.get("additionalModelRequestFields", {}).get("thinking", {})
    assert thinking.get("budget_tokens") == budget
    assert (lost, changed) == ([], mapped)
    if budget and limit is None:
        assert body["inferenceConfig"]["maxTokens"] == budget + 4096


@pytest.mark.parametrize(
    ("reasoning", "thinking", "effort", "mapped"),
    [
        (Reasoning(adaptive=True), {"type": "adaptive"}, None, []),
        (Reasoning(adaptive=True, effort="max"), {"type": "adaptive"}, "max", []),
        (Reasoning(effort="minimal"), {"type": "adaptive"}, "low", ["reasoning"]),
        (Reasoning(budget_tokens=5000), {"type": "adaptive"}, "medium", ["reasoning"]),
        (Reasoning(budget_tokens=0), {"type": "disabled"}, None, []),
        (Reasoning(budget_tokens=0, effort="low"), {"type": "disabled"}, None, ["reasoning"]),
        (Reasoning(effort="none"), {"type": "disabled"}, None, []),
        (Reasoning(show=False), None, None, []),
        (Reasoning(show=True), {"type": "adaptive", "display": "summarized"}, None, []),
        (Reasoning(summary="auto"), {"type": "adaptive", "display": "summarized"}, None, []),
        (Reasoning(effort="low", show=False), {"type": "adaptive", "display": "omitted"}, "low", []),
        (
            Reasoning(effort="low", summary="detailed"),
            {"type": "adaptive", "display": "summarized"},
            "low",
            ["reasoning"],
        ),
    ],
)
def test_efforts(reasoning: Reasoning, thinking: Json | None, effort: str | None, mapped: list[str]) -> None:
    body, lost, changed = thought(OPUS, reasoning=reasoning)
    assert body.get("additionalModelRequestFields", {}).get("thinking") == thinking
    assert body.get("outputConfig") == (None if effort is None else {"effort": effort})
    assert (lost, changed) == ([], mapped)


def test_an_effort_beside_a_schema() -> None:
    body, _, _ = thought(OPUS, reasoning=Reasoning(effort="low"), output=Output(schema={}))
    assert sorted(body["outputConfig"]) == ["effort", "textFormat"]


def test_no_thinking_where_a_tool_is_forced() -> None:
    tools = {"tools": [Tool(name="f")], "tool_choice": ToolChoice(mode="required")}
    body, lost, mapped = thought(OPUS, reasoning=Reasoning(effort="max"), **tools)
    assert body["outputConfig"] == {"effort": "high"}
    assert "additionalModelRequestFields" not in body
    assert (lost, mapped) == ([], ["reasoning"])
    body, lost, mapped = thought(HAIKU, reasoning=Reasoning(budget_tokens=2000), **tools)
    assert sorted(body) == ["toolConfig"]
    assert (lost, mapped) == ([], ["reasoning"])


def test_no_budget_after_calls_without_thoughts() -> None:
    """They were another provider's. Signed thoughts of this service, or a last turn without calls, are well."""
    signed = Thinking(text="hm", signature="s", origin="converse")
    asked: Json = {"reasoning": Reasoning(budget_tokens=2000), "max_tokens": 9000, "tools": [Tool(name="g")]}
    own = [HI, assistant(signed, ToolCall(id="a", name="g")), user(ToolResult(call_id="a", parts=[]))]
    for talk, thinks in ((CALLED, False), (own, True), ([*CALLED, assistant(Text(text="a")), HI], True)):
        body, lost, mapped = thought(HAIKU, messages=talk, **asked)
        assert ("additionalModelRequestFields" in body) is thinks
        assert (lost, mapped) == ([], [] if thinks else ["reasoning"])


@pytest.mark.parametrize(
    ("model", "config", "fields", "lost", "mapped"),
    [
        (HAIKU, {"topP": 0.95}, {}, ["top_k"], ["temperature", "top_p"]),
        (OPUS, {"topP": 0.95}, {}, ["top_k"], ["temperature", "top_p"]),
        (NEWEST, {}, {}, ["temperature", "top_p", "top_k"], []),
        ("anthropic.claude-next", {}, {}, ["temperature", "top_p", "top_k"], []),
    ],
)
def test_sampling_beside_thinking(model: str, config: Json, fields: Json, lost: list[str], mapped: list[str]) -> None:
    body, gone, changed = thought(
        model, reasoning=Reasoning(effort="low"), max_tokens=9000, temperature=0.5, top_p=0.5, top_k=5
    )
    assert body["inferenceConfig"] == {"maxTokens": 9000, **config}
    thinking = body["additionalModelRequestFields"].pop("thinking")
    assert thinking["type"] in ("enabled", "adaptive")
    assert body["additionalModelRequestFields"] == fields
    assert gone == lost
    assert [one for one in changed if one != "reasoning"] == mapped


def test_sampling_that_says_nothing() -> None:
    body, lost, mapped = thought(NEWEST, temperature=1, top_p=1)
    assert (body, lost, mapped) == ({}, [], [])
    body, lost, mapped = thought(OPUS, reasoning=Reasoning(adaptive=True), temperature=1, top_p=0.99)
    assert (body["inferenceConfig"], lost, mapped) == ({"topP": 0.99}, [], [])
