"""Mounted price lists and catalogues are read again when they change, as policies are; a bad one changes nothing. What
could not be put in force is tried again."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme

from sidecar.config.policy import Loaded
from sidecar.core.policy import NO_POLICY
from sidecar.core.types import Settled
from sidecar.errors import ConfigError
from tests.integration.canary import rows_of, written
from tests.integration.conftest import Running, Serve, Upstream
from tests.integration.raw import ScriptedUpstream, call, ok, post

ANSWER = b'{"id":"c","model":"m","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":0,"total_tokens":10}}'
WITHIN_S = 10.0  # 2 s is promised; the rest is for a busy machine


def prices(version: str, micros: int) -> str:
    """A list with one model, of so many millionths of a dollar for each token."""
    models = [["m", ["equals", "m"], [[None, {"in": micros * 10**9, "out": 0}]]]]
    return json.dumps(
        {
            "format": 1,
            "source": "s",
            "version": version,
            "date": "2026-11-21",
            "providers": {"openai": {"models": models}},
        }
    )


async def asked(side: Running) -> tuple[int | None, str | None]:
    """Cost and price version of one call."""
    rows: list[Settled] = rows_of(side)
    assert (await call(side.port, post(body=b'{"model":"m","messages":[]}'))).status == 200
    return rows[0].outcome.cost_nusd, rows[0].outcome.price_version


def notes(side: Running) -> str:
    return " ".join(side.app.readiness().notes)


def swapped(link: Path, text: str) -> None:
    """A new file behind the name, at once, as a ConfigMap does it."""
    fresh = link.parent / f"data-{len(list(link.parent.iterdir()))}"
    fresh.write_text(text)
    (link.parent / "new").symlink_to(fresh)
    (link.parent / "new").replace(link)


async def test_a_price_list_that_changes(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Calls cost what the list says when they end; while it is bad, what it said last, and that is told."""
    up = await upstream(*[[ok(ANSWER)]] * 4)
    mounted = tmp_path / "prices.json"
    swapped(mounted, prices("one", 1))
    side = await serve(up, prices=mounted)
    assert await asked(side) == (10_000, "one")

    swapped(mounted, prices("two", 3))
    assert await up.until(lambda: side.app.plane.defaults["openai"].price_version == "two", WITHIN_S)
    assert await asked(side) == (30_000, "two")
    assert "prices" not in notes(side)

    swapped(mounted, '{"format": 1, "providers"')
    assert await up.until(lambda: "last good price list" in notes(side), WITHIN_S)
    assert await asked(side) == (30_000, "two")

    swapped(mounted, prices("three", 5))
    assert await up.until(lambda: side.app.plane.defaults["openai"].price_version == "three", WITHIN_S)
    assert await asked(side) == (50_000, "three")
    assert "prices" not in notes(side)


CATALOGUE = """version: 1
date: 2026-11-21
replace: true
providers:
  openai:
    models:
      m: {{tools: {tools}, context_tokens: 1000}}
"""


def policy(up: ScriptedUpstream) -> dict[str, Any]:
    one = {"dialect": "openai", "provider": "openai", "base_url": f"http://127.0.0.1:{up.port}"}
    baseline = {"id": "base", "upstream": "one", "model": "m"}
    return {"version": 1, "upstreams": {"one": one}, "routes": [{"name": "r", "baseline": baseline}]}


async def test_a_catalogue_that_changes(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """The same policy with what is known of its models now; a bad one is like a bad policy."""
    up = await upstream()
    mounted = tmp_path / "catalogue.yaml"
    mounted.write_text(CATALOGUE.format(tools="true"))
    side = await serve(up, catalogue=mounted, policies=written(tmp_path / "policies", policy(up)))
    assert side.app.policies.error is None

    def tools() -> bool | None:
        return side.app.engine.policy.routes[0].baseline.capabilities.tools

    assert tools() is True
    version = side.app.engine.policy.version
    mounted.write_text(CATALOGUE.format(tools="false"))
    assert await up.until(lambda: tools() is False, WITHIN_S)
    assert side.app.engine.policy.version == version, "the policy's text is the same"

    mounted.write_text("version: 1\ndate: 5\n")
    assert await up.until(lambda: "not in force" in notes(side), WITHIN_S)
    assert tools() is False

    mounted.write_text(CATALOGUE.format(tools="true"))
    assert await up.until(lambda: tools() is True, WITHIN_S)
    assert "not in force" not in notes(side)


async def test_a_touched_file_changes_nothing(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """What is read again and says the same is not put in force again."""
    up = await upstream()
    mounted = tmp_path / "catalogue.yaml"
    mounted.write_text(CATALOGUE.format(tools="true"))
    side = await serve(up, catalogue=mounted, policies=written(tmp_path / "policies", policy(up)))
    mounted.write_text(CATALOGUE.format(tools="true") + "# touched\n")
    assert side.app.policies.take(side.app.policies.read()) is None
    assert side.app.policies.error is None


async def test_a_policy_waits_for_its_ca_file(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """A policy that names a file which is mounted later is never told as being in force before it is, also when it is
    written again; the reason is logged once; it is in force soon after the file is there."""
    up, ca_file = await upstream(), tmp_path / "ca.pem"
    side = await serve(up, policies=written(tmp_path / "policies", policy(up)))
    before = side.app.policies.current.policy
    wanted = policy(up)
    wanted["upstreams"]["two"] = {"dialect": "openai", "base_url": "https://127.0.0.1:9/v1", "ca_file": str(ca_file)}
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            written(tmp_path / "policies", wanted)
            assert await up.until(lambda: "not in force: ca_file" in notes(side), WITHIN_S)
            for _ in range(2):
                side.app.reloading.poll_policies()
                assert "not in force: ca_file" in notes(side)
                assert side.app.policies.current.policy == side.app.engine.policy == before
                assert "two" not in {one.name for one in side.app.engine.guards.all}
        trustme.CA().cert_pem.write_to_path(str(ca_file))
        assert await up.until(lambda: side.app.engine.policy != before, WITHIN_S)
    assert "not in force" not in notes(side)
    assert set(side.app.engine.policy.upstreams) == {"one", "two"}
    assert side.app.policies.current.policy == side.app.engine.policy
    assert [line["log_level"] for line in logs if line["event"] == "policy"] == ["error", "info"]


async def test_a_policy_that_the_engine_does_not_take(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours: the policy before stays in force with its upstreams, `/ready` says so, and a hangup tries again."""
    up = await upstream()
    side = await serve(up, policies=written(tmp_path / "policies", policy(up)))
    before, wanted = side.app.policies.current.policy, policy(up)
    wanted["upstreams"]["two"] = {"dialect": "openai", "base_url": f"http://127.0.0.1:{up.port}"}
    with monkeypatch.context() as patch:
        patch.setattr(side.app.engine, "apply", lambda *_: 1 / 0)
        written(tmp_path / "policies", wanted)
        assert await up.until(lambda: "our bug" in notes(side), WITHIN_S)
        side.app.reloading.poll_policies()
        assert "our bug" in notes(side)
        assert side.app.policies.current.policy == side.app.engine.policy == before
        assert (list(side.app.plane.origins), side.app.plane.books.bugs) == (["one"], 1)
        side.app.plane.books.bugs = 0
    side.app.reread()
    assert await up.until(lambda: list(side.app.plane.origins) == ["one", "two"], WITHIN_S)
    assert "our bug" not in notes(side)


async def test_a_start_waits_for_no_ca_file(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """As behind any policy that is wrong at the start, calls go where the app meant them, until the file is there. Where
    others can reach the port the process does not start."""
    up, ca_file = await upstream(), tmp_path / "ca.pem"
    wanted = policy(up)
    wanted["upstreams"]["two"] = {"dialect": "openai", "base_url": "https://127.0.0.1:9/v1", "ca_file": str(ca_file)}
    folder = written(tmp_path / "policies", wanted)
    with pytest.raises(ConfigError, match="ca_file"):
        await serve(up, policies=folder, mode="standalone")
    side = await serve(up, policies=folder)
    assert "not in force: ca_file" in notes(side)
    assert side.app.engine.policy == side.app.policies.current.policy == NO_POLICY
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    assert await up.until(lambda: set(side.app.engine.policy.upstreams) == {"one", "two"}, WITHIN_S)
    assert "not in force" not in notes(side)


async def test_traffic_goes_on_while_a_policy_is_read(
    upstream: Upstream, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large one takes seconds. What changes meanwhile, and a hangup, are read after it and not beside it."""
    up = await upstream(*[[ok(ANSWER)]] * 9)
    side = await serve(up, policies=written(tmp_path / "policies", policy(up)))
    source, go, reads = side.app.policies, threading.Event(), list[str]()
    read = source.read

    def slow() -> Loaded | Exception:
        reads.append(threading.current_thread().name)
        found = read()
        assert go.wait(60.0)
        return found

    monkeypatch.setattr(source, "read", slow)
    wanted, former = policy(up), side.app.engine.policy
    for replicas in (2, 3):
        wanted["replicas"] = replicas
        written(tmp_path / "policies", wanted)
        side.app.reread()
        await asyncio.sleep(0)
        assert await up.until(lambda: len(reads) == 1, WITHIN_S)
        await asked(side)
        assert side.app.engine.policy == former
    side.app.reread()
    go.set()
    assert await up.until(lambda: side.app.engine.policy.replicas == 3, WITHIN_S)
    await asked(side)
    assert len(reads) == 2
    assert threading.main_thread().name not in reads
