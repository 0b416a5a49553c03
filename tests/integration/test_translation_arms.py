"""Arms of another format in everything that a policy does with arms: fallbacks, cascades, shadows, variants, params."""

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from sidecar.clock import steady
from tests.integration.canary import OLD, App, phase, route, rows_of, talking, written
from tests.integration.conftest import Running, Serve, Upstream
from tests.integration.raw import SSE_HEAD, WAIT_S, ScriptedUpstream, call, chunked, connected, event, ok, post

HELD = {"NEW_KEY": "held-key-0123456789", "ONE_KEY": "near-key-0123456789"}
FAILED = ok(b'{"error":{"message":"busy"}}', status=b"503 Service Unavailable")


def claude(port: int) -> dict[str, Any]:
    return {
        "dialect": "anthropic",
        "base_url": f"http://127.0.0.1:{port}",
        "api_key": {"env": "NEW_KEY"},
        "price": {"input_mtok": 1, "output_mtok": 2},
    }


def message(text: str, stop: str = "end_turn") -> bytes:
    """A whole answer of Anthropic's."""
    content = [{"type": "text", "text": text}] if text else []
    usage = {"input_tokens": 7, "output_tokens": 3}
    made = {"id": "msg_1", "type": "message", "role": "assistant", "model": "c", "content": content}
    return orjson.dumps({**made, "stop_reason": stop, "stop_sequence": None, "usage": usage})


def completion(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return orjson.dumps(
        {"id": "c-1", "object": "chat.completion", "created": 1, "model": OLD, "choices": [choice], "usage": usage}
    )


def both(near: ScriptedUpstream, far: ScriptedUpstream, **changes: Any) -> dict[str, Any]:
    """A policy with an OpenAI upstream, `one`, and an Anthropic one, `far`."""
    made = route(near.port, **({"rollout": None} | changes))
    made["upstreams"]["far"] = claude(far.port)
    made["upstreams"]["one"]["api_key"] = {"env": "ONE_KEY"}
    return made


NATIVE = {"id": "base", "upstream": "one", "model": OLD}
FOREIGN = {"id": "other", "upstream": "far", "model": "c"}


@pytest.mark.parametrize("first", ["native", "foreign"])
async def test_fallback_to_another_format(upstream: Upstream, serve: Serve, tmp_path: Path, first: str) -> None:
    """Each arm gets the call in its own words, whole; the client sees one answer in its own."""
    far_first = first == "foreign"
    near = await upstream([ok(completion("near"))] if far_first else [FAILED])
    far = await upstream([FAILED] if far_first else [ok(message("far"))])
    arms = (FOREIGN, NATIVE) if far_first else (NATIVE, FOREIGN)
    made = both(near, far, baseline=arms[0], arms=[arms[1]], rollout={"min_requests": 9999},
                fallback={"arms": [arms[1]["id"]], "on": ["5xx"], "max": 1})  # fmt: skip
    side = await serve(near, policies=written(tmp_path / "p", made), environ=HELD)
    rows = rows_of(side)
    async with talking(side) as app:
        got = await app.ask("Hi there", model="auto", max_tokens=9)
        for _ in range(20):  # one in twenty goes to the new arm at once
            if got.reason != "fallback":
                for known in (rows, near.requests, far.requests):
                    known.clear()
                got = await app.ask("Hi there", model="auto", max_tokens=9)
    assert orjson.loads(got.raw.body)["choices"][0]["message"]["content"] == ("near" if far_first else "far")
    assert got.reason == "fallback"
    asked_near, asked_far = orjson.loads(near.requests[0].body), orjson.loads(far.requests[0].body)
    assert asked_near["messages"] == [{"role": "user", "content": "Hi there"}]
    assert (asked_near["model"], asked_far["model"], asked_far["max_tokens"]) == (OLD, "c", 9)
    assert b"held-key" not in near.requests[0].raw
    assert far.requests[0].value(b"x-api-key") == b"held-key-0123456789"
    assert far.requests[0].value(b"authorization") is None
    assert (rows[0].outcome.kind, rows[0].outcome.served_arm) == ("completed", arms[1]["id"])
    assert rows[0].outcome.usage is not None
    assert rows[0].outcome.usage.output_tokens == (10 if far_first else 3)


async def cascading(
    near: ScriptedUpstream, far: ScriptedUpstream, serve: Serve, tmp_path: Path
) -> tuple[Running, dict[str, Any]]:
    """A sidecar whose cascade begins with an arm of another format, and its policy."""
    made: dict[str, Any] = {"cascade": {"arms": ["new", "base"], "on": ["empty"]}}
    policy = route(near.port, mode="optimize", sticky="request", quality={"validators": ["empty"], "min_samples": 0},
                   arms=[{"id": "new", "upstream": "two", "model": "c"}], **made)  # fmt: skip
    policy["upstreams"]["two"] = claude(far.port)
    side = await serve(near, policies=written(tmp_path / "policies", policy), environ=HELD)
    while phase(side)[0] != "promoted":
        side.app.on_events(side.app.engine.promote("chat", steady()))
    return side, policy


@pytest.mark.parametrize("framing", ["length", "chunked", "late end"])
async def test_a_cascade_over_formats(upstream: Upstream, serve: Serve, tmp_path: Path, framing: str) -> None:
    """The held answer of the arm of another format is checked, measured and paid, however its end comes."""

    def framed(body: bytes) -> list[Any]:
        if framing == "length":
            return [ok(body)]
        data = chunked(body)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        return [head + data] if framing == "chunked" else [head + data[:-5], 0.02, data[-5:]]

    near = await upstream([ok(completion("near"))])
    far = await upstream(framed(message("")), framed(message("far")))
    side, _ = await cascading(near, far, serve, tmp_path)
    rows = rows_of(side)
    async with talking(side) as app:
        first, second = await app.ask(), await app.ask()
    assert [first.model, second.model] == [OLD, "c"]
    assert orjson.loads(second.raw.body)["choices"][0]["message"]["content"] == "far"
    assert [(one.why, one.cost_nusd) for one in rows[0].stages or ()] == [("empty", 13_000)]
    assert rows[1].outcome.cost_nusd == 13_000


async def test_an_answer_without_a_body_is_none(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Where no other arm of the cascade can be asked, the client gets an error, as without a cascade."""
    go = asyncio.Event()
    near, far = await upstream([ok(completion("near"))]), await upstream([go, ok(b"")])
    side, policy = await cascading(near, far, serve, tmp_path)
    policy["routes"][0]["baseline"]["id"] = "other"
    del policy["routes"][0]["cascade"]
    written(tmp_path / "policies", policy)
    async with talking(side) as app:
        asked = asyncio.ensure_future(app.ask())
        assert await far.until(lambda: len(far.requests) == 1)
        loaded = side.app.policies.take(side.app.policies.read())
        assert loaded is not None
        side.app.apply(loaded)
        go.set()
        got = await asked
    assert (got.status, near.requests) == (502, [])


@pytest.mark.parametrize("how", ["alone", "fallback", "cascade"])
async def test_an_answer_that_breaks_off_is_paid(upstream: Upstream, serve: Serve, tmp_path: Path, how: str) -> None:
    """Nothing of it is with the client, and it may be billed: the budget takes what was reserved, the row says at least."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
    near, far = await upstream([ok(completion("near"))]), await upstream([head + message("far")[:-3], "reset"])
    if how == "cascade":
        side, policy = await cascading(near, far, serve, tmp_path)
    else:
        second = {"arms": [NATIVE["id"]], "on": ["5xx"]} if how == "fallback" else None
        policy = both(near, far, baseline=FOREIGN, arms=[NATIVE], rollout={"min_requests": 9999}, fallback=second)
        side = await serve(near, policies=written(tmp_path / "policies", policy), environ=HELD)
    policy["routes"][0]["budget"] = {"daily_usd": 100}
    written(tmp_path / "policies", policy)
    loaded = side.app.policies.take(side.app.policies.read())
    assert loaded is not None
    side.app.apply(loaded)
    rows, spent_nusd = rows_of(side), 0
    async with talking(side) as app:
        got = await app.ask("Hi", model="auto", max_tokens=1000)
        while not far.requests:  # one in twenty goes to the new arm at once
            spent_nusd += rows[-1].outcome.cost_nusd or 0
            got = await app.ask("Hi", model="auto", max_tokens=1000)
    status, outcome = side.app.engine.status()[0], rows[-1].outcome
    known_nusd = outcome.cost_nusd or 0
    assert status.spent_day_nusd - spent_nusd - known_nusd >= 2_000_000, "1,000 tokens at two dollars a million"
    assert status.reserved_nusd == 0
    if how == "alone":
        assert (got.status, outcome.cost_nusd) == (502, None)
    else:
        assert (got.status, got.reason, known_nusd, outcome.cost_kind) == (200, "fallback", 350_000, "lower_bound")


async def test_shadows_of_another_format(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """A copy goes only to an arm that understands it as it is: a chat-only server gets no Responses call."""
    near, new = await upstream(), await upstream()
    made = route(near.port, new_port=new.port, mode="shadow", shadow={"arm": "new", "sample": 1, "daily_usd": 1})
    made["routes"][0].pop("rollout")
    made["upstreams"]["two"] |= {"provider": "mistral", "price": {"input_mtok": 1, "output_mtok": 2}}
    side = await serve(near, policies=written(tmp_path / "p", made), environ=HELD)
    async with connected(side.port) as client:
        client.send(post("/v1/responses", orjson.dumps({"model": OLD, "input": "no copy", "store": False})))
        await client.response()
    async with talking(side) as app:
        await app.ask("copy me")
        async with asyncio.timeout(WAIT_S):
            while not new.requests:  # noqa: ASYNC110 - the process has no event for it
                await asyncio.sleep(0.002)
    assert [b"copy me" in one.body for one in new.requests] == [True]


async def test_a_shadow_of_a_gemini_call(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """The copy asks for the shadow's model, where Gemini says it: in the path."""
    body = b'{"candidates":[{"content":{"role":"model","parts":[{"text":"a"}]},"finishReason":"STOP"}]}'
    near = await upstream([ok(body)])
    made = route(near.port, mode="shadow", shadow={"arm": "new", "sample": 1, "daily_usd": 1})
    made["routes"][0].pop("rollout")
    price = {
        "price": {"input_mtok": 1, "output_mtok": 2},
        "dialect": "gemini",
        "base_url": f"http://127.0.0.1:{near.port}",
    }
    made["upstreams"] = {"one": price, "two": price | {"api_key": {"env": "NEW_KEY"}}}
    side = await serve(near, policies=written(tmp_path / "p", made), environ=HELD)
    call_ = b'{"contents":[{"role":"user","parts":[{"text":"Hi"}]}]}'
    await call(side.port, post(f"/v1beta/models/{OLD}:generateContent", call_, b"x-goog-api-key: k"))
    assert await near.until(lambda: len(near.requests) > 1)
    assert near.requests[1].line == b"POST /v1beta/models/gpt-4o-mini:generateContent HTTP/1.1"
    assert near.requests[1].body == call_


async def test_variants_and_params(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """What an arm sets is said in its own format; a variant's prompt too."""
    near, far = await upstream(), await upstream([ok(message("far"))])
    arm = FOREIGN | {"params": {"temperature": 0, "max_tokens": 5, "top_k": 3, "service_tier": "auto"}}
    side = await serve(
        near, policies=written(tmp_path / "p", both(near, far, baseline=arm, arms=[], mode="observe")), environ=HELD
    )
    async with talking(side) as app:
        got = await app.ask("Hi", model="auto", temperature=1)
    assert got.status == 200
    asked = orjson.loads(far.requests[0].body)
    assert (asked["temperature"], asked["max_tokens"], asked["top_k"], asked["service_tier"]) == (0, 5, 3, "auto")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
async def test_a_limit_by_any_name(upstream: Upstream, serve: Serve, tmp_path: Path, name: str) -> None:
    """Tuning sets the limit by the name that the app used; the arm is told in its own words, and nothing else."""
    near, far = await upstream(), await upstream([ok(message("far"))])
    arm = FOREIGN | {"params": {name: 5}}
    side = await serve(
        near, policies=written(tmp_path / "p", both(near, far, baseline=arm, arms=[], mode="observe")), environ=HELD
    )
    async with talking(side) as app:
        await app.ask("Hi", model="auto", max_completion_tokens=9)
    asked = orjson.loads(far.requests[0].body)
    assert {key: value for key, value in asked.items() if key.startswith("max")} == {"max_tokens": 5}


@pytest.mark.parametrize(("limit", "status"), [(50, 200), (5000, 429), (None, 429)])
async def test_a_budget_knows_geminis_limit(
    upstream: Upstream, serve: Serve, tmp_path: Path, limit: int | None, status: int
) -> None:
    """It is deeper in the body than others': 50 tokens at 2 dollars a million fit into a tenth of a cent, 5,000 do not, nor
    do the 1,024 that are reserved for a call that says nothing."""
    near, far = await upstream(), await upstream([ok(message("far"))])
    made = both(near, far, baseline=FOREIGN, arms=[], mode="observe", budget={"per_request_usd": 0.001})
    made["routes"][0]["budget"]["on_exceeded"] = "deny"
    side = await serve(near, policies=written(tmp_path / "p", made), environ=HELD)
    config = {} if limit is None else {"generationConfig": {"maxOutputTokens": limit}}
    body = orjson.dumps({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]} | config)
    got = await call(side.port, post("/v1beta/models/auto:generateContent", body, b"x-goog-api-key: k"))
    assert got.status == status


async def test_an_arms_params_in_geminis_own_words(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Nothing is translated, and what every format has is still put where this one has it."""
    body = b'{"candidates":[{"content":{"role":"model","parts":[{"text":"a"}]},"finishReason":"STOP"}]}'
    near = await upstream([ok(body)])
    made = route(near.port, mode="observe", arms=[], rollout=None)
    made["routes"][0]["baseline"] |= {"params": {"temperature": 0.3, "max_tokens": 5}}
    made["upstreams"] = {"one": {"dialect": "gemini", "base_url": f"http://127.0.0.1:{near.port}"}}
    side = await serve(near, policies=written(tmp_path / "p", made), environ=HELD)
    asked = b'{"contents":[],"generationConfig":{"topK":3}}'
    await call(side.port, post("/v1beta/models/auto:generateContent", asked, b"x-goog-api-key: k"))
    assert orjson.loads(near.requests[0].body) == {
        "contents": [],
        "generationConfig": {"topK": 3, "temperature": 0.3, "maxOutputTokens": 5},
    }


async def test_a_slow_client(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """A client that does not read stops the arm: what it says waits in its own socket, and then all of it arrives."""
    text = "x" * 50_000
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
    start = {"type": "message_start", "message": orjson.loads(message(""))}
    opened = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    ends = [{"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
            {"type": "message_stop"}]  # fmt: skip
    said = event(orjson.dumps(delta))
    many = 600
    script: list[Any] = [SSE_HEAD, *[event(orjson.dumps(one)) for one in (start, opened)], *[said] * many,
                         *[event(orjson.dumps(one)) for one in ends], b"0\r\n\r\n"]  # fmt: skip
    near, far = await upstream(), await upstream(script)
    made = both(near, far, baseline=FOREIGN, arms=[], mode="observe")
    side = await serve(near, policies=written(tmp_path / "p", made), environ=HELD, idle_timeout="300ms")
    rows = rows_of(side)
    async with connected(side.port) as client:
        transport = cast("asyncio.Transport", client.writer.transport)
        transport.pause_reading()
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        client.send(post(body=orjson.dumps(body)))
        await asyncio.sleep(0.8)
        assert far.peers[0].bytes_written < many * len(said) / 2
        transport.resume_reading()
        parts = [b""]
        async with asyncio.timeout(WAIT_S):
            while not parts[-1].endswith(b"0\r\n\r\n"):
                parts.append(await client.reader.read(2**20))
    assert b"".join(parts).count(b"x" * 40_000) == many
    side.app.plane.settle()
    assert (rows[0].outcome.kind, rows[0].outcome.error) == ("completed", None)


async def test_a_virtual_model_and_off(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """x-sidecar-off chooses nothing; a name that only the arm of another format has is still served there."""
    near, far = await upstream([ok(completion("near"))]), await upstream([ok(message("far"))])
    made = both(near, far, baseline=FOREIGN, arms=[], mode="observe")
    side = await serve(near, policies=written(tmp_path / "p", made), environ=HELD)
    async with connected(side.port) as client:
        app = App(client)
        got = await app.ask("Hi", b"x-sidecar-off: 1", model="auto")
        assert (got.status, got.model) == (200, "c")
    assert len(far.requests) == 1


async def test_when_the_engine_fails(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Its fault costs the choice, not the call: the baseline of another format serves what only it can."""
    near, far = await upstream([ok(completion("near"))]), await upstream([ok(message("far"))])
    made = both(near, far, baseline=FOREIGN, arms=[], mode="observe")
    side = await serve(near, policies=written(tmp_path / "p", made), environ=HELD)
    engine = side.app.plane.engine

    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    side.app.plane.engine.decide = broken  # type: ignore[method-assign,assignment]
    async with talking(side) as app:
        got = await app.ask("Hi", model="auto")
    del engine.decide
    assert (got.status, got.reason, got.model) == (200, "fail-open", "c")
    side.app.plane.books.bugs = 0  # the one that was made


async def test_a_broken_translator(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours in a spoke is an answer to the client, never a connection that closes without a word."""
    near, far = await upstream([ok(completion("near"))]), await upstream([ok(message("far"))])
    made = both(near, far, baseline=FOREIGN, arms=[], mode="observe")
    side = await serve(near, policies=written(tmp_path / "p", made), environ=HELD)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken")

    for name in ("losses", "say"):
        with monkeypatch.context() as patch:
            patch.setattr(f"sidecar.proxy.translated.{name}", broken)
            async with talking(side) as app:
                got = await app.ask("Hi", model="auto")
        assert got.status == (200 if name == "losses" else 500), name  # as the app asked, at its own provider
        assert not far.requests
    side.app.plane.books.bugs = 0  # those that were made


async def test_a_translator_that_stalls(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ended as the engine is, and while that rests too: the call goes to the app's own provider, as it came."""
    near, far = await upstream([ok(completion("near"))]), await upstream([ok(message("far"))])
    made = both(near, far, baseline=FOREIGN, arms=[], mode="observe")
    side = await serve(near, policies=written(tmp_path / "p", made), environ=HELD)
    monkeypatch.setattr("sidecar.proxy.translated.losses", lambda *_: time.sleep(60.0))
    async with talking(side) as app:
        for _ in range(2):
            got = await app.ask("Hi", model="auto")
            assert (got.status, got.reason) == (200, "fail-open")
    assert not far.requests
    side.app.plane.books.bugs = 0  # they were asked for
