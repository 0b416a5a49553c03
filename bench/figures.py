"""One figure of a report: an estimate with its 95 % interval, and the reference that stands beside it.

    mean_of       normal or Student's t, over seeds
    median_of     the order statistics that enclose the median with at least 95 %, no distribution assumed; a seed in
                  which something never happened may count as the longest time there was
    share_of      successes of trials, Wilson's score interval

A figure without values has nulls, a figure of one value has no interval.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

Figure = dict[str, float | None]  # mean, lo, hi, reference
Z: Final = 1.959964  # of 95 %
_STUDENT: Final = (12.706, 4.303, 3.182, 2.776, 2.571)  # 97.5 % points for 1..5 degrees of freedom


def figure(
    mean: float | None, reference: float | None = None, lo: float | None = None, hi: float | None = None
) -> Figure:
    """A figure from its parts; what is None or not finite becomes null."""
    parts = {"mean": mean, "lo": lo, "hi": hi, "reference": reference}
    return {name: None if value is None or not math.isfinite(value) else float(value) for name, value in parts.items()}


def mean_of(values: Sequence[float], reference: float | None = None) -> Figure:
    """Mean and 95 % interval (Student's t) of independent values."""
    if not values:
        return figure(None, reference)
    mean = float(np.mean(values))
    if len(values) == 1:
        return figure(mean, reference)
    half = student(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return figure(mean, reference, mean - half, mean + half)


def median_of(values: Sequence[float], reference: float | None = None) -> Figure:
    """Median and the order statistics that enclose it with at least 95 % (with fewer than 6 values: all of them)."""
    if not values:
        return figure(None, reference)
    ordered, n = sorted(values), len(values)
    below, rank = 0.5**n, 0
    while below + math.comb(n, rank + 1) * 0.5**n <= 0.025:
        rank += 1
        below += math.comb(n, rank) * 0.5**n
    if n == 1:
        return figure(ordered[0], reference)
    return figure(float(np.median(ordered)), reference, ordered[rank], ordered[n - 1 - rank])


def share_of(successes: int, trials: int, reference: float | None = None) -> Figure:
    """A share of independent trials with Wilson's 95 % interval."""
    if trials == 0:
        return figure(None, reference)
    share, square = successes / trials, Z * Z
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2)) / (1 + square / trials)
    return figure(share, reference, max(0.0, middle - half), min(1.0, middle + half))


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t for `freedom` >= 1 degrees, within .002 (Cornish and Fisher beyond the table)."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    first = (Z**3 + Z) / 4
    second = (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96
    third = (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384
    return Z + first / freedom + second / freedom**2 + third / freedom**3
