"""The guardrails of one rollout: each compares one metric of the canary with the concurrent control.

What a limit means. `error_rate: 1.5x` fails when BOTH hold now: the harm test rejects "the canary is no worse than
the control" (E >= 1/alpha, `core.sequential`), and the canary's error rate so far is above 1.5 times the control's.
Evidence of harm inside the limit is shown and does not fail. `quality: -5%` fails below 95 % of the control's mean
score. alpha is `false_rollback / number of guardrails` (Bonferroni): the chance that any of them ever rolls back an
arm that is no worse.

Some guardrails are there without being asked for, because no policy wants the contrary: `error_rate` (limit 1.5x when
not stated), and `rejections`: the share of calls answered as the CALLER'S mistake. Those never count as errors, but
callers are spread by a hash, so their mistakes are equally frequent in both groups; an arm that rejects more (a model
name that does not exist, a parameter it lacks) does so itself. `quality` brings `validated_quality`: labels
(feedback, judge) and validators are never mixed, as their coverage differs.

Verdicts: `fail` as above; `inconclusive` while there are too few units, or the estimate is beyond the limit and the
evidence leans to harm (E > 1); else `pass`. A pass is not a proof of equality: `non_inferior` asks the confidence
sequences for one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from msgspec import Struct

from sidecar.core.policy import Guardrail, RolloutSpec
from sidecar.core.sequential import HarmTest, MeanSequence, OrderTest
from sidecar.core.types import Outcome
from sidecar.core.window import RELATIVE_ERROR, Histogram

Verdict = Literal["pass", "fail", "inconclusive"]
MIN_UNITS: Final = 20  # of either group before a guardrail may pass
DEFAULT_ERROR_RATIO: Final = 1.5
DEFAULT_REJECTION_RATIO: Final = 2.0  # callers' mistakes come in clusters: only a clear difference is the arm's
PROOF_ALPHA: Final = 0.05  # of a wrong "not inferior", per guardrail, split over the two sequences
_CUTS: Final = (0.5, 0.95)  # the median finds shifts, the 95th percentile tails
_MIN_CUT_VALUES: Final = 20  # of the control before there are cuts
_BIN_END: Final = (1 + 1e-9) / (1 - RELATIVE_ERROR)  # from a quantile as it is read to the upper end of its bin


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
    late: bool = False


def sample_of(outcome: Outcome, quality: float | None) -> Sample | None:
    """What an outcome teaches a rollout; None when nothing (aborted).

    A call that a fallback served failed on its own arm: only that is known of it. So did a stream that ended without
    a last event and without a finish reason, and an answer that is none of its dialect.
    """
    if outcome.kind == "aborted":
        return None
    if outcome.caller_fault:
        return Sample(rejected=True)
    unfinished = outcome.error == "no_terminal" and outcome.stream and outcome.finish is None
    if outcome.kind == "failed" or outcome.served_arm is not None or outcome.error == "bad_body" or unfinished:
        return Sample(failed=True, rejected=False)
    clocks = outcome.clocks
    sent_s = clocks.sent_s or 0.0
    return Sample(
        failed=False,
        rejected=False,
        stream=outcome.stream,
        ttft_s=None if clocks.ttft_s is None else max(0.0, clocks.ttft_s - sent_s),
        latency_s=max(0.0, clocks.duration_s - sent_s),
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


class Guard(Protocol):
    """One metric's comparison."""

    metric: str

    def observe(self, sample: Sample, *, canary: bool, share: float) -> None: ...
    def fails(self) -> bool: ...
    def status(self) -> GuardStatus: ...
    def not_inferior(self, margin: float) -> bool: ...
    def to_state(self) -> object: ...
    def restore(self, state: list[object]) -> None: ...


class BoundedGuard:
    """Guards a mean in [0, 1]: `error_rate`, `rejections` (harm = the value), qualities (harm = 1 - value)."""

    def __init__(self, metric: str, worst: float, alpha: float, *, proves: bool = False) -> None:
        self.metric = metric
        self._proves = proves  # keeps the intervals of `not_inferior`, which cost as much as the test
        self._worst = worst  # ratio to the control: at most for harms, at least for qualities
        self._alpha = alpha
        self._quality = metric in ("quality", "validated_quality")
        self._test = HarmTest()
        self._canary = MeanSequence(PROOF_ALPHA / 2)  # of harm
        self._control = MeanSequence(PROOF_ALPHA / 2)

    def _harm(self, sample: Sample) -> float | None:
        match self.metric:
            case "error_rate":
                return None if sample.failed is None else float(sample.failed)
            case "rejections":
                return None if sample.rejected is None else float(sample.rejected)
            case "quality":
                score = sample.labelled
            case _:
                score = sample.validated
        return None if score is None else 1.0 - score

    def observe(self, sample: Sample, *, canary: bool, share: float) -> None:
        harm = self._harm(sample)
        if harm is None:
            return
        if canary:
            self._test.update_canary(harm, share)
        else:
            self._test.update_control(harm, share)
        mean = self._canary if canary else self._control
        if sample.late:
            mean.total = min(mean.total + harm, float(mean.n))
        elif self._proves:
            mean.add(harm)
        else:
            mean.count(harm)

    def not_inferior(self, margin: float) -> bool:
        """Whether 1 - harm of the canary is shown to be at least `1 - margin` times that of the control."""
        return 1 - self._canary.upper >= (1 - margin) * (1 - self._control.lower)

    def fails(self) -> bool:
        """Whether the guardrail demands the rollback now; O(1) as long as there is no evidence."""
        return self._test.rejected(self._alpha) and self.status().verdict == "fail"

    def status(self) -> GuardStatus:
        canary, control = self._value(self._canary), self._value(self._control)
        beyond = False
        if canary is not None and control is not None:
            beyond = canary < self._worst * control if self._quality else canary > self._worst * control
        return GuardStatus(
            metric=self.metric,
            limit=f"-{1 - self._worst:.1%}" if self._quality else f"{self._worst:g}x",
            canary=canary,
            control=control,
            canary_n=self._canary.n,
            control_n=self._control.n,
            e_value=self._test.e_value,
            needed=1 / self._alpha,
            verdict=_verdict(self._test.e_value, self._alpha, beyond, min(self._canary.n, self._control.n)),
        )

    def _value(self, harm: MeanSequence) -> float | None:
        mean = harm.mean
        return 1 - mean if mean is not None and self._quality else mean

    def to_state(self) -> object:
        return [self._test.to_state(), self._canary.to_state(), self._control.to_state()]

    def restore(self, state: list[object]) -> None:
        test, canary, control = state
        self._test = HarmTest.from_state(test)  # type: ignore[arg-type]  # JSON of our own; a bad one raises and is dropped
        self._canary = MeanSequence.from_state(canary)  # type: ignore[arg-type]  # as above
        self._control = MeanSequence.from_state(control)  # type: ignore[arg-type]  # as above


class _Stratum:
    """Streaming or non-streaming calls: their numbers are never compared with each other (GW-12)."""

    def __init__(self) -> None:
        self.canary = Histogram()
        self.control = Histogram()
        self.cuts: tuple[float, ...] = ()
        self._next = _MIN_CUT_VALUES

    def refresh(self) -> None:
        """New cuts from the control so far, again after a quarter more values.

        A cut is the upper end of its quantile's bin: a value that many control calls share must not exceed itself.
        """
        control = self.control
        if control.count >= self._next:
            self.cuts = tuple((control.quantile(q) or 0.0) * _BIN_END for q in _CUTS)
            self._next = control.count + max(1, control.count // 4)

    def restore(self, state: object) -> None:
        if not (isinstance(state, list) and len(state) == 2):
            raise ValueError("numbers of a stratum: expected those of canary and control")
        self.canary, self.control = Histogram.from_state(state[0]), Histogram.from_state(state[1])


class NumberGuard:
    """Guards the distribution of a heavy-tailed number: `ttft_p95`, `latency_p95`, `cost`."""

    def __init__(self, metric: str, ratio: float, alpha: float) -> None:
        self.metric = metric
        self._ratio = ratio
        self._alpha = alpha
        self._test = OrderTest(len(_CUTS))
        self._strata = (_Stratum(), _Stratum())  # not streaming, streaming

    def observe(self, sample: Sample, *, canary: bool, share: float) -> None:
        match self.metric:
            case "ttft_p95":
                value = sample.ttft_s
            case "latency_p95":
                value = sample.latency_s
            case _:
                value = sample.cost_nusd
        if value is None:
            return
        stratum = self._strata[sample.stream]
        stratum.refresh()
        update = self._test.update_canary if canary else self._test.update_control
        if stratum.cuts:
            update(value, share, stratum.cuts)
        (stratum.canary if canary else stratum.control).add(value)

    def not_inferior(self, margin: float) -> bool:  # noqa: ARG002  # a margin of quality says nothing of seconds or dollars
        """Numbers are held by their limit alone."""
        return True

    def fails(self) -> bool:
        """Whether the guardrail demands the rollback now; O(1) as long as there is no evidence."""
        return self._test.rejected(self._alpha) and self.status().verdict == "fail"

    def status(self) -> GuardStatus:
        stratum = max(self._strata, key=lambda each: each.canary.count)
        canary, control = self._value(stratum.canary), self._value(stratum.control)
        beyond = canary is not None and control is not None and canary > self._ratio * control
        units = min(stratum.canary.count, stratum.control.count)
        return GuardStatus(
            metric=self.metric,
            limit=f"{self._ratio:g}x",
            canary=canary,
            control=control,
            canary_n=stratum.canary.count,
            control_n=stratum.control.count,
            e_value=self._test.e_value,
            needed=1 / self._alpha,
            verdict=_verdict(self._test.e_value, self._alpha, beyond, units),
        )

    def _value(self, values: Histogram) -> float | None:
        return values.mean() if self.metric == "cost" else values.quantile(0.95)

    def to_state(self) -> object:
        return [self._test.to_state(), *([s.canary.to_state(), s.control.to_state()] for s in self._strata)]

    def restore(self, state: list[object]) -> None:
        test, *strata = state
        self._test = OrderTest.from_state(test)  # type: ignore[arg-type]  # JSON of our own; a bad one raises and is dropped
        for stratum, kept in zip(self._strata, strata, strict=True):
            stratum.restore(kept)


def _verdict(e_value: float, alpha: float, beyond: bool, units: int) -> Verdict:
    if beyond and e_value * alpha >= 1.0:
        return "fail"
    return "inconclusive" if units < MIN_UNITS or (beyond and e_value > 1.0) else "pass"


def guards_of(spec: RolloutSpec) -> tuple[Guard, ...]:
    """The guardrails of a rollout, alpha divided among them."""
    wanted: dict[str, Guardrail] = {each.metric: each for each in spec.guardrails}
    limits: dict[str, float] = {"error_rate": DEFAULT_ERROR_RATIO, "rejections": DEFAULT_REJECTION_RATIO}
    for metric, guardrail in wanted.items():
        limits[metric] = _limit(guardrail)
    if "quality" in limits:
        limits["validated_quality"] = limits["quality"]
    alpha = spec.false_rollback / len(limits)
    proves = spec.require == "non_inferior"
    bounded = ("error_rate", "rejections", "quality", "validated_quality")
    return tuple(
        BoundedGuard(metric, limit, alpha, proves=proves) if metric in bounded else NumberGuard(metric, limit, alpha)
        for metric, limit in limits.items()
    )


def _limit(guardrail: Guardrail) -> float:
    if guardrail.ratio is not None:
        return guardrail.ratio
    loss = guardrail.loss or 0.0
    return 1 - loss if guardrail.metric == "quality" else 1 + loss


def restore_guards(guards: tuple[Guard, ...], state: Mapping[str, object]) -> tuple[str, ...]:
    """Gives each guardrail its part of `state`; names those that had to begin anew (absent or unreadable)."""
    fresh = []
    for guard in guards:
        part = state.get(guard.metric)
        try:
            guard.restore(part if isinstance(part, list) else [])
        except (ValueError, TypeError, IndexError):
            fresh.append(guard.metric)
    return tuple(fresh)
