"""Thompson sampling inside a quality constraint, with exact propensities.

**Model.** For each arm of one route: the probability that an answer is fine (Beta posterior; validators and failures
are yes-or-no), the mean of its feedback scores (Gaussian with unknown mean and variance, Normal-Inverse-Gamma
posterior), and the mean latency score, one Normal-Inverse-Gamma posterior for streams and one for whole answers,
which never mix. The cost score is no posterior: prices are known (`core.spend`). Quality is answered x feedback once
the route has any label, else answered alone. All marginals are used by their first two moments, as Gaussians: Var(xy)
= Vx Vy + Vx my^2 + Vy mx^2 for the product.

**Choice.** Utility u = w_q quality + w_c cost + w_l latency. An arm is feasible with probability g = P(quality >= (1
- max_quality_loss) x quality of the baseline); the baseline always is. Thompson sampling draws all utilities and
feasibilities and takes the best feasible arm, so it takes arm a with probability

    p_a = g_a * integral of  prod over b != a of (1 - g_b (1 - F_b(u)))  dF_a(u)

(feasibility drawn apart from utility, which errs on the cautious side). The integral is a Stieltjes sum on the merged
quantile nodes of all arms: deterministic, no Monte Carlo. An arm with g < SHUT and at least EVIDENCE observations is
shown to be worse and gets exactly 0 (when all are, they share equally). Every other arm gets at least FLOOR. The arm
is then drawn from that very vector with one uniform: the logged propensity is the probability that was used, whatever
approximation made the vector. That arms without quality evidence stay at their canary step is the rollout's promise:
they are not among the eligible arms here (`core.staging`).

**Limits.** No context and no drift detection: posteriors only fade (MAX_WEIGHT). A shut arm gets no traffic, so it
stays shut until the baseline worsens, feedback improves it, or its rollout is started anew.

References: Thompson, Biometrika 25, 1933; Agrawal and Goyal, arXiv:1209.3352; Murphy, Conjugate Bayesian analysis of
the Gaussian distribution, 2007; constrained choice as in Gelbart et al., arXiv:1403.5607 (probability of
feasibility).
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sidecar.core.normal import ndtr, ndtri
from sidecar.core.policy import Objective
from sidecar.core.reward import Signal, weights

FLOOR = 0.01  # 0..0.05 per arm; 0 makes off-policy evaluation divide by nearly 0, more spends traffic on known losers
SHUT = 0.01  # 0.001..0.05; smaller keeps bad arms longer, larger shuts sound arms by chance
EVIDENCE = 20  # observations before an arm can be shut: below it the prior decides, not the data
MIN_UPDATES = 16  # 1..100; smaller recomputes without news, larger chooses with stale beliefs
MIN_AGE_S = 0.05  # at low traffic news is used after this time
UPDATE_SHARE = 64  # and of n observations 1/64 must be new: later news moves the posterior less
MAX_WEIGHT = 5_000.0  # 500..1e6 effective observations; smaller stays noisy, larger never notices a change
MIN_SD = 1e-4  # of a utility: keeps nodes apart when nothing is uncertain
NODES = 48  # 16..256 quantile nodes per arm; error of a probability about 1/NODES^2
MAX_SUBSETS = 64  # cached vectors (subsets of arms x streaming); more subsets only cost recomputation

_QUANTILES = ndtri((np.arange(NODES) + 0.5) / NODES)
Z: NDArray[np.float64] = np.concatenate(([-8.0, -4.0, -3.0], _QUANTILES, [3.0, 4.0, 8.0]))


class Beta:
    """Posterior of a probability. Fractions of an observation are allowed. Prior: PRIOR_MEAN with the weight of PRIOR
    calls."""

    PRIOR_MEAN, PRIOR = 0.9, 4.0  # most answers are fine; few calls overrule it

    def __init__(self) -> None:
        self.n = 0.0
        self.good = 0.0

    def add(self, value: float) -> None:
        self.n += 1.0
        self.good += value
        if self.n > MAX_WEIGHT:
            self.n, self.good = self.n / 2, self.good / 2

    def moments(self) -> tuple[float, float]:
        total = self.n + self.PRIOR
        mean = (self.good + self.PRIOR * self.PRIOR_MEAN) / total
        return mean, mean * (1.0 - mean) / (total + 1.0)

    def to_state(self) -> list[float]:
        return [self.n, self.good]

    def restore(self, state: Sequence[float]) -> None:
        self.n, self.good = state


class Normal:
    """Posterior of the mean of scores in [0, 1] with unknown variance (Normal-Inverse-Gamma), from n, sum, sum of
    squares.

    Prior: mean `prior_mean` with the weight of one score, E[variance] = 0.05 with the weight of two (ALPHA = 2).
    """

    ALPHA, BETA, KAPPA = 2.0, 0.05, 1.0

    def __init__(self, prior_mean: float) -> None:
        self.prior_mean = prior_mean
        self.n = 0.0
        self.total = 0.0
        self.squares = 0.0

    def add(self, value: float, previous: float | None = None) -> None:
        """Takes one score in; `previous` is this source's earlier score of the same answer, taken out."""
        if previous is None:
            self.n += 1.0
        self.total += value - (previous or 0.0)
        self.squares += value * value - (previous or 0.0) ** 2
        if self.n > MAX_WEIGHT:
            self.n, self.total, self.squares = self.n / 2, self.total / 2, self.squares / 2

    def moments(self) -> tuple[float, float]:
        """Mean and variance of the (Student t) marginal of the mean."""
        kappa = self.KAPPA + self.n
        mean = (self.KAPPA * self.prior_mean + self.total) / kappa
        spread = self.squares + self.KAPPA * self.prior_mean**2 - kappa * mean * mean
        beta = self.BETA + 0.5 * max(0.0, spread)
        return mean, beta / ((self.ALPHA + 0.5 * self.n - 1.0) * kappa)

    def to_state(self) -> list[float]:
        return [self.n, self.total, self.squares]

    def restore(self, state: Sequence[float]) -> None:
        self.n, self.total, self.squares = state


class ArmBelief:
    """What is known of one arm."""

    __slots__ = ("answered", "labels", "samples", "stream", "whole")

    def __init__(self) -> None:
        self.answered = Beta()
        self.labels = Normal(0.7)
        self.samples = 0  # labels, one per answer and source; never faded
        self.stream = Normal(0.6)  # latency scores
        self.whole = Normal(0.6)

    def quality(self, labelled: bool) -> tuple[float, float]:
        """Mean and variance of quality; `labelled` when the route has feedback at all."""
        mean, variance = self.answered.moments()
        if not labelled:
            return mean, variance
        score, spread = self.labels.moments()
        return mean * score, variance * spread + variance * score * score + spread * mean * mean

    def to_state(self) -> dict[str, object]:
        posteriors = (self.answered, self.labels, self.stream, self.whole)
        return {"samples": self.samples, "posteriors": [posterior.to_state() for posterior in posteriors]}

    def restore(self, samples: int, posteriors: Sequence[Sequence[float]]) -> None:
        self.samples = samples
        answered, labels, stream, whole = posteriors
        self.answered.restore(answered)
        for posterior, state in ((self.labels, labels), (self.stream, stream), (self.whole, whole)):
            posterior.restore(state)


class Choice:
    """A probability vector over arms, and the one draw from it."""

    __slots__ = ("arms", "at", "edges", "probabilities", "seen")

    def __init__(self, arms: tuple[str, ...], probabilities: NDArray[np.float64], at: float, seen: int) -> None:
        self.arms = arms
        self.probabilities: list[float] = probabilities.tolist()
        self.edges: list[float] = np.cumsum(probabilities)[:-1].tolist()
        self.at = at
        self.seen = seen

    def draw(self, uniform: float) -> int:
        """Index of the arm that a uniform number in [0, 1) selects."""
        return bisect_right(self.edges, uniform)


class Selector:
    """Beliefs about the arms of one route, and the choice among any subset of them."""

    def __init__(self, arms: Sequence[str], objective: Objective) -> None:
        """`arms[0]` is the baseline, the reference of the quality constraint."""
        self.baseline = arms[0]
        self.weights = weights(objective)
        self.max_quality_loss = objective.max_quality_loss
        self.beliefs = {arm: ArmBelief() for arm in arms}
        self.cost_scores: Mapping[str, float] = {}  # 0..1, known prices; NEUTRAL when not named
        self._seen = 0  # signals learnt
        self._stale = 0  # raised when something else than a signal changed
        self._choices: dict[tuple[tuple[str, ...], bool, int], Choice] = {}

    def partial_fit(self, arm: str, signal: Signal, stream: bool) -> None:
        """Learns one exchange's signal."""
        if signal.answered is None:
            return
        belief = self.beliefs[arm]
        belief.answered.add(signal.answered)
        if signal.latency is not None:
            (belief.stream if stream else belief.whole).add(signal.latency)
        self._seen += 1

    def label(self, arm: str, score: float, previous: float | None = None) -> None:
        """Learns one feedback score in [0, 1]; `previous` is the score that it replaces."""
        belief = self.beliefs[arm]
        belief.labels.add(score, previous)
        if previous is None:
            belief.samples += 1
        self._seen += 1

    def touch(self) -> None:
        """Prices or beliefs changed from outside: all vectors are computed anew."""
        self._stale += 1
        self._choices.clear()

    def choice(self, eligible: tuple[str, ...], stream: bool, now: float) -> Choice:
        """The present vector over `eligible` (not empty), computed anew when enough was learnt since the last."""
        key = (eligible, stream, self._stale)
        found = self._choices.get(key)
        if found is not None:
            fresh = self._seen - found.seen
            if fresh == 0 or (fresh < max(MIN_UPDATES, self._seen // UPDATE_SHARE) and now - found.at < MIN_AGE_S):
                return found
        if len(self._choices) >= MAX_SUBSETS:
            self._choices.clear()
        made = Choice(eligible, self.propensities(eligible, stream), now, self._seen)
        self._choices[key] = made
        return made

    def propensities(self, eligible: Sequence[str], stream: bool = True) -> NDArray[np.float64]:
        """Choice probabilities of `eligible` in its order, computed now; they sum to 1.

        Beliefs that are not finite (which no event can cause) give all to the baseline, or an equal share without it.
        """
        mean, sd = self._utilities(eligible, stream)
        gates = self.feasible(eligible)
        vector = best_probabilities(mean, sd, gates)
        if not np.isfinite(vector).all():
            fallback = np.array([1.0 if arm == self.baseline else 0.0 for arm in eligible])
            return fallback if fallback.any() else np.full(len(eligible), 1.0 / len(eligible))
        floor = np.where(gates > 0.0, min(FLOOR, 1.0 / len(eligible)), 0.0)
        made: NDArray[np.float64] = floor + (1.0 - floor.sum()) * vector
        return made

    def feasible(self, eligible: Sequence[str]) -> NDArray[np.float64]:
        """P(quality >= (1 - max_quality_loss) x the baseline's) of each arm; exactly 0 for an arm shown to be worse."""
        labelled = any(belief.samples for belief in self.beliefs.values())
        keep = 1.0 - self.max_quality_loss
        base_mean, base_variance = self.beliefs[self.baseline].quality(labelled)
        gates = np.ones(len(eligible))
        for index, arm in enumerate(eligible):
            if arm == self.baseline:
                continue
            belief = self.beliefs[arm]
            mean, variance = belief.quality(labelled)
            sd = max((variance + keep * keep * base_variance) ** 0.5, MIN_SD)
            gate = float(ndtr((mean - keep * base_mean) / sd))
            gates[index] = 0.0 if gate < SHUT and belief.answered.n + belief.labels.n >= EVIDENCE else gate
        return gates

    def _utilities(self, eligible: Sequence[str], stream: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        labelled = any(belief.samples for belief in self.beliefs.values())
        w_quality, w_cost, w_latency = self.weights
        means, variances = [], []
        for arm in eligible:
            belief = self.beliefs[arm]
            quality, quality_variance = belief.quality(labelled)
            latency, latency_variance = (belief.stream if stream else belief.whole).moments()
            means.append(w_quality * quality + w_cost * self.cost_scores.get(arm, 0.5) + w_latency * latency)
            variances.append(w_quality**2 * quality_variance + w_latency**2 * latency_variance)
        return np.array(means), np.maximum(np.sqrt(variances), MIN_SD)


def best_probabilities(
    mean: NDArray[np.float64], sd: NDArray[np.float64], gates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """P(arm is the best feasible one) for independent Gaussian utilities and feasibilities `gates`; see the head.

    Equal shares when none is feasible: somebody has to serve.
    """
    nodes = np.sort((mean[:, None] + sd[:, None] * Z).ravel())
    below = ndtr((nodes - mean[:, None]) / sd[:, None])
    beaten = np.maximum(1.0 - gates[:, None] * (1.0 - below), 1e-25)  # so that the product can be divided again
    others = beaten.prod(axis=0) / beaten
    mass = np.diff(below, axis=1) * (0.5 * (others[:, 1:] + others[:, :-1]))
    chances = gates * mass.sum(axis=1)
    total = chances.sum()
    made: NDArray[np.float64] = np.full(len(gates), 1.0 / len(gates)) if total == 0.0 else chances / total
    return made
