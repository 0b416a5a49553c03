"""An app in a scenario: clients that ask for sums, each call a conversation of its own, and score what they are told.

It knows nothing of arms. What it saw of each call stands in `calls`, in the order in which they ended.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sidecar.clock import monotonic
from sidecar.demo.traffic import said
from sidecar.sim.marker import score
from tests.e2e.process import Sidecar
from tests.e2e.traffic import Connection, chat

FEEDBACK = "/_sidecar/v1/feedback"
LOOK_S = 0.05
HANGS_S = 60.0  # longest wait for one step of a scenario: twenty times what it takes, so that it only ends what hangs


@dataclass(frozen=True, slots=True)
class Call:
    """One whole answer as the app saw it."""

    status: int
    model: str  # that served
    reason: str
    task: str
    quality: float | None  # share of right sums in the answer; None: it has none


@dataclass(slots=True)
class App:
    """`scored` is the share of answers for which feedback is sent; `stream` whether it asks for streams. Each call is
    of one of `tasks`, by turns, and names it in its text and in the tag `task`."""

    sidecar: Sidecar
    connections: int = 6
    pause_s: float = 0.002
    stream: bool = False
    scored: float = 0.0
    max_tokens: int = 64
    tasks: tuple[str, ...] = ("sums",)
    seed: int = 1
    calls: list[Call] = field(default_factory=list)
    _stopped: bool = False

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator["App"]:
        """Asks until the block ends; an error of a client ends it at once."""
        self._stopped = False
        async with asyncio.TaskGroup() as group:
            for number in range(self.connections):
                group.create_task(self._client(number))
            try:
                yield self
            finally:
                self._stopped = True

    async def until(self, what: str, reached: Callable[[], bool]) -> int:
        """Waits; returns how many calls there were by then. AssertionError when it does not come."""
        end = monotonic() + HANGS_S
        while not reached():
            assert monotonic() < end, f"{what}: not reached; last calls {self.counts(-200)}"
            await asyncio.sleep(LOOK_S)
        return len(self.calls)

    def counts(self, since: int = 0, until: int | None = None) -> Counter[str]:
        """`model reason status` of these calls."""
        return Counter(f"{one.model} {one.reason} {one.status}" for one in self.calls[since:until])

    def models(self, since: int = 0, until: int | None = None) -> Counter[str]:
        return Counter(one.model for one in self.calls[since:until])

    async def more(self, count: int) -> list[Call]:
        """The next `count` calls."""
        begun = len(self.calls)
        await self.until(f"{count} calls", lambda: len(self.calls) >= begun + count)
        return self.calls[begun : begun + count]

    async def _client(self, number: int) -> None:
        rng = np.random.default_rng([self.seed, number])
        connection = Connection(self.sidecar.port)
        asked = len(self.calls)
        try:
            while not self._stopped:
                asked += 1
                a, b = rng.integers(10, 999, 2)
                task = self.tasks[asked % len(self.tasks)]
                text = f"Customer {number}-{asked} asks for {task}: what is {a} + {b}?"
                body = chat(text, stream=self.stream, max_tokens=self.max_tokens)
                told = {"x-sidecar-session": f"{self.seed}-{number}-{asked}", "x-sidecar-tags": f"task={task}"}
                reply = await connection.call(body, told)
                right = score(said(reply.body, self.stream)) if reply.status == 200 else None
                served = reply.headers.get("x-sidecar-model", "").partition("/")[2]
                reason = reply.headers.get("x-sidecar-reason", "")
                self.calls.append(Call(reply.status, served, reason, task, right))
                if right is not None and rng.random() < self.scored:
                    await self._score(connection, reply.decision, right)
                await asyncio.sleep(self.pause_s)
        finally:
            await connection.close()

    async def _score(self, connection: Connection, decision: str, value: float) -> None:
        """A decision is known a moment after its answer: 404 until then."""
        for _ in range(100):
            told = await connection.call({"id": decision, "score": value, "source": "user"}, path=FEEDBACK)
            if told.status != 404:
                break
            await asyncio.sleep(0.02)
        assert told.status == 202, told.body


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
