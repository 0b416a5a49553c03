"""Recorded time to first token against the truth: the request log's rows are joined with what the upstream really did.

True = the upstream's write of the first token minus its read of the request's last byte, both stamped by the upstream
itself and carried inside the stream, so a timer that fires late is no error of anybody's measurement. `ttft` is
recorded from the request's arrival at the proxy, so it contains the proxy's own work and the way to the upstream and
back; `ttft_after_sent` (ttft_s - sent_s) leaves out the proxy's work before sending.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bench import stats


class Row(msgspec.Struct):
    """The members of a line of the request log that are compared; the others are ignored."""

    completion_id: str | None = None
    ttft_s: float | None = None
    sent_s: float | None = None


def recorded(log: Path) -> dict[str, Row]:
    """The rows of a request log by completion id. A line that is still being written is left out."""
    rows: dict[str, Row] = {}
    if not log.exists():
        return rows
    decoder = msgspec.json.Decoder(Row)
    for line in log.read_bytes().splitlines():
        try:
            row = decoder.decode(line)
        except msgspec.DecodeError:
            continue
        if row.completion_id is not None:
            rows[row.completion_id] = row
    return rows


def compare(true: Sequence[tuple[str, float]], rows: Mapping[str, Row]) -> dict[str, float]:
    """Errors (recorded minus true) in microseconds: median, p99, smallest and largest; how many rows were missing."""
    whole: list[float] = []
    after_sent: list[float] = []
    for completion, true_s in true:
        row = rows.get(completion)
        if row is None or row.ttft_s is None:
            continue
        whole.append((row.ttft_s - true_s) * 1e6)
        if row.sent_s is not None:
            after_sent.append((row.ttft_s - row.sent_s - true_s) * 1e6)
    figures: dict[str, float] = {}
    for name, errors in (("ttft", whole), ("ttft_after_sent", after_sent)):
        if errors:
            figures |= {
                f"{name}_error_p50_us": stats.median(errors),
                f"{name}_error_p99_us": stats.percentile(errors, 0.99),
                f"{name}_error_min_us": min(errors),
                f"{name}_error_max_us": max(errors),
            }
    return figures | {"streams": len(true), "unrecorded": len(true) - len(whole)}
