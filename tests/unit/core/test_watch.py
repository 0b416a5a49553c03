"""Drift, anomalies and tuning of a route, through the engine's public verbs."""

import json
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest

from sidecar.core.anomaly import AnomalyStatus
from sidecar.core.drift import LEARNING, DriftStatus
from sidecar.core.engine import Engine
from sidecar.core.policy import (
    Anomalies,
    Arm,
    Drift,
    FlatPrice,
    Knob,
    Match,
    Policy,
    Route,
    Threshold,
    Tuning,
    Upstream,
)
from sidecar.core.thresholds import ThresholdStatus
from sidecar.core.tuning import TuningStatus
from sidecar.core.types import Clocks, Decision, Event, Facts, Feedback, Outcome, Usage
from sidecar.core.watch import Watch, WatchStatus, notes

NOW = 1_763_683_200.0
DEAR = Threshold(
    "dear", "cost_per_request", 1_500.0, None, 60.0, "medium", "adjust", adjust=("max_tokens", "down")
)  # fmt: skip
ROUTE = Route(
    "r",
    Match(),
    "canary",
    Arm("big", "up", "m"),
    (Arm("mini", "up", "n"),),
    sticky="request",
    thresholds=(DEAR,),
    drift=Drift(metrics=("output_tokens", "quality"), window_s=10.0, samples=50),
    anomalies=Anomalies(metrics=("output_tokens",), window_s=10.0, samples=20),
    tuning=Tuning((Knob("max_tokens", 100, 2000, 1000, whole=True),)),
)


def engine(route: Route = ROUTE) -> Engine:
    upstream = Upstream("up", "openai", "https", "provider", 443, price=FlatPrice(1, 1))
    return Engine(Policy("s", "v", {"up": upstream}, (route,)), np.random.default_rng(1), NOW)


class Traffic:
    def __init__(self, one: Engine) -> None:
        self.one, self.now, self.rng = one, NOW, np.random.default_rng(2)

    def run(self, calls: int, tokens: float = 200.0, cost: int = 1000) -> list[Event]:
        """Ten calls a second; the events of settling, feedback and ticks."""
        events: list[Event] = []
        for number in range(calls):
            self.now += 0.1
            facts, decision = self.decide()
            outcome = Outcome(
                kind="completed", status=200, clocks=Clocks(sent_s=0.0, duration_s=1.0), finish="stop", empty=False,
                cost_nusd=cost, usage=Usage(output_tokens=round(tokens * float(self.rng.lognormal(0.0, 0.5)))),
            )  # fmt: skip
            events += self.one.settle(facts, decision, outcome, self.now).events
            assert decision.arm is not None
            told = Feedback(decision_id=str(number), route="r", arm=decision.arm, score=0.9)
            events += self.one.feedback(told, self.now)
            if number % 10 == 9:
                events += self.one.tick(self.now)
        return events

    def decide(self) -> tuple[Facts, Decision]:
        facts = Facts(
            endpoint="chat", dialect="openai", path="/v1/chat/completions", model="m", stream=False, key=0,
            draw=int(self.rng.integers(1 << 62)), max_tokens=4000,
        )  # fmt: skip
        return facts, self.one.decide(facts, self.now)

    def limit(self) -> int:
        return int(json.loads(dict(self.decide()[1].params)["max_tokens"]))


def kinds(events: list[Event], prefix: str) -> list[str]:
    return [event.kind for event in events if event.kind.startswith(prefix)]


def test_a_cost_overrun_lowers_the_limit_of_tokens() -> None:
    """The threshold's breach orders, the tuner obeys, and the next calls carry it: 5 % and not more that day."""
    traffic = Traffic(engine())
    assert kinds(traffic.run(30), "t") == []
    assert traffic.limit() in (975, 1025)
    events = traffic.run(200, cost=2000)  # in a window of 30 others
    moved = next(event for event in events if event.kind == "tuning.moved")
    assert (moved.detail["old"], moved.detail["new"]) == (1000.0, 950.0)
    assert "dear: breached" in moved.message
    assert traffic.limit() == 950


def test_a_change_of_answers_is_told_and_scores_are_watched() -> None:
    traffic = Traffic(engine())
    assert kinds(traffic.run(110 * (LEARNING + 22)), "drift") == []
    events = traffic.run(110 * 10, tokens=500.0)
    assert kinds(events, "drift") == ["drift.detected"]
    watch = traffic.one.status()[0].watch
    assert {(one.metric, one.arm) for one in watch.drift} >= {("output_tokens", "big"), ("quality", "big")}
    assert [one.metric for one in watch.anomalies if one.arm == "big"] == ["output_tokens"]
    assert [one.name for one in watch.tuning] == ["max_tokens"]


def test_a_restart_and_a_new_policy_keep_what_was_learnt() -> None:
    """Of arms that are what they were: a new model is learnt anew, and its change is no drift."""
    traffic = Traffic(engine())
    traffic.run(2000)
    traffic.run(600, cost=4000)
    before = traffic.one.status()[0].watch
    again = engine()
    again.restore(traffic.one.snapshot(), traffic.now)
    assert again.status()[0].watch.drift == before.drift
    assert again.status()[0].watch.tuning[0].value == 950
    assert [one.level for one in again.status()[0].thresholds] == ["breached"]
    old = again.status()[0].watch.drift
    policy = again.policy
    again.apply(replace(policy, version="w", routes=(replace(ROUTE, baseline=Arm("big", "up", "other")),)), traffic.now)
    now = again.status()[0].watch
    assert {one.arm for one in now.drift} == {one.arm for one in old} - {"big"}
    assert now.tuning[0].value == 950


def test_a_route_that_asks_for_nothing_gets_nothing() -> None:
    plain = replace(ROUTE, thresholds=(), drift=None, anomalies=None, tuning=None)
    watch = Watch(plain, NOW)
    assert not watch.active
    decision = Decision(
        route="r", mode="canary", arm="big", upstream="up", model="m", reason="baseline", propensity=1.0
    )
    facts, _ = Traffic(engine(plain)).decide()
    assert watch.decide(facts, decision, NOW) is decision
    assert (watch.tick(NOW), watch.label("big", 0.5, NOW)) == ([], [])
    assert watch.obey(Event(kind="threshold.breached", detail={"adjust": ["max_tokens", "down"]}), NOW) == []
    assert watch.status().tuning == ()
    assert b'"watch"' not in engine(plain).snapshot()
    state: dict[str, Any] = orjson.loads(orjson.dumps(watch.to_state()))
    watch.restore(state, ("big",), NOW)
    full = Watch(ROUTE, NOW)
    full.restore({"drift": 5, "anomalies": 5, "tuning": 5}, ("big",), NOW)
    full.adopt(watch, ("big",), NOW)
    assert full.status().drift == ()
    watch.adopt(full, ("big",), NOW)
    assert full.status().drift == ()


def test_notes_say_it_all_in_words() -> None:
    """A limit with its value, what drift has found, what is tuned: a line each."""
    limits = (
        ThresholdStatus("slow", "ttft_p95", "breached", 3.0, 2.0, 40, 5.0, 7),
        ThresholdStatus("auto", "error_rate", "ok", None, None, 3, 0.0),
        ThresholdStatus("dear", "cost_per_request", "ok", 294_800.0, 5e7, 120, 0.0),
    )
    quiet = DriftStatus("cost", "big", "watching", 30, 0.05, 0.02, 2.0, 40_000.0, 0, 0.0)
    drift = (
        quiet,
        replace(quiet, evidence=20_000.0),
        replace(quiet, metric="input_tokens", arm="", phase="learning", windows=3, ks=None, psi=None, alarms=2),
    )
    anomaly = AnomalyStatus("ttft", "big", 900, 500, 30, 0, 0, 0.0)
    knob = TuningStatus("sum", "top_p", 0.9, 0.855, 0.945, True, 12, 1.5, 40.0)
    status = WatchStatus(drift, (anomaly, replace(anomaly, alarms=3)), (knob, replace(knob, task="", trial=False)))
    assert notes(limits, status) == (
        "threshold slow: breached, ttft_p95 3 s, limit 2 s, 40 calls, found 7 times again",
        "threshold auto: ok, too few values, a limit that is still learnt, 3 calls",
        "threshold dear: ok, cost_per_request 0.0002948 $, limit 0.05 $, 120 calls",
        "drift: 3 distributions, 1 of them still learnt",
        "drift of cost of big: alarms 0, watching for 30 windows, KS 0.050, PSI 0.020, evidence 2e+04 of 4e+04",
        "drift of input_tokens: alarms 2, learning for 3 windows, evidence 2 of 4e+04",
        "anomalies of ttft of big: 3",
        "tuning of top_p for task sum: 0.9, today 0.855 to 0.945, on trial: 12 calls, evidence 1.5 of 40",
        "tuning of top_p: 0.9, today 0.855 to 0.945",
    )
    assert notes((), WatchStatus((), (), ())) == ()


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(kind="aborted", clocks=Clocks(), usage=Usage(output_tokens=5)),
        Outcome(kind="failed", status=500, clocks=Clocks(), usage=Usage(output_tokens=5)),
    ],
    ids=["aborted", "failed"],
)
def test_only_completed_calls_of_known_arms_show_anything(outcome: Outcome) -> None:
    traffic = Traffic(engine())
    facts, decision = traffic.decide()
    watch = Watch(replace(ROUTE, drift=None), NOW)
    assert watch.observe(facts, decision, outcome, (1.0, 1.0), NOW) == []
    whole = Outcome(kind="completed", clocks=Clocks(), usage=Usage(output_tokens=5), served_arm="mini")
    assert watch.observe(facts, decision, whole, (1.0, 1.0), NOW) == []
    assert [one.arm for one in watch.status().anomalies] == ["mini"]
    assert watch.status().tuning[0].calls == 0, "another arm served: its answer does not judge the parameter"
    nobody = msgspec.structs.replace(decision, arm=None)
    whole = Outcome(kind="completed", clocks=Clocks(), usage=Usage(output_tokens=5))
    assert watch.observe(facts, nobody, whole, (1.0, 1.0), NOW) == []
    assert [one.calls for one in watch.status().anomalies] == [1]
