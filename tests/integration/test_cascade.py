"""Cascades in a real process: what is held, what is escalated, who pays, who learns, and what the app sees."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.clock import steady
from sidecar.core.retry_budget import RetryBudget, RetrySpec
from sidecar.proxy.cascade import MAX_HELD_BYTES
from sidecar.sim.knobs import SimulatedModel
from sidecar.wire.validate import check
from tests.integration.canary import (
    NEW,
    OLD,
    App,
    optimizing,
    phase,
    route,
    rows_of,
    running,
    talking,
    to_step,
    written,
)
from tests.integration.conftest import Running, Serve, Sim, Upstream
from tests.integration.raw import Script, ScriptedUpstream, call, chunked, connected, ok, post

CASCADE = {"cascade": {"arms": ["new", "base"], "on": ["empty", "finish_reason"]}}
PRICES = {OLD: (2.5, 10.0), NEW: (0.15, 0.6)}  # dollars per million tokens of the price list, as of 2024-08


def said(text: str | None, model: str, finish: str = "stop", *, tokens: int = 10, **more: Any) -> bytes:
    """A whole chat completion: 100 tokens in, `tokens` out."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}
    usage = {"prompt_tokens": 100, "completion_tokens": tokens}
    return orjson.dumps({"id": f"c-{model}", "model": model, "choices": [choice], "usage": usage})


def answering(**bodies: Script) -> Any:
    """Scripts by the model that the request names: the keys are `weak` (the new arm) and `strong` (the baseline)."""

    def by_model(up: ScriptedUpstream) -> Script:
        model = orjson.loads(up.requests[-1].body)["model"]
        return bodies["weak" if model == NEW else "strong"]

    return by_model


async def cascading(upstream: Upstream, serve: Serve, tmp_path: Path, changes: Any = CASCADE, **bodies: Script) -> Any:
    """A sidecar with a cascade in front of an upstream that answers each model with its script."""
    up = await upstream()
    choose = answering(**bodies)
    up.by = lambda _head: choose(up)
    side = await optimizing(up, serve, tmp_path, **changes)  # type: ignore[arg-type]  # it is asked for its port only
    return up, side


def models(up: ScriptedUpstream) -> list[str]:
    return [orjson.loads(one.body)["model"] for one in up.requests]


def cost_nusd(model: str, tokens: int = 10) -> int:
    into, out = PRICES[model]
    return round((100 * into + tokens * out) * 1000)


async def test_a_failing_answer_is_asked_of_the_next_arm(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """The app sees the second answer only; both are paid on one row, and each arm learns of its own."""
    weak, strong = ok(said("", NEW, tokens=0)), ok(said("four", OLD))
    up, side = await cascading(upstream, serve, tmp_path, weak=[weak], strong=[strong])
    rows = rows_of(side)
    before = {arm.id: arm.exchanges for arm in side.app.engine.status()[0].arms}
    async with talking(side) as app:
        got = await app.ask()
    assert models(up) == [NEW, OLD]
    assert (got.status, got.served, got.reason) == (200, f"one/{OLD}", "policy")
    assert got.raw.body == said("four", OLD)
    row = rows[0]
    assert (row.decision.arm, row.outcome.kind, row.decision.rollout_id) == ("base", "completed", None)
    assert row.outcome.cost_nusd == cost_nusd(NEW, 0) + cost_nusd(OLD)
    assert [(one.arm, one.why, one.cost_nusd) for one in row.stages or ()] == [("new", "empty", cost_nusd(NEW, 0))]
    assert row.outcome.clocks.sent_s is not None
    assert row.outcome.clocks.duration_s >= row.outcome.clocks.sent_s >= (row.stages or ())[0].duration_s > 0
    after = {arm.id: arm for arm in side.app.engine.status()[0].arms}
    assert {name: round(after[name].exchanges - before[name], 3) for name in before} == {"base": 1.0, "new": 1.0}
    assert after["new"].answered < after["base"].answered, "the arm whose answer was not given has learnt nothing of it"
    assert (side.books.escalated, len(rows), side.books.completed) == (1, 1, 1)
    assert side.balanced


async def test_a_good_answer_is_not_escalated(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Byte for byte as it came, chunks and all; one call, one cost, no stage."""
    body = said("four", NEW)
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [whole, chunked(body[:20], body[20:])[:30], 0.01, chunked(body[:20], body[20:])[30:]]
    up, side = await cascading(upstream, serve, tmp_path, weak=pieces, strong=[ok(said("no", OLD))])
    rows = rows_of(side)
    async with talking(side) as app:
        got, again = await app.ask(), await app.ask()
    assert models(up) == [NEW, NEW]
    assert (got.served, got.raw.body, again.raw.body) == (f"two/{NEW}", body, body)
    assert got.raw.wire_body == chunked(body[:20], body[20:])
    assert [(row.stages, row.outcome.cost_nusd) for row in rows] == [((), cost_nusd(NEW))] * 2
    assert len(up.peers) == 1, "the connection of a held answer is as good as any"


async def test_nothing_reaches_the_client_before_the_check(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """The head and most of the first answer are there, and the client has not a byte; then the second answer comes."""
    go, body = asyncio.Event(), ok(said("", NEW))
    up, side = await cascading(
        upstream, serve, tmp_path, weak=[body[:-10], go, body[-10:]], strong=[ok(said("four", OLD))]
    )
    async with connected(side.port) as client:
        client.send(post(body=orjson.dumps({"model": OLD, "messages": [{"role": "user", "content": "2+2?"}]})))
        assert await up.until(lambda: bool(up.peers) and up.peers[0].bytes_written >= len(body) - 10)
        assert await client.ended(0.1) == "silent"
        assert client.data == b""
        go.set()
        got = await client.response()
    assert (got.status, got.body) == (200, said("four", OLD))


async def test_confidence(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Token probabilities of 0.5 on average are below 0.8; without any the rule says nothing."""
    sure = {"logprobs": {"content": [{"token": "a", "logprob": -0.7}, {"token": "b", "logprob": -0.68}]}}
    scripts = [[ok(said("four", NEW, **sure))], [ok(said("four", NEW))]]
    changes = {"cascade": {"arms": ["new", "base"], "min_confidence": 0.8}}
    up, side = await cascading(upstream, serve, tmp_path, changes, weak=scripts[0], strong=[ok(said("4", OLD))])
    rows = rows_of(side)
    async with talking(side) as app:
        assert (await app.ask(logprobs=True)).model == OLD
        choose = answering(weak=scripts[1], strong=[])
        up.by = lambda _head: choose(up)
        assert (await app.ask()).model == NEW
    assert [[one.why for one in row.stages or ()] for row in rows] == [["confidence"], []]


async def test_an_upstream_that_fails_hands_on(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """5xx, 429 and a reset in the first stage are answered by the second, as a fallback; the failure costs nothing."""
    strong = [ok(said("four", OLD))]
    failures: dict[str, Script] = {
        "503": [ok(b"{}", status=b"503 Service Unavailable")],
        "429": [ok(b"{}", status=b"429 Too Many Requests")],
        "connect": [ok(said("", NEW))[:-5], "reset"],
    }
    up, side = await cascading(upstream, serve, tmp_path, weak=failures["503"], strong=strong)
    rows = rows_of(side)
    async with talking(side) as app:
        for script in failures.values():
            choose = answering(weak=script, strong=strong)
            up.by = lambda _head, choose=choose: choose(up)
            got = await app.ask()
            assert (got.status, got.model, got.reason) == (200, OLD, "fallback")
        choose = answering(weak=[ok(b'{"error":{"message":"no"}}', status=b"400 Bad Request")], strong=strong)
        up.by = lambda _head: choose(up)
        assert (await app.ask()).status == 400, "a mistake of the caller's is the caller's to know"
    assert [[one.why for one in row.stages or ()] for row in rows] == [*([why] for why in failures), []]
    assert [row.outcome.cost_nusd for row in rows[:3]] == [cost_nusd(OLD)] * 3
    kinds = [row.outcome.cost_kind for row in rows[:3]]
    assert kinds == ["exact", "exact", "lower_bound"], "an answer that broke off may be billed"


async def test_what_is_never_held(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Streams, stateful calls, and calls of a client that wants no selection go as the engine decides."""
    up, side = await cascading(upstream, serve, tmp_path, weak=[ok(said("", NEW))], strong=[ok(said("", OLD))])
    rows = rows_of(side)
    tools = [{"type": "web_search"}]
    async with talking(side) as app:
        await app.ask(stream=True)
        await app.ask(store=True)
        await app.ask(tools=tools)
        await app.ask("1+1?", b"x-sidecar-off: 1")
    assert side.books.escalated == 0
    assert len(up.requests) == 4
    assert [row.stages for row in rows] == [None] * 4


async def test_a_body_that_is_not_kept_is_asked_once(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Gemini's path names the model of a body that is passed on as it comes: what is gone cannot be asked of the next."""
    up = await upstream([ok(b'{"candidates":[{"content":{"parts":[]},"finishReason":"STOP"}]}')])
    policy = route(up.port, mode="optimize", sticky="request", quality={"min_samples": 0}, cascade=CASCADE["cascade"])
    for one in policy["upstreams"].values():
        one.update(dialect="gemini", provider="google", base_url=f"http://127.0.0.1:{up.port}")
    folder = written(tmp_path / "policies", policy)
    side = await serve(up, policies=folder, environ={"NEW_KEY": "held"}, route_body_max="64KiB")
    while phase(side)[0] != "promoted":
        side.app.on_events(side.app.engine.promote("chat", steady()))
    body = orjson.dumps({"contents": [{"role": "user", "parts": [{"text": "x" * 100_000}]}]})
    got = await call(side.port, post(f"/v1beta/models/{OLD}:generateContent", body, b"x-goog-api-key: k"))
    assert (got.end, got.status, len(up.requests), side.books.escalated) == ("whole", 200, 1, 0)
    assert up.requests[0].body == body


async def test_a_last_answer_that_breaks_off(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """It had begun, so it may be billed: with the stage before it the row says the least that the exchange cost."""
    weak, strong = ok(said("", NEW, tokens=0)), ok(said("four", OLD))
    up, side = await cascading(upstream, serve, tmp_path, weak=[weak], strong=[strong[:-5], "reset"])
    rows = rows_of(side)
    async with talking(side) as app:
        app.client.send(post(body=orjson.dumps({"model": OLD, "messages": [{"role": "user", "content": "2+2?"}]})))
        assert (await app.client.response()).end != "whole"
    assert await up.until(lambda: len(rows) == 1)
    assert (rows[0].outcome.kind, rows[0].outcome.status) == ("failed", 200)
    assert (rows[0].outcome.cost_nusd, rows[0].outcome.cost_kind) == (cost_nusd(NEW, 0), "lower_bound")


async def test_too_large_to_hold(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """An answer above 1 MiB is passed on, whether its head says so or only its chunks."""
    body = said(" " * (2 * MAX_HELD_BYTES), NEW, "length")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    up, side = await cascading(upstream, serve, tmp_path, weak=[ok(body)], strong=[ok(said("no", OLD))])
    async with talking(side) as app:
        assert (await app.ask()).raw.body == body
        choose = answering(weak=[head + chunked(body)], strong=[])
        up.by = lambda _head: choose(up)
        assert (await app.ask()).raw.body == body
    assert models(up) == [NEW, NEW]


async def test_a_client_that_leaves_ends_it(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Gone while its answer is held: the upstream is told, no second arm is asked, the row says aborted."""
    body = ok(said("", NEW))
    up, side = await cascading(upstream, serve, tmp_path, weak=[body[:-5], 5.0], strong=[ok(said("no", OLD))])
    rows = rows_of(side)
    async with connected(side.port) as client:
        client.send(post(body=orjson.dumps({"model": OLD, "messages": [{"role": "user", "content": "2+2?"}]})))
        assert await up.until(lambda: any(one.begun for one in side.app.plane.exchanges))
        client.reset()
        assert await up.until(lambda: up.peers[0].lost.is_set())
    assert await up.until(lambda: bool(rows))
    assert (rows[0].outcome.kind, rows[0].outcome.cost_kind, models(up)) == ("aborted", "lower_bound", [NEW])
    assert side.balanced


async def test_gone_in_the_second_stage(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """What the first stage cost stays on the row: with the second's prompt it is the least that the exchange cost."""
    up, side = await cascading(upstream, serve, tmp_path, weak=[ok(said("", NEW))], strong=[5.0])
    rows = rows_of(side)
    async with connected(side.port) as client:
        client.send(post(body=orjson.dumps({"model": OLD, "messages": [{"role": "user", "content": "2+2?"}]})))
        assert await up.until(lambda: len(up.requests) == 2)
        client.reset()
        assert await up.until(lambda: bool(rows))
    outcome = rows[0].outcome
    assert (outcome.kind, outcome.cost_kind) == ("aborted", "lower_bound")
    assert outcome.usage is not None
    assert outcome.usage.input_tokens
    prompt = outcome.usage.input_tokens * PRICES[OLD][0] * 1_000
    assert outcome.cost_nusd == cost_nusd(NEW) + prompt


async def test_both_costs_are_in_the_budget(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """The route's ledger has the sum and no reservation is left; with no room for the second arm the first serves."""
    both = cost_nusd(NEW) + cost_nusd(OLD)
    budget = {"budget": {"daily_usd": 1.0, "per_request_usd": 0.01}}
    _, side = await cascading(
        upstream, serve, tmp_path, CASCADE | budget, weak=[ok(said("", NEW))], strong=[ok(said("four", OLD))]
    )
    async with talking(side) as app:
        assert (await app.ask(max_tokens=50)).model == OLD
        status = side.app.engine.status()[0]
        assert (status.spent_day_nusd, status.reserved_nusd) == (both, 0)
        got = await app.ask(max_tokens=5000)  # 0.05 $ on the baseline: more than a request may cost
    assert (got.model, got.raw.body) == (NEW, said("", NEW))
    assert side.app.engine.status()[0].reserved_nusd == 0


async def test_two_stages_are_one_call_of_a_mean(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """A ceiling on the mean gets its part of one call, and pays for both stages."""
    budget = {"budget": {"mean_request_usd": 0.01}}
    _, side = await cascading(
        upstream, serve, tmp_path, CASCADE | budget, weak=[ok(said("", NEW))], strong=[ok(said("four", OLD))]
    )
    savings = side.app.engine._routes["chat"].ledger.savings
    before = savings.nusd
    async with talking(side) as app:
        assert (await app.ask(max_tokens=50)).model == OLD
    side.app.plane.settle()
    assert savings.nusd - before == 10_000_000 - cost_nusd(NEW) - cost_nusd(OLD)


async def test_not_while_an_arm_is_rolled_out(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """A rollout compares like with like: nobody is held; an arm that is not established is not asked."""
    provider = await sim(requests_kept=100)
    changes = {
        "mode": "optimize",
        "sticky": "request",
        "quality": {"min_samples": 0},
        "cascade": {**CASCADE["cascade"]},
    }
    side = await running(provider, serve, tmp_path, **changes)
    to_step(side, 25)
    async with talking(side) as app:
        said_by = [await app.ask() for _ in range(20)]
    assert {one.reason for one in said_by} <= {"baseline", "canary", "sampled"}
    assert side.app.traffic.cascades is side.app.plane.cascades


async def test_checks_that_read_the_answer(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """An answer that breaks the schema which the call asked for is asked again; what it lacked stands in the row."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    changes = {"cascade": {"arms": ["new", "base"], "on": ["json_schema"]}}
    up, side = await cascading(
        upstream, serve, tmp_path, changes, weak=[ok(said('{"m": 1}', NEW))], strong=[ok(said('{"n": 1}', OLD))]
    )
    rows = rows_of(side)
    async with talking(side) as app:
        assert (await app.ask(response_format=form)).model == OLD
        assert (await app.ask()).model == NEW, "no schema was asked for"
    assert [[one.why for one in row.stages or ()] for row in rows] == [["json_schema"], []]
    assert models(up) == [NEW, OLD, NEW]


async def test_each_answer_is_looked_at_once(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run of the checks and one look for a price for each answer: for the one that passes, for the one that fails,
    and for the one that fails and is given because no other arm may be asked."""
    runs: list[int] = []

    def counted(*asked: Any) -> Any:
        runs.append(1)
        return check(*asked)

    monkeypatch.setattr("sidecar.proxy.checks.check", counted)
    weak, strong = [ok(said("I'm sorry, I can't.", "x"))], [ok(said("I can't help with that.", OLD))]
    arms = [{"id": "new", "upstream": "two", "model": "nobody-knows-its-price"}]
    changes = {"arms": arms, "cascade": {"arms": ["new", "base"], "on": ["refusal_text"]}}
    up = await upstream()
    up.by = lambda _head: strong if orjson.loads(up.requests[-1].body)["model"] == OLD else weak
    side = await optimizing(up, serve, tmp_path, **changes)  # type: ignore[arg-type]  # it is asked for its port only
    rows = rows_of(side)
    async with talking(side) as app:
        assert (await app.ask()).model == OLD
        assert (side.books.unpriced, len(runs), side.books.escalated) == (1, 2, 1)
        weak[0] = ok(said("four", "x"))
        assert (await app.ask()).model == "nobody-knows-its-price"
        assert (side.books.unpriced, len(runs), side.books.escalated) == (2, 3, 1)
    assert [row.outcome.checks for row in rows] == [(("refusal_text", 0.5),), (("refusal_text", 1.0),)]
    assert [row.quality for row in rows] == [0.5, 1.0]


async def test_a_failing_answer_that_is_all_there_is(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the next arm may not be asked, what the check found is on the row, and was found once. (Which arm is decided
    on is drawn: where that is the dear one the budget decides, and nothing is held. Of 40 draws some are the cheap one.)"""
    runs: list[int] = []
    monkeypatch.setattr("sidecar.proxy.checks.check", lambda *asked: (runs.append(1), check(*asked))[1])
    changes = {
        "cascade": {"arms": ["new", "base"], "on": ["refusal_text"]},
        "budget": {"daily_usd": 1.0, "per_request_usd": 0.01},
    }
    _, side = await cascading(
        upstream, serve, tmp_path, changes, weak=[ok(said("I'm sorry, I can't.", NEW))], strong=[ok(said("no", OLD))]
    )
    rows = rows_of(side)
    async with talking(side) as app:
        for _ in range(40):
            assert (await app.ask(max_tokens=5000)).model == NEW
    side.app.plane.settle()
    held = [row for row in rows if row.stages is not None]
    assert {(row.quality, row.stages, row.outcome.cost_nusd) for row in held} == {(0.5, (), cost_nusd(NEW))}
    assert (len(rows), len(runs), side.books.escalated) == (40, 40, 0)
    assert side.app.engine.status()[0].reserved_nusd == 0


async def test_a_simulated_model_that_breaks_its_schema(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Whatever the weak model breaks is right in the end, and every row pays for what it took."""
    provider = await sim(models={NEW: SimulatedModel(malformed=0.5), OLD: SimulatedModel()})
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    changes = {"cascade": {"arms": ["new", "base"], "on": ["json_schema"]}}
    side = await optimizing(provider, serve, tmp_path, **changes)
    rows = rows_of(side)
    async with talking(side) as app:
        got = [await app.ask(response_format=form) for _ in range(30)]
    for one, row in zip(got, rows, strict=True):
        body = orjson.loads(one.raw.body)
        assert isinstance(orjson.loads(body["choices"][0]["message"]["content"])["n"], int)
        assert one.model == (OLD if row.stages else NEW)
        parts = [stage.cost_nusd or 0 for stage in row.stages or ()]
        assert row.outcome.cost_nusd is not None
        assert row.outcome.cost_nusd > sum(parts)
    assert 0 < side.books.escalated == sum(len(row.stages or ()) for row in rows) < 30
    spent = side.app.engine.status()[0]
    assert spent.reserved_nusd == 0


async def test_an_answer_that_breaks_while_it_is_held(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Silence and broken chunks are failures of the upstream: nothing of them has reached the client."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    strong: Script = [ok(said("four", OLD))]
    up, side = await cascading(upstream, serve, tmp_path, weak=[head + b"5\r\n{    \r\nzz\r\n"], strong=strong)
    rows = rows_of(side)
    async with talking(side) as app:
        got = await app.ask()
        assert (got.status, got.model, got.reason) == (200, OLD, "fallback")
        side.app.plane.settings = replace(side.app.plane.settings, idle_timeout_s=0.05)
        choose = answering(weak=[head + b"5\r\n{    \r\n", 5.0], strong=strong)
        up.by = lambda _head: choose(up)
        assert (await app.ask()).model == OLD
    assert [[one.why for one in row.stages or ()] for row in rows] == [["connect"], ["timeout"]]


async def test_broken_in_the_last_stage(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """There is no further arm: the client is told what happened, and that a retry was made already."""
    up, side = await cascading(upstream, serve, tmp_path, weak=[ok(said("", NEW))], strong=["reset"])
    rows = rows_of(side)
    async with talking(side) as app:
        got = await app.ask()
    assert (got.status, got.raw.value(b"x-should-retry"), got.model) == (502, b"false", OLD)
    assert (rows[0].outcome.kind, rows[0].outcome.cost_nusd, models(up)) == ("failed", cost_nusd(NEW), [NEW, OLD])


async def test_three_arms(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """One after the other, each paid, the last unchecked."""
    third = "gpt-4o-2024-08-06"
    arms = [{"id": name, "upstream": "one", "model": model} for name, model in (("new", NEW), ("mid", third))]
    changes = {"arms": arms, "cascade": {"arms": ["new", "mid", "base"], "on": ["empty"]}}
    up = await upstream()
    up.by = lambda _head: [ok(said("", orjson.loads(up.requests[-1].body)["model"]))]
    side = await optimizing(up, serve, tmp_path, **changes)  # type: ignore[arg-type]  # asked for its port only
    while any(one.phase != "promoted" for one in side.app.engine.status()[0].rollouts):
        side.app.on_events([*side.app.engine.tick(steady()), *side.app.engine.promote("chat", steady())])
    rows = rows_of(side)
    async with talking(side) as app:
        assert (await app.ask()).model == OLD
    assert models(up) == [NEW, third, OLD]
    assert [one.arm for one in rows[0].stages or ()] == ["new", "mid"]
    assert side.books.escalated == 2


async def test_a_fault_of_ours_lets_the_answer_pass(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that raises is counted; the client gets what there is."""

    def fault(*_: object) -> float:
        raise RuntimeError

    _, side = await cascading(upstream, serve, tmp_path, weak=[ok(said("", NEW))], strong=[ok(said("four", OLD))])
    with monkeypatch.context() as patch:
        patch.setattr("sidecar.proxy.cascade.validate", fault)
        async with talking(side) as app:
            assert (await app.ask()).model == NEW
    assert side.books.bugs == 1
    side.books.bugs = 0


async def test_other_endpoints_are_not_held(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Embeddings of the same model go as they are."""
    up, side = await cascading(upstream, serve, tmp_path, weak=[ok(said("", NEW))], strong=[ok(said("", OLD))])
    async with connected(side.port) as client:
        client.send(post("/v1/embeddings", orjson.dumps({"model": OLD, "input": "x"})))
        assert (await client.response()).status == 200
    assert models(up) == [OLD]


async def test_no_route_no_cascade(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """A policy without a cascade, a judge or a shadow leaves nothing for a request to look at."""
    side: Running = await running(await sim(), serve, tmp_path)
    assert (side.app.plane.cascades, side.app.plane.aside) == (None, None)
    async with talking(side) as app:
        assert isinstance(app, App)
        assert (await app.ask()).status == 200


async def test_a_stage_that_fails_hands_on_within_the_retry_budget(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """Without a budget for second tries the app gets what the first arm's upstream said; an answer that fails its checks
    is no retry, and is asked of the next arm all the same."""
    up = await upstream(
        [ok(b'{"error":{}}', status=b"503 Service Unavailable")], [ok(said("", NEW))], [ok(said("4", OLD))]
    )
    side = await optimizing(up, serve, tmp_path, **CASCADE)  # type: ignore[arg-type]  # it is asked for its port only
    guards = side.app.engine.guards
    for guard in guards.all:
        guard.budget = RetryBudget(RetrySpec(0.0, 0))
    async with talking(side) as app:
        assert (await app.ask()).status == 503
        got = await app.ask()
    assert (got.status, got.raw.body) == (200, said("4", OLD))
    assert models(up) == [NEW, NEW, OLD]
    assert sum(guard.budget.denied for guard in guards.all) == 1
    assert {(guard.budget.active, guard.budget.retries, guard.budget.made) for guard in guards.all} == {(0, 0, 0)}
