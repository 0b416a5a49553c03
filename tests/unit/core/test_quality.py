"""Quality in context: what is shared, what is learnt, what is taken out again, and what a restart keeps."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.features import FEATURES
from sidecar.core.quality import (
    LEAST_NOISE,
    MAX_ASKED,
    MAX_PENDING,
    MAX_TASKS,
    MAX_WEIGHT,
    NOISE,
    PRIOR_MEAN,
    PRIOR_SCORES,
    REST,
    TASK_SD,
    TEXT_SD,
    QualityModel,
    Score,
)
from sidecar.core.types import Features

COUNTS = st.integers(0, 64).map(lambda n: n / 64)  # sums of them are exact in any order


def taught(arms: int, scores: list[Score]) -> QualityModel:
    model = QualityModel(arms)
    for score in scores:
        model.observe(score)
    model.digest()
    return model


def alternating(arm: int, mean: float, n: int, task: str = "", by: float = 0.1) -> list[Score]:
    """n scores, an even number, with exactly this mean and this sd."""
    return [Score(arm, task, None, mean + (by if at % 2 else -by)) for at in range(n)]


def text_of(place: int, value: float) -> Features:
    made = np.zeros(FEATURES, dtype=np.float32)
    made[place] = value
    return made


# ---- what is shared


def test_nothing_is_known_at_first() -> None:
    """Every arm begins at PRIOR_MEAN; a task that was never seen adds its uncertainty; there is nothing to digest."""
    model = QualityModel(3)
    model.digest()
    mean, variance = model.moments("never")
    assert mean == pytest.approx(np.full(3, PRIOR_MEAN))
    assert variance == pytest.approx(model.overall[1] + TASK_SD**2)
    assert model.typical() is model.overall
    assert (model.learnt, model.waiting) == (0, 0)


def test_a_new_arm_begins_as_an_average_one_or_as_its_stated_prior() -> None:
    """Arms of 0.9 and 0.7: the third is expected in their middle, less the prior's weight; a stated prior is kept."""
    model = QualityModel(4)
    model.prior_mean[3] = 0.2
    for score in alternating(0, 0.9, 400) + alternating(1, 0.7, 400):
        model.observe(score)
    model.digest()
    mean, variance = model.moments("")
    common = (400 * 0.9 + 400 * 0.7 + PRIOR_SCORES * PRIOR_MEAN) / (800 + PRIOR_SCORES)
    assert mean[2] == pytest.approx(common, abs=0.02)
    assert mean[3] == pytest.approx(0.2, abs=0.02)
    assert mean[:2] == pytest.approx([0.9, 0.7], abs=0.01)
    assert variance[2] > 10 * variance[0]


def test_a_stated_prior_weighs_as_many_scores_as_it_says() -> None:
    """0.9 with the weight of 10 yes-or-no scores: after 10 of them that were all 0, half of it is left (the task takes
    the rest of what it may). It outlives the beginning of labels."""
    model, fresh = QualityModel(2), QualityModel(2)
    model.expect(1, 0.9, 10.0)
    assert model.moments("")[0] == pytest.approx([PRIOR_MEAN, 0.9])
    assert model.overall[1][1] == pytest.approx(NOISE**2 / 10)
    fresh.share_priors(model)
    for one in (model, fresh):
        assert float(one.moments("")[0][1]) == pytest.approx(0.9)
    for at in range(10):
        model.observe(Score(1, f"t{at}", None, 0.0))
    model.digest()
    assert float(model.overall[0][1]) == pytest.approx(0.45, abs=0.15)


def test_few_scores_move_a_mean_little_and_many_move_it_all_the_way() -> None:
    """Three arms of 0.5; the fourth scores 1: its mean rises with every score and is never beyond the scores' own."""
    base = [score for arm in range(3) for score in alternating(arm, 0.5, 200, by=0.45)]
    seen = [0.5]
    for n in (1, 5, 20, 200):
        model = taught(4, base + [Score(3, "", None, 1.0)] * n)
        seen.append(float(model.moments("")[0][3]))
    assert seen == sorted(seen)
    assert seen[1] < 0.8
    assert 0.95 < seen[-1] <= 1.0


def test_what_an_arm_is_good_at_is_learnt_by_task() -> None:
    """The first arm sums, the second writes: the same overall, 0.4 apart in each task. A new task shows their means."""
    pairs = [(0, "sums", 0.8), (0, "prose", 0.4), (1, "sums", 0.4), (1, "prose", 0.8)]
    model = taught(
        2, [score for _ in range(100) for arm, task, mean in pairs for score in alternating(arm, mean, 2, task)]
    )
    for arm, task, mean in pairs:
        assert model.moments(task)[0][arm] == pytest.approx(mean, abs=0.03)
    new = model.moments("new")[0]
    assert new[0] == pytest.approx(new[1], abs=0.01)


def test_a_task_without_scores_of_an_arm_is_answered_by_the_arms_mean() -> None:
    """An arm that never served the hard task is expected to do as it does elsewhere, with more doubt."""
    known = [
        score
        for arm in range(3)
        for task, mean in (("easy", 0.8), ("hard", 0.5))
        for score in alternating(arm, mean, 200, task)
        if arm < 2 or task == "easy"
    ]
    model = taught(3, known)
    assert model.moments("hard")[0][2] == pytest.approx(model.overall[0][2])
    assert model.moments("hard")[1][2] > model.moments("hard")[1][0]


def test_an_arm_that_is_given_the_hard_ones_is_not_blamed_for_them() -> None:
    """Two equal arms (0.8 easy, 0.5 hard); the first gets four hard ones for each easy one, the second the reverse.
    Their raw means differ by 0.18, what is expected of them by less than a third of that."""
    scores = [
        score
        for arm, task, mean, n in (
            (0, "easy", 0.8, 100), (0, "hard", 0.5, 400), (1, "easy", 0.8, 400), (1, "hard", 0.5, 100),
        )
        for score in alternating(arm, mean, n, task)
    ]  # fmt: skip
    model = taught(2, scores)
    raw = [total / count for count, total in (model.scores(0), model.scores(1))]
    assert raw[1] - raw[0] == pytest.approx(0.18)
    means = model.typical()[0]
    assert abs(means[1] - means[0]) < 0.06


def test_forgetting_an_arm_does_not_change_what_was_asked() -> None:
    """Arm 0 serves the hard tasks and arm 1 the easy ones, half of the calls each, and both are known on both: 0.8 easy,
    0.4 hard. Then most of arm 1 is forgotten. Arm 0 stays at 0.6 over what was asked; weighed by what is still known it
    would be (0.8 x 109 + 0.4 x 901) / 1,010 = 0.44. Shrinkage pulls both tasks towards 0.44 with the weight of five
    scores: the easy one, of which 100 are known, by 0.02."""
    hard = alternating(0, 0.4, 900, "hard") + alternating(1, 0.4, 100, "hard")
    easy = alternating(0, 0.8, 100, "easy") + alternating(1, 0.8, 900, "easy")
    model = taught(2, hard + easy)
    model._discount(1, 0.01, 0.0)
    model._fit()
    assert model.typical()[0][0] == pytest.approx(0.6, abs=0.02)


def test_a_new_mix_of_tasks_replaces_the_old_one() -> None:
    """What was asked beyond MAX_ASKED is halved: after three times as many calls of another task it is 1/4 at most."""
    model = taught(1, [Score(0, "old", None, 0.2)] * int(MAX_ASKED))
    for _ in range(int(3 * MAX_ASKED)):
        model.observe(Score(0, "new", None, 0.8))
    model.digest()
    assert model.asked.sum() <= MAX_ASKED
    assert model.asked[0] / model.asked.sum() < 0.25
    assert model.typical()[0][0] > 0.65


def test_noise_is_what_the_residuals_show_within_its_bounds() -> None:
    """A fine judge lowers it, a judge without any spread to its floor and no further, a coin never above NOISE."""
    assert QualityModel(1).noise == pytest.approx(NOISE**2)
    assert LEAST_NOISE**2 < taught(1, alternating(0, 0.5, 2_000, by=0.15)).noise < 0.16**2
    assert taught(1, alternating(0, 0.5, 2_000, by=0.0)).noise == pytest.approx(LEAST_NOISE**2)
    assert taught(1, alternating(0, 0.5, 2_000, by=0.5)).noise == pytest.approx(NOISE**2)


# ---- texts


def test_a_text_that_tells_is_learnt_for_all_arms() -> None:
    """The score is 0.8 with a feature and 0.2 without it. One number has the prior variance 2 TEXT_SD^2 (all arms' and
    the arm's own) and after 500 scores of noise NOISE^2 keeps 1 / (1 + 500 2 TEXT_SD^2 / NOISE^2) = 5 % of its prior:
    more than 0.25 of the 0.3 are found; and most of it for an arm that saw only 20 of them."""
    rng = np.random.default_rng(1)
    model = QualityModel(2)
    for at in range(1_000):
        sign = 1.0 if rng.random() < 0.5 else -1.0
        model.observe(Score(int(at % 50 == 0), "", text_of(7, sign), 0.5 + 0.3 * sign))
    model.digest()
    assert model.textual
    known, new = model.shared[0] + model.weights
    assert known[7] > 0.25
    assert new[7] > 0.1
    assert not known[np.arange(FEATURES) != 7].any()
    assert model.variances[0, 7] < 0.1 * TEXT_SD**2


def test_a_text_that_tells_nothing_stays_near_zero() -> None:
    """Coins of 0.5 beside a random sign. Without a prior the effect's estimate after n = 2,000 has sd 0.5 / sqrt(n) =
    0.011, and shrinkage only lowers it: five of them are 0.056, a sixth of what the test above finds."""
    rng = np.random.default_rng(2)
    model = QualityModel(1)
    for _ in range(2_000):
        sign = 1.0 if rng.random() < 0.5 else -1.0
        model.observe(Score(0, "", text_of(7, sign), float(rng.random() < 0.5)))
    model.digest()
    assert abs(model.shared[0, 7] + model.weights[0, 7]) < 0.056


# ---- scores that replace others, weights, bounds


def test_a_score_that_replaces_another_leaves_no_trace_of_it() -> None:
    """The answer counts once, with its newest score and weight; it is one lesson."""
    model = taught(2, [Score(0, "t", None, 1.0, 0.5), Score(0, "t", None, 0.25, 1.0, (1.0, 0.5))])
    assert model.scores(0) == (1.0, 0.25)
    assert model.scores(1) == (0.0, 0.0)
    assert model.learnt == 1


def test_two_halves_weigh_as_much_as_one() -> None:
    half = taught(1, [Score(0, "t", None, 0.75, 0.5)] * 2)
    whole = taught(1, [Score(0, "t", None, 0.75)])
    assert half.scores(0) == whole.scores(0)


ANSWERS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from("abc"), COUNTS, COUNTS.filter(bool), st.none() | COUNTS),
    max_size=19,  # fewer than an arm needs before its residuals are watched: no alarm
)


@settings(max_examples=60)
@given(ANSWERS, st.randoms(use_true_random=False))
def test_undiscounted_statistics_do_not_depend_on_the_order(
    answers: list[tuple[int, str, float, float, float | None]], chance: object
) -> None:
    """Weights and sums by arm and task are those of the scores that hold at the end, whatever came first; a correction
    only has to follow what it corrects. So are the beliefs, as far as the noise was not yet learnt otherwise."""

    def played(order: list[tuple[int, str, float, float, float | None]]) -> QualityModel:
        firsts = [Score(arm, task, None, score, weight) for arm, task, score, weight, _ in order]
        later = [
            Score(arm, task, None, again, 1.0, (score, weight))
            for arm, task, score, weight, again in order
            if again is not None
        ]
        return taught(3, firsts + later)

    shuffled = list(answers)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]  # a random.Random of hypothesis
    one, other = played(answers), played(shuffled)
    assert one.tasks.keys() == other.tasks.keys()
    for task, row in one.tasks.items():
        same = other.tasks[task]
        assert one.counts[row].tolist() == other.counts[same].tolist()
        assert one.totals[row].tolist() == other.totals[same].tolist()
    assert not one.changes
    other.residual = one.residual
    for model in (one, other):
        model._fit()
    assert one.overall[0] == pytest.approx(other.overall[0], abs=0.02)


def test_tasks_beyond_the_limit_share_a_row() -> None:
    """Those seen longest ago; one that is seen again is young again. No score is lost, and who has no row is judged by
    the common one."""
    names = [f"t{number}" for number in range(MAX_TASKS)]
    model = taught(1, [Score(0, name, None, 1.0) for name in names])
    for score in (Score(0, "t0", None, 1.0), Score(0, "new", None, 0.0)):
        model.observe(score)
    model.digest()
    assert set(model.tasks) == {*names, "new", REST} - {"t1", "t2"}
    assert len(model.counts) == MAX_TASKS
    assert model.scores(0) == (MAX_TASKS + 2, MAX_TASKS + 1)
    rest = model.tasks[REST]
    assert (model.counts[rest, 0], model.totals[rest, 0]) == (2.0, 2.0)
    mean, variance = model.moments("t1")
    assert mean == pytest.approx(model.mean[rest])
    assert variance == pytest.approx(model.variance[rest] + TASK_SD**2)


def test_the_common_row_stays_and_takes_what_is_judged_anew() -> None:
    """However many tasks come; a new judgement of an answer whose task has no row any more changes that row."""
    many = [Score(0, f"t{number}", None, 1.0) for number in range(3 * MAX_TASKS)]
    model = taught(1, many)
    assert model.scores(0) == (3 * MAX_TASKS, 3 * MAX_TASKS)
    rest = model.tasks[REST]
    assert model.counts[rest, 0] == 2 * MAX_TASKS + 1
    model.observe(Score(0, "t0", None, 0.0, previous=(1.0, 1.0)))
    model.digest()
    assert model.totals[rest, 0] == 2 * MAX_TASKS
    again = QualityModel(1)
    again.restore(0, json.loads(json.dumps(model.to_state(0))))
    assert again.scores(0) == model.scores(0)
    assert again.moments("t0")[0] == pytest.approx(model.moments("t0")[0])


def test_old_scores_fade_beyond_the_weight_that_is_kept() -> None:
    """The weight is halved and the mean stays."""
    model = taught(1, [Score(0, "", None, 0.5)] * (int(MAX_WEIGHT) + 1))
    assert model.scores(0) == pytest.approx(((MAX_WEIGHT + 1) / 2, (MAX_WEIGHT + 1) / 4))


def test_what_waits_is_bounded() -> None:
    """The learner makes time itself when too much waits."""
    model = QualityModel(1)
    for at in range(MAX_PENDING):
        assert model.waiting == at
        model.observe(Score(0, "", None, 1.0))
    assert (model.waiting, model.learnt) == (0, MAX_PENDING)


# ---- another policy, a restart


def rich() -> QualityModel:
    rng = np.random.default_rng(3)
    scores = [
        Score(int(rng.integers(3)), f"t{rng.integers(4)}", text_of(5, float(rng.normal())), float(rng.random()))
        for _ in range(300)
    ]
    model = taught(3, scores)
    model.probation[1] = model.learnt + 7
    return model


def test_another_policy_takes_over_what_is_known_of_its_arms() -> None:
    """The arms in another order and one more: each has what it had, the new one begins as an average."""
    old, new = rich(), QualityModel(3)
    old.observe(Score(0, "late", None, 1.0))
    new.adopt(old, [(2, 0), (0, 1)])
    assert old.waiting == 0
    assert new.scores(2) == old.scores(0)
    assert new.scores(0) == old.scores(1)
    assert new.scores(1) == (0.0, 0.0)
    assert new.weights[2].tolist() == old.weights[0].tolist()
    assert new.on_probation(0)
    assert not new.on_probation(1)
    assert (new.learnt, new.residual, new.bias) == (old.learnt, old.residual, old.bias)
    assert {task: new.asked[row] for task, row in new.tasks.items()} == {
        task: old.asked[row] for task, row in old.tasks.items()
    }
    assert new.moments("t1")[0][2] == pytest.approx(old.moments("t1")[0][0], abs=0.05)


def test_nothing_in_common_takes_over_the_tasks_alone() -> None:
    old, new = rich(), QualityModel(2)
    new.adopt(old, [])
    assert new.tasks.keys() == old.tasks.keys()
    assert not new.counts.any()


@pytest.mark.parametrize("textual", [False, True])
def test_a_restart_keeps_each_arm(textual: bool) -> None:
    """Through JSON: the same beliefs in every task, the probation that is left, and the same state again."""
    model = rich() if textual else taught(3, alternating(0, 0.8, 60, "a") + alternating(2, 0.4, 60, "b"))
    model.probation[1] = model.learnt + 7
    again = QualityModel(3)
    for arm in range(3):
        again.restore(arm, json.loads(json.dumps(model.to_state(arm))))
    for arm in range(3):
        assert again.to_state(arm) == model.to_state(arm)
    for task in model.tasks:
        assert again.moments(task)[0] == pytest.approx(model.moments(task)[0])
    assert again.asked.sum() == pytest.approx(model.counts.sum())
    assert [again.on_probation(arm) for arm in range(3)] == [False, True, False]
    assert again.textual is textual


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tasks": {"a": [1.0]}}, ValueError),
        ({"tasks": {"a": [None, 1.0]}}, TypeError),
        ({"text": [[1.0], [1.0]]}, ValueError),
        ({"shared": [[0.0] * FEATURES]}, ValueError),
        ({"text": [[0.0] * FEATURES, [0.0] * FEATURES]}, ValueError),
        ({"shared": None}, ValueError),
        ({"shared": [[0.0] * FEATURES, [0.0] * FEATURES]}, ValueError),
        ({"shared": [[0.0] * FEATURES, [1.0] * (FEATURES - 1) + [float("nan")]]}, ValueError),
        ({"text": [[0.0] * FEATURES, [1.0] * (FEATURES - 1) + [float("inf")]]}, ValueError),
        ({"probation": None}, TypeError),
        ({"residual": None}, TypeError),
    ],
)
def test_a_broken_state_is_refused(change: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        QualityModel(3).restore(0, {**rich().to_state(0), **change})
    with pytest.raises(KeyError):
        QualityModel(3).restore(0, {})


def test_sums_alone_are_those_of_a_model_that_fits() -> None:
    """Whatever the order, the tasks and what is judged anew; the fit needs no residual that it did not look at."""
    rng = np.random.default_rng(5)
    adds, fits = QualityModel(2, sums=True), QualityModel(2)
    for number in range(400):
        arm, task, score = number % 2, str(number % 3), float(rng.random())
        previous = (0.5, 0.25) if number > 300 and number % 5 == 0 else None
        for model in (adds, fits):
            model.observe(Score(arm, task, None, score, 0.75, previous))
        if number % 70 == 0:
            adds.digest()
            fits.digest()
    adds.digest()
    fits.digest()
    assert adds.tasks.keys() == fits.tasks.keys()
    assert adds.counts == pytest.approx(fits.counts)
    assert adds.totals == pytest.approx(fits.totals)
    assert adds.learnt == fits.learnt
    assert adds.residual == NOISE**2
    assert adds.overall[0] == pytest.approx(fits.overall[0], abs=0.01)


def _fall(*, guessed: bool) -> tuple[list[int], int]:
    """When changes were told of an arm whose judgements fall from about .7 to .2 at call 500, and what was learnt."""
    model, told = QualityModel(1), []
    for call in range(1_000):
        score = (0.7 if call < 500 else 0.2) + (0.1 if call % 2 else -0.1)
        if guessed:  # the stream was read to its end: a weak sign of a good answer, before the judgement comes
            model.observe(Score(0, "", None, 1.0, 0.1))
            model.observe(Score(0, "", None, score, 1.0, (1.0, 0.1)))
        else:
            model.observe(Score(0, "", None, score))
        model.digest()
        told += [call] * len(model.changes)
        model.changes.clear()
    return told, model.learnt


def test_guess_before_each_judgement_neither_hides_nor_feigns_a_change() -> None:
    """No chance in it: the same judgements are told apart at the same place, with a guess before each and without."""
    (plain, _), (guessed, learnt) = _fall(guessed=False), _fall(guessed=True)
    assert plain
    assert guessed
    assert min(guessed) >= 500
    assert abs(guessed[0] - plain[0]) <= 3
    assert learnt == 1_000
