"""Thresholds of one route: limits on live metrics, with hysteresis, one event per breach and one per recovery.

Each threshold owns sliding windows (`core.window`). Its value is the 95th percentile (seconds), the error rate, the
mean cost (nano-dollars) or the mean quality. Streaming and non-streaming latencies never share a window (GW-12):
`latency_p95` is the worse of the two, `ttft_p95` exists for streams only. Fewer than `min_samples` values in a window
say nothing.

    OK -> BREACHED         the value is beyond the limit                        event threshold.breached
    BREACHED -> OK         the value is back inside `recover` x limit, or the window is empty     threshold.recovered
    BREACHED -> PROBING    route_to only: the hold time is over                                   threshold.probing
    PROBING -> BREACHED    the fresh window is beyond the limit: the hold doubles                 threshold.probe_failed
    PROBING -> OK          back inside, or a whole window went by with too few values             threshold.recovered

Whose metric: with `route_to`, of every arm but the one routed to; with `rollback` and an `arm`, of that arm; else of
the whole route. While traffic is routed away nothing is learnt about the arms it left. So a diversion holds for
`window_s`, then lets traffic back and looks at fresh values only. A failed probe, or a new breach within two holds of
the recovery, doubles the hold up to `MAX_HOLD_WINDOWS` windows: a lasting fault costs at most about `min_samples`
requests per hold.

What it does not do: the actions. `active_route_to` says where traffic goes; the other actions are in the event's
detail. Thresholds are alarms on absolute limits and make no statistical promise; `core.guardrails` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sidecar.core.guardrails import is_failure
from sidecar.core.policy import Route, Threshold
from sidecar.core.types import Event, Outcome, Severity
from sidecar.core.window import Window

MAX_HOLD_WINDOWS: Final = 16  # of window_s: with five minutes, a probe at least every 80 minutes
_CHECKS_PER_WINDOW: Final = 60  # values are compared at most this often per window, and at most once a second


class Level(StrEnum):
    """Where a threshold is; see the head of this file."""

    OK = "ok"
    BREACHED = "breached"
    PROBING = "probing"


@dataclass(frozen=True, slots=True)
class ThresholdStatus:
    """One threshold for people. `value` None: too few samples."""

    name: str
    level: str
    value: float | None
    limit: float
    samples: int
    since: float


class _Watch:
    """One threshold's windows and level."""

    def __init__(self, threshold: Threshold, route: str) -> None:
        self.threshold = threshold
        self._route = route
        quantiles = threshold.metric in ("latency_p95", "ttft_p95")
        count = 2 if threshold.metric == "latency_p95" else 1
        self._windows = [Window(threshold.window_s, quantiles=quantiles) for _ in range(count)]
        self.level = Level.OK
        self.since = 0.0
        self._hold_s = threshold.window_s
        self._check_at = 0.0
        self._check_s = min(1.0, threshold.window_s / _CHECKS_PER_WINDOW)

    # -- values

    def concerns(self, arm: str | None) -> bool:
        """Whether this threshold measures the traffic of `arm`."""
        named = self.threshold.arm
        match self.threshold.action:
            case "route_to":
                return arm != named
            case "rollback":
                return named is None or arm == named
            case _:
                return True

    def observe(self, outcome: Outcome, failed: bool, quality: float | None, now: float) -> None:
        """Takes in what this threshold's metric needs of an exchange, neither aborted nor the caller's fault."""
        metric = self.threshold.metric
        if metric == "error_rate":
            self._windows[0].add(now, 1.0 if failed else 0.0)
        elif failed:
            return
        elif metric == "quality":
            self.add(quality, now)
        elif metric == "cost_per_request":
            self.add(outcome.cost_nusd, now)
        else:
            self._observe_duration(outcome, now)

    def _observe_duration(self, outcome: Outcome, now: float) -> None:
        clocks = outcome.clocks
        sent_s = clocks.sent_s or 0.0
        if self.threshold.metric == "latency_p95":
            self._windows[outcome.stream].add(now, max(0.0, clocks.duration_s - sent_s))
        elif clocks.ttft_s is not None and outcome.stream:
            self._windows[0].add(now, max(0.0, clocks.ttft_s - sent_s))

    def add(self, value: float | None, now: float) -> None:
        if value is not None:
            self._windows[0].add(now, value)

    def samples(self, now: float) -> int:
        return sum(window.count(now) for window in self._windows)

    def value(self, now: float) -> float | None:
        """The metric over the window, the worse of several windows; None with fewer than `min_samples`."""
        enough = [window for window in self._windows if window.count(now) >= max(1, self.threshold.min_samples)]
        p95 = self.threshold.metric in ("latency_p95", "ttft_p95")
        read = [window.quantile(now, 0.95) if p95 else window.mean(now) for window in enough]
        values = [value for value in read if value is not None]
        if not values:
            return None
        return min(values) if self.threshold.above is None else max(values)

    def _beyond(self, value: float) -> bool:
        above, below = self.threshold.above, self.threshold.below
        return value > above if above is not None else below is not None and value < below

    def _back_inside(self, value: float) -> bool:
        above, below, recover = self.threshold.above, self.threshold.below, self.threshold.recover
        return value <= above * recover if above is not None else below is None or value >= below / recover

    # -- levels

    def due(self, now: float) -> bool:
        """Whether it is time to compare again. A clock that stands still or went back does not block."""
        if self._check_at - self._check_s <= now < self._check_at:
            return False
        self._check_at = now + self._check_s
        return True

    def check(self, now: float) -> list[Event]:
        """Moves to the level that the values ask for."""
        value = self.value(now)
        match self.level:
            case Level.OK:
                return self._when_ok(value, now)
            case Level.PROBING:
                return self._when_probing(value, now)
            case _:
                return self._when_breached(value, now)

    def _when_ok(self, value: float | None, now: float) -> list[Event]:
        if value is None or not self._beyond(value):
            return []
        again = self.since > 0 and now - self.since < 2 * self._hold_s
        self._hold_s = self._longer() if again else self.threshold.window_s
        return self._to(Level.BREACHED, "breached", now, value)

    def _when_breached(self, value: float | None, now: float) -> list[Event]:
        if self.threshold.action == "route_to":
            if now - self.since < self._hold_s:
                return []
            for window in self._windows:
                window.clear()
            return self._to(Level.PROBING, "probing", now, None)
        if (value is not None and self._back_inside(value)) or self.samples(now) == 0:
            return self._to(Level.OK, "recovered", now, value)
        return []

    def _when_probing(self, value: float | None, now: float) -> list[Event]:
        if value is None:
            waited = now - self.since >= self.threshold.window_s
            return self._to(Level.OK, "recovered", now, None) if waited else []
        if self._beyond(value):
            self._hold_s = self._longer()
            return self._to(Level.BREACHED, "probe_failed", now, value)
        return self._to(Level.OK, "recovered", now, value) if self._back_inside(value) else []

    def _longer(self) -> float:
        return min(2 * self._hold_s, MAX_HOLD_WINDOWS * self.threshold.window_s)

    def _to(self, level: Level, what: str, now: float, value: float | None) -> list[Event]:
        self.level, self.since = level, now
        threshold = self.threshold
        severity: Severity = threshold.severity if what == "breached" else "low"
        shown = "too few values" if value is None else f"{threshold.metric} is {value:.4g}"
        return [
            Event(
                kind=f"threshold.{what}",
                severity=severity,
                route=self._route,
                arm=threshold.arm,
                message=f"{threshold.name}: {what.replace('_', ' ')}, {shown}, limit {self.limit:.4g}",
                detail={
                    "threshold": threshold.name, "metric": threshold.metric, "action": threshold.action,
                    "value": value, "limit": self.limit, "samples": self.samples(now), "level": str(level),
                },
            )
        ]  # fmt: skip

    @property
    def limit(self) -> float:
        above, below = self.threshold.above, self.threshold.below
        return above if above is not None else below or 0.0

    # -- restart

    def to_state(self) -> list[object]:
        return [str(self.level), self.since, self._hold_s, [window.to_state() for window in self._windows]]

    def restore(self, state: object) -> None:
        """Takes over a state; keeps what it has when the state cannot be read."""
        if not (isinstance(state, list) and len(state) == 4 and state[0] in set(Level)):
            return
        level, since, hold_s, windows = state
        if not (isinstance(since, int | float) and isinstance(hold_s, int | float) and isinstance(windows, list)):
            return
        self.level, self.since, self._hold_s = Level(level), float(since), float(hold_s)
        for window, kept in zip(self._windows, windows, strict=False):
            window.restore(kept if isinstance(kept, list) else [])


class ThresholdSet:
    """All thresholds of one route. `observe` and `tick` answer events; `active_route_to` is read for every request."""

    __slots__ = ("_route_to", "_watches")

    def __init__(self, route: Route) -> None:
        self._watches = [_Watch(threshold, route.name) for threshold in route.thresholds]
        self._route_to: str | None = None

    def active_route_to(self) -> str | None:
        """The arm to which all traffic goes now, by the first such threshold of the policy that is breached. O(1)."""
        return self._route_to

    def active(self, action: str) -> tuple[str, ...]:
        """Names of the breached thresholds with this action."""
        return tuple(
            watch.threshold.name
            for watch in self._watches
            if watch.level is Level.BREACHED and watch.threshold.action == action
        )

    def observe(self, arm: str | None, outcome: Outcome, now: float, quality: float | None = None) -> list[Event]:
        """Counts one exchange for the arm that was DECIDED (another arm that had to serve is that arm's error).

        Aborted exchanges and callers' mistakes do not count; what an error is, `guardrails.is_failure` says.
        """
        if outcome.kind == "aborted" or outcome.caller_fault:
            return []
        events: list[Event] = []
        failed = is_failure(outcome, arm)
        for watch in self._watches:
            if watch.concerns(arm):
                watch.observe(outcome, failed, quality, now)
                if watch.due(now):
                    events += watch.check(now)
        return self._after(events)

    def label(self, arm: str | None, score: float, now: float) -> list[Event]:
        """Counts one quality score that came later (feedback, judge)."""
        events: list[Event] = []
        for watch in self._watches:
            if watch.threshold.metric == "quality" and watch.concerns(arm):
                watch.add(score, now)
                if watch.due(now):
                    events += watch.check(now)
        return self._after(events)

    def tick(self, now: float) -> list[Event]:
        """Compares all values now: recoveries come also without traffic."""
        return self._after([event for watch in self._watches for event in watch.check(now)])

    def _after(self, events: list[Event]) -> list[Event]:
        if events:
            self._refresh()
        return events

    def _refresh(self) -> None:
        diverting = (
            w.threshold.arm for w in self._watches if w.level is Level.BREACHED and w.threshold.action == "route_to"
        )
        self._route_to = next(diverting, None)

    def status(self, now: float) -> tuple[ThresholdStatus, ...]:
        """One frozen record per threshold, in the policy's order."""
        return tuple(
            ThresholdStatus(w.threshold.name, str(w.level), w.value(now), w.limit, w.samples(now), w.since)
            for w in self._watches
        )

    def to_state(self) -> dict[str, object]:
        """JSON values for `restore`."""
        return {watch.threshold.name: [watch.threshold.window_s, watch.to_state()] for watch in self._watches}

    def restore(self, state: Mapping[str, object]) -> None:
        """Takes over thresholds of the same name and window; the others begin anew."""
        for watch in self._watches:
            match state.get(watch.threshold.name):
                case [window_s, kept] if window_s == watch.threshold.window_s:
                    watch.restore(kept)
                case _:
                    continue
        self._refresh()
