"""Exact percentiles and the small sums that a report of paired rounds needs.

Everything is computed from the full array of observations (no histogram, no sketch), so a figure has no error
of its own.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest observation that at least `share` (0..1) of all observations do not exceed (nearest rank).

    Always one of the observations, never an interpolation. Raises ValueError when there is none.
    """
    if not values:
        raise ValueError("percentile of no observations; the run measured nothing")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share {share} is not within 0..1")
    return float(np.quantile(np.asarray(values, dtype=float), share, method="inverted_cdf"))


def median(values: Sequence[float]) -> float:
    """The middle observation, or the mean of the two in the middle. Raises ValueError when there is none."""
    if not values:
        raise ValueError("median of no observations; the run measured nothing")
    return float(np.median(np.asarray(values, dtype=float)))


def spread(values: Sequence[float], unit: float = 1.0) -> dict[str, float]:
    """Count, p50, p90, p99 and maximum, each multiplied by `unit` (1e6 turns seconds into microseconds)."""
    if not values:
        return {"n": 0}
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {"n": len(values)} | {name: percentile(values, share) * unit for name, share in shares.items()}


def medians(rounds: Sequence[Mapping[str, float]], keys: Sequence[str]) -> dict[str, float]:
    """The median over the rounds of each key that at least one round has."""
    found = {key: [float(one[key]) for one in rounds if key in one] for key in keys}
    return {key: median(values) for key, values in found.items() if values}


def ratio(value: float | None, base: float | None) -> float | None:
    """`value / base`, None when either is missing or the base is 0."""
    return value / base if value is not None and base else None
