"""Gemini's answers and errors, read and written: candidates, log probabilities, reasons to stop, usage.

**Canonical form** of an answer: as of a request (`request`), and `index` and `content.role` given, `parts` absent
where there are none, `createTime` in whole seconds, top candidates only where there are any. A prompt that was blocked has
no candidate: it is read as one choice without parts, stopped by the content filter.
"""

import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson

from sidecar.core.types import Usage
from sidecar.errors import TranslationError
from sidecar.wire.gemini import GeminiUsage, to_usage
from sidecar.wire.members import Json, is_whole
from sidecar.wire.neutral import Choice, Problem, Report, Request, Response, Stop, TokenLogprob, ToolCall
from sidecar.wire.reading import read_as
from sidecar.wire.spoke import MAX_MESSAGE_CHARS, lose_all, problem_of
from sidecar.wire.spokes.generate.calls import CallIds
from sidecar.wire.spokes.generate.members import GenerateMembers, camelled
from sidecar.wire.spokes.generate.parts import PartsWriter, read_parts

_STOPS: dict[str, Stop] = {
    "STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "pause", "SAFETY": "content_filter",
    "RECITATION": "content_filter", "BLOCKLIST": "content_filter", "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter", "LANGUAGE": "content_filter", "MODEL_ARMOR": "content_filter",
    "IMAGE_SAFETY": "content_filter", "IMAGE_PROHIBITED_CONTENT": "content_filter", "IMAGE_RECITATION": "content_filter",
    "MALFORMED_FUNCTION_CALL": "error", "MALFORMED_RESPONSE": "error", "UNEXPECTED_TOOL_CALL": "error",
    "TOO_MANY_TOOL_CALLS": "error", "MISSING_THOUGHT_SIGNATURE": "error",
}  # fmt: skip
_REASONS: dict[Stop, str] = {
    "stop": "STOP", "stop_sequence": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "context": "MAX_TOKENS",
    "content_filter": "SAFETY", "refusal": "SAFETY", "pause": "CONTINUATION", "error": "OTHER",
}  # fmt: skip
_EXACT = frozenset({"STOP", "MAX_TOKENS", "CONTINUATION", "SAFETY"})
_INEXACT_STOPS = frozenset({"context", "refusal", "error"})
_STATUSES = {
    "invalid": "INVALID_ARGUMENT", "authentication": "UNAUTHENTICATED", "billing": "FAILED_PRECONDITION",
    "permission": "PERMISSION_DENIED", "not_found": "NOT_FOUND", "rate_limit": "RESOURCE_EXHAUSTED",
    "overloaded": "UNAVAILABLE", "timeout": "DEADLINE_EXCEEDED", "server": "INTERNAL",
}  # fmt: skip
_counts = msgspec.json.Decoder(GeminiUsage)
_ALL_STATUSES = frozenset(_STATUSES.values()) | {"OUT_OF_RANGE", "ABORTED", "CANCELLED", "UNKNOWN", "UNIMPLEMENTED"}
_OURS = ("candidates", "promptFeedback", "usageMetadata", "modelVersion")
_GOOGLE = "type.googleapis.com/google.rpc."
_PLAIN_TIERS = (None, "auto", "default", "standard")


# ---- reading


def read_response(body: Json) -> Response:
    """A whole answer. Raises TranslationError."""
    members = GenerateMembers(body)
    if not any(members.has(name) for name in _OURS):
        raise TranslationError("the body: expected candidates")
    response = Response(
        format="generate", id=members.text("responseId") or "", model=members.text("modelVersion") or "", choices=[]
    )
    ids = CallIds(ids_base(response.id))
    for number, candidate in enumerate(members.objects("candidates")):
        response.choices.append(_read_choice(candidate, number, ids))
    response.created = read_time(members)
    response.usage_said = read_said(members.mapping("usageMetadata"))
    response.usage = read_usage(response.usage_said)
    response.extra = members.rest()
    if not response.choices and is_blocked(response.extra.get("promptFeedback")):
        response.choices.append(Choice(index=0, parts=[], stop="content_filter"))
    return response


def ids_base(response_id: str) -> str:
    """What the ids of an answer's calls begin with, where the provider gave them none: no two answers share it."""
    return f"call_{re.sub('[^A-Za-z0-9_-]', '_', response_id)[:40]}" if response_id else "call"


def is_blocked(feedback: object) -> bool:
    """Whether a `promptFeedback` says that the prompt was blocked."""
    return isinstance(feedback, dict) and bool(feedback.get("blockReason") or feedback.get("block_reason"))


def _read_choice(candidate: GenerateMembers, number: int, ids: CallIds) -> Choice:
    index = candidate.integer("index")
    choice = Choice(index=number if index is None else index, parts=[])
    content = candidate.object("content")
    rest: Json = {}
    if content is not None:
        content.any("role")
        choice.parts = read_parts(content, ids)
        rest |= {"content": content.rest()}
    choice.logprobs, rest["logprobsResult"] = read_logprobs(candidate)
    reason = candidate.text("finishReason")
    if reason is not None:
        choice.stop = read_stop(reason, any(isinstance(part, ToolCall) for part in choice.parts))
    choice.extra = {**candidate.rest(), **{name: value for name, value in rest.items() if value}, **inexact(reason)}
    return choice


def read_stop(reason: str, called: bool) -> Stop:
    """The nearest reason; Gemini says STOP of calls too."""
    stop = _STOPS.get(reason, "stop")
    return "tool_calls" if called and reason == "STOP" else stop


def inexact(reason: str | None) -> Json:
    """The extra that keeps a reason which `read_stop` rounds."""
    return {} if reason is None or reason in _EXACT else {"finishReason": reason}


def read_logprobs(candidate: GenerateMembers) -> tuple[list[TokenLogprob] | None, Json]:
    """The tokens of a candidate, and what else the `logprobsResult` says. Raises TranslationError."""
    result = candidate.object("logprobsResult")
    if result is None:
        return None, {}
    tokens = [_read_token(token) for token in result.objects("chosenCandidates")]
    rivals = [[_read_token(token) for token in top.objects("candidates")] for top in result.objects("topCandidates")]
    for token, top in zip(tokens, rivals, strict=False):
        token.top = top
    return tokens, result.rest()


def _read_token(token: GenerateMembers) -> TokenLogprob:
    probability = token.number("logProbability")
    return TokenLogprob(
        token=token.text("token") or "", logprob=probability or 0.0, number=token.integer("tokenId")
    )  # what is 0 or empty may be absent in Google's JSON


def read_said(said: Json | None) -> Json | None:
    """A `usageMetadata` with its members in camelCase."""
    return None if said is None else camelled(said)


def read_usage(said: Json | None) -> Usage | None:
    """Inclusive totals of a `usageMetadata`; None where it cannot be read. Members of a wrong type count as absent."""
    try:
        counts = None if said is None else read_as(_counts, orjson.dumps(said))
    except TypeError:
        return None  # nested too deeply, or text that is none
    return None if counts is None else to_usage(counts)


def read_time(members: GenerateMembers) -> int | None:
    """`createTime` in seconds since the epoch; one that cannot be read stays among the extras."""
    text = members.rest().get("createTime")
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        seconds = None if moment is None or moment.tzinfo is None else int(moment.timestamp())
    except (ValueError, OverflowError):
        seconds = None
    if seconds is not None:
        members.any("createTime")
    return seconds


# ---- writing


def write_response(response: Response, _request: Request, report: Report) -> Json:
    """The body of a whole answer."""
    own = response.format == "generate"
    writer = PartsWriter(response.format, report, CallIds(ids_base(response.id)), to_client=True)
    body: Json = {}
    if response.choices and not (own and _is_block(response)):
        body["candidates"] = [_write_choice(choice, writer) for choice in response.choices]
    said = response.usage_said if own else write_usage(response.usage)
    if said:
        body["usageMetadata"] = said
    body |= write_head(response.id, response.model, response.created)
    if own:
        body |= response.extra
    else:
        lose_all(report, "", response.extra)
        if response.service_tier not in _PLAIN_TIERS:
            report.lose("service_tier")
    return body if any(name in body for name in _OURS) else {"candidates": [], **body}


def write_head(response_id: str, model: str, created: int | None) -> Json:
    """What every answer, and every chunk of one, says of itself."""
    said = {"modelVersion": model, "responseId": response_id, "createTime": _time(created)}
    return {name: value for name, value in said.items() if value}


def _time(created: int | None) -> str | None:
    if created is None:
        return None
    try:
        return datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None


def _is_block(response: Response) -> bool:
    """Whether the only choice stands for a blocked prompt."""
    choice = response.choices[0]
    return is_blocked(response.extra.get("promptFeedback")) and not choice.parts and not choice.extra


def _write_choice(choice: Choice, writer: PartsWriter) -> Json:
    where = f"choices[{choice.index}]"
    parts = writer.write(choice.parts, where)
    said: Json = {"content": {"parts": parts, "role": "model"} if parts else {"role": "model"}}
    if choice.stop is not None:
        said["finishReason"] = write_stop(choice.stop, choice.stop_sequence, where, writer)
    said["index"] = choice.index
    if choice.logprobs is not None:
        said["logprobsResult"] = write_logprobs(choice.logprobs)
    if not writer.own:
        lose_all(writer.report, where, choice.extra)
        return said
    for name, value in choice.extra.items():
        inner = said.get(name)
        said[name] = {**inner, **value} if isinstance(inner, dict) else value
    return said


def write_stop(stop: Stop, sequence: str | None, where: str, writer: PartsWriter) -> str:
    """The finishReason. Which stop text came cannot be told: STOP says it in other words."""
    if sequence is not None:
        writer.report.map(f"{where}.stop_sequence")
    elif stop in _INEXACT_STOPS and not writer.own:
        writer.report.map(f"{where}.stop")
    return _REASONS[stop]


def write_logprobs(tokens: list[TokenLogprob]) -> Json:
    """The `logprobsResult` of some tokens."""
    said: Json = {"chosenCandidates": [_write_token(token) for token in tokens]}
    if any(token.top for token in tokens):
        said["topCandidates"] = [{"candidates": [_write_token(top) for top in token.top]} for token in tokens]
    return said


def _write_token(token: TokenLogprob) -> Json:
    said: Json = {"token": token.token, "logProbability": token.logprob}
    return said if token.number is None else {**said, "tokenId": token.number}


def write_usage(usage: Usage | None) -> Json:
    """Gemini's counts: candidates without thoughts; cached content is part of the prompt."""
    if usage is None:
        return {}
    said = {
        "promptTokenCount": usage.input_tokens,
        "cachedContentTokenCount": usage.cached_input_tokens or None,
        "candidatesTokenCount": _less(usage.output_tokens, usage.reasoning_tokens),
        "thoughtsTokenCount": usage.reasoning_tokens or None,
        "promptTokensDetails": _audio(usage.input_audio_tokens),
        "cacheTokensDetails": _audio(usage.cached_audio_tokens),
        "candidatesTokensDetails": _audio(usage.output_audio_tokens),
    }
    if usage.input_tokens is not None and usage.output_tokens is not None:
        said["totalTokenCount"] = usage.input_tokens + usage.output_tokens
    return {name: value for name, value in said.items() if value is not None}


def _less(count: int | None, part: int | None) -> int | None:
    return None if count is None else max(count - (part or 0), 0)


def _audio(count: int | None) -> Any:  # noqa: ANN401 - a list among counts
    return [{"modality": "AUDIO", "tokenCount": count}] if count else None


# ---- errors


def read_problem(status: int, body: bytes) -> Problem:
    """The error of an answer with this status, whatever its body is."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    if isinstance(value, list) and value:
        value = value[0]  # a stream that was asked for without `alt=sse` is a list, its error too
    error = value.get("error") if isinstance(value, dict) else None
    return read_error(status, error)


def read_error(status: int | None, error: object) -> Problem:
    """The error object; without a status of HTTP it says its own."""
    said = error if isinstance(error, dict) else {}
    own, code, message = said.get("code"), said.get("status"), said.get("message")
    if status is None:
        status = own if is_whole(own) else 500
    details = said.get("details")
    param = None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict):
            code = detail.get("reason") or code
            param = param or _field(detail.get("fieldViolations"))
    return problem_of(
        status,
        message if isinstance(message, str) else "",
        code if isinstance(code, str) and code else None,
        param,
    )


def _field(violations: object) -> str | None:
    first = violations[0] if isinstance(violations, list) and violations else None
    name = first.get("field") if isinstance(first, dict) else None
    return name if isinstance(name, str) and name else None


def write_problem(problem: Problem) -> Json:
    """The error object: a code that is no status of Google's stands as the reason, a parameter as a violated field."""
    named = problem.code in _ALL_STATUSES
    message = problem.message[:MAX_MESSAGE_CHARS]
    error: Json = {
        "code": problem.status,
        "message": message,
        "status": problem.code if named else _STATUSES[problem.kind],
    }
    details: list[Json] = []
    if problem.code is not None and not named:
        details.append({"@type": f"{_GOOGLE}ErrorInfo", "reason": problem.code})
    if problem.param is not None:
        violations = [{"field": problem.param, "description": message}]
        details.append({"@type": f"{_GOOGLE}BadRequest", "fieldViolations": violations})
    return {"error": {**error, "details": details} if details else error}
