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

**The reference.** B prices the whole past, so it is measured without the discounts of the beliefs (`core.quality`): after
one false alarm about the baseline they would say that all scores so far were far above need, and that would be spent.
With asked_t the scores of all arms on task t, n_t and tot_t the number and sum of the baseline's own, n = sum of n_t,

    B = sum_t asked_t (tot_t + TASK_SCORES g) / (n_t + TASK_SCORES) / sum_t asked_t,   g = (sum_t tot_t + k m) / (n + k)

where m with the weight of k scores is what the model expects of the baseline before any. A true change is followed: an
alarm opens second books, and when the baseline's scores since then differ from all of them by more than PROVEN standard
errors on the same tasks (a stratified mean, as in Cochran, Biometrics 10, 1954; at PROOF scores, 2 PROOF, 4 PROOF,
...), those books are the promise's: what was owed and gained at the old level is over. A false alarm passes one look
with probability 2 (1 - Phi(PROVEN)) = 0.00006, and MEMORY has room for six. Until then B moves with the mean of all
scores: after a true fall too much is asked for, after a rise too little. Slow changes are followed as fast as MEMORY
fades.

The price is solved anew after every few scores (model predictive control) and not followed by a gradient: a dual step has
to be tuned to the scale of costs, and lags.

**Money.** A ceiling on the mean cost of a call: the least price whose expected cost on the requests of late is at most
what the next calls may cost on average. No exploration may cost more than the ceiling has left (`core.selector`).

Pure functions of arrays; shapes: B requests of late, K arms, DRAWS in the order of the selector.
"""

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sidecar.core.types import MOST_SUM

Floats = NDArray[np.float64]

CAUTION: Final = 1.6  # 0..3 standard errors; smaller breaks promises, larger saves less
AHEAD: Final = 64.0  # 16..512 scores; fewer make up for bad luck at once and overshoot, more break short promises
MOST_LOSS: Final = 1.5  # 1..3 times the loss, at any time: what was gained early is not spent all at once
MEMORY: Final = 8_192.0  # scores after which old ones fade: a promise is kept over about so many, not over a lifetime
TASK_SCORES: Final = 5.0  # 1..50, weight of the mean of all tasks in one; smaller chases luck in rare ones
PROOF: Final = 200.0  # 50..1,000 scores of the baseline since an alarm; fewer believe luck, more follow a change later
PROVEN: Final = 4.0  # 3..6 standard errors; smaller believes luck, larger overlooks small changes for longer
MAX_TASKS: Final = 256  # 16..4,096; fewer throw rare tasks together, more cost 24 bytes each in a snapshot
REST: Final = "(other tasks)"  # their common row
CATCH_UP: Final = 1.02  # 1..1.5 times the ceiling; less never spends what was saved, more spends it in bursts
SAVED: Final = 64.0  # 16..1,024 calls' worth at most: what a price cut saved is not spent when it is over
CREDIT: Final = 3.0  # 1..64 calls that a ceiling on means lends at the beginning; fewer explore less, more overspend
LEAST: Final = 1e-4  # of the largest price: below it is none
_ROUNDING: Final = 1e-6  # 0..1e-3, relative: sums of floats differ by less from what they should be
STEPS: Final = 14  # halvings on the logarithm: to 0.1 % of a price


class Promise:
    """The books of a promise of quality: the scores so far, and by task those of the baseline. Nothing in them is
    discounted but all at once."""

    __slots__ = ("_look", "later", "scores", "tasks", "total")

    def __init__(self) -> None:
        self.scores = 0.0
        self.total = 0.0
        self.tasks: dict[str, list[float]] = {}  # asked, the baseline's scores, their sum; the one seen last at the end
        self.later: Promise | None = None  # the books since the last alarm about the baseline
        self._look = PROOF  # scores of the baseline in `later` at which it is asked whether the alarm was true

    def add(
        self,
        score: float,
        weight: float = 1.0,
        previous: tuple[float, float] | None = None,
        *,
        task: str = "",
        baseline: bool = False,
    ) -> None:
        """Takes one score in [0, 1] in, of the baseline or another arm; `previous` (score, weight) is the one that it
        replaces."""
        if previous is None:
            self.scores += weight
            self.total += weight * score
            row = self._row(task)
            row[0] += weight
            if baseline:
                row[1] += weight
                row[2] += weight * score
        else:
            self._replace(score, weight, previous, task, baseline)
        if self.later is not None:
            self.later.add(score, weight, previous, task=task, baseline=baseline)
        if self.scores > MEMORY:
            self._halve()

    def _replace(self, score: float, weight: float, previous: tuple[float, float], task: str, baseline: bool) -> None:
        before, counted = previous
        count, total = weight - counted, weight * score - counted * before
        self.scores, self.total = _moved(self.scores, self.total, count, total)
        row = self._row(REST if task not in self.tasks and REST in self.tasks else task)
        row[0] = max(0.0, row[0] + count)
        if baseline:
            row[1:] = _moved(row[1], row[2], count, total)

    def _row(self, task: str) -> list[float]:
        """The task's row; it becomes the youngest. Beyond MAX_TASKS the oldest goes over to REST."""
        row = self.tasks.pop(task, None)
        if row is None:
            row = [0.0, 0.0, 0.0]
            if len(self.tasks) >= MAX_TASKS:
                rest = self.tasks.pop(REST, None) or self.tasks.pop(next(iter(self.tasks)))
                oldest = self.tasks.pop(next(iter(self.tasks)))
                self.tasks[REST] = [one + other for one, other in zip(rest, oldest, strict=True)]
        self.tasks[task] = row
        return row

    def _halve(self) -> None:
        self.scores, self.total = self.scores / 2, self.total / 2
        for row in self.tasks.values():
            row[:] = [number / 2 for number in row]
        if self.later is not None:
            self.later._halve()

    # ---- the reference

    def doubt(self) -> None:
        """The baseline seems to have changed: the scores from now on will say whether it has."""
        self.later, self._look = Promise(), PROOF

    def follow(self, variance: float) -> bool:
        """Whether the last alarm is proven by now; then what was before it is forgotten. `variance` is that of a score."""
        later = self.later
        if later is None or sum(row[1] for row in later.tasks.values()) < self._look:
            return False
        self._look *= 2
        apart = spread = 0.0
        for task, (_, count, total) in later.tasks.items():
            _, all_count, all_total = self.tasks.get(task, (0.0, 0.0, 0.0))
            if all_count > count:  # else nothing of before is known of it
                apart += total - count * all_total / all_count
                spread += count * (1.0 - count / all_count)
        if abs(apart) <= PROVEN * sqrt(variance * spread):
            return False
        self.scores, self.total, self.tasks, self.later = later.scores, later.total, later.tasks, None
        return True

    def reference(self, prior: float, prior_scores: float) -> tuple[float, float]:
        """The baseline's mean score over the tasks as they were asked, and how many scores of it are known. `prior` has
        the weight of `prior_scores` (above 0)."""
        asked, counts, totals = np.array(list(self.tasks.values()) or [[0.0, 0.0, 0.0]]).T
        known = float(counts.sum())
        pooled = (float(totals.sum()) + prior_scores * prior) / (known + prior_scores)
        if not asked.any():
            return pooled, known
        means = (totals + TASK_SCORES * pooled) / (counts + TASK_SCORES)
        return float(asked @ means / asked.sum()), known

    def measure(self, tasks: Mapping[str, Sequence[float]]) -> None:
        """Another baseline: begins with what is known of it, by task as in `tasks` of these books."""
        self.tasks, self.later = {task: list(row) for task, row in tasks.items()}, None

    # ---- over a restart

    def to_state(self) -> dict[str, object]:
        """JSON values, for `restore`."""
        later = None if self.later is None else self.later.to_state()
        return {"sums": [self.scores, self.total], "tasks": self.tasks, "later": later, "look": self._look}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what `to_state` gave.

        Raises ValueError, TypeError, KeyError or AttributeError when it cannot be read; it is then half filled.
        """
        self.scores, self.total = _sums(*state["sums"])
        self.tasks = {str(task): [_sums(asked, 0.0)[0], *_sums(*own)] for task, (asked, *own) in state["tasks"].items()}
        self._look, self.later = max(PROOF, float(state["look"])), None
        if state["later"] is not None:
            self.later = Promise()
            self.later.restore({**state["later"], "later": None})

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


def _moved(count: float, total: float, by: float, total_by: float) -> tuple[float, float]:
    """Weight and sum of scores after a change: what is replaced may be forgotten, of before a restart."""
    count = max(0.0, count + by)
    return count, min(count, max(0.0, total + total_by))


def _sums(count: float, total: float) -> tuple[float, float]:
    if not 0.0 <= total <= count * (1.0 + _ROUNDING) + _ROUNDING:
        raise ValueError(f"a sum of {total:g} of {count:g} scores")
    return float(count), float(total)


class Savings:
    """What a ceiling on the mean cost of a call has left, nano-dollars: a token bucket that each call fills by the
    ceiling."""

    __slots__ = ("nusd",)

    def __init__(self) -> None:
        self.nusd = 0.0

    def add(self, cost_nusd: float, ceiling_nusd: float, calls: int = 1) -> None:
        """Books one call, or what was paid beside calls (`calls` 0)."""
        self.nusd = max(-MOST_SUM, min(SAVED * ceiling_nusd, MOST_SUM, self.nusd + calls * ceiling_nusd - cost_nusd))

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
