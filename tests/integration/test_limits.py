"""Limits and timers: bodies, heads, streams, connections, slow peers; what is over one is told so and costs nobody else."""

import asyncio
import os
import time
from contextlib import AsyncExitStack

import psutil
import pytest

from sidecar.clock import monotonic
from sidecar.proxy.downstream import Downstream
from tests.integration.conftest import Running, Serve, Upstream
from tests.integration.raw import (
    SSE_HEAD,
    Client,
    Peer,
    ScriptedUpstream,
    Step,
    call,
    chunked,
    connected,
    delta,
    get,
    ok,
    post,
)

STREAM = b'{"model":"m","stream":true,"messages":[]}'
CHUNKED = b"POST %b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
MIB = 2**20


async def test_a_length_over_the_limit_is_413_before_the_upstream_is_called(upstream: Upstream, serve: Serve) -> None:
    """INC-19, GW-35: refused from the head; no exchange stays behind."""
    up = await upstream()
    side = await serve(up, max_body=1000, route_body_max=1000)
    for path in ("/v1/chat/completions", "/v1/files"):
        got = await call(side.port, post(path, b"x" * 1001))
        assert got.status == 413
    assert not up.peers
    assert side.balanced
    assert not side.app.plane.exchanges


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/files"])
async def test_chunks_over_the_limit_are_413_or_cut(upstream: Upstream, serve: Serve, path: bytes) -> None:
    """INC-19: a body that grows over the limit is never seen whole by the upstream; its connection is cut."""
    up = await upstream()
    side = await serve(up, max_body=1000, route_body_max=500)
    async with connected(side.port) as client:
        client.send(CHUNKED % path + b"190\r\n" + b"x" * 400 + b"\r\n")
        await asyncio.sleep(0.05)
        client.send(b"320\r\n" + b"x" * 800 + b"\r\n0\r\n\r\n")
        got = await client.response()
    assert got.status == 413
    assert not up.requests
    assert await up.until(lambda: all(peer.lost.is_set() for peer in up.peers))
    assert not side.app.plane.exchanges


@pytest.mark.parametrize("bad", [b"zz\r\n", b"-1\r\n", b"5\r\nabcdefgh\r\n", b"3\nabc\n"])
@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/files"])
async def test_a_bad_chunk_cuts_the_upstreams_connection(
    upstream: Upstream, serve: Serve, bad: bytes, path: bytes
) -> None:
    """INC-42: 400 and closed; nothing more is sent up."""
    up = await upstream()
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(CHUNKED % path + b"3\r\nabc\r\n")
        await asyncio.sleep(0.05)
        client.send(bad)
        got = await client.response()
        assert got.status == 400
        assert await client.ended() == "eof"
    assert not up.requests
    assert await up.until(lambda: all(peer.lost.is_set() for peer in up.peers))
    assert side.balanced


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length : 3\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\n Content-Length: 3\r\n\r\n",
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\nContent-Length: 3\r\n\r\n",
        b"POST /v1/x HTTP/1.1\nHost: localhost\n\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/x\r\n\r\n",
    ],
)
async def test_ambiguous_heads_are_refused_and_the_connection_closes(
    upstream: Upstream, serve: Serve, head: bytes
) -> None:
    """INC-42: 4xx or 5xx, closed, and what lies behind is not taken for a request."""
    up = await upstream()
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(head + b"0\r\n\r\nGET /v1/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = await client.response()
        assert got.status in (400, 501, 505)
        assert got.value(b"connection") == b"close"
        assert await client.ended() == "eof"
        assert not client.data
    assert not up.requests


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
async def test_64_mib_pass(upstream: Upstream, serve: Serve, path: str) -> None:
    """GW-35, GW-43, INC-19: streamed, not buffered: memory does not grow with the body."""
    up = await upstream(thrown_away=64 * MIB)
    side = await serve(up)
    body = b"x" * (64 * MIB)
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body))
    before = psutil.Process().memory_info().rss
    async with connected(side.port) as client:
        client.writer.transport.set_write_buffer_limits(MIB)
        client.send(head)
        view = memoryview(body)
        for at in range(0, len(body), MIB):
            client.writer.write(view[at : at + MIB])
            await asyncio.wait_for(client.writer.drain(), 10)
        got = await client.response(timeout_s=20)
    assert got.status == 200
    assert 64 * MIB < up.peers[0].bytes_received < 64 * MIB + 300
    assert psutil.Process().memory_info().rss - before < 24 * MIB


async def test_a_slow_upstream_slows_the_upload_and_is_not_blamed(upstream: Upstream, serve: Serve) -> None:
    """INC-19: while the upstream takes nothing the client waits, for longer than the body timer, and the call succeeds."""
    up = await upstream()
    loop = asyncio.get_running_loop()

    def slow(peer: Peer) -> None:
        loop.call_soon(peer.transport.pause_reading)
        loop.call_later(1.0, peer.transport.resume_reading)

    up.on_connect = slow
    side = await serve(up, body_stall_timeout="400ms")
    got = await call(side.port, post("/v1/files", b"x" * 20_000_000), timeout_s=10)
    assert got.status == 200
    assert len(up.requests[0].body) == 20_000_000


async def test_a_stalled_body_is_408(upstream: Upstream, serve: Serve) -> None:
    """INC-43: a client that stops in its body; buffered or streamed up, it is the client's fault."""
    up = await upstream()
    side = await serve(up, body_stall_timeout="300ms")
    for path in ("/v1/chat/completions", "/v1/files"):
        async with connected(side.port) as client:
            client.send(post(path, b"x" * 100)[:-50])
            got = await client.response()
            assert got.status == 408, path
    assert not up.requests
    assert await up.until(lambda: all(peer.lost.is_set() for peer in up.peers))
    assert side.balanced


async def test_a_slow_head_is_408(upstream: Upstream, serve: Serve) -> None:
    """INC-43: slowloris: a byte now and then does not keep a head alive."""
    up = await upstream()
    side = await serve(up, head_timeout="300ms")
    async with connected(side.port) as client:
        began = monotonic()
        for byte in b"GET /v1/models HTTP/1.1\r\nHost: local":
            client.send(bytes([byte]))
            await asyncio.sleep(0.02)
            if client.reader.at_eof() or client.reader._buffer:  # type: ignore[attr-defined]
                break
        got = await client.response()
        assert got.status == 408
        assert monotonic() - began > 0.25


async def test_a_head_that_has_begun_is_not_idle(upstream: Upstream, serve: Serve) -> None:
    """INC-43: the rest of a head may come after keepalive_idle; only head_timeout counts from its first byte on."""
    up = await upstream()
    side = await serve(up, keepalive_idle="200ms", head_timeout="10s")
    async with connected(side.port) as client:
        for part in (b"GET /v1/models HTTP/1.1\r\nHo", b"st: localhost\r\nAuthorization", b": Bearer k\r\n\r\n"):
            client.send(part)
            await asyncio.sleep(0.4)
        assert (await client.response(method="GET")).status == 200


async def test_idle_connections_close_silently(upstream: Upstream, serve: Serve) -> None:
    """INC-43: a connection without a request ends after keepalive_idle, without an answer."""
    up = await upstream()
    side = await serve(up, keepalive_idle="200ms")
    async with connected(side.port) as client:
        began = monotonic()
        assert await client.ended() == "eof"
        assert not client.data
        assert monotonic() - began > 0.15


async def test_the_idle_timer_begins_at_the_end_of_the_response(upstream: Upstream, serve: Serve) -> None:
    """A response that takes longer than keepalive_idle leaves a connection that can be used again."""
    up = await upstream([1.2, ok()], [ok()])
    side = await serve(up, keepalive_idle="1s")
    async with connected(side.port) as client:
        client.send(post())
        assert (await client.response()).status == 200
        await asyncio.sleep(0.3)
        client.send(post())
        assert (await client.response()).end == "whole"


async def test_more_streams_than_allowed_are_503(upstream: Upstream, serve: Serve) -> None:
    """INC-15: told to come back; the open ones are not disturbed; health still answers."""
    refused = asyncio.Event()
    up = await upstream([refused, ok()])
    side = await serve(up, max_streams=3)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(side.port)) for _ in range(3)]
        for client in clients:
            client.send(post())
        assert await up.until(lambda: len(up.requests) == 3)
        got = await call(side.port, post())
        assert (got.status, got.value(b"retry-after")) == (503, b"1")
        health = await call(side.health_port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert health.status == 200
        refused.set()
        assert [(await client.response()).status for client in clients] == [200] * 3
    assert side.books.shed == 1
    assert side.balanced


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
@pytest.mark.parametrize("coding", ["length", "chunked"])
async def test_waiting_for_a_connection_ends_in_503(upstream: Upstream, serve: Serve, path: str, coding: str) -> None:
    """INC-15, GW-23: at the connection limit a call waits for pool_queue_timeout and no longer."""
    up = await upstream([30.0])
    side = await serve(up, max_upstream_connections=1, pool_queue_timeout="300ms")
    async with connected(side.port) as first:
        first.send(post())
        assert await up.until(lambda: bool(up.requests))
        request = post(path) if coding == "length" else CHUNKED % path.encode() + chunked(b"{}")
        began = monotonic()
        got = await call(side.port, request)
        assert (got.end, got.status) == ("whole", 503)
        assert monotonic() - began > 0.25
    assert side.balanced


async def test_who_waits_gets_the_connection_that_comes_free(upstream: Upstream, serve: Serve) -> None:
    """INC-15, INC-17: one connection serves ten clients one after the other, also when some leave the queue."""
    up = await upstream([0.02, ok()])
    side = await serve(up, max_upstream_connections=1)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(side.port)) for _ in range(12)]
        for client in clients:
            client.send(post())
        clients[5].reset()
        clients[7].close()
        answers = [(await client.response()).status for n, client in enumerate(clients) if n not in (5, 7)]
    assert answers == [200] * 10
    assert max(len(up.peers), 1) <= 3
    assert side.balanced


async def test_a_refused_connection_is_told_to_all_who_wait(serve: Serve) -> None:
    """GW-24: at the connection limit nobody waits for a dial that nobody makes."""
    side = await serve("http://127.0.0.1:1", max_upstream_connections=1, pool_queue_timeout="30s")
    answers = await asyncio.gather(*(call(side.port, post()) for _ in range(5)))
    assert [answer.status for answer in answers] == [502] * 5, "not within WAIT_S, which is far below the queue's time"


async def test_many_small_chunked_uploads_at_once(upstream: Upstream, serve: Serve) -> None:
    """INC-19, GW-35: a body of unknown length does not count as the largest one."""
    up = await upstream()
    side = await serve(up)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(side.port)) for _ in range(40)]
        for client in clients:
            client.send(CHUNKED % b"/v1/chat/completions")
        await asyncio.sleep(0.05)
        for client in clients:
            client.send(chunked(b'{"model":"m"}'))
        assert [(await client.response()).status for client in clients] == [200] * 40


async def test_bodies_over_the_buffer_wait(upstream: Upstream, serve: Serve) -> None:
    """Beyond max_buffered_bytes reading pauses; nobody is refused."""
    up = await upstream()
    side = await serve(up, max_buffered_bytes="1MiB", route_body_max="300KiB")
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(side.port)) for _ in range(10)]
        request = post(body=b'{"model":"m","messages":"%b"}' % (b"x" * 250_000))
        for client in clients:
            client.send(request[:-100])
        await asyncio.sleep(0.1)
        assert side.app.plane.buffered <= 2**20
        for client in clients:
            client.send(request[-100:])
        assert [(await client.response()).status for client in clients] == [200] * 10
    assert side.app.plane.buffered == 0


async def test_bodies_that_are_promised_and_do_not_come_give_their_room_up(upstream: Upstream, serve: Serve) -> None:
    """INC-43: who promises large bodies and sends a byte now and then does not keep others from sending theirs."""
    up = await upstream()
    side = await serve(up, max_buffered_bytes="1MiB", route_body_max="300KiB", pool_queue_timeout="4s")
    async with AsyncExitStack() as stack:
        for request in [post(body=b"x" * 307_000)[:200]] * 3 + [CHUNKED % b"/v1/chat/completions" + b"5\r\nxxxxx"]:
            slow = await stack.enter_async_context(connected(side.port))
            slow.send(request)
        assert await up.until(lambda: side.app.plane.buffered > 921_000)
        good = await stack.enter_async_context(connected(side.port))
        request = post(body=b'{"model":"m","messages":"%b"}' % (b"x" * 250_000))
        good.send(request[:-100])
        await asyncio.sleep(0.2)
        good.send(request[-100:])
        assert (await good.response()).status == 200
        assert side.books.failed in (1, 2), "those that had to go, and no more"
        assert side.app.plane.buffered > 307_000
    assert len(up.requests) == 1


async def test_a_client_that_does_not_read_stops_the_upstream(upstream: Upstream, serve: Serve) -> None:
    """FID-17, INC-18, GW-40: a slow reader holds less than 12 MB; then everything still arrives."""
    piece = chunked(b"x" * 65536)[:-5]
    up = await upstream([SSE_HEAD, *([piece] * 1000), b"0\r\n\r\n"])
    side = await serve(up)
    before = psutil.Process().memory_info().rss
    async with connected(side.port) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(get())
        await asyncio.sleep(0.5)
        held = up.peers[0].bytes_written
        await asyncio.sleep(0.3)
        assert up.peers[0].bytes_written == held < 12_000_000
        assert psutil.Process().memory_info().rss - before < 24_000_000
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        received = 0
        async with asyncio.timeout(20):
            while received < 65_536_000:
                received += len(await client.reader.read(2**20))
    assert received >= 65_536_000


async def test_pipelined_requests_of_a_client_that_does_not_read(upstream: Upstream, serve: Serve) -> None:
    """INC-18: its answers do not pile up in memory: the next request waits until it reads."""
    up = await upstream([ok(b"x" * 100_000)])
    side = await serve(up)
    async with connected(side.port) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(get("/v1/m") * 1000)
        await asyncio.sleep(0.6)
        held = sum(peer.bytes_written for peer in up.peers)
        transport = next(iter(side.app.plane.connections)).transport
        assert transport.get_write_buffer_size() < 2_000_000
        assert held < 20_000_000
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            while len(up.requests) < 1000:
                assert await client.reader.read(2**20)
    assert len(up.requests) == 1000


async def test_a_reader_of_ten_kilobytes_a_second_is_not_cut(upstream: Upstream, serve: Serve) -> None:
    """INC-18, INC-26: the idle timer waits with a client that reads slowly."""
    piece = chunked(b"x" * 65536)[:-5]
    up = await upstream([SSE_HEAD, *([piece] * 200), b"0\r\n\r\n"])
    side = await serve(up, idle_timeout="1s")
    async with connected(side.port) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(get())
        await asyncio.sleep(2.5)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        got = await client.response(timeout_s=10)
    assert got.end == "whole"
    assert len(got.wire_body) > 13_000_000


async def test_a_thousand_idle_streams(upstream: Upstream, serve: Serve) -> None:
    """GW-44, INC-15: no error, and a normal call among them is served while all of them are open."""
    count = 1000
    served = asyncio.Event()
    up = await upstream(by=lambda head: [ok()] if b"GET" in head else [SSE_HEAD + delta("a"), served, b"0\r\n\r\n"])
    side = await serve(up)
    async with AsyncExitStack() as stack:
        clients: list[Client] = []
        for _ in range(count):
            clients.append(await stack.enter_async_context(connected(side.port)))
            clients[-1].send(post(body=STREAM))
        assert await up.until(lambda: len(up.requests) == count, 10)
        began = monotonic()
        assert (await call(side.port, get())).status == 200
        print("seconds of a call among a thousand streams:", round(monotonic() - began, 4))
        assert len(side.app.plane.exchanges) == count
        served.set()
        ends = {(await client.response(timeout_s=10)).end for client in clients}
    assert ends == {"whole"}
    assert side.books.completed == count + 1
    assert side.balanced


async def test_aborted_streams_leave_nothing(upstream: Upstream, serve: Serve) -> None:
    """INC-16, INC-17, GW-40: sockets, tasks and exchanges are what they were."""
    steps: list[Step] = [SSE_HEAD + delta("a"), 20.0]
    up = await upstream(steps)
    side = await serve(up)
    await asyncio.sleep(0.05)
    tasks, sockets = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    for _ in range(300):
        async with connected(side.port) as client:
            client.send(post(body=STREAM))
            await client.until(b'"a"')
            client.reset()
    assert await up.until(lambda: all(peer.lost.is_set() for peer in up.peers))
    assert side.books.aborted == 300
    assert not side.app.plane.exchanges
    assert side.pool == (0, 0, 0)
    await asyncio.sleep(0.05)
    assert len(asyncio.all_tasks()) <= tasks + 1
    assert len(os.listdir("/proc/self/fd")) <= sockets + 2


async def test_the_next_request_may_come_early(upstream: Upstream, serve: Serve) -> None:
    """RFC 9112 9.3.2: sent while the stream still runs, it is served behind it, however long it is."""
    up = await upstream([SSE_HEAD + delta("a"), 0.2, b"0\r\n\r\n"], [ok(b"[2]")])
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(post(body=STREAM))
        await client.until(b'"a"')
        client.send(post(body=b"y" * 300_000))
        assert (await client.response()).end == "whole"
        assert (await client.response()).body == b"[2]"
    assert len(up.requests[1].body) == 300_000


async def first_connection(side: Running, up: ScriptedUpstream) -> Downstream:
    assert await up.until(lambda: bool(side.app.plane.connections))
    return next(iter(side.app.plane.connections))


async def test_a_client_that_does_not_read_leaves_no_paused_connection(upstream: Upstream, serve: Serve) -> None:
    """INC-17: a connection that was paused for one client and given back serves the next client."""
    up = await upstream([ok(b"x" * 40_000)])
    side = await serve(up)
    async with connected(side.port) as deaf:
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection = await first_connection(side, up)
        for number in range(300):
            if connection.full:
                break
            deaf.send(get("/v1/m"))
            assert await up.until(lambda number=number: side.books.completed > number)  # type: ignore[misc]
        assert connection.full
        for _ in range(5):
            got = await call(side.port, get())
            assert got.end == "whole", "the answer of another client waits for the deaf one"


async def test_answers_to_a_client_that_does_not_read_are_bounded(upstream: Upstream, serve: Serve) -> None:
    """INC-18: many small answers do not pile up either; with the connections of others kept out of it."""
    up = await upstream([ok(b"x" * 40_000, b"Connection: close")])
    side = await serve(up)
    async with connected(side.port) as deaf:
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        deaf.send(get("/v1/m") * 1500)
        await asyncio.sleep(1.0)
        assert (await first_connection(side, up)).transport.get_write_buffer_size() < 2_000_000
        deaf.writer.transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(20):
            while len(up.requests) < 1500:
                assert await deaf.reader.read(2**20)
    assert len(up.requests) == 1500


async def test_a_byte_of_a_long_head_costs_no_more(upstream: Upstream, serve: Serve) -> None:
    """INC-43: a head of 60 KiB that comes a byte at a time is not read from its start for each byte: the last thousand
    bytes cost less than ten times the processor time of the first; read anew they would cost fifty times as much."""
    up = await upstream()
    side = await serve(up)
    async with connected(side.port) as client:
        connection = await first_connection(side, up)
        connection.data_received(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n")
        first = dribbled(connection, b"X-A: b\r\n" * 125)
        connection.data_received(b"X-A: b\r\n" * 7000)
        last = dribbled(connection, b"X-A: b\r\n" * 125)
        connection.data_received(b"\r\n")
        assert (await client.response(method="GET")).status == 200
    print(f"a thousand bytes, first and last: {first * 1e3:.1f} and {last * 1e3:.1f} ms")
    assert last < 10 * first


def dribbled(connection: Downstream, data: bytes) -> float:
    """Seconds of the processor for these bytes, one at a time."""
    began = time.thread_time()
    for byte in data:
        connection.data_received(bytes((byte,)))
    return time.thread_time() - began
