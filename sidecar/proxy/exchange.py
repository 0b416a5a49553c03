"""One exchange's life: body (`intake`) -> facts -> decision -> the way up (`outward`) -> the answer, or another try, until
the client sees some of it (`inward`) -> the rest of it, the end; what is settled behind it stands in `ending`.

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
from sidecar.core.types import Decision, Facts, OutcomeKind
from sidecar.errors import ProtocolError
from sidecar.proxy.answer import NO_RETRY
from sidecar.proxy.dial import DialError
from sidecar.proxy.ending import settle
from sidecar.proxy.facts import facts_of
from sidecar.proxy.intake import NEVER
from sidecar.proxy.inward import Doubtful, Inward
from sidecar.proxy.reply import Reply
from sidecar.proxy.translated import said_of
from sidecar.wire.needs import text_bytes
from sidecar.wire.request_view import RequestView

_LEFT: Final = "client_closed"


class Exchange(Inward):
    """One request and its response. Created when the head is complete; the downstream connection feeds it the body."""

    last_body = b""  # the client's body, until the exchange is settled, where somebody looks at it then
    last_sent = b""  # as it was sent
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
            if self.unseen is None:
                self._read_head(data, now)
            else:
                self._read_on(self.unseen, data, now)
        elif reply.alike is not None and (out := reply.alike.take(data, now - self.zero)):
            self.client.write(out)  # the deadline is not moved here: `_silent_at` reads when the last one was counted
        else:
            self._forward(reply, data, now)

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

    # ---- the end, exactly once

    def on_upstream_lost(self, error: Exception | None) -> None:
        """The upstream's connection is gone while this exchange was on it."""
        self.connection = None
        reply = self.reply
        if self.phase == "over":
            return
        if reply is None:
            self._lose_unseen(error)
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
            case "streaming" if self.reply is None:
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
            unseen = self.unseen
            if self.reply is None:  # what is held of an answer is paid for, too
                self.reply = self.begun
            self._finish("aborted", why, status=unseen.head.status if isinstance(unseen, Doubtful) else 0)

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
