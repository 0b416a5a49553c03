"""OpenAI chat completions: whole answers, their usage and log probabilities, both ways.

Read leniently, as real servers differ: calls with `finish_reason` "stop" have the stop `tool_calls`, a refusal with "stop"
has `refusal`, and a reason that is not known here is "stop" with the original among the extras. Members of the message that
have no place are in `extra["message"]` of the choice. llama.cpp's number of a token is `TokenLogprob.number`.

Canonical form: `object` is as OpenAI has it, `finish_reason` is one of its five, absent `logprobs` are null, `function_call`
is one of `tool_calls`. A client that sent `functions` gets `function_call` again.
"""

from typing import Any, Final

from sidecar.core.types import Usage
from sidecar.wire.members import Members, is_number, is_whole, wrong
from sidecar.wire.neutral import (
    AnyPart,
    Choice,
    Json,
    Refusal,
    Report,
    Request,
    Response,
    Stop,
    TokenLogprob,
    ToolCall,
)
from sidecar.wire.openai_problem import problem_in
from sidecar.wire.saying import Saying, usage_of
from sidecar.wire.spokes.chat.messages import MessageReader, write_spoken
from sidecar.wire.spokes.chat.request import spoken_old

_STOPS: Final[dict[str, Stop]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "tool_calls",
    "model_length": "context",  # Mistral
    "error": "error",  # Mistral, OpenRouter
    "eos": "stop",  # Together
    "insufficient_system_resource": "error",  # DeepSeek
}
_REASONS: Final[dict[Stop, str]] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "context": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "pause": "stop",
    "error": "stop",
}
_EXACT: Final = frozenset({"stop", "stop_sequence", "length", "tool_calls", "content_filter"})
_SYNONYMS: Final = frozenset({"stop", "function_call", "eos"})
_TIERS: Final = frozenset({"auto", "default", "flex", "scale", "priority"})


# ---- reading


def read_response(body: Json) -> Response:
    """A server's whole answer. Servers that pass on others' answers may say only why there is none, with status 200.

    Raises:
        TranslationError: it has no choices, or one of them is not of this format; says where.
    """
    members = Members(body)
    items = members.items("choices")
    if items is None and members.has("error"):
        return Response(format="chat", id="", model="", choices=[], problem=problem_in(None, body))
    if items is None:
        wrong("choices", "a list", None)
    tier = members.text("service_tier")
    said = members.mapping("usage")
    response = Response(
        format="chat",
        id=members.text("id") or "",
        model=members.text("model") or "",
        choices=[_read_choice(item, number) for number, item in enumerate(items)],
        created=members.integer("created"),
        usage=None if said is None else usage_of(said, tier),
        usage_said=said,
        service_tier=tier,
    )
    members.any("object")
    response.extra = members.rest()
    for choice in response.choices:
        if choice.stop == "error" and isinstance(choice.extra.get("error"), dict):  # OpenRouter
            response.problem = problem_in(None, choice.extra)
    return response


def _read_choice(item: Any, number: int) -> Choice:  # noqa: ANN401 - whatever JSON holds
    members = Members(item, f"choices[{number}]")
    message = members.object("message")
    if message is None:
        wrong(members.at("message"), "an object", None)
    message.any("role")
    choice = Choice(index=number, parts=MessageReader().spoken(message))
    index = members.integer("index")
    choice.index = number if index is None else index
    reason = members.text("finish_reason")
    choice.stop_sequence = take_stop_sequence(members)
    if reason is not None:
        choice.stop = stop_of(reason, choice.parts, choice.stop_sequence)
    choice.logprobs = take_logprobs(members, "content")
    choice.extra = members.rest()
    rest = {name: value for name, value in message.rest().items() if value != []}  # empty annotations say nothing
    if rest:
        choice.extra["message"] = rest
    if choice.stop is not None and reason is not None and unsaid(reason, choice.stop, choice.parts):
        choice.extra["finish_reason"] = reason
    return choice


def take_stop_sequence(members: Members) -> str | None:
    """vLLM's `stop_reason`: the stop text that came, or the number of a token."""
    return members.text("stop_reason") if isinstance(members.peek("stop_reason"), str) else None


def stop_of(reason: str, parts: list[AnyPart], stop_sequence: str | None) -> Stop:
    """Why it stopped; `parts` are those of the choice, or one of each kind."""
    stop = _STOPS.get(reason, "stop")
    if stop != "stop":
        return stop
    if any(isinstance(part, ToolCall) for part in parts):
        return "tool_calls"
    if any(isinstance(part, Refusal) for part in parts):
        return "refusal"
    return "stop" if stop_sequence is None else "stop_sequence"


def reason_of(stop: Stop, parts: list[AnyPart]) -> str:
    """The `finish_reason` of a stop."""
    if stop == "refusal" and any(isinstance(part, Refusal) for part in parts):
        return "stop"
    return _REASONS[stop]


def unsaid(reason: str, stop: Stop, parts: list[AnyPart]) -> bool:
    """Whether the provider's reason has to be kept, as the stop does not tell it."""
    return reason not in _SYNONYMS and reason_of(stop, parts) != reason


def take_logprobs(members: Members, name: str) -> list[TokenLogprob] | None:
    """One list of the member `logprobs`; None, and nothing taken, where it is absent, empty or spelled in another way."""
    said = members.peek("logprobs")
    found = read_logprobs(said.get(name)) if isinstance(said, dict) else None
    if found:
        rest = {key: value for key, value in said.items() if key != name and value not in (None, [])}
        members.any("logprobs")
        if rest:
            members.keep("logprobs", rest)
        return found
    if said == {} or (isinstance(said, dict) and not any(said.values())):
        members.any("logprobs")
    return None


def read_logprobs(items: Any) -> list[TokenLogprob] | None:  # noqa: ANN401 - whatever JSON holds
    """A list of tokens with what is known of each; None where one of them cannot be read."""
    if not isinstance(items, list):
        return None
    found = [_read_token(item) for item in items]
    return None if None in found else [one for one in found if one is not None]


def _read_token(item: Any) -> TokenLogprob | None:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(item, dict):
        return None
    token, logprob, spelled = item.get("token"), item.get("logprob"), item.get("bytes")
    if not isinstance(token, str) or not is_number(logprob) or not isinstance(spelled, list | None):
        return None
    number = item.get("id")  # llama.cpp
    top = read_logprobs(item.get("top_logprobs") or [])
    if top is None:
        return None
    return TokenLogprob(
        token=token, logprob=logprob, bytes=spelled, number=number if is_whole(number) else None, top=top
    )


# ---- writing


def write_response(response: Response, request: Request, report: Report) -> Json:
    """The answer as a client of this format wants it. `created` is 0 where nobody said it: the SDKs want a number."""
    saying = Saying("chat", response.format, report)
    said: Json = {
        "id": response.id,
        "object": "chat.completion",
        "created": response.created or 0,
        "model": response.model,
        "choices": [_write_choice(choice, request, saying) for choice in response.choices],
    }
    usage = usage_said(response.usage, response.usage_said if saying.own else None)
    if usage is not None:
        said["usage"] = usage
    said.update(write_tier(response.service_tier, saying))
    said.update(saying.kept(response.extra, ""))
    return said


def write_tier(tier: str | None, saying: Saying) -> Json:
    """`service_tier` of an answer, which is one of a few words; another provider's word for the usual one is mapped."""
    if tier is None:
        return {}
    if saying.own or tier in _TIERS:
        return {"service_tier": tier}
    saying.report.map("service_tier")
    return {"service_tier": "default"} if tier == "standard" else {}


def _write_choice(choice: Choice, request: Request, saying: Saying) -> Json:
    where = f"choices[{choice.index}]"
    message: Json = {"role": "assistant"}
    parts = [(f"{where}.content[{number}]", part) for number, part in enumerate(choice.parts)]
    write_spoken(message, parts, saying, answer=True)
    extra = dict(saying.kept(choice.extra, where))
    beside = extra.pop("message", {})
    if "tool_calls" in beside and "tool_calls" in message:
        beside = {**beside, "tool_calls": message["tool_calls"] + beside["tool_calls"]}
    message.update(beside)
    reason = None if choice.stop is None else write_stop(choice.stop, choice.stop_sequence, choice.parts, where, saying)
    if spoken_old(request) and "tool_calls" in message:
        first, *more = message.pop("tool_calls")
        inner = first[first["type"]]
        message["function_call"] = {"name": inner["name"], "arguments": inner.get("arguments", inner.get("input"))}
        reason = "function_call" if reason == "tool_calls" else reason
        for number, _ in enumerate(more, 1):
            saying.report.lose(f"{where}.tool_calls[{number}]")
    said: Json = {"index": choice.index, "message": message, "logprobs": None, "finish_reason": reason}
    if choice.logprobs is not None:
        said["logprobs"] = {"content": write_logprobs(choice.logprobs), "refusal": None}
    if choice.stop_sequence is not None and saying.own:
        said["stop_reason"] = choice.stop_sequence
    if said["logprobs"] is not None and isinstance(extra.get("logprobs"), dict):
        extra["logprobs"] = {**said["logprobs"], **extra["logprobs"]}
    said.update(extra)
    return said


def write_stop(stop: Stop, sequence: str | None, parts: list[AnyPart], where: str, saying: Saying) -> str:
    """The `finish_reason`; what it cannot tell is reported."""
    if not saying.own:
        if stop not in _EXACT and not (stop == "refusal" and reason_of(stop, parts) == "stop"):
            saying.report.map(f"{where}.stop")
        if sequence is not None:
            saying.report.map(f"{where}.stop_sequence")
    return reason_of(stop, parts)


def write_logprobs(tokens: list[TokenLogprob]) -> list[Json]:
    """The list `logprobs.content`."""
    return [{**_write_token(one), "top_logprobs": [_write_token(rival) for rival in one.top]} for one in tokens]


def _write_token(one: TokenLogprob) -> Json:
    number = {} if one.number is None else {"id": one.number}
    return {**number, "token": one.token, "bytes": one.bytes, "logprob": one.logprob}


def usage_said(usage: Usage | None, said: Json | None) -> Json | None:
    """The member `usage`: as the provider wrote it where it speaks this format, else what is known, absent counts as 0."""
    if said is not None or usage is None:
        return said
    into, out = usage.input_tokens or 0, usage.output_tokens or 0
    found: Json = {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out}
    details = {
        "cached_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "audio_tokens": usage.input_audio_tokens,
    }
    made = {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": usage.output_audio_tokens}
    for name, counts in (("prompt_tokens_details", details), ("completion_tokens_details", made)):
        known = {key: count for key, count in counts.items() if count is not None}
        if known:
            found[name] = known
    return found
