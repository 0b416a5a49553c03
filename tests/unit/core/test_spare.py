"""Paced samples: the chance of being taken, the bucket of money, the bucket of calls, and the day's ceiling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.spare import BOOST, DAY_S, PARTS, SHY, Allowance, chance

NOON = 20_000 * DAY_S + 43_200.0
MUCH = 10**9


@pytest.mark.parametrize(
    ("sample", "labels", "expected"),
    [
        (0.05, 0, 0.05 * BOOST),
        (0.05, int(SHY), 0.05 * (1 + (BOOST - 1) / 2)),
        (0.05, 10**9, 0.05),
        (0.05, -3, 0.05 * BOOST),
        (0.9, 0, 1.0),
    ],
)
def test_new_arms_are_looked_at_more_often(sample: float, labels: int, expected: float) -> None:
    """BOOST times at first, halfway after SHY labels, the stated share at last; never above 1."""
    assert chance(sample, labels) == pytest.approx(expected, rel=1e-6)


def test_a_share_of_the_day_at_once() -> None:
    """The bucket holds a PARTS-th of the day: that much is admitted at noon, the rest as time passes."""
    purse = Allowance(int(PARTS) * 100, MUCH, NOON)
    assert [purse.admits(30, NOON) for _ in range(5)] == [True, True, True, True, False]
    assert purse.reserved_nusd == 120
    hour = DAY_S / PARTS  # fills 100
    assert purse.admits(30, NOON + hour)
    assert not purse.admits(30, NOON + hour + DAY_S * 0.001) or purse.reserved_nusd == 180


def test_what_was_not_spent_comes_back() -> None:
    """Estimates are replaced by costs, so cheap calls leave room for more of them."""
    purse = Allowance(int(PARTS) * 100, MUCH, NOON)
    for _ in range(20):
        assert purse.admits(90, NOON)
        purse.book(90, 4, NOON)
    assert (purse.spent_nusd, purse.reserved_nusd) == (80, 0)
    assert purse.admits(90, NOON)
    assert not purse.admits(90, NOON), "20 left, 90 taken: below zero until time has filled it"


def test_calls_in_a_minute() -> None:
    """As many as stated at once, then evenly."""
    purse = Allowance(MUCH, 3, NOON)
    assert [purse.admits(0, NOON) for _ in range(4)] == [True, True, True, False]
    assert purse.admits(0, NOON + 20.0)
    assert not purse.admits(0, NOON + 21.0)


def test_a_call_dearer_than_the_day() -> None:
    """What the whole day cannot pay is never admitted; what a part of it cannot pay waits its debt off."""
    purse = Allowance(1_000, MUCH, NOON)
    assert not purse.admits(1_001, NOON)
    assert purse.admits(900, NOON)
    assert not purse.admits(1, NOON + DAY_S / 2)


def test_a_new_day() -> None:
    """Spending counts for its UTC day; a clock that goes back opens no spent day again."""
    purse = Allowance(1_000, MUCH, NOON)
    assert purse.admits(1_000, NOON)
    purse.book(1_000, 1_000, NOON)
    assert purse.spent_nusd == 1_000
    tomorrow = NOON + DAY_S
    assert purse.admits(10, tomorrow)
    assert purse.spent_nusd == 0
    purse.book(10, 10, NOON)
    assert (purse.day, purse.spent_nusd) == (20_001, 10)


def test_a_new_policy_goes_on() -> None:
    """What was spent and reserved stays so inside new limits; a reload fills no bucket, and a call under way books."""
    purse = Allowance(2_400, 3, NOON)
    assert all(purse.admits(50, NOON) for _ in range(2))
    purse.book(50, 50, NOON)
    purse.change(240_000, 100)
    assert (purse.spent_nusd, purse.reserved_nusd) == (50, 50)
    assert not purse.admits(1, NOON), "an empty bucket stays empty"
    purse.book(50, 10, NOON)
    assert (purse.spent_nusd, purse.reserved_nusd) == (60, 0)
    assert purse.admits(1, NOON + 60.0)
    purse.change(24, 1)
    assert not purse.admits(1, NOON + 60.0), "more was spent than the day now has"


@given(
    st.integers(1, 10**6),
    st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 10**5), st.floats(0.0, 7_200.0)), max_size=60),
)
def test_a_day_is_never_overspent_by_more_than_what_was_in_flight(
    daily: int, calls: list[tuple[int, int, float]]
) -> None:
    """spent <= daily + sum of (cost - estimate) of the calls of that day, whatever comes."""
    now, purse = float(20_000 * DAY_S), Allowance(daily, MUCH, 20_000.0 * DAY_S)
    excess, day = 0, purse.day
    for estimate, cost, wait in calls:
        now += wait
        if purse.admits(estimate, now):
            excess = excess if purse.day == day else 0
            day = purse.day
            excess += max(0, cost - estimate)
            purse.book(estimate, cost, now)
        assert purse.spent_nusd <= daily + excess or purse.day != day
        assert purse.reserved_nusd == 0
