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
what the next calls may cost on average. No exploration may cost more than the ceiling has left (`affordable`).

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
MOST_LOSS: Final = 1.5  # 1..3 times the loss, at any time: what was gained early is not spent all at once
MEMORY: Final = 8_192.0  # scores after which old ones fade: a promise is kept over about so many, not over a lifetime
CATCH_UP: Final = 1.02  # 1..1.5 times the ceiling; less never spends what was saved, more spends it in bursts
SAVED: Final = 64.0  # 16..1,024 calls' worth at most: what a price cut saved is not spent when it is over
CREDIT: Final = 3.0  # 1..64 calls that a ceiling on means lends at the beginning; fewer explore less, more overspend
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
        self.scores = max(0.0, self.scores + weight - counted)  # what is replaced may be forgotten: of before a restart
        self.total = min(self.scores, max(0.0, self.total + weight * score - counted * before))
        if self.scores > MEMORY:
            self.scores, self.total = self.scores / 2, self.total / 2

    def need(self, loss: float, baseline: float, variance: float, scores: float) -> float:
        """The mean score that the next calls have to bring; `scores` of the baseline are known, `variance` is that of one.

        Its standard error is the one that will hold at the end of the next `ahead`, when it counts.
        """
        ahead = max(AHEAD, self.scores)
        later = scores * (1.0 + ahead / max(self.scores, 1.0)) + 4.0
        margin = CAUTION * sqrt(variance / later)
        wanted = (1.0 - loss) * (baseline + margin)
        least = (1.0 - MOST_LOSS * loss) * (baseline + margin)
        return max(least, (wanted * (self.scores + ahead) - self.total) / ahead)


class Savings:
    """What a ceiling on the mean cost of a call has left, nano-dollars: a token bucket that each call fills by the
    ceiling."""

    __slots__ = ("nusd",)

    def __init__(self) -> None:
        self.nusd = 0.0

    def add(self, cost_nusd: float, ceiling_nusd: float, calls: int = 1) -> None:
        """Books one call, or what was paid beside calls (`calls` 0)."""
        self.nusd = min(SAVED * ceiling_nusd, self.nusd + calls * ceiling_nusd - cost_nusd)

    def allowance(self, ceiling_nusd: float) -> float:
        """What the next calls may cost on average: what was overspent is made up for within AHEAD calls, what was saved
        is spent at CATCH_UP times the ceiling."""
        return min(CATCH_UP * ceiling_nusd, max(0.0, ceiling_nusd + self.nusd / AHEAD))

    def balance(self, ceiling_nusd: float, reserved_nusd: float) -> float:
        """What the next call may cost at most: what is left, with a little credit."""
        return self.nusd + CREDIT * ceiling_nusd - reserved_nusd


def chosen(draws: Floats, load: Floats) -> NDArray[np.intp]:
    """The arm of each request, (B,), at a load of (K,) and one draw of scores a request, (B, K)."""
    return np.asarray((draws - load).argmax(axis=1))


def quality_price(draws: Floats, means: Floats, load: Floats, need: float, limit: float) -> float:
    """The largest price in [0, limit] at which what the draws choose brings at least `need`; 0 when none does."""
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
