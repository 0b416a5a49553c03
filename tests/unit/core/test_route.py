"""When a route's selector learns: at once while little is known, later at a pace; and what a route that only looks keeps."""

import pytest

from sidecar.core.engine import Engine
from sidecar.core.route import OLD, PACE_S, SUM_UP, YOUNG
from sidecar.core.selector import REFRESH
from sidecar.core.types import Feedback
from tests.unit.core.engines import BASE, MINI, NOW, engine, facts, outcome, policy, promoted


def scored(made: Engine, count: int) -> None:
    """So many scores of the baseline, at once."""
    for number in range(count):
        score = Feedback(decision_id=str(number), route="support", arm=BASE.id, score=number % 2)
        made.feedback(score, NOW)


def waiting(made: Engine) -> int:
    return made._routes["support"].selector.model.waiting


def test_a_young_route_learns_at_once_and_an_old_one_at_a_pace() -> None:
    """Below YOUNG scores two refreshes work at the same instant; after OLD not within PACE_S, unless it is the
    tick's; and a clock that was set back delays nothing."""
    made = promoted(policy(mode="optimize"))
    for _ in range(2):
        scored(made, (YOUNG - 1) // 2)
        made.refresh(NOW)
        assert waiting(made) == 0
    scored(made, OLD + REFRESH)
    made.refresh(NOW)
    scored(made, REFRESH)
    made.refresh(NOW + 0.9 * PACE_S)
    assert waiting(made) == REFRESH
    made.refresh(NOW + 1.1 * PACE_S)
    assert waiting(made) == 0
    scored(made, REFRESH)
    made.tick(NOW + 1.2 * PACE_S)
    assert waiting(made) == 0
    scored(made, REFRESH)
    made.refresh(NOW - 1000.0)
    assert waiting(made) == 0


@pytest.mark.parametrize("mode", ["observe", "canary"])
def test_a_route_that_chooses_by_no_belief_adds_up_and_a_later_optimize_begins_with_that(mode: str) -> None:
    """Counts, labels and means are those that an optimize route would have; texts and changes are not looked at."""
    made = engine(policy(mode=mode))
    for key in range(1, SUM_UP):
        made.settle(facts(key), made.decide(facts(key), NOW), outcome(), NOW)
    made.refresh(NOW)
    assert waiting(made) == SUM_UP - 1  # some more are worth the walk
    scored(made, 100)
    judged = {arm.id: arm for arm in made.status()[0].arms}
    assert (judged[BASE.id].labels, judged[BASE.id].label_mean) == (100, 0.5)
    assert waiting(made) == 0
    made.apply(policy(mode="optimize"), NOW)
    model = made._routes["support"].selector.model
    assert not model.sums
    assert model.scores(0) == (100.0, 50.0)
    assert model.learnt == 100
    assert MINI.id in made._routes["support"].arms
