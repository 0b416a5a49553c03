"""Cases of docs/cases.md about decisions, through the real proxy: who gets the new model, and who when nobody can say."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar.clock import steady
from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import SSE_HEAD, call, connected, delta, ok, post

CHAT = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
STREAM = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]}'


def policy(folder: Path, port: int, *, steps: str = "[5, 25, 50, 100]", mode: str = "canary", more: str = "") -> Path:
    """One route from m to the canary n at the same upstream, with shares by session."""
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies" / "p.yaml").write_text(
        f"""version: 1
service: default
upstreams:
  one: {{dialect: openai, base_url: "http://127.0.0.1:{port}/v1", price: free}}
routes:
  - name: all
    match: {{models: ["m"]}}
    mode: {mode}
    baseline: {{id: base, upstream: one, model: m}}
    arms: [{{id: new, upstream: one, model: n}}]
    sticky: session
    rollout: {{steps: {steps}, min_requests: 100000, interval: 1h}}
{more}
"""
    )
    return folder / "policies"


async def served(port: int, sessions: range) -> dict[int, bool]:
    """Session -> whether the new model served it, asked over one connection."""
    found: dict[int, bool] = {}
    async with connected(port) as client:
        for one in sessions:
            client.send(post("/v1/chat/completions", CHAT, b"x-sidecar-session: user-%d" % one))
            got = await client.response()
            assert got.status == 200
            found[one] = got.value(b"x-sidecar-model") == b"one/n"
    return found


async def test_the_share_of_a_canary_and_who_is_in_it(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """INC-36, GW-54: 5, 25, 50 and 100 % of 800 sessions, within five standard deviations of a binomial draw (p < 1e-6
    each); 100 % and 0 % are exact; the same session gets the same answer, also from another sidecar with this policy:
    the share is a hash, not a memory.
    """
    up = await upstream([ok()])
    count = 800
    before: set[int] = set()
    for step, steps in ((5, "[5, 100]"), (25, "[25, 100]"), (50, "[50, 100]"), (100, "[100]")):
        side = await serve(up, policies=policy(tmp_path, up.port, steps=steps))
        found = await served(side.port, range(count))
        share = step / 100
        assert abs(sum(found.values()) - count * share) <= 5 * (count * share * (1 - share)) ** 0.5, step
        assert await served(side.port, range(100)) == {one: found[one] for one in range(100)}
        again = await serve(up, policies=policy(tmp_path, up.port, steps=steps))
        assert await served(again.port, range(100)) == {one: found[one] for one in range(100)}
        before = {one for one, new in found.items() if new}
    assert before == set(range(count))
    side = await serve(up, policies=policy(tmp_path, up.port, steps="[100]"))
    side.app.engine.rollback("all", steady())
    assert not any((await served(side.port, range(count, count + 200))).values())


async def test_who_is_in_stays_in_when_the_step_rises(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """GW-54: promoted by hand from 5 to 25 to 50 %: every session of the canary stays with it."""
    up = await upstream([ok()])
    side = await serve(up, policies=policy(tmp_path, up.port))
    old: set[int] = set()
    for _ in range(3):
        now = {one for one, new in (await served(side.port, range(400))).items() if new}
        assert old <= now
        old = now
        side.app.engine.promote("all", steady())
    assert old


async def test_a_stream_never_changes_its_model(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """INC-36: a rollback while a stream of the canary flows acts between requests: the stream ends whole and as begun."""
    up = await upstream(by=lambda _head: [SSE_HEAD + delta("a"), 0.3, delta("b") + b"0\r\n\r\n"])
    side = await serve(up, policies=policy(tmp_path, up.port, steps="[100]"))
    async with connected(side.port) as client:
        client.send(post(body=STREAM))
        await client.until(b'"a"')
        side.app.engine.rollback("all", steady())
        got = await client.response()
        assert (got.end, got.value(b"x-sidecar-model")) == ("whole", b"one/n")
        assert b'"b"' in got.body
        client.send(post(body=STREAM))
        assert (await client.response()).value(b"x-sidecar-model") == b"one/m"
    assert [b'"model":"n"' in seen.body for seen in up.requests] == [True, False]


async def test_broken_beliefs_serve_the_baseline(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """INC-37: posteriors that are not numbers: every call is answered, by the model that the app asked for."""
    up = await upstream([ok()])
    side = await serve(up, policies=policy(tmp_path, up.port, steps="[100]", mode="optimize"))
    (state,) = side.app.engine._routes.values()
    for belief in state.selector.beliefs.values():
        for name in dir(belief):
            value = getattr(belief, name)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                value[...] = np.nan
    for number in range(40):
        got = await call(side.port, post("/v1/chat/completions", CHAT, b"x-sidecar-session: s%d" % number))
        assert got.status == 200
    assert side.books.bugs == 0


async def test_no_eligible_arm_is_the_apps_own_model(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """INC-37: a call that no arm can take (they speak another dialect, which has no top_k) goes on to its own provider,
    unchanged."""
    up, own = await upstream([ok()]), await upstream([ok()])
    folder = policy(tmp_path, up.port, steps="[100]")
    for file in folder.glob("*.yaml"):
        file.write_text(file.read_text().replace('["m"]', '["m", "claude-x"]'))
    side = await serve(up, policies=folder, anthropic_upstream=f"http://127.0.0.1:{own.port}")
    body = b'{"model":"claude-x","max_tokens":5,"top_k":4,"messages":[{"role":"user","content":"Hi"}]}'
    got = await call(side.port, post("/v1/messages", body))
    assert (got.status, got.value(b"x-sidecar-model")) == (200, b"anthropic/claude-x")
    assert got.value(b"x-sidecar-reason") == b"fail-open"
    assert own.requests[0].body == body
    assert not up.requests


async def test_an_upstream_that_always_says_429_ends_the_call(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """GW-23: with a fallback to a model that is limited too: two requests, one answer, and the process is idle again."""
    up = await upstream([ok(b'{"error":{"message":"slow down"}}', b"Retry-After: 1", status=b"429 Too Many Requests")])
    more = "    fallback: {arms: [base, new], on: [connect, 429, 5xx, timeout], max: 1}"
    side = await serve(up, policies=policy(tmp_path, up.port, steps="[100]", more=more))
    got = await call(side.port, post(body=STREAM))
    assert (got.status, got.value(b"retry-after")) == (429, b"1")
    assert len(up.requests) == 2
    used = time.process_time()
    await asyncio.sleep(0.5)
    assert time.process_time() - used < 0.25


@pytest.mark.parametrize("place", ["a file in the folder's place", "no such mount"])
async def test_a_store_that_cannot_be_opened_fails_no_call(
    upstream: Upstream, serve: Serve, tmp_path: Path, place: str
) -> None:
    """GW-37: down at boot: calls are answered from the first, with the client's own key, /ready says what is wrong, and rows
    come without a restart when the place is there again."""
    blocked = tmp_path / "state"
    if place == "no such mount":
        blocked.symlink_to(tmp_path / "gone" / "deep")
    else:
        blocked.write_text("in the way")
    up = await upstream([ok()])
    side = await serve(up, db=blocked / "sidecar.db")
    for _ in range(20):
        assert (await call(side.port, post("/v1/chat/completions", CHAT, b"Authorization: Bearer k"))).status == 200
    assert all(seen.value(b"authorization") == b"Bearer k" for seen in up.requests)
    writer: Any = side.app.archive.writer
    assert await up.until(lambda: writer.errors > 0)
    assert side.app.readiness().notes
    blocked.unlink()
    assert await up.until(lambda: writer.rows_written == 20, 8.0)


async def test_conversations_of_two_tenants_are_apart(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """GW-48: no answer is ever kept, so none can reach another tenant; what is remembered is the arm of a conversation, by a
    hash that the credential goes into: the same words under another key are another conversation."""
    up = await upstream([ok(b"[1]")], [ok(b"[2]")])
    folder = policy(tmp_path, up.port, steps="[50, 100]")
    file = folder / "p.yaml"
    file.write_text(file.read_text().replace("sticky: session", "sticky: conversation"))
    side = await serve(up, policies=folder)
    seen: list[Any] = []
    side.app.plane.emit = seen.append
    lines = [b"Authorization: Bearer " + key for key in (b"alice", b"bob", b"alice")]
    answers = [(await call(side.port, post("/v1/chat/completions", CHAT, line))).body for line in lines]
    assert answers == [b"[1]", b"[2]", b"[2]"]
    assert seen[0].facts.key == seen[2].facts.key != seen[1].facts.key


async def test_parameters_pass_a_change_of_model(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """GW-32, GW-33: stop, temperature 0, tools, response_format and what nobody knows go to another model of the same
    dialect as they came; only the model's name is another."""
    up = await upstream([ok()])
    side = await serve(up, policies=policy(tmp_path, up.port, steps="[100]"))
    body = (
        b'{"stop":["a"],"temperature":0,"top_p":1.0,"model":"m","tools":[{"type":"function","function":{"name":"f"}}],'
        b'"response_format":{"type":"json_schema","json_schema":{"name":"s","strict":true,"schema":{}}},'
        b'"tool_choice":"none","parallel_tool_calls":false,"seed":9007199254740993,"x_new":null,"messages":[]}'
    )
    got = await call(side.port, post("/v1/chat/completions", body, b"x-sidecar-session: s"))
    assert got.value(b"x-sidecar-model") == b"one/n"
    assert up.requests[0].body == body.replace(b'"model":"m"', b'"model":"n"')
