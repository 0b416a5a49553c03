"""The control loop in the process: hands the engine's events and finished exchanges to `core.cycle`, once a second, and
asks `core.proposals` of every route."""

from collections.abc import Callable, Sequence
from typing import Final

from sidecar.clock import steady
from sidecar.core.cycle import Cycle, Lane, Proposal
from sidecar.core.engine import Engine
from sidecar.core.proposals import SOURCES, Seen, Source, is_late
from sidecar.core.route import RouteState
from sidecar.core.types import Event, Outcome, Settled

MAX_EVENTS: Final = 1_024  # that wait for the next tick; more of them in a second say nothing new


class Cycling:
    """The loop of one engine. Its steps are short, and requests never wait for them."""

    def __init__(self, engine: Engine, main_s: float) -> None:
        """`main_s` is the pace of the main lane."""
        self.cycle = Cycle(engine.denied, main_s, self._late)
        self._engine = engine
        self._events: list[Event] = []
        seen = Seen(self.cycle.minutes, self._find)
        for lane, sources in SOURCES.items():
            for source in sources:
                self.cycle.add(lane, self._asking(source, seen))

    def _asking(self, source: Source, seen: Seen) -> Callable[[float], list[Proposal]]:
        return lambda now: [one for state in self._engine.routes for one in source(state, seen, now)]

    def _find(self, route: str) -> RouteState | None:
        for state in self._engine.routes:
            if state.route.name == route:
                return state
        return None

    def _late(self, route: str, outcome: Outcome) -> bool | None:
        found = self._find(route)
        return None if found is None or found.route.mode != "optimize" else is_late(found.route, outcome)

    def note(self, events: Sequence[Event]) -> None:
        """What the engine told since the last tick, by whatever verb."""
        self._events += events[: MAX_EVENTS - len(self._events)]

    def observe(self, batch: Sequence[Settled]) -> None:
        """Finished exchanges, where the policy changes anything that they could judge."""
        if self._engine.wants.chooses:
            self.cycle.observe(batch, steady())

    def tick(self) -> Sequence[Event]:
        """What the loop has to tell; it knows its own events."""
        events, self._events = self._events, []
        if any(event.kind == "policy.applied" for event in events):
            self.cycle.minutes.forget([route.name for route in self._engine.policy.routes])
        return self.cycle.tick(steady(), events)

    def run(self, lane: str) -> Sequence[Event]:
        """One pass of a lane, on demand."""
        return self.cycle.run(Lane(lane), "demand", steady())
