"""How many descriptors the process may have, and how many calls they hold: each has a client's connection and its own."""

import resource
from contextlib import suppress
from typing import Final

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
