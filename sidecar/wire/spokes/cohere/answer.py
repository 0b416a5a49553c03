"""Reads Cohere's v2 chat answers: whole, streamed, and errors.

Usage is what is billed (`billed_units`); where that is not told, what was counted (`tokens`). An answer does not name its
model. A `tool_plan` is the text before the calls. Arguments are always JSON: those of a call that takes nothing are told as
"{}", in a stream when it closes. A call without an id is `call_<n>`, by its place.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from sidecar.core.types import Usage
from sidecar.errors import TranslationError
from sidecar.wire.members import Json, Members, is_number, is_whole
from sidecar.wire.neutral import (
    AnyPart,
    Choice,
    Close,
    Delta,
    Done,
    Event,
    Failed,
    Mark,
    Opaque,
    Open,
    Problem,
    Response,
    Start,
    Stop,
    Stopped,
    Text,
    Thinking,
    TokenLogprob,
    Told,
    ToolCall,
)
from sidecar.wire.reading import loads
from sidecar.wire.spoke import StreamReader, problem_of
from sidecar.wire.sse import SseEvent

_STOPS: dict[str, Stop] = {
    "COMPLETE": "stop", "STOP_SEQUENCE": "stop_sequence", "MAX_TOKENS": "length", "TOOL_CALL": "tool_calls",
    "ERROR": "error", "TIMEOUT": "error", "ERROR_TOXIC": "content_filter",
}  # fmt: skip
_PLAN = ("plan", 0)
_NO_ARGUMENTS = "{}"  # arguments are always JSON
_MAX_LOGPROB = 1e6  # what is beyond is none, and could not be added up


# ---- whole answers


def read_response(body: Json) -> Response:
    """A whole answer. Raises TranslationError."""
    members = Members(body)
    message = members.object("message")
    if message is None:
        raise TranslationError("the body: expected a message")
    choice = Choice(index=0, parts=_read_parts(message))
    citations = message.any("citations")
    reason = members.text("finish_reason")
    if reason is not None:
        choice.stop = _STOPS.get(reason, "stop")
        choice.extra = {} if reason in _STOPS else {"finish_reason": reason}
    choice.extra |= {"citations": citations} if citations else {}
    tokens = [_read_token(one) for one in members.objects("logprobs")]
    choice.logprobs = tokens or None
    said = members.mapping("usage")
    answer = Response(format="cohere", id=members.text("id") or "", model="", choices=[choice])
    answer.usage_said, answer.usage, answer.extra = said, read_usage(said), members.rest()
    return answer


def _read_parts(message: Members) -> list[AnyPart]:
    parts: list[AnyPart] = []
    plan, text = message.text("tool_plan"), message.rest().get("content")
    if plan:
        parts.append(Text(text=plan))
    if isinstance(text, str):
        message.any("content")
        parts.append(Text(text=text))
    for number, one in enumerate(message.items("content") or ()):
        item = Members(one, f"message.content[{number}]")
        kind = item.text("type")
        if kind == "text":
            parts.append(Text(text=item.text("text") or "", extra=item.rest()))
        elif kind == "thinking":
            parts.append(Thinking(text=item.text("thinking") or "", extra=item.rest()))
        else:
            parts.append(Opaque(value=one))
    for number, one in enumerate(message.objects("tool_calls")):
        call = _read_call(one, number)
        call.arguments = call.arguments or _NO_ARGUMENTS
        parts.append(call)
    return parts


def _read_call(call: Members, number: int) -> ToolCall:
    function = call.object("function")
    name = arguments = None
    if function is not None:
        name, arguments = function.text("name"), function.text("arguments")
    return ToolCall(id=call.text("id") or f"call_{number}", name=name or "", arguments=arguments or "")


def _read_token(item: Members) -> TokenLogprob:
    """One piece of text. Where several tokens make it, it is as likely as all of them together."""
    logprobs, numbers = item.items("logprobs") or [], item.items("token_ids") or []
    known = [one for one in logprobs if is_number(one) and abs(one) < _MAX_LOGPROB]
    number = numbers[0] if len(numbers) == 1 and is_whole(numbers[0]) else None
    return TokenLogprob(token=item.text("text") or "", logprob=float(sum(known)), number=number)


def read_usage(said: Json | None) -> Usage | None:
    """Inclusive totals; None: nothing was told. The cache also holds what is not billed (the service's own preamble): more
    than is billed cannot be a part of it, and is unknown."""
    if said is None:
        return None
    billed, counted = said.get("billed_units"), said.get("tokens")
    asked, cached = _count(billed, "input_tokens", _count(counted, "input_tokens")), _count(said, "cached_tokens")
    return Usage(
        input_tokens=asked,
        output_tokens=_count(billed, "output_tokens", _count(counted, "output_tokens")),
        cached_input_tokens=None if asked is not None and cached is not None and cached > asked else cached,
    )


def _count(counts: object, name: str, instead: int | None = None) -> int | None:
    """Cohere's counts are written as fractions."""
    value = counts.get(name) if isinstance(counts, dict) else None
    if not is_number(value) or not 0 <= value < 1 << 53:
        return instead
    return int(value)


def read_problem(status: int, body: bytes) -> Problem:
    """The error of an answer with this status, whatever its body is."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    message = value.get("message") if isinstance(value, dict) else None
    return problem_of(status, message if isinstance(message, str) else "")


# ---- streams


class CohereReader(StreamReader):
    """Reads one streamed answer. What cannot be read is no event."""

    def __init__(self) -> None:
        self._over = False
        self._started = False
        self._parts = 0
        self._open: dict[tuple[str, int], int] = {}  # what is open, and which part of the choice it is
        self._empty: set[tuple[str, int]] = set()  # calls that said nothing of their arguments yet
        self._out: list[Event] = []

    def feed(self, event: SseEvent) -> Sequence[Event]:
        """The events of one event of Cohere's."""
        if self._over:
            return ()
        out: list[Event] = []
        self._out = out
        try:
            self._read(Members(loads(event.data)))
        except (orjson.JSONDecodeError, TranslationError):
            return out  # what was told before the wrong member holds
        return out

    def _read(self, said: Members) -> None:
        kind = said.text("type")
        if self._started:
            self._piece(kind, said)
        elif kind == "message-start":
            self._started = True
            name = said.any("id")
            self._out.append(Start(id=name if isinstance(name, str) else "", model="", format="cohere"))

    def _piece(self, kind: str | None, said: Members) -> None:
        index = said.integer("index") or 0
        delta = said.object("delta") or Members({})
        match kind:
            case "content-start" | "content-delta":
                self._content(index, delta, said)
            case "tool-plan-delta":
                self._plan(delta)
            case "tool-call-start" | "tool-call-delta":
                self._call(index, delta, begins=kind == "tool-call-start")
            case "content-end":
                self._close(("thinking", index))
                self._close(("text", index))
            case "tool-call-end":
                self._close(("call", index))
            case "citation-start":
                self._cite(delta)
            case "message-end":
                self._end(delta)

    def _plan(self, delta: Members) -> None:
        plan = (delta.object("message") or Members({})).text("tool_plan")
        if plan:
            self._more(_PLAN, Text(text=""), plan)

    def _content(self, index: int, delta: Members, said: Members) -> None:
        message = delta.object("message") or Members({})
        content = message.object("content") or Members({})
        thought, text = content.text("thinking"), content.text("text")
        token = said.object("logprobs")
        tokens = None if token is None else [_read_token(token)]
        if text or thought or tokens:
            kind = "thinking" if thought and not text else "text"
            part = Thinking() if kind == "thinking" else Text(text="")
            self._more((kind, index), part, text or thought or "", tokens)

    def _call(self, index: int, delta: Members, *, begins: bool) -> None:
        """Pieces of a call that did not begin are none: nobody could answer it."""
        message = delta.object("message") or Members({})
        said = message.object("tool_calls")
        if said is None:
            return
        call = _read_call(said, index)
        key = ("call", index)
        if key not in self._open:
            if not begins:
                return
            self._close(_PLAN)
            self._begin(key, ToolCall(id=call.id, name=call.name))
            self._empty.add(key)
        if call.arguments:
            self._empty.discard(key)
            self._out.append(Delta(choice=0, index=self._open[key], text=call.arguments))

    def _more(self, key: tuple[str, int], part: AnyPart, text: str, logprobs: list[TokenLogprob] | None = None) -> None:
        if key not in self._open:
            for other in list(self._open):
                self._close(other)
            self._begin(key, part)
        self._out.append(Delta(choice=0, index=self._open[key], text=text, logprobs=logprobs))

    def _begin(self, key: tuple[str, int], part: AnyPart) -> None:
        self._open[key] = self._parts
        self._parts += 1
        self._out.append(Open(choice=0, index=self._open[key], part=part))

    def _close(self, key: tuple[str, int]) -> None:
        index = self._open.pop(key, None)
        if index is None:
            return
        if key in self._empty:
            self._empty.discard(key)
            self._out.append(Delta(choice=0, index=index, text=_NO_ARGUMENTS))
        self._out.append(Close(choice=0, index=index))

    def _cite(self, delta: Members) -> None:
        citation: Any = (delta.object("message") or Members({})).any("citations")
        if self._open and citation:
            index = next(reversed(self._open.values()))
            self._out.append(Mark(choice=0, index=index, extra={"citations": citation}))

    def _end(self, delta: Members) -> None:
        self._over = True
        error, reason, said = delta.text("error"), delta.text("finish_reason"), delta.mapping("usage")
        for key in list(self._open) if error is None else ():  # what an error cuts is not whole
            self._close(key)
        usage = read_usage(said)
        if usage is not None:
            self._out.append(Told(usage=usage, said=said))
        if error is not None:
            self._out.append(Failed(problem=problem_of(504 if reason == "TIMEOUT" else 500, error)))
            return
        extra = {} if reason in _STOPS or reason is None else {"finish_reason": reason}
        self._out += [Stopped(choice=0, stop=_STOPS.get(reason or "", "stop"), extra=extra), Done()]
