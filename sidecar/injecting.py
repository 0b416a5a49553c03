"""The verb `inject-webhook`: the process that puts sidecars into pods, from its options to its last answer.

It serves as soon as its certificate is loaded and the webhook trusts it, keeps trying until then, and drains on SIGTERM:
/ready says 503 first, reviews are answered on until none came for a while, then what is under way ends.
"""

import argparse
import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiohttp import web

from sidecar.clock import monotonic
from sidecar.config.address import Address, parse_listen
from sidecar.config.secrets import SecretFile
from sidecar.control.health import Readiness, health_app
from sidecar.errors import ConfigError, SidecarError
from sidecar.inject.cluster import ACCOUNT, Cluster, Name
from sidecar.inject.options import Defaults
from sidecar.options import OK, verb
from sidecar.process import hush, loop_factory, place, watch_loop
from sidecar.proxy.listen import bind
from sidecar.tasks import Tasks
from sidecar.telemetry.log import LEVELS, configure

if TYPE_CHECKING:  # they need the extra `inject`, which the other verbs do not
    from sidecar.inject.rotation import Timing

log = structlog.get_logger()
_VERSION_EVERY_S: Final = 600.0
_FIRST_PAUSE_S: Final = 0.5  # after a failure; doubled until it is the usual pause
_CLOSE_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one process shall do. `secret` and `webhook` are for certificates of our own, `tls_dir` for mounted ones."""

    config: Path
    listen: tuple[Address, ...]
    health_listen: tuple[Address, ...]
    secret: Name | None = None
    webhook: str = ""
    tls_dir: Path | None = None
    account: Path = ACCOUNT
    drain_idle_s: float = 5.0  # endpoints and open connections of API servers need some seconds to go elsewhere
    drain_s: float = 20.0


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verb(verbs, "inject-webhook", inject_webhook, "Serve the webhook that puts a sidecar into pods.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="what every sidecar gets (YAML)")
    parser.add_argument("--listen", default=":8443", metavar="HOST:PORT", help="reviews, by TLS (default: :8443)")
    parser.add_argument(
        "--health-listen", default=":8081", metavar="HOST:PORT", help="/health, /ready, /metrics (default: :8081)"
    )
    parser.add_argument(
        "--certificates",
        choices=("self", "files"),
        default="self",
        help="self: an authority of its own, kept in --secret; files: mounted in --tls-dir (default: self)",
    )
    parser.add_argument("--tls-dir", type=Path, metavar="DIR", help="files: where tls.crt, tls.key and ca.crt lie")
    parser.add_argument("--secret", metavar="NAMESPACE/NAME", help="self: the Secret, made if there is none")
    parser.add_argument("--webhook", metavar="NAME", help="self: the MutatingWebhookConfiguration that gets the caBundle")
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="default: info")


def inject_webhook(options: argparse.Namespace) -> int:
    """`llm-sidecar inject-webhook`."""
    plan = _plan(options)
    hush()
    sink = configure(options.log_level)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(Injector(plan, os.environ).run())
    finally:
        sink.close()


def _plan(options: argparse.Namespace) -> Plan:
    """Raises ConfigError on options that do not go together."""
    secret = None
    if options.certificates == "files":
        if options.tls_dir is None:
            raise ConfigError("--certificates files: name their folder with --tls-dir")
    else:
        namespace, _, name = (options.secret or "").partition("/")
        if not namespace or not name or not options.webhook:
            raise ConfigError("--certificates self: name --secret NAMESPACE/NAME and --webhook NAME")
        secret = Name(namespace, name)
    return Plan(
        config=options.config,
        listen=_addresses("--listen", options.listen),
        health_listen=_addresses("--health-listen", options.health_listen),
        secret=secret,
        webhook=options.webhook or "",
        tls_dir=options.tls_dir if secret is None else None,
    )


def _addresses(option: str, text: str) -> tuple[Address, ...]:
    try:
        found = parse_listen(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {text} {error}") from None
    if not found:
        raise ConfigError(f"{option}: give an address, like :8443")
    return found


class Injector:
    """One serving process. `run` returns when it was told to stop, by SIGTERM or `stop`, and has drained."""

    def __init__(self, plan: Plan, environ: Mapping[str, str], timing: "Timing | None" = None) -> None:
        """Raises ConfigError on a configuration that cannot be read, and without the extra `inject`."""
        try:
            from sidecar.inject.parts import Parts
        except ImportError:
            raise ConfigError("inject-webhook needs cryptography: pip install 'llm-sidecar[inject]'") from None
        self.plan = plan
        self.state = "starting"
        self.ports: dict[str, list[int]] = {}
        self._tasks = Tasks(self._on_bug)
        self._config = ConfigFile(plan.config)
        self.parts = Parts(plan, environ, self._tasks, self._config.current, self._on_bug, timing)
        self.parts.counts.config_refused = lambda: self._config.error is not None
        self._notes: dict[str, str] = {}
        self._stopping, self._cut = asyncio.Event(), asyncio.Event()

    def stop(self) -> None:
        """Begins to drain; told twice, it ends at once."""
        (self._cut if self._stopping.is_set() else self._stopping).set()

    async def run(self, announce: Callable[["Injector"], None] = lambda _up: None) -> int:
        """Serves until told to stop; the exit code. `announce` is called when both listeners are open."""
        loop = asyncio.get_running_loop()
