"""Joins an upstream's path prefix with a request target, byte for byte.

Path bytes go on as they came: no decoding, no normalising, no re-quoting. A trailing API version of the prefix that
equals the target's first segment is not repeated, so that `base_url: https://host/v1` and `POST /v1/chat/completions`
meet in `/v1/chat/completions`. Where a longer prefix remains, it is a fence: a target that could climb over it (dot
segments, raw or encoded, RFC 3986 section 5.2.4) is refused: the server behind it may normalise what we do not.
"""

import re

from sidecar.errors import ProtocolError

VERSIONS = ("/v1", "/v1beta")  # first segments that the known APIs use
_SEPARATOR = re.compile(rb"/|\\|%2f|%5c", re.IGNORECASE)
_ENCODED_DOT = re.compile(rb"%2e", re.IGNORECASE)
_PATH_END = re.compile(rb"[?#]")


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
    if _has_dot_segment(_PATH_END.split(target, 1)[0]):
        raise ProtocolError("dot segments are not allowed in the path to this upstream")
    return fence.encode("ascii") + target


def _without_version(prefix: str, target: bytes) -> str:
    for version in VERSIONS:
        if prefix.endswith(version) and target.startswith(version.encode("ascii")):
            after = target[len(version) : len(version) + 1]
            if after in (b"", b"/", b"?"):
                return prefix[: -len(version)]
    return prefix


def _has_dot_segment(path: bytes) -> bool:
    segments = _SEPARATOR.split(_ENCODED_DOT.sub(b".", path))
    # what follows a semicolon is a parameter to some servers: `..;x` climbs there
    return any(segment.split(b";", 1)[0] in (b".", b"..") for segment in segments)
