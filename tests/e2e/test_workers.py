"""`--workers N` as clients, people and the database see it: real processes on one port, one of them learning for all.

Connections are spread by the kernel, so tests open many and ask `/ready` who got what. Nothing depends on how fast the
machine is: what is eventual is awaited, what is exact is asserted at once.
"""

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from sidecar.config.prices import bundled_prices
from tests.e2e.process import LOOPBACK, ROOT, Provider, Sidecar, ask, free_port
from tests.e2e.traffic import Broken, Connection, Reply, chat
from tests.fixtures.waiting import wait_for

BIG, SMALL = "gpt-4o", "gpt-4o-mini"
FEEDBACK = "/_sidecar/v1/feedback"
QUICK = ("default:ttft=0.005", "default:output_tokens=24")
LONG = ("default:ttft=0.01", "default:itl=0.05", "default:output_tokens=40")  # a stream of 2 s
STAY = {"steps": [50, 100], "min_requests": 1_000_000}
MANY = 24  # connections: the chance that one of two workers gets none is 1 in 8 million
FAR_S = 20.0
SOON_S = 0.2  # for a message that was sent before this
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


def ended(side: Sidecar) -> None:
    """SIGTERM ends it well, and nothing went wrong on the way that was survived."""
    assert side.stop() == 0, side.output()
    assert '"bug"' not in side.output()
    assert "Traceback" not in side.output()


def workers(side: Sidecar) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = side.ready()[1]["workers"]
    return found


async def killed(side: Sidecar, index: int) -> None:
    """Worker `index` is killed, and another one serves in its place."""
    pid = workers(side)[index]["pid"]
    os.kill(pid, signal.SIGKILL)
    await until(
        lambda: sum(one["serving"] and one["pid"] != pid for one in workers(side)) == N, "nobody took its place"
    )


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
        for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds"):  # `process_*` are the leader's alone
            told = re.findall(rf'^llm_sidecar_worker_{name}{{worker="(\d)"}} (\S+)$', side.metrics(), re.MULTILINE)
            assert len({worker for worker, _ in told}) == 2
            assert all(float(value) > 0 for _, value in told)
        ended(side)
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
        text = side.metrics()
        assert "llm_sidecar_worker_restarts_total 1.0" in text
        assert f"llm_sidecar_worker_rows_lost_total {lost}.0" in text

        def told() -> bool:
            """Whether what was accepted is what has rows, or is lost; workers tell of either in their own time."""
            lines = side.metrics().splitlines()
            counted = sum(float(line.split()[-1]) for line in lines if line.startswith("llm_sidecar_requests_"))
            return counted == 2 * MANY - lost and f"llm_sidecar_accepted_total {counted + lost}" in lines

        await until(told, side.metrics())
        ended(side)


@pytest.mark.parametrize("spoil", [lambda file: file.write_text("routes: {"), Path.unlink], ids=["bad", "gone"])
async def test_a_worker_that_is_started_again_has_what_the_others_have(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    """The files of policy and prices, and those that the policy names, are bad or gone by then: it serves, and nobody
    serves what the policy refuses."""
    prices, schema = tmp_path / "prices.json", tmp_path / "schema.json"
    prices.write_bytes(bundled_prices().read_bytes())
    schema.write_text('{"type": "object"}')
    quality = {"validators": ["json_schema"], "output_schema": "../schema.json"}
    spent = {"mode": "observe", "arms": [], "budget": {"daily_usd": 1e-9, "on_exceeded": "deny"}, "quality": quality}
    with (
        Provider(tmp_path, *QUICK) as provider,
        sidecar(tmp_path, provider, policy(provider, **spent), prices=prices) as side,
    ):
        for file in (side.folder / "policies" / "policy.yaml", prices, schema):
            spoil(file)
        await until(lambda: "policy_error 1.0" in side.metrics(), "it was not seen")
        await killed(side, 0)
        async with clients(side.port) as made:
            assert {reply.status for reply in await everybody(made, "over")} == {429}
            await until(lambda: all(one["accepted"] for one in workers(side)), "a worker got none")
        ended(side)


async def test_a_worker_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    """SIGSTOP: what it holds breaks within a bounded time and not at its client's timeout, the others serve meanwhile, the
    books balance, and it is told."""
    with Provider(tmp_path, *LONG) as provider, sidecar(tmp_path, provider) as side:
        victim, other = (one["pid"] for one in workers(side))
        async with clients(side.port) as made:
            begun = [await one.begin(chat("count", stream=True)) for one in made]
            await until(lambda: sum(one["accepted"] for one in workers(side)) == MANY, "not all began")
            lost = next(one["accepted"] for one in workers(side) if one["pid"] == victim)
            os.kill(victim, signal.SIGSTOP)
            whole = 0
            for one, (_, fields) in zip(made, begun, strict=True):
                try:
                    whole += b"".join([chunk async for chunk in one.chunks(fields)]).endswith(b"data: [DONE]\n\n")
                except (Broken, OSError):
                    pass
            assert whole == MANY - lost
        await until(lambda: sum(one["serving"] for one in workers(side)) == N, "nobody took its place")
        assert other in (pids := [one["pid"] for one in workers(side)])
        assert victim not in pids
        await until(lambda: not balance(books(side)), f"{books(side)}")
        assert books(side)["failed"] == lost
        assert "llm_sidecar_worker_hangs_total 1.0" in side.metrics()
        assert "worker.hung" in side.output()
        async with clients(side.port) as made:
            assert {reply.status for reply in await everybody(made, "after", max_tokens=1)} == {200}
        ended(side)


async def test_workers_together_do_not_pass_a_ceiling(tmp_path: Path) -> None:
    """GW-19 with several processes at once: whatever each of them admits, the sum stays below the day's budget, and the
    last call's worth of each worker at most is left over. The budget comes while they serve: a policy is in force in all
    workers when the leader has it, and a bad one changes nothing anywhere."""
    cost, ceiling = 240_000, 24_000_000  # 24 tokens for 10 dollars a million; 100 of them
    plain = {"mode": "observe", "arms": []}
    budget = {"daily_usd": ceiling / 1e9, "on_exceeded": "deny"}
    with (
        Provider(tmp_path, *QUICK) as provider,
        sidecar(tmp_path, provider, policy(provider, **plain), workers=3) as side,
    ):
        file, said = side.folder / "policies" / "policy.yaml", list[Reply]()
        async with clients(side.port) as made:
            file.write_text("routes: {", encoding="utf-8")
            await until(lambda: "policy_error 1.0" in side.metrics(), "the bad file was not seen")
            assert {reply.status for reply in await everybody(made, "old", max_tokens=24)} == {200}
            file.write_text(policy(provider, **plain, budget=budget), encoding="utf-8")
            await until(lambda: "policy_error 0.0" in side.metrics(), "the good file was not seen")

            async def spend(one: Connection) -> None:
                refused = 0
                while refused < 3:
                    reply = await one.call(chat("go", max_tokens=24))
                    said.append(reply)
                    if reply.status == 429:  # shares that others have no use for will come
                        refused += sum(reply.status == 200 for reply in said) >= ceiling / cost - 3
                        await asyncio.sleep(0.1)

            async with asyncio.timeout(FAR_S):
                await asyncio.gather(*map(spend, made))
        ended(side)
        mine = {reply.decision for reply in said}
        paid = [row["cost_nusd"] for row in side.decisions() if row["status"] == 200 and row["id"] in mine]
        assert len(paid) == sum(reply.status == 200 for reply in said)
        assert set(paid) == {cost}
        assert ceiling - 3 * cost <= sum(paid) <= ceiling


async def test_conversations_have_one_arm_whichever_worker_they_come_through(tmp_path: Path) -> None:
    """Sessions by hash, what `previous_response_id` names, a rollback, and sessions that the selector draws."""

    async def turn(made: list[Connection]) -> list[tuple[str, str]]:
        said = [reply for n in range(3) for reply in await everybody(made, f"s{n}-")]
        return [(reply.headers["x-sidecar-model"], reply.headers["x-sidecar-reason"]) for reply in said]

    async def respond(made: list[Connection], before: list[Reply] | None = None) -> list[Reply]:
        bodies: list[dict[str, Any]] = [{"model": BIG, "input": "go on", "store": True} for _ in made]
        for body, last in zip(bodies, before or (), strict=False):
            body["previous_response_id"] = yaml.safe_load(last.body)["id"]
        calls = [one.call(body, path="/v1/responses") for one, body in zip(made, bodies, strict=True)]
        return list(await asyncio.gather(*calls))

    with Provider(tmp_path, *QUICK) as provider, sidecar(tmp_path, provider, policy(provider, rollout=STAY)) as side:

        async def verb(name: str, **body: str) -> None:
            asked = {"action": name, **body}
            await asyncio.to_thread(side.admin, "POST", "/api/v1/routes/chat/rollout", asked)

        async def heard(calls: int) -> None:
            await until(lambda: sum(one["accepted"] for one in workers(side)) == calls, "not all calls were told")
            await asyncio.sleep(SOON_S)

        async with clients(side.port) as made:
            first, second = await turn(made), await turn(made[::-1])
            models = [model for model, _ in first]
            assert len(models) / 4 < models.count(f"sim/{SMALL}") < len(models) * 3 / 4
            assert [model for model, _ in second] == models
            said = await respond(made)
            await heard(7 * MANY)
            more = await respond(made[::-1], said)
            assert {reply.headers["x-sidecar-reason"] for reply in more} == {"pinned"}
            assert [one.headers["x-sidecar-model"] for one in more] == [one.headers["x-sidecar-model"] for one in said]
            await verb("rollback")
            calls = 8 * MANY
            async with asyncio.timeout(FAR_S):
                while {model for model, _ in await turn(made)} != {f"sim/{BIG}"}:
                    calls += 3 * MANY
            assert {model for model, _ in await turn(made[::-1])} == {f"sim/{BIG}"}
            await verb("start", arm="small")
            await verb("promote")
            calls += 7 * MANY
            async with asyncio.timeout(FAR_S):
                while {one.headers["x-sidecar-reason"] for one in await everybody(made, f"{calls}-")} != {"sampled"}:
                    calls += MANY
            said = await everybody(made, "drawn")
            await heard(calls + MANY)
            more = await everybody(made[::-1], "drawn")
            assert {reply.headers["x-sidecar-reason"] for reply in more} == {"sticky"}
            models = [reply.headers["x-sidecar-model"] for reply in said]
            assert [reply.headers["x-sidecar-model"] for reply in more] == models
            assert len(set(models)) == 2
        ended(side)


async def test_a_drain_ends_the_streams_of_all_workers_whole(tmp_path: Path) -> None:
    """SIGTERM: every stream to its last byte, then exit status 0, and their rows are stored."""
    with Provider(tmp_path, *LONG) as provider, sidecar(tmp_path, provider) as side:
        pids = [one["pid"] for one in workers(side)]
        async with clients(side.port) as made:
            begun = [await one.begin(chat("count", stream=True)) for one in made]
            await until(lambda: all(one["accepted"] for one in workers(side)), "a worker got none")
            side.signal(signal.SIGTERM)
            await until(lambda: side.ready()[0] == 503, "it is still ready")
            for one, (_, fields) in zip(made, begun, strict=True):
                text = b"".join([chunk async for chunk in one.chunks(fields)])
                assert text.endswith(b"data: [DONE]\n\n")
        assert await asyncio.to_thread(side.process.wait, FAR_S) == 0, side.output()
        assert not any(map(psutil.pid_exists, pids))
        rows = side.decisions()
        assert [row["outcome"] for row in rows] == ["completed"] * MANY


async def test_a_second_signal_cuts_all_workers(tmp_path: Path) -> None:
    with Provider(tmp_path, *LONG) as provider, sidecar(tmp_path, provider) as side:
        async with clients(side.port) as made:
            begun = [await one.begin(chat("count", stream=True)) for one in made]
            side.signal(signal.SIGTERM)
            await until(lambda: side.ready()[0] == 503, "it is still ready")
            side.signal(signal.SIGTERM)
            assert await asyncio.to_thread(side.process.wait, FAR_S) == 0, side.output()
            cut = 0
            for one, (_, fields) in zip(made, begun, strict=True):
                try:
                    _ = [chunk async for chunk in one.chunks(fields)]
                except (Broken, OSError):
                    cut += 1
            assert cut == MANY
        assert [row["outcome"] for row in side.decisions()] == ["failed"] * MANY


async def test_sighup_goes_to_the_leader(tmp_path: Path) -> None:
    """Sent to everybody, as a terminal that is closed does it: nobody ends, and all workers have the policy that the leader
    has read, although its file looks as before."""
    with Provider(tmp_path, *QUICK) as provider, sidecar(tmp_path, provider, policy(provider, name="one")) as side:
        file = tmp_path / "policies" / "policy.yaml"
        pids, old, seen = [one["pid"] for one in workers(side)], side.ready()[1]["policy_version"], file.stat()
        file.write_text(policy(provider, name="two"), encoding="utf-8")
        os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        for pid in (*pids, side.process.pid):
            os.kill(pid, signal.SIGHUP)
        await until(lambda: side.ready()[1]["policy_version"] != old, "the leader did not read it")
        await asyncio.sleep(5 * SOON_S)  # workers are told at once
        async with clients(side.port) as made:
            assert {reply.status for reply in await everybody(made, BIG)} == {200}
        assert [one["pid"] for one in workers(side)] == pids
        ended(side)
        assert {row["route"] for row in side.decisions()} == {"two"}


def test_workers_import_nothing_from_the_current_folder(tmp_path: Path) -> None:
    """As the script that started their leader does not."""
    script, here = tmp_path / "script.py", tmp_path / "here"
    script.write_text("import os, sys\nos.chdir(sys.argv.pop(1))\nfrom sidecar.cli import main\nsys.exit(main())\n")
    here.mkdir()
    (here / "yaml.py").write_text("raise SystemExit(3)\n")
    environ = {"PYTHONPATH": str(ROOT)}
    with Sidecar(tmp_path, workers=N, program=(str(script), str(here)), environ=environ, drain_idle="100ms") as side:
        assert sum(one["serving"] for one in workers(side)) == N
        ended(side)


async def test_workers_outlive_their_leader_and_then_end(tmp_path: Path) -> None:
    """kill -9 of the leader: streams end whole, calls are served while workers drain, and none of them stays."""
    with Provider(tmp_path, *LONG) as provider, sidecar(tmp_path, provider) as side:
        pids = [one["pid"] for one in workers(side)]
        async with clients(side.port) as made:
            begun = [await one.begin(chat("count", stream=True)) for one in made]
            side.kill()
            assert ask(side.port, "POST", "/v1/chat/completions", body=chat("still there?", max_tokens=1))[0] == 200
            for one, (_, fields) in zip(made, begun, strict=True):
                text = b"".join([chunk async for chunk in one.chunks(fields)])
                assert text.endswith(b"data: [DONE]\n\n")
        await until(lambda: not any(map(psutil.pid_exists, pids)), "a worker was left behind")
        side.start_again()
        assert sum(one["serving"] for one in workers(side)) == N
        ended(side)


def test_a_port_that_somebody_shares_is_busy(tmp_path: Path) -> None:
    """SO_REUSEPORT would let us share the port of another program of this user: that is exit status 2, as any busy port."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((LOOPBACK, free_port()))
        other.listen()
        listen = f"{LOOPBACK}:{other.getsockname()[1]}"
        with Sidecar(tmp_path, workers=N, listen=listen, wait=False) as side:
            assert side.process.wait(FAR_S) == 2
            assert "stop the other program" in side.output()
