"""Thresholds: one event per breach, one per recovery, hysteresis, and diversions that end by probing."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.policy import Arm, Match, Route, Threshold
from sidecar.core.thresholds import MAX_HOLD_WINDOWS, ThresholdSet
from sidecar.core.types import Clocks, Event, Outcome


def limit(**changes: Any) -> Threshold:
    given: dict[str, Any] = {
        "name": "t", "metric": "error_rate", "above": 0.1, "below": None, "window_s": 60.0, "severity": "high",
        "action": "log", "min_samples": 10,
    }  # fmt: skip
    return Threshold(**(given | changes))


def watch(*thresholds: Threshold) -> ThresholdSet:
    return ThresholdSet(
        Route("r", Match(), "canary", Arm("big", "u", "m"), (Arm("mini", "u", "n"),), thresholds=thresholds)
    )


def done(
    seconds: float = 1.0, *, stream: bool = False, ttft_s: float | None = None, cost: int | None = None
) -> Outcome:
    clocks = Clocks(sent_s=0.0, ttft_s=ttft_s, duration_s=seconds)
    return Outcome(kind="completed", status=200, clocks=clocks, stream=stream, cost_nusd=cost)


FAILED = Outcome(kind="failed", status=500, clocks=Clocks(duration_s=0.1))


def many(
    one: ThresholdSet, n: int, outcome: Outcome, now: float, arm: str = "big", quality: float | None = None
) -> list[Event]:
    """n exchanges and a tick, all at `now`."""
    events = [event for _ in range(n) for event in one.observe(arm, outcome, now, quality)]
    return events + one.tick(now)


def kinds(events: list[Event]) -> list[str]:
    return [event.kind.removeprefix("threshold.") for event in events]


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (FAILED, True),
        (Outcome(kind="completed", error="bad_body", clocks=Clocks()), True),
        (Outcome(kind="completed", error="no_terminal", stream=True, clocks=Clocks()), True),
        (Outcome(kind="completed", error="no_terminal", stream=True, finish="stop", clocks=Clocks()), False),
        (Outcome(kind="completed", error="no_terminal", clocks=Clocks()), False),
        (Outcome(kind="completed", served_arm="mini", clocks=Clocks()), True),
        (Outcome(kind="completed", served_arm="big", clocks=Clocks()), False),
        (done(), False),
    ],
)
def test_an_error_is_what_guardrails_call_one(outcome: Outcome, error: bool) -> None:
    """Also of an arm that a fallback took: what it serves is no error of its own."""
    one = watch(limit(above=0.5, min_samples=1))
    assert kinds(many(one, 1, outcome, 100.0)) == (["breached"] if error else [])


def test_one_event_per_breach_and_one_per_recovery() -> None:
    """Hysteresis: below the limit is not enough, the value must be back inside 0.9 of it."""
    one = watch(limit())
    assert kinds(many(one, 9, FAILED, 100.0)) == []  # too few
    assert kinds(many(one, 1, FAILED, 100.0)) == ["breached"]
    assert kinds(many(one, 50, FAILED, 101.0)) == []
    assert one.active("log") == ("t",)
    assert kinds(many(one, 540, done(), 102.0)) == []  # 10 %: not above the limit, not yet inside
    assert kinds(many(one, 100, done(), 103.0)) == ["recovered"]
    assert kinds(many(one, 100, done(), 104.0)) == []
    assert one.active("log") == ()


def test_an_empty_window_is_a_recovery() -> None:
    one = watch(limit())
    many(one, 10, FAILED, 100.0)
    assert kinds(one.tick(150.0)) == []
    assert kinds(one.tick(161.0)) == ["recovered"]


@pytest.mark.parametrize(
    ("metric", "bounds", "bad", "quality", "value"),
    [
        ("latency_p95", (2.0, None), done(3.0), None, 3.0),
        ("ttft_p95", (2.0, None), done(9.0, stream=True, ttft_s=3.0), None, 3.0),
        ("cost_per_request", (100.0, None), done(cost=500), None, 500.0),
        ("quality", (None, 0.8), done(), 0.5, 0.5),
        ("error_rate", (0.1, None), FAILED, None, 1.0),
        ("error_rate", (0.1, None), Outcome(kind="completed", served_arm="mini", clocks=Clocks()), None, 1.0),
    ],
    ids=["latency", "ttft", "cost", "quality", "error", "fallback"],
)
def test_each_metric_breaches(
    metric: str, bounds: tuple[float | None, float | None], bad: Outcome, quality: float | None, value: float
) -> None:
    one = watch(limit(metric=metric, above=bounds[0], below=bounds[1]))
    events = many(one, 10, bad, 100.0, quality=quality)
    assert kinds(events) == ["breached"]
    assert (events[0].severity, events[0].detail["samples"]) == ("high", 10)
    status = one.status(100.0)[0]
    assert status.value == pytest.approx(value, rel=0.011)
    assert (status.level, status.limit, status.since) == ("breached", bounds[0] or bounds[1], 100.0)


def test_streaming_and_other_latencies_never_share_a_window() -> None:
    """GW-12: 100 fast calls do not hide ten slow streams, and nine slow streams are too few for a value."""
    one = watch(limit(metric="latency_p95", above=2.0))
    many(one, 100, done(0.1), 100.0)
    assert kinds(many(one, 9, done(5.0, stream=True), 100.0)) == []
    assert kinds(many(one, 1, done(5.0, stream=True), 100.0)) == ["breached"]
    assert one.status(100.0)[0].value == pytest.approx(5.0, rel=0.011)


def test_what_does_not_concern_a_threshold_teaches_it_nothing() -> None:
    """Aborted, the caller's fault, failures for latency, non-streams for TTFT, unknown cost and quality."""
    fault = Outcome(kind="failed", status=400, caller_fault=True, clocks=Clocks())
    aborted = Outcome(kind="aborted", clocks=Clocks())
    errors, ttft = limit(), limit(name="f", metric="ttft_p95", above=1.0)
    one = watch(errors, ttft, limit(name="c", metric="cost_per_request", above=1.0), limit(name="q", metric="quality"))
    many(one, 20, fault, 100.0)
    many(one, 20, aborted, 100.0)
    assert [each.samples for each in one.status(100.0)] == [0, 0, 0, 0]
    many(one, 20, done(9.0, ttft_s=9.0), 100.0)
    many(one, 1, FAILED, 100.0)
    assert [each.samples for each in one.status(100.0)] == [21, 0, 0, 0]


def test_quality_labels_count_when_they_come() -> None:
    one = watch(limit(metric="quality", above=None, below=0.8), limit(name="other"))
    events = [event for i in range(12) for event in one.label("mini", 0.5, 100.0 + i)]
    assert kinds(events) == ["breached"]
    assert kinds([event for i in range(200) for event in one.label("mini", 1.0, 113.0 + i / 10)]) == ["recovered"]


def test_a_rollback_threshold_measures_its_arm() -> None:
    one = watch(limit(action="rollback", arm="mini"), limit(name="all", action="rollback"))
    events = many(one, 30, FAILED, 100.0, arm="big")
    assert [event.detail["threshold"] for event in events] == ["all"]
    events = many(one, 30, FAILED, 100.0, arm="mini")
    assert [(event.arm, event.detail["action"]) for event in events] == [("mini", "rollback")]


DIVERT = limit(action="route_to", arm="mini")


def test_a_diversion_ends_by_probing_and_a_lasting_fault_doubles_the_hold() -> None:
    """Holds of 60, 120, 240 s ... up to 16 windows; the target's own traffic is not measured."""
    one, now, holds = watch(DIVERT), 1000.0, []
    assert one.active_route_to() is None
    assert kinds(many(one, 10, FAILED, now)) == ["breached"]
    for _ in range(7):
        assert one.active_route_to() == "mini"
        begun = now
        while not (events := many(one, 20, done(), now, arm="mini")):
            now += 5.0
        assert kinds(events) == ["probing"]
        assert one.active_route_to() is None
        holds.append(now - begun)
        assert kinds(many(one, 10, FAILED, now)) == ["probe_failed"]
    assert holds == [60, 120, 240, 480, 960, 960, 960]
    assert holds[-1] == MAX_HOLD_WINDOWS * 60


@pytest.mark.parametrize("traffic", [True, False])
def test_a_probe_that_goes_well_is_the_recovery(traffic: bool) -> None:
    """With good values at once, without traffic after a whole window."""
    one = watch(DIVERT)
    many(one, 10, FAILED, 100.0)
    assert kinds(one.tick(160.0)) == ["probing"]
    assert kinds(one.tick(161.0)) == []
    if traffic:
        assert kinds(many(one, 10, done(), 161.0)) == ["recovered"]
    else:
        assert kinds(one.tick(219.0)) == []
        assert kinds(one.tick(220.0)) == ["recovered"]
    assert one.active_route_to() is None


def test_between_recovery_and_limit_a_probe_goes_on() -> None:
    one = watch(DIVERT)
    many(one, 10, FAILED, 100.0)
    one.tick(160.0)
    many(one, 9, done(), 161.0)
    assert kinds(many(one, 1, FAILED, 161.0)) == []  # exactly 10 %
    assert kinds(many(one, 10, done(), 162.0)) == ["recovered"]


def test_a_breach_soon_after_the_recovery_holds_longer_and_a_late_one_does_not() -> None:
    one = watch(DIVERT)
    many(one, 10, FAILED, 100.0)
    one.tick(160.0)
    many(one, 10, done(), 160.0)
    assert kinds(many(one, 50, FAILED, 200.0)) == ["breached"]
    assert kinds(one.tick(319.0)) == []
    assert kinds(one.tick(320.0)) == ["probing"]
    many(one, 10, done(), 320.0)
    assert kinds(many(one, 20, FAILED, 1000.0)) == ["breached"]
    assert kinds(one.tick(1060.0)) == ["probing"]


def test_the_first_breached_diversion_of_the_policy_wins() -> None:
    one = watch(limit(name="a", action="route_to", arm="x", metric="latency_p95", above=2.0), DIVERT)
    many(one, 10, FAILED, 100.0)
    assert one.active_route_to() == "mini"
    many(one, 10, done(9.0), 101.0)
    assert one.active_route_to() == "x"


def test_a_clock_that_goes_back_does_not_stop_the_checks() -> None:
    one = watch(limit())
    many(one, 1, done(), 10_000.0)
    assert kinds([event for _ in range(10) for event in one.observe("big", FAILED, 100.0)]) == []
    assert kinds([event for i in range(10) for event in one.observe("big", FAILED, 100.0 + i)]) == []
    assert kinds(many(one, 10, FAILED, 10_001.0)) == ["breached"]


def test_state_survives_a_restart_and_changed_or_broken_parts_begin_anew() -> None:
    one = watch(DIVERT, limit(name="b"))
    many(one, 10, FAILED, 100.0)
    state = json.loads(json.dumps(one.to_state()))
    again = watch(DIVERT, limit(name="b"))
    again.restore(state)
    assert again.active_route_to() == "mini"
    assert again.status(100.0) == one.status(100.0)
    other = watch(limit(name="b", window_s=30.0), limit(name="new"))
    other.restore(state)
    assert [each.level for each in other.status(100.0)] == ["ok", "ok"]
    for broken in ([1, 2], ["ok", "x", 1, []], ["lost", 1, 1, []], 7):
        fresh = watch(DIVERT)
        fresh.restore({"t": [60.0, broken]})
        assert fresh.status(100.0)[0].level == "ok"
    odd = watch(DIVERT)
    odd.restore({"t": [60.0, ["breached", 90.0, 60.0, [5]]]})
    assert odd.active_route_to() == "mini"


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans(), st.integers(1, 20)), max_size=60))
def test_events_alternate_and_a_diversion_means_a_breach(steps: list[tuple[float, bool, int]]) -> None:
    """In any history: breaches and recoveries take turns, and traffic is diverted exactly while breached."""
    one, now, story = watch(DIVERT), 0.0, []
    for seconds, bad, n in steps:
        now += seconds
        story += kinds(many(one, n, FAILED if bad else done(), now))
        assert (one.active_route_to() is not None) == (one.status(now)[0].level == "breached")
    main = [kind for kind in story if kind in ("breached", "recovered")]
    assert main == [("breached", "recovered")[i % 2] for i in range(len(main))]
