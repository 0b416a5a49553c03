"""OpenAI Responses: reads a stream of events into neutral ones.

As real servers differ, an event may have no sequence number and no indices (llama.cpp), a part may begin with its first
text, and a text, its arguments, or a whole item may come only in the event that says that it is done. What comes of an item
after another one began opens a new part.

Members that have no place: those of an item in `Open` and `Mark` (extra["item"], of a call extra itself), those of a text's
event in `Mark`. Events of the provider's own tools, and those that are not known here, come whole as
`Ping(extra={"event": ...})`. Not read: `obfuscation` (padding), what comes after the end, what is no JSON.

Waits: a part is closed when its item is done or another part begins, as only the whole item tells its signature.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import orjson

from sidecar.errors import TranslationError
from sidecar.wire.members import Members
from sidecar.wire.neutral import Done, Event, Failed, Json, Ping, Start, Stopped, Told
from sidecar.wire.openai_problem import problem_in
from sidecar.wire.reading import loads
from sidecar.wire.saying import usage_of
from sidecar.wire.spoke import StreamReader, problem_of, says
from sidecar.wire.spokes.responses.answer import FAILED, take_echo, take_stop
from sidecar.wire.spokes.responses.output import CALL_TEXTS, TEXTS, OutputReader
from sidecar.wire.sse import SseEvent

_MAX_DEPTH: Final = 200  # what is nested deeper cannot be written again
_DELTA: Final = ".delta"
_FAILURES: Final = frozenset({"error", "response.failed", "response.cancelled"})
_PINGS: Final = frozenset({"keepalive", "ping", "response.in_progress", "response.queued"})
_OUTPUT: Final[Mapping[str, Callable[[OutputReader, Json, list[Event]], None]]] = {
    "response.output_item.added": OutputReader.added,
    "response.output_item.done": OutputReader.done,
    "response.content_part.added": OutputReader.part_added,
    "response.content_part.done": OutputReader.part_done,
    "response.reasoning_summary_part.added": OutputReader.part_added,
    "response.reasoning_summary_part.done": OutputReader.part_done,
    "response.output_text.annotation.added": OutputReader.annotation,
}


class ResponsesReader(StreamReader):
    """One streamed answer."""

    def __init__(self) -> None:
        self._output = OutputReader()
        self._started = False
        self._over = False
        self._frame: Json = {}
        self._extra: Json = {}
        self._named: set[str] = set()  # of model and created_at those that were told at the beginning

    def feed(self, event: SseEvent) -> Sequence[Event]:
        """What one event says; nothing after the end."""
        if self._over:
            return ()
        try:
            body = loads(event.data)
        except orjson.JSONDecodeError:
            return ()
        if type(body) is not dict:
            return ()
        kind = body.pop("type", None)
        if type(kind) is not str:
            kind = event.name.decode("ascii", "replace")
            if "error" in body and not kind:
                kind = "error"
        events: list[Event] = []
        if not self._started:
            self._start(kind, body, events)
        if kind and (self._started or kind in _FAILURES):
            self._read(kind, body, events)
        return events

    def _read(self, kind: str, body: Json, events: list[Event]) -> None:
        if kind.endswith(_DELTA):
            place = TEXTS.get(kind[: -len(_DELTA)])
            if place is not None:
                self._output.delta(place, body, events)
                return
            if kind[: -len(_DELTA)] in CALL_TEXTS:
                self._output.arguments(body, events)
                return
        if _too_deep(body):
            return
        body.pop("sequence_number", None)
        if kind in _OUTPUT or kind in self._frames:
            self._read_known(kind, body, events)
        elif kind.removesuffix(".done") in TEXTS:
            self._output.text_done(TEXTS[kind.removesuffix(".done")], body, events)
        elif kind.removesuffix(".done") in CALL_TEXTS:
            self._output.arguments_done(CALL_TEXTS[kind.removesuffix(".done")], body, events)
        elif kind in _PINGS:
            events.append(Ping())
        else:
            events.append(Ping(extra={"event": {"type": kind, **body}}))

    def _read_known(self, kind: str, body: Json, events: list[Event]) -> None:
        output = _OUTPUT.get(kind)
        try:
            if output is not None:
                output(self._output, body, events)
            else:
                self._frames[kind](self, body, events)
        except TranslationError:
            events.clear()  # it cannot be read

    # ---- the frame

    def _start(self, kind: str, body: Json, events: list[Event]) -> None:
        """Any event of an answer begins it."""
        if not kind.startswith("response."):
            return
        said = body.get("response")
        members = Members(said if isinstance(said, dict) and not _too_deep(said) else {})
        answer_id, model, created = members.any("id"), members.any("model"), members.any("created_at")
        tier = members.any("service_tier")
        if kind == "response.failed" and not answer_id:
            return
        for name in ("object", "status", "output", "usage", "error", "incomplete_details"):
            members.any(name)
        self._started = True
        self._named = {name for name, value in (("model", model), ("created_at", created)) if value}
        self._frame = take_echo(members) or {}
        self._extra = {name: value for name, value in members.rest().items() if says(value)}
        events.append(
            Start(
                format="responses",
                id=answer_id if type(answer_id) is str else "",
                model=model if type(model) is str else "",
                created=int(created) if type(created) in (int, float) and 0 < created < 1 << 53 else None,
                service_tier=tier if type(tier) is str else None,
                frame=self._frame or None,
                extra=self._extra,
            )
        )

    def _begin(self, body: Json, events: list[Event]) -> None:
        """`response.created`, which `_start` has read."""

    def _failed(self, body: Json, events: list[Event]) -> None:
        self._over = True
        said = body.get("response")
        problem = problem_in(None, said if isinstance(said, dict) else body)
        if problem.message == problem_of(500).message and isinstance(said, dict):
            problem = problem_of(502, FAILED)
        whole = said if isinstance(said, dict) else {}
        counts, tier = whole.get("usage"), whole.get("service_tier")
        usage = usage_of(counts, tier if isinstance(tier, str) else None) if isinstance(counts, dict) else None
        if usage is not None:  # what failed is billed, too
            events.append(Told(usage=usage, said=counts))
        events.append(Failed(problem=problem))

    def _end(self, body: Json, events: list[Event]) -> None:
        members = Members(body.pop("response", None) or {}, "response")
        items, said = members.any("output"), members.any("usage")
        self._output.finish(items if isinstance(items, list) else [], events)
        tier = members.any("service_tier")
        stop, extra = take_stop(members, called=self._output.called, refused=self._output.refused)
        if isinstance(said, dict):
            usage = usage_of(said, tier if isinstance(tier, str) else None)
            if usage is not None:
                events.append(Told(usage=usage, said=said))
        members.any("id")
        members.any("object")
        named = {
            name: value for name in ("model", "created_at") if (value := members.any(name)) and name not in self._named
        }
        frame = {name: value for name, value in (take_echo(members) or {}).items() if self._frame.get(name) != value}
        frame.update(named)
        rest = {name: value for name, value in members.rest().items() if says(value) and self._extra.get(name) != value}
        beside = {name: value for name, value in body.items() if says(value)}
        if isinstance(tier, str):
            frame["service_tier"] = tier
        extra = {**extra, **rest, **({"event": beside} if beside else {})}
        events.append(Stopped(choice=0, stop=stop or "stop", extra=extra, frame=frame or None))
        events.append(Done())
        self._over = True

    # Of the class: a table in the object would refer back to it, and only a collection could free the answer.
    _frames: ClassVar[Mapping[str, Callable[["ResponsesReader", Json, list[Event]], None]]] = {
        "response.created": _begin,
        "response.completed": _end,
        "response.incomplete": _end,
        "response.failed": _failed,
        "response.cancelled": _failed,
        "error": _failed,
    }


def _too_deep(value: Json) -> bool:
    """Whether it cannot be written again."""
    level: list[Any] = [value]
    for _ in range(_MAX_DEPTH):
        inner: list[Any] = []
        for one in level:
            inner += one.values() if type(one) is dict else one
        level = [one for one in inner if type(one) is dict or type(one) is list]
        if not level:
            return False
    return True
