"""Encrypts anew what lies in the store: with the first key, what older keys sealed and what was never sealed.

Done in steps of one transaction each, so that rows are written between them. A value that cannot be opened, or is not what
lies there by right, is left as it is and counted. The connection is one of `open_writer`: what is replaced is overwritten,
so that no plain text of it stays in the file. Free space of before is the caller's to clean (VACUUM).
"""

import sqlite3
from dataclasses import dataclass
from typing import Any, Final

import orjson

from sidecar.errors import StoreError
from sidecar.store.database import transaction
from sidecar.store.vault import (
    PREFIX,
    Sealed,
    Spoilt,
    Vault,
    is_sealed,
    label_place,
    reopen_context,
    seal_context,
    state_place,
)

STEP_ROWS: Final = 500
_UNREADABLE: Final = (Sealed, Spoilt, ValueError, TypeError, AttributeError)  # the last three: it is no value of ours


@dataclass(slots=True)
class Progress:
    """How far it is. Hand the same one to each step."""

    decisions: str | None = ""  # the last id that was looked at; None: all were
    feedback: tuple[str, str] | None = ("", "")
    state: bool = True  # whether the learnt states are still to be done
    sealed: int = 0  # values
    unreadable: int = 0

    @property
    def over(self) -> bool:
        return self.decisions is None and self.feedback is None and not self.state


def require_key(key_id: str) -> None:
    """Raises StoreError when this is the id of no key."""
    if not key_id:
        raise StoreError("there is no key to encrypt with: set encryption_key_file")


def step(connection: sqlite3.Connection, vault: Vault, progress: Progress) -> Progress:
    """Does the next rows; the same progress. Raises sqlite3.Error, or StoreError when there is no key to seal with."""
    require_key(vault.key_id)
    with transaction(connection):
        if progress.decisions is not None:
            _decisions(connection, vault, progress)
        elif progress.feedback is not None:
            _feedback(connection, vault, progress)
        elif progress.state:
            _states(connection, vault, progress)
    return progress


def _decisions(connection: sqlite3.Connection, vault: Vault, progress: Progress) -> None:
    text = "SELECT id, CAST(context AS BLOB) FROM decisions WHERE id > ? ORDER BY id LIMIT ?"
    rows = connection.execute(text, (progress.decisions, STEP_ROWS)).fetchall()
    for key, context in rows:
        made = _context(vault, key, context, progress)
        if made is not None:
            connection.execute("UPDATE decisions SET context = ? WHERE id = ?", (made, key))
    progress.decisions = rows[-1][0] if len(rows) == STEP_ROWS else None


def _context(vault: Vault, key: str, text: bytes | None, progress: Progress) -> str | None:
    """The new text; None when it stays."""
    try:
        context: dict[str, Any] = orjson.loads(text or b"{}")
        opened = orjson.dumps(reopen_context(vault, context, key)).decode()
    except _UNREADABLE:
        progress.unreadable += 1
        return None
    if str(context.get("sealed", "")).startswith(f"{PREFIX}{vault.key_id}."):
        return None
    made = seal_context(vault, opened, key)
    if made == opened:
        return None
    progress.sealed += 1
    return made


def _feedback(connection: sqlite3.Connection, vault: Vault, progress: Progress) -> None:
    text = """SELECT decision_id, source, CAST(label AS BLOB) FROM feedback WHERE (decision_id, source) > (?, ?)
              ORDER BY decision_id, source LIMIT ?"""
    rows = connection.execute(text, (*(progress.feedback or ()), STEP_ROWS)).fetchall()
    for decision, source, label in rows:
        if label is None:
            continue
        place = label_place(decision, source)
        try:
            stored = label.decode()
            opened = vault.open_text(stored, place) if is_sealed(stored) else stored
            if opened != stored and stored.startswith(f"{PREFIX}{vault.key_id}."):
                continue
            made = vault.seal_text(opened, place)
        except _UNREADABLE:
            progress.unreadable += 1
            continue
        values = (made, decision, source)
        connection.execute("UPDATE feedback SET label = ? WHERE decision_id = ? AND source = ?", values)
        progress.sealed += 1
    progress.feedback = rows[-1][:2] if len(rows) == STEP_ROWS else None


def _states(connection: sqlite3.Connection, vault: Vault, progress: Progress) -> None:
    text = "SELECT service, route, arm, CAST(state AS BLOB) FROM arms WHERE state IS NOT NULL"
    for service, route, arm, state in connection.execute(text).fetchall():
        place = state_place(service, route, arm)
        try:
            opened = vault.open_blob(state, place)
            if state.startswith(f"{PREFIX}{vault.key_id}.".encode()):
                continue
            made = vault.seal_blob(opened, place)
        except _UNREADABLE:
            progress.unreadable += 1
            continue
        values = (made, service, route, arm)
        connection.execute("UPDATE arms SET state = ? WHERE service = ? AND route = ? AND arm = ?", values)
        progress.sealed += 1
    progress.state = False
