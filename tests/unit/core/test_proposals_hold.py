"""How often chance alone holds an arm, computed from the counts that there can be."""

from math import comb

import pytest

from sidecar.core.impact import METRICS, Sums, excess
from sidecar.core.policy import Objective
from sidecar.core.proposals import LEAST_FAILED
from tests.unit.core.test_proposals import Lanes, pool

Z_OF_SURE = 3.09


def failed(bad: int, calls: int) -> Sums:
    one, at = Sums(), 3 * METRICS.index("failed")
    one.rows[at : at + 2] = [float(calls), float(bad)]
    return one


def chances(n: int) -> list[float]:
    """Binomial, of 0 to n failures at 5 %."""
    return [comb(n, k) * 0.05**k * 0.95 ** (n - k) for k in range(n + 1)]


@pytest.mark.parametrize(("allowed", "most"), [(0.05, 1e-6), (LEAST_FAILED, 3e-6)])
@pytest.mark.parametrize(("calls", "others"), [(30, 0), (30, 30), (30, 300), (100, 30), (300, 30), (300, 300)])
def test_false_holds_are_rare(allowed: float, most: float, calls: int, others: int) -> None:
    """Two arms that both fail 5 % of their calls: P(z >= that of SURE) summed over all pairs of binomial counts.

    Exact, but for pairs with probability below 1e-12.
    """
    wrong = 0.0
    for bad, chance in enumerate(chances(calls)):
        for also, other in enumerate(chances(others)):
            if chance * other > 1e-12:
                z = excess(failed(bad, calls), failed(also, others), "failed", allowed, (0.05, 10.0))
                wrong += chance * other * (z >= Z_OF_SURE)
    assert wrong < most


def test_an_objective_that_allows_no_loss_holds_nobody_by_chance() -> None:
    """28 of 300 failed against 9 of 300: z is 3.2 of "worse at all", and 1.7 of "worse by more than LEAST_FAILED"."""
    lanes = Lanes(pool(objective=Objective(max_quality_loss=0.0)))
    lanes.calls("mini", 272, 28)
    lanes.calls("gpt-4o", 291, 9)
    assert lanes.found() == []
    lanes.calls("mini", 0, 40)
    assert [one.arm for one in lanes.found()] == ["mini"]
