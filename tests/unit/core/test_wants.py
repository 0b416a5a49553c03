"""What requests are asked for: what some route of the policy wants, and nothing else."""

from dataclasses import replace
from typing import Any

import pytest

from sidecar.core.abilities import Capabilities
from sidecar.core.policy import Budget, Context, Match, Shadow
from sidecar.core.wants import Wants
from tests.unit.core.engines import MINI, NANO, ROUTE, engine, policy, rule

CHOOSING = {"chooses": True, "key": True, "task_tags": ("task",)}
BLIND = replace(NANO, id="blind", capabilities=Capabilities(images=False))


def test_without_routes_nothing_is_wanted() -> None:
    assert engine(replace(policy(), routes=())).wants == Wants()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, CHOOSING),
        ({"mode": "observe"}, {}),
        ({"sticky": "request"}, CHOOSING | {"key": False}),
        ({"context": Context("job", text=True)}, CHOOSING | {"task_tags": ("job",), "text": True}),
        ({"mode": "observe", "context": Context("job", text=True)}, {}),
        ({"budget": Budget(daily_nusd=1)}, CHOOSING | {"ceilings": True}),
        ({"mode": "observe", "budget": Budget(daily_nusd=1)}, {"ceilings": True}),
        ({"match": Match(tags={"team": "a"})}, CHOOSING | {"more_than_model": True}),
        ({"mode": "observe", "match": Match(paths=("/v1/chat/*",))}, {"more_than_model": True}),
        ({"arms": (BLIND,)}, CHOOSING | {"needs": True}),
        ({"mode": "observe", "arms": (BLIND,)}, {}),
        ({"mode": "observe", "arms": (BLIND,), "shadow": Shadow("blind")}, {"needs": True}),
    ],
)
def test_each_want_has_its_reason(changes: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert engine(policy(**changes)).wants == Wants(**wanted)


def test_rules_want_to_know_what_was_spent() -> None:
    observing = policy(replace(ROUTE, mode="observe"), rule("true"))
    assert engine(observing).wants == Wants(ceilings=True)


def test_one_route_is_enough_and_tags_keep_their_order() -> None:
    """A policy's wants are those of all its routes; the next policy's are its own."""
    first = replace(ROUTE, context=Context("job"))
    second = replace(ROUTE, name="other", arms=(MINI,), context=Context("step", text=True))
    third = replace(second, name="third")
    made = engine(replace(policy(), routes=(first, second, third)))
    assert made.wants == Wants(chooses=True, key=True, text=True, task_tags=("job", "step"))
    made.apply(policy(mode="observe"), 0.0)
    assert made.wants == Wants()
