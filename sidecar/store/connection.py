"""The writer's one connection: to the database and the WAL that lie at a path now, whatever happened to them meanwhile.

A file that was deleted or replaced is created or opened anew, also when only its WAL is gone, and the WAL of a former file
is never applied to another one. A file that is damaged is moved aside. Nobody else writes the file while this process has
its lock (`store.lock`), which is taken before the file is opened and kept until `close`.
"""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from sidecar.clock import wall
from sidecar.errors import StoreError
from sidecar.store.database import Files, clear_log, files, identity, is_damaged, move_aside, open_writer
from sidecar.store.lock import WriteLock

_EXAMINE_S: Final = 1.0  # how long somebody's lock is waited for before the file counts as locked, not as damaged


class WriterConnection:
    """Opens the file when it is asked for, and again when it has to. Used by the writer's thread, but for `lock`."""

    def __init__(
        self, path: Path, prepare: Callable[[sqlite3.Connection], None], on_error: Callable[[Exception], None]
    ) -> None:
        """`prepare` is called with each connection that is opened, before anybody else has it; `on_error` is told of what
        SQLite says when a connection is given up, and the file is opened again whatever that was."""
        self.lock = WriteLock(path)
        self.moved_aside: Path | None = None  # the newest damaged file
        self._path = path
        self._prepare = prepare
        self._on_error = on_error
        self._connection: sqlite3.Connection | None = None
        self._files = Files()  # what the connection is to, or was at last
        self._suspect = False

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, to whatever file."""
        return self._connection is not None

    @property
    def is_elsewhere(self) -> bool:
        """Whether another file than the connection's lies at the path now, or none: what was committed is gone with it."""
        return identity(self._path) != self._files.main

    def get(self) -> sqlite3.Connection:
        """The connection to the file and WAL that lie at the path now.

        Raises:
            Held: another process writes the file.
            OSError, sqlite3.Error: it cannot be opened now; and what `prepare` raises.
        """
        self.lock.take()
        now = files(self._path)
        if self._connection is not None and now == self._files:
            return self._connection
        if self._connection is not None and now.main == self._files.main:
            self._rescue(self._connection)
        self.drop()
        clear_log(self._path, self._files)
        if self._suspect:
            self._examine()
        self._connection = connection = open_writer(self._path)
        self._files = files(self._path)
        try:
            self._prepare(connection)
        except BaseException:
            self.drop()
            raise
        return connection

    def suspect(self) -> None:
        """SQLite says that the file is damaged: it is looked through before it is opened again."""
        self._suspect = True

    def drop(self) -> None:
        """Gives the connection up; the next `get` opens the file again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                self._on_error(error)

    def close(self) -> None:
        """Lets file and lock go."""
        self.drop()
        with suppress(OSError, StoreError):
            if self.lock.held:
                self.lock.take()  # raises if it is another process's by now, as the log is then
                clear_log(self._path, self._files)
        self.lock.give()

    def _rescue(self, connection: sqlite3.Connection) -> None:
        """Only the WAL was deleted: what is in it, which this connection still has, goes into the file as far as readers
        let it."""
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            self._on_error(error)

    def _examine(self) -> None:
        """Move the file aside if it is damaged indeed."""
        self._suspect = False
        if identity(self._path) is None:
            return
        try:
            probe = sqlite3.connect(self._path, timeout=_EXAMINE_S)
            try:
                sound = probe.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok"
            finally:
                probe.close()
        except sqlite3.Error as error:
            if not is_damaged(error):
                raise
            sound = False
        if not sound:
            self.moved_aside = move_aside(self._path, wall())
