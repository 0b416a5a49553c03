"""Spans and metric points by the gen_ai conventions, read back with opentelemetry's own classes."""

import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise

import pytest
from msgspec.structs import replace
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from sidecar.clock import monotonic
from sidecar.core.types import Clocks, Settled, Usage
from sidecar.telemetry import outbox, points
from sidecar.telemetry.collector import Answer, Sent, Signal
from sidecar.telemetry.spans import Spans
from tests.unit.telemetry.records import settled

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER = ("api.openai.com", 443, "openai")


class Kept:
    """A transport that keeps what it is given, as messages; `answer` says what becomes of a request."""

    def __init__(self, answer: Callable[[], Sent | Answer] = lambda: Sent.TAKEN) -> None:
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.closed = False
        self._answer = answer

    def send(self, signal: Signal, body: bytes) -> Answer:
        if signal == "traces":
            self.traces.append(ExportTraceServiceRequest.FromString(body))
        else:
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))
        answer = self._answer()
        return answer if isinstance(answer, Answer) else Answer(answer)

    def close(self) -> None:
        self.closed = True

    def spans(self) -> list[Span]:
        return [span for one in self.traces for span in one.resource_spans[0].scope_spans[0].spans]

    def points(self) -> dict[str, Metric]:
        """The metrics of the last request, by name."""
        return {metric.name: metric for metric in self.metrics[-1].resource_metrics[0].scope_metrics[0].metrics}


def plain(value: AnyValue) -> object:
    if value.WhichOneof("value") == "array_value":
        return [plain(one) for one in value.array_value.values]
    return getattr(value, value.WhichOneof("value"))


def named(found: list[KeyValue]) -> dict[str, object]:
    assert len({one.key for one in found}) == len(found), "an attribute stands there twice"
    return {one.key: plain(one.value) for one in found}


def told(*batch: Settled, environ: dict[str, str] | None = None, **more: object) -> Kept:
    """What the endpoint gets of one batch."""
    kept = Kept()
    spans = Spans(kept, "bot", "1.0", environ=environ or {}, server_of=lambda _: SERVER, **more)
    spans.observe(batch)
    spans.close()
    assert (spans.dropped, kept.closed) == (0, True)
    assert spans.exported == len(kept.spans())
    return kept


@pytest.mark.parametrize(
    ("whose", "name"),
    [("anthropic", "anthropic"), ("bedrock", "aws.bedrock"), ("google", "gcp.gemini"), ("own", "own")],
)
def test_the_provider_is_who_served(whose: str, name: str) -> None:
    """A client that speaks OpenAI's format may be answered by another's model, at that one's address."""
    kept = Kept()
    spans = Spans(kept, "bot", environ={}, server_of=lambda _: ("models.example", 443, whose))
    spans.observe([settled()])
    spans.close()
    (span,) = kept.spans()
    (point,) = kept.points()["gen_ai.client.operation.duration"].histogram.data_points
    for found in (named(span.attributes), named(point.attributes)):
        assert (found["gen_ai.provider.name"], found["server.address"]) == (name, "models.example")


def test_a_span_follows_the_conventions() -> None:
    """Name, kind, times, and every attribute of a call of which all is known; nothing else."""
    usage = Usage(
        input_tokens=300, output_tokens=70_000, cached_input_tokens=0, cache_write_tokens=128, reasoning_tokens=5,
        service_tier="flex",
    )  # fmt: skip
    (span,) = told(settled(served_model="gpt-4o-mini-2024", usage=usage)).spans()
    assert (span.name, span.kind) == ("chat gpt-4o-mini", Span.SPAN_KIND_CLIENT)
    assert span.start_time_unix_nano == 1_700_000_000_250_000_000
    assert span.end_time_unix_nano - span.start_time_unix_nano == 1_500_000_000
    assert (len(span.trace_id), len(span.span_id), span.parent_span_id, span.flags) == (16, 8, b"", 0x101)
    assert not span.HasField("status")
    assert named(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.model": "gpt-4o-mini-2024",
        "server.address": "api.openai.com",
        "server.port": 443,
        "gen_ai.request.stream": True,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": 0.1,
        "gen_ai.usage.input_tokens": 300,
        "gen_ai.usage.output_tokens": 70_000,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.cache_creation.input_tokens": 128,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "openai.response.service_tier": "flex",
        "llm_sidecar.decision.id": "00abc",
        "llm_sidecar.route": "support",
        "llm_sidecar.arm": "mini",
        "llm_sidecar.upstream": "openai",
        "llm_sidecar.reason": "sampled",
        "llm_sidecar.propensity": 0.25,
        "llm_sidecar.outcome": "completed",
        "llm_sidecar.ttft_s": 0.11,
        "llm_sidecar.cost.usd": 1.5e-6,
    }


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [({"kind": "failed", "error": "truncated", "status": 200}, "truncated"), ({"status": 429}, "429")],
)
def test_failures_carry_their_type(outcome: dict, kind: str) -> None:
    """A failed exchange has status ERROR and error.type, on its span and its duration; unknown usage and cost are left
    out, not 0."""
    record = settled(usage=None, cost_nusd=None, model="", endpoint="count_tokens", dialect="anthropic", **outcome)
    kept = told(record)
    (span,) = kept.spans()
    found = named(span.attributes)
    assert (span.name, span.status.code, found["error.type"]) == ("count_tokens", 2, kind)
    assert not any("usage" in name or "cost" in name for name in found)
    (point,) = kept.points()["gen_ai.client.operation.duration"].histogram.data_points
    assert named(point.attributes)["error.type"] == kind
    assert "gen_ai.client.token.usage" not in kept.points()


@pytest.mark.parametrize("length", [1, 100, 127, 128, 255, 256, 20_000])
def test_texts_of_every_length_are_read_back(length: int) -> None:
    """Lengths take one, two or three bytes; a text that is no Unicode is told as well as it can be."""
    model, answer = "m" * length, "ä" * (length // 2) + "b" * (length % 2)
    for _ in range(2):  # the second time by what was kept of the first
        (span,) = told(settled(model=model, completion_id=answer)).spans()
        assert span.name == f"chat {model}"
        assert named(span.attributes)["gen_ai.response.id"] == answer
    (span,) = told(settled(completion_id="\ud800" + "c" * length)).spans()
    assert named(span.attributes)["gen_ai.response.id"] == "?" + "c" * length


def traced(traceparent: str) -> Settled:
    record = settled()
    return type(record)(
        **{name: getattr(record, name) for name in record.__struct_fields__[:-1]}, traceparent=traceparent.encode()
    )


def test_a_trace_goes_on() -> None:
    """The caller's trace and span are the span's trace and parent; what is no traceparent begins a trace of its own."""
    (span,) = told(traced(f"00-{TRACE}-{PARENT}-01")).spans()
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.flags) == (TRACE, PARENT, 0x301)
    (later,) = told(traced(f"cc-{TRACE}-{PARENT}-01-of-a-later-version")).spans()
    assert later.trace_id.hex() == TRACE
    odd = [f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01-x",
           f"00-{TRACE.upper()}-{PARENT}-01", "sk-of-the-client", ""]  # fmt: skip
    kept = told(*map(traced, odd))
    assert {span.parent_span_id for span in kept.spans()} == {b""}
    assert len({span.trace_id for span in kept.spans()} | {bytes.fromhex(TRACE)}) == len(odd) + 1
    assert b"sk-of-the-client" not in b"".join(one.SerializeToString() for one in kept.traces)


@pytest.mark.parametrize(
    ("environ", "taken"),
    [
        ({}, ["callers", "own"]),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, ["callers", "refused", "own"]),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, []),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, ["callers"]),
        ({"OTEL_TRACES_SAMPLER": "ParentBased_TraceIdRatio", "OTEL_TRACES_SAMPLER_ARG": "0"}, ["callers"]),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}, ["callers", "own"]),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.6"}, ["refused"]),
    ],
)
def test_samplers_mean_what_they_mean_everywhere(environ: dict[str, str], taken: list[str]) -> None:
    """The caller's choice stands where the sampler looks at it; a ratio goes by the trace's last 64 bits. Metrics count
    every exchange."""
    kept = told(
        traced(f"00-{TRACE[:16]}{'f' * 16}-{PARENT}-01"), traced(f"00-{TRACE[:16]}{'7' * 16}-{PARENT}-00"), settled(),
        environ=environ,
    )  # fmt: skip
    ends = {"f" * 16: "callers", "7" * 16: "refused"}
    found = [ends.get(span.trace_id.hex()[16:], "own") for span in kept.spans()]
    assert [one for one in found if environ.get("OTEL_TRACES_SAMPLER") != "traceidratio" or one != "own"] == taken
    (point,) = kept.points()["gen_ai.client.operation.duration"].histogram.data_points
    assert point.count == 3


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.5"},
    ],
)
def test_a_sampler_that_is_none_is_told(environ: dict[str, str]) -> None:
    """Every span is sent then, and the problem names the variable, not its value."""
    spans = Spans(Kept(), "bot", environ=environ)
    spans.close()
    assert spans.problem is not None
    assert spans.problem.startswith("OTEL_TRACES_SAMPLER")
    assert "jaeger" not in spans.problem
    assert len(told(settled(), environ=environ).spans()) == 1


def test_who_sends_stands_once_in_a_request() -> None:
    """Resource, scope and schema, with the attributes that the environment adds; the service's name is ours."""
    kept = told(
        settled(),
        environ={"OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=pod%2D7, service.name=other,broken,\udce4=a\udce4"},
    )
    (sent,) = kept.traces[0].resource_spans
    assert named(sent.resource.attributes) == {
        "service.name": "bot",
        "k8s.pod.name": "pod-7",
        "?": "a?",  # what is no text is told as well as it can be
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "llm-sidecar",
        "telemetry.sdk.version": "1.0",
    }
    scope = sent.scope_spans[0]
    assert (scope.scope.name, scope.scope.version, scope.schema_url[-6:]) == ("llm_sidecar", "1.0", "1.37.0")
    (points_,) = kept.metrics[0].resource_metrics
    assert points_.resource == sent.resource
    assert points_.scope_metrics[0].scope == scope.scope


def test_the_metrics_are_those_of_v1_41() -> None:
    """Duration, first chunk and tokens by their names, units and buckets; our TTFT and cost under our own."""
    kept = told(settled(), settled(clocks=Clocks(duration_s=0.64)), settled(clocks=Clocks(duration_s=99.0)))
    found = kept.points()
    assert {name: metric.unit for name, metric in found.items()} == {
        "gen_ai.client.operation.duration": "s",
        "gen_ai.client.operation.time_to_first_chunk": "s",
        "gen_ai.client.token.usage": "{token}",
        "llm_sidecar.ttft": "s",
        "llm_sidecar.cost.usd": "USD",
    }
    histogram = found["gen_ai.client.operation.duration"].histogram
    (duration,) = histogram.data_points
    assert (histogram.aggregation_temporality, duration.count, duration.min, duration.max) == (2, 3, 0.64, 99.0)
    assert tuple(duration.explicit_bounds) == points.DURATION_BUCKETS
    by_bound = dict(zip([*duration.explicit_bounds, "more"], duration.bucket_counts, strict=True))
    assert {bound: count for bound, count in by_bound.items() if count} == {0.64: 1, 2.56: 1, "more": 1}
    assert duration.sum == pytest.approx(101.14)
    assert duration.start_time_unix_nano <= duration.time_unix_nano
    assert "error.type" not in named(duration.attributes)
    tokens = {
        named(p.attributes)["gen_ai.token.type"]: p for p in found["gen_ai.client.token.usage"].histogram.data_points
    }
    assert (tokens["input"].sum, tokens["output"].sum) == (30, 60)
    assert tuple(tokens["input"].explicit_bounds) == points.TOKEN_BUCKETS
    cost = found["llm_sidecar.cost.usd"].sum
    assert (cost.is_monotonic, cost.data_points[0].as_double) == (True, pytest.approx(4.5e-6))
    assert named(cost.data_points[0].attributes)["server.port"] == 443


def test_points_of_many_exchanges_add_up() -> None:
    """More than one digest's worth, told twice: each time all of it; with `delta` only what came since."""
    kept = told(*[settled() for _ in range(1500)])
    (duration,) = kept.points()["gen_ai.client.operation.duration"].histogram.data_points
    assert (duration.count, sum(duration.bucket_counts)) == (1500, 1500)
    for preference, counts in (("cumulative", [1, 2]), ("delta", [1, 1])):
        taken = Kept()
        spans = Spans(taken, "bot", environ={"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": preference})
        for _ in range(2):
            spans.observe([settled()])
            spans._outbox._tell_points()  # what the clock does every ten seconds
        told_ = [one.resource_metrics[0].scope_metrics[0].metrics[0].histogram for one in taken.metrics]
        assert [one.data_points[0].count for one in told_] == counts
        assert {one.aggregation_temporality for one in told_} == {1 if preference == "delta" else 2}
        spans.close()


def test_invented_models_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the cap metrics are summed under `otel.metric.overflow`; the spans keep their names."""
    monkeypatch.setattr(points, "MAX_SETS", 3)
    kept = told(*[settled(model=f"m{number}") for number in range(6)])
    assert [span.name for span in kept.spans()] == [f"chat m{number}" for number in range(6)]
    assert named(kept.spans()[5].attributes)["gen_ai.request.model"] == "m5"
    found = kept.points()["gen_ai.client.operation.duration"].histogram.data_points
    assert [point.count for point in found] == [1, 1, 1, 3]
    assert named(found[3].attributes) == {"otel.metric.overflow": True}


def test_a_record_that_cannot_be_told_costs_itself() -> None:
    """A time that is none is counted; the others of its batch go out."""
    kept = Kept()
    spans = Spans(kept, "bot", environ={})
    spans.observe([settled(), replace(settled(), at=float("nan")), settled()])
    spans.close()
    assert (spans.exported, spans.dropped, len(kept.spans())) == (2, 1, 2)


def test_an_endpoint_that_raises_or_refuses_costs_spans_only() -> None:
    def broken() -> Sent:
        raise RuntimeError("broken")

    for answer in (broken, lambda: Sent.REFUSED, lambda: Sent.BUSY):
        spans = Spans(Kept(answer), "bot", environ={})
        spans.observe([settled(), settled()])
        spans.close()
        assert (spans.exported, spans.dropped) == (0, 2)


def test_a_busy_endpoint_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same request, until it is taken."""
    monkeypatch.setattr(outbox, "GATHER_S", 0.01)
    monkeypatch.setattr(outbox, "_AGAIN_FIRST_S", 0.01)
    done = threading.Event()
    answers = [Sent.BUSY, Sent.BUSY, Sent.TAKEN]

    def answer() -> Sent:
        if len(answers) == 1:
            done.set()
        return answers.pop(0) if answers else Sent.TAKEN

    kept = Kept(answer)
    spans = Spans(kept, "bot", environ={})
    spans.observe([settled()])
    assert done.wait(10)
    spans.close()
    assert (spans.exported, spans.dropped) == (1, 0)
    assert len({one.SerializeToString() for one in kept.traces}) == 1
    assert len(kept.traces) == 3


def test_a_busy_endpoint_that_says_when_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when that is later than a request is kept; the next one waits as long."""
    monkeypatch.setattr(outbox, "GATHER_S", 0.01)
    monkeypatch.setattr(outbox, "TIMEOUT_S", 0.0)
    times, done = [], threading.Event()

    def answer() -> Answer:
        times.append(monotonic())
        if len(times) < 3:
            return Answer(Sent.BUSY, after_s=0.2)
        done.set()
        return Answer(Sent.TAKEN)

    spans = Spans(Kept(answer), "bot", environ={})
    for _ in range(3):
        spans.observe([settled()] * outbox.REQUEST_SPANS)
    assert done.wait(10)
    spans.close()
    assert all(after - before >= 0.2 for before, after in pairwise(times[:3]))
    assert (spans.exported, spans.dropped) == (outbox.REQUEST_SPANS, 2 * outbox.REQUEST_SPANS)


def test_points_are_told_while_spans_find_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that takes no spans leaves some waiting always; its metrics come in time all the same."""
    monkeypatch.setattr(outbox, "GATHER_S", 0.01)
    monkeypatch.setattr(outbox, "METRICS_EVERY_S", 0.0)
    told_, spans = threading.Event(), []

    class Choked(Kept):
        def send(self, signal: Signal, body: bytes) -> Answer:
            if signal == "metrics":
                told_.set()
            elif not told_.is_set():
                spans[0].observe([settled()])  # the next are here before these are sent
            return super().send(signal, body)

    spans.append(Spans(Choked(), "bot", environ={}))
    spans[0].observe([settled()])
    assert told_.wait(10)
    spans[0].close()
    assert spans[0].dropped == 0


def test_a_hanging_endpoint_never_holds_anybody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded, the rest is counted; `close` gives up in time, and every span is in one of the counts."""
    monkeypatch.setattr(outbox, "MAX_SPANS", 100)
    monkeypatch.setattr(outbox, "REQUEST_SPANS", 10)
    hangs, release = threading.Event(), threading.Event()

    def hang() -> Sent:
        hangs.set()
        release.wait(20)
        return Sent.REFUSED

    class Hanging(Kept):
        def close(self) -> None:
            release.set()

    spans = Spans(Hanging(hang), "bot", environ={})
    for _ in range(10):
        spans.observe([settled()])
    assert hangs.wait(10)
    for _ in range(50):
        spans.observe([settled()] * 4)
    assert spans.dropped == 100
    spans.close(0.1)
    assert release.is_set()
    assert (spans.exported, spans.dropped) == (0, 210)


def test_nothing_of_opentelemetry_is_imported() -> None:
    """SEC-SUPPLY: neither by the module nor by its use over HTTP."""
    code = (
        "import sys; from sidecar.telemetry.spans import Spans, connect\n"
        "from tests.unit.telemetry.records import settled\n"
        "spans = Spans(connect('http://127.0.0.1:9', {}), 'bot', environ={}); spans.observe([settled()]); spans.close()\n"
        "print(spans.dropped, [n for n in sys.modules if n.startswith(('opentelemetry', 'google', 'requests', 'grpc'))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == ("1 []\n", "")
