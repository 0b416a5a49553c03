"""The money of one kind of errands on one route: what each reserves, what it is booked with, and what is told of it.

An errand is sent when its price is known and its allowance admits it; what it really cost takes the place of what was
reserved, in the allowance and in the route's budget. Every errand ends as one event of figures and names, no text.
"""

from collections.abc import Callable
from typing import Final

from sidecar.clock import steady
from sidecar.core.cost import cost as cost_of
from sidecar.core.policy import Judge, Shadow
from sidecar.core.settle import billed_nusd
from sidecar.core.spare import Allowance
from sidecar.core.types import Decision, Event, Outcome, Settled, Usage
from sidecar.proxy.errand import Done, Errands, Task
from sidecar.proxy.origin import Origin
from sidecar.proxy.plane import Plane

BYTES_PER_TOKEN: Final = 3  # 2..6; English text has about 4: fewer reserve more, which is the safe side
_DAY_S: Final = 86_400
_TAKES_S: Final = 10.0  # 1..60, what a call takes where time has a price: longer reserves more

Then = Callable[[Settled, Outcome, bytes], float | None]  # what an errand showed: the score of its event, if it has one


class Purse:
    """The allowance of the judge or the shadow of one route, and who books on it."""

    def __init__(self, plane: Plane, errands: Errands, kind: str, spec: Judge | Shadow) -> None:
        self.allowance = Allowance(spec.daily_nusd, spec.per_minute, steady())
        self.unpriced = False  # the price was not known when it was last needed
        self._plane = plane
        self._errands = errands
        self._kind = kind
        self._spec = spec

    def take_over(self, before: "Purse") -> None:
        """Goes on with what was spent and reserved under an earlier policy: errands under way will book there."""
        self.allowance = before.allowance
        self.allowance.change(self._spec.daily_nusd, self._spec.per_minute)

    def reserve(self, origin: Origin, model: str, input_bytes: int, output_tokens: int) -> int | None:
        """Takes the estimate of one call out of the allowance, in nano-dollars; None when it may not be made."""
        estimate = estimate_nusd(origin, model, input_bytes, output_tokens, self._plane.wall())
        self.unpriced = estimate is None
        return estimate if estimate is not None and self.allowance.admits(estimate, steady()) else None

    def done(self, settled: Settled, decision: Decision, reserved_nusd: int, then: Then) -> Done:
        """The `Task.done` of an errand about `settled`: it is booked, `then` says what it showed, and that is told."""

        def over(outcome: Outcome, body: bytes) -> None:
            """Books the call, asks `then` for its score, tells the event."""
            plane = self._plane
            cost_nusd = 0 if outcome.clocks.sent_s is None else billed_nusd(outcome, reserved_nusd)
            self.allowance.book(reserved_nusd, cost_nusd, steady())
            if cost_nusd:
                plane.engine.charge(settled.decision.route, cost_nusd, steady())
            score = then(settled, outcome, body)
            detail = _detail(settled, decision, outcome, cost_nusd) | {"score": score}
            arm = decision.arm or settled.outcome.served_arm or settled.decision.arm
            route, kind = settled.decision.route, f"errand.{self._kind}"
            plane.on_errand(Event(kind=kind, route=route, arm=arm, message=outcome.kind, detail=detail))

        return over

    def send(self, task: Task, reserved_nusd: int) -> None:
        """Gives the errand away; where nobody takes it, what was reserved comes back."""
        if not self._errands.put(task):
            self.allowance.book(reserved_nusd, 0, steady())


def estimate_nusd(origin: Origin, model: str, input_bytes: int, output_tokens: int, at: float) -> int | None:
    """What a call will cost, rather too high than too low; None when the prices of `model` are not known."""
    day, second = divmod(int(at), _DAY_S)
    card = origin.card(model, day)
    usage = Usage(input_tokens=-(-input_bytes // BYTES_PER_TOKEN), output_tokens=output_tokens)
    made = cost_of(usage, card, kind="estimate", second_of_day=second, seconds=_TAKES_S)
    return None if made is None else made.total_nusd


def _detail(settled: Settled, decision: Decision, outcome: Outcome, cost_nusd: int) -> dict[str, object]:
    """One errand for the table of events: figures and names, no text of anybody."""
    usage, clocks = outcome.usage, outcome.clocks
    return {
        "decision": settled.id,
        "upstream": decision.upstream,
        "model": decision.model,
        "propensity": decision.propensity,
        "outcome": outcome.kind,
        "error": outcome.error,
        "status": outcome.status or None,
        "cost_nusd": cost_nusd,
        "cost_kind": outcome.cost_kind or ("estimate" if cost_nusd else "exact"),
        "input_tokens": None if usage is None else usage.input_tokens,
        "output_tokens": None if usage is None else usage.output_tokens,
        "ttft_s": clocks.ttft_s,
        "duration_s": clocks.duration_s,
    }
