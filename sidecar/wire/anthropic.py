"""Reads what we act on from Anthropic-shaped responses (`/v1/messages`), streamed or whole.

Anthropic's `input_tokens` excludes the cache: the inclusive total is input + cache writes + cache reads. A stream
reports usage twice; `message_delta` is cumulative and may leave out, or zero, what `message_start` said, so the largest
value of each field is the true one and nothing is ever summed over events. Within one report the compaction of a context
is counted apart from the totals, and billed: it is added.
"""

import msgspec
from msgspec import Raw, Struct

from sidecar.core.types import Usage
from sidecar.wire.reading import Piece, label, read_as, text_bytes, tokens

_ABSENT = Raw(b"")
_NO_INPUT = (b"", b"null", b"{}")


class _CacheCreation(Struct, gc=False):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _OutputDetails(Struct, gc=False):
    thinking_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Iteration(Struct, gc=False):
    type: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None


class AnthropicUsage(Struct, gc=False):
    """As Anthropic writes it."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None
    iterations: list[_Iteration] | None = None
    service_tier: str | None = None
    speed: str | None = None  # "fast" has prices of its own
    inference_geo: str | None = None


class _Error(Struct, gc=False):
    type: str | None = None


class _Block(Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    name: str | None = None
    input: Raw = _ABSENT


class _Message(Struct, gc=False):
    id: str | None = None
    model: str | None = None
    content: list[_Block] | None = None
    stop_reason: str | None = None
    usage: AnthropicUsage | None = None
    error: _Error | None = None


class _Delta(Struct, gc=False):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    citation: Raw = _ABSENT
    stop_reason: str | None = None


class _Event(Struct, gc=False):
    type: str | None = None
    delta: _Delta | None = None
    message: _Message | None = None
    content_block: _Block | None = None
    usage: AnthropicUsage | None = None
    error: _Error | None = None


_event = msgspec.json.Decoder(_Event)
_message = msgspec.json.Decoder(_Message)


def read_event(name: bytes, data: bytes) -> Piece | None:
    """One event of a Messages stream; None when it cannot be read."""
    event = read_as(_event, data)
    if event is None:
        return MessagePiece(error="error") if name == b"error" else None
    if event.type == "content_block_delta" and event.delta is not None:
        text = Piece()
        _add_delta(text, event.delta)
        return text
    piece = MessagePiece(counts=event.usage)
    match event.type:
        case "content_block_start":
            _add_block(piece, event.content_block or _Block())
        case "message_start":
            _start(piece, event.message or _Message())
        case "message_delta":
            piece.finish = None if event.delta is None else event.delta.stop_reason
            piece.refused = piece.finish == "refusal"
        case "message_stop":
            piece.terminal = True
        case "error":
            piece.error = label(None if event.error is None else event.error.type)
        case _:
            pass
    return piece


def _start(piece: "MessagePiece", message: _Message) -> None:
    """The first report: who answers, and usage whose output count is only a beginning."""
    piece.completion_id = message.id
    piece.model = message.model
    piece.counts = message.usage
    piece.partial_usage = True


class MessagePiece(Piece, gc=False):
    """A piece whose usage is still in Anthropic's own terms: `merge` needs them."""

    counts: AnthropicUsage | None = None


def read_message(body: bytes) -> Piece | None:
    """A whole Messages body, or an error body."""
    message = read_as(_message, body)
    if message is None:
        return None
    piece = Piece(completion_id=message.id, model=message.model, finish=message.stop_reason, terminal=True)
    piece.refused = message.stop_reason == "refusal"
    for block in message.content or ():
        _add_block(piece, block)
    if message.usage is not None:
        piece.usage = to_usage(message.usage)
    if message.error is not None:
        piece.error = label(message.error.type)
        piece.completion_id = None
    return piece


def merge(old: AnthropicUsage | None, new: AnthropicUsage) -> AnthropicUsage:
    """Two cumulative reports of one message: the largest count of each field, the latest service tier."""
    if old is None:
        return new
    return AnthropicUsage(
        input_tokens=_larger(old.input_tokens, new.input_tokens),
        output_tokens=_larger(old.output_tokens, new.output_tokens),
        cache_creation_input_tokens=_larger(old.cache_creation_input_tokens, new.cache_creation_input_tokens),
        cache_read_input_tokens=_larger(old.cache_read_input_tokens, new.cache_read_input_tokens),
        cache_creation=_larger_split(old.cache_creation, new.cache_creation),
        output_tokens_details=_larger_details(old.output_tokens_details, new.output_tokens_details),
        iterations=new.iterations or old.iterations,
        service_tier=new.service_tier or old.service_tier,
        speed=new.speed or old.speed,
        inference_geo=new.inference_geo or old.inference_geo,
    )


def _larger_split(old: _CacheCreation | None, new: _CacheCreation | None) -> _CacheCreation | None:
    if old is None or new is None:
        return new or old
    return _CacheCreation(
        _larger(old.ephemeral_5m_input_tokens, new.ephemeral_5m_input_tokens),
        _larger(old.ephemeral_1h_input_tokens, new.ephemeral_1h_input_tokens),
    )


def _larger_details(old: _OutputDetails | None, new: _OutputDetails | None) -> _OutputDetails | None:
    if old is None or new is None:
        return new or old
    return _OutputDetails(
        _larger(old.thinking_tokens, new.thinking_tokens), _larger(old.reasoning_tokens, new.reasoning_tokens)
    )


def to_usage(counts: AnthropicUsage) -> Usage:
    """Inclusive totals (see the head of this file). Without `input_tokens` the input is unknown, not 0."""
    read, written, long = _cache(counts)
    details = counts.output_tokens_details or _OutputDetails()
    fresh, out = tokens(counts.input_tokens), tokens(counts.output_tokens)
    more = False
    for one in counts.iterations or ():
        if one.type == "compaction":
            held, wrote, hour = _cache(one)
            fresh, out = _sum(fresh, tokens(one.input_tokens)), _sum(out, tokens(one.output_tokens))
            read, written, long = _sum(read, held), _sum(written, wrote), _sum(long, hour)
        more = more or one.type not in (None, "message", "compaction")
    return Usage(
        input_tokens=None if fresh is None else fresh + (written or 0) + (read or 0),
        output_tokens=out,
        cached_input_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=long,
        reasoning_tokens=tokens(
            details.reasoning_tokens if details.thinking_tokens is None else details.thinking_tokens
        ),
        surcharge_pct=_ABROAD_PCT.get(counts.inference_geo or "", 0),
        service_tier="fast" if counts.speed == "fast" else counts.service_tier,
        more=more,
    )


_ABROAD_PCT = {"us": 10}  # Anthropic's price page, "Data residency": 1.1 times every rate of tokens


def _cache(counts: AnthropicUsage | _Iteration) -> tuple[int | None, int | None, int | None]:
    """(read, written, written for an hour). The split counts where the sum is absent, or has not caught up with it."""
    split = counts.cache_creation or _CacheCreation()
    written = tokens(counts.cache_creation_input_tokens)
    short, long = tokens(split.ephemeral_5m_input_tokens), tokens(split.ephemeral_1h_input_tokens)
    if short is not None or long is not None:
        written = max(written or 0, (short or 0) + (long or 0))
    return tokens(counts.cache_read_input_tokens), written, long


def _sum(first: int | None, second: int | None) -> int | None:
    return first if second is None else (first or 0) + second


def _larger(old: int | None, new: int | None) -> int | None:
    if old is None or new is None:
        return new if old is None else old
    return max(old, new)


def _add_delta(piece: Piece, delta: _Delta) -> None:
    """Signatures are no tokens; a citation is one, although it has no text of its own."""
    answer = delta.text or delta.partial_json
    if answer:
        piece.text_bytes = text_bytes(answer)
        piece.answer = True
    elif delta.thinking:
        piece.text_bytes = text_bytes(delta.thinking)
    elif bytes(delta.citation) not in _NO_INPUT:
        piece.text_bytes = len(bytes(delta.citation))
        piece.answer = True


def _add_block(piece: Piece, block: _Block) -> None:
    """A block as it begins or as a whole. A name alone is no token: the input usually follows as deltas."""
    size = text_bytes(block.text or "")
    if bytes(block.input) not in _NO_INPUT:
        size += len(bytes(block.input))
    piece.called = piece.called or bool(block.name)
    piece.answer = piece.answer or size > 0
    piece.text_bytes += size + text_bytes(block.thinking or "")
