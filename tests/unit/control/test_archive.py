"""The store as the process uses it: learning comes back, old decisions are found, and no database means no fault."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from sidecar.clock import steady, wall
from sidecar.config.settings import Settings
from sidecar.control.archive import Archive
from sidecar.core.engine import Engine
from sidecar.core.policy import NO_POLICY
from sidecar.core.types import Event, Feedback
from sidecar.errors import StoreError
from sidecar.store import queries
from sidecar.store.audit import Audit
from sidecar.store.vault import Vault
from tests.fixtures.settled import as_rows, settled
from tests.fixtures.standing import standing
from tests.fixtures.waiting import wait_for


def settings(*values: str) -> Settings:
    return Settings.load({}, None, ["service=bot", *values])


def engine() -> Engine:
    return Engine(NO_POLICY, np.random.default_rng(1), steady())


async def test_no_database() -> None:
    """Everything can be put and nothing happens; look-ups find nothing."""
    archive = Archive(settings())
    assert await archive.open(engine()) == []
    archive.put(as_rows([settled(1)]))
    archive.events([Event(kind="one")])
    archive.feedback(Feedback(decision_id="a", route="r", arm="m", score=1.0), wall())
    archive.audit(Audit(wall(), "admin", "rollout.pause"))
    archive.state(b"{}")
    assert archive.notes() == []
    assert await archive.look_up("a") == []
    archive.close(1)


async def test_learning_comes_back(tmp_path: Path) -> None:
    """What one process put, the next restores, and says so."""
    db = tmp_path / "sidecar.db"
    first = Archive(settings(f"db={db}"))
    assert await first.open(engine()) == []
    state = engine().snapshot()
    first.state(state)
    first.state(state)  # unchanged: not written again
    first.put(as_rows([settled(1)], "bot"))
    first.events([])
    first.events([Event(kind="one")])
    first.feedback(Feedback(decision_id=settled(1).id, route="support", arm="mini", score=1.0), wall())
    first.audit(Audit(wall(), "admin", "rollout.pause"))
    first.close(5)
    assert queries.load_state(db, "bot") == state
    assert [event["kind"] for event in queries.events(db)] == ["one"]
    second = Archive(settings(f"db={db}"))
    assert [event.kind for event in await second.open(engine())] == ["state.restored"]
    second.close(5)


async def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    """Once: all that people look for in the database is in another file by now."""
    db = tmp_path / "sidecar.db"
    db.write_bytes(b"no database" * 1000)
    archive = Archive(settings(f"db={db}"))
    await archive.open(engine())
    assert await archive.stored(5)
    (told,) = archive.poll()
    assert (told.kind, told.severity) == ("store.moved_aside", "high")
    assert (tmp_path / str(told.detail["file"])).read_bytes().startswith(b"no database")
    assert not archive.poll()
    archive.close(5)


async def test_priors(tmp_path: Path) -> None:
    """They are read when nothing is stored; a missing file is an event, and learning starts from nothing."""
    priors = tmp_path / "priors.json"
    missing = await Archive(settings(f"priors={priors}")).open(engine())
    assert [event.kind for event in missing] == ["state.no_priors"]
    priors.write_bytes(engine().snapshot())
    assert [event.kind for event in await Archive(settings(f"priors={priors}")).open(engine())] == ["state.restored"]
    priors.write_bytes(b"{")
    kinds = [event.kind for event in await Archive(settings(f"priors={priors}")).open(engine())]
    assert kinds
    assert "state.restored" not in kinds


async def test_old_decisions(tmp_path: Path) -> None:
    """By id one, by completion id all that have it; what memory would have known is the same."""
    archive = Archive(settings(f"db={tmp_path / 'sidecar.db'}"))
    await archive.open(engine())
    archive.put(as_rows([settled(1, key=255), settled(2, key=0, completion_id="chatcmpl-1")], "bot"))
    assert archive.writer is not None
    writer = archive.writer
    assert wait_for(lambda: writer.rows_written == 2)
    (found,) = await archive.look_up(settled(1).id)
    assert (found.id, found.kind.route, found.kind.arm) == (settled(1).id, "support", "mini")
    assert (found.key, found.kind.bound) == (255, False), "its unit was the request"
    assert abs(found.at - settled(1).at) < 1e-3
    assert found.given == ()
    archive.feedback(
        Feedback(decision_id=settled(1).id, route="support", arm="mini", score=0.25, source="stars"), wall()
    )
    archive.now()
    assert wait_for(lambda: len(queries.feedback_of(tmp_path / "sidecar.db", settled(1).id)) == 1)
    (found,) = await archive.look_up(settled(1).id)
    assert found.given == (("stars", 0.25),), "what it was taught before"
    assert len(await archive.look_up("chatcmpl-1")) == 2
    assert await archive.look_up("none") == []
    archive.close(5)


async def test_one_search_of_the_whole_table_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that scores calls which the database does not have gets no more than one thread; who names a decision does
    not wait for it."""
    archive, go, searching = Archive(settings(f"db={tmp_path / 's.db'}")), threading.Event(), list[str]()
    await archive.open(engine())
    archive.put(as_rows([settled(1)], "bot"))
    assert await archive.stored(20.0)
    found_by = queries.found_by

    def slow(path: Path, key: str, vault: Vault, tenant: str) -> list[queries.Record]:
        searching.append(key)
        assert key == settled(1).id or go.wait(20.0)
        return found_by(path, key, vault, tenant)

    monkeypatch.setattr(queries, "found_by", slow)
    async with asyncio.timeout(20.0):
        searches = [asyncio.ensure_future(archive.look_up(f"unknown-{n}")) for n in range(3)]
        while not searching:  # noqa: ASYNC110 - a thread of the thing under test ends it
            await asyncio.sleep(0.005)
        (found,) = await archive.look_up(settled(1).id)
        assert (found.id, searching[1:]) == (settled(1).id, [settled(1).id])
        go.set()
        assert await asyncio.gather(*searches) == [[], [], []]
    archive.close(5)


async def test_searches_that_nobody_can_wait_for_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come faster than they end, and would be there still when who asked has gone."""
    archive, go = Archive(settings(f"db={tmp_path / 's.db'}")), threading.Event()
    await archive.open(engine())
    assert await archive.stored(20.0)
    monkeypatch.setattr(queries, "found_by", lambda *_: [] if go.wait(20.0) else None)
    async with asyncio.timeout(20.0):
        searches = [asyncio.ensure_future(archive.look_up(f"unknown-{n}")) for n in range(100)]
        while sum(one.done() for one in searches) < 84:  # noqa: ASYNC110 - threads of the thing under test end it
            await asyncio.sleep(0.005)
        go.set()
        found = await asyncio.gather(*searches, return_exceptions=True)
        assert found.count([]) == 16
        assert sum(isinstance(one, StoreError) for one in found) == 84
        assert await archive.look_up("unknown") == []
    archive.close(5)


async def test_a_database_that_refuses(tmp_path: Path) -> None:
    """It is a note for /ready while it lasts; look-ups answer with nothing."""
    db = tmp_path / "sidecar.db"
    archive = Archive(settings(f"db={db}"))
    await archive.open(engine())
    assert archive.writer is not None
    writer = archive.writer
    assert wait_for(lambda: writer.writable is True)
    other = sqlite3.connect(db, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    archive.put(as_rows([settled(1)]))
    assert wait_for(lambda: writer.writable is False)
    (note,) = archive.notes()
    assert "rows are not being written" in note
    other.execute("ROLLBACK")
    other.close()
    assert wait_for(lambda: writer.rows_written == 1)
    assert archive.notes() == []
    archive.close(5)
    db.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        await archive.look_up("a")


async def test_a_database_that_another_process_writes(tmp_path: Path) -> None:
    """INC-31: an event and a note at once; rows wait, and are stored when the other has ended. Nothing else is different."""
    db = tmp_path / "sidecar.db"
    first, second = Archive(settings(f"db={db}")), Archive(settings(f"db={db}"))
    assert await first.open(engine()) == []
    (held,) = await second.open(engine())
    assert (held.kind, held.severity) == ("store.held", "high")
    assert "SIDECAR_DB" in held.message
    (note,) = second.notes()
    assert "writes" in note
    assert "traffic goes on" in note
    second.put(as_rows([settled(1)]))
    assert first.notes() == []
    first.close(5)
    assert wait_for(lambda: second.notes() == [])
    assert await second.stored(5) is True
    assert len(queries.decisions(db)) == 1
    second.close(5)


async def test_what_the_old_process_decided_last_is_taken_over(tmp_path: Path) -> None:
    """Two processes overlap in a restart: a step of the old one, made after the new one began, is neither overwritten
    nor forgotten."""
    db = tmp_path / "sidecar.db"
    old, new = Archive(settings(f"db={db}")), Archive(settings(f"db={db}"))
    await old.open(engine())
    held = await new.open(engine())
    assert [event.kind for event in held] == ["store.held"]
    spent = engine()
    spent.charge("-", 5, steady())
    stored = spent.snapshot()
    old.state(stored)
    new.state(engine().snapshot())  # of an engine that has not seen it: not put
    assert not new.may_take_over
    assert await new.take_over(engine()) == []
    old.close(5)
    assert wait_for(lambda: new.may_take_over)
    mine = engine()
    mine.charge("-", 2, steady())
    assert [event.kind for event in await new.take_over(mine)] == ["state.restored"]
    spent.charge("-", 2, steady())
    assert mine.snapshot() == spent.snapshot(), "what both spent"
    assert not new.may_take_over
    new.close(5)
    assert queries.load_state(db, "bot") == stored


async def left_behind(db: Path) -> Engine:
    """A process that ended has stored what it spent."""
    first = Archive(settings(f"db={db}"))
    await first.open(engine())
    spent = engine()
    spent.charge("-", 5, steady())
    first.state(spent.snapshot())
    first.close(5)
    return spent


@pytest.mark.parametrize("missing", ["file", "volume"])
async def test_what_cannot_be_read_at_the_start_is_read_later(tmp_path: Path, missing: str) -> None:
    """The database, or the volume that it is on, is not to be had: told once, and in /ready. Rows wait; no state is stored
    over the one that comes back, which is taken over."""
    volume, away = tmp_path / "volume", tmp_path / "away"
    db = volume / "sidecar.db"
    spent = await left_behind(db)
    place = db if missing == "file" else volume
    place.rename(away)
    place.symlink_to(tmp_path if missing == "file" else __file__)

    archive, mine = Archive(settings(f"db={db}")), engine()
    (unread,) = await archive.open(mine)
    assert (unread.kind, unread.severity) == ("state.unread", "high")
    archive.put(as_rows([settled(1)], "bot"))
    archive.state(mine.snapshot())
    assert await archive.take_over(mine) == []
    assert unread.message in archive.notes()[0]
    back = away
    if missing == "volume":
        back = tmp_path / "mounted"
        back.symlink_to(away)
    back.replace(place)  # in one step, as a database that is made in between is another case
    assert wait_for(lambda: archive.may_take_over)
    archive.state(mine.snapshot())
    assert [event.kind for event in await archive.take_over(mine)] == ["state.restored"]
    assert mine.snapshot() == spent.snapshot()
    assert not archive.may_take_over
    assert await archive.stored(5) is True
    assert archive.notes() == []
    mine.charge("-", 5, steady())
    archive.state(mine.snapshot())
    archive.close(5)
    assert len(queries.decisions(db)) == 1
    assert queries.load_state(db, "bot") == mine.snapshot()


async def test_a_volume_that_is_mounted_late_is_taken_over(tmp_path: Path) -> None:
    """The process has begun a database of its own by then: what is stored on the volume wins over what it learnt since, and
    what it spent since counts beside what was spent before (GW-19)."""
    volume, away = tmp_path / "volume", tmp_path / "away"
    db = volume / "sidecar.db"
    spent = await left_behind(db)
    volume.rename(away)

    archive, mine = Archive(settings(f"db={db}")), engine()
    assert await archive.open(mine) == []
    mine.charge("-", 1, steady())
    archive.state(mine.snapshot())
    assert await archive.stored(5) is True
    with standing(archive.writer):
        volume.rename(tmp_path / "hidden")
        away.rename(volume)
    mine.charge("-", 1, steady())
    archive.state(mine.snapshot())
    archive.put(as_rows([settled(1)], "bot"))
    assert await archive.stored(5) is True
    assert archive.may_take_over
    assert queries.load_state(db, "bot") == spent.snapshot()
    assert [event.kind for event in await archive.take_over(mine)] == ["state.restored"]
    spent.charge("-", 2, steady())
    assert mine.snapshot() == spent.snapshot()
    assert not archive.may_take_over
    mine.charge("-", 1, steady())
    archive.state(mine.snapshot())
    archive.close(5)
    assert queries.load_state(db, "bot") == mine.snapshot()
    assert len(queries.decisions(db)) == 1


async def test_a_late_volume_that_cannot_be_read_yet_keeps_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the writer opens the file meanwhile, what it had stored before does not come there."""
    volume, away, spent = tmp_path / "volume", tmp_path / "away", engine()
    db = volume / "sidecar.db"
    first = Archive(settings(f"db={db}"))
    await first.open(engine())
    spent.charge("-", 5, steady())
    first.state(spent.snapshot())
    first.close(5)
    volume.rename(away)

    archive, mine = Archive(settings(f"db={db}")), engine()
    await archive.open(mine)
    archive.state(mine.snapshot())
    assert await archive.stored(5) is True
    with standing(archive.writer):
        volume.rename(tmp_path / "hidden")
        away.rename(volume)
    archive.put(as_rows([settled(1)], "bot"))
    assert await archive.stored(5) is True
    with monkeypatch.context() as patch:
        patch.setattr(queries, "load_state", _unreadable)
        assert [event.kind for event in await archive.take_over(mine)] == ["state.unread"]
    db.with_name("sidecar.db-wal").unlink()  # the writer opens the file again
    archive.put(as_rows([settled(2)], "bot"))
    assert await archive.stored(5) is True
    assert queries.load_state(db, "bot") == spent.snapshot()
    assert [event.kind for event in await archive.take_over(mine)] == ["state.restored"]
    archive.close(5)


def _unreadable(*_: object, **__: object) -> bytes | None:
    raise StoreError("disk I/O error")


async def test_a_copy_of_its_own_is_not_taken_over(tmp_path: Path) -> None:
    """Moved over the file of the process that wrote it: what is learnt since stands, and is stored again."""
    db, copy = tmp_path / "sidecar.db", tmp_path / "copy.db"
    archive, mine = Archive(settings(f"db={db}")), engine()
    await archive.open(mine)
    for part in range(2):
        mine.charge("-", 1, steady())
        archive.state(mine.snapshot())
        assert await archive.stored(5) is True
        if not part:
            queries.backup(db, copy)
    copy.rename(db)
    archive.put(as_rows([settled(1)], "bot"))
    assert await archive.stored(5) is True
    assert not archive.may_take_over
    archive.close(5)
    assert queries.load_state(db, "bot") == mine.snapshot()


async def test_a_clock_that_is_set_back_makes_nothing_of_ours_an_older_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun here and stored by the earlier clock is not taken over when the file is opened again."""
    db = tmp_path / "sidecar.db"
    archive, mine = Archive(settings(f"db={db}")), engine()
    await archive.open(mine)
    monkeypatch.setattr("sidecar.store.writer.wall", lambda: wall() - 3600.0)
    mine.charge("-", 1, steady())
    archive.state(mine.snapshot())
    assert await archive.stored(5) is True
    db.with_name("sidecar.db-wal").unlink()  # the writer opens the file again
    archive.put(as_rows([settled(1)], "bot"))
    assert await archive.stored(5) is True
    assert not archive.may_take_over
    archive.close(5)


async def test_a_database_that_can_be_made_only_later_begins_empty(tmp_path: Path) -> None:
    """There is nothing to take over once there is a place for it: what is learnt is stored from then on."""
    volume = tmp_path / "volume"
    volume.touch()
    archive = Archive(settings(f"db={volume / 'sidecar.db'}"))
    assert [event.kind for event in await archive.open(engine())] == ["state.unread"]
    volume.unlink()
    assert wait_for(lambda: archive.may_take_over)
    assert await archive.take_over(engine()) == []
    assert not archive.may_take_over
    archive.state(engine().snapshot())
    archive.close(5)
    assert queries.load_state(volume / "sidecar.db", "bot") == engine().snapshot()


async def test_erasing_without_a_database() -> None:
    """An error that says what to set."""
    archive = Archive(settings())
    assert archive.mark is None
    with pytest.raises(StoreError, match="SIDECAR_DB"):
        await archive.prune()


async def test_the_state_of_a_newer_program_is_kept(tmp_path: Path) -> None:
    """An older program begins anew and says so; what the newer one had learnt can still be exported, whatever is stored
    after it, and a second start does not lose it either."""
    db = tmp_path / "sidecar.db"
    newer = b'{"version": 7, "ledger": {}}'
    first = Archive(settings(f"db={db}"))
    await first.open(engine())
    first.state(newer)
    first.close(5)
    for expected in (["state.set_aside", "state.ignored"], ["state.restored"]):
        older = Archive(settings(f"db={db}"))
        assert [event.kind for event in await older.open(engine())] == expected
        older.state(engine().snapshot())
        older.close(5)
        assert queries.load_state(db, "bot", 7) == newer
    assert queries.load_state(db, "bot") == engine().snapshot()
    queries.save_state(db, newer, "bot")
    again = Archive(settings(f"db={db}"))
    told = await again.open(engine())
    assert [event.kind for event in told] == ["state.set_aside", "state.ignored"]
    assert "state export FILE --version 7" in told[0].message
    again.close(5)
    assert queries.load_state(db, "bot", 6) is None


async def test_a_newer_state_that_cannot_be_kept_is_not_written_over(tmp_path: Path) -> None:
    """A store that takes no writes at the start may take them later; then the newer state still lies there."""
    db = tmp_path / "sidecar.db"
    newer = b'{"version": 7}'
    first = Archive(settings(f"db={db}"))
    await first.open(engine())
    first.state(newer)
    first.close(5)
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON arms BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    older = Archive(settings(f"db={db}"))
    events = await older.open(engine())
    assert [event.kind for event in events] == ["state.not_stored", "state.ignored"]
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("DROP TRIGGER full")
    older.state(engine().snapshot())
    older.close(5)
    assert queries.load_state(db, "bot") == newer
