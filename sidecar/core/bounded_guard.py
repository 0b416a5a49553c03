"""Guardrails of means in [0, 1]: rates of harm (`error_rate`, `rejections`, `gave_up`) and qualities.

What a limit means, and what is promised, is told in `core.guardrails`; the tests are those of `core.sequential`.
"""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Final

import msgspec

from sidecar.core.order import MIN_VALUES, cuts_of
from sidecar.core.sequential import HarmTest, LossTest, MarginTest
from sidecar.core.verdict import GuardStatus, Sample, verdict_of
from sidecar.core.window import Histogram

_Pair = tuple[int, float]
PATIENCE_S: Final = 10.0  # 3..60: an app that leaves earlier may be in a hurry; later, a hanging arm costs more
PROOF_ALPHA: Final = 0.05  # 0.001..0.1 of a wrong "not inferior", per guardrail; smaller asks for more units
_TOGETHER: Final = 256  # 1..1e4 waits that are counted at once; more cost memory
_PATIENCE: Final = (0.95,)  # quantile of the control's answers that a client must have waited for
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
        self._limit_test = self._new_limit_test()
        self._proof = None if margin is None else MarginTest(margin)
        self._canary, self._control = _Tally(), _Tally()  # of harm

    def _new_limit_test(self) -> HarmTest | LossTest:
        return LossTest(1 - self._worst) if self._quality else HarmTest(self._worst)

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
        for test in (self._test, self._limit_test):
            (test.update_canary if canary else test.update_control)(harm, share)
        tally = self._canary if canary else self._control
        if sample.late:
            tally.total = min(tally.total + harm, float(tally.n))
            return
        tally.n += 1
        tally.total += harm
        if self._proof is not None:
            (self._proof.add_canary if canary else self._proof.add_control)(harm)

    def observe_harmless(self, units: int, *, canary: bool) -> None:
        """Counts `units` new units without harm at once, as that many calls of `observe` would, where that `is_plain`."""
        (self._canary if canary else self._control).n += units
        if canary:
            self._test.count(units)
            self._limit_test.count(units)

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
            lately = self._limit_test.rejected(self._alpha)
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
            verdict=verdict_of(self._test.e_value, self._alpha, beyond, min(self._canary.n, self._control.n)),
            lately=lately,
        )

    def _value(self, harm: _Tally) -> float | None:
        mean = harm.mean
        return 1 - mean if mean is not None and self._quality else mean

    def to_state(self) -> list[object]:
        tallies = [[each.n, each.total] for each in (self._canary, self._control)]
        tests = [*self._test.to_state(), *self._limit_test.to_state()]
        return [tests, *tallies, [] if self._proof is None else self._proof.to_state()]

    def restore(self, state: list[object]) -> None:
        """Takes over what `to_state` gave. Raises one of the errors of `restore_guards` when it cannot be read."""
        tests, canary, control, proof = msgspec.convert(state, tuple[list[float], _Pair, _Pair, list[float]])
        size = len(self._test.to_state())
        made, limit = HarmTest.from_state(tests[:size]), self._new_limit_test()
        if tests[size:]:  # a state of before has none: that test begins anew
            limit.restore(tests[size:])
        if self._proof is not None:
            self._proof.restore(proof)
        self._test, self._limit_test, self._canary, self._control = made, limit, _Tally(*canary), _Tally(*control)


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
