"""Anomalies: far and rare calls, strange windows, one event an episode, and no more of them than the budget says."""

from typing import Any

import numpy as np
import orjson
import pytest

from sidecar.core.anomaly import CHECKPOINT_S, EPOCH, LEARNING, LEARNING_WINDOWS, AnomalySet, Scale, Tops
from sidecar.core.policy import Anomalies, Arm, Match, Method, Route
from sidecar.core.types import Clocks, Event, Outcome

SPEC = Anomalies(metrics=("latency",), window_s=10.0, samples=10, false_alarms_per_10k=20.0)  # 500 calls


def watched(spec: Anomalies | None = SPEC) -> AnomalySet:
    return AnomalySet(Route("r", Match(), "optimize", Arm("big", "u", "m"), anomalies=spec))


def took(seconds: float) -> Outcome:
    return Outcome(kind="completed", clocks=Clocks(sent_s=0.0, duration_s=seconds))


class Feed:
    """A call a second, of lognormal length, with a tick after each."""

    def __init__(self, one: AnomalySet) -> None:
        self.one, self.now, self.rng = one, 1000.0, np.random.default_rng(9)

    def run(self, calls: int, factor: float = 1.0) -> list[Event]:
        events = []
        for _ in range(calls):
            events += self.call(factor * float(self.rng.lognormal(0.0, 0.5)))
        return events

    def call(self, seconds: float) -> list[Event]:
        self.now += 1.0
        return [*self.one.observe("big", took(seconds), None, self.now), *self.one.tick(self.now)]


@pytest.mark.parametrize(
    ("method", "value", "expected"),
    [
        ("mad", 0.9, 0.4 / (1.4826 * 0.25)),  # median 0.5, median deviation 0.25
        ("mad", 0.1, 0.4 / (1.4826 * 0.25)),
        ("iqr", 0.9, 0.15 * 1.349 / 0.5),  # quartiles 0.25 and 0.75
        ("iqr", 0.3, 0.0),
        ("z", 0.9, 0.4 / np.sqrt(0.125)),  # five points: variance 1/8
    ],
)
def test_distances_are_those_of_the_definitions(method: Method, value: float, expected: float) -> None:
    scale = Scale([0.0, 0.25, 0.5, 0.75, 1.0], method, share=True)
    assert scale.distance(value) == pytest.approx(expected)


def test_times_are_compared_by_their_logarithm() -> None:
    """Ten times and a hundred times the median: ln(1 + 10) and ln(1 + 100) less ln 2, over the same scale."""
    scale = Scale([0.5, 1.0, 2.0], "z", share=False)
    middle, near, far = (scale.distance(value) for value in (1.0, 10.0, 100.0))
    assert middle < 0.2
    assert (far - near) / near == pytest.approx((np.log(101) - np.log(11)) / (np.log(11) - np.log(2)), rel=0.1)
    assert Scale([1.0, 1.0], "mad", share=False).distance(1.01) > 1.0, "a constant has a least scale"
    assert Scale([0.0, 0.0], "mad", share=False).distance(0.0) == 0.0


def test_the_share_of_tops_is_exact_in_little_memory() -> None:
    """Against all scores kept, over two epochs: every answer is the same, and the share is never above `a`."""
    rng, tops, a = np.random.default_rng(2), Tops(0.1), 0.1
    seen: list[float] = []
    hits = 0
    for score in rng.integers(0, 1000, int(2.5 * EPOCH / a)).tolist():
        if len(seen) >= EPOCH / a:
            seen = []
        seen.append(score)
        rank = sum(other >= score for other in seen)
        found = tops.add(float(score))
        assert found == (rank <= a * len(seen))
        hits += found
    assert hits > 10


def test_false_alarms_of_single_calls_stay_within_the_budget() -> None:
    """20,000 calls and a = 1/500: at most 40 are expected whatever their distribution. Ranks are independent, so the
    count has a deviation below sqrt(40) = 6.3: 40 + 4 x 6.3 = 65."""
    tops, rng = Tops(1 / 500), np.random.default_rng(4)
    hits = sum(tops.add(score) for score in np.abs(rng.standard_cauchy(20_000)).tolist())
    assert 10 < hits <= 65


def test_a_far_call_is_told_once_an_episode() -> None:
    """Nothing before enough calls were seen; then one event, further calls count, and the next episode tells them."""
    feed = Feed(watched())
    feed.run(LEARNING)
    assert feed.call(1e4) == []
    assert feed.run(600) == []
    events = feed.call(1e5)
    assert [event.kind for event in events] == ["anomaly.detected"]
    assert (events[0].arm, events[0].severity, events[0].detail["what"]) == ("big", "low", "call")
    assert "latency of big: one call is 1e+05 s, " in events[0].message
    assert (feed.call(1e6), feed.call(1e7)) == ([], [])
    status = feed.one.status()[0]
    assert (status.alarms, status.repeats, status.needed) == (1, 2, LEARNING + 500)
    feed.run(2000)
    assert [event.detail["repeats_before"] for event in feed.call(1e8)] == [2]


def test_what_is_rare_but_near_is_no_anomaly() -> None:
    """The longest of ordinary calls are the rarest too: the distance keeps them silent."""
    feed = Feed(watched())
    assert [event for event in feed.run(3000) if event.detail["what"] == "call"] == []


def test_strange_windows_in_a_row_are_told() -> None:
    """Every call takes twice as long: no single one is far, the windows are."""
    feed = Feed(watched())
    assert feed.run(12 * (LEARNING_WINDOWS + 60)) == []
    events = feed.run(12 * 15, 2.0)
    assert [event.detail["what"] for event in events][:1] == ["window"]


def test_scores_that_come_later_and_what_is_not_watched() -> None:
    one = watched(Anomalies(metrics=("quality",), samples=10, false_alarms_per_10k=100.0, sigma=3.0))
    rng, events = np.random.default_rng(1), []
    for at in range(LEARNING + 500):
        events += one.label("big", float(rng.uniform(0.7, 0.9)), float(at))
        events += one.label("gone", 0.0, float(at))
    assert one.observe("big", Outcome(kind="failed", clocks=Clocks()), 0.0, 1e4) == []
    assert one.observe("big", took(1.0), None, 1e4) == []
    assert events == []
    assert [event.detail["value"] for event in one.observe("big", took(1.0), 0.0, 1e4)] == [0.0]


def test_a_route_without_anomalies_watches_nothing() -> None:
    one = watched(None)
    assert (one.observe("big", took(1.0), 0.5, 1.0), one.label("big", 0.5, 1.0), one.tick(1e6)) == ([], [], [])
    assert one.status() == ()
    one.restore({"spec": ["mad", 60.0, 20, 1.0, 0], "watched": {}}, ("big",))


@pytest.mark.parametrize("calls", [50, LEARNING + 700])
def test_state_survives_a_restart(calls: int) -> None:
    """What is learnt is kept; a first sample that is not whole begins anew."""
    feed = Feed(watched())
    feed.run(calls)
    feed.now += CHECKPOINT_S
    feed.one.tick(feed.now)
    state = orjson.loads(orjson.dumps(feed.one.to_state()))
    assert feed.one.to_state() is feed.one.to_state()
    again = watched()
    again.restore(state, ("big",))
    if calls < LEARNING:
        assert again.status() == ()
    else:
        assert again.status() == feed.one.status()
    assert orjson.loads(orjson.dumps(again.to_state())) == state
    other = Feed(again)
    other.now = feed.now
    assert len(other.call(1e6)) == (calls > LEARNING)


@pytest.mark.parametrize(
    ("at", "value"), [(None, None), (0, [1.0]), (1, [1]), (4, 7), (5, [1])],
    ids=["no list", "scale", "tops", "detector", "told"],
)  # fmt: skip
def test_what_cannot_be_read_is_learnt_anew(at: int | None, value: Any) -> None:
    feed = Feed(watched())
    feed.run(LEARNING + 100)
    state = orjson.loads(orjson.dumps(feed.one.to_state()))
    if at is None:
        state["watched"]["latency/big"] = value
    else:
        state["watched"]["latency/big"][at] = value
    again = watched()
    again.restore(state, ("big",))
    assert again.status() == ()
    again.restore({"spec": ["z"], "watched": {}}, ("big",))
    again.restore({}, ("big",))
    assert again.status() == ()
