"""The way back of an answer until a byte of it is with the client: so long it may be held, or give way to another try.

What has come of it is one value, `unseen`: None, or one of the four below; each read, and the end of the connection, goes to
what is done in that state. From `_open` on it is the exchange's `reply`, and nothing is unseen. It is set only here.
"""

from abc import abstractmethod
from typing import Final

from msgspec import Struct

from sidecar.clock import monotonic, steady
from sidecar.core.breaker import GOOD, IGNORED, Health
from sidecar.core.guard import health_of_trigger
from sidecar.core.types import Decision, Outcome
from sidecar.errors import ProtocolError
from sidecar.proxy.answer import NO_RETRY
from sidecar.proxy.cascade import Held
from sidecar.proxy.dial import DialError
from sidecar.proxy.intake import NEVER
from sidecar.proxy.outward import Outward
from sidecar.proxy.plane import Witness
from sidecar.proxy.question import judged
from sidecar.proxy.reply import Reply
from sidecar.proxy.translated import TranslatedReply
from sidecar.wire.answer import Collector
from sidecar.wire.http1 import ResponseHead, edit_response, parse_response

_MAX_HEAD_BYTES: Final = 256 * 1024


class HeadPart(Struct, frozen=True):
    """Its head is not whole."""

    data: bytes


class Doubtful(Struct, frozen=True):
    """An error that may be about our question for usage: only its whole text tells."""

    head: ResponseHead
    data: bytes  # from the head on


class Untold(Struct, frozen=True):
    """A translated answer of which there is nothing to say yet."""

    reply: TranslatedReply


Unseen = HeadPart | Doubtful | Untold | Held


class Inward(Outward):
    """The part of an exchange that has an answer before its client has."""

    unseen: Unseen | None = None
    decided: Decision | None = None  # the first decision, when a fallback has taken its place
    weighed: Outcome | None = None  # what its cascade found when it looked at the answer
    witness: Witness | None = None  # who wants to know more of the answer than the row tells
    broke_off = False  # the answer of an arm before this one had begun when it failed: what that cost is not known

    @property
    def begun(self) -> Reply | None:
        """The unseen answer, from where its head is complete and it is to be this call's own."""
        unseen = self.unseen
        return unseen.reply if isinstance(unseen, Untold | Held) else None

    @property
    def may_be_billed(self) -> bool:
        """Whether an unseen answer has begun with a status below 400, so that its provider may bill for it."""
        begun = self.begun
        return begun is not None and begun.head.status < 400

    def _read_on(self, unseen: Unseen, data: bytes, now: float) -> None:
        """More of an answer of which something has come."""
        match unseen:
            case HeadPart(early):
                self._read_head(early + data, now)
            case Doubtful(head, early):
                self._on_head(head, early + data, now)
            case Untold(reply):
                self._feed_untold(reply, data, now)
            case Held():
                self._feed_held(unseen, data, now)

    def _lose_unseen(self, error: Exception | None) -> None:
        """The upstream's connection is gone before the client has seen anything."""
        match self.unseen:
            case Untold(reply):
                self._end_untold(reply, error)
            case Doubtful(head, data) if error is None and head.length is None and not head.chunked:
                if not self._refused_question(head, data, whole=True):  # it ended with its connection: it is whole
                    self._start_reply(head, data, monotonic())
                    self.on_upstream_lost(None)
            case Doubtful():
                self._closed_upstream()
            case None | HeadPart() | Held():
                if isinstance(error, DialError):  # as TLS 1.3 refuses a client
                    self.on_no_connection(error)
                elif not self._fall_back("connect"):
                    self._closed_upstream()

    def _closed_upstream(self) -> None:
        told = "the upstream closed the connection without an answer"
        self._answer(502, "upstream_closed", told, "failed", "truncated")

    # ---- the head

    def _read_head(self, data: bytes, now: float) -> None:
        """All that has come, as long as that may not be a whole head."""
        if self.ttfb_s is None:
            self.ttfb_s = now - self.zero
        try:
            head = parse_response(data)
            while head is not None and head.status < 200:
                data = self._interim(head, data)
                head = parse_response(data) if data else None
            if self.phase == "over":
                return
            if head is None and len(data) > _MAX_HEAD_BYTES:
                raise ProtocolError("the upstream's response head is too large", 502)
        except ProtocolError as error:
            self._drop_upstream()
            self._answer(502, "bad_response", str(error), "failed", "bad_response")
            return
        if head is None:
            self.unseen = HeadPart(data)
            return
        self._on_head(head, data, now)

    def _interim(self, head: ResponseHead, data: bytes) -> bytes:
        """A 1xx response: 101 opens the tunnel, 100 was answered by us, others pass."""
        rest = data[len(head.raw) :]
        if head.status == 101:
            if not self.way.realtime or b"upgrade" not in self.head_in.fields:
                raise ProtocolError("the upstream switched protocols, which nobody had asked for", 502)
            self._tunnel(data)
            return b""
        if head.status != 100 and self.head_in.minor:
            self.client.write(edit_response(head, b""))
        return rest

    def _on_head(self, head: ResponseHead, data: bytes, now: float) -> None:
        """The head is complete: another try, or down it goes."""
        if self.doubted is self.origin and head.status < 300:  # without our question it goes through: that was refused
            self.origin.hush(self.sent_model)
        if head.status >= 400 and (self._fall_back(str(head.status)) or self._refused_question(head, data)):
            return
        self._start_reply(head, data, now)

    def _start_reply(self, head: ResponseHead, data: bytes, now: float) -> None:
        limit, collector = self.plane.settings.meter_max_bytes, self._collector(head)
        data = data[len(head.raw) :]
        reply: Reply
        if self.translated is not None:
            reply = self.translated.reply(head, self.head_in, self.way, limit, collector)
        else:
            reply = Reply(head, self.head_in, self.way, asked=self.asked, meter_max_bytes=limit, collector=collector)
        if self.cascade is not None and (held := self.cascade.hold(head, reply)) is not None:
            self._feed_held(held, data, now)
        elif isinstance(reply, TranslatedReply):
            self.phase = "streaming"
            self._feed_untold(reply, data, now)
        else:
            self._forward(reply, data, now, self._open(reply))

    def _collector(self, head: ResponseHead) -> Collector | None:
        """Who keeps what the answer says: for checks, for a witness, for both, or nobody."""
        plane = self.plane
        collector = plane.checks.collector(self.decision, self.way.endpoint)
        if plane.aside is not None and head.status == 200:
            witness = self.witness = plane.aside.witness(self, self._view)
            if witness is not None and witness.collector is not None:
                collector = witness.collector = collector or witness.collector
        return collector

    def _open(self, reply: Reply) -> bytes:
        """From here on the answer is the client's; gives the bytes of its head, for the caller to write."""
        self.reply = reply
        if self.unseen is not None:
            self.unseen = None
        if reply.framing == "close" or not self.head_in.minor or self.body_left or self.plane.draining:
            self.keep_client = False
        if b"keep-alive" in reply.head.fields and self.connection is not None:
            self.connection.take_hint(reply.head.fields[b"keep-alive"])
        add = b"x-sidecar-decision: %b\r\n%b" % (self.id.encode(), self._lines())
        if self.tries and reply.head.status >= 400:
            add += NO_RETRY
        self.phase = "streaming"
        return reply.head_bytes(add, close=not self.keep_client)

    # ---- a translated answer

    def _feed_untold(self, reply: TranslatedReply, data: bytes, now: float) -> None:
        """More of it: until there is something of it to send, another arm may still be asked."""
        self.unseen = Untold(reply)
        try:
            out, payload = reply.feed(data)
        except ProtocolError as error:
            self._wrong_answer(str(error))
            return
        self._tell(reply, out, payload, now)

    def _end_untold(self, reply: TranslatedReply, error: Exception | None) -> None:
        try:
            out = reply.end(error, self.plane.on_bug)
        except ProtocolError as wrong:
            self._wrong_answer(str(wrong))
            return
        self._tell(reply, out, b"", monotonic())

    def _tell(self, reply: TranslatedReply, out: bytes, payload: bytes, now: float) -> None:
        """Begins the answer to the client if there is something of it to send (`out`), or if it is whole."""
        if out or reply.done:
            self.client.write(self._open(reply) + out)
        reply.measure(payload, now - self.zero, self.plane.on_bug)
        if reply.done:
            self._completed(now)
        else:
            self.deadline = NEVER if self.client.full else now + self.plane.settings.idle_timeout_s

    def _wrong_answer(self, why: str) -> None:
        """What came is no answer in the arm's format."""
        self._drop_upstream()
        if not self._fall_back("502"):
            self._answer(502, "bad_response", why, "failed", "bad_response")

    # ---- an answer that a cascade looks at

    def _feed_held(self, held: Held, data: bytes, now: float) -> None:
        """More of it: once it can be judged, it goes down or the next arm is asked."""
        assert self.cascade is not None
        self.unseen = held
        try:
            ready = held.feed(data, now - self.zero, self.plane.on_bug)
        except ProtocolError:
            self._drop_upstream()
            if not self._fall_back("connect"):
                self._answer(502, "bad_response", "the upstream's answer is malformed", "failed", "bad_framing")
            return
        reply = held.reply
        if not ready:
            self.deadline = now + self.plane.settings.idle_timeout_s
        elif self.cascade.fails(self, held, now - self.zero):
            self._give_back(reply)
            self._retry(GOOD)
        else:
            self.client.write(self._open(reply) + held.body)
            if reply.done:
                self._completed(now)

    # ---- an error that may be about our question

    def _refused_question(self, head: ResponseHead, data: bytes, *, whole: bool = False) -> bool:
        """A 400 that names stream_options: it may be our question that was not understood. Asked again without it,
        once; where that goes through, it was, and this is remembered.

        The answer is held until it is whole, because only its text tells; whether it was held or asked again is returned.
        """
        said = judged(head, data, whole=whole) if self.asked else "other"
        if said == "more":
            self.unseen = Doubtful(head, data)
            return True
        if said == "other":
            return False
        self.doubted = self.origin
        self.plane.books.upstream_retries += 1
        self._retry(IGNORED)
        return True

    # ---- another try

    def _fall_back(self, trigger: str) -> bool:
        """Whether another arm is asked in this one's place; then the limit of this upstream learns what it had said."""
        guard, busy = self.guard, self.origin.pool.busy
        if not self._ask_next_arm(trigger):
            return False
        guard.failed_over(trigger, busy, steady())
        return True

    def _ask_next_arm(self, trigger: str) -> bool:
        """Takes the policy's next fallback arm, if it lists this trigger."""
        decision, self.doubted = self.decision, None  # another model says nothing of the question
        if self.cascade is not None and self.cascade.falls_back(self, trigger, monotonic() - self.zero):
            self._retry(health_of_trigger(trigger))
            return True
        if decision is None or self.streaming_up or not decision.fallbacks:
            return False
        nxt = self.plane.fallback(self.facts, decision, trigger)
        if nxt is None:
            return False
        self.decided = self.decided or decision
        if self.may_be_billed:
            self.broke_off = True
            self.plane.charge_unknown(decision)
        self.plane.books.upstream_retries += 1
        self.decision = nxt
        self.origin = self.plane.origin(nxt.upstream, self.way)
        self._retry(health_of_trigger(trigger))
        return True

    def _retry(self, health: Health) -> None:
        """Sends the call again, to the present `decision` and `origin`; `health`: what the try that ends shows."""
        self._drop_upstream()
        self.end_try(health)
        self.tries += 1
        self.unsent = False
        self.unseen = self.witness = self.ttfb_s = self.sent_s = None
        self._send(self._view)

    # ---- what an open answer does, and how it ends

    @abstractmethod
    def _forward(self, reply: Reply, data: bytes, now: float, head: bytes = b"") -> None: ...

    @abstractmethod
    def _completed(self, now: float) -> None: ...

    @abstractmethod
    def _tunnel(self, data: bytes) -> None: ...
