"""Each guardrail compares its own metric, inside its limit, with alpha divided among them."""

import dataclasses
import json
import random  # noqa: TID251  # seeded below; ten times as fast as numpy for single draws

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.core.bounded_guard import PATIENCE_S, BoundedGuard, PatienceGuard
from sidecar.core.guardrails import guards_of, restore_guards
from sidecar.core.number_guard import NumberGuard
from sidecar.core.policy import Guardrail, RolloutSpec
from sidecar.core.types import Clocks, Outcome
from sidecar.core.verdict import MIN_UNITS, Guard, Sample, is_failure, sample_of


def run(guard: Guard, n: int, canary: Sample, control: Sample, share: float = 0.5) -> None:
    for _ in range(n):
        guard.observe(control, canary=False, share=share)
        guard.observe(canary, canary=True, share=share)


def test_what_an_outcome_teaches() -> None:
    """Waiting when aborted; rejection when the caller's fault; failure when a fallback served; else all it knows."""
    clocks = Clocks(sent_s=0.2, ttft_s=0.7, duration_s=1.2)
    done = Outcome(kind="completed", status=200, clocks=clocks, stream=True, cost_nusd=7)
    assert sample_of(Outcome(kind="aborted", clocks=clocks), 1.0) == Sample(left_s=1.0)
    left = sample_of(Outcome(kind="aborted", clocks=clocks, stream=True), 1.0)
    assert (left.ttft_s, left.left_s, left.stream) == (pytest.approx(0.5), 1.0, True)
    rejected = Outcome(kind="failed", caller_fault=True, clocks=clocks)
    assert sample_of(rejected, 1.0) == Sample(rejected=True, gave_up=False)
    failed = Sample(failed=True, rejected=False, gave_up=False)
    assert sample_of(Outcome(kind="failed", clocks=clocks), 1.0) == failed
    served = Outcome(kind="completed", served_arm="big", clocks=clocks)
    garbage = Outcome(kind="completed", error="bad_body", clocks=clocks)
    unfinished = Outcome(kind="completed", error="no_terminal", stream=True, clocks=clocks)
    for bad in (served, garbage, unfinished):
        assert sample_of(bad, 1.0) == failed
    assert not is_failure(served, "big")
    assert not is_failure(replace(unfinished, stream=False))
    assert sample_of(replace(unfinished, finish="stop"), 1.0).failed is False
    taught = sample_of(done, 0.9)
    assert (taught.failed, taught.stream, taught.cost_nusd, taught.validated) == (False, True, 7, 0.9)
    assert taught.ttft_s == pytest.approx(0.5)
    assert taught.latency_s == pytest.approx(1.0)
    plain = sample_of(Outcome(kind="completed", clocks=Clocks(duration_s=1.0)), None)
    assert (plain.ttft_s, plain.latency_s) == (None, 1.0)


def all_of(spec: RolloutSpec) -> tuple[Guard, ...]:
    patience, guards = guards_of(spec)
    assert patience is guards[-1]
    return guards


def test_alpha_is_divided_and_three_guardrails_are_always_there() -> None:
    """Bonferroni: the sum of the alphas is false_rollback; what nobody asked for has a quarter of a part."""
    assert [guard.metric for guard in all_of(RolloutSpec())] == ["error_rate", "rejections", "gave_up"]
    spec = RolloutSpec(
        false_rollback=0.03,
        guardrails=(
            Guardrail("error_rate", ratio=3.0),
            Guardrail("quality", loss=0.05),
            Guardrail("cost", loss=0.2),
            Guardrail("latency_p95"),
        ),
    )
    status = [guard.status() for guard in all_of(spec)]
    limits = {each.metric: each.limit for each in status}
    assert limits == {
        "error_rate": "3x", "rejections": "2x", "quality": "-5.0%", "cost": "1.2x", "latency_p95": "1x",
        "validated_quality": "-5.0%", "gave_up": "2x",
    }  # fmt: skip
    assert sum(1 / each.needed for each in status) == pytest.approx(0.03)
    parts = {each.metric: round(0.03 / 5.5 * each.needed, 6) for each in status}
    assert parts == dict.fromkeys(limits, 1.0) | {"rejections": 4.0, "gave_up": 4.0}
    pods = [guard.status().needed for guard in all_of(dataclasses.replace(spec, replicas=3))]
    assert pods == pytest.approx([3 * each.needed for each in status])


def test_gave_up_may_have_a_limit_or_be_off() -> None:
    """Asked for it has a full part; off it takes none, and its patience is known all the same."""
    asked = all_of(RolloutSpec(guardrails=(Guardrail("gave_up", ratio=3.0),)))
    assert (asked[-1].status().limit, asked[-1].status().needed) == ("3x", pytest.approx(2.25 / 0.02))
    patience, guards = guards_of(RolloutSpec(guardrails=(Guardrail("gave_up", off=True),)))
    assert [guard.metric for guard in guards] == ["error_rate", "rejections"]
    assert sum(1 / guard.status().needed for guard in guards) == pytest.approx(0.02)
    assert patience.exceeded(Sample(left_s=PATIENCE_S + 1))


@pytest.mark.parametrize("error", ["shed", "shutdown"])
def test_what_the_sidecar_refused_says_nothing_of_an_arm(error: str) -> None:
    clocks = Clocks(duration_s=10.0)
    assert sample_of(Outcome(kind="failed", status=503, error=error, clocks=clocks), 1.0) == Sample()


@pytest.mark.parametrize(
    ("metric", "bad", "good"),
    [
        ("error_rate", Sample(failed=True), Sample(failed=False)),
        ("rejections", Sample(rejected=True), Sample(rejected=False)),
        ("gave_up", Sample(gave_up=True), Sample(gave_up=False)),
    ],
)
def test_rates_fail_on_clear_harm_and_only_for_the_canary(metric: str, bad: Sample, good: Sample) -> None:
    worse, better = BoundedGuard(metric, 1.5, 0.01), BoundedGuard(metric, 1.5, 0.01)
    run(worse, 40, bad, good)
    run(better, 40, good, bad)
    run(worse, 5, Sample(), Sample())
    assert worse.fails()
    assert worse.status().verdict == "fail"
    assert (worse.status().canary, worse.status().control, worse.status().canary_n) == (1.0, 0.0, 40)
    assert not better.fails()
    assert better.status().verdict == "pass"
    assert not worse.not_inferior()


@pytest.mark.parametrize("metric", ["quality", "validated_quality"])
def test_quality_labels_and_validators_are_kept_apart(metric: str) -> None:
    """A loss of 20 % against -5 %: fails in its own guardrail, the other kind of score teaches nothing."""
    rng = random.Random(1)
    guard = BoundedGuard(metric, 0.95, 0.01)
    other = "validated" if metric == "quality" else "labelled"
    own = "labelled" if metric == "quality" else "validated"
    for _ in range(800):
        canary = rng.random() < 0.5
        score = float(rng.random() < (0.7 if canary else 0.9))
        guard.observe(Sample(**{own: score}), canary=canary, share=0.5)
        guard.observe(Sample(**{other: 0.0}), canary=canary, share=0.5)
    status = guard.status()
    assert guard.fails()
    assert status.canary == pytest.approx(0.7, abs=0.06)
    assert status.control == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize("metric", ["ttft_p95", "latency_p95", "cost"])
def test_numbers_fail_on_a_slower_or_dearer_canary(metric: str) -> None:
    """Half as much again at 25 %, log-normal, limit 1.2x."""
    rng = random.Random(2)
    guard, equal = NumberGuard(metric, 1.2, 0.004), NumberGuard(metric, 1.2, 0.004)
    for one, factor in ((guard, 1.5), (equal, 1.0)):
        for _ in range(3000):
            canary = rng.random() < 0.25
            value = rng.lognormvariate(0.0, 0.5) * (factor if canary else 1.0)
            seen = Sample(stream=True, ttft_s=value, latency_s=value, cost_nusd=round(value * 1e6))
            one.observe(seen, canary=canary, share=0.25)
            one.observe(Sample(), canary=canary, share=0.25)
    assert guard.fails()
    assert equal.status().verdict == "pass"
    assert equal.not_inferior()


@pytest.mark.parametrize("spread", [0.0, 0.008])
def test_a_number_that_all_calls_of_an_arm_share_is_compared(spread: float) -> None:
    """Ties: every control call costs 312,500 (or a bin's width about it), every canary call four times that."""
    rng = random.Random(4)
    guard, equal = NumberGuard("cost", 1.2, 0.005), NumberGuard("cost", 1.2, 0.005)
    for one, factor in ((guard, 4), (equal, 1)):
        for _ in range(160):
            canary = rng.random() < 0.25
            value = 312_500 * (1 + spread * rng.random()) * (factor if canary else 1)
            one.observe(Sample(cost_nusd=round(value)), canary=canary, share=0.25)
    assert guard.fails()
    assert equal.status().verdict == "pass"
    assert equal.status().e_value <= 1.0


def test_a_late_harm_changes_what_its_unit_counts_as() -> None:
    """Not how many units there are, and never to a rate above 1: a unit that is not counted may fail late too."""
    guard = BoundedGuard("error_rate", 1.5, 0.01, margin=0.05)
    run(guard, 2, Sample(failed=False), Sample(failed=False))
    late = Sample(failed=True, late=True)
    seen = []
    for _ in range(3):
        guard.observe(late, canary=True, share=0.5)
        seen.append((guard.status().canary, guard.status().canary_n))
    assert seen == [(0.5, 2), (1.0, 2), (1.0, 2)]
    assert guard.status().e_value > 1.0


def test_non_inferiority_is_shown_only_where_it_is_asked_for() -> None:
    """Equal rates of 0, margin 1 %: each pair wins at most 0.0075 nats, and ln(20) takes 400; without a margin never."""
    proves, counts = BoundedGuard("error_rate", 1.5, 0.01, margin=0.01), BoundedGuard("error_rate", 1.5, 0.01)
    for guard in (proves, counts):
        run(guard, 390, Sample(failed=False), Sample(failed=False))
    assert not proves.not_inferior()
    for guard in (proves, counts):
        run(guard, 60, Sample(failed=False), Sample(failed=False))
    assert proves.not_inferior()
    assert not counts.not_inferior()


def test_units_without_harm_may_be_counted_at_once() -> None:
    rng = random.Random(6)
    one, skips = (BoundedGuard("error_rate", 1.5, 0.01) for _ in range(2))
    for _ in range(60):
        for canary in (False, True):
            units = rng.randrange(50)
            for _ in range(units):
                one.observe(Sample(failed=False), canary=canary, share=0.5)
            skips.observe_harmless(units, canary=canary)
            for guard in (one, skips):
                guard.observe(Sample(failed=True), canary=canary, share=0.5)
    assert skips.status() == one.status()
    assert skips.to_state() == one.to_state()


@pytest.mark.parametrize(
    ("canary", "control", "limit", "verdict"),
    [
        ((0, 19), (0, 400), 1.5, "inconclusive"),  # too few units
        ((0, 20), (0, 20), 1.5, "pass"),
        ((3, 40), (1, 400), 1.5, "inconclusive"),  # beyond the limit, leaning to harm
        ((8, 40), (1, 400), 1.5, "fail"),
        ((8, 19), (0, 400), 1.5, "fail"),  # harm needs no number of units
        ((8, 40), (20, 400), 10.0, "pass"),  # evidence of harm inside the limit
        ((1, 100), (10, 100), 1.5, "pass"),
    ],
)
def test_each_verdict_has_its_rule(
    canary: tuple[int, int], control: tuple[int, int], limit: float, verdict: str
) -> None:
    """(failed, all) of each group at 25 %, the control first."""
    guard = BoundedGuard("error_rate", limit, 0.01)
    for group, (failed, units) in ((False, control), (True, canary)):
        for number in range(units):
            guard.observe(Sample(failed=number < failed), canary=group, share=0.25)
    assert guard.status().verdict == verdict
    assert guard.fails() is (verdict == "fail")


@given(
    ends=st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from([0.05, 0.5])), max_size=120),
    limit=st.sampled_from([1.0, 1.5, 4.0]),
)
def test_a_verdict_never_contradicts_its_own_numbers(ends: list[tuple[bool, bool, float]], limit: float) -> None:
    """Whatever came: fail needs both the evidence and the estimate, pass needs units and no leaning to harm, and E never
    exceeds what alpha asks for without a verdict that says so or an estimate inside the limit."""
    guard = BoundedGuard("error_rate", limit, 0.05)
    for canary, failed, share in ends:
        guard.observe(Sample(failed=failed), canary=canary, share=share)
    status = guard.status()
    known = status.canary is not None and status.control is not None
    beyond = known and (status.lately or status.canary > limit * status.control)
    assert (status.verdict == "fail") is (beyond and status.e_value >= status.needed)
    if status.verdict == "pass":
        assert min(status.canary_n, status.control_n) >= MIN_UNITS
        assert not beyond or status.e_value <= 1.0
    assert guard.fails() is (status.verdict == "fail")
    assert (status.canary_n, status.control_n) == (sum(c for c, _, _ in ends), sum(not c for c, _, _ in ends))


def test_streams_are_never_compared_with_the_rest() -> None:
    """GW-12: all canary calls are (slow) streams, all control calls are not: there is nothing to compare."""
    guard = NumberGuard("latency_p95", 1.2, 0.01)
    run(guard, 200, Sample(stream=True, latency_s=30.0), Sample(latency_s=0.1))
    assert not guard.fails()
    assert guard.status().verdict == "inconclusive"


def test_few_units_are_inconclusive() -> None:
    guard = BoundedGuard("error_rate", 1.5, 0.01)
    assert guard.status().verdict == "inconclusive"
    run(guard, 19, Sample(failed=False), Sample(failed=False))
    assert guard.status().verdict == "inconclusive"
    run(guard, 1, Sample(failed=False), Sample(failed=False))
    assert guard.status().verdict == "pass"


def test_evidence_without_exceeding_the_limit_passes() -> None:
    guard = BoundedGuard("error_rate", 10.0, 0.05)
    rng = random.Random(3)
    for _ in range(4000):
        canary = rng.random() < 0.5
        guard.observe(Sample(failed=rng.random() < (0.4 if canary else 0.1)), canary=canary, share=0.5)
    assert guard.status().e_value > guard.status().needed
    assert not guard.fails()


@pytest.mark.parametrize("require", ["no_harm", "non_inferior"])
def test_states_survive_json_and_broken_parts_begin_anew(require: str) -> None:
    spec = RolloutSpec(require=require, guardrails=(Guardrail("cost", ratio=1.2),))  # type: ignore[arg-type]  # a literal
    one, again = all_of(spec), all_of(spec)
    answered = Sample(failed=False, rejected=False, gave_up=False, cost_nusd=9, latency_s=2.0)
    for guard in one:
        run(guard, 60, answered, replace(answered, failed=True, cost_nusd=8))
    state = json.loads(json.dumps({guard.metric: guard.to_state() for guard in one}))
    assert restore_guards(again, state) == ()
    assert [g.status().canary_n for g in again] == [g.status().canary_n for g in one]
    assert [g.status().e_value for g in again] == pytest.approx([g.status().e_value for g in one])
    (patience,) = (guard for guard in again if isinstance(guard, PatienceGuard))
    assert patience.exceeded(Sample(left_s=2.1))
    assert not PatienceGuard(2.0, 0.01).exceeded(Sample(left_s=2.1))
    for metric in ("error_rate", "gave_up", "cost"):
        assert metric in restore_guards(again, state | {metric: state[metric][:-1]})
    assert [g.not_inferior() for g in again] == [g.not_inferior() for g in one]
    broken = {"error_rate": 5, "rejections": [1], "cost": [state["cost"][0], [1], [2]], "gave_up": state["error_rate"]}
    assert restore_guards(all_of(spec), broken) == ("error_rate", "rejections", "cost", "gave_up")


def test_a_guardrail_that_begins_anew_keeps_nothing_of_a_broken_state() -> None:
    """Neither evidence without its numbers nor numbers without their evidence."""
    spec = RolloutSpec(guardrails=(Guardrail("cost", ratio=1.2),))
    one, fresh = all_of(spec), {guard.metric: guard.to_state() for guard in all_of(spec)}
    answered = Sample(failed=False, rejected=False, gave_up=False, cost_nusd=9, latency_s=2.0)
    for guard in one:
        run(guard, 60, answered, replace(answered, failed=True, cost_nusd=8, gave_up=True))
    state = json.loads(json.dumps({guard.metric: guard.to_state() for guard in one}))
    for metric in ("cost", "gave_up"):
        for broken in (state[metric][:-1], [*state[metric][:-1], []], [*state[metric], [0.0]]):
            again = all_of(spec)
            assert restore_guards(again, state | {metric: broken}) == (metric,)
            assert {guard.metric: guard.to_state() for guard in again}[metric] == fresh[metric]


def waited(guard: Guard) -> None:
    """Twenty answers of the control after 1 to 20 s: cuts at about 10 and 19 s."""
    for seconds in range(1, 21):
        guard.observe(Sample(stream=True, ttft_s=seconds, latency_s=seconds, cost_nusd=1), canary=False, share=0.5)


@pytest.mark.parametrize("metric", ["ttft_p95", "latency_p95"])
def test_who_leaves_without_an_answer_has_waited_at_least_so_long(metric: str) -> None:
    """R14: a wait longer than any answer is harm, leaving early says nothing. E after 3 and 25 s, canary and control."""

    def after(left_s: float, *, canary: bool = True) -> tuple[float, int]:
        guard = NumberGuard(metric, 1.2, 0.01)
        waited(guard)
        guard.observe(Sample(stream=True, left_s=left_s), canary=canary, share=0.5)
        return guard.status().e_value, guard.status().canary_n + guard.status().control_n

    (none, n3), (most, n25) = after(3.0), after(25.0)
    assert none == pytest.approx(1.0)
    assert most > 1.5
    assert (n3, n25) == (20, 21)
    assert after(25.0, canary=False)[0] < 1.0


def test_a_wait_says_nothing_of_cost_or_of_calls_without_a_first_token() -> None:
    cost, ttft, early = (
        NumberGuard("cost", 1.2, 0.01),
        NumberGuard("ttft_p95", 1.2, 0.01),
        NumberGuard("ttft_p95", 1.2, 0.01),
    )
    waited(cost)
    waited(ttft)
    run(cost, 40, Sample(stream=True, left_s=60.0), Sample())
    run(ttft, 40, Sample(left_s=60.0), Sample())
    run(early, 40, Sample(stream=True, left_s=60.0), Sample())
    assert [guard.status().e_value for guard in (cost, ttft, early)] == [1.0, 1.0, 1.0]


def test_a_canary_that_hangs_breaks_its_limit_of_seconds() -> None:
    """No canary call ever gives a first token, but the 95th percentile of the waits is at least a minute."""
    guard = NumberGuard("ttft_p95", 1.2, 0.005)
    waited(guard)
    run(guard, 4, Sample(stream=True, left_s=60.0), Sample(stream=True, ttft_s=5.0), share=0.05)
    assert guard.fails()
    assert guard.status().canary == pytest.approx(60.0, rel=0.02)


def test_patience_is_what_the_control_needs_and_ten_seconds_until_that_is_known() -> None:
    """Streams and whole answers apart (GW-12); a stream that had begun to speak was not waited for in vain."""
    guard = PatienceGuard(2.0, 0.01)
    assert not guard.exceeded(Sample(stream=True, ttft_s=1.0))
    assert [guard.exceeded(Sample(stream=True, left_s=s)) for s in (PATIENCE_S, PATIENCE_S + 1)] == [False, True]
    waited(guard)
    assert [guard.exceeded(Sample(stream=True, left_s=s)) for s in (18.0, 21.0)] == [False, True]
    assert not guard.exceeded(Sample(stream=True, left_s=21.0, ttft_s=1.0))
    assert guard.exceeded(Sample(left_s=PATIENCE_S + 1))
    run(guard, 50, Sample(latency_s=90.0), Sample(latency_s=0.1))
    assert [guard.exceeded(Sample(left_s=s)) for s in (0.05, 0.5)] == [False, True]
