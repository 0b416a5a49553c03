"""Reading verbs: right rows, right errors, and forgetting that leaves a trace but no person."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sidecar.clock import wall
from sidecar.core.types import Event, Feedback
from sidecar.errors import StoreError
from sidecar.store import queries
from sidecar.store.audit import Chain
from sidecar.store.database import move_aside, open_writer
from sidecar.store.lock import Held, WriteLock, is_held
from sidecar.store.retention import Forgetting, Limits, forget, prune
from sidecar.store.writer import Writer
from tests.fixtures.settled import START, as_rows, settled, spent

STATE = b'{"routes":{},"bindings":[]}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "s.db"
    writer = Writer(path, service="bot")
    writer.put(as_rows([settled(n, key=n % 3, completion_id="twice" if n in {4, 5} else None) for n in range(1, 31)]))
    writer.put_feedback([(START, Feedback(decision_id=settled(3).id, route="support", arm="mini", score=1.0))])
    writer.put_state(STATE)
    writer.put_events([(START, Event(kind="policy.applied", message="p1"))])
    writer.start()
    assert writer.close(5.0)
    return path


def test_the_newest_come_first_and_services_are_apart(path: Path) -> None:
    """`last` bounds, `service` selects."""
    assert [row["id"] for row in queries.decisions(path, last=2)] == [settled(30).id, settled(29).id]
    assert len(queries.decisions(path, service="bot")) == 20
    assert queries.decisions(path, service="other") == []


def test_find_by_either_id(path: Path) -> None:
    """A decision id, a completion id, an ambiguous one, an unknown one."""
    by_id = queries.find(path, settled(7).id)
    assert isinstance(by_id, dict)
    assert queries.find(path, "chatcmpl-7") == by_id
    several = queries.find(path, "twice")
    assert isinstance(several, list)
    assert len(several) == 2
    assert queries.find(path, "' OR 1=1 --") is None


def test_responses_of_the_newest_decisions(tmp_path: Path) -> None:
    """Oldest first, with whose they were; other calls, and other services', are none."""
    path, kinds, rows = tmp_path / "r.db", ("chat", "responses"), []
    for n in range(1, 11):
        one = settled(n, key=n)
        facts = replace(one.facts, endpoint=kinds[n % 2], tags={"tenant": "shop"} if n == 9 else {})
        rows += as_rows([replace(one, facts=facts)], "other" if n == 7 else "bot")
    writer = Writer(path, service="bot")
    writer.put(rows)
    writer.start()
    assert writer.close(5.0)
    assert queries.responses(path, "bot", 7) == [
        ("", "chatcmpl-3", "mini", 3),
        ("", "chatcmpl-5", "mini", 5),
        ("shop", "chatcmpl-9", "mini", 9),
    ]


def test_export_is_oldest_first_and_cut_by_time(path: Path) -> None:
    """Rows of a span, one at a time."""
    rows = list(queries.export(path))
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert len(rows) == 30
    assert [row["id"] for row in queries.export(path, "bot", since=rows[10]["at"], until=rows[12]["at"])] == [
        settled(11).id,
        settled(12).id,
    ]


def test_an_export_that_pauses_lets_the_log_be_cut(tmp_path: Path) -> None:
    """Between two rows nothing of the file is held; what comes are the rows of its beginning, each once, in order."""
    path = tmp_path / "s.db"
    writer = Writer(path, service="bot")
    writer.start()
    writer.put(as_rows([settled(n) for n in range(1200)]))
    assert writer.flush(5.0)
    slow = queries.export(path)
    rows = [next(slow)]
    writer.put(as_rows([settled(n) for n in range(2000, 2100)]))
    assert writer.flush(5.0)
    assert writer.ask(lambda db: tuple(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())).result(5.0) == (
        0,
        0,
        0,
    )
    rows += slow
    assert writer.close(5.0)
    assert rows == [row for row in reversed(queries.decisions(path, last=1300)) if row["id"] < settled(2000).id]
    assert len(rows) == 1200


def test_a_backup_is_a_database_and_never_overwrites(path: Path, tmp_path: Path) -> None:
    """The copy has the rows; an existing file is refused."""
    copy = tmp_path / "copy.db"
    queries.backup(path, copy)
    assert queries.decisions(copy) == queries.decisions(path)
    with pytest.raises(StoreError, match="exists already"):
        queries.backup(path, copy)


def test_forget_erases_a_person(path: Path) -> None:
    """Rows, outcomes and feedback of the key go; an audit row stays without the key; sums stay."""
    key = f"{1:016x}"
    assert queries.forget(path, key, queries.By("admin")) == 10
    assert all(row["sticky_key"] != key for row in queries.export(path))
    assert len(list(queries.export(path))) == 20
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM outcomes").fetchone() == (20,)
        audit = connection.execute("SELECT actor, action, target, detail FROM audit").fetchall()
    connection.close()
    assert audit == [("admin", "forget", "", '{"decisions":10}')]
    assert spent(path)["support"] == 30 * 12_345


def test_what_a_judge_was_asked_about_a_person_goes(path: Path) -> None:
    """Errands of their decisions; others' stay, and so does what is no errand, or no JSON."""
    with closing(open_writer(path)) as connection:
        detail = '{"decision":"%s"}'
        for kind, text in (
            ("errand.judge", detail % settled(1).id),
            ("errand.shadow", detail % settled(4).id),
            ("errand.judge", detail % settled(2).id),
            ("errand.judge", "{"),
        ):
            connection.execute("INSERT INTO events (at, kind, detail) VALUES ('2096', ?, ?)", (kind, text))
    queries.forget(path, f"{1:016x}")
    with closing(sqlite3.connect(path)) as connection:
        left = connection.execute("SELECT kind, detail FROM events ORDER BY id").fetchall()
    assert left == [("policy.applied", "{}"), ("errand.judge", detail % settled(2).id), ("errand.judge", "{")]


def test_forgetting_fails_while_a_reader_keeps_it_in_the_wal(path: Path) -> None:
    """The rows are gone for everybody else; done again without the reader, they are gone from the disk."""
    with sqlite3.connect(path) as reader:
        reader.execute("BEGIN")
        (one, *_) = [row[0] for row in reader.execute(f"SELECT id FROM decisions WHERE sticky_key = '{1:016x}'")]
        with pytest.raises(StoreError, match="db-wal"):
            queries.forget(path, f"{1:016x}")
    assert one.encode() in path.read_bytes()
    reader.close()
    assert queries.forget(path, f"{1:016x}") == 0
    assert one.encode() not in path.read_bytes()


def test_what_is_erased_is_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by an SQLite that leaves it where it lay, as most builds do; Debian's does not."""
    connect = sqlite3.connect

    def plain(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.execute("PRAGMA secure_delete=OFF").fetchall()
        return connection

    monkeypatch.setattr(sqlite3, "connect", plain)
    ids = [row["id"].encode() for row in queries.export(path) if row["sticky_key"] == f"{1:016x}"]
    assert queries.forget(path, f"{1:016x}") == len(ids)
    assert [one for one in ids if one in path.read_bytes()] == []


def test_prune_by_age_and_by_size(path: Path) -> None:
    """GW-41: everything old goes; a size limit takes the oldest first; small tables stay."""
    assert queries.prune(path, Limits(raw_s=1e9, aggregates_s=1e9)) == 0
    assert queries.prune(path, Limits(max_bytes=1)) == 30
    status = queries.status(path)
    assert (status["decisions"], status["feedback"], status["oldest"], status["newest"]) == (0, 0, None, None)
    assert queries.load_state(path, "bot") == STATE


def test_aggregates_have_their_own_age(path: Path) -> None:
    """Windows and events go after their year, not with the raw rows."""
    connection = open_writer(path)
    prune(connection, Limits(raw_s=0.0), START + 86_400)
    assert connection.execute("SELECT (SELECT count(*) FROM windows), (SELECT count(*) FROM events)").fetchone() == (
        1,
        1,
    )
    prune(connection, Limits(aggregates_s=0.0), START + 86_400)
    assert connection.execute("SELECT (SELECT count(*) FROM windows), (SELECT count(*) FROM events)").fetchone() == (
        0,
        0,
    )
    connection.close()


def test_freed_pages_go_back_in_small_steps(tmp_path: Path) -> None:
    """When a fifth of the limit lies free, the file shrinks, by at most a step each call."""
    path = tmp_path / "big.db"
    writer = Writer(path, limits=Limits(raw_s=1e9))
    writer.put(as_rows([settled(n) for n in range(6000)]))
    writer.start()
    assert writer.close(10.0)
    connection = open_writer(path)
    before = connection.execute("PRAGMA page_count").fetchone()[0]
    assert prune(connection, Limits(max_bytes=10_000), wall(), steps=8).rows == 6000
    after = connection.execute("PRAGMA page_count").fetchone()[0]
    assert 0 < before - after <= 256
    connection.close()


def test_a_failed_deletion_leaves_the_rows(path: Path) -> None:
    """Deletions are transactions: an error in the middle changes nothing."""
    connection = open_writer(path)
    connection.execute("DROP TABLE feedback")
    with pytest.raises(sqlite3.OperationalError):
        prune(connection, Limits(raw_s=0.0), START + 1e6)
    assert connection.execute("SELECT count(*) FROM decisions").fetchone() == (30,)
    assert not connection.in_transaction
    connection.close()


def test_errors_say_what_and_how(tmp_path: Path) -> None:
    """No file, no database, no directory: StoreError with the path and a fix."""
    missing = tmp_path / "none.db"
    for call in (
        lambda: queries.decisions(missing),
        lambda: queries.forget(missing, "k"),
        lambda: queries.prune(missing, Limits()),
    ):
        with pytest.raises(StoreError, match="SIDECAR_DB"):
            call()
    assert queries.load_state(missing) is None
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database, " * 512)
    with pytest.raises(StoreError, match="cannot be read"):
        queries.status(garbage)
    with pytest.raises(StoreError, match="cannot be written"):
        queries.forget(garbage, "k")
    assert queries.load_state(garbage) is None


def test_a_folder_that_cannot_be_written_is_said(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite wants to write beside a database that it reads, and calls it "readonly": a copy elsewhere can be read."""

    def refuse(_: Path) -> sqlite3.Connection:
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY_DIRECTORY
        raise error

    monkeypatch.setattr(queries, "open_reader", refuse)
    for call in (queries.status, queries.decisions, lambda path: queries.backup(path, tmp_path / "copy.db")):
        with pytest.raises(StoreError, match="a copy in a folder that you can write"):
            call(path)


@pytest.mark.parametrize("name", ["folder.db", "file/s.db", "n" * 300])
def test_a_state_that_cannot_be_read_is_not_one_that_is_missing(tmp_path: Path, name: str) -> None:
    """What is in the way is told by every verb; a database without tables has no state."""
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "file").touch()
    assert queries.load_state(tmp_path / "file") is None
    for call in (queries.load_state, queries.status, lambda path: queries.prune(path, Limits())):
        with pytest.raises(StoreError, match=name):
            call(tmp_path / name)


@pytest.mark.parametrize(("stored", "loaded"), [('{"version": 99}', b'{"version": 99}'), (None, None), (7, b"7")])
def test_a_state_of_another_type_keeps_no_process_from_starting(
    path: Path, stored: object, loaded: bytes | None
) -> None:
    """GW-37: text, nothing and a number lie where bytes should: what can be read is, also when it is set aside."""
    connection = open_writer(path)
    connection.execute("UPDATE arms SET state = ?", (stored,))
    assert queries.load_state(path, "bot") == loaded
    queries.set_aside(connection, "bot", 99)
    connection.close()
    assert queries.load_state(path, "bot", 99) == loaded


def test_load_state_of_another_service_is_none(path: Path) -> None:
    """Snapshots belong to one service."""
    assert queries.load_state(path, "bot") == STATE
    assert queries.load_state(path, "other") is None


def test_only_the_newest_damaged_files_are_kept(tmp_path: Path) -> None:
    """Moving aside again and again does not fill the disk."""
    path = tmp_path / "s.db"
    for second in range(6):
        path.write_bytes(b"x")
        path.with_name("s.db-wal").write_bytes(b"y")
        move_aside(path, START + second)
    kept = sorted(p.name for p in tmp_path.iterdir())
    assert len(kept) == 6
    assert all(name.startswith("s.db.corrupt-2096") for name in kept)


def test_before_the_first_row_there_are_no_decisions(tmp_path: Path) -> None:
    """The file is there and its tables are not: everything reads as empty, and a backup is as empty."""
    path = tmp_path / "s.db"
    path.touch()
    assert queries.decisions(path) == []
    assert queries.find(path, "x") is None
    assert list(queries.export(path)) == []
    assert queries.events(path) == []
    assert (queries.status(path)["decisions"], queries.status(path)["newest"]) == (0, None)
    queries.backup(path, tmp_path / "copy.db")
    open_writer(tmp_path / "copy.db").close()
    assert queries.decisions(tmp_path / "copy.db") == []


def test_before_the_file_is_there_its_writer_is(tmp_path: Path) -> None:
    """A process that holds the lock is about to make the file; without one there is no database."""
    path = tmp_path / "s.db"
    lock = WriteLock(path)
    lock.take()
    assert queries.decisions(path) == []
    lock.give()
    with pytest.raises(StoreError, match="no database here"):
        queries.decisions(path)


def test_another_programs_database_is_not_read_as_empty(tmp_path: Path) -> None:
    """It has tables, and not ours."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StoreError, match="no such table"):
        queries.decisions(path)


def test_writing_verbs_keep_off_a_file_that_has_a_writer(path: Path) -> None:
    """INC-31: prune, forget and import raise Held, with the mark of who is to be asked; afterwards they work."""
    lock = WriteLock(path)
    lock.take()
    for verb in (
        lambda: queries.prune(path, Limits(max_bytes=1)),
        lambda: queries.forget(path, f"{1:016x}"),
        lambda: queries.save_state(path, STATE, "bot"),
    ):
        with pytest.raises(Held) as caught:
            verb()
        assert caught.value.mark == lock.mark
    assert len(queries.decisions(path, last=100)) == 30
    lock.give()
    assert queries.forget(path, f"{1:016x}") == 10
    assert not is_held(path)


def test_forgetting_is_whole_or_not_at_all(path: Path) -> None:
    """An error in the middle of a step leaves its rows and no audit row."""
    connection = open_writer(path)
    connection.execute("DROP TABLE feedback")
    with pytest.raises(sqlite3.OperationalError):
        forget(connection, f"{1:016x}", Forgetting(START, "cli"), Chain(path))
    assert connection.execute("SELECT count(*) FROM decisions").fetchone() == (30,)
    assert connection.execute("SELECT count(*) FROM audit").fetchone() == (0,)
    assert not connection.in_transaction
    connection.close()


def test_knowledge_is_the_rollout_and_the_part_of_the_newest_snapshot(path: Path) -> None:
    """None where there is none, also when the snapshot is no snapshot."""
    one = queries.decisions(path, last=1)[0]
    assert queries.knowledge(path, one) | {"at": None} == {"rollout": None, "at": None, "route": None}
    queries.save_state(path, b'{"routes": {"support": {"beliefs": {}}}}', "bot")
    found = queries.knowledge(path, one)
    assert found["route"] == {"beliefs": {}}
    assert found["at"] is not None
    queries.save_state(path, b"[1]", "bot")
    assert queries.knowledge(path, one)["route"] is None
    with open_writer(path) as connection:
        connection.execute("INSERT INTO rollouts (id, phase, step) VALUES ('r1', 'running', 25)")
    for tag in ("r1", "r1.2"):  # the second is of its second attempt
        assert queries.knowledge(path, one | {"rollout_id": tag})["rollout"]["step"] == 25
    assert queries.knowledge(path, one | {"service": "other"})["at"] is None


def test_scores_come_in_the_order_of_time(path: Path) -> None:
    assert [score["decision_id"] for score in queries.scores(path)] == [settled(3).id]
