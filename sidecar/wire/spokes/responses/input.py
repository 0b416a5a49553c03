"""OpenAI Responses: `input`, the turns of a request, both ways.

The items of an assistant in a row are one Message; each result of a tool is a Message of role tool, and messages of a user
or a system stand alone. Results among a user's parts are said first.

Canonical form: an `input` that is one user's plain text is a string, every message has its type, and an assistant's content
of one plain text is a string; items and messages of an assistant without content are left out.
"""

from typing import Any, Final

from sidecar.errors import TranslationError
from sidecar.wire.members import Members, wrong
from sidecar.wire.neutral import AnyPart, Json, Message, Opaque, Text, Thinking, ToolCall, ToolResult
from sidecar.wire.saying import Saying
from sidecar.wire.spokes.responses.items import ItemWriter, paths, read_item, take_frame, whole
from sidecar.wire.spokes.responses.parts import read_content, write_content

_OUTPUTS: Final = {"function_call_output": False, "custom_tool_call_output": True}  # whether of a custom tool


# ---- reading


def read_input(value: Any) -> list[Message]:  # noqa: ANN401 - whatever JSON holds
    """The turns.

    Raises:
        TranslationError: a type is wrong, or a role is none of this format's; says where.
    """
    if isinstance(value, str):
        return [Message(role="user", parts=[Text(text=value)] if value else [])]
    if not isinstance(value, list):
        wrong("input", "a string or a list", value)
    messages: list[Message] = []
    for number, item in enumerate(value):
        where = f"input[{number}]"
        if not isinstance(item, dict):
            wrong(where, "an object", item)
        _add(messages, item, where)
    return messages


def _add(messages: list[Message], item: Json, where: str) -> None:
    kind, role = item.get("type"), item.get("role")
    if not isinstance(kind, str | None):
        wrong(f"{where}.type", "a string", kind)
    if kind in ("message", None) and role is not None:
        if role == "assistant":
            _append(messages, "assistant", read_item(item, where))
        else:
            messages.append(_read_message(item, where))
    elif kind in _OUTPUTS and item.get("call_id") is not None:
        messages.append(Message(role="tool", parts=[_read_output(item, where, custom=_OUTPUTS[kind])]))
    elif kind in ("message", None) and "id" not in item:
        wrong(f"{where}.role", "a string", role)
    elif kind is None:
        _append(messages, "assistant", [whole(item)])  # a reference to an item
    elif kind.endswith("_output") or kind == "mcp_approval_response":
        _append(messages, "tool", [whole(item)])
    else:
        _append(messages, "assistant", read_item(item, where))


def _append(messages: list[Message], role: Any, parts: list[AnyPart]) -> None:  # noqa: ANN401 - one of two roles
    if not parts:
        return
    last = messages[-1] if messages else None
    if last is not None and last.role == role:
        last.parts += parts
    else:
        messages.append(Message(role=role, parts=parts))


def _read_message(item: Json, where: str) -> Message:
    members = Members(item, where)
    members.any("type")
    role = members.needed_text("role")
    if role not in ("user", "system", "developer"):
        raise TranslationError(f"{members.at('role')}: expected user, assistant, system or developer")
    parts = read_content(members.any("content"), members.at("content"))
    if parts:
        frame = take_frame(members)
        if frame:
            parts[0].frame = {"item": frame}
    return Message(role=role, parts=parts, extra=members.rest())  # type: ignore[arg-type]  # seen above


def _read_output(item: Json, where: str, *, custom: bool) -> ToolResult:
    members = Members(item, where)
    members.any("type")
    return ToolResult(
        call_id=members.needed_text("call_id"),
        parts=read_content(members.any("output"), members.at("output")),
        name=members.text("name"),
        frame={"item": take_frame(members), "custom": custom},
        extra=members.rest(),
    )


# ---- writing


def write_input(messages: list[Message], first: int, saying: Saying) -> str | list[Json]:
    """The member `input`, of the messages from number `first` on."""
    custom = {part.id for message in messages for part in message.parts if isinstance(part, ToolCall) and part.custom}
    said: list[Json] = []
    for number, message in enumerate(messages[first:], first):
        where = f"messages[{number}]"
        parts = paths(message.parts, f"{where}.content")
        extra = saying.kept(message.extra, where)
        if message.name is not None:
            saying.report.lose(f"{where}.name")
        if message.role == "assistant":
            said += ItemWriter(saying, None).write(parts)
        elif any(isinstance(part, ToolResult) or "whole" in (part.frame or {}) for _, part in parts):
            said += _write_results(message, parts, custom, saying)
        else:
            said.append({**_write_message(message, parts, saying), **extra})
    only = said[0] if len(said) == 1 else {}
    if only.keys() == {"type", "role", "content"} and only["role"] == "user" and isinstance(only["content"], str):
        return only["content"]
    return said


def _write_message(message: Message, parts: list[tuple[str, AnyPart]], saying: Saying) -> Json:
    role = "user" if message.role == "tool" else message.role
    told = [one for one in parts if not isinstance(one[1], Thinking | ToolCall)]
    for place, part in parts:
        if isinstance(part, Thinking | ToolCall):
            saying.report.lose(place)
    frame = (parts[0][1].frame or {}) if parts and saying.own else {}
    content = write_content(told, "input_text", saying)
    return {"type": "message", "role": role, "content": content, **frame.get("item", {})}


def _write_results(message: Message, parts: list[tuple[str, AnyPart]], custom: set[str], saying: Saying) -> list[Json]:
    said: list[Json] = []
    rest: list[tuple[str, AnyPart]] = []
    for place, part in parts:
        if isinstance(part, ToolResult):
            said.append(_write_output(part, place, custom, saying))
        elif isinstance(part, Opaque) and saying.own:
            said.append(part.value)
        else:
            rest.append((place, part))
    if rest:
        said.append(_write_message(message, rest, saying))
    return said


def _write_output(result: ToolResult, where: str, custom: set[str], saying: Saying) -> Json:
    frame = (result.frame or {}) if saying.own else {}
    is_custom = frame.get("custom", result.call_id in custom)
    said: Json = {
        "type": "custom_tool_call_output" if is_custom else "function_call_output",
        "call_id": result.call_id,
        "output": write_content(paths(result.parts, f"{where}.content"), "input_text", saying),
        **frame.get("item", {}),
    }
    if result.name is not None and saying.own:
        said["name"] = result.name
    if result.failed:
        saying.report.map(f"{where}.failed")  # its text says it
    saying.marks(result.cache, where)
    said.update(saying.kept(result.extra, where))
    return said
