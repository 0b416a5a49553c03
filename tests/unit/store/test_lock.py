"""One database has one writer: the lock keeps others out, outlives the database's file, and dies with its process."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.store.lock import Held, WriteLock, is_held, lock_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "db" / "s.db"


def test_one_holder_at_a_time(path: Path) -> None:
    """The second is told whose it is; after `give` it is the second's. The file is private."""
    first, second = WriteLock(path), WriteLock(path)
    assert not is_held(path)
    first.take()
    first.take()
    assert is_held(path)
    with pytest.raises(Held, match=rf"pid {os.getpid()}\) writes {path}") as caught:
        second.take()
    assert caught.value.mark == first.mark != second.mark
    assert stat.S_IMODE(lock_file(path).stat().st_mode) == 0o600
    first.give()
    first.give()
    assert not is_held(path)
    second.take()
    with pytest.raises(Held):
        first.take()
    second.give()


def test_a_deleted_lock_file_is_made_again(path: Path) -> None:
    """`rm s.db*` beside a running process: the next `take` holds the new file; who was faster keeps it."""
    first, second = WriteLock(path), WriteLock(path)
    first.take()
    lock_file(path).unlink()
    first.take()
    with pytest.raises(Held):
        second.take()
    lock_file(path).unlink()
    second.take()
    with pytest.raises(Held):
        first.take()
    second.give()
    first.take()
    first.give()


def test_two_names_of_one_database_have_one_lock(path: Path) -> None:
    """A symbolic link, also one whose target is not there yet."""
    path.parent.mkdir()
    link = path.parent.parent / "link.db"
    link.symlink_to(path)
    assert lock_file(link) == lock_file(path)
    lock = WriteLock(link)
    lock.take()
    assert is_held(path)
    lock.give()


def test_a_killed_process_leaves_no_lock(path: Path) -> None:
    """SIGKILL: the kernel lets go; what the file still says means nothing."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom sidecar.store.lock import WriteLock\n"
        "lock = WriteLock(Path(sys.argv[1]))\nlock.take()\nprint('taken', flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        with pytest.raises(Held, match=f"pid {process.pid}"):
            WriteLock(path).take()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
    assert not is_held(path)
    lock = WriteLock(path)
    lock.take()
    lock.give()


def test_a_lock_file_that_says_nothing(path: Path) -> None:
    """Another program may hold it: no process id is known, and nothing breaks."""
    path.parent.mkdir()
    with lock_file(path).open("wb") as other:
        other.write(b"")
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Held, match="pid unknown") as caught:
            WriteLock(path).take()
    assert caught.value.mark == ""


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_keeps_nobody_out(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The store works as it did; any other fault of the kernel's is an error."""

    def refuse(_descriptor: int, _kind: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    first, second = WriteLock(path), WriteLock(path)
    first.take()
    second.take()
    assert not is_held(path)
    number = errno.EIO
    third = WriteLock(path)
    with pytest.raises(OSError, match="Input/output"):
        third.take()


def test_a_lock_file_that_does_not_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody deletes it again and again: an error after some attempts, never a lock on nothing."""

    def lose(_descriptor: int, _kind: int) -> None:
        lock_file(path).unlink()

    monkeypatch.setattr(fcntl, "flock", lose)
    with pytest.raises(OSError, match="does not stay"):
        WriteLock(path).take()


def test_the_lock_belongs_to_whom_the_database_does(tmp_path: Path) -> None:
    """A verb that root runs once leaves a lock that the serving user can take (run as another user: its own file)."""
    database = tmp_path / "sidecar.db"
    database.touch()
    if os.geteuid() == 0:
        os.chown(database, 65_534, 65_534)
    lock = WriteLock(database)
    lock.take()
    assert lock.held
    assert lock_file(database).stat().st_uid == database.stat().st_uid
    lock.give()
    assert not lock.held
