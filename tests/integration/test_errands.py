"""Judges and shadows in a real process: never in the client's way, inside their budget, and with no key but their own."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import structlog.testing

from sidecar.clock import steady
from sidecar.core.types import Event
from sidecar.sim.knobs import SimulatedModel
from sidecar.wire.answer import read_answer
from tests.fixtures.canaries import Canaries
from tests.integration.canary import NEW, OLD, route, talking, written
from tests.integration.conftest import Running, Serve, Sim, Upstream
from tests.integration.raw import SSE_HEAD, call, connected, delta, event, get, ok, post, until
from tests.integration.test_secrets import ANSWER, KEY, PROMPT

ALL = {"sample": 1.0, "per_minute": 10_000}
JUDGE = "judge-model"
GRADE = ok(
    b'{"id":"j","choices":[{"message":{"content":"{\\"score\\": 8}"}}],"usage":{"prompt_tokens":9,"completion_tokens":9}}'
)
CHAT = orjson.dumps({"model": OLD, "messages": [{"role": "user", "content": PROMPT.decode()}]})
WHOLE = ok(
    orjson.dumps(
        {
            "id": "c1",
            "choices": [{"message": {"content": ANSWER.decode()}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        }
    )
)


def events_of(side: Running) -> list[Event]:
    """Every errand that ends from now on."""
    found: list[Event] = []
    tell = side.app.plane.on_errand

    def keep(event: Event) -> None:
        found.append(event)
        tell(event)

    side.app.plane.on_errand = keep
    return found


def shadowing(port: int, new_port: int | None = None, **changes: Any) -> dict[str, Any]:
    """A policy whose `new` arm gets a copy of every call."""
    made = route(port, new_port=new_port, mode="shadow", shadow={"arm": "new", **ALL})
    made["routes"][0].pop("rollout")
    made["routes"][0].update(changes)
    return made


def judged(port: int, judge_port: int, *, held: bool = True, **changes: Any) -> dict[str, Any]:
    """A policy whose answers are all graded by a model of another upstream."""
    made = route(
        port, mode="observe", quality={"judge": {"upstream": "bench", "model": JUDGE, **ALL}, "min_samples": 0}
    )
    made["upstreams"]["bench"] = {
        "dialect": "openai",
        "base_url": f"http://127.0.0.1:{judge_port}/v1",
        "price": {"input_mtok": 1, "output_mtok": 2},
        **({"api_key": {"env": "JUDGE_KEY"}} if held else {}),
    }
    made["routes"][0].pop("rollout")
    made["routes"][0].update(changes)
    return made


FINISH = event(b'{"id":"c1","choices":[{"delta":{},"finish_reason":"stop"}]}') + event(b"[DONE]") + b"0\r\n\r\n"
ENVIRON = {"NEW_KEY": "new-key", "JUDGE_KEY": "judge-key"}


async def serving(upstream: Any, serve: Serve, tmp_path: Path, policy: dict[str, Any], **settings: object) -> Running:
    side = await serve(upstream, policies=written(tmp_path / "p", policy), environ=ENVIRON, **settings)
    assert side.app.policies.error is None
    return side


# ---- shadows


async def test_the_copy_leaves_behind_the_answer(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """In the order of events: the shadow has nothing while the client waits, and the client has all before the shadow
    answers; what the shadow says goes nowhere."""
    first, second = asyncio.Event(), asyncio.Event()
    base, new = await upstream([first, WHOLE]), await upstream([second, WHOLE])
    side = await serving(base, serve, tmp_path, shadowing(base.port, new.port))
    told = events_of(side)
    async with connected(side.port) as client:
        client.send(post(body=CHAT))
        assert await base.until(lambda: len(base.requests) == 1)
        assert not new.peers
        first.set()
        got = await client.response()
        assert (got.status, ANSWER in got.body) == (200, True)
        assert await new.until(lambda: len(new.requests) == 1)
        client.send(post(body=CHAT))
        assert (await client.response()).status == 200, "a shadow that hangs holds nobody up"
        second.set()
        assert await until(lambda: len(told) == 2)
    assert orjson.loads(new.requests[0].body) == orjson.loads(CHAT) | {"model": NEW}
    assert [(one.kind, one.route, one.arm, one.message) for one in told] == [
        ("errand.shadow", "chat", "new", "completed")
    ] * 2
    status = side.app.traffic.aside.status(steady())[0]
    assert status.pairs is not None
    assert (status.pairs.pairs, status.pairs.shadow.failed, status.pairs.served.failed) == (2, 0, 0)
    assert status.pairs.shadow.cost_nusd == 21_000  # 100 tokens at 0.15 $ and 10 at 0.6 $ a million
    assert status.pairs.served.cost_nusd == 350_000
    assert side.balanced
    assert side.books.accepted == 2, "a copy is no exchange"
    ready = orjson.loads((await call(side.health_port, get("/ready"))).body)
    assert ready["errands"][0]["pairs"]["shadow"]["cost_nusd"] == 21_000
    assert any("the shadow new, 2 pairs, verdict inconclusive" in note for note in ready["notes"])
    shown = side.app.metrics.render()[1].decode()
    assert 'llm_sidecar_errands_total{arm="new",kind="shadow",outcome="completed",route="chat"} 2.0' in shown
    assert 'llm_sidecar_errand_cost_usd_total{arm="new",kind="shadow",route="chat"} 4.2e-05' in shown


async def test_a_stream_is_copied_as_a_stream(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """The copy measures the first token too, and asks for its usage."""
    provider = await sim(requests_kept=10, default=SimulatedModel())
    side = await serving(provider, serve, tmp_path, shadowing(provider.port))
    told = events_of(side)
    async with talking(side) as app:
        assert (await app.ask(stream=True)).model == OLD
    assert await until(lambda: len(told) == 1)
    copy = orjson.loads(provider.requests[-1].body)
    assert (copy["model"], copy["stream"], copy["stream_options"]) == (NEW, True, {"include_usage": True})
    assert told[0].detail["ttft_s"] is not None
    assert told[0].detail["cost_kind"] == "exact"


async def test_what_is_never_copied(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """State, server-side tools, x-sidecar-off, failed calls, and calls that are no completion."""
    provider = await sim(requests_kept=100)
    side = await serving(provider, serve, tmp_path, shadowing(provider.port))
    async with talking(side) as app:
        await app.ask(store=True)
        await app.ask(tools=[{"type": "web_search"}])
        await app.ask("1+1?", b"x-sidecar-off: 1")
        app.client.send(post("/v1/embeddings", orjson.dumps({"model": OLD, "input": "x"})))
        await app.client.response()
        app.client.send(post("/v1/responses", orjson.dumps({"model": OLD, "input": "x", "previous_response_id": "r"})))
        await app.client.response()
        assert len(provider.requests) == 5
        app.client.send(post("/v1/responses", orjson.dumps({"model": OLD, "input": "x"})))
        await app.client.response()
    assert await until(lambda: len(provider.requests) == 7)
    copy = orjson.loads(provider.requests[-1].body)
    assert (copy["model"], copy["store"]) == (NEW, False), "the server would keep what nobody forbids"


async def test_the_budget_of_a_shadow(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """A day's money pays an hour's share at once and no more; the route's own ledger has all of it."""
    base = await upstream([WHOLE])
    policy = shadowing(base.port, shadow={"arm": "new", "daily_usd": 0.02, **ALL}, budget={"daily_usd": 1})
    side = await serving(base, serve, tmp_path, policy)
    told = events_of(side)
    async with talking(side) as app:
        for _ in range(12):
            assert (await app.ask(max_tokens=1000)).status == 200
            await asyncio.sleep(0)
            assert await until(lambda: not side.app.traffic.aside.errands.open)
    # 0.02 $ / 24 = 833 microdollars; each copy is estimated at about 0.6 and costs 21 microdollars.
    spent = sum(int(str(one.detail["cost_nusd"])) for one in told)
    assert 0 < spent == 21_000 * len(told) <= 0.02 * 1e9
    assert side.app.traffic.aside.status(steady())[0].shadow_spent_nusd == spent
    assert side.app.engine.status()[0].spent_day_nusd == 350_000 * 12 + spent


async def test_a_shadow_that_is_worse_is_told_once(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """An arm that always fails is called harmful; /ready says so, and an event; nothing is rolled back by it.

    Each pair multiplies the evidence by about 1.5 (a bet at even odds on a side that is bad every time), so that
    2 % / 3 guardrails is passed within 40 pairs; an upstream that refuses rests, so the test wakes it.
    """
    base = await upstream([WHOLE])
    new = await upstream([ok(b"{}", status=b"500 Internal Server Error")])
    side = await serving(base, serve, tmp_path, shadowing(base.port, new.port))
    told, events = events_of(side), []
    say = side.app.plane.on_events
    side.app.plane.on_events = lambda batch: (events.extend(batch), say(batch))[1]  # type: ignore[func-returns-value]
    async with talking(side) as app:
        for count in range(1, 41):
            await app.ask()
            assert await until(lambda count=count: len(told) == count)
            side.app.traffic.aside.errands.wake()
    assert [one.kind for one in events] == ["shadow.harm"]
    pairs = side.app.traffic.aside.status(steady())[0].pairs
    assert pairs is not None
    assert (pairs.verdict, pairs.shadow.failed, pairs.pairs) == ("fail", 40, 40)
    assert any("the shadow new, 40 pairs, is worse: error_rate" in note for note in side.app.readiness().notes)


async def test_draining_drops_errands(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """SIGTERM: what is under way is cut, what waits is forgotten, and the process ends in time."""
    base, new = await upstream([WHOLE]), await upstream([30.0])
    side = await serving(base, serve, tmp_path, shadowing(base.port, new.port))
    told = events_of(side)
    async with talking(side) as app:
        for _ in range(8):
            await app.ask()
    assert await until(lambda: len(new.requests) == 4), "no more than four at once"
    assert side.app.traffic.aside.errands.open == 8
    side.app.stop()
    assert await until(lambda: len(told) == 8)
    assert {one.message for one in told} == {"aborted"}
    assert await new.until(lambda: all(peer.lost.is_set() for peer in new.peers))


async def test_a_busy_upstream_gets_no_errand(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """While clients wait for a connection, the copy waits; it leaves when they are served."""
    hold = asyncio.Event()
    base = await upstream([WHOLE], [hold, WHOLE], [hold, WHOLE], [WHOLE])
    policy = shadowing(base.port)
    policy["routes"][0]["arms"][0]["upstream"] = "one"
    side = await serving(base, serve, tmp_path, policy, max_upstream_connections=1)
    told = events_of(side)
    async with talking(side) as one, talking(side) as two:
        side.app.plane.aside = None
        await one.ask()
        side.app.plane.aside = side.app.traffic.aside
        asking = [asyncio.ensure_future(app.ask()) for app in (one, two)]
        assert await base.until(lambda: len(base.requests) == 2)
        assert len(base.peers) == 1
        hold.set()
        await asyncio.gather(*asking)
    assert await until(lambda: len(told) == 2)
    assert [orjson.loads(seen.body)["model"] for seen in base.requests] == [OLD, OLD, OLD, NEW, NEW]


# ---- judges


async def test_grades_are_labels(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """A stream and a whole answer are graded; the labels move what is believed of the arm; the cost is the route's."""
    stream = [SSE_HEAD + delta(ANSWER.decode()) + FINISH]
    base = await upstream([WHOLE], stream)
    bench = await upstream([GRADE])
    side = await serving(base, serve, tmp_path, judged(base.port, bench.port, budget={"daily_usd": 1}))
    told = events_of(side)
    before = side.app.engine.status()[0].arms[0]
    async with talking(side) as app:
        await app.ask(PROMPT.decode())
        await app.ask(PROMPT.decode(), stream=True)
    assert await until(lambda: len(told) == 2)
    after = side.app.engine.status()[0].arms[0]
    assert (before.labels, after.labels) == (0, 2)
    assert after.label_mean is not None
    assert abs(after.label_mean - 0.8) < 1e-9
    for seen in bench.requests:
        asked = orjson.loads(seen.body)
        shown = orjson.loads(asked["messages"][1]["content"])
        assert (asked["model"], shown) == (JUDGE, {"question": PROMPT.decode(), "answer": ANSWER.decode()})
    assert [one.detail["score"] for one in told] == [0.8, 0.8]
    assert {one.detail["cost_nusd"] for one in told} == {27_000}
    assert side.app.engine.status()[0].spent_day_nusd >= 350_000 + 2 * 27_000


async def test_a_judge_that_says_nothing_clear(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Errors, refusals, two grades, a grade out of range: no label, no fault, and the cost is booked."""
    base = await upstream([WHOLE])
    replies = [
        ok(b'{"error":{"message":"no"}}', status=b"401 Unauthorized"),
        ok(b'{"choices":[{"message":{"content":"I would rather not."}}]}'),
        ok(b'{"choices":[{"message":{"content":"{\\"score\\": 12}"}}]}'),
        ok(b'{"choices":[{"message":{"content":"{\\"score\\": 1} or {\\"score\\": 2}"}}]}'),
        ok(b"not json"),
    ]
    bench = await upstream(*([reply] for reply in replies))
    side = await serving(base, serve, tmp_path, judged(base.port, bench.port))
    told = events_of(side)
    async with talking(side) as app:
        for count in range(1, 6):
            await app.ask()
            assert await until(lambda count=count: len(told) == count)
            side.app.traffic.aside.errands.wake()
    assert [one.detail["score"] for one in told] == [None] * 5
    assert told[0].detail["cost_nusd"] == 0
    assert all(int(str(one.detail["cost_nusd"])) > 0 for one in told[1:4]), "unknown usage is booked as estimated"
    assert side.app.engine.status()[0].arms[0].labels == 0


async def test_labels_move_the_choice(sim: Sim, upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """A judge that reads the sums: the arm that is wrong half of the time is believed to be worse."""
    provider = await sim(
        models={NEW: SimulatedModel(quality=0.0), OLD: SimulatedModel(quality=1.0)}, requests_kept=1000
    )
    bench = await upstream()

    def grade(_head: bytes) -> list[bytes]:
        shown = orjson.loads(orjson.loads(bench.requests[-1].body)["messages"][1]["content"])["answer"]
        left, right = shown.partition("=")[0], shown.partition("=")[2].partition(".")[0]
        right_sum = sum(int(one) for one in left.split("+")) == int(right)
        content = orjson.dumps({"score": 10 if right_sum else 0}).decode()
        usage = {"prompt_tokens": 9, "completion_tokens": 9}
        return [ok(orjson.dumps({"choices": [{"message": {"content": content}}], "usage": usage}))]

    bench.by = grade
    quality = judged(provider.port, bench.port)
    policy = quality["routes"][0]["quality"]
    changes = {"quality": policy, "mode": "optimize", "sticky": "request"}
    made = route(provider.port, **changes)
    made["upstreams"] = quality["upstreams"]
    side = await serving(provider, serve, tmp_path, made)
    while side.app.engine.status()[0].rollouts[0].phase != "promoted":
        side.app.on_events(side.app.engine.promote("chat", steady()))
    told = events_of(side)
    async with talking(side) as app:
        for count in range(1, 41):
            await app.ask(f"{count} + 1?")
            assert await until(lambda count=count: len(told) == count)
    arms = {arm.id: arm for arm in side.app.engine.status()[0].arms}
    assert arms["base"].labels + arms["new"].labels == 40
    assert arms["base"].label_mean == 1.0
    assert arms["new"].labels == 0 or arms["new"].label_mean == 0.0
    assert arms["new"].feasible < arms["base"].feasible or arms["new"].labels < 3


# ---- credentials and secrets


async def test_credentials_never_cross(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """The raw bytes that the other upstreams received: their own keys, and nothing of the client's."""
    base, new, bench = await upstream([WHOLE]), await upstream([WHOLE]), await upstream([GRADE])
    policy = shadowing(base.port, new.port, quality=judged(1, 1)["routes"][0]["quality"])
    policy["upstreams"]["bench"] = judged(1, bench.port)["upstreams"]["bench"]
    side = await serving(base, serve, tmp_path, policy)
    told = events_of(side)
    lines = [b"Authorization: Bearer " + KEY, b"x-api-key: " + KEY, b"api-key: " + KEY, b"x-goog-api-key: " + KEY]
    async with connected(side.port) as client:
        client.send(post("/v1/chat/completions", CHAT, *lines))
        assert (await client.response()).status == 200
        assert await until(lambda: len(told) == 2)
        client.send(post("/v1/chat/completions?key=" + KEY.decode(), CHAT, lines[0]))
        assert (await client.response()).status == 200
        assert await until(lambda: len(told) == 3)
    assert KEY in base.requests[0].raw
    assert len(new.requests) == 1, "a query may hold a key: it goes to the client's own upstream only"
    assert len(bench.requests) == 2
    for seen, own in ((new.requests[0], b"new-key"), *((one, b"judge-key") for one in bench.requests)):
        assert KEY not in seen.raw
        assert seen.value(b"authorization") == b"Bearer " + own


async def test_the_clients_own_key_goes_to_its_own_upstream(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """A judge at the baseline's origin without a key of its own is asked with the client's."""
    base = await upstream([WHOLE], [GRADE])
    side = await serving(base, serve, tmp_path, judged(base.port, base.port, held=False))
    told = events_of(side)
    async with connected(side.port) as client:
        client.send(post("/v1/chat/completions", CHAT, b"Authorization: Bearer " + KEY))
        assert (await client.response()).status == 200
    assert await until(lambda: len(told) == 1)
    assert base.requests[1].value(b"authorization") == b"Bearer " + KEY
    assert told[0].detail["score"] == 0.8


async def test_no_text_is_written_anywhere(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Prompt, answer, criteria of nobody, key and the judge's words: not in the database, its log, metrics or /ready."""
    words = b"The judge mumbles of cinnamon lighthouses."
    reply = orjson.dumps({"choices": [{"message": {"content": words.decode() + ' {"score": 3}'}}]})
    base, new = await upstream([WHOLE]), await upstream([WHOLE])
    bench = await upstream([ok(reply)], [ok(b'{"error":{"message":"' + PROMPT + b'"}}', status=b"500 Oops")])
    policy = shadowing(base.port, new.port, quality=judged(1, 1)["routes"][0]["quality"])
    policy["upstreams"]["bench"] = judged(1, bench.port)["upstreams"]["bench"]
    log = tmp_path / "requests.log"
    side = await serving(
        base, serve, tmp_path, policy, db=tmp_path / "db" / "side.db", request_log=log, log_level="debug"
    )
    told = events_of(side)
    with structlog.testing.capture_logs() as lines:
        async with connected(side.port) as client:
            for count in (2, 4):
                client.send(post("/v1/chat/completions", CHAT, b"Authorization: Bearer " + KEY))
                await client.response()
                assert await until(lambda count=count: len(told) == count)
                side.app.traffic.aside.errands.wake()
        side.app.on_events(side.app.engine.tick(steady()))
    shown = repr(lines).encode()
    shown += orjson.dumps([side.app.readiness().notes, side.app.readiness().detail])
    shown += side.app.metrics.render()[1]
    side.app.stop()
    assert await until(lambda: log.exists() and log.stat().st_size > 0)
    await asyncio.sleep(0.5)
    for file in (tmp_path / "db").rglob("*"):
        shown += file.read_bytes()
    shown += log.read_bytes()
    assert b"errand" in shown
    leaks = Canaries({"prompt": PROMPT, "answer": ANSWER, "key": KEY, "words": words}).leaks(shown)
    assert not leaks


def test_answers_are_read_as_the_judge_sees_them() -> None:
    """The script of these tests is an answer that a judge can be shown."""
    body = WHOLE.partition(b"\r\n\r\n")[2]
    said = read_answer(body, "chat")
    assert said is not None
    assert said.texts == (ANSWER.decode(),)
