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

from sidecar.core.guardrails import Sample
from sidecar.core.policy import Arm, Guardrail, Match, RolloutSpec, Route
from sidecar.core.rollout import TRANSITIONS, Phase, Rollout, position, rollout_id_of
from sidecar.core.types import Clocks, Event, Outcome
from sidecar.errors import RolloutError

SPEC = RolloutSpec(min_requests=50, interval_s=60.0, max_wait_s=3600.0)
GOOD = Outcome(kind="completed", status=200, clocks=Clocks(sent_s=0.1, duration_s=1.1), cost_nusd=1000)
BAD = Outcome(kind="failed", status=500, error="upstream_status", clocks=Clocks(duration_s=0.1))
REJECTED = Outcome(kind="failed", status=404, caller_fault=True, clocks=Clocks(duration_s=0.1))
FALLBACK = Outcome(kind="completed", status=200, served_arm="big", clocks=Clocks(duration_s=1.0))
ABORTED = Outcome(kind="aborted", clocks=Clocks(duration_s=0.1))
HANGING = Outcome(kind="aborted", clocks=Clocks(sent_s=0.1, duration_s=20.0))


def make(spec: RolloutSpec = SPEC, min_labels: int = 0, *, start: bool = True) -> Rollout:
    made = Rollout("0123456789abcdef", "support", "mini", spec, min_labels)
    if start:
        made.start(0.0)
    return made


def feed(one: Rollout, n: int, canary: Outcome = GOOD, control: Outcome = GOOD, now: float = 1.0) -> list[Event]:
    """n canary units and as many control units as a 50 % split gives; stops at the first event."""
    for _ in range(n):
        events = one.observe("control", control, now=now, step=50) + one.observe("canary", canary, now=now)
        if events:
            return events
    return []


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


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


def test_non_inferiority_must_be_shown_where_it_is_asked_for() -> None:
    """After 50 units the intervals are too wide for a margin of 5 %, after 1,500 they are not."""
    one = make(replace(SPEC, require="non_inferior", guardrails=(Guardrail("cost", ratio=1.2),)))
    feed(one, 50)
    assert one.tick(60.0) == []
    assert any("within 5.0% of the control" in reason for reason in one.blocked_by(60.0))
    feed(one, 1450)
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
        bad._guards[0].observe(Sample(failed=False), canary=False, share=0.5)
        bad._guards[0].observe(Sample(failed=True), canary=True, share=0.5)
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


def test_aborted_exchanges_and_later_requests_of_a_conversation_do_not_count() -> None:
    one = make()
    for _ in range(100):
        one.observe("canary", ABORTED, now=1.0)
        one.observe("canary", BAD, now=1.0, unit_key=7)
        one.observe("control", GOOD, now=1.0, unit_key=8)
    status = one.status(1.0)
    assert (status.canary_units, status.control_units, status.step_units) == (1, 1, 1)


def test_units_of_an_earlier_step_do_not_count_for_this_one() -> None:
    one = make()
    one.promote(0.0)
    one.observe("canary", GOOD, now=1.0, step=5)
    one.observe("canary", GOOD, now=1.0, step=25)
    assert (one.status(1.0).canary_units, one.status(1.0).step_units) == (2, 1)


@pytest.mark.parametrize("what", ["outcome", "label"])
def test_remembered_keys_are_bounded_and_recent_ones_are_known(what: str) -> None:
    """Between 8,192 and 16,384 keys are remembered, whatever comes."""
    one = make()
    for key in range(1, 30001):
        if what == "outcome":
            one.observe("control", GOOD, now=1.0, unit_key=key)
        else:
            one.label("control", 1.0, now=1.0, unit_key=key)
    keys = one._outcome_keys if what == "outcome" else one._label_keys
    assert len(keys.newer) + len(keys.older) <= 16384
    assert 30000 - 8000 in keys.newer | keys.older


# -- clients that leave


def left(seconds: float, *, ttft_s: float | None = None) -> Outcome:
    """The client of a stream closed it after so long."""
    return Outcome(kind="aborted", clocks=Clocks(sent_s=0.0, ttft_s=ttft_s, duration_s=seconds), stream=True)


def answered(ttft_s: float) -> Outcome:
    clocks = Clocks(sent_s=0.0, ttft_s=ttft_s, duration_s=ttft_s + 1.0)
    return Outcome(kind="completed", status=200, clocks=clocks, stream=True, finish="stop", cost_nusd=1000)


def seen_of(ttft_s: float, patience_s: float) -> Outcome:
    """What a call that would give its first token then comes to, when its client waits no longer than that."""
    return left(patience_s) if patience_s < ttft_s else answered(ttft_s)


def impatient(rng: random.Random) -> float:
    """Thirty of a hundred close their tab after 3 s on average, the others' SDK gives up after 60 s."""
    return rng.expovariate(1 / 3.0) if rng.random() < 0.3 else 60.0


@pytest.mark.parametrize("guardrails", [(), (Guardrail("ttft_p95", ratio=1.2),)], ids=["default", "ttft"])
def test_a_canary_that_hangs_is_taken_out(guardrails: tuple[Guardrail, ...]) -> None:
    """R14: at 5 %, within 15 canary units, in all of 40 runs. At most 4 guardrails share alpha = 2 %: E must reach 200. The
    bet of ratio 6 begins with 0.1875, a harm of the canary multiplies it by 4.8 and one of the control by 0.8; h harms
    against c of the control suffice when h ln 4.8 >= ln(200 / 0.1875) + c ln 1.25: six against ten. First tokens are
    log-normal about 1 s, so the patience is about 2.3 s: 83 % of the canary's clients wait longer than that, and less
    than 1 % of the control's. P(fewer than 6 of 15 wait) < 3e-5 for one run; the ten allow 300 control units 3 %."""
    rng = random.Random(11)
    for _ in range(40):
        one, canaries, events = make(replace(SPEC, guardrails=guardrails)), 0, list[Event]()
        while not events:
            if rng.random() < 0.05:
                canaries += 1
                events = one.observe("canary", left(impatient(rng)), now=1.0)
            else:
                events = one.observe("control", seen_of(rng.lognormvariate(0.0, 0.5), impatient(rng)), now=1.0)
            assert canaries <= 15
        assert kinds(events) == ["rollout.rolled_back"]
        assert "gave_up" in events[0].message or "ttft_p95" in events[0].message


@pytest.mark.parametrize("speed", [1.0, 0.7])
def test_clients_that_leave_do_not_take_an_equal_or_faster_canary_out(speed: float) -> None:
    """A/A, and a canary of 0.7 times the time: conversations of 1 to 4 calls, of which 40 % are closed after 1 s on
    average and three are told to be repeated at once when they are. 60 runs at alpha = 2 %: more than 6 rollbacks have
    a probability below 3e-4."""
    rng, out = random.Random(12), 0
    guardrails = (Guardrail("ttft_p95", ratio=1.2), Guardrail("latency_p95", ratio=1.2))
    for _ in range(60):
        one = make(replace(SPEC, steps=(25, 100), guardrails=guardrails))
        one._salt = rng.getrandbits(64)
        calls = [key for key in range(1, 201) for _ in range(rng.randint(1, 4))]
        rng.shuffle(calls)
        for key in calls:
            group = "canary" if one.includes(key) else "control"
            for _ in range(3):
                ttft_s = rng.lognormvariate(0.0, 0.8) * (speed if group == "canary" else 1.0)
                end = seen_of(ttft_s, rng.expovariate(1.0) if rng.random() < 0.4 else 60.0)
                one.observe(group, end, now=1.0, unit_key=key)  # type: ignore[arg-type]  # one of the two
                if end.kind != "aborted":
                    break
        out += one.phase is Phase.ROLLED_BACK
    assert out <= 6


def test_a_unit_gives_up_once_and_its_first_wait_is_its_number() -> None:
    """Twenty control answers of 1 s; then unit 7 of the canary closes a tab, waits in vain twice, and is answered late."""
    one = make(replace(SPEC, steps=(50, 100), guardrails=(Guardrail("ttft_p95", ratio=1.2),)))
    for key in range(101, 121):
        one.observe("control", answered(1.0), now=1.0, unit_key=key)

    def after(*outcomes: Outcome) -> tuple[float, int, float | None, int]:
        for outcome in outcomes:
            one.observe("canary", outcome, now=1.0, unit_key=7)
        guards = {guard.metric: guard for guard in one.status(1.0).guards}
        gave_up = guards["gave_up"]
        return guards["ttft_p95"].e_value, one.status(1.0).canary_units, gave_up.canary, gave_up.canary_n

    assert after(left(0.1)) == (1.0, 0, None, 0)
    assert after(left(30.0), left(30.0)) == (1.0, 0, 1.0, 1)
    assert after(answered(40.0)) == (1.0, 1, 1.0, 1)
    assert after(left(30.0), answered(1.0)) == (1.0, 1, 1.0, 1)


def test_a_unit_that_was_answered_may_wait_in_vain_later() -> None:
    one = make(replace(SPEC, steps=(50, 100)))
    for key in (7, 8):
        one.observe("canary", answered(1.0), now=1.0, unit_key=key)
    one.observe("canary", left(0.5), now=1.0, unit_key=8)
    for _ in range(3):
        one.observe("canary", left(30.0), now=1.0, unit_key=7)
    gave_up = one.status(1.0).guards[-1]
    assert (gave_up.metric, gave_up.canary, gave_up.canary_n) == ("gave_up", 0.5, 2)
    assert gave_up.e_value > 1.0


def test_a_unit_that_only_closed_a_tab_is_answered_later() -> None:
    one = make(replace(SPEC, steps=(50, 100)))
    for outcome in (left(0.1), left(0.2), answered(1.0)):
        one.observe("canary", outcome, now=1.0, unit_key=7)
    gave_up = one.status(1.0).guards[-1]
    assert (gave_up.canary, gave_up.canary_n, one.status(1.0).canary_units) == (0.0, 1, 1)


# -- strategies, verbs, restart


def test_blue_green_takes_all_and_settles_without_a_comparison() -> None:
    one = make(replace(SPEC, strategy="blue_green"))
    assert one.includes(2**64 - 1)
    for _ in range(50):
        one.observe("canary", GOOD, now=1.0)
    assert kinds(one.tick(60.0)) == ["rollout.promoted"]


@pytest.mark.parametrize("spec", [replace(SPEC, strategy="blue_green"), replace(SPEC, steps=(100,))])
@pytest.mark.parametrize(
    ("bad", "metric"),
    [(BAD, "error_rate"), (REJECTED, "rejections"), (HANGING, "gave_up")],
    ids=["error", "rejected", "hanging"],
)
def test_the_brake_stands_in_for_the_test_at_100_percent(spec: RolloutSpec, bad: Outcome, metric: str) -> None:
    """Five harms of five units are enough, four are not; there is nothing to compare with."""
    one = make(spec)
    assert [one.observe("canary", bad, now=1.0) for _ in range(4)] == [[], [], [], []]
    out = one.observe("canary", bad, now=1.0)
    assert kinds(out) == ["rollout.rolled_back"]
    assert metric in out[0].message
    assert (one.phase, one.step) == (Phase.ROLLED_BACK, 0)


def test_errors_below_the_brake_hold_a_rollout_at_100_percent() -> None:
    """One failure in ten is no outage and no promotion either, not even when the waiting is over; a person may."""
    one = make(replace(SPEC, strategy="blue_green", on_inconclusive="promote"))
    for n in range(60):
        assert one.observe("canary", BAD if n % 10 == 9 else GOOD, now=1.0) == []
    assert one.blocked_by(60.0) == ("error_rate is 0.1 at 100 %, limit 0.05",)
    assert one.tick(60.0) == []
    assert kinds(one.tick(3700.0)) == ["rollout.paused"]
    assert kinds(one.promote(3701.0)) == ["rollout.promoted"]


@pytest.mark.parametrize(("bad", "guard"), [(BAD, 0), (REJECTED, 1)])
def test_a_unit_that_breaks_at_a_later_turn_is_evidence_once(bad: Outcome, guard: int) -> None:
    """Forty conversations of each group begin well; those of the canary break at their second turn."""
    one = make(replace(SPEC, steps=(50, 100)))
    for key in range(1, 41):
        one.observe("canary", GOOD, now=1.0, unit_key=key)
        one.observe("control", GOOD, now=1.0, unit_key=100 + key)
    for _ in range(30):
        assert one.observe("canary", bad, now=2.0, unit_key=1) == []
    seen = one.status(2.0).guards[guard]
    assert (seen.canary_n, seen.canary, one.status(2.0).canary_units) == (40, 1 / 40, 40)
    events: list[Event] = []
    for key in range(2, 41):
        events = events or one.observe("canary", bad, now=3.0, unit_key=key)
    assert kinds(events) == ["rollout.rolled_back"]


def test_later_harms_do_not_roll_back_an_equal_arm() -> None:
    """A/A: conversations of 1 to 6 turns, each turn fails with 5 %. 100 runs at alpha = 2 %: more than 8 rollbacks
    have a probability below 3e-4."""
    rng = random.Random(7)
    out = 0
    for _ in range(100):
        one = make(replace(SPEC, steps=(25, 100)))
        one._salt = rng.getrandbits(64)
        turns = [key for key in range(1, 301) for _ in range(rng.randint(1, 6))]
        rng.shuffle(turns)
        for key in turns:
            end = BAD if rng.random() < 0.05 else GOOD
            one.observe("canary" if one.includes(key) else "control", end, now=1.0, unit_key=key)
        out += one.phase is Phase.ROLLED_BACK
    assert out <= 8


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


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: phases follow the table, the share is the step, a rollback is always open."""

    @initialize(on=st.sampled_from(["wait", "rollback", "promote"]), labels=st.sampled_from([0, 5]))
    def begin(self, on: str, labels: int) -> None:
        self.spec = replace(SPEC, min_requests=5, on_inconclusive=on)  # type: ignore[arg-type]  # a literal
        self.labels = labels
        self.one = make(self.spec, labels, start=False)
        self.now = 0.0

    @rule(group=st.sampled_from(["canary", "control"]), bad=st.booleans(), n=st.integers(1, 30))
    def units(self, group: str, bad: bool, n: int) -> None:
        for _ in range(n):
            self.one.observe(group, BAD if bad else GOOD, now=self.now)  # type: ignore[arg-type]  # a literal

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
        takes = {Phase.PENDING: {0}, Phase.ROLLED_BACK: {0}, Phase.PROMOTED: {100}}.get(one.phase, {5, 25, 50})
        assert one.step in takes
        bound = (one.step << 64) // 100
        assert all(one.includes(k) == (position(one._salt, k) < bound) for k in range(50))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
