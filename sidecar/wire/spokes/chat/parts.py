"""OpenAI chat completions: the parts of a message's content, both ways.

A content that is one plain text is written as a string, and an empty one as "". Parts of a type that is not known here
travel whole (`Opaque`). `cache_control`, which gateways in front of Anthropic read in chat parts, is `Part.cache`.

What it does not know: roles, and where a call or its result stands (`messages`).
"""

from typing import Any, Final, Literal

from sidecar.wire.members import Members, wrong
from sidecar.wire.neutral import AnyPart, Json, Media, Opaque, Part, Refusal, Text, Thinking
from sidecar.wire.saying import Saying, parts_of, split_data_url

Cache = Literal["5m", "1h"] | None
_TO_TYPE: Final = {"mp3": "audio/mpeg", "wav": "audio/wav"}
_FROM_TYPE: Final = {
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
}


def take_cache(members: Members, item: Json) -> Cache:
    """The member `cache_control`, where it is as Anthropic writes it; any other one stays."""
    said = item.get("cache_control")
    if not isinstance(said, dict) or said.get("type") != "ephemeral" or not said.keys() <= {"type", "ttl"}:
        return None
    ttl = said.get("ttl")
    if ttl not in (None, "5m", "1h"):
        return None
    members.any("cache_control")
    return "1h" if ttl == "1h" else "5m"


def write_cache(cache: Cache, where: str, saying: Saying) -> Json:
    """The member `cache_control` of a mark; none of another format's."""
    if not saying.marks(cache, where):
        return {}
    return {"cache_control": {"type": "ephemeral"} if cache == "5m" else {"type": "ephemeral", "ttl": cache}}


def read_content(value: Any, where: str) -> list[AnyPart]:  # noqa: ANN401 - whatever JSON holds
    """The parts of a content: a string, a list of parts, or nothing."""
    return parts_of(value, where, _read_part)


def _read_part(item: Any, where: str) -> AnyPart:  # noqa: ANN401 - whatever JSON holds
    if isinstance(item, str):
        return Text(text=item)
    members = Members(item, where)
    part: AnyPart | None
    match members.needed_text("type"):
        case "text":
            part = Text(text=members.needed_text("text"))
        case "image_url":
            part = _read_image(members)
        case "input_audio":
            part = _read_audio(members)
        case "file":
            part = _read_file(members)
        case "refusal":
            part = Refusal(text=members.needed_text("refusal"))
        case "thinking":
            part = _read_thinking(members)
        case _:
            part = None
    if part is None:
        return Opaque(value=item)
    part.cache = take_cache(members, item)
    part.extra.update(members.rest())
    return part


def _inner(members: Members, name: str) -> Members:
    """The object that such a part must have."""
    inner = members.object(name)
    if inner is None:
        wrong(members.at(name), "an object", None)
    return inner


def _kept(name: str, inner: Members) -> Json:
    """What the inner object says besides."""
    rest = inner.rest()
    return {name: rest} if rest else {}


def _read_image(members: Members) -> Media:
    if isinstance(members.peek("image_url"), str):  # as Mistral allows
        return image_of(members.needed_text("image_url"))
    inner = _inner(members, "image_url")
    media = image_of(inner.needed_text("url"))
    media.detail = inner.text("detail")
    media.extra = _kept("image_url", inner)
    return media


def image_of(url: str) -> Media:
    """An image by its URL, which may hold it."""
    found = split_data_url(url)
    if found is None:
        return Media(kind="image", url=url)
    return Media(kind="image", media_type=found[0], data=found[1])


def _read_audio(members: Members) -> Media | None:
    inner = _inner(members, "input_audio")
    data, form = inner.needed_text("data"), inner.needed_text("format")
    media_type = _TO_TYPE.get(form, f"audio/{form}")
    if _FROM_TYPE.get(media_type, form) != form:
        return None
    return Media(kind="audio", media_type=media_type, data=data, extra=_kept("input_audio", inner))


def _read_file(members: Members) -> Media | None:
    inner = _inner(members, "file")
    data, file_id = inner.text("file_data"), inner.text("file_id")
    if (data is None) == (file_id is None):
        return None
    found = None if data is None else split_data_url(data)
    media = Media(kind="document", data=data, file_id=file_id, name=inner.text("filename"))
    if found is not None:
        media.media_type, media.data = found
    media.extra = _kept("file", inner)
    return media


def _read_thinking(members: Members) -> Thinking | None:
    """Mistral's spelling: a list of text parts."""
    said = members.any("thinking")
    if isinstance(said, str):
        return Thinking(text=said)
    texts = [one.get("text") if isinstance(one, dict) else None for one in said] if isinstance(said, list) else [None]
    if not all(isinstance(text, str) for text in texts):
        return None
    return Thinking(text="".join(text for text in texts if isinstance(text, str)))


def write_content(parts: list[tuple[str, AnyPart]], saying: Saying) -> Any:  # noqa: ANN401 - a string or a list
    """The content of a message: a string where it is one plain text, else a list of parts. Each part has its path."""
    said = [item for where, part in parts if (item := write_part(part, where, saying)) is not None]
    if not said:
        return ""
    if len(said) == 1 and said[0].keys() == {"type", "text"} and said[0]["type"] == "text":
        return said[0]["text"]
    return said


def write_part(part: AnyPart, where: str, saying: Saying) -> Json | None:
    """One part; None: it cannot be said, which is reported."""
    said: Json | None
    match part:
        case Text():
            said = {"type": "text", "text": part.text}
        case Media():
            said = _write_media(part, where, saying)
            if said is not None and part.name is not None and part.kind != "document":
                saying.report.map(f"{where}.name")  # a label: what it names is there
        case Refusal():
            said = {"type": "refusal", "refusal": part.text}
        case Thinking() if saying.own:
            said = {"type": "thinking", "thinking": [{"type": "text", "text": part.text}]}
        case Opaque() if saying.own:
            return part.value
        case _:
            said = None
    if said is None:
        saying.report.lose(where)
        return None
    return _finished(said, part, where, saying)


def _finished(said: Json, part: Part, where: str, saying: Saying) -> Json:
    """With the cache mark and the extras, those of the inner object in it."""
    if not part.extra and part.cache is None:
        return said
    said.update(write_cache(part.cache, where, saying))
    for name, value in saying.kept(part.extra, where).items():
        said[name] = {**said[name], **value} if name in said else value
    return said


def _write_media(media: Media, where: str, saying: Saying) -> Json | None:
    match media.kind:
        case "image":
            url = image_url(media)
            if url is None:
                return None
            return {"type": "image_url", "image_url": url if media.detail is None else {**url, "detail": media.detail}}
        case "document":
            return _write_document(media, where, saying)
        case "audio":
            return _write_audio(media, saying)
        case _:
            return None


def image_url(media: Media) -> Json | None:
    """The member `image_url` of an image; None where it is a file that another provider holds."""
    if media.data is not None:
        return {"url": f"data:{media.media_type or 'image/png'};base64,{media.data}"}
    return None if media.url is None else {"url": media.url}


def _write_document(media: Media, where: str, saying: Saying) -> Json | None:
    if media.text is not None:
        saying.report.map(where)
        return {"type": "text", "text": media.text}
    if media.detail not in (None, "auto"):
        saying.report.lose(f"{where}.detail")
    name = {} if media.name is None else {"filename": media.name}
    if media.data is not None:
        if saying.own:
            data = media.data if media.media_type is None else f"data:{media.media_type};base64,{media.data}"
            return {"type": "file", "file": {"file_data": data, **name}}
        data = f"data:{media.media_type or 'application/pdf'};base64,{media.data}"
        return {"type": "file", "file": {"filename": "document.pdf", "file_data": data, **name}}
    if media.file_id is None or not saying.own:
        return None  # only the provider that holds a file can read it
    return {"type": "file", "file": {"file_id": media.file_id, **name}}


def _write_audio(media: Media, saying: Saying) -> Json | None:
    media_type = media.media_type or ""
    form = _FROM_TYPE.get(media_type) or (media_type.removeprefix("audio/") if saying.own else None)
    if media.data is None or not form:
        return None
    return {"type": "input_audio", "input_audio": {"data": media.data, "format": form}}
