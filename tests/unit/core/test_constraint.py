"""The prices of promises against brute force, the promise's sums, and the bucket under a ceiling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.constraint import (
    AHEAD,
    CATCH_UP,
    CAUTION,
    CREDIT,
    LEAST,
    MEMORY,
    MOST_LOSS,
    SAVED,
    STEPS,
    Floats,
    Promise,
    Savings,
    chosen,
    money_price,
    pareto_front,
    quality_price,
)

FINE = 2.0 * LEAST ** (-1.0 / 2**STEPS) - 1.0  # a generous relative width of the bisection's last interval


def told(scores: list[float]) -> Promise:
    made = Promise()
    for score in scores:
        made.add(score)
    return made


# ---- the promise


def test_the_need_of_a_promise_is_its_formula() -> None:
    """80 scores of 0.7, told loss 10 % below a baseline of 0.8 that is known exactly: the next 80 bring what is left."""
    made = told([0.7] * 80)
    assert made.need(0.1, 0.8, 0.0, 50.0) == pytest.approx((0.72 * (80 + 80) - 56.0) / 80)
    early = told([0.7] * 10)
    assert early.need(0.1, 0.8, 0.0, 50.0) == pytest.approx((0.72 * (10 + AHEAD) - 7.0) / AHEAD)


def test_little_knowledge_of_the_baseline_asks_for_a_margin() -> None:
    """The margin is CAUTION standard errors at the end of the horizon: 20 scores of the baseline among 80 become 40."""
    made = told([0.72] * 80)
    margin = CAUTION * (0.16 / (20 * 2 + 4)) ** 0.5
    wanted = 0.9 * (0.8 + margin)
    assert made.need(0.1, 0.8, 0.16, 20.0) == pytest.approx((wanted * 160 - 0.72 * 80) / 80)
    assert made.need(0.1, 0.8, 0.16, 2_000.0) < made.need(0.1, 0.8, 0.16, 20.0)


def test_what_was_gained_early_is_not_spent_all_at_once() -> None:
    """However good the past was, the next calls bring at least (1 - MOST_LOSS loss) of the baseline."""
    assert told([1.0] * 5_000).need(0.1, 0.5, 0.0, 1e9) == pytest.approx((1 - MOST_LOSS * 0.1) * 0.5)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_a_score_that_is_replaced_is_as_if_it_had_never_been(pairs: list[tuple[float, float]]) -> None:
    """`previous` is taken out with the weight that it had."""
    made, other = Promise(), Promise()
    for score, weight in pairs:
        made.add(score, weight)
    for score, weight in pairs:
        made.add(1.0 - score, 1.0, (score, weight))
        other.add(1.0 - score)
    assert (made.scores, made.total) == pytest.approx((other.scores, other.total))


def test_a_promise_is_kept_over_its_memory_and_not_over_a_lifetime() -> None:
    """Beyond MEMORY scores half of all is forgotten, in weight and not in mean."""
    made = told([0.5] * int(MEMORY + 1))
    assert made.scores == pytest.approx((MEMORY + 1) / 2)
    assert made.total / made.scores == pytest.approx(0.5)


# ---- money


def test_the_bucket_of_a_ceiling_says_what_the_next_calls_may_cost() -> None:
    """Nothing spent or saved: the ceiling. Overspent: less, never below 0. Saved: a little more, never all at once."""
    made = Savings()
    assert made.allowance(100.0) == 100.0
    assert made.balance(100.0, 30.0) == CREDIT * 100.0 - 30.0
    made.add(100.0 + AHEAD * 10, 100.0)
    assert made.allowance(100.0) == pytest.approx(90.0)
    made.add(1e9, 100.0)
    assert made.allowance(100.0) == 0.0
    rich = Savings()
    for _ in range(int(10 * SAVED)):
        rich.add(0.0, 100.0)
    assert rich.nusd == SAVED * 100.0
    assert rich.allowance(100.0) == CATCH_UP * 100.0


@given(
    st.lists(st.tuples(st.floats(0, 400), st.floats(0, 1.5)), min_size=1, max_size=200),
    st.floats(1, 100),
)
def test_cumulative_cost_stays_under_the_ceiling_when_calls_obey_the_balance(
    calls: list[tuple[float, float]], ceiling: float
) -> None:
    """Calls of an expected cost above the balance are not made; a call really costs `factor` times that. After n calls
    they have cost at most ceiling (n + CREDIT) + what single calls cost beyond their expectation: the balance before a
    call is at most ceiling (calls so far + CREDIT) - cost so far, as saving is cut and never added to."""
    made, spent, beyond, count = Savings(), 0.0, 0.0, 0
    for expected, factor in calls:
        if expected > made.balance(ceiling, 0.0):
            continue
        cost = expected * factor
        made.add(cost, ceiling)
        spent, beyond, count = spent + cost, beyond + max(0.0, cost - expected), count + 1
        assert spent <= (ceiling * (count + CREDIT) + beyond) * (1 + 1e-9)


# ---- prices


def problem(seed: int, arms: int = 4, requests: int = 40) -> tuple[Floats, Floats, Floats]:
    """Draws and means of scores, and loads, in which better arms tend to be dearer."""
    rng = np.random.default_rng(seed)
    load = rng.uniform(0.05, 1.0, arms)
    means = np.clip(0.3 + 0.5 * load + rng.normal(0, 0.2, (requests, arms)), 0, 1)
    return means + rng.normal(0, 0.05, means.shape), means, load


def quality_at(price: float, draws: Floats, means: Floats, load: Floats) -> float:
    return float(means[np.arange(len(draws)), chosen(draws, price * load)].mean())


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_the_price_of_quality_keeps_the_need_and_a_little_more_would_not(seed: int, part: float) -> None:
    """The price is feasible, and one that is STEPS halvings finer is not, where the end of the range was not reached."""
    draws, means, load = problem(seed)
    limit = 5.0
    best, worst = quality_at(0.0, draws, means, load), quality_at(limit, draws, means, load)
    need = worst + part * (best - worst)
    price = quality_price(draws, means, load, need, limit)
    if price == 0.0:
        assert quality_at(LEAST * limit, draws, means, load) < need
        return
    assert quality_at(price, draws, means, load) >= need
    assert price == limit or quality_at(price * (1 + FINE), draws, means, load) < need


def test_the_price_of_quality_is_the_largest_of_a_grid_where_quality_falls_with_it() -> None:
    """With draws that are the means, a higher price never brings more quality (each request moves along its own hull
    towards the cheap), so the feasible prices are an interval: its end is found to a thousandth, against 20,000 prices."""
    for seed in range(5):
        _, means, load = problem(seed)
        need = 0.5 * (quality_at(0.0, means, means, load) + quality_at(5.0, means, means, load))
        grid = np.geomspace(LEAST * 5.0, 5.0, 20_000)
        largest = max(price for price in grid if quality_at(price, means, means, load) >= need)
        assert quality_price(means, means, load, need, 5.0) == pytest.approx(largest, rel=2e-3)


def test_a_need_that_all_arms_meet_or_none_has_the_prices_at_the_ends() -> None:
    draws, means, load = problem(3)
    assert quality_price(draws, means, load, 0.0, 5.0) == 5.0
    assert quality_price(draws, means, load, 2.0, 5.0) == 0.0


def test_the_price_of_money_is_the_least_that_keeps_the_allowance() -> None:
    """Cost never rises with its own price; the least feasible price is found to a thousandth."""
    for seed in range(5):
        draws, _, cost = problem(seed)
        none = np.zeros(len(cost))
        free = float(cost[chosen(draws, none)].mean())
        allowance = 0.5 * (free + cost.min())
        grid = np.geomspace(LEAST * 50.0, 50.0, 20_000)
        least = min(price for price in grid if cost[chosen(draws, price * cost)].mean() <= allowance)
        found = money_price(draws, none, cost, allowance, 50.0)
        assert found == pytest.approx(least, rel=2e-3)
        assert cost[chosen(draws, found * cost)].mean() <= allowance


def test_money_costs_nothing_where_the_ceiling_is_kept_anyway_and_the_limit_where_none_is_small_enough() -> None:
    draws, _, cost = problem(3)
    none = np.zeros(len(cost))
    assert money_price(draws, none, cost, float(cost.max()), 50.0) == 0.0
    assert money_price(draws, none, cost, 0.5 * float(cost.min()), 50.0) == 50.0
    near = np.array([[0.5 + 1e-6, 0.5]])
    assert money_price(near, none[:2], np.array([1.0, 0.1]), 0.5, 50.0) == LEAST * 50.0


def test_what_is_due_anyway_lowers_the_price_of_money() -> None:
    """A load that already sends the calls to the cheap arm leaves nothing to be paid for the ceiling."""
    draws = np.array([[0.9, 0.8]])
    cost = np.array([1.0, 0.1])
    assert money_price(draws, np.zeros(2), cost, 0.5, 50.0) > 0.0
    assert money_price(draws, 0.2 * cost, cost, 0.5, 50.0) == 0.0


# ---- the front


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_beats(arms: list[tuple[int, int]]) -> None:
    """Against brute force: on the front is every (cost, quality) that none beats or equals with less; of equal arms
    the first one stands for all. Cheapest first."""
    cost, quality = (np.array(column, dtype=float) for column in zip(*arms, strict=True))
    front = pareto_front(cost, quality)
    beaten = {
        (c, q) for c, q in arms if any((d <= c and r >= q) and (d, r) != (c, q) for d, r in arms)
    }  # fmt: skip
    assert {arms[arm] for arm in front} == set(arms) - beaten
    assert len({arms[arm] for arm in front}) == len(front)
    assert [cost[arm] for arm in front] == sorted(cost[arm] for arm in front)
    assert all(arms.index(arms[arm]) == arm for arm in front)
