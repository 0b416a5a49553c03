"""One round of kill -9 under load, and what it lost: used by the test (a few rounds) and the campaign (many)."""

import asyncio
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sidecar.clock import monotonic
from tests.e2e.process import Provider, Sidecar, ask
from tests.e2e.traffic import Load
from tests.fixtures.waiting import wait_for

LOSABLE_S = 0.25  # a process killed may lose the last 250 ms of rows
POLICY = """
version: 1
service: bot
upstreams:
  sim: {{dialect: openai, base_url: "{url}/v1", price: {{input_mtok: 1.0, output_mtok: 4.0}}}}
routes:
  - name: support
    match: {{models: ["gpt-4o"]}}
    mode: optimize
    baseline: {{id: gpt-4o, upstream: sim, model: gpt-4o}}
    arms:
      - {{id: mini, upstream: sim, model: gpt-4o-mini}}
    sticky: session
    rollout: {{steps: [5, 25, 50, 100], min_requests: 10, interval: 1s, max_wait: 1h}}
    quality: {{validators: [finish_reason, empty], min_samples: 5}}
"""


@dataclass(frozen=True, slots=True)
class Round:
    """What one kill cost. Ages are seconds before the kill; None when nothing was lost."""

    number: int
    load_s: float
    answered: int  # calls whose whole answer the client had
    rows_lost: int
    oldest_lost_s: float | None  # age of the oldest answered decision that is in no row
    integrity: str
    step_seen: int  # the highest step that /api/v1/status told before the kill
    step_promised: int  # the same, 250 ms before the kill
    step_after: int
    taught_lost: int  # rows that the restored posteriors do not know
    learning_lost_s: float | None  # age of the oldest such row
    restart_s: float


def write_policy(folder: Path, provider: Provider, text: str = POLICY) -> Path:
    """A policy folder whose every arm is served by this provider."""
    policies = folder / "policies"
    policies.mkdir(exist_ok=True)
    (policies / "bot.yaml").write_text(text.format(url=provider.url))
    return policies


async def kill_round(sidecar: Sidecar, number: int, load_s: float) -> Round:
    """Load for `load_s`, SIGKILL, a look into the database, a restart on the same files."""
    opened = await asyncio.to_thread(wait_for, lambda: _has_tables(sidecar.db), 30)
    assert opened, (
        "the store did not open its file"
    )  # traffic does not wait for it; what is promised of rows begins here
    before = exchanges(await _status(sidecar))
    _, rows_before = _read(sidecar.db)
    load = Load(sidecar.port, name=f"round {number}")
    steps: list[tuple[float, int]] = []
    async with load.running():
        watching = asyncio.ensure_future(_watch(sidecar, load, steps))
        await asyncio.sleep(load_s)
        killed = sidecar.kill()
        load.stop()
    await watching
    answered = {one.decision: killed - one.ended for one in load.replies if one.status == 200 and one.ended <= killed}
    integrity, rows = _read(sidecar.db)
    lost = [age for decision, age in answered.items() if decision not in rows]
    stored = taught_by(sidecar.db)
    restart_s = await asyncio.to_thread(sidecar.start_again)
    status = await _status(sidecar)
    assert exchanges(status) >= stored, "the restored posteriors know less than the stored snapshot"
    new = sorted(decision for decision, arm in rows.items() if arm is not None and decision not in rows_before)
    behind = new[int(exchanges(status) - before) :]
    return Round(
        number=number,
        load_s=round(load_s, 3),
        answered=len(answered),
        rows_lost=len(lost),
        oldest_lost_s=max(lost, default=None),
        integrity=integrity,
        step_seen=max((one for _, one in steps), default=0),
        step_promised=max((one for at, one in steps if at < killed - LOSABLE_S), default=0),
        step_after=step(status),
        taught_lost=len(behind),
        learning_lost_s=max((answered[one] for one in behind if one in answered), default=None),
        restart_s=round(restart_s, 3),
    )


async def _status(sidecar: Sidecar) -> Mapping[str, Any]:
    told: Mapping[str, Any] = await asyncio.to_thread(sidecar.admin, "GET", "/api/v1/status")
    return told


def exchanges(status: Mapping[str, Any]) -> float:
    """How many exchanges the posteriors of all arms have taken in (nothing fades below 5,000)."""
    return float(sum(arm["exchanges"] for route in status["routes"] for arm in route["arms"]))


def step(status: Mapping[str, Any]) -> int:
    """The furthest step of any rollout, percent; a promoted one is at 100."""
    rollouts = [one for route in status["routes"] for one in route["rollouts"]]
    return max((100 if one["phase"] == "promoted" else int(one["step"]) for one in rollouts), default=0)


def taught_by(db: Path) -> float:
    """How many exchanges the stored snapshot's posteriors have taken in; none before the first snapshot."""
    connection = sqlite3.connect(db)
    try:
        row = connection.execute("SELECT state FROM arms").fetchone()
    finally:
        connection.close()
    if row is None:
        return 0.0
    text = row[0]
    beliefs = [one for route in json.loads(text)["routes"].values() for one in route["beliefs"].values()]
    return float(sum(one["answered"][0] for one in beliefs))


def as_record(one: Round) -> dict[str, object]:
    """For JSON and tables."""
    return asdict(one)


async def _watch(sidecar: Sidecar, load: Load, steps: list[tuple[float, int]]) -> None:
    """Scores new decisions as an app would, and notes the rollout's step with its time, until the process is gone."""
    scored = 0
    while True:
        try:
            for reply in load.replies[scored : scored + 5]:
                body = {"id": reply.decision, "score": 1.0, "source": "task"}
                await asyncio.to_thread(ask, sidecar.port, "POST", "/_sidecar/v1/feedback", body=body)
            scored = len(load.replies)
            begun = monotonic()
            told = step(await asyncio.to_thread(sidecar.admin, "GET", "/api/v1/status"))
        except OSError:
            return
        steps.append((monotonic(), told))
        await asyncio.sleep(max(0.0, 0.05 - (monotonic() - begun)))


def _has_tables(db: Path) -> bool:
    """Whether the newest of the schema's tables is there."""
    connection = sqlite3.connect(db)
    try:
        return bool(connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'audit_seq'").fetchone()[0])
    finally:
        connection.close()


def _read(db: Path) -> tuple[str, dict[str, str | None]]:
    """What integrity_check says, and the arm of every decision that has its outcome."""
    connection = sqlite3.connect(db)
    try:
        said = str(connection.execute("PRAGMA integrity_check").fetchone()[0])
        found = connection.execute("SELECT id, arm FROM decisions JOIN outcomes USING (id)").fetchall()
    finally:
        connection.close()
    return said, dict(found)
