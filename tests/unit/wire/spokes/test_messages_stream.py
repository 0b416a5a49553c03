"""Streams of the Messages API: what each event means, and how other formats' streams are told."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from anthropic.lib.streaming._messages import accumulate_event

from sidecar.core.types import Usage
from sidecar.wire.neutral import (
    Close,
    Delta,
    Done,
    Event,
    Failed,
    Mark,
    Media,
    Opaque,
    Open,
    Ping,
    Problem,
    Refusal,
    Report,
    Request,
    Start,
    Stopped,
    Text,
    Thinking,
    TokenLogprob,
    Told,
    ToolCall,
)
from sidecar.wire.spokes.messages.answer import read_response
from sidecar.wire.spokes.messages.request import read_request, write_request
from sidecar.wire.spokes.messages.stream import Reader
from sidecar.wire.spokes.messages.writer import Writer
from sidecar.wire.sse import SseEvent, SseParser
from tests.fixtures.grammar_messages import check
from tests.fixtures.said_messages import event
from tests.unit.wire.recordings import load, names

ASKED = Request(format="messages", model="asked", messages=[])
START = event("message_start", message={"id": "m1", "model": "m", "usage": {"input_tokens": 5, "output_tokens": 1}})
STOP = event("message_stop")
OPENED = Start(id="c1", model="m", format="chat")


def read(*chunks: bytes) -> list[Event]:
    """The events, without message_start's."""
    parser, reader = SseParser(), Reader()
    return [one for chunk in (START, *chunks) for sse in parser.feed(chunk) for one in reader.feed(sse)][1:]


def begin(number: int, **block: Any) -> bytes:
    return event("content_block_start", index=number, content_block=block)


def more(number: int, kind: str, **members: Any) -> bytes:
    return event("content_block_delta", index=number, delta={"type": kind, **members})


def end(number: int) -> bytes:
    return event("content_block_stop", index=number)


def ended(reason: str | None = "end_turn", usage: Any = None, **members: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": reason, "stop_sequence": None, **members}, usage=usage)


# ---- reading


def test_the_start() -> None:
    usage = {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 1, "service_tier": "batch"}
    message = {"id": "m1", "model": "m", "type": "message", "content": [], "usage": usage, "container": None, "x": 1}
    parser, reader = SseParser(), Reader()
    (start,) = [one for sse in parser.feed(event("message_start", message=message)) for one in reader.feed(sse)]
    assert start == Start(
        id="m1",
        model="m",
        usage=Usage(input_tokens=7, cached_input_tokens=2, output_tokens=1, service_tier="batch"),
        said=usage,
        service_tier="batch",
        format="messages",
        extra={"x": 1},
    )
    bare = Reader().feed(SseEvent(b"message_start", b'{"type":"message_start","message":{}}'))
    assert bare == (Start(id="", model="", format="messages"),)


def test_the_largest_count_of_each_field_holds() -> None:
    """message_delta may leave out, or zero, what message_start said; nothing is added up."""
    told, stopped = read(ended(usage={"input_tokens": 0, "output_tokens": 9, "cache_read_input_tokens": 4}))
    assert isinstance(told, Told)
    assert told.usage == Usage(input_tokens=9, output_tokens=9, cached_input_tokens=4)
    assert stopped == Stopped(choice=0, stop="stop")


def test_counts_may_come_several_times() -> None:
    events = read(ended(None, {"output_tokens": 3}), ended(usage={"output_tokens": 4}), ended("max_tokens"), STOP)
    assert [type(one) for one in events] == [Told, Told, Stopped, Done]


def test_inputs_whole_empty_and_in_pieces() -> None:
    """Some servers say the input in content_block_start; an input that never comes is an empty object."""
    call = {"type": "tool_use", "id": "t", "name": "f"}
    for start, deltas, texts in (
        ({**call, "input": {"a": 1}}, [], ['{"a":1}']),
        ({**call, "input": {}}, [""], ["{}"]),
        (call, ["", '{"a"', ":1}"], ['{"a"', ":1}"]),
    ):
        pieces = [more(0, "input_json_delta", partial_json=text) for text in deltas]
        events = read(begin(0, **start), *pieces, end(0))
        assert events[0] == Open(choice=0, index=0, part=ToolCall(id="t", name="f"))
        assert events[1:-1] == [Delta(choice=0, index=0, text=text) for text in texts]


def test_thoughts_and_their_signature() -> None:
    begun = begin(0, type="thinking", thinking="a", signature="sidecar:chat:s")
    events = read(begun, more(0, "signature_delta", signature=""), more(0, "signature_delta", signature="z"))
    assert events == [
        Open(choice=0, index=0, part=Thinking()),
        Delta(choice=0, index=0, text="a"),
        Mark(choice=0, index=0, signature="s", origin="chat"),
        Mark(choice=0, index=0, signature="z"),
    ]


def test_deltas_that_do_not_fit() -> None:
    """Of another block, of no block, of another type of block, empty or broken: no event."""
    wrong = [
        more(0, "input_json_delta", partial_json="{}"),
        more(0, "signature_delta", signature="s"),
        more(0, "citations_delta"),
        more(5, "text_delta", text="a"),
        more(0, "text_delta", text=""),
        event("content_block_delta", index=0),
        event("content_block_delta", delta={"type": "text_delta"}),
        begin(0, type="text", text="again"),
        b'event: content_block_start\ndata: {"type":"content_block_start","content_block":{}}\n\n',
        b"event: content_block_delta\ndata: {\n\n",
        b"event: unknown\ndata: {}\n\n",
        b'event: unknown\ndata: {"type":"unknown","error":null}\n\n',
        b"data: [\n\n",
        end(7),
        START,
        event("message_start"),
    ]
    assert read(begin(0, type="text", text=""), *wrong) == [Open(choice=0, index=0, part=Text(text=""))]


def test_deltas_that_only_this_format_knows() -> None:
    later = {"type": "later_delta", "x": 1}
    server = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    events = read(
        begin(0, **server), more(0, "input_json_delta", partial_json="{"), more(0, "later_delta", x=1), end(0)
    )
    assert events[0] == Open(choice=0, index=0, part=Opaque(value=server))
    assert events[2] == Mark(choice=0, index=0, extra={"delta": later})
    assert read(begin(0, type="text", text=""), more(0, "later_delta", x=1))[1:] == [
        Mark(choice=0, index=0, extra={"delta": later})
    ]


def test_a_block_that_was_not_closed() -> None:
    """It is closed when the next one begins, or at the end; calls may overlap."""
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    events = read(begin(0, type="text", text=""), begin(1, **call), begin(2, **call), end(1), begin(3, **call), ended())
    kinds = [(type(one).__name__, getattr(one, "index", None)) for one in events]
    assert kinds == [
        ("Open", 0), ("Close", 0), ("Open", 1), ("Open", 2), ("Delta", 1), ("Close", 1), ("Open", 3),
        ("Delta", 2), ("Close", 2), ("Delta", 3), ("Close", 3), ("Stopped", None),
    ]  # fmt: skip
    assert [type(one) for one in read(begin(0, type="text", text=""), STOP)] == [Open, Close, Done]


def test_events_without_names() -> None:
    whole = b"".join([begin(0, type="text", text="a"), more(0, "text_delta", text="b"), end(0), ended(), STOP])
    bare = [b"data: %b\n\n" % part.partition(b"data: ")[2] for part in whole.split(b"\n\n") if part]
    assert read(*bare) == read(whole)


def test_errors_and_what_comes_after() -> None:
    failed = event("error", error={"type": "overloaded_error", "message": "Busy"})
    (problem,) = read(failed, begin(0, type="text", text="a"), more(0, "text_delta", text="b"), STOP)
    assert isinstance(problem, Failed)
    assert (problem.problem.status, problem.problem.kind, problem.problem.message) == (529, "overloaded", "Busy")
    (odd,) = read(b'data: {"error":{"message":"m","code":500}}\n\n')
    assert isinstance(odd, Failed)
    assert read(STOP, ended(), event("ping")) == [Done()]


def test_nothing_before_the_start() -> None:
    reader = Reader()
    assert reader.feed(SseEvent(b"message_stop", b'{"type":"message_stop"}')) == ()
    assert reader.feed(SseEvent(b"ping", b"{}")) == (Ping(),)


# ---- writing


def tell(*events: Event) -> tuple[list[SseEvent], list[str], list[str]]:
    report = Report()
    writer = Writer(ASKED, report)
    out = SseParser().feed(b"".join([writer.feed(one) for one in events]))
    check(out, whole=isinstance(events[-1], Done | Failed))
    return out, report.lost, report.mapped


def accumulated(events: list[SseEvent]) -> Any:
    """The message as the SDK builds it."""
    snapshot, buffers = None, {}
    for one in events:
        if one.name not in (b"ping", b"error"):
            snapshot = accumulate_event(event=orjson.loads(one.data), current_snapshot=snapshot, json_bufs=buffers)
    return snapshot


def opened(index: int, part: Any) -> Open:
    return Open(choice=0, index=index, part=part)


def test_a_stream_of_another_format() -> None:
    out, lost, mapped = tell(
        Start(id="c1", model="", format="chat", usage=Usage(input_tokens=4), service_tier="default", extra={"x": 1}),
        opened(0, Thinking()),
        Delta(choice=0, index=0, text="Hm"),
        Mark(choice=0, index=0, signature="s"),
        Close(choice=0, index=0),
        opened(1, Text(text="")),
        Delta(choice=0, index=1, text="", logprobs=[TokenLogprob(token="a", logprob=-1)]),
        Delta(choice=0, index=1, text="Hi", logprobs=[]),
        Mark(choice=0, index=1, signature="g", extra={"annotations": [1], "empty": []}),
        Mark(choice=0, index=1, extra={"annotations": [2]}),
        Ping(extra={"padding": "a"}),
        Close(choice=0, index=1),
        opened(2, Media(kind="image")),
        Delta(choice=0, index=2, text="?"),
        Mark(choice=0, index=2, signature="?"),
        Close(choice=0, index=2),
        opened(3, ToolCall(id="t", name="f")),
        Delta(choice=0, index=3, text='{"a":1}'),
        Close(choice=0, index=3),
        Open(choice=1, index=0, part=Text(text="")),
        Delta(choice=1, index=0, text="x"),
        Mark(choice=1, index=0),
        Close(choice=1, index=0),
        Stopped(choice=0, stop="stop", extra={"native": "eos"}),
        Stopped(choice=1, stop="length"),
        Told(usage=Usage(input_tokens=10, cached_input_tokens=4, output_tokens=3, reasoning_tokens=1)),
        Done(),
    )
    message = accumulated(out)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert (message.content[0].thinking, message.content[0].signature) == ("Hm", "sidecar:chat:s")
    assert (message.content[1].text, message.content[2].input) == ("Hi", {"a": 1})
    assert (message.model, message.stop_reason) == ("asked", "tool_use")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (6, 4, 3)
    assert usage.service_tier == "standard"
    assert lost == [
        "x", "choices[0].logprobs", "content[1].signature", "content[1].annotations", "padding", "content[2]",
        "choices[1]", "choices[0].native",
    ]  # fmt: skip
    assert mapped == []


def test_overlapping_calls_wait() -> None:
    """Blocks never overlap: the second call is told when the first one closes, the third, closed before, right after it."""
    writer = Writer(ASKED, Report())
    before = [writer.feed(one) for one in (OPENED, opened(0, ToolCall(id="a", name="f")))]
    assert all(before)
    waiting = [
        opened(1, ToolCall(id="b", name="g")),
        opened(2, ToolCall(id="c", name="h")),
        Delta(choice=0, index=2, text='{"c":3}'),
        Delta(choice=0, index=1, text='{"b"'),
        Close(choice=0, index=2),
    ]
    assert [writer.feed(one) for one in waiting] == [b""] * 5
    assert writer.feed(Delta(choice=0, index=0, text="{}")) != b""
    flushed = SseParser().feed(writer.feed(Close(choice=0, index=0)))
    assert [orjson.loads(one.data)["index"] for one in flushed] == [0, 1, 1]
    rest = [
        Delta(choice=0, index=1, text=":2}"),
        Close(choice=0, index=1),
        Stopped(choice=0, stop="tool_calls"),
        Done(),
    ]
    out, _, _ = tell(OPENED, opened(0, ToolCall(id="a", name="f")), *waiting, Close(choice=0, index=0), *rest)
    assert [block.input for block in accumulated(out).content] == [{}, {"b": 2}, {"c": 3}]


def test_free_text_arguments_become_an_object() -> None:
    call = ToolCall(id="t", name="f", custom=True)
    deltas = [Delta(choice=0, index=0, text=text) for text in ('say "', '\n"')]
    out, _, mapped = tell(OPENED, opened(0, call), *deltas, Close(choice=0, index=0), Done())
    assert accumulated(out).content[0].input == {"arguments": 'say "\n"'}
    assert mapped == ["content[0].arguments"]


def test_a_refusal_is_a_text() -> None:
    out, _, mapped = tell(OPENED, opened(0, Refusal(text="")), Delta(choice=0, index=0, text="No"), Done())
    message = accumulated(out)
    assert (message.content[0].text, message.stop_reason, mapped) == ("No", "refusal", ["content[0]"])


def test_an_end_without_a_stop_and_an_error() -> None:
    assert accumulated(tell(OPENED, Done())[0]).stop_reason == "end_turn"
    out, _, _ = tell(OPENED, Failed(problem=Problem(status=529, kind="overloaded", message="Busy")))
    assert orjson.loads(out[-1].data) == {"type": "error", "error": {"type": "overloaded_error", "message": "Busy"}}
    assert Writer(ASKED, Report()).feed(Event()) == b""


def test_thoughts_whose_maker_nobody_knows_are_not_signed() -> None:
    start = Start(id="c1", model="m")
    out, _, _ = tell(start, opened(0, Thinking()), Mark(choice=0, index=0, signature="s"), Done())
    assert accumulated(out).content[0].signature == ""


def test_a_stream_of_the_same_format() -> None:
    """Citations, deltas and members that only this format has are said again."""
    extras: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"citations": [{"a": 1}, {"b": 2}]}, {"type": "citations_delta", "citation": {"a": 1}}),
        ({"delta": {"type": "later"}}, {"type": "later"}),
    ]
    for extra, first in extras:
        out, lost, _ = tell(
            Start(id="m1", model="m", format="messages", usage=Usage(input_tokens=3), extra={"container": 1}),
            opened(0, Text(text="", extra={"x": 1})),
            Mark(choice=0, index=0, extra=extra),
            Close(choice=0, index=0),
            opened(1, Opaque(value={"type": "server_tool_use"})),
            Stopped(choice=0, stop="stop", extra={"stop_reason": "compaction", "y": 1, "message_delta": {"z": 1}}),
            Done(),
        )
        bodies = [orjson.loads(one.data) for one in out]
        assert bodies[0]["message"]["container"] == 1
        assert bodies[1]["content_block"] == {"type": "text", "text": "", "x": 1}
        assert bodies[2]["delta"] == first
        assert bodies[-2]["delta"] == {"stop_reason": "compaction", "stop_sequence": None, "y": 1}
        assert bodies[-2]["z"] == 1
        assert lost == []


def test_a_block_that_does_not_grow_takes_no_text() -> None:
    secret = Thinking(redacted="r", origin="messages")
    out, _, _ = tell(OPENED, opened(0, secret), Delta(choice=0, index=0, text="a"), Close(choice=0, index=0), Done())
    assert [one.name for one in out if one.name == b"content_block_delta"] == []
    assert accumulated(out).content[0].data == "r"


def test_what_else_message_delta_says_is_kept() -> None:
    (stopped,) = read(event("message_delta", delta={"stop_reason": "later", "y": 1}, z=2))
    assert stopped == Stopped(choice=0, stop="stop", extra={"stop_reason": "later", "y": 1, "message_delta": {"z": 2}})


def test_citations_are_marks() -> None:
    events = read(begin(0, type="text", text=""), more(0, "citations_delta", citation={"a": 1}))
    assert events[1:] == [Mark(choice=0, index=0, extra={"citations": [{"a": 1}]})]


def test_own_counts_after_the_stop() -> None:
    """They are told once more, each count the largest."""
    said = [{"output_tokens": 5, "input_tokens": 3}, {"output_tokens": 7, "input_tokens": None}, {"input_tokens": 2}]
    out, _, _ = tell(
        Start(id="m1", model="m", format="messages"),
        *[Told(usage=Usage(), said=one) for one in said[:1]],
        Stopped(choice=0, stop="stop"),
        *[Told(usage=Usage(), said=one) for one in said[1:]],
        Done(),
    )
    assert [one.name for one in out] == [b"message_start", b"message_delta", b"message_delta", b"message_stop"]
    assert orjson.loads(out[2].data)["usage"] == {"output_tokens": 7, "input_tokens": 3}


# ---- recorded


def test_recorded_streams(shared: Path) -> None:
    """Each stream of the Messages API that a real server sent passes the grammar once it was read and written."""
    seen = 0
    for name in names(shared):
        recording = load(shared, name)
        if recording.endpoint != "messages" or not recording.stream:
            continue
        parser, reader = SseParser(), Reader()
        events = [one for chunk in recording.reads for sse in parser.feed(chunk) for one in reader.feed(sse)]
        assert isinstance(events[-1], Done), name
        report = Report()
        writer = Writer(ASKED, report)
        out = SseParser().feed(b"".join([writer.feed(one) for one in events]))
        check(out)
        assert (report.lost, report.mapped) == ([], []), name
        again = Reader()
        assert [one for sse in out for one in again.feed(sse)] == events, name
        seen += 1
    assert seen >= 5


def test_recorded_requests_and_answers(shared: Path) -> None:
    seen = 0
    for name in names(shared):
        recording = load(shared, name)
        if recording.endpoint != "messages" or recording.status != 200:
            continue
        body = orjson.loads(recording.request)
        report = Report()
        assert write_request(read_request(body), report) == {k: v for k, v in body.items() if v is not None}, name
        assert (report.lost, report.mapped) == ([], []), name
        if not recording.stream:
            answer = orjson.loads(recording.body)
            assert read_response(answer).choices[0].stop is not None, name
        seen += 1
    counted = orjson.loads(load(shared, "messages_count_tokens").request)
    assert write_request(read_request(counted), Report()) == counted
    assert seen >= 10


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        ([STOP], "message_stop comes before message_start"),
        ([START], "message_start is no message"),
        ([event("ping")], "the stream ends without"),
        ([event("error", error={"type": "a", "message": "b"}), STOP], "message_stop comes after the end"),
    ],
)
def test_the_grammar_tells_faults(events: list[bytes], fault: str) -> None:
    started = events
    if fault == "message_start is no message":
        message = {"id": "a", "model": "m", "type": "message", "role": "user", "content": [], "stop_reason": None}
        started = [event("message_start", message=message)]
    with pytest.raises(AssertionError, match=fault):
        check(SseParser().feed(b"".join(started)))
