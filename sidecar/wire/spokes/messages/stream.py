"""Reads the event stream of the Messages API.

What it promises: events in the neutral order, whatever the server sends. An event that cannot be read, that belongs to no
open block, or that comes before message_start or after the end is none. Counts grow: both message_start and message_delta
may tell all of them or some, so the largest of each field holds, and nothing is added up. A block's input that came whole
in content_block_start is told as a Delta, an empty one as "{}" when the block closes: arguments are always JSON.
Deltas of blocks that stay whole (Opaque) and deltas of an unknown type are Marks with the delta as extra.

It does not know how the stream goes on to the client (`writer`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

import msgspec
import orjson
from msgspec import Raw, Struct

from sidecar.errors import TranslationError
from sidecar.wire.anthropic import AnthropicUsage, merge, to_usage
from sidecar.wire.members import Members
from sidecar.wire.neutral import (
    AnyPart,
    Close,
    Delta,
    Done,
    Event,
    Failed,
    Mark,
    Open,
    Ping,
    Start,
    Stopped,
    Text,
    Thinking,
    Told,
    ToolCall,
)
from sidecar.wire.reading import loads, read_as
from sidecar.wire.spoke import MAX_CALLS, TOO_MANY_CALLS, StreamReader, problem_of
from sidecar.wire.spokes.messages.answer import read_counts, read_stop
from sidecar.wire.spokes.messages.parts import made_by, read_part
from sidecar.wire.spokes.messages.problem import read_problem
from sidecar.wire.sse import SseEvent

_DELTA: Final = b"content_block_delta"
_BARE_DELTA: Final = b'{"type":"content_block_delta"'  # of a server that names no events
_TEXT, _THOUGHTS, _ARGUMENTS = "text_delta", "thinking_delta", "input_json_delta"
_KNOWN: Final = (_TEXT, _THOUGHTS, _ARGUMENTS, "signature_delta", "citations_delta")


class _Delta(Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    signature: str | None = None
    citation: Raw = Raw(b"")


class _DeltaEvent(Struct, gc=False):
    type: str | None = None
    index: int | None = None
    delta: _Delta | None = None


_delta_event: Final = msgspec.json.Decoder(_DeltaEvent)


class _Block(Struct, gc=False):
    """An open one: its number among the neutral parts, the type of its deltas, and whether nothing of it came yet."""

    index: int
    kind: str
    empty: bool


class Reader(StreamReader):
    """One streamed answer."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self._parts = 0
        self._counts: AnthropicUsage | None = None
        self._started = self._stopped = self._ended = False

    def feed(self, event: SseEvent) -> Sequence[Event]:
        """What one event says."""
        try:
            if event.name == _DELTA or event.data.startswith(_BARE_DELTA):
                return self._delta(event.data)
            if self._ended:
                return ()
            body = Members(loads(event.data))
            kind = body.text("type") or event.name.decode(errors="replace")
            if kind == "error" or (body.has("error") and kind not in self._kinds):
                self._ended = True
                self._blocks.clear()
                return (Failed(problem=read_problem(0, event.data)),)
            if kind not in self._kinds or not (self._started or kind in ("message_start", "ping")):
                return ()
            return self._kinds[kind](self, body)
        except (orjson.JSONDecodeError, TranslationError):
            return ()

    def _start(self, body: Members) -> Sequence[Event]:
        message = body.object("message")
        if message is None or self._started:
            return ()
        for name in ("type", "role", "content", "stop_reason", "stop_sequence"):
            message.any(name)
        said = message.mapping("usage")
        if said is not None:
            self._counts = read_counts(said)
        usage = None if self._counts is None else to_usage(self._counts)
        start = Start(
            id=message.text("id") or "",
            model=message.text("model") or "",
            usage=usage,
            said=said,
            service_tier=None if usage is None else usage.service_tier,
            format="messages",
            extra=message.rest(),
        )
        self._started = True
        return (start,)

    def _open(self, body: Members) -> Sequence[Event]:
        """A block begins; none behind the end. Only calls may overlap in the neutral form: others are closed first."""
        number = body.integer("index")
        if number is None or number in self._blocks or self._stopped:
            return ()
        if len(self._blocks) == MAX_CALLS:
            self._ended = True
            self._blocks.clear()
            return (Failed(problem=problem_of(502, TOO_MANY_CALLS)),)
        part = read_part(body.mapping("content_block"), "content_block")
        kind, first = _emptied(part)
        calls = kind == _ARGUMENTS
        events = self._close_all(but=_ARGUMENTS if calls else "all")
        block = self._blocks[number] = _Block(self._parts, kind, not first)
        self._parts += 1
        mark = None
        if isinstance(part, Thinking) and part.signature is not None:
            mark = Mark(choice=0, index=block.index, signature=part.signature, origin=part.origin)
            part.signature = part.origin = None
        events.append(Open(choice=0, index=block.index, part=part))
        if first:
            events.append(Delta(choice=0, index=block.index, text=first))
        if mark is not None:
            events.append(mark)
        return events

    def _delta(self, data: bytes) -> Sequence[Event]:
        said = read_as(_delta_event, data)
        if said is None or said.delta is None or said.index is None:
            return ()
        block, delta = self._blocks.get(said.index), said.delta
        if block is None:
            return ()
        if delta.type != block.kind:
            return self._mark(block, delta, data)
        text = delta.text if block.kind == _TEXT else delta.thinking if block.kind == _THOUGHTS else delta.partial_json
        if not text:
            return ()
        block.empty = False
        return (Delta(choice=0, index=block.index, text=text),)

    @staticmethod
    def _mark(block: _Block, delta: _Delta, data: bytes) -> Sequence[Event]:
        """A delta that is no text: a signature, a citation, or one that only this format knows."""
        if delta.type == "signature_delta" and block.kind == _THOUGHTS:
            signature, origin = made_by(delta.signature)
            return (Mark(choice=0, index=block.index, signature=signature, origin=origin),) if signature else ()
        if delta.type == "citations_delta" and block.kind == _TEXT:
            citation = loads(bytes(delta.citation) or b"null")
            return (Mark(choice=0, index=block.index, extra={"citations": [citation]}),) if citation else ()
        if block.kind and delta.type in _KNOWN:
            return ()
        return (Mark(choice=0, index=block.index, extra={"delta": loads(data)["delta"]}),)

    def _close(self, body: Members) -> Sequence[Event]:
        block = self._blocks.pop(body.integer("index") or 0, None)
        return () if block is None else _closing(block)

    def _close_all(self, but: str = "all") -> list[Event]:
        """Closes what is open, but for blocks of this kind."""
        events: list[Event] = []
        for number, block in list(self._blocks.items()):
            if block.kind != but:
                events += _closing(self._blocks.pop(number))
        return events

    def _tell(self, body: Members) -> Sequence[Event]:
        """How it ended, and what it cost."""
        events: list[Event] = []
        said, delta = body.mapping("usage"), body.object("delta")
        if said is not None:
            self._counts = merge(self._counts, read_counts(said))
            events.append(Told(usage=to_usage(self._counts), said=said))
        reason = None if delta is None else delta.text("stop_reason")
        if delta is None or reason is None or self._stopped:
            return events
        self._stopped = True
        stop, extra = read_stop(reason)
        sequence = delta.text("stop_sequence")
        extra |= delta.rest()
        rest = body.rest()
        if rest:
            extra["message_delta"] = rest
        stopped = Stopped(choice=0, stop=stop or "stop", stop_sequence=sequence, extra=extra)
        return [*self._close_all(), *events, stopped]

    def _end(self, _: Members) -> Sequence[Event]:
        self._ended = True
        return [*self._close_all(), Done()]

    def _ping(self, _: Members) -> Sequence[Event]:
        return (Ping(),)

    # Of the class: a table in the object would refer back to it, and only a collection could free the answer.
    _kinds: ClassVar[Mapping[str, Callable[["Reader", Members], Sequence[Event]]]] = {
        "message_start": _start,
        "content_block_start": _open,
        "content_block_stop": _close,
        "message_delta": _tell,
        "message_stop": _end,
        "ping": _ping,
    }


def _emptied(part: AnyPart) -> tuple[str, str]:
    """The type of the deltas by which a part grows, "" where it does not; and what it has already, taken out of it."""
    match part:
        case Text():
            first, part.text = part.text, ""
            return _TEXT, first
        case Thinking(redacted=None):
            first, part.text = part.text, ""
            return _THOUGHTS, first
        case ToolCall():
            first, part.arguments = part.arguments, ""
            return _ARGUMENTS, "" if first == "{}" else first
        case _:
            return "", ""


def _closing(block: _Block) -> list[Event]:
    close = Close(choice=0, index=block.index)
    if block.kind == _ARGUMENTS and block.empty:
        return [Delta(choice=0, index=block.index, text="{}"), close]
    return [close]
