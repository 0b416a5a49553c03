"""Drift: whether the calls of a route are still what they were, told with a stated number of false alarms.

Each watched distribution (`core.samples` says which) is cut into windows of equally many values. The first LEARNING
windows are pooled: they are the reference. Every later window gets two distances from it:

    KS  = max_x |F_window(x) - F_reference(x)|, at and just below GRID quantiles of the reference  (Kolmogorov, Smirnov)
    PSI = sum over BINS equally full bins of (w - r) ln(w / r), each share with half a value added to its count

Neither is compared with a table: tables hold for independent values, and calls come in bursts that resemble each
other. Both are ranked among the distances of the windows since the reference was learnt, and the ranks are bet on
(`core.ranks`). If windows are exchangeable (blocks of traffic could have come in any order), the promise holds
exactly, however values within a window depend on each other and however often one looks:

    false alarms of one detector <= 1 in A windows,    A = 10,000 x detectors / false_alarms_per_10k

so that all detectors of the route together keep the budget, counted in windows of one of them.

    LEARNING -> WATCHING       the reference has its windows
    WATCHING -> LEARNING       evidence reached A: one event `drift.detected` with both distances; what is now becomes the
                               new normal

So a change is told once, and its end is a change again. The effect sizes of the event are those of the last RECENT
windows together. By custom a PSI below 0.1 is small and one above 0.25 large; KS is the largest difference of shares.

What it does not do: tell why. A daily cycle is a change for windows much shorter than a day: learn and watch windows of
hours where there is one, or accept the alarms. A change during learning becomes part of the reference. Small changes
take many windows: `bench.drift` has figures.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from sidecar.core.policy import Drift, Route
from sidecar.core.ranks import Detector
from sidecar.core.samples import DIGITS, Key, Sample, is_of, keys, read, told_of
from sidecar.core.types import Event, Outcome

LEARNING: Final = 16  # 4..64 windows of reference; fewer are a rough picture, more delay the watching
RECENT: Final = 4  # 1..16 windows whose effect size is told; fewer are noisy, more dilute a change
GRID: Final = 64  # 32..1,024 places where distributions are compared; fewer miss narrow changes, more cost time
BINS: Final = 10  # 5..20, by custom 10; more bins need more values in each
PER: Final = 10_000.0  # windows that the budget speaks of
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DriftStatus:
    """One watched distribution for people. Distances are of the newest window; None while it is learnt."""

    metric: str
    arm: str
    phase: str  # learning | watching
    windows: int  # since learning or watching began
    ks: float | None
    psi: float | None
    evidence: float
    limit: float
    alarms: int
    since: float  # of the last alarm, 0 when there was none


class Reference:
    """A distribution to compare with. Made of a pool of values; `distances` is a fixed function ever after."""

    __slots__ = ("_cuts", "_edges", "_levels", "_shares", "median")

    def __init__(self, pool: list[float]) -> None:
        ordered = np.sort(np.asarray(pool, dtype=np.float64))
        self._cuts: Floats = np.unique(np.quantile(ordered, np.linspace(0, 1, GRID), method="inverted_cdf"))
        self._levels = _levels(ordered, self._cuts)
        at = np.linspace(0, 1, BINS + 1)[1:-1]
        self._edges: Floats = np.unique(np.quantile(ordered, at, method="inverted_cdf"))
        self._shares = _shares(ordered, self._edges)
        self.median = float(np.median(ordered))

    def distances(self, window: list[float]) -> tuple[float, float]:
        """(KS in 0..1, PSI >= 0) of at least one value."""
        ordered = np.sort(np.asarray(window, dtype=np.float64))
        ks = float(np.max(np.abs(_levels(ordered, self._cuts) - self._levels)))
        shares = _shares(ordered, self._edges)
        psi = float(np.sum((shares - self._shares) * np.log(shares / self._shares)))
        return ks, psi

    def to_state(self) -> list[object]:
        parts = (self._cuts, self._levels, self._edges, self._shares)
        return [*(np.round(part, DIGITS).tolist() for part in parts), self.median]

    @classmethod
    def from_state(cls, state: list[object]) -> "Reference":
        """The inverse of `to_state`. Raises ValueError when its parts do not fit each other."""
        made = cls([0.0])
        cuts, levels, edges, shares, middle = state
        made._cuts, made._levels = np.asarray(cuts, dtype=np.float64), np.asarray(levels, dtype=np.float64)
        made._edges, made._shares = np.asarray(edges, dtype=np.float64), np.asarray(shares, dtype=np.float64)
        if made._levels.shape != (2, len(made._cuts)) or made._shares.shape != (len(made._edges) + 1,):
            raise ValueError("the state of a reference has parts of different lengths")
        made.median = float(str(middle))
        return made


def _levels(ordered: Floats, cuts: Floats) -> Floats:
    """The share of values at or below each cut, and below it: a step of the window between two cuts is not missed."""
    made: Floats = np.stack([np.searchsorted(ordered, cuts, side) for side in ("right", "left")]) / len(ordered)
    return made


def _shares(ordered: Floats, edges: Floats) -> Floats:
    """The share of each bin (left open, right closed) with half a value added, so that none is 0."""
    below = np.concatenate(([0], np.searchsorted(ordered, edges, side="right"), [len(ordered)]))
    made: Floats = (np.diff(below) + 0.5) / (len(ordered) + 0.5 * (len(edges) + 1))
    return made


class _Watched:
    """One distribution: its sample, its reference and its detector."""

    def __init__(self, key: Key, spec: Drift, limit: float) -> None:
        self.key = key
        self.sample = Sample(spec.window_s, spec.samples)
        self._detector = Detector(limit, kinds=2)
        self._pool: list[list[float]] = []
        self._reference: Reference | None = None
        self._recent: list[list[float]] = []
        self._newest: tuple[float, float] | None = None
        self.alarms, self._since = 0, 0.0
        self._packed: orjson.Fragment | None = None

    def close(self, now: float) -> dict[str, object] | None:
        """Judges the window that is over; the detail of an alarm, or None."""
        self._packed = None
        window = self.sample.take()
        if self._reference is None:
            self._pool.append(window)
            if len(self._pool) == LEARNING:
                self._reference = Reference(list(chain.from_iterable(self._pool)))
                self._pool = []
            return None
        ks, psi = self._reference.distances(window)
        self._newest = round(ks, DIGITS), round(psi, DIGITS)
        self._recent = [*self._recent[1 - RECENT :], window]
        steps = self._detector.steps + 1
        if not self._detector.step(self._newest):
            return None
        recent = list(chain.from_iterable(self._recent))
        ks, psi = self._reference.distances(recent)
        told: dict[str, object] = {
            "metric": self.key[0], "ks": round(ks, 4), "psi": round(psi, 4), "before": self._reference.median,
            "after": median(recent), "windows": steps, "limit": self._detector.limit,
        }  # fmt: skip
        self._reference, self._newest, self._recent = None, None, []
        self.alarms, self._since = self.alarms + 1, now
        return told

    def status(self) -> DriftStatus:
        """For people: whether it learns or watches, and the newest window's distances from the reference."""
        learning = self._reference is None
        ks, psi = self._newest if self._newest is not None else (None, None)
        return DriftStatus(
            metric=self.key[0],
            arm=self.key[1],
            phase="learning" if learning else "watching",
            windows=len(self._pool) if learning else self._detector.steps,
            ks=ks,
            psi=psi,
            evidence=self._detector.evidence,
            limit=self._detector.limit,
            alarms=self.alarms,
            since=self._since,
        )

    def to_state(self) -> orjson.Fragment:
        """JSON that is made once a window: a snapshot is written more often than that."""
        if self._packed is None:
            reference = None if self._reference is None else self._reference.to_state()
            state = [self._pool, reference, self._detector.to_state(), self._newest, self.alarms, self._since]
            self._packed = orjson.Fragment(orjson.dumps(state))
        return self._packed

    def restore(self, state: object) -> None:
        """The inverse of `to_state`. Raises ValueError or TypeError; then it must be thrown away."""
        if not isinstance(state, list):
            raise ValueError("the state of a watched distribution is a list")  # noqa: TRY004  a broken state
        pool, reference, detector, newest, alarms, since = state
        self._pool = [[float(value) for value in window] for window in pool]
        self._reference = Reference.from_state(reference) if isinstance(reference, list) else None
        self._detector.restore(detector)
        self._newest = None if newest is None else (float(newest[0]), float(newest[1]))
        self.alarms, self._since = int(str(alarms)), float(str(since))


class DriftSet:
    """All watched distributions of one route. `observe` only collects; `tick` judges, off the request."""

    __slots__ = ("_route", "_spec", "_watched")

    def __init__(self, route: Route) -> None:
        """Watches nothing when the route has no `drift`."""
        self._route, self._spec = route.name, route.drift or Drift(metrics=())
        known = tuple(keys(self._spec.metrics, tuple(arm.id for arm in route.all_arms)))
        self._watched = {key: _Watched(key, self._spec, self._limit(len(known))) for key in known}

    def _limit(self, detectors: int) -> float:
        return PER * detectors / self._spec.false_alarms_per_10k

    def observe(self, arm: str, outcome: Outcome, quality: float | None, now: float) -> None:
        """Collects what one exchange shows of the arm that served it; only completed ones show anything."""
        if outcome.kind != "completed":
            return
        for metric in self._spec.metrics:
            found = read(metric, arm, outcome, quality)
            if found is not None:
                watched = self._watched.get(found[0])
                if watched is not None:
                    watched.sample.add(found[1], now)

    def label(self, arm: str, score: float, now: float) -> None:
        """Collects one quality score that came later."""
        watched = self._watched.get(("quality", arm))
        if watched is not None:
            watched.sample.add(score, now)

    def tick(self, now: float) -> list[Event]:
        """Judges every window that is over: about 0.1 ms for each; the events of changes found."""
        events = []
        for watched in self._watched.values():
            told = watched.close(now) if watched.sample.ready(now) else None
            if told is not None:
                events.append(self._event(watched.key, told))
        return events

    def _event(self, key: Key, told: dict[str, object]) -> Event:
        name, arm = told_of(key)
        text = f"{name} changed: median {told['before']:.4g} to {told['after']:.4g}, "
        return Event(
            kind="drift.detected",
            severity=self._spec.severity,
            route=self._route,
            arm=arm,
            message=text + f"KS {told['ks']:.3f}, PSI {told['psi']:.3f}",
            detail={**told, "false_alarms_per_10k": self._spec.false_alarms_per_10k},
        )

    def status(self) -> tuple[DriftStatus, ...]:
        """One record for each distribution of which something was seen."""
        made = (watched.status() for watched in self._watched.values())
        return tuple(one for one in made if one.windows or one.alarms or one.phase == "watching")

    def to_state(self) -> dict[str, object]:
        """What orjson writes for `restore` to read. The window under way is left out: it begins anew."""
        kept = {f"{metric}/{arm}": watched.to_state() for (metric, arm), watched in self._watched.items()}
        return {"window_s": self._spec.window_s, "samples": self._spec.samples, "watched": kept}

    def restore(self, state: Mapping[str, object], arms: Container[str]) -> list[str]:
        """Takes over what windows of the same kind gave, of these arms (those that still are what they were). What is
        missing or cannot be read is learnt anew; answers what could not be read."""
        kept = state.get("watched")
        same = (state.get("window_s"), state.get("samples")) == (self._spec.window_s, self._spec.samples)
        if not same or not isinstance(kept, dict):
            return ["all of it"] if same else []
        lost: list[str] = []
        for key, watched in list(self._watched.items()):
            one = kept.get(f"{key[0]}/{key[1]}") if is_of(key, arms) else None
            made = _Watched(key, self._spec, self._limit(len(self._watched)))
            try:
                made.restore(one)
            except (ValueError, TypeError, IndexError):
                lost += [f"{key[0]}/{key[1]}"] if one is not None else []
                continue
            made.sample = watched.sample
            self._watched[key] = made
        return lost
