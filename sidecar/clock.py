"""The clock: the only module (with app.py) that may ask the machine for the time.

Two readings exist. `steady()` never goes back and never jumps: durations, windows, timers and the engine's `now` use it.
It counts seconds since the Unix epoch as the wall clock had it when the process began, so that states written by one
process mean something to the next; a worker takes its leader's reading over. `wall()` is the machine's wall clock and
serves only for the time written on a row and for the day of a price.
"""

import time
from datetime import UTC, datetime

monotonic = time.monotonic
wall = time.time
sleep = time.sleep  # for threads of our own; on the loop nothing sleeps

_offset_s = time.time() - time.monotonic()


def offset_s() -> float:
    """What `steady()` adds to `monotonic()`, for `take_over` in another process of this machine."""
    return _offset_s


def take_over(offset_s: float) -> None:
    """From now on `steady()` is what it is in the process that gave this; before anything has asked for the time."""
    global _offset_s
    _offset_s = offset_s


def steady() -> float:
    """Seconds since the epoch on the monotonic clock (see the head of this file)."""
    return _offset_s + monotonic()


def to_steady(monotonic_s: float) -> float:
    """The steady time of a reading of `monotonic()`."""
    return _offset_s + monotonic_s


def earlier() -> float:
    """The earlier of wall clock and steady time, seconds since the epoch: what is too old to keep must be so by both,
    so that a wall clock which is set forward by mistake deletes nothing."""
    return min(wall(), steady())


def rfc3339(wall_s: float) -> str:
    """`2026-11-21T03:38:00.123456Z` for a wall clock reading in seconds."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
