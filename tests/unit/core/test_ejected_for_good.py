"""A promoted arm that dies after hours of good service: ejected at once, rolled back when that lasts; forgotten at last."""

from collections.abc import Collection
from dataclasses import replace

import pytest

from sidecar.core.breaker import FAILED, GOOD
from sidecar.core.ejection import LASTING_S
from sidecar.core.engine import Engine
from sidecar.core.guard import BreakerStatus
from sidecar.core.policy import Route
from sidecar.core.types import Event
from tests.unit.core.engines import MINI, NANO, NOW, ROUTE, UPSTREAMS, facts, outcome, policy, promoted

POOL = replace(ROUTE, mode="optimize", arms=(MINI, NANO), sticky="request")
CANARY = replace(ROUTE, sticky="request")


def serve(made: Engine, dead: Collection[str], begin: float, until: float) -> list[Event]:
    """Ten calls and a tick a second, as the proxy makes them; calls to `dead` arms fail."""
    events: list[Event] = []
    for step in range(int((until - begin) * 10)):
        now = begin + step / 10
        asked = facts(0, draw=step * 2654435761 + 17)
        one = made.decide(asked, now)
        assert one.upstream is not None
        guard = made.guards.of(UPSTREAMS[one.upstream])
        breaker = guard.of(one.model)
        ticket = guard.begin(breaker, retry=False)
        bad = one.arm in dead
        guard.end(breaker, ticket, FAILED if bad else GOOD, now, retry=False)
        events += made.settle(asked, one, outcome("failed" if bad else "completed"), now).events
        if step % 10 == 0:
            events += made.tick(now)
    return events


def rollbacks(events: list[Event]) -> list[Event]:
    return [one for one in events if one.kind == "rollout.rolled_back"]


@pytest.mark.parametrize("route", [POOL, CANARY])
def test_one_that_stays_ejected_is_rolled_back_in_minutes(route: Route) -> None:
    """Its last units were good ones, and hardly any call reaches it: it need not fail twenty of them first."""
    made = promoted(policy(route))
    assert rollbacks(serve(made, (), NOW, NOW + 200)) == []
    died = NOW + 200
    assert rollbacks(serve(made, ("mini",), died, died + LASTING_S)) == []
    [event] = rollbacks(serve(made, ("mini",), died + LASTING_S, died + LASTING_S + 60))
    assert (event.arm, event.severity) == ("mini", "critical")
    assert "it still failed when it was tried after 2" in event.message


def test_one_that_comes_back_stays() -> None:
    """An outage of two minutes costs no promotion."""
    made = promoted(policy(POOL))
    events = serve(made, (), NOW, NOW + 60)
    events += serve(made, ("mini",), NOW + 60, NOW + 180)
    events += serve(made, (), NOW + 180, NOW + 600)
    assert [one.message for one in rollbacks(events)] == []
    assert [arm.breaker for arm in made.status()[0].arms] == ["closed"] * 3


def test_an_outage_of_everything_is_not_the_arms_fault() -> None:
    """The arm that is ejected is not rolled back for that while the arms that serve fail too."""
    made = promoted(policy(POOL))
    events = serve(made, (), NOW, NOW + 60)
    events += serve(made, ("mini", "nano", "gpt-4o"), NOW + 60, NOW + 900)
    assert not [one.message for one in rollbacks(events) if "when it was tried" in one.message]
    assert made.routes[0].ejection.lasts("nobody") is None


def test_nobody_calls_it_any_more_and_its_breaker_closes() -> None:
    """Rolled back, it gets no call that could close it: it is told once, and not shown as half open for ever."""
    made = promoted(policy(POOL))
    events = serve(made, (), NOW, NOW + 60)
    events += serve(made, ("mini",), NOW + 60, NOW + 90)
    assert made.status()[0].arms[1].breaker == "open"
    made.rollback("support", NOW + 90)  # the arm promoted last, nano: only mini is left to be taken out
    events = [*made.rollback("support", NOW + 90), *serve(made, (), NOW + 90, NOW + 800)]
    assert made.status()[0].arms[1].breaker == "closed"
    [told] = [one for one in events if one.kind == "breaker.closed"]
    assert "nobody calls it any more" in told.message
    assert made.guards.unwell == {}


def told(*rows: tuple[str, int, float]) -> list[BreakerStatus]:
    """What workers say of mini: state, calls of the window, seconds that it is out."""
    return [BreakerStatus("cheap", MINI.model, state, 1, 0.0, calls, 0, out_s) for state, calls, out_s in rows]


@pytest.mark.parametrize(
    ("rows", "shown", "out"),
    [
        ((("open", 0, 200.0), ("open", 0, 200.0)), "open 2/2", True),
        ((("open", 0, 200.0), ("half_open", 3, 0.0)), "open 1/2", True),
        ((("open", 0, 200.0), ("closed", 0, 0.0)), "open 1/2", True),  # nobody called the other one: it knows nothing
        ((("open", 0, 200.0), ("closed", 9, 0.0)), "open 1/2", False),
        ((("open", 0, 100.0), ("open", 0, 170.0)), "open 2/2", False),
        ((("half_open", 0, 0.0), ("closed", 9, 0.0)), "half_open 1/2", False),
        ((("closed", 9, 0.0), ("closed", 9, 0.0)), "closed", False),
    ],
)
def test_where_others_serve_they_say_so(rows: tuple[tuple[str, int, float], ...], shown: str, out: bool) -> None:
    """The process that learns has no breaker that ever opens: it shows and judges by those of its workers."""
    made = promoted(policy(POOL))
    serve(made, (), NOW, NOW + 60)
    on_mini = made.decide(facts(0, pinned="mini"), NOW + 60)
    made.settle(facts(0), on_mini, outcome("failed"), NOW + 60)  # its newest call, of too few to trip a brake
    made.guards.hear(told(*rows))
    events = made.tick(NOW + 70)
    assert [arm.breaker for arm in made.status()[0].arms] == ["closed", shown, "closed"]
    assert bool(rollbacks(events)) is out
