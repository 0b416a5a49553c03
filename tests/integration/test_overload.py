"""Overload, of upstreams and of the sidecar: breakers, the retry budget, the limit of concurrency, memory, stuck streams."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.clock import monotonic, steady
from sidecar.core.breaker import Breaker
from sidecar.core.concurrency import LEAST, NONE
from sidecar.core.guard import Guard
from sidecar.core.pressure import FEW
from sidecar.proxy.exchange import Exchange
from sidecar.sim.knobs import Fault
from tests.integration.canary import NEW, OLD, phase, route, rows_of, running, talking, to_step, written
from tests.integration.conftest import Running, Serve, Sim, Upstream
from tests.integration.raw import SSE_HEAD, Script, call, chunked, connected, delta, event, get, ok, post, until
from tests.integration.test_bodies import SWITCH, UPGRADE

STREAM = b'{"model":"m","stream":true,"messages":[]}'
DONE = event(b"[DONE]") + b"0\r\n\r\n"
BUSY = ok(b'{"error":{"message":"busy"}}', b"retry-after: 7", status=b"503 Service Unavailable")


def guard_of(side: Running, name: str) -> Guard:
    return next(one for one in side.app.engine.guards.all if one.name == name)


def breaker_of(side: Running, name: str, model: str = NEW) -> Breaker:
    return guard_of(side, name).of(model)


def idle(side: Running) -> bool:
    """Whether nothing is counted as under way to any upstream."""
    side.app.plane.settle()
    return all((one.budget.active, one.budget.retries) == (0, 0) for one in side.app.engine.guards.all)


async def text_of(port: int, path: str) -> str:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}{path}") as answer:
        return await answer.text()


# ---- the breaker of a model


async def test_breakers_of_two_upstreams_of_one_name(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """A policy's upstream is mostly called `openai`, as the one is that serves without a route: metrics, `/ready` and the
    event say which of the two fails."""
    provider = await sim()
    policy = {
        "upstreams": {"openai": {"dialect": "openai", "base_url": f"http://127.0.0.1:{provider.port}/v1"}},
        "routes": [
            {"name": "chat", "match": {"models": ["m"]}, "baseline": {"id": "base", "upstream": "openai", "model": OLD}}
        ],
    }
    side = await serve("http://127.0.0.1:1", policies=written(tmp_path, {"version": 1, **policy}))
    for _ in range(5):
        assert (await call(side.port, post("/v1/embeddings", b'{"model":"other","input":"a"}'))).status == 502
    assert (await call(side.port, post(body=STREAM))).status == 200
    told = await text_of(side.health_port, "/metrics")
    for state, upstream in (("open", "openai (default)"), ("closed", "openai")):
        assert f'breaker_state{{model="*",state="{state}",upstream="{upstream}"}} 1.0' in told
    assert told.count('breaker_state{model="*"') == 4
    assert "The breaker of * at openai (default) is open" in await text_of(side.health_port, "/ready")
    events = [one for one in side.app.engine.tick(steady()) if one.kind == "breaker.opened"]
    assert [one.detail["upstream"] for one in events] == ["openai (default)"]


async def test_an_arm_that_fails_is_not_offered_until_it_serves_again(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """A promoted arm fails: five calls see that, all others get the old model. When it is half open three calls try it, and
    it serves again. Metrics, `/ready`, the row and the events say so."""
    provider = await sim()
    side = await running(provider, serve, tmp_path)
    rows = rows_of(side)
    to_step(side, 100)
    async with talking(side) as app:
        assert {(await app.session(n)).model for n in range(10)} == {NEW}
        provider.set_faults((Fault("status", status=500, models=(NEW,)),))
        failed = [await app.session(100 + n) for n in range(5)]
        assert [one.status for one in failed] == [500] * 5
        after = [await app.session(200 + n) for n in range(30)]
        assert {(one.status, one.model) for one in after} == {(200, OLD)}
        told = await text_of(side.health_port, "/metrics")
        assert f'llm_sidecar_breaker_state{{model="{NEW}",state="open",upstream="two"}} 1.0' in told
        assert f'llm_sidecar_breaker_opened_total{{model="{NEW}",upstream="two"}} 1.0' in told
        assert f"The breaker of {NEW} at two is open" in await text_of(side.health_port, "/ready")
        assert rows[-1].decision.left_out == (("new", "breaker"),)
        provider.set_faults(())
        side.app.on_events(side.app.engine.tick(steady() + 31))
        assert breaker_of(side, "two").state == "half_open"
        probes = [await app.session(300 + n) for n in range(3)]
        assert {(one.status, one.model) for one in probes} == {(200, NEW)}
        assert breaker_of(side, "two").state == "closed"
        assert (await app.session(400)).model == NEW
    assert phase(side) == ("promoted", 100)
    assert idle(side)


async def test_a_black_hole_opens_its_breaker(sim: Sim, serve: Serve, tmp_path: Path, blackhole: str) -> None:
    """INC-27, GW-24: the promoted arm's packets are dropped. Five calls wait for the connect timer; then the old model
    serves, and calls to the other upstream never waited."""
    provider = await sim()
    folder = written(tmp_path / "p", route(provider.port, new_port=int(blackhole.rpartition(":")[2])))
    side = await serve(provider, policies=folder, environ={"NEW_KEY": "k"}, connect_timeout="400ms")
    to_step(side, 100)
    async with talking(side) as app:
        assert [(await app.session(n)).status for n in range(5)] == [504] * 5
        assert (await app.ask(model="gpt-4.1")).status == 200
        after = [await app.session(100 + n) for n in range(20)]
    assert {(one.status, one.model) for one in after} == {(200, OLD)}
    assert [(one.name, one.of(NEW).state) for one in side.app.engine.guards.all if one.name == "two"] == [
        ("two", "open")
    ]
    assert breaker_of(side, "one", OLD).state == "closed"
    assert idle(side)


async def test_an_app_without_another_arm_gets_what_its_provider_says(upstream: Upstream, serve: Serve) -> None:
    """Forty failures open the breaker; each call still goes up and its answer comes back byte for byte, and the first that
    succeeds does so while the breaker is open."""
    up = await upstream(*[[BUSY]] * 40, [ok(b'{"fine":1}')])
    side = await serve(up)
    async with connected(side.port) as client:
        for _ in range(40):
            client.send(post())
            got = await client.response()
            assert (got.status, got.body, got.value(b"retry-after")) == (503, b'{"error":{"message":"busy"}}', b"7")
            assert got.value(b"x-should-retry") is None
        side.app.plane.settle()
        assert breaker_of(side, "openai").state == "open"
        client.send(post())
        assert (await client.response()).body == b'{"fine":1}'
    assert len(up.requests) == 41
    assert side.books.shed == 0
    assert idle(side)


async def test_streams_that_end_late_move_no_breaker(upstream: Upstream, serve: Serve) -> None:
    """GW-25: eight streams begin, five calls fail and open the breaker; then four of the streams end well and four are cut.
    It is open as before, and half open when its time comes, and what ends then does not close it either."""
    cut, go = asyncio.Event(), asyncio.Event()

    def script(head: bytes) -> Script:
        if b"x-kind: fail" in head:
            return [BUSY]
        end: Script = [cut, "reset"] if b"x-kind: cut" in head else [go, DONE]
        return [SSE_HEAD, delta("a"), *end]

    up = await upstream(by=script)
    side = await serve(up)
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(connected(side.port)) for _ in range(8)]
        for number, one in enumerate(streams):
            one.send(post("/v1/chat/completions", STREAM, b"x-kind: cut" if number % 2 else b"x-kind: end"))
        assert await up.until(lambda: len(up.requests) == 8)
        assert guard_of(side, "openai").budget.active == 8
        for _ in range(5):
            assert (await call(side.port, post("/v1/chat/completions", STREAM, b"x-kind: fail"))).status == 503
        side.app.plane.settle()
        breaker = breaker_of(side, "openai")
        assert (breaker.state, breaker.opened) == ("open", 1)
        cut.set()
        assert "whole" not in {(await client.response()).end for client in streams[1::2]}
        side.app.plane.settle()
        assert (breaker.state, breaker.opened) == ("open", 1)
        side.app.engine.tick(steady() + 31)
        go.set()
        assert {(await client.response()).end for client in streams[0::2]} == {"whole"}
        side.app.plane.settle()
        assert (breaker.state, breaker.passed, breaker.opened) == ("half_open", 0, 1)
    assert idle(side)


# ---- the retry budget


async def test_an_outage_is_not_multiplied(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Sixty calls at once fail at one upstream. At most the floor and a fifth of what is under way to the other are sent
    on there at any time; the rest get the first one's own answer, at once."""
    release = asyncio.Event()
    broken = await upstream([BUSY])
    other = await upstream([release, ok(b'{"from":"other"}')])
    fallback = {"arms": ["base"], "on": ["5xx"], "max": 1}
    folder = written(tmp_path / "p", route(other.port, new_port=broken.port, fallback=fallback))
    settings: dict[str, Any] = {"breaker": False, "retry_floor": 4}
    side = await serve(other, policies=folder, environ={"NEW_KEY": "k"}, **settings)
    to_step(side, 100)
    body = b'{"model":"%b","messages":[]}' % OLD.encode()
    calls = [
        asyncio.ensure_future(call(side.port, post("/v1/chat/completions", body, b"x-sidecar-session: %d" % number)))
        for number in range(60)
    ]
    assert await broken.until(lambda: len(broken.requests) == 60)
    budget = guard_of(side, "one").budget
    assert await broken.until(lambda: budget.made + budget.denied == 60)
    assert budget.retries == len(other.requests) == 5  # 4 < 4 + 0.2 x 4, and 5 is not below 4 + 0.2 x 5
    release.set()
    answers = await asyncio.gather(*calls)
    assert sorted(one.status for one in answers) == [200] * 5 + [503] * 55
    assert {one.body for one in answers if one.status == 503} == {b'{"error":{"message":"busy"}}'}
    assert (budget.made, budget.denied) == (5, 55)
    assert idle(side)
    assert side.balanced


# ---- the limit of concurrency


class Crowd:
    """An upstream that answers 429 to what comes while `most` calls are under way, and counts."""

    def __init__(self, most: int) -> None:
        self.most, self.now, self.peak, self.refused = most, 0, 0, 0
        self.gate = asyncio.Event()

    def script(self, _head: bytes) -> Script:
        self.now += 1
        self.peak = max(self.peak, self.now)
        if self.now > self.most:
            self.now -= 1
            self.refused += 1
            return [ok(b'{"error":{"message":"slow down"}}', status=b"429 Too Many Requests")]
        return [self.gate, ok()]


async def test_a_limit_follows_the_upstreams_own_refusals(upstream: Upstream, serve: Serve) -> None:
    """Thirty calls at once are refused in part; from then on no more are under way than the limit, and those that wait are
    served when others end: nobody is refused by the sidecar."""
    crowd = Crowd(20)
    up = await upstream(by=crowd.script)
    side = await serve(up, concurrency_limit="overload")
    first = [asyncio.ensure_future(call(side.port, post())) for _ in range(30)]
    assert await up.until(lambda: crowd.refused == 10)
    limit = guard_of(side, "openai").limit
    assert limit is not None
    assert await up.until(lambda: limit.value < 30)
    most = int(limit.value) + 1
    crowd.gate.set()
    assert {one.status for one in await asyncio.gather(*first)} == {200, 429}
    crowd.gate, crowd.now, crowd.peak, crowd.most = asyncio.Event(), 0, 0, 1000
    second = [asyncio.ensure_future(call(side.port, post())) for _ in range(60)]
    pool = side.app.plane.defaults["openai"].pool
    assert await up.until(lambda: crowd.peak >= 4 and pool.sizes[2] > 0)
    await asyncio.sleep(0.3)
    assert crowd.peak <= most
    assert pool.busy <= most
    crowd.gate.set()
    assert {one.status for one in await asyncio.gather(*second)} == {200}
    assert (side.books.shed, pool.sizes[2]) == (0, 0)
    assert idle(side)


async def test_a_limit_follows_a_burst_that_ends_together(upstream: Upstream, serve: Serve) -> None:
    """Twenty calls are under way when one of them is refused: what counts is that moment, not when it is looked at."""
    gate, refusals = asyncio.Event(), iter([ok(b"{}", status=b"429 Too Many Requests")])
    up = await upstream(by=lambda _head: [gate, next(refusals, ok())])
    side = await serve(up, concurrency_limit="overload")
    side.app.plane.settle_together = 1000  # they are settled when all are over
    calls = [asyncio.ensure_future(call(side.port, post())) for _ in range(20)]
    assert await up.until(lambda: len(up.requests) == 20)
    gate.set()
    assert sorted(one.status for one in await asyncio.gather(*calls)) == [200] * 19 + [429]
    side.app.plane.settle()
    limit = guard_of(side, "openai").limit
    assert limit is not None
    assert 0.9 * 20 - 1 <= limit.value < 21


async def test_tunnels_do_not_hold_a_limit(upstream: Upstream, serve: Serve) -> None:
    """They last for hours: behind one refusal no call would be served until they end."""
    refusals = iter([ok(b"{}", status=b"429 Too Many Requests")])
    up = await upstream(by=lambda head: [SWITCH, 60.0] if b"websocket" in head else [next(refusals, ok())])
    side = await serve(up, concurrency_limit="overload", pool_queue_timeout="1s")
    async with AsyncExitStack() as stack:
        for _ in range(20):
            tunnel = await stack.enter_async_context(connected(side.port))
            tunnel.send(get("/v1/realtime?model=m", *UPGRADE))
            await tunnel.until(b"101")
        assert [(await call(side.port, post())).status for _ in range(6)] == [429] + [200] * 5
        assert side.app.plane.defaults["openai"].pool.busy == 0
    limit = guard_of(side, "openai").limit
    assert limit is not None
    assert limit.value < NONE


async def test_a_limit_follows_refusals_that_a_fallback_made_good(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """The app sees no 429; the upstream that said it is spared all the same."""
    busy = await upstream([ok(b"{}", status=b"429 Too Many Requests")])
    other = await upstream([ok(b'{"from":"other"}')])
    fallback = {"arms": ["base"], "on": ["429"], "max": 1}
    folder = written(tmp_path / "p", route(other.port, new_port=busy.port, fallback=fallback))
    settings: dict[str, Any] = {"breaker": False, "concurrency_limit": "overload"}
    side = await serve(other, policies=folder, environ={"NEW_KEY": "k"}, **settings)
    to_step(side, 100)
    body = b'{"model":"%b","messages":[]}' % OLD.encode()
    answer = await call(side.port, post("/v1/chat/completions", body, b"x-sidecar-session: 1"))
    assert (answer.status, answer.body) == (200, b'{"from":"other"}')
    side.app.plane.settle()
    limits = {one.name: one.limit.value for one in side.app.engine.guards.all if one.limit is not None}
    assert limits.pop("two") == LEAST
    assert set(limits.values()) == {NONE}
    assert idle(side)


async def test_there_is_no_limit_by_itself(upstream: Upstream, serve: Serve) -> None:
    """The default sends every call at once, whatever was refused before: none waits that would have succeeded directly."""
    crowd = Crowd(5)
    up = await upstream(by=crowd.script)
    side = await serve(up)
    first = [asyncio.ensure_future(call(side.port, post())) for _ in range(20)]
    assert await up.until(lambda: crowd.refused == 15)
    crowd.most = 1000
    second = [asyncio.ensure_future(call(side.port, post())) for _ in range(60)]
    assert await up.until(lambda: crowd.now == 65)
    crowd.gate.set()
    assert {one.status for one in await asyncio.gather(*second)} == {200}
    await asyncio.gather(*first)


# ---- memory


async def test_records_are_given_up_before_calls(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Short of memory, rows and lines are dropped and counted while every call is served; nearer to the end new calls get
    503 and Retry-After while many are under way, and pass while there are few. Then all is as before."""
    up = await upstream(by=lambda head: [SSE_HEAD, delta("a"), 25.0] if b"x-stuck" in head else [ok()])
    side = await serve(up, db=tmp_path / "s.db", memory_limit="100GiB")
    app, used = side.app, 0
    app.traffic.memory.read = lambda: used
    written_rows: list[int] = []
    put = app.archive.put
    app.loop._consumers.of_rows[1:2] = [("store", lambda rows: (written_rows.append(len(rows)), put(rows)))]  # type: ignore[index,func-returns-value]

    async def levels(now: int, level: int) -> None:
        nonlocal used
        used = now * 2**30
        assert await up.until(lambda: app.traffic.memory.pressure.level == level)

    async def served(times: int) -> list[int]:
        return [(await call(side.port, post())).status for _ in range(times)]

    assert await served(3) == [200] * 3
    await levels(90, 1)
    app.loop.flush()
    before = sum(written_rows)
    assert await served(20) == [200] * 20
    app.loop.flush()
    assert (sum(written_rows) - before, app.loop.shed) == (0, 20)
    assert side.books.completed == 23
    await levels(99, 2)
    assert await served(5) == [200] * 5
    async with AsyncExitStack() as stack:
        for _ in range(FEW):
            client = await stack.enter_async_context(connected(side.port))
            client.send(post("/v1/chat/completions", STREAM, b"x-stuck: 1"))
        assert await up.until(lambda: len(app.plane.exchanges) == FEW)
        got = await call(side.port, post())
        assert (got.status, got.value(b"retry-after"), got.value(b"x-sidecar-error")) == (503, b"1", b"overloaded")
        assert side.books.shed == 1
    assert await up.until(lambda: not app.plane.exchanges)
    assert await served(5) == [200] * 5
    await levels(10, 0)
    assert await served(3) == [200] * 3
    app.loop.flush()
    assert sum(written_rows) == before + 3
    assert side.balanced


# ---- stuck streams

STUCK = 1_000


async def test_a_client_that_is_full_before_its_answer_begins(upstream: Upstream, serve: Serve) -> None:
    """It has sent its next call behind an answer that it does not read; memory gets short while that call waits for a
    connection: what comes then waits with the upstream, and all of it is told in the end."""
    first, second = await upstream([SSE_HEAD]), await upstream([ok(b"x" * 4_000_000)])
    side = await serve(first, anthropic_upstream=f"http://127.0.0.1:{second.port}", memory_limit="100GiB")
    pool = side.app.plane.defaults["anthropic"].pool
    gate, connect = asyncio.Event(), pool._dialer.connect

    async def held(*arguments: Any) -> Any:
        await gate.wait()
        return await connect(*arguments)

    pool._dialer.connect = held  # type: ignore[method-assign]
    async with connected(side.port) as client:
        client.send(post(body=STREAM))
        await client.until(b"\r\n\r\n")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (connection,) = side.app.plane.connections
        while connection.transport.get_write_buffer_size() < 64 * 1024:
            first.peers[-1].transport.write(chunked(b"x" * 8192)[:-5])
            await asyncio.sleep(0.001)
        first.peers[-1].transport.write(b"0\r\n\r\n")
        client.send(post("/v1/messages"))
        assert await until(lambda: pool.dialling == 1)
        side.app.traffic.memory.read = lambda: 100 * 2**30
        side.app.traffic.memory.look()
        assert connection.full
        gate.set()
        (exchange,) = side.app.plane.exchanges
        assert isinstance(exchange, Exchange)
        assert await until(lambda: exchange.connection is not None)
        assert exchange.connection is not None
        assert exchange.connection.paused
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (await client.response()).end == "whole"
        assert len((await client.response()).body) == 4_000_000


async def test_who_reads_slowly_holds_less_while_memory_is_short(upstream: Upstream, serve: Serve) -> None:
    """Hundreds of them would pass the limit, however many new calls are shed; when there is memory again all goes on."""
    up = await upstream([SSE_HEAD])
    side = await serve(up, memory_limit="1GiB")
    memory, held = side.app.traffic.memory, []
    for used in (0, 2**30):
        memory.read = lambda used=used: used  # type: ignore[misc]  # bound now
        memory.look()
        async with connected(side.port) as client:
            client.send(post(body=STREAM))
            await client.until(b"\r\n\r\n")
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            (connection,) = side.app.plane.connections
            while not connection.full:
                up.peers[-1].transport.write(chunked(b"x" * 8192)[:-5])
                await asyncio.sleep(0.001)
            held.append(connection.transport.get_write_buffer_size())
            memory.read = lambda: 0
            memory.look()
            up.peers[-1].transport.write(b"0\r\n\r\n")
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert (await client.response()).end == "whole"
    assert held[0] >= 256 * 1024
    assert held[1] < 128 * 1024


async def test_a_thousand_stuck_streams_hold_nobody_up(
    upstream: Upstream, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of them never get a first byte, half stop in the middle of an event. A client that behaves gets each of its
    answers whole and in order, before and meanwhile; what that took is printed. When the stuck clients leave, the upstream
    is told of each, and nothing of them is left."""
    said = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%d of %d"}}]}\n\n'
    answers = [b"".join(said % (piece, one) for piece in range(5)) + b"data: [DONE]\n\n" for one in range(150)]

    def script(head: bytes) -> Script:
        if b"x-stuck: early" in head:
            return [30.0]
        if b"x-stuck: amid" in head:
            return [SSE_HEAD + b'1f\r\ndata: {"choices', 30.0]
        number = int(head.partition(b"x-number: ")[2].partition(b"\r\n")[0])
        cuts = [number % 7 + 1, number % 40 + 9]
        text = answers[number]
        whole = chunked(text[:9], text[9:60], text[60:])
        return [SSE_HEAD, whole[: cuts[0]], 0.0, whole[cuts[0] : cuts[1]], 0.0, whole[cuts[1] :]]

    up = await upstream(by=script)
    side = await serve(up)
    alone = await behaves(side, answers)
    async with AsyncExitStack() as stack:
        for number in range(STUCK):
            client = await stack.enter_async_context(connected(side.port))
            kind = b"x-stuck: amid" if number % 2 else b"x-stuck: early"
            client.send(post("/v1/chat/completions", STREAM, kind))
        assert await up.until(lambda: len(up.requests) == STUCK + len(answers), 20)
        assert len(side.app.plane.exchanges) == STUCK
        beside = await behaves(side, answers)
        assert len(side.app.plane.exchanges) == STUCK
    assert await up.until(lambda: sum(peer.lost.is_set() for peer in up.peers) >= STUCK, 10)
    assert await up.until(lambda: not side.app.plane.exchanges)
    assert idle(side)
    assert side.balanced
    assert (side.books.aborted, side.books.shed, side.books.failed) == (STUCK, 0, 0)
    with capsys.disabled():
        print(f"\nstreams of a client that behaves, p50/p99 ms: alone {alone}, beside {STUCK} stuck ones {beside}")


async def behaves(side: Running, answers: list[bytes]) -> str:
    """One client calls for each of the answers and checks it; the times that it took, in milliseconds."""
    took: list[float] = []
    async with connected(side.port) as client:
        for number, wanted in enumerate(answers):
            began = monotonic()
            client.send(post("/v1/chat/completions", STREAM, b"x-number: %d" % number))
            got = await client.response()
            took.append(monotonic() - began)
            assert (got.status, got.end, got.body) == (200, "whole", wanted)
    took.sort()
    return f"{took[len(took) // 2] * 1e3:.1f}/{took[int(len(took) * 0.99)] * 1e3:.1f}"
