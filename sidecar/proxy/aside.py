"""Judges and shadows of all routes: who is looked at, and what becomes of it when its answer is out.

`witness` is asked once for each answer that begins, and draws whether it is graded or copied; `over` comes behind the
answer, with the other settlements. Exchanges of routes without a judge or shadow pay for one look into a small table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct

from sidecar.core.paired import PairedStatus
from sidecar.core.policy import Arm, Judge, Policy, Shadow
from sidecar.core.status import Standing
from sidecar.core.types import SELECTABLE, Settled
from sidecar.proxy.errand import Errands
from sidecar.proxy.gate import Way
from sidecar.proxy.judge import Judging
from sidecar.proxy.plane import Plane, Watched, Witness
from sidecar.proxy.seen import Seen
from sidecar.proxy.shadow import MAX_BODY_BYTES, Shadowing, may_copy
from sidecar.wire.answer import Collector
from sidecar.wire.request_view import RequestView

_WHOLE = 2.0**64


@dataclass(frozen=True, slots=True)
class ErrandStatus:
    """What the errands of one route spent and showed, for people. Money is of this UTC day."""

    route: str
    judge_spent_nusd: int | None
    judge_graded: int
    shadow_spent_nusd: int | None
    pairs: PairedStatus | None
    notes: tuple[str, ...]


class _Plan(Struct):
    judging: Judging | None
    shadowing: Shadowing | None


class JudgesAndShadows:
    """The `Aside` of a plane whose policy has judges or shadows."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self.errands = Errands(plane)
        self._plans: dict[str, _Plan] = {}
        self._labels: Mapping[tuple[str, str], int] = {}

    def apply(self, policy: Policy) -> None:
        """Takes the judges and shadows of a policy; what was spent and shown by those that stay goes on."""
        plans: dict[str, _Plan] = {}
        for route in policy.routes:
            judge, shadow, old = route.quality.judge, route.shadow, self._plans.get(route.name, _Plan(None, None))
            judging = None if judge is None else Judging(self._plane, self.errands, judge)
            shadowing = None if shadow is None else Shadowing(self._plane, self.errands, route, shadow)
            if judging is not None and old.judging is not None:
                judging.take_over(old.judging)
            if shadowing is not None and old.shadowing is not None:
                shadowing.take_over(old.shadowing)
            if judging is not None or shadowing is not None:
                plans[route.name] = _Plan(judging, shadowing)
        if any(name not in plans or _terms(plans[name]) != _terms(old) for name, old in self._plans.items()):
            self.errands.clear()  # nobody is asked under terms that are not in force any more
        self.errands.leave()
        self._plans = plans
        if plans:
            self._plane.aside = self

    def refresh(self, routes: Sequence[Standing]) -> None:
        """How many labels each arm has: those with few are looked at more often. Shadows that were rolled back rest."""
        self._labels = {(route.route, arm): labels for route in routes for arm, labels in route.labels.items()}
        for route in routes:
            plan = self._plans.get(route.route)
            if plan is not None and plan.shadowing is not None:
                plan.shadowing.out = route.roles.get(plan.shadowing.arm.id) == "rolled_back"

    # ---- the plane's side

    def witness(self, watched: Watched, view: RequestView | None) -> Witness | None:
        """Somebody to be told of this exchange's end, when it is drawn; asked when a good answer begins.

        A fault of ours here costs a grade or a copy, never the answer.
        """
        try:
            return self._drawn(watched, view)
        except Exception as error:  # noqa: BLE001 - see the docstring
            self._plane.on_bug("witness", error)
            return None

    def _fraction(self) -> float:
        """Uniform in [0, 1)."""
        return self._plane.chance.draw() / _WHOLE

    def _drawn(self, watched: Watched, view: RequestView | None) -> Witness | None:
        decision, facts = watched.decision, watched.facts
        plan = self._plans.get(decision.route) if decision is not None else None
        if plan is None or decision is None or view is None or facts.off or facts.endpoint not in SELECTABLE:
            return None
        if not 0 < len(watched.body) <= MAX_BODY_BYTES:
            return None
        judging, shadowing, share = plan.judging, plan.shadowing, 0.0
        if judging is not None and decision.arm is not None:
            share = judging.chance(self._labels.get((decision.route, decision.arm), 0))
        if judging is None or self._fraction() >= share:
            judging = None
        if shadowing is not None and not (
            may_copy(facts, watched.body) and not shadowing.out and self._fraction() < shadowing.spec.sample
        ):
            shadowing = None
        if judging is None and shadowing is None:
            return None
        seen = Seen(watched.head_in, watched.body, view, watched.origin)
        return _Witness(self, judging is not None, shadowing is not None, seen, watched.way, share)

    def over(self, witness: "_Witness", settled: Settled) -> None:
        """An exchange that was drawn is over: who may still look at it is asked now, under the terms in force."""
        plan = self._plans.get(settled.decision.route)
        if plan is None or settled.outcome.kind != "completed":
            return
        if witness.copied and plan.shadowing is not None and not plan.shadowing.out:
            plan.shadowing.copy(settled, witness.seen, witness.way)
        if witness.collector is not None and plan.judging is not None:
            plan.judging.grade(settled, witness.seen, witness.collector.said(), witness.propensity)

    def sweep(self, now: float) -> None:
        self.errands.sweep(now)

    def stop(self) -> None:
        self.errands.stop()

    # ---- for people

    def status(self, now: float) -> list[ErrandStatus]:
        """What every judge and shadow spent and showed."""
        return [_status(route, plan, now) for route, plan in self._plans.items()]


class _Witness:
    """Remembers one exchange until it is over."""

    def __init__(
        self, owner: JudgesAndShadows, graded: bool, copied: bool, seen: Seen, way: Way, propensity: float
    ) -> None:
        self.collector = Collector(way.endpoint) if graded else None
        self.copied = copied
        self.seen = seen
        self.way = way
        self.propensity = propensity
        self._owner = owner

    def over(self, settled: Settled) -> None:
        """The client has its answer, and the row is written."""
        self._owner.over(self, settled)


def _terms(plan: _Plan) -> tuple[Judge | None, Shadow | None, Arm | None]:
    """What the policy says of a judge and a shadow."""
    judging, shadowing = plan.judging, plan.shadowing
    judge = None if judging is None else judging.spec
    return (judge, None, None) if shadowing is None else (judge, shadowing.spec, shadowing.arm)


def _status(route: str, plan: _Plan, now: float) -> ErrandStatus:
    judging, shadowing = plan.judging, plan.shadowing
    notes = []
    if judging is not None and judging.purse.unpriced:
        notes.append(
            f"route {route}: the judge's price is not known, so it is not asked; write `price` on its upstream"
        )
    if shadowing is not None and shadowing.purse.unpriced:
        notes.append(f"route {route}: the shadow's price is not known, so nothing is copied; write `price`")
    pairs = None if shadowing is None else shadowing.pairs.status(now)
    if pairs is not None:
        notes.append(pairs.explain())
    return ErrandStatus(
        route=route,
        judge_spent_nusd=None if judging is None else judging.purse.allowance.spent_nusd,
        judge_graded=0 if judging is None else judging.graded,
        shadow_spent_nusd=None if shadowing is None else shadowing.purse.allowance.spent_nusd,
        pairs=pairs,
        notes=tuple(notes),
    )
