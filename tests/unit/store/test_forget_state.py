"""`store forget` and what was learnt: the key leaves stored snapshots, also sealed ones and those that were set aside."""

import sqlite3
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from sidecar.config.settings import Settings
from sidecar.control.archive import Archive
from sidecar.core.sticky import salt_of
from sidecar.errors import StoreError
from sidecar.store import queries
from sidecar.store.database import open_writer
from sidecar.store.keys import KeySet, StoreKeys
from sidecar.store.retention import STEP_ROWS, Forgetting, forget
from sidecar.store.vault import Sealed, Spoilt, Vault
from sidecar.store.writer import Writer
from tests.fixtures.settled import as_rows, settled
from tests.fixtures.waiting import wait_for

KEY, OTHER = 0xABCDEF0123456789, 7
HASH = f"{KEY:016x}"
SEALING = StoreKeys(fields=lambda: KeySet({"k": b"k" * 32}))


def state(version: int = 1) -> bytes:
    bound = [["support/mini", "mini", 0.5, [one ^ salt_of("support") for one in (KEY, OTHER)]]]
    return orjson.dumps({"version": version, "routes": {"support": {"spend": 1.5}}, "bindings": bound})


def database(path: Path, stored: bytes, keys: StoreKeys = StoreKeys(), rows: int = 1) -> Path:  # noqa: B008 - it is frozen
    writer = Writer(path, service="bot", keys=keys)
    writer.put(as_rows([settled(number, key=KEY) for number in range(1, rows + 1)]))
    writer.put_state(stored)
    writer.start()
    assert writer.close(5.0)
    return path


def keys(stored: bytes | None) -> list[int]:
    assert stored is not None
    return [key ^ salt_of("support") for *_, keys in orjson.loads(stored)["bindings"] for key in keys]


@pytest.mark.parametrize("store_keys", [StoreKeys(), SEALING])
def test_the_key_leaves_what_was_learnt(tmp_path: Path, store_keys: StoreKeys) -> None:
    """The row too; other conversations stay, and what is encrypted is so afterwards."""
    path, vault = database(tmp_path / "s.db", state(), store_keys), Vault(store_keys.fields)
    assert keys(queries.load_state(path, "bot", vault=vault)) == [KEY, OTHER]
    assert queries.forget(path, HASH, queries.By("alice", keys=store_keys)) == 1
    assert keys(queries.load_state(path, "bot", vault=vault)) == [OTHER]
    if store_keys is SEALING:
        with pytest.raises(Sealed):
            queries.load_state(path, "bot")
    assert str(KEY ^ salt_of("support")).encode() not in path.read_bytes()


def test_what_was_set_aside_is_searched_too(tmp_path: Path) -> None:
    path = database(tmp_path / "s.db", state(9))
    with closing(open_writer(path)) as connection:
        queries.set_aside(connection, "bot", 9)
    queries.forget(path, HASH)
    assert keys(queries.load_state(path, "bot", 9)) == [OTHER]


@pytest.mark.parametrize(("keys", "error"), [(None, Sealed), (KeySet({"k": b"z" * 32}), Spoilt)])
def test_what_cannot_be_opened_is_told(tmp_path: Path, keys: KeySet | None, error: type[StoreError]) -> None:
    """It may hold the person: nobody is told that they are forgotten, and of many rows not one is gone."""
    path = database(tmp_path / "s.db", state(), SEALING, rows=STEP_ROWS + 1)
    with pytest.raises(error):
        queries.forget(path, HASH, queries.By("alice", keys=StoreKeys(fields=lambda: keys)))
    assert queries.status(path)["decisions"] == STEP_ROWS + 1
    assert queries.audit(path) == []


def test_the_audit_has_what_is_gone_whatever_comes_then(tmp_path: Path) -> None:
    """The second step fails: the first has its line."""
    path = database(tmp_path / "s.db", state(), rows=STEP_ROWS + 1)
    fail = "CREATE TRIGGER t BEFORE DELETE ON decisions WHEN old.id = '{}' BEGIN SELECT RAISE(ABORT, 'no'); END"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(fail.format(settled(STEP_ROWS + 1).id))
    with pytest.raises(StoreError):
        queries.forget(path, HASH)
    assert queries.status(path)["decisions"] == 1
    assert [line["detail"] for line in queries.audit(path)] == [{"decisions": STEP_ROWS}]


@pytest.mark.parametrize("stored", [b"{}", b"[1]", b"\xff", b'{"bindings":[3],"routes":{}}'])
def test_what_is_no_snapshot_stays(tmp_path: Path, stored: bytes) -> None:
    """Nobody can read it: the rows go all the same, and what may lie on is told."""
    path = database(tmp_path / "s.db", stored)
    with pytest.raises(StoreError, match="done, but 1 of the stored states cannot be read"):
        queries.forget(path, HASH)
    assert queries.status(path)["decisions"] == 0
    assert queries.audit(path)[0]["detail"] == {"decisions": 1, "unreadable": 1}
    assert queries.forget(path, "no key at all") == 0
    with closing(sqlite3.connect(path)) as connection:
        assert bytes(connection.execute("SELECT state FROM arms").fetchone()[0]) == stored


def test_the_next_process_empties_a_wal_that_a_killed_one_left(tmp_path: Path) -> None:
    """A reader kept erased rows there, and the process that owed to empty it was killed."""
    path, left = tmp_path / "s.db", tmp_path / "left.db"
    killed = Writer(path, service="bot", commit_s=0.01)
    killed.start()
    killed.put(as_rows([settled(1, key=KEY)]))
    assert killed.flush(5.0)
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM decisions").fetchone()
        killed.ask(lambda db: forget(db, HASH, Forgetting(1.0, "alice"), killed.chain)).result(5.0)
        for part in ("", "-wal"):  # what the next one finds
            left.with_name(f"left.db{part}").write_bytes(path.with_name(f"s.db{part}").read_bytes())
    assert killed.close(5.0)
    assert HASH.encode() in left.with_name("left.db-wal").read_bytes()
    following = Writer(left, service="bot", commit_s=0.01)
    following.start()
    assert following.flush(5.0)
    assert HASH.encode() not in left.read_bytes() + left.with_name("left.db-wal").read_bytes()
    assert following.close(5.0)


async def test_an_erasure_that_breaks_off_leaves_none_in_the_wal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are gone, the file cannot be rewritten for want of room, and a reader keeps the WAL meanwhile."""

    def full(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("sidecar.control.archive.rewrite", full)
    monkeypatch.setattr("sidecar.store.writer.CHORE_S", 0.05)
    path = tmp_path / "s.db"
    archive = Archive(Settings(db=path))
    assert archive.writer is not None
    archive.writer.start()
    archive.put(as_rows([settled(1, key=KEY)]))
    assert await archive.stored(5.0)
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM decisions").fetchone()
        with pytest.raises(StoreError, match="is full"):
            await archive.forget(HASH, "alice")
        archive.put(as_rows([settled(2, key=1)]))
        assert await archive.stored(5.0)
        assert HASH.encode() in path.with_name("s.db-wal").read_bytes()
        assert any("in the WAL" in note for note in archive.notes())
    assert wait_for(lambda: archive.notes() == [])
    assert HASH.encode() not in path.with_name("s.db-wal").read_bytes()
    assert archive.writer.close(5.0)
