"""One connection of the simulated provider: reads requests, plays plans at their times, sees clients leave.

HTTP/1.1 with keep-alive; a request that arrives while an answer is being played waits for its turn.
"""

import asyncio
import re
import socket
import struct
from typing import Protocol

from sidecar.clock import monotonic
from sidecar.sim.plan import Plan
from sidecar.sim.timer import ExactTimer

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_LENGTH_USUAL = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d{1,18})\r\n")
_KEY = re.compile(
    rb"\r\n(?:authorization:[ \t]*(?:bearer |aws4-hmac-sha256 credential=(?=([^/\r\n]*)))?"
    rb"|(?:x-api-key|x-goog-api-key|api-key):[ \t]*)([^\r\n]*)",
    re.IGNORECASE,
)  # of a signed request it is the access key's id; the signature is not looked at
_CODED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked", re.IGNORECASE)
_MAX_HEAD_BYTES = 65536
_BAD_REQUEST = b"HTTP/1.1 %d %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Answering(Protocol):
    """What a connection needs of its provider."""

    timer: ExactTimer
    max_body_bytes: int
    asks_key: bool
    keeps_requests: bool

    def respond(self, method: str, target: str, key: str | None, body: bytes) -> Plan: ...
    def keep(self, head: bytes, body: bytes) -> None: ...
    def token_sent(self, number: str, at: float) -> None: ...
    def aborted(self, number: str, at: float) -> None: ...
    def connected(self, connection: "Connection") -> None: ...
    def disconnected(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """See the head of the file. One per accepted socket."""

    __slots__ = ("_at", "_closing", "_need", "_owner", "_parts", "_plan", "_received", "_start", "transport")

    def __init__(self, owner: Answering) -> None:
        self._owner = owner
        self._parts: list[bytes] = []
        self._received = 0
        self._need = 0  # bytes before it is worth looking at what was received
        self._plan: Plan | None = None
        self._start = 0.0
        self._at = 0
        self._closing = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport) or hasattr(transport, "write"):
            self.transport = transport  # type: ignore[assignment]  # uvloop's transports derive from BaseTransport only
        self._owner.connected(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        now = monotonic()
        if self._plan is not None and not self._closing:
            self._owner.aborted(self._plan.id, now)
        self._plan = None
        self.transport = None
        self._owner.disconnected(self)

    def data_received(self, data: bytes) -> None:
        """Looks at the bytes as soon as a whole request may be there; time zero is this read."""
        start = monotonic()
        if self._parts or self._plan is not None:
            self._parts.append(data)
            self._received += len(data)
            if self._plan is not None or self._received < self._need:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        self._read(data, start)

    def close(self) -> None:
        """Cuts the connection."""
        self._closing = True
        if self.transport is not None:
            self.transport.abort()

    def _read(self, data: bytes, start: float) -> None:
        """Starts on one complete request, or keeps the bytes until there is more."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _MAX_HEAD_BYTES:
                self._refuse(431, b"Request Header Fields Too Large")
                return
            self._wait(data, 0)
            return
        head = data[: end + 2]
        found = _LENGTH_USUAL.search(head) or _LENGTH.search(head)
        if found is not None:
            total = end + 4 + int(found[1])
            if total > end + 4 + self._owner.max_body_bytes:
                self._refuse(413, b"Content Too Large")
                return
            if len(data) < total:
                self._continue(head)
                self._wait(data, total)
                return
            body = data[end + 4 : total]
        elif _CODED.search(head) is not None:
            decoded = dechunk(data, end + 4)
            if decoded is None:
                self._continue(head)
                self._wait(data, 0)
                return
            body, total = decoded
        else:
            body, total = b"", end + 4
        if len(data) > total:
            self._wait(data[total:], 0)
        self._begin(head, body, start)

    def _wait(self, data: bytes, need: int) -> None:
        self._parts = [data]
        self._received = len(data)
        self._need = need

    def _continue(self, head: bytes) -> None:
        if b"100-continue" in head and self._need == 0 and self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, status: int, reason: bytes) -> None:
        self._closing = True
        if self.transport is not None:
            self.transport.write(_BAD_REQUEST % (status, reason))
            self.transport.close()

    def _begin(self, head: bytes, body: bytes, start: float) -> None:
        words = head[: head.find(b"\r\n")].split(b" ")
        if len(words) != 3:
            self._refuse(400, b"Bad Request")
            return
        owner = self._owner
        if owner.keeps_requests:
            owner.keep(head, body)
        found = _KEY.search(head) if owner.asks_key else None
        key = (found[1] or found[2]).decode("latin-1") if found is not None else None
        plan = owner.respond(words[0].decode("latin-1"), words[1].decode("latin-1"), key, body)
        if b"onnection: close" in head and plan.end == "keep":
            plan.end = "close"
        self._plan = plan
        self._start = start
        self._at = 0
        self._advance()

    def _advance(self) -> None:
        """Writes everything that is due, then waits for the next step or ends the answer."""
        plan, transport = self._plan, self.transport
        if plan is None or transport is None:
            return
        steps, at = plan.steps, self._at
        count = len(steps)
        if at < count and steps[at][0] <= 0.0 and count == 1:
            transport.write(steps[0][1])  # the ordinary whole answer without delay
            self._end(plan)
            return
        elapsed = monotonic() - self._start
        due: list[bytes] = []
        while at < count and steps[at][0] <= elapsed:
            due.append(steps[at][1])
            at += 1
        if self._at <= plan.first < at:
            self._owner.token_sent(plan.id, monotonic())
        self._at = at
        if due:
            transport.write(b"".join(due))
        if at < count:
            self._owner.timer.at(self._start + steps[at][0], self._advance)
        else:
            self._end(plan)

    def _end(self, plan: Plan) -> None:
        transport = self.transport
        if transport is None or plan.end == "hang":
            return
        if plan.end == "keep":
            self._plan = None
            if self._parts:
                asyncio.get_running_loop().call_soon(self._next)
            return
        self._closing = True
        if plan.end == "close":
            transport.close()
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:  # a reset and not a FIN
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    def _next(self) -> None:
        if self._plan is None and self._parts and self.transport is not None:
            data = b"".join(self._parts)
            self._parts.clear()
            self._need = 0
            self._read(data, monotonic())


def dechunk(data: bytes, at: int) -> tuple[bytes, int] | None:
    """The body of a chunked request that begins at `at`, and where it ends; None while it is incomplete."""
    parts: list[bytes] = []
    while True:
        line = data.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(data[at:line].partition(b";")[0] or b"0", 16)
        at = line + 2
        if size == 0:
            end = data.find(b"\r\n", at)
            while end > at:  # trailer lines
                at = end + 2
                end = data.find(b"\r\n", at)
            return (b"".join(parts), at + 2) if end == at else None
        if len(data) < at + size + 2:
            return None
        parts.append(data[at : at + size])
        at += size + 2
