"""Changes in a real process: rules are asked, what was expected is stored, and the log answers for another policy."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.cli import main
from sidecar.store import queries
from tests.integration.canary import admin, phase, route, rows_of, talking, to_step, written
from tests.integration.conftest import Serve, Sim


async def test_a_step_is_recorded_with_its_reason_and_a_rule_denies_the_next(
    sim: Sim, serve: Serve, tmp_path: Path
) -> None:
    """25 % by hand is a change that the event table tells of; 50 % is denied by a rule, for a person too."""
    provider = await sim()
    token = tmp_path / "token"
    token.write_text("secret")
    made: dict[str, Any] = route(provider.port)
    made["rules"] = [{"id": "slow", "when": "change.kind == 'rollout.step' && change.step > 25", "action": "deny"}]
    folder = written(tmp_path / "p", made)
    db = tmp_path / "s.db"
    side = await serve(provider, policies=folder, admin_token_file=token, db=db, environ={"NEW_KEY": "k"})
    assert (await admin(side, "secret", "promote"))[0] == 200
    assert phase(side) == ("running", 25)
    status, body = await admin(side, "secret", "promote")
    assert status == 409
    assert "a rule of the policy denies rollout.step of new" in body["error"]["message"]
    url = f"http://127.0.0.1:{side.admin_port}/api/v1/cycle"
    async with (
        aiohttp.ClientSession(headers={"Authorization": "Bearer secret"}) as http,
        http.post(url, json={"lane": "main"}) as answer,
    ):
        assert (answer.status, await answer.json()) == (200, {"events": []})
    side.app._tick()
    await side.app.archive.stored(5.0)
    found = await asyncio.to_thread(queries.events, db, 10, "change.")
    assert {one["kind"] for one in found} == {"change.applied"}
    assert {one["detail"]["what"] for one in found} == {"rollout.start", "rollout.step"}
    assert {one["detail"]["lane"] for one in found} == {"guardrails"}
    assert (await admin(side, "secret", "rollback"))[0] == 200
    side.app._tick()
    await side.app.archive.stored(5.0)
    assert "change.impact" in {one["kind"] for one in await asyncio.to_thread(queries.events, db, 10, "change.")}


async def test_the_log_of_a_real_run_answers_for_another_policy(
    sim: Sim, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A canary at 50 % of single calls: what all of them on either model would have been is in the log.

    300 calls at one half: the effective size for one arm is about 150, and below 100 (5.8 standard deviations) never.
    """
    provider = await sim()
    db = tmp_path / "s.db"
    folder = written(tmp_path / "policies", route(provider.port, sticky="request"))
    side = await serve(provider, policies=folder, db=db, environ={"NEW_KEY": "held"})
    to_step(side, 50)
    rows = rows_of(side)
    async with talking(side) as app:
        for _ in range(300):
            await app.ask()
    side.app.loop.flush()
    await side.app.archive.stored(5.0)
    assert len(rows) == 300
    file = next(iter(folder.glob("*.yaml")))
    arguments = ["replay", "--db", str(db), "--policy", str(file), "--json"]
    assert await asyncio.to_thread(main, arguments) == 0
    told = capsys.readouterr().out
    assert '"arm":"new"' in told
    assert '"outcome":"cost_usd"' in told or '"outcome":"latency_s"' in told
