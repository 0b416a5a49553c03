"""Cuts a byte stream into the messages of AWS's binary event stream (`application/vnd.amazon.eventstream`).

    total length (4) | headers length (4) | CRC of the 8 bytes before (4) | headers | payload | CRC of all before (4)

Lengths are big-endian, CRCs are CRC-32. What comes out are SseEvents, so that spokes need not know the framing: the name
is the event's type, or `!` and the exception's type. The result does not depend on how the bytes were cut into reads.

Reference: Amazon Transcribe developer guide, "Event stream encoding"; Smithy specification, "Amazon Event Stream".
"""

import struct
from typing import Final
from zlib import crc32

from sidecar.wire.sse import SseEvent

_PRELUDE_BYTES: Final = 12
_OVERHEAD_BYTES: Final = 16
_FIXED: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}  # header value type -> bytes
_SIZED: Final = (6, 7)  # bytes and text carry their length in two bytes
_TEXT: Final = 7


class BadFrame(Exception):
    """The bytes are no event stream: a checksum or a length is wrong. Nothing behind them can be read."""


class EventStreamParser:
    """Feed bytes, get the events that they completed."""

    def __init__(self, max_event_bytes: int) -> None:
        """A message that says it is longer than `max_event_bytes` is refused."""
        self._max_event_bytes = max_event_bytes
        self._waiting = bytearray()

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that `data` completed, in order.

        Raises:
            BadFrame: see there.
        """
        self._waiting += data
        events: list[SseEvent] = []
        while (size := self._next_size()) and len(self._waiting) >= size:
            frame = bytes(self._waiting[:size])
            del self._waiting[:size]
            events.append(_event(frame))
        return events

    def _next_size(self) -> int:
        """The length of the message that begins here; 0 while that is not known."""
        if len(self._waiting) < _PRELUDE_BYTES:
            return 0
        size, headers, check = struct.unpack_from(">III", self._waiting)
        if crc32(self._waiting[:8]) != check:
            raise BadFrame("the checksum of a message's head is wrong")
        if not _OVERHEAD_BYTES + headers <= size <= self._max_event_bytes:
            raise BadFrame("a message's length is impossible")
        return int(size)


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One message with text headers: what `EventStreamParser` reads. For servers and tests."""
    block = b"".join(
        bytes([len(name)]) + name.encode() + bytes([_TEXT]) + len(value.encode()).to_bytes(2, "big") + value.encode()
        for name, value in headers.items()
    )
    head = struct.pack(">II", _OVERHEAD_BYTES + len(block) + len(payload), len(block))
    body = head + crc32(head).to_bytes(4, "big") + block + payload
    return body + crc32(body).to_bytes(4, "big")


def _event(message: bytes) -> SseEvent:
    if crc32(message[:-4]) != int.from_bytes(message[-4:], "big"):
        raise BadFrame("the checksum of a message is wrong")
    end = _PRELUDE_BYTES + int.from_bytes(message[4:8], "big")
    headers = _headers(message[_PRELUDE_BYTES:end])
    if headers.get(b":message-type", b"event") == b"event":
        name = headers.get(b":event-type", b"")
    else:
        name = b"!" + (headers.get(b":exception-type") or headers.get(b":error-code") or b"error")
    return SseEvent(name, message[end:-4])


def _headers(block: bytes) -> dict[bytes, bytes]:
    """The text headers; those of other types are skipped."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(block):
        name = block[at + 1 : at + 1 + block[at]]
        at += 1 + block[at]
        if at >= len(block):
            raise BadFrame("a header has no value")
        kind = block[at]
        at += 1
        if kind in _SIZED:
            size = int.from_bytes(block[at : at + 2], "big")
            at += 2
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise BadFrame("a header's type is unknown")
        value = block[at : at + size]
        at += size
        if at > len(block):
            raise BadFrame("a header is cut off")
        if kind == _TEXT:
            found[name] = value
    return found
