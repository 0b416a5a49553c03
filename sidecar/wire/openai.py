"""Reads what we act on from OpenAI-shaped responses: chat, completions, Responses, embeddings, and their look-alikes.

Typed decoders skip everything else. Usage is accepted on any chunk and the last one wins (some servers put it on the
final chunk with choices, some on every chunk); it never ends a stream.
"""

from decimal import ROUND_HALF_EVEN, Decimal

import msgspec
from msgspec import Raw, Struct

from sidecar.core.types import Usage
from sidecar.wire.reading import MOST_CHOICES, Count, Piece, label, read_as, text_bytes

DONE = b"[DONE]"
_ABSENT = Raw(b"")
_NANO = Decimal(10**9)
_NOTHING = Decimal(0)
_MOST = 10**6  # dollars that one call may cost
_LONGEST_S = 10**7  # seconds of sound in one call


class _Media(Struct, gc=False):
    audio_tokens: Count | None = None
    image_tokens: Count | None = None


class _Details(Struct, gc=False):
    cached_tokens: Count | None = None
    cached_tokens_details: _Media | None = None
    cache_write_tokens: Count | None = None
    audio_tokens: Count | None = None
    image_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class _TotalCost(Struct, gc=False):
    total_cost: Decimal | None = None


class _CostDetails(Struct, gc=False):
    upstream_inference_cost: Decimal | None = None


class OpenAIUsage(Struct, gc=False):
    """Both spellings: chat's prompt/completion and Responses' input/output; and what servers of other makers add."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None
    input_token_details: _Details | None = None  # transcriptions
    output_token_details: _Details | None = None
    total_tokens: Count | None = None
    cached_tokens: Count | None = None  # Moonshot: beside the details
    reasoning_tokens: Count | None = None  # Perplexity: beside the details
    prompt_cache_hit_tokens: Count | None = None  # DeepSeek's name of cached_tokens
    prompt_cache_miss_tokens: Count | None = None
    prompt_audio_seconds: float | None = None  # Mistral
    seconds: float | None = None  # transcriptions that are paid by the length of the sound
    cost: Decimal | _TotalCost | None = None  # in dollars: OpenRouter; Perplexity has an object
    cost_details: _CostDetails | None = None
    is_byok: bool | None = None  # OpenRouter: `cost` is its fee, the maker of the model bills its part to one's own key
    cost_in_usd_ticks: int | None = None  # xAI: 1e-10 dollars


class _Error(Struct, gc=False):
    type: str | None = None
    code: str | int | None = None


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct, gc=False):
    function: _Function | None = None
    custom: Raw = _ABSENT


class _Audio(Struct, gc=False):
    data: str | None = None
    transcript: str | None = None


class _ContentPart(Struct, gc=False):
    """Mistral: text, or what was thought before it."""

    text: str | None = None
    thinking: "list[_ContentPart] | None" = None


class _Message(Struct, gc=False):
    """A chunk's `delta` or a body's `message`."""

    content: str | list[_ContentPart] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None
    audio: _Audio | None = None
    images: list[Raw] | None = None  # OpenRouter: pictures that the model drew


class _Choice(Struct, gc=False):
    index: Count | None = None
    delta: _Message | None = None
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    usage: OpenAIUsage | None = None  # Moonshot: of a stream, in the last chunk


class _Beside(Struct, gc=False):
    usage: OpenAIUsage | None = None


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | None = None
    id: str | None = None
    model: str | None = None
    usage: OpenAIUsage | None = None
    service_tier: str | None = None
    error: _Error | str | None = None
    x_groq: _Beside | None = None  # Groq: the usage of a stream, on its last chunk


class _Part(Struct, gc=False):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class _Item(Struct, gc=False):
    type: str | None = None
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    arguments: str | None = None
    input: str | None = None


class _Reason(Struct, gc=False):
    reason: str | None = None


class _Response(Struct, gc=False):
    id: str | None = None
    model: str | None = None
    status: str | None = None
    service_tier: str | None = None
    output: list[_Item] | None = None
    usage: OpenAIUsage | None = None
    incomplete_details: _Reason | None = None
    error: _Error | None = None


class _ResponsesEvent(Struct, gc=False):
    type: str | None = None
    delta: str | None = None
    audio: str | None = None  # of speech
    response: _Response | None = None
    usage: OpenAIUsage | None = None
    error: _Error | None = None
    code: str | int | None = None


_chunk = msgspec.json.Decoder(_Chunk)
_event = msgspec.json.Decoder(_ResponsesEvent)
_response = msgspec.json.Decoder(_Response)
_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})


def read_chunk(name: bytes, data: bytes) -> Piece | None:
    """One event of a chat or completions stream; None when it cannot be read."""
    if data == DONE:
        return Piece(terminal=True)
    try:
        chunk: _Chunk | None = _chunk.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        chunk = read_as(_chunk, data)
    if chunk is None:
        return Piece(error="error") if name == b"error" else None
    piece = Piece(completion_id=chunk.id or None, model=chunk.model or None)  # Azure's first chunk has both empty
    for choice in chunk.choices or ():
        if choice.delta is not None:
            _add_message(piece, choice.delta)
        if choice.text:
            piece.text_bytes += text_bytes(choice.text)
            piece.answer = True
        bit = 1 << min(choice.index or 0, MOST_CHOICES)
        piece.choices |= bit
        if choice.finish_reason:
            piece.ends |= bit
            _end(piece, choice, chunk.service_tier)
    counts = chunk.usage if chunk.x_groq is None else chunk.usage or chunk.x_groq.usage
    if counts is not None:
        piece.usage = to_usage(counts, chunk.service_tier)
    if chunk.error is not None or name == b"error":
        piece.error = _error_label(chunk.error)
    return piece


def _end(piece: Piece, choice: _Choice, tier: str | None) -> None:
    """The last chunk of a choice."""
    piece.finish = choice.finish_reason
    piece.terminal = True
    if choice.usage is not None:
        piece.usage = to_usage(choice.usage, tier)


def read_completion(body: bytes) -> Piece | None:
    """A whole chat, completions or embeddings body, or an error body."""
    chunk = read_as(_chunk, body)
    if chunk is None:
        return None
    piece = Piece(completion_id=chunk.id, model=chunk.model, terminal=True)
    for choice in chunk.choices or ():
        if choice.message is not None:
            _add_message(piece, choice.message)
        if choice.text:
            piece.text_bytes += text_bytes(choice.text)
            piece.answer = True
        piece.finish = choice.finish_reason or piece.finish
    if chunk.usage is not None:
        piece.usage = to_usage(chunk.usage, chunk.service_tier)
    if chunk.error is not None:
        piece.error = _error_label(chunk.error)
    return piece


def read_responses_event(name: bytes, data: bytes) -> Piece | None:
    """One event of a Responses stream, or of another stream that names its events by `type` (audio, images)."""
    event = read_as(_event, data)
    if event is None:
        return Piece(terminal=True) if data == DONE else None
    kind = event.type or name.decode("ascii", "replace")
    if kind.endswith(".delta"):
        piece = Piece()
        if kind.endswith("audio.delta"):  # sound, in base64: its size says nothing about its tokens
            piece.answer = bool(event.delta or event.audio)
            piece.text_bytes = int(piece.answer)
        elif event.delta:
            piece.text_bytes = text_bytes(event.delta)
            piece.answer = not kind.startswith("response.reasoning")
            piece.refused = kind == "response.refusal.delta"
        return piece
    if event.response is not None:
        piece = _from_response(event.response) if kind in _TERMINAL else _identity(event.response)
        piece.terminal = kind in _TERMINAL
        piece.text_bytes = 0  # the text was counted as it came
        piece.answer = False
        return piece
    piece = Piece()
    if event.usage is not None:
        piece.usage = to_usage(event.usage, None)
    if kind == "error":
        piece.error = label(event.code, *_names(event.error))
    return piece


def read_response(body: bytes) -> Piece | None:
    """A whole Responses body."""
    response = read_as(_response, body)
    if response is None:
        return None
    piece = _from_response(response)
    piece.terminal = True
    return piece


def to_usage(usage: OpenAIUsage, service_tier: str | None) -> Usage:
    """Inclusive totals: cached, audio, image and reasoning tokens are already inside OpenAI's counts.

    Servers that leave the reasoning out of `completion_tokens` (xAI, Gemini's OpenAI-compatible endpoint) are known by
    their own total, which is larger by just that. A total alone (Voyage) is all input.
    """
    into = usage.prompt_tokens_details or usage.input_tokens_details or usage.input_token_details or _NO_DETAILS
    out = usage.completion_tokens_details or usage.output_tokens_details or usage.output_token_details or _NO_DETAILS
    held = into.cached_tokens_details or _NO_MEDIA
    cached = into.cached_tokens
    if cached is None:
        cached = usage.prompt_cache_hit_tokens if usage.cached_tokens is None else usage.cached_tokens
    prompt = usage.input_tokens if usage.prompt_tokens is None else usage.prompt_tokens
    answer = usage.output_tokens if usage.completion_tokens is None else usage.completion_tokens
    if prompt is None:
        prompt = _untold_prompt(usage, answer)
    thought = usage.reasoning_tokens if out.reasoning_tokens is None else out.reasoning_tokens
    total = usage.total_tokens
    if total is not None and prompt is not None and answer is not None and total > prompt + answer:
        gap = total - prompt - answer  # reasoning, or sound, or a cache that is counted apart
        if gap == thought if thought else not (cached or usage.prompt_audio_seconds):
            answer += gap
            thought = thought or gap
    seconds = usage.seconds if usage.prompt_audio_seconds is None else usage.prompt_audio_seconds
    return Usage(
        input_tokens=prompt,
        output_tokens=answer,
        cached_input_tokens=cached,
        cache_write_tokens=into.cache_write_tokens,
        reasoning_tokens=thought,
        input_audio_tokens=into.audio_tokens,
        cached_audio_tokens=held.audio_tokens,
        output_audio_tokens=out.audio_tokens,
        input_image_tokens=into.image_tokens,
        cached_image_tokens=held.image_tokens,
        output_image_tokens=out.image_tokens,
        input_audio_s=seconds if seconds is None or 0 <= seconds < _LONGEST_S else None,
        service_tier=service_tier,
        reported_cost_nusd=_reported(usage),
    )


_NO_DETAILS = _Details()
_NO_MEDIA = _Media()


def _untold_prompt(usage: OpenAIUsage, answer: int | None) -> int | None:
    """DeepSeek's two halves; else the total, where no output is told either."""
    if usage.prompt_cache_miss_tokens is not None:
        return usage.prompt_cache_miss_tokens + (usage.prompt_cache_hit_tokens or 0)
    return usage.total_tokens if answer is None else None


def _reported(usage: OpenAIUsage) -> int | None:
    """What the provider says that the call cost, in nano-dollars."""
    cost = usage.cost.total_cost if isinstance(usage.cost, _TotalCost) else usage.cost
    if cost is None:
        ticks = usage.cost_in_usd_ticks
        return None if ticks is None or not 0 <= ticks < 10**16 else _nano(Decimal(ticks) / 10**10)
    if usage.is_byok and usage.cost_details is not None:
        return _nano(cost, usage.cost_details.upstream_inference_cost or _NOTHING)
    return _nano(cost)


def _nano(*dollars: Decimal) -> int | None:
    """Their sum; None where one is no price. A text may spell numbers that cannot even be compared ("NaN")."""
    if not all(one.is_finite() and 0 <= one < _MOST for one in dollars):
        return None
    return int((sum(dollars, _NOTHING) * _NANO).to_integral_value(ROUND_HALF_EVEN))


def _add_message(piece: Piece, message: _Message) -> None:
    content = message.content
    if isinstance(content, list):
        _add_parts(piece, content)
    elif content:
        piece.text_bytes += text_bytes(content)
        piece.answer = True
        return_early = message.tool_calls is None and message.reasoning_content is None and message.images is None
        if return_early and message.reasoning is None and message.refusal is None:
            return
    thought = message.reasoning_content or message.reasoning
    if thought:
        piece.text_bytes += text_bytes(thought)
    if message.refusal:
        piece.text_bytes += text_bytes(message.refusal)
        piece.answer = piece.refused = True
    for call in message.tool_calls or ():
        _add_call(piece, call.function)
        if bytes(call.custom) not in (b"", b"null"):
            piece.text_bytes += len(bytes(call.custom))
            piece.answer = True
    _add_call(piece, message.function_call)
    if message.images:
        piece.text_bytes += len(message.images)  # as sound
        piece.answer = True
    if message.audio is not None and (message.audio.data or message.audio.transcript):
        piece.text_bytes += text_bytes(message.audio.transcript or "") or 1  # sound is billed by tokens of its own
        piece.answer = True


def _add_parts(piece: Piece, parts: list[_ContentPart]) -> None:
    for part in parts:
        if part.text:
            piece.text_bytes += text_bytes(part.text)
            piece.answer = True
        for thought in part.thinking or ():
            piece.text_bytes += text_bytes(thought.text or "")


def _add_call(piece: Piece, call: _Function | None) -> None:
    """Arguments are tokens; a name alone only shows that the answer is not empty."""
    if call is None:
        return
    piece.called = piece.called or bool(call.name)
    if call.arguments:
        piece.text_bytes += text_bytes(call.arguments)
        piece.answer = True


def _identity(response: _Response) -> Piece:
    return Piece(completion_id=response.id, model=response.model)


def _from_response(response: _Response) -> Piece:
    piece = _identity(response)
    piece.finish = response.status
    if response.incomplete_details is not None and response.incomplete_details.reason:
        piece.finish = response.incomplete_details.reason
    if response.usage is not None:
        piece.usage = to_usage(response.usage, response.service_tier)
    if response.error is not None:
        piece.error = label(*_names(response.error))
    elif response.status == "failed":
        piece.error = "error"
    for item in response.output or ():
        _add_item(piece, item)
    return piece


def _add_item(piece: Piece, item: _Item) -> None:
    reasoning = item.type == "reasoning"
    for part in (*(item.content or ()), *(item.summary or ())):
        size = text_bytes(part.text or "") + text_bytes(part.refusal or "")
        piece.text_bytes += size
        piece.answer = piece.answer or (size > 0 and not reasoning)
        piece.refused = piece.refused or bool(part.refusal)
    piece.called = piece.called or (item.type or "").endswith("_call")
    size = text_bytes(item.arguments or "") + text_bytes(item.input or "")
    piece.text_bytes += size
    piece.answer = piece.answer or size > 0


def _names(error: _Error | None) -> tuple[object, ...]:
    return () if error is None else (error.type, error.code)


def _error_label(error: _Error | str | None) -> str:
    return label(*_names(error)) if not isinstance(error, str) else label(error)
