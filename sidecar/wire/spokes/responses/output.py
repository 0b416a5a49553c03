"""OpenAI Responses: the items of a stream that is read: which there are, which part is open, what of them was said.

What it promises and how it reads what servers do differently: see `read`.
"""

from typing import Any, Final

from sidecar.wire.neutral import (
    AnyPart,
    Close,
    Delta,
    Event,
    Json,
    Mark,
    Opaque,
    Open,
    Refusal,
    Text,
    Thinking,
    ToolCall,
)
from sidecar.wire.spoke import says
from sidecar.wire.spokes.responses.items import REDACTED, made_by
from sidecar.wire.spokes.responses.logprobs import read_logprobs

Place = tuple[str, str, str]  # the kind of text, the member that counts its parts, and its text in what is done
TEXTS: Final[dict[str, Place]] = {
    "response.output_text": ("text", "content_index", "text"),
    "response.refusal": ("refusal", "content_index", "refusal"),
    "response.reasoning_text": ("content", "content_index", "text"),
    "response.reasoning_summary_text": ("summary", "summary_index", "text"),
}
CALL_TEXTS: Final = {"response.function_call_arguments": "arguments", "response.custom_tool_call_input": "input"}
_KINDS: Final = {"output_text": "text", "refusal": "refusal", "reasoning_text": "content", "summary_text": "summary"}
_OF_DELTA: Final = frozenset(
    {"delta", "item_id", "output_index", "content_index", "summary_index", "sequence_number", "logprobs", "obfuscation"}
)
_FRAME: Final = ("id", "phase")  # members of an item that nobody misses elsewhere; `status` follows from the events
_OF_ITEM: Final = frozenset(
    {*_FRAME, "type", "status", "role", "content", "summary", "encrypted_content"}
    | {"call_id", "name", "arguments", "input"}
)
_OF_PART: Final = frozenset({"type", "text", "refusal", "annotations", "logprobs"})
_CALLS: Final = {"function_call": "arguments", "custom_tool_call": "input"}


def _kind_of(part: Any) -> str | None:  # noqa: ANN401 - whatever JSON holds
    """Which kind of text a part is; None: none that is known here."""
    kind = part.get("type") if type(part) is dict else None
    return _KINDS.get(kind) if type(kind) is str else None


class _Item:
    """An item that began."""

    __slots__ = ("begun", "extra", "frame", "index", "kind", "over", "parts", "said", "value")

    def __init__(self, kind: str, value: Json) -> None:
        self.kind = kind
        self.value = value  # as it was when it began
        self.frame: Json = {name: value[name] for name in _FRAME if value.get(name) is not None}
        self.extra: Json = {name: one for name, one in value.items() if name not in _OF_ITEM and says(one)}
        self.index: int | None = None  # of the part that is the whole item, while that is open
        self.begun = False  # it has a part
        self.over = False
        self.parts: set[tuple[str, int]] = set()  # texts of it that began
        self.said: set[tuple[str, int]] = set()  # and those that were not empty


class OutputReader:
    """The output of one answer."""

    def __init__(self) -> None:
        self.called = False
        self.refused = False
        self._count = 0  # parts that began
        self._annotations = 0  # of the open text
        self._by_index: dict[int, _Item] = {}
        self._by_id: dict[str, _Item] = {}
        self._last: _Item | None = None
        self._open: tuple[_Item, str, int] | None = None  # the text that is open, the last part: its kind and number

    # ---- items

    def added(self, body: Json, events: list[Event]) -> None:
        """An item begins."""
        value = body.get("item")
        if type(value) is dict and type(value.get("type")) is str:
            self._add(body, value, events)

    def _add(self, body: Json, value: Json, events: list[Event]) -> _Item:
        item = self._new(value["type"], value, body.get("output_index"), value.get("id"))
        if item.kind in _CALLS:
            self._begin_call(item, value, events)
        elif item.kind not in ("message", "reasoning"):
            item.index = self._begin(item, Opaque(value=value), events)
        return item

    def _new(self, kind: str, value: Json, index: Any, item_id: Any) -> _Item:  # noqa: ANN401 - whatever JSON holds
        item = self._last = _Item(kind, value)
        if type(index) is int:
            self._by_index[index] = item
        if type(item_id) is str:
            self._by_id[item_id] = item
        return item

    def _find(self, body: Json) -> _Item | None:
        index = body.get("output_index")
        if type(index) is int:
            return self._by_index.get(index)
        item_id = body.get("item_id")
        return self._by_id.get(item_id) if type(item_id) is str else self._last

    def _begin_call(self, item: _Item, value: Json, events: list[Event]) -> None:
        call_id, name = value.get("call_id"), value.get("name")
        part = ToolCall(
            id=call_id if type(call_id) is str else f"call_{self._count}",
            name=name if type(name) is str else "",
            custom=item.kind == "custom_tool_call",
            extra=item.extra,
        )
        self.called = True
        item.index = self._begin(item, part, events)
        self._say_arguments(item, value.get(_CALLS[item.kind]), events)

    def _begin(self, item: _Item, part: AnyPart, events: list[Event]) -> int:
        """Opens a part: a whole item, or one of an item's texts."""
        self._close(events)
        frame = part.frame or {}
        if isinstance(part, Opaque):
            frame = {"whole": True}
        elif not item.begun:
            frame = {**frame, "item": item.frame}
            if item.extra and not isinstance(part, ToolCall):
                part.extra["item"] = item.extra
        item.begun = True
        part.frame = frame or None
        self.refused = self.refused or isinstance(part, Refusal)
        events.append(Open(choice=0, index=self._count, part=part))
        self._count += 1
        return self._count - 1

    def done(self, body: Json, events: list[Event]) -> None:
        """An item is whole: what was not said of it is said now."""
        value = body.get("item")
        if type(value) is not dict or type(value.get("type")) is not str:
            return
        item = self._find({"item_id": value.get("id"), **body})
        if item is None or item.kind != value["type"]:
            item = self._add(body, value, events)
        if item.over:
            return
        item.over = True
        if item.kind in _CALLS:
            self._say_arguments(item, value.get(_CALLS[item.kind]), events, late=True)
        elif item.kind in ("message", "reasoning"):
            self._say_missing(item, value, events)
        elif item.value != value:
            self._mark(item.index, {"item": value}, events)
        index = item.index if item.kind not in ("message", "reasoning") else self._text_of(item)
        news = {name: one for name, one in value.items() if name not in _OF_ITEM and says(one)}
        news = {name: one for name, one in news.items() if item.extra.get(name) != one}
        if news and item.kind in _CALLS:
            self._mark(index, news, events)
        elif news and item.kind in ("message", "reasoning"):
            self._mark(index, {"item": news}, events)
        self._end(item, events)

    def _text_of(self, item: _Item) -> int | None:
        """The number of the open part, if it is of this item."""
        return self._count - 1 if self._open is not None and self._open[0] is item else None

    def _mark(self, index: int | None, extra: Json, events: list[Event]) -> None:
        if index is not None and extra:
            events.append(Mark(choice=0, index=index, extra=extra))

    def _end(self, item: _Item, events: list[Event]) -> None:
        if item.index is not None:
            events.append(Close(choice=0, index=item.index))
            item.index = None
        if self._text_of(item) is not None:
            self._close(events)

    def _close(self, events: list[Event]) -> None:
        """Closes the text that is open."""
        if self._open is not None:
            self._open = None
            events.append(Close(choice=0, index=self._count - 1))

    def finish(self, items: list[Any], events: list[Event]) -> None:
        """The answer is complete, and its output as a whole is `items`: of a server that said nothing before."""
        if not self._count:
            for number, value in enumerate(items):
                self.done({"item": value, "output_index": number}, events)
        self._close(events)
        for item in [*self._by_index.values(), *self._by_id.values()]:
            self._end(item, events)

    # ---- texts

    def delta(self, place: Place, body: Json, events: list[Event]) -> None:
        """More of a text."""
        kind, counter, _ = place
        item = self._holder(kind, body)
        number = body.get(counter)
        text, tokens = body.get("delta"), body.get("logprobs")
        known = (item, kind, number if type(number) is int else 0)
        if type(text) is str and (text or tokens):
            self._say(known, text, tokens, events)
        if not body.keys() <= _OF_DELTA:
            if self._open != known:
                self._switch(known, events)
            rest = {name: value for name, value in body.items() if name not in _OF_DELTA and says(value)}
            self._mark(self._count - 1, {"event": rest} if rest else {}, events)

    def _holder(self, kind: str, body: Json) -> _Item:
        """The item of a text, which some servers do not begin."""
        item = self._find(body)
        wanted = "message" if kind in ("text", "refusal") else "reasoning"
        if item is None or item.kind != wanted:
            item_id = body.get("item_id")
            value = {"id": item_id} if type(item_id) is str else {}
            item = self._new(wanted, value, body.get("output_index"), item_id)
        return item

    def _say(self, place: tuple[_Item, str, int], text: str, tokens: Any, events: list[Event]) -> None:  # noqa: ANN401 - JSON
        if self._open != place:
            self._switch(place, events)
        known = read_logprobs(tokens) if tokens else None
        if text or known:
            place[0].said.add(place[1:])
            events.append(Delta(choice=0, index=self._count - 1, text=text, logprobs=known))

    def _switch(self, place: tuple[_Item, str, int], events: list[Event]) -> None:
        """Opens a text."""
        item, kind, number = place
        part: AnyPart
        if kind == "text":
            part = Text(text="")
        elif kind == "refusal":
            part = Refusal(text="")
        else:
            part = Thinking(frame={"in": kind})
        self._begin(item, part, events)
        item.parts.add((kind, number))
        self._annotations = 0
        self._open = place

    def part_added(self, body: Json, events: list[Event]) -> None:
        """A text begins; it may be whole already."""
        place, part = self._place(body)
        if place is not None:
            if self._open != place:
                self._switch(place, events)
            self._complete(place, part, events)

    def part_done(self, body: Json, events: list[Event]) -> None:
        """A text is whole."""
        place, part = self._place(body)
        if place is not None:
            self._complete(place, part, events)

    def _place(self, body: Json) -> tuple[tuple[_Item, str, int] | None, Json]:
        part: Json = body.get("part") or {}
        kind = _kind_of(part)
        if kind is None:
            return None, {}
        number = body.get("summary_index" if kind == "summary" else "content_index")
        return (self._holder(kind, body), kind, number if type(number) is int else 0), part

    def _complete(self, place: tuple[_Item, str, int], part: Json, events: list[Event]) -> None:
        """Says what a whole part has, and was not said."""
        item, kind, _ = place
        text = part.get("refusal" if kind == "refusal" else "text")
        if place[1:] not in item.said and type(text) is str and text:
            self._say(place, text, part.get("logprobs"), events)
        if place[1:] not in item.parts:
            self._switch(place, events)
        if self._open != place:
            return
        notes = part.get("annotations")
        if type(notes) is list and len(notes) > self._annotations:
            self._mark(self._count - 1, {"annotations": notes[self._annotations :]}, events)
            self._annotations = len(notes)
        rest = {name: value for name, value in part.items() if name not in _OF_PART and says(value)}
        self._mark(self._count - 1, rest, events)

    def text_done(self, place: Place, body: Json, events: list[Event]) -> None:
        """A text is whole, without what stands beside it."""
        kind, counter, member = place
        number = body.get(counter)
        known = (self._holder(kind, body), kind, number if type(number) is int else 0)
        text = body.get(member)
        if known[1:] not in known[0].said and type(text) is str and text:
            self._say(known, text, body.get("logprobs"), events)

    def annotation(self, body: Json, events: list[Event]) -> None:
        """A citation in the text that is open."""
        note = body.get("annotation")
        if type(note) is dict and self._open is not None and self._open[1] == "text":
            self._annotations += 1
            self._mark(self._count - 1, {"annotations": [note]}, events)

    def _say_missing(self, item: _Item, value: Json, events: list[Event]) -> None:
        """The texts of an item that is whole, and its signature."""
        for member in ("summary", "content"):
            parts = value.get(member)
            for number, part in enumerate(parts if type(parts) is list else ()):
                kind = _kind_of(part)
                if kind is not None and (kind, number) not in item.said:
                    self._complete((item, kind, number), part, events)
        sealed = value.get("encrypted_content")
        signature, origin = made_by(sealed if type(sealed) is str else None)
        if item.kind != "reasoning":
            return
        if not item.begun and signature is not None and origin is not None and signature.startswith(REDACTED):
            secret = signature.removeprefix(REDACTED)
            item.index = self._begin(item, Thinking(redacted=secret, origin=origin, frame={"in": "nothing"}), events)
            return
        if not item.begun or (signature is not None and self._text_of(item) is None):
            self._switch((item, "nothing", 0), events)
        if signature is not None:
            events.append(Mark(choice=0, index=self._count - 1, signature=signature, origin=origin))

    # ---- calls

    def arguments(self, body: Json, events: list[Event]) -> None:
        """More of a call's arguments."""
        item = self._find(body)
        if item is not None:
            self._say_arguments(item, body.get("delta"), events)

    def arguments_done(self, member: str, body: Json, events: list[Event]) -> None:
        """All arguments of a call."""
        item = self._find(body)
        if item is not None:
            self._say_arguments(item, body.get(member), events, late=True)

    def _say_arguments(self, item: _Item, text: Any, events: list[Event], *, late: bool = False) -> None:  # noqa: ANN401 - JSON
        """`late`: they are whole, and tell nothing where some were said."""
        if item.kind not in _CALLS or item.index is None or type(text) is not str or not text or (late and item.said):
            return
        item.said.add(("arguments", 0))
        events.append(Delta(choice=0, index=item.index, text=text))
