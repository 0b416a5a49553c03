"""The health port answers three paths, and its status is 503 only while the process does not serve."""

import json
from typing import Any

import pytest

from sidecar import __version__
from sidecar.control.health import Readiness, health_app

Client = Any


def _app(readiness: Readiness) -> Any:
    return health_app(lambda: readiness, lambda accept: ("text/x-test", f"# {accept}\n".encode()))


@pytest.mark.parametrize(("ready", "state", "status"), [(True, "serving", 200), (False, "draining", 503)])
async def test_ready(aiohttp_client: Any, ready: bool, state: str, status: int) -> None:
    """State, notes for people and details in both cases."""
    client = await aiohttp_client(
        _app(Readiness(ready, state, ["store: rows are not being written"], {"service": "bot"}))
    )
    answer = await client.get("/ready")
    assert answer.status == status
    assert json.loads(await answer.text()) == {
        "ready": ready,
        "state": state,
        "notes": ["store: rows are not being written"],
        "service": "bot",
    }
    assert (await client.get("/health")).status == 200  # liveness does not depend on it


async def test_health_and_metrics(aiohttp_client: Any) -> None:
    """The version, and the scrape in the format that Accept asks for."""
    client = await aiohttp_client(_app(Readiness(True, "serving")))
    assert await (await client.get("/health")).json() == {"status": "ok", "version": __version__}
    scrape = await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert (scrape.headers["Content-Type"], await scrape.text()) == ("text/x-test", "# application/openmetrics-text\n")


async def test_nothing_else(aiohttp_client: Any) -> None:
    """Other paths are 404, other methods 405, large bodies are not read."""
    client = await aiohttp_client(_app(Readiness(True, "serving")))
    for path in ("/", "/api/v1/status", "/v1/models", "/openapi.json"):
        assert (await client.get(path)).status == 404
    assert (await client.post("/ready", data=b"x" * 10_000)).status == 405
