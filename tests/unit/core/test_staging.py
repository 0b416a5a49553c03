"""The brake of promoted arms: out when most of the last units end badly, not when all arms do or for a hiccup."""

from dataclasses import replace

import numpy as np
import pytest

from sidecar.core.brake import HOLD_S, UNITS
from sidecar.core.engine import Engine
from sidecar.core.policy import Arm, Fallback, Guardrail, Match, Policy, Quality, RolloutSpec, Route, Upstream
from sidecar.core.types import Clocks, Event, Facts, Outcome
from tests.unit.core.engines import fall_back

NOW = 20_000 * 86_400.0
LATER = NOW + 3600.0  # the interval after the promotion is over
BASE, MINI, NANO = Arm("big", "up", "gpt-4o"), Arm("mini", "up", "gpt-4o-mini"), Arm("nano", "up", "gpt-nano")
ROUTE = Route(
    "chat", Match(), "canary", BASE, (MINI,), rollout=RolloutSpec(interval_s=900.0), quality=Quality(min_samples=0)
)
GOOD = Outcome(kind="completed", status=200, clocks=Clocks(sent_s=0.0, duration_s=1.0), finish="stop", empty=False)
BAD = Outcome(kind="failed", status=500, error="upstream_status", clocks=Clocks(duration_s=0.1))
REJECTED = Outcome(kind="failed", status=400, caller_fault=True, clocks=Clocks(duration_s=0.1))
SHED = Outcome(kind="failed", status=503, error="shed", clocks=Clocks(duration_s=10.0))
CLOSED = Outcome(kind="aborted", clocks=Clocks(sent_s=0.0, duration_s=0.5))
HANGING = Outcome(kind="aborted", clocks=Clocks(sent_s=0.0, duration_s=30.0))


def promoted(**changes: object) -> Engine:
    """An engine whose arms were all promoted by hand at NOW."""
    route = replace(ROUTE, **changes)  # type: ignore[arg-type]  # fields of one test
    policy = Policy("bot", "v1", {"up": Upstream("up", "openai", "https", "up", 443)}, (route,))
    made = Engine(policy, np.random.default_rng(1), NOW)
    for _ in route.arms:
        while made._order[0].staging.active is not None:
            made.promote("chat", NOW)
        made.tick(NOW)
    return made


def facts(key: int, draw: int = 0) -> Facts:
    return Facts(
        endpoint="chat", dialect="openai", path="/v1/chat/completions", model="gpt-4o", stream=False, key=key,
        key_source="session" if key else "request", draw=draw,
    )  # fmt: skip


def call(made: Engine, outcome: Outcome, now: float, key: int = 0) -> list[Event]:
    asked = facts(key)
    return list(made.settle(asked, made.decide(asked, now), outcome, now).events)


def calls(made: Engine, outcome: Outcome, n: int, now: float, every_s: float = 0.01, first_key: int = 0) -> list[Event]:
    """n calls, each of its own unit (or of units from `first_key` on), until the first event."""
    for index in range(n):
        events = call(made, outcome, now + index * every_s, first_key and first_key + index)
        if events:
            return events
    return []


def stable(made: Engine) -> str:
    return made._order[0].staging.stable


def test_a_promoted_arm_whose_every_call_fails_gives_way() -> None:
    """R23: a day after its promotion 500 of 500 calls fail. The hold and one call later the baseline serves again."""
    made = promoted()
    assert stable(made) == "mini"
    assert calls(made, GOOD, 100, NOW) == []
    (event,) = calls(made, BAD, 500, NOW + 86_400, 0.1)
    assert (event.kind, event.severity, event.arm) == ("rollout.rolled_back", "critical", "mini")
    assert "of its last 20 units failed, limit 50%" in event.message
    assert stable(made) == "big"
    assert made.decide(facts(1), LATER).arm == "big"
    assert "was rolled back: " in made.status()[0].explanations[0]


@pytest.mark.parametrize(
    ("outcome", "out"), [(BAD, True), (HANGING, True), (REJECTED, True), (CLOSED, False), (GOOD, False)]
)
def test_a_canary_that_takes_all_traffic_and_breaks_late_gives_way(outcome: Outcome, out: bool) -> None:
    """Of all its units it would have to fail 1,000 more. The hold and one call later the baseline serves; who starts it
    again begins with a clean slate."""
    spec = RolloutSpec(strategy="blue_green", steps=(100,), min_requests=10**6, interval_s=900.0)
    policy = Policy("bot", "v1", {"up": Upstream("up", "openai", "https", "up", 443)}, (replace(ROUTE, rollout=spec),))
    made = Engine(policy, np.random.default_rng(1), NOW)
    made.tick(NOW)
    assert calls(made, GOOD, 1_000, NOW) == []
    events = calls(made, outcome, 60, NOW + 60, 0.1)
    assert [event.kind for event in events] == ["rollout.rolled_back"] * out
    assert made.decide(facts(1), NOW + 70).arm == ("big" if out else "mini")
    if out:
        made.start_rollout("chat", "mini", NOW + 70)
        assert calls(made, GOOD, 4, NOW + 70) == calls(made, outcome, 1, NOW + 73) == []


def test_what_is_asked_for_often_is_what_the_status_says() -> None:
    """Without all that the status computes besides."""
    made = promoted(arms=(MINI, NANO))
    for _ in range(2):
        (status,), (standing,) = made.status(), made.standings()
        assert (standing.route, standing.roles) == (status.route, {arm.id: arm.role for arm in status.arms})
        assert standing.labels == {arm.id: arm.labels for arm in status.arms}
        assert made.explanations() == list(status.explanations) != []
        calls(made, BAD, 500, NOW + 86_400, 0.1)
    assert "rolled_back" in standing.roles.values()


def test_the_arm_that_was_promoted_before_takes_over_and_then_the_baseline() -> None:
    made = promoted(arms=(MINI, NANO))
    seen = [stable(made)]
    for n in range(2):
        assert len(calls(made, BAD, 100, LATER + 100 * n, 0.1)) == 1
        seen.append(stable(made))
    assert seen == ["nano", "mini", "big"]
    assert calls(made, BAD, 500, LATER + 500, 0.1) == []


@pytest.mark.parametrize(
    ("outcome", "out"),
    [(BAD, True), (HANGING, True), (CLOSED, False), (REJECTED, False), (SHED, False), (GOOD, False)],
    ids=["failed", "hanging", "closed", "rejected", "shed", "good"],
)
def test_what_ends_badly(outcome: Outcome, out: bool) -> None:
    """Failures, and clients that waited in vain; callers' mistakes only soon after the promotion."""
    made = promoted()
    assert bool(calls(made, outcome, 60, LATER, 0.1)) is out
    assert bool(calls(promoted(), outcome, 60, NOW, 0.1)) is (out or outcome is REJECTED)


def test_a_hiccup_shorter_than_the_hold_costs_nothing() -> None:
    """A busy arm: 150 calls fail within the hold; what follows is good, and a later hiccup begins a new hold."""
    made = promoted()
    for n in range(3):
        start = LATER + 10 * n
        assert calls(made, BAD, 150, start, HOLD_S / 160) == []
        assert calls(made, GOOD, UNITS, start + HOLD_S) == []
        assert made.tick(start + 5) == []
    assert stable(made) == "mini"


def test_an_outage_is_seen_by_a_tick_when_no_call_comes() -> None:
    made = promoted()
    assert calls(made, BAD, 5, LATER) == []
    assert made.tick(LATER + HOLD_S - 0.5) == []
    assert [event.kind for event in made.tick(LATER + HOLD_S + 0.5)] == ["rollout.rolled_back"]


def test_four_units_are_too_few_and_half_is_not_most() -> None:
    made = promoted()
    assert calls(made, BAD, 4, LATER, 2.0) == []
    assert calls(made, GOOD, 4, LATER + 10) == []
    for n in range(100):
        assert call(made, (BAD, GOOD)[n % 2], LATER + 20 + n) == []
    assert stable(made) == "mini"


@pytest.mark.parametrize("how", ["policy", "restart"])
def test_a_new_policy_or_a_restart_in_an_outage_does_not_begin_the_window_anew(how: str) -> None:
    """Twenty calls fail within the hold; then the policy changes elsewhere, or the process is another; a tick later the
    arm is out."""
    made = promoted()
    assert calls(made, BAD, UNITS, LATER) == []
    upstreams = {"up": Upstream("up", "openai", "https", "up", 443)}
    if how == "policy":
        made.apply(Policy("bot", "v2", upstreams, (replace(ROUTE, virtual=("auto",)),)), LATER + 1)
    else:
        kept = made.snapshot()
        made = Engine(Policy("bot", "v1", upstreams, (ROUTE,)), np.random.default_rng(1), LATER + 1)
        made.restore(kept, LATER + 1)
    assert stable(made) == "mini"
    assert "rollout.rolled_back" in [event.kind for event in made.tick(LATER + HOLD_S + 1)]
    assert stable(made) == "big"


def test_where_giving_up_is_off_nobody_who_leaves_takes_an_arm_out() -> None:
    spec = RolloutSpec(interval_s=900.0, guardrails=(Guardrail("gave_up", off=True),))
    assert calls(promoted(rollout=spec), HANGING, 60, LATER, 0.1) == []
    assert len(calls(promoted(rollout=spec), BAD, 60, LATER, 0.1)) == 1


def test_an_arm_that_is_promoted_again_begins_with_a_clean_slate() -> None:
    made = promoted()
    assert len(calls(made, BAD, 100, LATER, 0.1)) == 1
    made.start_rollout("chat", "mini", LATER + 100)
    while made._order[0].staging.active is not None:
        made.promote("chat", LATER + 100)
    assert stable(made) == "mini"
    assert calls(made, BAD, 4, LATER + 200, 5.0) == []
    assert made.tick(LATER + 300) == []


def test_one_conversation_is_one_unit_and_counts_as_its_newest_call_ended() -> None:
    made = promoted()
    for n in range(100):
        assert call(made, BAD, LATER + n, key=7) == []
    assert calls(made, GOOD, 10, LATER + 100, first_key=11) == []
    assert calls(made, BAD, 10, LATER + 110, 1.0, first_key=11) != []


@pytest.mark.parametrize(("other", "out"), [(GOOD, True), (BAD, False)], ids=["good", "failed"])
def test_in_an_optimize_route_the_other_arms_are_the_comparison(other: Outcome, out: bool) -> None:
    """All of mini's calls fail for a minute; it goes when the baseline's do not."""
    made = promoted(mode="optimize", sticky="request")
    made._order[0].selector.partial_fit = lambda *_: None  # type: ignore[method-assign]  # both arms go on serving
    served = {"mini": 0, "big": 0}
    for n in range(600):
        asked, now = facts(0), LATER + n * 0.1
        decision = made.decide(asked, now)
        assert decision.arm is not None
        served[decision.arm] += 1
        made.settle(asked, decision, BAD if decision.arm == "mini" else other, now)
    assert served["big"] > 100
    assert (made._order[0].staging.rollouts["mini"].phase == "rolled_back") is out
    assert out or served["mini"] > 100


def test_what_a_fallback_served_is_the_failure_of_the_arm_that_was_asked_first() -> None:
    made = promoted(fallback=Fallback(("big",), ("5xx",)))
    for n in range(40):
        asked, now = facts(0), LATER + n * 0.1
        first = made.decide(asked, now)
        second = fall_back(made, asked, first, "503", now)
        if second is None:
            break
        assert (first.arm, second.arm) == ("mini", "big")
        assert not made.settle(asked, second, replace_served(GOOD), now).events
    assert [event.kind for event in made.tick(LATER + 10)] == ["rollout.rolled_back"]
    assert stable(made) == "big"


def replace_served(outcome: Outcome) -> Outcome:
    return Outcome(kind=outcome.kind, status=200, clocks=outcome.clocks, served_arm="big", finish="stop", empty=False)


def test_the_patience_of_the_rollout_is_that_of_the_brake() -> None:
    """Twenty answers of the control took 1 s: after the promotion, who leaves after 5 s has waited in vain."""
    policy = Policy("bot", "v1", {"up": Upstream("up", "openai", "https", "up", 443)}, (ROUTE,))
    made = Engine(policy, np.random.default_rng(1), NOW)
    assert calls(made, GOOD, 60, NOW, first_key=1) == []
    while made._order[0].staging.active is not None:
        made.promote("chat", NOW)
    left = Outcome(kind="aborted", clocks=Clocks(sent_s=0.0, duration_s=5.0))
    assert len(calls(made, left, 60, LATER, 0.1, first_key=1001)) == 1
    assert calls(promoted(), left, 60, LATER, 0.1) == []


def test_min_samples_of_a_new_policy_holds_for_the_rollout_under_way() -> None:
    """R15: the rollout goes on, and waits for as many labels as the policy in force wants."""
    policy = Policy("bot", "v1", {"up": Upstream("up", "openai", "https", "up", 443)}, (ROUTE,))
    made = Engine(policy, np.random.default_rng(1), NOW)
    for wanted in (300, 7):
        route = replace(ROUTE, quality=Quality(min_samples=wanted))
        made.apply(replace(policy, routes=(route,)), NOW + 1)
        (rollout,) = made.status()[0].rollouts
        assert (rollout.phase, rollout.attempt) == ("running", 1)
        assert f"no quality evidence: 0 of {wanted} labels beyond validators" in rollout.blocked_by
