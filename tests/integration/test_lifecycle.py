"""Start, drain, stop; and that the books balance whatever happened in between."""

import asyncio
import gc
import random  # noqa: TID251 - one seeded generator per test
import socket
import ssl
import sys
import weakref
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sidecar.clock import monotonic
from sidecar.errors import ConfigError
from sidecar.proxy.exchange import Exchange
from sidecar.proxy.stall import waiting_bytes
from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import SSE_HEAD, Client, Script, call, chunked, connected, delta, get, ok, post
from tests.integration.test_bodies import SWITCH, UPGRADE

STREAM = b'{"model":"m","stream":true,"messages":[]}'


async def test_drain_finishes_streams_and_serves_meanwhile(upstream: Upstream, serve: Serve) -> None:
    """INC-32, INC-33, GW-51: after SIGTERM /ready is 503 at once, streams finish, new requests are served; then it exits."""
    finish = asyncio.Event()
    up = await upstream(
        by=lambda head: [ok()] if b"GET" in head else [SSE_HEAD + delta("a"), finish, delta("b") + b"0\r\n\r\n"]
    )
    side = await serve(up, drain="5s", drain_idle="300ms")
    async with AsyncExitStack() as stack:
        clients: list[Client] = []
        for _ in range(50):
            clients.append(await stack.enter_async_context(connected(side.port)))
            clients[-1].send(post(body=STREAM))
        assert await up.until(lambda: len(up.requests) == 50)
        began = monotonic()
        side.app.stop()
        await asyncio.sleep(0.05)
        ready = await call(side.health_port, get("/ready"))
        assert ready.status == 503
        late = await call(side.port, get())
        assert (late.status, late.value(b"connection")) == (200, b"close")
        finish.set()
        answers = [await client.response() for client in clients]
        assert all(one.end == "whole" and b'"b"' in one.body for one in answers)
    assert monotonic() - began < 5, "not before the deadline"


async def test_a_drain_that_takes_too_long_cuts_visibly(upstream: Upstream, serve: Serve) -> None:
    """INC-32: at the deadline a stream is cut so that the client can see it; nothing looks whole."""
    up = await upstream([SSE_HEAD + delta("a"), 20.0])
    side = await serve(up, drain="300ms")
    async with connected(side.port) as client:
        client.send(post(body=STREAM))
        await client.until(b'"a"')
        side.app.stop()
        got = await client.response()
    assert got.end in ("eof", "reset")
    assert not got.raw.endswith(b"0\r\n\r\n")
    assert await up.until(lambda: up.peers[0].lost.is_set(), 1.0)
    assert await up.until(lambda: not side.app.plane.exchanges, 1.0)
    assert side.balanced


@pytest.mark.parametrize("end", ["hang up", "cut"])
async def test_a_tunnel_keeps_the_drain_open(upstream: Upstream, serve: Serve, end: str) -> None:
    """A realtime session goes on after SIGTERM, longer than `drain_idle`, until it is over or a second one cuts it."""
    up = await upstream([SWITCH, 60.0])
    side = await serve(up, drain="20s", drain_idle="50ms")
    async with connected(side.port) as client:
        client.send(get("/v1/realtime", *UPGRADE))
        await client.until(b"\r\n\r\n")
        side.app.stop()
        for n in range(4):
            await asyncio.sleep(0.1)
            client.send(b"still here %d." % n)
            assert await up.until(lambda n=n: b"still here %d." % n in up.peers[0].data, 2.0)
        assert len(side.app.plane.tunnels) == 1
        if end == "cut":
            side.app.stop()
        else:
            client.close()
        assert await up.until(lambda: not side.app.plane.tunnels and not side.app.plane.connections, 2.0)


async def test_a_drain_waits_for_last_words(upstream: Upstream, serve: Serve) -> None:
    """What the client of a tunnel said before it left goes up, when the upstream reads it."""
    up = await upstream([SWITCH, 60.0])
    side = await serve(up, drain="20s", drain_idle="50ms")
    sent = 0
    async with connected(side.port) as client:
        client.send(get("/v1/realtime", *UPGRADE))
        await client.until(b"\r\n\r\n")
        up.peers[0].transport.pause_reading()
        (connection,) = side.app.plane.defaults["openai"].pool._open
        while not connection.transport.get_write_buffer_size():  # less than what stops the reading of the client
            client.send(b"u" * 65536)
            sent += 65536
            await asyncio.sleep(0.01)
        client.close()
        assert await up.until(lambda: not side.app.plane.connections)
    side.app.stop()
    await asyncio.sleep(0.3)
    assert (await call(side.health_port, get("/ready"))).status == 503, "the process has ended, and the words with it"
    up.peers[0].transport.resume_reading()
    assert await up.until(lambda: len(up.peers[0].data) == sent)
    assert await up.until(lambda: not side.app.plane.tunnels)


@pytest.mark.parametrize("tls", [False, True])
async def test_a_drain_waits_for_who_reads_slowly(
    upstream: Upstream, serve: Serve, listener_tls: tuple[dict[str, Path], ssl.SSLContext], tls: bool
) -> None:
    """INC-32: an answer is over for us when its last byte lies in a buffer; for the client it is over when it has it. Below
    TLS there is a buffer that tells nobody of itself."""
    piece = chunked(b"x" * 16384)[:-5]
    files, context = listener_tls
    up = await upstream([SSE_HEAD])
    side = await serve(up, drain="20s", drain_idle="50ms", **(files if tls else {}))
    async with connected(side.port, tls=context if tls else None) as client:
        client.send(get())
        await client.until(b"\r\n\r\n")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (connection,) = side.app.plane.connections
        held = [0]
        while held[0] < held[-1] or held[-1] < 100_000:  # until the kernel takes no more: less than stops the upstream
            up.peers[0].transport.write(piece)
            await asyncio.sleep(0.01)
            kernel = waiting_bytes(connection.transport) - connection.transport.get_write_buffer_size()
            held = [*held[-2:], kernel]
        up.peers[0].transport.write(b"0\r\n\r\n")
        assert await up.until(lambda: not side.app.plane.exchanges)
        side.app.stop()
        await asyncio.sleep(0.3)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (await client.response()).end == "whole"


async def test_a_busy_port_is_a_clear_error(serve: Serve) -> None:
    """INC-40: it names the listener and the fix, and leaves nothing bound."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"traffic listener 127\.0\.0\.1"):
            await serve("http://127.0.0.1:1", listen=f"127.0.0.1:{taken.getsockname()[1]}")


FAILS = """
from sidecar.app import serve
from sidecar.config.settings import Settings
free = [f"{name}=127.0.0.1:0" for name in ("listen", "health_listen", "admin_listen")]
def fail(_app): raise RuntimeError("what was announced could not be told")
serve(Settings.load({}, None, free), {}, fail)
"""


async def test_a_failing_start_ends_the_process() -> None:
    """Where warnings are errors a listener that is left open keeps uvloop from closing: the process hangs, deaf to SIGTERM,
    as a run of tests does."""
    command = (sys.executable, "-W", "error", "-c", FAILS)
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(20):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 1
    assert b"could not be told" in said


async def test_both_families_of_localhost(upstream: Upstream, serve: Serve) -> None:
    """INC-40: `localhost` may mean either."""
    up = await upstream()
    side = await serve(up, listen="127.0.0.1:0,[::1]:0")
    ports = side.app.ports("traffic")
    assert (await call(ports[0], get())).status == 200
    if len(ports) > 1:
        reader, writer = await asyncio.open_connection("::1", ports[1])
        writer.write(get().replace(b"localhost", b"[::1]"))
        assert (await asyncio.wait_for(reader.readline(), 2)) == b"HTTP/1.1 200 OK\r\n"
        writer.transport.abort()


UPSTREAM_MOODS: list[Script] = [
    [ok()],
    [SSE_HEAD + delta("a") + delta("b") + b"0\r\n\r\n"],
    [SSE_HEAD + delta("a"), 0.02, delta("b") + b"0\r\n\r\n"],
    [SSE_HEAD + delta("a"), 0.01, "reset"],
    [SSE_HEAD + delta("a"), "close"],
    [b"HTTP/1.1 200 OK\r\n\r\nabc", 0.01, "close"],
    [b"HTTP/1.1 200 OK\r\n\r\nabc", 0.01, "reset"],
    [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "close"],
    ["reset"],
    ["close"],
    [b"garbage\r\n\r\n"],
    [0.05, ok()],
    [5.0],
    [SSE_HEAD + delta("a"), 5.0],
    [ok(b'{"error":"stream_options"}', status=b"400 Bad Request")],
    [ok(b"{}", b"Retry-After: 1", status=b"503 Busy")],
    [SSE_HEAD + b"zz\r\n"],
    [ok() + b"extra"],
]


async def one_client(port: int, dice: random.Random) -> None:
    """A client with a mood of its own; whatever it meets, it ends."""
    request = dice.choice(
        [
            post(),
            post(body=STREAM),
            get(),
            post("/v1/files", b"x" * 5000),
            post("/v1/messages", STREAM),
            get("/nothing"),
            b"bad\r\n\r\n",
            post(body=b"y" * 60_000),
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chunked(b"{}", b" "),
            post("/v1/files", b"x" * 200_000),
        ]
    )
    async with connected(port) as client:
        for _ in range(dice.randint(1, 3)):
            match dice.randint(0, 6):
                case 0:
                    client.send(request[: dice.randint(1, len(request))])
                    await asyncio.sleep(dice.random() * 0.03)
                    client.reset()
                    return
                case 1:
                    client.send(request)
                    await asyncio.sleep(dice.random() * 0.03)
                    client.close()
                    return
                case 2:
                    at = dice.randint(1, len(request))
                    client.send(request[:at])
                    await asyncio.sleep(0.005)
                    client.send(request[at:])
                case 3:
                    client.send(request + request)
                case _:
                    client.send(request)
            got = await client.response(timeout_s=3)
            assert got.end != "silent", request[:60]
            if got.end != "whole":
                return


@pytest.mark.parametrize("seed", range(4))
async def test_the_books_balance_after_chaos(upstream: Upstream, serve: Serve, seed: int) -> None:
    """INC-44, INC-16, INC-17: accepted = completed + failed + aborted + shed + open; nothing stays behind."""
    dice = random.Random(seed)
    up = await upstream(by=lambda _head: dice.choice(UPSTREAM_MOODS))
    side = await serve(
        up,
        first_byte_timeout="400ms",
        idle_timeout="400ms",
        body_stall_timeout="400ms",
        head_timeout="400ms",
        max_streams=60,
        max_upstream_connections=20,
        pool_queue_timeout="300ms",
        max_body="100KiB",
        route_body_max="30KiB",
        max_buffered_bytes="200KiB",
    )
    settled: list[object] = []
    side.app.plane.emit = settled.append
    born: list[weakref.ref[Exchange]] = []
    init = Exchange.__init__

    def remember(self: Exchange, *arguments: object) -> None:
        init(self, *arguments)  # type: ignore[arg-type]
        born.append(weakref.ref(self))

    Exchange.__init__ = remember  # type: ignore[assignment,method-assign]
    try:
        for _ in range(4):
            await asyncio.gather(*(one_client(side.port, dice) for _ in range(60)))
    finally:
        Exchange.__init__ = init  # type: ignore[method-assign]
    assert await up.until(lambda: not side.app.plane.exchanges, 3)
    books = side.books
    assert books.accepted == len(born) > 200
    assert books.accepted == books.completed + books.failed + books.aborted + books.shed
    assert min(books.completed, books.failed, books.aborted) > 10
    assert side.app.plane.buffered == 0
    assert await up.until(lambda: not side.app.plane.connections, 5)
    opened, idle, waiting = side.pool
    assert (opened - idle, waiting) == (0, 0)
    assert len({one.id for one in settled}) == len(settled) <= books.accepted  # type: ignore[attr-defined]
    await asyncio.sleep(0.05)
    gc.collect()
    assert sum(one() is not None for one in born) <= 1, "exchanges are still referred to"
