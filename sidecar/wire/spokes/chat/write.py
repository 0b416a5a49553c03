"""OpenAI chat completions: writes neutral events as a stream of chunks.

The first chunk tells the role of choice 0, that of another choice comes with its first part. The bytes that all chunks of a
part share are made once. An error is an `error` object, after which there is no [DONE].

Waits: usage comes in the last chunk before [DONE], where the client asked for it; the signed block of a thought, which
repeats its text, comes when the signature is known. To a client of the old `functions` a choice's second call is lost.
"""

from typing import Final

import orjson
from msgspec.structs import replace

from sidecar.core.types import Usage
from sidecar.wire.neutral import (
    AnyPart,
    Close,
    Delta,
    Done,
    Event,
    Failed,
    Json,
    Mark,
    Media,
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
)
from sidecar.wire.openai_problem import write_problem
from sidecar.wire.saying import Saying
from sidecar.wire.spokes.chat.answer import usage_said, write_logprobs, write_stop, write_tier
from sidecar.wire.spokes.chat.calls import signature_said, write_call
from sidecar.wire.spokes.chat.messages import write_block
from sidecar.wire.spokes.chat.parts import image_url
from sidecar.wire.spokes.chat.request import spoken_old

_DONE: Final = b"data: [DONE]\n\n"
_PING: Final = b": ping\n\n"
_TEXT_END: Final = b'},"logprobs":null,"finish_reason":null}]}\n\n'
_CALL_END: Final = b'}}]},"logprobs":null,"finish_reason":null}]}\n\n'
_OLD_END: Final = b'}},"logprobs":null,"finish_reason":null}]}\n\n'
_MEMBERS: Final[dict[type, str]] = {Text: "content", Refusal: "refusal", Thinking: "reasoning_content"}


def _dumps(value: object) -> bytes:
    """JSON; a lone surrogate, which UTF-8 cannot say, becomes U+FFFD."""
    try:
        return orjson.dumps(value)
    except TypeError:
        assert isinstance(value, str), "only texts come from elsewhere than JSON"
        return orjson.dumps(value.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


class _Part:
    """An open part: what surrounds its text in a chunk."""

    __slots__ = ("end", "head", "part", "texts")

    def __init__(self, part: AnyPart, head: bytes, end: bytes) -> None:
        self.part = part
        self.head = head
        self.end = end
        self.texts: list[str] = []  # of thoughts, for their signed block


class _Choice:
    __slots__ = ("calls", "kinds", "numbers", "role")

    def __init__(self) -> None:
        self.role = False  # was told
        self.calls = 0
        self.numbers: dict[int, int] = {}  # of calls, by the part's index
        self.kinds: list[AnyPart] = []


class ChatWriter:
    """One streamed answer."""

    def __init__(self, request: Request, report: Report) -> None:
        self._wants_usage = request.include_usage
        self._old = spoken_old(request)
        self._report = report
        self._saying = Saying("chat", "chat", report)
        self._head: Json = {}
        self._prefix = b""
        self._parts: dict[tuple[int, int], _Part] = {}
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None
        self._said: Json | None = None
        self._pinged: set[str] = set()  # members of pings that were reported

    def feed(self, event: Event) -> bytes:
        """The chunk of one event."""
        if type(event) is Delta:
            return self._delta(event)
        match event:
            case Open():
                return self._open(event)
            case Mark():
                return self._mark(event)
            case Close():
                self._parts.pop((event.choice, event.index), None)
                return b""
            case Stopped():
                return self._stopped(event)
            case _:
                return self._frame(event)

    # ---- the frame

    def _frame(self, event: Event) -> bytes:
        match event:
            case Start():
                return self._start(event)
            case Told():
                self._tell(event.usage, event.said)
                return b""
            case Ping():
                return self._ping(event)
            case Done():
                return self._last() + _DONE
            case Failed():
                return b"data: " + _dumps(write_problem(event.problem)) + b"\n\n"
            case _:
                return b""

    def _start(self, event: Start) -> bytes:
        self._saying = Saying("chat", event.format or "chat", self._report)
        extra = self._saying.kept(event.extra, "")
        self._head = {
            "id": event.id,
            "object": "chat.completion.chunk",
            "created": event.created or 0,
            "model": event.model,
        }
        self._head.update(write_tier(event.service_tier, self._saying))
        if "system_fingerprint" in extra:
            self._head["system_fingerprint"] = extra["system_fingerprint"]
        self._prefix = b"data: " + _dumps(self._head)[:-1] + b',"choices":[{"index":'
        if event.usage is not None:
            self._tell(event.usage, event.said)
        first = {"index": 0, "delta": self._role(0), "logprobs": None, "finish_reason": None}
        return b"data: " + _dumps({**self._head, **extra, "choices": [first]}) + b"\n\n"

    def _choice(self, index: int) -> _Choice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice()
        return choice

    def _role(self, index: int) -> Json:
        """What the first chunk of a choice says besides."""
        choice = self._choice(index)
        if choice.role:
            return {}
        choice.role = True
        return {"role": "assistant", "content": ""}

    def _chunk(self, index: int, delta: Json, beside: Json | None = None) -> bytes:
        choice = {"index": index, "delta": {**self._role(index), **delta}, "logprobs": None, "finish_reason": None}
        if beside:
            choice.update(beside)
        return b"data: " + _dumps({**self._head, "choices": [choice]}) + b"\n\n"

    def _ping(self, event: Ping) -> bytes:
        extra = event.extra if self._saying.own else {}
        if not extra:
            self._saying.kept({name: True for name in event.extra if name not in self._pinged}, "")
            self._pinged.update(event.extra)
            return _PING
        extra = dict(extra)
        choices = [
            {"finish_reason": None, **one, "delta": {**self._role(one["index"]), **one.get("delta", {})}}
            for one in extra.pop("choices", [])
        ]
        return b"data: " + _dumps({**self._head, **extra, "choices": choices}) + b"\n\n"

    def _tell(self, usage: Usage, said: Json | None) -> None:
        """The last count of each field holds; the provider's own words are for its own format."""
        if self._usage is not None:
            known = {name: getattr(usage, name) for name in usage.__struct_fields__}
            usage = replace(self._usage, **{name: value for name, value in known.items() if value is not None})
        self._usage = usage
        self._said = said if self._saying.own else None

    def _last(self) -> bytes:
        usage = usage_said(self._usage, self._said) if self._wants_usage else None
        if usage is None:
            return b""
        return b"data: " + _dumps({**self._head, "choices": [], "usage": usage}) + b"\n\n"

    # ---- parts

    def _open(self, event: Open) -> bytes:
        part, choice = event.part, self._choice(event.choice)
        where = f"choices[{event.choice}].content[{event.index}]"
        match part:
            case Text() | Refusal() | Thinking(redacted=None):
                return self._open_text(event, part, choice, where)
            case Thinking():
                return self._chunk(event.choice, {"thinking_blocks": [write_block(part, where, self._saying)]})
            case ToolCall():
                return self._open_call(event, part, choice, where)
            case Media() if part.kind == "image" and (url := image_url(part)) is not None:
                self._saying.kept(part.extra, where)
                return self._chunk(event.choice, {"images": [{"type": "image_url", "image_url": url}]})
            case _:
                self._report.lose(where)
                return b""

    def _open_text(self, event: Open, part: Text | Refusal | Thinking, choice: _Choice, where: str) -> bytes:
        """Nothing is to be told yet but the role."""
        self._saying.kept(part.extra, where)
        if isinstance(part, Refusal):
            choice.kinds.append(part)
        head = self._prefix + b'%d,"delta":{"%b":' % (event.choice, _MEMBERS[type(part)].encode())
        self._parts[event.choice, event.index] = _Part(part, head, _TEXT_END)
        return b"" if choice.role else self._chunk(event.choice, {})

    def _open_call(self, event: Open, part: ToolCall, choice: _Choice, where: str) -> bytes:
        number = choice.calls
        if self._old and number:
            self._report.lose(where)
            return b""
        choice.calls += 1
        choice.numbers[event.index] = number
        choice.kinds.append(part)
        if self._old:
            head = self._prefix + b'%d,"delta":{"function_call":{"arguments":' % event.choice
            self._parts[event.choice, event.index] = _Part(part, head, _OLD_END)
            return self._chunk(event.choice, {"function_call": {"name": part.name, "arguments": ""}})
        kind, text = (b"custom", b"input") if part.custom else (b"function", b"arguments")
        head = self._prefix + b'%d,"delta":{"tool_calls":[{"index":%d,"%b":{"%b":' % (event.choice, number, kind, text)
        self._parts[event.choice, event.index] = _Part(part, head, _CALL_END)
        return self._chunk(event.choice, {"tool_calls": [{"index": number, **write_call(part, where, self._saying)}]})

    def _delta(self, event: Delta) -> bytes:
        part = self._parts.get((event.choice, event.index))
        if part is None:
            return b""  # of a part that could not be said, which was reported
        if type(part.part) is Thinking:
            part.texts.append(event.text)
        if not event.logprobs:
            return part.head + _dumps(event.text) + part.end
        said = _logprobs(event.logprobs, refusal=type(part.part) is Refusal)
        return part.head + _dumps(event.text) + part.end.replace(b'"logprobs":null', b'"logprobs":' + _dumps(said))

    def _mark(self, event: Mark) -> bytes:
        """The signature of thoughts or of a call; extras of a part have a place in a call only."""
        part = self._parts.get((event.choice, event.index))
        where = f"choices[{event.choice}].content[{event.index}]"
        extra = self._saying.kept(event.extra, where)
        if part is not None and type(part.part) is Thinking and event.signature is not None:
            text = "".join(part.texts)
            thought = Thinking(text=text, signature=event.signature, origin=event.origin, extra=extra)
            return self._chunk(event.choice, {"thinking_blocks": [write_block(thought, where, self._saying)]})
        if part is None or type(part.part) is not ToolCall or not (extra or event.signature) or self._old:
            return b""
        signed = {} if event.signature is None else {"extra_content": signature_said(event.signature)}
        number = self._choice(event.choice).numbers[event.index]
        return self._chunk(event.choice, {"tool_calls": [{"index": number, **signed, **extra}]})

    def _stopped(self, event: Stopped) -> bytes:
        choice, where = self._choice(event.choice), f"choices[{event.choice}]"
        extra = dict(self._saying.kept(event.extra, where))
        reason = write_stop(event.stop, event.stop_sequence, choice.kinds, where, self._saying)
        if self._old and reason == "tool_calls":
            reason = "function_call"
        beside = {"finish_reason": reason}
        if event.stop_sequence is not None and self._saying.own:
            beside["stop_reason"] = event.stop_sequence
        return self._chunk(event.choice, extra.pop("message", {}), {**beside, **extra})


def _logprobs(tokens: list[TokenLogprob], *, refusal: bool) -> Json:
    said = write_logprobs(tokens)
    return {"content": None, "refusal": said} if refusal else {"content": said, "refusal": None}
