"""What an exchange leaves behind: one outcome, told to the engine, to the books, and to whoever records.

Runs in `Plane.settle`, behind the answer: what it raises is counted there, and the client never knows.
"""

from typing import Final, Protocol

from msgspec.structs import replace

from sidecar.clock import monotonic, steady
from sidecar.core.breaker import IGNORED, Health
from sidecar.core.cost import cost as cost_of
from sidecar.core.engine import PASS
from sidecar.core.guard import Guard, health_of
from sidecar.core.settle import NOTHING, Verdict
from sidecar.core.types import (
    SELECTABLE,
    Clocks,
    CostKind,
    Decision,
    Facts,
    Outcome,
    OutcomeKind,
    Settled,
    Stage,
    Usage,
    UsageSource,
)
from sidecar.proxy.gate import Way
from sidecar.proxy.origin import Origin
from sidecar.proxy.plane import Plane, Witness
from sidecar.proxy.reply import Reply
from sidecar.proxy.signals import Heard, retries_of
from sidecar.secrecy import MAX_NAME, recorded
from sidecar.wire.http1 import RequestHead
from sidecar.wire.meter import caller_fault
from sidecar.wire.places import generates
from sidecar.wire.reading import Reading

_ABOUT_KEYS: Final = frozenset({401, 403})  # the caller's key, unless it is ours
_ABOUT_PLACE: Final = frozenset({404, 405, 410})  # the caller's, unless we sent the call to another arm
_NOT_THE_ARMS: Final = frozenset({"refused", "timeout_body", "bad_request_body", "too_large"})  # it was never asked
_TIER: Final = b"x-gemini-service-tier"  # Gemini tells in its head which tier served
_NOTHING: Final = Reading()


class Called(Protocol):
    """One call to an upstream that has ended: an exchange's, a stage of a cascade, or an errand of our own."""

    plane: Plane
    at: float
    facts: Facts
    decision: Decision | None
    decided: Decision | None  # the first one, when a fallback has taken its place
    origin: Origin
    reply: Reply | None
    sent_s: float | None
    unsent: bool  # some of the body had not left us when the connection was dropped
    prompt_bytes: int | None  # of the body, by `text_bytes`, where that is another number than its length
    ttfb_s: float | None
    last_sent: bytes  # the body as it was sent, where checks or signals ask for it; else empty


class Over(Called, Protocol):
    """What is left of an exchange when it has ended."""

    id: str
    head_in: RequestHead
    way: Way
    last_body: bytes  # the client's body, where checks or signals ask for it; else empty
    stages: tuple[Stage, ...] | None  # arms that a cascade asked before the one that served
    weighed: Outcome | None  # its outcome, where a cascade has looked at the answer already
    witness: Witness | None  # who wants to know more of it than the row tells
    ticket: int  # of its call to an upstream; 0: there was none
    guard: Guard
    busy: int  # connections of its upstream that carried calls when it ended
    broke_off: bool  # the answer of an arm before this one had begun when it failed: what that cost is not known

    @property
    def may_be_billed(self) -> bool: ...
    def end_try(self, health: Health) -> None: ...


def settle(exchange: Over, kind: OutcomeKind, error: str | None, duration_s: float, status: int) -> None:
    """Closes the books on one exchange; called exactly once, whatever happened. What it raises, `Plane.settle` counts."""
    if exchange.decision is None:  # it ended before there was anything to decide on
        _count(exchange, kind, error)
        _record_undecided(exchange, kind, error, duration_s, status)
        return
    health: Health = IGNORED
    try:
        outcome = exchange.weighed if kind == "completed" else None
        if outcome is None:
            outcome = checked(exchange, outcome_of(exchange, kind, error, duration_s, status))
        health = health_of(outcome)
        if exchange.ticket and exchange.guard.limit is not None:
            exchange.guard.learn(outcome, exchange.busy, steady())
    except Exception as bug:  # noqa: BLE001 - texts of others may hit a fault of ours; the books and the money may not
        exchange.plane.on_bug("settle", bug)
        clocks = Clocks(sent_s=exchange.sent_s, duration_s=duration_s)
        outcome = Outcome(kind="aborted", status=status, error="bug", clocks=clocks, stream=exchange.facts.stream)
    finally:
        exchange.end_try(health)
    _count(exchange, outcome.kind, error)
    _record(exchange, outcome)


def checked(exchange: Called, outcome: Outcome) -> Outcome:
    """The outcome with what the policy's checks found in the answer. A check that fails costs its score, no more."""
    plane, decision, reply = exchange.plane, exchange.decision, exchange.reply
    if decision is None or reply is None:
        return outcome
    collector = reply.collector if reply.readable else None
    try:
        said = None if collector is None else collector.said()
        found = plane.checks.found(decision, exchange.facts, outcome, said, exchange.last_sent)
    except Exception as bug:  # noqa: BLE001 - texts of others may hit a fault of ours; the books may not suffer
        plane.on_bug("checks", bug)
        return outcome
    return replace(outcome, checks=found) if found else outcome


def _signal(exchange: Over, decision: Decision, outcome: Outcome) -> None:
    """What the exchange says of itself and of the one before it, where a policy listens to that."""
    retries = retries_of(exchange.head_in.raw)
    exchange.plane.signals.over(
        Heard(exchange.id, exchange.facts, decision, outcome, exchange.last_body, retries), monotonic()
    )


def _count(exchange: Over, kind: OutcomeKind, error: str | None) -> None:
    books = exchange.plane.books
    if error == "shed" and not exchange.stages:  # with stages it has a row, and is counted by that
        books.shed += 1
    elif kind == "completed":
        books.completed += 1
    elif kind == "failed":
        books.failed += 1
    else:
        books.aborted += 1


def _record(exchange: Over, outcome: Outcome) -> None:
    plane, decision, facts = exchange.plane, exchange.decision, exchange.facts
    assert decision is not None
    if outcome.error == "shed":  # counted, and not recorded: under a flood the rows would drown those that were served
        plane.engine.release(decision)
        if not exchange.stages:
            return
    verdict = NOTHING
    unsent = exchange.sent_s is None
    left = unsent and outcome.kind == "aborted"  # while it waited for a connection: to the upstream, or for ours
    if outcome.error == "shed":
        pass
    elif (unsent and outcome.error in _NOT_THE_ARMS) or (left and exchange.origin.pool.full):
        plane.engine.release(decision)
    elif left or (outcome.kind == "aborted" and _is_cut_short(exchange)):  # no model has read it: that costs nothing
        verdict = teach(plane, facts, decision, replace(outcome, cost_nusd=0))
    else:
        verdict = teach(plane, facts, decision, outcome)
        if outcome.kind == "failed" and exchange.may_be_billed:  # the lesson took our error answer to be free
            plane.charge_unknown(decision)
    arm = outcome.served_arm or decision.arm
    if facts.endpoint == "responses" and outcome.completion_id and arm is not None:
        plane.keep(facts.tags.get("tenant", ""), outcome.completion_id, arm, facts.key)
    refused = decision.refusal is not None
    facts, outcome = _with_names(facts, outcome)
    settled = Settled(
        id=exchange.id,
        at=exchange.at,
        facts=facts,
        decision=decision if exchange.decided is None else _fallen_back(exchange.decided),
        outcome=_in_all(exchange, outcome),
        upstream="" if refused else exchange.origin.name,
        sent_model=None if refused else _kept(decision.model or facts.model),
        reward=verdict.reward,
        quality=verdict.quality,
        quality_source=verdict.quality_source,
        stages=exchange.stages,
        traceparent=exchange.head_in.fields.get(b"traceparent"),
    )
    plane.emit(settled)
    if exchange.witness is not None:
        exchange.witness.over(settled)
    if plane.signals.active:
        _signal(exchange, decision, outcome)


def _with_names(facts: Facts, outcome: Outcome) -> tuple[Facts, Outcome]:
    """Both with the models' names as they may be told."""
    asked, served = _kept(facts.model), _kept(outcome.served_model)
    if asked != facts.model:
        facts = replace(facts, model=asked)
    if served != outcome.served_model:
        outcome = replace(outcome, served_model=served)
    return facts, outcome


def _kept(name: str | None) -> str | None:
    """A model's name as it is told: itself, unless it is none."""
    return None if name is None else recorded(name)


def _record_undecided(exchange: Over, kind: OutcomeKind, error: str | None, duration_s: float, status: int) -> None:
    """The row of a call whose body never was whole: too large, badly framed, stalled, or given up."""
    if error == "shed":  # as in `_record`
        return
    way = exchange.way
    facts = Facts(endpoint=way.endpoint, dialect=way.dialect, path=way.path, model=None, stream=False, key=0)
    outcome = Outcome(kind=kind, status=status, error=error, clocks=Clocks(duration_s=duration_s))
    exchange.plane.emit(
        Settled(
            id=exchange.id,
            at=exchange.at,
            facts=facts,
            decision=PASS,
            outcome=outcome,
            upstream="",
            sent_model=None,
            traceparent=exchange.head_in.fields.get(b"traceparent"),
        )
    )


def _in_all(exchange: Over, outcome: Outcome) -> Outcome:
    """The outcome with what the arms before the last one cost."""
    if exchange.stages:
        begun = exchange.may_be_billed or 0 < outcome.status < 400
        outcome = _with_stages(outcome, exchange.stages, free=outcome.kind == "failed" and not begun)
    if exchange.broke_off and outcome.cost_nusd is not None:
        return replace(outcome, cost_kind="lower_bound")
    return outcome


def _with_stages(outcome: Outcome, stages: tuple[Stage, ...], *, free: bool) -> Outcome:
    """The outcome with the cost of all that was asked. A part that is unknown makes the sum a lower bound; `free`: the last
    one costs nothing unless it says so."""
    parts = [(stage.cost_nusd, stage.cost_kind) for stage in stages]
    if not free or outcome.cost_nusd is not None:
        parts.append((outcome.cost_nusd, outcome.cost_kind))
    known = [cost_nusd for cost_nusd, _ in parts if cost_nusd is not None]
    if not known:
        return outcome
    kinds = {kind for _, kind in parts}
    rest: CostKind = "estimate" if "estimate" in kinds else "exact"
    bound = "lower_bound" in kinds or len(known) < len(parts)
    return replace(outcome, cost_nusd=sum(known), cost_kind="lower_bound" if bound else rest)


def _fallen_back(decided: Decision) -> Decision:
    """The row of a fallback: propensity and arm are the first decision's; its rollout gets no label of another arm."""
    return replace(decided, reason="fallback", rollout_id=None, rollout_step=None)


def teach(plane: Plane, facts: Facts, decision: Decision, outcome: Outcome, *, call: bool = True) -> Verdict:
    """Tells the engine; when that fails, what was reserved is given back and the row is written without a lesson."""
    try:
        verdict = plane.engine.settle(facts, decision, outcome, steady(), call=call)
    except Exception as bug:  # noqa: BLE001 - the engine may fail, the books may not
        plane.on_bug("settle", bug)
        plane.engine.release(decision)
        return NOTHING
    if verdict.events:
        plane.on_events(verdict.events)
    return verdict


def outcome_of(exchange: Called, kind: OutcomeKind, error: str | None, duration_s: float, status: int) -> Outcome:
    """What one call came to; tells nobody but the counters of usage and prices."""
    reply = exchange.reply
    if reply is not None:
        status = status or reply.head.status
        exchange.plane.books.stripped_usage += reply.stripped
        reply.catch_up(exchange.plane.on_bug)
    fault = False
    if kind == "completed" and status >= 400:
        kind, error = "failed", "upstream_status"
        fault = _is_callers(exchange, status)
    meter = reply.meter if reply is not None else None
    reading = meter.finish() if meter is not None else _NOTHING
    if kind == "completed" and reading.error is not None:
        kind, error = "failed", "error_event"
    elif kind == "completed" and meter is not None and _is_garbage(exchange, reading):
        kind, error = "failed", "bad_body"
    elif kind == "completed" and exchange.facts.stream and meter is not None and not reading.terminal:
        error = "no_terminal"  # well-formed and passed on as it came, but the dialect's last event is missing
    usage, source = _usage(exchange, reading, kind, status)
    took_s = None if exchange.sent_s is None else duration_s - exchange.sent_s
    cost_nusd, version, cost_kind = _cost(exchange, usage, source, kind, took_s, reading.model)
    first, last, tokens = reading.ttft_s, reading.last_token_s, usage.output_tokens if usage is not None else None
    itl_s, completion_id = None, reading.completion_id
    if completion_id is not None and len(completion_id) > MAX_NAME:
        completion_id = None  # ids are remembered, stored and logged
    if first is not None and last is not None and tokens is not None and tokens > 1 and source == "provider":
        itl_s = (last - first) / (tokens - 1)
    outcome = Outcome(  # not more than 15 named arguments: beyond, the interpreter makes a dict for a call
        kind=kind,
        status=status,
        error=error,
        clocks=Clocks(
            sent_s=exchange.sent_s,
            ttfb_s=exchange.ttfb_s,
            ttfe_s=reading.ttfe_s,
            ttft_s=first,
            ttfa_s=reading.ttfa_s,
            last_token_s=last,
            duration_s=duration_s,
            itl_s=itl_s,
            gap_p50_s=reading.gap_p50_s,
            gap_p95_s=reading.gap_p95_s,
        ),
        stream=exchange.facts.stream,
        usage=usage,
        usage_source=source,
        cost_nusd=cost_nusd,
        cost_kind=cost_kind,
        price_version=version,
        completion_id=completion_id,
        finish=reading.finish,
        empty=reading.empty,
        refused=reading.refused,
        served_model=reading.model,
    )
    if exchange.decided is not None and exchange.decision is not None:  # a fallback has taken its place
        return replace(outcome, caller_fault=fault, served_arm=exchange.decision.arm)
    return replace(outcome, caller_fault=True) if fault else outcome


def _is_garbage(exchange: Called, reading: Reading) -> bool:
    """A 2xx without a trace of what the dialect says: a server that answers so is broken, whatever its status."""
    reply = exchange.reply
    if reply is None or exchange.facts.endpoint not in SELECTABLE or not reply.readable:
        return False
    if reading.completion_id or reading.usage or reading.finish or reading.output_bytes or reading.model:
        return False
    # Elsewhere the end itself was read as JSON of the dialect; these streams end with a bare [DONE], whatever came before.
    bare_end = exchange.facts.stream and exchange.facts.endpoint in ("chat", "completions")
    return bare_end or not reading.terminal


def _is_callers(exchange: Called, status: int) -> bool:
    """Whether an error answer is the caller's own mistake, so that the arm is not blamed for it."""
    reply, decision = exchange.reply, exchange.decision
    if reply is None or decision is None or not caller_fault(status, reply.error_body):
        return False
    if status in _ABOUT_KEYS and exchange.origin.holds_key:
        return False
    return status not in _ABOUT_PLACE or decision.model in (None, exchange.facts.model)


def _usage(
    exchange: Called, reading: Reading, kind: OutcomeKind, status: int
) -> tuple[Usage | None, UsageSource | None]:
    """The provider's usage; else, where text was seen, an estimate from the model's own bytes per token."""
    usage = reading.usage
    model = exchange.facts.model or ""
    whole = kind == "completed"
    if usage is not None and usage.output_tokens is not None and (whole or reading.finish is not None):
        if reading.output_bytes and whole:
            exchange.origin.ratio(model).observe(reading.output_bytes, usage.output_tokens)
        return usage, "provider"
    ratio = exchange.origin.ratio(model)
    asked = exchange.facts.input_bytes if exchange.prompt_bytes is None else exchange.prompt_bytes
    if not reading.output_bytes:
        if usage is None and kind == "aborted" and status < 300 and _had_read(exchange):
            return Usage(input_tokens=ratio.tokens(asked)), "estimate"
        return usage, "provider" if usage is not None else None
    seen = Usage() if usage is None else usage
    estimate = replace(
        seen,
        input_tokens=ratio.tokens(asked) if seen.input_tokens is None else seen.input_tokens,
        output_tokens=max(ratio.tokens(reading.output_bytes), seen.output_tokens or 0),
    )
    return estimate, "estimate"


def _had_read(exchange: Called) -> bool:
    """Whether a model may have read the prompt: then it is paid for, whatever was to be seen of the answer."""
    facts = exchange.facts
    if exchange.sent_s is None or _is_cut_short(exchange) or not facts.input_bytes:
        return False
    return facts.endpoint in SELECTABLE or (facts.endpoint == "other" and generates(facts.path))


def _is_cut_short(exchange: Called) -> bool:
    """Whether the prompt ends in the middle for who was to read it: nobody had begun to answer."""
    return exchange.unsent and exchange.reply is None


def _cost(
    exchange: Called,
    usage: Usage | None,
    source: UsageSource | None,
    kind: OutcomeKind,
    took_s: float | None,
    served: str | None,
) -> tuple[int | None, str | None, CostKind | None]:
    """(nano-dollars, price version, kind); an aborted or cut call costs at least this much, its provider may bill all.

    `took_s` is the time from sent to the end: what a machine of one's own costs, whether it told its usage or not. `served`
    is the model that the answer names. The version is named where prices were looked for, whether they were found or not.
    """
    decision, origin = exchange.decision, exchange.origin
    assert decision is not None
    asked = decision.model or exchange.facts.model
    if decision.refusal is not None or not (asked or served):
        return None, None, None
    version = origin.price_version
    day, second = divmod(int(exchange.at), 86400)
    card = origin.card_of(asked, served, day)
    timed = card is not None and card.time_alone
    if usage is None:
        if exchange.facts.endpoint == "count_tokens" and kind == "completed" and not timed:
            return 0, version, "exact"  # providers count for nothing
        if took_s is None or not timed:
            return None, version, None
    known = source == "provider" or timed
    basis: CostKind = "lower_bound" if kind != "completed" else "exact" if known else "estimate"
    tier = None if exchange.reply is None else exchange.reply.head.fields.get(_TIER)
    named = None if tier is None else tier.decode("latin-1")
    cost = cost_of(usage, card, kind=basis, tier=named, second_of_day=second, seconds=took_s)
    if cost is None:
        exchange.plane.books.unpriced += 1
        return None, version, None
    return cost.total_nusd, cost.version, cost.kind
