"""A real process is killed, and its store taken away, under steady load: nothing is lost but what the design allows."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidecar.clock import monotonic
from tests.e2e.process import Provider, Sidecar, serving
from tests.e2e.rounds import LOSABLE_S, kill_round, step, write_policy
from tests.e2e.traffic import Load
from tests.fixtures.waiting import wait_for

RECOVERY_S = 5.0  # rows are written again within 5 s of the store's return
STALL_S = 0.25  # what one wait for a lock costs the writer's thread: a request that shared it would take longer
QUICK = ("default:ttft=0.005", "default:output_tokens=8")


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, timeout=10, check=False)


def _may_mount() -> bool:
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        mounted = _mount(Path(folder), "size=64k")
        if mounted:
            _unmount(Path(folder))
    return mounted


needs_mount = pytest.mark.skipif(not _may_mount(), reason="a file system of its own needs root and CAP_SYS_ADMIN")


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB that belongs to the test."""
    folder = tmp_path / "volume"
    folder.mkdir()
    assert _mount(folder, "size=8m")
    yield folder
    _unmount(folder)
    _unmount(folder)  # a second one may lie on the first


# ---- kill -9


async def test_kills_under_load(tmp_path: Path) -> None:
    """INC-34: after SIGKILL the file is sound, every decision answered 250 ms before is in it, learning and rollout
    are those of the last snapshot at least, and a step that was told 250 ms before has not gone back. Rows:
    flush 100 ms + commit 100 ms; the
    rest of the 250 ms is for a busy machine. Learning: a snapshot every 200 ms + commit 100 ms + the same rest."""
    with Provider(tmp_path, *QUICK) as provider:
        policies = write_policy(tmp_path, provider)
        with Sidecar(tmp_path, provider.url, policies=policies) as sidecar:
            rounds = [await kill_round(sidecar, number, 1.3 + 0.43 * number) for number in range(3)]
            assert sidecar.stop() == 0
    print("rounds", rounds)
    assert [one.integrity for one in rounds] == ["ok"] * 3
    assert min(one.answered for one in rounds) > 100
    assert max(one.oldest_lost_s or 0.0 for one in rounds) <= LOSABLE_S, rounds
    assert all(one.step_after >= one.step_promised for one in rounds), rounds
    assert max(one.learning_lost_s or 0.0 for one in rounds) <= 2 * LOSABLE_S, rounds


async def test_a_step_by_hand_survives_a_kill(tmp_path: Path) -> None:
    """What the API has answered to be stored stays promoted when the process dies right behind its answer."""
    with Provider(tmp_path, *QUICK) as provider:
        policies = write_policy(tmp_path, provider)
        with Sidecar(tmp_path, provider.url, policies=policies) as sidecar:
            assert step(sidecar.admin("GET", "/api/v1/status")) == 5
            for seen in (25, 50):
                answer = sidecar.admin("POST", "/api/v1/routes/support/rollout", {"action": "promote"})
                sidecar.kill()
                assert answer["stored"] is True
                sidecar.start_again()
                assert step(sidecar.admin("GET", "/api/v1/status")) == seen


# ---- outages of the store


@dataclass(frozen=True, slots=True)
class Outage:
    """What the load saw of an outage. Latencies are 99th percentiles."""

    before_p99_s: float
    during_p99_s: float
    recovery_s: float
    calls: int


def _ids(db: Path) -> set[str]:
    """The decisions of the file that lies at the path now; none while it cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as connection:
            return {row[0] for row in connection.execute("SELECT id FROM outcomes")}
    except sqlite3.Error:
        return set()


@contextlib.asynccontextmanager
async def _loaded(sidecar: Sidecar) -> AsyncIterator[Load]:
    """Load that has run for a second, its rows arriving."""
    load = Load(sidecar.port, connections=4)
    async with load.running():
        await asyncio.sleep(1.0)
        assert _ids(sidecar.db)
        yield load


async def _ride_out(
    sidecar: Sidecar, seconds: float, take: Callable[[], object], give_back: Callable[[], object]
) -> Outage:
    """Takes the store away under load for `seconds` and gives it back. Asserts that no call noticed, that rows come
    again in time, and that every call since the outage began gets its row."""
    async with _loaded(sidecar) as load:
        taken = monotonic()
        take()
        await asyncio.sleep(seconds)
        give_back()
        back = monotonic()
        while not any(one.begun > back and one.decision in _ids(sidecar.db) for one in load.replies[-40:]):
            assert monotonic() - back < RECOVERY_S, sidecar.ready()[1]
            await asyncio.sleep(0.05)
        recovery_s = monotonic() - back
    assert (load.failed, load.broken) == ([], {})
    since = {one.decision for one in load.replies if one.begun > taken}
    while since - _ids(sidecar.db):
        assert monotonic() - back < RECOVERY_S + 5.0, f"{len(since - _ids(sidecar.db))} of {len(since)} rows lost"
        await asyncio.sleep(0.1)
    outage = Outage(load.p99_s(until=taken), load.p99_s(taken), recovery_s, load.sent)
    assert outage.during_p99_s < max(STALL_S, 2 * outage.before_p99_s), outage
    return outage


async def test_locked_for_ten_seconds(tmp_path: Path) -> None:
    """INC-29, GW-39: another process holds the file EXCLUSIVE; /ready says so and stays 200; then every row is there."""
    with serving(tmp_path, *QUICK) as (sidecar, _):
        notes: list[tuple[int, dict[str, Any]]] = []
        with contextlib.closing(sqlite3.connect(sidecar.db, isolation_level=None, timeout=5)) as other:

            def release() -> None:
                notes.append(sidecar.ready())
                other.execute("ROLLBACK")

            outage = await _ride_out(sidecar, 10.0, lambda: other.execute("BEGIN EXCLUSIVE"), release)
        print("locked", outage)
        ((status, told),) = notes
        assert status == 200
        assert any("locked" in note for note in told["notes"])
        assert sidecar.ready()[1]["notes"] == []


@needs_mount
async def test_a_full_disk(tmp_path: Path, volume: Path) -> None:
    """INC-29: not a byte is left on the file system."""
    filler = volume / "filler"

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as target:
            while True:
                target.write(bytes(4096))

    with serving(tmp_path, *QUICK, db=volume / "sidecar.db") as (sidecar, _):
        outage = await _ride_out(sidecar, 3.0, fill, filler.unlink)
        print("full", outage)
        assert "llm_sidecar_store_errors_total 0.0" not in sidecar.metrics()


@needs_mount
async def test_a_read_only_directory(tmp_path: Path, volume: Path) -> None:
    """INC-29: an empty read-only file system lies over the directory for a while."""
    with serving(tmp_path, *QUICK, db=volume / "sidecar.db") as (sidecar, _):
        outage = await _ride_out(sidecar, 3.0, lambda: _mount(volume, "ro,size=64k"), lambda: _unmount(volume))
        print("read-only", outage)
        assert "llm_sidecar_store_errors_total 0.0" not in sidecar.metrics()


async def test_a_deleted_file(tmp_path: Path) -> None:
    """INC-29: a new file is made at the same path, and what was learnt is in it again."""

    def delete() -> None:
        for file in [*sidecar.db.parent.glob("sidecar.db-*[wh]*"), sidecar.db]:
            file.unlink(missing_ok=True)

    with Provider(tmp_path, *QUICK) as provider:
        policies = write_policy(tmp_path, provider)
        with Sidecar(tmp_path, provider.url, policies=policies) as sidecar:
            outage = await _ride_out(sidecar, 0.0, delete, lambda: None)
            print("deleted", outage)
            assert sidecar.stop() == 0
            with contextlib.closing(sqlite3.connect(sidecar.db)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
                assert connection.execute("SELECT count(*) FROM arms").fetchone()[0] == 1


async def test_a_corrupt_file_at_start(tmp_path: Path) -> None:
    """INC-30: a file of garbage is moved aside; the process is ready as quickly and rows come within 5 s."""
    db = tmp_path / "store" / "sidecar.db"
    db.parent.mkdir()
    db.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 64)
    with serving(tmp_path, *QUICK) as (sidecar, _):
        ready = monotonic()
        load = Load(sidecar.port, connections=2)
        async with load.running():
            while not any(one.decision in _ids(db) for one in load.replies):
                assert monotonic() - ready < RECOVERY_S, sidecar.ready()[1]
                await asyncio.sleep(0.05)
        print("corrupt", monotonic() - ready)
        assert (load.failed, load.broken) == ([], {})
        assert len(list(db.parent.glob("sidecar.db.corrupt-*"))) == 1
        assert wait_for(lambda: '"event":"store.moved_aside"' in sidecar.output())
