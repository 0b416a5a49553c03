"""The audit table as a chain: each row carries the hash of the row before, so that a change to any of them shows.

Theory. A link is a row with `seq` (1, 2, 3 ...), `prev` (the hash of link seq - 1; 64 zeros for the first), `key` (the id
of the key, "" without) and `hash`. The hash is SHA-256, or HMAC-SHA-256 when there is a key, over the canonical form: the
JSON text of RFC 8785 (members sorted, no blanks, UTF-8) of an object that has `v` = 1 and every column of the row but `id`
and `hash`. It holds only strings, whole numbers and null, for which orjson's sorted output is that form. `detail` stands
in it as the text that is stored.

A chain alone shows edits, deletions and other orders inside of it. A cut at its end shows only beside an anchor: the
head (`SEQ:HASH`) kept elsewhere. After each commit the head is written to the file `<database>.audit-head`; the process
also tells it in its log, its status and a metric. Without a key, who can write the file can compute a whole new chain:
then only an anchor that was out of reach tells. With a key, so must have been the key.

Markers are links that the sidecar writes about the chain itself, before whatever comes next: `chain.adopted` (rows without
a chain, from an older version or another hand, with their number and sum), `chain.key` (another key from here on),
`chain.broken` (the head that was known is not in the file: it was cut, restored or made anew), and `chain.stray` (a row of
another hand whose number lies beyond the next one). The chain goes on behind the head that the process knows, else the
anchor, and no row that somebody put beyond it can lead it elsewhere or end it.

All here runs inside the transaction of the caller, under the file's write lock, so links of two processes cannot fork;
a unique index on `seq` holds that too. What is committed is a whole link or none.
"""

import contextlib
import hashlib
import hmac
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from sidecar.clock import wall
from sidecar.core.record import at_text
from sidecar.store.database import companion, transaction
from sidecar.store.keys import Keys, KeySet, no_keys

GENESIS: Final = "0" * 64
ADOPTED: Final = "chain.adopted"
BROKEN: Final = "chain.broken"
STRAY: Final = "chain.stray"
KEY_CHANGED: Final = "chain.key"
ITSELF: Final = "sidecar"  # the actor of markers
LAST: Final = 10**18 - 1  # the greatest number of a link: heads have room for so many digits
_PURPOSE: Final = b"llm-sidecar audit chain 1"
_FIELDS: Final = ("seq", "at", "service", "actor", "action", "target", "why", "detail", "prev", "key")
_INSERT: Final = f"INSERT INTO audit ({', '.join(_FIELDS)}, hash) VALUES ({', '.join('?' * (len(_FIELDS) + 1))})"  # noqa: S608 (names of ours)
_SELECT: Final = f"SELECT id, {', '.join(_FIELDS)}, hash FROM audit"  # noqa: S608 (as above)
_HEAD: Final = re.compile(r"(?:([1-9][0-9]{0,17}):)?([0-9a-f]{64})")
_SUFFIX: Final = ".audit-head"
_MOST: Final = 2**63 - 1  # of SQLite

Stored: TypeAlias = str | int | float | bytes | None


@dataclass(frozen=True, slots=True)
class Audit:
    """Who changed what, and why: one line of the audit table."""

    at: float  # wall clock, seconds since the epoch
    actor: str
    action: str
    target: str = ""
    detail: str = "{}"  # JSON
    why: str = ""


class Head(NamedTuple):
    """The newest link, or one that was the newest. `seq` 0: the number is not known."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}" if self.seq else self.hash


@dataclass(frozen=True, slots=True)
class Line:
    """One row as it lies in the file; a forger may have put any type anywhere."""

    id: int
    fields: tuple[Stored, ...]  # in the order of _FIELDS
    hash: Stored

    def __getitem__(self, name: str) -> Stored:
        return self.fields[_FIELDS.index(name)]


def parse_head(text: str) -> Head | None:
    """`SEQ:HASH` or `HASH`; None when it is neither."""
    found = _HEAD.fullmatch(text.strip())
    return None if found is None else Head(int(found[1] or 0), found[2])


def anchor_file(database: Path) -> Path:
    """Where the head of this database is kept beside it, through links."""
    return companion(database, _SUFFIX)


def read_anchor(database: Path) -> Head | None:
    """The head that was kept beside the database, if there is one that can be read."""
    try:
        found = parse_head(anchor_file(database).read_text("ascii"))
    except (OSError, UnicodeDecodeError):
        return None
    return found if found is not None and found.seq else None


def canonical(fields: Sequence[Stored]) -> bytes:
    """The text that is hashed. Values that no link of ours has (bytes, broken text, fractions) get a form of their own,
    which no honest value has."""
    return orjson.dumps(
        {"v": 1} | {name: _plain(value) for name, value in zip(_FIELDS, fields, strict=True)},
        option=orjson.OPT_SORT_KEYS,
    )


def _plain(value: Stored) -> object:
    match value:
        case bytes():
            return {"blob": value.hex()}
        case float():
            return {"real": repr(value)}
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                return {"bytes": value.encode("utf-8", "surrogateescape").hex()}
    return value


def link_hash(fields: Sequence[Stored], keys: KeySet | None) -> str | None:
    """The hash of a link with these fields; None when its key is not among `keys`."""
    key_id = fields[-1]
    if not key_id:
        return hashlib.sha256(canonical(fields)).hexdigest()
    key = None if keys is None else keys.derived(str(key_id), _PURPOSE)
    return None if key is None else hmac.digest(key, canonical(fields), hashlib.sha256).hex()


def lines(connection: sqlite3.Connection, where: str = "", values: Sequence[int] = ()) -> Iterator[Line]:
    """Rows of the audit in the order of their ids."""
    for row in _read(connection, f"{_SELECT} {where} ORDER BY id", values):
        yield Line(row[0], tuple(row[1:-1]), row[-1])


def hashes(connection: sqlite3.Connection) -> dict[int, Stored]:
    """The hash of each number that a link may have."""
    text = "SELECT seq, hash FROM audit WHERE typeof(seq) = 'integer' AND seq BETWEEN 1 AND ?"
    return dict(_read(connection, text, (LAST,)))


def _read(connection: sqlite3.Connection, text: str, values: Sequence[int] = ()) -> Iterator[Any]:
    """Rows as tuples, read so that no content can make the reading fail."""
    cursor = connection.cursor()
    cursor.row_factory = None
    before, connection.text_factory = connection.text_factory, _text
    try:
        yield from cursor.execute(text, values)
    finally:
        connection.text_factory = before


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def sum_of(rows: Iterable[Line]) -> tuple[int, str]:
    """Number and SHA-256 of rows without a chain: their canonical forms, each with a line end."""
    number, digest = 0, hashlib.sha256()
    for row in rows:
        number += 1
        digest.update(canonical(row.fields) + b"\n")
    return number, digest.hexdigest()


def head_of(connection: sqlite3.Connection, known: Head | None = None) -> Head | None:
    """The newest link of the file: from `known` on, where that is in it, as far as each number is there; rows whose number
    is none do not end the chain. Raises sqlite3.Error."""
    seq = known.seq if known is not None and _holds(connection, known) else _greatest(connection)
    while seq and _at(connection, "hash", seq + 1) is not None:
        seq += 1
    return Head(seq, _at(connection, "hash", seq) or "") if seq else None


def _greatest(connection: sqlite3.Connection, until: int = LAST) -> int:
    """The greatest number of a row, 0 without one."""
    text = "SELECT max(seq) FROM audit WHERE typeof(seq) = 'integer' AND seq BETWEEN 1 AND ?"
    return int(connection.execute(text, (until,)).fetchone()[0] or 0)


def _at(connection: sqlite3.Connection, column: str, seq: int) -> str | None:
    """A text of the row with this number, whatever lies there; None without such a row."""
    row = connection.execute(f"SELECT CAST({column} AS BLOB) FROM audit WHERE seq = ?", (seq,)).fetchone()  # noqa: S608 (a name of ours)
    return None if row is None else bytes(row[0] or b"").decode("utf-8", "replace")


@contextlib.contextmanager
def lasting(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that is on the disk when it is committed, before its head is told: no power cut may look like a
    forgery. Raises sqlite3.Error."""
    connection.execute("PRAGMA synchronous=FULL")
    try:
        with transaction(connection):
            yield
    finally:
        connection.execute("PRAGMA synchronous=NORMAL")


class Chain:
    """Writes links into one database. `head` is the newest that is known to be committed."""

    def __init__(self, database: Path, keys: Keys = no_keys) -> None:
        self.head: Head | None = None
        self._database = database
        self._keys = keys

    def begin(self, connection: sqlite3.Connection, service: str) -> None:
        """Looks at a file that was opened just now, and writes the markers that are due. Raises sqlite3.Error."""
        if self._markers(connection):
            with lasting(connection):
                self.append(connection, service, ())
        self.seal(connection)

    def append(self, connection: sqlite3.Connection, service: str, news: Sequence[Audit]) -> None:
        """Links the lines to the chain, behind the markers that are due, in the caller's transaction.

        Call `seal` once that is committed. Raises sqlite3.Error.
        """
        keys = self._keys()
        seq, before = head_of(connection, self._known) or (0, GENESIS)
        for line in (*self._markers(connection), *news):
            seq += 1
            while (taken := _at(connection, "hash", seq)) is not None:  # by another hand
                seq, before = seq + 1, taken
            fields: tuple[Stored, ...] = (
                seq, at_text(line.at), service, line.actor, line.action, line.target, line.why, line.detail, before,
                keys.first if keys is not None else "",
            )  # fmt: skip
            made = link_hash(fields, keys)
            assert made is not None, "the key to write with is always there"
            connection.execute(_INSERT, (*fields, made))
            before = made

    def seal(self, connection: sqlite3.Connection) -> None:
        """Keeps the head of what is committed: here, and in the file beside the database. Raises sqlite3.Error."""
        head = head_of(connection, self._known)
        if head is not None and head != self.head:
            self.head = head
            if parse_head(str(head)) is None:
                return  # a row of another hand, with the next number: as an anchor nobody could read it
            with contextlib.suppress(OSError):  # the head is told elsewhere too, and measuring must go on
                _keep(anchor_file(self._database), head, self._database)

    @property
    def _known(self) -> Head | None:
        """The head that this process wrote or saw last, else the one that lies beside the file."""
        return self.head or read_anchor(self._database)

    def _markers(self, connection: sqlite3.Connection) -> list[Audit]:
        """What must be said about the chain before its next link."""
        known = self._known
        newest = head_of(connection, known)
        made: list[Audit] = []
        if known is not None and not _holds(connection, known):
            why = "the head that was known is not in the file: it was cut, restored from a copy, or made anew"
            made.append(_marker(BROKEN, why, {"known": str(known), "found": None if newest is None else str(newest)}))
        made += _strays(connection, newest)
        after = "WHERE seq IS NULL AND id > coalesce((SELECT id FROM audit WHERE seq = ?), -9223372036854775808)"
        rows, digest = sum_of(lines(connection, after, (0 if newest is None else newest.seq,)))
        if rows:
            why = "rows without a chain, of an older version or of another hand"
            made.append(_marker(ADOPTED, why, {"rows": rows, "sum": digest}))
        keys = self._keys()
        present = "" if keys is None else keys.first
        if newest is not None:
            used = _at(connection, "key", newest.seq)
            if used != present:
                made.append(_marker(KEY_CHANGED, "another key from here on", {"from": used, "to": present}))
        return made


def _marker(action: str, why: str, detail: dict[str, object]) -> Audit:
    return Audit(wall(), ITSELF, action, "audit", orjson.dumps(detail).decode(), why)


def _strays(connection: sqlite3.Connection, newest: Head | None) -> list[Audit]:
    """A marker for the row with the greatest number beyond the newest link, if there is one that was not told of yet."""
    found, end = _greatest(connection, _MOST), 0 if newest is None else newest.seq
    if found <= end:
        return []
    why = "a row of another hand has a number that lies beyond the chain"
    made = _marker(STRAY, why, {"number": str(found)})
    told = "SELECT 1 FROM audit WHERE actor = ? AND action = ? AND detail = ?"
    return [] if connection.execute(told, (made.actor, made.action, made.detail)).fetchone() else [made]


def _holds(connection: sqlite3.Connection, head: Head) -> bool:
    return bool(head.seq) and _at(connection, "hash", head.seq) == head.hash


def _keep(file: Path, head: Head, database: Path) -> None:
    """Replaces the file in one step, private to whom the database belongs: root's verbs must not lock others out."""
    new = file.with_name(f"{file.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as target:
        if os.geteuid() == 0:
            found = database.stat()
            os.fchown(descriptor, found.st_uid, found.st_gid)
        target.write(f"{head}\n")
    new.replace(file)
