"""The values that the pages about Kubernetes show are taken by the chart, as they stand there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.chart import ROOT, helm, name_of, render

PAGES = sorted((ROOT / "docs").glob("kubernetes*.md"))
SHOWN: list[tuple[str, dict[str, Any]]] = [
    (f"{page.name} {number}", yaml.safe_load(text))
    for page in PAGES
    for number, text in enumerate(
        re.findall(r"^```yaml\n# values.yaml\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    )
]


@pytest.mark.parametrize(("name", "values"), SHOWN, ids=[name for name, _ in SHOWN])
def test_values_of_the_pages_render(name: str, values: dict[str, Any]) -> None:
    """What a reader copies is not refused."""
    assert render(values), name


def test_the_names_in_the_text_are_those_of_the_release() -> None:
    """The commands of the pages name objects of `helm install llm-sidecar ... --namespace llm-sidecar`."""
    values = {"standalone": {"enabled": True}, "daemon": {"enabled": True}}
    names = {name_of(one) for one in render(values, namespace="llm-sidecar")}
    assert {
        "Deployment/llm-sidecar-injector",
        "Service/llm-sidecar-injector",
        "Secret/llm-sidecar-injector-tls",
        "MutatingWebhookConfiguration/llm-sidecar-injector-llm-sidecar",
        "Service/llm-sidecar-standalone",
        "Service/llm-sidecar-daemon",
    } <= names


def test_the_rules_are_in_the_rendered_object() -> None:
    """All of them, their templates untouched; an alert that is not wanted is left out by its name."""
    values = {"prometheusRule": {"enabled": True, "disabledAlerts": ["LlmAnswersLate"]}}
    (made,) = (one for one in render(values) if one["kind"] == "PrometheusRule")
    written = yaml.safe_load((Path(ROOT) / "k8s" / "chart" / "rules" / "llm-sidecar.yaml").read_text("utf-8"))
    for group in written["groups"]:
        group["rules"] = [rule for rule in group["rules"] if rule.get("alert") != "LlmAnswersLate"]
    assert made["spec"]["groups"] == written["groups"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_of_helm_exist(page: Path) -> None:
    """Each long option behind `helm VERB` is one that this Helm has."""
    for line in re.findall(r"^helm (.+)$", page.read_text("utf-8").replace("\\\n", " "), re.M):
        known = helm(line.split()[0], "--help").stdout
        assert [flag for flag in re.findall(r"--[a-z-]+", line) if flag not in known] == []
