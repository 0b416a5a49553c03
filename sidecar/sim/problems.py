"""Errors as each service sends them: status, body, extra header lines, and the event that ends a broken stream."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import orjson

from sidecar.sim.routes import Dialect, Route
from sidecar.wire.eventstream import frame

Reason = Literal["key", "no_key", "model", "json", "type", "missing", "method", "address", "prompt_filtered"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong; `message` is the service's text, `code` its machine word where it has one."""

    status: int
    message: str
    code: str | None = None


_OPENAI_TYPES = {401: "invalid_request_error", 429: "requests", 500: "server_error", 503: "server_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "api_error",
    529: "overloaded_error",
}
_GOOGLE_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_AWS_TYPES = {
    400: "ValidationException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}
_MISTRAL_TYPES = {400: "invalid_request_error", 404: "not_found", 429: "rate_limited", 503: "service_unavailable"}
_COMMON: Mapping[Reason, Problem] = {
    "key": Problem(401, "Incorrect API key provided.", "invalid_api_key"),
    "no_key": Problem(401, "Incorrect API key provided.", "invalid_api_key"),
    "model": Problem(404, "The model `{what}` does not exist.", "model_not_found"),
    "json": Problem(400, "We could not parse the JSON body of your request."),
    "type": Problem(400, "Invalid type in the request body: {what}.", "invalid_type"),
    "missing": Problem(400, "Missing required parameter: '{what}'.", "missing_required_parameter"),
    "method": Problem(405, "Not allowed to {what}."),
    "address": Problem(404, "Resource not found", "404"),
    "prompt_filtered": Problem(
        400,
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "content_filter",
    ),
}
_AWS_KEY = Problem(403, "The security token included in the request is invalid.", "UnrecognizedClientException")
_GOOGLE_KEY = Problem(400, "API key not valid. Please pass a valid API key.", "API_KEY_INVALID")
_GOOGLE_NO_KEY = Problem(
    403, "Method doesn't allow unregistered callers (callers without established identity). Please use API Key."
)
_VERTEX_KEY = Problem(401, "Request had invalid authentication credentials. Expected OAuth 2 access token.")
_AZURE_KEY = Problem(
    401, "Access denied due to invalid subscription key or wrong API endpoint. Provide a valid key.", "401"
)
_GOOGLE_JSON = Problem(400, "Invalid JSON payload received. Expected an object.")
_OWN: Mapping[tuple[Dialect, Reason], Problem] = {
    ("gemini", "key"): _GOOGLE_KEY,
    ("gemini", "no_key"): _GOOGLE_NO_KEY,
    ("gemini", "json"): _GOOGLE_JSON,
    ("gemini", "type"): Problem(400, "Invalid JSON payload received. {what}"),
    ("gemini", "model"): Problem(404, "models/{what} is not found, or is not supported for generateContent."),
    ("vertex", "key"): _VERTEX_KEY,
    ("vertex", "no_key"): _VERTEX_KEY,
    ("vertex", "json"): _GOOGLE_JSON,
    ("vertex", "type"): Problem(400, "Invalid JSON payload received. {what}"),
    ("vertex", "model"): Problem(404, "Publisher Model `{what}` was not found or your project has no access to it."),
    ("azure", "key"): _AZURE_KEY,
    ("azure", "no_key"): _AZURE_KEY,
    ("azure", "model"): Problem(404, "The API deployment for this resource does not exist.", "DeploymentNotFound"),
    ("mistral", "key"): Problem(401, "Unauthorized"),
    ("mistral", "no_key"): Problem(401, "Unauthorized"),
    ("mistral", "model"): Problem(400, "Invalid model: {what}", "1500"),
    ("mistral", "missing"): Problem(422, "{what}", "missing"),
    ("mistral", "type"): Problem(422, "{what}", "type_error"),
    ("cohere", "key"): Problem(401, "invalid api token"),
    ("cohere", "no_key"): Problem(401, "no api key supplied"),
    ("cohere", "json"): Problem(400, "invalid json syntax"),
    ("cohere", "type"): Problem(400, "invalid request: {what}"),
    ("cohere", "missing"): Problem(400, "invalid request: {what} is required"),
    ("cohere", "model"): Problem(404, "model '{what}' not found, make sure the correct model ID was used."),
    ("bedrock", "key"): _AWS_KEY,
    ("bedrock", "no_key"): Problem(403, "Missing Authentication Token", "MissingAuthenticationTokenException"),
    ("bedrock", "json"): Problem(400, "Malformed input request, please reformat your input and try again."),
    ("bedrock", "type"): Problem(400, "{what}"),
    ("bedrock", "model"): Problem(400, "The provided model identifier is invalid."),
}
_FAULTS = {
    429: "Rate limit reached for requests",
    500: "The server had an error while processing your request. Sorry about that!",
    503: "The engine is currently overloaded, please try again later",
    529: "Overloaded",
}
_OWN_FAULTS: Mapping[tuple[Dialect, int], str] = {
    ("gemini", 429): "You exceeded your current quota, please check your plan and billing details.",
    ("gemini", 503): "The model is overloaded. Please try again later.",
    ("vertex", 429): "Resource exhausted. Please try again later.",
    ("bedrock", 429): "Too many requests, please wait before trying again.",
    ("bedrock", 503): "Bedrock is unable to process your request.",
    ("mistral", 429): "Requests rate limit exceeded",
    ("cohere", 429): "You are using a Trial key, which is limited. Please wait and try again later.",
}


def said(dialect: Dialect, reason: Reason, what: str = "") -> Problem:
    """The service's problem for a reason; `what` stands where its text names the thing."""
    problem = _OWN.get((dialect, reason)) or _COMMON[reason]
    return Problem(problem.status, problem.message.replace("{what}", what), problem.code)


def fault(dialect: Dialect, status: int) -> Problem:
    """The service's problem for a status that a fault asks for."""
    message = _OWN_FAULTS.get((dialect, status)) or _FAULTS.get(status, "The server had an error.")
    return Problem(status, message, str(status) if dialect == "azure" else None)


def body(dialect: Dialect, problem: Problem, number: str, retry_after_s: float | None = None) -> bytes:
    """The error's body. Gemini says in it how long to wait, the others in a header."""
    status, message, code = problem.status, problem.message, problem.code
    shape: dict[str, object]
    match dialect:
        case "anthropic":
            kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
            error: object = {"type": kind, "message": message}
            shape = {"type": "error", "error": error, "request_id": f"req_{number}"}
        case "gemini" | "vertex":
            shape = {"error": _google(problem, retry_after_s)}
        case "cohere":
            shape = {"id": f"{number:0>8}-0000-4000-8000-000000000000", "message": message}
        case "bedrock":
            shape = {"message": message}
        case "mistral":
            shape = _mistral(problem)
        case "azure" if code is not None and (code == str(status) or code == "DeploymentNotFound"):
            shape = {"error": {"code": code, "message": message}}
        case _:
            kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
            plain = {"message": message, "type": kind, "param": None, "code": code}
            shape = {"error": _filtered(plain) if code == "content_filter" else plain}
    return orjson.dumps(shape)


def lines(dialect: Dialect, problem: Problem, number: str, retry_after_s: float | None = None) -> bytes:
    """Header lines of the service's own, each with its line end."""
    found = b""
    if dialect == "bedrock":
        kind = problem.code or _AWS_TYPES.get(
            problem.status, "ValidationException" if problem.status < 500 else "InternalServerException"
        )
        found += b"x-amzn-requestid: %b\r\nx-amzn-errortype: %b\r\n" % (number.encode(), kind.encode())
    if retry_after_s is not None and dialect not in ("gemini", "vertex"):
        found += b"retry-after: %d\r\n" % max(1, round(retry_after_s))
    return found


def limit_lines(dialect: Dialect, retry_after_s: float | None) -> bytes:
    """The rate-limit headers of a 429, of those services that send them."""
    prefix = {"openai": b"x-ratelimit", "azure": b"x-ratelimit", "anthropic": b"anthropic-ratelimit"}.get(dialect)
    if prefix is None:
        return b""
    reset = b"%b-reset-requests: %dms\r\n" % (prefix, round((retry_after_s or 1) * 1000))
    return b"%b-limit-requests: 60\r\n%b-remaining-requests: 0\r\n" % (prefix, prefix) + reset


def error_event(route: Route) -> bytes:
    """What the service sends inside a stream that broke."""
    match route.dialect:
        case "anthropic":
            shape = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
            return b"event: error\ndata: " + shape + b"\n\n"
        case "gemini" | "vertex":
            failed = body(route.dialect, fault(route.dialect, 503), "")
            return b"data: " + failed + b"\r\n\r\n" if route.sse else failed + b"]"
        case "cohere":
            shape = b'{"type":"message-end","delta":{"error":"internal server error","finish_reason":"ERROR"}}'
            return b"event: message-end\ndata: " + shape + b"\n\n"
        case "bedrock":
            headers = {":message-type": "exception", ":exception-type": "internalServerException"}
            text = (
                b'{"message":"The system encountered an unexpected error during processing. Try your request again."}'
            )
            return frame(headers | {":content-type": "application/json"}, text)
        case "mistral":
            return b"data: " + body("mistral", fault("mistral", 503), "") + b"\n\n"
        case _:
            return b"data: " + body("openai", fault("openai", 500), "") + b"\n\n"


def _google(problem: Problem, retry_after_s: float | None) -> dict[str, object]:
    known = _GOOGLE_STATUSES.get(problem.status, "INVALID_ARGUMENT" if problem.status < 500 else "INTERNAL")
    shape: dict[str, object] = {"code": problem.status, "message": problem.message, "status": known}
    if problem.code is not None:
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": problem.code}
        shape["details"] = [info | {"domain": "googleapis.com"}]
    elif retry_after_s is not None:
        retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_after_s:g}s"}
        shape["details"] = [retry]
    return shape


def _mistral(problem: Problem) -> dict[str, object]:
    """Its gateway, its validation and its service each have a form of their own."""
    if problem.status == 401:
        return {"detail": problem.message}
    if problem.status == 422:
        where = ["body", problem.message] if problem.code == "missing" else ["body"]
        text = "Field required" if problem.code == "missing" else problem.message
        return {"detail": [{"type": problem.code, "loc": where, "msg": text, "input": None}]}
    kind = _MISTRAL_TYPES.get(
        problem.status, "invalid_request_error" if problem.status < 500 else "internal_server_error"
    )
    code = problem.code or ("1300" if problem.status == 429 else "3000")
    return {"object": "error", "message": problem.message, "type": kind, "param": None, "code": code}


def _filtered(error: Mapping[str, object]) -> dict[str, object]:
    """Azure's refusal of a prompt: which category struck stands in `innererror`."""
    safe = {"filtered": False, "severity": "safe"}
    result = {"hate": safe, "self_harm": safe, "sexual": safe, "violence": {"filtered": True, "severity": "high"}}
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": result}
    return dict(error) | {"type": None, "param": "prompt", "status": 400, "innererror": inner}
