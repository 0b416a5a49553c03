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

**For good.** An arm that completed its rollout and that still fails when it is tried LASTING_S or more after its breaker
opened is rolled back (`core.staging`), unless the other arms fail too: it is no hiccup any more, and each probe costs a
client an answer. (Argo Rollouts and Flagger do not look at a release once it is promoted; Envoy ejects a host again and
again.) Where other processes serve, they say so (`Guards.told`): no breaker of those that are called may be closed.

What it does not know: why a breaker is open. It has no state of its own.
"""

from collections.abc import Collection, Mapping
from typing import Final

from sidecar.core.breaker import Breaker
from sidecar.core.guard import Guard, Guards
from sidecar.core.policy import Route, Upstream

LASTING_S: Final = 180.0  # 30..3,600; shorter: an outage of minutes costs a promotion, longer: probes cost more clients
_WORST: Final = ("open", "half_open")


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

    def state_of(self, arm: str) -> str:
        """The state of the breaker behind an arm; where others serve the worst of theirs, and in how many of them."""
        behind = self._behind.get(arm)
        if behind is None:
            return "closed"
        guard, breaker = behind
        states = [one.state for one in self.guards.told.get((guard.name, breaker.model), ())]
        if not states:
            return breaker.state
        return next((f"{one} {states.count(one)}/{len(states)}" for one in _WORST if one in states), "closed")

    def lasts(self, arm: str) -> str | None:
        """Why the arm should not come back by itself; None while it may."""
        behind = self._behind.get(arm)
        if behind is None:
            return None
        guard, breaker = behind
        told = self.guards.told.get((guard.name, breaker.model), ())
        out_s = max((one.out_s for one in told), default=breaker.out_s)
        if out_s < LASTING_S or any(one.state == "closed" and one.calls for one in told):
            return None
        return f"its breaker opened, and it still failed when it was tried after {out_s:.0f} s"

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
