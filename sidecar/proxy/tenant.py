"""Whose call is it? Many services share one port in the modes standalone and daemon; each is a tenant.

A call says it in one of three ways: by its token (lines `token service` of `client_tokens_file`), by the header
`x-sidecar-tenant`, or by its path: `/for/NAME/v1/...` is `/v1/...` of NAME. The token is believed, the other two only
where no token is asked for. The name becomes the tag `tenant`, by which routes match, so that each service has arms,
budgets and rollouts of its own. A token that stands where a provider's key would stand is ours: no upstream ever sees it.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Final
from urllib.parse import unquote_to_bytes

from sidecar.config.secrets import MIN_TOKEN_CHARACTERS, ClientTokens
from sidecar.proxy.origin import CREDENTIALS, PROTOCOLS, protocols_of
from sidecar.wire.http1 import RequestHead
from sidecar.wire.target import ALL_CREDENTIALS as IN_QUERY
from sidecar.wire.target import values_in

TENANT: Final = b"x-sidecar-tenant"
TOKEN: Final = b"x-sidecar-token"  # for a client whose own key goes on to its provider
_NAMED: Final = re.compile(rb"[A-Z]{1,16} (/for/([A-Za-z0-9][A-Za-z0-9._-]{0,63}))/")
_BEARER: Final = b"bearer "
_WORDS: Final = (re.compile(rb'[^\s,"]+'), re.compile(rb"""[^\s,"';<>=:]+"""))  # a token may have such signs in it
_MARKS: Final = b"'<>;"
_MOST_DOTS: Final = 8  # a browser's key has a name before it in its subprotocol, whose parts end with a dot
_URL_SAFE: Final = b"-_"
_MOST_WORDS: Final = 128  # 16..1,024 of a head's keys; fewer: odd ones are held back, more: a large one holds up others
_MOST_BYTES: Final = 36_864  # 33..64 KiB of them; fewer: long keys are held back, more: as above
_MOST_OFFERED: Final = 16  # 4..64 subprotocols; as above
_KEY_FIELDS: Final = frozenset({*CREDENTIALS, PROTOCOLS})


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
    own = fields[TOKEN] if TOKEN in fields else _key(fields)
    service = tokens.service_of(own, now)
    if service is None:
        return False
    holds = partial(_hold_token, tokens, now, own)
    head.spent = TOKEN not in fields or holds(_places(head))
    if PROTOCOLS in fields:
        head.protocols = _kept(protocols_of(head), holds)
    fields[TENANT] = service.encode()
    return True


def _kept(protocols: bytes, holds: Callable[[list[bytes]], bool]) -> bytes:
    """The subprotocols that hold no token; none of them where one is found in no single one of them, or where they are more
    than anybody's."""
    if not holds([protocols]):
        return protocols
    offered = [one for one in protocols.split(b",") if one.strip()]
    if len(offered) > _MOST_OFFERED or _words([protocols]) is None:
        return b""
    kept = b",".join([one for one in offered if not holds([one])])
    return b"" if holds([kept]) else kept


def _key(fields: Mapping[bytes, bytes]) -> bytes:
    """What stands where SDKs put their keys."""
    bearer = fields.get(b"authorization", b"")
    if bearer[: len(_BEARER)].lower() == _BEARER:
        return bearer[len(_BEARER) :]
    return next((fields[name] for name in CREDENTIALS[1:] if name in fields), b"")


def _places(head: RequestHead) -> list[bytes]:
    """All that stands where anybody puts a key: each line of a repeated field, and the values of the query."""
    lines = [line.partition(b":") for line in head.raw.split(b"\r\n")[1:]]
    fields = [text for name, _, text in lines if name.strip().lower() in _KEY_FIELDS]
    return [*fields, *values_in(head.target, IN_QUERY)]


def _hold_token(tokens: ClientTokens, now: float, own: bytes, texts: list[bytes]) -> bool:
    """Whether one of these texts is a token, or has one in it: the call's `own`, wherever, another as a word, whatever the
    scheme, or as a half of Basic's. Texts of more words or bytes than anybody's are taken for ones that have: to look at all
    of them would hold up everybody else."""
    if sum(map(len, texts)) > _MOST_BYTES:
        return True
    spelled = {*texts, *(unquote_to_bytes(text) for text in texts if b"%" in text)}
    words = _words(spelled) if len(spelled) <= _MOST_WORDS else None
    if words is None:
        return True
    found = [*spelled, *_inside(words)]
    return any(own in one for one in found if own) or tokens.knows_any(found, now)


def _words(texts: Iterable[bytes]) -> set[bytes] | None:
    """The whole texts, what is behind their schemes, and their words: a token may have signs in it that part others. None
    where there are too many."""
    found: set[bytes] = set()
    for text in texts:
        found.update((text.strip(), text.strip().partition(b" ")[2].strip()))
        for pattern in _WORDS:
            words = [match[0] for match in islice(pattern.finditer(text), _MOST_WORDS + 1)]
            found.update(words)
            if len(words) > _MOST_WORDS or len(found) > _MOST_WORDS:
                return None
    return {part for word in found for part in (word, word.strip(_MARKS)) if len(part) >= MIN_TOKEN_CHARACTERS}


def _inside(words: Iterable[bytes]) -> Iterator[bytes]:
    """Each word, what is behind its first dots and between them, and what these are in base64, whole and as both halves of
    Basic's (RFC 7617)."""
    for word in words:
        parts = word.split(b".", _MOST_DOTS)
        for text in {b".".join(parts[at:]) for at in range(len(parts))}.union(parts):
            yield text
            with suppress(ValueError):
                found = b64decode(text + b"=" * (-len(text) % 4), _URL_SAFE, validate=True).strip()
                yield from (found, *found.split(b":", 1))
