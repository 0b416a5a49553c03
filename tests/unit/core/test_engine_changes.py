"""Rules are asked before the engine changes anything: steps, starts, diversions and tuning, and never before a rollback."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sidecar.core.engine import Engine
from sidecar.core.policy import ExperimentSpec, Knob, Policy, RolloutSpec, Threshold, Tuning, Variant
from sidecar.core.selector import REFRESH
from sidecar.core.types import Clocks, Event
from sidecar.errors import RolloutError
from tests.unit.core.engines import (
    MINI,
    NANO,
    NOW,
    ROUTE,
    SPEC,
    UPSTREAMS,
    engine,
    facts,
    kinds,
    outcome,
    policy,
    promoted,
    rule,
)

SOON = RolloutSpec(steps=(5, 50, 100), min_requests=0, interval_s=10.0, max_wait_s=60.0)
SLOW = Threshold("slow", "latency_p95", 2.0, None, 60.0, "high", "route_to", "mini", 3)


def asked(when: str, spec: RolloutSpec = SOON, **changes: object) -> Policy:
    route = replace(ROUTE, rollout=spec, **changes)  # type: ignore[arg-type]  # fields of one test
    return Policy("bot", "v1", UPSTREAMS, (route,), (rule(when),))


def phase(made: Engine) -> tuple[str, int]:
    one = made.status()[0].rollouts[0]
    return str(one.phase), one.step


def stepped(made: Engine, seconds: int) -> list[Event]:
    return [event for second in range(seconds) for event in made.tick(NOW + second)]


def test_a_step_that_a_rule_denies_waits_and_says_why() -> None:
    """From 5 to 50 % is denied, told once; the rollout stays, and goes on when the rule is gone."""
    made = engine(asked("change.kind == 'rollout.step' && change.step > 25"))
    told = stepped(made, 20)
    assert [(event.kind, event.arm, event.detail["what"]) for event in told] == [
        ("change.denied", "mini", "rollout.step")
    ]
    assert "rule r1" in told[0].message
    assert phase(made) == ("running", 5)
    blocked = made.status()[0].rollouts[0].blocked_by
    assert [reason for reason in blocked if "a rule denies the step" in reason]
    made.apply(asked("change.step > 50"), NOW + 20)
    assert "rollout.step" in kinds(made.tick(NOW + 21))
    assert phase(made) == ("running", 50)


def test_the_time_in_a_step_goes_on_without_a_request() -> None:
    """Of a service that rests, and of a leader whose workers have all requests; a start by hand comes between two ticks."""
    made = engine(policy())
    for second in (0, 7, 9):
        made.tick(NOW + second)
        assert f"{second} of 10 s in this step" in made.explanations()[0]
    made.rollback("support", NOW + 9.8)
    made.start_rollout("support", "mini", NOW + 9.9)
    assert "; 0 of 10 s in this step" in made.explanations()[0]


def test_time_alone_overrides_no_rule() -> None:
    """`on_inconclusive: promote` would go up after max_wait; a rule that denies makes it pause instead."""
    waiting = replace(SOON, min_requests=10**6, on_inconclusive="promote")
    made = engine(asked("change.step > 25", waiting))
    told = stepped(made, 70)
    assert kinds(told) == ["change.denied", "rollout.paused"]
    assert "a rule denies the step" in told[1].message
    free = engine(asked("change.step > 50", waiting))
    assert kinds(stepped(free, 70)) == ["rollout.step"]


def test_a_person_overrides_evidence_and_no_rule() -> None:
    made = engine(asked("change.step > 25"))
    with pytest.raises(RolloutError, match=r"a rule of the policy denies rollout\.step of mini"):
        made.promote("support", NOW)
    made.rollback("support", NOW)
    made.apply(asked("change.kind == 'rollout.start'"), NOW)
    with pytest.raises(RolloutError, match=r"denies rollout\.start"):
        made.start_rollout("support", "mini", NOW)
    made.apply(asked("change.step > 25"), NOW)
    assert kinds(made.start_rollout("support", "mini", NOW)) == ["rollout.started"]


def test_an_arm_that_no_request_may_use_is_not_rolled_out() -> None:
    """A rule about models is asked about the start too: nothing begins, with the policy or at any tick."""
    made = engine(asked("model.region == 'EU'"))
    assert stepped(made, 3) == []
    assert phase(made) == ("pending", 0)


def test_a_start_that_a_rule_denies_is_told_once() -> None:
    """At the first look, not every second; again when it is denied after it had been allowed."""
    made = Engine(asked("change.kind == 'rollout.start'"), np.random.default_rng(1), NOW)
    told = stepped(made, 5)
    assert [(event.kind, event.detail.get("what")) for event in told] == [
        ("policy.applied", None), ("change.denied", "rollout.start")
    ]  # fmt: skip
    assert (told[1].route, told[1].arm, told[1].severity) == ("support", "mini", "medium")
    assert "rollout.start was due; denied: rule r1" in told[1].message
    assert phase(made) == ("pending", 0)
    assert "rollout.started" in kinds(made.apply(asked("change.step > 50"), NOW + 6))


def test_a_rollback_is_never_asked_about() -> None:
    made = engine(asked("change.kind != 'rollout.start'"))
    assert phase(made) == ("running", 5)
    assert kinds(made.rollback("support", NOW)) == ["rollout.rolled_back"]
    assert made.denied("rollout.step", "support", "mini", {}) is not None
    assert made.denied("rollout.step", "nowhere", None, {}) is None


@pytest.mark.parametrize("denied", [True, False])
def test_a_diversion_can_be_denied(denied: bool) -> None:
    """A breach would send everything to mini; where a rule denies that, it is told and traffic stays."""
    when = "change.kind == 'threshold.route_to'" if denied else "change.kind == 'tuning.x'"
    made = engine(asked(when, thresholds=(SLOW,)))
    slow = outcome(stream=False, clocks=Clocks(sent_s=0.0, duration_s=5.0))
    told: list[Event] = []
    for number in range(10):
        asked_now = facts(0, draw=2**63 - 1, stream=False)
        decision = made.decide(asked_now, NOW + number)
        told += made.settle(asked_now, decision, slow, NOW + number).events
    assert ("change.denied" in kinds(told)) is denied
    assert made.status()[0].diverted_to == (None if denied else "mini")


def test_the_tuner_asks_the_same_rules() -> None:
    """Its `permit` is the engine's: the rule knows the kind of the move, and the route."""
    tuning = Tuning(knobs=(Knob("temperature", 0.0, 1.0, 0.7),))
    made = engine(asked("change.kind == 'tuning.temperature' && change.route == 'support'", tuning=tuning))
    tuner = made._routes["support"].watch.tuner
    assert tuner is not None
    assert tuner.permit is not None
    assert tuner.permit("tuning.temperature", "support", None, {}) is not None
    assert tuner.permit("tuning.top_p", "support", None, {}) is None


def test_a_sampled_decision_says_what_was_drawn_and_a_kept_one_does_not() -> None:
    """The arm that served was worth most in its draw, unless a floor gave it; a conversation's later calls draw nothing."""
    made = promoted(policy(mode="optimize"))
    first = made.decide(facts(7), NOW)
    assert first.reason == "sampled"
    assert first.drawn is not None
    assert first.drawn.arms == ("gpt-4o", "mini")
    assert len(first.drawn.worth) == 2
    assert made.decide(facts(7), NOW).drawn is None


def test_a_denied_diversion_stays_denied_after_a_reload_and_a_restart() -> None:
    """The breach outlives both; so does the rule's answer, until the rule is gone."""
    refusing = asked("change.kind == 'threshold.route_to'", thresholds=(SLOW,))
    made = engine(refusing)
    slow = outcome(stream=False, clocks=Clocks(sent_s=0.0, duration_s=5.0))
    for number in range(10):
        given = facts(0, draw=2**63 - 1, stream=False)
        made.settle(given, made.decide(given, NOW + number), slow, NOW + number)
    kept = made.snapshot()
    made.apply(refusing, NOW + 10)
    assert made.status()[0].thresholds[0].level == "breached"
    assert made.status()[0].diverted_to is None
    again = engine(refusing)
    again.restore(kept, NOW + 11)
    assert again.decide(facts(0, draw=2**63 - 1, stream=False), NOW + 11).reason != "threshold"
    made.apply(asked("change.kind == 'tuning.x'", thresholds=(SLOW,)), NOW + 12)
    assert made.status()[0].diverted_to == "mini"


@pytest.mark.parametrize("edited", [(), (replace(SLOW, above=9.0),)])
def test_the_end_of_a_breach_whose_threshold_is_edited_is_told(edited: tuple[Threshold, ...]) -> None:
    """Nobody's alert stays open: neither where the policy changes under way, nor where it has changed over a restart."""
    made = engine(policy(thresholds=(SLOW,)))
    for number in range(10):
        given = facts(0, draw=2**63 - 1, stream=False)
        slow = outcome(stream=False, clocks=Clocks(sent_s=0.0, duration_s=5.0))
        made.settle(given, made.decide(given, NOW + number), slow, NOW + number)
    kept, after = made.snapshot(), policy(thresholds=edited)
    assert kinds(made.apply(after, NOW + 10)) == ["policy.applied", "threshold.recovered"]
    assert kinds(engine(after).restore(kept, NOW + 10)) == ["threshold.recovered", "state.restored"]


def test_the_end_of_a_breach_whose_route_goes_is_told() -> None:
    """Once, under way or over a restart, and the route may never return; where it does, the breach is told anew."""
    before, after = policy(thresholds=(SLOW,)), Policy("bot", "p2")
    made = engine(before)

    def breach(now: float) -> list[str]:
        told: list[Event] = []
        for number in range(10):
            given = facts(0, draw=2**63 - 1, stream=False)
            slow = outcome(stream=False, clocks=Clocks(sent_s=0.0, duration_s=5.0))
            told += made.settle(given, made.decide(given, now + number), slow, now + number).events
        return kinds(told)

    assert "threshold.breached" in breach(NOW)
    kept = made.snapshot()
    (told,) = (one for one in made.apply(after, NOW + 10) if one.kind == "threshold.recovered")
    assert (told.route, told.detail["threshold"]) == ("support", SLOW.name)
    again = engine(after)
    assert kinds(again.restore(kept, NOW + 10)) == ["threshold.recovered", "state.restored"]
    assert kinds(engine(after).restore(again.snapshot(), NOW + 11)) == ["state.restored"]
    assert "threshold.recovered" not in kinds(made.apply(before, NOW + 12))
    assert made.status()[0].thresholds[0].level == "ok"
    assert "threshold.breached" in breach(NOW + 13)


@pytest.mark.parametrize("part", [None, [], {"thresholds": []}, {"thresholds": {"slow": ["?"]}}])
def test_what_a_route_that_is_gone_left_may_be_anything(part: object) -> None:
    made = engine(policy())
    state = json.loads(made.snapshot())
    state["routes"]["gone"] = part
    assert kinds(made.restore(json.dumps(state).encode(), NOW)) == ["state.restored"]


def test_conversations_of_an_experiment_end_with_it_also_over_a_restart() -> None:
    """The process stops in mode ab and starts in mode canary: who had the variant's arm is assigned anew, so that a
    rollback leaves nobody with it."""
    spec = ExperimentSpec((Variant("A", "gpt-4o"), Variant("B", "mini")), metric="cost")
    compared = engine(policy(mode="ab", experiment=spec))
    keys = [key for key in range(1, 60) if compared.decide(facts(key), NOW).arm == "mini"]
    assert keys
    made = engine(policy())
    made.restore(compared.snapshot(), NOW)
    assert made.decide(facts(keys[0]), NOW).reason != "sticky"
    made.rollback("support", NOW)
    assert {made.decide(facts(key), NOW).arm for key in keys} == {"gpt-4o"}


@pytest.mark.parametrize("mode", ["canary", "optimize"])
def test_no_request_digests_what_others_left(mode: str) -> None:
    """Scores are learnt behind the answers in every mode: after a refresh none wait, where there were enough."""
    made = promoted(policy(mode=mode))
    for key in range(1, 300):
        made.settle(facts(key), made.decide(facts(key), NOW), outcome(), NOW)
    assert made._routes["support"].selector.model.waiting >= REFRESH
    made.refresh(NOW)
    assert made._routes["support"].selector.model.waiting == 0


def test_a_rolled_back_arm_stays_out_when_its_mode_comes_back() -> None:
    """optimize -> observe -> optimize, with a restart in between: nothing begins again by itself, promotions stay."""
    optimizing = policy(mode="optimize", arms=(MINI, NANO))
    made = promoted(optimizing)
    made.rollback("support", NOW)
    out = made.status()[0].rollouts
    assert [one.phase for one in out] == ["promoted", "rolled_back"]
    made.apply(policy(mode="observe", arms=(MINI, NANO)), NOW)
    assert made.status()[0].rollouts == ()
    again = engine(policy(mode="observe", arms=(MINI, NANO)))
    again.restore(made.snapshot(), NOW)
    assert again.snapshot() == made.snapshot()
    for one in (made, again):
        one.apply(optimizing, NOW)
        one.tick(NOW)
        assert [each.phase for each in one.status()[0].rollouts] == ["promoted", "rolled_back"]
        one.apply(policy(mode="observe", arms=(MINI,)), NOW)
        changed = replace(SPEC, min_requests=SPEC.min_requests + 1)
        one.apply(policy(mode="optimize", arms=(MINI, NANO), rollout=changed), NOW)
        assert [each.phase for each in one.status()[0].rollouts] == ["promoted", "running"]
