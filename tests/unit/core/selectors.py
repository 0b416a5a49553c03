"""A selector of three arms and what it is told: what the tests of the selector begin with."""

import numpy as np

from sidecar.core.policy import Objective
from sidecar.core.reward import Signal
from sidecar.core.selector import Selector
from sidecar.core.types import Facts, Features, Feedback
from tests.unit.core.engines import facts

ARMS = ("big", "mid", "small")
COSTS = (1_000.0, 300.0, 50.0)
FREE = Objective(max_quality_loss=1.0)  # no promise: the weights alone


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def ask(task: str = "", text: Features | None = None, *, stream: bool = True) -> Facts:
    return facts(task=task, text=text, stream=stream)


def label(arm: str, score: float, task: str = "", text: Features | None = None, **changes: float) -> Feedback:
    return Feedback(decision_id="d", route="r", arm=arm, score=score, task=task, text=text, **changes)  # type: ignore[arg-type]  # numbers of one test


def made(objective: Objective | None = None, costs: tuple[float | None, ...] = COSTS) -> Selector:
    one = Selector(ARMS[: len(costs)], objective or Objective())
    one.price_in(costs)
    return one


def teach(one: Selector, means: dict[str, float], n: int = 200, task: str = "") -> Selector:
    """n labels an arm, in turn, with exactly these means and a sd of 0.1."""
    for at in range(n):
        for arm, mean in means.items():
            one.label(label(arm, mean + (0.1 if at % 2 else -0.1), task))
        if at % 4 == 0:
            one.model.digest()
    one.model.digest()
    return one


def answered(latency: float | None = None, fine: float = 1.0) -> Signal:
    return Signal(fine, fine, "validators", latency, None)


def ready(one: Selector, n: int = 64, seed: int = 1, pool: tuple[str, ...] | None = None) -> Selector:
    """The selector after some requests of late, with prices for them."""
    for _ in range(n):
        one.choose(pool or one.arms, ask(), rng(seed))
    one.refresh(rng(seed))
    return one


def vector(one: Selector, pool: tuple[str, ...] | None = None) -> dict[str, float]:
    pool = pool or one.arms
    return dict(zip(pool, one.propensities(pool).tolist(), strict=True))
