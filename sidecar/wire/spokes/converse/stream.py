"""Reads ConverseStream's events, which `wire.eventstream` cuts out of the frames.

What it promises: events in the neutral order, whatever the service sends. Only calls are begun by an event of their own: a
text or thoughts begin with their first delta. An event that cannot be read, that belongs to no open block where it needs
one, or that comes before messageStart or after the end is none. The input of a call that takes nothing is told as "{}" when
it closes: arguments are always JSON. Blocks that have no neutral form are Opaque, and their deltas Marks.

The end is where both messageStop and metadata were seen: the counts come last. What metadata says besides (`trace`) is a
Ping's extra; `metrics` say how long the service took, and nobody is told.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

import msgspec
import orjson
from msgspec import Raw, Struct, field

from sidecar.errors import TranslationError
from sidecar.wire.members import Members
from sidecar.wire.neutral import (
    AnyPart,
    Close,
    Delta,
    Done,
    Event,
    Failed,
    Mark,
    Opaque,
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
from sidecar.wire.spokes.converse.answer import (
    read_call,
    read_exception,
    read_fields,
    read_stop,
    read_tier,
    read_usage,
)
from sidecar.wire.sse import SseEvent

_EXCEPTION: Final = b"!"
_FRAME: Final = ("p", "metrics", "performanceConfig")  # padding against listeners; see above


class _ToolUse(Struct, gc=False):
    input: str | None = None


class _Reasoning(Struct, gc=False):
    text: str | None = None
    signature: str | None = None
    redacted: str | None = field(default=None, name="redactedContent")


class _Delta(Struct, gc=False):
    text: str | None = None
    call: _ToolUse | None = field(default=None, name="toolUse")
    thoughts: _Reasoning | None = field(default=None, name="reasoningContent")


class _DeltaEvent(Struct, gc=False):
    index: int | None = field(default=None, name="contentBlockIndex")
    delta: _Delta | None = None


class _Other(Struct, gc=False):
    """A delta of another kind."""

    delta: dict[str, Raw]


_delta_event: Final = msgspec.json.Decoder(_DeltaEvent)
_other: Final = msgspec.json.Decoder(_Other)


class _Block(Struct, gc=False):
    """An open one: its number among the neutral parts, what it is, and whether nothing of it came yet."""

    index: int
    kind: type[AnyPart]
    empty: bool = True


class Reader(StreamReader):
    """One streamed answer."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self._parts = 0
        self._started = self._stopped = self._told = self._ended = False

    def feed(self, event: SseEvent) -> Sequence[Event]:
        """What one event says."""
        if self._ended:
            return ()
        name = event.name
        if name.startswith(_EXCEPTION):
            self._ended = True
            return (Failed(problem=read_exception(name[1:].decode(errors="replace"), event.data)),)
        if not self._started and name != b"messageStart":
            return ()
        if name == b"contentBlockDelta":
            return self._delta(event.data)
        read = self._kinds.get(name)
        if read is None:
            return ()
        try:
            return read(self, Members(loads(event.data)))
        except (orjson.JSONDecodeError, TranslationError):
            return ()

    def _start(self, body: Members) -> Sequence[Event]:
        if self._started:
            return ()
        self._started = True
        body.any("role")
        return (Start(id="", model="", format="converse", extra=_rest(body)),)

    def _begin(self, body: Members) -> Sequence[Event]:
        """A call begins, or a block that has no neutral form."""
        number, start = body.integer("contentBlockIndex"), body.mapping("start")
        block = self._blocks.get(number or 0)
        if number is None or not start or self._stopped or (block is not None and block.kind is ToolCall):
            return ()
        if len(self._blocks) == MAX_CALLS:
            self._ended = True
            return (Failed(problem=problem_of(502, TOO_MANY_CALLS)),)
        use = Members(start, "start").object("toolUse")
        call = None if use is None else read_call(use)
        return self._open(number, Opaque(value=start) if call is None else call)

    def _open(self, number: int, part: AnyPart) -> list[Event]:
        """Only calls may overlap in the neutral form: others are closed first."""
        events = self._close_all(but=ToolCall if isinstance(part, ToolCall) else None)
        block = self._blocks[number] = _Block(self._parts, type(part))
        self._parts += 1
        events.append(Open(choice=0, index=block.index, part=part))
        return events

    def _delta(self, data: bytes) -> Sequence[Event]:
        said = read_as(_delta_event, data)
        if said is None or said.delta is None or said.index is None or self._stopped:
            return ()
        number, delta = said.index, said.delta
        if delta.text is not None:
            return self._more(number, Text, delta.text)
        if delta.thoughts is not None:
            return self._think(number, delta.thoughts)
        block = self._blocks.get(number)
        if delta.call is None or (block is not None and block.kind is Opaque):
            return self._mark(number, block, data)
        if block is None or block.kind is not ToolCall or not delta.call.input:
            return ()
        block.empty = False
        return (Delta(choice=0, index=block.index, text=delta.call.input),)

    def _more(self, number: int, kind: type[Text | Thinking], text: str) -> Sequence[Event]:
        if not text:
            return ()
        events: list[Event] = []
        block = self._blocks.get(number)
        if block is None or block.kind is not kind:
            events = self._open(number, Text(text="") if kind is Text else Thinking())
            block = self._blocks[number]
        events.append(Delta(choice=0, index=block.index, text=text))
        return events

    def _think(self, number: int, thoughts: _Reasoning) -> Sequence[Event]:
        if thoughts.redacted:
            events = self._open(number, Thinking(redacted=thoughts.redacted))
            return [*events, *self._close(number)]  # it is whole, and nothing may be added to it
        if not thoughts.signature:
            return self._more(number, Thinking, thoughts.text or "")
        block = self._blocks.get(number)
        if block is not None and block.kind is Thinking:
            return (Mark(choice=0, index=block.index, signature=thoughts.signature),)
        events = self._open(number, Thinking())  # its text is not shown
        return [*events, Mark(choice=0, index=self._blocks[number].index, signature=thoughts.signature)]

    def _mark(self, number: int, block: _Block | None, data: bytes) -> Sequence[Event]:
        """A citation of a text, or a delta that only this format understands."""
        other = read_as(_other, data)
        try:
            said = {} if other is None else {name: loads(bytes(raw)) for name, raw in other.delta.items()}
        except orjson.JSONDecodeError:
            return ()
        citation = said.get("citation")
        events: list[Event] = []
        if citation and block is None:
            events = self._open(number, Text(text=""))
            block = self._blocks[number]
        if block is None or not said:
            return ()
        extra = {"citations": [citation]} if citation else {"delta": said}
        return [*events, Mark(choice=0, index=block.index, extra=extra)]

    def _stop_block(self, body: Members) -> Sequence[Event]:
        return self._close(body.integer("contentBlockIndex") or 0)

    def _close(self, number: int) -> list[Event]:
        block = self._blocks.pop(number, None)
        if block is None:
            return []
        close = Close(choice=0, index=block.index)
        empty = block.kind is ToolCall and block.empty
        return [Delta(choice=0, index=block.index, text="{}"), close] if empty else [close]

    def _close_all(self, but: type[AnyPart] | None = None) -> list[Event]:
        numbers = [number for number, block in self._blocks.items() if block.kind is not but]
        return [event for number in numbers for event in self._close(number)]

    def _stop(self, body: Members) -> Sequence[Event]:
        """Why it ended. What a block said is whole by now."""
        reason = body.text("stopReason")
        if reason is None or self._stopped:
            return ()
        stop, extra = read_stop(reason)
        sequence, fields = read_fields(body)
        self._stopped = True
        extra |= fields | _rest(body)
        events = [*self._close_all(), Stopped(choice=0, stop=stop, stop_sequence=sequence, extra=extra)]
        return self._end(events)

    def _tell(self, body: Members) -> Sequence[Event]:
        """What it cost."""
        said, tier = body.mapping("usage"), read_tier(body)
        self._told = True
        events: list[Event] = []
        if said is not None:
            events.append(Told(usage=read_usage(said, tier), said=said))
        rest = _rest(body)
        if rest:
            events.append(Ping(extra=rest))
        return self._end(events)

    def _end(self, events: list[Event]) -> list[Event]:
        self._ended = self._stopped and self._told
        return [*events, Done()] if self._ended else events

    # Of the class: a table in the object would refer back to it, and only a collection could free the answer.
    _kinds: ClassVar[Mapping[bytes, Callable[["Reader", Members], Sequence[Event]]]] = {
        b"messageStart": _start,
        b"contentBlockStart": _begin,
        b"contentBlockStop": _stop_block,
        b"messageStop": _stop,
        b"metadata": _tell,
    }


def _rest(body: Members) -> dict[str, object]:
    """What nobody took, without what belongs to the frame."""
    return {name: value for name, value in body.rest().items() if name not in _FRAME}
