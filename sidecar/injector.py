"""One process that puts sidecars into pods: its parts wired, its life from the first try to the last answer.

It serves as soon as its certificate is loaded and the webhook trusts it, and keeps trying until then: nothing that the
cluster does ends it. On SIGTERM /ready says 503 first, reviews are answered on until none came for a while, then what is
under way ends. What a review's answer is, is not known here. Needs the extra `inject`.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from sidecar import __version__
from sidecar.clock import monotonic, rfc3339
from sidecar.config.address import Address
from sidecar.config.secrets import SecretFile
from sidecar.control.health import Readiness, health_app
from sidecar.errors import ConfigError, SidecarError
from sidecar.inject.certificates import jitter_of
from sidecar.inject.cluster import ACCOUNT, Cluster, Name
from sidecar.inject.counts import Counts
from sidecar.inject.lookups import Lookups
from sidecar.inject.options import Defaults
from sidecar.inject.rotation import MountedCertificates, OwnCertificates, Timing
from sidecar.inject.served import Served
from sidecar.inject.server import Reviews
from sidecar.process import place, watch_loop
from sidecar.proxy.listen import bind
from sidecar.tasks import Tasks

log = structlog.get_logger()
_VERSION_EVERY_S: Final = 600.0
_CONFIG_EVERY_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.5  # after a failure; it doubles up to the next, or to the usual pause
_LONGEST_PAUSE_S: Final = 10.0
_LOOK_S: Final = 0.1
_END_S: Final = 5.0  # for reviews under way when the listener closes: no API server waits longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one process shall do. `secret` and `webhook`: certificates of our own; `tls_dir`: mounted ones."""

    config: Path
    listen: tuple[Address, ...]
    health_listen: tuple[Address, ...]
    secret: Name | None = None
    webhook: str = ""
    tls_dir: Path | None = None
    account: Path = ACCOUNT
    drain_idle_s: float = 5.0  # endpoints, and the connections that API servers keep, need seconds to go elsewhere
    drain_s: float = 20.0


class Injector:
    """`run` serves until it is told to stop, by SIGTERM or `stop`, and has drained. `ports` are those it really has."""

    def __init__(self, plan: Plan, environ: Mapping[str, str], timing: Timing | None = None) -> None:
        """`timing` is for tests. Raises ConfigError on a configuration that cannot be read or used."""
        self.plan = plan
        self.state = "starting"
        self.ports: dict[str, list[int]] = {}
        self.served = Served()
        self._timing = Timing(jitter=jitter_of(environ.get("HOSTNAME", ""))) if timing is None else timing
        self.counts = Counts(self.served, self._timing.wall)
        self._tasks = Tasks(self._on_bug)
        self._config = SecretFile(plan.config, _defaults)
        if self._config.get(monotonic()) is None:
            raise ConfigError(self._config.error or "--config: cannot be read")
        self.counts.config_refused = lambda: self._config.error is not None
        self._cluster = self._reach(environ)
        self._lookups = Lookups(self._cluster, self._tasks)
        self._certificates = self._own_or_mounted()
        self.reviews = Reviews(self._current, self._lookups, self.counts, self._on_bug)
        self._notes: dict[str, str] = {}
        self._stopping, self._cut = asyncio.Event(), asyncio.Event()

    def stop(self) -> None:
        """Begins to drain; told twice, it ends at once."""
        (self._cut if self._stopping.is_set() else self._stopping).set()

    def readiness(self) -> Readiness:
        """What /ready says: whether reviews should come here, and what people should know."""
        ready = self.state == "serving" and self._certificates.trusted and self._lookups.asked
        notes = list(self._notes.values())
        if self._lookups.asked and not self._lookups.version_known:
            notes.append("the cluster's version is not known: `mode: auto` makes plain containers")
        state = "starting" if self.state == "serving" and not ready else self.state
        facts = self.served.facts
        return Readiness(ready, state, notes, {} if facts is None else {"certificate_expires": rfc3339(facts.expires)})

    async def run(self, announce: Callable[["Injector"], None] = lambda _up: None) -> int:
        """Serves until told to stop; the exit code. `announce` is called when both listeners are open.

        Raises:
            ConfigError: a port is busy.
        """
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as undo:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.stop)
                undo.callback(loop.remove_signal_handler, number)
            undo.callback(watch_loop(loop, self._on_bug))
            if self._cluster is not None:
                undo.push_async_callback(self._cluster.close)
            undo.push_async_callback(self._tasks.close, 1.0)
            await self._serve("health", health_app(self.readiness, self.counts.render), self.plan.health_listen, undo)
            await self._serve("webhook", self.reviews.app(), self.plan.listen, undo)
            self.state = "serving"
            self._begin()
            announce(self)
            await self._stopping.wait()
            await self._drain()
        log.info("inject.stopped")
        return 0

    # ---- up

    def _reach(self, environ: Mapping[str, str]) -> Cluster | None:
        try:
            return Cluster.here(environ, self.plan.account, self.counts.cluster_error)
        except ConfigError:
            if self.plan.secret is not None:
                raise
            return None  # mounted certificates need no API server; nothing is known of the cluster then

    def _own_or_mounted(self) -> OwnCertificates | MountedCertificates:
        plan = self.plan
        if self._cluster is not None and plan.secret is not None:
            return OwnCertificates(self._cluster, plan.secret, plan.webhook, self.served, self._timing)
        if plan.tls_dir is None:
            raise ConfigError("--certificates files: name the folder of the files with --tls-dir")
        return MountedCertificates(plan.tls_dir, self.served)

    async def _serve(
        self, what: str, app: web.Application, addresses: Sequence[Address], undo: contextlib.AsyncExitStack
    ) -> None:
        sockets: list[socket.socket] = bind(what, addresses, lambda note: log.info("inject.listener", note=note))
        for sock in sockets:
            undo.callback(sock.close)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_END_S)
        await runner.setup()
        undo.push_async_callback(runner.cleanup)
        for sock in sockets:
            await web.SockSite(runner, sock, ssl_context=self.served.context if what == "webhook" else None).start()
        self.ports[what] = [int(sock.getsockname()[1]) for sock in sockets]

    def _begin(self) -> None:
        log.info("inject.serving", listen=self.ports["webhook"], health=self.ports["health"], version=__version__)
        kept = self._certificates
        self._tasks.spawn(self._repeat("certificates", kept.keep, kept.every_s), "certificates")
        self._tasks.spawn(self._repeat("version", self._lookups.learn_version, _VERSION_EVERY_S), "version")
        self._tasks.spawn(self._repeat("config", self._look_at_config, _CONFIG_EVERY_S), "config")

    # ---- meanwhile

    async def _repeat(self, what: str, step: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Takes the step for ever; after a failure sooner, each time a little later. A failure is told once."""
        pause_s = _FIRST_PAUSE_S
        while True:
            note = ""
            try:
                await step()
            except SidecarError as error:
                note = str(error)
            except Exception as error:  # noqa: BLE001 - it serves on with what it has, and tries again
                note = f"{what}: a bug of the injector ({type(error).__name__})"
                self._on_bug(what, error)
            self._tell(what, note)
            await asyncio.sleep(min(pause_s, every_s) if note else every_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) if note else _FIRST_PAUSE_S

    def _tell(self, what: str, note: str) -> None:
        before = self._notes.get(what, "")
        if note == before:
            return
        if note:
            self._notes[what] = note
            log.warning("inject.trouble", what=what, note=note)
        else:
            del self._notes[what]
            log.info("inject.recovered", what=what)

    async def _look_at_config(self) -> None:
        """Raises ConfigError while the newest file is refused."""
        self._current()
        if self._config.error is not None:
            raise ConfigError(self._config.error)

    def _current(self) -> Defaults:
        found = self._config.get(monotonic())
        assert found is not None  # there was a good one at the start, and the last good one stays
        return found

    def _on_bug(self, where: str, error: BaseException) -> None:
        log.error("bug", where=where, error=type(error).__name__, place=place(error))

    # ---- down

    async def _drain(self) -> None:
        """/ready says 503; reviews are answered until none came for `drain_idle_s`, or `drain_s` is over."""
        self.state, self.reviews.draining = "draining", True
        began = monotonic()
        log.info("inject.draining")
        while not self._cut.is_set():
            now = monotonic()
            if now - began >= self.plan.drain_s or now - max(began, self.reviews.last) >= self.plan.drain_idle_s:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._cut.wait(), _LOOK_S)


def _defaults(content: bytes) -> Defaults:
    try:
        return Defaults.read(content.decode())
    except ConfigError as error:
        raise ValueError(str(error)) from None
