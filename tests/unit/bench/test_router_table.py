"""The goal table: goals find their figures, and a report fills the documentation's page."""

from pathlib import Path

import pytest

from bench.figures import figure
from bench.router_goals import GOALS, checked, text
from bench.router_table import filled, goal_rows, markdown, plain

REPORT = {
    "routerbench_slices": {"aiq": figure(0.83, 0.82, 0.82, 0.84), "drop_tight_until_left": figure(70.0)},
    "other": {"aiq": figure(0.5)},
    "all": {"regret_worst": figure(None)},
}


def test_goals_meet_the_figures_that_they_name() -> None:
    """A goal for one matrix leaves the others alone, a star fits any middle, no figure is neither yes nor no."""
    rows = {(row[0], row[1]): row[6] for row in goal_rows(REPORT)}
    assert rows == {
        ("online AIQ", "routerbench_slices"): "yes",
        ("quality drop: until left (tight)", "routerbench_slices"): "NO",
        ("regret, worst matrix", "all"): "-",
    }
    assert len(list(checked({"x": {goal.metric: figure(1.0) for goal in GOALS if goal.matrix == "*"}}))) > 5


def test_tables_show_every_figure() -> None:
    """Plain and markdown; each row of a markdown table has as many cells as its head."""
    shown = plain(REPORT)
    assert "0.8300  0.8200 .. 0.8400  0.8200" in shown
    assert "other" in shown
    assert "other" not in plain(REPORT, goals_only=True)
    page = markdown(REPORT, "Two seeds.")
    assert page.startswith("Two seeds.")
    assert {line.count("|") for line in page.splitlines() if line.startswith("|")} == {5, 9}


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (0.12345, "0.1235"), (608.0, "608.0"), (2.9e-5, "2.90e-05")])
def test_numbers_are_short(value: float | None, shown: str) -> None:
    """Four decimals at most, and tiny ones are not 0.0000."""
    assert text(value) == shown


def test_filled_replaces_what_stands_between_the_marks() -> None:
    """The documentation's own page takes the tables, twice over without growing; a page without marks is refused."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "routing-benchmarks.md").read_text()
    once = filled(page, markdown(REPORT, "Two seeds."))
    assert once.count("### Goals") == 1
    assert filled(once, markdown(REPORT, "Two seeds.")) == once
    with pytest.raises(ValueError, match="no <!-- bench"):
        filled("# A page", "tables")
