"""The loop in the process: it sees what the engine told, and runs on demand."""

import numpy as np
from msgspec.structs import replace

from sidecar.clock import steady
from sidecar.control.cycling import MAX_EVENTS, Cycling
from sidecar.core.cycle import Lane, Proposal
from sidecar.core.engine import Engine
from sidecar.core.policy import Objective
from sidecar.core.types import Clocks, Event
from tests.fixtures.settled import settled
from tests.unit.core.engines import MINI, NANO, outcome, policy, promoted


def made() -> Cycling:
    return Cycling(Engine(policy(), np.random.default_rng(1), steady()), 900.0)


def test_what_the_engine_did_is_recorded_at_the_next_tick_and_once() -> None:
    one = made()
    one.note([Event(kind="rollout.step", route="support", arm="mini", detail={"step": 25})])
    assert [event.kind for event in one.tick()] == ["change.applied"]
    assert list(one.tick()) == []


def test_a_storm_of_events_is_bounded() -> None:
    one = made()
    for _ in range(3):
        one.note([Event(kind="rollout.step", route="support", arm="mini", detail={"step": 25})] * MAX_EVENTS)
    assert len(one.tick()) == MAX_EVENTS


def test_finished_exchanges_are_counted_and_gone_routes_forgotten() -> None:
    """Rows of a route that the policy does not have go with the next policy."""
    one = made()
    one.observe([settled(1), settled(2)])
    now = steady()
    assert one.cycle.minutes.between("support", now - 120, now + 1)["mini"].calls == 2
    one._engine.apply(policy(name="other"), now)
    one.note([Event(kind="policy.applied")])
    one.tick()
    assert one.cycle.minutes.between("support", now - 120, now + 1) == {}


def test_a_lane_runs_on_demand() -> None:
    one = made()
    wanted = Proposal("tuning.x", "support", None, "because", lambda _now: ())
    one.cycle.add(Lane.DEEP, lambda _now: [wanted])
    assert [event.detail["trigger"] for event in one.run("deep")] == ["demand"]


def test_a_service_that_only_observes_pays_nothing() -> None:
    one = Cycling(Engine(policy(mode="observe"), np.random.default_rng(1), steady()), 900.0)
    one.observe([settled(1)])
    assert one.cycle.minutes.between("support", 0.0, steady() + 1) == {}


def test_every_lane_asks_of_every_route_and_lateness_is_the_routes_own() -> None:
    """An arm that is late in half of its calls, where the objective has a limit, is held by the fast lane."""
    changes = {"mode": "optimize", "objective": Objective(ttft_s=1.0), "sticky": "request", "arms": (MINI, NANO)}
    one = Cycling(promoted(policy(**changes)), 900.0)
    slow = outcome(clocks=Clocks(sent_s=0.0, ttft_s=3.0, duration_s=4.0))
    for number in range(120):
        one.observe([replace(settled(number), outcome=slow if number % 2 else outcome())])
    for number in range(60):
        decided = replace(settled(number).decision, arm="gpt-4o")
        one.observe([replace(settled(number), decision=decided, outcome=outcome())])
    assert [event.kind for event in one.run("fast")] == ["arm.held", "change.applied"]
    assert one._find("nowhere") is None
    one.observe([replace(settled(1), decision=replace(settled(1).decision, route="-"))])
    for lane in ("main", "deep"):
        assert list(one.run(lane)) == []
