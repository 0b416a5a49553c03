"""The chart's values: each is explained and in the schema, a wrong one is told, and the notes say what comes next."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s import chart, matrix
from tests.k8s.chart import helm, refusal

VALUES: dict[str, Any] = yaml.safe_load((chart.CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((chart.CHART / "values.schema.json").read_text())


@pytest.mark.parametrize(("values", "kube", "says"), matrix.WRONG, ids=lambda one: one if isinstance(one, str) else "")
def test_wrong_values_are_told(values: dict[str, Any], kube: str, says: str) -> None:
    """A refusal names the value and what is right."""
    assert says in refusal(values, kube)


def test_the_schema_is_closed() -> None:
    """No object of the schema takes members that it does not name, or says nothing of; free ones are Kubernetes' own."""
    free = {"valueFrom", "affinity", "items", "global"}
    for path, node in _nodes(SCHEMA, ()):
        if node.get("type") == "object" and path[-1] not in free:
            assert "additionalProperties" in node, path


def _nodes(node: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    found = [(path, node)] if isinstance(node, dict) and path else []
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return found + [one for name, value in inner for one in _nodes(value, (*path, str(name)))]


def test_the_schema_and_the_values_name_the_same() -> None:
    """Every value has a default, and every default is in the schema."""
    assert _keys_of_schema(SCHEMA) - {("global",), ("enabled",)} == _keys_of_values(VALUES)


def _keys_of_schema(node: dict[str, Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if "$ref" in node:
        node = SCHEMA["definitions"][node["$ref"].rpartition("/")[2]]
    node = {**node, **{key: value for part in node.get("allOf", []) for key, value in part.items() if key == "$ref"}}
    if "$ref" in node:
        node = SCHEMA["definitions"][node["$ref"].rpartition("/")[2]]
    optional = {"issuerRef", "cpu", "ephemeral-storage", "memory", "matchLabels", "matchExpressions"}
    found: set[tuple[str, ...]] = set()
    for name, inner in node.get("properties", {}).items():
        if name not in optional - {"issuerRef"}:
            found |= {(*path, name)} | (_keys_of_schema(inner, (*path, name)) if name not in optional else set())
    return found


def _keys_of_values(node: dict[str, Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for name, inner in node.items():
        if name in ("cpu", "memory") or path[-1:] == ("nodeSelector",):
            continue
        found |= {(*path, name)} | (_keys_of_values(inner, (*path, name)) if isinstance(inner, dict) else set())
    return found


def test_every_value_is_explained() -> None:
    """Each key has a comment where it comes first; what is repeated for another part means the same there."""
    lines = (chart.CHART / "values.yaml").read_text().splitlines()
    keys = [(found[1], "#" in line) for line in lines if (found := re.match(r" *([A-Za-z]+):", line))]
    explained = {key for key, comment in keys if comment}
    assert [key for key, _ in keys if key not in explained] == []


def test_the_notes_say_what_next(tmp_path: Path) -> None:
    """Three lines for each way of installing. Helm shows them to a cluster only, so here a ConfigMap holds them."""
    shutil.copytree(chart.CHART, tmp_path / "chart")
    folder = tmp_path / "chart" / "templates"
    notes = (folder / "NOTES.txt").read_text()
    (folder / "_notes.tpl").write_text(f'{{{{ define "notes" }}}}{notes}{{{{ end }}}}')
    shown = '{kind: ConfigMap, apiVersion: v1, metadata: {name: notes}, data: {notes: {{ include "notes" . | quote }}}}'
    (folder / "notes.yaml").write_text(shown)
    for values, first in (
        ({}, "llm-sidecar.io/injection=enabled"),
        (matrix.STANDALONE, "http://llm-sidecar-standalone.llm:9090"),
        (matrix.DAEMON, "http://llm-sidecar-daemon.llm:9090"),
        (matrix.MATRIX["minimal"], "Nothing is enabled"),
    ):
        done = helm("template", "llm-sidecar", str(tmp_path / "chart"), "--namespace", "llm", "--show-only",
                    "templates/notes.yaml", "--values", "-", stdin=json.dumps(values))  # fmt: skip
        lines = yaml.safe_load(done.stdout)["data"]["notes"].strip().splitlines()
        assert [line[:2] for line in lines] == ["1.", "2.", "3."]
        assert first in lines[0]
