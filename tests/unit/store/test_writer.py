"""The writer: rows arrive, once, in groups; nothing that is put can block or raise."""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from sidecar.clock import monotonic, wall
from sidecar.core.record import COLUMNS, row
from sidecar.core.types import Clocks, Event, Feedback, Outcome
from sidecar.errors import StoreError
from sidecar.store import queries
from sidecar.store.audit import Audit
from sidecar.store.batch import Batch
from sidecar.store.lock import Held, is_held
from sidecar.store.retention import Limits
from sidecar.store.writer import Writer
from tests.fixtures.settled import START, as_rows, settled, spent
from tests.fixtures.standing import standing
from tests.fixtures.waiting import wait_for


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "sidecar.db"


@pytest.fixture
def writer(path: Path) -> Iterator[Writer]:
    writer = Writer(path, service="bot", commit_s=0.02)
    writer.start()
    yield writer
    writer.close(2.0)


def test_rows_come_back_with_every_column_in_order(writer: Writer, path: Path) -> None:
    """What is put is read back as `decisions --json` shows it."""
    writer.put(as_rows([settled(1), settled(2)]))
    writer.put(as_rows([]))
    assert wait_for(lambda: writer.rows_written == 2)
    newest, oldest = queries.decisions(path)
    assert tuple(newest) == COLUMNS
    assert newest["id"] > oldest["id"]
    assert (newest["service"], newest["arm"], newest["eligible"]) == ("bot", "mini", ["gpt-4o", "mini"])
    assert (newest["stream"], newest["cost_nusd"], newest["ttft_s"]) == (True, 12_345, 0.21)
    assert (writer.errors, writer.writable, writer.lag_s) == (0, True, 0.0)


def test_the_file_is_private_and_shrinkable(writer: Writer, path: Path) -> None:
    """0600 in 0700, WAL, incremental auto_vacuum, our migrations table."""
    assert wait_for(lambda: writer.writable is True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("SELECT name FROM schema_migrations").fetchall() == [
            ("0001_first",),
            ("0002_audit_chain",),
        ]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    wanted = "decisions outcomes arms rollouts experiments feedback windows events audit schema_migrations"
    assert tables == set(wanted.split())


def test_everything_else_is_kept_too(writer: Writer, path: Path) -> None:
    """Events, rollouts, feedback (last write per source wins), audit lines and snapshots with the last row's id."""
    row = settled(1)
    writer.put(as_rows([row]))
    writer.put_state(b"old")
    writer.put_state(b"new")
    score = Feedback(decision_id=row.id, route="support", arm="mini", score=0.1)
    writer.put_feedback([(row.at, score), (row.at + 1, replace(score, score=0.9, label="good"))])
    begun = Event(kind="rollout.started", route="support", arm="mini", detail={"rollout_id": "r1", "step": 5})
    moved = replace(begun, kind="rollout.promoted", detail={"rollout_id": "r1", "step": 25, "phase": "canary"})
    writer.put_events([(row.at, begun), (row.at + 9, moved), (row.at, Event(kind="policy.applied"))])
    writer.put_audit([Audit(row.at, "admin", "rollout.promote", "support/mini")])
    assert writer.close(2.0)
    assert queries.load_state(path, "bot") == b"new"
    assert [one["score"] for one in queries.feedback_of(path, row.id)] == [0.9]
    assert {event["kind"] for event in queries.events(path, kind="rollout.")} == {"rollout.started", "rollout.promoted"}
    assert len(queries.events(path)) == 3
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT phase, step FROM rollouts").fetchall() == [("canary", 25)]
        assert connection.execute("SELECT last_id FROM arms").fetchall() == [(row.id,)]
        assert connection.execute("SELECT actor, action FROM audit").fetchall() == [("admin", "rollout.promote")]
    connection.close()


def test_a_score_is_kept_where_its_decision_is(writer: Writer, path: Path) -> None:
    """In the group of its row too, whichever was put first; of one that is gone, as a forgotten person's, nothing stays."""
    row, gone = settled(1), settled(2)
    score = Feedback(decision_id=row.id, route="support", arm="mini", score=0.1)
    writer.put_feedback([(row.at, score), (row.at, replace(score, decision_id=gone.id, label="angry"))])
    writer.put(as_rows([row]))
    assert writer.close(2.0)
    assert [one["score"] for one in queries.feedback_of(path, row.id)] == [0.1]
    assert queries.feedback_of(path, gone.id) == []


def test_experiments_are_kept(writer: Writer, path: Path) -> None:
    """One row each: begun, then with its verdict; an event of another kind changes none."""
    begun = Event(kind="experiment.started", route="chat", detail={"experiment_id": "e1", "names": ["a", "b"]})
    over = replace(begun, kind="experiment.decided", detail={**begun.detail, "verdict": "winner", "winner": "b"})
    writer.put_events([(100.0, begun), (200.0, over), (300.0, Event(kind="experiment.odd"))])
    assert writer.close(2.0)
    with sqlite3.connect(path) as connection:
        (row,) = connection.execute("SELECT id, route, arms, started_at, ended_at, verdict FROM experiments").fetchall()
    connection.close()
    assert row[:3] == ("e1", "chat", '["a","b"]')
    assert (row[3][14:19], row[4][14:19], row[5]) == ("01:40", "03:20", "winner")


def test_hourly_windows_are_the_sums_of_the_rows(writer: Writer, path: Path) -> None:
    """Windows count unknown costs apart and add up over commits."""
    failed = replace(settled(3), outcome=Outcome(kind="failed", clocks=Clocks()), reward=None, quality=None)
    for one in (settled(1), settled(2), failed):
        before = writer.commits
        writer.put(as_rows([one]))
        assert wait_for(lambda seen=before: writer.commits > seen)
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        (row,) = map(dict, connection.execute("SELECT * FROM windows"))
    connection.close()
    assert (row["requests"], row["completed"], row["failed"], row["aborted"]) == (3, 2, 1, 0)
    assert (row["cost_nusd"], row["unpriced"], row["input_tokens"]) == (24_690, 1, 200)
    assert (row["ttft_n"], row["quality_n"], row["reward_n"]) == (2, 2, 2)
    assert row["duration_s"] == pytest.approx(3.0)
    assert spent(path) == {"support": 24_690}


def test_the_queue_is_bounded_and_says_what_it_dropped(path: Path) -> None:
    """Oldest rows go first; a gap event names how many and which."""
    writer = Writer(path, queue_rows=10, commit_s=0.02)
    rows = [settled(number) for number in range(25)]
    writer.put(as_rows(rows[:20]))
    writer.put(as_rows(rows[20:]))
    assert (writer.queued, writer.rows_dropped) == (10, 15)
    assert writer.lag_s >= 0.0
    writer.start()
    assert wait_for(lambda: writer.rows_written == 10)
    assert writer.close(2.0)
    assert [row["id"] for row in queries.decisions(path)] == [row.id for row in reversed(rows[15:])]
    (gap,) = queries.events(path, kind="gap")
    assert gap["detail"] == {"rows": 15, "first_id": rows[0].id, "last_id": rows[14].id}


def test_scores_and_events_that_find_no_room_are_counted(path: Path) -> None:
    """The oldest are dropped, as rows are; so is an event that no file could store."""
    writer = Writer(path, service="bot", commit_s=0.02)
    rows = [settled(number) for number in range(1003)]
    writer.put(as_rows(rows))
    scores = [Feedback(decision_id=row.id, route="support", arm="mini", score=1.0) for row in rows]
    writer.put_feedback([(1.0, score) for score in scores])
    writer.put_events([(1.0, Event(kind="x"))] * 1002)
    writer.start()
    assert writer.flush(5.0)
    writer.put_events([(1.0, Event(kind="\ud800"))])
    assert writer.flush(5.0)
    writer.put_events([(1.0, Event(kind="x"))])
    assert writer.close(2.0)
    later, gap = queries.events(path, kind="gap")
    assert gap["detail"] == {"rows": 0, "first_id": None, "last_id": None, "scores": 3, "events": 2}
    assert gap["message"] == "0 rows, 3 scores, 2 events were dropped because the database could not be written"
    assert (later["detail"]["events"], "scores" in later["detail"]) == (1, False)
    assert [score["decision_id"] for score in queries.scores(path)] == [row.id for row in rows[3:]]


def test_a_row_that_cannot_be_stored_does_not_take_others_with_it(writer: Writer, path: Path) -> None:
    """A lone surrogate or a number beyond 64 bits costs that row only."""
    strange = replace(settled(2), sent_model="\ud800")
    huge = replace(settled(3), outcome=replace(settled(3).outcome, cost_nusd=2**70))
    writer.put(as_rows([settled(1), strange, huge, settled(5)]))
    writer.put_events([(1.0, Event(kind="x"))])
    writer.put_state(b"s")
    assert wait_for(lambda: writer.rows_written == 2)
    writer.put(as_rows([settled(6)]))
    assert writer.close(2.0)
    assert [row["id"] for row in queries.decisions(path)] == [settled(n).id for n in (6, 5, 1)]
    assert writer.rows_dropped == 2
    assert queries.load_state(path, "bot") == b"s"
    assert sum(event["detail"]["rows"] for event in queries.events(path, kind="gap")) == 2


@pytest.mark.parametrize("asked", ["x TEXT NOT NULL", "x TEXT CHECK (x IS NOT NULL)"])
def test_rows_wait_while_the_schema_asks_for_more(writer: Writer, path: Path, asked: str) -> None:
    """A column that we do not write and that may not be empty: no row counts as written, and none is lost."""
    assert wait_for(lambda: writer.writable is True)
    with closing(sqlite3.connect(path)) as connection, connection:
        (made,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'outcomes'").fetchone()
        connection.execute("DROP TABLE outcomes")
        connection.execute(made.replace(") WITHOUT", f", {asked}) WITHOUT"))
    writer.put(as_rows([settled(1), settled(2)]))
    assert wait_for(lambda: writer.writable is False and writer.queued == 2)
    assert (writer.rows_written, writer.rows_dropped) == (0, 0)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE outcomes")
        connection.execute(made)
    assert wait_for(lambda: writer.rows_written == 2)
    assert writer.close(2.0)
    assert spent(path) == {"support": 2 * 12_345}


def test_a_state_beside_a_bad_row_stays_the_newest(path: Path) -> None:
    """Opening the file again writes no older one over it."""
    writer = Writer(path, service="bot", commit_s=60.0)
    writer.start()
    writer.put_state(b"older")
    assert writer.flush(5.0)
    writer.put(as_rows([replace(settled(1), sent_model="\ud800")]))
    writer.put_state(b"newer")
    assert writer.flush(5.0)
    assert writer.rows_dropped == 1
    path.with_name("sidecar.db-wal").unlink()  # the writer opens the file again
    writer.put(as_rows([settled(2)]))
    assert writer.flush(5.0)
    assert queries.load_state(path, "bot") == b"newer"
    assert writer.close(2.0)


def test_a_lock_while_a_bad_row_is_singled_out_loses_no_good_row(writer: Writer, path: Path) -> None:
    """GW-39: good rows of a batch with a bad one wait for the file like any others."""
    assert wait_for(lambda: writer.writable is True)
    assert writer.close(2.0)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    bad = replace(settled(2), sent_model="\ud800")
    batch = Batch(rows=[row(one, "bot") for one in (settled(1), bad, settled(3))], events=[(1.0, Event(kind="x"))])
    idle = Writer(path)
    assert idle._isolate(batch) is False
    assert len(batch.rows) == 3
    other.execute("ROLLBACK")
    other.close()
    assert idle._isolate(batch) is True
    assert (idle.rows_written, idle.rows_dropped) == (2, 1)
    idle._file.drop()
    assert len(queries.decisions(path)) == 2


def test_an_error_of_our_own_does_not_end_the_thread(path: Path) -> None:
    """Whatever goes wrong is counted, and the next rows are written."""
    writer = Writer(path, commit_s=0.01)
    writer.start()
    writer.put_events([(1.0, None)])  # type: ignore[list-item] # what no caller may put
    assert wait_for(lambda: writer.errors > 0)
    writer.put(as_rows([settled(1)]))
    assert wait_for(lambda: writer.rows_written == 1)
    assert writer.close(2.0)


def test_rows_wait_while_there_is_no_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that SQLite has no memory for are written once it has; until then nobody is told that they are."""
    writer = Writer(path, commit_s=0.01)
    with monkeypatch.context() as patch:
        patch.setattr("sidecar.store.writer.write", _without_memory)
        writer.start()
        writer.put(as_rows([settled(1)]))
        assert wait_for(lambda: writer.errors > 1)
        assert (writer.queued, writer.last_error, writer.flush(0.0)) == (1, "MemoryError", False)
    assert wait_for(lambda: writer.rows_written == 1)
    assert writer.close(2.0)


def _without_memory(*_: object) -> None:
    raise MemoryError  # as sqlite3 does


def test_rows_are_not_counted_twice_when_a_chore_fails(path: Path) -> None:
    """Retention that fails after a commit does not write the committed batch again."""
    writer = Writer(path, limits=Limits(raw_s=float("nan")), commit_s=0.01)
    writer.put(as_rows([settled(1)]))
    writer.start()
    assert wait_for(lambda: writer.errors > 0)
    assert writer.close(2.0)
    assert spent(path) == {"support": 12_345}
    assert writer.rows_written == 1


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), MemoryError()])
def test_what_is_committed_is_not_written_again_when_its_head_cannot_be_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Rows, their sums, events and lines of the audit stand there once, and the head is told with the next opening."""
    writer = Writer(path, commit_s=0.01)
    writer.start()
    assert writer.flush(5.0)
    errors, seal = [error], writer.chain.seal

    def failing(connection: sqlite3.Connection) -> None:
        if errors:
            raise errors.pop()
        seal(connection)

    monkeypatch.setattr(writer.chain, "seal", failing)
    writer.put_events([(START, Event(kind="policy.applied"))])
    writer.put_audit([Audit(START, "alice", "prune")])
    writer.put(as_rows([settled(1)]))
    assert writer.flush(5.0)
    assert wait_for(lambda: writer.chain.head is not None)
    assert (writer.errors, writer.rows_written) == (1, 1)
    assert writer.close(2.0)
    assert spent(path)["support"] == 12_345
    assert (len(queries.events(path)), len(queries.audit(path))) == (1, 1)


def test_a_thread_that_meets_the_impossible_goes_on(path: Path) -> None:
    """The last line of defence: an error that nobody foresaw is counted and the next attempt follows."""
    writer = Writer(path, commit_s=0.01)
    writer._failed = object()  # type: ignore[assignment] # what cannot be
    writer.start()
    assert wait_for(lambda: writer.errors > 1)
    writer._failed = None
    writer.put(as_rows([settled(1)]))
    assert wait_for(lambda: writer.rows_written == 1)
    assert writer.close(2.0)


def test_a_writer_that_never_ran_closes_at_once(path: Path) -> None:
    """close() before start() has nothing to wait for."""
    assert Writer(path).close(1.0)


def test_restart_keeps_what_is_there(path: Path) -> None:
    """A second process run appends to the same file, without migrating again."""
    for number in (1, 2):
        writer = Writer(path)
        writer.start()
        writer.put(as_rows([settled(number)]))
        assert writer.close(3.0)
    assert len(queries.decisions(path)) == 2


def test_old_rows_go_in_steps(path: Path) -> None:
    """GW-41: raw rows past their age are deleted by the writer itself; windows and audit stay."""
    writer = Writer(path, limits=Limits(raw_s=3600.0), commit_s=0.01)
    now = wall()
    writer.put(as_rows([settled(n, at=now - 7200 + n * 0.001) for n in range(2500)]))
    writer.put(as_rows([settled(9999, at=now)]))
    writer.put_audit([Audit(now - 10**8, "a", "b")])
    writer.start()
    assert wait_for(lambda: writer.rows_pruned == 2500)
    assert writer.close(2.0)
    status = queries.status(path)
    assert (status["decisions"], status["windows"] > 0, status["audit"]) == (1, True, 1)


def test_flush_answers_when_all_is_committed(path: Path) -> None:
    """What was put before `flush` is in the file when it answers True, long before the group would have been written."""
    writer = Writer(path, service="bot", commit_s=30.0)
    writer.start()
    try:
        writer.put(as_rows([settled(1)]))
        writer.put_state(b"learnt")
        assert writer.flush(5.0) is True
        assert queries.load_state(path, "bot") == b"learnt"
        assert len(queries.decisions(path)) == 1
        assert writer.flush(5.0) is True  # nothing waits: answered as well
    finally:
        writer.close(2.0)


def test_flush_gives_up_while_the_file_is_locked(writer: Writer, path: Path) -> None:
    """A lock of somebody else: False in time, and True once it is gone."""
    assert wait_for(lambda: writer.writable is True)
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        writer.put(as_rows([settled(1)]))
        began = monotonic()
        assert writer.flush(0.2) is False
        assert monotonic() - began < 2.0
        other.execute("ROLLBACK")
    finally:
        other.close()
    assert writer.flush(5.0) is True
    assert writer.rows_written == 1


def test_a_second_writer_waits_until_the_first_ends(writer: Writer, path: Path) -> None:
    """INC-31: two writers on one file: the second stores nothing, says whose it is, and takes over with what it kept."""
    assert wait_for(lambda: writer.writable is True)
    second = Writer(path, service="bot", commit_s=0.01)
    told = second.claim()
    assert told is not None
    assert "writes" in told
    assert second.writable is False
    second.start()
    second.put(as_rows([settled(1)]))
    assert wait_for(lambda: second.errors > 2)
    assert (second.rows_written, second.last_error) == (0, told)
    assert writer.close(2.0)
    assert wait_for(lambda: second.rows_written == 1 and second.writable is True)
    assert second.close(2.0)


def test_a_writer_whose_lock_was_lost_stops(writer: Writer, path: Path) -> None:
    """`rm db*` and a second process that was faster: the first lets go of the file and waits."""
    assert wait_for(lambda: writer.writable is True)
    second = Writer(path, commit_s=0.01)
    with standing(writer):
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        assert second.claim() is None
    writer.put(as_rows([settled(1)]))
    assert wait_for(lambda: writer.writable is False)
    assert writer.rows_written == 0
    assert second.close(1.0)
    second.start()
    second.close(1.0)
    assert wait_for(lambda: writer.rows_written == 1)
    assert len(queries.decisions(path)) == 1


def test_deletion_of_file_and_lock_goes_on_with_new_ones(writer: Writer, path: Path) -> None:
    """Both are made again, and others are kept out of the new ones too."""
    assert wait_for(lambda: writer.writable is True)
    with standing(writer):
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
    writer.put(as_rows([settled(1)]))
    assert wait_for(lambda: writer.rows_written == 1)
    assert is_held(path)
    with pytest.raises(Held):
        queries.prune(path, Limits())


def test_a_claim_that_fails_otherwise_is_the_threads_business(tmp_path: Path) -> None:
    """A directory that cannot be made is no other process."""
    (tmp_path / "file").write_text("")
    assert Writer(tmp_path / "file" / "s.db").claim() is None


def test_what_is_asked_is_done_behind_what_was_put(writer: Writer, path: Path) -> None:
    """On the one connection, in its thread, after the rows; an error goes to who asked and the thread goes on."""

    def count(connection: sqlite3.Connection) -> int:
        found: int = connection.execute("SELECT count(*) FROM decisions").fetchone()[0]
        return found

    writer.put(as_rows([settled(n) for n in range(50)]))
    assert writer.ask(count).result(5.0) == 50
    assert writer.lag_s == 0.0
    with pytest.raises(StoreError, match="no such table"):
        writer.ask(lambda connection: connection.execute("SELECT * FROM absent")).result(5.0)
    with pytest.raises(ZeroDivisionError):
        writer.ask(lambda _: 1 / 0).result(5.0)
    assert writer.ask(count).result(5.0) == 50
    assert writer.close(2.0)
    with pytest.raises(StoreError, match="closed"):
        writer.ask(count).result(5.0)


def test_what_is_asked_of_a_file_that_refuses_fails_soon(writer: Writer, path: Path) -> None:
    """Nobody waits for a lock of minutes; a question that was given up is not done."""
    assert wait_for(lambda: writer.writable is True)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    writer.put(as_rows([settled(1)]))
    with pytest.raises(StoreError, match="locked"):
        writer.ask(lambda _: None).result(5.0)
    given_up = writer.ask(lambda _: None)
    given_up.cancel()
    other.execute("ROLLBACK")
    other.close()
    assert wait_for(lambda: writer.rows_written == 1)
    assert writer.ask(lambda _: 7).result(5.0) == 7
