"""Errors as OpenAI and the servers that follow it write them, in chat completions and in Responses: as whole bodies, inside
answers and inside streams, both ways.

Read from OpenAI, Azure, vLLM, Mistral, Ollama, llama.cpp, FastAPI and Gemini's compatible endpoint. Nothing is raised: a
body that tells nothing gives the Problem of its status.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from sidecar.wire.neutral import Json, Problem
from sidecar.wire.spoke import Kind, problem_of

TYPES: Final[Mapping[Kind, str]] = {
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
_STATUSES: Final = {
    "invalid_request_error": 400,
    "invalid_prompt": 400,
    "context_length_exceeded": 400,
    "bio_policy": 400,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "insufficient_quota": 429,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded_error": 503,
    "server_is_overloaded": 503,
    "unavailable_error": 503,
    "timeout_error": 504,
    "vector_store_timeout": 504,
}  # of an error that comes without one, by its code or type


def read_problem(status: int, body: bytes) -> Problem:
    """An error answer, whatever its body is: text that is no JSON is the message, a page of HTML is not."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body[:8000].decode("utf-8", "replace").strip()
        return problem_of(status, "" if text.startswith("<") else text)
    return problem_in(status, value)


def problem_in(status: int | None, value: Any) -> Problem:  # noqa: ANN401 - whatever JSON holds
    """The Problem that a decoded body, an answer's `error` or an event tells. Without a status its code or type says it."""
    if isinstance(value, list) and value:
        value = value[0]  # Gemini's compatible endpoint
    if not isinstance(value, dict):
        return problem_of(status or 500, value if isinstance(value, str) else "")
    error = _error_in(value)
    code, param = error.get("code"), error.get("param")
    if status is None:
        status = _status_in(code, error.get("type"))
    return problem_of(
        status,
        _text_of(_unwrapped(error.get("message")), _unwrapped(error.get("detail"))),
        str(code) if isinstance(code, str | int) and not isinstance(code, bool) and code != status else None,
        param if isinstance(param, str) else None,
    )


def _error_in(value: Json) -> Json:
    """The error object of a body or event: its `error`, one whose `error` is a text, or the whole."""
    error = value.get("error")
    if isinstance(error, str):
        return {**value, "message": error}
    return error if isinstance(error, dict) else value


def _status_in(code: Any, kind: Any) -> int:  # noqa: ANN401 - whatever JSON holds
    """The status that an error without one has: a code that is a status, else what is known of its code or type."""
    if isinstance(code, int) and 400 <= code <= 599:
        return code
    for one in (code, kind):
        if isinstance(one, str) and one in _STATUSES:
            return _STATUSES[one]
    return 400 if isinstance(code, str) and "image" in code else 500


def _unwrapped(said: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Mistral's message: an object that has FastAPI's `detail`."""
    return said.get("detail") if isinstance(said, dict) else said


def _text_of(*candidates: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """The first that is a text, or FastAPI's list of what is wrong."""
    for said in candidates:
        if isinstance(said, str):
            return said
        if isinstance(said, list):
            texts = [one.get("msg") for one in said if isinstance(one, dict)]
            return "; ".join(text for text in texts if isinstance(text, str))
    return ""


def write_problem(problem: Problem, types: Mapping[Kind, str] = TYPES) -> Json:
    """An error as OpenAI's SDKs read it."""
    kind = types[problem.kind]
    return {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}}
