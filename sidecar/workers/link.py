"""One end of the socket between a worker and its leader: whole messages in, whole messages out.

Sending never waits: what the other end does not read stays in memory, and `waiting` says how much, so that callers stop in
time. What cannot be read is a fault of ours and ends the link, as the other end's death does; `on_lost` is told once.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from sidecar.workers.messages import LENGTH_BYTES, MAX_BYTES, Hello, Orders, Report, frame


class Link(asyncio.Protocol):
    """`on_message` takes the bytes of one message; what it raises ends the link."""

    def __init__(self, on_message: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._held = bytearray()
        self.lost = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Bytes that the other end has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: Hello | Orders | Report) -> None:
        """Sends it, or drops it when the link is lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(message))

    def close(self) -> None:
        """Ends the link when all that was sent is taken."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Ends the link at once: the other end does not read any more."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hands over each message that is whole. Raises ValueError for one above MAX_BYTES, which ends the link."""
        held = self._held
        held += data
        at = 0
        while len(held) - at >= LENGTH_BYTES:
            size = int.from_bytes(held[at : at + LENGTH_BYTES], "big")
            if size > MAX_BYTES:
                raise ValueError("a message beyond all bounds")
            if len(held) - at - LENGTH_BYTES < size:
                break
            at += LENGTH_BYTES + size
            self._on_message(bytes(held[at - size : at]))
        del held[:at]

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self.lost.set()
        self._on_lost()
