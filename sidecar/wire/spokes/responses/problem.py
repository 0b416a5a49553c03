"""OpenAI Responses: errors, as whole bodies, inside answers and inside streams, both ways.

Read from OpenAI, Azure, vLLM, llama.cpp and FastAPI. Nothing is raised: a body that tells nothing gives the Problem of its
status. An error inside an answer has only a code, which says whose fault it is.
"""

from typing import Any, Final

import orjson

from sidecar.wire.neutral import Json, Problem
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
    """An error answer, whatever its body is. Text that is no JSON is the message, a page of HTML is not."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body[:8000].decode("utf-8", "replace").strip()
        return problem_of(status, "" if text.startswith("<") else text)
    return problem_in(status, value)


def problem_in(status: int | None, value: Any) -> Problem:  # noqa: ANN401 - whatever JSON holds
    """The Problem that a decoded body, an answer's `error` or an event tells. Without a status its code says which."""
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
        of_image = isinstance(code, str) and "image" in code
        status = number if 400 <= number <= 599 else next(known, 400 if of_image else 500)
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
        if isinstance(said, list):
            texts = [one.get("msg") for one in said if isinstance(one, dict)]
            return "; ".join(text for text in texts if isinstance(text, str))
    return ""


def write_problem(problem: Problem) -> Json:
    """An error as OpenAI's SDKs read it."""
    kind = _TYPES[problem.kind]
    return {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}}


def write_event(problem: Problem) -> Json:
    """The members of an `error` event."""
    code = problem.code or (None if problem.kind == "server" else _TYPES[problem.kind])
    return {"code": code, "message": problem.message, "param": problem.param}


def write_error(problem: Problem) -> Json:
    """The member `error` of an answer that failed: it has a few codes only."""
    return {"code": _CODES.get(problem.kind, "server_error"), "message": problem.message}
