"""Reads what we act on from Gemini-shaped responses (`generateContent`, streamed as SSE or whole).

`promptTokenCount` includes cached content; `candidatesTokenCount` excludes thoughts, which are billed as output: the
inclusive output is the sum of both. The last `usageMetadata` of a stream wins. Pages of documents count as pictures.
"""

import msgspec
from msgspec import Raw, Struct

from sidecar.core.types import Usage
from sidecar.wire.reading import MOST_CHOICES, Piece, label, read_as, text_bytes, tokens

_ABSENT = Raw(b"")


class _Modality(Struct, gc=False):
    modality: str | None = None
    token_count: int | None = msgspec.field(default=None, name="tokenCount")


class GeminiUsage(Struct, gc=False, rename="camel"):
    prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    prompt_tokens_details: list[_Modality] | None = None
    cache_tokens_details: list[_Modality] | None = None
    candidates_tokens_details: list[_Modality] | None = None
    tool_use_prompt_tokens_details: list[_Modality] | None = None
    prompt_token_details: list[_Modality] | None = None  # embeddings
    total_token_count: int | None = None
    service_tier: str | None = None
    traffic_type: str | None = None  # Vertex


class _Call(Struct, gc=False):
    name: str | None = None
    args: Raw = _ABSENT


class _Inline(Struct, gc=False):
    data: str | None = None


class _Part(Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    function_call: _Call | None = None
    inline_data: _Inline | None = None


class _Content(Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(Struct, gc=False, rename="camel"):
    index: int | None = None
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class _Error(Struct, gc=False):
    status: str | None = None
    code: int | None = None


class _Body(Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    usage_metadata: GeminiUsage | None = None
    prompt_feedback: _Feedback | None = None
    response_id: str | None = None
    model_version: str | None = None
    error: _Error | None = None


_body = msgspec.json.Decoder(_Body)
_bodies = msgspec.json.Decoder(list[_Body])


def read_chunk(name: bytes, data: bytes) -> Piece | None:
    """One event of `streamGenerateContent?alt=sse`. A finish or block reason is its well-formed end."""
    body = read_as(_body, data)
    if body is None:
        return Piece(error="error") if name == b"error" else None
    return _read(body)


def read_body(body: bytes) -> Piece | None:
    """A whole `generateContent` body, or the JSON array that a stream without `alt=sse` is."""
    if body.lstrip()[:1] == b"[":
        return _joined(body)
    whole = read_as(_body, body)
    if whole is None:
        return None
    piece = _read(whole)
    piece.terminal = True
    return piece


def _joined(body: bytes) -> Piece | None:
    chunks = read_as(_bodies, body)
    if chunks is None:
        return None
    joined = Piece(terminal=True)
    for chunk in chunks:
        piece = _read(chunk)
        joined.text_bytes += piece.text_bytes
        joined.answer = joined.answer or piece.answer
        joined.called = joined.called or piece.called
        joined.refused = joined.refused or piece.refused
        joined.usage = piece.usage or joined.usage
        joined.completion_id = joined.completion_id or piece.completion_id
        joined.model = joined.model or piece.model
        joined.finish = piece.finish or joined.finish
        joined.error = joined.error or piece.error
    return joined


def _read(body: _Body) -> Piece:
    piece = Piece(completion_id=body.response_id, model=body.model_version)
    for candidate in body.candidates or ():
        content = candidate.content or _Content()
        for part in content.parts or ():
            _add_part(piece, part)
        bit = 1 << min(tokens(candidate.index) or 0, MOST_CHOICES)
        piece.choices |= bit
        if candidate.finish_reason:
            piece.finish = candidate.finish_reason
            piece.ends |= bit
    if body.prompt_feedback is not None and body.prompt_feedback.block_reason:
        piece.finish = body.prompt_feedback.block_reason
        piece.refused = True
    piece.terminal = piece.finish is not None
    if body.usage_metadata is not None:
        piece.usage = to_usage(body.usage_metadata)
    if body.error is not None:
        piece.error = label(body.error.status, body.error.code)
    return piece


def _add_part(piece: Piece, part: _Part) -> None:
    if part.text:
        piece.text_bytes += text_bytes(part.text)
        piece.answer = piece.answer or not part.thought
    if part.function_call is not None:
        piece.text_bytes += len(bytes(part.function_call.args))
        piece.called = piece.answer = True
    if part.inline_data is not None and part.inline_data.data:
        piece.text_bytes += 1  # media is billed by its own tokens: its size says nothing about them
        piece.answer = True


def read_embedding(body: bytes) -> Piece | None:
    """The answer of `embedContent` or `batchEmbedContents`; an error body, too."""
    whole = read_as(_body, body)
    if whole is None:
        return None
    piece = _read(whole)
    piece.terminal = True
    return piece


def to_usage(counts: GeminiUsage) -> Usage:
    """Inclusive totals: input with tool-use prompts, output with thoughts. What is in the total alone is output."""
    thought = tokens(counts.thoughts_token_count)
    said = _sum(tokens(counts.prompt_token_count), tokens(counts.tool_use_prompt_token_count))
    answer = _sum(tokens(counts.candidates_token_count), thought)
    total = tokens(counts.total_token_count)
    if answer is None and total is not None and said is not None:
        answer = max(total - said, 0)  # a prompt that was blocked has no candidates
    into = _media(counts.prompt_tokens_details, counts.tool_use_prompt_tokens_details, counts.prompt_token_details)
    held, out = _media(counts.cache_tokens_details), _media(counts.candidates_tokens_details)
    return Usage(
        input_tokens=said,
        output_tokens=answer,
        cached_input_tokens=tokens(counts.cached_content_token_count),
        reasoning_tokens=thought,
        input_audio_tokens=into.get("AUDIO"),
        cached_audio_tokens=held.get("AUDIO"),
        output_audio_tokens=out.get("AUDIO"),
        input_image_tokens=into.get("IMAGE"),
        cached_image_tokens=held.get("IMAGE"),
        output_image_tokens=out.get("IMAGE"),
        input_video_tokens=into.get("VIDEO"),
        cached_video_tokens=held.get("VIDEO"),
        output_video_tokens=out.get("VIDEO"),
        service_tier=_tier(counts),
    )


_TIERS = {
    "ON_DEMAND_PRIORITY": "priority",
    "ON_DEMAND_FLEX": "flex",
    "TRAFFIC_TYPE_UNSPECIFIED": None,
}  # Vertex's names


def _tier(counts: GeminiUsage) -> str | None:
    if counts.service_tier:
        return counts.service_tier.lower()
    return _TIERS.get(counts.traffic_type or "", counts.traffic_type)


def _sum(first: int | None, second: int | None) -> int | None:
    return second if first is None else first + (second or 0)


def _media(*lists: list[_Modality] | None) -> dict[str, int]:
    """Tokens of each kind that is told; one kind may be told more than once."""
    found: dict[str, int] = {}
    for details in lists:
        for one in details or ():
            count = tokens(one.token_count)
            if count is not None and one.modality is not None:
                kind = "IMAGE" if one.modality == "DOCUMENT" else one.modality
                found[kind] = found.get(kind, 0) + count
    return found
