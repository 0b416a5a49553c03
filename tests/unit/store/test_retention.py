"""What goes when the file is too large: the oldest of raw rows and of events, whichever fills it, in bounded steps."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.core.record import at_text
from sidecar.core.types import Event
from sidecar.store import queries
from sidecar.store.audit import Audit
from sidecar.store.database import open_writer, size_bytes
from sidecar.store.retention import STEP_ROWS, Limits, prune
from sidecar.store.writer import Writer
from tests.fixtures.settled import START, as_rows, settled

HOUR = 3600.0
EVENTS = 5000
ROWS = 500
EVERLASTING = ("arms", "rollouts", "windows", "audit")
ADD = "INSERT INTO events (at, kind, detail) VALUES (?, 'errand.judge', ?)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A rollout, a snapshot, a line of the audit and 500 rows, all of one hour."""
    path = tmp_path / "s.db"
    writer = Writer(path, service="bot")
    writer.put(as_rows([settled(n, at=START + n * 0.001) for n in range(ROWS)]))
    writer.put_state(b"{}")
    writer.put_audit([Audit(START, "admin", "rollout.promote", "support/mini")])
    writer.put_events([(START, Event(kind="rollout.started", detail={"rollout_id": "r1", "step": 5}))])
    writer.start()
    assert writer.close(5.0)
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_writer(path)) as connection:
        yield connection


def errands(connection: sqlite3.Connection, since_s: float, number: int = EVENTS) -> None:
    """Events of judged calls, each about 300 bytes."""
    with connection:
        connection.executemany(ADD, [(at_text(since_s + n * 0.001), "x" * 250) for n in range(number)])


def count(connection: sqlite3.Connection, table: str) -> int:
    found: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return found


def test_events_that_fill_the_file_go_before_newer_rows(connection: sqlite3.Connection) -> None:
    """They alone exceed the ceiling: the oldest of them go, in steps, until the file fits; every row stays."""
    kept = {table: count(connection, table) for table in EVERLASTING}
    limit = size_bytes(connection)[0] + 2**18
    errands(connection, START - HOUR)
    assert size_bytes(connection)[0] > limit + 2**20
    first = prune(connection, Limits(max_bytes=limit, raw_s=1e9, aggregates_s=1e9), START, steps=1)
    assert (first.rows, first.more) == (0, True)
    assert count(connection, "events") == EVENTS + 1 - STEP_ROWS
    rest = prune(connection, Limits(max_bytes=limit, raw_s=1e9, aggregates_s=1e9), START)
    assert (rest.rows, rest.more) == (0, False)
    assert size_bytes(connection)[0] <= limit
    assert count(connection, "decisions") == ROWS
    assert 0 < count(connection, "events") < EVENTS - STEP_ROWS
    assert {table: count(connection, table) for table in EVERLASTING} == kept


def test_the_older_go_first_whichever_they_are(connection: sqlite3.Connection) -> None:
    """Rows before newer events, and both when both are the oldest: one step is one number of the two together."""
    errands(connection, START + HOUR)
    limits = Limits(max_bytes=1, raw_s=1e9, aggregates_s=1e9)
    assert prune(connection, limits, START, steps=1) == (ROWS, True)
    assert (count(connection, "decisions"), count(connection, "outcomes")) == (0, 0)
    assert count(connection, "events") == EVENTS + 1 - (STEP_ROWS - ROWS)


def test_scores_of_decisions_that_are_gone_go_first(connection: sqlite3.Connection) -> None:
    """Earlier versions stored them, and never deleted them: they fill the file, and not a fresh row goes for them."""
    limits = Limits(max_bytes=size_bytes(connection)[0] + 2**16, raw_s=1e9, aggregates_s=1e9)
    ids = [settled(number, at=START - HOUR).id for number in range(EVENTS)] + [settled(0, at=START).id]
    with connection:
        add = "INSERT INTO feedback (decision_id, source, at, score, label) VALUES (?, 'user', ?, 1.0, ?)"
        connection.executemany(add, [(one, at_text(START), "x" * 100) for one in ids])
    assert size_bytes(connection)[0] > limits.max_bytes
    assert prune(connection, limits, START, steps=1) == (0, True)
    assert count(connection, "feedback") == EVENTS + 1 - STEP_ROWS
    assert prune(connection, limits, START) == (0, False)
    assert (count(connection, "feedback"), count(connection, "decisions")) == (1, ROWS)
    assert prune(connection, Limits(raw_s=0.0), START + HOUR) == (ROWS, False)
    assert count(connection, "feedback") == 0


@pytest.mark.parametrize("at", [None, b"\xff"])
def test_a_row_without_a_time_is_older_than_all(connection: sqlite3.Connection, at: object) -> None:
    """Another hand wrote it: it stops neither what goes by age nor what goes by size."""
    with connection:
        connection.execute("UPDATE decisions SET at = ? WHERE id = ?", (at, settled(3, at=START + 0.003).id))
    assert prune(connection, Limits(raw_s=1e6), START) == (1, False)
    with connection:
        connection.execute("UPDATE decisions SET at = ?", (at,))
    assert prune(connection, Limits(max_bytes=1, raw_s=1e9, aggregates_s=1e9), START).rows == ROWS - 1


def test_the_last_scores_go_after_the_last_decision(connection: sqlite3.Connection) -> None:
    """Then all of them are of decisions that are gone."""
    with connection:
        connection.execute("DELETE FROM decisions")
        connection.execute("INSERT INTO feedback (decision_id, source) VALUES (?, 'user')", (settled(1).id,))
    prune(connection, Limits(), START)
    assert count(connection, "feedback") == 0


def test_the_verb_goes_on_while_only_events_are_left(path: Path, connection: sqlite3.Connection) -> None:
    """A step without a raw row is not the last one."""
    errands(connection, START - HOUR)
    assert queries.prune(path, Limits(max_bytes=1, raw_s=1e9, aggregates_s=1e9)) == ROWS
    assert (count(connection, "events"), count(connection, "rollouts")) == (0, 1)
    assert count(connection, "audit") == 3


def test_the_verb_deletes_every_event_that_is_too_old(path: Path, connection: sqlite3.Connection) -> None:
    """However many they are: nothing else would, where no sidecar runs."""
    errands(connection, 0.0)
    assert queries.prune(path, Limits(raw_s=1e10, aggregates_s=365 * 24 * HOUR)) == 0
    assert count(connection, "events") == 1
