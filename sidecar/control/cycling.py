"""The control loop in the process: hands the engine's events and finished exchanges to `core.cycle`, once a second."""

from collections.abc import Sequence
from typing import Final

from sidecar.clock import steady
from sidecar.core.cycle import Cycle, Lane
from sidecar.core.engine import Engine
from sidecar.core.types import Event, Settled

MAX_EVENTS: Final = 1_024  # that wait for the next tick; more of them in a second say nothing new


class Cycling:
    """The loop of one engine. Its steps are short, and requests never wait for them."""

    def __init__(self, engine: Engine, main_s: float) -> None:
        """`main_s` is the pace of the main lane."""
        self.cycle = Cycle(engine.denied, main_s)
        self._engine = engine
        self._events: list[Event] = []

    def note(self, events: Sequence[Event]) -> None:
        """What the engine told since the last tick, by whatever verb."""
        self._events += events[: MAX_EVENTS - len(self._events)]

    def observe(self, batch: Sequence[Settled]) -> None:
        """Finished exchanges, where the policy changes anything that they could judge."""
        if self._engine.chooses:
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
