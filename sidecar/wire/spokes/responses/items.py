"""OpenAI Responses: the items that a model makes (messages, calls, reasoning), of requests and answers, both ways.

An item is one part, or some parts in a row. Where one begins is told by the `frame` of its first part: `item` in it holds
the item's id, status and phase; `in` says where a thought stands (summary, content, or nothing: the item has no text).
Members that are not known here are in `extra["item"]` of the first part, those of a call in `extra` itself.

**Signatures.** `encrypted_content` is the signature of an item's last thought. Of another provider's thoughts it carries the
maker ("sidecar:messages:..."), because the client gives it back in a request that does not say who made it.

Canonical form: a message without content is left out; empty annotations and logprobs are absent in a request, and there in
an answer. A summary is said before the content.
"""

import re
from typing import Any, Final, get_args

from sidecar.wire.members import Members
from sidecar.wire.neutral import (
    AnyPart,
    Format,
    Json,
    Opaque,
    Refusal,
    Text,
    Thinking,
    TokenLogprob,
    ToolCall,
)
from sidecar.wire.saying import Saying
from sidecar.wire.spokes.responses.logprobs import write_logprobs
from sidecar.wire.spokes.responses.parts import read_content, write_part

MADE_BY: Final = "sidecar:"  # begins the encrypted content of another maker
REDACTED: Final = "redacted:"  # and then what is no text at all
_FORMATS: Final = frozenset(get_args(Format))
_NO_ID: Final = re.compile(r"[^a-zA-Z0-9_-]")
_TEXTS: Final = {"summary": "summary_text", "content": "reasoning_text"}


class Ids:
    """Ids for the items of one answer whose provider knows no items: never twice, equal for equal answers."""

    def __init__(self, response_id: str) -> None:
        self._tail = _NO_ID.sub("_", response_id)[-40:]
        self._count = 0

    def make(self, prefix: str) -> str:
        """The next one; `prefix` says of what."""
        self._count += 1
        return f"{prefix}_{self._tail}_{self._count}"


# ---- reading


def read_item(value: Json, where: str) -> list[AnyPart]:
    """The parts of an item that a model made. One of a type that is not known here is an Opaque.

    Raises:
        TranslationError: a member has a wrong type; says where.
    """
    members = Members(value, where)
    match members.any("type"):
        case "message" | None:
            return _read_message(members, value)
        case "function_call":
            return [_read_call(members, custom=False)]
        case "custom_tool_call":
            return [_read_call(members, custom=True)]
        case "reasoning":
            return _read_reasoning(members, value)
        case _:
            return [whole(value)]


def whole(value: Json) -> Opaque:
    """An item that only this format knows."""
    return Opaque(value=value, frame={"whole": True})


def take_frame(members: Members) -> Json:
    """What nobody misses in another format."""
    return {name: members.any(name) for name in ("id", "status", "phase") if members.has(name)}


def _read_message(members: Members, value: Json) -> list[AnyPart]:
    members.any("role")
    parts = read_content(members.any("content"), members.at("content"))
    frame, rest = take_frame(members), members.rest()
    if not parts:
        return [whole(value)] if rest else []
    return _framed(parts, frame, rest)


def _framed(parts: list[AnyPart], frame: Json, rest: Json) -> list[AnyPart]:
    first = parts[0]
    first.frame = {**(first.frame or {}), "item": frame}
    if rest:
        first.extra["item"] = rest
    return parts


def _read_call(members: Members, *, custom: bool) -> ToolCall:
    return ToolCall(
        id=members.needed_text("call_id"),
        name=members.needed_text("name"),
        arguments=members.text("input" if custom else "arguments") or "",
        custom=custom,
        frame={"item": take_frame(members)},
        extra=members.rest(),
    )


def _read_reasoning(members: Members, value: Json) -> list[AnyPart]:
    parts: list[Thinking] = []
    for place, kind in _TEXTS.items():
        for inner in members.objects(place):
            if inner.text("type") != kind:
                return [whole(value)]
            text = inner.needed_text("text")
            parts.append(Thinking(text=text, frame={"in": place}, extra=inner.rest()))
    signature, origin = made_by(members.text("encrypted_content"))
    if not parts:
        parts.append(Thinking(frame={"in": "nothing"}))
        if signature is not None and origin is not None and signature.startswith(REDACTED):
            parts[0].redacted, signature = signature.removeprefix(REDACTED), None
            parts[0].origin = origin
    if signature is not None:
        parts[-1].signature, parts[-1].origin = signature, origin
    frame, rest = take_frame(members), members.rest()
    return _framed([*parts], frame, rest)


def made_by(said: str | None) -> tuple[str | None, Format | None]:
    """A signature and who made it, None where it is OpenAI's own; None for an empty one: it proves nothing."""
    if said and said.startswith(MADE_BY):
        maker, _, signature = said.removeprefix(MADE_BY).partition(":")
        if maker in _FORMATS:
            return signature or None, maker  # type: ignore[return-value]  # it is one
    return said or None, None


# ---- writing


def sealed(thought: Thinking, source: Format) -> str | None:
    """The `encrypted_content` of a thought; None where nothing is signed."""
    maker = thought.origin or source
    if thought.redacted is not None:
        secret = thought.redacted if maker == "responses" else f"{REDACTED}{thought.redacted}"
    elif thought.signature is not None:
        secret = thought.signature
    else:
        return None
    return secret if maker == "responses" else f"{MADE_BY}{maker}:{secret}"


class ItemWriter:
    """Writes the parts of one turn as items. `ids`: they are an answer's; in a request None.

    In an answer every maker's thoughts are said. In a request those that OpenAI signed are, of this format also those that
    nobody signed; others are left out and mapped.
    """

    def __init__(self, saying: Saying, ids: Ids | None) -> None:
        self.items: list[Json] = []
        self._saying = saying
        self._ids = ids
        self._content: list[Json] | None = None  # of the message that is being said
        self._messages: list[Json] = []
        self._thought: Json | None = None  # the item of reasoning that may go on
        self._unsigned: list[tuple[str, Thinking]] = []  # OpenAI's thoughts from another format, till their signature

    def write(self, parts: list[tuple[str, AnyPart]], logprobs: list[TokenLogprob] | None = None) -> list[Json]:
        """The items; each part has its path. `logprobs` are those of the texts, in order."""
        texts = [part for _, part in parts if isinstance(part, Text)]
        tokens = Tokens(logprobs or [])
        for where, part in parts:
            if isinstance(part, Thinking):
                self._think(part, where)
                continue
            self._thought = None
            self._forget()
            if isinstance(part, ToolCall):
                self._content = None
                self.items.append(self._call(part, where))
                continue
            said = write_part(part, where, "output_text", self._saying)
            if said is None:
                continue
            if isinstance(part, Opaque) and "whole" in (part.frame or {}):
                self._content = None
                self.items.append(said)
                continue
            if self._ids is not None and isinstance(part, Text):
                own = tokens.all() if part is texts[-1] else tokens.of(part)
                said = {"annotations": [], "logprobs": write_logprobs(own), **said}
            self._say(said, part)
        self._forget()
        return self._plain()

    def _say(self, said: Json, part: AnyPart) -> None:
        """A part of a message's content; `item` in its frame begins another message."""
        frame = part.frame or {}
        if self._content is None or "item" in frame:
            self._content = []
            item: Json = {"type": "message", "role": "assistant", "content": self._content}
            self._begin(item, "msg", frame)
            item.update(part.extra.get("item", {}) if self._saying.own else {})
            self.items.append(item)
            self._messages.append(item)
        self._content.append(said)

    def _begin(self, item: Json, prefix: str, frame: Json) -> None:
        if self._ids is not None:
            item["id"] = self._ids.make(prefix)
            if prefix in ("msg", "fc"):
                item["status"] = "completed"
        item.update(frame.get("item", {}) if self._saying.own else {})

    def _call(self, call: ToolCall, where: str) -> Json:
        if call.signature is not None:
            self._saying.report.map(f"{where}.signature")  # only its maker wants it
        self._saying.marks(call.cache, where)
        item = call_item(call)
        self._begin(item, "ctc" if call.custom else "fc", call.frame or {})
        item.update(self._saying.kept(call.extra, where))
        return item

    # ---- thoughts

    def _think(self, part: Thinking, where: str) -> None:
        self._content = None
        maker = part.origin or self._saying.source
        if self._ids is None and maker != "responses":
            self._saying.report.map(where)
        elif self._saying.own or self._ids is not None:
            self._reason(part, where)
        elif part.signature is None and part.redacted is None:
            self._unsigned.append((where, part))
        else:
            texts = [one.text for one in (*(before for _, before in self._unsigned), part) if one.text]
            self._unsigned = []
            summary = [{"type": "summary_text", "text": text} for text in texts]
            item: Json = {"type": "reasoning", "summary": summary, "encrypted_content": sealed(part, maker)}
            self._saying.kept(part.extra, where)
            self.items.append(item)

    def _forget(self) -> None:
        """Thoughts whose signature did not come: OpenAI takes none without."""
        for where, _ in self._unsigned:
            self._saying.report.map(where)
        self._unsigned = []

    def _reason(self, part: Thinking, where: str) -> None:
        frame = part.frame or {}
        item = self._thought
        if item is None or "item" in frame or not self._saying.own:
            item = self._thought = {"type": "reasoning", "summary": []}
            self._begin(item, "rs", frame)
            if "item" in part.extra and self._saying.own:
                item.update(part.extra["item"])
            self.items.append(item)
        extra = self._saying.kept(part.extra, where)
        place = frame.get("in", "summary" if part.text else "nothing")
        if place != "nothing":
            beside = {name: value for name, value in extra.items() if name != "item"}
            item.setdefault(place, []).append({"type": _TEXTS[place], "text": part.text, **beside})
        secret = sealed(part, self._saying.source)
        if secret is not None:
            item["encrypted_content"] = secret

    def _plain(self) -> list[Json]:
        """In a request a message's content that is one plain text is a string."""
        if self._ids is None:
            for item in self._messages:
                first, *more = item["content"]
                if not more and first.keys() == {"type", "text"}:
                    item["content"] = first["text"]
        return self.items


def call_item(call: ToolCall) -> Json:
    """The item of a call, without id."""
    if call.custom:
        return {"type": "custom_tool_call", "call_id": call.id, "name": call.name, "input": call.arguments}
    return {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


class Tokens:
    """Shares a choice's tokens out among its texts: to each as many as its own frame says, or as its text is long."""

    def __init__(self, tokens: list[TokenLogprob]) -> None:
        self._tokens = tokens
        self._at = 0

    def of(self, part: Text) -> list[TokenLogprob]:
        """Those of one text."""
        count = (part.frame or {}).get("tokens")
        start = self._at
        if count is not None:
            self._at += count
        else:
            size = 0
            while size < len(part.text) and self._at < len(self._tokens):
                size += len(self._tokens[self._at].token)
                self._at += 1
        return self._tokens[start : self._at]

    def all(self) -> list[TokenLogprob]:
        """The rest."""
        start, self._at = self._at, len(self._tokens)
        return self._tokens[start:]


def paths(parts: list[AnyPart], where: str) -> list[tuple[str, Any]]:
    """Each part with its path."""
    return [(f"{where}[{number}]", part) for number, part in enumerate(parts)]


def has_refusal(parts: list[AnyPart]) -> bool:
    """Whether the model said no in a part of its own."""
    return any(isinstance(part, Refusal) for part in parts)
