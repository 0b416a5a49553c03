"""The way back of arms that serve without a control: is one of them out of order now?

Model. Of each arm the last UNITS units that called it are known, each as its newest call ended: badly (failed, or its
client gave up) or not. The brake of an arm trips when, for HOLD_S on end, more than half of at least MIN_ALONE_UNITS
of them, and the newest, ended badly, unless more than half of what the other arms answered meanwhile ended so too: then
the arm is not the cause. A hiccup shorter than the hold does not trip it. It is no test and has no alpha: with an error
rate p of independent units it trips by chance with about C(20, 11) p^11 a unit, 2e-9 at p = 5 %.

What it does not know: why. An outage of a provider that serves the only arm trips it as well.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from sidecar.core.evidence import MIN_ALONE_UNITS

BRAKE: Final = 0.5  # of units failed, rejected or given up: no arm that is worth having does that
UNITS: Final = 20  # 10..100; fewer take chance for an outage, more let a busy arm fail for longer
HOLD_S: Final = 2.0  # 1..30; shorter: a restart of a load balancer costs a promotion, longer: an outage lasts

_State = tuple[float | None, int, list[tuple[int, float, bool]]]


class _Ends:
    """How the newest calls of one arm's last units ended: unit -> (when, whether badly). Key 0 is a unit each time."""

    __slots__ = ("bad_since", "nameless", "units")

    def __init__(self, state: _State = (None, 0, [])) -> None:
        self.bad_since, self.nameless, units = state  # most of them end badly since then
        self.units = {key: (when, bad) for key, when, bad in units}

    def add(self, key: int, bad: bool, now: float) -> None:
        if key == 0:
            self.nameless -= 1
            key = self.nameless
        self.units.pop(key, None)
        self.units[key] = (now, bad)
        if len(self.units) > UNITS:
            del self.units[next(iter(self.units))]

    def since(self, at: float) -> tuple[int, int]:
        """How many units there were since `at`, and how many of them ended badly."""
        ends = [bad for when, bad in self.units.values() if when >= at]
        return len(ends), sum(ends)

    def to_state(self) -> _State:
        return self.bad_since, self.nameless, [(key, when, bad) for key, (when, bad) in self.units.items()]


class Brake:
    """The ends of all arms of a route. Time comes in, a reason to take an arm out comes out."""

    def __init__(self, arms: Iterable[str]) -> None:
        self._ends = {arm: _Ends() for arm in arms}

    def observe(self, arm: str, bad: bool, key: int, now: float) -> None:
        """How a call of `arm` for the unit `key` (0: itself) ended."""
        self._ends[arm].add(key, bad, now)

    def is_pressed(self, arm: str) -> bool:
        """Whether most of the arm's units ended badly when it was asked last."""
        return self._ends[arm].bad_since is not None

    def trips(self, arm: str, now: float) -> str | None:
        """Why `arm` must go now; None when it need not. Asking starts and ends the hold."""
        ends = self._ends[arm]
        units, bad = ends.since(0.0)
        if units < MIN_ALONE_UNITS or bad <= BRAKE * units or self._others_fail(arm):
            ends.bad_since = None
            return None
        if ends.bad_since is None:
            ends.bad_since = now
        _, newest_bad = next(reversed(ends.units.values()))
        if now - ends.bad_since < HOLD_S or not newest_bad:  # a good one: it may be over
            return None
        return f"{bad} of its last {units} units failed, limit {BRAKE:.0%}"

    def _others_fail(self, arm: str) -> bool:
        """Whether most of what the other arms answered meanwhile ended badly too."""
        ends = self._ends[arm]
        begin = min(when for when, _ in ends.units.values())
        if ends.bad_since is not None:
            begin = min(begin, ends.bad_since)
        seen = [one.since(begin) for other, one in self._ends.items() if other != arm]
        return sum(bad for _, bad in seen) > BRAKE * sum(units for units, _ in seen)

    def fails_alone(self, arm: str) -> bool:
        """Whether the arm's newest unit ended badly and the others answer."""
        ends = self._ends[arm].units
        return bool(ends) and next(reversed(ends.values()))[1] and not self._others_fail(arm)

    def free(self, key: int) -> None:
        """Forgets one unit."""
        for ends in self._ends.values():
            ends.units.pop(key, None)

    def forget(self, arm: str) -> None:
        """The arm begins with a clean slate."""
        self._ends[arm] = _Ends()

    def take_over(self, before: "Brake", arm: str) -> None:
        """Goes on where the brake of the last policy is with an arm that both have."""
        self._ends[arm] = before._ends[arm]

    def to_state(self) -> dict[str, _State]:
        """JSON values for `restore`."""
        return {arm: ends.to_state() for arm, ends in self._ends.items() if ends.units}

    def restore(self, state: Mapping[str, object]) -> list[str]:
        """Takes over what `to_state` gave of arms that are here; an arm whose part cannot be read begins anew, and is
        answered."""
        lost: list[str] = []
        for arm in self._ends.keys() & state.keys():
            try:
                self._ends[arm] = _Ends(msgspec.convert(state[arm], _State))
            except msgspec.ValidationError:
                self.forget(arm)
                lost.append(arm)
        return lost
