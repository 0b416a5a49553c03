"""OpenAI chat completions: messages, both ways, and the assistant's message of an answer.

Chat has one place each for thoughts, text, refusal and calls of a message, so an assistant's parts are read in that order.
Results of tools are messages of their own: those among a user's parts come first, as chat wants them right after the calls;
images in them, which a tool's message cannot hold, follow in a user's message.

Thoughts: `reasoning_content` (also read: `reasoning`, and Mistral's parts of type thinking). With signatures they are
`thinking_blocks` too, as gateways in front of Anthropic write them; a block whose signature is not Anthropic's names its
format in `origin`.

Canonical form: an assistant's content without text is null, refusals among its parts are the member `refusal`; a message of
role `function` is one of role `tool` with the id of the last call of that name.
"""

from typing import Any, Final, get_args

from msgspec.structs import replace

from sidecar.errors import TranslationError
from sidecar.wire.members import Members
from sidecar.wire.neutral import (
    AnyPart,
    Format,
    Json,
    Media,
    Message,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from sidecar.wire.saying import Saying
from sidecar.wire.spoke import lose_all
from sidecar.wire.spokes.chat.calls import arguments_of, read_call, write_call
from sidecar.wire.spokes.chat.parts import image_of, image_url, read_content, write_cache, write_content

FORMATS: Final = frozenset(get_args(Format))
_THOUGHTS: Final = frozenset({"reasoning_content", "reasoning", "thinking_blocks"})
_MEDIA: Final = frozenset({"audio", "images"})


# ---- reading


class MessageReader:
    """Reads the messages of one body; it counts calls, to name those that have no id."""

    def __init__(self) -> None:
        self._calls = 0
        self._by_name: dict[str, str] = {}

    def message(self, value: Any, where: str) -> Message:  # noqa: ANN401 - whatever JSON holds
        """One message of a request.

        Raises:
            TranslationError: a type is wrong, or the role is none of chat's.
        """
        members = Members(value, where)
        role = members.needed_text("role")
        name = members.text("name")
        match role:
            case "assistant":
                parts = self.spoken(members)
            case "system" | "developer" | "user":
                parts = read_content(members.any("content"), members.at("content"))
            case "tool":
                parts = [self._result(members, members.needed_text("tool_call_id"), name)]
            case "function":
                parts = [self._result(members, self._by_name.get(name or "", "call_0"), name)]
            case _:
                raise TranslationError(f"{members.at('role')}: expected system, developer, user, assistant or tool")
        if role in ("tool", "function"):
            return Message(role="tool", parts=parts, extra=members.rest())
        return Message(role=role, parts=parts, name=name, extra=members.rest())  # type: ignore[arg-type]  # matched above

    def _result(self, members: Members, call_id: str, name: str | None) -> ToolResult:
        content = read_content(members.any("content"), members.at("content"))
        return ToolResult(call_id=call_id, parts=content, name=name)

    def spoken(self, members: Members) -> list[AnyPart]:
        """The parts of an assistant's message, of a request or an answer."""
        parts: list[AnyPart] = []
        if members.has_any(_THOUGHTS):
            parts += _read_thoughts(members)
        parts += read_content(members.any("content"), members.at("content"))
        refusal = members.text("refusal")
        if refusal:
            parts.append(Refusal(text=refusal))
        if members.has_any(_MEDIA):
            parts += _read_media(members)
        self._read_calls(members, parts)
        return parts

    def _read_calls(self, members: Members, parts: list[AnyPart]) -> None:
        unknown = []
        where = members.at("tool_calls")
        for number, item in enumerate(members.items("tool_calls") or ()):
            call = read_call(item, f"{where}[{number}]", f"call_{self._calls}")
            if call is None:
                unknown.append(item)
            else:
                self._add(call, parts)
        old = members.object("function_call")
        if old is not None:
            arguments = arguments_of(old.any("arguments"), old.at("arguments"))
            self._add(ToolCall(id=f"call_{self._calls}", name=old.needed_text("name"), arguments=arguments), parts)
        if unknown:
            members.keep("tool_calls", unknown)

    def _add(self, call: ToolCall, parts: list[AnyPart]) -> None:
        self._calls += 1
        self._by_name[call.name] = call.id
        parts.append(call)


def _read_thoughts(members: Members) -> list[Thinking]:
    blocks = members.peek("thinking_blocks")
    if isinstance(blocks, list) and blocks and all(isinstance(one, dict) for one in blocks):
        thoughts = [found for one in blocks if (found := read_block(one)) is not None]
        if len(thoughts) == len(blocks):
            members.any("thinking_blocks")
            told = "".join(one.text for one in thoughts)
            for name in ("reasoning_content", "reasoning"):
                if members.peek(name) in (told, ""):
                    members.any(name)
            return thoughts
    for name, other in (("reasoning_content", "reasoning"), ("reasoning", "reasoning_content")):
        text = members.peek(name)
        if isinstance(text, str):
            members.any(name)
            if members.peek(other) in (text, ""):
                members.any(other)
            if text:
                return [Thinking(text=text)]
    return []


def read_block(block: Json) -> Thinking | None:
    """One of `thinking_blocks`; None: of a type that is not known here."""
    known = block.get("origin")
    origin: Format = known if isinstance(known, str) and known in FORMATS else "messages"  # type: ignore[assignment]  # it is one
    rest = {name: value for name, value in block.items() if name not in ("type", "origin") and value is not None}
    text, signature, data = rest.pop("thinking", None), rest.pop("signature", None), rest.pop("data", None)
    kind = block.get("type")
    if kind == "redacted_thinking" and isinstance(data, str):
        return Thinking(redacted=data, origin=origin, extra=rest)
    if kind != "thinking" or not isinstance(text, str) or not isinstance(signature, str | None):
        return None
    return Thinking(text=text, signature=signature, origin=origin, extra=rest)


def _read_media(members: Members) -> list[Media]:
    """Sound that the model spoke, and pictures that it drew (`images`, as gateways write them)."""
    found = []
    audio = members.object("audio")
    if audio is not None:
        data, sound_id = audio.text("data"), audio.text("id")
        if data is not None:
            extra = {} if sound_id is None else {"id": sound_id}
            found.append(Media(kind="audio", data=data, extra={**extra, **audio.rest()}))
        else:
            found.append(Media(kind="audio", file_id=sound_id or "", extra=audio.rest()))
    images = members.peek("images")
    if isinstance(images, list):
        drawn = [one for item in images if (one := read_drawn(item)) is not None]
        if len(drawn) == len(images):
            members.any("images")
            found += drawn
    return found


def read_drawn(item: Any) -> Media | None:  # noqa: ANN401 - whatever JSON holds
    """One of `images`."""
    inner = item.get("image_url") if isinstance(item, dict) and item.get("type") == "image_url" else None
    if not isinstance(inner, dict) or inner.keys() != {"url"} or not isinstance(inner["url"], str):
        return None
    return image_of(inner["url"])


# ---- writing


def write_messages(messages: list[Message], saying: Saying) -> list[Json]:
    """The member `messages`."""
    said: list[Json] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        parts = [(f"{where}.content[{n}]", part) for n, part in enumerate(message.parts)]
        if message.role == "assistant":
            said.append(_write_assistant(message, parts, where, saying))
        elif message.role in ("system", "developer") or not any(isinstance(p, ToolResult) for _, p in parts):
            said.append(_write_plain(message, parts, where, saying))
        else:
            said += _write_results(message, parts, where, saying)
    return said


def _write_plain(message: Message, parts: list[tuple[str, AnyPart]], where: str, saying: Saying) -> Json:
    """A message of system, developer or user."""
    role = "system" if message.role == "developer" and not saying.own else message.role
    name = {} if message.name is None else {"name": message.name}
    content = write_content(parts, saying)
    return {
        "role": "user" if role == "tool" else role,
        "content": content,
        **name,
        **saying.kept(message.extra, where),
    }


def _write_results(message: Message, parts: list[tuple[str, AnyPart]], where: str, saying: Saying) -> list[Json]:
    said: list[Json] = []
    rest: list[tuple[str, AnyPart]] = []
    for place, part in parts:
        if isinstance(part, ToolResult):
            said.append(_write_result(part, place, rest, saying))
    rest += [one for one in parts if not isinstance(one[1], ToolResult)]
    if rest:
        said.append(_write_plain(Message(role="user", parts=[], name=message.name), rest, where, saying))
    said[0].update(saying.kept(message.extra, where))
    return said


def _write_result(result: ToolResult, where: str, rest: list[tuple[str, AnyPart]], saying: Saying) -> Json:
    """A tool's message. What it cannot hold goes to `rest`."""
    inner = [(f"{where}.content[{number}]", part) for number, part in enumerate(result.parts)]
    held = inner
    if not saying.own:
        held = [one for one in inner if not isinstance(one[1], Media)]
        moved = [one for one in inner if isinstance(one[1], Media)]
        for place, _ in moved:
            saying.report.map(place)
        rest += moved
        if result.failed:
            saying.report.map(f"{where}.failed")  # its text says it
    said: Json = {"role": "tool", "tool_call_id": result.call_id, "content": write_content(held, saying)}
    if saying.own and result.name is not None:
        said["name"] = result.name
    said.update(write_cache(result.cache, where, saying))
    said.update(saying.kept(result.extra, where))
    return said


def _write_assistant(message: Message, parts: list[tuple[str, AnyPart]], where: str, saying: Saying) -> Json:
    kept = parts if saying.own else [(place, own) for place, part in parts if (own := _unsigned(part, place, saying))]
    said: Json = {"role": "assistant"}
    if message.name is not None:
        said["name"] = message.name
    write_spoken(said, kept, saying, answer=False)
    extra = saying.kept(message.extra, where)
    if "tool_calls" in extra and "tool_calls" in said:
        extra = {**extra, "tool_calls": said["tool_calls"] + extra["tool_calls"]}
    said.update(extra)
    return said


def _unsigned(part: AnyPart, where: str, saying: Saying) -> AnyPart | None:
    """The part as another provider may see it: without a signature, which only its own can check."""
    if isinstance(part, Thinking) and (part.signature is not None or part.redacted is not None):
        saying.report.map(where)
        return None
    if isinstance(part, ToolCall) and part.signature is not None:
        saying.report.map(where)
        return replace(part, signature=None)
    return part


def write_spoken(said: Json, parts: list[tuple[str, AnyPart]], saying: Saying, *, answer: bool) -> None:
    """Puts the parts of an assistant's message into `said`. In an answer the content is one string or null."""
    thoughts = [(place, part) for place, part in parts if isinstance(part, Thinking)]
    calls = [(place, part) for place, part in parts if isinstance(part, ToolCall)]
    refusals = [(place, part) for place, part in parts if isinstance(part, Refusal)]
    texts: list[tuple[str, AnyPart]] = []
    for place, part in parts:
        if isinstance(part, Media) and _write_made(said, part, place, saying):
            continue
        if not isinstance(part, Thinking | ToolCall | Refusal):
            texts.append((place, part))
    content = _one_text(texts, saying) if answer else write_content(texts, saying)
    said["content"] = content or ("" if answer and not calls and not refusals else None)
    if refusals:
        said["refusal"] = "".join(part.text for _, part in refusals)
        for place, part in refusals:
            lose_all(saying.report, place, part.extra)
    _write_thoughts(said, thoughts, saying)
    if calls:
        said["tool_calls"] = [write_call(call, place, saying) for place, call in calls]
        _tell_order(parts, saying)


def _tell_order(parts: list[tuple[str, AnyPart]], saying: Saying) -> None:
    """Text after a call comes before it in chat."""
    called = False
    for place, part in parts:
        if called and isinstance(part, Text):
            saying.report.map(place)
        called = called or isinstance(part, ToolCall)


def _one_text(parts: list[tuple[str, AnyPart]], saying: Saying) -> str:
    texts = []
    for place, part in parts:
        if isinstance(part, Text):
            lose_all(saying.report, place, part.extra)
            texts.append(part.text)
        else:
            saying.report.lose(place)
    return "".join(texts)


def _write_made(said: Json, media: Media, where: str, saying: Saying) -> bool:
    """Sound and pictures of the model, each in its own member. False: there is none for it."""
    if media.kind == "audio" and saying.own:
        sound = {"id": media.file_id} if media.data is None else {"data": media.data}
        said["audio"] = {**sound, **media.extra}
        return True
    url = image_url(media) if media.kind == "image" else None
    if url is None or (saying.own and (media.detail or media.extra)):
        return False
    saying.kept(media.extra, where)
    said.setdefault("images", []).append({"type": "image_url", "image_url": url})
    return True


def _write_thoughts(said: Json, thoughts: list[tuple[str, Thinking]], saying: Saying) -> None:
    text = "".join(one.text for _, one in thoughts)
    if text:
        said["reasoning_content"] = text
    if any(one.signature is not None or one.redacted is not None or one.origin is not None for _, one in thoughts):
        said["thinking_blocks"] = [write_block(one, place, saying) for place, one in thoughts]
        return
    for place, one in thoughts:
        lose_all(saying.report, place, one.extra)


def write_block(thought: Thinking, where: str, saying: Saying) -> Json:
    """One of `thinking_blocks`."""
    origin = thought.origin or saying.source
    said: Json = {} if origin == "messages" else {"origin": origin}
    if thought.redacted is not None:
        return {
            "type": "redacted_thinking",
            "data": thought.redacted,
            **said,
            **saying.kept(thought.extra, where),
        }
    if thought.signature is not None:
        said = {"signature": thought.signature, **said}
    return {"type": "thinking", "thinking": thought.text, **said, **saying.kept(thought.extra, where)}
