"""Routes that a new policy replaces are gone with the old one: a process that reads its policy again for months keeps none.

A collection would not save them: what a busy process is made of is looked at once in a hundred million allocations.
"""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sidecar.config.policy import load_file, load_text
from sidecar.core.engine import Engine
from sidecar.core.following import Follower
from sidecar.core.leading import Leader
from sidecar.core.policy import Policy
from tests.unit.core.engines import NOW, facts, outcome

SHIPPED = sorted((Path(__file__).parents[3] / "policies").glob("*.yaml"))
WATCHED = """version: 1
upstreams: {own: {dialect: openai, base_url: "http://127.0.0.1:8000/v1", price: free}}
routes:
  - name: r
    mode: optimize
    baseline: {id: a, upstream: own, model: gpt-4o}
    arms: [{id: b, upstream: own, model: n}, {id: c, upstream: own, model: o}]
    budget: {daily_usd: 10}
    thresholds: [{name: t, metric: cost_per_request, above: 0.02, action: route_to, arm: b}]
    drift: {}
    anomalies: {}
    tuning: {max_tokens: {min: 100, max: 2000, start: 1000}}
rules: [{id: no, when: "change.kind == 'rollout.step'", action: deny}]
"""


@pytest.fixture(autouse=True)
def nothing_is_collected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def policies() -> list[Policy]:
    shipped = [load_file(file, {}).policy for file in SHIPPED]
    return [*shipped, load_text(WATCHED, Path("p.yaml"), {}).policy]


@pytest.mark.parametrize("kind", [Engine, Leader, Follower])
def test_replaced_routes_are_gone_at_once(kind: type[Engine]) -> None:
    """Whatever the policy has, and whatever happened: kept by no reference of their own, nor by the routes that follow."""
    for policy in policies():
        engine = kind(policy, np.random.default_rng(1), NOW)
        for at in range(20):
            now = NOW + 5.0 * at
            asked = facts(key=at % 3 + 1)
            engine.settle(asked, engine.decide(asked, now), outcome(), now)
            engine.tick(now)
        engine.snapshot()
        engine.status()
        former = [weakref.ref(state) for state in engine._order]
        engine.apply(policy, NOW + 200.0)
        assert [one() for one in former] == [None] * len(policy.routes), policy.routes
        former = [weakref.ref(state) for state in engine._order]
        engine.apply(Policy(policy.service, "none"), NOW + 201.0)
        assert [one() for one in former] == [None] * len(policy.routes), policy.routes
