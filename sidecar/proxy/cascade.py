"""A cascade: the first arm's whole answer is checked before the client sees any of it, and asked of the next when it fails.

Which calls: those of a route with a `cascade`, that are no stream, carry no state, whose body is kept, and that the
engine would have served by its own choice (no pin, threshold, budget, rollout group). Which arms: those of the cascade
that are established (the baseline, and arms that completed their rollout) and that rules and dialect left; fewer than
two are no cascade.

Each arm is asked of the engine as a pin, so that rules, budgets and reservations hold for each stage as for any call. A
stage that is not given to the client is settled at once with its own outcome: its arm learns what its validators say and
the budgets get its cost. The row of the exchange is that of the arm that served, with the cost of all.

What is passed without a check: answers above 1 MiB, answers whose end is the end of the connection, errors of the
caller. An upstream that fails (no connection, timeout, 429, 5xx) hands the call to the next arm as a fallback does. When
the budget leaves no room for the next arm, the answer that there is goes to the client.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

from sidecar.clock import steady
from sidecar.core import policy as core
from sidecar.core.reward import validate
from sidecar.core.status import Standing
from sidecar.core.types import SELECTABLE, Clocks, Decision, Facts, Outcome, Stage
from sidecar.proxy.ending import checked, outcome_of, teach
from sidecar.proxy.gate import Way
from sidecar.proxy.origin import Origin
from sidecar.proxy.plane import Plane
from sidecar.proxy.reply import Reply
from sidecar.wire.confidence import confidence
from sidecar.wire.http1 import ResponseHead

MAX_HELD_BYTES: Final = 1024 * 1024
_OWN_CHOICE: Final = frozenset({"baseline", "sampled", "sticky", "policy"})
_ESTABLISHED: Final = frozenset({"baseline", "stable", "pool"})


class Cascades:
    """The cascades of the policy in force, and which arms may take part in them now."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._specs: Mapping[str, core.Cascade] = {}
        self._established: Mapping[str, frozenset[str]] = {}

    def apply(self, policy: core.Policy) -> None:
        """Takes the cascades of a policy; until `refresh` no arm takes part."""
        self._specs = {route.name: route.cascade for route in policy.routes if route.cascade is not None}
        self._established = {}
        self._plane.cascades = self if self._specs else None

    def refresh(self, routes: Sequence[Standing]) -> None:
        """Which arms are established; call it after every event of a rollout."""
        self._established = {
            route.route: frozenset(arm for arm, role in route.roles.items() if role in _ESTABLISHED) for route in routes
        }

    def begin(self, plane: Plane, facts: Facts, decision: Decision, now: float) -> "tuple[Cascade, Decision] | None":
        """The cascade of one call and the decision for its first arm, in place of `decision`; None: as decided."""
        spec = self._specs.get(decision.route)
        if spec is None or facts.stream or facts.stateful or facts.off or facts.pinned is not None:
            return None
        own = decision.reason in _OWN_CHOICE and decision.refusal is None and decision.rollout_id is None
        if not own or facts.endpoint not in SELECTABLE:
            return None
        may = self._established.get(decision.route, frozenset())
        arms = tuple(arm for arm in spec.arms if arm in may and arm in decision.eligible)
        if len(arms) < 2:
            return None
        cascade = Cascade(spec, arms[1:], decision.eligible)
        first = cascade.decide(plane, facts, arms[0], now)
        if first is None:
            return None
        plane.engine.release(decision)
        return cascade, first


class CascadedExchange(Protocol):
    """What a cascade uses of its exchange."""

    plane: Plane
    at: float
    facts: Facts
    way: Way
    decision: Decision | None
    origin: Origin
    sent_s: float | None
    ttfb_s: float | None
    stages: tuple[Stage, ...] | None
    weighed: Outcome | None

    @property
    def sent_body(self) -> bytes: ...
    @property
    def begun(self) -> Reply | None: ...


class _Ask(Struct):
    """One stage, as `outcome_of` wants it."""

    plane: Plane
    at: float
    facts: Facts
    decision: Decision | None
    origin: Origin
    reply: Reply | None
    sent_s: float | None
    ttfb_s: float | None
    last_sent: bytes
    decided: Decision | None = None
    unsent: bool = False
    prompt_bytes: int | None = None


class Held:
    """An answer that is looked at before the client sees any of it."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self._parts: list[bytes] = []
        self._payload: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes, t_s: float, on_bug: Callable[[str, BaseException], None]) -> bool:
        """More of it; whether it is to be looked at, because it is whole, or too large to hold.

        Raises:
            ProtocolError: its framing is broken.
        """
        reply = self.reply
        out, payload = reply.feed(data)  # also when there is no body: that may be no answer of its format
        self._parts.append(out)
        self._payload.append(payload)
        self._size += len(out)
        if payload or reply.done:  # a translated answer may be told by the end alone
            reply.measure(payload, t_s, on_bug)
        return reply.done or self._size > MAX_HELD_BYTES

    @property
    def body(self) -> bytes:
        """The bytes of its body, for the client."""
        return b"".join(self._parts)

    @property
    def payload(self) -> bytes:
        """What its upstream said, without framing."""
        return b"".join(self._payload)


class Cascade:
    """One exchange's way through the arms."""

    def __init__(self, spec: core.Cascade, left: tuple[str, ...], eligible: tuple[str, ...]) -> None:
        """`left` are the arms that may still be asked, weakest first."""
        self.left = left
        self._spec = spec
        self._eligible = eligible

    def hold(self, head: ResponseHead, reply: Reply) -> "Held | None":
        """This answer as one that is to be checked before it is passed on; None: it is not."""
        events = head.fields.get(b"content-type", b"").startswith(b"text/event-stream")
        ends = reply.framing in ("length", "chunked")
        if not self.left or not 200 <= head.status < 300 or events or not ends:
            return None
        if head.length is not None and head.length > MAX_HELD_BYTES:
            return None
        return Held(reply)

    def fails(self, exchange: CascadedExchange, held: Held, now_s: float) -> bool:
        """Whether the held answer fails its checks and another arm is now to be asked: then `exchange` has its decision.

        Else what was found is the exchange's to be settled with: nothing is measured, checked or priced a second time.
        """
        if not held.reply.done:
            return False
        try:
            outcome = exchange.weighed = self._outcome(exchange, held.reply, now_s)
            why = self._why(outcome, held)
        except Exception as error:  # noqa: BLE001 - texts of others may hit a fault of ours: then the answer passes
            exchange.plane.on_bug("cascade", error)
            return False
        return why is not None and self._go_on(exchange, outcome, why, "policy")

    def falls_back(self, exchange: CascadedExchange, trigger: str, now_s: float) -> bool:
        """Whether the next arm is asked because this one's upstream failed: then `exchange` has its decision."""
        if not self.left or not (trigger in ("connect", "timeout", "429") or trigger[:1] == "5"):
            return False
        clocks = Clocks(sent_s=exchange.sent_s, duration_s=0.0 if exchange.sent_s is None else now_s)
        begun = exchange.begun
        if begun is not None and begun.head.status < 400:  # it may be billed: what that cost is not known
            failure = Outcome(kind="failed", status=begun.head.status, error=trigger, clocks=clocks)
        else:
            status = int(trigger) if trigger.isdigit() else 0
            failure = Outcome(
                kind="failed", status=status, error=trigger, clocks=clocks, cost_nusd=0, cost_kind="exact"
            )
        return self._go_on(exchange, failure, trigger, "fallback")

    def decide(self, plane: Plane, facts: Facts, arm: str, now: float) -> Decision | None:
        """The engine's decision for this arm; None when rules or budgets do not allow it."""
        try:
            made = plane.watchdog.ask(plane.engine.decide, replace(facts, pinned=arm), now)
        except Exception as error:  # noqa: BLE001 - the engine may fail: then this arm is not asked
            plane.on_bug("decide", error)
            return None
        if made is None:
            return None
        if made.arm == arm and made.refusal is None and made.reason == "pinned":
            return replace(made, reason="policy", eligible=self._eligible)
        plane.engine.release(made)
        return None

    def _outcome(self, exchange: CascadedExchange, reply: Reply, now_s: float) -> Outcome:
        ask = _Ask(
            plane=exchange.plane,
            at=exchange.at,
            facts=exchange.facts,
            decision=exchange.decision,
            origin=exchange.origin,
            reply=reply,
            sent_s=exchange.sent_s,
            ttfb_s=exchange.ttfb_s,
            last_sent=exchange.sent_body,
        )
        return checked(ask, outcome_of(ask, "completed", None, now_s, 0))

    def _why(self, outcome: Outcome, held: Held) -> str | None:
        """The first check that the answer fails; None when it may go to the client."""
        if outcome.kind == "failed":
            return outcome.error or "failed"
        for name in self._spec.on:
            score = validate(outcome, (name,))
            if score is not None and score < 1.0:
                return name
        least = self._spec.min_confidence
        if least is not None and b"content-encoding" not in held.reply.head.fields:
            sure = confidence(held.payload)
            if sure is not None and sure < least:
                return "confidence"
        return None

    def _go_on(
        self, exchange: CascadedExchange, outcome: Outcome, why: str, reason: Literal["policy", "fallback"]
    ) -> bool:
        """To the next arm that may be asked: this one is settled; False when there is none."""
        plane, old = exchange.plane, exchange.decision
        assert old is not None
        made = None
        while made is None and self.left:
            arm, self.left = self.left[0], self.left[1:]
            if reason == "fallback" and not plane.engine.may_retry(old.route, arm):
                continue
            made = self.decide(plane, exchange.facts, arm, steady())
        if made is None:
            return False
        teach(plane, exchange.facts, old, outcome, call=False)
        stage = Stage(
            arm=old.arm or "",
            why=why,
            cost_nusd=outcome.cost_nusd,
            cost_kind=outcome.cost_kind,
            duration_s=outcome.clocks.latency_s,
        )
        exchange.stages = (*(exchange.stages or ()), stage)
        exchange.decision = replace(made, reason=reason)
        exchange.origin = plane.origin(made.upstream, exchange.way)
        exchange.sent_s = exchange.weighed = None
        plane.books.escalated += 1
        return True
