"""Requests of the Messages API: read into the neutral form and written from it. A count_tokens request is one without
`max_tokens`.

What it promises: see `messages`. Of another format's call, leading system messages become `system` and later ones join them
(every model of the API takes that; only some take them in place), results of tools that follow each other become one turn of
the user, and what is left without any block is not said. It does not know what models can, but for `thinking`.
"""

from typing import Any, Final

from sidecar.wire.members import Members, wrong
from sidecar.wire.neutral import Json, Message, Output, Report, Request, Role, Tool, ToolChoice
from sidecar.wire.spoke import lose_all
from sidecar.wire.spokes.messages.blocks import Blocks, plain
from sidecar.wire.spokes.messages.limits import write_limits
from sidecar.wire.spokes.messages.parts import common, content_parts
from sidecar.wire.spokes.messages.thinking import read_reasoning, write_own_thinking, write_thinking
from sidecar.wire.spokes.messages.tools import write_choice, write_tools

_THOUGHTS: Final = ("thinking", "redacted_thinking")
_ROLES: Final[dict[str, Role]] = {"user": "user", "assistant": "assistant", "system": "system"}


# ---- reading


def read_request(value: Json) -> Request:
    """The call. Raises TranslationError with a member's path where the API's own types do not allow it."""
    body = Members(value)
    request = Request(
        format="messages",
        model=body.needed_text("model"),
        messages=_read_messages(body),
        stream=body.flag("stream") or False,
        tools=[_read_tool(tool, f"tools[{number}]") for number, tool in enumerate(body.items("tools") or ())],
        max_tokens=body.integer("max_tokens"),
        temperature=body.number("temperature"),
        top_p=body.number("top_p"),
        top_k=body.integer("top_k"),
        stop=body.texts("stop_sequences") or [],
        service_tier=body.text("service_tier"),
    )
    _read_choice(body, request)
    config = body.object("output_config")
    request.reasoning, rests = read_reasoning(body, config)
    if config is not None:
        request.output, rest = _read_output(config)
        rests["output_config"] = rest | rests.get("output_config", {})
    metadata = body.object("metadata")
    if metadata is not None:
        request.user = metadata.text("user_id")
        rests["metadata"] = metadata.rest()
    request.extra = body.rest() | {name: rest for name, rest in rests.items() if rest}
    return request


def _read_messages(body: Members) -> list[Message]:
    messages = []
    system = body.any("system")
    if system is not None:
        messages.append(Message(role="system", parts=content_parts(system, "system")))
    given = body.items("messages")
    if given is None:
        wrong("messages", "a list", None)
    for number, value in enumerate(given):
        node = Members(value, f"messages[{number}]")
        role = _ROLES.get(node.needed_text("role"))
        if role is None:
            wrong(node.at("role"), "user, assistant or system", "")
        parts = content_parts(node.any("content"), node.at("content"))
        messages.append(Message(role=role, parts=parts, extra=node.rest()))
    return messages


def _read_tool(value: Any, where: str) -> Tool:  # noqa: ANN401 - any JSON
    """A tool of the client's own, or one that Anthropic runs or defines: that stays whole."""
    node = Members(value, where)
    kind = node.text("type")
    if kind not in (None, "custom"):
        name = node.text("name") or node.text("mcp_server_name") or kind
        return Tool(name=name or "", opaque=value)
    return Tool(
        name=node.needed_text("name"),
        description=node.text("description"),
        parameters=node.mapping("input_schema"),
        strict=node.flag("strict"),
        **common(node),
    )


def _read_choice(body: Members, request: Request) -> None:
    node = body.object("tool_choice")
    if node is None:
        return
    single = node.flag("disable_parallel_tool_use")
    if single is not None:
        request.parallel_tools = not single
    kind = node.needed_text("type")
    match kind:
        case "auto" | "none":
            request.tool_choice = ToolChoice(mode=kind)
        case "any":
            request.tool_choice = ToolChoice(mode="required")
        case "tool":
            request.tool_choice = ToolChoice(mode="required", tools=[node.needed_text("name")])
        case _:
            wrong(node.at("type"), "auto, any, tool or none", "")
    request.tool_choice.extra = node.rest()


def _read_output(config: Members) -> tuple[Output | None, Json]:
    """The schema that the answer must fit, and what else stands there: also a form of answer that is not known."""
    said = config.any("format")
    rest = config.rest()
    if said is None:
        return None, rest
    node = Members(said, config.at("format"))
    if node.needed_text("type") != "json_schema":
        return None, rest | {"format": said}
    return Output(schema=node.mapping("schema") or {}, extra=node.rest()), rest


# ---- writing


def write_request(request: Request, report: Report) -> Json:
    """The body. What was changed or cannot be said is told to `report`; equal calls give equal bodies."""
    own = request.format == "messages"
    blocks = Blocks(request.format, report, answer=False)
    turns = _Turns(blocks, report)
    for number, message in enumerate(request.messages):
        turns.add(message, f"messages[{number}]")
    body: Json = {"model": request.model, "messages": turns.turns}
    _write_system(body, turns, own=own, report=report)
    if request.stream:
        body["stream"] = True
    tools = write_tools(request, report)
    if tools:
        body["tools"] = tools
    choice = write_choice(request, report)
    if choice is not None and (tools or own):
        body["tool_choice"] = choice
    if own:
        _write_own(body, request)
        write_own_thinking(body, request, report, unsigned=blocks.dropped and turns.unsigned)
        _put(body, request.extra)
        return body
    write_limits(body, request, report)
    write_thinking(body, request, report, unsigned=turns.unsigned)
    return body


def _write_own(body: Json, request: Request) -> None:
    """The members that are the same in the neutral form, as they were."""
    for name in ("max_tokens", "temperature", "top_p", "top_k", "service_tier"):
        value = getattr(request, name)
        if value is not None:
            body[name] = value
    if request.stop:
        body["stop_sequences"] = request.stop
    if request.user is not None:
        body["metadata"] = {"user_id": request.user}
    if request.output is not None:
        form = {"type": "json_schema", "schema": request.output.schema, **request.output.extra}
        body["output_config"] = {"format": form}


def _put(body: Json, extra: Json) -> None:
    """Puts back what had no neutral form, also beside members that had one."""
    for name, value in extra.items():
        there = body.get(name)
        body[name] = there | value if isinstance(there, dict) and isinstance(value, dict) else value


class _Turns:
    """Gathers the turns of a conversation."""

    def __init__(self, blocks: Blocks, report: Report) -> None:
        self.turns: list[Json] = []
        self.system: list[Json] = []
        self.unsigned = False  # the last turn of the assistant calls tools, and does not begin with its thoughts
        self._blocks = blocks
        self._report = report
        self._results = False  # the last turn holds results of tools, from messages of their own

    def add(self, message: Message, where: str) -> None:
        """The next message, at this path."""
        own = self._blocks.own
        if not own:
            if message.name is not None:
                self._report.lose(f"{where}.name")
            lose_all(self._report, where, message.extra)
        if message.role in ("system", "developer") and not (own and (self.turns or message.extra)):
            self._instruct(message, where)
            return
        content = self._blocks.of(message.parts, f"{where}.content", media=message.role != "assistant")
        if not content and not own:
            self._report.map(where)  # every part was lost or empty, and the API takes no empty turn
            return
        if message.role == "tool" and self._results:
            self.turns[-1]["content"] += content
            return
        self._results = message.role == "tool"
        if self._results:
            self.turns.append({"role": "user", "content": content})
            return
        if not own and message.role == "user":
            self._results_first(content, where)
        self.turns.append({"role": message.role, "content": plain(content), **(message.extra if own else {})})
        if message.role == "assistant":
            called = any(block["type"] == "tool_use" for block in content)
            self.unsigned = called and content[0]["type"] not in _THOUGHTS

    def _instruct(self, message: Message, where: str) -> None:
        """A system message goes to `system`, wherever it stood."""
        if self.turns:
            self._report.map(where)
        for number, part in enumerate(message.parts):
            at = f"{where}.content[{number}]"
            block = self._blocks.block(part, at)
            if block is not None and block["type"] != "text" and not self._blocks.own:
                self._report.lose(at)
            elif block is not None:
                self.system.append(block)

    def _results_first(self, content: list[Json], where: str) -> None:
        """The API wants results of tools before anything else in a turn."""
        ordered = sorted(content, key=lambda block: block["type"] != "tool_result")
        if ordered != content:
            self._report.map(f"{where}.content")
            content[:] = ordered


def _write_system(body: Json, turns: _Turns, *, own: bool, report: Report) -> None:
    if not turns.system:
        return
    if turns.turns or own:
        body["system"] = plain(turns.system)
        return
    report.map("messages")  # the API wants a turn of the user: instructions alone are one
    body["messages"] = [{"role": "user", "content": plain(turns.system)}]
