"""`python -m bench.routing --data DIR --out FILE.json`: the engine as an online router, replayed on real matrices.

Every prompt comes once, in an order of the seed; the engine decides through its public verbs, sees the outcome and the
score of the chosen model only, and begins with nothing. Exploration is part of every figure. The app's own model (the
baseline) is the best fixed model: its name is known, its statistics are not. Prices are known, as they are in life: two
numbers a model, fitted to the matrix. One set of hyper-parameters serves every matrix.

References, computed in the same run: the best fixed model, the best static mix of models in hindsight (RouterBench's zero
router), and the oracle that knows each answer. Intervals are 95 %, normal, over seeds.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.matrices import Matrix, MatrixError, Point, aiq, cost_at, load_all
from bench.replay import HYPERPARAMETERS, Told, replay

SWEEP = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)  # weights of cost against quality
LOSS = 0.05
Figure = dict[str, float | None]  # mean, lo, hi, reference


@dataclass(frozen=True, slots=True)
class Runs:
    """What the seeds came to on one matrix: a curve each, and the run that was told the largest loss."""

    curves: tuple[tuple[Point, ...], ...]  # per seed, one point per weight of SWEEP
    told: tuple[Point, ...]  # per seed


def run(matrix: Matrix, seeds: int, say: Callable[[str], None]) -> Runs:
    """All replays of one matrix."""
    curves, told = [], []
    for seed in range(seeds):
        curves.append(tuple(replay(matrix, seed, Told(cost_weight=weight)) for weight in SWEEP))
        told.append(replay(matrix, seed, Told(max_quality_loss=LOSS)))
        say(f"{matrix.name} seed {seed + 1}/{seeds}")
    return Runs(tuple(curves), tuple(told))


def figures(matrix: Matrix, runs: Runs) -> dict[str, Figure]:
    """The goal table's rows for one matrix."""
    points = matrix.points
    low, high = min(points)[0], max(points)[0]
    best_cost, best_quality = points[matrix.best]
    wanted = (1 - LOSS) * best_quality
    mix = cost_at(points, wanted)
    assert mix is not None, "the best model itself reaches it"
    cheapest = min(points)
    curves = [(*curve, cheapest) for curve in runs.curves]
    reached = [cost_at(curve, wanted) for curve in curves]
    saved = [1 - cost / best_cost for cost in reached if cost is not None]
    hindsight = 1 - mix / best_cost
    loss = [1 - quality / best_quality for _, quality in runs.told]
    return {
        "aiq": _figure([aiq(curve, low, high) for curve in curves], aiq(points, low, high)),
        "saving_at_5_percent_loss": _figure(saved, hindsight),
        "seeds_that_reach_5_percent_loss": _figure([float(cost is not None) for cost in reached], 1.0),
        "regret": _figure([1 - curve[0][1] / best_quality for curve in runs.curves], 0.0),
        "told_5_percent_loss": _figure(loss, LOSS),
        "told_5_percent_kept": _figure([float(each <= LOSS) for each in loss], 1.0),
        "told_5_percent_saving": _figure([1 - cost / best_cost for cost, _ in runs.told], hindsight),
        "oracle_quality": _figure([float(matrix.quality.max(axis=1).mean())], best_quality),
    }


def _figure(values: Sequence[float], reference: float | None) -> Figure:
    """Mean and 95 % interval over seeds; nulls when no seed has a value."""
    if not values:
        return {"mean": None, "lo": None, "hi": None, "reference": reference}
    mean = float(np.mean(values))
    half = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    bounds = (None, None) if math.isnan(half) else (mean - half, mean + half)
    return {"mean": mean, "lo": bounds[0], "hi": bounds[1], "reference": reference}


def table(matrices: Mapping[str, Mapping[str, Figure]]) -> str:
    """The figures for people."""
    lines = [f"{'matrix':<22}{'metric':<34}{'mean':>9}{'95 % interval':>20}{'reference':>11}"]
    for name, metrics in matrices.items():
        for metric, figure in metrics.items():
            between = "" if figure["lo"] is None else f"{figure['lo']:.4f} .. {figure['hi']:.4f}"
            lines.append(
                f"{name:<22}{metric:<34}{_text(figure['mean']):>9}{between:>20}{_text(figure['reference']):>11}"
            )
    return "\n".join(lines)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def main(arguments: list[str] | None = None) -> int:
    """Runs, writes the JSON, prints the table. Exit code 2 for a folder that cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description="The engine, replayed on matrices.")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with <name>.csv.gz matrices")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--seeds", type=int, default=20, metavar="N")
    parser.add_argument("--only", default="", metavar="METRIC,...", help="print and write these metrics only")
    options = parser.parse_args(arguments)
    only = {name for name in options.only.split(",") if name}
    try:
        matrices = load_all(options.data)
    except MatrixError as error:
        print(f"bench.routing: {error}", file=sys.stderr)
        return 2
    found: dict[str, dict[str, Figure]] = {}
    for matrix in matrices:
        runs = run(matrix, options.seeds, lambda text: print(text, file=sys.stderr, flush=True))
        every = figures(matrix, runs)
        unknown = only - every.keys()
        if unknown:
            print(
                f"bench.routing: no metric {', '.join(sorted(unknown))}; there are {', '.join(every)}", file=sys.stderr
            )
            return 2
        found[matrix.name] = {name: figure for name, figure in every.items() if not only or name in only}
    options.out.write_text(json.dumps({"matrices": found, "hyperparameters": HYPERPARAMETERS}, indent=1) + "\n")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
