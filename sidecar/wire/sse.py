"""Cuts a byte stream into server-sent events, as the WHATWG HTML standard, section 9.2.6, defines them.

The result does not depend on how the bytes were cut into reads. An event without its blank line at the end of the
stream is not dispatched, as the standard says.
"""

from msgspec import Struct

MAX_EVENT_BYTES = 16 * 1024 * 1024  # images come as one event of megabytes; beyond this only a broken server sends

# `find` and not `in`: for bytes `in` first tries the needle as a number, which costs more than the search.
_BOM = b"\xef\xbb\xbf"
_DATA = b"data: "
_EVENT = b"event: "


class SseEvent(Struct, frozen=True, gc=False):
    """One event: its name (empty where the stream gave none) and its data lines joined by line feeds."""

    name: bytes
    data: bytes


class SseParser:
    """Feed bytes, get the events that they completed.

    An event of more than `max_event_bytes` is dropped, `overflow` becomes True, and parsing goes on with the next one.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.overflow = False
        self._max_event_bytes = max_event_bytes
        self.fresh = True  # nothing is pending: the next byte begins an event
        self._started = False  # past the place where a byte order mark may stand
        self._after_cr = False  # the last byte was CR: an LF that follows belongs to it
        self._pieces: list[bytes] = []  # of the line that is not complete yet
        self._size = 0  # bytes of the event so far, with the incomplete line
        self._dropping = False
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that `data` completed, in order."""
        if self.fresh and data[-2:] == b"\n\n" and data.find(b"\r") < 0 and len(data) <= self._max_event_bytes:
            first = data.find(b"\n")
            if first == len(data) - 2 and data.startswith(_DATA):
                self._started = True
                return [SseEvent(b"", data[6:first])]  # the usual read: one event, in OpenAI's form
            events = _whole_events(data)
            if events is not None:
                self._started = True
                return events
        events = self._feed_lines(data)
        self.fresh = self._started and not (self._size or self._after_cr or self._dropping or self._name)
        return events

    def _feed_lines(self, data: bytes) -> list[SseEvent]:
        if not self._started:
            data = b"".join(self._pieces) + data
            self._pieces = []
            if len(data) < 3 and _BOM.startswith(data):
                self._pieces = [data]
                return []
            self._started = True
            data = data.removeprefix(_BOM)
        if data and self._after_cr:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *lines = data.split(b"\n")
        self._pieces.append(first)
        self._grow(len(first))
        if not lines:
            return []
        events: list[SseEvent] = []
        rest = lines.pop()
        self._line(b"".join(self._pieces), events)
        for line in lines:
            self._grow(len(line))
            self._line(line, events)
        self._pieces = [rest]
        self._grow(len(rest))
        return events

    def _grow(self, size: int) -> None:
        """Counts bytes of the present event, and gives it up when they are too many."""
        self._size += size
        if size and self._size > self._max_event_bytes:
            self.overflow = self._dropping = True
            # One byte stays, so that the rest of a line that was cut here is not taken for a blank line.
            self._pieces = [b":"]
            self._data = []

    def _line(self, line: bytes, events: list[SseEvent]) -> None:
        if not line:
            if self._data and not self._dropping:
                events.append(SseEvent(self._name, b"\n".join(self._data)))
            self._name = b""
            self._data = []
            self._size = 0
            self._dropping = False
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")


def _whole_events(data: bytes) -> list[SseEvent] | None:
    """The events of a read that has only whole ones in the usual spelling (LF, one data line, one space), else None."""
    second = data.find(b"\n", data.find(b"\n") + 1)
    if second == len(data) - 2 and data.startswith(_EVENT):
        name, _, text = data[:-2].partition(b"\n")
        return [SseEvent(name[7:], text[6:])] if text.startswith(_DATA) else None
    blocks = data[:-2].split(b"\n\n")
    feeds = data.count(b"\n")
    if feeds == 2 * len(blocks):
        if all(block.startswith(_DATA) for block in blocks):
            return [SseEvent(b"", block[6:]) for block in blocks]
    elif feeds == 3 * len(blocks):
        events = []
        for block in blocks:
            name, _, text = block.partition(b"\n")
            if not name.startswith(_EVENT) or not text.startswith(_DATA) or b"\n" in text:
                return None
            events.append(SseEvent(name[7:], text[6:]))
        return events
    return None
