"""OpenAI Responses: errors, as whole bodies, inside answers and inside streams, both ways.

Read from OpenAI, Azure, vLLM, llama.cpp and FastAPI. Nothing is raised: a body that tells nothing gives the Problem of its
status. An error inside an answer has only a code, which says whose fault it is.
"""

from typing import Any, Final

from sidecar.wire.neutral import Json, Problem
from sidecar.wire.openai_problem import error_in, error_object, problem_from, read_body, status_in, text_of
from sidecar.wire.spoke import Kind, problem_of

_STATUSES: Final = {
    "invalid_request_error": 400,
    "invalid_prompt": 400,
    "context_length_exceeded": 400,
    "bio_policy": 400,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "insufficient_quota": 429,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded_error": 503,
    "server_is_overloaded": 503,
    "timeout_error": 504,
    "vector_store_timeout": 504,
}
_TYPES: Final[dict[Kind, str]] = {
    "invalid": "invalid_request_error",
    "authentication": "authentication_error",
    "billing": "billing_error",
    "permission": "permission_error",
    "not_found": "not_found_error",
    "rate_limit": "rate_limit_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
    "server": "server_error",
}
_CODES: Final[dict[Kind, str]] = {"invalid": "invalid_prompt", "rate_limit": "rate_limit_exceeded"}


def read_problem(status: int, body: bytes) -> Problem:
    """An error answer, whatever its body is."""
    return read_body(status, body, problem_in)


def problem_in(status: int | None, value: Any) -> Problem:  # noqa: ANN401 - whatever JSON holds
    """The Problem that a decoded body, an answer's `error` or an event tells. Without a status its code says which."""
    if not isinstance(value, dict):
        return problem_of(status or 500, value if isinstance(value, str) else "")
    error = error_in(value)
    if status is None:
        code = error.get("code")
        status = status_in(error, _STATUSES, 400 if isinstance(code, str) and "image" in code else 500)
    return problem_from(status, error, text_of(error.get("message"), error.get("detail")))


def write_problem(problem: Problem) -> Json:
    """An error as OpenAI's SDKs read it."""
    return error_object(problem, _TYPES[problem.kind])


def write_event(problem: Problem) -> Json:
    """The members of an `error` event."""
    code = problem.code or (None if problem.kind == "server" else _TYPES[problem.kind])
    return {"code": code, "message": problem.message, "param": problem.param}


def write_error(problem: Problem) -> Json:
    """The member `error` of an answer that failed: it has a few codes only."""
    return {"code": _CODES.get(problem.kind, "server_error"), "message": problem.message}
