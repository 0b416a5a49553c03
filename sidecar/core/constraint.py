"""What a promise of quality or money costs: prices at which the cheapest choice that keeps the promise is the best one.

**Principle.** Quality is a constraint, cost and latency are minimised inside it. With a price p on what is minimised,
an arm's worth is u = quality - p load: p = 0 takes the best arm, a large p the cheapest. The best mix under a
constraint is the best choice at ONE price (Lagrange; as in bandits with knapsacks: Badanidiyuru et al.,
arXiv:1305.2545; Agrawal and Devanur, arXiv:1402.5758). Fixed weights are a fixed price: they cannot keep a promise.

**Quality.** Told "at most a share `loss` below the baseline", find the largest p whose expected quality on the requests
of late (the posterior's means at the arms that its draws choose) is at least what the NEXT `ahead` scores have to bring,

    need = ((1 - loss) (B + CAUTION sd) (n + ahead) - sum of the n scores so far) / ahead,   ahead = max(AHEAD, n)

B is the baseline's expected score over the tasks as they are asked, sd its standard error. So what was gained early may
be spent and what was lost is made up for, and where little is known of the baseline the promise is kept with a margin.
This is solved anew after every few scores (model predictive control) and not followed by a gradient: a dual step has
to be tuned to the scale of costs, and lags.

**Money.** A ceiling on the mean cost of a call: the least price whose expected cost on the requests of late is at most
what the next `ahead` calls may cost on average. No exploration may cost more than the ceiling has left (`affordable`).

Pure functions of arrays; shapes: B requests of late, K arms, DRAWS in the order of the selector.
"""

from collections.abc import Callable
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CAUTION: Final = 1.6  # 0..3 standard errors; smaller breaks promises, larger saves less
AHEAD: Final = 64.0  # 16..512 scores; fewer make up for bad luck at once and overshoot, more break short promises
MEMORY: Final = 8_192.0  # scores after which old ones fade: a promise is kept over about so many, not over a lifetime
CREDIT: Final = 8.0  # 1..64 calls that a ceiling on means lends at the beginning; fewer explore less, more overspend
LEAST: Final = 1e-4  # of the largest price: below it is none
STEPS: Final = 14  # halvings on the logarithm: to 0.1 % of a price


class Promise:
    """The scores so far, against which the quality promise is measured."""

    __slots__ = ("scores", "total")

    def __init__(self) -> None:
        self.scores = 0.0
        self.total = 0.0

    def add(self, score: float, weight: float = 1.0, previous: tuple[float, float] | None = None) -> None:
        """Takes one score in [0, 1] in; `previous` (score, weight) is the one that it replaces."""
        before, counted = previous or (0.0, 0.0)
        self.scores += weight - counted
        self.total += weight * score - counted * before
        if self.scores > MEMORY:
            self.scores, self.total = self.scores / 2, self.total / 2

    def need(self, loss: float, baseline: float, sd: float) -> float:
        """The mean score that the next calls have to bring."""
        ahead = max(AHEAD, self.scores)
        wanted = (1.0 - loss) * (baseline + CAUTION * sd)
        return (wanted * (self.scores + ahead) - self.total) / ahead


class Spendings:
    """Calls and what they cost, against which a ceiling on the mean is measured. Nano-dollars."""

    __slots__ = ("calls", "cost_nusd")

    def __init__(self) -> None:
        self.calls = 0.0
        self.cost_nusd = 0.0

    def add(self, cost_nusd: float) -> None:
        self.calls += 1.0
        self.cost_nusd += cost_nusd
        if self.calls > MEMORY:
            self.calls, self.cost_nusd = self.calls / 2, self.cost_nusd / 2

    def allowance(self, ceiling_nusd: float) -> float:
        """What the next calls may cost on average."""
        ahead = max(AHEAD, self.calls)
        return (ceiling_nusd * (self.calls + ahead) - self.cost_nusd) / ahead

    def balance(self, ceiling_nusd: float, reserved_nusd: float) -> float:
        """What the next call may cost at most: what the ceiling has left, with a little credit."""
        return ceiling_nusd * (self.calls + CREDIT) - self.cost_nusd - reserved_nusd


def chosen(draws: Floats, load: Floats) -> NDArray[np.intp]:
    """The arm of each request, (B,), at a load of (K,) and one draw of scores a request, (B, K)."""
    return np.asarray((draws - load).argmax(axis=1))


def quality_price(draws: Floats, means: Floats, load: Floats, need: float, limit: float) -> float:
    """The largest price in [0, limit] whose expected quality is at least `need`; 0 when none is."""
    rows = np.arange(len(draws))

    def keeps(price: float) -> bool:
        return float(means[rows, chosen(draws, price * load)].mean()) >= need

    if keeps(limit):
        return limit
    return _bisected(keeps, LEAST * limit, limit) if keeps(LEAST * limit) else 0.0


def money_price(draws: Floats, load: Floats, cost: Floats, allowance: float, limit: float) -> float:
    """The least price on `cost` (K,), beside the load that is due anyway, with a mean cost of at most `allowance`;
    `limit` when none is small enough."""

    def exceeds(price: float) -> bool:
        return float(cost[chosen(draws, load + price * cost)].mean()) > allowance

    if not exceeds(0.0):
        return 0.0
    if exceeds(limit):
        return limit
    least = LEAST * limit
    return _bisected(exceeds, least, limit, upper=True) if exceeds(least) else least


def _bisected(holds: Callable[[float], bool], low: float, high: float, *, upper: bool = False) -> float:
    """Where `holds` ends between `low`, where it does, and `high`, where it does not: the last price on the wanted
    side."""
    for _ in range(STEPS):
        middle = sqrt(low * high)
        if holds(middle):
            low = middle
        else:
            high = middle
    return high if upper else low


def pareto_front(cost: Floats, quality: Floats) -> list[int]:
    """The arms (K,) that no other beats in both: dearest of them last."""
    order = np.lexsort((-quality, cost))
    front: list[int] = []
    best = -np.inf
    for arm in order.tolist():
        if quality[arm] > best:
            front.append(arm)
            best = quality[arm]
    return front
