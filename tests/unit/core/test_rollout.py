"""A rollout never exceeds its step, can always roll back, and goes up on evidence only."""

import json
import math
import random  # noqa: TID251  # seeded below; ten times as fast as numpy for single draws
import re
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.core.policy import Arm, Guardrail, Match, Route
from sidecar.core.rollout import TRANSITIONS, Phase, Rollout, position, rollout_id_of
from sidecar.core.types import Outcome
from sidecar.core.verdict import Sample
from sidecar.errors import RolloutError
from tests.unit.core.rollouts import ABORTED, BAD, FALLBACK, GOOD, HANGING, REJECTED, SPEC, feed, kinds, make

# -- who is in


@pytest.mark.parametrize("name", ["sequential", "multiples", "high bits", "random"])
@pytest.mark.parametrize("step", [1, 5, 25, 50])
def test_the_share_of_any_set_of_keys_is_the_step(name: str, step: int) -> None:
    """GW-54: 20,000 keys, share within 5 standard deviations of the step (p < 1e-6)."""
    rng = random.Random(1)
    keys = {
        "sequential": lambda i: i,
        "multiples": lambda i: i * 1000003 * 64,
        "high bits": lambda i: i << 44,
        "random": lambda _: rng.getrandbits(64),
    }[name]
    one = make(replace(SPEC, steps=(step, 100)))
    inside = sum(one.includes(keys(i)) for i in range(1, 20001))
    p = step / 100
    assert abs(inside - 20000 * p) < 5 * math.sqrt(20000 * p * (1 - p))


def test_a_key_that_is_in_stays_in_and_the_ends_are_exact() -> None:
    """GW-54: monotone over the steps, deterministic, nobody at 0 %, everybody at 100 %."""
    rng = random.Random(2)
    keys = [0, 2**64 - 1, *(rng.getrandbits(64) for _ in range(2000))]
    one, twin = make(start=False), make()
    assert not any(map(one.includes, keys))
    one.start(0.0)
    inside: set[int] = set()
    assert {k for k in keys if one.includes(k)} == {k for k in keys if twin.includes(k)}
    for _ in SPEC.steps:
        now_inside = {k for k in keys if one.includes(k)}
        assert inside < now_inside
        inside = now_inside
        if one.phase is Phase.RUNNING:
            one.promote(0.0)
    assert inside == set(keys)
    one.rollback(0.0)
    assert not any(map(one.includes, keys))


def test_two_rollouts_choose_independently_and_the_written_out_hash_is_the_named_one() -> None:
    """Of 20,000 keys 25 % x 25 % are in both: within 5 standard deviations."""
    first, second = (
        make(replace(SPEC, steps=(25, 100))),
        Rollout("other", "support", "mini", replace(SPEC, steps=(25,))),
    )
    second.start(0.0)
    both = sum(first.includes(k) and second.includes(k) for k in range(20000))
    assert abs(both - 1250) < 5 * math.sqrt(20000 * 0.0625 * 0.9375)
    salt = first._salt
    assert all(first.includes(k) == (position(salt, k) < (25 << 64) // 100) for k in range(2000))


def test_each_attempt_draws_anew() -> None:
    """Also behind a restart. Of those who were in, 25 % are in again: within 5 standard deviations."""
    one = make(replace(SPEC, steps=(25,)))
    first = [key for key in range(20000) if one.includes(key)]
    one.rollback(1.0)
    one.start(2.0)
    again = sum(map(one.includes, first))
    assert abs(again - len(first) / 4) < 5 * math.sqrt(len(first) * 0.1875)
    restored = make(replace(SPEC, steps=(25,)), start=False)
    restored.restore(one.to_state())
    assert sum(map(restored.includes, first)) == again


def test_the_id_comes_from_the_content_that_defines_the_rollout() -> None:
    base, arm = Arm("big", "up", "gpt-4o"), Arm("mini", "up", "gpt-4o-mini")
    route = Route("support", Match(), "canary", base, (arm,))
    first = rollout_id_of(route, arm, SPEC)
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert rollout_id_of(replace(route, virtual=("auto",)), arm, SPEC) == first
    assert rollout_id_of(route, replace(arm, model="gpt-5"), SPEC) != first
    assert rollout_id_of(route, arm, replace(SPEC, min_requests=1)) != first


# -- going up


def test_a_healthy_canary_goes_up_all_steps() -> None:
    """5 -> 25 -> 50 -> 100: each step needs its units and its time."""
    one, seen, now = make(), [], 0.0
    while one.phase is Phase.RUNNING:
        seen.append(one.step)
        assert one.tick(now) == []
        feed(one, 49, now=now)
        assert one.tick(now + 60) == []
        feed(one, 1, now=now)
        assert one.tick(now + 59) == []
        events = one.tick(now + 60)
        assert kinds(events) == (["rollout.promoted"] if one.step == 100 else ["rollout.step"])
        now += 60
    assert seen == [5, 25, 50]
    assert (one.phase, one.step, one.tick(now), one.observe("canary", BAD, now=now)) == (Phase.PROMOTED, 100, [], [])
    assert [one.is_fresh(now + s) for s in (59.0, 60.0)] == [True, False]
    assert "promoted to all traffic" in one.explain(now)


def test_steps_that_do_not_name_100_end_in_the_promotion_too() -> None:
    one = make(replace(SPEC, steps=(10,)))
    feed(one, 50)
    assert kinds(one.tick(60.0)) == ["rollout.promoted"]
    assert one.includes(2**64 - 1)


def test_no_quality_evidence_keeps_an_arm_at_its_first_step() -> None:
    """Neither evidence of other kinds nor max_wait with `promote` lets it up; labels do; each unit counts once."""
    one = make(replace(SPEC, on_inconclusive="promote"), min_labels=3)
    feed(one, 50)
    assert one.tick(60.0) == []
    assert "no quality evidence: 0 of 3 labels" in one.explain(60.0)
    assert kinds(one.tick(3600.0)) == ["rollout.paused"]
    one.resume(3600.0)
    for key in (1, 1, 2, 2, 3):
        one.label("canary", 1.0, now=3600.0, unit_key=key)
    one.label("control", 1.0, now=3600.0)
    assert one.quality_labels == 3
    assert kinds(one.tick(3660.0)) == ["rollout.step"]
    assert one.step == 25


def test_no_timeout_promotes_an_arm_that_fails_most_of_the_few_units_it_gets() -> None:
    """At 50 % seven failures are no verdict yet, and while its breaker is open there comes no eighth."""
    one = make(replace(SPEC, steps=(50, 100), on_inconclusive="promote"))
    for _ in range(7):
        assert one.observe("canary", BAD, now=1.0, step=50) == []
    for _ in range(7):
        one.observe("control", GOOD, now=1.0, step=50)
    assert kinds(one.tick(3600.0)) == ["rollout.paused"]


def test_non_inferiority_must_be_shown_where_it_is_asked_for() -> None:
    """At a margin of 5 % a pair of good units wins 0.039 nats at most, and ln(20) takes 78 of them: 50 units are too few."""
    one = make(replace(SPEC, require="non_inferior", guardrails=(Guardrail("cost", ratio=1.2),)))
    feed(one, 50)
    assert one.tick(60.0) == []
    assert any("within 5.0% of the control" in reason for reason in one.blocked_by(60.0))
    feed(one, 100)
    assert kinds(one.tick(60.0)) == ["rollout.step"]


def inconclusive(on: str) -> Rollout:
    """A canary with more errors than its limit allows, but too few for a verdict."""
    one = make(replace(SPEC, min_requests=30, on_inconclusive=on))  # type: ignore[arg-type]  # a literal of the policy
    feed(one, 47)
    for _ in range(3):
        assert one.observe("canary", BAD, now=1.0, step=50) == []
    return one


@pytest.mark.parametrize(
    ("on", "kind", "phase"),
    [
        ("wait", "rollout.paused", Phase.PAUSED),
        ("rollback", "rollout.rolled_back", Phase.ROLLED_BACK),
        ("promote", "rollout.step", Phase.RUNNING),
    ],
)
def test_what_is_inconclusive_waits_and_then_obeys_the_policy(on: str, kind: str, phase: Phase) -> None:
    one = inconclusive(on)
    assert one.tick(3599.0) == []
    assert one.status(3599.0).verdict == "inconclusive"
    assert any("error_rate is inconclusive" in reason for reason in one.blocked_by(3599.0))
    assert kinds(one.tick(3600.0)) == [kind]
    assert one.phase is phase


# -- going out


@pytest.mark.parametrize("bad", [BAD, REJECTED, FALLBACK], ids=["error", "rejected", "fallback"])
def test_a_canary_that_always_fails_is_rolled_back_at_once(bad: Outcome) -> None:
    """At 5 % after 100 good control units, five failures at most: errors, rejected calls, fallbacks that served."""
    one = make()
    for _ in range(100):
        one.observe("control", GOOD, now=1.0)
    failures, events = 0, []
    while not events:
        events = one.observe("canary", bad, now=2.0)
        failures += 1
        assert failures <= 5
    assert kinds(events) == ["rollout.rolled_back"]
    assert (one.phase, one.step, events[0].severity) == (Phase.ROLLED_BACK, 0, "critical")
    assert json.loads(json.dumps(events[0].detail))["phase"] == "rolled_back"
    assert "was rolled back" in one.explain(2.0)
    assert one.status(2.0).verdict == "fail"


def test_a_paused_canary_is_still_rolled_back() -> None:
    one = make()
    one.pause(1.0)
    assert one.includes(next(k for k in range(1000) if one.includes(k)))
    assert "paused at 5 %" in one.explain(1.0)
    assert kinds(feed(one, 40, canary=BAD)) == ["rollout.rolled_back"]


def test_harm_that_only_a_tick_can_see_rolls_back_too() -> None:
    """After a restart the evidence is read before the next unit comes."""
    one = make()
    state = one.to_state()
    bad = make()
    for _ in range(40):
        bad.evidence.guards[0].observe(Sample(failed=False), canary=False, share=0.5)
        bad.evidence.guards[0].observe(Sample(failed=True), canary=True, share=0.5)
    state["guards"] = bad.to_state()["guards"]
    one.restore(json.loads(json.dumps(state)))
    assert kinds(one.tick(1.0)) == ["rollout.rolled_back"]


def test_worse_inside_the_limit_is_no_rollback() -> None:
    """Errors doubled, limit 10x: E rejects, the limit is kept, the rollout goes on."""
    one, rng = make(replace(SPEC, guardrails=(Guardrail("error_rate", ratio=10.0),))), random.Random(1)
    for _ in range(8000):
        canary = rng.random() < 0.05
        bad = rng.random() < (0.6 if canary else 0.2)
        assert one.observe("canary" if canary else "control", BAD if bad else GOOD, now=1.0) == []
    errors = one.status(1.0).guards[0]
    assert errors.e_value > errors.needed
    assert errors.verdict == "pass"


# -- strategies, verbs, restart


def test_blue_green_takes_all_and_settles_without_a_comparison() -> None:
    one = make(replace(SPEC, strategy="blue_green"))
    assert one.includes(2**64 - 1)
    for _ in range(50):
        one.observe("canary", GOOD, now=1.0)
    assert kinds(one.tick(60.0)) == ["rollout.promoted"]


def test_a_shadow_takes_nothing_and_is_promoted_by_hand() -> None:
    one = make(replace(SPEC, strategy="shadow", on_inconclusive="promote"))
    assert not any(map(one.includes, range(1000)))
    for _ in range(50):
        one.observe("canary", GOOD, now=1.0)
    assert one.tick(60.0) == []
    assert kinds(one.tick(3600.0)) == ["rollout.paused"]
    assert kinds(one.promote(3601.0)) == ["rollout.promoted"]


def test_a_promotion_by_hand_says_what_was_missing() -> None:
    one = make(min_labels=5)
    (event,) = one.promote(1.0)
    assert "by hand, although 0 of 50 canary units" in event.message
    assert "labels" in event.message
    ready = make()
    feed(ready, 50)
    assert ready.promote(60.0)[0].message.endswith("by hand")
    assert "is about to go up" in (feed(ready, 50, now=61.0), ready.explain(120.0))[1]


@pytest.mark.parametrize(
    ("phase", "verb", "allowed"),
    [
        ("pending", "promote", "rollback, start"),
        ("pending", "pause", "rollback, start"),
        ("running", "start", "pause, promote, rollback"),
        ("running", "resume", "pause, promote, rollback"),
        ("rolled_back", "rollback", "start"),
    ],
)
def test_a_verb_that_is_not_allowed_says_what_is(phase: str, verb: str, allowed: str) -> None:
    one = make(start=phase != "pending")
    if phase == "rolled_back":
        one.rollback(0.0)
    with pytest.raises(RolloutError, match=f"cannot {verb} a rollout that is {phase}; allowed now: {allowed}$"):
        getattr(one, verb)(1.0)


def test_a_rolled_back_arm_can_be_started_again_without_its_old_evidence() -> None:
    one = make()
    feed(one, 40, canary=BAD)
    assert kinds(one.start(10.0)) == ["rollout.started"]
    status = one.status(10.0)
    assert (status.attempt, status.step, status.canary_units, status.verdict) == (2, 5, 0, "inconclusive")
    assert status.guards[0].e_value == 1.0
    feed(one, 50)
    assert one.status(80.0).verdict == "pass"


def test_a_restart_changes_nothing() -> None:
    """Status and what happens next are those of the rollout that was saved."""
    spec = replace(SPEC, guardrails=(Guardrail("ttft_p95", ratio=1.2), Guardrail("quality", loss=0.05)))
    one, again = make(spec), make(spec, start=False)
    feed(one, 50)
    assert "has not begun" in again.explain(0.0)
    assert again.restore(json.loads(json.dumps(one.to_state()))) == ()
    assert again.explain(50.0) == one.explain(50.0)
    assert [g.metric for g in again.status(50.0).guards] == [g.metric for g in one.status(50.0).guards]
    assert again.status(50.0).guards[0].e_value == pytest.approx(one.status(50.0).guards[0].e_value)
    assert kinds(again.tick(60.0)) == kinds(one.tick(60.0)) == ["rollout.step"]


def test_a_clock_that_was_set_back_makes_no_step_longer() -> None:
    """The step began by a clock that was a year ahead: its time counts from the restart on."""
    one, again = make(), make(start=False)
    feed(one, 50)
    again.restore({**json.loads(json.dumps(one.to_state())), "since": 3e7}, 5.0)
    assert again.tick(10.0) == []
    assert kinds(again.tick(65.0)) == ["rollout.step"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": 0}, "version 0"),
        ({"id": "x"}, "rollout x"),
        ({"phase": "lost"}, "cannot be read"),
        ({"units": [1]}, "cannot be read"),
        ({"guards": 3}, "cannot be read"),
        ({"step": 77}, "77 %"),
    ],
    ids=str,
)
def test_a_foreign_or_broken_state_is_refused_and_changes_nothing(change: dict[str, object], problem: str) -> None:
    one, state = make(start=False), make().to_state() | change
    with pytest.raises(RolloutError, match=problem):
        one.restore(state)
    assert (one.phase, one.step) == (Phase.PENDING, 0)


def test_guardrails_that_cannot_be_read_begin_anew() -> None:
    state = make().to_state()
    state["guards"] = {"error_rate": [1]}
    assert make(start=False).restore(state) == ("error_rate", "rejections", "gave_up")


STEPS_OF = {"canary": {5, 25, 50}, "blue_green": {100}, "shadow": {0}}


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: phases follow the table, the share is the step, a rollback is always open."""

    @initialize(
        strategy=st.sampled_from(sorted(STEPS_OF)), on=st.sampled_from(["wait", "rollback", "promote"]),
        labels=st.sampled_from([0, 5]),
    )  # fmt: skip
    def begin(self, strategy: str, on: str, labels: int) -> None:
        self.spec = replace(SPEC, min_requests=5, strategy=strategy, on_inconclusive=on)  # type: ignore[arg-type]  # literals
        self.labels = labels
        self.one = make(self.spec, labels, start=False)
        self.now = 0.0

    @rule(
        group=st.sampled_from(["canary", "control"]), end=st.sampled_from([GOOD, BAD, REJECTED, ABORTED, HANGING]),
        n=st.integers(1, 30), key=st.integers(0, 3),
    )  # fmt: skip
    def units(self, group: str, end: Outcome, n: int, key: int) -> None:
        before = self.one.step
        for _ in range(n):
            self.one.observe(group, end, now=self.now, unit_key=key)  # type: ignore[arg-type]  # a literal
        assert self.one.step <= before

    @rule(n=st.integers(1, 4))
    def labelled(self, n: int) -> None:
        for _ in range(n):
            self.one.label("canary", 0.9, now=self.now)

    @rule(seconds=st.sampled_from([0.0, 30.0, 61.0, 4000.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        before = self.one.step
        enough = self.one.quality_labels >= self.labels
        self.one.tick(self.now)
        assert enough or self.one.step <= before

    @rule(verb=st.sampled_from(["start", "promote", "pause", "resume", "rollback"]))
    def by_hand(self, verb: str) -> None:
        before = self.one.phase
        allowed = (before, verb) in TRANSITIONS
        try:
            getattr(self.one, verb)(self.now)
        except RolloutError:
            assert not allowed
            assert self.one.phase is before
        else:
            assert allowed
            if verb == "rollback":
                assert not any(map(self.one.includes, range(200)))

    @precondition(lambda self: self.one.phase is not Phase.ROLLED_BACK)
    @rule()
    def rollback_is_always_open(self) -> None:
        copy = make(self.spec, self.labels, start=False)
        copy.restore(json.loads(json.dumps(self.one.to_state())))
        copy.rollback(self.now)
        assert copy.step == 0

    @invariant()
    def the_share_is_the_step(self) -> None:
        if not hasattr(self, "one"):
            return
        one = self.one
        ends = {Phase.PENDING: {0}, Phase.ROLLED_BACK: {0}, Phase.PROMOTED: {100}}
        takes = ends.get(one.phase, STEPS_OF[self.spec.strategy])
        assert one.step in takes
        bound = (one.step << 64) // 100
        assert all(one.includes(k) == (position(one._salt, k) < bound) for k in range(50))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=25)
