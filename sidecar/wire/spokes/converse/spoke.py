"""The spoke of AWS Bedrock's Converse and ConverseStream, which only upstreams speak: requests are written, answers are read
(`answer`, `stream`). The model, and whether the answer is a stream, stand in the path and not in the body.

What it promises of a request: turns of user and assistant alternate, as the service demands. Messages of one role that
follow each other are one turn; results of tools are the beginning of a user's turn. A conversation begins with the user:
what the assistant says before is lost, and so are results without their calls. Leading system messages become `system`,
later ones join them. A turn with a document and no text is given the document's name as its text. What is only joined
needs no report.

Reference: Amazon Bedrock API reference, "Converse" and "ConverseStream"; the service model that AWS's SDKs are made of.
"""

from typing import Final

from msgspec import Struct, field

from sidecar.wire.neutral import Json, Message, Report, Request, Text, ToolCall, ToolResult
from sidecar.wire.spoke import Spoke, lose_all
from sidecar.wire.spokes.converse.answer import read_problem, read_response
from sidecar.wire.spokes.converse.blocks import Blocks
from sidecar.wire.spokes.converse.config import write_limits, write_tools
from sidecar.wire.spokes.converse.stream import Reader
from sidecar.wire.spokes.converse.thinking import write_thinking


def write_request(request: Request, report: Report) -> Json:
    """The body that asks for it. Never raises on what a reader gave; equal calls give equal bodies."""
    blocks = Blocks(request, report)
    talk = _Talk(blocks, report)
    for number, message in enumerate(request.messages):
        talk.add(message, f"messages[{number}]")
    body: Json = talk.said()
    write_tools(body, request, blocks, talk.called, report)
    write_limits(body, request, report)
    write_thinking(body, request, report, unsigned=talk.unsigned())
    for name in ("inferenceConfig", "additionalModelRequestFields"):
        if name in body and not body[name]:
            del body[name]
    return body


class _Turn(Struct):
    """One turn, from one or more messages; `results` come before its other blocks."""

    role: str
    where: str
    results: list[Json] = field(default_factory=list)
    blocks: list[Json] = field(default_factory=list)


class _Talk:
    """Gathers the turns of a conversation."""

    def __init__(self, blocks: Blocks, report: Report) -> None:
        self.called: list[str] = []  # the tools, by name
        self._calls: set[str] = set()  # by id
        self._turns: list[_Turn] = []
        self._system: list[Json] = []
        self._blocks = blocks
        self._report = report

    def add(self, message: Message, where: str) -> None:
        """The next message, at this path."""
        if message.name is not None:
            self._report.lose(f"{where}.name")
        lose_all(self._report, where, message.extra)
        if message.role in ("system", "developer"):
            self._instruct(message, where)
            return
        role = "assistant" if message.role == "assistant" else "user"
        if role == "assistant" and not self._turns:
            self._report.lose(where)
            return
        turn = self._turns[-1] if self._turns and self._turns[-1].role == role else _Turn(role, where)
        self._fill(turn, message, where)
        if not turn.results and not turn.blocks:
            self._report.map(where)  # every part was lost or empty, and the service takes no empty turn
        elif not self._turns or turn is not self._turns[-1]:
            self._turns.append(turn)

    def _fill(self, turn: _Turn, message: Message, where: str) -> None:
        for number, part in enumerate(message.parts):
            at = f"{where}.content[{number}]"
            if isinstance(part, ToolResult) and part.call_id not in self._calls:
                self._report.lose(at)
                continue
            said = self._blocks.of(part, at, media=turn.role == "user")
            if isinstance(part, ToolCall):
                self.called.append(part.name)
                self._calls.add(part.id)
            if not isinstance(part, ToolResult):
                turn.blocks += said
                continue
            if turn.blocks:
                self._report.map(at)
            turn.results += said

    def _instruct(self, message: Message, where: str) -> None:
        """A system message goes to `system`, wherever it stood."""
        if self._turns:
            self._report.map(where)
        for number, part in enumerate(message.parts):
            at = f"{where}.content[{number}]"
            if isinstance(part, Text):
                self._system += self._blocks.of(part, at, media=False)
            else:
                self._report.lose(at)

    def unsigned(self) -> bool:
        """Whether the assistant's last turn calls tools, and does not begin with its thoughts."""
        last = next((turn.blocks for turn in reversed(self._turns) if turn.role == "assistant"), [])
        return any("toolUse" in block for block in last) and "reasoningContent" not in last[0]

    def said(self) -> Json:
        """`messages` and `system`."""
        turns = [{"role": turn.role, "content": self._content(turn)} for turn in self._turns]
        if turns or not self._system:
            return {"messages": turns} | ({"system": self._system} if self._system else {})
        self._report.map("messages")  # the service wants a turn of the user: instructions alone are one
        return {"messages": [{"role": "user", "content": self._system}]}

    def _content(self, turn: _Turn) -> list[Json]:
        content = turn.results + turn.blocks
        if any("text" in block for block in content):
            return content
        document = next((block["document"] for block in content if "document" in block), None)
        if document is None:
            return content
        self._report.map(turn.where)  # the service takes no document without a text beside it
        return [*content, {"text": document["name"]}]


SPOKE: Final = Spoke(
    format="converse",
    framing="eventstream",
    write_request=write_request,
    read_response=read_response,
    stream_reader=Reader,
    read_problem=read_problem,
)
