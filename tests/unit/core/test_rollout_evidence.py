"""What counts as evidence in a rollout: one number a unit, clients that leave, harm at a later turn, the brake at 100 %."""

import random  # noqa: TID251  # seeded below; ten times as fast as numpy for single draws
from dataclasses import replace

import pytest

from sidecar.core.policy import Guardrail, RolloutSpec
from sidecar.core.rollout import Phase
from sidecar.core.types import Clocks, Event, Outcome
from tests.unit.core.rollouts import ABORTED, BAD, GOOD, HANGING, REJECTED, SPEC, kinds, make


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
    keys = one.evidence._outcomes if what == "outcome" else one.evidence._labels
    assert len(keys) <= 16384
    assert 30000 - 8000 in keys


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
    """R14: at 5 %, within 15 canary units, in all of 40 runs. `gave_up` has a tenth of alpha at least: E must reach 500. The
    bet of ratio 10 begins with 0.22, a harm of the canary multiplies it by 6.9 and one of the control by 0.69; h harms
    against c of the control suffice when h ln 6.9 >= ln(500 / 0.22) + c ln 1.45: six against ten. First tokens are
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

    one_tab = pytest.approx(1.0)
    assert after(left(0.1)) == (one_tab, 0, None, 0)
    assert after(left(30.0), left(30.0)) == (one_tab, 0, 1.0, 1)
    assert after(answered(40.0)) == (one_tab, 1, 1.0, 1)
    assert after(left(30.0), answered(1.0)) == (one_tab, 1, 1.0, 1)


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


# -- the brake, and harm at a later turn


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
