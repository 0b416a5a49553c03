"""Errors as OpenAI and the servers that follow it write them: what chat completions and Responses have in common.

Nothing is raised: a body that tells nothing gives the Problem of its status. What a format adds (its codes, its lists, its
kinds) is its spoke's.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from sidecar.wire.neutral import Json, Problem
from sidecar.wire.spoke import problem_of


def read_body(status: int, body: bytes, told: Callable[[int | None, Any], Problem]) -> Problem:
    """An error answer, whatever its body is: JSON is `told`; other text is the message, a page of HTML is not."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body[:8000].decode("utf-8", "replace").strip()
        return problem_of(status, "" if text.startswith("<") else text)
    return told(status, value)


def error_in(value: Json) -> Json:
    """The error object of a body or event: its `error`, one whose `error` is a text, or the whole."""
    error = value.get("error")
    if isinstance(error, str):
        return {**value, "message": error}
    return error if isinstance(error, dict) else value


def status_in(error: Json, known: Mapping[str, int], otherwise: int) -> int:
    """The status that an error without one has: a code that is a status, else what is `known` of its code or type."""
    code = error.get("code")
    number = code if isinstance(code, int) else 0
    found = (known[one] for one in (code, error.get("type")) if isinstance(one, str) and one in known)
    return number if 400 <= number <= 599 else next(found, otherwise)


def problem_from(status: int, error: Json, message: str) -> Problem:
    """The Problem of an error object; its code is told unless it only repeats the status."""
    code, param = error.get("code"), error.get("param")
    return problem_of(
        status,
        message,
        str(code) if isinstance(code, str | int) and not isinstance(code, bool) and code != status else None,
        param if isinstance(param, str) else None,
    )


def text_of(*candidates: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """The first that is a text, or FastAPI's list of what is wrong."""
    for said in candidates:
        if isinstance(said, str):
            return said
        if isinstance(said, list):
            texts = [one.get("msg") for one in said if isinstance(one, dict)]
            return "; ".join(text for text in texts if isinstance(text, str))
    return ""


def error_object(problem: Problem, kind: str) -> Json:
    """An error as OpenAI's SDKs read it."""
    return {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}}
