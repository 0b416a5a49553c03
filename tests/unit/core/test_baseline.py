"""Limits that follow a metric's past: by the formula, slowly, and not while things are bad."""

import math
from typing import Any

import pytest

from sidecar.core.baseline import DAY_S, FIRST, KEPT, ONE, UNSURE, Baseline
from sidecar.core.policy import AutoLimit, Threshold


def baseline(**changes: Any) -> Baseline:
    given: dict[str, Any] = {
        "name": "t", "metric": "cost_per_request", "above": math.inf, "below": None, "window_s": 60.0,
        "severity": "low", "action": "log", "min_samples": 20,
    }  # fmt: skip
    auto = changes.pop("auto", AutoLimit())
    return Baseline(Threshold(**(given | changes)), auto)


def fed(one: Baseline, values: list[float], begin: float = 0.0) -> Baseline:
    for at, value in enumerate(values):
        one.take(value, begin + 60.0 * at)
    return one


def test_no_limit_before_enough_windows() -> None:
    one = fed(baseline(), [100.0] * (FIRST - 1))
    assert one.limit is None
    one.take(100.0, 60.0 * FIRST)
    assert one.limit is not None


def test_windows_that_overlap_count_once() -> None:
    """A look each second for 30 minutes is thirty windows; a clock set back begins anew."""
    one = baseline()
    for second in range(1800):
        one.take(1.0, float(second))
    assert one.windows == 30
    one.take(1.0, 1.0)
    assert one.windows == 31


@pytest.mark.parametrize(
    ("changes", "values", "expected"),
    [
        ({}, [90.0, 110.0] * 10, 100 + 6 * 1.4826 * 10),  # median deviation 10
        ({}, [100.0] * 20, 120.0),  # no spread: 6 x 2 % is 112, the ratio asks for more
        ({"auto": AutoLimit(sigma=20.0, ratio=1.0)}, [100.0] * 20, 140.0),
        ({}, [90.0, 110.0] * 15 + [1e9] * 8, None),  # a minority of bad windows moves neither
        ({"metric": "error_rate"}, [0.0] * 20, 6 * math.sqrt((1 / 22) * (21 / 22) / 20)),
        ({"metric": "quality", "above": None, "below": 0.0}, [0.9] * 20, 0.9 - 6 * math.sqrt(19 / 22 * (3 / 22) / 20)),
        ({"metric": "quality", "above": None, "below": 0.0, "min_samples": 5000}, [0.9] * 20, 0.75),
        ({"above": None, "below": 0.0}, [10.0, 190.0] * 10, 0.0),
    ],
    ids=["mad", "ratio", "sigma", "robust", "errors", "quality", "ratio below", "never negative"],
)
def test_the_first_limit_is_the_formula(changes: dict[str, Any], values: list[float], expected: float | None) -> None:
    one = fed(baseline(**changes), values)
    assert one.limit is not None
    if expected is None:
        assert 180 <= one.limit <= 250
    else:
        assert one.limit == pytest.approx(expected, rel=1e-6)


def test_the_limit_moves_by_at_most_its_share_of_a_day() -> None:
    """A metric that doubles takes the limit along by 10 % a day: after one day 1.1 times, to the growth of a limit that
    grows itself, exp(0.1)."""
    one = fed(baseline(), [100.0] * 40)
    first = one.limit
    assert first is not None
    windows = int(DAY_S / 60)
    fed(one, [200.0] * windows, 2400.0)
    assert one.limit is not None
    assert first * 1.09 <= one.limit <= first * math.exp(0.1)
    fed(one, [200.0] * 10 * windows, 2400.0 + DAY_S)
    assert one.limit == pytest.approx(240.0)
    assert one.windows == KEPT


def test_a_long_pause_is_no_more_than_a_day() -> None:
    one = fed(baseline(), [100.0] * 20)
    first = one.limit
    assert first is not None
    fed(one, [300.0] * 21, 100 * DAY_S)
    assert one.limit is not None
    assert one.limit <= first * 1.1 * 1.01


def test_state_goes_on_where_it_was() -> None:
    one, two = fed(baseline(), [90.0, 110.0] * 15), baseline()
    two.restore(one.to_state())
    assert (two.limit, two.windows) == (one.limit, one.windows)
    early = baseline()
    early.restore(fed(baseline(), [1.0]).to_state())
    assert (early.limit, early.windows) == (None, 1)


@pytest.mark.parametrize("state", [[1, 2], [None, 0.0, 0.0, 5], [None, "x", 0.0, []], [None, 0.0, 0.0, ["x"]]])
def test_a_broken_state_is_refused(state: list[object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        baseline().restore(state)


def test_a_limit_of_nothing_is_learnt_again() -> None:
    """Half of the answers were bad and the windows small: the least quality came out as 0, of which no fraction leads
    away. When quality is seen to be good, there is a limit."""
    one = fed(baseline(metric="quality", above=None, below=0.0, min_samples=10), [0.5] * FIRST)
    assert one.limit == 0.0
    fed(one, [0.95] * KEPT, 60.0 * FIRST)
    assert one.limit is not None
    assert 0.0 < one.limit < 0.95


@pytest.mark.parametrize(("sigma", "calls"), [(1.0, 5), (1.0, 20), (1.0, 1000), (2.0, 50), (6.0, 20)])
def test_the_first_failure_is_no_alarm(sigma: float, calls: int) -> None:
    """Nothing has ever failed: one failure in the smallest window is below the limit, however small sigma is, and the
    limit is at least what a rate that shows no failure in all those calls may be."""
    one = fed(baseline(metric="error_rate", auto=AutoLimit(sigma=sigma), min_samples=calls), [0.0] * FIRST)
    assert one.limit is not None
    assert one.limit > 1 / calls
    assert one.limit >= ONE / calls
    assert (1 - one.limit) ** (FIRST * calls) <= UNSURE


def test_a_cost_that_was_always_nothing_has_no_limit() -> None:
    """No scale says what would be much. When half of the windows cost something, there is one; a state with a limit of 0
    has none either."""
    one = fed(baseline(), [0.0] * FIRST)
    assert one.limit is None
    again = baseline()
    again.restore([0.0, 0.0, 0.0, [0.0] * FIRST])
    assert again.limit is None
    fed(one, [10.0] * (FIRST + 2), 60.0 * FIRST)
    assert one.limit is not None
    assert one.limit >= 12.0
