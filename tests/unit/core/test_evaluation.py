"""Off-policy estimates are right where the log can answer, and refused where it cannot."""

import numpy as np
import pytest

from sidecar.core.evaluation import (
    CHECK_BLOCK,
    Answer,
    Estimate,
    Floats,
    Log,
    direct_model,
    doubly_robust_scores,
    effective_size,
    evaluate,
    gaps,
    self_check,
)

ARMS = ("base", "mini", "nano")
MEANS = np.array([[0.9, 0.5], [0.8, 0.7], [0.6, 0.9]])  # arm x stratum
LOGGING = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]])  # stratum x arm
TARGET = np.array([[0.1, 0.2, 0.7], [0.7, 0.2, 0.1]])
TRUTH = float((TARGET * MEANS.T).sum(axis=1).mean())  # strata are equally frequent
LOGGED = float((LOGGING * MEANS.T).sum(axis=1).mean())


def made(seed: int, units: int = 1500, calls: int = 1) -> tuple[Log, Floats]:
    """A log of `units` units with `calls` calls each, and its outcomes: 0 or 1 with the means above, one fate a unit."""
    rng = np.random.default_rng(seed)
    stratum = rng.integers(2, size=units)
    chosen = np.array([rng.choice(3, p=LOGGING[one]) for one in stratum])
    fate = (rng.random(units) < MEANS[chosen, stratum]).astype(np.float64)
    log = Log(
        arms=ARMS,
        chosen=chosen.repeat(calls),
        propensity=LOGGING[stratum, chosen].repeat(calls),
        target=TARGET[stratum].repeat(calls, axis=0),
        possible=np.ones((units * calls, 3), dtype=bool),
        stratum=stratum.repeat(calls),
        unit=np.arange(units).repeat(calls),
    )
    return log, fate.repeat(calls)


def told(log: Log, outcome: Floats) -> Answer:
    answer = evaluate(log, outcome)
    assert isinstance(answer, Answer)
    return answer


@pytest.mark.parametrize("calls", [1, 4])
def test_ninety_five_percent_intervals_cover(calls: int) -> None:
    """Of 200 logs at least 177 intervals contain the truth, for each estimator, also when four calls share one fate.

    At 95 % coverage the count is Binomial(200, .95): mean 190, standard deviation 3.08; 177 is 4.2 of them below, which
    chance reaches once in 70,000. Intervals that took four calls of one fate for four would have half the width and
    cover 67 % (134 of 200).
    """
    covered = np.zeros(4)
    for seed in range(200):
        answer = told(*made(seed, units=800, calls=calls))
        covered += [
            answer.ips.holds(TRUTH),
            answer.snips.holds(TRUTH),
            answer.dr.holds(TRUTH),
            answer.change.holds(TRUTH - LOGGED),
        ]
    assert (covered >= 177).all(), covered


def test_dr_is_tighter_than_ips_where_strata_tell_arms_apart() -> None:
    """The direct model takes out what arm and stratum explain."""
    answer = told(*made(1, units=4000))
    assert answer.dr.high - answer.dr.low < 0.8 * (answer.ips.high - answer.ips.low)
    assert answer.units == answer.calls == 4000


def test_dr_survives_wrong_probabilities_with_a_right_model_and_a_wrong_model_with_right_ones() -> None:
    """Doubly robust: one of the two is enough.

    Standard error of either mean is below .02 at 20,000 units, so .05 is more than 2.5 of them around a fixed seed; the
    probabilities are made wrong by a factor of two, which moves IPS by half of the value.
    """
    log, outcome = made(2, units=20_000)
    wrong = Log(log.arms, log.chosen, log.propensity / 2, log.target, log.possible, log.stratum, log.unit)
    assert abs(told(wrong, outcome).dr.value - TRUTH) < 0.05
    assert abs(told(wrong, outcome).ips.value - TRUTH) > 0.3
    blind = Log(log.arms, log.chosen, log.propensity, log.target, log.possible, log.stratum * 0, log.unit)
    assert abs(told(blind, outcome).dr.value - TRUTH) < 0.05


def test_each_call_is_judged_by_a_model_that_has_not_seen_it() -> None:
    """Changing one unit's outcome changes no other score of its own fold."""
    log, outcome = made(3, units=50)
    before = doubly_robust_scores(log, outcome)
    outcome[0] += 10.0
    after = doubly_robust_scores(log, outcome)
    same_fold = (log.unit % 5 == 0) & (log.unit != 0)
    assert np.array_equal(before[same_fold], after[same_fold])
    assert not np.array_equal(before[log.unit % 5 == 1], after[log.unit % 5 == 1])


def test_thin_strata_lean_on_the_arm_and_unseen_arms_on_all() -> None:
    """One call of 1.0 in a stratum moves it by 1/11 of the way from the arm's mean."""
    log = Log(
        ("a", "b"), np.array([0] * 11), np.ones(11), np.ones((11, 2)) / 2, np.ones((11, 2), bool),
        np.array([0] * 10 + [1]), np.arange(11),
    )  # fmt: skip
    table = direct_model(log, np.array([0.0] * 10 + [1.0]), np.ones(11, dtype=bool))
    arm = (1 + 10 / 11) / 21
    assert table[0] == pytest.approx([10 * arm / 20, (1 + 10 * arm) / 11])
    assert table[1] == pytest.approx([1 / 11, 1 / 11])


def test_unknown_outcomes_are_left_out_not_taken_for_zero() -> None:
    """Half of the labels are missing at random: the estimate is of those that are there."""
    log, outcome = made(4, units=4000)
    outcome[np.random.default_rng(0).random(4000) < 0.5] = np.nan
    answer = told(log, outcome)
    assert answer.calls == int(np.isfinite(outcome).sum())
    assert answer.dr.holds(TRUTH)


def test_an_outcome_that_nobody_measured_has_no_answer() -> None:
    log, outcome = made(4, units=10)
    assert evaluate(log, outcome * np.nan) == "no call of the log has a value"


def test_few_effective_units_are_refused() -> None:
    """Ninety-nine units are too few however equal their weights; so is a long log whose weight lies on 0.5 % of it."""
    log, outcome = made(5, units=99)
    assert "at least 100 are needed" in str(evaluate(log, outcome))
    chosen = np.array([1] * 200 + [0] * 39_800)
    rare = Log(
        ("a", "b"), chosen, np.where(chosen, 0.005, 0.995), np.tile([0.0, 1.0], (40_000, 1)),
        np.ones((40_000, 2), bool), chosen * 0, np.arange(40_000),
    )  # fmt: skip
    assert evaluate(rare, chosen + 0.0) == "the effective sample size is 200 of 40000 units; at least 400 are needed"


def test_effective_size_counts_units_and_not_calls() -> None:
    assert effective_size(np.ones(8), np.arange(8)) == 8
    assert effective_size(np.ones(8), np.arange(8) // 4) == 2
    assert effective_size(np.zeros(8), np.arange(8)) == 0


def test_a_log_that_can_answer_has_no_gaps() -> None:
    """All of 50 true logs: each of 150 arm checks refuses falsely once in 16,000, so one in 100 such tests would."""
    assert [gaps(made(seed)[0]) for seed in range(50)] == [()] * 50


def test_an_empty_log_says_so() -> None:
    log, _ = made(0, units=4)
    assert gaps(log.where(np.zeros(4, dtype=bool))) == ("no logged call was decided by chance",)


def test_arms_outside_the_log_are_named() -> None:
    """Target weight that no column carries lies on arms that the log does not have."""
    log, _ = made(0)
    less = Log(log.arms, log.chosen, log.propensity, log.target * 0.9, log.possible, log.stratum, log.unit)
    assert gaps(less)[0] == "10.0% of the calls would go to arms that the log does not have"


def test_an_arm_that_never_served_is_named() -> None:
    log, _ = made(0)
    kept = log.where(log.chosen != 2)
    assert any("arm nano would serve" in text and "never served" in text for text in gaps(kept))


def test_a_deterministic_log_answers_only_for_itself() -> None:
    """Propensity 1 for one arm: another arm could not be chosen there, wherever else it served."""
    log, _ = made(0)
    possible = log.possible.copy()
    possible[: len(possible) // 2] = log.chosen[: len(possible) // 2, None] == np.arange(3)
    fixed = Log(log.arms, log.chosen, log.propensity, log.target, possible, log.stratum, log.unit)
    assert any("where the log could not choose it" in text for text in gaps(fixed))


def test_an_arm_that_came_late_is_found_by_its_weights() -> None:
    """An arm that waits is eligible by name. Its weights stand for half of what the target would give it."""
    log, _ = made(0, units=4000)
    late = log.where((log.chosen != 2) | (np.arange(4000) > 2000))
    told_of = [text for text in gaps(late) if "arm nano" in text]
    assert len(told_of) == 1
    assert "could not be chosen in part of the log" in told_of[0]


def test_two_calls_of_one_unit_are_no_evidence_of_a_gap() -> None:
    """One unit has no standard error, so nothing can be said to be missing."""
    log, _ = made(0, units=1, calls=2)
    target = np.tile([0.0, 0.0, 0.0], (2, 1))
    target[:, log.chosen[0]] = 1.0
    one = Log(log.arms, log.chosen, log.propensity, target, log.possible, log.stratum, log.unit)
    assert gaps(one) == ()


def test_the_logging_policy_evaluated_on_its_own_log_gives_its_own_mean() -> None:
    """Of 100 true logs at least 86 intervals hold the logged mean: Binomial(100, .95) minus 4.1 standard deviations."""
    held = 0
    for seed in range(100):
        log, outcome = made(seed)
        checked = self_check(log, outcome, log.stratum * 0)
        assert checked is not None
        held += checked[1].holds(checked[0])
    assert held >= 86


def test_the_self_check_finds_false_probabilities() -> None:
    """One arm was logged with half of the probability that it had."""
    log, outcome = made(1, units=6 * CHECK_BLOCK)
    wrong = np.where(log.chosen == 0, log.propensity / 2, log.propensity)
    checked = self_check(
        Log(log.arms, log.chosen, wrong, log.target, log.possible, log.stratum, log.unit), outcome, log.stratum
    )
    assert checked is not None
    assert not checked[1].holds(checked[0])


def test_a_regime_that_only_one_half_has_seen_counts_as_it_is() -> None:
    """Two units of different regimes: neither half can say anything of the other, so the mean stands."""
    log, outcome = made(0, units=2)
    checked = self_check(log, outcome, np.array([0, 1]))
    assert checked is not None
    assert checked[1].value == pytest.approx(checked[0])
    assert self_check(log, outcome * np.nan, np.array([0, 1])) is None


def test_a_few_odd_values_among_many_are_not_checked() -> None:
    """Three failures in 1,500 calls: the normal interval of so few says nothing about the probabilities."""
    log, outcome = made(0)
    rare = np.zeros(len(outcome))
    rare[:3] = 1.0
    assert self_check(log, rare, log.stratum) is None


def test_a_small_log_with_an_empty_fold_is_scored_whole() -> None:
    log, outcome = made(0, units=3)
    assert np.isfinite(doubly_robust_scores(log, outcome)).all()


def test_an_interval_holds_its_ends() -> None:
    assert Estimate(1.0, 0.0, 2.0).holds(2.0)
    assert not Estimate(1.0, 0.0, 2.0).holds(2.1)
