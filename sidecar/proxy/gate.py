"""What comes in at the traffic port, judged by its head alone: may it pass, and which endpoint of which dialect is it?

Browsers are the threat here: any page may send requests to a port on localhost, and DNS rebinding lets it read the answers.
So the Host must be ours, and a request that a browser marks as coming from a page is refused.
"""

import re
from collections.abc import Set as AbstractSet
from typing import Final

from msgspec import Struct

from sidecar.core.types import Dialect, Endpoint, Spoken
from sidecar.wire.http1 import RequestHead
from sidecar.wire.neutral import Format
from sidecar.wire.places import Place, place_of

FEEDBACK_PATH: Final = "/_sidecar/v1/feedback"
API_PREFIXES: Final = ("/v1/", "/v1beta/")

_ENDPOINTS: Final[dict[str, tuple[Endpoint, Dialect]]] = {
    "/v1/chat/completions": ("chat", "openai"),
    "/v1/completions": ("completions", "openai"),
    "/v1/responses": ("responses", "openai"),
    "/v1/embeddings": ("embeddings", "openai"),
    "/v1/messages": ("messages", "anthropic"),
    "/v1/messages/count_tokens": ("count_tokens", "anthropic"),
    "/v1/responses/input_tokens": ("count_tokens", "openai"),
}
_GEMINI: Final[dict[str, Endpoint]] = {
    "generateContent": "generate",
    "streamGenerateContent": "generate",
    "embedContent": "embeddings",
    "batchEmbedContents": "embeddings",
    "countTokens": "count_tokens",
}  # what a path of Gemini's ends in, behind a colon
_AZURE_REALTIME: Final = frozenset({"/openai/realtime", "/openai/v1/realtime"})
_LOCAL_NAMES: Final = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})
_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)(?::[0-9]*)?")
_SAME_SITE: Final = frozenset({b"same-origin", b"none"})  # "none": typed into the address bar


class Refused(Struct, frozen=True):
    """An answer of ours instead of a forwarded request."""

    status: int
    code: str
    message: str
    spoken: Spoken | None = None  # the client's dialect, where its path tells


class Way(Struct, frozen=True, gc=False):
    """Where a request that may pass belongs. Members from `beyond` on are those of `wire.places.Place`."""

    endpoint: Endpoint
    dialect: Dialect
    path: str  # without query, at most 256 characters
    local: bool = False  # ours: /_sidecar/v1/feedback
    realtime: bool = False  # a path on which an upgrade is tunnelled
    beyond: str = ""  # the path prefix, where only an upstream of the policy has it
    spoken: Spoken | None = None
    form: Format | None = None
    model: str = ""
    streams: bool = False
    reads: bool = False


class Gate:
    """The Host and Origin checks and the path table, for one set of settings."""

    def __init__(self, host_names: AbstractSet[str], allowed_origins: AbstractSet[str]) -> None:
        self._hosts = _LOCAL_NAMES | {name.lower().encode() for name in host_names}
        self._origins = {origin.lower().encode() for origin in allowed_origins}
        self.beyond: tuple[str, ...] = ()  # path prefixes that the upstreams of the policy in force add to API_PREFIXES

    def admit(self, head: RequestHead) -> Way | Refused:
        """Judges one head; the same head gives the same answer, so callers may remember it."""
        fields = head.fields
        if (head.minor or b"host" in fields) and _name(fields[b"host"]) not in self._hosts:
            return Refused(421, "host", "The Host header names no host of this sidecar: use localhost or 127.0.0.1.")
        origin = fields.get(b"origin")
        if origin is not None and origin.lower() not in self._origins:
            return Refused(
                403, "origin", "Requests of web pages are refused: list the page's origin in allowed_origins."
            )
        if origin is None and fields.get(b"sec-fetch-site", b"none") not in _SAME_SITE:
            return Refused(403, "origin", "Cross-site requests of web pages are refused.")
        return self._way(head)

    def _way(self, head: RequestHead) -> Way | Refused:
        path = head.target.partition(b"?")[0].decode("latin-1")
        known = _ENDPOINTS.get(path)
        if known is not None:
            return Way(*known, path)
        if path == FEEDBACK_PATH:
            return Way("other", "openai", path, local=True)
        short = path[:256]
        place = place_of(path)
        if place is not None:
            return self._beyond(place, short)
        if not path.startswith(API_PREFIXES):
            served = ", ".join((*API_PREFIXES, *self.beyond))
            return Refused(404, "unknown_path", f"This path is not forwarded: the sidecar serves {served}.")
        if path.startswith("/v1beta/"):
            return Way(_GEMINI.get(path.rpartition(":")[2], "other"), "gemini", short)
        if path.startswith("/v1/messages") or b"anthropic-version" in head.fields:
            return Way("other", "anthropic", short)
        return Way("other", "openai", short, realtime=path == "/v1/realtime")

    def _beyond(self, place: Place, path: str) -> Way | Refused:
        if place.prefix not in self.beyond:
            return Refused(404, "unknown_path", place.missing, place.spoken or place.dialect)
        return Way(
            endpoint=place.endpoint,
            dialect=place.dialect,
            path=path,
            realtime=path in _AZURE_REALTIME,
            beyond=place.prefix,
            spoken=place.spoken,
            form=place.form,
            model=place.model,
            streams=place.streams,
            reads=place.reads,
        )


def _name(host: bytes) -> bytes:
    """The host of a Host header without its port; nothing when it is no host and port."""
    match = _HOST.fullmatch(host)
    return match[1].lower() if match is not None else b""
