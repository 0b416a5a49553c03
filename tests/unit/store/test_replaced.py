"""A database that is replaced while its writer runs, and a WAL that vanishes: what is at the path is sound, and written."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from shutil import copyfile

import pytest

from sidecar.core.types import Event
from sidecar.store import queries
from sidecar.store.database import Files, clear_log, companion, files, identity, open_reader, open_writer
from sidecar.store.writer import Writer
from tests.fixtures.settled import START, as_rows, settled, spent
from tests.fixtures.standing import standing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


@pytest.fixture
def writer(path: Path) -> Iterator[Writer]:
    writer = Writer(path, service="bot", commit_s=0.01)
    writer.start()
    yield writer
    writer.close(2.0)


def put(writer: Writer, first: int, last: int) -> None:
    """Rows by their numbers, committed."""
    writer.put(as_rows([settled(n, key=n) for n in range(first, last)]))
    assert writer.flush(5.0)


def found(path: Path) -> tuple[set[str], list[str]]:
    """The ids in the file, and what SQLite says of its soundness."""
    with closing(sqlite3.connect(path)) as connection:
        ids = {one for (one,) in connection.execute("SELECT id FROM decisions")}
        return ids, [text for (text,) in connection.execute("PRAGMA integrity_check(3)")]


def ids(*numbers: range) -> set[str]:
    return {settled(n, key=n).id for some in numbers for n in some}


def test_another_file_is_moved_over_it_and_the_log_stays(writer: Writer, path: Path, tmp_path: Path) -> None:
    """`mv copy.db s.db` alone: the log of the former file is not applied to the copy, which is whole and goes on."""
    copy = tmp_path / "copy.db"
    put(writer, 0, 500)
    queries.backup(path, copy)
    put(writer, 500, 2500)
    copy.rename(path)
    put(writer, 3000, 3100)
    put(writer, 3100, 3200)
    assert writer.close(2.0)
    assert found(path) == (ids(range(500), range(3000, 3200)), ["ok"])
    assert (writer.errors, writer.moved_aside) == (0, None)


def test_a_writer_that_ends_leaves_no_log_to_another_file(writer: Writer, path: Path, tmp_path: Path) -> None:
    """The process is stopped right after the copy was moved over its file: the next one opens the copy alone."""
    copy = tmp_path / "copy.db"
    put(writer, 0, 500)
    queries.backup(path, copy)
    put(writer, 500, 2500)
    copy.rename(path)
    assert writer.close(2.0)
    assert found(path) == (ids(range(500)), ["ok"])


@pytest.mark.parametrize("reading", [False, True])
def test_a_log_that_vanishes_takes_nothing_with_it(writer: Writer, path: Path, reading: bool) -> None:
    """`rm s.db-wal`: what it held goes into the file, once, also while somebody reads, and later rows into a new log that
    others can read."""
    put(writer, 0, 50)
    reader = open_reader(path)
    if reading:
        reader.execute("SELECT count(*) FROM decisions").fetchone()
    path.with_name("s.db-wal").unlink()
    writer.put_events([(START, Event(kind="x"))])
    put(writer, 50, 100)
    assert path.with_name("s.db-wal").exists()
    reader.close()
    with standing(writer):
        for suffix in ("", "-wal"):  # what a kill now would leave to the next process
            copyfile(path.with_name(f"s.db{suffix}"), path.with_name(f"killed.db{suffix}"))
    assert found(path.with_name("killed.db")) == (ids(range(100)), ["ok"])
    assert writer.close(2.0)
    assert found(path) == (ids(range(100)), ["ok"])
    assert len(queries.events(path, kind="x")) == 1
    assert spent(path) == {"support": 100 * 12_345}
    assert (writer.errors, writer.moved_aside) == (0, None)


def test_only_the_log_of_a_former_file_is_cleared(path: Path) -> None:
    """A new file's own log, and that of the same file, stay."""
    log, shared = path.with_name("s.db-wal"), path.with_name("s.db-shm")
    for file in (path, log, shared):
        file.write_bytes(b"x")
    now = files(path)
    clear_log(path, Files())
    clear_log(path, now)
    clear_log(path, Files((0, 0), (0, 0)))
    assert (log.exists(), shared.exists()) == (True, True)
    clear_log(path, Files((0, 0), now.log))
    assert (path.exists(), log.exists(), shared.exists()) == (True, False, False)


def test_a_damaged_file_behind_a_link_is_made_anew_where_it_lay(tmp_path: Path) -> None:
    """On the volume that the link leads to, under the same lock and beside the same head of the audit."""
    real, link = tmp_path / "volume" / "real.db", tmp_path / "s.db"
    real.parent.mkdir()
    link.symlink_to(real)
    for suffix in ("", "-wal"):
        real.with_name(f"real.db{suffix}").write_bytes(b"no database" * 100)
    writer = Writer(link, service="bot", commit_s=0.01)
    writer.start()
    put(writer, 0, 10)
    assert writer.close(2.0)
    assert link.is_symlink()
    assert found(real) == (ids(range(10)), ["ok"])
    assert writer.moved_aside is not None
    assert (writer.moved_aside.parent, writer.moved_aside.read_bytes()[:2]) == (real.parent, b"no")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["s.db", "volume"]


def test_a_file_that_is_opened_again_keeps_its_locks(path: Path) -> None:
    """POSIX ends all locks of a process on a file when any descriptor of it is closed there. Then another process that
    closes the database takes itself for the last one, and deletes the WAL that is written to."""
    first = open_writer(path)
    reader = open_reader(path)
    assert reader.execute("SELECT count(*) FROM events").fetchone()[0] == 0
    first.close()
    writer = open_writer(path)
    writer.execute("INSERT INTO events (at) VALUES ('2026-11-23T00:00:00Z')")
    log = identity(companion(path, "-wal"))
    look = (
        f"import sqlite3; c = sqlite3.connect({str(path)!r}); c.execute('SELECT * FROM events').fetchall(); c.close()"
    )
    subprocess.run([sys.executable, "-c", look], check=True, timeout=30)
    assert log == identity(companion(path, "-wal"))
    reader.close()
    writer.close()
