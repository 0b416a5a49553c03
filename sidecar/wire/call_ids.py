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
    if most is None or all(_part(part, most) is part for message in request.messages for part in message.parts):
        return request
    return replace(request, messages=[_message(message, most) for message in request.messages])


def _message(message: Message, most: int) -> Message:
    return replace(message, parts=[_part(part, most) for part in message.parts])


def _part(part: AnyPart, most: int) -> AnyPart:
    if isinstance(part, ToolCall) and len(part.id) > most:
        return replace(part, id=_short(part.id, most))
    if isinstance(part, ToolResult) and len(part.call_id) > most:
        return replace(part, call_id=_short(part.call_id, most))
    return part


def _short(said: str, most: int) -> str:
    return f"call_{sha256(said.encode('utf-8', 'replace')).hexdigest()}"[:most]
