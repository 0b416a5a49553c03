"""Writes parts as content blocks of Bedrock's Converse.

What it promises: a part is said as well as blocks can, and what cannot be said is told to the Report. The service refuses
blank texts, so those are left out; it takes media as bytes only, so a url is lost. A cache mark becomes a block of its own
behind the part, where the model's maker has a cache. Names of documents are unique, and hold only what the service allows.

It does not know turns and roles (`converse`), and nothing of what models can but `makes_claude`, `marks_cache` and
`knows_failure`.
"""

import base64
import re
from collections.abc import Sequence
from typing import Final, Literal

from sidecar.wire.neutral import (
    AnyPart,
    Json,
    Media,
    MediaKind,
    Refusal,
    Report,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from sidecar.wire.saying import arguments_of
from sidecar.wire.spoke import Distinct, lose_all

_FORMATS: Final[dict[MediaKind, dict[str, str]]] = {
    "image": {
        "image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp",
    },
    "document": {
        "application/pdf": "pdf", "text/csv": "csv", "text/html": "html", "text/plain": "txt", "text/markdown": "md",
        "application/msword": "doc", "application/vnd.ms-excel": "xls",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    },
    "video": {
        "video/mp4": "mp4", "video/quicktime": "mov", "video/x-matroska": "mkv", "video/webm": "webm",
        "video/x-flv": "flv", "video/mpeg": "mpeg", "video/mpg": "mpg", "video/x-ms-wmv": "wmv", "video/wmv": "wmv",
        "video/3gpp": "three_gp",
    },
    "audio": {
        "audio/mp3": "mp3", "audio/mpeg": "mp3", "audio/wav": "wav", "audio/x-wav": "wav", "audio/wave": "wav",
        "audio/opus": "opus", "audio/aac": "aac", "audio/x-aac": "x-aac", "audio/flac": "flac", "audio/mp4": "mp4",
        "audio/ogg": "ogg", "audio/m4a": "m4a", "audio/x-m4a": "m4a", "audio/pcm": "pcm", "audio/webm": "webm",
    },
}  # fmt: skip
_NO_ID: Final = re.compile(r"[^a-zA-Z0-9_.:-]")  # what the ids of calls must not have
_MAX_ID_CHARS: Final = 64
_NO_NAME: Final = re.compile(r"[^a-zA-Z0-9\s()\[\]-]")  # the same for names of documents
_SPACES: Final = re.compile(r"\s+")
_MAX_NAME_CHARS: Final = 200


def makes_claude(model: str) -> bool:
    """Whether the model is Anthropic's, by its id: a profile that hides what it stands for is taken for another one's."""
    return "anthropic." in model


def marks_cache(model: str) -> bool:
    """Whether prompts of this model can be cached where they say so."""
    return makes_claude(model) or "amazon.nova" in model


def knows_failure(model: str) -> bool:
    """Whether a result of a tool may say that the tool failed."""
    return marks_cache(model)


def cache_point(cache: Literal["5m", "1h"]) -> Json:
    """The block that says: cached up to here. Five minutes are the default."""
    return {"cachePoint": {"type": "default", "ttl": "1h"} if cache == "1h" else {"type": "default"}}


class Blocks:
    """Writes the parts of one request. Ids of calls and names of documents are the same, or different, all through it."""

    def __init__(self, request: Request, report: Report) -> None:
        self._origin = request.format
        self._report = report
        self._cached = marks_cache(request.model)
        self._failing = knows_failure(request.model)
        self._ids: dict[str, str] = {}
        self._call_ids = Distinct("_", _MAX_ID_CHARS)
        self._names = Distinct("-", _MAX_NAME_CHARS)

    def of(self, part: AnyPart, at: str, *, media: bool) -> list[Json]:
        """The block of one part, with its mark behind it; nothing where the part cannot be said, or says nothing.

        `media`: images and the like may stand here.
        """
        if isinstance(part, Text) and part.cache is None and not part.extra and part.text.strip():
            return [{"text": part.text}]  # the usual part
        lose_all(self._report, at, part.extra)
        if isinstance(part, Media) and not media:
            self._report.lose(at)
            return []
        block = self._said(part, at)
        if block is None:
            return []
        return [block] if part.cache is None else [block, *self.mark(part.cache, at)]

    def mark(self, cache: Literal["5m", "1h"], at: str) -> list[Json]:
        """The block behind something that is to be cached."""
        if self._cached:
            return [cache_point(cache)]
        self._report.map(f"{at}.cache")
        return []

    def _said(self, part: AnyPart, at: str) -> Json | None:
        match part:
            case Text():
                return self._text(part.text, at)
            case ToolCall():
                return self._call(part, at)
            case ToolResult():
                return {"toolResult": self._result(part, at)}
            case Thinking():
                return self._thoughts(part, at)
            case Media():
                return self._media(part, at)
            case Refusal():
                self._report.map(at)
                return self._text(part.text, at)
            case _:  # Opaque
                self._report.lose(at)
                return None

    def _text(self, text: str, at: str) -> Json | None:
        if text.strip():
            return {"text": text}
        if text:
            self._report.map(at)
        return None

    def _thoughts(self, part: Thinking, at: str) -> Json | None:
        """Only what this service signed goes back to it."""
        unsigned = part.signature is None and part.redacted is None
        if unsigned or (part.origin or self._origin) != "converse":
            self._report.map(at)
            return None
        if part.redacted is not None:
            return {"reasoningContent": {"redactedContent": part.redacted}}
        return {"reasoningContent": {"reasoningText": {"text": part.text, "signature": part.signature}}}

    def _call(self, part: ToolCall, at: str) -> Json:
        given, mapped = arguments_of(part)
        if mapped:
            self._report.map(f"{at}.arguments")
        if part.signature is not None:
            self._report.map(f"{at}.signature")  # only its maker wants it
        return {"toolUse": {"toolUseId": self._id(part.id), "name": part.name, "input": given}}

    def _id(self, said: str) -> str:
        """The id of a call as the service allows it; the same one for the call and for its result."""
        made = self._ids.get(said)
        if made is None:
            made = self._ids[said] = self._call_ids.make(_NO_ID.sub("_", said) or "_")
        return made

    def _result(self, part: ToolResult, at: str) -> Json:
        block: Json = {"toolUseId": self._id(part.call_id), "content": self._inner(part.parts, f"{at}.content")}
        if part.failed and self._failing:
            block["status"] = "error"
        elif part.failed:
            self._report.map(f"{at}.failed")  # its text says it
        return block

    def _inner(self, parts: Sequence[AnyPart], where: str) -> list[Json]:
        """The content of a result; an empty one is an empty text."""
        content: list[Json] = []
        for number, part in enumerate(parts):
            at = f"{where}[{number}]"
            lose_all(self._report, at, part.extra)
            if part.cache is not None:
                self._report.map(f"{at}.cache")
            if isinstance(part, Text):
                content.append({"text": part.text})
            elif isinstance(part, Media) and part.kind != "audio":
                block = self._media(part, at)
                content += [] if block is None else [block]
            else:
                self._report.lose(at)
        return content or [{"text": ""}]

    def _media(self, part: Media, at: str) -> Json | None:
        formats = _FORMATS[part.kind]
        said = (part.media_type or "").partition(";")[0].strip().lower()
        form, data = formats.get(said), part.data
        if part.kind == "document":
            if part.text is not None:
                form, data = formats.get(said, "txt"), base64.b64encode(part.text.encode(errors="replace")).decode()
            elif form is None and said.startswith("text/"):
                form = "txt"
                self._report.map(f"{at}.media_type")
        if form is None or data is None:
            self._report.lose(at)
            return None
        if part.detail not in (None, "auto"):
            self._report.lose(f"{at}.detail")
        block: Json = {"format": form, "source": {"bytes": data}}
        if part.kind == "document":
            block["name"] = self._name(part, at)
        elif part.name is not None:
            self._report.map(f"{at}.name")  # a label: what it names is there
        return {part.kind: block}

    def _name(self, part: Media, at: str) -> str:
        """A document's name as the service allows it: each has one, and no two the same."""
        plain = _SPACES.sub(" ", _NO_NAME.sub("-", part.name or "")).strip() or "document"
        name = self._names.make(plain)
        if part.name and name != part.name:
            self._report.map(f"{at}.name")
        return name
