"""What happens besides requests: finished exchanges are handed on in batches, the engine ticks, policies are reloaded.

Everything here runs on the loop's thread in short steps, and each step is fenced: one that fails is counted and told, and
the next ones still run. Requests never wait for any of it.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from sidecar.core.record import Row, row
from sidecar.core.types import Settled

FLUSH_S: Final = 0.1  # so that, with the store's group commit, a kill loses 250 ms of rows at most
TICK_S: Final = 1.0
BATCH: Final = 64  # handed on at once when so many wait: half a millisecond of work, so no request waits longer for it

T = TypeVar("T")

Step = tuple[str, Callable[[], None]]
Consumer = tuple[str, Callable[[Sequence[Settled]], None]]
RowConsumer = tuple[str, Callable[[Sequence[Row]], None]]


@dataclass(frozen=True, slots=True)
class Consumers:
    """Who gets finished exchanges: as values, and as rows (`core.record`), which are made once for all."""

    service: str
    of_exchanges: Sequence[Consumer] = ()
    of_rows: Sequence[RowConsumer] = ()
    spared: frozenset[str] = frozenset()  # of exchanges: who gets none while records are shed


class ControlLoop:
    """Hands finished exchanges to consumers in small batches, and calls steps once a second."""

    def __init__(
        self, consumers: Consumers, steps: Sequence[Step], on_bug: Callable[[str, BaseException], None]
    ) -> None:
        """Consumers and steps are called in order; `on_bug` is told of those that raise."""
        self._consumers = consumers
        self._steps = steps
        self._on_bug = on_bug
        self._batch: list[Settled] = []
        self._handles: list[asyncio.TimerHandle] = []
        self._shedding = False
        self.shed = 0  # finished exchanges of which no row was made
        self.lag_s = 0.0  # how late the last tick came: what the loop was held up

    def emit(self, settled: Settled) -> None:
        """Takes one finished exchange."""
        batch = self._batch
        batch.append(settled)
        if len(batch) >= BATCH:
            self.flush()

    def shed_records(self, shed: bool) -> None:
        """Memory is short: from now on nobody gets rows, and who is `spared` gets nothing; or that is over."""
        self.flush()
        self._shedding = shed

    def start(self) -> None:
        """Begins to flush and to tick."""
        loop = asyncio.get_running_loop()
        due = loop.time() + TICK_S
        self._handles = [loop.call_later(FLUSH_S, self._flush_again), loop.call_at(due, self._tick, due)]

    def stop(self) -> None:
        """Ends both and hands on what is left."""
        for handle in self._handles:
            handle.cancel()
        self.flush()

    def flush(self) -> None:
        """Hands the batch on."""
        batch = self._batch
        if not batch:
            return
        self._batch = []
        consumers = self._consumers
        for name, consume in consumers.of_exchanges:
            if not (self._shedding and name in consumers.spared):
                self._fenced(name, consume, batch)
        if self._shedding:
            self.shed += len(batch)
            return
        rows: list[Row] = []
        for settled in batch:
            try:
                rows.append(row(settled, consumers.service))
            except Exception as error:  # noqa: BLE001 - one bad record costs its own row
                self._on_bug("record", error)
        for name, consume_rows in consumers.of_rows:
            self._fenced(name, consume_rows, rows)

    def _fenced(self, name: str, consume: Callable[[Sequence[T]], None], batch: Sequence[T]) -> None:
        try:
            consume(batch)
        except Exception as error:  # noqa: BLE001 - see the head of this file
            self._on_bug(name, error)

    def _flush_again(self) -> None:
        self._handles[0] = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_again)
        self.flush()

    def _tick(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        self.lag_s = max(loop.time() - due, 0.0)
        after = max(due, loop.time() - TICK_S) + TICK_S
        self._handles[1] = loop.call_at(after, self._tick, after)
        for name, step in self._steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - see the head of this file
                self._on_bug(name, error)
