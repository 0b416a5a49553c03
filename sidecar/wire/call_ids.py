"""Ids of calls that are too long for OpenAI, said as others.

Its chat completions take ids of 40 characters, its Responses of 64; other servers' are longer, and some gateways put a
signature into them. Servers that only speak these formats are given every id as it is: there are models that read them.
What stands for a long id follows from it alone, in the call and in its result, so nothing is kept between calls.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from msgspec.structs import replace

from sidecar.wire.neutral import AnyPart, Format, Message, Request, ToolCall, ToolResult

_MOST_CHARS: Final[Mapping[Format, int]] = {"chat": 40, "responses": 64}


def short_ids(request: Request, form: Format) -> Request:
    """The call with ids that a format takes; the call itself where it does already."""
    most = _MOST_CHARS.get(form)
    if most is None or not any(_is_long(part, most) for message in request.messages for part in message.parts):
        return request
    return replace(request, messages=[_message(message, most) for message in request.messages])


def _message(message: Message, most: int) -> Message:
    return replace(message, parts=[_part(part, most) if _is_long(part, most) else part for part in message.parts])


def _is_long(part: AnyPart, most: int) -> bool:
    match part:
        case ToolCall():
            return len(part.id) > most
        case ToolResult():
            return len(part.call_id) > most
        case _:
            return False


def _part(part: AnyPart, most: int) -> AnyPart:
    match part:
        case ToolCall():
            return replace(part, id=_short(part.id, most))
        case ToolResult():
            return replace(part, call_id=_short(part.call_id, most))
        case _:
            return part


def _short(said: str, most: int) -> str:
    return f"call_{sha256(said.encode('utf-8', 'replace')).hexdigest()}"[:most]
