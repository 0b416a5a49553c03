"""Guardrails of heavy-tailed numbers: `ttft_p95`, `latency_p95`, `cost`.

What a limit means, and what is promised, is told in `core.guardrails`; the tests are those of `core.order` and
`core.sequential`.
"""

from typing import Final

import msgspec

from sidecar.core.order import BIN_END, MIN_VALUES, Odds, OrderTest
from sidecar.core.sequential import HarmTest
from sidecar.core.verdict import GuardStatus, Sample, verdict_of
from sidecar.core.window import Histogram

_WHOLE: Final = 10.0  # 5..30 times the control's mean is a whole harm of cost; more find less, less hide tails


class _Stratum:
    """Streaming or non-streaming calls: their numbers are never compared with each other (GW-12)."""

    def __init__(self, canary: Histogram, control: Histogram) -> None:
        self.canary = canary
        self.control = control
        self.odds: Odds | None = None
        self.mean = self.p95 = 0.0  # of the control, when the odds were made
        self._next = MIN_VALUES

    def refresh(self) -> None:
        """New odds and measures from the control so far, again after a quarter more values."""
        control = self.control
        if control.count >= self._next:
            self.odds = Odds(control)
            self.mean = control.mean() or 0.0
            self.p95 = (control.quantile(0.95) or 0.0) * BIN_END
            self._next = control.count + max(1, control.count // 4)

    def to_state(self) -> object:
        return [self.canary.to_state(), self.control.to_state()]

    @classmethod
    def from_state(cls, state: object) -> "_Stratum":
        """The inverse of `to_state`. Raises ValueError when it cannot be read."""
        canary, control = msgspec.convert(state, tuple[list[object], list[object]])
        return cls(Histogram.from_state(canary), Histogram.from_state(control))


class NumberGuard:
    """Guards the distribution of a heavy-tailed number: `ttft_p95`, `latency_p95`, `cost`."""

    def __init__(self, metric: str, ratio: float, alpha: float, *, paired: bool = False) -> None:
        """`ratio` to the control above which the canary fails (>= 1), `alpha` as in `BoundedGuard`. `paired`: units come in
        pairs, one of each group, instead of being drawn one by one."""
        self.metric = metric
        self._ratio = ratio
        self._alpha = alpha
        self._floor = float(paired)
        self._mean = metric == "cost"  # else the 95th percentile
        self._test = OrderTest()
        self._limit_test = self._new_limit_test()
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
            harm = self._harm(stratum, shown, canary=canary)
            (self._limit_test.update_canary if canary else self._limit_test.update_control)(harm, share)
        # a number, or a wait that is in the tail for certain
        if value is not None or (odds is not None and shown > odds.cuts[-1]):
            (stratum.canary if canary else stratum.control).add(shown)

    def _new_limit_test(self) -> HarmTest:
        return HarmTest(self._ratio if self._mean else 1.0)

    def _harm(self, stratum: _Stratum, value: float, *, canary: bool) -> float:
        """What the test of the limit is told. Of a mean: the value, as a part of what is far above it. Of a percentile:
        whether the value is above the control's, and the canary's above the limit: as often, at the limit. A wait that
        goes on has passed none yet."""
        if self._mean:
            whole = stratum.mean * _WHOLE
            return min(1.0, value / whole) if whole > 0.0 else 0.0
        return float(value > stratum.p95 * (self._ratio if canary else 1.0))

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
        beyond = lately = False
        if canary is not None and control is not None:
            lately = self._limit_test.rejected(self._alpha)
            beyond = lately or canary > self._ratio * control
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
            verdict=verdict_of(self._test.e_value, self._alpha, beyond, units),
            lately=lately,
        )

    def _value(self, values: Histogram) -> float | None:
        return values.mean() if self._mean else values.quantile(0.95)

    def to_state(self) -> object:
        tests = [*self._test.to_state(), *self._limit_test.to_state()]
        return [tests, *(stratum.to_state() for stratum in self._strata)]

    def restore(self, state: list[object]) -> None:
        """Takes over what `to_state` gave. Raises one of the errors of `restore_guards` when it cannot be read."""
        both, whole, streamed = state
        tests, size = msgspec.convert(both, list[float]), len(self._test.to_state())
        made, limit = OrderTest.from_state(tests[:size]), self._new_limit_test()
        if tests[size:]:  # a state of before has none: that test begins anew
            limit.restore(tests[size:])
        self._strata = (_Stratum.from_state(whole), _Stratum.from_state(streamed))
        self._test, self._limit_test = made, limit
