"""What the demo shows: figures read from the sidecar's own database and admin API, and how they look on a terminal.

Nothing is counted here that the product does not write down itself: shares, errors, times and money come from the rows,
scores and rollouts from `/api/v1/status`.
"""

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from sidecar.clock import rfc3339, wall
from sidecar.demo.stage import BASELINE, Stage, StoryError
from sidecar.errors import StoreError
from sidecar.store import queries
from sidecar.store.database import open_reader

_WINDOW_S: Final = 10.0
_PLAIN_EVERY_S: Final = 5.0
_REASONS: Final = 3  # of the reasons why a rollout waits
_TOLD: Final = ("rollout.", "threshold.", "policy.")
_TOTALS: Final = """SELECT coalesce(arm, '-') AS arm, count(*) AS requests, sum(outcome = 'failed') AS errors,
    count(cost_nusd) AS priced, coalesce(sum(cost_nusd), 0) AS nusd
    FROM decisions JOIN outcomes USING (id) GROUP BY 1"""
_RECENT: Final = """SELECT coalesce(arm, '-') AS arm, ttft_s - sent_s AS ttft_s
    FROM decisions JOIN outcomes USING (id) WHERE id >= ?"""
_AFTER: Final = """SELECT count(*), coalesce(sum(outcome = 'failed'), 0) FROM decisions JOIN outcomes USING (id)
    WHERE arm = ? AND id >= ?"""
_HEADINGS: Final = ("arm", "role", "share", "requests", "errors", "TTFT p50", "p95", "$/1,000", "quality")


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One arm as it is shown; `share` and TTFT are of the last ten seconds, the rest since the start."""

    arm: str
    role: str
    share: float
    requests: int
    errors: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    usd_per_1000: float | None
    quality: float | None


@dataclass(frozen=True, slots=True)
class View:
    """Everything on the screen at one moment. Money is US dollars."""

    arms: Mapping[str, ArmRow] = field(default_factory=dict)
    rollouts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    events: Sequence[Mapping[str, Any]] = ()  # oldest first
    requests: int = 0
    spent_usd: float = 0.0
    baseline_usd: float | None = None  # the same number of requests at the baseline's mean cost, as measured

    def saved(self) -> float | None:
        """Share of the baseline-only cost that was not spent, as measured."""
        return None if not self.baseline_usd else 1 - self.spent_usd / self.baseline_usd


def id_at(wall_s: float) -> str:
    """The beginning of ids that are made from this time on: ids order by time."""
    return f"{int(wall_s * 1e6):016x}"


class Board:
    """Reads a stage."""

    def __init__(self, stage: Stage, session: aiohttp.ClientSession) -> None:
        self._stage = stage
        self._session = session

    async def look(self) -> View:
        """The present view. Raises StoryError when the sidecar does not answer."""
        totals, recent, events = await asyncio.to_thread(read, self._stage.db)
        return view_of(await self._status(), totals, recent, events)

    async def _status(self) -> Mapping[str, Any]:
        try:
            headers = {"Authorization": f"Bearer {self._stage.token}"}
            async with self._session.get(f"{self._stage.admin}/api/v1/status", headers=headers) as answer:
                told: Any = orjson.loads(await answer.read())
                if answer.status != 200:
                    raise StoryError(f"{self._stage.admin}/api/v1/status answers {answer.status}: {told}")
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise StoryError(f"{self._stage.admin} does not answer: {error!r}; see {self._stage.folder}") from None
        return {} if not told["routes"] else dict(told["routes"][0])


Rows = list[dict[str, Any]]


def read(db: Path) -> tuple[Rows, Rows, Rows]:
    """(totals per arm, rows of the last seconds, events), from the database; empty before there is one."""
    try:
        with closing(open_reader(db)) as connection:
            totals = [dict(row) for row in connection.execute(_TOTALS)]
            recent = [dict(row) for row in connection.execute(_RECENT, (id_at(wall() - _WINDOW_S),))]
        events = queries.events(db, 100)
    except (sqlite3.Error, StoreError):
        return [], [], []
    return totals, recent, [event for event in reversed(events) if str(event["kind"]).startswith(_TOLD)]


def served_since(db: Path, arm: str, wall_s: float) -> tuple[int, int]:
    """(requests, failed ones) that an arm served since a moment."""
    with closing(open_reader(db)) as connection:
        requests, failed = connection.execute(_AFTER, (arm, id_at(wall_s))).fetchone()
    return int(requests), int(failed)


def view_of(
    status: Mapping[str, Any],
    totals: Sequence[Mapping[str, Any]],
    recent: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
) -> View:
    """Joins what the database and the admin API say."""
    counted = {row["arm"]: row for row in totals}
    told = {arm["id"]: arm for arm in status.get("arms", ())}
    arms = {name: _row(name, told.get(name, {}), counted.get(name, {}), recent) for name in {**told, **counted}}
    base = counted.get(BASELINE, {})
    requests = sum(int(row["requests"]) for row in totals)
    priced = sum(int(row["priced"]) for row in totals)
    return View(
        arms=arms,
        rollouts={each["arm"]: each for each in status.get("rollouts", ())},
        events=events,
        requests=requests,
        spent_usd=sum(int(row["nusd"]) for row in totals) / 1e9,
        baseline_usd=base["nusd"] / base["priced"] * priced / 1e9 if base.get("priced") else None,
    )


def _row(name: str, told: Mapping[str, Any], counted: Mapping[str, Any], recent: Sequence[Mapping[str, Any]]) -> ArmRow:
    own = [row for row in recent if row["arm"] == name]
    times = sorted(row["ttft_s"] for row in own if row["ttft_s"] is not None)
    priced = counted.get("priced", 0)
    return ArmRow(
        arm=name,
        role=str(told.get("role", "-")),
        share=len(own) / len(recent) if recent else 0.0,
        requests=int(counted.get("requests", 0)),
        errors=int(counted.get("errors") or 0),
        ttft_p50_s=_quantile(times, 0.5),
        ttft_p95_s=_quantile(times, 0.95),
        usd_per_1000=counted["nusd"] / priced / 1e6 if priced else None,
        quality=told.get("label_mean"),
    )


def _quantile(ordered: Sequence[float], q: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None


def table(view: View) -> list[str]:
    """The view as lines of text."""
    cells = [_HEADINGS, *(_cells(row) for row in view.arms.values())]
    widths = [max(len(row[at]) for row in cells) for at in range(len(_HEADINGS))]
    lines = ["  ".join(_aligned(row, widths)) for row in cells]
    for rollout in view.rollouts.values():
        lines += _rollout(rollout)
    if view.baseline_usd is not None:
        lines.append(
            f"spent ${view.spent_usd:.4f} for {view.requests:,} requests; with {BASELINE} only ${view.baseline_usd:.4f}"
            f" ({view.saved() or 0.0:.0%} saved)"
        )
    return lines


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names to the left, numbers to the right."""
    return [
        text.ljust(width) if at < 2 else text.rjust(width)
        for at, (text, width) in enumerate(zip(row, widths, strict=True))
    ]


def _cells(row: ArmRow) -> tuple[str, ...]:
    return (
        row.arm,
        row.role,
        f"{row.share:.1%}",
        f"{row.requests:,}",
        f"{row.errors:,}",
        "-" if row.ttft_p50_s is None else f"{row.ttft_p50_s * 1000:.0f} ms",
        "-" if row.ttft_p95_s is None else f"{row.ttft_p95_s * 1000:.0f} ms",
        "-" if row.usd_per_1000 is None else f"{row.usd_per_1000:.3f}",
        "-" if row.quality is None else f"{row.quality:.3f}",
    )


def _rollout(rollout: Mapping[str, Any]) -> list[str]:
    """Two lines for a rollout under way; nothing for the others, which their role tells."""
    if rollout["phase"] not in ("running", "paused"):
        return []
    waits = "; ".join(rollout["blocked_by"][:_REASONS]) or "about to go up"
    guards = [guard for guard in rollout["guards"] if guard["canary_n"]]
    values = " ".join(f"{guard['metric']} {guard['e_value']:.2g}/{guard['needed']:.0f}" for guard in guards)
    return [
        f"rollout of {rollout['arm']}: {rollout['phase']} at {rollout['step']} %: {waits}",
        f"  evidence of harm (e-value/the one that takes it out): {values or 'none yet'}",
    ]


class Screen:
    """Lines that stay, and under them one block that is redrawn: on a terminal by ANSI codes, else now and then."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._height = 0
        self._drawn_at = -_PLAIN_EVERY_S
        self._told = 0

    def say(self, text: str) -> None:
        """One line that stays."""
        self._clear()
        self._write(f"{text}\n")

    def draw(self, view: View, at_s: float) -> None:
        """New events stay above the block. `at_s` is the time since the start."""
        for event in view.events[self._told :]:
            self.say(f"{at_s:6.1f} s  {event['kind']}: {event['message']}")
        self._told = len(view.events)
        if not self._live and at_s - self._drawn_at < _PLAIN_EVERY_S:
            return
        self._drawn_at = at_s
        lines = [f"-- {at_s:.0f} s, {rfc3339(wall())[11:19]} UTC", *table(view)]
        self._clear()
        width = shutil.get_terminal_size().columns if self._live else None  # a wrapped line would spoil the count
        self._write("".join(f"{line[:width]}\n" for line in lines))
        self._height = len(lines) if self._live else 0

    def _clear(self) -> None:
        if self._height:
            self._write(f"\x1b[{self._height}A\x1b[J")
            self._height = 0

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
