"""The checks of finished answers that a policy lists: which call needs them, and what they found.

Nothing is kept of a call whose route lists no such check. Where one does, the answer's text is kept while it passes
(after the client has it, at most 64 KiB), looked at when the exchange is settled, and forgotten.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from sidecar.core.policy import Policy
from sidecar.core.reward import form_score
from sidecar.core.types import Decision, Endpoint, Facts, Outcome
from sidecar.wire.answer import Collector, Said
from sidecar.wire.validate import Answered, Plan, check, plan_of

Found = tuple[tuple[str, float], ...]
_NOTHING: Final[Found] = ()


class _Route(Struct, frozen=True):
    validators: tuple[str, ...]
    plan: Plan | None  # None: only validators that need no text


class Checks:
    """The checks of the policy in force, by route."""

    def __init__(self) -> None:
        self._routes: Mapping[str, _Route] = {}
        self.reads = False  # some route's checks read texts

    def apply(self, policy: Policy) -> None:
        """Takes the checks of this policy; what is under way is checked by the new ones.

        Raises:
            ImportError: a check needs a library that is not installed.
        """
        made = {
            route.name: _Route(route.quality.validators, plan_of(route.quality))
            for route in policy.routes
            if route.quality.validators
        }
        self._routes = made
        self.reads = any(route.plan is not None for route in made.values())

    def collector(self, decision: Decision | None, endpoint: Endpoint) -> Collector | None:
        """Where to keep what this call's answer says; None where nobody asks for it."""
        if not self.reads or decision is None:
            return None
        route = self._routes.get(decision.route)
        return None if route is None or route.plan is None else Collector(endpoint)

    def found(self, decision: Decision, facts: Facts, outcome: Outcome, said: Said | None, request: bytes) -> Found:
        """The score of each check that read the answer, and of each other one that failed; in the policy's order.

        `request` is the body as it was sent. An answer that did not end well is not checked: its outcome says enough.
        """
        route = self._routes.get(decision.route)
        if route is None or outcome.kind != "completed" or outcome.error is not None:
            return _NOTHING
        read: Found = _NOTHING
        if route.plan is not None and said is not None:
            read = check(route.plan, Answered(said, request, facts.endpoint, facts.dialect))
        failed = [(name, form_score(outcome, name)) for name in route.validators]
        return (*((name, score) for name, score in failed if score is not None and score < 1.0), *read)
