"""One client connection: gives heads (`heads`) and bodies to their exchange, writes answers, keeps order and time.

Requests are served one after another, so pipelined ones wait in our buffer and then in the client's socket.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Final, cast

from sidecar.clock import monotonic, to_steady
from sidecar.core.types import Spoken
from sidecar.errors import ProtocolError
from sidecar.proxy.answer import CONTINUE, error_body, response
from sidecar.proxy.dial import set_keepalive
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.gate import Refused
from sidecar.proxy.heads import Heads
from sidecar.proxy.intake import NEVER
from sidecar.proxy.local_call import LocalCall
from sidecar.proxy.plane import Plane
from sidecar.proxy.stall import Stall, has_left, waiting_bytes
from sidecar.proxy.tenant import TENANT, admits
from sidecar.proxy.tunnel import Tunnel
from sidecar.proxy.upstream import LARGE_READ_BYTES, UpstreamConnection, take_turns
from sidecar.wire.http1 import RequestHead

_MAX_PENDING_BYTES: Final = 64 * 1024  # pipelined bytes held before the client is made to wait
_LINGER_S: Final = 2.0  # how long a refused client may go on sending, so that it can read our answer first
_TLS_END_S: Final = 30.0  # 1..300; how long a client that has taken all may take to end its TLS, too
_REST_S: Final = 1.0  # .5..5; shorter: a client between two calls loses its connection, longer: new ones find no room
_FEEDBACK_MAX_BYTES: Final = 4096
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST
_CR_LF: Final = b"\r\n"


class Downstream(asyncio.Protocol):
    """A connection of the app."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.write: Callable[[bytes], None]
        self.source: asyncio.Transport
        self.exchange: Exchange | LocalCall | None = None
        self.deadline = NEVER
        self.full = False  # the client reads slowly
        self._stall: Stall | None = None  # while it is full, or closed with something left to send
        self._pending = b""
        self._searched = 0  # bytes of it in which no head ends: they are not searched again for each byte
        self._pumping = False
        self._scheduled = False  # what waits is served in the loop's next turn
        self.paused = False  # the client's bytes wait in its socket
        self._discard = False  # after a refusal: what the client still sends is thrown away
        self._tunnel: Tunnel | None = None
        self._read_at = 0.0
        self._heads = Heads(plane)
        self.plan = self._heads.plan

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there, its TLS established. One that got one of the last descriptors is closed at once."""
        self.transport = self.source = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it
        self.write = self.transport.write
        self.set_high(self.plane.high_bytes)
        set_keepalive(transport)
        self.plane.connections.add(self)
        self.plane.books.connections += 1
        self.deadline = monotonic() + self.plane.settings.keepalive_idle_s
        sock = transport.get_extra_info("socket")
        if sock is not None and not self.plane.admits(sock.fileno()):
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes of the client: for the tunnel, the exchange under way, or the next head."""
        self._read_at = monotonic()
        if self._tunnel is not None:
            self._tunnel.from_client(data)
        elif self._discard:
            return
        elif self.exchange is not None:
            self._during(data)
            if len(data) >= LARGE_READ_BYTES:
                take_turns(self)
        elif self._scheduled or self.full:
            self._hold(data)
        else:
            self._pump(self._pending + data if self._pending else data)

    def eof_received(self) -> None:
        """The client is done, which counts as leaving. Should it still read, it must not take a part for the whole."""
        exchange = self.exchange
        if self._tunnel is not None:
            self._tunnel.all_said = True
            self._close()
        if exchange is None:
            return
        unmarked = isinstance(exchange, Exchange) and exchange.ends_unmarked
        exchange.on_client_lost()
        if unmarked:
            self.cut(reset=True)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - what was said before counts
        self.plane.connections.discard(self)
        self.deadline = NEVER
        if self._tunnel is not None:
            self._tunnel.close()
        if self.exchange is not None:
            self.exchange.on_client_lost()

    def pause_writing(self) -> None:
        self.full = True
        if self.exchange is not None or self._tunnel is not None:
            self._watch()
        if self._tunnel is not None:
            self._tunnel.client_full(True)
        elif self.exchange is not None:
            self.exchange.on_client_full(True)

    def resume_writing(self) -> None:
        """The client has read: its stall is over, and who waits for it goes on, or what it has sent ahead is served."""
        self.full = False
        if self._stall is not None and not self.transport.is_closing():
            self._stall = None
            if self.exchange is not None or self._tunnel is not None:
                self.deadline = NEVER
        if self._tunnel is not None:
            self._tunnel.client_full(False)
        elif self.exchange is not None:
            self.exchange.on_client_full(False)
        elif self._pending:
            self._go_on()

    # ---- the exchange's side

    def now(self) -> float:
        """The steady time of the last read."""
        return to_steady(self._read_at)

    def set_reading(self, on: bool) -> None:
        """Lets the client's body wait in its socket, or come on."""
        if self.transport.is_closing():
            return
        self.paused = not on
        if on:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def rests(self, now: float) -> bool:
        """Whether nothing is under way here, and was not a moment ago."""
        busy = self.exchange is not None or self._tunnel is not None or self._discard or self._scheduled
        if busy or self._stall is not None or self.transport.is_closing():
            return False
        settings = self.plane.settings
        whole_s = settings.head_timeout_s if self._pending else settings.keepalive_idle_s
        return self.deadline <= now + whole_s - _REST_S

    def set_high(self, size: int) -> None:
        """So many bytes of an answer may wait here before the upstream waits with the rest."""
        if not self.transport.is_closing():
            self.transport.set_write_buffer_limits(size)

    def on_exchange_over(self, *, keep: bool) -> None:
        """The exchange has ended; the connection goes on to the next request, or closes behind what was written."""
        exchange, self.exchange = self.exchange, None
        if self.transport.is_closing():
            return
        if not keep:
            reader = None if exchange is None else exchange.reader
            self._leave(linger=self.paused or not (reader is None or reader.done))
            return
        self.deadline = monotonic() + self.plane.settings.keepalive_idle_s
        if self.paused:
            self.set_reading(True)
        if self._pending and not self._pumping and not self.full:
            self._go_on()

    def cut(self, *, reset: bool) -> None:
        """Ends the connection so that the client cannot take what it has for a whole answer."""
        self.exchange = None
        if reset:
            sock = self.transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        else:
            self._close()  # flushes first: what had arrived stays readable, the missing end is visible

    def tunnel(self, connection: UpstreamConnection, data: bytes) -> None:
        """The upstream switched protocols: from here on bytes pass unread, both ways."""
        self.exchange = None
        self.deadline = NEVER
        self._tunnel = Tunnel(self.plane.tunnels, self.transport, connection, self._close, self.set_reading)
        if self.paused:
            self.set_reading(True)
        self.write(data)
        if self._pending:
            self._tunnel.from_client(self._pending)
            self._pending = b""

    def on_sweep(self, now: float) -> None:
        """Looked at because time is up, or because we do not read: then nobody else would tell us that the client left."""
        busy = self.exchange is not None or self._tunnel is not None
        if self.paused and busy and has_left(self.transport, half=self._tunnel is None):  # a tunnel's last words count
            self.transport.abort()
        elif self.paused and self._tunnel is not None and self._stall is None and has_left(self.transport, half=True):
            patience = self._stall = self._tunnel.patience(now)  # the upstream has to go on reading them
            self.deadline = now + patience.every_s
        if self.deadline >= now:
            return
        self.deadline = NEVER
        stall = self._stall
        if self._discard and not waiting_bytes(self.transport):
            if self.transport.can_write_eof() or self.transport.is_closing():
                self.transport.abort()
            else:
                self.transport.close()  # TLS has its end to say
                self.deadline = now + _LINGER_S
        elif stall is not None and (busy or self._discard or self.transport.is_closing()):
            self._look(stall, now)
        elif self._discard:
            self.deadline = now + _LINGER_S
            self._watch()  # it may go on sending for as long as it takes what was written
        elif self._pending:
            self._refuse(408, "head_timeout", "the request head did not arrive in time")
        else:
            self._close()

    def _watch(self) -> None:
        """From now on the client has to take some of what waits for it, or it is given up."""
        limit_s = self.plane.settings.downstream_stall_timeout_s
        if limit_s:
            now = monotonic()
            self._stall = Stall(self.transport, limit_s, now)
            self.deadline = now + self._stall.every_s

    def _look(self, stall: Stall, now: float) -> None:
        if self.transport.is_closing() and not waiting_bytes(self.transport):
            self.transport.abort()  # it has taken all: that it ends its TLS, too, is not waited for
            return
        if not stall.over(now):
            self.deadline = now + stall.every_s
            return
        exchange = self.exchange
        self.cut(reset=True)  # waking up, it must not find a clean end behind the part that it has
        if exchange is not None:
            exchange.on_client_lost("client_stalled")

    def _close(self) -> None:
        """Closes behind what was written, for as long as the client takes it."""
        left = waiting_bytes(self.transport)
        self.transport.close()
        if left:
            self._watch()
        elif not self.transport.can_write_eof():
            self.loop.call_later(_TLS_END_S, self.transport.abort)  # the loop waits for a day

    # ---- heads

    def _go_on(self) -> None:
        """Serves what waits, in a turn of its own: answers of one connection must not nest."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._scheduled = False
        if self.exchange is None and not self.transport.is_closing():
            if self.paused:
                self.set_reading(True)  # what is held may begin a body that goes on behind it
            self._read_at = monotonic()
            self._pump(self._pending)

    def _pump(self, data: bytes) -> None:
        """Serves what lies in `data` until an exchange is under way or a head is incomplete."""
        self._pumping = True
        self._pending = b""
        searched, self._searched = self._searched, 0
        try:
            while data and self.exchange is None and not (self._discard or self.full or self.transport.is_closing()):
                if data[0] in _CR_LF:
                    data = data.lstrip(b"\r\n")  # RFC 9112 section 2.2: empty lines before a request line
                    continue
                head = self._heads.recall(data) or self._heads.parse(data, max(0, searched - 3))
                if head is None:
                    self._wait_for_head(data, fresh=not searched)
                    self._searched = len(data)
                    return
                searched = 0
                data = self._serve(head, data)
            if data and (self.exchange is not None or self.full):
                self._hold(data)  # a client that does not read its answers gets no further ones
        except ProtocolError as error:
            self._refuse(error.answer, "protocol", str(error))
        finally:
            self._pumping = False

    def _wait_for_head(self, data: bytes, *, fresh: bool) -> None:
        until = self._read_at + self.plane.settings.head_timeout_s
        self.deadline = until if fresh else min(self.deadline, until)  # later bytes move nothing
        self._pending = data

    # ---- requests

    def _serve(self, head: RequestHead, data: bytes) -> bytes:
        """Begins one request; gives what of `data` belongs to the next."""
        heads = self._heads
        at, way = heads.size, heads.way
        if way is None or (way.beyond and way.beyond not in self.plane.gate.beyond):
            judged = self.plane.gate.admit(head)
            if isinstance(judged, Refused):
                return self._turn_away(head, judged, data, at)
            way = heads.way = judged
        if self.plane.tokens is not None:
            before = head.spent, head.protocols
            if not admits(self.plane.tokens, head, self.now()):
                refused = Refused(401, "token", "Send a token of this sidecar as the API key.")
                return self._turn_away(head, refused, data, at)
            if before != (head.spent, head.protocols):
                heads.forget_plans()  # a key has become a token, or was one
        if way.local:
            return self._feedback(head, data, at)
        self.deadline = NEVER
        self.exchange = exchange = Exchange(self.plane, self, head, way, self._read_at)
        expects = b"expect" in head.fields and head.minor and len(data) == at
        at = exchange.begin(data, at)
        if expects and self.exchange is exchange and exchange.body_left:
            self.write(CONTINUE)
        return data[at:] if at < len(data) else b""

    def _during(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        if exchange.reader is None or exchange.reader.done:
            self._hold(data)
            return
        try:
            at = exchange.on_body(data)
        except ProtocolError as error:
            if exchange.reply is not None:
                self.cut(reset=exchange.ends_unmarked)
            else:
                self._refuse(error.answer, "protocol", str(error))
            return
        if at < len(data) and not self._discard:
            self._hold(data[at:])

    def _hold(self, data: bytes) -> None:
        """Keeps pipelined bytes; a client that sends ahead of its answers waits."""
        self._pending += data
        if len(self._pending) > _MAX_PENDING_BYTES:
            self.set_reading(False)

    def _turn_away(self, head: RequestHead, refused: Refused, data: bytes, at: int) -> bytes:
        """Answers a request that may not pass; its body, if it is here already, is skipped."""
        self.plane.books.turned_away += 1
        length = head.length or 0
        whole = not head.chunked and length <= len(data) - at
        keep = whole and head.keep_alive and bool(head.minor)
        body = error_body(
            refused.spoken or ("anthropic" if b"anthropic-version" in head.fields else "openai"),
            refused.status,
            refused.code,
            refused.message,
        )
        self.write(response(refused.status, body, close=not keep, head_only=head.method == b"HEAD"))
        if not keep:
            self._leave(linger=not whole)
            return b""
        return data[at + length :]

    def _feedback(self, head: RequestHead, data: bytes, at: int) -> bytes:
        """Our own endpoint on the traffic port: small JSON bodies, read whole and handed to the control plane."""
        length = head.length
        if head.method != b"POST":
            refused = Refused(405, "method", "Use POST.")
        elif not head.fields.get(b"content-type", b"").lower().startswith(b"application/json"):
            refused = Refused(415, "content_type", "Send the feedback as application/json.")
        elif head.chunked or length is None or length > _FEEDBACK_MAX_BYTES:
            refused = Refused(413, "too_large", "Feedback is at most 4 KiB, with a Content-Length.")
        elif length > len(data) - at:
            self._wait_for_head(data, fresh=False)  # few bytes: looked at again when all are here
            return b""
        elif self.plane.on_feedback is None:
            refused = Refused(503, "not_ready", "The sidecar takes no feedback yet.")
        else:
            self.exchange = call = LocalCall(self, keep=head.keep_alive)
            tenant = "" if self.plane.tokens is None else head.fields[TENANT].decode("latin-1")
            self.plane.on_feedback(data[at : at + length], call.answer, tenant)
            return data[at + length :]
        return self._turn_away(head, refused, data, at)

    def _refuse(self, status: int, code: str, message: str) -> None:
        """A protocol error: one answer, then the connection closes."""
        if self.exchange is None:
            self.plane.books.turned_away += 1
        self.exchange = None
        if not self.transport.is_closing():
            way = self._heads.way
            dialect: Spoken = "openai" if way is None else way.spoken or way.dialect
            self.write(response(status, error_body(dialect, status, code, message), close=True))
            self._leave(linger=True)

    def _leave(self, *, linger: bool) -> None:
        """Closes behind what was written. With `linger` the client may finish sending, so that no RST eats our answer."""
        self._pending = b""
        if not linger:
            self._close()
            return
        self._discard = True
        self.deadline = monotonic() + _LINGER_S
        self.set_reading(True)
        if self.transport.can_write_eof():
            self.transport.write_eof()
