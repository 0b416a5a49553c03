"""What the engine keeps and learns in a real process: verbs, restart, reload, optimize, feedback.

Bounds are stated where they are used.
"""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import yaml

from sidecar.clock import steady
from sidecar.store import queries
from tests.integration.canary import (
    NEW,
    STEPS,
    admin,
    optimizing,
    phase,
    route,
    rows_of,
    running,
    share,
    talking,
    to_step,
    written,
)
from tests.integration.conftest import Serve, Sim, serving
from tests.integration.raw import post, until

# ---- by hand


async def test_verbs_by_the_admin_api(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """What a verb cannot do is a 409 that says what it could."""
    provider = await sim()
    token = tmp_path / "token"
    token.write_text("secret")
    folder = written(tmp_path / "p", route(provider.port))
    side = await serve(provider, policies=folder, admin_token_file=token, environ={"NEW_KEY": "k"})
    assert (await admin(side, "wrong", "pause"))[0] == 401
    status, body = await admin(side, "secret", "resume")
    assert status == 409
    assert "pause" in body["error"]["message"]
    assert (await admin(side, "secret", "promote"))[0] == 200
    assert phase(side) == ("running", 25)
    assert (await admin(side, "secret", "pause"))[0] == 200
    status, body = await admin(side, "secret", "pause")
    assert (status, phase(side)) == (409, ("paused", 25))
    assert "resume" in body["error"]["message"]
    assert (await admin(side, "secret", "resume"))[0] == 200
    assert (await admin(side, "secret", "rollback"))[0] == 200
    assert phase(side) == ("rolled_back", 0)
    assert (await admin(side, "secret", "rollback"))[0] == 409
    assert (await admin(side, "secret", "promote"))[0] == 409
    assert (await admin(side, "secret", "start", arm="nobody"))[0] == 409
    assert (await admin(side, "secret", "dance"))[0] == 422
    assert (await admin(side, "secret", "start", arm="new"))[0] == 200
    assert phase(side) == ("running", 5)


# ---- restart and reload


async def test_a_restart_keeps_step_evidence_and_conversations(sim: Sim, tmp_path: Path) -> None:
    """INC-34, GW-50: the second process goes on where the first was; so does one that began with a broken policy."""
    provider = await sim()
    folder = written(tmp_path / "p", route(provider.port, rollout=STEPS | {"min_requests": 100_000}))
    url, values = f"http://127.0.0.1:{provider.port}", {"policies": folder, "db": tmp_path / "side.db"}
    async with serving(url, {"NEW_KEY": "k"}, **values) as side:
        to_step(side, 25)
        async with talking(side) as app:
            before = await app.sessions(range(80))
        kept = side.app.engine.status()[0]
    async with serving(url, {"NEW_KEY": "k"}, **values) as side:
        now = side.app.engine.status()[0]
        assert phase(side) == ("running", 25)
        assert now.rollouts[0].canary_units == kept.rollouts[0].canary_units > 0
        assert [arm.exchanges for arm in now.arms] == [arm.exchanges for arm in kept.arms]
        async with talking(side) as app:
            again = [await app.session(n) for n in range(80)]
        assert {n: one.model for n, one in enumerate(again)} == before
        assert {one.reason for one in again} == {"sticky"}
        side.app.on_events(side.app.engine.rollback("chat", steady()))
    good = (folder / "policy.yaml").read_text()
    (folder / "policy.yaml").write_text("version: 1\nroutes: [{name: x}]\n")
    async with serving(url, {"NEW_KEY": "k"}, **values) as side:
        assert side.app.policies.error is not None
        (folder / "policy.yaml").write_text(good)
        async with asyncio.timeout(5):
            while not side.app.engine.status():  # noqa: ASYNC110 - the process has no event for it
                await asyncio.sleep(0.02)
        assert phase(side) == ("rolled_back", 0), "the policy was away for a moment, and the rollback is forgotten"


async def test_reload_keeps_a_rollout_and_a_changed_spec_begins_it_again(
    sim: Sim, serve: Serve, tmp_path: Path
) -> None:
    provider = await sim()
    side = await running(provider, serve, tmp_path)
    file = tmp_path / "policies" / "policy.yaml"

    async def reload(policy: dict[str, Any] | str) -> None:
        before, error = side.app.engine.policy.version, side.app.policies.error
        file.write_text(policy if isinstance(policy, str) else yaml.safe_dump(policy))
        async with asyncio.timeout(5):
            while side.app.engine.policy.version == before and side.app.policies.error == error:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    to_step(side, 25)
    async with talking(side) as app:
        before = await app.sessions(range(60))
        units = side.app.engine.status()[0].rollouts[0].canary_units
        await reload(route(provider.port, fallback={"arms": ["base"], "on": ["5xx"]}))
        assert phase(side) == ("running", 25)
        assert side.app.engine.status()[0].rollouts[0].canary_units == units > 0
        assert await app.sessions(range(60)) == before
        await reload("version: 1\nroutes: 3\n")
        assert side.app.policies.error is not None
        assert await app.sessions(range(60)) == before
        await reload(route(provider.port, rollout=STEPS | {"min_requests": 30}))
        assert side.app.policies.error is None
        assert phase(side) == ("running", 5)
        after = await app.sessions(range(60))
    assert {n for n, model in after.items() if model == NEW} < {n for n, model in before.items() if model == NEW}


# ---- optimize


async def test_a_score_that_the_engine_does_not_take_is_kept(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """A fault of ours: who sent it has an answer, also where the decision was looked up, and the score is stored."""
    provider, db = await sim(), tmp_path / "s.db"
    folder = written(tmp_path / "p", route(provider.port))
    side = await serve(provider, policies=folder, db=db, environ={"NEW_KEY": "k"})
    async with talking(side) as app:
        decisions = [(await app.ask()).decision for _ in range(2)]
        await side.recorded()
        side.app.desk._newer.known.pop(decisions[0])
        side.app.engine.feedback = lambda *_: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        for decision in decisions:
            app.client.send(post("/_sidecar/v1/feedback", orjson.dumps({"id": decision, "score": 1.0})))
            assert (await app.client.response()).status == 202
        await side.recorded()
    assert [len(queries.feedback_of(db, decision)) for decision in decisions] == [1, 1]
    assert side.books.bugs == 2
    side.books.bugs = 0  # they were asked for


async def test_money_follows_quality_and_feedback_overrules_it(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """The new arm costs a sixteenth: within 400 calls of equal quality it has most of the traffic. Then 40 scores of 0.1
    for it against 0.9 for the old one take it below a tenth within the same number of scores."""
    provider = await sim()
    side = await optimizing(provider, serve, tmp_path)
    async with talking(side) as app:
        said = [await app.ask(f"{n}") for n in range(400)]
        assert {one.reason for one in said} == {"sampled"}
        assert share(side) > 0.75
        for one in said[:80] + said[-40:]:
            score = 0.1 if one.model == NEW else 0.9
            body = orjson.dumps({"id": one.decision, "score": score})
            app.client.send(post("/_sidecar/v1/feedback", body))
            assert (await app.client.response()).status == 202
        await app.ask("one more")
    assert await until(lambda: share(side) < 0.1), "what is new is digested behind an answer, or a second later"


async def test_propensities_are_what_happens(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Calibration: sum over calls of (took the new arm - logged probability of it) has variance sum p (1 - p), a
    martingale also while the shares move; 5 standard deviations over 1,000 calls."""
    provider = await sim()
    side = await optimizing(provider, serve, tmp_path)
    rows = rows_of(side)
    async with talking(side) as app:
        for n in range(1000):
            await app.ask(f"{n}")
    excess = spread = 0.0
    for one in rows:
        assert 0.0 < one.decision.propensity <= 1.0
        p = one.decision.propensity if one.decision.arm == "new" else 1 - one.decision.propensity
        excess += (one.decision.arm == "new") - p
        spread += p * (1 - p)
    assert len(rows) == 1000
    assert abs(excess) <= 5 * max(spread, 1.0) ** 0.5


async def test_params_of_an_arm_are_set_and_nothing_else_changes(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    provider = await sim(requests_kept=100)
    arm = {"id": "new", "upstream": "two", "model": NEW, "params": {"temperature": 0.3, "seed": None}}
    side = await running(provider, serve, tmp_path, arms=[arm])
    to_step(side, 50)
    async with talking(side) as app:
        said = [await app.session(n, user="u", temperature=1) for n in range(20)]
    bodies = [orjson.loads(one.body) for one in provider.requests]
    assert len(bodies) == 20
    for one, body in zip(said, bodies, strict=True):
        asked = {"model": one.model, "messages": [{"role": "user", "content": "1+1?"}], "user": "u", "temperature": 1}
        assert body == (asked | {"temperature": 0.3, "seed": None} if one.model == NEW else asked)


# ---- feedback as evidence


async def test_labels_of_one_template_are_labels_of_many_requests(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """A service that sends one text again and again is split by request, so each of its scores is evidence of its own."""
    provider = await sim()
    quality = {"validators": ["empty"], "min_samples": 50}
    side = await running(provider, serve, tmp_path, quality=quality)
    to_step(side, 50)
    async with talking(side) as app:
        for _ in range(620):
            one = await app.ask("the same text each time")
            app.client.send(post("/_sidecar/v1/feedback", orjson.dumps({"id": one.decision, "score": 0.8})))
            await app.client.response()
    blocked = side.app.engine.status()[0].rollouts[0].blocked_by
    assert not any("no quality evidence: 0 " in text or "no quality evidence: 1 " in text for text in blocked), blocked


async def test_events_of_the_first_rollout_are_stored(sim: Sim, tmp_path: Path) -> None:
    """The rollout that begins with the process is told like any other."""
    provider = await sim()
    folder = written(tmp_path / "p", route(provider.port))
    db = tmp_path / "side.db"
    async with serving(f"http://127.0.0.1:{provider.port}", {"NEW_KEY": "k"}, policies=folder, db=db) as side:
        async with talking(side) as app:
            await app.session(1)
        await side.recorded()
        assert await until(lambda: "rollout.started" in {event["kind"] for event in queries.events(db)})
