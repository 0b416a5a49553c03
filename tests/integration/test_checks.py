"""The validators that read answers, through the real proxy: one arm keeps to what was asked, the other breaks it."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from sidecar.clock import monotonic
from sidecar.core.types import Settled
from sidecar.proxy import signals
from sidecar.sim.knobs import Distribution, SimulatedModel
from sidecar.sim.provider import SimulatedProvider
from tests.integration.canary import NEW, OLD, phase, route, rows_of, talking, written
from tests.integration.conftest import Running, Serve, Sim, Upstream, serving
from tests.integration.raw import SSE_HEAD, connected, event, ok, post

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
STRICT = {"name": "trip", "schema": SCHEMA}
HELLO = [{"role": "user", "content": "plan"}]
ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat schema": ("/v1/chat/completions", {"response_format": {"type": "json_schema", "json_schema": STRICT}}),
    "chat tools": (
        "/v1/chat/completions",
        {"tools": [{"type": "function", "function": {"name": "trip", "parameters": SCHEMA}}]},
    ),
    "responses schema": ("/v1/responses", {"text": {"format": {"type": "json_schema"} | STRICT}}),
    "responses tools": ("/v1/responses", {"tools": [{"type": "function", "name": "trip", "parameters": SCHEMA}]}),
    "messages schema": ("/v1/messages", {"output_format": {"type": "json_schema", "schema": SCHEMA}}),
    "messages tools": ("/v1/messages", {"tools": [{"name": "trip", "input_schema": SCHEMA}]}),
}


def policy(provider: SimulatedProvider, dialect: str = "openai", **quality: Any) -> dict[str, Any]:
    """Two routes that only look: one for each model."""
    made = route(provider.port, quality={"min_samples": 0} | quality)
    one = made["upstreams"]["one"] | {"dialect": dialect}
    one["base_url"] = f"http://127.0.0.1:{provider.port}"
    shared = {"mode": "observe", "quality": made["routes"][0]["quality"]}
    routes = [
        shared
        | {"name": name, "match": {"models": [model]}, "baseline": {"id": name, "upstream": "one", "model": model}}
        for name, model in (("good", OLD), ("bad", NEW))
    ]
    return {"version": 1, "upstreams": {"one": one}, "routes": routes}


async def looking(sim: Sim, serve: Serve, folder: Path, dialect: str = "openai", **quality: Any) -> Running:
    provider = await sim(models={NEW: SimulatedModel(malformed=1.0, tool_pieces=3)})
    return await serve(provider, policies=written(folder / "p", policy(provider, dialect, **quality)))


async def ask(side: Running, path: str, more: dict[str, Any], model: str, *lines: bytes) -> str:
    """One call; the id of its decision."""
    body = {"model": model, "max_tokens": 200, "messages": HELLO, "input": "plan"} | more
    body.pop("messages" if path == "/v1/responses" else "input")
    async with connected(side.port) as client:
        client.send(post(path, orjson.dumps(body), b"Authorization: Bearer k", *lines))
        got = await client.response()
    assert got.status == 200
    return (got.value(b"x-sidecar-decision") or b"").decode()


def failures(side: Running) -> dict[tuple[str, ...], float]:
    side.app.loop.flush()
    lines = side.app.metrics.render()[1].decode().splitlines()
    found = [line for line in lines if line.startswith("llm_sidecar_validator_failures_total{")]
    return {line.partition("{")[2].partition("}")[0]: float(line.rpartition(" ")[2]) for line in found}  # type: ignore[misc]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ASKS)
async def test_an_arm_that_breaks_what_was_asked(
    name: str, stream: bool, sim: Sim, serve: Serve, tmp_path: Path
) -> None:
    """Schema and tool arguments, streamed or not: quality 1 for the one, 0 for the other, and the reason on the row."""
    path, more = ASKS[name]
    dialect = "anthropic" if path == "/v1/messages" else "openai"
    validator = "json_schema" if "schema" in name else "tool_arguments"
    side = await looking(sim, serve, tmp_path, dialect, validators=["json_schema", "tool_arguments", "finish_reason"])
    rows = rows_of(side)
    for model in (OLD, NEW):
        await ask(side, path, more | {"stream": stream}, model)
    good, bad = rows
    assert good.outcome.checks == ((validator, 1.0),)
    assert bad.outcome.checks == ((validator, 0.0),)
    assert (good.quality, bad.quality) == (1.0, 0.0)
    assert (good.quality_source, bad.quality_source) == ("validators", "validators")
    assert failures(side) == {f'arm="bad",route="bad",validator="{validator}"': 1.0}


async def test_what_fails_is_told_and_what_was_said_is_not(sim: Sim, tmp_path: Path) -> None:
    """The row's context and `explain` name the validator; no text of prompt or answer is in the database."""
    provider = await sim(models={NEW: SimulatedModel(malformed=1.0)})
    folder = written(tmp_path / "p", policy(provider, validators=["json_schema", "empty"]))
    database = tmp_path / "side.db"
    async with serving(f"http://127.0.0.1:{provider.port}", policies=folder, db=database) as side:
        path, more = ASKS["chat schema"]
        for model in (OLD, NEW):
            await ask(side, path, more, model)
    with sqlite3.connect(database) as connection:
        contexts = [orjson.loads(text) for (text,) in connection.execute("SELECT context FROM decisions ORDER BY id")]
        everything = "\n".join(connection.iterdump())
    connection.close()
    assert [context.get("failed") for context in contexts] == [None, ["json_schema"]]
    for text in ("plan", "city", "days"):
        assert f'"{text}"' not in everything


async def test_language_and_patterns(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """The simulated provider speaks English."""
    checks = {"validators": ["language", "regex"], "must_not_match": ["nothing at all"]}
    side = await looking(sim, serve, tmp_path, **checks, language=["de"])
    rows = rows_of(side)
    await ask(side, "/v1/chat/completions", {}, OLD)
    assert rows[0].outcome.checks == (("language", 0.0), ("regex", 1.0))


async def test_nothing_is_kept_where_nobody_asks(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Without such a validator no text and no body outlives its bytes."""
    side = await looking(sim, serve, tmp_path, validators=["empty"])
    assert not side.app.plane.checks.reads
    rows = rows_of(side)
    path, more = ASKS["chat schema"]
    await ask(side, path, more, NEW)
    assert (rows[0].outcome.checks, rows[0].quality) == ((), 1.0)


async def test_a_canary_that_breaks_the_schema_is_taken_out(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Its calls succeed, so that only the validator can tell: rolled back within 400 sessions, of which a quarter at
    most saw it. (Each broken answer against a whole one multiplies the evidence; 100 of them are far beyond any alpha.)"""
    provider = await sim(models={NEW: SimulatedModel(malformed=1.0)})
    quality = {"validators": ["json_schema"], "min_samples": 0}
    rollout = {"steps": [25, 100], "min_requests": 100_000, "guardrails": {"quality": "-5%"}}
    made = route(provider.port, quality=quality, rollout=rollout)
    side = await serve(provider, policies=written(tmp_path / "p", made), environ={"NEW_KEY": "k"})
    asked = ASKS["chat schema"][1]
    async with talking(side) as app:
        for number in range(400):
            await app.session(number, **asked)
            if phase(side)[0] == "rolled_back":
                break
    assert phase(side)[0] == "rolled_back"


# ---- scores on their own scales


async def test_values_of_named_sources(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Over the wire: on the scale 202, outside 422."""
    side = await looking(sim, serve, tmp_path, sources={"nps": {"scale": [0, 10]}})
    decision = await ask(side, "/v1/chat/completions", {}, OLD)
    statuses = []
    async with connected(side.port) as client:
        for source, value in (("stars", 4), ("stars", 9), ("nps", 9), ("thumbs", "up")):
            body = orjson.dumps({"id": decision, "source": source, "value": value})
            client.send(post("/_sidecar/v1/feedback", body))
            statuses.append((await client.response()).status)
    assert statuses == [202, 422, 202, 202]


# ---- signals that nobody sends


async def test_a_repeated_prompt(sim: Sim, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same session asks the same again: 0 for the first answer, 1 for the second; an SDK's retry says nothing."""
    monkeypatch.setattr(signals, "_HUMAN_S", 0.0)
    provider = await sim()
    made = route(provider.port, mode="optimize", sticky="session", quality={"implicit": True, "min_samples": 0})
    side = await serve(provider, policies=written(tmp_path / "p", made), environ={"NEW_KEY": "k"})
    assert side.app.plane.signals.active
    rows = rows_of(side)
    for name, lines in ((b"a", b""), (b"a", b""), (b"b", b""), (b"b", b"x-stainless-retry-count: 1")):
        more = (lines,) if lines else ()
        await ask(side, "/v1/chat/completions", {}, OLD, b"x-sidecar-session: " + name, *more)
    found = {
        (_number(rows, one.decision_id), one.source): one.score for one in side.app.plane.signals.due(monotonic() + 60)
    }
    assert found == {(0, "repeat"): 0.0, (1, "repeat"): 1.0, (3, "repeat"): 1.0}


async def test_a_stream_that_is_left(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """After the first token: 0 for it, 1 for one that is read to its end; the desk takes both."""
    slow = SimulatedModel(itl=Distribution(0.02), output_tokens=Distribution(200))
    provider = await sim(models={OLD: slow, NEW: slow})
    made = policy(provider, implicit=True)
    side = await serve(provider, policies=written(tmp_path / "p", made))
    rows = rows_of(side)
    body = orjson.dumps({"model": OLD, "stream": True, "messages": HELLO})
    async with connected(side.port) as client:
        client.send(post("/v1/chat/completions", body))
        await client.until(b'"content":"')
    await ask(side, "/v1/chat/completions", {"stream": True, "max_tokens": 5}, OLD)
    left = next(one for one in rows if one.outcome.kind == "aborted")
    read = next(one for one in rows if one.outcome.kind == "completed")
    due = {
        one.decision_id: one.score for one in side.app.plane.signals.due(monotonic() + 60) if one.source == "abandoned"
    }
    assert due == {left.id: 0.0, read.id: 1.0}
    side.app.loop.flush()
    assert side.app.desk.signal(left.id, "abandoned", 0.0)


async def test_signals_of_a_busy_second_are_all_stored(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """2,000 calls a second, and as many good ends: the store's queue takes 1,000 scores at once."""
    provider, db = await sim(), tmp_path / "s.db"
    made = policy(provider, implicit=True)
    side = await serve(provider, policies=written(tmp_path / "p", made), db=db)
    rows = rows_of(side)
    await ask(side, "/v1/chat/completions", {}, OLD)
    side.app.plane.settle()
    for begin in range(0, 2000, 50):
        for number in range(begin, begin + 50):
            side.app.loop.emit(one := replace(rows[0], id=f"{rows[0].id[:-8]}{number:08x}"))
            side.app.plane.signals._tell(one.id, "repeat", 1.0, monotonic() - signals.SETTLED_S)
        side.app.loop.flush()
        await asyncio.sleep(0.025)
    await asyncio.sleep(0.2)
    assert await side.app.archive.stored(20.0)
    with closing(sqlite3.connect(db)) as stored:
        assert stored.execute("SELECT count(*) FROM feedback").fetchone() == (2000,)
        assert stored.execute("SELECT message FROM events WHERE kind = 'gap'").fetchall() == []


def _number(rows: list[Settled], decision_id: str) -> int:
    return [one.id for one in rows].index(decision_id)


@pytest.mark.parametrize("stream", [False, True])
async def test_gemini(stream: bool, upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Its answers are read too; their model stands in the path, which names the arm, and what failed is told."""
    said = [
        {"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}]}
        for text in ('{"city":', "1}")
    ]
    if stream:
        events = [event(orjson.dumps(one)) for one in said]
        up = await upstream([SSE_HEAD, *events, b"0\r\n\r\n"])
    else:
        said[0]["candidates"][0]["content"]["parts"].append({"text": "1}"})
        up = await upstream([ok(orjson.dumps(said[0]))])
    path = f"/v1beta/models/g:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}"
    made = {
        "version": 1,
        "upstreams": {"g": {"dialect": "gemini", "base_url": f"http://127.0.0.1:{up.port}"}},
        "routes": [
            {
                "name": "g",
                "match": {"paths": ["/v1beta/*"]},
                "baseline": {"id": "a", "upstream": "g", "model": "g"},
                "quality": {"validators": ["json_schema", "finish_reason"]},
            }
        ],
    }
    side = await serve(up, policies=written(tmp_path / "p", made))
    rows = rows_of(side)
    schema = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}
    body = orjson.dumps({"contents": [], "generationConfig": {"responseSchema": schema}})
    async with connected(side.port) as client:
        client.send(post(path, body))
        assert (await client.response()).status == 200
    assert (rows[0].outcome.kind, rows[0].outcome.finish) == ("completed", "STOP")
    assert (rows[0].decision.arm, rows[0].outcome.checks) == ("a", (("json_schema", 0.0),))
    assert failures(side) == {'arm="a",route="g",validator="json_schema"': 1.0}
