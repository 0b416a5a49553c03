"""Budgets at the door of an experiment or a rollout: what is moved or left out does not bias the comparison."""

from dataclasses import replace

import pytest

from sidecar.core.engine import Engine
from sidecar.core.policy import Budget, ExperimentSpec, Variant
from sidecar.core.scale import FIRST
from sidecar.core.types import Decision
from tests.unit.core.engines import BASE, MINI, NOW, ROUTE, engine, facts, outcome, policy

VARIANTS = (Variant("dear", BASE.id), Variant("cheap", MINI.id))
SPEC = ExperimentSpec(VARIANTS, metric="cost", min_samples=1000, allocation="uniform")
AB = replace(ROUTE, mode="ab", rollout=None, experiment=SPEC)
# 300 bytes are 75 tokens. With 100 of output the dear arm reserves 1,000 nano-dollars, the cheap one 100.
BETWEEN = Budget(per_request_nusd=500)


def asked(made: Engine, count: int = 60, **changes: object) -> list[Decision]:
    return [made.decide(facts(key, key_source="session", **changes), NOW) for key in range(1, count)]


def units(made: Engine) -> list[int]:
    found = made.status()[0].experiment
    assert found is not None
    return [one.units for one in found.variants]


@pytest.mark.parametrize("on_exceeded", ["cheapest", "deny"])
def test_a_call_that_the_dearest_variant_could_not_serve_counts_for_none(on_exceeded: str) -> None:
    """The dear variant's calls are moved or refused; the cheap one's serve as drawn, and count no more than those."""
    made = engine(policy(AB, budget=replace(BETWEEN, on_exceeded=on_exceeded)))  # type: ignore[arg-type]  # one of two
    made.tick(NOW)
    decisions = asked(made)
    assert {one.reason for one in decisions} == {"budget", "sampled"}
    assert {one.rollout_id for one in decisions} == {None}
    moved = [one for one in decisions if one.reason == "budget"]
    assert moved
    assert {one.arm for one in moved} == ({"mini"} if on_exceeded == "cheapest" else {None})
    for key, decision in enumerate(decisions, 1):
        if decision.refusal is None:
            made.settle(facts(key, key_source="session"), decision, outcome(cost_nusd=90), NOW)
    assert units(made) == [0, 0]


@pytest.mark.parametrize("mode", ["canary", "optimize"])
def test_a_call_that_the_control_could_not_serve_counts_in_no_rollout(mode: str) -> None:
    """Else a cheap canary would keep the large calls that its control loses, and be slower for it."""
    made = engine(policy(arms=(MINI,), mode=mode, budget=BETWEEN))
    large = asked(made)
    assert {one.reason for one in large} == {"budget", "canary"}
    assert {one.rollout_id for one in large} == {None}
    small = asked(made, max_tokens=10)
    assert {one.arm for one in small} == {"gpt-4o", "mini"}
    assert None not in {one.rollout_id for one in small}


def test_calls_that_all_variants_can_serve_count() -> None:
    """With 10 tokens of output the dear arm reserves 280: it fits, and all is as without a budget."""
    made = engine(policy(AB, budget=BETWEEN))
    decisions = asked(made, max_tokens=10)
    assert {one.arm for one in decisions} == {"gpt-4o", "mini"}
    assert None not in {one.rollout_id for one in decisions}
    for key, decision in enumerate(decisions, 1):
        made.settle(facts(key, key_source="session"), decision, outcome(cost_nusd=90), NOW)
    assert sum(units(made)) == len(decisions) - FIRST
    assert min(units(made)) > 0
    assert made.status()[0].reserved_nusd == 0


def test_a_session_that_was_not_counted_once_may_count_later() -> None:
    """The binding is the same: only a call that could not be compared is left out."""
    made = engine(policy(AB, budget=BETWEEN))
    large, small = asked(made, 20), asked(made, 20, max_tokens=10)
    assert {one.rollout_id for one in large} == {None}
    assert None not in {one.rollout_id for one in small}
    assert {one.reason for one in small} == {"sticky"}
