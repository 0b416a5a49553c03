"""Which of two to five variants is best, looked at after every sample: tests, intervals and the next allocation.

**Model.** A unit (a conversation) is put on variant i with a known probability, its share w_i at that moment. Its value y
lies in [0, 1], larger is better. The means may drift, as long as they drift alike.

**Comparison (i, T)**, for every variant i and every non-empty set T of others. H0: the mean of i is no larger than any of
T. It sees the units of i and of T, and bets on i: with p = w_i / (w_i + sum of w over T), m the mean so far of these
units, and x = (1 - p)(y - m) for a unit of i, x = -p (y - m) for one of T, its wealth is multiplied by 1 + b x. Given the
past, the mean of x is p (1 - p) (mean of i - mean of T), at most 0 under H0, so the wealth is an e-process and by Ville's
inequality it ever reaches c with probability <= 1/c (two-sample betting: Turner, Ly, Grünwald, arXiv 2106.02693;
Waudby-Smith, Ramdas, arXiv 2010.09686). The allocation may depend on the past in any way. `b` is an effect size over the
standard deviation so far; a mixture over `EFFECTS` needs no guess. Where w is only nearly known (variants that are judged
more often), x is a recursive residual of a common mean, which is free of the order of the labels to first order.

**Winner.** i wins when every comparison (i, T) has reached c_s once, s = |T|, with 2/c_1 + 1/c_2 + ... + 1/c_(K-1) = alpha.
Proof that a variant which is not the only best one ever wins with probability <= alpha: let T(i) be those that are at
least as good as i. If i wins, (i, T(i)) reached its c, and its H0 is true: probability <= 1/c_|T(i)|. In the order of the
means the r-th has at least r - 1 in its T; only the first two can have a T of one (a tie). The sum is alpha. At K = 5
this needs half the wealth of K tests at alpha / K each, because (i, T) pools what all of T have shown. Of a variant that
was taken out nothing is asked; the promise then speaks of those that stay.

**Intervals** of a difference d = mean of i - mean of j: wealth x exp(-d sum of b p (1 - p)) is an e-process for "not more
than d" (1 + z <= e^z). At K (K - 1) / alpha all pairs and all times hold together. The same gives `within`.

**Allocation** (`allocation`): how many samples the leader's pairs still need, and the mix that gives them soonest. Wealth
grows by gap^2 / (2 variance) per harmonic sample n_i n_j / (n_i + n_j), so challenger j needs a_j = (log c_1 - log wealth) 2
variance / gap^2 of them; minimising n_i + sum a_j n_i / (n_i - a_j) gives n. It is the oracle of track-and-stop (Garivier,
Kaufmann, arXiv 1602.04589) for what is left to show, with the gap at least its standard error; EXPLORE goes to all alike.

What it does not know: values that come later the worse they are, drift that differs by variant, units that influence each
other.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import log
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
MAX_VARIANTS: Final = 5
# Effect sizes in standard deviations that are bet on (0.01..1), and the wealth on each (sum 1). One between half and twice
# of them grows at 3/4 of the best pace or better. Most lies on 0.1, five points of a 0/1 score: larger effects are found
# within hundreds of units in any case, smaller ones need more than most services have. A part w costs log(1/w) of wealth.
EFFECTS: Final = np.array((0.025, 0.05, 0.1, 0.2, 0.4))
STAKES: Final = np.array((0.05, 0.2, 0.45, 0.2, 0.1))
SURE: Final = 0.9  # 0.5..0.99 of the bet that could lose all; smaller caps bets on rare events, larger risks ruin
MIN_VARIANCE: Final = 1e-4  # 1e-6..1e-2; smaller lets a run of equal values make bets that one other value ends
_POOLED_ALPHA: Final = 0.15  # 0.01..0.3 of alpha, for all sets T of more than one; more makes pairs harder, less sets
EXPLORE: Final = 0.1  # 0.02..0.5 of the units, alike for all: less finds a wrong leader late, more wastes units
_HALVINGS: Final = 40  # of an interval: to 1e-12 of its width


def thresholds(variants: int, alpha: float) -> _Floats:
    """log c_s for s = 1..variants - 1 (see the head); `alpha` in (0, 1)."""
    halves = [0.5**size for size in range(2, variants)]  # larger sets have more samples, so they may cost more
    spent = [_POOLED_ALPHA * alpha * half / sum(halves) for half in halves]
    needed: _Floats = np.log(np.array([2.0 / (alpha - sum(spent)), *[1.0 / part for part in spent]]))
    return needed


class Lines:
    """The comparisons among some number of variants: line r compares `one[r]` with the set of `other[r]`."""

    def __init__(self, variants: int) -> None:
        found = [
            (i, others)
            for i in range(variants)
            for size in range(1, variants)
            for others in combinations([j for j in range(variants) if j != i], size)
        ]
        self.one = np.zeros((len(found), variants))
        self.other = np.zeros((len(found), variants))
        for line, (i, others) in enumerate(found):
            self.one[line, i] = 1.0
            self.other[line, list(others)] = 1.0
        self.size = self.other.sum(1).astype(int)
        self.pair = {(i, others[0]): line for line, (i, others) in enumerate(found) if len(others) == 1}
        self.sees = [np.flatnonzero(self.one[:, i] + self.other[:, i]) for i in range(variants)]


_LINES: Final = {variants: Lines(variants) for variants in range(2, MAX_VARIANTS + 1)}


class Race:
    """The evidence on 2..5 variants, numbered from 0. See the head; about 60 us for a value."""

    def __init__(self, variants: int, alpha: float) -> None:
        self.variants, self.alpha = variants, alpha
        self.lines = _LINES[variants]
        count = len(self.lines.size)
        self._needed = thresholds(variants, alpha)[self.lines.size - 1]
        self._wealth = np.zeros((count, len(EFFECTS)))  # logs, of each stake
        self._slope = np.zeros((count, len(EFFECTS)))  # sum of b p (1 - p)
        self._best = np.zeros(count)  # the largest log wealth so far
        self._n = np.zeros(count)
        self._total = np.zeros(count)
        self._squares = np.full(count, 0.25)  # prior variance, worth one value
        self.counts = np.zeros(variants)
        self.totals = np.zeros(variants)
        self.out: set[int] = set()  # variants that were taken out: nobody need beat them

    def observe(self, variant: int, value: float, shares: Sequence[float]) -> None:
        """One unit's value in 0..1, with the shares in force when the unit was assigned (positive where not out)."""
        sees = self.lines.sees[variant]
        one = self.lines.one[sees]
        ours, theirs = one @ np.asarray(shares), self.lines.other[sees] @ np.asarray(shares)
        share = ours / (ours + theirs)
        n, total = self._n[sees], self._total[sees]
        mean = (0.5 + total) / (1.0 + n)
        variance = np.maximum(self._squares[sees] / (1.0 + n), MIN_VARIANCE)
        mine = one[:, variant] > 0.0
        x = np.where(mine, 1.0 - share, -share) * (value - mean)
        ruin = np.maximum((1.0 - share) * mean, share * (1.0 - mean))
        bet = np.minimum(EFFECTS / np.sqrt(variance)[:, None], (SURE / ruin)[:, None])
        self._wealth[sees] += np.log1p(bet * x[:, None])
        self._slope[sees] += bet * (share * (1.0 - share))[:, None]
        self._best[sees] = np.maximum(self._best[sees], mixed(self._wealth[sees]))
        self._n[sees], self._total[sees] = n + 1.0, total + value
        self._squares[sees] += (value - mean) * (value - (0.5 + total + value) / (2.0 + n))
        self.counts[variant] += 1.0
        self.totals[variant] += value

    # ---- what is shown

    @property
    def left(self) -> list[int]:
        """The variants that are not out."""
        return [one for one in range(self.variants) if one not in self.out]

    def winner(self) -> int | None:
        """The variant that has beaten all others, if one has. Once true it stays true."""
        left, shown = self.left, self._best >= self._needed
        if int(shown.sum()) < 2 ** (len(left) - 1) - 1:  # lines of one variant among those left
            return None
        gone = self.lines.other[:, list(self.out)].sum(1) > 0.0  # these sets have a variant that is out
        for one in left:
            asked = (self.lines.one[:, one] > 0.0) & ~gone
            if len(left) > 1 and bool(shown[asked].all()):
                return one
        return None

    def beaten(self, one: int, other: int) -> bool:
        """Whether `one` has ever shown to be better than `other`, at the level of a winner."""
        line = self.lines.pair[one, other]
        return bool(self._best[line] >= self._needed[line])

    def difference(self, one: int, other: int) -> tuple[float, float]:
        """Interval of mean(one) - mean(other); all pairs at all times hold together with probability 1 - alpha."""
        needed = log(self.variants * (self.variants - 1) / self.alpha)
        return self._lower(one, other, needed), -self._lower(other, one, needed)

    def within(self, one: int, other: int, margin: float) -> bool:
        """Whether |mean(one) - mean(other)| < margin is shown; ever wrong for any pair with probability <= alpha."""
        needed = log(self.variants * (self.variants - 1) / 2.0 / self.alpha)
        return all(self._at(pair, -margin) >= needed for pair in ((one, other), (other, one)))

    def _at(self, pair: tuple[int, int], difference: float) -> float:
        """Log wealth against "the difference is at most this"."""
        line = self.lines.pair[pair]
        return float(mixed(self._wealth[line] - difference * self._slope[line]))

    def _lower(self, one: int, other: int, needed: float) -> float:
        if self._at((one, other), -1.0) < needed:
            return -1.0
        low, high = -1.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._at((one, other), middle) >= needed else (low, middle)
        return low

    # ---- where the next units go

    def leader(self) -> int:
        """The variant with the largest mean (half a success and half a failure added), of those not out."""
        means = (self.totals + 0.5) / (self.counts + 1.0)
        return max(self.left, key=lambda one: means[one])

    def allocation(self) -> tuple[float, ...]:
        """Shares of the next units, one per variant, with sum 1; 0 for those that are out."""
        left, leader = self.left, self.leader()
        if len(left) == 1:  # there is nothing to tell apart
            return tuple(float(one == leader) for one in range(self.variants))
        rows = np.array([[self._best[self.lines.pair[leader, one]] if one != leader else 0.0 for one in left]])
        counts, totals = self.counts[left][None, :], self.totals[left][None, :]
        where = np.array([left.index(leader)])
        mix = fastest_mix(counts, totals, rows, where, float(thresholds(self.variants, self.alpha)[0]))[0]
        shares = dict(zip(left, mix.tolist(), strict=True))
        return tuple(shares.get(one, 0.0) for one in range(self.variants))

    # ---- restart

    def to_state(self) -> dict[str, object]:
        """JSON values for `restore`."""
        parts = (self._wealth, self._slope, self._best, self._n, self._total, self._squares, self.counts, self.totals)
        return {"out": sorted(self.out), "parts": [part.tolist() for part in parts]}

    def restore(self, state: Mapping[str, object]) -> None:
        """Takes over a state of as many variants. Raises ValueError when it is not; then nothing has changed."""
        parts = [np.array(part, dtype=float) for part in msgspec.convert(state.get("parts"), list[object])]
        mine = [self._wealth, self._slope, self._best, self._n, self._total, self._squares, self.counts, self.totals]
        if [part.shape for part in parts] != [part.shape for part in mine]:
            raise ValueError("the state is of another number of variants")
        if not all(bool(np.isfinite(part).all()) for part in parts):
            raise ValueError("the state has numbers that are not finite")
        if any(bool((part < 0.0).any()) for part in parts[3:]):
            raise ValueError("the state has counts, or sums of values in 0..1, below 0")
        out = set(msgspec.convert(state.get("out"), list[int]))
        if not out < set(range(self.variants)):
            raise ValueError("the state has variants out that are not there, or leaves none")
        self.out = out
        for old, new in zip(mine, parts, strict=True):
            old[...] = new


def mixed(wealth: _Floats) -> _Floats:
    """Log of the mixture over the last axis of log wealths."""
    top = wealth.max(-1)
    mixture: _Floats = top + np.log((STAKES * np.exp(wealth - top[..., None])).sum(-1))
    return mixture


def fastest_mix(
    counts: _Floats, totals: _Floats, evidence: _Floats, leader: NDArray[np.intp], needed: float
) -> _Floats:
    """Shares (runs, variants) that let each leader beat its challengers soonest, EXPLORE of them spread evenly.

    `counts` and `totals` are of values so far, `evidence` the largest log wealth of (leader, j); all (runs, variants).
    """
    runs, variants = np.arange(len(counts)), counts.shape[1]
    means = (totals + 0.5) / (counts + 1.0)
    pooled = totals.sum(1) / np.maximum(counts.sum(1), 1.0)
    variance = np.maximum(pooled * (1.0 - pooled), MIN_VARIANCE)[:, None]
    error2 = variance * (1.0 / (counts + 1.0) + 1.0 / (counts[runs, leader] + 1.0)[:, None])
    gap2 = np.maximum((means - means[runs, leader][:, None]) ** 2, error2)
    open_ = np.maximum(needed - evidence, 0.0) * 2.0 * variance / gap2  # harmonic samples that each pair needs
    open_[runs, leader] = 0.0
    done = open_.max(1) <= 0.0
    open_[done] = 1.0  # all pairs are shown: what is missing are pooled sets, which any mix serves
    open_[runs, leader] = 0.0
    most = open_.max(1, keepdims=True)
    low, high = most * (1.0 + 1e-9), most * (1.0 + variants**0.5)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        short = ((open_ / (middle - open_)) ** 2).sum(1, keepdims=True) > 1.0
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    samples = open_ * high / (high - open_)
    samples[runs, leader] = high[:, 0]
    mix: _Floats = (1.0 - EXPLORE) * samples / samples.sum(1, keepdims=True) + EXPLORE / variants
    return mix
