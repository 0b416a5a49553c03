"""A real process under the limits of a real control group: half a core, 512 MiB, and a kernel that kills for memory."""

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.clock import monotonic
from tests.e2e.process import Provider, Sidecar
from tests.e2e.rounds import LOSABLE_S
from tests.e2e.traffic import Connection, Load, chat
from tests.fixtures import cgroups

MIB = 2**20
LIMIT_BYTES = 512 * MIB
CORES = 0.5
STREAMS = 200
LARGE = 24  # bodies of 4 MiB at once: as many bytes as all connections together may hold
BUSY_S = 3.0  # the kernel looks for memory to take back before it kills: a process stands still meanwhile
WHY_NOT = cgroups.why_not()
# Takes memory until the process whose number it is given is gone.
BALLOON = """
import os, sys, time
from pathlib import Path
for file in sys.argv[1].split(":"):
    Path(file).write_text(str(os.getpid()))
statm, held = Path(f"/proc/{sys.argv[2]}/statm"), []
try:
    while statm.read_text().split()[1] != "0":
        held.append(bytearray(b"x") * (2 * 2**20))
        time.sleep(0.002)
except (FileNotFoundError, ProcessLookupError):
    pass
"""

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there are groups")


@contextlib.contextmanager
def limited(folder: Path, *knobs: str) -> Iterator[tuple[Sidecar, cgroups.Group]]:
    """A sidecar in a group of its own, as its container would be. The provider is outside."""
    with Provider(folder, *knobs) as provider, cgroups.group() as group:
        group.limit_memory(LIMIT_BYTES)
        group.limit_cpu(CORES)
        limit = f"{LIMIT_BYTES // MIB}MiB"
        with Sidecar(folder, provider.url, program=group.program("sidecar"), memory_limit=limit) as sidecar:
            yield sidecar, group


async def one_stream(port: int) -> bool:
    connection = Connection(port)
    try:
        reply = await connection.call(chat("count", stream=True))
        return reply.status == 200 and reply.body.endswith(b"data: [DONE]\n\n")
    finally:
        await connection.close()


async def one_large(port: int, size: int) -> bool:
    connection = Connection(port)
    try:
        return (await connection.call(chat("x" * size))).status == 200
    finally:
        await connection.close()


def starve(sidecar: Sidecar, group: cgroups.Group) -> float:
    """Has the kernel kill the sidecar for want of memory; the monotonic time at which it was gone."""
    pid = sidecar.process.pid
    Path(f"/proc/{pid}/oom_score_adj").write_text("1000")  # this one first
    with subprocess.Popen([sys.executable, "-c", BALLOON, group.files, str(pid)]) as balloon:
        try:
            assert sidecar.process.wait(30) == -9
            killed = monotonic()
            assert balloon.wait(20) in (0, -9)  # killed too, when it took more before the first one's memory was free
        finally:
            balloon.kill()
    return killed


async def test_half_a_core_and_512_mib(tmp_path: Path) -> None:
    """INC-20, GW-40: 200 streams and 24 bodies of 4 MiB at once, beside ordinary calls: every one is answered whole,
    nothing is killed, and the group has never held its limit."""
    with limited(tmp_path, "default:ttft=0.01", "default:itl=0.05", "default:output_tokens=30") as (sidecar, group):
        load = Load(sidecar.port, connections=4)
        async with load.running():
            streams = [one_stream(sidecar.port) for _ in range(STREAMS)]
            ends = await asyncio.gather(*streams, *(one_large(sidecar.port, 4 * MIB) for _ in range(LARGE)))
        assert ends == [True] * (STREAMS + LARGE)
        assert (load.failed, load.broken) == ([], {})
        print("peak", group.peak_bytes() / MIB, "MiB; periods without processor", group.throttled())
        assert group.oom_kills() == 0
        assert 0 < group.peak_bytes() < LIMIT_BYTES
        assert sidecar.stop() == 0
        assert len(sidecar.decisions()) == len(load.replies) + STREAMS + LARGE


async def test_an_out_of_memory_kill(tmp_path: Path) -> None:
    """INC-20: the kernel kills the process in its group of 512 MiB: each client loses the one call that was under way, the
    database is whole, every call that was answered 250 ms before is in it, and the next process serves and goes on."""
    with limited(tmp_path, "default:ttft=0.005", "default:output_tokens=8") as (sidecar, group):
        load = Load(sidecar.port, connections=4)
        async with load.running():
            await asyncio.sleep(1.0)
            killed = await asyncio.to_thread(starve, sidecar, group)
            load.stop()
        assert group.oom_kills() >= 1
        assert load.broken["Broken"] + load.broken["ConnectionResetError"] <= load.connections
        with contextlib.closing(sqlite3.connect(sidecar.db)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            rows = {row[0] for row in connection.execute("SELECT id FROM outcomes")}
        lost = [killed - reply.ended for reply in load.replies if reply.decision not in rows]
        print("calls", len(load.replies), "rows lost", len(lost), "oldest s", max(lost, default=0.0))
        assert len(load.replies) > 20
        assert max(lost, default=0.0) < LOSABLE_S + BUSY_S
        await asyncio.to_thread(sidecar.start_again)
        again = Load(sidecar.port, connections=2)
        async with again.running():
            await asyncio.sleep(0.5)
        assert (again.failed, again.broken) == ([], {})
        assert sidecar.stop() == 0
        assert json.loads(sidecar.verb("store", "status"))["decisions"] == len(rows) + len(again.replies)
