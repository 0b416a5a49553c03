"""A fault of ours in each stage, whose exception holds all that the stage was given: nobody gets to see its text."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.process import ask
from tests.e2e.secret_faults import STAGES
from tests.e2e.secret_stage import ANSWER, KEY, PROMPT, TOKEN, Stage
from tests.e2e.test_secrets_everywhere import TALKS, Collector, Traffic, others
from tests.fixtures.canaries import Canaries
from tests.fixtures.waiting import wait_for
from tests.integration.raw import ScriptedUpstream, ok, post

SLOW = {"tick", "policy", "write", "thread", "snapshot", "put", "spans", "judge"}  # these run by the clock, or later
ROADS = (
    ("chat", "", True), ("chat", "converse", False), ("messages", "chat", True), ("messages", "messages", False),
)  # fmt: skip


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    one = ScriptedUpstream()
    await one.start()
    yield one
    await one.close()


class Faulty:
    """A stage whose process has a fault where `fault` says."""

    def __init__(self, folder: Path, up: ScriptedUpstream, *, told: bool = False, **more: object) -> None:
        self.fault = folder / "fault"
        self.fault.write_text("")
        text = f"{KEY} {PROMPT} {ANSWER} {TOKEN}"
        environ = {"SECRET_FAULT": str(self.fault), "SECRET_TEXT": text, **({"SECRET_TOLD": "1"} if told else {})}
        self.stage = Stage(folder, up.port, program=("-m", "tests.e2e.secret_faults"), environ=environ, tokens=True,
                           encrypted=True, pool_queue_timeout="200ms", connect_timeout="200ms", **more)  # type: ignore[arg-type]  # fmt: skip
        self.app = Traffic(self.stage, up)

    @property
    def raised(self) -> set[str]:
        file = self.fault.with_suffix(".raised")
        return set(file.read_text().split("\n")) if file.exists() else set()

    async def call(self) -> None:
        """Calls that reach every stage: a client's own dialect, streams, arms of others, feedback, the admin port."""
        token = b"Authorization: Bearer " + TOKEN.encode()
        key = b"x-goog-api-key: " + KEY.encode()
        for dialect, arm, streamed in ROADS:
            talk, answer = TALKS[dialect, "tool", streamed], TALKS[arm or dialect, "tool", streamed]
            lines = [token, key, b"x-sidecar-tags: arm=" + arm.encode()]
            await self.app.ask(post(talk.path, talk.request, *lines), [answer.response])
        await self.app.ask(post("/v1/files", PROMPT.encode(), token, key), [ok(ANSWER.encode(), b"Connection: close")])
        said = json.dumps({"id": "0" * 26, "score": 1, "source": "task"}).encode()
        await self.app.ask(post("/_sidecar/v1/feedback", said, token, key))
        for path in ("/api/v1/status", "/api/v1/decisions"):
            await asyncio.to_thread(self.stage.admin, "GET", path)
        await asyncio.to_thread(ask, self.stage.sidecar.health_port, "GET", "/metrics")

    async def strike(self) -> None:
        """Each fault in its turn."""
        for name in STAGES:
            self.fault.write_text(name)
            await self.call()
            for _ in range(20 if name in SLOW else 0):
                if not await asyncio.to_thread(wait_for, lambda name=name: name in self.raised, 0.3):
                    await self.call()
        self.fault.write_text("")


async def test_a_fault_in_each_stage_tells_no_secret(tmp_path: Path, up: ScriptedUpstream) -> None:
    """SEC-KEYS, SEC-PRIVACY, GW-45: BerriAI/litellm#39964 had keys in tracebacks. Bugs are told by kind and place, and the
    process serves on."""
    collector = Collector()
    collector.start()
    faulty = await asyncio.to_thread(Faulty, tmp_path, up, collector=collector.url)
    stage = faulty.stage
    try:
        await faulty.call()
        await faulty.strike()
        assert set(STAGES) - faulty.raised == set()
        before = len(up.requests)
        await faulty.call()
        assert len(up.requests) - before >= 5, "it does not serve any more"
        artefacts = await others(faulty.app)
        artefacts |= await asyncio.to_thread(stage.shown)
        artefacts |= await asyncio.to_thread(stage.told)
        assert await asyncio.to_thread(stage.sidecar.stop) == 0
        artefacts |= stage.files() | {f"spans {at}": body for at, body in enumerate(collector.bodies)}
    finally:
        stage.close()
        collector.stop()
    log = artefacts["sidecar.log"]
    bugs = [json.loads(line) for line in log.splitlines() if b'"event":"bug"' in line]
    print(sorted({(bug["where"], bug["place"]) for bug in bugs}))
    assert len({bug["where"] for bug in bugs}) > 10
    assert b"Traceback" not in log
    assert stage.canaries.sweep(artefacts) == []


async def test_the_sweep_finds_what_a_careless_log_tells(tmp_path: Path, up: ScriptedUpstream) -> None:
    """The same process, made to tell the texts of its bugs: the sweep finds key, token, prompt and answer."""
    faulty = await asyncio.to_thread(Faulty, tmp_path, up, told=True)
    try:
        faulty.fault.write_text("engine")
        await faulty.call()
        assert await asyncio.to_thread(faulty.stage.sidecar.stop) == 0
        found = faulty.stage.canaries.sweep({"log": faulty.stage.files()["sidecar.log"]})
    finally:
        faulty.stage.close()
    assert isinstance(faulty.stage.canaries, Canaries)
    told = {leak.split(": ")[1] for leak in found}
    assert {"client's key", "client tokens", "prompt", "answer"} <= told
