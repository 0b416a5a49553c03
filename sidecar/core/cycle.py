"""The control loop: observe, orient, decide, act, as one transition table; every change is proposed, checked, recorded,
and looked at afterwards.

    idle -> observing -> analysing -> deciding -> validating -> deploying -> monitoring -> complete -> idle
                                                      |                          +-> rolling back -> complete
                                                      +-> complete (a rule denies it)

Four lanes go through it at their own pace: `guardrails` every second, `fast` every minute, `main` every 15 minutes (the
setting OPTIMIZATION_INTERVAL), `deep` every hour. A lane also runs when a threshold is breached (fast), when an event of
EVENTS comes (main, at most once in EVENT_GAP_S), and on demand (any). Its sources say what they would change: a Proposal
with rationale, confidence and expected impact (`core.proposals`). One change of a route is looked at at a time: while one
is monitored, the slower lanes leave that route alone, so that what is measured is the change's own. An urgent proposal,
which keeps harm away, waits for no other; changes of its arm under watch end with it, as with a rollback.

**Rules come first.** `validate` is asked before a proposal applies (a denial that is still the same is told once in
DENIED_AGAIN_S). Steps that rollouts, thresholds and tuning make by themselves, inside the engine's tick, have asked the
same rules there (`permit` of `core.staging` and `core.tuning`). A rollback is never asked about and waits for nothing.

**Afterwards.** `change.applied` holds what was expected; MONITOR_S of the lane later `change.impact` holds it beside what
happened. That is one look at a time fixed beforehand: when quality or failures are worse by HARM_Z standard errors, a
change that can be undone is (`change.rolled_back`). Guardrails look all the time and do not wait for this.

What it does not do: find changes (sources do) and measure anything per request (`core.impact`, from batches). Changes under
watch are forgotten by a restart; their events are not.

Reference: Boyd, The essence of winning and losing, 1995 (observe, orient, decide, act); Kephart and Chess, The vision of
autonomic computing, IEEE Computer 36, 2003 (monitor, analyse, plan, execute).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from sidecar.core.impact import Late, Minutes, Sums, actual, confidence, expected, never, total, worse
from sidecar.core.rules import Value
from sidecar.core.types import Clocks, Event, Outcome, Settled, Severity


class State(StrEnum):
    """Where a lane or a change is."""

    IDLE = "idle"
    OBSERVING = "observing"
    ANALYSING = "analysing"
    DECIDING = "deciding"
    VALIDATING = "validating"
    DEPLOYING = "deploying"
    MONITORING = "monitoring"
    ROLLING_BACK = "rolling_back"
    COMPLETE = "complete"


class Lane(StrEnum):
    """The paces of the loop."""

    GUARDRAILS = "guardrails"
    FAST = "fast"
    MAIN = "main"
    DEEP = "deep"


Cue = Literal[
    "trigger", "seen", "findings", "proposed", "nothing", "allowed", "denied", "applied", "harm", "over", "undone"
]
Trigger = Literal["time", "threshold", "event", "demand"]

TRANSITIONS: Final[Mapping[tuple[State, Cue], State]] = {
    (State.IDLE, "trigger"): State.OBSERVING,
    (State.OBSERVING, "seen"): State.ANALYSING,
    (State.OBSERVING, "nothing"): State.IDLE,
    (State.ANALYSING, "findings"): State.DECIDING,
    (State.ANALYSING, "nothing"): State.IDLE,
    (State.DECIDING, "proposed"): State.VALIDATING,
    (State.DECIDING, "nothing"): State.IDLE,
    (State.VALIDATING, "allowed"): State.DEPLOYING,
    (State.VALIDATING, "denied"): State.COMPLETE,
    (State.DEPLOYING, "applied"): State.MONITORING,
    (State.MONITORING, "over"): State.COMPLETE,
    (State.MONITORING, "harm"): State.ROLLING_BACK,
    (State.ROLLING_BACK, "undone"): State.COMPLETE,
    (State.COMPLETE, "nothing"): State.IDLE,
}
PERIOD_S: Final[Mapping[Lane, float]] = {Lane.GUARDRAILS: 1.0, Lane.FAST: 60.0, Lane.MAIN: 900.0, Lane.DEEP: 3600.0}
MONITOR_S: Final[Mapping[Lane, float]] = {  # 60..3600: shorter sees few calls, longer mixes the next change in
    Lane.GUARDRAILS: 300.0,
    Lane.FAST: 300.0,
    Lane.MAIN: 900.0,
    Lane.DEEP: 3600.0,
}
EVENTS: Final = (
    "policy.applied", "drift.", "anomaly.", "rollout.promoted", "rollout.rolled_back", "experiment.decided"
)  # fmt: skip
EVENT_GAP_S: Final = 60.0  # 1..900; shorter lets a storm of events run the main lane all the time
HARM_Z: Final = 3.0  # 2..5; smaller undoes changes by chance (3: 1 in 740 of each kind), larger keeps harm
FELL: Final = Outcome(kind="failed", clocks=Clocks())  # of an arm whose call another one answered
_KINDS: Final = {  # of events, as rules know the change
    "rollout.started": "rollout.start",
    "rollout.step": "rollout.step",
    "rollout.promoted": "rollout.step",
    "threshold.breached": "threshold.route_to",
}
DENIED_AGAIN_S: Final = 3_600.0  # 60..86,400; a shorter one writes more events of what nobody changed
MAX_DENIED: Final = 1_024  # 64..1e5 denials that are remembered; beyond it all are told again
MAX_CHANGES: Final = 256  # under watch at once, 16..4096; more is a storm, and its newest are not watched


@dataclass(frozen=True, slots=True)
class Proposal:
    """One change that somebody wants. `apply` and `undo` do it, synchronously, and say what happened."""

    kind: str  # "rollout.step", "threshold.route_to", "tuning.temperature", ...
    route: str
    arm: str | None
    rationale: str
    apply: Callable[[float], Sequence[Event]]
    undo: Callable[[float], Sequence[Event]] | None = None
    confidence: float | None = None  # 0..1, that it does what is expected; None: unknown
    expected: Mapping[str, float] = field(default_factory=dict)  # metric of `core.impact`: relative change
    facts: Mapping[str, Value] = field(default_factory=dict)  # what rules may ask: `change.<name>`
    urgent: bool = False  # it keeps harm away: it does not wait until other changes of the route were looked at


Source = Callable[[float], Sequence[Proposal]]
Validate = Callable[[str, str, str | None, Mapping[str, Value]], str | None]  # kind, route, arm, facts -> why not


@dataclass(slots=True)
class Change:
    """One proposal's way through the table."""

    id: str
    lane: Lane
    proposal: Proposal
    state: State = State.DECIDING
    since: float = 0.0  # when it was applied

    def go(self, cue: Cue) -> None:
        """The table's next state. A cue that the table does not have here is our bug (KeyError)."""
        self.state = TRANSITIONS[self.state, cue]


class Cycle:
    """The loop of one engine. Call `tick` once a second with what the engine has just told."""

    def __init__(self, validate: Validate, main_s: float = PERIOD_S[Lane.MAIN], late: Late = never) -> None:
        """`main_s` is the pace of the main lane, the others keep theirs; `late` tells which answers came too late."""
        self.lanes = dict.fromkeys(Lane, State.IDLE)
        self.changes: list[Change] = []  # under watch
        self.minutes = Minutes(late)
        self._validate = validate
        self._period_s = {**PERIOD_S, Lane.MAIN: main_s}
        self._sources: dict[Lane, list[Source]] = {lane: [] for lane in Lane}
        self._due: dict[Lane, float] = {}
        self._calls = 0  # finished since the start
        self._seen = dict.fromkeys(Lane, 0)  # of them, when the lane looked last
        self._event_at = -EVENT_GAP_S
        self._called = False  # by an event, for the main lane, which has not run since
        self._denied: dict[tuple[str, str, str | None], tuple[str, float]] = {}  # why, and when it was told
        self._shares: dict[tuple[str, str | None], float] = {}
        self._made = 0

    def add(self, lane: Lane, source: Source) -> None:
        """Asks `source` for proposals whenever the lane runs."""
        self._sources[lane].append(source)

    def observe(self, batch: Sequence[Settled], now: float) -> None:
        """Counts finished exchanges: the means that changes are judged by. Where a fallback served, the arm that was decided
        had failed."""
        self._calls += len(batch)
        for one in batch:
            route, decided, served = one.decision.route, one.decision.arm, one.outcome.served_arm
            if served is not None and decided not in (None, served) and one.stages is None:
                self.minutes.add((route, decided or ""), FELL, None, now)
            arm = served or decided
            if arm is not None:
                self.minutes.add((route, arm), one.outcome, one.quality, now)

    def tick(self, now: float, events: Sequence[Event] = ()) -> list[Event]:
        """Notes what the engine did by itself, runs the lanes that are due or called for, ends the watches that are over."""
        told: list[Event] = []
        triggered: dict[Lane, Trigger] = {}
        denied = {(event.route, event.arm) for event in events if event.kind == "change.denied"}
        for event in events:
            if event.kind != "threshold.breached" or (event.route, event.arm) not in denied:
                told += self._note(event, now)
            if event.kind == "threshold.breached":
                triggered[Lane.FAST] = "threshold"
            self._called = self._called or event.kind.startswith(EVENTS)
        if self._called and now - self._event_at >= EVENT_GAP_S:
            self._event_at, self._called = now, False
            triggered[Lane.MAIN] = "event"
        for lane in Lane:
            due = self._due.setdefault(lane, now + self._period_s[lane])
            if now >= due:
                triggered.setdefault(lane, "time")
            if lane in triggered:
                told += self.run(lane, triggered[lane], now)
        return told + self._end_watches(now)

    def run(self, lane: Lane, trigger: Trigger, now: float) -> list[Event]:
        """One pass of a lane, now: what it decided, and what became of it."""
        self._due[lane] = now + self._period_s[lane]
        self.lanes[lane] = State.IDLE  # where a source raised in the last pass, the lane was left in the middle
        self._step(lane, "trigger")
        idle = self._calls == self._seen[lane] and trigger == "time"
        self._seen[lane] = self._calls
        self._step(lane, "nothing" if idle else "seen")
        found = [] if idle else [one for source in self._sources[lane] for one in source(now)]
        if not idle:
            self._step(lane, "findings" if found else "nothing")
        chosen = self._choose(found, lane)
        if found:
            self._step(lane, "proposed" if chosen else "nothing")
        told: list[Event] = []
        for proposal in chosen:
            told += self._act(self._change(lane, proposal), trigger, now)
        if chosen:
            self.lanes[lane] = State.IDLE  # the changes go on by themselves
        return told

    def _step(self, lane: Lane, cue: Cue) -> None:
        self.lanes[lane] = TRANSITIONS[self.lanes[lane], cue]

    def _choose(self, found: Sequence[Proposal], lane: Lane) -> list[Proposal]:
        """What is urgent, and the surest proposal of each other route with no change under watch; guardrails take all."""
        if lane is Lane.GUARDRAILS:
            return list(found)
        chosen = [one for one in found if one.urgent]
        taken = {change.proposal.route for change in self.changes} | {one.route for one in chosen}
        for one in sorted(found, key=lambda one: -(one.confidence or 0.0)):
            if one.route not in taken:
                taken.add(one.route)
                chosen.append(one)
        return chosen

    def _change(self, lane: Lane, proposal: Proposal) -> Change:
        self._made += 1
        return Change(f"{proposal.route}/{proposal.kind}/{self._made}", lane, proposal)

    def _act(self, change: Change, trigger: Trigger, now: float) -> list[Event]:
        """Validates, applies and begins to watch one change."""
        proposal = change.proposal
        change.go("proposed")
        why = self._validate(proposal.kind, proposal.route, proposal.arm, proposal.facts)
        if why is not None:
            change.go("denied")
            if not self._is_news(proposal, why, now):
                return []
            return [self._event("change.denied", change, f"{proposal.rationale}; denied: {why}", {"trigger": trigger})]
        change.go("allowed")
        ended = self._end(proposal, proposal.rationale, now) if proposal.urgent else []
        events = list(proposal.apply(now))
        return [*ended, *events, self._watch(change, trigger, now)]

    def _is_news(self, proposal: Proposal, why: str, now: float) -> bool:
        """Whether this denial was not told lately."""
        what = (proposal.kind, proposal.route, proposal.arm)
        told = self._denied.get(what)
        if told is not None and told[0] == why and 0.0 <= now - told[1] < DENIED_AGAIN_S:
            return False
        if len(self._denied) >= MAX_DENIED:
            self._denied.clear()
        self._denied[what] = (why, now)
        return True

    def _watch(self, change: Change, trigger: Trigger, now: float) -> Event:
        change.go("applied")
        change.since = now
        if len(self.changes) < MAX_CHANGES:
            self.changes.append(change)
        return self._event("change.applied", change, change.proposal.rationale, {"trigger": trigger})

    # ---- what the engine does by itself

    def _note(self, event: Event, now: float) -> list[Event]:
        """Changes that rollouts, thresholds and tuning made, after `permit`, inside the engine's tick."""
        place = (event.route, event.arm)
        if event.kind == "rollout.rolled_back":
            self._shares[place] = 0.0
            return self._end(event, event.message, now)
        if event.kind in ("rollout.started", "rollout.step", "rollout.promoted"):
            step = event.detail.get("step")
            after = float(step) / 100.0 if isinstance(step, int) else 1.0
            before, self._shares[place] = self._shares.get(place, 0.0), after
            return self._noted(event, before, after, now)
        breach = event.kind == "threshold.breached" and event.detail.get("action") == "route_to"
        return self._noted(event, 0.0, 1.0, now) if breach or event.kind == "tuning.moved" else []

    def _noted(self, event: Event, before: float, after: float, now: float) -> list[Event]:
        arms = self.minutes.between(event.route, now - MONITOR_S[Lane.MAIN], now)
        arm = event.arm or ""
        tuned = event.kind == "tuning.moved"
        kind = f"tuning.{event.detail['name']}" if tuned else _KINDS[event.kind]
        proposal = Proposal(
            kind=kind,
            route=event.route,
            arm=event.arm,
            rationale=event.message,
            apply=lambda _now: (),  # it is done
            confidence=confidence(arms, arm),
            expected=expected(arms, arm, before, after),
        )
        change = self._change(Lane.GUARDRAILS, proposal)
        change.state = State.DEPLOYING  # the engine has asked `permit` and done it
        trigger: Trigger = "threshold" if event.kind == "threshold.breached" else "time"
        return [self._watch(change, trigger, now)]

    def _end(self, of: Event | Proposal, why: str, now: float) -> list[Event]:
        """An arm is out: its changes under watch end as rolled back, with what they did until now."""
        ended = [one for one in self.changes if (one.proposal.route, one.proposal.arm) == (of.route, of.arm)]
        self.changes = [one for one in self.changes if one not in ended]
        told: list[Event] = []
        for change in ended:
            change.go("harm")
            change.go("undone")
            told.append(self._impact(change, now, f"rolled back: {why}"))
        return told

    # ---- afterwards

    def _end_watches(self, now: float) -> list[Event]:
        over = [one for one in self.changes if now - one.since >= MONITOR_S[one.lane]]
        if not over:
            return []
        self.changes = [one for one in self.changes if one not in over]
        told: list[Event] = []
        for change in over:
            told += self._judge(change, now)
        return told

    def _judge(self, change: Change, now: float) -> list[Event]:
        """The one look at the end of a watch."""
        before, after = self._around(change, now)
        why = worse(before, after, HARM_Z)
        undo = change.proposal.undo
        if why is None or undo is None:
            change.go("over")
            return [self._impact(change, now, why or "no harm seen")]
        change.go("harm")
        events = list(undo(now))
        change.go("undone")
        return [
            *events,
            self._event("change.rolled_back", change, why, {}),
            self._impact(change, now, f"rolled back: {why}"),
        ]

    def _around(self, change: Change, now: float) -> tuple[Sums, Sums]:
        """The route's exchanges in the time of a watch before the change, and since; whole minutes."""
        route, since = change.proposal.route, change.since
        before = self.minutes.between(route, since - MONITOR_S[change.lane], since)
        return total(before), total(self.minutes.between(route, since, now))

    def _impact(self, change: Change, now: float, verdict: str) -> Event:
        before, after = self._around(change, now)
        found = {
            "actual": actual(before, after),
            "calls_before": before.calls,
            "calls_after": after.calls,
            "watched_s": now - change.since,
        }
        return self._event("change.impact", change, verdict, found)

    def _event(self, kind: str, change: Change, message: str, more: Mapping[str, object]) -> Event:
        proposal = change.proposal
        detail = {
            "change": change.id,
            "what": proposal.kind,
            "lane": str(change.lane),
            "state": str(change.state),
            "rationale": proposal.rationale,
            "confidence": proposal.confidence,
            "expected": dict(proposal.expected),
            **more,
        }
        severity: Severity = "medium" if kind in ("change.denied", "change.rolled_back") else "low"
        return Event(
            kind=kind, severity=severity, route=proposal.route, arm=proposal.arm, message=message, detail=detail
        )
