"""Rows that somebody puts beyond the end of the audit's chain: found, told, and no reason to write nothing any more."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.clock import wall
from sidecar.store import queries
from sidecar.store.audit import LAST, STRAY, Audit, Chain, Head, anchor_file, read_anchor
from sidecar.store.audit_check import Verdict
from sidecar.store.database import open_writer, transaction
from sidecar.store.keys import StoreKeys
from sidecar.store.writer import Writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three links by a process that has ended."""
    file = tmp_path / "s.db"
    writer = Writer(file, service="bot", keys=StoreKeys())
    writer.put_audit([line(action) for action in ("one", "two", "three")])
    writer.start()
    assert writer.close(10)
    return file


@pytest.fixture
def running(path: Path) -> Iterator[tuple[sqlite3.Connection, Chain]]:
    """The file as a process that goes on has it."""
    with closing(open_writer(path)) as connection:
        chain = Chain(path)
        chain.begin(connection, "bot")
        yield connection, chain


def line(action: str) -> Audit:
    return Audit(wall(), "alice", action)


def write(running: tuple[sqlite3.Connection, Chain], *actions: str) -> Head:
    connection, chain = running
    with transaction(connection):
        chain.append(connection, "bot", [line(action) for action in actions])
    chain.seal(connection)
    assert chain.head is not None
    return chain.head


def forge(path: Path, seq: int, made_hash: str = "'" + "f" * 64 + "'") -> None:
    """A row of another hand, with any content."""
    with closing(sqlite3.connect(path)) as connection, connection:
        text = "INSERT INTO audit (seq, at, service, actor, action, target, why, detail, prev, key, hash) "
        connection.execute(f"{text} VALUES ({seq}, '', '', 'eve', 'forged', '', '', '{{}}', '', '', {made_hash})")


def check(path: Path) -> Verdict:
    beside = read_anchor(path)
    assert beside is not None
    return queries.verify_audit(path, None, [beside], ())


def numbers(path: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT action, seq FROM audit ORDER BY id").fetchall()


@pytest.mark.parametrize("made", ["'no hash'", "x'ff'", "NULL"])
def test_a_stray_that_is_no_link_is_not_kept_as_the_head(path: Path, made: str) -> None:
    """It has the next number, and lies there when a process begins: the file beside names the last link that is one, or a
    cut that follows would have nothing to show it."""
    before = read_anchor(path)
    forge(path, 4, made)
    with closing(open_writer(path)) as connection:
        Chain(path).begin(connection, "bot")
    assert before is not None
    assert read_anchor(path) == before
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM audit WHERE seq > 1")
    assert [one.kind for one in check(path).problems] == ["cut"]


@pytest.mark.parametrize("seq", [2**63 - 1, LAST + 1, LAST, 5_000])
def test_a_stray_does_not_lead_the_chain(path: Path, running: tuple[sqlite3.Connection, Chain], seq: int) -> None:
    """The next lines follow the head that the process holds; what lies beyond is told once, and verify finds it."""
    forge(path, seq)
    assert write(running, "four").seq == 5
    assert write(running, "five").seq == 6
    found = numbers(path)
    assert found == [
        *(("one", 1), ("two", 2), ("three", 3), ("forged", seq)),
        *((STRAY, 4), ("four", 5), ("five", 6)),
    ]
    problems = check(path).problems
    assert any(problem.kind == "break" and problem.seq == 4 for problem in problems)
    assert any(problem.id == 4 and problem.kind in ("edited", "deleted") for problem in problems)


def test_a_start_goes_on_behind_the_anchor(path: Path) -> None:
    """Also a process that was not there when the row came; and none tells of it again."""
    forge(path, 2**63 - 1)
    for expected in (5, 6):
        with closing(open_writer(path)) as connection:
            chain = Chain(path)
            chain.begin(connection, "bot")
            assert write((connection, chain), "more").seq == expected
    assert [action for action, _ in numbers(path)].count(STRAY) == 1


def test_without_an_anchor_a_stray_ends_nothing(path: Path) -> None:
    """A number that no link can have is none; the greatest one that a link can have leads, and leaves room."""
    anchor_file(path).unlink()
    forge(path, 2**63 - 1)
    with closing(open_writer(path)) as connection:
        assert write((connection, Chain(path)), "four").seq == 5
    anchor_file(path).unlink()
    forge(path, LAST)
    with closing(open_writer(path)) as connection:
        assert write((connection, Chain(path)), "five").seq == LAST + 1


@pytest.mark.parametrize("made_hash", ["NULL", "x'ff'", "CAST(x'ff' AS TEXT)", "7", "'abc'"])
def test_a_number_that_is_taken_is_passed(
    path: Path, running: tuple[sqlite3.Connection, Chain], made_hash: str
) -> None:
    """The next number, and one between two lines of one commit; whatever stands in its place."""
    forge(path, 4, made_hash)
    forge(path, 7, made_hash)
    assert write(running, "five", "six", "seven", "eight").seq == 10
    honest = [seq for action, seq in numbers(path) if action != "forged"]
    assert honest == [1, 2, 3, 5, 6, 8, 9, 10]
    assert {4, 7} <= {seq for problem in check(path).problems for seq in (problem.seq, problem.seq - 1)}


def test_a_head_of_an_unknown_number_leads_nowhere(path: Path) -> None:
    """It names no row to go on behind."""
    with closing(open_writer(path)) as connection:
        chain = Chain(path)
        chain.head = Head(0, "0" * 64)
        chain.seal(connection)
        assert chain.head.seq == 3
