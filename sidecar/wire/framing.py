"""Message bodies on the wire: the strict incremental decoder of the chunked coding (RFC 9112 section 7.1).

Strict means: a size of 1 to 15 hexadecimal digits, CRLF and nothing else at line ends, extensions and trailers bounded.
What real senders produce passes; what two parsers could read in two ways is a ProtocolError.
"""

import re
from typing import Final

from sidecar.errors import ProtocolError

MAX_LINE_BYTES: Final = 4096  # a size line with its extensions; real ones have 2 to 8 bytes
MAX_TRAILER_BYTES: Final = 16384

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[\t ]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_BARE_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")
_SIZE_STATE, _DATA_STATE, _CRLF_STATE, _TRAILER_STATE, _DONE_STATE = range(5)


class Chunked:
    """One chunked body. Feed it what arrives; it gives the payload and says where the message ends."""

    __slots__ = ("_held", "_left", "_state", "_trailer_bytes", "done")

    def __init__(self) -> None:
        self.done = False  # the last chunk and its trailers have been read
        self._state = _SIZE_STATE
        self._left = 0  # payload bytes of the chunk still to come
        self._held = b""  # the beginning of a line whose end has not come yet
        self._trailer_bytes = 0

    @property
    def fresh(self) -> bool:
        """Whether the next byte begins a chunk."""
        return self._state == _SIZE_STATE and not self._held

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Decodes `data`: (payload, index in `data` just behind the end of the message, or its length while unfinished).

        Raises:
            ProtocolError: the bytes are not a chunked body.
        """
        held = len(self._held)
        if self._state == _SIZE_STATE and not held:
            line = data.find(b"\r\n")
            size = len(data) - line - 4
            if size > 0 and data.startswith(b"%x\r\n" % size) and data.endswith(b"\r\n"):
                return data[line + 2 : -2], len(data)  # the usual read of a stream: one whole chunk
        if held:
            data = self._held + data
            self._held = b""
        parts: list[bytes] = []
        at, size = self._whole(data, parts), len(data)
        while at < size and not self.done:
            if self._state == _DATA_STATE:
                piece = data[at : at + self._left]
                parts.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _CRLF_STATE
            else:
                end = self._line(data, at)
                if end < 0:
                    self._held = data[at:]
                    return (parts[0] if len(parts) == 1 else b"".join(parts)), size - held
                at = end
        return (parts[0] if len(parts) == 1 else b"".join(parts)), at - held

    def _whole(self, data: bytes, parts: list[bytes]) -> int:
        """Takes the chunks that are whole and have a bare size line, and a bare end; the index behind them."""
        at = 0
        if self._state == _SIZE_STATE:
            while (line := _BARE_SIZE.match(data, at)) is not None:
                begin = line.end()
                end = begin + int(line[1], 16)
                if not data.startswith(b"\r\n", end):
                    break
                at = end + 2
                if end == begin:
                    self._state = _DONE_STATE
                    self.done = True
                    break
                parts.append(data[begin:end])
        return at

    def _line(self, data: bytes, at: int) -> int:
        """Reads one line of framing at `at`; the index behind it, or -1 when its end has not come yet."""
        if self._state == _CRLF_STATE:
            if data.startswith(b"\r\n", at):
                self._state = _SIZE_STATE
                return at + 2
            if data[at:] == b"\r":
                return -1
            raise ProtocolError("a chunk is longer than its size says")
        end = data.find(b"\n", at)
        if end < 0:
            if len(data) - at > (MAX_LINE_BYTES if self._state == _SIZE_STATE else MAX_TRAILER_BYTES):
                raise ProtocolError("a line of chunked framing is too long")
            return -1
        if self._state == _SIZE_STATE:
            match = _SIZE.match(data, at)
            if match is None or match.end() != end + 1 or end - at > MAX_LINE_BYTES:
                raise ProtocolError("a chunk size is malformed")
            self._left = int(match[1], 16)
            self._state = _DATA_STATE if self._left else _TRAILER_STATE
        elif data.startswith(b"\r\n", at):
            self._state = _DONE_STATE
            self.done = True
        else:
            self._trailer_bytes += end + 1 - at
            if self._trailer_bytes > MAX_TRAILER_BYTES or _TRAILER.fullmatch(data, at, end + 1) is None:
                raise ProtocolError("a trailer is malformed or too long")
        return end + 1


def chunk(payload: bytes) -> bytes:
    """`payload` as one chunk; nothing for nothing, because an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


LAST_CHUNK: Final = b"0\r\n\r\n"
