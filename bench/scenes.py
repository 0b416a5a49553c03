"""What the pictures of docs/decisions.md show: short runs of the engine and its tests in a small invented world.

The world has three models with a price and a quality a task, so that its truth is known and no data is needed. Every
scene has a fixed seed and gives the same numbers each time.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from bench.matrices import Floats, Matrix, Point, hull
from bench.replay import ROUTE, Phase, Told, Trail, order, replay
from bench.tape import tape
from sidecar.core.engine import Engine
from sidecar.core.evaluation import Answer, Log, evaluate
from sidecar.core.learnt import restore
from sidecar.core.policy import Objective, Policy
from sidecar.core.rollout import position
from sidecar.core.route import PriceOf
from sidecar.core.selector import Selector
from sidecar.core.sequential import HarmTest

MODELS: Final = ("large", "medium", "small")
TASKS: Final = ("summary", "code")
QUALITY: Final = ((0.92, 0.90, 0.84), (0.88, 0.74, 0.45))  # task x model
COST_USD: Final = (0.0100, 0.0022, 0.0004)
ERROR: Final = 0.01  # of both arms of the canaries
ALPHA: Final = 0.02


def world(calls: int, seed: int = 7) -> Matrix:
    """A matrix of `calls` prompts; scores are 0 or 1, costs vary by a quarter."""
    rng = np.random.default_rng(seed)
    task = rng.integers(len(TASKS), size=calls)
    quality = (rng.random((calls, 3)) < np.array(QUALITY)[task]).astype(np.float64)
    size = rng.uniform(0.75, 1.25, (calls, 1))
    cost = size * np.array(COST_USD)
    tokens = np.rint(np.repeat(size * 1000, 3, axis=1))
    prompts = tuple(f"{TASKS[one]} {number}" for number, one in enumerate(task))
    latency = np.full((calls, 3), np.nan)
    return Matrix(
        "world", MODELS, tuple(TASKS[one] for one in task), prompts, quality, cost, tokens, tokens / 4, latency
    )


def running(values: Floats, width: int) -> list[Point]:
    """(call, mean of the last `width` values)."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return [(at, float((sums[at] - sums[max(0, at - width)]) / min(at, width))) for at in range(20, len(values) + 1)]


class Watched(Engine):
    """An engine that notes the price of its promise whenever it digests."""

    def __init__(self, policy: Policy, rng: np.random.Generator, now: float, price_of: PriceOf) -> None:
        super().__init__(policy, rng, now, price_of)
        self.prices: list[float] = []

    def refresh(self, now: float) -> None:
        """As the engine, then notes."""
        super().refresh(now)
        self.prices.append(self._order[0].selector.price)


@dataclass(frozen=True, slots=True)
class Belief:
    """Mean and standard deviation of what is believed of each model, and its calls so far."""

    mean: Floats
    sd: Floats
    calls: NDArray[np.intp]


def beliefs(calls: int) -> Belief:
    """What an engine that wants quality alone believes after so many calls."""
    engines: list[Engine] = []

    def make(policy: Policy, rng: np.random.Generator, now: float, price_of: PriceOf) -> Engine:
        engines.append(Engine(policy, rng, now, price_of))
        return engines[-1]

    matrix = world(2000)
    phase = Phase(order(matrix, 5)[:calls])
    trail = replay(tape(matrix), 5, Told(cost_weight=0.0), (phase,), make=make)
    kept = orjson.loads(engines[0].snapshot())["routes"][ROUTE]["beliefs"]
    selector = Selector([f"arm{place}" for place in range(len(MODELS))], Objective())
    for arm in selector.arms:
        restore(selector, arm, kept[arm])
    mean, variance = selector.quality()
    return Belief(mean, np.sqrt(variance), np.bincount(trail.arms, minlength=len(MODELS)))


@dataclass(frozen=True, slots=True)
class Promise:
    """One run that was told "at most 5 % quality loss", and what is possible."""

    matrix: Matrix
    trail: Trail
    prices: list[float]
    weighted: list[int]  # which model fixed weights take, as the cost's weight goes from 0 to 1


def promise(calls: int = 4000) -> Promise:
    """The run, and what the fixed weights of a reward choose in the same world."""
    matrix = world(calls)
    engines: list[Watched] = []

    def make(policy: Policy, rng: np.random.Generator, now: float, price_of: PriceOf) -> Engine:
        engines.append(Watched(policy, rng, now, price_of))
        return engines[-1]

    trail = replay(tape(matrix), 1, Told(max_quality_loss=0.05), make=make)
    cost, quality = (np.array(column) for column in zip(*matrix.points, strict=True))
    cheap = 1.0 - cost / cost.max()
    weighted = [int(((1 - weight) * quality + weight * cheap).argmax()) for weight in np.linspace(0, 1, 101)]
    return Promise(matrix, trail, engines[0].prices, weighted)


def static_mix(matrix: Matrix, quality: float) -> Point:
    """The cheapest random mix of models with that mean quality, known in hindsight only."""
    costs, qualities = zip(*hull(matrix.points), strict=True)
    return float(np.interp(quality, qualities, costs)), quality


def ceilings(calls: int = 2000) -> dict[float, list[Point]]:
    """Ceiling on the mean cost (dollars): cumulative mean cost over the ceiling, by call."""
    matrix = world(calls)
    found: dict[float, list[Point]] = {}
    for ceiling in (0.001, 0.003, 0.006):
        trail = replay(tape(matrix), 2, Told(cost_weight=0.0, ceiling_usd=ceiling))
        means = np.cumsum(trail.cost_usd) / np.arange(1, calls + 1) / ceiling
        found[ceiling] = [(at + 1, float(means[at])) for at in range(20, calls)]
    return found


def drop(third: int = 600) -> tuple[list[Point], int]:
    """Share of the large model in the last 50 calls, where it gets bad in the middle third; and the length of a third."""
    matrix = world(3 * third)
    bad = matrix.quality.copy()
    bad[:, 0] *= np.random.default_rng(9).random(len(bad)) < 0.55
    stream = order(matrix, 4)
    parts = [stream[at * third : (at + 1) * third] for at in range(3)]
    phases = (Phase(parts[0]), Phase(parts[1], quality=bad), Phase(parts[2]))
    trail = replay(tape(matrix), 4, Told(cost_weight=0.0), phases)
    return running((trail.arms == 0).astype(np.float64), 50), third


def places(keys: int = 120) -> list[float]:
    """Where the hash puts conversations, 0..1."""
    rng = np.random.default_rng(3)
    return [position(12345, int(key)) / 2**64 for key in rng.integers(1 << 63, size=keys)]


def peeking(runs: int = 1000, canary: int = 4000, share: float = 0.25) -> dict[str, list[Point]]:
    """Canaries that are equal to their control: share rolled back by the n-th canary call, looked at after each."""
    rng = np.random.default_rng(11)
    control = round(canary * (1 - share) / share)
    names = ("error rate above 2 %, after 20 calls", "z-test at 5 %, at each look", "e-process at 2 %")
    first = {name: np.full(runs, np.inf) for name in names}
    for run in range(runs):
        mine = rng.random(canary) < ERROR
        theirs = rng.random(control) < ERROR
        seen = np.arange(1, canary + 1)
        rate = np.cumsum(mine) / seen
        others = np.cumsum(theirs)[np.minimum((seen * control) // canary, control) - 1]
        base = others / ((seen * control) // canary)
        pooled = np.maximum((np.cumsum(mine) + others) / (seen / share), 1e-9)
        z = (rate - base) / np.sqrt(pooled * (1 - pooled) * (1 / seen + share / (1 - share) / seen))
        stops = {
            names[0]: (rate > 0.02) & (seen >= 20),
            names[1]: (z > 1.645) & (seen >= 20),
            names[2]: _wealth(mine, theirs, share) >= 1 / ALPHA,
        }
        for name, hit in stops.items():
            if hit.any():
                first[name][run] = int(hit.argmax()) + 1
    looks = range(20, canary + 1, 20)
    return {name: [(look, float((found <= look).mean())) for look in looks] for name, found in first.items()}


def _wealth(mine: NDArray[np.bool_], theirs: NDArray[np.bool_], share: float) -> Floats:
    """The harm test's e-value after each canary call; both groups' errors in the order in which they came."""
    pace = len(theirs) / len(mine)
    harms = [(float(at), True) for at in np.flatnonzero(mine)]
    harms += [(at / pace, False) for at in np.flatnonzero(theirs)]
    test, made, at = HarmTest(), np.ones(len(mine)), 0
    for when, canary in sorted(harms):
        made[at : int(when)] = test.e_value
        at = int(when)
        if canary:
            test.update_canary(1.0, share)
        else:
            test.update_control(1.0, share)
    made[at:] = test.e_value
    return made


def questions(calls: int = 3000) -> list[tuple[str, float, Answer]]:
    """Three policies asked of one log: their name, their true quality, and the log's answer."""
    rng = np.random.default_rng(2)
    task = rng.integers(2, size=calls)
    logging = np.array([[0.4, 0.4, 0.2], [0.7, 0.2, 0.1]])
    chosen = np.array([rng.choice(3, p=logging[one]) for one in task])
    truth = np.array(QUALITY)
    outcome = (rng.random(calls) < truth[task, chosen]).astype(np.float64)
    targets = {
        "all to large": np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
        "half to medium": np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]),
        "small for summaries": np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]),
    }
    found = []
    for name, target in targets.items():
        everywhere = np.ones((calls, 3), dtype=bool)
        log = Log(MODELS, chosen, logging[task, chosen], target[task], everywhere, task, np.arange(calls))
        answer = evaluate(log, outcome)
        assert isinstance(answer, Answer), answer
        found.append((name, float((target * truth).sum(axis=1).mean()), answer))
    return found
