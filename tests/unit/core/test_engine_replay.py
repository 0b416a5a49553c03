"""The same events with the same seed give the same decisions: what makes replay, restarts and these tests possible."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import asdict

from sidecar.core.engine import Engine
from sidecar.core.features import features
from sidecar.core.policy import Context, Guardrail, Objective, Policy, Threshold
from sidecar.core.types import Clocks, Features, Feedback, Outcome, Usage
from sidecar.errors import RolloutError
from tests.unit.core.engines import BASE, MINI, NANO, NOW, ROUTE, SPEC, UPSTREAMS, facts, promoted

SLOW = Threshold("slow", "latency_p95", 2.0, None, 60.0, "high", "route_to", "mini", 3)
KINDS = st.sampled_from(["completed", "failed", "aborted"])
EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("call"), st.integers(0, 9), st.sampled_from(["completed", "failed", "aborted"]), st.integers(1, 50)
        ),
        st.tuples(st.just("feedback"), st.integers(0, 30), st.floats(0, 1, width=16)),
        st.tuples(st.just("tick"), st.integers(1, 40)),
        st.tuples(st.just("refresh")),
        st.tuples(st.just("verb"), st.sampled_from(["promote", "rollback", "pause", "resume"])),
    ),
    max_size=60,
)


def policy(mode: str) -> Policy:
    rollout = replace(SPEC, guardrails=(Guardrail("error_rate", ratio=1.5),))
    route = replace(
        ROUTE, mode=mode, arms=(MINI, NANO), objective=Objective(max_quality_loss=0.05), rollout=rollout,
        context=Context(), thresholds=(SLOW,),
    )  # fmt: skip
    return Policy("bot", "v1", UPSTREAMS, (route,))


def text_of(number: int) -> Features | None:
    return features(f"words of {number % 4}") if number % 2 else None


def played(events: list[tuple[Any, ...]], mode: str, seed: int) -> list[object]:
    """Everything that an engine answers to these events; `draws` begins with all arms in, so that they are drawn from."""
    made = policy("optimize" if mode == "draws" else mode)
    engine = promoted(made, seed) if mode == "draws" else Engine(made, np.random.default_rng(seed), NOW)
    now, told = NOW, list[object]()
    served, scored = list[str | None](), dict[int, float]()
    for number, event in enumerate(events):
        match event:
            case ("call", key, kind, tenths):
                now += 0.1
                task = f"t{key % 3}"
                asked = facts(key, draw=number * 7919, tags={"task": task}, task=task, text=text_of(key))
                decision = engine.decide(asked, now)
                usage = Usage(input_tokens=100, output_tokens=tenths)
                clocks = Clocks(sent_s=0.0, ttft_s=0.1, duration_s=tenths / 10)
                outcome = Outcome(
                    kind=kind, status=200, clocks=clocks, stream=bool(key % 2), usage=usage, cost_nusd=tenths * 10,
                    finish="stop", empty=False,
                )  # fmt: skip
                told += [asdict(decision), to_builtins(engine.settle(asked, decision, outcome, now))]
                served.append(decision.arm)
            case ("feedback", number, score) if number < len(served) and served[number]:
                given_ = Feedback(
                    decision_id=str(number), route=ROUTE.name, arm=served[number] or "", score=score,
                    task=f"t{number % 3}", text=text_of(number), previous=scored.get(number),
                )  # fmt: skip
                scored[number] = score
                told += [to_builtins(one) for one in engine.feedback(given_, now)]
            case ("refresh",):
                engine.refresh(now)
            case ("tick", seconds):
                now += seconds
                told += [to_builtins(one) for one in engine.tick(now)]
            case ("verb", verb):
                try:
                    told += [to_builtins(one) for one in getattr(engine, verb)(ROUTE.name, now)]
                except RolloutError as error:
                    told.append(str(error))
    return [*told, engine.snapshot()]


@settings(max_examples=40)
@given(events=EVENTS, mode=st.sampled_from(["optimize", "canary", "draws"]), seed=st.integers(0, 3))
def test_equal_events_and_seeds_give_equal_decisions(events: list[tuple[Any, ...]], mode: str, seed: int) -> None:
    """Calls, outcomes, scores, ticks and verbs, in any order: a second engine answers the same, down to its snapshot."""
    assert played(events, mode, seed) == played(events, mode, seed)


def stream(calls: int) -> list[tuple[Any, ...]]:
    """Calls of which each third is scored, some of them anew, with refreshes and ticks in between."""
    events: list[tuple[Any, ...]] = []
    for at in range(calls):
        events.append(("call", 0, "failed" if at % 11 == 0 else "completed", 1 + at % 20))
        if at % 3 == 0:
            events += [("feedback", at, (at % 7) / 7), ("feedback", at, (at % 5) / 5)]
        if at % 4 == 0:
            events.append(("refresh",))
        if at % 50 == 0:
            events.append(("tick", 2))
    return events


@pytest.mark.parametrize("mode", ["optimize", "draws"])
def test_a_long_stream_with_feedback_refreshes_and_ticks_is_decided_the_same_again(mode: str) -> None:
    """300 calls with labels, texts and corrections: every decision with its draws and prices, every verdict and event,
    and the snapshot at the end."""
    first = played(stream(300), mode, 1)
    assert first == played(stream(300), mode, 1)
    reasons = [one["reason"] for one in first if isinstance(one, dict) and "propensity" in one]
    assert len(reasons) == 300
    assert ("sampled" in reasons) is (mode == "draws")


def test_another_seed_draws_otherwise() -> None:
    """The seed is the only chance: 200 calls of a route with all arms in are not drawn the same way twice."""
    assert BASE.id == policy("optimize").routes[0].baseline.id
    assert played(stream(200), "draws", 1) != played(stream(200), "draws", 2)
