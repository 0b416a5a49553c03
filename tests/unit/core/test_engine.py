from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.engine import MAX_ABSENT, MAX_STATIC, PASS, Engine
from sidecar.core.policy import (
    NO_POLICY,
    Arm,
    Budget,
    Fallback,
    FlatPrice,
    Match,
    Objective,
    Policy,
    Quality,
    RolloutSpec,
    Route,
    Rule,
    Threshold,
    Upstream,
)
from sidecar.core.rules import parse
from sidecar.core.staging import Staging
from sidecar.core.types import Clocks, Decision, Event, Facts, Feedback, Outcome, Usage
from sidecar.errors import RolloutError

NOW = 20_000 * 86_400.0
PRICE = FlatPrice(2_000_000, 8_000_000)
UPSTREAMS = {
    "openai": Upstream("openai", "openai", "https", "o", 443, price=PRICE),
    "cheap": Upstream("cheap", "openai", "https", "c", 443, price=FlatPrice(200_000, 800_000)),
    "claude": Upstream("claude", "anthropic", "https", "a", 443),
}
BASE = Arm("gpt-4o", "openai", "gpt-4o", facts={"region": "US"})
MINI = Arm("mini", "cheap", "gpt-4o-mini", params=(("temperature", b"0.3"),), facts={"region": "EU"})
NANO = Arm("nano", "openai", "gpt-nano")
HAIKU = Arm("haiku", "claude", "claude-haiku")
SPEC = RolloutSpec(min_requests=5, interval_s=10.0)
ROUTE = Route(
    "support",
    Match(models=("gpt-4o", "auto", "gpt-nano")),
    "canary",
    BASE,
    (MINI,),
    virtual=("auto",),
    rollout=SPEC,
    quality=Quality(("finish_reason", "empty"), min_samples=0),
)


def policy(route: Route = ROUTE, *rules: Rule, **changes: object) -> Policy:
    return Policy("bot", "v1", UPSTREAMS, (replace(route, **changes),), rules)  # type: ignore[arg-type]  # one test's


def rule(when: str, action: str = "deny") -> Rule:
    return Rule("r1", parse(when), when, action, "")  # type: ignore[arg-type]  # one of the three actions


def engine(made: Policy, seed: int = 1) -> Engine:
    """An engine whose first tick has told the events of its start."""
    ready = Engine(made, np.random.default_rng(seed), NOW)
    ready.tick(NOW)
    return ready


def facts(key: int = 1, **fields: object) -> Facts:
    known: dict[str, object] = {
        "endpoint": "chat",
        "dialect": "openai",
        "path": "/v1/chat/completions",
        "model": "gpt-4o",
        "stream": True,
        "key": key,
        "key_source": "conversation" if key else "request",
        "draw": key * 2654435761 + 17,
        "input_bytes": 300,
        "max_tokens": 100,
    }
    return Facts(**{**known, **fields})  # type: ignore[arg-type]  # fields of one test


def outcome(kind: str = "completed", **fields: object) -> Outcome:
    known: dict[str, object] = {
        "kind": kind,
        "status": 200 if kind == "completed" else 500,
        "clocks": Clocks(sent_s=0.001, ttft_s=0.3, duration_s=1.0),
        "stream": True,
        "finish": "stop" if kind == "completed" else None,
        "empty": False if kind == "completed" else None,
        "usage": Usage(input_tokens=100, output_tokens=50) if kind == "completed" else None,
        "cost_nusd": 600 if kind == "completed" else None,
    }
    return Outcome(**{**known, **fields})  # type: ignore[arg-type]  # fields of one test


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def promoted(made: Policy, seed: int = 1) -> Engine:
    """An engine whose arms have all been promoted by hand."""
    ready = engine(made, seed)
    for route in made.routes:
        for _ in route.arms:
            while any(one.phase == "running" for one in ready.status()[0].rollouts):
                ready.promote(route.name, NOW)
            ready.tick(NOW)
    return ready


# ---- without a choice


def test_no_policy_passes_everything_through() -> None:
    """With no configuration a request is forwarded unchanged, at no cost: all share one decision."""
    made = engine(NO_POLICY)
    first = made.decide(facts(), NOW)
    assert first is PASS is made.decide(facts(2), NOW)
    assert (first.route, first.arm, first.upstream, first.model, first.propensity) == ("-", None, None, None, 1.0)
    assert made.settle(facts(), first, outcome(), NOW).reward is None
    assert not made.needs_key
    assert made.fallback(facts(), first, "connect") is None
    assert made.status() == []
    made.release(first)


def test_observe_forwards_what_was_asked_for() -> None:
    """Observe mode sends the asked model to the baseline's upstream; virtual names get the baseline's model."""
    made = engine(policy(mode="observe", arms=(MINI, NANO)))
    asked = made.decide(facts(), NOW)
    assert (asked.arm, asked.upstream, asked.model, asked.reason) == ("gpt-4o", "openai", None, "passthrough")
    assert made.decide(facts(9), NOW) is asked
    assert made.decide(facts(model="gpt-nano"), NOW).arm == "nano"
    virtual = made.decide(facts(model="auto"), NOW)
    assert (virtual.arm, virtual.model, virtual.reason) == ("gpt-4o", "gpt-4o", "baseline")
    assert made.settle(facts(), asked, outcome(), NOW).quality == 1.0
    with pytest.raises(RolloutError, match="mode observe"):
        made.pause("support", NOW)


def test_the_cache_of_shared_decisions_is_bounded() -> None:
    """Model names come from requests: a client that invents them does not fill the memory."""
    made = engine(policy(mode="observe", match=Match(models=("gpt-*",))))
    for index in range(2 * MAX_STATIC + 5):
        assert made.decide(facts(model=f"gpt-{index}"), NOW).route == "support"
    assert len(made._static) <= MAX_STATIC
    assert len(made._order[0]._as_asked) <= MAX_STATIC


@pytest.mark.parametrize(
    ("match", "fields", "route"),
    [
        (Match(), {}, "support"),
        (Match(models=("gpt-*",)), {}, "support"),
        (Match(models=("*",)), {"model": None}, "support"),
        (Match(models=("gpt-4o",)), {"model": None}, "-"),
        (Match(paths=("/v1/*",)), {}, "support"),
        (Match(paths=("/v2/*",)), {}, "-"),
        (Match(tags={"team": "a"}), {"tags": {"team": "a"}}, "support"),
        (Match(tags={"team": "a"}), {"tags": {"team": "b"}}, "-"),
        (Match(tags={"team": "a"}), {}, "-"),
    ],
)
def test_routes_match_on_models_paths_and_tags(match: Match, fields: dict[str, Any], route: str) -> None:
    """A route serves when every filled field of its match agrees."""
    made = engine(policy(mode="observe", match=match))
    assert made.decide(facts(**fields), NOW).route == route
    assert made.decide(facts(**fields), NOW).route == route


def test_endpoints_that_are_not_chosen_for_pass_untouched() -> None:
    """Embeddings and unknown endpoints go to the baseline's upstream as they are."""
    made = engine(policy(mode="optimize"))
    decision = made.decide(facts(endpoint="embeddings", model="auto"), NOW)
    assert (decision.arm, decision.upstream, decision.model) == (None, "openai", None)
    assert decision.reason == "passthrough"


def test_off_skips_selection() -> None:
    """`x-sidecar-off: 1` gets what was asked for, even with a canary at 100 %."""
    made = promoted(policy())
    assert made.decide(facts(), NOW).arm == "mini"
    assert made.decide(facts(off=True), NOW).arm == "gpt-4o"


def test_an_arm_of_another_dialect_is_not_eligible() -> None:
    """A request is never sent to an upstream that speaks another dialect."""
    made = promoted(policy(mode="optimize", arms=(HAIKU,)))
    assert {made.decide(facts(key), NOW).arm for key in range(1, 40)} == {"gpt-4o"}
    foreign = made.decide(facts(dialect="gemini", endpoint="generate"), NOW)
    assert (foreign.upstream, foreign.arm, foreign.reason) == (None, None, "fail-open")
    assert made.decide(facts(dialect="anthropic", endpoint="messages"), NOW).arm == "haiku"


# ---- canary


def test_canary_share_is_within_binomial_bounds_and_monotone() -> None:
    """GW-54, INC-36: the share equals the step (five standard deviations of 4,000 keys), 0 and 100 % are exact,
    and a key that is in stays in when the step rises."""
    made, rng = engine(policy(sticky="request")), np.random.default_rng(4)
    draws = [int(draw) for draw in rng.integers(1, 2**63, 4_000)]
    inside: list[set[int]] = []
    for step in (5, 25, 50, 100):
        decisions = {draw: made.decide(facts(0, draw=draw), NOW) for draw in draws}
        chosen = {draw for draw, one in decisions.items() if one.arm == "mini"}
        assert abs(len(chosen) - 40 * step) <= 5 * (40 * step * (1 - step / 100)) ** 0.5
        if step < 100:
            assert {one.propensity for one in decisions.values()} == {step / 100, 1 - step / 100}
            made.promote("support", NOW)
        inside.append(chosen)
    assert all(lower <= higher for lower, higher in pairwise(inside))
    made.rollback("support", NOW)
    assert all(made.decide(facts(0, draw=draw), NOW).arm == "gpt-4o" for draw in draws[:500])


def test_a_step_change_moves_new_conversations_only() -> None:
    """GW-53: a conversation keeps its arm when the step rises; new ones are assigned by the new step."""
    made = engine(policy())
    before = {key: made.decide(facts(key), NOW) for key in range(1, 400)}
    made.promote("support", NOW)
    made.promote("support", NOW)
    for key, first in before.items():
        again = made.decide(facts(key), NOW)
        assert (again.arm, again.reason, again.propensity) == (first.arm, "sticky", first.propensity)
        assert (again.unit, again.rollout_step) == ("conversation", 5)
    fresh = [made.decide(facts(key), NOW).arm for key in range(1_000, 1_400)]
    assert abs(fresh.count("mini") - 200) < 50


def test_a_rollback_unbinds_at_once() -> None:
    """After a rollback not one request goes to the canary, bound conversations included."""
    made = engine(policy())
    bound = [key for key in range(1, 600) if made.decide(facts(key), NOW).arm == "mini"]
    assert bound
    assert kinds(made.rollback("support", NOW)) == ["rollout.rolled_back"]
    after = [made.decide(facts(key), NOW) for key in bound]
    assert {one.arm for one in after} == {"gpt-4o"}
    assert {one.reason for one in after} == {"baseline"}


def test_a_canary_that_fails_is_rolled_back_by_its_outcomes() -> None:
    """Settling failures of the canary against a healthy control takes it out; the verdict carries the event."""
    made = engine(policy(rollout=replace(SPEC, steps=(50, 100))))
    seen: list[Event] = []
    for key in range(1, 400):
        one = facts(key)
        decision = made.decide(one, NOW)
        result = outcome("failed") if decision.arm == "mini" else outcome()
        seen += made.settle(one, decision, result, NOW).events
        if seen:
            break
    assert kinds(seen) == ["rollout.rolled_back"]
    assert made.status()[0].arms[1].role == "rolled_back"


def test_a_healthy_canary_becomes_the_stable_arm() -> None:
    """At the end of its steps the arm of a canary route serves all new conversations; old ones stay where they are."""
    made, now, events = engine(policy(rollout=replace(SPEC, steps=(50, 100)))), NOW, list[Event]()
    for key in range(1, 60):
        now += 1.0
        one = facts(key)
        decision = made.decide(one, now)
        events += made.settle(one, decision, outcome(), now).events
        events += made.tick(now)
    assert kinds(events) == ["rollout.promoted"]
    last = made.decide(facts(777), now)
    assert (last.arm, last.reason, last.propensity, last.rollout_id) == ("mini", "baseline", 1.0, None)
    assert made.status()[0].arms[1].role == "stable"
    assert made.settle(facts(777), last, outcome(), now).reward is not None
    assert made.feedback(Feedback(decision_id="x", route="support", arm="mini", score=1.0), now) == []
    assert kinds(made.rollback("support", now)) == ["rollout.rolled_back"]
    assert made.decide(facts(778), now).arm == "gpt-4o"


def test_rollouts_of_one_route_go_one_after_the_other() -> None:
    """Two new arms are not each other's control: the second begins when the first is done."""
    made = engine(policy(mode="optimize", arms=(MINI, NANO)))
    assert [one.phase for one in made.status()[0].rollouts] == ["running", "pending"]
    with pytest.raises(RolloutError, match="promote it or roll it back first"):
        made.start_rollout("support", "nano", NOW)
    made.rollback("support", NOW)
    assert "rollout.started" in kinds(made.tick(NOW))
    assert [one.phase for one in made.status()[0].rollouts] == ["rolled_back", "running"]
    assert [arm.role for arm in made.status()[0].arms] == ["baseline", "rolled_back", "canary"]


def test_verbs_by_hand_say_what_they_cannot_do() -> None:
    """Each manual verb answers events or a RolloutError that says why."""
    made = engine(policy())
    assert kinds(made.pause("support", NOW)) == ["rollout.paused"]
    assert kinds(made.resume("support", NOW)) == ["rollout.resumed"]
    assert kinds(made.rollback("support", NOW)) == ["rollout.rolled_back"]
    with pytest.raises(RolloutError, match="no rollout is under way"):
        made.pause("support", NOW)
    with pytest.raises(RolloutError, match="no rollout is under way"):
        made.rollback("support", NOW)
    with pytest.raises(RolloutError, match="no arm 'x'"):
        made.start_rollout("support", "x", NOW)
    with pytest.raises(RolloutError, match="no route 'x'; routes are: support"):
        made.promote("x", NOW)
    assert kinds(made.start_rollout("support", "mini", NOW)) == ["rollout.started"]
    with pytest.raises(RolloutError, match="cannot start"):
        made.start_rollout("support", "mini", NOW)


def test_labels_reach_the_rollout_and_the_posterior() -> None:
    """Without labels an arm stays at its first step; feedback lets it go on. Scores out of range are dropped."""
    made = engine(policy(quality=Quality((), min_samples=3), rollout=replace(SPEC, steps=(50, 100), interval_s=0.0)))
    rollout_id = made.status()[0].rollouts[0].id
    score = Feedback(decision_id="d", route="support", arm="mini", score=1.0, rollout_id=rollout_id)
    events: list[Event] = []
    for key in range(1, 2_000):
        made.settle(facts(key), made.decide(facts(key), NOW), outcome(), NOW)
        if key == 1_000:
            assert events == []
            for _ in range(3):
                made.feedback(score, NOW)
        events += made.tick(NOW + 1)
    control = Feedback(decision_id="d", route="support", arm="gpt-4o", score=0.9, rollout_id=rollout_id)
    assert made.feedback(control, NOW) == []
    assert made.feedback(Feedback(decision_id="d", route="support", arm="mini", score=7.0), NOW) == []
    assert made.feedback(Feedback(decision_id="d", route="other", arm="mini", score=1.0), NOW) == []
    assert kinds(events) == ["rollout.promoted"]
    arm = made.status()[0].arms[1]
    assert (arm.labels, arm.label_mean) == (3, 1.0)


# ---- optimize


def test_logged_propensities_match_what_happens() -> None:
    """Chi-square of 8,000 independent requests against the sum of their own logged vectors (beliefs fixed, so one
    vector): 3 arms, P(X > 18.4) = 1e-4 for two degrees of freedom; the seed is fixed."""
    made = promoted(policy(mode="optimize", sticky="request", arms=(MINI, NANO)))
    seen: dict[str | None, list[float]] = {}
    for index in range(8_000):
        one = made.decide(facts(0, draw=index), NOW)
        assert one.reason == "sampled"
        seen.setdefault(one.arm, []).append(one.propensity)
    assert all(len(set(propensities)) == 1 for propensities in seen.values())
    assert sum(propensities[0] for propensities in seen.values()) == pytest.approx(1.0)
    expected = {arm: 8_000 * propensities[0] for arm, propensities in seen.items()}
    assert sum((len(seen[arm]) - mean) ** 2 / mean for arm, mean in expected.items()) < 18.4


def test_optimize_finds_the_cheap_arm_of_equal_quality() -> None:
    """With equal answers most traffic moves to the ten times cheaper arm."""
    made = promoted(policy(mode="optimize", sticky="request", objective=Objective(max_quality_loss=0.1)))
    arms: list[str | None] = []
    for index in range(1_500):
        one = facts(0, draw=index)
        decision = made.decide(one, NOW + index)
        cost_nusd = 600 if decision.arm == "gpt-4o" else 60
        made.settle(one, decision, outcome(cost_nusd=cost_nusd), NOW + index)
        arms.append(decision.arm)
    assert arms[-500:].count("mini") > 450
    shares = {arm.id: arm.share for arm in made.status()[0].arms}
    assert shares["mini"] > 0.9
    assert sum(shares.values()) == pytest.approx(1.0)


def test_the_canary_of_an_optimize_route_takes_its_step_and_the_selector_the_rest() -> None:
    """Propensities multiply: step / 100 for the canary, the rest times the selector's share for the pool."""
    made = engine(policy(mode="optimize", arms=(MINI, NANO)))
    for _ in range(3):
        made.promote("support", NOW)
    made.tick(NOW)
    decisions = [made.decide(facts(key), NOW) for key in range(1, 300)]
    vector = {one.arm: one.propensity for one in decisions}
    assert vector["nano"] == 0.05
    assert sum(vector.values()) == pytest.approx(1.0)
    assert {one.reason for one in decisions} == {"canary", "sampled"}
    assert all(one.rollout_step == 5 for one in decisions)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(["completed", "failed", "aborted"]), min_size=5, max_size=60))
def test_same_events_same_seed_same_decisions(seed: int, ends: list[str]) -> None:
    """Two engines that see the same events with the same seed decide alike and hold the same state."""
    made = [promoted(policy(mode="optimize", arms=(MINI, NANO)), seed) for _ in range(2)]
    for index, end in enumerate(ends):
        one = facts(index % 7)
        first, second = (each.decide(one, NOW + index) for each in made)
        assert first == second
        for each in made:
            each.settle(one, first, outcome(end), NOW + index)
    assert made[0].snapshot() == made[1].snapshot()


# ---- conversations


def test_units_follow_the_sticky_setting() -> None:
    """`session` binds sessions only, `request` binds nothing, a session header is a session."""
    session = engine(policy(sticky="session"))
    assert session.decide(facts(5), NOW).unit == "request"
    assert session.decide(facts(5, key_source="session"), NOW).unit == "session"
    assert engine(policy(sticky="request")).decide(facts(5), NOW).unit == "request"
    assert engine(policy()).needs_key
    assert not engine(policy(sticky="request")).needs_key


def test_a_template_is_split_by_request() -> None:
    """A derived key that is most of the traffic falls back to per-request assignment."""
    made = engine(policy())
    units = [made.decide(facts(5, draw=index), NOW).unit for index in range(900)]
    assert units[0] == "conversation"
    assert units[-1] == "request"


def test_pins_go_to_the_arm_that_holds_the_state() -> None:
    """A call that carries an arm's state goes to that arm, else to the conversation's, else to the baseline."""
    made = engine(policy())
    assert made.decide(facts(pinned="mini"), NOW).arm == "mini"
    bound = next(key for key in range(1, 400) if made.decide(facts(key), NOW).arm == "mini")
    follow = made.decide(facts(bound, stateful=True), NOW)
    assert (follow.arm, follow.reason, follow.propensity) == ("mini", "pinned", 1.0)
    assert made.decide(facts(10**6, stateful=True), NOW).arm == "gpt-4o"
    assert made.decide(facts(0, pinned="gone"), NOW).arm == "gpt-4o"


def test_a_pinned_call_never_leaves_its_upstream() -> None:
    """Another upstream does not hold the state: neither fallback nor budget moves the call there."""
    spare = Fallback(arms=("mini", "nano"), on=("5xx",))
    made = promoted(policy(arms=(MINI, NANO), fallback=spare))
    pinned = made.decide(facts(pinned="gpt-4o"), NOW)
    assert (pinned.eligible, pinned.fallbacks) == (("gpt-4o", "nano"), ("nano",))
    dear = Budget(per_request_nusd=500)
    made = promoted(policy(arms=(MINI,), budget=dear))
    assert made.decide(facts(stateful=True, pinned="mini"), NOW).arm == "mini"
    assert made.decide(facts(pinned="gpt-4o"), NOW).refusal is not None
    assert made.decide(facts(), NOW).arm == "mini"


def test_a_body_without_a_model_is_not_chosen_for() -> None:
    """DESIGN 4: a body that was not read cannot be rewritten; rules are asked about what the app asked for."""
    made = promoted(policy(match=Match()))
    unread = made.decide(facts(model=None), NOW)
    assert (unread.arm, unread.upstream, unread.model, unread.reason) == (None, "openai", None, "passthrough")


def test_an_arm_that_was_taken_out_serves_by_no_other_way() -> None:
    """Neither a threshold, nor a budget, nor chance brings a rolled-back arm back while another can serve."""
    slow = Threshold("slow", "ttft_p95", 0.1, None, 60.0, "high", "route_to", "mini", min_samples=5)
    made = engine(policy(thresholds=(slow,), budget=Budget(per_request_nusd=500)))
    made.rollback("support", NOW)
    small = facts(max_tokens=10)
    events: list[Event] = []
    for key in range(1, 40):
        events += made.settle(small, made.decide(small, NOW + key), outcome(), NOW + key).events
    assert "threshold.breached" in kinds(events)
    assert made.status()[0].diverted_to is None
    assert made.decide(small, NOW + 40).arm == "gpt-4o"
    assert made.decide(facts(), NOW + 40).refusal is not None
    made = engine(policy(ROUTE, rule("model.id == 'gpt-4o'"), arms=(MINI, NANO)))
    made.rollback("support", NOW)
    assert made.decide(facts(), NOW).arm == "nano"


# ---- rules, budgets, thresholds, fallback


def test_a_rule_filters_arms_before_it_denies() -> None:
    """`model.*` rules take arms out; the request is denied only when none is left."""
    eu = rule("user.region == 'EU' && model.region != 'EU'")
    made = engine(policy(ROUTE, eu))
    assert made.decide(facts(tags={"region": "EU"}), NOW).arm == "mini"
    assert made.decide(facts(2, tags={"region": "US"}), NOW).arm == "gpt-4o"
    forced = made.decide(facts(3), NOW)
    assert (forced.arm, forced.reason, forced.propensity, forced.rollout_id) == ("mini", "policy", 1.0, None)
    optimize = promoted(policy(ROUTE, eu, mode="optimize"))
    only = optimize.decide(facts(tags={"region": "EU"}), NOW)
    assert (only.arm, only.reason, only.propensity) == ("mini", "policy", 1.0)
    denied = made.decide(facts(off=True, tags={"region": "EU"}), NOW)
    assert denied.refusal is not None
    assert (denied.refusal.status, denied.refusal.code, denied.reason) == (403, "rule", "policy")


def test_rules_hold_without_a_route_and_fail_closed() -> None:
    """Requests that no route matches obey the rules; a deny rule whose fact is unknown denies."""
    made = engine(policy(ROUTE, rule("model.region != 'EU'")))
    unknown = made.decide(facts(model="other"), NOW)
    assert unknown.refusal is not None
    allowed = engine(policy(ROUTE, rule("daily_cost > 1"))).decide(facts(model="other", max_tokens=None), NOW)
    assert allowed is PASS


def test_spending_is_a_fact_of_rules() -> None:
    """A daily limit as a rule denies once the service spent it, and not before."""
    made = engine(policy(ROUTE, rule("daily_cost > 0.001")))
    first = made.decide(facts(), NOW)
    made.settle(facts(), first, outcome(cost_nusd=2_000_000), NOW)
    assert first.refusal is None
    assert made.decide(facts(), NOW).refusal is not None
    assert made.decide(facts(), NOW + 86_400).refusal is None


def test_log_rules_are_counted_once_a_tick() -> None:
    """A log rule changes nothing and makes one event a tick."""
    made = engine(policy(ROUTE, rule("request.stream", "log"), rule("user.x == 1", "log")))
    for key in range(1, 6):
        assert made.decide(facts(key, model=None if key == 5 else "gpt-4o"), NOW).refusal is None
    events = made.tick(NOW)
    assert [(event.kind, event.detail) for event in events] == [("rule.matched", {"count": 5})]


def test_concurrent_requests_cannot_pass_a_budget() -> None:
    """GW-19: admission reserves; calls in flight are refused before the ceiling, cheapest arm first."""
    budget = Budget(daily_nusd=2_500)
    made = engine(policy(budget=budget, rollout=replace(SPEC, steps=(1, 100))))
    flying = [made.decide(facts(key), NOW) for key in range(1, 10)]
    admitted = [one for one in flying if one.refusal is None]
    assert [one.reason for one in admitted] == [
        "baseline",
        "baseline",
        "budget",
        "budget",
        "budget",
        "budget",
        "budget",
    ]
    assert sum(one.reserved_nusd for one in admitted) <= 2_500
    refused = flying[-1].refusal
    assert refused is not None
    assert (refused.status, refused.code) == (429, "budget")
    for one in admitted:
        made.release(one)
    assert made.status()[0].reserved_nusd == 0
    deny = engine(policy(budget=Budget(daily_nusd=1_500, on_exceeded="deny")))
    assert [deny.decide(facts(key), NOW).refusal is None for key in (1, 2)] == [True, False]


def test_settling_replaces_the_reservation_by_the_cost() -> None:
    """What a call cost is booked; an unknown cost is taken as reserved, unless the upstream refused the call."""
    made = engine(policy(mode="observe", budget=Budget(daily_nusd=10**6)))
    first = made.decide(facts(), NOW)
    assert first.reserved_nusd == 1_000
    made.settle(facts(), first, outcome(cost_nusd=700), NOW)
    made.settle(facts(), made.decide(facts(), NOW), outcome("aborted"), NOW)
    made.settle(facts(), made.decide(facts(), NOW), outcome("failed"), NOW)
    status = made.status()[0]
    assert (status.spent_day_nusd, status.reserved_nusd) == (700 + 1_000, 0)
    made.charge("support", 300, NOW)
    made.charge("gone", 300, NOW)
    assert made.status()[0].spent_day_nusd == 2_000
    assert made.decide(facts(model="other"), NOW) is PASS


def test_an_observed_route_with_a_used_up_budget_refuses() -> None:
    """Observing never changes the model, so a hard ceiling can only refuse there."""
    made = engine(policy(mode="observe", budget=Budget(per_request_nusd=10)))
    assert made.decide(facts(), NOW).refusal is not None


def test_a_breached_threshold_routes_everything_away() -> None:
    """`route_to` sends every eligible request to its arm while the breach lasts."""
    slow = Threshold("slow", "ttft_p95", 0.1, None, 60.0, "high", "route_to", "mini", min_samples=5)
    made = engine(policy(thresholds=(slow,)))
    events: list[Event] = []
    for key in range(1, 40):
        events += made.settle(facts(key), made.decide(facts(key), NOW + key), outcome(), NOW + key).events
    assert "threshold.breached" in kinds(events)
    decision = made.decide(facts(10**6), NOW + 40)
    assert (decision.arm, decision.reason, decision.propensity, decision.rollout_id) == ("mini", "threshold", 1.0, None)
    assert made.status()[0].diverted_to == "mini"
    made.apply(policy(thresholds=(slow,)), NOW + 41)
    assert made.status()[0].diverted_to == "mini"
    made.apply(policy(thresholds=()), NOW + 41)
    assert made.status()[0].diverted_to is None


def test_a_critical_threshold_rolls_the_canary_back() -> None:
    """A breach whose action is rollback takes the canary out and its conversations with it; once."""
    errors = Threshold("errors", "error_rate", 0.5, None, 60.0, "critical", "rollback", min_samples=5)
    made = engine(policy(thresholds=(errors,)))
    events: list[Event] = []
    for key in range(1, 30):
        events += made.settle(facts(key), made.decide(facts(key), NOW + key), outcome("failed"), NOW + key).events
    assert kinds(events)[:2] == ["threshold.breached", "rollout.rolled_back"]
    assert made.status()[0].arms[1].role == "rolled_back"
    again = engine(policy(thresholds=(replace(errors, arm="mini"),)))
    again.rollback("support", NOW)
    assert (
        again._order[0].obey([Event(kind="threshold.breached", arm="mini", detail={"action": "rollback"})], NOW)[1:]
        == []
    )


def test_fallback_serves_the_next_listed_arm_and_blames_the_first() -> None:
    """Only listed triggers fall back, at most `max` times, never across dialects; the failed arm is blamed."""
    spec = Fallback(("haiku", "mini", "nano"), ("connect", "5xx", "429"), max=2)
    made = engine(policy(arms=(MINI, NANO, HAIKU), fallback=spec, budget=Budget(daily_nusd=10**9)))
    first = made.decide(facts(1), NOW)
    assert first.fallbacks == ("mini", "nano")
    assert made.fallback(facts(1), first, "timeout") is None
    assert made.fallback(facts(1), first, "401") is None
    second = made.fallback(facts(1), first, "503")
    assert second is not None
    assert (second.arm, second.reason, second.fallbacks) == ("mini", "fallback", ("nano",))
    assert second.reserved_nusd == first.reserved_nusd
    third = made.fallback(facts(1), second, "connect")
    assert third is not None
    assert made.fallback(facts(1), third, "429") is None
    made.settle(facts(1), third, outcome(), NOW)
    assert made.status()[0].reserved_nusd == 0
    assert [arm.exchanges for arm in made.status()[0].arms] == [1, 1, 1, 0]


def test_a_served_fallback_teaches_the_arm_that_served() -> None:
    """When the outcome names another arm than decided, the decided canary is not credited."""
    made = engine(policy())
    decision = made.decide(facts(1), NOW)
    made.settle(facts(1), decision, outcome(served_arm="mini", usage=None), NOW)
    assert [arm.exchanges for arm in made.status()[0].arms] == [0, 1]
    assert made.status()[0].rollouts[0].control_units == 0


def test_what_the_staging_of_a_route_cannot_do() -> None:
    """Without a rollout under way outcomes and labels are no evidence; an unknown arm cannot be taken out."""
    staging = Staging(replace(ROUTE, arms=()), lambda _arm: None)
    assert staging.observe("mini", outcome(), None, (0, None), NOW) == []
    assert staging.label("mini", 1.0, (0, None), NOW) == []
    with pytest.raises(RolloutError, match="no arm 'x'"):
        staging.rollback(NOW, "why", "x")


def test_outcomes_of_an_ended_rollout_are_no_evidence() -> None:
    """A request in flight when its rollout ended settles without touching the next one."""
    made = engine(policy(mode="optimize", arms=(MINI, NANO)))
    flying = made.decide(facts(1), NOW)
    made.rollback("support", NOW)
    made.tick(NOW)
    made.settle(facts(1), flying, outcome(), NOW)
    assert [one.control_units for one in made.status()[0].rollouts] == [0, 0]


def test_eligible_arms_without_an_established_one_serve_in_order() -> None:
    """When rules take out the baseline while the canary still runs, what is left serves, outside the comparison."""
    made = engine(policy(ROUTE, rule("model.upstream != 'cheap'"), mode="optimize"))
    decision = made.decide(facts(1), NOW)
    assert (decision.arm, decision.reason, decision.propensity) == ("mini", "policy", 1.0)


# ---- failing open


@pytest.mark.parametrize(("model", "arm", "sent"), [("gpt-4o", "gpt-4o", None), ("auto", "gpt-4o", "gpt-4o")])
def test_failing_open_reads_the_policy_only(model: str, arm: str, sent: str | None) -> None:
    """INC-37: when the engine fails, the app gets its own model, or the baseline when the name is virtual."""
    made = promoted(policy())
    made._order[0].selector.beliefs.clear()
    made._order[0].staging.stable = "nonsense"
    decision = made.fail_open(facts(model=model))
    assert (decision.arm, decision.upstream, decision.model, decision.reason) == (arm, "openai", sent, "fail-open")
    assert made.fail_open(facts(model="other")).upstream is None


def test_broken_beliefs_do_not_stop_decisions() -> None:
    """INC-37: NaN in a posterior sends traffic to the baseline; nothing raises."""
    made = promoted(policy(mode="optimize"))
    belief = made._order[0].selector.beliefs["mini"]
    belief.labels.total, belief.samples = float("nan"), 1
    assert {made.decide(facts(key), NOW).arm for key in range(1, 30)} == {"gpt-4o"}


# ---- policies and state


def test_apply_keeps_what_stays_and_forgets_what_changes() -> None:
    """A reload keeps beliefs, spending and conversations of arms that stay; a changed arm begins anew."""
    made = promoted(policy(budget=Budget(daily_nusd=10**9)))
    for key in range(1, 30):
        made.settle(facts(key), made.decide(facts(key), NOW), outcome(), NOW)
    assert kinds(made.apply(policy(budget=Budget(daily_nusd=10**8)), NOW)) == ["policy.applied"]
    kept = made.status()[0]
    assert (kept.arms[1].exchanges, kept.arms[1].role, kept.spent_day_nusd) == (29, "stable", 29 * 600)
    assert made.decide(facts(1), NOW).reason == "sticky"
    spec = made.apply(policy(rollout=replace(SPEC, min_requests=9)), NOW)
    assert kinds(spec) == ["policy.applied"]
    changed = made.apply(policy(arms=(replace(MINI, model="gpt-5-mini"),)), NOW)
    assert kinds(changed) == ["policy.applied", "rollout.started"]
    assert made.status()[0].arms[1].exchanges == 0
    assert made.decide(facts(1), NOW).reason in ("baseline", "canary")


def test_removing_an_arm_or_a_route_frees_its_conversations() -> None:
    """Conversations of an arm that is gone are assigned anew; requests in flight settle without harm."""
    made = promoted(policy())
    flying = made.decide(facts(1), NOW)
    assert flying.arm == "mini"
    made.apply(policy(arms=()), NOW)
    assert made.decide(facts(1), NOW).arm == "gpt-4o"
    assert made.settle(facts(1), flying, outcome(), NOW).reward is None
    made.apply(NO_POLICY, NOW)
    assert made.settle(facts(1), flying, outcome(), NOW).reward is None
    assert made.policy is NO_POLICY
    made.apply(policy(), NOW)
    assert made.decide(facts(1), NOW).reason != "sticky"


def test_adding_an_arm_starts_its_rollout() -> None:
    """A new arm of a canary or optimize route comes in by its own rollout; the others keep theirs."""
    made = promoted(policy(mode="optimize"))
    events = made.apply(policy(mode="optimize", arms=(MINI, NANO)), NOW)
    assert kinds(events) == ["policy.applied", "rollout.started"]
    assert [arm.role for arm in made.status()[0].arms] == ["baseline", "pool", "canary"]


def test_changing_the_spec_of_a_running_rollout_begins_it_again() -> None:
    """A rollout's id comes from its content: another spec is another rollout, and the old canaries are free."""
    made = engine(policy())
    bound = next(key for key in range(1, 400) if made.decide(facts(key), NOW).arm == "mini")
    events = made.apply(policy(rollout=replace(SPEC, steps=(1, 100))), NOW)
    assert kinds(events) == ["policy.applied", "rollout.started"]
    assert made.decide(facts(bound), NOW).reason != "sticky"
    made.rollback("support", NOW)
    assert kinds(made.apply(policy(), NOW)) == ["policy.applied", "rollout.started"]


def test_snapshot_round_trip() -> None:
    """A restart keeps beliefs, rollouts, spending and conversations: the restored engine has the same snapshot and,
    with the same generator, makes the same decisions."""
    made = promoted(policy(mode="optimize", arms=(MINI, NANO), budget=Budget(daily_nusd=10**9)))
    for key in range(1, 120):
        made.settle(facts(key), made.decide(facts(key), NOW), outcome(), NOW)
        score = Feedback(decision_id=str(key), route="support", arm="mini", score=(key % 5) / 5)
        made.feedback(score, NOW)
    again = engine(policy(mode="optimize", arms=(MINI, NANO), budget=Budget(daily_nusd=10**9)))
    assert "state.restored" in kinds(again.restore(made.snapshot(), NOW))
    left, right = orjson.loads(made.snapshot()), orjson.loads(again.snapshot())
    assert left["routes"] == right["routes"]
    assert left["ledger"] == right["ledger"]
    made._rng, again._rng = np.random.default_rng(8), np.random.default_rng(8)
    made._order[0].selector.touch()
    made._order[0].rescore()
    for key in (3, 50, *range(500, 540)):
        first, second = made.decide(facts(key), NOW), again.decide(facts(key), NOW)
        assert (first.arm, first.reason, first.propensity) == (second.arm, second.reason, second.propensity)


def test_a_snapshot_of_another_policy_is_taken_as_far_as_it_fits() -> None:
    """Routes and arms that no longer exist or changed are left out; a changed rollout begins anew and says so."""
    made = engine(policy())
    made.settle(facts(1), made.decide(facts(1), NOW), outcome(), NOW)
    state = made.snapshot()
    other = engine(policy(arms=(replace(MINI, model="other"),)))
    assert "rollout.evidence_lost" in kinds(other.restore(state, NOW))
    assert other.status()[0].arms[0].exchanges == 1
    gone = engine(policy(arms=()))
    assert kinds(gone.restore(state, NOW)) == ["state.restored"]
    renamed = engine(policy(name="elsewhere"))
    assert renamed.restore(state, NOW)[-1].detail["routes"] == 0


def test_the_first_tick_tells_how_it_began() -> None:
    """The events of the first policy reach the log; a rollout that goes on is not told as started."""
    made = Engine(policy(), np.random.default_rng(1), NOW)
    assert kinds(made.tick(NOW)) == ["policy.applied", "rollout.started"]
    assert made.tick(NOW) == []
    again = Engine(policy(), np.random.default_rng(1), NOW)
    again.restore(made.snapshot(), NOW)
    assert kinds(again.tick(NOW)) == ["policy.applied"]
    changed = Engine(policy(rollout=replace(SPEC, min_requests=6)), np.random.default_rng(1), NOW)
    changed.restore(made.snapshot(), NOW)
    assert kinds(changed.tick(NOW)) == ["policy.applied", "rollout.started"]


def test_a_route_that_was_away_goes_on_where_it_was() -> None:
    """A broken policy at start, or one reload without the route, undoes no rollback and opens no budget."""
    limited = policy(budget=Budget(daily_nusd=10**9))
    made = engine(limited)
    made.settle(facts(1), made.decide(facts(1), NOW), outcome(), NOW)
    made.rollback("support", NOW)
    restarted = engine(NO_POLICY)
    restarted.restore(made.snapshot(), NOW)
    restarted = _restarted(NO_POLICY, restarted.snapshot())
    made.apply(NO_POLICY, NOW)
    for one in (made, restarted):
        assert kinds(one.apply(limited, NOW)) == ["policy.applied"]
        status = one.status()[0]
        assert (status.rollouts[0].phase, status.spent_day_nusd, status.arms[0].exchanges) == ("rolled_back", 600, 1)
        assert one.decide(facts(2), NOW).arm == "gpt-4o"


def test_a_part_that_cannot_be_read_costs_its_route_only() -> None:
    """What waits for an absent route is judged when the route returns."""
    state = orjson.loads(engine(policy()).snapshot())
    state["routes"]["support"]["beliefs"] = None
    made = _restarted(NO_POLICY, orjson.dumps(state))
    assert kinds(made.apply(policy(), NOW)) == ["policy.applied", "state.ignored", "rollout.started"]
    assert made.decide(facts(1), NOW).route == "support"


def test_what_waits_for_absent_routes_is_bounded() -> None:
    """Names of routes may change for ever; the route that went first is forgotten."""
    made = engine(NO_POLICY)
    for index in range(MAX_ABSENT + 3):
        made.apply(policy(name=f"r{index}"), NOW)
    made.apply(NO_POLICY, NOW)
    assert list(orjson.loads(made.snapshot())["routes"]) == [f"r{index}" for index in range(3, MAX_ABSENT + 3)]


@pytest.mark.parametrize(
    "changes",
    [{"arms": (replace(MINI, model="other"),)}, {"rollout": replace(SPEC, min_requests=6)}, {"arms": (NANO,)}],
)
def test_a_change_across_a_restart_frees_conversations(changes: dict[str, Any]) -> None:
    """As a reload does: an arm that changed or begins again keeps no conversation of before; others stay."""
    made = engine(policy())
    while made.status()[0].rollouts[0].step < 50:
        made.promote("support", NOW)
    before = {key: made.decide(facts(key), NOW).arm for key in range(1, 200)}
    same, other = _restarted(policy(), made.snapshot()), _restarted(policy(**changes), made.snapshot())
    for key, arm in before.items():
        assert same.decide(facts(key), NOW).arm == arm
        reason = other.decide(facts(key), NOW).reason
        assert (reason == "sticky") == (arm == "gpt-4o")


def _restarted(made: Policy, state: bytes) -> Engine:
    ready = engine(made)
    assert kinds(ready.restore(state, NOW))[-1] == "state.restored"
    return ready


@pytest.mark.parametrize(
    "state", [b"", b"{", b"[]", b'{"version": 2}', b'{"version": 1}', b'{"version":1,"ledger":{"day":null}}']
)
def test_a_snapshot_that_cannot_be_read_is_named_and_the_engine_starts_empty(state: bytes) -> None:
    """A state of another version or a broken one costs what was learnt, never the service."""
    made = engine(policy())
    made.settle(facts(1), made.decide(facts(1), NOW), outcome(), NOW)
    events = made.restore(state, NOW)
    assert kinds(events)[:2] == ["state.ignored", "policy.applied"]
    assert made.status()[0].arms[0].exchanges == 0
    assert made.decide(facts(1), NOW).route == "support"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["decide", "tick", "promote", "pause", "resume", "rollback", "start"]), st.integers(1, 30)
        ),
        max_size=60,
    )
)
def test_no_sequence_of_verbs_breaks_the_engine(steps: list[tuple[str, int]]) -> None:
    """After any verbs: a rolled-back arm gets nothing, propensities lie in (0, 1], a refused verb changes nothing."""
    made: Engine = engine(policy(mode="optimize", arms=(MINI, NANO)))
    now = NOW
    for verb, number in steps:
        now += number
        try:
            match verb:
                case "decide":
                    decision: Decision = made.decide(facts(number), now)
                    roles = {arm.id: arm.role for arm in made.status()[0].arms}
                    assert decision.arm is not None
                    assert roles[decision.arm] not in ("rolled_back", "waiting")
                    assert 0.0 < decision.propensity <= 1.0
                    made.settle(facts(number), decision, outcome(), now)
                case "tick":
                    made.tick(now)
                case "start":
                    made.start_rollout("support", ("mini", "nano")[number % 2], now)
                case _:
                    getattr(made, verb)("support", now)
        except RolloutError:
            continue
    assert sum(arm.share for arm in made.status()[0].arms) == pytest.approx(1.0)
