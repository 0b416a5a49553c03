"""`python -m bench.routing --data DIR --out FILE.json`: the engine as an online router, replayed on real matrices.

Every prompt comes once, in an order of the seed; the engine decides through its public verbs, sees the outcome and the
score of the chosen model only, and begins with nothing. Exploration is part of every figure. The app's own model (the
baseline) is the best fixed model: its name is known, its statistics are not. Prices are known, as they are in life: two
numbers a model, fitted to the matrix. One set of hyper-parameters, the core's own constants, serves every matrix.

Each family of rows has a module of its own (`bench/router_rows.py` lists them) and says there what is measured. The
references (best fixed model, best static mix in hindsight, oracle) are computed in the same run. Equal arguments give
equal figures; only the times of the `speed` rows differ.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from bench import router_pool, router_table
from bench.matrices import Matrix, MatrixError, load_all
from bench.router_goals import Report
from bench.router_row import ALL, Alone, Asked, Family, Figures, Job, Results, Values, fits
from bench.router_rows import ALONE, FAMILIES
from sidecar.clock import monotonic

CONSTANTS: Final = (
    "quality",
    "constraint",
    "selector",
    "posterior",
    "spend",
    "reward",
    "features",
)  # modules of the core
EVERY: Final[tuple[Family | Alone, ...]] = (*FAMILIES.values(), *ALONE.values())


@dataclass(frozen=True, slots=True)
class Wanted:
    """The metrics and families that `--only` names; none: all. A trailing `*` fits any end."""

    names: frozenset[str]

    def of(self, family: Family | Alone) -> frozenset[str] | None:
        """The metrics asked for of a family, empty for all of them, None when the family is not asked for."""
        if not self.names or fits(family.name, tuple(self.names)):
            return frozenset()
        found = frozenset(name for name in self.names if _known(name, family))
        return found or None

    def keeps(self, metric: str, family: Family | Alone) -> bool:
        asked = self.of(family)
        return asked is not None and (not asked or fits(metric, tuple(asked)))


def _known(name: str, family: Family | Alone) -> bool:
    start = name.removesuffix("*")
    return fits(name, family.metrics) or (start != name and any(one.startswith(start) for one in family.metrics))


def unknown(names: frozenset[str]) -> list[str]:
    """Those that neither a family is called nor any of its metrics."""
    return sorted(name for name in names if not any(fits(one.name, (name,)) or _known(name, one) for one in EVERY))


def measure(matrices: Sequence[Matrix], asked: Asked, wanted: Wanted, processes: int) -> dict[str, Figures]:
    """All figures that are wanted: matrix -> metric -> figure, the pseudo matrix of all at the end."""
    jobs = [
        Job(family.name, matrix.name, setting, seed, requests)
        for family in FAMILIES.values()
        if (metrics := wanted.of(family)) is not None
        for matrix in matrices
        for setting, requests in family.settings(matrix, metrics).items()
        for seed in range(asked.seeds)
    ]
    for name in sorted(
        {name for name in FAMILIES if wanted.of(FAMILIES[name]) is not None} - {job.family for job in jobs}
    ):
        router_pool.say(f"{name}: no stream here (no arrival traces beside the matrices, or every model is free)")
    values = router_pool.run(jobs, asked.data, processes)
    found: dict[str, Figures] = {matrix.name: {} for matrix in matrices}
    found[ALL] = {}
    for family in FAMILIES.values():
        if wanted.of(family) is None:
            continue
        results = {matrix.name: _results(family.name, matrix.name, values) for matrix in matrices}
        for matrix in matrices:
            found[matrix.name] |= _kept(family.figures(matrix, results[matrix.name]), family, wanted)
        found[ALL] |= _kept(family.overall(matrices, results), family, wanted)
    rows = [one for one in ALONE.values() if wanted.of(one) is not None]
    for row, made in router_pool.run_alone(rows, asked, processes).items():
        for name, figures in made.items():
            found[name] = found.get(name, {}) | _kept(figures, ALONE[row], wanted)
    return {name: figures for name, figures in found.items() if figures}


def _results(family: str, matrix: str, values: Mapping[Job, Values]) -> Results:
    """setting -> results in the order of the seeds."""
    found: dict[str, list[Values]] = {}
    for job, one in values.items():
        if job.family == family and job.matrix == matrix:
            found.setdefault(job.setting, []).append(one)
    return found


def _kept(figures: Figures, family: Family | Alone, wanted: Wanted) -> Figures:
    return {metric: one for metric, one in figures.items() if wanted.keeps(metric, family)}


def hyperparameters() -> dict[str, float]:
    """Every number that the learning modules of the core name in capitals: one set for all matrices."""
    found: dict[str, float] = {}
    for name in CONSTANTS:
        module = import_module(f"sidecar.core.{name}")
        for constant, value in sorted(vars(module).items()):
            own = isinstance(value, int | float) and not isinstance(value, bool)
            if own and constant.isupper() and not constant.startswith("_"):
                found[f"{name}.{constant}"] = value
    return found


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description="The engine, replayed on matrices.")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with <name>.csv.gz matrices")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the report there")
    parser.add_argument("--seeds", type=int, default=20, metavar="N")
    parser.add_argument(
        "--only", default="", metavar="METRIC,...", help="these metrics or families only; x* fits any end"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: CPUs)")
    parser.add_argument("--into", type=Path, metavar="FILE", help="put the tables between the marks of a markdown file")
    parser.add_argument("--render", type=Path, metavar="FILE.json", help="measure nothing: show a report again")
    parser.add_argument("--goals", action="store_true", help="print the goal table only")
    options = parser.parse_args(arguments)
    if options.render is None and (options.data is None or options.out is None):
        parser.error("--data DIR and --out FILE.json are required")
    if options.seeds < 1 or options.jobs < 1:
        parser.error("--seeds and --jobs are 1 or more")
    if options.into and not options.into.is_file():
        parser.error(
            f"--into {options.into}: no such file; it must hold the two marks (see docs/routing-benchmarks.md)"
        )
    return options


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    """The report of a new run. Raises MatrixError for a folder that cannot be read, ValueError for unknown metrics."""
    wanted = Wanted(frozenset(name for name in options.only.split(",") if name))
    strange = unknown(wanted.names)
    if strange:
        known = "; ".join(f"{one.name}: {', '.join(one.metrics)}" for one in EVERY)
        raise ValueError(f"no metric {', '.join(strange)}; there are {known}")
    began = monotonic()
    found = measure(load_all(options.data), Asked(options.data, options.seeds), wanted, options.jobs)
    run = {
        "seeds": options.seeds,
        "took_s": round(monotonic() - began, 1),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs",
    }
    return {"matrices": found, "hyperparameters": hyperparameters(), "run": run}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, writes the JSON, prints the tables. Exit code 2 for a folder or a metric that is not there."""
    options = _arguments(arguments)
    try:
        report = json.loads(options.render.read_text()) if options.render else _measured(options)
    except (MatrixError, ValueError, OSError) as error:
        print(f"bench.routing: {error}", file=sys.stderr)
        return 2
    if options.out and not options.render:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    figures: Report = report["matrices"]
    if options.into:
        tables = router_table.markdown(figures, _note(report))
        options.into.write_text(router_table.filled(options.into.read_text(), tables))
    print(router_table.plain(figures, goals_only=options.goals))
    return 0


def _note(report: Mapping[str, Any]) -> str:
    run = report.get("run", {})
    return f"{run.get('seeds')} seeds, {run.get('took_s', 0.0) / 60:.0f} minutes on {run.get('machine')}."


if __name__ == "__main__":
    sys.exit(main())
