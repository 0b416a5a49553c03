"""The chunked decoder against llhttp and against itself cut at every byte."""

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.errors import ProtocolError
from sidecar.wire.framing import LAST_CHUNK, MAX_LINE_BYTES, MAX_TRAILER_BYTES, Chunked, chunk

BODIES = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"005\r\nhello\r\n000\r\n\r\n",
    b"A\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n",
    b"a;name=value\r\n0123456789\r\n0\r\n\r\n",
    b'3;q="a;b"\r\nabc\r\n0;last\r\n\r\n',
    b"2\r\n\r\n\r\n0\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX-Trailer: one\r\nChecksum: \xe9\r\n\r\n",
    b"3\r\nabc\r\n0\r\nEmpty:\r\n\r\n",
]
BAD = [
    b"\r\n",
    b"g\r\n",
    b"-1\r\n",
    b"+1\r\nx\r\n",
    b"0x1\r\nx\r\n",
    b"1_0\r\n",
    b" 5\r\nhello\r\n",
    b"5\nhello\r\n",
    b"5\rhello\r\n",
    b"1000000000000000\r\n",
    b"5\r\nhelloX\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello\rX",
    b"5;a\x00b\r\nhello\r\n",
    b"5;a\rb\r\nhello\r\n",
    b"0\r\nno colon\r\n\r\n",
    b"0\r\n: empty name\r\n\r\n",
    b"0\r\nA : b\r\n\r\n",
    b"0\r\n folded: b\r\n\r\n",
    b"0\r\nA: b\nC: d\r\n\r\n",
    b"0\r\n\n",
    b"1;" + b"x" * MAX_LINE_BYTES + b"\r\n",
    b"1;" + b"x" * (MAX_LINE_BYTES + 1),
    b"0\r\nA: " + b"x" * MAX_TRAILER_BYTES + b"\r\n\r\n",
    b"0\r\nA: " + b"x" * (MAX_TRAILER_BYTES + 1),
    b"0\r\n" + b"A: b\r\n" * (MAX_TRAILER_BYTES // 6 + 1) + b"\r\n",
]


def decode(pieces: list[bytes]) -> tuple[bytes, bool]:
    """Payload and whether the body ended; bytes behind the end must not be taken."""
    decoder, payload = Chunked(), b""
    for piece in pieces:
        part, end = decoder.feed(piece)
        payload += part
        assert end == len(piece) or decoder.done
    return payload, decoder.done


class Oracle:
    """llhttp's reading of a chunked body."""

    def __init__(self) -> None:
        self.payload = b""
        self.complete = False

    def on_body(self, body: bytes) -> None:
        self.payload += body

    def on_message_complete(self) -> None:
        self.complete = True

    def read(self, body: bytes) -> bool:
        """Whether llhttp takes every byte of it."""
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        except httptools.HttpParserError:
            return False
        return True


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_cut_at_every_byte(body: bytes) -> None:
    """INC-10: the payload is independent of how the bytes are cut."""
    whole = decode([body])
    assert whole[1]
    for at in range(len(body) + 1):
        assert decode([body[:at], body[at:]]) == whole
    assert decode([body[at : at + 1] for at in range(len(body))]) == whole


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_llhttp_reads_the_same(body: bytes) -> None:
    """INC-42: no body that we take means something else to llhttp."""
    oracle = Oracle()
    assert oracle.read(body)
    assert decode([body]) == (oracle.payload, oracle.complete)


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
def test_refused_however_it_is_cut(body: bytes) -> None:
    """INC-42: what could be read in two ways is refused, whole or byte by byte."""
    with pytest.raises(ProtocolError):
        decode([body])
    with pytest.raises(ProtocolError):
        decode([body[at : at + 1] for at in range(len(body))])


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_bytes_behind_the_end_are_left(body: bytes) -> None:
    """The index that is given back is where the next message begins."""
    decoder = Chunked()
    for at in range(len(body)):
        decoder = Chunked()
        first, _ = decoder.feed(body[:at])
        rest, end = decoder.feed(body[at:] + b"GET / HTTP/1.1")
        assert decoder.done
        assert body[at:][:end] == body[at:]
        assert first + rest == decode([body])[0]
    assert decoder.feed(b"GET") == (b"", 0)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.data())
@settings(max_examples=150)
def test_what_chunk_writes_is_read_back(payloads: list[bytes], data: st.DataObject) -> None:
    """`chunk` and LAST_CHUNK are the inverse of the decoder, and llhttp agrees."""
    body = b"".join(chunk(one) for one in payloads) + LAST_CHUNK
    at = data.draw(st.integers(0, len(body)))
    assert decode([body[:at], body[at:]]) == (b"".join(payloads), True)
    oracle = Oracle()
    assert oracle.read(body)
    assert oracle.payload == b"".join(payloads)


@given(
    st.sampled_from(BODIES + BAD),
    st.integers(0, 60),
    st.sampled_from([b"", b"\r", b"\n", b" ", b"\x00", b"0", b"f", b";", b":"]),
)
@example(b"005\r\nhello\r\n000\r\n\r\n", 14, b" ")  # a blank behind a size is no extension
@settings(max_examples=400)
def test_mutated_bodies_never_mean_more_than_llhttp_says(body: bytes, at: int, insert: bytes) -> None:
    """INC-42: a mutated body that ends for us is one that llhttp takes too, with the same payload."""
    mutated = body[:at] + insert + body[at + 1 :]
    decoder = Chunked()
    try:
        payload, end = decoder.feed(mutated)
    except ProtocolError:
        return
    if decoder.done:
        oracle = Oracle()
        read = oracle.read(mutated[:end])
        assert read or b";" in mutated, mutated  # llhttp is stricter about extensions, which nobody acts on
        assert not read or (oracle.payload, oracle.complete) == (payload, True)


def test_an_empty_chunk_is_not_written() -> None:
    """It would end the body."""
    assert chunk(b"") == b""
