"""The Messages API: what was read is written again, whatever it says; hostile bodies give errors that say where."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import TranslationError
from sidecar.wire.neutral import Event, Report, Request
from sidecar.wire.spokes.messages.request import read_request, write_request
from sidecar.wire.spokes.messages.spoke import SPOKE
from sidecar.wire.spokes.messages.stream import Reader
from sidecar.wire.spokes.messages.writer import Writer
from sidecar.wire.sse import SseEvent, SseParser
from tests.fixtures import said_messages as said
from tests.fixtures.grammar_messages import check

Read = TypeVar("Read")
ASKED = Request(format="messages", model="claude-haiku-4-5", messages=[])


def rewritten(body: dict[str, Any]) -> dict[str, Any]:
    report = Report()
    again = write_request(read_request(body), report)
    assert (report.lost, report.mapped) == ([], [])
    return again


def events_of(chunks: list[bytes]) -> list[Event]:
    parser, reader = SseParser(), Reader()
    return [event for chunk in chunks for one in parser.feed(chunk) for event in reader.feed(one)]


def written(events: list[Event]) -> list[SseEvent]:
    report = Report()
    writer = Writer(ASKED, report)
    out = SseParser().feed(b"".join([writer.feed(event) for event in events]))
    assert (report.lost, report.mapped) == ([], [])
    return out


@settings(max_examples=60)
@given(said.requests())
def test_a_request_survives(body: dict[str, Any]) -> None:
    """What the API can say is said again, and nothing is reported."""
    before = copy.deepcopy(body)
    assert rewritten(body) == said.canonical(body)
    assert body == before


@settings(max_examples=60)
@given(said.responses())
def test_an_answer_survives(body: dict[str, Any]) -> None:
    report = Report()
    assert SPOKE.write_response is not None
    again = SPOKE.write_response(SPOKE.read_response(body), ASKED, report)
    assert again == said.canonical(body) | {"content": [said.canonical([block])[0] for block in body["content"]]}
    assert (report.lost, report.mapped) == ([], [])


@settings(max_examples=60)
@given(said.streams(), st.integers(1, 200))
def test_a_stream_survives(chunks: list[bytes], size: int) -> None:
    """Written and read again, the events are the same; the written stream has the grammar, however the bytes were cut."""
    events = events_of(chunks)
    whole = b"".join(chunks)
    assert events_of([whole[at : at + size] for at in range(0, len(whole), size)]) == events
    again = written(events)
    check(again)
    reader = Reader()
    assert [event for one in again for event in reader.feed(one)] == events


def spoilt(value: Any, draw: st.DataObject) -> Any:
    """The value with one thing in it replaced."""
    if isinstance(value, dict) and value and draw.draw(st.integers(0, 5)):
        name = draw.draw(st.sampled_from(sorted(value)))
        return {**value, name: spoilt(value[name], draw)}
    if isinstance(value, list) and value and draw.draw(st.integers(0, 5)):
        at = draw.draw(st.integers(0, len(value) - 1))
        return [*value[:at], spoilt(value[at], draw), *value[at + 1 :]]
    return draw.draw(
        st.sampled_from([None, True, 0, -1, 1e300, 2**63 - 1, "", "x", [], {}, [{}], [[]], {"type": "text"}])
    )


def tried(read: Callable[[Any], Read], body: Any) -> Read | None:
    """What was read; None where it was refused with a path, the only exception that may come."""
    try:
        return read(body)
    except TranslationError as error:
        message = str(error)
    assert "expected" in message
    return None


@settings(max_examples=60)
@given(said.requests(), st.data())
def test_a_wrong_request_gives_an_error_that_says_where(body: dict[str, Any], data: st.DataObject) -> None:
    """Either it is refused, or it can be written."""
    request = tried(read_request, spoilt(body, data))
    if request is not None:
        orjson.dumps(write_request(request, Report()))
        request.format = "chat"
        orjson.dumps(write_request(request, Report()))


@settings(max_examples=60)
@given(said.responses(), st.data())
def test_a_wrong_answer_gives_an_error(body: dict[str, Any], data: st.DataObject) -> None:
    assert SPOKE.write_response is not None
    answer = tried(SPOKE.read_response, spoilt(body, data))
    if answer is not None:
        orjson.dumps(SPOKE.write_response(answer, ASKED, Report()))


@settings(max_examples=60)
@given(said.streams(), st.data())
def test_a_wrong_stream_stays_in_the_grammar(chunks: list[bytes], data: st.DataObject) -> None:
    """An event that cannot be read is none; what is written keeps the grammar, and may lack its end."""
    at = data.draw(st.integers(0, len(chunks) - 1))
    name, _, text = chunks[at].partition(b"\ndata: ")
    spoil = orjson.dumps(spoilt(orjson.loads(text), data))
    if data.draw(st.booleans()):
        chunks.insert(at, chunks[data.draw(st.integers(0, len(chunks) - 1))])
    chunks[at] = data.draw(st.sampled_from([b"%b\ndata: %b\n\n" % (name, spoil), b"data: {\n\n", b"", chunks[at] * 2]))
    report = Report()
    writer = Writer(ASKED, report)
    out = b"".join([writer.feed(event) for event in events_of(chunks)])
    check([one for one in SseParser().feed(out) if b"input_json" not in one.data], whole=False)


def test_a_block_behind_the_end_is_none() -> None:
    """A server that says how the message ended and goes on: what comes then would break every client's grammar."""
    start = {"id": "msg_01", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": {}}
    late = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "late"}}
    told = [
        {"type": "message_start", "message": start},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    ]
    chunks = [b"data: %b\n\n" % orjson.dumps(event) for event in (*told, late, {"type": "message_stop"})]
    writer = Writer(ASKED, Report())
    out = b"".join([writer.feed(event) for event in events_of(chunks)])
    assert b"late" not in out
    check(SseParser().feed(out))


def test_counts_that_are_none_are_written_as_numbers() -> None:
    usage = {"input_tokens": None, "output_tokens": 0, "cache_read_input_tokens": 2}
    start = {"id": "msg_01", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    out = b"".join(
        Writer(ASKED, Report()).feed(event) for event in events_of([said.event("message_start", message=start)])
    )
    [one] = SseParser().feed(out)
    assert orjson.loads(one.data)["message"]["usage"] == {**usage, "input_tokens": 0}
    check([one], whole=False)


def test_an_output_that_is_no_count_is_written_as_one() -> None:
    """What stands there at the end is replaced too, and nothing beside it."""
    usage = {"input_tokens": 0, "output_tokens": 1e300, "cache_read_input_tokens": 2}
    start = {"id": "msg_01", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": {}}
    chunks = [
        said.event("message_start", message=start),
        said.event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage),
    ]
    writer = Writer(ASKED, Report())
    told = SseParser().feed(b"".join([writer.feed(event) for event in events_of(chunks)]))
    assert orjson.loads(told[-1].data)["usage"] == {**usage, "output_tokens": 0}
    check(told, whole=False)


@pytest.mark.parametrize("depth", [100, 400])
def test_deep_nesting_is_read_or_refused(depth: int) -> None:
    deep: Any = {}
    for _ in range(depth):
        deep = {"a": deep}
    call = {"type": "tool_use", "id": "t", "name": "f", "input": deep}
    body = {"model": "m", "messages": [{"role": "assistant", "content": [call]}]}
    if depth == 100:
        assert rewritten(body) == body
    else:
        with pytest.raises(TranslationError, match=r"messages\[0\].content\[0\].input: nested too deeply"):
            read_request(body)
