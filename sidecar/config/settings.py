"""The settings of one process: read once at start. `--set` wins over the environment, that over the file, that over the
default.

Each field has its default and the reason for it beside it. It has one name everywhere: as a key of the file and of
`--set` (with or without the unit at its end, `connect_timeout` or `connect_timeout_s`), and as an environment variable
(`SIDECAR_CONNECT_TIMEOUT`, or the name given beside the field). Nothing here changes while the process runs.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from sidecar.config import scalars, units
from sidecar.config.address import ANY, LOOPBACK, Address, is_loopback, is_ourselves, parse_listen, parse_origin
from sidecar.config.scalars import Parse
from sidecar.config.sources import Sources, about
from sidecar.errors import ConfigError

KIB, MIB, DAY_S = 2**10, 2**20, 86400.0
_timeout = scalars.within(units.duration_s, 0.001, DAY_S, units.show_duration)
_timeout_or_off = scalars.within(units.duration_s, 0.0, DAY_S, units.show_duration)
_age = scalars.within(units.duration_s, 60.0, 3660 * DAY_S, units.show_duration)
_count = scalars.within(units.integer, 1, 1_000_000)
_few = scalars.within(units.integer, 0, 1_000_000)
_share = scalars.within(units.number, 0.0, 1.0)


def _memory(text: str) -> object:
    """A size, or nothing."""
    return _bytes(32 * MIB)(text) if text.strip() else None


def _pods(text: str) -> object:
    """A number of pods, or nothing."""
    return scalars.within(units.integer, 1, 10_000)(text) if text.strip() else None


def _bytes(low: int, high: int = 2**40) -> Parse:
    return scalars.within(units.size_bytes, low, high, units.show_size)


Mode = Literal["sidecar", "standalone", "daemon"]
_NO_EFFECT = ("governance_url", "registry_url", "redis_url", "postgres_url")  # names that others of the ecosystem set


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the process runs with. Durations are seconds, sizes are bytes, addresses are (IP number, port)."""

    service: str = field(
        default="default",
        metadata=about(
            scalars.text, "one pod serves one service; without a name its rows still say whose they are", "SERVICE_ID"
        ),
    )
    mode: Mode = field(
        default="sidecar",
        metadata=about(scalars.choice("sidecar", "standalone", "daemon"), "beside one service, in its pod", "MODE"),
    )
    workers: int = field(
        default=1,
        metadata=about(
            scalars.within(units.integer, 1, 64),
            "processes that carry traffic; one is enough beside one service. With more, another one leads them",
        ),
    )
    replicas: int | None = field(
        default=None,
        metadata=about(
            _pods,
            "unset: as the policy says. Who starts the pods knows how many there are; budgets are divided by it",
        ),
    )
    listen: tuple[Address, ...] = field(
        default=tuple((host, 9090) for host in LOOPBACK),
        metadata=about(
            parse_listen,
            "loopback of both families, as `localhost` may mean either; in standalone and daemon mode all addresses",
        ),
    )
    health_listen: tuple[Address, ...] = field(
        default=tuple((host, 9091) for host in ANY),
        metadata=about(parse_listen, "the kubelet and Prometheus come from outside the pod"),
    )
    admin_listen: tuple[Address, ...] = field(
        default=(("127.0.0.1", 9092),), metadata=about(parse_listen, "reached by `kubectl port-forward` only")
    )
    db: Path | None = field(default=None, metadata=about(scalars.path, "unset: nothing is stored, all else works"))
    policies: Path | None = field(
        default=None, metadata=about(scalars.path, "unset: measure and record, change nothing")
    )
    admin_token_file: Path | None = field(
        default=None, metadata=about(scalars.path, "unset: the admin listener answers 401 to everything")
    )
    admin_roles_file: Path | None = field(
        default=None,
        metadata=about(scalars.path, "lines `NAME ROLE SHA256`; unset: the one admin token may do everything"),
    )
    audit_key_file: Path | None = field(
        default=None,
        metadata=about(
            scalars.path, "lines `ID KEY`; unset: the audit's chain has no key, and who can write the file can forge it"
        ),
    )
    encryption_key_file: Path | None = field(
        default=None,
        metadata=about(
            scalars.path,
            "lines `ID KEY`; unset: the database is private by its mode only; needs llm-sidecar[encryption]",
        ),
    )
    catalogue: Path | None = field(
        default=None,
        metadata=about(
            scalars.path, "unset: what is known of models is as shipped; a file extends or, with `replace`, replaces it"
        ),
    )
    prices: Path | None = field(
        default=None,
        metadata=about(scalars.path, "unset: the price list as shipped; a file of `prices refresh` takes its place"),
    )
    priors: Path | None = field(
        default=None, metadata=about(scalars.path, "a file of `state export`, read when nothing newer is stored")
    )
    log_level: str = field(
        default="info",
        metadata=about(
            scalars.choice("debug", "info", "warning", "error"), "one event for each change, not for each request"
        ),
    )
    request_log: str = field(
        default="-",
        metadata=about(scalars.text, "`-` is stdout, where Kubernetes collects it; `off`, or the path of a file"),
    )
    observatory_url: str | None = field(
        default=None,
        metadata=about(scalars.url, "OTLP; unset: no traces leave the process", "OBSERVATORY_URL", secret=True),
        repr=False,
    )
    governance_url: str | None = field(
        default=None,
        metadata=about(scalars.url, "no effect yet: rules come from the policy only", "GOVERNANCE_URL", secret=True),
        repr=False,
    )
    registry_url: str | None = field(
        default=None,
        metadata=about(scalars.url, "no effect yet: arms come from the policy only", "REGISTRY_URL", secret=True),
        repr=False,
    )
    redis_url: str | None = field(
        default=None,
        metadata=about(scalars.url, "no effect yet: each pod learns alone", "REDIS_URL", secret=True),
        repr=False,
    )
    postgres_url: str | None = field(
        default=None, metadata=about(scalars.url, "no effect yet: SQLite only", "POSTGRES_URL", secret=True), repr=False
    )
    node_name: str | None = field(
        default=None, metadata=about(scalars.optional, "a label of traces and events", "NODE_NAME")
    )
    optimization_interval_s: float = field(
        default=900.0,
        metadata=about(
            _timeout,
            "how often the main lane of the control loop runs; guardrails and rollouts are looked at every second",
            "OPTIMIZATION_INTERVAL",
        ),
    )

    openai_upstream: str = field(
        default="https://api.openai.com",
        metadata=about(scalars.origin, "where the SDK would have gone", "OPENAI_UPSTREAM"),
    )
    anthropic_upstream: str = field(
        default="https://api.anthropic.com",
        metadata=about(scalars.origin, "where the SDK would have gone", "ANTHROPIC_UPSTREAM"),
    )
    gemini_upstream: str = field(
        default="https://generativelanguage.googleapis.com",
        metadata=about(scalars.origin, "where the SDK would have gone", "GEMINI_UPSTREAM"),
    )
    https_proxy: str | None = field(
        default=None,
        metadata=about(
            scalars.proxy,
            "upstreams through CONNECT, as the app's SDK would have gone; lower case wins, as in curl",
            "https_proxy HTTPS_PROXY",
            secret=True,
        ),
        repr=False,
    )
    no_proxy: tuple[str, ...] = field(
        default=(), metadata=about(scalars.names, "hosts and suffixes that are reached directly", "no_proxy NO_PROXY")
    )
    ca_file: Path | None = field(
        default=None,
        metadata=about(scalars.path, "unset: the system's certificate authorities; a file that changes is read again"),
    )

    allow_non_loopback: bool = field(
        default=False, metadata=about(units.flag, "a sidecar that others can reach spends its service's money")
    )
    host_names: tuple[str, ...] = field(
        default=(),
        metadata=about(
            scalars.names, "Host names accepted besides localhost, 127.0.0.1 and [::1]: others may be DNS rebinding"
        ),
    )
    allowed_origins: tuple[str, ...] = field(
        default=(), metadata=about(scalars.names, "a browser's page has no business here unless listed")
    )
    client_tokens_file: Path | None = field(
        default=None,
        metadata=about(scalars.path, "lines `token service`; required where others can reach keys that we hold"),
    )
    salt_file: Path | None = field(
        default=None,
        metadata=about(
            scalars.path, "keys the hashes of sticky keys; unset: the service's name, equal in all pods but guessable"
        ),
    )
    tls_cert: Path | None = field(
        default=None, metadata=about(scalars.path, "loopback needs no TLS; a pair that changes is read again")
    )
    tls_key: Path | None = field(default=None, metadata=about(scalars.path, "loopback needs no TLS"))

    connect_timeout_s: float = field(
        default=5.0, metadata=about(_timeout, "three SYN retries are 7 s; a healthy peer answers in one round trip")
    )
    first_byte_timeout_s: float = field(
        default=600.0,
        metadata=about(_timeout, "the SDKs' own default: a call that succeeds directly must succeed here"),
    )
    idle_timeout_s: float = field(
        default=300.0, metadata=about(_timeout, "longest silence inside a response; reasoning models pause for minutes")
    )
    pool_queue_timeout_s: float = field(
        default=10.0, metadata=about(_timeout, "longer waits are better answered with 503 than hidden")
    )
    head_timeout_s: float = field(
        default=10.0,
        metadata=about(_timeout, "a local client sends its head in one packet; slower is an attack or a bug"),
    )
    body_stall_timeout_s: float = field(
        default=30.0, metadata=about(_timeout, "silence inside a request body, not its total")
    )
    downstream_stall_timeout_s: float = field(
        default=300.0,
        metadata=about(
            _timeout_or_off,
            "a client that takes not one byte of its answer for so long is given up, as by Envoy; 0: never",
        ),
    )
    keepalive_idle_s: float = field(
        default=55.0, metadata=about(_timeout, "below the 60 s after which common load balancers drop a connection")
    )
    drain_s: float = field(
        default=25.0, metadata=about(_timeout, "inside Kubernetes' 30 s of grace, with time left to flush the store")
    )
    drain_idle_s: float = field(
        default=1.0, metadata=about(_timeout, "no exchange for so long while draining: the app has stopped too")
    )
    upstream_idle_s: float = field(
        default=4.0,
        metadata=about(
            _timeout,
            "below the 5 s after which uvicorn (vLLM) and Node close an idle connection; the SDKs use 5 s. "
            "A request on a closing connection is lost, and is never sent twice",
        ),
    )

    max_head_bytes: int = field(
        default=64 * KIB,
        metadata=about(_bytes(1 * KIB, 1 * MIB), "cookies and traces fit; nginx allows 32 KiB, Node 16 KiB"),
    )
    route_body_max_bytes: int = field(
        default=8 * MIB, metadata=about(_bytes(0), "larger bodies are images; they stream to the baseline")
    )
    max_body_bytes: int = field(default=64 * MIB, metadata=about(_bytes(1), "above what the providers accept"))
    max_buffered_bytes: int = field(
        default=96 * MIB, metadata=about(_bytes(1), "a memory limit of 256 MiB holds; then reading pauses")
    )
    max_streams: int = field(default=4096, metadata=about(_count, "about 20 KiB each; the next one gets 503"))
    max_upstream_connections: int = field(
        default=4096,
        metadata=about(
            _count, "HTTP/1.1 needs one for each open stream: fewer would queue calls that succeed directly"
        ),
    )
    meter_max_bytes: int = field(
        default=8 * MIB, metadata=about(_bytes(64 * KIB), "of a decoded copy; beyond it usage is unknown and counted")
    )

    memory_limit_bytes: int | None = field(
        default=None,
        metadata=about(
            _memory, "unset: the container's own; near it rows and log lines are given up, then new calls get 503"
        ),
    )
    breaker: bool = field(
        default=True,
        metadata=about(
            units.flag, "a model that fails is not offered where another arm may serve; no call fails by it"
        ),
    )
    breaker_failures: int = field(
        default=5, metadata=about(_count, "failures in a row that open it; Envoy's consecutive_5xx")
    )
    breaker_failure_rate: float = field(
        default=0.5,
        metadata=about(_share, "or this share of the calls of `breaker_window`; resilience4j's failureRateThreshold"),
    )
    breaker_min_calls: int = field(
        default=20, metadata=about(_count, "calls of the window before its rate says anything")
    )
    breaker_window_s: float = field(
        default=30.0, metadata=about(_timeout, "longer remembers an outage that is over, shorter has too few calls")
    )
    breaker_probes: int = field(
        default=3, metadata=about(_count, "calls that try a half-open one each 5 s; so many successes close it")
    )
    breaker_ejection_s: float = field(
        default=30.0, metadata=about(_timeout, "open for so long; twice as long each time in a row, as Envoy's grows")
    )
    breaker_max_ejection_s: float = field(default=300.0, metadata=about(_timeout, "and never longer; Envoy's default"))
    breaker_max_ejected: float = field(
        default=0.75,
        metadata=about(_share, "of a route's arms; one always may be out, and never the last: the rest must carry all"),
    )
    retry_budget: float = field(
        default=0.2,
        metadata=about(_share, "fallbacks under way to an upstream, as a share of its calls; Envoy's and Finagle's"),
    )
    retry_floor: int = field(
        default=10, metadata=about(_few, "fallbacks that are allowed besides: a service with few calls needs some")
    )
    concurrency_limit: Literal["off", "overload", "gradient"] = field(
        default="off",
        metadata=about(
            scalars.choice("off", "overload", "gradient"),
            "calls at once per upstream, by its 429/503/529, or by its time to the first byte too; a call that waits "
            "longer than `pool_queue_timeout` gets 503, so it is never on by itself",
        ),
    )

    store_max_bytes: int = field(
        default=256 * MIB, metadata=about(_bytes(1 * MIB), "about 300,000 decisions, in an emptyDir of half a GiB")
    )
    store_raw_s: float = field(default=7 * DAY_S, metadata=about(_age, "feedback may come for seven days"))
    store_aggregates_s: float = field(default=365 * DAY_S, metadata=about(_age, "a year, to compare seasons"))

    @property
    def listeners(self) -> tuple[Address, ...]:
        """Every address that this process serves on."""
        return (*self.listen, *self.health_listen, *self.admin_listen)

    def notes(self) -> list[str]:
        """What is set and does nothing yet, a sentence each."""
        given = [name for name in _NO_EFFECT if getattr(self, name) is not None]
        return [f"settings: {name} is set, and has no effect in this version" for name in given]

    @classmethod
    def load(cls, environ: Mapping[str, str], file: Path | None = None, overrides: Sequence[str] = ()) -> "Settings":
        """Reads all sources. Raises ConfigError with every problem, each saying where it stands and how to fix it."""
        sources = Sources(cls)
        sources.take(sources.from_file(file))
        sources.take(sources.from_environ(environ))
        sources.take(sources.from_overrides(overrides))
        if sources.values.get("mode", "sidecar") != "sidecar":
            sources.values.setdefault("listen", tuple((host, 9090) for host in ANY))
        settings = cast("Callable[..., Settings]", cls)(**sources.values)
        for name, what, fix in _conflicts(settings):
            sources.refuse(name, what, fix)
        if sources.problems:
            raise ConfigError("\n".join(sources.problems))
        return settings


def _conflicts(settings: Settings) -> Iterable[tuple[str, str, str]]:
    """What cannot be true at once: (field, what, how to fix)."""
    open_to_all = [host for host, _ in settings.listen if not is_loopback(host)]
    if settings.mode == "sidecar" and open_to_all and not settings.allow_non_loopback:
        what = f"{open_to_all[0]} can be reached from outside the pod"
        yield "listen", what, "listen on localhost, or set SIDECAR_ALLOW_NON_LOOPBACK=1 if the port is closed otherwise"
    for name in ("openai_upstream", "anthropic_upstream", "gemini_upstream"):
        if is_ourselves(parse_origin(getattr(settings, name)), settings.listeners):
            yield name, "is this sidecar itself: its requests would come back for ever", "name the provider"
    if not settings.listen:
        yield "listen", "names no address", "write one, like localhost:9090"
    yield from _clashes(settings)
    if settings.encryption_key_file is not None and settings.salt_file is None:
        what = "hides little while sticky keys can be guessed: they are hashes, keyed by the service's name"
        yield "encryption_key_file", what, "give salt_file too"
    if (settings.tls_cert is None) != (settings.tls_key is None):
        yield "tls_cert" if settings.tls_cert else "tls_key", "stands alone", "give both tls_cert and tls_key"
    if settings.route_body_max_bytes > settings.max_body_bytes:
        yield "route_body_max_bytes", "is above max_body_bytes", "make it smaller, or max_body_bytes larger"
    if settings.route_body_max_bytes > settings.max_buffered_bytes:
        yield "route_body_max_bytes", "is above max_buffered_bytes", "make it smaller, or max_buffered_bytes larger"
    yield from _times(settings)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}", settings.service):
        yield "service", f"{settings.service!r} is not a usable name", "use letters, digits and . _ / - (at most 128)"


def _times(settings: Settings) -> Iterable[tuple[str, str, str]]:
    """Durations of which one bounds the other."""
    if settings.breaker_max_ejection_s < settings.breaker_ejection_s:
        yield "breaker_max_ejection_s", "is below breaker_ejection_s", "make it larger, or breaker_ejection_s smaller"
    if settings.drain_idle_s > settings.drain_s:
        yield "drain_idle_s", "is above drain_s", "make it smaller, or drain_s larger"


def _clashes(settings: Settings) -> Iterable[tuple[str, str, str]]:
    """Addresses that two listeners want; port 0 is whichever is free."""
    taken: dict[Address, str] = {}
    for name in ("listen", "health_listen", "admin_listen"):
        for host, port in getattr(settings, name):
            other = next((taken[at] for at in ((host, port), ("0.0.0.0", port), ("::", port)) if at in taken), name)  # noqa: S104
            if other != name and port:
                yield name, f"port {port} is also taken by {other}", "give each listener its own port"
            taken[(host, port)] = name
