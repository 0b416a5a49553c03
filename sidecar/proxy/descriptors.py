"""How many descriptors the process may have, how many calls they hold (each has a client's connection and its own), and
which connections of clients give theirs up where they run out."""

import os
import resource
from collections.abc import Collection
from contextlib import suppress
from math import inf
from typing import Final, Protocol, TypeVar

from sidecar.core.types import Event

_AT_REST: Final = 32  # 25..40; what the process has open itself: its database, listeners, files
_TELL_S: Final = 60.0  # 10..600; shorter: lines that say the same, longer: one that is missed
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


def _are_free(count: int, below: float) -> bool:
    """Whether new files would get so many descriptors below this one. To try it takes 2 us for each."""
    taken: list[int] = []
    try:
        while len(taken) < count:
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            if taken[-1] >= below:
                return False
    except OSError:
        return False
    finally:
        for descriptor in taken:
            os.close(descriptor)
    return True


class Resting(Protocol):
    """What there is to know of a client's connection."""

    deadline: float  # monotonic

    def rests(self, now: float) -> bool:
        """Whether nothing is under way there, and was not a moment ago."""


C = TypeVar("C", bound=Resting)


class ClientRoom:
    """Keeps clients' connections from the last descriptors."""

    def __init__(self) -> None:
        self._many, self._full = room_for_clients()
        self._free = 0 if self._many == inf else 2 * int(self._full - self._many)  # are wanted where they ran short
        self._stay = inf  # so many may stay, since one of them had one of the last descriptors
        self._tell_at = 0.0

    @property
    def is_short(self) -> bool:
        """Whether `give_way` has something to do."""
        return self._stay < inf

    def admits(self, descriptor: int, connections: int) -> bool:
        """Whether a client's new connection may stay; of too many `connections`, those that rest give way later."""
        if descriptor >= self._many:
            self._stay = min(self._stay, connections - self._free)
        return descriptor < self._full

    def give_way(self, connections: Collection[C], now: float) -> list[C]:
        """Who gives way: of those that rest the ones that would end first, until few enough are left, or others than clients
        have given as many descriptors up. One that is free says nothing: clients come and go all the time."""
        excess = len(connections) - self._stay
        if excess <= 0 or _are_free(self._free, self._many):
            self._stay = inf
            return []
        resting = sorted((one for one in connections if one.rests(now)), key=lambda one: one.deadline)
        return resting[: int(excess)]

    def event(self, connections: int, closed: int, now: float) -> Event | None:
        """What to tell of it, at most once a minute."""
        if now < self._tell_at:
            return None
        self._tell_at = now + _TELL_S
        text = "clients' connections take nearly all open files of the process (ulimit -n): idle ones are closed"
        detail = {"connections": connections, "closed": closed}
        return Event(kind="overload.files", severity="high", message=text, detail=detail)
