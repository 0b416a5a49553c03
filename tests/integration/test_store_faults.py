"""The store meets real faults: locks, a full disk, deletion, damage, wrong places, kill -9. Putting never notices."""

import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar.clock import monotonic
from sidecar.store import queries
from sidecar.store.writer import Writer
from tests.fixtures.settled import as_rows, settled, spent
from tests.fixtures.standing import standing
from tests.fixtures.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
RECOVERY_S = 5.0  # rows are written again within 5 s of the file's return
PUT_LIMIT_S = 0.2  # far above a list append on a busy machine, and below the 0.25 s of one wait for a lock
STALLS = 5  # puts during which the machine may stand still; all of 1.5 s would be waits if a put waited for the file
LATEST_S = 20.0


class Traffic:
    """Puts rows and remembers how long each put took and how many rows there were."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.count = 0
        self.took: list[float] = []

    def send(self, rows: int = 20) -> None:
        made = as_rows([settled(self.count + n) for n in range(rows)])
        begun = monotonic()
        self.writer.put(made)
        self.took.append(monotonic() - begun)
        self.count += rows

    def send_for(self, seconds: float, until: Callable[[], bool] = lambda: True) -> None:
        """For so long and so many puts at least, and until it is true: each thread may have stood still meanwhile."""
        began, puts = monotonic(), len(self.took)
        while (passed_s := monotonic() - began) < seconds or (
            passed_s < LATEST_S and not (until() and len(self.took) - puts > 2 * STALLS)
        ):
            self.send()
            time.sleep(0.02)

    @property
    def waited(self) -> bool:
        """Whether puts were slow, but for those few during which the machine itself may have stood still."""
        return sorted(self.took)[-STALLS] >= PUT_LIMIT_S

    def all_written(self) -> bool:
        return self.writer.rows_written == self.count


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db" / "sidecar.db"


@pytest.fixture
def writer(path: Path) -> Iterator[Writer]:
    writer = Writer(path, commit_s=0.02)
    yield writer
    writer.close(3.0)


def started(writer: Writer) -> Traffic:
    """A writer that has written its first rows."""
    writer.start()
    traffic = Traffic(writer)
    traffic.send()
    assert wait_for(traffic.all_written, RECOVERY_S)
    return traffic


def rows_in(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        count: int = connection.execute("SELECT count(*) FROM decisions JOIN outcomes USING (id)").fetchone()[0]
        return count
    finally:
        connection.close()


def test_locked_for_seconds(writer: Writer, path: Path) -> None:
    """INC-29, GW-39: while another process holds the file, puts are fast; afterwards every row is there, once."""
    traffic = started(writer)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    traffic.send_for(1.5, until=lambda: writer.writable is False)
    assert writer.errors > 0
    assert writer.writable is False
    assert "locked" in str(writer.last_error)
    assert writer.lag_s > 0.5
    other.execute("ROLLBACK")
    other.close()
    assert wait_for(traffic.all_written, RECOVERY_S)
    assert writer.close(3.0)
    assert not traffic.waited
    assert rows_in(path) == traffic.count
    assert spent(path) == {"support": traffic.count * 12_345}


def test_locked_while_it_starts(writer: Writer, path: Path) -> None:
    """GW-37: a store that is down at boot does not stay down."""
    path.parent.mkdir()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    writer.start()
    traffic = Traffic(writer)
    traffic.send_for(0.6, until=lambda: writer.errors > 0)
    assert writer.rows_written == 0
    assert writer.errors > 0
    other.execute("ROLLBACK")
    other.close()
    assert wait_for(traffic.all_written, RECOVERY_S)


def test_a_full_disk(writer: Writer, path: Path) -> None:
    """INC-29: the file may not grow; when it may again the kept rows are written and a gap event names the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    traffic = started(writer)
    writer._queue_rows = 300  # a small bound, so that a second of traffic overflows it
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name("sidecar.db-wal").stat().st_size + 4096, hard))
    try:
        traffic.send_for(1.5, until=lambda: writer.errors > 0 and writer.rows_dropped > 0)
        assert writer.errors > 0
        assert writer.rows_dropped > 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert wait_for(lambda: writer.rows_written + writer.rows_dropped == traffic.count, RECOVERY_S)
    assert writer.close(3.0)
    assert not traffic.waited
    assert rows_in(path) == writer.rows_written
    assert sum(event["detail"]["rows"] for event in queries.events(path, kind="gap")) == writer.rows_dropped


@pytest.mark.parametrize("what", ["file", "directory"])
def test_deleted_while_it_runs(writer: Writer, path: Path, what: str) -> None:
    """INC-29: a deleted file, or its whole directory, is made anew at the same path, with the newest snapshot in it."""
    traffic = started(writer)
    writer.put_state(b"learned")
    assert wait_for(lambda: writer.lag_s == 0.0, RECOVERY_S)
    with standing(writer):
        if what == "file":
            for one in path.parent.iterdir():
                one.unlink()
        else:
            shutil.rmtree(path.parent)
    before = traffic.count
    traffic.send_for(0.3)
    assert wait_for(traffic.all_written, RECOVERY_S)
    assert writer.close(3.0)
    assert rows_in(path) == traffic.count - before
    assert queries.load_state(path) == b"learned"


@pytest.mark.parametrize("when", ["before", "running"])
def test_damaged(writer: Writer, path: Path, when: str) -> None:
    """INC-30: garbage in the file's place is moved aside, not written over, and a fresh file takes over."""
    garbage = b"this is no database " * 1000
    if when == "before":
        path.parent.mkdir()
        path.write_bytes(garbage)
        traffic = Traffic(writer)
        writer.start()
    else:
        traffic = started(writer)
        with standing(writer):
            for one in path.parent.iterdir():
                one.unlink()
            path.write_bytes(garbage)
    before = traffic.count
    traffic.send_for(0.3)
    assert wait_for(traffic.all_written, RECOVERY_S)
    assert writer.close(3.0)
    assert writer.moved_aside is not None
    assert writer.moved_aside.read_bytes() == garbage
    assert rows_in(path) == traffic.count - before


def test_pages_overwritten_in_place(writer: Writer, path: Path) -> None:
    """INC-30: damage inside a file that stays where it is, is noticed, moved aside and recovered from."""
    traffic = started(writer)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    traffic.send_for(0.3)
    assert wait_for(traffic.all_written, 2 * RECOVERY_S)
    assert writer.moved_aside is not None


def test_in_a_place_where_no_file_can_be(writer: Writer, path: Path) -> None:
    """INC-29: the directory's name is taken by a file; when that goes, rows are written within seconds."""
    path.parent.write_text("in the way")
    writer.start()
    traffic = Traffic(writer)
    traffic.send_for(0.5, until=lambda: writer.writable is False)
    assert writer.writable is False
    path.parent.unlink()
    assert wait_for(traffic.all_written, RECOVERY_S)
    assert rows_in(path) == traffic.count


def test_read_only(writer: Writer, path: Path) -> None:
    """INC-29: a file that has become read-only keeps its rows waiting; root ignores modes, so query_only stands in."""
    traffic = started(writer)
    writer._file.get().execute("PRAGMA query_only=ON")
    traffic.send_for(0.3)
    assert wait_for(traffic.all_written, RECOVERY_S)
    assert writer.errors > 0
    assert "readonly" in str(writer.last_error)


def test_close_gives_up_in_time(writer: Writer, path: Path) -> None:
    """A shutdown is not held up by a file that cannot be written."""
    traffic = started(writer)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    traffic.send()
    begun = monotonic()
    assert writer.close(0.5) is False
    assert monotonic() - begun < RECOVERY_S
    other.execute("ROLLBACK")
    other.close()


def test_readers_while_it_writes(writer: Writer, path: Path) -> None:
    """Reading verbs work beside a running writer, and a reader that stays does not stop it."""
    traffic = started(writer)
    slow = queries.export(path)
    first = next(slow)
    traffic.send_for(0.5)
    assert wait_for(traffic.all_written, RECOVERY_S)
    assert len(queries.decisions(path, last=10**6)) == traffic.count
    rest = [first, *slow]
    assert len(rest) <= traffic.count
    assert writer.errors == 0


CHILD = """
import sys, time
from pathlib import Path
from sidecar.store.writer import Writer
from tests.fixtures.settled import as_rows, settled
writer = Writer(Path(sys.argv[1]), commit_s=0.01)
writer.start()
number = int(sys.argv[2])
while True:
    writer.put(as_rows([settled(number + n) for n in range(50)]))
    number += 50
    print(writer.rows_written, flush=True)
    time.sleep(0.005)
"""


def test_kill_nine(path: Path) -> None:
    """A killed process loses no committed row and leaves a sound file: five rounds on the same file."""
    at_least = 0
    for round_number in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(round_number * 1_000_000)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert child.stdout is not None
        written = 0
        end = monotonic() + 20.0
        while written < 200 + 37 * round_number and monotonic() < end:
            written = int(child.stdout.readline() or 0)
        child.send_signal(signal.SIGKILL)
        child.wait(10.0)
        child.stdout.close()
        at_least += written
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
        assert written > 0
        assert rows_in(path) >= at_least
    sums = spent(path)["support"]
    assert sums == rows_in(path) * 12_345
