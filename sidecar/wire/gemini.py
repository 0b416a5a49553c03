"""Reads what we act on from Gemini-shaped responses (`generateContent`, streamed as SSE or whole).

`promptTokenCount` includes cached content; `candidatesTokenCount` excludes thoughts, which are billed as output: the
inclusive output is the sum of both. The last `usageMetadata` of a stream wins.
"""

import msgspec
from msgspec import Raw, Struct

from sidecar.core.types import Usage
from sidecar.wire.reading import Piece, label, read_as, text_bytes

_ABSENT = Raw(b"")


class _Modality(Struct, gc=False):
    modality: str | None = None
    token_count: int | None = msgspec.field(default=None, name="tokenCount")


class _Counts(Struct, gc=False, rename="camel"):
    prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    prompt_tokens_details: list[_Modality] | None = None
    cache_tokens_details: list[_Modality] | None = None
    candidates_tokens_details: list[_Modality] | None = None


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
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class _Error(Struct, gc=False):
    status: str | None = None
    code: int | None = None


class _Body(Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    usage_metadata: _Counts | None = None
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
        piece.finish = candidate.finish_reason or piece.finish
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


def to_usage(counts: _Counts) -> Usage:
    """Inclusive totals: input with tool-use prompts, output with thoughts."""
    prompt, tool = counts.prompt_token_count, counts.tool_use_prompt_token_count
    answer, thought = counts.candidates_token_count, counts.thoughts_token_count
    return Usage(
        input_tokens=_sum(prompt, tool),
        output_tokens=_sum(answer, thought),
        cached_input_tokens=counts.cached_content_token_count,
        reasoning_tokens=thought,
        input_audio_tokens=_audio(counts.prompt_tokens_details),
        cached_audio_tokens=_audio(counts.cache_tokens_details),
        output_audio_tokens=_audio(counts.candidates_tokens_details),
    )


def _sum(first: int | None, second: int | None) -> int | None:
    return second if first is None else first + (second or 0)


def _audio(details: list[_Modality] | None) -> int | None:
    for detail in details or ():
        if detail.modality == "AUDIO":
            return detail.token_count
    return None
