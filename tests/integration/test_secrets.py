"""A canary key and a canary sentence go through a real process at debug level; afterwards they are nowhere but upstream."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.canaries import Canaries
from tests.integration.conftest import Upstream
from tests.integration.raw import SSE_HEAD, ScriptedUpstream, call, chunked, connected, get, ok, post, until

KEY = b"sk-canary-7f3a9c51e2d84b06"
PROMPT = b"The heron keeps its ledger under the third stone."
ANSWER = b"Seven lanterns drift past the sleeping customs house."
CANARIES = Canaries({"key": KEY, "prompt": PROMPT, "answer": ANSWER})


@dataclass
class Process:
    """A real `llm-sidecar run`."""

    port: int
    health_port: int
    admin_port: int
    folder: Path
    process: asyncio.subprocess.Process

    def files(self) -> dict[str, bytes]:
        """Every file of it. The WAL is there while it runs only."""
        found = [file for file in self.folder.rglob("*") if file.is_file() and file.name != "upstream.key"]
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in found}

    async def stop(self) -> dict[str, bytes]:
        """Ends it; everything that it wrote, by where."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            out, err = await self.process.communicate()
        return {"stdout": out, "stderr": err} | self.files()


@pytest.fixture
async def up(upstream: Upstream) -> ScriptedUpstream:
    return await upstream()


@pytest.fixture
async def process(up: ScriptedUpstream, tmp_path: Path) -> AsyncIterator[Process]:
    ports = []
    for _ in range(3):
        server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        server.close()
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONUNBUFFERED": "1",
        "SIDECAR_LISTEN": f"127.0.0.1:{ports[0]}",
        "SIDECAR_HEALTH_LISTEN": f"127.0.0.1:{ports[1]}",
        "SIDECAR_ADMIN_LISTEN": f"127.0.0.1:{ports[2]}",
        "SIDECAR_DB": str(tmp_path / "db" / "sidecar.db"),
        "SIDECAR_LOG_LEVEL": "debug",
        "SIDECAR_REQUEST_LOG": str(tmp_path / "requests.log"),
        "SIDECAR_FIRST_BYTE_TIMEOUT": "500ms",
        "SIDECAR_DRAIN_IDLE": "10ms",
        "OPENAI_UPSTREAM": f"http://127.0.0.1:{up.port}",
        "ANTHROPIC_UPSTREAM": f"http://127.0.0.1:{up.port}",
        "GEMINI_UPSTREAM": f"http://127.0.0.1:{up.port}",
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sidecar",
        "run",
        env=environ,
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    one = Process(ports[0], ports[1], ports[2], tmp_path, child)
    async with asyncio.timeout(20):
        while True:
            try:
                if (await call(one.health_port, get("/ready"))).status == 200:
                    break
            except OSError:
                await asyncio.sleep(0.05)
    yield one
    if child.returncode is None:
        child.kill()
        await child.communicate()


KEY_FIELDS = (b"x-api-key", b"api-key", b"x-goog-api-key", b"Ocp-Apim-Subscription-Key")
CREDENTIALS = [b"Authorization: Bearer " + KEY, *(name + b": " + KEY for name in KEY_FIELDS)]
CHAT = b'{"model":"gpt-4o","stream":%b,"messages":[{"role":"user","content":"' + PROMPT + b'"}]}'
EVENT = b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"' + ANSWER + b'"}}]}\n\n'


def clients() -> list[bytes]:
    """Requests of every kind, each with the canaries in it."""
    path = "/v1/chat/completions?key=" + KEY.decode()
    found = [post(path, CHAT % b"true", line) for line in CREDENTIALS]
    found += [
        post(path, CHAT % b"false", CREDENTIALS[0]),
        post("/v1/messages?key=" + KEY.decode(), CHAT % b"true", *CREDENTIALS),
    ]
    found += [
        post("/v1beta/models/g:generateContent?key=" + KEY.decode(), CHAT % b"false"),
        post("/v1/files", PROMPT, *CREDENTIALS),
    ]
    found += [get("/nothing?key=" + KEY.decode(), *CREDENTIALS), post("/v1/chat/completions", PROMPT, *CREDENTIALS)]
    found += [
        post(path, CHAT % b"true", *CREDENTIALS, b"Origin: https://" + KEY),
        post(path, CHAT % b"true", *CREDENTIALS).replace(b"localhost", KEY),
    ]
    found += [post(path, CHAT % b"true", b"Broken " + KEY), post(path, CHAT % b"true", b"Transfer-Encoding: " + KEY)]
    return found


async def test_no_canary_is_written_anywhere(up: ScriptedUpstream, process: Process) -> None:
    """GW-45, SEC-KEYS, SEC-PRIVACY: keys, prompts and completions in stdout, stderr, request log, database, WAL, metrics,
    /ready, error bodies and the admin API: plain, base64 or as the beginning of a hash; after answers, errors, cuts,
    timeouts, bad requests."""
    whole = ok(b'{"id":"c1","choices":[{"message":{"content":"' + ANSWER + b'"}}],"usage":{"completion_tokens":3}}')
    error = ok(b'{"error":{"message":"Incorrect API key provided: ' + KEY + b'"}}', status=b"401 Unauthorized")
    scripts = [
        [SSE_HEAD + chunked(EVENT, b"data: [DONE]\n\n")],
        [SSE_HEAD + chunked(EVENT)[:-5], 0.02, "reset"],
        [whole],
        [error],
        [b"HTTP/1.1 " + KEY + b"\r\n\r\n", "close"],
        ["reset"],
        [5.0],
    ]
    ours = b""
    for number, script in enumerate(scripts):
        up.by = lambda _head, script=script: script  # type: ignore[misc]
        for request in clients() if number < 6 else clients()[:2]:
            got = await call(process.port, request)
            if got.value(b"x-sidecar-error") is not None or got.value(b"x-sidecar-model") is None:
                ours += got.raw
    async with connected(process.port) as client:
        client.send(post("/v1/chat/completions", CHAT % b"true", *CREDENTIALS)[:-20])
        client.reset()
    assert KEY in up.requests[0].head, "the canary never went through"
    assert ours.count(b"HTTP/1.1 ") > 40
    await asyncio.sleep(0.6)
    shown = {"our answers": ours}
    for path in ("/metrics", "/ready", "/health"):
        shown[path] = (await call(process.health_port, get(path))).raw
    for path in ("/api/v1/decisions", "/api/v1/rollouts", "/openapi.json"):
        shown[path] = (await call(process.admin_port, get(path))).raw
    shown |= {f"running/{name}": text for name, text in process.files().items()}
    shown |= await process.stop()
    assert process.process.returncode == 0
    assert min(len(shown[name]) for name in ("requests.log", "running/db/sidecar.db-wal")) > 1000
    assert any(name.endswith("sidecar.db") and len(text) > 4096 for name, text in shown.items())
    assert CANARIES.sweep(shown) == []


async def test_the_database_is_private(process: Process) -> None:
    """SEC-PRIVACY: 0600 in a 0700 folder."""
    await call(process.port, post())
    folder = process.folder / "db"
    assert await until((folder / "sidecar.db-wal").exists)  # before it there is a journal, for a moment
    assert folder.stat().st_mode & 0o777 == 0o700
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert modes
    assert set(modes.values()) == {0o600}, modes
    await process.stop()
