"""While nothing of a translated answer is with the client: a fallback serves, and a client that leaves has a price."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.integration.canary import rows_of, written
from tests.integration.conftest import Running, Serve, Upstream
from tests.integration.raw import SSE_HEAD, ScriptedUpstream, connected, ok
from tests.integration.test_translation_faults import BEGIN, DONE, END, HELD, STOP, TEXT, WHOLE, asked, asking, policy

_STREAM = SSE_HEAD + BEGIN + TEXT + STOP + DONE + END
_WRONG: dict[str, tuple[list[Any], bool]] = {
    "a page": ([ok(b"<html>")], False),
    "no stream": ([ok(WHOLE)], True),
    "a stream": ([_STREAM], False),
    "another dialect": ([SSE_HEAD + END], True),
    "a body that broke off": ([ok(WHOLE)[:-4], "close"], False),
    "silence": ([ok(WHOLE)[:-4], 9.0], False),
}


async def two(serve: Serve, folder: Path, far: ScriptedUpstream, near: ScriptedUpstream, on: list[str]) -> Running:
    """An app of Anthropic's, an arm that speaks OpenAI's chat format, and another one behind it."""
    spare = {"dialect": "openai", "base_url": f"http://127.0.0.1:{near.port}", "api_key": {"env": "HELD_KEY"}}
    made = policy(
        far.port,
        upstreams={"spare": spare},
        arms=[{"id": "spare", "upstream": "spare", "model": "s"}],
        fallback={"arms": ["spare"], "on": on, "max": 1},
        mode="canary",
        rollout={"steps": [5, 100], "min_requests": 20, "interval": "1h"},
    )
    side = await serve(far, policies=written(folder / "policies", made), environ=HELD, idle_timeout="150ms")
    assert side.app.policies.error is None
    return side


@pytest.mark.parametrize("what", _WRONG)
async def test_a_wrong_answer_takes_the_fallback(upstream: Upstream, serve: Serve, tmp_path: Path, what: str) -> None:
    """As a 502 does, or a timeout where the upstream fell silent; the row names the arm that was chosen, too."""
    script, stream = _WRONG[what]
    far, near = await upstream(script), await upstream([_STREAM if stream else ok(WHOLE)])
    side = await two(serve, tmp_path, far, near, ["timeout", "5xx"])
    got, row = await asked(side, stream=stream)
    assert (got.status, got.value(b"x-sidecar-model"), got.value(b"x-sidecar-reason")) == (200, b"spare/s", b"fallback")
    assert b"Hello" in got.body
    assert (len(far.requests), len(near.requests)) == (1, 1)
    assert (row.decision.arm, row.decision.reason, row.outcome.served_arm) == ("base", "fallback", "spare")
    assert (row.outcome.kind, row.outcome.error, row.upstream) == ("completed", None, "spare")


async def test_only_what_the_policy_lists(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    far, near = await upstream([ok(b"<html>")]), await upstream([ok(WHOLE)])
    side = await two(serve, tmp_path, far, near, ["429"])
    got, row = await asked(side)
    assert (got.status, row.outcome.error, len(near.requests)) == (502, "bad_response", 0)


async def test_two_wrong_answers(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """The fallback's own wrong answer is told, once, and nobody is asked a third time."""
    far, near = await upstream([ok(b"<html>")]), await upstream([ok(b"[1]")])
    side = await two(serve, tmp_path, far, near, ["5xx"])
    got, row = await asked(side)
    assert (got.status, got.value(b"x-should-retry"), row.outcome.error) == (502, b"false", "bad_response")
    assert (len(far.requests), len(near.requests)) == (1, 1)


async def test_nothing_is_spliced(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Once something was told, a stream that breaks is cut, whatever the policy lists."""
    far, near = await upstream([SSE_HEAD + BEGIN + TEXT, "close"]), await upstream([_STREAM])
    side = await two(serve, tmp_path, far, near, ["connect", "timeout", "5xx"])
    got, _ = await asked(side, stream=True)
    assert (got.status, got.end, len(near.requests)) == (200, "eof", 0)


@pytest.mark.parametrize("begun", [True, False])
async def test_a_client_that_leaves_a_held_answer(
    upstream: Upstream, serve: Serve, tmp_path: Path, *, begun: bool
) -> None:
    """The model may have read the prompt, whether or not it began to answer: that is the least of the cost."""
    far = await upstream([ok(WHOLE)[:-4], 9.0] if begun else [9.0])
    side = await serve(far, policies=written(tmp_path / "policies", policy(far.port)), environ=HELD)
    rows = rows_of(side)
    call = asking(messages=[{"role": "user", "content": "word " * 400}])
    async with connected(side.port) as client:
        client.send(call)
        assert await far.until(lambda: bool(far.requests))
        if begun:
            assert await far.until(lambda: any(one.begun for one in side.app.plane.exchanges))  # type: ignore[attr-defined]
        client.close()
        assert await far.until(lambda: bool(rows))
    outcome = rows[0].outcome
    assert (outcome.kind, outcome.error) == ("aborted", "client_closed")
    assert outcome.usage is not None
    assert (outcome.usage.output_tokens, outcome.usage_source, outcome.cost_kind) == (None, "estimate", "lower_bound")
    assert outcome.usage.input_tokens is not None
    assert 400 <= outcome.usage.input_tokens <= len(call)
    assert outcome.cost_nusd == outcome.usage.input_tokens * 1_000
    assert rows[0].reward is None
    assert orjson.loads(far.requests[0].body)["model"] == "m"
