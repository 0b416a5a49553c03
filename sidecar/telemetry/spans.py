"""OpenTelemetry: one span and a few metric points per exchange, by the gen_ai conventions as of v1.41.

Why v1.41: it is what shipping libraries emit today; later names are still moving. Everything is made after the fact
from `Settled` records, in a thread of its own, so the data plane pays one queue operation a batch. An endpoint that is
down, slow or wrong costs spans, which are counted, and nothing else. Content (prompts, completions) is never sent.

opentelemetry is imported only when an endpoint is configured. Not emitted: `time_per_output_chunk` (records do not keep
single gaps) and every `gen_ai.server.*` metric (those are for model servers). Our own TTFT is `llm_sidecar.ttft`: the
first chunk is not the first token.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from sidecar.core.types import Settled, Usage
from sidecar.errors import ConfigError

OPERATIONS = {
    "chat": "chat",
    "completions": "text_completion",
    "responses": "chat",
    "messages": "chat",
    "generate": "generate_content",
    "embeddings": "embeddings",
}
PROVIDERS = {"openai": "openai", "anthropic": "anthropic", "gemini": "gcp.gemini"}
DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BUCKETS = tuple(4.0**power for power in range(14))
_SCHEMA_URL = "https://opentelemetry.io/schemas/1.37.0"
_QUEUED_BATCHES = 256
_EXPORT_TIMEOUT_S = 5.0
_METRICS_EVERY_MS = 10_000

Foreign: TypeAlias = Any  # opentelemetry's objects, whose types may not be imported while serving
Attributes: TypeAlias = dict[str, str | int | float | bool | Sequence[str]]
Server: TypeAlias = tuple[str, int]


class Exporters:
    """What takes spans and metrics; tests pass in-memory ones. Both follow opentelemetry's exporter protocols."""

    def __init__(self, spans: Foreign, metrics_reader: Foreign) -> None:
        self.spans = spans
        self.metrics_reader = metrics_reader


def connect(url: str) -> Exporters:
    """Exporters for an OTLP endpoint: port 4317 speaks gRPC, everything else http/protobuf under /v1/.

    Raises ConfigError when the URL is no URL or when the extra that it needs is not installed.
    """
    try:
        parts = urlsplit(url)
        grpc = parts.port == 4317
    except ValueError:  # its text holds what stands in the port's place, which may be a password
        parts, grpc = urlsplit(""), False
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("OBSERVATORY_URL: the value is no http(s) URL; write http://host:4318")
    package = f"opentelemetry.exporter.otlp.proto.{'grpc' if grpc else 'http'}"
    try:
        traces = import_module(f"{package}.trace_exporter")
        metrics = import_module(f"{package}.metric_exporter")
        reader = import_module("opentelemetry.sdk.metrics.export").PeriodicExportingMetricReader
    except ImportError as error:
        extra = "opentelemetry-exporter-otlp-proto-grpc" if grpc else "llm-sidecar[otel]"
        raise ConfigError(f"OBSERVATORY_URL: needs `pip install '{extra}'` ({error})") from error
    base = url.rstrip("/")
    if grpc:
        given = {"endpoint": base, "insecure": parts.scheme == "http", "timeout": _EXPORT_TIMEOUT_S}
        spans, points = traces.OTLPSpanExporter(**given), metrics.OTLPMetricExporter(**given)
    else:
        spans = traces.OTLPSpanExporter(endpoint=f"{base}/v1/traces", timeout=_EXPORT_TIMEOUT_S)
        points = metrics.OTLPMetricExporter(endpoint=f"{base}/v1/metrics", timeout=_EXPORT_TIMEOUT_S)
    timeout_ms = _EXPORT_TIMEOUT_S * 1000
    return Exporters(spans, reader(points, export_interval_millis=_METRICS_EVERY_MS, export_timeout_millis=timeout_ms))


def _nobody(_settled: Settled) -> str | None:
    return None


def _nowhere(_upstream: str) -> Server | None:
    return None


class Spans:
    """`observe` batches, `close` at the end. `exported` and `dropped` count spans.

    `server_of` tells an upstream's real host and port. `traceparent_of` tells the W3C traceparent that the request came
    with, so that its trace goes on; records do not carry it yet, hence the default.
    """

    def __init__(
        self,
        exporters: Exporters,
        service: str,
        version: str = "",
        *,
        server_of: Callable[[str], Server | None] = _nowhere,
        traceparent_of: Callable[[Settled], str | None] = _nobody,
    ) -> None:
        self.exported = 0
        self.dropped = 0
        self._server_of = server_of
        self._traceparent_of = traceparent_of
        self._exporter = exporters.spans
        self._queue: queue.Queue[list[Settled] | None] = queue.Queue(maxsize=_QUEUED_BATCHES)
        self._otel = _Otel(exporters, service, version)
        self._thread = threading.Thread(target=self._work, name="spans", daemon=True)
        self._thread.start()

    def observe(self, batch: Sequence[Settled]) -> None:
        """Queues a batch; drops and counts it when the queue is full. Never blocks and never raises."""
        try:
            self._queue.put_nowait(list(batch))
        except queue.Full:
            self.dropped += len(batch)

    def close(self, timeout_s: float = 2.0) -> None:
        """Exports what is queued, for at most `timeout_s`; then gives up."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            pass  # the thread hangs in an export; it is a daemon and ends with the process
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._exporter.shutdown()
            self._thread.join(timeout_s)
        self._otel.close(timeout_s)

    def _work(self) -> None:
        while True:
            batch = self._queue.get()
            if batch is None:
                return
            try:
                finished = [self._otel.record(settled, *self._context(settled)) for settled in batch]
                result = self._exporter.export(finished)
                taken = result is self._otel.success
            except Exception:  # noqa: BLE001  # whatever an exporter raises, the next batch gets its chance
                taken = False
            if taken:
                self.exported += len(batch)
            else:
                self.dropped += len(batch)

    def _context(self, settled: Settled) -> tuple[Server | None, str | None]:
        return self._server_of(settled.upstream), self._traceparent_of(settled)


class _Otel:
    """The part that touches opentelemetry."""

    def __init__(self, exporters: Exporters, service: str, version: str) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # failures are counted, not printed per batch
        sdk_trace = import_module("opentelemetry.sdk.trace")
        trace = import_module("opentelemetry.trace")
        self._kind = trace.SpanKind.CLIENT
        self._error = trace.StatusCode.ERROR
        self._extract = (
            import_module("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator().extract
        )
        self._root = import_module("opentelemetry.context").Context
        self.success = import_module("opentelemetry.sdk.trace.export").SpanExportResult.SUCCESS
        resource = import_module("opentelemetry.sdk.resources").Resource.create({"service.name": service})
        self._provider = sdk_trace.TracerProvider(resource=resource, shutdown_on_exit=False)
        self._tracer = self._provider.get_tracer("llm_sidecar", version, schema_url=_SCHEMA_URL)
        meters = import_module("opentelemetry.sdk.metrics").MeterProvider(
            metric_readers=[exporters.metrics_reader], resource=resource, shutdown_on_exit=False
        )
        self._meters = meters
        meter = meters.get_meter("llm_sidecar", version, schema_url=_SCHEMA_URL)
        self._duration = _histogram(meter, "gen_ai.client.operation.duration", "s", DURATION_BUCKETS)
        self._first_chunk = _histogram(meter, "gen_ai.client.operation.time_to_first_chunk", "s", DURATION_BUCKETS)
        self._tokens = _histogram(meter, "gen_ai.client.token.usage", "{token}", TOKEN_BUCKETS)
        self._ttft = _histogram(meter, "llm_sidecar.ttft", "s", DURATION_BUCKETS)
        self._cost = meter.create_counter("llm_sidecar.cost.usd", unit="USD", description="Known cost")

    def record(self, settled: Settled, server: Server | None, traceparent: str | None) -> Foreign:
        """Records the metric points of one exchange and returns its finished span."""
        common = common_attributes(settled, server)
        outcome = settled.outcome
        context = self._extract({"traceparent": traceparent}) if traceparent else self._root()
        start_ns = round(settled.at * 1e6) * 1000  # a double holds microseconds of today, not nanoseconds
        span = self._tracer.start_span(
            span_name(settled), context, self._kind, {**common, **span_attributes(settled)}, start_time=start_ns
        )
        if outcome.kind == "failed" or outcome.status >= 400:
            span.set_status(self._error)
        span.end(start_ns + round(outcome.clocks.duration_s * 1e9))
        self._points(settled, common)
        return span

    def _points(self, settled: Settled, common: Mapping[str, object]) -> None:
        outcome = settled.outcome
        error = error_type(settled)
        self._duration.record(outcome.clocks.duration_s, {**common, "error.type": error} if error else common)
        usage = outcome.usage or Usage()
        for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            if count is not None:
                self._tokens.record(count, {**common, "gen_ai.token.type": kind})
        if outcome.clocks.ttfe_s is not None:
            self._first_chunk.record(outcome.clocks.ttfe_s, common)
        if outcome.clocks.ttft_s is not None:
            self._ttft.record(outcome.clocks.ttft_s, common)
        if outcome.cost_nusd is not None:
            self._cost.add(outcome.cost_nusd / 1e9, common)

    def close(self, timeout_s: float) -> None:
        """Lets the metrics go out once more and stops their thread."""
        try:
            self._meters.shutdown(timeout_millis=timeout_s * 1000)
        except Exception as error:  # noqa: BLE001  # an endpoint that is down must not stop a shutdown
            logging.getLogger(__name__).debug("metrics were not flushed: %s", type(error).__name__)
        self._provider.shutdown()


def _histogram(meter: Foreign, name: str, unit: str, bounds: Sequence[float]) -> Foreign:
    return meter.create_histogram(name, unit=unit, explicit_bucket_boundaries_advisory=list(bounds))


def span_name(settled: Settled) -> str:
    """`{operation} {requested model}`."""
    operation = OPERATIONS.get(settled.facts.endpoint, settled.facts.endpoint)
    return f"{operation} {settled.facts.model}" if settled.facts.model else operation


def error_type(settled: Settled) -> str | None:
    """What failed: our error word, else the status."""
    outcome = settled.outcome
    if outcome.error:
        return outcome.error
    return str(outcome.status) if outcome.status >= 400 else None


def common_attributes(settled: Settled, server: Server | None) -> Attributes:
    """The low-cardinality attributes that spans and metrics share."""
    attributes: Attributes = {
        "gen_ai.operation.name": OPERATIONS.get(settled.facts.endpoint, settled.facts.endpoint),
        "gen_ai.provider.name": PROVIDERS[settled.facts.dialect],
    }
    if settled.facts.model:
        attributes["gen_ai.request.model"] = settled.facts.model
    if settled.outcome.served_model or settled.sent_model:
        attributes["gen_ai.response.model"] = settled.outcome.served_model or settled.sent_model or ""
    if server is not None:
        attributes["server.address"], attributes["server.port"] = server
    return attributes


def span_attributes(settled: Settled) -> Attributes:
    """What only the span carries: usage, ids, and the decision. Unknown values are left out."""
    facts, decision, outcome = settled.facts, settled.decision, settled.outcome
    usage = outcome.usage or Usage()
    found: dict[str, str | int | float | bool | Sequence[str] | None] = {
        "gen_ai.request.stream": facts.stream,
        "gen_ai.request.max_tokens": facts.max_tokens,
        "gen_ai.response.id": outcome.completion_id,
        "gen_ai.response.finish_reasons": [outcome.finish] if outcome.finish else None,
        "gen_ai.response.time_to_first_chunk": outcome.clocks.ttfe_s,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "openai.response.service_tier": usage.service_tier if facts.dialect == "openai" else None,
        "error.type": error_type(settled),
        "llm_sidecar.decision.id": settled.id,
        "llm_sidecar.route": decision.route,
        "llm_sidecar.arm": outcome.served_arm or decision.arm,
        "llm_sidecar.upstream": settled.upstream,
        "llm_sidecar.reason": decision.reason,
        "llm_sidecar.propensity": decision.propensity,
        "llm_sidecar.outcome": outcome.kind,
        "llm_sidecar.ttft_s": outcome.clocks.ttft_s,
        "llm_sidecar.cost.usd": None if outcome.cost_nusd is None else outcome.cost_nusd / 1e9,
    }
    return {name: value for name, value in found.items() if value is not None}
