"""Off-policy evaluation: what a log of decisions says of another policy, with intervals, and where it says nothing.

Model: n logged calls i with context x_i, the arm A_i that served, the probability p_i with which the logging policy chose
it, the values pi_i(a) with which the target policy would have chosen each arm there, and an outcome Y_i. With the weight
w_i = pi_i(A_i) / p_i

    IPS     V = 1/n sum w_i Y_i                              unbiased when every p_i is right and no arm had p = 0
    SNIPS   V = sum w_i Y_i / sum w_i                        slightly biased, stays within the range of what was seen
    DR      V = 1/n sum [ sum_a pi_i(a) q(a, x_i) + w_i (Y_i - q(A_i, x_i)) ]

where q is a direct model: means of arm x stratum, shrunk to the arm's mean, that to the mean of all (SHRINK calls each).
DR is unbiased when the p_i are right OR q is, and varies less than IPS where q tells arms apart. q is fitted on the other
folds (FOLDS, whole units together), so no call judges a model that has seen it.

**Intervals** are 95 %, normal, cluster-robust (sandwich) by unit: calls of one conversation share their arm and their
fate, so the residuals of each unit are added up before they are squared (Liang and Zeger), times G/(G-1) for G units.
SNIPS uses the delta method. ESS is Kish's, over units: (sum W_u)^2 / sum W_u^2, W_u the weights of the unit's calls.

**Refusals.** A log cannot speak of what never happened in it. `gaps` names target weight on arms that could not be chosen
(not eligible, or logged with p = 1 for another arm), and arms whose weights do not add up: E[w_i 1{A_i = a}] = E[pi_i(a)]
holds when the logged probabilities are true and the arm was always possible; a gap of GAP_Z standard errors says they are
not. `evaluate` refuses one outcome when fewer than MIN_ESS units are left in effect.

What it does not know: outcomes that are missing for a reason (labels must be missing at random given arm and stratum),
arms that act on each other, and what the target would have learnt from calls of its own.

References: Dudik, Langford, Li, arXiv:1103.4601 (DR); Swaminathan and Joachims, NIPS 2015 (SNIPS); Saito et al.,
arXiv:2008.07146 (Open Bandit Pipeline); Chernozhukov et al., arXiv:1608.00060 (cross-fitting); Liang and Zeger,
Biometrika 73, 1986; Kish, Survey Sampling, 1965.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

Z95: Final = 1.959963984540054  # two-sided 95 % of a normal
FOLDS: Final = 5  # 2..10; fewer fit q on less, more cost time
SHRINK: Final = 10.0  # 1..100 calls; fewer: q follows chance in thin strata, more: q is the same for all strata
MIN_ESS: Final = 100.0  # 30..1000 units; fewer: the normal interval is not to be trusted, more: refuses what is clear
MIN_ESS_SHARE: Final = 0.01  # 0.001..0.1 of the units; less: a few calls speak for all others
TOLERATED: Final = 0.005  # 0..0.05 of the target's weight may lie where the log is silent; more biases the answer
GAP_Z: Final = 4.0  # 3..6; smaller refuses true logs by chance (4: 1 in 16,000 for each arm), larger lets gaps pass
GAP_SHARE: Final = 0.02  # 0..0.1; a missing weight below it changes no verdict, however certain it is
MIN_EVENTS: Final = 10  # 5..50 values that differ from the usual one, before a normal interval is believed
CHECK_BLOCK: Final = 500  # 100..10,000 calls over which the logging policy's shares are taken to stand still


@dataclass(frozen=True, slots=True)
class Log:
    """n calls and K arms. `target` rows sum to at most 1; the rest lies on arms that the log does not know."""

    arms: tuple[str, ...]
    chosen: Counts  # (n,), 0..K-1
    propensity: Floats  # (n,), in (0, 1]
    target: Floats  # (n, K)
    possible: NDArray[np.bool_]  # (n, K): which arms the logging policy might have chosen
    stratum: Counts  # (n,), 0..: what the direct model may tell calls apart by
    unit: Counts  # (n,), 0..: calls of one unit share an assignment

    @property
    def weights(self) -> Floats:
        """The importance weight of each call."""
        made: Floats = self.target[np.arange(len(self.chosen)), self.chosen] / self.propensity
        return made

    def where(self, kept: NDArray[np.bool_]) -> "Log":
        """The calls that are kept."""
        return Log(
            self.arms,
            self.chosen[kept],
            self.propensity[kept],
            self.target[kept],
            self.possible[kept],
            self.stratum[kept],
            self.unit[kept],
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean per call with its 95 % interval."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether the interval contains `value`."""
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Answer:
    """What the log says of one outcome. `change` is DR minus logged, with the interval of the difference."""

    calls: int
    units: int
    ess: float
    logged: Estimate
    ips: Estimate
    snips: Estimate
    dr: Estimate
    change: Estimate


def gaps(log: Log) -> tuple[str, ...]:
    """Why this log cannot answer for this target at all, in words; empty when it can."""
    if not len(log.chosen):
        return ("no logged call was decided by chance",)
    told: list[str] = []
    outside = 1.0 - float(log.target.sum(axis=1).mean())
    if outside > TOLERATED:
        told.append(f"{outside:.1%} of the calls would go to arms that the log does not have")
    silent = np.where(log.possible, 0.0, log.target).mean(axis=0)
    seen = np.bincount(log.chosen, minlength=len(log.arms))
    shares = log.target.mean(axis=0)
    for at, arm in enumerate(log.arms):
        if shares[at] > TOLERATED and seen[at] == 0:
            told.append(f"arm {arm} would serve {shares[at]:.1%} of the calls and never served one in the log")
        elif silent[at] > TOLERATED:
            told.append(f"arm {arm} would serve {silent[at]:.1%} of the calls where the log could not choose it")
        elif (missing := _missing(log, at)) is not None:
            told.append(
                f"arm {arm}: its logged calls stand for {missing:.0%} of those that it would serve; it could not be "
                "chosen in part of the log, or the logged probabilities are not those that were used"
            )
    return tuple(told)


def _missing(log: Log, arm: int) -> float | None:
    """The part of the target's weight on `arm` that the log accounts for, when that differs beyond chance from all."""
    wanted = log.target[:, arm]
    found = np.where(log.chosen == arm, log.weights, 0.0)
    residual = found - wanted
    gap, share = float(residual.mean()), float(wanted.mean())
    error = _standard_error(residual - gap, log.unit)
    return None if abs(gap) <= max(GAP_Z * error, GAP_SHARE) else float(found.mean()) / share


def evaluate(log: Log, outcome: Floats) -> Answer | str:
    """The estimates of the mean of `outcome` ((n,), NaN where it is not known) under the target, or why there is none."""
    known = np.isfinite(outcome)
    part, values = log.where(known), outcome[known]
    units = len(np.unique(part.unit))
    if units < 2:
        return "no call of the log has a value"
    weights = part.weights
    ess = effective_size(weights, part.unit)
    if ess < max(MIN_ESS, MIN_ESS_SHARE * units):
        least = max(MIN_ESS, MIN_ESS_SHARE * units)
        return f"the effective sample size is {ess:.0f} of {units} units; at least {least:.0f} are needed"
    scores = doubly_robust_scores(part, values)
    share = float(weights.mean())
    ratio = float((weights * values).sum() / weights.sum())
    return Answer(
        calls=len(values),
        units=units,
        ess=ess,
        logged=_mean(values, part.unit),
        ips=_mean(weights * values, part.unit),
        snips=_interval(ratio, weights * (values - ratio) / share, part.unit),
        dr=_mean(scores, part.unit),
        change=_mean(scores - values, part.unit),
    )


def effective_size(weights: Floats, unit: Counts) -> float:
    """Kish's effective number of units; 0 when all weights are 0."""
    sums = np.bincount(unit, weights=weights)
    squares = float(sums @ sums)
    return 0.0 if squares == 0.0 else float(sums.sum()) ** 2 / squares


def doubly_robust_scores(log: Log, values: Floats) -> Floats:
    """(n,): each call's term of the DR sum, with the direct model fitted on the other folds."""
    scores = np.empty(len(values))
    fold = log.unit % FOLDS
    for one in range(FOLDS):
        here = fold == one
        if not here.any():
            continue
        table = direct_model(log, values, ~here)
        part = log.where(here)
        guess = table[:, part.stratum].T
        own = guess[np.arange(len(part.chosen)), part.chosen]
        scores[here] = (part.target * guess).sum(axis=1) + part.weights * (values[here] - own)
    return scores


def direct_model(log: Log, values: Floats, train: NDArray[np.bool_]) -> Floats:
    """(K, S): the shrunk mean outcome of each arm in each stratum, from the calls of `train`."""
    arms, strata = len(log.arms), int(log.stratum.max()) + 1
    cell = log.chosen[train] * strata + log.stratum[train]
    counts = np.bincount(cell, minlength=arms * strata).reshape(arms, strata)
    sums = np.bincount(cell, weights=values[train], minlength=arms * strata).reshape(arms, strata)
    overall = float(sums.sum()) / max(1, int(counts.sum()))
    arm = (sums.sum(axis=1) + SHRINK * overall) / (counts.sum(axis=1) + SHRINK)
    made: Floats = (sums + SHRINK * arm[:, None]) / (counts + SHRINK)
    return made


def self_check(log: Log, outcome: Floats, regime: Counts) -> tuple[float, Estimate] | None:
    """The logged mean, and what IPS makes of the logging policy itself; None without two units that have values, and
    where all but a few have the same: an interval of three failures among thousands means nothing.

    The logging policy's shares are read off the log: those of the other half of the units, in the same `regime` (calls
    that could go to the same arms), stratum and block of CHECK_BLOCK calls. When the logged probabilities are true, and
    depend on nothing else than these, the two agree within the interval.
    """
    known = np.isfinite(outcome)
    part, values = log.where(known), outcome[known]
    if len(np.unique(part.unit)) < 2:
        return None
    if len(values) > 10 * MIN_EVENTS and 0 < np.count_nonzero(values != np.median(values)) < MIN_EVENTS:
        return None
    half = part.unit % 2
    blocks = np.arange(len(values)) // CHECK_BLOCK
    _, group = np.unique(np.stack([regime[known], part.stratum, blocks]), axis=1, return_inverse=True)
    group = group.ravel()
    counts = np.zeros((2, int(group.max()) + 1, len(part.arms)))
    np.add.at(counts, (half, group, part.chosen), 1.0)
    other = counts[1 - half, group]
    total = other.sum(axis=1)
    fair = total > 0
    share = np.where(fair, other[np.arange(len(values)), part.chosen] / np.maximum(total, 1.0), part.propensity)
    return float(values.mean()), _mean(share / part.propensity * values, part.unit)


def _mean(values: Floats, unit: Counts) -> Estimate:
    mean = float(values.mean())
    return _interval(mean, values - mean, unit)


def _interval(value: float, residual: Floats, unit: Counts) -> Estimate:
    half = Z95 * _standard_error(residual, unit)
    return Estimate(value, value - half, value + half)


def _standard_error(residual: Floats, unit: Counts) -> float:
    """Of a mean with these residuals (they sum to about 0), robust to any dependence within a unit; inf for one unit."""
    units = len(np.unique(unit))
    if units < 2:
        return float("inf")
    sums = np.bincount(unit, weights=residual)
    return float(np.sqrt(float(sums @ sums) * units / (units - 1.0))) / len(residual)
