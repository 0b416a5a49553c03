"""An engine that decides and does not learn: what it is told to forget, to know and to spend comes from another process.

**Model.** Several processes serve one service, one of them (`core.leading`) learns for all. A `Follower` decides like any
engine, from the leader's state as it was told last (`follow`), with random draws of its own. What an exchange taught is
kept as a `Lesson` for the leader; here it only gives back what it had reserved, and what it cost is spent at once.

    exact     ceilings of day, month and window: by a `core.lease`, closed until the first one is told
    by hash   who is in a rollout or an experiment: the same in every process, as soon as each knows the step
    later     beliefs, thresholds, rollouts, other processes' conversations: as the leader tells them

Conversations that are bound here are told, so that the others keep them too (`bound`); two processes that bind one key at
the same time agree on what the leader heard last.

What it does not do: move rollouts, judge thresholds, change anything with time but breakers, prices and draws.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sidecar.core.engine import Engine, stated_price
from sidecar.core.guard import Guards
from sidecar.core.lease import Lease
from sidecar.core.policy import Policy
from sidecar.core.route import PriceOf, RouteState
from sidecar.core.settle import NOTHING, Verdict, billed_nusd, pay
from sidecar.core.sticky import Binding, Sticky
from sidecar.core.types import MOST_SUM, Decision, Event, Facts, Outcome

_KEPT_BACK: Final = ("watch.drift", "watch.anomalies")  # parts that the leader does not tell
MAX_BOUND: Final = 8_192  # new conversations that wait to be told; the oldest are told to nobody


class Lesson(Struct, frozen=True, gc=False, array_like=True):
    """The arguments of `Engine.settle`."""

    facts: Facts
    decision: Decision
    outcome: Outcome
    call: bool = True


class Bound(Struct, frozen=True, gc=False, array_like=True):
    """A conversation and its arm, as `core.sticky.Binding` has it, for another process."""

    key: int
    owner: str
    arm: str
    propensity: float
    tag: str = ""
    step: int | None = None


def bound_of(key: int, binding: Binding) -> Bound:
    """A binding without the generation, which means something in its own process only."""
    return Bound(key, binding.owner, binding.arm, binding.propensity, binding.tag, binding.step)


def bind(sticky: Sticky, bound: Bound) -> None:
    """Binds what another process has bound."""
    generation = sticky.generation(bound.owner)
    made = Binding(bound.owner, bound.arm, bound.propensity, generation, bound.tag, bound.step)
    Sticky.bind(sticky, bound.key, made)


def _told(facts: Facts) -> Facts:
    """The facts without what only this process can work out from the call's own text, which may not pass to another."""
    return facts if type(facts.lost) is dict else replace(facts, lost={})


class StickyNews(Sticky):
    """Remembers what was bound since it was asked last."""

    def __init__(self) -> None:
        super().__init__()
        self.news: list[Bound] = []

    def bind(self, key: int, binding: Binding) -> None:
        super().bind(key, binding)
        self.news.append(bound_of(key, binding))
        if len(self.news) > MAX_BOUND:
            del self.news[: MAX_BOUND // 2]

    def unbind(self, owner: str) -> None:
        """As `Sticky.unbind`; what is free again is no news: who hears of it later would take it for a new assignment."""
        super().unbind(owner)
        self.news = [one for one in self.news if one.owner != owner]


class Follower(Engine):
    """See the head of this module. `lessons` and `charges` wait for whoever tells them to the leader and clears them."""

    _sticky_type = StickyNews
    _sticky: StickyNews

    def __init__(
        self,
        policy: Policy,
        rng: np.random.Generator,
        now: float,
        price_of: PriceOf = stated_price,
        guards: Guards | None = None,
    ) -> None:
        self.lessons: list[Lesson] = []
        # by route: nano-dollars without a lesson, and when the last came
        self.charges: dict[str, tuple[int, float]] = {}
        self._leases: dict[str, Lease] = {}  # by route, also of those that are gone: the leader goes on counting
        super().__init__(policy, rng, now, price_of, guards)

    def apply(self, policy: Policy, now: float) -> list[Event]:
        """As `Engine.apply`. A budget that is new, or returns, is closed until its lease is told."""
        self._known = {}
        events = super().apply(policy, now)
        for state in self._order:
            if state.ledger.left(now) is None:
                state.ledger.lease = None
            elif state.ledger.lease is None:
                state.ledger.lease = lease = self._leases.setdefault(state.route.name, Lease())
                lease.total_nusd = 0
        return events

    # ---- one request

    def settle(self, facts: Facts, decision: Decision, outcome: Outcome, now: float, *, call: bool = True) -> Verdict:
        """Books what it cost, and keeps the lesson for the leader."""
        self.lessons.append(Lesson(_told(facts), decision, outcome, call))
        cost_nusd = billed_nusd(outcome, decision.reserved_nusd)
        if cost_nusd:
            self._ledger.charge(cost_nusd, now, call=call)
        state = self._routes.get(decision.route)
        if state is not None:
            pay(state, decision, outcome, now, call=call)
        return NOTHING

    def _blame(self, _state: RouteState, facts: Facts, decision: Decision, failure: Outcome, _now: float, /) -> None:
        self.lessons.append(Lesson(_told(facts), decision, failure, call=False))

    def charge(self, route: str, cost_nusd: int, at: float) -> None:
        """Books a call of the sidecar's own here, and keeps it for the leader."""
        super().charge(route, cost_nusd, at)
        self._owe(route, cost_nusd, at)

    def forgo(self, lesson: Lesson, at: float) -> None:
        """The leader will not hear this lesson: what it cost is kept all the same."""
        self._owe(lesson.decision.route, billed_nusd(lesson.outcome, lesson.decision.reserved_nusd), at)

    def _owe(self, route: str, cost_nusd: int, at: float) -> None:
        if cost_nusd:
            self.charges[route] = (min(MOST_SUM, self.charges.get(route, (0, at))[0] + cost_nusd), at)

    def tick(self, now: float) -> list[Event]:
        """What time changes here: a new day, breakers, prices, draws; and the hits of rules, which were ours."""
        self._ledger.roll(now)
        events = [*self.guards.tick(now), *self._governance.tick()]
        for state in self._order:
            state.ledger.roll(now)
            state.reprice()
            state.refresh(now, self._rng, at_tick=True)
        return events

    # ---- what the leader tells

    def follow(self, stand: bytes, now: float) -> list[Event]:
        """Takes over what the leader knows (`Leader.stand`) and had not said before; events only of what cannot be read.
        Conversations stay."""
        for ledger in (self._ledger, *(state.ledger for state in self._order)):
            ledger.told()
        told = [event for event in self.restore(stand, now) if event.kind == "state.ignored"]
        return [event for event in told if event.detail.get("part") not in _KEPT_BACK]

    def hear(self, unbound: Sequence[str], bound: Sequence[Bound]) -> None:
        """First frees the conversations of these owners, then binds what others have bound."""
        for owner in unbound:
            self._sticky.unbind(owner)
        for one in bound:
            bind(self._sticky, one)

    def lend(self, leases: Mapping[str, tuple[int, float]]) -> None:
        """What each route may spend in all since the process began, and its pace, by the route's name."""
        for name, (total_nusd, pace_nusd) in leases.items():
            lease = self._lease(name)
            if lease is not None:
                lease.total_nusd, lease.pace_nusd = total_nusd, pace_nusd

    # ---- what it tells

    @property
    def spending(self) -> dict[str, tuple[int, int]]:
        """Of each route with a lease: what it spent, and its total in force."""
        return {
            state.route.name: (state.ledger.lease.spent_nusd, state.ledger.lease.in_force(state.ledger.reserved_nusd))
            for state in self._order
            if state.ledger.lease is not None
        }

    def bound(self) -> list[Bound]:
        """What was bound here since the last call."""
        news, self._sticky.news = self._sticky.news, []
        return news

    def _lease(self, route: str) -> Lease | None:
        state = self._routes.get(route)
        return None if state is None else state.ledger.lease
