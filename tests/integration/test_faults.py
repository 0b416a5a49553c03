"""What goes wrong on either side: clients that leave, upstreams that die, stall or lie; the client always sees the truth."""

import asyncio
import socket
import time
from contextlib import ExitStack

import pytest

from sidecar.clock import monotonic
from sidecar.core.types import Facts, Settled
from sidecar.proxy.watchdog import Stalled
from sidecar.sim.knobs import Fault
from tests.integration.conftest import Serve, Sim, Upstream
from tests.integration.raw import (
    PROMISED_S,
    SSE_HEAD,
    TOLD_S,
    WAIT_S,
    Script,
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


@pytest.mark.parametrize(
    "body", [STREAM, b'{"model":"m","messages":[]}', b'{"model":"m","input":"a"}'], ids=["stream", "whole", "other"]
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_before_the_first_byte(
    upstream: Upstream, serve: Serve, body: bytes, how: str
) -> None:
    """GW-21, INC-4, FID-13: the upstream's connection closes at once, and the exchange is aborted.

    100 ms are promised, and the soonest of five keeps them; each is held against TOLD_S only, as machines are busy.
    """
    up = await upstream([60.0])
    side = await serve(up)
    delays = []
    for path in (
        "/v1/chat/completions",
        "/v1/messages",
        "/v1/responses",
        "/v1/files",
        "/v1beta/models/m:generateContent",
    ):
        async with connected(side.port) as client:
            client.send(post(path, body))
            assert await up.until(lambda: bool(up.requests) and not up.peers[-1].lost.is_set())
            left = monotonic()
            client.close() if how == "close" else client.reset()
            assert await up.until(lambda: up.peers[-1].lost.is_set(), TOLD_S), path
            delays.append(up.peers[-1].lost_at - left)
            up.requests.clear()
    print("seconds until the upstream was told:", [round(one, 4) for one in delays])
    assert min(delays) < PROMISED_S
    assert side.books.aborted == 5
    assert side.pool == (0, 0, 0)


@pytest.mark.parametrize("silent", [True, False])
async def test_a_client_that_leaves_mid_stream(upstream: Upstream, serve: Serve, silent: bool) -> None:
    """GW-21, INC-5, FID-14: the same while tokens flow or while the upstream is silent; the connection is not pooled."""
    tokens: list[Step] = [60.0] if silent else [step for _ in range(2000) for step in (delta("x"), 0.01)]
    up = await upstream([SSE_HEAD + delta("a"), *tokens])
    side = await serve(up)
    delays = []
    for _ in range(3):
        async with connected(side.port) as client:
            client.send(post(body=STREAM))
            await client.until(b'"a"')
            left = monotonic()
            client.close()
            assert await up.until(lambda: up.peers[-1].lost.is_set(), TOLD_S)
        delays.append(up.peers[-1].lost_at - left)
    print("seconds until the upstream was told:", [round(one, 4) for one in delays])
    assert min(delays) < PROMISED_S
    assert side.books.aborted == 3
    assert side.pool == (0, 0, 0)


async def test_a_client_that_leaves_while_its_upload_waits(upstream: Upstream, serve: Serve) -> None:
    """GW-21: also a client whose bytes we have stopped reading, because the upstream is slow, is seen to leave."""
    up = await upstream()
    loop = asyncio.get_running_loop()
    up.on_connect = lambda peer: loop.call_soon(peer.transport.pause_reading)  # type: ignore[assignment,return-value]
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(post("/v1/files", b"x" * 30_000_000))
        await asyncio.sleep(0.4)
        client.reset()
        assert await up.until(lambda: not side.app.plane.exchanges, TOLD_S)
    assert side.books.aborted == 1


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    "answer",
    [
        SSE_HEAD + delta("a") + delta("b"),
        SSE_HEAD + delta("a") + b"20\r\ndata: {",
        SSE_HEAD + delta("a") + b"0\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 10000\r\n\r\n" + b"data: {}\n\n",
    ],
    ids=["between chunks", "mid-chunk", "in the last chunk", "mid-length", "sse mid-length"],
)
@pytest.mark.parametrize("body", [STREAM, b"{}"], ids=["asked", "plain"])
async def test_an_upstream_that_dies_mid_response_is_seen_to(
    upstream: Upstream, serve: Serve, answer: bytes, end: Step, body: bytes
) -> None:
    """FID-7, FID-8, INC-7, GW-22: what came is delivered, then the connection is cut: no [DONE], no clean end."""
    up = await upstream([answer, 0.05, end])
    side = await serve(up)
    got = await call(side.port, post(body=body))
    assert got.end in ("eof", "reset"), "the response looks whole"
    assert got.status == 200
    assert b"[DONE]" not in got.raw
    assert not got.wire_body.endswith(b"0\r\n\r\n")
    assert (side.books.failed, side.books.completed) == (1, 0)


@pytest.mark.parametrize("body", [STREAM, b"{}"], ids=["asked", "plain"])
async def test_a_close_delimited_body_that_breaks_is_reset(upstream: Upstream, serve: Serve, body: bytes) -> None:
    """INC-7: where the close is the end of the body, only a reset tells the client that it broke."""
    up = await upstream([b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\n", 0.1, "reset"])
    side = await serve(up)
    got = await call(side.port, post(body=body))
    assert got.end == "reset"
    assert side.books.failed == 1


async def test_a_close_delimited_body_that_breaks_during_the_upload_is_reset(upstream: Upstream, serve: Serve) -> None:
    """INC-7: also when the client is still sending."""
    up = await upstream([b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nabc", 0.1, "reset"], early=True)
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(post("/v1/files", b"x" * 1000)[:-10])
        got = await client.response()
    assert got.end == "reset"


@pytest.mark.parametrize("minor", [b"0", b"1"])
async def test_a_client_that_half_closes_cannot_take_a_close_delimited_part_for_whole(
    upstream: Upstream, serve: Serve, minor: bytes
) -> None:
    """INC-7: EOF counts as leaving, but such a client still reads: found by `bench.campaign --faults`, seed 8."""
    framing = b"" if minor == b"1" else b"Transfer-Encoding: chunked\r\n"
    up = await upstream([b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n" % framing + delta("a"), 5.0])
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(post().replace(b"HTTP/1.1", b"HTTP/1." + minor))
        await client.until(b'"a"')
        client.writer.write_eof()
        assert await client.ended() == "reset"
    assert await up.until(lambda: side.books.aborted == 1)


async def test_a_close_delimited_body_that_ends_is_whole(upstream: Upstream, serve: Serve) -> None:
    """RFC 9112 6.3: the close is the end; the client's connection closes behind it without an error."""
    up = await upstream([b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nabc", 0.05, b"def", "close"])
    side = await serve(up)
    got = await call(side.port, get())
    assert (got.end, got.wire_body, got.value(b"connection")) == ("eof", b"abcdef", b"close")
    assert side.books.completed == 1


async def test_no_post_is_sent_twice(upstream: Upstream, serve: Serve) -> None:
    """INC-12, INC-11: with a reset at each byte of an answer each call is seen once upstream; the client sees an error."""
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello")
    head = wire.index(b"\r\n\r\n") + 4
    scripts: list[Script] = [[wire[:at], 0.004, "reset"] for at in range(len(wire))]
    up = await upstream(*scripts)
    side = await serve(up)
    for at in range(len(wire)):
        got = await call(side.port, post(body=b"{}"))
        if at < head:
            assert (got.end, got.status) == ("whole", 502), at
        else:
            assert got.end in ("eof", "reset"), at
    assert len(up.requests) == len(wire)
    assert side.books.failed == len(wire)


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_stale_connection_is_a_502_once(upstream: Upstream, serve: Serve, method: str) -> None:
    """FID-16, FID-16b, INC-11: a kept connection dies under a request: 502 with a reason, no hidden retry, nor for GET."""
    up = await upstream([ok()], [0.02, "reset"], [ok()])
    side = await serve(up)
    request = post() if method == "POST" else get()
    async with connected(side.port) as client:
        answers = []
        for _ in range(3):
            client.send(request)
            answers.append(await client.response())
    assert [answer.status for answer in answers] == [200, 502, 200]
    assert answers[1].value(b"x-sidecar-error") == b"upstream_closed"
    assert len(up.requests) == 3
    assert [seen.connection for seen in up.requests] == [0, 0, 1]


async def test_connections_that_the_upstream_closed_are_not_used(upstream: Upstream, serve: Serve) -> None:
    """INC-11: a server that closes behind every answer, without saying so, costs the next call nothing."""
    up = await upstream([ok(), "close"])
    side = await serve(up)
    statuses = []
    async with connected(side.port) as client:
        for _ in range(100):
            client.send(post())
            statuses.append((await client.response()).status)
            await asyncio.sleep(0.001)
    assert statuses == [200] * 100


@pytest.mark.parametrize("ends", [True, False])
async def test_a_call_that_comes_with_the_end_of_an_idle_connection(serve: Serve, ends: bool) -> None:
    """INC-11: both lie in their sockets when the loop looks, the call first; nothing has been sent, so it costs nothing. So
    it is with an answer that nobody asked for, which is not the call's."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client, ExitStack() as peers:
        for one in (listener, client):
            one.setblocking(False)
        side = await serve(f"http://127.0.0.1:{listener.getsockname()[1]}")
        await loop.sock_connect(client, ("127.0.0.1", side.port))
        client.send(post())
        for rest in range(3, -1, -1):
            async with asyncio.timeout(WAIT_S):
                peer, _ = await loop.sock_accept(listener)
            assert await loop.sock_recv(peer, 65536)
            await loop.sock_sendall(peer, ok(b"{}"))
            assert (await loop.sock_recv(client, 65536)).startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(0.05)
            if rest:
                client.send(post())
            if ends:
                peer.close()
            else:
                peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
                peers.enter_context(peer)


async def test_the_servers_keep_alive_hint_is_obeyed(upstream: Upstream, serve: Serve) -> None:
    """INC-11: `Keep-Alive: timeout=1` leaves no connection for later."""
    up = await upstream([ok(b"{}", b"Keep-Alive: timeout=1")])
    side = await serve(up)
    await call(side.port, post())
    await call(side.port, post())
    assert len(up.peers) == 2


async def test_bytes_behind_a_response_end_the_connection(upstream: Upstream, serve: Serve) -> None:
    """What an upstream sends unasked is never the next client's answer: its connection ends long before an idle one does."""
    up = await upstream([ok() + ok(b'{"forged":1}')], [ok(), 0.03, ok(b'{"forged":2}')])
    side = await serve(up)
    for number in range(4):
        got = await call(side.port, get())
        assert b"forged" not in got.raw
        assert await up.until(up.peers[number].lost.is_set, TOLD_S)
    assert {seen.connection for seen in up.requests} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"x" * 300_000,
    ],
)
async def test_a_malformed_response_is_a_502(upstream: Upstream, serve: Serve, garbage: bytes) -> None:
    """INC-42: nothing of it reaches the client, and its connection is closed."""
    up = await upstream([garbage, 5.0])
    side = await serve(up)
    got = await call(side.port, get())
    assert (got.status, got.value(b"x-sidecar-error")) == (502, b"bad_response")
    assert await up.until(lambda: up.peers[0].lost.is_set())


async def test_bad_chunks_of_an_upstream_cut_the_response(upstream: Upstream, serve: Serve) -> None:
    """INC-42: the client must not take it for whole."""
    up = await upstream([SSE_HEAD + delta("a"), 0.05, b"zz\r\nabc", 5.0])
    side = await serve(up)
    got = await call(side.port, post(body=STREAM))
    assert got.end in ("eof", "reset")
    assert b'"a"' in got.raw
    assert b"zz" not in got.raw
    assert await up.until(lambda: up.peers[0].lost.is_set())


async def test_a_silent_upstream_is_a_504(upstream: Upstream, serve: Serve) -> None:
    """INC-24, GW-26: the first-byte timer."""
    up = await upstream([60.0])
    side = await serve(up, first_byte_timeout="300ms")
    began = monotonic()
    got = await call(side.port, post())
    assert (got.status, got.value(b"x-sidecar-error")) == (504, b"timeout_first_byte")
    assert monotonic() - began > 0.25
    assert await up.until(lambda: up.peers[0].lost.is_set())


async def test_silence_inside_a_stream_is_cut(upstream: Upstream, serve: Serve) -> None:
    """INC-24: the idle timer; the cut is visible, and tokens in time are never cut (INC-26)."""
    up = await upstream([SSE_HEAD, *[step for _ in range(8) for step in (0.1, delta("a"))], 60.0])
    side = await serve(up, idle_timeout="600ms")
    began = monotonic()
    got = await call(side.port, post(body=STREAM))
    assert got.end in ("eof", "reset")
    assert got.raw.count(b'"a"') == 8
    assert monotonic() - began > 8 * 0.1 + 0.5
    assert await up.until(lambda: up.peers[0].lost.is_set())


async def test_an_unreachable_upstream_is_a_502_and_a_blackhole_a_504(serve: Serve, blackhole: str) -> None:
    """INC-27, GW-24: refused at once; no answer to the connection attempt: the connect timer."""
    refused = await serve("http://127.0.0.1:1")
    got = await call(refused.port, post())
    assert (got.status, got.value(b"x-sidecar-error")) == (502, b"connect")
    side = await serve(f"http://{blackhole}", connect_timeout="300ms")
    began = monotonic()
    got = await call(side.port, post())
    assert (got.status, got.value(b"x-sidecar-error")) == (504, b"timeout_connect")
    assert monotonic() - began > 0.25


ERROR_LINES = [
    b"Retry-After: 7",
    b"retry-after-ms: 1500",
    b"x-should-retry: true",
    b"X-RateLimit-Remaining-Tokens: 0",
    b"x-request-id: req_1",
    b"anthropic-ratelimit-requests-reset: 2026-01-01T00:00:00Z",
    b"request-id: req_2",
]


@pytest.mark.parametrize(
    "status",
    [
        b"400 Bad",
        b"401 No",
        b"408 Late",
        b"409 Conflict",
        b"422 No",
        b"429 Slow",
        b"500 Oops",
        b"503 Busy",
        b"529 Overloaded",
    ],
)
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_errors_of_the_upstream_pass_untouched(
    upstream: Upstream, serve: Serve, status: bytes, framing: str
) -> None:
    """INC-14, INC-13: status line, headers that steer the SDK's retries, and body; one request upstream for one call."""
    body = b'{"error":{"message":"no","type":"x","code":null}}'
    head = b"HTTP/1.1 " + status + b"\r\n" + b"".join(line + b"\r\n" for line in ERROR_LINES)
    wire = {
        "length": head + b"content-length: %d\r\n\r\n" % len(body) + body,
        "chunked": head + b"transfer-encoding: chunked\r\n\r\n" + chunked(body[:9], body[9:]),
        "close": head + b"\r\n" + body,
    }[framing]
    up = await upstream(
        [wire[:-20], 0.01, wire[-20:], "close"] if framing == "close" else [wire[:-20], 0.01, wire[-20:]]
    )
    side = await serve(up)
    for request in (post(body=STREAM), post("/v1/messages", b"{}")):
        got = await call(side.port, request)
        assert got.head.startswith(b"HTTP/1.1 " + status)
        assert got.foreign_lines == ERROR_LINES
        assert got.body == body
    assert len(up.requests) == 2


async def test_a_stream_without_its_terminal_event_passes_and_is_flagged(sim: Sim, serve: Serve) -> None:
    """INC-8: well-formed but without [DONE]: nothing is invented."""
    provider = await sim(faults=(Fault("no_done", after_tokens=3),))
    side = await serve(provider)
    seen: list[object] = []
    side.app.plane.emit = seen.append
    got = await call(side.port, post(body=STREAM))
    assert got.end == "whole"
    assert b"[DONE]" not in got.body
    assert [one.outcome.error for one in seen] == ["no_terminal"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("most", "source"), [("8MiB", "provider"), ("1MiB", "estimate")])
async def test_an_sse_line_of_two_megabytes_passes(upstream: Upstream, serve: Serve, most: str, source: str) -> None:
    """INC-9, GW-30: the reader beside it knows what an event below its cap says, and gives up one above it; the bytes do not
    care."""
    usage = b'{"id":"c","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5},"x":"%b"}' % (b"x" * 2_000_000)
    text = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    text += b"data: " + usage + b"\n\ndata: [DONE]\n\n"
    up = await upstream([SSE_HEAD + chunked(text)])
    side = await serve(up, meter_max=most)
    seen: list[Settled] = []
    side.app.plane.emit = seen.append
    got = await call(side.port, post(body=STREAM[:-1] + b',"stream_options":{"include_usage":true}}'))
    assert got.body == text
    assert (seen[0].outcome.kind, seen[0].outcome.usage_source) == ("completed", source)


async def test_an_engine_that_raises_fails_open(upstream: Upstream, serve: Serve) -> None:
    """INC-37: the request goes to the model that the app asked for, unchanged and counted."""
    up = await upstream()
    side = await serve(up)
    bugs: list[str] = []
    side.app.plane.on_bug = lambda where, _error: bugs.append(where)

    def raises(*_arguments: object) -> None:
        raise ZeroDivisionError

    side.app.plane.engine.decide = raises  # type: ignore[assignment,method-assign]
    got = await call(side.port, post())
    assert (got.status, got.value(b"x-sidecar-reason")) == (200, b"fail-open")
    assert up.requests[0].body == b'{"model":"m","messages":[]}'
    assert bugs == ["decide"]
    assert side.books.fail_open == 1


async def test_an_engine_that_stalls_fails_open(upstream: Upstream, serve: Serve) -> None:
    """INC-37: the decision is ended, and the next calls do not wait for another one; all go to the model that the app
    asked for, unchanged and counted, and /ready says so."""
    up = await upstream()
    side = await serve(up)
    bugs: list[type[BaseException]] = []
    side.app.plane.on_bug = lambda _where, error: bugs.append(type(error))
    asked: list[Facts] = []

    def stalls(facts: Facts, _now: float) -> None:
        asked.append(facts)
        time.sleep(60.0)

    side.app.plane.engine.decide = stalls  # type: ignore[assignment,method-assign]
    for _ in range(3):
        got = await call(side.port, post())
        assert (got.status, got.value(b"x-sidecar-reason")) == (200, b"fail-open")
    assert {one.body for one in up.requests} == {b'{"model":"m","messages":[]}'}
    assert (len(asked), bugs, side.books.fail_open) == (1, [Stalled], 3)
    ready = await call(side.health_port, get("/ready"))
    assert (ready.status, b"the engine stalled" in ready.body) == (200, True)
