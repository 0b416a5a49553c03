"""The store's one writer: a thread that owns the only writing connection and commits what was put in groups.

Promise. `put*` returns in microseconds, never raises and never waits for the disk. What was put is committed within
`commit_s`; a killed process loses at most that. While the file cannot be written (locked, full, read-only, gone,
damaged) the batch that failed is kept and tried again at least once a second, the queue behind it is bounded, the
oldest items are dropped and counted, and a `gap` event says so in the file once it can be written again. What becomes of
a file that was deleted, replaced or damaged is the affair of its connection (`store.connection`).

One database has one writer: while another process has its lock, rows wait as for a locked file, and are written when that
process ends.

The thread and the callers share only the queues, under a lock that is held for the time of a list append or swap.
"""

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

from sidecar.clock import earlier, monotonic, sleep, wall
from sidecar.core.record import Row
from sidecar.core.types import Event, Feedback
from sidecar.errors import StoreError
from sidecar.store.audit import Audit, Chain, lasting
from sidecar.store.batch import Batch, has_state_before, write
from sidecar.store.connection import WriterConnection
from sidecar.store.database import is_damaged, transaction
from sidecar.store.keys import NO_STORE_KEYS, StoreKeys
from sidecar.store.lock import Held
from sidecar.store.losses import Losses, cut
from sidecar.store.retention import Limits, empty_log, prune
from sidecar.store.vault import Vault

COMMIT_S: Final = 0.1  # with the app's flush within 50 ms, a kill loses at most the last 250 ms
QUEUE_ROWS: Final = 10_000  # about 20 MiB of records; minutes of an ordinary service's traffic
QUEUE_OTHERS: Final = 1_000  # events, feedback and audit lines waiting, each
MANY_ROWS: Final = 512  # waiting: enough for a group, more only take memory
BATCH_ROWS: Final = 2_000  # one transaction: about 15 ms
RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 1.0  # rows are written again within 5 s of the file's return
CHORE_S: Final = 2.0  # how often old rows are looked for
IDLE_S: Final = 1.0  # longest sleep without work

_UNWRITABLE = (  # what a value causes that no file could store, however healthy
    ValueError,
    TypeError,
    OverflowError,
    AttributeError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
_REFUSED = (sqlite3.Error, OSError, StoreError, MemoryError)  # what may be over at the next attempt

T = TypeVar("T")


class Writer:
    """Writes one service's rows into the file at `path`. Counters may be read at any time from any thread."""

    def __init__(
        self,
        path: Path,
        *,
        service: str = "default",
        limits: Limits | None = None,
        queue_rows: int = QUEUE_ROWS,
        commit_s: float = COMMIT_S,
        keys: StoreKeys = NO_STORE_KEYS,
    ) -> None:
        self.rows_written = 0
        self.rows_dropped = 0
        self.rows_pruned = 0
        self.commits = 0
        self.errors = 0
        self.last_error: str | None = None
        self.empty_at: float | None = None  # wall clock when a stored state was looked for, and there was none
        self.unseen = False  # one from before that has appeared since: until `seen`, none is written over it
        self.writable: bool | None = None  # whether the last attempt succeeded; None before the first
        self.wal_has_erased = False  # rows that were erased from the file still lie in its WAL
        self._wal_is_unknown = True  # the same may be true of a WAL that a killed process left
        self._file = WriterConnection(path, self._begin, self._fail)
        self.chain = Chain(path, keys.audit)  # used by the thread only, but for its head
        self.vault = Vault(keys.fields)  # used by the thread only
        self._service = service
        self._limits = limits or Limits()
        self._queue_rows, self._commit_s = queue_rows, commit_s
        self._lock = threading.Lock()  # of the queues, between the thread and its callers
        self._wake = threading.Event()
        self._hurry = threading.Event()  # somebody waits: the next group does not gather
        self._waiters: list[threading.Event] = []
        self._stop = threading.Event()
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._rows: deque[Row] = deque()
        self._jobs: list[tuple[Future[Any], Callable[[sqlite3.Connection], Any]]] = []
        self._ended = False
        self._others = Batch()  # events, feedback, audit and state that wait
        self._lost = Losses()  # what the file has not been told of yet
        self._oldest: float | None = None  # monotonic time of the oldest thing not yet committed
        self._last_id: str | None = None  # of the newest row put
        self._failed: Batch | None = None  # the batch that could not be written, to be tried again
        self._saved: tuple[float, bytes, str | None] | None = None  # the newest state, for a file that is made anew
        self._next_chore = 0.0

    # --- called from the loop ---------------------------------------------------------------------------------------

    @property
    def moved_aside(self) -> Path | None:
        """The newest damaged file."""
        return self._file.moved_aside

    @property
    def mark(self) -> str:
        """What tells this writer from those of other processes."""
        return self._file.lock.mark

    def claim(self) -> str | None:
        """Take the right to write, before `start`; when another process has it, who. The thread goes on trying."""
        try:
            self._file.lock.take()
        except Held as error:
            self._fail(error)
            return str(error)
        except OSError:
            return None  # the thread meets it again, and counts it
        return None

    @property
    def holds(self) -> bool:
        """Whether this process has the right to write."""
        return self._file.lock.held

    def start(self) -> None:
        """Start the thread. The file is opened there, at once, so a slow disk delays nothing."""
        self.hurry()
        self._thread.start()

    @property
    def lag_s(self) -> float:
        """Age of the oldest thing that was put and is not committed yet, seconds; 0 when there is none."""
        oldest = self._oldest
        return 0.0 if oldest is None else max(0.0, monotonic() - oldest)

    @property
    def queued(self) -> int:
        """Rows that wait, those of a failed batch included."""
        failed = self._failed
        return len(self._rows) + (0 if failed is None else len(failed.rows))

    def put(self, rows: Sequence[Row]) -> None:
        """Rows of finished exchanges, in the order in which they ended."""
        if not rows:
            return
        with self._lock:
            self._rows.extend(rows)
            self._last_id = str(rows[-1][0])
            while len(self._rows) > self._queue_rows:
                self._drop(str(self._rows.popleft()[0]))
            many = len(self._rows) >= MANY_ROWS
        if many:
            self._hurry.set()
        self._notify()

    def put_events(self, events: Sequence[tuple[float, Event]]) -> None:
        """Events with the wall clock reading at which each happened."""
        with self._lock:
            self._others.events.extend(events)
            self._lost.events += cut(self._others.events, QUEUE_OTHERS)
        self._notify()

    def put_feedback(self, feedback: Sequence[tuple[float, Feedback]]) -> None:
        """Scores with the wall clock reading at which each came; the last one per decision and source stays."""
        with self._lock:
            self._others.feedback.extend(feedback)
            self._lost.scores += cut(self._others.feedback, QUEUE_OTHERS)
        self._notify()

    def put_audit(self, lines: Sequence[Audit]) -> None:
        """Changes that somebody made; never pruned from the file."""
        with self._lock:
            self._others.audit.extend(lines)
            self._lost.lines += cut(self._others.audit, QUEUE_OTHERS)
        self._notify()

    def put_state(self, state: bytes) -> None:
        """The engine's snapshot. It is written with, or after, every row put before it, and names the last of them."""
        at, empty_at = wall(), self.empty_at
        if empty_at is not None:
            self.empty_at = min(empty_at, at)  # also when the clock was set back: what is ours is no older one
        with self._lock:
            self._others.state = (at, state, self._last_id)
        self._notify()

    def seen(self) -> None:
        """What is stored has been read: what is put from now on replaces it, and what was put before does not."""
        with self._lock:
            self._others.state = self._saved = None
            self.unseen = False

    def hurry(self) -> None:
        """What was put is committed now, without waiting for more."""
        self._hurry.set()
        self._wake.set()

    def flush(self, timeout_s: float) -> bool:
        """Waits, in a thread that is not the loop's, until all that was put before is committed; False when it is not
        within `timeout_s`."""
        if self._ended:
            return False
        done = threading.Event()
        with self._lock:
            self._waiters.append(done)
        self._notify()
        self.hurry()
        return done.wait(timeout_s)

    def ask(self, work: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        """`work` on the one writing connection, in its thread, when all that was put before is committed.

        It should take milliseconds: rows wait meanwhile. The future has its result, or StoreError when the file cannot
        be written now or the writer has ended.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._ended:
                future.set_exception(StoreError("the database is being closed"))
            else:
                self._jobs.append((future, work))
        self.hurry()
        return future

    def close(self, timeout_s: float = 5.0) -> bool:
        """Write what waits and end the thread; False when `timeout_s` was not enough (then the rest is lost)."""
        self._deadline = monotonic() + timeout_s
        self._stop.set()
        self._hurry.set()
        self._wake.set()
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s + 0.5)
        return not self._thread.is_alive() and self.queued == 0

    def _notify(self) -> None:
        if self._oldest is None:
            self._oldest = monotonic()
        self._wake.set()

    def _drop(self, key: str) -> None:
        """Count one lost row. The lock is held."""
        self.rows_dropped += 1
        self._lost.row(key)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        while True:
            if pause:
                self._stop.wait(pause)
            elif self._wake.wait(IDLE_S):
                self._hurry.wait(self._commit_s)  # let a group gather
            stopping = self._stop.is_set()
            self._wake.clear()
            self._hurry.clear()
            done = self._drained()
            self._do_jobs(done)
            pause = 0.0 if done else min(RETRY_MAX_S, max(RETRY_FIRST_S, pause * 2))
            if stopping:
                if done or self._late():
                    break
                sleep(RETRY_FIRST_S)  # `_stop`, which is set by now, would not wait
        with self._lock:
            self._ended = True
        self._do_jobs(False)
        self._file.close()

    def _late(self) -> bool:
        return self._deadline is not None and monotonic() >= self._deadline

    def _drained(self) -> bool:
        """`_drain`, and no error of ours ends the thread: it is counted and the next attempt follows."""
        try:
            return self._drain()
        except Exception as error:  # noqa: BLE001 (the last line of a thread that must not end)
            self._fail(error)
            return False

    def _drain(self) -> bool:
        """Write everything that waits; False when the file refused."""
        while True:
            batch = self._failed or self._take()
            if not batch and self._file.is_open and not self._due():
                self._free_waiters()
                return True
            if not self._attempt(batch):
                self._failed = batch or None
                return False
            self._failed = None
            if not self._rows and not self._others:
                self._free_waiters()
                return True

    def _free_waiters(self) -> None:
        """Frees who waits in `flush`, unless something was put meanwhile: then the next group does."""
        with self._lock:
            if not self._rows and not self._others:
                self._oldest = None
                told, self._waiters = self._waiters, []
                for waiter in told:
                    waiter.set()

    def _do_jobs(self, written: bool) -> None:
        """Do what `ask` was asked, unless something was put meanwhile: that comes first. Without the file, refuse it."""
        with self._lock:
            if written and (self._rows or self._others):
                return
            jobs, self._jobs = self._jobs, []
        for future, work in jobs:
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if not written:
                    raise StoreError(f"the database cannot be written now: {self.last_error or 'it is being closed'}")
                future.set_result(work(self._file.get()))
            except sqlite3.Error as error:
                self._recover(error)
                future.set_exception(StoreError(f"the database cannot be written now: {error}"))
            except Exception as error:  # noqa: BLE001 (who asked is told; the thread must not end)
                future.set_exception(error)

    def _due(self) -> bool:
        return monotonic() >= self._next_chore

    def _take(self) -> Batch:
        """The next batch: up to BATCH_ROWS rows; the rest of what waits comes with the last of them."""
        with self._lock:
            rows = [self._rows.popleft() for _ in range(min(len(self._rows), BATCH_ROWS))]
            batch = Batch()
            if not self._rows:
                batch, self._others = self._others, Batch()
            batch.rows += rows
            lost, self._lost = self._lost, Losses()
        now = wall()
        if (line := lost.line(now)) is not None:
            batch.audit.insert(0, line)
        if (gap := lost.gap()) is not None:
            batch.events.append((now, gap))
        return batch

    def _attempt(self, batch: Batch) -> bool:
        """One try to write the batch and do the chores; never raises."""
        try:
            connection = self._file.get()
            if batch:
                self._commit(connection, batch)
                if self._file.is_elsewhere:
                    self._file.drop()
                    self._commit(self._file.get(), batch)
                self.rows_written += len(batch.rows)
                self._saved = batch.state or self._saved
                batch.keep([])  # a chore that fails below must not write it again
            if self._due():
                self._next_chore = monotonic() + CHORE_S
                self._tidy()
        except _UNWRITABLE as error:
            self._fail(error)
            return self._isolate(batch)
        except _REFUSED as error:
            self._recover(error)
            return False
        self.writable = True
        return True

    def _commit(self, connection: sqlite3.Connection, batch: Batch) -> None:
        if self.unseen:
            batch.state = None
        with lasting(connection) if batch.audit else transaction(connection):
            write(connection, batch, self._service, self.chain, self.vault)
        self.commits += 1
        if batch.audit:
            try:
                self.chain.seal(connection)
            except _REFUSED as error:  # the next one tells the head; what is committed must not be written again
                self._recover(error)

    def _isolate(self, batch: Batch) -> bool:
        """Something in this batch cannot be stored at all: write its items one by one and drop those that cannot.
        When the file itself refuses meanwhile, the items that are left stay in the batch, for the next attempt."""
        singles = batch.singles()
        while singles:
            one = singles[0]
            try:
                self._commit(self._file.get(), one)
                self.rows_written += len(one.rows)
                self._saved = one.state or self._saved
            except _UNWRITABLE as error:
                self._fail(error)
                with self._lock:
                    for lost in one.rows:
                        self._drop(str(lost[0]))
                    self._lost.scores += len(one.feedback)
                    self._lost.events += len(one.events)
                    self._lost.lines += len(one.audit)
            except _REFUSED as error:
                self._recover(error)
                batch.keep(singles)
                return False
            del singles[0]
        return True

    def _tidy(self) -> None:
        connection = self._file.get()
        self.rows_pruned += prune(connection, self._limits, earlier()).rows
        if (self.wal_has_erased or self._wal_is_unknown) and empty_log(connection):
            self.wal_has_erased = self._wal_is_unknown = False

    def _fail(self, error: Exception) -> None:
        self.errors += 1
        self.writable = False
        kind = type(error).__name__  # the texts of other errors may hold a row's values
        self.last_error = str(error) if isinstance(error, StoreError) else kind
        if isinstance(error, sqlite3.Error | OSError):
            self.last_error = f"{kind}: {error}"

    def _recover(self, error: Exception) -> None:
        """Count a failure: a lock is waited for with the same connection, everything else opens the file again."""
        self._fail(error)
        if is_damaged(error):
            self._file.suspect()
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
            self._file.drop()

    def _begin(self, connection: sqlite3.Connection) -> None:
        """A connection was opened, perhaps to another file than before: it gets the newest state, unless it has one that
        nobody has seen."""
        self.chain.begin(connection, self._service)
        if self.empty_at is not None and has_state_before(connection, self._service, self.empty_at):
            self.unseen = True
        if self._saved is not None and not self.unseen:
            with transaction(connection):
                write(connection, Batch(state=self._saved), self._service, self.chain, self.vault)
