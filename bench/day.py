"""Row 12: a day of an arrival trace through the engine that is told to lose at most 5 % of the baseline's quality.

A trace is stretched to 24 hours; each of its requests is a prompt of the matrix (in an order of the seed, beginning
again when there are more requests than prompts), so tokens, costs and scores are the matrix' and when calls come is
the trace's. Against the app's own model on the very same prompts:

    day_*_benefit   share of requests that are answered no worse for less money, or better
    day_*_saving    part of the money that is saved; day_*_loss part of the quality that is lost
    day_*_static    what the best static mix in hindsight saves at 5 % loss, day_*_oracle what one saves who knows each
                    answer before (the cheapest of the best)
"""

import csv
import gzip
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from bench.ceilings import cyclic
from bench.figures import mean_of
from bench.matrices import Floats, Matrix, cost_at, saving
from bench.replay import Phase, Told, order, replay
from bench.router_curve import LOSS
from bench.router_row import Family, Figures, Results, Values
from bench.tape import Tape

DAY_S: Final = 86_400.0
SHORTEST: Final = 100  # requests that make a trace


def traces(folder: Path) -> dict[str, Floats]:
    """Seconds of the day of each request of every `<name>.csv.gz` in a folder that has a column t_s."""
    found: dict[str, Floats] = {}
    for file in sorted(folder.glob("*.csv.gz")):
        with gzip.open(file, "rt", encoding="utf-8", newline="") as source:
            rows = csv.DictReader(source)
            times = np.array([float(row["t_s"]) for row in rows]) if "t_s" in (rows.fieldnames or ()) else np.array([])
        if len(times) >= SHORTEST and times[-1] > times[0]:
            found[file.name.removesuffix(".csv.gz")] = (times - times[0]) * (DAY_S / (times[-1] - times[0]) * 0.999)
    return found


@cache
def _beside(matrix_file: Path) -> Mapping[str, Floats]:
    """The traces of the folder `arrivals` that lies beside the matrices' folder; none where there is none."""
    return traces(matrix_file.absolute().parent.parent / "arrivals")


def _settings(matrix: Matrix, _: frozenset[str]) -> dict[str, int]:
    return {name: len(times) for name, times in _beside(matrix.source).items()}


def _run(tape: Tape, setting: str, seed: int) -> Values:
    """(benefit, saving, loss, saving of the static mix, of the oracle, its gain in quality)."""
    matrix = tape.matrix
    times = _beside(matrix.source)[setting]
    prompts = cyclic(order(matrix, seed), 0, len(times))
    trail = replay(tape, seed, Told(max_quality_loss=LOSS), [Phase(prompts, gaps_s=np.diff(times, prepend=0.0))])
    costs, scores = matrix.cost_usd[prompts], matrix.quality[prompts]
    base_cost, base_quality = costs[:, matrix.best], scores[:, matrix.best]
    cheaper = (trail.cost_usd < base_cost) & (trail.quality >= base_quality)
    benefit = float((cheaper | (trail.quality > base_quality)).mean())
    points = list(zip(costs.mean(axis=0).tolist(), scores.mean(axis=0).tolist(), strict=True))
    paid, best = float(base_cost.mean()), float(base_quality.mean())
    mix = cost_at(points, (1 - LOSS) * best)
    top = np.where(scores == scores.max(axis=1, keepdims=True), costs, np.inf).min(axis=1)
    cost, quality = trail.point
    return (
        benefit,
        saving(cost, paid),
        1 - quality / best,
        0.0 if mix is None else saving(mix, paid),
        saving(float(top.mean()), paid),
        float(scores.max(axis=1).mean()) / best - 1,
    )


def _figures(_: Matrix, results: Results) -> Figures:
    found: Figures = {}
    for name, days in results.items():
        benefit, saved, loss, mix, oracle, gain = zip(*days, strict=True)
        found[f"day_{name}_benefit"] = mean_of(benefit)
        found[f"day_{name}_saving"] = mean_of(saved, float(np.mean(mix)))
        found[f"day_{name}_loss"] = mean_of(loss, LOSS)
        found[f"day_{name}_static_saving"] = mean_of(mix)
        found[f"day_{name}_oracle_saving"] = mean_of(oracle)
        found[f"day_{name}_oracle_gain"] = mean_of(gain)
    return found


def _overall(matrices: Sequence[Matrix], results: Mapping[str, Results]) -> Figures:
    """Of each seed the median over matrices and traces."""
    days = [days for matrix in matrices for days in results[matrix.name].values()]
    if not days:
        return {}
    seeds = np.median(np.array(days), axis=0)  # (days, seeds, values) -> (seeds, values)
    return {
        "day_benefit": mean_of(seeds[:, 0].tolist()),
        "day_saving": mean_of(seeds[:, 1].tolist(), float(seeds[:, 3].mean())),
        "day_loss": mean_of(seeds[:, 2].tolist(), LOSS),
    }


FAMILY: Final = Family("day", ("day_*",), _settings, _run, _figures, _overall)
