"""Scores that replace others, or count little: what was forgotten meanwhile is not taken out of what is known."""

import numpy as np

from sidecar.core.constraint import Promise
from sidecar.core.policy import Objective
from sidecar.core.quality import ALARM, QualityModel, Score
from sidecar.core.selector import UNHEARD
from tests.unit.core.selectors import ask, label, made, ready, rng, teach


def test_a_score_that_replaces_a_forgotten_one_adds_no_sum_without_a_count() -> None:
    """A hundred answers were judged before a restart, or of the model that the arm was before: their second scores leave
    every mean within the scale."""
    for before, after in ((0.2, 0.9), (0.9, 0.2)):
        model = QualityModel(2)
        for _ in range(100):
            model.observe(Score(0, "", None, after, 1.0, (before, 1.0)))
        model.digest()
        assert model.scores(0) == (0.0, 0.0)
        assert 0.0 <= model.typical()[0].min() <= model.typical()[0].max() <= 1.0


def test_a_promise_is_not_moved_by_what_it_never_counted() -> None:
    """The same for the scores against which a promise is measured: a fresh one needs what it needed."""
    for before, after in ((0.2, 0.9), (0.9, 0.2)):
        promise = Promise()
        fresh = promise.need(0.05, 0.8, 0.05, 100.0)
        for _ in range(100):
            promise.add(after, 0.1, (before, 1.0))
        assert (promise.scores, promise.total) == (0.0, 0.0)
        assert promise.need(0.05, 0.8, 0.05, 100.0) == fresh


def test_a_weak_signal_is_a_small_step_of_the_change_detector() -> None:
    """Where there are no judgements, scores that count a tenth need ten times as many to show a fall: after as many as
    would do with whole weight (each is at most 3 - 0.25 of a step) nothing has changed, after ten times ALARM it has."""
    for weight, falls in ((1.0, True), (0.1, False)):
        model = QualityModel(1)
        for at in range(400):
            model.observe(Score(0, "", None, 0.7 + (0.1 if at % 2 else -0.1), weight))
        for _ in range(12):
            model.observe(Score(0, "", None, 0.0, weight))
        model.digest()
        assert bool(model.changes) is falls
    for _ in range(int(10 * ALARM)):
        model.observe(Score(0, "", None, 0.0, 0.1))
    model.digest()
    assert model.changes


def test_a_guess_is_no_change_of_judgements() -> None:
    """Where judgements tell how good an arm is, weak signals that say otherwise do not look like a fall."""
    model = QualityModel(1)
    for at in range(400):
        model.observe(Score(0, "", None, 0.7 + (0.1 if at % 2 else -0.1)))
    for _ in range(int(10 * ALARM)):
        model.observe(Score(0, "", None, 0.0, 0.1))
    model.digest()
    assert not model.changes


def test_who_only_looks_keeps_nothing_from_the_choice() -> None:
    """A status digests what waits; the next refresh is due all the same, and draws from it."""
    one = ready(teach(made(), {"big": 0.8, "mid": 0.8, "small": 0.8}, 400))
    assert not one.due
    one.label(label("small", 0.1))
    one.quality()
    assert one.model.waiting == 0
    assert one.due
    one.refresh(rng())
    one.quality()
    assert not one.due


def test_prices_are_solved_anew_where_scores_are_scarce() -> None:
    """A restart remembers scores and no requests, so the first price is none: without one more score the prices follow
    within UNHEARD requests, and the cheap arm that keeps the promise serves."""
    one = teach(made(Objective(max_quality_loss=0.05)), {"big": 0.8, "mid": 0.8, "small": 0.8}, 600)
    random = np.random.default_rng(1)
    for _ in range(UNHEARD):
        assert not one.due or one._noise is None
        one.choose(one.arms, ask(), random)
    assert one.price == 0.0
    assert one.due
    one.refresh(random)
    assert one.price > 0.0
    assert not one.due
