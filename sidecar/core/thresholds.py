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

Where the `arm` of a rollback is started again by a person, or becomes another model, its breach ends with its windows; so
does the breach of a threshold that the policy does not have any more, or has otherwise, or whose route it does not have.

An event tells of a change of level, never twice of the same level: what is found beyond the limit again while BREACHED
only counts (`repeats`, told with the recovery). A metric that goes to and fro is damped like a route that flaps (RFC
2439): a breach within two holds of the last recovery must stay inside for a hold before the next one counts, and each
further one doubles the hold, from `MIN_HOLD_S` or a window up to `MAX_HOLD_WINDOWS` of that.

`above: auto` and `below: auto` take the limit from `core.baseline`: none until it is learnt, frozen while breached.

A restart keeps levels and windows (`to_state` is made anew at most every CHECKPOINT_S): their slots carry times of the
steady clock, which counts from the epoch in every process, so a window that is old by then reads as empty, and one that
would be in the future, because the clock was set back, is left out.

Whose metric: with `route_to`, of every arm but the one routed to; with `rollback` and an `arm`, of that arm; else of
the whole route. While traffic is routed away nothing is learnt about the arms it left. So a diversion holds for
`window_s`, then lets traffic back and looks at fresh values only. A failed probe, or a new breach within two holds of
the recovery, doubles the hold up to `MAX_HOLD_WINDOWS` windows: a lasting fault costs at most about `min_samples`
requests per hold.

What it does not do: the actions. `diversions` says where traffic goes; the other actions are in the event's
detail (`adjust` with the parameter and the way it goes). Thresholds are alarms on limits and make no statistical
promise; `core.guardrails` and `core.drift` do.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final, cast

import orjson

from sidecar.core.baseline import Baseline
from sidecar.core.policy import Route, Threshold
from sidecar.core.types import Event, Outcome, Severity
from sidecar.core.units import in_words
from sidecar.core.verdict import is_failure
from sidecar.core.window import Window

MAX_HOLD_WINDOWS: Final = 16  # of window_s: with five minutes, a probe at least every 80 minutes
MIN_HOLD_S: Final = 60.0  # 10..600; smaller lets a metric that flaps write more events, larger recovers later
CHECKPOINT_S: Final = 5.0  # 1..60; smaller makes snapshots dearer, larger forgets more of the windows in a crash
# Longer windows than this are compared a 300th of them apart, 60..3600 s: an hour's quantile costs half a millisecond.
LONG_S: Final = 300.0
_CHECKS_PER_WINDOW: Final = 60  # values are compared at most this often per window, and at most once a second
_CHANGED: Final = "the policy has changed"


class Level(StrEnum):
    """Where a threshold is; see the head of this file."""

    OK = "ok"
    BREACHED = "breached"
    PROBING = "probing"


@dataclass(frozen=True, slots=True)
class ThresholdStatus:
    """One threshold for people. `value` None: too few samples. `limit` None: it is still being learnt (`auto`).

    `repeats` is how often the value was found beyond the limit since the breach.
    """

    name: str
    metric: str
    level: str
    value: float | None
    limit: float | None
    samples: int
    since: float
    repeats: int = 0


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
        self._baseline = None if threshold.auto is None else Baseline(threshold, threshold.auto)
        self._damped = False  # this breach came soon after a recovery: the next one must wait
        self._inside_since: float | None = None
        self.repeats = 0
        self._check_at = 0.0
        self._ticked = -1.0
        self._apart_s = threshold.window_s / LONG_S if threshold.window_s > LONG_S else 0.0
        self._check_s = max(self._apart_s, min(1.0, threshold.window_s / _CHECKS_PER_WINDOW))

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
        ttft_s = outcome.clocks.first_token_latency_s
        if self.threshold.metric == "latency_p95":
            self._windows[outcome.stream].add(now, max(0.0, outcome.clocks.latency_s))
        elif ttft_s is not None and outcome.stream:
            self._windows[0].add(now, max(0.0, ttft_s))

    def add(self, value: float | None, now: float) -> None:
        if value is not None:
            self._windows[0].add(now, value)

    def status(self, now: float) -> ThresholdStatus:
        one = self.threshold
        of_now = (self.value(now), self.limit, self.samples(now))
        return ThresholdStatus(one.name, one.metric, str(self.level), *of_now, self.since, self.repeats)

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
        limit = self.limit
        if limit is None:
            return False
        return value < limit if self.threshold.above is None else value > limit

    def _back_inside(self, value: float) -> bool:
        limit, recover = self.limit, self.threshold.recover
        if limit is None:
            return True
        return value >= limit / recover if self.threshold.above is None else value <= limit * recover

    # -- levels

    def due(self, now: float) -> bool:
        """Whether it is time to compare again. A clock that stands still or went back does not block."""
        if self._check_at - self._check_s <= now < self._check_at:
            return False
        self._check_at = now + self._check_s
        return True

    def ticked(self, now: float) -> bool:
        """Whether a tick at `now` compares: always for windows up to LONG_S."""
        if self._ticked <= now < self._ticked + self._apart_s:
            return False
        self._ticked = now
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

    def begin(self, arm: str, now: float) -> list[Event]:
        """A rollout of `arm` begins: what is to roll it back looks at fresh values only."""
        if self.threshold.action != "rollback" or self.threshold.arm != arm:
            return []
        for window in self._windows:
            window.clear()
        return [] if self.level is Level.OK else self._to(Level.OK, "recovered", now, None)

    def leave(self, now: float) -> list[Event]:
        """The policy has another threshold, or none, in the place of this one."""
        return [] if self.level is Level.OK else self._to(Level.OK, "recovered", now, None, _CHANGED)

    def _when_ok(self, value: float | None, now: float) -> list[Event]:
        if value is None:
            return []
        if not self._beyond(value):
            if self._baseline is not None:
                self._baseline.take(value, now)
            return []
        again = self.since > 0 and now - self.since < 2 * self._hold_s
        self._hold_s = self._longer() if again else self._first_hold_s
        self._damped, self._inside_since, self.repeats = again, None, 0
        return self._to(Level.BREACHED, "breached", now, value)

    def _when_breached(self, value: float | None, now: float) -> list[Event]:
        if self.threshold.action == "route_to":
            if now - self.since < self._hold_s:
                return []
            for window in self._windows:
                window.clear()
            return self._to(Level.PROBING, "probing", now, None)
        if (value is not None and self._back_inside(value)) or self.samples(now) == 0:
            if self._inside_since is None or self._inside_since > now:
                self._inside_since = now
            waits = self._damped and now - self._inside_since < self._hold_s
            return [] if waits else self._to(Level.OK, "recovered", now, value)
        self._inside_since = None
        self.repeats += value is not None and self._beyond(value)
        return []

    def _when_probing(self, value: float | None, now: float) -> list[Event]:
        if value is None:
            waited = now - self.since >= self.threshold.window_s
            return self._to(Level.OK, "recovered", now, None) if waited else []
        if self._beyond(value):
            self._hold_s = self._longer()
            return self._to(Level.BREACHED, "probe_failed", now, value)
        return self._to(Level.OK, "recovered", now, value) if self._back_inside(value) else []

    @property
    def _first_hold_s(self) -> float:
        window_s = self.threshold.window_s
        return window_s if self.threshold.action == "route_to" else max(window_s, MIN_HOLD_S)

    def _longer(self) -> float:
        return min(2 * self._hold_s, MAX_HOLD_WINDOWS * self._first_hold_s)

    def _to(self, level: Level, what: str, now: float, value: float | None, why: str = "too few values") -> list[Event]:
        self.level, self.since = level, now
        threshold = self.threshold
        severity: Severity = threshold.severity if what == "breached" else "low"
        limit = self.limit or 0.0
        detail: dict[str, object] = {
            "threshold": threshold.name, "metric": threshold.metric, "action": threshold.action, "value": value,
            "limit": limit, "samples": self.samples(now), "level": str(level), "window_s": threshold.window_s,
        }  # fmt: skip
        if what == "recovered":
            detail["repeats"] = self.repeats
        if threshold.adjust is not None:
            detail["adjust"] = list(threshold.adjust)
        shown = why if value is None else f"{threshold.metric} is {in_words(threshold.metric, value)}"
        return [
            Event(
                kind=f"threshold.{what}",
                severity=severity,
                route=self._route,
                arm=threshold.arm,
                message=f"{threshold.name}: {what.replace('_', ' ')}, {shown}, limit {in_words(threshold.metric, limit)}",
                detail=detail,
            )
        ]

    @property
    def limit(self) -> float | None:
        """The limit of now; None while it is learnt."""
        if self._baseline is not None:
            return self._baseline.limit
        above, below = self.threshold.above, self.threshold.below
        return above if above is not None else below

    # -- restart

    def to_state(self) -> list[object]:
        baseline = None if self._baseline is None else self._baseline.to_state()
        windows = [window.to_state() for window in self._windows]
        return [str(self.level), self.since, self._hold_s, windows, self._damped, self.repeats, baseline]

    def restore(self, state: Sequence[Any], now: float) -> str | None:
        """Takes over a state. A window that cannot be read is empty and the level holds: answers why. Raises ValueError or
        TypeError when more than that is broken; it must then be thrown away."""
        level, since, hold_s, windows, damped, repeats, baseline = state
        self.level, self.since, self._hold_s = Level(level), min(float(since), now), float(hold_s)
        self._damped, self.repeats = damped is True, int(repeats)
        if self._baseline is not None and baseline is not None:  # none where the limit was a number of the policy
            self._baseline.restore(baseline)
        why = None
        for window, kept in zip(self._windows, windows, strict=True):
            try:
                window.restore(kept, now)
            except (TypeError, ValueError) as error:
                window.clear()
                why = f"a window: {error}"
        return why


def _digest(threshold: Threshold) -> str:
    """16 hex digits of all that a threshold says."""
    return blake2b(repr(threshold).encode(), digest_size=8).hexdigest()


def _is_of(threshold: Threshold | None, window_s: object, was: list[object]) -> bool:
    """Whether a state with this window and digest is of this threshold."""
    return threshold is not None and window_s == threshold.window_s and was in ([], [_digest(threshold)])


def _left(route: str, name: str) -> Event:
    """What `_Watch.leave` would have told of a threshold of which the state alone is left."""
    text, detail = f"{name}: recovered, {_CHANGED}", {"threshold": name, "level": "ok"}
    return Event(kind="threshold.recovered", route=route, message=text, detail=detail)


def end_stored(route: str, state: object) -> list[Event]:
    """As `ThresholdSet.end`, of a route of which the state alone is left: breaches end in it."""
    told: list[Event] = []
    for name, (_, kept, *_) in _breached(state):
        kept[0] = str(Level.OK)
        told.append(_left(route, name))
    return told


def _breached(state: object) -> Iterator[tuple[str, list[Any]]]:
    """Name and state of those whose breach lasts in a stored state, or is looked at."""
    for name, kept in state.items() if isinstance(state, Mapping) else ():
        match kept:
            case [_, [Level.BREACHED | Level.PROBING, *_], *_]:
                yield name, kept
            case _:
                pass


class ThresholdSet:
    """All thresholds of one route. `observe` and `tick` answer events; `diversions` is read for every request."""

    __slots__ = ("_pack_at", "_packed", "_route", "_route_to", "_watches")

    def __init__(self, route: Route) -> None:
        self._route = route.name
        self._watches = [_Watch(threshold, route.name) for threshold in route.thresholds]
        self._route_to: tuple[str, ...] = ()
        self._packed: orjson.Fragment | None = None
        self._pack_at = 0.0

    def take_over(self, before: "ThresholdSet", now: float) -> list[Event]:
        """Goes on where the last policy's route was with thresholds that are what they were; breaches of others end."""
        known = {watch.threshold: watch for watch in before._watches}
        self._watches = [known.get(watch.threshold, watch) for watch in self._watches]
        self._packed = None
        self._refresh()
        return [event for watch in before._watches if watch not in self._watches for event in watch.leave(now)]

    def end(self, now: float) -> list[Event]:
        """The policy has the route no more: so do breaches end. Where it returns while they last, they are told anew."""
        return self._after([event for watch in self._watches for event in watch.leave(now)])

    @property
    def diversions(self) -> tuple[str, ...]:
        """All arms to which breached thresholds send the traffic, in the policy's order: the first that may, gets it."""
        return self._route_to

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

    def begin(self, arm: str, now: float) -> list[Event]:
        """A rollout of `arm` begins: a breach of before it says nothing about it, and must not hide the next one."""
        return self._after([event for watch in self._watches for event in watch.begin(arm, now)])

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
        if not self._pack_at - CHECKPOINT_S <= now < self._pack_at:
            self._packed, self._pack_at = None, now + CHECKPOINT_S
        return self._after([event for watch in self._watches if watch.ticked(now) for event in watch.check(now)])

    def _after(self, events: list[Event]) -> list[Event]:
        if events:
            self._packed = None
            self._refresh()
        return events

    def _refresh(self) -> None:
        diverting = (
            w.threshold.arm for w in self._watches if w.level is Level.BREACHED and w.threshold.action == "route_to"
        )
        self._route_to = tuple(arm for arm in diverting if arm is not None)

    def status(self, now: float) -> tuple[ThresholdStatus, ...]:
        """One frozen record per threshold, in the policy's order."""
        return tuple(watch.status(now) for watch in self._watches)

    def breached(self, now: float) -> tuple[ThresholdStatus, ...]:
        """Those of them whose action is in force."""
        return tuple(watch.status(now) for watch in self._watches if watch.level is Level.BREACHED)

    def to_state(self) -> orjson.Fragment:
        """What orjson writes for `restore` to read: at most CHECKPOINT_S old, and never older than the last event."""
        if self._packed is None:
            kept = {
                watch.threshold.name: [watch.threshold.window_s, watch.to_state(), _digest(watch.threshold)]
                for watch in self._watches
            }
            self._packed = orjson.Fragment(orjson.dumps(kept))
        return self._packed

    def left_behind(self, state: Mapping[str, object]) -> list[Event]:
        """What `_Watch.leave` would have told of thresholds of which the state alone is left."""
        mine = {watch.threshold.name: watch.threshold for watch in self._watches}
        return [
            _left(self._route, name)
            for name, (window_s, _, *was) in _breached(state)
            if not _is_of(mine.get(name), window_s, was)
        ]

    def restore(self, state: Mapping[str, object], now: float) -> dict[str, str]:
        """Takes over thresholds that are what they were, at steady time `now`; the others begin anew. (Older states say of
        them the name and the window alone.) Answers which of them could not be read, and why."""
        lost: dict[str, str] = {}
        for place, watch in enumerate(self._watches):
            threshold = watch.threshold
            if threshold.name not in state:
                continue
            try:
                window_s, kept, *was = cast("list[Any]", state[threshold.name])
                if not _is_of(threshold, float(window_s), was):
                    continue
                made = _Watch(threshold, self._route)
                why = made.restore(kept, now)
            except (TypeError, ValueError, OverflowError) as error:
                lost[threshold.name] = f"{type(error).__name__}: {error}"
                continue
            if why is not None:
                lost[threshold.name] = why
            self._watches[place] = made
        self._packed = None
        self._refresh()
        return lost
