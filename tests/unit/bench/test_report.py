"""The report: medians, differences, ratios, tables."""

import math
from pathlib import Path

import pytest

from bench import report
from bench.sections import add_differences, cell


def sample() -> dict[str, object]:
    cells = {
        "direct": cell([{"cpu_us": 9.0, "errors": 0}]),
        "nginx": cell([{"cpu_us": 20.0, "errors": 0}, {"cpu_us": 24.0, "errors": 0}, {"cpu_us": 21.0, "errors": 0}]),
        "sidecar observe": cell([{"cpu_us": 42.0, "errors": 0}]),
        "other": {"failed": "ended: first line\nno such file"},
    }
    sections = {"cpu": {"16 connections": cells}}
    return {
        "at": "2026-11-21T03:00:00Z",
        "machine": {"cpu": "X", "cores": 2, "system": "Linux", "python": "3.11", "load_average": [0.5, 0, 0]},
        "sections": sections,
        "ratios": report.ratios(sections),
        "failed": {"other": "ended"},
    }


def test_cell_keeps_rounds_and_their_medians() -> None:
    """Raw rounds stay beside the median."""
    made = cell([{"a": 1.0}, {"a": 5.0}, {"a": 2.0}])
    assert made == {"median": {"a": 2.0}, "rounds": [{"a": 1.0}, {"a": 5.0}, {"a": 2.0}]}


def test_added_is_the_median_of_paired_differences() -> None:
    """The difference is taken within a round: a slow round that hit both does not count against the peer."""
    cells = {"direct": cell([{"p50_us": 100.0}, {"p50_us": 900.0}]), "x": cell([{"p50_us": 150.0}, {"p50_us": 960.0}])}
    add_differences(cells, ["p50_us"])
    assert cells["x"]["median"] == {"p50_us": 555.0, "added_p50_us": 55.0}
    assert "added_p50_us" not in cells["direct"]["median"]  # type: ignore[operator]


def test_ratios_are_to_nginx_of_the_same_label() -> None:
    """42 us against nginx's median of 21; direct and what failed have none, and without nginx there are none."""
    assert sample()["ratios"] == {"cpu.cpu_us": {"16 connections": {"nginx": 1.0, "sidecar observe": 2.0}}}
    assert report.ratios({"cpu": {"1": {"x": cell([{"cpu_us": 1.0}])}}}) == {}
    assert report.ratios({"cpu": {"1": {"nginx": cell([{"cpu_us": math.nan}])}}}) == {}


def test_table_shows_figures_and_says_what_was_not_measured() -> None:
    """One row a peer; a failure is a row, not a gap."""
    text = report.table(sample())
    rows = [line.split() for line in text.splitlines()]
    assert ["16", "connections", "nginx", "21.0", "-", "-", "-", "-", "0"] in rows
    assert ["16", "connections", "other", "not", "measured:", "no", "such", "file"] in rows
    assert "cpu.cpu_us, 16 connections: nginx 1.00, sidecar observe 2.00" in text


def test_markdown_is_well_formed() -> None:
    """Every row of a table has as many cells as its head."""
    text = report.markdown(sample())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4
    assert {row.count("|") for row in rows} == {9}
    assert "load average at the start 0.50" in text


def test_filled_replaces_what_stands_between_the_marks() -> None:
    """The documentation's own page takes the tables, twice over without growing; a page without marks is refused."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "benchmarks.md").read_text()
    once = report.filled(page, sample())
    assert once.count("### Processor time per request") == 1
    assert once.partition("## Figures")[0] == page.partition("## Figures")[0]
    assert report.filled(once, sample()) == once
    with pytest.raises(ValueError, match="no <!-- bench"):
        report.filled("# A page", sample())
