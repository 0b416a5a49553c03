"""Measures one response while it passes: first-token times, gaps, usage, identity and how it ended.

A meter is fed copies of the decoded body and never changes, delays or fails anything: what it cannot read is "unknown".
Times are the caller's readings, taken at the socket before anything was parsed; a meter asks no clock.
"""

import math
import re
from collections.abc import Sequence
from operator import sub
from typing import Protocol

import msgspec
from msgspec import Struct

from sidecar.core.types import Dialect, Endpoint, Usage
from sidecar.wire import anthropic, gemini, openai
from sidecar.wire.alike import Alike, alike_to
from sidecar.wire.answer import Collector
from sidecar.wire.reading import Piece, Reading, read_as
from sidecar.wire.sse import SseEvent, SseParser

_GAP_BINS_PER_E = 50.5  # bins grow by 2 %, so that their middle is within 1 % of every gap in them
_GAP_FLOOR_S = 1e-6
_GAP_FIRST_BIN = math.log(_GAP_FLOOR_S) * _GAP_BINS_PER_E
_COMPARE_EVERY = 16  # tokens; where events never are alike the attempts must not cost what likeness saves
_GAPS_AT_ONCE = 256  # gaps of one stream that wait for their bins
_ALL = -1  # every bit
_log = math.log


class Meter(Protocol):
    """Feed it every read of the body, then ask once. `ended`: the dialect's own end of the answer has been seen. `alike`:
    what it knows the next event by, while none is pending."""

    @property
    def ended(self) -> bool: ...

    @property
    def alike(self) -> Alike | None: ...

    def feed(self, data: bytes, t_s: float) -> None: ...

    def count(self, times: Sequence[float], events: int, text_bytes: int) -> None: ...

    def finish(self) -> Reading: ...


def make_meter(
    endpoint: Endpoint, dialect: Dialect, *, event_stream: bool, max_bytes: int, collector: Collector | None = None
) -> Meter:
    """The meter for one response. `max_bytes` bounds what it may hold: one event of a stream, or a whole body.

    `collector`, if there is one, gets every event, or the whole body when the meter has it.
    """
    readers = _readers(endpoint, dialect)
    if event_stream:
        return StreamMeter(readers.event, max_bytes, collector)
    return BodyMeter(readers.body, endpoint, max_bytes, collector)


class _EventReader(Protocol):
    def __call__(self, name: bytes, data: bytes) -> Piece | None: ...


class _BodyReader(Protocol):
    def __call__(self, body: bytes) -> Piece | None: ...


class _Readers(Struct, frozen=True):
    event: _EventReader
    body: _BodyReader


_CHAT = _Readers(openai.read_chunk, openai.read_completion)
_RESPONSES = _Readers(openai.read_responses_event, openai.read_response)
_MESSAGES = _Readers(anthropic.read_event, anthropic.read_message)
_GENERATE = _Readers(gemini.read_chunk, gemini.read_body)
_BY_ENDPOINT = {
    "chat": _CHAT,
    "completions": _CHAT,
    "embeddings": _CHAT,
    "responses": _RESPONSES,
    "messages": _MESSAGES,
    "generate": _GENERATE,
}
_GEMINI_EMBEDDINGS = _Readers(gemini.read_chunk, gemini.read_embedding)
_BY_DIALECT = {"openai": _RESPONSES, "anthropic": _MESSAGES, "gemini": _GENERATE}


def _readers(endpoint: Endpoint, dialect: Dialect) -> _Readers:
    """By endpoint; elsewhere ("other") by dialect, with the reader that knows both of OpenAI's spellings of usage."""
    if endpoint == "embeddings" and dialect == "gemini":
        return _GEMINI_EMBEDDINGS
    return _BY_ENDPOINT.get(endpoint) or _BY_DIALECT[dialect]


class Gaps:
    """Times between arrivals in bins that grow by 2 %: bounded memory, percentiles within 1 %, no randomness."""

    def __init__(self) -> None:
        self._new: list[float] = []  # not in a bin yet: no arithmetic while the stream runs
        self._bins: dict[int, int] = {}

    def add(self, gap_s: float) -> None:
        """One gap; below a microsecond it counts as one."""
        self._new.append(gap_s)
        if len(self._new) >= _GAPS_AT_ONCE:
            self._count()

    def add_between(self, times: Sequence[float]) -> None:
        """The gaps between these arrivals, in their order."""
        self._new.extend(map(sub, times[1:], times))
        if len(self._new) >= _GAPS_AT_ONCE:
            self._count()

    def percentile(self, q: float) -> float | None:
        """The nearest-rank percentile for `q` in (0, 1]; None without a gap."""
        if not self._bins and self._new:  # bins keep the order of the gaps: the one of this rank is enough
            return _middle_s(_bin(sorted(self._new)[math.ceil(q * len(self._new)) - 1]))
        self._count()
        rank = math.ceil(q * sum(self._bins.values()))
        seen = 0
        for place in sorted(self._bins):
            seen += self._bins[place]
            if seen >= rank:
                return _middle_s(place)
        return None

    def _count(self) -> None:
        bins = self._bins
        for gap_s in self._new:
            place = _bin(gap_s)
            bins[place] = bins.get(place, 0) + 1
        self._new.clear()


def _bin(gap_s: float) -> int:
    return int(_log(gap_s) * _GAP_BINS_PER_E - _GAP_FIRST_BIN) if gap_s > _GAP_FLOOR_S else 0


def _middle_s(place: int) -> float:
    return _GAP_FLOOR_S * math.exp((place + 0.5) / _GAP_BINS_PER_E)


class StreamMeter:
    """Meters an event stream. Tokens of one read arrive together: gaps lie between the reads that carried some."""

    def __init__(self, read: _EventReader, max_event_bytes: int, collector: Collector | None = None) -> None:
        self._read = read
        self._collector = collector
        self._parser = SseParser(max_event_bytes)
        self._max_event_bytes = max_event_bytes
        self._gaps = Gaps()
        self._merged = Piece()
        self._counts: anthropic.AnthropicUsage | None = None
        self._went_on = 0  # a bit for each choice with text behind its end, which some servers say in each chunk
        self._provisional = False  # output tokens so far are a first guess of the server
        self._events = 0
        self._token_events = 0
        self._output_bytes = 0
        self._alike: Alike | None = None
        self._compare_at = 2  # how many tokens come before one is tried as the likeness of those behind it
        self._ttfe_s: float | None = None
        self._ttft_s: float | None = None
        self._ttfa_s: float | None = None
        self._last_s: float | None = None

    @property
    def ended(self) -> bool:
        return self._merged.terminal and not self._merged.choices & (self._went_on | ~self._merged.ends)

    @property
    def alike(self) -> Alike | None:
        return self._alike if self._parser.fresh else None

    def count(self, times: Sequence[float], events: int, text_bytes: int) -> None:
        """So many events that are `alike`, which reads at these times brought, with so much text together."""
        self._events += events
        self._token_events += events
        self._output_bytes += text_bytes
        if times:
            self._gaps.add_between(times if self._last_s is None else [self._last_s, *times])
            self._last_s = times[-1]

    def feed(self, data: bytes, t_s: float) -> None:
        """One read of the decoded stream, which arrived at `t_s`."""
        fresh = self._parser.fresh and len(data) <= self._max_event_bytes
        if fresh and self._alike is not None and (size := self._alike.text_bytes(data)):
            self._events += 1
            self._token_events += 1
            self._output_bytes += size
            self._gap(t_s)
            return
        events = self._parser.feed(data)
        if not events:
            return
        if self._ttfe_s is None:
            self._ttfe_s = t_s
        self._events += len(events)
        tokens = self._token_events
        pieces = [self._one(event, t_s) for event in events]
        if self._collector is not None:
            for event in events:
                self._collector.event(event.data)
        if self._token_events != tokens:
            self._gap(t_s)
            if fresh and len(events) == 1 and self._token_events >= self._compare_at:
                self._compare(data, events[0], pieces[0])

    def _compare(self, data: bytes, event: SseEvent, piece: Piece | None) -> None:
        """Tries whether later events can be known by this one; if not, another one is tried later. Who answers has to be
        known already: then such an event tells nothing but its text. Whoever collects the text needs every event."""
        self._compare_at = self._token_events + _COMPARE_EVERY
        if self._merged.completion_id is not None and self._collector is None:
            self._alike = alike_to(data, event, piece, self._read) or self._alike

    def _gap(self, t_s: float) -> None:
        """A read that carried tokens."""
        if self._last_s is not None:
            self._gaps.add(t_s - self._last_s)
        self._last_s = t_s

    def _one(self, event: SseEvent, t_s: float) -> Piece | None:
        piece = self._read(event.name, event.data)
        if piece is not None:
            self._take(piece, t_s)
        return piece

    def _take(self, piece: Piece, t_s: float) -> None:
        merged = self._merged
        if piece.text_bytes:
            self._token_events += 1
            self._output_bytes += piece.text_bytes
            if self._ttft_s is None:
                self._ttft_s = t_s
            self._went_on |= piece.choices & merged.ends
        if piece.answer and self._ttfa_s is None:
            self._ttfa_s = t_s
        if merged.completion_id is None:
            merged.completion_id = piece.completion_id
            merged.model = piece.model or merged.model
        if piece.finish is not None:
            merged.finish = piece.finish
        merged.choices |= piece.choices
        if piece.terminal:
            merged.terminal = True
            merged.ends |= piece.ends or _ALL
            if not piece.ends:
                self._went_on = 0  # an end of all that no server says before
        if piece.usage is not None and (merged.usage is None or _counts(piece.usage)):
            merged.usage = piece.usage
        if type(piece) is not Piece or piece.called or piece.refused or piece.error is not None:
            self._rare(piece)

    def _rare(self, piece: Piece) -> None:
        merged = self._merged
        merged.called = merged.called or piece.called
        merged.refused = merged.refused or piece.refused
        merged.error = merged.error or piece.error
        if merged.model is None:
            merged.model = piece.model
        if isinstance(piece, anthropic.MessagePiece) and piece.counts is not None:
            self._counts = anthropic.merge(self._counts, piece.counts)
            if piece.partial_usage or piece.counts.output_tokens is not None:
                self._provisional = piece.partial_usage

    def finish(self) -> Reading:
        """What was seen until now; the stream may have ended anywhere."""
        merged = self._merged
        usage = merged.usage
        if self._collector is not None and self._parser.overflow:
            self._collector.lose()
        if self._counts is not None:
            usage = anthropic.to_usage(self._counts)
            if self._provisional:
                usage = msgspec.structs.replace(usage, output_tokens=None)
        produced = self._token_events > 0 or merged.called
        reading = Reading(  # not more than 15 named arguments: beyond, the interpreter makes a dict for a call
            usage=_trusted(usage, self._output_bytes),
            completion_id=merged.completion_id,
            model=merged.model,
            finish=merged.finish,
            empty=not produced if merged.terminal and not self._parser.overflow else None,
            terminal=merged.terminal,
            events=self._events,
            ttfe_s=self._ttfe_s,
            ttft_s=self._ttft_s,
            ttfa_s=self._ttfa_s,
            last_token_s=self._last_s,
            gap_p50_s=self._gaps.percentile(0.5),
            gap_p95_s=self._gaps.percentile(0.95),
            output_bytes=self._output_bytes,
            token_events=self._token_events,
        )
        if not merged.refused and merged.error is None:
            return reading
        return msgspec.structs.replace(reading, refused=merged.refused, error=merged.error)


class BodyMeter:
    """Meters a whole JSON body: collected up to `max_bytes`, decoded once at the end."""

    def __init__(
        self, read: _BodyReader, endpoint: Endpoint, max_bytes: int, collector: Collector | None = None
    ) -> None:
        self._read = read
        self._collector = collector
        self._endpoint = endpoint
        self._room = max_bytes
        self._parts: list[bytes] = []

    alike = None

    @property
    def ended(self) -> bool:
        """Whether what has come is a whole document of the dialect. Reads all of it: ask where its framing does not tell."""
        return bool(self._parts) and self._read(b"".join(self._parts)) is not None

    def count(self, times: Sequence[float], events: int, text_bytes: int) -> None:
        """Part of what a `Meter` is; nothing in a whole body is alike."""

    def feed(self, data: bytes, t_s: float) -> None:  # noqa: ARG002  # a whole body has no token times
        """One read of the decoded body."""
        self._room -= len(data)
        if self._room < 0:
            self._parts.clear()
        else:
            self._parts.append(data)

    def finish(self) -> Reading:
        """The body's reading; an empty one where it was too large or is no JSON of this dialect."""
        if not self._parts:
            return Reading()
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self._collector is not None:
            self._collector.body(body)
        piece = self._read(body)
        if piece is None:
            return Reading()
        reading = reading_of(piece)
        if self._endpoint == "count_tokens":
            return msgspec.structs.replace(reading, usage=None, empty=None)
        if self._endpoint not in ("embeddings", "other"):
            return reading
        usage = reading.usage
        if self._endpoint == "embeddings" and usage is not None and usage.input_tokens is not None:
            usage = msgspec.structs.replace(usage, output_tokens=0)  # embeddings generate nothing: 0 is known
        return msgspec.structs.replace(reading, usage=usage, empty=None)


def reading_of(piece: Piece) -> Reading:
    """The reading of a whole answer."""
    return Reading(
        usage=_trusted(piece.usage, piece.text_bytes),
        completion_id=piece.completion_id,
        model=piece.model,
        finish=piece.finish,
        empty=None if piece.error is not None else not (piece.text_bytes or piece.called or piece.answer),
        refused=piece.refused,
        error=piece.error,
        terminal=piece.terminal,
        output_bytes=piece.text_bytes,
    )


def _trusted(usage: Usage | None, output_bytes: int) -> Usage | None:
    """What is zero although text was generated was not counted by the server: unknown, never 0. Nor was an input of zero:
    no call has none. A stated cost stays."""
    if usage is None:
        return None
    known = usage.input_tokens or None
    if not output_bytes or usage.output_tokens:
        return usage if usage.input_tokens == known else msgspec.structs.replace(usage, input_tokens=known)
    if known is None and not usage.reported_cost_nusd:
        return None
    return msgspec.structs.replace(usage, input_tokens=known, output_tokens=None, reasoning_tokens=None)


def _counts(usage: Usage) -> bool:
    """Whether there is any count in it, so that it may take the place of an earlier one."""
    return usage.input_tokens is not None or usage.output_tokens is not None


class _ErrorText(Struct, gc=False):
    type: str | None = None
    message: str | None = None


class _ErrorBody(Struct, gc=False):
    error: _ErrorText | str | None = None
    message: str | None = None  # Cohere, Bedrock, Mistral: there is no object around it


_error_body = msgspec.json.Decoder(_ErrorBody)
_NO_FAULT_STATUS = frozenset({408, 425, 429})  # the server's own timing and limits
_CALLER_TYPES = frozenset({"invalid_request_error", "not_supported_error", "exceed_context_size_error"})
# Messages of servers that answer a caller's mistake with 500 (llama.cpp, vLLM and their kin).
_CALLER_WORDS = re.compile(
    r"failed to parse (?:tools|messages|grammar|input)|input is not supported|' is required"
    r"|invalid (?:role|tool|message)|json schema|unsupported (?:content|role|param)"
    r"|does not support (?:tools|images|embeddings|system)"
    r"|(?:input|prompt) (?:\(\d+ tokens\) )?is too (?:large|long)|exceeds? the (?:available |maximum )?context",
    re.IGNORECASE,
)
_MODEL_WORDS = re.compile(
    r"model .{0,200}(?:not found|not exist|not loaded|not available|identifier is invalid|throughput isn.t supported)"
    r"|invalid model\b|access to the model with",
    re.IGNORECASE | re.DOTALL,
)


def caller_fault(status: int, body: bytes) -> bool:
    """Whether the body of an error shows the caller's mistake, so that it must not blame the arm.

    True for a 4xx other than 408, 425 and 429, unless it says that the model does not exist: an arm with a wrong model
    name has to be rolled back. For a 5xx only where the body says so.
    """
    if status < 400 or status in _NO_FAULT_STATUS:
        return False
    read = read_as(_error_body, body)
    error = None if read is None else read.error
    text = error if isinstance(error, str) else None if error is None else error.message
    text = text or (None if read is None else read.message) or ""
    if _MODEL_WORDS.search(text):
        return False
    if status < 500:
        return True
    kind = error.type if isinstance(error, _ErrorText) else None
    return kind in _CALLER_TYPES or _CALLER_WORDS.search(text) is not None
