"""Who may write a database: an advisory lock on the file `<database>.lock`, held by one process for its life.

The lock is the kernel's (flock), so a crash leaves none behind: only the file stays, and means nothing. It lies beside
the database and not on it, because the database may be deleted, moved aside or restored while its writer goes on. On a
file system without flock nobody is kept out; SQLite's own locks keep the file sound there, as they do in any case.
"""

import errno
import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

from sidecar.errors import StoreError
from sidecar.store.database import companion

_UNSUPPORTED: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_HELD: Final = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
_ATTEMPTS: Final = 10  # each is lost only to a lock file that is deleted in the same microseconds
_SUFFIX: Final = ".lock"


class Held(StoreError):
    """Another process writes this database. `mark` is that of its WriteLock, as far as the lock file tells."""

    def __init__(self, path: Path, holder: str) -> None:
        """`holder` is what the lock file says: process id and mark."""
        pid, _, self.mark = holder.partition(" ")
        super().__init__(f"another process (pid {pid or 'unknown'}) writes {path}, and one database has one writer")


class WriteLock:
    """The lock of one database. `take` may be called as often as one likes; the mark tells holders apart."""

    def __init__(self, database: Path) -> None:
        self.mark = secrets.token_hex(8)
        self._database = database
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def take(self) -> None:
        """Holds the lock afterwards, also when its file was deleted since it was taken last.

        Raises:
            Held: another process has it.
            OSError: the lock file cannot be made or opened.
        """
        path = lock_file(self._database)
        self._database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # a link to nowhere is an error
        if self._descriptor is not None:
            if _is_at(self._descriptor, path):
                return
            self.give()
        for _ in range(_ATTEMPTS):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _give_to_owner(descriptor, self._database)
                if not _locked(descriptor):
                    raise Held(self._database, _read(descriptor))
                if _is_at(descriptor, path):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()} {self.mark}\n".encode(), 0)
                    self._descriptor, descriptor = descriptor, -1
                    return
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
        raise OSError(errno.EAGAIN, "the lock file does not stay", str(path))

    def give(self) -> None:
        """Lets others write. The file stays: deleting it would let two processes hold two files of one name."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _give_to_owner(descriptor: int, database: Path) -> None:
    """A lock that root makes, in a verb for instance, belongs to whom the database does, or its folder: they serve."""
    if os.geteuid() != 0:
        return
    try:
        found = database.stat()
    except FileNotFoundError:
        found = database.parent.stat()
    os.fchown(descriptor, found.st_uid, found.st_gid)


def lock_file(database: Path) -> Path:
    """The lock of the file that this path means, through links."""
    return companion(database, _SUFFIX)


def is_held(database: Path) -> bool:
    """Whether some process holds the lock now."""
    try:
        descriptor = os.open(lock_file(database), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _locked(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether the lock was to be had at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return True
        if error.errno not in _HELD:
            raise
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file still lies at the path."""
    own = os.fstat(descriptor)
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)


def _read(descriptor: int) -> str:
    return os.pread(descriptor, 100, 0).decode("ascii", "replace").strip()
