"""What is read of memory, and what the data plane is told."""

import os
from pathlib import Path

import numpy as np
import pytest

from sidecar.config.settings import Settings
from sidecar.core.engine import Engine
from sidecar.core.policy import NO_POLICY
from sidecar.core.pressure import FEW
from sidecar.core.types import Event
from sidecar.proxy.memory import Memory, limit_of_container, resident_bytes
from sidecar.proxy.plane import Plane
from sidecar.tasks import Tasks


@pytest.mark.parametrize(
    ("texts", "limit"),
    [
        (["268435456\n"], 268435456),
        (["max\n"], None),
        (["9223372036854771712\n"], None),
        (["0"], None),
        ([None, "536870912"], 536870912),
        ([None, None], None),
    ],
)
def test_the_containers_limit(tmp_path: Path, texts: list[str | None], limit: int | None) -> None:
    """Of the first file that can be read; "max" and v1's huge number are none."""
    files = tuple(tmp_path / str(number) for number in range(len(texts)))
    for file, text in zip(files, texts, strict=True):
        if text is not None:
            file.write_text(text)
    assert limit_of_container(files) == limit


def test_resident_memory(tmp_path: Path) -> None:
    """Some megabytes of this process; 0 where nobody says."""
    assert 2**20 < resident_bytes() < 2**40
    (tmp_path / "short").write_text("7")
    assert resident_bytes(tmp_path / "short") == resident_bytes(tmp_path / "none") == 0
    (tmp_path / "two").write_text("9 2 1")
    assert resident_bytes(tmp_path / "two") == 2 * os.sysconf("SC_PAGE_SIZE")


async def test_the_plane_obeys() -> None:
    """Level by level: records, then calls beyond a few; one event for each change, and none where nothing changes."""
    settings = Settings.load({}, None, ["memory_limit=1GiB", "max_streams=100"])
    plane = Plane(settings, Engine(NO_POLICY, np.random.default_rng(1), 0.0), Tasks(lambda _name, _error: None), print)
    shed: list[bool] = []
    events: list[Event] = []
    plane.on_events = events.extend
    memory = Memory(plane, shed.append)
    seen = []
    for percent in (10, 90, 91, 99, 99, 10):
        memory.read = lambda percent=percent: percent * 2**30 // 100  # type: ignore[misc]  # bound now
        memory.look()
        seen.append((plane.pressed, plane.capacity_now))
    assert seen == [(False, 100), (True, 100), (True, 100), (True, FEW), (True, FEW), (False, 100)]
    assert shed == [True, True, False]
    assert [(one.kind, one.severity, one.detail["level"]) for one in events] == [
        ("overload.memory", "medium", 1), ("overload.memory", "high", 2), ("overload.memory", "low", 0),
    ]  # fmt: skip


async def test_without_a_limit_nothing_is_read() -> None:
    plane = Plane(
        Settings(), Engine(NO_POLICY, np.random.default_rng(1), 0.0), Tasks(lambda _name, _error: None), print
    )
    memory = Memory(plane, lambda _shed: None)
    memory.pressure.limit_bytes = None
    memory.read = lambda: 1 // 0
    memory.look()
    assert memory.pressure.level == 0
