"""Many A/B experiments at once: the test of `core.race` over an axis of runs, and two rules of others to compare it with.

    Bets     the rule of `core.race.Race`, number for number (tests/unit/bench/test_experiments.py compares them)
    Ratio    generalised likelihood ratio of normal means with the threshold log((1 + log n) / alpha), at least 10 values of
             each variant: the stopping rule of TensorZero (crates/tensorzero-core/src/experimentation/track_and_stop/
             check_stopping.rs). The threshold is the usual one of the literature and has no proof at finite n.
    Mixture  the mixture sequential probability ratio test of A/B tools (Johari et al., arXiv 1512.04922; the asymptotic
             confidence sequences of arXiv 2103.06476 are its dual), all pairs at alpha / (K (K - 1) / 2), its prior on the
             true effect of .05: the most favourable one

A rule takes one value of each run (`observe`), says who has won (`winner`, -1 for nobody yet), and how much evidence each
leader has against each challenger, which is what the allocation needs.
"""

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from sidecar.core import race

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
MIN_VALUES: Final = 10  # TensorZero's default of values before its rule looks
PRIOR: Final = 0.05  # standard deviation of the effect that the mixture test expects


class Rule(Protocol):
    """A stopping rule over many runs."""

    counts: Floats  # (runs, variants)
    totals: Floats
    needed: float  # evidence of one pair that decides it

    def observe(self, variants: Ints, values: Floats, shares: Floats) -> None: ...
    def winner(self) -> Ints: ...
    def evidence(self, leader: Ints) -> Floats: ...
    def keep(self, runs: NDArray[np.bool_]) -> None: ...


class _Counting:
    def __init__(self, runs: int, variants: int) -> None:
        self.counts = np.zeros((runs, variants))
        self.totals = np.zeros((runs, variants))

    def observe(self, variants: Ints, values: Floats, shares: Floats) -> None:  # noqa: ARG002  the bets need them
        """One value of each run."""
        runs = np.arange(len(variants))
        self.counts[runs, variants] += 1.0
        self.totals[runs, variants] += values

    def keep(self, runs: NDArray[np.bool_]) -> None:
        """Goes on with these runs only."""
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray) and name[0] != "_":
                setattr(self, name, value[runs])


class Bets(_Counting):
    """`core.race.Race`, for many runs; wealth is kept as it is and not as its log, and in single precision, for speed."""

    def __init__(self, runs: int, variants: int, alpha: float) -> None:
        super().__init__(runs, variants)
        self._lines = lines = race.Lines(variants)
        needed = race.thresholds(variants, alpha)
        self.needed = float(needed[0])
        self._needed = np.exp(needed[lines.size - 1]).astype(np.float32)
        self._one, self._other = lines.one.astype(np.float32), lines.other.astype(np.float32)
        self._effects, self._stakes = race.EFFECTS.astype(np.float32), race.STAKES.astype(np.float32)
        size = len(lines.size)
        self.wealth = np.ones((runs, size, len(race.EFFECTS)), np.float32)
        self.best = np.ones((runs, size), np.float32)
        self.n, self.total = np.zeros((runs, size), np.float32), np.zeros((runs, size), np.float32)
        self.squares = np.full((runs, size), 0.25, np.float32)
        self._shares: Floats | None = None  # for which `_share` was computed
        self._share: NDArray[np.floating] = self.n

    def observe(self, variants: Ints, values: Floats, shares: Floats) -> None:
        """One value of each run; `shares` (runs, variants) are those by which its variant was drawn."""
        super().observe(variants, values, shares)
        if shares is not self._shares:
            ours = shares.astype(np.float32) @ self._one.T
            self._share = ours / (ours + shares.astype(np.float32) @ self._other.T)
            self._shares = shares
        y, share = values.astype(np.float32)[:, None], self._share
        mine, others = self._one.T[variants], self._other.T[variants]
        mean = (0.5 + self.total) / (1.0 + self.n)
        variance = np.maximum(self.squares / (1.0 + self.n), np.float32(race.MIN_VARIANCE))
        x = (mine - (mine + others) * share) * (y - mean)
        ruin = np.maximum((1.0 - share) * mean, share * (1.0 - mean))
        bet = np.minimum(self._effects / np.sqrt(variance)[..., None], (race.SURE / ruin)[..., None])
        bet *= x[..., None]
        bet += 1.0
        with np.errstate(over="ignore"):  # what is clear for long may become infinite: it was shown long before
            self.wealth *= bet
        np.maximum(self.best, self.wealth @ self._stakes, out=self.best)
        seen = mine + others
        self.squares += seen * (y - mean) * (y - (0.5 + self.total + y) / (2.0 + self.n))
        self.n += seen
        self.total += seen * y

    def winner(self) -> Ints:
        """The variant that has beaten all others, -1 where none has."""
        shown = (self.best >= self._needed).astype(np.float32) @ self._one
        full = shown >= self._one[:, 0].sum() - 0.5
        first: Ints = np.where(full.any(1), full.argmax(1), -1)
        return first

    def evidence(self, leader: Ints) -> Floats:
        """Largest log wealth of (leader, j), 0 for the leader itself."""
        variants = self.counts.shape[1]
        pair = np.array([[self._lines.pair.get((i, j), 0) for j in range(variants)] for i in range(variants)])
        found: Floats = np.log(self.best[np.arange(len(leader))[:, None], pair[leader]])
        found[np.arange(len(leader)), leader] = 0.0
        return found


class Ratio(_Counting):
    """See the head. `alpha` is delta there."""

    def __init__(self, runs: int, variants: int, alpha: float) -> None:
        super().__init__(runs, variants)
        self._alpha = alpha
        self.needed = 0.0

    def evidence(self, leader: Ints) -> Floats:
        """The likelihood ratio of (leader, j)."""
        runs, counts = np.arange(len(leader)), np.maximum(self.counts, 1.0)
        means = self.totals / counts
        error2 = np.maximum(means * (1.0 - means), 1e-12) / counts
        gap = np.maximum(means[runs, leader][:, None] - means, 0.0)
        found: Floats = gap**2 / (2.0 * (error2 + error2[runs, leader][:, None]))
        return found

    def winner(self) -> Ints:
        """The leader, where its smallest ratio is above the threshold."""
        self.needed = float(np.log((1.0 + np.log(self.counts[0].sum())) / self._alpha))
        leader = (self.totals / np.maximum(self.counts, 1.0)).argmax(1)
        found = self.evidence(leader)
        found[np.arange(len(leader)), leader] = np.inf
        return np.where((found.min(1) > self.needed) & (self.counts.min(1) >= MIN_VALUES), leader, -1)


class Mixture(_Counting):
    """See the head."""

    def __init__(self, runs: int, variants: int, alpha: float) -> None:
        super().__init__(runs, variants)
        self.needed = float(np.log(variants * (variants - 1) / 2.0 / alpha))

    def evidence(self, leader: Ints) -> Floats:
        """Log of the mixture's likelihood ratio of (leader, j)."""
        runs, counts = np.arange(len(leader)), np.maximum(self.counts, 1.0)
        means = self.totals / counts
        error2 = np.maximum(means * (1.0 - means), 0.01) / counts
        error2 = error2 + error2[runs, leader][:, None]
        gap = means[runs, leader][:, None] - means
        found: Floats = gap**2 * PRIOR**2 / (2.0 * error2 * (error2 + PRIOR**2)) + 0.5 * np.log(
            error2 / (error2 + PRIOR**2)
        )
        return np.where(gap > 0.0, found, 0.0)

    def winner(self) -> Ints:
        """The leader, where it is above the threshold against each other."""
        leader = (self.totals / np.maximum(self.counts, 1.0)).argmax(1)
        found = self.evidence(leader)
        found[np.arange(len(leader)), leader] = np.inf
        return np.where((found.min(1) > self.needed) & (self.counts.min(1) >= MIN_VALUES), leader, -1)
