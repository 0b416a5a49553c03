"""Row 8: a model is added in mid-stream, a good one or a bad one.

608 requests without it, 1,216 with it, quality wanted under a ceiling (tight, moderate); the app's own model is the
best of the others. The policy with the new model is applied and its rollout promoted at once.

    good_arm_*_until   the model that the best static mix under the ceiling uses most (the cheapest one left out):
                       requests until its share of the last 50 is 80 % of its final one (that of the last 608). Streams
                       that hardly take it at the end (under LEAST_SHARE) say nothing: `good_arm_*_streams`
    bad_arm_*_pulls    a copy of that model, as dear and half as good, beside it: how often it was called before it was
                       out for good, which is when its share of every later 50 stays below 10 %; `_pulls_total` is how
                       often in all 1,216
"""

import dataclasses
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench import tape as tapes
from bench.ceilings import NAMED, ceilings, cyclic, favourite, scaled
from bench.figures import mean_of, median_of, share_of
from bench.matrices import Floats, Matrix
from bench.replay import Phase, Trail, order, replay
from bench.router_ceilings import told
from bench.router_drop import WINDOW, rolling, until
from bench.router_row import Family, Figures, Results, Values
from bench.tape import Tape

BEFORE: Final = 608
AFTER: Final = 1_216
ADOPTED: Final = 0.8  # of the final share
OUT: Final = 0.1
HALF: Final = 0.5
LEAST_SHARE: Final = 0.1
UNDER: Final = ("tight", "moderate")


def _settings(matrix: Matrix, _: frozenset[str]) -> dict[str, int]:
    kinds = ("good", "bad") if ceilings(matrix) else ()
    return {f"{kind} {name}": BEFORE + AFTER for kind in kinds for name in UNDER}


def _run(tape: Tape, setting: str, seed: int) -> Values:
    kind, name = setting.split()
    ceiling = ceilings(tape.matrix)[NAMED[name]]
    arm = favourite(tape.matrix, ceiling)
    if kind == "good":
        qualities = [quality if at != arm else -1.0 for at, (_, quality) in enumerate(tape.matrix.points)]
        return _adoption(_added(tape, seed, arm, int(np.argmax(qualities)), ceiling).arms[BEFORE:] == arm)
    wider = with_bad_copy(tape, arm, seed)
    bad = len(tape.matrix.models)
    return _rejection(_added(wider, seed, bad, tape.matrix.best, ceiling).arms[BEFORE:] == bad)


def _added(tape: Tape, seed: int, arm: int, base: int, ceiling: float) -> Trail:
    prompts = order(tape.matrix, seed)
    phases = [
        Phase(cyclic(prompts, 0, BEFORE), absent=frozenset({arm})),
        Phase(cyclic(prompts, BEFORE, AFTER)),
    ]
    return replay(tape, seed, dataclasses.replace(told(ceiling), base=base), phases)


def with_bad_copy(tape: Tape, arm: int, seed: int) -> Tape:
    """The matrix with one model more: as dear as `arm` on every prompt, half as good."""
    matrix = tape.matrix
    quality = _twice(matrix.quality, arm)
    quality[:, -1] = scaled(quality[:, -1], HALF, np.random.default_rng([seed, 4]))
    wider = dataclasses.replace(
        matrix,
        models=(*matrix.models, "bad copy"),
        quality=quality,
        cost_usd=_twice(matrix.cost_usd, arm),
        input_tokens=_twice(matrix.input_tokens, arm),
        output_tokens=_twice(matrix.output_tokens, arm),
        latency_s=_twice(matrix.latency_s, arm),
    )
    return tapes.tape(wider, tape.texts)


def _twice(values: Floats, arm: int) -> Floats:
    """The columns, and one of them again at the end."""
    return np.column_stack([values, values[:, arm]])


def _adoption(used: NDArray[np.bool_]) -> Values:
    """(final share, requests until adopted)."""
    final = float(used[-BEFORE:].mean())
    since = np.concatenate((np.zeros(WINDOW, dtype=np.bool_), used))  # before it came nobody called it
    return final, until(rolling(since, WINDOW)[WINDOW:] >= ADOPTED * final)


def _rejection(used: NDArray[np.bool_]) -> Values:
    """(calls before it was out for good, calls in all)."""
    since = np.concatenate((np.zeros(WINDOW, dtype=np.bool_), used))
    inside = np.flatnonzero(rolling(since, WINDOW)[WINDOW:] >= OUT)
    out = int(inside[-1]) + 1 if len(inside) else 0
    return float(used[: max(out, WINDOW)].sum()), float(used.sum())


def _figures(_: Matrix, results: Results) -> Figures:
    found: Figures = {}
    for name in UNDER if results else ():
        good, bad = results[f"good {name}"], results[f"bad {name}"]
        using = [stream for stream in good if stream[0] >= LEAST_SHARE]
        found[f"good_arm_{name}_final_share"] = mean_of([stream[0] for stream in good])
        found[f"good_arm_{name}_streams"] = share_of(len(using), len(good), 1.0)
        found[f"good_arm_{name}_until"] = median_of([stream[1] for stream in using])
        found[f"bad_arm_{name}_pulls"] = median_of([stream[0] for stream in bad])
        found[f"bad_arm_{name}_pulls_total"] = median_of([stream[1] for stream in bad])
    return found


FAMILY: Final = Family("arms", ("good_arm_*", "bad_arm_*"), _settings, _run, _figures)
