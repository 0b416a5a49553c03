"""The engine that learns for several processes that decide (`core.following`), and what it tells each of them.

**Model.** The leader decides nothing. It settles the lessons of all followers in the order in which they come, so beliefs,
budgets, thresholds and rollouts are those of one process that served everything. For each follower it keeps what that one
has heard: conversations that a follower bound before it heard of a rollback are not taken, else they would outlive it.

What it does not know: how messages travel, and which process a number stands for.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from sidecar.core.engine import Engine, stated_price
from sidecar.core.following import Bound, Lesson, bind, bound_of
from sidecar.core.guard import Guards
from sidecar.core.lease import Lender
from sidecar.core.memory import MAX_BINDINGS, stand
from sidecar.core.policy import Policy
from sidecar.core.route import PriceOf, RouteState
from sidecar.core.settle import Verdict

_CHOSEN: Final = ("sampled", "policy", "fallback")  # the last two: also what a cascade or fallback made of a choice


class Leader(Engine):
    """See the head of this module. `parts` is how many followers there are to be: shares of budgets are for so many."""

    def __init__(
        self,
        policy: Policy,
        rng: np.random.Generator,
        now: float,
        price_of: PriceOf = stated_price,
        guards: Guards | None = None,
    ) -> None:
        self.parts = 1
        self._lenders: dict[str, Lender] = {}
        self._heard: dict[int, dict[str, int]] = {}  # follower -> generations of owners that it knows
        self._told: dict[int, dict[str, int]] = {}
        super().__init__(policy, rng, now, price_of, guards)

    def learn(self, lesson: Lesson, now: float) -> Verdict:
        """Settles one exchange of a follower."""
        state = self._routes.get(lesson.decision.route)
        if state is not None:
            self._see(state, lesson, now)
        return self.settle(lesson.facts, lesson.decision, lesson.outcome, now, call=lesson.call)

    def _see(self, state: RouteState, lesson: Lesson, now: float) -> None:
        """What `decide` would have noted here."""
        facts, decision = lesson.facts, lesson.decision
        if decision.unit != "request":
            self._sticky.get(facts.key ^ state.salt)  # it is used: as young here as where it was decided
        if not lesson.call:
            return
        if state.route.budget is not None:
            state.ledger.reserve(decision.reserved_nusd, now)  # it is given back at once, and counted for the pace
        if state.route.mode == "optimize" and decision.reason in _CHOSEN:
            state.selector.remember(state.staging.pool, facts)

    def stand(self) -> bytes:
        """What every follower has to know; equal bytes mean that nothing has changed."""
        return stand(self._ledger, self._order, self.parts)

    # ---- one follower

    def welcome(self, who: int) -> list[Bound]:
        """A follower that knows nothing: the youngest conversations, for it to keep, oldest first."""
        self._heard[who] = self._told[who] = self._sticky.generations
        return [bound_of(key, binding) for key, binding in reversed(self._sticky.youngest(MAX_BINDINGS))]

    def unbound(self, who: int) -> list[str]:
        """Owners whose conversations are free and that `who` was not told of; it is told now."""
        now, before = self._sticky.generations, self._told[who]
        self._told[who] = now
        return [owner for owner, generation in now.items() if generation != before.get(owner, 0)]

    def unsaid(self, who: int) -> None:
        """What `who` was to be told now did not leave: `unbound` says it again."""
        self._told[who] = self._heard[who]

    def leases(self, who: int, now: float) -> dict[str, tuple[int, float]]:
        """What `who` may spend, for `Follower.lend`. Tell it before anything of this again, and `hear` says when."""
        told: dict[str, tuple[int, float]] = {}
        for state in self._order:
            left = state.ledger.left(now)
            if left is not None:
                lender = self._lenders.setdefault(state.route.name, Lender(self.parts))
                told[state.route.name] = (lender.tell(who, left), state.ledger.allowance(now))
        return told

    def hear(self, who: int, spending: dict[str, tuple[int, int]], *, heard: bool) -> None:
        """What `who` spent, after all of it was booked; `heard`: it knows what it was told last."""
        if heard:
            self._heard[who] = self._told[who]
        for route, (spent_nusd, in_force_nusd) in spending.items():
            lender = self._lenders.setdefault(route, Lender(self.parts))
            lender.hear(who, spent_nusd, in_force_nusd, heard=heard)

    def bind(self, who: int, bound: Sequence[Bound]) -> tuple[list[Bound], list[Bound]]:
        """Takes over what `who` has bound. Answers what the others should keep too, and what of it `who` should be told
        again: it was bound otherwise before, and that may reach `who` last."""
        known, now = self._heard[who], self._sticky.generations
        taken = [one for one in bound if known.get(one.owner, 0) == now.get(one.owner, 0)]
        again = []
        for one in taken:
            before = self._sticky.get(one.key)
            if before is not None and bound_of(one.key, before) != one:
                again.append(one)
            bind(self._sticky, one)
        return taken, again

    def forget(self, who: int) -> None:
        """The follower has ended."""
        self._heard.pop(who, None)
        self._told.pop(who, None)
        for lender in self._lenders.values():
            lender.forget(who)
