"""A change of policy that was seen is not forgotten, whatever fails on its way."""

import asyncio
from pathlib import Path

import pytest

from sidecar.config.policy import Loaded
from sidecar.config.prices import PriceSource
from sidecar.config.watch import PolicySource
from sidecar.control.reloading import Reloading
from sidecar.tasks import Tasks

GOOD = 'version: 1\nservice: bot\nupstreams:\n  o: {dialect: openai, base_url: "http://h"}\nroutes: []\n'
WITHIN_S = 20.0


async def test_what_changed_is_read_after_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No task can be had for the first reading, and the policy that the next one finds cannot be applied."""
    file, bugs, applied = tmp_path / "p.yaml", list[str](), list[int]()
    file.write_text(GOOD)
    source, tasks = PolicySource(tmp_path, "bot", {}), Tasks(lambda _name, error: bugs.append(type(error).__name__))

    def apply(loaded: Loaded) -> None:
        applied.append(loaded.policy.replicas)
        if loaded.policy.replicas == 2:
            file.write_text(GOOD + "replicas: 30\n")
            reloading.poll_policies()
            raise ZeroDivisionError

    reloading = Reloading(source, PriceSource(None), tasks, apply, lambda _book: None)
    file.write_text(GOOD + "replicas: 2\n")
    with monkeypatch.context() as full:
        full.setattr("sidecar.tasks.MAX_TASKS", 0)
        with pytest.raises(RuntimeError, match="tasks are running"):
            reloading.poll_policies()
    async with asyncio.timeout(WITHIN_S):
        while applied != [2, 30]:
            reloading.poll_policies()
            await asyncio.sleep(0.01)
    assert bugs == ["ZeroDivisionError"]
    assert source.current.policy.replicas == 30
