"""Reads Converse's whole answers, its content blocks, stop reasons, counts of tokens, and errors.

Counts are inclusive in the neutral form; Bedrock's `inputTokens` leaves the cache out. An answer names neither its model nor
itself: both are "". A block that has no neutral form stays whole (Opaque). How long the service took (`metrics`) and the
echo of its settings are the answer's frame.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import orjson
from msgspec import Struct, field

from sidecar.core.types import Usage
from sidecar.errors import TranslationError
from sidecar.wire.members import Members
from sidecar.wire.neutral import (
    AnyPart,
    Choice,
    Json,
    Media,
    Opaque,
    Problem,
    Response,
    Stop,
    Text,
    Thinking,
    ToolCall,
)
from sidecar.wire.reading import label, read_as, tokens
from sidecar.wire.spoke import problem_of

_STOPS: Final[Mapping[str, Stop]] = {
    "end_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "stop_sequence": "stop_sequence",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
    "malformed_model_output": "error",
    "malformed_tool_use": "error",
    "model_context_window_exceeded": "context",
}
_MODEL_FAILED: Final = 424  # the status of a model's own failure; no other provider has it
_STATUSES: Final = {
    "validationException": 400,
    "accessDeniedException": 403,
    "resourceNotFoundException": 404,
    "modelTimeoutException": 408,
    "modelStreamErrorException": _MODEL_FAILED,
    "modelErrorException": _MODEL_FAILED,
    "modelNotReadyException": 429,
    "throttlingException": 429,
    "serviceQuotaExceededException": 400,
    "serviceUnavailableException": 503,
}  # that an error inside a stream would have had


class _Error(Struct):
    message: str | None = None
    shouted: str | None = field(default=None, name="Message")
    kind: str | None = field(default=None, name="__type")
    status: int | None = field(default=None, name="originalStatusCode")


_error: Final = msgspec.json.Decoder(_Error)


# ---- whole answers


def read_response(value: Json) -> Response:
    """The answer. Raises TranslationError where it is none."""
    body = Members(value)
    output = body.object("output")
    message = None if output is None else output.object("message")
    if message is None:
        raise TranslationError("output.message: expected an object")
    parts = [
        read_block(block, f"output.message.content[{n}]") for n, block in enumerate(message.items("content") or ())
    ]
    choice = Choice(index=0, parts=parts)
    reason = body.text("stopReason")
    if reason is not None:
        choice.stop, choice.extra = read_stop(reason)
    choice.stop_sequence, fields = read_fields(body)
    choice.extra |= fields
    said, tier = body.mapping("usage"), read_tier(body)
    frame = {name: body.any(name) for name in ("metrics", "performanceConfig") if body.has(name)}
    return Response(
        format="converse",
        id="",
        model="",
        choices=[choice],
        usage=None if said is None else read_usage(said, tier),
        usage_said=said,
        service_tier=tier,
        extra=body.rest(),
        frame=frame or None,
    )


def read_stop(reason: str) -> tuple[Stop, Json]:
    """The nearest stop, and the reason itself where it is not known."""
    stop = _STOPS.get(reason)
    return ("stop", {"stopReason": reason}) if stop is None else (stop, {})


def read_fields(body: Members) -> tuple[str | None, Json]:
    """The stop sequence that came, which only a model's own members tell; second: the others of these, by their member."""
    fields = body.object("additionalModelResponseFields")
    if fields is None:
        return None, {}
    sequence, rest = fields.text("stop_sequence"), fields.rest()
    return sequence, {"additionalModelResponseFields": rest} if rest else {}


def read_tier(body: Members) -> str | None:
    """The service tier that served."""
    tier = body.object("serviceTier")
    return None if tier is None else tier.text("type")


def read_usage(said: Json, tier: str | None) -> Usage:
    """Inclusive totals. Without `inputTokens` the input is unknown, not 0; a count of a wrong type is none."""
    fresh, read = tokens(said.get("inputTokens")), tokens(said.get("cacheReadInputTokens"))
    written = tokens(said.get("cacheWriteInputTokens"))
    details = said.get("cacheDetails")
    by_ttl: dict[str, int] = {}
    for one in details if isinstance(details, list) else ():
        count, ttl = (tokens(one.get("inputTokens")), one.get("ttl")) if isinstance(one, dict) else (None, None)
        if isinstance(ttl, str) and count is not None:
            by_ttl[ttl] = by_ttl.get(ttl, 0) + count
    if written is None and by_ttl:
        written = sum(by_ttl.values())
    return Usage(
        input_tokens=None if fresh is None else fresh + (read or 0) + (written or 0),
        output_tokens=tokens(said.get("outputTokens")),
        cached_input_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=by_ttl.get("1h", 0) if by_ttl else None,
        service_tier=tier,
    )


# ---- blocks


def read_block(value: Any, where: str) -> AnyPart:  # noqa: ANN401 - any JSON
    """One content block: an object with one member, which says its kind. Raises TranslationError on wrong types."""
    block = Members(value, where)
    part: AnyPart | None = None
    if block.has("text"):
        part = Text(text=block.needed_text("text"))
    elif block.has("toolUse"):
        part = read_call(Members(block.any("toolUse"), block.at("toolUse")))
    elif block.has("reasoningContent"):
        part = _thoughts(Members(block.any("reasoningContent"), block.at("reasoningContent")))
    elif block.has("image"):
        part = _image(Members(block.any("image"), block.at("image")))
    elif block.has("citationsContent"):
        part = _cited(Members(block.any("citationsContent"), block.at("citationsContent")))
    return Opaque(value=value) if part is None else part


def read_call(node: Members) -> ToolCall | None:
    """A call of the client's tool; None: of one that the service runs itself. Without an input its arguments are empty."""
    if node.has("type"):
        return None
    call = ToolCall(id=node.needed_text("toolUseId"), name=node.needed_text("name"))
    if node.has("input"):
        given = node.any("input")
        try:
            call.arguments = orjson.dumps(given).decode()
        except TypeError:
            raise TranslationError(f"{node.at('input')}: expected JSON that is nested less deeply") from None
    call.extra = node.rest()
    return call


def _thoughts(node: Members) -> Thinking | None:
    if node.has("redactedContent"):
        return Thinking(redacted=node.needed_text("redactedContent"))
    said = node.object("reasoningText")
    if said is None:
        return None
    return Thinking(text=said.text("text") or "", signature=said.text("signature") or None, extra=said.rest())


def _image(node: Members) -> Media | None:
    form, source = node.text("format"), node.object("source")
    data = None if source is None else source.text("bytes")
    return None if data is None else Media(kind="image", media_type=f"image/{form or 'png'}", data=data)


def _cited(node: Members) -> Text | None:
    """A text that says where it is from."""
    texts = [one.text("text") for one in node.objects("content")]
    citations = node.items("citations")
    return Text(text="".join(text or "" for text in texts), extra={"citations": citations} if citations else {})


# ---- errors


def read_problem(status: int, body: bytes) -> Problem:
    """The error of an answer with this status, whatever its body is. A model's failure has the status that the model gave,
    else 500: the service asks for another try then."""
    said = read_as(_error, body) or _Error()
    if status == _MODEL_FAILED:
        status = said.status or 500
    code = label(said.kind.rpartition("#")[2]) if said.kind else None
    return problem_of(status, said.message or said.shouted or "", code)


def read_exception(name: str, body: bytes) -> Problem:
    """The error that ends a stream; `name` is its type."""
    kind = name[:1].lower() + name[1:]
    problem = read_problem(_STATUSES.get(kind, 500), body)
    problem.code = label(name)
    return problem
