"""What a call costs that its client did not wait for: the prompt at least where a model may have read it, what
was reserved where a ceiling is to hold, and nothing where it never left us or was refused."""

import base64
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.integration.canary import OLD, rows_of, talking, written
from tests.integration.conftest import Running, Serve, Upstream
from tests.integration.raw import SSE_HEAD, connected, delta, post, until
from tests.integration.test_budgets_rules import priced, reserved, spent
from tests.integration.test_errands import FINISH, WHOLE, events_of, serving, shadowing
from tests.integration.test_odd_answers import ASK, REFUSAL

RESERVED = 10_000_000  # of MANY, in nano-dollars: a thousand tokens of ten dollars a million
MANY = orjson.dumps({"model": OLD, "stream": True, "messages": [], "max_tokens": 1000})


async def with_budget(up: Any, serve: Serve, tmp_path: Path, **changes: Any) -> Running:
    """A sidecar that passes calls on under a ceiling."""
    plain: dict[str, Any] = {"budget": {"daily_usd": 100}, "mode": "observe", "arms": [], "rollout": None}
    policy = priced(up.port, **(plain | changes))
    policies = written(tmp_path / "p", policy)
    return await serve(up, policies=policies, environ={"NEW_KEY": "k"}, route_body_max="32MiB")


async def leave(side: Running, up: Any, body: bytes) -> Any:
    """The row of a call whose client goes away when the upstream has read it."""
    rows, asked = rows_of(side), len(up.requests)
    async with connected(side.port) as client:
        client.send(post(body=body))
        assert await up.until(lambda: len(up.requests) > asked)
        (exchange,) = side.app.plane.exchanges
        begun = any(isinstance(step, bytes) for step in up.scripts[0])
        assert await until(lambda: (exchange.ttfb_s is not None) == begun)
    assert await until(lambda: bool(rows))
    return rows[-1].outcome


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 200 O", SSE_HEAD])
async def test_a_prompt_costs_whatever_was_to_be_seen_of_an_answer(
    upstream: Upstream, serve: Serve, begun: bytes
) -> None:
    up = await upstream([begun, 20.0] if begun else [20.0])
    outcome = await leave(await serve(up), up, ASK)
    assert (outcome.kind, outcome.cost_kind, outcome.usage_source) == ("aborted", "lower_bound", "estimate")
    assert outcome.usage.input_tokens == round(len(ASK) / 4)


@pytest.mark.parametrize("size", [40_000, 3_000_000])
@pytest.mark.parametrize(
    "part",
    [
        b'{"type":"image_url","image_url":{"url":"data:image/jpeg;base64,%b"}}',
        b'{"type":"image","source":{"type":"base64","media_type":"image/png","data":"%b"}}',
        b'{"type":"input_audio","input_audio":{"data": "%b","format":"mp3"}}',
    ],
)
async def test_a_picture_is_no_text(upstream: Upstream, serve: Serve, part: bytes, size: int) -> None:
    """A lower bound is no bound where base64 counts as words: three megabytes would be a million tokens."""
    up = await upstream([20.0])
    body = ASK.replace(b'"Hi"', b"[%b]" % part % base64.b64encode(b"\xff" * size))
    outcome = await leave(await serve(up), up, body)
    assert outcome.cost_kind == "lower_bound"
    assert 10 <= outcome.usage.input_tokens < 100


async def test_many_links_to_pictures_are_no_more_than_their_text(upstream: Upstream, serve: Serve) -> None:
    link = b'{"type":"image_url","image_url":{"url":"http://a/1.png","detail":"low"}}'
    body = ASK.replace(b'"Hi"', b"[%b]" % b",".join([link] * 1000))
    up = await upstream([20.0])
    outcome = await leave(await serve(up), up, body)
    assert outcome.usage.input_tokens == round(len(body) / 4)


async def test_a_prompt_that_never_left_costs_nothing(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    up = await upstream([20.0])
    up.on_connect = lambda peer: peer.transport.pause_reading()
    side = await with_budget(up, serve, tmp_path)
    rows = rows_of(side)
    async with connected(side.port) as client:
        client.send(post(body=MANY.replace(b"[]", b'[{"role":"user","content":"%b"}]' % (b"word " * 4_000_000))))
        assert await until(lambda: any(exchange.sent_s is not None for exchange in side.app.plane.exchanges))
        assert reserved(side) == RESERVED
    assert await until(lambda: bool(rows))
    assert (rows[0].outcome.kind, rows[0].outcome.cost_nusd) == ("aborted", None)
    assert (spent(side), reserved(side)) == (0, 0)


async def test_an_answer_that_began_before_its_prompt_had_left_costs(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """Who answers has read what it needs."""
    up = await upstream([SSE_HEAD + delta("a"), 20.0], early=True)
    side = await with_budget(up, serve, tmp_path)
    rows = rows_of(side)
    async with connected(side.port) as client:
        client.send(post(body=MANY.replace(b"[]", b'[{"role":"user","content":"%b"}]' % (b"word " * 4_000_000))))
        await client.until(b"data:")
        up.peers[0].transport.pause_reading()
        (exchange,) = side.app.plane.exchanges
    assert await until(lambda: bool(rows))
    assert exchange.unsent
    assert (rows[0].outcome.kind, rows[0].outcome.cost_kind) == ("aborted", "lower_bound")
    assert spent(side) > 0


async def test_a_refusal_costs_nothing_though_it_was_not_waited_for(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """It is held until it is whole, because its text may name our question."""
    up = await upstream([REFUSAL[:-20], 20.0])
    side = await with_budget(up, serve, tmp_path)
    outcome = await leave(side, up, MANY)
    assert (outcome.kind, outcome.status, outcome.cost_nusd) == ("aborted", 400, None)
    assert (spent(side), reserved(side)) == (0, 0)


async def test_who_hangs_up_adds_nothing_to_what_the_mean_may_cost(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """A call that cost nothing because it was refused, or never left us, is none that a mean may count."""
    up = await upstream([REFUSAL[:-20], 20.0])
    side = await with_budget(up, serve, tmp_path, budget={"mean_request_usd": 0.001})
    for _ in range(5):
        await leave(side, up, MANY)
    savings = side.app.engine.routes[0].ledger.savings
    assert savings is not None
    assert savings.nusd <= 0


async def test_ceilings_of_route_and_rules_hold_in_silence(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Five calls of a cent reach a ceiling of five cents, though none of them is known to have cost more than its prompt."""
    up = await upstream([20.0])
    rules = [{"id": "cap", "when": "daily_cost >= 0.05", "action": "deny", "message": "spent"}]
    side = await with_budget(up, serve, tmp_path, rules=rules)
    for _ in range(5):
        await leave(side, up, MANY)
    assert spent(side) == 5 * RESERVED
    async with talking(side) as app:
        assert (await app.ask(stream=True, max_tokens=1000)).status == 403
    assert len(up.requests) == 5


async def test_a_copy_that_is_cut_in_silence_costs_what_was_reserved(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """Nobody knows how much of its answer there was: the allowance and the route's budget hold."""
    base, new = await upstream([WHOLE]), await upstream([20.0])
    side = await serving(base, serve, tmp_path, shadowing(base.port, new.port, budget={"daily_usd": 1}))
    told = events_of(side)
    async with talking(side) as app:
        await app.ask()
        assert await new.until(lambda: bool(new.requests))
        side.app.traffic.aside.errands.stop()
        assert await until(lambda: len(told) == 1)
    assert told[0].message == "aborted"
    assert told[0].detail["cost_nusd"] > 600_000, "1,024 tokens at 0.60 dollars a million are reserved"


async def test_a_copy_that_was_refused_for_our_question_costs_nothing(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    stream = SSE_HEAD + delta("four") + FINISH
    base, new = await upstream([stream]), await upstream([REFUSAL])
    side = await serving(base, serve, tmp_path, shadowing(base.port, new.port, budget={"daily_usd": 1}))
    told = events_of(side)
    async with talking(side) as app:
        await app.ask(stream=True)
        assert await until(lambda: len(told) == 1)
    assert (told[0].detail["error"], told[0].detail["cost_nusd"]) == ("usage_refused", 0)
