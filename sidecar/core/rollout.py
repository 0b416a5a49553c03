"""A new arm's way into the traffic: in by steps, out at once.

Phases and verbs are the table `TRANSITIONS`; nothing else changes a phase. A key is in by its hash alone: a 64-bit
mix of the key and the rollout's id is below `step` percent, so a key that is in at 5 % stays in at 25 % and every pod
agrees (GW-54). A rollout that is started again draws anew: each attempt has a mix of its own.

**Evidence** is what units of canary and control showed at the same time (`core.evidence`).

**Out.** After every unit and tick, running or paused, a guardrail that fails rolls back (`core.guardrails`). Over the
whole rollout an arm that is no worse is rolled back with probability <= `false_rollback`, however often one looks.
There is no separate fast path: the first errors of a canary that always fails already are the evidence (three at a 5 %
step, five at 25 %, eight at 50 %).

**Up.** The next step comes when none of `blocked_by` holds: enough units in this step, long enough in it, no
guardrail inconclusive, non-inferiority shown where asked for. After `max_wait_s` in a step `on_inconclusive` decides;
`wait` pauses. No quality evidence is not good quality: with fewer than `min_labels` labels beyond validators an arm
stays at its FIRST step, and no timeout promotes it either (it pauses); nor an arm that failed most of the few units it
got, as one does whose breaker is open. A person's `promote` overrides all of this, and the event says what.

Strategies: `canary` as above; `blue_green` takes all traffic at once, has no concurrent control, therefore no harm
test, and is settled after `min_requests` and `interval_s`; `shadow` takes none and is promoted by hand. At 100 % an
absolute brake stands in for the test: most of at least five units failed, were rejected or gave up rolls back, more
than MAX_ALONE_ERRORS failed does not go up. It has no promise of alpha: an outage of both arms trips it as well. The
brake watches a promoted arm for as long as it serves, with rules of its own (`core.brake`).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from hashlib import blake2b
from math import inf
from typing import Final, Literal

from sidecar.core.brake import BRAKE
from sidecar.core.evidence import Evidence, Group, compared, total
from sidecar.core.policy import Arm, RolloutSpec, Route
from sidecar.core.types import Event, Outcome, Severity
from sidecar.core.verdict import GuardStatus, Sample, Verdict, sample_of
from sidecar.errors import RolloutError

Verb = Literal["start", "advance", "promote", "pause", "resume", "rollback"]
Permit = Callable[[str, str, int], str | None]  # kind of change, arm, percent -> the rule that denies it
_MASK: Final = (1 << 64) - 1
STATE_VERSION: Final = 1
MAX_ALONE_ERRORS: Final = 0.05  # of units failed at 100 %; beyond it a person must promote


class Phase(StrEnum):
    """Where a rollout is. The share of new units it takes is `Rollout.step` percent."""

    PENDING = "pending"  # known, takes nothing
    RUNNING = "running"  # at a step, goes up by itself
    PAUSED = "paused"  # keeps its step, does not go up; still rolls back by itself
    PROMOTED = "promoted"  # the end of the steps: takes all
    ROLLED_BACK = "rolled_back"  # takes nothing until started again


UNDER_WAY: Final = (Phase.RUNNING, Phase.PAUSED)
OVER: Final = (Phase.PROMOTED, Phase.ROLLED_BACK)  # until a person, or the brake, says otherwise
TRANSITIONS: Final[Mapping[tuple[Phase, Verb], Phase]] = {
    (Phase.PENDING, "start"): Phase.RUNNING,
    (Phase.PENDING, "rollback"): Phase.ROLLED_BACK,
    (Phase.RUNNING, "advance"): Phase.RUNNING,
    (Phase.RUNNING, "promote"): Phase.PROMOTED,
    (Phase.RUNNING, "pause"): Phase.PAUSED,
    (Phase.RUNNING, "rollback"): Phase.ROLLED_BACK,
    (Phase.PAUSED, "advance"): Phase.RUNNING,
    (Phase.PAUSED, "promote"): Phase.PROMOTED,
    (Phase.PAUSED, "resume"): Phase.RUNNING,
    (Phase.PAUSED, "rollback"): Phase.ROLLED_BACK,
    (Phase.PROMOTED, "rollback"): Phase.ROLLED_BACK,
    (Phase.ROLLED_BACK, "start"): Phase.RUNNING,
}


def rollout_id_of(route: Route, arm: Arm, spec: RolloutSpec) -> str:
    """16 hex digits from the content that defines the rollout: equal in all pods, unchanged by edits elsewhere."""
    content = repr((route.name, route.baseline.id, arm.id, arm.upstream, arm.model, arm.params, spec))
    return blake2b(content.encode(), digest_size=8).hexdigest()


def position(salt: int, key: int) -> int:
    """Where a key lies in 0..2^64-1: the finaliser of SplitMix64, a bijection that spreads any set of keys evenly."""
    x = (key ^ salt) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """A rollout for people and the API. Times are steady seconds."""

    id: str
    route: str
    arm: str
    phase: str
    step: int
    since: float  # when this step or phase began
    attempt: int
    step_units: int
    canary_units: int
    control_units: int
    verdict: Verdict
    blocked_by: tuple[str, ...]
    cause: str
    guards: tuple[GuardStatus, ...]


class Rollout:
    """One arm's rollout on one route. Time comes in; events come out."""

    def __init__(
        self, rollout_id: str, route: str, arm: str, spec: RolloutSpec, min_labels: int = 0, *, paired: bool = False
    ) -> None:
        """`paired`: units come in pairs, one of each group, instead of being drawn one by one."""
        self.id = rollout_id
        self.route = route
        self.arm = arm
        self.spec = spec
        self.phase = Phase.PENDING
        self.step = 0
        self.cause = ""
        self.denied: str | None = None  # by which rule, when nothing else kept the next step
        self.attempt = 0
        self.quality_labels = 0  # labels beyond validators, also of before this rollout: the engine may set it
        self.min_labels = min_labels  # `quality.min_samples` of the policy in force
        self._limit = 0
        self._steps = {"canary": spec.steps, "blue_green": (100,), "shadow": (0,)}[spec.strategy]
        self._paired = paired
        self._salt = self._salt_of()
        self._begin(0.0)

    def _begin(self, now: float) -> None:
        self._at = 0
        self._since = now
        self.evidence = Evidence(self.spec, paired=self._paired)

    @property
    def tag(self) -> str:
        """What decisions of the present attempt name: what comes late of an attempt before it counts in no other."""
        return self.id if self.attempt < 2 else f"{self.id}.{self.attempt}"

    def _salt_of(self) -> int:
        """Another one for each attempt: conversations that the last one set free are drawn like all others, and not all of
        them into the canary, where their long histories would look like its slowness."""
        return int.from_bytes(blake2b(self.tag.encode(), digest_size=8).digest())

    # -- who is in -----------------------------------------------------------------------------------------------

    def includes(self, key: int) -> bool:
        """Whether a new unit with this key goes to the canary now. By the hash alone; exact at 0 and 100 %."""
        x = (key ^ self._salt) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK  # `position`, written out: a call costs a quarter of this
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        return x ^ (x >> 31) < self._limit

    def _set_step(self, step: int) -> None:
        self.step = step
        self._limit = (step << 64) // 100

    # -- evidence ------------------------------------------------------------------------------------------------

    def observe(
        self, group: Group, outcome: Outcome, *, now: float, unit_key: int = 0, quality: float | None = None,
        step: int | None = None,
    ) -> list[Event]:  # fmt: skip
        """Counts one finished exchange of the hash-canary or the hash-control. `quality` is what validators say,
        `unit_key` 0 means that the request is its own unit, `step` is the one it was decided at (default: this one).
        """
        return self.count(group, sample_of(outcome, quality), now=now, unit_key=unit_key, step=step)

    def count(
        self, group: Group, sample: Sample, *, now: float, unit_key: int = 0, step: int | None = None
    ) -> list[Event]:
        """As `observe`, for who has the sample already."""
        if self.phase not in UNDER_WAY:
            return []
        evidence, share, current = self.evidence, self._share(step), step is None or step == self.step
        learnt = evidence.observe(group, sample, unit_key, share, current=current)
        return self._roll_back_on_harm(now) if learnt and (evidence.stirred or self.step == 100) else []

    def label(
        self, group: Group, score: float, *, now: float, unit_key: int = 0, step: int | None = None
    ) -> list[Event]:
        """Counts one label beyond validators (feedback, judge), 0..1; the first of each unit."""
        if self.phase not in UNDER_WAY:
            return []
        learnt = self.evidence.label(group, score, unit_key, self._share(step))
        self.quality_labels += learnt and group == "canary"
        return self._roll_back_on_harm(now) if learnt else []

    def _share(self, step: int | None) -> float:
        return (self.step if step is None else step) / 100

    # -- what happens by itself ----------------------------------------------------------------------------------

    @property
    def next_step(self) -> int:
        """The percent to which the next step up leads, or a start."""
        at = self._at + 1 if self.phase in UNDER_WAY else 0
        return self._steps[at] if at < len(self._steps) else 100

    def tick(self, now: float, permit: Permit | None = None) -> list[Event]:
        """Rolls back, goes up a step unless `permit` denies it, or ends the waiting. Called every second or so."""
        if self.phase not in UNDER_WAY:
            return []
        events = self._roll_back_on_harm(now)
        if events or self.phase is not Phase.RUNNING:
            return events
        self.denied, waited = None, now - self._since >= self.spec.max_wait_s
        blocked = self.blocked_by(now)
        if permit is not None and (not blocked or waited):
            self.denied = permit("rollout.step", self.arm, self.next_step)
            blocked = self.blocked_by(now)
        if not blocked:
            return self._up(now, "on evidence")
        return self._end_of_waiting(now, blocked) if waited else []

    def _end_of_waiting(self, now: float, blocked: tuple[str, ...]) -> list[Event]:
        reason = "; ".join(blocked)
        if self.spec.on_inconclusive == "rollback":
            return self._out(now, f"inconclusive after {self.spec.max_wait_s:g} s: {reason}", "high")
        held = self._lacks_quality() or self.spec.strategy == "shadow" or bool(self._errs_alone() or self.denied)
        # few units, and most failed
        held = held or any((status.canary or 0.0) > BRAKE for status in self.evidence.alone())
        if self.spec.on_inconclusive == "promote" and not held:
            return self._up(now, f"after max_wait although {reason}")
        self._go("pause")
        self._since = now
        self.cause = f"max_wait is over: {reason}"
        return [self._event("rollout.paused", "medium", self.cause)]

    def _roll_back_on_harm(self, now: float) -> list[Event]:
        harm = self.evidence.harm()
        if harm is not None:
            return self._out(now, f"{harm.metric} {compared(harm)}, limit {harm.limit}", "critical")
        for status in self._alone():
            if (status.canary or 0.0) > BRAKE:
                why = f"{status.metric} {status.canary:.3g} of {status.canary_n} units at 100 %, limit {BRAKE:g}"
                return self._out(now, why, "critical")
        return []

    def _errs_alone(self) -> list[str]:
        """Why a canary that takes all traffic must not go up by itself, not even after `max_wait_s`."""
        return [
            f"error_rate is {status.canary:.3g} at 100 %, limit {MAX_ALONE_ERRORS:g}"
            for status in self._alone()
            if status.metric == "error_rate" and (status.canary or 0.0) > MAX_ALONE_ERRORS
        ]

    def _alone(self) -> list[GuardStatus]:
        """The rates of a canary that takes all traffic, errors first, once it has enough units: nothing to compare."""
        return self.evidence.alone() if self.step == 100 else []

    def _lacks_quality(self) -> bool:
        return self.quality_labels < self.min_labels

    def blocked_by(self, now: float) -> tuple[str, ...]:
        """Why a running rollout does not go up now; empty when it will at the next tick."""
        if self.phase is not Phase.RUNNING:
            return ()
        spec, reasons = self.spec, []
        if spec.strategy == "shadow":
            reasons.append("a shadow is promoted by hand")
        if self.evidence.step_units < spec.min_requests:
            reasons.append(f"{self.evidence.step_units} of {spec.min_requests} canary units in this step")
        if now - self._since < spec.interval_s:
            reasons.append(f"{max(0.0, now - self._since):.0f} of {spec.interval_s:.0f} s in this step")
        if self._lacks_quality():
            reasons.append(f"no quality evidence: {self.quality_labels} of {self.min_labels} labels beyond validators")
        if 0 < self.step < 100:
            reasons += self.evidence.unproven(spec)
        if self.denied is not None:
            reasons.append(f"a rule denies the step: {self.denied}")
        return (*reasons, *self._errs_alone())

    def _up(self, now: float, why: str) -> list[Event]:
        """To the next step; a step of 100 % after others, or the end of the steps, is the promotion."""
        self._at += 1
        if self._at >= len(self._steps) or self._steps[self._at] >= 100:
            self._go("promote")
            self._set_step(100)
            kind = "rollout.promoted"
        else:
            self._go("advance")
            self._set_step(self._steps[self._at])
            kind = "rollout.step"
        self._since, self.evidence.step_units, self.cause = now, 0, why
        return [self._event(kind, "medium", why)]

    def _out(self, now: float, why: str, severity: Severity) -> list[Event]:
        at = self.step
        self._go("rollback")
        self._set_step(0)
        self._since, self.cause = now, why
        return [self._event("rollout.rolled_back", severity, f"{why} (was at {at} %)")]

    # -- a person's verbs ----------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Event]:
        """Begins at the first step, with no evidence; also again after a rollback (alpha is per attempt)."""
        self._go("start")
        self._begin(now)
        self.attempt += 1
        self._salt = self._salt_of()
        self.cause = "started"
        self._set_step(self._steps[0])
        return [self._event("rollout.started", "low", f"attempt {self.attempt}")]

    def promote(self, now: float) -> list[Event]:
        """One step up by a person's decision, whatever is missing; the event says what was."""
        self._check("promote")
        missing = "; ".join(self.blocked_by(now))
        return self._up(now, f"by hand, although {missing}" if missing else "by hand")

    def pause(self, now: float) -> list[Event]:
        self._go("pause")
        self._since, self.cause = now, "by hand"
        return [self._event("rollout.paused", "low", self.cause)]

    def resume(self, now: float) -> list[Event]:
        """Goes on at the same step with the same evidence; the step's time begins anew."""
        self._go("resume")
        self._since, self.cause = now, "by hand"
        return [self._event("rollout.resumed", "low", self.cause)]

    def rollback(self, now: float, cause: str = "by hand", severity: Severity = "high") -> list[Event]:
        """Takes the arm out at once. Allowed in every phase but the one it leads to."""
        return self._out(now, cause, severity)

    def gave_up(self, sample: Sample) -> bool:
        """Whether the client of an aborted call left unanswered, later than it should have needed to (`core.guardrails`)."""
        return self.evidence.exceeded(sample)

    def is_fresh(self, now: float) -> bool:
        """Whether the arm was promoted less than `interval_s` ago."""
        return self.phase is Phase.PROMOTED and now - self._since < self.spec.interval_s

    def _check(self, verb: Verb) -> None:
        if (self.phase, verb) not in TRANSITIONS:
            allowed = sorted(v for p, v in TRANSITIONS if p is self.phase and v != "advance")
            raise RolloutError(
                f"route {self.route}, arm {self.arm}: cannot {verb} a rollout that is {self.phase}; "
                f"allowed now: {', '.join(allowed)}"
            )

    def _go(self, verb: Verb) -> None:
        self._check(verb)
        self.phase = TRANSITIONS[self.phase, verb]

    # -- reading -------------------------------------------------------------------------------------------------

    def status(self, now: float) -> RolloutStatus:
        """A frozen record of everything a person asks."""
        guards = self.evidence.statuses()
        return RolloutStatus(
            id=self.id,
            route=self.route,
            arm=self.arm,
            phase=str(self.phase),
            step=self.step,
            since=self._since,
            attempt=self.attempt,
            step_units=self.evidence.step_units,
            canary_units=self.evidence.canary_units,
            control_units=self.evidence.control_units,
            verdict=total(guards),
            blocked_by=self.blocked_by(now),
            cause=self.cause,
            guards=guards,
        )

    def explain(self, now: float) -> str:
        """One English sentence."""
        blocked = "; ".join(self.blocked_by(now))
        rest = {
            Phase.PENDING: "has not begun",
            Phase.RUNNING: f"takes {self.step} % of new units and "
            + (f"waits for the next step: {blocked}" if blocked else "is about to go up"),
            Phase.PAUSED: f"is paused at {self.step} % ({self.cause})",
            Phase.PROMOTED: f"was promoted to all traffic ({self.cause})",
            Phase.ROLLED_BACK: f"was rolled back: {self.cause}",
        }[self.phase]
        return f"On this pod, the rollout of {self.arm} on route {self.route} {rest}."

    def _event(self, kind: str, severity: Severity, why: str) -> Event:
        return Event(
            kind=kind,
            severity=severity,
            route=self.route,
            arm=self.arm,
            message=f"{self.arm}: {kind.removeprefix('rollout.').replace('_', ' ')}, now at {self.step} %: {why}",
            detail={
                "rollout_id": self.id,
                "phase": str(self.phase),
                "step": self.step,
                "cause": why,
                "canary_units": self.evidence.canary_units,
                "control_units": self.evidence.control_units,
                "guards": [asdict(status) for status in self.evidence.statuses()],
            },
        )

    # -- restart -------------------------------------------------------------------------------------------------

    def to_state(self) -> dict[str, object]:
        """JSON values for `restore`."""
        return {
            "version": STATE_VERSION, "id": self.id, "phase": str(self.phase), "at": self._at, "step": self.step,
            "since": self._since, "cause": self.cause, "attempt": self.attempt, "labels": self.quality_labels,
            **self.evidence.to_state(),
        }  # fmt: skip

    def restore(self, state: Mapping[str, object], now: float = inf) -> tuple[str, ...]:
        """Takes over a state of the same rollout id at `now`; answers which guardrails had to begin anew. A step that began
        later than now, by a clock that was set back since, begins now.

        Raises RolloutError when it is of another rollout or version, or unreadable: then nothing has changed.
        """
        if state.get("version") != STATE_VERSION or state.get("id") != self.id:
            found = f"{state.get('id')}, version {state.get('version')}"
            raise RolloutError(f"the state is of rollout {found}, not {self.id}")
        try:
            phase = Phase(str(state["phase"]))
            at, step, attempt, labels = (int(str(state[name])) for name in ("at", "step", "attempt", "labels"))
            since = min(float(str(state["since"])), now)
            evidence = Evidence(self.spec, paired=self._paired)
            anew = evidence.restore(state)
        except (KeyError, ValueError) as error:
            raise RolloutError(f"the state of rollout {self.id} cannot be read: {error!r}; it begins anew") from error
        if step not in (0, 100, *self._steps):
            raise RolloutError(f"the state of rollout {self.id} is at {step} %, none of its steps; it begins anew")
        self.phase, self._at, self._since, self.attempt, self.quality_labels = phase, at, since, attempt, labels
        self._salt, self.evidence = self._salt_of(), evidence
        self.cause = str(state.get("cause", ""))
        self._set_step(step)
        return anew
