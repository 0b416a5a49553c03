"""Cohere's v2 chat as the simulated provider reads and writes it, whole and streamed (message-start ... message-end).

Usage follows the real API: `billed_units` is what is paid for, `tokens` also counts the template around the messages, and
`cached_tokens` is a part of the prompt. Thinking counts as output. The index runs over contents and calls together.
"""

from collections.abc import Mapping

import msgspec
import orjson

from sidecar.sim.ask import Ask, Refused, raw
from sidecar.sim.openai_chat import argument_pieces, grouped
from sidecar.sim.plan import Events, Manner
from sidecar.sim.speaker import Answer

_TEMPLATE_TOKENS = 66  # of `tokens.input_tokens`, never billed
_PLAN = "I will call the tools that the request gives."
_MEMBER_NAMES = (
    "model messages stream tools strict_tools documents citation_options response_format safety_mode max_tokens "
    "stop_sequences temperature seed frequency_penalty presence_penalty k p logprobs tool_choice thinking priority"
)
_MEMBERS = frozenset(_MEMBER_NAMES.split())


class _Chat(msgspec.Struct):
    model: str = ""
    stream: bool | None = None
    messages: list[dict[str, object]] = []
    tools: list[dict[str, object]] | None = None
    tool_choice: str | None = None
    max_tokens: int | None = None
    response_format: dict[str, object] | None = None


def read_chat(body: bytes) -> Ask:
    """The request of a body; unknown members and results without their calls are refused as the real API does.

    Raises:
        msgspec.DecodeError: not JSON; its subclass ValidationError: a wrong type.
        Refused: the real service would refuse it for what it says.
    """
    tree = msgspec.json.decode(body)
    said = msgspec.convert(tree, _Chat)
    for name in tree:
        if name not in _MEMBERS:
            raise Refused(f"invalid request: unknown field: parameter '{name}' is not a valid field")
    if not said.model:
        raise Refused("invalid request: model is required")
    if not said.messages:
        raise Refused("invalid request: messages must not be empty")
    if said.tool_choice not in (None, "REQUIRED", "NONE"):
        raise Refused("invalid request: tool_choice must be one of REQUIRED, NONE")
    _check_results(said.messages)
    shape = said.response_format or {}
    schema = shape.get("json_schema") or shape.get("schema")
    if shape.get("type") == "json_object" and schema is not None:
        shape = {"type": "json_schema", "json_schema": {"schema": schema}}
    return Ask(
        model=said.model,
        stream=said.stream,
        max_tokens=said.max_tokens,
        messages=raw(said.messages[-1:]),
        tools=raw(said.tools),
        tool_choice=raw(said.tool_choice),
        response_format=raw(shape),
    )


def _check_results(messages: list[dict[str, object]]) -> None:
    """Roles are known, and each tool message answers a call of the assistant before it."""
    called: set[object] = set()
    for message in messages:
        role = message.get("role")
        if role not in ("user", "assistant", "system", "developer", "tool"):
            raise Refused(f"invalid request: unknown role '{role}'")
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            called.update(call.get("id") for call in calls if isinstance(call, Mapping))
        if role == "tool" and message.get("tool_call_id") not in called:
            raise Refused("invalid request: tool_call_id of a tool message must match a previous tool call")


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def finish_reason(answer: Answer) -> str:
    """Cohere's word for how the answer ended."""
    if answer.filtered or answer.blocked:
        return "ERROR"
    return "MAX_TOKENS" if answer.cut else "TOOL_CALL" if answer.calls else "COMPLETE"


def usage_json(answer: Answer) -> str:
    """The usage object."""
    return (
        f'{{"billed_units":{{"input_tokens":{answer.input_tokens},"output_tokens":{answer.output_tokens}}},'
        f'"tokens":{{"input_tokens":{answer.input_tokens + _TEMPLATE_TOKENS},"output_tokens":{answer.output_tokens}}},'
        f'"cached_tokens":{answer.cached_tokens}}}'
    )


def _number(answer: Answer) -> str:
    """A UUID, as the real ids are."""
    text = f"{answer.id:0<32}"
    return f"{text[-8:]}-{text[:4]}-4{text[4:7]}-8{text[7:10]}-{text[10:22]}"


def _call(answer: Answer, at: int, arguments: str) -> str:
    name = answer.calls[at][0]
    return (
        f'{{"id":"{name}_{answer.call_id(at, 12)}","type":"function",'
        f'"function":{{"name":{_quoted(name)},"arguments":{_quoted(arguments)}}}}}'
    )


def chat_body(answer: Answer, _manner: Manner) -> bytes:
    """A whole answer."""
    thought = answer.reasoning()
    content = [f'{{"type":"thinking","thinking":{_quoted("".join(thought))}}}'] if thought else []
    members = '"role":"assistant"'
    if answer.calls:
        calls = ",".join(_call(answer, at, arguments) for at, (_, arguments) in enumerate(answer.calls))
        members += f',"tool_plan":{_quoted(_PLAN)},"tool_calls":[{calls}]'
    elif not answer.blocked:
        content.append(f'{{"type":"text","text":{_quoted(answer.text())}}}')
    if content:
        members += f',"content":[{",".join(content)}]'
    return (
        f'{{"id":"{_number(answer)}","message":{{{members}}},"finish_reason":"{finish_reason(answer)}",'
        f'"usage":{usage_json(answer)}}}'
    ).encode()


class _Writer:
    """Writes events; what opens or closes a content travels with the next token."""

    def __init__(self) -> None:
        self.waiting = ""
        self.index = -1
        self.tokens: list[str] = []

    def event(self, kind: str, members: str) -> None:
        self.waiting += f'event: {kind}\ndata: {{"type":"{kind}"{members}}}\n\n'

    def begin(self, kind: str, message: str) -> None:
        self.index += 1
        self.event(kind, f',"index":{self.index},"delta":{{"message":{message}}}')

    def end(self, kind: str) -> None:
        self.event(kind, f',"index":{self.index}')

    def token(self, kind: str, message: str, *, indexed: bool = True) -> None:
        place = f'"index":{self.index},' if indexed else ""
        self.event(kind, f',{place}"delta":{{"message":{message}}}')
        self.tokens.append(self.take())

    def content(self, kind: str, pieces: list[str]) -> None:
        """One content block of a kind: thinking or text."""
        self.begin("content-start", f'{{"content":{{"type":"{kind}","{kind}":""}}}}')
        for piece in pieces:
            self.token("content-delta", f'{{"content":{{"{kind}":{_quoted(piece)}}}}}')
        self.end("content-end")

    def take(self) -> str:
        taken, self.waiting = self.waiting, ""
        return taken


def chat_events(answer: Answer, manner: Manner) -> Events:
    """A streamed answer. There is no `[DONE]`: message-end is the end."""
    writer = _Writer()
    message = '{"message":{"role":"assistant","content":[],"tool_plan":"","tool_calls":[],"citations":[]}}'
    writer.event("message-start", f',"id":"{_number(answer)}","delta":{message}')
    lead = writer.take()
    thought = answer.reasoning()
    if thought:
        writer.content("thinking", grouped(thought, manner.tokens_per_chunk))
    if answer.calls:
        for word in _PLAN.split(" "):
            writer.token("tool-plan-delta", f'{{"tool_plan":{_quoted(word + " ")}}}', indexed=False)
        _called(answer, writer, manner.tool_pieces)
    elif not answer.blocked:
        writer.content("text", grouped(answer.pieces(), manner.tokens_per_chunk))
    writer.event("message-end", f',"delta":{{"finish_reason":"{finish_reason(answer)}","usage":{usage_json(answer)}}}')
    return Events(lead.encode(), [token.encode() for token in writer.tokens], writer.take().encode())


def _called(answer: Answer, writer: _Writer, pieces: int) -> None:
    for at, (_, arguments) in enumerate(answer.calls):
        writer.begin("tool-call-start", f'{{"tool_calls":{_call(answer, at, "")}}}')
        for piece in argument_pieces(arguments, pieces):
            writer.token("tool-call-delta", f'{{"tool_calls":{{"function":{{"arguments":{_quoted(piece)}}}}}}}')
        writer.end("tool-call-end")
