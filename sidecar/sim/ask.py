"""What a request asks of a simulated model, whatever the dialect: limits, tools, the form of the output.

OpenAI's and Anthropic's requests are read into an `Ask` as they are (`read_ask`); the other dialects' readers build the same
value in OpenAI's words. `Refused` is how a reader says that the real service would answer 400.
"""

from collections.abc import Callable, Mapping

import msgspec
import orjson
from msgspec import Raw, Struct


class Refused(Exception):
    """The real service would refuse this request; the message is what it would say."""


class Ask(Struct):
    """The members of a request that change the answer; all dialects in one."""

    model: str = ""
    stream: bool | None = None
    stream_options: dict[str, object] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    messages: Raw = Raw()
    input: Raw = Raw()
    prompt: Raw = Raw()
    tools: Raw = Raw()
    tool_choice: Raw = Raw()
    parallel_tool_calls: bool | None = None
    response_format: Raw = Raw()
    text: Raw = Raw()
    output_format: Raw = Raw()
    output_config: Raw = Raw()
    encoding_format: str | None = None
    dimensions: int | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens that the answer may have."""
        return self.max_tokens or self.max_completion_tokens or self.max_output_tokens

    @property
    def structured(self) -> bool:
        """Whether tools or a form of output may be asked for."""
        return bool(self.tools or self.response_format or self.text or self.output_format or self.output_config)


read_ask = msgspec.json.Decoder(Ask).decode


def raw(value: object) -> Raw:
    """A value of plain JSON types as `Ask` keeps it; nothing for None."""
    return Raw() if value is None else Raw(orjson.dumps(value))


def callable_tools(ask: Ask) -> list[tuple[str, object]]:
    """Name and argument schema of the tools that may be called; empty when none may be or a tool has already answered.

    Where the request names one, it is that one alone.
    """
    tools = _load(ask.tools)
    choice = _load(ask.tool_choice)
    forbidden = choice in ("none", "NONE") or member(choice, "type") == "none"
    if not isinstance(tools, list) or forbidden or _tool_answered(ask):
        return []
    wanted = member(choice, "name") or member(member(choice, "function"), "name")
    found: list[tuple[str, object]] = []
    for tool in tools:
        function = member(tool, "function") or tool
        name = member(function, "name")
        if isinstance(name, str) and wanted in (None, name):
            found.append((name, member(function, "parameters") or member(function, "input_schema") or {}))
    return found


def one_call_only(ask: Ask) -> bool:
    """Whether the request forbids several calls at once, in OpenAI's or Anthropic's words."""
    return ask.parallel_tool_calls is False or member(_load(ask.tool_choice), "disable_parallel_tool_use") is True


def output_schema(ask: Ask) -> object:
    """The JSON schema that the answer's text must satisfy; None when plain text is asked for."""
    shapes: tuple[Callable[[], object], ...] = (
        lambda: _load(ask.response_format),
        lambda: member(_load(ask.text), "format"),
        lambda: _load(ask.output_format),
        lambda: member(_load(ask.output_config), "format"),
    )
    for shape in (read() for read in shapes):
        match member(shape, "type"):
            case "json_schema":
                return member(member(shape, "json_schema"), "schema") or member(shape, "schema") or {}
            case "json_object":
                return {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
            case _:
                continue
    return None


def _tool_answered(ask: Ask) -> bool:
    messages = _load(ask.messages) or _load(ask.input)
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = member(last, "content")
    first = content[0] if isinstance(content, list) and content else None
    return (
        member(last, "role") == "tool"
        or member(last, "type") == "function_call_output"
        or member(first, "type") == "tool_result"
    )


def _load(value: Raw) -> object:
    loaded: object = orjson.loads(bytes(value)) if value else None
    return loaded


def member(value: object, key: str) -> object:
    """A member of an object; None where it is none or has none."""
    return value.get(key) if isinstance(value, Mapping) else None
