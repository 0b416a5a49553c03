"""A call on its way to an arm of another format, and its answer on the way back: the HTTP around `wire.translate`.

Before the decision `Said` knows, for each upstream that speaks another format, what of the call cannot be said there; it
is worked out when the engine asks, once for each format. For the arm that was chosen it gives the body and a head of our
own, with nothing of the client's but what every server understands. The answer comes back through a `TranslatedReply`,
whose first byte goes down when there is something to say, so that an answer of a wrong format can still become an error.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import orjson
from msgspec.structs import replace

from sidecar.core.abilities import Capabilities
from sidecar.core.fitting import RESERVE
from sidecar.core.tuning import CEILING, CEILINGS
from sidecar.core.types import Decision, Endpoint, Facts, Refusal
from sidecar.errors import ProtocolError, TranslationError
from sidecar.proxy.answer import phrase
from sidecar.proxy.gate import Way
from sidecar.proxy.origin import Origin
from sidecar.proxy.reply import MAX_ERROR_BYTES, Reply
from sidecar.wire.answer import Collector
from sidecar.wire.decode import coding_of, make_decoder
from sidecar.wire.framing import LAST_CHUNK, chunk
from sidecar.wire.http1 import RequestHead, ResponseHead, field_names, fields_of
from sidecar.wire.needs import needs_of
from sidecar.wire.neutral import Format, Report, Request
from sidecar.wire.providers import FORMATS, format_at
from sidecar.wire.request_view import RequestView
from sidecar.wire.spokes import SPOKES
from sidecar.wire.sse import SseParser
from sidecar.wire.target import asks_array, path_segment
from sidecar.wire.told import ToldMeter
from sidecar.wire.translate import (
    MAX_WHOLE_BYTES,
    TOO_LARGE,
    Named,
    StreamedAnswer,
    WholeAnswer,
    WrongAnswer,
    changes,
    losses,
    read,
    say,
)

_PASSED_UP: Final = (b"user-agent", b"traceparent", b"tracestate", b"baggage", b"x-request-id")
_PASSED_DOWN: Final = field_names(b"x-request-id", b"request-id", b"retry-after", b"retry-after-ms", b"x-should-retry")
_MEANT: Final[Mapping[bytes, bytes | None]] = {  # headers that ask for another answer: and the value that asks for none
    b"anthropic-beta": None,
    b"openai-beta": None,
    b"anthropic-version": b"2023-06-01",
}
_ASKED: Final = field_names(*_PASSED_UP, *_MEANT)
_STREAMS: Final = (b"text/event-stream", b"application/vnd.amazon.eventstream")
_BY_MODEL: Final[frozenset[Format]] = frozenset({"messages", "converse"})  # what can be said depends on the model
_SET: Final = {"temperature": float, "top_p": float, "top_k": int, "max_tokens": int, "seed": int}  # neutral params


def foreign(origins: Mapping[str, Origin]) -> dict[Endpoint, dict[str, Origin]]:
    """The upstreams that do not speak the format of an endpoint, by name, for each endpoint that may be translated.

    What will be needed is loaded now: where others do speak the format, for chat, which most clients speak, and for
    formats that upstreams alone speak. Elsewhere the first call that is translated waits for it, some 10 ms once.
    """
    found: dict[Endpoint, dict[str, Origin]] = {}
    for endpoint, form in FORMATS.items():
        away = found[endpoint] = {name: one for name, one in origins.items() if form not in one.provider.paths}
        if away and (len(away) < len(origins) or form == "chat"):
            SPOKES.load((form, *(format_at(one.provider, form) for one in away.values())))
    for one in origins.values():
        SPOKES.load(form for form in one.provider.paths if form not in FORMATS.values())
    return found


class Said(Mapping[str, tuple[str, ...]]):
    """One call, as far as it can be said elsewhere: upstream -> members that are lost there, worked out when asked for.

    A key may name the model too, behind a line feed: what can be said to Anthropic's models depends on which it is.
    """

    also: tuple[str, ...] = ()  # what no other format can say of this call, besides its body

    def __init__(self, upstreams: Mapping[str, Origin], way: Way, body: bytes, model: str, *, stream: bool) -> None:
        self._upstreams = upstreams
        self._way = way
        self._form: Format = FORMATS[way.endpoint]
        self._body, self._model, self._stream = body, model, stream
        self._request: Request | None = None
        self._wrong: str | None = None  # why it cannot be read
        self._lost: dict[tuple[Format, int, str], tuple[str, ...]] = {}

    def __getitem__(self, where: str) -> tuple[str, ...]:
        upstream, _, model = where.partition("\n")
        origin = self._upstreams[upstream]
        form = format_at(origin.provider, self._form)
        key = (form, id(origin.provider), model if form in _BY_MODEL else "")
        found = self._lost.get(key)
        if found is None:
            request = self.request()
            found = (self._wrong or "the body",)
            if request is not None:
                found = losses(replace(request, model=model) if key[2] else request, form, origin.provider)
            found = self._lost[key] = (*self.also, *found)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._upstreams)

    def __len__(self) -> int:
        return len(self._upstreams)

    def request(self) -> Request | None:
        """The call in the neutral form; None when it cannot be read."""
        if self._request is None and self._wrong is None:
            try:
                self._request = read(self._body, self._form, self._model, stream=self._stream)
            except TranslationError as error:
                self._wrong = str(error)
        return self._request

    def told(self, refusal: Refusal) -> Refusal:
        """A refusal in better words: of a call that cannot be read it is no use to tell what other formats lack."""
        wrong = self._wrong
        return refusal if wrong is None or refusal.code != "translation" else Refusal(400, "malformed", wrong)

    def put(
        self, origin: Origin, decision: Decision, model: str, body: bytes, *, ask_usage: bool = True
    ) -> "Translated":
        """The call for this arm. `body` is the client's with what the decision did to its system prompt; `ask_usage`: a
        stream is asked for its usage.

        Raises:
            TranslationError: it cannot be read.
        """
        request = self._request if body is self._body else None  # read before, when its losses were asked for
        if request is None:
            request = read(body, self._form, self._model, stream=self._stream)
        made = Translated(request, origin, decision, model, body, ask_usage=ask_usage)
        made.report.lost += self.also
        return made


def said_of(
    upstreams: Mapping[str, Origin], head: RequestHead, way: Way, view: RequestView | None, body: bytes, facts: Facts
) -> Said | None:
    """A call as these upstreams may be asked it; None where it cannot be said elsewhere, whichever it is."""
    if view is None or view.stateful or facts.model is None or head.method != b"POST":
        return None
    said = Said(upstreams, way, body, facts.model, stream=facts.stream)
    if asks_array(head.target):
        said.also = ("alt",)
    return said


class Translated:
    """One call as one arm gets it."""

    unheard = b""  # headers that mean something to the client's own provider only, each with ", " behind it

    def __init__(
        self,
        request: Request,
        origin: Origin,
        decision: Decision,
        model: str,
        body: bytes = b"",
        *,
        ask_usage: bool = True,
    ) -> None:
        """`body` is the client's, for the estimate of its size. Without `ask_usage` a stream is not asked for its usage."""
        self.request = request
        self.named = Named(model=model)  # the exchange knows more
        self.report = Report()
        self.form = format_at(origin.provider, request.format)
        self._origin = origin
        self._model = model
        own, rest = _params(decision)
        request = replace(request, **own) if own else request
        if self.form == "messages" and request.max_tokens is None and decision.can is not None:
            request = _with_limit(request, decision.can, needs_of(body).tokens, self.report)
        self.asked = self.form == "chat" and request.stream and ask_usage
        said = say(request, self.form, origin.provider, model, self.report, ask_usage=ask_usage)
        self.body = said if not rest else orjson.dumps(orjson.loads(said) | rest)

    def head(self, client: RequestHead, at: float) -> bytes:
        """The whole head for the upstream; `at` as `Origin.own_head` wants it.

        Raises:
            ProtocolError: 400, the model's name cannot stand in a path.
        """
        provider = self._origin.provider
        paths = provider.streams if self.request.stream and self.form in provider.streams else provider.paths
        target = paths[self.form].encode()
        if b"{model}" in target:
            target = target.replace(b"{model}", path_segment(self._model))
        asked = fields_of(client, _ASKED)
        self.unheard = b"".join(
            [b"header %b, " % name for name, no in _MEANT.items() if asked.get(name, no) not in (no, b"")]
        )
        passed = b"".join([b"%b: %b\r\n" % (name, asked[name]) for name in _PASSED_UP if name in asked])
        lines = b"content-type: application/json\r\naccept: %b\r\naccept-encoding: identity\r\n%b%b" % (
            b"text/event-stream" if self.request.stream else b"application/json",
            provider.headers,
            passed,
        )
        return self._origin.own_head(target, lines, self.body, client, at)

    def reply(
        self, head: ResponseHead, client: RequestHead, way: Way, limit: int, collector: Collector | None
    ) -> "TranslatedReply":
        """The answer, from its head on."""
        return TranslatedReply(self, head, client, way, limit, collector)


def _with_limit(request: Request, can: Capabilities, input_tokens: int, report: Report) -> Request:
    """Anthropic wants to be told how long an answer may be: where the client did not say, as long as the model can."""
    if can.max_output_tokens is None:
        return request
    room = can.max_output_tokens if can.context_tokens is None else can.context_tokens - input_tokens
    report.map("max_tokens")
    return replace(request, max_tokens=min(can.max_output_tokens, max(room, RESERVE)))


def _params(decision: Decision) -> tuple[dict[str, float], dict[str, object]]:
    """The arm's params that every format knows, and those that are members of the arm's own body."""
    own: dict[str, float] = {}
    rest: dict[str, object] = {}
    for name, text in decision.params:
        value = orjson.loads(text)
        name = CEILING if name in CEILINGS else name  # tuning says it as the app did, the arm may call it otherwise
        if name in _SET and isinstance(value, int | float) and not isinstance(value, bool):
            own[name] = _SET[name](value)
        else:
            rest[name] = value
    return own, rest


class TranslatedReply(Reply):
    """An answer that goes down in the client's format. Its head can be made once `feed` or `end` gave something or it is
    `done`: only then the status, and the length of a whole one, are known."""

    def __init__(
        self,
        call: Translated,
        head: ResponseHead,
        client: RequestHead,
        way: Way,
        limit: int,
        collector: Collector | None,
    ) -> None:
        super().__init__(head, client, way, asked=False, meter_max_bytes=limit, collector=collector)
        self._shown = SseParser(limit)  # of what the client gets, for the collector
        self._events = head.fields.get(b"content-type", b"").startswith(_STREAMS)
        self._streams = self._events and head.status < 400
        self._told_meter = ToldMeter(limit)
        self.meter = None if head.status >= 400 else self._told_meter
        self._report, self._unheard = call.report, call.unheard
        self._size = 0  # of a whole answer, in the client's format
        self._answer: WholeAnswer | StreamedAnswer
        if self._streams:
            self._answer = StreamedAnswer(call.request, call.form, call.report, call.named)
        else:
            self._answer = WholeAnswer(call.request, call.form, head.status, call.report, call.named)
        self._wrong_kind = call.request.stream != self._events and head.status < 400
        self._too_large = not self._streams and head.status < 400 and (head.length or 0) > MAX_WHOLE_BYTES
        self._ends_plain = self._streams and self._plain  # by the end of the connection: an HTTP/1.0 client
        coding = coding_of(head.fields)  # nobody asked for one, and there are servers that have one
        self._packed = coding is not None
        self._decoder = None if coding is None else make_decoder(coding, MAX_WHOLE_BYTES)

    def head_bytes(self, add: bytes, *, close: bool) -> bytes:
        """A head of our own: the status, what every client understands, and how the body ends."""
        problem = self._answer.problem if isinstance(self._answer, WholeAnswer) else None
        status = self.head.status if problem is None else problem.status  # a whole answer may say that it failed
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, phrase(status))]
        if self._streams:
            lines.append(b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n")
            lines.append(b"connection: close\r\n" if self._plain else b"transfer-encoding: chunked\r\n")
        else:
            lines.append(b"content-type: application/json\r\ncontent-length: %d\r\n" % self._size)
        retry = b"x-should-retry" in add
        lines += [
            b"%b: %b\r\n" % one
            for one in fields_of(self.head, _PASSED_DOWN).items()
            if not (retry and one[0] == b"x-should-retry")
        ]
        told = self._unheard + changes(self._report).encode()
        if told:
            lines.append(b"x-sidecar-changed: %b\r\n" % told.removesuffix(b", "))
        lines += [add, b"connection: close\r\n" if close and not self._ends_plain else b"", b"\r\n"]
        return b"".join(lines)

    @property
    def ends_with_connection(self) -> bool:
        """The framing is ours, whatever the upstream's."""
        return self._ends_plain

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """One read of the upstream: (bytes for the client, payload for the meter)."""
        _, payload = super().feed(data)
        return self._say(payload), payload

    def end(self, error: Exception | None, on_bug: Callable[[str, BaseException], None]) -> bytes:
        """The upstream closed the connection where that is how its body ends."""
        super().end(error, on_bug)
        return self._say(b"")

    def _say(self, payload: bytes) -> bytes:
        try:
            if self._wrong_kind:
                raise WrongAnswer("it is an event stream" if self._events else "it is no event stream")
            if self._too_large:
                raise WrongAnswer(TOO_LARGE)
            if self._packed:
                payload = self._unpacked(payload)
            out = self._answer.feed(payload) if payload else b""
            if self.done:
                out += self._answer.end()
        except WrongAnswer as error:
            raise ProtocolError(f"the upstream's answer cannot be translated: {error}", 502) from None
        if self.collector is not None:
            self._show(self.collector, out)
        if not self._streams:
            self._size = len(out)
            return out
        if self._plain:
            return out
        if not out:
            return LAST_CHUNK if self.done else b""
        return chunk(out) + LAST_CHUNK if self.done else chunk(out)

    def _unpacked(self, payload: bytes) -> bytes:
        decoder = self._decoder
        said = b"" if decoder is None else decoder.feed(payload)
        if (decoder is None or decoder.failed) and self.head.status < 400:
            raise WrongAnswer("it is compressed in a way that cannot be read")
        return said

    def _show(self, collector: Collector, out: bytes) -> None:
        """Checks read the answer in the client's own format."""
        if not self._streams:
            if out:
                collector.body(out)
            return
        for event in self._shown.feed(out):
            collector.event(event.data)

    def measure(self, payload: bytes, t_s: float, on_bug: object) -> None:  # noqa: ARG002 - nothing here can fail
        """The meter learns what was said; its copy was read already."""
        self.size += len(payload)
        if self._error is not None and self.size <= MAX_ERROR_BYTES:
            self._error.append(payload)
        pieces, self._answer.pieces = self._answer.pieces, []
        if pieces and self.meter is not None:
            self._told_meter.take(pieces, t_s, streamed=self._streams)
