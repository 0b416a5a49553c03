"""Reads how much memory the process uses, and makes the data plane obey `core.pressure`.

The limit is the setting `memory_limit`, else the container's own (cgroup v2, then v1), else there is none. What is compared
is resident memory: the cgroup's own count has the pages of files in it, which the kernel takes back by itself. Where /proc
cannot be read nothing is ever given up.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sidecar.core.pressure import FEW, Pressure
from sidecar.core.types import Event, Severity
from sidecar.proxy.plane import Plane
from sidecar.proxy.upstream import WRITE_HIGH_BYTES

_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_STATM: Final = Path("/proc/self/statm")
_NO_LIMIT: Final = 2**50  # cgroup v1 says "none" as a number near 2 ** 63
_FEW_BYTES: Final = 16 * 1024  # 4..64 KiB for each who reads slowly; fewer: more turns, more: hundreds are too much
_TOLD: Final[tuple[tuple[Severity, str], ...]] = (
    ("low", "memory is enough again: nothing is given up"),
    ("medium", "rows, log lines, spans and calls of the sidecar's own are given up; who reads slowly holds less"),
    ("high", "new calls get 503 while many are under way; rows, log lines and spans are given up"),
)


def limit_of_container(files: tuple[Path, ...] = _LIMITS) -> int | None:
    """The memory limit of this container in bytes; None where there is none, or it cannot be read."""
    for file in files:
        try:
            text = file.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        return int(text) if text.isdigit() and 0 < int(text) < _NO_LIMIT else None
    return None


def resident_bytes(file: Path = _STATM) -> int:
    """Resident memory of this process; 0 where it cannot be read."""
    try:
        return int(file.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


class Memory:
    """Looks at each sweep, ten times a second: some 10 us."""

    def __init__(self, plane: Plane, shed_records: Callable[[bool], None]) -> None:
        """`shed_records` is told when rows, log lines and spans are to be given up, and when no more."""
        self.pressure = Pressure(plane.settings.memory_limit_bytes or limit_of_container())
        self.read: Callable[[], int] = resident_bytes
        self._plane = plane
        self._shed_records = shed_records

    def look(self) -> None:
        """Takes a reading; where the level changes, the plane obeys and an event tells it."""
        pressure, plane = self.pressure, self._plane
        if pressure.limit_bytes is None or not pressure.observe(self.read()):
            return
        level = pressure.level
        plane.pressed = level > 0
        plane.high_bytes = _FEW_BYTES if plane.pressed else WRITE_HIGH_BYTES
        for connection in list(plane.connections):
            connection.set_high(plane.high_bytes)
        plane.capacity_now = min(plane.capacity, FEW) if level == 2 else plane.capacity
        self._shed_records(level > 0)
        detail = {"level": level, "used_bytes": pressure.used_bytes, "limit_bytes": pressure.limit_bytes}
        severity, text = _TOLD[level]
        plane.on_events([Event(kind="overload.memory", severity=severity, message=text, detail=detail)])
