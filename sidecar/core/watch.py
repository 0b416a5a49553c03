"""What watches a route beside its thresholds: drift, anomalies, and the tuning of parameters, behind one set of verbs.

    decide   puts the tuned parameters into a decision               observe, label   what an exchange shows
    obey     does what a threshold's action `adjust` orders          tick             windows that are over

A route whose policy asks for none of them has `active` False, and nothing here costs its requests anything.

What it does not do: anything of its own. The theory is in `core.drift`, `core.anomaly` and `core.tuning`.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from sidecar.core.anomaly import AnomalySet, AnomalyStatus
from sidecar.core.drift import DriftSet, DriftStatus
from sidecar.core.policy import Route
from sidecar.core.thresholds import ThresholdStatus
from sidecar.core.tuning import Tuner, TuningStatus, Way
from sidecar.core.types import Decision, Event, Facts, Outcome
from sidecar.core.units import in_words

SHOWN: Final = 0.01  # of the limit, 0.001..1; evidence above it is shown; smaller shows chance, larger shows late


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """What is watched and tuned, for people."""

    drift: tuple[DriftStatus, ...]
    anomalies: tuple[AnomalyStatus, ...]
    tuning: tuple[TuningStatus, ...]


def notes(thresholds: Sequence[ThresholdStatus], watch: WatchStatus) -> tuple[str, ...]:
    """Limits, drift, anomalies and tuning in one line each, for people."""
    told = [in_a_line(one) for one in thresholds]
    if watch.drift:
        learning = sum(one.phase == "learning" for one in watch.drift)
        told.append(f"drift: {len(watch.drift)} distributions, {learning} of them still learnt")
    for seen in watch.drift:
        far = seen.ks is not None and seen.evidence > SHOWN * seen.limit
        if far or seen.alarms:
            distance = "" if seen.ks is None else f", KS {seen.ks:.3f}, PSI {seen.psi:.3f}"
            counted = f"alarms {seen.alarms}, {seen.phase} for {seen.windows} windows{distance}"
            told.append(
                f"drift of {seen.metric}{_of(seen.arm)}: {counted}, evidence {seen.evidence:.3g} of {seen.limit:.3g}"
            )
    told += [f"anomalies of {one.metric}{_of(one.arm)}: {one.alarms}" for one in watch.anomalies if one.alarms]
    return (*told, *(_knob(one) for one in watch.tuning))


def _of(whose: str) -> str:
    return f" of {whose}" if whose else ""


def in_a_line(one: ThresholdStatus) -> str:
    """A limit for people."""
    value = "too few values" if one.value is None else f"{one.metric} {in_words(one.metric, one.value)}"
    limit = "a limit that is still learnt" if one.limit is None else f"limit {in_words(one.metric, one.limit)}"
    again = f", found {one.repeats} times again" if one.repeats else ""
    return f"threshold {one.name}: {one.level}, {value}, {limit}, {one.samples} calls{again}"


def _knob(one: TuningStatus) -> str:
    task = f" for task {one.task}" if one.task else ""
    trial = f", on trial: {one.calls} calls, evidence {one.evidence:.3g} of {one.needed:.3g}" if one.trial else ""
    return f"tuning of {one.name}{task}: {one.value:.6g}, today {one.low:.6g} to {one.high:.6g}{trial}"


class Watch:
    """Drift, anomalies and tuning of one route."""

    __slots__ = ("active", "anomalies", "drift", "tuner")

    def __init__(self, route: Route, now: float) -> None:
        self.drift = DriftSet(route)
        self.anomalies = AnomalySet(route)
        self.tuner = None if route.tuning is None else Tuner(route, route.tuning, now)
        self.active = (route.drift, route.anomalies, route.tuning) != (None, None, None)

    def decide(self, facts: Facts, decision: Decision, now: float) -> Decision:
        """The decision with the tuned parameters; itself when there are none."""
        return decision if self.tuner is None else self.tuner.decide(facts, decision, now)

    def observe(
        self, facts: Facts, decision: Decision, outcome: Outcome, judged: tuple[float | None, float | None], now: float
    ) -> list[Event]:
        """Looks at one exchange; `judged` is its (reward, quality) where known. Aborted ones and failures show nothing."""
        arm = outcome.served_arm or decision.arm
        if arm is None or outcome.kind != "completed":
            return []
        reward, quality = judged
        self.drift.observe(arm, outcome, quality, now)
        events = self.anomalies.observe(arm, outcome, quality, now)
        if self.tuner is not None and outcome.served_arm is None:
            events += self.tuner.observe(facts, decision, reward, now)
        return events

    def label(self, arm: str, score: float, now: float) -> list[Event]:
        """Looks at one quality score that came later."""
        self.drift.label(arm, score, now)
        return self.anomalies.label(arm, score, now)

    def obey(self, breach: Event, now: float) -> list[Event]:
        """Does what a threshold's event orders of the tuned parameters; nothing when it orders nothing of them."""
        match breach.detail.get("adjust"):
            case [str(name), str(way)] if self.tuner is not None and breach.detail.get("action") == "adjust":
                return self.tuner.adjust(name, cast("Way", way), now, breach.message)
            case _:
                return []

    def tick(self, now: float) -> list[Event]:
        """Judges the windows that are over, and begins the tuner's day."""
        tuned = [] if self.tuner is None else self.tuner.tick(now)
        return [*self.drift.tick(now), *self.anomalies.tick(now), *tuned]

    def status(self) -> WatchStatus:
        return WatchStatus(
            self.drift.status(), self.anomalies.status(), () if self.tuner is None else self.tuner.status()
        )

    def to_state(self) -> dict[str, object]:
        """What orjson writes for `restore` to read."""
        tuning = {} if self.tuner is None else self.tuner.to_state()
        return {"drift": self.drift.to_state(), "anomalies": self.anomalies.to_state(), "tuning": tuning}

    def restore(self, state: Mapping[str, object], arms: Container[str], now: float) -> dict[str, str]:
        """Takes over what was learnt of these arms: those that are what they were. What cannot be read begins anew:
        answers which of `drift`, `anomalies` and `tuning`, and what of it."""
        tuner = self.tuner
        readers: dict[str, Callable[[dict[str, Any]], list[str]]] = {
            "drift": lambda kept: self.drift.restore(kept, arms),
            "anomalies": lambda kept: self.anomalies.restore(kept, arms),
            "tuning": lambda kept: [] if tuner is None else tuner.restore(kept, now),
        }
        lost: dict[str, str] = {}
        for part, read in readers.items():
            kept = state.get(part)
            names = read(kept) if isinstance(kept, dict) else ["all of it"]
            if names:
                lost[part] = ", ".join(names)
        return lost

    def adopt(self, before: "Watch", arms: Container[str], now: float) -> None:
        """Takes over what the last policy's route learnt of these arms, as a restart would."""
        if self.active and before.active:
            self.restore(orjson.loads(orjson.dumps(before.to_state())), arms, now)
