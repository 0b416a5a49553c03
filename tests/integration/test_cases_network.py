"""Cases of docs/cases.md about names, addresses and services that are not there, and about who may be called at all."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import uvloop

from sidecar.clock import monotonic
from sidecar.config.settings import Settings
from sidecar.errors import ConfigError
from tests.fixtures.waiting import wait_for
from tests.integration.conftest import Running, Serve, Upstream, serving
from tests.integration.raw import WAIT_S, Peer, ScriptedUpstream, call, connected, get, ok, post

NAME = "provider.test"  # RFC 2606: no resolver knows it
_SILENCE_S = 60.0  # longer than a test


class Resolver:
    """Stands where the C library's resolver stands; it is asked in threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.down = False
        self.slow = False
        self.answers = threading.Event()  # until then a slow one keeps the asker waiting
        self.asked = self.answered = 0
        self.address = "127.0.0.1"
        self.before: tuple[str, ...] = ()  # further addresses of the name, ahead of that one
        self.threads: set[int] = set()
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._answer)

    def _answer(self, host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host != NAME:
            return self._real(host, port, *rest, **more)
        self.asked += 1
        self.threads.add(threading.get_ident())
        if self.slow:
            self.answers.wait(_SILENCE_S)
            self.answered += 1
        if self.down:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [one for at in (*self.before, self.address) for one in self._real(at, port, *rest, **more)]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


def on_asyncio(main: Callable[[], Coroutine[None, None, None]]) -> None:
    """Runs on asyncio's own loop."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(main())


@contextlib.asynccontextmanager
async def named(*scripts: Any, **settings: object) -> AsyncIterator[tuple[Running, ScriptedUpstream]]:
    """A sidecar whose upstream is called by name."""
    up = ScriptedUpstream(*scripts)
    await up.start()
    try:
        async with serving(f"http://{NAME}:{up.port}", **settings) as side:  # type: ignore[arg-type]
            yield side, up
    finally:
        await up.close()


def test_a_resolver_that_is_down(resolver: Resolver) -> None:
    """INC-22: what is open serves on, and new connections go to the addresses that were last good; without any, the answer
    is a 502 that says so, and the name is asked for again the next time."""

    async def main() -> None:
        async with named([ok(), "close"]) as (side, _):
            resolver.down = True
            got = await call(side.port, post())
            assert (got.status, got.value(b"x-sidecar-error")) == (502, b"dns")
            resolver.down = False
            assert (await call(side.port, post())).status == 200
            resolver.down = True
            asked = resolver.asked
            for _ in range(3):  # each on a new connection: the upstream closes behind every answer
                assert (await call(side.port, post())).status == 200
            assert resolver.asked == asked + 3

    on_asyncio(main)


def test_a_name_that_moves(resolver: Resolver) -> None:
    """INC-22: there is no address that outlives the resolver's answer: the next new connection goes to the new address."""

    async def main() -> None:
        async with named([ok(), "close"]) as (side, up):
            assert (await call(side.port, post())).status == 200
            other = ScriptedUpstream([ok(b"[2]")])
            server = await asyncio.get_running_loop().create_server(lambda: Peer(other), "127.0.0.2", up.port)
            resolver.address = "127.0.0.2"
            assert (await call(side.port, post())).body == b"[2]"
            server.close()
            for peer in other.peers:
                peer.transport.abort()

    on_asyncio(main)


def test_an_address_that_is_silent(resolver: Resolver) -> None:
    """INC-22: of two addresses the first drops what is sent to it: the second serves, as it does a client of its own. One
    that refuses, and one that no route leads to, cost nothing."""

    async def main() -> None:
        async with named([ok(), "close"], connect_timeout=f"{WAIT_S}s") as (side, up):
            with contextlib.ExitStack() as stack:
                full = stack.enter_context(socket.socket())
                full.bind(("127.0.0.2", up.port))
                full.listen(0)
                for _ in range(3):
                    filler = stack.enter_context(socket.socket())
                    filler.setblocking(False)
                    filler.connect_ex(full.getsockname())
                resolver.before = ("127.0.0.3", "255.255.255.255", "127.0.0.2")
                for _ in range(3):  # each on a new connection
                    assert (await call(side.port, post())).status == 200

    on_asyncio(main)


def test_a_slow_resolver_holds_nobody_up(resolver: Resolver) -> None:
    """INC-23: names are looked up in a thread: while one is looked up, calls of another upstream are served."""

    async def main() -> None:
        near = ScriptedUpstream([ok()])
        await near.start()
        async with named([ok()], anthropic_upstream=f"http://127.0.0.1:{near.port}") as (side, _):
            resolver.slow = True
            slow = asyncio.get_running_loop().create_task(call(side.port, post(), timeout_s=2 * WAIT_S))
            assert await near.until(lambda: resolver.asked > 0)
            for _ in range(10):
                assert (await call(side.port, post("/v1/messages"))).status == 200
            assert not slow.done()
            resolver.answers.set()
            assert (await slow).status == 200
        await near.close()
        assert threading.get_ident() not in resolver.threads

    on_asyncio(main)


def test_a_resolver_that_is_silent(resolver: Resolver) -> None:
    """INC-22: it does not refuse, it says nothing: new connections go to the addresses that were last good, whoever else
    waits for it, and one lookup is all that it is asked; a name that it never resolved waits, and no other one with it. The
    process ends without its answers."""

    async def main() -> None:
        near = ScriptedUpstream([ok(), "close"])
        await near.start()
        beside = f"http://localhost:{near.port}"
        async with named([ok(), "close"], anthropic_upstream=beside, connect_timeout=f"{WAIT_S}s") as (side, _):
            assert (await call(side.port, post())).status == 200
            resolver.slow, asked = True, resolver.asked
            got = await asyncio.gather(*(call(side.port, post()) for _ in range(8)))
            assert [one.status for one in got] == [200] * 8
            assert (await call(side.port, post("/v1/messages"))).status == 200
            assert resolver.asked == asked + 1
            async with named([ok()], connect_timeout="50ms") as (other, _):
                for _ in range(6):
                    got_none = await call(other.port, post())
                    assert (got_none.status, got_none.value(b"x-sidecar-error")) == (504, b"timeout_connect")
                assert resolver.asked == asked + 2
                assert (await call(side.port, post("/v1/messages"))).status == 200
        await near.close()

    for loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        try:
            with asyncio.Runner(loop_factory=loop) as runner:
                runner.run(main())
            assert resolver.answered == 0
        finally:
            resolver.answers.set()
            wait_for(lambda: not [one for one in threading.enumerate() if one.name == "lookup"])
            resolver.slow, resolver.answered = False, 0
            resolver.answers.clear()


async def test_silent_connections_are_probed(upstream: Upstream, serve: Serve) -> None:
    """INC-25: TCP keep-alive on both legs, first after 60 s: below the 350 s after which clouds forget a silent flow, and
    dead within 60 + 4 x 15 s, below 600."""
    up = await upstream([ok(b"{}")])
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(post())
        assert (await client.response()).status == 200
        (down,) = side.app.plane.connections
        (idle,) = side.app.plane.defaults["openai"].pool._idle
        for transport in (down.transport, idle.transport):
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            first, every, count = (
                sock.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert first < 350
            assert first + every * count < 600


async def test_a_black_hole_takes_nobody_with_it(upstream: Upstream, serve: Serve, blackhole: str) -> None:
    """INC-27: while twenty calls wait for an upstream that answers no connection attempt, those of another upstream are
    served as ever; the twenty end by the connect timer."""
    up = await upstream([ok()])
    side = await serve(up, openai_upstream=f"http://{blackhole}", connect_timeout="2s")
    stuck = [asyncio.get_running_loop().create_task(call(side.port, post())) for _ in range(20)]
    await asyncio.sleep(0.1)
    for _ in range(10):
        assert (await call(side.port, post("/v1/messages"))).status == 200
    assert not any(one.done() for one in stuck)
    assert {(await one).value(b"x-sidecar-error") for one in stuck} == {b"timeout_connect"}


async def test_nothing_outside_is_waited_for(upstream: Upstream, serve: Serve, blackhole: str) -> None:
    """GW-38: with every other service a black hole the sidecar starts, serves and is ready: nothing in it takes as long as
    an attempt to connect (the shortest timer of one is 5 s)."""
    up = await upstream([ok()])
    urls = dict.fromkeys(("observatory_url", "governance_url", "registry_url"), f"http://{blackhole}")
    urls |= {"redis_url": f"redis://{blackhole}", "postgres_url": f"postgres://{blackhole}/x"}
    began = monotonic()
    side = await serve(up, **urls)
    assert monotonic() - began < WAIT_S
    took = []
    for _ in range(50):
        began = monotonic()
        assert (await call(side.port, post())).status == 200
        took.append(monotonic() - began)
    assert median(took) < 1.0
    assert (await call(side.health_port, get("/ready"), method="GET")).status == 200


@pytest.mark.parametrize("spelling", ["http://localhost:{}", "http://127.0.0.1:{}/v1", "http://[::1]:{}"])
@pytest.mark.parametrize("which", ["openai_upstream", "anthropic_upstream", "gemini_upstream"])
def test_our_own_address_is_no_upstream(spelling: str, which: str) -> None:
    """SEC-SSRF: a sidecar that is its own upstream would make thousands of calls of one: refused, with the key's name."""
    overrides = ["listen=127.0.0.1:9090,[::1]:9090", f"{which}={spelling.format(9090)}"]
    with pytest.raises(ConfigError, match=which):
        Settings.load({}, None, overrides)


def test_a_name_that_leads_to_ourselves(resolver: Resolver) -> None:
    """SEC-SSRF: numbers are compared when settings and policies are read; a name is seen when it is dialled. Else one call
    is as many as there may be streams, and nobody else is served."""

    async def main() -> None:
        with socket.socket() as sock:
            sock.bind((resolver.address, 0))
            port = sock.getsockname()[1]
        listen = f"{resolver.address}:{port}"
        async with serving(f"http://{NAME}:{port}", listen=listen, host_names=NAME) as side:
            got = await call(side.port, post())
            assert (got.status, got.value(b"x-sidecar-error")) == (502, b"connect")
            assert b"this sidecar itself" in got.body
            assert side.books.accepted == 1

    on_asyncio(main)


@pytest.mark.parametrize("where", ["body", "header", "query"])
async def test_no_field_of_a_request_names_an_upstream(upstream: Upstream, serve: Serve, where: str) -> None:
    """SEC-SSRF: fields by which other gateways were led to foreign hosts, also nested (CVE-2024-6587, PYSEC-2026-4069,
    PYSEC-2026-4070): the call goes where the configuration says, and the field is passed on as a field."""
    up, other = await upstream([ok()]), await upstream([ok()])
    side = await serve(up)
    url = f"http://127.0.0.1:{other.port}/v1"
    nested = {"api_base": url, "spec_path": url, "user_config": {"model_list": [{"litellm_params": {"api_base": url}}]}}
    body = json.dumps({"model": "m"} | (nested if where == "body" else {})).encode()
    names = (
        b"x-portkey-custom-host",
        b"x-portkey-provider",
        b"helicone-openai-api-base",
        b"x-prefiller-url",
        b"x-upstream",
        b"api-base",
    )
    lines = [name + b": " + url.encode() for name in names] if where == "header" else []
    path = (
        f"/v1/chat/completions?api_base={url}&base_url={url}#@127.0.0.1:{other.port}/"
        if where == "query"
        else "/v1/chat/completions"
    )
    got = await call(side.port, post(path, body, *lines))
    assert got.status == 200
    assert not other.peers
    assert up.requests[0].body == body
    assert up.requests[0].line == b"POST %b HTTP/1.1" % path.encode()


async def test_a_policy_whose_upstream_is_this_sidecar_is_not_in_force(serve: Serve, tmp_path: Path) -> None:
    """SEC-SSRF: the loop guard of policies; the app's calls still go to their own provider."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    up = ScriptedUpstream([ok()])
    await up.start()
    (tmp_path / "p.yaml").write_text(
        f"""version: 1
service: default
upstreams: {{self: {{dialect: openai, base_url: "http://localhost:{port}/v1"}}}}
routes: [{{name: all, match: {{models: ["*"]}}, mode: observe, baseline: {{id: base, upstream: self, model: m}}}}]
"""
    )
    side = await serve(up, listen=f"127.0.0.1:{port}", policies=tmp_path)
    ready = await call(side.health_port, get("/ready"), method="GET")
    assert ready.status == 200
    assert b"this sidecar itself" in ready.body
    got = await call(side.port, post())
    assert (got.status, got.value(b"x-sidecar-model")) == (200, b"openai/m")
    assert side.books.accepted == 1
    await up.close()


async def test_all_edges_of_a_head_at_once(upstream: Upstream, serve: Serve) -> None:
    """INC-41: latin-1 bytes, a token of 20 kB, a nominated field, duplicates, Expect, a compressed body and raw path bytes
    in one request: each as if it were alone."""
    up = await upstream([ok()])
    side = await serve(up)
    token, body = b"Bearer " + b"k" * 20_000, bytes(range(256))
    path = b"/v1/a/../b%2Fc/%7e[1]?q=%3a"
    lines = [
        b"X-User: Ren\xe9",
        b"authorization: " + token,
        b"X-Twice: 1",
        b"Accept: a",
        b"x-twice: 2",
        b"Content-Encoding: gzip",
    ]
    hop = [b"Connection: X-Hop", b"X-Hop: 1", b"Expect: 100-continue", b"Content-Length: 256"]
    async with connected(side.port) as client:
        client.send(b"\r\n".join([b"POST " + path + b" HTTP/1.1", b"Host: localhost", *lines, *hop, b"", b""]))
        await client.until(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(body)
        got = await client.response()
    assert got.end == "whole"
    (seen,) = up.requests
    assert seen.line == b"POST " + path + b" HTTP/1.1"
    assert seen.body == body
    assert [line for line in seen.lines if not line.lower().startswith((b"host:", b"content-length:"))] == lines
