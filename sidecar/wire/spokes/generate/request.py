"""Gemini's requests (`generateContent` and `streamGenerateContent`, also on Vertex), read and written.

The model and whether to stream stand in the path: a Request that was read has the model "" and does not stream, until
who knows the path sets both.

**Canonical form**, which a body that is read and written again has: camelCase; null members absent; lists where one element
may stand alone; `role` of a content given, that of `systemInstruction` not; `parts` given; one entry of `tools` with all
functions, first, then each other tool; `parametersJsonSchema` and `responseJsonSchema` instead of Gemini's own Schema;
`mode` of a functionCallingConfig given; calls have `args`, results a `response`; a call's id absent where it only counts
calls, a result's given where its call has one (`calls`); a turn with a foreign signature joined; a part's signature
as an empty text after it (`parts`); `thought` false, an empty text of a thought that has a signature,
`responseLogprobs` false, `logprobs` 0, `text/plain`, modalities of text only, empty lists and objects absent; base64 in
the standard alphabet.
"""

from sidecar.wire.members import Json, wrong
from sidecar.wire.neutral import AnyPart, Message, Report, Request, Role, Text, Thinking, ToolCall
from sidecar.wire.spoke import lose_all, lose_asked
from sidecar.wire.spokes.generate.calls import CallIds
from sidecar.wire.spokes.generate.config import read_config, signs_calls, write_config
from sidecar.wire.spokes.generate.members import GenerateMembers
from sidecar.wire.spokes.generate.parts import PartsWriter, read_parts
from sidecar.wire.spokes.generate.tools import read_choice, read_tools, write_choice, write_tools

_ROLES: dict[str, Role] = {"user": "user", "model": "assistant", "function": "tool"}
_UNSIGNED = "skip_thought_signature_validator"  # the provider's own word for a call that none of its models made
_STANDARD_TIERS = ("auto", "default", "standard", "standard_only")
_UNSAYABLE = (
    "logit_bias", "user", "metadata", "cache_key", "cache_retention", "safety_identifier", "store", "verbosity",
)  # fmt: skip


# ---- reading


def read_request(body: Json) -> Request:
    """The call that a body asks for. Raises TranslationError."""
    members = GenerateMembers(body)
    request = Request(format="generate", model="", messages=_read_messages(members))
    request.tools = read_tools(members)
    config = members.object("toolConfig")
    rest: dict[str, Json] = {}
    if config is not None:
        request.tool_choice = read_choice(config)
        rest["toolConfig"] = config.rest()
    generation = members.object("generationConfig")
    if generation is not None:
        rest["generationConfig"] = read_config(generation, request)
    tier = (members.text("serviceTier") or "unspecified").lower()
    if tier != "unspecified":
        request.service_tier = "default" if tier == "standard" else tier
    request.extra = {**members.rest(), **{name: value for name, value in rest.items() if value}}
    return request


def _read_messages(members: GenerateMembers) -> list[Message]:
    ids, messages = CallIds(), list[Message]()
    system = members.object("systemInstruction")
    if system is not None:
        system.any("role")
        messages.append(Message(role="system", parts=read_parts(system, ids), extra=system.rest()))
    for content in members.objects("contents"):
        said = content.any("role")
        role = _ROLES.get("user" if said is None else said) if said is None or isinstance(said, str) else None
        if role is None:
            wrong(content.at("role"), '"user" or "model"', said)
        messages.append(Message(role=role, parts=read_parts(content, ids), extra=content.rest()))
    if any(isinstance(part, Thinking) and part.origin for message in messages for part in message.parts):
        return _joined(messages)
    return messages


def _joined(messages: list[Message]) -> list[Message]:
    """The turns of another provider's model as it made them: its SDK keeps each piece of a stream as a part of its own.

    A signature belongs to the whole thought before it, so the pieces of a thought and of a text are put together again.
    """
    turns = list[Message]()
    for message in messages:
        if message.role != "assistant" or not turns or turns[-1].role != "assistant" or message.extra:
            turns.append(Message(role=message.role, parts=[], extra=message.extra))
        for part in message.parts:
            if isinstance(part, Text) and not part.text and not part.extra:
                continue  # the last chunk of a stream has one
            if not (turns[-1].parts and _adds(turns[-1].parts[-1], part)):
                turns[-1].parts.append(part)
    return turns


def _adds(before: AnyPart, part: AnyPart) -> bool:
    """Whether a part went on what was before it."""
    if part.extra or before.extra:
        return False
    if isinstance(before, Text) and isinstance(part, Text):
        before.text += part.text
        return True
    if not isinstance(before, Thinking) or not isinstance(part, Thinking):
        return False
    if before.signature or before.redacted or part.redacted:
        return False
    before.text += part.text
    before.signature, before.origin = part.signature, part.origin
    return True


# ---- writing


def write_request(request: Request, report: Report) -> Json:
    """The body that asks for it. Never raises on what a reader gave."""
    own = request.format == "generate"
    body = _write_messages(request, report)
    tools, choice, config = write_tools(request, report), write_choice(request, report), write_config(request, report)
    if tools:
        body["tools"] = tools
    if choice is not None:
        body["toolConfig"] = {"functionCallingConfig": choice}
    if config:
        body["generationConfig"] = config
    _write_tier(request, body, report)
    if own:
        return _with_extra(body, request.extra)
    lose_all(report, "", request.extra)
    lose_asked(report, request, _UNSAYABLE)
    if request.parallel_tools is False and request.tools:
        report.map("parallel_tools")  # `wire.one_call` keeps it
    return body


def _with_extra(body: Json, extra: Json) -> Json:
    for name, value in extra.items():
        said = body.get(name)
        body[name] = _merged(said, value) if isinstance(said, dict) and isinstance(value, dict) else value
    return body


def _merged(said: Json, extra: Json) -> Json:
    """Both, and what both have below (`thinkingConfig`) joined once more."""
    joined = {**said, **extra}
    for name in said.keys() & extra.keys():
        joined[name] = {**said[name], **extra[name]}
    return joined


def _write_tier(request: Request, body: Json, report: Report) -> None:
    tier = request.service_tier
    if tier is None:
        return
    if tier in ("flex", "priority") or request.format == "generate":
        body["serviceTier"] = "standard" if tier == "default" else tier
    elif tier not in _STANDARD_TIERS:
        report.lose("service_tier")


def _write_messages(request: Request, report: Report) -> Json:
    """`systemInstruction` and `contents`. System texts that came later move to the front."""
    writer = PartsWriter(request.format, report)
    unsigned = not writer.own and signs_calls(request.model)
    system: Json | None = None
    contents, before = list[Json](), None
    for number, message in enumerate(request.messages):
        where = f"messages[{number}]"
        parts = writer.write(message.parts, where)
        extra = _message_extra(message, writer, where)
        if not parts and not writer.own:
            continue  # the service takes no turn without parts
        if message.role in ("system", "developer"):
            if contents:
                report.map(where)
            system = {"parts": parts, **extra} if system is None else {**system, "parts": [*system["parts"], *parts]}
            continue
        if unsigned:
            _sign(parts, where, report)
        if before is not None and not writer.own and _joins(before, message):
            contents[-1]["parts"].extend(parts)
        else:
            contents.append({"role": _role(message, writer.own), "parts": parts, **extra})
        before = message
    return _body(system, contents, writer, report)


def _body(system: Json | None, contents: list[Json], writer: PartsWriter, report: Report) -> Json:
    if system is None:
        return {"contents": contents}
    if not contents and not writer.own:
        report.map("messages[0]")  # there must be a content: what the system says is said by the user
        return {"contents": [{"role": "user", **system}]}
    return {"systemInstruction": system, "contents": contents}


def _message_extra(message: Message, writer: PartsWriter, where: str) -> Json:
    if writer.own:
        return message.extra
    if message.name is not None:
        writer.report.lose(f"{where}.name")
    lose_all(writer.report, where, message.extra)
    return {}


def _role(message: Message, own: bool) -> str:
    if message.role == "assistant":
        return "model"
    return "function" if own and message.role == "tool" else "user"


def _joins(before: Message, message: Message) -> bool:
    """Whether both are one turn: results of parallel calls, or calls that follow what the model said."""
    if message.role != before.role:
        return False
    return message.role == "tool" or (
        message.role == "assistant" and any(isinstance(part, ToolCall) for part in message.parts)
    )


def _sign(parts: list[Json], where: str, report: Report) -> None:
    """Gemini 3 refuses a turn whose first call has no signature."""
    first = next((part for part in parts if "functionCall" in part), None)
    if first is not None and "thoughtSignature" not in first:
        first["thoughtSignature"] = _UNSIGNED
        report.map(f"{where}.signature")
