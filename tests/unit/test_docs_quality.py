"""docs/quality.md says what the code does: sources, limits, validators and the worked example."""

import re
from pathlib import Path

import pytest
import yaml

from sidecar.config.policy import load_text
from sidecar.config.written_quality import VALIDATORS
from sidecar.control import feedback
from sidecar.core.policy import SOURCES
from sidecar.core.reward import label, scaled, shares
from sidecar.wire import answer, asked, validators_pattern, validators_schema
from sidecar.wire.validators_language import LANGUAGES

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "quality.md").read_text(encoding="utf-8")
HEAD = {
    "version": 1,
    "upstreams": {"o": {"dialect": "openai", "base_url": "http://127.0.0.1:8000/v1"}},
    "routes": [{"name": "r", "baseline": {"id": "a", "upstream": "o", "model": "m"}}],
}


def test_the_table_of_sources() -> None:
    """Every built-in source with its scale, direction, weight and bound."""
    rows = ["| source | scale | better | log | weight | max_share |", "| --- | --- | --- | --- | --- | --- |"]
    for name, one in SOURCES.items():
        log = " yes" if one.log else ""
        rows.append(
            f"| `{name}` | {one.low:g}..{one.high:g} | {one.better} |{log} | {one.weight:g} | {one.max_share:g} |"
        )
    assert "\n".join(rows) + "\n\n" in TEXT


def test_the_validators() -> None:
    """All are explained, and the languages are counted."""
    explained = set(
        re.findall(r"^\| `([a-z_]+)` \|", TEXT[TEXT.index("## Validators") : TEXT.index("### Limits")], re.M)
    )
    assert explained == set(VALIDATORS)
    assert len(LANGUAGES) == 20


def test_the_limits() -> None:
    """As the constants have them."""
    for number in (
        f"{answer.MAX_BYTES:,} characters",
        f"{asked.MAX_REQUEST_BYTES // 2**20} MiB",
        f"{validators_schema.MAX_SCHEMA_BYTES // 1024} KiB",
        f"{validators_schema.MAX_STEPS:,} steps",
        f"{validators_pattern.MAX_PATTERN_CHARS} characters",
        f"{feedback._REMEMBERED:,} decisions",
        f"{feedback._MAX_SOURCES} sources are told apart",
        f"takes {feedback._MAX_SOURCES_EACH} sources",
    ):
        assert number in TEXT


def test_the_worked_example() -> None:
    """Four stars, a minute, a quarter edited."""
    scores = {
        name: scaled(SOURCES[name], value)
        for name, value in (("stars", 4), ("dwell_time", 60), ("edit_distance", 0.25))
    }
    assert scores == pytest.approx({"stars": 0.75, "dwell_time": 0.64, "edit_distance": 0.75}, abs=0.005)
    known = {name: score for name, score in scores.items() if score is not None}
    parts = shares([(SOURCES[name].weight, SOURCES[name].max_share) for name in known])
    assert parts == pytest.approx([0.571, 0.143, 0.286], abs=0.0005)
    assert label(known, SOURCES) == (pytest.approx(0.73, abs=0.005), 1.0)


def test_the_policies_load() -> None:
    """Every block of YAML is a `quality` that this version takes."""
    blocks = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
    assert len(blocks) == 2
    for block in blocks:
        route = HEAD["routes"][0] | yaml.safe_load(block)  # type: ignore[index]
        assert load_text(yaml.safe_dump(HEAD | {"routes": [route]}), Path("p.yaml"), {}).warnings == ()
