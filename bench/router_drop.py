"""Row 6: a model that gets worse in silence and comes back, and what the watching for it costs when nothing changes.

Three phases of 608 requests under a ceiling (tight, moderate, loose), quality wanted. In the second phase the model
that the engine used most at the end of the first (the cheapest one left out) answers 5 % worse than the cheapest one;
on the matrix of ParetoBandit's paper that is its own experiment, .92 to .75. Nobody tells the engine.

    drop_*_until_left   requests of phase 2 until the model's share of the last 50 is below half of what it was in the
                        last 200 of phase 1; a stream in which that never happens counts as 608
    drop_*_until_back   requests of phase 3 until it is half of that again, of the streams that left
    drop_*_reward       mean quality of phase 3 / of phase 1
    detector_costs      mean quality with and without the detector over the whole matrix, nothing changing, one order

A stream whose first phase hardly uses the model (under LEAST_SHARE) says nothing about it and is left out of the first
two; `drop_*_share_before` and `drop_*_streams` say so.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.ceilings import NAMED, WORSE, ceilings, cyclic, scaled
from bench.figures import mean_of, median_of, share_of
from bench.matrices import Floats, Matrix
from bench.replay import Phase, order, replay
from bench.router_ceilings import told as told_ceiling
from bench.router_curve import told as told_ratio
from bench.router_row import Family, Figures, Results, Values
from bench.tape import Tape
from sidecar.core import quality as quality_model

PHASE: Final = 608  # requests
WINDOW: Final = 50  # requests of a share
BEFORE: Final = 200  # requests at the end of phase 1 that say what the share was
LEAST_SHARE: Final = 0.1
DETECTOR: Final = ("with", "without")


def _settings(matrix: Matrix, wanted: frozenset[str]) -> dict[str, int]:
    if not ceilings(matrix):
        return {}
    found: dict[str, int] = {}
    if not wanted or wanted != {"detector_costs"}:
        found |= dict.fromkeys(NAMED, 4 * PHASE)
    if not wanted or "detector_costs" in wanted:
        found |= dict.fromkeys(DETECTOR, len(matrix.prompts))
    return found


def _run(tape: Tape, setting: str, seed: int) -> Values:
    return _watching(tape, seed, on=setting == "with") if setting in DETECTOR else _dropping(tape, setting, seed)


def _dropping(tape: Tape, name: str, seed: int) -> Values:
    """(share before, requests until left, until back, quality of phase 1 and of phase 3)."""
    matrix = tape.matrix
    ceiling = ceilings(matrix)[NAMED[name]]
    prompts = order(matrix, seed)
    first = replay(tape, seed, told_ceiling(ceiling), [Phase(cyclic(prompts, 0, PHASE))])  # the same as below
    arm = favourite(matrix, first.arms[-BEFORE:])
    bad = dropped(matrix, arm, seed)
    phases = [
        Phase(cyclic(prompts, number * PHASE, PHASE), quality=bad if number == 1 else None) for number in range(3)
    ]
    trail = replay(tape, seed, told_ceiling(ceiling), phases)
    used = trail.arms == arm
    before = float(used[PHASE - BEFORE : PHASE].mean())
    shares = rolling(used, WINDOW)
    left = until(shares[PHASE : 2 * PHASE] < before / 2)
    back = until(shares[2 * PHASE :] >= before / 2)
    return before, left, back, float(trail.quality[:PHASE].mean()), float(trail.quality[2 * PHASE :].mean())


def favourite(matrix: Matrix, served: NDArray[np.intp]) -> int:
    """The model that served most of these requests, the cheapest one left out."""
    counts = [int((served == arm).sum()) for arm in range(len(matrix.models))]
    counts[matrix.points.index(min(matrix.points))] = -1
    return counts.index(max(counts))


def dropped(matrix: Matrix, arm: int, seed: int) -> Floats:
    """The matrix' scores with those of one model 5 % below the cheapest model's."""
    own, cheapest = matrix.points[arm][1], min(matrix.points)[1]
    made = matrix.quality.copy()
    if own > 0:
        factor = min(1.0, WORSE * cheapest / own)
        made[:, arm] = scaled(made[:, arm], factor, np.random.default_rng([seed, 3]))
    return made


def rolling(used: NDArray[np.bool_], window: int) -> Floats:
    """After each request the share among the last `window` (at the beginning: among those there are)."""
    sums = np.concatenate(([0.0], np.cumsum(used)))
    ends = np.arange(1, len(used) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def until(happened: NDArray[np.bool_]) -> float:
    """Requests until it first happened, all of them when it never did."""
    return float(np.argmax(happened) + 1) if happened.any() else float(len(happened))


def _watching(tape: Tape, seed: int, *, on: bool) -> Values:
    """(mean quality,) of an undisturbed stream; without the detector its thresholds are never reached."""
    kept = quality_model.ALARM, quality_model.RETURN
    try:
        if not on:
            quality_model.ALARM = quality_model.RETURN = float("inf")  # type: ignore[misc] # the experiment itself
        return (replay(tape, seed, told_ratio(0.0)).point[1],)
    finally:
        quality_model.ALARM, quality_model.RETURN = kept  # type: ignore[misc] # as it was


def _figures(_: Matrix, results: Results) -> Figures:
    found: Figures = {}
    for name in results.keys() & NAMED.keys():
        streams = results[name]
        using = [stream for stream in streams if stream[0] >= LEAST_SHARE]
        found[f"drop_{name}_share_before"] = mean_of([stream[0] for stream in streams])
        found[f"drop_{name}_streams"] = share_of(len(using), len(streams), 1.0)
        found[f"drop_{name}_until_left"] = median_of([stream[1] for stream in using])
        found[f"drop_{name}_until_back"] = median_of([stream[2] for stream in using if stream[1] < PHASE])
        found[f"drop_{name}_reward"] = mean_of([stream[4] / stream[3] for stream in streams if stream[3] > 0], 1.0)
    if DETECTOR[0] in results:
        pairs = zip(results["with"], results["without"], strict=True)
        found["detector_costs"] = mean_of([without[0] - with_[0] for with_, without in pairs], 0.0)
    return dict(sorted(found.items(), reverse=True))


FAMILY: Final = Family("drop", ("drop_*", "detector_costs"), _settings, _run, _figures)
