"""The real sidecar, in this process and on free ports, in front of upstreams that the test controls."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
import uvloop

from sidecar.app import Sidecar
from sidecar.config.settings import Settings
from sidecar.sim.knobs import SimConfig
from sidecar.sim.provider import SimulatedProvider
from tests.integration.raw import WAIT_S, Script, ScriptedUpstream

_BOTH_LOOPS = frozenset(
    {
        "test_fidelity",
        "test_fidelity_direct",
        "test_bodies",
        "test_large_bodies",
        "test_deaf",
        "test_faults",
        "test_tls_egress",
        "test_tls_faults",
    }
)  # what touches transports
_QUIET = {
    "listen": "127.0.0.1:0",
    "health_listen": "127.0.0.1:0",
    "admin_listen": "127.0.0.1:0",
    "request_log": "off",
    "drain_idle": "10ms",
    "drain": "1s",
}


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Any]:
    """The production loop, and asyncio's own where transports matter."""
    factories: dict[str, Any] = {"uvloop": uvloop.new_event_loop}
    if item.path.stem in _BOTH_LOOPS:
        factories["asyncio"] = asyncio.new_event_loop
    return factories


class Running:
    """A serving sidecar: `port` is its traffic port, `app` the object itself."""

    def __init__(self, app: Sidecar) -> None:
        self.app = app

    @property
    def port(self) -> int:
        return self.app.ports("traffic")[0]

    @property
    def health_port(self) -> int:
        return self.app.ports("health")[0]

    @property
    def admin_port(self) -> int:
        return self.app.ports("admin")[0]

    @property
    def books(self) -> Any:
        return self.app.plane.books

    @property
    def balanced(self) -> bool:
        """accepted = completed + failed + aborted + shed + open."""
        books = self.books
        ended = books.completed + books.failed + books.aborted + books.shed
        return bool(books.accepted == ended + len(self.app.plane.exchanges))

    @property
    def pool(self) -> tuple[int, int, int]:
        """(open, idle, waiting) over the default upstream."""
        return self.app.plane.defaults["openai"].pool.sizes

    async def recorded(self) -> None:
        """Waits until every call that is over is settled, and in the database where there is one."""
        self.app.plane.settle()
        self.app.loop.flush()
        assert await self.app.archive.stored(WAIT_S) is not False


@asynccontextmanager
async def serving(
    upstream_url: str, environ: dict[str, str] | None = None, **settings: object
) -> AsyncIterator[Running]:
    """A sidecar whose every default upstream is `upstream_url`; settings as `--set` takes them."""
    urls = {f"{name}_upstream": upstream_url for name in ("openai", "anthropic", "gemini")}
    values = _QUIET | urls | {key: str(value) for key, value in settings.items()}
    loaded = Settings.load(environ or {}, None, [f"{key}={value}" for key, value in values.items()])
    app = Sidecar(loaded, environ or {})
    app.plane.settle_together = 1  # what a test asks for next shall be there; test_settling.py is about later
    up: asyncio.Future[Sidecar] = asyncio.get_running_loop().create_future()
    task = asyncio.get_running_loop().create_task(app.run(up.set_result))
    await asyncio.wait({task, up}, timeout=WAIT_S, return_when="FIRST_COMPLETED")
    if task.done():
        task.result()
    try:
        yield Running(app)
    finally:
        app.stop()
        app.stop()
        async with asyncio.timeout(WAIT_S):
            code = await task
    assert code == 0
    assert app.plane.books.bugs == 0, "the data plane swallowed an exception of ours"


@pytest.fixture(autouse=True)
def _quiet_events() -> None:
    structlog.configure(processors=[_drop])


def _drop(_logger: object, _method: str, _event: object) -> Any:
    raise structlog.DropEvent


Upstream = Callable[..., Awaitable[ScriptedUpstream]]
Serve = Callable[..., Awaitable[Running]]
Sim = Callable[..., Awaitable[SimulatedProvider]]


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """Starts scripted upstreams."""
    started: list[ScriptedUpstream] = []

    async def begin(*scripts: Script, tls: Any = None, **options: Any) -> ScriptedUpstream:
        one = ScriptedUpstream(*scripts, **options)
        await one.start(tls)
        started.append(one)
        return one

    yield begin
    for one in started:
        await one.close()


@pytest.fixture
async def sim() -> AsyncIterator[Sim]:
    """Starts simulated providers."""
    started: list[SimulatedProvider] = []

    async def begin(**options: Any) -> SimulatedProvider:
        one = SimulatedProvider(SimConfig(**options))
        await one.start()
        started.append(one)
        return one

    yield begin
    for one in started:
        await one.close()


@pytest.fixture
def blackhole() -> Iterator[str]:
    """host:port of a listener that answers no connection attempt: with a full backlog it drops SYNs."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield f"127.0.0.1:{full.getsockname()[1]}"


@pytest.fixture
def listener_tls(tmp_path: Path) -> tuple[dict[str, Path], ssl.SSLContext]:
    """Settings of a sidecar that speaks TLS to its clients, and the context of a client that trusts it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    files = {"tls_cert": tmp_path / "listener.pem", "tls_key": tmp_path / "listener-key.pem"}
    certificate.cert_chain_pems[0].write_to_path(files["tls_cert"])
    certificate.private_key_pem.write_to_path(files["tls_key"])
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return files, context


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts sidecars in front of an upstream (or of a URL) and drains them after the test."""
    async with AsyncExitStack() as stack:

        async def begin(upstream: Any, **settings: object) -> Running:
            url = upstream if isinstance(upstream, str) else f"http://127.0.0.1:{upstream.port}"
            return await stack.enter_async_context(serving(url, **settings))

        yield begin
