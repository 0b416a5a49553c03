"""What a real process has stored: copied, lost and restored, erased for one person, and pruned, all of it under load."""

import asyncio
import contextlib
import json
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sidecar.clock import monotonic
from tests.e2e.process import Provider, Sidecar, ask, serving
from tests.e2e.rounds import LOSABLE_S, exchanges, step, taught_by, write_policy
from tests.e2e.traffic import Connection, Load, chat

QUICK = ("default:ttft=0.005", "default:output_tokens=8")
MIB = 2**20
BUSY_S = 15.0
PERSON = "anna@example.com"
POLICY = """
version: 1
service: bot
upstreams:
  sim: {{dialect: openai, base_url: "{url}/v1", price: {{input_mtok: 1.0, output_mtok: 4.0}}}}
routes:
  - name: poor
    match: {{models: ["poor"]}}
    mode: observe
    baseline: {{id: poor, upstream: sim, model: poor}}
    budget: {{daily_usd: 0.001, on_exceeded: deny}}
  - name: support
    match: {{models: ["gpt-4o"]}}
    mode: optimize
    baseline: {{id: gpt-4o, upstream: sim, model: gpt-4o}}
    arms:
      - {{id: mini, upstream: sim, model: gpt-4o-mini}}
    sticky: session
    rollout: {{steps: [5, 25, 50, 100], min_requests: 100000, interval: 1h, max_wait: 24h}}
    quality: {{validators: [finish_reason, empty], min_samples: 5}}
"""

JUDGED = POLICY.replace(
    "quality: {{", "quality: {{judge: {{upstream: sim, model: judge, sample: 1.0, per_minute: 6000, daily_usd: 10}}, "
)


def read(db: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
        return connection.execute(query).fetchall()


@contextlib.contextmanager
def learning(folder: Path, policy: str = POLICY) -> Iterator[Sidecar]:
    """A sidecar that learns, has a rollout, and a small budget on another route."""
    with Provider(folder, *QUICK) as provider:
        policies = write_policy(folder, provider, policy)
        with Sidecar(folder, provider.url, policies=policies) as sidecar:
            yield sidecar


async def status(sidecar: Sidecar) -> Mapping[str, Any]:
    told: Mapping[str, Any] = await asyncio.to_thread(sidecar.admin, "GET", "/api/v1/status")
    return told


async def spend(sidecar: Sidecar) -> int:
    """How many calls the small budget pays for: none when it is spent."""
    connection = Connection(sidecar.port)
    try:
        for paid in range(50):
            if (await connection.call(chat("spend", model="poor", max_tokens=20))).status == 429:
                return paid
        return 50
    finally:
        await connection.close()


async def until_learnt(sidecar: Sidecar, count: int) -> None:
    """Waits until the stored snapshot knows so many exchanges."""
    began = monotonic()
    while await asyncio.to_thread(taught_by_all, sidecar.db) < count:
        assert monotonic() - began < BUSY_S, "the snapshot does not come"
        await asyncio.sleep(0.05)


def taught_by_all(db: Path) -> float:
    return taught_by(db) if read(db, "SELECT count(*) FROM arms")[0][0] else 0.0


async def test_a_disaster(tmp_path: Path) -> None:
    """INC-34: a copy is made by the verb under load; then the process is killed and its database destroyed. Restored as
    docs/operations.md says, the next process has what the copy had: rows, learning, the rollout's step, what was spent,
    the audit. What was lost is what came after the copy, and the audit tells that it is one."""
    copy = tmp_path / "copy.db"
    with learning(tmp_path) as sidecar:
        sidecar.admin("POST", "/api/v1/routes/support/rollout", {"action": "promote"})
        assert 0 < await spend(sidecar) < 50
        load = Load(sidecar.port, connections=4)
        async with load.running():
            await until_learnt(sidecar, 40)
            begun = monotonic()
            await asyncio.to_thread(sidecar.verb, "store", "backup", str(copy))
            copied = monotonic()
            await asyncio.sleep(0.5)
            later = sidecar.admin("POST", "/api/v1/routes/support/rollout", {"action": "promote"})
            load.stop()
        assert later["stored"] is True
        assert (load.failed, load.broken) == ([], {})
        sidecar.kill()
        for file in (sidecar.db, *sidecar.db.parent.glob("sidecar.db-*[wh]*")):
            file.unlink(missing_ok=True)
        kept = {row[0] for row in read(copy, "SELECT id FROM outcomes")}
        learnt, links = taught_by(copy), read(copy, "SELECT seq, hash FROM audit")
        copy.rename(sidecar.db)  # docs/operations.md, Back up
        sidecar.start_again()

        told = await status(sidecar)
        assert (exchanges(told), step(told)) == (learnt, 25)
        assert learnt >= 40
        assert await spend(sidecar) == 0, "the restored budget is open again"
        must = {reply.decision for reply in load.replies if reply.ended < begun - LOSABLE_S}
        cannot = {reply.decision for reply in load.replies if reply.begun > copied}
        assert must <= kept
        assert must
        assert cannot.isdisjoint(kept)
        assert cannot
        assert sidecar.stop() == 0
        assert kept <= {row["id"] for row in sidecar.decisions()}
        assert links == read(sidecar.db, f"SELECT seq, hash FROM audit WHERE seq <= {len(links)}")
        with contextlib.suppress(subprocess.CalledProcessError):
            said = sidecar.verb("audit", "verify")
            raise AssertionError(f"nothing told of the restored copy: {said}")
        (broken,) = read(sidecar.db, "SELECT seq || ':' || hash FROM audit WHERE action = 'chain.broken'")
        assert "the chain holds" in sidecar.verb("audit", "verify", "--accept", broken[0])
        assert read(sidecar.db, "PRAGMA integrity_check") == [("ok",)]
        lost = [reply for reply in load.replies if reply.decision not in kept]
        print("copied", len(kept), "rows in", round(copied - begun, 3), "s; lost", len(lost), "rows")


# ---- one person


async def test_a_person_is_forgotten_under_load(tmp_path: Path) -> None:
    """SEC-PRIVACY: their rows, outcomes, scores and what a judge was asked are gone from every table and every page of
    the file and its WAL, by the verb that asks the running process; the audit has the erasure and not the key; nobody
    else lost a row. A copy that was made before still has them: docs/operations.md says so."""
    copy = tmp_path / "copy.db"
    with learning(tmp_path, JUDGED) as sidecar:
        load = Load(sidecar.port, connections=3)
        async with load.running():
            connection = Connection(sidecar.port)
            theirs = [await connection.call(chat("hello"), {"x-sidecar-session": PERSON}) for _ in range(30)]
            await connection.close()
            ids = [reply.decision for reply in theirs]
            for one in ids[:10]:
                body = {"id": one, "score": 1.0, "source": "task"}
                path = "/_sidecar/v1/feedback"
                assert (await asyncio.to_thread(ask, sidecar.port, "POST", path, body=body))[0] < 300
            await asyncio.sleep(1.0)
            await asyncio.to_thread(sidecar.verb, "store", "backup", str(copy))
            judged = {
                row[0]
                for row in read(copy, "SELECT json_extract(detail, '$.decision') FROM events WHERE kind LIKE 'errand%'")
            }
            assert judged & set(ids)
            (key,) = {row[0] for row in read(copy, f"SELECT sticky_key FROM decisions WHERE id IN {tuple(ids)}")}
            verb = ("store", "forget", "--key", key, "--set", f"admin_listen=127.0.0.1:{sidecar.admin_port}")
            assert await asyncio.to_thread(sidecar.verb, *verb) == "30 decisions erased\n"
            await asyncio.sleep(0.5)
        assert (load.failed, load.broken) == ([], {})
        files = [file for file in sidecar.db.parent.glob("sidecar.db*") if file.is_file()]
        pages = b"".join(file.read_bytes() for file in files)
        assert [one for one in (key, *ids) if one.encode() in pages] == []
        assert sidecar.stop() == 0
        assert {row["id"] for row in sidecar.decisions()} == {reply.decision for reply in load.replies}
        for table, name in (("decisions", "id"), ("outcomes", "id"), ("feedback", "decision_id")):
            assert read(sidecar.db, f"SELECT count(*) FROM {table} WHERE {name} IN {tuple(ids)}") == [(0,)]
        audit = sidecar.verb("audit", "list", "--json")
        (line,) = [one for one in map(json.loads, audit.splitlines()) if one["action"] == "forget"]
        assert line["detail"] == {"decisions": 30}
        assert key not in audit
        assert "the chain holds" in sidecar.verb("audit", "verify")
        assert sidecar.output().count(key) == 0
    assert read(copy, f"SELECT count(*) FROM decisions WHERE sticky_key = '{key}'") == [(30,)]


# ---- age and size


async def test_old_rows_go_under_load(tmp_path: Path) -> None:
    """GW-41: with a ceiling of 1 MiB the file stays near it while thousands of rows come; the newest stay, no call is
    held up or lost, and what was learnt, the sums and the audit are whole."""
    with serving(tmp_path, *QUICK, store_max="1MiB") as (sidecar, _):
        load, sizes = Load(sidecar.port, connections=12, pause_s=0.0, streams=False), []
        async with load.running():
            began = monotonic()
            while len(load.replies) < 4000:
                assert monotonic() - began < 60, "too slow"
                await asyncio.sleep(0.2)
                sizes.append(sum(file.stat().st_size for file in sidecar.db.parent.glob("sidecar.db*")))
        assert (load.failed, load.broken) == ([], {})
        await asyncio.sleep(2.5)  # one more look at old rows
        assert sidecar.stop() == 0
        rows = [row["id"] for row in sidecar.decisions()]
        answered = sorted(reply.decision for reply in load.replies)
        assert 0 < len(rows) < len(answered), "nothing was pruned"
        assert sorted(rows) == answered[-len(rows) :], "others than the oldest went"
        assert read(sidecar.db, "SELECT sum(requests) FROM windows") == [(len(answered),)]
        assert max(sizes) < 12 * MIB, sizes  # the ceiling, 4 MiB of WAL, and what comes between two looks
        assert read(sidecar.db, "PRAGMA integrity_check") == [("ok",)]
        print("largest", max(sizes) / MIB, "MiB; rows kept", len(rows), "of", len(answered), "p99 s", load.p99_s())
