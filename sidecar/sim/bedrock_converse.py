"""Bedrock's Converse as the simulated provider reads and writes it: JSON, or AWS's binary event stream.

Usage follows the real API: `inputTokens` excludes what the cache gave, the total has it. In a stream it comes last, in
`metadata`. A text has no contentBlockStart, a call has one; each event is padded with a member `p`, as the real ones are.
"""

from collections.abc import Mapping

import msgspec
import orjson

from sidecar.sim.ask import Ask, Refused, member, raw
from sidecar.sim.openai_chat import argument_pieces, grouped
from sidecar.sim.plan import Events, Manner
from sidecar.sim.speaker import Answer
from sidecar.wire.eventstream import frame

_PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_BLOCKED = "Sorry, the model cannot answer this question."


class _Message(msgspec.Struct):
    role: str
    content: list[dict[str, object]]


class _Converse(msgspec.Struct, rename="camel"):
    messages: list[_Message] = []
    system: list[dict[str, object]] | None = None
    inference_config: dict[str, object] | None = None
    tool_config: dict[str, object] | None = None
    output_config: dict[str, object] | None = None


def read_converse(body: bytes, model: str, *, stream: bool) -> Ask:
    """The request of a body; turns and results of tools must fit as the real service wants them.

    Raises:
        msgspec.DecodeError: not JSON; its subclass ValidationError: a wrong type.
        Refused: the real service would refuse it for what it says.
    """
    said = msgspec.json.decode(body, type=_Converse)
    _check_messages(said.messages)
    if said.tool_config is None and any(_of_tools(block) for turn in said.messages for block in turn.content):
        raise Refused("The toolConfig field must be defined when using toolUse and toolResult content blocks.")
    limit = member(said.inference_config, "maxTokens")
    chosen = member(member(said.tool_config, "toolChoice"), "tool")
    answered = any("toolResult" in block for block in said.messages[-1].content)
    return Ask(
        model=model,
        stream=stream,
        max_tokens=limit if isinstance(limit, int) else None,
        messages=raw([{"role": "tool" if answered else "user"}]),
        tools=raw(_tools(member(said.tool_config, "tools"))),
        tool_choice=raw(chosen),
        response_format=raw(_output(said.output_config)),
    )


def _check_messages(messages: list[_Message]) -> None:
    """The service's own rules: a user begins, roles alternate, each call is answered in the next turn."""
    if not messages or messages[0].role != "user":
        raise Refused("A conversation must start with a user message. Try again with a conversation that does so.")
    called: list[object] = []
    before = ""
    for at, message in enumerate(messages):
        if message.role not in ("user", "assistant") or message.role == before:
            raise Refused(f"The role at messages.{at} must alternate between user and assistant.")
        _check_blocks(message.content, f"messages.{at}.content")
        if sorted(map(str, called)) != sorted(map(str, _ids(message, "toolResult"))):
            raise Refused(f"The toolResult blocks at messages.{at}.content must match the toolUse blocks before them.")
        called = _ids(message, "toolUse")
        before = message.role


def _check_blocks(blocks: list[dict[str, object]], where: str) -> None:
    if not blocks:
        raise Refused(f"The field at {where} is empty.")
    for at, block in enumerate(blocks):
        if len(block) != 1:
            raise Refused(f"The content block at {where}.{at} must set exactly one member.")
        if block.get("text") == "":
            raise Refused(f"The text field in the ContentBlock object at {where}.{at} is blank.")
        if "toolUse" in block and not isinstance(member(block["toolUse"], "input"), Mapping):
            raise Refused(f"The format of the value at {where}.{at}.toolUse.input is invalid. Provide a json object.")


def _ids(message: _Message, kind: str) -> list[object]:
    return [member(block[kind], "toolUseId") for block in message.content if kind in block]


def _of_tools(block: dict[str, object]) -> bool:
    return "toolUse" in block or "toolResult" in block


def _tools(tools: object) -> list[object] | None:
    specs = [member(tool, "toolSpec") for tool in tools] if isinstance(tools, list) else []
    found: list[object] = [
        {"name": member(spec, "name"), "parameters": member(member(spec, "inputSchema"), "json")}
        for spec in specs
        if spec is not None
    ]
    return found or None


def _output(config: dict[str, object] | None) -> object:
    """The schema is JSON text inside the JSON."""
    shape = member(config, "textFormat")
    schema = member(member(member(shape, "structure"), "jsonSchema"), "schema")
    if not isinstance(schema, str):
        return None
    try:
        return {"type": "json_schema", "json_schema": {"schema": orjson.loads(schema)}}
    except orjson.JSONDecodeError:
        raise Refused("The value at outputConfig.textFormat.structure.jsonSchema.schema is not valid JSON.") from None


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def _malformed(answer: Answer) -> bool:
    return any(not arguments.startswith("{") for _, arguments in answer.calls)


def stop_reason(answer: Answer) -> str:
    """Bedrock's word for how the answer ended."""
    if answer.blocked:
        return "guardrail_intervened"
    if answer.filtered:
        return "content_filtered"
    if _malformed(answer):
        return "malformed_tool_use"
    return "max_tokens" if answer.cut else "tool_use" if answer.calls else "end_turn"


def usage_json(answer: Answer) -> str:
    """The usage object; the total has what was read from the cache."""
    members = (
        f'"inputTokens":{answer.input_tokens - answer.cached_tokens},"outputTokens":{answer.output_tokens},'
        f'"totalTokens":{answer.input_tokens + answer.output_tokens}'
    )
    return f'{{{members},"cacheReadInputTokens":{answer.cached_tokens},"cacheWriteInputTokens":0}}'


def _text(answer: Answer) -> list[str]:
    return [_BLOCKED] if answer.blocked else answer.pieces()


def converse_body(answer: Answer, manner: Manner) -> bytes:
    """A whole answer."""
    blocks: list[str] = []
    thought = answer.reasoning()
    if thought:
        said = f'{{"text":{_quoted("".join(thought))},"signature":"c2ln{answer.id}"}}'
        blocks.append(f'{{"reasoningContent":{{"reasoningText":{said}}}}}')
    for at, (name, arguments) in enumerate(answer.calls):
        given = arguments if arguments.startswith("{") else "{}"
        use = f'"toolUseId":"tooluse_{answer.call_id(at)}","name":{_quoted(name)},"input":{given}'
        blocks.append(f'{{"toolUse":{{{use}}}}}')
    if not answer.calls:
        blocks.append(f'{{"text":{_quoted("".join(_text(answer)))}}}')
    return (
        f'{{"metrics":{{"latencyMs":{manner.latency_ms}}},'
        f'"output":{{"message":{{"content":[{",".join(blocks)}],"role":"assistant"}}}},'
        f'"stopReason":"{stop_reason(answer)}","usage":{usage_json(answer)}}}'
    ).encode()


class _Blocks:
    """Writes frames, content blocks in order; what opens or closes one travels with the next token."""

    def __init__(self, answer: Answer) -> None:
        self._id = answer.id
        self._count = 0
        self.index = 0
        self.waiting = b""
        self.tokens: list[bytes] = []

    def event(self, kind: str, members: str) -> None:
        self._count += 1
        padding = _PADDING[: 1 + (self._count * 7) % len(_PADDING)]
        headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
        self.waiting += frame(headers, f'{{{members},"p":"{padding}"}}'.encode())

    def deltas(self, shape: str, pieces: list[str]) -> None:
        """One token per piece; `%s` in the shape is the piece."""
        for piece in pieces:
            self.delta(shape.replace("%s", _quoted(piece)))
            self.tokens.append(self.take())

    def delta(self, delta: str) -> None:
        self.event("contentBlockDelta", f'"contentBlockIndex":{self.index},"delta":{delta}')

    def close(self) -> None:
        self.event("contentBlockStop", f'"contentBlockIndex":{self.index}')
        self.index += 1

    def take(self) -> bytes:
        taken, self.waiting = self.waiting, b""
        return taken


def converse_events(answer: Answer, manner: Manner) -> Events:
    """A streamed answer: messageStart ... messageStop, metadata."""
    blocks = _Blocks(answer)
    blocks.event("messageStart", '"role":"assistant"')
    lead = blocks.take()
    thought = grouped(answer.reasoning(), manner.tokens_per_chunk)
    if thought:
        blocks.deltas('{"reasoningContent":{"text":%s}}', thought)
        blocks.delta(f'{{"reasoningContent":{{"signature":"c2ln{answer.id}"}}}}')
        blocks.close()
    for at, (name, arguments) in enumerate(answer.calls):
        use = f'{{"toolUse":{{"name":{_quoted(name)},"toolUseId":"tooluse_{answer.call_id(at)}"}}}}'
        blocks.event("contentBlockStart", f'"contentBlockIndex":{blocks.index},"start":{use}')
        blocks.deltas('{"toolUse":{"input":%s}}', argument_pieces(arguments, manner.tool_pieces))
        blocks.close()
    if not answer.calls:
        blocks.deltas('{"text":%s}', grouped(_text(answer), manner.tokens_per_chunk))
        blocks.close()
    blocks.event("messageStop", f'"stopReason":"{stop_reason(answer)}"')
    blocks.event("metadata", f'"metrics":{{"latencyMs":{manner.latency_ms}}},"usage":{usage_json(answer)}')
    return Events(lead, blocks.tokens, blocks.take())
