"""Converse's streams: what they say, that they say what a whole answer says, and that nothing wrong in them raises."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.types import Usage
from sidecar.wire.eventstream import EventStreamParser
from sidecar.wire.neutral import (
    AnyPart,
    Close,
    Delta,
    Done,
    Event,
    Mark,
    Opaque,
    Open,
    Ping,
    Start,
    Stopped,
    Text,
    Thinking,
    Told,
    ToolCall,
)
from sidecar.wire.spokes.converse.spoke import SPOKE
from sidecar.wire.sse import SseEvent
from tests.fixtures import said_converse as said

Json = dict[str, Any]
START = SseEvent(b"messageStart", b'{"role":"assistant","p":"abc"}')


def event(kind: str, **body: Any) -> SseEvent:
    return SseEvent(kind.encode(), orjson.dumps(body))


def delta(number: int, **of: Any) -> SseEvent:
    return event("contentBlockDelta", contentBlockIndex=number, delta=of)


def heard(*events: SseEvent) -> list[Event]:
    """What a stream says after its start."""
    reader = SPOKE.stream_reader()
    assert list(reader.feed(START)) == [Start(id="", model="", format="converse")]
    return [one for event in events for one in reader.feed(event)]


def events_of(frames: list[bytes]) -> list[Event]:
    parser, reader = EventStreamParser(1 << 20), SPOKE.stream_reader()
    return [event for data in frames for one in parser.feed(data) for event in reader.feed(one)]


# ---- streams


def test_a_stream() -> None:
    use = {"toolUse": {"toolUseId": "t", "name": "f"}}
    usage = {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}
    assert heard(
        delta(0, reasoningContent={"text": "hm"}),
        delta(0, reasoningContent={"signature": "s"}),
        event("contentBlockStop", contentBlockIndex=0),
        delta(1, text="a"),
        delta(1, text=""),
        delta(1, citation={"title": "t"}),
        event("contentBlockStop", contentBlockIndex=1),
        event("contentBlockStart", contentBlockIndex=2, start=use),
        delta(2, toolUse={"input": '{"a"'}),
        delta(2, toolUse={"input": ":1}"}),
        event("contentBlockStop", contentBlockIndex=2),
        event("messageStop", stopReason="tool_use", additionalModelResponseFields={"stop_sequence": "E", "x": 1}, y=2),
        event("metadata", usage=usage, metrics={"latencyMs": 1}, trace={"g": 1}, serviceTier={"type": "flex"}, p="a"),
    ) == [
        Open(choice=0, index=0, part=Thinking()),
        Delta(choice=0, index=0, text="hm"),
        Mark(choice=0, index=0, signature="s"),
        Close(choice=0, index=0),
        Open(choice=0, index=1, part=Text(text="")),
        Delta(choice=0, index=1, text="a"),
        Mark(choice=0, index=1, extra={"citations": [{"title": "t"}]}),
        Close(choice=0, index=1),
        Open(choice=0, index=2, part=ToolCall(id="t", name="f")),
        Delta(choice=0, index=2, text='{"a"'),
        Delta(choice=0, index=2, text=":1}"),
        Close(choice=0, index=2),
        Stopped(
            choice=0,
            stop="tool_calls",
            stop_sequence="E",
            extra={"additionalModelResponseFields": {"x": 1}, "y": 2},
        ),
        Told(usage=Usage(input_tokens=1, output_tokens=2, service_tier="flex"), said=usage),
        Ping(extra={"trace": {"g": 1}}),
        Done(),
    ]


def test_the_end_is_where_both_were_seen() -> None:
    """Whichever comes first; nothing follows."""
    stop, told = event("messageStop", stopReason="end_turn"), event("metadata", metrics={"latencyMs": 1})
    assert heard(told, stop, stop, told, delta(0, text="a")) == [Stopped(choice=0, stop="stop"), Done()]
    assert heard(stop, stop, delta(0, text="a"), told) == [Stopped(choice=0, stop="stop"), Done()]


def test_a_call_without_input_has_an_empty_object() -> None:
    start = event("contentBlockStart", contentBlockIndex=0, start={"toolUse": {"toolUseId": "t", "name": "f"}})
    opened = Open(choice=0, index=0, part=ToolCall(id="t", name="f"))
    closed = [Delta(choice=0, index=0, text="{}"), Close(choice=0, index=0)]
    assert heard(start, delta(0, toolUse={"input": ""}), event("contentBlockStop", contentBlockIndex=0)) == [
        opened,
        *closed,
    ]
    stop = event("messageStop", stopReason="tool_use")
    assert heard(start, start, stop) == [opened, *closed, Stopped(choice=0, stop="tool_calls")]


def test_calls_overlap_and_nothing_else_does() -> None:
    one, two = (
        event("contentBlockStart", contentBlockIndex=n, start={"toolUse": {"toolUseId": f"t{n}", "name": "f"}})
        for n in (1, 2)
    )
    assert heard(delta(0, text="a"), one, two, delta(2, toolUse={"input": "{}"}), delta(3, text="b")) == [
        Open(choice=0, index=0, part=Text(text="")),
        Delta(choice=0, index=0, text="a"),
        Close(choice=0, index=0),
        Open(choice=0, index=1, part=ToolCall(id="t1", name="f")),
        Open(choice=0, index=2, part=ToolCall(id="t2", name="f")),
        Delta(choice=0, index=2, text="{}"),
        Delta(choice=0, index=1, text="{}"),
        Close(choice=0, index=1),
        Close(choice=0, index=2),
        Open(choice=0, index=3, part=Text(text="")),
        Delta(choice=0, index=3, text="b"),
    ]


def test_thoughts_in_one_block_are_parts_of_their_own() -> None:
    """A block that changes its kind is another part; what is redacted is whole; a signature may stand alone."""
    assert heard(
        delta(0, reasoningContent={"text": "a"}),
        delta(0, reasoningContent={"redactedContent": "QQ=="}),
        delta(0, reasoningContent={"signature": "s"}),
        delta(0, text="b"),
        delta(1, reasoningContent={}),
        event("contentBlockStart", contentBlockIndex=0, start={"toolUse": {"toolUseId": "t", "name": "f"}}),
    ) == [
        Open(choice=0, index=0, part=Thinking()),
        Delta(choice=0, index=0, text="a"),
        Close(choice=0, index=0),
        Open(choice=0, index=1, part=Thinking(redacted="QQ==")),
        Close(choice=0, index=1),
        Open(choice=0, index=2, part=Thinking()),
        Mark(choice=0, index=2, signature="s"),
        Close(choice=0, index=2),
        Open(choice=0, index=3, part=Text(text="")),
        Delta(choice=0, index=3, text="b"),
        Close(choice=0, index=3),
        Open(choice=0, index=4, part=ToolCall(id="t", name="f")),
    ]


def test_a_text_in_the_block_of_a_call_closes_the_call() -> None:
    start = event("contentBlockStart", contentBlockIndex=0, start={"toolUse": {"toolUseId": "t", "name": "f"}})
    second = event("contentBlockStart", contentBlockIndex=1, start={"toolUse": {"toolUseId": "u", "name": "g"}})
    events = heard(start, second, delta(0, reasoningContent={"redactedContent": "QQ=="}))
    assert [type(one) for one in events] == [Open, Open, Delta, Close, Delta, Close, Open, Close]


def test_blocks_without_a_neutral_form() -> None:
    server = {"toolUse": {"type": "server_tool_use", "toolUseId": "t", "name": "web"}}
    result = {"toolResult": {"toolUseId": "t"}}
    assert heard(
        event("contentBlockStart", contentBlockIndex=0, start=server),
        delta(0, toolUse={"input": "{}"}),
        event("contentBlockStop", contentBlockIndex=0),
        event("contentBlockStart", contentBlockIndex=1, start=result),
        delta(1, toolResult=[{"text": "a"}]),
        delta(2, citation={"title": "t"}),
    ) == [
        Open(choice=0, index=0, part=Opaque(value=server)),
        Mark(choice=0, index=0, extra={"delta": {"toolUse": {"input": "{}"}}}),
        Close(choice=0, index=0),
        Open(choice=0, index=1, part=Opaque(value=result)),
        Mark(choice=0, index=1, extra={"delta": {"toolResult": [{"text": "a"}]}}),
        Close(choice=0, index=1),
        Open(choice=0, index=2, part=Text(text="")),
        Mark(choice=0, index=2, extra={"citations": [{"title": "t"}]}),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        START,
        SseEvent(b"contentBlockDelta", b"{"),
        SseEvent(b"contentBlockDelta", b'{"contentBlockIndex":0,"delta":{"image":' + b"[" * 5000),
        SseEvent(b"metadata", b"{"),
        SseEvent(b"messageStop", b"[]"),
        event("messageStop"),
        event("messageStop", stopReason=1),
        event("metadata", usage=1),
        event("later"),
        event("contentBlockStart", contentBlockIndex=0, start={}),
        event("contentBlockStart", contentBlockIndex=0, start={"toolUse": {"name": "f"}}),
        event("contentBlockStart", contentBlockIndex=0, start=1),
        event("contentBlockStart", start={"toolUse": {"toolUseId": "t", "name": "f"}}),
        event("contentBlockStop", contentBlockIndex=7),
        event("contentBlockStop"),
        event("contentBlockDelta", contentBlockIndex=0),
        event("contentBlockDelta", delta={"text": "a"}),
        delta(0, text=1),
        delta(0, toolUse={"input": "a"}),
        delta(0, toolResult=[]),
        delta(0),
        delta(0, reasoningContent={"text": None}),
    ],
)
def test_what_cannot_be_read_is_no_event(wrong: SseEvent) -> None:
    assert heard(wrong) == []


def test_an_unknown_delta_of_a_known_block() -> None:
    wrong = SseEvent(b"contentBlockDelta", b'{"contentBlockIndex":0,"delta":{"x":"\xff"}}')
    opened = heard(delta(0, text="a"))
    assert heard(delta(0, text="a"), wrong, delta(0, x=1)) == [
        *opened,
        Mark(choice=0, index=0, extra={"delta": {"x": 1}}),
    ]


def test_nothing_comes_before_the_start() -> None:
    reader = SPOKE.stream_reader()
    assert list(reader.feed(delta(0, text="a"))) == []


def folded(events: list[Event]) -> list[AnyPart]:
    """The parts that a stream said."""
    parts: dict[int, AnyPart] = {}
    for one in events:
        if isinstance(one, Open):
            parts[one.index] = one.part
        elif isinstance(one, Delta):
            part = parts[one.index]
            if isinstance(part, ToolCall):
                part.arguments += one.text
            else:
                assert isinstance(part, Text | Thinking)
                part.text += one.text
        elif isinstance(one, Mark):
            part = parts[one.index]
            if one.signature is not None:
                assert isinstance(part, Thinking)
                part.signature = one.signature
            for name, value in one.extra.items():
                part.extra[name] = part.extra.get(name, []) + value
    return [parts[index] for index in sorted(parts)]


@settings(max_examples=60)
@given(said.streamed())
def test_a_stream_says_what_a_whole_answer_says(pair: tuple[Json, list[bytes]]) -> None:
    whole, events = SPOKE.read_response(pair[0]), events_of(pair[1])
    choice = whole.choices[0]
    assert folded(events) == choice.parts
    (stopped,) = [one for one in events if isinstance(one, Stopped)]
    assert (stopped.stop, stopped.stop_sequence, stopped.extra) == (choice.stop, choice.stop_sequence, choice.extra)
    assert [one.usage for one in events if isinstance(one, Told)] == [whole.usage]
    assert [one.extra for one in events if isinstance(one, Ping)] == ([whole.extra] if whole.extra else [])
    assert isinstance(events[0], Start)
    assert isinstance(events[-1], Done)


@settings(max_examples=30)
@given(said.streams(), st.integers(1, 200))
def test_a_stream_may_be_cut_anywhere(frames: list[bytes], size: int) -> None:
    data = b"".join(frames)
    assert events_of([data[at : at + size] for at in range(0, len(data), size)]) == events_of(frames)


def spoilt(value: Any, draw: st.DataObject) -> Any:
    """The value with one thing in it replaced."""
    if isinstance(value, dict) and value and draw.draw(st.integers(0, 5)):
        name = draw.draw(st.sampled_from(sorted(value)))
        return {**value, name: spoilt(value[name], draw)}
    if isinstance(value, list) and value and draw.draw(st.integers(0, 5)):
        at = draw.draw(st.integers(0, len(value) - 1))
        return [*value[:at], spoilt(value[at], draw), *value[at + 1 :]]
    return draw.draw(st.sampled_from([None, True, 0, -1, 1e300, 2**63 - 1, "", "x", [], {}, [{}], [[]], {"text": "t"}]))


@settings(max_examples=60)
@given(said.streams(), st.data())
def test_a_wrong_stream_never_raises(frames: list[bytes], data: st.DataObject) -> None:
    reader = SPOKE.stream_reader()
    opened: set[int] = set()
    for one in EventStreamParser(1 << 20).feed(b"".join(frames)):
        body = spoilt(orjson.loads(one.data), data)
        for event in reader.feed(SseEvent(one.name, orjson.dumps(body))):
            if isinstance(event, Open):
                opened.add(event.index)
            elif isinstance(event, Delta | Mark | Close):
                assert event.index in opened
