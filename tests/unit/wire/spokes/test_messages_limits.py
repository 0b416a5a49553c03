"""How much, how random, how thoughtful, with which tools: other formats' calls in the words of the Messages API."""

from typing import Any

import pytest

from sidecar.wire.neutral import Message, Output, Reasoning, Report, Request, Text, Thinking, Tool, ToolCall, ToolChoice
from sidecar.wire.spokes.messages.request import write_request

OLD, NEW, NEWER = "claude-haiku-4-5-20251001", "claude-sonnet-4-6", "claude-opus-4-8"
USER = Message(role="user", parts=[Text(text="Hi")])


def say(model: str = OLD, **members: Any) -> tuple[dict[str, Any], list[str], list[str]]:
    report = Report()
    given = {"format": "chat", "model": model, "messages": [USER], "max_tokens": 9000, **members}
    said = write_request(Request(**given), report)
    del said["model"], said["messages"]
    if said["max_tokens"] == 9000:
        del said["max_tokens"]
    return said, report.lost, report.mapped


def test_members_that_are_the_same() -> None:
    said = say(temperature=0.5, top_p=0.9, top_k=5, stop=["END"], user="u", service_tier="auto", stream=True)
    assert said == (
        {
            "stream": True,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 5,
            "stop_sequences": ["END"],
            "metadata": {"user_id": "u"},
            "service_tier": "auto",
        },
        [],
        [],
    )


@pytest.mark.parametrize(
    "members",
    [
        {"n": 2}, {"frequency_penalty": 0.5}, {"presence_penalty": -1}, {"seed": 0}, {"logprobs": 0},
        {"logit_bias": {"1": 2}}, {"store": True}, {"verbosity": "low"}, {"output": Output()}, {"x": 1},
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_lost(members: dict[str, Any]) -> None:
    name = next(iter(members))
    said, lost, mapped = say(**({"extra": members} if name == "x" else members))
    assert (said, lost, mapped) == ({}, [name], [])


@pytest.mark.parametrize(
    "members",
    [
        {"metadata": {"a": "b"}}, {"cache_key": "k"}, {"cache_retention": "24h"}, {"service_tier": "flex"}, {"labels": 1},
        {"prediction": {"type": "content"}},
    ],
)  # fmt: skip
def test_hints_are_no_reason_to_refuse(members: dict[str, Any]) -> None:
    name = next(iter(members))
    said, lost, mapped = say(**({"extra": members} if name in ("labels", "prediction") else members))
    assert (said, lost, mapped) == ({}, [], [name])


@pytest.mark.parametrize(
    "members",
    [
        {"n": 1}, {"frequency_penalty": 0}, {"logit_bias": {}}, {"store": False}, {"verbosity": "medium"},
        {"cache_retention": "in_memory"}, {"parallel_tools": True}, {"extra": {"background": False, "x": None}},
    ],
)  # fmt: skip
def test_what_asks_for_nothing_is_no_loss(members: dict[str, Any]) -> None:
    assert say(**members) == ({}, [], [])


def test_values_that_are_cut_or_renamed() -> None:
    assert say(temperature=1.5) == ({"temperature": 1}, [], ["temperature"])
    assert say(service_tier="default") == ({"service_tier": "standard_only"}, [], ["service_tier"])
    assert say(stop=["\n", "a"]) == ({"stop_sequences": ["a"]}, ["stop[0]"], [])
    assert say(safety_identifier="s") == ({"metadata": {"user_id": "s"}}, [], ["safety_identifier"])
    assert say(safety_identifier="s", user="u") == ({"metadata": {"user_id": "u"}}, [], ["safety_identifier"])


def test_a_schema_is_closed() -> None:
    """The API refuses an object that may have any members; what is open on purpose stays, and is refused there."""
    inner = {"type": ["object", "null"], "enum": [{"type": "object"}]}
    schema = {"type": "object", "properties": {"a": inner, "b": {"type": "object", "additionalProperties": True}}}
    said, lost, mapped = say(output=Output(schema=schema, name="n", description="d", extra={"y": 1}))
    assert said["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"a": {**inner, "additionalProperties": False}, "b": schema["properties"]["b"]},  # type: ignore[index]
        },
    }
    assert (lost, mapped) == (["output.description", "output.y"], ["output.schema"])
    closed = {"type": "object", "additionalProperties": False, "required": ["a"]}
    assert say(output=Output(schema=closed, name="n", strict=True))[1:] == ([], [])


# ---- tools


def test_tools() -> None:
    tools = [
        Tool(name="a", description="d", parameters={"properties": {}}, strict=True, cache="5m", extra={"y": 1}),
        Tool(name="b"),
        Tool(name="c", opaque={"type": "c"}),
        Tool(name="d", custom=True),
    ]
    said, lost, mapped = say(tools=tools, parallel_tools=False)
    assert said["tools"] == [
        {
            "name": "a",
            "description": "d",
            "input_schema": {"type": "object", "properties": {}},
            "strict": True,
            "cache_control": {"type": "ephemeral"},
        },
        {"name": "b", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert said["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert (lost, mapped) == (["tools[0].y", "tools[2]", "tools[3]"], [])


@pytest.mark.parametrize(
    ("choice", "parallel", "said"),
    [
        (ToolChoice(mode="auto"), True, {"type": "auto"}),
        (ToolChoice(mode="none"), False, {"type": "none"}),
        (ToolChoice(mode="required"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice(mode="required", tools=["a"]), None, {"type": "tool", "name": "a"}),
    ],
)
def test_tool_choice(choice: ToolChoice, parallel: bool | None, said: dict[str, Any]) -> None:
    body, lost, mapped = say(tools=[Tool(name="a")], tool_choice=choice, parallel_tools=parallel)
    assert (body["tool_choice"], lost, mapped) == (said, [], [])


def test_a_choice_among_some_offers_only_those() -> None:
    choice = ToolChoice(mode="required", tools=["a", "c"], extra={"y": 1})
    said, lost, mapped = say(tools=[Tool(name=name) for name in "abc"], tool_choice=choice)
    assert [tool["name"] for tool in said["tools"]] == ["a", "c"]
    assert said["tool_choice"] == {"type": "any"}
    assert (lost, mapped) == (["tool_choice.y"], ["tool_choice.tools"])


# ---- thinking


@pytest.mark.parametrize(
    ("model", "reasoning", "thinking", "effort", "mapped"),
    [
        (OLD, Reasoning(effort="none"), {"type": "disabled"}, None, False),
        (NEW, Reasoning(budget_tokens=0), {"type": "disabled"}, None, False),
        (NEW, Reasoning(budget_tokens=0, effort="low"), {"type": "disabled"}, None, True),
        (OLD, Reasoning(budget_tokens=2000, effort="low"), {"type": "enabled", "budget_tokens": 2000}, None, True),
        (OLD, Reasoning(effort="medium"), {"type": "enabled", "budget_tokens": 4096}, None, True),
        (OLD, Reasoning(effort="high"), {"type": "enabled", "budget_tokens": 4500}, None, True),
        (OLD, Reasoning(effort="minimal"), {"type": "enabled", "budget_tokens": 1024}, None, True),
        (OLD, Reasoning(adaptive=True), {"type": "enabled", "budget_tokens": 4096}, None, True),
        (
            "gemma",
            Reasoning(budget_tokens=2000, show=True),
            {"type": "enabled", "budget_tokens": 2000, "display": "summarized"},
            None,
            False,
        ),
        (OLD, Reasoning(show=True), None, None, True),
        (OLD, Reasoning(), None, None, False),
        (NEW, Reasoning(), None, None, False),
        (NEW, Reasoning(effort="xhigh"), {"type": "adaptive"}, "xhigh", False),
        (NEW, Reasoning(effort="minimal"), {"type": "adaptive"}, "low", True),
        (NEW, Reasoning(budget_tokens=5000), {"type": "adaptive"}, "medium", True),
        (NEW, Reasoning(adaptive=True, show=False), {"type": "adaptive", "display": "omitted"}, None, False),
        (NEW, Reasoning(summary="auto"), {"type": "adaptive", "display": "summarized"}, None, False),
        (NEWER, Reasoning(summary="detailed"), {"type": "adaptive", "display": "summarized"}, None, True),
        ("claude-next", Reasoning(effort="low"), {"type": "adaptive"}, "low", False),
    ],
)
def test_how_much_to_think(
    model: str, reasoning: Reasoning, thinking: dict[str, Any] | None, effort: str | None, mapped: bool
) -> None:
    """By effort where the model decides for itself, by a number of tokens where it does not."""
    said, lost, told = say(model, reasoning=reasoning)
    assert said.get("thinking") == thinking
    assert said.get("output_config") == (None if effort is None else {"effort": effort})
    assert (lost, told) == ([], ["reasoning"] if mapped else [])


def test_effort_and_schema_stand_together() -> None:
    schema = {"type": "object", "additionalProperties": False}
    said, _, _ = say(NEW, reasoning=Reasoning(effort="low"), output=Output(schema=schema))
    assert said["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": schema}}


def test_thinking_needs_room() -> None:
    """It counts towards the limit: an unsaid limit grows, a small one leaves no thinking."""
    assert say(reasoning=Reasoning(effort="low"), max_tokens=None)[0]["max_tokens"] == 1024 + 4096
    assert say(reasoning=Reasoning(effort="low"), max_tokens=1000) == ({"max_tokens": 1000}, [], ["reasoning"])


def test_thinking_and_a_forced_tool_exclude_each_other() -> None:
    for model in (OLD, NEW):
        said, _, mapped = say(
            model, reasoning=Reasoning(effort="low"), tools=[Tool(name="a")], tool_choice=ToolChoice(mode="required")
        )
        assert "thinking" not in said
        assert mapped == ["reasoning"]
    assert "thinking" in say(reasoning=Reasoning(effort="low"), tool_choice=ToolChoice(mode="required"))[0]


def test_thinking_after_calls_that_another_provider_made() -> None:
    """The API wants its own thoughts before the last calls where it is given a number of tokens."""
    call = ToolCall(id="t", name="f")
    signed = Thinking(text="t", signature="s", origin="messages")
    answered = Message(role="assistant", parts=[Text(text="Hi")])
    for model, parts, thinks in ((OLD, [call], False), (OLD, [signed, call], True), (NEW, [call], True)):
        turns = [USER, Message(role="assistant", parts=parts)]
        assert ("thinking" in say(model, messages=turns, reasoning=Reasoning(effort="low"))[0]) is thinks
        assert "thinking" in say(model, messages=[*turns, answered], reasoning=Reasoning(effort="low"))[0]


def test_sampling_beside_thinking() -> None:
    said, lost, mapped = say(reasoning=Reasoning(budget_tokens=1024), temperature=0.2, top_p=0.5, top_k=4)
    assert said == {"thinking": {"type": "enabled", "budget_tokens": 1024}, "top_p": 0.95}
    assert (lost, mapped) == (["top_k"], ["temperature", "top_p"])
    assert say(reasoning=Reasoning(budget_tokens=1024), temperature=1, top_p=0.99)[1:] == ([], [])


def test_models_without_sampling() -> None:
    assert say(NEWER, temperature=0.2, top_p=1, top_k=4) == ({}, ["temperature", "top_k"], [])
    assert say(NEWER, temperature=1) == ({}, [], [])
