"""The report of the routing bench for people: the goal table, and every figure by matrix; plain or markdown."""

from collections.abc import Mapping, Sequence

from bench.figures import Figure
from bench.router_goals import Report, checked, text

BEGIN = "<!-- bench.routing begin -->\n"
END = "<!-- bench.routing end -->"
HEADS = ("goal", "matrix", "ours", "95 % interval", "reference", "target", "met", "peers")
FIGURE_HEADS = ("metric", "mean", "95 % interval", "reference")
UNSHOWN = "curve_"  # points of curves: for pictures, not for reading
Row = tuple[str, ...]


def goal_rows(report: Report) -> list[Row]:
    """One row for each goal that the report has a figure for, as HEADS says."""
    rows = []
    for goal, matrix, metric, found in checked(report):
        met = goal.met(found)
        name = f"{goal.text} ({_middle(metric, goal.metric)})" if "*" in goal.metric else goal.text
        target = f"{goal.sign} {text(goal.target)}"
        rows.append((name, matrix, *_cells(found), target, {None: "-", True: "yes", False: "NO"}[met], goal.peer))
    return rows


def plain(report: Report, *, goals_only: bool = False) -> str:
    """The report for a terminal."""
    parts = [_columns([HEADS, *goal_rows(report)])]
    if not goals_only:
        parts += [_columns([(name, *FIGURE_HEADS[1:]), *_figure_rows(metrics)]) for name, metrics in report.items()]
    return "\n\n".join(parts)


def markdown(report: Report, note: str) -> str:
    """The report for a page; `note` says how it was made."""
    parts = [note, "### Goals", _grid([HEADS, *goal_rows(report)])]
    for name, metrics in report.items():
        title = "All matrices, and what needs none" if name == "all" else name
        parts += [f"### {title}", _grid([FIGURE_HEADS, *_figure_rows(metrics)])]
    return "\n\n".join(parts) + "\n"


def filled(page: str, tables: str) -> str:
    """The page with the tables between its two marks. Raises ValueError when it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no {BEGIN.strip()} ... {END}: put both on lines of their own")
    return before + begin + tables + end + after


def _figure_rows(metrics: Mapping[str, Figure]) -> list[Row]:
    return [(metric, *_cells(found)) for metric, found in metrics.items() if not metric.startswith(UNSHOWN)]


def _cells(found: Figure) -> Row:
    between = (
        "" if found["hi"] is None else f"{'' if found['lo'] is None else text(found['lo'])} .. {text(found['hi'])}"
    )
    return text(found["mean"]), between, text(found["reference"])


def _middle(metric: str, pattern: str) -> str:
    """What the star of a pattern stands for."""
    start, _, end = pattern.partition("*")
    return metric[len(start) : len(metric) - len(end)].replace("_", " ")


def _columns(rows: Sequence[Row]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _grid(rows: Sequence[Row]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])
