"""Tools and the choice among them, in Gemini's words, both ways.

One entry of `tools` holds all functions; each tool of the provider's own (`googleSearch`, `codeExecution`, `urlContext`)
has an entry of its own. Parameters are written as standard JSON schema (`parametersJsonSchema`), whichever way they came.
"""

from typing import Literal

from sidecar.wire.members import Json
from sidecar.wire.neutral import Report, Request, Tool, ToolChoice
from sidecar.wire.spoke import lose_all
from sidecar.wire.spokes.generate.members import GenerateMembers
from sidecar.wire.spokes.generate.schema import json_schema

_MODES: dict[str, Literal["auto", "none", "required"]] = {"AUTO": "auto", "ANY": "required", "NONE": "none"}
_FREE_TEXT: Json = {"type": "object", "properties": {"arguments": {"type": "string"}}, "required": ["arguments"]}
_NAMES = {mode: name for name, mode in _MODES.items()}


def read_tools(body: GenerateMembers) -> list[Tool]:
    """All functions, then the provider's own tools, each in the order of the body. Raises TranslationError."""
    functions, others = list[Tool](), list[Tool]()
    for entry in body.objects("tools"):
        functions.extend(_read_function(declared) for declared in entry.objects("functionDeclarations"))
        others.extend(Tool(name=name, opaque={name: value}) for name, value in entry.rest().items())
    return functions + others


def _read_function(declared: GenerateMembers) -> Tool:
    name, description = declared.text("name") or "", declared.text("description")
    parameters = declared.mapping("parametersJsonSchema")
    if parameters is None:
        own = declared.mapping("parameters")
        parameters = None if own is None else json_schema(own, declared.at("parameters"))
    return Tool(name=name, description=description, parameters=parameters, extra=declared.rest())


def read_choice(config: GenerateMembers) -> ToolChoice | None:
    """The choice that a `toolConfig` says. A mode that only Gemini has is an extra of `auto`."""
    inner = config.object("functionCallingConfig")
    if inner is None:
        return None
    said, names = inner.text("mode"), inner.texts("allowedFunctionNames")
    mode = _MODES.get((said or "AUTO").upper())
    extra = inner.rest() if mode is not None else {"mode": said, **inner.rest()}
    return ToolChoice(mode=mode or "auto", tools=names or [], extra=extra)


def write_tools(request: Request, report: Report) -> list[Json]:
    """The entries of `tools`."""
    own = request.format == "generate"
    functions, others = list[Json](), list[Json]()
    for number, tool in enumerate(request.tools):
        where = f"tools[{number}]"
        if tool.cache is not None:
            report.map(f"{where}.cache")
        if tool.opaque is None:
            functions.append(_write_function(tool, own, where, report))
        elif own:
            others.append(tool.opaque)
        else:
            report.lose(where)
    return [{"functionDeclarations": functions}, *others] if functions else others


def _write_function(tool: Tool, own: bool, where: str, report: Report) -> Json:
    said: Json = {"name": tool.name}
    if tool.description is not None:
        said["description"] = tool.description
    if tool.custom:
        report.map(where)
        said["parametersJsonSchema"] = _FREE_TEXT
        if tool.grammar is not None:
            report.lose(f"{where}.grammar")
    elif tool.parameters is not None:
        said["parametersJsonSchema"] = tool.parameters
    if not own:
        lose_all(report, where, tool.extra)
        return said
    return {**said, **tool.extra}


def write_choice(request: Request, report: Report) -> Json | None:
    """The `functionCallingConfig`. A strict tool becomes the mode that holds calls to their schemas."""
    strict = [number for number, tool in enumerate(request.tools) if tool.strict and tool.opaque is None]
    for number in strict:
        report.map(f"tools[{number}].strict")
    choice = request.tool_choice
    if choice is None:
        return {"mode": "VALIDATED"} if strict else None
    if request.format == "generate":
        said: Json = {"mode": _NAMES[choice.mode], **({"allowedFunctionNames": choice.tools} if choice.tools else {})}
        return {**said, **choice.extra}
    lose_all(report, "tool_choice", choice.extra)
    said = {"mode": _NAMES[choice.mode]}
    if choice.tools and choice.mode != "none":
        said["allowedFunctionNames"] = choice.tools
    if choice.mode == "auto" and (choice.tools or strict):
        said["mode"] = "VALIDATED"  # AUTO knows neither names nor schemas
        if choice.tools:
            report.map("tool_choice.tools")
    return said
