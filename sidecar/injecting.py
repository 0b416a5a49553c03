"""The verb `inject-webhook`: its options, and what they mean together. The process itself is `sidecar/injector.py`."""

import argparse
import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.config.address import Address, parse_listen
from sidecar.errors import ConfigError
from sidecar.options import verb
from sidecar.process import hush, loop_factory
from sidecar.telemetry.log import LEVELS, configure

if TYPE_CHECKING:
    from sidecar.injector import Plan


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = verb(verbs, "inject-webhook", inject_webhook, "Serve the webhook that puts a sidecar into pods.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="what every sidecar gets (YAML)")
    parser.add_argument("--listen", default=":8443", metavar="HOST:PORT", help="reviews, by TLS (default: :8443)")
    parser.add_argument(
        "--health-listen", default=":9091", metavar="HOST:PORT", help="/health, /ready, /metrics (default: :9091)"
    )
    parser.add_argument(
        "--certificates",
        choices=("self", "files"),
        default="self",
        help="self: an authority of its own, kept in --secret; files: mounted in --tls-dir (default: self)",
    )
    parser.add_argument("--tls-dir", type=Path, metavar="DIR", help="files: where tls.crt, tls.key and ca.crt lie")
    parser.add_argument(
        "--secret",
        default="",
        metavar="NAMESPACE/NAME",
        help="self: filled where it is empty; made where there is none and the rights allow it",
    )
    parser.add_argument(
        "--webhook", default="", metavar="NAME", help="self: the MutatingWebhookConfiguration that gets the caBundle"
    )
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="default: info")


def inject_webhook(options: argparse.Namespace) -> int:
    """`llm-sidecar inject-webhook`."""
    plan = _plan(options)
    from sidecar.injector import Injector

    hush()
    sink = configure(options.log_level)
    try:
        injector = Injector(plan, os.environ)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(injector.run())
    finally:
        sink.close()


def _plan(options: argparse.Namespace) -> "Plan":
    """Raises ConfigError on options that do not go together, and without the extra `inject`."""
    try:
        from sidecar.inject.cluster import Name
        from sidecar.injector import Plan
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: install llm-sidecar[inject]") from None
    secret = None
    if options.certificates == "files":
        if options.tls_dir is None:
            raise ConfigError("--certificates files: name the folder of the files with --tls-dir")
    else:
        namespace, _, name = options.secret.partition("/")
        if not namespace or not name or not options.webhook:
            raise ConfigError("--certificates self: name --secret NAMESPACE/NAME and --webhook NAME")
        secret = Name(namespace, name)
    return Plan(
        config=options.config,
        listen=_addresses("--listen", options.listen),
        health_listen=_addresses("--health-listen", options.health_listen),
        secret=secret,
        webhook=options.webhook,
        tls_dir=options.tls_dir,
    )


def _addresses(option: str, text: str) -> tuple[Address, ...]:
    try:
        found = parse_listen(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {text} {error}") from None
    if not found:
        raise ConfigError(f"{option}: give an address, like :8443")
    return found
