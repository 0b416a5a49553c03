"""OpenAI Responses: writes neutral events as a stream.

What it promises: the format's grammar, whatever the order of the neutral events. Sequence numbers have no gaps, an item
has one id and one index in all its events, and the last event carries the whole answer. Calls that overlap are items that
overlap. An error is an `error` event, and after a beginning also `response.failed` with what was said until then. A ping is
a comment.

**Waits.** The format forces three.
- `output_item.done` of a message or of thoughts comes when another part begins or the choice stops: only then it is known
  that no part follows in it, and whether it is whole.
- `response.completed` has the stop and the usage together, so it comes at the end of the stream.
- The signature of thoughts stands in the item that is done.

What it keeps: all that was said, for the last event. Only the first choice can be said.
"""

from typing import Any, Final

import orjson
from msgspec import structs

from sidecar.core.types import Usage
from sidecar.wire.neutral import (
    Close,
    Delta,
    Done,
    Event,
    Failed,
    Json,
    Mark,
    Open,
    Ping,
    Report,
    Request,
    Start,
    Stopped,
    TokenLogprob,
    Told,
)
from sidecar.wire.saying import Saying
from sidecar.wire.spokes.responses.answer import REASONS, head, write_stop, write_tier, write_usage
from sidecar.wire.spokes.responses.problem import write_error, write_event
from sidecar.wire.spokes.responses.said import Said, SaidPart

_PING: Final = b": ping\n\n"


class ResponsesWriter:
    """One streamed answer for a client. `request` is what the client asked."""

    def __init__(self, request: Request, report: Report) -> None:
        self._request = request
        self._report = report
        self._saying = Saying("responses", "responses", report)
        self._sequence = 0
        self._head: Json = {}
        self._said = Said(self._saying, "")
        self._stopped: Stopped | None = None
        self._usage: Usage | None = None
        self._usage_said: Json | None = None
        self._told_loss: set[str] = set()

    def feed(self, event: Event) -> bytes:
        """The bytes of one event; b"" where it waits or has nothing to say."""
        if type(event) is Delta:
            return self._delta(event)
        choice = getattr(event, "choice", 0)
        if choice:
            return self._lose(f"choices[{choice}]")
        match event:
            case Open():
                return self._events(self._said.begin(event))
            case Mark():
                return self._events(self._said.mark(event))
            case Close():
                return self._events(self._said.close(event.index))
            case Stopped():
                return self._stop(event)
            case _:
                return self._frame(event)

    def _frame(self, event: Event) -> bytes:
        """What stands around the items."""
        match event:
            case Start():
                return self._start(event)
            case Told():
                self._tell(event.usage, event.said)
            case Ping():
                return self._ping(event)
            case Done():
                return self._finish()
            case Failed():
                return self._fail(event)
            case _:
                pass
        return b""

    def _event(self, kind: str, members: Json) -> bytes:
        number = self._sequence
        self._sequence += 1
        data = orjson.dumps({"type": kind, "sequence_number": number, **members})
        return b"event: %b\ndata: %b\n\n" % (kind.encode("ascii", "replace"), data)

    def _events(self, events: list[tuple[str, Json]]) -> bytes:
        return b"".join([self._event(kind, members) for kind, members in events])

    def _start(self, event: Start) -> bytes:
        self._saying = Saying("responses", event.format or "responses", self._report)
        self._said = Said(self._saying, event.id)
        self._head = head(event.id, event.model or self._request.model, event.created, self._request, self._saying)
        self._head.update(write_tier(event.service_tier, self._saying))
        if self._saying.own:
            self._head.update(event.frame or {})
        self._head.update(self._saying.kept(event.extra, ""))
        if event.usage is not None:
            self._tell(event.usage, event.said)
        said = {"response": self._head}
        return self._event("response.created", said) + self._event("response.in_progress", said)

    def _delta(self, event: Delta) -> bytes:
        if event.choice:
            return self._lose(f"choices[{event.choice}]")
        part = self._said.parts.get(event.index)
        if part is None:
            return b""  # of a part that could not be said, which was reported
        part.texts.append(event.text)
        number = self._sequence
        self._sequence += 1
        text = _text(event.text)
        if not event.logprobs:
            return b"%b%d%b%b%b" % (part.head, number, part.middle, text, part.end)
        return b"%b%d%b%b%b" % (part.head, number, part.middle, text, self._logprobs(part, event.logprobs))

    def _logprobs(self, part: SaidPart, tokens: list[TokenLogprob]) -> bytes:
        if part.kind != "text":
            self._lose(f"choices[0].{part.kind}.logprobs")
            return part.end
        said = part.tell(tokens)
        return b',"logprobs":%b}\n\n' % orjson.dumps(said)

    def _stop(self, event: Stopped) -> bytes:
        self._stopped = event
        refused = event.stop == "refusal" and self._said.refused  # in a part of its own, which is whole
        cut = event.stop == "error" or (event.stop in REASONS and not refused)
        return self._events(self._said.end("incomplete" if cut else "completed"))

    def _tell(self, usage: Usage, said: Json | None) -> None:
        """The last count of each field holds; the provider's own words are for its own format."""
        if self._usage is not None:
            known = {name: value for name, value in structs.asdict(usage).items() if value is not None}
            usage = structs.replace(self._usage, **known)
        self._usage = usage
        self._usage_said = said if self._saying.own else None

    def _ping(self, event: Ping) -> bytes:
        said = event.extra.get("event")
        if self._saying.own and isinstance(said, dict) and isinstance(said.get("type"), str):
            done = self._events(self._said.settle())
            return done + self._event(said["type"], {name: value for name, value in said.items() if name != "type"})
        for name in event.extra:
            self._lose(name)
        return _PING

    def _finish(self) -> bytes:
        stopped = self._stopped or Stopped(choice=0, stop="stop")
        out = self._events(self._said.end("completed"))
        extra = dict(self._saying.kept(stopped.extra, "choices[0]"))
        beside: Any = extra.pop("event", {})
        said = write_stop(stopped.stop, stopped.stop_sequence, refused=self._said.refused, saying=self._saying)
        usage = write_usage(self._usage, self._usage_said)
        whole = {**self._head, **said, "output": self._said.items, "usage": usage}
        whole.update(stopped.frame or {} if self._saying.own else {})
        whole.update(extra)
        return out + self._event(f"response.{said['status']}", {"response": whole, **beside})

    def _fail(self, event: Failed) -> bytes:
        out = self._events(self._said.settle()) + self._event("error", write_event(event.problem))
        if not self._head:
            return out
        self._said.end("incomplete")  # what was said is in the answer; nothing is told to be done
        failed = {"status": "failed", "error": write_error(event.problem), "output": self._said.items}
        usage = write_usage(self._usage, self._usage_said)
        return out + self._event("response.failed", {"response": {**self._head, **failed, "usage": usage}})

    def _lose(self, where: str) -> bytes:
        """Reports it once."""
        if where not in self._told_loss:
            self._told_loss.add(where)
            self._report.lose(where)
        return b""


def _text(text: str) -> bytes:
    """A JSON string; a lone surrogate, which UTF-8 cannot say, becomes U+FFFD."""
    try:
        return orjson.dumps(text)
    except TypeError:
        return orjson.dumps(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
