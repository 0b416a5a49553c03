"""The simulated provider: an LLM API on a real socket with knobs for time, quality, length and failure.

It stands in for the services that `routes` knows in the demo, the tests and the bench, in this process
(`SimulatedProvider`) or in its own (`run`). What it truly did is known in-process only, never told on the wire: `sent`
(when each first token was written), `aborts` (when each client left), `requests` (what arrived).
"""

import asyncio
import signal
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec

from msgspec import Struct

from sidecar.sim.connection import Connection
from sidecar.sim.knobs import Fault, SimConfig, SimulatedModel
from sidecar.sim.plan import Plan
from sidecar.sim.service import Service
from sidecar.sim.timer import ExactTimer

_CLOSING_TURNS = 100  # turns of the loop that a cut connection may take to say so; TLS takes several


class SimRequest(Struct, frozen=True):
    """One request as it arrived; `head` is raw, without the blank line."""

    method: str
    target: str
    head: bytes
    body: bytes


class SimulatedProvider:
    """`await start()`, use `.port`, `await close()`. Belongs to the loop that started it; not thread-safe."""

    timer: ExactTimer

    def __init__(self, config: SimConfig | None = None) -> None:
        self.config = config or SimConfig()
        self.max_body_bytes = self.config.max_body_bytes
        self.asks_key = bool(self.config.keys)
        self.keeps_requests = self.config.requests_kept > 0
        self.sent: deque[tuple[str, float]] = deque(maxlen=self.config.sent_kept)
        self.aborts: deque[tuple[str, float]] = deque(maxlen=self.config.sent_kept)
        self.requests: deque[SimRequest] = deque(maxlen=self.config.requests_kept)
        self.served = 0  # requests answered or begun
        self.connections = 0  # accepted since the start
        self.port = 0
        self._service = Service(self.config)
        self._open: set[Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        """Listens; port 0 takes a free one. Raises OSError when the address is busy."""
        loop = asyncio.get_running_loop()
        self.timer = ExactTimer(loop)
        self._server = await loop.create_server(lambda: Connection(self), host, port, ssl=tls, backlog=1024)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stops listening and cuts every connection. May be called twice."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in list(self._open):
            connection.close()
        await server.wait_closed()
        for _ in range(_CLOSING_TURNS):
            if not self._open:
                break
            await asyncio.sleep(0)
        self.timer.close()

    def set_faults(self, faults: Sequence[Fault]) -> None:
        """Replaces all faults from the next request on; `()` clears them."""
        self._service.set_faults(faults)

    def set_model(self, name: str, model: SimulatedModel) -> None:
        """Replaces a model's knobs from the next request on."""
        self._service.set_model(name, model)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults in force."""
        return self._service.faults

    @property
    def open_connections(self) -> int:
        """How many clients are connected now."""
        return len(self._open)

    # What a connection asks of its provider (connection.Answering).

    def respond(self, method: str, target: str, key: str | None, body: bytes) -> Plan:
        self.served += 1
        return self._service.respond(method, target, key, body)

    def keep(self, head: bytes, body: bytes) -> None:
        method, target, _ = head[: head.find(b"\r\n")].decode("latin-1").split(" ")
        self.requests.append(SimRequest(method, target, head, body))

    def token_sent(self, number: str, at: float) -> None:
        self.sent.append((number, at))

    def aborted(self, number: str, at: float) -> None:
        self.aborts.append((number, at))

    def connected(self, connection: Connection) -> None:
        self.connections += 1
        self._open.add(connection)

    def disconnected(self, connection: Connection) -> None:
        self._open.discard(connection)


def run(
    config: SimConfig, host: str = "127.0.0.1", port: int = 0, announce: Callable[[int], None] | None = None
) -> None:
    """Serves until SIGTERM or SIGINT, on uvloop where it is installed. `announce` is told the port."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config, host, port, announce))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return factory


async def _serve(config: SimConfig, host: str, port: int, announce: Callable[[int], None] | None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    provider = SimulatedProvider(config)
    await provider.start(host, port)
    if announce is not None:
        announce(provider.port)
    try:
        await stop.wait()
    finally:
        await provider.close()
