"""Names of tools that an arm refuses: legal and different there, the client's own in its answer."""

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.neutral import Format, Message, Report, Request, Text, Tool, ToolCall, ToolChoice, ToolResult
from sidecar.wire.providers import PROVIDERS
from sidecar.wire.sse import SseParser
from sidecar.wire.tool_names import other_names
from sidecar.wire.translate import StreamedAnswer, WholeAnswer, losses, say

Json = dict[str, Any]
LEGAL: dict[Format, str] = {
    "chat": r"[a-zA-Z0-9_-]{1,64}",
    "responses": r"[a-zA-Z0-9_-]{1,64}",
    "messages": r"[a-zA-Z0-9_-]{1,128}",
    "generate": r"[a-zA-Z_][a-zA-Z0-9_.-]{0,63}",
    "cohere": r"[a-zA-Z_][a-zA-Z0-9_]{0,63}",
    "converse": r"[a-zA-Z0-9_-]{1,64}",
}  # as the providers document it, or say it in their 400s
ARMS: dict[Format, str] = {
    "chat": "openai", "responses": "openai", "messages": "anthropic", "generate": "google", "cohere": "cohere",
    "converse": "bedrock",
}  # fmt: skip


def call(*names: str, form: Format = "chat", **members: Any) -> Request:
    """A conversation in which the first tool was called, and its result is there."""
    first = names[0]
    turns = [
        Message(role="user", parts=[Text(text="hi")]),
        Message(role="assistant", parts=[ToolCall(id="c1", name=first, arguments="{}")]),
        Message(role="tool", parts=[ToolResult(call_id="c1", name=first, parts=[Text(text="ok")])]),
    ]
    tools = [Tool(name=name, parameters={"type": "object"}) for name in names]
    return Request(**({"format": form, "model": "m", "messages": turns, "tools": tools} | members))


def told(value: Any) -> list[str]:
    """Every `name` of a body, in order."""
    if isinstance(value, list):
        return [name for one in value for name in told(one)]
    if not isinstance(value, dict):
        return []
    own = [value["name"]] if isinstance(value.get("name"), str) else []
    return own + [name for one in value.values() for name in told(one)]


@pytest.mark.parametrize("form", [form for form in ARMS if form not in ("chat", "generate")])
def test_an_arm_gets_names_that_it_takes(form: Format) -> None:
    """Everywhere the same one, told once in `x-sidecar-changed`; what is good stays as it is."""
    client: Format = "generate"
    request = call("weather.get", "good", form=client, tool_choice=ToolChoice(mode="required", tools=["weather.get"]))
    report = Report()
    said = orjson.loads(say(request, form, PROVIDERS[ARMS[form]], "m", report))
    assert {name for name in told(said) if name.startswith("weather")} == {"weather_get"}
    assert "good" in told(said) or form == "cohere"  # which offers only what may be called
    assert report.mapped.count("tools[0].name") == 1
    assert b"weather.get" not in orjson.dumps(said)
    assert losses(request, form, PROVIDERS[ARMS[form]]) == losses(call("a", form=client), form, PROVIDERS[ARMS[form]])


def test_gemini_takes_dots() -> None:
    """And no digit at a name's beginning."""
    names = ("weather.get", "2fast", "a:b", "wetter münchen")
    assert other_names(call(*names), "generate") == {
        "2fast": "_2fast",
        "a:b": "a_b",
        "wetter münchen": "wetter_m_nchen",
    }


def test_its_own_format_says_every_name() -> None:
    """Nothing is translated then: whether the server takes it is between the client and its server."""
    assert other_names(call("weather.get"), "chat") == {}


def test_tools_of_a_provider_are_left_alone() -> None:
    """Their names are the provider's own, and no other format has them."""
    opaque = Tool(name="web.search", opaque={"type": "web.search"})
    request = call("a.b", tools=[opaque, Tool(name="a.b")])
    assert other_names(request, "messages") == {"a.b": "a_b"}
    report = Report()
    say(request, "messages", PROVIDERS["anthropic"], "m", report)
    assert "tools[1].name" in report.mapped
    assert "tools[0].name" not in report.mapped


def test_a_tool_that_is_offered_no_more() -> None:
    """Its calls are still in the conversation."""
    report = Report()
    said = orjson.loads(say(call("a.b", tools=[Tool(name="c")]), "messages", PROVIDERS["anthropic"], "m", report))
    assert said["messages"][1]["content"][0]["name"] == "a_b"
    assert "messages.tool_calls" in report.mapped


def test_results_without_a_name() -> None:
    """Chat clients name the call only."""
    turns = [Message(role="tool", parts=[ToolResult(call_id="c1", parts=[Text(text="ok")])])]
    assert other_names(call("a.b", messages=turns), "converse") == {"a.b": "a_b"}


names = st.lists(st.text(alphabet="ab.:-_9ü ", max_size=140), min_size=1, max_size=8, unique=True)


@given(names, st.sampled_from(sorted(LEGAL)))
def test_names_are_legal_different_and_reversible(given_names: list[str], form: Format) -> None:
    """Whatever names the client has."""
    client: Format = "generate" if form == "chat" else "chat"
    made = other_names(call(*given_names, form=client), form)
    sent = [made.get(name, name) for name in given_names]
    assert len(set(sent)) == len(given_names)
    assert all(re.fullmatch(LEGAL[form], name) for name in sent)
    assert all(name != other for name, other in made.items())


def gemini(*called: str) -> bytes:
    parts = [{"functionCall": {"name": name, "args": {}}} for name in called]
    return orjson.dumps(
        {"candidates": [{"content": {"parts": [*parts, {"text": "!"}]}, "finishReason": "STOP"}], "modelVersion": "g"}
    )


def test_the_answer_has_the_clients_names() -> None:
    """Whole: also of a tool whose name another one had to leave free; one that is unknown stays."""
    answer = WholeAnswer(call("a/b", "a_b", "weather.get"), "generate", 200, Report())
    answer.feed(gemini("a_b", "a_b_2", "weather.get", "other"))
    said = orjson.loads(answer.end())["choices"][0]["message"]["tool_calls"]
    assert [one["function"]["name"] for one in said] == ["a_b", "a/b", "weather.get", "other"]


@pytest.mark.parametrize("client", ["chat", "responses", "messages"])
def test_the_stream_has_the_clients_names(client: Format) -> None:
    """In each client's words."""
    answer = StreamedAnswer(call("a/b", form=client, stream=True), "generate", Report())
    out = answer.feed(b"data: " + gemini("a_b") + b"\n\n") + answer.end()
    events = [orjson.loads(event.data) for event in SseParser(1 << 20).feed(out) if event.data != b"[DONE]"]
    assert set(told(events)) == {"a/b"}


def test_a_gemini_client_has_its_dots_again() -> None:
    """From a chat arm, in a stream."""
    answer = StreamedAnswer(call("weather.get", form="generate", stream=True), "chat", Report())
    function = {"name": "weather_get", "arguments": "{}"}
    delta = {"tool_calls": [{"index": 0, "id": "t", "function": function}]}
    chunk = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    end = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    out = b"".join(answer.feed(b"data: " + orjson.dumps(one) + b"\n\n") for one in (chunk, end))
    out += answer.feed(b"data: [DONE]\n\n")
    assert b'"name":"weather.get"' in out
    assert b"weather_get" not in out
