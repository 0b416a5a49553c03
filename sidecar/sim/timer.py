"""A timer that is exact to some ten microseconds, for the simulated provider's first-token times.

Event loops round their timers up to a millisecond (epoll's unit). Linux's timerfd does not: one descriptor, one heap of
callbacks, whichever is due first arms it. Where timerfd is missing the loop's own timers serve, less exactly.
"""

import asyncio
import ctypes
import os
from collections.abc import Callable
from heapq import heappop, heappush

from sidecar.clock import monotonic

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000
_ABSOLUTE = 1


class _Spec(ctypes.Structure):
    """`struct itimerspec`: interval and first expiry, each seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


def _open_timerfd() -> tuple[int, ctypes.CDLL | None]:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = int(libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC))
    except (OSError, AttributeError, TypeError):
        return -1, None
    return fd, (libc if fd >= 0 else None)


class ExactTimer:
    """Calls back at absolute monotonic times. Not cancellable: callers keep a flag and return early."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, exact: bool = True) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._armed = float("inf")
        self._fd, self._libc = _open_timerfd() if exact else (-1, None)
        if self._libc is not None:
            loop.add_reader(self._fd, self._fire)

    def at(self, due: float, callback: Callable[[], None]) -> None:
        """Runs `callback` once, at `due` on the monotonic clock or as soon after as the loop is free."""
        if self._libc is None:
            self._loop.call_later(max(0.0, due - monotonic()), callback)
            return
        self._count += 1
        heappush(self._heap, (due, self._count, callback))
        if due < self._armed:
            self._arm(due)

    def close(self) -> None:
        """Drops what is waiting and gives the descriptor back. May be called twice."""
        if self._libc is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._libc = None
        self._heap.clear()

    def _arm(self, due: float) -> None:
        self._armed = due
        seconds = int(due)
        spec = _Spec(0, 0, seconds, max(1, int((due - seconds) * 1e9)))
        if self._libc is not None:
            self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(spec), None)

    def _fire(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            pass  # re-armed between readiness and read: what is due is looked at all the same
        self._armed = float("inf")
        heap = self._heap
        while heap and heap[0][0] <= monotonic():
            heappop(heap)[2]()
        if heap and heap[0][0] < self._armed:
            self._arm(heap[0][0])
