"""A change of policy that was seen is not forgotten, whatever fails on its way."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from sidecar.config.policy import Loaded
from sidecar.config.prices import PriceSource
from sidecar.config.watch import PolicySource
from sidecar.control.reloading import Reloading
from sidecar.tasks import Tasks

GOOD = 'version: 1\nservice: bot\nupstreams:\n  o: {dialect: openai, base_url: "http://h"}\nroutes: []\n'
ROOT = Path(__file__).resolve().parents[3]
WITHIN_S = 20.0
HANGS = """
import asyncio, threading
from sidecar.tasks import Tasks, in_thread

async def main() -> None:
    tasks, begun = Tasks(print), threading.Event()
    tasks.spawn(in_thread(lambda: begun.set() or threading.Event().wait()), "policy")
    await asyncio.to_thread(begun.wait)
    await tasks.close(1.0)

asyncio.run(main())
print("ended")
"""


class Threadless:
    """The machine has no thread left."""

    @staticmethod
    def Thread(**_: object) -> None:  # noqa: N802 - as it is called
        raise RuntimeError("can't start new thread")


async def test_what_changed_is_read_after_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No task can be had for the first reading, no thread for the second, and what the third finds cannot be applied."""
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
    with monkeypatch.context() as full:
        full.setattr("sidecar.tasks.threading", Threadless)
        reloading.poll_policies()
        assert len(tasks) == 1
        while len(tasks):  # noqa: ASYNC110 - it ends by itself
            await asyncio.sleep(0)
    async with asyncio.timeout(WITHIN_S):
        while applied != [2, 30]:
            reloading.poll_policies()
            await asyncio.sleep(0.01)
    assert bugs == ["RuntimeError", "ZeroDivisionError"]
    assert source.current.policy.replicas == 30


async def test_what_hangs_in_a_thread_does_not_keep_the_process() -> None:
    """A volume that is away: the process drains and ends all the same."""
    command = (sys.executable, "-c", HANGS)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=STDOUT)
    try:
        async with asyncio.timeout(WITHIN_S):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert (process.returncode, told) == (0, b"ended\n")
