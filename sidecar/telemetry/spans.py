"""OpenTelemetry: one span and a few metric points per exchange, by the gen_ai conventions as of v1.41.

Why v1.41: it is what shipping libraries emit today; later names are still moving. A span is bytes as soon as its exchange
is told of (`otlp`): some seven microseconds of work, in batches behind the answers. A thread of its own sends them. An
endpoint that is down, slow or wrong costs spans, which are counted, and nothing else. Content (prompts, completions) is
never sent.

Not emitted: `time_per_output_chunk` (records do not keep single gaps) and every `gen_ai.server.*` metric (those are for
model servers). Our own TTFT is `llm_sidecar.ttft`: the first chunk is not the first token.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import TypeAlias

import structlog

from sidecar.clock import wall
from sidecar.core.types import Settled, Usage
from sidecar.errors import ConfigError
from sidecar.telemetry import collector
from sidecar.telemetry.collector import Transport, pairs
from sidecar.telemetry.otlp import CUMULATIVE, DELTA, Counts, Doubles, Origin, Texts, attributes, span, span_name
from sidecar.telemetry.outbox import Outbox
from sidecar.telemetry.points import Attributes, Meter, Points
from sidecar.telemetry.sampling import parent_of, sampler_of

log = structlog.get_logger()

OPERATIONS = {
    "chat": "chat",
    "completions": "text_completion",
    "responses": "chat",
    "messages": "chat",
    "generate": "generate_content",
    "embeddings": "embeddings",
}
# Our words for who serves, dialects or providers, where the conventions have another one.
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure-deployments": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex": "gcp.vertex_ai",
    "xai": "x_ai",
}
_SCHEMA_URL = "https://opentelemetry.io/schemas/1.37.0"
_NO_USAGE = Usage()

Server: TypeAlias = tuple[str, int, str]  # host, port, and whose it is: its provider, else its dialect

# What differs from span to span. The rest comes in few combinations, which are kept whole.
_RESPONSE_ID, _DECISION_ID = Texts("gen_ai.response.id"), Texts("llm_sidecar.decision.id")
_MAX_TOKENS = Counts("gen_ai.request.max_tokens")
_INPUT, _OUTPUT = Counts("gen_ai.usage.input_tokens"), Counts("gen_ai.usage.output_tokens")
_CACHED, _WRITTEN = Counts("gen_ai.usage.cache_read.input_tokens"), Counts("gen_ai.usage.cache_creation.input_tokens")
_REASONING = Counts("gen_ai.usage.reasoning.output_tokens")
_FIRST_CHUNK, _TTFT = Doubles("gen_ai.response.time_to_first_chunk"), Doubles("llm_sidecar.ttft_s")
_PROPENSITY, _COST = Doubles("llm_sidecar.propensity"), Doubles("llm_sidecar.cost.usd")


def connect(url: str, environ: Mapping[str, str] | None = None) -> Transport:
    """The way to a collector (`collector.connect`). Raises ConfigError, whose text never holds the URL."""
    return collector.connect(url, os.environ if environ is None else environ)


def _nowhere(_upstream: str) -> Server | None:
    return None


def spans_to(url: str | None, service: str, version: str, server_of: Callable[[str], Server | None]) -> "Spans | None":
    """Spans for the collector at `url`; None where there is none, or it cannot be used: what is wrong is logged."""
    if not url:
        return None
    try:
        spans = Spans(connect(url), service, version, server_of=server_of)
    except ConfigError as error:
        log.warning("telemetry", note=str(error))
        return None
    if spans.problem is not None:
        log.warning("telemetry", note=spans.problem)
    return spans


class Spans:
    """`observe` batches, `close` at the end. `exported` and `dropped` count spans.

    `server_of` tells an upstream's real host and port, and whose it is. Of `environ` it reads OTEL_TRACES_SAMPLER (and
    _ARG), OTEL_RESOURCE_ATTRIBUTES and OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE; `problem` says what is wrong
    there.
    """

    def __init__(
        self,
        transport: Transport,
        service: str,
        version: str = "",
        *,
        server_of: Callable[[str], Server | None] = _nowhere,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        given = os.environ if environ is None else environ
        self._server_of = server_of
        self._sampler, self.problem = sampler_of(given)
        resource: Attributes = {
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "llm-sidecar",
            "telemetry.sdk.version": version,
            **pairs(given.get("OTEL_RESOURCE_ATTRIBUTES", "")),
            "service.name": service,
        }
        preference = given.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "").strip().lower()
        self._delta = preference in ("delta", "lowmemory")
        self._meter = Meter()
        self._since_ns = _now_ns()
        self._places: dict[tuple[str | int, ...], _Place] = {}
        self._lock = Lock()  # around the points: the thread reads them
        origin = Origin.of(resource, "llm_sidecar", version, _SCHEMA_URL)
        self._outbox = Outbox(transport, origin.request, self._metrics)

    @property
    def exported(self) -> int:
        """Spans that the endpoint took."""
        return self._outbox.exported

    @property
    def dropped(self) -> int:
        """Spans that were given up."""
        return self._outbox.dropped

    @property
    def untold(self) -> int:
        """Requests of points that the endpoint did not take, or not whole."""
        return self._outbox.untold

    def observe(self, batch: Sequence[Settled]) -> None:
        """Makes a batch's spans and points; drops and counts what finds no room. Never waits for the endpoint."""
        made: list[bytes] = []
        ids = os.urandom(24 * len(batch))
        servers: dict[str, Server | None] = {}
        with self._lock:
            for at, settled in enumerate(batch):
                try:
                    upstream = settled.upstream
                    if upstream not in servers:
                        servers[upstream] = self._server_of(upstream)
                    made += self._record(settled, servers[upstream], ids[24 * at : 24 * at + 24])
                except Exception:  # noqa: BLE001 - one bad record costs its own span
                    self._outbox.drop(1)
        if made:
            self._outbox.put(b"".join(made), len(made))

    def close(self, timeout_s: float = 2.0) -> None:
        """Exports what waits, for at most `timeout_s`; then gives up."""
        self._outbox.close(timeout_s)

    def _record(self, settled: Settled, server: Server | None, ids: bytes) -> tuple[bytes, ...]:
        """Counts one exchange's points; its span, or nothing where it is not sampled."""
        place = self._place(settled, server)
        error = error_type(settled)
        place.points.add(settled, error)
        parent = parent_of(settled.traceparent) if settled.traceparent else None
        if parent is not None:
            ids = parent.trace + ids[16:]
        if not self._sampler.takes(ids[:16], parent):
            return ()
        start_ns = round(settled.at * 1e6) * 1000  # a double holds microseconds of today, not nanoseconds
        outcome = settled.outcome
        times = (start_ns, start_ns + round(outcome.clocks.duration_s * 1e9))
        found = (place.attributes, *_own(settled, error))
        failed = outcome.kind == "failed" or outcome.status >= 400
        return (span(ids, b"" if parent is None else parent.span, place.name, times, found, failed=failed),)

    def _place(self, settled: Settled, server: Server | None) -> "_Place":
        facts = settled.facts
        answered = settled.outcome.served_model or settled.sent_model or ""
        key = (facts.endpoint, facts.dialect, facts.model or "", answered, *(server or ()))
        place = self._places.get(key)
        if place is None:
            common = common_attributes(settled, server)
            place = _Place(self._meter.open(key, common), attributes(common), span_name(name_of(settled)))
            if place.points is not self._meter.overflow:
                self._places[key] = place
        return place

    def _metrics(self) -> list[bytes]:
        """Every metric as it stands now; with `delta`, since the last time. Runs in the outbox's thread."""
        times = (self._since_ns, _now_ns())
        meter = self._meter
        with self._lock:
            if self._delta:
                self._since_ns = times[1]
                self._meter, self._places = Meter(), {}
        return meter.metrics(times, DELTA if self._delta else CUMULATIVE, self._lock)


class _Place:
    """What all exchanges of one model at one server share."""

    __slots__ = ("attributes", "name", "points")

    def __init__(self, points: Points, attributes: bytes, name: bytes) -> None:
        self.points, self.attributes, self.name = points, attributes, name


def _now_ns() -> int:
    return round(wall() * 1e9)


def name_of(settled: Settled) -> str:
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
    found: Attributes = {
        "gen_ai.operation.name": OPERATIONS.get(settled.facts.endpoint, settled.facts.endpoint),
    }
    provider = settled.facts.dialect if server is None else server[2]  # who serves, whatever the client speaks
    found["gen_ai.provider.name"] = _PROVIDERS.get(provider, provider)
    if settled.facts.model:
        found["gen_ai.request.model"] = settled.facts.model
    if settled.outcome.served_model or settled.sent_model:
        found["gen_ai.response.model"] = settled.outcome.served_model or settled.sent_model or ""
    if server is not None:
        found["server.address"], found["server.port"] = server[:2]
    return found


@lru_cache(maxsize=1024)
def _repeated(stream: bool, *words: str | None) -> bytes:
    """The attributes of which few combinations come: how it was asked, chosen and ended. `words` in `_WORDS`' order."""
    found: Attributes = {"gen_ai.request.stream": stream}
    finish, *others = words
    if finish:
        found["gen_ai.response.finish_reasons"] = (finish,)
    found |= {name: word for name, word in zip(_WORDS, others, strict=True) if word is not None}
    return attributes(found)


_WORDS = (
    "openai.response.service_tier",
    "error.type",
    "llm_sidecar.route",
    "llm_sidecar.arm",
    "llm_sidecar.upstream",
    "llm_sidecar.reason",
    "llm_sidecar.outcome",
)


def _own(settled: Settled, error: str | None) -> list[bytes]:
    """What only the span carries: usage, ids, and the decision. Unknown values are left out."""
    facts, decision, outcome = settled.facts, settled.decision, settled.outcome
    usage, clocks = outcome.usage or _NO_USAGE, outcome.clocks
    tier = usage.service_tier if facts.dialect == "openai" else None
    arm = outcome.served_arm or decision.arm
    found = [
        _repeated(
            facts.stream,
            outcome.finish,
            tier,
            error,
            decision.route,
            arm,
            settled.upstream,
            decision.reason,
            outcome.kind,
        ),
        _DECISION_ID.of(settled.id),
        _PROPENSITY.of(decision.propensity),
    ]
    if outcome.completion_id is not None:
        found.append(_RESPONSE_ID.of(outcome.completion_id))
    for counts, count in (
        (_MAX_TOKENS, facts.max_tokens),
        (_INPUT, usage.input_tokens),
        (_OUTPUT, usage.output_tokens),
        (_CACHED, usage.cached_input_tokens),
        (_WRITTEN, usage.cache_write_tokens),
        (_REASONING, usage.reasoning_tokens),
    ):
        if count is not None:
            found.append(counts.of(count))
    if clocks.ttfe_s is not None:
        found.append(_FIRST_CHUNK.of(clocks.ttfe_s))
    if clocks.ttft_s is not None:
        found.append(_TTFT.of(clocks.ttft_s))
    if outcome.cost_nusd is not None:
        found.append(_COST.of(outcome.cost_nusd / 1e9))
    return found
