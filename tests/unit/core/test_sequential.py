"""The error guarantees and the power of the anytime-valid tests, by simulation with fixed seeds."""

import json
import math
import random  # noqa: TID251  # seeded below; ten times as fast as numpy for single draws
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.sequential import HarmTest, LossTest, MarginTest, MeanSequence

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


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_canary_at_the_tolerated_harm_is_rarely_rejected(share: float) -> None:
    """With 1.5 times tolerated, 1.5 times the rate is the edge of H0: the label of each harm is the canary's with
    probability 1.5 w / (1.5 w + 1 - w), and at alpha 2 % at most 2 % ever reject (Ville). Binomial(1000, 0.02) exceeds 38
    with p < 0.0001. Equal arms are within H0, too: they lose."""
    rng = random.Random(31)
    edge = 1.5 * share / (1.5 * share + 1 - share)
    rejected = 0
    for _ in range(1000):
        test = HarmTest(1.5)
        for _ in range(200):
            (test.update_canary if rng.random() < edge else test.update_control)(1.0, share)
            if test.rejected(0.02):
                rejected += 1
                break
    assert rejected <= 38
    equal = HarmTest(1.5)
    for _ in range(400):
        (equal.update_canary if rng.random() < share else equal.update_control)(1.0, share)
    assert equal.e_value < 1.0


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


@pytest.mark.parametrize("outages", [False, True])
def test_a_base_rate_that_drifts_is_no_evidence(outages: bool) -> None:
    """Both arms share a rate that swings between 0.2 and 5 %, without or with outages of both in which 70 % fail: the
    promise is for every course of the common rate. At alpha 2 %: Binomial(300, 0.02) exceeds 15 with p < 0.001."""
    rng = random.Random(21)
    rejected = 0
    for _ in range(300):
        test = HarmTest()
        for at in range(4000):
            rate = 0.7 if outages and at % 700 < 30 else 0.002 * 25 ** (0.5 - 0.5 * math.cos(at / 150))
            if rng.random() >= rate:
                continue
            share = STEPS[at // 1400]
            (test.update_canary if rng.random() < share else test.update_control)(1.0, share)
            if test.rejected(0.02):
                rejected += 1
                break
    assert rejected <= 15


def harms(rng: random.Random, rates: tuple[float, float], share: float, alpha: float, most: int) -> int | None:
    """As `rollout` in one stage, skipping what does no harm: canary units until the rejection, or None."""
    test, seen, total = HarmTest(), 0, share * rates[1] + (1 - share) * rates[0]
    q = share * rates[1] / total
    harmless = share * (1 - rates[1]) / (1 - total)
    while seen < most:
        skipped = sum(rng.random() < harmless for _ in range(int(math.log(1 - rng.random()) / math.log(1 - total))))
        test.count(skipped)
        canary = rng.random() < q
        seen += skipped + canary
        (test.update_canary if canary else test.update_control)(1.0, share)
        if test.rejected(alpha):
            return seen
    return None


@pytest.mark.parametrize(("factor", "runs"), [(3, 300), (10, 1500)])
def test_harm_is_found_almost_as_soon_as_with_both_rates_known(factor: int, runs: int) -> None:
    """Who knows both rates needs ln(1/alpha) / KL canary units on average; at 5 %, base 1 %, alpha 1 % our median is at most
    1.4 times that: 490 units for 3x, 44 for 10x. Simulated medians of 4,000 and 30,000 runs are 450 and 40. Times are about
    exponential beyond a delay, so the median of n runs has a standard error near median / sqrt(n): 26 and 1.
    """
    rng = random.Random(9)
    good, bad = 0.01, 0.01 * factor
    kl = bad * math.log(bad / good) + (1 - bad) * math.log((1 - bad) / (1 - good))
    found = sorted(harms(rng, (good, bad), 0.05, 0.01, 10**5) or 10**9 for _ in range(runs))
    assert found[runs // 2] <= 1.4 * math.log(100) / kl


def test_units_without_harm_may_be_skipped() -> None:
    """Any number of them at once gives what as many single observations give, also where cash is bet anew."""
    rng = random.Random(22)
    one, skips = HarmTest(), HarmTest()
    for _ in range(200):
        units = rng.randrange(100)
        for _ in range(units):
            one.update_canary(0.0, 0.25)
        skips.count(units)
        for test in (one, skips):
            test.update_canary(0.3, 0.25)
    assert skips.to_state() == one.to_state()


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


def test_the_confidence_sequence_follows_a_drift() -> None:
    """9 of 10, then 1 of 2: of the mean of all so far it is right at every time (alpha 2.5 %, 40 sequences: 1 expected)."""
    missed = 0
    for seed in range(40):
        rng, sequence, true = random.Random(seed), MeanSequence(0.025), 0.0
        for n in range(1, 3001):
            rate = 0.9 if n <= 1000 else 0.5
            true += rate
            sequence.add(float(rng.random() < rate))
            assert sequence.mean is not None
            assert sequence.lower <= sequence.mean <= sequence.upper
            if not sequence.lower <= true / n <= sequence.upper:
                missed += 1
                break
    assert missed <= 4


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


@given(
    harms=st.lists(st.tuples(st.booleans(), st.floats(0.0, 1.0)), max_size=60),
    harm=st.floats(0.0, 1.0),
    share=st.floats(0.01, 0.99),
)
def test_every_bet_on_a_harm_is_fair(harms: list[tuple[bool, float]], harm: float, share: float) -> None:
    """Whatever came before and however great the harm: the mean of E over the label is E, and a canary's harm raises it."""
    ends = []
    for canary in (False, True):
        test = HarmTest()
        for group, value in harms:
            (test.update_canary if group else test.update_control)(value, 0.2)
        before = test.e_value
        (test.update_canary if canary else test.update_control)(harm, share)
        ends.append(test.e_value)
    assert share * ends[1] + (1 - share) * ends[0] == pytest.approx(before)
    assert ends[0] <= before * (1 + 1e-12)
    assert ends[1] >= before * (1 - 1e-12)


@given(values=st.lists(st.tuples(st.booleans(), st.floats(0.0, 1.0)), max_size=80), margin=st.floats(0.0, 0.5))
def test_a_margin_bet_never_loses_all_and_at_the_margin_it_is_fair(
    values: list[tuple[bool, float]], margin: float
) -> None:
    """E stays positive; and the next pair, of a control without harm and a canary that is bad with probability `margin`,
    which is exactly the margin, leaves its mean as it is."""
    ends = []
    for harm in (0.0, 1.0):
        test = MarginTest(margin)
        for canary, value in values:
            (test.add_canary if canary else test.add_control)(value)
        while test.to_state()[6:]:
            test.add_control(0.5)  # whoever waits gets its control
        test.add_canary(0.5)
        while test.to_state()[6:]:
            test.add_control(0.5)
        before = test.e_value
        test.add_control(0.0)
        test.add_canary(harm)
        ends.append(test.e_value)
        assert test.e_value > 0.0
    assert (1 - margin) * ends[0] + margin * ends[1] == pytest.approx(before)


def scored(rng: random.Random, test: MarginTest, qualities: tuple[float, float], share: float, most: int) -> int | None:
    """Scores of the canary until it is shown not to be inferior (5 % error), or None."""
    seen = 0
    while seen < most:
        canary = rng.random() < share
        seen += canary
        (test.add_canary if canary else test.add_control)(float(rng.random() >= qualities[canary]))
        if test.rejected(0.05):
            return seen
    return None


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_an_equal_arm_is_shown_not_to_be_inferior(share: float) -> None:
    """Quality 0.9, margin 5 %: D has mean 0.045 and variance at least 0.09, so the best bet wins at most 0.011 a pair and
    needs ln(20) / 0.011 = 270 pairs; ours learns it. Three of four within 1,500 (simulated: nine of ten)."""
    rng = random.Random(23)
    found = [scored(rng, MarginTest(0.05), (0.9, 0.9), share, 1500) for _ in range(60)]
    assert sum(one is not None for one in found) >= 45


@pytest.mark.parametrize(("share", "scored_less"), [(0.05, False), (0.5, False), (0.5, True)])
def test_an_inferior_arm_is_rarely_called_equal(share: float, scored_less: bool) -> None:
    """Exactly 5 % worse, also when its users send half as many scores: of 200 at 5 % at most 10 expected; more than 20
    has p < 0.001."""
    rng = random.Random(24)
    half = share / (2 - share) if scored_less else share
    wrong = [scored(rng, MarginTest(0.05), (0.9, 0.855), half, 400) for _ in range(200)]
    assert sum(one is not None for one in wrong) <= 20


def test_canary_scores_wait_for_a_control_score_and_not_for_ever() -> None:
    test = MarginTest(0.05)
    for _ in range(1000):
        test.add_canary(1.0)
    assert test.e_value == 1.0
    assert len(test.to_state()) == 6 + 16
    for _ in range(300):
        test.add_control(0.0)
    test.add_canary(0.0)
    assert test.to_state()[1] == 17


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_scores_of_another_time_are_no_evidence(share: float) -> None:
    """The quality of both falls from 0.9 to 0.5, or rises, in one step. An arm that is 7 % worse is called equal (margin
    5 %), and one that is 3 % worse beyond the limit (5 %), with probability 1/20 each: of 100 five at most expected, more
    than 13 has p < 0.001."""
    equal = beyond = 0
    for seed in range(100):
        rng = random.Random(seed)
        margin, loss = MarginTest(0.05), LossTest(0.05)
        proved = passed = False
        for turn in range(1600):
            canary = rng.random() < share
            falling, rising = (0.9, 0.5) if turn < 800 else (0.5, 0.9)  # first and second half
            harm = float(rng.random() >= falling * (0.93 if canary else 1.0))
            (margin.add_canary if canary else margin.add_control)(harm)
            harm = float(rng.random() >= rising * (0.97 if canary else 1.0))
            (loss.update_canary if canary else loss.update_control)(harm, share)
            proved, passed = proved or margin.rejected(0.05), passed or loss.rejected(0.05)
        equal, beyond = equal + proved, beyond + passed
    assert equal <= 13
    assert beyond <= 13


def test_states_survive_json() -> None:
    """A test that was saved and read goes on exactly as the original."""
    rng = random.Random(1)
    harm, margin, mean = HarmTest(), MarginTest(0.05), MeanSequence(0.05)
    for turn in range(2):
        for _ in range(500):
            x = rng.random()
            harm.update_canary(float(x < 0.1), 0.3)
            harm.update_control(x, 0.3)
            (margin.add_canary if x < 0.6 else margin.add_control)(x)
            mean.add(x)
        if turn == 0:
            kept = json.loads(json.dumps([harm.to_state(), margin.to_state(), mean.to_state()]))
            again = (HarmTest.from_state(kept[0]), MarginTest(0.05), MeanSequence.from_state(kept[2]))
            again[1].restore(kept[1])
            assert again[0].e_value == pytest.approx(harm.e_value)
            assert again[1].to_state() == margin.to_state()
            assert (again[2].lower, again[2].upper) == (mean.lower, mean.upper)
            harm, margin, mean = again
    assert harm.canary_n == 1000
    assert mean.n == 1000
    with pytest.raises(ValueError, match="expected"):
        HarmTest.from_state([1.0])
    with pytest.raises(ValueError, match="unpack"):
        MeanSequence.from_state([1.0])
