"""A call of the sidecar's own: made beside those of clients, never in their way, measured and paid like them.

An errand has connections of its own (a twin of its upstream's pool), so it never takes one that a client could have. It
is begun only while the sidecar carries few exchanges and no client waits for a connection to the same upstream; else it
waits in a bounded line, and is dropped when that is full, when the process drains, or when it has waited too long. An
upstream that refuses an errand gets none for a while. Nothing is ever sent twice.

A client's credential rides along only to the origin that the client's own call went to (`Task.head` is made so by its
owner, `proxy.shadow` or `proxy.judge`); where the sidecar holds a key, `Origin.head` puts that in and cuts the others.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from sidecar.clock import monotonic
from sidecar.core.types import Clocks, Decision, Facts, Outcome, OutcomeKind
from sidecar.errors import ProtocolError
from sidecar.proxy.dial import DialError
from sidecar.proxy.ending import checked, outcome_of
from sidecar.proxy.gate import Way
from sidecar.proxy.intake import NEVER
from sidecar.proxy.origin import Origin
from sidecar.proxy.plane import Plane
from sidecar.proxy.reply import Reply
from sidecar.proxy.upstream import Pool, UpstreamConnection
from sidecar.wire.framing import LAST_CHUNK, chunk
from sidecar.wire.http1 import RequestHead, ResponseHead, parse_response
from sidecar.wire.meter import make_meter
from sidecar.wire.usage_ask import refuses_usage

USAGE_REFUSED: Final = "usage_refused"  # the error of a copy whose question for usage was not understood
AT_ONCE: Final = 6  # errands under way; more would cost clients time on the loop
EACH: Final = 4  # of them to one upstream: one that hangs leaves room for the others
_IN_LINE: Final = 128
_EACH_IN_LINE: Final = 64  # for one upstream, as above
_LINE_BYTES: Final = 8 * 1024 * 1024  # of the bodies that wait
_WAIT_S: Final = 30.0  # one that has waited so long says nothing of now
_TOTAL_S: Final = 300.0  # one that takes longer is given up
_REST_S: Final = 30.0  # how long an upstream that refused or failed gets no errand
_MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_MAX_HEAD_BYTES: Final = 256 * 1024
_BUSY: Final = 0.5  # of the exchanges, and of the body bytes, that the sidecar may carry: beyond it errands are dropped

Done = Callable[[Outcome, bytes], None]  # its outcome, and the answer's body as far as `keep_bytes` allows


class Task(Struct, frozen=True):
    """What is to be asked. `done` is called exactly once, also when nothing was sent (then `sent_s` is None)."""

    origin: Origin
    head: RequestHead
    way: Way
    body: bytes
    facts: Facts
    decision: Decision
    done: Done
    keep_bytes: int = 0
    asked: bool = False  # the body asks for usage, which the client's did not


class Errands:
    """All errands of the process: those in line and those under way."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._line: deque[tuple[float, Task]] = deque()
        self._waiting_bytes = 0
        self._under_way: set[Errand] = set()
        self._pools: dict[Origin, Pool] = {}
        self._resting: dict[Origin, float] = {}
        self.dropped = 0  # wanted, and never sent

    @property
    def open(self) -> int:
        """Errands in line and under way."""
        return len(self._line) + len(self._under_way)

    def put(self, task: Task) -> bool:
        """Takes a task in, to be sent when there is time for it; whether it was taken. Refused ones get no `done`."""
        size = len(task.body)
        full = len(self._line) >= _IN_LINE or self._waiting_bytes + size > _LINE_BYTES
        full = full or sum(one.origin is task.origin for _, one in self._line) >= _EACH_IN_LINE
        if full or self._overloaded() or self._rests(task.origin) or _is_shut(task):
            self.dropped += 1
            return False
        self._line.append((monotonic(), task))
        self._waiting_bytes += size
        self._begin()
        return True

    def clear(self) -> None:
        """Drops those in line: what they were wanted for is no more. Those under way end by themselves."""
        self._drop_line()

    def leave(self) -> None:
        """The policy is another one: what waits, in line or for a connection, for an upstream that it has no more is
        dropped."""
        known = self._known()
        self._drop_where(lambda _, task: task.origin not in known)
        for errand in [one for one in self._under_way if one.sent_s is None and one.origin not in known]:
            self.dropped += 1
            errand.finish("aborted", "dropped")

    def sweep(self, now: float) -> None:
        """Ends what takes too long, begins what can begin; forgets upstreams that the policy has no more."""
        if self._plane.draining:
            self.stop()
            return
        for errand in [late for late in self._under_way if late.deadline < now]:
            errand.finish("failed", "timeout_errand")
        if self._overloaded():
            self._drop_line()
        self._drop_where(lambda at, _: now - at > _WAIT_S)
        self._begin()
        self._forget(now)

    def _forget(self, now: float) -> None:
        for origin in self._pools.keys() - self._known():
            self._pools.pop(origin).close()
            self._resting.pop(origin, None)
        for pool in self._pools.values():
            pool.sweep(now)

    def _known(self) -> set[Origin]:
        return {*self._plane.origins.values(), *self._plane.defaults.values()}

    def stop(self) -> None:
        """Nothing more is sent; what is under way is cut."""
        self._drop_line()
        for errand in list(self._under_way):
            errand.finish("aborted", "shutdown")
        for pool in self._pools.values():
            pool.close()

    def over(self, errand: "Errand", *, refused: bool) -> None:
        """An errand has ended; its upstream rests when it refused."""
        self._under_way.discard(errand)
        if refused:
            self._resting[errand.origin] = monotonic() + _REST_S
        if not self._overloaded():
            self._begin()

    def wake(self) -> None:
        """No upstream rests any more."""
        self._resting.clear()

    def pool(self, origin: Origin) -> Pool:
        """The connections that errands to `origin` have for themselves."""
        found = self._pools.get(origin)
        if found is None:
            found = self._pools[origin] = origin.pool.twin(EACH)
        return found

    def _begin(self) -> None:
        for _ in range(len(self._line)):
            if not self._line or len(self._under_way) >= AT_ONCE:
                return
            if self._rests(self._line[0][1].origin):
                self._drop_first()
                continue
            at, task = self._line.popleft()
            if _busy(task.origin.pool) or sum(one.origin is task.origin for one in self._under_way) >= EACH:
                self._line.append((at, task))
                continue
            self._waiting_bytes -= len(task.body)
            errand = Errand(self._plane, self, task)
            self._under_way.add(errand)
            errand.begin()

    def _drop_line(self) -> None:
        while self._line:
            self._drop_first()

    def _drop_where(self, stale: Callable[[float, Task], bool]) -> None:
        """Drops those in line that are `stale`, by when they came and what they are. The line is not in the order of time:
        `_begin` puts those of a busy upstream behind younger ones."""
        for _ in range(len(self._line)):
            if self._line and stale(*self._line[0]):  # who was dropped may have emptied it
                self._drop_first()
            else:
                self._line.rotate(-1)

    def _drop_first(self) -> None:
        _, task = self._line.popleft()
        self._waiting_bytes -= len(task.body)
        self.dropped += 1
        self.tell(task, Outcome(kind="aborted", error="dropped", clocks=Clocks(), stream=task.facts.stream), b"")

    def tell(self, task: Task, outcome: Outcome, body: bytes) -> None:
        """Calls `done`; a fault of ours in there must not end anything else."""
        try:
            task.done(outcome, body)
        except Exception as bug:  # noqa: BLE001 - see above
            self._plane.on_bug("errand", bug)

    def _overloaded(self) -> bool:
        plane = self._plane
        settings = plane.settings
        busy = len(plane.exchanges) > _BUSY * plane.capacity
        full = plane.pressed or plane.buffered > _BUSY * settings.max_buffered_bytes
        return plane.draining or busy or bool(plane.room) or full

    def _rests(self, origin: Origin) -> bool:
        return self._resting.get(origin, 0.0) > monotonic()


def _is_shut(task: Task) -> bool:
    """Whether the breaker of the model that it is for is not closed: the few calls that may try are clients'."""
    return task.origin.guard.of(task.decision.model or task.facts.model).state != "closed"


def _busy(pool: Pool) -> bool:
    """Whether clients wait for this upstream, or the next one would: they come first."""
    _, idle, waiting = pool.sizes
    return waiting > 0 or (pool.full and not idle)


class Errand:
    """One call. Built when it is sent; it tells `Task.done` exactly once."""

    unsent = False
    prompt_bytes: int | None = None  # a copy is small

    def __init__(self, plane: Plane, owner: Errands, task: Task) -> None:
        self.plane = plane
        self.at = plane.wall()
        self.facts = task.facts
        self.decision: Decision | None = task.decision
        self.decided: Decision | None = None  # an errand never falls back
        self.last_sent = task.body
        self.origin = task.origin
        self.reply: Reply | None = None
        self.sent_s: float | None = None
        self.ttfb_s: float | None = None
        self.deadline = NEVER
        self._task = task
        self._owner = owner
        self._pool = owner.pool(task.origin)  # it may be forgotten meanwhile
        self._zero = monotonic()
        self._connection: UpstreamConnection | None = None
        self._early = b""
        self._kept: list[bytes] = []
        self._room = task.keep_bytes
        self._over = False

    def begin(self) -> None:
        """Asks for a connection; the rest follows from what comes."""
        self.deadline = self._zero + _TOTAL_S
        connection = self._pool.take(self)
        if connection is not None:
            self.on_connection(connection)

    def on_connection(self, connection: UpstreamConnection) -> None:
        """There is a connection: the request goes out."""
        task = self._task
        self._connection = connection
        try:
            target = self.origin.target(task.head, task.way, task.decision.model, task.facts.model)
            before, after = self.origin.head(task.head, task.way, identity=True, target=target)
        except ProtocolError:
            self.finish("failed", "refused")
            return
        if task.head.chunked:
            connection.transport.write(before + chunk(task.body) + LAST_CHUNK)
        else:
            connection.transport.write(b"%b%d%b%b" % (before, len(task.body), after, task.body))
        self.sent_s = monotonic() - self._zero

    def on_no_connection(self, error: DialError) -> None:
        self.finish("aborted" if error.reason == "shed" else "failed", error.reason)

    def on_upstream_full(self, full: bool) -> None:
        """What was written waits in our buffer: its size is known and small."""

    def on_upstream_data(self, data: bytes) -> None:
        """Bytes of the answer: measured, kept as far as asked, and thrown away."""
        now = monotonic()
        if self.ttfb_s is None:
            self.ttfb_s = now - self._zero
        reply = self.reply
        try:
            if reply is None:
                self._early += data
                head = parse_response(self._early)
                while head is not None and head.status < 200:
                    self._early = self._early[len(head.raw) :]
                    head = parse_response(self._early)
                if head is None:
                    if len(self._early) > _MAX_HEAD_BYTES:
                        raise ProtocolError("the response head is too large", 502)
                    return
                reply = self.reply = self._open(head)
                data, self._early = self._early[len(head.raw) :], b""
            _, payload = reply.feed(data) if data else (b"", b"")
        except ProtocolError:
            self.finish("failed", "bad_response")
            return
        self._take(reply, payload, now)
        if reply.size > _MAX_ANSWER_BYTES:
            self.finish("failed", "too_large")
        elif reply.done:
            self.finish("completed", None)

    def on_upstream_lost(self, error: Exception | None) -> None:
        self._connection = None
        reply = self.reply
        whole = reply is not None and reply.framing == "close" and error is None
        self.finish("completed" if whole else "failed", None if whole else "truncated")

    def finish(self, kind: OutcomeKind, error: str | None) -> None:
        """The end, once; later ones say nothing."""
        if self._over:
            return
        self._over = True
        self.deadline = NEVER
        self._leave(clean=kind == "completed")
        task = self._task
        try:
            outcome = self._outcome(kind, error)
        except Exception as bug:  # noqa: BLE001 - texts of others may hit a fault of ours; the slot and the money may not
            self.plane.on_bug("errand", bug)
            outcome = Outcome(kind="aborted", error="bug", clocks=Clocks(sent_s=self.sent_s), stream=task.facts.stream)
        refused = outcome.kind == "failed" and not outcome.caller_fault
        self._owner.over(self, refused=refused)
        self._owner.tell(task, outcome, b"".join(self._kept))
        self._kept = []

    def _outcome(self, kind: OutcomeKind, error: str | None) -> Outcome:
        outcome = outcome_of(self, kind, error, monotonic() - self._zero, 0)
        reply, task = self.reply, self._task
        if task.asked and reply is not None and refuses_usage(reply.head.status, reply.error_body):
            return replace(outcome, kind="aborted", error=USAGE_REFUSED)  # this says nothing of the arm
        return outcome if task.decision.arm is None else checked(self, outcome)

    def _open(self, head: ResponseHead) -> Reply:
        task = self._task
        limit = self.plane.settings.meter_max_bytes
        collector = self.plane.checks.collector(task.decision, task.way.endpoint)
        reply = Reply(head, task.head, task.way, asked=False, meter_max_bytes=limit, collector=collector)
        events = head.fields.get(b"content-type", b"").startswith(b"text/event-stream")
        if reply.meter is None and head.status < 400:
            reply.meter = make_meter(task.way.endpoint, task.way.dialect, event_stream=events, max_bytes=limit)
        return reply

    def _take(self, reply: Reply, payload: bytes, now: float) -> None:
        if not payload:
            return
        reply.measure(payload, now - self._zero, self.plane.on_bug)
        if self._room > 0:
            self._kept.append(payload[: self._room])
            self._room -= len(payload)

    def _leave(self, *, clean: bool) -> None:
        connection, self._connection = self._connection, None
        reply = self.reply
        if connection is None:
            self._pool.give_up(self)
        elif (
            clean
            and reply is not None
            and reply.reusable
            and not connection.has_unsent(large=True)  # an answer may come before the copy has left us
        ):
            connection.release()
        else:
            connection.close()
