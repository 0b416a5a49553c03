"""Prometheus metrics: cheap counting per exchange, families made only when somebody scrapes.

`observe` puts each exchange into its series and keeps its clocks as they are; the arithmetic of histograms is done for
many at once, with numpy, when a series is full or scraped. prometheus_client's own Counter and Histogram would cost
several microseconds a value. Everything else is read at scrape time through callables that app registers.
"""

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sidecar.core.types import Event, Settled
from sidecar.telemetry.catalogue import BY_NAME, FINE_SECONDS, PREFIX, SECONDS, markdown
from sidecar.telemetry.exposition import histogram_text
from sidecar.telemetry.series import SCORES, Histograms, Series

MAX_VALUES = 200  # distinct values per label
# 300..4,000 distinct label sets; beyond them what is new, and not the policy's, is `other` but for its route. Each may be
# 26 kB of a scrape and hold the loop for 0.14 ms, also where clients invent names
MAX_SERIES = 1_000
_MAX_LABEL_CHARS = 128

Reading: TypeAlias = float | Mapping[tuple[str, ...], float]  # a number, or label values (in order) to number

_CLOCK_METRICS = (
    "sent_seconds",
    "ttfb_seconds",
    "ttfe_seconds",
    "ttft_seconds",
    "ttfa_seconds",
    "duration_seconds",
    "itl_seconds",
    "chunk_gap_p50_seconds",
    "chunk_gap_p95_seconds",
)
_TOKEN_TYPES = ("input", "cached_input", "cache_write", "output", "reasoning")
SeriesKey: TypeAlias = tuple[str, str, str, str, str, int, str, bool]


class Metrics(Collector):
    """Give it settled exchanges, register what else can be read, and render. One per process; not thread-safe."""

    def __init__(self, service: str = "default", version: str = "", started_at: float = 0.0) -> None:
        self._series: dict[SeriesKey, Series] = {}
        self._values: dict[str, dict[str, str]] = {}
        self._allowed: dict[str, set[str]] = {}
        self._counts: dict[str, dict[tuple[str, ...], float]] = {}
        self._readers: dict[str, tuple[str, Callable[[], Reading]]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self._registry)
        python = platform.python_version()
        self.gauge("build_info", "", lambda: {(version, python, service): 1.0})
        self.gauge("start_time_seconds", "", lambda: started_at)

    def allow(self, label: str, values: Iterable[str]) -> None:
        """These values of a label are never `other`, even when its cap is reached: the policy's own names."""
        self._allowed[label] = set(values)

    def gauge(self, name: str, help: str, read: Callable[[], Reading]) -> None:  # noqa: A002  # Prometheus' word
        """Reads a gauge or counter of the catalogue at each scrape. `help` serves only for names outside of it.

        `read` answers a number, or a mapping from label values (a tuple, in the catalogue's order) to numbers.
        """
        self._readers[name] = (help, read)

    def count(self, name: str, labels: tuple[str, ...] = (), by: float = 1) -> None:
        """Adds to a counter of the catalogue."""
        counts = self._counts.setdefault(name, {})
        counts[labels] = counts.get(labels, 0) + by

    def observe(self, batch: Sequence[Settled]) -> None:
        """Counts exchanges that ended."""
        all_series = self._series
        for settled in batch:
            key = _key(settled)
            series = all_series.get(key)  # values that are known already need not be bounded again
            if series is None:
                series = self._open(self._bounded(key))
            series.add(settled)
            if settled.outcome.checks:
                self._failures(settled)
            error = settled.outcome.error
            if error is not None:
                route, arm = self._value("route", key[0]), self._value("arm", key[1])
                self.count("errors", (route, arm, self._value("error", error)))
            if key[6] == "fallback":
                asked, served = settled.decision.arm or "none", self._value("arm", key[1])
                self.count("fallbacks", (self._value("route", key[0]), self._value("arm", asked), served))

    def _failures(self, settled: Settled) -> None:
        route, arm = _key(settled)[:2]
        for name, score in settled.outcome.checks:
            if score < 1.0:
                self.count("validator_failures", (self._value("route", route), self._value("arm", arm), name))

    def observe_events(self, events: Iterable[Event]) -> None:
        """Counts events of the engine."""
        for event in events:
            self.count("events", (self._value("kind", event.kind), event.severity))

    def observe_errand(self, event: Event) -> None:
        """Counts a call of the sidecar's own that is over, by its event `errand.<kind>`."""
        labels = (
            event.kind.rpartition(".")[2],
            self._value("route", event.route),
            self._value("arm", event.arm or "none"),
        )
        self.count("errands", (*labels, event.message))
        cost_nusd = event.detail.get("cost_nusd")
        if isinstance(cost_nusd, int) and cost_nusd:
            self.count("errand_cost_usd", labels, cost_nusd / 1e9)

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and body for a scrape, in the format that its Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        for series in self._series.values():
            series.digest()
        body: bytes = encode(self._registry)
        end = b"# EOF\n" if body.endswith(b"# EOF\n") else b""  # OpenMetrics has it, and it must be last
        return content_type, body[: len(body) - len(end)] + self._histograms().encode() + end

    def collect(self) -> Iterator[Metric]:
        """Every family but the histograms, which `render` adds (prometheus_client's protocol)."""
        yield self._requests()
        yield from self._sums()
        counted = dict(self._counts)
        for name, (help_, read) in self._readers.items():
            yield from self._read(name, help_, read)
            counted.pop(name, None)
        for name, counts in counted.items():
            yield _family(name, "", counts)

    def _bounded(self, key: SeriesKey) -> SeriesKey:
        route, arm, model, endpoint, kind, status, reason, stream = key
        bounded = self._value("route", route), self._value("arm", arm), self._value("model", model)
        return (*bounded, endpoint, kind, status, reason, stream)

    def _value(self, label: str, value: str) -> str:
        known = self._values.setdefault(label, {})
        bounded = known.get(value)
        return bounded if bounded is not None else self._bound(label, value, known)

    def _bound(self, label: str, value: str, known: dict[str, str]) -> str:
        """Takes a new value in while there is room; otherwise it is `other` and is counted, not kept."""
        if len(known) >= MAX_VALUES and value not in self._allowed.get(label, ()):
            self.count("label_overflow", (label,))
            return "other"
        known[value] = value[:_MAX_LABEL_CHARS].replace("\x00", "\ufffd")  # templates of histograms hold it
        return known[value]

    def _open(self, key: SeriesKey) -> Series:
        policys = key[1] in self._allowed.get("arm", ()) and key[2] in self._allowed.get("model", ())
        if len(self._series) >= MAX_SERIES and key not in self._series and not policys:
            self.count("label_overflow", ("series",))
            key = (key[0], "other", "other", *key[3:])
        return self._series.setdefault(key, Series())

    def _requests(self) -> Metric:
        counts: dict[tuple[str, ...], float] = {}
        for key, series in self._series.items():
            status_class = f"{key[5]}xx" if 1 <= key[5] <= 5 else "none"
            labels = (*key[:5], status_class, key[6])
            counts[labels] = counts.get(labels, 0) + series.requests
        return _family("requests", "", counts)

    def _histograms(self) -> str:
        """All histograms as text, summed over what their labels do not tell apart."""
        timed: dict[tuple[str, ...], Histograms] = {}
        rewards: dict[tuple[str, ...], Histograms] = {}
        qualities: dict[tuple[str, ...], Histograms] = {}
        for key, series in self._series.items():
            _merge(timed, (*key[:4], "true" if key[7] else "false"), series.histograms)
            _merge(rewards, key[:2], series.rewards)
            for source, scores in series.qualities.items():
                _merge(qualities, (*key[:2], self._value("source", source)), scores)
        summed = {labels: (np.cumsum(h.counts, axis=1).tolist(), h.sums.tolist()) for labels, h in timed.items()}
        texts: list[str] = []
        for at, name in enumerate(_CLOCK_METRICS):
            fine = name == "sent_seconds"
            first = 0 if fine else len(FINE_SECONDS) - len(SECONDS)  # the finest edges say something of `sent` only
            rows = [
                (labels, counts[at][first:], sums[at]) for labels, (counts, sums) in summed.items() if counts[at][-1]
            ]
            texts.append(histogram_text(name, FINE_SECONDS if fine else SECONDS, rows))
        for name, scored in (("reward", rewards), ("quality", qualities)):
            rows = [(labels, np.cumsum(h.counts[0]).tolist(), float(h.sums[0])) for labels, h in scored.items()]
            texts.append(histogram_text(name, SCORES, [row for row in rows if row[1][-1]]))
        return "".join(texts)

    def _sums(self) -> Iterator[Metric]:
        tokens: dict[tuple[str, ...], float] = {}
        cost_nusd: dict[tuple[str, ...], int] = {}
        unknown_cost: dict[tuple[str, ...], float] = {}
        unknown_usage: dict[tuple[str, ...], float] = {}
        for key, series in self._series.items():
            labels = key[:4]
            for kind, count in zip(_TOKEN_TYPES, series.tokens, strict=True):
                if count:
                    tokens[(*labels, kind)] = tokens.get((*labels, kind), 0) + count
            for cost_kind, nusd in series.cost_nusd.items():
                cost_nusd[(*labels, cost_kind)] = cost_nusd.get((*labels, cost_kind), 0) + nusd
            if series.unknown_cost:
                unknown_cost[labels] = unknown_cost.get(labels, 0) + series.unknown_cost
            if series.unknown_usage:
                unknown_usage[labels] = unknown_usage.get(labels, 0) + series.unknown_usage
        yield _family("tokens", "", tokens)
        yield _family("cost_usd", "", {labels: nusd / 1e9 for labels, nusd in cost_nusd.items()})
        yield _family("cost_unknown", "", unknown_cost)
        yield _family("usage_unknown", "", unknown_usage)

    def _read(self, name: str, help_: str, read: Callable[[], Reading]) -> Iterator[Metric]:
        """A reader that fails costs its own family and is counted; the scrape goes on."""
        try:
            reading = read()
        except Exception:  # noqa: BLE001  # whatever an owner's callable raises, the other metrics must be seen
            self.count("scrape_errors")
            return
        yield _family(name, help_, reading if isinstance(reading, Mapping) else {(): reading})


def figures_of(pid: int) -> dict[str, float]:
    """What `llm_sidecar_process_*` say, of any process: by what their names end with; nothing where it is gone."""
    told = ProcessCollector(pid=lambda: pid, registry=None).collect()
    return {family.name.removeprefix("process_"): family.samples[0].value for family in told}


def _key(settled: Settled) -> SeriesKey:
    """The labels of one exchange as they came."""
    decision, facts, outcome = settled.decision, settled.facts, settled.outcome
    arm, reason, served = decision.arm, decision.reason, outcome.served_arm
    if served is not None and served != arm:
        arm, reason = served, "fallback"
    return (
        decision.route,
        arm or "none",
        settled.sent_model or facts.model or "none",
        facts.endpoint,
        outcome.kind,
        outcome.status // 100,
        reason,
        outcome.stream or facts.stream,
    )


def _family(name: str, help_: str, counts: Mapping[tuple[str, ...], float]) -> Metric:
    known = BY_NAME.get(name)
    labels = known.labels if known is not None else ()
    text = known.help if known is not None else help_
    type_ = CounterMetricFamily if known is not None and known.kind == "counter" else GaugeMetricFamily
    family = type_(PREFIX + name, text, labels=labels)
    for values, value in counts.items():
        family.add_metric(list(values), value)
    return family


def _merge(into: dict[tuple[str, ...], Histograms], labels: tuple[str, ...], more: Histograms) -> None:
    found = into.get(labels)
    if found is None:
        found = into[labels] = Histograms(len(more.sums), more.edges.tolist())
    found.merge(more)


if __name__ == "__main__":
    sys.stdout.write(markdown())
