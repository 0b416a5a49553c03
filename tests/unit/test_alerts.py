"""The alert rules and docs/alerts.md agree with each other and with the metrics. That they fire: tests/k8s/test_rules.py."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from sidecar.core.types import OutcomeKind, Reason, Severity
from sidecar.inject.cluster import CALLS
from sidecar.inject.counts import RESULTS
from sidecar.telemetry.catalogue import CATALOGUE, PREFIX, SECONDS

ROOT = Path(__file__).resolve().parents[2]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "k8s/chart/rules/llm-sidecar.yaml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
PAGE = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
TARGET = {"namespace", "pod", "endpoint"}  # of a scrape, by the chart's PodMonitors
FOREIGN = {  # metrics of others, and the labels of theirs that we use
    "up": set[str](),
    "kube_pod_init_container_status_ready": {"container"},
    "kube_pod_container_status_ready": {"container"},
    "kube_pod_status_phase": {"phase"},
    "apiserver_admission_webhook_fail_open_count": {"name"},
}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}


def _known() -> dict[str, set[str]]:
    """Every series that a rule may ask for, with the labels that it has of itself."""
    found = {name: set(labels) for name, labels in FOREIGN.items()} | {name: {"service"} for name in RECORDED}
    for metric in CATALOGUE:
        own = set(metric.labels) - {"endpoint"}  # the operator's label of that name hides it
        if metric.kind == "histogram":
            found |= {f"{metric.full_name}_{part}": own | {"le"} for part in ("bucket", "count", "sum")}
        else:
            found[metric.full_name] = own
    return found


KNOWN = _known()
CLOSED = {  # labels whose values are a closed set
    "outcome": set(get_args(OutcomeKind)),
    "reason": set(get_args(Reason)),
    "status_class": {"none", "2xx", "3xx", "4xx", "5xx"},
    "state": {"closed", "open", "half_open"},
    "cause": {"overload", "head", "engine"},
    "result": set(RESULTS),
    "call": set(CALLS),
    "stream": {"true", "false"},
    "le": {"+Inf", *(repr(edge) for edge in SECONDS)},
}


def _asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """(metric, labels in its braces) of every selector."""
    names = rf"{PREFIX}\w+|namespace_service:\w+:\w+|kube_\w+|apiserver_\w+|\bup\b"
    for name, braces in re.findall(rf"(?<![\w:])({names})\s*(\{{[^}}]*\}})?", expression):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', braces)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_what_a_rule_asks_for_exists(rule: dict[str, Any]) -> None:
    """An alert on a metric or label that is not there never fires."""
    asked = list(_asked(rule["expr"]))
    assert asked
    assert [name for name, _ in asked if name not in KNOWN] == []
    assert [(name, labels) for name, labels in asked if not labels <= KNOWN[name] | TARGET] == []
    grouped = {
        label
        for found in re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", rule["expr"])
        for label in re.split(r",\s*", found)
    }
    assert grouped <= TARGET.union(*(KNOWN[name] for name, _ in asked))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_values_of_labels_exist(rule: dict[str, Any]) -> None:
    """A value that no metric ever has matches nothing, and `!=` of it everything."""
    for label, text in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', rule["expr"]):
        if label in CLOSED:
            assert set(text.split("|") if label != "le" else [text]) <= CLOSED[label]
        if label == "severity":
            assert set(text.split("|")) <= set(get_args(Severity))


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """A severity that can be routed by, two sentences, and the place of its runbook."""
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["description"].endswith(".")
    assert not rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{rule['alert'].lower()}"


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    """In the same order, so that the page can be read beside the rules."""
    assert re.findall(r"^### (\w+)$", PAGE, re.MULTILINE) == [rule["alert"] for rule in ALERTS]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_a_runbook_has_its_four_parts(rule: dict[str, Any]) -> None:
    """What it means, what users feel, where to look, what to do."""
    text = " ".join(re.split(rf"^### {rule['alert']}$", PAGE, flags=re.MULTILINE)[1].split("\n#")[0].split())
    places = [text.find(f"**{part}**") for part in ("Means", "Users feel", "Look")]
    assert -1 not in places
    assert places == sorted(places)
    assert re.search(r"\*\*[Dd]o\*\*", text)


def test_metrics_and_alerts_of_the_page_exist() -> None:
    """Also those that it only mentions."""
    metrics = {name for name in re.findall(rf"(?<![:\w]){PREFIX}\w+", PAGE) if not name.startswith(f"{PREFIX}process_")}
    bases = {re.sub(r"_(bucket|count|sum)$", "", name) for name in KNOWN}
    assert metrics - {"llm_sidecar_"} <= bases | KNOWN.keys()
    links = set(re.findall(r"\]\(#(llm\w+)\)", PAGE))
    assert links <= {rule["alert"].lower() for rule in ALERTS}
