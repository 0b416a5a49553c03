"""For each alert a series of samples, one a minute, that makes it fire, and one that must not.

`POD` and its like are the labels that a scrape adds. Values are in promtool's notation: `0+5x60` is sixty steps of 5.
"""

from dataclasses import dataclass
from typing import Final

POD: Final = 'namespace="shop",pod="bot-1",endpoint="sidecar-health"'
INJECTOR: Final = 'namespace="llm",pod="injector-1",endpoint="health"'
BUILD: Final = f'llm_sidecar_build_info{{{POD},service="bot",version="1",python="3.11"}}'
DAY: Final = 86400
Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """An alert, what makes it fire at `minutes`, what does not, and the labels by which it is told."""

    alert: str
    fires: Series
    quiet: Series
    minutes: int = 60


def _of(name: str, more: str = "", labels: str = POD) -> str:
    return f"{name}{{{labels}{',' if more else ''}{more}}}"


def _one(alert: str, name: str, fires: str, quiet: str, more: str = "", minutes: int = 60, labels: str = POD) -> Case:
    series = _of(name, more, labels)
    return Case(alert, {series: fires}, {series: quiet}, minutes)


def _ended(more: str, per_minute: int) -> Series:
    labels = f'route="r",arm="a",model="m",{more}'
    return {_of("llm_sidecar_requests_total", labels): f"0+{per_minute}x400"}


def _calls(failed: int, more: str = 'outcome="failed",status_class="5xx",reason="baseline"') -> Series:
    fine = _ended('outcome="completed",status_class="2xx",reason="baseline"', 100 - failed)
    return fine | _ended(more, failed) | {BUILD: "1x400"}


def _timed(name: str, edge: str, in_time: int, stream: str) -> Series:
    labels = f'route="r",stream="{stream}"'
    return {
        _of(f"{name}_bucket", f'{labels},le="{edge}"'): f"0+{in_time}x400",
        _of(f"{name}_bucket", f'{labels},le="+Inf"'): "0+100x400",
        BUILD: "1x400",
    }


_SENT = "llm_sidecar_sent_seconds"
_REVIEW = "llm_sidecar_inject_review_seconds_bucket"
_UP_TO_DATE = "llm_sidecar_inject_certificate_expiry_timestamp_seconds"
_FAIL_OPEN = 'apiserver_admission_webhook_fail_open_count{name="inject.llm-sidecar.io",type="admit"}'
_EVENTS = "llm_sidecar_events_total"
_SPENT, _LIMIT = (_of(f"llm_sidecar_budget_{one}_usd", 'route="r",period="day"') for one in ("spent", "limit"))
_ERRAND = _of("llm_sidecar_errand_cost_usd_total", 'kind="judge",route="r",arm="a"')
_COST = _of("llm_sidecar_cost_usd_total", 'route="r",arm="a",model="m",kind="exact"')
_READY = _of("kube_pod_init_container_status_ready", 'container="llm-sidecar"')
_OVER = 'kube_pod_status_phase{namespace="shop",pod="bot-1",phase="Succeeded"}'


def _sent(fast: int) -> Series:
    return {
        _of(f"{_SENT}_bucket", 'le="0.16"'): f"0+{fast}x60",
        _of(f"{_SENT}_bucket", 'le="0.64"'): "0+100x60",
        _of(f"{_SENT}_bucket", 'le="+Inf"'): "0+100x60",
        _of(f"{_SENT}_count"): "0+100x60",
    }


def _reviews(fast: int) -> Series:
    edges = (("0.64", fast), ("2.56", 100), ("+Inf", 100))
    return {_of(_REVIEW, f'le="{edge}"', INJECTOR): f"0+{count}x60" for edge, count in edges}


CASES: Final = (
    _one("LlmSidecarDown", "up", "1x50 0x10", "1x50 0x4 1x6"),
    Case("LlmSidecarNotReady", {_READY: "1 0x60", _OVER: "0x60"}, {_READY: "0x60", _OVER: "1x60"}),
    _one("LlmSidecarRestarting", "llm_sidecar_start_time_seconds", "1x35 2x7 3x7 4x11", "1x35 2x7 3x18"),
    _one("LlmSidecarMemoryShort", "llm_sidecar_memory_level", "0x50 1x10", "0x50 1x3 0x7"),
    _one("LlmSidecarLoopLate", "llm_sidecar_loop_lag_seconds", "0.2x60", "0.001x50 0.2x1 0.001x9"),
    Case("LlmSidecarSlowToSend", _sent(80), _sent(99)),
    _one("LlmSidecarShedsCalls", "llm_sidecar_shed_total", "0x40 1+1x20", "7x60", 'cause="overload"'),
    _one("LlmSidecarWorkerHung", "llm_sidecar_worker_hangs_total", "0x55 1x5", "0x20 1x40"),
    _one("LlmSidecarWorkersEnd", "llm_sidecar_worker_restarts_total", "0x40 1+1x5 6x15", "0x40 1x20"),
    _one("LlmSidecarStoreFails", "llm_sidecar_store_errors_total", "0x30 1+1x30", "3x60"),
    _one("LlmSidecarLosesRows", "llm_sidecar_store_rows_dropped_total", "0x50 40x10", "40x60"),
    _one("LlmSidecarLosesRows", "llm_sidecar_records_shed_total", "0x50 40x10", "40x60"),
    _one("LlmSidecarLosesRows", "llm_sidecar_worker_rows_lost_total", "0x50 40x10", "40x60"),
    _one("LlmSidecarAuditBroken", "llm_sidecar_audit_links", "50x40 3x20", "50x40 51x20"),
    _one("LlmSidecarTelemetryLost", "llm_sidecar_spans_dropped_total", "0+9x60", "9x60"),
    _one("LlmSidecarTelemetryLost", "llm_sidecar_log_lines_dropped_total", "0+9x60", "9x60"),
    _one("LlmSidecarSevereEvent", _EVENTS, "_x50 1x10", "1x60", 'kind="file.refused",severity="high"'),
    _one("LlmSidecarSevereEvent", _EVENTS, "1x50 2x10", "1x60", 'kind="store.held",severity="high"'),
    _one("LlmSidecarPolicyRefused", "llm_sidecar_policy_error", "0x50 1x10", "0x50 1x3 0x7"),
    _one("LlmSidecarFailsOpen", "llm_sidecar_fail_open_total", "0x40 1+1x20", "5x60", 'cause="engine"'),
    Case(
        "LlmSidecarBreakerOpen",  # a breaker changes between open and half open: neither may end the alert's wait
        {
            _of("llm_sidecar_breaker_state", 'upstream="u",model="m",state="open"'): "1 _ 1 _ 1 1 _ 1 1 1 1 1 1 1 1 1 1 1",
            _of("llm_sidecar_breaker_state", 'upstream="u",model="m",state="half_open"'): "_ 1 _ 1 _ _ 1",
        },
        {_of("llm_sidecar_breaker_state", 'upstream="u",model="m",state="closed"'): "1x60"},
        minutes=17,
    ),
    _one("LlmSidecarRolledBack", _EVENTS, "_x50 1x10", "1x60", 'kind="rollout.rolled_back",severity="critical"'),
    _one("LlmSidecarRolledBack", _EVENTS, "1x50 2x10", "_x20 1x40", 'kind="change.rolled_back",severity="high"'),
    _one("LlmSidecarThresholdBreached", "llm_sidecar_threshold_breached", "1x60", "1x35 0x1 1x24", 'route="r",threshold="t"',
         60),
    Case("LlmSidecarBudgetNearlySpent", {_SPENT: "9.5x60", _LIMIT: "10x60"}, {_SPENT: "8x60", _LIMIT: "10x60"}),
    Case(
        "LlmSidecarBudgetSpent",
        _ended('outcome="completed",status_class="2xx",reason="budget"', 1),
        _ended('outcome="completed",status_class="2xx",reason="sampled"', 1),
    ),
    _one("LlmSidecarCostUnknown", "llm_sidecar_cost_unknown_total", "0+1x200", "4x200", 'model="m"', 150),
    Case("LlmSidecarErrandsDear", {_ERRAND: "0+2x400", _COST: "0+4x400"}, {_ERRAND: "0+1x400", _COST: "0+9x400"}, 400),
    Case("LlmCallsFailFast", _calls(20), _calls(10), 90),
    Case("LlmCallsFailSlowly", _calls(8), _calls(4), 390),
    Case("LlmCallsRefused", _calls(30, 'outcome="failed",status_class="4xx",reason="baseline"'), _calls(30), 90),
    Case("LlmFirstTokensLate", _timed("llm_sidecar_ttft_seconds", "5.12", 60, "true"),
         _timed("llm_sidecar_ttft_seconds", "5.12", 80, "true"), 90),
    Case("LlmAnswersLate", _timed("llm_sidecar_duration_seconds", "40.96", 60, "false"),
         _timed("llm_sidecar_duration_seconds", "40.96", 60, "true"), 90),
    _one("LlmSidecarInjectorDown", "llm_sidecar_inject_config_error", "0x40 _x20", "0x60", labels=INJECTOR),
    Case("LlmSidecarInjectionBypassed", {_FAIL_OPEN: "_x50 1x10"}, {_FAIL_OPEN: "1x60"}),
    Case("LlmSidecarInjectionBypassed", {_FAIL_OPEN: "1x50 4x10"}, {_FAIL_OPEN.replace("inject.", "other."): "1x50 4x10"}),
    _one("LlmSidecarInjectorReviewsFail", "llm_sidecar_inject_reviews_total", "0x50 1x10", "1x60", 'result="failed"',
         labels=INJECTOR),
    _one("LlmSidecarInjectionRefused", "llm_sidecar_inject_reviews_total", "0x50 1x10", "1x60", 'result="refused"',
         labels=INJECTOR),
    _one("LlmSidecarInjectionSkipped", "llm_sidecar_inject_reviews_total", "0x50 1x10", "1x60", 'result="skipped"',
         labels=INJECTOR),
    Case("LlmSidecarInjectorSlow", _reviews(90), _reviews(100)),
    _one("LlmSidecarInjectorCertificateExpires", _UP_TO_DATE, f"{10 * DAY}x90", f"{31 * DAY}x90", "", 90, INJECTOR),
    _one("LlmSidecarInjectorCertificateExpires", "llm_sidecar_inject_ca_expiry_timestamp_seconds", f"{10 * DAY}x90",
         f"{400 * DAY}x90", "", 90, INJECTOR),
    _one("LlmSidecarInjectorCertificateEnds", _UP_TO_DATE, f"{DAY}x60", f"{3 * DAY}x60", labels=INJECTOR),
    _one("LlmSidecarInjectorConfigRefused", "llm_sidecar_inject_config_error", "0x50 1x10", "0x50 1x3 0x7", labels=INJECTOR),
    _one("LlmSidecarInjectorApiErrors", "llm_sidecar_inject_cluster_errors_total", "0+1x60", "0x60", 'call="secret_get"',
         labels=INJECTOR),
    _one("LlmSidecarInjectorApiErrors", "llm_sidecar_inject_cluster_errors_total", "0+1x60", "2x60", 'call="version"',
         labels=INJECTOR),
)  # fmt: skip
