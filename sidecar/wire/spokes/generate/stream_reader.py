"""Reads Gemini's streams: each event is a whole answer that holds the next piece of each candidate.

Texts and thoughts that follow each other are one part. Usage comes before the content of its chunk.

**Waits.** Arguments that are streamed (`partialArgs`) name places, not text: they are told when the call is complete.
A reason to stop is told when the stream is over, and every candidate has one: some servers write one into each chunk, or
tell their usage behind it, and the format has no other end.
"""

from collections.abc import Sequence

import orjson

from sidecar.core.types import Usage
from sidecar.errors import TranslationError
from sidecar.wire.members import Json, is_whole
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
    TokenLogprob,
    Told,
    ToolCall,
)
from sidecar.wire.reading import loads
from sidecar.wire.spoke import StreamReader
from sidecar.wire.spokes.generate.answer import (
    ids_base,
    inexact,
    is_blocked,
    read_error,
    read_logprobs,
    read_said,
    read_stop,
    read_time,
    read_usage,
)
from sidecar.wire.spokes.generate.calls import CallIds
from sidecar.wire.spokes.generate.members import GenerateMembers, camelled, json_text
from sidecar.wire.spokes.generate.partial import add_piece
from sidecar.wire.spokes.generate.parts import read_part
from sidecar.wire.sse import SseEvent

_HEAD = frozenset({"candidates", "usageMetadata", "modelVersion", "responseId", "createTime"})
_OURS = frozenset({"candidates", "usageMetadata", "modelVersion", "promptFeedback"})
_PLAIN = frozenset({"content", "finishReason", "index"})
_NO_REASONS = (None, "", "FINISH_REASON_UNSPECIFIED")


class _Candidate:
    """One candidate, so far."""

    __slots__ = ("called", "extra", "kind", "number", "partial", "parts", "reason")

    def __init__(self, number: int) -> None:
        self.number = number
        self.parts = 0  # of its parts, open or closed
        self.kind: type[AnyPart] | None = None  # of the open part
        self.partial: Json | None = None  # arguments of the open call, as far as they came
        self.called = False
        self.reason: str | None = None  # to stop, as it was told last
        self.extra: Json = {}


class GenerateReader(StreamReader):
    """Reads one streamed answer, chunk by chunk. What cannot be read is no event."""

    def __init__(self) -> None:
        self._started = self._over = False
        self._said: object = None
        self._ids = CallIds()
        self._candidates: dict[int, _Candidate] = {}
        self._out: list[Event] = []

    def feed(self, event: SseEvent) -> Sequence[Event]:
        """The events of one chunk. What precedes a member of a wrong type is told, the rest of that chunk is not."""
        if self._over:
            return ()
        try:
            body = loads(event.data)
        except orjson.JSONDecodeError:
            return ()
        out: list[Event] = []
        self._out = out
        try:
            self._read(body)
        except TranslationError:
            return out
        return out

    def _read(self, value: object) -> None:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, dict):
            return
        body = camelled(value)
        if body.get("error") is not None:
            self._over = True
            self._out.append(Failed(problem=read_error(None, body["error"])))
            return
        late = self._started
        if not late and not self._begin(body):
            return
        said = body.get("usageMetadata")
        if said is not None and said != self._said:
            usage, counts = self._counted(said)
            if usage is not None:
                self._out.append(Told(usage=usage, said=counts))
        if late and not _HEAD.issuperset(body):
            self._pass(body)
        candidates = body.get("candidates")
        for candidate in candidates if isinstance(candidates, list) else ():
            if not self._is_quick(candidate):
                self._candidate(candidate)
        self._end(body)

    def _begin(self, body: Json) -> bool:
        """Starts with the first chunk; False: it is none of Gemini's."""
        if _OURS.isdisjoint(body):
            return False
        members = GenerateMembers(body)
        head, model = members.text("responseId") or "", members.text("modelVersion") or ""
        created = read_time(members)
        extra = {name: of for name, of in members.rest().items() if name not in ("candidates", "usageMetadata")}
        if is_blocked(extra.get("promptFeedback")):
            del extra["promptFeedback"]  # told with the choice that it stops
        self._ids = CallIds(ids_base(head))
        self._started = True
        start = Start(id=head, model=model, created=created, extra=extra, format="generate")
        start.usage, start.said = self._counted(body.get("usageMetadata"))
        self._out.append(start)
        return True

    def _pass(self, body: Json) -> None:
        """What a later chunk says besides."""
        rest = {name: value for name, value in body.items() if name not in _HEAD and value is not None}
        if not self._candidates and is_blocked(rest.get("promptFeedback")):
            del rest["promptFeedback"]
        if rest:
            self._out.append(Ping(extra=rest))

    def _counted(self, said: object) -> tuple[Usage | None, Json | None]:
        """The usage, and how the provider wrote it; nothing where it says nothing."""
        self._said = said
        counts = read_said(said) if isinstance(said, dict) else None
        usage = read_usage(counts)
        return usage, None if usage is None else counts

    def _is_quick(self, value: object) -> bool:
        """Takes the usual piece, one text of a candidate that goes on; False: it is no such piece."""
        if not isinstance(value, dict) or len(value) > 2 or (len(value) == 2 and "index" not in value):
            return False
        content, number = value.get("content"), value.get("index", 0)
        state = self._candidates.get(number) if is_whole(number) else None
        if state is None or not isinstance(content, dict):
            return False
        parts = content.get("parts")
        if not isinstance(parts, list) or len(parts) != 1 or not isinstance(parts[0], dict) or len(parts[0]) != 1:
            return False
        text = parts[0].get("text")
        if not isinstance(text, str) or not text:
            return False
        self._more(state, Text, text)
        return True

    def _candidate(self, value: object) -> None:
        candidate = GenerateMembers(value, "candidates")
        number = candidate.integer("index") or 0
        state = self._candidates.get(number)
        if state is None:
            state = self._candidates[number] = _Candidate(number)
        begun = len(self._out)
        content = candidate.any("content")
        if content is not None:
            self._parts(state, GenerateMembers(content, "content"))
        rest = candidate.rest()
        reason = candidate.text("finishReason")
        if not _PLAIN.issuperset(rest):
            self._besides(state, candidate, begun, ends=reason is not None)
        state.reason = state.reason if reason in _NO_REASONS else reason

    def _besides(self, state: _Candidate, candidate: GenerateMembers, begun: int, *, ends: bool) -> None:
        """What a candidate says besides its content; logprobs go with the first text of the chunk."""
        tokens, rest = read_logprobs(candidate)
        if tokens:
            self._give(state, tokens, begun)
        extra = {**candidate.rest(), **({"logprobsResult": rest} if rest else {})}
        if extra and not ends and state.kind is not None:
            self._out.append(Mark(choice=state.number, index=state.parts - 1, extra=extra))
        else:
            state.extra |= extra

    def _give(self, state: _Candidate, tokens: list[TokenLogprob], begun: int) -> None:
        for event in self._out[begun:]:
            if isinstance(event, Delta):
                event.logprobs = tokens
                return
        if state.kind is None:
            self._open(state, Text(text=""))
        self._out.append(Delta(choice=state.number, index=state.parts - 1, text="", logprobs=tokens))

    def _parts(self, state: _Candidate, content: GenerateMembers) -> None:
        for value in content.items("parts") or ():
            if isinstance(value, dict) and len(value) == 1 and isinstance(text := value.get("text"), str):
                if text:
                    self._more(state, Text, text)
                continue
            members = GenerateMembers(value, "parts")
            if self._is_partial(state, members):
                self._piece(state, members)
                continue
            for part in read_part(members, self._ids):
                self._part(state, part)

    def _part(self, state: _Candidate, part: AnyPart) -> None:
        if isinstance(part, Text | Thinking) and not part.extra and not (isinstance(part, Thinking) and part.redacted):
            if part.text:
                self._more(state, type(part), part.text)
            if isinstance(part, Thinking) and part.signature is not None:
                self._sign(state, part)
            return
        self._close(state)
        match part:
            case Text(text=text):
                self._open(state, Text(text="", extra=part.extra))
            case Thinking(text=text):
                self._open(state, Thinking(redacted=part.redacted, origin=part.origin, extra=part.extra))
            case ToolCall(arguments=text):
                state.called = True
                self._open(state, ToolCall(id=part.id, name=part.name, signature=part.signature, extra=part.extra))
            case _:
                text = ""
                self._open(state, part)
        if text:
            self._out.append(Delta(choice=state.number, index=state.parts - 1, text=text))
        self._close(state)
        if isinstance(part, Thinking) and part.signature is not None:
            self._sign(state, part)

    def _more(self, state: _Candidate, kind: type[AnyPart], text: str) -> None:
        if state.kind is not kind:
            self._close(state)
            self._open(state, Text(text="") if kind is Text else Thinking())
        self._out.append(Delta(choice=state.number, index=state.parts - 1, text=text))

    def _sign(self, state: _Candidate, part: Thinking) -> None:
        """A signature ends the thought that is open; alone it is one without text."""
        if state.kind is not Thinking:
            self._close(state)
            self._open(state, Thinking())
        mark = Mark(choice=state.number, index=state.parts - 1, signature=part.signature, origin=part.origin)
        self._out.append(mark)
        self._close(state)

    def _open(self, state: _Candidate, part: AnyPart) -> None:
        self._out.append(Open(choice=state.number, index=state.parts, part=part))
        state.kind = type(part)
        state.parts += 1

    def _close(self, state: _Candidate) -> None:
        if state.partial is not None:
            text = json_text(state.partial, "args")
            state.partial = None
            self._out.append(Delta(choice=state.number, index=state.parts - 1, text=text))
        if state.kind is not None:
            state.kind = None
            self._out.append(Close(choice=state.number, index=state.parts - 1))

    def _is_partial(self, state: _Candidate, members: GenerateMembers) -> bool:
        call = members.rest().get("functionCall")
        if not isinstance(call, dict):
            return False
        said = camelled(call)
        return state.partial is not None or bool(said.get("willContinue") or said.get("partialArgs"))

    def _piece(self, state: _Candidate, members: GenerateMembers) -> None:
        """More of a call whose arguments are streamed; one with a name begins another call."""
        call = GenerateMembers(members.any("functionCall"), "functionCall")
        name, signature = call.text("name"), members.text("thoughtSignature")
        if name or state.partial is None:
            self._close(state)
            call_id = self._ids.call(name or "", call.text("id"))
            self._open(state, ToolCall(id=call_id, name=name or "", signature=signature))
            state.called, state.partial = True, {}
        assert state.partial is not None, "set above"
        state.partial |= call.mapping("args") or {}
        for piece in call.objects("partialArgs"):
            add_piece(state.partial, piece)
        if not call.flag("willContinue"):
            self._close(state)

    def _end(self, body: Json) -> None:
        """A prompt that was blocked has no candidates: nothing follows."""
        feedback = body.get("promptFeedback")
        if not self._candidates and is_blocked(feedback):
            self._over = True
            self._out += [Stopped(choice=0, stop="content_filter", extra={"promptFeedback": feedback}), Done()]

    def end(self) -> Sequence[Event]:
        """The reasons to stop, where there is one of every candidate."""
        self._out = []
        if self._over or not self._candidates or not all(one.reason for one in self._candidates.values()):
            return ()
        self._over = True
        for state in self._candidates.values():
            self._stop(state, state.reason or "")
        return [*self._out, Done()]

    def _stop(self, state: _Candidate, reason: str) -> None:
        self._close(state)
        stop = read_stop(reason, state.called)
        self._out.append(Stopped(choice=state.number, stop=stop, extra={**state.extra, **inexact(reason)}))
