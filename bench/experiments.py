"""How soon, and how rightly, an A/B experiment is decided that is looked at after every value.

    python -m bench.experiments --out report.json [--runs N] [--only false|samples|spread|tied] [--variants ...]

Variants are coins: the best has .75, the others .70; then all have .70. Three stopping rules (`bench.races`), each with
uniform shares and with the allocation of `core.race` (new shares every 20 values, as in `core.experiment`). Reported
for two to five variants:

    samples   values of all variants together until somebody wins, mean over the runs, with its 95 % interval; a run that is
              not decided at the horizon counts with the horizon
    spread    the same with .75, .70, .65, .60 and .55, as far as there are so many
    right     share of the runs in which the best one has won
    false     share of the runs with equal variants in which anybody has ever won until the horizon
    tied      the same with two equal ones and the others at .50: what costs a rule most of its alpha

A test of a horizon that is fixed beforehand stands beside them: the values that a z-test of each pair needs for the same
alpha (Bonferroni) and a power of 95 %. It may be looked at once.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Final

import numpy as np

from bench.figures import Figure, mean_of, share_of
from bench.races import Bets, Floats, Mixture, Ratio, Rule
from sidecar.core.experiment import REALLOCATE_EVERY
from sidecar.core.race import fastest_mix

ALPHA: Final = 0.05
BEST, REST = 0.75, 0.70
FAR = 0.50  # of the others, where two are tied
SPREAD: Final = (0.75, 0.70, 0.65, 0.60, 0.55)  # the first of them, where gaps have many sizes
COLUMNS: Final = {
    "samples": "values until decided",
    "spread": "the same, gaps of many sizes",
    "right": "best one won",
    "false": "false winners",
    "tied": "the same, two tied",
}
HORIZON: Final = 20_000  # values, with equal variants
LONGEST: Final = 80_000  # values, until somebody wins
TOGETHER: Final = 100  # runs in one array
RULES: Final[dict[str, Callable[[int, int, float], Rule]]] = {"bets": Bets, "ratio": Ratio, "mixture": Mixture}
NAMES: Final = {"bets": "ours", "ratio": "TensorZero's rule", "mixture": "mixture test"}


def play(
    means: Sequence[float], rule: Rule, *, adaptive: bool, horizon: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Plays all runs of `rule`; how many values each took (the horizon where nobody won), and who won (-1: nobody)."""
    runs, variants = rule.counts.shape
    truth = np.array(means)
    taken, won = np.full(runs, float(horizon)), np.full(runs, -1.0)
    alive = np.arange(runs)
    shares = np.full((runs, variants), 1.0 / variants)
    for at in range(1, horizon + 1):
        drawn = (rng.random(len(alive))[:, None] > np.cumsum(shares, 1)).sum(1).clip(max=variants - 1)
        rule.observe(drawn, (rng.random(len(alive)) < truth[drawn]).astype(float), shares)
        winner = rule.winner()
        over = winner >= 0
        if over.any():
            taken[alive[over]], won[alive[over]] = at, winner[over]
            alive, shares = alive[~over], shares[~over]
            rule.keep(~over)
            if not len(alive):
                break
        if adaptive and at % REALLOCATE_EVERY == 0:
            leader = ((rule.totals + 0.5) / (rule.counts + 1.0)).argmax(1)
            shares = fastest_mix(rule.counts, rule.totals, rule.evidence(leader), leader, rule.needed)
    return taken, won


def figures(
    name: str, means: Sequence[float], *, adaptive: bool, horizon: int, runs: int, seed: int
) -> dict[str, Figure]:
    """The figures of one rule and one set of variants; the first of `means` is the best, or all are equal."""
    rng = np.random.default_rng(seed)
    taken, won = [], []
    for first in range(0, runs, TOGETHER):
        rule = RULES[name](min(TOGETHER, runs - first), len(means), ALPHA)
        one, two = play(means, rule, adaptive=adaptive, horizon=horizon, rng=rng)
        taken += one.tolist()
        won += two.tolist()
    if sum(mean == max(means) for mean in means) > 1:
        kind = "false" if max(means) == min(means) else "tied"
        return {kind: share_of(sum(one >= 0 for one in won), runs, ALPHA)}
    return {"samples": mean_of(taken), "right": share_of(sum(one == 0 for one in won), runs)}


def fixed_horizon(variants: int, power: float = 0.95) -> float:
    """Values of all variants together that a z-test of the best against each other needs; see the head."""
    normal = NormalDist()
    level = normal.inv_cdf(1.0 - ALPHA / 2.0 / (variants - 1)) + normal.inv_cdf(power)
    each = level**2 * (BEST * (1.0 - BEST) + REST * (1.0 - REST)) / (BEST - REST) ** 2
    return math.ceil(each) * variants


def measure(
    runs: int, only: str | None, numbers: Sequence[int], rules: Sequence[str]
) -> dict[str, dict[str, Figure | float]]:
    """Every figure, by `variants/rule/allocation`."""
    found: dict[str, dict[str, Figure | float]] = {}
    for variants in numbers:
        for name in rules:
            for adaptive in (False, True):
                row: dict[str, Figure | float] = {}
                if only in (None, "samples"):
                    means = [BEST] + [REST] * (variants - 1)
                    row |= figures(name, means, adaptive=adaptive, horizon=LONGEST, runs=runs, seed=variants)
                if only in (None, "spread") and variants > 2:
                    means = list(SPREAD[:variants])
                    more = figures(name, means, adaptive=adaptive, horizon=LONGEST, runs=runs, seed=29 + variants)
                    row["spread"] = more["samples"]
                if only in (None, "false"):
                    row |= figures(
                        name, [REST] * variants, adaptive=adaptive, horizon=HORIZON, runs=runs, seed=9 + variants
                    )
                if only in (None, "tied") and variants > 2:
                    means = [REST, REST] + [FAR] * (variants - 2)
                    row |= figures(name, means, adaptive=adaptive, horizon=HORIZON, runs=runs, seed=19 + variants)
                key = f"{variants}/{name}/{'adaptive' if adaptive else 'uniform'}"
                found[key] = row
                sys.stderr.write(f"{key}: {_shown(row)}\n")
        found[f"{variants}/fixed"] = {"samples": fixed_horizon(variants)}
    return found


def _shown(row: dict[str, Figure | float]) -> str:
    return ", ".join(
        f"{name} {one['mean']:.4g} ({one['lo']:.4g}..{one['hi']:.4g})" if isinstance(one, dict) else f"{name} {one:.0f}"
        for name, one in row.items()
    )


def table(found: dict[str, dict[str, Figure | float]]) -> list[str]:
    """The report as a markdown table: one line for each number of variants, rule and allocation."""
    columns = ("variants", "rule", "shares", *COLUMNS.values())
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for key, row in found.items():
        variants, name, *rest = key.split("/")
        if not rest:
            cells = [f"{row['samples']:,.0f}", "", "95 % planned", "", ""]
            lines.append(f"| {variants} | fixed horizon, one look | uniform | {' | '.join(cells)} |")
            continue
        uniform = found.get(f"{variants}/{name}/uniform", {})
        cells = [_cell(row, uniform, column, adaptive=rest[0] == "adaptive") for column in COLUMNS]
        lines.append(f"| {variants} | {NAMES[name]} | {rest[0]} | {' | '.join(cells)} |")
    return lines


def _cell(row: dict[str, Figure | float], uniform: dict[str, Figure | float], name: str, *, adaptive: bool) -> str:
    one, other = row.get(name), uniform.get(name)
    if not isinstance(one, dict) or one["mean"] is None or one["lo"] is None or one["hi"] is None:
        return ""
    if name not in ("samples", "spread"):
        return f"{one['mean']:.2%} ({one['lo']:.2%}..{one['hi']:.2%})"
    saved = ""
    if adaptive and isinstance(other, dict) and other["mean"]:
        saved = f" ({1.0 - one['mean'] / other['mean']:.0%} fewer)"
    return f"{one['mean']:,.0f} ± {one['hi'] - one['mean']:,.0f}{saved}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, or shows a report again."""
    parser = argparse.ArgumentParser(prog="bench.experiments", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the report there")
    parser.add_argument("--runs", type=int, default=2000, metavar="N", help="experiments for each figure")
    parser.add_argument("--only", choices=("false", "samples", "spread", "tied"), help="a part of the figures")
    parser.add_argument("--variants", type=int, nargs="+", default=[2, 3, 4, 5], choices=(2, 3, 4, 5))
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=tuple(RULES))
    parser.add_argument("--render", type=Path, metavar="FILE.json", help="measure nothing: show a report again")
    options = parser.parse_args(arguments)
    if options.render:
        found = json.loads(options.render.read_text())
    else:
        found = measure(options.runs, options.only, options.variants, options.rules)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write("\n".join(table(found)) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
