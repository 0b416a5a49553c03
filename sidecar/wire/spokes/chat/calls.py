"""OpenAI chat completions: tools, the choice among them, and calls of them, both ways.

Canonical form: `functions` and `function_call` of old clients are written as `tools`, `tool_choice` and `tool_calls`; one
allowed tool that is required is written as a forced one. Calls without an id get `call_<n>`, n counting from 0 in a body.
"""

from typing import Any, Final, Literal

import orjson

from sidecar.errors import TranslationError
from sidecar.wire.members import Members, wrong
from sidecar.wire.neutral import Json, Request, Tool, ToolCall, ToolChoice
from sidecar.wire.saying import Saying, tools_of
from sidecar.wire.spokes.chat.parts import take_cache, write_cache

_MODES: Final[dict[str, Literal["auto", "none", "required"]]] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
    "any": "required",  # Mistral
}


# ---- tools


def read_tool(item: Any, where: str) -> Tool:  # noqa: ANN401 - whatever JSON holds
    """One entry of `tools`; of a type that is not known here whole."""
    members = Members(item, where)
    kind = members.text("type") or "function"
    if kind == "function" and members.has("function"):
        return _read_function(members, item)
    if kind == "custom" and members.has("custom"):
        return _read_custom(members, item)
    return Tool(name=kind, opaque=item)


def _read_function(members: Members, item: Json) -> Tool:
    inner = members.object("function")
    assert inner is not None, "the caller has seen it"
    tool = read_function(inner)
    tool.cache = take_cache(members, item)
    tool.extra = with_inner(members, "function", inner)
    return tool


def read_function(inner: Members) -> Tool:
    """A function as `tools[].function` and the old `functions[]` spell it; extras are left to the caller."""
    return Tool(
        name=inner.needed_text("name"),
        description=inner.text("description"),
        parameters=inner.mapping("parameters"),
        strict=inner.flag("strict"),
    )


def _read_custom(members: Members, item: Json) -> Tool:
    inner = members.object("custom")
    assert inner is not None, "the caller has seen it"
    tool = Tool(name=inner.needed_text("name"), description=inner.text("description"), custom=True)
    form = inner.mapping("format")
    if form is not None and form != {"type": "text"}:
        if form.keys() == {"type", "grammar"} and form["type"] == "grammar" and isinstance(form["grammar"], dict):
            tool.grammar = form["grammar"]
        else:
            inner.keep("format", form)
    tool.cache = take_cache(members, item)
    tool.extra = with_inner(members, "custom", inner)
    return tool


def with_inner(members: Members, name: str, inner: Members) -> Json:
    """What nobody took of an object and of the one in it."""
    extra, rest = members.rest(), inner.rest()
    if rest:
        extra[name] = rest
    return extra


def write_tools(request: Request, saying: Saying) -> list[Json]:
    """The member `tools`."""
    return tools_of(request, saying, _write_tool)


def _write_tool(tool: Tool, where: str, saying: Saying) -> Json:
    kind = "custom" if tool.custom else "function"
    inner: Json = {"name": tool.name}
    if tool.description is not None:
        inner["description"] = tool.description
    if tool.custom and tool.grammar is not None:
        inner["format"] = {"type": "grammar", "grammar": tool.grammar}
    if not tool.custom and tool.parameters is not None:
        inner["parameters"] = tool.parameters
    if not tool.custom and tool.strict is not None:
        inner["strict"] = tool.strict
    return put_back(
        {"type": kind, kind: inner, **write_cache(tool.cache, where, saying)}, kind, tool.extra, where, saying
    )


def put_back(said: Json, kind: str, extra: Json, where: str, saying: Saying) -> Json:
    """`said` with the extras of an object and of the one in it called `kind`."""
    if extra:
        kept = saying.kept(extra, where)
        inner = {**said[kind], **kept.get(kind, {})}
        said.update(kept)
        said[kind] = inner
    return said


# ---- the choice


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
    allowed = value.get("allowed_tools")
    if value.keys() != {"type", "allowed_tools"} or not isinstance(allowed, dict):
        return None
    mode, tools = allowed.get("mode"), allowed.get("tools")
    if allowed.keys() != {"mode", "tools"} or mode not in ("auto", "required") or not isinstance(tools, list):
        return None
    names = [found for tool in tools if (found := _named(tool)) is not None]
    if not names or len(names) != len(tools):
        return None
    return ToolChoice(mode=_MODES[mode], tools=names)


def _named(value: Any) -> str | None:  # noqa: ANN401 - whatever JSON holds
    """The name in {"type": "function", "function": {"name": ...}}, or the same with custom."""
    if not isinstance(value, dict) or value.get("type") not in ("function", "custom"):
        return None
    kind = value["type"]
    inner = value.get(kind)
    if value.keys() != {"type", kind} or not isinstance(inner, dict) or inner.keys() != {"name"}:
        return None
    return inner["name"] if isinstance(inner["name"], str) else None


def write_choice(choice: ToolChoice, request: Request) -> str | Json:
    """The member `tool_choice`."""
    if not choice.tools or choice.mode == "none":
        return choice.mode
    custom = {tool.name for tool in request.tools if tool.custom}
    kinds = [(name, "custom" if name in custom else "function") for name in choice.tools]
    named: list[Json] = [{"type": kind, kind: {"name": name}} for name, kind in kinds]
    if choice.mode == "required" and len(named) == 1:
        return named[0]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": named}}


# ---- calls


def read_call(item: Any, where: str, spare_id: str) -> ToolCall | None:  # noqa: ANN401 - whatever JSON holds
    """One entry of `tool_calls`; None: of a type that is not known here."""
    members = Members(item, where)
    kind = members.text("type") or "function"
    if kind not in ("function", "custom"):
        return None
    inner = members.object(kind)
    if inner is None:
        wrong(members.at(kind), "an object", None)
    call = ToolCall(
        id=members.text("id") or spare_id,
        name=inner.needed_text("name"),
        arguments=arguments_of(inner.any("input" if kind == "custom" else "arguments"), inner.at("arguments")),
        custom=kind == "custom",
        signature=take_signature(members),
    )
    members.any("index")  # of a stream, which some servers also write here
    call.extra = with_inner(members, kind, inner)
    return call


def arguments_of(value: Any, where: str) -> str:  # noqa: ANN401 - whatever JSON holds
    """Arguments as text; Ollama's own spelling has an object there."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if not isinstance(value, dict):
        wrong(where, "a string", value)
    return orjson.dumps(value).decode()


def take_signature(members: Members) -> str | None:
    """Gemini's signature of a call, where Google's own server puts it; nothing is taken where more stands there."""
    content = members.peek("extra_content")
    google = content.get("google") if isinstance(content, dict) and content.keys() == {"google"} else None
    if not isinstance(google, dict) or google.keys() != {"thought_signature"}:
        return None
    signature = google["thought_signature"]
    if not isinstance(signature, str):
        return None
    members.any("extra_content")
    return signature


def write_call(call: ToolCall, where: str, saying: Saying) -> Json:
    """One entry of `tool_calls`, whole."""
    kind = "custom" if call.custom else "function"
    inner = {"name": call.name, "input" if call.custom else "arguments": call.arguments}
    said: Json = {"id": call.id, "type": kind, kind: inner}
    if call.signature is not None:
        said["extra_content"] = signature_said(call.signature)
    said.update(write_cache(call.cache, where, saying))
    return put_back(said, kind, call.extra, where, saying)


def signature_said(signature: str) -> Json:
    """The member `extra_content` of a call."""
    return {"google": {"thought_signature": signature}}
