"""OpenAI chat completions: errors, as whole bodies and inside streams, both ways.

Read from OpenAI, Azure, vLLM, Mistral, Ollama, llama.cpp, FastAPI and Gemini's compatible endpoint. Nothing is raised: a
body that tells nothing gives the Problem of its status.
"""

from typing import Any, Final

import orjson

from sidecar.wire.neutral import Json, Problem
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
    """An error answer, whatever its body is. Text that is no JSON is the message, a page of HTML is not."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body[:8000].decode("utf-8", "replace").strip()
        return problem_of(status, "" if text.startswith("<") else text)
    return problem_in(status, value)


def problem_in(status: int | None, value: Any) -> Problem:  # noqa: ANN401 - whatever JSON holds
    """The Problem that a decoded body, or an event of a stream, tells. Without a status its type or code says which."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return problem_of(status or 500, value if isinstance(value, str) else "")
    error = value.get("error")
    if isinstance(error, str):
        error = {**value, "message": error}
    elif not isinstance(error, dict):
        error = value
    code, kind, param = error.get("code"), error.get("type"), error.get("param")
    if status is None:
        number = code if isinstance(code, int) else 0
        known = (_STATUSES[one] for one in (code, kind) if isinstance(one, str) and one in _STATUSES)
        status = number if 400 <= number <= 599 else next(known, 500)
    return problem_of(
        status,
        _message(error),
        str(code) if isinstance(code, str | int) and not isinstance(code, bool) and code != status else None,
        param if isinstance(param, str) else None,
    )


def _message(error: Json) -> str:
    """The text of an error: `message`, or FastAPI's `detail`, a text or a list of what is wrong."""
    for said in (error.get("message"), error.get("detail")):
        if isinstance(said, str):
            return said
        said = said.get("detail") if isinstance(said, dict) else said
        if isinstance(said, list):
            texts = [one.get("msg") for one in said if isinstance(one, dict)]
            return "; ".join(text for text in texts if isinstance(text, str))
    return ""


def write_problem(problem: Problem) -> Json:
    """An error as OpenAI's SDKs read it."""
    kind = _TYPES[problem.kind]
    return {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}}
