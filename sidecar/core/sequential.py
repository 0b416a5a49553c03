"""Tests that may be looked at after every observation: e-processes and a confidence sequence.

**Harm test** (`HarmTest`). Every unit gets its label canary (G=1) by a hash with known probability w (the step),
whatever happened before. Its result is a harm X in [0, 1]: an error, `1 - quality`, or "slower than the control's p95".
H0: at no time is the canary's mean harm above the control's at that time. A gambler who thinks that the canary does r
times the harm bets on the LABEL of each harm: the stake grows by

    1 - X + X f(G),    f(1) = r / d,    f(0) = 1 / d,    d = w r + 1 - w

which is the likelihood ratio of the label of a harm, the conditional form of the two-sample e-process of Turner, Ly,
Grunwald 2022 (arXiv 2106.02693). If the result does not depend on the label, E[factor | X] = 1 for EVERY sequence X:
bursts, outages and drift that hit both groups cost nothing. If the canary is better the expectation is below 1, since
f(1) > 1. So the wealth E is a non-negative supermartingale that begins at 1, and P(E ever reaches 1/alpha) <= alpha
(Ville 1939): reject then. Units without harm change nothing: a group whose results come late, or whose clients leave
more often, is not evidence by its absence. While the odds of the labels that are counted are less than about sqrt(r)
times those of w (22 % too many canary units for the smallest r), equal arms still lose money on average.

**Bets.** A mixture over r in `_RATIOS`, so no effect size need be guessed. A part of the wealth begins as cash; at
growing intervals of canary observations some of it is bet anew, so that an arm that turns bad after a long good time is
still found (Herbster, Warmuth 1998). Moving money between bets before the next observation keeps the supermartingale.

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

_RATIOS: Final = (1.5, 2.5, 6.0, 100.0)  # alternatives: harm of the canary against the control
_CASH: Final = 0.25  # kept aside at the beginning: pays for finding later changes, costs a third of the wealth bet
_REBET_EVERY: Final = 32  # canary observations between new bets
_MAX_WEALTH: Final = 1e100  # wealth is cut here: multiplication must not overflow in a long and clear case
_CAP: Final = 0.5  # largest bet of the confidence sequence (the paper uses 1/2 or 3/4)


class HarmTest:
    """E-process for "the canary does no more harm than the control" (see the head of this file).

    `share` is the probability, in (0, 1), with which the observed unit was put in the canary; with 0 or 1 there is no
    comparison and the observation only counts. About 1 us per update, O(1) memory.
    """

    __slots__ = ("_cash", "_factors", "_for_share", "_stakes", "canary_n", "e_value")

    def __init__(self) -> None:
        self._cash = _CASH
        self._stakes = [(1 - _CASH) / len(_RATIOS)] * len(_RATIOS)
        self.e_value = 1.0
        self.canary_n = 0
        self._for_share = -1.0
        self._factors: tuple[tuple[float, ...], ...] = ()  # of a whole harm: control, canary

    def update_canary(self, harm: float, share: float) -> None:
        """One canary unit with `harm` in 0..1."""
        if harm > 0.0 and 0.0 < share < 1.0:
            self._bet(harm, 1, share)
        self.canary_n += 1
        if self.canary_n % _REBET_EVERY == 0:
            self._rebet()

    def update_control(self, harm: float, share: float) -> None:
        """One concurrent control unit with `harm` in 0..1."""
        if harm > 0.0 and 0.0 < share < 1.0:
            self._bet(harm, 0, share)

    def rejected(self, alpha: float) -> bool:
        """Whether H0 is rejected now. At any and every time, wrong with probability <= alpha in all."""
        return self.e_value * alpha >= 1.0

    def _bet(self, harm: float, group: int, share: float) -> None:
        if share != self._for_share:
            self._for_share = share
            divisors = [share * r + 1 - share for r in _RATIOS]
            whole = tuple(1 / d for d in divisors)
            self._factors = (whole, tuple(r / d for r, d in zip(_RATIOS, divisors, strict=True)))
        rest = 1 - harm
        stakes = [s * (rest + harm * f) for s, f in zip(self._stakes, self._factors[group], strict=True)]
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
        each = part / len(_RATIOS)
        self._stakes = [s + each for s in self._stakes]

    def to_state(self) -> list[float]:
        return [self._cash, self.canary_n, *self._stakes]

    @classmethod
    def from_state(cls, state: Sequence[float]) -> "HarmTest":
        """The inverse of `to_state`. Raises ValueError when the state is not one of this version."""
        if len(state) != 2 + len(_RATIOS):
            raise ValueError(f"state of a harm test has {len(state)} numbers, expected {2 + len(_RATIOS)}")
        made = cls()
        made._cash, made.canary_n, made._stakes = state[0], int(state[1]), list(state[2:])
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
        return sum([test.e_value for test in self.tests]) / len(self.tests)

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

    def count(self, value: float) -> None:
        """One value for the mean alone: the interval stays as it is."""
        self.n += 1
        self.total += value

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
