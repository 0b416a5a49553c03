"""What a guardrail is told of a unit, and what it says: `Sample` in, `GuardStatus` with a `Verdict` out.

Verdicts, in this order: `fail` when the evidence of harm is enough and the limit is passed (`core.guardrails`);
`inconclusive` with fewer than MIN_UNITS units in either group, or when the limit is passed and the evidence leans to harm
(E > 1); else `pass`.
"""

from dataclasses import dataclass
from typing import Final, Literal, Protocol

from msgspec import Struct

from sidecar.core.types import Outcome

Verdict = Literal["pass", "fail", "inconclusive"]
MIN_UNITS: Final = 20  # of either group before a guardrail may pass
OURS: Final = frozenset({"shed", "shutdown"})  # errors of the sidecar: no room, no connection free, going down


class Sample(Struct, frozen=True, gc=False, kw_only=True):
    """What one unit showed. None: not applicable or unknown; then that guardrail learns nothing from it.

    `late`: the first harm of a unit whose first outcome showed none. It changes what the unit counts as and is no
    new unit.
    """

    failed: bool | None = None
    rejected: bool | None = None
    stream: bool = False
    ttft_s: float | None = None
    latency_s: float | None = None
    cost_nusd: int | None = None
    validated: float | None = None
    labelled: float | None = None
    left_s: float | None = None  # the client left so long after the call was sent, before its end
    gave_up: bool | None = None  # ... without a token, and later than an answer takes: `PatienceGuard.exceeded`
    late: bool = False


def is_failure(outcome: Outcome, arm: str | None = None) -> bool:
    """Whether an outcome that is neither aborted nor the caller's fault is an error of `arm`, which was decided on.

    The one definition, for guardrails, thresholds and the brake: a call that failed, or that another arm had to serve;
    a stream that ended without a last event and without a finish reason; an answer that is none of its dialect.
    """
    if outcome.kind == "failed" or outcome.served_arm not in (None, arm):
        return True
    if outcome.error is None:
        return False
    return outcome.error == "bad_body" or (outcome.error == "no_terminal" and outcome.stream and outcome.finish is None)


def sample_of(outcome: Outcome, quality: float | None, arm: str | None = None) -> Sample:
    """What an outcome teaches about `arm`, which was decided on. Of an aborted call: how long its client waited; of one
    that the sidecar itself refused: nothing."""
    if outcome.error in OURS:
        return Sample()
    ttft_s = outcome.clocks.first_token_latency_s if outcome.stream else None
    if ttft_s is not None:
        ttft_s = max(0.0, ttft_s)
    latency_s = max(0.0, outcome.clocks.latency_s)
    if outcome.kind == "aborted":
        return Sample(stream=outcome.stream, ttft_s=ttft_s, left_s=latency_s)
    if outcome.caller_fault:
        return Sample(rejected=True, gave_up=False)
    if is_failure(outcome, arm):
        return Sample(failed=True, rejected=False, gave_up=False)
    return Sample(
        failed=False,
        rejected=False,
        gave_up=False,
        stream=outcome.stream,
        ttft_s=ttft_s,
        latency_s=latency_s,
        cost_nusd=outcome.cost_nusd,
        validated=quality,
    )


@dataclass(frozen=True, slots=True)
class GuardStatus:
    """One guardrail for people. Values are means (rates, cost, quality) or 95th percentiles (seconds)."""

    metric: str
    limit: str
    canary: float | None
    control: float | None
    canary_n: int
    control_n: int
    e_value: float
    needed: float  # 1/alpha: the e-value that rejects
    verdict: Verdict
    lately: bool = False  # it is shown to have been beyond the limit at some time, whatever the means of all units say


class Guard(Protocol):
    """One metric's comparison."""

    metric: str

    def observe(self, sample: Sample, *, canary: bool, share: float) -> None: ...
    def fails(self) -> bool: ...
    def status(self) -> GuardStatus: ...
    def not_inferior(self) -> bool: ...
    def to_state(self) -> object: ...
    def restore(self, state: list[object]) -> None: ...


def verdict_of(e_value: float, alpha: float, beyond: bool, units: int) -> Verdict:
    """By what the harm test has, whether the limit is passed, and how many units the smaller group has."""
    if beyond and e_value * alpha >= 1.0:
        return "fail"
    return "inconclusive" if units < MIN_UNITS or (beyond and e_value > 1.0) else "pass"
