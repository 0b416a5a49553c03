"""One exchange's life: body (`intake`) -> facts -> decision -> the way up (`outward`) -> the answer, another try, the end;
what is settled behind it stands in `ending`.

It is a set of callbacks, not a coroutine: the ordinary request runs from its last body byte to the upstream's socket inside
the one call that read it. It ends exactly once, in `_finish`, as completed, failed or aborted; every path leads there.
Forward first, measure after: no chunk waits for the meter. Once a byte of the response is with the client nothing is
answered by us any more: what goes wrong then is made visible by cutting the connection, as SDKs take whatever ends in order
for a whole answer.
"""

from functools import partial
from typing import Final

from msgspec.structs import replace

from sidecar.clock import monotonic
from sidecar.core.breaker import GOOD, IGNORED, Health
from sidecar.core.guard import health_of_trigger
from sidecar.core.types import Decision, Facts, Outcome, OutcomeKind
from sidecar.errors import ProtocolError
from sidecar.proxy.answer import NO_RETRY
from sidecar.proxy.cascade import Cascade
from sidecar.proxy.dial import DialError
from sidecar.proxy.ending import settle
from sidecar.proxy.facts import facts_of
from sidecar.proxy.intake import NEVER
from sidecar.proxy.outward import Outward
from sidecar.proxy.plane import Witness
from sidecar.proxy.question import judged
from sidecar.proxy.reply import Reply
from sidecar.proxy.translated import TranslatedReply, said_of
from sidecar.wire.answer import Collector
from sidecar.wire.http1 import ResponseHead, edit_response, parse_response
from sidecar.wire.needs import text_bytes
from sidecar.wire.request_view import RequestView

_MAX_RESPONSE_HEAD_BYTES: Final = 256 * 1024
_LEFT: Final = "client_closed"


class Exchange(Outward):
    """One request and its response. Created when the head is complete; the downstream connection feeds it the body."""

    decided: Decision | None = None  # the first decision, when a fallback has taken its place
    _early = b""  # response bytes before its head is complete, or held back for a look at an error
    _held_head: ResponseHead | None = None  # of an error that is held back
    last_body = b""  # the client's body, until the exchange is settled, where somebody looks at it then
    last_sent = b""  # as it was sent
    weighed: Outcome | None = None  # what its cascade found when it looked at the answer
    witness: Witness | None = None  # who wants to know more of it than the row tells
    busy = 0  # connections of its upstream that carried calls when it ended, its own with them, where there is a limit

    # ---- the decision

    def _decide(self, view: RequestView | None) -> None:
        plane = self.plane
        facts = facts_of(plane, self.head_in, self.way, view, self.body)
        away = plane.foreign.get(self.way.endpoint)
        if away and (said := said_of(away, self.head_in, self.way, view, self.body, facts)) is not None:
            self.said, facts = said, replace(facts, lost=said)
        self.facts = facts
        if plane.engine.wants.ceilings:
            plane.settle()
        try:
            decision = plane.watchdog.ask(plane.engine.decide, facts, self.client.now())
        except Exception as error:  # noqa: BLE001 - the engine may fail, traffic may not
            plane.on_bug("decide", error)
            decision = None
        if decision is None:
            decision = self._fail_open(facts)
        if decision.reason == "fail-open":
            plane.books.fail_open += 1
        if plane.cascades is not None and not self.streaming_up:  # what is passed on as it comes is asked once
            begun = plane.cascades.begin(plane, facts, decision, self.client.now())
            if begun is not None:
                self.cascade, decision = begun
                self.stages = ()
        self.decision = decision
        self.origin = plane.origin(decision.upstream, self.way)
        if decision.refusal is not None:
            refusal = decision.refusal if self.said is None else self.said.told(decision.refusal)
            self._answer(refusal.status, refusal.code, refusal.message, "failed", "refused", NO_RETRY)
            return
        if len(plane.exchanges) > plane.capacity_now:
            self._shed("the sidecar carries as many exchanges as it may")
            return
        self._send(view)

    def _fail_open(self, facts: Facts) -> Decision:
        try:
            return self.plane.watchdog.watch(self.plane.engine.fail_open, facts)
        except Exception as error:  # noqa: BLE001 - it was a translator that failed, or stalled: nothing is translated
            self.plane.on_bug("fail_open", error)
            self.said = None
            return self.plane.engine.fail_open(replace(facts, lost={}))

    # ---- down

    def on_no_connection(self, error: DialError) -> None:
        """The pool could not connect; nothing has been sent."""
        if error.reason == "shed":
            if not self._dial_again():
                self._shed(str(error))
        elif not self._fall_back("connect"):
            status = 504 if error.reason == "timeout_connect" else 502
            self._answer(status, error.reason, str(error), "failed", error.reason)

    def on_upstream_data(self, data: bytes) -> None:
        """Bytes of the response, stamped before anything is looked at."""
        now = monotonic()
        reply = self.reply
        if reply is None:
            self._read_head(data, now)
        elif reply.alike is not None and (out := reply.alike.take(data, now - self.zero)):
            self.client.write(out)  # the deadline is not moved here: `_silent_at` reads when the last one was counted
        else:
            self._forward(reply, data, now)

    def _read_head(self, data: bytes, now: float) -> None:
        if self._feed_unseen(data, now):
            return
        if self.ttfb_s is None:
            self.ttfb_s = now - self.zero
        if self._early:
            data = self._early + data
        try:
            head = parse_response(data)
            while head is not None and head.status < 200:
                data = self._interim(head, data)
                head = parse_response(data) if data else None
            if self.phase == "over":
                return
            if head is None and len(data) > _MAX_RESPONSE_HEAD_BYTES:
                raise ProtocolError("the upstream's response head is too large", 502)
        except ProtocolError as error:
            self._drop_upstream()
            self._answer(502, "bad_response", str(error), "failed", "bad_response")
            return
        if head is None:
            self._early = data
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
        if self._early or self._held_head is not None:
            self._early, self._held_head = b"", None
        limit, collector = self.plane.settings.meter_max_bytes, self._collector(head)
        data = data[len(head.raw) :]
        reply: Reply
        if self.translated is not None:
            reply = self.translated.reply(head, self.head_in, self.way, limit, collector)
        else:
            reply = Reply(head, self.head_in, self.way, asked=self.asked, meter_max_bytes=limit, collector=collector)
        if self.cascade is not None and self.cascade.holds(head, reply):
            self._feed_held(self.cascade, data, now)
        elif isinstance(reply, TranslatedReply):
            self.phase = "streaming"
            self._feed_pending(reply, data, now)
        else:
            self._forward(reply, data, now, self._open(reply))

    def _feed_pending(self, reply: TranslatedReply, data: bytes, now: float) -> None:
        """More of a translated answer of which nothing is with the client: until then another arm may still be asked."""
        self.pending = reply
        try:
            out, payload = reply.feed(data)
        except ProtocolError as error:
            self._wrong_answer(str(error))
            return
        self._open_pending(reply, out, payload, now)

    def _open_pending(self, reply: TranslatedReply, out: bytes, payload: bytes, now: float) -> None:
        """Begins the answer to the client if there is something of it to send (`out`), or if it is whole."""
        if out or reply.done:
            self.pending = None
            self.client.write(self._open(reply) + out)
        reply.measure(payload, now - self.zero, self.plane.on_bug)
        if reply.done:
            self._completed(now)
        else:
            self.deadline = NEVER if self.client.full else now + self.plane.settings.idle_timeout_s

    def _wrong_answer(self, why: str) -> None:
        """What came is no answer in the arm's format, and nothing of it is with the client."""
        self._drop_upstream()
        if not self._fall_back("502"):
            self._answer(502, "bad_response", why, "failed", "bad_response")

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
        if reply.framing == "close" or not self.head_in.minor or self.body_left or self.plane.draining:
            self.keep_client = False
        if b"keep-alive" in reply.head.fields and self.connection is not None:
            self.connection.take_hint(reply.head.fields[b"keep-alive"])
        add = b"x-sidecar-decision: %b\r\n%b" % (self.id.encode(), self._lines())
        if self.tries and reply.head.status >= 400:
            add += NO_RETRY
        self.phase = "streaming"
        return reply.head_bytes(add, close=not self.keep_client)

    def _feed_unseen(self, data: bytes, now: float) -> bool:
        """More of the answer that has begun and of which the client has seen nothing; False where there is none."""
        if self.pending is not None:
            self._feed_pending(self.pending, data, now)
        elif self.cascade is not None and self.cascade.reply is not None:
            self._feed_held(self.cascade, data, now)
        else:
            return False
        return True

    def _feed_held(self, cascade: Cascade, data: bytes, now: float) -> None:
        """More of an answer that a cascade looks at before the client sees any of it."""
        try:
            held = cascade.feed(data, now - self.zero, self.plane)
        except ProtocolError:
            self._drop_upstream()
            if not self._fall_back("connect"):
                self._answer(502, "bad_response", "the upstream's answer is malformed", "failed", "bad_framing")
            return
        if held is None:
            self.deadline = now + self.plane.settings.idle_timeout_s
        elif cascade.fails(self, held, now - self.zero):
            self._give_back(held)
            self._retry(GOOD)
        else:
            self.client.write(self._open(held) + cascade.take())
            if held.done:
                self._completed(now)

    def _forward(self, reply: Reply, data: bytes, now: float, head: bytes = b"") -> None:
        """One read of the upstream: to the client first, in one write, then to the meter."""
        try:
            out, payload = reply.feed(data) if data else (b"", b"")
        except ProtocolError:
            self.client.write(head)
            self._cut("bad_framing")
            return
        if head or out:
            self.client.write(head + out)
        if payload or reply.done:  # a translated answer may be told by the end alone
            reply.measure(payload, now - self.zero, self.plane.on_bug)
        if reply.done:
            self._completed(now)
        else:
            self.deadline = NEVER if self.client.full else now + self.plane.settings.idle_timeout_s

    def on_client_full(self, full: bool) -> None:
        """The client reads slowly: the upstream waits in its own socket, and the idle timer waits with it. A client that
        takes nothing at all is found by its connection."""
        if self.connection is None or self.phase == "over":
            return
        if full:
            self.connection.set_reading(False)
            self.deadline = NEVER
        else:
            self.connection.set_reading(True)
            settings = self.plane.settings
            begun = self.reply is not None
            self.deadline = monotonic() + (settings.idle_timeout_s if begun else settings.first_byte_timeout_s)

    # ---- another try, before the first byte only

    def _refused_question(self, head: ResponseHead, data: bytes, *, whole: bool = False) -> bool:
        """A 400 that names stream_options: it may be our question that was not understood. Asked again without it,
        once; where that goes through, it was, and this is remembered.

        The answer is held until it is whole, because only its text tells; whether it was held or asked again is returned.
        """
        said = judged(head, data, whole=whole) if self.asked else "other"
        if said == "more":
            self._early, self._held_head = data, head
            return True
        if said == "other":
            return False
        self.doubted = self.origin
        self.plane.books.upstream_retries += 1
        self._retry(IGNORED)
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
        if self.cascade is not None:
            self.cascade.reply = None
        self.tries += 1
        self._early = b""
        self.unsent = False
        self._held_head = self.pending = self.witness = self.ttfb_s = self.sent_s = None
        self._send(self._view)

    # ---- the end, exactly once

    def on_upstream_lost(self, error: Exception | None) -> None:
        """The upstream's connection is gone while this exchange was on it."""
        self.connection = None
        held = None if error is not None else self._held_head
        if held is not None and held.length is None and not held.chunked:  # it ended with its connection: it is whole
            if self._refused_question(held, self._early, whole=True):
                return
            self._start_reply(held, self._early, monotonic())
        reply = self.reply
        if self.phase == "over":
            return
        if self.pending is not None:
            self._lost_pending(self.pending, error)
            return
        if reply is None:
            if self._held_head is None and isinstance(error, DialError):  # as TLS 1.3 refuses a client
                self.on_no_connection(error)
            elif self._held_head is not None or not self._fall_back("connect"):
                told = "the upstream closed the connection without an answer"
                self._answer(502, "upstream_closed", told, "failed", "truncated")
            return
        try:
            rest = reply.end(error, self.plane.on_bug)
        except ProtocolError:
            self._cut("truncated")
            return
        now = monotonic()
        if rest:
            self.client.write(rest)
            reply.measure(b"", now - self.zero, self.plane.on_bug)
        self._completed(now)

    def _lost_pending(self, reply: TranslatedReply, error: Exception | None) -> None:
        try:
            out = reply.end(error, self.plane.on_bug)
        except ProtocolError as wrong:
            self._wrong_answer(str(wrong))
            return
        self._open_pending(reply, out, b"", monotonic())

    def on_deadline(self) -> None:
        """A timer ran out; which one follows from the phase."""
        self.deadline = NEVER
        match self.phase:
            case "body" if self.waiting:
                self._shed("no room among the request bodies became free in time")
            case "body":
                self._stalled()
            case "queue":
                self._shed("no upstream connection became free in time")
            case "first_byte" if self.body_left and not self.client.paused:
                self._drop_upstream()
                self._stalled()
            case "first_byte":
                self._silent("timeout_first_byte", "the upstream sent nothing in time")
            case "streaming" if (silent_at := self._silent_at()) > monotonic():
                self.deadline = silent_at
            case "streaming" if self.pending is not None:
                self._silent("timeout_idle", "the upstream fell silent")
            case "streaming":
                self._cut("timeout_idle")

    def _silent_at(self) -> float:
        """When it is silent for too long, by the last read that was only counted; 0 without one."""
        alike = None if self.reply is None else self.reply.alike
        times = () if alike is None else alike.times
        return self.zero + times[-1] + self.plane.settings.idle_timeout_s if times else 0.0

    def _silent(self, error: str, text: str) -> None:
        self._drop_upstream()
        if not self._fall_back("timeout"):
            self._answer(504, error, text, "failed", error)

    def on_client_lost(self, why: str = _LEFT) -> None:
        """The client is gone, or was given up: the upstream learns it at once, whatever phase this is."""
        if self.phase == "over":
            return
        self._drop_upstream()
        reply = self.reply
        if reply is not None:
            reply.catch_up(self.plane.on_bug)
        if why == _LEFT and reply is not None and reply.meter is not None and reply.meter.ended:
            self._finish("completed", None)  # SDKs hang up at the dialect's last event, not at the last chunk
        else:
            if self.reply is None:  # what is held of an answer is paid for, too
                self.reply = self.unseen
            held = self._held_head
            self._finish("aborted", why, status=0 if held is None else held.status)

    def on_shutdown(self) -> None:
        """The process ends: who still waits is told so, who is in a response sees it break."""
        if self.phase == "over":
            return
        self.keep_client = False
        if self.reply is None:
            self._answer(503, "shutdown", "the sidecar is shutting down", "failed", "shutdown", b"retry-after: 1\r\n")
        else:
            self._cut("shutdown")

    def _completed(self, now: float) -> None:
        assert self.reply is not None
        self._give_back(self.reply)
        self._finish("completed", None, now)

    def _give_back(self, reply: Reply) -> None:
        """The upstream's connection goes back to its pool, if another call may ride on it."""
        connection, self.connection = self.connection, None
        if connection is not None:
            if reply.reusable and not self._has_unsent(connection):
                connection.release()
            else:
                connection.close()

    def _cut(self, error: str) -> None:
        """The response cannot be finished and the client must see that: no last chunk, no clean end."""
        self._drop_upstream()
        self.keep_client = False
        unmarked = self.ends_unmarked
        self._finish("failed", error, detach=True)
        self.client.cut(reset=unmarked)

    def _tunnel(self, data: bytes) -> None:
        connection, self.connection = self.connection, None
        assert connection is not None
        self._finish("completed", None, status=101, detach=True)
        self.client.tunnel(connection, data)

    def _finish(
        self, kind: OutcomeKind, error: str | None, now: float | None = None, *, status: int = 0, detach: bool = False
    ) -> None:
        if self.phase == "over":
            return
        self.phase = "over"
        self.deadline = NEVER
        plane = self.plane
        plane.exchanges.discard(self)
        plane.buffered -= self._held
        if plane.room:
            plane.let_in()
        plane.last_active = now = monotonic() if now is None else now
        if plane.checks.reads or plane.signals.active:
            self.last_body = self.body  # checks read what was asked in the client's own words
            self.last_sent = self.sent_body
        if self.ticket and self.guard.limit is not None:
            self.busy = self.origin.pool.busy + 1
        if kind == "aborted" or (kind == "failed" and self.reply is not None):  # to estimate a usage by
            self.prompt_bytes = text_bytes(self.body)
        if self.said is not None:
            self.facts = replace(self.facts, lost={})  # it holds the prompt, and rows may wait
        plane.ended(partial(settle, self, kind, error, now - self.zero, status))
        self.body = self._outgoing = b""
        if not detach:  # after an answer of ours, too, its connection stays when its request was read whole
            whole = kind == "completed" or (kind == "failed" and self.reply is None)
            self.client.on_exchange_over(keep=self.keep_client and whole)
