"""The way up of an exchange: the body as its arm gets it, a connection, and the request in one write."""

from abc import abstractmethod
from collections.abc import Iterator

from sidecar.clock import monotonic, steady
from sidecar.core.breaker import GOOD, Breaker, Health
from sidecar.core.guard import Guard
from sidecar.core.types import Decision, Stage
from sidecar.errors import ProtocolError, TranslationError
from sidecar.proxy.answer import NO_RETRY
from sidecar.proxy.body import LARGE_BYTES, Parts, slices
from sidecar.proxy.cascade import Cascade
from sidecar.proxy.dial import DialError
from sidecar.proxy.intake import NEVER
from sidecar.proxy.origin import Origin
from sidecar.proxy.outgoing import Came, outgoing, varied
from sidecar.proxy.own_answers import OwnAnswers
from sidecar.proxy.reply import Reply
from sidecar.proxy.translated import Said, Translated
from sidecar.proxy.upstream import LARGE_READ_BYTES, UpstreamConnection
from sidecar.wire.framing import LAST_CHUNK
from sidecar.wire.request_view import RequestView
from sidecar.wire.translate import Named


class Outward(OwnAnswers):
    """The part of an exchange that sends. Defaults stand on the class and are set only where they change: the ordinary
    exchange sets few of its own."""

    asked = False  # we asked for usage that the client had not asked for
    doubted: Origin | None = None  # refused this call, maybe for asking usage: it is sent there without that
    sent_s: float | None = None
    ttfb_s: float | None = None
    said: Said | None = None  # the call as other formats say it, where the policy has upstreams of another one
    translated: Translated | None = None  # this call, where its arm speaks another format
    cascade: Cascade | None = None
    stages: tuple[Stage, ...] | None = None  # arms that its cascade asked before this one
    guard: Guard  # of the upstream that is asked, from `_begin_try` on
    breaker: Breaker
    ticket = 0  # of the call that is under way; 0: none
    retrying = False  # the try before this one failed; an answer that a cascade does not pass on is no failure
    _view: RequestView | None = None
    _outgoing: bytes | Parts = b""  # the body as this arm gets it; in parts where it is large and was changed
    redialled = False  # because there was no descriptor for its connection at first
    unsent = False  # some of a large body is not written yet, or had not left us when its connection was dropped
    prompt_bytes: int | None = None
    _target: bytes | None = None  # where the upstream has the endpoint at a place of its own

    def _send(self, view: RequestView | None) -> None:
        """Writes the body for this arm and asks for a connection."""
        assert self.decision is not None
        body, seen, decision = self.body, view, self.decision
        if decision.system:
            body, seen, self.decision = varied(self.plane, self.facts, decision, body, view)
            decision = self.decision
        self._view = view
        if self.translated is not None:
            self.translated = None
        hosts = bool(self.way.beyond) and self.origin.hosts(self.way, decision.model, self.facts.model)
        if self.said is not None and self.origin.name in self.said and not hosts:
            if not self._translate(self.said, decision, body):
                return
        else:
            try:
                target = self.origin.target(self.head_in, self.way, decision.model, self.facts.model)
            except ProtocolError as error:
                self._answer(error.answer, "target", str(error), "failed", "refused")
                return
            if target is not self._target:
                self._target = target
            self._outgoing, self.asked = outgoing(
                self.origin, self.facts, decision, Came(body, view, seen), ask_usage=self._may_ask
            )
        self.phase = "queue"
        self._begin_try(decision)
        connection = self.origin.pool.take(self)
        if connection is not None:
            self.on_connection(connection)
        elif self.phase == "queue":
            self.deadline = monotonic() + self.plane.settings.pool_queue_timeout_s

    def _dial_again(self) -> bool:
        """Where descriptors are lacking: idle connections give theirs up, and another dial begins, once for each call."""
        if self.redialled:
            return False
        self.redialled = True
        self.plane.close_idle()
        return self.origin.pool.take(self) is None  # none is idle

    def _begin_try(self, decision: Decision) -> None:
        guard = self.guard = self.origin.guard
        breaker = self.breaker = guard.of(decision.model or self.facts.model)
        self.ticket = guard.begin(breaker, retry=self.retrying)

    def end_try(self, health: Health) -> None:
        """Tells the breaker how the call to the upstream ended, if one is under way; a second call of this does nothing."""
        ticket, self.ticket = self.ticket, 0
        if ticket:
            self.guard.end(self.breaker, ticket, health, steady(), retry=self.retrying)
            self.retrying = health != GOOD

    @property
    def sent_body(self) -> bytes:
        """The body as it was sent, in the client's format: what checks read."""
        return _whole(self._outgoing) if self.translated is None else self.body

    @property
    def sent_model(self) -> str:
        """The model that the upstream is asked for; empty where nobody names one."""
        decision = self.decision
        return (None if decision is None else decision.model) or self.facts.model or ""

    def _has_unsent(self, connection: UpstreamConnection) -> bool:
        """Whether some of the request may not have left us."""
        large = self.streaming_up or self.facts.input_bytes > LARGE_READ_BYTES
        return self.body_left or self.unsent or connection.has_unsent(large=large)

    def _drop_upstream(self) -> None:
        if self.phase == "queue":
            self.origin.pool.give_up(self)
        connection, self.connection = self.connection, None
        if connection is not None:
            self.unsent = self._has_unsent(connection)
            connection.close()

    def _give_back(self, reply: Reply) -> None:
        """The upstream's connection goes back to its pool, if another call may ride on it."""
        connection, self.connection = self.connection, None
        if connection is not None:
            if reply.reusable and not self._has_unsent(connection):
                connection.release()
            else:
                connection.close()

    @property
    def _may_ask(self) -> bool:
        return self.doubted is not self.origin and self.origin.asks(self.sent_model)

    def _translate(self, said: Said, decision: Decision, body: bytes) -> bool:
        """Writes the call in the arm's format; whether that could be done. It cannot where the call is malformed."""
        self.asked = False
        try:
            self.translated = said.put(self.origin, decision, self.sent_model, body, ask_usage=self._may_ask)
        except TranslationError as error:
            code = "malformed" if said.request() is None else "translation"
            self._answer(400, code, str(error), "failed", "refused", NO_RETRY)
            return False
        except Exception as bug:  # noqa: BLE001 - a fault of ours is an answer too
            self.plane.on_bug("translate", bug)
            text = "the sidecar could not say the call in the format of the model"
            self._answer(500, "translation", text, "failed", "refused", NO_RETRY)
            return False
        self.asked = self.translated.asked
        self.translated.named = Named(self.id, self.sent_model, int(self.at))
        self._outgoing = self.translated.body
        return True

    def _sealed(self) -> bytes | None:
        if not self.origin.provider.signs:
            return None
        if self.streaming_up:
            raise ProtocolError("the body is too large to be signed", 413)
        return self.origin.sealed_head(self.head_in, self.way, _whole(self._outgoing), self.at)

    def on_connection(self, connection: UpstreamConnection) -> None:
        """There is a connection: the request goes out in one write."""
        self.connection = connection
        if self.client.full:  # since before there was a connection to hold back
            connection.set_reading(False)
        sealed: bytes | None = None
        head, translated = self.head_in, self.translated
        try:
            if translated is not None:
                before, after = translated.head(head, self.at), b""
            elif self.way.beyond and (sealed := self._sealed()) is not None:
                before, after = sealed, b""
            else:
                identity = self.asked or self.cascade is not None
                before, after = self.client.plan(self.origin, self._target, identity=identity)
        except ProtocolError as error:
            self._drop_upstream()
            self._answer(error.answer, "target", str(error), "failed", "refused")
            return
        self.phase = "first_byte"
        body = self._outgoing
        if translated is not None or before is sealed:
            self._write(connection, before, body)
            return
        if self.streaming_up:
            length = b"" if head.length is None else b"%d" % head.length
            connection.transport.write(b"".join((before, length, after)))
            pieces, self._early_up = self._early_up, ()
            self.client.set_reading(True)  # first: what is written may be too much, and stop it again
            for piece in pieces:
                connection.transport.write(piece)
            self._sent()
            return
        if head.chunked:
            size = _size(body)
            start, end = (b"%x\r\n" % size, b"\r\n") if size else (b"", b"")
            self._write(connection, before + start, body, end + LAST_CHUNK)
        elif after:
            self._write(connection, b"%b%d%b" % (before, _size(body), after), body)
        else:
            self._write(connection, before, b"")

    def _write(self, connection: UpstreamConnection, head: bytes, body: bytes | Parts, end: bytes = b"") -> None:
        """The request, in one write. A large body goes out a slice a turn: to copy megabytes into a socket takes
        milliseconds, and others wait."""
        if isinstance(body, bytes) and len(body) <= LARGE_BYTES:
            connection.transport.write(b"%b%b%b" % (head, body, end))
            self._sent()
            return
        connection.transport.write(head)
        self.unsent = True
        self._sent()
        parts = body if isinstance(body, tuple) else (body,)
        self._write_on(connection, slices((*parts, end) if end else parts))

    def _write_on(self, connection: UpstreamConnection, left: Iterator[memoryview]) -> None:
        if self.connection is not connection:
            return  # it is lost, or was given up for another try
        piece = next(left, None)
        if piece is not None:
            connection.transport.write(piece)
            self.client.loop.call_soon(self._write_on, connection, left)
        else:
            self.unsent = False
            if self.phase == "first_byte" and self.ttfb_s is None:
                self._sent()

    def _sent(self) -> None:
        now = monotonic()
        self.sent_s = now - self.zero
        if self.phase == "streaming":  # an early answer: it has a timer of its own
            return
        settings = self.plane.settings
        if self.client.full:
            self.deadline = NEVER
        elif self.reader is not None and not self.reader.done and not self.client.paused:
            self.deadline = now + settings.body_stall_timeout_s
        else:
            self.deadline = now + settings.first_byte_timeout_s

    @abstractmethod
    def on_no_connection(self, error: DialError) -> None: ...

    @abstractmethod
    def on_upstream_data(self, data: bytes) -> None: ...

    @abstractmethod
    def on_upstream_lost(self, error: Exception | None) -> None: ...


def _size(body: bytes | Parts) -> int:
    return sum(map(len, body)) if isinstance(body, tuple) else len(body)


def _whole(body: bytes | Parts) -> bytes:
    return b"".join(body) if isinstance(body, tuple) else body
