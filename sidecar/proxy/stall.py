"""Whether a client takes what waits for it: one that takes nothing for too long is given up.

What waits is what lies in our buffer and in the kernel's together. A client that reads a little now and then moves the
kernel's count every few KiB, ours only when the kernel's buffers, which may be megabytes, have become free. Any byte that
left is progress: there is no least speed, as there is none when the client talks to the provider itself.

It promises to find a client between 1 and 1.25 limits after the last progress. It knows nothing of exchanges. Whether a
client whose bytes nobody reads has left only the kernel knows, too.
"""

import asyncio
import fcntl
import select
import struct
import termios
from typing import Final

_LOOKS: Final = 4  # in a limit


class Stall:
    """One client of whom something waits to be taken."""

    __slots__ = ("_limit_s", "_moved_at", "_transport", "_waits", "every_s")

    def __init__(self, transport: asyncio.Transport, limit_s: float, now: float) -> None:
        self.every_s = limit_s / _LOOKS  # how often to look
        self._transport = transport
        self._limit_s = limit_s
        self._moved_at = now
        self._waits = waiting_bytes(transport)

    def over(self, now: float) -> bool:
        """Whether the client has taken nothing for the whole limit, as far as the looks until now tell."""
        waits = waiting_bytes(self._transport)
        if waits != self._waits:  # what went from our buffer to the kernel's is not gone, and both are counted
            self._waits, self._moved_at = waits, now
        return now - self._moved_at >= self._limit_s


def waiting_bytes(transport: asyncio.Transport) -> int:
    """Bytes for the peer that it has not acknowledged: ours, and the kernel's where it tells."""
    ours = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    try:
        held = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError, AttributeError):  # it is closed, or this system has no such question
        return ours
    return ours + int(struct.unpack("i", held)[0])


def has_left(transport: asyncio.Transport, *, half: bool) -> bool:
    """Whether the peer reset its side, or with `half` only closed it, asked of the kernel without reading."""
    return _shows(transport, (select.POLLRDHUP if half else 0) | select.POLLHUP | select.POLLERR)


def has_come(transport: asyncio.Transport) -> bool:
    """Whether something of the peer waits to be read, if only its end, asked in the same way."""
    return _shows(transport, select.POLLIN | select.POLLHUP | select.POLLERR)


def _shows(transport: asyncio.Transport, events: int) -> bool:
    sock = transport.get_extra_info("socket")
    if sock is None or transport.is_closing():
        return False
    poller = select.poll()
    poller.register(sock.fileno(), events)
    return bool(poller.poll(0))
