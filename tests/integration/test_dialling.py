"""What goes wrong while a connection is opened is told at once to the one who waits, whatever it is."""

import asyncio
import errno
import gc

import pytest

from sidecar.proxy import upstream as proxy
from sidecar.proxy.dial import Dialer, DialError
from sidecar.proxy.reach import Address, _Race
from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import call, ok, post, until

_PATIENT = "600s"  # nobody is to be told by this timer


class Faulty:
    """Raises in a dialler's place for as many times as it was told, then lets it work."""

    def __init__(self, dialer: Dialer, times: int) -> None:
        self._connect = dialer.connect
        self.left = times
        dialer.connect = self._raise  # type: ignore[assignment,method-assign]

    async def _raise(self, factory: object, timeout_s: float) -> object:
        if not self.left:
            return await self._connect(factory, timeout_s)  # type: ignore[arg-type]
        self.left -= 1
        await asyncio.sleep(0)
        raise ZeroDivisionError


class Held:
    """In a dialler's place: every dial waits until it is told how it ends."""

    def __init__(self, dialer: Dialer) -> None:
        self._connect = dialer.connect
        self.ends: list[asyncio.Future[bool]] = []
        dialer.connect = self._wait  # type: ignore[assignment,method-assign]

    async def _wait(self, factory: object, timeout_s: float) -> object:
        end: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.ends.append(end)
        if await end:
            return await self._connect(factory, timeout_s)  # type: ignore[arg-type]
        raise DialError("timeout_connect", "no connection")


async def test_who_comes_later_has_a_dial_of_its_own(
    upstream: Upstream, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What clients that left had dialled hangs on, and fails in the end: that is nothing to one who came long after."""
    side = await serve(await upstream([ok(), "close"]), pool_queue_timeout=_PATIENT)
    pool = side.app.plane.defaults["openai"].pool
    held = Held(pool._dialer)
    left = [asyncio.get_running_loop().create_task(call(side.port, post(), timeout_s=60)) for _ in range(3)]
    assert await until(lambda: len(held.ends) == 3)
    for one in left:
        one.cancel()
    assert await until(lambda: pool.sizes[2] == 0)
    monkeypatch.setattr(proxy, "_FRESH_S", 0.0)
    later = asyncio.get_running_loop().create_task(call(side.port, post()))
    assert await until(lambda: len(held.ends) == 4)
    for end in held.ends[:3]:
        end.set_result(False)
    assert await until(lambda: pool.dialling == 1)
    held.ends[3].set_result(True)
    assert (await later).status == 200
    assert (pool.dials, pool.dials_failed, len(held.ends)) == (1, 3, 4)


async def test_who_comes_at_once_takes_the_dial_of_one_who_left(
    upstream: Upstream, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No upstream is dialled for each of many clients that come and go quickly."""
    monkeypatch.setattr(proxy, "_FRESH_S", 60.0)
    side = await serve(await upstream(), pool_queue_timeout=_PATIENT)
    pool = side.app.plane.defaults["openai"].pool
    held = Held(pool._dialer)
    left = asyncio.get_running_loop().create_task(call(side.port, post(), timeout_s=60))
    assert await until(lambda: len(held.ends) == 1)
    left.cancel()
    assert await until(lambda: pool.sizes[2] == 0)
    later = asyncio.get_running_loop().create_task(call(side.port, post()))
    assert await until(lambda: pool.sizes[2] == 1)
    held.ends[0].set_result(True)
    assert (await later).status == 200
    assert len(held.ends) == 1


async def test_a_fault_of_the_dialler_is_a_502_at_once(upstream: Upstream, serve: Serve) -> None:
    """The client does not wait for the queue's timer, and the fault is counted as one of ours."""
    side = await serve(await upstream(), pool_queue_timeout=_PATIENT)
    pool = side.app.plane.defaults["openai"].pool
    Faulty(pool._dialer, 1)
    got = await call(side.port, post())
    assert (got.status, got.value(b"x-sidecar-error")) == (502, b"connect")
    assert b"ZeroDivision" not in got.body
    assert (side.books.bugs, side.books.failed, pool.dials_failed, pool.dialling) == (1, 1, 1, 0)
    assert (await call(side.port, post())).status == 200
    side.books.bugs = 0  # it was asked for


async def test_after_a_fault_the_next_in_line_is_dialled_for(upstream: Upstream, serve: Serve) -> None:
    """With room for one connection, so that nobody else dials: two are told, the third is served."""
    side = await serve(await upstream(), pool_queue_timeout=_PATIENT, max_upstream_connections=1)
    Faulty(side.app.plane.defaults["openai"].pool._dialer, 2)
    got = await asyncio.gather(*(call(side.port, post()) for _ in range(3)))
    assert sorted(one.status for one in got) == [200, 502, 502]
    assert side.books.bugs == 2
    side.books.bugs = 0


async def test_a_fault_of_one_exchange_does_not_keep_the_next_waiting(upstream: Upstream, serve: Serve) -> None:
    """Where an exchange fails on the connection it was given, it is told, and the connection is not used again."""
    side = await serve(await upstream(), pool_queue_timeout=_PATIENT, max_upstream_connections=1)
    origin = side.app.plane.defaults["openai"]
    whole, asked = origin.head, iter((True,))

    def head(*arguments: object, **named: object) -> object:
        if next(asked, False):
            raise ZeroDivisionError
        return whole(*arguments, **named)  # type: ignore[arg-type]

    origin.head = head  # type: ignore[assignment,method-assign]
    got = await asyncio.gather(*(call(side.port, post()) for _ in range(2)))
    assert sorted(one.status for one in got) == [200, 502]
    assert side.balanced
    assert side.books.bugs == 1
    side.books.bugs = 0


async def test_a_failed_attempt_is_freed_without_a_collection(serve: Serve, blackhole: str) -> None:
    """In an outage each call is one: what they left would wait for the collector, which runs rarely."""
    sides = [await serve("http://127.0.0.1:1"), await serve(f"http://{blackhole}", connect_timeout="50ms")]
    gc.disable()
    try:
        for side in sides:
            assert (await call(side.port, post())).status in (502, 504)
        await asyncio.sleep(0.05)
        assert not [one for one in gc.get_objects() if isinstance(one, DialError | asyncio.CancelledError)]
    finally:
        gc.enable()


@pytest.mark.parametrize("host", ["a" * 70, "a..b"])
async def test_a_name_that_no_host_can_have_is_a_failure_of_the_name(host: str) -> None:
    """The codec of names refuses it before a resolver is asked; it is no fault of ours."""
    with pytest.raises(DialError) as told:
        await Dialer(host, 80, None, None).connect(asyncio.Protocol, 5.0)
    assert told.value.reason == "dns"


async def test_a_lack_of_descriptors_is_our_own(
    upstream: Upstream, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a 503 that may be tried again at once, and no failure of the upstream."""
    side = await serve(await upstream(), pool_queue_timeout=_PATIENT)

    def none_left(_race: object, _address: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as lack:
        lack.setattr(_Race, "_begin", none_left)
        for _ in range(8):
            got = await call(side.port, post())
            assert (got.status, got.value(b"x-sidecar-error"), got.value(b"retry-after")) == (503, b"overloaded", b"1")
    assert (side.books.shed, side.books.failed) == (8, 0)
    assert not side.app.engine.guards.unwell
    assert (await call(side.port, post())).status == 200


async def test_idle_connections_give_their_descriptors_up(
    upstream: Upstream, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upstream that nobody asks now takes none from calls to another one, be they many at once."""
    side = await serve(await upstream(), anthropic_upstream=f"http://127.0.0.1:{(await upstream()).port}")
    idle, begin = side.app.plane.defaults["openai"].pool, _Race._begin
    assert (await call(side.port, post())).status == 200
    assert idle.sizes == (1, 1, 0)
    (connection,) = idle._open

    def lacking(race: _Race, address: Address) -> None:
        if connection.transport.get_extra_info("socket").fileno() >= 0:  # it is closed a turn later than asked
            raise OSError(errno.EMFILE, "Too many open files")
        begin(race, address)

    monkeypatch.setattr(_Race, "_begin", lacking)
    got = await asyncio.gather(*(call(side.port, post("/v1/messages")) for _ in range(8)))
    assert [one.status for one in got] == [200] * 8
    assert idle.sizes == (0, 0, 0)
