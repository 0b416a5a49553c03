"""Says a call of one format in another, and the answer back: the hub that joins two spokes.

    client's body -> Request -> arm's body          arm's answer -> Response -> client's answer
    arm's events  -> Event*  -> client's events, each at once

Nothing is dropped in silence: `losses` tells before an arm is chosen what its format cannot say, and what was changed is in
the Report. An answer that is not of the arm's format is the arm's fault (WrongAnswer), and nothing of it reaches the client.

What it does not do: talk HTTP (`proxy.translated`), choose an arm, hold prompts longer than a call takes.
"""

import re
from hashlib import sha256
from typing import Final

import orjson
from msgspec import Struct
from msgspec.structs import replace

from sidecar.errors import TranslationError
from sidecar.wire.call_ids import short_ids
from sidecar.wire.eventstream import BadFrame, EventStreamParser
from sidecar.wire.json_body import json_of
from sidecar.wire.mistral import fit
from sidecar.wire.neutral import Done, Event, Failed, Format, Json, Problem, Report, Request, Response, Start, Stopped
from sidecar.wire.one_call import OneCall
from sidecar.wire.providers import Provider
from sidecar.wire.reading import Piece, loads
from sidecar.wire.spoke import asks, problem_of
from sidecar.wire.spokes import SPOKES
from sidecar.wire.sse import SseParser
from sidecar.wire.strict_schema import fits_strict
from sidecar.wire.told import Listener, piece_of_whole
from sidecar.wire.tool_names import OwnNames, other_names, renamed

MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
MAX_WHOLE_BYTES: Final = 64 * 1024 * 1024  # of an answer that is held until it is whole; more than any model says
_MAX_PROBLEM_BYTES: Final = 256 * 1024  # of an error: what is behind is not read
TOO_LARGE: Final = "it is too large"
_REASON: Final = re.compile(r"[A-Z_]{1,64}")
_FAILED: Final = "the provider says that its answer failed"
_TOO_DEEP: Final = "the body is nested too deeply"
_HINTS: Final = frozenset({"eager_input_streaming"})  # of a tool
_EDITS: Final = "context_management"  # Anthropic's: what the provider takes out of a conversation that grows
_NAME_USERS: Final = frozenset({"chat", "responses"})
_MAX_USER_CHARS: Final = 64
_NO_SINGLE: Final = frozenset({"generate", "cohere", "converse"})  # have no word for one call at most
_HOLD: Final = frozenset({"messages", "generate"})  # hold an answer to its schema, without a word for it
_HOLD_IF_STRICT: Final = frozenset({"chat", "responses"})
_MAX_NAMES: Final = 16  # of changed members that a client is told
_MAX_NAME_CHARS: Final = 64


class WrongAnswer(Exception):
    """The upstream's answer is not of its format."""


class Named(Struct, frozen=True):
    """What an answer is called where its provider does not say: Cohere's names no model, Bedrock's has no id either."""

    id: str = ""
    model: str = ""
    created: int | None = None  # seconds since the epoch

    def name(self, answer: Response | Start) -> None:
        """Fills in what is missing."""
        answer.id = answer.id or self.id
        answer.model = answer.model or self.model
        answer.created = self.created if answer.created is None else answer.created


_UNNAMED: Final = Named()


def read(body: bytes, form: Format, model: str, *, stream: bool) -> Request:
    """The call of a client. `model` and `stream` hold where the format says them elsewhere (in Gemini's path).

    Raises:
        TranslationError: 400, the body is not JSON, or not of this format; says where.
    """
    spoke = SPOKES[form]
    assert spoke.read_request is not None, "clients speak formats that can be read"
    value = json_of(body)
    try:
        request = spoke.read_request(value)
    except RecursionError:
        raise TranslationError(_TOO_DEEP) from None
    request.model = model
    request.stream = stream
    return request


def losses(request: Request, form: Format, provider: Provider) -> tuple[str, ...]:
    """The members of this call that a format, at this provider, cannot say; "the body" where it cannot be written at all."""
    report = Report()
    try:
        _write(request, form, provider, report)
    except TranslationError:
        return ("the body",)
    return tuple(report.lost)


def say(
    request: Request, form: Format, provider: Provider, model: str, report: Report, *, ask_usage: bool = True
) -> bytes:
    """The call as `form` says it, asking for `model`. What was changed or lost is told to `report`. Without `ask_usage` a
    chat stream is not asked for its usage: there are servers that do not know the question.

    Raises:
        TranslationError: 400, the call is nested too deeply to be written.
    """
    return _write(replace(request, model=model), form, provider, report, ask_usage=ask_usage)


def changes(report: Report) -> str:
    """What a client is told of a translation: the members' paths, bounded, without anything that is not a name."""
    names = [name for name in (*report.lost, *report.mapped) if name]
    told = [
        "".join(c if c.isascii() and (c.isalnum() or c in "_.[]-") else "_" for c in n[:_MAX_NAME_CHARS]) for n in names
    ]
    more = len(told) - _MAX_NAMES
    return ", ".join([*told[:_MAX_NAMES], *([f"and-{more}-more"] if more > 0 else [])])


def _write(request: Request, form: Format, provider: Provider, report: Report, *, ask_usage: bool = True) -> bytes:
    said = request
    if request.format != form:
        said = _without(request, provider.lacks, report) if provider.lacks else request
        said = _shortened(_unhinted(said, report), form, report)
        said = _held(said, form, provider, report)
        said = short_ids(said, form) if provider.short_ids else said
        names = other_names(said, form)
        said = renamed(said, names, report) if names else said
    try:
        body = SPOKES[form].write_request(said, report)
    except RecursionError:
        raise TranslationError(_TOO_DEEP) from None
    if form == "chat":
        for name, known in (("max_tokens", provider.limit_key), ("seed", provider.seed_key)):
            if known != name and name in body:
                body[known] = body.pop(name)
        if provider.mistral and request.format != form:
            body["messages"] = fit(body["messages"], report)
        if request.stream and ask_usage:
            body["stream_options"] = {**body.get("stream_options", {}), "include_usage": True}
            body.update({name: orjson.loads(value) for name, value in provider.asks})
        elif not ask_usage:
            body.pop("stream_options", None)
    return _dumped(body)


def _dumped(body: Json) -> bytes:
    """JSON may be nested more deeply than it can be written."""
    try:
        return orjson.dumps(body)
    except TypeError:
        raise TranslationError(_TOO_DEEP) from None


def _without(request: Request, lacks: frozenset[str], report: Report) -> Request:
    """The request without what this provider's server refuses."""
    gone: dict[str, None] = {}
    for name in sorted(lacks):
        if asks(request, name):
            report.lose(name)
        if getattr(request, name) is not None:  # the server refuses the member, whatever it says
            gone[name] = None
    return replace(request, **gone) if gone else request


def _unhinted(request: Request, report: Report) -> Request:
    """The request without what only asks how its answer shall travel, and which thoughts its provider shall keep of those
    that it made: clients say it unasked, no answer of another provider depends on it."""
    if _EDITS in request.extra and _edits_thoughts(request.extra[_EDITS]):
        report.map(_EDITS)
        request = replace(request, extra={name: value for name, value in request.extra.items() if name != _EDITS})
    if not any(_HINTS & tool.extra.keys() for tool in request.tools):
        return request
    tools = [
        replace(tool, extra={name: value for name, value in tool.extra.items() if name not in _HINTS})
        for tool in request.tools
    ]
    return replace(request, tools=tools)


def _edits_thoughts(value: object) -> bool:
    """Whether thoughts are all that is edited. Results of tools that are taken out, or a summary, change what a model sees,
    and whether a long conversation fits: those are no hints."""
    edits = value.get("edits") if isinstance(value, dict) and len(value) == 1 else None
    return isinstance(edits, list) and all(
        isinstance(edit, dict) and str(edit.get("type")).startswith("clear_thinking_") for edit in edits
    )


def _shortened(request: Request, form: Format, report: Report) -> Request:
    """The request with a hash of its user's name where OpenAI refuses that for its length (Claude Code's has some 150)."""
    if request.user is None or len(request.user) <= _MAX_USER_CHARS or form not in _NAME_USERS:
        return request
    report.map("user")
    return replace(request, user=sha256(request.user.encode("utf-8", "replace")).hexdigest())


def _held(request: Request, form: Format, provider: Provider, report: Report) -> Request:
    """The request with `strict`, where its own format holds every answer to its schema and the arm's does if told to."""
    output = request.output
    if output is None or output.schema is None or request.format not in _HOLD or form not in _HOLD_IF_STRICT:
        return request
    if not (provider.strict_schemas and fits_strict(output.schema)):
        report.map("output.strict")  # the schema is sent, and the model mostly obeys it
        return request
    return replace(request, output=replace(output, strict=True))


def problem_body(problem: Problem, client: Format) -> bytes:
    """An error as the client's own SDK understands it."""
    spoke = SPOKES[client]
    assert spoke.write_problem is not None, "clients speak formats that can be written"
    return orjson.dumps(spoke.write_problem(problem))


def _failure(answer: Response) -> Problem | None:
    """What the provider says of its failure; None: it did not fail. A client is told an error then, and no answer."""
    failed = next((choice for choice in answer.choices if choice.stop == "error"), None)
    return answer.problem or (None if failed is None else _failed(failed.extra))


def _failed(extra: Json) -> Problem:
    """A failure of which the provider tells no status. SDKs try again then, which helps where a model wrote a call that
    cannot be read; told as an end like others it would be taken for an answer with nothing in it."""
    reason = extra.get("finishReason")  # Gemini has a word for each failure
    named = isinstance(reason, str) and _REASON.fullmatch(reason)
    return problem_of(502, f"{_FAILED}: {reason}" if named else _FAILED)


def _one_call(request: Request, form: Format) -> OneCall | None:
    return OneCall() if request.parallel_tools is False and form in _NO_SINGLE else None


class WholeAnswer:
    """One answer that is no stream: fed until it is whole, then said at once."""

    def __init__(self, request: Request, form: Format, status: int, report: Report, named: Named = _UNNAMED) -> None:
        """`status` is the upstream's: from 400 on the answer is an error."""
        self._named = named
        self.pieces: list[Piece] = []
        self.problem: Problem | None = None  # the answer is an error, whatever the upstream's status was
        self._request = request
        self._one_call = _one_call(request, form)
        self._names = OwnNames(request, form)
        self._from, self._to = SPOKES[form], SPOKES[request.format]
        self._status = status
        self._report = report
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        """Nothing yet.

        Raises:
            WrongAnswer: it is larger than MAX_WHOLE_BYTES.
        """
        self._size += len(data)
        if self._status >= 400:
            data = data[: max(0, _MAX_PROBLEM_BYTES - self._size + len(data))]
        elif self._size > MAX_WHOLE_BYTES:
            self._parts = []
            raise WrongAnswer(TOO_LARGE)
        self._parts.append(data)
        return b""

    def end(self) -> bytes:
        """The answer in the client's format.

        Raises:
            WrongAnswer: it cannot be read.
        """
        body = b"".join(self._parts)
        if self._status >= 400:
            self.problem = self._from.read_problem(self._status, body)
            return problem_body(self.problem, self._request.format)
        assert self._to.write_response is not None, "clients speak formats that can be written"
        try:
            answer = self._from.read_response(loads(body))
            self._named.name(answer)
            self.problem = _failure(answer)
            self.pieces.append(piece_of_whole(answer, self.problem))
            if self.problem is not None:
                return problem_body(self.problem, self._request.format)
            self._names.whole(answer)
            if self._one_call is not None:
                self._one_call.whole(answer)
            return _dumped(self._to.write_response(answer, self._request, self._report))
        except orjson.JSONDecodeError:
            raise WrongAnswer("it is no JSON") from None
        except TranslationError as error:
            raise WrongAnswer(str(error)) from None
        except RecursionError:
            raise WrongAnswer(_TOO_DEEP) from None


class StreamedAnswer:
    """One streamed answer: each event is said as soon as it is there."""

    def __init__(self, request: Request, form: Format, report: Report, named: Named = _UNNAMED) -> None:
        self._named = named
        spoke = SPOKES[request.format]
        assert spoke.stream_writer is not None, "clients speak formats that can be written"
        self.pieces: list[Piece] = []  # of what was fed and not taken yet, for the meter
        self.done = False  # the arm's own end was seen
        self.begun = False  # something was said
        self._started = False
        self._failed = False  # the client was told so, and nothing behind it
        self._one_call = _one_call(request, form)
        self._names = OwnNames(request, form)
        self._running = request.n or 1  # answers of which it was not told yet why they end
        arm = SPOKES[form]
        self._sse = arm.framing == "sse"
        self._parser = (SseParser if self._sse else EventStreamParser)(MAX_EVENT_BYTES)
        self._reader = arm.stream_reader()
        self._writer = spoke.stream_writer(request, report)
        self._listener = Listener()

    def feed(self, data: bytes) -> bytes:
        """What these bytes say, in the client's format.

        Raises:
            WrongAnswer: they are no stream of the arm's kind.
        """
        events: list[Event] = []
        try:
            for one in self._parser.feed(data):
                events += self._reader.feed(one)
        except BadFrame as error:
            raise WrongAnswer(str(error)) from None
        except RecursionError:
            raise WrongAnswer(_TOO_DEEP) from None
        return self._say(events) if events else b""

    def _say(self, events: list[Event]) -> bytes:
        if not self._started:
            for event in events:
                if isinstance(event, Start):
                    self._named.name(event)
                    self._started = True
        self._names.events(events)
        told = self._told(events)
        self.pieces += self._listener.pieces(events)
        if self._one_call is not None:
            told = self._one_call.events(told)
        out = b"".join([self._writer.feed(event) for event in told])
        self.begun = self.begun or bool(out)
        return out

    def _told(self, events: list[Event]) -> list[Event]:
        """Those that the client is told: nothing behind a failure. A stop that is one becomes it."""
        if self._failed:
            return []
        for number, event in enumerate(events):
            if isinstance(event, Stopped):
                self._running -= 1
                if event.stop == "error":
                    event = events[number] = Failed(problem=_failed(event.extra))
            if isinstance(event, Done | Failed):
                self.done = True
                if isinstance(event, Failed):
                    self._failed = True
                    return events[: number + 1]
        return events

    def end(self) -> bytes:
        """The stream is over: what is left to say. An arm that told why it stopped, and nothing behind that, is through.

        Raises:
            WrongAnswer: it ended without its own end, or nothing in it was of the arm's format.
        """
        out = b""
        if not self.done and self._sse:
            out = self.feed(b"\n\n")  # servers leave out the last blank line
        if not self.done:
            out += self._say([*self._reader.end()])
        if self.done:
            return out
        if self._running <= 0:
            self.done = True
            return out + self._writer.feed(Done())
        raise WrongAnswer("its stream has no end" if self.begun else "its stream is of another format")


Answer = WholeAnswer | StreamedAnswer
