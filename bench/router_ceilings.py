"""Row 5: seven ceilings on the mean cost of a request, quality wanted and nothing else.

For each ceiling: the quality against the best static mix that keeps it in hindsight, the realised mean cost as a part
of the ceiling, and the highest that the mean so far ever was from request 300 on. At the first ceiling only the
cheapest model fits, at the last every model does. Beside the peak stands that of the cheapest model alone on the same
prompts in the same order: no router stays below it.
"""

from typing import Final

import numpy as np

from bench.ceilings import STEPS, ceilings
from bench.figures import Figure, figure, mean_of
from bench.matrices import Floats, Matrix, quality_at
from bench.replay import Told, order, replay
from bench.router_row import Family, Figures, Results, Values
from bench.tape import Tape

ABOVE: Final = 1e-6  # quality; less is rounding
FROM: Final = 300  # requests before the mean so far is looked at; in short streams half of them


def told(ceiling_usd: float) -> Told:
    """Quality alone, under a ceiling."""
    return Told(quality_weight=1.0, cost_weight=0.0, ceiling_usd=ceiling_usd)


def _settings(matrix: Matrix, _: frozenset[str]) -> dict[str, int]:
    return {str(place): len(matrix.prompts) for place in range(len(ceilings(matrix)))}


def _run(tape: Tape, setting: str, seed: int) -> Values:
    """(quality above the static mix, cost / ceiling at the end, its peak, the cheapest model's peak, refused share)."""
    matrix = tape.matrix
    ceiling = ceilings(matrix)[int(setting)]
    trail = replay(tape, seed, told(ceiling))
    cost, quality = trail.point
    above = quality - quality_at(matrix.points, ceiling)
    cheapest = matrix.cost_usd[order(matrix, seed), matrix.points.index(min(matrix.points))]
    refused = float((trail.arms < 0).mean())
    return above, cost / ceiling, peak(trail.cost_usd) / ceiling, peak(cheapest) / ceiling, refused


def peak(costs: Floats) -> float:
    """The highest mean of the costs so far, from request FROM on."""
    means = np.cumsum(costs) / np.arange(1, len(costs) + 1)
    return float(means[min(FROM, len(means) // 2) :].max())


def _figures(matrix: Matrix, results: Results) -> Figures:
    if not results:
        return {}
    found: Figures = {}
    for place in range(STEPS):
        gaps, ends, peaks, least, refused = zip(*results[str(place)], strict=True)
        found[f"ceiling_{place + 1}_usd"] = figure(ceilings(matrix)[place])
        found[f"ceiling_{place + 1}_quality_gap"] = mean_of(gaps, 0.0)
        found[f"ceiling_{place + 1}_cost"] = mean_of(ends, 1.0)
        found[f"ceiling_{place + 1}_cost_peak"] = mean_of(peaks, float(np.mean(least)))
        if any(refused):
            found[f"ceiling_{place + 1}_refused"] = mean_of(refused, 0.0)
    return found | _summary(found)


def _summary(found: Figures) -> Figures:
    """The worst ceiling of each kind, and on how many the engine is above the static mix."""
    gaps = [found[f"ceiling_{place + 1}_quality_gap"] for place in range(STEPS)]
    worst = min(gaps, key=_mean)
    peaks = max((found[f"ceiling_{place + 1}_cost_peak"] for place in range(STEPS)), key=_mean)
    ends = max((found[f"ceiling_{place + 1}_cost"] for place in range(STEPS)), key=_mean)
    above = sum(_mean(gap) > ABOVE for gap in gaps)
    return {
        "ceilings_worst_quality_gap": worst,
        "ceilings_above_static_mix": figure(float(above), 0.0),
        "ceilings_worst_cost": ends,
        "ceilings_worst_cost_peak": peaks,
    }


def _mean(one: Figure) -> float:
    value = one["mean"]
    return float("nan") if value is None else value


FAMILY: Final = Family("ceilings", ("ceilings_*", "ceiling_*"), _settings, _run, _figures)
