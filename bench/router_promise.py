"""Rows 4 and 9: the engine told "at most 5 % of the baseline's quality", and the engine that sees one score in ten.

told_..._kept          share of (matrix, seed) streams whose whole loss, exploration included, stays within
told_..._saving_ratio  what they save / what the best static mix saves in hindsight, per seed the median over the
                       matrices on which a static mix saves anything
sparse_regret          quality lost against the best fixed model when each score is seen with probability .1
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from bench.figures import mean_of, share_of
from bench.matrices import Matrix, saving
from bench.replay import Told, replay
from bench.router_curve import LOSS, hindsight_saving, told
from bench.router_row import Family, Figures, Results, Values
from bench.tape import Tape

SEEN: Final = 0.1
LEAST_SAVING: Final = 0.01  # of the static mix: a ratio to less says nothing


def _run(tape: Tape, setting: str, seed: int) -> Values:
    """(mean cost, mean quality) of one stream."""
    if setting == "sparse":
        return replay(tape, seed, told(0.0), seen=SEEN).point
    return replay(tape, seed, Told(max_quality_loss=LOSS)).point


def _losses(matrix: Matrix, points: Sequence[Values]) -> list[float]:
    best = matrix.points[matrix.best][1]
    return [1 - quality / best for _, quality in points]


def _savings(matrix: Matrix, points: Sequence[Values]) -> list[float]:
    return [saving(cost, matrix.points[matrix.best][0]) for cost, _ in points]


def _figures(matrix: Matrix, results: Results) -> Figures:
    losses = _losses(matrix, results["told"])
    kept = sum(loss <= LOSS for loss in losses)
    return {
        "told_5_percent_loss": mean_of(losses, LOSS),
        "told_5_percent_kept": share_of(kept, len(losses), 1.0),
        "told_5_percent_saving": mean_of(_savings(matrix, results["told"]), hindsight_saving(matrix)),
    }


def _overall(matrices: Sequence[Matrix], results: Mapping[str, Results]) -> Figures:
    losses = [loss for matrix in matrices for loss in _losses(matrix, results[matrix.name]["told"])]
    ratios = [
        [saved / hindsight_saving(matrix) for saved in _savings(matrix, results[matrix.name]["told"])]
        for matrix in matrices
        if hindsight_saving(matrix) >= LEAST_SAVING
    ]
    medians = [float(np.median(seed)) for seed in zip(*ratios, strict=True)]
    return {
        "told_5_percent_kept": share_of(sum(loss <= LOSS for loss in losses), len(losses), 1.0),
        "told_5_percent_saving_ratio": mean_of(medians, 1.0),
    }


def _sparse(matrix: Matrix, results: Results) -> Figures:
    return {"sparse_regret": mean_of(_losses(matrix, results["sparse"]), 0.0)}


PROMISE: Final = Family(
    "promise",
    ("told_5_percent_loss", "told_5_percent_kept", "told_5_percent_saving", "told_5_percent_saving_ratio"),
    lambda matrix, _: {"told": len(matrix.prompts)},
    _run,
    _figures,
    _overall,
)
SPARSE: Final = Family("sparse", ("sparse_regret",), lambda matrix, _: {"sparse": len(matrix.prompts)}, _run, _sparse)
