"""Errors of the Messages API: read from whatever a server sent, and written as its SDKs turn them into exceptions.

What it promises: reading never fails. The message is the provider's and goes to the client only.
"""

from typing import Final

import msgspec
from msgspec import Struct

from sidecar.wire.neutral import Json, Problem
from sidecar.wire.reading import label, read_as
from sidecar.wire.spoke import MAX_MESSAGE_CHARS, Kind, problem_of

_TYPES: Final[dict[Kind, str]] = {
    "invalid": "invalid_request_error",
    "authentication": "authentication_error",
    "billing": "billing_error",
    "permission": "permission_error",
    "not_found": "not_found_error",
    "rate_limit": "rate_limit_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
    "server": "api_error",
}
_STATUSES: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}  # that an error inside a stream would have had


class _Error(Struct):
    type: str | None = None
    message: str | None = None


class _Body(Struct):
    error: _Error | None = None


_body: Final = msgspec.json.Decoder(_Body)


def read_problem(status: int, body: bytes) -> Problem:
    """The error of an answer with this status, whatever its body is. `status` 0: of an event, whose type says it."""
    said = read_as(_body, body)
    error = None if said is None else said.error
    if error is None:
        return problem_of(status or 500)
    code = label(error.type) if error.type else None
    return problem_of(status or _STATUSES.get(error.type or "", 500), error.message or "", code)


def write_problem(problem: Problem) -> Json:
    """The error object of a body or of an event."""
    kind = "request_too_large" if problem.status == 413 else _TYPES[problem.kind]
    return {"type": "error", "error": {"type": kind, "message": problem.message[:MAX_MESSAGE_CHARS]}}
