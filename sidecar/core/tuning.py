"""Tuning: parameters of the request (temperature, top_p, max_tokens) moved on evidence, inside the policy's bounds.

Each task (`Facts.task`) has its own values. One parameter at a time is on trial, in the policy's order: a call gets the
value v (1 - d) or v (1 + d) by a hash of its own random bits, d = half of `per_day`. So the side s = -1 or +1 is a fair
coin that nothing else depends on, whichever arm serves. It is not the conversation's: the calls of one resemble each
other, and with one coin for all of them a single odd conversation would count as many times as it has calls.

**Evidence.** x is the call's reward in 0..1, b the mean reward before it. If the parameter makes no difference, x does
not depend on s, and for each stake l in STAKES

    E+ grows by 1 + l s (x - b)        E- grows by 1 - l s (x - b)

which have mean 1 given x and all before: sign-flip e-processes (compare Ramdas, Ruf, Larsson, Koolen 2022, "Testing
exchangeability", and Ville 1939). When the mean over the stakes of E+ or E- reaches 2 / false_moves, v moves to the
better side; it may be looked at after every call, and a trial of a parameter that makes no difference moves it with
probability <= false_moves. A trial also ends, without a move, after `max_samples` calls. Then the next parameter is tried.

**Bounds.** Each UTC day has an anchor: the value as the day began. Nothing that is sent that day is outside

    [max(low, anchor (1 - per_day)), min(high, anchor (1 + per_day))]

trials, moves and orders alike, rounded inwards to whole tokens or to 0.0001. A parameter without room on both sides
rests until tomorrow. A temperature of 0 cannot move: 5 % of nothing is nothing.

**Orders** (`adjust`, from a threshold's action) move a parameter to the end of the day's room at once, for all tasks.
Every move, ordered or learnt, first asks `permit` when there is one (the policy's rules); a refusal is an event.

**max_tokens** is sent under the name that the app itself used (`max_completion_tokens`, `max_output_tokens`), and under the
endpoint's own name where the app set no limit. It never raises what the app asked for.

What it does not do: set a parameter that the arm's own `params` set; touch calls in the Gemini dialect, whose parameters
are not members of the body's top level. Steps of a few percent have small effects: expect days and thousands of calls a
task, and no move at all where there is nothing to gain.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, floor
from typing import Any, Final, Literal, cast

from msgspec.structs import replace

from sidecar.core.policy import Knob, Route, Tuning
from sidecar.core.types import Decision, Event, Facts

STAKES: Final = (0.05, 0.15, 0.4, 0.9)  # 0..1; small ones find small effects slowly, large ones great effects soon
MAX_TASKS: Final = 64  # 1..1,000; tasks come from requests: further ones share the values of task ""
DAY_S: Final = 86_400.0
CEILING: Final = "max_tokens"
CEILINGS: Final = (CEILING, "max_completion_tokens", "max_output_tokens")  # its names in bodies
_FINE: Final = 1e-4  # what temperature and top_p are rounded to
_MAX_WEALTH: Final = 1e50  # products stay finite
_MASK: Final = 2**64 - 1
Way = Literal["up", "down"]
Permit = Callable[[str, str, str | None, Mapping[str, str | float | bool]], str | None]  # kind, route, arm, facts


@dataclass(frozen=True, slots=True)
class TuningStatus:
    """One parameter of one task for people. `trial`: it is the one on trial, with this many calls and this evidence."""

    task: str
    name: str
    value: float
    low: float  # of today's room
    high: float
    trial: bool
    calls: int
    evidence: float
    needed: float


class _Trial:
    """The two e-processes of one parameter."""

    __slots__ = ("calls", "down", "total", "up")

    def __init__(self) -> None:
        self.calls, self.total = 0, 0.0
        self.up, self.down = [1.0] * len(STAKES), [1.0] * len(STAKES)

    def add(self, side: int, reward: float) -> None:
        """One call on `side` (-1 or +1) with a reward in 0..1."""
        x = side * (reward - (self.total + 0.5) / (self.calls + 1))
        self.up = [min(_MAX_WEALTH, held * (1 + stake * x)) for held, stake in zip(self.up, STAKES, strict=True)]
        self.down = [min(_MAX_WEALTH, held * (1 - stake * x)) for held, stake in zip(self.down, STAKES, strict=True)]
        self.calls += 1
        self.total += reward

    def evidence(self) -> tuple[float, Way]:
        up, down = sum(self.up) / len(STAKES), sum(self.down) / len(STAKES)
        return (up, "up") if up >= down else (down, "down")


class _Task:
    """One task's values, today's anchors, and the trial under way."""

    def __init__(self, spec: Tuning, now: float) -> None:
        self.spec = spec
        self.values = [knob.start for knob in spec.knobs]
        self.anchors = list(self.values)
        self.day = int(now // DAY_S)
        self.at = 0  # the knob on trial
        self.round = 0  # how many trials there were: each has its own coins
        self.trial = _Trial()
        self.sides = self._sides()
        if self.sides is None:
            self.next()

    def roll(self, now: float) -> None:
        """A new UTC day has new anchors."""
        day = int(now // DAY_S)
        if day != self.day:
            self.day, self.anchors = day, list(self.values)
            if self.sides is None:
                self.next()
            else:
                self.sides = self._sides()

    def room(self, at: int) -> tuple[float, float]:
        """Between what values knob `at` may be today, at least its anchor."""
        knob, anchor, part = self.spec.knobs[at], self.anchors[at], self.spec.per_day
        return _up(max(knob.low, anchor * (1 - part)), knob), _down(min(knob.high, anchor * (1 + part)), knob)

    def _sides(self) -> tuple[float, float] | None:
        """The two values on trial; None when there is no room on both sides of the present one."""
        knob, value, low_high = self.spec.knobs[self.at], self.values[self.at], self.room(self.at)
        step = value * self.spec.per_day / 2
        low, high = max(_down(value - step, knob), low_high[0]), min(_up(value + step, knob), low_high[1])
        return (low, high) if low < value < high else None

    def next(self) -> None:
        """Tries the next knob that has room; with none, the one after this rests until tomorrow."""
        self.trial, self.round = _Trial(), self.round + 1
        for _ in self.spec.knobs:
            self.at = (self.at + 1) % len(self.spec.knobs)
            self.sides = self._sides()
            if self.sides is not None:
                return

    def to_state(self) -> list[object]:
        trial = [self.trial.calls, self.trial.total, self.trial.up, self.trial.down]
        return [self.values, self.anchors, self.day, self.at, self.round, trial]

    def restore(self, state: object) -> None:
        """The inverse of `to_state`, moved into the policy's bounds. Raises ValueError, TypeError or IndexError."""
        values, anchors, day, at, turn, trial = cast("list[Any]", state)
        knobs = self.spec.knobs
        if not (len(values) == len(anchors) == len(knobs) and 0 <= at < len(knobs)):
            raise ValueError("the state of a task has other parameters")
        self.values = [min(k.high, max(k.low, float(v))) for k, v in zip(knobs, values, strict=True)]
        self.anchors = [min(k.high, max(k.low, float(v))) for k, v in zip(knobs, anchors, strict=True)]
        self.day, self.at, self.round = int(day), int(at), int(turn)
        self.trial.calls, self.trial.total = int(trial[0]), float(trial[1])
        self.trial.up, self.trial.down = [float(x) for x in trial[2]], [float(x) for x in trial[3]]
        if not len(self.trial.up) == len(self.trial.down) == len(STAKES):
            raise ValueError("the state of a trial has other stakes")
        self.sides = self._sides()


class Tuner:
    """The tuned parameters of one route with `tuning`."""

    __slots__ = ("_names", "_route", "_spec", "_tasks", "permit")

    def __init__(self, route: Route, spec: Tuning, now: float) -> None:
        """`permit` may be set at any time; it answers why a move must not be, or None."""
        self._route, self._spec = route.name, spec
        self.permit: Permit | None = None
        self._names = {knob.name: at for at, knob in enumerate(spec.knobs)}
        self._tasks = {"": _Task(spec, now)}

    # -- one request

    def decide(self, facts: Facts, decision: Decision, now: float) -> Decision:
        """The decision with the parameters that this call gets; the decision itself when it gets none."""
        if decision.model is None or decision.refusal is not None or facts.dialect == "gemini":
            return decision
        task = self._task(facts.task, now)
        task.roll(now)
        own = {CEILING if name in CEILINGS else name for name, _ in decision.params}
        side = _coin(facts, task.round)
        added: list[tuple[str, bytes]] = []
        for at, knob in enumerate(self._spec.knobs):
            if knob.name not in own:
                trial = task.sides if at == task.at else None
                value = task.values[at] if trial is None else trial[side > 0]
                name = _member(knob, facts, value)
                if name is not None:
                    added.append((name, _json(value, knob)))
        return replace(decision, params=(*decision.params, *added)) if added else decision

    def observe(self, facts: Facts, decision: Decision, reward: float | None, now: float) -> list[Event]:
        """Learns from the reward, 0..1, of a call that `decide` saw; the event of a move.

        A call whose parameter was not on trial, or that was decided in an earlier trial, teaches nothing; nor does one
        that could have been sent only the lower side of `max_tokens`, because the app's own limit is as low as the upper.
        """
        if reward is None or decision.model is None:
            return []
        task = self._task(facts.task, now)  # that of who decides in another process may be new here
        knob = self._spec.knobs[task.at]
        names = CEILINGS if knob.name == CEILING else (knob.name,)
        sent = next((value for name, value in decision.params if name in names), None)
        if sent is None or task.sides is None:
            return []
        side = _coin(facts, task.round)
        if sent != _json(task.sides[side > 0], knob) or _member(knob, facts, task.sides[1]) is None:
            return []
        task.trial.add(side, min(1.0, max(0.0, reward)))
        evidence, way = task.trial.evidence()
        if evidence >= 2 / self._spec.false_moves:
            return self._move(facts.task, task, way, now)
        if task.trial.calls >= self._spec.max_samples:
            task.next()
        return []

    def _task(self, name: str, now: float) -> _Task:
        found = self._tasks.get(name)
        if found is None:
            if len(self._tasks) >= MAX_TASKS:
                return self._tasks[""]
            found = self._tasks[name] = _Task(self._spec, now)
        return found

    def _move(self, name: str, task: _Task, way: Way, now: float) -> list[Event]:
        task.roll(now)
        sides, calls = task.sides or (task.values[task.at],) * 2, task.trial.calls
        value, knob = sides[way == "up"], self._spec.knobs[task.at]
        why = f"{calls} calls: rewards are better {'above' if way == 'up' else 'below'}"
        event = self._set(name, task, knob, value, why)
        task.next()
        return [event]

    def _set(self, name: str, task: _Task, knob: Knob, value: float, why: str) -> Event:
        at = self._names[knob.name]
        old, whose = task.values[at], f" for task {name}" if name else ""
        facts: dict[str, str | float | bool] = {"parameter": knob.name, "task": name, "old": old, "new": value}
        denied = None if self.permit is None else self.permit(f"tuning.{knob.name}", self._route, None, facts)
        if denied is not None:
            return self._refused(f"{knob.name}{whose} stays {old:.6g}: {denied} ({why})")
        task.values[at] = value
        return Event(
            kind="tuning.moved",
            route=self._route,
            message=f"{knob.name}{whose}: {old:.6g} to {value:.6g}, {why}",
            detail={
                "task": name,
                "name": knob.name,
                "old": old,
                "new": value,
                "why": why,
                "low": knob.low,
                "high": knob.high,
            },
        )

    # -- orders and time

    def adjust(self, name: str, way: Way, now: float, why: str) -> list[Event]:
        """Moves a parameter as far as today allows, for all tasks: `tuning.moved` each, `tuning.refused` without
        room."""
        at = self._names.get(name)
        if at is None:
            return [self._refused(f"{name} is not tuned: the order is not obeyed ({why})")]
        events, knob = [], self._spec.knobs[at]
        for task_name, task in self._tasks.items():
            task.roll(now)
            value = task.room(at)[way == "up"]
            if (value > task.values[at]) == (way == "up") and value != task.values[at]:
                events.append(self._set(task_name, task, knob, value, why))
                task.next()
        return events or [self._refused(f"{name} cannot go {way} any more today ({why})")]

    def _refused(self, message: str) -> Event:
        return Event(kind="tuning.refused", severity="medium", route=self._route, message=message)

    def tick(self, now: float) -> list[Event]:
        """What time alone causes: new anchors with the UTC day. No events."""
        for task in self._tasks.values():
            task.roll(now)
        return []

    # -- for people, and restarts

    def status(self) -> tuple[TuningStatus, ...]:
        """One record for each parameter of each task."""
        return tuple(
            self._describe(name, task, at, knob)
            for name, task in self._tasks.items()
            for at, knob in enumerate(self._spec.knobs)
        )

    def _describe(self, name: str, task: _Task, at: int, knob: Knob) -> TuningStatus:
        low, high = task.room(at)
        trial = at == task.at and task.sides is not None
        return TuningStatus(
            task=name,
            name=knob.name,
            value=task.values[at],
            low=low,
            high=high,
            trial=trial,
            calls=task.trial.calls if trial else 0,
            evidence=task.trial.evidence()[0] if trial else 1.0,
            needed=2 / self._spec.false_moves,
        )

    def to_state(self) -> dict[str, object]:
        """JSON values for `restore`."""
        tasks = {name: task.to_state() for name, task in self._tasks.items()}
        return {"names": [knob.name for knob in self._spec.knobs], "tasks": tasks}

    def restore(self, state: Mapping[str, object], now: float) -> list[str]:
        """Takes over the values of the same parameters, moved into the policy's bounds; what cannot be read begins
        anew, and is answered."""
        tasks, same = state.get("tasks"), state.get("names") == [knob.name for knob in self._spec.knobs]
        if not same or not isinstance(tasks, dict):
            return ["all of it"] if same else []
        lost: list[str] = []
        for name, kept in list(tasks.items())[:MAX_TASKS]:
            made = _Task(self._spec, now)
            try:
                made.restore(kept)
            except (ValueError, TypeError, IndexError, OverflowError):
                lost.append(f"task {name!r}")
                continue
            self._tasks[str(name)] = made
        return lost


def _coin(facts: Facts, turn: int) -> int:
    """-1 or +1, fair and independent of every other choice made for any call (SplitMix64 of its bits and the trial)."""
    mixed = (facts.draw ^ (turn + 1) * 0xA0761D6478BD642F) * 0x9E3779B97F4A7C15 & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    return 1 if (mixed ^ mixed >> 27) * 0x94D049BB133111EB >> 40 & 1 else -1


def _member(knob: Knob, facts: Facts, value: float) -> str | None:
    """The member of the body that carries the value; None when it must not be sent."""
    if knob.name != CEILING:
        return knob.name
    if facts.max_tokens is None:
        return "max_output_tokens" if facts.endpoint == "responses" else CEILING
    return facts.limit_key if value < facts.max_tokens else None


def _down(value: float, knob: Knob) -> float:
    return float(floor(value + 1e-9)) if knob.whole else round(floor(value / _FINE + 1e-6) * _FINE, 4)


def _up(value: float, knob: Knob) -> float:
    return float(ceil(value - 1e-9)) if knob.whole else round(ceil(value / _FINE - 1e-6) * _FINE, 4)


def _json(value: float, knob: Knob) -> bytes:
    return b"%d" % value if knob.whole else repr(round(value, 4)).encode()
