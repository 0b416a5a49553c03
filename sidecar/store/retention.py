"""What the store forgets, and when or for whom: bounded steps that fit between two group commits.

Raw rows (decisions, outcomes, feedback) go when they are older than `raw_s`, hourly windows and events after
`aggregates_s`. Feedback whose decision is gone goes first. While the file is larger than `max_bytes`, raw rows and
events go, the oldest of both first: either can fill it. Posteriors (`arms`), rollouts, experiments and the audit are
never touched, nor, for its size, the hourly windows. One step deletes at most STEP_ROWS rows in one transaction and
nothing is read into memory but their ids; freed pages are given back to the file system a few at a time, so no step
holds the file for long.
"""

import sqlite3
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from operator import itemgetter
from pathlib import Path
from shutil import disk_usage
from typing import Final, NamedTuple

import orjson

from sidecar.core.memory import UNREADABLE, without
from sidecar.core.record import at_text
from sidecar.core.sticky import key_of
from sidecar.store.audit import Audit, Chain, lasting
from sidecar.store.batch import STATE_KEY
from sidecar.store.database import size_bytes, transaction
from sidecar.store.vault import CLOSED, Vault, state_place

STEP_ROWS = 1000  # rows of one transaction
STEPS = 8  # steps of one call, so that new rows wait only tens of milliseconds
VACUUM_PAGES = 256  # 2 MiB given back per call
KEPT: Final = (
    "{} of the stored states cannot be read, and may hold the key: replace them (`state import`) or delete them"
)

# What is no text, of another hand, is older than all.
_OLDEST_RAW: Final = "SELECT id, CASE typeof(at) WHEN 'text' THEN at ELSE '' END FROM decisions ORDER BY id LIMIT ?"
_OLDEST_EVENTS: Final = "SELECT id, CASE typeof(at) WHEN 'text' THEN at ELSE '' END FROM events ORDER BY at LIMIT ?"
_DELETE_EVENTS: Final = "DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < ? ORDER BY at LIMIT ?)"

# Ids rise with time: what is below the oldest decision has lost its own. Earlier versions stored such scores.
_DELETE_STRAYS: Final = """DELETE FROM feedback WHERE (decision_id, source) IN (SELECT decision_id, source FROM feedback
WHERE decision_id < coalesce((SELECT min(id) FROM decisions), 'g') ORDER BY decision_id LIMIT ?)"""

# Of a JSON array of decisions. A detail that is no JSON, of another hand, would raise.
_DELETE_ERRANDS: Final = """DELETE FROM events WHERE kind GLOB 'errand.*' AND
CASE WHEN json_valid(detail) THEN json_extract(detail, '$.decision') END IN (SELECT value FROM json_each(?))"""

Key = tuple[str | int]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept. Sizes in bytes, ages in seconds."""

    max_bytes: int = 256 * 2**20
    raw_s: float = 7 * 86400.0
    aggregates_s: float = 365 * 86400.0


class Pruned(NamedTuple):
    """What some steps have deleted: raw rows, and whether another step might find more that is due."""

    rows: int
    more: bool


class Forgotten(NamedTuple):
    """What one step erased: decisions. Then how many stored snapshots it could not read, which may hold the key, and whether
    there is room to rewrite the file."""

    decisions: int
    unreadable: int
    room: bool

    @property
    def is_last(self) -> bool:
        return self.decisions < STEP_ROWS


@dataclass(frozen=True, slots=True)
class Forgetting:
    """What the audit says of an erasure: when (wall clock, seconds), who and why."""

    at: float
    actor: str
    service: str = ""
    why: str = ""


def prune(connection: sqlite3.Connection, limits: Limits, wall_s: float, *, steps: int = STEPS) -> Pruned:
    """Delete what is due, at most `steps` steps. Raises sqlite3.Error."""
    rows, more = 0, False
    oldest = at_text(wall_s - limits.raw_s)
    for _ in range(steps):
        more = connection.execute(_DELETE_STRAYS, (STEP_ROWS,)).rowcount == STEP_ROWS
        if more:
            continue
        used, _ = size_bytes(connection)
        raw, events = _oldest(connection) if used > limits.max_bytes else (_raw_before(connection, oldest), [])
        _delete_step(connection, raw, events)
        rows += len(raw)
        more = len(raw) + len(events) == STEP_ROWS
        if not more:
            break
    horizon = at_text(wall_s - limits.aggregates_s)
    connection.execute("DELETE FROM windows WHERE hour < ?", (horizon[:13],))
    aged = connection.execute(_DELETE_EVENTS, (horizon, STEP_ROWS)).rowcount
    _give_back(connection, limits)
    return Pruned(rows, more or aged == STEP_ROWS)


def vacuum(connection: sqlite3.Connection) -> bool:
    """Give back up to VACUUM_PAGES free pages; whether another call would give back more. Raises sqlite3.Error."""
    _, before = size_bytes(connection)
    connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
    _, after = size_bytes(connection)
    return 0 < after < before


def empty_log(connection: sqlite3.Connection) -> bool:
    """Copies the WAL into the file and cuts it to nothing; False when readers kept it from that. Raises sqlite3.Error."""
    busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    return not busy


def rewrite(connection: sqlite3.Connection) -> None:
    """Copies all rows into clean pages. SQLite does not overwrite a row where it lay before it was moved to another page, so
    one that was deleted may lie there on. Needs twice the file's room meanwhile. Raises sqlite3.Error."""
    connection.execute("VACUUM")


def forget(
    connection: sqlite3.Connection,
    key_hash: str,
    audit: Forgetting,
    chain: Chain,
    vault: Vault = CLOSED,
    limits: Limits | None = None,
) -> Forgotten:
    """Erase up to STEP_ROWS decisions of one sticky key, with outcomes, feedback and errands.

    Each step takes the key out of what was learnt first, and leaves an audit row, without the key, in its transaction; the
    one that finds fewer than STEP_ROWS is the last. That row says how many snapshots could not be read, and the last one
    whether `limits` or the disk leave no room to rewrite the file. Raises sqlite3.Error, OSError, and Sealed or Spoilt, with
    nothing erased, when what was learnt cannot be opened.
    """
    with lasting(connection):
        unreadable = _free(connection, key_hash, vault)
        ids = connection.execute(
            "SELECT id FROM decisions WHERE sticky_key = ? LIMIT ?", (key_hash, STEP_ROWS)
        ).fetchall()
        _delete(connection, ids)
        erased = (orjson.dumps([key for (key,) in ids]).decode(),)
        connection.execute(_DELETE_ERRANDS, erased)
        connection.execute("UPDATE arms SET last_id = NULL WHERE last_id IN (SELECT value FROM json_each(?))", erased)
        gone = Forgotten(len(ids), unreadable, limits is None or _has_room(connection, limits))
        told: dict[str, object] = {"decisions": gone.decisions}
        if gone.unreadable:
            told["unreadable"] = gone.unreadable
        if gone.is_last and not gone.room:
            told["rewritten"] = False
        detail = orjson.dumps(told).decode()
        chain.append(connection, audit.service, [Audit(audit.at, audit.actor, "forget", detail=detail, why=audit.why)])
    chain.seal(connection)
    return gone


def _has_room(connection: sqlite3.Connection, limits: Limits) -> bool:
    """Whether the file can be rewritten. Where the disk is full half-way, the WAL has all of it, and no row is written."""
    used, _ = size_bytes(connection)
    _, _, file = connection.execute("PRAGMA database_list").fetchone()
    return 3 * used <= limits.max_bytes and 2 * used < disk_usage(Path(file).parent).free


def _free(connection: sqlite3.Connection, key_hash: str, vault: Vault) -> int:
    """Takes a conversation out of every stored snapshot, also of those that were set aside. What is no snapshot stays; how
    many of these there are."""
    key, unreadable = key_of(key_hash), 0
    if key is None:
        return 0
    rows = connection.execute(
        "SELECT service, arm, CAST(state AS BLOB) FROM arms WHERE route = ? AND state IS NOT NULL", (STATE_KEY,)
    ).fetchall()
    for service, arm, stored in rows:
        place = state_place(service, STATE_KEY, arm)
        text = vault.open_blob(bytes(stored), place)
        try:
            made = without(text, key)
        except UNREADABLE:
            unreadable += 1
            continue
        if made != text:
            made = vault.seal_blob(made, place) if vault.key_id else made
            connection.execute(
                "UPDATE arms SET state = ? WHERE service = ? AND route = ? AND arm = ?", (made, service, STATE_KEY, arm)
            )
    return unreadable


def _raw_before(connection: sqlite3.Connection, at: str) -> list[Key]:
    """The raw rows of one step that are older than that."""
    return [(key,) for key, written in connection.execute(_OLDEST_RAW, (STEP_ROWS,)) if written < at]


def _oldest(connection: sqlite3.Connection) -> tuple[list[Key], list[Key]]:
    """Ids of the STEP_ROWS oldest of raw rows and events together, apart."""
    raw = [(at, True, key) for key, at in connection.execute(_OLDEST_RAW, (STEP_ROWS,))]
    events = [(at, False, key) for key, at in connection.execute(_OLDEST_EVENTS, (STEP_ROWS,))]
    found = list(islice(merge(raw, events, key=itemgetter(0)), STEP_ROWS))
    return [(key,) for _, is_raw, key in found if is_raw], [(key,) for _, is_raw, key in found if not is_raw]


def _delete_step(connection: sqlite3.Connection, raw: list[Key], events: list[Key]) -> None:
    if raw or events:
        with transaction(connection):
            _delete(connection, raw)
            connection.executemany("DELETE FROM events WHERE id = ?", events)


def _delete(connection: sqlite3.Connection, ids: list[Key]) -> None:
    for table, key in (("decisions", "id"), ("outcomes", "id"), ("feedback", "decision_id")):
        connection.executemany(f"DELETE FROM {table} WHERE {key} = ?", ids)  # noqa: S608 (names of ours)


def _give_back(connection: sqlite3.Connection, limits: Limits) -> None:
    """Return free pages to the file system: a few, when a fifth of the limit lies free (else they are used again)."""
    _, free = size_bytes(connection)
    if free * 5 > limits.max_bytes:
        vacuum(connection)
