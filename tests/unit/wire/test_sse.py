"""The SSE parser: the standard's grammar, however the bytes are cut."""

import re
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.sse import SseEvent, SseParser
from tests.unit.wire.recordings import load


def parse(*reads: bytes, cap: int = 1 << 24) -> list[tuple[bytes, bytes]]:
    parser = SseParser(cap)
    return [(event.name, event.data) for read in reads for event in parser.feed(read)]


def cuts(stream: bytes) -> list[list[bytes]]:
    """The stream byte by byte, and in two at every place."""
    return [
        [stream[i : i + 1] for i in range(len(stream))],
        *([stream[:at], stream[at:]] for at in range(len(stream) + 1)),
    ]


SAMPLES = [
    b"data: {}\n\ndata: {}\n\n",
    b"data:{}\r\n\r\ndata:{}\r\n\r\n",
    b"data: a\r\rdata: b\r\r",
    b"\xef\xbb\xbfdata: a\ndata: b\n\n: comment\n\nevent: x\nid: 7\nretry: 10\ndata\n\n",
    b":\n\nevent: error\ndata: {}\n\nevent: lost\n\ndata: z\n\n",
    b"data:  two spaces\n\ndata\n\ndata:\n\n\n\n\ndata: no end",
    b"event: a\ndata: 1\n\nevent: b\ndata: 2\n\n",
    b"event: a\nid: 1\n\nevent: b\ndata: 2\n\n",
    b"data: a\n\ndatum: b\n\n",
]


def test_every_cut_gives_the_same_events() -> None:
    """GW-30: LF, CRLF, CR, no space, several data lines, comments, BOM: the same events for each way to cut."""
    for sample in SAMPLES:
        whole = parse(sample)
        assert whole
        assert [reads for reads in cuts(sample) if parse(*reads) != whole] == []


def test_grammar_by_example() -> None:
    """GW-30: the values that the standard's rules give for the samples."""
    assert parse(SAMPLES[0]) == [(b"", b"{}")] * 2
    assert parse(SAMPLES[1]) == [(b"", b"{}")] * 2
    assert parse(SAMPLES[2]) == [(b"", b"a"), (b"", b"b")]
    assert parse(SAMPLES[3]) == [(b"", b"a\nb"), (b"x", b"")]
    assert parse(SAMPLES[4]) == [(b"error", b"{}"), (b"", b"z")]
    assert parse(SAMPLES[5]) == [(b"", b" two spaces"), (b"", b""), (b"", b"")]
    assert parse(b"\n", SAMPLES[0]) == [(b"", b"{}")] * 2
    assert parse(b"\n", SAMPLES[6]) == [(b"a", b"1"), (b"b", b"2")]
    assert parse(b"\n", SAMPLES[7]) == [(b"b", b"2")]
    assert parse(b"\n", SAMPLES[8]) == [(b"", b"a")]
    assert parse(b"\n", b"event: a\ndata: 1\n\n") == [(b"a", b"1")]
    assert parse(b"\n", b"event: a\nother: 1\n\n") == []
    assert parse(b"\n", b"other: a\ndata: 1\n\n") == [(b"", b"1")]
    assert parse(b"\n", b"data: 1\n: c\n\nevent: b\ndata: 2\n\n") == [(b"", b"1"), (b"b", b"2")]
    assert parse(b"\n", b"a: 1\n\nb: 1\n\n") == []
    assert parse(b"", b"\xef\xbb", b"\xbf", b"data: 1\n\n") == [(b"", b"1")]


def test_recordings_are_independent_of_cuts(shared: Path) -> None:
    """GW-30: recorded streams of a real server, byte by byte and in odd sizes."""
    for name in ("chat_sse_ping_stream", "messages_tools_stream", "smollm2_responses_stream", "chat_utf8_stream"):
        body = load(shared, name).body
        whole = parse(body)
        assert len(whole) > 5
        for size in (1, 7, 100, 1000):
            assert parse(*(body[i : i + size] for i in range(0, len(body), size))) == whole


def test_two_megabytes_pass() -> None:
    """GW-30: an event of 2 MB, in reads of 64 KiB, arrives whole."""
    stream = b"data: " + b"x" * 2_000_000 + b"\n\ndata: y\n\n"
    events = parse(*(stream[i : i + 65536] for i in range(0, len(stream), 65536)))
    assert [len(data) for _, data in events] == [2_000_000, 1]


def test_event_over_the_cap_is_dropped_and_the_next_one_read() -> None:
    """An event larger than the cap costs only itself, wherever the bytes are cut."""
    stream = b"data: a\n\nevent: big\ndata: " + b"x" * 50 + b"\ndata: y\n\ndata: b\n\n"
    for size in range(1, len(stream) + 1):
        parser = SseParser(20)
        events = [event for i in range(0, len(stream), size) for event in parser.feed(stream[i : i + size])]
        assert events == [SseEvent(b"", b"a"), SseEvent(b"", b"b")], size
        assert parser.overflow


def reference(stream: bytes) -> list[tuple[bytes, bytes]]:
    """The standard's algorithm over the whole stream at once."""
    lines = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))[:-1]
    events, name, data = [], b"", b""
    for line in lines:
        field, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if not line:
            if data:
                events.append((name, data[:-1]))
            name, data = b"", b""
        elif field == b"data":
            data += value + b"\n"
        elif field == b"event":
            name = value
    return events


PIECE = st.sampled_from(
    [
        b"data: {}",
        b"data:x",
        b"data",
        b"event: e",
        b": c",
        b"id: 1",
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\r",
        b"\xef\xbb\xbf",
        b"x",
    ]
)


@given(st.lists(PIECE, max_size=30).map(b"".join), st.lists(st.integers(0, 60), max_size=6))
def test_equals_the_standard(stream: bytes, cuts: list[int]) -> None:
    """GW-30: any stream, cut anywhere, gives what the standard's algorithm gives for the whole."""
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reads = [stream[a:b] for a, b in pairwise(places)]
    assert parse(*reads) == reference(stream)
