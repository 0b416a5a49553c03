"""What the store forgets, and when or for whom: bounded steps that fit between two group commits.

Raw rows (decisions, outcomes, feedback) go when they are older than `raw_s`, or, oldest first, when the file is larger
than `max_bytes`; hourly windows and events go after `aggregates_s`. Posteriors (`arms`), rollouts, experiments and the
audit are never touched. One step deletes at most STEP_ROWS rows in one transaction and nothing is read into memory but
their ids; freed pages are given back to the file system a few at a time, so no step holds the file for long.
"""

import sqlite3
from dataclasses import dataclass

import orjson

from sidecar.core.memory import UNREADABLE, without
from sidecar.core.record import at_text
from sidecar.core.sticky import key_of
from sidecar.store.audit import Audit, Chain, lasting
from sidecar.store.batch import STATE_KEY
from sidecar.store.database import size_bytes, transaction
from sidecar.store.vault import CLOSED, Spoilt, Vault, state_place

STEP_ROWS = 1000  # rows of one transaction
STEPS = 8  # steps of one call, so that new rows wait only tens of milliseconds
VACUUM_PAGES = 256  # 1 MiB given back per call


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept. Sizes in bytes, ages in seconds."""

    max_bytes: int = 256 * 2**20
    raw_s: float = 7 * 86400.0
    aggregates_s: float = 365 * 86400.0


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What the audit says of an erasure: when (wall clock, seconds), who, why, and what earlier steps have erased."""

    at: float
    actor: str
    service: str = ""
    before: int = 0
    why: str = ""


def prune(connection: sqlite3.Connection, limits: Limits, wall_s: float, *, steps: int = STEPS) -> int:
    """Delete what is due, at most `steps` steps; the number of raw rows deleted. Raises sqlite3.Error."""
    deleted = 0
    oldest = at_text(wall_s - limits.raw_s)
    for _ in range(steps):
        used, _ = size_bytes(connection)
        gone = _delete_raw(connection, None if used > limits.max_bytes else oldest)
        deleted += gone
        if gone < STEP_ROWS:
            break
    horizon = at_text(wall_s - limits.aggregates_s)
    _in_steps(connection, "DELETE FROM windows WHERE hour < ?", (horizon[:13],))
    _in_steps(
        connection,
        "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < ? ORDER BY at LIMIT 1000)",
        (horizon,),
    )
    _give_back(connection, limits)
    return deleted


def vacuum(connection: sqlite3.Connection, pages: int = VACUUM_PAGES) -> bool:
    """Give back up to `pages` free pages; whether another call would give back more. Raises sqlite3.Error."""
    _, before = size_bytes(connection)
    connection.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
    _, after = size_bytes(connection)
    return 0 < after < before


def forget(
    connection: sqlite3.Connection, key_hash: str, audit: Forgetting, chain: Chain, vault: Vault = CLOSED
) -> int:
    """Erase up to STEP_ROWS decisions of one sticky key, with outcomes and feedback; how many.

    The step that finds fewer than STEP_ROWS is the last: it takes the key out of what was learnt too, and leaves an audit
    row, without the key, in its transaction. Raises sqlite3.Error, and Sealed when what was learnt cannot be opened.
    """
    with lasting(connection):
        ids = connection.execute(
            "SELECT id FROM decisions WHERE sticky_key = ? LIMIT ?", (key_hash, STEP_ROWS)
        ).fetchall()
        _delete(connection, ids)
        if len(ids) < STEP_ROWS:
            _free(connection, key_hash, vault)
            detail = orjson.dumps({"decisions": audit.before + len(ids)}).decode()
            line = Audit(audit.at, audit.actor, "forget", detail=detail, why=audit.why)
            chain.append(connection, audit.service, [line])
    chain.seal(connection)
    return len(ids)


def _free(connection: sqlite3.Connection, key_hash: str, vault: Vault) -> None:
    """Takes a conversation out of every stored snapshot, also of those that were set aside. What nobody can read stays."""
    key = key_of(key_hash)
    if key is None:
        return
    rows = connection.execute(
        "SELECT service, arm, CAST(state AS BLOB) FROM arms WHERE route = ? AND state IS NOT NULL", (STATE_KEY,)
    ).fetchall()
    for service, arm, stored in rows:
        place = state_place(service, STATE_KEY, arm)
        try:
            text = vault.open_blob(bytes(stored), place)
            made = without(text, key)
        except (Spoilt, *UNREADABLE):
            continue
        if made != text:
            made = vault.seal_blob(made, place) if vault.key_id else made
            connection.execute(
                "UPDATE arms SET state = ? WHERE service = ? AND route = ? AND arm = ?", (made, service, STATE_KEY, arm)
            )


def _delete_raw(connection: sqlite3.Connection, older_than: str | None) -> int:
    """One step: the oldest rows, all of them when `older_than` is None, else only those before it."""
    found = connection.execute("SELECT id, at FROM decisions ORDER BY id LIMIT ?", (STEP_ROWS,)).fetchall()
    ids = [(key,) for key, at in found if older_than is None or at < older_than]
    if ids:
        _delete_ids(connection, ids)
    return len(ids)


def _delete_ids(connection: sqlite3.Connection, ids: list[tuple[str]]) -> None:
    with transaction(connection):
        _delete(connection, ids)


def _delete(connection: sqlite3.Connection, ids: list[tuple[str]]) -> None:
    for table, key in (("decisions", "id"), ("outcomes", "id"), ("feedback", "decision_id")):
        connection.executemany(f"DELETE FROM {table} WHERE {key} = ?", ids)  # noqa: S608 (names of ours)


def _in_steps(connection: sqlite3.Connection, statement: str, values: tuple[str, ...]) -> None:
    connection.execute(statement, values)


def _give_back(connection: sqlite3.Connection, limits: Limits) -> None:
    """Return free pages to the file system: a few, when a fifth of the limit lies free (else they are used again)."""
    _, free = size_bytes(connection)
    if free * 5 > limits.max_bytes:
        connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
