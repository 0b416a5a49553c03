"""Complete quality and cost matrices as `bench.routing` replays them, and what can be read off one without any router.

A folder holds pairs `<name>.csv.gz` (prompt_id, task, model, quality, input_tokens, output_tokens, cost_usd, latency_s;
every prompt has a row for every model) and `<name>.prompts.csv.gz` (prompt_id, task, prompt).
"""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Point = tuple[float, float]  # mean cost in dollars, mean quality


class MatrixError(Exception):
    """A file is not laid out as this module reads it; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """N prompts x K models. NaN where the file has no value."""

    name: str
    models: tuple[str, ...]
    tasks: tuple[str, ...]  # of each prompt
    prompts: tuple[str, ...]  # the text of each, "" where the file has none
    quality: Floats  # (N, K), 0..1
    cost_usd: Floats  # (N, K), per request
    input_tokens: Floats  # (N, K)
    output_tokens: Floats  # (N, K)
    latency_s: Floats  # (N, K)
    source: Path = Path()  # the file that it was read from

    @property
    def points(self) -> list[Point]:
        """The models, each served to every prompt."""
        return list(zip(self.cost_usd.mean(axis=0).tolist(), self.quality.mean(axis=0).tolist(), strict=True))

    @property
    def best(self) -> int:
        """Index of the model with the highest mean quality: the app's own, in every run."""
        return int(self.quality.mean(axis=0).argmax())


def load_all(folder: Path) -> list[Matrix]:
    """Every matrix of the folder, by name. Raises MatrixError."""
    files = sorted(file for file in folder.glob("*.csv.gz") if not file.name.endswith(".prompts.csv.gz"))
    if not files:
        raise MatrixError(f"{folder}: no <name>.csv.gz here; give a folder with quality and cost matrices")
    return [load(file) for file in files]


def load(file: Path) -> Matrix:
    """One matrix with its prompts. Raises MatrixError."""
    texts, tasks = _prompts(file.with_name(file.name.removesuffix(".csv.gz") + ".prompts.csv.gz"))
    places = {prompt: at for at, prompt in enumerate(texts)}
    models: dict[str, int] = {}
    rows: list[tuple[int, int, tuple[float, ...]]] = []
    try:
        with gzip.open(file, "rt", encoding="utf-8", newline="") as source:
            for row in csv.DictReader(source):
                model = models.setdefault(row["model"], len(models))
                names = ("quality", "cost_usd", "input_tokens", "output_tokens", "latency_s")
                rows.append((places[row["prompt_id"]], model, tuple(float(row[name] or "nan") for name in names)))
    except (OSError, KeyError, ValueError) as error:
        raise MatrixError(f"{file}: {type(error).__name__}: {error}") from error
    values = np.full((5, len(places), len(models)), np.nan)
    for prompt, model, row_values in rows:
        values[:, prompt, model] = row_values
    if np.isnan(values[:2]).any():
        raise MatrixError(f"{file}: not every prompt has quality and cost for every model")
    quality, cost, asked, answered, latency = values
    name = file.name.removesuffix(".csv.gz")
    known = tuple(models), tuple(tasks), tuple(texts.values())
    return Matrix(name, *known, quality, cost, asked, answered, latency, file)


def _prompts(file: Path) -> tuple[dict[str, str], list[str]]:
    try:
        with gzip.open(file, "rt", encoding="utf-8", newline="") as source:
            rows = [(row["prompt_id"], row["prompt"], row["task"]) for row in csv.DictReader(source)]
    except (OSError, KeyError) as error:
        raise MatrixError(f"{file}: {type(error).__name__}: {error}") from error
    return {key: text for key, text, _ in rows}, [task for _, _, task in rows]


def hull(points: Sequence[Point]) -> list[Point]:
    """The non-decreasing concave upper hull of cost and quality: what random mixes of the points reach (RouterBench's
    zero router, when the points are the models themselves), cheapest first."""
    kept: list[Point] = []
    for cost, quality in sorted(points):
        while len(kept) > 1 and _below(kept[-2], kept[-1], (cost, quality)):
            kept.pop()
        kept.append((cost, quality))
    top = max(kept, key=lambda point: (point[1], -point[0]))
    return kept[: kept.index(top) + 1]


def _below(left: Point, middle: Point, right: Point) -> bool:
    return (middle[1] - left[1]) * (right[0] - left[0]) <= (right[1] - left[1]) * (middle[0] - left[0])


def aiq(points: Sequence[Point], low: float, high: float) -> float:
    """RouterBench's average improvement in quality: mean height of the hull between two mean costs (dollars).

    Below the cheapest point its own height counts. When the two costs are one, the height there.
    """
    if high <= low:
        return quality_at(points, high)
    costs, qualities = zip(*hull(points), strict=True)
    inner = [cost for cost in costs if low < cost < high]
    grid = np.array([low, *inner, high])
    return float(np.trapezoid(np.interp(grid, costs, qualities), grid) / (high - low))


def cost_at(points: Sequence[Point], quality: float) -> float | None:
    """The lowest mean cost at which the hull reaches a quality; None when it never does."""
    costs, qualities = zip(*hull(points), strict=True)
    if quality > qualities[-1]:
        return None
    return float(np.interp(quality, qualities, costs))


def quality_at(points: Sequence[Point], cost: float) -> float:
    """The height of the hull at a mean cost: what the best static mix under this ceiling reaches. Below the cheapest
    point, where no mix keeps the ceiling, the cheapest point's own height."""
    costs, qualities = zip(*hull(points), strict=True)
    return float(np.interp(cost, costs, qualities))


def saving(cost: float, reference: float) -> float:
    """The part of `reference` that is saved; negative when it costs more, 0 beside a reference that is free."""
    return 1.0 - cost / reference if reference > 0 else 0.0
