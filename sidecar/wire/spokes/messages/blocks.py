"""Writes parts as content blocks of the Messages API, for requests, answers and streams.

What it promises: a block of this format that was read and is written again is the same JSON, up to the canonical form of
`messages`. A part of another format is said as well as blocks can, and what cannot be said is told to the Report.

**Signatures.** Thoughts that another provider signed reach a client of this format as thoughts too. Their signature carries
its maker then ("sidecar:generate:..."), because the client gives it back in a request that does not say who made it.
"""

import base64
import re
from collections.abc import Sequence
from typing import Final

from sidecar.wire.neutral import (
    AnyPart,
    Format,
    Json,
    Media,
    Refusal,
    Report,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from sidecar.wire.saying import arguments_of
from sidecar.wire.spoke import Distinct, lose_all
from sidecar.wire.spokes.messages.parts import MADE_BY

_IMAGES: Final = ("image/jpeg", "image/png", "image/gif", "image/webp")
_PDF: Final = "application/pdf"
_NO_ID: Final = re.compile(r"[^a-zA-Z0-9_-]")  # what the ids of calls must not have
_MAX_ID_CHARS: Final = 1 << 20  # there is no limit


def cache_control(cache: str) -> Json:
    """What Anthropic calls it; five minutes are its default."""
    return {"type": "ephemeral", "ttl": "1h"} if cache == "1h" else {"type": "ephemeral"}


class Blocks:
    """Writes the parts of one request or answer as content blocks. `origin` is the format that they were read from."""

    def __init__(self, origin: Format | None, report: Report, *, answer: bool) -> None:
        """`answer`: for a client; ids pass as they are then, and thoughts of all makers."""
        self.own = origin == "messages"
        self.dropped = False  # thoughts were, that the provider would refuse
        self._origin = origin
        self._report = report
        self._answer = answer
        self._ids: dict[str, str] = {}
        self._call_ids = Distinct("_", _MAX_ID_CHARS)

    def of(self, parts: Sequence[AnyPart], where: str, *, media: bool = True) -> list[Json]:
        """The blocks of one turn, or of one tool's result. `media`: other formats' images may stand here."""
        blocks: list[Json] = []
        for number, part in enumerate(parts):
            if isinstance(part, Text) and self._says(part.text) and not part.extra and part.cache is None:
                blocks.append({"type": "text", "text": part.text})  # the usual part
                continue
            at = f"{where}[{number}]"
            if isinstance(part, Media) and not media and not self.own:
                self._report.lose(at)
                continue
            block = self.block(part, at)
            if block is not None:
                blocks.append(block)
        return blocks

    def block(self, part: AnyPart, at: str, *, begins: bool = False) -> Json | None:
        """One block; None: the part cannot be said, or says nothing. `begins`: it is empty now and grows."""
        if begins and isinstance(part, Text | Refusal):
            if isinstance(part, Refusal):
                self._report.map(at)
            return self._with_extras({"type": "text", "text": ""}, part, at)
        if begins and isinstance(part, Media) and not self.own:
            self._report.lose(at)  # answers have no media
            return None
        block = self._said(part, at)
        return None if block is None else self._with_extras(block, part, at)

    def _said(self, part: AnyPart, at: str) -> Json | None:
        match part:
            case Text():
                return self._text(part, at)
            case ToolCall():
                return self._call(part, at)
            case ToolResult():
                return self._result(part, at)
            case Thinking():
                return self._thoughts(part, at)
            case Media():
                return self._media(part, at)
            case Refusal():
                self._report.map(at)
                return {"type": "text", "text": part.text}
            case _:
                if not self.own:
                    self._report.lose(at)
                return part.value if self.own else None

    def _says(self, text: str) -> bool:
        """Whether there may be a block of this text: in a call the API refuses one of white space alone."""
        return bool(text if self._answer else text.strip())

    def _text(self, part: Text, at: str) -> Json | None:
        if self.own or self._says(part.text):
            return {"type": "text", "text": part.text}
        if part.text:
            self._report.map(at)
        return None

    def _with_extras(self, block: Json, part: AnyPart, at: str) -> Json:
        """The block with what stood beside: put back in its own format, else reported."""
        if part.cache is not None:
            block["cache_control"] = cache_control(part.cache)
        if part.frame and self.own:
            block |= part.frame
        if part.extra:
            if self.own:
                block |= {name: value for name, value in part.extra.items() if name != "source"}
            else:
                lose_all(self._report, at, part.extra)
        return block

    def signed(self, signature: str, maker: Format | None) -> str:
        """A signature as a client of this format is given it; none where nobody knows who made it."""
        maker = maker or self._origin
        if maker == "messages":
            return signature
        return "" if maker is None else f"{MADE_BY}{maker}:{signature}"

    def call_id(self, said: str) -> str:
        """The id of a call as the API allows it; the same one for the call and for its result."""
        if self.own or self._answer:
            return said
        made = self._ids.get(said)
        if made is None:
            made = self._ids[said] = self._call_ids.make(_NO_ID.sub("_", said) or "_")
        return made

    def _thoughts(self, part: Thinking, at: str) -> Json | None:
        """Thoughts go to the provider that signed them only, and to every client."""
        unsigned = part.signature is None and part.redacted is None
        if not self._answer and (unsigned or (part.origin or self._origin) != "messages"):
            self.dropped = True
            self._report.map(at)
            return None
        if part.redacted is not None:
            return {"type": "redacted_thinking", "data": self.signed(part.redacted, part.origin)}
        signature = self.signed(part.signature, part.origin) if part.signature else ""
        return {"type": "thinking", "thinking": part.text, "signature": signature}

    def _call(self, part: ToolCall, at: str) -> Json:
        given, mapped = arguments_of(part)
        if mapped:
            self._report.map(f"{at}.arguments")
        if part.signature is not None:  # an arm that did not make it does not want it; a client would have sent it back
            (self._report.lose if self._answer else self._report.map)(f"{at}.signature")
        return {"type": "tool_use", "id": self.call_id(part.id), "name": part.name, "input": given}

    def _result(self, part: ToolResult, at: str) -> Json:
        block: Json = {"type": "tool_result", "tool_use_id": self.call_id(part.call_id)}
        content = self.of(part.parts, f"{at}.content")
        if content:
            block["content"] = plain(content)
        if part.failed:
            block["is_error"] = True
        return block

    def _media(self, part: Media, at: str) -> Json | None:
        source = self._own_source(part) if self.own else self._source(part, at)
        if source is None:
            return None
        if part.detail not in (None, "auto"):
            self._report.lose(f"{at}.detail")
        block: Json = {"type": part.kind, "source": source}
        if part.name is not None and part.kind == "document":
            block["title"] = part.name
        elif part.name is not None:
            self._report.map(f"{at}.name")  # a label: what it names is there
        return block

    @staticmethod
    def _own_source(part: Media) -> Json:
        rest: Json = part.extra.get("source") or {}
        if "type" in rest:
            return rest
        if part.file_id is not None:
            return {"type": "file", "file_id": part.file_id, **rest}
        if part.url is not None:
            return {"type": "url", "url": part.url, **rest}
        if part.text is not None:
            return {"type": "text", "media_type": part.media_type, "data": part.text, **rest}
        return {"type": "base64", "media_type": part.media_type, "data": part.data, **rest}

    def _source(self, part: Media, at: str) -> Json | None:
        """A source of another format, where Anthropic takes this kind, type and place."""
        if part.kind == "document" and part.text is not None:
            return {"type": "text", "media_type": "text/plain", "data": part.text}
        types = {"image": _IMAGES, "document": (_PDF,)}.get(part.kind, ())
        if types and part.url is not None and part.url.startswith(("https://", "http://")):
            if part.media_type is None or part.media_type in types:
                return {"type": "url", "url": part.url}
        elif part.data is not None and part.media_type in types:
            return {"type": "base64", "media_type": part.media_type, "data": part.data}
        elif part.kind == "document" and part.data is not None and (part.media_type or "").startswith("text/"):
            text = _decoded(part.data)
            if text is not None:
                if part.media_type != "text/plain":
                    self._report.map(f"{at}.media_type")
                return {"type": "text", "media_type": "text/plain", "data": text}
        self._report.lose(at)
        return None


def plain(blocks: list[Json]) -> str | list[Json]:
    """A content that is one text and nothing else is said as that text."""
    if len(blocks) == 1 and len(blocks[0]) == 2 and blocks[0]["type"] == "text":
        return str(blocks[0]["text"])
    return blocks


def _decoded(data: str) -> str | None:
    try:
        return base64.b64decode(data, validate=True).decode()
    except ValueError:
        return None
