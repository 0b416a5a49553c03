"""OpenAI Responses: the items of a stream that is written: which are open, what was said of each, and the events of that.

What it promises: see `write`. It knows no sequence numbers: an event is its type and its members.
"""

from typing import Any, Final

import orjson

from sidecar.wire.neutral import (
    Json,
    Mark,
    Opaque,
    Open,
    Refusal,
    Text,
    Thinking,
    TokenLogprob,
    ToolCall,
)
from sidecar.wire.saying import Saying
from sidecar.wire.spoke import lose_all
from sidecar.wire.spokes.responses.items import Ids, call_item, sealed
from sidecar.wire.spokes.responses.logprobs import write_logprobs

Events = list[tuple[str, Json]]
_NAMES: Final = {
    "text": "response.output_text",
    "refusal": "response.refusal",
    "content": "response.reasoning_text",
    "summary": "response.reasoning_summary_text",
    "call": "response.function_call_arguments",
    "custom": "response.custom_tool_call_input",
}
_TYPES: Final = {"text": "output_text", "refusal": "refusal", "content": "reasoning_text", "summary": "summary_text"}
_MEMBERS: Final = {"refusal": "refusal", "call": "arguments", "custom": "input"}  # of the whole text; others are `text`


class SaidPart:
    """A part that is open. A delta of it is `head`, its sequence number, `middle`, its text, `end`."""

    __slots__ = ("end", "head", "item", "kind", "logprobs", "middle", "notes", "place", "rest", "texts")

    def __init__(self, kind: str, item: Json, place: Json) -> None:
        self.kind = kind
        self.item = item
        self.place = place  # the members that tell where it stands
        self.texts: list[str] = []
        self.logprobs: list[Json] = []
        self.notes: list[Json] = []  # annotations
        self.rest: Json = {}  # members of the part that have no other place
        name = _NAMES.get(kind, "").encode()
        self.head = b'event: %b.delta\ndata: {"type":"%b.delta","sequence_number":' % (name, name)
        self.middle = b',%b,"delta":' % orjson.dumps(place)[1:-1]
        self.end = b',"logprobs":[]}\n\n' if kind == "text" else b"}\n\n"

    def tell(self, tokens: list[TokenLogprob]) -> list[Json]:
        """Log probabilities of tokens that come now."""
        said = write_logprobs(tokens)
        self.logprobs += said
        return said

    def text(self) -> str:
        return "".join(self.texts)

    def whole(self) -> Json:
        """The part as it is done."""
        said: Json = {"type": _TYPES[self.kind], _MEMBERS.get(self.kind, "text"): self.text(), **self.rest}
        if self.kind == "text":
            said = {"annotations": self.notes, "logprobs": self.logprobs, **said}
        return said

    def empty(self) -> Json:
        """The part as it begins."""
        said: Json = {"type": _TYPES[self.kind], _MEMBERS.get(self.kind, "text"): ""}
        return {"annotations": [], "logprobs": [], **said} if self.kind == "text" else said


class Said:
    """The output of one answer so far."""

    def __init__(self, saying: Saying, answer_id: str) -> None:
        self.items: list[Json] = []  # as they are in the whole answer
        self.parts: dict[int, SaidPart] = {}  # the open ones that were said, by the neutral index
        self.refused = False
        self._saying = saying
        self._ids = Ids(answer_id)
        self._current: Json | None = None  # the message or the thoughts that may go on
        self._opaque: dict[int, Json] = {}

    def begin(self, event: Open) -> Events:
        """A part begins."""
        part, where = event.part, f"choices[0].content[{event.index}]"
        extra = self._saying.kept(part.extra, where)
        frame = (part.frame or {}) if self._saying.own else {}
        match part:
            case Text() | Refusal():
                self.refused = self.refused or isinstance(part, Refusal)
                kind = "text" if isinstance(part, Text) else "refusal"
                return self._begin_text(event.index, "message", kind, frame, extra)
            case Thinking():
                kind = frame.get("in", "nothing" if part.redacted is not None else "summary")
                fresh = {"item": {}, **frame} if not self._saying.own else frame
                events = self._begin_text(event.index, "reasoning", kind, fresh, extra)
                self._seal(part)
                return events
            case ToolCall():
                if part.signature is not None:
                    self._saying.report.map(f"{where}.signature")  # only its maker wants it
                return [*self._end_current("completed"), *self._begin_call(event.index, part, frame, extra)]
            case Opaque() if self._saying.own:
                return [*self._end_current("completed"), *self._begin_opaque(event.index, part)]
            case _:
                self._saying.report.lose(where)
                return []

    def _seal(self, part: Thinking) -> None:
        secret = sealed(part, self._saying.source)
        if secret is not None and self._current is not None:
            self._current["encrypted_content"] = secret

    def _begin_text(self, index: int, kind: str, place: str, frame: Json, extra: Json) -> Events:
        events: Events = []
        item = self._current
        if item is None or item["type"] != kind or "item" in frame:
            events += self._end_current("completed")
            item = self._begin_item(kind, frame, extra)
            events.append(("response.output_item.added", {"output_index": len(self.items) - 1, "item": dict(item)}))
            item["content" if kind == "message" else "summary"] = []
        self._current = item
        if place == "nothing":
            return events
        counter = "summary_index" if place == "summary" else "content_index"
        number = len(item.get("summary" if place == "summary" else "content", ()))
        part = SaidPart(place, item, {**self._where(item), counter: number})
        self.parts[index] = part
        part.rest = {name: value for name, value in extra.items() if name != "item"}
        item.setdefault("summary" if place == "summary" else "content", []).append(None)
        name = "reasoning_summary_part" if place == "summary" else "content_part"
        events.append((f"response.{name}.added", {**part.place, "part": part.empty()}))
        return events

    def _begin_item(self, kind: str, frame: Json, extra: Json) -> Json:
        item: Json = {"type": kind, "status": "in_progress"}
        item["id"] = self._ids.make("msg" if kind == "message" else "rs")
        if kind == "message":
            item["role"], item["content"] = "assistant", []
        else:
            item["summary"] = []
        item.update(frame.get("item", {}))
        item.update(extra.get("item", {}))
        self.items.append(item)
        return item

    def _where(self, item: Json) -> Json:
        number = next(number for number, one in enumerate(self.items) if one is item)
        return {"item_id": item["id"], "output_index": number}

    def _begin_call(self, index: int, call: ToolCall, frame: Json, extra: Json) -> Events:
        kind = "custom" if call.custom else "call"
        item = call_item(call)
        item["id"] = self._ids.make("ctc" if call.custom else "fc")
        if not call.custom:
            item["status"] = "in_progress"
        item.update(frame.get("item", {}))
        item.update(extra)
        self.items.append(item)
        self.parts[index] = SaidPart(kind, item, self._where(item))
        return [("response.output_item.added", {"output_index": len(self.items) - 1, "item": dict(item)})]

    def _begin_opaque(self, index: int, part: Opaque) -> Events:
        self.items.append(part.value)
        self._opaque[index] = {"output_index": len(self.items) - 1}
        return [("response.output_item.added", {**self._opaque[index], "item": part.value})]

    # ---- what a part turns out to have

    def mark(self, event: Mark) -> Events:
        """A signature, an annotation, or members that have no other place."""
        where = f"choices[0].content[{event.index}]"
        opaque = self._opaque.get(event.index)
        if opaque is not None:
            self.items[opaque["output_index"]] = event.extra.get("item", self.items[opaque["output_index"]])
            return []
        part = self.parts.get(event.index)
        if event.signature is not None:
            self._sign(part, event, where)
        if not self._saying.own:
            lose_all(self._saying.report, where, event.extra)
            return []
        extra = dict(event.extra)
        item = self._current if part is None else part.item
        if item is not None:
            item.update(extra.pop("item", {}))
        return [] if part is None else self._mark_part(part, extra)

    def _sign(self, part: SaidPart | None, event: Mark, where: str) -> None:
        item = self._current
        if item is not None and item["type"] == "reasoning" and (part is None or part.item is item):
            self._seal(Thinking(signature=event.signature, origin=event.origin))
        else:
            self._saying.report.map(f"{where}.signature")

    def _mark_part(self, part: SaidPart, extra: Json) -> Events:
        events: Events = []
        beside: Any = extra.pop("event", None)
        if beside:
            members: Json = {"logprobs": []} if part.kind == "text" else {}
            events.append((f"{_NAMES[part.kind]}.delta", {**part.place, "delta": "", **members, **beside}))
        if part.kind in ("call", "custom"):
            part.item.update(extra)
            return events
        for note in extra.pop("annotations", ()):
            number = len(part.notes)
            part.notes.append(note)
            said = {**part.place, "annotation_index": number, "annotation": note}
            events.append(("response.output_text.annotation.added", said))
        part.rest.update(extra)
        return events

    # ---- ends

    def close(self, index: int) -> Events:
        """A part is whole."""
        opaque = self._opaque.pop(index, None)
        if opaque is not None:
            return [("response.output_item.done", {**opaque, "item": self.items[opaque["output_index"]]})]
        part = self.parts.pop(index, None)
        if part is None:
            return []
        if part.kind in ("call", "custom"):
            return self._close_call(part, "completed")
        return self._close_text(part)

    def _close_text(self, part: SaidPart) -> Events:
        whole, summary = part.whole(), part.kind == "summary"
        part.item["summary" if summary else "content"][part.place["summary_index" if summary else "content_index"]] = (
            whole
        )
        member = _MEMBERS.get(part.kind, "text")
        done = {**part.place, member: whole[member]}
        if part.kind == "text":
            done["logprobs"] = part.logprobs
        name = "reasoning_summary_part" if summary else "content_part"
        return [(f"{_NAMES[part.kind]}.done", done), (f"response.{name}.done", {**part.place, "part": whole})]

    def _close_call(self, part: SaidPart, status: str) -> Events:
        member = _MEMBERS[part.kind]
        part.item[member] = part.text()
        if part.kind == "call":
            part.item["status"] = status
        done = {**part.place, member: part.item[member]}
        number = part.place["output_index"]
        return [
            (f"{_NAMES[part.kind]}.done", done),
            ("response.output_item.done", {"output_index": number, "item": part.item}),
        ]

    def _end_current(self, status: str) -> Events:
        item, self._current = self._current, None
        if item is None:
            return []
        events: Events = []
        for index, part in list(self.parts.items()):
            if part.item is item:
                events += self.close(index)
        item["status"] = status
        number = self._where(item)["output_index"]
        return [*events, ("response.output_item.done", {"output_index": number, "item": item})]

    def settle(self) -> Events:
        """An item that has no open part is done, if it is known that none follows in it."""
        going = any(part.item is self._current for part in self.parts.values())
        return [] if going else self._end_current("completed")

    def end(self, status: str) -> Events:
        """Nothing more is said: the item that is open has this status, as have calls that are."""
        events = self._end_current(status)
        for index, part in list(self.parts.items()):
            del self.parts[index]
            events += self._close_call(part, status)
        for index in list(self._opaque):
            events += self.close(index)
        return events
