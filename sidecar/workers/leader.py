"""The leader: an ordinary sidecar whose traffic is carried by workers.

It has the store, the engine that learns, the control loop, metrics, the admin and health planes; it opens no traffic port
but holds it, so that a worker that is started again finds it free. What workers report is settled, recorded and counted
here as if it had happened here; what they have to know goes to each of them when it has changed, at most every TELL_S, and
at once when a rollout or an experiment moved.

Ready is: all workers served once, and one serves now. Traffic goes on without the leader for as long as workers drain.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any, Final

import msgspec
import structlog
from msgspec.structs import replace as with_

from sidecar.app import Sidecar
from sidecar.clock import monotonic, steady
from sidecar.config.address import Address
from sidecar.config.policy import Loaded
from sidecar.config.settings import Settings
from sidecar.control.health import Readiness
from sidecar.core.following import Bound, Lesson
from sidecar.core.guard import BreakerStatus
from sidecar.core.leading import Leader
from sidecar.core.settle import NOTHING, Verdict
from sidecar.core.types import Event
from sidecar.errors import ConfigError
from sidecar.gauges import of_process
from sidecar.proxy.aside import ErrandStatus
from sidecar.proxy.listen import hold
from sidecar.proxy.memory import limit_of_container
from sidecar.proxy.plane import Books
from sidecar.telemetry.catalogue import BY_NAME
from sidecar.telemetry.metrics import Reading, figures_of
from sidecar.workers.crew import Crew, Member
from sidecar.workers.messages import Exchange, Gauge, Left, Orders, Report, add, lessons_of

log = structlog.get_logger()

TELL_S: Final = 0.25
_AGAIN_S: Final = 0.1  # feedback for a decision that another worker has not told of yet is looked at again
_START_S: Final = 30.0
_GRACE_S: Final = 5.0  # beyond the drain, for workers to say the last
_UNKNOWN: Final = 404
_QUIET_S: Final = 3.0  # of a worker's silence before `/ready` notes it
_KEPT: Final = 5_000  # response ids that a new worker is told
_MOVES: Final = ("rollout.", "experiment.", "arm.", "threshold.", "tuning.")
_BOOKS: Final = tuple(one.name for one in fields(Books))
_GAUGES: Final = (
    "buffered_bytes", "open_streams", "errands_dropped", "pool_connections", "pool_dials", "breaker_state",
    "breaker_opened", "upstream_active", "upstream_retries", "concurrency_limit",
)  # fmt: skip
_SHARED: Final = ("memory_used_bytes", "memory_limit_bytes")  # each process has a part of them


class LeadingSidecar(Sidecar):
    """See the head of this module."""

    engine: Leader
    _engine = Leader

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        each = divided(settings)
        own = replace(settings, memory_limit_bytes=each.memory_limit_bytes, max_streams=each.max_streams)
        super().__init__(own, environ)
        self._each = each
        self._teller: asyncio.TimerHandle | None = None
        self._hearing = self._moved = False
        self._lost = 0  # rows that workers could not tell of, as far as that was told
        self._gone: dict[str, Reading] = {}  # what workers that ended had counted
        self.engine.parts = settings.workers
        self.crew = Crew(each, self.tasks, self._on_report, self._on_gone)
        self.crew.prices = lambda: self.prices.text
        for name in _GAUGES:
            self.metrics.gauge(name, "", self._sum_of(name))
        of_process(self._gauge_of_all, self.loop, self.traffic.memory)
        self.metrics.gauge("workers", "", lambda: self.crew.serving)
        self.metrics.gauge("worker_restarts", "", lambda: self.crew.restarts)
        self.metrics.gauge("worker_hangs", "", lambda: self.crew.hangs)
        self.metrics.gauge("worker_rows_lost", "", lambda: self.crew.lost)
        for name in ("cpu_seconds", "resident_memory_bytes", "open_fds"):
            self.metrics.gauge(f"worker_{name}", "", partial(self._figures, name))

    # ---- up

    def _listen(self, what: str, addresses: Sequence[Address]) -> list[socket.socket]:
        if what != "traffic":
            return super()._listen(what, addresses)
        held = hold(what, addresses, lambda note: log.warning("listener", note=note))
        self._each = replace(self._each, listen=tuple(sock.getsockname()[:2] for sock in held))
        return held

    async def run(self, announce: Callable[[Sidecar], None] | None = None) -> int:
        """As `Sidecar.run`; no worker is left behind, however it ends."""
        try:
            return await super().run(announce)
        finally:
            self.crew.kill()

    async def _serve_traffic(self) -> None:
        """Starts the workers and waits until all of them serve. Raises ConfigError when one cannot."""
        self.plane.start()
        self.crew.settings = self._each
        try:
            await self.crew.start()
            async with asyncio.timeout(_START_S):
                while self.crew.serving < self.settings.workers and not self._stopping.is_set():
                    if self.crew.restarts:
                        raise ConfigError("a worker ended before it served; what it said stands above")
                    self.crew.changed.clear()
                    await self.crew.changed.wait()
        except (TimeoutError, ConfigError) as error:
            self.crew.kill()
            raise ConfigError(str(error) or f"the workers did not serve within {_START_S:g} s") from None
        self._tell_again()

    # ---- what workers report

    def _on_report(self, member: Member, report: Report) -> None:
        """What it raises would end the link, and with it the worker and its streams: a fault of ours may cost a report."""
        try:
            self._take_in(member, report)
        except Exception as bug:  # noqa: BLE001 - see above
            self.on_bug("report", bug)

    def _take_in(self, member: Member, report: Report) -> None:
        """Books first: what is told to anybody has to know all of it."""
        if not member.greeted:
            self._greet(member)
        self._hearing = True
        try:
            self._settle(member, report)
        except Exception as bug:  # noqa: BLE001 - who asked below is answered all the same
            self.on_bug("report", bug)
        self._hearing = False
        if self._moved:
            self._moved = False
            self.tell()
        elif member.late and not member.turn:
            self._tell(member, self.engine.stand())
        for number, body, tenant in report.asked:
            self._ask(member, number, body, tenant)

    def _settle(self, member: Member, report: Report) -> None:
        engine = self.engine
        kept = [one for exchange in report.exchanges if (one := self._take(exchange)) is not None]
        for route, (cost_nusd, at) in report.charges.items():
            engine.charge(route, cost_nusd, at)
        engine.hear(member.who, report.spending, heard=not member.turn)
        bound, again = engine.bind(member.who, report.bound)
        if kept or bound:
            for other in self.crew.others(member):
                other.send(Orders(bound=bound, kept=kept))
        if again:
            member.send(Orders(bound=again))
        self._copy_books()
        engine.refresh(steady())
        self._pass_on(report)

    def _pass_on(self, report: Report) -> None:
        if report.events:
            self.on_events(report.events)
        for errand in report.errands:
            self._on_errand(errand)
        if report.scores:
            self.loop.flush()  # the decisions may be so new that the desk does not know them yet
        for score in report.scores:
            self.desk.signal(*score)

    def _take(self, exchange: Exchange) -> Left | None:
        """Learns from and records one call; tells where the arm holds state that others need to find."""
        verdict = NOTHING
        for lesson in lessons_of(exchange):
            verdict = self._learn(lesson)
        settled = exchange.settled
        if settled is None:
            return None
        if exchange.taught and verdict is not NOTHING:
            settled = with_(
                settled, reward=verdict.reward, quality=verdict.quality, quality_source=verdict.quality_source
            )
        self.loop.emit(settled)
        arm, completion = settled.outcome.served_arm or settled.decision.arm, settled.outcome.completion_id
        if settled.facts.endpoint != "responses" or not completion or arm is None:
            return None
        left: Left = (settled.facts.tags.get("tenant", ""), completion, arm, settled.facts.key)
        self.plane.keep(*left)
        return left

    def _learn(self, lesson: Lesson) -> Verdict:
        try:
            verdict = self.engine.learn(lesson, steady())
        except Exception as bug:  # noqa: BLE001 - as `ending.teach`: the engine may fail, the books may not
            self.on_bug("settle", bug)
            self.engine.release(lesson.decision)
            return NOTHING
        if verdict.events:
            self.on_events(verdict.events)
        return verdict

    def _ask(self, member: Member, number: int, body: bytes, tenant: str) -> None:
        """Feedback of a worker's client. One that names a call which another worker has yet to tell of is asked twice."""

        def answer(status: int, text: bytes) -> None:
            member.send(Orders(answers=[(number, status, text)]))

        def first(status: int, text: bytes) -> None:
            if status == _UNKNOWN:
                asyncio.get_running_loop().call_later(_AGAIN_S, self.take_feedback, body, answer, tenant)
            else:
                answer(status, text)

        self.take_feedback(body, first, tenant)

    def _on_gone(self, member: Member) -> None:
        self.engine.forget(member.who)
        self._copy_books()
        for name, gauge in member.counted.gauges.items():
            if BY_NAME[name].kind == "counter":
                self._gone[name] = summed([self._gone.get(name, 0.0), gauge])
        if self.state == "serving":
            text = f"worker {member.index} has ended; {self.crew.serving} of {self.settings.workers} serve"
            self.on_events([Event(kind="worker.ended", severity="high", message=text)])

    def _tick(self) -> None:
        super()._tick()
        lost, self._lost = self.crew.lost - self._lost, self.crew.lost
        if lost > 0:
            text = f"{lost} calls have no row and taught nothing: their worker ended or could not tell of them"
            self.on_events([Event(kind="worker.rows_lost", severity="medium", message=text, detail={"rows": lost})])
        told = [row for one in self.crew.members.values() for row in one.counted.told.get("breakers", ())]
        self.engine.guards.hear(msgspec.convert(told, list[BreakerStatus]))

    # ---- what workers are told

    def _greet(self, member: Member) -> None:
        """The first orders: all that there is to know."""
        bound = self.engine.welcome(member.who)
        member.greeted = self._tell(member, self.engine.stand(), bound, self._kept())

    def _kept(self) -> list[Left]:
        return [(*key, arm, sticky) for key, (arm, sticky) in list(self.plane.kept.items())[-_KEPT:]]

    async def _recall(self) -> None:
        """As `Sidecar._recall`; workers that serve already are told."""
        await super()._recall()
        for member in self.crew.members.values():
            if member.greeted:
                member.send(Orders(kept=self._kept()))

    def _tell(self, member: Member, stand: bytes, bound: Sequence[Bound] = (), kept: Sequence[Left] = ()) -> bool:
        """Tells one worker what it has to know now, unless it is still busy with what it was told before; whether it was
        told. What cannot be sent, for a fault of ours, is as if it had not been tried, and is tried again."""
        turn = self.crew.turn(member)
        if not turn:
            return False
        try:
            member.send(self._orders(member, turn, stand, bound, kept))
        except Exception as bug:  # noqa: BLE001 - as in `_on_report`; the others are to be told all the same
            self.crew.unsaid(member)
            self.engine.unsaid(member.who)
            self.on_bug("tell", bug)
            return False
        member.stand, member.written = stand, self.policies.current.written
        return True

    def _orders(self, member: Member, turn: int, stand: bytes, bound: Sequence[Bound], kept: Sequence[Left]) -> Orders:
        engine, written = self.engine, self.policies.current.written
        return Orders(
            turn=turn,
            policy=engine.policy.version,
            written=None if written == member.written else written,
            stand=b"" if stand == member.stand else stand,
            unbound=engine.unbound(member.who),
            bound=list(bound),
            leases=engine.leases(member.who, steady()),
            kept=list(kept),
        )

    def tell(self) -> None:
        """Tells all workers; while one is heard, afterwards."""
        if self._hearing:
            self._moved = True
            return
        stand = self.engine.stand()
        for member in list(self.crew.members.values()):
            if member.greeted:
                self._tell(member, stand)

    def _tell_again(self) -> None:
        self._teller = asyncio.get_running_loop().call_later(TELL_S, self._tell_again)
        for step in (self._look, self.tell):
            try:
                step()
            except Exception as bug:  # noqa: BLE001 - what follows must come
                self.on_bug("tell", bug)

    def _look(self) -> None:
        """One that hangs is ended, and told."""
        hung = self.crew.look(monotonic())
        if hung is not None:
            text = f"worker {hung.index} (process {hung.pid}) said nothing for {hung.silent_s:.0f} s: it hangs and is killed"
            detail: dict[str, object] = {"worker": hung.index, "pid": hung.pid, "silent_s": round(hung.silent_s, 1)}
            self.on_events([Event(kind="worker.hung", severity="high", message=text, detail=detail)])

    def on_events(self, events: Sequence[Event]) -> None:
        """As `Sidecar.on_events`; what moved is told to the workers at once."""
        super().on_events(events)
        if any(event.kind.startswith(_MOVES) for event in events):
            self.tell()

    def on_bug(self, where: str, error: BaseException) -> None:
        """As `Sidecar.on_bug`; it stays counted when the books are copied."""
        super().on_bug(where, error)
        self.crew.gone.bugs += 1

    def apply(self, loaded: Loaded) -> None:
        """As `Sidecar.apply`; workers put the policy in force when they hear of it."""
        super().apply(loaded)
        self.tell()

    # ---- for people

    def readiness(self) -> Readiness:
        """As `Sidecar.readiness`, with what workers note."""
        ready, crew = super().readiness(), self.crew
        members = [crew.members[index] for index in sorted(crew.members)]
        notes = [*ready.notes, *(note for member in members for note in member.counted.notes)]
        if crew.serving < self.settings.workers:
            notes.append(f"{crew.serving} of {self.settings.workers} workers serve")
        notes += [
            f"worker {one.index} says nothing for {one.silent_s:.0f} s" for one in members if one.silent_s > _QUIET_S
        ]
        detail: dict[str, object] = {**ready.detail, "exchanges": self.load().get("exchanges", 0)}
        for name in ("breakers", "errands"):
            detail[name] = [{"worker": one.index, **row} for one in members for row in one.counted.told.get(name, ())]
        detail["workers"] = [
            {"worker": one.index, "pid": one.pid, "serving": one.serving, "accepted": one.books.accepted}
            for one in members
        ]
        return Readiness(ready.ready and crew.serving > 0, ready.state, notes, detail)

    def errands(self) -> list[ErrandStatus]:
        """None: workers make them, and note what they show."""
        return []

    def load(self) -> dict[str, object]:
        """What all workers hold and have counted, as they said it last."""
        made: dict[str, Any] = {}
        for member in self.crew.members.values():
            made = add(made, member.counted.load)
        return made | {"books": asdict(self.plane.books)}

    def _copy_books(self) -> None:
        """Our own plane carries nothing: its books are everybody's."""
        books, ours = self.crew.books(), self.plane.books
        for name in _BOOKS:
            setattr(ours, name, getattr(books, name))

    def _told(self, name: str) -> list[Gauge]:
        return [one.counted.gauges[name] for one in self.crew.members.values() if name in one.counted.gauges]

    def _gauge_of_all(self, name: str, ours: Callable[[], float]) -> None:
        """Registers one of `gauges.of_process` for the leader and all workers."""

        def read() -> float:
            told = [ours(), *(value for value in self._told(name) if isinstance(value, float))]
            return sum(told) if name in _SHARED else max(told)

        self.metrics.gauge(name, "", read)

    def _figures(self, name: str) -> Reading:
        """What the system says of each worker."""
        told = {(str(one.index),): figures_of(one.pid).get(name) for one in self.crew.members.values()}
        return {labels: value for labels, value in told.items() if value is not None}

    def _sum_of(self, name: str) -> Callable[[], Reading]:
        nothing: Reading = (
            {} if BY_NAME[name].labels else 0.0
        )  # without a label there is no series of one that has them

        def read() -> Reading:
            return summed([self._gone.get(name, nothing), *self._told(name)], nothing)

        return read

    # ---- down

    async def _drain(self) -> None:
        """All workers drain by themselves, as one process would; the last word of each is heard."""
        self.state = "draining"
        self.plane.draining = True
        self.crew.stop()
        began, cut = monotonic(), False
        log.info("draining", exchanges=self.load().get("exchanges", 0))
        while self.crew.alive and monotonic() - began < self.settings.drain_s + _GRACE_S:
            if self._cut.is_set() and not cut:
                cut, began = True, monotonic() - self.settings.drain_s
                self.crew.stop(cut=True)
            self.crew.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.crew.changed.wait(), 0.05)

    async def _close(self) -> None:
        if self._teller is not None:
            self._teller.cancel()
        self.crew.kill()
        await super()._close()


def divided(settings: Settings) -> Settings:
    """The settings of one worker: what bounds the memory and the connections of the process is divided."""
    count = settings.workers
    limit = settings.memory_limit_bytes or limit_of_container()
    return replace(
        settings,
        max_streams=-(-settings.max_streams // count),
        max_upstream_connections=-(-settings.max_upstream_connections // count),
        max_buffered_bytes=max(settings.route_body_max_bytes, settings.max_buffered_bytes // count),
        memory_limit_bytes=None if limit is None else limit // (count + 1),
    )


def summed(gauges: Sequence[Gauge | Reading], nothing: Reading = 0.0) -> Reading:
    """One gauge of several processes, added up by its labels; `nothing` where none of them has a number."""
    total, table = 0.0, dict[tuple[str, ...], float]()
    for gauge in gauges:
        if not isinstance(gauge, int | float):
            for labels, value in gauge.items() if isinstance(gauge, Mapping) else gauge:
                table[labels] = table.get(labels, 0.0) + value
        else:
            total += gauge
    return table or total or nothing
