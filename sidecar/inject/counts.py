"""The injector's metrics, by the names of the catalogue. Every value of a closed set is there from the start, at zero."""

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sidecar import __version__
from sidecar.inject.cluster import CALLS
from sidecar.inject.review import Result
from sidecar.inject.served import Served
from sidecar.telemetry.catalogue import BY_NAME, FINE_SECONDS, PREFIX

UNREAD: Final = "unread"  # too large, too slow, or cut off
FAILED: Final = "failed"  # a bug of ours
RESULTS: Final = (*get_args(Result), UNREAD, FAILED)
_EDGES: Final = FINE_SECONDS[: FINE_SECONDS.index(5.12) + 1]  # nobody waits longer for a webhook


class Counts(Collector):
    """One per process; not thread-safe."""

    def __init__(self, served: Served, clock: Callable[[], float]) -> None:
        """`clock` is the wall clock, which the age of a certificate is told by."""
        self.config_refused: Callable[[], bool] = lambda: False
        self._served, self._clock = served, clock
        self._reviews = dict.fromkeys(RESULTS, 0)
        self._errors = dict.fromkeys(CALLS, 0)
        self._buckets = [0] * (len(_EDGES) + 1)
        self._seconds = 0.0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self._registry)

    def review(self, result: str, took_s: float) -> None:
        """Counts one review. `result` is one of RESULTS."""
        self._reviews[result] += 1
        self._buckets[bisect_left(_EDGES, took_s)] += 1
        self._seconds += took_s

    def cluster_error(self, call: str) -> None:
        """Counts a call to the API server that failed. `call` is one of CALLS."""
        self._errors[call] += 1

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and body for a scrape, in the format that its Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Every family (prometheus_client's protocol)."""
        yield self._counter("inject_reviews", self._reviews)
        yield self._counter("inject_cluster_errors", self._errors)
        rotations = CounterMetricFamily(*_named("inject_rotations"))
        rotations.add_metric([], self._served.rotations)
        yield rotations
        yield self._durations()
        yield self._gauge("inject_config_error", float(self.config_refused()))
        if self._served.facts is not None:
            yield self._gauge("inject_certificate_expiry_timestamp_seconds", self._served.facts.expires)
            yield self._gauge("inject_certificate_age_seconds", self._clock() - self._served.facts.begins)
            if self._served.facts.authority_expires:
                yield self._gauge("inject_ca_expiry_timestamp_seconds", self._served.facts.authority_expires)
        build = GaugeMetricFamily(*_named("build_info"), labels=BY_NAME["build_info"].labels)
        build.add_metric([__version__, platform.python_version(), "llm-sidecar-injector"], 1.0)
        yield build

    def _counter(self, name: str, counts: dict[str, int]) -> Metric:
        family = CounterMetricFamily(*_named(name), labels=BY_NAME[name].labels)
        for value, count in counts.items():
            family.add_metric([value], count)
        return family

    def _gauge(self, name: str, value: float) -> Metric:
        family = GaugeMetricFamily(*_named(name))
        family.add_metric([], value)
        return family

    def _durations(self) -> Metric:
        family, total = HistogramMetricFamily(*_named("inject_review_seconds")), 0
        buckets: list[tuple[str, float]] = []
        for edge, count in zip((*_EDGES, float("inf")), self._buckets, strict=True):
            total += count
            buckets.append(("+Inf" if edge == float("inf") else repr(edge), total))
        family.add_metric([], buckets, self._seconds)
        return family


def _named(name: str) -> tuple[str, str]:
    return PREFIX + name, BY_NAME[name].help
