"""Registers what metrics read at each scrape: the books of the data plane, the store, the policy, routes and rollouts."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Generic, Protocol, TypeVar

from sidecar.config.watch import PolicySource
from sidecar.control.archive import Archive
from sidecar.control.feedback import FeedbackDesk
from sidecar.control.loop import ControlLoop
from sidecar.core.breaker import Breaker
from sidecar.core.engine import Engine
from sidecar.core.guard import Guards
from sidecar.core.policy import Policy
from sidecar.core.retry_budget import RetryBudget
from sidecar.core.status import RouteStatus
from sidecar.proxy.memory import Memory
from sidecar.proxy.plane import Plane
from sidecar.proxy.upstream import Pool
from sidecar.telemetry.log import RequestLog
from sidecar.telemetry.metrics import Metrics, Reading
from sidecar.telemetry.spans import Spans
from sidecar.traffic import Traffic

_Labels = TypeVar("_Labels", bound=Hashable)
_Owner = TypeVar("_Owner", bound=Hashable)
_Row = tuple[tuple[str, ...], float]


class Parts(Protocol):
    """The parts of a process that metrics read."""

    traffic: Traffic
    engine: Engine
    archive: Archive
    policies: PolicySource
    loop: ControlLoop
    desk: FeedbackDesk
    request_log: RequestLog
    spans: Spans | None


def register(metrics: Metrics, parts: Parts) -> None:
    """Registers every gauge and counter that is read and not counted."""
    traffic, loop = parts.traffic, parts.loop
    books = traffic.plane.books
    readers: Mapping[str, Callable[[], float]] = {
        "accepted": lambda: books.accepted,
        "policy_error": lambda: float(parts.policies.error is not None),
        "escalations": lambda: books.escalated,
        "unvaried": lambda: books.unvaried,
        "log_lines_dropped": lambda: parts.request_log.dropped,
        "records_shed": lambda: loop.shed,
        "scores_lost": lambda: parts.desk.lost,
    }
    for name, read in readers.items():
        metrics.gauge(name, "", read)
    metrics.gauge("shed", "", lambda: {("overload",): books.shed, ("head",): books.turned_away})
    metrics.gauge("fail_open", "", lambda: {("engine",): books.fail_open})
    metrics.gauge("policy_loaded", "", lambda: {(parts.policies.current.policy.version,): 1.0})
    metrics.gauge("stripped_usage", "", lambda: books.stripped_usage)
    _register_store(metrics, parts.archive)
    _register_spans(metrics, parts.spans)
    _register_routes(metrics, parts.engine)
    metrics.gauge("budget_limit_usd", "", lambda: _limits(parts.policies.current.policy))
    of_process(lambda name, read: metrics.gauge(name, "", read), loop, traffic.memory)
    of_traffic(lambda name, read: metrics.gauge(name, "", read), traffic)


def of_process(gauge: Callable[[str, Callable[[], float]], None], loop: ControlLoop, memory: Memory) -> None:
    """Gives `gauge` what each process has of its own: of several, memory is added up, and the worst level and lag count."""
    pressure = memory.pressure
    gauge("loop_lag_seconds", lambda: loop.lag_s)
    gauge("memory_used_bytes", lambda: pressure.used_bytes)
    gauge("memory_limit_bytes", lambda: pressure.limit_bytes or 0)
    gauge("memory_level", lambda: pressure.level)


def of_traffic(gauge: Callable[[str, Callable[[], Reading]], None], traffic: Traffic) -> None:
    """Gives `gauge` what only the process knows that carries the traffic; of several processes it can be added up."""
    plane, guards, errands = traffic.plane, traffic.plane.engine.guards, traffic.aside.errands
    gauge("buffered_bytes", lambda: plane.buffered)
    gauge("open_streams", lambda: plane.open)
    gauge("errands_dropped", lambda: errands.dropped)
    gauge("pool_connections", lambda: _pools(plane))
    gauge("pool_dials", _Rising(lambda: _pools_of(plane), _dials))
    gauge("breaker_state", lambda: _breakers(guards))
    gauge(
        "breaker_opened",
        _Rising(lambda: ((one.name, breaker) for one in guards.all for breaker in one.breakers), _opened),
    )
    gauge("upstream_active", lambda: _added(((one.name,), one.budget.active) for one in guards.all))
    gauge("upstream_retries", _Rising(lambda: ((one.name, one.budget) for one in guards.all), _retries))
    gauge("concurrency_limit", lambda: _limits_at_once(guards))


class _Rising(Generic[_Owner]):
    """Counters whose owners come and go with policies, as counters that never fall: Prometheus takes one that falls for a
    new process, and counts all that is left of it once more."""

    def __init__(
        self, owners: Callable[[], Iterable[tuple[str, _Owner]]], read: Callable[[str, _Owner], Iterable[_Row]]
    ) -> None:
        """`owners` are those of now, by the name of their upstream; `read` says what one of them has counted."""
        self._owners = owners
        self._read = read
        self._last: dict[tuple[str, _Owner], None] = {}  # kept until the next scrape, which counts what they did last
        self._gone: dict[tuple[str, ...], float] = {}  # what owners that are gone had counted

    def __call__(self) -> Reading:
        now = dict.fromkeys(self._owners())
        gone = [row for owner in self._last if owner not in now for row in self._read(*owner)]
        self._last, self._gone = now, _added([*self._gone.items(), *gone])
        return _added([*(row for owner in now for row in self._read(*owner)), *self._gone.items()])


def _added(rows: Iterable[tuple[_Labels, float]]) -> dict[_Labels, float]:
    """The sum of each label: an upstream of the policy may have the name of one that is there without it (`openai`)."""
    found: dict[_Labels, float] = {}
    for labels, value in rows:
        found[labels] = found.get(labels, 0) + value
    return found


def _pools(plane: Plane) -> dict[tuple[str, ...], float]:
    rows: list[tuple[tuple[str, ...], float]] = []
    for origin in {*plane.origins.values(), *plane.defaults.values()}:
        opened, idle, _ = origin.pool.sizes
        rows += [((origin.name, "idle"), idle), ((origin.name, "busy"), opened - idle)]
    return _added(rows)


def _pools_of(plane: Plane) -> Iterator[tuple[str, Pool]]:
    for origin in (*plane.origins.values(), *plane.defaults.values()):
        yield origin.name, origin.pool


def _dials(name: str, pool: Pool) -> Sequence[_Row]:
    return ((name, "ok"), pool.dials), ((name, "failed"), pool.dials_failed)


def load(plane: Plane) -> dict[str, object]:
    """What the data plane holds and has counted now, for `/api/v1/status`: all of it is 0 at rest but `books`, `connections`
    (of clients) and what is idle in a pool."""
    pools: dict[str, dict[str, int]] = {}
    for origin in {*plane.origins.values(), *plane.defaults.values()}:
        found = pools.setdefault(origin.name, {"open": 0, "idle": 0, "waiting": 0, "dialling": 0})
        for name, size in zip(found, (*origin.pool.sizes, origin.pool.dialling), strict=True):
            found[name] += size
    return {
        "connections": len(plane.connections),
        "exchanges": plane.open,
        "tasks": len(plane.tasks),
        "buffered_bytes": plane.buffered,
        "waiting_bodies": len(plane.room),
        "pools": pools,
        "calls": _added((one.name, one.budget.active) for one in plane.engine.guards.all),
        "retries": _added((one.name, one.budget.retries) for one in plane.engine.guards.all),
        "books": asdict(plane.books),
    }


def allow(metrics: Metrics, policy: Policy) -> None:
    """The policy's own names are never cut off, however many names clients invent."""
    arms = [arm for route in policy.routes for arm in route.all_arms]
    metrics.allow("route", [route.name for route in policy.routes])
    metrics.allow("arm", [arm.id for arm in arms])
    metrics.allow("model", [arm.model for arm in arms])


def _register_store(metrics: Metrics, archive: Archive) -> None:
    writer = archive.writer
    if writer is not None:
        metrics.gauge("store_rows_written", "", lambda: writer.rows_written)
        metrics.gauge("store_rows_dropped", "", lambda: writer.rows_dropped)
        metrics.gauge("store_errors", "", lambda: writer.errors)
        metrics.gauge("store_lag_rows", "", lambda: writer.queued)
        metrics.gauge("audit_links", "", lambda: {} if writer.chain.head is None else writer.chain.head.seq)


def _register_spans(metrics: Metrics, spans: Spans | None) -> None:
    if spans is not None:
        metrics.gauge("spans_exported", "", lambda: spans.exported)
        metrics.gauge("spans_dropped", "", lambda: spans.dropped)
        metrics.gauge("points_untold", "", lambda: spans.untold)


def _register_routes(metrics: Metrics, engine: Engine) -> None:
    routes: list[RouteStatus] = []  # as of this scrape: the first of these gauges reads it for all of them

    def steps() -> Reading:
        routes.clear()
        routes.extend(engine.status())
        return _steps(routes)

    metrics.gauge("rollout_step_percent", "", steps)
    metrics.gauge("rollout_phase", "", lambda: _phases(routes))
    metrics.gauge("arm_share", "", lambda: {(route.route, arm.id): arm.share for route in routes for arm in route.arms})
    metrics.gauge("threshold_breached", "", lambda: _breached(routes))
    metrics.gauge("budget_spent_usd", "", lambda: _spent(routes))


def _breakers(guards: Guards) -> dict[tuple[str, ...], float]:
    return {(guard.label, one.model, one.state): 1.0 for guard in guards.all for one in guard.breakers}


def _opened(name: str, breaker: Breaker) -> Sequence[_Row]:
    return (((name, breaker.model), breaker.opened),)


def _retries(name: str, budget: RetryBudget) -> Sequence[_Row]:
    return ((name, "made"), budget.made), ((name, "denied"), budget.denied)


def _limits_at_once(guards: Guards) -> dict[tuple[str, ...], float]:
    """The lowest of each name."""
    found: dict[tuple[str, ...], float] = {}
    for one in guards.all:
        if one.limit:
            found[(one.name,)] = min(one.limit.value, found.get((one.name,), one.limit.value))
    return found


def _steps(routes: Sequence[RouteStatus]) -> dict[tuple[str, ...], float]:
    return {(one.route, one.arm): float(one.step) for route in routes for one in route.rollouts}


def _phases(routes: Sequence[RouteStatus]) -> dict[tuple[str, ...], float]:
    return {(one.route, one.arm, one.phase): 1.0 for route in routes for one in route.rollouts}


def _breached(routes: Sequence[RouteStatus]) -> dict[tuple[str, ...], float]:
    return {(route.route, one.name): float(one.level == "breached") for route in routes for one in route.thresholds}


def _spent(routes: Sequence[RouteStatus]) -> dict[tuple[str, ...], float]:
    spent = [(route.route, "day", route.spent_day_nusd) for route in routes]
    spent += [(route.route, "month", route.spent_month_nusd) for route in routes]
    return {(name, period): nusd / 1e9 for name, period, nusd in spent if nusd is not None}


def _limits(policy: Policy) -> dict[tuple[str, ...], float]:
    """The ceilings that routes have, as their part of this pod."""
    budgets = [(route.name, route.budget) for route in policy.routes if route.budget is not None]
    ceilings = [(name, "day", budget.daily_nusd) for name, budget in budgets]
    ceilings += [(name, "month", budget.monthly_nusd) for name, budget in budgets]
    return {(name, period): nusd / 1e9 for name, period, nusd in ceilings if nusd is not None}
