"""Thresholds: one event per breach, one per recovery, hysteresis, and diversions that end by probing."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.policy import Arm, AutoLimit, Match, Route, Threshold
from sidecar.core.thresholds import CHECKPOINT_S, MAX_HOLD_WINDOWS, ThresholdSet
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
    assert one.status(101.0)[0].level == "breached"
    assert kinds(many(one, 540, done(), 102.0)) == []  # 10 %: not above the limit, not yet inside
    assert kinds(many(one, 100, done(), 103.0)) == ["recovered"]
    assert kinds(many(one, 100, done(), 104.0)) == []
    assert one.status(104.0)[0].level == "ok"


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


def test_what_costs_is_told_in_dollars() -> None:
    """And not in the nano-dollars that are counted."""
    one = watch(limit(metric="cost_per_request", above=5e7))
    (event,) = many(one, 10, done(cost=60_000_000), 100.0)
    assert event.message == f"{one.status(100.0)[0].name}: breached, cost_per_request is 0.06 $, limit 0.05 $"


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
    assert one.diversions == ()
    assert kinds(many(one, 10, FAILED, now)) == ["breached"]
    for _ in range(7):
        assert one.diversions == ("mini",)
        begun = now
        while not (events := many(one, 20, done(), now, arm="mini")):
            now += 5.0
        assert kinds(events) == ["probing"]
        assert one.diversions == ()
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
    assert one.diversions == ()


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
    assert one.diversions == ("mini",)
    many(one, 10, done(9.0), 101.0)
    assert one.diversions == ("x", "mini")


def test_a_clock_that_goes_back_does_not_stop_the_checks() -> None:
    one = watch(limit())
    many(one, 1, done(), 10_000.0)
    assert kinds([event for _ in range(10) for event in one.observe("big", FAILED, 100.0)]) == []
    assert kinds([event for i in range(10) for event in one.observe("big", FAILED, 100.0 + i)]) == []
    assert kinds(many(one, 10, FAILED, 10_001.0)) == ["breached"]


def kept(one: ThresholdSet) -> dict[str, Any]:
    """What a snapshot gives back."""
    state: dict[str, Any] = orjson.loads(orjson.dumps(one.to_state()))
    return state


def test_levels_and_windows_survive_a_restart() -> None:
    """Also the windows: nine failures before the restart and one after it are ten."""
    one = watch(DIVERT, limit(name="b"))
    many(one, 10, FAILED, 100.0)
    again = watch(DIVERT, limit(name="b"))
    again.restore(kept(one), 100.0)
    assert again.diversions == ("mini",)
    assert again.status(100.0) == one.status(100.0)
    one = watch(limit())
    many(one, 9, FAILED, 100.0)
    again = watch(limit())
    again.restore(kept(one), 110.0)
    assert kinds(many(again, 1, FAILED, 110.0)) == ["breached"]


def test_a_long_stop_leaves_nothing_and_ends_a_breach() -> None:
    one = watch(limit())
    many(one, 10, FAILED, 100.0)
    again = watch(limit())
    again.restore(kept(one), 5000.0)
    assert [each.samples for each in again.status(5000.0)] == [0]
    assert kinds(again.tick(5000.0)) == ["recovered"]


def test_a_clock_that_was_set_back_between_two_processes_blocks_nothing() -> None:
    """Slots of the future are left out, and the breach counts from now."""
    one = watch(DIVERT)
    many(one, 10, FAILED, 9000.0)
    again = watch(DIVERT)
    again.restore(kept(one), 100.0)
    assert (again.status(100.0)[0].samples, again.status(100.0)[0].since) == (0, 100.0)
    assert kinds(again.tick(159.0)) == []
    assert kinds(again.tick(160.0)) == ["probing"]
    assert kinds(many(again, 10, FAILED, 161.0)) == ["probe_failed"]


def test_ticks_compare_long_windows_less_often() -> None:
    """An hour's value every twelve seconds: a recovery may come so much later."""
    one = watch(limit(window_s=3600.0))
    assert kinds(many(one, 10, FAILED, 100.0)) == ["breached"]
    story = [kinds(one.tick(3700.0 + second)) for second in range(40)]
    assert ["recovered"] in story[:13]
    assert kinds(one.tick(50.0)) == [], "a clock that went back does not block"


def test_a_snapshot_is_made_anew_with_events_and_every_few_seconds() -> None:
    one = watch(limit())
    one.tick(100.0)
    many(one, 1, FAILED, 100.0)
    first = one.to_state()
    many(one, 1, FAILED, 100.0 + CHECKPOINT_S / 2)
    assert one.to_state() is first
    many(one, 1, FAILED, 100.0 + CHECKPOINT_S)
    assert (second := one.to_state()) is not first
    many(one, 8, FAILED, 101.0 + CHECKPOINT_S)
    assert one.to_state() is not second, "an event is never forgotten"


def test_changed_or_broken_parts_begin_anew() -> None:
    one = watch(DIVERT, limit(name="b"))
    many(one, 10, FAILED, 100.0)
    other = watch(limit(name="b", window_s=30.0), limit(name="new"))
    other.restore(kept(one), 100.0)
    assert [each.level for each in other.status(100.0)] == ["ok", "ok"]
    whole = ["breached", 90.0, 60.0, [5], False, 0, None]
    wrong: list[tuple[int, object]] = [(0, "lost"), (1, "x"), (2, None), (3, 7), (5, [])]
    for broken in (7, [1, 2], *([*whole[:at], value, *whole[at + 1 :]] for at, value in wrong)):
        fresh = watch(DIVERT)
        fresh.restore({"t": [60.0, broken]}, 100.0)
        assert fresh.status(100.0)[0].level == "ok"
    odd = watch(DIVERT)
    odd.restore({"t": [60.0, whole]}, 100.0)
    assert odd.diversions == ("mini",)


@pytest.mark.parametrize("edit", [{"metric": "error_rate"}, {"above": 0.7}, {"arm": "other"}, {"min_samples": 3}])
def test_an_edited_threshold_begins_anew_also_in_a_restart(edit: dict[str, Any]) -> None:
    """Seconds are no share of failures: what another threshold of the same name saw says nothing about this one."""
    slow = limit(metric="ttft_p95", above=0.5, action="rollback", arm="mini")
    one = watch(slow)
    many(one, 20, done(3.0, stream=True, ttft_s=2.0), 100.0, arm="mini")
    same, edited = watch(slow), watch(replace(slow, **edit))
    same.restore(kept(one), 100.0)
    assert edited.restore(kept(one), 100.0) == {}
    assert [(each.level, each.samples) for each in same.status(100.0)] == [("breached", 20)]
    assert [(each.level, each.samples) for each in edited.status(100.0)] == [("ok", 0)]


@pytest.mark.parametrize("edit", [None, {"above": 0.7}, {"window_s": 30.0}, {"name": "other"}])
@pytest.mark.parametrize("probing", [False, True])
def test_a_breach_ends_with_its_threshold(edit: dict[str, Any] | None, probing: bool) -> None:
    """The policy has none any more in its place, or another one: that is told, in the process and over a restart; once, and
    not of those that were not breached."""
    one = watch(DIVERT, limit(name="calm", above=2.0))
    told = many(one, 10, FAILED, 100.0) + (one.tick(100.0 + DIVERT.window_s) if probing else [])
    state = kept(one)
    with_edit = watch(*([] if edit is None else [replace(DIVERT, **edit)]))
    (over,) = with_edit.take_over(one, 101.0)
    (after,) = with_edit.left_behind(state)
    for event in (over, after):
        assert (event.kind, event.route, event.detail["threshold"]) == ("threshold.recovered", "r", "t")
        assert event.message.startswith("t: recovered, the policy has changed")
    assert kinds(told)[-1] == ("probing" if probing else "breached")
    same = watch(DIVERT)
    assert same.left_behind(state) == with_edit.left_behind(kept(with_edit)) == same.left_behind({"t": 7}) == []
    assert same.take_over(with_edit, 102.0) == []


def test_what_is_found_again_is_counted_and_told_once() -> None:
    """One event for a breach of five looks, and the recovery says that four more found it."""
    one = watch(limit())
    many(one, 10, FAILED, 100.0)
    assert [kinds(one.tick(100.0 + at)) for at in range(1, 5)] == [[], [], [], []]
    assert one.status(104.0)[0].repeats == 4
    recovered = one.tick(200.0)
    assert (kinds(recovered), recovered[0].detail["repeats"]) == (["recovered"], 4)


def test_a_metric_that_flaps_is_damped() -> None:
    """Ten seconds bad, ten good, for an hour: 3,600 looks. Undamped that is 360 events; holds of 60, 120, 240, 480 and
    960 s that nothing fulfils leave the first recovery and the second breach."""
    one, story = watch(limit(window_s=5.0, min_samples=1)), []
    for second in range(3600):
        outcome = FAILED if second // 10 % 2 == 0 else done()
        story += kinds(many(one, 5, outcome, 1000.0 + second))
    assert story == ["breached", "recovered", "breached"]
    assert kinds([event for at in range(200) for event in many(one, 5, done(), 4600.0 + at)]) == ["recovered"]


def test_damping_forgets_a_clock_that_went_back() -> None:
    one = watch(limit(window_s=5.0, min_samples=1))
    for now, outcome in ((1000.0, FAILED), (1010.0, done()), (1020.0, FAILED), (1030.0, done())):
        many(one, 5, outcome, now)
    assert one.status(1030.0)[0].level == "breached"
    many(one, 5, done(), 900.0)
    assert kinds(one.tick(900.0 + 119.0)) == []
    assert kinds(one.tick(900.0 + 120.0)) == ["recovered"]


def test_an_order_to_adjust_says_what_and_where() -> None:
    one = watch(limit(metric="cost_per_request", above=5.0, action="adjust", adjust=("max_tokens", "down")))
    events = many(one, 10, done(cost=9), 100.0)
    assert events[0].detail["adjust"] == ["max_tokens", "down"]


def hours(one: ThresholdSet, cost: Callable[[int], int], first: int, last: int) -> list[Event]:
    """Twenty calls in each minute from `first` on, costing what `cost` says of the minute."""
    return [event for minute in range(first, last) for event in many(one, 20, done(cost=cost(minute)), 60.0 * minute)]


AUTO: dict[str, Any] = {"metric": "cost_per_request", "above": math.inf, "auto": AutoLimit(), "min_samples": 20}


def test_a_limit_that_tunes_itself() -> None:
    """It is learnt from twenty windows around 1000, stays silent on their noise, and is frozen while breached."""
    one = watch(limit(**AUTO))
    assert one.status(0.0)[0].limit is None
    assert hours(one, lambda minute: 1000 + 10 * (minute % 5), 1, 60) == []
    learnt = one.status(3600.0)[0].limit
    assert learnt is not None
    assert 1200 <= learnt <= 1400
    breached = hours(one, lambda _: 2000, 60, 120)
    assert kinds(breached) == ["breached"]
    assert breached[0].detail["limit"] == pytest.approx(learnt, rel=0.01)
    assert one.status(7200.0)[0].limit == breached[0].detail["limit"]
    again = watch(limit(**AUTO))
    again.restore(kept(one), 7200.0)
    assert again.status(7200.0) == one.status(7200.0)
    assert kinds(hours(again, lambda _: 1000, 120, 125)) == ["recovered"]


def test_a_breach_of_a_limit_that_is_learnt_anew_is_over() -> None:
    """The policy changed from a fixed limit to `auto` behind an older state: there is nothing to be beyond."""
    one, again = watch(limit()), watch(limit(above=math.inf, auto=AutoLimit()))
    many(one, 10, FAILED, 100.0)
    again.restore({name: state[:2] for name, state in kept(one).items()}, 100.0)
    assert kinds(many(again, 10, FAILED, 101.0)) == ["recovered"]


def test_a_limit_below_tunes_itself_too() -> None:
    one = watch(limit(metric="quality", above=None, below=0.0, auto=AutoLimit(), min_samples=20))
    story = []
    for minute in range(100):
        quality = 0.9 if minute < 60 else 0.3
        story += kinds(many(one, 20, done(), 60.0 * minute, quality=quality))
    assert story == ["breached"]


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans(), st.integers(1, 20)), max_size=60))
def test_events_alternate_and_a_diversion_means_a_breach(steps: list[tuple[float, bool, int]]) -> None:
    """In any history: breaches and recoveries take turns, and traffic is diverted exactly while breached."""
    one, now, story = watch(DIVERT), 0.0, []
    for seconds, bad, n in steps:
        now += seconds
        story += kinds(many(one, n, FAILED if bad else done(), now))
        assert (one.diversions != ()) == (one.status(now)[0].level == "breached")
    main = [kind for kind in story if kind in ("breached", "recovered")]
    assert main == [("breached", "recovered")[i % 2] for i in range(len(main))]
