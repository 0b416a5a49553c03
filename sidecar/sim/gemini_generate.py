"""Gemini's generateContent and streamGenerateContent as the simulated provider reads and writes them.

Usage follows the real API: `promptTokenCount` includes cached content, `candidatesTokenCount` excludes thoughts, the total
has both, members that are 0 are absent, and every event of a stream says what was counted so far. A stream has no terminal
event: the last one has a `finishReason`. A call is whole, never in pieces. Without `alt=sse` a stream is one JSON array.
Vertex differs: calls have no ids there, answers have `createTime` and a traffic type.
"""

from base64 import b64encode
from datetime import UTC, datetime

import msgspec
import orjson

from sidecar.sim.ask import Ask, Refused, member, raw
from sidecar.sim.openai_chat import grouped
from sidecar.sim.plan import Events, Manner
from sidecar.sim.speaker import Answer

_CONFIG_NAMES = (
    "temperature topP topK candidateCount maxOutputTokens stopSequences responseLogprobs logprobs presencePenalty "
    "frequencyPenalty seed responseMimeType responseSchema responseJsonSchema responseFormat responseModalities "
    "mediaResolution speechConfig thinkingConfig imageConfig enableEnhancedCivicAnswers audioTranscriptionConfig "
    "routingConfig modelConfig modelSelectionConfig audioTimestamp enableAffectiveDialog"
)
_CONFIG = frozenset(_CONFIG_NAMES.split())
_FREE = frozenset(
    {"args", "response", "parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema", "labels"}
)  # members whose keys are the user's own


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    parts: list[dict[str, object]] = []
    role: str | None = None


class _Generate(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    contents: list[_Content] = []
    system_instruction: _Content | None = None
    tools: list[dict[str, object]] | None = None
    tool_config: dict[str, object] | None = None
    generation_config: dict[str, object] | None = None
    safety_settings: list[dict[str, object]] | None = None
    cached_content: str | None = None
    labels: dict[str, str] | None = None
    service_tier: str | None = None
    store: bool | None = None
    continuation_token: str | None = None
    model_armor_config: dict[str, object] | None = None
    output_config: dict[str, object] | None = None
    model: str | None = None


def read_generate(body: bytes, model: str, *, stream: bool) -> Ask:
    """The request of a body, strictly: unknown members are errors as in the real API, snake_case is taken as well.

    Raises:
        msgspec.DecodeError: not JSON; its subclass ValidationError: a wrong type or an unknown member.
        Refused: the real service would refuse it for what it says.
    """
    said = msgspec.convert(_camelled(msgspec.json.decode(body)), _Generate)
    _check_contents(said.contents)
    config = said.generation_config or {}
    for name in config:
        if name not in _CONFIG:
            raise Refused(f"Invalid JSON payload received. Unknown name \"{name}\" at 'generation_config'.")
    limit = config.get("maxOutputTokens")
    calling = member(said.tool_config, "functionCallingConfig")
    return Ask(
        model=model,
        stream=stream,
        max_tokens=limit if isinstance(limit, int) and limit > 0 else None,
        messages=raw([{"role": "tool"}] if _answers(said.contents[-1]) else [{"role": "user"}]),
        tools=raw(_functions(said.tools or [], member(calling, "allowedFunctionNames"))),
        tool_choice=raw("none" if member(calling, "mode") == "NONE" else None),
        response_format=raw(_output(config)),
    )


def _camelled(value: object) -> object:
    if isinstance(value, list):
        return [_camelled(item) for item in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, object] = {}
    for key, item in value.items():
        first, *rest = key.split("_")
        name = first + "".join(word.capitalize() for word in rest)
        found[name] = item if name in _FREE else _camelled(item)
    return found


def _check_contents(contents: list[_Content]) -> None:
    """The rules that the real service names in its errors: roles, parts, and as many results as calls."""
    if not contents:
        raise Refused("* GenerateContentRequest.contents: contents is not specified\n")
    calls = 0
    for at, content in enumerate(contents):
        if content.role not in (None, "user", "model", "function"):
            raise Refused("Please use a valid role: user, model.")
        if not content.parts:
            raise Refused(f"* GenerateContentRequest.contents[{at}].parts: contents.parts must not be empty.\n")
        results = sum("functionResponse" in part for part in content.parts)
        if (calls or results) and calls != results:
            raise Refused(
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )
        calls = sum("functionCall" in part for part in content.parts)


def _answers(content: _Content) -> bool:
    return any("functionResponse" in part for part in content.parts)


def _functions(tools: list[dict[str, object]], allowed: object) -> list[object] | None:
    found: list[object] = []
    for tool in tools:
        declared = tool.get("functionDeclarations")
        for function in declared if isinstance(declared, list) else []:
            name = member(function, "name")
            if not isinstance(allowed, list) or name in allowed:
                schema = member(function, "parametersJsonSchema") or member(function, "parameters")
                found.append({"name": name, "parameters": schema})
    return found or None


def _output(config: dict[str, object]) -> object:
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if schema is not None:
        return {"type": "json_schema", "json_schema": {"schema": schema}}
    return {"type": "json_object"} if config.get("responseMimeType") == "application/json" else None


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def _malformed(answer: Answer) -> bool:
    """Arguments that are no object cannot be said here: the real service ends such an answer with a reason of its own."""
    return any(not arguments.startswith("{") for _, arguments in answer.calls)


def finish_reason(answer: Answer) -> str:
    """Gemini's word for how the answer ended. A call ends it with STOP."""
    if answer.filtered:
        return "SAFETY"
    return "MAX_TOKENS" if answer.cut else "MALFORMED_FUNCTION_CALL" if _malformed(answer) else "STOP"


def usage_json(answer: Answer, spoken: int, manner: Manner) -> str:
    """The usage when `spoken` tokens of the answer, thoughts not counted, are out."""
    prompt, cached, thoughts = answer.input_tokens, answer.cached_tokens, answer.reasoning_tokens
    members = [f'"promptTokenCount": {prompt}']
    if spoken:
        members.append(f'"candidatesTokenCount": {spoken}')
    members.append(f'"totalTokenCount": {prompt + spoken + thoughts}')
    if cached:
        details = f'[{{"modality": "TEXT","tokenCount": {cached}}}]'
        members.append(f'"cachedContentTokenCount": {cached},"cacheTokensDetails": {details}')
    members.append(f'"promptTokensDetails": [{{"modality": "TEXT","tokenCount": {prompt}}}]')
    if thoughts:
        members.append(f'"thoughtsTokenCount": {thoughts}')
    if manner.vertex:
        members.append('"trafficType": "ON_DEMAND"')
    return f"{{{','.join(members)}}}"


def _signature(answer: Answer) -> str:
    """The opaque bytes that a client must send back with the part; only a model that thought gives them."""
    if not answer.reasoning_tokens:
        return ""
    return f',"thoughtSignature": "{b64encode(answer.id.encode()).decode()}"'


def _calls(answer: Answer, manner: Manner) -> list[str]:
    """One part per call; the first has the signature."""
    parts = []
    for at, (name, arguments) in enumerate(answer.calls):
        number = "" if manner.vertex else f',"id": "{answer.call_id(at, 8)}"'
        signed = _signature(answer) if at == 0 else ""
        parts.append(f'{{"functionCall": {{"name": {_quoted(name)},"args": {arguments}{number}}}{signed}}}')
    return parts


def _response(answer: Answer, manner: Manner, parts: list[str], spoken: int, reason: str | None = None) -> str:
    """One GenerateContentResponse. Without parts its candidate has no content, as after the filter struck."""
    members = [f'"content": {{"parts": [{",".join(parts)}],"role": "model"}}'] if parts else []
    if reason is not None:
        members.append(f'"finishReason": "{reason}"')
    if reason == "SAFETY":
        rating = '{"category": "HARM_CATEGORY_DANGEROUS_CONTENT","probability": "HIGH","blocked": true}'
        members.append(f'"safetyRatings": [{rating}]')
    if reason == "MALFORMED_FUNCTION_CALL":
        members.append('"finishMessage": "Malformed function call"')
    candidates = f'"candidates": [{{{",".join([*members, """"index": 0"""])}}}]'
    return f"{{{candidates if not answer.blocked else _FEEDBACK},{_end(answer, manner, spoken)}}}"


_FEEDBACK = '"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}'


def _end(answer: Answer, manner: Manner, spoken: int) -> str:
    created = f',"createTime": "{datetime.fromtimestamp(manner.created, UTC):%Y-%m-%dT%H:%M:%S.000000Z}"'
    return (
        f'"usageMetadata": {usage_json(answer, spoken, manner)},"modelVersion": {answer.model_json}'
        f'{created if manner.vertex else ""},"responseId": "{answer.id}"'
    )


def generate_body(answer: Answer, manner: Manner) -> bytes:
    """A whole answer, indented as the real one is."""
    parts: list[str] = []
    thought = answer.reasoning()
    if thought:
        parts.append(f'{{"text": {_quoted("".join(thought))},"thought": true}}')
    if answer.calls and not _malformed(answer):
        parts += _calls(answer, manner)
    elif not answer.calls and not answer.filtered:
        parts.append(f'{{"text": {_quoted(answer.text())}{_signature(answer)}}}')
    spoken = answer.output_tokens - answer.reasoning_tokens
    return _indented(_response(answer, manner, parts, spoken, finish_reason(answer)))


def _indented(response: str) -> bytes:
    return orjson.dumps(orjson.loads(response), option=orjson.OPT_INDENT_2) + b"\n"


def generate_events(answer: Answer, manner: Manner) -> Events:
    """A streamed answer: no event before the first token, and the last event has the reason."""
    total = answer.output_tokens - answer.reasoning_tokens
    tokens = [
        _response(answer, manner, [f'{{"text": {_quoted(piece)},"thought": true}}'], 0)
        for piece in grouped(answer.reasoning(), manner.tokens_per_chunk)
    ]
    if answer.calls:
        parts = [] if _malformed(answer) else _calls(answer, manner)
        size = total // len(answer.calls)
        tokens += [_response(answer, manner, [part], size * (at + 1)) for at, part in enumerate(parts)]
    else:
        for at, piece in enumerate(grouped(answer.pieces(), manner.tokens_per_chunk)):
            spoken = min(total, (at + 1) * max(1, manner.tokens_per_chunk))
            tokens.append(_response(answer, manner, [f'{{"text": {_quoted(piece)}}}'], spoken))
    reason = finish_reason(answer)
    signed = "" if answer.calls else _signature(answer)
    last = [f'{{"text": ""{signed}}}'] if reason in ("STOP", "MAX_TOKENS") else []
    tail = _response(answer, manner, last, total, reason)
    if manner.sse:
        return Events(b"", [_event(token) for token in tokens], _event(tail))
    array = [_indented(token) + b",\r\n" for token in tokens]
    return Events(b"[", array, _indented(tail) + b"]\n")


def _event(response: str) -> bytes:
    return f"data: {response}\r\n\r\n".encode()
