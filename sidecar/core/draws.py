"""The choice of one arm from joint draws of what all are worth, with the exact probability of that choice.

**Choice.** DRAWS joint draws of the arms' worth are ready (`core.selector` makes them off the request). A request picks one
of them at random and takes the arm that is best in it: Thompson sampling, and the share of draws that an arm wins is exactly
the probability with which it is taken.

**Floors.** Some of the traffic is not up to the draws, so that no arm is forgotten: FLOOR for each arm, PROBE for one
that fell not long ago, BASELINE for the baseline while a quality promise is measured against it. Under a ceiling no
floor may cost more than GATE of it, no probe more than PROBE.

    p(arm) = floor(arm) + (1 - sum of floors) x share of draws won

The arm is drawn from that very vector with one uniform number: the logged propensity is the probability that was used.

References: Thompson, Biometrika 25, 1933; Agrawal and Goyal, arXiv:1209.3352; Russo et al., arXiv:1707.02038.
What it does not know: what makes an arm worth something.
"""

from bisect import bisect_right
from collections.abc import Sequence
from math import inf
from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from sidecar.core.types import Features

Floats = NDArray[np.float64]
Worth = tuple[NDArray[np.float32], list[int]]  # (DRAWS, k), and the best arm of each draw

DRAWS: Final = 64  # 16..256; propensities are multiples of 1/DRAWS before the floors, more cost time
FLOOR: Final = 0.002  # 0..0.02 an arm; 0 makes off-policy evaluation divide by nearly 0, more spends on known losers
MOST: Final = 0.9
FLOORS: Final = 0.1  # of all arms together, however many
BASELINE: Final = 0.03  # 0..0.1; less leaves the promise's reference uncertain, more costs what it saves
SHORT: Final = 0.5  # 0..0.9; of the traffic to the baseline while no price keeps the promise: it teaches what to keep
PROBE: Final = 0.1  # 0.02..0.2; less finds a recovery later, more spends more on an arm that fell
GATE: Final = 0.005  # 0..0.05 of a ceiling, for each arm's floor
MAX_BASES: Final = 512  # 16..4,096 cached tasks a pool; fewer draw them anew more often, more cost a kilobyte each


class Pick(Struct, frozen=True, gc=False):
    """The chosen arm, the probability with which it was, the arms of the pool that the call can pay, and what each was
    worth in the draw."""

    arm: str
    propensity: float
    arms: tuple[str, ...]
    worth: tuple[float, ...]


Why = Literal["usual", "probe", "baseline", "short"]  # for which of the floors an arm is due
_OWN: Final[dict[Why, float]] = {"probe": PROBE, "baseline": BASELINE, "short": SHORT}


def floors(why: Sequence[Why], cost_nusd: Sequence[float], allowance_nusd: float) -> list[float]:
    """The floors of a pool's arms, (k,); `allowance_nusd` is what the next calls may cost on average."""
    if len(why) == 1:
        return [0.0]
    floor, made = min(FLOOR, FLOORS / len(why)), []
    for one, cost in zip(why, cost_nusd, strict=True):
        own, gate = _OWN.get(one, floor), PROBE if one == "probe" else GATE
        made.append(min(own, gate * allowance_nusd / cost) if cost > 0 else own)
    total = sum(made)
    return made if total <= MOST else [MOST * own / total for own in made]


class View:
    """What is ready for one pool of arms and one kind of call, until the next refresh. A row is one draw: it is read at
    once."""

    __slots__ = ("answered", "arms", "base", "bases", "edges", "floors", "noise", "places", "rest", "text")

    def __init__(self, arms: tuple[str, ...], places: NDArray[np.intp], base: Floats, floors: list[float]) -> None:
        self.arms = arms
        self.places = places
        self.base = base  # (k, DRAWS), the same for all tasks: minus prices, -inf for arms that are late
        self.floors = floors
        self.edges: list[float] = np.cumsum(floors).tolist()
        self.rest = 1.0 - self.edges[-1]
        self.noise: Floats = base  # (k, DRAWS), of quality
        self.answered: Floats = base  # (k, 1), how often each arm answers
        self.text: NDArray[np.float32] | None = None  # (DRAWS k, FEATURES)
        self.bases: dict[str, Worth] = {}

    def draw(self, task: str, mean: Floats, variance: Floats) -> Worth:
        """Draws what the pool's arms are worth on a task, without what a text adds; means and variances are (K,)."""
        places = self.places
        drawn = (mean[places, None] + np.sqrt(variance[places, None]) * self.noise) * self.answered
        worth = np.ascontiguousarray((drawn + self.base).T, dtype=np.float32)
        if np.isnan(worth.sum()):  # a broken belief gets no traffic; when all are, the first of the pool serves
            worth[np.isnan(worth)] = -inf
        if len(self.bases) >= MAX_BASES:
            self.bases.clear()
        made = self.bases[task] = (worth, worth.argmax(axis=1).tolist())
        return made

    def with_text(self, base: Worth, text: Features | None) -> Worth:
        """The worths with what a text adds."""
        if text is None or self.text is None:
            return base
        worth = self.text.dot(text).reshape(base[0].shape)
        worth += base[0]
        return worth, worth.argmax(axis=1).tolist()

    def favour(self, base: Worth, arm: str, by: float) -> Worth:
        """The worths, `by` more for one arm."""
        if arm not in self.arms:
            return base
        worth = base[0].copy()
        worth[:, self.arms.index(arm)] += by
        return worth, worth.argmax(axis=1).tolist()

    def pick(self, drawn: Worth, uniform: float) -> Pick:
        """The arm for one request; `uniform` is a random number in [0, 1)."""
        worth, best = drawn
        beyond = uniform - self.edges[-1]
        if beyond >= 0.0:
            row = min(DRAWS - 1, int(beyond / self.rest * DRAWS))
            place = best[row]
        else:
            row = 0
            place = bisect_right(self.edges, beyond + self.edges[-1])
        propensity = self.floors[place] + self.rest * (best.count(place) / DRAWS)
        return Pick(self.arms[place], propensity, self.arms, tuple(worth[row].tolist()))
