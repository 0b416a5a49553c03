"""What survives what: each row of the table in docs/kubernetes-lifecycle.md, with the pod that the injector makes.

The kubelet is simulated (`pod.py`); the sidecar, its volume and its verbs are real.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sidecar.clock import monotonic
from tests.e2e.pod import NAME, Ended, Pod
from tests.e2e.process import Provider, ask
from tests.e2e.rounds import exchanges, step, taught_by, write_policy
from tests.e2e.traffic import Load
from tests.fixtures.waiting import wait_for

POLICY = """
version: 1
service: bot
upstreams:
  sim: {{dialect: openai, base_url: "{url}/v1", price: {{input_mtok: 1.0, output_mtok: 4.0}}}}
routes:
  - name: support
    match: {{models: ["gpt-4o"]}}
    mode: optimize
    baseline: {{id: gpt-4o, upstream: sim, model: gpt-4o}}
    arms:
      - {{id: mini, upstream: sim, model: gpt-4o-mini}}
    sticky: session
    rollout: {{steps: [50, 100], min_requests: 5, interval: 1s, max_wait: 1h}}
    quality: {{validators: [finish_reason, empty], min_samples: 0}}
    budget: {{daily_usd: 1000}}
"""
QUICK = ("default:ttft=0.002", "default:output_tokens=8")
BUSY_S = 30.0
Made = Callable[..., Pod]


@dataclass(frozen=True, slots=True)
class Known:
    """What a sidecar knows: exchanges that taught it, the rollout's step, what it spent today, and its rows."""

    taught: float
    step: int
    phase: str
    spent_nusd: int
    rows: int


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Makes pods of one service: each with a folder of its own, all with the same ConfigMaps."""
    with Provider(tmp_path, *QUICK) as provider:
        policies, priors = write_policy(tmp_path, provider, POLICY), tmp_path / "priors"

        def made(name: str) -> Pod:
            folder = tmp_path / name
            folder.mkdir()
            maps = {"policies": policies, "priors": priors}
            return Pod(folder, provider.url, annotations={name: name for name in maps}, config_maps=maps)

        yield made


def status(pod: Pod) -> Any:
    token = (pod.state() / "sidecar.db.admin-token").read_text().strip()
    code, answer = ask(pod.admin_port, "GET", "/api/v1/status", headers={"Authorization": f"Bearer {token}"})
    assert code == 200
    return json.loads(answer)


def known(pod: Pod, *, stored: bool = True) -> Known:
    """What it knows, when all of that is in its database (`stored`), or now."""
    db = pod.state() / "sidecar.db"
    assert not stored or wait_for(lambda: _rows(db) >= 0 and taught_by(db) >= exchanges(status(pod)), BUSY_S, 0.05), (
        "not stored"
    )
    told = status(pod)
    (route,) = told["routes"]
    phase = route["rollouts"][0]["phase"] if route["rollouts"] else ""
    return Known(exchanges(told), step(told), phase, route["spent_day_nusd"], _rows(db))


def _rows(db: Path) -> int:
    try:
        with closing(sqlite3.connect(db)) as connection:
            return int(connection.execute("SELECT count(*) FROM outcomes").fetchone()[0])
    except sqlite3.OperationalError:  # not made yet
        return -1


async def served(pod: Pod, calls: int, *, until: Callable[[], bool] = lambda: True) -> int:
    """So many calls, and on until that is true; how many there were."""
    load = Load(pod.port, connections=6, pause_s=0.005)
    async with load.running():
        await load_until(load, lambda: len(load.replies) >= calls and until())
    assert (load.failed, load.broken) == ([], {})
    return len(load.replies)


async def load_until(load: Load, reached: Callable[[], bool]) -> None:
    end = monotonic() + BUSY_S
    while not await asyncio.to_thread(reached):
        assert monotonic() < end
        await asyncio.sleep(0.05)


def export(pod: Pod, priors: Path) -> None:
    """`kubectl exec POD -c llm-sidecar -- llm-sidecar state export`, and the file as a ConfigMap."""
    priors.mkdir(exist_ok=True)
    (priors / "priors.json").write_bytes(pod.verb("state", "export", "/dev/stdout"))


async def test_a_container_starts_again(make: Made) -> None:
    """Killed, by the kernel for want of memory say: the emptyDir stays, and with it rows, posteriors, the rollout's step and
    what was spent."""
    with make("a") as pod:
        pod.run(NAME)
        await served(pod, 100, until=lambda: step(status(pod)) == 100)
        before = known(pod)
        pod.crash()
        assert known(pod) == before
        assert (before.step, before.rows) == (100, before.taught)
        assert before.spent_nusd > 0
        made = await served(pod, 20)
        assert known(pod).rows == before.rows + made


async def test_a_pod_is_replaced(make: Made, tmp_path: Path) -> None:
    """Its emptyDir goes. What was learnt comes back from priors, to the last call before the drain's end, with the
    rollout's step and the day's spending; rows do not."""
    with make("old") as old:
        old.run(NAME)
        await served(old, 100, until=lambda: step(status(old)) == 100)
        before = known(old)
        assert old.stop([NAME]) == [Ended(NAME, 0, killed=False)]
        export(old, tmp_path / "priors")
    with make("new") as new:
        new.run(NAME)
        found = known(new, stored=False)
        assert (found.taught, found.step, found.spent_nusd) == (before.taught, before.step, before.spent_nusd)
        assert found.rows <= 0
        assert "state.restored" in new.output()


async def test_a_pod_is_replaced_without_priors(make: Made) -> None:
    """The ConfigMap may be missing: the sidecar starts, says so, and begins at the first step."""
    with make("old") as old:
        old.run(NAME)
        await served(old, 100, until=lambda: step(status(old)) == 100)
    with make("new") as new:
        new.run(NAME)
        told = status(new)
        assert (exchanges(told), step(told)) == (0.0, 50)
        assert "state.no_priors" in new.output()
        assert await served(new, 10) >= 10


async def test_a_node_is_lost(make: Made, tmp_path: Path) -> None:
    """Nothing drains: what the last export had is what the next pod begins with. A rolled-back arm stays out."""
    with make("old") as old:
        old.run(NAME)
        await served(old, 60)
        token = (old.state() / "sidecar.db.admin-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        body = {"action": "rollback", "why": "it is only a test"}
        assert ask(old.admin_port, "POST", "/api/v1/routes/support/rollout", body=body, headers=headers)[0] == 200
        exported = known(old)
        export(old, tmp_path / "priors")
        await served(old, 40)
        assert known(old).taught > exported.taught
    with make("new") as new:
        new.run(NAME)
        found = known(new, stored=False)
        assert (found.taught, found.phase) == (exported.taught, "rolled_back")
        assert exported.phase == "rolled_back"
