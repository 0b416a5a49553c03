"""The baseline's quality to which a promise is held: its formula, its bounds, false alarms about it and true ones."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.constraint import MAX_TASKS, MEMORY, MOST_LOSS, PROOF, REST, TASK_SCORES, Promise
from sidecar.core.policy import Objective
from sidecar.core.selector import Selector
from tests.unit.core.selectors import ARMS, COSTS, label, made, rng, teach

PRIOR = (0.6, 1.0)
TOLD = Objective(max_quality_loss=0.05)


def played(promise: Promise, mean: float, scores: int, random: np.random.Generator) -> Promise:
    """Yes-or-no scores of the baseline in two tasks, one 0.1 better than `mean` and one 0.1 worse."""
    for at in range(scores):
        hard = at % 2
        promise.add(float(random.random() < mean + 0.1 - 0.2 * hard), task=str(hard), baseline=True)
    return promise


def rows(promise: Promise) -> dict[str, Any]:
    return {task: pytest.approx(row) for task, row in promise.tasks.items()}


def test_the_reference_weighs_tasks_as_they_were_asked() -> None:
    """Its formula, by hand: 30 of 40 calls are hard, of 20 scores of the baseline 10."""
    made = Promise()
    for at in range(40):
        made.add(0.9 if at < 10 else 0.5, task="easy" if at < 10 else "hard", baseline=at < 20)
    pooled = (10 * 0.9 + 10 * 0.5 + 0.6) / 21
    easy, hard = ((10 * mean + TASK_SCORES * pooled) / (10 + TASK_SCORES) for mean in (0.9, 0.5))
    assert made.reference(*PRIOR) == pytest.approx(((10 * easy + 30 * hard) / 40, 20.0))
    assert Promise().reference(*PRIOR) == (0.6, 0.0)


def test_more_tasks_than_there_are_rows_share_one() -> None:
    """Nothing of what was asked is lost, the youngest keep their rows, and what replaces a score whose row is gone is
    taken out of the common one."""
    made = Promise()
    for at in range(MAX_TASKS + 20):
        made.add(0.5, task=str(at), baseline=True)
    assert len(made.tasks) == MAX_TASKS
    assert made.tasks[REST] == [21.0, 21.0, 10.5]
    assert np.sum(list(made.tasks.values()), axis=0).tolist() == [276.0, 276.0, 138.0]
    assert "0" not in made.tasks
    made.add(1.0, 1.0, (0.5, 1.0), task="0", baseline=True)
    assert made.tasks[REST] == [21.0, 21.0, 11.0]
    assert "0" not in made.tasks


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans(), st.sampled_from("ab")), max_size=30))
def test_a_replaced_score_of_the_baseline_is_as_if_it_had_never_been(
    told: list[tuple[float, float, bool, str]],
) -> None:
    made, other = Promise(), Promise()
    made.doubt()
    other.doubt()
    for score, weight, baseline, task in told:
        made.add(score, weight, task=task, baseline=baseline)
    for score, weight, baseline, task in told:
        made.add(1.0 - score, 1.0, (score, weight), task=task, baseline=baseline)
        other.add(1.0 - score, task=task, baseline=baseline)
    assert made.later is not None
    assert other.later is not None
    assert made.tasks == rows(other)
    assert made.later.tasks == rows(other.later)


def test_a_score_that_replaces_an_unknown_one_leaves_the_reference_on_the_scale() -> None:
    made = Promise()
    for before, after in ((0.2, 0.9), (0.9, 0.2)):
        made.add(after, 0.1, (before, 1.0), baseline=True)
    assert made.tasks == {"": [0.0, 0.0, 0.0]}
    assert made.reference(*PRIOR) == (0.6, 0.0)


def test_the_books_fade_together() -> None:
    """Beyond MEMORY scores of all arms everything is halved, also since an alarm, so that a slow change is followed."""
    made = Promise()
    for at in range(int(MEMORY)):
        made.add(0.5, baseline=at % 2 == 0)
    made.doubt()
    made.add(0.5, baseline=True)
    assert made.tasks == {"": pytest.approx([(MEMORY + 1) / 2, (MEMORY / 2 + 1) / 2, (MEMORY / 2 + 1) / 4])}
    assert made.later is not None
    assert (made.later.scores, made.later.tasks[""]) == (0.5, [0.5, 0.5, 0.25])


# ---- alarms


def test_a_false_alarm_moves_nothing() -> None:
    """500 scores, an alarm without cause, 1,600 more: looks at 200, 400, 800 and 1,600 scores. A look is passed with
    probability 2 (1 - Phi(4)) = 6.3e-5, so one of 40 runs of 4 is wrong with probability 0.01."""
    for seed in range(40):
        random = np.random.default_rng(seed)
        made = played(Promise(), 0.7, 500, random)
        made.doubt()
        for _ in range(32):
            assert not played(made, 0.7, 50, random).follow(0.21)
        assert made.scores == 2_100


@pytest.mark.parametrize("to", [0.4, 0.9])
def test_a_true_change_is_followed_once_it_is_proven(to: float) -> None:
    """1,000 scores around 0.7 (or 0.6), then an alarm and PROOF around 0.4 (or 0.9): 0.3 apart. With l = 200 of all
    n = 1,200 scores on each task alike the statistic is l 0.3 (1 - l / n) / (sd sqrt(l (1 - l / n))) = 50 / (0.5 12.9) = 7.7
    or more on average, with sd at most 1: below 4 with probability 1e-4 a run, 0.004 in 40. From then on the reference is
    that of 200 scores: within 4 sd / sqrt(200) = 0.14 with probability 0.99994, and half a hundredth for the shrinkage.
    Before, not one score less than PROOF is believed."""
    before = 0.7 if to < 0.5 else 0.6
    for seed in range(20):
        random = np.random.default_rng(seed)
        made = played(Promise(), before, 1_000, random)
        made.doubt()
        played(made, to, int(PROOF) - 1, random)
        assert not made.follow(0.25)
        assert played(made, to, 1, random).follow(0.25)
        assert made.scores == PROOF
        assert made.reference(*PRIOR)[0] == pytest.approx(to, abs=0.145)
        assert not made.follow(0.25), "the alarm is over"


def test_other_tasks_than_before_are_no_change() -> None:
    """Easy tasks before an alarm, hard and new ones after it: every task is what it was, so nothing moves."""
    made = Promise()
    for at in range(600):
        made.add(0.9 if at % 10 else 0.2, task="easy" if at % 10 else "hard", baseline=True)
    made.doubt()
    for at in range(int(4 * PROOF)):
        made.add(0.1 if at % 2 else 0.2, task="new" if at % 2 else "hard", baseline=True)
        assert not made.follow(0.01)


# ---- in a selector


def reference(one: Selector) -> float:
    one.refresh(rng())
    return one.promise.reference(*one.model.expected(0))[0]


def test_bad_luck_of_the_baseline_does_not_reprice_the_past() -> None:
    """400 scores of 0.8 and 30 of 0 in a row are an alarm: the beliefs fall at once by more than half. The reference is
    still the mean of all scores, which is (400 x 0.8) / 430 = 0.74, and what is needed not less than
    is ever needed of such a baseline."""
    one = teach(made(TOLD), {"big": 0.8}, 400)
    for _ in range(30):
        one.label(label("big", 0.0))
    assert reference(one) == pytest.approx(0.744, abs=0.005)
    assert one.model.typical()[0][0] < 0.4
    assert one.promise.later is not None
    assert one._need(0.05) >= (1 - MOST_LOSS * 0.05) * 0.739
    teach(one, {"big": 0.8}, int(2 * PROOF))
    assert 0.8 * 800 / 830 - 0.005 < reference(one) < 0.805, "with the bad luck or without it"


def test_a_baseline_that_fell_is_the_new_reference_after_its_proof() -> None:
    """From 0.8 to 0.4 for good: the alarm comes within 30 scores, the proof PROOF later, and a digest every 4."""
    one = teach(made(TOLD), {"big": 0.8}, 400)
    teach(one, {"big": 0.4, "mid": 0.4}, 30)
    assert reference(one) > 0.7
    teach(one, {"big": 0.4, "mid": 0.4}, int(PROOF) + 4)
    assert reference(one) == pytest.approx(0.4, abs=0.01)
    assert one.promise.later is None
    assert one.promise.scores <= 2 * (PROOF + 8), "what was before is neither owed nor to be spent"


def test_an_alarm_about_another_arm_is_none_about_the_baseline() -> None:
    one = teach(made(TOLD), {"big": 0.8, "mid": 0.8}, 400)
    teach(one, {"mid": 0.2}, 60)
    assert one.model.on_probation(1)
    assert one.promise.later is None


def test_a_later_policy_keeps_the_reference_and_another_baseline_brings_its_own() -> None:
    """Same baseline: the books as they are, with the alarm in doubt. Another one, or one that is another model now: what
    the model knows of it, on the tasks as they were asked; the scores so far stay."""
    old = teach(teach(made(TOLD), {"big": 0.9, "mid": 0.7}, 100, "a"), {"big": 0.5}, 100, "b")
    old.promise.doubt()
    same = Selector(ARMS, TOLD)
    same.adopt(old, ARMS)
    assert same.promise is old.promise
    assert same.promise.later is not None
    other = Selector(("mid", "big", "small"), TOLD)
    other.adopt(same, ARMS)
    assert other.promise.tasks == {"a": [200.0, 100.0, pytest.approx(70.0)], "b": [100.0, 0.0, 0.0]}
    assert (other.promise.scores, other.promise.later) == (300.0, None)
    changed = Selector(("mid", "big", "small"), TOLD)
    changed.adopt(other, ("big", "small"))
    assert [row[1] for row in changed.promise.tasks.values()] == [0.0, 0.0]


def test_a_route_that_only_adds_up_keeps_books_for_when_it_chooses() -> None:
    before = Selector(ARMS, TOLD, chooses=False)
    before.price_in(COSTS)
    for at in range(100):
        before.label(label(ARMS[at % 2], 0.8 - 0.2 * (at % 2)))
    after = made(TOLD)
    after.adopt(before, ARMS)
    assert reference(after) == pytest.approx(0.8, abs=0.005)


# ---- over a restart


def test_books_survive_a_restart() -> None:
    """Through JSON and back, those since an alarm too, and the next look is where it was."""
    random = np.random.default_rng(1)
    before = played(Promise(), 0.7, 300, random)
    before.doubt()
    assert not played(before, 0.7, 250, random).follow(0.21)
    after = Promise()
    after.restore(json.loads(json.dumps(before.to_state())))
    assert after.to_state() == before.to_state()
    for one in (before, after):
        assert not played(one, 0.7, 100, np.random.default_rng(2)).follow(0.21)
    assert after.to_state() == before.to_state()


@pytest.mark.parametrize(
    "wrong",
    [
        {"sums": [10.0, 11.0]},
        {"sums": [-1.0, 0.0]},
        {"tasks": {"": [-1.0, 0.0, 0.0]}},
        {"tasks": {"": [1.0, 1.0, 2.0]}},
        {"tasks": {"": [1.0, 1.0]}},
        {"later": {"sums": [1.0, 2.0], "tasks": {}, "look": 0.0}},
    ],
)
def test_books_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Promise().restore({**Promise().to_state(), **wrong})
