"""What the load generator is told, and what it tells: the two values that cross its process's border."""

from dataclasses import dataclass, field
from typing import Literal

SPREAD = -1  # first_ms: 0..500 ms, different for each stream


@dataclass(frozen=True, slots=True)
class Job:
    """What to do. `count` > 0 ends a closed loop after so many requests instead of `duration_s`."""

    kind: Literal["closed", "open", "streams"]
    port: int
    connections: int
    duration_s: float
    rate: float = 0.0
    count: int = 0
    chunks: int = 64
    gap_ms: int = 15
    first_ms: int = 0
    base: int = 0  # first request number: unique over the life of one peer, so that ids are


@dataclass(slots=True)
class Result:
    """What happened. Latencies in microseconds; `errors` names what was wrong and how often."""

    requests: int = 0
    elapsed_s: float = 0.0
    next_number: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latency_us: dict[str, float] = field(default_factory=dict)
    lateness_us: dict[str, float] = field(default_factory=dict)  # of the generator's own sends, open loop
    chunks: int = 0
    transit_us: dict[str, float] = field(default_factory=dict)  # upstream's write -> client's read, per token
    path_us: dict[str, float] = field(default_factory=dict)  # client's TTFT minus the upstream's own first-token time
    truth: list[tuple[str, float]] = field(default_factory=list)  # completion id, the upstream's first-token time in s
