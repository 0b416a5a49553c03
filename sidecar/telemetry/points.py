"""The metric points of OpenTelemetry, summed by us: per set of attributes five histograms' worth of numbers and one sum.

An exchange only appends its numbers to lists; a histogram's arithmetic is done for many at once, with numpy, when a list
is long or the points are read. Attribute sets are bounded: beyond MAX_SETS what is new is summed under the one attribute
`otel.metric.overflow`, as OpenTelemetry's own libraries do. Not thread-safe but for `metrics`.
"""

from collections.abc import Iterator, Sequence
from threading import Lock

import numpy as np

from sidecar.core.types import Settled
from sidecar.telemetry.otlp import Count, Histogram, Scalar, metric

DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BUCKETS = tuple(4.0**power for power in range(14))
MAX_SETS = 2000
_DIGEST_AT = 512  # numbers kept before their arithmetic is done

Attributes = dict[str, Scalar | Sequence[str]]
OVERFLOW: Attributes = {"otel.metric.overflow": True}


class _Histogram:
    __slots__ = ("_bounds", "_counts", "_least", "_most", "_total", "kept")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._total, self._least, self._most = 0.0, float("inf"), float("-inf")
        self.kept: list[float] = []

    def add(self, value: float) -> None:
        self.kept.append(value)
        if len(self.kept) >= _DIGEST_AT:
            self.digest()

    def digest(self) -> None:
        """Counts what was kept since the last time, all at once."""
        if self.kept:
            values = np.array(self.kept, dtype=np.float64)
            self.kept.clear()
            at = np.searchsorted(self._bounds, values, side="left")  # a bound belongs to the bucket below it
            self._counts += np.bincount(at, minlength=len(self._counts))
            self._total += float(values.sum())
            self._least = min(self._least, float(values.min()))
            self._most = max(self._most, float(values.max()))

    def point(self, attributes: Attributes) -> Histogram | None:
        """What was added so far; None: nothing."""
        self.digest()
        if self._least > self._most:
            return None
        counts = self._counts.tolist()
        return Histogram(attributes, counts, self._bounds, self._total, self._least, self._most)


class Points:
    """What was counted under one set of attributes."""

    __slots__ = ("_attributes", "_chunks", "_costs_nusd", "_durations", "_input", "_output", "_priced", "_ttft")

    def __init__(self, attributes: Attributes) -> None:
        self._attributes = attributes
        self._durations: dict[str | None, _Histogram] = {}
        self._chunks, self._ttft = _Histogram(DURATION_BUCKETS), _Histogram(DURATION_BUCKETS)
        self._input, self._output = _Histogram(TOKEN_BUCKETS), _Histogram(TOKEN_BUCKETS)
        self._costs_nusd = 0
        self._priced = False

    def add(self, settled: Settled, error: str | None) -> None:
        """Takes one exchange in; `error` is its `error.type`."""
        outcome = settled.outcome
        clocks, usage = outcome.clocks, outcome.usage
        durations = self._durations.get(error)
        if durations is None:
            durations = self._durations[error] = _Histogram(DURATION_BUCKETS)
        durations.add(clocks.duration_s)
        if usage is not None:
            if usage.input_tokens is not None:
                self._input.add(usage.input_tokens)
            if usage.output_tokens is not None:
                self._output.add(usage.output_tokens)
        if clocks.ttfe_s is not None:
            self._chunks.add(clocks.ttfe_s)
        if clocks.ttft_s is not None:
            self._ttft.add(clocks.ttft_s)
        if outcome.cost_nusd is not None:
            self._costs_nusd += outcome.cost_nusd
            self._priced = True

    def histograms(self) -> Iterator[tuple[str, str, Histogram]]:
        """(metric, unit, point) for all that has numbers."""
        common = self._attributes
        durations = [
            ("gen_ai.client.operation.duration", "s", kept, {"error.type": error} if error else {})
            for error, kept in self._durations.items()
        ]
        others: list[tuple[str, str, _Histogram, dict[str, str]]] = [
            ("gen_ai.client.operation.time_to_first_chunk", "s", self._chunks, {}),
            ("gen_ai.client.token.usage", "{token}", self._input, {"gen_ai.token.type": "input"}),
            ("gen_ai.client.token.usage", "{token}", self._output, {"gen_ai.token.type": "output"}),
            ("llm_sidecar.ttft", "s", self._ttft, {}),
        ]
        for name, unit, kept, more in durations + others:
            point = kept.point({**common, **more})
            if point is not None:
                yield name, unit, point

    def cost(self) -> Count | None:
        """Dollars of the exchanges whose cost is known; None: of none."""
        return Count(self._attributes, self._costs_nusd / 1e9) if self._priced else None


class Meter:
    """All points of the process, or those since they were told last: then the next are another Meter's."""

    def __init__(self) -> None:
        self._sets: dict[tuple[str | int, ...], Points] = {}
        self.overflow = Points(OVERFLOW)

    def open(self, key: tuple[str | int, ...], attributes: Attributes) -> Points:
        """The points of a set of attributes that `key` stands for; beyond MAX_SETS those of all others."""
        points = self._sets.get(key)
        if points is not None:
            return points
        if len(self._sets) >= MAX_SETS:
            return self.overflow
        points = self._sets[key] = Points(attributes)
        return points

    def metrics(self, times: tuple[int, int], temporality: int, lock: Lock) -> list[bytes]:
        """Every metric that has points, as `otlp.metric` makes them; `times` in nanoseconds: since when, and when.

        Called from another thread than `open`; `lock` is what its callers hold, and is taken for one set at a time.
        """
        histograms: dict[tuple[str, str], list[Histogram]] = {}
        costs: list[Count] = []
        for points in (*self._sets.copy().values(), self.overflow):
            with lock:
                found, cost = list(points.histograms()), points.cost()
            for name, unit, point in found:
                histograms.setdefault((name, unit), []).append(point)
            if cost is not None:
                costs.append(cost)
        made = [metric(name, unit, all_of, times, temporality) for (name, unit), all_of in histograms.items()]
        return made + ([metric("llm_sidecar.cost.usd", "USD", costs, times, temporality)] if costs else [])
