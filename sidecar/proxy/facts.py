"""From a request's head and body to the Facts that the engine decides on."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from msgspec.structs import replace

from sidecar.config.secrets import MAX_SERVICE_CHARS
from sidecar.core.abilities import TOOLS
from sidecar.core.features import features
from sidecar.core.types import SELECTABLE, Facts, Features, Unit
from sidecar.proxy.gate import Way
from sidecar.proxy.origin import CREDENTIALS
from sidecar.proxy.plane import Plane
from sidecar.proxy.tenant import TENANT
from sidecar.secrecy import MAX_NAME
from sidecar.wire.conversation import texts_of
from sidecar.wire.http1 import RequestHead
from sidecar.wire.needs import Needs, needs_of, needs_of_text
from sidecar.wire.request_view import RequestView
from sidecar.wire.target import any_model_in, model_in

_MAX_TAGS: Final = 16
_MAX_TAG_CHARS: Final = 64
_NO_TAGS: Final[Mapping[str, str]] = {}
_NO_KEY: Final[tuple[int, Unit]] = (0, "request")
_NOTHING: Final[tuple[int, Unit, int, Features | None]] = (0, "request", 0, None)
_UNREAD: Final = RequestView()
_NO_NEEDS: Final = Needs()


def facts_of(plane: Plane, head: RequestHead, way: Way, view: RequestView | None, body: bytes) -> Facts:
    """The facts of one request. `view` is None where the body could not be read as a JSON object, or was not waited for."""
    fields, wants = head.fields, plane.engine.wants
    key, source, draw, text = _NOTHING
    if wants.chooses and way.endpoint in SELECTABLE:
        key, source, draw, text = _told_apart(plane, head, way, view, body)
    seen = _UNREAD if view is None else view
    tags, task = _NO_TAGS, ""
    if b"x-sidecar-tags" in fields or TENANT in fields:
        tags = _tags(fields)
        task = next((tags[name] for name in wants.task_tags if name in tags), "")
    pinned: str | None = None
    if seen.conversation:
        plane.settle()  # the call that it goes on with may have ended just now
        left = plane.kept.get((tags.get("tenant", ""), seen.conversation))
        if left is not None:
            pinned, key = left
            source = "conversation"
    model, stream = seen.model, seen.stream
    if way.endpoint == "generate":  # its path says what other bodies say
        named = model_in(head.target)
        model, stream = (None, False) if named is None else (unquote(named.model.decode("latin-1")), named.streams)
    elif way.beyond:
        model, stream = way.model or model, stream or way.streams
    elif way.dialect == "gemini":
        path_model = any_model_in(head.target)
        model = model if path_model is None else unquote(path_model.decode("latin-1"))
    if model is not None and len(model) > MAX_NAME:
        model = None  # no model has such a name, and names are remembered, stored and logged
    needs = _needs(seen, body) if wants.needs and view is not None and way.endpoint in SELECTABLE else _NO_NEEDS
    seen.plain = None  # as large as the body
    off = b"x-sidecar-off" in fields and fields[b"x-sidecar-off"] == b"1"
    facts = Facts(  # beyond 15 named arguments the interpreter makes a dict for a call, which costs four times as much
        endpoint=way.endpoint,
        dialect=way.dialect,
        path=way.path,
        model=model,
        stream=stream,
        key=key,
        key_source=source,
        draw=draw,
        input_bytes=len(body),
        max_tokens=seen.max_tokens,
        limit_key=seen.limit_key,
        tools=seen.tools,
        needs=needs.bits,
        context_tokens=needs.tokens,
        output_tokens=needs.output_tokens,
    )
    if tags or seen.stateful or off or pinned is not None or text is not None:  # what few requests have
        return replace(facts, tags=tags, stateful=seen.stateful, off=off, pinned=pinned, task=task, text=text)
    return facts


def _needs(view: RequestView, body: bytes) -> Needs:
    """What the request needs of a model, of which its top level says a part."""
    found = view.needs or (needs_of(body) if view.plain is None else needs_of_text(body))
    output = view.max_tokens or found.output_tokens
    found.output_tokens = output if output > 0 else 0  # a negative one is the upstream's to refuse
    if view.tools:
        found.bits |= TOOLS
    return found


def _told_apart(
    plane: Plane, head: RequestHead, way: Way, view: RequestView | None, body: bytes
) -> tuple[int, Unit, int, Features | None]:
    """Sticky key and its source, random bits, and the features of the last user text where a policy asks for them."""
    wants = plane.engine.wants
    key, source = _named_key(plane, head, view) if wants.key else _NO_KEY
    derived = wants.key and not key
    text = None
    if view is not None and (derived or wants.text):
        texts = texts_of(body, view, beginning=derived, last=wants.text)
        if texts.beginning:
            key, source = _derived_key(plane, head, way, texts.beginning), "conversation"
        if texts.last:
            text = features(texts.last, plane.keys.text_salt)
    return key, source, plane.chance.draw(), text


def _named_key(plane: Plane, head: RequestHead, view: RequestView | None) -> tuple[int, Unit]:
    """The key of a conversation that the call names, by the session header or an id of the body; 0 where it names none."""
    session, whose = head.fields.get(b"x-sidecar-session"), _whose(head)
    if session:
        return plane.keys.hash(b"session", session, *whose), "session"
    if view is not None and view.conversation:
        return plane.keys.hash(
            b"conversation", view.conversation.encode("utf-8", "surrogatepass"), *whose
        ), "conversation"
    return _NO_KEY


def _derived_key(plane: Plane, head: RequestHead, way: Way, beginning: bytes) -> int:
    """The key of a conversation without a name: a keyed hash of who asks where, and of how it begins."""
    fields, credential = head.fields, b""
    for name in CREDENTIALS:
        if name in fields:
            credential = fields[name]
            break
    return plane.keys.derive(way.path, (credential, *_whose(head)), beginning)


def _whose(head: RequestHead) -> tuple[bytes, ...]:
    """What keeps the conversations of two tenants apart, however alike they are."""
    return (head.fields[TENANT],) if TENANT in head.fields else ()


def _tags(fields: Mapping[bytes, bytes]) -> Mapping[str, str]:
    """`k=v, k2=v2` as a mapping, and whose call it is; what goes beyond 16 tags or 64 characters is dropped."""
    tags: dict[str, str] = {}
    for part in fields.get(b"x-sidecar-tags", b"").decode("latin-1").split(","):
        name, separator, text = part.strip().partition("=")
        if separator and name and len(tags) < _MAX_TAGS:
            tags[name[:_MAX_TAG_CHARS]] = text[:_MAX_TAG_CHARS]
    if TENANT in fields:
        tags["tenant"] = fields[TENANT].decode("latin-1")[:MAX_SERVICE_CHARS]
    return tags
