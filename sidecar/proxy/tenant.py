"""Whose call is it? Many services share one port in the modes standalone and daemon; each is a tenant.

A call says it in one of three ways: by its token (lines `token service` of `client_tokens_file`), by the header
`x-sidecar-tenant`, or by its path: `/for/NAME/v1/...` is `/v1/...` of NAME. The token is believed, the other two only
where no token is asked for. The name becomes the tag `tenant`, by which routes match, so that each service has arms,
budgets and rollouts of its own. A token that stands where a provider's key would stand is ours: no upstream ever sees it.
"""

import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from sidecar.config.secrets import ClientTokens
from sidecar.proxy.origin import CREDENTIALS, PROTOCOLS
from sidecar.wire.http1 import RequestHead
from sidecar.wire.target import ALL_CREDENTIALS as IN_QUERY
from sidecar.wire.target import values_in

TENANT: Final = b"x-sidecar-tenant"
TOKEN: Final = b"x-sidecar-token"  # for a client whose own key goes on to its provider
_NAMED: Final = re.compile(rb"[A-Z]{1,16} (/for/([A-Za-z0-9][A-Za-z0-9._-]{0,63}))/")
_BEARER: Final = b"bearer "
_WORDS: Final = (re.compile(rb'[^\s,"]+'), re.compile(rb"""[^\s,"';<>=:]+"""))  # a token may have such signs in it
_MARKS: Final = b"'<>;"
_MOST_DOTS: Final = 5  # a browser's key has a name before it in its subprotocol, whose parts end with a dot


def named_by_path(data: bytes) -> tuple[bytes, bytes] | None:
    """The tenant that the path at the start of `data` names, and `data` without that; None when it names none."""
    match = _NAMED.match(data)
    return None if match is None else (match[2], data[: match.start(1)] + data[match.end(1) :])


def admits(tokens: ClientTokens, head: RequestHead, now: float) -> bool:
    """Whether the request carries a known token: where every SDK puts its key, or in a header of its own.

    If so the head says whose it is, whatever it said before, and a key that was none is marked as `spent`: where there is no
    header of its own, and where somebody sends a token in both places.
    """
    fields = head.fields
    service = tokens.service_of(fields[TOKEN] if TOKEN in fields else _key(fields), now)
    if service is None:
        return False
    head.spent = TOKEN not in fields or tokens.knows_any(_places(head), now)
    fields[TENANT] = service.encode()
    return True


def _key(fields: Mapping[bytes, bytes]) -> bytes:
    """What stands where SDKs put their keys."""
    bearer = fields.get(b"authorization", b"")
    if bearer[: len(_BEARER)].lower() == _BEARER:
        return bearer[len(_BEARER) :]
    return next((fields[name] for name in CREDENTIALS[1:] if name in fields), b"")


def _places(head: RequestHead) -> set[bytes]:
    """All that stands where anybody puts a key: each word of each line of a repeated field, whatever the scheme, both halves
    of Basic's, and the query."""
    found = set(values_in(head.target, IN_QUERY))
    for line in head.raw.split(b"\r\n")[1:]:
        name, _, text = line.partition(b":")
        if name.strip().lower() in (*CREDENTIALS, PROTOCOLS):
            found |= _words(text) | _words(unquote_to_bytes(text))
    return found


def _words(text: bytes) -> set[bytes]:
    found = {text.strip(), text.strip().partition(b" ")[2].strip()}  # a token may have commas in it
    for pattern in _WORDS:
        found.update(pattern.findall(text))
    found.update([word.strip(_MARKS) for word in found])
    found.update([word.split(b".", dots)[-1] for word in found for dots in range(1, _MOST_DOTS)])
    return found.union(*map(_halves, found))


def _halves(word: bytes) -> list[bytes]:
    """User and password of what may be Basic's (RFC 7617)."""
    try:
        return b64decode(word, validate=True).split(b":", 1)
    except ValueError:
        return []
