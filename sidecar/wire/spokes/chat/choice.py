"""OpenAI chat completions: the state of one choice of a stream that is read: its parts, which of them are open, its calls.

What it promises and how it reads what servers do differently: see `read`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import orjson

from sidecar.errors import TranslationError
from sidecar.wire.members import Members
from sidecar.wire.neutral import (
    AnyPart,
    Close,
    Delta,
    Event,
    Json,
    Mark,
    Media,
    Opaque,
    Open,
    Refusal,
    Stopped,
    Text,
    Thinking,
    ToolCall,
)
from sidecar.wire.spoke import MAX_CALLS, TOO_MANY_CALLS, says
from sidecar.wire.spokes.chat.answer import read_logprobs, stop_of, unsaid
from sidecar.wire.spokes.chat.calls import take_signature
from sidecar.wire.spokes.chat.messages import read_block, read_drawn
from sidecar.wire.spokes.chat.parts import read_content

_CALL_MEMBERS: Final = frozenset({"index", "id", "type", "function", "custom"})
_INNER_MEMBERS: Final = frozenset({"name", "arguments", "input"})
_GOES_ON: Final = "the provider's stream goes on with a call that was whole"


def _besides(item: Json, kind: str, inner: Json) -> tuple[str | None, Json]:
    """The signature and the extras of an entry of `tool_calls`."""
    rest = Members({key: value for key, value in item.items() if key not in _CALL_MEMBERS and says(value)})
    beside = {key: value for key, value in inner.items() if key not in _INNER_MEMBERS and says(value)}
    if beside:
        rest.keep(kind, beside)
    return take_signature(rest), rest.rest()


class _Call:
    """A call that began."""

    __slots__ = ("arguments", "custom", "id", "key", "open", "part")

    def __init__(self, part: int, key: int, call_id: str, *, custom: bool) -> None:
        self.part = part
        self.key = key  # the `index` by which chunks name it
        self.id = call_id
        self.custom = custom
        self.open = True
        self.arguments: list[str] = []

    def whole(self) -> bool:
        """Whether nothing can follow: the arguments are a JSON object. A custom tool's text may always go on."""
        last = next((one for one in reversed(self.arguments) if not one.isspace()), "")
        if self.custom or not last.rstrip().endswith("}"):  # most often: asked with each piece, and not joined for it
            return False
        try:
            return isinstance(orjson.loads("".join(self.arguments).strip()), dict)
        except orjson.JSONDecodeError:
            return False


_Said = Text | Refusal | Thinking
_Whole = Media | Thinking


class ChoiceReader:
    """One choice. `broken` says why nothing more can be read, such as that it went on with a call that was over."""

    __slots__ = ("_calls", "_count", "_held", "_kind", "_kinds", "_stopped", "broken", "index")

    def __init__(self, index: int) -> None:
        self.index = index
        self.broken: str | None = None
        self._stopped = False
        self._count = 0  # parts that began
        self._kind: type[AnyPart] | None = None  # of the last one, while it is open and no call
        self._kinds: list[AnyPart] = []  # one of each kind that decides on the stop
        self._calls: list[_Call] = []
        self._held: list[Callable[[list[Event]], None]] = []  # what came amid a call's arguments

    def read(self, choice: Json, events: list[Event]) -> Json:
        """Adds what an entry of `choices` says to `events`; gives back what has no place there."""
        delta, tokens = choice.pop("delta", None), choice.pop("logprobs", None)
        reason = choice.pop("finish_reason", None)
        if self._stopped:
            return {name: value for name, value in choice.items() if says(value)}
        before = len(events)
        if type(delta) is dict and delta:
            self._delta(delta, events)
        if tokens is not None:
            self._logprobs(tokens, choice, events, before)
        left = {name: value for name, value in choice.items() if says(value)} if choice else {}
        beside = {name: value for name, value in delta.items() if says(value)} if type(delta) is dict and delta else {}
        if type(reason) is str and reason:
            self.finish(reason, {**left, "message": beside} if beside else left, events)
            return {}
        if beside:
            left["delta"] = beside
        return left

    def finish(self, reason: str, extra: Json, events: list[Event]) -> None:
        """The choice is over, if it was not before."""
        if self._stopped:
            return
        self._stopped = True
        for call in self._calls:
            self._close_call(call, events)
        self._tell_held(events)
        self._close_text(events)
        said = extra.get("stop_reason")
        sequence = extra.pop("stop_reason") if isinstance(said, str) else None
        stop = stop_of(reason, self._kinds, sequence)
        if unsaid(reason, stop, self._kinds):
            extra["finish_reason"] = reason
        events.append(Stopped(choice=self.index, stop=stop, stop_sequence=sequence, extra=extra))

    # ---- parts

    def _delta(self, delta: Json, events: list[Event]) -> None:
        delta.pop("role", None)
        content = delta.pop("content", None)
        if type(content) is str and content and not delta:
            self._say(Text, content, events)  # the usual chunk
            return
        self._thoughts(delta, events)
        if type(content) is str:
            self._say(Text, content, events)
        elif type(content) is list:
            self._parts(content, delta, events)
        refusal = delta.pop("refusal", None)
        if type(refusal) is str:
            self._say(Refusal, refusal, events)
        images = delta.get("images")
        if type(images) is list:
            self._images(images, delta, events)
        calls = delta.pop("tool_calls", None)
        for number, item in enumerate(calls if type(calls) is list else ()):
            if type(item) is dict and not self.broken:
                self._call(item, number if len(calls) > 1 else None, events)
        old = delta.pop("function_call", None)
        if type(old) is dict:
            self._call({"index": 0, "function": old}, None, events)

    def _say(self, kind: type[_Said], text: str, events: list[Event]) -> None:
        if not text:
            return
        if self._calls and self._amid():
            self._held.append(partial(self._say, kind, text))
            return
        if self._kind is not kind:
            self._open(kind(text=""), events)
            self._kind = kind
        events.append(Delta(choice=self.index, index=self._count - 1, text=text))

    def _open(self, part: AnyPart, events: list[Event]) -> int:
        """Begins a part; what can be over before it is closed."""
        self._close_text(events)
        for call in self._calls:
            if call.open and (not isinstance(part, ToolCall) or call.whole()):
                self._close_call(call, events)
        if isinstance(part, Refusal | ToolCall):
            self._kinds.append(part)
        events.append(Open(choice=self.index, index=self._count, part=part))
        self._count += 1
        return self._count - 1

    def _close_text(self, events: list[Event]) -> None:
        if self._kind is not None:
            self._kind = None
            events.append(Close(choice=self.index, index=self._count - 1))

    def _close_call(self, call: _Call, events: list[Event]) -> None:
        if call.open:
            call.open = False
            events.append(Close(choice=self.index, index=call.part))

    def _amid(self) -> bool:
        """Whether a call that is not whole is open: nothing but calls may begin before it ends."""
        return any(call.open and not call.whole() for call in self._calls)

    def _tell_held(self, events: list[Event]) -> None:
        held, self._held = self._held, []
        for say in held:
            say(events)

    def _parts(self, content: list[Any], delta: Json, events: list[Event]) -> None:
        """Mistral's content as a list of parts."""
        try:
            parts = read_content(content, "content")
        except TranslationError:
            return
        for part in parts:
            if isinstance(part, Text | Thinking):
                self._say(type(part), part.text, events)
        unknown = [part.value for part in parts if isinstance(part, Opaque)]
        if unknown:
            delta["content"] = unknown

    def _images(self, images: list[Any], delta: Json, events: list[Event]) -> None:
        drawn = [one for item in images if (one := read_drawn(item)) is not None]
        if len(drawn) == len(images):
            del delta["images"]
            for one in drawn:
                self._whole(one, events)

    def _whole(self, part: _Whole, events: list[Event]) -> None:
        if self._calls and self._amid():
            self._held.append(partial(self._whole, part))
            return
        events.append(Close(choice=self.index, index=self._open(part, events)))

    # ---- thoughts

    def _thoughts(self, delta: Json, events: list[Event]) -> None:
        told = False
        for name in ("reasoning_content", "reasoning"):
            text = delta.get(name)
            if isinstance(text, str):
                del delta[name]
                if text and not told:
                    told = True
                    self._say(Thinking, text, events)
        blocks = delta.get("thinking_blocks")
        if type(blocks) is not list:
            return
        read = [found for one in blocks if type(one) is dict and (found := read_block(one)) is not None]
        if len(read) == len(blocks):
            del delta["thinking_blocks"]
            for thought in read:
                self._block(thought, events, told=told)

    def _block(self, thought: Thinking, events: list[Event], *, told: bool) -> None:
        """A block repeats the thoughts that chunks told, and may sign them: where they wait for a call's end, so does it."""
        if self._calls and self._amid():
            self._held.append(partial(self._block, thought, told=told))
            return
        if thought.redacted is not None:
            self._whole(thought, events)
            return
        if not told and (thought.signature is None or self._kind is not Thinking):
            self._say(Thinking, thought.text, events)
        if thought.signature is None:
            return
        if self._kind is not Thinking:
            self._open(Thinking(), events)
            self._kind = Thinking
        sign, place = thought.signature, self._count - 1
        events.append(Mark(choice=self.index, index=place, signature=sign, origin=thought.origin, extra=thought.extra))
        self._close_text(events)

    # ---- calls

    def _call(self, item: Json, number: int | None, events: list[Event]) -> None:
        inner = item.get("function")
        custom = type(inner) is not dict and type(item.get("custom")) is dict
        inner = item["custom"] if custom else inner
        inner = inner if type(inner) is dict else {}
        arguments = inner.get("input" if custom else "arguments")
        text = orjson.dumps(arguments).decode() if type(arguments) is dict else arguments
        name = inner.get("name")
        call = self._find(item, name, number, more=bool(text))
        signature, extra = _besides(item, "custom" if custom else "function", inner)
        if call is None and len(self._calls) == MAX_CALLS:
            self.broken = TOO_MANY_CALLS
            return
        if call is None:
            call = self._begin(item, custom=custom)
            part = ToolCall(id=call.id, name=name if isinstance(name, str) else "", custom=custom, signature=signature)
            part.extra = extra
            call.part = self._open(part, events)
            self._calls.append(call)
        elif signature is not None or extra:
            events.append(Mark(choice=self.index, index=call.part, signature=signature, extra=extra))
        if type(text) is not str or not text:
            return
        if call.open:
            call.arguments.append(text)
            events.append(Delta(choice=self.index, index=call.part, text=text))
            if self._held and not self._amid():
                self._tell_held(events)
        elif not text.isspace():
            self.broken = _GOES_ON

    def _find(self, item: Json, name: Any, number: int | None, *, more: bool) -> _Call | None:  # noqa: ANN401 - JSON
        """The call that an entry goes on with; None: it begins one. `more`: it has some of the arguments."""
        key, call_id = item.get("index"), item.get("id")
        fresh = isinstance(call_id, str) and call_id != ""
        if type(key) is int:
            found = next((one for one in reversed(self._calls) if one.key == key), None)
            if found is not None and isinstance(name, str) and name:
                other = found.id != call_id if fresh else more and found.whole()
                return None if other else found  # there are servers that give all calls the same index
            return found
        if fresh:
            return next((one for one in self._calls if one.id == call_id), None)
        if (isinstance(name, str) and name) or not self._calls:
            return None
        return self._calls[-1] if number is None or number >= len(self._calls) else self._calls[number]

    def _begin(self, item: Json, *, custom: bool) -> _Call:
        key, call_id = item.get("index"), item.get("id")
        number = len(self._calls)
        known = call_id if isinstance(call_id, str) and call_id else f"call_{number}"
        return _Call(0, key if type(key) is int else number, known, custom=custom)

    # ---- log probabilities

    def _logprobs(self, said: Any, choice: Json, events: list[Event], before: int) -> None:  # noqa: ANN401 - JSON
        """Tokens go with the text, refusal or arguments of their chunk; those of no text with the open part."""
        if type(said) is not dict:
            return
        tokens = read_logprobs(said.get("content")) or read_logprobs(said.get("refusal"))
        if not tokens:
            if any(says(value) for value in said.values()):
                choice["logprobs"] = said  # spelled in another way
            return
        deltas = [event for event in events[before:] if isinstance(event, Delta)]
        if not deltas and self._calls and self._amid():
            choice["logprobs"] = said
            return
        if not deltas:
            if self._kind is None:
                self._open(Text(text=""), events)
                self._kind = Text
            deltas = [Delta(choice=self.index, index=self._count - 1, text="")]
            events += deltas
        deltas[-1].logprobs = tokens
