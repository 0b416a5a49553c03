"""Whether a decision may be paid: reserve, move to the cheapest arm, or refuse.

**Model.** Before a call is sent, the most that its arm may cost (`core.spend`) is reserved in the route's ledger
(`core.budget`); settling gives it back and books what the call did cost. A decision that does not fit is moved to the
cheapest arm left where `on_exceeded` says so; when that does not fit either, nothing is sent.

**Comparisons.** A call counts in an experiment, or in a rollout, only while the DEAREST of its arms would fit. Were
only calls left out whose own arm does not fit, a dear arm would lose its large calls and a cheap one would not: the
two would be compared on different traffic, and a canary that is cheaper would be rolled back for being slower. Whether
a call counts now depends on the call and the budget, and not on what was drawn.

What it does not know: what a call will cost in truth, and who else spends (other pods; `replicas` divides).
"""

from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from sidecar.core.budget import Ledger
from sidecar.core.serving import Chosen, Serving
from sidecar.core.spend import Spend
from sidecar.core.types import Decision, Facts, Refusal

DENIED_BUDGET: Final = Refusal(
    429,
    "budget",
    "the budget of this route has no room for this call; it is renewed with the UTC day or month or its window",
)


class Admission:
    """The budget of one route at its door. `ledger` has what is spent and reserved."""

    def __init__(self, serving: Serving, ledger: Ledger, spend: Spend, is_out: Callable[[str], bool]) -> None:
        """`is_out` tells arms that were rolled back: nothing is moved to those."""
        self.ledger = ledger
        self._serving, self._spend, self._is_out = serving, spend, is_out

    def admit(self, decision: Decision, facts: Facts, now: float, compared: Sequence[str] = ()) -> Decision:
        """The decision with its reservation, another one that fits, or a refusal. `compared` are the arms of the
        experiment or rollout."""
        budget = self._serving.route.budget
        if budget is None:
            return decision
        if decision.rollout_id is not None and compared:
            dearest = max(self._estimate(arm, facts) for arm in compared)
            if not self.ledger.fits(dearest, now):
                decision = replace(decision, rollout_id=None, rollout_step=None)
        estimate = self._estimate(decision.arm, facts)
        if not self.ledger.fits(estimate, now):
            deny = budget.on_exceeded == "deny"
            left = () if deny else tuple(arm for arm in decision.eligible if not self._is_out(arm))
            if not left:
                return self._serving.refuse(DENIED_BUDGET, "budget")
            arm = min(left, key=lambda one: self._estimate(one, facts))
            estimate = self._estimate(arm, facts)
            if not self.ledger.fits(estimate, now):
                return self._serving.refuse(DENIED_BUDGET, "budget")
            decision = self._serving.serve(Chosen(arm, "budget"), decision.eligible)
        self.ledger.reserve(estimate, now)
        return replace(decision, reserved_nusd=estimate) if estimate else decision

    def _estimate(self, arm: str | None, facts: Facts) -> int:
        spend = self._spend.arms[arm if arm is not None else self._serving.route.baseline.id]
        return spend.reserve_nusd(facts.input_bytes, facts.max_tokens)
