"""The composition root: makes the parts of one process, wires them, serves, drains, and takes them down in order.

The traffic port comes up before everything that can fail and goes down after it. Store, telemetry, admin and policies may
fail at any time without a request noticing: what fails is told in `/ready`, in a metric and in an event.
"""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Final

import numpy as np
import structlog
from aiohttp import web

from sidecar import __version__
from sidecar.clock import steady, wall
from sidecar.config.address import Address
from sidecar.config.guards import guards
from sidecar.config.policy import Loaded
from sidecar.config.prices import PriceSource
from sidecar.config.secrets import KeyRing
from sidecar.config.settings import Settings
from sidecar.config.watch import PolicySource
from sidecar.control.admin import Admin, admin_app
from sidecar.control.archive import Archive
from sidecar.control.cycling import Cycling
from sidecar.control.door import Door, runner_of
from sidecar.control.feedback import Answer, FeedbackDesk
from sidecar.control.health import Readiness, health_app
from sidecar.control.keeping import Keeping
from sidecar.control.loop import Consumers, ControlLoop
from sidecar.control.reloading import Reloading
from sidecar.control.security import Security
from sidecar.core.engine import Engine
from sidecar.core.policy import Policy
from sidecar.core.pricebook import PriceBook
from sidecar.core.types import Event, Feedback
from sidecar.errors import ConfigError
from sidecar.gauges import allow, load, register
from sidecar.process import loop_factory, tune_interpreter, watch_loop
from sidecar.proxy.aside import ErrandStatus
from sidecar.proxy.descriptors import raise_limit
from sidecar.proxy.listen import Listeners, bind
from sidecar.proxy.origins import Origins
from sidecar.proxy.plane import MAX_KEPT
from sidecar.tasks import Tasks
from sidecar.telemetry.log import RequestLog
from sidecar.telemetry.metrics import Metrics
from sidecar.telemetry.spans import spans_to
from sidecar.traffic import Told, Traffic, notes_of

log = structlog.get_logger()

_CLOSE_S: Final = 5.0


class Sidecar:
    """One process. `run` serves until a signal ends it."""

    _engine: type[Engine] = Engine

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Makes and wires the parts; nothing is opened yet.

        Raises:
            ConfigError: something is configured that cannot work; the message names it.
        """
        self.settings = settings
        self.started = wall()
        self.state = "starting"
        self._stopping = asyncio.Event()
        self._cut = asyncio.Event()
        self.listeners = Listeners()
        self._runners: list[web.AppRunner] = []
        self.tasks = Tasks(self._task_failed)
        self.prices = PriceSource(settings.prices)
        self.policies = PolicySource(settings.policies, settings.service, environ, settings)
        self.keys = KeyRing(environ)
        self.origins = Origins(settings, self.prices.current, self.tasks, self.keys)
        policy = self._first_policy()
        self.reloading = Reloading(self.policies, self.prices, self.tasks, self.apply, self._reprice)
        self.engine = self._engine(policy, np.random.default_rng(), steady(), self.prices.card, guards(settings))
        self.metrics = Metrics(settings.service, __version__, self.started)
        self.request_log = RequestLog(settings.request_log)
        self.security = Security(settings, steady())
        self.archive = Archive(settings, self.security.keys)
        self.keeping = Keeping(self.engine, self.archive)
        self.spans = spans_to(
            settings.observatory_url, settings.service, __version__, lambda name: self.plane.server_of(name)
        )
        self.desk = FeedbackDesk(self._teach, self.archive.feedback, self.archive.look_up, self._spawn, self.on_events)
        self.desk.labelled = self.engine.labelled
        self.cycling = Cycling(self.engine, settings.optimization_interval_s)
        polls = [("policy", self.reloading.poll_policies), ("prices", self.reloading.poll_prices)]
        self.loop = ControlLoop(self._consumers(), [("tick", self._tick), *polls], self.on_bug)
        self.traffic = Traffic(settings, self.engine, self.tasks, self.origins, self._who_is_told())
        self.plane = self.traffic.plane
        self.traffic.point(policy)
        self._judge_by(policy)
        register(self.metrics, self)

    def _first_policy(self) -> Policy:
        """What is in force from the start: nothing, where the policy is wrong or lacks a CA file. Where others can
        reach this port nothing is guessed."""
        try:
            self.origins.trust(self.policies.current.policy)
        except ConfigError as error:
            self.policies.refuse(str(error))
        if self.settings.mode != "sidecar" and self.policies.error is not None:
            raise ConfigError(self.policies.error)
        return self.policies.current.policy

    def _consumers(self) -> Consumers:
        """Who is told of exchanges, and who of rows, in this order."""
        of_exchanges = [
            ("metrics", self.metrics.observe),
            ("feedback", self.desk.remember),
            ("cycle", self.cycling.observe),
        ]
        if self.spans is not None:
            of_exchanges.append(("spans", self.spans.observe))
        return Consumers(
            self.settings.service,
            of_exchanges,
            [("log", self.request_log.observe), ("store", self.archive.put), ("state", self.keeping.keep)],
            frozenset({"spans"}),
        )

    def _who_is_told(self) -> Told:
        """What the data plane tells the rest of the process."""
        return Told(
            ended=self.loop.emit,
            feedback=self.take_feedback,
            events=self.on_events,
            bug=self.on_bug,
            errand=self._on_errand,
            label=self._on_label,
            signal=self.desk.signal,
            shed=self.loop.shed_records,
        )

    async def run(self, announce: Callable[["Sidecar"], None] | None = None) -> int:
        """Serves until SIGTERM or SIGINT; the exit code.

        Raises:
            ConfigError: a port is busy.
        """
        with contextlib.ExitStack() as undo:
            self._handle_signals()
            undo.callback(watch_loop(asyncio.get_running_loop(), self.on_bug))
            undo.callback(self.listeners.close)
            self._bind()
            try:
                await self._begin()
                if announce is not None:
                    announce(self)
                await self._stopping.wait()
                await self._drain()
            finally:  # whoever fails: with a listener left open uvloop may never close, and the process would hang
                await self._close()
        return 0

    def stop(self) -> None:
        """What SIGTERM does: the first call drains, the second cuts."""
        if self._stopping.is_set():
            self._cut.set()
        self._stopping.set()

    def reread(self) -> None:
        """What SIGHUP does: opens the request log's file again, and reads the policies whether they seem changed or not."""
        log.info("hangup", note="the request log is opened again, and the policies are read")
        self.request_log.reopen()
        if self.state != "starting":  # what was learnt is not restored yet, and the first poll is near
            self.reloading.read_policies()

    def ports(self, which: str) -> list[int]:
        """The ports that a listener really has ("traffic", "health" or "admin"): 0 in the settings means any."""
        return self.listeners.ports[which]

    # ---- up

    def _bind(self) -> None:
        settings = self.settings
        wanted = {"traffic": settings.listen, "health": settings.health_listen, "admin": settings.admin_listen}
        for what, addresses in wanted.items():
            self.listeners.take(what, self._listen(what, addresses))

    def _listen(self, what: str, addresses: Sequence[Address]) -> list[socket.socket]:
        return bind(what, addresses, lambda note: log.warning("listener", note=note))

    async def _begin(self) -> None:
        """From open ports to serving."""
        self.on_events(await self.archive.open(self.engine))
        await self._recall()
        await self._serve_traffic()
        await self._serve_people()
        self.loop.start()
        gc.collect()
        gc.freeze()  # what lives as long as the process need not be looked at again by every collection
        self.state = "serving"
        log.info("serving", service=self.settings.service, **self.listeners.shown, version=__version__)
        for note in self.readiness().notes:
            log.warning("note", note=note)

    async def _serve_traffic(self) -> None:
        await self.traffic.open(self.listeners.sockets["traffic"])

    async def _serve_people(self) -> None:
        """Opens the admin and the health port."""
        admin = Admin(
            settings=self.settings,
            engine=self.engine,
            take_feedback=self.take_feedback,
            archive=self.archive,
            on_events=self.on_events,
            readiness=self.readiness,
            run_lane=self.cycling.run,
            load=self.load,
            access=self.security.access,
            read_keys=self.security.read_keys,
            settle=self.settle,
            forget=self.desk.forget,
        )
        for what, app in (("health", health_app(self.readiness, self.metrics.render)), ("admin", admin_app(admin))):
            runner = runner_of(what, app, self.on_bug)
            await runner.setup()
            self._runners.append(runner)
            for sock in self.listeners.sockets[what]:
                await Door(runner, sock).start()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number, handle in ((signal.SIGTERM, self.stop), (signal.SIGINT, self.stop), (signal.SIGHUP, self.reread)):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, handle)

    # ---- while serving

    def readiness(self) -> Readiness:
        """What `/ready` says now."""
        now = steady()
        breakers, errands = self.engine.guards.status(now), self.errands()
        notes = [
            *self.settings.notes(),
            *self.policies.notes(),
            *self.prices.notes(),
            *self.keys.problems(self.policies.current.policy.upstreams, now),
            *self.traffic.faults(now),
            *self.archive.notes(),
            *self.security.notes(),
            *self.request_log.notes(),
            *self.engine.explanations(),
            *self.plane.notes(),
            *notes_of(breakers, errands),
        ]
        detail = {
            "service": self.settings.service,
            "version": __version__,
            "policy_version": self.engine.policy.version,
            "exchanges": len(self.plane.exchanges),
            "errands": errands,
            "breakers": breakers,
        }
        return Readiness(self.state == "serving", self.state, notes, detail)

    def errands(self) -> list[ErrandStatus]:
        return self.traffic.aside.status(steady())

    def load(self) -> dict[str, object]:
        """What the data plane holds and has counted now."""
        return load(self.plane)

    def settle(self) -> None:
        """Hands on whatever is over: its row is put, and the desk knows it."""
        self.plane.settle()
        self.loop.flush()

    def take_feedback(self, body: bytes, answer: Answer, tenant: str = "") -> None:
        """Feedback may come right behind its answer: what waits to be recorded is handed on first. A `tenant` may speak of
        its own calls."""
        self.settle()
        self.keeping.owe()
        self.desk.handle(body, answer, tenant)

    def _teach(self, feedback: Feedback, now: float) -> Sequence[Event]:
        try:
            return self.engine.feedback(feedback, now)
        except Exception as bug:  # noqa: BLE001 - as `ending.teach`: the score is stored, and who sent it is answered
            self.on_bug("feedback", bug)
            return []

    def on_events(self, events: Sequence[Event]) -> None:
        """Events of the engine: logged, counted, stored."""
        for event in events:
            say = log.warning if event.severity in ("critical", "high") else log.info
            say(event.kind, route=event.route, arm=event.arm, message=event.message)
        self.cycling.note(events)
        self.metrics.observe_events(events)
        self.archive.events(events)
        if any(event.kind.startswith(("rollout.", "experiment.", "arm.")) for event in events):
            self.keeping.keep_all()  # a step that was told is never forgotten
            self.archive.now()
            self.traffic.look_around()

    def on_bug(self, where: str, error: BaseException) -> None:
        """An exception that the process survived."""
        self.traffic.survived(where, error)

    def _task_failed(self, name: str, error: BaseException) -> None:
        self.on_bug(f"task {name}", error)

    def _spawn(self, make: Callable[[], Coroutine[object, object, None]]) -> None:
        self.tasks.spawn(make(), "feedback")

    def _tick(self) -> None:
        self.on_events(self.engine.tick(steady()))
        self.on_events([*self.cycling.tick(), *self.security.poll(steady(), self.archive.audit_head)])
        self.on_events([*self.plane.certificate.poll(), *self.archive.poll()])
        self.traffic.look_around()
        self.keeping.pay()
        if self.archive.may_take_over:
            self.tasks.spawn(self._take_over(), "store")

    async def _take_over(self) -> None:
        """The process that wrote the database has ended: what it stored last is the state to go on with."""
        self.on_events(await self.archive.take_over(self.engine))
        await self._recall()

    async def _recall(self) -> None:
        """Which arms hold the responses of before."""
        try:
            for left in await self.archive.responses(MAX_KEPT):
                self.plane.keep(*left)
        except Exception as error:  # noqa: BLE001 - whatever lies in the database: traffic can do without
            self.on_bug("responses", error)

    def _reprice(self, book: PriceBook) -> None:
        """What ends from now on costs what the list says."""
        self.origins.reprice(book)
        self.on_events([Event(kind="prices.applied", message=book.version)])

    def apply(self, loaded: Loaded) -> None:
        """Puts a policy in force: first what may fail, then the engine; requests under way keep the decision they have.
        One that cannot be is refused: the former stays, and `policies.error` says why."""
        try:
            self.traffic.point(loaded.policy)
            events = self.engine.apply(loaded.policy, steady())
        except ConfigError as error:
            self.policies.refuse(str(error))
            return
        except Exception as bug:  # noqa: BLE001 - who serves has to be whom the engine knows
            self.on_bug("policy", bug)
            self.traffic.point(self.engine.policy)
            self.policies.refuse_bug(bug)
            return
        self._judge_by(loaded.policy)
        self.on_events(events)
        self.traffic.look_around()
        log.info("policy", version=loaded.policy.version, file=str(loaded.file), routes=len(loaded.policy.routes))

    def _judge_by(self, policy: Policy) -> None:
        """How answers are judged from now on, and which names metrics always have room for."""
        allow(self.metrics, policy)
        self.traffic.judge_by(policy)
        self.desk.sources = {route.name: route.quality.teaching for route in policy.routes}

    def _on_errand(self, event: Event) -> None:
        """A call of our own is over: it is counted and stored, and no line of the log is spent on it."""
        self.metrics.observe_errand(event)
        self.archive.events([event])

    def _on_label(self, decision_id: str, source: str, score: float) -> None:
        self.loop.flush()  # the decision may be so new that the desk does not know it yet
        self.desk.signal(decision_id, source, score)

    # ---- down

    async def _drain(self) -> None:
        """/ready says 503; new requests are still served until none came for `drain_idle_s`, or `drain_s` is over."""
        self.state = "draining"
        log.info("draining", exchanges=len(self.plane.exchanges))
        await self.traffic.drain(self._cut)

    async def _close(self) -> None:
        await self.traffic.close()
        self.loop.stop()
        self._fenced("state", self.keeping.keep_all)
        try:
            for runner in self._runners:
                await runner.cleanup()
            await self.tasks.close(1.0)
        except Exception as error:  # noqa: BLE001 - what waits in the queues is written all the same
            self.on_bug("close", error)
        await asyncio.to_thread(self._close_blocking)

    def _close_blocking(self) -> None:
        """Rows first: a process that is killed for its slowness has stored them."""
        self._fenced("store", lambda: self.archive.close(_CLOSE_S))
        self._fenced("log", self.request_log.close)
        if self.spans is not None:
            self._fenced("spans", self.spans.close)

    def _fenced(self, where: str, step: Callable[[], object]) -> None:
        """One step of closing; when it raises, that is counted and told, and the next ones follow."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - see above
            self.on_bug(where, error)


def serve(
    settings: Settings,
    environ: Mapping[str, str],
    announce: Callable[[Sidecar], None] | None = None,
    of: type[Sidecar] = Sidecar,
) -> int:
    """Runs one sidecar on uvloop where there is one, on asyncio's own loop elsewhere; the exit code."""
    tune_interpreter()
    raise_limit()

    async def main() -> int:
        return await of(settings, environ).run(announce)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main())
