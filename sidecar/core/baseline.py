"""A limit that follows a metric's own past: for thresholds whose policy says `above: auto` or `below: auto`.

Formula. x_1 .. x_n are the metric's values over the newest KEPT windows that do not overlap and were not in breach:

    m = median(x)        s = max(1.4826 * median |x - m|, noise)
    above: target = max(m + sigma * s, ratio * m)        below: target = max(0, min(m - sigma * s, m / ratio))

1.4826 makes the median deviation a standard deviation for normal values (Hampel 1974); both have a breakdown point of
one half, so that a bad night is no new normal. `noise` is what chance alone does to a window: for shares (error rate,
quality) sqrt(p (1 - p) / min_samples) with p = (m * min_samples + 1) / (min_samples + 2); for all else 2 % of m.

A share that was always 0 is not known to be 0. After N calls without a failure the rate may be up to -log(UNSURE) / N
(the upper confidence bound of a binomial, "rule of three"), and no window can show less than 1 / min_samples. So a limit on
a share from above is at least

    max(-log(UNSURE) / (n min_samples), ONE / min_samples)

(the windows had at least min_samples calls each): the first failure is never an alarm, a second one in a small window may
be. Costs and times that were always 0 have no scale: there is no limit until one of half the windows is above 0.

The first limit is set after FIRST windows. From then on the limit goes towards the target by at most

    per_day * limit * (time since it last moved) / 1 day

so that a slow decline cannot take the limit along within hours. While the threshold is breached nothing is taken in.

What it does not know: days of the week. It is an alarm by custom, with no promise about false alarms; `core.drift` and
`core.guardrails` make promises.
"""

from collections.abc import Sequence
from math import log, sqrt
from statistics import median
from typing import Final

from sidecar.core.policy import AutoLimit, Threshold

FIRST: Final = 20  # 5..200 windows before there is a limit; fewer guess the scale badly
KEPT: Final = 200  # 20..2,000 windows; more follow more slowly and cost snapshots
DAY_S: Final = 86_400.0
_PER_MAD: Final = 1.4826
_LEAST_SCALE: Final = 0.02  # of the median, 0.001..0.2; smaller alarms on hair's breadths of a constant metric
UNSURE: Final = 0.05  # 0.001..0.2: the chance that the rate is above its bound; smaller waits for more failures
ONE: Final = 1.5  # 1..5 failures in a window of min_samples; 1: rounding decides, more: later alarms on small windows
_SHARES: Final = ("error_rate", "quality")


class Baseline:
    """The metric's past and the limit made of it; `limit` is None until FIRST windows were seen."""

    __slots__ = ("_at", "_auto", "_next", "_threshold", "_values", "limit")

    def __init__(self, threshold: Threshold, auto: AutoLimit) -> None:
        self._threshold, self._auto = threshold, auto
        self._values: list[float] = []
        self._next = 0.0  # when the next window that overlaps none before is full
        self._at = 0.0  # when the limit moved last
        self.limit: float | None = None

    @property
    def windows(self) -> int:
        return len(self._values)

    def take(self, value: float, now: float) -> None:
        """Shows the metric over the window that ends now; takes it in when it overlaps none taken before."""
        window_s = self._threshold.window_s
        if self._next - 2 * window_s <= now < self._next:
            return
        self._next = now + window_s
        self._values = [*self._values[1 - KEPT :], value]
        if len(self._values) >= FIRST:
            self._move(now)

    def _move(self, now: float) -> None:
        target = self._target()
        if not self.limit:  # nothing, or 0, of which no fraction is a step
            self.limit = self._scaled(target)
        else:
            room = self._auto.per_day * self.limit * min(1.0, max(0.0, now - self._at) / DAY_S)
            self.limit += min(room, max(-room, target - self.limit))
        self._at = now

    def _target(self) -> float:
        middle = median(self._values)
        spread = _PER_MAD * median(abs(value - middle) for value in self._values)
        away = self._auto.sigma * max(spread, self._noise(middle))
        if self._threshold.above is not None:
            return max(middle + away, self._auto.ratio * middle, self._least())
        return max(0.0, min(middle - away, middle / self._auto.ratio))

    def _scaled(self, limit: float) -> float | None:
        """No limit above what was always 0: any value would be beyond it."""
        return limit if self._threshold.above is None or limit > 0.0 else None

    def _least(self) -> float:
        """What a share's limit from above is at least."""
        if self._threshold.metric not in _SHARES:
            return 0.0
        n = max(1, self._threshold.min_samples)
        return max(-log(UNSURE) / (len(self._values) * n), ONE / n)

    def _noise(self, middle: float) -> float:
        if self._threshold.metric not in _SHARES:
            return _LEAST_SCALE * middle
        n = max(1, self._threshold.min_samples)
        share = (middle * n + 1) / (n + 2)
        return sqrt(share * (1 - share) / n)

    def to_state(self) -> list[object]:
        return [self.limit, self._at, self._next, self._values]

    def restore(self, state: Sequence[object]) -> None:
        """The inverse of `to_state`. Raises ValueError or TypeError when the state cannot be read."""
        limit, at, due, values = state
        if not isinstance(values, list):
            raise ValueError("the past of a limit is a list")  # noqa: TRY004  a broken state, not our types
        self._at, self._next = float(str(at)), float(str(due))
        self._values = [float(value) for value in values]
        self.limit = None if limit is None else self._scaled(float(str(limit)))
