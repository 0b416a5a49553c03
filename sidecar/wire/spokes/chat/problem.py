"""OpenAI chat completions: errors, as whole bodies and inside streams, both ways.

Read from OpenAI, Azure, vLLM, Mistral, Ollama, llama.cpp, FastAPI and Gemini's compatible endpoint. Nothing is raised: a
body that tells nothing gives the Problem of its status.
"""

from typing import Any, Final

from sidecar.wire.neutral import Json, Problem
from sidecar.wire.openai_problem import error_in, error_object, problem_from, read_body, status_in, text_of
from sidecar.wire.spoke import Kind, problem_of

_STATUSES: Final = {
    "invalid_request_error": 400,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "insufficient_quota": 429,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded_error": 503,
    "unavailable_error": 503,
    "timeout_error": 504,
}
_TYPES: Final[dict[Kind, str]] = {
    "invalid": "invalid_request_error",
    "authentication": "authentication_error",
    "billing": "insufficient_quota",
    "permission": "permission_error",
    "not_found": "not_found_error",
    "rate_limit": "rate_limit_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
    "server": "server_error",
}


def read_problem(status: int, body: bytes) -> Problem:
    """An error answer, whatever its body is."""
    return read_body(status, body, problem_in)


def problem_in(status: int | None, value: Any) -> Problem:  # noqa: ANN401 - whatever JSON holds
    """The Problem that a decoded body, or an event of a stream, tells. Without a status its type or code says which."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return problem_of(status or 500, value if isinstance(value, str) else "")
    error = error_in(value)
    if status is None:
        status = status_in(error, _STATUSES, 500)
    return problem_from(status, error, text_of(_unwrapped(error.get("message")), _unwrapped(error.get("detail"))))


def _unwrapped(said: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Mistral's message: an object that has FastAPI's `detail`."""
    return said.get("detail") if isinstance(said, dict) else said


def write_problem(problem: Problem) -> Json:
    """An error as OpenAI's SDKs read it."""
    return error_object(problem, _TYPES[problem.kind])
