"""The engine over time: policies that change, snapshots that come back."""

from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.engine import MAX_ABSENT, Engine
from sidecar.core.policy import (
    NO_POLICY,
    Budget,
    Policy,
)
from sidecar.core.types import Decision, Feedback
from sidecar.errors import RolloutError
from tests.unit.core.engines import MINI, NANO, NOW, SPEC, engine, facts, kinds, outcome, policy, promoted

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


@pytest.mark.parametrize("mode", ["canary", "optimize"])
def test_a_rollout_that_was_rolled_back_stays_so_behind_an_edit_of_its_spec(mode: str) -> None:
    """At once and after a restart, with why; a person starts it as the policy is now. Another model begins anew."""
    spec = replace(SPEC, steps=(50, 100))
    made, edited = engine(policy(mode=mode)), policy(mode=mode, rollout=spec)
    made.rollback("support", NOW)
    later = engine(edited)
    later.restore(made.snapshot(), NOW)
    assert kinds(made.apply(edited, NOW)) == ["policy.applied"]
    for one in (made, later):
        assert at(one) == [("rolled_back", 0)]
        assert one.status()[0].rollouts[0].cause == "by hand"
    other = engine(policy(mode=mode, rollout=spec, arms=(replace(MINI, model="other"),)))
    other.restore(made.snapshot(), NOW)
    assert at(other) == [("running", 50)]
    made.start_rollout("support", "mini", NOW)
    assert at(restarted(made)) == at(made) == [("running", 50)]


@pytest.mark.parametrize("mode", ["canary", "optimize"])
def test_a_rollout_that_is_complete_stays_so_behind_an_edit_of_its_spec(mode: str) -> None:
    """At once and after a restart; taken out by hand it stays out. Another model begins anew all the same."""
    spec = replace(SPEC, interval_s=99.0, steps=(50, 100))
    made, edited = promoted(policy(mode=mode)), policy(mode=mode, rollout=spec)
    made.apply(edited, NOW)
    assert at(restarted(made)) == at(made) == [("promoted", 100)]
    other = engine(policy(mode=mode, rollout=spec, arms=(replace(MINI, model="other"),)))
    other.restore(made.snapshot(), NOW)
    assert at(other) == [("running", 50)]
    made.rollback("support", NOW)
    assert at(restarted(made)) == at(made) == [("rolled_back", 0)]
    made.start_rollout("support", "mini", NOW)
    assert at(restarted(made)) == at(made) == [("running", 50)]


def restarted(made: Engine) -> Engine:
    """What another process makes of its policy and its snapshot."""
    again = engine(made.policy)
    again.restore(made.snapshot(), NOW)
    return again


def at(made: Engine) -> list[tuple[str, int]]:
    """Where the rollouts of its route are."""
    return [(one.phase, one.step) for one in made.status()[0].rollouts]


def test_snapshot_round_trip() -> None:
    """A restart keeps beliefs, rollouts, spending and conversations: the restored engine has the same snapshot, its
    conversations stay where they were, and two that were restored alike decide alike with the same generator."""
    limited = policy(mode="optimize", arms=(MINI, NANO), budget=Budget(daily_nusd=10**9))
    made = promoted(limited)
    for key in range(1, 120):
        made.settle(facts(key), made.decide(facts(key), NOW), outcome(), NOW)
        score = Feedback(decision_id=str(key), route="support", arm="mini", score=(key % 5) / 5)
        made.feedback(score, NOW)
    kept = made.snapshot()
    again, twin = _restarted(limited, kept), _restarted(limited, kept)
    left, right = orjson.loads(kept), orjson.loads(again.snapshot())
    for part in (left, right):  # prices are those of the requests of late, which a restart forgets
        del part["routes"]["support"]["prices"]
    assert (left["routes"], left["ledger"]) == (right["routes"], right["ledger"])
    for key in (3, 50):
        assert again.decide(facts(key), NOW).arm == made.decide(facts(key), NOW).arm
        assert twin.decide(facts(key), NOW).reason == "sticky"
    again._rng, twin._rng = np.random.default_rng(8), np.random.default_rng(8)
    for key in range(500, 540):
        assert again.decide(facts(key), NOW) == twin.decide(facts(key), NOW)


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
    "state",
    [
        *(b"", b"{", b"[]", b"{}", b'{"version": 2}', b'{"version": 0}'),
        *(b'{"version": 1}', b'{"version":1,"ledger":{"day":-1e300,"day_nusd":0,"month_nusd":0}}'),
    ],
)
def test_a_snapshot_that_cannot_be_read_is_named_and_changes_nothing(state: bytes) -> None:
    """A state of another version or a broken one costs what was learnt before, never the service."""
    made = engine(policy())
    made.settle(facts(1), made.decide(facts(1), NOW), outcome(), NOW)
    events = made.restore(state, NOW)
    assert {event.kind for event in events} - {"state.restored"} == {"state.ignored"}
    assert {event.severity for event in events if event.kind == "state.ignored"} == {"high"}
    assert made.status()[0].arms[0].exchanges == 1
    assert made.decide(facts(1), NOW).route == "support"


@settings(max_examples=30)
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


def test_a_snapshot_without_bindings_keeps_those_of_the_last_one_with_them() -> None:
    """New conversations wait for the next full snapshot; unbound ones never come back with an old list."""
    made = promoted(policy(mode="optimize"))
    before = orjson.loads(made.snapshot())["bindings"]
    assert made.decide(facts(1), NOW).arm is not None
    assert orjson.loads(made.snapshot(bindings=False))["bindings"] == before == []
    assert len(orjson.loads(made.snapshot())["bindings"]) == 1
    made.decide(facts(2), NOW)
    kept = orjson.loads(made.snapshot(bindings=False))["bindings"]
    assert sum(len(group[3]) for group in kept) == 1
    made.rollback("support", NOW)
    left = orjson.loads(made.snapshot(bindings=False))["bindings"]
    assert all(group[1] != "mini" for group in left)


def test_a_restart_keeps_what_the_promise_was_measured_on() -> None:
    """What was lost or gained before a restart is made up for after it. Older snapshots say nothing of it."""
    made = promoted(policy(mode="optimize"))
    for number in range(10):
        made.feedback(Feedback(decision_id=str(number), route="support", arm="mini", score=0.5), NOW)
    again = engine(policy(mode="optimize"))
    again.restore(made.snapshot(), NOW)
    promise = again._order[0].selector.promise
    assert (promise.scores, promise.total) == (10.0, 5.0)
    old = orjson.loads(made.snapshot())
    del old["routes"]["support"]["promise"]
    again.restore(orjson.dumps(old), NOW)
    assert again._order[0].selector.promise.scores == 0.0
