import asyncio
from tests.integration.raw import *
from tests.integration.conftest import *


async def test_413_leaves_no_exchange(upstream, serve):
    up = await upstream()
    s = await serve(up, max_body=1000, route_body_max=1000)
    r = await call(s.port, post(body=b"x" * 2000))
    assert r.status == 413
    assert s.balanced and not s.app.plane.exchanges


async def test_idle_timer_counts_from_end_of_response(upstream, serve):
    up = await upstream([0.8, ok()])
    s = await serve(up, keepalive_idle="500ms")
    async with connected(s.port) as c:
        c.send(post()); r = await c.response()
        assert r.status == 200
        await asyncio.sleep(0.25)
        c.send(post()); r = await c.response()
        assert r.end == "whole" and r.status == 200, r


async def test_close_delimited_400_passes(upstream, serve):
    up = await upstream([b"HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\n\r\n{\"error\":1}", "close"])
    s = await serve(up)
    r = await call(s.port, post(body=b'{"model":"m","stream":true,"messages":[]}'))
    assert r.status == 400, r.raw


async def test_101_unasked(upstream, serve):
    up = await upstream([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n", 3.0])
    s = await serve(up)
    r = await call(s.port, post())
    assert r.status == 502, r.raw


async def test_pipelined_unread(upstream, serve):
    up = await upstream([ok(b"x" * 200_000)])
    s = await serve(up)
    async with connected(s.port) as c:
        c.writer.transport.pause_reading()
        c.send(get() * 900)
        await asyncio.sleep(2)
        n = sum(p.bytes_written for p in up.peers)
        assert n < 12_000_000, n


async def test_dial_failure_with_limit(upstream, serve):
    s = await serve("http://127.0.0.1:1", max_upstream_connections=1, pool_queue_timeout="3s")
    rs = await asyncio.gather(*(call(s.port, post()) for _ in range(5)))
    assert [r.status for r in rs] == [502] * 5, [r.raw[:30] for r in rs]


async def test_chunked_small_on_other_in_queue(upstream, serve):
    up = await upstream([30.0])
    s = await serve(up, max_upstream_connections=1, pool_queue_timeout="300ms")
    async with connected(s.port) as c:
        c.send(post()); await asyncio.sleep(0.1)
        r = await call(s.port, b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello"), timeout_s=2)
        assert r.end == "whole" and r.status == 503, r


async def test_13_chunked_uploads(upstream, serve):
    up = await upstream()
    s = await serve(up)
    async with AsyncExitStack() as st:
        cs = [await st.enter_async_context(connected(s.port)) for _ in range(20)]
        for c in cs:
            c.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.2)
        for c in cs:
            c.send(chunked(b'{"model":"m"}'))
        rs = [await c.response() for c in cs]
        assert [r.status for r in rs] == [200] * 20


async def test_body_stall_streaming_up_is_408(upstream, serve):
    up = await upstream()
    s = await serve(up, body_stall_timeout="300ms")
    async with connected(s.port) as c:
        c.send(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")
        r = await c.response(timeout_s=3)
        assert r.status == 408, r.raw


async def test_x_sidecar_names(upstream, serve):
    up = await upstream([ok(b"{}", b"x-sidecar-foo-bar: 1", b"X-Sidecar-V2: 2")])
    s = await serve(up)
    r = await call(s.port, post("/v1/chat/completions", b"{}", b"x-sidecar-foo-bar: 1", b"x-sidecar-v2: 3"))
    assert b"foo-bar" not in r.raw and b"V2" not in r.raw, r.raw
    assert b"sidecar" not in up.requests[0].head


async def test_slow_upstream_longer_than_body_stall(upstream, serve):
    up = await upstream()
    up.on_connect = lambda p: (p.transport.pause_reading(), asyncio.get_running_loop().call_later(1.2, p.transport.resume_reading))
    s = await serve(up, body_stall_timeout="500ms")
    body = b"x" * 20_000_000
    r = await call(s.port, post("/v1/files", body), timeout_s=10)
    assert r.status == 200, r.raw


async def test_client_leaves_while_upload_paused(upstream, serve):
    up = await upstream()
    up.on_connect = lambda p: p.transport.pause_reading()
    s = await serve(up)
    async with connected(s.port) as c:
        c.send(post("/v1/files", b"x" * 30_000_000))
        await asyncio.sleep(0.5)
        c.reset()
        await asyncio.sleep(0.5)
        assert not s.app.plane.exchanges
