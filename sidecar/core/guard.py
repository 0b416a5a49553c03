"""What protects one upstream, and us from it: the breakers of its models, the budget of retries, the limit of concurrency.

    begin -> (the call runs) -> end        each call once; a fallback is an end and a begin
    tick -> events                         what time alone changes

Breakers are kept for the models that the policy's arms name; all other models of the upstream share one, called `*`, because
clients may name any model and memory is bounded. `unwell` holds the breakers that are not closed: while it is empty, which
is nearly always, the choice of an arm pays for one look at it. A guard belongs to an upstream as it is written: another
host under the same name begins with a clean slate. Nothing of this outlives the process: what was open is tried again.

What it does not know: routes and arms (`core.ejection`), connections (`proxy.upstream`).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sidecar.core.breaker import FAILED, GOOD, IGNORED, Breaker, BreakerSpec, Health
from sidecar.core.concurrency import OVERLOADED, Limit, Mode
from sidecar.core.policy import Upstream
from sidecar.core.retry_budget import RetryBudget, RetrySpec
from sidecar.core.types import Event, Outcome, Severity

REST: Final = "*"  # the models that no arm names
MAX_MODELS: Final = 256  # 16..10,000 models of an upstream with a breaker of their own; further ones share
MAX_UNTOLD: Final = 256  # events that wait for the next tick
_BREAKER, _RETRY = BreakerSpec(), RetrySpec()
_OURS: Final = frozenset(
    {"refused", "shed", "shutdown", "timeout_body", "bad_request_body", "too_large", "timeout_errand"}
)  # ends that say nothing of the upstream
_UNREACHABLE: Final = frozenset({"connect", "timeout_connect"})
_OVERLOADED_TEXT: Final = frozenset(str(status) for status in OVERLOADED)
_ABOUT_LOAD: Final = frozenset({"408", "429"})  # 4xx that an upstream answers for its own sake


def health_of(outcome: Outcome) -> Health:
    """What the end of a call shows of its upstream; IGNORED for a caller's own mistake and for a client that left."""
    if outcome.kind == "completed":
        return GOOD
    if outcome.kind == "aborted" or outcome.caller_fault or outcome.error in _OURS:
        return IGNORED
    return FAILED


def health_of_trigger(trigger: str) -> Health:
    """As `health_of`, of what made a fallback: "connect", "timeout" or a status code."""
    return IGNORED if trigger[:1] == "4" and trigger not in _ABOUT_LOAD else FAILED


@dataclass(frozen=True, slots=True)
class GuardSpec:
    """The settings of all guards."""

    breaker: BreakerSpec = _BREAKER
    retry: RetrySpec = _RETRY
    limit: Mode = "off"


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """One breaker, for people. `left_s` is how long it stays open."""

    upstream: str
    model: str
    state: str
    opened: int
    left_s: float
    calls: int  # of the window
    fails: int
    out_s: float = 0.0  # from its opening to the last probe that failed, while it is open

    def text(self) -> str:
        """One English sentence."""
        then = f"; it is tried again in {self.left_s:.0f} s" if self.state == "open" else ""
        return f"The breaker of {self.model} at {self.upstream} is {self.state.replace('_', ' ')}{then}."


class Guard:
    """One upstream's. `budget.active` counts the calls under way. `label` is the name that no other one in use has."""

    __slots__ = ("_breakers", "_owner", "budget", "label", "limit", "name", "rest")

    def __init__(self, owner: "Guards", name: str) -> None:
        spec = owner.spec
        self._owner = owner
        self.name = self.label = name
        self.budget = RetryBudget(spec.retry)
        self.limit = None if spec.limit == "off" else Limit(spec.limit)
        self.rest = Breaker(spec.breaker, REST)
        self._breakers: dict[str | None, Breaker] = {}

    @property
    def breakers(self) -> tuple[Breaker, ...]:
        """All breakers of this upstream."""
        return (*self._breakers.values(), self.rest)

    def own(self, model: str) -> Breaker:
        """The breaker of a model that an arm names; made when it is new."""
        found = self._breakers.get(model)
        if found is None:
            if len(self._breakers) >= MAX_MODELS:
                return self.rest
            found = self._breakers[model] = Breaker(self._owner.spec.breaker, model)
        return found

    def only(self, models: Collection[str]) -> None:
        """Forgets the breakers of models that no arm names any more."""
        self._breakers = {model: one for model, one in self._breakers.items() if model in models}

    def of(self, model: str | None) -> Breaker:
        """The breaker that a call for `model` belongs to."""
        return self._breakers.get(model, self.rest)

    def begin(self, breaker: Breaker, *, retry: bool) -> int:
        """A call is sent; what it gives, never 0, is for `end`."""
        if retry:
            self.budget.begin_retry()
        self.budget.active += 1
        return breaker.generation if breaker.state == "closed" else breaker.begin()

    def end(self, breaker: Breaker, ticket: int, health: Health, now: float, *, retry: bool) -> None:
        """The call has ended. Call it once for each `begin`, with the same breaker and `retry`."""
        if retry:
            self.budget.retries -= 1
        self.budget.active -= 1
        if breaker.end(ticket, health, now):
            self._owner.changed(self, breaker, now)

    def failed_over(self, trigger: str, busy: int, now: float) -> None:
        """The same of a call that a fallback took over because of `trigger`; only a status is of concern here."""
        if self.limit is not None and trigger in _OVERLOADED_TEXT:
            self.limit.refused(max(1, busy), now)

    def learn(self, outcome: Outcome, busy: int, now: float) -> None:
        """What the limit of concurrency learns of a call that was sent, while `busy` connections carried calls."""
        limit = self.limit
        if limit is None or outcome.kind == "aborted" or outcome.error in _OURS:
            return  # a 503 of our own says nothing: a call that waited too long for its turn must not lower the limit more
        clocks, busy = outcome.clocks, max(1, busy)
        if outcome.status in OVERLOADED or (clocks.ttfb_s is None and outcome.error in _UNREACHABLE):
            limit.refused(busy, now)
        elif outcome.kind == "completed":
            known = outcome.stream and clocks.ttfb_s is not None and clocks.sent_s is not None
            first_s = (clocks.ttfb_s or 0.0) - (clocks.sent_s or 0.0) if known else 0.0
            limit.served(first_s if first_s > 0.0 else None, busy)


class Guards:
    """All guards of the process."""

    def __init__(self, spec: GuardSpec | None = None) -> None:
        self.spec = GuardSpec() if spec is None else spec
        self.unwell: dict[Breaker, Guard] = {}  # the breakers that are not closed
        self.told: dict[tuple[str, str], list[BreakerStatus]] = {}  # by upstream and model: those of other processes
        self._guards: dict[Upstream, Guard] = {}
        self._untold: list[Event] = []

    @property
    def all(self) -> tuple[Guard, ...]:
        """The guards of the upstreams in use."""
        return tuple(self._guards.values())

    def of(self, upstream: Upstream) -> Guard:
        """The guard of an upstream; made when it is new."""
        found = self._guards.get(upstream)
        if found is None:
            found = self._guards[upstream] = Guard(self, upstream.name)
        return found

    def keep(self, named: Iterable[Upstream], others: Iterable[Upstream] = ()) -> None:
        """Forgets all but those that a policy names and the `others`, which serve without one: they are told apart where
        they have one name. Calls under way end with the guard that they have."""
        policy = set(named)
        wanted, names = policy.union(others), {spec.name for spec in policy}
        self._guards = {spec: guard for spec, guard in self._guards.items() if spec in wanted}
        for spec, guard in self._guards.items():
            guard.label = f"{spec.name} (default)" if spec.name in names and spec not in policy else spec.name
        kept = set(self._guards.values())
        self.unwell = {breaker: guard for breaker, guard in self.unwell.items() if guard in kept}

    def name(self, models: Mapping[Upstream, Collection[str]]) -> None:
        """Forgets the breakers of all models but these: nobody would call them, and one that is open would stay so."""
        for spec, guard in self._guards.items():
            guard.only(models.get(spec, ()))
        self.unwell = {breaker: guard for breaker, guard in self.unwell.items() if breaker in guard.breakers}

    def changed(self, guard: Guard, breaker: Breaker, now: float) -> None:
        """A breaker of `guard` has changed its state."""
        if guard not in self._guards.values() or breaker not in guard.breakers:
            return  # the last calls of an upstream or model that is gone
        state = breaker.state
        if state == "closed":
            self.unwell.pop(breaker, None)
        else:
            self.unwell[breaker] = guard
        if len(self._untold) < MAX_UNTOLD:
            self._untold.append(_event(guard, breaker, now))

    def tick(self, now: float) -> list[Event]:
        """What time changes, and what there is to tell since the last tick. Call it about once a second."""
        for breaker, guard in list(self.unwell.items()):
            if breaker.tick(now):
                self.changed(guard, breaker, now)
        told, self._untold = self._untold, []
        return told

    def hear(self, rows: Iterable[BreakerStatus]) -> None:
        """The breakers of the processes that serve, where that is not this one: all that they said last."""
        self.told = {}
        for row in rows:
            self.told.setdefault((row.upstream, row.model), []).append(row)

    def status(self, now: float) -> list[BreakerStatus]:
        """Every breaker of this process."""
        return [
            BreakerStatus(
                guard.label, one.model, one.state, one.opened,
                max(0.0, one.until - now) if one.state == "open" else 0.0, *one.recent(now), one.out_s,
            )
            for guard in self.all
            for one in guard.breakers
        ]  # fmt: skip


def _event(guard: Guard, breaker: Breaker, now: float) -> Event:
    state = breaker.state
    kind, severity = ("breaker.opened", "high") if state == "open" else (f"breaker.{state}", "medium")
    detail: dict[str, object] = {"upstream": guard.label, "model": breaker.model, "times": breaker.times}
    text = f"{breaker.model} at {guard.label}: "
    if state == "open":
        detail |= {"seconds": breaker.until - now, "in_a_row": breaker.consecutive}
        detail |= {"calls": breaker.calls, "failed": breaker.fails}
        text += f"{breaker.consecutive} failures in a row, {breaker.fails} of the last {breaker.calls} calls; "
        text += f"not offered for {breaker.until - now:.0f} s where another arm may serve"
    elif state == "half_open":
        text += "a few calls are offered again"
    else:
        text += "nobody calls it any more, and it is as good as new" if breaker.forgotten else "serves again"
    level: Severity = "high" if severity == "high" else "medium"
    return Event(kind=kind, severity=level, message=text, detail=detail)
