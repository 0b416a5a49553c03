"""Reading a request's body off the client's connection, by Content-Length or chunked, whole or piece by piece.

A large body of known length is put together as it comes, in memory that is asked for at its beginning and filled in place:
joined at its end, eight megabytes would be copied, into fresh pages, at one go. And it goes up in slices.
"""

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Final

from sidecar.errors import ProtocolError
from sidecar.wire.framing import Chunked
from sidecar.wire.http1 import RequestHead
from sidecar.wire.request_view import SMALL_BODY_BYTES

LARGE_BYTES: Final = SMALL_BODY_BYTES  # what is read in slices goes up in slices, so much in one turn of the loop
_TOO_LARGE: Final = "the body is larger than max_body_bytes"

Parts = tuple[bytes | memoryview, ...]  # of one body


class RequestBody:
    """One body. `feed` gives its payload as it arrives; `buffer` keeps it until it is whole."""

    __slots__ = ("_chunked", "_left", "_limit", "_parts", "_whole", "size")

    def __init__(self, head: RequestHead, limit: int) -> None:
        """`limit` is the largest body that is forwarded at all, in bytes.

        Raises:
            ProtocolError: 413, Content-Length already says that it is larger.
        """
        self._chunked = Chunked() if head.chunked else None
        self._left = head.length or 0
        self._limit = limit
        self._parts: list[bytes] = []
        self._whole: BytesIO | None = None
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
        """Buffers a piece that `feed` gave."""
        if not payload:  # the head came alone: there may be no room for the body yet
            return
        if self._whole is not None:
            self._whole.write(payload)
        elif self._chunked is None and self.size + self._left > LARGE_BYTES and not self._parts:
            self._whole = BytesIO(bytes(self.size + self._left))  # it takes these zeros over, without a copy
            self._whole.write(payload)
        else:
            self._parts.append(payload)

    def take(self) -> bytes:
        """All that was buffered, once."""
        if self._whole is not None:
            kept, self._whole = self._whole, None
            return kept.getvalue() if self.done else kept.getvalue()[: kept.tell()]
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)


def slices(parts: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    """The bytes of all parts in order, LARGE_BYTES at most at a time; nothing is copied."""
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(view), LARGE_BYTES):
            yield view[at : at + LARGE_BYTES]
