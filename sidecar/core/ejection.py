"""Which arms of a route are not offered now, because the breaker of their upstream and model is open.

It is Envoy's outlier ejection with a route in the place of a cluster, and arms in the place of hosts. An arm is not offered
while its breaker does not offer itself, but

  * never the last: where no other arm is left that is established (the baseline, and arms that completed their rollout),
    the established ones stay. Traffic of an arm that fails is not sent to one that was not tried yet, and an app that
    would have called the provider directly gets the provider's own answer, not one of ours;
  * at most `max_ejected` of the route's arms, and always one (Envoy: max_ejection_percent, always_eject_one_host): when
    nearly everything fails the fault is likely here or in between, and the arms that are left could not carry the rest.
    Those that have been open for longest are out.

The canary of a rollout under way keeps its share all the same (`core.route`): its rollout takes it out for good.

Calls that carry an arm's state are not asked here: their state is where it is. A conversation whose arm is not offered gets
another one, and keeps it.

What it does not know: why a breaker is open. It has no state of its own.
"""

from collections.abc import Collection, Mapping

from sidecar.core.breaker import Breaker, State
from sidecar.core.guard import Guard, Guards
from sidecar.core.policy import Route, Upstream


class Ejection:
    """The arms of one route, and the breakers behind them."""

    def __init__(self, route: Route, upstreams: Mapping[str, Upstream], guards: Guards) -> None:
        self.guards = guards
        self._behind: dict[str, tuple[Guard, Breaker]] = {}
        for arm in route.all_arms:
            spec = upstreams.get(arm.upstream)
            if spec is not None:
                guard = guards.of(spec)
                self._behind[arm.id] = guard, guard.own(arm.model)
        self._most = max(1, int(guards.spec.breaker.max_ejected * len(route.all_arms)))

    def offered(self, eligible: tuple[str, ...], established: Collection[str]) -> tuple[str, ...]:
        """The eligible arms without those that are out; at least one of the `established` that are eligible stays."""
        shut = [arm for arm in eligible if not self._offers(arm)]
        if not shut:
            return eligible
        standing = {arm for arm in eligible if arm in established}
        out = set(sorted(shut, key=self._since)[: self._most])
        if standing <= out:
            out -= standing
        return tuple(arm for arm in eligible if arm not in out) if standing else eligible

    def state_of(self, arm: str) -> State:
        """The state of the breaker behind an arm."""
        behind = self._behind.get(arm)
        return "closed" if behind is None else behind[1].state

    def may_retry(self, arm: str) -> bool:
        """Whether a call that failed elsewhere may be tried with this arm now; one that may not is counted."""
        behind = self._behind.get(arm)
        if behind is None:
            return True
        guard, breaker = behind
        if breaker.offers and guard.budget.allows:
            return True
        guard.budget.denied += 1
        return False

    def _offers(self, arm: str) -> bool:
        behind = self._behind.get(arm)
        return behind is None or behind[1].offers

    def _since(self, arm: str) -> float:
        return self._behind[arm][1].since
