"""Images, documents, sounds and films as Gemini's `inlineData` and `fileData`.

Base64 comes in both alphabets (its Python SDK writes the one for URLs) and leaves in the standard one. A file's address that
only Google can read (`gs://`, the Files API) is a file id, any other one a url.
"""

import base64
from urllib.parse import urlsplit

from sidecar.wire.members import Json
from sidecar.wire.neutral import Media, MediaKind, Report
from sidecar.wire.spoke import lose_all
from sidecar.wire.spokes.generate.members import GenerateMembers

_STANDARD = str.maketrans("-_", "+/")
_FILES = "https://generativelanguage.googleapis.com/"
_KINDS: dict[str, MediaKind] = {"image": "image", "audio": "audio", "video": "video"}
_ENDINGS = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "heic": "image/heic",
    "gif": "image/gif", "pdf": "application/pdf", "txt": "text/plain", "mp3": "audio/mpeg", "wav": "audio/wav",
    "ogg": "audio/ogg", "flac": "audio/flac", "mp4": "video/mp4", "webm": "video/webm", "mov": "video/quicktime",
}  # fmt: skip


def read_media(members: GenerateMembers) -> Media | None:
    """The media of a part; what else the part holds becomes its extra. None: it has none, and nothing was taken."""
    if members.has("inlineData"):
        inner = GenerateMembers(members.any("inlineData"), members.at("inlineData"))
        data = inner.text("data") or ""
        media = _media(inner, data=data.translate(_STANDARD) if "-" in data or "_" in data else data)
    elif isinstance(uri := _uri(members), str):
        inner = GenerateMembers(members.any("fileData"), members.at("fileData"))
        inner.any("fileUri")
        ours = uri.startswith(_FILES) or not uri.startswith(("https://", "http://"))
        media = _media(inner, file_id=uri) if ours else _media(inner, url=uri)
    else:
        return None
    rest = inner.rest()
    media.extra = members.rest()
    if rest:
        media.extra[inner.where.rpartition(".")[2]] = rest
    return media


def _uri(members: GenerateMembers) -> object:
    if not members.has("fileData"):
        return None
    value = members.rest()["fileData"]
    return GenerateMembers(value, members.at("fileData")).text("fileUri")


def _media(
    inner: GenerateMembers, *, data: str | None = None, url: str | None = None, file_id: str | None = None
) -> Media:
    media_type, name = inner.text("mimeType"), inner.text("displayName")
    guess = media_type or _by_ending(url or file_id or "") or ("video/*" if url and "youtu" in url else "")
    kind = _KINDS.get(guess.partition("/")[0].lower(), "document")
    return Media(kind=kind, media_type=media_type, data=data, url=url, file_id=file_id, name=name)


def _by_ending(address: str) -> str | None:
    try:
        path = urlsplit(address).path
    except ValueError:
        return None
    return _ENDINGS.get(path.rpartition(".")[2].lower())


def write_media(media: Media, own: bool, where: str, report: Report) -> Json | None:
    """The part, without `thoughtSignature`. None: it cannot be said; that is reported."""
    if not own and (media.file_id is not None or (media.url or "").startswith("data:")):
        report.lose(where)
        return None
    extra = dict(media.extra)
    if not own:
        lose_all(report, where, extra)
        _lose_hints(media, where, report)
        extra = {}
    member, inner = _source(media, own)
    if own and media.name is not None:
        inner["displayName"] = media.name
    inner.update(extra.pop(member, {}))
    return {member: inner, **extra}


def _lose_hints(media: Media, where: str, report: Report) -> None:
    if media.name is not None:
        report.map(f"{where}.name")  # a label: what it names is there
    if media.detail not in (None, "auto"):
        report.lose(f"{where}.detail")


def _source(media: Media, own: bool) -> tuple[str, Json]:
    """Which member holds the media, and its content."""
    if media.text is not None:
        text = base64.b64encode(media.text.encode("utf-8", "surrogatepass")).decode()
        return "inlineData", {"mimeType": media.media_type or "text/plain", "data": text}
    address = media.url if media.file_id is None else media.file_id
    if address is None:
        return "inlineData", _typed({"data": media.data or ""}, media.media_type)
    media_type = media.media_type
    if media.url is not None and media_type is None and not own:
        media_type = _by_ending(media.url)
    return "fileData", _typed({"fileUri": address}, media_type)


def _typed(inner: Json, media_type: str | None) -> Json:
    return inner if media_type is None else {"mimeType": media_type, **inner}
