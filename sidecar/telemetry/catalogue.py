"""Every metric that the sidecar exposes: name, type, labels and meaning, in one table.

docs/metrics.md's list is made from it (`python -m sidecar.telemetry.metrics` prints it), so a metric that is not here
does not exist. Label values are bounded: routes, arms and reasons come from the policy and from closed sets; models
are named by clients and cut off at `metrics.MAX_VALUES`, then they are called `other`.
"""

from dataclasses import dataclass
from typing import Literal

PREFIX = "llm_sidecar_"

# OpenTelemetry's gen_ai buckets double from 10 ms to 82 s; a local hop and a cached answer need finer ones below.
SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
FINE_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, *SECONDS)  # what the sidecar itself takes

SERIES = ("route", "arm", "model", "endpoint")
TIMED = (*SERIES, "stream")


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. `name` is without the prefix, and for counters without `_total`, which the exposition adds."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str

    @property
    def full_name(self) -> str:
        """The name as a query writes it."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


_CLOCK = "Completed exchanges below status 400 only; seconds after the request's head was complete."

CATALOGUE: tuple[Metric, ...] = (
    Metric(
        "requests", "counter", (*SERIES, "outcome", "status_class", "reason"),
        "Exchanges that ended, each once. `outcome` completed, failed or aborted; `reason` as x-sidecar-reason.",
    ),
    Metric("errors", "counter", ("route", "arm", "error"), "Exchanges that ended with an error, by its kind."),
    Metric(
        "fallbacks", "counter", ("route", "arm", "served"),
        "Exchanges that another arm had to serve, by the arm that failed them; in `requests` under the one that served.",
    ),
    Metric(
        "tokens", "counter", (*SERIES, "type"),
        "Tokens as billed. `input` includes `cached_input` and `cache_write`, `output` includes `reasoning`.",
    ),
    Metric("cost_usd", "counter", (*SERIES, "kind"), "Cost in US dollars; `kind` exact, estimate or lower_bound."),
    Metric("cost_unknown", "counter", SERIES, "Exchanges that reached a model and whose cost is unknown (never 0)."),
    Metric("reward", "histogram", ("route", "arm"), "Reward of settled exchanges that taught, 0..1."),
    Metric("quality", "histogram", ("route", "arm", "source"), "Quality scores known at settlement, 0..1."),
    Metric(
        "validator_failures", "counter", ("route", "arm", "validator"),
        "Answers that did not pass a validator of `quality.validators`, by its name.",
    ),
    Metric(
        "sent_seconds", "histogram", TIMED,
        "Last byte of the request given to the upstream's socket. Not of calls that another arm was asked first (fallback,"
        f" cascade). {_CLOCK}",
    ),
    Metric("ttfb_seconds", "histogram", TIMED, f"First byte of the response. {_CLOCK}"),
    Metric("ttfe_seconds", "histogram", TIMED, f"First server-sent event, of whatever kind. {_CLOCK}"),
    Metric("ttft_seconds", "histogram", TIMED, f"First generated token. Streams only. {_CLOCK}"),
    Metric("ttfa_seconds", "histogram", TIMED, f"First answer token, not reasoning. Streams only. {_CLOCK}"),
    Metric("duration_seconds", "histogram", TIMED, f"End of the stream. {_CLOCK}"),
    Metric("itl_seconds", "histogram", TIMED, "Inter-token latency: (last - first token) / (output tokens - 1)."),
    Metric("chunk_gap_p50_seconds", "histogram", TIMED, "Each stream's median gap between token chunks; not ITL."),
    Metric("chunk_gap_p95_seconds", "histogram", TIMED, "Each stream's 95th percentile gap between token chunks."),
    Metric("events", "counter", ("kind", "severity"), "Events of the engine: rollouts, thresholds, budgets, policy."),
    Metric(
        "errands", "counter", ("kind", "route", "arm", "outcome"),
        "Calls of the sidecar's own, not in `requests`: `kind` judge (of the arm) or shadow (to the arm).",
    ),
    Metric("errand_cost_usd", "counter", ("kind", "route", "arm"), "What those calls cost, in US dollars."),
    Metric("errands_dropped", "counter", (), "Calls of the sidecar's own that were wanted and never sent."),
    Metric(
        "scores_lost", "counter", (),
        "Scores of the sidecar's own (judge, repeat, abandoned) whose decision was not found: a grade was paid for in vain.",
    ),
    Metric("escalations", "counter", (), "Answers of a cascade that were asked of the next arm instead."),
    Metric("unvaried", "counter", (), "Calls that their experiment does not count: its prompt had no place in them."),
    Metric("accepted", "counter", (), "Requests with a whole head: completed, failed, aborted, open, or shed by overload."),
    Metric("shed", "counter", ("cause",), "Requests answered by the sidecar before a decision (limits, bad heads)."),
    Metric("fail_open", "counter", ("cause",), "Decisions that failed open to the model that the app asked for."),
    Metric("stripped_usage", "counter", (), "Streams from which the usage that the sidecar asked for was removed."),
    Metric("usage_unknown", "counter", SERIES, "Exchanges that reached a model and reported no usage."),
    Metric("buffered_bytes", "gauge", (), "Request bodies held in memory now."),
    Metric("open_streams", "gauge", (), "Exchanges open now."),
    Metric("pool_connections", "gauge", ("upstream", "state"), "Upstream connections; `state` idle or busy."),
    Metric("pool_dials", "counter", ("upstream", "result"), "Upstream connections opened; `result` ok or failed."),
    Metric("upstream_active", "gauge", ("upstream",), "Calls under way to an upstream, waiting ones included."),
    Metric(
        "upstream_retries", "counter", ("upstream", "result"),
        "Second tries of the sidecar's own (fallbacks, repeats); `result` made, or denied by breaker or retry budget.",
    ),
    Metric(
        "breaker_state", "gauge", ("upstream", "model", "state"),
        "1 for the state that the breaker is in: closed, open or half_open. `*` is all models that no arm names. "
        "`NAME (default)` is the upstream of calls without a route where the policy has one of its name.",
    ),
    Metric("breaker_opened", "counter", ("upstream", "model"), "Times that the breaker opened."),
    Metric("concurrency_limit", "gauge", ("upstream",), "Calls that may be under way at once; +Inf while any number."),
    Metric("records_shed", "counter", (), "Exchanges without row, log line and span, because memory was short."),
    Metric("memory_used_bytes", "gauge", (), "Resident memory, as it is compared with the limit; 0 without one."),
    Metric("memory_limit_bytes", "gauge", (), "`memory_limit`, else the container's own limit; 0: there is none."),
    Metric("memory_level", "gauge", (), "0 enough; 1 records are shed; 2 new calls are shed while many are under way."),
    Metric("loop_lag_seconds", "gauge", (), "How late the event loop ran its last tick."),
    Metric("policy_loaded", "gauge", ("version",), "1 for the policy version in force."),
    Metric("policy_error", "gauge", (), "1 while the newest policy file is refused and the last good one serves."),
    Metric("rollout_step_percent", "gauge", ("route", "arm"), "Share of new conversations that the rollout admits."),
    Metric("rollout_phase", "gauge", ("route", "arm", "phase"), "1 for the phase that the rollout is in."),
    Metric("arm_share", "gauge", ("route", "arm"), "Share of new conversations that the arm is chosen for, 0..1."),
    Metric("threshold_breached", "gauge", ("route", "threshold"), "1 while the threshold's action is in force."),
    Metric("budget_spent_usd", "gauge", ("route", "period"), "Spent of a budget in this UTC day or month (`period`)."),
    Metric("budget_limit_usd", "gauge", ("route", "period"), "What this pod may spend of the route's budget in that time."),
    Metric("store_rows_written", "counter", (), "Rows committed to the store."),
    Metric("store_rows_dropped", "counter", (), "Rows given up because the store could not take them in time."),
    Metric("store_errors", "counter", (), "Errors of the store; traffic never sees them."),
    Metric("store_lag_rows", "gauge", (), "Rows waiting for the store."),
    Metric("audit_links", "gauge", (), "Number of the newest link of the audit's chain, once it is known; it never falls."),
    Metric("log_lines_dropped", "counter", (), "Request lines given up because their reader was too slow."),
    Metric("workers", "gauge", (), "Worker processes that serve; only with `workers` above 1."),
    Metric("worker_restarts", "counter", (), "Worker processes that ended unasked and were started again."),
    Metric("worker_hangs", "counter", (), "Worker processes that said nothing for ten seconds and were killed."),
    Metric("worker_rows_lost", "counter", (), "Calls without row and lesson: their worker ended or could not tell of them."),
    Metric("worker_cpu_seconds", "counter", ("worker",), "Processor time of a worker; the leader's is in `process_*`."),
    Metric("worker_resident_memory_bytes", "gauge", ("worker",), "Resident memory of a worker, shared pages included."),
    Metric("worker_open_fds", "gauge", ("worker",), "Open descriptors of a worker."),
    Metric("spans_exported", "counter", (), "Spans given to the telemetry endpoint."),
    Metric("spans_dropped", "counter", (), "Spans given up because the telemetry endpoint did not take them."),
    Metric("points_untold", "counter", (), "Requests of metrics that the telemetry endpoint did not take, or not whole."),
    Metric("label_overflow", "counter", ("label",), "Label values replaced by `other` because their cap was reached."),
    Metric("scrape_errors", "counter", (), "Gauges that could not be read at a scrape."),
    Metric(
        "inject_reviews", "counter", ("result",),
        "Pods that the injector was asked about: injected, skipped, already, refused, malformed, unread or failed.",
    ),
    Metric("inject_review_seconds", "histogram", (), "From a review's head to its answer, in the injector."),
    Metric("inject_certificate_expiry_timestamp_seconds", "gauge", (), "When the injector's certificate expires."),
    Metric("inject_ca_expiry_timestamp_seconds", "gauge", (), "When the authority that signed it expires."),
    Metric("inject_certificate_age_seconds", "gauge", (), "How long ago the injector's certificate became valid."),
    Metric("inject_rotations", "counter", (), "Certificates that replaced another one while the injector served."),
    Metric("inject_cluster_errors", "counter", ("call",), "The injector's calls to the API server that failed."),
    Metric("inject_config_error", "gauge", (), "1 while the injector's newest configuration is refused."),
    Metric("start_time_seconds", "gauge", (), "When the process began, seconds since the epoch."),
    Metric("build_info", "gauge", ("version", "python", "service"), "Always 1; what runs here."),
)  # fmt: skip

BY_NAME = {metric.name: metric for metric in CATALOGUE}


def markdown() -> str:
    """The list of metrics as docs/metrics.md shows it."""
    lines = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for metric in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
        lines.append(f"| `{metric.full_name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"
