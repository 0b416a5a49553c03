"""Looks at the chain of the audit and says what does not fit: edited, deleted, reordered, inserted, cut rows.

What each finding rests on. **edited**: a row's hash is not that of its content, or the next link was made behind another
row than the one that lies there. **deleted**: a number is missing. **reordered**: a number comes behind a greater one.
**inserted**: a row without a chain between links, or a number that occurs twice. **cut**: an anchor that no row has.
**unproven**: a link whose key is not given, or links without a key where there should be one. **break**: a marker of the
sidecar says that rows came from elsewhere, or that the head it knew was gone; or the first link with a key, where keys are
given, has something before it that needed none to be written. Whoever has looked into one may accept it by
its number and hash. The hash vouches for every link before, so that what is accepted is this history and no other.

What it cannot see: a chain that was computed anew, whole, by someone who had the key (or needed none) and could change
every anchor that it is compared with.
"""

import sqlite3
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import orjson

from sidecar.store.audit import (
    ADOPTED,
    BROKEN,
    GENESIS,
    ITSELF,
    LAST,
    STRAY,
    Head,
    Line,
    Stored,
    hashes,
    lines,
    link_hash,
    sum_of,
)
from sidecar.store.keys import KeySet

Kind = Literal["edited", "deleted", "reordered", "inserted", "cut", "unproven", "break"]
_MARKERS: Final = "chain."


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not fit. `seq` is the number of the link, `id` that of the row; 0 where there is none."""

    kind: Kind
    text: str
    seq: int = 0
    id: int = 0


@dataclass(slots=True)
class Verdict:
    """What was found. The chain holds when there are no problems."""

    links: int = 0
    older: int = 0  # rows of before the chain, under the sum of its first marker
    keyed: int = 0
    head: Head | None = None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(
    connection: sqlite3.Connection, keys: KeySet | None, anchors: Sequence[Head], accepted: Collection[Head]
) -> Verdict:
    """Reads the whole audit once. `accepted` are the links whose break is known. Raises sqlite3.Error."""
    connection.execute("BEGIN")  # one view of the file, which may grow meanwhile
    try:
        walk = _Walk(connection, keys, accepted)
        for line in lines(connection):
            walk.step(line)
    finally:
        connection.rollback()
    walk.end()
    for anchor in anchors:
        walk.compare(anchor)
    return walk.verdict


class _Walk:
    """One pass over the rows in the order of their ids."""

    def __init__(self, connection: sqlite3.Connection, keys: KeySet | None, accepted: Collection[Head]) -> None:
        self._hashes: dict[int, Stored] = hashes(connection)
        self._numbers = sorted(self._hashes)
        self._keys, self._accepted = keys, accepted
        self._seen: set[int] = set()
        self._last = 0  # the greatest number so far
        self._loose: list[Line] = []  # rows without a chain since the last link
        self._without_key = 0  # keyed links that cannot be checked
        self._true_links = 0  # links that are no markers
        self.verdict = Verdict()

    def step(self, line: Line) -> None:
        """The next row."""
        seq = line["seq"]
        if seq is None:
            self._loose.append(line)
            return
        if not isinstance(seq, int) or not 1 <= seq <= LAST:
            self._say("edited", f"row {line.id} has the number {seq!r}, which no link has", 0, line)
            return
        self._check_itself(line, seq)
        self._check_place(line, seq)
        self._check_marker(line, seq)
        self.verdict.links += 1
        self._true_links += not str(line["action"]).startswith(_MARKERS)

    def end(self) -> None:
        """No row is left."""
        verdict = self.verdict
        self._refuse_loose("behind the last link")
        if self._numbers:
            last = self._numbers[-1]
            verdict.head = Head(last, str(self._hashes[last]))
        if self._without_key:
            text = f"{self._without_key} links are made with a key that is not given: set audit_key_file to its file"
            verdict.problems.append(Problem("unproven", text))

    def compare(self, anchor: Head) -> None:
        """Whether a head that was kept elsewhere is that of some link."""
        if anchor.seq and self._hashes.get(anchor.seq) == anchor.hash:
            behind = self._numbers[-1] - anchor.seq
            self.verdict.notes.append(f"the head {_short(anchor)} is link {anchor.seq}; {behind} were added since")
        elif not anchor.seq and anchor.hash in self._hashes.values():
            self.verdict.notes.append(f"the head {_short(anchor)} is in the chain")
        elif anchor.seq > (self._numbers[-1] if self._numbers else 0):
            text = f"the chain ends at {self._last} but the head was {_short(anchor)}: its end was cut off"
            self.verdict.problems.append(Problem("cut", text, anchor.seq))
        else:
            text = f"no link is the head {_short(anchor)}: the chain was cut, or written anew"
            self.verdict.problems.append(Problem("cut", text, anchor.seq))

    def _check_itself(self, line: Line, seq: int) -> None:
        key_id, made = line["key"], link_hash(line.fields, self._keys)
        if made is None:
            if self._keys is None:
                self._without_key += 1
            else:
                self._say(
                    "unproven", f"link {seq} is made with key {key_id!r}, which the key file does not have", seq, line
                )
        elif made != line.hash:
            self._say("edited", f"link {seq} is not what was written: its content does not have its hash", seq, line)
        if key_id:
            if self._keys is not None and self.verdict.links and not self.verdict.keyed:
                self._break(line, seq, f"{self.verdict.links} links before it that anybody can make, without a key")
            self.verdict.keyed += 1
        elif self._keys is not None and (self.verdict.keyed or seq == self._numbers[-1]):
            self._say("unproven", f"link {seq} has no key, although one is in use", seq, line)

    def _check_place(self, line: Line, seq: int) -> None:
        if seq in self._seen:
            self._say("inserted", f"link {seq} is there twice", seq, line)
        elif seq < self._last:
            self._say("reordered", f"link {seq} lies behind link {self._last}", seq, line)
        else:
            self._say_missing(self._last + 1, seq, line)
        before = GENESIS if seq == 1 else self._hashes.get(seq - 1)
        if before is not None and line["prev"] != before:
            what = f"link {seq - 1} is not the row" if seq > 1 else "what lay before link 1 is not that"
            self._say("edited", f"{what} that link {seq} was made behind", seq - 1, line)
        self._seen.add(seq)
        self._last = max(self._last, seq)

    def _say_missing(self, first: int, until: int, line: Line) -> None:
        """Numbers from `first` to before `until` that no row has, at whatever place."""
        elsewhere = bisect_left(self._numbers, until) - bisect_left(self._numbers, first)
        missing = until - first - elsewhere
        if missing:
            where = f"link {first}" if until - first == 1 else f"{missing} of the links {first} to {until - 1}"
            self._say("deleted", f"{where} {'is' if missing == 1 else 'are'} missing", first, line)

    def _check_marker(self, line: Line, seq: int) -> None:
        action = line["action"] if line["actor"] == ITSELF else ""
        if action == ADOPTED:
            number, digest = sum_of(self._loose)
            if str(line["detail"]) != orjson.dumps({"rows": number, "sum": digest}).decode():
                self._say("edited", f"the rows without a chain are not those that link {seq} found", seq, line)
            self._loose = []
            if self._true_links == 0:
                self.verdict.older += number
            if self._true_links or (self._keys is not None and line["key"]):
                self._break(line, seq, f"{number} rows without a chain, of an older program or of another hand")
            return
        self._refuse_loose(f"before link {seq}")
        if action == BROKEN:
            self._break(line, seq, f"the head that was known was gone: {line['detail']!r}")
        elif action == STRAY:
            self._break(line, seq, f"a row of another hand beyond the chain: {line['detail']!r}")

    def _break(self, line: Line, seq: int, what: str) -> None:
        link = Head(seq, str(line.hash))
        if link in self._accepted:
            self.verdict.notes.append(f"link {seq} tells of a break that is accepted: {what}")
        else:
            told = f"link {seq} tells of {what} (at {line['at']!r}); when that is known, --accept {link}"
            self._say("break", told, seq, line)

    def _refuse_loose(self, where: str) -> None:
        if self._loose:
            rows = ", ".join(str(row.id) for row in self._loose[:5])
            text = (
                f"{len(self._loose)} rows without a chain {where} (row {rows}{' ...' if len(self._loose) > 5 else ''})"
            )
            self.verdict.problems.append(Problem("inserted", text, 0, self._loose[0].id))
            self._loose = []

    def _say(self, kind: Kind, text: str, seq: int, line: Line) -> None:
        self.verdict.problems.append(Problem(kind, text, seq, line.id))


def _short(head: Head) -> str:
    return f"{head.seq}:{head.hash[:12]}..." if head.seq else f"{head.hash[:12]}..."
