"""The load generator: one process, raw protocols on uvloop, every answer checked to the last byte.

`python -m bench.load` reads a job (one JSON line), connects and warms up, prints `ready`, waits for a line, runs, and
prints the result (one JSON line). Closed loop: each connection asks again as soon as it was answered. Open loop:
arrivals are scheduled beforehand and latency counts from the SCHEDULED time, so a stall is seen by every request that
it delays (no coordinated omission). Streams: each connection reads one stream after the other.
"""

import asyncio
import gc
import json
import sys
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Generic, TypeVar

import numpy as np
import uvloop

from bench import payloads, stats
from bench.calls import Call, StreamCall
from bench.job import SPREAD, Job, Result
from sidecar.clock import monotonic
from sidecar.sim.timer import ExactTimer

_WARM = 20  # requests per connection before the measured ones: pools are dialled, caches filled
_GIVE_UP_S = 15.0  # after the planned end; a run that hangs longer is reported as it stands


C = TypeVar("C", Call, StreamCall)


class Run(Generic[C]):
    """What the three kinds of load share: numbering, counting, and an end that is reached even when the peer hangs."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.result = Result()
        self.errors: Counter[str] = Counter()
        self.latency_s: list[float] = []
        self.number = job.base
        self.stop_at = float("inf")
        self.live = 0
        self.over = asyncio.Event()
        self.calls: list[C] = []

    def next_number(self) -> int:
        self.number += 1
        return self.number - 1

    def failed(self, what: str, transport: asyncio.Transport | None) -> None:
        """Counts it and gives the connection up: a run with errors is void, it need not go on at full strength."""
        self.errors[what] += 1
        self.left()
        if transport is not None:
            transport.abort()

    def left(self) -> None:
        """One connection fewer; the last one ends the phase."""
        self.live -= 1
        if self.live <= 0:
            self.over.set()

    async def wait(self, planned_s: float) -> None:
        try:
            await asyncio.wait_for(self.over.wait(), planned_s + _GIVE_UP_S)
        except TimeoutError:
            self.errors["no end in time"] += 1

    async def dial(self, new: Callable[[], C]) -> None:
        """Opens the job's connections."""
        loop = asyncio.get_running_loop()
        for _ in range(self.job.connections):
            _, call = await loop.create_connection(new, "127.0.0.1", self.job.port)
            self.calls.append(call)

    def usable(self) -> list[C]:
        """The connections that no error has ended."""
        return [call for call in self.calls if call.transport is not None and not call.transport.is_closing()]

    def close(self) -> None:
        """Ends all connections."""
        for call in self.calls:
            if call.transport is not None:
                call.transport.abort()

    def begin(self) -> None:
        """Forgets the warm-up; from here on it counts."""
        self.latency_s = []
        self.result.requests = 0
        self.over.clear()

    def summary(self, began: float) -> Result:
        result = self.result
        result.elapsed_s = monotonic() - began
        result.next_number = self.number
        result.errors = dict(self.errors)
        result.latency_us = stats.spread(self.latency_s, 1e6)
        return result


class ClosedRun(Run[Call]):
    """Closed loop over `connections` connections."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.left_to_ask = 0

    async def warm(self) -> None:
        await self.dial(lambda: Call(self.answered))
        self.left_to_ask = _WARM * len(self.calls)
        await self._go(10.0)

    async def run(self) -> Result:
        self.begin()
        self.left_to_ask = self.job.count or sys.maxsize
        began = monotonic()
        if not self.job.count:
            self.stop_at = began + self.job.duration_s
        await self._go(self.job.count / 1_000 if self.job.count else self.job.duration_s)
        return self.summary(began)

    async def _go(self, planned_s: float) -> None:
        self.over.clear()
        live = self.usable()
        self.live = len(live)
        for call in live:
            self._ask(call, monotonic())
        if live:
            await self.wait(planned_s)

    def _ask(self, call: Call, now: float) -> None:
        if self.left_to_ask <= 0 or now >= self.stop_at:
            self.left()
            return
        self.left_to_ask -= 1
        call.ask(self.next_number(), now, self.job.port)

    def answered(self, call: Call, now: float, wrong: str) -> None:
        if wrong:
            self.failed(wrong, call.transport)
            return
        self.result.requests += 1
        self.latency_s.append(now - call.due)
        self._ask(call, now)


class OpenRun(ClosedRun):
    """Open loop: Poisson arrivals at `rate` per second from a fixed seed, the same ones for every peer."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.idle: list[Call] = []
        self.backlog: deque[float] = deque()
        self.arrivals: list[float] = []
        self.place = 0
        self.lateness_s: list[float] = []
        self.started = False

    async def run(self) -> Result:
        self.begin()
        self.started = True
        self.idle = self.usable()
        self.live = len(self.idle)
        count = int(self.job.rate * self.job.duration_s)
        gaps = np.random.default_rng(11).exponential(1.0 / self.job.rate, count)
        began = monotonic()
        self.arrivals = (began + 0.01 + np.cumsum(gaps)).tolist()
        timer = ExactTimer(asyncio.get_running_loop())

        def fire() -> None:
            self.backlog.append(self.arrivals[self.place])
            self.place += 1
            if self.place < len(self.arrivals):
                timer.at(self.arrivals[self.place], fire)
            self._serve()

        timer.at(self.arrivals[0], fire)
        await self.wait(self.job.duration_s)
        timer.close()
        self.result.lateness_us = stats.spread(self.lateness_s, 1e6)
        return self.summary(began)

    def _serve(self) -> None:
        while self.backlog and self.idle:
            due = self.backlog.popleft()
            self.idle.pop().ask(self.next_number(), due, self.job.port)
            self.lateness_s.append(monotonic() - due)

    def answered(self, call: Call, now: float, wrong: str) -> None:
        """As in the closed loop while warming up; then the connection goes back to the idle ones."""
        if not self.started or wrong:
            super().answered(call, now, wrong)
            return
        self.result.requests += 1
        self.latency_s.append(now - call.due)
        self.idle.append(call)
        self._serve()
        if self.result.requests + self.errors.total() >= len(self.arrivals):
            self.over.set()


class StreamRun(Run[StreamCall]):
    """`connections` streams at any time, begun one after the other over the length of one stream."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.warming = True
        self.path_s: list[float] = []
        self.transit_s: list[float] = []

    async def warm(self) -> None:
        """One short stream on each connection, all at once: the peer's pool is as wide as the load afterwards."""
        await self.dial(lambda: StreamCall(self.ended))
        self.live = len(self.calls)
        for call in self.calls:
            call.ask(self.next_number(), self.job, 3)
        await self.wait(5.0)

    async def run(self) -> Result:
        self.begin()
        self.warming = False
        live = self.usable()
        self.live = len(live)
        began = monotonic()
        self.stop_at = began + self.job.duration_s
        length_s = (self.job.chunks * self.job.gap_ms + max(self.job.first_ms, 0)) / 1e3
        timer = ExactTimer(asyncio.get_running_loop())
        for place, call in enumerate(live):
            timer.at(began + length_s * place / len(live), lambda call=call: self._ask(call))  # type: ignore[misc] # a lambda's default has no type
        if live:
            await self.wait(self.job.duration_s + length_s)
        timer.close()
        self.result.path_us = stats.spread(self.path_s, 1e6)
        self.result.transit_us = stats.spread(self.transit_s, 1e6)
        return self.summary(began)

    def _ask(self, call: StreamCall) -> None:
        call.ask(self.next_number(), self.job, self.job.chunks)

    def ended(self, call: StreamCall) -> None:
        reader = call.reader
        if reader is None or reader.error or reader.first is None:
            self.failed(reader.error if reader is not None and reader.error else "no token", call.transport)
            return
        if not self.warming:
            arrived, read_ns, written_ns = reader.first
            true_s = (written_ns - read_ns) / 1e9
            self.result.requests += 1
            self.result.chunks += len(reader.transit_s)
            self.latency_s.append(arrived - call.sent_at)
            self.path_s.append(arrived - call.sent_at - true_s)
            self.transit_s.extend(reader.transit_s)
            if self.job.first_ms == SPREAD:
                self.result.truth.append((payloads.completion_id(reader.number), true_s))
        if self.warming or monotonic() >= self.stop_at:
            self.left()
        else:
            self._ask(call)


def new_run(job: Job) -> ClosedRun | StreamRun:
    """The run that a job asks for."""
    match job.kind:
        case "closed":
            return ClosedRun(job)
        case "open":
            return OpenRun(job)
        case "streams":
            return StreamRun(job)


async def _main() -> None:
    job = Job(**json.loads(sys.stdin.readline()))
    run = new_run(job)
    await run.warm()
    gc.collect()
    gc.freeze()
    gc.disable()  # the generator's own pauses are no property of the peer
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    result = await run.run()
    print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    uvloop.run(_main())
