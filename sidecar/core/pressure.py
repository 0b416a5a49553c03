"""How near the process is to the end of its memory, and what is given up first.

**Model.** Memory in use is compared with the limit, a few times a second (Envoy's overload manager: resource monitor
`fixed_heap`, actions with thresholds of 0.9 and 0.95):

    0  nothing is given up
    1  from RECORDS on: rows, log lines, spans and calls of our own are dropped and counted
    2  from CALLS on: new calls get 503 with Retry-After, unless no more than FEW are under way

A level is left when use is RELIEF below where it begins, so that it does not flap. Records come first because the app does
not miss them. FEW calls pass always: an allocator may keep what was freed, and a sidecar that serves nobody because of
memory that nobody uses would be an outage of our own.

What it does not know: where the numbers come from (`proxy.memory`).
"""

from typing import Final

RECORDS: Final = 0.85  # 0.5..CALLS of the limit; lower drops rows for nothing, higher leaves a burst no room
CALLS: Final = 0.95  # RECORDS..1; higher: the kernel ends the process first
RELIEF: Final = 0.05  # 0..0.2
FEW: Final = 64  # 1..1,000 calls; each is some 20 KiB and its body


class Pressure:
    """The level that holds now; 0 while no limit is known."""

    __slots__ = ("level", "limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int | None) -> None:
        """`limit_bytes` None: there is none."""
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.level = 0

    def observe(self, used_bytes: int) -> bool:
        """Takes a reading; whether the level changed."""
        self.used_bytes = used_bytes
        if self.limit_bytes is None:
            return False
        before, share = self.level, used_bytes / self.limit_bytes
        reached = (share >= RECORDS) + (share >= CALLS)
        kept = (share >= RECORDS - RELIEF) + (share >= CALLS - RELIEF)
        self.level = max(reached, min(before, kept))
        return self.level != before
