"""Writes the tools of a call and the choice among them as the Messages API says them.

A choice among some of the tools is said by offering only those. Tools that only their own provider knows, and tools that
take free text, cannot be said. It does not know calls and results: they are blocks.
"""

from typing import Final

from sidecar.wire.neutral import Json, Report, Request, Tool
from sidecar.wire.spoke import lose_all
from sidecar.wire.spokes.messages.blocks import cache_control

_NOTHING: Final[Json] = {"type": "object", "properties": {}}  # the schema of a tool that takes nothing


def write_tools(request: Request, report: Report) -> list[Json]:
    """The definitions, in order."""
    own = request.format == "messages"
    tools = []
    offered = None if own else _offered(request)
    for number, tool in enumerate(request.tools):
        at = f"tools[{number}]"
        if not own and (tool.opaque is not None or tool.custom):
            report.lose(at)
        elif offered is None or tool.name in offered:
            tools.append(_write_tool(tool, at, report, own=own))
    if offered is not None:
        report.map("tool_choice.tools")
    return tools


def write_choice(request: Request, report: Report) -> Json | None:
    """Which of them may or must be called; None: nothing is said."""
    own, choice = request.format == "messages", request.tool_choice
    single = None if request.parallel_tools is None else not request.parallel_tools
    if choice is None:
        return {"type": "auto", "disable_parallel_tool_use": True} if single else None
    if choice.mode == "required":
        forced = len(choice.tools) == 1
        said: Json = {"type": "tool", "name": choice.tools[0]} if forced else {"type": "any"}
    else:
        said = {"type": choice.mode}
    if single is not None and (own or (single and choice.mode != "none")):
        said["disable_parallel_tool_use"] = single
    if own:
        return said | choice.extra
    lose_all(report, "tool_choice", choice.extra)
    return said


def _offered(request: Request) -> set[str] | None:
    """The tools that may be called, where that is less than all and more than a forced one."""
    choice = request.tool_choice
    if choice is None or not choice.tools or (choice.mode == "required" and len(choice.tools) == 1):
        return None
    return set(choice.tools)


def _write_tool(tool: Tool, at: str, report: Report, *, own: bool) -> Json:
    if tool.opaque is not None:
        return tool.opaque
    schema = _NOTHING if tool.parameters is None else tool.parameters
    said: Json = {
        "name": tool.name,
        "input_schema": schema if own or "type" in schema else {"type": "object", **schema},
    }
    if tool.description is not None:
        said["description"] = tool.description
    if tool.strict is not None:
        said["strict"] = tool.strict
    if tool.cache is not None:
        said["cache_control"] = cache_control(tool.cache)
    if own:
        return said | tool.extra
    lose_all(report, at, tool.extra)
    return said
