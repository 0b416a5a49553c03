"""The loop: each change is proposed, checked by the rules, applied, and looked at afterwards."""

from collections.abc import Callable, Mapping, Sequence

import pytest
from msgspec.structs import replace

from sidecar.core.cycle import (
    DENIED_AGAIN_S,
    EVENT_GAP_S,
    MAX_CHANGES,
    MAX_DENIED,
    MONITOR_S,
    PERIOD_S,
    TRANSITIONS,
    Cycle,
    Lane,
    Proposal,
    State,
)
from sidecar.core.rules import Value
from sidecar.core.types import Clocks, Decision, Event, Facts, Outcome, Settled

FACTS = Facts(endpoint="chat", dialect="openai", path="", model="m", stream=False, key=0)


def settled(arm: str | None = "mini", quality: float = 1.0, served: str | None = None, cost: int = 100) -> Settled:
    return Settled(
        id="x",
        at=0.0,
        facts=FACTS,
        decision=Decision(
            route="r", mode="optimize", arm=arm, upstream="u", model="m", reason="sampled", propensity=0.5
        ),
        outcome=Outcome(kind="completed", clocks=Clocks(duration_s=1.0), cost_nusd=cost, served_arm=served),
        upstream="u",
        sent_model="m",
        quality=quality,
    )


def free(_kind: str, _route: str, _arm: str | None, _facts: Mapping[str, Value]) -> str | None:
    return None


def proposal(route: str = "r", confidence: float | None = 0.9, **fields: object) -> Proposal:
    known: dict[str, object] = {
        "kind": "tuning.temperature",
        "arm": "mini",
        "rationale": "it is warm",
        "apply": lambda now: [Event(kind="tuned", message=f"{now:g}")],
        "expected": {"cost_nusd": -0.1},
    }
    return Proposal(route=route, confidence=confidence, **{**known, **fields})  # type: ignore[arg-type]  # one test's


def cycle_of(*found: Proposal, lane: Lane = Lane.MAIN, validate: Callable[..., str | None] = free) -> Cycle:
    made = Cycle(validate)
    made.add(lane, lambda _now: found)
    made.observe([settled()], 0.0)
    made.tick(0.0)
    return made


def kinds(events: Sequence[Event]) -> list[str]:
    return [event.kind for event in events]


def test_every_state_is_reached_and_left() -> None:
    """The table has no dead end and nothing unreachable."""
    assert {state for state, _ in TRANSITIONS} == set(State)
    assert set(TRANSITIONS.values()) == set(State)


def test_a_lane_runs_at_its_pace() -> None:
    """Nothing before its time, once when it is due, and then again a period later."""
    asked: list[float] = []

    def source(now: float) -> Sequence[Proposal]:
        asked.append(now)
        return ()

    made = Cycle(free, main_s=100.0)
    made.add(Lane.MAIN, source)
    for now in range(250):
        made.observe([settled()], float(now))
        made.tick(float(now))
    assert asked == [100.0, 200.0]
    assert set(made.lanes.values()) == {State.IDLE}


def test_a_source_that_raises_does_not_stop_its_lane_for_good() -> None:
    """The shell fences and tells the fault; the next pass begins at the beginning."""
    broken = [True]

    def source(_now: float) -> Sequence[Proposal]:
        if broken:
            raise ValueError(broken.pop())
        return (proposal(),)

    made = Cycle(free)
    made.add(Lane.MAIN, source)
    with pytest.raises(ValueError, match="True"):
        made.run(Lane.MAIN, "demand", 1.0)
    assert kinds(made.run(Lane.MAIN, "demand", 2.0)) == ["tuned", "change.applied"]


def test_an_idle_service_is_left_alone() -> None:
    """Without a call since the last look a lane asks nobody, unless it is told to."""
    made = cycle_of(proposal())
    assert kinds(made.tick(PERIOD_S[Lane.MAIN])) == ["tuned", "change.applied"]
    made = cycle_of(proposal())
    made.run(Lane.MAIN, "time", 1.0)
    made.changes.clear()
    assert made.run(Lane.MAIN, "time", 2.0) == []
    assert kinds(made.run(Lane.MAIN, "demand", 3.0)) == ["tuned", "change.applied"]


def test_what_is_applied_says_why_how_sure_and_what_is_expected() -> None:
    made = cycle_of(proposal())
    event = made.run(Lane.MAIN, "demand", 5.0)[-1]
    assert event.message == "it is warm"
    assert (event.route, event.arm, event.severity) == ("r", "mini", "low")
    assert dict(event.detail) == {
        "change": "r/tuning.temperature/1",
        "what": "tuning.temperature",
        "lane": "main",
        "state": "monitoring",
        "rationale": "it is warm",
        "confidence": 0.9,
        "expected": {"cost_nusd": -0.1},
        "trigger": "demand",
    }


def test_a_rule_that_denies_keeps_the_change_from_happening() -> None:
    asked: list[object] = []

    def validate(*question: object) -> str | None:
        asked.append(question)
        return "not on Fridays"

    made = cycle_of(proposal(facts={"step": 25.0}), validate=validate)
    events = made.run(Lane.MAIN, "demand", 1.0)
    assert kinds(events) == ["change.denied"]
    assert events[0].severity == "medium"
    assert events[0].message == "it is warm; denied: not on Fridays"
    assert asked == [("tuning.temperature", "r", "mini", {"step": 25.0})]
    assert made.changes == []


def test_one_change_of_a_route_at_a_time_the_surest_first() -> None:
    """While one is watched the route is left alone; other routes are not. Guardrails take all that they find."""
    made = cycle_of(proposal(confidence=None), proposal(confidence=0.7), proposal("other"))
    told = made.run(Lane.MAIN, "demand", 1.0)
    assert [event.detail["confidence"] for event in told if event.kind == "change.applied"] == [0.9, 0.7]
    assert made.run(Lane.MAIN, "demand", 2.0) == []
    guards = cycle_of(proposal(), proposal(), lane=Lane.GUARDRAILS)
    assert kinds(guards.run(Lane.GUARDRAILS, "demand", 1.0)).count("change.applied") == 2


def test_a_lane_with_nothing_to_say_goes_back_to_rest() -> None:
    made = cycle_of()
    assert made.run(Lane.MAIN, "demand", 1.0) == []
    assert made.lanes[Lane.MAIN] is State.IDLE


def test_a_breach_runs_the_fast_lane_at_once() -> None:
    made = cycle_of(proposal(), lane=Lane.FAST)
    breach = Event(kind="threshold.breached", route="r", message="slow", detail={"action": "log"})
    event = made.tick(1.0, [breach])[-1]
    assert (event.kind, event.detail["trigger"]) == ("change.applied", "threshold")


def test_events_run_the_main_lane_but_not_all_the_time() -> None:
    made = cycle_of(proposal(), proposal("b"), proposal("c"))
    made.observe([settled()], 0.0)
    drift = Event(kind="drift.detected", route="r")
    first = made.tick(1.0, [drift])
    assert [event.detail["trigger"] for event in first if event.kind == "change.applied"] == ["event"] * 3
    made.changes.clear()
    assert made.tick(2.0, [drift]) == []
    assert made.tick(1.0 + EVENT_GAP_S, [drift]) != []


def test_the_impact_is_written_beside_what_was_expected() -> None:
    """Cost falls by a fifth after the change: the event at the end of the watch says so."""
    made = cycle_of(proposal())
    for second in range(300):
        made.observe([settled(cost=1000)], float(second))
    made.run(Lane.MAIN, "demand", 300.0)
    for second in range(300, 1200):
        made.observe([settled(cost=800), settled(arm=None)], float(second))
    told = [event for second in range(301, 1201) for event in made.tick(float(second))]
    impact = next(event for event in told if event.kind == "change.impact")
    assert impact.detail["expected"] == {"cost_nusd": -0.1}
    assert impact.detail["actual"]["cost_nusd"] == pytest.approx(-0.2, abs=3e-3)  # the first call cost 100
    assert impact.detail["watched_s"] == MONITOR_S[Lane.MAIN]
    assert impact.detail["state"] == "complete"
    assert (impact.detail["calls_before"], impact.detail["calls_after"]) == (301, 900)
    assert impact.message == "no harm seen"


@pytest.mark.parametrize("undoable", [True, False])
def test_harm_at_the_end_of_the_watch_is_undone_where_it_can_be(undoable: bool) -> None:
    def undo(_now: float) -> Sequence[Event]:
        return [Event(kind="tuned.back")]

    made = cycle_of(proposal(undo=undo if undoable else None))
    for second in range(300):
        made.observe([settled(quality=float(second % 10 > 0))], float(second))
    made.run(Lane.MAIN, "demand", 300.0)
    for second in range(300, 1200):
        made.observe([settled(quality=float(second % 2))], float(second))
    told = [event for event in made.tick(1200.0) if event.kind not in ("tuned", "change.applied")]
    if undoable:
        assert kinds(told)[:3] == ["tuned.back", "change.rolled_back", "change.impact"]
    else:
        assert kinds(told)[:1] == ["change.impact"]
    assert "quality got worse by" in told[-1].message


def test_a_step_that_a_rollout_made_is_recorded_with_what_the_arms_means_say() -> None:
    """From 5 to 25 % of an arm at a tenth of the cost."""
    made = Cycle(free)
    made.observe([settled("base", cost=1000)] * 50 + [settled("base", served="mini", cost=100)] * 50, 0.0)
    made.tick(0.0, [Event(kind="rollout.started", route="r", arm="mini", detail={"step": 5})])
    told = made.tick(
        1.0, [Event(kind="rollout.step", route="r", arm="mini", message="on evidence", detail={"step": 25})]
    )
    assert kinds(told) == ["change.applied"]
    assert told[0].detail["what"] == "rollout.step"
    assert told[0].detail["expected"]["cost_nusd"] == pytest.approx((750 + 25) / (950 + 5) - 1)
    assert told[0].detail["confidence"] == 1.0
    last = made.tick(2.0, [Event(kind="rollout.promoted", route="r", arm="mini", message="done")])
    assert last[-1].detail["what"] == "rollout.step"
    assert len(made.changes) == 3


def test_a_rollback_ends_the_watches_of_its_arm_at_once() -> None:
    """It is never asked about, and what the changes did until then is written."""
    made = Cycle(lambda *_: "no change at all")
    step = Event(kind="rollout.step", route="r", arm="mini", detail={"step": 25})
    made.tick(0.0, [step, Event(kind="rollout.step", route="other", arm="mini", detail={"step": 25})])
    told = made.tick(1.0, [Event(kind="rollout.rolled_back", route="r", arm="mini", message="errors")])
    assert kinds(told) == ["change.impact"]
    assert told[0].message == "rolled back: errors"
    assert told[0].detail["state"] == "complete"
    assert [change.proposal.route for change in made.changes] == ["other"]


@pytest.mark.parametrize(
    ("action", "noted"), [("route_to", True), ("adjust", False), ("log", False), ("rollback", False)]
)
def test_what_thresholds_change_is_noted(action: str, noted: bool) -> None:
    """`adjust` and `rollback` are told by the tuner and the rollout themselves, `log` changes nothing."""
    made = Cycle(free)
    told = made.tick(0.0, [Event(kind="threshold.breached", route="r", arm="mini", detail={"action": action})])
    assert [event.detail["what"] for event in told] == ([f"threshold.{action}"] if noted else [])


def test_a_diversion_that_a_rule_denied_is_no_change() -> None:
    breach = Event(kind="threshold.breached", route="r", arm="mini", detail={"action": "route_to"})
    assert Cycle(free).tick(0.0, [breach, Event(kind="change.denied", route="r", arm="mini")]) == []


def test_moves_of_the_tuner_are_noted() -> None:
    moved = Event(kind="tuning.moved", route="r", message="temperature 1 -> 0.95", detail={"name": "temperature"})
    told = Cycle(free).tick(0.0, [moved])
    assert [(event.kind, event.message, event.detail["what"]) for event in told] == [
        ("change.applied", "temperature 1 -> 0.95", "tuning.temperature")
    ]


def test_a_storm_of_changes_is_bounded() -> None:
    made = Cycle(free)
    steps = [Event(kind="rollout.step", route=f"r{n}", arm="a", detail={"step": 5}) for n in range(MAX_CHANGES + 10)]
    assert len(made.tick(0.0, steps)) == MAX_CHANGES + 10
    assert len(made.changes) == MAX_CHANGES


def test_watches_that_go_on_stay() -> None:
    made = Cycle(free)
    made.tick(0.0, [Event(kind="rollout.step", route="r", arm="a", detail={"step": 5})])
    assert made.tick(MONITOR_S[Lane.GUARDRAILS] - 1.0) == []
    assert kinds(made.tick(MONITOR_S[Lane.GUARDRAILS])) == ["change.impact"]
    assert made.changes == []


def test_what_is_urgent_waits_for_no_other_change_and_ends_those_of_its_arm() -> None:
    """A trial of mini is under watch when mini fails; another route's change goes its way."""
    made = cycle_of(proposal(), proposal("other"))
    made.run(Lane.MAIN, "demand", 1.0)
    urgent = [
        proposal(kind="arm.hold", urgent=True, rationale="it fails"),
        proposal(arm="nano", urgent=True),
        proposal(),
    ]
    made.add(Lane.FAST, lambda _now: urgent)
    told = made.run(Lane.FAST, "demand", 2.0)
    assert kinds(told) == ["change.impact", "tuned", "change.applied", "tuned", "change.applied"]
    assert (told[0].detail["what"], told[0].message) == ("tuning.temperature", "rolled back: it fails")
    assert [change.proposal.arm for change in made.changes] == ["mini", "mini", "nano"]


def test_a_denial_that_stays_is_told_once_in_a_while() -> None:
    """Until its reason changes, or DENIED_AGAIN_S are over."""
    why = ["not on Fridays"]
    made = cycle_of(proposal(), validate=lambda *_: why[0])
    assert kinds(made.run(Lane.MAIN, "demand", 1.0)) == ["change.denied"]
    assert made.run(Lane.MAIN, "demand", 2.0) == []
    why[0] = "not at all"
    assert kinds(made.run(Lane.MAIN, "demand", 3.0)) == ["change.denied"]
    assert made.run(Lane.MAIN, "demand", 4.0) == []
    assert kinds(made.run(Lane.MAIN, "demand", 3.0 + DENIED_AGAIN_S)) == ["change.denied"]


def test_what_was_denied_is_forgotten_beyond_a_number() -> None:
    made = cycle_of(*(proposal(f"r{n}") for n in range(MAX_DENIED + 1)), validate=lambda *_: "no")
    assert len(made.run(Lane.MAIN, "demand", 1.0)) == MAX_DENIED + 1
    assert len(made._denied) == 1


def test_an_event_that_comes_too_soon_is_not_forgotten() -> None:
    """The main lane runs for it as soon as it may."""
    made = cycle_of(proposal())
    made.tick(1.0, [Event(kind="drift.detected", route="r")])
    made.changes.clear()
    assert made.tick(2.0, [Event(kind="experiment.decided", route="r")]) == []
    told = made.tick(1.0 + EVENT_GAP_S)
    assert [event.detail["trigger"] for event in told if event.kind == "change.applied"] == ["event"]


def test_an_arm_whose_call_a_fallback_answered_has_failed() -> None:
    """Not where a cascade asked on: there the answer was judged, and not the arm."""
    made = Cycle(free)
    made.observe([settled("base", served="mini"), settled("base", served="base")], 0.0)
    made.observe([replace(settled("base", served="mini"), stages=())], 0.0)
    arms = made.minutes.between("r", 0.0, 60.0)
    assert (arms["base"].share("failed"), arms["mini"].share("failed")) == ((1.0, 2.0), (0.0, 2.0))
