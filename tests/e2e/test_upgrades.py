"""A real process on databases of other versions of itself: it goes on where the older one was, and harms no newer one.

`tests/fixtures/databases` holds what older code wrote, 60 calls of 12 people with a rollout at 25 %:
`schema-1-before-tasks` of the version without tasks and texts, `schema-1` of the last one without a chain in the audit.
They were made by running those versions, and are never made anew; `record_database.py` records this one before its schema
changes. A newer version is imitated: no one can record it.
"""

import asyncio
import contextlib
import gzip
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.store.database import open_writer
from sidecar.store.migrations import VERSION
from tests.e2e.process import Provider, Sidecar
from tests.e2e.rounds import exchanges, step, write_policy
from tests.e2e.traffic import Load

DATABASES = Path(__file__).resolve().parents[1] / "fixtures" / "databases"
OLDER = ("schema-1-before-tasks", "schema-1")
CALLS, SCORES, STEP = 60, 15, 25  # what every recorded database holds
FUTURE = 99
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
    rollout: {{steps: [5, 25, 50, 100], min_requests: 100000, interval: 1h, max_wait: 24h}}
    quality: {{validators: [finish_reason, empty], min_samples: 5}}
    budget: {{daily_usd: 100}}
"""


def unpacked(name: str, target: Path) -> Path:
    """The recorded database as a file of its own."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.decompress((DATABASES / f"{name}.db.gz").read_bytes()))
    return target


@contextlib.contextmanager
def on(folder: Path, db: Path) -> Iterator[Sidecar]:
    """A sidecar with this database and the policy of the recordings. Their rows are kept, however old they are."""
    with Provider(folder, "default:ttft=0.005", "default:output_tokens=8") as provider:
        policies = write_policy(folder, provider, POLICY)
        with Sidecar(folder, provider.url, policies=policies, db=db, store_raw="3660d") as sidecar:
            yield sidecar


async def served(sidecar: Sidecar, seconds: float = 1.0) -> set[str]:
    """The decisions of some load, of which no call may fail."""
    load = Load(sidecar.port, connections=2)
    async with load.running():
        await asyncio.sleep(seconds)
    assert (load.failed, load.broken) == ([], {})
    assert load.replies
    return {reply.decision for reply in load.replies}


def ask(db: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
        return connection.execute(query).fetchall()


# ---- older ones


@pytest.mark.parametrize("name", OLDER)
async def test_an_older_database_is_taken_over(tmp_path: Path, name: str) -> None:
    """GW-50: the schema is brought up to date before the first row; rows, scores, learning, the rollout's step and the
    audit of the older version are all there, and new rows lie beside them."""
    db = unpacked(name, tmp_path / "store" / "sidecar.db")
    assert ask(db, "PRAGMA user_version") == [(1,)]
    audit = ask(db, "SELECT id, at, action, target, detail FROM audit")
    with on(tmp_path, db) as sidecar:
        status = sidecar.admin("GET", "/api/v1/status")
        assert (exchanges(status), step(status)) == (CALLS, STEP)
        new = await served(sidecar)
        assert sidecar.stop() == 0
        assert "state.ignored" not in sidecar.output()
        rows = {row["id"]: row for row in sidecar.decisions()}
        assert len(rows.keys() - new) == CALLS
        assert new <= rows.keys()
        told = json.loads(sidecar.verb("store", "status"))
        assert (told["schema"], told["feedback"]) == (VERSION, SCORES)
        assert "the chain holds" in sidecar.verb("audit", "verify")
        assert "support" in sidecar.verb("explain", min(rows.keys() - new))
    assert ask(db, "SELECT id, at, action, target, detail FROM audit WHERE seq IS NULL") == audit
    assert ask(db, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("name", OLDER)
def test_an_older_database_is_read_before_its_upgrade(tmp_path: Path, name: str) -> None:
    """Verbs that only read do so without changing the file."""
    db = unpacked(name, tmp_path / "sidecar.db")
    before = db.read_bytes()
    sidecar = Sidecar.__new__(Sidecar)
    sidecar.db, sidecar.environ = db, {"PATH": "/usr/bin:/bin"}
    assert len(sidecar.decisions()) == CALLS
    assert len(sidecar.verb("export").splitlines()) == CALLS
    assert db.read_bytes() == before


# ---- newer ones


def make_newer(db: Path, *statements: str) -> None:
    """What a later version might make of the file: its number, a state that is not ours, and these changes."""
    with contextlib.closing(sqlite3.connect(db)) as connection:
        for statement in statements:
            connection.execute(statement)
        (text,) = connection.execute("SELECT state FROM arms").fetchone()
        connection.execute("UPDATE arms SET state = ?", (json.dumps(json.loads(text) | {"version": FUTURE}),))
        connection.execute(f"PRAGMA user_version={FUTURE}")
        connection.commit()


async def test_a_newer_database_that_only_adds(tmp_path: Path) -> None:
    """The older version writes its rows beside the newer one's columns and tables, keeps the newer state, and loses
    nothing of either; the newer number stays."""
    db = unpacked("schema-1", tmp_path / "store" / "sidecar.db")
    open_writer(db).close()  # to the present schema first
    make_newer(
        db,
        "ALTER TABLE decisions ADD COLUMN later TEXT",
        "ALTER TABLE windows ADD COLUMN later INTEGER DEFAULT 7",
        "CREATE TABLE later (id INTEGER PRIMARY KEY, said TEXT)",
        "INSERT INTO later VALUES (1, 'kept')",
        "UPDATE decisions SET later = 'kept'",
    )
    with on(tmp_path, db) as sidecar:
        new = await served(sidecar)
        assert sidecar.stop() == 0
        assert "state.set_aside" in sidecar.output()
        assert new <= {row["id"] for row in sidecar.decisions()}
        sidecar.verb("state", "export", str(tmp_path / "newer.json"), "--version", str(FUTURE))
    assert json.loads((tmp_path / "newer.json").read_text())["version"] == FUTURE
    assert ask(db, "PRAGMA user_version") == [(FUTURE,)]
    assert ask(db, "SELECT count(*) FROM decisions WHERE later = 'kept'") == [(CALLS,)]
    assert ask(db, "SELECT said FROM later") == [("kept",)]
    assert ask(db, "PRAGMA integrity_check") == [("ok",)]


async def test_a_newer_database_that_is_another(tmp_path: Path) -> None:
    """A schema in which our rows have no place, which no version of ours may make: traffic goes on, /ready says that
    rows wait, and not a row of the file is changed, moved or deleted."""
    db = unpacked("schema-1", tmp_path / "store" / "sidecar.db")
    make_newer(db, "ALTER TABLE outcomes RENAME COLUMN duration_s TO duration_ms")
    before = ask(db, "SELECT * FROM decisions JOIN outcomes USING (id)")
    with on(tmp_path, db) as sidecar:
        await served(sidecar)
        ready, told = sidecar.ready()
        assert ready == 200
        assert any("rows are not being written" in note for note in told["notes"]), told
        await served(sidecar, 0.3)
        assert sidecar.stop() == 0
    assert ask(db, "SELECT * FROM decisions JOIN outcomes USING (id)") == before
    assert [file.name for file in db.parent.glob("*corrupt*")] == []
    assert ask(db, "PRAGMA user_version") == [(FUTURE,)]
