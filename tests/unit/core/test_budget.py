import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.budget import DAY_S, MIN_RATE_CALLS, RATE_WINDOW_S, Ledger, month_of
from sidecar.core.constraint import AHEAD, CREDIT
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


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 400_000)), max_size=20), st.integers(0, 20))
def test_what_two_processes_spent_is_all_counted(spending: list[tuple[bool, int, int]], began: int) -> None:
    """GW-19: a process that begins with what another has spent so far, and takes over what it has spent in the end, has
    spent both, in whatever hours of whatever days; what it took over first counts once."""
    budget = Budget(window_nusd=100, window_s=3600.0)
    old, new, both = Ledger(NOON, budget), Ledger(NOON, budget), Ledger(NOON, budget)
    now = NOON
    for step, (is_new, nusd, later_s) in enumerate(spending):
        now += later_s / 20
        if step == began:
            new.restore(old.to_state(), now)
        (new if is_new and step >= began else old).charge(nusd, now)
        both.charge(nusd, now)
    for _ in range(2):
        new.restore(old.to_state(), now)
    both.roll(now)
    assert (new.spent_day_nusd, new.spent_month_nusd) == (both.spent_day_nusd, both.spent_month_nusd)
    assert new.window.total(now) == both.window.total(now)
    new.told()
    new.restore(old.to_state(), now)
    assert new.spent_month_nusd == old.spent_month_nusd


def test_a_window_of_another_length_has_inherited_nothing() -> None:
    """What was taken over into the former one does not lessen what is spent in it."""
    ledger, kept = (
        Ledger(NOON, Budget(window_nusd=100, window_s=60.0)),
        Ledger(NOON, Budget(window_nusd=9, window_s=120.0)),
    )
    ledger.charge(7, NOON)
    ledger.told()
    ledger.obey(Budget(window_nusd=100, window_s=120.0))
    ledger.charge(5, NOON)
    kept.charge(1, NOON)
    ledger.restore(kept.to_state(), NOON)
    assert ledger.window.total(NOON) == 6


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


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 120)), max_size=80))
def test_overshoot_is_at_most_what_calls_in_flight_cost_beyond_their_reservation(
    steps: list[tuple[bool, int, int]],
) -> None:
    """Whatever calls really cost, spending passes the ceiling by at most the sum of (actual - reserved) over
    calls that were admitted before it was reached, and from then on nothing is admitted."""
    ledger, flying, beyond = Ledger(NOON, Budget(daily_nusd=100)), list[int](), 0
    for admit, amount, actual in steps:
        if admit and ledger.fits(amount, NOON):
            assert ledger.spent_day_nusd < 100
            ledger.reserve(amount, NOON)
            flying.append(amount)
        elif not admit and flying:
            reserved = flying.pop(amount % len(flying))
            ledger.release(reserved)
            ledger.charge(actual, NOON)
            beyond += max(0, actual - reserved)
        assert ledger.spent_day_nusd <= 100 + beyond
    assert ledger.spent_day_nusd < 100 or not ledger.fits(0, NOON)


@pytest.mark.parametrize("at", [0.0, 0.001, 0.5, 0.999])
def test_no_window_seconds_cost_more_than_the_ceiling(at: float) -> None:
    """Whenever it was spent within a slot (here a second): it counts for 60 seconds, and no more than two longer."""
    ledger = Ledger(NOON, Budget(window_nusd=100, window_s=60.0))
    ledger.charge(100, NOON + at)
    assert not any(ledger.fits(1, NOON + at + second / 10) for second in range(600))
    assert ledger.fits(100, NOON + at + 62)


def test_a_window_is_a_ceiling_that_moves_on() -> None:
    """What was spent within `window_s` counts, and what is reserved; later it fits again."""
    ledger = Ledger(NOON, Budget(window_nusd=100, window_s=60.0))
    ledger.charge(90, NOON)
    assert ledger.fits(10, NOON + 1)
    assert not ledger.fits(11, NOON + 1)
    ledger.reserve(5, NOON + 1)
    assert not ledger.fits(10, NOON + 1)
    ledger.release(5)
    assert ledger.fits(100, NOON + 200)


def test_without_ceilings_on_means_a_call_may_cost_what_it_likes() -> None:
    for ledger in (Ledger(NOON), Ledger(NOON, Budget(daily_nusd=5))):
        assert ledger.balance() == ledger.allowance(NOON) == float("inf")


def test_a_ceiling_on_the_mean_lends_saves_and_is_made_up_for() -> None:
    """The balance is credit and savings less what calls in flight reserve above the ceiling; the allowance falls after
    dear calls. Nothing is refused."""
    ledger = Ledger(NOON, Budget(mean_request_nusd=100))
    assert (ledger.balance(), ledger.allowance(NOON)) == (CREDIT * 100, 100)
    ledger.reserve(40, NOON)
    assert ledger.balance() == CREDIT * 100  # in flight, but within what each call brings
    ledger.release(40)
    ledger.reserve(140, NOON)
    assert ledger.balance() == CREDIT * 100 - 40
    ledger.release(140)
    ledger.charge(100 + int(AHEAD) * 50, NOON)
    assert ledger.allowance(NOON) == 50
    assert ledger.balance() < 0
    assert ledger.fits(10**9, NOON)
    again = Ledger(NOON, Budget(mean_request_nusd=100))
    again.restore(ledger.to_state(), NOON)
    assert again.allowance(NOON) == 50
    del (old := ledger.to_state())["saved_nusd"]
    again.restore(old, NOON)
    assert again.allowance(NOON) == 100


def test_a_day_is_paced_over_the_calls_that_are_to_come() -> None:
    """One call a second since ten minutes: the rest of the day has 43,200 of them, what is left is shared among them.
    Too few calls say nothing."""
    ledger = Ledger(NOON - 600, Budget(daily_nusd=43_200_000))
    for at in range(600):
        if at < MIN_RATE_CALLS:
            assert ledger.allowance(NOON) == float("inf")
        ledger.reserve(0, NOON - 600 + at)
    assert ledger.allowance(NOON) == pytest.approx(1_000, rel=0.02)
    ledger.charge(21_600_000, NOON)
    assert ledger.allowance(NOON) == pytest.approx(500, rel=0.02)
    ledger.reserve(10**9, NOON)
    assert ledger.allowance(NOON) == 0.0


def test_a_window_and_a_mean_pace_too_and_the_least_holds() -> None:
    """A hundred calls in a hundred seconds: a window of 60 s with 6,000 allows 100 a call; the mean may ask for less."""
    both = Ledger(NOON - 100, Budget(window_nusd=6_000, window_s=60.0, mean_request_nusd=80))
    alone = Ledger(NOON - 100, Budget(window_nusd=6_000, window_s=60.0))
    for ledger in (both, alone):
        for at in range(100):
            ledger.reserve(0, NOON - 100 + at)
    assert alone.allowance(NOON) == pytest.approx(100, rel=0.02)
    assert both.allowance(NOON) == 80
    assert alone.allowance(NOON + 3 * RATE_WINDOW_S) == float("inf")


def test_another_budget_holds_over_what_was_spent() -> None:
    """The same length of window keeps what it saw; another begins anew; without a budget nothing is held."""
    ledger = Ledger(NOON, Budget(window_nusd=100, window_s=60.0))
    ledger.charge(90, NOON)
    ledger.obey(Budget(window_nusd=95, window_s=60.0))
    assert not ledger.fits(10, NOON)
    ledger.obey(Budget(window_nusd=95, window_s=30.0))
    assert ledger.fits(10, NOON)
    ledger.obey(None)
    assert ledger.fits(10**18, NOON)
    ledger.obey(Budget(daily_nusd=95))
    assert not ledger.fits(10, NOON)
