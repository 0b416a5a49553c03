"""Which outcome of a unit counts, in which guardrail, and once."""

import json
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.bounded_guard import PATIENCE_S
from sidecar.core.evidence import REMEMBERED, Evidence, Keys, compared, total
from sidecar.core.guardrails import guards_of
from sidecar.core.policy import Guardrail, RolloutSpec
from sidecar.core.verdict import GuardStatus, Sample

GOOD = Sample(failed=False, rejected=False, gave_up=False, latency_s=1.0)
BAD = Sample(failed=True, rejected=False, gave_up=False)
REFUSED = Sample(rejected=True, gave_up=False)
DEAR = Sample(failed=False, rejected=False, gave_up=False, latency_s=1.0, cost_nusd=7_000, validated=0.5)
WAITED = Sample(left_s=PATIENCE_S + 1)


def counts(one: Evidence, metric: str) -> tuple[float | None, int]:
    status = next(status for status in one.statuses() if status.metric == metric)
    return status.canary, status.canary_n


def test_the_first_outcome_of_a_unit_counts_and_its_first_harm() -> None:
    one = Evidence(RolloutSpec())
    assert [one.observe("canary", each, 7, 0.5, current=True) for each in (GOOD, GOOD, BAD, BAD)] == [
        True, False, True, False,
    ]  # fmt: skip
    assert counts(one, "error_rate") == (1.0, 1)
    assert (one.canary_units, one.step_units, one.control_units) == (1, 1, 0)


def test_a_request_without_a_key_is_a_unit_of_its_own() -> None:
    one = Evidence(RolloutSpec())
    for _ in range(3):
        assert one.observe("control", GOOD, 0, 0.5, current=True)
    assert one.control_units == 3


def test_what_the_sidecar_refused_is_no_outcome() -> None:
    """The unit's first real outcome comes later and counts."""
    one = Evidence(RolloutSpec())
    assert not one.observe("canary", Sample(), 7, 0.5, current=True)
    assert one.canary_units == 0
    assert one.observe("canary", BAD, 7, 0.5, current=True)
    assert counts(one, "error_rate") == (1.0, 1)


@pytest.mark.parametrize("off", [False, True])
def test_a_wait_in_vain_counts_unless_it_is_off(off: bool) -> None:
    one = Evidence(RolloutSpec(guardrails=(Guardrail("gave_up", off=True),) if off else ()))
    assert one.exceeded(WAITED) is not off
    assert one.observe("canary", WAITED, 7, 0.5, current=True)
    assert not one.observe("canary", WAITED, 7, 0.5, current=True)
    assert ("gave_up" in [status.metric for status in one.statuses()]) is not off
    assert off or counts(one, "gave_up") == (1.0, 1)


def test_a_unit_that_is_used_stays_known() -> None:
    """Key 1 is asked for between all others; key 2 is not, and is forgotten."""
    keys = Keys()
    keys.has_or_adds(2)
    for key in range(10, 10 + 2 * REMEMBERED):
        keys.has_or_adds(1)
        assert not keys.has_or_adds(key)
    assert 1 in keys
    assert 2 not in keys
    assert len(keys) <= REMEMBERED


def test_one_label_a_unit() -> None:
    one = Evidence(RolloutSpec(guardrails=(Guardrail("quality", loss=0.05),)))
    assert one.label("canary", 0.5, 7, 0.5)
    assert not one.label("canary", 1.0, 7, 0.5)
    assert counts(one, "quality") == (0.5, 1)


def test_units_in_pairs_bet_on_numbers_only_upwards() -> None:
    """Of pairs, a quick canary value proves nothing; of units that were drawn it is worth something."""
    found = []
    for paired in (False, True):
        one = Evidence(RolloutSpec(guardrails=(Guardrail("latency_p95", ratio=1.2),)), paired=paired)
        for number in range(40):
            one.observe("control", Sample(failed=False, latency_s=1.0 + number * 7 % 10), 0, 0.05, current=True)
        before = one.statuses()[2].e_value
        one.observe("canary", Sample(failed=False, latency_s=0.1), 0, 0.05, current=True)
        found.append((one.statuses()[2].metric, one.statuses()[2].e_value / before))
    (name, drawn), (_, in_pairs) = found
    assert name == "latency_p95"
    assert drawn < 0.99
    assert in_pairs == pytest.approx(1.0)


def test_a_state_survives_json_and_a_broken_one_changes_nothing() -> None:
    one, again = Evidence(RolloutSpec()), Evidence(RolloutSpec())
    for key in range(1, 30):
        one.observe("canary" if key % 2 else "control", BAD if key % 3 else GOOD, key, 0.5, current=True)
    assert again.restore(json.loads(json.dumps(one.to_state()))) == ()
    assert again.statuses() == one.statuses()
    assert (again.canary_units, again.control_units, again.step_units) == (15, 14, 15)
    for broken in ({"units": [1], "guards": {}}, {"units": [1, 2, 3], "guards": 7}):
        with pytest.raises(ValueError, match="Expected"):
            again.restore(broken)
    assert again.canary_units == 15


def status(verdict: str, canary_n: int = 30) -> GuardStatus:
    return GuardStatus("m", "1x", None, 0.5, canary_n, 30, 2.0, 50.0, verdict)  # type: ignore[arg-type]  # a literal


def test_one_verdict_for_all() -> None:
    """One failure is one; a pass needs all that have something to compare, and at least one."""
    assert total((status("pass"), status("fail"))) == "fail"
    assert total((status("pass"), status("inconclusive"))) == "inconclusive"
    assert total((status("pass"), status("inconclusive", 0))) == "pass"
    assert total((status("pass", 0),)) == "inconclusive"
    assert compared(status("pass")) == "unknown against 0.5 (E = 2 of 50)"
    dear = replace(status("fail"), metric="cost", canary=35_060.0, control=545_700.0)
    assert compared(dear) == "3.506e-05 $ against 0.0005457 $ (E = 2 of 50)"
    assert compared(replace(dear, metric="ttft_p95", canary=0.25, control=2.0)) == "0.25 s against 2 s (E = 2 of 50)"


@pytest.mark.parametrize("require", ["no_harm", "non_inferior"])
@pytest.mark.parametrize("guardrails", [(), (Guardrail("cost", ratio=2.0), Guardrail("quality", loss=0.05))])
@given(units=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=120))
def test_units_without_harm_count_as_if_each_were_told_at_once(
    require: Literal["no_harm", "non_inferior"], guardrails: tuple[Guardrail, ...], units: list[tuple[bool, int]]
) -> None:
    """The verdict is looked at where the evidence says that it may be another one, and only there: what the guardrails say
    when each is told of each unit is never missed."""
    spec = RolloutSpec(guardrails=guardrails, require=require, false_rollback=0.5)
    one, naive = Evidence(spec), guards_of(spec)[1]
    fell = False
    for canary, what in units:
        sample = (BAD, REFUSED, GOOD, GOOD, GOOD, GOOD, GOOD, GOOD, GOOD, DEAR)[what] if canary else GOOD
        one.observe("canary" if canary else "control", sample, 0, 0.5, current=True)
        for guard in naive:
            guard.observe(sample, canary=canary, share=0.5)
        fell = any(guard.fails() for guard in naive)
        assert not fell or one.stirred
        assert (one.harm() is not None) is fell
    assert one.statuses() == tuple(guard.status() for guard in naive)
    assert one.to_state()["guards"] == {guard.metric: guard.to_state() for guard in naive}


def test_evidence_goes_on_over_a_restart_in_the_middle_of_units_without_harm() -> None:
    one, other = Evidence(RolloutSpec()), Evidence(RolloutSpec())
    for _ in range(9):
        one.observe("control", GOOD, 0, 0.5, current=True)
        one.observe("canary", BAD, 0, 0.5, current=True)
    one.observe("control", GOOD, 0, 0.5, current=True)
    other.observe("control", GOOD, 0, 0.5, current=True)
    other.restore(json.loads(json.dumps(one.to_state())))
    assert other.statuses() == one.statuses()
    assert other.stirred
    assert other.harm() == one.harm() is not None
