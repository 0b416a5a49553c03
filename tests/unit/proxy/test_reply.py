"""Reads that are only counted are the same bytes for the client and the same figures as reads that are looked at."""

from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ProtocolError
from sidecar.proxy.gate import Way
from sidecar.proxy.reply import Reply
from sidecar.wire.framing import LAST_CHUNK, chunk
from sidecar.wire.http1 import parse_request_fully, parse_response

CHAT = b'data: {"id":"c1","model":"m","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
HIDDEN = CHAT.replace(b"}]}\n", b'}],"obfuscation":"%b"}\n')
FINISH = b'data: {"id":"c1","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
UNUSED = CHAT.replace(b"}]}\n", b'}],"usage":null}\n')
BOTH = CHAT.replace(b"}]}\n", b'}],"usage":null,"obfuscation":"%b"}\n')
USAGE = b'data: {"id":"c1","model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9}}\n\n'
WORDS = st.text("ab ,.", min_size=1, max_size=9).map(str.encode)
EVENTS = st.one_of(
    WORDS.map(lambda text: CHAT % text),
    WORDS.map(lambda text: HIDDEN % (text, b"z" * len(text))),
    WORDS.map(lambda text: UNUSED % text),
    WORDS.map(lambda text: BOTH % (text, b"z" * len(text))),
    st.sampled_from(
        [CHAT % b"\\n", CHAT % b"\xc3\xa9", CHAT % b"", b": comment\n\n", CHAT % b"a" + CHAT % b"b", FINISH, USAGE]
    ),
)


def alike(form: bytes) -> st.SearchStrategy[list[bytes]]:
    """Events that differ in nothing but their text, and in what hides its length."""
    fill = (lambda word: (word, b"z" * len(word))) if form.count(b"%b") == 2 else (lambda word: (word,))
    return st.lists(WORDS, max_size=60).map(lambda words: [form % fill(word) for word in words])


R = TypeVar("R", bound=Reply)
STREAMS = st.one_of(st.lists(EVENTS, max_size=60), *map(alike, (CHAT, HIDDEN, UNUSED, BOTH)))


class Counted(Reply):
    """Tells how many reads were looked at."""

    looked = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        self.looked += 1
        return super().feed(data)


class Looked(Reply):
    """Looks at each read."""

    def _know(self, meter: object) -> None: ...


def opened(kind: type[R], *, asked: bool = False) -> R:
    request = parse_request_fully(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = parse_response(HEAD)
    assert head is not None
    return kind(head, request, Way("chat", "openai", "/v1/chat/completions"), asked=asked, meter_max_bytes=1 << 20)


def fail(where: str, error: BaseException) -> None:
    raise AssertionError(where) from error


def passed(reply: Reply, reads: list[bytes]) -> tuple[Any, ...]:
    """What goes down, what was counted, and how it ended, with each read as an exchange handles it."""
    down: list[bytes] = []
    error = ""
    for number, read in enumerate(reads):
        if reply.alike is not None and (out := reply.alike.take(read, number / 8)):
            down.append(out)
            continue
        try:
            out, payload = reply.feed(read)
        except ProtocolError as broken:
            error = str(broken)
            break
        down.append(out)
        reply.measure(payload, number / 8, fail)
        if reply.done:
            break
    reply.catch_up(fail)
    assert reply.meter is not None
    return down, reply.size, reply.done, reply.extra, error, reply.meter.finish()


def test_one_event_after_the_other_is_only_counted() -> None:
    """GW-07: the usual stream; what was counted is told when something else comes, and when enough of them wait."""
    reply = opened(Counted)
    reads = [chunk(CHAT % b" word") for _ in range(1000)]
    got = passed(reply, [*reads, chunk(FINISH), LAST_CHUNK])
    assert reply.looked < 20
    assert got == passed(opened(Looked), [*reads, chunk(FINISH), LAST_CHUNK])
    reading = got[-1]
    assert (reading.token_events, reading.output_bytes, reading.events, reading.finish) == (1000, 5000, 1001, "stop")
    assert (reading.ttft_s, reading.last_token_s, got[1]) == (0.0, 999 / 8, 1000 * len(CHAT % b" word") + len(FINISH))


def test_reads_of_several_events_are_only_counted_too() -> None:
    """GW-07: where we are late, reads grow, and each event in them must not cost more than before."""
    reads = [b"".join(chunk(CHAT % (b"word" + b"s" * (n % 7))) for n in range(size)) for size in range(1, 40)]
    reply = opened(Counted)
    got = passed(reply, [*[chunk(CHAT % b"word")] * 8, *reads, chunk(FINISH), LAST_CHUNK])
    assert reply.looked < 12
    assert got == passed(opened(Looked), [*[chunk(CHAT % b"word")] * 8, *reads, chunk(FINISH), LAST_CHUNK])
    assert got[-1].token_events == 8 + sum(range(1, 40))


@pytest.mark.parametrize("form", [CHAT, UNUSED])
def test_what_we_asked_for_is_cut_from_what_is_only_counted(form: bytes) -> None:
    """GW-02: members `usage` of null, which are there because we asked, are taken out of each event."""
    reads = [chunk(form % b"word")] * 100
    reply = opened(Counted, asked=True)
    got = passed(reply, [*reads, chunk(FINISH), chunk(USAGE), LAST_CHUNK])
    assert got[0][:100] == [chunk(CHAT % b"word")] * 100
    assert reply.looked < 10
    assert (reply.stripped, got[-1].usage.output_tokens) == (True, 9)


EVENT = CHAT % b"word"
NESTED = chunk(EVENT + chunk(EVENT))
TIMED = FINISH.replace(b'"id"', b'"system_fingerprint":"b4-x","id"')
BEFORE = CHAT.replace(b'"id"', b'"usage":null,"id"') % b"word"


@pytest.mark.parametrize("ahead", range(8))
@pytest.mark.parametrize(
    "reads",
    [
        (b"1", chunk(EVENT)),
        (chunk(EVENT)[:-1], b"\n" + chunk(EVENT)),
        (chunk(EVENT)[:-2], b"\r\n", chunk(EVENT)),
        (NESTED[: 4 + len(EVENT)], NESTED[4 + len(EVENT) : -2], b"\r\n"),
        (chunk(b"data: x\n"), chunk(EVENT)),
        (b"\r\n", chunk(EVENT)),
    ],
)
def test_what_only_looks_like_another_one(ahead: int, reads: tuple[bytes, ...]) -> None:
    """GW-30: where a size, a chunk or an event has begun already it is the rest of that."""
    reads = (*[chunk(EVENT)] * ahead, *reads, *[chunk(EVENT)] * 8)
    assert passed(opened(Reply), [*reads]) == passed(opened(Looked), [*reads])


@pytest.mark.parametrize(
    "events",
    [
        [UNUSED % b"word"] * 8 + [HIDDEN % (b"word", b"zzz")] * 40,
        [BEFORE] * 40,
        *([UNUSED % b"word"] * ahead + [TIMED] + [UNUSED % b"word"] * 8 for ahead in range(2, 12)),
        *([EVENT] * ahead + [TIMED] + [EVENT] * 8 for ahead in range(2, 12)),
    ],
)
def test_what_we_asked_for_is_looked_for_where_it_may_be(events: list[bytes]) -> None:
    """GW-02: in events of another kind, in another place, and behind the finish reason, whose event may wait."""
    reads = [chunk(event) for event in events]
    assert passed(opened(Reply, asked=True), reads) == passed(opened(Looked, asked=True), reads)


@given(st.data(), STREAMS, st.booleans(), st.booleans())
def test_both_ways_are_one(data: st.DataObject, events: list[bytes], asked: bool, ends: bool) -> None:
    """GW-02, GW-30: a chunk for each event, most of them whole in a read, some cut anywhere, some read together; with the
    question for the usage and without."""
    wire = [chunk(event) for event in events] + [chunk(FINISH), chunk(USAGE), LAST_CHUNK] * ends
    reads: list[bytes] = []
    for piece in wire:
        at = data.draw(st.sampled_from([0, 0, 0, 0, 1, 2, 3, 9, len(piece) - 1, -1]))
        if at < 0 and reads:
            reads[-1] += piece
        else:
            reads += [part for part in (piece[: max(at, 0)], piece[max(at, 0) :]) if part]
    assert passed(opened(Reply, asked=asked), reads) == passed(opened(Looked, asked=asked), reads)


@given(st.data(), st.lists(WORDS, min_size=12, max_size=30))
def test_what_is_damaged_is_found_at_the_same_place(data: st.DataObject, words: list[bytes]) -> None:
    """GW-30: a byte that is another one, anywhere."""
    reads = [chunk(CHAT % word) for word in words]
    number = data.draw(st.integers(8, len(reads) - 1))
    at = data.draw(st.integers(0, len(reads[number]) - 1))
    byte = data.draw(st.binary(min_size=1, max_size=1))
    reads[number] = reads[number][:at] + byte + reads[number][at + 1 :]
    assert passed(opened(Reply), reads) == passed(opened(Looked), reads)
