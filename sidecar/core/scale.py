"""A metric of one exchange as a number of 0..1 with larger better, and back: what an experiment compares.

    quality      the score itself
    error_rate   1 for an answer, 0 for a failure by the arm's fault
    cost, latency, ttft   1/2 - log(value / middle) / (2 log SPAN), cut to 0..1: as dear or slow as the middle of the FIRST
                 values is 1/2, SPAN times as much is 0, a SPAN-th part is 1

Money and times have long tails, so they are compared as logarithms: means are geometric ones, a difference is a ratio, and
one value of an hour cannot decide. The FIRST values fix the scale before all others and count nowhere else, so bets stay
fair; it is their median, because a cold start or a free call that came first would put all others beyond the cut.

What it does not know: arithmetic means. A variant that is cheaper in the geometric mean can cost more in all where few of
its calls are very dear; `SPAN` bounds by how much.
"""

from math import exp, log
from statistics import median
from typing import Final

from sidecar.core.types import Outcome

SPAN: Final = 30.0  # 3..1000; smaller cuts real outliers, larger makes equal ratios smaller differences of 0..1
FIRST: Final = 9  # 1..99, odd: fewer are all odd ones by chance, more are lost to the comparison
_WIDTH: Final = 2.0 * log(SPAN)
_LEAST: Final = 1e-9  # of a value: what is free or took no time is not infinitely better


class Scale:
    """One metric's scale. `centre` is the log of its middle, None until that is known; only ratio metrics have one."""

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.ratio = metric not in ("quality", "error_rate")
        self.smaller_is_better = metric != "quality"
        self.centre: float | None = None
        self.first: list[float] = []  # logs of the values that fix it

    def value(self, outcome: Outcome, quality: float | None) -> float | None:
        """The metric in its own unit (nano-dollars, seconds, 0..1); None when the exchange says nothing of it."""
        if self.metric == "error_rate":
            return float(outcome.kind == "failed")
        if outcome.kind != "completed":
            return None
        if self.metric == "quality":
            return quality
        if self.metric == "cost":
            return None if outcome.cost_nusd is None else float(outcome.cost_nusd)
        if self.metric == "latency":
            return outcome.clocks.latency_s
        return outcome.clocks.first_token_latency_s

    def scaled(self, value: float) -> float | None:
        """The value as 0..1; None for those that fix the scale."""
        if not self.ratio:
            return 1.0 - value if self.smaller_is_better else value
        seen = log(max(value, _LEAST))
        if self.centre is None:
            self.first.append(seen)
            self.centre = median(self.first) if len(self.first) == FIRST else None
            return None
        return min(1.0, max(0.0, 0.5 - (seen - self.centre) / _WIDTH))

    def shown(self, scaled: float) -> float:
        """The inverse, for means and their bounds."""
        if not self.ratio:
            return 1.0 - scaled if self.smaller_is_better else scaled
        return exp((self.centre or 0.0) + (0.5 - scaled) * _WIDTH)

    def effect(self, difference: float) -> float:
        """A difference of scaled means in the metric's own terms: a difference, or a ratio."""
        if self.ratio:
            return exp(-difference * _WIDTH)
        return -difference if self.smaller_is_better else difference

    def margin(self, effect: float) -> float:
        """A policy's `min_effect` (a difference, or a ratio minus 1) as a difference of scaled means."""
        return log(1.0 + effect) / _WIDTH if self.ratio else effect
