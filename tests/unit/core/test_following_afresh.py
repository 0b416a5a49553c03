"""A follower that heard of all that happened knows what one knows that begins now and hears the leader once."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import orjson
import pytest

from sidecar.core.engine import Engine
from sidecar.core.following import Follower
from sidecar.core.memory import part_of
from sidecar.core.policy import (
    Budget,
    ExperimentSpec,
    Knob,
    Match,
    Policy,
    Quality,
    Route,
    Threshold,
    Tuning,
    Variant,
)
from sidecar.core.types import Clocks, Feedback
from sidecar.errors import RolloutError
from tests.unit.core.engines import BASE, MINI, NANO, NOW, ROUTE, SPEC, UPSTREAMS, facts, outcome
from tests.unit.core.test_following import Crew

T = TypeVar("T")

SLOW = Threshold("slow", "ttft_p95", 0.2, None, 60.0, "high", "route_to", "mini", 3)
VARIANTS = (Variant("control", "m-a"), Variant("mini", "mini"))
COMPARED = ExperimentSpec(VARIANTS, metric="cost", min_samples=10, allocation="uniform")
BUDGETS = (None, Budget(daily_nusd=10**9), Budget(mean_request_nusd=1_000), Budget(window_nusd=10**8, window_s=3_600.0))


class Dice:
    """What happens, by chance."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def below(self, end: int) -> int:
        return int(self._rng.integers(end))

    def choice(self, some: Sequence[T]) -> T:
        return some[self.below(len(some))]


def some_route(dice: Dice, name: str) -> Route:
    spec = None if name == "a" else replace(SPEC, steps=dice.choice([(5, 50, 100), (25, 100)]))
    return replace(
        ROUTE,
        name=name,
        match=Match(models=(f"m-{name}",)),
        mode="ab" if name == "a" else dice.choice(["canary", "optimize", "observe"]),
        baseline=replace(BASE, id=f"m-{name}", model=f"m-{name}"),
        arms=dice.choice([(MINI,), (MINI, NANO), (replace(MINI, model="other"), NANO)]),
        virtual=(),
        sticky=dice.choice(["request", "session"]),
        rollout=spec,
        experiment=COMPARED if name == "a" else None,
        budget=dice.choice(BUDGETS),
        thresholds=dice.choice([(), (replace(SLOW, action=dice.choice(["route_to", "rollback"])),)]),
        tuning=None if name == "a" else dice.choice([None, Tuning((Knob("temperature", 0.0, 1.0, 0.2),))]),
        quality=Quality(("finish_reason", "empty"), min_samples=0),
    )


class History:
    """What happens to a leader with two followers, by dice."""

    def __init__(self, seed: int) -> None:
        self.dice = Dice(seed)
        self.now, self.policies = NOW, 0
        self.crew = Crew(self.some_policy())

    def some_policy(self) -> Policy:
        self.policies += 1
        names = self.dice.choice(["a", "b", "ab", "bc", "cab", "abc"])
        return Policy("bot", f"v{self.policies}", UPSTREAMS, tuple(some_route(self.dice, name) for name in names))

    def calls(self) -> None:
        for _ in range(1 + self.dice.below(20)):
            one = self.crew[self.dice.below(2)]
            model = self.dice.choice(one.routes).route.match.models[0]
            key, task = 1 + self.dice.below(200), self.dice.choice(["", "x", "y"])
            asked = facts(key, model=model, key_source="session", task=task)
            made = one.decide(asked, self.now)
            if made.refusal is None:
                clocks = Clocks(sent_s=0.001, ttft_s=self.dice.choice([0.1, 3.0]), duration_s=4.0)
                ended = outcome(self.dice.choice(["completed", "completed", "failed", "aborted"]), clocks=clocks)
                one.settle(asked, made, ended, self.now)

    def time(self) -> None:
        self.now += self.dice.choice([0.25, 5.0, 11.0, 11.0, 86_400.0])
        for one in (self.crew.leader, *self.crew.followers.values()):
            one.tick(self.now)

    def verb(self) -> None:
        leader, route = self.crew.leader, self.dice.choice(self.crew.leader.routes)
        verb = self.dice.choice([leader.promote, leader.promote, leader.pause, leader.resume, leader.rollback])
        with suppress(RolloutError):
            verb(route.route.name, self.now)

    def labels(self) -> None:
        route = self.dice.choice(self.crew.leader.routes)
        for number in range(1 + self.dice.below(20)):
            arm, score = self.dice.choice(list(route.arms)), self.dice.choice([0.0, 0.5, 1.0])
            label = Feedback(decision_id=str(number), route=route.route.name, arm=arm, score=score)
            self.crew.leader.feedback(label, self.now)

    def policy(self) -> None:
        self.crew.report(self.now)
        made = self.some_policy()
        for one in (self.crew.leader, *self.crew.followers.values()):
            one.apply(made, self.now)

    def told(self) -> None:
        self.crew.report(self.now)
        self.crew.tell(self.now)


def known(engine: Engine) -> dict[str, Any]:
    """What it decides by, of each route. The memory of brakes is the leader's alone."""
    return {state.route.name: rounded(part_of(state)) for state in engine.routes}


def rounded(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: rounded(one) for name, one in part.items() if name not in ("brake", "watch", "prices")}
    if isinstance(part, list):
        return [rounded(one) for one in part]
    return float(f"{part:.9g}") if isinstance(part, float) else part


@pytest.mark.parametrize("seed", range(12))
def test_who_follows_knows_what_one_knows_that_begins_now(seed: int) -> None:
    """Also where it takes over only those routes of which there is news."""
    history = History(seed)
    often, seldom = [history.calls, history.time, history.told], [history.verb, history.labels]
    happens = [*often * 3, *seldom * 2, history.policy]
    for _ in range(60):
        history.dice.choice(happens)()
    history.told()
    leader, follower = history.crew.leader, history.crew[0]
    fresh = Follower(leader.policy, np.random.default_rng(3), history.now)
    fresh.follow(leader.stand(), history.now)
    assert known(follower) == known(fresh)
    seen = [[state.staging.pool, state.staging.tag, state.thresholds.diversions] for state in follower.routes]
    assert seen == [[state.staging.pool, state.staging.tag, state.thresholds.diversions] for state in fresh.routes]
    assert orjson.loads(leader.stand())["routes"].keys() == known(follower).keys()
