"""What can go wrong with a call of the sidecar's own, and what must not follow from it."""

import asyncio
import errno
from pathlib import Path

import orjson
import pytest

from sidecar.clock import monotonic, steady
from sidecar.proxy.errand import _IN_LINE, EACH
from sidecar.proxy.reach import _Race
from sidecar.wire.judge import MAX_TEXT_CHARS
from tests.integration.canary import NEW, OLD, route, talking, written
from tests.integration.conftest import Running, Serve, Sim, Upstream
from tests.integration.raw import SSE_HEAD, Script, connected, delta, ok, whole_request
from tests.integration.test_dialling import Held
from tests.integration.test_errands import (
    CHAT,
    FINISH,
    GRADE,
    JUDGE,
    WHOLE,
    events_of,
    judged,
    serving,
    shadowing,
    until,
)

CLOSED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n" + WHOLE.partition(b"\r\n\r\n")[2]
)
ENDLESS = ok(b"{}")[:-2].replace(b"length: 2", b"length: 9000000") + b" " * 8_500_000
ODD: dict[str, tuple[Script, str, str | None]] = {
    "an interim answer first": ([b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE], "completed", None),
    "in two pieces": ([WHOLE[:30], 0.01, WHOLE[30:]], "completed", None),
    "ended by the connection": ([CLOSED, "close"], "completed", None),
    "cut short": ([WHOLE[:-5], "close"], "failed", "truncated"),
    "reset": (["reset"], "failed", "truncated"),
    "no HTTP": ([b"SSH-2.0-x\r\n\r\n"], "failed", "bad_response"),
    "a head without end": ([b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000], "failed", "bad_response"),
    "a body without end": ([ENDLESS], "failed", "too_large"),
    "bad chunks": ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], "failed", "bad_response"),
    "a stream that nobody asked for": (
        [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + b"data: [DONE]\n\n", "close"], "completed", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
async def test_odd_answers(upstream: Upstream, serve: Serve, tmp_path: Path, name: str) -> None:
    """Each ends the errand once, as what it is; the client has its own answer every time."""
    script, message, error = ODD[name]
    base, new = await upstream([WHOLE]), await upstream(script)
    side = await serving(base, serve, tmp_path, shadowing(base.port, new.port))
    told = events_of(side)
    async with talking(side) as app:
        assert (await app.ask()).status == 200
        assert await until(lambda: len(told) == 1)
        side.app.traffic.aside.errands.wake()
        assert (await app.ask()).status == 200
        assert await until(lambda: len(told) == 2)
    assert [(one.message, one.detail["error"]) for one in told] == [(message, error)] * 2
    assert side.app.traffic.aside.errands.open == 0


async def test_nobody_listens(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """A shadow that cannot be reached costs nothing, and gets no further copy for a while."""
    base, gone = await upstream([WHOLE]), await upstream()
    await gone.close()
    side = await serving(base, serve, tmp_path, shadowing(base.port, gone.port))
    told = events_of(side)
    async with talking(side) as app:
        for _ in range(3):
            await app.ask()
            assert await until(lambda: len(told) == 1)
    assert (told[0].detail["error"], told[0].detail["cost_nusd"]) == ("connect", 0)
    assert side.app.traffic.aside.errands.dropped == 2
    pairs = side.app.traffic.aside.status(steady())[0].pairs
    assert pairs is not None
    assert (pairs.pairs, pairs.shadow.failed) == (1, 1)


async def test_a_lack_of_descriptors_says_nothing_of_the_shadow(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is our own: the copy is given up, and the arm has failed nobody."""

    def none_left(_race: object, _address: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    base, new = await upstream([WHOLE]), await upstream([CLOSED, "close"])
    side = await serving(base, serve, tmp_path, shadowing(base.port, new.port))
    told = events_of(side)
    async with talking(side) as app:
        await app.ask()
        assert await until(lambda: len(told) == 1)
        monkeypatch.setattr(_Race, "_begin", none_left)
        assert (await app.ask()).status == 200
        assert await until(lambda: len(told) == 2)
    assert [(one.message, one.detail["error"]) for one in told] == [("completed", None), ("aborted", "shed")]
    assert told[1].detail["cost_nusd"] == 0
    pairs = side.app.traffic.aside.status(steady())[0].pairs
    assert pairs is not None
    assert (pairs.pairs, pairs.shadow.failed) == (1, 0)


async def test_who_waits_for_an_upstream_that_fails(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Four copies are under way when the shadow breaks: what waits behind them is dropped, not tried in turn."""
    go = asyncio.Event()
    base, new = await upstream([WHOLE]), await upstream([go, "reset"])
    side = await serving(base, serve, tmp_path, shadowing(base.port, new.port))
    told = events_of(side)
    async with talking(side) as app:
        for _ in range(7):
            await app.ask()
    assert await new.until(lambda: len(new.requests) == 4)
    go.set()
    assert await until(lambda: len(told) == 7)
    assert sorted(str(one.detail["error"]) for one in told) == ["dropped"] * 3 + ["truncated"] * 4
    assert len(new.requests) == 4


async def test_a_judge_that_hangs_leaves_room_for_a_shadow(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Its calls end after minutes; those to other upstreams do not wait for that."""
    base, new, hung = await upstream([WHOLE]), await upstream([WHOLE]), await upstream(*[[30.0]] * 9)
    policy = shadowing(base.port, new.port)
    graded = judged(base.port, hung.port)
    policy["upstreams"]["bench"] = graded["upstreams"]["bench"]
    policy["routes"][0]["quality"] = graded["routes"][0]["quality"]
    side = await serving(base, serve, tmp_path, policy)
    told = events_of(side)
    async with talking(side) as app:
        for number in range(1, 2 * _IN_LINE):
            assert (await app.ask()).status == 200
            assert await until(lambda number=number: len(told) == number)  # type: ignore[misc] # bound now
    assert {one.kind for one in told} == {"errand.shadow"}
    assert len(hung.peers) == EACH


async def test_nothing_waits_too_long_behind_younger_ones(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a judge that hangs, a shadow that is slow: what waits for the one is passed by what waits for the other."""
    monkeypatch.setattr("sidecar.proxy.errand._WAIT_S", 0.5)
    base, new, hung = await upstream([WHOLE]), await upstream([0.3, WHOLE]), await upstream([30.0])
    policy = shadowing(base.port, new.port)
    graded = judged(base.port, hung.port)
    policy["upstreams"]["bench"] = graded["upstreams"]["bench"]
    policy["routes"][0]["quality"] = graded["routes"][0]["quality"]
    side = await serving(base, serve, tmp_path, policy)
    errands = side.app.traffic.aside.errands
    async with talking(side) as app:
        for _ in range(40):
            await app.ask()
            await asyncio.sleep(0.05)
            errands.sweep(now := monotonic())
            assert all(now - at <= 0.5 for at, _ in errands._line)
    assert len(hung.peers) == EACH


async def test_one_that_takes_too_long(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up, and its upstream sees that."""
    monkeypatch.setattr("sidecar.proxy.errand._TOTAL_S", 0.0)
    base, new = await upstream([WHOLE]), await upstream([30.0])
    side = await serving(base, serve, tmp_path, shadowing(base.port, new.port))
    told = events_of(side)
    async with talking(side) as app:
        await app.ask()
        assert await until(lambda: len(told) == 1)
    assert (told[0].message, told[0].detail["error"]) == ("failed", "timeout_errand")


async def test_one_that_waits_too_long(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be sent in time is forgotten: it would say nothing of now."""
    monkeypatch.setattr("sidecar.proxy.errand._WAIT_S", 0.0)
    hold = asyncio.Event()
    base = await upstream([WHOLE], [hold, WHOLE])
    policy = shadowing(base.port)
    policy["routes"][0]["arms"][0]["upstream"] = "one"
    side = await serving(base, serve, tmp_path, policy, max_upstream_connections=1)
    told = events_of(side)
    async with talking(side) as one, talking(side) as two:
        first = asyncio.ensure_future(one.ask())
        second = asyncio.ensure_future(two.ask())
        await first
        assert await until(lambda: len(told) == 1)
        hold.set()
        await second
    assert (told[0].message, told[0].detail["error"]) == ("aborted", "dropped")


async def test_a_busy_sidecar_makes_no_errands(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """More than half of what it may carry is under way: the copy is dropped, and counted."""
    hold = asyncio.Event()
    base = await upstream([hold, WHOLE], [hold, WHOLE], [WHOLE])
    side = await serving(base, serve, tmp_path, shadowing(base.port), max_streams=3)
    async with talking(side) as one, talking(side) as two, talking(side) as three:
        others = [asyncio.ensure_future(app.ask()) for app in (one, two)]
        assert await base.until(lambda: len(base.requests) == 2)
        await three.ask()
        assert side.app.traffic.aside.errands.dropped == 1
        hold.set()
        await asyncio.gather(*others)
    assert side.app.metrics.render()[1].count(b"llm_sidecar_errands_dropped_total 1") == 1


async def test_a_body_that_came_in_chunks(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Its copy goes out in chunks too."""
    base, new = await upstream([WHOLE]), await upstream([WHOLE])
    side = await serving(base, serve, tmp_path, shadowing(base.port, new.port))
    whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with connected(side.port) as client:
        client.send(head + whole)
        assert (await client.response()).status == 200
    assert await new.until(lambda: len(new.requests) == 1)
    found = whole_request(new.requests[0].raw)
    assert found is not None
    assert orjson.loads(found[1])["model"] == NEW


async def test_a_reload_goes_on(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Pairs and money outlive a change of the sample; another arm begins anew; without a judge none is asked."""
    base, bench = await upstream([WHOLE]), await upstream([GRADE])
    policy = shadowing(base.port, quality=judged(1, 1)["routes"][0]["quality"])
    policy["upstreams"]["bench"] = judged(1, bench.port)["upstreams"]["bench"]
    side = await serving(base, serve, tmp_path, policy)
    told = events_of(side)

    async def reload() -> None:
        before = side.app.engine.policy.version
        written(tmp_path / "p", policy)
        loaded = side.app.policies.take(side.app.policies.read())
        if loaded is not None:
            side.app.apply(loaded)
        assert await until(lambda: side.app.engine.policy.version != before)

    async with talking(side) as app:
        await app.ask()
        assert await until(lambda: len(told) == 2)
        policy["routes"][0]["shadow"]["sample"] = 0.9999
        await reload()
        status = side.app.traffic.aside.status(steady())[0]
        assert status.pairs is not None
        assert (status.pairs.pairs, status.shadow_spent_nusd, status.judge_spent_nusd) == (1, 21_000, 27_000)
        assert status.judge_graded == 1
        policy["routes"][0]["arms"].append({"id": "third", "upstream": "two", "model": "gpt-4o-mini-2024-07-18"})
        policy["routes"][0]["shadow"]["arm"] = "third"
        del policy["routes"][0]["quality"]
        await reload()
        status = side.app.traffic.aside.status(steady())[0]
        assert status.pairs is not None
        assert (status.pairs.pairs, status.shadow_spent_nusd, status.judge_spent_nusd) == (0, 21_000, None)
        del policy["routes"][0]["shadow"]
        policy["routes"][0]["mode"] = "observe"
        await reload()
        assert side.app.traffic.aside.status(steady()) == []
        assert (await app.ask()).status == 200
    assert len(told) == 2


async def test_switched_off_at_once(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """When the policy has no judge any more, what waits in line is dropped and gives its money back, and an answer that is
    under way is not graded; the four calls that are out end by themselves."""
    go, late = asyncio.Event(), asyncio.Event()
    base, bench = await upstream([WHOLE]), await upstream([go, GRADE])
    policy = judged(base.port, bench.port)
    side = await serving(base, serve, tmp_path, policy)
    told, errands = events_of(side), side.app.traffic.aside.errands
    allowance = side.app.traffic.aside._plans["chat"].judging.purse.allowance  # type: ignore[union-attr]  # it is there
    async with talking(side) as app, talking(side) as slow:
        for _ in range(EACH + 2):
            await app.ask()
        side.app.plane.settle()
        assert await bench.until(lambda: len(bench.requests) == EACH)
        assert errands.open == EACH + 2
        base.by = lambda _head: [WHOLE[:-5], late, WHOLE[-5:]]
        asking = asyncio.ensure_future(slow.ask())
        assert await base.until(lambda: len(base.requests) == EACH + 3)
        del policy["routes"][0]["quality"]
        written(tmp_path / "p", policy)
        loaded = side.app.policies.take(side.app.policies.read())
        assert loaded is not None
        side.app.apply(loaded)
        assert (errands.open, errands.dropped) == (EACH, 2)
        late.set()
        assert (await asking).status == 200
        go.set()
        assert await until(lambda: len(told) == EACH + 2)
    side.app.plane.settle()
    assert [one.message for one in told] == ["aborted"] * 2 + ["completed"] * EACH
    assert len(bench.requests) == EACH
    assert (errands.open, allowance.reserved_nusd) == (0, 0)


async def test_a_fault_of_ours_frees_slot_and_money(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An errand whose outcome cannot be made is told as aborted, is paid as estimated, and the next one begins."""

    def fault(*_: object) -> None:
        raise RuntimeError

    base, bench = await upstream([WHOLE]), await upstream([GRADE])
    side = await serving(base, serve, tmp_path, judged(base.port, bench.port))
    told = events_of(side)
    with monkeypatch.context() as patch:
        patch.setattr("sidecar.proxy.errand.outcome_of", fault)
        async with talking(side) as app:
            for number in range(EACH + 1):
                await app.ask()
                assert await until(lambda number=number: len(told) == number + 1)
    assert [(one.message, one.detail["error"]) for one in told] == [("aborted", "bug")] * (EACH + 1)
    assert all(one.detail["cost_nusd"] for one in told)
    assert side.app.traffic.aside.errands.open == 0
    assert side.books.bugs == EACH + 1
    side.books.bugs = 0


async def test_a_shadow_by_rollout(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """`strategy: shadow`: clients stay on the baseline and the arm gets copies, until it is rolled back."""
    provider = await sim(requests_kept=100)
    changes = {"rollout": {"strategy": "shadow"}, "shadow": {"arm": "new", "sample": 1.0}}
    side = await serving(provider, serve, tmp_path, route(provider.port, **changes))
    told = events_of(side)
    async with talking(side) as app:
        assert {(await app.ask()).model for _ in range(3)} == {OLD}
        assert await until(lambda: len(told) == 3)
        side.app.on_events(side.app.engine.rollback("chat", steady()))
        assert (await app.ask()).model == OLD
        await asyncio.sleep(0.02)
    assert len(told) == 3
    assert side.app.traffic.aside.errands.open == 0


async def test_a_judge_of_another_dialect(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """An Anthropic judge is asked as Anthropic wants it, with its own key, and read as it answers."""
    base = await upstream([WHOLE])
    reply = {"content": [{"type": "text", "text": '{"score": 6}'}], "usage": {"input_tokens": 9, "output_tokens": 9}}
    bench = await upstream([ok(orjson.dumps(reply))])
    policy = judged(base.port, bench.port)
    policy["upstreams"]["bench"]["dialect"] = "anthropic"
    side = await serving(base, serve, tmp_path, policy)
    told = events_of(side)
    async with talking(side) as app:
        await app.ask("why?")
        assert await until(lambda: len(told) == 1)
    seen = bench.requests[0]
    assert (seen.line, seen.value(b"x-api-key")) == (b"POST /v1/messages HTTP/1.1", b"judge-key")
    assert (seen.value(b"anthropic-version"), seen.value(b"authorization")) == (b"2023-06-01", None)
    assert orjson.loads(seen.body)["model"] == JUDGE
    assert (told[0].detail["score"], told[0].detail["cost_nusd"]) == (0.6, 27_000)


async def graded_nothing(side: Running, text: str = "why?") -> None:
    """Asks once; nothing of the sidecar's own follows."""
    async with talking(side) as app:
        assert (await app.ask(text)).status == 200
    await asyncio.sleep(0.02)
    assert side.app.traffic.aside.errands.open == 0


async def test_what_is_not_graded(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Answers without text, questions that are too long to be shown whole, models that are no arm."""
    base, bench = await upstream([ok(b'{"id":"x","choices":[]}')], [WHOLE]), await upstream([GRADE])
    side = await serving(base, serve, tmp_path, judged(base.port, bench.port))
    await graded_nothing(side)
    await graded_nothing(side, "x" * (MAX_TEXT_CHARS + 1))
    async with talking(side) as app:
        await app.ask(model="auto-unknown")
    assert not bench.requests


async def test_unknown_prices_send_nothing(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """What cannot be bounded is not sent, and /ready says why."""
    base, bench = await upstream([WHOLE]), await upstream([GRADE])
    policy = shadowing(base.port, quality=judged(1, 1)["routes"][0]["quality"])
    policy["upstreams"]["bench"] = judged(1, bench.port)["upstreams"]["bench"]
    del policy["upstreams"]["bench"]["price"], policy["upstreams"]["two"]["provider"]
    side = await serving(base, serve, tmp_path, policy)
    await graded_nothing(side)
    notes = "\n".join(side.app.readiness().notes)
    assert "the judge's price is not known" in notes
    assert "the shadow's price is not known" in notes
    assert (len(base.requests), len(bench.requests)) == (1, 0)


async def test_a_fault_of_ours_costs_the_copy_only(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception while drawing, or while booking, is counted; the client sees nothing of it."""

    def fault(*_: object) -> bool:
        raise RuntimeError

    base = await upstream([WHOLE])
    side = await serving(base, serve, tmp_path, shadowing(base.port))
    with monkeypatch.context() as patch:
        patch.setattr("sidecar.proxy.aside.may_copy", fault)
        await graded_nothing(side)
    assert side.books.bugs == 1
    with monkeypatch.context() as patch:
        patch.setattr("sidecar.proxy.shadow.validate", fault)
        async with talking(side) as app:
            assert (await app.ask()).status == 200
        assert await until(lambda: side.books.bugs == 2)
    side.books.bugs = 0


async def test_shadows_of_streams_in_other_dialects(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """A call in a dialect that the shadow's upstream does not speak is not copied."""
    base, new = await upstream([WHOLE]), await upstream([WHOLE])
    policy = shadowing(base.port, new.port)
    policy["upstreams"]["two"]["dialect"] = "anthropic"
    side = await serving(base, serve, tmp_path, policy)
    await graded_nothing(side)
    assert not new.peers


NO = ok(b'{"error":{"message":"unknown field stream_options"}}', status=b"400 Bad Request")


async def test_a_shadow_that_cannot_be_asked_for_usage(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """It refuses `stream_options` twice in a row: that is no fault of the arm, and it is not asked again."""
    stream = SSE_HEAD + delta("four") + FINISH
    base, new = await upstream([stream]), await upstream([NO], [stream], [NO], [NO], [stream])
    side = await serving(base, serve, tmp_path, shadowing(base.port, new.port))
    told = events_of(side)
    async with talking(side) as app:
        for count in (1, 2, 3, 4, 5):
            await app.ask(stream=True)
            assert await until(lambda count=count: len(told) == count)
            side.app.traffic.aside.errands.wake()
    refused, well = ("aborted", "usage_refused"), ("completed", None)
    assert [(one.message, one.detail["error"]) for one in told] == [refused, well, refused, refused, well]
    assert ["stream_options" in orjson.loads(seen.body) for seen in new.requests] == [True, True, True, True, False]
    assert side.app.plane.origins["two"].ask_usage, "calls are asked as before"
    pairs = side.app.traffic.aside.status(steady())[0].pairs
    assert pairs is not None
    assert (pairs.pairs, pairs.shadow.failed) == (2, 0)


async def test_a_shadows_new_upstream_is_asked_again(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """That the old one did not understand the question says nothing of it."""
    stream = SSE_HEAD + delta("four") + FINISH
    base, old, new = await upstream([stream]), await upstream([NO]), await upstream([stream])
    side = await serving(base, serve, tmp_path, shadowing(base.port, old.port))
    told = events_of(side)
    async with talking(side) as app:
        for count in (1, 2, 3, 4):
            if count == 4:
                written(tmp_path / "p", shadowing(base.port, new.port))
                assert await until(lambda: side.app.plane.origins["two"].spec.port == new.port)
            await app.ask(stream=True)
            assert await until(lambda count=count: len(told) == count)
            side.app.traffic.aside.errands.wake()
    assert ["stream_options" in orjson.loads(seen.body) for seen in old.requests] == [True, True, False]
    assert ["stream_options" in orjson.loads(seen.body) for seen in new.requests] == [True]


async def test_what_an_upstream_has_not_yet_does_not_reach_it_any_more(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """A policy that sends copies elsewhere is for those, too, that wait for a connection, or in line, as it comes."""
    base, old, new = await upstream([WHOLE]), await upstream([WHOLE]), await upstream([WHOLE])
    side = await serving(base, serve, tmp_path, shadowing(base.port, old.port))
    told, errands = events_of(side), side.app.traffic.aside.errands
    held = Held(side.app.plane.origins["two"].pool._dialer)
    async with talking(side) as app:
        for _ in range(EACH + 1):
            await app.ask()
        assert await until(lambda: len(held.ends) == EACH)
        written(tmp_path / "p", shadowing(base.port, new.port))
        assert await until(lambda: len(told) == EACH + 1)
        for end in held.ends:
            end.set_result(True)
        await app.ask()
        assert await until(lambda: len(told) == EACH + 2)
    assert [(one.message, one.detail["error"]) for one in told] == [("aborted", "dropped")] * (EACH + 1) + [
        ("completed", None)
    ]
    assert (errands.open, errands.dropped, len(new.requests), old.requests) == (0, EACH + 1, 1, [])
    assert await until(lambda: all(peer.lost.is_set() for peer in old.peers))


async def test_a_shadow_of_streams_and_whole_calls(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Copies that did not ask for usage do not count: between them the question ends as well."""
    stream = SSE_HEAD + delta("four") + FINISH
    base, new = await upstream(*[[stream], [WHOLE]] * 3), await upstream([NO], [WHOLE], [NO], [WHOLE], [stream])
    side = await serving(base, serve, tmp_path, shadowing(base.port, new.port))
    told = events_of(side)
    async with talking(side) as app:
        for count in (1, 2, 3, 4, 5):
            await app.ask(stream=bool(count % 2))
            assert await until(lambda count=count: len(told) == count)
            side.app.traffic.aside.errands.wake()
    asked = ["stream_options" in orjson.loads(seen.body) for seen in new.requests]
    assert asked == [True, False, True, False, False]


async def test_both_sides_of_a_pair_are_checked_alike(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Validators that read the answer read the copy's too: its quality is not known better than the other's."""
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
    base = await upstream([ok(b'{"choices":[{"message":{"content":"{}"},"finish_reason":"stop"}]}')])
    new = await upstream([ok(b'{"choices":[{"message":{"content":"no"},"finish_reason":"stop"}]}')])
    policy = shadowing(base.port, new.port, quality={"validators": ["json_schema"]})
    side = await serving(base, serve, tmp_path, policy)
    told = events_of(side)
    async with talking(side) as app:
        await app.ask(response_format=form)
        assert await until(lambda: len(told) == 1)
    pairs = side.app.traffic.aside.status(steady())[0].pairs
    assert pairs is not None
    assert (pairs.served.quality, pairs.shadow.quality) == (1.0, 0.0)
