"""The stream reader accepts the bench's streams however they are cut, and nothing else."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import payloads
from bench.reader import StreamReader

TOKENS = 3


def framed(*events: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


EVENTS = [
    payloads.role_event(5, 1_000_000),
    *(payloads.token_event(5, 1_000_000, 2_000_000 + place) for place in range(TOKENS)),
    *payloads.last_events(5, 1_000_000, TOKENS),
]
STREAM = payloads.STREAM_HEAD + framed(*EVENTS) + b"0\r\n\r\n"


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_reading_is_independent_of_how_the_bytes_are_cut(cuts: list[int]) -> None:
    """Any cut of the same bytes gives the same tokens, stamps and end."""
    reader = StreamReader(5, TOKENS)
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(edges):
        reader.feed(STREAM[start:end], 0.5)
    assert (reader.done, reader.error) == (True, "")
    assert reader.first == (0.5, 1_000_000, 2_000_000)
    assert reader.transit_s == pytest.approx([0.498] * TOKENS, abs=1e-6)


def test_framing_may_differ_from_the_upstreams() -> None:
    """A proxy may join events into one chunk or cut one event into two."""
    text = b"".join(EVENTS)
    reader = StreamReader(5, TOKENS)
    reader.feed(payloads.STREAM_HEAD + framed(text[:100], text[100:]) + b"0\r\n\r\n", 1.0)
    assert (reader.done, reader.error, len(reader.transit_s)) == (True, "", TOKENS)


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (STREAM.replace(b"200 OK", b"503 No"), "status 503"),
        (STREAM.replace(b"Transfer-Encoding: chunked", b"Connection: close"), "not chunked"),
        (payloads.STREAM_HEAD + b"zz\r\n", "bad chunk size"),
        (payloads.STREAM_HEAD + framed(EVENTS[0], *EVENTS[2:]) + b"0\r\n\r\n", "wrong event 3"),
        (payloads.STREAM_HEAD + framed(*EVENTS[:-1]) + b"0\r\n\r\n", "6 events for 3 tokens"),
        (payloads.STREAM_HEAD + framed(*EVENTS, payloads.DONE) + b"0\r\n\r\n", "wrong event 7"),
        (payloads.STREAM_HEAD + framed(b"data: {}\n\n"), "wrong event 0"),
        (STREAM.replace(b'"content":" 0', b'"content":" x', 1), "wrong event 1"),
        (STREAM + b"x", "7 events for 3 tokens"),
    ],
)
def test_what_is_not_the_stream_is_named(stream: bytes, error: str) -> None:
    """Damage, loss, surplus and another status are errors."""
    reader = StreamReader(5, TOKENS)
    reader.feed(stream, 1.0)
    assert reader.error == error


def test_another_streams_token_is_an_error() -> None:
    """Mixing two callers' streams up is found by the id."""
    reader = StreamReader(6, TOKENS)
    reader.feed(STREAM.replace(b"chatcmpl-bench00000005", b"chatcmpl-bench00000006", 1), 1.0)
    assert reader.error == "wrong event 1"
