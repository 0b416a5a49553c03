import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.cost import flat_card
from sidecar.core.policy import FlatPrice
from sidecar.core.spend import (
    DEFAULT_OUTPUT_TOKENS,
    DEFAULT_SECONDS,
    ENOUGH,
    HALVE_AFTER,
    SHRINK,
    ArmSpend,
    FadingHistogram,
    Spend,
)

CARD = flat_card(FlatPrice(2_000_000, 8_000_000))  # 2 and 8 nano-dollars a token


def spend_of(**arms: ArmSpend) -> Spend:
    spend = Spend()
    spend.arms = dict(arms)
    return spend


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200))
def test_p99_is_never_too_low(values: list[int]) -> None:
    """The 99th percentile is at most one bucket (9 %) above the true one and never below it."""
    histogram = FadingHistogram()
    for value in values:
        histogram.add(value)
    true = sorted(values)[-max(1, len(values) - int(0.99 * len(values) + 0.999999) + 1)]
    p99 = histogram.p99()
    assert p99 is not None
    assert true * (1 - 1e-9) <= p99 + 1e-6
    assert p99 <= (true + 1) * 1.0906


def test_a_histogram_fades_and_is_empty_at_first() -> None:
    """Counts are halved, so that old traffic fades."""
    histogram = FadingHistogram()
    assert histogram.p99() is None
    for _ in range(HALVE_AFTER):
        histogram.add(10)
    assert histogram.total == HALVE_AFTER // 2


def test_reservation_uses_max_tokens_or_the_history() -> None:
    """GW-19: until a hundred answers are known a reservation is input estimate + max_tokens, then output is capped by
    what the arm wrote."""
    spend = spend_of(a=ArmSpend(CARD))
    arm = spend.arms["a"]
    assert arm.reserve_nusd(300, 50) == 100 * 2 + 50 * 8
    assert arm.reserve_nusd(300, None) == 200 + DEFAULT_OUTPUT_TOKENS * 8
    assert arm.reserve_nusd(300, -1) == arm.reserve_nusd(300, None)  # as if it was not there: nothing is given back
    for _ in range(ENOUGH - 1):
        spend.observe("a", 100, 20, 360)
    assert arm.reserve_nusd(300, 8_000) == 200 + 8_000 * 8
    assert arm.reserve_nusd(300, None) == 200 + DEFAULT_OUTPUT_TOKENS * 8
    spend.observe("a", 100, 20, 360)
    assert arm.reserve_nusd(300, 8_000) == arm.reserve_nusd(300, None)
    assert 200 + 20 * 8 <= arm.reserve_nusd(300, None) <= 200 + 22 * 8 + 8
    assert arm.reserve_nusd(300, 10) == 200 + 80


def test_a_long_answer_counts_before_there_is_a_history() -> None:
    """Where nobody says how many tokens, one answer longer than the default is what the next may cost."""
    spend = spend_of(a=ArmSpend(CARD))
    spend.observe("a", 100, 5_000, 40_200)
    assert spend.arms["a"].reserve_nusd(300, None) >= 200 + 5_000 * 8


def test_without_a_price_the_history_of_costs_is_reserved() -> None:
    """An arm of unknown price reserves its p99 cost, and nothing before its first cost is known."""
    spend = spend_of(a=ArmSpend())
    assert spend.arms["a"].reserve_nusd(300, 50) == 0
    assert spend.expected_nusd("a") is None
    spend.observe("a", None, None, 400)
    assert 400 <= spend.arms["a"].reserve_nusd(300, 50) <= 441
    assert spend.expected_nusd("a") == 400.0


def test_a_price_change_acts_at_once() -> None:
    """Expected cost follows the price, not the costs that were seen; a new arm is judged by its price."""
    spend = spend_of(a=ArmSpend(CARD), b=ArmSpend(flat_card(FlatPrice(200_000, 800_000))))
    assert spend.expected_nusd("a") == DEFAULT_OUTPUT_TOKENS * 10
    for _ in range(100):
        spend.observe("a", 1000, 100, 2800)
    assert spend.expected_nusd("a") == pytest.approx(2800)
    assert spend.expected_nusd("b") == pytest.approx(280)
    spend.arms["a"].price = flat_card(FlatPrice(0, 8_000_000))
    assert spend.expected_nusd("a") == pytest.approx(800)


def test_without_reservations_no_histogram_is_kept() -> None:
    """A route without a budget does not pay for estimates."""
    spend = Spend(reserving=False)
    spend.arms = {"a": ArmSpend(CARD)}
    spend.observe("a", 10, 10, 10)
    assert spend.arms["a"].outputs.total == spend.arms["a"].costs.total == 0
    assert spend.calls == 1


def test_unknown_parts_are_left_out() -> None:
    """An exchange without usage or cost teaches what it can."""
    spend = spend_of(a=ArmSpend(CARD))
    spend.observe("a", 10, 10, None)
    spend.observe("a", None, 10, None)
    assert (spend.calls, spend.arms["a"].calls, spend.arms["a"].costed) == (1, 1, 0)


MACHINE = flat_card(FlatPrice(0, 0, second_fusd=100_000_000_000))  # 100,000 nano-dollars a second


def test_a_machine_of_ones_own_costs_by_the_second() -> None:
    """Expected: the arm's mean seconds, shrunk to the route's. Reserved: DEFAULT_SECONDS until a hundred costs are
    known, then their 99th percentile."""
    spend = spend_of(a=ArmSpend(MACHINE), b=ArmSpend(MACHINE))
    assert spend.expected_nusd("a") == DEFAULT_SECONDS * 100_000
    assert spend.arms["a"].reserve_nusd(300, 50) == DEFAULT_SECONDS * 100_000
    for _ in range(ENOUGH):
        spend.observe("a", 100, 20, 200_000, 2.0)
    assert spend.expected_nusd("a") == pytest.approx(200_000)
    assert spend.expected_nusd("b") == pytest.approx(200_000)
    assert 200_000 <= spend.arms["a"].reserve_nusd(300, 50) <= 200_000 * 1.0906
    spend.observe("b", 100, 20, 900_000, 9.0)
    mean = (2.0 * ENOUGH + 9.0) / (ENOUGH + 1)
    assert spend.expected_nusd("b") == pytest.approx(100_000 * (9.0 + SHRINK * mean) / (1 + SHRINK))


def test_a_restart_keeps_histories_and_reads_those_without_times() -> None:
    """An arm that is gone is left out; what earlier versions wrote has four numbers an arm and no times."""
    spend = spend_of(a=ArmSpend(CARD), gone=ArmSpend(CARD))
    spend.observe("a", 100, 20, 360, 1.5)
    state = spend.to_state()
    again, older = spend_of(a=ArmSpend(CARD)), spend_of(a=ArmSpend(CARD))
    again.restore(state["total"], state["arms"])  # type: ignore[arg-type]  # JSON values
    older.restore([1, 100, 20], {"a": [1, 20, 1, 360]})
    assert again.to_state()["arms"] == {"a": [1, 20, 1, 360, 1, 1.5]}
    assert older.to_state()["arms"] == {"a": [1, 20, 1, 360, 0, 0.0]}
    assert again.expected_nusd("a") == older.expected_nusd("a") == spend.expected_nusd("a")
