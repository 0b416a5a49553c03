"""Drift: silent while nothing changes, one event when something does, and effect sizes that are right."""

from typing import Any

import numpy as np
import orjson
import pytest

from sidecar.core.drift import LEARNING, DriftSet, Reference
from sidecar.core.policy import Arm, Drift, Match, Route
from sidecar.core.types import Clocks, Event, Outcome, Usage

SPEC = Drift(metrics=("output_tokens", "quality"), window_s=10.0, samples=50)


def watched(spec: Drift | None = SPEC) -> DriftSet:
    return DriftSet(Route("r", Match(), "optimize", Arm("big", "u", "m"), (Arm("mini", "u", "n"),), drift=spec))


def answer(tokens: int) -> Outcome:
    return Outcome(kind="completed", clocks=Clocks(), usage=Usage(output_tokens=tokens))


class Feed:
    """Ten calls a second of one arm, with a tick each second."""

    def __init__(self, one: DriftSet) -> None:
        self.one, self.now, self.rng = one, 1000.0, np.random.default_rng(3)

    def run(self, windows: int, factor: float = 1.0, arm: str = "big") -> list[Event]:
        events = []
        for _ in range(windows * 102):
            self.now += 0.1
            self.one.observe(arm, answer(round(factor * self.rng.lognormal(5.0, 1.0))), None, self.now)
            events += self.one.tick(self.now)
        return events


def test_distances_are_those_of_the_definitions() -> None:
    """Reference uniform on 1..1000, window its upper half: KS is 1/2. PSI by hand: five bins of 0.1 against 0 and five
    against 0.2, where 0 and 0.2 of 100 values are 0.5 / 105 and 20.5 / 105, and 0.1 of 1000 is 100.5 / 1005."""
    reference = Reference([float(value) for value in range(1, 1001)])
    ks, psi = reference.distances([float(value) for value in range(505, 1001, 5)])
    low, high, was = 0.5 / 105, 20.5 / 105, 100.5 / 1005
    assert ks == pytest.approx(0.5, abs=0.02)
    assert psi == pytest.approx(5 * (low - was) * np.log(low / was) + 5 * (high - was) * np.log(high / was), rel=0.02)
    assert reference.distances([float(value) for value in range(5, 1001, 10)]) == pytest.approx((0.0, 0.0), abs=0.02)


def test_one_value_alone_is_a_distribution_too() -> None:
    reference = Reference([1.0] * 100)
    assert reference.distances([1.0] * 20) == pytest.approx((0.0, 0.0), abs=0.05)  # half values weigh more in 20
    assert reference.distances([0.0] * 10 + [1.0] * 10)[0] == pytest.approx(0.5)


def test_a_change_is_told_once_and_becomes_the_new_normal() -> None:
    """Output doubles: found within ten windows, with the medians of before and after; silence afterwards."""
    feed = Feed(watched())
    assert feed.run(LEARNING + 40) == []
    events = feed.run(10, 2.0)
    assert [event.kind for event in events] == ["drift.detected"]
    detail = events[0].detail
    assert (events[0].arm, events[0].severity, detail["metric"]) == ("big", "medium", "output_tokens")
    assert detail["before"] == pytest.approx(np.exp(5.0), rel=0.1)
    assert detail["after"] > 1.3 * detail["before"]  # type: ignore[operator]
    assert detail["ks"] > 0.1  # type: ignore[operator]
    status = feed.one.status()
    assert [(one.metric, one.phase, one.alarms) for one in status] == [("output_tokens", "learning", 1)]
    assert feed.run(LEARNING + 40, 2.0) == []
    assert [one.phase for one in feed.one.status()] == ["watching"]


def test_arms_and_failures_are_told_apart() -> None:
    """What one arm does is no change of another, and a failed call shows nothing."""
    feed = Feed(watched())
    feed.run(LEARNING + 20)
    feed.run(LEARNING, 5.0, "mini")
    assert {(one.arm, one.alarms) for one in feed.one.status()} == {("big", 0), ("mini", 0)}
    before = feed.one.status()
    for _ in range(1000):
        feed.now += 1.0
        feed.one.observe("big", Outcome(kind="failed", clocks=Clocks(), usage=Usage(output_tokens=1)), None, feed.now)
        feed.one.observe("gone", answer(1), None, feed.now)
        feed.one.observe("big", Outcome(kind="completed", clocks=Clocks()), None, feed.now)
        feed.one.tick(feed.now)
    assert feed.one.status() == before


def test_quality_that_comes_later_counts() -> None:
    """Scores 0.9 become 0.4."""
    one, rng, now, events = watched(), np.random.default_rng(1), 0.0, []
    for at in range(60 * 101):
        now += 0.1
        one.label("big", float(rng.random() < (0.9 if at < 50 * 101 else 0.4)), now)
        one.label("gone", 0.5, now)
        events += one.tick(now)
    assert [event.detail["metric"] for event in events] == ["quality"]


def test_a_route_without_drift_watches_nothing() -> None:
    one = watched(None)
    one.observe("big", answer(5), 0.5, 1.0)
    one.label("big", 0.5, 1.0)
    assert (one.tick(1e6), one.status()) == ([], ())


@pytest.mark.parametrize("windows", [5, LEARNING + 30])
def test_state_survives_a_restart(windows: int) -> None:
    """While learning and while watching: the same status, and the same future."""
    feed = Feed(watched())
    feed.run(windows)
    again = watched()
    state = orjson.loads(orjson.dumps(feed.one.to_state()))
    again.restore(state, ("mini",))
    assert again.status() == (), "the arm is not what it was"
    again.restore(state, ("big",))
    assert again.status() == feed.one.status()
    assert orjson.loads(orjson.dumps(again.to_state())) == orjson.loads(orjson.dumps(feed.one.to_state()))
    other = Feed(again)
    other.now = feed.now
    assert other.run(LEARNING + 20, 1.0) == []
    assert len(other.run(10, 3.0)) == 1


def broken(change: Any) -> dict[str, Any]:
    feed = Feed(watched())
    feed.run(LEARNING + 2)
    state: dict[str, Any] = orjson.loads(orjson.dumps(feed.one.to_state()))
    kept = state["watched"]["output_tokens/big"]
    change(state, kept)
    return state


@pytest.mark.parametrize(
    "change",
    [
        lambda state, kept: state.update(window_s=11.0),
        lambda state, kept: state.update(watched=7),
        lambda state, kept: state["watched"].update({"output_tokens/big": 7}),
        lambda state, kept: kept.pop(),
        lambda state, kept: kept[1][0].pop(),
        lambda state, kept: kept.__setitem__(2, 5),
        lambda state, kept: kept.__setitem__(4, "x"),
        lambda state, kept: kept.__setitem__(0, 3),
    ],
    ids=["window", "no map", "no list", "short", "lengths", "detector", "alarms", "pool"],
)
def test_what_cannot_be_read_is_learnt_anew(change: Any) -> None:
    one = watched()
    one.restore(broken(change), ("big",))
    assert one.status() == ()
