"""A worker: the composition root of a process that carries traffic and learns nothing.

It has the data plane of an ordinary sidecar: listener, upstreams, cascades, judges and shadows; no store, no metrics, no
admin plane. What happens it tells its leader (`workers.telling`); what to know comes as orders, and the first of them
before the port is opened, which is not opened before the leader's policy is in force here. Of policies and, at first,
of prices the leader sends what it has read, so that a file that is bad by now changes nothing; keys are read here.

Without its leader it goes on deciding by what it knows, drains as if told to, and ends: nothing is left behind for ever.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np
import structlog

from sidecar.clock import steady, take_over
from sidecar.config.guards import guards
from sidecar.config.policy import Loaded, Written, load_written
from sidecar.config.prices import PriceSource
from sidecar.config.secrets import KeyRing
from sidecar.control.loop import Consumers, ControlLoop
from sidecar.core.following import Follower
from sidecar.core.policy import NO_POLICY, Policy, Route
from sidecar.errors import ConfigError
from sidecar.gauges import load, of_process, of_traffic
from sidecar.process import hush, loop_factory, tune_interpreter, watch_loop
from sidecar.proxy.listen import bind
from sidecar.proxy.origins import Origins
from sidecar.proxy.plane import Answer
from sidecar.proxy.signals import WATCHED
from sidecar.tasks import Tasks, in_thread
from sidecar.telemetry.log import configure
from sidecar.telemetry.metrics import Reading
from sidecar.traffic import Told, Traffic, notes_of
from sidecar.workers.link import Link
from sidecar.workers.messages import CUT, LENGTH_BYTES, Counted, Gauge, Hello, Orders, read_hello, read_orders
from sidecar.workers.telling import Telling

log = structlog.get_logger()

_REFUSED: Final = 2  # exit code: the configuration cannot work
_LAST_S: Final = 2.0  # for what is left to tell at the end, and again for the leader to read it
_UNHEARD: Final = b'{"error":{"message":"the process that takes feedback is away: try again","type":"feedback_error"}}'


class Worker:
    """One worker process, from its socket to its end."""

    def __init__(self, hello: Hello, link: Link) -> None:
        """Makes and wires the parts; nothing is opened yet. Raises ConfigError as `app.Sidecar` does."""
        settings = hello.settings
        self.settings = settings
        self._hello = hello
        self._stopping, self._cut, self._ordered = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._asking: dict[int, Answer] = {}  # feedback that the leader has not answered yet
        self._asked = 0
        self._wanted = ""  # the policy version in force at the leader
        self._orders: deque[Orders] = deque()  # the first of them waits for its policy to be read, the others for it
        self._next: Loaded | None = Loaded(NO_POLICY)  # not in force here yet
        self._unread: Written | None = None  # the policy said last, until it could be read
        self._refused = ""  # why `_next` could not be put in force
        self._stand = self._followed = b""  # what the leader said last, and what of it is taken over
        self._leases: dict[str, tuple[int, float]] = {}
        self.tasks = Tasks(lambda name, error: self.on_bug(f"task {name}", error))
        self.prices = PriceSource(settings.prices, hello.prices)
        self.engine = Follower(NO_POLICY, np.random.default_rng(), steady(), self.prices.card, guards(settings))
        self.origins = Origins(settings, self.prices.current, self.tasks, KeyRing(os.environ))
        self.link = link
        self.telling = Telling(self.engine, link)
        self.traffic = Traffic(settings, self.engine, self.tasks, self.origins, self._who_is_told())
        self.plane = self.telling.plane = self.traffic.plane
        self.plane.signals.watched = WATCHED // hello.workers
        self._gauges: dict[str, Callable[[], Reading]] = {}
        of_traffic(self._gauges.__setitem__, self.traffic)
        steps = [("tick", self._tick), ("policy", self._poll_policy), ("prices", self._poll_prices)]
        self.loop = ControlLoop(Consumers(settings.service), [*steps, ("tell", self._count)], self.on_bug)
        of_process(self._gauges.__setitem__, self.loop, self.traffic.memory)

    def _who_is_told(self) -> Told:
        """What the data plane tells, the leader is told."""
        return Told(
            ended=self.telling.ended,
            feedback=self._on_feedback,
            events=self.telling.events,
            bug=self.on_bug,
            errand=self.telling.errand,
            label=self.telling.score,
            signal=self.telling.score,
            shed=lambda _shed: None,  # rows are the leader's to shed
        )

    async def run(self) -> int:
        """Serves from the first policy until the last orders; the exit code."""
        loop = asyncio.get_running_loop()
        watch_loop(loop, self.on_bug)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: None)  # they are for the leader, which says what to do
        self.telling.flush()  # here we are
        self.loop.start()
        await self._ordered.wait()
        if not self._stopping.is_set():
            await self._serve()
            await self._stopping.wait()
            await self.traffic.drain(self._cut)
        await self._close()
        return 0

    # ---- up

    async def _serve(self) -> None:
        sockets = bind("traffic", self.settings.listen, lambda note: log.warning("listener", note=note), shared=True)
        await self.traffic.open(sockets)
        gc.collect()
        gc.freeze()
        self.telling.serving = True
        self._count()

    # ---- orders

    def on_message(self, body: bytes) -> None:
        """One message of the leader. Answers and the end wait for nothing; what else is ordered is obeyed in the order in
        which it was said."""
        orders = read_orders(body)
        self._fenced(self._answer_all, orders)
        if orders.stop:
            self._stopping.set()
            self._ordered.set()
        if orders.stop == CUT:
            self._cut.set()
        self._orders.append(orders)
        if len(self._orders) == 1:
            self._obey_all()

    def _fenced(self, step: Callable[[Orders], None], orders: Orders) -> bool:
        """What cannot be obeyed for a fault of ours must not end the link, and so the traffic; whether it was."""
        try:
            step(orders)
        except Exception as bug:  # noqa: BLE001 - see above
            self.on_bug("orders", bug)
            return False
        return True

    def _answer_all(self, orders: Orders) -> None:
        for number, status, answer in orders.answers:
            self._answer(number, status, answer)

    def _obey_all(self) -> None:
        """Obeys what can be: a policy is read in a thread, and what was said behind it waits."""
        while self._orders:
            orders = self._orders[0]
            if orders.written is not None and self._fenced(self._begin_reading, orders):
                return
            self._obey(orders)

    def _begin_reading(self, orders: Orders) -> None:
        assert orders.written is not None
        self._unread = orders.written
        self.tasks.spawn(self._read(orders, orders.written), "orders")

    async def _read(self, orders: Orders, written: Written) -> None:
        try:
            self._next = await in_thread(lambda: load_written(written, os.environ, self.settings))
            self._unread = None
        except Exception as bug:  # noqa: BLE001 - the leader could read it: tried again; what it ordered besides is obeyed
            self.on_bug("policy", bug)
        self._obey(orders)
        self._obey_all()

    def _obey(self, orders: Orders) -> None:
        self._orders.popleft()
        self._fenced(self._take_over, orders)
        if orders.turn:
            self.telling.turn = orders.turn
            self._fenced(lambda _orders: self.telling.flush(), orders)

    def _take_over(self, orders: Orders) -> None:
        if orders.policy:
            self._wanted = orders.policy
            self._look_at_policy()
        self.engine.hear(orders.unbound, orders.bound)
        if orders.turn:
            self._stand, self._leases = orders.stand or self._stand, orders.leases
        if orders.policy:
            self._follow()
        for kept in orders.kept:
            self.plane.keep(*kept)

    def _follow(self) -> None:
        """Takes over what the leader knows. What it says of another policy than ours waits for that, unless that one cannot
        be put in force here: then rollbacks and budgets hold for ours, as far as both have the same routes and arms."""
        if self._wanted != self.engine.policy.version and not self._refused:
            return
        if self._stand is not self._followed:
            self._followed = self._stand
            told = self.engine.follow(self._stand, steady())
            self.telling.events([] if self._refused else told)
            self.traffic.look_around()
        self.engine.lend(self._leases)

    def on_lost(self) -> None:
        """The leader is gone."""
        for number in list(self._asking):
            self._answer(number, 503, _UNHEARD)
        if not self._stopping.is_set():
            log.error("leader lost", note="serving by what is known; draining")
        self._stopping.set()
        self._ordered.set()

    def _answer(self, number: int, status: int, body: bytes) -> None:
        answer = self._asking.pop(number, None)
        if answer is not None:
            answer(status, body)

    def _on_feedback(self, body: bytes, answer: Answer, tenant: str) -> None:
        """Feedback may come right behind its answer: what waits to be told is told first."""
        self.plane.settle()
        if not self.link.open:
            answer(503, _UNHEARD)
            return
        self._asked += 1
        self._asking[self._asked] = answer
        self.telling.ask(self._asked, body, tenant)

    # ---- policy, prices, time

    def _poll_policy(self) -> None:
        """Tries again what could not be read, or not be put in force: a file that it names may be there now."""
        if self._unread is not None and not self._orders:
            self._orders.append(Orders(policy=self._wanted, written=self._unread))
            self._obey_all()
        elif self._next is not None:
            self._look_at_policy()
            self._follow()

    def _look_at_policy(self) -> None:
        """Puts in force what the leader has in force; what it knows of that is to be followed next."""
        loaded = self._next
        if loaded is None or loaded.policy.version != self._wanted:
            return
        try:
            self._obey_policy(loaded.policy)
            self.engine.apply(loaded.policy, steady())  # its events are the leader's to tell
        except Exception as error:  # noqa: BLE001 - a fault of ours; it is as with a file that is not there
            self._refuse(error)
            return
        self._next, self._refused = None, ""
        self._followed = b""
        self._ordered.set()

    def _refuse(self, error: Exception) -> None:
        """The policy before stays, and the new one is tried again; each reason is told once."""
        ours = not isinstance(error, ConfigError)
        why = f"{type(error).__name__}: our bug; please report it" if ours else str(error)
        if ours:
            self._obey_policy(self.engine.policy)  # who serves is whom the engine knows
            self.traffic.look_around()
        if why == self._refused:
            return
        self._refused = why
        if ours:
            self.on_bug("policy", error)
        else:
            log.error("policy", note=why)

    def _obey_policy(self, policy: Policy) -> None:
        self.traffic.point(policy)
        self.traffic.judge_by(divided(policy, self._hello.workers))

    def _poll_prices(self) -> None:
        if self.prices.changed():
            self.tasks.spawn(self._reprice(), "prices")

    async def _reprice(self) -> None:
        if await in_thread(self.prices.reload):
            self.origins.reprice(self.prices.current)

    def _tick(self) -> None:
        self.telling.events(self.engine.tick(steady()))
        self.plane.certificate.poll()  # its events are the leader's to tell

    def _count(self) -> None:
        """Once a second everything that can be counted."""
        gauges: dict[str, Gauge] = {name: _written(read()) for name, read in self._gauges.items()}
        now = steady()
        breakers, errands = self.engine.guards.status(now), self.traffic.aside.status(now)
        told = {"breakers": msgspec.to_builtins(breakers), "errands": msgspec.to_builtins(errands)}
        self.telling.flush(Counted(gauges, load(self.plane), self._notes(), told))

    def _notes(self) -> list[str]:
        now = steady()
        notes = notes_of(self.engine.guards.status(now), self.traffic.aside.status(now))
        notes += self.plane.notes()
        if self._refused or self._wanted not in ("", self.engine.policy.version):
            notes.append(f"policy {self._wanted} is in force at the leader and not here yet: {self._refused}")
        return [f"worker {self._hello.index}: {note}" for note in notes]

    def on_bug(self, where: str, error: BaseException) -> None:
        """An exception that the process survived."""
        self.traffic.survived(where, error)

    # ---- down

    async def _close(self) -> None:
        await self.traffic.close()
        self.loop.stop()
        self.telling.serving = False
        self._count()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.telling.told(), _LAST_S)
        self.link.close()
        self.telling.flush()  # what is left is counted as lost
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.link.lost.wait(), _LAST_S)
        if self.telling.lost:
            log.error("rows lost", rows=self.telling.lost, note="the leader was away or too slow")
        await self.tasks.close(1.0)


def _written(reading: Reading) -> Gauge:
    return (
        float(reading) if isinstance(reading, int | float) else [(labels, value) for labels, value in reading.items()]
    )


def divided(policy: Policy, workers: int) -> Policy:
    """The policy with the allowances of judges and shadows of one worker."""
    return replace(policy, routes=tuple(_divided(route, workers) for route in policy.routes))


def _divided(route: Route, workers: int) -> Route:
    judge, shadow = route.quality.judge, route.shadow
    if judge is not None:
        judge = replace(judge, daily_nusd=judge.daily_nusd // workers, per_minute=max(1, judge.per_minute // workers))
    if shadow is not None:
        shadow = replace(
            shadow, daily_nusd=shadow.daily_nusd // workers, per_minute=max(1, shadow.per_minute // workers)
        )
    return replace(route, shadow=shadow, quality=replace(route.quality, judge=judge))


def main(descriptor: int) -> int:
    """Runs a worker on the socket that its leader left open as `descriptor`; the exit code."""
    sock = socket.socket(fileno=descriptor)
    try:
        hello = read_hello(_received(sock, int.from_bytes(_received(sock, LENGTH_BYTES), "big")))
    except OSError:
        return 0  # the leader ended before it said anything
    take_over(hello.offset_s)
    tune_interpreter()
    hush()
    sink = configure(hello.settings.log_level)
    structlog.contextvars.bind_contextvars(worker=hello.index)

    async def serve() -> int:
        sock.setblocking(False)
        parts: list[Worker] = []
        link = Link(lambda body: parts[0].on_message(body), lambda: parts[0].on_lost())
        worker = Worker(hello, link)
        parts.append(worker)
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=sock)
        return await worker.run()

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(serve())
    except ConfigError as error:
        sys.stderr.write(f"llm-sidecar: worker {hello.index}: {error}\n")
        return _REFUSED
    finally:
        sink.close()


def _received(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes. Raises OSError when the leader went away before."""
    got = b""
    while len(got) < size:
        more = sock.recv(size - len(got))
        if not more:
            raise ConnectionError("the leader ended before it said anything")
        got += more
    return got
