"""Events that differ in their text alone: known without being decoded, and never when anything else differs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire import anthropic, openai
from sidecar.wire.alike import Alike, AlikeChunks, alike_to
from sidecar.wire.framing import chunk
from sidecar.wire.meter import make_meter
from sidecar.wire.reading import Reading
from sidecar.wire.sse import SseEvent

CAP = 1 << 20
CHAT = (
    b'data: {"id":"c1","model":"m","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}],'
    b'"usage":null}\n\n'
)
HIDDEN = CHAT.replace(b"null}\n", b'null,"obfuscation":"%b"}\n')
MESSAGES = (
    b"event: content_block_delta\ndata: "
    b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%b"}%b}\n\n'
)
READERS: dict[bytes, Any] = {CHAT: openai.read_chunk, HIDDEN: openai.read_chunk, MESSAGES: anthropic.read_event}


def alike(read: bytes) -> Alike | None:
    name, _, data = read[:-2].rpartition(b"data: ")
    reader = anthropic.read_event if name else openai.read_chunk
    return alike_to(read, SseEvent(name[7:-1], data), reader(name[7:-1], data), reader)


def known(read: bytes) -> Alike:
    found = alike(read)
    assert found is not None
    return found


def test_the_text_is_measured() -> None:
    """GW-03: the same bytes around another text."""
    chat = known(CHAT % b" one")
    assert [chat.text_bytes(CHAT % text) for text in (b" one", b"x", b"four" * 9)] == [4, 1, 36]
    assert known(MESSAGES % (b"Hi", b"")).text_bytes(MESSAGES % (b"there", b"")) == 5


def test_what_hides_the_length_may_vary() -> None:
    """Blanks before the last brace, or letters in a last member of that name; nothing else in their place."""
    hidden = known(HIDDEN % (b"one", b"aX9"))
    assert hidden.text_bytes(HIDDEN % (b"four", b"z")) == 4
    assert [
        hidden.text_bytes(HIDDEN % (b"four", more)) for more in (b"", b'z","usage":{},"a":"b', b'z"}\n\ndata: {"a":"')
    ] == [0] * 3
    blanks = known(MESSAGES % (b"one", b"  "))
    assert blanks.text_bytes(MESSAGES % (b"four", b"      ")) == 4
    assert [blanks.text_bytes(MESSAGES % (b"four", more)) for more in (b',"usage":{}', b"}\n\n", b"\n\n")] == [0] * 3


@pytest.mark.parametrize(
    "read",
    [
        CHAT % b"",
        CHAT % b"a\\n",
        CHAT % b'a"',
        CHAT % b"a\x01",
        CHAT % b"\xc3\xa9",
        (CHAT % b"a").replace(b'reason":null', b'reason":"stop"'),
        (CHAT % b"a").replace(b"c1", b"c2"),
        (CHAT % b"a")[:-1],
        (CHAT % b"a")[:-3],
        (CHAT % b"a") * 2,
        (CHAT % b"a").removesuffix(b',"usage":null}\n\n'),
        (CHAT % b"a").replace(b'"usage":null', b'"usage":{"prompt_tokens":1}'),
        b"data: [DONE]\n\n",
    ],
)
def test_anything_else_is_not_alike(read: bytes) -> None:
    assert known(CHAT % b"one").text_bytes(read) == 0


@pytest.mark.parametrize(
    "read",
    [
        CHAT % b"",
        CHAT % b"a\\n",
        (CHAT % b"a")[:-1] + b"\r\n",
        b": comment\n" + CHAT % b"a",
        CHAT % b"a" + b": comment\n\n",
        (CHAT % b"a").replace(b"}\n\n", b"} \n\n"),
        (CHAT % b"a").replace(b'reason":null', b'reason":"stop"'),
        (CHAT % b"a").replace(b'"usage":null', b'"usage":{"prompt_tokens":1}'),
        (CHAT % b"a").replace(b'"content"', b'"role":"text","name":"text"'),
        (CHAT % b"a").replace(b'"content":"a"', b'"content":"a","reasoning":"b"'),
        (CHAT % b"a").replace(b'"delta":', b'"text":"a","delta":'),
        (CHAT % b"a").replace(b'"id":', b'"text":"a","id":'),
        HIDDEN % (b"a", b"-"),
        b'data: {"text":"a"\n\n',
    ],
)
def test_what_says_more_or_less_than_its_text_is_no_likeness(read: bytes) -> None:
    assert alike(read) is None


def measured(reads: list[bytes], *, max_bytes: int = CAP, split: bool = False) -> Reading:
    """Times do not tell how the reads came when all have the same."""
    meter = make_meter(
        "messages" if b"event: " in reads[0] else "chat", "openai", event_stream=True, max_bytes=max_bytes
    )
    for number, read in enumerate(reads):
        for part in (read[:9], read[9:]) if split else (read,):
            meter.feed(part, number / 10)
    return meter.finish()


TEXTS = st.one_of(
    st.sampled_from([b"", b"\\n", b'\\"', b"\xc3\xa9", b"\t", b"\xff", b'","usage":{"prompt_tokens":3},"x":"']),
    st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), max_size=12).map(str.encode),
)
HIDING = {
    CHAT: st.just(None),
    HIDDEN: st.sampled_from([b"", b"a", b"Zz9", b"-", b'","id":"c9']),
    MESSAGES: st.sampled_from([b"", b" ", b"   ", b',"usage":{"output_tokens":7}']),
}


@given(st.data(), st.sampled_from(list(HIDING)))
def test_a_reading_is_the_same_where_nothing_is_known_by_likeness(data: st.DataObject, form: bytes) -> None:
    """An event that comes in two parts is decoded; whole ones may be known: both readings are equal."""
    pairs = data.draw(st.lists(st.tuples(TEXTS, HIDING[form]), min_size=1, max_size=40))
    reads = [form % (text if form is CHAT else (text, more)) for text, more in pairs]
    if form is MESSAGES:
        start = b'{"type":"message_start","message":{"id":"m1","model":"m","usage":{"input_tokens":3}}}'
        reads.insert(0, b"event: message_start\ndata: %b\n\n" % start)
    assert measured(reads) == measured(reads, split=True)


def test_who_answers_is_looked_for_until_it_is_known() -> None:
    """Without an id no event is known by another one: the next may tell it."""
    nameless = CHAT.replace(b'"id":"c1","model":"m",', b"")
    reads = [nameless % b"one"] * 5 + [CHAT % b"one"] * 3
    reading = measured(reads)
    assert reading == measured(reads, split=True)
    assert (reading.completion_id, reading.model, reading.token_events) == ("c1", "m", 8)


def test_the_limit_of_an_event_holds() -> None:
    """An event that is larger than the meter may hold is dropped, however well it is known."""
    reads = [CHAT % b"one"] * 4 + [CHAT % (b"x" * 300)]
    reading = measured(reads, max_bytes=200)
    assert reading == measured(reads, max_bytes=200, split=True)
    assert reading.token_events == 4


def test_whole_chunks_are_counted() -> None:
    """GW-07: one chunk with one such event, and nothing else; too many of them have to be told first."""
    alike = known(HIDDEN % (b"one", b"aX9"))
    chunks = AlikeChunks(alike, alike.tail)
    reads = [chunk(HIDDEN % (text, more)) for text, more in ((b"one", b"aX9"), (b"four", b"z"), (b" a b", b"Q"))]
    assert [chunks.take(read, number / 4) for number, read in enumerate(reads)] == reads
    assert (chunks.times, chunks.text_bytes) == ([0.0, 0.25, 0.5], 11)
    assert chunks.payload_bytes == sum(len(HIDDEN % (text, b"")) for text in (b"oneaX9", b"fourz", b" a bQ"))
    whole = reads[0]
    size, _, rest = whole.partition(b"\r\n")
    others = [
        *(whole[:-1], whole[:-2] + b"\n\n", whole + b"x", size.upper() + b"\n\n" + rest),
        *(size + b";a\r\n" + rest, b"%x\r\n" % (int(size, 16) - 1) + rest, rest, b"", b"0\r\n\r\n"),
        *(
            chunk(CHAT % b"one"),
            chunk(HIDDEN % (b'"', b"z")),
            chunk(HIDDEN % (b"one", b"-")),
            chunk(HIDDEN % (b"x" * 5000, b"z")),
        ),
        *(whole + other for other in (chunk(CHAT % b"one"), whole[:-1], whole[:-2], rest, b"0\r\n\r\n", chunk(b"x"))),
        *(whole + line + rest for line in (size + b" \r\n", b"%x\r\n" % (int(size, 16) + 1), b"zz\r\n", b"\r\n")),
    ]
    assert not any(chunks.take(other, 1.0) for other in others)
    assert sum(chunks.take(whole, 1.0) == whole for _ in range(1000)) == 253
    assert len(chunks.times) == 256


def test_several_chunks_of_one_read_are_counted_together() -> None:
    """GW-07: as they come where a process is late: so many events at one time, and the bytes pass as they are."""
    alike = known(HIDDEN % (b"one", b"aX9"))
    chunks = AlikeChunks(alike, alike.tail)
    events = [HIDDEN % pair for pair in ((b"one", b"aX9"), (b"four", b"z"), (b" a b", b"Q"))]
    reads = [b"".join(map(chunk, events)), chunk(events[0]), chunk(events[1]).replace(b"\r\n", b" \r\n", 1)]
    reads[1:1] = [b"0" + chunk(events[2]) + chunk(events[0]).swapcase()[:4] + chunk(events[0])[4:]]
    assert [chunks.take(read, number / 4) for number, read in enumerate(reads)] == [*reads[:3], b""]
    assert (chunks.times, chunks.events, chunks.text_bytes) == ([0.0, 0.25, 0.5], 6, 21)
    counted = [*events, events[2], events[0], events[0]]
    assert chunks.payload_bytes == sum(map(len, counted))
    assert sum(chunks.take(reads[0], 1.0) == reads[0] for _ in range(1000)) == 253


def test_a_part_is_taken_out_of_whole_chunks() -> None:
    """GW-02: what is the same in all of them; their sizes are those of what is left."""
    alike = known(HIDDEN % (b"one", b"aX9"))
    chunks = AlikeChunks(alike, alike.tail.replace(b',"usage":null', b""))
    left = HIDDEN.replace(b',"usage":null', b"")
    assert chunks.take(chunk(HIDDEN % (b"four", b"Zz")), 1.0) == chunk(left % (b"four", b"Zz"))
    assert chunks.payload_bytes == len(HIDDEN % (b"four", b"Zz"))
    two = [(b"four", b"Zz"), (b"a", b"9")]
    assert chunks.take(b"".join(chunk(HIDDEN % one) for one in two), 2.0) == chunk(b"".join(left % one for one in two))
