"""Ends a decision that takes too long, so that a stalled engine fails open as one that raises does.

The engine is asked inside the loop: while it works nothing else of the process can look at a clock. A signal can. Python
runs its handler between two steps of whatever the main thread is at, and what the handler raises ends that. The timer is
set by a decision that finds none, and not again when its signal finds nothing under way: an idle process is never woken,
a busy one ten times a second.

A decision is ended by the second signal that finds it: it has then taken EVERY_S at least, and twice that at most; with a
large body, which some decisions read, by a later one. One signal alone says nothing, as the process or its machine may
have been stopped. Behind a stall the engine rests, or each call would wait for another one. What the engine learns is
not ended: half a lesson is worse than a late one.

What it cannot end: a step inside a library that is not Python, until it returns.
"""

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sidecar.clock import steady
from sidecar.core.types import Facts

EVERY_S: Final = 0.1  # .02..1; shorter: slow machines lose decisions, longer: a stall holds up others for longer
REST_S: Final = 5.0  # 1..60; shorter: more of the time is lost to stalls, longer: one stall costs more decisions
_BYTES_EACH: Final = 1 << 20  # of a body that a decision may read between two signals, a tenth of what it can
P = ParamSpec("P")
T = TypeVar("T")


class Stalled(Exception):
    """The engine took too long to decide."""


class Watchdog:
    """Asks the engine. Before `start`, and where the process may not handle signals, it waits as long as it takes."""

    def __init__(self) -> None:
        self._armed = True  # nobody sets the timer
        self._facts: Facts | None = None  # what the engine decides on
        self._found = 0  # signals that came meanwhile
        self._until = 0.0  # steady time until which the engine rests
        self._before: Any = None  # who had the signal

    def start(self) -> None:
        """Begins to watch; in the main thread only, elsewhere nothing is watched."""
        with suppress(ValueError):
            self._before = signal.signal(signal.SIGALRM, self._look)
            self._armed = False

    def stop(self) -> None:
        """Gives the timer and its signal back, unless another one has them by now."""
        self._armed = True
        if signal.getsignal(signal.SIGALRM) == self._look:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, self._before)

    def notes(self) -> list[str]:
        """What `/ready` says of it: nothing, but while the engine rests."""
        left_s = self._until - steady()
        return [f"the engine stalled: for {left_s:.0f} s calls go to the app's own model"] if left_s > 0.0 else []

    def ask(self, verb: Callable[Concatenate[Facts, P], T], facts: Facts, *rest: P.args, **named: P.kwargs) -> T | None:
        """What the engine says; None while it rests. Raises Stalled, and whatever the engine raises."""
        if self._until:
            if steady() < self._until:
                return None
            self._until = 0.0
        return self.watch(verb, facts, *rest, **named)

    def watch(self, verb: Callable[Concatenate[Facts, P], T], facts: Facts, *rest: P.args, **named: P.kwargs) -> T:
        """As `ask`, while the engine rests too: for what decides in its place."""
        if not self._armed:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, EVERY_S)
        self._found, self._facts = 0, facts
        try:
            return verb(facts, *rest, **named)
        finally:
            self._facts = None

    def _look(self, _number: int, _frame: object) -> None:
        """A signal: whether the engine is at the same question for too long."""
        if self._facts is None:
            self._armed = False
            return
        signal.setitimer(signal.ITIMER_REAL, EVERY_S)
        self._found += 1
        if self._found > 1 + self._facts.input_bytes // _BYTES_EACH:
            self._facts, self._until = None, steady() + REST_S
            raise Stalled
