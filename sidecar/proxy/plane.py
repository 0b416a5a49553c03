"""What all connections of the data plane share: settings, the engine, the origins, the books, and the sweep of deadlines."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sidecar.clock import monotonic, steady, wall
from sidecar.config.secrets import ClientTokens
from sidecar.config.settings import Settings
from sidecar.core.engine import Engine
from sidecar.core.types import Decision, Dialect, Endpoint, Event, Facts, Settled
from sidecar.proxy.certificate import Certificate
from sidecar.proxy.checks import Checks
from sidecar.proxy.descriptors import RESERVE, ClientRoom, calls_held
from sidecar.proxy.gate import Gate, Way
from sidecar.proxy.keys import Chance, Keys
from sidecar.proxy.origin import Origin
from sidecar.proxy.signals import Signals
from sidecar.proxy.tunnel import Tunnel
from sidecar.proxy.upstream import WRITE_HIGH_BYTES
from sidecar.proxy.watchdog import Watchdog
from sidecar.tasks import Tasks
from sidecar.wire.answer import Collector
from sidecar.wire.http1 import RequestHead
from sidecar.wire.providers import FORMATS
from sidecar.wire.request_view import RequestView

MAX_KEPT: Final = 20_000  # some 3 MB
SWEEP_S: Final = 0.1  # deadlines are checked this often: a timer per request would cost more than the request's parsing
SETTLE_S: Final = 0.005  # an exchange that is over is settled this much later at most, or
SETTLE_TOGETHER: Final = 32  # when so many wait: a millisecond of work, two after streams

Answer = Callable[[int, bytes], None]  # status, JSON body
# Reads the body of a tenant ("": anybody's), and answers once, now or later.
FeedbackHandler = Callable[[bytes, Answer, str], None]


class Open(Protocol):
    """What the plane asks of an exchange under way."""

    deadline: float  # monotonic

    def on_deadline(self) -> None: ...
    def on_room(self) -> bool: ...
    def on_want(self, now: float) -> None: ...
    def on_shutdown(self) -> None: ...


class Connected(Protocol):
    """What the plane asks of a client's connection."""

    transport: asyncio.Transport
    deadline: float  # monotonic
    paused: bool

    def rests(self, now: float) -> bool: ...
    def set_high(self, size: int) -> None: ...
    def on_sweep(self, now: float) -> None: ...


class Witness(Protocol):
    """Hears of the end of an exchange that a judge or a shadow looks at. `collector`, if any, keeps what it answered."""

    collector: Collector | None

    def over(self, settled: Settled) -> None: ...


class Watched(Protocol):
    """What there is to know of an exchange when its answer begins."""

    head_in: RequestHead
    way: Way
    body: bytes
    facts: Facts
    decision: Decision | None
    origin: Origin


class Aside(Protocol):
    """Makes calls of the sidecar's own beside those of clients (`proxy.aside`). All verbs are short and raise nothing
    expected."""

    def witness(self, watched: Watched, view: RequestView | None) -> Witness | None: ...
    def sweep(self, now: float) -> None: ...
    def stop(self) -> None: ...


class CascadeMaker(Protocol):
    """Puts a cascade in the place of a decision, where the policy wants one (`proxy.cascade`)."""

    def begin(self, plane: "Plane", facts: Facts, decision: Decision, now: float) -> "tuple[Any, Decision] | None":
        """A cascade and the decision for its first arm; None: `decision` stands."""


@dataclass(slots=True)
class Books:
    """Counters that must balance: accepted = completed + failed + aborted + shed + open."""

    connections: int = 0
    accepted: int = 0
    completed: int = 0
    failed: int = 0
    aborted: int = 0
    shed: int = 0
    turned_away: int = 0  # answered from the head alone: bad host, unknown path, malformed
    fail_open: int = 0
    unpriced: int = 0
    stripped_usage: int = 0  # streams from which the usage that we had asked for was taken out
    escalated: int = 0  # answers that a cascade asked of the next arm
    unvaried: int = 0  # calls of an experiment into which its variant could not be put
    upstream_retries: int = 0  # the one permitted repeat without stream_options, and fallbacks
    bugs: int = 0  # exceptions of ours that the data plane survived; `on_bug` counts them


class Plane:
    """The data plane's shared state. One per process; everything in it is touched by the loop's thread only."""

    draining = False  # the process ends: open exchanges go on, connections close behind them
    pressed = False  # memory is short: what the app does not miss is given up
    high_bytes = WRITE_HIGH_BYTES  # of an answer that may wait for its client; fewer while memory is short
    _settling = False  # the timer that settles exchanges that are over is set

    def __init__(self, settings: Settings, engine: Engine, tasks: Tasks, emit: Callable[[Settled], None]) -> None:
        """`emit` takes each finished exchange; it must be quick and must not raise.

        Raises:
            ConfigError: the listener's certificate cannot be used.
        """
        self.wall = wall
        self.settings = settings
        self.engine = engine
        self.watchdog = Watchdog()  # calls the engine's deciding verbs, and ends those that stall
        self.tasks = tasks
        self.emit = emit
        self.books = Books()
        self.gate = Gate(frozenset(settings.host_names), frozenset(settings.allowed_origins))
        self.origins: Mapping[str, Origin] = {}
        self.foreign: Mapping[Endpoint, Mapping[str, Origin]] = {}  # upstreams for which a call is translated
        self.defaults: Mapping[Dialect, Origin] = {}
        self.beyond: Mapping[str, Origin] = {}  # path prefixes that only these upstreams have
        self.on_feedback: FeedbackHandler | None = None
        self.tokens: ClientTokens | None = None  # who may use this port, where it is open to others
        self.certificate = Certificate(settings.tls_cert, settings.tls_key)  # that this port shows, where it has one
        self.on_events: Callable[[Sequence[Event]], None] = lambda _events: None
        self.on_bug: Callable[[str, BaseException], None] = lambda _where, _error: None
        self.on_errand: Callable[[Event], None] = lambda _event: None  # a call of our own is over
        self.on_label: Callable[[str, float], None] = lambda _id, _score: None  # a judge graded a decision's answer
        self.on_sweep: Callable[[], None] = lambda: None
        self.aside: Aside | None = None  # only where a policy has a judge or a shadow
        self.cascades: CascadeMaker | None = None  # only where a policy has a cascade
        self.checks = Checks()
        self.signals = Signals()
        self.connections: set[Connected] = set()
        self.exchanges: set[Open] = set()
        self.tunnels: set[Tunnel] = set()  # what exchanges became, until both sides have what was said
        self.last_active = monotonic()
        self.capacity = min(settings.max_streams, calls_held() or settings.max_streams)  # exchanges at once
        self.capacity_now = self.capacity  # less while memory is short
        self.client_room = ClientRoom()
        self.buffered = 0  # bytes of request bodies held in all connections
        self.room: deque[Open] = deque()  # exchanges that wait until there is room for their bodies in `buffered`
        self.chance, self.keys = Chance(), Keys(settings.service)
        self.kept: dict[tuple[str, str], tuple[str, int]] = {}  # (tenant, response id): arm and sticky key of its state
        self.settle_together = SETTLE_TOGETHER  # another number only in tests
        self._ended: deque[Callable[[], None]] = deque()  # what settles each exchange that is over
        self._lines: dict[tuple[str, str, str], bytes] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def shared(self) -> bool:
        """Whether many services share this port, which are told apart."""
        return self.settings.mode != "sidecar"

    def start(self) -> None:
        """Begins to enforce deadlines, those of the engine with them."""
        self.watchdog.start()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def stop(self) -> None:
        """Settles what is left, ends the sweep and closes idle upstream connections."""
        self.settle()
        self.watchdog.stop()
        if self.aside is not None:
            self.aside.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for origin in {*self.origins.values(), *self.defaults.values()}:
            origin.pool.close()

    def notes(self) -> list[str]:
        """What `/ready` says of it."""
        asked = self.settings.max_streams
        narrow = f"max_streams is {asked}, and the open files that the process may have hold {self.capacity} calls: "
        narrow += f"allow it {2 * asked + RESERVE} (ulimit -n)"
        return [*([narrow] if self.capacity < asked else []), *self.watchdog.notes()]

    @property
    def open(self) -> int:
        """Exchanges that were accepted and are in no other column of the books yet."""
        return len(self.exchanges) + len(self._ended)

    def ended(self, settle: Callable[[], None]) -> None:
        """An exchange is over. It is settled soon, together with others: between two system calls the same code takes
        nearly twice as long as in a row."""
        self._ended.append(settle)
        if len(self._ended) >= self.settle_together:
            self.settle()
        elif not self._settling:
            self._settling = True
            asyncio.get_running_loop().call_later(SETTLE_S, self._settle_late)

    def settle(self) -> None:
        """Settles what is over. Who looks at books, engine or records on a person's behalf calls this first."""
        ended = self._ended
        if not ended:  # then nothing is new to the engine but scores from outside, which wait for its tick
            return
        while ended:
            try:
                ended.popleft()()
            except Exception as error:  # noqa: BLE001 - one that fails must not keep the others from their books
                self.on_bug("settle", error)
        try:
            self.engine.refresh(steady())
        except Exception as error:  # noqa: BLE001 - what was drawn last still holds
            self.on_bug("refresh", error)

    def server_of(self, upstream: str) -> tuple[str, int, str] | None:
        """Host and port of an upstream, and whose it is: its provider, else its dialect."""
        found = self.origins.get(upstream) or next(
            (one for one in self.defaults.values() if one.name == upstream), None
        )
        return None if found is None else (found.spec.host, found.spec.port, found.spec.provider or found.spec.dialect)

    def keep(self, tenant: str, completion_id: str, arm: str, key: int) -> None:
        """Remembers which arm holds the state of a tenant's response; the oldest of 20,000 is forgotten."""
        if len(self.kept) >= MAX_KEPT:
            self.kept.pop(next(iter(self.kept)))
        self.kept[tenant, completion_id] = (arm, key)

    def origin(self, name: str | None, way: Way) -> Origin:
        """The named upstream, or the default one of the dialect when there is none of that name; for a path that only
        some upstreams have, one of these whatever the name."""
        found = self.origins.get(name) if name is not None else None
        if way.beyond and (
            found is None or (way.endpoint not in FORMATS and way.beyond not in found.provider.prefixes)
        ):
            return self.beyond[way.beyond]
        return found if found is not None else self.defaults[way.dialect]

    def let_in(self) -> None:
        """Bytes of held bodies are free again: exchanges that wait in `room` go on, in their order, while they fit."""
        while self.room and self.room[0].on_room():
            self.room.popleft()

    def fallback(self, facts: Facts, decision: Decision, trigger: str) -> Decision | None:
        """The policy's next arm after `trigger`; the one that failed is blamed. The engine may fail: then there is no other
        try, or nothing is learnt of this one."""
        try:
            found = self.watchdog.ask(self.engine.fallback, facts, decision, trigger)
        except Exception as error:  # noqa: BLE001 - see above
            self.on_bug("fallback", error)
            return None
        if found is not None:
            try:
                self.engine.blame(facts, decision, trigger, steady())
            except Exception as error:  # noqa: BLE001 - see above
                self.on_bug("blame", error)
        return found

    def charge_unknown(self, decision: Decision) -> None:
        """Books what was reserved for an answer that broke off: what it cost is not known."""
        try:
            self.engine.charge(decision.route, decision.reserved_nusd, steady())
        except Exception as error:  # noqa: BLE001 - the engine may fail, traffic may not
            self.on_bug("charge", error)

    def admits(self, descriptor: int) -> bool:
        """Whether a client's new connection may stay. Where descriptors begin to run out, idle ones to upstreams go first:
        new clients come faster than the sweep."""
        room, was_short = self.client_room, self.client_room.is_short
        admitted = room.admits(descriptor, len(self.connections))
        if room.is_short and not was_short:
            self.close_idle()
        return admitted

    def close_idle(self) -> None:
        """Closes the connections to upstreams that carry nothing now: others need their descriptors."""
        for origin in {*self.origins.values(), *self.defaults.values()}:
            origin.pool.close_idle()

    def lines(self, upstream: str, model: str, reason: str) -> bytes:
        """The header lines that tell the client who served it, without the decision's id."""
        key = (upstream, model, reason)
        found = self._lines.get(key)
        if found is None:
            if len(self._lines) >= 1024:
                self._lines.clear()
            text = f"x-sidecar-model: {_safe(upstream)}/{_safe(model)}\r\nx-sidecar-reason: {reason}\r\n"
            found = self._lines[key] = text.encode("ascii")
        return found

    def _settle_late(self) -> None:
        self._settling = False
        self.settle()

    def _make_room(self, now: float) -> None:
        """Descriptors run out: connections that carry nothing give theirs up, to upstreams all, of clients as many as have
        to."""
        closing = self.client_room.give_way(self.connections, now)
        if not self.client_room.is_short:
            return
        self.close_idle()
        told = self.client_room.event(len(self.connections), len(closing), now)
        for one in closing:
            one.transport.abort()
        if told is not None:
            self.on_events([told])

    def _sweep(self) -> None:
        now = monotonic()
        try:
            if self.client_room.is_short:
                self._make_room(now)
            for exchange in [late for late in self.exchanges if late.deadline < now]:
                exchange.on_deadline()
            for exchange in list(self.exchanges) if self.room else ():
                if self.room:  # no more of them than there has to be
                    exchange.on_want(now)
            for connection in [late for late in self.connections if late.deadline < now or late.paused]:
                connection.on_sweep(now)
            for origin in {*self.origins.values(), *self.defaults.values()}:
                origin.pool.sweep(now)
            if self.aside is not None:
                self.aside.sweep(now)
            self.on_sweep()
        except Exception as error:  # noqa: BLE001 - the sweep must go on whatever one connection does
            self.on_bug("sweep", error)
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)


def _safe(text: str) -> str:
    """`text` as a header value: what is not visible ASCII is percent-encoded, so no line of ours can be split by it."""
    short = text[:200]
    if short.isascii() and short.isprintable():
        return short
    return "".join(c if c.isascii() and c.isprintable() else "".join(f"%{b:02X}" for b in c.encode()) for c in short)
