"""OpenAI chat completions as a whole: what it can say comes back, however its bytes were cut and whatever a server does."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sidecar.errors import TranslationError
from sidecar.wire.neutral import Event, Failed, Report, Request, Start, Told
from sidecar.wire.spokes.chat.spoke import SPOKE
from sidecar.wire.sse import SseParser
from tests.fixtures.grammar_chat import check
from tests.fixtures.said_chat import canonical_request, canonical_response, requests, responses, streams
from tests.unit.wire import recordings

read_request, read_response = SPOKE.read_request, SPOKE.read_response
write_request, write_response, stream_writer = SPOKE.write_request, SPOKE.write_response, SPOKE.stream_writer
assert read_request is not None
assert write_response is not None
assert stream_writer is not None
ASKED = Request(format="chat", model="m", messages=[], stream=True)
usual = settings(max_examples=40, suppress_health_check=list(HealthCheck))


def read_stream(data: bytes, size: int = 1 << 30) -> list[Event]:
    parser, reader, events = SseParser(), SPOKE.stream_reader(), []
    for at in range(0, len(data), size):
        for event in parser.feed(data[at : at + size]):
            events += reader.feed(event)
    return events


def say_stream(events: Sequence[Event], report: Report | None = None, asked: Request = ASKED) -> bytes:
    assert stream_writer is not None
    writer = stream_writer(asked, report or Report())
    return b"".join(writer.feed(event) for event in events)


def settled(events: Sequence[Event]) -> list[Event]:
    """Usage is said once, at the end."""
    told = [event for event in events if isinstance(event, Told)]
    return [*(event for event in events if not isinstance(event, Told)), *told[-1:]]


@usual
@given(requests())
def test_a_request_loses_nothing_in_its_own_format(body: dict[str, Any]) -> None:
    report = Report()
    said = write_request(read_request(json.loads(json.dumps(body))), report)
    assert canonical_request(said) == canonical_request(body)
    assert (report.lost, report.mapped) == ([], [])
    assert orjson.dumps(write_request(read_request(said), Report())) == orjson.dumps(said), "equal input, equal bytes"


@usual
@given(responses())
def test_an_answer_loses_nothing_in_its_own_format(body: dict[str, Any]) -> None:
    report = Report()
    said = write_response(read_response(json.loads(json.dumps(body))), ASKED, report)
    assert canonical_response(said) == canonical_response(body)
    assert (report.lost, report.mapped) == ([], [])


@usual
@given(streams(), st.data())
def test_a_stream_is_the_same_when_read_again_and_however_it_is_cut(events: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(events)
    told = read_stream(whole)
    assert isinstance(told[0], Start)
    report = Report()
    said = say_stream(told, report)
    check(SseParser().feed(said), lax=b'"strange"' in whole)
    assert (report.lost, report.mapped) == ([], [])
    assert settled(read_stream(said)) == settled(told)
    assert read_stream(whole, data.draw(st.integers(1, 40))) == told


def _changed(value: Any, draw: Any, depth: int = 0) -> Any:
    """The same JSON with one node of another kind."""
    if isinstance(value, dict | list) and value and (depth == 0 or draw(st.integers(0, 4))):
        key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else list(range(len(value)))))
        copy: Any = value.copy()
        copy[key] = _changed(value[key], draw, depth + 1)
        return copy
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    strange = [
        None,
        True,
        0,
        -1,
        1e300,
        2**63,
        "",
        "\udc80",
        "x",
        [],
        {},
        [None],
        {"type": 1},
        {"type": "text"},
        deep,
        1.5,
    ]
    return draw(st.sampled_from(strange))


@usual
@given(requests(), st.data())
def test_a_broken_request_gives_only_a_translation_error(body: dict[str, Any], data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        body = _changed(body, data.draw)
    try:
        request = read_request(body)
    except TranslationError:
        return
    write_request(request, Report())
    request.format = "messages"
    write_request(request, Report())


@usual
@given(responses(), st.data())
def test_a_broken_answer_gives_only_a_translation_error(body: dict[str, Any], data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        body = _changed(body, data.draw)
    try:
        answer = read_response(body)
    except TranslationError:
        return
    write_response(answer, ASKED, Report())
    answer.format = "messages"
    write_response(answer, ASKED, Report())


@usual
@given(streams(), st.data())
def test_a_broken_stream_is_read_without_an_exception(events: list[bytes], data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(events) - 1))
        payload = events[at][6:-2]
        try:
            changed = json.dumps(_changed(json.loads(payload), data.draw)).encode()
        except json.JSONDecodeError:
            changed = payload
        if data.draw(st.integers(0, 3)) == 0:
            changed = changed[: data.draw(st.integers(0, len(changed)))]
        events[at] = b"data: " + changed + b"\n\n"
    told = read_stream(b"".join(events))
    for one in (told, [*told, *told[:1]]):
        say_stream(one)


def _recorded(shared: Path) -> list[recordings.Recording]:
    found = [recordings.load(shared, name) for name in recordings.names(shared)]
    return [one for one in found if one.endpoint == "chat"]


def test_every_recorded_stream_is_read_and_said_again(shared: Path) -> None:
    """62 recordings of chat, of which those that are streams; three were cut by their server."""
    streamed = [one for one in _recorded(shared) if one.stream]
    assert len(streamed) >= 20
    for one in streamed:
        whole = not any(word in one.name for word in ("killed", "stopped", "stalled"))
        check(SseParser().feed(one.body), whole=whole, lax=True)
        told = read_stream(one.body)
        report = Report()
        said = say_stream(told, report)
        check(SseParser().feed(said), whole=whole)
        again = read_stream(said)
        assert [event for event in settled(again) if not isinstance(event, Told)] == [
            event for event in settled(told) if not isinstance(event, Told)
        ], one.name
        assert report.lost == report.mapped == [], one.name


def test_every_recorded_answer_is_read_and_said_again(shared: Path) -> None:
    for one in _recorded(shared):
        if one.stream or not one.body:
            continue
        if one.status >= 400:
            problem = SPOKE.read_problem(one.status, one.body)
            assert problem.message in one.body.decode().replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
            continue
        body = json.loads(one.body)
        said = write_response(read_response(body), ASKED, Report())
        assert _bare(canonical_response(said)) == _bare(canonical_response(body)), one.name


def _bare(body: dict[str, Any]) -> dict[str, Any]:
    for choice in body["choices"]:
        if choice.get("logprobs") is None:
            choice.pop("logprobs", None)
    return body


def test_every_recorded_request_is_read_and_said_again(shared: Path) -> None:
    """Those of the recording script, and those of real clients."""
    bodies = [
        (one.name, one.request)
        for one in _recorded(shared)
        if one.status == 200 and one.request and one.name != "error_bad_role"
    ]
    for path in sorted((shared / "fixtures" / "clients").glob("*/*.http")):
        head, _, body = path.read_bytes().partition(b"\r\n\r\n")
        if b"/chat/completions" in head.split(b"\r\n")[0]:
            bodies.append((path.name, body))
    assert len(bodies) > 60
    for name, data in bodies:
        body = json.loads(data)
        report = Report()
        said = write_request(read_request(body), report)
        assert canonical_request(said) == canonical_request(body), name
        assert report.lost == report.mapped == [], name


def test_a_stream_that_ends_without_an_answer_has_failed() -> None:
    (failed,) = read_stream(b"data: [DONE]\n\n")
    assert isinstance(failed, Failed)
    assert failed.problem.status == 502


@pytest.mark.parametrize("spoken", ["chat", "messages"])
def test_the_errors_of_a_stream_reach_the_client(spoken: str) -> None:
    said = say_stream(
        [Start(id="a", model="m", format=spoken), *read_stream(b'data: {"error":{"message":"no","code":429}}\n\n')]
    )  # type: ignore[arg-type]
    check(SseParser().feed(said))
    assert b'"message":"no","type":"rate_limit_error"' in said


@usual
@given(responses())
def test_openais_sdk_understands_every_answer_of_another_format(body: dict[str, Any]) -> None:
    answer = read_response(body)
    for choice in answer.choices:
        choice.extra = {}
    answer.format = "messages"
    ChatCompletion.model_validate(write_response(answer, ASKED, Report()))


@usual
@given(streams())
def test_openais_sdk_understands_every_chunk_of_another_format(events: list[bytes]) -> None:
    told = read_stream(b"".join(events))
    assert isinstance(told[0], Start)
    told[0].format = "messages"
    said = SseParser().feed(say_stream(told))
    check(said)
    for one in said[:-1]:
        ChatCompletionChunk.model_validate_json(one.data)
