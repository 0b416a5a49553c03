"""Upstreams behind TLS and behind an egress proxy: verified, or not one byte of the request leaves."""

import asyncio
import datetime
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from sidecar.clock import wall
from sidecar.errors import ConfigError
from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import SSE_HEAD, TOLD_S, WAIT_S, call, chunked, connected, delta, get, ok, post


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return file


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


async def test_a_verified_upstream_serves(
    authority: trustme.CA, ca_file: Path, upstream: Upstream, serve: Serve
) -> None:
    """SEC-TLS: custom CA file; connections are kept; a stream passes; a cut is seen."""
    up = await upstream(
        [ok(b"[1]")],
        [SSE_HEAD + chunked(b"data: a\n\n")],
        [SSE_HEAD + delta("a"), 0.05, "reset"],
        tls=server_context(authority.issue_cert("localhost")),
    )
    side = await serve(f"https://localhost:{up.port}", ca_file=ca_file)
    assert (await call(side.port, post())).body == b"[1]"
    assert (await call(side.port, post())).body == b"data: a\n\n"
    assert (await call(side.port, post())).end in ("eof", "reset")
    assert len(up.peers) == 1
    assert up.requests[0].value(b"host") == b"localhost:%d" % up.port


async def test_a_client_that_leaves_closes_the_tls_connection(
    authority: trustme.CA, ca_file: Path, upstream: Upstream, serve: Serve
) -> None:
    """GW-21, INC-4: within 100 ms over TLS too."""
    up = await upstream([60.0], tls=server_context(authority.issue_cert("localhost")))
    side = await serve(f"https://localhost:{up.port}", ca_file=ca_file)
    async with connected(side.port) as client:
        client.send(post())
        assert await up.until(lambda: bool(up.requests))
        client.close()
        assert await up.until(lambda: up.peers[0].lost.is_set(), TOLD_S)


@pytest.mark.parametrize("pause_s", [0.0, 0.001])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_the_end_of_an_answer_whose_server_closes_behind_it(
    authority: trustme.CA, ca_file: Path, serve: Serve, framing: str, pause_s: float
) -> None:
    """All of it comes, whoever is slower: uvloop throws away what lies in a TLS transport that is paused when a peer ends
    its side, be it for a client that reads slowly or for one turn of the loop."""
    size = 9_000_000
    head, body = b"HTTP/1.1 200 OK\r\nconnection: close\r\n", b"r" * size + b"end" * 100
    if framing == "length":
        head += b"content-length: %d\r\n" % len(body)
    elif framing == "chunked":
        head, body = head + b"transfer-encoding: chunked\r\n", chunked(body)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        side = await serve(f"https://localhost:{server.getsockname()[1]}", ca_file=ca_file)

        def answer() -> None:
            peer = server.accept()[0]
            peer.settimeout(WAIT_S)
            with server_context(authority.issue_cert("localhost")).wrap_socket(peer, server_side=True) as secured:
                secured.recv(65536)
                secured.sendall(head + b"\r\n" + body)
                if framing == "close":
                    secured.unwrap()  # without its end it would not be whole

        def ask() -> bytes:
            got = bytearray()
            with socket.create_connection(("127.0.0.1", side.port), WAIT_S) as client:
                client.sendall(get("/v1/files/x"))
                while not (framing != "close" and got.endswith(body[-64:])) and (data := client.recv(65536)):
                    got += data
                    time.sleep(pause_s)
            return bytes(got)

        got, _ = await asyncio.gather(asyncio.to_thread(ask), asyncio.to_thread(answer))
    assert got.partition(b"\r\n\r\n")[2] == body
    assert (side.books.completed, side.books.failed) == (1, 0)


@pytest.mark.parametrize("what", ["expired", "wrong host", "self-signed", "no ca file", "old tls"])
async def test_an_upstream_that_cannot_be_verified_gets_no_byte(
    authority: trustme.CA, ca_file: Path, upstream: Upstream, serve: Serve, what: str
) -> None:
    """SEC-TLS: 502 and zero request bytes."""
    issuer = trustme.CA() if what == "self-signed" else authority
    past = datetime.datetime.fromtimestamp(wall() - 86400, datetime.UTC)
    certificate = issuer.issue_cert(
        "other.example" if what == "wrong host" else "localhost", not_after=past if what == "expired" else None
    )
    context = server_context(certificate)
    if what == "old tls":
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AES128-SHA@SECLEVEL=0")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    up = await upstream(tls=context)
    extra = {} if what == "no ca file" else {"ca_file": ca_file}
    side = await serve(f"https://localhost:{up.port}", **extra)
    got = await call(side.port, post())
    if what == "old tls" and got.status == 200:
        return  # the platform's library still offers that cipher over TLS 1.2, which is what we promise at least
    assert got.status == 502
    assert got.value(b"x-sidecar-error") in ((b"tls", b"connect") if what == "old tls" else (b"tls",))
    assert not up.requests
    assert all(peer.bytes_received == 0 for peer in up.peers)


async def test_a_plain_upstream_behind_https_gets_no_byte(upstream: Upstream, serve: Serve) -> None:
    """SEC-TLS: no fallback to plain text."""
    up = await upstream()
    side = await serve(f"https://localhost:{up.port}", connect_timeout="1s")
    got = await call(side.port, post("/v1/chat/completions", b"{}", b"Authorization: Bearer canary"))
    assert got.status in (502, 504)
    assert all(b"canary" not in peer.data for peer in up.peers)


async def test_an_unreadable_ca_file_is_told_at_start(serve: Serve, tmp_path: Path) -> None:
    """SEC-TLS: never a silent fallback to the system's list."""
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(ConfigError, match="ca_file"):
        await serve("https://localhost:1", ca_file=tmp_path / "ca.pem")


class EgressProxy:
    """A CONNECT proxy: remembers heads, tunnels to 127.0.0.1, or answers with `refusal`."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.refusal = b""
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if self.refusal:
            writer.write(self.refusal)
            return
        port = int(head.split(b" ")[1].rpartition(b":")[2])
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
        self._writers.append(other_writer)
        writer.write(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
        for source, sink in ((reader, other_writer), (other_reader, writer)):
            task = asyncio.get_running_loop().create_task(self._pipe(source, sink))
            self._tasks.add(task)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
        except OSError:
            pass  # a reset is an end
        finally:
            sink.transport.abort()

    async def close(self, server: asyncio.Server) -> None:
        server.close()
        for writer in self._writers:
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=WAIT_S)


@pytest.fixture
async def egress() -> AsyncIterator[EgressProxy]:
    proxy = EgressProxy()
    server = await proxy.start()
    yield proxy
    await proxy.close(server)


async def test_https_goes_through_connect(
    authority: trustme.CA, ca_file: Path, upstream: Upstream, serve: Serve, egress: EgressProxy
) -> None:
    """HTTPS_PROXY with its credentials; TLS is verified end to end; the connection is kept; a stream passes."""
    up = await upstream(
        [ok(b"[1]")], [SSE_HEAD + chunked(b"data: a\n\n")], tls=server_context(authority.issue_cert("upstream.test"))
    )
    side = await serve(
        f"https://upstream.test:{up.port}", ca_file=ca_file, https_proxy=f"http://user:p%40ss@127.0.0.1:{egress.port}"
    )
    assert (await call(side.port, post())).body == b"[1]"
    assert (await call(side.port, post())).body == b"data: a\n\n"
    where = b"upstream.test:%d" % up.port
    assert egress.heads == [
        b"CONNECT %b HTTP/1.1\r\nHost: %b\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n" % (where, where)
    ]
    assert all(b"roxy" not in seen.head for seen in up.requests)


async def test_a_client_that_leaves_closes_the_tunnel(
    authority: trustme.CA, ca_file: Path, upstream: Upstream, serve: Serve, egress: EgressProxy
) -> None:
    """GW-21, INC-4: behind an egress proxy too."""
    up = await upstream([60.0], tls=server_context(authority.issue_cert("upstream.test")))
    side = await serve(
        f"https://upstream.test:{up.port}", ca_file=ca_file, https_proxy=f"http://127.0.0.1:{egress.port}"
    )
    async with connected(side.port) as client:
        client.send(post())
        assert await up.until(lambda: bool(up.requests))
        client.close()
        assert await up.until(lambda: up.peers[0].lost.is_set(), TOLD_S)
    assert side.books.aborted == 1


@pytest.mark.parametrize(
    "refusal", [b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b"HTTP/1.1 403 No\r\n\r\n", b"garbage\r\n\r\n"]
)
async def test_a_proxy_that_refuses_is_a_502(serve: Serve, egress: EgressProxy, refusal: bytes) -> None:
    """GW-24: told as what it is; nothing goes directly instead."""
    egress.refusal = refusal
    side = await serve("https://upstream.test:443", https_proxy=f"http://127.0.0.1:{egress.port}")
    got = await call(side.port, post())
    assert (got.status, got.value(b"x-sidecar-error")) == (502, b"egress")


@pytest.mark.parametrize("no_proxy", ["localhost", "*", "example.com,LOCALHOST"])
async def test_no_proxy_goes_directly(
    authority: trustme.CA, ca_file: Path, upstream: Upstream, serve: Serve, egress: EgressProxy, no_proxy: str
) -> None:
    """Hosts of NO_PROXY are reached without it."""
    up = await upstream(tls=server_context(authority.issue_cert("localhost")))
    side = await serve(
        f"https://localhost:{up.port}",
        ca_file=ca_file,
        https_proxy=f"http://127.0.0.1:{egress.port}",
        no_proxy=no_proxy,
    )
    assert (await call(side.port, post())).status == 200
    assert not egress.heads


async def test_plain_http_does_not_go_through_the_proxy(upstream: Upstream, serve: Serve, egress: EgressProxy) -> None:
    """HTTPS_PROXY is for https."""
    up = await upstream()
    side = await serve(up, https_proxy=f"http://127.0.0.1:{egress.port}")
    assert (await call(side.port, get())).status == 200
    assert not egress.heads


async def test_ipv6_addresses_are_bracketed(serve: Serve, egress: EgressProxy) -> None:
    """RFC 9110 9.3.6: the authority of CONNECT."""
    egress.refusal = b"HTTP/1.1 403 No\r\n\r\n"
    side = await serve("https://[::1]:8443", https_proxy=f"http://127.0.0.1:{egress.port}")
    await call(side.port, post())
    assert egress.heads[0].startswith(b"CONNECT [::1]:8443 HTTP/1.1\r\nHost: [::1]:8443\r\n")


async def test_tls_on_the_listener(
    upstream: Upstream, serve: Serve, listener_tls: tuple[dict[str, Path], ssl.SSLContext]
) -> None:
    """TLS for clients; streams, errors and cuts behave as without."""
    files, context = listener_tls
    up = await upstream([ok(b"[1]")], [SSE_HEAD + delta("a"), 0.05, "reset"])
    side = await serve(up, **files)
    async with connected(side.port, tls=context) as client:
        client.send(post())
        assert (await client.response()).body == b"[1]"
        client.send(post())
        got = await client.response()
        assert got.end in ("eof", "reset")
        assert b'"a"' in got.raw
    async with connected(side.port, tls=context) as client:
        client.send(get("/nothing"))
        assert (await client.response()).status == 404
