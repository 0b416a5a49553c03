"""Where breached thresholds send a route's traffic, and what keeps them from it.

**Model.** Each breached threshold with the action `route_to` names an arm. The first of them, in the policy's order, gets
the traffic whose arm the request can use, was not rolled back, and is not denied by a rule. Rules are asked once a breach,
and by each policy and process; what they denied is told once.

What it does not know: when a breach is over (`core.thresholds`).
"""

from sidecar.core.rollout import Phase
from sidecar.core.staging import Staging
from sidecar.core.types import Event


class Diversion:
    """The way of one route's diverted traffic."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._vetoes: dict[str, str | None] = {}  # why rules let no threshold send the traffic to an arm

    def to(self, wanted: tuple[str, ...], eligible: tuple[str, ...] | None = None) -> str | None:
        """The first of the `wanted` arms that may get the traffic; `eligible` are those of the request, None for all."""
        for arm in wanted:
            if (eligible is None or arm in eligible) and not self.is_out(arm) and self._veto(arm) is None:
                return arm
        return None

    def is_out(self, arm: str) -> bool:
        """Whether the arm was taken out on evidence, or by hand."""
        rollout = self._staging.rollouts.get(arm)
        return rollout is not None and rollout.phase is Phase.ROLLED_BACK

    def ask_rules(self, event: Event) -> list[Event]:
        """Whether rules let this breach send the traffic to its arm; what there is to tell when they do not."""
        arm = event.arm or ""
        self._vetoes.pop(arm, None)
        why = self._veto(arm)
        if why is None:
            return []
        detail = {"what": "threshold.route_to", "rationale": event.message, "trigger": "threshold"}
        text = f"{event.message}; denied: {why}"
        return [Event(kind="change.denied", severity="medium", route=event.route, arm=arm, message=text, detail=detail)]

    def _veto(self, arm: str) -> str | None:
        permit = self._staging.permit
        if arm not in self._vetoes:
            self._vetoes[arm] = None if permit is None else permit("threshold.route_to", arm, 100)
        return self._vetoes[arm]
