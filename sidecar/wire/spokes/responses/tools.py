"""OpenAI Responses: tools and the choice among them, both ways.

Canonical form: one allowed function that is required is written as a forced one; a custom tool's format `text` is absent.

Functions of this format are strict where nobody says otherwise, those of others are not: so `strict` is always written.
"""

from typing import Any, Final, Literal

from sidecar.errors import TranslationError
from sidecar.wire.members import Members, wrong
from sidecar.wire.neutral import Json, Request, Tool, ToolChoice
from sidecar.wire.saying import Saying, tools_of

_MODES: Final[dict[str, Literal["auto", "none", "required"]]] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
}
_NOTHING: Final[Json] = {"type": "object", "properties": {}}  # the parameters of a function that takes none


def read_tool(item: Any, where: str) -> Tool:  # noqa: ANN401 - whatever JSON holds
    """One entry of `tools`; the provider's own ones are whole."""
    members = Members(item, where)
    kind = members.needed_text("type")
    if kind == "function":
        tool = Tool(
            name=members.needed_text("name"),
            description=members.text("description"),
            parameters=members.mapping("parameters"),
            strict=members.flag("strict"),
        )
    elif kind == "custom":
        tool = Tool(name=members.needed_text("name"), description=members.text("description"), custom=True)
        _read_grammar(members, tool)
    else:
        return Tool(name=kind, opaque=item)
    tool.extra = members.rest()
    return tool


def _read_grammar(members: Members, tool: Tool) -> None:
    form = members.peek("format")
    if form == {"type": "text"}:
        members.any("format")
    elif isinstance(form, dict) and form.keys() == {"type", "syntax", "definition"} and form["type"] == "grammar":
        members.any("format")
        tool.grammar = {"syntax": form["syntax"], "definition": form["definition"]}


def write_tools(request: Request, saying: Saying) -> list[Json]:
    """The member `tools`."""
    return tools_of(request, saying, _write_tool)


def _write_tool(tool: Tool, where: str, saying: Saying) -> Json:
    said: Json = {"type": "custom" if tool.custom else "function", "name": tool.name}
    if tool.description is not None:
        said["description"] = tool.description
    if tool.custom:
        if tool.grammar is not None:
            said["format"] = {"type": "grammar", **tool.grammar}
    elif saying.own:
        said["parameters"], said["strict"] = tool.parameters, tool.strict
    else:
        said["parameters"], said["strict"] = tool.parameters or _NOTHING, tool.strict or False
    if tool.cache is not None:
        saying.report.map(f"{where}.cache")
    said.update(saying.kept(tool.extra, where))
    return said


def read_choice(value: Any, where: str) -> ToolChoice | None:  # noqa: ANN401 - whatever JSON holds
    """`tool_choice`; None: an object of a type that is not known here.

    Raises:
        TranslationError: it is a string that is no mode.
    """
    if isinstance(value, str):
        if value not in _MODES:
            raise TranslationError(f"{where}: expected none, auto or required")
        return ToolChoice(mode=_MODES[value])
    if not isinstance(value, dict):
        wrong(where, "a string or an object", value)
    name = _named(value)
    if name is not None:
        return ToolChoice(mode="required", tools=[name])
    mode, tools = value.get("mode"), value.get("tools")
    if value.get("type") != "allowed_tools" or value.keys() != {"type", "mode", "tools"}:
        return None
    if mode not in ("auto", "required") or not isinstance(tools, list):
        return None
    names = [found for tool in tools if (found := _named(tool)) is not None]
    return ToolChoice(mode=_MODES[mode], tools=names) if names and len(names) == len(tools) else None


def _named(value: Any) -> str | None:  # noqa: ANN401 - whatever JSON holds
    """The name in {"type": "function" | "custom", "name": ...}."""
    if not isinstance(value, dict) or value.get("type") not in ("function", "custom"):
        return None
    name = value.get("name")
    return name if value.keys() == {"type", "name"} and isinstance(name, str) else None


def write_choice(choice: ToolChoice, request: Request) -> str | Json:
    """The member `tool_choice`."""
    if not choice.tools or choice.mode == "none":
        return choice.mode
    custom = {tool.name for tool in request.tools if tool.custom}
    named: list[Json] = [{"type": "custom" if name in custom else "function", "name": name} for name in choice.tools]
    if choice.mode == "required" and len(named) == 1:
        return named[0]
    return {"type": "allowed_tools", "mode": choice.mode, "tools": named}
