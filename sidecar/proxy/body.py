"""Reading a request's body off the client's connection, by Content-Length or chunked, whole or piece by piece."""

from typing import Final

from sidecar.errors import ProtocolError
from sidecar.wire.framing import Chunked
from sidecar.wire.http1 import RequestHead

_TOO_LARGE: Final = "the body is larger than max_body_bytes"


class RequestBody:
    """One body. `feed` gives its payload as it arrives; `buffer` keeps it until it is whole."""

    __slots__ = ("_chunked", "_left", "_limit", "_parts", "size")

    def __init__(self, head: RequestHead, limit: int) -> None:
        """`limit` is the largest body that is forwarded at all, in bytes.

        Raises:
            ProtocolError: 413, Content-Length already says that it is larger.
        """
        self._chunked = Chunked() if head.chunked else None
        self._left = head.length or 0
        self._limit = limit
        self._parts: list[bytes] = []
        self.size = 0  # payload bytes read so far
        if self._left > limit:
            raise ProtocolError(_TOO_LARGE, 413)

    @property
    def done(self) -> bool:
        return self._chunked.done if self._chunked is not None else self._left == 0

    def feed(self, data: bytes, at: int = 0) -> tuple[bytes, int]:
        """Reads on at `at`: (payload, index behind what belongs to this body).

        Raises:
            ProtocolError: 400 for bad chunks, 413 when a chunked body grows over the limit.
        """
        if self._chunked is None:
            payload = data[at : at + self._left]
            self._left -= len(payload)
            end = at + len(payload)
        else:
            payload, end = self._chunked.feed(data[at:] if at else data)
            end += at
        self.size += len(payload)
        if self.size > self._limit:
            raise ProtocolError(_TOO_LARGE, 413)
        return payload, end

    def keep(self, payload: bytes) -> None:
        """Buffers a piece."""
        if payload:
            self._parts.append(payload)

    def take(self) -> bytes:
        """All that was buffered, once."""
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)
