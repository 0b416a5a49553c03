"""Whose call is it? Many services share one port in the modes standalone and daemon; each is a tenant.

A call says it in one of three ways: by its token (lines `token service` of `client_tokens_file`), by the header
`x-sidecar-tenant`, or by its path: `/for/NAME/v1/...` is `/v1/...` of NAME. The token is believed, the other two only
where no token is asked for. The name becomes the tag `tenant`, by which routes match, so that each service has arms,
budgets and rollouts of its own. A token that stands where a provider's key would stand is ours: no upstream ever sees it.
"""

import re
from typing import Final

from sidecar.config.secrets import ClientTokens
from sidecar.proxy.origin import CREDENTIALS
from sidecar.wire.http1 import RequestHead
from sidecar.wire.target import CREDENTIALS as IN_QUERY
from sidecar.wire.target import value_in

TENANT: Final = b"x-sidecar-tenant"
TOKEN: Final = b"x-sidecar-token"  # for a client whose own key goes on to its provider
_NAMED: Final = re.compile(rb"[A-Z]{1,16} (/for/([A-Za-z0-9][A-Za-z0-9._-]{0,63}))/")
_BEARER: Final = b"bearer "


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
    keys = _keys(head)
    service = tokens.service_of(fields[TOKEN] if TOKEN in fields else next(iter(keys), b""), now)
    if service is None:
        return False
    head.spent = TOKEN not in fields or any(tokens.service_of(key, now) is not None for key in keys)
    fields[TENANT] = service.encode()
    return True


def _keys(head: RequestHead) -> list[bytes]:
    """What stands where SDKs put their keys; the query comes last, and is nobody's place for a token."""
    fields = head.fields
    bearer = fields.get(b"authorization", b"")
    found = [bearer[len(_BEARER) :]] if bearer[: len(_BEARER)].lower() == _BEARER else []
    found += [fields[name] for name in CREDENTIALS[1:] if name in fields]
    asked = value_in(head.target, IN_QUERY) if TOKEN in fields else None
    return found if asked is None else [*found, asked]
