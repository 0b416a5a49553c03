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

FLUSH_S: Final = 0.05  # with the store's group commit a kill loses 250 ms of rows at most; shorter finds caches cold
TICK_S: Final = 1.0
SLICE: Final = 8  # handed on between two looks at the sockets: a tenth of a millisecond of work
BATCH: Final = 64  # handed on at once when so many wait: so much traffic needs what large batches save

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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flushing: asyncio.Handle | None = None  # the next slice is due, or its timer is set
        self._ticking: asyncio.Handle | None = None
        self._shedding = False
        self.shed = 0  # finished exchanges of which no row was made
        self.lag_s = 0.0  # how late the last tick came: what the loop was held up

    def emit(self, settled: Settled) -> None:
        """Takes one finished exchange."""
        batch = self._batch
        batch.append(settled)
        if len(batch) == 1:
            self._flush_soon()
        elif len(batch) >= BATCH:
            self.flush()

    def shed_records(self, shed: bool) -> None:
        """Memory is short: from now on nobody gets rows, and who is `spared` gets nothing; or that is over."""
        self.flush()
        self._shedding = shed

    def start(self) -> None:
        """Begins to flush and to tick."""
        self._loop = loop = asyncio.get_running_loop()
        due = loop.time() + TICK_S
        self._ticking = loop.call_at(due, self._tick, due)
        if self._batch:
            self._flush_soon()

    def stop(self) -> None:
        """Ends both and hands on what is left."""
        self._loop = None
        for handle in (self._flushing, self._ticking):
            if handle is not None:
                handle.cancel()
        self._flushing = self._ticking = None
        self.flush()

    def flush(self) -> None:
        """Hands on all that waits."""
        batch, self._batch = self._batch, []
        if batch:
            self._hand_on(batch)

    def _hand_on(self, batch: Sequence[Settled]) -> None:
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

    def _flush_soon(self) -> None:
        if self._loop is not None and self._flushing is None:
            self._flushing = self._loop.call_later(FLUSH_S, self._flush_slice)

    def _flush_slice(self) -> None:
        """Hands on the oldest; the others in the next turns of the loop, which looks at its sockets between any two."""
        self._flushing = None
        some, self._batch = self._batch[:SLICE], self._batch[SLICE:]
        if self._batch and self._loop is not None:
            self._flushing = self._loop.call_soon(self._flush_slice)
        if some:
            self._hand_on(some)

    def _tick(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        self.lag_s = max(loop.time() - due, 0.0)
        after = max(due, loop.time() - TICK_S) + TICK_S
        self._ticking = loop.call_at(after, self._tick, after)
        for name, step in self._steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - see the head of this file
                self._on_bug(name, error)
