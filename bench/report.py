"""From sections to what a person reads: a table for the terminal, markdown for the documentation, and the ratios.

Reads the JSON that `bench.proxy` writes, so a table can be printed again from a file.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench import stats

Report = Mapping[str, Any]  # JSON as read back: {"machine", "sections", "ratios", ...}

# section -> title, and (key of a cell's median, heading, decimals) per column
COLUMNS: Mapping[str, tuple[str, tuple[tuple[str, str, int], ...]]] = {
    "cpu": (
        "Processor time per request, closed loop",
        (
            ("cpu_us", "CPU us/request", 1),
            ("other_threads_us", "of it other threads", 1),
            ("requests_per_s", "requests/s", 0),
            ("p50_us", "p50 us", 0),
            ("p99_us", "p99 us", 0),
            ("errors", "errors", 0),
        ),
    ),
    "latency": (
        "Latency, open loop, from the scheduled arrival",
        (
            ("p50_us", "p50 us", 0),
            ("added_p50_us", "added p50 us", 0),
            ("p99_us", "p99 us", 0),
            ("added_p99_us", "added p99 us", 0),
            ("cpu_us", "CPU us/request", 1),
            ("errors", "errors", 0),
        ),
    ),
    "streams": (
        "Streams (SSE)",
        (
            ("added_ttft_p50_us", "added TTFT p50 us", 0),
            ("added_ttft_p99_us", "added TTFT p99 us", 0),
            ("added_chunk_p50_us", "added per token p50 us", 0),
            ("added_chunk_p99_us", "added per token p99 us", 0),
            ("cpu_ms_per_1000_chunks", "CPU ms/1,000 tokens", 1),
            ("errors", "errors", 0),
        ),
    ),
    "memory": (
        "Memory",
        (
            ("rss_idle_mib", "RSS idle MiB", 1),
            ("rss_after_mib", "RSS after MiB", 1),
            ("pss_idle_mib", "PSS idle MiB", 1),
            ("pss_after_mib", "PSS after MiB", 1),
            ("idle_cpu_ms_per_s", "idle CPU ms/s", 1),
            ("errors", "errors", 0),
        ),
    ),
    "start": ("Start to first answered request", (("start_ms", "ms", 0),)),
    "ttft": (
        "Recorded TTFT minus the true one (0-500 ms)",
        (
            ("ttft_error_p50_us", "ttft_s median us", 0),
            ("ttft_error_p99_us", "ttft_s p99 us", 0),
            ("ttft_after_sent_error_p50_us", "after sent median us", 0),
            ("ttft_after_sent_error_p99_us", "after sent p99 us", 0),
            ("streams", "streams", 0),
            ("unrecorded", "unrecorded", 0),
            ("errors", "errors", 0),
        ),
    ),
}
_RATIOS = {"cpu": "cpu_us", "streams": "cpu_ms_per_1000_chunks", "memory": "rss_idle_mib", "start": "start_ms"}
BASE = "nginx"
_BEGIN = "<!-- bench.proxy begin -->\n"
_END = "<!-- bench.proxy end -->"


def ratios(sections: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """For each section and label: every peer's figure divided by nginx's of the same run. Empty without nginx."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for section, key in _RATIOS.items():
        for label, cells in sections.get(section, {}).items():
            base = _median(cells.get(BASE, {}), key)
            quotients = {name: stats.ratio(_median(one, key), base) for name, one in cells.items() if name != "direct"}
            there = {name: value for name, value in quotients.items() if value is not None}
            if there:
                found.setdefault(f"{section}.{key}", {})[label] = there
    return found


def _median(one: Mapping[str, Any], key: str) -> float | None:
    value = one.get("median", {}).get(key)
    return None if value is None or math.isnan(value) else float(value)


def _rows(section: str, cells_by_label: Mapping[str, Any]) -> Iterator[list[str]]:
    columns = COLUMNS[section][1]
    for label, cells in cells_by_label.items():
        for name, one in cells.items():
            if "failed" in one:
                yield [label, name, "not measured: " + _last_line(one["failed"])]
                continue
            values = [_median(one, key) for key, _, _ in columns]
            if any(value is not None for value in values):
                texts = [
                    "-" if v is None else f"{v:,.{places}f}" for v, (_, _, places) in zip(values, columns, strict=True)
                ]
                yield [label, name, *texts]


def _last_line(reason: str) -> str:
    """Where a program says why it ended."""
    return (reason.splitlines() or [""])[-1].strip()


def _heads(section: str) -> list[str]:
    return ["", "peer", *(heading for _, heading, _ in COLUMNS[section][1])]


def table(report: Report) -> str:
    """Plain text, columns aligned."""
    lines: list[str] = []
    for section, cells in report["sections"].items():
        rows = [_heads(section), *_rows(section, cells)]
        lines += ["", COLUMNS[section][0], *_aligned(rows)]
    for name, reason in report.get("failed", {}).items():
        lines += ["", f"{name}: not measured: {reason}"]
    if report.get("ratios"):
        lines += ["", "Ratios to nginx, same run"]
        lines += [f"  {line}" for line in _ratio_lines(report["ratios"])]
    return "\n".join(lines).strip("\n")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(len(row[place]) for row in whole) for place in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(width) if place < 2 else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]


def _ratio_lines(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{key}, {label}: " + ", ".join(f"{name} {value:.2f}" for name, value in peers.items())
        for key, labels in found.items()
        for label, peers in labels.items()
    ]


def markdown(report: Report) -> str:
    """The same as tables for docs/benchmarks.md, machine and date first."""
    machine = report["machine"]
    lines = [
        f"Measured {report['at']} on {machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python "
        f"{machine['python']}; load average at the start {machine['load_average'][0]:.2f}.",
    ]
    for section, cells in report["sections"].items():
        heads = _heads(section)
        lines += ["", f"### {COLUMNS[section][0]}", "", "| " + " | ".join(heads) + " |"]
        lines.append("| --- | --- |" + " ---: |" * (len(heads) - 2))
        for row in _rows(section, cells):
            lines.append("| " + " | ".join(row + [""] * (len(heads) - len(row))) + " |")
    for name, reason in report.get("failed", {}).items():
        lines += ["", f"`{name}` was not measured: {_last_line(reason)}"]
    if report.get("ratios"):
        lines += ["", "### Ratios to nginx, same run", "", *(f"- {line}" for line in _ratio_lines(report["ratios"]))]
    return "\n".join(lines) + "\n"


def filled(page: str, report: Report) -> str:
    """The page with the report's tables between its two marks. Raises ValueError when it has no marks."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"the page has no {_BEGIN.strip()} ... {_END}: put both on lines of their own")
    return before + begin + markdown(report) + end + after
