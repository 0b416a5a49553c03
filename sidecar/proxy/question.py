"""Whether an error answer refuses the question about usage that we had put into the client's call."""

from typing import Final, Literal

from sidecar.errors import ProtocolError
from sidecar.wire.framing import Chunked
from sidecar.wire.http1 import ResponseHead
from sidecar.wire.usage_ask import refuses_usage

_MAX_HELD_BYTES: Final = 64 * 1024

Judged = Literal["more", "refused", "other"]


def judged(head: ResponseHead, data: bytes, *, whole: bool) -> Judged:
    """`data` is the answer from its head on. "more": it is not whole, and only its text tells."""
    if head.status not in (400, 422):
        return "other"
    body = data[len(head.raw) :]
    if head.chunked:
        decoder = Chunked()
        try:
            body, _ = decoder.feed(body)
        except ProtocolError:
            return "other"
        whole = decoder.done
    elif head.length is not None:
        whole = len(body) >= head.length
    if not whole and len(body) < _MAX_HELD_BYTES:
        return "more"
    return "refused" if refuses_usage(head.status, body) else "other"
