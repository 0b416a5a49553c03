"""Whole answers of the Messages API, its stop reasons and its counts of tokens: read and written.

What it promises: see `messages`. Counts are inclusive in the neutral form; Anthropic's `input_tokens` leaves the cache out.
An answer of its own format says its usage as the provider wrote it. It does not know streams.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from sidecar.core.types import Usage
from sidecar.errors import TranslationError
from sidecar.wire.anthropic import AnthropicUsage, to_usage
from sidecar.wire.members import Members, wrong
from sidecar.wire.neutral import Choice, Json, Refusal, Report, Request, Response, Stop, ToolCall
from sidecar.wire.reading import read_as
from sidecar.wire.spoke import lose_all
from sidecar.wire.spokes.messages.blocks import Blocks
from sidecar.wire.spokes.messages.parts import content_parts, json_text

_STOPS: Final[Mapping[str, Stop]] = {
    "end_turn": "stop",
    "max_tokens": "length",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "refusal",
    "model_context_window_exceeded": "context",
}
_REASONS: Final[Mapping[Stop, str]] = {
    **{stop: reason for reason, stop in _STOPS.items()},
    "content_filter": "refusal",
    "error": "end_turn",
}
_MAPPED: Final = ("content_filter", "error")
_TIERS: Final = {"standard": "standard", "default": "standard", "priority": "priority", "batch": "batch"}
_counts: Final = msgspec.json.Decoder(AnthropicUsage)


def read_response(value: Json) -> Response:
    """The answer. Raises TranslationError where it is no message."""
    body = Members(value)
    if body.text("type") not in (None, "message") or body.has("error"):
        raise TranslationError("type: expected a message")
    body.any("role")
    content = body.items("content")
    if content is None:
        wrong("content", "a list", None)
    stop, extra = read_stop(body.text("stop_reason"))
    choice = Choice(index=0, parts=content_parts(content, "content"), stop=stop, extra=extra)
    choice.stop_sequence = body.text("stop_sequence")
    said = body.mapping("usage")
    usage = None if said is None else to_usage(read_counts(said))
    return Response(
        format="messages",
        id=body.text("id") or "",
        model=body.text("model") or "",
        choices=[choice],
        usage=usage,
        usage_said=said,
        service_tier=None if usage is None else usage.service_tier,
        extra=body.rest(),
    )


def write_response(response: Response, request: Request, report: Report) -> Json:
    """The answer for a client; `request` is what the client asked. Further choices are lost."""
    blocks = Blocks(response.format, report, answer=True)
    choice = response.choices[0] if response.choices else Choice(index=0, parts=[], stop="error")
    for other in response.choices[1:]:
        report.lose(f"choices[{other.index}]")
    if choice.logprobs is not None:
        report.lose("choices[0].logprobs")
    called = any(isinstance(part, ToolCall) for part in choice.parts)
    refused = any(isinstance(part, Refusal) for part in choice.parts)
    stop = choice.stop
    if stop is None and not blocks.own:
        stop = "stop"
    body: Json = {
        "id": response.id,
        "type": "message",
        "role": "assistant",
        "model": response.model or request.model,
        "content": blocks.of(choice.parts, "content", media=False),
        "stop_reason": choice.extra.get("stop_reason") if blocks.own else None,
        "stop_sequence": choice.stop_sequence,
        "usage": write_usage(response),
    }
    if stop is not None and body["stop_reason"] is None:
        body["stop_reason"] = write_stop(stop, report, called=called, refused=refused, own=blocks.own)
    if blocks.own:
        return body | response.extra
    lose_all(report, "", response.extra)
    lose_all(report, "choices[0]", choice.extra)
    return body


def read_stop(reason: str | None) -> tuple[Stop | None, Json]:
    """The nearest stop, and the reason itself where it is not known."""
    if reason is None:
        return None, {}
    stop = _STOPS.get(reason)
    return ("stop", {"stop_reason": reason}) if stop is None else (stop, {})


def write_stop(stop: Stop, report: Report, *, called: bool, refused: bool, own: bool) -> str:
    """The reason. Other formats end a turn with calls, or with a refusal, as any other."""
    if stop in _MAPPED:
        report.map("choices[0].stop")
    if stop == "stop" and not own:
        stop = "tool_calls" if called else "refusal" if refused else stop
    return _REASONS[stop]


def read_counts(said: Json) -> AnthropicUsage:
    """The counts as far as they can be read: a member of a wrong type counts as absent."""
    try:
        return read_as(_counts, json_text(said, "usage").encode()) or AnthropicUsage()
    except TranslationError:
        return AnthropicUsage()


def write_usage(response: Response) -> Json:
    """Anthropic's counts of an answer."""
    if response.format == "messages" and response.usage_said is not None:
        return response.usage_said
    usage = response.usage or Usage()
    return write_counts(usage) | write_tier(response.service_tier or usage.service_tier)


def write_tier(tier: str | None) -> Json:
    """The tier that served, among the counts, where Anthropic has a name for it."""
    known = _TIERS.get(tier or "")
    return {} if known is None else {"service_tier": known}


def write_counts(usage: Usage, *, split: bool = True) -> Json:
    """Input without the cache, output, and what else is known; 0 where the API always has a number. `split`: with the cache
    writes by their time to live."""
    read, written = usage.cached_input_tokens, usage.cache_write_tokens
    fresh = (usage.input_tokens or 0) - (read or 0) - (written or 0)
    said: Json = {"input_tokens": max(fresh, 0), "output_tokens": usage.output_tokens or 0}
    if written is not None:
        said["cache_creation_input_tokens"] = written
        if split and usage.cache_write_1h_tokens is not None:
            long = usage.cache_write_1h_tokens
            said["cache_creation"] = {
                "ephemeral_5m_input_tokens": max(written - long, 0),
                "ephemeral_1h_input_tokens": long,
            }
    if read is not None:
        said["cache_read_input_tokens"] = read
    if usage.reasoning_tokens is not None:
        said["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return said
