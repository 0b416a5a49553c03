"""Is the canary slower or dearer? An e-process for whole distributions of a number (TTFT, latency, cost).

H0: at no time is the canary stochastically larger than the control, whatever the distributions are and however they
drift. The label of each value is bet on, as in `core.sequential`: with odds r(x) >= 0 the stake grows by

    r(x) / d(x)  for a canary value,    1 / d(x)  for a control value,    d(x) = w r(x) + 1 - w

and the mean of this over the labels is 1 for every x, so equal distributions make it a fair game (sequential tests of
equality and stochastic order: Lindon, Sanden, Shirikian 2022, arXiv 2205.14762). r never falls with x: what the bet
pays a canary then never falls either, a stochastically smaller canary loses money, and the wealth is a supermartingale.

**Odds.** The values are cut at quantiles of the control so far (`_QUANTILES`) into bins; r of a bin is the likelihood
ratio of an alternative: the control's own histogram, with all values multiplied (`_SLOWER`), or with a share of them in
the last bin (`_TAILS`), against that histogram. It is smoothed by one value spread over the bins, made monotone by a
running maximum, scaled so that its mean over the control is 1, and mixed with a tenth of 1, so that one value never
takes everything. All of this is known before the next value: cuts and odds are made anew when the control has grown by a
quarter. The wealth is spread evenly over the alternatives, with cash for later (`sequential.Wealth`).

**Missing values.** A group that shows fewer values for reasons that are not their size wins or loses little, as the odds
have mean 1 in both: up to a fifth fewer are harmless, two fifths are not. And no bet is made after MAX_ALONE / w
control values without one of the canary, until one has come: a canary whose values never come is not slow.
Where the labels are not drawn (pairs, one value of each), only odds >= 1 are fair: `floor`.

**Waits.** Who leaves after t without an answer shows a value of at least t: the odds are those of t, and `floor` is 1.
That is at least what any smaller answer pays, so `min(answer, patience)` of a faster canary pays no more and the
promise holds; and leaving early is not taken for a fast answer.

What it does not know: which quantile is worse. The guardrail shows those of both groups.
"""

from bisect import bisect_left
from collections.abc import Sequence
from operator import mul
from typing import Final

from sidecar.core.sequential import Wealth
from sidecar.core.window import RELATIVE_ERROR, Histogram

_SLOWER: Final = (1.15, 1.4, 2.0, 4.0, 16.0)  # all values times this; 1.05..100, spread by ratio
_TAILS: Final = (0.05, 0.3)  # share of values that become the largest; 0.01..0.5
_QUANTILES: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)  # to 0.99; higher: rare hangs show, missing values weigh more
_EVEN: Final = 0.1  # 0.02..0.3 of the odds is 1; smaller: one value can ruin a bet, larger: each value pays less
MIN_VALUES: Final = 20  # 10..100 of the control before there are cuts; fewer: odds by chance, more: a later start
MAX_ALONE: Final = 3.0  # 2..10; smaller: more values are not bet on (5 % at 3), larger: absence counts for more
BIN_END: Final = (1 + 1e-9) / (1 - RELATIVE_ERROR)  # from a quantile as it is read to the upper end of its bin
_Rows = tuple[tuple[float, ...], ...]
ALTERNATIVES: Final = len(_SLOWER) + len(_TAILS)


def cuts_of(values: Histogram, quantiles: Sequence[float]) -> tuple[float, ...]:
    """Rising upper ends of the bins of these quantiles: a value that many share does not exceed itself."""
    return tuple(sorted({(values.quantile(q) or 0.0) * BIN_END for q in quantiles}))


class Odds:
    """The odds of each bin for each alternative, from the control's values so far."""

    __slots__ = ("_factors", "_for_share", "cuts", "rows")

    def __init__(self, control: Histogram) -> None:
        self.cuts = cuts_of(control, _QUANTILES)
        plain = self._masses(control, 1.0)
        columns: list[list[float]] = [_odds(self._masses(control, ratio), plain) for ratio in _SLOWER]
        for share in _TAILS:
            moved = [(1 - share) * mass for mass in plain]
            moved[-1] += share
            columns.append(_odds(moved, plain))
        self.rows: _Rows = tuple(zip(*columns, strict=True))  # per bin, one for each alternative
        self._for_share = -1.0
        self._factors: tuple[_Rows, ...] = ()  # per bin: of control, of canary

    def _masses(self, control: Histogram, ratio: float) -> list[float]:
        bins = len(self.cuts) + 1
        masses = [1 / bins] * bins
        for value, count in control.values():
            masses[bisect_left(self.cuts, value * ratio)] += count
        return [mass / (control.count + 1) for mass in masses]

    def factors(self, value: float, share: float, *, canary: bool, floor: float) -> tuple[float, ...]:
        """What each stake is multiplied by; `share` in (0, 1), no odds below `floor`."""
        at = bisect_left(self.cuts, value)
        if floor:
            return _factors(tuple(max(floor, odds) for odds in self.rows[at]), share)[canary]
        if share != self._for_share:
            made = [_factors(row, share) for row in self.rows]
            self._for_share, self._factors = share, (tuple(one for one, _ in made), tuple(one for _, one in made))
        return self._factors[canary][at]


def _factors(odds: Sequence[float], share: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    control = tuple(1 / (share * r + 1 - share) for r in odds)
    return control, tuple(r * factor for r, factor in zip(odds, control, strict=True))


def _odds(moved: Sequence[float], plain: Sequence[float]) -> list[float]:
    """Monotone odds of two distributions over the same bins, with mean 1 under `plain`."""
    rising, top = [], 0.0
    for new, old in zip(moved, plain, strict=True):
        top = max(top, new / old)
        rising.append(top)
    mean = sum(r * mass for r, mass in zip(rising, plain, strict=True))
    return [_EVEN + (1 - _EVEN) * r / mean for r in rising]


class OrderTest(Wealth):
    """E-process for "the canary's numbers are stochastically no larger". One for all strata; O(1) memory."""

    __slots__ = ("_alone",)

    def __init__(self) -> None:
        super().__init__([1 / ALTERNATIVES] * ALTERNATIVES)
        self._alone = 0  # control values since the last one of the canary

    def update(self, odds: Odds, value: float, share: float, *, canary: bool, floor: float = 0.0) -> None:
        """One value of the canary or of the concurrent control. `odds` must have been made before `value` was known;
        `share` is the probability with which its unit was put in the canary (0 or 1: it only counts). `floor` is 1
        for a wait without an answer and where labels come in pairs, else 0."""
        if 0.0 < share < 1.0 and self._alone * share <= MAX_ALONE:
            factors = odds.factors(value, share, canary=canary, floor=floor)
            self.take(list(map(mul, self.stakes, factors)))
        if canary:
            self._alone = 0
            self.count()
        else:
            self._alone += 1

    @classmethod
    def from_state(cls, state: Sequence[float]) -> "OrderTest":
        """The inverse of `to_state`. Raises ValueError when the state is not one of this version."""
        made = cls()
        made.restore(state)
        return made
