"""The circuit breaker of one model at one upstream: is it worth sending a call there now?

States, as in resilience4j and, for hosts of a cluster, in Envoy's outlier detection:

    closed     calls go there. `consecutive` failures in a row (Envoy: consecutive_5xx), or a share of `rate` failures among
               at least `min_calls` of the last `window_s` (resilience4j: failureRateThreshold), open it
    open       no call is offered to it until its time is over; then, at a tick, it is half open
    half_open  `probes` calls each PROBE_EVERY_S are offered to it; so many successes close it, one failure opens it again

**Time.** It stays open for `ejection_s`, and twice as long for each time that it opened in a row, up to `max_ejection_s`.
For each `ejection_s` that it was closed one of these times is forgotten, as Envoy's multiplier is.

**Late answers.** A call takes the generation of its beginning with it, and each change of state begins a new one. The end of
a call of another generation says nothing: not a success that was begun before the opening and comes while probes are out,
and not the thirty failures that come after the fifth. Ends of calls that were sent although it was open (they had no other
arm) say nothing either. So the state depends on calls that were begun in it and on time, in whatever order they end.

**Probes** are counted when they are begun, so one that hangs, or whose client leaves, holds nobody up for longer than
PROBE_EVERY_S, and no end can give a slot back twice.

**Nobody calls.** One that is half open and gets no call for `max_ejection_s` closes: nothing is known of it any more. So
does that of an arm that was rolled back. (Envoy takes a host back when its time is over, without a probe.)

What it does not know: which arms stand behind it, and whether another may serve (`core.ejection`). It fails no call.
Memory: two counters for each of SLOTS parts of the window. Times are seconds of the steady clock.
"""

from dataclasses import dataclass
from typing import Final, Literal

State = Literal["closed", "open", "half_open"]
Health = Literal[-1, 0, 1]  # what the end of one call shows of its upstream: one of the next three
FAILED: Final = -1
IGNORED: Final = 0  # the call says nothing of its upstream: its client left, or it was the caller's own mistake
GOOD: Final = 1

SLOTS: Final = 10  # 5..60 parts of the window; fewer forget in larger leaps, more cost memory
PROBE_EVERY_S: Final = 5.0  # 1..30; shorter burdens an upstream that gets up, longer keeps it out when its probes hang
_MOST_DOUBLINGS: Final = 20  # of a time that has a maximum anyway


@dataclass(frozen=True, slots=True)
class BreakerSpec:
    """When a breaker opens, for how long, and what closes it. `on` False: it stays closed."""

    on: bool = True
    consecutive: int = 5  # >= 1; Envoy's default
    rate: float = 0.5  # 0..1; resilience4j's default
    min_calls: int = 20  # >= 1 in the window, before its rate says anything
    window_s: float = 30.0  # > 0
    probes: int = 3  # >= 1
    ejection_s: float = 30.0  # > 0; Envoy's default
    max_ejection_s: float = 300.0  # >= ejection_s; Envoy's default
    max_ejected: float = 0.75  # 0..1 of a route's arms; see `core.ejection`


class Breaker:
    """See the head of this module."""

    __slots__ = (
        "_called", "_failed", "_fails", "_made", "_out_since", "_round", "_slot", "_slot_s", "_spec", "begun",
        "calls", "consecutive", "fails", "generation", "model", "opened", "passed", "since", "state", "times", "until",
    )  # fmt: skip

    def __init__(self, spec: BreakerSpec, model: str = "") -> None:
        """`model` is what events and metrics call it."""
        self._spec = spec
        self._slot_s = spec.window_s / SLOTS
        self.model = model
        self.state: State = "closed"
        self.generation = 1  # never 0, so that 0 can mean "no call"
        self.since = 0.0  # when the state began
        self.until = 0.0  # while open: when it will be half open
        self.times = 0  # that it opened in a row
        self.opened = 0  # that it opened at all
        self.begun = self.passed = 0  # probes of this round, and those of the half-open time that succeeded
        self._round = self._called = 0.0
        self._out_since = 0.0  # when it opened from closed
        self.consecutive = 0
        self._empty()

    # ---- one call

    @property
    def offers(self) -> bool:
        """Whether a call that may go elsewhere may come here."""
        state = self.state
        return state == "closed" or (state == "half_open" and self.begun < self._spec.probes)

    def begin(self) -> int:
        """A call is sent; what it gives, never 0, is for `end`."""
        if self.state == "half_open":
            self.begun += 1
        return self.generation

    def end(self, generation: int, health: Health, now: float) -> bool:
        """How a call ended that `begin` gave this generation; whether the state changed."""
        state = self.state
        if health == IGNORED or generation != self.generation or state == "open":
            return False
        if state == "half_open":
            return self._probed(health, now)
        slot = int(now / self._slot_s)
        if slot != self._slot:
            self._roll(slot)
        self.calls += 1
        self._made[slot % SLOTS] += 1
        if health == GOOD:
            self.consecutive = 0
            return False
        self.consecutive += 1
        self.fails += 1
        self._failed[slot % SLOTS] += 1
        if not self._trips():
            return False
        self._open(now)
        return True

    # ---- time

    def tick(self, now: float) -> bool:
        """What time alone changes: half open, or the next round of probes. Whether the state changed."""
        if self.state == "open" and now >= self.until:
            self._become("half_open", now)
            self.begun = self.passed = 0
            self._round = self._called = now
            return True
        if self.state == "half_open" and now - self._round >= PROBE_EVERY_S:
            if self.begun:
                self._called = now
            elif now - self._called >= self._spec.max_ejection_s:
                self._close(now)
                return True
            self.begun = 0
            self._round = now
        return False

    @property
    def out_s(self) -> float:
        """How long after it opened a probe failed last, while it is open; else 0. What came since is not known."""
        return self.since - self._out_since if self.state == "open" else 0.0

    def recent(self, now: float) -> tuple[int, int]:
        """The calls of the window that ends now, and how many of them failed."""
        return (self.calls, self.fails) if int(now / self._slot_s) - self._slot < SLOTS else (0, 0)

    @property
    def forgotten(self) -> bool:
        """Whether it is closed because nobody called it, and not because probes succeeded."""
        return self.state == "closed" and self.opened > 0 and self.passed < self._spec.probes

    # ---- inside

    def _trips(self) -> bool:
        spec = self._spec
        often = self.calls >= spec.min_calls and self.fails >= spec.rate * self.calls
        return spec.on and (often or self.consecutive >= spec.consecutive)

    def _probed(self, health: Health, now: float) -> bool:
        if health == FAILED:
            self._open(now)
            return True
        self.passed += 1
        if self.passed < self._spec.probes:
            return False
        self._close(now)
        return True

    def _close(self, now: float) -> None:
        self._become("closed", now)
        self.consecutive = 0
        self._empty()

    def _open(self, now: float) -> None:
        spec = self._spec
        if self.state == "closed":
            self.times = max(0, self.times - int((now - self.since) / spec.ejection_s))
            self._out_since = now
        self.times += 1
        self.opened += 1
        longer = float(2 ** min(self.times - 1, _MOST_DOUBLINGS))
        self.until = now + min(spec.max_ejection_s, spec.ejection_s * longer)
        self._become("open", now)

    def _become(self, state: State, now: float) -> None:
        self.state, self.since = state, now
        self.generation += 1

    def _empty(self) -> None:
        self.calls = self.fails = 0  # of the window
        self._made, self._failed = [0] * SLOTS, [0] * SLOTS
        self._slot = 0

    def _roll(self, slot: int) -> None:
        """The window goes on to `slot`: what lies further back than all its parts is forgotten."""
        passed = slot - self._slot
        if not 0 < passed < SLOTS:
            self._empty()
        else:
            for old in range(self._slot + 1, slot + 1):
                place = old % SLOTS
                self.calls -= self._made[place]
                self.fails -= self._failed[place]
                self._made[place] = self._failed[place] = 0
        self._slot = slot
