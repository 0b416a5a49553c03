"""Takes out of a stream what only our own `stream_options.include_usage` put there.

The client did not ask for usage, so its bytes must be those that it would have got without us. Two things differ: one
event with `"choices":[]` (OpenRouter: a choice that says nothing) and the usage, after the finish reason; and, at some
providers, a top-level `"usage":null` in every other chunk. The first is dropped, the second is cut out with its comma.
Everything else passes as it came.
llama.cpp moves its `timings` from the finish event to the usage event when asked: there the finish event waits for the
event behind it (the server writes both at once) and gets them back.

What is held back: from a finish reason on the incomplete event (then it is judged whole); before that only a tail that
could be the beginning of `,"usage":null`, and from `"usage"` on until its event is complete. An event of more than
64 KiB is not judged but let through.
"""

import re

import msgspec
from msgspec import Raw, Struct

from sidecar.wire.alike import Alike
from sidecar.wire.json_scan import MemberScanner

MAX_HELD_BYTES = 65_536  # of the one event that is held while it is not known whether it is to be taken out

_KEY = b'"usage"'
_BLANK = b" \t"
_BOUNDARY = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?=[^\n]))")
_DATA_LINE = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])data:([^\r\n]*)")
_COMMENT = re.compile(rb"(?:\A|(?<=[\r\n])):[^\r\n]*(?:\r\n|\n|\r)")
_NULL = re.compile(rb'"usage"[ \t]*:[ \t]*null')
_LLAMA = re.compile(rb'"system_fingerprint":"b[0-9]+-')
_FINISH = re.compile(rb'"finish_reason"[ \t]*:[ \t]*"')


class _Head(Struct, gc=False):
    choices: Raw = Raw(b"")
    usage: Raw = Raw(b"")
    timings: Raw = Raw(b"")
    error: Raw = Raw(b"")


class _Choice(Struct, gc=False):
    delta: dict[str, Raw] | None = None
    text: str | None = None
    finish_reason: str | None = None


_decode = msgspec.json.Decoder(_Head).decode
_decode_choices = msgspec.json.Decoder(list[_Choice]).decode
_NOTHING = frozenset({b"null", b'""', b"[]"})
_NO_ERROR = (b"", b"null")


class UsageStrip:
    """Feed the decoded stream, send on what comes back. `changed` tells whether any byte was taken out."""

    def __init__(self) -> None:
        self.changed = False
        self._event = b""  # of the incomplete event; of one too large only its last bytes
        self._sent = 0  # how much of it the client has
        self._too_large = False
        self._finished = False  # a finish reason was seen: the usage may follow
        self._waiting = b""  # llama.cpp's finish event, until the one behind it is known
        self._timings = b""  # of the usage event just dropped
        self._likeness: tuple[Alike, bytes] | None = None  # of an event that was cut, with what is left behind its text

    def feed(self, data: bytes) -> bytes:
        """The bytes that may go to the client now."""
        if (
            not self._event
            and not self._finished
            and data[-2:] == b"\n\n"
            and data.find(_KEY) < 0  # `in` is slower: it tries the needle as a number first
            and data.find(b'"finish_reason":"') < 0
            and data.find(b'"finish_reason": "') < 0
        ):
            return data
        if not self._event and 0 < data.find(b"\n\n") == len(data) - 2 and data.find(b"\r") < 0:
            return self._whole(data)  # one whole event, as providers that write usage in each chunk send them
        buffer = self._event + data
        scan = max(0, len(self._event) - 3)  # a boundary may lie across the cut
        start = 0
        out: list[bytes] = []
        while (boundary := _BOUNDARY.search(buffer, scan)) is not None:
            out.append(self._complete(buffer[start : boundary.end()]))
            start = scan = boundary.end()
        self._event = buffer[start:]
        out.append(self._incomplete())
        return b"".join(out)

    def _whole(self, event: bytes) -> bytes:
        """One event, come alone. Those that differ from an earlier one in plain text alone are cut as that one was."""
        likeness = self._likeness
        if likeness is not None and not self._finished and len(event) <= MAX_HELD_BYTES:
            alike, kept_tail = likeness
            end = alike.text_end(event)
            if end:
                return event[:end] + kept_tail + event[end + len(alike.tail) :]
        kept = self._complete(event)
        if len(kept) < len(event) and not self._finished:
            self._likeness = _likeness(event, kept)
        return kept

    def kept_of(self, alike: Alike) -> bytes | None:
        """What stays of `alike.tail` in events that are alike, while none is pending; None where each has to be seen."""
        if self._event or self._finished:
            return None
        if self._likeness is not None:
            mine, kept = self._likeness
            return kept if mine.start == alike.start and mine.tail == alike.tail else None
        around = alike.start + alike.rest
        return None if _KEY in around or _FINISH.search(around) else alike.tail

    def finish(self) -> bytes:
        """What is still held when the stream ends."""
        held = self._waiting + self._event[self._sent :]
        self._waiting = b""
        self._event = b""
        self._sent = 0
        return held

    def _complete(self, event: bytes) -> bytes:
        small = not self._too_large and len(event) <= MAX_HELD_BYTES
        kept = self._judge(event) if small else event
        out = kept[self._sent :]
        self._sent = 0
        self._too_large = False
        if not self._finished:
            return out
        before = self._released()
        if small and b"}" in out and _moves_timings(kept):
            self._waiting = out
            return before
        return before + out

    def _released(self) -> bytes:
        """The finish event that waited, with the timings of the usage event behind it."""
        held, self._waiting = self._waiting, b""
        timings, self._timings = self._timings, b""
        if not held or not timings:
            return held
        end = held.rindex(b"}")
        return held[:end] + b',"timings":' + timings + held[end:]

    def _incomplete(self) -> bytes:
        event, sent = self._event, self._sent
        if self._too_large or len(event) > MAX_HELD_BYTES:
            self._too_large = True
            self._event = event[-3:]
            self._sent = len(self._event)
            return self._released() + event[sent:]
        if self._finished or event.find(b'"finish_reason":"') >= 0:
            return b""
        self._sent = max(sent, _safe_length(event))
        return event[sent : self._sent]

    def _judge(self, event: bytes) -> bytes:
        """The event without what we caused; of a usage-only event nothing but its comments."""
        if not self._finished and _FINISH.search(event) is not None:
            self._finished = True
        if event.find(_KEY) < 0:
            return event
        place = _json_place(event)
        if place is None:
            return event
        start, end = place
        try:
            head = _decode(event[start:end])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return event
        usage = bytes(head.usage)
        if usage == b"null":
            self.changed = True
            return _without_null(event, start, end)
        silent = bytes(head.error) in _NO_ERROR and _says_nothing(bytes(head.choices), finished=self._finished)
        if usage[:1] == b"{" and not self._sent and silent:
            self.changed = True
            self._timings = bytes(head.timings)
            return b"".join(_COMMENT.findall(event))
        return event


def _likeness(event: bytes, kept: bytes) -> tuple[Alike, bytes] | None:
    """What recognises events such as this one, and what is left of its bytes between the text and what hides the text's
    length. None where the cut is elsewhere."""
    alike = Alike.around(event)
    if alike is None:
        return None
    end = alike.text_end(event)
    left = len(event) - end - len(alike.tail)
    if not end or kept[:end] != event[:end] or kept[len(kept) - left :] != event[len(event) - left :]:
        return None
    return alike, kept[end : len(kept) - left]


def _says_nothing(choices: bytes, *, finished: bool) -> bool:
    """Whether there is no choice in the event, or, behind the finish reason, none that says anything."""
    if choices.translate(None, b" \t") == b"[]":
        return True
    if not finished or not choices:
        return False
    try:
        said = _decode_choices(choices)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return not any(one.text or one.finish_reason or _speaks(one.delta or {}) for one in said)


def _speaks(delta: dict[str, Raw]) -> bool:
    return any(name != "role" and bytes(value) not in _NOTHING for name, value in delta.items())


def refuses_usage(status: int, body: bytes) -> bool:
    """Whether this answer says that the upstream does not know `stream_options`: the call is repeated without it."""
    return status in (400, 422) and (b"stream_options" in body or b"include_usage" in body)


def _moves_timings(event: bytes) -> bool:
    """Whether this is a finish event of llama.cpp without the timings that it would have had without us."""
    return _LLAMA.search(event) is not None and event.find(b'"timings"') < 0 and _FINISH.search(event) is not None


def _safe_length(event: bytes) -> int:
    """How much of an incomplete event cannot be part of a member `usage` or of the comma before it."""
    at = event.find(_KEY)
    if at < 0:
        at = len(event)
        for length in range(len(_KEY) - 1, 0, -1):
            if event.endswith(_KEY[:length]):
                at -= length
                break
    head = event[:at].rstrip(_BLANK)
    return len(head[:-1].rstrip(_BLANK)) if head.endswith(b",") else len(head)


def _json_place(event: bytes) -> tuple[int, int] | None:
    """Where the event's JSON is; None where it is not in one data line: no server that sends usage does so."""
    end = len(event) - 2
    if event.startswith(b"data:") and event.find(b"\n") == end and event.find(b"\r") < 0:
        return 5, end
    line = _DATA_LINE.search(event)
    if line is None or _DATA_LINE.search(event, line.end()) is not None:
        return None
    return line.span(1)


def _without_null(event: bytes, start: int, end: int) -> bytes:
    """The event whose JSON is at [start, end) without its top-level `usage` members of null; there is at least one."""
    at = event.find(_KEY, start)
    place = _NULL.match(event, at)
    if place is not None and event.find(_KEY, at + 1) < 0:
        return _cut(event, at, place.end())
    scanner = MemberScanner(event[start:end]).finish()
    for member in reversed(scanner.members):
        if scanner.key(member) == b"usage" and scanner.body[member.start : member.end] == b"null":
            event = _cut(event, start + member.key_start - 1, start + member.end)
    return event


def _cut(text: bytes, start: int, end: int) -> bytes:
    """`text` without the member at [start, end) and without the comma (and its blanks) that only this member needed."""
    head = text[:start].rstrip(_BLANK)
    if head[-1:] == b",":
        return head[:-1].rstrip(_BLANK) + text[end:]
    tail = text[end:].lstrip(_BLANK)
    if tail.startswith(b","):
        return text[:start] + tail[1:].lstrip(_BLANK)
    return text[:start] + text[end:]
