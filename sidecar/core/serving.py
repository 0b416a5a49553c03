"""What a choice makes of a request: the decision with the arm's upstream, model and params, from the policy's text alone.

    serve       an arm that was chosen                   as_asked    what the app asked for, where nobody chooses
    fallback    the next arm after one that failed       refuse      nothing is sent

Which arms can serve a request is `core.fitting`'s. What the app asked for goes to the
baseline's upstream; a virtual name means the baseline, and a name that an arm there has means that arm.

What it does not know: anything learnt. It has no state but a bounded cache.
"""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from sidecar.core.fitting import Fitting, lost_at, untranslatable
from sidecar.core.match import listed
from sidecar.core.policy import Arm, Policy, Route
from sidecar.core.types import SELECTABLE, Decision, Drawn, Facts, Reason, Refusal, Unit

MAX_PLAIN: Final = 1_024  # 64..1e5 cached decisions; model names come from requests, so the cache is bounded
_UNDRAWN: Final[tuple[str | None, int | None]] = (None, None)


class Chosen(Struct, frozen=True, gc=False):
    """An arm, why, and with what probability; `drawn` where the selector drew it."""

    arm: str
    reason: Reason
    propensity: float = 1.0
    drawn: Drawn | None = None


class Serving:
    """The decisions that one route of a policy can come to."""

    def __init__(self, policy: Policy, route: Route) -> None:
        self.route, self.version = route, policy.version
        self.arms: Mapping[str, Arm] = {arm.id: arm for arm in route.all_arms}
        self.fitting = Fitting(route, policy.upstreams)
        self._as_asked: dict[tuple[str | None, str, bool], Decision] = {}
        self._served: dict[tuple[object, ...], Decision] = {}

    def serve(
        self,
        one: Chosen,
        eligible: tuple[str, ...] = (),
        unit: Unit = "request",
        rollout: tuple[str | None, int | None] = _UNDRAWN,
    ) -> Decision:
        """The chosen arm serves; `rollout` is the id and step of the comparison that the request counts in. Decisions
        without a draw are shared (cached)."""
        if one.drawn is not None:
            return self._made(one, eligible, unit, rollout)
        key = (one.arm, one.reason, one.propensity, eligible, unit, rollout)
        found = self._served.get(key)
        if found is None:
            if len(self._served) >= MAX_PLAIN:
                self._served.clear()
            found = self._served[key] = self._made(one, eligible, unit, rollout)
        return found

    def _made(
        self, one: Chosen, eligible: tuple[str, ...], unit: Unit, rollout: tuple[str | None, int | None]
    ) -> Decision:
        arm, fallback = self.arms[one.arm], self.route.fallback
        made = Decision(  # not more than 15 named arguments: beyond, the interpreter makes a dict for a call
            route=self.route.name,
            mode=self.route.mode,
            arm=one.arm,
            upstream=arm.upstream,
            model=arm.model,
            reason=one.reason,
            propensity=one.propensity,
            unit=unit,
            eligible=eligible,
            params=arm.params,
            can=arm.capabilities,
            rollout_id=rollout[0],
            rollout_step=rollout[1],
            policy_version=self.version,
            drawn=one.drawn,
        )
        if fallback is None:
            return made
        others = tuple(two for two in fallback.arms if two != one.arm and two in eligible)
        return replace(made, fallbacks=others[: fallback.max])

    def as_asked(self, facts: Facts) -> Decision:
        """What the app asked for, at the baseline's upstream; virtual names and fitting arms get their own names
        (cached)."""
        if facts.lost:
            return self._plain(facts)
        key = (facts.model, facts.dialect, facts.endpoint in SELECTABLE)
        found = self._as_asked.get(key)
        if found is None:
            if len(self._as_asked) >= MAX_PLAIN:
                self._as_asked.clear()
            found = self._as_asked[key] = self._plain(facts)
        return found

    def fail_open(self, facts: Facts) -> Decision:
        """As asked, without the cache."""
        return replace(self._plain(facts), reason="fail-open", fallbacks=())

    def refuse(self, refusal: Refusal, reason: Reason) -> Decision:
        """The decision to send nothing; `refusal` says what the app is told, `reason` what refused."""
        return replace(self._pass(None, None), reason=reason, refusal=refusal)

    def fallback(
        self, facts: Facts, decision: Decision, trigger: str, may_retry: Callable[[str], bool]
    ) -> Decision | None:
        """The next arm after a failure before the first byte, as the policy's `fallback` lists; None when it lists
        none that `may_retry` allows (it is asked of arms in their order, until one is allowed).

        It keeps the reservation of the first decision. It belongs to no rollout: it was not assigned by hash.
        """
        spec = self.route.fallback
        if spec is None or not listed(trigger, spec.on):
            return None
        fitting = self.fitting.arms(facts)
        left = [arm for arm in decision.fallbacks if arm in fitting]
        while left and not may_retry(left[0]):
            left = left[1:]
        if not left:
            return None
        made = self.serve(Chosen(left[0], "fallback", decision.propensity), decision.eligible, decision.unit)
        return replace(made, fallbacks=tuple(left[1:]), reserved_nusd=decision.reserved_nusd)

    def _plain(self, facts: Facts) -> Decision:
        base, chooses = self.route.baseline, facts.endpoint in SELECTABLE
        fits = self.fitting.serves(base.upstream, base.model, facts)
        if chooses and facts.model in self.route.virtual:
            if fits:
                return self.serve(Chosen(base.id, "baseline"))
            lost = lost_at(facts, base.upstream, base.model)
            if lost is not None:
                return self.refuse(untranslatable(lost), "policy")
        native = fits and base.upstream not in facts.lost
        named = [arm for arm in self.route.all_arms if chooses and arm.model == facts.model]
        if not native:  # what the app asks for may live where another dialect is spoken
            for arm in named:
                lost = lost_at(facts, arm.upstream, arm.model)
                if lost is not None:
                    return self._translated(arm, lost, facts)
        same = (arm.id for arm in named if native and arm.upstream == base.upstream)
        return self._pass(next(same, None), base.upstream if native else None)

    def _translated(self, arm: Arm, lost: tuple[str, ...], facts: Facts) -> Decision:
        """The arm that the app named, in another dialect than the app's; a refusal where the call cannot be said there."""
        if not self.fitting.serves(arm.upstream, arm.model, facts):
            return self.refuse(untranslatable(lost), "policy")
        return replace(self.serve(Chosen(arm.id, "passthrough")), model=None)

    def _pass(self, arm: str | None, upstream: str | None) -> Decision:
        return Decision(
            route=self.route.name,
            mode=self.route.mode,
            arm=arm,
            upstream=upstream,
            model=None,
            reason="passthrough",
            propensity=1.0,
            policy_version=self.version,
        )
