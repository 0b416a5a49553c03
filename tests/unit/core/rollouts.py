"""A rollout and outcomes of its units: what the tests of rollouts begin with."""

from sidecar.core.policy import RolloutSpec
from sidecar.core.rollout import Rollout
from sidecar.core.types import Clocks, Event, Outcome

SPEC = RolloutSpec(min_requests=50, interval_s=60.0, max_wait_s=3600.0)
GOOD = Outcome(kind="completed", status=200, clocks=Clocks(sent_s=0.1, duration_s=1.1), cost_nusd=1000)
BAD = Outcome(kind="failed", status=500, error="upstream_status", clocks=Clocks(duration_s=0.1))
REJECTED = Outcome(kind="failed", status=404, caller_fault=True, clocks=Clocks(duration_s=0.1))
FALLBACK = Outcome(kind="completed", status=200, served_arm="big", clocks=Clocks(duration_s=1.0))
ABORTED = Outcome(kind="aborted", clocks=Clocks(duration_s=0.1))
HANGING = Outcome(kind="aborted", clocks=Clocks(sent_s=0.1, duration_s=20.0))


def make(spec: RolloutSpec = SPEC, min_labels: int = 0, *, start: bool = True) -> Rollout:
    made = Rollout("0123456789abcdef", "support", "mini", spec, min_labels)
    if start:
        made.start(0.0)
    return made


def feed(one: Rollout, n: int, canary: Outcome = GOOD, control: Outcome = GOOD, now: float = 1.0) -> list[Event]:
    """n canary units and as many control units as a 50 % split gives; stops at the first event."""
    for _ in range(n):
        events = one.observe("control", control, now=now, step=50) + one.observe("canary", canary, now=now)
        if events:
            return events
    return []


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]
