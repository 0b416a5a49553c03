"""All upstreams of the process: made from the policy and the settings, kept across reloads while they stay equal."""

from collections.abc import Mapping
from functools import partial

from sidecar.clock import steady
from sidecar.config.secrets import KeyRing
from sidecar.config.settings import Settings
from sidecar.core.guard import Guard
from sidecar.core.policy import Policy, Upstream
from sidecar.core.pricebook import PriceBook
from sidecar.core.types import Dialect
from sidecar.proxy.dial import Dialer, Egress, Trust
from sidecar.proxy.origin import Origin
from sidecar.proxy.plane import Plane
from sidecar.proxy.translated import foreign
from sidecar.proxy.upstream import Pool
from sidecar.tasks import Tasks


class Origins:
    """Builds and keeps the `Origin`s that a Plane uses."""

    def __init__(self, settings: Settings, book: PriceBook, tasks: Tasks, keys: KeyRing) -> None:
        """`keys` are the credentials that the sidecar holds for upstreams.

        Raises:
            ConfigError: HTTPS_PROXY is set and not understood.
        """
        self._settings = settings
        self._book = book
        self._tasks = tasks
        self._keys = keys
        self._egress = Egress.parse(settings.https_proxy, settings.no_proxy) if settings.https_proxy else None
        self._trusts: dict[str | None, Trust] = {}
        self._kept: dict[Upstream, Origin] = {}

    def reprice(self, book: PriceBook) -> None:
        """Calls that end from now on cost what this list says."""
        self._book = book
        for origin in self._kept.values():
            origin.book = book

    def trust(self, policy: Policy) -> None:
        """Reads the CA files of a policy. Raises ConfigError where one cannot be read."""
        for spec in policy.upstreams.values():
            self._tls(spec)

    def apply(self, plane: Plane, policy: Policy, defaults: Mapping[Dialect, Upstream]) -> None:
        """Points `plane` at the upstreams of `policy`; exchanges under way keep the ones that they have.

        Raises:
            ConfigError: a CA file cannot be read. Nothing has been changed then.
        """
        wanted = {*policy.upstreams.values(), *defaults.values()}
        for spec in wanted:
            self._tls(spec)  # what may fail comes before what is kept
        guards = plane.engine.guards
        made = {spec: self._kept.get(spec) or self._make(spec, guards.of(spec)) for spec in wanted}
        named = {name: made[spec] for name, spec in policy.upstreams.items()}
        away = foreign(named)
        for spec, origin in self._kept.items():
            if spec not in made:
                origin.pool.close()
        self._kept = made
        guards.keep(policy.upstreams.values(), defaults.values())
        plane.origins, plane.foreign = named, away
        found = {prefix: one for one in reversed(plane.origins.values()) for prefix in one.provider.prefixes}
        plane.gate.beyond = tuple(found)
        plane.beyond = {**plane.beyond, **found}  # a call under way may still need one that is gone
        plane.defaults = {dialect: made[spec] for dialect, spec in defaults.items()}

    def _make(self, spec: Upstream, guard: Guard) -> Origin:
        settings = self._settings
        pool = Pool(
            Dialer(spec.host, spec.port, self._tls(spec), self._egress, settings.listeners),
            self._tasks,
            limit=settings.max_upstream_connections,
            idle_limit_s=settings.upstream_idle_s,
            connect_timeout_s=settings.connect_timeout_s,
        )
        pool.cap = guard.limit
        return Origin(spec, pool, guard, self._book, partial(self._key, spec))

    def _key(self, spec: Upstream) -> bytes | None:
        secret = self._keys.get(spec, steady())
        return None if secret is None else secret.reveal()

    def _tls(self, spec: Upstream) -> Trust | None:
        if spec.scheme != "https":
            return None
        default = self._settings.ca_file
        ca_file = spec.ca_file or (str(default) if default else None)
        found = self._trusts.get(ca_file)
        if found is None:
            found = self._trusts[ca_file] = Trust(ca_file)
        return found
