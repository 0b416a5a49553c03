"""What goes through is what came: the fidelity probes on raw sockets, on both event loops."""

import asyncio

import pytest

from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import SSE_HEAD, TOLD_S, call, chunked, connected, delta, get, ok, post

CHAT = b'{"model":"m","messages":[]}'


def without(lines: list[bytes], *names: bytes) -> list[bytes]:
    return [line for line in lines if not line.lower().startswith(tuple(name + b":" for name in names))]


async def test_nothing_is_added_to_a_bare_get(upstream: Upstream, serve: Serve) -> None:
    """FID-1, INC-2: the upstream gets Host and nothing else."""
    up = await upstream()
    side = await serve(up)
    await call(side.port, b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert up.requests[0].raw == b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % up.port


async def test_latin_1_bytes_are_kept(upstream: Upstream, serve: Serve) -> None:
    """FID-2: 0xE9 in a value arrives as 0xE9, both ways."""
    up = await upstream([ok(b"{}", b"X-Name: caf\xe9")])
    side = await serve(up)
    got = await call(side.port, post("/v1/chat/completions", CHAT, b"X-User: Ren\xe9\xff"))
    assert up.requests[0].value(b"x-user") == b"Ren\xe9\xff"
    assert got.value(b"x-name") == b"caf\xe9"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/a/../b",
        "/v1/%7Ea",
        "/v1/a%2fb",
        "/v1/a%3Ab",
        "/v1/[1]?x=[y]&z={}|^",
        "/v1//a//",
        "/v1/a;b?c=d?e",
        "/v1/\xe9",
    ],
)
async def test_path_bytes_are_kept(upstream: Upstream, serve: Serve, path: str) -> None:
    """FID-3: no decoding, no normalising, no quoting."""
    up = await upstream()
    side = await serve(up)
    got = await call(side.port, get(path))
    assert got.status in (200, 400)
    if path.isascii():
        assert up.requests[0].line == b"GET %b HTTP/1.1" % path.encode("latin-1")
    else:
        assert all(b"/v1/\xe9" in seen.line for seen in up.requests)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
async def test_a_compressed_request_body_is_not_touched(upstream: Upstream, serve: Serve, path: str) -> None:
    """FID-4: Content-Encoding: gzip passes as bytes."""
    up = await upstream()
    side = await serve(up)
    body = bytes(range(256)) * 20
    await call(side.port, post(path, body, b"Content-Encoding: gzip"))
    assert up.requests[0].body == body
    assert up.requests[0].value(b"content-encoding") == b"gzip"


async def test_expect_is_answered_once_and_not_forwarded(upstream: Upstream, serve: Serve) -> None:
    """FID-5: 100 Continue at once, then the body goes up without Expect."""
    up = await upstream()
    side = await serve(up)
    async with connected(side.port) as client:
        request = post("/v1/chat/completions", CHAT, b"Expect: 100-continue")
        client.send(request[: -len(CHAT)])
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.data = b""
        client.send(CHAT)
        got = await client.response()
    assert got.status == 200
    assert up.requests[0].body == CHAT
    assert up.requests[0].value(b"expect") is None


async def test_a_second_100_of_the_upstream_is_not_passed(upstream: Upstream, serve: Serve) -> None:
    """FID-5: the client that was told to continue is not told again."""
    up = await upstream([b"HTTP/1.1 100 Continue\r\n\r\n", 0.02, b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + ok()])
    side = await serve(up)
    got = await call(side.port, post())
    assert got.raw.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_trailers_of_a_response_pass(upstream: Upstream, serve: Serve) -> None:
    """FID-6: chunk framing goes down as it came, extensions and trailers included."""
    wire = b"3;a=b\r\nabc\r\n0\r\nX-Checksum: 1\r\n\r\n"
    up = await upstream([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Checksum\r\n\r\n" + wire])
    side = await serve(up)
    got = await call(side.port, get())
    assert got.wire_body == wire
    assert got.value(b"trailer") == b"X-Checksum"


async def test_no_cookie_is_remembered(upstream: Upstream, serve: Serve) -> None:
    """FID-9: Set-Cookie passes, twice and in order, and is never sent back by us."""
    up = await upstream([ok(b"{}", b"Set-Cookie: a=1", b"set-cookie: b=2")])
    side = await serve(up)
    got = await call(side.port, get())
    await call(side.port, get())
    assert [line for line in got.lines if b"ookie" in line] == [b"Set-Cookie: a=1", b"set-cookie: b=2"]
    assert up.requests[1].value(b"cookie") is None


@pytest.mark.parametrize("size", [8_000, 9_000, 20_000, 32_768, 60_000])
async def test_long_credentials_pass(upstream: Upstream, serve: Serve, size: int) -> None:
    """FID-10: at least 32 kB."""
    up = await upstream()
    side = await serve(up)
    got = await call(side.port, post("/v1/chat/completions", CHAT, b"Authorization: Bearer " + b"k" * size))
    assert got.status == 200
    assert len(up.requests[0].value(b"authorization") or b"") == size + 7


@pytest.mark.parametrize("pieces", [1, 7])
async def test_a_head_over_the_limit_is_431(upstream: Upstream, serve: Serve, pieces: int) -> None:
    """FID-10: 70 kB in one header: 431, closed, nothing forwarded, however it arrives."""
    up = await upstream()
    side = await serve(up)
    request = post("/v1/chat/completions", CHAT, b"Authorization: Bearer " + b"k" * 70_000)
    async with connected(side.port) as client:
        step = len(request) // pieces + 1
        for at in range(0, len(request), step):
            client.send(request[at : at + step])
            await asyncio.sleep(0.01)
        got = await client.response()
        assert got.status == 431
        assert await client.ended() == "eof"
    assert not up.requests
    assert not up.peers


async def test_a_long_response_header_passes(upstream: Upstream, serve: Serve) -> None:
    """FID-11: 9 kB and 60 kB."""
    up = await upstream([ok(b"{}", b"X-Long: " + b"x" * 60_000, b"X-Short: " + b"y" * 9_000)])
    side = await serve(up)
    got = await call(side.port, get())
    assert len(got.value(b"x-long") or b"") == 60_000


async def test_case_order_and_duplicates_are_kept(upstream: Upstream, serve: Serve) -> None:
    """FID-18: of requests and of responses."""
    lines = [b"X-B: 1", b"x-a: 2", b"X-B:3", b"aCCEPT: a", b"Accept:\tb \t", b"X-Empty:"]
    up = await upstream([ok(b"{}", *lines)])
    side = await serve(up)
    got = await call(side.port, post("/v1/chat/completions", CHAT, *lines))
    assert without(up.requests[0].lines, b"host", b"content-type", b"content-length") == lines
    assert without(got.foreign_lines, b"content-type") == lines


@pytest.mark.parametrize("before", [True, False])
async def test_fields_that_connection_names_are_removed(upstream: Upstream, serve: Serve, before: bool) -> None:
    """FID-19: RFC 9110 7.6.1, wherever in the head the field stands, both ways."""
    up = await upstream([ok(b"{}", b"Connection: x-hop", b"X-Hop: 1", b"X-Kept: 2")])
    side = await serve(up)
    named, length = b"X-Secret: s\r\n", b"Content-Length: 2\r\n"
    block = named + length if before else length + named
    got = await call(
        side.port,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: X-Secret\r\n" + block + b"\r\n{}",
    )
    assert up.requests[0].value(b"x-secret") is None
    assert up.requests[0].body == b"{}"
    assert got.value(b"x-hop") is None
    assert got.value(b"x-kept") == b"2"


async def test_hop_by_hop_fields_end_here(upstream: Upstream, serve: Serve) -> None:
    """FID-19: each connection has its own."""
    hop = [
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"TE: trailers",
        b"Upgrade: h2c",
        b"HTTP2-Settings: a",
    ]
    up = await upstream([ok(b"{}", b"Keep-Alive: timeout=9", b"Proxy-Authenticate: x")])
    side = await serve(up)
    got = await call(side.port, post("/v1/chat/completions", CHAT, *hop, b"Proxy-Authorization: Basic x"))
    assert without(up.requests[0].lines, b"host", b"content-type", b"content-length") == []
    assert got.value(b"keep-alive") is None
    assert got.value(b"proxy-authenticate") is None


@pytest.mark.parametrize("host", [b"localhost", b"127.0.0.1"])
async def test_absolute_form_never_reaches_a_second_host(upstream: Upstream, serve: Serve, host: bytes) -> None:
    """FID-21, SEC-SSRF: 400."""
    up, other = await upstream(), await upstream()
    side = await serve(up)
    got = await call(side.port, b"GET http://127.0.0.1:%d/v1/models HTTP/1.1\r\nHost: %b\r\n\r\n" % (other.port, host))
    assert got.status == 400
    assert not other.peers
    assert not up.peers


async def test_connect_is_refused(upstream: Upstream, serve: Serve) -> None:
    """FID-22: this is no forward proxy."""
    up = await upstream()
    side = await serve(up)
    got = await call(side.port, b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % up.port)
    assert 400 <= got.status < 500
    assert not up.peers


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", [b"200 OK", b"204 No Content", b"304 Not Modified"])
async def test_responses_without_a_body_end_with_their_head(
    upstream: Upstream, serve: Serve, method: str, status: bytes
) -> None:
    """RFC 9112 6.3: HEAD, 204 and 304 with a Content-Length are whole; the connection serves the next request."""
    if method == "GET" and status == b"200 OK":
        up = await upstream([ok(b"")])
    else:
        up = await upstream([b"HTTP/1.1 " + status + b"\r\ncontent-length: 5\r\n\r\n"])
    side = await serve(up)
    async with connected(side.port) as client:
        for _ in range(2):
            client.send(b"%b /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n" % method.encode())
            got = await client.response(method="HEAD")
            assert got.end == "whole"
            assert got.raw.startswith(b"HTTP/1.1 " + status)
    assert len(up.peers) == 1, "the upstream's connection was not reused"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_no_chunks_are_announced_where_none_come(upstream: Upstream, serve: Serve, status: bytes) -> None:
    """RFC 9112 6.1: a 204 has no Transfer-Encoding. Some servers send one, and an empty body; llhttp (Node) reads both."""
    head = b"HTTP/1.1 " + status + b"\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    up = await upstream([head + b"0\r\n\r\n"])
    side = await serve(up)
    async with connected(side.port) as client:
        for _ in range(2):
            client.send(get())
            got = await client.response()
            assert got.end == "whole"
            assert got.raw.startswith(b"HTTP/1.1 " + status + b"\r\nX-A: 1\r\nx-sidecar-")
            assert got.value(b"transfer-encoding") is None


@pytest.mark.parametrize(
    "request_line", [b"PATCH /v1/x", b"DELETE /v1/files/f-1?a=b", b"PUT /v1/x", b"PROPFIND /v1/x", b"OPTIONS /v1/x"]
)
async def test_unknown_methods_and_paths_pass(upstream: Upstream, serve: Serve, request_line: bytes) -> None:
    """GW-34, INC-39: any method and path under /v1 is relayed."""
    up = await upstream([ok(b"[1]", status=b"207 Multi")])
    side = await serve(up)
    got = await call(side.port, request_line + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc")
    assert (got.status, got.body) == (207, b"[1]")
    assert up.requests[0].line == request_line + b" HTTP/1.1"
    assert up.requests[0].body == b"abc"


async def test_realtime_upgrade_is_tunnelled(upstream: Upstream, serve: Serve) -> None:
    """INC-39: /v1/realtime switches protocols; bytes pass both ways, and each side's end reaches the other."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    up = await upstream([switch + b"\x81\x05hello", 2.0])
    side = await serve(up)
    upgrade = [b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: k"]
    async with connected(side.port) as client:
        client.send(get("/v1/realtime?model=m", *upgrade))
        await client.until(b"hello")
        assert client.data == switch + b"\x81\x05hello"
        client.send(b"\x81\x02up")
        assert await up.until(lambda: up.peers[0].data == b"\x81\x02up")
        assert up.requests[0].value(b"upgrade") == b"websocket"
        assert up.requests[0].value(b"connection") == b"Upgrade"
        up.peers[0].transport.close()
        assert await client.ended() == "eof"
    async with connected(side.port) as client:
        client.send(get("/v1/realtime?model=m", *upgrade))
        await client.until(b"hello")
        client.close()
        assert await up.until(lambda: up.peers[-1].lost.is_set(), TOLD_S)
    assert side.balanced


async def test_an_upgrade_elsewhere_is_an_ordinary_request(upstream: Upstream, serve: Serve) -> None:
    """Nothing but /v1/realtime opens a tunnel."""
    up = await upstream()
    side = await serve(up)
    got = await call(side.port, get("/v1/models", b"Connection: Upgrade", b"Upgrade: websocket"))
    assert got.status == 200
    assert up.requests[0].value(b"upgrade") is None


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/realtime"])
async def test_a_101_that_nobody_asked_for_is_an_upstreams_fault(upstream: Upstream, serve: Serve, path: str) -> None:
    """An upstream cannot turn an ordinary request into a tunnel."""
    up = await upstream([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n", 3.0])
    side = await serve(up)
    got = await call(side.port, post(path))
    assert got.status == 502
    assert await up.until(lambda: up.peers[0].lost.is_set(), TOLD_S)


async def test_our_header_names_are_ours_alone(upstream: Upstream, serve: Serve) -> None:
    """The client's x-sidecar-* end here, those of the upstream are replaced."""
    forged = [b"x-sidecar-model: forged", b"X-Sidecar-Foo-Bar: forged", b"x-sidecar-v2: forged"]
    up = await upstream([ok(b"{}", *forged)])
    side = await serve(up)
    got = await call(side.port, post("/v1/chat/completions", CHAT, *forged, b"x-sidecar-session: s"))
    assert b"forged" not in got.raw
    assert b"sidecar" not in up.requests[0].head.lower()
    assert got.value(b"x-sidecar-model") == b"openai/m"
    assert got.value(b"x-sidecar-reason") == b"passthrough"
    assert len(got.value(b"x-sidecar-decision") or b"") == 26


async def test_http_1_0_clients_get_plain_bodies(upstream: Upstream, serve: Serve) -> None:
    """RFC 9112 7.1: chunked is never sent to an HTTP/1.0 client; the close ends the body."""
    up = await upstream([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"abc", b"def")])
    side = await serve(up)
    got = await call(side.port, b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert got.end == "eof"
    assert got.wire_body == b"abcdef"
    assert got.value(b"transfer-encoding") is None
    assert got.value(b"connection") == b"close"


async def test_each_event_is_passed_on_when_it_arrives(upstream: Upstream, serve: Serve) -> None:
    """GW-07, INC-1, INC-3: no event waits for the next one, also with usage asked for: the upstream sends the next one
    only when the client has the one before."""
    has_a, has_b = asyncio.Event(), asyncio.Event()
    up = await upstream([SSE_HEAD + delta("a"), has_a, delta("b"), has_b, delta("c") + b"0\r\n\r\n"])
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(post(body=b'{"model":"m","stream":true,"messages":[]}'))
        assert b'"b"' not in await client.until(b'"a"')
        has_a.set()
        assert b'"c"' not in await client.until(b'"b"')
        has_b.set()
        got = await client.response()
    assert got.end == "whole"
    assert b'"c"' in got.body


async def test_pipelined_requests_are_answered_in_order(upstream: Upstream, serve: Serve) -> None:
    """RFC 9112 9.3.2: many requests in one write, one answer after the other."""
    up = await upstream(by=lambda head: [0.01, ok(head.split(b" ")[1])])
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(b"".join(get(f"/v1/{n}") if n % 2 else post(f"/v1/{n}", b"x" * n) for n in range(20)))
        answers = [await client.response() for _ in range(20)]
    assert [answer.body for answer in answers] == [b"/v1/%d" % n for n in range(20)]
    assert [len(seen.body) for seen in up.requests] == [0 if n % 2 else n for n in range(20)]


async def test_requests_cut_at_every_byte_are_the_same_request(upstream: Upstream, serve: Serve) -> None:
    """INC-10: head and body split at each byte, on one kept connection."""
    up = await upstream()
    side = await serve(up)
    request = post("/v1/chat/completions", b'{"model":"m"}', b"A: b")
    async with connected(side.port) as client:
        for at in range(1, len(request)):
            client.send(request[:at])
            await asyncio.sleep(0.0005)
            client.send(request[at:])
            assert (await client.response()).status == 200
    assert len({seen.raw for seen in up.requests}) == 1


async def test_a_response_cut_at_every_byte_is_the_same_response(upstream: Upstream, serve: Serve) -> None:
    """INC-10: whatever the upstream's write sizes are."""
    wire = b"HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"hello", b"!")
    up = await upstream(*([wire[:at], 0.001, wire[at:]] for at in range(1, len(wire))))
    side = await serve(up)
    async with connected(side.port) as client:
        for _ in range(1, len(wire)):
            client.send(get())
            got = await client.response()
            assert got.wire_body == chunked(b"hello", b"!")
            assert got.foreign_lines == [b"A: b"]


async def test_heads_that_differ_only_in_length_are_told_apart(upstream: Upstream, serve: Serve) -> None:
    """FID-18: the remembered head of a connection is used only for its own bytes."""
    up = await upstream()
    side = await serve(up)
    requests = [
        post("/v1/chat/completions", b"x" * size, b"A: %b" % name)
        for name in (b"1", b"12", b"1")
        for size in (1, 9, 10, 999)
    ]
    async with connected(side.port) as client:
        for request in requests:
            client.send(request)
            assert (await client.response()).status == 200
    host = b"Host: 127.0.0.1:%d" % up.port
    assert [seen.raw for seen in up.requests] == [request.replace(b"Host: localhost", host) for request in requests]
