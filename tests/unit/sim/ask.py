"""Asks the simulated provider without its sockets and takes its answers apart."""

from dataclasses import dataclass

import orjson

from sidecar.sim.knobs import SimConfig, SimulatedModel
from sidecar.sim.service import Service
from sidecar.wire.eventstream import EventStreamParser
from sidecar.wire.sse import SseEvent
from tests.unit.sim.client import Exchange

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
WANTED = {"city": "Paris", "days": 1}


@dataclass
class Reply(Exchange):
    """What came back, in the forms that the dialects use."""

    @property
    def named(self) -> list[tuple[str, dict]]:
        """Server-sent events with names."""
        found = []
        for event in self.body.decode().split("\n\n")[:-1]:
            name, _, data = event.partition("\n")
            found.append((name.removeprefix("event: "), orjson.loads(data.removeprefix("data: "))))
        return found

    @property
    def frames(self) -> list[SseEvent]:
        """Messages of AWS's event stream."""
        return EventStreamParser(1 << 20).feed(self.body)


def service(**knobs: object) -> Service:
    """A provider whose every model has these knobs."""
    return Service(SimConfig(default=SimulatedModel(**knobs)))


def ask(sim: Service, path: str, body: object, key: str | None = None, method: str = "POST") -> Reply:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    plan = sim.respond(method, path, key, data)
    return Reply(raw=b"".join(step for _, step in plan.steps), end=plan.end)
