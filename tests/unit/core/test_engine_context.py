"""What the choice knows besides the arm: stated priors, tasks, and where a conversation's prompt is cached."""

from dataclasses import replace

import numpy as np
import pytest
from msgspec.structs import replace as changed

from sidecar.core.cost import flat_card
from sidecar.core.policy import Arm, Context, FlatPrice, Objective, Quality, Upstream
from sidecar.core.spend import BYTES_PER_TOKEN, ArmSpend
from sidecar.core.types import Feedback
from tests.unit.core.engines import BASE, MINI, NOW, facts, outcome, policy, promoted

CACHING = FlatPrice(2_000_000, 8_000_000, cached_fusd=200_000)
ONE_BY_ONE = {"mode": "optimize", "sticky": "request", "quality": Quality((), min_samples=0)}


def test_a_stated_prior_is_what_is_expected_before_any_score() -> None:
    """An arm of which much is expected begins with the expected quality, one without a statement as an average one."""
    told = replace(MINI, prior=(0.95, 1_000.0))
    made = promoted(policy(arms=(told,), **ONE_BY_ONE))  # type: ignore[arg-type]  # fields of a route
    quality = {arm.id: arm.quality for arm in made.status()[0].arms}
    assert quality["mini"] == pytest.approx(0.95, abs=0.01)
    assert quality["gpt-4o"] == pytest.approx(0.6, abs=0.01)


def test_tasks_are_told_apart() -> None:
    """An arm that is good at one task and bad at the other gets the one: 200 scores of each say so."""
    made = promoted(policy(objective=Objective(max_quality_loss=0.05), **ONE_BY_ONE))  # type: ignore[arg-type]  # as above
    rng = np.random.default_rng(7)
    served: dict[str, list[str | None]] = {"sum": [], "prove": []}
    for number in range(1_600):
        task = ("sum", "prove")[number % 2]
        one = facts(0, draw=number, task=task)
        decision = made.decide(one, NOW + number)
        made.settle(one, decision, outcome(), NOW + number)
        good = 0.95 if decision.arm == "gpt-4o" or task == "sum" else 0.2
        score = float(rng.random() < good)
        arm = decision.arm or ""
        made.feedback(Feedback(decision_id=str(number), route="support", arm=arm, score=score, task=task), NOW + number)
        made.refresh(NOW + number)
        served[task].append(decision.arm)
    late = {task: arms[-300:].count("mini") / 300 for task, arms in served.items()}
    assert late["sum"] > 0.8
    assert late["prove"] < 0.2


def test_a_warm_cache_keeps_a_conversation_where_it_was() -> None:
    """GW-53: the lost cache of a switch has a price. Two equal arms: with `cache` a conversation's next call goes where its
    prompt is cached far more often than the even share; without it that makes no difference."""
    again = {cache: _again(Context(cache=cache)) for cache in (True, False)}
    assert again[True] > 0.75
    assert again[False] < 0.65


def _again(context: Context) -> float:
    twin = Arm("twin", "openai", "gpt-twin")
    made = policy(arms=(twin,), context=context, objective=Objective(max_quality_loss=1.0), **ONE_BY_ONE)  # type: ignore[arg-type]  # as above
    caching = Upstream("openai", "openai", "https", "o", 443, price=CACHING)
    ready = promoted(replace(made, upstreams={"openai": caching}))
    same = 0
    for key in range(1, 401):
        first = facts(key, input_bytes=30_000, stream=False)
        decision = ready.decide(first, NOW + key)
        ready.settle(first, decision, outcome(stream=False), NOW + key)
        later = ready.decide(changed(first, draw=key * 7_919, input_bytes=31_000), NOW + key)
        ready.settle(first, later, outcome(stream=False), NOW + key)
        ready.refresh(NOW + key)
        same += later.arm == decision.arm
    return same / 400


def test_keys_are_asked_for_where_the_cache_counts() -> None:
    plain = promoted(policy(**ONE_BY_ONE))  # type: ignore[arg-type]  # as above
    cached = promoted(policy(context=Context(cache=True), **ONE_BY_ONE))  # type: ignore[arg-type]  # as above
    assert (plain.wants.key, cached.wants.key) == (False, True)


def test_what_a_cached_prompt_saves() -> None:
    """The difference of the two prices for the bytes that are cached; nothing without a price."""
    spend = ArmSpend(flat_card(CACHING))
    assert spend.cached_nusd(3_000) == pytest.approx(1.8 * 3_000 / BYTES_PER_TOKEN)
    assert ArmSpend().cached_nusd(3_000) == 0.0
    assert BASE.prior is None
