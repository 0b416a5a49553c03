"""Paths of other providers' clients that climb, hide keys in queries, or name the deployment that is not to serve."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.integration.conftest import Serve, Sim, Upstream
from tests.integration.raw import call, get, ok, post
from tests.integration.test_places import ASK, AWS, AZURE, AZURE_V1, BEDROCK, CONVERSE, OURS, THEIRS, VERTEX, before

CLAUDE = f"{THEIRS}/publishers/anthropic/models/c:rawPredict"


@pytest.mark.parametrize(
    "raw",
    [
        post("/openai/v1/responses?api-version=preview", b"\x1f\x8b", b"content-encoding: gzip"),
        post("/openai/v1/responses", b" " * (9 << 20)),
        get("/openai/v1/responses"),
    ],
)
async def test_what_nobody_reads_finds_its_path(upstream: Upstream, serve: Serve, tmp_path: Path, raw: bytes) -> None:
    """Where the other upstream's path names no model, none is needed."""
    up = await upstream([ok(b'{"id":"r1"}')])
    near = {"dialect": "openai", "base_url": f"http://127.0.0.1:{up.port}", "api_key": {"env": "HELD"}}
    route = {"name": "r", "baseline": {"id": "near", "upstream": "near", "model": "gpt-4o"}}
    side = await before(serve, tmp_path, 9, AZURE_V1, route, near=near)
    got = await call(side.port, raw, timeout_s=10)
    assert got.status == 200, got.body
    assert up.requests[0].line.split()[1] == b"/v1/responses"


@pytest.mark.parametrize(
    ("far", "asked", "sent"),
    [
        (AZURE, "/openai/deployments/{}/chat/completions?api-version=2025-04-01-preview&x=1", None),
        (
            AZURE,
            "/openai/deployments/{}/chat/completions",
            "/openai/deployments/{}/chat/completions?api-version=2024-10-21",
        ),
        (AZURE_V1, "/openai/deployments/{}/chat/completions?api-version=2025-04-01", "/openai/v1/chat/completions"),
    ],
)
async def test_another_deployment(
    sim: Sim, serve: Serve, tmp_path: Path, far: dict[str, Any], asked: str, sent: str | None
) -> None:
    """It is asked in the version of the API that the app was written for, where the server's paths are the app's."""
    provider = await sim(requests_kept=8)
    route = {"name": "r", "virtual": ["auto"], "baseline": {"id": "base", "upstream": "far", "model": "gpt-4o"}}
    side = await before(serve, tmp_path, provider.port, far, route)
    got = await call(side.port, post(asked.format("auto"), orjson.dumps(ASK)))
    assert (got.status, got.value(b"x-sidecar-model")) == (200, b"far/gpt-4o")
    assert [one.target for one in provider.requests] == [(sent or asked).format("gpt-4o")]


async def test_a_shadow_is_another_deployment(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """The client's path names the one that served: the copy goes to its own."""
    up = await upstream([ok(b'{"id":"c1","choices":[{"message":{"content":"42"},"finish_reason":"stop"}]}')])
    shadow = {"arm": "new", "sample": 1.0, "per_minute": 10_000}
    arms = {name: {"id": name, "upstream": "far", "model": f"gpt-{name}"} for name in ("base", "new")}
    route = {"name": "r", "mode": "shadow", "shadow": shadow, "baseline": arms["base"], "arms": [arms["new"]]}
    side = await before(serve, tmp_path, up.port, AZURE, route)
    path = "/openai/deployments/{}/chat/completions?api-version=2024-10-21"
    await call(side.port, post(path.format("gpt-base"), orjson.dumps(ASK)))
    assert await up.until(lambda: len(up.requests) == 2)
    assert [one.line for one in up.requests] == [
        f"POST {path.format(name)} HTTP/1.1".encode() for name in ("gpt-base", "gpt-new")
    ]


@pytest.mark.parametrize(
    ("far", "target", "sent"),
    [
        (AZURE, "/openai/deployments/d/chat/completions?api-version=1&api-key=mine", None),
        (AZURE, "/openai/v1/responses?subscription-key=mine&api-version=1", None),
        (AZURE, "/openai/realtime?api-version=1&a%70i-key=mine&deployment=d", None),
        (VERTEX, f"{CLAUDE}?key=mine&access_token=mine&x=1", f"{CLAUDE}?x=1".replace(THEIRS, OURS)),
        (BEDROCK, "/model/m/converse?X-Amz-Credential=mine&x=1&X-Amz-Security-Token=mine", "/model/m/converse?x=1"),
    ],
)
async def test_a_key_in_a_query_is_the_clients(
    upstream: Upstream, serve: Serve, tmp_path: Path, far: dict[str, Any], target: str, sent: str | None
) -> None:
    """Where the sidecar holds the key, the client's goes to nobody, wherever it stands."""
    up = await upstream([ok(b"{}")])
    side = await before(serve, tmp_path, up.port, far, key=AWS)
    got = await call(side.port, post(target, CONVERSE))
    assert got.status == 200
    (one,) = up.requests
    assert b"mine" not in one.head
    assert sent is None or one.line == f"POST {sent} HTTP/1.1".encode()


async def test_a_key_in_a_query_goes_to_no_other_arm(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    up = await upstream([ok(b'{"id":"c1","choices":[]}')])
    near = {"dialect": "openai", "base_url": f"http://127.0.0.1:{up.port}", "api_key": {"env": "HELD"}}
    route = {"name": "r", "baseline": {"id": "near", "upstream": "near", "model": "gpt-4o"}}
    side = await before(serve, tmp_path, 9, AZURE, route, near=near)
    await call(side.port, post("/openai/deployments/gpt-4o/chat/completions?api-key=mine&api-version=1&x=1"))
    assert up.requests[0].line == b"POST /v1/chat/completions?x=1 HTTP/1.1"


@pytest.mark.parametrize("path", ["/model/../agents/x", "/model/%2e%2e/x", "/model/a%2F..%2Fb/invoke"])
async def test_what_climbs_is_not_signed(upstream: Upstream, serve: Serve, tmp_path: Path, path: str) -> None:
    """AWS signs the path without its dot segments: the sidecar's name is not put to a place that it does not read."""
    up = await upstream([ok()])
    side = await before(serve, tmp_path, up.port, BEDROCK, key=AWS)
    got = await call(side.port, post(path, CONVERSE))
    assert (got.status, got.value(b"x-sidecar-error")) == (400, b"target")
    assert not up.requests
