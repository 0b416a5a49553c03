"""OpenAI Responses: the parts of a message's content and of a tool's result, both ways.

A content that is one plain text is written as a string, and an empty one as "". Texts have the type of their place
(input_text, output_text); parts of a type that is not known here travel whole (`Opaque`).

What it does not know: items, and where a part stands in them (`items`).
"""

from typing import Any, Final, Literal

from sidecar.wire.members import Members, wrong
from sidecar.wire.neutral import AnyPart, Json, Media, Opaque, Refusal, Text
from sidecar.wire.saying import Saying, parts_of, split_data_url

TextType = Literal["input_text", "output_text"]
_SOUNDS: Final = {"mp3": "audio/mpeg", "wav": "audio/wav"}
_EMPTY: Final = ("annotations", "logprobs")  # say nothing when they are empty


# ---- reading


def read_content(value: Any, where: str) -> list[AnyPart]:  # noqa: ANN401 - whatever JSON holds
    """The parts of a content or of a tool's output: a string, a list of parts, or nothing."""
    return parts_of(value, where, _read_part)


def _read_part(item: Any, where: str) -> AnyPart:  # noqa: ANN401 - whatever JSON holds
    members = Members(item, where)
    part: AnyPart | None
    match members.needed_text("type"):
        case "input_text" | "output_text" | "text":
            part = Text(text=members.needed_text("text"))
            for name in _EMPTY:
                if members.peek(name) == []:
                    members.any(name)
        case "refusal":
            part = Refusal(text=members.needed_text("refusal"))
        case "input_image":
            part = _read_image(members)
        case "input_file":
            part = _read_file(members)
        case "input_audio":
            part = _read_audio(members)
        case _:
            part = None
    if part is None:
        return Opaque(value=item)
    part.extra.update(members.rest())
    return part


def _read_image(members: Members) -> Media | None:
    url, file_id = members.text("image_url"), members.text("file_id")
    if (url is None) == (file_id is None):
        return None
    media = Media(kind="image", url=url, file_id=file_id, detail=members.text("detail"))
    found = None if url is None else split_data_url(url)
    if found is not None:
        media.media_type, media.data = found
        media.url = None
    return media


def _read_file(members: Members) -> Media | None:
    data, url, file_id = members.text("file_data"), members.text("file_url"), members.text("file_id")
    if [data, url, file_id].count(None) != 2:
        return None
    media = Media(kind="document", data=data, url=url, file_id=file_id, name=members.text("filename"))
    media.detail = members.text("detail")
    found = None if data is None else split_data_url(data)
    if found is not None:
        media.media_type, media.data = found
    return media


def _read_audio(members: Members) -> Media | None:
    inner = members.object("input_audio")
    if inner is None:
        wrong(members.at("input_audio"), "an object", None)
    data, form = inner.needed_text("data"), inner.needed_text("format")
    rest = inner.rest()
    if form not in _SOUNDS:
        return None
    return Media(kind="audio", media_type=_SOUNDS[form], data=data, extra={"input_audio": rest} if rest else {})


# ---- writing


def write_content(parts: list[tuple[str, AnyPart]], kind: TextType, saying: Saying) -> str | list[Json]:
    """A content: a string where it is one plain text, else a list of parts. Each part has its path."""
    said = [item for where, part in parts if (item := write_part(part, where, kind, saying)) is not None]
    if not said:
        return ""
    if len(said) == 1 and said[0].keys() == {"type", "text"}:
        return str(said[0]["text"])
    return said


def write_part(part: AnyPart, where: str, kind: TextType, saying: Saying) -> Json | None:
    """One part; None: it cannot be said, which is reported."""
    said: Json | None
    match part:
        case Text():
            said = {"type": kind, "text": part.text}
        case Refusal() if kind == "output_text" or saying.own:
            said = {"type": "refusal", "refusal": part.text}
        case Refusal():
            saying.report.map(where)
            said = {"type": kind, "text": part.text}
        case Media() if kind == "input_text" or saying.own:
            said = _write_media(part, where, saying)
            if said is not None and part.name is not None and part.kind != "document":
                saying.report.map(f"{where}.name")  # a label: what it names is there
        case Opaque() if saying.own:
            return part.value
        case _:
            said = None
    if said is None:
        saying.report.lose(where)
        return None
    saying.marks(part.cache, where)
    if part.extra:
        _put_back(said, saying.kept(part.extra, where))
    return said


def _put_back(said: Json, extra: Json) -> None:
    for name, value in extra.items():
        if name == "input_audio" and name in said:  # else it is a member of a text, that nobody knows
            said[name].update(value)
        elif name != "item":  # of the item around it
            said[name] = value


def _write_media(media: Media, where: str, saying: Saying) -> Json | None:
    if media.file_id is not None and not saying.own:
        return None  # only the provider that holds a file can read it
    match media.kind:
        case "image":
            return _write_image(media, saying)
        case "document":
            return _write_document(media, where, saying)
        case "audio":
            form = next((form for form, known in _SOUNDS.items() if known == media.media_type), None)
            if media.data is None or form is None or not saying.own:
                return None  # OpenAI takes no sound here
            return {"type": "input_audio", "input_audio": {"data": media.data, "format": form}}
        case _:
            return None


def _write_image(media: Media, saying: Saying) -> Json | None:
    said: Json = {"type": "input_image"}
    if media.file_id is not None:
        said["file_id"] = media.file_id
    elif media.data is not None:
        said["image_url"] = f"data:{media.media_type or 'image/png'};base64,{media.data}"
    elif media.url is not None:
        said["image_url"] = media.url
    else:
        return None
    if media.detail is not None or not saying.own:
        said["detail"] = media.detail or "auto"
    return said


def _write_document(media: Media, where: str, saying: Saying) -> Json | None:
    if media.text is not None:
        saying.report.map(where)
        return {"type": "input_text", "text": media.text}
    said: Json = {"type": "input_file"}
    if media.file_id is not None:
        said["file_id"] = media.file_id
    elif media.data is not None and saying.own and media.media_type is None:
        said["file_data"] = media.data
    elif media.data is not None:
        said["file_data"] = f"data:{media.media_type or 'application/pdf'};base64,{media.data}"
        if not saying.own:
            said["filename"] = "document.pdf"  # OpenAI wants one beside the bytes
    elif media.url is not None:
        said["file_url"] = media.url
    else:
        return None
    if media.name is not None:
        said["filename"] = media.name
    if media.detail is not None:
        said["detail"] = media.detail
    return said
