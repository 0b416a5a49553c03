"""Joins an upstream's path prefix with a request target, byte for byte.

Path bytes go on as they came: no decoding, no normalising, no re-quoting. A trailing API version of the prefix that
equals the target's first segment is not repeated, so that `base_url: https://host/v1` and `POST /v1/chat/completions`
meet in `/v1/chat/completions`. Where a longer prefix remains, it is a fence: a target that could climb over it (dot
segments, raw or encoded, RFC 3986 section 5.2.4) is refused: the server behind it may normalise what we do not.
"""

import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from sidecar.errors import ProtocolError

CREDENTIALS = frozenset({b"key", b"access_token"})  # members of a query: Google's ways to say who calls
ALL_CREDENTIALS = CREDENTIALS | {
    b"api-key", b"subscription-key", b"x-amz-algorithm", b"x-amz-credential", b"x-amz-date", b"x-amz-expires",
    b"x-amz-security-token", b"x-amz-signature", b"x-amz-signedheaders",
}  # Azure's and AWS's too: only paths of providers that have them are cleared of them  # fmt: skip
_ALT = frozenset({b"alt", b"$alt"})
VERSIONS = ("/v1", "/v1beta", "/v2")  # first segments that the known APIs use
_SEPARATOR = re.compile(rb"/|\\|%2f|%5c", re.IGNORECASE)
_ENCODED_DOT = re.compile(rb"%2e", re.IGNORECASE)
_PATH_END = re.compile(rb"[?#]")
_OF_MODEL = re.compile(rb"/models/([^/:]{1,512}):[A-Za-z]{1,64}$")
_MODEL = re.compile(rb"/models/([^/:]{1,512}):(stream)?[Gg]enerateContent$")


def join_target(prefix: str, target: bytes) -> bytes:
    """The target to send upstream. `prefix` is "" or "/x/y" without a trailing slash, `target` in origin form.

    Raises ProtocolError (answer 400) on a target in another form, and on dot segments behind a remaining prefix.
    """
    if not target.startswith(b"/"):
        raise ProtocolError("the request target must begin with a slash")
    if not prefix:
        return target
    fence = _without_version(prefix, target)
    if not fence:
        return target
    if has_dot_segment(target):
        raise ProtocolError("dot segments are not allowed in the path to this upstream")
    return fence.encode("ascii") + target


def _without_version(prefix: str, target: bytes) -> str:
    for version in VERSIONS:
        if prefix.endswith(version) and target.startswith(version.encode("ascii")):
            after = target[len(version) : len(version) + 1]
            if after in (b"", b"/", b"?"):
                return prefix[: -len(version)]
    return prefix


def has_dot_segment(target: bytes) -> bool:
    """Whether a server may take the path of a target for one that climbs."""
    path = _PATH_END.split(target, 1)[0]
    segments = _SEPARATOR.split(_ENCODED_DOT.sub(b".", path))
    # what follows a semicolon is a parameter to some servers: `..;x` climbs there
    return any(segment.split(b";", 1)[0] in (b".", b"..") for segment in segments)


class Named(NamedTuple):
    """What a Gemini path says: the model as it is written there, and whether the answer is to be streamed."""

    model: bytes
    streams: bool


def model_in(target: bytes) -> Named | None:
    """The model and manner that the path of a generateContent call names; None for any other path."""
    found = _MODEL.search(_PATH_END.split(target, 1)[0])
    return None if found is None else Named(found[1], found[2] is not None)


def any_model_in(target: bytes) -> bytes | None:
    """The model that a Gemini path of any method names, as it is written there."""
    found = _OF_MODEL.search(_PATH_END.split(target, 1)[0])
    return None if found is None else found[1]


def path_segment(model: str) -> bytes:
    """A model's name as one segment of a path.

    Raises:
        ProtocolError: 400, there is none, or servers would take it for another place.
    """
    if model in ("", ".", ".."):
        raise ProtocolError(
            "the path to this upstream names the model, and the request names none that can stand there"
        )
    return quote(model, safe="", errors="replace").encode()


def asks_array(target: bytes) -> bool:
    """Whether a call of Gemini's wants its stream as one JSON array, as it does where it does not ask for events."""
    found = model_in(target)
    return found is not None and found.streams and value_in(target, _ALT) != b"sse"


def without(target: bytes, names: AbstractSet[bytes]) -> bytes:
    """The target without the members of its query that have these names (given in lower case), however written; the rest is
    as it came."""
    path, mark, query = target.partition(b"?")
    kept = b"&".join(part for part in query.split(b"&") if _name(part).lower() not in names)
    return path + mark + kept if kept else path


def value_in(target: bytes, names: AbstractSet[bytes]) -> bytes | None:
    """The first value that the query has under one of these names, decoded."""
    parts = target.partition(b"?")[2].split(b"&")
    return next((unquote_to_bytes(part.partition(b"=")[2]) for part in parts if _name(part) in names), None)


def values_in(target: bytes, names: AbstractSet[bytes]) -> Iterator[bytes]:
    """All values of the query that `without` would take out, decoded."""
    for part in target.partition(b"?")[2].split(b"&"):
        if _name(part).lower() in names:
            yield unquote_to_bytes(part.partition(b"=")[2])


def _name(part: bytes) -> bytes:
    return unquote_to_bytes(part.partition(b"=")[0])
