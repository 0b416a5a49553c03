"""Row 7: the price of the best model falls to a hundredth and comes back, at the thirds of the stream.

Quality wanted under a ceiling (tight, moderate, loose). The engine is told both times, as a price list tells it; the
realised mean cost of each third as a part of the ceiling says whether it obeys at once. Unspent money of the cheap
third must not be spent in the last.
"""

from typing import Final

import numpy as np

from bench.ceilings import NAMED, ceilings
from bench.figures import Figure, mean_of
from bench.matrices import Matrix
from bench.replay import Phase, order, replay
from bench.router_ceilings import told
from bench.router_row import Family, Figures, Results, Values
from bench.tape import Tape

CUT: Final = 0.01
THIRDS: Final = 3


def _settings(matrix: Matrix, _: frozenset[str]) -> dict[str, int]:
    return dict.fromkeys(NAMED, len(matrix.prompts)) if ceilings(matrix) else {}


def _run(tape: Tape, setting: str, seed: int) -> Values:
    """Mean cost / ceiling of each third."""
    matrix = tape.matrix
    ceiling = ceilings(matrix)[NAMED[setting]]
    cut = tuple(CUT if arm == matrix.best else 1.0 for arm in range(len(matrix.models)))
    thirds = np.array_split(order(matrix, seed), THIRDS)
    trail = replay(tape, seed, told(ceiling), [Phase(thirds[0]), Phase(thirds[1], price=cut), Phase(thirds[2])])
    ends = np.cumsum([len(third) for third in thirds])[:-1]
    return tuple(float(part.mean()) / ceiling for part in np.split(trail.cost_usd, ends))


def _figures(_: Matrix, results: Results) -> Figures:
    found: dict[str, Figure] = {}
    for name in (name for name in NAMED if name in results):
        for third, ratios in enumerate(zip(*results[name], strict=True)):
            found[f"price_{name}_third_{third + 1}"] = mean_of(ratios, 1.0)
    if found:
        found["price_worst_third"] = max(found.values(), key=lambda one: one["mean"] or 0.0)
    return found


FAMILY: Final = Family("prices", ("price_*",), _settings, _run, _figures)
