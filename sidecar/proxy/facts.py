"""From a request's head and body to the Facts that the engine decides on."""

from collections.abc import Mapping
from typing import Final

from sidecar.core.types import SELECTABLE, Facts, Unit
from sidecar.proxy.gate import Way
from sidecar.proxy.origin import CREDENTIALS
from sidecar.proxy.plane import Plane
from sidecar.wire.conversation import system_and_first_user
from sidecar.wire.http1 import RequestHead
from sidecar.wire.json_edit import RequestView

_MAX_TAGS: Final = 16
_MAX_TAG_CHARS: Final = 64
_NO_TAGS: Final[Mapping[str, str]] = {}


def facts_of(plane: Plane, head: RequestHead, way: Way, view: RequestView | None, body: bytes) -> Facts:
    """The facts of one request. `view` is None where the body could not be read as a JSON object, or was not waited for."""
    fields = head.fields
    key = 0
    source: Unit = "request"
    draw = 0
    if plane.engine.chooses and way.endpoint in SELECTABLE:
        draw = plane.draw()
        if plane.engine.needs_key:
            key, source = _sticky_key(plane, head, way, view, body)
    pinned: str | None = None
    if view is not None and view.conversation:
        plane.settle()  # the call that it goes on with may have ended just now
        if view.conversation in plane.kept:
            pinned, key = plane.kept[view.conversation]
            source = "conversation"
    tags = _tags(fields[b"x-sidecar-tags"]) if b"x-sidecar-tags" in fields else _NO_TAGS
    off = fields.get(b"x-sidecar-off") == b"1"
    if view is None:
        return Facts(
            endpoint=way.endpoint,
            dialect=way.dialect,
            path=way.path,
            model=None,
            stream=False,
            key=key,
            key_source=source,
            draw=draw,
            tags=tags,
            off=off,
            input_bytes=len(body),
        )
    return Facts(
        endpoint=way.endpoint,
        dialect=way.dialect,
        path=way.path,
        model=view.model,
        stream=view.stream,
        key=key,
        key_source=source,
        draw=draw,
        tags=tags,
        stateful=view.stateful,
        pinned=pinned,
        off=off,
        input_bytes=len(body),
        max_tokens=view.max_tokens,
        tools=view.tools,
    )


def _sticky_key(plane: Plane, head: RequestHead, way: Way, view: RequestView | None, body: bytes) -> tuple[int, Unit]:
    """DESIGN section 4, "Conversation key": the session header; an id of the body; else a keyed hash of how it begins."""
    session = head.fields.get(b"x-sidecar-session")
    if session:
        return plane.hash(b"session", session), "session"
    if view is None:
        return 0, "request"
    if view.conversation:
        return plane.hash(b"conversation", view.conversation.encode("utf-8", "surrogatepass")), "conversation"
    beginning = system_and_first_user(body, view)
    if not beginning:
        return 0, "request"
    credential = next((head.fields[name] for name in CREDENTIALS if name in head.fields), b"")
    return plane.hash(
        b"derived", plane.settings.service.encode(), way.path.encode(), credential, beginning
    ), "conversation"


def _tags(value: bytes) -> Mapping[str, str]:
    """`k=v, k2=v2` as a mapping; what goes beyond 16 tags or 64 characters is dropped."""
    tags: dict[str, str] = {}
    for part in value.decode("latin-1").split(","):
        name, separator, text = part.strip().partition("=")
        if separator and name and len(tags) < _MAX_TAGS:
            tags[name[:_MAX_TAG_CHARS]] = text[:_MAX_TAG_CHARS]
    return tags
