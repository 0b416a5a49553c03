"""Decisions that take too long are ended, and only these."""

import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from sidecar.core.types import Facts
from sidecar.proxy import watchdog as module
from sidecar.proxy.watchdog import REST_S, Stalled, Watchdog

FACTS = Facts(endpoint="chat", dialect="openai", path="/v1/chat/completions", model="m", stream=False, key=0)


@pytest.fixture
def no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """No signals but those that a test sends, however slow the machine is."""
    monkeypatch.setattr(module, "EVERY_S", 3600.0)


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    before = signal.getsignal(signal.SIGALRM)
    made = Watchdog()
    made.start()
    yield made
    made.stop()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def loops(_facts: Facts) -> str:
    while True:
        pass


def sleeps(_facts: Facts) -> str:
    time.sleep(60.0)
    return "slept"


def alarmed(times: int) -> Callable[[Facts], str]:
    """A decision in which so many signals come."""

    def decide(_facts: Facts) -> str:
        for _ in range(times):
            signal.raise_signal(signal.SIGALRM)
        return "decided"

    return decide


@pytest.mark.parametrize("decide", [loops, sleeps])
def test_a_decision_that_does_not_end_is_ended(watchdog: Watchdog, decide: Callable[[Facts], str]) -> None:
    """By the timer alone: nobody else could."""
    with pytest.raises(Stalled):
        watchdog.ask(decide, FACTS)


@pytest.mark.usefixtures("no_timer")
def test_the_engine_rests_behind_a_stall(watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module, "steady", lambda: now)
    asked: list[Facts] = []
    assert watchdog.notes() == []
    with pytest.raises(Stalled):
        watchdog.ask(alarmed(2), FACTS)
    now += REST_S - 1.0
    assert watchdog.ask(asked.append, FACTS) is None
    assert asked == []
    assert watchdog.notes() == ["the engine stalled: for 1 s calls go to the app's own model"]
    assert watchdog.watch(alarmed(0), FACTS) == "decided"
    with pytest.raises(Stalled):
        watchdog.watch(alarmed(2), FACTS)
    now += REST_S
    watchdog.ask(asked.append, FACTS)
    assert asked == [FACTS]
    assert watchdog.notes() == []


@pytest.mark.usefixtures("no_timer")
def test_one_signal_ends_nothing(watchdog: Watchdog) -> None:
    """It may come just behind the question, or behind hours in which the process was stopped."""
    for _ in range(3):
        assert watchdog.ask(alarmed(1), FACTS) == "decided"


@pytest.mark.usefixtures("no_timer")
def test_a_large_body_may_be_read(watchdog: Watchdog) -> None:
    """For a tenth of a second more for each megabyte."""
    large = Facts(**{name: getattr(FACTS, name) for name in FACTS.__struct_fields__} | {"input_bytes": 3 << 20})
    assert watchdog.ask(alarmed(4), large) == "decided"
    with pytest.raises(Stalled):
        watchdog.ask(alarmed(5), large)


@pytest.mark.usefixtures("no_timer")
def test_an_engine_that_raises(watchdog: Watchdog) -> None:
    """What it raises comes through, and signals behind it find nothing."""

    def raises(_facts: Facts) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        watchdog.ask(raises, FACTS)
    for _ in range(3):
        signal.raise_signal(signal.SIGALRM)


def test_an_idle_process_is_left_alone(watchdog: Watchdog) -> None:
    """One signal comes behind the last decision, and no other; the next decision sets the timer again."""
    for _ in range(2):
        assert watchdog.ask(alarmed(0), FACTS) == "decided"
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0.0
        for _ in range(1000):
            if signal.getitimer(signal.ITIMER_REAL)[0]:
                time.sleep(0.01)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_without_signals_it_waits() -> None:
    """Before its start, and in other threads, which may not handle signals."""
    waits = Watchdog()
    found = [waits.ask(lambda _facts: "decided", FACTS)]

    def elsewhere() -> None:
        waits.start()
        found.append(waits.ask(lambda _facts: "decided", FACTS))
        waits.stop()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == ["decided", "decided"]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_two_of_them(watchdog: Watchdog) -> None:
    """The later one watches, and goes on when the earlier one stops: without it the timer's signal would end the process."""
    later = Watchdog()
    later.start()
    watchdog.stop()
    with pytest.raises(Stalled):
        later.ask(loops, FACTS)
    assert watchdog.ask(alarmed(0), FACTS) == "decided"
    later.stop()
