"""OpenAI chat completions: requests, both ways.

Canonical form, besides that of `messages` and `calls`: null, `stream: false`, `tools: []` and
`response_format: {"type": "text"}` are absent; `stop` is a list; `logprobs: true` has no `top_logprobs: 0`; any JSON with a
schema (llama.cpp, Together) is `json_schema`; `stream_options` of a call that is no stream has no `include_usage`.

The limit of the answer is written as the client wrote it; that of another format as `max_tokens`, which every server of this
format knows (the one that wants `max_completion_tokens` has `limit_key` in `wire.providers`). `top_k` is read and kept, as
vLLM and llama.cpp have it, but OpenAI has not: from another format it is lost.

What it does not know: which members a server refuses (`wire.providers`).
"""

from typing import Final, get_args

import orjson

from sidecar.errors import TranslationError
from sidecar.wire.members import Members, is_number, wrong
from sidecar.wire.neutral import Effort, Json, Output, Reasoning, Report, Request, Tool, ToolChoice, effort_of
from sidecar.wire.saying import Saying
from sidecar.wire.spokes.chat.calls import read_choice, read_function, read_tool, write_choice, write_tools
from sidecar.wire.spokes.chat.messages import MessageReader, write_messages

_NUMBERS: Final = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
_WHOLE: Final = ("top_k", "seed", "n")
_TEXTS: Final = {
    "user": "user",
    "service_tier": "service_tier",
    "prompt_cache_key": "cache_key",
    "prompt_cache_retention": "cache_retention",
    "safety_identifier": "safety_identifier",
    "verbosity": "verbosity",
}
_HARMLESS: Final = (("modalities", (["text"],)),)  # what no other format needs to be told: it does so
_EFFORTS: Final = frozenset(get_args(Effort))
_MAX_TEMPERATURE: Final = 2


def read_request(body: Json) -> Request:
    """A client's call.

    Raises:
        TranslationError: a member has a wrong type, or a value that chat does not have; says where.
    """
    members = Members(body)
    items = members.items("messages")
    if items is None:
        wrong("messages", "a list", None)
    reader = MessageReader()
    plain: Json = {name: members.number(name) for name in _NUMBERS}
    plain.update((name, members.integer(name)) for name in _WHOLE)
    plain.update((name, members.text(said)) for said, name in _TEXTS.items())
    request = Request(
        format="chat",
        model=members.text("model") or "",
        messages=[reader.message(item, f"messages[{number}]") for number, item in enumerate(items)],
        stream=members.flag("stream") or False,
        parallel_tools=members.flag("parallel_tool_calls"),
        stop=_read_stop(members),
        logprobs=_read_logprobs(members),
        logit_bias=_read_bias(members),
        metadata=_read_metadata(members),
        output=_read_output(members),
        store=members.flag("store"),
        **plain,
    )
    _read_limit(members, request)
    _read_tools(members, request)
    _read_effort(members, request)
    _read_stream_options(members, request)
    for name, values in _HARMLESS:
        if members.peek(name) in values:
            request.spelling[name] = orjson.dumps(members.any(name)).decode()
    request.extra = members.rest()
    return request


def _read_stop(members: Members) -> list[str]:
    if isinstance(members.peek("stop"), str):
        return [members.needed_text("stop")]
    return members.texts("stop") or []


def _read_logprobs(members: Members) -> int | None:
    asked = members.flag("logprobs")
    if not asked:
        return None  # `top_logprobs` without it stays among the extras
    return members.integer("top_logprobs") or 0


def _read_bias(members: Members) -> dict[str, float] | None:
    bias = members.mapping("logit_bias")
    for value in (bias or {}).values():
        if not is_number(value):
            wrong("logit_bias", "numbers in it", value)
    return bias


def _read_metadata(members: Members) -> dict[str, str] | None:
    said = members.peek("metadata")
    if isinstance(said, dict) and all(isinstance(value, str) for value in said.values()):
        return members.mapping("metadata")
    return None


def _read_output(members: Members) -> Output | None:
    """What is not known here (a grammar, a regular expression) stays among the extras: only its own server knows it."""
    form = members.peek("response_format")
    if form is None:
        return None
    inner = Members(form, "response_format")
    kind = inner.needed_text("type")
    said = inner.rest().keys()
    if kind == "json_schema" and said == {"json_schema"}:
        members.any("response_format")
        return _read_schema(inner)
    if kind == "json_object" and said <= {"schema"}:
        members.any("response_format")
        return Output(schema=inner.mapping("schema"))
    if kind == "text" and not said:
        members.any("response_format")
    elif kind == "json_schema" and not inner.has("json_schema"):
        wrong(inner.at("json_schema"), "an object", None)
    return None


def _read_schema(form: Members) -> Output:
    inner = form.object("json_schema")
    assert inner is not None, "the caller has seen it"
    output = Output(schema=inner.mapping("schema") or {}, name=inner.needed_text("name"))
    output.description, output.strict = inner.text("description"), inner.flag("strict")
    output.extra = inner.rest()
    return output


def _read_limit(members: Members, request: Request) -> None:
    plain, whole = members.integer("max_tokens"), members.integer("max_completion_tokens")
    request.max_tokens = plain if whole is None else whole
    if whole is not None:
        request.spelling["max_tokens"] = "max_completion_tokens"
        if plain is not None:
            members.keep("max_tokens", plain)


def _read_tools(members: Members, request: Request) -> None:
    items = members.items("tools") or ()
    request.tools = [read_tool(item, f"tools[{number}]") for number, item in enumerate(items)]
    said = members.peek("tool_choice")
    if said is not None:
        request.tool_choice = read_choice(said, "tool_choice")
        if request.tool_choice is not None:
            members.any("tool_choice")
    _read_functions(members, request)


def _read_functions(members: Members, request: Request) -> None:
    """The old spelling, whose clients understand one call in an answer."""
    old: list[Tool] = []
    for inner in members.objects("functions"):
        tool = read_function(inner)
        rest = inner.rest()
        tool.extra = {"function": rest} if rest else {}
        old.append(tool)
    if old:
        request.tools += old
        request.parallel_tools = False
        request.spelling["calls"] = "functions"
    choice = members.any("function_call")
    if isinstance(choice, dict):
        request.tool_choice = ToolChoice(mode="required", tools=[Members(choice, "function_call").needed_text("name")])
    elif choice is not None:
        if choice not in ("auto", "none"):
            raise TranslationError("function_call: expected none, auto or an object with a name")
        request.tool_choice = ToolChoice(mode=choice)


def _read_effort(members: Members, request: Request) -> None:
    said = members.peek("reasoning_effort")
    if isinstance(said, str) and said in _EFFORTS:
        effort: Effort = members.any("reasoning_effort")
        request.reasoning = Reasoning(effort=effort)


def _read_stream_options(members: Members, request: Request) -> None:
    options = members.object("stream_options")
    asked = None if options is None else options.flag("include_usage")
    if request.stream:
        request.include_usage = asked or False
    rest = {} if options is None else options.rest()
    if rest:
        members.keep("stream_options", rest)


# ---- writing


def write_request(request: Request, report: Report) -> Json:
    """The call as a server of this format wants it. What it cannot say is reported, never raised."""
    saying = Saying("chat", request.format, report)
    said: Json = {"model": request.model} if request.model else {}  # Azure has it in the path
    said["messages"] = write_messages(request.messages, saying)
    if request.stream:
        said["stream"] = True
        if request.include_usage:
            said["stream_options"] = {"include_usage": True}
    _write_tools(said, request, saying)
    _write_limits(said, request, saying)
    for name in ("frequency_penalty", "presence_penalty", "seed", "n", "logit_bias", "metadata", "store"):
        value = getattr(request, name)
        if value is not None:
            said[name] = value
    if request.logprobs is not None:
        said["logprobs"] = True
        if request.logprobs:
            said["top_logprobs"] = request.logprobs
    _write_texts(said, request, saying)
    if request.output is not None:
        said["response_format"] = _write_output(request.output, saying)
    _write_reasoning(said, request, report)
    if saying.own:
        said.update((name, orjson.loads(request.spelling[name])) for name, _ in _HARMLESS if name in request.spelling)
    for name, value in saying.kept(request.extra, "").items():
        said[name] = {**said[name], **value} if name == "stream_options" and name in said else value
    return said


def _write_tools(said: Json, request: Request, saying: Saying) -> None:
    tools = write_tools(request, saying)
    if tools:
        said["tools"] = tools
    if request.tool_choice is not None:
        said["tool_choice"] = write_choice(request.tool_choice, request)
        saying.kept(request.tool_choice.extra, "tool_choice")
    if request.parallel_tools is not None and (tools or saying.own):
        said["parallel_tool_calls"] = request.parallel_tools  # OpenAI refuses it where there are no tools


def _write_limits(said: Json, request: Request, saying: Saying) -> None:
    if request.max_tokens is not None:
        said[request.spelling.get("max_tokens", "max_tokens") if saying.own else "max_tokens"] = request.max_tokens
    if request.temperature is not None:
        too_hot = request.temperature > _MAX_TEMPERATURE and not saying.own
        if too_hot:
            saying.report.map("temperature")
        said["temperature"] = _MAX_TEMPERATURE if too_hot else request.temperature
    if request.top_p is not None:
        said["top_p"] = request.top_p
    if request.top_k is not None:
        if saying.own:
            said["top_k"] = request.top_k
        else:
            saying.report.lose("top_k")
    if request.stop:
        said["stop"] = request.stop


def _write_texts(said: Json, request: Request, saying: Saying) -> None:
    for name, attribute in _TEXTS.items():
        value = getattr(request, attribute)
        if value is not None:
            said[name] = value
    if request.service_tier == "standard_only":  # Anthropic's word
        said["service_tier"] = "default"
        saying.report.map("service_tier")


def _write_output(output: Output, saying: Saying) -> Json:
    if output.schema is None:
        return {"type": "json_object"}
    form: Json = {"name": output.name or "answer", "schema": output.schema}
    if output.description is not None:
        form["description"] = output.description
    if output.strict is not None:
        form["strict"] = output.strict
    form.update(saying.kept(output.extra, "output"))
    return {"type": "json_schema", "json_schema": form}


def _write_reasoning(said: Json, request: Request, report: Report) -> None:
    reasoning = request.reasoning
    if reasoning is None:
        return
    if reasoning.effort is not None and reasoning.budget_tokens != 0:  # no thinking at all, whatever the effort
        said["reasoning_effort"] = reasoning.effort
    elif reasoning.budget_tokens is not None:
        said["reasoning_effort"] = effort_of(reasoning.budget_tokens)
        report.map("reasoning")
    elif reasoning.adaptive:
        report.map("reasoning")  # to say nothing leaves it to the model
    if reasoning.show is False:
        report.map("reasoning.show")  # servers of this format show thoughts, or do not, as they please
    if reasoning.summary is not None:
        report.map("reasoning.summary")


def spoken_old(request: Request) -> bool:
    """Whether the client understands only `function_call` in an answer."""
    return request.spelling.get("calls") == "functions"
