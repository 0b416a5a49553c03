"""Tests that may be looked at after every observation: e-processes and a confidence sequence.

**Harm test** (`HarmTest`). Every unit gets its label canary (G=1) by a hash with known probability w (the step),
whatever happened before. Its result is a harm X in [0, 1]: an error, `1 - quality`, or "slower than the control's
p95". H0: at no time is the canary's mean harm above the control's at that time. A gambler bets on the LABEL once the
harm is seen; with any a < b fixed before the observation, and p = w b + (1 - w) a, the stake grows by

    X f1(G) + (1 - X) f0(G),   f1 = (b if G else a) / p,   f0 = ((1 - b) if G else (1 - a)) / (1 - p)

which is the two-sample factor of Turner, Ly, Grunwald 2022 (arXiv 2106.02693), here as a test of the label. If the
result does not depend on the label, E[factor | X] = 1 for EVERY sequence X: bursts, outages and drift that hit both
groups cost nothing. If the canary is better the expectation is below 1, because the factor is linear in X and f1(1) >
f0(1). So the wealth E is a non-negative supermartingale that begins at 1, and P(E ever reaches 1/alpha) <= alpha
(Ville 1939): reject then. If the labels' true share differs from w, the error is of second order, as `a` follows the
observed harm.

**Bets.** `a` is the control's smoothed mean harm so far, recomputed at geometric times, `b` has k times the odds of
a, k in `_ODDS`: a mixture, so no effect size need be guessed. A part of the wealth begins as cash; at growing intervals
of canary observations some of it is bet anew, so that an arm that turns bad after a long good time is still found
(Herbster, Warmuth 1998). Moving money between bets before the next observation keeps the supermartingale.

**Numbers** (`OrderTest`: TTFT, latency, cost). H0: the canary is stochastically no larger than the control. Then it
exceeds any cut no more often, so each cut gives a HarmTest, and the mean of e-processes is one (sequential tests of
stochastic order: arXiv 2205.14762). The caller passes cuts known before the observation: the control's quantiles so
far.

**Mean** (`MeanSequence`). Predictable plug-in empirical Bernstein confidence sequence for the mean of values in [0,
1] (Waudby-Smith, Ramdas 2024, arXiv 2010.09686, theorem 2; compare Howard et al. 2021, arXiv 1810.08240): at all
times at once the mean lies inside with probability 1 - alpha.

What these do not do: they never accept H0; `MeanSequence` is what shows non-inferiority.
"""

from collections.abc import Sequence
from math import exp, log, sqrt
from typing import Final

_ODDS: Final = (1.6, 3.0, 9.0, 300.0)  # alternatives: odds of harm, canary against control
_CASH: Final = 0.25  # kept aside at the beginning: pays for finding later changes, costs a third of the wealth bet
_REBET_EVERY: Final = 32  # canary observations between new bets
_MAX_WEALTH: Final = 1e100  # wealth is cut here: multiplication must not overflow in a long and clear case
_CAP: Final = 0.5  # largest bet of the confidence sequence (the paper uses 1/2 or 3/4)


class HarmTest:
    """E-process for "the canary does no more harm than the control" (see the head of this file).

    `share` is the probability, in (0, 1), with which the observed unit was put in the canary; with 0 or 1 there is no
    comparison and the observation only counts. About 1 us per update, O(1) memory.
    """

    __slots__ = ("_cash", "_for_share", "_harm", "_n", "_refresh_at", "_stakes", "_tables", "canary_n", "e_value")

    def __init__(self) -> None:
        self._cash = _CASH
        self._stakes = [(1 - _CASH) / len(_ODDS)] * len(_ODDS)
        self.e_value = 1.0
        self.canary_n = 0
        self._n = 0
        self._harm = 0.0
        self._refresh_at = 0
        self._for_share = -1.0
        self._tables: tuple[tuple[float, ...], ...] = ()

    def update_canary(self, harm: float, share: float) -> None:
        """One canary unit with `harm` in 0..1."""
        if self._ready(share):
            self._bet(harm, 2)
        self.canary_n += 1
        if self.canary_n % _REBET_EVERY == 0:
            self._rebet()

    def update_control(self, harm: float, share: float) -> None:
        """One concurrent control unit with `harm` in 0..1."""
        if self._ready(share):
            self._bet(harm, 0)
        self._harm += harm
        self._n += 1

    def rejected(self, alpha: float) -> bool:
        """Whether H0 is rejected now. At any and every time, wrong with probability <= alpha in all."""
        return self.e_value * alpha >= 1.0

    def _ready(self, share: float) -> bool:
        if not 0.0 < share < 1.0:
            return False
        if self._n >= self._refresh_at or share != self._for_share:
            self._refresh(share)
        return True

    def _refresh(self, share: float) -> None:
        """New factors from the control so far; a tenth more of it until the next time."""
        a = (self._harm + 0.2) / (self._n + 10.0)  # prior: 2 % harm, worth ten observations
        odds = a / (1 - a)
        alternatives = [k * odds / (1 + k * odds) for k in _ODDS]
        mixed = [share * b + (1 - share) * a for b in alternatives]
        self._tables = (
            tuple(a / p for p in mixed),
            tuple((1 - a) / (1 - p) for p in mixed),
            tuple(b / p for b, p in zip(alternatives, mixed, strict=True)),
            tuple((1 - b) / (1 - p) for b, p in zip(alternatives, mixed, strict=True)),
        )
        self._for_share = share
        self._refresh_at = self._n + 1 + self._n // 10

    def _bet(self, harm: float, group: int) -> None:
        f1, f0 = self._tables[group], self._tables[group + 1]
        stakes = self._stakes
        if harm == 0.0:
            stakes = [s * f for s, f in zip(stakes, f0, strict=True)]
        elif harm == 1.0:
            stakes = [s * f for s, f in zip(stakes, f1, strict=True)]
        else:
            stakes = [s * (harm * f + (1 - harm) * g) for s, f, g in zip(stakes, f1, f0, strict=True)]
        wealth = self._cash + sum(stakes)
        if wealth > _MAX_WEALTH:
            stakes = [s * (_MAX_WEALTH / wealth) for s in stakes]
            wealth = _MAX_WEALTH
        self._stakes = stakes
        self.e_value = wealth

    def _rebet(self) -> None:
        """Bets a part of the cash anew: at the k-th time 1/(k+1) of it, so that some is left for every later change."""
        part = self._cash / (1 + self.canary_n // _REBET_EVERY)
        self._cash -= part
        each = part / len(_ODDS)
        self._stakes = [s + each for s in self._stakes]

    def to_state(self) -> list[float]:
        return [self._cash, self.canary_n, self._n, self._harm, *self._stakes]

    @classmethod
    def from_state(cls, state: Sequence[float]) -> "HarmTest":
        """The inverse of `to_state`. Raises ValueError when the state is not one of this version."""
        if len(state) != 4 + len(_ODDS):
            raise ValueError(f"state of a harm test has {len(state)} numbers, expected {4 + len(_ODDS)}")
        made = cls()
        made._cash, made.canary_n, made._n, made._harm = state[0], int(state[1]), int(state[2]), state[3]
        made._stakes = list(state[4:])
        made.e_value = made._cash + sum(made._stakes)
        return made


class OrderTest:
    """E-process for "the canary's numbers are stochastically no larger": the mean of one HarmTest per cut."""

    __slots__ = ("tests",)

    def __init__(self, cuts: int) -> None:
        self.tests = [HarmTest() for _ in range(cuts)]

    def update_canary(self, value: float, share: float, cuts: Sequence[float]) -> None:
        """One canary unit. `cuts` must have been known before `value` was."""
        for test, cut in zip(self.tests, cuts, strict=True):
            test.update_canary(1.0 if value > cut else 0.0, share)

    def update_control(self, value: float, share: float, cuts: Sequence[float]) -> None:
        """One concurrent control unit."""
        for test, cut in zip(self.tests, cuts, strict=True):
            test.update_control(1.0 if value > cut else 0.0, share)

    @property
    def e_value(self) -> float:
        return sum(test.e_value for test in self.tests) / len(self.tests)

    def rejected(self, alpha: float) -> bool:
        return self.e_value * alpha >= 1.0

    def to_state(self) -> list[list[float]]:
        return [test.to_state() for test in self.tests]

    @classmethod
    def from_state(cls, state: Sequence[Sequence[float]]) -> "OrderTest":
        made = cls(0)
        made.tests = [HarmTest.from_state(each) for each in state]
        return made


class MeanSequence:
    """Confidence sequence for the mean of values in [0, 1]: `lower` and `upper` hold at all times at once."""

    __slots__ = ("_budget", "_spread", "_squares", "_weight", "_weighted", "lower", "n", "total", "upper")

    def __init__(self, alpha: float) -> None:
        self._budget = log(2 / alpha)
        self.n = 0
        self.total = 0.0
        self._squares = 0.25  # prior variance, worth one observation
        self._weight = 0.0
        self._weighted = 0.0
        self._spread = 0.0
        self.lower = 0.0
        self.upper = 1.0

    def add(self, value: float) -> None:
        """One value in 0..1. The interval only shrinks: intersections of a confidence sequence are one."""
        n = self.n + 1
        mean = (0.5 + self.total) / n
        bet = min(_CAP, sqrt(2 * self._budget / (self._squares * log(1 + n))))
        deviation = value - mean
        self._weight += bet
        self._weighted += bet * value
        self._spread += deviation * deviation * (-log(1 - bet) - bet)
        self.n = n
        self.total += value
        after = value - (0.5 + self.total) / (n + 1)
        self._squares += after * after
        centre = self._weighted / self._weight
        radius = (self._budget + self._spread) / self._weight
        self.lower = max(self.lower, centre - radius)
        self.upper = min(self.upper, centre + radius)

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    def to_state(self) -> list[float]:
        return [
            exp(-self._budget) * 2, self.n, self.total, self._squares,
            self._weight, self._weighted, self._spread, self.lower, self.upper,
        ]  # fmt: skip

    @classmethod
    def from_state(cls, state: Sequence[float]) -> "MeanSequence":
        """The inverse of `to_state`. Raises ValueError when the state is not one of this version."""
        alpha, n, total, squares, weight, weighted, spread, lower, upper = state
        made = cls(alpha)
        made.n, made.total, made._squares = int(n), total, squares
        made._weight, made._weighted, made._spread = weight, weighted, spread
        made.lower, made.upper = lower, upper
        return made
