"""docs/operations.md says what the code does: its table of settings is made from the settings' own fields."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.address import show_listen
from sidecar.config.settings import Settings
from sidecar.config.sources import Sources
from sidecar.config.units import show_duration, show_size
from sidecar.telemetry.catalogue import CATALOGUE

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->\n"


def _shown(name: str, value: Any) -> str:
    if value is None or value == ():
        return ""
    if name.endswith("listen"):
        return show_listen(value)
    if name.endswith("_s"):
        return show_duration(value)
    if name.endswith("_bytes"):
        return show_size(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def settings_table() -> str:
    """The settings as docs/operations.md shows them."""
    lines = ["| key | default | environment | why |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(Settings):
        short = re.sub(r"_(s|bytes)$", "", field.name)
        names = [*field.metadata["env"], f"SIDECAR_{short}".upper()]
        variables = ", ".join(f"`{name}`" for name in names)
        shown = _shown(field.name, field.default)
        default = f"`{shown}`" if shown else "unset"
        lines.append(f"| `{short}` | {default} | {variables} | {field.metadata['why']} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_settings_is_that_of_the_code() -> None:
    """When this fails, paste `settings_table()` between the two comments."""
    assert TEXT.split(BEGIN)[1].split(END)[0] == settings_table()


def test_every_variable_in_the_text_is_a_setting() -> None:
    """A variable that the text invents would be refused at start."""
    known = set(Sources(Settings).variables)
    named = set(re.findall(r"\bSIDECAR_[A-Z_]+\b", TEXT))
    assert named
    assert named <= known


def test_every_metric_in_the_text_exists() -> None:
    """Who looks for it finds it."""
    known = {metric.full_name for metric in CATALOGUE}
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bllm_sidecar_[a-z_]+", TEXT)}
    assert len(named) > 5
    assert named <= known


@pytest.mark.parametrize("timer", ["connect 5 s", "first byte 600 s", "idle 300 s", "drain 25 s"])
def test_the_timers_in_the_text_are_the_defaults(timer: str) -> None:
    """The sentence about timers is as true as the table."""
    name, seconds = re.fullmatch(r"(.*) (\d+) s", timer).groups()  # type: ignore[union-attr]
    key = {"drain": "drain_s"}.get(name, f"{name.replace(' ', '_')}_timeout_s")
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    assert timer in TEXT
    assert defaults[key] == float(seconds)
