"""The store's file: creating, opening, recognising and moving it aside.

The file is private (0600 in a directory 0700), in WAL mode so that readers never wait for the writer, synchronous
NORMAL (a killed process loses nothing that was committed; a power cut may lose the last commits, never the file), with
auto_vacuum=INCREMENTAL, which SQLite only accepts before the first table. Functions here raise sqlite3.Error or
OSError; the writer turns them into counters and another attempt, the readers into StoreError.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sidecar.clock import rfc3339
from sidecar.store.migrations import STEPS, migrate, require_ours

BUSY_TIMEOUT_MS = 250  # one wait for a lock; short, because the writer must also notice its own shutdown
JOURNAL_LIMIT_BYTES = 4 * 2**20  # the WAL is cut back to this after a checkpoint
# of a new file: rows pack better and pages split less than with 4 KiB; larger ones cost slow services disk
PAGE_BYTES = 8192
CHECKPOINT_BYTES = 4 * 2**20  # of WAL: then it is copied into the file
CACHE_KIB = 1024  # page cache of one connection: appends touch few pages
KEPT_CORRUPT = 3  # corrupt files kept for inspection; older ones are removed, they would fill the disk
_COMPANIONS = ("", "-wal", "-shm")
_OF_READING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_ERROR}
_READS = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ}

Identity = tuple[int, int]


def identity(path: Path) -> Identity | None:
    """Which file lies at the path now, as (device, inode); None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass(frozen=True, slots=True)
class Files:
    """Which database lies at a path, and which log (WAL) beside it."""

    main: Identity | None = None
    log: Identity | None = None


def files(path: Path) -> Files:
    """Those that lie there now."""
    return Files(identity(path), identity(companion(path, "-wal")))


def clear_log(path: Path, former: Files) -> None:
    """Remove the log of a database that lies here no longer: SQLite would apply it to the one that does, and damage it."""
    now = files(path)
    if now.log is not None and now.log == former.log and now.main != former.main:
        for suffix in ("-wal", "-shm"):
            companion(path, suffix).unlink(missing_ok=True)


def companion(path: Path, suffix: str) -> Path:
    """The file beside a database whose name has this suffix more. SQLite names its own after the file that a link leads to,
    and so do we: two names of one database have one of each."""
    real = Path(os.path.realpath(path))
    return real.with_name(real.name + suffix)


def open_writer(path: Path) -> sqlite3.Connection:
    """The writing connection, in autocommit mode (transactions are explicit), with the present schema.

    Creates directory and file where they are missing. Raises sqlite3.Error or OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(
        FileExistsError
    ):  # one that is there is not touched: to close it would end this process's locks on it
        os.close(os.open(os.path.realpath(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000, check_same_thread=False)
    try:
        require_ours(connection)  # before anything is changed
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")  # does nothing to a file that has pages
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        _keep_log(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
        # what is erased is overwritten; not every build of SQLite does so
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute(f"PRAGMA journal_size_limit={JOURNAL_LIMIT_BYTES}")
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        page_bytes: int = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_BYTES // page_bytes}")
        migrate(connection)
        connection.execute("SELECT id FROM decisions ORDER BY id DESC LIMIT 1").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _keep_log(connection: sqlite3.Connection) -> None:
    """WAL mode. Of processes that ask for it at once, SQLite lets one wait and fails the others, because all read the file
    already: these wait until they may write, and by then it is in that mode."""
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError:
        with transaction(connection):
            pass
        connection.execute("PRAGMA journal_mode=WAL")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction of a connection in autocommit mode; nothing of it stays when anything raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. Rows come as sqlite3.Row. Raises sqlite3.Error when there is no such file.

    For a file without a WAL in a folder where none can be made, as on a volume of backups that is mounted read-only, SQLite
    has to be told that nobody changes it: else it fails, because it cannot make what it reads a WAL with."""
    log = companion(path, "-wal")
    fixed = "" if log.exists() or os.access(log.parent, os.W_OK, effective_ids=True) else "&immutable=1"
    uri = f"{path.absolute().as_uri()}?mode=ro{fixed}"
    connection = sqlite3.connect(uri, uri=True, timeout=5.0, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


def open_blank() -> sqlite3.Connection:
    """A database in memory that has the schema and no rows. Rows come as sqlite3.Row."""
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    for _, statements in STEPS:
        for statement in statements:
            connection.execute(statement)
    return connection


def is_blank(connection: sqlite3.Connection) -> bool:
    """Whether the file has no tables yet: its first writer is about to make them."""
    others = "SELECT count(*) FROM sqlite_master WHERE tbl_name NOT IN ('schema_migrations', 'sqlite_sequence')"
    return bool(connection.execute(others).fetchone()[0] == 0)


def is_damaged(error: Exception) -> bool:
    """Whether this error says that the file's content is not a sound database."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_of_source(error: sqlite3.Error) -> bool:
    """Whether this error of a copy is about what was read; else it is about what was written."""
    code = getattr(error, "sqlite_errorcode", 0)
    return is_damaged(error) or code & 0xFF in _OF_READING or code in _READS


def move_aside(path: Path, wall_s: float) -> Path:
    """Rename the file and its companions to `<name>.corrupt-<time>` and keep only the newest few of these. A link stays:
    what is made anew lies where it leads."""
    path = companion(path, "")
    stamp = rfc3339(wall_s).replace(":", "").replace("-", "")
    target = path.with_name(f"{path.name}.corrupt-{stamp}")
    for suffix in _COMPANIONS:
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(target.with_name(target.name + suffix))
    mains = [p for p in path.parent.glob(f"{path.name}.corrupt-*") if not p.name.endswith(("-wal", "-shm"))]
    for old in sorted(mains)[:-KEPT_CORRUPT]:
        for suffix in _COMPANIONS:
            old.with_name(old.name + suffix).unlink(missing_ok=True)
    return target


def size_bytes(connection: sqlite3.Connection) -> tuple[int, int]:
    """(bytes of pages in use, bytes of free pages) of the open file, without its WAL."""
    page: int = connection.execute("PRAGMA page_size").fetchone()[0]
    pages: int = connection.execute("PRAGMA page_count").fetchone()[0]
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return (pages - free) * page, free * page
