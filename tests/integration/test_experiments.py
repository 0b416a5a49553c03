"""An experiment in a real process: prompts on the wire, sticky variants, scores, the verdict, a restart."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.clock import steady
from sidecar.config.policy import load_file
from tests.integration.canary import App, Said, route, rows_of, running, talking, written
from tests.integration.conftest import Running, Serve, Sim, Upstream, serving
from tests.integration.raw import post

SECRET = "You answer in one word."
VARIANTS = [{"id": "control"}, {"id": "short", "params": {"temperature": 0}, "system": {"text": SECRET}}]
EXPERIMENT: dict[str, Any] = {"variants": VARIANTS, "min_samples": 10, "allocation": "adaptive"}


def of_ab(**changes: Any) -> dict[str, Any]:
    return {"mode": "ab", "rollout": None, "arms": [], "experiment": EXPERIMENT, "quality": None} | changes


def sent(body: bytes) -> tuple[str | None, float | None]:
    """System text and temperature of a chat body."""
    call = orjson.loads(body)
    first = call["messages"][0]
    return first["content"] if first["role"] == "system" else None, call.get("temperature")


async def scored(app: App, side: Running, said: Said, score: float) -> None:
    body = orjson.dumps({"id": said.decision, "score": score})
    app.client.send(post("/_sidecar/v1/feedback", body))
    assert (await app.client.response()).status == 202
    side.app.plane.settle()


async def test_a_winner_is_found(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """The app likes the short prompt's answers: scores 1 against 0 are decided within 200 sessions (each unit multiplies
    wealth by 1.09 or more: 40 is reached by then many times over). Told once, stored, and no prompt anywhere."""
    provider = await sim(requests_kept=1000)
    folder = written(tmp_path / "p", route(provider.port, **of_ab()))
    db = tmp_path / "d.sqlite"
    side = await serve(provider, policies=folder, db=db, environ={"NEW_KEY": "k"})
    rows = rows_of(side)
    side.app.on_events(side.app.engine.tick(steady()))
    variant: dict[int, str | None] = {}
    async with talking(side) as app:
        for name in range(200):
            said = await app.session(name)
            served = rows[-1].decision.rollout_id
            variant[name] = served
            if side.app.engine.status()[0].experiment.verdict is not None:  # type: ignore[union-attr]  # it is there
                break
            assert said.reason == "sampled"
            assert served is not None
            system, temperature = sent(provider.requests[-1].body)
            assert (system, temperature) == ((SECRET, 0) if served.endswith(":short") else (None, None))
            again = await app.session(name)
            assert (again.reason, rows[-1].decision.rollout_id) == ("sticky", served)
            assert sent(provider.requests[-1].body) == (system, temperature)
            await scored(app, side, said, float(served.endswith(":short")))
        status = side.app.engine.status()[0]
        assert status.experiment is not None
        assert (status.experiment.verdict, status.experiment.winner) == ("winner", "short")
        assert any("the winner" in text for text in status.explanations)
        assert (await app.session("new one")).reason == "policy"  # reported: the control serves
    assert len({one for one in variant.values() if one is not None}) == 2
    assert await side.app.archive.stored(5.0)
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("SELECT verdict, arms FROM experiments").fetchall() == [
            ("winner", '["control","short"]')
        ]
        (dump,) = connection.execute("SELECT group_concat(detail || message) FROM events").fetchone()
        stored = connection.execute("SELECT DISTINCT rollout_id FROM decisions WHERE rollout_id IS NOT NULL").fetchall()
    assert {one for (one,) in stored} == {one for one in variant.values() if one is not None}
    assert SECRET not in dump
    files = await asyncio.to_thread(lambda: b"".join(file.read_bytes() for file in tmp_path.glob("d.sqlite*")))
    assert b"experiment.decided" in files
    assert SECRET.encode() not in files


async def test_a_restart_goes_on(sim: Sim, tmp_path: Path) -> None:
    """Evidence and conversations are still there, and the experiment does not begin again."""
    provider = await sim()
    folder = written(tmp_path / "p", route(provider.port, **of_ab()))
    settings = {"policies": folder, "db": tmp_path / "d.sqlite", "environ": {"NEW_KEY": "k"}}
    url = f"http://127.0.0.1:{provider.port}"
    before: dict[int, tuple[str, ...]] = {}
    async with serving(url, **settings) as side:  # type: ignore[arg-type]  # settings as --set takes them
        rows = rows_of(side)
        side.app.on_events(side.app.engine.tick(steady()))
        async with talking(side) as app:
            for name in range(10):
                await scored(app, side, await app.session(name), 0.5)
                before[name] = tuple(type(edit).__name__ for edit in rows[-1].decision.system)
    async with serving(url, **settings) as side:  # type: ignore[arg-type]  # as above
        rows = rows_of(side)
        side.app.on_events(side.app.engine.tick(steady()))
        status = side.app.engine.status()[0].experiment
        assert status is not None
        assert sum(one.units for one in status.variants) == 10
        async with talking(side) as app:
            for name in range(10):
                assert (await app.session(name)).reason == "sticky"
                decision = rows[-1].decision
                assert tuple(type(edit).__name__ for edit in decision.system) == before[name]
                assert decision.rollout_id is None, "its unit was counted already"
    with closing(sqlite3.connect(tmp_path / "d.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM events WHERE kind = 'experiment.started'").fetchone() == (1,)


async def test_only_the_prompt_changes(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """The bytes that the provider gets are the app's with the generated system text, in an odd layout too."""
    provider = await upstream()
    variants = [{"id": "a"}, {"id": "b", "system": {"generate": ["compress"]}}]
    policy = route(provider.port, **of_ab(experiment={"variants": variants}, sticky="request"))
    side = await serve(provider, policies=written(tmp_path / "p", policy), environ={"NEW_KEY": "k"})
    body = b'{ "x":1e2,"messages" : [{"content":"Please  help.","role":"system"},{"role":"user","content":"\\u0061"}]'
    body += b',"model":"gpt-4o"}'
    async with talking(side) as app:
        for _ in range(30):
            app.client.send(post("/v1/chat/completions", body))
            assert (await app.client.response()).status == 200
    got = {one.body for one in provider.requests}
    assert got == {body, body.replace(b"Please  help.", b"help.")}  # one side by chance: 2^-29


async def test_a_prompt_without_a_place_is_no_unit(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Calls into which the variant's prompt cannot be put go as they came, and neither side counts them: a content of
    another type, and an API that has no system prompt. Of 20 calls both sides had some: one side by chance 2^-19."""
    provider = await upstream()
    made = route(provider.port, **of_ab(sticky="request"))
    side = await serve(provider, policies=written(tmp_path / "p", made), environ={"NEW_KEY": "k"})
    side.app.on_events(side.app.engine.tick(steady()))
    rows = rows_of(side)
    odd = b'{"messages":[{"role":"system","content":5}],"model":"gpt-4o"}'
    async with talking(side) as app:
        for path, body in (("/v1/chat/completions", odd), ("/v1/completions", b'{"prompt":"x","model":"gpt-4o"}')):
            for _ in range(10):
                app.client.send(post(path, body))
                assert (await app.client.response()).status == 200
    side.app.plane.settle()
    assert {one.reason for one in (row.decision for row in rows)} == {"sampled"}
    assert {one.decision.rollout_id for one in rows} == {None}
    assert {b"SECRET" in one.body for one in provider.requests} == {False}
    assert len({one.body for one in provider.requests}) == 4, "params of the one variant are put in as ever"
    assert side.books.unvaried == 20
    status = side.app.engine.status()[0].experiment
    assert status is not None
    assert sum(one.units for one in status.variants) == 0
    assert "llm_sidecar_unvaried_total 20" in side.app.metrics.render()[1].decode()


async def test_an_edit_that_raises_is_no_unit(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours in an edit costs a unit, never the call."""

    def fault(*_: object) -> str:
        raise RecursionError

    provider = await upstream()
    made = route(provider.port, **of_ab(sticky="request"))
    side = await serve(provider, policies=written(tmp_path / "p", made), environ={"NEW_KEY": "k"})
    side.app.on_events(side.app.engine.tick(steady()))
    rows = rows_of(side)
    with monkeypatch.context() as patch:
        patch.setattr("sidecar.proxy.outgoing.rewrite", fault)
        async with talking(side) as app:
            assert (await app.ask()).status == 200
    side.app.plane.settle()
    assert (rows[0].decision.rollout_id, side.books.unvaried, side.books.bugs) == (None, 1, 1)
    side.books.bugs = 0


async def test_rules_leave_nothing_to_compare(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Where not every variant may serve, the baseline does, and nobody is counted."""
    provider = await sim()
    variants = [{"id": "a"}, {"id": "b", "arm": "new"}]
    arms = [{"id": "new", "upstream": "two", "model": "gpt-4o-mini", "facts": {"eu": False}}]
    rules = [{"id": "r", "when": "model.eu == false", "action": "filter"}]
    base = {"id": "base", "upstream": "one", "model": "gpt-4o", "facts": {"eu": True}}
    changes = of_ab(experiment={"variants": variants}, arms=arms, rules=rules, baseline=base)
    side = await running(provider, serve, tmp_path, **changes)
    rows = rows_of(side)
    async with talking(side) as app:
        said = [await app.session(name) for name in range(12)]
    assert {(one.status, one.reason) for one in said} == {(200, "baseline")}
    assert {one.decision.rollout_id for one in rows} == {None}


async def test_an_edit_of_the_policy_begins_another(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """The old experiment ends, its conversations are free, and the new one counts from zero."""
    provider = await sim()
    side = await running(provider, serve, tmp_path, **of_ab())
    rows = rows_of(side)
    async with talking(side) as app:
        assert (await app.session(1)).reason == "sampled"
        first = rows[-1].decision.rollout_id
        changed = EXPERIMENT | {"alpha": 0.01}
        written(tmp_path / "policies", route(provider.port, **of_ab(experiment=changed)))
        side.app.apply(load_file(tmp_path / "policies" / "policy.yaml", {"NEW_KEY": "k"}))
        assert (await app.session(1)).reason == "sampled"
    assert rows[-1].decision.rollout_id != first
