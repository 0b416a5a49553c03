"""The second test of each guardrail, that of its limit: what breaks after a long good time is found soon, and what stays
inside the limit is not taken for beyond it."""

import dataclasses
import json
import random  # noqa: TID251  # seeded below; ten times as fast as numpy for single draws
from collections.abc import Callable

import pytest

from sidecar.core.bounded_guard import BoundedGuard
from sidecar.core.guardrails import restore_guards
from sidecar.core.number_guard import NumberGuard
from sidecar.core.verdict import Guard, Sample

METRICS = ["quality", "latency_p95", "cost"]
Draw = Callable[[random.Random, bool], Sample]


def late(good: int, rates: tuple[float, float], seed: int) -> tuple[int, BoundedGuard]:
    """A canary of 20 % with the control's rate for `good` units of its own, then with another one: its failures from
    there to the verdict."""
    rng = random.Random(seed)
    guard = BoundedGuard("error_rate", 1.5, 0.01)
    units = failures = 0
    while failures < 10_000:
        canary = rng.random() < 0.2
        units += canary
        broken = canary and units > good
        failed = rng.random() < rates[broken]
        failures += broken and failed
        guard.observe(Sample(failed=failed), canary=canary, share=0.2)
        if failed and guard.fails():
            break
    return failures, guard


@pytest.mark.parametrize(("broken", "most"), [(1.0, 60), (0.2, 160)])
def test_a_canary_that_breaks_after_a_long_good_time_is_found_soon(broken: float, most: int) -> None:
    """After 10,000 units at 5 %, as the control's: by the rate of all units it would be found after half of 500 errors
    more (1.5 times the 5 %), when every call fails, and after 333 of one in five. The test of the limit needs about
    ln(1/alpha) and what its cash has become (1e-6, 14 nats) over what a harm tells, log(0.96 / 0.27) = 1.3 nats when
    every call fails: some 15, and KL(0.5 || 0.27) = 0.12 nats in the other, some 150; what is left of the bets on less is
    worth as much again. Simulated 26 to 35, and 69 to 96."""
    failures, guard = late(10_000, (0.05, broken), 5)
    status = guard.status()
    assert failures <= most
    assert (status.verdict, status.lately) == ("fail", True)
    assert status.canary is not None
    assert status.control is not None
    assert status.canary < 1.5 * status.control


def test_harm_inside_the_limit_is_not_lately_beyond_it() -> None:
    """1.3 times the control's rate for 20,000 units: the harm test rejects, and the guardrail does not fail; each of 20
    runs fails with probability alpha, 1 %, at most: more than 3 of them with p < 1e-4."""
    failed = 0
    for seed in range(20):
        rng = random.Random(seed)
        guard = BoundedGuard("error_rate", 1.5, 0.01)
        for _ in range(4_000):  # harms alone: the others change nothing but the tallies
            guard.observe(Sample(failed=True), canary=rng.random() < 1.3 / 2.3, share=0.5)
            guard.observe_harmless(5, canary=True)
            guard.observe_harmless(5, canary=False)
        assert guard.is_beyond
        failed += guard.fails()
    assert failed <= 3


def test_the_test_of_the_limit_is_kept_over_a_restart() -> None:
    """What it has seen goes on; a state of an earlier version, which has none, restores all else."""
    _, guard = late(1_000, (0.05, 1.0), 5)
    anew, older = BoundedGuard("error_rate", 1.5, 0.01), BoundedGuard("error_rate", 1.5, 0.01)
    state = json.loads(json.dumps(guard.to_state()))
    anew.restore(state)
    assert anew.status() == guard.status()
    older.restore(state)
    older.restore([state[0][: len(state[0]) // 2], *state[1:]])
    assert older.status() == dataclasses.replace(guard.status(), lately=False, verdict=older.status().verdict)


def test_a_guardrail_that_begins_anew_keeps_no_part_of_what_could_not_be_read() -> None:
    """A state without the proof that the policy asks for: the test of the limit begins anew with all else."""
    _, guard = late(1_000, (0.05, 1.0), 5)
    proving = BoundedGuard("error_rate", 1.5, 0.01, margin=0.05)
    new = proving.to_state()
    assert restore_guards((proving,), {"error_rate": guard.to_state()}) == ("error_rate",)
    assert proving.to_state() == new


def scored(means: tuple[float, float]) -> Draw:
    """Scores of 0 or 1 with these means, of the control and the canary."""
    return lambda rng, canary: Sample(labelled=float(rng.random() < means[canary]))


def timed(factor: float) -> Draw:
    """Log-normal seconds, sigma 0.5; the canary's times `factor`."""
    return lambda rng, canary: Sample(latency_s=rng.lognormvariate(0.0, 0.5) * (factor if canary else 1.0))


def priced(factor: float) -> Draw:
    """Log-normal costs with a long tail, sigma 1; the canary's times `factor`."""
    return lambda rng, canary: Sample(cost_nusd=round(1e6 * rng.lognormvariate(0.0, 1.0) * (factor if canary else 1.0)))


def made(metric: str, limit: float, alpha: float = 0.01) -> Guard:
    return BoundedGuard(metric, limit, alpha) if metric == "quality" else NumberGuard(metric, limit, alpha)


def until_out(guard: Guard, draw: Draw, units: int, rng: random.Random) -> int | None:
    """Canary units, one of five, until the guardrail fails; None when it never does within `units` of both groups."""
    seen = 0
    for _ in range(units):
        canary = rng.random() < 0.2
        guard.observe(draw(rng, canary), canary=canary, share=0.2)
        seen += canary
        if canary and guard.fails():
            return seen
    return None


@pytest.mark.parametrize(
    ("metric", "limit", "good", "broken", "most"),
    [
        ("quality", 0.95, scored((0.9, 0.9)), scored((0.9, 0.5)), 200),
        ("latency_p95", 1.2, timed(1.0), timed(4.0), 80),
        ("cost", 1.2, priced(1.0), priced(4.0), 200),
    ],
    ids=METRICS,
)
def test_a_quality_or_number_that_breaks_late_is_found_soon(
    metric: str, limit: float, good: Draw, broken: Draw, most: int
) -> None:
    """After 10,000 good units of the canary. A test needs ln(100) nats, 14 for what its cash has become and 2 for the share
    of the right bet, 21 in all. A score that falls to 0.5: a pair wins 0.5 ln(1 + 0.8 * 0.855) + 0.5 ln(1 - 0.8 * 0.145) =
    0.2 nats, so some 105 units; by the mean of all units 1,270. Four times as slow: 78 % of the canary's values lie above
    1.2 times the control's p95, which 5 % of the control's exceed, 0.8 nats a unit, 26 units; by the p95 of all units 370.
    Four times as dear: a harm of 0.4 against 0.1, some 0.25 nats a unit, 85 units; by the mean of all units 715. Simulated:
    87 to 174, 23 to 29 and 61 to 76 units; by the values of all units 1,165 to 1,419, 370 to 428 and 631 to 845."""
    guard, rng = made(metric, limit), random.Random(11)
    assert until_out(guard, good, 50_000, rng) is None
    found = until_out(guard, broken, 10_000, rng)
    assert found is not None
    assert found <= most
    status = guard.status()
    assert (status.verdict, status.lately) == ("fail", True)


@pytest.mark.parametrize(
    ("metric", "limit", "draw", "units"),
    [
        ("quality", 0.9, scored((0.9, 0.85)), 8_000),
        ("latency_p95", 1.4, timed(1.2), 4_000),
        ("cost", 1.5, priced(1.25), 8_000),
    ],
    ids=METRICS,
)
def test_harm_inside_the_limit_is_not_beyond_it(metric: str, limit: float, draw: Draw, units: int) -> None:
    """Half way to the limit: harm is shown, and the test of the limit loses. Each of 20 runs fails by it with probability
    alpha, 1 %, at most: more than 3 of them with p < 1e-4."""
    shown = beyond = 0
    for seed in range(20):
        guard, rng = made(metric, limit), random.Random(seed)
        for _ in range(units):
            canary = rng.random() < 0.5
            guard.observe(draw(rng, canary), canary=canary, share=0.5)
        status = guard.status()
        shown += status.e_value >= status.needed
        beyond += status.lately
    assert shown >= 15
    assert beyond <= 3


@pytest.mark.parametrize(
    ("metric", "limit", "draw"),
    [("quality", 0.9, scored((0.9, 0.81))), ("latency_p95", 1.4, timed(1.4)), ("cost", 1.5, priced(1.5))],
    ids=METRICS,
)
def test_an_arm_at_its_limit_is_rarely_taken_for_beyond_it(metric: str, limit: float, draw: Draw) -> None:
    """The edge of what is tolerated: at alpha 5 % at most 5 % of 100 runs ever reject; more than 13 have p < 0.001."""
    beyond = 0
    for seed in range(100):
        guard, rng = made(metric, limit, 0.05), random.Random(seed)
        for at in range(1_000):
            canary = rng.random() < 0.3
            guard.observe(draw(rng, canary), canary=canary, share=0.3)
            if at % 20 == 0 and guard.status().lately:
                beyond += 1
                break
    assert beyond <= 13


def test_a_canary_that_is_scored_less_often_is_not_beyond_its_limit() -> None:
    """Half of its labels never come: absence is no loss of quality. Of 20 runs more than 3 have p < 1e-4 at alpha 1 %."""
    beyond = 0
    for seed in range(20):
        guard, rng = BoundedGuard("quality", 0.95, 0.01), random.Random(seed)
        for _ in range(4_000):
            canary = rng.random() < 0.5
            if not canary or rng.random() < 0.5:
                guard.observe(scored((0.9, 0.9))(rng, canary), canary=canary, share=0.5)
        beyond += guard.status().lately
    assert beyond <= 3


@pytest.mark.parametrize("metric", METRICS)
def test_each_test_of_a_limit_is_kept_over_a_restart(metric: str) -> None:
    """Whole, and a state of an earlier version, which has none of it, restores all else."""
    guard, again, older = (made(metric, 0.95 if metric == "quality" else 1.2) for _ in range(3))
    rng = random.Random(3)
    for _ in range(400):
        canary = rng.random() < 0.5
        shown = Sample(labelled=float(not canary), latency_s=9.0 if canary else 1.0, cost_nusd=9 if canary else 1)
        guard.observe(shown, canary=canary, share=0.5)
    assert guard.status().lately
    state = json.loads(json.dumps(guard.to_state()))
    again.restore(state)
    assert again.status() == guard.status()
    older.restore([state[0][:9], *state[1:]])  # cash, canaries and the stakes of seven bets: the test of before
    assert older.status() == dataclasses.replace(guard.status(), lately=False)


def test_what_costs_nothing_is_compared_by_its_sum_alone() -> None:
    """A control whose calls are free has no part of it that a canary's could be."""
    guard = NumberGuard("cost", 1.2, 0.01)
    for at in range(200):
        guard.observe(Sample(cost_nusd=at % 2), canary=at % 2 == 1, share=0.5)
    status = guard.status()
    assert not status.lately
    assert status.verdict == "fail"
