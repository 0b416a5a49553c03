"""An app behind a real sidecar with a real policy file: what tests of decisions have in common."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml
from msgspec import Struct

from sidecar.clock import steady
from sidecar.core.types import Settled
from sidecar.sim.provider import SimulatedProvider
from tests.integration.conftest import Running, Serve
from tests.integration.raw import Client, Response, connected, post

OLD, NEW = "gpt-4o", "gpt-4o-mini"
STEPS = {"steps": [5, 25, 50, 100], "min_requests": 20, "interval": "1ms"}


def route(port: int, *, new_port: int | None = None, **changes: Any) -> dict[str, Any]:
    """A policy with one canary route: `base` serves gpt-4o, `new` serves gpt-4o-mini."""
    upstreams = {
        "one": {"dialect": "openai", "base_url": f"http://127.0.0.1:{port}/v1", "provider": "openai"},
        "two": {
            "dialect": "openai",
            "base_url": f"http://127.0.0.1:{port if new_port is None else new_port}/v1",
            "provider": "openai",
            "api_key": {"env": "NEW_KEY"},
        },
    }
    made = {
        "name": "chat",
        "match": {"models": [OLD, "auto"]},
        "virtual": ["auto"],
        "mode": "canary",
        "baseline": {"id": "base", "upstream": "one", "model": OLD},
        "arms": [{"id": "new", "upstream": "two", "model": NEW}],
        "sticky": "conversation",
        "rollout": STEPS,
        "quality": {"min_samples": 0},
    }
    rules = changes.pop("rules", [])
    return {"version": 1, "upstreams": upstreams, "routes": [made | changes], "rules": rules}


def written(folder: Path, policy: dict[str, Any] | str) -> Path:
    """The folder, with this policy in it."""
    folder.mkdir(exist_ok=True)
    text = policy if isinstance(policy, str) else yaml.safe_dump(policy)
    (folder / "policy.yaml").write_text(text)
    return folder


class Said(Struct):
    """What one call came to."""

    status: int
    reason: str
    served: str
    decision: str
    raw: Response

    @property
    def model(self) -> str:
        return self.served.partition("/")[2]


class App:
    """An app that talks through the sidecar on one connection."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def ask(self, text: str = "1+1?", *lines: bytes, model: str = OLD, stream: bool = False, **more: Any) -> Said:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        if stream:
            body["stream"] = True
        self.client.send(post("/v1/chat/completions", orjson.dumps(body), b"Authorization: Bearer k", *lines))
        got = await self.client.response()
        named = [(got.value(name) or b"").decode() for name in (b"x-sidecar-reason", b"x-sidecar-model")]
        return Said(got.status, named[0], named[1], (got.value(b"x-sidecar-decision") or b"").decode(), got)

    async def session(self, name: int | str, **more: Any) -> Said:
        return await self.ask("1+1?", b"x-sidecar-session: s-%b" % str(name).encode(), **more)

    async def sessions(self, names: range, **more: Any) -> dict[int, str]:
        """session -> model that served, one call each."""
        return {name: (await self.session(name, **more)).model for name in names}


@asynccontextmanager
async def talking(side: Running) -> AsyncIterator[App]:
    async with connected(side.port) as client:
        yield App(client)


def rows_of(side: Running) -> list[Settled]:
    """All that is recorded from now on."""
    found: list[Settled] = []
    emit = side.app.plane.emit

    def keep(one: Settled) -> None:
        found.append(one)
        emit(one)

    side.app.plane.emit = keep
    return found


async def running(provider: SimulatedProvider, serve: Serve, tmp_path: Path, **changes: Any) -> Running:
    folder = written(tmp_path / "policies", route(provider.port, **changes))
    return await serve(provider, policies=folder, environ={"NEW_KEY": "held"})


def phase(side: Running) -> tuple[str, int]:
    rollout = side.app.engine.status()[0].rollouts[0]
    return rollout.phase, rollout.step


def to_step(side: Running, step: int) -> None:
    while phase(side)[1] < step:
        side.app.on_events(side.app.engine.promote("chat", steady()))


async def admin(side: Running, token: str, action: str, **more: str) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{side.admin_port}/api/v1/routes/chat/rollout"
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http,
        http.post(url, json={"action": action, **more}) as answer,
    ):
        return answer.status, await answer.json()


async def optimizing(provider: SimulatedProvider, serve: Serve, tmp_path: Path, **changes: Any) -> Running:
    side = await running(
        provider,
        serve,
        tmp_path,
        **({"mode": "optimize", "sticky": "request", "quality": {"validators": ["empty"], "min_samples": 0}} | changes),
    )
    while phase(side)[0] != "promoted":
        side.app.on_events(side.app.engine.promote("chat", steady()))
    return side


def share(side: Running) -> float:
    return next(arm.share for arm in side.app.engine.status()[0].arms if arm.id == "new")
