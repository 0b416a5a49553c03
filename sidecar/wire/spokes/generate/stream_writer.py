"""Writes Gemini's streams: each event becomes a chunk of its own, which is a whole answer with the next piece.

The last chunk carries the reasons to stop and the usage, as the provider's own does; each chunk names answer and model.

**Waits.** A call waits for the end of its arguments: Gemini's are an object. A reason to stop waits for the end of the
stream: usage belongs to the same chunk. Beginnings, ends of parts and pings have no words of their own here.
"""

from msgspec.structs import asdict

from sidecar.core.types import Usage
from sidecar.wire.members import Json
from sidecar.wire.neutral import (
    AnyPart,
    Close,
    Delta,
    Event,
    Failed,
    Mark,
    Media,
    Opaque,
    Open,
    Ping,
    Refusal,
    Report,
    Request,
    Start,
    Stopped,
    Text,
    Thinking,
    TokenLogprob,
    Told,
    ToolCall,
    ToolResult,
)
from sidecar.wire.spoke import lose_all
from sidecar.wire.spokes.generate.answer import (
    ids_base,
    write_head,
    write_logprobs,
    write_problem,
    write_stop,
    write_usage,
)
from sidecar.wire.spokes.generate.calls import CallIds
from sidecar.wire.spokes.generate.members import json_bytes
from sidecar.wire.spokes.generate.parts import PartsWriter

_TEXT = b'data: {"candidates":[{"content":{"parts":[{"text":'
_THOUGHT_END = b',"thought":true}],"role":"model"},"index":'
_TEXT_END = b'}],"role":"model"},"index":'


class _Part:
    """A part that is open: what of it waits to be said."""

    __slots__ = ("arguments", "logprobs", "part", "told")

    def __init__(self, part: AnyPart) -> None:
        self.part = part
        self.told = False  # some of its text was written
        self.arguments: list[str] = []
        self.logprobs: list[TokenLogprob] = []


class GenerateWriter:
    """Writes one streamed answer."""

    def __init__(self, _request: Request, report: Report) -> None:
        self._report = report
        self._writer = PartsWriter("chat", report, to_client=True)  # of no format yet: Start names it
        self._parts: dict[tuple[int, int], _Part] = {}
        self._stops: list[Stopped] = []
        self._usage: Usage | None = None
        self._said: Json = {}  # the usage so far
        self._fresh = False  # it was not written yet
        self._head: Json = {}  # members of the next chunk only
        self._tail = b"}\n\n"

    def feed(self, event: Event) -> bytes:
        """The chunk of one event; b"": it has none."""
        match event:
            case Delta():
                return self._delta(event)
            case Open():
                return self._open(event)
            case Close():
                return self._close(event)
            case Mark():
                return self._mark(event)
            case Told():
                return self._told(event)
            case _:
                return self._besides(event)

    def _besides(self, event: Event) -> bytes:
        """Events that are no part and no usage."""
        match event:
            case Failed():
                return b"data: " + json_bytes(write_problem(event.problem)) + b"\n\n"
            case Start():
                self._start(event)
            case Stopped():
                self._stops.append(event)
            case Ping():
                return self._ping(event)
            case _:
                return self._done()
        return b""

    def _start(self, start: Start) -> None:
        source = start.format or "chat"
        self._writer = PartsWriter(source, self._report, CallIds(ids_base(start.id)), to_client=True)
        head = write_head(start.id, start.model, start.created)
        if head:
            self._tail = b"," + json_bytes(head)[1:] + b"\n\n"
        if self._writer.own:
            self._head = dict(start.extra)
        else:
            lose_all(self._report, "", start.extra)
        if start.usage is not None:
            self._tell(start.usage, start.said)

    def _told(self, event: Told) -> bytes:
        """Usage goes with the next chunk; one that still waits goes first."""
        out = self._bytes({}) if self._fresh else b""
        self._tell(event.usage, event.said)
        return out

    def _tell(self, usage: Usage, said: Json | None) -> None:
        """Field by field, what was told last; the provider's own words are whole each time."""
        if self._writer.own and said is not None:
            self._said = said
            self._fresh = bool(said)
            return
        if self._usage is not None:
            news = {name: value for name, value in asdict(usage).items() if value is not None}
            usage = Usage(**{**asdict(self._usage), **news})
        self._usage = usage
        self._said = write_usage(usage)
        self._fresh = bool(self._said)  # what told nothing is no usage

    # ---- parts

    def _open(self, event: Open) -> bytes:
        part = event.part
        self._parts[event.choice, event.index] = _Part(part)
        if isinstance(part, Refusal):
            self._report.map(self._where(event))
        if isinstance(part, Media | Opaque | ToolResult) or (isinstance(part, Thinking) and part.redacted is not None):
            said = self._writer.part(part, self._where(event))
            return b"" if said is None else self._chunk(event.choice, [said])
        return b""

    def _delta(self, event: Delta) -> bytes:
        state = self._parts[event.choice, event.index]
        part = state.part
        if isinstance(part, ToolCall):
            state.arguments.append(event.text)
            state.logprobs += event.logprobs or ()
            return b""
        if not part.extra and event.logprobs is None and not self._fresh and not self._head:
            state.told = True
            end = _THOUGHT_END if isinstance(part, Thinking) else _TEXT_END
            return b"%b%b%b%d}]%b" % (_TEXT, json_bytes(event.text), end, event.choice, self._tail)
        return self._slow_delta(event, state)

    def _slow_delta(self, event: Delta, state: _Part) -> bytes:
        piece: AnyPart = Text(text=event.text)
        if isinstance(state.part, Thinking):
            piece = Thinking(text=event.text)
        if not state.told:
            piece.extra = state.part.extra
        state.told = True
        where = self._where(event)
        said = self._writer.part(piece, where) or {"text": event.text}
        return self._chunk(event.choice, [said], event.logprobs)

    def _mark(self, event: Mark) -> bytes:
        state = self._parts[event.choice, event.index]
        out = b""
        if event.extra and self._writer.own:
            out = self._chunk(event.choice, [], None, event.extra)
        else:
            lose_all(self._report, self._where(event), event.extra)
        if event.signature is None:
            return out
        if isinstance(state.part, ToolCall):
            state.part.signature = event.signature
            return out
        signed = Thinking(signature=event.signature, origin=event.origin)
        said = self._writer.part(signed, self._where(event))
        assert said is not None, "a client is told every signature"
        if state.told:
            said["thought"] = True
        state.told = True
        return out + self._chunk(event.choice, [said])

    def _close(self, event: Close) -> bytes:
        state = self._parts.pop((event.choice, event.index))
        part = state.part
        if isinstance(part, ToolCall):
            whole = ToolCall(
                id=part.id,
                name=part.name,
                arguments="".join(state.arguments),
                custom=part.custom,
                signature=part.signature,
                extra=part.extra,
            )
            said = self._writer.part(whole, self._where(event))
            assert said is not None, "a call can be said"
            return self._chunk(event.choice, [said], state.logprobs or None)
        if isinstance(part, Text | Thinking) and not state.told and part.extra:
            said = self._writer.part(part, self._where(event))
            return b"" if said is None else self._chunk(event.choice, [said])
        return b""

    def _where(self, event: Open | Delta | Mark | Close) -> str:
        return f"choices[{event.choice}].parts[{event.index}]"

    # ---- chunks

    def _chunk(
        self, choice: int, parts: list[Json], logprobs: list[TokenLogprob] | None = None, extra: Json | None = None
    ) -> bytes:
        candidate: Json = {"content": {"parts": parts, "role": "model"}} if parts else {}
        candidate["index"] = choice
        if logprobs is not None:
            candidate["logprobsResult"] = write_logprobs(logprobs)
        for name, value in (extra or {}).items():
            inner = candidate.get(name)
            candidate[name] = {**inner, **value} if isinstance(inner, dict) else value
        return self._bytes({"candidates": [candidate]})

    def _bytes(self, body: Json) -> bytes:
        """A chunk, with the usage that was not told yet."""
        if self._fresh:
            body["usageMetadata"] = self._said
            self._fresh = False
        if self._head:
            body |= self._head
            self._head = {}
        said = json_bytes(body)
        return b"data: " + said[:-1] + (self._tail if len(said) > 2 else self._tail.removeprefix(b","))

    def _ping(self, event: Ping) -> bytes:
        if self._writer.own and event.extra:
            return self._bytes(dict(event.extra))
        lose_all(self._report, "", event.extra)
        return b""

    def _done(self) -> bytes:
        body: Json = {}
        candidates = []
        for stopped in self._stops:
            extra = dict(stopped.extra)
            blocked = extra.pop("promptFeedback", None) if self._writer.own else None
            if blocked is not None:
                body["promptFeedback"] = blocked
            else:
                candidates.append(self._stop(stopped))
        if candidates:
            body["candidates"] = candidates
        self._fresh = bool(self._said)
        return self._bytes(body)

    def _stop(self, stopped: Stopped) -> Json:
        where = f"choices[{stopped.choice}]"
        reason = write_stop(stopped.stop, stopped.stop_sequence, where, self._writer)
        content = {"parts": [{"text": ""}], "role": "model"}
        candidate: Json = {"content": content, "finishReason": reason, "index": stopped.choice}
        if self._writer.own:
            return {**candidate, **stopped.extra}
        lose_all(self._report, where, stopped.extra)
        return candidate
