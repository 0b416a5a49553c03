"""What still lies in buffers when an answer ends, a client leaves or a connection comes late: nothing of it may get lost
unseen, pile up, or meet the next call."""

import asyncio
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from sidecar.clock import monotonic
from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import SSE_HEAD, TOLD_S, call, chunked, connected, delta, get, ok, post, until
from tests.integration.test_bodies import SWITCH, UPGRADE
from tests.integration.test_large_bodies import MIB, Recorder, asking

JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
BEGIN = b"POST /v1/%b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
LARGE = 12_000_000


def read_late(port: int, wire: bytes, wait_s: float, buffer: int = 0) -> int:
    """Sends what the socket takes, reads after a while until the end; how many bytes came."""
    got = 0
    with socket.socket() as client:
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.connect(("127.0.0.1", port))
        client.setblocking(False)
        client.send(wire)
        client.settimeout(8)
        time.sleep(wait_s)
        try:
            while data := client.recv(65536):
                got += len(data)
        except (ConnectionError, TimeoutError):
            return got
    return got


@pytest.mark.parametrize("marked", [True, False])
async def test_an_early_answer_reaches_a_client_that_reads_late(upstream: Upstream, serve: Serve, marked: bool) -> None:
    """Its upload is not over, so what it sends is thrown away for two seconds; what it was answered is not."""

    def answer(head: bytes) -> list[Any]:
        found = re.search(rb"files/(\d+)", head)
        assert found is not None
        size = int(found[1])
        line = b"content-length: %d\r\n" % size if marked else b""
        return [JSON + line + b"\r\n" + b"r" * size, *([20.0] if marked else [0.1, "close"])]

    up = await upstream(early=True)
    up.by = answer
    side = await serve(up)
    sizes = [2_000_000 + 400_000 * number for number in range(8)]  # some of them just more than the kernel takes
    asked = [post(f"/v1/files/{size}", b"x" * 300_000)[:200_000] for size in sizes]
    got = await asyncio.gather(*(asyncio.to_thread(read_late, side.port, wire, 3.5, 65536) for wire in asked))
    assert all(came > size for came, size in zip(got, sizes, strict=True))


@pytest.mark.parametrize("closing", [True, False])
async def test_what_is_pipelined_behind_the_last_answer_does_not_eat_it(
    upstream: Upstream, serve: Serve, closing: bool
) -> None:
    """A connection that is closed with unread bytes is reset by the kernel, and the reset overtakes the answer."""
    length = b"content-length: %d\r\n" % LARGE if closing else b""
    up = await upstream([JSON + length + b"\r\n" + b"r" * LARGE, 0.05, "close"])
    side = await serve(up)
    lines = (b"Connection: close",) if closing else ()
    wire = post("/v1/chat/completions", b'{"model":"m"}', *lines) + post(body=asking(b"m", MIB))
    assert await asyncio.to_thread(read_late, side.port, wire, 0.5) > LARGE


async def test_a_bad_chunk_during_an_answer_without_a_mark(upstream: Upstream, serve: Serve) -> None:
    """The client's own fault ends it, and still it must not take the half for the whole."""
    up = await upstream([b"HTTP/1.1 200 OK\r\n\r\nfirst half", 5.0, b" second half", "close"], early=True)
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(BEGIN % b"files" + b"5\r\nhello\r\n")
        await client.until(b"first half")
        client.send(b"zz\r\n")
        assert await client.ended() == "reset"
    assert side.balanced


async def test_a_body_that_waited_for_its_connection_keeps_to_its_pace(serve: Serve) -> None:
    """An upstream that does not read stops the client, also where the connection had to be dialled first."""
    with socket.socket() as deaf:  # the kernel connects, and nobody reads
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(5)
        side = await serve(f"http://127.0.0.1:{deaf.getsockname()[1]}", route_body_max="8MiB")
        async with connected(side.port) as client:
            client.send(BEGIN % b"chat/completions")
            for _ in range(40):
                client.send(b"%x\r\n" % MIB + b"x" * MIB + b"\r\n")
            await asyncio.sleep(1.5)
            (connection,) = side.app.plane.defaults["openai"].pool._open
            assert connection.transport.get_write_buffer_size() < 12 * MIB


async def test_a_large_chunked_body_goes_up_in_slices(upstream: Upstream, serve: Serve) -> None:
    up = await upstream()
    side = await serve(up)
    await call(side.port, post())
    (connection,) = side.app.plane.defaults["openai"].pool._open
    connection.transport = writes = Recorder(connection.transport)  # type: ignore[assignment]
    body = asking(b"m", 3 * MIB)
    async with connected(side.port) as client:
        pieces = chunked(*(body[at : at + 65536] for at in range(0, len(body), 65536)))
        client.send(BEGIN % b"chat/completions" + pieces)
        assert (await client.response()).status == 200
    assert up.requests[-1].body == body
    assert max(writes.sizes) <= 256 * 1024


async def test_who_leaves_a_tunnel_is_noticed(upstream: Upstream, serve: Serve) -> None:
    """Also while its bytes wait, because the upstream does not read."""
    up = await upstream([SWITCH, 60.0])
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(get("/v1/realtime", *UPGRADE))
        await client.until(b"\r\n\r\n")
        up.peers[0].transport.pause_reading()
        client.send(b"u" * 30_000_000)
        await asyncio.sleep(0.5)
        client.reset()
    assert await up.until(lambda: not side.app.plane.connections)


async def test_a_connection_with_a_body_in_it_is_not_used_again(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """TLS holds what the socket does not take in a place of its own. The upstream refuses the body and reads no more
    of it: the next call must not wait behind."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    up = await upstream([ok()], [0.1, ok(b"{}", status=b"413 Too Large"), 9.0], tls=context)
    side = await serve(f"https://localhost:{up.port}", ca_file=str(tmp_path / "ca.pem"))
    assert (await call(side.port, post())).status == 200
    (connection,) = side.app.plane.defaults["openai"].pool._open
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    up.early = True
    peer, read = up.peers[0], up.peers[0].data_received
    peer.answering = None
    peer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def once(data: bytes) -> None:
        read(data)
        peer.transport.pause_reading()

    peer.data_received = once  # type: ignore[method-assign]
    peer.transport.set_protocol(peer)
    got = await call(side.port, post("/v1/chat/completions", asking(b"m", 200_000)))
    assert got.status == 413
    assert side.pool[0] == 0


async def test_last_words_wait_for_an_upstream_that_reads_slowly(serve: Serve) -> None:
    """They lie in our buffer when their client is gone already."""
    await _are_heard(serve, _read_slowly, [9_000_000 + 130_000 * step for step in range(4)])


async def test_last_words_to_an_upstream_that_talks(serve: Serve) -> None:
    """What it says to nobody is read until it has heard the end: else the socket is reset, and its words are lost."""
    await _are_heard(serve, _read_and_talk, [300_000, 3_000_000])


async def _are_heard(serve: Serve, reads: Callable[[socket.socket], int], sizes: Sequence[int]) -> None:
    for size in sizes:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            side = await serve(f"http://127.0.0.1:{server.getsockname()[1]}")
            assert await asyncio.gather(
                asyncio.to_thread(reads, server), asyncio.to_thread(_say_and_leave, side.port, size)
            ) == [size, None]


async def test_a_client_that_leaves_in_one_turn_with_a_large_read(serve: Serve) -> None:
    """The read has paused the upstream for a turn of the loop: nobody rides it then, and it is read on all the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        side = await serve(f"http://127.0.0.1:{server.getsockname()[1]}")
        with socket.create_connection(("127.0.0.1", side.port), timeout=5) as client:
            client.sendall(get("/v1/realtime", *UPGRADE))
            peer = (await asyncio.to_thread(server.accept))[0]
            with peer:
                await asyncio.to_thread(peer.recv, 65536)
                peer.sendall(SWITCH)
                assert b"101" in await asyncio.to_thread(client.recv, 4096)
                client.sendall(b"last words")
                client.shutdown(socket.SHUT_WR)
                peer.setblocking(False)
                peer.send(b"d" * 500_000)
                time.sleep(0.05)  # noqa: ASYNC251 - the loop finds both in one turn
                peer.settimeout(5)
                await asyncio.to_thread(peer.sendall, b"d" * 10_000_000)
                assert await asyncio.to_thread(peer.recv, 4096) == b"last words"
                assert await asyncio.to_thread(peer.recv, 4096) == b""


async def _left(serve: Serve, server: socket.socket, *, reset: bool = False, **settings: object) -> tuple[Any, Any]:
    """A sidecar in front of `server`, of which a tunnel's client has just left, and the tunnel's other end."""
    side = await serve(f"http://127.0.0.1:{server.getsockname()[1]}", **settings)
    async with connected(side.port) as client:
        client.send(get("/v1/realtime", *UPGRADE))
        peer = (await asyncio.to_thread(server.accept))[0]
        await asyncio.to_thread(peer.recv, 65536)
        peer.sendall(SWITCH)
        await client.until(b"101")
        if reset:
            client.reset()
        else:
            client.writer.write_eof()
        assert await until(lambda: not side.app.plane.connections)
    return side, peer


async def test_a_tunnel_whose_client_broke_ends_at_once(serve: Serve) -> None:
    """The upstream is told within 100 ms. It had said nothing for the last time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        side, peer = await _left(serve, server, reset=True)
        assert await until(lambda: side.pool[0] == 0, TOLD_S)
        peer.close()


async def test_left_tunnels_count_among_the_connections(serve: Serve) -> None:
    """An upstream that does not end its side keeps the place, for ten seconds at most."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        side, peer = await _left(serve, server, max_upstream_connections=1, pool_queue_timeout="300ms")
        assert len(side.app.plane.tunnels) == 1
        assert (await call(side.port, get())).status == 503
        peer.close()
        assert await until(lambda: side.pool[0] == 0)
        assert not side.app.plane.tunnels


async def test_an_upstream_that_only_talks_to_nobody_is_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.proxy.upstream._UNHEARD_BYTES", 1_000_000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        side, peer = await _left(serve, server)
        with pytest.raises(ConnectionError):
            await asyncio.to_thread(peer.sendall, b"d" * 50_000_000)
        assert await until(lambda: side.pool[0] == 0)
        peer.close()


@pytest.mark.parametrize("who", ["client reads nothing", "upstream reads nothing", "upstream ends"])
async def test_no_tunnel_is_open_for_ever(
    upstream: Upstream, serve: Serve, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Each of its ends may close with bytes before it that nobody reads: then both are given up, and the place is free."""
    monkeypatch.setattr("sidecar.proxy.upstream.LEAVE_S", 0.5)
    monkeypatch.setattr("sidecar.proxy.tunnel.LEAVE_S", 0.5)
    up = await upstream([SWITCH, 60.0])
    side = await serve(up, downstream_stall_timeout="1s")
    async with connected(side.port) as client:
        client.send(get("/v1/realtime", *UPGRADE))
        await client.until(b"\r\n\r\n")
        (down,) = side.app.plane.connections
        (over,) = side.app.plane.defaults["openai"].pool._open
        if who == "client reads nothing":
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            while not down.transport.get_write_buffer_size():
                up.peers[0].transport.write(b"d" * 65536)
                await asyncio.sleep(0.005)
            client.writer.write_eof()
        else:
            up.peers[0].transport.pause_reading()
            while not (down.paused if who == "upstream reads nothing" else over.transport.get_write_buffer_size()):
                client.send(b"u" * 65536)
                await asyncio.sleep(0.005)
            (client if who == "upstream reads nothing" else up.peers[0].transport).close()
        assert await until(lambda: not side.app.plane.tunnels and not side.pool[0], 10)


async def test_an_upstream_that_reads_on_slowly_hears_all(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes behind the end of the client: only one that reads nothing is given up."""
    monkeypatch.setattr("sidecar.proxy.upstream.LEAVE_S", 5.0)
    monkeypatch.setattr("sidecar.proxy.tunnel.LEAVE_S", 0.6)
    await _are_heard(serve, partial(_read_slowly, pause_s=0.02), [9_000_000])


def _read_and_talk(server: socket.socket) -> int:
    """How much came behind the switch of protocols, while this side talks."""
    server.settimeout(10)
    peer, got = server.accept()[0], 0
    over = threading.Event()

    def talk() -> None:
        with suppress(OSError):
            while not over.wait(0.005):
                peer.sendall(b"d" * 2000)

    with peer:
        peer.settimeout(10)
        peer.recv(65536)
        peer.sendall(SWITCH)
        talking = threading.Thread(target=talk)
        talking.start()
        time.sleep(0.3)
        with suppress(OSError):
            while data := peer.recv(65536):
                got += len(data)
                time.sleep(0.001)
        over.set()
        talking.join()
    return got


def _read_slowly(server: socket.socket, *, pause_s: float = 0.001) -> int:
    """How much came behind the switch of protocols."""
    server.settimeout(10)
    peer, got = server.accept()[0], 0
    with peer:
        peer.settimeout(10)
        peer.recv(65536)
        peer.sendall(SWITCH)
        time.sleep(0.3)
        while data := peer.recv(65536):
            got += len(data)
            time.sleep(pause_s)
    return got


def _say_and_leave(port: int, size: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(12)
        client.sendall(get("/v1/realtime", *UPGRADE))
        assert b"101" in client.recv(4096)
        client.sendall(b"u" * size)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass


@pytest.mark.parametrize("tls", [False, True])
async def test_last_words_in_a_tunnel_arrive(upstream: Upstream, serve: Serve, tmp_path: Path, *, tls: bool) -> None:
    """A client that says much and closes its side has said it, whether or not the upstream keeps up with it."""
    more: dict[str, Any] = {}
    context = None
    if tls:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        more["ca_file"] = str(tmp_path / "ca.pem")
    up = await upstream([SWITCH, 20.0], tls=context)
    side = await serve(f"http{'s' if tls else ''}://localhost:{up.port}", **more)

    def talk() -> None:
        with socket.create_connection(("127.0.0.1", side.port)) as client:
            client.settimeout(8)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_000_000)
            client.sendall(get("/v1/realtime", *UPGRADE))
            assert b"101" in client.recv(4096)
            client.sendall(b"u" * LARGE)
            client.shutdown(socket.SHUT_WR)
            client.recv(1)

    await asyncio.wait_for(asyncio.to_thread(talk), 20)
    (peer,) = up.peers
    assert await up.until(lambda: peer.lost.is_set())
    assert peer.bytes_received >= LARGE


async def test_who_holds_an_answered_connection_open_is_left_in_the_end(upstream: Upstream, serve: Serve) -> None:
    """Without a limit for clients that take nothing, too: this one has taken all, late, and its upload is not over."""
    up = await upstream([JSON + b"content-length: %d\r\n\r\n" % LARGE + b"r" * LARGE, 20.0], early=True)
    side = await serve(up, downstream_stall_timeout="0")

    def ask() -> int:
        got = 0
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.connect(("127.0.0.1", side.port))
            client.settimeout(8)
            client.sendall(post("/v1/files", b"x" * 300_000)[:100_000])
            while got < LARGE - 3_000_000:  # the rest lies in buffers: the answer is over for the sidecar
                got += len(client.recv(65536))
            time.sleep(3.5)
            while data := client.recv(65536):
                got += len(data)
            time.sleep(4)
            assert not side.app.plane.connections
        return got

    assert await asyncio.to_thread(ask) > LARGE


async def test_a_late_piece_of_a_body_moves_no_timer_of_its_early_answer(upstream: Upstream, serve: Serve) -> None:
    """A stream that has begun may be silent for `idle_timeout`, whatever the client still sends."""
    up = await upstream([SSE_HEAD, delta("a"), 2.5, delta("b"), b"0\r\n\r\n"], early=True)
    side = await serve(up, body_stall_timeout="1s", idle_timeout="6s")
    async with connected(side.port) as client:
        client.send(post("/v1/files", b"x" * 300_000)[:-1000])
        await client.until(b"data:")
        await asyncio.sleep(0.5)
        client.send(b"x" * 500)
        assert (await client.response()).end == "whole"


async def test_a_last_piece_of_a_body_cuts_no_answer_that_is_read_slowly(upstream: Upstream, serve: Serve) -> None:
    """The upstream has answered: that the client takes its time is no silence of the upstream's."""
    up = await upstream([JSON + b"content-length: %d\r\n\r\n" % LARGE + b"r" * LARGE, 9.0], early=True)
    side = await serve(up, body_stall_timeout="1s", idle_timeout="1s", first_byte_timeout="1s")
    body = post("/v1/files", b"x" * 300_000)

    def ask() -> int:
        got = 0
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.connect(("127.0.0.1", side.port))
            client.settimeout(8)
            client.sendall(body[:-10])
            time.sleep(0.5)
            client.sendall(body[-10:])
            time.sleep(2.5)
            while got < LARGE and (data := client.recv(65536)):
                got += len(data)
        return got

    assert await asyncio.to_thread(ask) >= LARGE


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_answer_that_ends_with_its_tls_connection_ends_at_once(
    upstream: Upstream, serve: Serve, listener_tls: tuple[dict[str, Path], ssl.SSLContext], version: bytes
) -> None:
    """Behind an upload that is whole nothing more can come: the end is said, and not waited for."""
    files, context = listener_tls
    up = await upstream([JSON + b"\r\ndone", "close"])
    side = await serve(up, **files)
    wire = post("/v1/files", b"x" * 300_000).replace(b"HTTP/1.1", b"HTTP/" + version, 1)

    def ask() -> tuple[bytes, float]:
        raw = socket.create_connection(("127.0.0.1", side.port))
        with context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False) as client:
            client.settimeout(6)
            client.sendall(wire)
            began, got = monotonic(), b""
            while data := client.recv(65536):
                got += data
            return got, monotonic() - began

    got, took_s = await asyncio.to_thread(ask)
    assert got.endswith(b"done")
    assert took_s < 1.5, "the end was waited for"
