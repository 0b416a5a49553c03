from math import erf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.bandit import (
    EVIDENCE,
    FLOOR,
    MAX_SUBSETS,
    MAX_WEIGHT,
    MIN_AGE_S,
    MIN_UPDATES,
    Beta,
    Normal,
    Selector,
    best_probabilities,
)
from sidecar.core.policy import Objective
from sidecar.core.reward import SILENT, Signal

ARMS = ("base", "mini", "haiku")
GOOD, BAD = Signal(1.0, 1.0, "validators", 0.6, 0.7), Signal(0.0, 0.0, "outcome", None, 0.1)


def selector(**objective: float) -> Selector:
    return Selector(ARMS, Objective(**objective))  # type: ignore[arg-type]  # numbers of one test


def test_two_arms_agree_with_the_closed_form() -> None:
    """With everything feasible, P(arm 0 is best of two) is Phi((m0 - m1) / sqrt(s0^2 + s1^2))."""
    for m0, m1, s0, s1 in ((0.5, 0.5, 0.1, 0.1), (0.6, 0.5, 0.1, 0.2), (0.5, 0.55, 0.001, 0.1), (0.2, 0.9, 0.05, 0.05)):
        p = best_probabilities(np.array([m0, m1]), np.array([s0, s1]), np.ones(2))
        exact = 0.5 * (1 + erf((m0 - m1) / sqrt(s0 * s0 + s1 * s1) / sqrt(2)))
        assert p[0] == pytest.approx(exact, abs=2e-3)


def test_quadrature_agrees_with_simulation() -> None:
    """The vector is the probability of the stated experiment. 200,000 draws: the standard error of a share is at most
    0.0011, so 0.006 is more than five of them for each of 4 arms."""
    rng = np.random.default_rng(3)
    mean, sd, gates = np.array([0.5, 0.55, 0.6, 0.3]), np.array([0.02, 0.1, 0.1, 0.3]), np.array([1.0, 0.7, 0.2, 0.9])
    draws = np.where(rng.random((200_000, 4)) < gates, rng.normal(mean, sd, (200_000, 4)), -np.inf)
    shares = np.bincount(draws.argmax(axis=1), minlength=4) / 200_000
    assert best_probabilities(mean, sd, gates) == pytest.approx(shares, abs=0.006)


def test_draws_follow_the_logged_propensity() -> None:
    """Chi-square of 20,000 draws against the vector they were drawn from. Two degrees of freedom: P(X > 18.4) = 1e-4,
    and the seed is fixed."""
    rng, made = np.random.default_rng(11), selector()
    for arm, n in (("base", 30), ("mini", 6), ("haiku", 3)):
        for _ in range(n):
            made.partial_fit(arm, GOOD, True)
    choice = made.choice(ARMS, True, 0.0)
    counts = np.zeros(3)
    for _ in range(20_000):
        counts[choice.draw(rng.random())] += 1
    expected = 20_000 * np.array(choice.probabilities)
    assert ((counts - expected) ** 2 / expected).sum() < 18.4
    assert choice.draw(0.0) == 0
    assert choice.draw(1.0 - 2**-53) == 2


def test_a_bad_arm_is_shut_and_others_keep_the_floor() -> None:
    """An arm shown to break the quality constraint gets exactly nothing; every other keeps the floor."""
    made = selector()
    for _ in range(400):
        made.partial_fit("base", GOOD, True)
        made.partial_fit("haiku", GOOD, True)
    for _ in range(EVIDENCE):
        made.partial_fit("mini", BAD, True)
    made.cost_scores = {"base": 0.0, "mini": 1.0, "haiku": 1.0}
    p = dict(zip(ARMS, made.propensities(ARMS).tolist(), strict=True))
    assert p["mini"] == 0.0
    assert p["base"] == pytest.approx(FLOOR, abs=2e-3)
    assert p["haiku"] > 0.95


def test_quality_is_a_constraint_before_money() -> None:
    """A hundred times cheaper does not buy a 20 % quality loss, but does buy a 2 % one."""
    made = selector(max_quality_loss=0.05)
    for index in range(2_000):
        made.label("base", 0.9)
        made.label("mini", 0.72)
        made.label("haiku", 0.88)
        if index % 10 == 0:
            for arm in ARMS:
                made.partial_fit(arm, GOOD, True)
    made.cost_scores = {"base": 0.0, "mini": 1.0, "haiku": 0.6}
    p = made.propensities(ARMS)
    assert p[1] == 0.0
    assert p[2] > 0.97


def test_streams_and_whole_answers_do_not_share_latency() -> None:
    """What is learnt from streams does not move the choice for whole answers."""
    made = selector(quality_weight=0.0, cost_weight=0.0, latency_weight=1.0)
    for _ in range(50):
        for arm in ARMS:
            made.partial_fit(arm, Signal(1.0, 1.0, "validators", 0.9 if arm == "mini" else 0.2, 0.5), True)
    assert made.propensities(ARMS, True)[1] > 0.95
    assert made.propensities(ARMS, False) == pytest.approx([1 / 3] * 3, abs=0.02)


def test_vectors_are_cached_until_enough_is_learnt() -> None:
    """A vector serves until MIN_UPDATES signals or MIN_AGE_S with news; prices act at once."""
    made = selector()
    first = made.choice(ARMS, True, 0.0)
    assert made.choice(ARMS, True, 99.0) is first
    made.partial_fit("mini", SILENT, True)
    assert made.choice(ARMS, True, 99.0) is first
    made.partial_fit("mini", GOOD, True)
    assert made.choice(ARMS, True, 0.01) is first
    second = made.choice(ARMS, True, MIN_AGE_S)
    assert second is not first
    for _ in range(MIN_UPDATES):
        made.partial_fit("mini", GOOD, True)
    third = made.choice(ARMS, True, MIN_AGE_S)
    assert third is not second
    made.touch()
    assert made.choice(ARMS, True, MIN_AGE_S) is not third


def test_the_cache_of_vectors_is_bounded() -> None:
    """However many subsets of arms are asked for, memory stays bounded."""
    many = tuple(f"a{index}" for index in range(MAX_SUBSETS + 2))
    made = Selector(many, Objective())
    for arm in many[1:]:
        assert sum(made.choice((many[0], arm), True, 0.0).probabilities) == pytest.approx(1.0)
    assert len(made._choices) <= MAX_SUBSETS


def test_broken_beliefs_fall_back_to_the_baseline() -> None:
    """INC-37: a posterior that is not a number gives everything to the baseline, or equal shares without it."""
    made = selector()
    made.beliefs["mini"].labels.total = float("nan")
    made.beliefs["mini"].samples = 1
    assert made.propensities(ARMS).tolist() == [1.0, 0.0, 0.0]
    assert made.propensities(("mini", "haiku")).tolist() == [0.5, 0.5]


def test_arms_that_are_all_shut_share_equally() -> None:
    """Rules may leave only arms that are shown to be worse; nothing is divided by zero (warnings are errors)."""
    equal = best_probabilities(np.array([0.2, 0.8]), np.array([0.1, 0.1]), np.zeros(2))
    assert equal.tolist() == [0.5, 0.5]


def test_a_replaced_score_is_taken_back() -> None:
    """The last write per source wins: the posterior equals one that only saw the last score."""
    twice, once = selector(), selector()
    twice.label("mini", 0.2)
    twice.label("mini", 0.9, previous=0.2)
    once.label("mini", 0.9)
    assert twice.beliefs["mini"].labels.moments() == pytest.approx(once.beliefs["mini"].labels.moments())
    assert twice.beliefs["mini"].samples == 1


def test_posteriors_fade_and_converge() -> None:
    """Weights are bounded, means converge to what is observed."""
    beta, normal = Beta(), Normal(0.7)
    for index in range(int(MAX_WEIGHT) + 500):
        beta.add(index % 2)
        normal.add(0.25 if index % 2 else 0.75)
    assert max(beta.n, normal.n) <= MAX_WEIGHT
    assert beta.moments()[0] == pytest.approx(0.5, abs=0.01)
    mean, variance = normal.moments()
    assert mean == pytest.approx(0.5, abs=0.01)
    assert variance == pytest.approx(0.0625 / normal.n, rel=0.1)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(ARMS), st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=60),
    st.sets(st.sampled_from(ARMS), min_size=1),
)
def test_propensities_are_a_distribution(events: list[tuple[str, float, float, bool]], subset: set[str]) -> None:
    """Whatever was learnt, the vector over any subset sums to 1 and holds no negative number."""
    made = selector()
    for arm, value, latency, labelled in events:
        if labelled:
            made.label(arm, value)
        else:
            made.partial_fit(arm, Signal(value, value, "validators", latency, value), latency > 0.5)
    p = made.propensities(tuple(sorted(subset)))
    assert p.sum() == pytest.approx(1.0)
    assert (p >= 0.0).all()
