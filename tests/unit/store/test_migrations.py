"""A new file is made without sqlite-utils, which brings older ones up to date: both have to come to the same."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from sidecar.store import migrations
from sidecar.store.database import open_writer
from sidecar.store.migrations import STEPS, VERSION, migrate


@pytest.fixture
def new() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        yield connection


def shape(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Every table and index, its text without what says nothing."""
    found = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master ORDER BY type, name").fetchall()
    return [(kind, name, "".join(text.replace('"', "").split())) for kind, name, text in found]


def test_a_new_file_is_one_that_was_migrated_step_by_step(new: sqlite3.Connection) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as other:
        migrations._steps().apply(Database(other))
        assert shape(new) == shape(other)
        names = "SELECT id, migration_set, name FROM schema_migrations ORDER BY id"
        assert new.execute(names).fetchall() == other.execute(names).fetchall()
    assert new.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_sqlite_utils_goes_on_with_a_new_file(new: sqlite3.Connection) -> None:
    """The step of a later version is run on it, and no other."""
    steps, ran = migrations._steps(), []
    assert steps.pending(Database(new)) == []
    steps(name="0003_next")(lambda db: ran.append(db.execute("CREATE TABLE further (a)")))
    steps.apply(Database(new))
    assert len(ran) == 1
    assert [one.name for one in steps.applied(Database(new))] == [*(name for name, _ in STEPS), "0003_next"]


def test_a_failing_step_leaves_nothing_behind(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{tmp_path}/s.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection, monkeypatch.context() as patched:
        patched.setattr(migrations, "STEPS", (*STEPS, ("0003_wrong", ("CREATE NONSENSE",))))
        with pytest.raises(sqlite3.OperationalError, match="NONSENSE"):
            migrate(connection)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert shape(connection) == []
        migrate(connection)
        assert len(shape(connection)) > VERSION


def test_a_new_file_that_two_open_at_once_is_made_once(new: sqlite3.Connection) -> None:
    """Both saw it empty; the second waits for the first, and finds it made."""
    before = shape(new)
    migrations._create(new)
    assert (shape(new), new.in_transaction) == (before, False)


def test_migrating_again_does_nothing(new: sqlite3.Connection) -> None:
    before = shape(new), new.total_changes
    migrate(new)
    assert (shape(new), new.total_changes) == before


MAKES = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA user_version=0")  # makes the first page
connection.execute("BEGIN IMMEDIATE")  # as the change of its mode does
print("begun", flush=True)
time.sleep(0.1)
connection.execute("ROLLBACK")
"""


def test_a_new_file_that_another_process_makes_is_waited_for(tmp_path: Path) -> None:
    """SQLite waits for a lock everywhere but where the mode is changed; it took one start of 75, of three at once, to meet
    that by chance."""
    path = tmp_path / "s.db"
    with subprocess.Popen([sys.executable, "-c", MAKES, path], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "begun\n"
        with closing(open_writer(path)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
