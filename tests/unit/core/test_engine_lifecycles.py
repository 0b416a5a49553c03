"""Rollouts over edits, restarts and returns in one: what a process alone would not have done, no restart does."""

from dataclasses import replace

import numpy as np
import pytest

from sidecar.core.engine import Engine
from sidecar.core.following import Follower
from sidecar.core.memory import stand
from sidecar.core.policy import NO_POLICY, Budget, Policy, Quality, Threshold
from sidecar.core.types import Clocks, Feedback
from tests.unit.core.engines import MINI, NANO, NOW, SPEC, engine, facts, kinds, outcome, policy, promoted


def at(made: Engine) -> list[tuple[str, str, int]]:
    """Where the rollouts of its route are."""
    return [(one.arm, one.phase, one.step) for one in made.status()[0].rollouts]


def restarted(made: Engine, edited: Policy | None = None) -> Engine:
    """What another process makes of its snapshot and this policy."""
    again = Engine(made.policy if edited is None else edited, np.random.default_rng(1), NOW)
    again.restore(made.snapshot(), NOW)
    return again


def breach(made: Engine, arm: str, now: float) -> None:
    """Calls of `arm` that fail, as its route's thresholds see them."""
    state = made.routes[0]
    for when in (now, now + 1, now + 2):
        state.obey(state.thresholds.observe(arm, outcome("failed"), when), when)


def test_one_rollout_at_a_time_also_where_an_arm_came_before_it_in_a_restart() -> None:
    """The arm that is new to the policy waits for the one that is under way, and its start is told when it comes."""
    made, edited = engine(policy(arms=(MINI,))), policy(arms=(NANO, MINI))
    made.promote("support", NOW)
    again = restarted(made, edited)
    assert "rollout.started" not in kinds(again.tick(NOW))
    made.apply(edited, NOW)
    assert at(again) == at(made) == [("nano", "pending", 0), ("mini", "running", 25)]
    assert kinds(again.rollback("support", NOW)) == ["rollout.rolled_back"]
    assert kinds(again.tick(NOW)) == ["rollout.started"]


def test_one_rollout_at_a_time_also_where_a_route_returns_with_another_arm() -> None:
    made = engine(policy(arms=(MINI, NANO)))
    made.rollback("support", NOW)
    made.tick(NOW)
    made.apply(NO_POLICY, NOW)
    events = made.apply(policy(arms=(replace(MINI, model="other"), NANO)), NOW)
    assert kinds(events) == ["policy.applied", "rollout.evidence_lost"]
    assert at(made) == [("mini", "pending", 0), ("nano", "running", 5)]


def test_a_worker_ends_the_rest_that_its_leader_forgot() -> None:
    """An arm that rested, was taken out and came in again is in the pool of both."""
    made = promoted(policy(mode="optimize"))
    worker = Follower(made.policy, np.random.default_rng(1), NOW)
    staging = made.routes[0].staging
    staging.rest("mini", "held", "it fails", NOW)
    worker.follow(stand(made._ledger, made.routes, 1), NOW)
    assert worker.routes[0].staging.pool == staging.pool == ("gpt-4o",)
    made.rollback("support", NOW)
    made.start_rollout("support", "mini", NOW)
    while at(made)[0][1] == "running":
        made.promote("support", NOW)
    worker.follow(stand(made._ledger, made.routes, 1), NOW)
    assert worker.routes[0].staging.pool == staging.pool == ("gpt-4o", "mini")


def test_a_threshold_that_an_edit_leaves_alone_goes_on() -> None:
    """Another one beside it ends no diversion; what it says itself makes it a new one."""
    failing = Threshold("failing", "error_rate", 0.5, None, 60.0, "high", "route_to", "gpt-4o", 3)
    slow = Threshold("slow", "latency_p95", 2.0, None, 60.0, "low", "log")
    made = engine(policy(thresholds=(failing,)))
    for second in range(5):
        made.routes[0].thresholds.observe("mini", outcome("failed"), NOW + second)
    assert made.routes[0].thresholds.diversions == ("gpt-4o",)
    made.apply(policy(thresholds=(slow, failing)), NOW + 5)
    assert made.routes[0].thresholds.diversions == ("gpt-4o",)
    assert [one.samples for one in made.routes[0].thresholds.status(NOW + 5)] == [0, 5]
    made.apply(policy(thresholds=(slow, replace(failing, above=0.6))), NOW + 5)
    assert made.routes[0].thresholds.diversions == ()


@pytest.mark.parametrize("restarts", [False, True])
def test_a_rollout_that_is_complete_stays_so_behind_another_mode_and_an_edit_of_its_spec(restarts: bool) -> None:
    """canary -> observe -> canary with another spec, as behind the edit alone. Another model begins anew."""
    spec, other = replace(SPEC, min_requests=99), (replace(MINI, model="other"),)
    made = promoted(policy())
    made.apply(policy(mode="observe"), NOW)
    made = restarted(made) if restarts else made
    made.apply(policy(rollout=spec), NOW)
    assert at(made) == [("mini", "promoted", 100)]
    observing = policy(mode="observe", arms=other)
    made = restarted(made, observing) if restarts else made
    made.apply(observing, NOW)
    made.apply(policy(arms=other), NOW)
    assert at(made) == [("mini", "running", 5)]


def test_conversations_of_a_rollout_that_begins_anew_are_free_also_behind_another_mode() -> None:
    made = engine(policy())
    bound = next(key for key in range(1, 400) if made.decide(facts(key), NOW).arm == "mini")
    made.apply(policy(mode="observe"), NOW)
    made.apply(policy(rollout=replace(SPEC, steps=(1, 100))), NOW)
    assert at(made) == [("mini", "running", 1)]
    assert made.decide(facts(bound), NOW).reason != "sticky"


def test_a_budget_that_was_away_for_a_moment_knows_what_its_window_spent() -> None:
    bounded = policy(budget=Budget(window_nusd=1_000, window_s=600.0))
    made = engine(bounded)
    made.charge("support", 1_000, NOW)
    made.apply(policy(), NOW)
    made.apply(bounded, NOW)
    assert made.routes[0].ledger.left(NOW) == 0
    made.apply(policy(budget=Budget(window_nusd=1_000, window_s=60.0)), NOW)
    assert made.routes[0].ledger.left(NOW) == 1_000


def test_an_edit_of_the_spec_costs_no_labels_also_in_a_restart() -> None:
    """What people said of an arm is evidence for its next rollout too, as behind a reload."""
    quality = Quality(min_samples=3)
    made, edited = engine(policy(quality=quality)), policy(quality=quality, rollout=replace(SPEC, min_requests=99))
    for number in range(4):
        made.feedback(Feedback(decision_id=f"d{number}", route="support", arm="mini", score=1.0), NOW)
    again = restarted(made, edited)
    made.apply(edited, NOW)
    assert [one.routes[0].staging.rollouts["mini"].quality_labels for one in (made, again)] == [4, 4]


def test_a_threshold_takes_an_arm_out_again_that_is_started_again() -> None:
    """The breach that took it out first is over with the start; without a breach there is nothing to tell."""
    slow = Threshold("slow", "latency_p95", 2.0, None, 60.0, "critical", "rollback", "mini", 3)
    late = outcome(clocks=Clocks(sent_s=0.001, ttft_s=0.3, duration_s=9.0))
    made = engine(policy(thresholds=(slow, replace(slow, name="log", action="log"))))
    for start in (NOW, NOW + 10):
        told = []
        for second in range(3):
            state = made.routes[0]
            told += state.obey(state.thresholds.observe("mini", late, start + second), start + second)
        assert "rollout.rolled_back" in kinds(told)
        assert kinds(made.start_rollout("support", "mini", start + 5)) == ["rollout.started", "threshold.recovered"]
    made.rollback("support", NOW + 20)
    assert kinds(made.start_rollout("support", "mini", NOW + 20)) == ["rollout.started"]


def test_a_breach_of_a_model_is_none_of_the_next_one_under_its_name() -> None:
    slow = Threshold("slow", "latency_p95", 2.0, None, 60.0, "critical", "rollback", "mini", 3)
    late = outcome(clocks=Clocks(sent_s=0.001, ttft_s=0.3, duration_s=9.0))
    made = engine(policy(thresholds=(slow,)))
    for second in range(3):
        made.routes[0].thresholds.observe("mini", late, NOW + second)
    events = made.apply(policy(thresholds=(slow,), arms=(replace(MINI, model="other"),)), NOW + 3)
    assert kinds(events) == ["policy.applied", "threshold.recovered", "rollout.started"]
    assert made.routes[0].thresholds.status(NOW + 3)[0].samples == 0


@pytest.mark.parametrize("restarts", [False, True])
def test_a_breach_ends_where_an_edit_begins_the_rollout_again(restarts: bool) -> None:
    """The threshold sees the new attempt with fresh eyes, and takes the arm out once more."""
    failing = Threshold("failing", "error_rate", 0.5, None, 60.0, "critical", "rollback", "mini", 3)
    edit = policy(thresholds=(failing,), arms=(replace(MINI, model="x"),))
    made = engine(policy(thresholds=(failing,)))
    breach(made, "mini", NOW)
    assert at(made) == [("mini", "rolled_back", 0)]
    if restarts:
        made = restarted(made, edit)
    else:
        made.apply(edit, NOW)
    assert at(made) == [("mini", "running", 5)]
    breach(made, "mini", NOW + 3)
    assert at(made) == [("mini", "rolled_back", 0)]


def test_a_breach_ends_where_the_rollout_of_an_arm_begins_that_waited() -> None:
    """It served as a fallback before, and failed."""
    failing = Threshold("failing", "error_rate", 0.5, None, 60.0, "critical", "rollback", "nano", 3)
    made = engine(policy(thresholds=(failing,), arms=(MINI, NANO)))
    breach(made, "nano", NOW)
    made.rollback("support", NOW)
    assert kinds(made.tick(NOW + 3)) == ["rollout.started", "threshold.recovered"]
    breach(made, "nano", NOW + 4)
    assert at(made) == [("mini", "rolled_back", 0), ("nano", "rolled_back", 0)]


def test_what_comes_late_of_an_attempt_counts_in_no_other() -> None:
    """Calls that hung and labels of before: the arm was mended, rolled out again, and nothing is known of it yet."""
    made = engine(policy())
    asked = [facts(key) for key in range(1, 400)]
    first = [made.decide(one, NOW) for one in asked]
    made.rollback("support", NOW)
    made.start_rollout("support", "mini", NOW)
    for one, decision in zip(asked, first, strict=True):
        made.settle(one, decision, outcome("failed" if decision.arm == "mini" else "completed"), NOW + 1)
        made.feedback(
            Feedback(
                decision_id="d",
                route="support",
                arm=decision.arm or "",
                score=float(decision.arm != "mini"),
                context_key=one.key,
                rollout_id=decision.rollout_id,
                rollout_step=decision.rollout_step,
            ),
            NOW + 1,
        )
    rollout = made.status()[0].rollouts[0]
    assert (rollout.phase, rollout.attempt, rollout.canary_units, rollout.control_units) == ("running", 2, 0, 0)
    second = [made.decide(facts(key), NOW + 2) for key in range(400, 800)]
    assert {one.rollout_id for one in second} == {f"{first[0].rollout_id}.2"}
    for one, decision in zip(asked, second, strict=False):
        made.settle(one, decision, outcome(), NOW + 3)
    rollout = made.status()[0].rollouts[0]
    assert min(rollout.canary_units, rollout.control_units) > 0
