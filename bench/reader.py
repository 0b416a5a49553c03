"""Reads one streamed answer of the bench's upstream as it arrives, and checks every event of it.

A strict reader: chunked framing, one role event, the promised number of token events with the right id, then finish
reason, usage, `[DONE]` and the last chunk, and not a byte more. What it does not expect is an error with a name.
"""

from bench import payloads


class StreamReader:
    """Feed it what the socket gave; it collects `first_at`, `read_ns`, `first_ns` and one `transit_s` per token."""

    __slots__ = ("_chunks", "_events", "_head", "_text", "_wire", "done", "error", "first", "number", "transit_s")

    def __init__(self, number: int, chunks: int) -> None:
        self.number = number
        self._chunks = chunks
        self._wire = b""
        self._text = b""
        self._head = False
        self._events = 0
        self.done = False
        self.error = ""
        self.first: tuple[float, int, int] | None = None  # arrival, request read by the upstream, token written
        self.transit_s: list[float] = []

    def feed(self, data: bytes, now: float) -> None:
        """Takes bytes that arrived at `now` (monotonic seconds). Afterwards look at `done` and `error`."""
        self._wire += data
        if not self._head and not self._read_head():
            return
        while not self.error and not self.done and self._read_chunk():
            pass
        while not self.error:
            end = self._text.find(b"\n\n")
            if end < 0:
                break
            self._event(self._text[: end + 2], now)
            self._text = self._text[end + 2 :]
        if self.done and not self.error and (self._events != self._chunks + 4 or self._text or self._wire):
            self.error = f"{self._events} events for {self._chunks} tokens"

    def _read_head(self) -> bool:
        end = self._wire.find(b"\r\n\r\n")
        if end < 0:
            return False
        if not self._wire.startswith(b"HTTP/1.1 200"):
            self.error = "status " + self._wire[9:12].decode("latin-1")
        elif b"\r\ntransfer-encoding: chunked\r\n" not in self._wire[: end + 2].lower():
            self.error = "not chunked"
        self._head = True
        self._wire = self._wire[end + 4 :]
        return not self.error

    def _read_chunk(self) -> bool:
        """Moves one chunk from wire to text; False when it is not complete yet."""
        line = self._wire.find(b"\r\n")
        if line < 0:
            return False
        try:
            size = int(self._wire[:line], 16)
        except ValueError:
            self.error = "bad chunk size"
            return False
        end = line + 2 + size + 2
        if len(self._wire) < end:
            return False
        self._text += self._wire[line + 2 : end - 2]
        self._wire = self._wire[end:]
        self.done = size == 0
        return not self.done

    def _event(self, event: bytes, now: float) -> None:
        place = self._events
        self._events += 1
        if 1 <= place <= self._chunks:
            self._token(event, now)
            return
        read_ns = self.first[1] if self.first is not None else 0
        expected = (
            _role_of(event, self.number)
            if place == 0
            else [*payloads.last_events(self.number, read_ns, self._chunks), b""][min(place - self._chunks - 1, 3)]
        )
        if event != expected:
            self.error = f"wrong event {place}"

    def _token(self, event: bytes, now: float) -> None:
        found = payloads.TOKEN.fullmatch(event)
        if found is None or int(found[1]) != self.number:
            self.error = f"wrong event {self._events - 1}"
            return
        written_ns = int(found[3])
        if self.first is None:
            self.first = (now, int(found[2]), written_ns)
        self.transit_s.append(now - written_ns / 1e9)


def _role_of(event: bytes, number: int) -> bytes:
    """The role event that was expected, with the stamp that this one carries (it is not known beforehand)."""
    start = event.find(b'"fp_') + 4
    digits = event[start : start + 19]
    return payloads.role_event(number, int(digits)) if digits.isdigit() else b""
