"""What an errand has to know of the exchange that it is about, and whether it may carry the client's credential."""

from msgspec import Struct

from sidecar.proxy.origin import Origin
from sidecar.wire.http1 import RequestHead
from sidecar.wire.request_view import RequestView


class Seen(Struct, frozen=True):
    """One exchange's request, kept while somebody may still ask about it: never stored, never logged."""

    head: RequestHead
    body: bytes
    view: RequestView
    origin: Origin  # where the client's call went


def same_place(one: Origin, other: Origin) -> bool:
    """Whether both are reached by the same scheme, host and port."""
    here, there = one.spec, other.spec
    return (here.scheme, here.host, here.port) == (there.scheme, there.host, there.port)


def may_carry(origin: Origin, served: Origin) -> bool:
    """Whether an errand to `origin` can be authorised: by a key that the sidecar holds for it, or by the client's own,
    which goes where the client's call went and nowhere else."""
    return origin.holds_key or (not served.holds_key and same_place(origin, served))
