"""Reads content blocks of the Messages API into parts. Requests, answers and streams all use it.

What it promises: members that have no neutral form stay in `extra`, and a block that has none stays whole (Opaque), so that
`blocks` can write the same JSON again. It does not know turns, tools' definitions or streams.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, get_args

import orjson

from sidecar.errors import TranslationError
from sidecar.wire.members import Members, wrong
from sidecar.wire.neutral import (
    AnyPart,
    Format,
    Json,
    Media,
    MediaKind,
    Opaque,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

_CACHES: Final = (
    ({"type": "ephemeral"}, "5m"),
    ({"type": "ephemeral", "ttl": "5m"}, "5m"),
    ({"type": "ephemeral", "ttl": "1h"}, "1h"),
)
_MODEL: Final = {"type": "direct"}  # who called a tool, where it was no program of the model's
MADE_BY: Final = "sidecar:"  # begins a signature of another maker, see `blocks`


def content_parts(value: object, where: str) -> list[AnyPart]:
    """The parts of a `content`: text alone, or a list of blocks."""
    if isinstance(value, str):
        return [Text(text=value)]
    if not isinstance(value, list):
        wrong(where, "a string or a list", value)
    return [read_part(block, f"{where}[{number}]") for number, block in enumerate(value)]


def read_part(value: Any, where: str, readers: "_Readers | None" = None) -> AnyPart:  # noqa: ANN401 - any JSON
    """One content block. Raises TranslationError where a block of a known type has members of wrong types."""
    if (
        isinstance(value, dict)
        and len(value) == 2
        and value.get("type") == "text"
        and isinstance(value.get("text"), str)
    ):
        return Text(text=value["text"])  # the usual block
    block = Members(value, where)
    reader = (_READERS if readers is None else readers).get(block.needed_text("type"))
    part = None if reader is None else reader(block)
    return Opaque(value=value) if part is None else part


def common(node: Members) -> dict[str, Any]:
    """`cache` and `extra` of a node, taken last. A cache_control of an unknown kind is an extra."""
    said = node.any("cache_control")
    extra = node.rest()
    if said is None:
        return {"extra": extra}
    for known, cache in _CACHES:
        if said == known:
            return {"cache": cache, "extra": extra}
    extra["cache_control"] = said
    return {"extra": extra}


def json_text(value: Json, where: str) -> str:
    """The object as JSON text. Raises TranslationError where it is nested too deeply to be written."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        raise TranslationError(f"{where}: nested too deeply, or not valid JSON") from None


def _text(block: Members) -> Text:
    part = Text(text=block.needed_text("text"), **common(block))
    if part.extra.get("citations") == []:
        del part.extra["citations"]
    return part


def _thinking(block: Members) -> Thinking:
    text = block.needed_text("thinking")
    signature, origin = made_by(block.text("signature"))
    return Thinking(text=text, signature=signature, origin=origin, **common(block))


def _redacted(block: Members) -> Thinking:
    secret, origin = made_by(block.needed_text("data"))
    return Thinking(redacted=secret or "", origin=origin, **common(block))


def made_by(said: str | None) -> tuple[str | None, Format | None]:
    """A signature and who made it; None for an empty one: it proves nothing."""
    if said and said.startswith(MADE_BY):
        maker, _, signature = said.removeprefix(MADE_BY).partition(":")
        for form in get_args(Format):
            if maker == form:
                return signature or None, form
    return said or None, None


def _call(block: Members) -> ToolCall:
    where, given = block.at("input"), block.mapping("input")
    arguments = "" if given is None else json_text(given, where)
    call = ToolCall(id=block.needed_text("id"), name=block.needed_text("name"), arguments=arguments, **common(block))
    if call.extra.get("caller") == _MODEL:
        call.frame = {"caller": call.extra.pop("caller")}
    return call


def _result(block: Members) -> ToolResult:
    where, content = block.at("content"), block.any("content")
    if isinstance(content, list):
        parts = [read_part(one, f"{where}[{number}]", _INNER) for number, one in enumerate(content)]
    else:
        parts = [] if content is None else content_parts(content, where)
    return ToolResult(
        call_id=block.needed_text("tool_use_id"),
        parts=parts,
        failed=block.flag("is_error") or False,
        **common(block),
    )


def _image(block: Members) -> Media | None:
    return _media(block, "image")


def _document(block: Members) -> Media | None:
    return _media(block, "document")


def _media(block: Members, kind: MediaKind) -> Media | None:
    """None: a source that only this format knows."""
    source = block.object("source")
    if source is None:
        wrong(block.at("source"), "an object", None)
    part = Media(kind=kind)
    rest = _source(part, source)
    if rest is None:
        return None
    if kind == "document":
        part.name = block.text("title")
    for name, value in common(block).items():
        setattr(part, name, value)
    if rest:
        part.extra["source"] = rest
    return part


def _source(part: Media, source: Members) -> Json | None:
    """Fills the part; gives what else the source said, and None where the part cannot say it at all."""
    match source.needed_text("type"):
        case "base64":
            part.media_type, part.data = source.needed_text("media_type"), source.needed_text("data")
        case "url":
            part.url = source.needed_text("url")
        case "file":
            part.file_id = source.needed_text("file_id")
        case "text" if part.kind == "document":
            part.media_type, part.text = source.text("media_type") or "text/plain", source.needed_text("data")
        case "content" if part.kind == "document":
            content = source.any("content")
            part.media_type, part.text = "text/plain", _joined(content_parts(content, source.at("content")))
            return None if part.text is None else {"type": "content", "content": content, **source.rest()}
        case _:
            return None
    return source.rest()


def _joined(parts: Sequence[AnyPart]) -> str | None:
    """Texts as one, None when there is something else among them."""
    texts = [part.text for part in parts if isinstance(part, Text)]
    return "\n\n".join(texts) if len(texts) == len(parts) else None


_Readers = dict[str, Callable[[Members], AnyPart | None]]
_INNER: Final[_Readers] = {"text": _text, "image": _image, "document": _document}  # of a tool's result
_READERS: Final[_Readers] = {
    **_INNER,
    "thinking": _thinking,
    "redacted_thinking": _redacted,
    "tool_use": _call,
    "tool_result": _result,
}
