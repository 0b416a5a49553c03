"""Quality that changes without a word: how soon it is found, what is kept, and how seldom it is found for nothing."""

from math import exp

import numpy as np
import pytest

from sidecar.core.quality import ALARM, CLIP, PROBATION, RETURN, SLACK, QualityModel, Score

SD = 0.1


def feed(model: QualityModel, mean: float, n: int, task: str = "", arm: int = 0) -> int | None:
    """Up to n scores with this mean and sd SD; after how many of them a change was found."""
    for at in range(n):
        model.observe(Score(arm, task, None, mean + (SD if at % 2 else -SD)))
        model.digest()
        if model.changes:
            return at + 1
    return None


def settled(*tasks: tuple[str, float]) -> QualityModel:
    """A model of two arms whose noise has been learnt: 1,200 scores of arm 0 in these tasks, none of arm 1."""
    model = QualityModel(2)
    for at in range(1_200):
        task, mean = tasks[at % len(tasks)]
        model.observe(Score(0, task, None, mean + (SD if at // len(tasks) % 2 else -SD)))
    model.digest()
    assert not model.changes
    return model


def test_a_fall_by_one_sd_is_found_as_soon_as_promised() -> None:
    """The sum grows by 1 - SLACK a score on average: ALARM / (1 - SLACK) scores, two more for where in its swing the
    scores begin and for the noise that the fall itself seems to be."""
    model = settled(("", 0.6))
    found = feed(model, 0.6 - SD, 100)
    assert found is not None
    assert ALARM / (1 - SLACK) <= found <= ALARM / (1 - SLACK) + 4
    (arm, by), *others = model.changes
    assert (arm, others) == (0, [])
    assert by == pytest.approx(-SD, abs=0.02)


def test_after_a_fall_the_new_scores_rule_and_tasks_keep_their_order() -> None:
    """What is known weighs as much as the scores that showed the fall; the task that was not asked fell as well."""
    model = settled(("a", 0.8), ("b", 0.6))
    found = feed(model, 0.8 - 3 * SD, 100, "a")
    assert found is not None
    assert found < 1.5 * ALARM / (CLIP - SLACK) + 2
    by = model.changes[0][1]
    assert model.scores(0)[0] == pytest.approx(found, abs=1)
    assert by == pytest.approx(-3 * SD, abs=0.05)
    first, second = (float(model.moments(task)[0][0]) for task in ("a", "b"))
    assert first - second == pytest.approx(0.2, abs=0.05)
    assert second < 0.45
    assert model.on_probation(0)
    assert not model.on_probation(1)


def test_a_return_is_found_sooner_than_a_rise_out_of_nothing() -> None:
    """On probation RETURN is enough; the arm is then free, and its mean has come back with it."""
    fallen = settled(("", 0.6))
    feed(fallen, 0.6 - 2 * SD, 100)
    fallen.changes.clear()
    assert feed(fallen, 0.6 - 2 * SD, 200) is None
    back = feed(fallen, 0.6, 100)
    rose = feed(settled(("", 0.4)), 0.6, 100)
    assert back is not None
    assert rose is not None
    assert back < rose
    assert back <= RETURN / (2 - SLACK) + 4
    assert fallen.changes[0][1] > 0
    assert not fallen.on_probation(0)
    assert float(fallen.moments("")[0][0]) > 0.5


def test_a_probation_ends_with_the_scores_of_the_route() -> None:
    """Scores of any arm count: nobody has to choose the fallen one."""
    model = settled(("", 0.6))
    feed(model, 0.6 - 3 * SD, 100)
    model.changes.clear()
    assert feed(model, 0.5, PROBATION - 1, arm=1) is None
    assert model.on_probation(0)
    feed(model, 0.5, 1, arm=1)
    assert not model.on_probation(0)


def test_one_odd_score_is_no_change() -> None:
    """A score is cut to CLIP of its sd, so not even ALARM / CLIP of the worst in a row are enough."""
    model = settled(("", 0.9))
    for _ in range(int(ALARM / CLIP)):
        model.observe(Score(0, "", None, 0.0))
    model.digest()
    assert not model.changes


def test_an_arm_that_is_hardly_known_cannot_change() -> None:
    """Its residuals are those of a guess: whatever its first scores are, they are its mean."""
    model = QualityModel(1)
    for _ in range(15):
        model.observe(Score(0, "", None, 0.0))
    model.digest()
    assert not model.changes
    assert float(model.moments("")[0][0]) < 0.1


def test_a_stationary_arm_seldom_seems_to_change() -> None:
    """40 arms, 2,000 coins of 0.7 each, digested in portions and all at once. By Siegmund a one-sided sum needs
    (exp(b) - 1 - b) / (2 SLACK^2) scores for a false alarm, b = 2 SLACK (ALARM + 1.17): 5,700 with the present
    constants, and there are two. So an arm has one with p = 1 - exp(-2 2,000 / 5,700) = 0.5, and more than
    40 p + 3.8 sqrt(40 p (1 - p)) = 32 of the 40 have with a probability below 1e-4."""
    b = 2 * SLACK * (ALARM + 1.17)
    p = 1 - exp(-2 * 2_000 / ((exp(b) - 1 - b) / (2 * SLACK**2)))
    for portion in (16, 2_000):
        rng, changed = np.random.default_rng(4), 0
        for _ in range(40):
            model = QualityModel(1)
            for at, score in enumerate((rng.random(2_000) < 0.7).astype(float).tolist(), 1):
                model.observe(Score(0, "", None, score))
                if at % portion == 0:
                    model.digest()
            changed += bool(model.changes)
            assert float(model.moments("")[0][0]) == pytest.approx(0.7, abs=0.25)
        assert changed <= 40 * p + 3.8 * (40 * p * (1 - p)) ** 0.5


def test_many_scores_at_once_are_learnt_as_if_they_had_come_one_by_one() -> None:
    """Labels of a day come in one go: what the last of them are measured against knows the first, so scores far from
    PRIOR_MEAN are no change."""
    for mean in (0.1, 0.95):
        model = QualityModel(1)
        for at in range(1_000):
            model.observe(Score(0, "", None, mean + (0.05 if at % 2 else -0.05)))
        model.digest()
        assert not model.changes
