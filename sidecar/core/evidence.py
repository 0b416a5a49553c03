"""The evidence of one rollout: which outcome of a unit counts, once, in which guardrail.

The unit is the conversation: requests of one conversation share their fate, so only the FIRST outcome of each counts,
with weight one (a key is remembered until REMEMBERED / 2 to REMEMBERED newer ones came, and not over a restart). An arm
may break at later turns only, so a unit's first error and first rejection count too, whenever they come: if the arm
makes no difference, the label of the first harm of a unit is as random as that of its first outcome. Proofs of
non-inferiority speak of first outcomes. Without a key every request is a unit.

The control is the hash-control of the same time: what comes in must be exactly the units that the hash decided between
canary and control, each with the share in force when it was decided. An aborted exchange is no outcome. It teaches how
long its client waited for nothing (`core.guardrails`): a canary that hangs ends no exchange by itself. The first abort of
a unit stands for its waiting time, unless an outcome came first. What the sidecar refused is neither.

The tests and their promises are those of `core.sequential` and `core.order`. What this does not know: phases and steps
(`core.rollout`).
"""

from collections.abc import Iterator, Mapping
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from sidecar.core.bounded_guard import BoundedGuard
from sidecar.core.guardrails import guards_of, restore_guards
from sidecar.core.policy import RolloutSpec
from sidecar.core.recent import Recent
from sidecar.core.units import in_words
from sidecar.core.verdict import GuardStatus, Sample, Verdict

Group = Literal["canary", "control"]
# units per table; fewer: long conversations count twice, more: memory (about 100 bytes each)
REMEMBERED: Final = 16_384
MIN_ALONE_UNITS: Final = 5  # 3..20 at 100 % before the brake; fewer take chance for an outage, more prolong one
_ALONE: Final = ("error_rate", "rejections", "gave_up")
_NOTHING: Final = Sample()


class Keys(Recent[int, bool]):
    """The units of late. Key 0 is never known: such a request is its own unit."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(REMEMBERED)

    def has_or_adds(self, key: int) -> bool:
        """Whether `key` is known; it is afterwards, and is young."""
        return key != 0 and self.put(key, True)


class Evidence:
    """What the canary and its control have shown since the rollout began."""

    def __init__(self, spec: RolloutSpec, *, paired: bool = False) -> None:
        """`paired`: units come in pairs, one of each group, instead of being drawn one by one."""
        self._patience, self.guards = guards_of(spec, paired=paired)
        self.step_units = 0  # of the canary, in the present step
        self.canary_units = 0
        self.control_units = 0
        self._plain = tuple(guard for guard in self.guards if isinstance(guard, BoundedGuard) and guard.is_plain)
        self._rest = tuple(guard for guard in self.guards if guard not in self._plain)
        self._patient = self._patience if self._patience in self._plain else None
        self._fine = [0, 0]  # units without any harm, of control and canary, that the plain ones are still to be told
        self._beyond = False  # a harm test of theirs rejects
        self.stirred = False  # whether `harm` may answer otherwise since the lesson learnt last
        self._outcomes, self._labels, self._aborted = Keys(), Keys(), Keys()
        self._failed, self._rejected, self._gave_up = Keys(), Keys(), Keys()

    # -- what comes in -------------------------------------------------------------------------------------------

    def observe(self, group: Group, sample: Sample, key: int, share: float, *, current: bool) -> bool:
        """Counts one finished exchange, assigned with probability `share` to the canary; False when it adds nothing.
        `current`: it was assigned at the present step."""
        if sample == _NOTHING:
            return False
        if sample.left_s is not None:
            return self._observe_abort(group, sample, key, share)
        seen = self._outcomes.has_or_adds(key)
        failed = sample.failed is True and not self._failed.has_or_adds(key)
        rejected = sample.rejected is True and not self._rejected.has_or_adds(key)
        if seen:
            late = Sample(failed=failed or None, rejected=rejected or None, late=True)
            return (failed or rejected) and self._learn(group, late, share)
        if group == "canary":
            self.canary_units += 1
            self.step_units += current
        else:
            self.control_units += 1
        if key in self._aborted:  # its waiting time is known since then
            gave_up = None if key in self._gave_up else sample.gave_up
            sample = replace(sample, ttft_s=None, latency_s=None, gave_up=gave_up)
        return self._learn(group, sample, share)

    def _observe_abort(self, group: Group, sample: Sample, key: int, share: float) -> bool:
        answered = key in self._outcomes
        first = not self._aborted.has_or_adds(key) and not answered
        gave_up = self.exceeded(sample) and not self._gave_up.has_or_adds(key)
        if first:
            return self._learn(group, replace(sample, gave_up=gave_up or None), share)
        return gave_up and self._learn(group, Sample(gave_up=True, late=answered), share)

    def label(self, group: Group, score: float, key: int, share: float) -> bool:
        """Counts one label beyond validators, 0..1; False when the unit has one."""
        return not self._labels.has_or_adds(key) and self._learn(group, Sample(labelled=score), share)

    def _learn(self, group: Group, sample: Sample, share: float) -> bool:
        canary = group == "canary"
        if sample.failed is False and sample.rejected is False and sample.gave_up is False:
            self._fine[canary] += 1  # most units: no evidence against anybody, so it is enough to add them up
            if self._patient is not None and not canary:
                self._patient.wait(sample)
            for guard in self._rest:
                guard.observe(sample, canary=canary, share=share)
            self.stirred = self._beyond or bool(self._rest)
            return True
        self._tell()
        for guard in self.guards:
            guard.observe(sample, canary=canary, share=share)
        self._look()
        return True

    def _tell(self) -> None:
        """Tells the plain guardrails of the units without harm since they were told last."""
        (control, canary), self._fine = self._fine, [0, 0]
        for guard in self._plain:
            guard.observe_harmless(control, canary=False)
            guard.observe_harmless(canary, canary=True)

    def _look(self) -> None:
        self._beyond = any(guard.is_beyond for guard in self._plain)
        self.stirred = True

    # -- what it shows -------------------------------------------------------------------------------------------

    def exceeded(self, sample: Sample) -> bool:
        """Whether the client of an aborted call left unanswered, after longer than an answer of the control takes, and
        this is held against an arm."""
        return self._patience in self.guards and self._patience.exceeded(sample)

    def harm(self) -> GuardStatus | None:
        """The first guardrail that demands a rollback."""
        if self._beyond:
            self._tell()
        for guard in self.guards if self._beyond else self._rest:  # no plain one can fail whose test does not reject
            if guard.fails():
                return guard.status()
        return None

    def statuses(self) -> tuple[GuardStatus, ...]:
        self._tell()
        return tuple(guard.status() for guard in self.guards)

    def alone(self) -> list[GuardStatus]:
        """The rates that a canary without a control shows, errors first, each once it has enough units."""
        self._tell()
        found = [guard.status() for guard in self.guards if guard.metric in _ALONE]
        return [status for status in found if status.canary_n >= MIN_ALONE_UNITS]

    def unproven(self, spec: RolloutSpec) -> Iterator[str]:
        """What the guardrails still lack for the next step, in words."""
        self._tell()
        for guard in self.guards:
            status = guard.status()
            if not (status.canary_n and status.control_n):
                continue
            if status.verdict == "inconclusive":
                yield f"{status.metric} is inconclusive: {compared(status)}"
            elif spec.require == "non_inferior" and not guard.not_inferior():
                yield f"{status.metric} is not yet shown to be within {spec.margin:.1%} of the control"

    # -- restart -------------------------------------------------------------------------------------------------

    def to_state(self) -> dict[str, object]:
        """JSON values for `restore`."""
        self._tell()
        units = [self.step_units, self.canary_units, self.control_units]
        return {"units": units, "guards": {guard.metric: guard.to_state() for guard in self.guards}}

    def restore(self, state: Mapping[str, object]) -> tuple[str, ...]:
        """Takes over a state; answers which guardrails had to begin anew. Raises KeyError or ValueError when it cannot
        be read: then nothing has changed."""
        units = msgspec.convert(state["units"], tuple[int, int, int])
        guards = msgspec.convert(state["guards"], dict[str, object])
        self.step_units, self.canary_units, self.control_units = units
        self._fine = [0, 0]
        anew = restore_guards(self.guards, guards)
        self._look()
        return anew


def compared(status: GuardStatus) -> str:
    """Both values and the evidence, for a sentence."""

    def shown(value: float | None) -> str:
        return "unknown" if value is None else in_words(status.metric, value)

    late = f", beyond {status.limit} of late" if status.lately else ""
    found = f"(E = {status.e_value:.3g} of {status.needed:.0f}{late})"
    return f"{shown(status.canary)} against {shown(status.control)} {found}"


def total(guards: tuple[GuardStatus, ...]) -> Verdict:
    """One verdict for all guardrails that have something to compare: one failure is one, a pass needs all."""
    verdicts = {guard.verdict for guard in guards if guard.canary_n and guard.control_n}
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts == {"pass"} else "inconclusive"
