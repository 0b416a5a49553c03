"""Names that no model has: what a client may write there must not fill memory, rows or the log."""

import orjson
import pytest

from sidecar.secrecy import MAX_NAME
from tests.integration.canary import rows_of, talking
from tests.integration.conftest import Serve, Sim, Upstream
from tests.integration.raw import ok, post


@pytest.mark.parametrize("length", [MAX_NAME + 1, 200_000])
async def test_a_name_that_is_a_text_goes_on_and_is_not_kept(sim: Sim, serve: Serve, length: int) -> None:
    """INC-46: names are remembered by the thousand (ratios, caches), so a long one is none; the call passes as it came."""
    provider = await sim()
    side = await serve(provider)
    rows = rows_of(side)
    name = "m" * length
    async with talking(side) as app:
        app.client.send(
            post("/v1/chat/completions", orjson.dumps({"model": name, "messages": [{"role": "user", "content": "hi"}]}))
        )
        answer = await app.client.response()
    assert answer.status == 200
    assert orjson.loads(answer.body)["model"] == name  # the upstream was asked for what the client wrote
    (row,) = rows
    assert row.facts.model is None
    assert row.outcome.served_model == "[hidden]"


@pytest.mark.parametrize("length", [MAX_NAME, MAX_NAME + 1])
async def test_an_id_that_is_a_text_is_not_kept(upstream: Upstream, serve: Serve, length: int) -> None:
    """INC-46: the same for what an upstream says in the place of its answer's id."""
    told = "i" * length
    body = orjson.dumps({"id": told, "object": "chat.completion", "model": "m", "choices": []})
    provider = await upstream([ok(body)])
    side = await serve(provider)
    rows = rows_of(side)
    async with talking(side) as app:
        app.client.send(post("/v1/chat/completions", b'{"model":"m","messages":[]}'))
        assert orjson.loads((await app.client.response()).body)["id"] == told
    assert rows[0].outcome.completion_id == (told if length <= MAX_NAME else None)
