"""Reads policies and prices again when their files change, while traffic goes on.

A policy of thousands of routes takes seconds to read: that happens in a thread, one reading at a time, and what it found is
put in force in one step on the loop's thread. A change that is seen meanwhile is read after it.
"""

from collections.abc import Callable
from functools import partial

import structlog

from sidecar.config.policy import Loaded
from sidecar.config.prices import PriceSource
from sidecar.config.watch import PolicySource
from sidecar.core.pricebook import PriceBook
from sidecar.tasks import Tasks, in_thread

log = structlog.get_logger()


class Reloading:
    """Brings what is read to whoever puts it in force: `apply` a policy, `reprice` calls by a price list."""

    def __init__(
        self,
        policies: PolicySource,
        prices: PriceSource,
        tasks: Tasks,
        apply: Callable[[Loaded], None],
        reprice: Callable[[PriceBook], None],
    ) -> None:
        """A policy that `apply` refuses (`PolicySource.refuse`) is tried again at every poll."""
        self._policies, self._prices, self._tasks = policies, prices, tasks
        self._apply, self._reprice = apply, reprice
        self._wanted = self._reading = False  # of policies

    def poll_policies(self) -> None:
        """Call this every second."""
        if self._policies.changed() or self._wanted:  # by a reading that failed for a fault of ours
            self.read_policies()
        elif not self._reading:
            self._put_in_force(self._policies.retry)

    def read_policies(self) -> None:
        """Reads the policies now, whether they seem changed or not."""
        self._wanted = True
        if not self._reading:
            self._tasks.spawn(self._read_policies(), "policy")
            self._reading = True  # after what may fail

    async def _read_policies(self) -> None:
        try:
            while self._wanted:
                read = await in_thread(self._read)
                self._put_in_force(partial(self._policies.take, read))
        finally:
            self._reading = False

    def _read(self) -> Loaded | Exception:
        self._wanted = False  # here, so that it stays where no thread can be had
        return self._policies.read()

    def _put_in_force(self, take: Callable[[], Loaded | None]) -> None:
        """An error is told once, however often it is met."""
        before = self._policies.error
        loaded = take()
        if loaded is not None:
            self._apply(loaded)
        if self._policies.error not in (None, before):
            log.error("policy", note=self._policies.error)

    def poll_prices(self) -> None:
        """Call this every second."""
        if self._prices.changed():
            self._tasks.spawn(self._read_prices(), "prices")

    async def _read_prices(self) -> None:
        before = self._prices.error
        if await in_thread(self._prices.reload):
            self._reprice(self._prices.current)
        elif self._prices.error not in (None, before):  # told once, as of policies
            log.error("prices", note=self._prices.error)
