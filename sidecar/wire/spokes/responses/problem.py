"""OpenAI Responses: errors as this format alone writes them. An error inside an answer has only a code, of a few."""

from collections.abc import Mapping
from typing import Final

from sidecar.wire import openai_problem
from sidecar.wire.neutral import Json, Problem
from sidecar.wire.spoke import Kind

_TYPES: Final[Mapping[Kind, str]] = {**openai_problem.TYPES, "billing": "billing_error"}
_CODES: Final[dict[Kind, str]] = {"invalid": "invalid_prompt", "rate_limit": "rate_limit_exceeded"}


def write_problem(problem: Problem) -> Json:
    """The error of a body."""
    return openai_problem.write_problem(problem, _TYPES)


def write_event(problem: Problem) -> Json:
    """The members of an `error` event."""
    code = problem.code or (None if problem.kind == "server" else _TYPES[problem.kind])
    return {"code": code, "message": problem.message, "param": problem.param}


def write_error(problem: Problem) -> Json:
    """The member `error` of an answer that failed."""
    return {"code": _CODES.get(problem.kind, "server_error"), "message": problem.message}
