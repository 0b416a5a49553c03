"""The way down: one response body, from the upstream's framing to what the client gets and what the meter sees.

Bytes pass as they came, chunk framing included. They are framed anew only where something has to come out of them (the
usage event that we asked for) or where the client cannot take the framing (HTTP/1.0).
"""

from typing import Final, Literal

from sidecar.errors import ProtocolError
from sidecar.wire.framing import LAST_CHUNK, Chunked, chunk
from sidecar.wire.http1 import ResponseHead
from sidecar.wire.usage_ask import UsageStrip

Framing = Literal["none", "length", "chunked", "close"]
_NO_BODY: Final = frozenset({204, 304})


def framing_of(head: ResponseHead, method: bytes) -> Framing:
    """How the end of this response is found (RFC 9112 section 6.3)."""
    if method == b"HEAD" or head.status in _NO_BODY:
        return "none"
    if head.chunked:
        return "chunked"
    return "length" if head.length is not None else "close"


class ResponseBody:
    """Reads one response body. `done` tells its end; `clean` that the connection may be used again."""

    __slots__ = ("_chunked", "_left", "_rechunk", "_strip", "_verbatim", "done", "extra", "framing")

    def __init__(self, head: ResponseHead, framing: Framing, *, strip: UsageStrip | None, plain: bool) -> None:
        """`plain`: the client cannot take chunks (HTTP/1.0), it gets the payload and then the end of the connection."""
        self.framing = framing
        self._left = (head.length or 0) if framing == "length" else 0
        self._chunked = Chunked() if framing == "chunked" else None
        self._strip = strip
        # What is taken out makes a Content-Length wrong, so a stripped body goes on as chunks.
        self._rechunk = strip is not None and not plain and framing != "close"
        self._verbatim = strip is None and not plain
        self.done = framing == "none" or (framing == "length" and not self._left)
        self.extra = False  # bytes came behind the end: whatever they are, this connection is not to be trusted again

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """(bytes for the client, payload for the meter).

        Raises:
            ProtocolError: the chunked framing is broken.
        """
        if self._chunked is not None:
            payload, end = self._chunked.feed(data)
            self.done = self._chunked.done
            self.extra = end < len(data)
            if self._verbatim:
                return (data[:end] if self.extra else data), payload
        elif self.framing == "length":
            size = len(data)
            if size > self._left:
                self.extra = True
                data = data[: self._left]
            self._left -= len(data)
            self.done = not self._left
            payload = data
        elif self.framing == "none":
            self.extra = bool(data)
            return b"", b""
        else:
            payload = data
        if self._strip is None:
            return payload, payload
        return self._stripped(payload), payload

    def end(self) -> bytes:
        """The upstream closed the connection: what is left for the client, when that is how this body ends.

        Raises:
            ProtocolError: the body is not whole.
        """
        if self.framing != "close":
            raise ProtocolError("the upstream closed the connection before the response was whole", 502)
        self.done = True
        return self._strip.finish() if self._strip is not None else b""

    def _stripped(self, payload: bytes) -> bytes:
        assert self._strip is not None
        kept = self._strip.feed(payload) if payload else b""
        if self.done:
            kept += self._strip.finish()
        if not self._rechunk:
            return kept
        return chunk(kept) + LAST_CHUNK if self.done else chunk(kept)
