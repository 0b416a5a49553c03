"""The engine where something holds it back: rules, budgets, thresholds, fallback, failing open."""

from dataclasses import replace

import pytest

from sidecar.core.engine import PASS
from sidecar.core.policy import (
    Budget,
    Fallback,
    Threshold,
)
from sidecar.core.staging import Staging
from sidecar.core.types import Event
from sidecar.errors import RolloutError
from tests.unit.core.engines import (
    HAIKU,
    MINI,
    NANO,
    NOW,
    ROUTE,
    SPEC,
    engine,
    facts,
    fall_back,
    kinds,
    outcome,
    policy,
    promoted,
    rule,
)

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
    assert fall_back(made, facts(1), first, "timeout", NOW) is None
    assert fall_back(made, facts(1), first, "401", NOW) is None
    second = fall_back(made, facts(1), first, "503", NOW)
    assert second is not None
    assert (second.arm, second.reason, second.fallbacks) == ("mini", "fallback", ("nano",))
    assert second.reserved_nusd == first.reserved_nusd
    third = fall_back(made, facts(1), second, "connect", NOW)
    assert third is not None
    assert fall_back(made, facts(1), third, "429", NOW) is None
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
    selector = made._order[0].selector
    selector.labelled, selector.beliefs["mini"].answered.good = True, float("nan")
    selector.touch()
    made.refresh(NOW)
    arms = [made.decide(facts(key), NOW).arm for key in range(1, 300)]
    assert arms.count("gpt-4o") > 280  # the other arm has its floor only


@pytest.mark.parametrize("window_s", [3600.0, 60.0])
def test_a_restart_opens_no_window_again(window_s: float) -> None:
    """What the last hour cost counts after a restart; under a policy with another window nothing is known of it."""
    made = engine(policy(budget=Budget(window_nusd=2_000, window_s=3600.0)))
    made.settle(facts(1), made.decide(facts(1), NOW), outcome(cost_nusd=2_000), NOW)
    assert made.decide(facts(2), NOW + 1).refusal is not None
    again = engine(policy(budget=Budget(window_nusd=2_000, window_s=window_s)))
    again.restore(made.snapshot(), NOW + 1)
    assert (again.decide(facts(2), NOW + 1).refusal is not None) is (window_s == 3600.0)
    assert again.decide(facts(2), NOW + 3700).refusal is None
