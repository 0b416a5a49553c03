"""The schema of the store, as named, ordered steps that each run once, in a transaction.

A step never changes after a release: a new one is added below it, and VERSION (the number of steps) rises. The file
carries its version in `PRAGMA user_version`, so that an up-to-date file is recognised with one read. sqlite-utils brings
an older file up to date and records the steps in `schema_migrations`. A new file, which most pods begin with, is made here
in one transaction and looks the same, without the 25 ms and the 3 MiB of that import.

Two tables hold one exchange: `decisions` what was known when it was sent, `outcomes` how it ended. Both are clustered
by the decision's id (ids rise with time, so writing appends and the oldest rows lie together). There is no index of
completion ids on purpose: they are random, so each commit would rewrite a large part of it (7 us a row, as much as the
row itself), while looking for one without it reads the table at 0.1 us a row.
"""

import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sidecar.clock import wall
from sidecar.core.record import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

SPLIT = COLUMNS.index("completion_id")
DECISION_COLUMNS = COLUMNS[:SPLIT]
OUTCOME_COLUMNS = ("id", *COLUMNS[SPLIT:])

_TYPES = {
    "stream": "INTEGER",
    "propensity": "REAL",
    "rollout_step": "INTEGER",
    "status": "INTEGER",
    "quality": "REAL",
    "reward": "REAL",
    "cost_nusd": "INTEGER",
}


def _column(name: str) -> str:
    """One column's declaration: seconds are REAL, token counts INTEGER, all else TEXT unless _TYPES says otherwise."""
    if name == "id":
        return "id TEXT PRIMARY KEY"
    kind = "REAL" if name.endswith("_s") else "INTEGER" if name.endswith("_tokens") else "TEXT"
    return f"{name} {_TYPES.get(name, kind)}"


def _table(name: str, columns: tuple[str, ...]) -> str:
    return f"CREATE TABLE {name} ({', '.join(map(_column, columns))}) WITHOUT ROWID"


FIRST: tuple[str, ...] = (
    _table("decisions", DECISION_COLUMNS),
    _table("outcomes", OUTCOME_COLUMNS),
    """CREATE TABLE feedback (decision_id TEXT, source TEXT, at TEXT, route TEXT, arm TEXT, score REAL, label TEXT,
       PRIMARY KEY (decision_id, source)) WITHOUT ROWID""",
    """CREATE TABLE windows (hour TEXT, service TEXT, route TEXT, arm TEXT, upstream TEXT, model TEXT, stream INTEGER,
       requests INTEGER, completed INTEGER, failed INTEGER, aborted INTEGER, input_tokens INTEGER,
       output_tokens INTEGER, cost_nusd INTEGER, unpriced INTEGER, duration_s REAL, ttft_s REAL, ttft_n INTEGER,
       quality REAL, quality_n INTEGER, reward REAL, reward_n INTEGER,
       PRIMARY KEY (hour, service, route, arm, upstream, model, stream)) WITHOUT ROWID""",
    """CREATE TABLE arms (service TEXT, route TEXT, arm TEXT, at TEXT, last_id TEXT, state BLOB,
       PRIMARY KEY (service, route, arm)) WITHOUT ROWID""",
    """CREATE TABLE rollouts (id TEXT PRIMARY KEY, service TEXT, route TEXT, arm TEXT, phase TEXT, step INTEGER,
       started_at TEXT, at TEXT, message TEXT, detail TEXT) WITHOUT ROWID""",
    """CREATE TABLE experiments (id TEXT PRIMARY KEY, service TEXT, route TEXT, arms TEXT, started_at TEXT,
       ended_at TEXT, verdict TEXT, detail TEXT) WITHOUT ROWID""",
    """CREATE TABLE events (id INTEGER PRIMARY KEY, at TEXT, service TEXT, kind TEXT, severity TEXT, route TEXT,
       arm TEXT, message TEXT, detail TEXT)""",
    "CREATE INDEX events_at ON events (at)",
    """CREATE TABLE audit (id INTEGER PRIMARY KEY, at TEXT, service TEXT, actor TEXT, action TEXT, target TEXT,
       detail TEXT)""",
)
SECOND: tuple[str, ...] = (  # the audit becomes a chain (store.audit); rows of before have nulls here
    "ALTER TABLE audit ADD COLUMN why TEXT",
    "ALTER TABLE audit ADD COLUMN seq INTEGER",
    "ALTER TABLE audit ADD COLUMN prev TEXT",
    "ALTER TABLE audit ADD COLUMN key TEXT",
    "ALTER TABLE audit ADD COLUMN hash TEXT",
    "CREATE UNIQUE INDEX audit_seq ON audit (seq)",
)
STEPS: Final = (("0001_first", FIRST), ("0002_audit_chain", SECOND))
VERSION = len(STEPS)
_SET: Final = "llm-sidecar"
_RECORD: Final = "schema_migrations"  # made as sqlite-utils makes it, which goes on with it
_RECORD_TABLE: Final = (
    f'CREATE TABLE "{_RECORD}" (id INTEGER PRIMARY KEY, migration_set TEXT, name TEXT, applied_at TEXT)',
    f'CREATE UNIQUE INDEX "idx_{_RECORD}_migration_set_name" ON "{_RECORD}" (migration_set, name)',
)
_APPLIED: Final = "INSERT INTO schema_migrations VALUES (NULL, ?, ?, ?)"


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether the file has this version's schema (or a later one, which only adds)."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version >= VERSION


def require_ours(connection: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError when the file has tables, and nothing that says that a sidecar made them: others have a
    table of this name too, but not with sets."""
    tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
    columns = {column[1] for column in connection.execute(f"PRAGMA table_info({_RECORD})")}
    if tables and "migration_set" not in columns:
        raise sqlite3.DatabaseError("it is the database of another program")


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file up to VERSION. Raises sqlite3.Error: close the connection then, and a step that failed leaves nothing
    behind."""
    if is_current(connection):
        return
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        from sqlite_utils import Database  # only where there is an older file

        _steps().apply(Database(connection))
        connection.execute(f"PRAGMA user_version={VERSION}")
    else:
        _create(connection)


def _create(connection: sqlite3.Connection) -> None:
    """All steps at once, on an empty file."""
    connection.execute("BEGIN IMMEDIATE")
    if is_current(connection):  # another process was first
        connection.execute("COMMIT")
        return
    for statement in _RECORD_TABLE:
        connection.execute(statement)
    for name, statements in STEPS:
        for statement in statements:
            connection.execute(statement)
        connection.execute(_APPLIED, (_SET, name, str(datetime.fromtimestamp(wall(), UTC))))
    connection.execute(f"PRAGMA user_version={VERSION}")
    connection.execute("COMMIT")


def _steps() -> "Migrations":
    """The steps in their order, for sqlite-utils."""
    from sqlite_utils.migrations import Migrations  # as above

    class Steps(Migrations):
        migrations_table = _RECORD

    steps = Steps(_SET)
    for name, statements in STEPS:
        steps(name=name)(_runs(statements))
    return steps


def _runs(statements: tuple[str, ...]) -> "Callable[[Database], None]":
    def step(db: "Database") -> None:
        for statement in statements:
            db.execute(statement)

    return step
