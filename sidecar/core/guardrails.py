"""The guardrails of one rollout: each compares one metric of the canary with the concurrent control.

What a limit means. `error_rate: 1.5x` fails when BOTH hold now: the harm test rejects "the canary is no worse than
the control" (E >= 1/alpha, `core.sequential`), and the canary's error rate so far is above 1.5 times the control's.
Evidence of harm inside the limit is shown and does not fail. `quality: -5%` fails below 95 % of the control's mean
score. alpha is `false_rollback / number of guardrails` (Bonferroni): the chance that any of them ever rolls back an
arm that is no worse.

Some guardrails are there without being asked for, because no policy wants the contrary: `error_rate` (limit 1.5x when
not stated), and `rejections`: the share of calls answered as the CALLER'S mistake. Those never count as errors, but
callers are spread by a hash, so their mistakes are equally frequent in both groups; an arm that rejects more (a model
name that does not exist, a parameter it lacks) does so itself. `gave_up`: the share of units whose client left before
the first token (without a stream: before the answer) after it had waited longer than 95 % of the control's answers of
the same kind take (PATIENCE_S while fewer than 20 are known). So a canary that HANGS shows harm although no call of it
ever ends by itself; people who close their tabs do so in both groups. `quality` brings `validated_quality`: labels
(feedback, judge) and validators are never mixed, as their coverage differs.

Who leaves after t seconds without an answer also leaves a CENSORED number: it exceeds every cut below t, which is a
harm for those cuts of `ttft_p95` and `latency_p95`; for the other cuts nothing is known and nothing is counted. What
is counted, "the smaller of answer time and patience is above the cut", is no more frequent for a canary that is no
slower, so the test keeps its promise. What an aborted call cost or was worth is never counted.

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
DEFAULT_GAVE_UP_RATIO: Final = 2.0  # leaving is rare and comes in clusters, as a person's mood does
PATIENCE_S: Final = 10.0  # 3..60: an app that leaves earlier may be in a hurry; later, a hanging arm costs more
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
    left_s: float | None = None  # the client left so long after the call was sent, before its end
    gave_up: bool | None = None  # ... without a token, and later than an answer takes: `PatienceGuard.exceeded`
    late: bool = False


def is_failure(outcome: Outcome, arm: str | None = None) -> bool:
    """Whether an outcome that is neither aborted nor the caller's fault is an error of `arm`, which was decided on.

    The one definition, for guardrails, thresholds and the brake: a call that failed, or that another arm had to serve;
    a stream that ended without a last event and without a finish reason; an answer that is none of its dialect.
    """
    if outcome.kind == "failed" or outcome.error == "bad_body" or outcome.served_arm not in (None, arm):
        return True
    return outcome.error == "no_terminal" and outcome.stream and outcome.finish is None


def sample_of(outcome: Outcome, quality: float | None, arm: str | None = None) -> Sample:
    """What an outcome teaches about `arm`, which was decided on. Of an aborted call: how long its client waited."""
    clocks = outcome.clocks
    sent_s = clocks.sent_s or 0.0
    ttft_s = None if clocks.ttft_s is None or not outcome.stream else max(0.0, clocks.ttft_s - sent_s)
    latency_s = max(0.0, clocks.duration_s - sent_s)
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
    """Guards a mean in [0, 1]: `error_rate`, `rejections`, `gave_up` (harm = the value), qualities (1 - value)."""

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
            case "gave_up":
                return None if sample.gave_up is None else float(sample.gave_up)
            case "quality":
                score = sample.labelled
            case _:
                score = sample.validated
        return None if score is None else 1.0 - score

    def observe(self, sample: Sample, *, canary: bool, share: float) -> None:
        """Counts one unit, which was put in the canary with probability `share`; nothing where its harm is unknown."""
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
        """As it stands now; computed anew, changes nothing."""
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

    def to_state(self) -> list[object]:
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

    def to_state(self) -> object:
        return [self.canary.to_state(), self.control.to_state()]

    def restore(self, state: object) -> None:
        if not (isinstance(state, list) and len(state) == 2):
            raise ValueError("numbers of a stratum: expected those of canary and control")
        self.canary, self.control = Histogram.from_state(state[0]), Histogram.from_state(state[1])


class PatienceGuard(BoundedGuard):
    """Guards `gave_up`, and knows how long an answer takes on the control: who waited longer did not just close a tab."""

    def __init__(self, alpha: float, *, proves: bool = False) -> None:
        super().__init__("gave_up", DEFAULT_GAVE_UP_RATIO, alpha, proves=proves)
        self._waits = (_Stratum(), _Stratum())  # until the answer is there; until the first token of a stream

    def exceeded(self, sample: Sample) -> bool:
        """Whether the client of an aborted call left without a token, after longer than the control's answers take."""
        if sample.left_s is None or (sample.stream and sample.ttft_s is not None):
            return False
        waits = self._waits[sample.stream]
        waits.refresh()
        return sample.left_s > (waits.cuts[-1] if waits.cuts else PATIENCE_S)

    def observe(self, sample: Sample, *, canary: bool, share: float) -> None:
        wait_s = sample.ttft_s if sample.stream else sample.latency_s
        if wait_s is not None and not canary:
            self._waits[sample.stream].control.add(wait_s)
        super().observe(sample, canary=canary, share=share)

    def to_state(self) -> list[object]:
        return [*super().to_state(), *(waits.to_state() for waits in self._waits)]

    def restore(self, state: list[object]) -> None:
        super().restore(state[:3])
        for waits, kept in zip(self._waits, state[3:], strict=True):
            waits.restore(kept)


class NumberGuard:
    """Guards the distribution of a heavy-tailed number: `ttft_p95`, `latency_p95`, `cost`."""

    def __init__(self, metric: str, ratio: float, alpha: float) -> None:
        self.metric = metric
        self._ratio = ratio
        self._alpha = alpha
        self._test = OrderTest(len(_CUTS))
        self._strata = (_Stratum(), _Stratum())  # not streaming, streaming

    def observe(self, sample: Sample, *, canary: bool, share: float) -> None:
        """Counts one unit, which was put in the canary with probability `share`: its number, or that it is at least so."""
        at_least: float | None = None
        match self.metric:
            case "ttft_p95":
                value = sample.ttft_s
                at_least = sample.left_s if sample.stream else None
            case "latency_p95":
                value, at_least = sample.latency_s, sample.left_s
            case _:
                value = sample.cost_nusd
        stratum = self._strata[sample.stream]
        stratum.refresh()
        values = stratum.canary if canary else stratum.control
        if value is not None:
            if stratum.cuts:
                (self._test.update_canary if canary else self._test.update_control)(value, share, stratum.cuts)
            values.add(value)
        elif at_least is not None and stratum.cuts:
            self._observe_censored(at_least, stratum.cuts, canary=canary, share=share)
            if at_least > stratum.cuts[-1]:  # certainly in the tail: the 95th percentile must see it
                values.add(at_least)

    def _observe_censored(self, at_least: float, cuts: tuple[float, ...], *, canary: bool, share: float) -> None:
        for test, cut in zip(self._test.tests, cuts, strict=True):
            if at_least > cut:
                (test.update_canary if canary else test.update_control)(1.0, share)

    def not_inferior(self, margin: float) -> bool:  # noqa: ARG002  # a margin of quality says nothing of seconds or dollars
        """Numbers are held by their limit alone."""
        return True

    def fails(self) -> bool:
        """Whether the guardrail demands the rollback now; O(1) as long as there is no evidence."""
        return self._test.rejected(self._alpha) and self.status().verdict == "fail"

    def status(self) -> GuardStatus:
        """As it stands now; computed anew, changes nothing."""
        stratum = max(self._strata, key=lambda each: (each.canary.count, each.control.count))
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
        return [self._test.to_state(), *(stratum.to_state() for stratum in self._strata)]

    def restore(self, state: list[object]) -> None:
        test, *strata = state
        self._test = OrderTest.from_state(test)  # type: ignore[arg-type]  # JSON of our own; a bad one raises and is dropped
        for stratum, kept in zip(self._strata, strata, strict=True):
            stratum.restore(kept)


def _verdict(e_value: float, alpha: float, beyond: bool, units: int) -> Verdict:
    if beyond and e_value * alpha >= 1.0:
        return "fail"
    return "inconclusive" if units < MIN_UNITS or (beyond and e_value > 1.0) else "pass"


def guards_of(spec: RolloutSpec) -> tuple[PatienceGuard, tuple[Guard, ...]]:
    """The guardrails of a rollout, alpha divided among them all: `gave_up`, and then the others."""
    wanted: dict[str, Guardrail] = {each.metric: each for each in spec.guardrails}
    limits: dict[str, float] = {"error_rate": DEFAULT_ERROR_RATIO, "rejections": DEFAULT_REJECTION_RATIO}
    for metric, guardrail in wanted.items():
        limits[metric] = _limit(guardrail)
    if "quality" in limits:
        limits["validated_quality"] = limits["quality"]
    alpha = spec.false_rollback / (len(limits) + 1)
    proves = spec.require == "non_inferior"
    bounded = ("error_rate", "rejections", "quality", "validated_quality")
    others = tuple(
        BoundedGuard(metric, limit, alpha, proves=proves) if metric in bounded else NumberGuard(metric, limit, alpha)
        for metric, limit in limits.items()
    )
    return PatienceGuard(alpha, proves=proves), others


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
