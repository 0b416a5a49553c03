from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.budget import DAY_S, Ledger, month_of
from sidecar.core.policy import Budget

NOON = 20_000 * DAY_S + 43_200.0  # 2024-10-04


def test_month_of_counts_utc_months() -> None:
    """Months change with the UTC calendar."""
    assert month_of(0) == 1970 * 12
    assert month_of(20_000) == 2024 * 12 + 9
    assert month_of(30) == 1970 * 12
    assert month_of(31) == 1970 * 12 + 1


def test_no_budget_admits_everything() -> None:
    """A ledger without ceilings only counts."""
    assert Ledger(NOON).fits(10**18, NOON)
    assert Ledger(NOON, Budget()).fits(10**18, NOON)


def test_each_ceiling_refuses_by_itself() -> None:
    """Per request, daily and monthly ceilings all hold."""
    assert not Ledger(NOON, Budget(per_request_nusd=5)).fits(6, NOON)
    assert Ledger(NOON, Budget(per_request_nusd=5)).fits(5, NOON)
    assert not Ledger(NOON, Budget(daily_nusd=5)).fits(6, NOON)
    assert not Ledger(NOON, Budget(monthly_nusd=5)).fits(6, NOON)
    full = Ledger(NOON, Budget(daily_nusd=5))
    full.charge(5, NOON)
    assert not full.fits(0, NOON)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=80))
def test_concurrent_calls_cannot_pass_a_ceiling_together(steps: list[tuple[bool, int]]) -> None:
    """GW-19: whatever is admitted and settled in whatever order, spending stays under the ceiling when no call costs
    more than it reserved."""
    ledger, flying = Ledger(NOON, Budget(daily_nusd=100, monthly_nusd=150)), list[int]()
    for admit, amount in steps:
        if admit and ledger.fits(amount, NOON):
            ledger.reserve(amount, NOON)
            flying.append(amount)
        elif not admit and flying:
            reserved = flying.pop(amount % len(flying))
            ledger.release(reserved)
            ledger.charge(min(amount, reserved), NOON)
        assert ledger.spent_day_nusd + ledger.reserved_nusd <= 100
        assert ledger.reserved_nusd == sum(flying)


def test_days_and_months_roll_forward_only() -> None:
    """A new UTC day renews the daily ceiling, a new month both; a clock set back renews nothing."""
    ledger = Ledger(NOON, Budget(daily_nusd=10))
    ledger.charge(9, NOON)
    assert ledger.fits(2, NOON + DAY_S)
    assert (ledger.spent_day_nusd, ledger.spent_month_nusd) == (0, 9)
    ledger.charge(4, NOON)  # a late cost of yesterday
    assert (ledger.spent_day_nusd, ledger.spent_month_nusd) == (0, 13)
    ledger.charge(7, NOON + DAY_S)
    ledger.roll(NOON - 3 * DAY_S)
    assert ledger.spent_day_nusd == 7
    ledger.charge(5, NOON + 40 * DAY_S)
    assert (ledger.spent_day_nusd, ledger.spent_month_nusd) == (5, 5)
    ledger.charge(3, NOON)  # of a month that is over
    assert (ledger.spent_day_nusd, ledger.spent_month_nusd) == (5, 5)


def test_release_never_goes_below_zero() -> None:
    """A reservation of an earlier process does no harm when it is given back."""
    ledger = Ledger(NOON)
    ledger.release(5)
    assert ledger.reserved_nusd == 0


def test_state_round_trip() -> None:
    """GW-19: spending survives a restart on the same day, and only the month's part the next day."""
    ledger = Ledger(NOON)
    ledger.charge(7, NOON)
    same, later = Ledger(NOON), Ledger(NOON + DAY_S)
    same.restore(ledger.to_state(), NOON + 60)
    later.restore(ledger.to_state(), NOON + DAY_S)
    assert same.to_state() == ledger.to_state()
    assert (later.spent_day_nusd, later.spent_month_nusd) == (0, 7)


def test_a_day_that_is_far_ahead_does_not_stop_the_counting() -> None:
    """A wall clock that was far ahead once must not leave a budget open until that day; one day ahead is a time of
    midnight, and stays."""
    ahead, next_day = Ledger(NOON + 400 * DAY_S), Ledger(NOON + DAY_S)
    for ledger in (ahead, next_day):
        ledger.charge(7, ledger.day * DAY_S)
    found, kept = Ledger(NOON), Ledger(NOON)
    found.restore(ahead.to_state(), NOON)
    found.charge(5, NOON)
    assert (found.day, found.spent_day_nusd) == (NOON // DAY_S, 12)
    kept.restore(next_day.to_state(), NOON)
    assert kept.day == NOON // DAY_S + 1
