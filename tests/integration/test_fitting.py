"""Arms that fit: requests with tools, images, documents, schemas, or of great length go only to arms that can serve them."""

import asyncio
import base64
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.core.abilities import IMAGES, TOOLS
from sidecar.core.fitting import RESERVE
from sidecar.store.explain import explain
from sidecar.store.queries import find
from tests.integration.canary import NEW, OLD, App, optimizing, route, rows_of, running, talking, written
from tests.integration.conftest import Serve, Sim, serving
from tests.integration.raw import WAIT_S

SMALL = {
    "tools": False,
    "images": False,
    "documents": False,
    "json_schema": False,
    "thinking": False,
    "context_tokens": 4_096,
    "max_output_tokens": 512,
}
ARMS = [{"id": "new", "upstream": "two", "model": NEW, "capabilities": SMALL}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
PIXELS = base64.b64encode(hashlib.shake_256(b"pixels").digest(600_000)).decode()


def said(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, *parts]}]


def image(url: str) -> dict[str, Any]:
    return {"messages": said({"type": "image_url", "image_url": {"url": url}})}


NEEDING = {
    "tools": {"tools": [TOOL]},
    "images": image("https://example.com/a.png"),
    "documents": {"messages": said({"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}})},
    "json_schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    },
    "thinking": {"reasoning_effort": "high"},
    "context_tokens": {"messages": [{"role": "user", "content": "word " * 4_000}]},
    "max_output_tokens": {"max_tokens": 600},
}


async def served(app: App, calls: int, **more: Any) -> Counter[str]:
    """Which models served so many calls, each a conversation of its own."""
    return Counter([(await app.ask(f"call {number}", **more)).model for number in range(calls)])


async def test_only_arms_that_can(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Of plain calls both arms get some; of what the small arm cannot serve it gets none, and the row says why.

    In the beginning each arm is drawn for a third of the calls at least: that one gets none of 40 has p < 1e-6.
    """
    able = {"id": "base", "upstream": "one", "model": OLD, "capabilities": {"thinking": True}}
    side = await optimizing(await sim(), serve, tmp_path, arms=ARMS, baseline=able)
    rows = rows_of(side)
    async with talking(side) as app:
        assert set(await served(app, 40)) == {OLD, NEW}
        for why, more in NEEDING.items():
            rows.clear()
            assert set(await served(app, 8, **more)) == {OLD}, why
            assert {row.decision.left_out for row in rows} == {(("new", why),)}
            assert {row.decision.eligible for row in rows} == {("base",)}


async def test_an_image_is_no_long_text(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """800 kB of base64, read in slices, count as the one image that they are; an arm that sees has room for it."""
    seeing = [{**ARMS[0], "capabilities": {**SMALL, "images": True}}]
    side = await optimizing(await sim(), serve, tmp_path, arms=seeing)
    rows = rows_of(side)
    async with talking(side) as app:
        assert NEW in await served(app, 40, **image("data:image/png;base64," + PIXELS))
    assert {row.facts.needs for row in rows} == {IMAGES}
    assert all(1_000 < row.facts.context_tokens < 1_200 for row in rows)


async def test_a_route_without_limits_looks_for_nothing(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Other services pay nothing: their facts say nothing of needs."""
    plain = {"arms": [{"id": "new", "upstream": "two", "model": "m2"}], "baseline": {"id": "base", "upstream": "one"}}
    plain["baseline"]["model"] = "m1"  # type: ignore[call-overload]  # models that no catalogue lists
    side = await running(await sim(), serve, tmp_path, **plain)
    rows = rows_of(side)
    async with talking(side) as app:
        await app.ask(tools=[TOOL])
    assert (rows[0].facts.needs, rows[0].facts.context_tokens) == (0, 0)


async def test_what_nobody_can_serve_is_done_as_asked(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """It fails open to the app's own model; the sidecar refuses nothing for what it believes of a model."""
    blind = {"id": "base", "upstream": "one", "model": OLD, "capabilities": {"images": False}}
    side = await optimizing(await sim(), serve, tmp_path, arms=ARMS, baseline=blind)
    async with talking(side) as app:
        got = await app.ask(**NEEDING["images"])
    assert (got.status, got.reason, got.model) == (200, "fail-open", OLD)


async def test_explain_says_who_was_left_out(sim: Sim, tmp_path: Path) -> None:
    """With the reason; `status` says what each arm cannot do."""
    provider = await sim()
    folder = written(tmp_path / "policies", route(provider.port, arms=ARMS, mode="optimize"))
    url = f"http://127.0.0.1:{provider.port}"
    async with serving(url, {"NEW_KEY": "held"}, policies=folder, db=tmp_path / "side.db") as side:
        rows = rows_of(side)
        async with talking(side) as app:
            got = await app.ask(**NEEDING["tools"])
        assert rows[0].facts.needs == TOOLS
        arm = next(arm for arm in side.app.engine.status()[0].arms if arm.id == "new")
        assert (arm.cannot[:2], arm.context_tokens) == (("tools", "images"), 4_096)
    record = find(tmp_path / "side.db", got.decision)
    assert isinstance(record, dict)
    told = [line for line in explain(record) if line.startswith("Left out because they cannot serve this call")]
    assert len(told) == 1
    assert "new (no tools)" in told[0]


@pytest.mark.parametrize(
    ("can", "limit"),
    [
        ({"max_output_tokens": 2_000}, 2_000),
        ({"max_output_tokens": 20_000, "context_tokens": 10_000}, 5_000),  # of which the call takes about 5,000
        ({"max_output_tokens": 2_000, "context_tokens": 100}, RESERVE),  # an estimate: the server has the last word
        ({}, 4_096),
    ],
)
async def test_anthropic_is_told_how_long_an_answer_may_be(
    sim: Sim, serve: Serve, tmp_path: Path, can: dict[str, int], limit: int
) -> None:
    """Where an OpenAI app did not say: as long as the model can and has room for, and the app is told."""
    provider = await sim(requests_kept=10)
    arm = {"id": "base", "upstream": "claude", "model": "c", "capabilities": can}
    made = route(provider.port, baseline=arm, arms=[], mode="optimize", rollout=None)
    made["upstreams"]["claude"] = {
        "dialect": "anthropic",
        "base_url": f"http://127.0.0.1:{provider.port}",
        "api_key": {"env": "NEW_KEY"},
    }
    side = await serve(provider, policies=written(tmp_path / "p", made), environ={"NEW_KEY": "held"})
    async with talking(side) as app:
        got = await app.ask("word " * 4_000, model="auto")
    assert got.status == 200
    assert b"max_tokens" in (got.raw.value(b"x-sidecar-changed") or b"")
    assert orjson.loads(provider.requests[-1].body)["max_tokens"] == pytest.approx(limit, rel=0.02)


async def test_a_shadow_gets_no_copy_that_it_cannot_serve(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Of a call with tools there is none; the plain call after it is copied."""
    base, new = await sim(), await sim(requests_kept=10)
    made = route(
        base.port, new_port=new.port, arms=ARMS, mode="shadow", shadow={"arm": "new", "sample": 1, "daily_usd": 1}
    )
    made["routes"][0].pop("rollout")
    side = await serve(base, policies=written(tmp_path / "p", made), environ={"NEW_KEY": "held"})
    async with talking(side) as app:
        await app.ask(**NEEDING["tools"])
        await app.ask("copy me")
        async with asyncio.timeout(WAIT_S):
            while not new.requests:  # noqa: ASYNC110 - the process has no event for it
                await asyncio.sleep(0.002)
    assert [b"copy me" in one.body for one in new.requests] == [True]
