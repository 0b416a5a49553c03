"""An A/B experiment of one route: which variant a unit gets, what its outcome says, and when there is an answer.

**Phases.** pending (until the first tick) -> running -> decided (a winner, or no difference that matters) or ended
(max_duration, or all others stopped). Then new units go to the control, until the winner is promoted: the control loop
does, where the policy says `on_winner: promote` (`core.proposals`). Nothing leads back; an edit of the experiment in the
policy is another experiment (`id` is a hash of its content).

**Units.** A conversation (or a request without a key) is drawn once, by the hash of its key and the experiment's id, so
all pods agree while shares are fixed and the same variants are out. With `allocation: adaptive` the shares change for
new units only. Each set of shares has a number, the `epoch`; a decision carries `id:variant` as its rollout_id and the
epoch as its rollout_step, so that an outcome or a score of days later is weighed by the shares with which its unit was
drawn. 0 are the shares of the policy, others are numbered by the second in which they began: where the policy leaves the
experiment and returns to it, it begins anew under its id, and no number means two sets of shares. MAX_EPOCHS are kept;
values of older ones do not count, whatever they are. Only the first value of a unit counts, also over a restart: the
youngest units that counted (`core.counted`) are in the state. A conversation that is older than those, and scored again,
counts twice.

**Metrics** are brought to 0..1 with larger better by `core.scale`. `quality` is the first score that the app sends; where
the route takes no feedback, what its validators say. Aborts and the caller's own mistakes count nowhere.

**Answers.** `core.race` says who wins: over all variants and all times a false winner has probability <= alpha, however
the units were allocated. With `min_effect`, "no difference that matters" is the answer when all that are not beaten are
shown to lie within it, wrong with probability <= alpha, too. No answer comes before each variant has `min_samples`.

**Harm.** An e-process (`core.sequential.HarmTest`) on failures against the control stops a variant, whatever the metric
is; over the experiment a harmless one is stopped with probability <= HARM_ALPHA. It takes no units and binds none from
then on, and nobody needs to beat it.

What it does not know: other pods (each decides for itself), and why people score one variant more often than another: if
only the frequency differs, all holds to first order; if it depends on the score, no test can know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec

from sidecar.core.counted import Counted
from sidecar.core.experiment_status import ExperimentStatus, VariantStatus, Verdict, explained
from sidecar.core.policy import Arm, ExperimentSpec, Route, Variant
from sidecar.core.race import Race
from sidecar.core.rollout import position
from sidecar.core.scale import Scale
from sidecar.core.sequential import HarmTest, MeanSequence
from sidecar.core.types import Decision, Event, Outcome, Severity
from sidecar.core.variants import Edit, Keep

HARM_ALPHA: Final = 0.01  # 0.001..0.05 of all variants and pods together; smaller lets a broken one run longer
REALLOCATE_EVERY: Final = 20  # 5..200 values between new shares; fewer costs time, more follows the evidence later
MIN_CHANGE: Final = 0.02  # 0..0.1 of a share that is worth a new epoch; smaller: old epochs are forgotten sooner
MAX_EPOCHS: Final = 256  # 16..4096; fewer forget scores that come late, more make a longer snapshot
STATE_VERSION: Final = 1
_WHOLE: Final = float(2**64)
_ROUNDING: Final = 1e-6  # of shares that sum up to 1


@dataclass(frozen=True, slots=True)
class Choice:
    """What one variant does to a request: its arm with its params, and the edits of the system prompt."""

    arm: Arm
    edits: tuple[Edit, ...]
    owner: str  # of bindings
    tag: str  # `rollout_id` of its decisions


class Experiment:
    """The experiment of one route. Time comes in, events come out; the phase changes in `_finish` alone."""

    def __init__(self, route: Route, spec: ExperimentSpec) -> None:
        self.route, self.spec = route.name, spec
        self.id = experiment_id_of(route, spec)
        self.salt = int(self.id, 16)
        arms = {arm.id: arm for arm in route.all_arms}
        self.choices = tuple(self._choice(variant, arms[variant.arm]) for variant in spec.variants)
        self._of_owner = {choice.owner: index for index, choice in enumerate(self.choices)}
        self._of_tag = {choice.tag: index for index, choice in enumerate(self.choices)}
        self.scale = Scale(spec.metric)
        self._scored = spec.metric == "quality" and route.quality.feedback
        self.phase = "pending"
        self.verdict: Verdict | None = None
        self.winner: int | None = None
        self.promoted: bool | None = None  # whether new units go to the winner; False: they did, and it was undone
        self.cause = ""
        self._since = 0.0
        count = len(spec.variants)
        self.race = Race(count, spec.pod_alpha)
        self._means = [MeanSequence(spec.pod_alpha / count) for _ in spec.variants]
        self._harm = [HarmTest() for _ in spec.variants]
        self._units, self._outcomes = Counted(), Counted()  # those with a value of the metric; those that ended
        total = sum(variant.weight for variant in spec.variants)
        self._epochs: dict[int, tuple[float, ...]] = {0: tuple(variant.weight / total for variant in spec.variants)}
        self._epoch = 0

    def _choice(self, variant: Variant, arm: Arm) -> Choice:
        own = dict(variant.params)
        params = tuple(one for one in arm.params if one[0] not in own) + variant.params
        served = replace(arm, params=params)
        prompts = any(one.system for one in self.spec.variants)
        edits = variant.system or ((Keep(),) if prompts else ())
        return Choice(served, edits, f"{self.route}/{self.id}/{variant.id}", f"{self.id}:{variant.id}")

    # ---- one unit

    @property
    def running(self) -> bool:
        """Whether units are drawn and compared."""
        return self.verdict is None

    @property
    def shares(self) -> tuple[float, ...]:
        """Of new units, in the order of the variants; sum 1."""
        if self.running:
            return self._epochs[self._epoch]
        serves = self.winner if self.winner is not None and self.promoted else 0
        return tuple(float(index == serves) for index in range(len(self.choices)))

    def draw(self, key: int) -> tuple[int, float, int | None]:
        """Variant, its probability, and the epoch to remember (None: the unit is not compared) of a new unit."""
        shares = self.shares
        drawn = [index for index, share in enumerate(shares) if share > 0.0]
        turn = sum(1 << one for one in self.race.out)  # whose variant is out is drawn anew, wherever it was before
        at = position(self.salt ^ turn, key) / _WHOLE
        for index in drawn[:-1]:
            at -= shares[index]
            if at < 0.0:
                break
        else:
            index = drawn[-1]
        return index, shares[index], self._epoch if self.running else None

    def bound_to(self, owner: str) -> int | None:
        """The variant that a binding's owner names, if it is of this experiment and not stopped."""
        index = self._of_owner.get(owner)
        return None if index in self.race.out else index

    @property
    def compared(self) -> tuple[str, ...]:
        """The arms of the variants that units are drawn for; none when it is over."""
        return tuple(self.choices[index].arm.id for index in self.race.left) if self.running else ()

    # ---- what happened to it

    def observe(self, decision: Decision, outcome: Outcome, quality: float | None, key: int, now: float) -> list[Event]:
        """Takes the outcome of a unit that was drawn; `key` 0 is a unit of its own."""
        index = self._of_tag.get(decision.rollout_id or "")
        if index is None or not self.running or outcome.kind == "aborted" or outcome.caller_fault:
            return []
        shares = self._epochs.get(-1 if decision.rollout_step is None else decision.rollout_step)
        if shares is None:
            return []
        events = self._guard(index, outcome, shares, now) if self._outcomes.is_first(key) else []
        value = None if self._scored else self.scale.value(outcome, quality)
        return events if value is None else events + self._take(index, value, key, shares, now)

    def label(self, rollout_id: str | None, step: int | None, key: int, score: float, now: float) -> list[Event]:
        """Takes one score of 0..1 that the app sent for an answer to a unit that was drawn."""
        index = self._of_tag.get(rollout_id or "")
        shares = self._epochs.get(-1 if step is None else step)
        if index is None or shares is None or not self.running or not self._scored:
            return []
        return self._take(index, score, key, shares, now)

    def _take(self, index: int, value: float, key: int, shares: Sequence[float], now: float) -> list[Event]:
        if index in self.race.out or not self._units.is_first(key):
            return []
        scaled = self.scale.scaled(value)
        if scaled is None:
            return []
        self.race.observe(index, scaled, shares)
        self._means[index].add(scaled)
        total = int(self.race.counts.sum())
        events = self._judge(now)
        if not events and self.spec.allocation == "adaptive" and total % REALLOCATE_EVERY == 0:
            self._reallocate(self.race.allocation(), now)
        return events

    def _reallocate(self, shares: tuple[float, ...], now: float) -> None:
        if max(abs(new - old) for new, old in zip(shares, self._epochs[self._epoch], strict=True)) >= MIN_CHANGE:
            self._put(shares, now)

    def _put(self, shares: tuple[float, ...], now: float) -> None:
        self._epoch = max(self._epoch + 1, int(now))
        self._epochs[self._epoch] = shares
        if len(self._epochs) > MAX_EPOCHS:
            del self._epochs[min(self._epochs)]

    def _guard(self, index: int, outcome: Outcome, shares: Sequence[float], now: float) -> list[Event]:
        harm = float(outcome.kind == "failed")
        events: list[Event] = []
        for other in range(1, len(self.choices)) if index == 0 else (index,):
            test, share = self._harm[other], shares[other] / (shares[other] + shares[0]) if shares[other] else 0.0
            (test.update_control if index == 0 else test.update_canary)(harm, share)
            if other not in self.race.out and test.rejected(HARM_ALPHA / self.spec.replicas / (len(self.choices) - 1)):
                why = f"it fails more often than the control (E = {test.e_value:.3g} after {test.canary_n} units)"
                events += self._stop(other, why, now)
        return events

    def roll_back(self, now: float, cause: str, arm: str | None = None) -> list[Event]:
        """Takes the variants of `arm` out, or all, but never the control; who had one of them gets another. Where only the
        control is left, the experiment ends. Says nothing when there is none to take out."""
        left = [index for index in range(1, len(self.choices)) if index not in self.race.out]
        out = [index for index in left if arm is None or self.choices[index].arm.id == arm]
        events = [event for index in out for event in self._stop(index, f"rolled back: {cause}", now)]
        if self.winner in out:
            events += self.demote()
            self.promoted = False
        if out and len(self.race.left) == 1:
            events += self.tick(now)
        return events

    def _stop(self, index: int, why: str, now: float) -> list[Event]:
        self.race.out.add(index)
        left = [share * (one not in self.race.out) for one, share in enumerate(self._epochs[self._epoch])]
        self._put(tuple(share / sum(left) for share in left), now)
        name = self.spec.variants[index].id
        return [self._event("variant_stopped", "critical", f"{name} takes no more units: {why}", index)]

    # ---- the answer

    def tick(self, now: float) -> list[Event]:
        """What time alone causes: the beginning, at the first tick (not after a restart), and the end."""
        if not self.running:
            return []
        if self.phase == "pending":
            self.phase, self._since = "running", now
            names = ", ".join(variant.id for variant in self.spec.variants)
            return [self._event("started", "low", f"{self.spec.metric} of {names}")]
        self._since = min(self._since, now)  # where the clock was set back between two processes
        if len(self.race.left) == 1:
            return self._finish("inconclusive", None, "all others were stopped")
        if now - self._since >= self.spec.max_duration_s:
            return self._finish("inconclusive", None, f"max_duration of {self.spec.max_duration_s:g} s is over")
        return []

    def leave(self) -> list[Event]:
        """The policy has another experiment, or none, in this one's place."""
        return self._finish("inconclusive", None, "the policy has changed") if self.running else []

    def _judge(self, now: float) -> list[Event]:
        race, effect = self.race, self.spec.min_effect
        margin = None if effect is None else self.scale.margin(effect)
        if min(race.counts[race.left]) < self.spec.min_samples:
            return []
        if margin is not None and race.counts.sum() % REALLOCATE_EVERY == 0:
            leader = race.leader()
            open_ = [one for one in race.left if one == leader or not race.beaten(leader, one)]
            pairs = [(one, other) for one in open_ for other in open_ if one < other]
            if pairs and all(race.within(one, other, margin) for one, other in pairs):
                names = " and ".join(self.spec.variants[one].id for one in open_)
                why = f"{names} differ by less than min_effect, {effect:g}"
                return self._finish("no_difference", None, why)
        winner = race.winner()
        if winner is None:
            return []
        units = int(race.counts.sum())
        return self._finish("winner", winner, f"beats all others after {units} units in {now - self._since:.0f} s")

    def _finish(self, verdict: Verdict, winner: int | None, cause: str) -> list[Event]:
        self.phase = "ended" if verdict == "inconclusive" else "decided"
        self.verdict, self.winner, self.cause = verdict, winner, cause
        name = "no winner" if winner is None else self.spec.variants[winner].id
        text = f"{verdict.replace('_', ' ')}: {name}, {cause}"
        return [self._event(self.phase, "medium", text, winner)]

    def promote(self) -> list[Event]:
        """New units go to the winner from now on: what the control loop does where the policy wants it, once. Nothing
        happens when the winner is the control, or was promoted before."""
        if not self.winner or self.promoted is not None:
            return []
        self.promoted = True
        return [self._event("promoted", "medium", f"new units go to {self.spec.variants[self.winner].id}", self.winner)]

    def demote(self) -> list[Event]:
        """New units go to the control again, for good."""
        if not self.promoted:
            return []
        self.promoted = False
        return [self._event("demoted", "medium", "new units go to the control again", 0)]

    def obey(self, spec: ExperimentSpec) -> list[Event]:
        """What the policy in force says of a winner: one that is only to be reported serves no new units any more, until a
        policy wants it promoted again."""
        if not self.promoted or spec.on_winner == "promote":
            return []
        events = self.demote()
        self.promoted = None
        return events

    # ---- reading

    def status(self) -> ExperimentStatus:
        """A frozen record of everything a person asks."""
        winner = None if self.winner is None else self.spec.variants[self.winner].id
        variants = tuple(self._variant(index) for index in range(len(self.choices)))
        return ExperimentStatus(
            self.id, self.route, self.phase, self.spec.metric, self.verdict, winner, self.cause, self._since, variants
        )  # fmt: skip

    def _variant(self, index: int) -> VariantStatus:
        means, control, scale = self._means[index], self._means[0], self.scale
        mean: list[float | None] = [None] * 3
        effect: list[float | None] = [None] * 3
        if means.mean is not None:
            mean = [scale.shown(value) for value in (means.mean, means.lower, means.upper)]
        if index and means.mean is not None and control.mean is not None:
            difference = means.mean - control.mean
            effect = [scale.effect(value) for value in (difference, *self.race.difference(index, 0))]
        if scale.smaller_is_better:  # the ends change places
            mean, effect = [mean[0], mean[2], mean[1]], [effect[0], effect[2], effect[1]]
        return VariantStatus(
            id=self.spec.variants[index].id,
            arm=self.choices[index].arm.id,
            share=self.shares[index],
            units=means.n,
            mean=mean[0],
            low=mean[1],
            high=mean[2],
            effect=effect[0],
            effect_low=effect[1],
            effect_high=effect[2],
            stopped=index in self.race.out,
        )

    def explain(self) -> list[str]:
        """English sentences: one for all, and one for each variant."""
        return explained(self.status(), int(self.race.counts.sum()))

    def _event(self, what: str, severity: Severity, message: str, variant: int | None = None) -> Event:
        names = [variant.id for variant in self.spec.variants]
        detail: dict[str, object] = {"experiment_id": self.id, "names": names, **asdict(self.status())}
        arm = None if variant is None else self.choices[variant].arm.id
        return Event(
            kind=f"experiment.{what}", severity=severity, route=self.route, arm=arm, message=message, detail=detail
        )

    # ---- restart

    def to_state(self) -> dict[str, object]:
        """JSON values for `restore`."""
        return {
            "version": STATE_VERSION, "id": self.id, "phase": self.phase, "verdict": self.verdict, "winner": self.winner,
            "cause": self.cause, "since": self._since, "centre": self.scale.centre, "race": self.race.to_state(),
            "means": [one.to_state() for one in self._means], "harm": [one.to_state() for one in self._harm],
            "epochs": [[number, *shares] for number, shares in self._epochs.items()],
            "units": self._units.to_state(), "outcomes": self._outcomes.to_state(), "promoted": self.promoted,
            "first": self.scale.first,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Takes over a state of the same experiment; False, and nothing has changed, when it is of another one.

        Raises ValueError, KeyError or TypeError when it cannot be read; the experiment must then be thrown away.
        """
        if state["version"] != STATE_VERSION or state["id"] != self.id:
            return False
        kept = msgspec.convert(state, _State)
        kept.check(len(self.choices))
        self.race.restore(kept.race)
        self.phase, self.verdict, self.winner = kept.phase, kept.verdict, kept.winner
        self.cause, self._since = kept.cause, kept.since
        self.scale.centre, self.scale.first = kept.centre, kept.first
        self._means = [MeanSequence.from_state(one) for one in kept.means]
        self._harm = [HarmTest.from_state(one) for one in kept.harm]
        self._epochs = {int(row[0]): tuple(row[1:]) for row in kept.epochs}
        self._epoch, self.promoted = max(self._epochs), kept.promoted
        self.obey(self.spec)
        self._units.restore(kept.units)
        self._outcomes.restore(kept.outcomes)
        return True


class _State(msgspec.Struct):
    """What `Experiment.to_state` writes; those of before lack the last four."""

    phase: Literal["pending", "running", "decided", "ended"]
    verdict: Verdict | None
    winner: int | None
    cause: str
    since: float
    centre: float | None
    race: dict[str, object]
    means: list[list[float]]
    harm: list[list[float]]
    epochs: list[list[float]]
    units: str = ""
    outcomes: str = ""
    promoted: bool | None = None
    first: list[float] = []

    def check(self, count: int) -> None:
        """Raises ValueError for what an experiment of `count` variants cannot have."""
        shares = [row[1:] for row in self.epochs]
        if not len(self.means) == len(self.harm) == count or not shares:
            raise ValueError("the state is of another number of variants")
        if any(len(one) != count or min(one) < 0.0 or abs(sum(one) - 1.0) > _ROUNDING for one in shares):
            raise ValueError("the state has shares that are none")
        if any(min(row, default=-1.0) < 0.0 or not (row[0] < 1.0 and row[3] > 0.0) for row in self.means):
            raise ValueError("the state has means of values that are not in 0..1")
        if self.winner is not None and not 0 <= self.winner < count:
            raise ValueError(f"the state's winner is number {self.winner}")


def experiment_id_of(route: Route, spec: ExperimentSpec) -> str:
    """16 hex digits of what is compared and how, prompts included: equal in all pods, another one after an edit."""
    arms = {arm.id: (arm.upstream, arm.model, arm.params) for arm in route.all_arms}
    variants = [(one.id, arms[one.arm], one.params, _named(one.system), one.weight) for one in spec.variants]
    rest = (spec.metric, spec.allocation, spec.alpha, spec.min_samples, spec.min_effect, spec.max_duration_s)
    content = repr((route.name, variants, rest, route.quality.feedback))
    return blake2b(content.encode(), digest_size=8).hexdigest()


def _named(edits: Sequence[Any]) -> list[object]:
    return [(type(edit).__name__, astuple(edit)) for edit in edits]
