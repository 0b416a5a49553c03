"""The arms of one route on their way in: one rollout at a time, in the policy's order.

Each arm has one `Rollout`. The first that is running or paused is the active one; when there is none, the next
pending one is started at the next tick. One at a time, because two canaries at once would be each other's control. A
rollback does not stop the queue, a pause does.

    pool    baseline and all promoted arms but those that rest: what the selector of an optimize route chooses from
    stable  canary routes: the arm that was promoted last, the baseline before the first

**The way back.** A promoted arm is watched by a brake for as long as it serves (`core.brake`), and so is a canary that takes
all traffic: with no control, all units since the beginning would have to outweigh a long good time. While it does, and
until one `interval` after the promotion, rejections count as bad too. In an optimize route the pool gives the comparison
with other arms. In a canary route nobody else serves, so an outage of the provider trips it as well, arm by arm down to
the baseline. A trip is a rollback: the arm promoted before, or the baseline, takes over, and the arm stays out until a
person starts it again.
So is a promoted arm that is ejected for long (`core.ejection`): it gets so few calls that its brake would take many minutes.
The brake's memory outlives a restart, and a change of the policy for arms that stay as they are.

An arm without quality evidence stays at its first step (`core.rollout`), so it reaches the pool only with labels or
by a person's `promote`. A rollback calls `unbind` for the arm before it returns: no conversation stays with it.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from hashlib import blake2b
from typing import Any

from sidecar.core.brake import Brake
from sidecar.core.evidence import Group
from sidecar.core.policy import Arm, RolloutSpec, Route
from sidecar.core.resting import Kind, Resting
from sidecar.core.rollout import OVER, UNDER_WAY, Permit, Phase, Rollout, rollout_id_of
from sidecar.core.types import Event, Outcome
from sidecar.core.verdict import Sample, sample_of
from sidecar.errors import RolloutError


def arm_digest(arm: Arm) -> str:
    """16 hex digits of what an arm is: its upstream, model and params, not its name."""
    return blake2b(repr((arm.upstream, arm.model, arm.params)).encode(), digest_size=8).hexdigest()


def _rests(route: Route) -> tuple[Kind, ...]:
    """The rests that a route's policy allows: only where a selector chooses from a pool."""
    wanted: Mapping[Kind, bool] = {"held": route.changes.hold, "retired": route.changes.retire}
    return tuple(kind for kind, is_on in wanted.items() if is_on and route.mode == "optimize")


class Staging:
    """The rollouts of one route. The attributes are read for every request; the verbs keep them true."""

    def __init__(self, route: Route, unbind: Callable[[str], None]) -> None:
        self._route = route
        self._unbind = unbind
        self.permit: Permit | None = None  # asked before a step up, never before a rollback
        self._digests = {arm.id: arm_digest(arm) for arm in route.all_arms}
        self._promoted: list[str] = []
        self._braked: list[str] = []  # those, and a canary that takes all traffic
        self._brake = Brake(arm.id for arm in route.all_arms)
        self._seen: tuple[Outcome, Sample] | None = None  # the exchange counted last, and what it taught
        spec = route.rollout or RolloutSpec()
        arms = route.arms if route.mode in ("canary", "optimize") else ()
        self.rollouts: dict[str, Rollout] = {
            arm.id: Rollout(rollout_id_of(route, arm, spec), route.name, arm.id, spec, route.quality.min_samples)
            for arm in arms
        }
        self.asleep: dict[str, dict[str, Any]] = {}  # states of rollouts that the mode has no use for now
        self._slept: list[str] = []  # the promoted ones of them, in order
        self._denial: tuple[str, str, str] | None = None  # the change that a rule denies now: its kind, arm, and why
        self._denial_untold = False  # there was no event of it yet
        self.resting = Resting(route.name, self._digests, _rests(route))
        self.active: Rollout | None = None
        self.arm = ""  # of the active rollout
        self.tag = ""  # of the active rollout's present attempt
        self.share = 0.0  # of new units that the active canary takes
        self.pool: tuple[str, ...] = ()
        self.stable = ""
        self._refresh()

    # ---- carried over from the last policy

    def begin(self, before: "Staging | None", labels: Mapping[str, int], now: float) -> list[Event]:
        """Takes over what goes on unchanged, and starts the first rollout that waits. `labels` is how many labels beyond
        validators each arm has had."""
        if before is not None:
            self._adopt(before)
        self.credit(labels, self.rollouts)
        self._refresh()
        return self._next(now)

    def _adopt(self, before: "Staging") -> None:
        """Goes on with the rollouts, the order of promotions, the brakes and the rests of arms that stay as they are."""
        for arm, new in list(self.rollouts.items()):
            old = before.rollouts.get(arm)
            if old is None:
                continue
            same = before._digests[arm] == self._digests[arm]
            if old.id == new.id:
                self.rollouts[arm] = old
                old.min_labels = self._route.quality.min_samples
            elif same and old.phase in OVER:
                new.restore({**old.to_state(), "id": new.id})  # who starts it again starts what the policy says now
            elif old.phase in UNDER_WAY:
                self._unbind(arm)
        order = [*before._slept, *before._promoted]
        known = {**before.asleep, **{arm: one.to_state() for arm, one in before.rollouts.items()}}
        stay = [arm for arm, digest in self._digests.items() if before._digests.get(arm) == digest]
        self._wake({arm: known[arm] for arm in stay if arm in known}, before.rollouts)
        self._line_up(order)
        for arm in stay:
            self._brake.take_over(before._brake, arm)
        self.resting.take_over(before.resting)

    def credit(self, labels: Mapping[str, int], arms: Iterable[str]) -> None:
        """The `labels` that these arms have had, also before their rollouts began, count as evidence of quality in them."""
        for arm in arms:
            self.rollouts[arm].quality_labels = max(self.rollouts[arm].quality_labels, labels[arm])

    def _wake(self, known: Mapping[str, dict[str, Any]], taken: Container[str]) -> None:
        """A rollout whose mode comes back goes on where it was: an arm that was taken out stays out. What this mode has no
        rollouts for sleeps. `known` is of arms that are what they were; `taken` are those that need no waking."""
        for arm, state in known.items():
            rollout = self.rollouts.get(arm)
            if rollout is None:
                self.asleep[arm] = state
            elif arm not in taken:
                try:
                    rollout.restore(self._renamed(arm, state))
                except RolloutError:  # another spec or version: it begins anew
                    self._unbind(arm)

    def _line_up(self, promoted: Iterable[str]) -> None:
        """Which arms are promoted, in order, and which of those that sleep were."""
        order = list(promoted)
        self._promoted = [arm for arm in order if self._is(arm, Phase.PROMOTED)]
        self._slept = [arm for arm in order if arm in self.asleep]

    # ---- what happens

    def observe(
        self, arm: str, outcome: Outcome, quality: float | None, unit: tuple[int, int | None], now: float
    ) -> list[Event]:
        """Counts one exchange that the active rollout's hash assigned; `unit` is its key (0: itself) and step."""
        if self.active is None:
            return []
        group: Group = "canary" if arm == self.arm else "control"
        key, step = unit
        sample = sample_of(outcome, quality, arm)
        self._seen = outcome, sample
        return self._after(self.active.count(group, sample, now=now, unit_key=key, step=step))

    def label(self, arm: str, score: float, unit: tuple[int, int | None], now: float) -> list[Event]:
        """Counts one score of an answer that the active rollout's hash assigned; `unit` as in `observe`."""
        if self.active is None:
            return []
        group: Group = "canary" if arm == self.arm else "control"
        key, step = unit
        return self._after(self.active.label(group, score, now=now, unit_key=key, step=step))

    def watch(self, arm: str, outcome: Outcome, key: int, now: float) -> list[Event]:
        """Counts how any exchange of `arm` ended, for the brake of arms that serve alone; `key` is its unit (0: itself)."""
        if not self._braked:
            return []
        seen = self._seen
        sample = seen[1] if seen is not None and seen[0] is outcome else sample_of(outcome, None, arm)
        left = sample.left_s is not None
        if left and not self.rollouts.get(arm, self.rollouts[self._braked[-1]]).gave_up(sample):
            return []
        if sample.failed is None and not left and not (sample.rejected and self._is_fresh(now)):
            return []
        bad = left or bool(sample.failed or sample.rejected)
        self._brake.observe(arm, bad, key, now)
        return self._out_of_order(arm, now) if bad or self._brake.is_pressed(arm) else []

    def _is_fresh(self, now: float) -> bool:
        return self.share == 1.0 or any(self.rollouts[one].is_fresh(now) for one in self._promoted)

    def _out_of_order(self, arm: str, now: float) -> list[Event]:
        """Takes out `arm`, if it has a brake and that trips."""
        why = self._brake.trips(arm, now) if arm in self._braked else None
        return [] if why is None else self._after(self.rollouts[arm].rollback(now, why, "critical"))

    def give_up(self, ejected: Callable[[str], str | None], now: float) -> list[Event]:
        """Takes out the promoted arms that are `ejected` for long, for the reason that says, unless the others fail too."""
        events: list[Event] = []
        for arm in list(self._promoted):
            why = ejected(arm)
            if why is not None and self._brake.fails_alone(arm):
                events += self._after(self.rollouts[arm].rollback(now, why, "critical"))
        return events

    def tick(self, now: float) -> list[Event]:
        """What time alone causes: brakes that trip, steps, pauses, rests that end. Call it about once a second."""
        events: list[Event] = []
        for arm in [one for one in self._braked if self._brake.is_pressed(one)]:
            events += self._out_of_order(arm, now)
        if self.active is not None:
            moved = self._after(self.active.tick(now, self._may))
            events += [*self._denials(), *moved]
        for arm in self.resting.over(now):
            events += self.wake(arm, "its time is over", now)
        return events + self._next(now)

    # ---- the control loop's verbs

    def rest(self, arm: str, kind: Kind, cause: str, now: float) -> list[Event]:
        """Takes a promoted arm out of the pool for a while; one that is held loses its conversations. Nothing happens to an
        arm that is not in the pool, to the baseline, and where the policy or the arm's past is against it."""
        if arm not in self.pool[1:] or not self.resting.may(arm, kind, now):
            return []
        if kind == "held":
            self._unbind(arm)
        events = self.resting.begin(arm, kind, cause, now)
        self._refresh()
        return events

    def wake(self, arm: str, cause: str, now: float, *, spare: bool = False) -> list[Event]:
        """Ends the rest of an arm, if it rests; with `spare` it does not rest again soon."""
        events = self.resting.end(arm, cause, now, spare=spare)
        self._refresh()
        return events

    # ---- a person's verbs

    def start(self, arm: str, now: float) -> list[Event]:
        """Starts the rollout of `arm` now. Raises RolloutError when it cannot be, or another is under way."""
        rollout = self.rollouts.get(arm)
        if rollout is None:
            known = ", ".join(self.rollouts) or "none"
            raise RolloutError(f"route {self._route.name}: no arm {arm!r} to roll out; arms are: {known}")
        if self.active is not None and self.active is not rollout:
            raise RolloutError(
                f"route {self._route.name}: the rollout of {self.arm} is {self.active.phase}; "
                "promote it or roll it back first"
            )
        self._ask("rollout.start", rollout)
        return self._after(rollout.start(now))

    def promote(self, now: float) -> list[Event]:
        rollout = self._under_way()
        self._ask("rollout.step", rollout)
        return self._after(rollout.promote(now))

    def pause(self, now: float) -> list[Event]:
        return self._after(self._under_way().pause(now))

    def resume(self, now: float) -> list[Event]:
        return self._after(self._under_way().resume(now))

    def rollback(self, now: float, cause: str = "by hand", arm: str | None = None) -> list[Event]:
        """Takes out `arm`, or the active canary, or the arm that was promoted last. Raises RolloutError without any."""
        if arm is not None:
            rollout = self.rollouts.get(arm)
        elif self.active is not None or not self._promoted:
            rollout = self._under_way()
        else:
            rollout = self.rollouts[self._promoted[-1]]
        if rollout is None:
            raise RolloutError(f"route {self._route.name}: no arm {arm!r} to roll back")
        return self._after(rollout.rollback(now, cause))

    def free(self, key: int) -> None:
        """Forgets one unit."""
        self._brake.free(key)

    def may_roll_back(self, arm: str) -> bool:
        return self.rollouts[arm].phase in (*UNDER_WAY, Phase.PROMOTED)

    # ---- state

    def to_state(self) -> dict[str, object]:
        rollouts = {arm: rollout.to_state() for arm, rollout in self.rollouts.items()}
        states = {**self.asleep, **rollouts}
        rest = {"brake": self._brake.to_state(), "resting": self.resting.to_state()}
        return {"promoted": [*self._slept, *self._promoted], "rollouts": states, **rest}

    def restore(self, state: Mapping[str, Any], now: float, same: Container[str] = ()) -> tuple[list[Event], set[str]]:
        """Takes over rollouts with the same id, and of arms that are the `same` also those that are over; the others
        begin anew. Answers which, and why, and the arms whose rollouts go on.

        Raises KeyError or TypeError, and nothing has changed, when there are no rollouts in it.
        """
        if not isinstance(state["rollouts"], dict):
            raise TypeError("the rollouts are no table")
        events, taken = list[Event](), set[str]()
        for arm, kept in state["rollouts"].items():
            if arm in self._digests:
                events += self._take_over(arm, kept, taken, now, is_same=arm in same)
        self._line_up(self._in_order(state.get("promoted")))
        brake = state.get("brake", {})
        lost = self._brake.restore(brake) if isinstance(brake, dict) else ["all arms"]
        events += [self._lost(None, f"the brakes of {', '.join(lost)} cannot be read")] if lost else []
        if not self.resting.restore(state.get("resting", {}), now):
            events.append(self._lost(None, "the rests of its arms cannot be read"))
        self._one_at_a_time(taken)
        self._refresh()
        return events + self._next(now), taken

    def _one_at_a_time(self, taken: Container[str]) -> None:
        """The rollout that `begin` has started waits, where one of the `taken` is under way."""
        begun = self.active
        others = (one for one in self.rollouts.values() if one is not begun and one.arm in taken)
        if begun is not None and begun.arm not in taken and any(one.phase in UNDER_WAY for one in others):
            self.rollouts[begun.arm] = Rollout(begun.id, begun.route, begun.arm, begun.spec, begun.min_labels)

    def _renamed(self, arm: str, kept: dict[str, Any]) -> dict[str, Any]:
        """What is kept of a rollout that is over, as one of the present spec: no edit of that undoes it."""
        return {**kept, "id": self.rollouts[arm].id} if kept.get("phase") in OVER else kept

    def _take_over(self, arm: str, kept: object, taken: set[str], now: float, *, is_same: bool) -> list[Event]:
        """The rollout of one arm, which is the same or another one under its name, goes on, sleeps, or begins anew."""
        rollout = self.rollouts.get(arm)
        if not isinstance(kept, dict):
            return [self._lost(arm, "its state is no table")]
        if rollout is None:
            if is_same:
                self.asleep[arm] = kept
            return []
        try:
            anew = rollout.restore(self._renamed(arm, kept) if is_same else kept, now)
        except RolloutError as error:
            return [self._lost(arm, str(error))]
        taken.add(arm)
        return [self._lost(arm, "; ".join(anew))] if anew else []

    def _in_order(self, kept: object) -> list[str]:
        """The promoted arms as `kept` has them; those that it does not name come last, in the order of the policy."""
        named = [arm for arm in kept if isinstance(arm, str)] if isinstance(kept, list) else []
        named = list(dict.fromkeys(named))
        return [*named, *(arm for arm in self.rollouts if arm not in named)]

    def _lost(self, arm: str | None, what: str) -> Event:
        text = f"begins anew: {what}"
        return Event(kind="rollout.evidence_lost", route=self._route.name, arm=arm, message=text)

    # ---- inside

    def _is(self, arm: str, phase: Phase) -> bool:
        return arm in self.rollouts and self.rollouts[arm].phase is phase

    def _under_way(self) -> Rollout:
        if self.active is None:
            raise RolloutError(f"route {self._route.name}: no rollout is under way; start one with `rollout start`")
        return self.active

    def _next(self, now: float) -> list[Event]:
        if self.active is not None:
            return []
        waiting = next((one for one in self.rollouts.values() if one.phase is Phase.PENDING), None)
        if waiting is None:
            return []
        if self._may("rollout.start", waiting.arm, waiting.next_step) is not None:
            return self._denials()
        return self._after(waiting.start(now))

    def _may(self, kind: str, arm: str, percent: int) -> str | None:
        """What `permit` says to a change that is due by itself; a denial is noted for `_denials`."""
        why = None if self.permit is None else self.permit(kind, arm, percent)
        found = None if why is None else (kind, arm, why)
        if found != self._denial:  # asked every second, told once
            self._denial = found
            self._denial_untold = found is not None
        return why

    def _denials(self) -> list[Event]:
        """The event of a denial that nobody was told of yet."""
        if self._denial is None or not self._denial_untold:
            return []
        self._denial_untold = False
        kind, arm, why = self._denial
        detail = {"what": kind, "rationale": "it was due", "trigger": "time"}
        text = f"{arm}: {kind} was due; denied: {why}"
        return [
            Event(kind="change.denied", severity="medium", route=self._route.name, arm=arm, message=text, detail=detail)
        ]

    def _ask(self, kind: str, rollout: Rollout) -> None:
        """Raises RolloutError where a rule denies what a person wants: they may override evidence, and no rule."""
        why = None if self.permit is None else self.permit(kind, rollout.arm, rollout.next_step)
        if why is not None:
            raise RolloutError(f"route {self._route.name}: a rule of the policy denies {kind} of {rollout.arm}: {why}")

    def _after(self, events: list[Event]) -> list[Event]:
        """Brings all that follows from the rollouts' phases up to date with these events of one; gives them back."""
        for event in events:
            arm = event.arm or ""
            if event.kind in ("rollout.rolled_back", "rollout.promoted"):
                self.resting.forget(arm)
            if event.kind == "rollout.rolled_back":
                self._promoted = [one for one in self._promoted if one != arm]
                self._unbind(arm)
            elif event.kind == "rollout.promoted":
                self._promoted = [*(one for one in self._promoted if one != arm), arm]
            if event.kind in ("rollout.started", "rollout.promoted"):
                self._brake.forget(arm)
        if events:
            self._refresh()
        return events

    def _refresh(self) -> None:
        """Derives the attributes that requests read from the rollouts' phases."""
        self.active = next((one for one in self.rollouts.values() if one.phase in UNDER_WAY), None)
        active = self.active
        self.arm = "" if active is None else active.arm
        self.tag = "" if active is None else active.tag
        self.share = 0.0 if active is None else active.step / 100
        self._braked = [*self._promoted, self.arm] if self.share == 1.0 else self._promoted
        base = self._route.baseline.id
        promoted = (arm for arm in self.rollouts if self._is(arm, Phase.PROMOTED))
        self.pool = (base, *(arm for arm in promoted if arm not in self.resting))
        self.stable = self._promoted[-1] if self._promoted and self._route.mode == "canary" else base
