"""How many descriptors the process may have, and how many calls they hold: each has a client's connection and its own."""

import resource
from contextlib import suppress
from math import inf
from typing import Final

_AT_REST: Final = 32  # 25..40; what the process has open itself: its database, listeners, files
RESERVE: Final = 320  # 64..1,000, and no more than a quarter: for files, health and admin ports, clients that are idle


def raise_limit() -> None:
    """As many as the system lets this process have, and those that it starts. By themselves most have 1,024."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):  # "without limit" is more than a kernel gives
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def calls_held() -> int | None:
    """How many calls fit at once; None where there is no limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else max(1, (limit - min(RESERVE, limit // 4)) // 2)


def room_for_clients() -> tuple[float, float]:
    """From the first of these descriptors on clients' connections are too many, and from the second on none may stay: the
    others are for calls, probes and files. A process gets the lowest that is free, so its number tells how many it has."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return inf, inf
    spare = max(0, min(RESERVE, limit // 4) - _AT_REST) // 2
    return limit - spare, limit - spare // 2
