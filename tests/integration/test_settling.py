"""Exchanges are settled in company, a few milliseconds after they end: what may wait for that, and what may not.

The timer is an hour away in these tests (`later`), so that only what must not wait is settled.
"""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.proxy import plane as plane_module
from sidecar.proxy.dial import DialError
from sidecar.proxy.upstream import Pool
from sidecar.sim.knobs import SimulatedModel
from tests.integration.canary import NEW, OLD, rows_of, talking, written
from tests.integration.conftest import Running, Serve, Sim, Upstream, serving
from tests.integration.raw import call, connected, ok, post
from tests.integration.test_budgets_rules import priced
from tests.integration.test_cascade import cascading, models, said

COMPANY = plane_module.SETTLE_TOGETHER


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane_module, "SETTLE_S", 3600.0)


def books(side: Running) -> tuple[int, int, int]:
    """(accepted, completed, neither yet)."""
    return side.books.accepted, side.books.completed, side.app.plane.open


async def test_one_call_is_settled_by_the_timer(upstream: Upstream, serve: Serve) -> None:
    """A lonely call does not wait for company."""
    up = await upstream([ok(b"{}")])
    side = await serve(up)
    side.app.plane.settle_together = COMPANY
    assert (await call(side.port, post())).status == 200
    assert await up.until(lambda: books(side) == (1, 1, 0))


async def test_many_are_settled_together_and_the_books_always_balance(later: None, sim: Sim, serve: Serve) -> None:
    """INC-44: what is over and not settled counts as open; the last of a company settles all of it."""
    side = await serve(await sim(default=SimulatedModel()))
    side.app.plane.settle_together = COMPANY
    async with talking(side) as app:
        for _ in range(COMPANY - 1):
            await app.ask()
        assert books(side) == (COMPANY - 1, 0, COMPANY - 1)
        await app.ask()
    assert books(side) == (COMPANY, COMPANY, 0)


async def test_a_ceiling_knows_the_last_call(later: None, sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """GW-19: with a budget what is over is settled before the next call is decided. A call reserves 0.001 $ and costs
    0.00024 $: under 0.0014 $ the second one fits only when the first has given back what it did not use."""
    provider = await sim()
    folder = written(tmp_path / "p", priced(provider.port, budget={"daily_usd": 0.0014, "on_exceeded": "deny"}))
    side = await serve(provider, policies=folder, environ={"NEW_KEY": "k"})
    side.app.plane.settle_together = COMPANY
    async with talking(side) as app:
        assert [(await app.ask("x", max_tokens=100)).status for _ in range(3)] == [200, 200, 429]


async def test_a_conversation_finds_the_arm_that_keeps_it(later: None, sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """A call that goes on with a response that has ended just now is pinned to the arm that has it."""
    provider = await sim()
    folder = written(tmp_path / "p", priced(provider.port))
    side = await serve(provider, policies=folder, environ={"NEW_KEY": "k"})
    side.app.plane.settle_together = COMPANY
    async with connected(side.port) as client:
        client.send(post("/v1/responses", orjson.dumps({"model": OLD, "input": "x"})))
        kept = orjson.loads((await client.response()).body)["id"]
        client.send(post("/v1/responses", orjson.dumps({"model": OLD, "input": "y", "previous_response_id": kept})))
        assert (await client.response()).value(b"x-sidecar-reason") == b"pinned"


async def test_feedback_finds_the_call_that_ended_just_now(later: None, sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """The app scores the answer that it has in its hands."""
    side = await serve(await sim(default=SimulatedModel()), db=tmp_path / "side.db")
    side.app.plane.settle_together = COMPANY
    async with talking(side) as app:
        decision = (await app.ask()).decision
        app.client.send(post("/_sidecar/v1/feedback", orjson.dumps({"id": decision, "score": 1.0})))
        assert (await app.client.response()).status == 202


async def test_the_end_of_the_process_settles_what_is_left(later: None, sim: Sim, tmp_path: Path) -> None:
    """Nothing that ended is lost by a shutdown."""
    provider = await sim(default=SimulatedModel())
    async with serving(f"http://127.0.0.1:{provider.port}", db=tmp_path / "side.db") as side:
        side.app.plane.settle_together = COMPANY
        async with talking(side) as app:
            await app.ask()
        assert books(side) == (1, 0, 1)
    assert books(side) == (1, 1, 0)
    assert side.app.archive.writer is not None
    assert side.app.archive.writer.rows_written == 1


async def test_one_that_fails_keeps_no_other_from_its_books(sim: Sim, serve: Serve) -> None:
    """Whatever one settlement raises is counted, and the next ones are made."""
    side = await serve(await sim(default=SimulatedModel()))
    plane, told = side.app.plane, list[str]()
    plane.on_bug = lambda where, _error: told.append(where)
    plane.settle_together, done = COMPANY, list[int]()

    def raises() -> None:
        raise OSError("of a test")

    for settle in (raises, lambda: done.append(1), raises, lambda: done.append(2)):
        plane.ended(settle)
    plane.settle()
    assert (told, done, plane.open) == (["settle", "settle"], [1, 2], 0)


async def test_an_outcome_that_cannot_be_made_keeps_neither_money_nor_books(
    sim: Sim, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours in what is read of an answer: the call is told as aborted, and what it had reserved is given back."""

    def fault(*_: object) -> None:
        raise RuntimeError

    provider = await sim()
    folder = written(tmp_path / "p", priced(provider.port, budget={"daily_usd": 1.0}))
    side = await serve(provider, policies=folder, environ={"NEW_KEY": "k"})
    monkeypatch.setattr("sidecar.proxy.ending.outcome_of", fault)
    async with talking(side) as app:
        assert (await app.ask()).status == 200
    side.app.plane.settle()
    assert (side.books.accepted, side.books.aborted, side.app.plane.open, side.books.bugs) == (1, 1, 0, 1)
    status = side.app.engine.status()[0]
    assert status.reserved_nusd == 0
    assert status.spent_day_nusd > 0  # what a call cost that cannot be told is what was reserved for it
    assert side.app.engine.guards.of(side.app.engine.policy.upstreams["one"]).budget.active == 0
    side.books.bugs = 0


async def test_an_exchange_that_is_over_cannot_be_settled_again(
    later: None, sim: Sim, serve: Serve, tmp_path: Path
) -> None:
    """However often and as whatever it is ended afterwards, before and after its settlement: one row of the books, one
    cost, and what was reserved is given back once."""
    provider = await sim()
    folder = written(tmp_path / "p", priced(provider.port, budget={"daily_usd": 1.0}))
    side = await serve(provider, policies=folder, environ={"NEW_KEY": "k"})
    plane = side.app.plane
    plane.settle_together = COMPANY
    async with talking(side) as app:
        await app.ask()
    (waiting,) = plane._ended
    (exchange, *_) = waiting.args  # type: ignore[attr-defined]  # a partial
    exchange._finish("aborted", "client_closed")
    assert books(side) == (1, 0, 1)
    plane.settle()
    status = plane.engine.status()[0]
    assert status.reserved_nusd == 0
    assert status.spent_day_nusd > 0
    for kind in ("completed", "failed", "aborted"):
        exchange._finish(kind, None)
    plane.settle()
    assert books(side) == (1, 1, 0)
    assert plane.books.aborted == plane.books.failed == 0
    assert plane.engine.status()[0] == status


@pytest.mark.parametrize(("connections", "blamed"), [(1, 0), (8, 1)])
async def test_who_leaves_our_own_queue_blames_nobody(
    upstream: Upstream, serve: Serve, connections: int, blamed: int
) -> None:
    """With the last connection in use the wait is ours: the arm hears nothing of the client that gave up. With room for
    another one it was sent, and the wait is the upstream's."""
    up = await upstream([3600.0])
    side = await serve(up, max_upstream_connections=connections)
    told = list[str]()
    settle = side.app.engine.settle

    def learn(*exchange: Any, **more: Any) -> Any:
        told.append(exchange[2].kind)
        return settle(*exchange, **more)

    side.app.engine.settle = learn  # type: ignore[method-assign]  # the real one is called
    async with connected(side.port) as first:
        first.send(post())
        assert await up.until(lambda: len(up.requests) == 1)
        async with connected(side.port) as second:
            second.send(post())
            assert await up.until(lambda: side.books.accepted == 2)
        assert await up.until(lambda: side.books.aborted == 1)
        assert len(told) == blamed


async def test_a_call_that_is_shed_behind_a_stage_is_counted_once(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first arm was paid, so it has a row, which says that it failed; then it is none of those that were only shed."""
    up, side = await cascading(upstream, serve, tmp_path, weak=[ok(said("", NEW))], strong=[ok(said("four", OLD))])
    rows, take = rows_of(side), Pool.take

    def full(pool: Pool, user: Any) -> Any:
        if pool is not side.app.plane.origins["one"].pool:
            return take(pool, user)
        asyncio.get_running_loop().call_soon(user.on_no_connection, DialError("shed", "no descriptor is left"))
        return None

    monkeypatch.setattr(Pool, "take", full)
    async with talking(side) as app:
        got = await app.ask()
    assert (got.status, models(up)) == (503, [NEW])
    assert [(row.outcome.kind, row.outcome.error, len(row.stages or ())) for row in rows] == [("failed", "shed", 1)]
    assert (side.books.failed, side.books.shed) == (1, 0)
    assert side.balanced
