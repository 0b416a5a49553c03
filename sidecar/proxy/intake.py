"""The first part of an exchange's life: the request's body, from the client's connection to where it is decided upon.

A body that we may have to read is held until it is whole, within a budget of bytes for the whole process; a client whose
body does not fit waits in its own socket. A body that is too large to hold, or is none that we read, is passed on as it
comes. Either way the exchange gets `_decide` called exactly once.
"""

from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop
from typing import Final, Literal, Protocol

from sidecar.clock import monotonic, to_steady
from sidecar.core.types import OutcomeKind
from sidecar.errors import ProtocolError
from sidecar.proxy.body import RequestBody
from sidecar.proxy.gate import Way
from sidecar.proxy.origin import Origin
from sidecar.proxy.plane import Plane
from sidecar.proxy.upstream import UpstreamConnection
from sidecar.wire.framing import LAST_CHUNK, chunk
from sidecar.wire.http1 import RequestHead
from sidecar.wire.request_view import SMALL_BODY_BYTES, RequestView, SlicedReader, read_request

Phase = Literal["body", "queue", "first_byte", "streaming", "over"]
NEVER: Final = float("inf")
_SLOW_AFTER_S: Final = 1.0  # a body that takes room which others wait for
_SLOW_BYTES_S: Final = 65_536  # has to come faster than this: a client in the same pod sends a thousand times as fast

_ORDINARY: Final = (
    "plane", "client", "head_in", "way", "zero", "at", "id", "keep_client", "body", "_held", "facts", "decision", "origin",
    "_view", "_outgoing", "asked", "phase", "guard", "breaker", "ticket", "connection", "sent_s", "deadline", "ttfb_s",
    "reply",
)  # fmt: skip # what an ordinary exchange sets of its own, in its order


class Client(Protocol):
    """The client's connection, as its exchange uses it."""

    loop: AbstractEventLoop
    full: bool  # the client reads slowly
    paused: bool  # the client's bytes wait in its socket

    def now(self) -> float: ...
    def write(self, data: bytes) -> None: ...
    def set_reading(self, on: bool) -> None: ...
    def plan(self, origin: Origin, target: bytes | None, *, identity: bool) -> tuple[bytes, bytes]: ...
    def on_exchange_over(self, *, keep: bool) -> None: ...
    def cut(self, *, reset: bool) -> None: ...
    def tunnel(self, connection: UpstreamConnection, data: bytes) -> None: ...


class Intake(ABC):
    """Reads, holds or passes on one request body."""

    # Defaults stand on the class: an ordinary exchange sets few of its own, and setting costs.
    phase: Phase = "body"
    deadline = NEVER
    body = b""  # the client's, while it is needed
    reader: RequestBody | None = None  # while the body is still coming
    reply: object = None  # the upstream's, from its head on
    streaming_up = False  # the body is passed on as it comes
    connection: UpstreamConnection | None = None
    waiting = False  # for room among the bodies that are held
    _held = 0  # bytes of the process's budget
    _held_at = 0.0  # since when, where it was asked for ahead of the bytes
    _early_up: tuple[bytes, ...] = ()  # pieces read before there was a connection

    def __init_subclass__(cls) -> None:
        """Names the attributes before there is an exchange. The objects of a class share one table of names, which the
        interpreter closes once some 30 of them were made: what is set for the first time later, as by the answers of a
        busy start, would cost every exchange a dict of its own."""
        first = cls.__new__(cls)
        for name in _ORDINARY:
            setattr(first, name, None)

    def __init__(self, plane: Plane, client: Client, head: RequestHead, way: Way, zero: float) -> None:
        """`zero` is the monotonic time of the read that completed the head: the zero of all clocks."""
        self.plane = plane
        self.client = client
        self.head_in = head
        self.way = way
        self.zero = zero
        self.at = plane.wall()
        self.id = plane.chance.new_id(to_steady(zero))  # rows lie in the order of time, whatever the wall clock does
        self.keep_client = head.keep_alive
        plane.exchanges.add(self)
        plane.books.accepted += 1

    @property
    def body_left(self) -> bool:
        """The client has not sent its whole body yet."""
        return self.reader is not None and not self.reader.done

    def begin(self, data: bytes, at: int) -> int:
        """Takes the body that lies in `data` from `at`; gives the index behind what was taken.

        Raises:
            ProtocolError: 413 or 400; nothing has been forwarded, and the exchange is over.
        """
        head = self.head_in
        settings = self.plane.settings
        length = head.length or 0
        if not head.chunked and length <= len(data) - at and length <= settings.route_body_max_bytes:
            end = at + length
            self.body = data[at:end]
            self._hold(length)
            self._read_body()
            return end
        try:
            self.reader = RequestBody(head, settings.max_body_bytes)
        except ProtocolError as error:
            self._finish("failed", "too_large", status=error.answer, detach=True)
            raise
        self.deadline = monotonic() + settings.body_stall_timeout_s
        if (self.way.endpoint == "other" and not self.way.reads) or length > settings.route_body_max_bytes:
            self._stream_up()
        elif not head.chunked:
            self._await_room()
        return self.on_body(data, at)

    def on_body(self, data: bytes, at: int = 0) -> int:
        """More of the body; gives the index behind what belongs to it.

        Raises:
            ProtocolError: as `begin`; what was already forwarded has been cut off.
        """
        reader = self.reader
        if reader is None or self.phase == "over":
            return at
        try:
            payload, end = reader.feed(data, at)
        except ProtocolError as error:
            self._drop_upstream()
            self._finish("failed", "bad_request_body", status=error.answer, detach=True)
            raise
        if self.streaming_up:
            self._pass_up(payload)
        else:
            self._keep(reader, payload)
        return end

    def on_room(self) -> bool:
        """Bytes of the budget are free again: whether they suffice, and reading goes on."""
        if self.phase != "over":
            plane, want = self.plane, self.head_in.length or 0
            if plane.buffered + want > plane.settings.max_buffered_bytes:
                return False
            self._hold(want)
            self.waiting = False
            self._held_at = monotonic()
            self.deadline = self._held_at + plane.settings.body_stall_timeout_s
            self.client.set_reading(True)
        return True

    def on_want(self, now: float) -> None:
        """Others wait for the room that this body takes. One that was promised and hardly comes must not keep it: a few
        connections could stop every other large body for as long as they send a byte now and then."""
        reader = self.reader
        if reader is None or self.phase != "body" or self.waiting or not self._held:
            return
        took = now - max(self.zero, self._held_at)
        if took > _SLOW_AFTER_S and reader.size < _SLOW_BYTES_S * took:
            self.on_deadline()

    def on_upstream_full(self, full: bool) -> None:
        """The upstream reads slowly: the client's body waits in the client's socket, and its timer waits with it."""
        if self.streaming_up and self.body_left:
            settings = self.plane.settings
            self.client.set_reading(not full)
            if self.phase != "streaming":  # then the answer has a timer of its own
                self.deadline = monotonic() + (settings.first_byte_timeout_s if full else settings.body_stall_timeout_s)

    # ---- held

    def _hold(self, size: int) -> None:
        self.plane.buffered += size
        self._held += size

    def _await_room(self) -> None:
        plane, want = self.plane, self.head_in.length or 0
        if plane.buffered + want <= plane.settings.max_buffered_bytes:
            self._hold(want)
            self._held_at = monotonic()
            return
        self.waiting = True
        self.deadline = monotonic() + plane.settings.pool_queue_timeout_s
        self.client.set_reading(False)
        plane.room.append(self)

    def _keep(self, reader: RequestBody, payload: bytes) -> None:
        settings = self.plane.settings
        reader.keep(payload)
        if self.head_in.chunked:
            self._hold(len(payload))
        if reader.done:
            self.waiting = False
            self.body, self.reader = reader.take(), None
            self._read_body()
        elif reader.size > settings.route_body_max_bytes or (
            self.head_in.chunked and self.plane.buffered > settings.max_buffered_bytes
        ):
            early = reader.take()
            self._stream_up()
            self._pass_up(early)
        elif not self.waiting:
            self.deadline = monotonic() + settings.body_stall_timeout_s

    def _read_body(self) -> None:
        """The whole body is here: read the few members that we act on, then decide."""
        body = self.body
        if (
            (self.way.endpoint == "other" and not self.way.reads)
            or not body
            or b"content-encoding" in self.head_in.fields
        ):
            self._decide(None)
        elif len(body) <= SMALL_BODY_BYTES:
            self._decide(read_request(body))
        else:
            self.deadline = NEVER
            self._read_slice(SlicedReader(body, needs=self.plane.engine.wants.needs))

    def _read_slice(self, reader: SlicedReader) -> None:
        """One slice of a large body, so that no other connection waits longer than two milliseconds."""
        if self.phase == "over":
            return
        if reader.step():
            self._decide(reader.view)
        else:
            self.client.loop.call_soon(self._read_slice, reader)

    # ---- passed on

    def _stream_up(self) -> None:
        """The body is too large to hold, or is none that we read: it goes to the baseline as it comes."""
        self.streaming_up = True
        self._decide(None)

    def _pass_up(self, payload: bytes) -> None:
        reader = self.reader
        if self.phase == "over" or reader is None:
            return
        last = LAST_CHUNK if reader.done else b""
        piece = chunk(payload) + last if self.head_in.chunked else payload
        if self.connection is not None:
            self.connection.transport.write(piece)
            self._sent()
        elif piece:
            self._early_up += (piece,)
            self.client.set_reading(False)

    # ---- the rest of the exchange's life

    @abstractmethod
    def on_shutdown(self) -> None: ...

    @abstractmethod
    def on_deadline(self) -> None: ...

    @abstractmethod
    def _decide(self, view: RequestView | None) -> None: ...

    @abstractmethod
    def _sent(self) -> None: ...

    @abstractmethod
    def _drop_upstream(self) -> None: ...

    @abstractmethod
    def _finish(
        self, kind: OutcomeKind, error: str | None, now: float | None = None, *, status: int = 0, detach: bool = False
    ) -> None: ...
