"""Posteriors of one arm that need no context: how often it answers, how fast, how often too late.

Beta for a probability, Normal-Inverse-Gamma for the mean of scores with unknown variance (Murphy, Conjugate Bayesian
analysis of the Gaussian distribution, 2007). Both take fractions of an observation and fade: beyond MAX_WEIGHT
observations everything is halved, so slow changes are followed. They know neither time nor the request.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

MAX_WEIGHT: Final = 5_000.0  # 500..1e6 effective observations; smaller stays noisy, larger never notices a change


class Beta:
    """Posterior of a probability."""

    __slots__ = ("good", "n", "prior", "prior_mean")

    def __init__(self, prior_mean: float, prior: float) -> None:
        """The prior has the weight of `prior` observations."""
        self.prior_mean, self.prior = prior_mean, prior
        self.n = 0.0
        self.good = 0.0

    def add(self, value: float) -> None:
        self.n += 1.0
        self.good += value
        if self.n > MAX_WEIGHT:
            self.n, self.good = self.n / 2, self.good / 2

    def moments(self) -> tuple[float, float]:
        """Mean and variance."""
        total = self.n + self.prior
        mean = (self.good + self.prior * self.prior_mean) / total
        return mean, mean * (1.0 - mean) / (total + 1.0)

    def to_state(self) -> list[float]:
        return [self.n, self.good]

    def restore(self, state: Sequence[float]) -> None:
        self.n, self.good = state


class Normal:
    """Posterior of the mean of scores in [0, 1] with unknown variance, from n, sum, sum of squares.

    Prior: mean `prior_mean` with the weight of one score, E[variance] = 0.05 with the weight of two (ALPHA = 2).
    """

    ALPHA, BETA, KAPPA = 2.0, 0.05, 1.0
    __slots__ = ("n", "prior_mean", "squares", "total")

    def __init__(self, prior_mean: float) -> None:
        self.prior_mean = prior_mean
        self.n = 0.0
        self.total = 0.0
        self.squares = 0.0

    def add(self, value: float) -> None:
        self.n += 1.0
        self.total += value
        self.squares += value * value
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
    """What is known of one arm besides the quality of its answers."""

    __slots__ = ("answered", "late", "samples", "stream", "whole")

    def __init__(self) -> None:
        self.answered = Beta(0.98, 4.0)  # most answers are fine; few calls overrule it
        self.samples = 0  # labels, one per answer and source; never faded
        self.stream = Normal(0.6)  # latency scores
        self.whole = Normal(0.6)
        self.late = (Beta(0.05, 2.0), Beta(0.05, 2.0))  # later than the objective: whole answers, streams

    def speed(self, stream: bool) -> Normal:
        return self.stream if stream else self.whole

    def to_state(self) -> dict[str, object]:
        return {
            "samples": self.samples,
            "answered": self.answered.to_state(),
            "latency": [self.stream.to_state(), self.whole.to_state()],
            "late": [late.to_state() for late in self.late],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what `to_state` gave. Raises KeyError, TypeError or ValueError when it cannot be read."""
        self.samples = int(state["samples"])
        self.answered.restore([float(number) for number in state["answered"]])
        for speed, kept in zip((self.stream, self.whole), state["latency"], strict=True):
            speed.restore([float(number) for number in kept])
        for late, kept in zip(self.late, state["late"], strict=False):
            late.restore([float(number) for number in kept])
