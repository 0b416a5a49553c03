"""`generationConfig`, both ways: how a model shall sample, think and format.

Gemini 3 thinks by level, older models by a budget of tokens: the model's name decides which of them an effort becomes. An
unknown model gets the budget, which all of them take.
"""

import re

from sidecar.wire.members import Json
from sidecar.wire.neutral import EFFORT_TOKENS, Effort, Output, Reasoning, Report, Request
from sidecar.wire.spoke import lose_all
from sidecar.wire.spokes.generate.members import GenerateMembers
from sidecar.wire.spokes.generate.schema import json_schema

_JSON = "application/json"
_MAX_TEMPERATURE = 2
_MAX_STOPS = 5
_INT32 = 1 << 31
_LEVELS: dict[str, Effort] = {"MINIMAL": "minimal", "LOW": "low", "MEDIUM": "medium", "HIGH": "high", "XHIGH": "xhigh"}
_LEVEL_NAMES: dict[Effort, str] = {
    **{effort: name for name, effort in _LEVELS.items()},
    "none": "MINIMAL",
    "max": "XHIGH",
}
_MAX_BUDGET, _MAX_FLASH_BUDGET = 32768, 24576
_SAME = (  # said in the same way here and there
    ("max_tokens", "maxOutputTokens"), ("temperature", "temperature"), ("top_p", "topP"), ("top_k", "topK"),
    ("n", "candidateCount"), ("seed", "seed"), ("presence_penalty", "presencePenalty"),
    ("frequency_penalty", "frequencyPenalty"),
)  # fmt: skip


def signs_calls(model: str) -> bool:
    """Whether a model is one of those that want signatures on calls, and think by level: Gemini 3 and later."""
    found = re.search(r"gemini-(\d+)", model)
    return found is not None and int(found[1][:4]) >= 3


# ---- reading


def read_config(config: GenerateMembers, request: Request) -> Json:
    """Fills what the config says into the request. Returns the rest, which only Gemini knows. Raises TranslationError."""
    request.max_tokens, request.n = config.integer("maxOutputTokens"), config.integer("candidateCount")
    request.temperature, request.top_p = config.number("temperature"), config.number("topP")
    request.top_k, request.seed = config.integer("topK"), config.integer("seed")
    request.presence_penalty, request.frequency_penalty = (
        config.number("presencePenalty"),
        config.number("frequencyPenalty"),
    )
    request.stop = config.texts("stopSequences") or []
    if config.flag("responseLogprobs"):
        request.logprobs = config.integer("logprobs") or 0
    request.output = _read_output(config)
    if config.rest().get("responseModalities") == ["TEXT"]:
        config.any("responseModalities")
    thinking = config.object("thinkingConfig")
    rest = {}
    if thinking is not None:
        request.reasoning = _read_thinking(thinking)
        rest = thinking.rest()
    return {**config.rest(), **({"thinkingConfig": rest} if rest else {})}


def _read_output(config: GenerateMembers) -> Output | None:
    """JSON only: an answer that is one of some words (`text/x.enum`) has no other format's words."""
    mime = config.rest().get("responseMimeType")
    if mime == "text/plain":
        config.any("responseMimeType")
    if mime != _JSON:
        return None
    config.any("responseMimeType")
    schema = config.mapping("responseJsonSchema")
    if schema is None:
        own = config.mapping("responseSchema")
        schema = None if own is None else json_schema(own, config.at("responseSchema"))
    return Output(schema=schema)


def _read_thinking(thinking: GenerateMembers) -> Reasoning:
    reasoning = Reasoning(show=thinking.flag("includeThoughts"))
    level = thinking.rest().get("thinkingLevel")
    if isinstance(level, str) and level.upper() in _LEVELS:
        reasoning.effort = _LEVELS[level.upper()]
        thinking.any("thinkingLevel")
    budget = thinking.integer("thinkingBudget")
    reasoning.adaptive = budget == -1
    reasoning.budget_tokens = None if budget == -1 else budget
    return reasoning


# ---- writing


def write_config(request: Request, report: Report) -> Json:
    """The config, empty where nothing is said."""
    own = request.format == "generate"
    said: Json = {}
    for name, ours in _SAME:
        value = getattr(request, name)
        if value is not None:
            said[ours] = value
    if request.stop:
        said["stopSequences"] = request.stop
    if request.logprobs is not None:
        said["responseLogprobs"] = True
        said |= {"logprobs": request.logprobs} if request.logprobs else {}
    if not own:
        _fit(request, said, report)
    if request.output is not None:
        said |= _write_output(request.output, report)
    if request.reasoning is not None:
        thinking = (
            _own_thinking(request.reasoning) if own else _write_thinking(request.reasoning, request.model, report)
        )
        said |= {"thinkingConfig": thinking} if thinking or own else {}
    return said


def _fit(request: Request, said: Json, report: Report) -> None:
    """Brings what other formats allow into Gemini's ranges, and leaves neutral values unsaid."""
    for name in ("presencePenalty", "frequencyPenalty"):
        if said.get(name) == 0:
            del said[name]
    if request.n == 1:
        del said["candidateCount"]
    if request.temperature is not None and request.temperature > _MAX_TEMPERATURE:
        said["temperature"] = _MAX_TEMPERATURE
        report.map("temperature")
    if request.seed is not None and not -_INT32 <= request.seed < _INT32:
        del said["seed"]
        report.lose("seed")
    if len(request.stop) > _MAX_STOPS:
        said["stopSequences"] = request.stop[:_MAX_STOPS]
        for number in range(_MAX_STOPS, len(request.stop)):
            report.lose(f"stop[{number}]")


def _write_output(output: Output, report: Report) -> Json:
    """The name of a schema is only a label, and strict is what Gemini always is: neither is a loss."""
    if output.schema is None:
        return {"responseMimeType": _JSON}
    schema = output.schema
    lose_all(report, "output", output.extra)
    if output.description is not None:
        report.map("output.description")
        schema = {"description": output.description, **schema}
    return {"responseMimeType": _JSON, "responseJsonSchema": schema}


def _own_thinking(reasoning: Reasoning) -> Json:
    said: Json = {} if reasoning.show is None else {"includeThoughts": reasoning.show}
    if reasoning.effort is not None:
        said["thinkingLevel"] = _LEVEL_NAMES[reasoning.effort]
    budget = -1 if reasoning.adaptive else reasoning.budget_tokens
    return said if budget is None else {**said, "thinkingBudget": budget}


def _write_thinking(reasoning: Reasoning, model: str, report: Report) -> Json:
    show = reasoning.show
    if show is None and reasoning.budget_tokens:
        show = True  # clients that say a budget are shown thoughts unless they say otherwise
    said: Json = {} if show is None else {"includeThoughts": show}
    if reasoning.summary is not None:
        said["includeThoughts"] = True
        report.map("reasoning.summary")
    if reasoning.budget_tokens is not None:
        if reasoning.effort is not None:
            report.map("reasoning.effort")  # the service takes one of the two
        return {**said, "thinkingBudget": _budget(reasoning.budget_tokens, model, report)}
    effort = reasoning.effort
    if effort is None:
        return {**said, "thinkingBudget": -1} if reasoning.adaptive else said
    if signs_calls(model):
        if effort in ("none", "max"):
            report.map("reasoning.effort")
        return {**said, "thinkingLevel": _LEVEL_NAMES[effort]}
    report.map("reasoning.effort")
    return {**said, "thinkingBudget": _budget(EFFORT_TOKENS[effort], model, Report())}


def _budget(tokens: int, model: str, report: Report) -> int:
    """What the model takes of it."""
    most = _MAX_FLASH_BUDGET if "flash" in model else _MAX_BUDGET
    if tokens > most:
        report.map("reasoning.budget_tokens")
    return min(tokens, most)
