"""Recognises the events of a stream that differ from an earlier one in nothing but their text.

Most events of an answer are the same bytes around another piece of text. One of them is read as any event is, and once
more with its text a byte longer. If the reader sees a byte more of text and no other difference, then the same bytes
around any plain text (ASCII without quotes, backslashes and control characters) are read as this event with so much
text: a parser has the same state behind the same bytes, and plain text does not lead out of its string.

What providers put in to hide the length of the text may vary: blanks before the last brace (Anthropic), or the letters
of a last member `obfuscation` (OpenAI). Nobody reads either.
"""

import re
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from sidecar.wire.framing import chunk
from sidecar.wire.reading import Piece
from sidecar.wire.sse import SseEvent

_TEXT: Final = re.compile(
    rb'"(?:content|text|delta|thinking|reasoning|reasoning_content|partial_json)": ?"([ !#-\[\]-~]+)(?=")'
)
_PLAIN: Final = re.compile(rb"[ !#-\[\]-~]+")
_SIZES: Final = 2048  # of chunks that are known so: events have 100 to 500 bytes
_AT_ONCE: Final = 256  # arrivals that wait to be told to the meter
_CRLF: Final = b"\r\n"
_LINE: Final = re.compile(rb"([0-9a-fA-F]{1,3})\r\n")  # of a chunk of up to 4 KiB
_CLOSE: Final = b"}\n\n"
_HIDING: Final = b'"obfuscation":"'
_HIDING_CLOSE: Final = b'"}\n\n'


class Alike:
    """The bytes around the text of one event."""

    __slots__ = ("_close", "rest", "start", "tail")

    def __init__(self, start: bytes, rest: bytes) -> None:
        """`start` ends where the text begins, `rest` begins where it ends."""
        self.start = start
        self.rest = rest
        hiding = rest.find(_HIDING)
        # What stands behind the text, up to what hides its length.
        self.tail = rest[: hiding + len(_HIDING)] if hiding >= 0 else rest.removesuffix(_CLOSE).rstrip(b" ")
        self._close = _HIDING_CLOSE if hiding >= 0 else _CLOSE

    @classmethod
    def around(cls, event: bytes) -> "Alike | None":
        """The bytes around the first text of an event, which is given with its empty line. None where it has no such text,
        or one that is not plain."""
        text = _TEXT.search(event)
        return None if text is None else cls(event[: text.start(1)], event[text.end(1) :])

    def text_end(self, read: bytes) -> int:
        """Where the text ends in this read if it is one event of this kind, else 0."""
        start = self.start
        if not read.startswith(start):
            return 0
        text = _PLAIN.match(read, len(start))
        if text is None:
            return 0
        end = text.end()
        rest = read[end:]
        return end if rest == self.rest or self.fits(rest) else 0

    def text_bytes(self, read: bytes) -> int:
        """How much text there is in this read if it is one event of this kind, else 0."""
        end = self.text_end(read)
        return end and end - len(self.start)

    @property
    def is_whole(self) -> bool:
        """Whether the event from which this was made fits itself."""
        return self.fits(self.rest)

    def fits(self, rest: bytes) -> bool:
        """Whether what stands behind a text differs in nothing but what hides the text's length."""
        tail, close = self.tail, self._close
        size = len(rest) - len(tail) - len(close)
        if size < 0 or not (rest.startswith(tail) and rest.endswith(close)):
            return False
        filling = rest[len(tail) : len(tail) + size]
        return filling.isalnum() if close is _HIDING_CLOSE else not filling.strip(b" ")


# By the length of a read that is one whole chunk: the line that it begins with.
_LINES: Final = {len(line) + size + 2: line for size in range(1, _SIZES) for line in (b"%x\r\n" % size,)}


class AlikeChunks:
    """Reads of whole chunks (RFC 9112 section 7.1), each with one event that is alike: one chunk, as they come, or several
    where we are late. They are only counted, and told to the meter together; what they have in common may lose a part on
    its way."""

    __slots__ = ("_alike", "_beside", "_kept", "_more", "_rest", "_size", "_start", "text_bytes", "times")

    def __init__(self, alike: Alike, kept: bytes) -> None:
        """`kept` is what of `alike.tail` goes on."""
        self._alike = alike
        self._start, self._size, self._rest = alike.start, len(alike.start), alike.rest + _CRLF
        self._kept = None if kept == alike.tail else kept
        self.times: list[float] = []  # of the reads
        self.text_bytes = 0  # of all that were counted, together
        self._beside = 0  # events that came in one read with an earlier one
        self._more = 0  # bytes behind texts, beyond what stands behind the first one

    def take(self, read: bytes, t_s: float) -> bytes:
        """Counts a read that arrived at `t_s`: what goes on of it, in chunks. Nothing where anything in it is none of these,
        or enough of them wait to be told."""
        line = _LINES.get(len(read))
        if line is None or not read.startswith(line):
            return self._several(read, t_s)
        at = len(line)
        begin = at + self._size
        if not read.startswith(self._start, at) or (text := _PLAIN.match(read, begin)) is None:
            return b""
        end = text.end()
        rest = read[end:]
        times = self.times
        if len(times) >= _AT_ONCE or (rest != self._rest and not self._fits(rest)):
            return b""
        times.append(t_s)
        self.text_bytes += end - begin
        return read if self._kept is None else chunk(self._without(read[at:-2], end - at))

    @property
    def events(self) -> int:
        """How many were counted."""
        return len(self.times) + self._beside

    @property
    def payload_bytes(self) -> int:
        """Of all that were counted, together."""
        around = self._size + len(self._rest) - len(_CRLF)
        return self.text_bytes + self.events * around + self._more

    def _several(self, read: bytes, t_s: float) -> bytes:
        """As `take`: all chunks of the read, or none."""
        ends: list[tuple[bytes, int]] = []
        at = 0
        while (line := _LINE.match(read, at)) is not None:
            begin = line.end()
            at = begin + int(line[1], 16)
            event = read[begin:at]
            end = self._alike.text_end(event)
            if not end or not read.startswith(_CRLF, at):
                return b""
            ends.append((event, end))
            at += len(_CRLF)
        if not ends or at != len(read) or len(self.times) >= _AT_ONCE:
            return b""
        self.times.append(t_s)
        self._beside += len(ends) - 1
        texts = sum(end for _, end in ends) - len(ends) * self._size
        self.text_bytes += texts
        around = self._size + len(self._alike.rest)
        self._more += sum(len(event) for event, _ in ends) - texts - len(ends) * around
        return read if self._kept is None else chunk(b"".join(self._without(event, end) for event, end in ends))

    def _fits(self, rest: bytes) -> bool:
        """Whether this is behind a text, too; then it is counted."""
        fits = rest.endswith(_CRLF) and self._alike.fits(rest[:-2])
        if fits:
            self._more += len(rest) - len(self._rest)
        return fits

    def _without(self, event: bytes, end: int) -> bytes:
        """An event, whose text ends there, with what is kept of what follows."""
        assert self._kept is not None
        return event[:end] + self._kept + event[end + len(self._alike.tail) :]


def alike_to(
    read: bytes, event: SseEvent, piece: Piece | None, reader: Callable[[bytes, bytes], Piece | None]
) -> Alike | None:
    """What recognises events such as this one, which came alone in `read`, and says `piece` to `reader`. None where it says
    more than its text and who answers, and where its bytes do not show which of them are the text."""
    before = b"event: %b\ndata: " % event.name if event.name else b"data: "
    text = _TEXT.search(event.data)
    if text is None or read != b"%b%b\n\n" % (before, event.data):
        return None
    start, end = text.span(1)
    alike = Alike(before + event.data[:start], event.data[end:] + b"\n\n")
    longer = reader(event.name, b"%bx%b" % (event.data[:end], event.data[end:]))
    return alike if alike.is_whole and _differ_in_text(piece, longer, end - start) else None


def _differ_in_text(piece: Piece | None, longer: Piece | None, size: int) -> bool:
    """Whether both say nothing but text and who answers: one `size` bytes of text, the other one a byte more."""
    if piece is None:
        return False
    told = Piece(size, answer=piece.answer, choices=piece.choices, completion_id=piece.completion_id, model=piece.model)
    return piece == told and longer == replace(told, text_bytes=size + 1)
