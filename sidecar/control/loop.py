"""What happens besides requests: finished exchanges are handed on in batches, the engine ticks, policies are reloaded.

Everything here runs on the loop's thread in short steps, and each step is fenced: one that fails is counted and told, and
the next ones still run. Requests never wait for any of it.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from sidecar.core.types import Settled

FLUSH_S: Final = 0.1  # so that, with the store's group commit, a kill loses 250 ms of rows at most
TICK_S: Final = 1.0

Step = tuple[str, Callable[[], None]]
Consumer = tuple[str, Callable[[Sequence[Settled]], None]]


class ControlLoop:
    """Calls consumers with each batch of finished exchanges, and steps once a second."""

    def __init__(self, consumers: Sequence[Consumer], steps: Sequence[Step], on_bug: Callable[[str, BaseException], None]) -> None:
        """`consumers` and `steps` are (name, callable); they run in order, and `on_bug` is told of those that raise."""
        self._consumers = consumers
        self._steps = steps
        self._on_bug = on_bug
        self._batch: list[Settled] = []
        self._handles: list[asyncio.TimerHandle] = []
        self.emit = self._batch.append
        self.lag_s = 0.0  # how late the last tick came: what the loop was held up

    def start(self) -> None:
        """Begins to flush and to tick."""
        loop = asyncio.get_running_loop()
        self._handles = [loop.call_later(FLUSH_S, self._flush_again), loop.call_at(loop.time() + TICK_S, self._tick, loop.time() + TICK_S)]

    def stop(self) -> None:
        """Ends both and hands on what is left."""
        for handle in self._handles:
            handle.cancel()
        self.flush()

    def flush(self) -> None:
        """Hands the batch on."""
        if not self._batch:
            return
        batch = self._batch[:]
        self._batch.clear()
        for name, consume in self._consumers:
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
