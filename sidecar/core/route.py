"""One route's state: the choice of an arm for one request, in the order that DESIGN 4 ("Which arm") gives.

    (1) rules (done by the engine: `allowed`)   (2) dialect, pins   (3) thresholds, budget   (4) the conversation's arm
    (5) the canary, by hash alone   (6) the selector over the arms already rolled out   (7) the baseline (canary:
    stable arm)

Modes: `canary` and `optimize` choose, `ab` compares: its experiment (`core.trial`) takes the place of (4) to (7).
`observe` and `shadow` forward what the app asked for to the baseline's upstream. An arm whose upstream speaks another
dialect than the request is not eligible.

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
from msgspec import Struct
from msgspec.structs import replace

from sidecar.core.budget import Ledger
from sidecar.core.cost import RateCard
from sidecar.core.match import listed, matches, unknown_arm
from sidecar.core.policy import Arm, Policy, Route, Upstream
from sidecar.core.recent import Recent
from sidecar.core.rollout import Phase
from sidecar.core.selector import REFRESH, Selector
from sidecar.core.spend import ArmSpend, Spend
from sidecar.core.staging import Staging, arm_digest
from sidecar.core.sticky import Binding, HeavyKeys, Sticky
from sidecar.core.thresholds import ThresholdSet
from sidecar.core.trial import carry_over, trial_of
from sidecar.core.types import SELECTABLE, Decision, Drawn, Event, Facts, Reason, Refusal, Unit
from sidecar.core.watch import Watch

PriceOf = Callable[[Upstream, str], RateCard | None]
MASK = 2**64 - 1
WARM = 8_192  # 1e3..1e5 conversations whose cache is known; fewer forget, more cost 200 bytes each
DENIED_BUDGET = Refusal(
    429, "budget", "the budget of this route is used up; it is renewed with the UTC day or month or its window"
)


class Chosen(Struct, frozen=True, gc=False):
    """An arm among those already rolled out, why, and with what probability; `drawn` where the selector drew it."""

    arm: str
    reason: Reason
    propensity: float = 1.0
    drawn: Drawn | None = None


class RouteState:
    """One route of the policy in force, with everything learnt about it."""

    def __init__(self, policy: Policy, route: Route, sticky: Sticky, price_of: PriceOf, now: float) -> None:
        self.route = route
        self.version = policy.version
        self.upstreams = policy.upstreams
        self.price_of = price_of
        self.sticky = sticky
        self.salt = int.from_bytes(blake2b(route.name.encode(), digest_size=8).digest(), "big")
        self.trial = trial_of(route, sticky, self.salt)
        self.chooses = route.mode in ("canary", "optimize") or self.trial is not None
        self.arms: dict[str, Arm] = {arm.id: arm for arm in route.all_arms}
        self.owners = {arm: f"{route.name}/{arm}" for arm in self.arms}
        self.selector = Selector(tuple(self.arms), route.objective)
        for arm in route.all_arms:
            if arm.prior is not None:
                self.selector.expect(arm.id, *arm.prior)
        self.spend = Spend(reserving=route.budget is not None)
        self.spend.arms = {arm: ArmSpend() for arm in self.arms}
        self.ledger = Ledger(now, route.budget)
        self.heavy = HeavyKeys()
        self.warm: Recent[int, tuple[str, int]] = Recent(WARM)  # conversation -> arm of its last call, its bytes
        self.staging = Staging(route, self.unbind)
        self.thresholds = ThresholdSet(route)
        self.watch = Watch(route, now)
        self.settled = 0
        self.reference_nusd: float | None = None  # expected cost of a call on the baseline
        self._capable: dict[str, tuple[str, ...]] = {}
        for dialect in ("openai", "anthropic", "gemini"):
            self._capable[dialect] = tuple(arm.id for arm in route.all_arms if self._speaks(arm.upstream, dialect))
        self._bindings: dict[str, Binding] = {}  # the newest of each arm
        self._as_asked: dict[tuple[str | None, str, bool], Decision] = {}
        self._vetoes: dict[str, str | None] = {}  # why rules let no threshold send the traffic to an arm
        self.reprice()

    def matches(self, facts: Facts) -> bool:
        """Whether the route serves the request: every filled field of its match agrees."""
        return matches(self.route.match, facts)

    @property
    def keyed(self) -> bool:
        """Whether conversations are to be told apart."""
        return self.route.sticky != "request" or self.route.context.cache

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
        decision = self._forced(facts, eligible) or self._assigned(facts, eligible, rng)
        return self.watch.decide(facts, self._admit(decision, facts, now, decision.eligible), now)

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
            made = self._pinned(arm, eligible)
            return made if self.trial is None else self.trial.dress(made, bound)
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
        return None if arm is None or self._is_out(arm) or self._veto(arm) is not None else arm

    def _veto(self, arm: str) -> str | None:
        """Why the rules let no threshold send the traffic to `arm`; asked once a breach, and by each policy and process."""
        permit = self.staging.permit
        if arm not in self._vetoes:
            self._vetoes[arm] = None if permit is None else permit("threshold.route_to", arm, 100)
        return self._vetoes[arm]

    def _is_out(self, arm: str) -> bool:
        rollout = self.staging.rollouts.get(arm)
        return rollout is not None and rollout.phase is Phase.ROLLED_BACK

    def _assigned(self, facts: Facts, eligible: tuple[str, ...], rng: np.random.Generator) -> Decision:
        """Steps 4 to 7: the conversation's arm, the canary, the selector, the baseline."""
        unit = self._unit(facts)
        if self.trial is not None:
            found = self.trial.assign(facts, unit, eligible)
            if found is None:
                left = self._established(facts, eligible, rng)
                return self._serve(self.arms[left.arm], left.reason, left.propensity, eligible)
            return self.trial.dress(
                self._serve(self.arms[found[0].arm], found[1], found[0].propensity, eligible, unit), found[0]
            )
        staging = self.staging
        if unit != "request":
            bound = self.sticky.get(facts.key ^ self.salt)  # an experiment's ends with it: no rollback would free it
            if bound is not None and bound.arm in eligible and bound.owner == self.owners[bound.arm]:
                return self._kept(bound, eligible, unit)
        active = staging.active if self._contested(eligible) else None
        step = None if active is None else active.step
        if active is not None and active.includes(facts.draw if unit == "request" else facts.key):
            one = Chosen(staging.arm, "canary", staging.share)
        else:
            one = self._established(facts, eligible, rng)
        propensity = (
            one.propensity if step is None or one.reason == "canary" else one.propensity * (1.0 - staging.share)
        )
        if unit != "request":
            self.sticky.bind(facts.key ^ self.salt, self._binding(one.arm, propensity, step))
        elif self.route.context.cache and facts.key:
            self.warm.put(facts.key, (one.arm, facts.input_bytes))
        made = self._serve(self.arms[one.arm], one.reason, propensity, eligible, unit, step)
        return made if one.drawn is None else replace(made, drawn=one.drawn)

    def _binding(self, arm: str, propensity: float, step: int | None) -> Binding:
        """A new conversation's binding: the arm's last one where nothing has changed since, thousands share it."""
        owner, tag = self.owners[arm], "" if step is None else self.staging.tag
        generation, last = self.sticky.generation(owner), self._bindings.get(arm)
        made = (propensity, generation, tag, step)
        if last is None or (last.propensity, last.generation, last.tag, last.step) != made:
            last = self._bindings[arm] = Binding(owner, arm, propensity, generation, tag, step)
        return last

    def _contested(self, eligible: tuple[str, ...]) -> bool:
        """Whether the canary and an established arm may serve: without one of them nothing is drawn."""
        if len(eligible) == len(self.arms):
            return True
        return self.staging.arm in eligible and any(arm in eligible for arm in self.staging.pool)

    def _kept(self, bound: Binding, eligible: tuple[str, ...], unit: Unit) -> Decision:
        """The conversation's arm, counted in the rollout that assigned it with the step of then, if that still runs."""
        step = bound.step if bound.tag == self.staging.tag else None
        return self._serve(self.arms[bound.arm], "sticky", bound.propensity, eligible, unit, step)

    def _established(self, facts: Facts, eligible: tuple[str, ...], rng: np.random.Generator) -> Chosen:
        """One of the arms already rolled out."""
        if self.route.mode == "optimize":
            pool = self.staging.pool
            if len(eligible) < len(self.arms):
                pool = tuple(arm for arm in pool if arm in eligible)
            if len(pool) > 1:
                selector = self.selector
                pick = selector.choose(pool, facts, rng, self.ledger.balance(), self._warm(facts))
                drawn = Drawn(pick.arms, pick.worth, selector.price, selector.money)
                return Chosen(pick.arm, "sampled", pick.propensity, drawn)
            if pool:
                return Chosen(pool[0], "baseline" if pool[0] == self.route.baseline.id else "policy")
        arm = self._fixed(eligible)
        return Chosen(arm, "baseline" if arm == self.staging.stable else "policy")

    def _warm(self, facts: Facts) -> tuple[str, float] | None:
        """The arm that has the beginning of this conversation in its cache, and what that saves, in nano-dollars."""
        if not (self.route.context.cache and facts.key):
            return None
        found = self.warm.pop(facts.key)
        if found is None or found[0] not in self.arms:
            return None
        return found[0], self.spend.arms[found[0]].cached_nusd(min(found[1], facts.input_bytes))

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
        if spec is None or not listed(trigger, spec.on):
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
            self.watch.adopt(before.watch, same, now)
            self.reprice()
        labels = {arm: belief.samples for arm, belief in self.selector.beliefs.items()}
        self.trial, left = carry_over(None if before is None else before.trial, self.trial)
        return [*left, *self.staging.begin(None if before is None else before.staging, labels, now)]

    def forget(self) -> None:
        """The route is gone: its conversations are free."""
        for arm in self.arms:
            self.unbind(arm)
        if self.trial is not None:
            self.trial.free()

    def unbind(self, arm: str) -> None:
        self.sticky.unbind(self.owners[arm])

    def tick(self, now: float) -> list[Event]:
        self.ledger.roll(now)
        self.reprice()
        events = [*self.obey(self.thresholds.tick(now), now), *self.staging.tick(now), *self.watch.tick(now)]
        return events if self.trial is None else events + self.trial.experiment.tick(now)

    def obey(self, events: list[Event], now: float) -> list[Event]:
        """What the thresholds said, and the rollbacks that they order: of their arm, else of the canary under way.

        `route_to` needs no order (it is read for every request), but rules may deny it; `log` only tells; `adjust` moves
        a tuned parameter.
        """
        orders: list[Event] = []
        for event in events:
            if event.kind == "threshold.breached":
                orders += self.watch.obey(event, now)
            if event.kind == "threshold.breached" and event.detail.get("action") == "route_to":
                orders += self._ask_rules(event)
            if event.kind != "threshold.breached" or event.detail.get("action") != "rollback":
                continue
            arm = event.arm or self.staging.arm
            if arm in self.staging.rollouts and self.staging.may_roll_back(arm):
                orders += self.staging.rollback(now, event.message, arm)
        return [*events, *orders]

    def _ask_rules(self, event: Event) -> list[Event]:
        """Whether rules let this breach send the traffic to its arm; what there is to tell when they do not."""
        arm = event.arm or ""
        self._vetoes.pop(arm, None)
        why = self._veto(arm)
        if why is None:
            return []
        detail = {"what": "threshold.route_to", "rationale": event.message, "trigger": "threshold"}
        text = f"{event.message}; denied: {why}"
        return [Event(kind="change.denied", severity="medium", route=event.route, arm=arm, message=text, detail=detail)]

    def shares(self) -> dict[str, float]:
        """Each arm's part of new assignments as things stand, for streams; pins and filters aside."""
        staging, shares = self.staging, dict.fromkeys(self.arms, 0.0)
        if self.trial is not None:
            for choice, part in zip(self.trial.experiment.choices, self.trial.experiment.shares, strict=True):
                shares[choice.arm.id] += part
            return shares
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
        if self.route.mode != "optimize":  # nothing is drawn, and no request digests a thousand scores at once
            self.selector.digest(REFRESH)
        elif self.selector.due or (late and self.selector.model.waiting):
            self.selector.refresh(rng, self.ledger.allowance(now))

    def _speaks(self, upstream: str, dialect: str) -> bool:
        found = self.upstreams.get(upstream)
        return found is not None and found.dialect == dialect
