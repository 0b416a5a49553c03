"""Ceilings, rules, thresholds, fallbacks, records and failing open, as a client and as the database see them."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anthropic
import numpy as np
import openai
import orjson
import pytest

from sidecar.clock import steady
from sidecar.core.record import COLUMNS
from sidecar.core.types import Event
from sidecar.proxy import watchdog
from sidecar.sim.knobs import Distribution, Fault, SimulatedModel
from sidecar.sim.provider import SimulatedProvider
from sidecar.store import queries
from sidecar.store.explain import explain
from tests.integration.canary import NEW, OLD, phase, route, rows_of, running, share, talking, to_step, written
from tests.integration.conftest import Running, Serve, Sim, Upstream, serving
from tests.integration.raw import ok, post, until

DAY_S = 86_400
# gpt-4o-like flat price: a call of the default simulated model (24 tokens out) at 10 dollars a million costs 240,000 nUSD.
PRICED = {"input_mtok": 0, "output_mtok": 10}


def priced(port: int, **changes: Any) -> dict[str, Any]:
    policy = route(port, **changes)
    policy["upstreams"]["one"]["price"] = PRICED
    policy["upstreams"]["two"]["price"] = {"input_mtok": 0, "output_mtok": 1}
    return policy


async def started(provider: SimulatedProvider, serve: Serve, tmp_path: Path, **changes: Any) -> Running:
    folder = written(tmp_path / "policies", priced(provider.port, **changes))
    return await serve(provider, policies=folder, environ={"NEW_KEY": "held"})


def spent(side: Running) -> int:
    return side.app.engine.status()[0].spent_day_nusd


def reserved(side: Running) -> int:
    return side.app.engine.status()[0].reserved_nusd


# ---- budgets


async def test_calls_at_once_do_not_pass_a_ceiling(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """GW-19: 40 calls at once, each of 24 tokens = 240,000 nUSD, under a ceiling of ten of them. With max_tokens 24 the
    reservation is the cost, so at most ten are admitted, whatever the order; the others get 429 and no retry."""
    provider = await sim(default=SimulatedModel(ttft=Distribution(0.05)))
    budget = {"daily_usd": 0.0024, "on_exceeded": "deny"}
    side = await started(provider, serve, tmp_path, budget=budget, mode="observe", arms=[], rollout=None)

    async def one(n: int) -> int:
        async with talking(side) as app:
            said = await app.ask(f"{n}", max_tokens=24)
        assert said.status == 200 or said.raw.value(b"x-should-retry") == b"false"
        return said.status

    found = await asyncio.gather(*(one(n) for n in range(40)))
    assert found.count(200) == 10
    assert found.count(429) == 30
    assert (spent(side), reserved(side)) == (2_400_000, 0)


async def test_over_the_ceiling_the_cheapest_arm_serves_then_nobody(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """1,024 tokens are reserved where nobody says how many: per request $0.005 does not admit 10 dollars a million
    (0.01024), but 1 dollar (0.001024); with 8,000 tokens asked for neither fits."""
    provider = await sim()
    side = await started(provider, serve, tmp_path, budget={"per_request_usd": 0.005})
    async with talking(side) as app:
        cheap = await app.ask("hello", max_tokens=1024)
        dear = await app.ask("hello", max_tokens=8000)
        small = await app.ask("hello", max_tokens=10)
    assert (cheap.status, cheap.reason, cheap.model) == (200, "budget", NEW)
    assert (dear.status, dear.reason) == (429, "budget")
    assert (small.status, small.model) == (200, OLD)
    assert reserved(side) == 0


async def test_a_rolled_back_arm_gets_nothing_by_other_ways(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Neither an empty budget nor a slow baseline brings an arm back that was taken out on evidence."""
    provider = await sim()
    provider.set_model(OLD, SimulatedModel(ttft=Distribution(0.02)))
    slow = {
        "name": "slow", "metric": "ttft_p95", "above": "10ms", "window": "60s", "severity": "high", "arm": "new",
        "min_samples": 5,
    }  # fmt: skip
    side = await started(provider, serve, tmp_path, thresholds=[slow], budget={"per_request_usd": 0.005})
    side.app.on_events(side.app.engine.rollback("chat", steady()))
    async with talking(side) as app:
        for n in range(12):
            said = await app.session(n, stream=True, max_tokens=24)
            assert said.model == OLD
            side.app.on_events(side.app.engine.tick(steady()))
        refused = await app.ask("much", max_tokens=1024)
    assert (refused.status, refused.reason) == (429, "budget")


async def test_spending_outlives_the_process_and_ends_with_the_day(sim: Sim, tmp_path: Path) -> None:
    """GW-19: what was spent is known after a restart; the next UTC day begins at nothing."""
    provider = await sim()
    folder = written(tmp_path / "p", priced(provider.port, budget={"daily_usd": 0.0006, "on_exceeded": "deny"}))
    url, values = f"http://127.0.0.1:{provider.port}", {"policies": folder, "db": tmp_path / "side.db"}
    async with serving(url, {"NEW_KEY": "k"}, **values) as side, talking(side) as app:
        assert [(await app.ask("x", max_tokens=24)).status for _ in range(3)] == [200, 200, 429]
    async with serving(url, {"NEW_KEY": "k"}, **values) as side, talking(side) as app:
        assert spent(side) == 480_000
        assert (await app.ask("x", max_tokens=24)).status == 429
        side.app.engine.tick((steady() // DAY_S + 1) * DAY_S)
        assert spent(side) == 0
        assert (await app.ask("x", max_tokens=24)).status == 200


async def test_an_aborted_call_gives_its_reservation_back(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    provider = await sim(default=SimulatedModel(ttft=Distribution(30)))
    budget = {"daily_usd": 1}
    side = await started(provider, serve, tmp_path, budget=budget, mode="observe", arms=[], rollout=None)
    async with talking(side) as app:
        app.client.send(post(body=orjson.dumps({"model": OLD, "messages": [], "max_tokens": 24})))
        assert await until(lambda: reserved(side) == 240_000)
        assert await until(lambda: any(getattr(one, "sent_s", None) for one in side.app.plane.exchanges))
    assert await until(lambda: not reserved(side))
    assert spent(side) == 240_000, "unknown cost of a call that was sent counts as reserved"


# ---- rules


async def test_rules_deny_in_the_words_of_each_sdk(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """403 as PermissionDeniedError of both SDKs, without a retry of theirs; an unknown fact denies."""
    provider = await sim()
    rules = [{"id": "eu", "when": "user.region == 'EU'", "action": "deny", "message": "EU users must wait"}]
    side = await running(provider, serve, tmp_path, rules=rules)
    rows = rows_of(side)
    base = f"http://127.0.0.1:{side.port}"
    ours = openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="k")
    theirs = anthropic.AsyncAnthropic(base_url=base, api_key="k")
    hello: Any = [{"role": "user", "content": "hello"}]
    async with ours, theirs:
        for tags in ({"x-sidecar-tags": "region=EU"}, {}, {"x-sidecar-off": "1"}):
            with pytest.raises(openai.PermissionDeniedError, match="EU users must wait") as denied:
                await ours.chat.completions.create(model=OLD, messages=hello, extra_headers=tags)
            assert denied.value.response.headers["x-sidecar-reason"] == "policy"
        with pytest.raises(anthropic.PermissionDeniedError, match="EU users must wait"):
            await theirs.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=hello)
        fine = await ours.chat.completions.create(
            model=OLD, messages=hello, extra_headers={"x-sidecar-tags": "region=US"}
        )
    assert fine.choices
    assert provider.served == 1
    assert [one.outcome.error for one in rows] == ["refused"] * 4 + [None]
    assert {one.decision.reason for one in rows[:4]} == {"policy"}


async def test_rules_take_arms_out_before_they_deny(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    provider = await sim()
    rules = [{"id": "eu", "when": "user.region == 'EU' && model.region != 'EU'", "action": "deny", "message": "no"}]
    arms = [{"id": "new", "upstream": "two", "model": NEW, "facts": {"region": "EU"}}]
    base = {"id": "base", "upstream": "one", "model": OLD, "facts": {"region": "US"}}
    side = await running(provider, serve, tmp_path, rules=rules, arms=arms, baseline=base)
    async with talking(side) as app:
        eu = [await app.ask(f"{n}", b"x-sidecar-tags: region=EU") for n in range(20)]
        us = [await app.ask(f"another {n}", b"x-sidecar-tags: region=US") for n in range(20)]
    assert {(one.status, one.model) for one in eu} == {(200, NEW)}
    assert sum(one.model == OLD for one in us) > 10


# ---- thresholds


async def test_a_threshold_routes_away_comes_back_and_does_not_flap(
    sim: Sim, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow first tokens send traffic to the fast arm at the fifth slow call; when the model is fast again the first probe
    after the hold of one window brings it back, and there are no more than three events in all."""
    provider = await sim()
    provider.set_model(OLD, SimulatedModel(ttft=Distribution(0.5)))
    limit = {
        "name": "slow", "metric": "ttft_p95", "above": "400ms", "window": "60s", "severity": "high", "arm": "new",
        "min_samples": 5,
    }  # fmt: skip
    side = await running(provider, serve, tmp_path, sticky="request", thresholds=[limit])
    seen: list[str] = []

    def hear(events: Sequence[Event]) -> None:
        seen.extend(event.kind for event in events)

    tick = side.app.engine.tick

    def ticking(now: float) -> Sequence[Event]:  # the sidecar's own loop ticks as well, each second
        events = tick(now)
        hear(events)
        return events

    monkeypatch.setattr(side.app.engine, "tick", ticking)
    side.app.plane.on_events = hear
    async with talking(side) as app:
        models = []
        for n in range(20):
            models.append((await app.ask(f"{n}", stream=True)).model)
            ticking(steady())
        assert models[-10:] == [NEW] * 10
        provider.set_model(OLD, SimulatedModel())
        assert (await app.ask("again", stream=True)).reason == "threshold"
        ticking(steady() + 61.0)
        after = []
        for n in range(30):
            after.append((await app.ask(f"{n}", stream=True)).reason)
            ticking(steady())
        assert "threshold" not in after
    moves = [kind for kind in seen if kind.startswith("threshold.")]
    assert moves == ["threshold.breached", "threshold.probing", "threshold.recovered"]


# ---- fallback

SECOND = {"arms": ["base"], "on": ["connect", "429", "5xx"], "max": 1}


@pytest.mark.parametrize("fault", ["status", "reset_before"])
async def test_a_listed_failure_is_served_by_the_next_arm(sim: Sim, serve: Serve, tmp_path: Path, fault: Any) -> None:
    """The second upstream gets the body of the first but for the model; both arms are booked, one row is written."""
    provider, other = await sim(requests_kept=10), await sim(requests_kept=10)
    other.set_faults((Fault(fault, status=429),))
    side = await running(
        provider, serve, tmp_path, fallback=SECOND, new_port=other.port, rollout={"min_requests": 9999}
    )
    to_step(side, 50)
    rows = rows_of(side)
    async with talking(side) as app:
        said = [await app.session(n, user="u") for n in range(6)]
    assert {one.status for one in said} == {200}
    assert {one.model for one in said} == {OLD}
    moved = [one for one in rows if one.decision.reason == "fallback"]
    assert len(rows) == 6
    assert moved
    assert len(other.requests) == len(moved)
    first = orjson.loads(other.requests[0].body)
    second = [orjson.loads(one.body) for one in provider.requests if orjson.loads(one.body) == first | {"model": OLD}]
    assert second
    assert b"held" in other.requests[0].head
    assert all(b"held" not in one.head for one in provider.requests)
    arms = {arm.id: arm for arm in side.app.engine.status()[0].arms}
    assert arms["new"].exchanges == len(moved)
    assert arms["new"].answered < 0.9
    assert arms["base"].exchanges == 6
    rollout = side.app.engine.status()[0].rollouts[0]
    assert rollout.canary_units == len(moved)


async def test_an_upstream_that_swallows_connections_is_a_connect_failure(
    sim: Sim, serve: Serve, tmp_path: Path, blackhole: str
) -> None:
    """`on: [connect]`, and packets to the new arm are dropped: nothing was sent there, so the listed arm serves."""
    provider = await sim()
    policy = route(
        provider.port, new_port=int(blackhole.rpartition(":")[2]), fallback=SECOND, rollout={"min_requests": 9999}
    )
    folder = written(tmp_path / "p", policy)
    side = await serve(provider, policies=folder, environ={"NEW_KEY": "k"}, connect_timeout="150ms")
    to_step(side, 50)
    async with talking(side) as app:
        said = [await app.session(n) for n in range(5)]
    assert {(one.status, one.model) for one in said} == {(200, OLD)}
    assert "fallback" in {one.reason for one in said}


async def test_what_is_not_listed_and_what_has_begun_does_not_fall_back(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """404 passes as it came; a stream that breaks is cut; after a second failure the client is told not to retry."""
    provider, other = await sim(), await sim()
    side = await running(
        provider, serve, tmp_path, fallback=SECOND, new_port=other.port, rollout={"min_requests": 9999}
    )
    to_step(side, 50)
    async with talking(side) as app:
        inside = [name for name, model in (await app.sessions(range(20))).items() if model == NEW]
        other.set_faults((Fault("status", status=404),))
        passed = await app.session(inside[0])
        assert (passed.status, passed.model, passed.raw.value(b"x-should-retry")) == (404, NEW, None)
        other.set_faults((Fault("status", status=503),))
        provider.set_faults((Fault("status", status=503),))
        twice = await app.session(inside[1])
        assert (twice.status, twice.model, twice.reason) == (503, OLD, "fallback")
        assert twice.raw.value(b"x-should-retry") == b"false"
        provider.set_faults(())
        other.set_faults((Fault("truncate", after_tokens=3),))
        before = provider.served
        broken = await app.session(inside[2], stream=True)
        assert (broken.model, broken.raw.end) == (NEW, "eof")
        assert b"[DONE]" not in broken.raw.raw
        assert provider.served == before


async def test_no_fallback_for_a_client_that_left(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    provider, other = await sim(), await sim(default=SimulatedModel(ttft=Distribution(0.2)))
    other.set_faults((Fault("status", status=503),))
    side = await running(provider, serve, tmp_path, fallback=SECOND, new_port=other.port)
    to_step(side, 50)
    rows = rows_of(side)
    for n in range(10):
        async with talking(side) as app:
            app.client.send(post(body=orjson.dumps({"model": OLD, "messages": [{"role": "user", "content": str(n)}]})))
            await asyncio.sleep(0.002)
    assert await until(lambda: len(rows) == 10)
    tries = provider.served
    await asyncio.sleep(0.3)
    assert provider.served == tries, "nobody is left for whom to try again"
    assert len(rows) == 10
    assert side.balanced


# ---- what is written down


async def recorded(sim: Sim, tmp_path: Path, **changes: Any) -> Path:
    """A database with a baseline, canary, sticky, streamed, refused, failed, aborted and fallen-back call."""
    provider, other = await sim(), await sim()
    rules = [{"id": "stop", "when": "user.stop == 'yes'", "action": "deny", "message": "stopped"}]
    more = {"fallback": SECOND, "rollout": {"min_requests": 9999}, "rules": rules, **changes}
    folder = written(tmp_path / "p", route(provider.port, new_port=other.port, **more))
    db, go = tmp_path / "side.db", b"x-sidecar-tags: stop=no"
    async with serving(f"http://127.0.0.1:{provider.port}", {"NEW_KEY": "k"}, policies=folder, db=db) as side:
        to_step(side, 50)
        async with talking(side) as app:
            for n in range(12):
                await app.ask(f"{n}", go, stream=n % 2 == 1)
                await app.ask(f"{n}", go)
            await app.ask("no", b"x-sidecar-tags: stop=yes")
            other.set_faults((Fault("status", status=503),))
            for n in range(12, 18):
                await app.ask(f"{n}", go)
            provider.set_faults((Fault("status", status=500),))
            await app.ask("x", go, b"x-sidecar-off: 1")
            provider.set_faults((Fault("stall", after_tokens=5),))
            app.client.send(
                post(
                    "/v1/chat/completions",
                    orjson.dumps({"model": OLD, "stream": True, "messages": []}),
                    go,
                    b"x-sidecar-off: 1",
                )
            )
            await app.client.until(b"data:")
            await asyncio.sleep(0.05)
        assert await until(lambda: not side.app.plane.exchanges)
        await side.recorded()
    return db


async def test_every_column_of_the_record(sim: Sim, tmp_path: Path) -> None:
    """Keys and values of `decisions --json`, kind by kind."""
    found = queries.decisions(await recorded(sim, tmp_path), last=100)
    assert len(found) == 33
    assert all(tuple(one) == COLUMNS for one in found)
    assert all(0.0 < one["propensity"] <= 1.0 for one in found)
    by: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        by.setdefault("refused" if one["error"] == "refused" else one["outcome"], []).append(one)
    for one in by["completed"]:
        assert one["cost_kind"] == "exact"
        assert one["usage_source"] == "provider"
        assert one["cost_nusd"] > 0
        assert one["completion_id"].startswith("chatcmpl")
        assert 0 < one["sent_s"] <= one["ttfb_s"] <= one["duration_s"]
        assert (one["ttft_s"] is not None) == one["stream"] == (one["ttfe_s"] is not None) == (one["itl_s"] is not None)
        assert one["model"] == (NEW if one["arm"] == "new" else OLD)
        assert one["upstream"] == ("two" if one["arm"] == "new" else "one")
        assert one["eligible"] == ["base", "new"]
        assert one["sticky_key"]
        assert one["quality_source"] is None
    reasons = {one["reason"] for one in by["completed"]}
    assert reasons == {"baseline", "canary", "sticky", "fallback"}
    for one in by["completed"]:
        assert (one["rollout_id"] is None) == (one["reason"] == "fallback")
        assert one["propensity"] == 0.5
        if one["reason"] == "fallback":
            assert one["context"]["decided"] == "new"
            assert one["arm"] == "base"
    (refused,) = by["refused"]
    assert (refused["reason"], refused["status"], refused["arm"], refused["cost_nusd"]) == ("policy", 403, None, None)
    assert (refused["sent_s"], refused["ttfb_s"], refused["model"]) == (None, None, None), "nothing was sent anywhere"
    (failed,) = by["failed"]
    assert (failed["status"], failed["error"], failed["cost_nusd"]) == (500, "upstream_status", None)
    (aborted,) = by["aborted"]
    assert (aborted["cost_kind"], aborted["reward"], aborted["usage_source"]) == ("lower_bound", None, "estimate")
    assert aborted["ttft_s"] is not None


async def test_explanations_are_true(sim: Sim, tmp_path: Path) -> None:
    """One decision of each reason, as `explain` tells it."""
    found = queries.decisions(await recorded(sim, tmp_path), last=100)
    texts = {one["reason"]: " ".join(explain(one)) for one in found}
    assert set(texts) == {"baseline", "canary", "sticky", "fallback", "policy", "passthrough"}
    assert "(new) failed before its first byte" in texts["fallback"]
    assert "Served:" not in texts["policy"], "a refused call was served by nobody"
    assert "stood at 50 %" in texts["canary"]
    assert "this conversation" in texts["sticky"].lower()


async def test_a_budget_refusal_is_not_told_as_an_answer(sim: Sim, tmp_path: Path) -> None:
    provider = await sim()
    folder = written(tmp_path / "p", priced(provider.port, budget={"per_request_usd": 0.00001, "on_exceeded": "deny"}))
    db = tmp_path / "side.db"
    url = f"http://127.0.0.1:{provider.port}"
    async with serving(url, {"NEW_KEY": "k"}, policies=folder, db=db) as side, talking(side) as app:
        assert (await app.ask("x", max_tokens=100)).status == 429
    text = " ".join(explain(queries.decisions(db)[0]))
    assert "cheapest arm served" not in text


# ---- failing open


@pytest.mark.parametrize("verb", ["decide", "settle", "fallback"])
async def test_an_engine_that_raises_costs_no_request(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """INC-37: traffic goes on, the bug is counted once a call, a row is written all the same."""
    up = await upstream([ok(b'{"error":{}}', status=b"503 Busy")] if verb == "fallback" else [ok(b'{"id":"x"}')])
    folder = written(tmp_path / "p", route(up.port, fallback={"arms": ["new"], "on": ["5xx"]}, budget={"daily_usd": 9}))
    side = await serve(up, policies=folder, environ={"NEW_KEY": "k"})
    rows = rows_of(side)

    def broken(*_args: Any, **_more: Any) -> Any:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(side.app.engine, verb, broken)
    try:
        async with talking(side) as app:
            said = [await app.session(n, model="auto") for n in range(5)]
        assert {one.status for one in said} == {503 if verb == "fallback" else 200}
        assert {one.model for one in said} <= {OLD, NEW}
        if verb == "decide":
            assert {(one.reason, one.model) for one in said} == {("fail-open", OLD)}
            assert side.books.fail_open == 5
        assert len(rows) == 5
        asked = 5 if verb != "fallback" else sum(one.decision.arm == "base" for one in rows)  # `new` has no fallback
        assert side.books.bugs == asked > 0
        assert reserved(side) == 0
        assert side.balanced
    finally:
        side.books.bugs = 0  # the fixture asserts that there were none that nobody wanted


@pytest.mark.parametrize("how", ["takes long", "raises"])
async def test_a_lesson_costs_no_fallback(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """INC-37: what the watchdog may end is the choice of another arm; what is learnt of the first one is not left half
    done, and where that fails the other arm serves all the same."""
    up = await upstream(by=lambda head: [ok(b'{"id":"x"}') if b"held" in head else ok(status=b"503 Busy")])
    folder = written(tmp_path / "p", route(up.port, fallback={"arms": ["new"], "on": ["5xx"]}))
    side = await serve(up, policies=folder, environ={"NEW_KEY": "held"})
    whole: list[str] = []

    def lesson(*_args: Any, **_more: Any) -> None:
        if how == "raises":
            raise ZeroDivisionError
        for _ in range(3):
            signal.raise_signal(signal.SIGALRM)
        whole.append(how)

    monkeypatch.setattr(watchdog, "EVERY_S", 3600.0)
    monkeypatch.setattr(side.app.engine, "_blame", lesson)
    async with talking(side) as app:
        said = [await app.session(n, model="auto") for n in range(5)]
    assert {(one.status, one.model) for one in said} == {(200, NEW)}
    assert (bool(whole), bool(side.books.bugs)) == (how == "takes long", how == "raises")
    side.books.bugs = 0  # they were asked for


async def test_beliefs_that_are_no_numbers_do_not_stop_traffic(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """INC-37: a posterior that is not finite gives all to the baseline."""
    provider = await sim()
    side = await running(provider, serve, tmp_path, mode="optimize", sticky="request")
    while phase(side)[0] != "promoted":
        side.app.on_events(side.app.engine.promote("chat", steady()))
    for belief in side.app.engine._routes["chat"].selector.beliefs.values():
        belief.answered.good = float("nan")
    async with talking(side) as app, asyncio.timeout(10):
        with np.errstate(all="ignore"):
            said = [await app.ask(f"{n}") for n in range(20)]
            assert 0.0 <= share(side) <= 1.0
    assert {one.status for one in said} == {200}
    assert side.books.bugs == 0


async def test_no_eligible_arm_is_failing_open(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """An Anthropic call that the route's arms, which all speak OpenAI, cannot be told in full goes where the app
    sent it, and is counted."""
    provider = await sim()
    side = await running(provider, serve, tmp_path, match={})
    async with talking(side) as app:
        body = orjson.dumps(
            {"model": "claude-x", "max_tokens": 9, "top_k": 5, "messages": [{"role": "user", "content": "hi"}]}
        )
        app.client.send(post("/v1/messages", body, b"x-api-key: k", b"anthropic-version: 2023-06-01"))
        got = await app.client.response()
    assert (got.status, got.value(b"x-sidecar-reason")) == (200, b"fail-open")
    assert side.books.fail_open == 1
