"""What an errand has to know of the exchange that it is about, what it may cost and carry, and what is told of it."""

from typing import Final

from msgspec import Struct

from sidecar.clock import steady
from sidecar.core.cost import cost as cost_of
from sidecar.core.types import Decision, Event, Outcome, Settled, Usage
from sidecar.proxy.origin import Origin
from sidecar.proxy.plane import Plane
from sidecar.wire.http1 import RequestHead
from sidecar.wire.json_edit import RequestView

BYTES_PER_TOKEN: Final = 3  # 2..6; English text has about 4: fewer reserve more, which is the safe side
_DAY_S: Final = 86_400
_TAKES_S: Final = 10.0  # 1..60, what a call takes where time has a price: longer reserves more


class Seen(Struct, frozen=True):
    """One exchange's request, kept while somebody may still ask about it: never stored, never logged."""

    head: RequestHead
    body: bytes
    view: RequestView
    origin: Origin  # where the client's call went


def may_carry(origin: Origin, served: Origin) -> bool:
    """Whether an errand to `origin` can be authorised: by a key that the sidecar holds for it, or by the client's own,
    which goes where the client's call went (same scheme, host and port) and nowhere else."""
    if origin.holds_key:
        return True
    here, there = origin.spec, served.spec
    return not served.holds_key and (here.scheme, here.host, here.port) == (there.scheme, there.host, there.port)


def estimate_nusd(origin: Origin, model: str, input_bytes: int, output_tokens: int, at: float) -> int | None:
    """What a call will cost, rather too high than too low; None when the prices of `model` are not known."""
    day, second = divmod(int(at), _DAY_S)
    card = origin.card(model, day)
    usage = Usage(input_tokens=-(-input_bytes // BYTES_PER_TOKEN), output_tokens=output_tokens)
    made = cost_of(usage, card, kind="estimate", second_of_day=second, seconds=_TAKES_S)
    return None if made is None else made.total_nusd


def spent_nusd(outcome: Outcome, estimate: int) -> int:
    """What an errand is booked with: its cost; nothing when it was not sent or refused; the estimate when unknown."""
    if outcome.cost_nusd is not None:
        return outcome.cost_nusd
    unanswered = outcome.clocks.sent_s is None or (outcome.kind == "failed" and outcome.status != 200)
    return 0 if unanswered else estimate


def book(plane: Plane, told: Event, cost_nusd: int) -> None:
    """Charges the route with what an errand cost, and tells of it."""
    if cost_nusd:
        plane.engine.charge(told.route, cost_nusd, steady())
    plane.on_errand(told)


def event_of(
    kind: str, settled: Settled, decision: Decision, outcome: Outcome, cost_nusd: int, score: float | None = None
) -> Event:
    """One errand for the table of events: figures and names, no text of anybody."""
    usage, clocks = outcome.usage, outcome.clocks
    detail: dict[str, object] = {
        "decision": settled.id,
        "upstream": decision.upstream,
        "model": decision.model,
        "propensity": decision.propensity,
        "outcome": outcome.kind,
        "error": outcome.error,
        "status": outcome.status or None,
        "cost_nusd": cost_nusd,
        "cost_kind": outcome.cost_kind or ("estimate" if cost_nusd else "exact"),
        "input_tokens": None if usage is None else usage.input_tokens,
        "output_tokens": None if usage is None else usage.output_tokens,
        "ttft_s": clocks.ttft_s,
        "duration_s": clocks.duration_s,
        "score": score,
    }
    arm = decision.arm or settled.outcome.served_arm or settled.decision.arm
    return Event(kind=f"errand.{kind}", route=settled.decision.route, arm=arm, message=outcome.kind, detail=detail)
