"""The request heads of one client connection: found, parsed, and the last one remembered with what was made of it.

A head that repeats the last one but for the digits of its Content-Length, as an SDK's heads on one connection do, is
recognised by two comparisons of bytes instead of being parsed again. What is remembered belongs to one connection: no client
can make another's.
"""

from typing import Final

from sidecar.errors import ProtocolError
from sidecar.proxy.gate import Way
from sidecar.proxy.origin import Origin
from sidecar.proxy.plane import Plane
from sidecar.proxy.tenant import TENANT, named_by_path
from sidecar.wire.http1 import RequestHead, parse_request, parse_request_fully

_MAX_PLANS: Final = 16


class Heads:
    """Those of one connection, in their order."""

    __slots__ = ("_head", "_memo", "_memo_end", "_memo_start", "_plane", "_plans", "size", "way")

    def __init__(self, plane: Plane) -> None:
        self.size = 0  # bytes of the one that was found last
        self.way: Way | None = None  # of the last one, while it is repeated
        self._head: RequestHead  # the one that was parsed last
        self._plane = plane
        self._memo: RequestHead | None = None  # the same, where it may be recalled
        self._memo_start = b""
        self._memo_end = b""
        self._plans: dict[tuple[Origin, bytes | None, bytes | None, bool], tuple[bytes, bytes]] = {}

    def recall(self, data: bytes) -> RequestHead | None:
        """The remembered head, when `data` begins with it, with the new body length in it."""
        start = self._memo_start
        if self._memo is None or not data.startswith(start):
            return None
        end = data.find(b"\r", len(start))
        digits = data[len(start) : end]
        if not digits.isdigit() or len(digits) > 18 or not data.startswith(self._memo_end, end):
            return None
        memo = self._memo
        memo.length = int(digits)
        self.size = end + len(self._memo_end)
        return memo

    def parse(self, data: bytes, start: int) -> RequestHead | None:
        """The head at the start of `data`, of which the end lies behind `start`; None while it is incomplete.

        Raises:
            ProtocolError: it is no head, or too large.
        """
        end = data.find(b"\r\n\r\n", start)
        if (len(data) if end < 0 else end + 4) > self._plane.settings.max_head_bytes:
            raise ProtocolError("the request head is larger than max_head_bytes", 431)
        if end < 0:
            _looks_like_http(data, start)
            return None
        named = named_by_path(data) if self._plane.shared else None
        if named is not None:
            return self._parse_named(named, len(data) - end - 4)
        head = parse_request(data) or parse_request_fully(data[: end + 4])
        self.size = len(head.raw)
        self._remember(head)
        return head

    def plan(self, origin: Origin, target: bytes | None, *, identity: bool) -> tuple[bytes, bytes]:
        """The present head as it goes to `origin`, remembered for as long as the client repeats it."""
        key = (origin, origin.key(), target, identity)
        found = self._plans.get(key)
        if found is None:
            assert self.way is not None
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            found = self._plans[key] = origin.head(self._head, self.way, identity=identity, target=target)
        return found

    def forget_plans(self) -> None:
        """Something of the present head is said otherwise than before."""
        self._plans.clear()

    def _parse_named(self, named: tuple[bytes, bytes], behind: int) -> RequestHead:
        """A head whose path named a tenant, as if it had not; `behind` bytes belong to the body. It is never remembered:
        its bytes are not those that come."""
        tenant, data = named
        whole = len(data) - behind
        head = parse_request(data) or parse_request_fully(data[:whole])
        self.size = whole + len(b"/for/") + len(tenant)
        self._remember(head)
        self._memo = None
        head.fields[TENANT] = tenant
        return head

    def _remember(self, head: RequestHead) -> None:
        self._plans.clear()
        self.way = None
        first, last = head.length_span
        ordinary = last and not head.chunked and not head.nominated and b"expect" not in head.fields
        self._head = head
        self._memo = head if ordinary else None
        self._memo_start, self._memo_end = head.raw[:first], head.raw[last:]


def _looks_like_http(data: bytes, start: int) -> None:
    """Tells what can never become a request at once, instead of after the head timeout (TLS hellos, bare LF heads). What
    lies before `start` was looked at before."""
    feed = data.find(b"\n", start)
    if (feed >= 0 and data[feed - 1 : feed] != b"\r") or not data[:1].isalpha() or data.find(b"\n\n", start) >= 0:
        raise ProtocolError("this is not an HTTP/1.1 request head")
