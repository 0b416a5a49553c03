"""A new arm's way into the traffic: in by steps, out at once.

Phases and verbs are the table `TRANSITIONS`; nothing else changes a phase. A key is in by its hash alone: a 64-bit
mix of the key and the rollout's id is below `step` percent, so a key that is in at 5 % stays in at 25 % and every pod
agrees (GW-54).

**Evidence.** The unit is the conversation: requests of one conversation share their fate, so only the FIRST outcome
of each counts, with weight one (a key is remembered until 8,192 to 16,384 newer ones came, and not over a restart).
An arm may break at later turns only, so a unit's first error and first rejection count too, whenever they come: if
the arm makes no difference, the label of the first harm of a unit is as random as that of its first outcome. Proofs
of non-inferiority speak of first outcomes.
Without a key every request is a unit. The control is the hash-control of the same time: `observe` must see exactly
the units that the hash decided between canary and control, each with the step in force when it was decided. An
aborted exchange is no outcome. It teaches how long its client waited for nothing (`core.guardrails`): a canary that
hangs ends no exchange by itself. The first abort of a unit stands for its waiting time, unless an outcome came first.

**Out.** After every unit and tick, running or paused, a guardrail that fails rolls back (`core.guardrails`). Over the
whole rollout an arm that is no worse is rolled back with probability <= `false_rollback`, however often one looks.
There is no separate fast path: the first errors of a canary that always fails already are the evidence (three to four
at a 5 % step).

**Up.** The next step comes when none of `blocked_by` holds: enough units in this step, long enough in it, no
guardrail inconclusive, non-inferiority shown where asked for. After `max_wait_s` in a step `on_inconclusive` decides;
`wait` pauses. No quality evidence is not good quality: with fewer than `min_labels` labels beyond validators an arm
stays at its FIRST step, and no timeout promotes it either (it pauses). A person's `promote` overrides all of this,
and the event says what.

Strategies: `canary` as above; `blue_green` takes all traffic at once, has no concurrent control, therefore no harm
test, and is settled after `min_requests` and `interval_s`; `shadow` takes none and is promoted by hand. At 100 % an
absolute brake stands in for the test: most of at least five units failed, were rejected or gave up rolls back, more
than MAX_ALONE_ERRORS failed does not go up. It has no promise of alpha: an outage of both arms trips it as well. The
brake watches a promoted arm for as long as it serves, with rules of its own (`core.staging`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from sidecar.core.guardrails import GuardStatus, Sample, Verdict, guards_of, restore_guards, sample_of
from sidecar.core.policy import Arm, RolloutSpec, Route
from sidecar.core.types import Event, Outcome, Severity
from sidecar.errors import RolloutError

Group = Literal["canary", "control"]
Verb = Literal["start", "advance", "promote", "pause", "resume", "rollback"]
_MASK: Final = (1 << 64) - 1
_REMEMBERED_KEYS: Final = 8192  # per generation; two generations are kept
STATE_VERSION: Final = 1
MIN_ALONE_UNITS: Final = 5  # 3..20 at 100 % before the brake; fewer take chance for an outage, more prolong one
BRAKE: Final = 0.5  # of units failed, rejected or given up at 100 %: no arm that is worth having does that
MAX_ALONE_ERRORS: Final = 0.05  # of units failed at 100 %; beyond it a person must promote


class Phase(StrEnum):
    """Where a rollout is. The share of new units it takes is `Rollout.step` percent."""

    PENDING = "pending"  # known, takes nothing
    RUNNING = "running"  # at a step, goes up by itself
    PAUSED = "paused"  # keeps its step, does not go up; still rolls back by itself
    PROMOTED = "promoted"  # the end of the steps: takes all
    ROLLED_BACK = "rolled_back"  # takes nothing until started again


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


class _Keys:
    """The units of late, in two generations. Key 0 is never known: such a request is its own unit."""

    __slots__ = ("newer", "older")

    def __init__(self) -> None:
        self.newer: set[int] = set()
        self.older: set[int] = set()

    def has(self, key: int) -> bool:
        return key in self.newer or key in self.older

    def has_or_adds(self, key: int) -> bool:
        """Whether `key` is known; it is afterwards."""
        if key == 0:
            return False
        if self.has(key):
            return True
        self.newer.add(key)
        if len(self.newer) >= _REMEMBERED_KEYS:
            self.newer, self.older = set(), self.newer
        return False


class Rollout:
    """One arm's rollout on one route. Time comes in; events come out."""

    def __init__(self, rollout_id: str, route: str, arm: str, spec: RolloutSpec, min_labels: int = 0) -> None:
        self.id = rollout_id
        self.route = route
        self.arm = arm
        self.spec = spec
        self.phase = Phase.PENDING
        self.step = 0
        self.cause = ""
        self.attempt = 0
        self.quality_labels = 0  # labels beyond validators, also of before this rollout: the engine may set it
        self.min_labels = min_labels  # `quality.min_samples` of the policy in force
        self._salt = int.from_bytes(blake2b(rollout_id.encode(), digest_size=8).digest())
        self._limit = 0
        self._steps = {"canary": spec.steps, "blue_green": (100,), "shadow": (0,)}[spec.strategy]
        self._begin(0.0)

    def _begin(self, now: float) -> None:
        self._at = 0
        self._since = now
        self._step_units = self._canary_units = self._control_units = 0
        self._patience, others = guards_of(self.spec)
        self._guards = (*others, self._patience)
        self._outcome_keys, self._label_keys, self._aborted_keys = _Keys(), _Keys(), _Keys()
        self._failed_keys, self._rejected_keys, self._gave_up_keys = _Keys(), _Keys(), _Keys()

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
        if self.phase not in (Phase.RUNNING, Phase.PAUSED):
            return []
        sample = sample_of(outcome, quality)
        if sample.left_s is not None:
            return self._observe_abort(group, sample, unit_key, step, now)
        seen = self._outcome_keys.has_or_adds(unit_key)
        failed = sample.failed is True and not self._failed_keys.has_or_adds(unit_key)
        rejected = sample.rejected is True and not self._rejected_keys.has_or_adds(unit_key)
        if seen:
            late = Sample(failed=failed or None, rejected=rejected or None, late=True)
            return self._learn(group, late, step, now) if failed or rejected else []
        if group == "canary":
            self._canary_units += 1
            self._step_units += step is None or step == self.step
        else:
            self._control_units += 1
        if self._aborted_keys.has(unit_key):  # its waiting time is known since then
            gave_up = None if self._gave_up_keys.has(unit_key) else sample.gave_up
            sample = replace(sample, ttft_s=None, latency_s=None, gave_up=gave_up)
        return self._learn(group, sample, step, now)

    def _observe_abort(self, group: Group, sample: Sample, key: int, step: int | None, now: float) -> list[Event]:
        answered = self._outcome_keys.has(key)
        first = not self._aborted_keys.has_or_adds(key) and not answered
        gave_up = self.gave_up(sample) and not self._gave_up_keys.has_or_adds(key)
        if first:
            sample = replace(sample, gave_up=gave_up or None)
        elif gave_up:
            sample = Sample(gave_up=True, late=answered)
        else:
            return []
        return self._learn(group, sample, step, now)

    def gave_up(self, sample: Sample) -> bool:
        """Whether the client of an aborted call left unanswered, after longer than an answer of the control takes."""
        return self._patience.exceeded(sample)

    def label(
        self, group: Group, score: float, *, now: float, unit_key: int = 0, step: int | None = None
    ) -> list[Event]:
        """Counts one label beyond validators (feedback, judge), 0..1; the first of each unit."""
        if self.phase not in (Phase.RUNNING, Phase.PAUSED) or self._label_keys.has_or_adds(unit_key):
            return []
        self.quality_labels += group == "canary"
        return self._learn(group, Sample(labelled=score), step, now)

    def _learn(self, group: Group, sample: Sample, step: int | None, now: float) -> list[Event]:
        share = (self.step if step is None else step) / 100
        for guard in self._guards:
            guard.observe(sample, canary=group == "canary", share=share)
        return self._roll_back_on_harm(now)

    # -- what happens by itself ----------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Event]:
        """Rolls back, goes up a step, or ends the waiting. Called every second or so."""
        if self.phase not in (Phase.RUNNING, Phase.PAUSED):
            return []
        events = self._roll_back_on_harm(now)
        if events or self.phase is not Phase.RUNNING:
            return events
        blocked = self.blocked_by(now)
        if not blocked:
            return self._up(now, "on evidence")
        return self._end_of_waiting(now, blocked) if now - self._since >= self.spec.max_wait_s else []

    def _end_of_waiting(self, now: float, blocked: tuple[str, ...]) -> list[Event]:
        reason = "; ".join(blocked)
        if self.spec.on_inconclusive == "rollback":
            return self._out(now, f"inconclusive after {self.spec.max_wait_s:g} s: {reason}", "high")
        held = self._lacks_quality() or self.spec.strategy == "shadow" or bool(self._errs_alone())
        if self.spec.on_inconclusive == "promote" and not held:
            return self._up(now, f"after max_wait although {reason}")
        self._go("pause")
        self._since = now
        self.cause = f"max_wait is over: {reason}"
        return [self._event("rollout.paused", "medium", self.cause)]

    def _roll_back_on_harm(self, now: float) -> list[Event]:
        for guard in self._guards:
            if guard.fails():
                status = guard.status()
                return self._out(now, f"{status.metric} {_compared(status)}, limit {status.limit}", "critical")
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
        if self.step < 100:
            return []
        found = [guard.status() for guard in self._guards if guard.metric in ("error_rate", "rejections", "gave_up")]
        return [status for status in found if status.canary_n >= MIN_ALONE_UNITS]

    def _lacks_quality(self) -> bool:
        return self.quality_labels < self.min_labels

    def blocked_by(self, now: float) -> tuple[str, ...]:
        """Why a running rollout does not go up now; empty when it will at the next tick."""
        if self.phase is not Phase.RUNNING:
            return ()
        spec, reasons = self.spec, []
        if spec.strategy == "shadow":
            reasons.append("a shadow is promoted by hand")
        if self._step_units < spec.min_requests:
            reasons.append(f"{self._step_units} of {spec.min_requests} canary units in this step")
        if now - self._since < spec.interval_s:
            reasons.append(f"{now - self._since:.0f} of {spec.interval_s:.0f} s in this step")
        if self._lacks_quality():
            reasons.append(f"no quality evidence: {self.quality_labels} of {self.min_labels} labels beyond validators")
        if 0 < self.step < 100:
            reasons += self._unproven()
        return (*reasons, *self._errs_alone())

    def _unproven(self) -> list[str]:
        reasons = []
        for guard in self._guards:
            status = guard.status()
            seen = status.canary_n > 0 and status.control_n > 0
            if status.verdict == "inconclusive" and seen:
                reasons.append(f"{status.metric} is inconclusive: {_compared(status)}")
            elif self.spec.require == "non_inferior" and seen and not guard.not_inferior(self.spec.margin):
                reasons.append(f"{status.metric} is not yet shown to be within {self.spec.margin:.1%} of the control")
        return reasons

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
        self._since, self._step_units, self.cause = now, 0, why
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
        guards = tuple(guard.status() for guard in self._guards)
        return RolloutStatus(
            id=self.id,
            route=self.route,
            arm=self.arm,
            phase=str(self.phase),
            step=self.step,
            since=self._since,
            attempt=self.attempt,
            step_units=self._step_units,
            canary_units=self._canary_units,
            control_units=self._control_units,
            verdict=_total(guards),
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
                "canary_units": self._canary_units,
                "control_units": self._control_units,
                "guards": [asdict(guard.status()) for guard in self._guards],
            },
        )

    # -- restart -------------------------------------------------------------------------------------------------

    def to_state(self) -> dict[str, object]:
        """JSON values for `restore`."""
        return {
            "version": STATE_VERSION, "id": self.id, "phase": str(self.phase), "at": self._at, "step": self.step,
            "since": self._since, "cause": self.cause, "attempt": self.attempt, "labels": self.quality_labels,
            "units": [self._step_units, self._canary_units, self._control_units],
            "guards": {guard.metric: guard.to_state() for guard in self._guards},
        }  # fmt: skip

    def restore(self, state: Mapping[str, object]) -> tuple[str, ...]:
        """Takes over a state of the same rollout id; answers which guardrails had to begin anew.

        Raises RolloutError when it is of another rollout or version, or unreadable: then nothing has changed.
        """
        if state.get("version") != STATE_VERSION or state.get("id") != self.id:
            found = f"{state.get('id')}, version {state.get('version')}"
            raise RolloutError(f"the state is of rollout {found}, not {self.id}")
        try:
            phase = Phase(str(state["phase"]))
            at, step, attempt, labels = (int(str(state[name])) for name in ("at", "step", "attempt", "labels"))
            since = float(str(state["since"]))
            step_units, canary_units, control_units = msgspec.convert(state["units"], tuple[int, int, int])
            guards = msgspec.convert(state["guards"], dict[str, object])
        except (KeyError, ValueError) as error:
            raise RolloutError(f"the state of rollout {self.id} cannot be read: {error!r}; it begins anew") from error
        if step not in (0, 100, *self._steps):
            raise RolloutError(f"the state of rollout {self.id} is at {step} %, none of its steps; it begins anew")
        self.phase, self._at, self._since, self.attempt, self.quality_labels = phase, at, since, attempt, labels
        self._step_units, self._canary_units, self._control_units = step_units, canary_units, control_units
        self.cause = str(state.get("cause", ""))
        self._set_step(step)
        return restore_guards(self._guards, guards)


def _compared(status: GuardStatus) -> str:
    def shown(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.4g}"

    return f"{shown(status.canary)} against {shown(status.control)} (E = {status.e_value:.3g} of {status.needed:.0f})"


def _total(guards: tuple[GuardStatus, ...]) -> Verdict:
    verdicts = {guard.verdict for guard in guards if guard.canary_n and guard.control_n}
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts == {"pass"} else "inconclusive"
