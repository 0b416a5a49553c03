"""`store backup`: whole, of one moment, also under traffic; or nothing at all, with the name of what is to blame."""

import resource
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.errors import StoreError
from sidecar.store import queries
from sidecar.store.database import open_writer

MANY_STEPS = 20  # of a copy that needs four


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A database of 30 MiB, which is copied in four steps, with a connection that writes."""
    path = tmp_path / "s.db"
    with closing(open_writer(path)) as connection:
        connection.execute("INSERT INTO events (kind, detail) VALUES ('large', zeroblob(30 * 1024 * 1024))")
        yield path


def commits_meanwhile(path: Path, on_step: Callable[[int], None]) -> Callable[[Path], sqlite3.Connection]:
    """An `open_reader` whose copies have somebody commit after each step."""
    steps = 0

    class Busy(sqlite3.Connection):
        def backup(self, target: sqlite3.Connection, *, pages: int = -1, **_: object) -> None:  # type: ignore[override] # ours
            super().backup(target, pages=pages, progress=lambda *_: self.stepped())

        def stepped(self) -> None:
            nonlocal steps
            steps += 1
            on_step(steps)
            with closing(sqlite3.connect(path)) as other, other:
                other.execute("INSERT INTO events (kind) VALUES ('meanwhile')")

    def opened(source: Path) -> sqlite3.Connection:
        return sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, factory=Busy)

    return opened


def test_a_backup_ends_under_traffic(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit between any two steps of the copy does not begin it anew; the copy is of the moment when it began."""
    seen: list[int] = []

    def on_step(step: int) -> None:
        seen.append(step)
        assert step < MANY_STEPS, "the copy begins anew with each commit"

    monkeypatch.setattr(queries, "open_reader", commits_meanwhile(path, on_step))
    copy = tmp_path / "copy.db"
    queries.backup(path, copy)
    assert len(seen) == 4
    with closing(sqlite3.connect(copy)) as made:
        assert made.execute("SELECT kind FROM events").fetchall() == [("large",)]
        assert made.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_copy_has_its_name_when_it_is_whole(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then it is `.part`, private; a second backup to the same name meanwhile is refused and harms nothing."""
    copy, part, modes = tmp_path / "copy.db", tmp_path / "copy.db.part", []

    def on_step(_: int) -> None:
        modes.append(stat.S_IMODE(part.stat().st_mode))
        assert not copy.exists()
        with pytest.raises(StoreError, match=r"copy\.db\.part: exists already"):
            queries.backup(path, copy)

    monkeypatch.setattr(queries, "open_reader", commits_meanwhile(path, on_step))
    queries.backup(path, copy)
    assert modes == [0o600] * 4
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert not part.exists()


def test_a_full_disk_leaves_no_torso_and_is_named(path: Path, tmp_path: Path) -> None:
    """The target is to blame, and free for the next attempt."""
    folder = tmp_path / "backups"
    folder.mkdir()
    copy = folder / "copy.db"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 2**20, before[1]))  # Python ignores SIGXFSZ: writes fail
        with pytest.raises(StoreError, match=r"copy\.db: the copy cannot be written"):
            queries.backup(path, copy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(folder.iterdir()) == []
    queries.backup(path, copy)
    assert list(folder.iterdir()) == [copy]


def test_who_is_to_blame_is_named(path: Path, tmp_path: Path) -> None:
    """A folder that is not there is the target's; a source that is no database is to blame itself."""
    absent = tmp_path / "absent" / "copy.db"
    with pytest.raises(StoreError, match=r"absent/copy\.db: the copy cannot be written"):
        queries.backup(path, absent)
    garbage, copy = tmp_path / "garbage.db", tmp_path / "copy.db"
    garbage.write_bytes(b"not a database, " * 512)
    with pytest.raises(StoreError, match=r"garbage\.db: cannot be copied"):
        queries.backup(garbage, copy)
    assert not copy.exists()
    assert not (tmp_path / "copy.db.part").exists()
