"""The arms of one route on their way in: one rollout at a time, in the policy's order.

Each arm has one `Rollout`. The first that is running or paused is the active one; when there is none, the next
pending one is started at the next tick. One at a time, because two canaries at once would be each other's control. A
rollback does not stop the queue, a pause does.

    pool    baseline and all promoted arms: what the selector of an optimize route chooses from
    stable  canary routes: the arm that was promoted last, the baseline before the first

**The way back.** A promoted arm is watched by a brake for as long as it serves. Its units of late are the last BRAKE_UNITS
that called it, each as its newest call ended. The brake trips when, for BRAKE_HOLD_S on end, more than half of at least
MIN_ALONE_UNITS of them, and the newest, failed or gave up (in the first `interval` after the promotion: or were
rejected), unless more than half of what the other arms answered meanwhile ended so too: then the arm is not the cause.
In an optimize route the pool gives such a comparison. In a canary route nobody else serves, so an outage of the
provider trips it as well, arm by arm down to the baseline. A hiccup shorter than the hold does not. A trip is a
rollback: the arm promoted before, or the baseline, takes over, and the arm stays out until a person starts it again.
It is no test and has no alpha.

An arm without quality evidence stays at its first step (`core.rollout`), so it reaches the pool only with labels or
by a person's `promote`. A rollback calls `unbind` for the arm before it returns: no conversation stays with it.
"""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Final

from sidecar.core.guardrails import sample_of
from sidecar.core.policy import Arm, RolloutSpec, Route
from sidecar.core.rollout import BRAKE, MIN_ALONE_UNITS, Group, Phase, Rollout, rollout_id_of
from sidecar.core.types import Event, Outcome
from sidecar.errors import RolloutError

UNDER_WAY = (Phase.RUNNING, Phase.PAUSED)
BRAKE_UNITS: Final = 20  # 10..100; fewer take chance for an outage, more let a busy arm fail for longer
BRAKE_HOLD_S: Final = 2.0  # 1..30; shorter: a restart of a load balancer costs a promotion, longer: an outage lasts


def arm_digest(arm: Arm) -> str:
    """16 hex digits of what an arm is: its upstream, model and params, not its name."""
    return blake2b(repr((arm.upstream, arm.model, arm.params)).encode(), digest_size=8).hexdigest()


class _Recent:
    """How the newest calls of one arm's last units ended: unit -> (when, whether badly). Key 0 is a unit each time."""

    __slots__ = ("_nameless", "bad_since", "units")

    def __init__(self) -> None:
        self.units: dict[int, tuple[float, bool]] = {}
        self.bad_since: float | None = None  # most of them end badly since then
        self._nameless = 0

    def add(self, key: int, bad: bool, now: float) -> None:
        if key == 0:
            self._nameless -= 1
            key = self._nameless
        self.units.pop(key, None)
        self.units[key] = (now, bad)
        if len(self.units) > BRAKE_UNITS:
            del self.units[next(iter(self.units))]

    def since(self, at: float) -> tuple[int, int]:
        """How many units there were since `at`, and how many of them ended badly."""
        ends = [bad for when, bad in self.units.values() if when >= at]
        return len(ends), sum(ends)


class Staging:
    """The rollouts of one route. The attributes are read for every request; the verbs keep them true."""

    def __init__(self, route: Route, unbind: Callable[[str], None]) -> None:
        self._route = route
        self._unbind = unbind
        self._digests = {arm.id: arm_digest(arm) for arm in route.all_arms}
        self._promoted: list[str] = []
        self._recent = {arm.id: _Recent() for arm in route.all_arms}
        spec = route.rollout or RolloutSpec()
        arms = route.arms if route.mode in ("canary", "optimize") else ()
        self.rollouts: dict[str, Rollout] = {
            arm.id: Rollout(rollout_id_of(route, arm, spec), route.name, arm.id, spec, route.quality.min_samples)
            for arm in arms
        }
        self.active: Rollout | None = None
        self.arm = ""  # of the active rollout
        self.tag = ""  # of the active rollout's present attempt
        self.share = 0.0  # of new units that the active canary takes
        self.pool: tuple[str, ...] = ()
        self.stable = ""
        self._refresh()

    # ---- carried over from the last policy

    def begin(self, before: "Staging | None", labels: Mapping[str, int], now: float) -> list[Event]:
        """Takes over what goes on unchanged, and starts the first rollout that waits. `labels` count evidence so
        far."""
        for arm in list(self.rollouts) if before is not None else ():
            assert before is not None
            old = before.rollouts.get(arm)
            if old is None:
                continue
            same = before._digests[arm] == self._digests[arm]
            if old.id == self.rollouts[arm].id or (same and old.phase is Phase.PROMOTED):
                self.rollouts[arm] = old
                old.min_labels = self._route.quality.min_samples
            elif old.phase in UNDER_WAY:
                self._unbind(arm)
        if before is not None:
            self._promoted = [arm for arm in before._promoted if self._is(arm, Phase.PROMOTED)]
        for arm, rollout in self.rollouts.items():
            rollout.quality_labels = max(rollout.quality_labels, labels[arm])
        self._refresh()
        return self._next(now)

    # ---- what happens

    def observe(
        self, arm: str, outcome: Outcome, quality: float | None, unit: tuple[int, int | None], now: float
    ) -> list[Event]:
        """Counts one exchange that the active rollout's hash assigned; `unit` is its key (0: itself) and step."""
        if self.active is None:
            return []
        group: Group = "canary" if arm == self.arm else "control"
        key, step = unit
        return self._after(self.active.observe(group, outcome, now=now, unit_key=key, quality=quality, step=step))

    def label(self, arm: str, score: float, unit: tuple[int, int | None], now: float) -> list[Event]:
        """Counts one score of an answer that the active rollout's hash assigned; `unit` as in `observe`."""
        if self.active is None:
            return []
        group: Group = "canary" if arm == self.arm else "control"
        key, step = unit
        return self._after(self.active.label(group, score, now=now, unit_key=key, step=step))

    def watch(self, arm: str, outcome: Outcome, key: int, now: float) -> list[Event]:
        """Counts how any exchange of `arm` ended, for the brake of promoted arms; `key` is its unit (0: itself)."""
        if not self._promoted:
            return []
        sample = sample_of(outcome, None, arm)
        if sample.left_s is not None and not self.rollouts.get(arm, self.rollouts[self._promoted[-1]]).gave_up(sample):
            return []
        if sample.rejected and not any(self.rollouts[one].is_fresh(now) for one in self._promoted):
            return []
        bad = sample.left_s is not None or bool(sample.failed or sample.rejected)
        recent = self._recent[arm]
        recent.add(key, bad, now)
        return self._brake(arm, now) if bad or recent.bad_since is not None else []

    def _brake(self, arm: str, now: float) -> list[Event]:
        """Takes out `arm`, if it was promoted and most of its units end badly for long enough."""
        recent = self._recent[arm]
        units, bad = recent.since(0.0)
        if arm not in self._promoted or units < MIN_ALONE_UNITS or bad <= BRAKE * units or self._others_fail(arm):
            recent.bad_since = None
            return []
        if recent.bad_since is None:
            recent.bad_since = now
        _, newest_bad = next(reversed(recent.units.values()))
        if now - recent.bad_since < BRAKE_HOLD_S or not newest_bad:  # a good one: it may be over
            return []
        why = f"{bad} of its last {units} units failed after the promotion, limit {BRAKE:.0%}"
        return self._after(self.rollouts[arm].rollback(now, why, "critical"))

    def _others_fail(self, arm: str) -> bool:
        """Whether most of what the other arms answered meanwhile ended badly too."""
        recent = self._recent[arm]
        begin = min(when for when, _ in recent.units.values())
        if recent.bad_since is not None:
            begin = min(begin, recent.bad_since)
        seen = [one.since(begin) for other, one in self._recent.items() if other != arm]
        return sum(bad for _, bad in seen) > BRAKE * sum(units for units, _ in seen)

    def tick(self, now: float) -> list[Event]:
        events: list[Event] = []
        for arm in [one for one in self._promoted if self._recent[one].bad_since is not None]:
            events += self._brake(arm, now)
        events += self._after(self.active.tick(now)) if self.active is not None else []
        return events + self._next(now)

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
        return self._after(rollout.start(now))

    def promote(self, now: float) -> list[Event]:
        return self._after(self._under_way().promote(now))

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

    def may_roll_back(self, arm: str) -> bool:
        return self.rollouts[arm].phase in (*UNDER_WAY, Phase.PROMOTED)

    # ---- state

    def to_state(self) -> dict[str, object]:
        rollouts = {arm: rollout.to_state() for arm, rollout in self.rollouts.items()}
        return {"promoted": self._promoted, "rollouts": rollouts}

    def restore(self, state: dict[str, Any], now: float) -> list[Event]:
        """Takes over rollouts with the same id; the others begin anew. Answers which, and why."""
        events = []
        for arm, kept in state["rollouts"].items():
            rollout = self.rollouts.get(arm)
            if rollout is None:
                continue
            try:
                anew = rollout.restore(kept)
            except RolloutError as error:
                anew = (str(error),)
            if anew:
                text = f"begins anew: {'; '.join(anew)}"
                events.append(Event(kind="rollout.evidence_lost", route=self._route.name, arm=arm, message=text))
        self._promoted = [arm for arm in state["promoted"] if self._is(arm, Phase.PROMOTED)]
        self._refresh()
        return events + self._next(now)

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
        return [] if waiting is None else self._after(waiting.start(now))

    def _after(self, events: list[Event]) -> list[Event]:
        """Makes the attributes true again after a verb that said something."""
        for event in events:
            arm = event.arm or ""
            if event.kind == "rollout.rolled_back":
                self._promoted = [one for one in self._promoted if one != arm]
                self._unbind(arm)
            elif event.kind == "rollout.promoted":
                self._promoted = [*(one for one in self._promoted if one != arm), arm]
                self._recent[arm] = _Recent()
        if events:
            self._refresh()
        return events

    def _refresh(self) -> None:
        self.active = next((one for one in self.rollouts.values() if one.phase in UNDER_WAY), None)
        active = self.active
        self.arm = "" if active is None else active.arm
        self.tag = "" if active is None else f"{active.id}.{active.attempt}"
        self.share = 0.0 if active is None else active.step / 100
        base = self._route.baseline.id
        self.pool = (base, *(arm for arm in self.rollouts if self._is(arm, Phase.PROMOTED)))
        self.stable = self._promoted[-1] if self._promoted and self._route.mode == "canary" else base
