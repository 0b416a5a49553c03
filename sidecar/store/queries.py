"""Reading the store, with or without a running process: every function opens its own read-only connection.

Readers see committed rows only and never make the writer wait (WAL). A database without tables, as it is in the first
moments of its first process, reads as one without rows. The few verbs that write (prune, forget, save_state) do so only
while no sidecar runs on the file: else they raise Held, and the running process is to be asked. Values go in as
parameters. What cannot be read raises StoreError with what, where and how to fix it.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from sidecar.clock import wall
from sidecar.core.record import COLUMNS, at_text
from sidecar.core.sticky import key_of
from sidecar.errors import StoreError
from sidecar.store import retention, sealing
from sidecar.store.audit import Audit, Chain, Head, lasting
from sidecar.store.audit_check import Verdict, verify
from sidecar.store.batch import STATE_KEY, UPSERT_STATE
from sidecar.store.database import is_blank, is_damaged, is_of_source, open_blank, open_reader, open_writer, size_bytes
from sidecar.store.keys import NO_STORE_KEYS, KeySet, StoreKeys
from sidecar.store.lock import WriteLock, is_held
from sidecar.store.migrations import require_ours
from sidecar.store.retention import Forgetting, Limits
from sidecar.store.vault import (
    CLOSED,
    ENCRYPTED,
    UNREADABLE,
    Sealed,
    Spoilt,
    Vault,
    open_context,
    open_label,
    state_place,
)

Record = dict[str, Any]

_SELECT = f"SELECT {', '.join(COLUMNS)} FROM decisions JOIN outcomes USING (id)"  # noqa: S608 (names of ours)
_RESPONSES = '{"endpoint":"responses"'  # how their contexts begin
_MAX_FOUND = 100  # decisions with one completion id
_PRUNE_CALLS = 100_000  # calls of the prune verb: each deletes up to 1,000 rows
_PAGE_ROWS = 500  # of an export, about 1 MiB
_COPY_PAGES = 1024  # 8 MiB of a backup at once


@dataclass(frozen=True, slots=True)
class By:
    """Who has a verb done that writes, why, and with which keys."""

    actor: str = "cli"
    why: str = ""
    keys: StoreKeys = NO_STORE_KEYS


BY: Final = By()


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A reading connection; SQLite's errors become StoreError. What the writer has yet to make is read as empty."""
    try:
        if not path.is_file() and is_held(path):
            with closing(open_blank()) as blank:
                yield blank
            return
        _require(path)
        with closing(open_reader(path)) as connection:
            if not is_blank(connection):
                yield connection
                return
        with closing(open_blank()) as blank:
            yield blank
    except (sqlite3.Error, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception, done: str = "read") -> StoreError:
    fix = "is it the sidecar's database, and readable?"
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
        fix = (
            "SQLite needs files of its own beside it: do it as its user, or with a copy in a folder that you can write"
        )
    return StoreError(f"{path}: cannot be {done}: {error}; {fix}")


@contextmanager
def _writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A writing connection for a verb, under the lock of the file's one writer. Raises Held when a sidecar has it."""
    lock = WriteLock(path)
    try:
        _require(path)
        lock.take()
        with closing(open_writer(path)) as connection:
            connection.execute("PRAGMA busy_timeout=5000")
            yield connection
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{path}: cannot be written: {error}; check the disk, the mode and other users") from error
    finally:
        lock.give()


def _require(path: Path) -> None:
    if not path.is_file():
        raise StoreError(f"{path}: no database here; set SIDECAR_DB or --db to the file that the sidecar writes")


def _record(row: sqlite3.Row, vault: Vault) -> Record:
    """One joined row as `decisions --json` prints it: JSON columns parsed, `stream` a truth value, the context opened. What
    somebody put in the place of JSON is told in a context, and is no list of arms."""
    record = dict(row)
    eligible = _parsed(record["eligible"])
    record["eligible"] = eligible if isinstance(eligible, list) else None
    if record["context"] is not None:
        record["context"] = _context(row, vault)
    record["stream"] = bool(record["stream"])
    return record


def _context(row: sqlite3.Row, vault: Vault) -> dict[str, Any]:
    context = _parsed(row["context"])
    return open_context(vault, context, row["id"]) if isinstance(context, dict) else {"sealed": UNREADABLE}


def decisions(path: Path, service: str | None = None, last: int = 20, vault: Vault = CLOSED) -> list[Record]:
    """The newest `last` decisions joined with their outcomes, newest first, keys in the order of COLUMNS."""
    where = "" if service is None else " WHERE service = ?"
    values = (last,) if service is None else (service, last)
    with _reading(path) as connection:
        found = connection.execute(f"{_SELECT}{where} ORDER BY id DESC LIMIT ?", values)
        return [_record(row, vault) for row in found]


def find(path: Path, key: str, vault: Vault = CLOSED) -> Record | list[Record] | None:
    """The decision with this id, or else with this completion id: a list when several have it, None when none."""
    found = found_by(path, key, vault)
    return found if len(found) > 1 else next(iter(found), None)


def found_by(path: Path, key: str, vault: Vault = CLOSED, tenant: str = "") -> list[Record]:
    """The decision with this id, or else the newest 100 with this completion id; those of one `tenant` only, if named.
    Whose a decision is stands in its context, which may be sealed: so others' are read, and left out."""
    with _reading(path) as connection:
        row = connection.execute(f"{_SELECT} WHERE id = ?", (key,)).fetchone()
        rows = [row] if row else connection.execute(f"{_SELECT} WHERE completion_id = ? ORDER BY id DESC", (key,))
        records = (_record(row, vault) for row in rows)
        return list(islice((one for one in records if not tenant or tenant_of(one) == tenant), _MAX_FOUND))


def is_decision(path: Path, key: str) -> bool:
    """Whether there is a decision with this id: a look into a table, where `found_by` reads all of it for other ids."""
    with _reading(path) as connection:
        return connection.execute("SELECT 1 FROM decisions WHERE id = ?", (key,)).fetchone() is not None


def responses(path: Path, service: str, last: int, vault: Vault = CLOSED) -> list[tuple[str, str, str, int]]:
    """Of the newest `last` decisions those that left a response which may be gone on with, oldest first: whose it was, its
    id, the arm that holds it, the sticky key. Those of which cannot be read whose they were are left out."""
    newest = "SELECT id, arm, sticky_key, context FROM decisions WHERE service = ? ORDER BY id DESC LIMIT ?"
    wanted = f"arm IS NOT NULL AND completion_id IS NOT NULL AND context LIKE '{_RESPONSES}%'"
    with _reading(path) as connection:
        found = connection.execute(
            f"SELECT * FROM (SELECT new.*, completion_id FROM ({newest}) new JOIN outcomes USING (id)) "  # noqa: S608
            f"WHERE {wanted} ORDER BY id",
            (service, last),
        )
        records = [dict(row) | {"context": _context(row, vault)} for row in found]
    return [
        (tenant_of(one), one["completion_id"], one["arm"], key_of(str(one["sticky_key"])) or 0)
        for one in records
        if "sealed" not in one["context"]
    ]


def tenant_of(record: Record) -> str:
    """Whose call it was, where many services share a sidecar; else empty."""
    tenant: str = ((record["context"] or {}).get("tags") or {}).get("tenant", "")
    return tenant


def feedback_of(path: Path, key: str, vault: Vault = CLOSED) -> list[Record]:
    """The scores that one decision has received, one per source."""
    with _reading(path) as connection:
        found = connection.execute("SELECT * FROM feedback WHERE decision_id = ? ORDER BY at", (key,))
        return [_score(row, vault) for row in found]


def _score(row: sqlite3.Row, vault: Vault) -> Record:
    record = dict(row)
    return record | {"label": open_label(vault, record["label"], record["decision_id"], record["source"])}


def knowledge(path: Path, record: Record, vault: Vault = CLOSED) -> Record:
    """What the store knows besides one decision: `rollout`, the row of the rollout that it belonged to, and of the newest
    snapshot of its service `at` and the part of its `route`; None where there is none. `sealed` says why it cannot be read,
    when it is encrypted."""
    with _reading(path) as connection:
        whole, _, _ = (record["rollout_id"] or "").partition(".")  # without its attempt
        rollout = connection.execute("SELECT * FROM rollouts WHERE id = ?", (whole,)).fetchone()
        values = (record["service"], STATE_KEY, STATE_KEY)
        newest = "SELECT at, state FROM arms WHERE service = ? AND route = ? AND arm = ?"
        state = connection.execute(newest, values).fetchone()
    routes, sealed = {}, None
    try:
        if state is not None:
            routes = orjson.loads(vault.open_blob(bytes(state["state"]), state_place(*values))).get("routes", {})
    except Sealed:
        sealed = ENCRYPTED
    except Spoilt:
        sealed = UNREADABLE
    except (ValueError, AttributeError):
        routes = {}
    return {
        "rollout": None if rollout is None else dict(rollout),
        "at": None if state is None else state["at"],
        "route": routes.get(record["route"]),
        **({} if sealed is None else {"sealed": sealed}),
    }


def scores(path: Path, vault: Vault = CLOSED) -> Iterator[Record]:
    """Every kept score, in the order of time, one at a time."""
    with _reading(path) as connection:
        for row in connection.execute("SELECT * FROM feedback ORDER BY at"):
            yield _score(row, vault)


def export(
    path: Path, service: str | None = None, since: str = "", until: str = "~", vault: Vault = CLOSED
) -> Iterator[Record]:
    """Every row that is kept now, oldest first, one at a time: `since` <= at < `until` (RFC 3339 text, or any beginning of
    it). Read by pages: who takes them slowly keeps no log (WAL) from being cut, and misses what is pruned meanwhile."""
    where = " WHERE id > ? AND id <= ? AND at >= ? AND at < ?" + ("" if service is None else " AND service = ?")
    values = (since, until) if service is None else (since, until, service)
    with _reading(path) as connection:
        last, newest = "", connection.execute("SELECT max(id) FROM decisions").fetchone()[0]
        text = f"{_SELECT}{where} ORDER BY id LIMIT ?"
        while page := connection.execute(text, (last, newest, *values, _PAGE_ROWS)).fetchall():
            last = page[-1]["id"]
            yield from (_record(row, vault) for row in page)


def events(path: Path, last: int = 100, kind: str | None = None) -> list[Record]:
    """The newest events, newest first; `kind` selects one kind, or all that begin with it when it ends with a dot."""
    where = "" if kind is None else " WHERE kind GLOB ?"
    pattern = () if kind is None else (f"{kind}*" if kind.endswith(".") else kind,)
    with _reading(path) as connection:
        text = f"SELECT * FROM events{where} ORDER BY id DESC LIMIT ?"  # noqa: S608 (names of ours)
        found = connection.execute(text, (*pattern, last))
        return [dict(row) | {"detail": _parsed(row["detail"])} for row in found]


def audit(path: Path, last: int = 100) -> list[Record]:
    """The newest lines of the audit, newest first."""
    with _reading(path) as connection:
        found = connection.execute("SELECT * FROM audit ORDER BY id DESC LIMIT ?", (last,))
        return [{"seq": None, "why": None} | dict(row) | {"detail": _parsed(row["detail"])} for row in found]


def _parsed(detail: object) -> object:
    """JSON as its value; what somebody has put in its place as it is."""
    try:
        return orjson.loads(detail)  # type: ignore[arg-type] # that is what is found out
    except ValueError:
        return str(detail)


def verify_audit(path: Path, keys: KeySet | None, anchors: Sequence[Head], accepted: Collection[Head]) -> Verdict:
    """What the chain of the audit shows. Raises StoreError when the file cannot be read, or has no chain yet."""
    with _reading(path) as connection:
        if not connection.execute("SELECT count(*) FROM pragma_table_info('audit') WHERE name = 'seq'").fetchone()[0]:
            raise StoreError(f"{path}: is of a version without a chain; start this version on it once, then verify")
        return verify(connection, keys, anchors, accepted)


def load_state(path: Path, service: str = "default", version: int | None = None, vault: Vault = CLOSED) -> bytes | None:
    """The newest engine snapshot of this service, or the one of a newer `version` that was set aside; None when there is
    no file, no table or no snapshot, or the file is damaged. Raises StoreError when that cannot be found out now, Sealed
    or Spoilt when the snapshot is encrypted and cannot be opened."""
    values = (service, STATE_KEY, STATE_KEY if version is None else _aside_key(version))
    try:
        path.stat()  # a file that SQLite may not open is not one that is missing
        with closing(open_reader(path)) as connection:
            row = connection.execute(
                "SELECT CAST(state AS BLOB) FROM arms WHERE service = ? AND route = ? AND arm = ?", values
            ).fetchone()  # cast: whatever type lies there, the process starts
    except FileNotFoundError:
        return None
    except (sqlite3.Error, OSError) as error:
        if is_damaged(error) or getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR:  # no table
            return None
        raise _unreadable(path, error) from error
    return None if row is None or row[0] is None else vault.open_blob(bytes(row[0]), state_place(*values))


def set_aside(connection: sqlite3.Connection, service: str, version: int, vault: Vault = CLOSED) -> None:
    """Keeps the stored snapshot, which is of a newer program, under its version: the next one is written in its place."""
    old, new = (service, STATE_KEY, STATE_KEY), (service, STATE_KEY, _aside_key(version))
    where = "WHERE service = ? AND route = ? AND arm = ?"
    with connection:
        row = connection.execute(f"SELECT at, last_id, CAST(state AS BLOB) FROM arms {where}", old).fetchone()  # noqa: S608 (ours)
        if row is not None and row[2] is not None:
            state = bytes(row[2])
            if vault.key_id:
                state = vault.seal_blob(vault.open_blob(state, state_place(*old)), state_place(*new))
            connection.execute(UPSERT_STATE, (*new, row[0], row[1], state))


def _aside_key(version: int) -> str:
    return f"{STATE_KEY}{version}"


def save_state(path: Path, state: bytes, service: str = "default", by: By = BY) -> None:
    """Put a snapshot in the place of the stored one, for the next start. Raises Held beside a running sidecar, which would
    overwrite it."""
    key, vault = (service, STATE_KEY, STATE_KEY), Vault(by.keys.fields)
    with _writing(path) as connection:
        stored = vault.seal_blob(state, state_place(*key)) if vault.key_id else state
        with _noted(connection, path, service, "state.import", {"bytes": len(state)}, by):
            connection.execute(UPSERT_STATE, (*key, at_text(wall()), None, stored))


def backup(path: Path, target: Path) -> None:
    """A consistent copy of the store, as it is when the copy begins, also while it is written.

    `target` is there when the copy is whole and not before; meanwhile it is `<target>.part`, of which a failure leaves
    nothing. Raises StoreError, which names the file that is to blame; an existing target is refused.
    """
    part = target.with_name(f"{target.name}.part")
    if target.exists():
        raise StoreError(f"{target}: exists already; name a new file")
    _require(path)
    try:
        part.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        why = "exists already: another backup writes it, or one was killed; if none runs, delete it"
        raise StoreError(f"{part}: {why}") from None
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        _copy(path, part, target)
        part.rename(target)
    except sqlite3.Error as error:
        raise _unreadable(path, error, "copied") from error
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        for torso in (part, part.with_name(f"{part.name}-journal")):
            torso.unlink(missing_ok=True)


def _copy(path: Path, part: Path, target: Path) -> None:
    """Raises sqlite3.Error for what is read, StoreError for what is written."""
    with closing(open_reader(path)) as connection:
        connection.execute("BEGIN")  # a snapshot: without one, each commit of the writer would begin the copy anew
        require_ours(connection)
        try:
            with closing(sqlite3.connect(part)) as copy:
                connection.backup(copy, pages=_COPY_PAGES)
        except sqlite3.Error as error:
            if is_of_source(error):
                raise
            raise _unwritable(target, error) from error


def _unwritable(target: Path, error: Exception) -> StoreError:
    return StoreError(f"{target}: the copy cannot be written: {error}; check its folder, the mode and the free space")


@contextmanager
def _noted(
    connection: sqlite3.Connection, path: Path, service: str, action: str, detail: Mapping[str, object], by: By
) -> Iterator[None]:
    """What is done meanwhile and its line of the audit, committed together or not at all."""
    chain = Chain(path, by.keys.audit)
    text = orjson.dumps(detail).decode()
    with lasting(connection):
        yield
        chain.append(connection, service, [Audit(wall(), by.actor, action, detail=text, why=by.why)])
    chain.seal(connection)


def _note(connection: sqlite3.Connection, path: Path, action: str, detail: Mapping[str, object], by: By) -> None:
    with _noted(connection, path, "", action, detail, by):
        pass


def prune(path: Path, limits: Limits, by: By = BY) -> int:
    """Delete what the limits say is due, in bounded steps, and give the pages back; the number of raw rows deleted."""
    deleted = 0
    with _writing(path) as connection:
        _note(connection, path, "prune.begun", {}, by)  # whatever comes then, the audit has who did it
        for _ in range(_PRUNE_CALLS):
            gone = retention.prune(connection, limits, wall(), steps=1)
            deleted += gone.rows
            if not gone.more:
                break
        while retention.vacuum(connection):
            pass
        _note(connection, path, "prune", {"decisions": deleted}, by)
    return deleted


def encrypt(path: Path, by: By = BY) -> sealing.Progress:
    """Encrypt with the first key whatever is not yet; how much, and what could not be read. Raises Held and StoreError."""
    progress, vault = sealing.Progress(), Vault(by.keys.fields)
    sealing.require_key(vault.key_id)
    with _writing(path) as connection:
        _note(connection, path, "encrypt.begun", {"key": vault.key_id}, by)
        while not progress.over:
            sealing.step(connection, vault, progress)
        detail = {"key": vault.key_id, "values": progress.sealed, "unreadable": progress.unreadable}
        _note(connection, path, "encrypt", detail, by)
        connection.execute("VACUUM")  # free space may hold rows that were deleted when nothing was encrypted yet
        _empty_log(connection, path)
    return progress


def forget(path: Path, key_hash: str, by: By = BY) -> int:
    """Erase every row of one sticky key (a person), and what was learnt holds it no more; the number of decisions. Leaves
    an audit row without the key for each 1,000 of them.

    Hourly sums stay: they hold no key. Raises StoreError, also when all is done but what is no state stays; when what was
    learnt is encrypted and cannot be opened, nothing is erased.
    """
    erased, chain, vault = 0, Chain(path, by.keys.audit), Vault(by.keys.fields)
    with _writing(path) as connection:
        while True:
            audit = Forgetting(wall(), by.actor, why=by.why)
            gone = retention.forget(connection, key_hash, audit, chain, vault)
            erased += gone.decisions
            if gone.is_last:
                break
        retention.rewrite(connection)
        _empty_log(connection, path)
    if gone.unreadable:
        raise StoreError(f"{path}: done, but {retention.KEPT.format(gone.unreadable)}")
    return erased


def _empty_log(connection: sqlite3.Connection, path: Path) -> None:
    """Takes what was erased or replaced out of the WAL too. Raises StoreError when a reader keeps it there."""
    if not retention.empty_log(connection):
        raise StoreError(
            f"{path}: done, but a program that reads keeps what was there in {path.name}-wal: end it, and do this again"
        )


def status(path: Path) -> Record:
    """Size, free space, row counts of the small tables, and the time span that raw rows cover."""
    with _reading(path) as connection:
        used, free = size_bytes(connection)
        oldest = connection.execute("SELECT at FROM decisions ORDER BY id LIMIT 1").fetchone()
        newest = connection.execute("SELECT at FROM decisions ORDER BY id DESC LIMIT 1").fetchone()
        counts = {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 (names of ours)
            for table in ("decisions", "feedback", "windows", "rollouts", "events", "audit")
        }
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    return {
        "path": str(path),
        "schema": version,
        "used_bytes": used,
        "free_bytes": free,
        "oldest": None if oldest is None else oldest[0],
        "newest": None if newest is None else newest[0],
        **counts,
    }
