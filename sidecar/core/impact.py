"""What a change is expected to do to a route, and what it did: means per arm over the minutes before and after.

Model: finished exchanges are summed per route, arm and minute: calls, and for each of METRICS the number of known values,
their sum and their sum of squares. With a and b the means of an arm and of the rest of the route, a step from the share s to
the share t is expected to move the route's mean from (1 - s) b + s a to (1 - t) b + t a. The actual change is the mean of
the minutes after over that of the minutes before; both are told relative to before. The z of a difference is that of two
independent means (Welch), for ONE look at a time that was fixed beforehand; it is no guardrail.

What it does not know: why anything changed. Traffic changes by the hour, so an actual impact is a comparison in time and
not an experiment; canaries have concurrent controls (`core.guardrails`).

Reference: Welch, Biometrika 34, 1947.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from math import sqrt
from typing import Final

from sidecar.core.normal import ndtr
from sidecar.core.types import Outcome

METRICS: Final = ("quality", "cost_nusd", "latency_s", "failed", "late")  # late: beyond the objective's limit
MINUTE_S: Final = 60.0
# minutes, 20..1440: an hour before and an hour after the slowest change; fewer forget the time before
KEPT: Final = 130
MIN_VALUES: Final = 30  # 10..1000 known values on each side; below it a mean is not worth telling
USUAL: Final = 10.0  # 2..100 calls that the past of the rest weighs; more overlooks what hits all arms at once

_WIDTH: Final = 3  # count, sum, sum of squares
_FAILED: Final = _WIDTH * METRICS.index("failed")
Late = Callable[[str, Outcome], bool | None]  # of an exchange of a route; None: no limit, or unknown


def never(_route: str, _outcome: Outcome) -> bool | None:
    """Where nothing is too late."""
    return None


class Sums:
    """Count, sum and sum of squares of each metric."""

    __slots__ = ("calls", "rows")

    def __init__(self) -> None:
        self.calls = 0
        self.rows = [0.0] * (_WIDTH * len(METRICS))

    def add(self, outcome: Outcome, quality: float | None, late: bool | None = None) -> None:
        """Takes one exchange in; aborted ones have a cost and nothing else. `late` None: no limit, or unknown."""
        self.calls += 1
        rows, cost_nusd = self.rows, outcome.cost_nusd
        if cost_nusd is not None:
            _put(rows, 1, cost_nusd)
        if outcome.kind == "aborted":
            return
        if quality is not None:
            _put(rows, 0, quality)
        rows[_FAILED] += 1.0  # to its sums most calls add nothing
        if outcome.kind == "failed" and not outcome.caller_fault:
            rows[_FAILED + 1] += 1.0
            rows[_FAILED + 2] += 1.0
            return
        took_s = latency_s(outcome)
        if took_s is not None:
            _put(rows, 2, took_s)
        if late is not None:
            _put(rows, 4, float(late))

    def join(self, other: "Sums") -> None:
        self.calls += other.calls
        self.rows = [mine + theirs for mine, theirs in zip(self.rows, other.rows, strict=True)]

    def mean(self, metric: str) -> tuple[float, float, float] | None:
        """Mean, squared standard error and count of a metric; None below MIN_VALUES."""
        at = _WIDTH * METRICS.index(metric)
        count, total, squares = self.rows[at : at + _WIDTH]
        if count < MIN_VALUES:
            return None
        mean = total / count
        return mean, max(0.0, squares / count - mean * mean) / count, count

    def share(self, metric: str) -> tuple[float, float]:
        """How many of how many, for `failed` and `late`."""
        at = _WIDTH * METRICS.index(metric)
        return self.rows[at + 1], self.rows[at]


def _put(rows: list[float], metric: int, value: float) -> None:
    at = _WIDTH * metric
    rows[at] += 1.0
    rows[at + 1] += value
    rows[at + 2] += value * value


def latency_s(outcome: Outcome) -> float | None:
    """Time to the first token of a stream, duration of a whole answer; both from when the request was sent."""
    return outcome.clocks.first_token_latency_s if outcome.stream else outcome.clocks.latency_s


class Minutes:
    """The exchanges of the last KEPT minutes of every route."""

    def __init__(self, late: Late = never) -> None:
        """`late` says of a finished exchange whether it took longer than its route's objective wants."""
        self._late = late
        self._routes: dict[str, deque[tuple[float, dict[str, Sums]]]] = {}

    def add(self, place: tuple[str, str], outcome: Outcome, quality: float | None, now: float) -> None:
        """Takes one exchange of `place` (route, arm) in. `now` must not go back by more than a minute."""
        route, arm = place
        minutes = self._routes.get(route)
        if minutes is None:
            minutes = self._routes[route] = deque(maxlen=KEPT)
        start = now - now % MINUTE_S
        if not minutes or minutes[-1][0] < start:
            minutes.append((start, {}))
        arms = minutes[-1][1]
        found = arms.get(arm)
        if found is None:
            found = arms[arm] = Sums()
        found.add(outcome, quality, self._late(route, outcome))

    def between(self, route: str, begin: float, end: float) -> dict[str, Sums]:
        """The sums of each arm over the whole minutes that begin in [begin, end)."""
        made: dict[str, Sums] = {}
        for start, arms in self._routes.get(route, ()):
            if begin <= start < end:
                for arm, sums in arms.items():
                    made.setdefault(arm, Sums()).join(sums)
        return made

    def forget(self, routes: Iterable[str]) -> None:
        """Keeps these routes only."""
        self._routes = {name: self._routes[name] for name in routes if name in self._routes}


def total(arms: Mapping[str, Sums]) -> Sums:
    """All arms together."""
    made = Sums()
    for sums in arms.values():
        made.join(sums)
    return made


def expected(arms: Mapping[str, Sums], arm: str, before: float, after: float) -> dict[str, float]:
    """Relative change of each metric of the route when `arm` goes from the share `before` to `after` (0..1)."""
    one, rest = arms.get(arm, Sums()), total({name: sums for name, sums in arms.items() if name != arm})
    found: dict[str, float] = {}
    for metric in METRICS:
        a, b = one.mean(metric), rest.mean(metric)
        if a is None or b is None:
            continue
        now = (1.0 - before) * b[0] + before * a[0]
        if now > 0.0:
            found[metric] = ((1.0 - after) * b[0] + after * a[0]) / now - 1.0
    return found


def confidence(arms: Mapping[str, Sums], arm: str) -> float | None:
    """Probability, by the means so far, that `arm` costs less than the rest; None when too little is known."""
    one, rest = arms.get(arm, Sums()), total({name: sums for name, sums in arms.items() if name != arm})
    z = _z(rest, one, "cost_nusd")
    return None if z is None else float(ndtr(-z))


def actual(before: Sums, after: Sums) -> dict[str, float]:
    """Relative change of each metric from the one period to the other."""
    found: dict[str, float] = {}
    for metric in METRICS:
        a, b = before.mean(metric), after.mean(metric)
        if a is not None and b is not None and a[0] > 0.0:
            found[metric] = b[0] / a[0] - 1.0
    return found


def worse(before: Sums, after: Sums, limit: float) -> str | None:
    """Which of quality, failures and late answers got worse by more than `limit` standard errors, in words; None: none."""
    for metric, sign in (("quality", -1.0), ("failed", 1.0), ("late", 1.0)):
        z = _z(before, after, metric)
        if z is not None and sign * z > limit:
            return f"{metric} got worse by {abs(z):.1f} standard errors"
    return None


def excess(one: Sums, rest: Sums, metric: str, allowed: float, usual: tuple[float, float] = (0.5, 2.0)) -> float:
    """z of "the share of `one` is above that of the `rest` by more than `allowed`", for `failed` and `late`.

    A good and a bad call are added to `one` (Agresti and Caffo, The American Statistician 54, 2000), and to the rest what
    is `usual` of it: a share, and the calls that it weighs (`usual_of`). So it holds for few calls and shares near 0, and
    where the rest is not called now.
    """
    share, weight = usual
    (bad, calls), (others, of) = one.share(metric), rest.share(metric)
    mine, theirs = (bad + 1.0) / (calls + 2.0), (others + weight * share) / (of + weight)
    error = sqrt(mine * (1.0 - mine) / (calls + 2.0) + theirs * (1.0 - theirs) / (of + weight))
    return (mine - theirs - allowed) / error


def usual_of(before: Sums, metric: str) -> tuple[float, float]:
    """What the past says of `failed` or `late`: the share, and the calls that it weighs, at most USUAL."""
    bad, calls = before.share(metric)
    return (bad + 1.0) / (calls + 2.0), min(USUAL, calls + 2.0)


def _z(before: Sums, after: Sums, metric: str) -> float | None:
    """(after - before) in standard errors; None when too little is known."""
    a, b = before.mean(metric), after.mean(metric)
    if a is None or b is None:
        return None
    error = sqrt(a[1] + b[1])
    if error == 0.0:
        return 0.0 if a[0] == b[0] else 1e9 * (1.0 if b[0] > a[0] else -1.0)
    return (b[0] - a[0]) / error
