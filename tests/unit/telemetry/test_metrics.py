"""Metrics as a scrape shows them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from sidecar.core.types import Clocks, Event, Stage
from sidecar.telemetry import metrics as module
from sidecar.telemetry.catalogue import CATALOGUE, PREFIX, SECONDS, markdown
from sidecar.telemetry.metrics import MAX_VALUES, Metrics
from tests.unit.telemetry.records import settled

DOCS = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render()[1].decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def total(metrics: Metrics, name: str, **labels: str) -> float:
    return sum(
        value
        for (found, has), value in samples(metrics).items()
        if found == PREFIX + name and set(labels.items()) <= set(has)
    )


def test_exchanges_tokens_and_cost_are_counted_by_their_labels() -> None:
    """Each exchange counts once, tokens as billed, money in dollars; unknown cost is counted and never 0 dollars."""
    metrics = Metrics()
    metrics.observe([settled(), settled(), settled(cost_nusd=None, usage=None)])
    assert total(metrics, "requests_total", outcome="completed", status_class="2xx", reason="sampled", arm="mini") == 3
    assert total(metrics, "tokens_total", type="input") == 20
    assert total(metrics, "tokens_total", type="cached_input") == 8
    assert total(metrics, "cost_usd_total", kind="exact") == pytest.approx(3e-6)
    assert total(metrics, "cost_unknown_total") == 1
    assert total(metrics, "usage_unknown_total") == 1


def test_what_reached_no_model_has_no_unknown_cost() -> None:
    """A list of models, a body that was given up half-way, a count of tokens: no price is missing for them. An answer that
    broke off without a cost, and a tunnel, have one that nobody knows."""
    metrics = Metrics()
    unknown: dict[str, object] = {"usage": None, "usage_source": None, "cost_nusd": None, "cost_kind": None}
    listed = settled(**unknown, endpoint="other")
    left = settled(**unknown, kind="aborted", status=0, clocks=Clocks(duration_s=0.1))
    counted = settled(**unknown | {"cost_nusd": 0, "cost_kind": "exact"}, endpoint="count_tokens")
    metrics.observe([replace(listed, facts=replace(listed.facts, input_bytes=0)), left, counted])
    assert total(metrics, "requests_total") == 3
    assert total(metrics, "cost_unknown_total") == 0
    assert total(metrics, "usage_unknown_total") == 0
    metrics.observe([settled(**unknown, kind="failed", error="truncated"), settled(**unknown, status=101)])
    assert total(metrics, "cost_unknown_total") == 2
    assert total(metrics, "usage_unknown_total") == 1


def test_a_model_has_one_name_in_counters_and_histograms() -> None:
    """Whatever characters it has: a name that is told in two ways cannot be joined, and may be another model's."""
    metrics = Metrics()
    metrics.observe([settled(model=name) for name in ("ab", "a\x00b", "\x00", 'a\n"\\b')])
    named = {
        name: {dict(labels)["model"] for found, labels in samples(metrics) if found == PREFIX + name}
        for name in ("requests_total", "ttft_seconds_count")
    }
    assert named["requests_total"] == named["ttft_seconds_count"] == {"ab", "a\ufffdb", "\ufffd", 'a\n"\\b'}


def test_failed_checks_are_counted_by_validator() -> None:
    """Each answer once for each validator that it did not pass, under the arm that served."""
    metrics = Metrics()
    metrics.observe([
        settled(checks=(("json_schema", 0.0), ("language", 1.0))),
        settled(checks=(("json_schema", 0.0), ("finish_reason", 0.5))),
        settled(),
    ])  # fmt: skip
    assert total(metrics, "validator_failures_total", validator="json_schema", arm="mini") == 2
    assert total(metrics, "validator_failures_total", validator="finish_reason") == 1
    assert total(metrics, "validator_failures_total") == 3


def test_failures_teach_no_clock() -> None:
    """Failed, aborted and refused exchanges are counted with their error and stay out of the latencies."""
    metrics = Metrics()
    metrics.observe([
        settled(kind="failed", status=0, error="timeout_connect", usage=None, cost_nusd=None),
        settled(kind="aborted", cost_kind="lower_bound"),
        settled(status=429, error="upstream_status", usage=None, cost_nusd=None),
    ])  # fmt: skip
    assert total(metrics, "requests_total") == 3
    assert total(metrics, "requests_total", status_class="none") == 1
    assert total(metrics, "requests_total", status_class="4xx") == 1
    assert total(metrics, "errors_total", error="timeout_connect") == 1
    assert total(metrics, "duration_seconds_count") == 0
    assert total(metrics, "cost_unknown_total") == 0
    assert total(metrics, "cost_usd_total", kind="lower_bound") == pytest.approx(1.5e-6)


def test_what_arms_took_that_were_asked_before_is_no_time_of_the_sidecars_own() -> None:
    """`sent` of a fallback or of a cascade's next stage is late by the first arm's answer; the alert LlmSidecarSlowToSend
    and the query for what the sidecar adds are about calls that were asked once."""
    metrics = Metrics()
    late = replace(settled().outcome.clocks, sent_s=3.0)
    cascaded = replace(settled(clocks=late), stages=(Stage(arm="small", why="json_schema", duration_s=3.0),))
    metrics.observe([settled(), settled(served_arm="mini"), settled(clocks=late, served_arm="big"), cascaded])
    assert total(metrics, "sent_seconds_count") == 2
    assert total(metrics, "sent_seconds_bucket", le="0.32") == total(metrics, "sent_seconds_bucket", le="+Inf") == 2
    assert total(metrics, "ttft_seconds_count") == 4


def test_a_fallback_counts_for_the_arm_that_served() -> None:
    """The labels name the arm that served and the reason `fallback`; who failed it is counted beside."""
    metrics = Metrics()
    metrics.observe([settled(served_arm="gpt-4o"), settled(served_arm="mini"), settled(arm=None)])
    assert total(metrics, "fallbacks_total", arm="mini", served="gpt-4o") == total(metrics, "fallbacks_total") == 1
    assert total(metrics, "requests_total", arm="gpt-4o", reason="fallback") == 1
    assert total(metrics, "requests_total", arm="mini", reason="sampled") == 1
    assert total(metrics, "requests_total", arm="none") == 1


@settings(max_examples=40)
@given(st.lists(st.floats(min_value=0, max_value=200) | st.none(), max_size=60), st.integers(1, 600))
def test_histograms_equal_their_naive_recomputation(values: list[float | None], repeat: int) -> None:
    """Whatever the batches, every bucket holds the number of values at or below its edge, and the sum is theirs."""
    metrics = Metrics()
    batch = [settled(clocks=Clocks(ttft_s=value, duration_s=1.0)) for value in values]
    metrics.observe(batch)
    metrics.observe([settled(clocks=Clocks(duration_s=1.0))] * repeat)
    known = [value for value in values if value is not None]
    found = samples(metrics)
    counts = {
        dict(labels)["le"]: value for (name, labels), value in found.items() if name.endswith("ttft_seconds_bucket")
    }
    for edge in SECONDS if known else ():
        assert counts[str(edge)] == sum(value <= edge for value in known)
    assert total(metrics, "ttft_seconds_sum") == pytest.approx(sum(known))
    assert total(metrics, "duration_seconds_count") == len(values) + repeat


def test_scores_have_their_own_histograms() -> None:
    """Rewards by arm, qualities by source."""
    metrics = Metrics()
    metrics.observe([settled(reward=0.55, quality=1.0), settled(reward=0.0)])
    assert total(metrics, "reward_bucket", le="0.5") == 1
    assert total(metrics, "reward_sum") == pytest.approx(0.55)
    assert total(metrics, "quality_count", source="user") == 1


def test_label_values_are_bounded() -> None:
    """GW-42, INC-44: a client that invents model names gets 200 series, then `other`; the policy's own stay."""
    metrics = Metrics()
    metrics.allow("model", ["ours"])
    metrics.observe([settled(model=f"invented-{number}" + "x" * 300) for number in range(1000)])
    metrics.observe([settled(model="ours")])
    counted = {
        dict(labels)["model"]: value
        for (name, labels), value in samples(metrics).items()
        if name == PREFIX + "requests_total"
    }
    names = set(counted)
    assert len(names) == MAX_VALUES + 2
    assert {"other", "ours"} <= names
    assert max(len(name) for name in names) == 128
    assert counted["other"] == 800
    assert b'llm_sidecar_label_overflow_total{label="model"} 800.0' in metrics.render()[1]


def test_label_sets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the cap of label sets, new ones share one series per route."""
    monkeypatch.setattr(module, "MAX_SERIES", 3)
    metrics = Metrics()
    metrics.observe([settled(model=f"m{number}") for number in range(10)])
    assert total(metrics, "requests_total", model="other", arm="other") == 7


def test_the_policys_arms_keep_their_names_beyond_the_bound_of_label_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that invent models cannot hide a new arm; what has a series keeps it."""
    monkeypatch.setattr(module, "MAX_SERIES", 3)
    metrics = Metrics()
    metrics.allow("arm", ["new"])
    metrics.allow("model", ["gpt-5"])
    metrics.observe([settled(model=f"m{number}" + "x" * 200) for number in range(10)])
    metrics.observe([settled(model="gpt-5", arm="new"), settled(model="gpt-5", arm="new", kind="failed")])
    metrics.observe([settled(model="m0" + "x" * 200)])
    assert total(metrics, "requests_total", model="gpt-5", arm="new") == 2
    assert total(metrics, "requests_total", model="m0" + "x" * 126) == 2


def test_readers_are_read_at_each_scrape() -> None:
    """Gauges and counters of others come from callables, with or without labels; a failing one hurts nobody else."""
    metrics = Metrics("bot", "1.2.3", started_at=5.0)
    state = {"open": 1.0}
    metrics.gauge("open_streams", "", lambda: state["open"])
    metrics.gauge("pool_connections", "", lambda: {("openai", "idle"): 3.0})
    metrics.gauge("accepted", "", lambda: 7.0)
    metrics.gauge("store_lag_rows", "", lambda: 1 / 0)
    metrics.gauge("house_temperature", "Not in the catalogue.", lambda: 20.0)
    metrics.count("shed", ("buffered",), 2)
    assert total(metrics, "open_streams") == 1
    state["open"] = 4.0
    assert total(metrics, "open_streams") == 4
    assert total(metrics, "pool_connections", upstream="openai", state="idle") == 3
    assert total(metrics, "accepted_total") == 7
    assert total(metrics, "shed_total", cause="buffered") == 2
    assert total(metrics, "house_temperature") == 20
    assert total(metrics, "build_info", version="1.2.3", service="bot") == 1
    assert total(metrics, "start_time_seconds") == 5.0
    assert total(metrics, "scrape_errors_total") >= 1
    assert total(metrics, "store_lag_rows") == 0


def test_events_are_counted() -> None:
    """Each event counts by kind and severity."""
    metrics = Metrics()
    metrics.observe_events([Event(kind="rollout.promoted"), Event(kind="rollout.promoted", severity="high")])
    assert total(metrics, "events_total", kind="rollout.promoted", severity="high") == 1


def test_the_format_follows_the_accept_header() -> None:
    """OpenMetrics when asked for, the classic text format otherwise; every family has our prefix."""
    metrics = Metrics()
    metrics.observe([settled()])
    metrics.observe([settled(model='a"b\\c\nd%s', quality=0.5)])
    content_type, body = metrics.render("application/openmetrics-text; version=1.0.0")
    parsed = {family.name: family for family in openmetrics_families(body.decode())}
    assert len(parsed[PREFIX + "ttft_seconds"].samples) == 2 * (len(SECONDS) + 3)
    assert parsed[PREFIX + "ttft_seconds"].samples[-1].labels["model"] == 'a"b\\c\nd%s'
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    content_type, body = metrics.render("")
    assert content_type.startswith("text/plain")
    assert all(line.split()[2].startswith(PREFIX) for line in body.decode().splitlines() if line.startswith("# TYPE"))


def test_a_scrape_is_bounded_where_clients_invent_names() -> None:
    """200 models at eight endpoints, streamed and not, each with all nine clocks, 26 kB."""
    metrics = Metrics()
    for model in range(MAX_VALUES):
        for endpoint in (
            "chat",
            "responses",
            "messages",
            "completions",
            "embeddings",
            "generate",
            "converse",
            "cohere",
        ):
            for stream in (True, False):
                one = settled(stream=stream)
                facts = replace(one.facts, endpoint=endpoint, stream=stream)
                metrics.observe([replace(one, sent_model=f"model-{model}", facts=facts)])
    assert len(metrics.render()[1]) < 33_000_000


def test_every_metric_is_in_the_docs() -> None:
    """docs/metrics.md's list is what `python -m sidecar.telemetry.metrics` prints; names are unique."""
    assert markdown() in DOCS.read_text(encoding="utf-8")
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)
