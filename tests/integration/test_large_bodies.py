"""Bodies of megabytes: read, changed and sent a slice a turn, and given up in the middle where an answer comes early."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.proxy.body import LARGE_BYTES
from tests.integration.conftest import Running, Serve, Upstream
from tests.integration.raw import call, connected, get, ok, post
from tests.integration.test_arms import FALLBACK, policy

MIB = 2**20
PIXELS = b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB"


def asking(model: bytes, size: int = 3 * MIB) -> bytes:
    """A call with an image of `size` bytes in it."""
    image = (PIXELS * (size // len(PIXELS) + 1))[:size]
    return b'{"messages":[{"content":[{"url":"data:image/png;base64,%b"}]}], "model" : "%b","a":[1.0] }' % (
        image,
        model,
    )


class Recorder:
    """A transport that remembers what it was asked to do; everything else is the real one."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.sizes: list[int] = []
        self.pauses = 0

    def write(self, data: bytes | memoryview) -> None:
        self.sizes.append(len(data))
        self._transport.write(data)

    def pause_reading(self) -> None:
        self.pauses += 1
        self._transport.pause_reading()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def recorded(side: Running, upstream: str) -> Recorder:
    """The one connection to this upstream, watched from now on."""
    (connection,) = side.app.plane.origins[upstream].pool._open
    connection.transport = recorder = Recorder(connection.transport)  # type: ignore[assignment]
    return recorder


async def test_it_is_changed_and_sent_in_slices(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Another model's name is in it, every other byte is as it was, and no write is longer than a slice."""
    one, two = await upstream(), await upstream()
    side = await serve("http://127.0.0.1:1", policies=policy(tmp_path, one, two))
    await call(side.port, post("/v1/chat/completions", b'{"model":"held"}'))
    writes = recorded(side, "two")
    for _ in range(2):
        got = await call(side.port, post("/v1/chat/completions", asking(b"held")))
        assert (got.status, got.value(b"x-sidecar-model")) == (200, b"two/real-name")
        assert two.requests[-1].body == asking(b"real-name")
    assert max(writes.sizes) <= LARGE_BYTES
    assert len(two.peers) == 1, "the connection was whole again, and is used again"


async def test_it_is_read_a_piece_a_turn(upstream: Upstream, serve: Serve) -> None:
    """What lies ready in the socket is not read at one go: other connections have their turn in between."""
    up = await upstream()
    side = await serve(up)
    body = asking(b"m")
    with socket.create_connection(("127.0.0.1", side.port)) as client:
        client.sendall(post("/v1/chat/completions", b'{"model":"m"}'))
        assert await asyncio.to_thread(client.recv, 65_536)
        (connection,) = side.app.plane.connections
        connection.source = watched = Recorder(connection.transport)  # type: ignore[assignment]
        await asyncio.to_thread(client.sendall, post("/v1/chat/completions", body))
        assert (await asyncio.to_thread(client.recv, 65_536)).startswith(b"HTTP/1.1 200")
    assert up.requests[-1].body == body
    assert watched.pauses >= 3


async def test_an_early_answer_ends_the_sending(upstream: Upstream, serve: Serve) -> None:
    """The client has the answer; a connection with half a request on it carries no other call."""
    up = await upstream([ok(b'{"error":"too large"}', status=b"413 Too Large"), 0.3], early=True)
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(post("/v1/chat/completions", asking(b"m", 7 * MIB)))
        got = await client.response()
        assert (got.end, got.status, got.body) == ("whole", 413, b'{"error":"too large"}')
        assert side.pool[0] == 0, "a connection with half a request on it was kept"
        assert await up.until(lambda: up.peers[0].lost.is_set())
        assert up.peers[0].bytes_received < 7 * MIB
        up.early = False
        client.send(post("/v1/chat/completions", b'{"model":"m"}'))
        assert (await client.response()).status == 413
    assert len(up.peers) == 2
    assert side.balanced


class Overtaken(Recorder):
    """A transport whose third write comes behind what `first` does."""

    def __init__(self, transport: Any, first: Callable[[], None]) -> None:
        super().__init__(transport)
        self._first = first

    def write(self, data: bytes | memoryview) -> None:
        if len(self.sizes) == 2:
            self._first()
        super().write(data)


@pytest.mark.parametrize("whole", [True, False])
async def test_an_answer_before_a_reset_arrives(serve: Serve, *, whole: bool) -> None:
    """Who refuses a body unread and closes resets the connection. A write finds that before the answer is read."""
    said = ok(b'{"error":"too large"}', status=b"413 Too Large")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        side = await serve(f"http://127.0.0.1:{listener.getsockname()[1]}")
        loop = asyncio.get_running_loop()
        async with connected(side.port) as client:
            client.send(get())
            peer, _ = await loop.sock_accept(listener)
            await loop.sock_recv(peer, 65536)
            await loop.sock_sendall(peer, ok(b"{}"))
            assert (await client.response()).status == 200

            def refuse() -> None:
                peer.sendall(said if whole else said[:-1])
                peer.close()
                time.sleep(0.05)

            (connection,) = side.app.plane.defaults["openai"].pool._open
            connection.transport = Overtaken(connection.source, refuse)  # type: ignore[assignment]
            connection.source = connection.transport
            client.send(post("/v1/chat/completions", asking(b"m")))
            got = await client.response()
    body = b'{"error":"too large"}' if whole else b'{"error":"too large"'
    assert (got.status, got.body, got.end) == (413, body, "whole" if whole else "eof")
    assert side.pool == (0, 0, 0)
    assert side.balanced


async def test_what_the_upstream_never_read_stays_its_connections(upstream: Upstream, serve: Serve) -> None:
    """All of the body is with the transport, and most of it not with the upstream, which refuses it and reads no further."""
    up = await upstream([0.2, ok(b"{}", status=b"413 Too Large"), 9.0], early=True)
    side = await serve(up)

    async def reads_no_further() -> None:
        assert await up.until(lambda: bool(up.peers) and up.peers[0].bytes_received > 0)
        up.peers[0].transport.pause_reading()

    asked = call(side.port, post("/v1/chat/completions", asking(b"m", 7 * MIB)))
    got, _ = await asyncio.gather(asked, reads_no_further())
    assert got.status == 413
    assert up.peers[0].bytes_received < 7 * MIB
    assert side.pool[0] == 0, "a connection with megabytes on it that nobody reads was kept"


async def test_one_behind_another_is_read_on(serve: Serve) -> None:
    """What is held while nobody is served makes the client wait; the call that takes it lets the client go on."""
    side = await serve("http://127.0.0.1:1")
    sizes = (3 * MIB, 7 * MIB, MIB)
    async with connected(side.port) as client:
        client.send(b"".join(post("/v1/chat/completions", asking(b"m", size)) for size in sizes))
        assert [(await client.response()).end for _ in sizes] == ["whole"] * 3


async def test_what_comes_before_a_switch_does_not_stop_the_tunnel(upstream: Upstream, serve: Serve) -> None:
    """More than is held for a client that sends ahead: it waits for the upstream's 101, and no longer."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    up = await upstream([0.2, switch])
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(get("/v1/realtime?model=m", b"Connection: Upgrade", b"Upgrade: websocket"))
        assert await up.until(lambda: bool(up.requests))
        client.send(b"z" * 400_000)
        await client.until(b"101")
        assert await up.until(lambda: len(up.peers[0].data) == 400_000)


async def test_another_arm_gets_all_of_it(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """The first arm refuses while it is still being sent: the second one gets the whole body, with its own model."""
    one, two = await upstream(), await upstream([ok(b'{"id":"2"}')])
    side = await serve("http://127.0.0.1:1", policies=policy(tmp_path, one, two, FALLBACK))
    for number in range(100):
        session = b"x-sidecar-session: s%d" % number
        got = await call(side.port, post("/v1/chat/completions", b'{"model":"m"}', session))
        if got.value(b"x-sidecar-model") == b"one/m":
            break
    two.requests.clear()
    one.early = True
    one.by = lambda _head: [ok(b"{}", status=b"503 Busy"), 1.0]
    for peer in one.peers:
        peer.answering = None
    got = await call(side.port, post("/v1/chat/completions", asking(b"m", 7 * MIB), session))
    assert (got.status, got.body, got.value(b"x-sidecar-reason")) == (200, b'{"id":"2"}', b"fallback")
    assert [seen.body for seen in two.requests] == [asking(b"n", 7 * MIB)]
    assert side.balanced
