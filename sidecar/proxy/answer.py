"""Answers of our own: refusals and failures, in the dialect that the client's SDK understands.

A body of ours names what happened and never repeats anything of the request: prompts and keys do not travel in errors.
"""

from typing import Final

import orjson

from sidecar.core.types import Spoken

_PHRASES: Final = {
    200: "OK", 202: "Accepted", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 413: "Content Too Large", 415: "Unsupported Media Type",
    421: "Misdirected Request", 422: "Unprocessable Content", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip
_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip
_GEMINI_STATUS: Final = {
    400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}  # fmt: skip


def phrase(status: int) -> bytes:
    """The reason phrase of a status line."""
    return _PHRASES.get(status, "Status").encode()


def error_body(dialect: Spoken, status: int, code: str, message: str) -> bytes:
    """The error object that an SDK of `dialect` turns into its own exception."""
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return orjson.dumps({"type": "error", "error": {"type": kind, "message": f"{message} ({code})"}})
    if dialect == "gemini":
        name = _GEMINI_STATUS.get(status, "INTERNAL" if status >= 500 else "FAILED_PRECONDITION")
        return orjson.dumps({"error": {"code": status, "message": f"{message} ({code})", "status": name}})
    if dialect in ("cohere", "bedrock"):
        return orjson.dumps({"message": f"{message} ({code})"})
    kind = "sidecar_error" if status >= 500 else "invalid_request_error"
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def response(status: int, body: bytes, *, headers: bytes = b"", close: bool = False, head_only: bool = False) -> bytes:
    """A whole response with a JSON body. `headers` are whole lines; `head_only` leaves the body out (HEAD)."""
    return b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b%b\r\n%b" % (
        status,
        phrase(status),
        len(body),
        headers,
        b"connection: close\r\n" if close else b"",
        b"" if head_only else body,
    )


CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
NO_RETRY: Final = b"x-should-retry: false\r\n"
