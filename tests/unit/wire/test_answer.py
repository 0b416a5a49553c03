"""What an answer said is the same streamed and whole, in every dialect, and never more than 64 KiB of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.types import Endpoint
from sidecar.wire.answer import MAX_BYTES, Call, Collector, Said, read_answer
from sidecar.wire.meter import make_meter

WEATHER = Call("weather", '{"city":"Bern"}')


def whole(endpoint: Endpoint, body: Any) -> Said | None:
    text = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    return read_answer(text, endpoint)


def streamed(endpoint: Endpoint, *events: Any) -> Said | None:
    collector = Collector(endpoint)
    for event in events:
        collector.event(event if isinstance(event, bytes) else json.dumps(event, separators=(",", ":")).encode())
    return collector.said()


def chat(**message: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message}]}


def delta(choice: int = 0, **members: Any) -> dict[str, Any]:
    return {"choices": [{"index": choice, "delta": members}]}


def called(arguments: str, name: str | None = None, index: int | None = 0) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": arguments} | ({} if name is None else {"name": name})
    return {"tool_calls": [{"function": function} | ({} if index is None else {"index": index})]}


def test_chat_texts() -> None:
    """Streamed or whole: the text of each choice, without reasoning and refusals."""
    assert whole("chat", chat(content="hello", reasoning_content="hm")) == Said(("hello",))
    pieces = [delta(role="assistant", content=""), delta(reasoning="hm"), delta(content="hel"), delta(content="lo")]
    assert streamed("chat", *pieces, b"[DONE]") == Said(("hello",))
    two = [delta(1, content="b"), delta(0, content="a"), delta(1, content="c")]
    assert streamed("chat", *two) == Said(("a", "bc"))
    assert whole("chat", chat(content=None, refusal="no")) == Said()
    assert whole("chat", {"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}) == Said(
        ("a", "b")
    )


def test_chat_parts() -> None:
    """Mistral's content is a list where the model thinks: its texts are what is said."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [thought, {"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert whole("chat", chat(content=parts)) == streamed("chat", delta(content=parts)) == Said(("hello",))


def test_chat_calls() -> None:
    """A call's arguments are the pieces in order; calls of several places and choices are told apart."""
    first, second = called('{"city":', "weather"), called('"Bern"}')
    assert streamed("chat", delta(content=None, **first), delta(**second)) == Said((), (WEATHER,))
    parallel = [delta(**called("{}", "a", 0)), delta(**called("{}", "b", 1)), delta(**called(" ", None, 0))]
    assert streamed("chat", *parallel) == Said((), (Call("a", "{} "), Call("b", "{}")))
    assert whole("chat", chat(**called(WEATHER.arguments, "weather", None))) == Said((), (WEATHER,))
    assert whole("chat", chat(function_call={"name": "weather", "arguments": WEATHER.arguments})) == Said(
        (), (WEATHER,)
    )
    assert whole("chat", chat(tool_calls=[{"custom": {"input": "x"}}])) == Said()
    objects = [
        {"function": {"name": "weather", "arguments": {"city": "Bern"}}},
        {"function": {"name": "b", "arguments": None}},
    ]
    assert whole("chat", chat(tool_calls=objects)) == Said((), (WEATHER, Call("b", ""))), "some servers send no text"


def test_chat_calls_that_share_an_index() -> None:
    """Gemini's compatible endpoint gives all calls of a stream index 0, in older versions with an empty id."""
    both = Said((), (WEATHER, Call("b", '{"x":1}')))

    def piece(arguments: str, name: str | None, call_id: str | None) -> dict[str, Any]:
        (call,) = called(arguments, name)["tool_calls"]
        return delta(tool_calls=[call | {"id": call_id}])

    for first, second in (("c", "d"), ("", "")):
        events = [piece(WEATHER.arguments, "weather", first), piece('{"x":1}', "b", second)]
        assert streamed("chat", *events) == both
    pieces = [piece(WEATHER.arguments, "weather", "c"), piece('{"x":', "b", "d"), piece("1}", None, None)]
    assert streamed("chat", *pieces) == both
    repeated = [piece('{"city":', "weather", "c"), piece('"Bern"}', "weather", "c")]
    assert streamed("chat", *repeated) == Said((), (WEATHER,))
    late = [piece('{"city":', "weather", None), piece('"Bern"}', "weather", "c")]
    assert streamed("chat", *late) == Said((), (WEATHER,))
    nameless = [piece('{"city":', "weather", ""), piece('"Bern"}', "weather", "")]
    assert streamed("chat", *nameless) == Said((), (WEATHER,)), "what is no object yet goes on"


def test_chat_calls_without_an_index() -> None:
    """Servers that leave it out: a name begins a new call, what has none goes on with the last."""
    events = [delta(**called("{", "a", None)), delta(**called("}", None, None)), delta(**called("{}", "b", None))]
    assert streamed("chat", *events) == Said((), (Call("a", "{}"), Call("b", "{}")))
    assert streamed("chat", delta(**called("{}", None, None))) == Said((), (Call("", "{}"),))


def test_completions() -> None:
    """The text of each choice."""
    assert whole("completions", {"choices": [{"text": "a", "index": 0}]}) == Said(("a",))
    assert streamed("completions", {"choices": [{"text": "a"}]}, {"choices": [{"text": "b"}]}, {}) == Said(("ab",))


MESSAGE = {
    "type": "message",
    "content": [{"type": "output_text", "text": "hi"}, {"type": "refusal", "refusal": "no"}],
}
CALL = {"type": "function_call", "name": "weather", "arguments": WEATHER.arguments}


def test_responses() -> None:
    """Whole items, from the body or from their `done` events; reasoning and the server's own calls are left out."""
    output = [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}, MESSAGE, CALL, CALL]
    want = Said(("hi",), (WEATHER, WEATHER))
    assert whole("responses", {"output": [*output, {"type": "message"}, {"type": "web_search_call"}]}) == want
    events = [{"type": "response.output_item.done", "item": item} for item in output]
    noise = [{"type": "response.output_text.delta", "delta": "hi"}, {"type": "response.output_item.done"}]
    assert streamed("responses", *noise, *events, {"type": "response.completed"}) == want
    assert streamed("responses", *noise) is None, "an answer whose items never came is not known"
    last = {"type": "response.completed", "response": {"output": output}}
    assert streamed("responses", *noise, last) == want, "some servers have them in the last event only"
    assert streamed("responses", *events, last) == want
    assert streamed("responses", {"type": "response.incomplete", "response": {"id": "r"}}) is None
    assert whole("responses", {"output": [{"type": "function_call"}]}) == Said((), (Call("", ""),))


def test_anthropic() -> None:
    """Text blocks are one text; the input of a tool comes whole or in pieces; server tools are not ours to judge."""
    blocks = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "a"},
        {"type": "tool_use", "name": "weather", "input": {"city": "Bern"}},
        {"type": "server_tool_use", "name": "web_search", "input": {"query": "x"}},
        {"type": "text", "text": "b"},
    ]
    assert whole("messages", {"content": blocks}) == Said(("ab",), (WEATHER,))

    def begin(index: int, **block: Any) -> dict[str, Any]:
        return {"type": "content_block_start", "index": index, "content_block": block}

    def piece(index: int, **members: Any) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": index, "delta": members}

    events = [
        {"type": "message_start", "message": {"id": "m"}},
        begin(0, type="text", text=""),
        piece(0, text="a"),
        piece(0, text="b"),
        begin(1, type="tool_use", name="weather", input={}),
        piece(1, partial_json='{"city":'),
        piece(1, partial_json='"Bern"}'),
        begin(2, type="server_tool_use", name="web_search", input={}),
        piece(2, partial_json='{"query":"x"}'),
        {"type": "message_stop"},
    ]
    assert streamed("messages", *events) == Said(("ab",), (WEATHER,))
    assert whole("messages", {"content": [{"type": "tool_use"}]}) == Said((), (Call("", ""),))
    assert streamed("messages", {"type": "content_block_start"}, {"type": "content_block_delta"}) == Said()


def test_gemini() -> None:
    """Parts without thoughts; calls come whole; a stream may be one JSON array."""
    parts = [{"text": "hm", "thought": True}, {"text": "a"}]
    call = {"functionCall": {"name": "weather", "args": {"city": "Bern"}}}
    first = {"candidates": [{"content": {"parts": parts}}]}
    second = {"candidates": [{"content": {"parts": [{"text": "b"}, call]}}]}
    want = Said(("ab",), (WEATHER,))
    assert streamed("generate", first, second, {"usageMetadata": {}}) == want
    assert whole("generate", [first, second]) == want
    assert whole("generate", {"candidates": [{"finishReason": "SAFETY"}]}) == Said()
    assert whole("generate", {"candidates": [{"content": {"parts": [{"functionCall": {}}]}}]}) == Said(
        (), (Call("", ""),)
    )


@pytest.mark.parametrize("endpoint", ["chat", "responses", "messages", "generate", "other"])
@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", b"7"])
def test_what_cannot_be_read_is_unknown(endpoint: Endpoint, body: bytes) -> None:
    """Neither good nor bad: nothing is known of it."""
    assert whole(endpoint, body) is None
    assert streamed(endpoint, body) is None


def test_a_long_answer_is_unknown() -> None:
    """64 KiB of one answer are kept, in any pieces; beyond that all of it is forgotten."""
    assert whole("chat", chat(content="x" * (MAX_BYTES - 1))) == Said(("x" * (MAX_BYTES - 1),))
    assert whole("chat", chat(content="x" * MAX_BYTES)) is None
    pieces = [delta(content="x" * 1000) for _ in range(70)]
    assert streamed("chat", *pieces) is None
    assert streamed("chat", *[delta(**called("x" * 1000, "a")) for _ in range(70)], delta(content="y")) is None
    both = chat(content="x" * MAX_BYTES, **called("{}", "a"))
    assert whole("chat", both) is None, "nothing that comes later brings it back"


def test_an_answer_of_many_parts_is_unknown() -> None:
    """256 choices, or calls, are more than anybody asks for."""
    assert whole("chat", {"choices": [{"text": "x"} for _ in range(257)]}) is None
    assert whole("responses", {"output": [CALL for _ in range(257)]}) is None
    assert whole("responses", {"output": [CALL for _ in range(256)]}) is not None


def test_a_lost_event_makes_it_unknown() -> None:
    """An event too large for the meter was not seen: what is left is not the answer."""
    collector = Collector("chat")
    meter = make_meter("chat", "openai", event_stream=True, max_bytes=200, collector=collector)
    meter.feed(b"data: " + json.dumps(delta(content="a")).encode() + b"\n\n", 1.0)
    assert collector.said() == Said(("a",))
    meter.feed(b"data: " + json.dumps(delta(content="b" * 300)).encode() + b"\n\n", 1.0)
    meter.finish()
    assert collector.said() is None


def test_a_whole_body_goes_through_the_meter() -> None:
    """It is collected once the meter has all of it; one that is too large for the meter is unknown."""
    body = json.dumps(chat(content="hello")).encode()
    for limit, want in ((1000, Said(("hello",))), (10, None)):
        collector = Collector("chat")
        meter = make_meter("chat", "openai", event_stream=False, max_bytes=limit, collector=collector)
        for at in range(0, len(body), 7):
            meter.feed(body[at : at + 7], 1.0)
        meter.finish()
        assert collector.said() == want


@given(st.lists(st.text(max_size=5), max_size=20), st.integers(1, 64))
def test_a_stream_says_what_its_body_says(pieces: list[str], cut: int) -> None:
    """However the text is cut into events, and the events into reads."""
    events = b"".join(b"data: " + json.dumps(delta(content=piece)).encode() + b"\n\n" for piece in pieces)
    collector = Collector("chat")
    meter = make_meter("chat", "openai", event_stream=True, max_bytes=10_000, collector=collector)
    for at in range(0, len(events), cut):
        meter.feed(events[at : at + cut], 1.0)
    meter.finish()
    assert collector.said() == (whole("chat", chat(content="".join(pieces))) if pieces else None)
