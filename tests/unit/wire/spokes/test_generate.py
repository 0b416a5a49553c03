"""The spoke of Gemini's format: what it reads it writes again, whatever it is, and nothing hostile gets through."""

import re
from contextlib import suppress
from copy import deepcopy
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.errors import TranslationError
from sidecar.wire.neutral import Message, Report, Request, Text
from sidecar.wire.spokes.generate.spoke import SPOKE
from sidecar.wire.sse import SseEvent, SseParser
from tests.fixtures import said_generate as said
from tests.fixtures.grammar_generate import check

Json = dict[str, Any]
ASKED = Request(format="generate", model="m", messages=[Message(role="user", parts=[Text(text="hi")])])
SLOW = settings(max_examples=40, suppress_health_check=list(HealthCheck))
_HUMP = re.compile(r"(?<=[a-z])([A-Z])")
_NAMED = (
    "args",
    "response",
    "labels",
    "parametersJsonSchema",
    "responseJsonSchema",
    "responseSchema",
    "newMember",
    "another",
)


def written(body: Json) -> tuple[Json, Report]:
    report = Report()
    assert SPOKE.read_request is not None
    return SPOKE.write_request(SPOKE.read_request(body), report), report


def snake(value: Any) -> Any:
    """The same body with the other spelling, but for what holds a user's own names."""
    if isinstance(value, list):
        return [snake(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        _HUMP.sub(lambda found: "_" + found[1].lower(), name): inner if name in _NAMED else snake(inner)
        for name, inner in value.items()
    }


@SLOW
@given(said.requests())
def test_a_request_is_written_as_it_was_read(body: Json) -> None:
    again, report = written(body)
    assert again == body
    assert report.lost == report.mapped == []


@SLOW
@given(said.requests())
def test_both_spellings_are_one(body: Json) -> None:
    opaque = (
        "executableCode",
        "codeExecutionResult",
        "toolCall",
        "safetySettings",
        "speechConfig",
        "imageConfig",
        "retrievalConfig",
    )
    text = orjson.dumps(body)
    if any(name.encode() in text for name in opaque):
        return  # what is carried whole keeps its spelling inside
    assert written(snake(body))[0] == body


@SLOW
@given(said.responses())
def test_an_answer_is_written_as_it_was_read(body: Json) -> None:
    report = Report()
    assert SPOKE.write_response is not None
    assert SPOKE.write_response(SPOKE.read_response(body), ASKED, report) == body
    assert report.lost == report.mapped == []


def read(chunks: list[bytes]) -> list[Any]:
    parser, reader = SseParser(), SPOKE.stream_reader()
    events = [one for chunk in chunks for event in parser.feed(chunk) for one in reader.feed(event)]
    return [*events, *reader.end()]


@SLOW
@given(said.streams())
def test_a_stream_that_is_written_reads_the_same(chunks: list[bytes]) -> None:
    report = Report()
    assert SPOKE.stream_writer is not None
    writer = SPOKE.stream_writer(ASKED, report)
    events = read(chunks)
    out = [writer.feed(event) for event in events]
    assert read(out) == events
    assert report.lost == report.mapped == []
    check(SseParser().feed(b"".join(out)))
    check(SseParser().feed(b"".join(chunks)))


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(said.streams(), st.integers(1, 97))
def test_a_stream_may_be_cut_anywhere(chunks: list[bytes], size: int) -> None:
    stream = b"".join(chunks)
    assert read([stream[at : at + size] for at in range(0, len(stream), size)]) == read(chunks)


HOSTILE = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1.5,
        2**80,
        1e308,
        "",
        "\ud800",
        "x" * 10,
        [],
        {},
        [[]],
        [{}],
        {"a": {"b": None}},
        ["a", 1],
        [None],
    ]
)


@st.composite
def mutated(draw: st.DrawFn, bodies: st.SearchStrategy[Json]) -> Json:
    """A valid body in which one to three values were replaced."""
    body = deepcopy(draw(bodies))  # what strategies give is shared
    for _ in range(draw(st.integers(1, 3))):
        node: Any = body
        for _ in range(draw(st.integers(1, 7))):
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if not isinstance(node[key], dict | list) or draw(st.integers(0, 6)) == 0:
                node[key] = deepcopy(draw(HOSTILE))
                break
            node = node[key]
    return body


@settings(max_examples=70, suppress_health_check=list(HealthCheck))
@given(mutated(said.requests()))
def test_a_hostile_request_is_refused_or_read(body: Json) -> None:
    with suppress(TranslationError):
        assert "contents" in written(body)[0]


@settings(max_examples=70, suppress_health_check=list(HealthCheck))
@given(mutated(said.responses()))
def test_a_hostile_answer_is_refused_or_read(body: Json) -> None:
    assert SPOKE.write_response is not None
    with suppress(TranslationError):
        assert SPOKE.write_response(SPOKE.read_response(body), ASKED, Report())


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        mutated(said.streams().flatmap(lambda chunks: st.sampled_from(chunks)).map(lambda c: orjson.loads(c[6:]))),
        max_size=4,
    )
)
def test_a_hostile_stream_gives_events_in_order(chunks: list[Json]) -> None:
    """Whatever comes, parts are opened before they go on, and closed once."""
    assert SPOKE.stream_writer is not None
    reader, writer = SPOKE.stream_reader(), SPOKE.stream_writer(ASKED, Report())
    out = b""
    for chunk in chunks:
        try:
            data = orjson.dumps(chunk)
        except TypeError:
            continue  # no server can write it
        for event in reader.feed(SseEvent(b"", data)):
            out += writer.feed(event)
    out += b"".join([writer.feed(event) for event in reader.end()])
    for event in SseParser().feed(out):
        assert isinstance(orjson.loads(event.data), dict)


@pytest.mark.parametrize(
    "data", [b"", b"[DONE]", b"3", b"[1]", b"{}", b'{"choices":[]}', b'{"candidates":', b"\xff", b"[" * 5000]
)
def test_what_is_no_chunk_is_no_event(data: bytes) -> None:
    assert list(SPOKE.stream_reader().feed(SseEvent(b"", data))) == []
