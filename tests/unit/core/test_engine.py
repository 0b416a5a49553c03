"""The engine chooses: observe, canary, optimize, conversations."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.engine import MAX_STATIC, PASS
from sidecar.core.policy import (
    NO_POLICY,
    Budget,
    Fallback,
    Match,
    Objective,
    Quality,
    Threshold,
)
from sidecar.core.types import Event, Feedback
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

# ---- without a choice


def test_a_call_that_loses_something_is_not_decided_from_memory() -> None:
    """What it loses depends on its body: the decision of an equal name, made for another body, is not its own."""
    made = engine(policy(mode="observe"))
    plain = made.decide(facts(), NOW)
    assert made.decide(facts(), NOW) is plain
    lossy = made.decide(facts(lost={"provider": ("top_k",)}), NOW)
    assert lossy is not plain
    assert lossy.arm == plain.arm


def test_no_policy_passes_everything_through() -> None:
    """With no configuration a request is forwarded unchanged, at no cost: all share one decision."""
    made = engine(NO_POLICY)
    first = made.decide(facts(), NOW)
    assert first is PASS is made.decide(facts(2), NOW)
    assert (first.route, first.arm, first.upstream, first.model, first.propensity) == ("-", None, None, None, 1.0)
    assert made.settle(facts(), first, outcome(), NOW).reward is None
    assert not made.wants.key
    assert fall_back(made, facts(), first, "connect", NOW) is None
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
    assert len(made._order[0].serving._as_asked) <= MAX_STATIC


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
            assert not made.labelled("support")
            for _ in range(3):
                made.feedback(score, NOW)
        events += made.tick(NOW + 1)
    control = Feedback(decision_id="d", route="support", arm="gpt-4o", score=0.9, rollout_id=rollout_id)
    assert made.feedback(control, NOW) == []
    assert made.feedback(Feedback(decision_id="d", route="support", arm="mini", score=7.0), NOW) == []
    assert made.feedback(Feedback(decision_id="d", route="other", arm="mini", score=1.0), NOW) == []
    assert (made.labelled("support"), made.labelled("other")) == (True, False)
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
        made.refresh(NOW + index)
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


@settings(max_examples=25)
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
    assert engine(policy()).wants.key
    assert not engine(policy(sticky="request")).wants.key


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
    """A body that was not read cannot be rewritten; rules are asked about what the app asked for."""
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
