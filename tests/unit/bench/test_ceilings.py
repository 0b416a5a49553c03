"""Ceilings, and the models that streams which change are about."""

from pathlib import Path

import numpy as np
import pytest

from bench.ceilings import NAMED, ceilings, cyclic, favourite, scaled
from bench.matrices import load
from tests.fixtures.matrices import matrix


def test_seven_ceilings_are_log_spaced_between_cheapest_and_dearest() -> None:
    """Equal ratios; free models do not count, and where all are free there is no ceiling."""
    found = ceilings(matrix(costs=(1e-5, 1e-3, 1e-2)))
    assert found == pytest.approx(np.geomspace(1e-5, 1e-2, 7).tolist())
    assert ceilings(matrix(costs=(0.0, 1e-3, 1e-2)))[0] == pytest.approx(1e-3)
    assert ceilings(matrix(costs=(0.0, 0.0, 0.0))) == []


def test_the_ceilings_of_paretobandits_paper_come_out(shared: Path) -> None:
    """Its matrix gives the paper's tight, moderate and loose ceilings, and the mid-priced models as their favourites."""

    made = load(shared / "data" / "quality" / "paretobandit_val.csv.gz")
    found = {name: ceilings(made)[place] for name, place in NAMED.items()}
    assert found == pytest.approx({"tight": 2.3e-4, "moderate": 6.6e-4, "loose": 1.9e-3}, rel=0.02)
    names = {name: made.models[favourite(made, found[name])].rpartition("/")[2] for name in NAMED}
    assert names == {"tight": "mistral-large-2512", "moderate": "mistral-large-2512", "loose": "gemini-2.5-flash"}


def test_the_favourite_is_what_the_best_static_mix_uses_most() -> None:
    """Between two points of the hull the nearer one, never the cheapest; with one point the best of the others."""
    made = matrix(2000, means=(0.3, 0.6, 0.9), costs=(1.0, 2.0, 4.0))
    assert favourite(made, 1.2) == 1
    assert favourite(made, 2.5) == 1
    assert favourite(made, 3.5) == 2
    assert favourite(made, 9.0) == 2
    assert favourite(matrix(500, means=(0.9, 0.5, 0.6), costs=(1.0, 2.0, 4.0)), 2.0) == 2


def test_scores_are_scaled_as_what_they_are() -> None:
    """Graded scores are multiplied; of right answers about that part stays: 1,000 x .5, sd 16, five of them."""
    rng = np.random.default_rng(1)
    assert scaled(np.array([0.5, 0.8]), 0.5, rng).tolist() == [0.25, 0.4]
    thinned = scaled(np.ones(1000), 0.5, rng)
    assert set(thinned.tolist()) == {0.0, 1.0}
    assert 420 < thinned.sum() < 580


def test_a_short_matrix_begins_again() -> None:
    """Five prompts from place 2 of an order of three."""
    assert cyclic(np.array([7, 8, 9]), 2, 5).tolist() == [9, 7, 8, 9, 7]
