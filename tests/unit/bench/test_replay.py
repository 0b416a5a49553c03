"""Streams: the engine learns what it is shown, equal seeds give equal streams, and changes happen when they are told."""

import numpy as np
import pytest

from bench.matrices import Matrix
from bench.replay import Phase, Told, order, replay
from bench.tape import tape
from tests.fixtures.matrices import matrix

QUALITY = Told(quality_weight=1.0, cost_weight=0.0)


def test_a_stream_learns_what_it_is_told_to_want() -> None:
    """Quality alone finds the good model (.9), cost alone the cheap one ($.001, others .01 and .02).

    In 600 calls the good model's mean has sd .012; .8 leaves room for 50 calls of exploration at .6.
    """
    made = tape(matrix(600))
    best = replay(made, 1, QUALITY)
    cheap = replay(made, 1, Told(quality_weight=0.05, cost_weight=0.95))
    assert best.point[1] > 0.8
    assert cheap.point[0] < 0.004 < best.point[0]
    again = replay(made, 1, QUALITY)
    assert (again.arms == best.arms).all()
    assert len(best.arms) == 600


def test_prices_are_fitted_and_never_negative() -> None:
    """What the tokens tell is the price; a price that would be negative is the smallest there is."""
    made = tape(matrix(60))
    total = [price.input_fusd * 10 + price.output_fusd * 10 for price in made.prices]
    assert total == pytest.approx([1e12, 1e13, 2e13])
    falling = np.tile(np.arange(60.0)[:, None], (1, 3))
    plain = matrix(60)
    odd = Matrix(
        "odd", plain.models, plain.tasks, plain.prompts, plain.quality, plain.cost_usd, falling, 60.0 - falling / 2,
        plain.latency_s,
    )  # fmt: skip
    assert all(price.input_fusd >= 1 and price.output_fusd >= 1 for price in tape(odd).prices)


def test_without_token_counts_the_mean_cost_is_known() -> None:
    """Four characters of the prompt make a token, and price x tokens has the mean of the costs, to a femto-dollar each."""
    made = tape(matrix(60, tokens=np.nan))
    sizes = [row[0].input_tokens for row in made.usage]
    assert sizes == [len(prompt) // 4 for prompt in made.matrix.prompts]
    assert {row[0].output_tokens for row in made.usage} == {0}
    means = [sum(price.input_fusd * (size or 0) for size in sizes) / 60 / 1e15 for price in made.prices]
    assert means == pytest.approx([0.001, 0.01, 0.02])


def test_a_phase_has_its_own_prices() -> None:
    """A model whose price falls to a hundredth costs a hundredth from the first call of the phase on."""
    made = tape(matrix(40, costs=(0.01, 0.01, 0.01)))
    prompts = order(made.matrix, 0)
    trail = replay(made, 0, QUALITY, [Phase(prompts), Phase(prompts, price=(0.01, 0.01, 0.01))])
    assert trail.cost_usd[:40] == pytest.approx(0.01)
    assert trail.cost_usd[40:] == pytest.approx(0.0001)


def test_a_phase_has_its_own_scores() -> None:
    """Scores that change in silence are those that the trail and the engine see."""
    made = tape(matrix(300))
    prompts = order(made.matrix, 0)
    trail = replay(made, 0, QUALITY, [Phase(prompts), Phase(prompts, quality=np.zeros((300, 3)))])
    assert trail.quality[:300].mean() > 0.6
    assert trail.quality[300:].sum() == 0.0


def test_an_arm_that_comes_later_serves_later() -> None:
    """Not once before it is added, and more often than not within 600 calls after, for it is the best by far."""
    made = tape(matrix(300))
    prompts = order(made.matrix, 0)
    told = Told(quality_weight=1.0, cost_weight=0.0, base=0)
    trail = replay(made, 0, told, [Phase(prompts, absent=frozenset({1})), Phase(prompts), Phase(prompts)])
    assert not (trail.arms[:300] == 1).any()
    assert (trail.arms[600:] == 1).mean() > 0.5


def test_only_scores_that_are_seen_teach() -> None:
    """Without any score the engine cannot tell the models apart by quality: it stays far from the best mean, .9."""
    made = tape(matrix(600))
    assert replay(made, 2, QUALITY, seen=1.0).point[1] > 0.8
    blind = replay(made, 2, Told(quality_weight=0.5, cost_weight=0.5), seen=0.0)
    assert blind.point[1] != pytest.approx(0.9, abs=0.02)
