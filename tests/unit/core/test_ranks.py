"""Ranks, bets and the detector: fair bets whatever the distribution, and alarms no more often than promised."""

import math

import numpy as np
import pytest

from sidecar.core.ranks import BETS, EPOCH, Detector, Ranks, e_values, jitter


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_each_bet_is_fair(n: int) -> None:
    """The mean over the ranks, which are equally likely, is 1."""
    paid = [e_values(rank, n) for rank in range(1, n + 1)]
    assert [math.fsum(column) / n for column in zip(*paid, strict=True)] == pytest.approx([1.0] * len(BETS))
    assert paid[0] >= paid[-1]


def test_ranks_count_from_the_largest() -> None:
    ranks = Ranks()
    assert [ranks.add(score) for score in (5.0, 7.0, 6.0, 1.0)] == [(1, 1), (1, 2), (2, 3), (4, 4)]
    assert len(ranks) == ranks.seen == 4


def test_ties_take_turns() -> None:
    """Of 400 equal scores the rank is uniform: with 400 terms the mean of rank / n has a deviation of 0.0144."""
    ranks = Ranks()
    shares = [(rank - 0.5) / n for rank, n in (ranks.add(1.0) for _ in range(400))]
    assert abs(sum(shares) / 400 - 0.5) < 4 * 0.0144
    assert 0.0 <= min(map(jitter, range(1000))) < max(map(jitter, range(1000))) < 1.0


def test_an_epoch_ends_and_the_next_begins_empty() -> None:
    ranks = Ranks()
    for score in range(EPOCH):
        ranks.add(float(score))
    assert ranks.add(-1.0) == (1, 1)
    assert ranks.seen == EPOCH + 1


def test_false_alarms_stay_within_the_budget() -> None:
    """20,000 independent steps, mean time to an alarm at least 200: at most 100 alarms are expected. The times between
    alarms are independent; were they exponential, the count would have deviation 10: 100 + 4 x 10 = 140."""
    rng, detector = np.random.default_rng(5), Detector(200.0, kinds=2)
    alarms = sum(detector.step(tuple(row)) for row in rng.standard_cauchy((20_000, 2)).tolist())
    assert 0 < alarms <= 140


def test_a_change_is_found_soon_and_everything_begins_anew() -> None:
    """After 100 usual scores, scores above all of them: each of the first pays at least 100 ** 0.9 = 63 on the first
    bet, so three of them are worth more than 63 ** 3 / 3 = 83,000 a bet."""
    rng, detector = np.random.default_rng(5), Detector(20_000.0)
    for score in rng.random(100).tolist():
        assert not detector.step((score,))
    assert detector.steps == 100
    steps = next(at for at in range(1, 20) if detector.step((1.0 + at,)))
    assert steps <= 3
    assert (detector.steps, detector.evidence) == (0, 0.0)


def test_state_goes_on_where_it_was() -> None:
    one, two = Detector(1e9, kinds=2), Detector(1e9, kinds=2)
    rng = np.random.default_rng(1)
    for row in rng.random((50, 2)).tolist():
        one.step(row)
    two.restore(one.to_state())
    assert (two.steps, two.evidence) == (50, one.evidence)
    for row in rng.random((20, 2)).tolist():
        one.step(row)
        two.step(row)
    assert two.evidence == one.evidence


@pytest.mark.parametrize(
    "state", [[1], [1, 2], [[[1.0]], []], [[[1.0] * 3], [[1, 2]]], [[[1.0] * 3], [["x", []]]], [[["x"]], []]]
)
def test_a_broken_state_is_refused(state: list[object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Detector(10.0).restore(state)
