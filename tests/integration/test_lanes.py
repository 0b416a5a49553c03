"""The slower lanes in a real process: an arm that fails is held where the rules allow it, and the hold is undone on harm."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.clock import steady
from sidecar.sim.knobs import Fault
from sidecar.sim.provider import SimulatedProvider
from sidecar.store import queries
from tests.integration.canary import NEW, OLD, App, phase, route, talking, written
from tests.integration.conftest import Running, Serve, Sim

GOOD: tuple[Fault, ...] = ()


async def pooled(provider: SimulatedProvider, serve: Serve, folder: Path, **changes: Any) -> Running:
    """An optimize route of two promoted arms, whose sessions stay."""
    token = folder / "token"
    token.write_text("secret")
    made = route(
        provider.port,
        **({"mode": "optimize", "quality": {"validators": ["empty"], "min_samples": 0}} | changes),
    )
    side = await serve(
        provider,
        policies=written(folder / "p", made),
        admin_token_file=token,
        db=folder / "s.db",
        environ={"NEW_KEY": "k"},
    )
    while phase(side)[0] != "promoted":
        side.app.on_events(side.app.engine.promote("chat", steady()))
    side.app._tick()
    return side


async def lane(side: Running, name: str) -> list[dict[str, Any]]:
    url = f"http://127.0.0.1:{side.admin_port}/api/v1/cycle"
    async with (
        aiohttp.ClientSession(headers={"Authorization": "Bearer secret"}) as http,
        http.post(url, json={"lane": name}) as answer,
    ):
        found: list[dict[str, Any]] = (await answer.json())["events"]
        return found


async def sessions(side: Running, app: App, wanted: int) -> dict[str, list[int]]:
    """Names of sessions that were assigned to each model, at least `wanted` of both; the loop forgets these calls."""
    found: dict[str, list[int]] = {OLD: [], NEW: []}
    for name in range(2_000):
        found[(await app.session(name)).model].append(name)
        if min(map(len, found.values())) >= wanted:
            side.app.loop.flush()
            side.app.cycling.cycle.minutes.forget(())
            return found
    raise AssertionError({model: len(names) for model, names in found.items()})


async def fail_a_third(app: App, provider: SimulatedProvider, names: list[int], rounds: int = 3) -> None:
    """Every third session's calls fail."""
    for number, name in enumerate(names * rounds):
        provider.set_faults((Fault("status"),) if number % 3 == 0 else GOOD)
        await app.session(name)
    provider.set_faults(GOOD)


async def test_an_arm_that_fails_is_held_its_impact_is_told_and_harm_undoes_it(
    sim: Sim, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """90 calls of `new` with 30 failures against 90 of `base` without one: z = 4. Then half of what base gets fails."""
    later = [0.0]
    monkeypatch.setattr("sidecar.control.cycling.steady", lambda: steady() + later[0])  # the loop's clock is the test's
    provider = await sim()
    side = await pooled(provider, serve, tmp_path)
    async with talking(side) as app:
        found = await sessions(side, app, 30)
        new, base = found[NEW][:30], found[OLD][:30]
        for name in base * 3:
            await app.session(name)
        side.app.loop.flush()
        assert await lane(side, "fast") == []
        await fail_a_third(app, provider, new)
        side.app.loop.flush()
        told = await lane(side, "fast")
        assert [event["kind"] for event in told[-2:]] == ["arm.held", "change.applied"]
        assert {event["kind"] for event in told[:-2]} == {"change.impact"}  # of the steps of the rollout, which it ends
        applied = told[-1]["detail"]
        assert applied["what"] == "arm.hold"
        assert applied["confidence"] > 0.999
        assert applied["expected"]["failed"] < -0.5
        status = side.app.engine.status()[0]
        assert {arm.id: (arm.role, arm.share) for arm in status.arms} == {
            "base": ("baseline", 1.0),
            "new": ("held", 0.0),
        }
        assert any("new of route chat is held" in text for text in status.explanations)
        later[0] = 61.0
        for number, name in enumerate((new + base) * 2):
            provider.set_faults((Fault("status"),) if number % 2 else GOOD)
            said = await app.session(name)
            assert said.model == OLD
        provider.set_faults(GOOD)
        side.app.loop.flush()
        later[0] = 302.0
        side.app._tick()
        assert side.app.engine.status()[0].arms[1].role == "pool"
        await side.app.archive.stored(5.0)
        events = await asyncio.to_thread(queries.events, tmp_path / "s.db", 50, None)
    holds = [one for one in events if one["kind"].startswith("change.") and one["detail"]["what"] == "arm.hold"]
    assert [one["kind"] for one in reversed(holds)] == ["change.applied", "change.rolled_back", "change.impact"]
    impact = holds[0]["detail"]
    assert impact["actual"]["failed"] > 0.0 > impact["expected"]["failed"]
    assert {"arm.held", "arm.returned"} <= {one["kind"] for one in events}


async def test_a_rule_denies_what_the_fast_lane_wants(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """The same failures, and a rule: the arm stays in the pool, and the denial is told once."""
    provider = await sim()
    rules = [{"id": "hands-off", "when": "change.kind == 'arm.hold' && change.share > 0.1", "action": "deny"}]
    side = await pooled(provider, serve, tmp_path, rules=rules)
    async with talking(side) as app:
        found = await sessions(side, app, 30)
        for name in found[OLD][:30] * 3:
            await app.session(name)
        await fail_a_third(app, provider, found[NEW][:30])
        side.app.loop.flush()
        told = await lane(side, "fast")
        assert [event["kind"] for event in told] == ["change.denied"]
        assert "hands-off" in told[0]["message"]
        assert await lane(side, "fast") == []
        assert side.app.engine.status()[0].arms[1].role == "pool"
