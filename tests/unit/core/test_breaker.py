"""The circuit breaker, in every order of events (GW-25)."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.breaker import FAILED, GOOD, IGNORED, PROBE_EVERY_S, SLOTS, Breaker, BreakerSpec, Health

SPEC = BreakerSpec(consecutive=3, rate=0.5, min_calls=6, window_s=10.0, probes=2, ejection_s=4.0, max_ejection_s=20.0)


def fail(one: Breaker, times: int, now: float) -> None:
    for _ in range(times):
        one.end(one.begin(), FAILED, now)


def opened(now: float = 0.0, spec: BreakerSpec = SPEC) -> Breaker:
    one = Breaker(spec)
    fail(one, spec.consecutive, now)
    assert one.state == "open"
    return one


def half_open(now: float = 4.0) -> Breaker:
    one = opened(now - SPEC.ejection_s)
    assert one.tick(now)
    assert one.state == "half_open"
    return one


def test_failures_in_a_row_open_it() -> None:
    """Two are not three, and a success in between begins the count anew; what is ignored does not."""
    one = Breaker(SPEC)
    fail(one, 2, 0.0)
    one.end(one.begin(), GOOD, 0.0)
    fail(one, 2, 0.0)
    assert not one.end(one.begin(), IGNORED, 0.0)
    assert (one.state, one.offers) == ("closed", True)
    assert one.end(one.begin(), FAILED, 0.0)
    assert (one.state, one.offers) == ("open", False)
    assert (one.until, one.opened, one.times) == (4.0, 1, 1)


def test_a_share_of_failures_opens_it() -> None:
    """Three of six in the window, never three in a row; older ones are forgotten with their part of the window."""
    for apart_s, state in ((0.5, "open"), (6.0, "closed")):
        one = Breaker(SPEC)
        for turn in range(6):
            one.end(one.begin(), FAILED if turn % 2 else GOOD, turn * apart_s)
        assert one.state == state


def test_the_whole_window_is_forgotten() -> None:
    """After a pause of more than the window nothing of it counts."""
    one = Breaker(SPEC)
    for health in (FAILED, GOOD, FAILED):
        one.end(one.begin(), health, 0.0)
    one.end(one.begin(), GOOD, 500.0)
    assert (one.calls, one.fails) == (1, 0)


def test_one_that_is_off_stays_closed() -> None:
    one = Breaker(BreakerSpec(on=False, consecutive=1, min_calls=1))
    fail(one, 50, 0.0)
    assert one.state == "closed"


def test_it_is_half_open_when_its_time_is_over() -> None:
    """Not before; and only a tick does it."""
    one = opened(10.0)
    assert not one.tick(13.9)
    assert one.tick(14.0)
    assert one.state == "half_open"
    assert one.offers


def test_so_many_successes_close_it() -> None:
    one = half_open()
    assert not one.end(one.begin(), GOOD, 5.0)
    assert one.end(one.begin(), GOOD, 6.0)
    assert one.state == "closed"
    assert (one.calls, one.fails, one.consecutive) == (0, 0, 0)


def test_one_failure_of_a_probe_opens_it_again_for_longer() -> None:
    """4 s, 8 s, 16 s, and then never more than 20 s."""
    one, now, lengths = opened(), 0.0, []
    for _ in range(5):
        lengths.append(one.until - now)
        now = one.until
        one.tick(now)
        one.end(one.begin(), FAILED, now)
    assert lengths == [4.0, 8.0, 16.0, 20.0, 20.0]


@pytest.mark.parametrize(("well_s", "length_s"), [(0.0, 16.0), (4.0, 8.0), (8.0, 4.0), (1e6, 4.0)])
def test_time_spent_closed_is_forgiven(well_s: float, length_s: float) -> None:
    """Each `ejection_s` that it was closed forgets one of the times that it opened in a row."""
    one = opened()
    one.tick(4.0)
    one.end(one.begin(), FAILED, 4.0)
    one.tick(12.0)
    for _ in range(2):
        one.end(one.begin(), GOOD, 12.0)
    assert one.state == "closed"
    fail(one, 3, 12.0 + well_s)
    assert one.until - one.since == length_s


def test_probes_are_bounded_and_come_again() -> None:
    """Two are offered each round, whether they end or not: one that hangs holds nobody up for long."""
    one = half_open(4.0)
    tickets = [one.begin(), one.begin()]
    assert not one.offers
    assert not one.end(tickets[0], IGNORED, 5.0)
    assert not one.offers
    assert not one.tick(4.0 + PROBE_EVERY_S - 0.1)
    assert not one.offers
    assert not one.tick(4.0 + PROBE_EVERY_S)
    assert one.offers
    one.end(tickets[1], GOOD, 20.0)
    assert one.end(one.begin(), GOOD, 21.0)
    assert one.state == "closed"


def test_late_answers_change_nothing() -> None:
    """Calls begun before the opening neither close a half-open one nor open it again, nor one that has closed since."""
    one = Breaker(SPEC)
    early = [one.begin() for _ in range(40)]
    fail(one, 3, 0.0)
    begun_while_open = one.begin()
    health: Health
    for health in (GOOD, FAILED):
        assert not one.end(early.pop(), health, 1.0)
    one.tick(4.0)
    for health in (GOOD, GOOD, FAILED):
        assert not one.end(early.pop(), health, 4.5)
    assert not one.end(begun_while_open, FAILED, 4.5)
    assert (one.state, one.passed) == ("half_open", 0)
    for _ in range(2):
        one.end(one.begin(), GOOD, 5.0)
    for _ in range(20):
        assert not one.end(early.pop(), FAILED, 5.5)
    assert one.state == "closed"
    assert one.calls == 0


def test_calls_that_had_no_other_arm_say_nothing_while_it_is_open() -> None:
    one = opened()
    for _ in range(10):
        assert not one.end(one.begin(), GOOD, 1.0)
        assert not one.end(one.begin(), FAILED, 1.0)
    assert (one.state, one.until) == ("open", 4.0)


class Naive:
    """The same rules told from a full record: nothing is summed up, nothing is forgotten but by looking at it again."""

    def __init__(self) -> None:
        self.state, self.since, self.until, self.times = "closed", 0.0, 0.0, 0
        self.round_at = 0.0
        self.calls: list[dict[str, object]] = []
        self.epoch = 0
        self.ended: list[tuple[float, int, int]] = []  # when, health, epoch

    def turn(self, state: str, now: float) -> None:
        self.state, self.since, self.epoch = state, now, self.epoch + 1

    def open(self, now: float) -> None:
        if self.state == "closed":
            self.times = max(0, self.times - int((now - self.since) / SPEC.ejection_s))
        self.times += 1
        self.until = now + min(SPEC.max_ejection_s, SPEC.ejection_s * 2 ** (self.times - 1))
        self.turn("open", now)

    def begin(self, now: float) -> int:
        self.calls.append({"epoch": self.epoch, "at": now, "round": self.round_at})
        return len(self.calls) - 1

    def probes_out(self) -> int:
        return sum(call["epoch"] == self.epoch and call["round"] == self.round_at for call in self.calls)

    @property
    def offers(self) -> bool:
        return self.state == "closed" or (self.state == "half_open" and self.probes_out() < SPEC.probes)

    def end(self, index: int, health: int, now: float) -> None:
        if health == IGNORED or self.calls[index]["epoch"] != self.epoch or self.state == "open":
            return
        self.ended.append((now, health, self.epoch))
        here = [(when, said) for when, said, epoch in self.ended if epoch == self.epoch]
        if self.state == "half_open":
            if health == FAILED:
                self.open(now)
            elif len(here) >= SPEC.probes:
                self.turn("closed", now)
            return
        slot_s = SPEC.window_s / SLOTS
        window = [said for when, said in here if int(now / slot_s) - int(when / slot_s) < SLOTS]
        row = 0
        for _, said in reversed(here):
            if said == GOOD:
                break
            row += 1
        often = len(window) >= SPEC.min_calls and window.count(FAILED) >= SPEC.rate * len(window)
        if health == FAILED and (row >= SPEC.consecutive or often):
            self.open(now)

    def tick(self, now: float) -> None:
        if self.state == "open" and now >= self.until:
            self.turn("half_open", now)
            self.round_at = now
        elif self.state == "half_open" and now - self.round_at >= PROBE_EVERY_S:
            self.round_at = now


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.just(0), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 10**6), st.sampled_from((GOOD, FAILED, FAILED, IGNORED))),
        st.tuples(st.just("wait"), st.integers(1, 9), st.just(0)),
    ),
    max_size=120,
)


@settings(max_examples=300)
@given(STEPS)
def test_every_order_of_events(steps: Sequence[tuple[str, int, Health]]) -> None:
    """GW-25: calls begin and end in any order, late, never, while it is open, around each change: the breaker is what a
    naive one is that keeps a full record. It only goes closed, open, half open, and from there to either; while it is open
    it offers nothing before its time; each call can be ended only once by its owner, and each end counts once."""
    one, naive, now = Breaker(SPEC), Naive(), 0.0
    running: list[tuple[int, int]] = []
    allowed = {("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("half_open", "closed")}
    for verb, number, health in steps:
        before = one.state
        generation = one.generation
        if verb == "begin":
            running.append((one.begin(), naive.begin(now)))
        elif verb == "end" and running:
            ticket, index = running.pop(number % len(running))
            changed = one.end(ticket, health, now)
            naive.end(index, health, now)
            assert changed == (one.state != before)
        elif verb == "wait":
            now += number / 2
            changed = one.tick(now)
            naive.tick(now)
            assert changed == (one.state != before)
        assert (one.state, one.offers, one.times) == (naive.state, naive.offers, naive.times)
        assert one.state == before or (before, one.state) in allowed
        assert (one.generation != generation) == (one.state != before)
        assert one.state != "open" or not one.offers
        assert one.until - one.since <= SPEC.max_ejection_s
        assert 0 <= one.fails <= one.calls


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=80))
def test_the_window_is_the_sum_of_its_parts(calls: Sequence[tuple[int, bool]]) -> None:
    """Its counts equal a recount of the calls whose part of the window has not passed."""
    spec = BreakerSpec(consecutive=10**6, min_calls=10**6, window_s=10.0)
    one, now, seen = Breaker(spec), 0.0, []
    for wait, good in calls:
        now += wait / 10
        one.end(one.begin(), GOOD if good else FAILED, now)
        seen.append((int(now), good))
        inside = [good for slot, good in seen if int(now) - slot < SLOTS]
        assert (one.calls, one.fails) == (len(inside), inside.count(False))


def test_one_that_nobody_calls_closes() -> None:
    """Half open and not called for the longest ejection; a probe that hangs is a call."""
    one = half_open(4.0)
    for now in range(5, 24):
        assert not one.tick(float(now))
    assert one.tick(24.0)
    assert (one.state, one.forgotten, one.offers) == ("closed", True, True)
    fail(one, 2, 25.0)
    assert one.state == "closed"
    called = half_open(4.0)
    for now in range(5, 100):
        called.begin()
        assert not called.tick(float(now))
    assert (called.state, called.forgotten) == ("half_open", False)


def test_one_that_probes_close_is_not_forgotten() -> None:
    one = half_open(4.0)
    for _ in range(SPEC.probes):
        one.end(one.begin(), GOOD, 5.0)
    assert (one.state, one.forgotten, Breaker(SPEC).forgotten) == ("closed", False, False)


def test_how_long_it_has_not_served() -> None:
    """From its opening to the last probe that failed, while it is open; a success begins it anew."""
    one = opened(10.0)
    assert one.out_s == 0.0
    one.tick(14.0)
    fail(one, 1, 15.0)
    assert (one.state, one.out_s) == ("open", 5.0)
    one.tick(23.0)
    assert one.out_s == 0.0
    fail(one, 1, 24.0)
    assert (one.state, one.out_s) == ("open", 14.0)
    one.tick(40.0)
    for _ in range(SPEC.probes):
        one.end(one.begin(), GOOD, 41.0)
    fail(one, SPEC.consecutive, 50.0)
    assert (one.state, one.out_s) == ("open", 0.0)


def test_the_window_of_one_that_is_not_called_empties() -> None:
    one = Breaker(SPEC)
    one.end(one.begin(), GOOD, 100.0)
    one.end(one.begin(), FAILED, 101.0)
    assert (one.recent(105.0), one.recent(111.0)) == ((2, 1), (0, 0))
