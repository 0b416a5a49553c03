"""Clients that take nothing of their answers: they are given up after `downstream_stall_timeout`, slow ones never.

The sweep is told a time of its own, so that nobody waits for minutes.
"""

import asyncio
import socket
from pathlib import Path
from typing import Any, cast

import orjson

from sidecar.clock import monotonic
from sidecar.proxy.downstream import Downstream
from sidecar.proxy.stall import waiting_bytes
from tests.integration.canary import rows_of
from tests.integration.conftest import Running, Serve, Upstream
from tests.integration.raw import SSE_HEAD, WAIT_S, Client, ScriptedUpstream, connected, delta, get, ok, post
from tests.integration.test_bodies import SWITCH, UPGRADE
from tests.integration.test_translation_arms import FOREIGN, HELD, both, message, written

STREAM = b'{"model":"m","stream":true,"messages":[]}'
LONG: list[Any] = [SSE_HEAD, *[delta("x" * 65536)] * 600, 30.0]
STEP_S = 76.0  # a little more than a quarter of the default


async def deaf(side: Running, up: ScriptedUpstream, client: Client, request: bytes) -> Downstream:
    """The sidecar's connection of a client that asked for much and does not read, when its buffers are full."""
    transport = cast("asyncio.Transport", client.writer.transport)
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVBUF, 65536
    )  # else the kernel takes all
    transport.pause_reading()
    client.send(request)
    plane = side.app.plane
    assert await up.until(lambda: any(cast("Downstream", one).full for one in plane.connections))
    return cast("Downstream", next(iter(plane.connections)))


def looks_until_gone(connection: Downstream, most: int) -> int:
    """How many looks, a quarter of the limit and a little apart, it takes until the connection is given up."""
    start = monotonic()
    for number in range(1, most + 1):
        connection.on_sweep(start + STEP_S * number)
        if connection.transport.is_closing():
            return number
    return 0


async def test_a_client_that_takes_nothing_is_given_up(upstream: Upstream, serve: Serve) -> None:
    """INC-17: not before five minutes of nothing; then its upstream stops, and it cannot take the part for the whole."""
    up = await upstream(LONG)
    side = await serve(up)
    rows = rows_of(side)
    async with connected(side.port) as client:
        connection = await deaf(side, up, client, post(body=STREAM))
        assert 4 <= looks_until_gone(connection, 12) <= 12
        assert await up.until(up.peers[0].lost.is_set)
        assert await up.until(lambda: not side.app.plane.connections)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await client.ended() == "reset"
    side.app.plane.settle()
    assert [(row.outcome.kind, row.outcome.error) for row in rows] == [("aborted", "client_stalled")]
    assert rows[0].outcome.clocks.ttft_s is not None
    assert side.balanced


async def test_a_client_that_reads_slowly_stays(upstream: Upstream, serve: Serve) -> None:
    """A little in each five minutes is enough, for as long as the answer lasts."""
    up = await upstream(LONG)
    side = await serve(up)
    async with connected(side.port) as client:
        connection = await deaf(side, up, client, post(body=STREAM))
        transport = cast("asyncio.Transport", client.writer.transport)
        now = monotonic()
        for _ in range(8):
            before = waiting_bytes(connection.transport)
            transport.resume_reading()
            async with asyncio.timeout(WAIT_S):
                while waiting_bytes(connection.transport) == before:
                    await client.reader.read(65536)
            transport.pause_reading()
            for _ in range(3):
                now += STEP_S
                connection.on_sweep(now)
            assert not connection.transport.is_closing()


async def test_never_is_a_choice(upstream: Upstream, serve: Serve) -> None:
    """With 0 nobody is given up."""
    up = await upstream(LONG)
    side = await serve(up, downstream_stall_timeout="0")
    async with connected(side.port) as client:
        assert not looks_until_gone(await deaf(side, up, client, post(body=STREAM)), 40)


async def test_what_is_left_of_an_answer_that_is_over(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """A large translated answer is said at once and its call is over; the connection must not stay for ever."""
    near, far = await upstream(), await upstream([ok(message("x" * 12_000_000))])
    policies = written(tmp_path / "p", both(near, far, baseline=FOREIGN, arms=[], mode="observe"))
    side = await serve(near, policies=policies, environ=HELD)
    asked = orjson.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hi"}]})
    async with connected(side.port) as client:
        connection = await deaf(side, far, client, post("/v1/chat/completions", asked, b"Connection: close"))
        assert connection.exchange is None
        assert connection.transport.is_closing()
        start = monotonic()
        for number in range(1, 12):
            connection.on_sweep(start + STEP_S * number)
        assert await far.until(lambda: not side.app.plane.connections)
    assert side.books.completed == 1


async def test_a_deaf_client_behind_a_tunnel(upstream: Upstream, serve: Serve) -> None:
    """After a 101 as well: both sides of the tunnel are closed."""
    up = await upstream([SWITCH, *[b"x" * 65536] * 600, 30.0])
    side = await serve(up)
    async with connected(side.port) as client:
        connection = await deaf(side, up, client, get("/v1/realtime", *UPGRADE))
        assert looks_until_gone(connection, 12) >= 4
        assert await up.until(lambda: not side.app.plane.connections)
        assert await up.until(up.peers[0].lost.is_set)


async def test_who_reads_again_in_time_gets_all(upstream: Upstream, serve: Serve) -> None:
    """And the connection serves the next call."""
    up = await upstream([ok(b"x" * 24_000_000)], [ok(b"next")])
    side = await serve(up)
    async with connected(side.port) as client:
        connection = await deaf(side, up, client, get("/v1/files/1"))
        assert not looks_until_gone(connection, 3)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        size = 0
        async with asyncio.timeout(WAIT_S):
            while size < 24_000_000:
                size += len(await client.reader.read(2**20))
        assert await up.until(lambda: side.books.completed == 1)
        client.send(get("/v1/files/1"))
        assert (await client.response(method="GET")).body == b"next"
