"""Cases of docs/cases.md about load, on a real process: memory stays, nobody holds the loop, bodies cost nothing."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil

from sidecar.clock import monotonic
from tests.e2e.process import LOOPBACK, Provider, Sidecar, ask, serving
from tests.e2e.traffic import Connection, Load, chat
from tests.fixtures.waiting import wait_for

MIB = 2**20
QUICK = ("default:ttft=0", "default:output_tokens=12")


def rss(sidecar: Sidecar) -> int:
    """Resident bytes of the process now."""
    return int(psutil.Process(sidecar.process.pid).memory_info().rss)


async def calls(sidecar: Sidecar, count: int) -> None:
    """So many calls, every second one a stream, each a new conversation with a model name out of 50."""
    load = Load(sidecar.port, connections=16, pause_s=0.0)
    async with load.running():
        while len(load.replies) < count:  # noqa: ASYNC110 - the load has no event for its count
            await asyncio.sleep(0.02)
    assert (load.failed, load.broken) == ([], {})


async def aborts(sidecar: Sidecar, count: int) -> None:
    """So many streams that are left after their first bytes, 50 at a time."""

    async def leave() -> None:
        connection = Connection(sidecar.port)
        await connection.begin(chat("count for ever", stream=True, model="slow"))
        await connection.close()

    for _ in range(0, count, 50):
        await asyncio.gather(*(leave() for _ in range(50)))


async def test_memory_stays(tmp_path: Path) -> None:
    """GW-40, INC-46: after a warm-up of 6,000 calls 12,000 more and 1,000 aborts leave the process where it was.

    Bound: 5 % of the case, and 8 MiB on top for what is bounded by design and may still be filling: the queue of the
    store, SQLite's page cache (2 MiB) and the allocator's free lists. A leak of one kilobyte a call would be 12 MiB.
    """
    with serving(tmp_path, *QUICK, "slow:itl=0.05", "slow:output_tokens=400") as (sidecar, _):
        await calls(sidecar, 6_000)
        await aborts(sidecar, 200)
        await asyncio.sleep(1.0)
        before, descriptors = rss(sidecar), psutil.Process(sidecar.process.pid).num_fds()
        threads = psutil.Process(sidecar.process.pid).num_threads()
        await calls(sidecar, 12_000)
        await aborts(sidecar, 1_000)
        await asyncio.sleep(1.0)
        after = rss(sidecar)
        print("rss", before / MIB, "->", after / MIB)
        assert after < before * 1.05 + 8 * MIB
        assert (
            psutil.Process(sidecar.process.pid).num_fds() <= descriptors + 16
        )  # idle upstream connections of the pool
        assert psutil.Process(sidecar.process.pid).num_threads() <= threads + 2


class Pulse:
    """Asks /health again and again from a thread of its own: how long the sidecar's loop lets others wait."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stopped = threading.Event()
        self.took_s: list[float] = []
        self._thread = threading.Thread(target=self._beat)

    @contextlib.contextmanager
    def beating(self) -> Iterator["Pulse"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            self._thread.join(20)

    def _beat(self) -> None:
        while not self._stopped.wait(0.003):
            began = monotonic()
            assert ask(self._port, "GET", "/health")[0] == 200
            self.took_s.append(monotonic() - began)


def big_request(size: int, *, model_last: bool) -> bytes:
    """A chat request of about so many bytes, as JSON with many messages."""
    message = {"role": "user", "content": "the quick brown fox " * 100}
    messages = [message] * (size // len(json.dumps(message)))
    members: list[tuple[str, object]] = [("model", "gpt-4o"), ("messages", messages)]
    return json.dumps(dict(reversed(members) if model_last else members)).encode()


def send(port: int, body: bytes) -> bytes:
    """One request by a blocking socket; the answer's first bytes."""
    with socket.create_connection((LOOPBACK, port), timeout=20) as sock:
        lines = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        head = f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n"
        sock.sendall(head.encode())
        sock.sendall(body)
        return sock.recv(65536)


def test_large_bodies_and_answers_do_not_hold_the_loop(tmp_path: Path) -> None:
    """INC-21: 20 MB of JSON up, 8 MB that are scanned for a model at their end, and a stream of 300,000 tokens down, with
    /health asked all the while: half of its answers take less than 100 ms, 99 of 100 less than the second that a
    kubelet waits.

    The case wants 20 ms of loop lag and 100 ms of liveness at p99 on an idle machine; what is measured here holds two more
    processes and a client of the same machine. The figures are printed.
    """
    with serving(tmp_path, "default:output_tokens=2", "long:output_tokens=300000") as (sidecar, _):
        bodies = [big_request(20 * 10**6, model_last=False), big_request(8 * 10**6, model_last=True)]
        with Pulse(sidecar.health_port).beating() as pulse:
            for body in bodies * 3:
                assert send(sidecar.port, body).startswith(b"HTTP/1.1 200")
            tokens = asyncio.run(long_answer(sidecar.port))
        took = sorted(pulse.took_s)
        p99 = took[int(len(took) * 0.99)]
        print(
            f"health: {len(took)} times, median {median(took) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, tokens {tokens}"
        )
        assert tokens > 250_000
        assert len(took) > 100
        assert median(took) < 0.1
        assert p99 < 1.0


async def long_answer(port: int) -> int:
    """Events of a very long stream."""
    connection = Connection(port)
    _, fields = await connection.begin(chat("count", stream=True, model="long"))
    events = 0
    async for piece in connection.chunks(fields):
        events += piece.count(b'"content":')
    await connection.close()
    return events


def timed(port: int, body: bytes) -> float:
    """Seconds of one call, the best of some: the machine's own noise only adds."""
    best = float("inf")
    for _ in range(7):
        began = monotonic()
        assert send(port, body).startswith(b"HTTP/1.1 200")
        best = min(best, monotonic() - began)
    return best


def test_an_image_costs_what_its_bytes_cost(tmp_path: Path) -> None:
    """GW-43: a request with 6 MB of base64 takes no more than 40 ms longer through the sidecar than directly; those it took
    in other proxies went into parsing and writing the JSON anew. Two more copies over loopback are 10 ms of it."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgo" * 550_000}}
    body = json.dumps({"messages": [{"role": "user", "content": [picture]}], "model": "gpt-4o"}).encode()
    assert len(body) > 6 * 10**6
    with Provider(tmp_path, "default:output_tokens=2") as provider, Sidecar(tmp_path, provider.url) as sidecar:
        direct, through = timed(provider.port, body), timed(sidecar.port, body)
        print(f"6 MB: directly {direct * 1000:.1f} ms, through {through * 1000:.1f} ms")
        assert through - direct < 0.04
        assert sidecar.stop() == 0


def test_a_flood_of_idle_connections(tmp_path: Path) -> None:
    """INC-43: while 800 connections lie idle and 100 send their heads one byte at a time, a normal client is served, and
    does not wait for a timer of theirs (2 s); the flood is gone after its timers."""
    with (
        serving(tmp_path, *QUICK, head_timeout="2s", keepalive_idle="3s") as (sidecar, _),
        contextlib.ExitStack() as stack,
    ):
        flood = [stack.enter_context(socket.create_connection((LOOPBACK, sidecar.port))) for _ in range(900)]
        for slow in flood[:100]:
            slow.sendall(b"POST /v1/chat/comp")
        took = []
        for number in range(50):
            began = monotonic()
            assert send(sidecar.port, b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}').startswith(
                b"HTTP/1.1 200"
            )
            took.append(monotonic() - began)
            flood[number].sendall(b"l")
        print("seconds of a call during the flood, median and p90:", median(took), sorted(took)[45])
        assert sorted(took)[45] < 1.0, took
        process = psutil.Process(sidecar.process.pid)
        # 3 s for the idle ones; 2 s for a slow head and 2 s to read its refusal; the rest is for a busy machine
        assert wait_for(lambda: len(process.net_connections("tcp")) < 50, 6.0, 0.2), "the flood is still there"


def test_one_connection_writes(tmp_path: Path) -> None:
    """INC-31: the WAL-reset bug of SQLite 3.7.0 to 3.51.2 needs two connections that write or checkpoint: a serving process
    has the file open for writing once, also while rows are read through it."""
    with serving(tmp_path, *QUICK) as (sidecar, _):
        for number in range(20):
            assert send(sidecar.port, b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hi"}]}').startswith(
                b"HTTP/1.1 200"
            )
            assert number or wait_for(lambda: "llm_sidecar_store_rows_written_total 1.0" in sidecar.metrics(), 5.0), (
                "no row"
            )
            sidecar.admin("GET", "/api/v1/decisions?last=5")
            assert writers(sidecar) <= 1
        assert wait_for(lambda: writers(sidecar) == 1, 5.0)


def writers(sidecar: Sidecar) -> int:
    """Descriptors of the process by which the database's file may be written."""
    count = 0
    for one in Path(f"/proc/{sidecar.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if one.readlink() == sidecar.db:
                (flags,) = [
                    line
                    for line in one.parent.with_name("fdinfo").joinpath(one.name).read_text().splitlines()
                    if line.startswith("flags")
                ]
                count += int(flags.split()[1], 8) & 3 != 0
    return count


STUCK, TRIES = 1_000, 5
KEPT_S = 0.05  # that a call may take longer beside them: 50 us of work for each of them would be as much


async def p99s(sidecar: Sidecar) -> list[float]:
    """The p99 of two hundred calls of one client, some times over: a busy machine is late now and then, not each time."""
    connection, found = Connection(sidecar.port), []
    for _ in range(TRIES):
        took = []
        for _ in range(200):
            reply = await connection.call(chat("Hi"))
            assert reply.status == 200
            took.append(reply.ended - reply.begun)
        found.append(sorted(took)[197])
    await connection.close()
    return found


async def test_a_client_keeps_its_p99_beside_a_thousand_stuck_streams(tmp_path: Path) -> None:
    """INC-15, GW-44: half of them wait for their first byte, half for more; a client that behaves does not feel them."""
    knobs = ("early:ttft=600", "amid:itl=600", "amid:output_tokens=9")
    with serving(tmp_path, *QUICK, *knobs) as (sidecar, _), contextlib.ExitStack() as stack:
        await p99s(sidecar)  # what is loaded and compiled at first use
        alone = await p99s(sidecar)
        for number in range(STUCK):
            body = json.dumps(chat("stay", stream=True, model=("early", "amid")[number % 2])).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            stack.enter_context(socket.create_connection((LOOPBACK, sidecar.port))).sendall(head.encode() + body)
        assert await asyncio.to_thread(wait_for, lambda: f"open_streams {STUCK}.0" in sidecar.metrics(), 20.0)
        beside = await p99s(sidecar)
        shown = [[round(one * 1000, 2) for one in found] for found in (alone, beside)]
        print(f"p99 of a call, ms: alone {shown[0]}, beside {STUCK} stuck streams {shown[1]}")
        assert min(beside) < min(alone) + KEPT_S
        stack.close()
        assert await asyncio.to_thread(wait_for, lambda: "open_streams 0.0" in sidecar.metrics(), 20.0)
