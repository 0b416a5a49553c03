"""One route's state: the choice of an arm for one request, in the order that DESIGN 4 ("Which arm") gives.

    (1) rules (done by the engine: `allowed`)   (2) dialect, pins   (3) thresholds, budget   (4) the conversation's arm
    (5) the canary, by hash alone   (6) the selector over the arms already rolled out   (7) the baseline (canary:
    stable arm)

Modes: `canary` and `optimize` choose. `observe` (and for now `shadow` and `ab`) forward what the app asked for to the
baseline's upstream. An arm whose upstream speaks another dialect than the request is not eligible.

Propensity is the probability of the assignment when it was made: step / 100 for the canary, (1 - step / 100) x
selector for the rest, 1 where nothing was drawn. Its unit is the conversation when the assignment is kept under a
key, else the request. A decision carries `rollout_id` only when it belongs to the rollout's comparison: canary by
hash, or concurrent control by hash; conversations that were control before a step took their hash in, pins,
thresholds, budgets and fallbacks do not count.

What it does not know: breakers (the shell's connection state reaches it as outcomes), prompts, other pods.
"""

from collections.abc import Callable
from hashlib import blake2b

import numpy as np
from msgspec.structs import replace

from sidecar.core.budget import Ledger
from sidecar.core.cost import RateCard
from sidecar.core.policy import Arm, Policy, Route, Upstream
from sidecar.core.rollout import Phase
from sidecar.core.selector import Selector
from sidecar.core.spend import ArmSpend, Spend
from sidecar.core.staging import Staging, arm_digest
from sidecar.core.sticky import Binding, HeavyKeys, Sticky
from sidecar.core.thresholds import ThresholdSet
from sidecar.core.types import SELECTABLE, Decision, Event, Facts, Reason, Refusal, Unit

PriceOf = Callable[[Upstream, str], RateCard | None]
MASK = 2**64 - 1
DENIED_BUDGET = Refusal(429, "budget", "the budget of this route is used up; it is renewed with the UTC day or month")


class RouteState:
    """One route of the policy in force, with everything learnt about it."""

    def __init__(self, policy: Policy, route: Route, sticky: Sticky, price_of: PriceOf, now: float) -> None:
        self.route = route
        self.version = policy.version
        self.chooses = route.mode in ("canary", "optimize")
        self.upstreams = policy.upstreams
        self.price_of = price_of
        self.sticky = sticky
        self.salt = int.from_bytes(blake2b(route.name.encode(), digest_size=8).digest(), "big")
        self.arms: dict[str, Arm] = {arm.id: arm for arm in route.all_arms}
        self.owners = {arm: f"{route.name}/{arm}" for arm in self.arms}
        self.selector = Selector(tuple(self.arms), route.objective)
        self.spend = Spend(reserving=route.budget is not None)
        self.spend.arms = {arm: ArmSpend() for arm in self.arms}
        self.ledger = Ledger(now, route.budget)
        self.heavy = HeavyKeys()
        self.staging = Staging(route, self.unbind)
        self.thresholds = ThresholdSet(route)
        self.settled = 0
        self.reference_nusd: float | None = None  # expected cost of a call on the baseline
        self._capable: dict[str, tuple[str, ...]] = {}
        for dialect in ("openai", "anthropic", "gemini"):
            self._capable[dialect] = tuple(arm.id for arm in route.all_arms if self._speaks(arm.upstream, dialect))
        self._bindings: dict[str, Binding] = {}  # the newest of each arm
        self._as_asked: dict[tuple[str | None, str, bool], Decision] = {}
        self.reprice()

    def matches(self, facts: Facts) -> bool:
        """Whether this route serves the request: every filled field of its match agrees."""
        match = self.route.match
        models = match.models
        if models and facts.model not in models and not any(_fits(pattern, facts.model) for pattern in models):
            return False
        if match.paths and not any(_fits(pattern, facts.path) for pattern in match.paths):
            return False
        return not match.tags or all(facts.tags.get(name) == value for name, value in match.tags.items())

    @property
    def varies(self) -> bool:
        """Whether equal (model, endpoint, dialect) may be decided differently from one request to the next."""
        return self.chooses or self.route.budget is not None

    def candidates(self, facts: Facts) -> tuple[Arm, ...]:
        """The arms that rules are asked about: all that may serve, or the one that was asked for."""
        if self._may_choose(facts) and self._capable[facts.dialect]:
            return tuple(self.arms[arm] for arm in self._capable[facts.dialect])
        asked = self.as_asked(facts).arm
        return (unknown_arm(facts) if asked is None else self.arms[asked],)

    # ---- choosing

    def decide(
        self, facts: Facts, now: float, rng: np.random.Generator, allowed: tuple[str, ...] | None = None
    ) -> Decision:
        """The decision for one request of this route; `allowed` are the arms that rules left, None for all."""
        if not self._may_choose(facts):
            return self._admit(self.as_asked(facts), facts, now, ())
        eligible = self._capable[facts.dialect]
        if allowed is not None:
            eligible = tuple(arm for arm in eligible if arm in allowed)
        if not eligible:
            return self._admit(replace(self.as_asked(facts), reason="fail-open"), facts, now, ())
        decision = self._forced(facts, eligible) or self._assigned(facts, eligible, now, rng)
        return self._admit(decision, facts, now, decision.eligible)

    def _may_choose(self, facts: Facts) -> bool:
        """A body whose model is not known cannot be rewritten, so only what was asked for can serve it."""
        return self.chooses and not facts.off and facts.model is not None and facts.endpoint in SELECTABLE

    def as_asked(self, facts: Facts) -> Decision:
        """What the app asked for, at the baseline's upstream; virtual names and fitting arms get their own names
        (cached)."""
        key = (facts.model, facts.dialect, facts.endpoint in SELECTABLE)
        found = self._as_asked.get(key)
        if found is None:
            if len(self._as_asked) >= 1024:  # model names come from requests: the cache is bounded
                self._as_asked.clear()
            found = self._as_asked[key] = self._plain(facts)
        return found

    def fail_open(self, facts: Facts) -> Decision:
        """As asked, from the policy's text alone."""
        return replace(self._plain(facts), reason="fail-open", fallbacks=())

    def _plain(self, facts: Facts) -> Decision:
        base = self.route.baseline
        speaks = self._speaks(base.upstream, facts.dialect)
        upstream = base.upstream if speaks else None
        if facts.endpoint in SELECTABLE and facts.model in self.route.virtual and speaks:
            return self._serve(base, "baseline", 1.0)
        same = (
            arm.id
            for arm in self.route.all_arms
            if speaks and arm.model == facts.model and arm.upstream == base.upstream
        )
        return Decision(
            route=self.route.name,
            mode=self.route.mode,
            arm=next(same, None) if facts.endpoint in SELECTABLE else None,
            upstream=upstream,
            model=None,
            reason="passthrough",
            propensity=1.0,
            policy_version=self.version,
        )

    def _forced(self, facts: Facts, eligible: tuple[str, ...]) -> Decision | None:
        """Pins and threshold actions: where nothing is drawn and no binding is made."""
        if facts.pinned is not None and facts.pinned in eligible:
            return self._pinned(facts.pinned, eligible)
        if facts.stateful or facts.pinned is not None:
            bound = self.sticky.get(facts.key ^ self.salt) if facts.key else None
            arm = bound.arm if bound is not None and bound.arm in eligible else self._fixed(eligible)
            return self._pinned(arm, eligible)
        diverted = self.diverted_to()
        if diverted is not None and diverted in eligible:
            return self._serve(self.arms[diverted], "threshold", 1.0, eligible)
        return None

    def _pinned(self, arm: str, eligible: tuple[str, ...]) -> Decision:
        """Only arms at the same upstream can find the state: no fallback and no budget moves the call to another."""
        home = self.arms[arm].upstream
        same = tuple(one for one in eligible if self.arms[one].upstream == home)
        return self._serve(self.arms[arm], "pinned", 1.0, same)

    def diverted_to(self) -> str | None:
        """The arm that thresholds send everything to; never one that was taken out on evidence."""
        arm = self.thresholds.active_route_to()
        return None if arm is None or self._is_out(arm) else arm

    def _is_out(self, arm: str) -> bool:
        rollout = self.staging.rollouts.get(arm)
        return rollout is not None and rollout.phase is Phase.ROLLED_BACK

    def _assigned(self, facts: Facts, eligible: tuple[str, ...], now: float, rng: np.random.Generator) -> Decision:
        """Steps 4 to 7: the conversation's arm, the canary, the selector, the baseline."""
        unit = self._unit(facts)
        staging = self.staging
        if unit != "request":
            bound = self.sticky.get(facts.key ^ self.salt)
            if bound is not None and bound.arm in eligible:
                return self._kept(bound, eligible, unit)
        step: int | None = None
        reason: Reason
        if staging.active is not None and staging.arm in eligible and self._contested(eligible):
            step = staging.active.step
            if staging.active.includes(facts.draw if unit == "request" else facts.key):
                arm, reason, propensity = staging.arm, "canary", staging.share
            else:
                arm, reason, propensity = self._established(facts, eligible, now, rng)
                propensity *= 1.0 - staging.share
        else:
            arm, reason, propensity = self._established(facts, eligible, now, rng)
        if unit != "request":
            self.sticky.bind(facts.key ^ self.salt, self._binding(arm, propensity, step))
        return self._serve(self.arms[arm], reason, propensity, eligible, unit, step)

    def _binding(self, arm: str, propensity: float, step: int | None) -> Binding:
        """A new conversation's binding: the arm's last one where nothing has changed since, thousands share it."""
        owner, tag = self.owners[arm], "" if step is None else self.staging.tag
        generation, last = self.sticky.generation(owner), self._bindings.get(arm)
        if (
            last is None
            or last.propensity != propensity
            or (last.generation, last.tag, last.step) != (generation, tag, step)
        ):
            last = self._bindings[arm] = Binding(owner, arm, propensity, generation, tag, step)
        return last

    def _contested(self, eligible: tuple[str, ...]) -> bool:
        """Whether an established arm may serve too: without one nothing is drawn, the canary serves by necessity."""
        return len(eligible) == len(self.arms) or any(arm in eligible for arm in self.staging.pool)

    def _kept(self, bound: Binding, eligible: tuple[str, ...], unit: Unit) -> Decision:
        """The conversation's arm, counted in the rollout that assigned it with the step of then, if that still runs."""
        step = bound.step if bound.tag == self.staging.tag else None
        return self._serve(self.arms[bound.arm], "sticky", bound.propensity, eligible, unit, step)

    def _established(
        self, facts: Facts, eligible: tuple[str, ...], now: float, rng: np.random.Generator
    ) -> tuple[str, Reason, float]:
        """Arm, reason and probability among the arms already rolled out."""
        if self.route.mode == "optimize":
            pool = self.staging.pool
            if len(eligible) < len(self.arms):
                pool = tuple(arm for arm in pool if arm in eligible)
            if len(pool) > 1:
                pick = self.selector.choose(pool, facts, rng, self.ledger.balance())
                return pick.arm, "sampled", pick.propensity
            if pool:
                return pool[0], "baseline" if pool[0] == self.route.baseline.id else "policy", 1.0
        arm = self._fixed(eligible)
        return arm, "baseline" if arm == self.staging.stable else "policy", 1.0

    def _fixed(self, eligible: tuple[str, ...]) -> str:
        """The arm of those who are not chosen for: stable arm, else baseline, else what rules and dialect left."""
        for arm in (self.staging.stable, *self.staging.pool):
            if arm in eligible:
                return arm
        return next((arm for arm in eligible if not self._is_out(arm)), eligible[0])

    def _unit(self, facts: Facts) -> Unit:
        sticky = self.route.sticky
        if sticky == "request" or not facts.key:
            return "request"
        if facts.key_source == "session":
            return "session"
        if sticky == "session" or self.heavy.observe(facts.key, facts.input_bytes):
            return "request"
        return "conversation"

    def _serve(
        self,
        arm: Arm,
        reason: Reason,
        propensity: float,
        eligible: tuple[str, ...] = (),
        unit: Unit = "request",
        step: int | None = None,
    ) -> Decision:
        fallback, active = self.route.fallback, self.staging.active
        return Decision(
            route=self.route.name,
            mode=self.route.mode,
            arm=arm.id,
            upstream=arm.upstream,
            model=arm.model,
            reason=reason,
            propensity=propensity,
            unit=unit,
            eligible=eligible,
            params=arm.params,
            rollout_id=None if step is None or active is None else active.id,
            rollout_step=step,
            policy_version=self.version,
            fallbacks=()
            if fallback is None
            else tuple(one for one in fallback.arms if one != arm.id and one in eligible)[: fallback.max],
        )

    # ---- budget

    def _admit(self, decision: Decision, facts: Facts, now: float, eligible: tuple[str, ...]) -> Decision:
        """Reserves what the decision will cost; over a ceiling the cheapest arm is tried, then the request is
        refused."""
        budget = self.route.budget
        if budget is None:
            return decision
        estimate = self._estimate(decision.arm, facts)
        if not self.ledger.fits(estimate, now):
            left = () if budget.on_exceeded == "deny" else tuple(arm for arm in eligible if not self._is_out(arm))
            if not left:
                return self.refuse(DENIED_BUDGET, "budget")
            arm = min(left, key=lambda one: self._estimate(one, facts))
            estimate = self._estimate(arm, facts)
            if not self.ledger.fits(estimate, now):
                return self.refuse(DENIED_BUDGET, "budget")
            decision = self._serve(self.arms[arm], "budget", 1.0, eligible)
        self.ledger.reserve(estimate, now)
        return replace(decision, reserved_nusd=estimate) if estimate else decision

    def _estimate(self, arm: str | None, facts: Facts) -> int:
        spend = self.spend.arms[arm if arm is not None else self.route.baseline.id]
        return spend.reserve_nusd(facts.input_bytes, facts.max_tokens)

    def refuse(self, refusal: Refusal, reason: Reason) -> Decision:
        """The decision to send nothing; `refusal` says what the app is told, `reason` what refused."""
        return Decision(
            route=self.route.name,
            mode=self.route.mode,
            arm=None,
            upstream=None,
            model=None,
            reason=reason,
            propensity=1.0,
            policy_version=self.version,
            refusal=refusal,
        )

    def fallback(self, facts: Facts, decision: Decision, trigger: str) -> Decision | None:
        """The next arm after a failure before the first byte, as the policy's `fallback` lists; None when it lists
        none.

        It keeps the reservation of the first decision. It belongs to no rollout: it was not assigned by hash.
        """
        spec = self.route.fallback
        if spec is None or not _listed(trigger, spec.on):
            return None
        left = [arm for arm in decision.fallbacks if arm in self._capable[facts.dialect]]
        if not left:
            return None
        made = self._serve(self.arms[left[0]], "fallback", decision.propensity, decision.eligible, decision.unit)
        return replace(made, fallbacks=tuple(left[1:]), reserved_nusd=decision.reserved_nusd)

    # ---- life

    def begin(self, before: "RouteState | None", now: float) -> list[Event]:
        """Takes over what the last policy's route learnt about arms that stay, and starts the rollout of a new arm."""
        if before is not None:
            old = {arm.id: arm_digest(arm) for arm in before.route.all_arms}
            same = [arm for arm in self.arms if old.get(arm) == arm_digest(self.arms[arm])]
            self.selector.adopt(before.selector, same)
            for arm in same:
                self.spend.arms[arm] = before.spend.arms[arm]
            for arm in (self.arms.keys() & old.keys()) - set(same):
                self.unbind(arm)
            for arm in old.keys() - self.arms.keys():
                before.unbind(arm)
            totals = before.spend
            self.spend.calls, self.spend.input_tokens = totals.calls, totals.input_tokens
            self.spend.output_tokens = totals.output_tokens
            before.ledger.obey(self.route.budget)
            self.ledger, self.heavy = before.ledger, before.heavy
            if before.route.thresholds == self.route.thresholds:
                self.thresholds = before.thresholds
            self.reprice()
        labels = {arm: belief.samples for arm, belief in self.selector.beliefs.items()}
        return self.staging.begin(None if before is None else before.staging, labels, now)

    def forget(self) -> None:
        """The route is gone: its conversations are free."""
        for arm in self.arms:
            self.unbind(arm)

    def unbind(self, arm: str) -> None:
        self.sticky.unbind(self.owners[arm])

    def tick(self, now: float) -> list[Event]:
        self.ledger.roll(now)
        self.reprice()
        return [*self.obey(self.thresholds.tick(now), now), *self.staging.tick(now)]

    def obey(self, events: list[Event], now: float) -> list[Event]:
        """What the thresholds said, and the rollbacks that they order: of their arm, else of the canary under way.

        `route_to` needs no order (it is read for every request); `adjust` and `log` only tell.
        """
        orders: list[Event] = []
        for event in events:
            if event.kind != "threshold.breached" or event.detail.get("action") != "rollback":
                continue
            arm = event.arm or self.staging.arm
            if arm in self.staging.rollouts and self.staging.may_roll_back(arm):
                orders += self.staging.rollback(now, event.message, arm)
        return [*events, *orders]

    def shares(self) -> dict[str, float]:
        """Each arm's part of new assignments as things stand, for streams; pins and filters aside."""
        staging, shares = self.staging, dict.fromkeys(self.arms, 0.0)
        if not self.chooses:
            return shares
        pool = staging.pool if self.route.mode == "optimize" else (staging.stable,)
        vector = self.selector.propensities(pool).tolist()
        for arm, part in zip(pool, vector, strict=True):
            shares[arm] = part * (1.0 - staging.share)
        if staging.active is not None:
            shares[staging.arm] = staging.share
        return shares

    # ---- prices

    def reprice(self) -> None:
        """Takes the prices of now, and what they mean for the selector."""
        for name, spend in self.spend.arms.items():
            upstream = self.upstreams.get(self.arms[name].upstream)
            spend.price = None if upstream is None else self.price_of(upstream, self.arms[name].model)
        self.rescore()

    def rescore(self) -> None:
        """Gives the selector the expected costs of now."""
        self.reference_nusd = self.spend.expected_nusd(self.route.baseline.id)
        self.selector.price_in([self.spend.expected_nusd(arm) for arm in self.arms])

    def refresh(self, now: float, rng: np.random.Generator, *, late: bool = False) -> None:
        """Digests what was learnt, where enough is new, or anything is and it is `late`; see `Selector.refresh`."""
        if self.route.mode == "optimize" and (self.selector.due or (late and self.selector.model.waiting)):
            self.selector.refresh(rng, self.ledger.allowance(now))

    def _speaks(self, upstream: str, dialect: str) -> bool:
        found = self.upstreams.get(upstream)
        return found is not None and found.dialect == dialect


def unknown_arm(facts: Facts) -> Arm:
    """What rules may know of a model that is no arm of the policy: its name."""
    return Arm(id="", upstream="", model=facts.model or "")


def _fits(pattern: str, text: str | None) -> bool:
    if text is None:
        return pattern == "*"
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def _listed(trigger: str, on: tuple[str, ...]) -> bool:
    """Whether `trigger` ("connect", "timeout" or a status code) is among the policy's conditions."""
    return trigger in on or (trigger[:1] == "5" and len(trigger) == 3 and "5xx" in on)
