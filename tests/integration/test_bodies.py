"""Uploads and tunnels: early answers, limits told in time, backpressure, and a loop that large bodies do not hold."""

import asyncio
import ssl
import time
from pathlib import Path

import pytest

from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import call, chunked, connected, get, ok, post

MIB = 2**20
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
UPGRADE = [b"Connection: Upgrade", b"Upgrade: websocket"]


async def test_an_answer_before_the_body_is_whole_is_delivered(upstream: Upstream, serve: Serve) -> None:
    """RFC 9112 9.5: an upstream may refuse an upload early; the client reads that answer, not a reset."""
    up = await upstream(
        [ok(b'{"error":"too large"}', b"Connection: close", status=b"413 Too Large"), 0.3, "close"], early=True
    )
    side = await serve(up)
    body = b"x" * 5_000_000
    async with connected(side.port) as client:
        client.send(post("/v1/files", body)[: -len(body) // 2])
        got = await client.response()
        assert (got.end, got.status, got.body) == ("whole", 413, b'{"error":"too large"}')
        assert got.value(b"connection") == b"close"
    assert side.balanced
    assert side.pool[1] == 0, "a connection with half a request on it was kept"


BAD_BODIES = {
    "length": (b"Content-Length: 9000000\r\n\r\n", b"x" * 1000, 413),
    "bad chunk": (b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n", 400),
    "chunk too large": (b"Transfer-Encoding: chunked\r\n\r\n", b"200000\r\n" + b"x" * 2 * MIB, 413),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("kind", "line"),
    [(kind, line) for kind in BAD_BODIES for line in (b"HTTP/1.1\r\nConnection: close", b"HTTP/1.1")]
    + [("length", b"HTTP/1.0")],  # which knows no chunks
)
async def test_a_refused_body_is_answered(
    upstream: Upstream, serve: Serve, kind: str, line: bytes, *, late: bool
) -> None:
    """Told what is wrong, whether or not the client would have kept its connection; counted once, as failed."""
    up = await upstream()
    side = await serve(up, max_body="1MiB", route_body_max="512KiB")
    fields, body, status = BAD_BODIES[kind]
    async with connected(side.port) as client:
        client.send(b"POST /v1/chat/completions " + line + b"\r\nHost: localhost\r\n" + fields)
        if late:
            await asyncio.sleep(0.05)
        client.send(body)
        assert (await client.response()).status == status
    assert side.balanced
    assert (side.books.failed, side.books.turned_away, side.books.bugs) == (1, 0, 0)
    assert not up.requests


async def test_too_large_is_told_instead_of_100_continue(upstream: Upstream, serve: Serve) -> None:
    """RFC 9110 10.1.1: who asks first whether to send is not told to go on when the answer is 413."""
    up = await upstream()
    side = await serve(up, max_body=1000, route_body_max=1000)
    async with connected(side.port) as client:
        client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n"
        )
        got = await client.response()
    assert got.status == 413
    assert not up.peers


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
@pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_000])
async def test_chunked_uploads_arrive_whole(upstream: Upstream, serve: Serve, path: str, size: int) -> None:
    """INC-39: payload bytes of a chunked request, small and large, buffered or passed on as they come; trailers end here."""
    up = await upstream()
    side = await serve(up, route_body_max="100KiB")
    body = bytes(range(256)) * (size // 256 + 1)
    wire = chunked(*(body[at : at + 40_000] for at in range(0, size, 40_000)))[:-2] + b"X-Trailer: 1\r\n\r\n"
    async with connected(side.port) as client:
        for _ in range(2):
            client.send(
                b"POST %b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % path.encode() + wire
            )
            assert (await client.response()).status == 200
    sent = b"".join(body[at : at + 40_000] for at in range(0, size, 40_000))
    assert [seen.body for seen in up.requests] == [sent, sent]
    assert all(seen.value(b"content-length") is None for seen in up.requests)


@pytest.mark.parametrize(
    "key", [b'"a":1,', b'"messages":[%b],' % b",".join([b'{"role":"user","content":"%b"}' % (b"x" * 200)] * 30_000)]
)
async def test_large_json_does_not_hold_the_loop(upstream: Upstream, serve: Serve, key: bytes) -> None:
    """INC-21, GW-43: other work goes on while megabytes of JSON are read: no turn has a third of the work.

    Turns are counted in the thread's CPU time, and against each other: no other process and no slow machine adds to one.
    """
    body = b"{" + key + b'"x":"' + b"y" * (7 * MIB - len(key)) + b'","model":"m"}'
    up = await upstream(thrown_away=len(body))
    side = await serve(up)
    gaps: list[float] = []

    async def watch() -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0.001)
            gaps.append(time.thread_time() - before)
            before = time.thread_time()

    watching = asyncio.get_running_loop().create_task(watch())
    async with connected(side.port) as client:
        head = post("/v1/chat/completions", b"")[:-21] + b"Content-Length: %d\r\n\r\n" % len(body)
        client.send(head)
        for at in range(0, len(body), 65536):
            client.send(body[at : at + 65536])
            await asyncio.wait_for(client.writer.drain(), 5)
            await asyncio.sleep(0)
        got = await client.response()
    watching.cancel()
    assert got.status == 200
    assert got.value(b"x-sidecar-model") == b"openai/m"
    assert max(gaps) < max(0.05, sum(gaps) / 3)


async def test_a_tunnel_slows_the_sender_when_the_reader_is_slow(upstream: Upstream, serve: Serve) -> None:
    """INC-18: bytes through /v1/realtime do not pile up, in either direction."""
    up = await upstream([SWITCH, *([b"d" * 65536] * 600), 5.0])
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(get("/v1/realtime", *UPGRADE))
        await client.until(b"\r\n\r\n")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.4)
        assert up.peers[0].bytes_written < 14_000_000
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        received = len(client.data) - len(SWITCH)
        async with asyncio.timeout(10):
            while received < 600 * 65536:
                received += len(await client.reader.read(MIB))
        up.peers[0].transport.pause_reading()
        client.send(b"u" * 30_000_000)
        await asyncio.sleep(0.4)
        downstream = next(iter(side.app.plane.connections))
        assert downstream.transport is not None
        up.peers[0].transport.resume_reading()
        assert await up.until(lambda: len(up.peers[0].data) == 30_000_000, 10)


async def test_an_error_over_tls_during_an_upload_is_readable(
    upstream: Upstream, serve: Serve, listener_tls: tuple[dict[str, Path], ssl.SSLContext]
) -> None:
    """413 reaches a TLS client that is still sending, and the connection ends soon after."""
    files, context = listener_tls
    up = await upstream()
    side = await serve(up, **files, max_body=1000, route_body_max=1000)
    async with connected(side.port, tls=context) as client:
        client.send(post("/v1/files", b"x" * 100_000))
        got = await client.response()
        assert (got.end, got.status) == ("whole", 413)
        assert await client.ended() != "silent"


async def test_a_name_that_does_not_resolve_is_a_502(serve: Serve) -> None:
    """GW-24, INC-22: told as what it is."""
    side = await serve("http://no-such-host.invalid:80", connect_timeout="4s")
    got = await call(side.port, get())
    assert (got.status, got.value(b"x-sidecar-error")) in ((502, b"dns"), (504, b"timeout_connect"))
