"""The alert rules, by Prometheus' own tool: each is valid, fires when it should, and is quiet when it should not."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.alert_cases import CASES, Case

RULES = Path(__file__).resolve().parents[2] / "k8s" / "chart" / "rules" / "llm-sidecar.yaml"
pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def _promtool(*arguments: str) -> str:
    """What promtool says; an AssertionError with it when it finds a fault."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


GROUPS: dict[str, dict[str, Any]] = {group["name"]: group for group in yaml.safe_load(RULES.read_text())["groups"]}


def _alerts(group: str) -> set[str]:
    return {rule["alert"] for rule in GROUPS[group]["rules"] if "alert" in rule}


def _test_of(case: Case, fires: bool) -> dict[str, Any]:
    series = case.fires if fires else case.quiet
    firing = f'count by (alertname) (ALERTS{{alertname="{case.alert}",alertstate="firing"}})'
    expected = [{"labels": f'{{alertname="{case.alert}"}}', "value": 1}] if fires else []
    return {
        "name": f"{case.alert} {'fires' if fires else 'keeps quiet'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": f"{case.minutes}m", "exp_samples": expected}],
    }


def _run(folder: Path, group: str, tests: list[dict[str, Any]]) -> None:
    """With the rules of one group only: promtool evaluates all that it has at every minute."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": [GROUPS[group]]}))
    told = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(told))
    _promtool("test", "rules", str(folder / "tests.yaml"))


def test_the_rules_are_valid() -> None:
    """Every expression parses, every template of an annotation too."""
    assert "SUCCESS" in _promtool("check", "rules", str(RULES))


def test_every_alert_has_a_case() -> None:
    """In both directions."""
    assert {case.alert for case in CASES} == set().union(*map(_alerts, GROUPS))


@pytest.mark.parametrize("group", GROUPS)
def test_each_alert(tmp_path: Path, group: str) -> None:
    """It fires, and it keeps quiet; promtool's words name those that are wrong."""
    cases = [case for case in CASES if case.alert in _alerts(group)]
    _run(tmp_path, group, [_test_of(case, fires) for case in cases for fires in (True, False)])


def test_what_the_person_on_call_reads(tmp_path: Path) -> None:
    """Labels and numbers stand where the texts want them."""
    labels = 'namespace="shop",pod="bot-1",route="chat",period="day"'
    expected = {
        "severity": "warning", "namespace": "shop", "pod": "bot-1", "route": "chat", "period": "day",
    }  # fmt: skip
    texts = {
        "summary": "Route chat has spent 95% of its day",
        "description": "This is the share of shop/bot-1. At 100 % calls go to the cheapest arm, or get 429.",
        "runbook_url": "docs/alerts.md#llmsidecarbudgetnearlyspent",
    }
    test = {
        "interval": "1m",
        "input_series": [
            {"series": f"llm_sidecar_budget_spent_usd{{{labels}}}", "values": "9.5x20"},
            {"series": f"llm_sidecar_budget_limit_usd{{{labels}}}", "values": "10x20"},
        ],
        "alert_rule_test": [
            {
                "eval_time": "20m",
                "alertname": "LlmSidecarBudgetNearlySpent",
                "exp_alerts": [{"exp_labels": expected, "exp_annotations": texts}],
            }
        ],
    }
    _run(tmp_path, "llm-sidecar.money", [test])
