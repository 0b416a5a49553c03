"""Every gauge that the process registers is in the catalogue, can be read, and says what its part says."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from sidecar.app import Sidecar
from sidecar.config.policy import load_policies
from sidecar.config.settings import Settings
from sidecar.core.status import RouteStatus
from sidecar.gauges import load
from sidecar.store.audit import Head
from sidecar.telemetry.catalogue import BY_NAME, PREFIX
from tests.fixtures.policies import SUPPORT

POLICY = f"""{SUPPORT}    thresholds: [{{name: errors, metric: error_rate, above: 0.5, window: 5m, severity: low}}]
    budget: {{daily_usd: 12}}
replicas: 4
"""


async def test_registered_gauges(tmp_path: Path) -> None:
    """None fails, none is unknown, and the policy's route, arm and rollout are told."""
    (tmp_path / "bot.yaml").write_text(POLICY)
    settings = [f"policies={tmp_path}", f"db={tmp_path / 'sidecar.db'}", "service=bot", "request_log=off"]
    app = Sidecar(Settings.load({}, None, [*settings, "observatory_url=http://127.0.0.1:9"]), {})
    assert app.policies.error is None
    families = {one.name: one for one in parse(app.metrics.render()[1].decode())}
    assert {name for name in families if not name.startswith(f"{PREFIX}process_")} <= {
        PREFIX + name for name in BY_NAME
    }
    assert f"{PREFIX}scrape_errors" not in families
    told = {
        (name.removeprefix(PREFIX), *sorted(sample.labels.values())): sample.value
        for name, family in families.items()
        for sample in family.samples
    }
    assert told["rollout_step_percent", "mini", "support"] == 5
    assert told["rollout_phase", "mini", "running", "support"] == 1
    assert told["arm_share", "gpt-4o", "support"] == 0.95
    assert told["budget_spent_usd", "day", "support"] == 0
    assert told["budget_limit_usd", "day", "support"] == 3  # of 12 for four pods
    assert ("budget_limit_usd", "month", "support") not in told
    assert told["policy_error",] == 0
    assert told["store_lag_rows",] == 0
    assert told["spans_exported",] == 0
    assert told["pool_connections", "idle", "up"] == 0
    assert [value for key, value in told.items() if key[0] == "threshold_breached"] == [0]
    assert app.spans is not None
    app.spans.close()


async def test_links_of_an_audit_that_is_not_read_yet_are_not_told_as_none(tmp_path: Path) -> None:
    """A database that is locked when the process begins, or held by another one: 0 would look like a chain that was cut."""
    app = Sidecar(Settings.load({}, None, [f"db={tmp_path / 'sidecar.db'}", "service=bot", "request_log=off"]), {})
    assert app.archive.writer is not None
    assert b"audit_links 0" not in app.metrics.render()[1]
    app.archive.writer.chain.head = Head(7, "ab" * 32)
    assert b"llm_sidecar_audit_links 7.0" in app.metrics.render()[1]


async def test_what_a_route_without_a_budget_spends_is_not_told_as_nothing(tmp_path: Path) -> None:
    """Only budgets are counted for; what all calls cost is in `cost_usd`."""
    (tmp_path / "bot.yaml").write_text(POLICY.replace("    budget: {daily_usd: 12}\n", ""))
    app = Sidecar(Settings.load({}, None, [f"policies={tmp_path}", "service=bot", "request_log=off"]), {})
    assert app.policies.error is None
    assert b"budget_spent_usd{" not in app.metrics.render()[1]
    assert [(one.spent_day_nusd, one.spent_month_nusd) for one in app.engine.status()] == [(None, None)]


async def test_a_share_is_one_of_what_is_chosen(tmp_path: Path) -> None:
    """Where nothing is chosen it is 0, whatever the arm serves; the page must not promise the share of the traffic."""
    observing = "mode: observe\n    baseline: {id: gpt-4o, upstream: up, model: gpt-4o}\n"
    head, _, _ = SUPPORT.partition("mode: ")
    (tmp_path / "bot.yaml").write_text(head + observing)
    app = Sidecar(Settings.load({}, None, [f"policies={tmp_path}", "service=bot", "request_log=off"]), {})
    assert app.policies.error is None
    assert b'arm_share{arm="gpt-4o",route="support"} 0.0' in app.metrics.render()[1]
    assert "that the arm is chosen for" in BY_NAME["arm_share"].help


async def test_load(tmp_path: Path) -> None:
    """At rest the plane holds nothing, and every upstream's pool is told once."""
    (tmp_path / "bot.yaml").write_text(POLICY)
    app = Sidecar(Settings.load({}, None, [f"policies={tmp_path}", "service=bot", "request_log=off"]), {})
    app.plane.books.accepted = app.plane.books.failed = 1
    told = load(app.plane)
    held = ("connections", "exchanges", "tasks", "buffered_bytes", "waiting_bodies")
    assert [told[name] for name in held] == [0] * len(held)
    assert isinstance(told["pools"], dict)
    assert isinstance(told["books"], dict)
    assert told["calls"] == told["retries"] == dict.fromkeys(told["pools"], 0)
    assert set(told["pools"]) == {"up", "openai", "anthropic", "gemini"}
    assert told["pools"]["up"] == {"open": 0, "idle": 0, "waiting": 0, "dialling": 0}
    assert {name for name, count in told["books"].items() if count} == {"accepted", "failed"}


async def test_upstreams_of_one_name_are_added_up(tmp_path: Path) -> None:
    """A policy's upstream is mostly called `openai`, as the one is that serves without a policy: the idle one of the two
    hides nothing of the other's calls, tries, breakers and limit."""
    (tmp_path / "bot.yaml").write_text(POLICY.replace("up:", "openai:").replace("upstream: up", "upstream: openai"))
    settings = [f"policies={tmp_path}", "service=bot", "request_log=off", "concurrency_limit=overload"]
    app = Sidecar(Settings.load({}, None, settings), {})
    assert app.policies.error is None
    for count, guard in enumerate(one for one in app.engine.guards.all if one.name == "openai"):
        breaker = guard.of(None)
        for _ in range(2 - count):
            guard.begin(breaker, retry=True)
        guard.budget.denied, breaker.opened = 4, 3
        assert guard.limit is not None
        guard.limit.value = 7.0 + count
    told = {
        (sample.name.removeprefix(PREFIX), *sorted(sample.labels.values())): sample.value
        for family in parse(app.metrics.render()[1].decode())
        for sample in family.samples
    }
    assert told["upstream_active", "openai"] == 3
    assert told["upstream_retries_total", "made", "openai"] == 3
    assert told["upstream_retries_total", "denied", "openai"] == 8
    assert told["breaker_opened_total", "*", "openai"] == 6
    assert told["concurrency_limit", "openai"] == 7
    assert load(app.plane)["calls"] == {"openai": 3, "anthropic": 0, "gemini": 0}


async def test_counters_of_an_upstream_do_not_fall_when_it_is_edited(tmp_path: Path) -> None:
    """Its pool and its breakers begin anew; a counter that falls would be counted once more by Prometheus. One of the
    same name that stays goes on. Nothing is lost that they count between two scrapes."""
    text = POLICY.replace("up:", "openai:").replace("upstream: up", "upstream: openai")
    (tmp_path / "bot.yaml").write_text(text)
    app = Sidecar(Settings.load({}, None, [f"policies={tmp_path}", "service=bot", "request_log=off"]), {})

    def told() -> list[str]:
        wanted = ('pool_dials_total{result="ok",upstream="openai"}', 'upstream_retries_total{result="made"')
        wanted += ('breaker_opened_total{model="gpt-4o"',)
        lines = app.metrics.render()[1].decode().splitlines()
        return [line.split()[-1] for name in wanted for line in lines if name in line and "openai" in line]

    def count(dials: int) -> None:
        for origin in (app.plane.origins["openai"], app.plane.defaults["openai"]):
            origin.pool.dials += dials
            origin.guard.budget.made += dials
        app.plane.origins["openai"].guard.of("gpt-4o").opened += dials

    count(5)
    assert told() == ["10.0", "10.0", "5.0"]
    (tmp_path / "bot.yaml").write_text(text.replace("price: free", "price: {input_mtok: 1.0, output_mtok: 1.0}"))
    app.apply(load_policies(tmp_path, "bot", {}, app.settings))
    assert app.plane.origins["openai"].pool.dials == 0
    assert told() == ["10.0", "10.0", "5.0"]
    count(2)
    assert told() == ["14.0", "14.0", "7.0"]
    count(1)
    (tmp_path / "bot.yaml").write_text(text)
    app.apply(load_policies(tmp_path, "bot", {}, app.settings))
    count(4)
    assert told() == ["24.0", "24.0", "12.0"], "what both counted since the last scrape"


async def test_a_scrape_looks_at_the_routes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes shares anew, a third of a millisecond a route on the loop; what cannot be had leaves nothing old behind.
    A probe of `/ready` does without."""
    (tmp_path / "bot.yaml").write_text(POLICY)
    app = Sidecar(Settings.load({}, None, [f"policies={tmp_path}", "service=bot", "request_log=off"]), {})
    status, looks = app.engine.status, 0

    def counted() -> list[RouteStatus]:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise RuntimeError
        return status()

    monkeypatch.setattr(app.engine, "status", counted)
    assert b"budget_spent_usd{" in app.metrics.render()[1]
    assert any("mini" in note for note in app.readiness().notes)
    assert looks == 1
    assert b"budget_spent_usd{" not in app.metrics.render()[1]
    assert looks == 2
