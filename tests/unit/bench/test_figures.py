"""Figures: intervals are those of the books, and what is unknown is null."""

import math

import pytest

from bench.figures import figure, mean_of, median_of, share_of, student

NULLS = {"mean": None, "lo": None, "hi": None, "reference": None}


def test_a_mean_has_students_interval() -> None:
    """Of 1, 2, 3: sd 1, half width 4.303 / sqrt(3). One value has no interval, none has no mean."""
    found = mean_of([1.0, 2.0, 3.0], 1.5)
    assert found["mean"] == 2.0
    assert found["reference"] == 1.5
    assert found["hi"] == pytest.approx(2.0 + 4.303 / math.sqrt(3.0))
    assert mean_of([5.0]) == {**NULLS, "mean": 5.0}
    assert mean_of([]) == NULLS


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.706), (5, 2.571), (6, 2.447), (9, 2.262), (19, 2.093), (99, 1.984)]
)
def test_students_points_are_those_of_the_table(freedom: int, value: float) -> None:
    """Within .002, from the table and from the expansion beyond it."""
    assert student(freedom) == pytest.approx(value, abs=0.002)


def test_a_median_lies_between_order_statistics() -> None:
    """Of twenty values the 6th and the 15th: P(fewer than 6 of 20 below the median) = .0207 <= .025, of 7 it is .0577."""
    found = median_of([float(value) for value in range(1, 21)])
    assert (found["mean"], found["lo"], found["hi"]) == (10.5, 6.0, 15.0)
    assert (median_of([3.0, 1.0, 2.0])["lo"], median_of([3.0, 1.0, 2.0])["hi"]) == (1.0, 3.0)
    assert median_of([4.0]) == {**NULLS, "mean": 4.0}
    assert median_of([]) == NULLS


def test_a_share_has_wilsons_interval() -> None:
    """98 of 100: .9300 to .9945, as published; all of all does not claim certainty."""
    found = share_of(98, 100)
    assert found["lo"] == pytest.approx(0.9300, abs=1e-4)
    assert found["hi"] == pytest.approx(0.9945, abs=1e-4)
    certain = share_of(10, 10)
    assert certain["lo"] is not None
    assert 0.6 < certain["lo"] < 0.8
    assert share_of(0, 0) == NULLS


def test_what_is_not_finite_is_null() -> None:
    """JSON has no infinity."""
    assert figure(math.nan, math.inf) == NULLS
