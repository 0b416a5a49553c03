"""OpenAI chat completions: reads a stream of chunks into neutral events.

As real servers differ, a role or an empty `finish_reason` may stand in every chunk, text and calls in one chunk, usage on
any chunk (Groq: in `x_groq`, Moonshot: in a choice), a call whole or in pieces, with or without an index (Gemini's
compatible endpoint gives all calls index 0). A call is closed when another part begins and its arguments are a whole JSON
object; calls that are told in turns stay open together. A server that sends [DONE] without a `finish_reason` is taken to
have stopped.

Members that have no place: those of the first chunk are in `Start.extra`, those of the last one of a choice in
`Stopped.extra`, others come as `Ping(extra=...)` in the chunk's own form. Not read: `obfuscation` (padding), what is empty,
members of a wrong type, and what comes after an end. What is no JSON is skipped; a number that JSON does not have is null.

Waits: a chunk without id, model and choices (Azure's first) is told with the next one; text that comes amid the arguments of
a call is told when they are whole. Where the stream fails before, it is not told: a call that was cut
would have to look whole.
"""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from sidecar.wire.neutral import Done, Event, Failed, Json, Ping, Start, Told
from sidecar.wire.openai_problem import problem_in
from sidecar.wire.reading import loads
from sidecar.wire.saying import usage_of
from sidecar.wire.spoke import StreamReader, problem_of, says
from sidecar.wire.spokes.chat.choice import ChoiceReader
from sidecar.wire.sse import SseEvent

_MAX_CHOICES: Final = 1024  # more of them is no answer


class ChatReader(StreamReader):
    """One streamed answer."""

    def __init__(self) -> None:
        self._started = False
        self._over = False
        self._extra: Json = {}  # what every chunk repeats
        self._choices: dict[int, ChoiceReader] = {}

    def feed(self, event: SseEvent) -> Sequence[Event]:
        """What one event says; nothing after the end."""
        if self._over:
            return ()
        if event.data == b"[DONE]":
            return self._end()
        try:
            chunk = loads(event.data)
        except orjson.JSONDecodeError:
            return self._failed(None) if event.name == b"error" else ()
        if type(chunk) is not dict:
            return self._failed(chunk) if event.name == b"error" else ()
        if chunk.get("error") or event.name == b"error" or chunk.get("object") == "error":
            return self._failed(chunk)
        events: list[Event] = []
        self._chunk(chunk, events)
        return events

    def _failed(self, value: Any) -> Sequence[Event]:  # noqa: ANN401 - whatever JSON holds
        self._over = True
        return [Failed(problem=problem_in(None, value))]

    def _end(self) -> Sequence[Event]:
        self._over = True
        if not self._started:
            return [Failed(problem=problem_of(502, "the provider's stream is empty"))]
        events: list[Event] = []
        for choice in self._choices.values():
            choice.finish("stop", {}, events)
        events.append(Done())
        return events

    def _chunk(self, chunk: Json, events: list[Event]) -> None:
        pop = chunk.pop
        choices, usage, tier = pop("choices", None), pop("usage", None), pop("service_tier", None)
        answer_id, model, created = pop("id", None), pop("model", None), pop("created", None)
        pop("object", None)
        pop("obfuscation", None)
        if not self._started:
            self._extra.update((name, value) for name, value in chunk.items() if says(value))
            if not answer_id and not model and not choices:
                return
            self._started = True
            events.append(
                Start(
                    format="chat",
                    id=answer_id if type(answer_id) is str else "",
                    model=model if type(model) is str else "",
                    created=created if type(created) is int and created else None,
                    service_tier=tier if type(tier) is str else None,
                    extra=self._extra.copy(),
                )
            )
            chunk = {}
        elif chunk:
            usage, chunk = _groq(usage, chunk), self._new(chunk)
        if usage is None and type(choices) is list:
            usage = _moonshot(choices)
        rest = self._read_choices(choices, events) if type(choices) is list and choices else None
        if self._over:
            return
        if type(usage) is dict:
            told = usage_of(usage, tier if type(tier) is str else None)
            if told is not None:
                events.append(Told(usage=told, said=usage))
        if rest:
            chunk["choices"] = rest
        if chunk:
            events.append(Ping(extra=chunk))

    def _new(self, chunk: Json) -> Json:
        """The members that are not the same in every chunk, and say something."""
        return {name: value for name, value in chunk.items() if self._extra.get(name) != value and says(value)}

    def _read_choices(self, choices: list[Any], events: list[Event]) -> list[Json]:
        """Reads each; what is left over of them."""
        rest: list[Json] = []
        for number, choice in enumerate(choices):
            if type(choice) is not dict:
                continue
            index = choice.pop("index", None)
            if type(index) is not int or not 0 <= index < _MAX_CHOICES:
                index = number
            state = self._choices.get(index)
            if state is None:
                state = self._choices[index] = ChoiceReader(index)
            left = state.read(choice, events)
            if state.broken:
                self._over = True
                events.append(Failed(problem=problem_of(502, state.broken)))
                return []
            if left:
                rest.append({"index": index, **left})
        return rest


def _groq(usage: Any, chunk: Json) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The usage of a chunk: Groq's servers have it in `x_groq`, from which it is taken."""
    beside = chunk.get("x_groq")
    if type(beside) is not dict or "usage" not in beside:
        return usage
    found = beside.pop("usage")
    return found if usage is None else usage


def _moonshot(choices: list[Any]) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The usage that stands in a choice, from which it is taken."""
    return next((one.pop("usage") for one in choices if type(one) is dict and "usage" in one), None)
