"""The engine: all decisions of one service, as synchronous verbs that return values.

    decide -> (the exchange runs) -> settle            release, when the request never went upstream
    feedback, tick, apply, rollout verbs -> events      snapshot <-> restore

Theory: everything that is learnt or bound lives in one `RouteState` per route of the policy in force, in the common
table of conversations and in the service's ledger. Every verb runs to its end without waiting, so no lock exists;
time and chance are arguments, so the same events with the same seed give the same decisions. A request takes the
first route that matches; requests that no route matches, and routes that only observe, have one shared Decision per
(model, endpoint, dialect) unless rules, budgets, paths or tags make requests differ.

Failing: rules and budgets refuse (closed). The selection has no expected error; should `decide` raise, that is our
bug, and the shell calls `fail_open`, which reads the policy and nothing else: what the app asked for, or the
baseline's model when that name is virtual. Memory is bounded: 32,768 bindings, 1,024 cached decisions per table, arms
and routes of the policy.

What it does not do: translate between dialects, watch connections, share state between pods.
"""

from collections.abc import Mapping

import numpy as np
from msgspec.structs import replace

from sidecar.core.budget import Ledger
from sidecar.core.cost import RateCard, flat_card
from sidecar.core.governance import Governance
from sidecar.core.guard import Guards
from sidecar.core.match import unknown_arm
from sidecar.core.memory import UNREADABLE, Known, Part, claim, dump, free_unit, load, pack, part_of
from sidecar.core.policy import OWN_SOURCES, Arm, Policy, Route, Upstream
from sidecar.core.route import PriceOf, RouteState
from sidecar.core.rules import Value
from sidecar.core.settle import NOTHING, Verdict, billed_nusd, learn, score
from sidecar.core.status import RouteStatus, Standing, breaches, describe, explain, standing
from sidecar.core.sticky import Sticky, salt_of
from sidecar.core.types import Clocks, Decision, Endpoint, Event, Facts, Feedback, Outcome
from sidecar.core.wants import Wants
from sidecar.errors import RolloutError

NO_ROUTE = "-"
MAX_PENDING = 256  # events that wait for the next tick; more of them say nothing new
MAX_ABSENT = 64  # routes that are gone and might return; the one that went first is forgotten
MAX_STATIC = 1_024  # cached decisions; model names come from requests, so the cache is bounded and then emptied
PASS = Decision(
    route=NO_ROUTE, mode="observe", arm=None, upstream=None, model=None, reason="passthrough", propensity=1.0
)
FAIL_OPEN = replace(PASS, reason="fail-open")


def stated_price(upstream: Upstream, _model: str) -> RateCard | None:
    """The price that the policy itself states: what an engine without a price list knows."""
    return None if upstream.price is None else flat_card(upstream.price)


class Engine:
    """The decisions of one service. See the head of this module."""

    _sticky_type: type[Sticky] = Sticky
    _known: Known | None = None  # by route: what `restore` took over last; equal parts are not read again

    def __init__(
        self,
        policy: Policy,
        rng: np.random.Generator,
        now: float,
        price_of: PriceOf = stated_price,
        guards: Guards | None = None,
    ) -> None:
        """`price_of` looks an arm's list price up; it is asked at `apply` and at every `tick`, so it should be
        cached. `guards` hears from the shell how calls to each upstream go."""
        self.guards = Guards() if guards is None else guards
        self._rng = rng
        self._price_of = price_of
        self._sticky = self._sticky_type()
        self._ledger = Ledger(now)
        self._routes: dict[str, RouteState] = {}
        self._order: tuple[RouteState, ...] = ()
        self._static: dict[tuple[str | None, Endpoint, str], Decision] = {}
        self._policy = policy
        self._governance = Governance(())
        self._absent: dict[str, Part] = {}  # what was learnt of routes that the policy does not have now
        self._packed: tuple[tuple[Sticky, int] | None, bytes] = (None, b"[]")  # of which bindings, and their JSON
        self._now = now  # of the newest tick, or request that was decided one by one
        self.wants = Wants()  # what the shell finds out of requests
        self._pending = self.apply(policy, now)  # nobody listens yet: the first tick tells them

    @property
    def policy(self) -> Policy:
        return self._policy

    @property
    def routes(self) -> tuple[RouteState, ...]:
        """The routes in force, for the sources of the control loop."""
        return self._order

    # ---- one request

    def decide(self, facts: Facts, now: float) -> Decision:
        """Which arm serves this request, why, and with what probability; a refusal when rules or budgets deny it."""
        if facts.lost:
            return self._decide(facts, now)
        found = self._static.get((facts.model, facts.endpoint, facts.dialect))
        return found if found is not None else self._decide(facts, now)

    def settle(self, facts: Facts, decision: Decision, outcome: Outcome, now: float, *, call: bool = True) -> Verdict:
        """Takes the exchange's one outcome in; call it exactly once for each decision that went upstream. Without `call`
        it was a stage of a cascade before the one that served: of several stages a mean cost counts one call."""
        ledger = self._ledger
        cost_nusd = billed_nusd(outcome, decision.reserved_nusd)
        if cost_nusd:
            ledger.charge(cost_nusd, now, call=call)
        if decision.route == NO_ROUTE:
            return NOTHING
        state = self._routes.get(decision.route)
        return NOTHING if state is None else learn(state, facts, decision, outcome, now, call=call)

    def release(self, decision: Decision) -> None:
        """Gives back what a decision reserved whose request never went upstream."""
        state = self._routes.get(decision.route)
        if state is not None:
            state.ledger.release(decision.reserved_nusd)

    def fallback(self, facts: Facts, decision: Decision, trigger: str) -> Decision | None:
        """The next arm of the policy's fallback after `trigger` ("connect", "timeout" or a status code), or None.

        What the first decision reserved goes over to the returned one, and `blame` is to be told.
        """
        state = self._routes.get(decision.route)
        return None if state is None else state.serving.fallback(facts, decision, trigger, state.ejection.may_retry)

    def blame(self, facts: Facts, decision: Decision, trigger: str, now: float) -> None:
        """Teaches that the arm of this decision failed; right behind the `fallback` that gave another one."""
        status = int(trigger) if trigger.isdigit() else 0
        failure = Outcome(kind="failed", status=status, error=trigger, clocks=Clocks(), stream=facts.stream)
        self._blame(self._routes[decision.route], facts, replace(decision, reserved_nusd=0), failure, now)

    def _blame(self, state: RouteState, facts: Facts, decision: Decision, failure: Outcome, now: float, /) -> None:
        verdict = learn(state, facts, decision, failure, now)
        self._pending += verdict.events[: MAX_PENDING - len(self._pending)]

    def may_retry(self, route: str, arm: str) -> bool:
        """Whether a call whose upstream failed may be tried with another arm now: its breaker and the retry budget."""
        state = self._routes.get(route)
        return state is None or state.ejection.may_retry(arm)

    def fail_open(self, facts: Facts) -> Decision:
        """What the policy's text alone gives: the app's own model, or the baseline's when that name is virtual."""
        for state in self._order:
            if state.matches(facts):
                return state.serving.fail_open(facts)
        return FAIL_OPEN

    def _decide(self, facts: Facts, now: float) -> Decision:
        self._now = now
        state = None
        for one in self._order:
            if one.matches(facts):
                state = one
                break
        if not self._governance.active:
            if state is None:
                return self._keep(facts, PASS)
            decision = state.decide(facts, now, self._rng)
            return decision if state.varies else self._keep(facts, decision)
        ledger = self._ledger
        ledger.roll(now)
        arms = (unknown_arm(facts),) if state is None else state.candidates(facts)
        allowed, refusal, rules = self._governance.allowed(facts, arms, ledger.spent_day_nusd, ledger.spent_month_nusd)
        if state is None:
            return PASS if refusal is None else replace(PASS, reason="policy", refusal=refusal, rules=rules)
        if refusal is not None:
            return replace(state.serving.refuse(refusal, "policy"), rules=rules)
        made = state.decide(facts, now, self._rng, allowed)
        return replace(made, rules=rules) if rules else made

    def _keep(self, facts: Facts, decision: Decision) -> Decision:
        if not (self.wants.more_than_model or facts.lost):
            if len(self._static) >= MAX_STATIC:
                self._static.clear()
            self._static[(facts.model, facts.endpoint, facts.dialect)] = decision
        return decision

    # ---- learning from outside, and time

    def feedback(self, feedback: Feedback, now: float) -> list[Event]:
        """Takes one score in. `previous` is this source's earlier score of the same decision: it is taken out again."""
        state = self._routes.get(feedback.route)
        if state is None or feedback.arm not in state.arms:
            return []
        if not (state.route.quality.feedback or feedback.source in OWN_SOURCES):
            return []
        if not 0.0 <= feedback.score <= 1.0:
            return []
        return score(state, feedback, now)

    def labelled(self, route: str) -> bool:
        """Whether this route has had a label: before its first one a weak signal teaches nothing."""
        state = self._routes.get(route)
        return state is not None and state.selector.labelled

    def tick(self, now: float) -> list[Event]:
        """What time alone causes: steps, pauses, recoveries, new prices, a new day. Call it about once a second."""
        self._now = now
        self._ledger.roll(now)
        events, self._pending = [*self._pending, *self.guards.tick(now), *self._governance.tick()], []
        for state in self._order:
            events += state.tick(now)
            state.refresh(now, self._rng, at_tick=True)
        return events

    def refresh(self, now: float) -> None:
        """Digests what was learnt and draws anew, where enough is new. Takes up to some milliseconds: call it behind the
        answers; `tick` does too."""
        for state in self._order:
            state.refresh(now, self._rng)

    # ---- the policy

    def apply(self, policy: Policy, now: float) -> list[Event]:
        """Puts a policy in force at once, for the next request on; what was learnt of arms that stay is kept.

        A new arm of a canary or optimize route starts its rollout. An arm that is removed, or whose upstream, model
        or params change, is forgotten and its conversations are assigned anew. A changed rollout spec begins the
        rollout again, except for arms that have completed theirs. Requests in flight settle with the route of their
        name. A route that returns goes on with what it had learnt when it went.
        """
        old, governance = self._routes, Governance(policy.rules)
        order, events, absent = [], [], dict(self._absent)
        for route in policy.routes:
            state = self._state(policy, governance, route, now)
            before = old.get(route.name)
            begun = state.begin(before, now)
            kept = absent.pop(route.name, None)
            if kept is not None:
                told, resumed = claim(state, kept, now)
                begun = [*_news(begun, resumed), *told]
            events += begun
            order.append(state)
        for name in old.keys() - {state.route.name for state in order}:
            events += old[name].thresholds.end(now)
            absent[name] = part_of(old[name])
            old[name].forget()
        self._absent = dict(list(absent.items())[-MAX_ABSENT:])
        self._policy, self._governance = policy, governance
        self._order, self._routes = tuple(order), {state.route.name: state for state in order}
        self._name_models()
        self._static = {}
        self.wants = Wants.of(order, governance)
        applied = Event(kind="policy.applied", message=policy.version, detail={"routes": len(order)})
        return [applied, *events]

    def _name_models(self) -> None:
        """Breakers are for the models that arms of the policy in force name."""
        named: dict[str, set[str]] = {}
        for state in self._order:
            for arm in state.route.all_arms:
                named.setdefault(arm.upstream, set()).add(arm.model)
        self.guards.name({spec: named.get(name, set()) for name, spec in self._policy.upstreams.items()})

    def _state(self, policy: Policy, governance: Governance, route: Route, now: float) -> RouteState:
        """A route that knows nothing yet, whose steps the rules of its policy are asked about. Nothing in it leads back to
        it, so that it is gone with the policy and does not wait for a collection."""
        state = RouteState(policy, route, self._sticky, self.guards, self._price_of, now)
        arms = state.arms

        def ask(kind: str, _route: str, arm: str | None, facts: Mapping[str, Value]) -> str | None:
            return self._denied(governance, arms, _change(kind, route.name, arm, facts))

        state.staging.permit = lambda kind, arm, percent: ask(kind, route.name, arm, {"step": float(percent)})
        if state.watch.tuner is not None:
            state.watch.tuner.permit = ask
        return state

    def denied(self, kind: str, route: str, arm: str | None, facts: Mapping[str, Value]) -> str | None:
        """Why a rule denies a change before it applies; None: it may. `facts` are its own (`change.<name>`)."""
        state = self._routes.get(route)
        change = _change(kind, route, arm, facts)
        return None if state is None else self._denied(self._governance, state.arms, change)

    def _denied(self, governance: Governance, arms: Mapping[str, Arm], change: Mapping[str, Value]) -> str | None:
        ledger = self._ledger
        arm = arms.get(str(change.get("arm", "")))
        return governance.refuses(change, arm, ledger.spent_day_nusd, ledger.spent_month_nusd)

    # ---- rollouts by hand

    def start_rollout(self, route: str, arm: str, now: float) -> list[Event]:
        """Begins (again) the rollout of an arm. Raises RolloutError when the route or the arm does not allow it."""
        state = self._chosen(route)
        return state.with_breaches_ended(state.staging.start(arm, now), now)

    def promote(self, route: str, now: float) -> list[Event]:
        """Moves the rollout to its next step now. Raises RolloutError when none is under way."""
        return self._chosen(route).staging.promote(now)

    def pause(self, route: str, now: float) -> list[Event]:
        """Keeps the rollout at its step. Raises RolloutError when none is under way."""
        return self._chosen(route).staging.pause(now)

    def resume(self, route: str, now: float) -> list[Event]:
        """Ends a pause. Raises RolloutError when nothing is paused."""
        return self._chosen(route).staging.resume(now)

    def rollback(self, route: str, now: float) -> list[Event]:
        """Takes the canary (or the arm that completed last) out and unbinds its conversations at once; in an experiment
        all variants but the control. Raises RolloutError when there is nothing to take out."""
        state = self._chosen(route)
        if state.trial is None:
            return state.staging.rollback(now)
        events = state.trial.experiment.roll_back(now, "by hand")
        if not events:
            raise RolloutError(f"route {route!r}: no variant is left but the control, nothing to roll back")
        return events

    def _chosen(self, route: str) -> RouteState:
        state = self._routes.get(route)
        if state is None:
            raise RolloutError(f"no route {route!r}; routes are: {', '.join(self._routes) or 'none'}")
        if not state.chooses:
            raise RolloutError(f"route {route!r} is in mode {state.route.mode}; rollouts need mode canary or optimize")
        return state

    # ---- state

    def charge(self, route: str, cost_nusd: int, at: float) -> None:
        """Books what a call of the sidecar's own cost, as of the time `at`; a route that is gone has no budget."""
        self._ledger.charge(cost_nusd, at, call=False)
        state = self._routes.get(route)
        if state is not None:
            state.ledger.charge(cost_nusd, at, call=False)

    def free(self, key: int) -> None:
        """Forgets which arm the conversation of this key has in each route, and how its newest call ended."""
        for name in (*self._routes, *self._absent):
            self._sticky.free(key ^ salt_of(name))
        for state in self._order:
            state.free(key)
        for part in self._absent.values():
            free_unit(part, key)

    def snapshot(self, *, bindings: bool = True) -> bytes:
        """All that outlives the process, as JSON; see `core.memory`.

        Without `bindings` the conversations are those of the last snapshot with them, unless some were unbound since:
        they are most of the work, and one that is missing costs a change of model after a crash and no lesson.
        """
        version = (self._sticky, self._sticky.unbound)
        if bindings or self._packed[0] != version:
            self._packed = (version, pack(self._sticky))
        return dump(self._ledger, self._order, self._packed[1], self._absent)

    def restore(self, state: bytes, now: float) -> list[Event]:
        """Takes over a snapshot, for the routes and arms that still exist; what belongs to other routes waits for
        them. A part that cannot be read is named in an event and begins anew, all others are taken over; of another
        version nothing is."""
        try:
            loaded = load(state, self._ledger, self._order, self._sticky, now, self._known)
        except UNREADABLE as error:
            message = f"state not taken over, nothing of it: {type(error).__name__}: {error}"
            return [Event(kind="state.ignored", severity="high", message=message)]
        self._absent = loaded.absent
        self._pending = _news(self._pending, loaded.resumed)
        return loaded.events

    def status(self) -> list[RouteStatus]:
        """Every route and arm, for people."""
        return [describe(state, self._now) for state in self._order]

    def standings(self) -> list[Standing]:
        """Where the arms of every route stand."""
        return [standing(state) for state in self._order]

    def explanations(self) -> list[str]:
        """Those of `status`, which costs ten times as much, and which limits are breached."""
        now = self._now
        return [text for state in self._order for text in (*explain(state, now), *breaches(state, now))]


def _change(kind: str, route: str, arm: str | None, facts: Mapping[str, Value]) -> dict[str, Value]:
    """A change as rules ask about it."""
    change: dict[str, Value] = {**facts, "kind": kind, "route": route}
    return change if arm is None else {**change, "arm": arm}


def _news(begun: list[Event], resumed: set[tuple[str | None, str | None]]) -> list[Event]:
    """Without the starts of rollouts that in truth go on where an earlier process was."""
    return [one for one in begun if one.kind != "rollout.started" or (one.route, one.arm) not in resumed]
