"""The spoke of Cohere's v2 chat, which only upstreams speak: requests are written, answers are read (`answer`).

What a model says before its calls is their `tool_plan`, both ways. Cohere names no tool in a choice: only those that may be
called are offered then. It has no signatures, so thoughts that another provider signed are left out.
"""

from typing import Any, Final

import orjson

from sidecar.wire.members import Json
from sidecar.wire.neutral import (
    EFFORT_TOKENS,
    AnyPart,
    Media,
    Message,
    Output,
    Reasoning,
    Refusal,
    Report,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from sidecar.wire.saying import arguments_of
from sidecar.wire.spoke import Spoke, lose_all, lose_asked
from sidecar.wire.spokes.cohere.answer import CohereReader, read_problem, read_response

_NOTHING: Json = {"type": "object", "properties": {}}  # parameters are required
_FREE_TEXT: Json = {"type": "object", "properties": {"arguments": {"type": "string"}}, "required": ["arguments"]}
_MAX_STOPS = 5
_RANGES = (  # neutral name, Cohere's, smallest, largest, the value that says nothing
    ("temperature", "temperature", 0, 1, None),
    ("top_p", "p", 0.01, 0.99, 1),
    ("top_k", "k", 0, 500, 0),
    ("frequency_penalty", "frequency_penalty", 0, 1, 0),
    ("presence_penalty", "presence_penalty", 0, 1, 0),
)
_UNSAYABLE = (
    "logit_bias", "user", "metadata", "cache_key", "cache_retention", "safety_identifier", "store", "verbosity", "n",
)  # fmt: skip
_PLAIN_TIERS = (None, "auto", "default", "standard", "standard_only")


def write_request(request: Request, report: Report) -> Json:
    """The body that asks for it. Never raises on what a reader gave."""
    body: Json = {"model": request.model, "messages": []}
    documents: list[Json] = []
    for number, message in enumerate(request.messages):
        body["messages"] += _Turn(message, f"messages[{number}]", documents, report).messages()
    if documents:
        body["documents"] = documents
    if request.stream:
        body["stream"] = True
    body |= _tools(request, report) | _numbers(request, report)
    if request.output is not None:
        body["response_format"] = _output(request.output, report)
    thinking = None if request.reasoning is None else _thinking(request.reasoning, report)
    if thinking is not None:
        body["thinking"] = thinking
    _report_lost(request, report)
    return body


def _output(output: Output, report: Report) -> Json:
    """The name of a schema is only a label; what describes it stands in the schema."""
    lose_all(report, "output", output.extra)
    if output.schema is None:
        return {"type": "json_object"}
    schema = output.schema
    if output.description is not None:
        report.map("output.description")
        schema = {"description": output.description, **schema}
    return {"type": "json_object", "json_schema": schema}


def _report_lost(request: Request, report: Report) -> None:
    lose_all(report, "", request.extra)
    lose_asked(report, request, _UNSAYABLE)
    if request.service_tier not in _PLAIN_TIERS:
        report.lose("service_tier")
    if request.parallel_tools is False and request.tools:
        report.map("parallel_tools")  # `wire.one_call` keeps it


class _Turn:
    """One message, which may become several: results of tools are messages of their own and come first."""

    def __init__(self, message: Message, where: str, documents: list[Json], report: Report) -> None:
        self._message = message
        self._where = where
        self._documents = documents
        self._report = report
        self._content: list[Json] = []
        self._calls: list[Json] = []
        self._results: list[Json] = []

    def messages(self) -> list[Json]:
        """What Cohere is told; nothing where all of it was lost."""
        message, report = self._message, self._report
        lose_all(report, self._where, message.extra)
        if message.name is not None:
            report.lose(f"{self._where}.name")
        for number, part in enumerate(message.parts):
            self._part(part, f"{self._where}.parts[{number}]")
        if self._calls:
            return [*self._results, self._calling()]
        if self._results and not self._content:
            return self._results
        role = {"developer": "system", "tool": "user"}.get(message.role, message.role)
        return [*self._results, {"role": role, "content": _short(self._content)}] if self._content else self._results

    def _calling(self) -> Json:
        plan = "".join(one["text"] for one in self._content if one["type"] == "text")
        thoughts = [one for one in self._content if one["type"] == "thinking"]
        said: Json = {"role": "assistant", "tool_calls": self._calls}
        if plan:
            said["tool_plan"] = plan
        if thoughts:
            said["content"] = thoughts
        return said

    def _part(self, part: AnyPart, where: str) -> None:
        if part.cache is not None:
            self._report.map(f"{where}.cache")
        lose_all(self._report, where, part.extra)
        match part:
            case Text():
                if part.text:
                    self._content.append({"type": "text", "text": part.text})
            case Refusal():
                self._report.map(where)
                self._content.append({"type": "text", "text": part.text})
            case Thinking():
                self._thought(part, where)
            case Media():
                self._media(part, where)
            case ToolCall():
                self._call(part, where)
            case ToolResult():
                self._result(part, where)
            case _:
                self._report.lose(where)

    def _thought(self, part: Thinking, where: str) -> None:
        if part.signature is not None or part.redacted is not None:
            self._report.map(where)
        elif part.text:
            self._content.append({"type": "thinking", "thinking": part.text})

    def _media(self, part: Media, where: str) -> None:
        url = part.url
        if part.data is not None:
            url = f"data:{part.media_type or 'image/png'};base64,{part.data}"
        if part.text is not None:
            self._report.map(where)
            named = {} if part.name is None else {"title": part.name}
            self._documents.append({"data": {**named, "text": part.text}})
        elif part.kind == "image" and url is not None and self._message.role == "user":
            detail = {} if part.detail is None else {"detail": part.detail}
            self._content.append({"type": "image_url", "image_url": {"url": url, **detail}})
            if part.name is not None:
                self._report.map(f"{where}.name")  # a label: what it names is there
        else:
            self._report.lose(where)

    def _call(self, part: ToolCall, where: str) -> None:
        given, mapped = arguments_of(part)
        if mapped:
            self._report.map(f"{where}.arguments")
        if part.signature is not None:
            self._report.map(f"{where}.signature")  # only its maker wants it
        arguments = orjson.dumps(given).decode() if mapped else part.arguments or "{}"
        self._calls.append({"id": part.id, "type": "function", "function": {"name": part.name, "arguments": arguments}})

    def _result(self, part: ToolResult, where: str) -> None:
        """A failure has no word of its own: the text says it."""
        texts = []
        for number, one in enumerate(part.parts):
            inside = f"{where}.parts[{number}]"
            if isinstance(one, Text):
                texts.append({"type": "text", "text": one.text})
                lose_all(self._report, inside, one.extra)
                if one.cache is not None:
                    self._report.map(f"{inside}.cache")
            else:
                self._report.lose(inside)
        if part.failed:
            self._report.map(f"{where}.failed")
        self._results.append({"role": "tool", "tool_call_id": part.call_id, "content": _short(texts)})


def _short(content: list[Json]) -> Any:  # noqa: ANN401 - a text or a list of parts
    """One text stands alone."""
    if not content:
        return ""
    return content[0]["text"] if len(content) == 1 and content[0]["type"] == "text" else content


def _tools(request: Request, report: Report) -> Json:
    choice = request.tool_choice
    names = set(choice.tools) if choice is not None else set()
    tools, strict = list[Json](), list[bool]()
    for number, tool in enumerate(request.tools):
        if tool.opaque is not None:
            report.lose(f"tools[{number}]")
        elif not names or tool.name in names:
            strict.append(bool(tool.strict))
            tools.append(_tool(tool, f"tools[{number}]", report))
    said: Json = {"tools": tools} if tools else {}
    if any(strict):
        said["strict_tools"] = True  # of all or none
        if not all(strict):
            report.map("tools.strict")
    if choice is not None:
        lose_all(report, "tool_choice", choice.extra)
        if names:
            report.map("tool_choice.tools")
        said |= {"tool_choice": choice.mode.upper()} if choice.mode != "auto" else {}
    return said


def _tool(tool: Tool, where: str, report: Report) -> Json:
    if tool.cache is not None:
        report.map(f"{where}.cache")
    lose_all(report, where, tool.extra)
    if tool.custom:
        report.map(where)
    if tool.grammar is not None:
        report.lose(f"{where}.grammar")
    function: Json = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = _FREE_TEXT if tool.custom else _NOTHING if tool.parameters is None else tool.parameters
    return {"type": "function", "function": function}


def _numbers(request: Request, report: Report) -> Json:
    said: Json = {} if request.max_tokens is None else {"max_tokens": request.max_tokens}
    for name, ours, smallest, largest, neutral in _RANGES:
        value = getattr(request, name)
        if value is None or value == neutral:
            continue
        said[ours] = min(max(value, smallest), largest)
        if said[ours] != value:
            report.map(name)
    if request.stop:
        said["stop_sequences"] = request.stop[:_MAX_STOPS]
        for number in range(_MAX_STOPS, len(request.stop)):
            report.lose(f"stop[{number}]")
    if request.seed is not None and request.seed >= 0:
        said["seed"] = request.seed
    elif request.seed is not None:
        report.lose("seed")
    if request.logprobs is not None:
        said["logprobs"] = True
        if request.logprobs:
            report.lose("logprobs")  # the chosen tokens only
    return said


def _thinking(reasoning: Reasoning, report: Report) -> Json | None:
    """`thinking` with a budget; None: nothing was said of how much."""
    if reasoning.summary is not None:
        report.map("reasoning.summary")
    if reasoning.show is False:
        report.map("reasoning.show")
    budget = reasoning.budget_tokens
    if reasoning.effort is not None:
        report.map("reasoning.effort")
        budget = EFFORT_TOKENS[reasoning.effort] if budget is None else budget
    if budget is None:
        return {"type": "enabled"} if reasoning.adaptive else None
    return {"type": "enabled", "token_budget": budget} if budget else {"type": "disabled"}


SPOKE: Final = Spoke(
    format="cohere",
    framing="sse",
    write_request=write_request,
    read_response=read_response,
    stream_reader=CohereReader,
    read_problem=read_problem,
)
