"""Spans and metrics by the gen_ai conventions, in memory and against a collector on a real socket."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sidecar.core.types import Clocks
from sidecar.errors import ConfigError
from sidecar.telemetry.spans import Exporters, Spans, connect
from tests.unit.telemetry.records import settled

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """An OTLP/HTTP collector that keeps what it parsed; answers with `status`."""

    def __init__(self, status: int = 200) -> None:
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/v1/traces":
                    collector.traces.append(ExportTraceServiceRequest.FromString(body))
                else:
                    collector.metrics.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_spans_follow_the_conventions() -> None:
    """Name, kind, times, attributes and the parent from the request's traceparent; no attribute without a value."""
    exporter = InMemorySpanExporter()
    spans = Spans(
        Exporters(exporter, InMemoryMetricReader()),
        "bot",
        server_of=lambda _: ("api.openai.com", 443),
        traceparent_of=lambda _: TRACEPARENT,
    )
    spans.observe([settled(served_model="gpt-4o-mini-2024")])
    spans.close()
    (span,) = exporter.get_finished_spans()
    assert span.name == "chat gpt-4o-mini"
    assert span.kind.name == "CLIENT"
    assert (span.start_time, span.end_time - span.start_time) == (1_700_000_000_250_000_000, 1_500_000_000)
    assert f"{span.context.trace_id:032x}" == TRACEPARENT[3:35]
    assert f"{span.parent.span_id:016x}" == TRACEPARENT[36:52]
    found = dict(span.attributes)
    assert found["gen_ai.provider.name"] == "openai"
    assert found["gen_ai.response.model"] == "gpt-4o-mini-2024"
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.cache_read.input_tokens"]) == (10, 4)
    assert found["gen_ai.response.finish_reasons"] == ("stop",)
    assert (found["server.address"], found["server.port"]) == ("api.openai.com", 443)
    assert found["llm_sidecar.cost.usd"] == pytest.approx(1.5e-6)
    assert "error.type" not in found
    assert span.resource.attributes["service.name"] == "bot"
    assert (spans.exported, spans.dropped) == (1, 0)


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [({"kind": "failed", "error": "truncated", "status": 200}, "truncated"), ({"status": 429}, "429")],
)
def test_failures_carry_their_type(outcome: dict, kind: str) -> None:
    """A failed exchange has status ERROR and error.type; unknown usage and cost are left out, not 0."""
    exporter = InMemorySpanExporter()
    reader = InMemoryMetricReader()
    spans = Spans(Exporters(exporter, reader), "bot")
    spans.observe(
        [settled(usage=None, cost_nusd=None, model="", endpoint="count_tokens", dialect="anthropic", **outcome)]
    )
    spans.close()
    (span,) = exporter.get_finished_spans()
    assert span.name == "count_tokens"
    assert span.status.status_code.name == "ERROR"
    assert span.attributes["error.type"] == kind
    assert not any("usage" in name or "cost" in name for name in span.attributes)


def test_the_metrics_are_those_of_v1_41() -> None:
    """Duration, first chunk and tokens by their names and buckets; our TTFT and cost under our own."""
    reader = InMemoryMetricReader()
    spans = Spans(Exporters(InMemorySpanExporter(), reader), "bot")
    spans.observe([settled(), settled(clocks=Clocks(duration_s=0.5))])
    spans.close()
    points = {
        metric.name: metric.data.data_points
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert set(points) == {
        "gen_ai.client.operation.duration",
        "gen_ai.client.operation.time_to_first_chunk",
        "gen_ai.client.token.usage",
        "llm_sidecar.ttft",
        "llm_sidecar.cost.usd",
    }
    (duration,) = points["gen_ai.client.operation.duration"]
    assert (duration.count, duration.explicit_bounds[0], duration.explicit_bounds[-1]) == (2, 0.01, 81.92)
    assert sum(point.sum for point in points["gen_ai.client.token.usage"]) == 60


def test_a_real_collector_receives_protobuf() -> None:
    """SEC-PRIVACY: over HTTP, spans and metrics arrive, parse, and hold no content."""
    collector = Collector()
    spans = Spans(connect(collector.url + "/"), "bot", "1.0")
    spans.observe([settled(), settled()])
    spans.close(5)
    collector.close()
    received = [span for request in collector.traces for span in request.resource_spans[0].scope_spans[0].spans]
    assert [span.name for span in received] == ["chat gpt-4o-mini"] * 2
    names = {metric.name for metric in collector.metrics[-1].resource_metrics[0].scope_metrics[0].metrics}
    assert "gen_ai.client.operation.duration" in names
    assert spans.exported == 2


def test_an_endpoint_that_refuses_costs_spans_only() -> None:
    """A collector that answers 400 and one that is not there are counted as dropped; close returns in time."""
    collector = Collector(400)
    refused = Spans(connect(collector.url), "bot")
    refused.observe([settled()])
    refused.close(5)
    collector.close()
    assert (refused.exported, refused.dropped) == (0, 1)
    down = Spans(connect("http://127.0.0.1:9"), "bot")
    down.observe([settled()])
    down.close(0.5)
    assert down.exported == 0


def test_exporters_that_raise_or_hang_are_survived() -> None:
    """An exception counts the batch; a hang fills the queue, whose overflow is counted without waiting."""

    class Raising:
        def export(self, _spans: object) -> None:
            raise RuntimeError("broken")

        def shutdown(self) -> None:
            return

    broken = Spans(Exporters(Raising(), InMemoryMetricReader()), "bot")
    broken.observe([settled()])
    broken.close()
    assert broken.dropped == 1
    release = threading.Event()

    class Hanging(Raising):
        def export(self, _spans: object) -> None:
            release.wait(20)

        def shutdown(self) -> None:
            release.set()

    hanging = Spans(Exporters(Hanging(), InMemoryMetricReader()), "bot")
    for _ in range(400):
        hanging.observe([settled()])
    assert hanging.dropped >= 400 - 256 - 1
    hanging.close(0.1)
    assert release.is_set()


def test_what_the_url_needs_is_said() -> None:
    """No URL, or port 4317 without the gRPC extra, are configuration errors that say what to do."""
    with pytest.raises(ConfigError, match="is no http"):
        connect("collector:4318")
    with pytest.raises(ConfigError, match="pip install 'opentelemetry-exporter-otlp-proto-grpc'"):
        connect("http://127.0.0.1:4317")


def test_opentelemetry_is_imported_only_when_used() -> None:
    """Importing the module brings no opentelemetry in."""
    code = "import sys, sidecar.telemetry.spans; print(any(n.startswith('opentelemetry') for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30).stdout == "False\n"
