"""The dollar ceilings that a matrix is replayed under, and the arms that the streams which change are about.

Seven ceilings on the mean cost of a request, log-spaced from the cheapest to the dearest model's mean cost. Three of
them have names. On the matrix of ParetoBandit's paper they are the paper's own: 2.3e-4, 6.6e-4, 1.9e-3 dollars.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.matrices import Floats, Matrix, hull

STEPS: Final = 7
NAMED: Final = {"tight": 2, "moderate": 3, "loose": 4}  # places among the seven
WORSE: Final = 0.95  # of the cheapest model's quality: what a model that drops falls to, so that nobody should use it


def ceilings(matrix: Matrix) -> list[float]:
    """The seven ceilings, dollars; none when every model is free."""
    costs = [cost for cost, _ in matrix.points if cost > 0]
    return np.geomspace(min(costs), max(costs), STEPS).tolist() if costs else []


def favourite(matrix: Matrix, ceiling_usd: float) -> int:
    """The model that the best static mix under the ceiling uses most, the cheapest one left out."""
    points = matrix.points
    cheapest = points.index(min(points))
    on_hull = [points.index(point) for point in hull(points)]
    inner = [arm for arm in on_hull if arm != cheapest]
    if not inner:  # the cheapest is the best: then the best of the others
        return max((arm for arm in range(len(points)) if arm != cheapest), key=lambda arm: points[arm][1])
    shares = _mix(np.array([points[arm][0] for arm in on_hull]), ceiling_usd)
    return max(inner, key=lambda arm: (shares[on_hull.index(arm)], -points[arm][0]))


def _mix(costs: Floats, ceiling: float) -> Floats:
    """The share of each point of a hull in the mix that costs `ceiling`: at most two are not 0."""
    shares = np.zeros(len(costs))
    right = int(np.searchsorted(costs, ceiling))
    if right == 0 or right == len(costs):
        shares[min(right, len(costs) - 1)] = 1.0
    else:
        part = (ceiling - costs[right - 1]) / (costs[right] - costs[right - 1])
        shares[right - 1], shares[right] = 1.0 - part, part
    return shares


def scaled(quality: Floats, factor: float, rng: np.random.Generator) -> Floats:
    """One model's scores made `factor` (0..1) times as good in the mean: graded ones are multiplied, of scores that
    are 0 or 1 that part stays."""
    if np.isin(quality, (0.0, 1.0)).all():
        return quality * (rng.random(len(quality)) < factor)
    return quality * factor


def cyclic(order: NDArray[np.intp], first: int, count: int) -> NDArray[np.intp]:
    """`count` prompts of an order from place `first` on; a matrix with fewer prompts begins again."""
    return np.take(order, np.arange(first, first + count), mode="wrap")
