"""Rows of the goal table that have a bench of their own: canary verdicts, A/B experiments, drift alarms.

How many runs they make follows from the number of seeds: with 20 of them 10,000 identical canaries and 500 experiments
of each kind; drift alarms take their 30,000 windows always. Experiments are looked at after every value, best variant .75,
the others .70 (or all .70); `ab_*_fewer` is the part of the values that the adaptive allocation saves.
"""

from functools import partial
from pathlib import Path
from typing import Final

from bench import drift, experiments, verdicts
from bench.figures import Figure, figure
from bench.router_row import Alone, Asked, Figures, Say

CANARIES: Final = 500  # identical ones, a seed
RUNS: Final = 25  # experiments of each kind, a seed
VARIANTS: Final = (2, 3, 4, 5)
RULE: Final = "bets"  # that of `core.race`
SOONER: Final = 0.37  # TensorZero's own figure


def arrivals(data: Path) -> Path:
    """The folder of arrival traces: beside that of the matrices."""
    return data.absolute().parent / "arrivals"


def _verdicts(asked: Asked, say: Say) -> dict[str, Figures]:
    return verdicts.figures(CANARIES * asked.seeds, asked.data, say)


def _drift(asked: Asked, say: Say) -> dict[str, Figures]:
    try:
        return drift.figures(say, arrivals(asked.data))
    except drift.TraceError as error:
        say(f"drift is left out: {error}")
        return {}


def _experiments(variants: int, asked: Asked, say: Say) -> dict[str, Figures]:
    say(f"experiments with {variants} variants")
    return {"experiments": compared(variants, RUNS * asked.seeds)}


def compared(variants: int, runs: int) -> Figures:
    """Values until decided with the adaptive allocation and with uniform shares, and wrong decisions among equals."""
    best, rest, name = experiments.BEST, experiments.REST, f"ab_{variants}"
    uneven, even = [best] + [rest] * (variants - 1), [rest] * variants
    kept = {"horizon": experiments.LONGEST, "runs": runs, "seed": variants}
    adaptive = experiments.figures(RULE, uneven, adaptive=True, **kept)
    uniform = experiments.figures(RULE, uneven, adaptive=False, **kept)
    kept["horizon"] = experiments.HORIZON
    return {
        f"{name}_samples": adaptive["samples"] | {"reference": uniform["samples"]["mean"]},
        f"{name}_fewer": _fewer(adaptive["samples"], uniform["samples"]),
        f"{name}_right": adaptive["right"],
        f"{name}_false": experiments.figures(RULE, even, adaptive=True, **kept)["false"],
    }


def _fewer(one: Figure, other: Figure) -> Figure:
    """1 - the ratio of two means; the interval joins their relative errors (delta method, independent runs)."""
    if not one["mean"] or not other["mean"]:
        return figure(None, SOONER)
    ratio = one["mean"] / other["mean"]
    halves = [((part["hi"] or 0.0) - (part["mean"] or 0.0)) / (part["mean"] or 1.0) for part in (one, other)]
    half = ratio * (halves[0] ** 2 + halves[1] ** 2) ** 0.5
    return figure(1.0 - ratio, SOONER, 1.0 - ratio - half, 1.0 - ratio + half)


VERDICTS: Final = Alone(
    "verdicts",
    (
        "identical_*",
        "caught_*",
        "canary_requests_*",
        "ratio_*",
        "always_*",
        "equal_scores_*",
        "inferior_*",
        "alpha_*",
    ),
    _verdicts,
)
EXPERIMENTS: Final = tuple(  # the longest first, each in a process of its own
    Alone(f"experiments_{variants}", (f"ab_{variants}_*",), partial(_experiments, variants))
    for variants in sorted(VARIANTS, reverse=True)
)
DRIFT: Final = Alone("drift", ("false_alarms*", "windows_*"), _drift)
