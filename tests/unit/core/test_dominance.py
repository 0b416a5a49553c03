"""When another arm is worth more wherever the selector could send a request, and when that cannot be said."""

import numpy as np
import pytest

from sidecar.core.dominance import MIN_SCORES, Dominance, dominance
from sidecar.core.features import FEATURES
from sidecar.core.policy import Objective
from sidecar.core.selector import Selector
from tests.unit.core.selectors import ARMS, answered, ask, label, made, teach

DEAR = (300.0, 300.0, 1_000.0)  # "small" is dear and bad here


def found(one: Selector, arm: str = "small") -> Dominance | None:
    return dominance(one, arm, ARMS)


def sure(one: Selector, arm: str = "small") -> float:
    best = found(one, arm)
    return 0.0 if best is None else best.sure


def bad(costs: tuple[float, ...] = DEAR, small: float = 0.4) -> Selector:
    return teach(made(costs=costs), {"big": 0.9, "mid": 0.8, "small": small})


def test_worse_and_not_cheaper_is_dominated_by_the_best() -> None:
    best = found(bad())
    assert best is not None
    assert (best.by, best.tasks) == ("big", 1)
    assert best.sure > 0.9999
    assert found(bad(), "big") is not None
    assert sure(bad(), "big") < 0.5


def test_cheaper_is_never_dominated() -> None:
    """However bad it is: at a high price of money it may serve."""
    assert found(bad((300.0, 300.0, 299.0))) is None


def test_a_little_worse_is_not_beyond_doubt() -> None:
    """.88 against .9 after 200 scores of sd .1 or more: below two standard errors."""
    assert 0.5 < sure(bad(small=0.88)) < 0.98


def test_few_scores_and_an_arm_on_trial_have_no_answer() -> None:
    few = teach(made(costs=DEAR), {"big": 0.9, "small": 0.4}, n=int(MIN_SCORES) - 1)
    assert found(few) is None
    teach(few, {"small": 0.4}, n=1)
    assert found(few) is None  # big has one too few
    one = bad()
    one.model.put_on_probation(2, 10)
    assert found(one) is None


def test_good_at_one_task_is_not_dominated_unless_the_task_is_rare() -> None:
    """All tasks that are asked count: also where the arm is best at one of 5 %, but not at one of less than 1 %."""
    one = teach(bad(), {"big": 0.3, "small": 0.9}, n=20, task="poems")
    assert sure(one) < 0.5
    rare = teach(bad(), {"big": 0.3, "small": 0.9}, n=2, task="poems")
    assert sure(rare) > 0.99
    unknown = teach(bad(), {"big": 0.9}, n=40, task="poems")
    assert sure(unknown) < sure(bad())  # it never wrote a poem


def test_tasks_that_are_rare_each_but_common_together_count() -> None:
    """60 % of what is asked is tasks of less than 1 % each, and small is the best at all of them."""
    one = teach(made(costs=DEAR), {"big": 0.9, "mid": 0.8, "small": 0.3}, n=1_000)
    for at in range(150):
        teach(one, {"big": 0.3, "mid": 0.3, "small": 0.9}, n=10, task=f"t{at}")
    assert sure(one) < 0.5


def test_where_all_tasks_are_rare_they_are_compared_all_the_same() -> None:
    one = made(costs=DEAR)
    for at in range(150):
        teach(one, {"big": 0.9, "mid": 0.8, "small": 0.1}, n=40, task=f"t{at}")
    best = found(one)
    assert best is not None
    assert best.by == "big"
    assert best.tasks >= 0.99 * 150 - 1
    assert best.sure > 0.999


def test_faster_counts_as_far_as_the_objective_lets_it() -> None:
    """Equally dear, hardly worse, and much faster: at a high price the fast one is worth more."""

    def one(latency_weight: float) -> Selector:
        objective = Objective(quality_weight=0.2, cost_weight=0.1, latency_weight=latency_weight)
        made_ = teach(made(objective, (300.0, 300.0, 300.0)), {"big": 0.9, "mid": 0.8, "small": 0.7})
        made_.choose(ARMS, ask(), np.random.default_rng(1))
        for _ in range(300):
            made_.partial_fit("big", answered(0.1), ask())
            made_.partial_fit("small", answered(0.9), ask())
        return made_

    assert sure(one(0.0)) > 0.999
    assert sure(one(0.7)) < 0.5


def test_who_is_late_dominates_nobody_who_is_not() -> None:
    """Big is always later than the objective: mid is what small is compared with."""
    one = teach(made(Objective(ttft_s=1.0), DEAR), {"big": 0.9, "mid": 0.8, "small": 0.4})
    one.choose(ARMS, ask(), np.random.default_rng(1))
    for _ in range(100):
        one.partial_fit("big", answered(0.01), ask())
        one.partial_fit("mid", answered(0.9), ask())
        one.partial_fit("small", answered(0.9), ask())
    best = found(one)
    assert best is not None
    assert best.by == "mid"


def test_where_texts_count_all_but_a_few_of_late_must_say_so() -> None:
    """Small is good at one kind of text only. While that is asked, it is wanted; one in 200 such texts changes nothing."""
    plain, odd = np.zeros(FEATURES, dtype=np.float32), np.zeros(FEATURES, dtype=np.float32)
    plain[0], odd[1] = 1.0, 4.0

    def one(odd_ones: int) -> Selector:
        made_ = made(costs=DEAR)
        for at in range(400):
            for arm, of_plain, of_odd in (("big", 0.9, 0.2), ("mid", 0.8, 0.2), ("small", 0.3, 0.95)):
                is_odd = at % 2 == 0
                made_.label(label(arm, of_odd if is_odd else of_plain, "", odd if is_odd else plain))
        for at in range(200):
            made_.choose(ARMS, ask("", odd if at < odd_ones else plain), np.random.default_rng(1))
        return made_

    many, few = sure(one(100)), sure(one(1))
    assert many < 0.5
    assert few > many


def test_an_arm_that_hardly_answers_is_worth_less() -> None:
    """Labels of the answers that came are as good as any; one in three never comes."""
    one = bad(small=0.9)
    before = sure(one)
    for at in range(300):
        one.partial_fit("small", answered(fine=float(at % 3 > 0)), ask())
        one.partial_fit("big", answered(), ask())
    assert before < 0.9 < 0.999 < sure(one)


@pytest.mark.parametrize("labelled", [False, True])
def test_before_labels_quality_is_what_validators_say(labelled: bool) -> None:
    one = made(costs=DEAR)
    for at in range(300):
        one.partial_fit("big", answered(), ask())
        one.partial_fit("small", answered(fine=float(at % 2)), ask())
    if labelled:
        one.label(label("big", 1.0))
    assert (sure(one) > 0.999) is not labelled
