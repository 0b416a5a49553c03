"""OpenAI Responses: whole answers and their usage, both ways.

An answer has one choice; others are lost. Its `status` and `incomplete_details` are the stop: completed is `tool_calls`
where a function is called and `refusal` where the model said no in a part of its own; incomplete is `length`, or
`content_filter`; failed is `error`, and the provider's words stay among the extras. What repeats the request is in
`Response.frame`.

Written for a client, an answer has all members that the official SDK's types want, and repeats the client's request. Items
of other formats get ids; the last one of an answer that was cut is `incomplete`.

Canonical form: absent ids and states of items are made, `created_at` is 0 where nobody said it.
"""

from typing import Any, Final

from sidecar.core.types import Usage
from sidecar.wire.members import Members, wrong
from sidecar.wire.neutral import (
    AnyPart,
    Choice,
    Json,
    Problem,
    Report,
    Request,
    Response,
    Stop,
    Text,
    TokenLogprob,
    ToolCall,
)
from sidecar.wire.openai_problem import problem_in
from sidecar.wire.saying import Saying, usage_of
from sidecar.wire.spoke import problem_of
from sidecar.wire.spokes.responses.items import Ids, ItemWriter, has_refusal, paths, read_item
from sidecar.wire.spokes.responses.logprobs import read_logprobs
from sidecar.wire.spokes.responses.request import settings
from sidecar.wire.spokes.responses.tools import write_choice, write_tools

ECHO: Final = frozenset(
    (
        "access_programs", "background", "billing", "completed_at", "conversation", "frequency_penalty", "instructions",
        "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls", "presence_penalty",
        "previous_response_id", "prompt", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
        "reasoning", "safety_identifier", "store", "temperature", "text", "tool_choice", "tool_usage", "tools",
        "top_logprobs", "top_p", "truncation", "user",
    )
)  # fmt: skip
REASONS: Final[dict[Stop, str]] = {
    "length": "max_output_tokens",
    "context": "max_output_tokens",
    "content_filter": "content_filter",
    "refusal": "content_filter",
}
_EXACT: Final = frozenset({"stop", "length", "tool_calls", "content_filter", "error"})
_TIERS: Final = frozenset({"auto", "default", "flex", "scale", "priority"})
_USUAL: Final = frozenset({"standard", "on_demand"})
FAILED: Final = "the provider's answer failed or was cancelled"
_FAILED: Final[Json] = {"code": "server_error", "message": "the provider's answer failed"}


# ---- reading


def read_response(body: Json) -> Response:
    """A server's whole answer.

    Raises:
        TranslationError: it has no output, or an item is not of this format; says where.
    """
    members = Members(body)
    items = members.items("output")
    if items is None:
        wrong("output", "a list", None)
    parts: list[AnyPart] = []
    for number, item in enumerate(items):
        where = f"output[{number}]"
        if not isinstance(item, dict):
            wrong(where, "an object", item)
        parts += read_item(item, where)
    tier, said = members.text("service_tier"), members.mapping("usage")
    problem = _read_failure(members)
    choice = Choice(index=0, parts=parts, logprobs=_take_logprobs(parts))
    choice.stop, choice.extra = take_stop(members, called=called_of(parts), refused=has_refusal(parts))
    members.any("object")
    return Response(
        format="responses",
        id=members.text("id") or "",
        model=members.text("model") or "",
        created=members.integer("created_at"),
        choices=[choice],
        usage=None if said is None else usage_of(said, tier),
        usage_said=said,
        service_tier=tier,
        problem=problem,
        frame=take_echo(members),
        extra=members.rest(),
    )


def _read_failure(members: Members) -> Problem | None:
    """What the provider says of an answer that failed; it is not taken by this."""
    if members.peek("status") not in ("failed", "cancelled"):
        return None
    error = members.peek("error")
    return problem_in(None, {"error": error}) if isinstance(error, dict) else problem_of(502, FAILED)


def take_echo(members: Members) -> Json | None:
    """What repeats the request."""
    return {name: members.any(name) for name in sorted(ECHO) if members.has(name)} or None


def called_of(parts: list[AnyPart]) -> bool:
    """Whether the client is to run a tool."""
    return any(isinstance(part, ToolCall) for part in parts)


def take_stop(members: Members, *, called: bool, refused: bool) -> tuple[Stop | None, Json]:
    """Why it stopped, and what of that no stop tells."""
    status, details = members.text("status"), members.any("incomplete_details")
    error = members.any("error")
    extra: Json = {} if error is None else {"error": error}
    match status:
        case "completed" | None:
            return "tool_calls" if called else "refusal" if refused else "stop", extra
        case "incomplete":
            reason = details.get("reason") if isinstance(details, dict) else None
            if reason == "content_filter":
                return "content_filter", extra
            if details != {"reason": "max_output_tokens"}:
                extra["incomplete_details"] = details
            return "length", extra
        case "failed":
            return "error", extra
        case _:
            return None, {"status": status, **extra}


def _take_logprobs(parts: list[AnyPart]) -> list[TokenLogprob] | None:
    """The tokens of all texts; how many each has is in its frame."""
    found: list[TokenLogprob] = []
    texts = [part for part in parts if isinstance(part, Text)]
    counts = []
    for text in texts:
        tokens = read_logprobs(text.extra.get("logprobs")) or []
        if tokens:
            del text.extra["logprobs"]
        counts.append(len(tokens))
        found += tokens
    if not found:
        return None
    for text, count in zip(texts, counts, strict=True):
        text.frame = {**(text.frame or {}), "tokens": count}
    return found


# ---- writing


def write_response(response: Response, request: Request, report: Report) -> Json:
    """The answer as a client of this format wants it."""
    saying = Saying("responses", response.format, report)
    for choice in response.choices[1:]:
        report.lose(f"choices[{choice.index}]")
    said = head(response.id, response.model or request.model, response.created, request, saying)
    choice = response.choices[0] if response.choices else Choice(index=0, parts=[])
    writer = ItemWriter(saying, Ids(response.id))
    said["output"] = writer.write(paths(choice.parts, "choices[0].content"), choice.logprobs)
    extra = dict(saying.kept(choice.extra, "choices[0]"))
    said.update(write_stop(choice.stop, choice.stop_sequence, refused=has_refusal(choice.parts), saying=saying))
    last = said["output"][-1] if said["output"] else {}
    if said["status"] == "incomplete" and not saying.own and "status" in last:
        last["status"] = "incomplete"
    said["usage"] = write_usage(response.usage, response.usage_said if saying.own else None)
    said.update(write_tier(response.service_tier, saying))
    said.update(response.frame or {} if saying.own else {})
    said.update(extra)
    said.update(saying.kept(response.extra, ""))
    return said


def head(answer_id: str, model: str, created: int | None, request: Request, saying: Saying) -> Json:
    """All members of an answer but what the model said: from the client's request where the provider repeats none."""
    said: Json = {
        "id": answer_id,
        "object": "response",
        "created_at": created or 0,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "parallel_tool_calls": True if request.parallel_tools is None else request.parallel_tools,
        "tool_choice": "auto",
        "tools": [],
    }
    if saying.own:
        return said
    unheard = Saying("responses", request.format, Report())  # what the request could not say was told when it was sent
    said["tools"] = write_tools(request, unheard)
    if request.tool_choice is not None:
        said["tool_choice"] = write_choice(request.tool_choice, request)
    first = request.messages[0] if request.messages else None
    if first is not None and request.spelling.get("system") == "instructions":
        said["instructions"] = "".join(part.text for part in first.parts if isinstance(part, Text))
    said.update(settings(request, unheard.report))
    for name in ("tool_choice", "truncation", "max_tool_calls"):
        if name in request.extra:
            said[name] = request.extra[name]
    said.pop("service_tier", None)  # the provider's answer says which one it was
    return said


def write_stop(stop: Stop | None, sequence: str | None, *, refused: bool, saying: Saying) -> Json:
    """`status`, and why where it is not completed; what it cannot tell is reported."""
    if not saying.own:
        if stop is not None and stop not in _EXACT and not (stop == "refusal" and refused):
            saying.report.map("choices[0].stop")
        if sequence is not None:
            saying.report.map("choices[0].stop_sequence")
    if stop == "error":
        return {"status": "failed", "error": _FAILED}
    reason = None if stop is None or (stop == "refusal" and refused) else REASONS.get(stop)
    if reason is None:
        return {"status": "completed"}
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}


def write_tier(tier: str | None, saying: Saying) -> Json:
    """`service_tier` of an answer, which is one of a few words; another provider's word for the usual one is mapped."""
    if tier is None or saying.own or tier in _TIERS:
        return {} if tier is None else {"service_tier": tier}
    saying.report.map("service_tier")
    return {"service_tier": "default"} if tier in _USUAL else {}


def write_usage(usage: Usage | None, said: Json | None) -> Any:  # noqa: ANN401 - an object or null
    """The member `usage`: as the provider wrote it where it speaks this format, else what is known, absent counts as 0."""
    if said is not None or usage is None:
        return said
    into, out = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "input_tokens": into,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens or 0,
            "cache_write_tokens": usage.cache_write_tokens or 0,
        },
        "output_tokens": out,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": into + out,
    }
