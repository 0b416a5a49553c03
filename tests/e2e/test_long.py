"""What takes minutes (`make campaign`): 100,000 calls, 10,000 streams that are left, and what stays of them."""

import asyncio
from pathlib import Path

import psutil
import pytest

from sidecar.clock import monotonic
from tests.e2e.process import Sidecar, serving
from tests.e2e.traffic import Connection, Load, chat

pytestmark = pytest.mark.campaign
MIB = 2**20
WARM, CALLS, ABORTS = 50_000, 100_000, 10_000
TOGETHER = 100
BUSY_S = 30.0


def rss(sidecar: Sidecar) -> int:
    return int(psutil.Process(sidecar.process.pid).memory_info().rss)


async def call(sidecar: Sidecar, count: int) -> None:
    """So many calls as fast as they go, each a new conversation, of which none may fail."""
    load = Load(sidecar.port, connections=48, pause_s=0.0)
    async with load.running():
        while load.sent < count:
            await asyncio.sleep(0.5)
            assert (load.failed, load.broken) == ([], {})
            load.replies.clear()


async def leave(sidecar: Sidecar) -> None:
    connection = Connection(sidecar.port)
    await connection.begin(chat("count for ever", stream=True, model="slow"))
    await connection.close()


async def quiet(sidecar: Sidecar) -> None:
    """Waits until nothing is open."""
    began = monotonic()
    while "llm_sidecar_open_streams 0.0" not in await asyncio.to_thread(sidecar.metrics):
        assert monotonic() - began < BUSY_S, "exchanges hang"
        await asyncio.sleep(0.1)


async def test_a_hundred_thousand_calls(tmp_path: Path) -> None:
    """GW-40, INC-16: memory after 100,000 calls and 10,000 streams that their clients left is that of before by 5 % and
    8 MiB; no exchange, descriptor or thread of them is left, and their upstream connections are closed."""
    knobs = ("default:ttft=0", "default:output_tokens=8", "slow:itl=0.05", "slow:output_tokens=4000")
    with serving(tmp_path, *knobs, store_max="4MiB") as (sidecar, provider):
        await call(sidecar, WARM)
        await quiet(sidecar)
        process, upstream = psutil.Process(sidecar.process.pid), psutil.Process(provider.process.pid)
        before, descriptors, threads = rss(sidecar), process.num_fds(), process.num_threads()
        await call(sidecar, CALLS)
        called = rss(sidecar)
        for _ in range(0, ABORTS, TOGETHER):
            await asyncio.gather(*(leave(sidecar) for _ in range(TOGETHER)))
        await quiet(sidecar)
        await asyncio.sleep(5.0)  # idle upstream connections are closed after 4 s
        print("rss", before / MIB, "->", called / MIB, "->", rss(sidecar) / MIB, "descriptors", process.num_fds())
        assert max(called, rss(sidecar)) < before * 1.05 + 8 * MIB
        assert process.num_fds() <= descriptors + 4
        assert process.num_threads() <= threads + 2
        assert len(upstream.net_connections(kind="tcp")) <= 1 + 4  # its listener, and what metrics and checks keep
