"""An alarm with a stated number of false alarms, whatever the distribution: ranks, bets on them, and a detector.

**Ranks.** Something strange is given a score, larger for stranger. If nothing changes, the scores S_1, S_2, ... are
exchangeable: every order of them is equally likely. Then the rank R_n of S_n among S_1 .. S_n (1 is the largest) is
uniform on 1..n and independent of all earlier ranks, for ANY distribution of the scores (Renyi 1962; conformal
transducers: Vovk, Gammerman, Shafer 2005, chapter 8; Vovk 2021, "Testing randomness online"). Ties are broken by a fixed
hash of n, which knows nothing of the data.

**Bets.** For a density f on (0, 1] with integral 1 the number

    e_n = n * (F(R_n / n) - F((R_n - 1) / n)),    F(p) = p^k,    k in BETS

has mean 1 given all earlier ranks: it is a fair bet that S_n is among the largest. Small k wins much on the very
largest and loses on the rest, large k wins slowly on what is only somewhat larger. No k need be guessed: all are used.

**Detector.** M_n = (M_(n-1) + 1) * e_n, M_0 = 0, for each bet, and their mean. While nothing changes M_n - n is a
martingale, so with an alarm at the first M_n >= A the mean time to a false alarm is at least A, and the probability of
one within n steps at most n / A (e-detectors: Shin, Ramdas, Rinaldo 2023, arXiv 2203.03532, with Shiryaev-Roberts
sums). It may be looked at after every step. After an alarm everything begins anew, so that in the long run there is
at most one false alarm in A steps.

**Memory.** The scores of one epoch, at most EPOCH; then ranks begin anew. That keeps the promise: given the past, what
follows is exchangeable too.

What it does not do: scores that depend on each other over more than one step (a daily cycle looked at every minute) are
not exchangeable, and no promise is made for them. A step is worth at most n^(1 - k): with few scores seen, a single
strange one is no proof.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

BETS: Final = (0.1, 0.3, 0.6)  # 0..1; smaller finds great changes sooner, larger finds small ones at all
EPOCH: Final = 512  # 256..65,536 scores; more remember an older normal and cost memory, fewer forget it sooner
_MASK: Final = 2**64 - 1


def jitter(number: int) -> float:
    """A number in 0..1 that looks random and is a function of `number` alone (SplitMix64): breaks ties."""
    mixed = (number + 1) * 0x9E3779B97F4A7C15 & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return (mixed ^ mixed >> 31) / 2.0**64


class Ranks:
    """The scores of an epoch in order. `add` gives the rank of a new one. O(log n) plus a short move of memory."""

    __slots__ = ("_scores", "seen")

    def __init__(self) -> None:
        self._scores: list[tuple[float, float]] = []  # (score, jitter), rising
        self.seen = 0  # in all epochs

    def __len__(self) -> int:
        return len(self._scores)

    def add(self, score: float) -> tuple[int, int]:
        """Takes a score in; answers (its rank from the largest, how many scores there are now)."""
        if len(self._scores) >= EPOCH:
            self._scores.clear()
        entry = (score, jitter(self.seen))
        self.seen += 1
        at = bisect_left(self._scores, entry)
        self._scores.insert(at, entry)
        return len(self._scores) - at, len(self._scores)

    def to_state(self) -> list[object]:
        return [self.seen, [score for score, _ in self._scores]]

    def restore(self, state: Sequence[object]) -> None:
        """The inverse of `to_state`, with other tie breaks. Raises ValueError or TypeError when it cannot be read."""
        number, scores = state
        if not (isinstance(number, int) and isinstance(scores, list)):
            raise ValueError("the state of ranks is a number and a list")  # noqa: TRY004  a broken state, not our types
        self.seen = number
        self._scores = sorted((float(score), jitter(-at)) for at, score in enumerate(scores))


def e_values(rank: int, n: int) -> tuple[float, ...]:
    """What each bet of BETS pays when the newest of n scores has this rank; the mean over ranks 1..n is 1."""
    high, low = rank / n, (rank - 1) / n
    return tuple(n * (high**k - low**k) for k in BETS)


class Detector:
    """Alarms when the newest scores are larger than chance allows, on any of several kinds of score.

    `limit` is A of the head of this file: at least so many steps, in the mean, to a false alarm.
    """

    __slots__ = ("_ranks", "_sums", "limit")

    def __init__(self, limit: float, kinds: int = 1) -> None:
        self.limit = limit
        self._ranks = [Ranks() for _ in range(kinds)]
        self._sums = [[0.0] * len(BETS) for _ in range(kinds)]

    @property
    def evidence(self) -> float:
        """The mean of the M_n; an alarm at `limit`."""
        return sum(map(sum, self._sums)) / (len(self._sums) * len(BETS))

    @property
    def steps(self) -> int:
        """Scores of each kind since it began."""
        return self._ranks[0].seen

    def step(self, scores: Sequence[float]) -> bool:
        """Takes one score of each kind in; True is an alarm, after which the detector has begun anew."""
        for at, (ranks, score) in enumerate(zip(self._ranks, scores, strict=True)):
            bets = e_values(*ranks.add(score))
            self._sums[at] = [(held + 1.0) * bet for held, bet in zip(self._sums[at], bets, strict=True)]
        if self.evidence < self.limit:
            return False
        self.clear()
        return True

    def clear(self) -> None:
        """Begins anew: no scores, no evidence."""
        kinds = len(self._ranks)
        self._ranks = [Ranks() for _ in range(kinds)]
        self._sums = [[0.0] * len(BETS) for _ in range(kinds)]

    def to_state(self) -> list[object]:
        return [self._sums, [ranks.to_state() for ranks in self._ranks]]

    def restore(self, state: Sequence[object]) -> None:
        """The inverse of `to_state`. Raises ValueError or TypeError for a state of another shape; then `clear`."""
        sums, ranks = state
        if not (isinstance(sums, list) and isinstance(ranks, list)):
            raise ValueError("the state of a detector is two lists")  # noqa: TRY004  a broken state, not our types
        read = [[float(held) for held in row] for row in sums]
        if [len(row) for row in read] != [len(BETS)] * len(self._ranks):
            raise ValueError("the state of a detector has other bets or kinds")
        for mine, kept in zip(self._ranks, ranks, strict=True):
            mine.restore(kept)
        self._sums = read
