"""What a review needs to know of the cluster: whether it has native sidecars, and how many pods an owner wants.

No pod waits long for it: an answer that is not there within the budget is none, and the injection goes on without.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sidecar.clock import monotonic
from sidecar.inject.cluster import Cluster, ClusterError
from sidecar.inject.identity import Owner
from sidecar.tasks import Tasks

BUDGET_S: Final = 0.3  # of the five seconds that the API server waits for the whole review
_FRESH_S: Final = 10.0  # the pods of one rollout come within seconds, and mean one question
_MOST: Final = 2000  # owners remembered, and asked about at once


@dataclass(slots=True)
class _Known:
    number: int | None
    until: float


class Lookups:
    """Answers from memory where it can. `version_known` is false until the API server has told its version once."""

    def __init__(self, cluster: Cluster | None, tasks: Tasks, clock: Callable[[], float] = monotonic) -> None:
        """Without a cluster nothing is known."""
        self.native = False  # a plain container works in every version
        self.version_known = self.asked = cluster is None
        self._cluster, self._tasks, self._clock = cluster, tasks, clock
        self._known: dict[Owner, _Known] = {}
        self._asking: dict[Owner, tuple[asyncio.Future[int | None], float]] = {}

    async def learn_version(self) -> None:
        """Asks for the version. Raises ClusterError; what was known before stays."""
        try:
            if self._cluster is not None:
                self.native = await self._cluster.has_native()
                self.version_known = True
        finally:
            self.asked = True

    async def replicas(self, owner: Owner | None) -> int | None:
        """How many pods `owner` wants, after at most BUDGET_S; None when nobody could say in time."""
        if owner is None or self._cluster is None:
            return None
        now = self._clock()
        known = self._known.get(owner)
        if known is not None and now < known.until:
            return known.number
        asking = self._asking.get(owner)
        if asking is None:
            if len(self._asking) >= _MOST:
                return None
            asking = (asyncio.get_running_loop().create_future(), now)
            self._asking[owner] = asking
            self._tasks.spawn(self._ask(self._cluster, owner, asking[0]), "owner")
        rest_s = asking[1] + BUDGET_S - now  # who comes late to a slow question does not wait for it again
        if rest_s > 0:
            await asyncio.wait({asking[0]}, timeout=rest_s)
        if asking[0].done():
            return asking[0].result()
        return None if known is None else known.number

    async def _ask(self, cluster: Cluster, owner: Owner, answer: "asyncio.Future[int | None]") -> None:
        known = self._known.get(owner)
        number = None if known is None else known.number
        try:
            number = await cluster.replicas(owner)
        except ClusterError:
            pass  # counted by the cluster's client; what was known, or nothing, has to do
        finally:
            del self._asking[owner]
            self._known.pop(owner, None)
            while len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            self._known[owner] = _Known(number, self._clock() + _FRESH_S)
            if not answer.done():
                answer.set_result(number)
