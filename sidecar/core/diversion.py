"""Where breached thresholds send a route's traffic, and what keeps them from it.

**Model.** Each breached threshold with the action `route_to` names an arm. The first of them, in the policy's order, gets
the traffic whose arm the request can use, was not rolled back, and is not denied by a rule. Rules are asked once a breach,
and once more by another policy or process that finds the breach; each time what they denied is told, once.

What it does not know: when a breach is over (`core.thresholds`).
"""

from sidecar.core.rollout import Phase
from sidecar.core.staging import Staging
from sidecar.core.types import Event


class Diversion:
    """The way of one route's diverted traffic."""

    def __init__(self, route: str, staging: Staging) -> None:
        self._route, self._staging = route, staging
        self._vetoes: dict[str, str | None] = {}  # why rules let no threshold send the traffic to an arm
        self._untold: list[Event] = []

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

    def forget(self, wanted: tuple[str, ...]) -> None:
        """Another process says which arms thresholds want now: the next breach for any other is asked about anew."""
        self._vetoes = {arm: why for arm, why in self._vetoes.items() if arm in wanted}

    def ask_rules(self, event: Event) -> list[Event]:
        """Whether rules let this breach send the traffic to its arm; what there is to tell when they do not."""
        arm = event.arm or ""
        self._vetoes.pop(arm, None)
        self._veto(arm, event.message)
        return self.denials()

    def denials(self) -> list[Event]:
        """The denials that nobody was told of yet."""
        told, self._untold = self._untold, []
        return told

    def _veto(self, arm: str, why_asked: str = "a threshold is breached") -> str | None:
        if arm not in self._vetoes:
            permit = self._staging.permit
            why = self._vetoes[arm] = None if permit is None else permit("threshold.route_to", arm, 100)
            if why is not None:
                self._untold.append(self._denial(arm, f"{why_asked}; denied: {why}", why_asked))
        return self._vetoes[arm]

    def _denial(self, arm: str, text: str, rationale: str) -> Event:
        detail = {"what": "threshold.route_to", "rationale": rationale, "trigger": "threshold"}
        return Event(kind="change.denied", severity="medium", route=self._route, arm=arm, message=text, detail=detail)
