"""Arms of a route that rest: taken out of the selector's pool for a bounded time, with what was known of them kept.

    held      it fails or is late now, beyond what the objective allows (`core.proposals.hold`); its conversations are
              free, and it comes back by itself when HOLD_S are over
    retired   another arm is better and not dearer wherever it could serve (`core.proposals.retire`); conversations that
              it has may end with it, and it is tried again when RETIRED_S are over, or comes back when it is wanted

An arm that must rest again soon after it came back (within AGAIN times as long as it had rested) rests twice as long, up
to MOST times the first: the damping of routes that flap (RFC 2439). Whoever undoes a rest spares the arm for SPARED_S.

A rest is of an arm as it is: another upstream, model or params under its name do not inherit it. Where a policy (or another
mode of its route) allows no such rest, it is as if there was none; what is left of it counts again with the next policy
that does. Times are seconds of the steady clock, which counts from the epoch in every process, so a rest goes on after a
restart; where the clock was set back meanwhile, it ends when a new one would.

What it does not know: why (`cause` is for people), and what is in the pool (`core.staging`).
"""

from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from sidecar.core.types import Event

Kind = Literal["held", "retired"]
HOLD_S: Final = 300.0  # 60..3,600; shorter tries a broken arm more often, longer misses its recovery
RETIRED_S: Final = 86_400.0  # 1 h..1 week; shorter pays for more trials, longer finds an improved model later
MOST: Final = 16  # 1..64 times the first rest
AGAIN: Final = 2.0  # 1..4; smaller forgets sooner that an arm was out
SPARED_S: Final[Mapping[Kind, float]] = {"held": 3_600.0, "retired": 86_400.0}  # 600 s..1 week, as the rest itself
FIRST_S: Final[Mapping[Kind, float]] = {"held": HOLD_S, "retired": RETIRED_S}


class Rest(Struct, frozen=True, gc=False):
    """One arm's rest, for people too. `times` is how many there were in a row, this one included."""

    kind: Kind
    since: float
    until: float  # held: it comes back; retired: it is tried again
    cause: str
    times: int = 1


class _Past(Struct, gc=False):
    """What is remembered of one arm."""

    digest: str
    rest: Rest | None = None
    last: Rest | None = None
    back_at: float = 0.0
    spared_until: float = 0.0


class Resting:
    """The rests of one route's arms. The verbs answer what there is to tell."""

    def __init__(self, route: str, digests: Mapping[str, str], kinds: Collection[Kind]) -> None:
        """`digests` say what each arm is, `kinds` which rests the policy allows."""
        self._route, self._digests, self._kinds = route, digests, kinds
        self._arms: dict[str, _Past] = {}

    def __contains__(self, arm: str) -> bool:
        return arm in self.arms

    @property
    def arms(self) -> dict[str, Rest]:
        """Who rests."""
        rests = {arm: past.rest for arm, past in self._arms.items()}
        return {arm: rest for arm, rest in rests.items() if rest is not None and rest.kind in self._kinds}

    def back_at(self, arm: str) -> float:
        """When the arm came back last; what it did before says nothing about it now. 0 when it never rested."""
        past = self._arms.get(arm)
        return 0.0 if past is None else past.back_at

    def may(self, arm: str, kind: Kind, now: float) -> bool:
        """Whether the policy and the arm's past let it rest."""
        past = self._arms.get(arm)
        return kind in self._kinds and arm not in self and (past is None or now >= past.spared_until)

    def length_s(self, arm: str, kind: Kind, now: float) -> float:
        """How long a rest that begins now would be."""
        return float(FIRST_S[kind] * min(MOST, 2 ** (self._times(arm, kind, now) - 1)))

    def _times(self, arm: str, kind: Kind, now: float) -> int:
        past = self._arms.get(arm)
        last = None if past is None else past.last
        if past is None or last is None or last.kind != kind:
            return 1
        soon = now - past.back_at <= AGAIN * (last.until - last.since)
        return min(last.times + 1, MOST) if soon else 1

    def begin(self, arm: str, kind: Kind, cause: str, now: float) -> list[Event]:
        """The arm rests from now on; ask `may` before."""
        past = self._arms.setdefault(arm, _Past(self._digests[arm]))
        times = self._times(arm, kind, now)
        past.rest = rest = Rest(kind, now, now + self.length_s(arm, kind, now), cause, times)
        text = f"{arm} is {kind} for {rest.until - now:.0f} s: {cause}"
        detail: dict[str, object] = {"seconds": rest.until - now, "times": times, "cause": cause}
        return [Event(kind=f"arm.{kind}", severity="medium", route=self._route, arm=arm, message=text, detail=detail)]

    def end(self, arm: str, cause: str, now: float, *, spare: bool = False) -> list[Event]:
        """The arm is back; nothing to tell when it does not rest. With `spare` it does not rest again soon, also where its
        time was over already."""
        past, rest = self._arms.get(arm), self.arms.get(arm)
        known = rest if past is None else rest or past.last
        if past is not None and known is not None and spare:
            past.spared_until = now + SPARED_S[known.kind]
        if past is None or rest is None:
            return []
        past.rest, past.last, past.back_at = None, rest, now
        text = f"{arm} is back after {now - rest.since:.0f} s: {cause}"
        detail: dict[str, object] = {"was": rest.kind, "seconds": now - rest.since, "cause": cause}
        return [Event(kind="arm.returned", route=self._route, arm=arm, message=text, detail=detail)]

    def over(self, now: float) -> list[str]:
        """Arms whose hold is over."""
        return [arm for arm, rest in self.arms.items() if rest.kind == "held" and now >= rest.until]

    def forget(self, arm: str) -> None:
        """The arm begins with a clean slate."""
        self._arms.pop(arm, None)

    def explain(self, now: float) -> list[str]:
        """One English sentence for each arm that rests."""
        then = {"held": "comes back", "retired": "is tried again"}
        return [
            f"On this pod, {arm} of route {self._route} is {rest.kind} ({rest.cause}); "
            f"it {then[rest.kind]} in {max(0.0, rest.until - now):.0f} s."
            for arm, rest in self.arms.items()
        ]

    # ---- from one policy to the next, and over a restart

    def take_over(self, before: "Resting") -> None:
        """Goes on where the last policy's route was with arms that are what they were."""
        self._adopt(before._arms)

    def _adopt(self, arms: Mapping[str, _Past]) -> None:
        for arm, past in arms.items():
            if self._digests.get(arm) == past.digest:
                self._arms[arm] = past

    def to_state(self) -> dict[str, Any]:
        """JSON values for `restore`."""
        made: dict[str, Any] = msgspec.to_builtins(self._arms)
        return made

    def restore(self, state: object, now: float) -> bool:
        """Takes over what `to_state` gave of arms that are what they were; False when it cannot be read: nobody rests."""
        try:
            arms = msgspec.convert(state, dict[str, _Past])
        except msgspec.ValidationError:
            return False
        for past in arms.values():
            rest = past.rest
            past.back_at = min(past.back_at, now)
            past.spared_until = min(past.spared_until, now + max(SPARED_S.values()))
            if rest is not None and rest.since > now:  # the clock was set back
                past.rest = Rest(rest.kind, now, now + (rest.until - rest.since), rest.cause, rest.times)
        self._arms = {}  # a leader may have forgotten who rested
        self._adopt(arms)
        return True
