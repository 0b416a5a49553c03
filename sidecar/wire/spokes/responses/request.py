"""OpenAI Responses: requests, both ways.

`instructions` is a first message of role system; `Request.spelling` remembers it. A first system message of another format
that is one text is written as `instructions`, any other message of system or developer as an item, where it stands.

Besides the canonical form of `input` and `tools`: null, `stream: false`, `tools: []`, empty texts,
`text.format` of type text, and what else says nothing, are absent; the entry of log probabilities in `include` is last.

What another format does not ask for is said so that the provider does not do it: it does not keep the answer (`store`), and
thoughts come with their signature (`include`), so that a client that keeps them can go on.
"""

from typing import Final, get_args

import orjson

from sidecar.wire.members import Members, wrong
from sidecar.wire.neutral import Effort, Json, Message, Output, Reasoning, Report, Request, Text, effort_of
from sidecar.wire.saying import Saying
from sidecar.wire.spoke import lose_asked
from sidecar.wire.spokes.responses.input import read_input, write_input
from sidecar.wire.spokes.responses.tools import read_choice, read_tool, write_choice, write_tools

LOGPROBS: Final = "message.output_text.logprobs"
_SEALED: Final = "reasoning.encrypted_content"
_TEXTS: Final = {
    "user": "user",
    "service_tier": "service_tier",
    "prompt_cache_key": "cache_key",
    "prompt_cache_retention": "cache_retention",
    "safety_identifier": "safety_identifier",
}
_EFFORTS: Final = frozenset(get_args(Effort))
_ELSEWHERE: Final = ("prompt", "previous_response_id", "conversation", "instructions")  # where the input may be instead
_HARMLESS: Final = (
    ("truncation", ("disabled",)),
    ("stream_options", ({"include_obfuscation": True}, {"include_obfuscation": False})),
)  # what no other format needs to be told: it does so
_UNSAYABLE: Final = ("top_k", "seed", "stop", "frequency_penalty", "presence_penalty", "logit_bias", "n")
_MAX_TEMPERATURE: Final = 2
_MIN_TOKENS: Final = 16  # OpenAI refuses a smaller limit


# ---- reading


def read_request(body: Json) -> Request:
    """A client's call.

    Raises:
        TranslationError: a member has a wrong type, or a value that this format does not have; says where.
    """
    members = Members(body)
    said = members.any("input")
    if said is None and not any(members.has(name) for name in _ELSEWHERE):
        wrong("input", "a string or a list", None)
    plain: Json = {name: members.text(said) for said, name in _TEXTS.items()}
    request = Request(
        format="responses",
        model=members.text("model") or "",
        messages=[] if said is None else read_input(said),
        stream=members.flag("stream") or False,
        parallel_tools=members.flag("parallel_tool_calls"),
        max_tokens=members.integer("max_output_tokens"),
        temperature=members.number("temperature"),
        top_p=members.number("top_p"),
        store=members.flag("store"),
        **plain,
    )
    instructions = members.text("instructions")
    if instructions:
        request.messages.insert(0, Message(role="system", parts=[Text(text=instructions)]))
        request.spelling["system"] = "instructions"
    _read_tools(members, request)
    _read_include(members, request)
    _read_text(members, request)
    _read_reasoning(members, request)
    metadata = members.peek("metadata")
    if isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values()):
        request.metadata = members.mapping("metadata")
    for name, values in _HARMLESS:
        if members.peek(name) in values:
            request.spelling[name] = orjson.dumps(members.any(name)).decode()
    request.extra = members.rest()
    return request


def _read_tools(members: Members, request: Request) -> None:
    items = members.items("tools") or ()
    request.tools = [read_tool(item, f"tools[{number}]") for number, item in enumerate(items)]
    said = members.peek("tool_choice")
    if said is not None:
        request.tool_choice = read_choice(said, "tool_choice")
        if request.tool_choice is not None:
            members.any("tool_choice")


def _read_include(members: Members, request: Request) -> None:
    asked = members.texts("include") or []
    if LOGPROBS in asked:
        request.logprobs = members.integer("top_logprobs") or 0
    if _SEALED in asked:
        request.spelling["include"] = _SEALED
    rest = [one for one in asked if one not in (LOGPROBS, _SEALED)]
    if rest:
        members.keep("include", rest)


def _read_text(members: Members, request: Request) -> None:
    inner = members.object("text")
    if inner is None:
        return
    request.verbosity = inner.text("verbosity")
    form = inner.object("format")
    if form is not None:
        kind = form.needed_text("type")
        if kind == "json_schema":
            request.output = Output(schema=form.mapping("schema") or {}, name=form.needed_text("name"))
            request.output.description, request.output.strict = form.text("description"), form.flag("strict")
            request.output.extra = form.rest()
        elif kind == "json_object":
            request.output = Output(extra=form.rest())
        else:
            rest = form.rest()
            if kind != "text" or rest:
                inner.keep("format", {"type": kind, **rest})
    rest = inner.rest()
    if rest:
        members.keep("text", rest)


def _read_reasoning(members: Members, request: Request) -> None:
    inner = members.object("reasoning")
    if inner is None:
        return
    reasoning = Reasoning(summary=inner.text("summary"))
    effort = inner.text("effort")
    reasoning.effort = next((known for known in _EFFORTS if known == effort), None)
    if reasoning.effort != effort:
        inner.keep("effort", effort)
    if reasoning != Reasoning():
        request.reasoning = reasoning
    rest = inner.rest()
    if rest:
        members.keep("reasoning", rest)


# ---- writing


def write_request(request: Request, report: Report) -> Json:
    """The call as a server of this format wants it. What it cannot say is reported, never raised."""
    saying = Saying("responses", request.format, report)
    said: Json = {"model": request.model}
    first = _write_instructions(said, request, saying)
    said["input"] = write_input(request.messages, first, saying)
    if request.stream:
        said["stream"] = True
    _write_tools(said, request, saying)
    said.update(settings(request, report))
    if not saying.own:
        _say_unasked(said, request)
        lose_asked(report, request, _UNSAYABLE)
    _put_back(said, saying.kept(request.extra, ""))
    if saying.own:
        _put_back_spelled(said, request)
    return said


def _write_instructions(said: Json, request: Request, saying: Saying) -> int:
    """The number of messages that are said by it."""
    first = request.messages[0] if request.messages else None
    if first is None or first.role != "system" or len(first.parts) != 1 or not isinstance(first.parts[0], Text):
        return 0
    part = first.parts[0]
    if saying.own and request.spelling.get("system") != "instructions":
        return 0
    if not saying.own and (first.name is not None or first.extra or part.extra or not part.text):
        return 0
    saying.marks(part.cache, "messages[0].content[0]")
    said["instructions"] = part.text
    return 1


def _write_tools(said: Json, request: Request, saying: Saying) -> None:
    tools = write_tools(request, saying)
    if tools:
        said["tools"] = tools
    if request.tool_choice is not None and (tools or saying.own):
        said["tool_choice"] = write_choice(request.tool_choice, request)
        saying.kept(request.tool_choice.extra, "tool_choice")
    if request.parallel_tools is not None and (tools or saying.own):
        said["parallel_tool_calls"] = request.parallel_tools


def settings(request: Request, report: Report) -> Json:
    """The members about the answer, its form and its service; an answer repeats them."""
    saying = Saying("responses", request.format, report)
    said: Json = {}
    if request.max_tokens is not None:
        said["max_output_tokens"] = _bounded(request.max_tokens, "max_tokens", saying)
    if request.temperature is not None:
        said["temperature"] = _bounded(request.temperature, "temperature", saying)
    if request.top_p is not None:
        said["top_p"] = request.top_p
    if request.logprobs:
        said["top_logprobs"] = request.logprobs
    for name, attribute in (*_TEXTS.items(), ("metadata", "metadata"), ("store", "store")):
        value = getattr(request, attribute)
        if value is not None:
            said[name] = value
    if request.service_tier == "standard_only":  # Anthropic's word
        said["service_tier"] = "default"
        report.map("service_tier")
    text = _write_text(request, saying)
    if text:
        said["text"] = text
    reasoning = _write_reasoning(request, report)
    if reasoning:
        said["reasoning"] = reasoning
    return said


def _bounded(value: float, name: str, saying: Saying) -> float:
    """A number of another format within this one's range."""
    bounded = value if saying.own else max(value, _MIN_TOKENS) if name == "max_tokens" else min(value, _MAX_TEMPERATURE)
    if bounded != value:
        saying.report.map(name)
    return bounded


def _write_text(request: Request, saying: Saying) -> Json:
    said: Json = {}
    output = request.output
    if output is not None and output.schema is None:
        said["format"] = {"type": "json_object", **saying.kept(output.extra, "output")}
    elif output is not None:
        said["format"] = {"type": "json_schema", "name": output.name or "answer", "schema": output.schema}
        for name in ("description", "strict"):
            if getattr(output, name) is not None:
                said["format"][name] = getattr(output, name)
        said["format"].update(saying.kept(output.extra, "output"))
    if request.verbosity is not None:
        said["verbosity"] = request.verbosity
    return said


def _write_reasoning(request: Request, report: Report) -> Json:
    reasoning = request.reasoning
    said: Json = {}
    if reasoning is None:
        return said
    if reasoning.effort is not None and reasoning.budget_tokens != 0:  # no thinking at all, whatever the effort
        said["effort"] = reasoning.effort
    elif reasoning.budget_tokens is not None:
        said["effort"] = effort_of(reasoning.budget_tokens)
        report.map("reasoning")
    elif reasoning.adaptive:
        report.map("reasoning")  # to say nothing leaves it to the model
    if reasoning.summary is not None:
        said["summary"] = reasoning.summary
    elif reasoning.show:
        said["summary"] = "auto"
    return said


def _say_unasked(said: Json, request: Request) -> None:
    if request.store is None:
        said["store"] = False
    thinks = said.get("reasoning", {})
    if thinks and thinks.get("effort") != "none":
        said["include"] = [_SEALED]
    if request.logprobs is not None:
        said["include"] = [*said.get("include", ()), LOGPROBS]


def _put_back(said: Json, extra: Json) -> None:
    for name, value in extra.items():
        said[name] = {**said[name], **value} if name in ("text", "reasoning") and name in said else value


def _put_back_spelled(said: Json, request: Request) -> None:
    """What only this format says, and others do without."""
    asked = [*said.pop("include", ())]
    if "include" in request.spelling:
        asked.append(_SEALED)
    if request.logprobs is not None:
        asked.append(LOGPROBS)
    if asked:
        said["include"] = asked
    for name, _ in _HARMLESS:
        if name in request.spelling:
            said[name] = orjson.loads(request.spelling[name])
