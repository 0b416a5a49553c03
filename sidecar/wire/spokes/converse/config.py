"""Writes the members of a call that are not its messages: tools, the answer's length and sampling, its form, its service.

**Tools.** A choice among some of them is said by offering only those. "None" is said by offering none; but once calls stand
in the conversation the service wants tools to be there, and then that choice is lost. For the same reason tools that were
called, and are not offered any more, are named without a schema.

top_k is a matter of the model's maker (`additionalModelRequestFields`), and is said to Anthropic's models only.

What the service does not have is lost where it was asked for: a penalty of 0, one answer, or `store: false` asks for
nothing.
"""

import re
from typing import Final

import orjson

from sidecar.wire.neutral import Json, Output, Report, Request, Tool
from sidecar.wire.saying import closed
from sidecar.wire.spoke import lose_all, lose_asked
from sidecar.wire.spokes.converse.blocks import Blocks, makes_claude

_NOTHING: Final[Json] = {"type": "object", "properties": {}}  # the schema of a tool that takes nothing
_TIERS: Final = ("priority", "flex", "reserved")
_PLAIN_TIERS: Final = (None, "auto", "default", "standard", "standard_only")
_MAX_METADATA: Final = 16
_METADATA: Final = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,.-]{0,256}")
_UNSAYABLE: Final = (
    "n", "frequency_penalty", "presence_penalty", "seed", "logprobs", "logit_bias", "cache_key", "cache_retention",
    "store", "verbosity",
)  # fmt: skip


# ---- tools


def write_tools(body: Json, request: Request, blocks: Blocks, called: list[str], report: Report) -> None:
    """`toolConfig`. `called`: the names of the tools whose calls stand in the conversation."""
    choice = request.tool_choice
    mode, names = ("auto", []) if choice is None else (choice.mode, choice.tools)
    if choice is not None:
        lose_all(report, "tool_choice", choice.extra)
    forced = mode == "required" and len(names) == 1
    offered = set(names) if names and not forced else None
    tools = _tools(request, blocks, offered, report)
    if offered is not None:
        report.map("tool_choice.tools")
    if mode == "none" and tools:
        if called:
            report.lose("tool_choice")
        else:
            report.map("tool_choice")
            tools = []
    if called and not tools:
        report.map("tools")
        tools = [_spec(Tool(name=name)) for name in dict.fromkeys(called)]
    if not tools:
        return
    body["toolConfig"] = {"tools": tools}
    if mode == "required":
        body["toolConfig"]["toolChoice"] = {"tool": {"name": names[0]}} if forced else {"any": {}}
    if request.parallel_tools is False:
        report.map("parallel_tools")  # `wire.one_call` keeps it


def _tools(request: Request, blocks: Blocks, offered: set[str] | None, report: Report) -> list[Json]:
    """The definitions that may be called, in order. Tools of a provider's own, or that take free text, cannot be said."""
    tools: list[Json] = []
    for number, tool in enumerate(request.tools):
        at = f"tools[{number}]"
        if tool.opaque is not None or tool.custom:
            report.lose(at)
        elif offered is None or tool.name in offered:
            lose_all(report, at, tool.extra)
            tools.append(_spec(tool))
            if tool.cache is not None:
                tools += blocks.mark(tool.cache, at)
    return tools


def _spec(tool: Tool) -> Json:
    schema = _NOTHING if tool.parameters is None else tool.parameters
    said: Json = {"name": tool.name}
    if tool.description:
        said["description"] = tool.description
    said["inputSchema"] = {"json": schema if "type" in schema else {"type": "object", **schema}}
    if tool.strict is not None:
        said["strict"] = tool.strict
    return {"toolSpec": said}


# ---- the answer


def write_limits(body: Json, request: Request, report: Report) -> None:
    """Length, sampling, form, service and labels; what cannot be said of these is lost."""
    claude = makes_claude(request.model)
    body["inferenceConfig"] = _sampling(request, report) | _stops(body, request, report, claude=claude)
    if request.top_k is not None and claude:
        body["additionalModelRequestFields"] = {"top_k": request.top_k}
    elif request.top_k is not None:
        report.lose("top_k")
    if request.output is not None:
        _write_output(body, request.output, report)
    if request.service_tier in _TIERS:
        body["serviceTier"] = {"type": request.service_tier}
    elif request.service_tier not in _PLAIN_TIERS:
        report.lose("service_tier")
    _write_metadata(body, request, report)
    _lose_rest(request, report)


def _sampling(request: Request, report: Report) -> Json:
    config: Json = {} if request.max_tokens is None else {"maxTokens": request.max_tokens}
    for name, ours in (("temperature", "temperature"), ("top_p", "topP")):
        value = getattr(request, name)
        if value is not None:
            config[ours] = min(max(value, 0), 1)
            if config[ours] != value:
                report.map(name)
    return config


def _stops(body: Json, request: Request, report: Report, *, claude: bool) -> Json:
    """The service refuses an empty one, Anthropic's models one of white space alone."""
    stops = [text for text in request.stop if (text.strip() if claude else text)]
    kept = set(stops)
    for number, text in enumerate(request.stop):
        if text not in kept:
            report.lose(f"stop[{number}]")
    if stops and claude:  # the answer then says which of them it was
        body["additionalModelResponseFieldPaths"] = ["/stop_sequence"]
    return {"stopSequences": stops} if stops else {}


def _write_output(body: Json, output: Output, report: Report) -> None:
    """A schema is exact, as JSON text; any JSON at all is nothing that the service can be asked for."""
    lose_all(report, "output", output.extra)
    try:
        orjson.dumps(output.schema)
    except TypeError:  # nested too deeply to be written
        report.lose("output")
        return
    if output.schema is None:
        report.lose("output")
        return
    schema: Json = {"schema": orjson.dumps(closed(output.schema)).decode()}
    schema |= {"name": output.name} if output.name else {}
    schema |= {"description": output.description} if output.description else {}
    body["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}


def _write_metadata(body: Json, request: Request, report: Report) -> None:
    """Labels of the call's record. The service has no place for an end user: a label says it."""
    labels: dict[str, str] = {}
    given = request.metadata or {}
    for name, value in given.items():
        if name and len(labels) < _MAX_METADATA and _METADATA.fullmatch(name) and _METADATA.fullmatch(value):
            labels[name] = value
        else:
            report.lose(f"metadata.{name}")
    for member in ("user", "safety_identifier"):
        value = getattr(request, member)
        if not value:
            continue
        if len(labels) < _MAX_METADATA and member not in given and _METADATA.fullmatch(value):
            labels[member] = value
            report.map(member)
        else:
            report.lose(member)
    if labels:
        body["requestMetadata"] = labels


def _lose_rest(request: Request, report: Report) -> None:
    lose_asked(report, request, _UNSAYABLE)
    lose_all(report, "", request.extra)
