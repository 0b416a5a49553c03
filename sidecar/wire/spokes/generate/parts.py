"""Parts of a message in Gemini's words, both ways.

A signature that stands on a text is read as an empty thought after it, which is how a stream brings it too: the writer
gives `{"text": "", "thoughtSignature": ...}`. On media it stays where it was. Code that was executed, tools that the server
ran and whatever is unknown stay whole (`Opaque`).

**Foreign signatures.** What another provider signed never goes to Gemini. A client of Gemini's format shall be able to send
it back, though, so it is wrapped with its origin in a `thoughtSignature`, and unwrapped when it returns.
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from sidecar.wire.members import Json
from sidecar.wire.neutral import (
    AnyPart,
    Format,
    Media,
    Opaque,
    Refusal,
    Report,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from sidecar.wire.spoke import lose_all
from sidecar.wire.spokes.generate.calls import CallIds, result_response, result_text
from sidecar.wire.spokes.generate.media import read_media, write_media
from sidecar.wire.spokes.generate.members import GenerateMembers, json_object, json_text

_WRAPPED = "bGxtLXNpZGVjYXI6"  # base64 of the mark below: 12 bytes, so no letter depends on what follows
_MARK = b"llm-sidecar:"
_FORMATS = frozenset(get_args(Format))
_SIGNED = frozenset({"thought", "thoughtSignature"})


# ---- reading


def read_parts(content: GenerateMembers, ids: CallIds) -> list[AnyPart]:
    """The parts of a Content. Raises TranslationError."""
    parts: list[AnyPart] = []
    where = content.at("parts")
    for number, value in enumerate(content.items("parts") or ()):
        if isinstance(value, dict) and len(value) == 1 and isinstance(text := value.get("text"), str):
            parts.append(Text(text=text))  # nearly all of them
        else:
            parts.extend(read_part(GenerateMembers(value, f"{where}[{number}]"), ids))
    return parts


def read_part(members: GenerateMembers, ids: CallIds) -> list[AnyPart]:
    """One part, and the thought that its signature stands for. Raises TranslationError."""
    if members.has("functionCall"):
        return [_read_call(members, ids)]
    if members.has("functionResponse"):
        return [_read_result(members, ids)]
    media = read_media(members)
    if media is not None:
        return [media]
    text = members.text("text")
    if text is None and not (_SIGNED.issuperset(members.rest()) and members.rest()):
        return [Opaque(value=members.rest())]
    thought, signature = members.flag("thought"), members.text("thoughtSignature")
    if thought:
        return [_thinking(text or "", signature, members.rest())]
    if signature is None:
        return [Text(text=text or "", extra=members.rest())]
    if not text:
        return [_thinking("", signature, members.rest())]
    return [Text(text=text, extra=members.rest()), _thinking("", signature, {})]


def _read_call(members: GenerateMembers, ids: CallIds) -> ToolCall:
    inner = GenerateMembers(members.any("functionCall"), members.at("functionCall"))
    name, said, arguments = inner.text("name") or "", inner.text("id"), inner.mapping("args")
    return ToolCall(
        id=ids.call(name, said),
        name=name,
        arguments=json_text(arguments, inner.at("args")) if arguments else "{}",
        signature=members.text("thoughtSignature"),
        extra=_rest("functionCall", inner, members),
    )


def _read_result(members: GenerateMembers, ids: CallIds) -> ToolResult:
    inner = GenerateMembers(members.any("functionResponse"), members.at("functionResponse"))
    name, said, response = inner.text("name"), inner.text("id"), inner.mapping("response")
    failed, parts = False, list[AnyPart]()
    if response:
        failed, text = result_text(response, inner.at("response"))
        parts.append(Text(text=text))
    for part in inner.objects("parts"):
        media = read_media(part)
        parts.append(Opaque(value=part.rest()) if media is None else media)
    call_id = ids.result(name or "", said)
    return ToolResult(
        call_id=call_id, parts=parts, name=name, failed=failed, extra=_rest("functionResponse", inner, members)
    )


def _rest(name: str, inner: GenerateMembers, members: GenerateMembers) -> Json:
    extra, rest = members.rest(), inner.rest()
    return {**extra, name: rest} if rest else extra


def _thinking(text: str, signature: str | None, extra: Json) -> Thinking:
    thought = Thinking(text=text, signature=signature, extra=extra)
    if signature is not None and signature.startswith(_WRAPPED):
        _unwrap(thought, signature)
    return thought


def _unwrap(thought: Thinking, signature: str) -> None:
    """Gives a thought back the signature that `_wrap` made a text of; any other text stays what it is."""
    try:
        wrapped = base64.b64decode(signature, altchars=b"-_" if "-" in signature or "_" in signature else None)
        origin, kind, value = wrapped.removeprefix(_MARK).decode().split(":", 2)
    except (binascii.Error, ValueError):
        return
    if origin in _FORMATS and kind in ("signature", "redacted"):
        thought.origin = cast("Format", origin)
        thought.signature = value if kind == "signature" else None
        thought.redacted = value if kind == "redacted" else None


def _wrap(origin: str, thought: Thinking) -> str:
    kind, value = ("signature", thought.signature) if thought.redacted is None else ("redacted", thought.redacted)
    text = f"{origin}:{kind}:{value}".encode("utf-8", "replace")
    return base64.b64encode(_MARK + text).decode()


# ---- writing


@dataclass(slots=True)
class PartsWriter:
    """Writes the parts of one body. `source`: the format that it was read from; `to_client`: it is an answer."""

    source: Format
    report: Report
    ids: CallIds = field(default_factory=CallIds)
    to_client: bool = False
    _names: dict[str, str] = field(default_factory=dict)  # of tools, by their calls' ids

    @property
    def own(self) -> bool:
        """Whether extras and opaque parts are Gemini's own."""
        return self.source == "generate"

    def write(self, parts: list[AnyPart], where: str) -> list[Json]:
        """The parts that can be said; what cannot be is reported under its path below `where`."""
        written = []
        for number, part in enumerate(parts):
            said = self.part(part, f"{where}.parts[{number}]")
            if said is not None:
                written.append(said)
        return written

    def part(self, part: AnyPart, where: str) -> Json | None:
        """One part; None: there is nothing to say."""
        if part.cache is not None:
            self.report.map(f"{where}.cache")
        match part:
            case Media():
                return write_media(part, self.own, where, self.report)
            case Opaque():
                if not self.own:
                    self.report.lose(where)
                return part.value if self.own else None
        said = self._said(part, where)
        if part.extra and said is not None:
            return self._with_extra(said, part.extra, where)
        return said

    def _said(self, part: Text | Refusal | Thinking | ToolCall | ToolResult, where: str) -> Json | None:
        match part:
            case Text():
                return {"text": part.text} if part.text or self.own or self.to_client else None  # a call's is refused
            case Refusal():
                self.report.map(where)
                return {"text": part.text}
            case Thinking():
                return self._thought(part, where)
            case ToolCall():
                return self._call(part, where)
        return self._result(part, where)

    def _with_extra(self, said: Json, extra: Json, where: str) -> Json:
        if not self.own:
            lose_all(self.report, where, extra)
            return said
        for name, value in extra.items():
            inner = said.get(name)
            said[name] = {**inner, **value} if isinstance(inner, dict) else value
        return said

    def _thought(self, part: Thinking, where: str) -> Json | None:
        signature = part.signature
        if signature is not None or part.redacted is not None:
            origin = part.origin or self.source
            if origin != "generate" and not self.to_client:
                self.report.map(where)
                return None
            if origin != "generate":
                signature = _wrap(origin, part)
        elif not part.text and not self.own:
            return None
        if signature is None:
            return {"text": part.text, "thought": True}
        if not part.text:
            return {"text": "", "thoughtSignature": signature}
        return {"text": part.text, "thought": True, "thoughtSignature": signature}

    def _call(self, part: ToolCall, where: str) -> Json:
        self._names[part.id] = part.name
        call_id = self.ids.tell_call(part.name, part.id) if self.own else part.id
        inner: Json = {} if call_id is None else {"id": call_id}
        inner |= {"name": part.name, "args": self.arguments(part, where)}
        said: Json = {"functionCall": inner}
        if part.signature is not None:
            said["thoughtSignature"] = part.signature
        return said

    def arguments(self, call: ToolCall, where: str) -> Json:
        """Arguments as the object that Gemini wants; what is none, or a custom tool's text, stands under `arguments`."""
        text = call.arguments
        arguments = None if call.custom else json_object(text) if text else {}
        if arguments is None:
            self.report.map(f"{where}.arguments")
            return {"arguments": text}
        return arguments

    def _result(self, part: ToolResult, where: str) -> Json:
        name = part.name if part.name is not None or self.own else self._names.get(part.call_id)
        if name is None and not self.own:
            self.report.lose(f"{where}.name")
            name = "unknown"
        call_id = self.ids.tell_result(name or "", part.call_id) if self.own else part.call_id
        inner: Json = {} if call_id is None else {"id": call_id}
        if name is not None:
            inner["name"] = name
        texts, media = self._result_parts(part, where)
        if len(texts) > 1:
            self.report.map(where)
        inner["response"] = result_response(part.failed, "\n".join(texts) if texts else None)
        if media:
            inner["parts"] = media
        return {"functionResponse": inner}

    def _result_parts(self, part: ToolResult, where: str) -> tuple[list[str], list[Json]]:
        """What a tool answered: its texts, and its media as parts of their own."""
        texts, media = list[str](), list[Any]()
        for number, one in enumerate(part.parts):
            if isinstance(one, Text) and not one.extra and one.cache is None:
                texts.append(one.text)
                continue
            said = self.part(one, f"{where}.parts[{number}]")
            if said is not None and isinstance(one, Text):
                texts.append(one.text)
            elif said is not None and isinstance(one, Media | Opaque):
                media.append(said)
            elif said is not None:
                self.report.lose(f"{where}.parts[{number}]")
        return texts, media
