"""AWS's event stream: cut anywhere it gives the same events, and nothing behind a fault is believed."""

import struct
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.eventstream import BadFrame, EventStreamParser, frame
from sidecar.wire.sse import SseEvent

_EVENT = {":message-type": "event", ":event-type": "contentBlockDelta", ":content-type": "application/json"}
_EXCEPTION = {":message-type": "exception", ":exception-type": "throttlingException"}
_ERROR = {":message-type": "error", ":error-code": "InternalFailure"}


def _sealed(block: bytes, payload: bytes = b"") -> bytes:
    head = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    body = head + crc32(head).to_bytes(4, "big") + block + payload
    return body + crc32(body).to_bytes(4, "big")


def test_known_message_reads() -> None:
    """The bytes of the guide's own example: no headers, no payload is 16 bytes with these checksums."""
    empty = bytes.fromhex("000000100000000005c248eb7d98c8ff")
    assert frame({}, b"") == empty
    assert EventStreamParser(1024).feed(empty) == [SseEvent(b"", b"")]


@given(st.lists(st.binary(max_size=200), max_size=5), st.lists(st.integers(1, 40), max_size=40))
def test_cuts_do_not_matter(payloads: list[bytes], cuts: list[int]) -> None:
    """Whatever the reads, the same events come out."""
    stream = b"".join(frame(_EVENT, payload) for payload in payloads)
    parser, found, at = EventStreamParser(4096), [], 0
    for size in [*cuts, len(stream)]:
        found += parser.feed(stream[at : at + size])
        at += size
    assert found == [SseEvent(b"contentBlockDelta", payload) for payload in payloads]


def test_exceptions_have_marked_names() -> None:
    """An exception is no event of the answer."""
    parser = EventStreamParser(4096)
    assert parser.feed(frame(_EXCEPTION, b"{}"))[0].name == b"!throttlingException"
    assert parser.feed(frame(_ERROR, b""))[0].name == b"!InternalFailure"
    assert parser.feed(frame({":message-type": "error"}, b""))[0].name == b"!error"


def test_other_types_of_headers_are_skipped() -> None:
    """A number, a flag and bytes stand before the name."""
    block = b"\x01n\x04\x00\x00\x00\x07" + b"\x01f\x00" + b"\x01b\x06\x00\x02xy" + b"\x0b:event-type\x07\x00\x04ping"
    assert EventStreamParser(4096).feed(_sealed(block, b"{}")) == [SseEvent(b"ping", b"{}")]


@pytest.mark.parametrize(
    "block", [b"\x01n\x63", b"\x01n", b"\x01n\x07\x00\x09x", b"\x01n\x04\x00"], ids=["type", "value", "text", "number"]
)
def test_malformed_headers_are_refused(block: bytes) -> None:
    """A sound checksum does not make a header sound."""
    with pytest.raises(BadFrame):
        EventStreamParser(4096).feed(_sealed(block))


@pytest.mark.parametrize("place", [5, 9, 20, -1])
def test_flipped_bit_is_refused(place: int) -> None:
    """Both checksums are looked at."""
    broken = bytearray(frame(_EVENT, b"payload"))
    broken[place] ^= 1
    with pytest.raises(BadFrame):
        EventStreamParser(4096).feed(bytes(broken))


def test_length_is_bounded() -> None:
    """A message that says it is too long is refused from its head alone."""
    with pytest.raises(BadFrame, match="length"):
        EventStreamParser(64).feed(frame(_EVENT, b"x" * 200)[:12])
