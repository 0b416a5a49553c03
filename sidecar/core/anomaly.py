"""Anomalies: single calls, and windows, that are far from the usual, told with a stated number of false alarms.

**Distance.** Values are looked at as ln(1 + x / median of the learnt ones), because times, tokens and costs have long
tails (quality as it is). Of the first LEARNING of them a middle c and a scale s are learnt, and a distance is (never
compared with a table; it only says what is strange):

    mad: |x - median| / (1.4826 * median |x - median|)         iqr: |x - nearer quartile| outside them / (IQR / 1.349)
    z:   |x - mean| / standard deviation

(Iglewicz, Hoaglin 1993; Tukey 1977). 1.4826 and 1.349 make one unit a standard deviation for normal values.

**A single call** is an anomaly when its distance has a rank R among the n so far with R / n <= a, where a is
false_alarms_per_10k / 10,000 divided by the number of metrics, and is at least `sigma`. If nothing changes, ranks are
uniform for any distribution (`core.ranks`), so the first condition alone is met by a share a of the calls: at most the
budget. It needs n >= 1 / a calls before it can say anything: 10,000 times the number of metrics, by default. The rank
is exact in little memory: only the largest distances of an epoch are kept.

**A window** (`samples` values over at least `window_s`) is judged by its mean: the distances of windows' means feed the
detector of `core.ranks`, so that all distributions together keep the budget, counted in windows of one of them. One
strange window alone is rarely proof; two or three in a row are.

**Events.** The first anomaly of a distribution tells; further ones within QUIET windows of the last only count, and
when it has been quiet that long the next one tells how many there were.

What it does not do: tell a good surprise from a bad one. Calls that depend on each other over long times make ranks of
calls unreliable (a slow minute is a hundred slow calls): then they come as one event, by the quiet time.
"""

from bisect import bisect_left, insort
from collections.abc import Container, Mapping
from dataclasses import dataclass
from math import ceil, log
from typing import Any, Final, cast

import numpy as np
import orjson

from sidecar.core.policy import Anomalies, Method, Route
from sidecar.core.ranks import Detector
from sidecar.core.samples import Key, Sample, is_of, keys, read, told_of
from sidecar.core.types import Event, Outcome
from sidecar.core.units import in_words

LEARNING: Final = 200  # 50..2,000 calls, before distances exist; fewer guess middle and scale badly
LEARNING_WINDOWS: Final = 16  # 5..100 windows, the same for windows
EPOCH: Final = 16  # 4..100 times 1 / a calls; then distances are ranked anew; more remember an older normal
QUIET: Final = 5.0  # 1..60 windows without an anomaly end an episode; fewer tell more often, more hide new ones
PER: Final = 10_000.0
CHECKPOINT_S: Final = 5.0  # 1..60; smaller makes snapshots dearer, larger forgets more in a crash
_LEAST: Final = 1e-3  # least scale, of logarithms or shares: 1e-6..0.1; smaller lets constant values alarm on nothing
_PER_MAD, _PER_IQR = 1.4826, 1 / 1.349


class Scale:
    """Middle and scale of learnt values, by one of three methods; `distance` is a fixed function ever after."""

    __slots__ = ("_high", "_low", "_scale", "_unit")

    def __init__(self, values: list[float], method: Method, *, share: bool) -> None:
        raw = np.asarray(values, dtype=np.float64)
        self._unit = 0.0 if share else max(float(np.median(raw)), 1e-9)
        seen = raw if share else np.log1p(raw / self._unit)
        quarter, middle, three = (float(each) for each in np.quantile(seen, (0.25, 0.5, 0.75)))
        match method:
            case "iqr":
                self._low, self._high, scale = quarter, three, (three - quarter) * _PER_IQR
            case "mad":
                self._low = self._high = middle
                scale = float(np.median(np.abs(seen - middle))) * _PER_MAD
            case _:
                self._low = self._high = float(seen.mean())
                scale = float(seen.std())
        self._scale = max(scale, _LEAST)

    def distance(self, value: float) -> float:
        """How many scales the value is away, >= 0."""
        seen = log(1.0 + value / self._unit) if self._unit else value
        return max(self._low - seen, seen - self._high, 0.0) / self._scale

    def to_state(self) -> list[float]:
        return [self._unit, self._low, self._high, self._scale]

    def restore(self, state: list[float]) -> None:
        """The inverse of `to_state`. Raises ValueError or TypeError when the state is not four numbers."""
        self._unit, self._low, self._high, self._scale = (float(number) for number in state)


class Tops:
    """Whether a distance is among the share `a` of largest ones so far, exactly, in memory for the largest alone."""

    __slots__ = ("_a", "_top", "seen")

    def __init__(self, a: float) -> None:
        self._a = a
        self._top: list[float] = []  # rising; as many as can ever be among the share within an epoch, and one
        self.seen = 0

    def add(self, distance: float) -> bool:
        """Takes a distance in; of equal ones the newest ranks last, so that ties never alarm more often."""
        if self.seen >= EPOCH / self._a:
            self._top, self.seen = [], 0
        self.seen += 1
        rank = len(self._top) - bisect_left(self._top, distance) + 1
        if len(self._top) <= EPOCH:
            insort(self._top, distance)
        elif distance > self._top[0]:
            del self._top[0]
            insort(self._top, distance)
        return rank <= self._a * self.seen

    def to_state(self) -> list[object]:
        return [self.seen, self._top]

    def restore(self, seen: float, top: list[float]) -> None:
        """The inverse of `to_state`. Raises ValueError or TypeError for what is no number."""
        self.seen, self._top = int(seen), sorted(float(distance) for distance in top)


@dataclass(frozen=True, slots=True)
class AnomalyStatus:
    """One watched distribution for people. `needed` calls must be seen before a single one can be an anomaly."""

    metric: str
    arm: str
    calls: int
    needed: int
    windows: int
    alarms: int
    repeats: int  # since the last event, in the same episode
    since: float  # of the last anomaly, 0 when there was none


class _Watched:
    """One distribution: its calls, its windows, and the episode under way."""

    def __init__(self, key: Key, spec: Anomalies, limit: float) -> None:
        self.key, self._spec = key, spec
        self._share = key[0] == "quality"
        self._first: list[float] = []  # calls, until `_calls` is learnt
        self._calls: Scale | None = None
        self._tops = Tops(spec.false_alarms_per_10k / PER / len(spec.metrics))
        self.sample = Sample(spec.window_s, spec.samples)
        self._means: list[float] = []
        self._windows: Scale | None = None
        self._detector = Detector(limit)
        self.alarms, self.repeats, self._last = 0, 0, 0.0

    def call(self, value: float, now: float) -> dict[str, object] | None:
        """Looks at one call; the detail of an event, or None."""
        self.sample.add(value, now)
        if self._calls is None:
            self._first.append(value)
            if len(self._first) == LEARNING:
                self._calls, self._first = Scale(self._first, self._spec.method, share=self._share), []
            return None
        distance = self._calls.distance(value)
        rare = self._tops.add(distance)
        return self._tell("call", value, distance, now) if rare and distance >= self._spec.sigma else None

    def close(self, now: float) -> dict[str, object] | None:
        """Judges the window that is over; the detail of an event, or None."""
        window = self.sample.take()
        mean = sum(window) / len(window)
        if self._windows is None:
            self._means.append(mean)
            if len(self._means) == LEARNING_WINDOWS:
                self._windows, self._means = Scale(self._means, self._spec.method, share=self._share), []
            return None
        distance = self._windows.distance(mean)
        return self._tell("window", mean, distance, now) if self._detector.step((distance,)) else None

    def _tell(self, what: str, value: float, distance: float, now: float) -> dict[str, object] | None:
        goes_on = self.alarms > 0 and 0.0 <= now - self._last < QUIET * self._spec.window_s
        self._last = now
        if goes_on:
            self.repeats += 1
            return None
        self.alarms += 1
        before, self.repeats = self.repeats, 0
        return {
            "metric": self.key[0], "what": what, "value": value, "distance": round(distance, 2),
            "method": self._spec.method, "repeats_before": before,
        }  # fmt: skip

    def status(self) -> AnomalyStatus:
        """For people: how much was seen, how much a verdict on single calls needs, alarms so far."""
        needed = ceil(PER * len(self._spec.metrics) / self._spec.false_alarms_per_10k)
        return AnomalyStatus(
            metric=self.key[0],
            arm=self.key[1],
            calls=len(self._first) + (0 if self._calls is None else LEARNING + self._tops.seen),
            needed=LEARNING + needed,
            windows=len(self._means) + (0 if self._windows is None else LEARNING_WINDOWS + self._detector.steps),
            alarms=self.alarms,
            repeats=self.repeats,
            since=self._last,
        )

    def to_state(self) -> list[object]:
        calls = None if self._calls is None else self._calls.to_state()
        windows = None if self._windows is None else self._windows.to_state()
        told = [self.alarms, self.repeats, self._last]
        return [calls, self._tops.to_state(), self._means, windows, self._detector.to_state(), told]

    def restore(self, state: object) -> None:
        """The inverse of `to_state`. Raises ValueError or TypeError; then it must be thrown away."""
        calls, tops, means, windows, detector, told = cast("list[Any]", state)
        self._tops.restore(*tops)
        self._calls, self._windows = self._scale(calls), self._scale(windows)
        self._means = [float(mean) for mean in means]
        self._detector.restore(detector)
        self.alarms, self.repeats, self._last = int(told[0]), int(told[1]), float(told[2])

    def _scale(self, state: list[float] | None) -> Scale | None:
        if state is None:
            return None
        made = Scale([0.0], self._spec.method, share=self._share)
        made.restore(state)
        return made


class AnomalySet:
    """All watched distributions of one route. `observe` judges a call (about 1 us a metric), `tick` windows."""

    __slots__ = ("_pack_at", "_packed", "_route", "_spec", "_watched")

    def __init__(self, route: Route) -> None:
        """Watches nothing when the route has no `anomalies`."""
        self._route, self._spec = route.name, route.anomalies or Anomalies(metrics=())
        known = tuple(keys(self._spec.metrics, tuple(arm.id for arm in route.all_arms)))
        limit = PER * len(known) / self._spec.false_alarms_per_10k
        self._watched = {key: _Watched(key, self._spec, limit) for key in known}
        self._packed: orjson.Fragment | None = None
        self._pack_at = 0.0

    def observe(self, arm: str, outcome: Outcome, quality: float | None, now: float) -> list[Event]:
        """Judges one exchange of the arm that served it; only completed ones are looked at."""
        events: list[Event] = []
        if outcome.kind != "completed":
            return events
        for metric in self._spec.metrics:
            found = read(metric, arm, outcome, quality)
            if found is not None:
                events += self._call(found[0], found[1], now)
        return events

    def label(self, arm: str, score: float, now: float) -> list[Event]:
        """Judges one quality score that came later."""
        return self._call(("quality", arm), score, now)

    def _call(self, key: Key, value: float, now: float) -> list[Event]:
        watched = self._watched.get(key)
        told = None if watched is None else watched.call(value, now)
        return [] if told is None else [self._event(key, told)]

    def tick(self, now: float) -> list[Event]:
        """Judges every window that is over."""
        if not self._pack_at - CHECKPOINT_S <= now < self._pack_at:
            self._packed, self._pack_at = None, now + CHECKPOINT_S
        events = []
        for watched in self._watched.values():
            told = watched.close(now) if watched.sample.ready(now) else None
            if told is not None:
                events.append(self._event(watched.key, told))
        return events

    def _event(self, key: Key, told: dict[str, object]) -> Event:
        name, arm = told_of(key)
        what = "one call" if told["what"] == "call" else "a window's mean"
        value = in_words(key[0], cast("float", told["value"]))
        return Event(
            kind="anomaly.detected",
            severity=self._spec.severity,
            route=self._route,
            arm=arm,
            message=f"{name}: {what} is {value}, {told['distance']} scales from the usual",
            detail={**told, "false_alarms_per_10k": self._spec.false_alarms_per_10k},
        )

    def status(self) -> tuple[AnomalyStatus, ...]:
        """One record for each distribution of which something was seen."""
        return tuple(one for one in (watched.status() for watched in self._watched.values()) if one.calls)

    def to_state(self) -> orjson.Fragment:
        """What orjson writes for `restore` to read, at most CHECKPOINT_S old."""
        if self._packed is None:
            kept = {f"{metric}/{arm}": watched.to_state() for (metric, arm), watched in self._watched.items()}
            self._packed = orjson.Fragment(orjson.dumps({"spec": self._kind(), "watched": kept}))
        return self._packed

    def _kind(self) -> list[object]:
        spec = self._spec
        return [spec.method, spec.window_s, spec.samples, spec.false_alarms_per_10k, len(spec.metrics)]

    def restore(self, state: Mapping[str, object], arms: Container[str]) -> list[str]:
        """Takes over what a set of the same kind gave, of these arms (those that still are what they were). What is
        missing or cannot be read is learnt anew; answers what could not be read."""
        kept, same = state.get("watched"), state.get("spec") == self._kind()
        if not same or not isinstance(kept, dict):
            return ["all of it"] if same else []
        lost: list[str] = []
        limit = PER * len(self._watched) / self._spec.false_alarms_per_10k
        for key in self._watched:
            made, one = _Watched(key, self._spec, limit), kept.get(f"{key[0]}/{key[1]}") if is_of(key, arms) else None
            try:
                made.restore(one)
            except (ValueError, TypeError, IndexError):
                lost += [f"{key[0]}/{key[1]}"] if one is not None else []
                continue
            self._watched[key] = made
        return lost
