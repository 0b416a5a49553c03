"""Names of tools that an arm's format refuses: said there under names that it takes, and given back under their own.

| format | what it takes |
| --- | --- |
| chat, responses, converse | letters, digits, `_` and `-`, at most 64 |
| messages | the same, at most 128 |
| generate | `.` too, at most 64, and begins with a letter or `_` |
| cohere | letters, digits and `_`, begins with no digit |

The table follows from the call alone, so the answer's reader makes the same one as the request's writer, and nothing is
kept between calls. A name that is good stays; one that is not has `_` for what is refused, and a number behind it where it
would then be that of another tool. A prompt that speaks of a tool by its name is not touched.

What it does not know: how a format is written, and whose tools these are; tools of a provider's own keep their names.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from sidecar.wire.neutral import AnyPart, Event, Format, Message, Open, Report, Request, Response, ToolCall, ToolResult
from sidecar.wire.spoke import Distinct


class _Rule(Struct, frozen=True):
    bad: re.Pattern[str]  # one character that is refused
    max_chars: int = 64
    letter_first: bool = False  # or `_`


_USUAL: Final = _Rule(re.compile(r"[^a-zA-Z0-9_-]"))
_RULES: Final[Mapping[Format, _Rule]] = {
    "chat": _USUAL,
    "responses": _USUAL,
    "converse": _USUAL,
    "messages": _Rule(_USUAL.bad, max_chars=128),
    "generate": _Rule(re.compile(r"[^a-zA-Z0-9_.-]"), letter_first=True),
    "cohere": _Rule(re.compile(r"[^a-zA-Z0-9_]"), letter_first=True),
}
_NONE: Final[Mapping[str, str]] = {}


def other_names(request: Request, form: Format) -> Mapping[str, str]:
    """Own name -> the name in `form`, of the tools that need another one there. Empty for the call's own format."""
    if form == request.format:
        return _NONE
    rule = _RULES[form]
    names = dict.fromkeys(_names(request))
    wrong = [name for name in names if _allowed(name, rule) != name]
    if not wrong:
        return _NONE
    distinct = Distinct("_", rule.max_chars)
    for name in names.keys() - wrong:
        distinct.make(name)
    return {name: distinct.make(_allowed(name, rule)) for name in wrong}


def renamed(request: Request, names: Mapping[str, str], report: Report) -> Request:
    """The call with these names, everywhere in it; each that was changed is told once."""
    left = dict(names)
    for number, tool in enumerate(request.tools):
        if tool.opaque is None and tool.name in left:
            del left[tool.name]
            report.map(f"tools[{number}].name")
    if left:
        report.map("messages.tool_calls")  # of tools that are offered no more
    choice = request.tool_choice
    return replace(
        request,
        tools=[
            one if one.opaque is not None else replace(one, name=names.get(one.name, one.name)) for one in request.tools
        ],
        tool_choice=choice and replace(choice, tools=[names.get(one, one) for one in choice.tools]),
        messages=[_message(one, names) for one in request.messages],
    )


class OwnNames:
    """Puts the client's own names into an answer."""

    def __init__(self, request: Request, form: Format) -> None:
        self._own = {other: own for own, other in other_names(request, form).items()}

    def whole(self, answer: Response) -> None:
        """All calls of an answer."""
        if self._own:
            for choice in answer.choices:
                for part in choice.parts:
                    self._restore(part)

    def events(self, events: Iterable[Event]) -> None:
        """Those of a stream that begin a call."""
        if self._own:
            for event in events:
                if isinstance(event, Open):
                    self._restore(event.part)

    def _restore(self, part: object) -> None:
        if isinstance(part, ToolCall):
            part.name = self._own.get(part.name, part.name)


def _names(request: Request) -> Iterable[str]:
    """Of the tools that are offered, and of those that were called."""
    for tool in request.tools:
        if tool.opaque is None:
            yield tool.name
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, ToolCall | ToolResult) and part.name is not None:
                yield part.name


def _allowed(name: str, rule: _Rule) -> str:
    made = rule.bad.sub("_", name)
    if not made or (rule.letter_first and not (made[0].isalpha() or made[0] == "_")):
        made = f"_{made}"
    return made[: rule.max_chars]


def _message(message: Message, names: Mapping[str, str]) -> Message:
    """The message itself where it names none of these."""
    parts = [_part(part, names) for part in message.parts]
    same = all(one is other for one, other in zip(parts, message.parts, strict=True))
    return message if same else replace(message, parts=parts)


def _part(part: AnyPart, names: Mapping[str, str]) -> AnyPart:
    if isinstance(part, ToolCall | ToolResult) and part.name is not None and part.name in names:
        return replace(part, name=names[part.name])
    return part
