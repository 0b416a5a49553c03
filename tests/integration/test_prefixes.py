"""Paths that no default upstream has pass where an upstream of the policy has them, and end with it."""

from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.integration.conftest import Serve, Sim
from tests.integration.test_translation import policy

ASK = b'{"model": "command-a", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}'


@pytest.mark.parametrize(("dialect", "status"), [("cohere", 200), ("openai", 404)])
async def test_cohere_paths_pass_to_an_upstream_of_cohere(
    sim: Sim, serve: Serve, tmp_path: Path, dialect: str, status: int
) -> None:
    """Its own bytes, with the key that the sidecar holds; without such an upstream it is a 404 that names what passes."""
    provider = await sim(requests_kept=8)
    folder = policy(tmp_path, provider.port, dialect)
    side = await serve("http://127.0.0.1:9", policies=folder)
    async with (
        ClientSession(headers={"Authorization": "Bearer client-key"}) as http,
        http.post(f"http://127.0.0.1:{side.port}/v2/chat", data=ASK) as answer,
    ):
        text = await answer.text()
        assert answer.status == status
    if dialect == "openai":
        assert "dialect: cohere" in text
        assert not provider.requests
        return
    assert "42" in text
    assert answer.headers["x-sidecar-model"] == "far/command-a"
    seen = provider.requests[0]
    assert (seen.target, seen.body) == ("/v2/chat", ASK)
    assert b"held-key" in seen.head
    assert b"client-key" not in seen.head


async def test_the_prefix_goes_with_its_upstream(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """A reload that takes the upstream out closes the path, on connections that are open too."""
    provider = await sim()
    folder = policy(tmp_path, provider.port, "cohere")
    side = await serve(provider, policies=folder)
    url = f"http://127.0.0.1:{side.port}/v2/chat"
    async with ClientSession() as http:
        async with http.post(url, data=ASK) as answer:
            assert answer.status == 200
            await answer.read()
        policy(tmp_path, provider.port, "openai")
        loaded = side.app.policies.take(side.app.policies.read())
        assert loaded is not None
        side.app.apply(loaded)
        async with http.post(url, data=ASK) as answer:
            assert answer.status == 404
