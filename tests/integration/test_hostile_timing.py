"""Desynchronisation by time: an answer before the request's end, and a client that goes on as if nothing were."""

import asyncio

import pytest

from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import call, connected, ok, post

HIDDEN = b"GET /v1/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATHS = ["/v1/files", "/v1/chat/completions"]


@pytest.mark.parametrize("size", [len(HIDDEN), 400_000])
@pytest.mark.parametrize("expect", [(), (b"Expect: 100-continue",), (b"Expect: y 100-continue",)])
async def test_an_early_answer_desynchronises_nothing(
    upstream: Upstream, serve: Serve, expect: tuple[bytes, ...], size: int
) -> None:
    """INC-42, 0.CL: the upstream answers before the body is there; the rest of the body, a request for a smuggler, is
    never at the beginning of a connection, of its own or of the next client's."""
    up = await upstream([ok()], early=True)
    side = await serve(up)
    head, _, _ = post("/v1/files", b"x" * size, *expect).partition(b"\r\n\r\n")
    async with connected(side.port) as client:
        client.send(head + b"\r\n\r\n" + b"x" * (size - len(HIDDEN)))
        await asyncio.sleep(0.05)
        client.send(HIDDEN)
        await client.ended(0.2)
        assert client.data.count(b"HTTP/1.1 200") <= 1, "the body was taken for a request"
        assert client.data.replace(b"HTTP/1.1 100", b"").count(b"HTTP/1.1 ") <= 1
        other = await call(side.port, post("/v1/files", b"another"))
        assert other.status == 200
    assert not [peer for peer in up.peers if peer.data.startswith(b"GET")]
    for peer in up.peers:
        assert peer.data.count(b"POST ") == 1, "a connection with half a body was used again"
    assert side.balanced


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_that_goes_on_is_not_a_request(upstream: Upstream, serve: Serve, path: str) -> None:
    """INC-42, CL.0: refused from the head alone (413, 404, 421), the body behind it is not read as a request."""
    up = await upstream()
    side = await serve(up, max_body=10, route_body_max=10)
    for request in (
        post(path, HIDDEN),
        post("/nowhere", HIDDEN * 3),
        post(path, HIDDEN).replace(b"localhost", b"evil.example"),
        post(path, HIDDEN, b"Origin: https://evil.example"),
        post(path, HIDDEN, b"Expect: 100-continue"),
    ):
        for cut in (len(request) - len(HIDDEN), len(request)):
            async with connected(side.port) as client:
                client.send(request[:cut])
                await asyncio.sleep(0.02)
                client.send(request[cut:])
                got = await client.response()
                assert got.status in (403, 404, 413, 421)
                assert await client.ended(0.1) in ("eof", "silent", "reset")
                assert not client.data, "the body was answered"
    assert not up.requests


async def test_a_refused_upgrade_is_no_tunnel(upstream: Upstream, serve: Serve) -> None:
    """INC-42: the upstream says no to an upgrade: what follows is read as a request, with all its checks."""
    up = await upstream([ok(status=b"426 Upgrade Required")])
    side = await serve(up)
    head = b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    head += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 777\r\n\r\n"
    async with connected(side.port) as client:
        client.send(head)
        assert (await client.response()).status == 426
        client.send(HIDDEN.replace(b"localhost", b"evil.example"))
        assert (await client.response()).status == 421
    assert [one.line for one in up.requests] == [b"GET /v1/realtime HTTP/1.1"]
