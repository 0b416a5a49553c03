"""Each fidelity probe twice, on raw sockets: straight to the upstream and through the sidecar; what the upstream received
and what the client got are compared byte for byte. What may differ is named in the probe, and nothing else does."""

import asyncio
import gzip
from dataclasses import dataclass, field

import pytest

from sidecar.clock import monotonic
from tests.integration.conftest import Running, Serve, Upstream
from tests.integration.raw import (
    PROMISED_S,
    SSE_HEAD,
    TOLD_S,
    Response,
    Script,
    ScriptedUpstream,
    call,
    chunked,
    connected,
    delta,
    get,
    ok,
    post,
)

CHAT = b'{"model":"m","messages":[{"role":"user","content":"caf\xc3\xa9 \\u00e9"}],"n":1.0, "x":[1,2 ]}\n'
PATH = "/v1/chat/completions"
LINES = [b"X-B: 1", b"x-a: 2", b"X-B:3", b"aCCEPT: a", b"Accept:\tb \t", b"X-Empty:", b"User-Agent: probe/1"]
HOPS = [b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: trailers", b"HTTP2-Settings: a"]


@dataclass(frozen=True)
class Probe:
    """One request. `gone` are the lines that end at the sidecar."""

    request: bytes
    answer: Script = field(default_factory=lambda: [ok()])
    gone: tuple[bytes, ...] = ()


def upward() -> dict[str, Probe]:
    """Probes of what goes up. The names begin with the ids of docs/cases.md."""
    found = {
        "FID-1 GET": Probe(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        "FID-1 POST": Probe(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"),
        "FID-1 DELETE": Probe(b"DELETE /v1/files/f HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        "FID-2": Probe(post(PATH, CHAT, b"X-User: Ren\xe9\xff", b"X-Utf: Ren\xc3\xa9")),
        "FID-4 chat": Probe(post(PATH, gzip.compress(CHAT, mtime=0), b"Content-Encoding: gzip")),
        "FID-4 files": Probe(post("/v1/files", bytes(range(256)) * 40, b"Content-Encoding: gzip")),
        "FID-5": Probe(post(PATH, CHAT, b"Expect: 100-continue"), gone=(b"Expect: 100-continue",)),
        "FID-9": Probe(get("/v1/models"), [ok(b"{}", b"Set-Cookie: a=1", b"set-cookie: b=2")]),
        "FID-18 POST": Probe(post(PATH, CHAT, *LINES)),
        "FID-18 GET": Probe(get("/v1/models", *LINES)),
        "FID-19 named": Probe(post(PATH, CHAT, b"Connection: X-Secret", b"X-Secret: s", b"X-Kept: k"),
                              gone=(b"Connection: X-Secret", b"X-Secret: s")),
        "FID-19 always": Probe(post(PATH, CHAT, *HOPS), gone=tuple(HOPS)),
    }  # fmt: skip
    paths = "a/../b %7Ea a%2fb a%3Ab [1]?x=[y]&z={}|^ /a// a;b?c=d?e ?%00"
    found |= {f"FID-3 {path}": Probe(get("/v1/" + path)) for path in paths.split()}
    sizes = (8_000, 9_000, 20_000, 32_768, 60_000)
    return found | {
        f"FID-10 {size}": Probe(post(PATH, CHAT, b"Authorization: Bearer " + b"k" * size)) for size in sizes
    }


def through(direct: bytes, probe: Probe, port: int) -> bytes:
    """What the upstream has to receive from the sidecar, by what it received from the client itself."""
    head, gap, body = direct.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if line not in probe.gone]
    assert len(lines) == len(head.split(b"\r\n")) - len(probe.gone)
    lines = [b"Host: 127.0.0.1:%d" % port if line == b"Host: localhost" else line for line in lines]
    return b"\r\n".join(lines) + gap + body


UPWARD = upward()


@pytest.mark.parametrize("name", UPWARD)
async def test_the_upstream_receives_the_same(upstream: Upstream, serve: Serve, name: str) -> None:
    """FID-1, FID-2, FID-3, FID-4, FID-5, FID-9, FID-10, FID-18, FID-19: twice in a row, so that a remembered head or cookie
    would show; direct and through the sidecar the bytes are equal but for Host and what ends here."""
    probe = UPWARD[name]
    up = await upstream(probe.answer)
    side = await serve(up)
    for port in (up.port, side.port):
        async with connected(port) as client:
            for _ in range(2):
                client.send(probe.request)
                got = await client.response()
                assert (got.status, got.end) == (200, "whole")
    direct, again, first, second = (seen.raw for seen in up.requests)
    assert direct == again == probe.request, "the probe itself was changed on the way to the upstream"
    assert first == second == through(direct, probe, up.port)


@pytest.mark.parametrize(
    ("name", "request_line", "status"),
    [
        ("FID-21", b"GET http://127.0.0.1:1/v1/models", 400),
        ("FID-21", b"POST https://localhost/v1/chat/completions", 400),
        ("FID-22", b"CONNECT 127.0.0.1:1", 400),
    ],
)
async def test_the_upstream_receives_nothing(
    upstream: Upstream, serve: Serve, name: str, request_line: bytes, status: int
) -> None:
    """FID-21, FID-22: what a server gets directly does not pass here, to nobody."""
    up = await upstream([ok()])
    side = await serve(up)
    request = request_line + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    assert (await call(up.port, request)).status == 200, name
    got = await call(side.port, request)
    assert status <= got.status < 500
    assert [seen.raw for seen in up.requests] == [request]
    assert len(up.peers) == 1


DOWNWARD: dict[str, Script] = {
    "FID-2": [ok(b"{}", b"X-Name: caf\xe9")],
    "FID-6": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n3;a=b\r\nabc\r\n0\r\nX-A: 1\r\n\r\n"
    ],
    "FID-7 in a chunk": [SSE_HEAD + delta("a") + b"20\r\ndata: {", 0.02, "close"],
    "FID-7 between chunks": [SSE_HEAD + delta("a"), 0.02, "close"],
    "FID-8": [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", 0.02, "close"],
    "FID-9": [ok(b"{}", b"Set-Cookie: a=1", b"set-cookie: b=2")],
    "FID-11 9 kB": [ok(b"{}", b"X-Long: " + b"x" * 9_000)],
    "FID-11 60 kB": [ok(b"{}", b"X-Long: " + b"x" * 60_000)],
    "FID-18": [ok(b'{"a":1 }', *LINES)],
    "FID-19": [ok(b"{}", b"X-Kept: 2")],
    "a stream": [SSE_HEAD + delta("a"), 0.01, delta("b") + chunked(b"data: [DONE]\n\n")],
    "an error": [ok(b'{"error":{}}', b"Retry-After: 7", b"x-request-id: r", status=b"429 Slow Down")],
}


@pytest.mark.parametrize("name", DOWNWARD)
async def test_the_client_gets_the_same(upstream: Upstream, serve: Serve, name: str) -> None:
    """FID-2, FID-6, FID-7, FID-8, FID-9, FID-11, FID-18: status line, foreign lines in order, body with its framing, and
    whether the end is a whole one."""
    up = await upstream(DOWNWARD[name])
    side = await serve(up)

    def told(got: Response) -> tuple[bytes, list[bytes], bytes, bool]:
        return got.head.split(b"\r\n")[0], got.foreign_lines, got.wire_body, got.end == "whole"

    direct, passed = [told(await call(port, post(PATH, CHAT))) for port in (up.port, side.port)]
    assert passed == direct
    assert direct[3] is not name.startswith(("FID-7", "FID-8"))


async def _left(up: ScriptedUpstream, port: int, begun: bytes) -> float:
    """Seconds from a client's leaving until the upstream sees it."""
    asked = len(up.requests)
    async with connected(port) as client:
        client.send(post(PATH, CHAT))
        assert await up.until(lambda: len(up.requests) > asked)
        if begun:
            await client.until(begun)
        left = monotonic()
        client.close()
        assert await up.until(up.peers[-1].lost.is_set, TOLD_S)
    return up.peers[-1].lost_at - left


@pytest.mark.parametrize("begun", [b"", b'"a"'], ids=["FID-13", "FID-14"])
async def test_the_upstream_is_told_of_a_client_that_left(upstream: Upstream, serve: Serve, begun: bytes) -> None:
    """FID-13, FID-14: before the first byte and amid events of 0.1 s: as if there were nothing between them. A busy machine
    may be late with one of them; the soonest of three keeps the promised 100 ms."""
    events = [step for _ in range(100) for step in (delta("x"), 0.1)]
    up = await upstream([SSE_HEAD + delta("a"), *events] if begun else [60.0])
    side = await serve(up)
    direct = await _left(up, up.port, begun)
    passed = [await _left(up, side.port, begun) for _ in range(3)]
    print("seconds until told:", {"direct": round(direct, 4), "sidecar": [round(one, 4) for one in passed]})
    assert min(passed) < PROMISED_S
    assert up.requests[1].raw == through(up.requests[0].raw, Probe(b""), up.port)


@pytest.mark.parametrize("request_bytes", [post(PATH, CHAT), get("/v1/models")], ids=["FID-16", "FID-16b"])
async def test_a_kept_connection_that_dies(upstream: Upstream, serve: Serve, request_bytes: bytes) -> None:
    """FID-16, FID-16b: the upstream receives each request once, direct and through the sidecar; the client sees a broken
    connection there and a 502 with a reason here."""
    ends = []
    received = []
    for way in ("direct", "sidecar"):
        up = await upstream([ok()], [0.02, "reset"], [ok()])
        side: Running | None = await serve(up) if way == "sidecar" else None
        async with connected(up.port if side is None else side.port) as client:
            for _ in range(2):
                client.send(request_bytes)
                got = await client.response()
        ends.append((got.end, got.raw[9:12], got.value(b"x-sidecar-error") if got.raw else None))
        await asyncio.sleep(0.1)
        received.append([seen.raw.replace(b"127.0.0.1:%d" % up.port, b"localhost") for seen in up.requests])
    assert ends == [("reset", b"", None), ("whole", b"502", b"upstream_closed")]
    assert received == [[request_bytes] * 2] * 2


async def test_a_client_that_stops_reading(upstream: Upstream, serve: Serve) -> None:
    """FID-17: the upstream is stopped as it would be by the client itself, when the kernels are full: 12 MB at most."""
    piece = chunked(b"x" * 65536)[:-5]
    up = await upstream([SSE_HEAD, *([piece] * 600), b"0\r\n\r\n"])
    side = await serve(up)
    held = []
    for port in (up.port, side.port):
        async with connected(port) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.send(get())
            assert await up.until(lambda: bool(up.peers) and up.peers[-1].bytes_written > 65_536)
            before = -1
            while before != up.peers[-1].bytes_written:  # until it stands still
                before = up.peers[-1].bytes_written
                await asyncio.sleep(0.2)
            held.append(before)
            client.reset()
        assert await up.until(up.peers[-1].lost.is_set, TOLD_S)
    print("bytes that the upstream could write:", dict(zip(("direct", "sidecar"), held, strict=True)))
    assert max(held) < 12_000_000
