"""A real process whose wall clock is put forward and back under load: nothing but the time written on a row follows it."""

import asyncio
import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sidecar.clock import wall
from tests.e2e.process import Provider, Sidecar, ask
from tests.e2e.rounds import step
from tests.e2e.traffic import Connection, Load, chat
from tests.fixtures.waiting import wait_for

HOUR_S = 3600.0
STEPS_S = (36 * HOUR_S, -36 * HOUR_S, 240 * HOUR_S)  # another day, the day before, and older than rows are kept
LIBRARIES = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
POLICY = """
version: 1
service: bot
upstreams:
  sim: {{dialect: openai, base_url: "{url}/v1", price: {{input_mtok: 1.0, output_mtok: 4.0}}}}
routes:
  - name: poor
    match: {{models: ["poor"]}}
    mode: observe
    baseline: {{id: poor, upstream: sim, model: poor}}
    budget: {{daily_usd: 0.001, on_exceeded: deny}}
  - name: support
    match: {{models: ["gpt-4o"]}}
    mode: optimize
    baseline: {{id: gpt-4o, upstream: sim, model: gpt-4o}}
    arms:
      - {{id: mini, upstream: sim, model: gpt-4o-mini}}
    sticky: session
    rollout: {{steps: [5, 25, 50, 100], min_requests: 1, interval: 1h, max_wait: 2h}}
    quality: {{validators: [finish_reason, empty], min_samples: 5}}
"""
# What the interpreter runs in the place of `-m sidecar`: the wall clock is off by the seconds that stand in a file.
STEPPED = """
import runpy, sys, time
from pathlib import Path
file, real = Path(sys.argv.pop(1)), time.time
time.time = lambda: real() + float(file.read_text())
runpy.run_module("sidecar", run_name="__main__", alter_sys=True)
"""


class Clock:
    """The wall clock of a process to come: by replacing `time.time`, or, with `library`, for all of its C code too."""

    def __init__(self, folder: Path, library: str = "") -> None:
        self._file = folder / "clock"
        self._library = library
        self.put(0.0)

    def put(self, offset_s: float) -> None:
        """The wall clock is off by so many seconds from now on."""
        draft = self._file.with_name("clock.new")
        draft.write_text(f"{offset_s:+.0f}")
        draft.rename(self._file)

    @property
    def program(self) -> tuple[str, ...]:
        return ("-m", "sidecar") if self._library else ("-c", STEPPED, str(self._file))

    @property
    def environ(self) -> Mapping[str, str]:
        if not self._library:
            return {}
        return {
            "LD_PRELOAD": self._library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds until a new offset is seen
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


def test_workers_have_the_clock_of_their_leader(tmp_path: Path) -> None:
    """Which began before the wall clock was put right: ids stay in one order, and budgets on one day."""
    clock = Clock(tmp_path)
    clock.put(36 * HOUR_S)
    with Provider(tmp_path) as provider, Sidecar(tmp_path, provider.url, program=clock.program, workers=2) as sidecar:
        assert ask(sidecar.port, "POST", "/v1/chat/completions", body=chat("when?"))[0] == 200
        assert wait_for(lambda: len(sidecar.decisions()) == 1, 20.0)
        [row] = sidecar.decisions()
        assert sidecar.stop() == 0, sidecar.output()
    began_s = int(row["id"][:16], 16) / 1e6
    assert began_s - wall() > 35 * HOUR_S


async def spend(sidecar: Sidecar) -> int:
    """How many calls the small budget pays for, at most 50: none when it is spent."""
    connection = Connection(sidecar.port)
    try:
        for paid in range(50):
            if (await connection.call(chat("spend", model="poor", max_tokens=20))).status == 429:
                return paid
        return 50
    finally:
        await connection.close()


async def put(sidecar: Sidecar, clock: Clock, offset_s: float, load: Load) -> None:
    """Puts the clock, and gives the process the time for some calls, and, where rows look old, for a look at them."""
    clock.put(offset_s)
    calls = len(load.replies)
    await asyncio.sleep(2.2 if abs(offset_s) > 100 * HOUR_S else 0.3)  # old rows are looked for every 2 s
    async with asyncio.timeout(20):
        while len(load.replies) < calls + 50:  # noqa: ASYNC110 - the load has no event for its count
            await asyncio.sleep(0.05)
    assert (await asyncio.to_thread(sidecar.ready))[0] == 200


def score(sidecar: Sidecar, decision: str) -> int:
    """The status of a score from outside for this decision."""
    return ask(sidecar.port, "POST", "/_sidecar/v1/feedback", body={"id": decision, "score": 1.0, "source": "task"})[0]


@pytest.mark.parametrize(
    "library",
    [
        "",
        pytest.param(
            LIBRARIES[0] if LIBRARIES else "none",
            marks=[
                pytest.mark.campaign,  # every reading of a clock is slow with it
                pytest.mark.skipif(not LIBRARIES, reason="needs libfaketime (Debian: apt-get install libfaketime)"),
            ],
        ),
    ],
    ids=["replaced", "libfaketime"],
)
async def test_a_wall_clock_that_steps(tmp_path: Path, library: str) -> None:
    """INC-28: a day and a half forward and back, and ten days: no call fails, no keep-alive connection is dropped, no
    spent day opens again, no rollout moves, no row is pruned or out of order, no duration is wrong."""
    clock = Clock(tmp_path, library)
    policies = tmp_path / "policies"
    policies.mkdir()
    with Provider(tmp_path, "default:ttft=0.005", "default:output_tokens=8") as provider:
        (policies / "bot.yaml").write_text(POLICY.format(url=provider.url))
        settings: dict[str, Any] = {"policies": policies, "environ": clock.environ, "program": clock.program}
        with Sidecar(tmp_path, provider.url, **settings) as sidecar:
            assert step(sidecar.admin("GET", "/api/v1/status")) == 5
            assert 0 < await spend(sidecar) < 50
            load = Load(sidecar.port, connections=4)
            async with load.running():
                await put(sidecar, clock, 0.0, load)
                first = load.replies[0].decision
                for offset_s in (*STEPS_S, 0.0):
                    await put(sidecar, clock, offset_s, load)
                    assert await spend(sidecar) == 0, "another day began"
                    assert await asyncio.to_thread(score, sidecar, first) < 300, "too old to be scored"
                    assert step(await asyncio.to_thread(sidecar.admin, "GET", "/api/v1/status")) == 5
            assert (load.failed, load.broken) == ([], {})
            assert sidecar.stop() == 0
        rows = [row for row in sidecar.decisions() if row["route"] == "support"]
    asked = sorted(load.replies, key=lambda reply: reply.begun)
    place = {row["id"]: number for number, row in enumerate(reversed(rows))}
    assert place.keys() == {reply.decision for reply in asked}, "rows are missing"
    ended = 0.0
    for reply in asked:  # of two calls of which one began when the other was over, it comes behind that one
        if reply.begun > ended:
            assert place[reply.decision] >= sum(other.ended < reply.begun for other in asked)
            ended = reply.ended
    assert all(0.0 < row["duration_s"] < 10.0 for row in rows)
    days = {row["at"][:10] for row in rows}
    assert len(days) >= len(STEPS_S), f"the clock did not move: {days}"
