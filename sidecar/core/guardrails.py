"""The guardrails of one rollout: each compares one metric of the canary with the concurrent control.

What a limit means. `error_rate: 1.5x` fails when BOTH hold now: the harm test rejects "the canary is no worse than
the control" (E >= 1/alpha, `core.sequential`), and the canary is beyond the limit: its error rate so far is above 1.5
times the control's, or a second test rejects "at no time above 1.5 times". That one finds a canary that breaks after
a long good time, whose rate of all units stays small for as long again; an arm inside the limit it takes for one beyond
with the same alpha at most. Evidence of harm inside the limit is shown and does not fail. `quality: -5%` fails below 95 %
of the control's mean score. `false_rollback`, the chance that any of them ever rolls back an arm that is no worse, is
divided among them (Bonferroni): `rejections` and `gave_up`, which nobody asked for and which look for arms that break
outright, get a quarter of what each of the others gets (SMALL_PART), as a few units show that at any alpha.

Some guardrails are there without being asked for, because few policies want the contrary: `error_rate` (limit 1.5x when
not stated), and `rejections`: the share of calls answered as the CALLER'S mistake. Those never count as errors, but
callers are spread by a hash, so their mistakes are equally frequent in both groups; an arm that rejects more (a model
name that does not exist, a parameter it lacks) does so itself. `gave_up`: the share of units whose client left before
the first token (without a stream: before the answer) after it had waited longer than 95 % of the control's answers of
the same kind take (PATIENCE_S while fewer than 20 are known). So a canary that HANGS shows harm although no call of it
ever ends by itself; people who close their tabs do so in both groups. `gave_up: off` takes it away, for callers that
leave as a matter of course. `quality` brings `validated_quality`: labels (feedback, judge) and validators are never
mixed, as their coverage differs.

Who leaves after t seconds without an answer also leaves a CENSORED number for `ttft_p95` and `latency_p95`: at least t
(`core.order`). What an aborted call cost or was worth is never counted. What the sidecar itself refused (OURS) says
nothing of any arm.

Verdicts, in this order: `fail` as above; `inconclusive` with fewer than MIN_UNITS units in either group, or when the
estimate is beyond the limit and the evidence leans to harm (E > 1); else `pass`. A pass is not a proof of equality:
`non_inferior` wants one, from each guardrail of a mean in [0, 1] (`sequential.MarginTest`, PROOF_ALPHA).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, Literal, Protocol

import msgspec
from msgspec import Struct

from sidecar.core.order import MIN_VALUES, Odds, OrderTest, cuts_of
from sidecar.core.policy import Guardrail, RolloutSpec
from sidecar.core.sequential import HarmTest, MarginTest
from sidecar.core.types import Outcome
from sidecar.core.window import Histogram

Verdict = Literal["pass", "fail", "inconclusive"]
_Pair = tuple[int, float]
MIN_UNITS: Final = 20  # of either group before a guardrail may pass
DEFAULT_ERROR_RATIO: Final = 1.5
DEFAULT_REJECTION_RATIO: Final = 2.0  # callers' mistakes come in clusters: only a clear difference is the arm's
DEFAULT_GAVE_UP_RATIO: Final = 2.0  # leaving is rare and comes in clusters, as a person's mood does
PATIENCE_S: Final = 10.0  # 3..60: an app that leaves earlier may be in a hurry; later, a hanging arm costs more
PROOF_ALPHA: Final = 0.05  # 0.001..0.1 of a wrong "not inferior", per guardrail; smaller asks for more units
SMALL_PART: Final = 0.25  # 0.05..1 of a full part of alpha, for _COARSE metrics that nobody asked for; smaller: slower
OURS: Final = frozenset({"shed", "shutdown"})  # errors of the sidecar: no room, no connection free, going down
_COARSE: Final = frozenset({"rejections", "gave_up"})  # they look for arms that break outright: few units show that
_BOUNDED: Final = frozenset({"error_rate", "rejections", "quality", "validated_quality"})
_TOGETHER: Final = 256  # 1..1e4 waits that are counted at once; more cost memory
_PATIENCE: Final = (0.95,)  # quantile of the control's answers that a client must have waited for


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


_SHOWN: Final[Mapping[str, Callable[[Sample], float | None]]] = {
    "error_rate": attrgetter("failed"),
    "rejections": attrgetter("rejected"),
    "gave_up": attrgetter("gave_up"),
    "quality": attrgetter("labelled"),
    "validated_quality": attrgetter("validated"),
}  # of a unit, to the guardrail of this metric


class _Tally:
    """How many values there were, and their sum."""

    __slots__ = ("n", "total")

    def __init__(self, n: int = 0, total: float = 0.0) -> None:
        self.n = n
        self.total = total

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None


class BoundedGuard:
    """Guards a mean in [0, 1]: `error_rate`, `rejections`, `gave_up` (harm = the value), qualities (1 - value)."""

    def __init__(self, metric: str, worst: float, alpha: float, *, margin: float | None = None) -> None:
        """`worst`: the limit as a ratio to the control, above which a harm fails (>= 1) and below which a quality does
        (0..1). `alpha`, in (0, 1), is the chance of a false alarm; `margin`, in [0, 1), that of non-inferiority, where
        it must be shown."""
        self.metric = metric
        self._worst = worst
        self._alpha = alpha
        self._quality = metric in ("quality", "validated_quality")
        self._shown = _SHOWN[metric]
        self._test = HarmTest()
        self._limit_test = None if self._quality else HarmTest(worst)
        self._proof = None if margin is None else MarginTest(margin)
        self._canary, self._control = _Tally(), _Tally()  # of harm

    @property
    def is_plain(self) -> bool:
        """Whether units without harm may be told later, and all at once: `observe_harmless`."""
        return self._proof is None and not self._quality

    @property
    def is_beyond(self) -> bool:
        """Whether the harm test rejects: without that it cannot fail."""
        return self._test.rejected(self._alpha)

    def observe(self, sample: Sample, *, canary: bool, share: float) -> None:
        """Counts one unit, which was put in the canary with probability `share`; nothing where its harm is unknown."""
        shown = self._shown(sample)
        if shown is None:
            return
        harm = 1.0 - shown if self._quality else float(shown)
        for test in self._tests():
            (test.update_canary if canary else test.update_control)(harm, share)
        tally = self._canary if canary else self._control
        if sample.late:
            tally.total = min(tally.total + harm, float(tally.n))
            return
        tally.n += 1
        tally.total += harm
        if self._proof is not None:
            (self._proof.add_canary if canary else self._proof.add_control)(harm)

    def _tests(self) -> Iterator[HarmTest]:
        yield self._test
        if self._limit_test is not None:
            yield self._limit_test

    def observe_harmless(self, units: int, *, canary: bool) -> None:
        """Counts `units` new units without harm at once, as that many calls of `observe` would."""
        (self._canary if canary else self._control).n += units
        if canary:
            for test in self._tests():
                test.count(units)
        if self._proof is not None:
            for _ in range(units):
                (self._proof.add_canary if canary else self._proof.add_control)(0.0)

    def not_inferior(self) -> bool:
        """Whether 1 - harm of the canary is shown to be at least `1 - margin` times that of the control."""
        return self._proof is not None and self._proof.rejected(PROOF_ALPHA)

    def fails(self) -> bool:
        """Whether the guardrail demands the rollback now; O(1) as long as there is no evidence."""
        return self._test.rejected(self._alpha) and self.status().verdict == "fail"

    def status(self) -> GuardStatus:
        """As it stands now; computed anew, changes nothing."""
        canary, control = self._value(self._canary), self._value(self._control)
        beyond = lately = False
        if canary is not None and control is not None:
            lately = self._limit_test is not None and self._limit_test.rejected(self._alpha)
            beyond = lately or (canary < self._worst * control if self._quality else canary > self._worst * control)
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
            lately=lately,
        )

    def _value(self, harm: _Tally) -> float | None:
        mean = harm.mean
        return 1 - mean if mean is not None and self._quality else mean

    def to_state(self) -> list[object]:
        tallies = [[each.n, each.total] for each in (self._canary, self._control)]
        tests = [number for test in self._tests() for number in test.to_state()]
        return [tests, *tallies, [] if self._proof is None else self._proof.to_state()]

    def restore(self, state: list[object]) -> None:
        """Takes over what `to_state` gave. Raises one of the errors of `restore_guards` when it cannot be read."""
        tests, canary, control, proof = msgspec.convert(state, tuple[list[float], _Pair, _Pair, list[float]])
        size = len(self._test.to_state())
        made = HarmTest.from_state(tests[:size])
        limit = None if self._limit_test is None else HarmTest(self._worst)
        if limit is not None and tests[size:]:  # a state of before has none: that test begins anew
            limit.restore(tests[size:])
        if self._proof is not None:
            self._proof.restore(proof)
        self._test, self._limit_test, self._canary, self._control = made, limit, _Tally(*canary), _Tally(*control)


class _Stratum:
    """Streaming or non-streaming calls: their numbers are never compared with each other (GW-12)."""

    def __init__(self, canary: Histogram, control: Histogram) -> None:
        self.canary = canary
        self.control = control
        self.odds: Odds | None = None
        self._next = MIN_VALUES

    def refresh(self) -> None:
        """New odds from the control so far, again after a quarter more values."""
        control = self.control
        if control.count >= self._next:
            self.odds = Odds(control)
            self._next = control.count + max(1, control.count // 4)

    def to_state(self) -> object:
        return [self.canary.to_state(), self.control.to_state()]

    @classmethod
    def from_state(cls, state: object) -> "_Stratum":
        """The inverse of `to_state`. Raises ValueError when it cannot be read."""
        canary, control = msgspec.convert(state, tuple[list[object], list[object]])
        return cls(Histogram.from_state(canary), Histogram.from_state(control))


class _Waits:
    """How long the control's answers take."""

    def __init__(self) -> None:
        self.begin_with(Histogram())
        self._next = MIN_VALUES
        self.patience_s = PATIENCE_S

    def begin_with(self, values: Histogram) -> None:
        self._values = values
        self._new: list[float] = []  # that are not counted yet

    def add(self, wait_s: float) -> None:
        self._new.append(wait_s)
        if len(self._new) >= _TOGETHER:
            self.counted()

    def counted(self) -> Histogram:
        """All of them."""
        new, self._new = self._new, []
        self._values.extend(new)
        return self._values

    def refresh(self) -> None:
        """A new patience from the answers so far, again after a quarter more of them."""
        values = self.counted()
        if values.count >= self._next:
            (self.patience_s,) = cuts_of(values, _PATIENCE)
            self._next = values.count + max(1, values.count // 4)


class PatienceGuard(BoundedGuard):
    """Guards `gave_up`, and knows how long an answer takes on the control: who waited longer did not just close a tab."""

    def __init__(self, worst: float, alpha: float, *, margin: float | None = None) -> None:
        super().__init__("gave_up", worst, alpha, margin=margin)
        self._waits = (_Waits(), _Waits())  # until the answer is there; until the first token of a stream

    def exceeded(self, sample: Sample) -> bool:
        """Whether the client of an aborted call left without a token, after longer than the control's answers take."""
        if sample.left_s is None or (sample.stream and sample.ttft_s is not None):
            return False
        waits = self._waits[sample.stream]
        waits.refresh()
        return sample.left_s > waits.patience_s

    def wait(self, sample: Sample) -> None:
        """Counts how long one unit of the control waited for its answer."""
        wait_s = sample.ttft_s if sample.stream else sample.latency_s
        if wait_s is not None:
            self._waits[sample.stream].add(wait_s)

    def observe(self, sample: Sample, *, canary: bool, share: float) -> None:
        if not canary:
            self.wait(sample)
        super().observe(sample, canary=canary, share=share)

    def to_state(self) -> list[object]:
        return [*super().to_state(), *(waits.counted().to_state() for waits in self._waits)]

    def restore(self, state: list[object]) -> None:
        kept = [Histogram.from_state(one) for one in msgspec.convert(state[4:], tuple[list[object], list[object]])]
        super().restore(state[:4])
        for waits, values in zip(self._waits, kept, strict=True):
            waits.begin_with(values)


class NumberGuard:
    """Guards the distribution of a heavy-tailed number: `ttft_p95`, `latency_p95`, `cost`."""

    def __init__(self, metric: str, ratio: float, alpha: float, *, paired: bool = False) -> None:
        """`ratio` to the control above which the canary fails (>= 1), `alpha` as in `BoundedGuard`. `paired`: units come in
        pairs, one of each group, instead of being drawn one by one."""
        self.metric = metric
        self._ratio = ratio
        self._alpha = alpha
        self._floor = float(paired)
        self._test = OrderTest()
        self._strata = tuple(_Stratum(Histogram(), Histogram()) for _ in range(2))  # not streaming, streaming

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
        shown = at_least if value is None else value
        if shown is None:
            return
        odds = stratum.odds
        if odds is not None:
            floor = self._floor if value is not None else 1.0
            self._test.update(odds, shown, share, canary=canary, floor=floor)
        # a number, or a wait that is in the tail for certain
        if value is not None or (odds is not None and shown > odds.cuts[-1]):
            (stratum.canary if canary else stratum.control).add(shown)

    def not_inferior(self) -> bool:
        """Numbers are held by their limit alone: a margin of quality says nothing of seconds or dollars."""
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
        test, whole, streamed = state
        made = OrderTest.from_state(msgspec.convert(test, list[float]))
        self._test, self._strata = made, (_Stratum.from_state(whole), _Stratum.from_state(streamed))


def _verdict(e_value: float, alpha: float, beyond: bool, units: int) -> Verdict:
    if beyond and e_value * alpha >= 1.0:
        return "fail"
    return "inconclusive" if units < MIN_UNITS or (beyond and e_value > 1.0) else "pass"


def guards_of(spec: RolloutSpec, *, paired: bool = False) -> tuple[PatienceGuard, tuple[Guard, ...]]:
    """The guardrails of a rollout, `false_rollback` divided among them, errors first and `gave_up` last; and the one
    that knows what patience is, which is there also where `gave_up` is off."""
    wanted: dict[str, Guardrail] = {each.metric: each for each in spec.guardrails}
    limits = {
        "error_rate": DEFAULT_ERROR_RATIO, "rejections": DEFAULT_REJECTION_RATIO, "gave_up": DEFAULT_GAVE_UP_RATIO,
    }  # fmt: skip
    limits |= {metric: _limit(guardrail) for metric, guardrail in wanted.items()}
    if "quality" in limits:
        limits["validated_quality"] = limits["quality"]
    watched = [metric for metric in limits if metric not in wanted or not wanted[metric].off]
    parts = {metric: SMALL_PART if metric in _COARSE - wanted.keys() else 1.0 for metric in watched}
    alpha = spec.false_rollback / spec.replicas / sum(parts.values())
    margin = spec.margin if spec.require == "non_inferior" else None
    patience = PatienceGuard(limits.pop("gave_up"), alpha * parts.pop("gave_up", SMALL_PART), margin=margin)
    others: list[Guard] = [
        BoundedGuard(metric, limits[metric], alpha * part, margin=margin)
        if metric in _BOUNDED
        else NumberGuard(metric, limits[metric], alpha * part, paired=paired)
        for metric, part in parts.items()
    ]
    return patience, (*others, patience) if "gave_up" in watched else tuple(others)


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
