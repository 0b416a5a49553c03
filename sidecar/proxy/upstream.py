"""Connections to one upstream: a pool of raw keep-alive connections, each with our own Protocol.

A request takes an idle connection at once, in the callback that read it, without a task; only when none is idle is one
dialled. The newest idle connection is taken first, so that the surplus ages and is closed before the peer closes it
(INC-11). Nothing is ever sent twice here: a connection that dies with a request on it ends that request (INC-12).
"""

import asyncio
import os
import re
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, cast

from sidecar.clock import monotonic, to_steady
from sidecar.core.concurrency import Limit
from sidecar.proxy.dial import Dialer, DialError, Dialled, of_tls
from sidecar.proxy.stall import has_come, waiting_bytes
from sidecar.tasks import Tasks

_TIMEOUT_HINT: Final = re.compile(rb"timeout=([0-9]{1,6})")
LARGE_READ_BYTES: Final = 65536  # a read of this size has more behind it: the loop's other connections come first
_HINT_MARGIN_S: Final = 1.0  # a server that says timeout=5 has its connection used for 4 s at most
LEAVE_S: Final = 10.0  # 1..60; less: a slow peer loses a tunnel's end, more: one that reads nothing holds it longer
_QUIET_S: Final = 0.02  # 0..1; shorter: busy calls pay for the question, longer: ends of impatient servers are missed
_UNHEARD_BYTES: Final = 64 * 1024 * 1024  # 8..1,024 MiB; fewer: who reads last words late is cut, more: it talks on
_FRESH_S: Final = 1.0  # .2..3; shorter: who comes and goes is dialled for each time, longer: hears older failures
WRITE_HIGH_BYTES: Final = 256 * 1024  # what may lie unsent before the reader of the other side is paused


class Rider(Protocol):
    """What an exchange offers to the connection that carries it."""

    def on_connection(self, connection: "UpstreamConnection") -> None: ...
    def on_no_connection(self, error: DialError) -> None: ...
    def on_upstream_data(self, data: bytes) -> None: ...
    def on_upstream_lost(self, error: Exception | None) -> None: ...
    def on_upstream_full(self, full: bool) -> None: ...


class Reads(Protocol):
    """One side of the proxy; `paused`: it waits for the other one."""

    paused: bool
    source: asyncio.Transport  # whose reading is paused


def take_turns(side: Reads) -> None:
    """Behind a large read: libuv would read 31 times more before it looks at any other connection."""
    if not (side.paused or side.source.is_closing()):
        side.source.pause_reading()
        asyncio.get_running_loop().call_soon(_read_on, side)


def _read_on(side: Reads) -> None:
    if not (side.paused or side.source.is_closing()):
        side.source.resume_reading()


def _said_its_end(secured: asyncio.Transport) -> bool:
    """Whether the peer ended its TLS. A connection that only ends may have been cut by anybody (RFC 9112 section 9.8), and
    neither loop tells the two apart."""
    try:
        return not secured.get_extra_info("ssl_object").read(1)
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False


class UpstreamConnection(Dialled):
    """One connection. It carries one exchange at a time, or lies idle in its pool.

    Where it speaks TLS, what is paused is the connection below: when a peer ends its side, uvloop throws away what lies in
    a TLS transport that is paused.
    """

    __slots__ = (
        "_on_left",
        "_pool",
        "_unheard",
        "closed",
        "idle_limit_s",
        "idle_since",
        "paused",
        "rider",
        "source",
        "transport",
    )

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self.transport: asyncio.Transport
        self.source: asyncio.Transport
        self.rider: Rider | None = None
        self._on_left: Callable[[], None] | None = None
        self._unheard = 0  # bytes that came behind `leave`
        self.closed = False
        self.paused = False
        self.idle_since = 0.0
        self.idle_limit_s = pool.idle_limit_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = self.source = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it
        self.transport.set_write_buffer_limits(WRITE_HIGH_BYTES)

    def on_secured(self, below: asyncio.Transport) -> None:
        self.source = below

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer go to the exchange that rides this connection; without one the connection is closed."""
        rider = self.rider
        if rider is not None:
            rider.on_upstream_data(data)
        elif not self.closed:
            self.close()  # bytes that nobody asked for: the next answer could be forged with them
        else:
            self._unheard += len(data)
            if self._unheard > _UNHEARD_BYTES:
                self.transport.abort()
        if len(data) >= LARGE_READ_BYTES and self.rider is rider:
            take_turns(self)

    def eof_received(self) -> None:
        """The peer is done; asyncio closes the transport behind what is unsent, and `connection_lost` tells the rider."""
        if waiting_bytes(self.transport):
            asyncio.get_running_loop().call_later(LEAVE_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the exchange that rides it, also of TLS that only ended."""
        self.closed = True
        self._pool.forget(self)
        try:
            if self.rider is not None and exc is not None and self.source is self.transport:
                self._hear_out()
        finally:
            self._tell_rider(exc)
            if self._on_left is not None:
                self._on_left()

    def _tell_rider(self, exc: Exception | None) -> None:
        rider, self.rider = self.rider, None
        if rider is not None:
            if exc is None and self.source is not self.transport and not _said_its_end(self.transport):
                exc = ConnectionAbortedError("TLS ended without close_notify")
            if isinstance(exc, ssl.SSLError):
                exc = of_tls(exc)
            rider.on_upstream_lost(exc)

    def _hear_out(self) -> None:
        """Reads what came before the connection broke. Who answers a body that it does not read, and closes, resets it: the
        write that finds this ends the transport, and the answer may still lie in the socket, which is open until we return.
        """
        sock = self.transport.get_extra_info("socket")
        with suppress(OSError):
            while self.rider is not None and (data := os.read(sock.fileno(), LARGE_READ_BYTES)):
                self.rider.on_upstream_data(data)

    def pause_writing(self) -> None:
        if self.rider is not None:
            self.rider.on_upstream_full(True)

    def resume_writing(self) -> None:
        if self.rider is not None:
            self.rider.on_upstream_full(False)

    def set_reading(self, on: bool) -> None:
        """Lets the upstream's bytes wait in its socket while the client reads slowly, or come on."""
        self.paused = not on
        if self.source.is_closing():
            return
        if on:
            self.source.resume_reading()
        else:
            self.source.pause_reading()

    def take_hint(self, keep_alive: bytes) -> None:
        """Obeys a `Keep-Alive: timeout=N` of the server."""
        hint = _TIMEOUT_HINT.search(keep_alive)
        if hint is not None:
            self.idle_limit_s = min(self._pool.idle_limit_s, int(hint[1]) - _HINT_MARGIN_S)

    def serves(self, now: float) -> bool:
        """Whether an idle connection may carry another call. That its server has closed it, or has said what nobody asked
        for, the loop may not have read yet: the call came in the same turn. The kernel knows, and to ask it costs 1 us."""
        idle_s = now - self.idle_since
        if idle_s >= self.idle_limit_s or self.transport.is_closing():
            return False
        return idle_s < _QUIET_S or not has_come(self.source)

    def has_unsent(self, *, large: bool) -> bool:
        """Whether some of a request may not have left us yet. TLS keeps a part of a `large` one where only the kernel's
        count of what is not acknowledged shows it; to ask for that costs 2 us."""
        return bool(waiting_bytes(self.transport) if large else self.transport.get_write_buffer_size())

    def release(self) -> None:
        """The exchange is over and the connection is clean: it may carry another one."""
        self.rider = None
        if self.paused:
            self.set_reading(True)
        self._pool.put(self)

    def carry(self, rider: Rider) -> None:
        """`rider` stays until the connection ends, and counts as no call."""
        self.rider = rider
        self._pool.lend(self)

    def leave(self, on_left: Callable[[], None]) -> None:
        """Ends the connection behind what was written, for as long as the upstream takes it, and for LEAVE_S at most; then
        `on_left` is called.

        What the upstream says meanwhile is read, and dropped: a socket that is closed with unread bytes in it is reset, and
        the reset overtakes what was written. Over TLS it is not read. Who only goes on talking is cut.
        """
        self.rider = None
        if self.closed:
            on_left()
            return
        self._on_left = on_left
        self.closed = True  # and counted by its pool, until it is lost
        asyncio.get_running_loop().call_later(LEAVE_S, self.transport.abort)
        if self.transport.is_closing():
            return
        self.set_reading(True)
        if self.transport.can_write_eof():
            with suppress(OSError):  # it was reset, and the loop has not seen it yet
                self.transport.write_eof()
        else:
            self.transport.close()

    def close(self) -> None:
        """Ends the connection at once; the upstream sees it and can stop generating."""
        self.rider = None
        if not self.closed:
            self.closed = True
            self._pool.forget(self)
            self.transport.abort()


class Pool:
    """The connections to one host and port."""

    def __init__(
        self, dialer: Dialer, tasks: Tasks, *, limit: int, idle_limit_s: float, connect_timeout_s: float
    ) -> None:
        """`limit` bounds open and opening connections; `idle_limit_s` is how long one may lie idle."""
        self.idle_limit_s = idle_limit_s
        self._dialer = dialer
        self._tasks = tasks
        self._limit = limit
        self._connect_timeout_s = connect_timeout_s
        self._idle: deque[UpstreamConnection] = deque()
        self._open: set[UpstreamConnection] = set()
        self._lent: set[UpstreamConnection] = set()  # that carry no calls, and for as long as they like
        self._dialling = 0
        self._begun: deque[float] = deque()  # when the dials began that who waits counts on
        self._waiting: dict[Rider, float] = {}  # since when
        self._closed = False
        self.cap: Limit | None = None  # of connections that carry calls at once, where the settings ask for one
        self.dials = 0  # connections opened
        self.dials_failed = 0

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(open, idle, waiting exchanges)."""
        return len(self._open), len(self._idle), len(self._waiting)

    @property
    def dialling(self) -> int:
        """Connections that are being opened."""
        return self._dialling

    @property
    def busy(self) -> int:
        """Connections that carry calls. Tunnels last for hours, and would hold all of a limit."""
        return len(self._open) - len(self._idle) - len(self._lent)

    @property
    def full(self) -> bool:
        """No further connection may be opened: who waits, waits for others of ours."""
        return len(self._open) + self._dialling >= self._limit

    def twin(self, limit: int) -> "Pool":
        """Another pool to the same place. Who rides there never takes a connection that this one's riders could have."""
        timeout_s = self._connect_timeout_s
        return Pool(self._dialer, self._tasks, limit=limit, idle_limit_s=self.idle_limit_s, connect_timeout_s=timeout_s)

    def take(self, rider: Rider) -> UpstreamConnection | None:
        """An idle connection at once, or None: then `rider` is called when there is one, or when there will be none."""
        idle = self._idle
        if idle and (self.cap is None or self.busy < self.cap.value):
            now = monotonic()
            while idle:
                connection = idle.pop()
                if connection.serves(now):
                    connection.rider = rider
                    return connection
                connection.close()
        now = monotonic()
        while len(self._begun) > len(self._waiting) and now - self._begun[0] > _FRESH_S:
            self._begun.popleft()  # it was begun for one that left: this rider has its own
        self._waiting[rider] = now
        self._dial()
        return None

    def give_up(self, rider: Rider) -> None:
        """`rider` waits no longer."""
        self._waiting.pop(rider, None)  # it may have had its connection, or its refusal, already

    def put(self, connection: UpstreamConnection) -> None:
        """Takes a clean connection back, or hands it to the next in line."""
        if self._closed or connection.closed or connection.transport.is_closing() or connection.idle_limit_s <= 0:
            connection.close()
        elif self._waiting and (self.cap is None or self.busy - 1 < self.cap.value):  # this one is among the busy
            self._hand(connection)
        else:
            connection.idle_since = monotonic()
            self._idle.append(connection)

    def lend(self, connection: UpstreamConnection) -> None:
        """The connection carries something else than a call from here on, and never comes back."""
        self._lent.add(connection)
        if self._waiting:
            self._dial()

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is gone."""
        self._open.discard(connection)
        self._lent.discard(connection)
        if connection.rider is None:
            try:
                self._idle.remove(connection)
            except ValueError:
                pass  # it was not idle
        if self._waiting:
            self._dial()

    def sweep(self, now: float) -> None:
        """Closes what lay idle too long. Called every second or so."""
        if self.cap is not None:
            self.cap.forget(to_steady(now))
        for connection in [idle for idle in self._idle if now - idle.idle_since >= idle.idle_limit_s]:
            connection.close()
        while self._waiting and self._idle and (self.cap is None or self.busy < self.cap.value):
            self.put(self._idle.pop())  # the cap was raised while they waited
        if self._waiting:
            self._dial()

    def close(self) -> None:
        """Closes the idle ones; the busy ones close when their exchange is over."""
        self._closed = True
        self.close_idle()

    def close_idle(self) -> None:
        """Closes those that carry nothing now."""
        for connection in list(self._idle):
            connection.close()

    def _dial(self) -> None:
        room = self.cap is None or self.busy + self._dialling < self.cap.value
        if room and len(self._begun) < len(self._waiting) and not self.full:
            self._dialling += 1
            begun = monotonic()
            self._begun.append(begun)
            self._tasks.spawn(self._connect(begun), "dial")

    async def _connect(self, begun: float) -> None:
        failure: DialError | None = None
        connection: UpstreamConnection | None = None
        try:
            connection = await self._dialer.connect(lambda: UpstreamConnection(self), self._connect_timeout_s)
        except DialError as error:
            failure = error.with_traceback(None)  # it refers to this frame, which keeps the failure: a cycle
        except Exception as bug:  # noqa: BLE001 - whatever it is, the one who waits is told at once
            self._tasks.on_error("dial", bug)
            failure = DialError("connect", "the upstream cannot be reached: a fault of the sidecar's own")
        finally:
            self._dialling -= 1
            with suppress(ValueError):  # nobody counted on it any more
                self._begun.remove(begun)
        if failure is not None:
            self.dials_failed += 1
            self._refuse(failure, begun)
        elif connection is not None:
            self.dials += 1
            self._open.add(connection)
            if connection.closed:
                self.forget(connection)
            elif self._waiting:
                self._hand(connection)
            else:
                self.put(connection)

    def _refuse(self, failure: DialError, begun: float) -> None:
        """The next in line learns that there is no connection, unless it came long after that dial began; for those behind
        it another one is tried."""
        rider, since = next(iter(self._waiting.items()), (None, 0.0))
        if rider is None:
            return
        if since - begun <= _FRESH_S:
            del self._waiting[rider]
            try:
                rider.on_no_connection(failure)
            except Exception as bug:  # noqa: BLE001 - a fault of one must not leave the others waiting
                self._tasks.on_error("dial", bug)
        if self._waiting:
            self._dial()

    def _hand(self, connection: UpstreamConnection) -> None:
        connection.rider = rider = next(iter(self._waiting))
        del self._waiting[rider]
        try:
            rider.on_connection(connection)
        except Exception as bug:  # noqa: BLE001 - it may be anybody's turn who hands it on
            self._tasks.on_error("dial", bug)
            connection.transport.abort()  # the rider is told by its loss
