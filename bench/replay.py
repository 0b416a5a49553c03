"""One stream of a matrix's prompts through a new engine: decide, settle, feedback, nothing else."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from bench.matrices import Floats, Matrix, Point
from sidecar.core import bandit, reward, spend
from sidecar.core.engine import Engine
from sidecar.core.policy import Arm, FlatPrice, Match, Objective, Policy, Quality, RolloutSpec, Route, Upstream
from sidecar.core.types import Clocks, Facts, Feedback, Outcome, Usage

SECOND: Final = 1.0  # between two calls
TICK_EVERY: Final = 16  # calls
START: Final = 1_763_683_200.0  # midnight, so that a stream does not begin at the end of a day
ROUTE: Final = "bench"

HYPERPARAMETERS: Final = {
    "floor": bandit.FLOOR,
    "shut": bandit.SHUT,
    "evidence": bandit.EVIDENCE,
    "max_weight": bandit.MAX_WEIGHT,
    "cost_span": reward.COST_SPAN,
    "shrink": spend.SHRINK,
}


@dataclass(frozen=True, slots=True)
class Told:
    """What the policy asks of the engine."""

    cost_weight: float = 0.3
    max_quality_loss: float = 1.0


def replay(matrix: Matrix, seed: int, told: Told) -> Point:
    """(mean cost in dollars, mean quality) of the whole stream."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(matrix.prompts))
    engine = _engine(matrix, told, seed)
    places = {f"arm{at}": at for at in range(len(matrix.models))}
    cost = quality = 0.0
    now = START
    for number, prompt in enumerate(order.tolist()):
        now += SECOND
        facts = Facts(
            endpoint="chat",
            dialect="openai",
            path="/v1/chat/completions",
            model=f"model{matrix.best}",
            stream=False,
            key=0,
            draw=int(rng.integers(1 << 63)),
            tags={"task": matrix.tasks[prompt]},
            input_bytes=len(matrix.prompts[prompt]),
        )
        decision = engine.decide(facts, now)
        assert decision.arm is not None, "an optimize route always names one of its arms"
        arm = places[decision.arm]
        engine.settle(facts, decision, _outcome(matrix, prompt, arm), now)
        score = float(matrix.quality[prompt, arm])
        engine.feedback(Feedback(decision_id=str(number), route=ROUTE, arm=decision.arm, score=score), now)
        if number % TICK_EVERY == 0:
            engine.tick(now)
        cost += float(matrix.cost_usd[prompt, arm])
        quality += score
    return cost / len(order), quality / len(order)


def _outcome(matrix: Matrix, prompt: int, arm: int) -> Outcome:
    tokens = [matrix.input_tokens[prompt, arm], matrix.output_tokens[prompt, arm]]
    counts = [None if np.isnan(value) else int(value) for value in tokens]
    latency = matrix.latency_s[prompt, arm]
    return Outcome(
        kind="completed",
        status=200,
        clocks=Clocks(sent_s=0.0, duration_s=1.0 if np.isnan(latency) else float(latency)),
        usage=Usage(input_tokens=counts[0], output_tokens=counts[1]),
        usage_source="provider",
        cost_nusd=round(float(matrix.cost_usd[prompt, arm]) * 1e9),
        cost_kind="exact",
        finish="stop",
        empty=False,
    )


def _engine(matrix: Matrix, told: Told, seed: int) -> Engine:
    """An engine whose arms are all in from the first call: how they come in is the rollout's question, not the router's."""
    arms = [Arm(f"arm{at}", f"up{at}", f"model{at}") for at in range(len(matrix.models))]
    upstreams = {f"up{at}": _upstream(matrix, at) for at in range(len(arms))}
    baseline = arms.pop(matrix.best)
    objective = Objective(
        max_quality_loss=told.max_quality_loss,
        quality_weight=1.0 - told.cost_weight,
        cost_weight=told.cost_weight,
        latency_weight=0.0,
    )
    route = Route(
        ROUTE,
        Match(),
        "optimize",
        baseline,
        tuple(arms),
        objective=objective,
        sticky="request",
        rollout=RolloutSpec(steps=(100,)),
        quality=Quality(min_samples=0),
    )
    policy = Policy("bench", "bench", upstreams, (route,))
    engine = Engine(policy, np.random.default_rng([seed, 1]), START)
    for _ in arms:
        engine.tick(START)
        engine.promote(ROUTE, START)
    return engine


def _upstream(matrix: Matrix, arm: int) -> Upstream:
    """The arm's provider with its price: dollars per token in and out, fitted by least squares, never negative."""
    plain = Upstream(f"up{arm}", "openai", "https", "provider", 443)
    counts = np.stack([matrix.input_tokens[:, arm], matrix.output_tokens[:, arm]], axis=1)
    known = ~np.isnan(counts).any(axis=1)
    if not known.any():
        return plain  # no token counts: then costs are learnt as they come
    prices = _non_negative(counts[known], matrix.cost_usd[known, arm])
    femto = [max(1, round(float(price) * 1e15)) for price in prices]
    return replace(plain, price=FlatPrice(femto[0], femto[1]))


def _non_negative(counts: Floats, costs: Floats) -> Floats:
    """Least squares of two coefficients, with a negative one set to zero and the other fitted alone."""
    found: Floats = np.asarray(np.linalg.lstsq(counts, costs, rcond=None)[0], dtype=np.float64)
    for at in (0, 1):
        if found[at] < 0:
            other = 1 - at
            found[at] = 0.0
            column = counts[:, other]
            square = float(column @ column)
            found[other] = float(column @ costs) / square if square else 0.0
    return found
