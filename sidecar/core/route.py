"""One route's state: the choice of an arm for one request, in this order.

    (1) rules (done by the engine: `allowed`)   (2) dialect, pins   (3) breaker, thresholds, budget
    (4) the conversation's arm   (5) the canary, by hash alone   (6) the selector over the arms already rolled out
    (7) the baseline (canary: stable arm)

Modes: `canary` and `optimize` choose, `ab` compares: its experiment (`core.trial`) takes the place of (4) to (7).
`observe` and `shadow` forward what the app asked for to the baseline's upstream. An arm whose upstream speaks another
dialect than the request is not eligible.

Propensity is the probability of the assignment when it was made: step / 100 for the canary, (1 - step / 100) x
selector for the rest, 1 where nothing was drawn. Its unit is the conversation when the assignment is kept under a
key, else the request. A decision carries `rollout_id` only when it belongs to the rollout's comparison: canary by
hash, or concurrent control by hash; conversations that were control before a step took their hash in, pins,
thresholds, budgets and fallbacks do not count.

What it does not know: connections, prompts, other pods.
"""

from collections.abc import Callable

import numpy as np
from msgspec.structs import replace

from sidecar.core.admission import Admission
from sidecar.core.budget import Ledger
from sidecar.core.cost import RateCard
from sidecar.core.diversion import Diversion
from sidecar.core.ejection import Ejection
from sidecar.core.guard import Guards
from sidecar.core.match import matches, unknown_arm
from sidecar.core.policy import Arm, Policy, Route, Upstream
from sidecar.core.recent import Recent
from sidecar.core.selector import Selector
from sidecar.core.serving import Chosen, Serving
from sidecar.core.spend import ArmSpend, Spend
from sidecar.core.staging import Staging, arm_digest
from sidecar.core.sticky import Binding, HeavyKeys, Sticky, salt_of
from sidecar.core.thresholds import ThresholdSet
from sidecar.core.trial import carry_over, trial_of
from sidecar.core.types import SELECTABLE, Decision, Drawn, Event, Facts, Unit
from sidecar.core.watch import Watch

PriceOf = Callable[[Upstream, str], RateCard | None]
WARM = 8_192  # 1e3..1e5 conversations whose cache is known; fewer forget, more cost 200 bytes each
SUM_UP = 256  # 16..1,024 scores of a route that draws nothing; more are added up at once, fewer cost time
# 0..1,000 scores; fewer slow the first lessons down, more spend a millisecond on every few scores for longer
YOUNG = 256
OLD = 2_048  # 500..1e5 scores at which refreshes are PACE_S apart; fewer learn later, more cost time
PACE_S = 0.1  # 0.01..1; smaller costs a millisecond more often, larger decides by older draws


class RouteState:
    """One route of the policy in force, with everything learnt about it."""

    def __init__(
        self, policy: Policy, route: Route, sticky: Sticky, guards: Guards, price_of: PriceOf, now: float
    ) -> None:
        self.route = route
        self.version = policy.version
        self.upstreams = policy.upstreams
        self.price_of = price_of
        self.sticky = sticky
        self.salt = salt_of(route.name)
        self.trial = trial_of(route, sticky, self.salt)
        self.chooses = route.mode in ("canary", "optimize") or self.trial is not None
        self.serving = Serving(policy, route)
        self.arms = self.serving.arms
        self.owners = owners = {arm: f"{route.name}/{arm}" for arm in self.arms}
        self.selector = Selector(tuple(self.arms), route.objective, chooses=route.mode == "optimize")
        for arm in route.all_arms:
            if arm.prior is not None:
                self.selector.expect(arm.id, *arm.prior)
        self.spend = Spend(reserving=route.budget is not None)
        self.spend.arms = {arm: ArmSpend() for arm in self.arms}
        self.heavy = HeavyKeys()
        self.warm: Recent[int, tuple[str, int]] = Recent(WARM)  # conversation -> arm of its last call, its bytes
        self.staging = Staging(route, lambda arm: sticky.unbind(owners[arm]))
        self.diversion = Diversion(route.name, self.staging)
        self.admission = Admission(self.serving, Ledger(now, route.budget), self.spend, self.diversion.is_out)
        self.ejection = Ejection(route, policy.upstreams, guards)
        self.thresholds = ThresholdSet(route)
        self.watch = Watch(route, now)
        self.settled = 0
        self.reference_nusd: float | None = None  # expected cost of a call on the baseline
        self._bindings: dict[str, Binding] = {}  # the newest of each arm
        self._refreshed = self._refresh_at = now  # when the selector was refreshed, and when it may be again
        self.reprice()

    def matches(self, facts: Facts) -> bool:
        """Whether the route serves the request: every filled field of its match agrees."""
        return matches(self.route.match, facts)

    @property
    def ledger(self) -> Ledger:
        """What the route spent and reserved."""
        return self.admission.ledger

    @property
    def labels(self) -> dict[str, int]:
        """How many labels beyond validators each arm has."""
        return {arm: belief.samples for arm, belief in self.selector.beliefs.items()}

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
        fitting = self.serving.fitting.arms(facts) if self._may_choose(facts) else ()
        if fitting:
            return tuple(self.arms[arm] for arm in fitting)
        asked = self.serving.as_asked(facts).arm
        return (unknown_arm(facts) if asked is None else self.arms[asked],)

    # ---- choosing

    def decide(
        self, facts: Facts, now: float, rng: np.random.Generator, allowed: tuple[str, ...] | None = None
    ) -> Decision:
        """The decision for one request of this route; `allowed` are the arms that rules left, None for all. One that raises,
        or is ended on its way, has reserved nothing."""
        ledger = self.ledger
        held = ledger.reserved_nusd, ledger.flying
        try:
            return self._decide(facts, now, rng, allowed)
        except Exception:
            ledger.reserved_nusd, ledger.flying = held
            raise

    def _decide(self, facts: Facts, now: float, rng: np.random.Generator, allowed: tuple[str, ...] | None) -> Decision:
        if not self._may_choose(facts):
            return self.admission.admit(self.serving.as_asked(facts), facts, now)
        fitting = self.serving.fitting
        usual = fitting.usual(facts)
        eligible = fitting.arms(facts) if usual is None else usual
        if allowed is not None:
            eligible = tuple(arm for arm in eligible if arm in allowed)
        if not eligible:
            opened = self.admission.admit(replace(self.serving.as_asked(facts), reason="fail-open"), facts, now)
            return fitting.note(opened, facts)
        stays = facts.stateful or facts.pinned is not None
        decision = self._at_its_state(facts, eligible) if stays else None
        shut: tuple[str, ...] = ()
        if decision is None:
            offered = self.ejection.offered(eligible, self.staging.pool) if self.ejection.guards.unwell else eligible
            decision = self._diverted(offered) if self.thresholds.diversions else None
            # a canary is judged by its rollout, on evidence that would not come in without calls
            if offered is not eligible:
                offered = tuple(arm for arm in eligible if arm in offered or arm == self.staging.arm)
                shut = tuple(arm for arm in eligible if arm not in offered)
            decision = decision or self._assigned(facts, offered, rng)
        admitted = decision
        if self.route.budget is not None:
            admitted = self.admission.admit(decision, facts, now, self._compared())
        if usual is None:
            admitted = fitting.note(admitted, facts)
        if shut:
            admitted = replace(admitted, left_out=(*admitted.left_out, *((arm, "breaker") for arm in shut)))
        return admitted if self.watch.tuner is None else self.watch.decide(facts, admitted, now)

    def _compared(self) -> tuple[str, ...]:
        """The arms of the comparison under way: an experiment's variants, or the canary and those that may be control."""
        if self.trial is not None:
            return self.trial.experiment.compared
        staging = self.staging
        if staging.active is None:
            return ()
        return (staging.arm, *(staging.pool if self.route.mode == "optimize" else (staging.stable,)))

    def _may_choose(self, facts: Facts) -> bool:
        """A body whose model is not known cannot be rewritten, so only what was asked for can serve it."""
        return self.chooses and not facts.off and facts.model is not None and facts.endpoint in SELECTABLE

    def _at_its_state(self, facts: Facts, eligible: tuple[str, ...]) -> Decision:
        """Pins: nothing is drawn and no binding is made, and no breaker moves the call."""
        if facts.pinned is not None and facts.pinned in eligible:
            return self._pinned(facts.pinned, eligible)
        bound = self.sticky.get(facts.key ^ self.salt) if facts.key else None
        arm = bound.arm if bound is not None and bound.arm in eligible else self._fixed(eligible)
        made = self._pinned(arm, eligible)
        return made if self.trial is None else self.trial.dress(made, bound)

    def _diverted(self, eligible: tuple[str, ...]) -> Decision | None:
        """Threshold actions: as pins."""
        diverted = self.diverted_to(eligible)
        return None if diverted is None else self.serving.serve(Chosen(diverted, "threshold"), eligible)

    def _pinned(self, arm: str, eligible: tuple[str, ...]) -> Decision:
        """Only arms at the same upstream can find the state: no fallback and no budget moves the call to another."""
        home = self.arms[arm].upstream
        same = tuple(one for one in eligible if self.arms[one].upstream == home)
        return self.serving.serve(Chosen(arm, "pinned"), same)

    def diverted_to(self, eligible: tuple[str, ...] | None = None) -> str | None:
        """The arm that thresholds send everything to, of `eligible` (None: of all)."""
        wanted = self.thresholds.diversions
        return self.diversion.to(wanted, eligible) if wanted else None

    def _assigned(self, facts: Facts, eligible: tuple[str, ...], rng: np.random.Generator) -> Decision:
        """Steps 4 to 7: the conversation's arm, the canary, the selector, the baseline."""
        unit = self._unit(facts)
        if self.trial is not None:
            found = self.trial.assign(facts, unit, eligible)
            if found is None:
                return self.serving.serve(self._established(facts, eligible, rng), eligible)
            drawn, reason = found
            return self.trial.dress(
                self.serving.serve(Chosen(drawn.arm, reason, drawn.propensity), eligible, unit), drawn
            )
        staging = self.staging
        if unit != "request":
            bound = self.sticky.get(facts.key ^ self.salt)  # an experiment's ends with it: no rollback would free it
            if bound is not None and bound.arm in eligible and bound.owner == self.owners[bound.arm]:
                return self._kept(bound, eligible, unit)
        active = staging.active
        if active is None or (len(eligible) < len(self.arms) and not self._contested(eligible)):
            step = None
            one = self._established(facts, eligible, rng)
        else:
            step = active.step
            if active.includes(facts.draw if unit == "request" else facts.key):
                one = Chosen(staging.arm, "canary", staging.share)
            else:
                one = self._established(facts, eligible, rng, 1.0 - staging.share)
        if unit != "request":
            self.sticky.bind(facts.key ^ self.salt, self._binding(one.arm, one.propensity, step))
        elif self.route.context.cache and facts.key:
            self.warm.put(facts.key, (one.arm, facts.input_bytes))
        return self._counted(one, eligible, unit, step)

    def _binding(self, arm: str, propensity: float, step: int | None) -> Binding:
        """A new conversation's binding: the arm's last one where nothing has changed since, thousands share it."""
        owner, tag = self.owners[arm], "" if step is None else self.staging.tag
        generation, last = self.sticky.generation(owner), self._bindings.get(arm)
        if (
            last is not None
            and last.propensity == propensity
            and last.generation == generation
            and last.step == step
            and last.tag == tag
        ):
            return last
        made = self._bindings[arm] = Binding(owner, arm, propensity, generation, tag, step)
        return made

    def _contested(self, eligible: tuple[str, ...]) -> bool:
        """Whether the canary and an established arm may serve: without one of them nothing is drawn."""
        return self.staging.arm in eligible and any(arm in eligible for arm in self.staging.pool)

    def _kept(self, bound: Binding, eligible: tuple[str, ...], unit: Unit) -> Decision:
        """The conversation's arm, counted in the rollout that assigned it with the step of then, if that still runs."""
        step = bound.step if bound.tag == self.staging.tag else None
        return self._counted(Chosen(bound.arm, "sticky", bound.propensity), eligible, unit, step)

    def _counted(self, one: Chosen, eligible: tuple[str, ...], unit: Unit, step: int | None) -> Decision:
        """The decision, as part of the rollout under way where it was assigned at a `step` of it."""
        active = self.staging.active
        rollout = (None, None) if step is None or active is None else (active.tag, step)
        return self.serving.serve(one, eligible, unit, rollout)

    def _established(
        self, facts: Facts, eligible: tuple[str, ...], rng: np.random.Generator, rest: float = 1.0
    ) -> Chosen:
        """One of the arms already rolled out, for the `rest` of the units."""
        if self.route.mode == "optimize":
            pool = self.staging.pool
            if len(eligible) < len(self.arms):
                pool = tuple(arm for arm in pool if arm in eligible)
            if len(pool) > 1:
                selector = self.selector
                pick = selector.choose(pool, facts, rng, self.ledger.balance(), self._warm(facts))
                drawn = Drawn(pick.arms, pick.worth, selector.price, selector.money)
                return Chosen(pick.arm, "sampled", pick.propensity * rest, drawn)
            if pool:
                return Chosen(pool[0], "baseline" if pool[0] == self.route.baseline.id else "policy", rest)
        arm = self._fixed(eligible)
        return Chosen(arm, "baseline" if arm == self.staging.stable else "policy", rest)

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
        if self.staging.stable in eligible:
            return self.staging.stable
        for arm in self.staging.pool:
            if arm in eligible:
                return arm
        return next((arm for arm in eligible if not self.diversion.is_out(arm)), eligible[0])

    def _unit(self, facts: Facts) -> Unit:
        sticky = self.route.sticky
        if sticky == "request" or not facts.key:
            return "request"
        if facts.key_source == "session":
            return "session"
        if sticky == "session" or self.heavy.observe(facts.key, facts.input_bytes):
            return "request"
        return "conversation"

    # ---- life

    def begin(self, before: "RouteState | None", now: float) -> list[Event]:
        """Takes over what the last policy's route learnt about arms that stay, and starts the rollout of a new arm."""
        told: list[Event] = []
        if before is not None:
            old = {arm.id: arm_digest(arm) for arm in before.route.all_arms}
            told += self.thresholds.take_over(before.thresholds, now)
            same = [arm for arm in self.arms if old.get(arm) == arm_digest(self.arms[arm])]
            self.selector.adopt(before.selector, same)
            for arm in same:
                self.spend.arms[arm] = before.spend.arms[arm]
            for arm in (self.arms.keys() & old.keys()) - set(same):
                self.unbind(arm)
                told += self.thresholds.begin(arm, now)
            for arm in old.keys() - self.arms.keys():
                before.unbind(arm)
            totals = before.spend
            self.spend.calls, self.spend.input_tokens = totals.calls, totals.input_tokens
            self.spend.output_tokens = totals.output_tokens
            before.ledger.obey(self.route.budget)
            self.admission.ledger, self.heavy = before.ledger, before.heavy
            self.watch.adopt(before.watch, same, now)
            self.reprice()
        self.trial, left = carry_over(None if before is None else before.trial, self.trial)
        begun = self.staging.begin(None if before is None else before.staging, self.labels, now)
        return [*told, *left, *self.with_breaches_ended(begun, now)]

    def forget(self) -> None:
        """The route is gone: its conversations are free."""
        for arm in self.arms:
            self.unbind(arm)
        if self.trial is not None:
            self.trial.free()

    def free(self, key: int) -> None:
        """Forgets one conversation, but for what it taught."""
        self.warm.pop(key)
        self.staging.free(key)

    def unbind(self, arm: str) -> None:
        self.sticky.unbind(self.owners[arm])

    def tick(self, now: float) -> list[Event]:
        self.ledger.roll(now)
        self.reprice()
        events = [*self.obey(self.thresholds.tick(now), now), *self.diversion.denials()]
        events += self.staging.give_up(self.ejection.lasts, now)
        events += [*self.with_breaches_ended(self.staging.tick(now), now), *self.watch.tick(now)]
        return events if self.trial is None else events + self.trial.experiment.tick(now)

    def with_breaches_ended(self, events: list[Event], now: float) -> list[Event]:
        """These events of rollouts, and those of the breaches that end for an arm whose rollout begins."""
        arms = [event.arm or "" for event in events if event.kind == "rollout.started"]
        return [*events, *(told for arm in arms for told in self.thresholds.begin(arm, now))]

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
                orders += self.diversion.ask_rules(event)
            if event.kind != "threshold.breached" or event.detail.get("action") != "rollback":
                continue
            if self.trial is not None:
                orders += self.trial.experiment.roll_back(now, event.message, event.arm)
            arm = event.arm or self.staging.arm
            if arm in self.staging.rollouts and self.staging.may_roll_back(arm):
                orders += self.staging.rollback(now, event.message, arm)
        return [*events, *orders]

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

    def refresh(self, now: float, rng: np.random.Generator, *, at_tick: bool = False) -> None:
        """Digests what was learnt, when enough is new; with `at_tick`, when anything is. See `Selector.refresh`.

        The more is known, the longer it waits until the next time, up to PACE_S: a few more scores change little.
        """
        selector = self.selector
        if self.route.mode != "optimize":  # nothing is drawn
            selector.digest(SUM_UP)
        elif not at_tick and self._refreshed <= now < self._refresh_at:
            pass
        elif selector.due or (at_tick and selector.model.waiting):
            selector.refresh(rng, self.ledger.allowance(now))
            learnt = selector.model.learnt
            self._refreshed = now
            self._refresh_at = now if learnt < YOUNG else now + min(PACE_S, learnt * PACE_S / OLD)
