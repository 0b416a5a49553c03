"""Posteriors without context: their moments by the textbook, their fading, and what a restart keeps."""

import numpy as np
import pytest

from sidecar.core.posterior import MAX_WEIGHT, ArmBelief, Beta, Normal


def test_a_beta_begins_as_its_prior_and_counts() -> None:
    """Prior mean 0.98 with the weight of 4: Beta(3.92, 0.08); after one 1 and one 0 it is Beta(4.92, 1.08)."""
    one = Beta(0.98, 4.0)
    assert one.moments() == pytest.approx((0.98, 0.98 * 0.02 / 5.0))
    one.add(1.0)
    one.add(0.0)
    a, b = 4.92, 1.08
    assert one.moments() == pytest.approx((a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))))


def test_a_normal_is_the_textbook_normal_inverse_gamma() -> None:
    """Against Murphy (2007), equations 85 to 89, with the prior's numbers and four scores."""
    scores = np.array([0.2, 0.9, 0.4, 0.7])
    one = Normal(0.6)
    assert one.moments() == pytest.approx((0.6, Normal.BETA / ((Normal.ALPHA - 1) * Normal.KAPPA)))
    for score in scores:
        one.add(float(score))
    n, mean = len(scores), scores.mean()
    kappa, alpha = Normal.KAPPA + n, Normal.ALPHA + n / 2
    gap = Normal.KAPPA * n * (mean - 0.6) ** 2 / (2 * kappa)
    beta = Normal.BETA + 0.5 * ((scores - mean) ** 2).sum() + gap
    assert one.moments() == pytest.approx(((Normal.KAPPA * 0.6 + scores.sum()) / kappa, beta / ((alpha - 1) * kappa)))


@pytest.mark.parametrize("one", [Beta(0.5, 1.0), Normal(0.5)])
def test_beyond_their_weight_posteriors_fade(one: Beta | Normal) -> None:
    """They never weigh more than MAX_WEIGHT, and after as many other values the mean has moved most of the way."""
    for _ in range(int(MAX_WEIGHT) + 1):
        one.add(1.0)
    assert one.n == pytest.approx((MAX_WEIGHT + 1) / 2)
    assert one.moments()[0] > 0.99
    for _ in range(int(MAX_WEIGHT)):
        one.add(0.0)
        assert one.n <= MAX_WEIGHT
    assert one.moments()[0] < 0.4


def test_a_constant_score_has_a_variance_that_only_shrinks() -> None:
    """Rounding never makes the sum of squares negative: the variance stays positive and goes to zero."""
    one, last = Normal(0.1), 1.0
    for _ in range(200):
        one.add(0.1)
        variance = one.moments()[1]
        assert 0.0 < variance < last
        last = variance


def test_an_arm_is_its_four_parts_and_a_restart_keeps_them() -> None:
    """Streams and whole answers are apart, in speed and in lateness."""
    one = ArmBelief()
    assert one.speed(True) is one.stream
    assert one.speed(False) is one.whole
    one.answered.add(1.0)
    one.stream.add(0.9)
    one.whole.add(0.3)
    one.late[0].add(1.0)
    one.samples = 3
    again = ArmBelief()
    again.restore(one.to_state())
    assert again.to_state() == one.to_state()
    assert again.speed(False).moments() == one.whole.moments()


def test_what_earlier_versions_wrote_has_no_lateness_and_is_read() -> None:
    kept = {**ArmBelief().to_state(), "late": []}
    again = ArmBelief()
    again.restore(kept)
    assert again.late[0].moments() == ArmBelief().late[0].moments()


@pytest.mark.parametrize(
    "change",
    [
        {"samples": None},
        {"answered": [1.0]},
        {"answered": None},
        {"latency": [[1.0, 2.0, 3.0]]},
        {"latency": [["x", 1, 2], [0, 0, 0]]},
        {"late": 3},
    ],
)
def test_a_broken_state_is_refused(change: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        ArmBelief().restore({**ArmBelief().to_state(), **change})
    with pytest.raises(KeyError):
        ArmBelief().restore({})
