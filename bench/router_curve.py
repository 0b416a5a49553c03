"""Rows 1 to 3: the curve of quality over cost that a sweep of the cost weight gives, and what can be read off it.

The utility is linear in cost, so a sweep that is geometric in (weight of cost / weight of quality) covers matrices
whose costs span three orders of magnitude. Exploration is in every point. The cheapest model is the curve's end point,
as in the reference figures; a mix of two points is what a share of requests under each weight gives.

    aiq             mean height of the curve's hull between the cheapest and the dearest model's cost; beside it the zero
                    router's, the best static mix of models
    saving_at_5...  the curve's cost at 95 % of the best model's quality against that model's; a seed whose curve does
                    not reach it saves nothing. Beside it the best static mix in hindsight
    apgr            two models: mean share of the quality gap that is recovered, over all shares of calls to the better
                    one (RouteLLM); chance gives .5
    curve_NN_*      the points themselves, in the report only; 00 is quality alone
    regret          quality lost against the best fixed model when only quality counts
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from bench.figures import Figure, mean_of, share_of
from bench.matrices import Matrix, Point, aiq, cost_at, quality_at, saving
from bench.replay import Told, replay
from bench.router_row import Family, Figures, Results, Values
from bench.tape import Tape

RATIOS: Final = tuple(float(ratio) for ratio in np.geomspace(1e-4, 30.0, 12))  # weight of cost / weight of quality
LOSS: Final = 0.05
QUALITY_ONLY: Final = "0"


def told(ratio: float) -> Told:
    """The two weights of a ratio; they add up to one."""
    return Told(quality_weight=1.0 / (1.0 + ratio), cost_weight=ratio / (1.0 + ratio))


def _settings(matrix: Matrix, wanted: frozenset[str]) -> dict[str, int]:
    plain = {"regret", "regret_worst", "regret_median", "oracle_quality"}
    ratios = () if wanted and wanted <= plain else RATIOS
    return {str(place): len(matrix.prompts) for place in range(len(ratios) + 1)}


def _run(tape: Tape, setting: str, seed: int) -> Values:
    """(mean cost, mean quality, share of the best model) of one stream."""
    trail = replay(tape, seed, told((0.0, *RATIOS)[int(setting)]))
    return (*trail.point, float((trail.arms == tape.matrix.best).mean()))


def _figures(matrix: Matrix, results: Results) -> Figures:
    best = matrix.points[matrix.best][1]
    oracle = mean_of([float(matrix.quality.max(axis=1).mean())], best)
    found = {"regret": mean_of(_regrets(matrix, results), 0.0), "oracle_quality": oracle}
    if len(results) == 1:
        return found
    curves = [[(cost, quality) for cost, quality, _ in seed] for seed in zip(*results.values(), strict=True)]
    found |= _read(matrix, curves) | _drawn(matrix, results)
    if len(matrix.models) == 2:
        shares = [[(share, quality) for _, quality, share in seed] for seed in zip(*results.values(), strict=True)]
        found["apgr"] = mean_of([_apgr(matrix, points) for points in shares], 0.5)
    return found


def _read(matrix: Matrix, curves: Sequence[list[Point]]) -> Figures:
    points = matrix.points
    low, high, cheapest = min(points)[0], max(points)[0], min(points)
    best_cost, best_quality = points[matrix.best]
    wanted = (1 - LOSS) * best_quality
    whole = [[*curve, cheapest] for curve in curves]
    reached = [cost_at(curve, wanted) for curve in whole]
    saved = [0.0 if cost is None else saving(cost, best_cost) for cost in reached]
    return {
        "aiq": mean_of([aiq(curve, low, high) for curve in whole], aiq(points, low, high)),
        "saving_at_5_percent_loss": mean_of(saved, hindsight_saving(matrix)),
        "seeds_that_reach_5_percent_loss": share_of(len(reached) - reached.count(None), len(reached), 1.0),
    }


def _drawn(matrix: Matrix, results: Results) -> Figures:
    """The points of the curve, for pictures: cost and quality at each weight, the static mix's quality at this cost."""
    found: Figures = {}
    for setting, seeds in results.items():
        costs, qualities, _ = zip(*seeds, strict=True)
        mix = quality_at(matrix.points, float(np.mean(costs)))
        found[f"curve_{int(setting):02}_cost_usd"] = mean_of(costs)
        found[f"curve_{int(setting):02}_quality"] = mean_of(qualities, mix)
    return found


def hindsight_saving(matrix: Matrix, loss: float = LOSS) -> float:
    """What the best static mix of models saves against the best one at this loss of quality (fractions)."""
    best_cost, best_quality = matrix.points[matrix.best]
    cost = cost_at(matrix.points, (1 - loss) * best_quality)
    assert cost is not None, "the best model itself reaches it"
    return saving(cost, best_cost)


def _apgr(matrix: Matrix, points: list[Point]) -> float:
    """Mean recovered gap over all shares of calls to the better model; `points` are (share, quality)."""
    weak, strong = sorted(quality for _, quality in matrix.points)
    if strong == weak:
        return 0.5
    return (aiq([*points, (0.0, weak)], 0.0, 1.0) - weak) / (strong - weak)


def _regrets(matrix: Matrix, results: Results) -> list[float]:
    best = matrix.points[matrix.best][1]
    return [1 - quality / best for _, quality, _ in results[QUALITY_ONLY]]


def _overall(matrices: Sequence[Matrix], results: Mapping[str, Results]) -> Figures:
    """The matrix with the largest regret, and the median over matrices (of each seed)."""
    regrets = {matrix.name: _regrets(matrix, results[matrix.name]) for matrix in matrices}
    worst = max(regrets, key=lambda name: float(np.mean(regrets[name])))
    middle: Figure = mean_of([float(np.median(seed)) for seed in zip(*regrets.values(), strict=True)], 0.0)
    return {"regret_worst": mean_of(regrets[worst], 0.0), "regret_median": middle}


FAMILY: Final = Family(
    "curve",
    (
        "aiq",
        "saving_at_5_percent_loss",
        "seeds_that_reach_5_percent_loss",
        "apgr",
        "regret",
        "oracle_quality",
        "regret_worst",
        "regret_median",
        "curve_*",
    ),
    _settings,
    _run,
    _figures,
    _overall,
)
