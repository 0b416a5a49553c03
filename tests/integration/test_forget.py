"""A person is forgotten by a running sidecar: nothing of theirs that was on its way to the disk comes there afterwards."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.control import loop
from tests.integration.conftest import Running, Serve, Upstream
from tests.integration.raw import call, ok, post, until

ANSWER = ok(b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}')
POLICY = """
version: 1
service: bot
upstreams:
  here: {{dialect: openai, base_url: "http://127.0.0.1:{port}", price: free}}
routes:
  - name: chat
    mode: optimize
    sticky: session
    baseline: {{id: m, upstream: here, model: m}}
    arms: [{{id: n, upstream: here, model: n}}]
"""


async def begun(serve: Serve, upstream: Upstream, folder: Path) -> Running:
    """A sidecar with a database and a route that tells sessions apart."""
    origin = await upstream([ANSWER])
    (folder / "policies").mkdir()
    (folder / "policies" / "bot.yaml").write_text(POLICY.format(port=origin.port))
    (folder / "token").write_text("secret")
    files = {"policies": folder / "policies", "db": folder / "sidecar.db", "admin_token_file": folder / "token"}
    return await serve(origin, service="bot", **files)


async def ask(side: Running) -> None:
    request = post("/v1/chat/completions", b'{"model":"m","messages":[]}', b"x-sidecar-session: anna")
    assert (await call(side.port, request)).status == 200


async def forget(side: Running, key: str) -> dict[str, Any]:
    url, headers = f"http://127.0.0.1:{side.admin_port}/api/v1/store/forget", {"Authorization": "Bearer secret"}
    async with aiohttp.ClientSession(headers=headers) as http, http.post(url, json={"key": key}) as answer:
        told: dict[str, Any] = await answer.json()
        return told


def read(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "sidecar.db")) as connection:
        return connection.execute(query).fetchall()


async def test_calls_that_ended_just_before_are_forgotten(
    serve: Serve, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is over and waits to be handed on goes too, however long it would wait."""
    monkeypatch.setattr(loop, "FLUSH_S", 60.0)
    side = await begun(serve, upstream, tmp_path)
    await ask(side)
    await side.recorded()
    ((key,),) = read(tmp_path, "SELECT sticky_key FROM decisions")
    await ask(side)
    assert await forget(side, key) == {"decisions": 2}
    await side.recorded()
    assert read(tmp_path, "SELECT id FROM decisions") == []


async def test_a_reader_keeps_the_wal_and_it_goes_when_they_end(
    serve: Serve, upstream: Upstream, tmp_path: Path
) -> None:
    """While somebody reads a state of before, `/ready` says so; afterwards nothing of the person is in any file."""
    side = await begun(serve, upstream, tmp_path)
    await ask(side)
    await side.recorded()
    with closing(sqlite3.connect(tmp_path / "sidecar.db")) as reader:
        reader.execute("BEGIN")
        ((decision, key),) = reader.execute("SELECT id, sticky_key FROM decisions").fetchall()
        assert await forget(side, key) == {"decisions": 1}
        assert "in the WAL" in side.app.archive.notes()[0]
    assert await until(lambda: side.app.archive.notes() == [], 20.0)
    side.app.archive.state(side.app.engine.snapshot() + b" ")  # the next one names no row of theirs as the newest
    await side.recorded()
    pages = b"".join((tmp_path / name).read_bytes() for name in ("sidecar.db", "sidecar.db-wal"))
    assert [one for one in (decision, key) if one.encode() in pages] == []


async def test_a_score_of_a_forgotten_decision_is_not_kept(serve: Serve, upstream: Upstream, tmp_path: Path) -> None:
    """The desk does not know the decision any more, though it was among the newest, and it is in no table."""
    side = await begun(serve, upstream, tmp_path)
    await ask(side)
    await side.recorded()
    ((decision, key),) = read(tmp_path, "SELECT id, sticky_key FROM decisions")
    score = post("/_sidecar/v1/feedback", b'{"id":"%b","score":0,"label":"angry"}' % decision.encode())
    assert (await call(side.port, score)).status == 202
    await side.recorded()
    assert read(tmp_path, "SELECT label FROM feedback") == [("angry",)]
    assert await forget(side, key) == {"decisions": 1}
    assert (await call(side.port, score)).status == 404
    await side.recorded()
    assert read(tmp_path, "SELECT label FROM feedback") == []
