"""The error guarantees and the power of the anytime-valid tests, by simulation with fixed seeds."""

import json
import random  # noqa: TID251  # seeded below; ten times as fast as numpy for single draws
from collections.abc import Callable

import pytest

from sidecar.core.sequential import HarmTest, MeanSequence, OrderTest

STEPS = (0.05, 0.25, 0.50)


def rollout(rng: random.Random, rates: tuple[float, float], per_step: int, alpha: float = 0.02) -> int | None:
    """One rollout of Bernoulli errors, looked at after every unit: canary units until the rejection, or None."""
    test, seen = HarmTest(), 0
    for share in STEPS:
        for _ in range(per_step):
            canary = rng.random() < share
            harm = 1.0 if rng.random() < rates[canary] else 0.0
            seen += canary
            (test.update_canary if canary else test.update_control)(harm, share)
            if test.rejected(alpha):
                return seen
    return None


def share_rejected(runs: list[int | None]) -> float:
    return sum(run is not None for run in runs) / len(runs)


def test_identical_canaries_are_rarely_rejected() -> None:
    """A/A: at alpha 2 % at most 2 % ever reject (Ville). Binomial(1000, 0.02) exceeds 38 with p < 0.0001."""
    rng = random.Random(7)
    runs = [rollout(rng, (0.01, 0.01), 1000) for _ in range(1000)]
    assert sum(run is not None for run in runs) <= 38


def test_bursts_that_hit_both_groups_are_no_evidence() -> None:
    """Errors in outages of both groups (serially dependent): as above, <= 2 %; 300 runs exceed 15 with p < 0.001."""
    rng = random.Random(8)
    rejected = 0
    for _ in range(300):
        test, outage = HarmTest(), False
        for _ in range(1000):
            outage = rng.random() < (0.9 if outage else 0.01)
            harm = 1.0 if rng.random() < (0.9 if outage else 0.005) else 0.0
            (test.update_canary if rng.random() < 0.25 else test.update_control)(harm, 0.25)
            if test.rejected(0.02):
                rejected += 1
                break
    assert rejected <= 15


@pytest.mark.parametrize(("factor", "runs", "caught", "median"), [(3, 100, 0.86, 640), (10, 100, 1.0, 60)])
def test_harm_is_found_soon(factor: int, runs: int, caught: float, median: int) -> None:
    """Reference (ROUTING section 4): 3x in 95 % of runs after 460 canary units, 10x after 60.

    At a true power of 94 % P(Binomial(100, 0.94) < 86) < 0.002. Medians of 500 simulations are 455 and 43; detection
    times are about exponential, so the median of 100 runs has standard errors of 62 and 6: the bounds are three of
    them above.
    """
    rng = random.Random(9)
    found = sorted(n for n in (rollout(rng, (0.01, 0.01 * factor), 2000) for _ in range(runs)) if n is not None)
    assert len(found) >= caught * runs
    assert found[len(found) // 2] <= median


def test_a_canary_that_always_fails_is_out_after_a_few_errors() -> None:
    """At a 5 % step after 100 good control units: alpha 0.4 % (five guardrails) takes at most five errors."""
    test = HarmTest()
    for _ in range(100):
        test.update_control(0.0, 0.05)
    errors = 0
    while not test.rejected(0.004):
        test.update_canary(1.0, 0.05)
        errors += 1
        assert errors <= 5


def test_a_canary_that_turns_bad_late_is_still_found() -> None:
    """After 3,000 good canary units at 50 %: 20 % errors are found within 200 more (about 40 errors)."""
    rng = random.Random(3)
    test = HarmTest()
    for _ in range(6000):
        harm = 1.0 if rng.random() < 0.01 else 0.0
        (test.update_canary if rng.random() < 0.5 else test.update_control)(harm, 0.5)
    assert not test.rejected(0.02)
    more = 0
    while not test.rejected(0.02):
        canary = rng.random() < 0.5
        harm = 1.0 if rng.random() < (0.2 if canary else 0.01) else 0.0
        (test.update_canary if canary else test.update_control)(harm, 0.5)
        more += canary
        assert more <= 200


def test_a_better_canary_is_not_rejected() -> None:
    """One sided: with half the errors E decays; 50 runs, at most 1 expected, more than 5 with p < 0.001."""
    rng = random.Random(4)
    assert share_rejected([rollout(rng, (0.04, 0.02), 500) for _ in range(50)]) <= 0.1


def scores(rng: random.Random, mean: float) -> float:
    return 1 - rng.betavariate(8 * mean, 8 * (1 - mean))


@pytest.mark.parametrize(("quality", "bound"), [(0.9, (0, 12)), (0.75, (190, 200))])
def test_graded_scores_are_tested_by_their_mean(quality: float, bound: tuple[int, int]) -> None:
    """Harm 1 - quality against a control of 0.9 at 25 %: no loss, at most 2 % of 200 (more than 12: p < 0.001)."""
    rng = random.Random(5)
    rejected = 0
    for _ in range(200):
        test = HarmTest()
        for _ in range(1000):
            canary = rng.random() < 0.25
            harm = scores(rng, quality if canary else 0.9)
            (test.update_canary if canary else test.update_control)(harm, 0.25)
            if test.rejected(0.02):
                rejected += 1
                break
    assert bound[0] <= rejected <= bound[1]


@pytest.mark.parametrize(("slower", "bound"), [(1.0, (0, 12)), (1.5, (190, 200))])
def test_slower_canaries_are_found_whatever_the_distribution(slower: float, bound: tuple[int, int]) -> None:
    """Log-normal latencies at 25 %, cuts at the control's true median and p95; A/A as above, 1.5x found in > 95 %."""
    rng = random.Random(6)
    rejected = 0
    for _ in range(200):
        test = OrderTest(2)
        for _ in range(1000):
            canary = rng.random() < 0.25
            value = rng.lognormvariate(0.0, 0.5) * (slower if canary else 1.0)
            (test.update_canary if canary else test.update_control)(value, 0.25, (1.0, 2.276))
            if test.rejected(0.02):
                rejected += 1
                break
    assert bound[0] <= rejected <= bound[1]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_without_a_comparison_there_is_no_evidence(share: float) -> None:
    test = HarmTest()
    for _ in range(100):
        test.update_canary(1.0, share)
        test.update_control(0.0, share)
    assert test.e_value == 1.0
    assert test.canary_n == 100


def test_a_group_whose_results_come_late_is_no_evidence() -> None:
    """Ten thousand control units, harmless or not, before the first of the canary: E does not rise."""
    for harm in (0.0, 0.3, 1.0):
        test = HarmTest()
        for _ in range(10000):
            test.update_control(harm, 0.05)
        assert test.e_value <= 1.0


def test_a_share_that_is_somewhat_wrong_is_harmless() -> None:
    """A/A at 10 % errors with 5.5 % canary units instead of 5 %: of 150 runs 2 % is 3, more than 10 has p < 0.001."""
    rng = random.Random(13)
    rejected = 0
    for _ in range(150):
        test = HarmTest()
        for _ in range(3000):
            if rng.random() < 0.1:
                (test.update_canary if rng.random() < 0.055 else test.update_control)(1.0, 0.05)
                if test.rejected(0.02):
                    rejected += 1
                    break
    assert rejected <= 10


def test_wealth_does_not_overflow() -> None:
    test = HarmTest()
    for _ in range(3000):
        test.update_control(0.0, 0.5)
        test.update_canary(1.0, 0.5)
    assert 1e50 < test.e_value <= 1e101


@pytest.mark.parametrize(
    "draw",
    [lambda r: float(r.random() < 0.02), lambda r: r.random(), lambda r: r.betavariate(9, 1)],
    ids=["rare", "uniform", "skewed"],
)
def test_the_confidence_sequence_covers_at_all_times(draw: Callable[[random.Random], float]) -> None:
    """alpha 10 %: of 200 sequences at most 20 expected ever to miss; more than 36 has p < 0.0005."""
    rng = random.Random(11)
    mean = sum(draw(random.Random(i)) for i in range(20000)) / 20000
    missed = 0
    for _ in range(200):
        sequence = MeanSequence(0.1)
        for _ in range(300):
            sequence.add(draw(rng))
            if not sequence.lower - 0.005 <= mean <= sequence.upper + 0.005:
                missed += 1
                break
    assert missed <= 36


def test_the_confidence_sequence_becomes_narrow() -> None:
    """5,000 scores of standard deviation 0.1 at 5 %: a fixed-sample interval has a radius of 0.003, this one < 0.01."""
    rng = random.Random(12)
    sequence = MeanSequence(0.05)
    assert sequence.mean is None
    for _ in range(5000):
        sequence.add(0.7 + 0.1 * rng.choice((-1, 1)))
    assert sequence.mean == pytest.approx(0.7, abs=0.01)
    assert sequence.upper - sequence.lower < 0.02
    assert sequence.lower < 0.7 < sequence.upper


def test_states_survive_json() -> None:
    """A test that was saved and read goes on exactly as the original."""
    rng = random.Random(1)
    harm, order, mean = HarmTest(), OrderTest(2), MeanSequence(0.05)
    for turn in range(2):
        for _ in range(500):
            x = rng.random()
            harm.update_canary(float(x < 0.1), 0.3)
            harm.update_control(x, 0.3)
            order.update_canary(x, 0.3, (0.5, 0.9))
            mean.add(x)
        if turn == 0:
            kept = json.loads(json.dumps([harm.to_state(), order.to_state(), mean.to_state()]))
            again = (HarmTest.from_state(kept[0]), OrderTest.from_state(kept[1]), MeanSequence.from_state(kept[2]))
            assert again[0].e_value == pytest.approx(harm.e_value)
            assert again[1].e_value == pytest.approx(order.e_value)
            assert (again[2].lower, again[2].upper) == (mean.lower, mean.upper)
            harm, order, mean = again
    assert harm.canary_n == 1000
    assert mean.n == 1000
    with pytest.raises(ValueError, match="expected"):
        HarmTest.from_state([1.0])
    with pytest.raises(ValueError, match="unpack"):
        MeanSequence.from_state([1.0])
