"""What the routes of a policy want to know of a request: the shell finds out nothing that none of them asks for.

It is one value, made anew with each policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.core.governance import Governance
from sidecar.core.route import RouteState


@dataclass(frozen=True, slots=True)
class Wants:
    """Of all routes in force together."""

    chooses: bool = False  # some route chooses arms: the shell gives each request its random bits
    key: bool = False  # some route binds conversations: the shell derives their keys
    text: bool = False  # some route's choice looks at texts: the shell makes their features
    needs: bool = False  # some arm cannot serve every request: the shell finds out what each one needs
    task_tags: tuple[str, ...] = ()  # that name a request's task, in the order of the routes
    ceilings: bool = False  # budgets or rules: what was spent must be known to the last call
    more_than_model: bool = False  # some route looks at paths or tags: equal models may take different routes

    @classmethod
    def of(cls, routes: Sequence[RouteState], governance: Governance) -> "Wants":
        choosing = [state for state in routes if state.chooses]
        return cls(
            chooses=bool(choosing),
            key=any(state.keyed for state in choosing),
            text=any(state.route.context.text for state in choosing),
            needs=any(
                state.serving.fitting.limited and (state.chooses or state.route.shadow is not None) for state in routes
            ),
            task_tags=tuple(dict.fromkeys(state.route.context.tag for state in choosing)),
            ceilings=governance.active or any(state.route.budget is not None for state in routes),
            more_than_model=any(state.route.match.paths or state.route.match.tags for state in routes),
        )
