"""Faults beneath TLS: a relay spoils the handshake and the records between the sidecar and an upstream."""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trustme

from sidecar.clock import monotonic
from sidecar.core.types import Settled
from tests.fixtures.relay import Kind, Relay, Toxic
from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import WAIT_S, call, connected, get, ok, post


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def server(authority: trustme.CA, request: pytest.FixtureRequest) -> ssl.SSLContext:
    """What the upstream speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = request.param
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return file


EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"  # its connection's end is its own
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"  # so is its
WHOLE = b'{"id":"c","model":"m","choices":[{"index":0,"message":{"content":"abc"},"finish_reason":"stop"}]}'
FIRST = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


def then(*toxics: Toxic) -> Callable[[int, int], Sequence[Toxic]]:
    """What a relay does once it is turned."""
    return lambda number, _: toxics if number else ()


@pytest.mark.parametrize("toxic", [None, "half_close", "truncate"])
@pytest.mark.parametrize("first", [EVENTS + FIRST, JSON + WHOLE[:-20]], ids=["stream", "whole"])
@pytest.mark.parametrize("is_over", [False, True], ids=["amid", "behind its last byte"])
async def test_an_answer_without_a_length_ends_with_its_tls(
    server: ssl.SSLContext,
    ca_file: Path,
    upstream: Upstream,
    serve: Serve,
    first: bytes,
    is_over: bool,
    toxic: Kind | None,
) -> None:
    """RFC 9112 section 9.8: it is whole only if a valid closure alert came, as anybody on the way can end a connection. One
    that says itself that it is over needs none: a stream by its last event, JSON by its last bracket."""
    said = (b"data: [DONE]\n\n" if first.startswith(EVENTS) else WHOLE[-20:]) if is_over else b""
    go = asyncio.Event()
    up = await upstream([first + said, go, "close"], tls=server)
    async with Relay(up.port, then(*([Toxic(toxic, "down")] if toxic else [])), sealed=True) as relay:
        side = await serve(f"https://localhost:{relay.port}", ca_file=ca_file)
        async with connected(side.port) as client:
            client.send(post())
            await client.until((first + said).partition(b"\r\n\r\n")[2])
            relay.turn()
            go.set()
            whole = toxic is None or is_over
            assert (await client.response()).end == ("eof" if whole else "reset")
        good = whole and (is_over or first.startswith(EVENTS))  # half of a JSON is none, however it ends
        assert (side.books.completed, side.books.failed) == ((1, 0) if good else (0, 1))


@pytest.mark.parametrize(
    ("said", "error"), [(b"", b"connect"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"tls")], ids=["end", "plain"]
)
async def test_a_server_that_speaks_or_ends_before_the_handshake(
    ca_file: Path, serve: Serve, said: bytes, error: bytes
) -> None:
    """It does so while TLS is being laid over the connection: told at once as what it is, and no bug of ours."""
    peers: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)

        def greet() -> None:
            for _ in range(20):
                peers.append(listener.accept()[0])
                peers[-1].sendall(said)
                if not said:
                    peers[-1].shutdown(socket.SHUT_WR)

        side = await serve(f"https://127.0.0.1:{listener.getsockname()[1]}", ca_file=ca_file)
        greeting = asyncio.ensure_future(asyncio.to_thread(greet))
        for _ in range(20):
            got = await call(side.port, post())
            assert (got.status, got.value(b"x-sidecar-error"), b"TLS" in got.body) == (502, error, True)
        await greeting
    for peer in peers:
        peer.close()


async def test_a_server_that_asks_for_a_certificate(
    server: ssl.SSLContext, authority: trustme.CA, ca_file: Path, serve: Serve
) -> None:
    """There is none to show: its alert comes in the handshake, with TLS 1.3 behind it, and is told by its name."""
    server.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(server)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)

        def refuse() -> None:
            peer = server.wrap_socket(listener.accept()[0], server_side=True, do_handshake_on_connect=False)
            with peer:
                with pytest.raises(ssl.SSLError, match="did not return a certificate"):
                    peer.do_handshake()
                while socket.socket.recv(peer, 65536):  # else a reset overtakes the alert
                    pass

        side = await serve(f"https://localhost:{listener.getsockname()[1]}", ca_file=ca_file)
        seen: list[Settled] = []
        side.app.plane.emit = seen.append
        refusing = asyncio.ensure_future(asyncio.to_thread(refuse))
        got = await call(side.port, post())
        await refusing
    assert (got.status, got.value(b"x-sidecar-error"), [one.outcome.error for one in seen]) == (502, b"tls", ["tls"])
    is_old = server.maximum_version is ssl.TLSVersion.TLSv1_2
    assert (b"SSLV3_ALERT_HANDSHAKE_FAILURE" if is_old else b"TLSV13_ALERT_CERTIFICATE_REQUIRED") in got.body


async def test_a_client_that_does_not_shake_hands(
    serve: Serve, listener_tls: tuple[dict[str, Path], ssl.SSLContext]
) -> None:
    """The TLS handshake stands before the head, and has no more time than that."""
    side = await serve("http://127.0.0.1:1", **listener_tls[0], head_timeout="300ms")
    async with connected(side.port) as client:
        client.send(b"\x16\x03\x01")
        assert (await client.response()).end in ("eof", "reset")


async def test_a_ca_file_that_changes(server: ssl.SSLContext, ca_file: Path, upstream: Upstream, serve: Serve) -> None:
    """It is read again before the next handshake; while it is being written, what it said before counts."""
    up = await upstream([ok(b"[1]", b"connection: close")], tls=server)
    side = await serve(f"https://localhost:{up.port}", ca_file=ca_file)
    trustme.Blob(b"half a file").write_to_path(ca_file)
    assert (await call(side.port, post())).status == 200
    new = trustme.CA()
    new.issue_cert("localhost").configure_cert(server)
    assert (await call(side.port, post())).value(b"x-sidecar-error") == b"tls"
    new.cert_pem.write_to_path(ca_file)
    assert (await call(side.port, post())).status == 200


async def test_who_reads_slowly_over_tls_reads_all(
    upstream: Upstream,
    serve: Serve,
    listener_tls: tuple[dict[str, Path], ssl.SSLContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop gives a TLS connection 30 s to send what is left when it is closed: the end of an answer, without a word."""
    monkeypatch.setattr("asyncio.sslproto.constants.SSL_SHUTDOWN_TIMEOUT", 0.3)  # uvloop's cannot be set
    files, context = listener_tls
    size = 2_000_000
    up = await upstream([b"HTTP/1.1 200 OK\r\n\r\n" + b"r" * size, "close"])
    side = await serve(up, **files)

    def ask() -> int:
        got = 0
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            raw.settimeout(WAIT_S)
            raw.connect(("127.0.0.1", side.port))
            with context.wrap_socket(raw, server_hostname="localhost") as client:
                while not side.app.plane.connections:  # its own part of the handshake may be over first
                    time.sleep(0.001)
                (down,) = side.app.plane.connections
                down.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
                client.sendall(get())
                while not side.books.completed:
                    got += len(client.recv(4096))
                time.sleep(1)
                while data := client.recv(65536):
                    got += len(data)
        return got

    assert await asyncio.to_thread(ask) > size


async def test_who_does_not_end_its_tls_is_left(
    upstream: Upstream,
    serve: Serve,
    listener_tls: tuple[dict[str, Path], ssl.SSLContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its answer is with it, and the connection closed: that it says so, too, is waited for, but not for a day."""
    monkeypatch.setattr("sidecar.proxy.downstream._TLS_END_S", 0.2)
    files, context = listener_tls
    up = await upstream()
    side = await serve(up, **files, downstream_stall_timeout="1s")

    def ask() -> None:
        raw = socket.create_connection(("127.0.0.1", side.port), WAIT_S)
        with context.wrap_socket(raw, server_hostname="localhost") as client:
            client.sendall(get("/v1/models", b"Connection: close"))
            while client.recv(65536):
                pass
            assert side.books.completed
            end = monotonic() + WAIT_S
            while side.app.plane.connections and monotonic() < end:
                time.sleep(0.01)
            assert not side.app.plane.connections

    await asyncio.to_thread(ask)
