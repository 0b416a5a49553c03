"""Tests that may be looked at after every observation: e-processes and a confidence sequence.

**Harm test** (`HarmTest`). Every unit gets its label canary (G=1) by a hash with known probability w (the step),
whatever happened before. Its result is a harm X in [0, 1]: an error, or `1 - quality`. H0: at no time is the canary's
mean harm above the control's at that time. A gambler who thinks that the canary does r times the harm bets on the
LABEL of each harm: the stake grows by

    1 - X + X f(G),    f(1) = r / d,    f(0) = 1 / d,    d = w r + 1 - w

which is the likelihood ratio of the label of a harm, the conditional form of the two-sample e-process of Turner, Ly,
Grunwald 2022 (arXiv 2106.02693). If the result does not depend on the label, E[factor | X] = 1 for EVERY sequence X:
bursts, outages and drift that hit both groups cost nothing. If the canary is better the expectation is below 1, since
f(1) > 1. So the wealth E is a non-negative supermartingale that begins at 1, and P(E ever reaches 1/alpha) <= alpha
(Ville 1939): reject then. Units without harm change nothing: a group whose results come late, or whose clients leave
more often, is not evidence by its absence. While the odds of the labels that are counted are less than about sqrt(r)
times those of w (18 % too many canary units for the smallest r), equal arms still lose money on average.

H0 may tolerate more: at no time is the canary's mean harm above t times the control's. With D(x) = w x + 1 - w the label
of a harm is then the canary's with probability w t / D(t) at most, and the factors are f(1) = r D(t) / D(t r) and
f(0) = D(t) / D(t r): of mean 1 at t, below it where the canary does less, as f(1) > f(0).

**What robustness costs.** A test that knew both error rates p0, p1 for certain, and that they never change, would need
about log(1/alpha) / KL(p1 || p0) canary units. A factor that is fair for every course of the common rate is a bet on the
label given the result, and next to nothing can be won on the labels of harmless units: this test learns KL(q || w) from
each harm, q = w p1 / (w p1 + (1-w) p0). At w = 5 % and p0 = 1 % that is 8 % less per canary unit than the bound when p1 is
3 %, and 15 % when it is 10 %. Not knowing r costs the logarithm of the right bet's share of the wealth on top (`_BETS`).

**Bets.** A mixture over r, so no effect size need be guessed. Great harm has the larger stakes: it must be found within
a few units, where a factor of two in the wealth is much of the time; small harm has hundreds. A part of the wealth begins
as cash; at intervals of canary observations some of it is bet anew, so that an arm that turns bad after a long good time
is still found (Herbster, Warmuth 1998). Moving money between bets before the next observation keeps the supermartingale.

**Not inferior** (`MarginTest`). H0: at no time is the canary's mean quality above 1 - m times the control's. Each
canary harm x is paired with the mean y of the control's harms since the last pair: D = m + (1-m) y - x has a mean <= 0
under H0 and is at least m - 1, so 1 + b D is at best a fair bet for 0 <= b < 1 / (1-m) (Waudby-Smith, Ramdas 2024, arXiv
2010.09686: its wealth reaches 1/alpha when their betting confidence sequence for the mean of D leaves 0 behind). b is
their predictable approximation of the bet that grows fastest, mean / (variance + mean^2) of the D so far. Pairs compare
what came at the same time, and w is not used: a group that is scored less often does not look better for it.

**Loss** (`LossTest`). H0: at no time is the canary's mean quality below 1 - m times the control's. The same pairs, the other
way round: -D has a mean <= 0 under H0 and is at least -1, so 1 - b D is at best a fair bet for 0 <= b < 1. Several b are
bet on at once, with cash for later as in **Bets**: an adaptive bet would have to unlearn a long good time first. Bets on
the labels of good units would need no pairs, but take a group that is scored less often for a worse one.

**Mean** (`MeanSequence`). Empirical Bernstein confidence sequence for values in [0, 1] (Howard et al. 2021, arXiv
1810.08240, theorem 4): with S the sum of the values less their expectations, V that of the squares of (value - mean
before it) and psi(b) = -log(1 - b) - b, exp(b S - psi(b) V) is a supermartingale for each bet b in (0, 1). Each bet of
`_BETS_ON_MEANS` has a part of alpha, and the narrowest interval is told: at all times at once the mean of the
expectations so far lies inside with probability 1 - alpha, also where they drift.

What these do not do: a harm test never accepts H0, and a margin test that stays small has shown nothing. Whole
distributions of numbers are compared in `core.order`.
"""

from collections.abc import Sequence
from math import log
from typing import Final

_BETS: Final = (  # (harm of the canary against the control, its share of the bets); 1.2..200, spread by ratio; see **Bets**
    (1.4, 1.0), (2.2, 1.0), (3.5, 1.0), (6.0, 1.5), (10.0, 2.0), (18.0, 1.5), (50.0, 0.5),
)  # fmt: skip
_CASH: Final = 0.05  # 0.02..0.3 kept aside at the beginning: more finds later changes sooner, and early harm later
_REBET_EVERY: Final = 32  # 8..256 canary observations between new bets; fewer cost time, more delay
_REBET_PACE: Final = 0.5  # 0.2..1 of 1/(k+1) of the cash goes into the k-th new bet; more: early ones, less: late ones
_MAX_WEALTH: Final = 1e100  # wealth is cut here: multiplication must not overflow in a long and clear case
_LOSS_BETS: Final = (0.05, 0.15, 0.4, 0.8)  # in (0, 1), spread by ratio: small ones find small losses, 0.8 a breakdown
_BETS_ON_MEANS: Final = [  # bet, psi(bet), -log of its part of alpha; 12..24 of them: more narrow longer runs too
    (0.5**k, -log(1 - 0.5**k) - 0.5**k, log(k * (k + 1))) for k in range(1, 17)
]
_MAX_BET: Final = 0.75  # 0.5..0.9 of the largest margin bet; near 1 a single bad pair takes all, lower is slower
_PRIOR_PAIRS: Final = 2.0  # 1..10 pairs of variance 1/4 before the first: fewer bet wildly, more late
_PARTS: Final = tuple(share / sum(each for _, each in _BETS) for _, share in _BETS)
_MAX_WAITING: Final = 16  # 8..64 canary values that wait, the oldest is dropped; more meet a control of another time


class Wealth:
    """The money of one test: stakes on several alternatives, and cash that is bet later.

    `parts` is what each alternative gets of all that is bet; they sum to 1. The e-value is the sum of all money.
    """

    __slots__ = ("_cash", "_parts", "canary_n", "e_value", "stakes")

    def __init__(self, parts: Sequence[float]) -> None:
        self._parts = parts
        self._cash = _CASH
        self.stakes = [(1 - _CASH) * part for part in parts]
        self.e_value = 1.0
        self.canary_n = 0

    def take(self, stakes: list[float]) -> None:
        """What the stakes have become by one observation."""
        wealth = self._cash + sum(stakes)
        if wealth > _MAX_WEALTH:
            stakes = [stake * (_MAX_WEALTH / wealth) for stake in stakes]
            wealth = _MAX_WEALTH
        self.stakes = stakes
        self.e_value = wealth

    def count(self, canaries: int = 1) -> None:
        """Counts canary observations; some of the cash is bet anew when it is time."""
        before, self.canary_n = self.canary_n, self.canary_n + canaries
        for turn in range(before // _REBET_EVERY + 1, self.canary_n // _REBET_EVERY + 1):
            bet = self._cash * _REBET_PACE / (turn + 1)
            self._cash -= bet
            self.stakes = [stake + bet * part for stake, part in zip(self.stakes, self._parts, strict=True)]

    def rejected(self, alpha: float) -> bool:
        """Whether H0 is rejected now. At any and every time, wrong with probability <= alpha in all."""
        return self.e_value * alpha >= 1.0

    def to_state(self) -> list[float]:
        return [self._cash, self.canary_n, *self.stakes]

    def restore(self, state: Sequence[float]) -> None:
        """Takes over what `to_state` gave. Raises ValueError when that is not of this version."""
        if len(state) != 2 + len(self._parts):
            raise ValueError(f"state of a test has {len(state)} numbers, expected {2 + len(self._parts)}")
        self._cash, self.canary_n, self.stakes = state[0], int(state[1]), list(state[2:])
        self.e_value = self._cash + sum(self.stakes)


class HarmTest(Wealth):
    """E-process for "the canary does at most `tolerated` times the control's harm" (see the head of this file).

    `tolerated` is a ratio of mean harms, at least 1. `share` is the probability, in (0, 1), with which the observed unit
    was put in the canary; with 0 or 1 there is no comparison and the observation only counts. About 1 us per harm, O(1)
    memory.
    """

    __slots__ = ("_factors", "_for_share", "_tolerated")

    def __init__(self, tolerated: float = 1.0) -> None:
        super().__init__(_PARTS)
        self._tolerated = tolerated
        self._for_share = -1.0
        self._factors: tuple[tuple[float, ...], ...] = ()  # of a whole harm: control, canary

    def update_canary(self, harm: float, share: float) -> None:
        """One canary unit with `harm` in 0..1."""
        if harm > 0.0 and 0.0 < share < 1.0:
            self._bet(harm, 1, share)
        self.count()

    def update_control(self, harm: float, share: float) -> None:
        """One concurrent control unit with `harm` in 0..1."""
        if harm > 0.0 and 0.0 < share < 1.0:
            self._bet(harm, 0, share)

    def _bet(self, harm: float, group: int, share: float) -> None:
        if share != self._for_share:
            self._for_share = share
            most = self._tolerated
            fair = share * most + 1 - share
            divisors = [(share * most * r + 1 - share) / fair for r, _ in _BETS]
            whole = tuple(1 / d for d in divisors)
            self._factors = (whole, tuple(r / d for (r, _), d in zip(_BETS, divisors, strict=True)))
        rest = 1 - harm
        self.take([s * (rest + harm * f) for s, f in zip(self.stakes, self._factors[group], strict=True)])

    @classmethod
    def from_state(cls, state: Sequence[float]) -> "HarmTest":
        """The inverse of `to_state`. Raises ValueError when the state is not one of this version."""
        made = cls()
        made.restore(state)
        return made


class _Pairs:
    """Harms of the canary, each with the mean of the control's since the pair before. When none came since then, a canary
    value waits for the next one, and not for long: what all answers are worth changes, and a pair is of one time."""

    __slots__ = ("_controls", "_total", "_waiting")

    def __init__(self) -> None:
        self._total = 0.0  # harm of the control values since the last pair
        self._controls = 0
        self._waiting: list[float] = []

    def add_canary(self, harm: float) -> tuple[float, float] | None:
        """The pair (canary, control) that it makes, if it makes one."""
        if not self._controls:
            self._waiting.append(harm)
            del self._waiting[:-_MAX_WAITING]
            return None
        pair = harm, self._total / self._controls
        self._total, self._controls = 0.0, 0
        return pair

    def add_control(self, harm: float) -> tuple[float, float] | None:
        """As `add_canary`."""
        if self._waiting:
            return self._waiting.pop(0), harm
        self._total += harm
        self._controls += 1
        return None

    def to_state(self) -> list[float]:
        return [self._total, self._controls, *self._waiting]

    def restore(self, state: Sequence[float]) -> None:
        """Takes over what `to_state` gave. Raises ValueError when it is too short."""
        total, controls, *waiting = state
        self._total, self._controls, self._waiting = total, int(controls), waiting[-_MAX_WAITING:]


class LossTest(Wealth):
    """E-process for "the canary's quality is at least `1 - loss` times the control's" (see the head of this file).

    `loss` lies in [0, 1). Values are harms, 1 - quality, in 0..1; `share` as in `HarmTest`. O(1) memory.
    """

    __slots__ = ("_loss", "_pairs")

    def __init__(self, loss: float) -> None:
        super().__init__([1 / len(_LOSS_BETS)] * len(_LOSS_BETS))
        self._loss = loss
        self._pairs = _Pairs()

    def update_canary(self, harm: float, share: float) -> None:
        """One canary unit with `harm` in 0..1."""
        if 0.0 < share < 1.0 and (pair := self._pairs.add_canary(harm)) is not None:
            self._bet(*pair)
        self.count()

    def update_control(self, harm: float, share: float) -> None:
        """One concurrent control unit with `harm` in 0..1."""
        if 0.0 < share < 1.0 and (pair := self._pairs.add_control(harm)) is not None:
            self._bet(*pair)

    def _bet(self, canary: float, control: float) -> None:
        beyond = canary - self._loss - (1 - self._loss) * control
        self.take([stake * (1 + bet * beyond) for stake, bet in zip(self.stakes, _LOSS_BETS, strict=True)])

    def to_state(self) -> list[float]:
        return [*super().to_state(), *self._pairs.to_state()]

    def restore(self, state: Sequence[float]) -> None:
        own = len(super().to_state())
        super().restore(state[:own])
        self._pairs.restore(state[own:])


class MarginTest:
    """E-process for "the canary's quality is at most `1 - margin` times the control's" (see the head of this file).

    Rejecting it shows that the canary is not inferior. `margin` lies in [0, 1). Values are harms in 0..1. O(1) memory.
    """

    __slots__ = ("_margin", "_mean", "_n", "_pairs", "_squares", "e_value")

    def __init__(self, margin: float) -> None:
        self._margin = margin
        self.e_value = 1.0
        self._pairs = _Pairs()
        self._n = 0  # pairs so far
        self._mean = 0.0  # of D
        self._squares = 0.25 * _PRIOR_PAIRS  # of the deviations of D from its mean

    def add_canary(self, harm: float) -> None:
        if (pair := self._pairs.add_canary(harm)) is not None:
            self._bet(*pair)

    def add_control(self, harm: float) -> None:
        if (pair := self._pairs.add_control(harm)) is not None:
            self._bet(*pair)

    def _bet(self, canary: float, control: float) -> None:
        margin, n = self._margin, self._n + _PRIOR_PAIRS
        difference = margin + (1 - margin) * control - canary
        spread = self._squares / n + self._mean * self._mean
        bet = min(max(0.0, self._mean) / spread, _MAX_BET / (1 - margin))
        self.e_value = min(self.e_value * (1 + bet * difference), _MAX_WEALTH)
        deviation = difference - self._mean
        self._mean += deviation / (n + 1)
        self._squares += deviation * (difference - self._mean)
        self._n += 1

    def rejected(self, alpha: float) -> bool:
        """Whether it is shown now that the canary is not inferior; wrong at any and every time with P <= alpha."""
        return self.e_value * alpha >= 1.0

    def to_state(self) -> list[float]:
        return [self.e_value, self._n, self._mean, self._squares, *self._pairs.to_state()]

    def restore(self, state: Sequence[float]) -> None:
        """Takes over what `to_state` gave. Raises ValueError when it is too short."""
        e_value, n, mean, squares, *pairs = state
        self._pairs.restore(pairs)
        self.e_value, self._n, self._mean, self._squares = e_value, int(n), mean, squares


class MeanSequence:
    """Confidence sequence for the mean of values in [0, 1]: with probability 1 - `alpha`, `lower` and `upper` hold at all
    times at once."""

    __slots__ = ("_alpha", "_spread", "lower", "n", "total", "upper")

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self.n = 0
        self.total = 0.0
        self._spread = 0.25  # squares of deviations, and a prior one
        self.lower = 0.0
        self.upper = 1.0

    def add(self, value: float) -> None:
        """One value in 0..1."""
        deviation = value - (0.5 + self.total) / (self.n + 1)
        self._spread += deviation * deviation
        self.n += 1
        self.total += value
        self._look()

    def _look(self) -> None:
        """The interval of all values so far. It is no intersection with those of before, which a drift would empty."""
        if self.n:
            needed, spread = log(2 / self._alpha), self._spread
            radius = min((needed + cost + rate * spread) / bet for bet, rate, cost in _BETS_ON_MEANS) / self.n
            mean = self.total / self.n
            self.lower, self.upper = max(0.0, mean - radius), min(1.0, mean + radius)

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    def to_state(self) -> list[float]:
        return [self._alpha, self.n, self.total, self._spread]

    @classmethod
    def from_state(cls, state: Sequence[float]) -> "MeanSequence":
        """The inverse of `to_state`, also of a longer one of before. Raises ValueError when it is too short."""
        alpha, n, total, spread, *_ = state
        made = cls(alpha)
        made.n, made.total, made._spread = int(n), total, spread
        made._look()
        return made
