"""What protects an upstream: breakers by model, retries, limit; and what is told of them."""

import pytest
from msgspec.structs import replace

from sidecar.core.breaker import FAILED, GOOD, IGNORED, BreakerSpec
from sidecar.core.guard import MAX_MODELS, MAX_UNTOLD, REST, Guard, Guards, GuardSpec, health_of, health_of_trigger
from sidecar.core.types import Clocks
from tests.unit.core.engines import UPSTREAMS, kinds, outcome

OPENAI = UPSTREAMS["openai"]
SPEC = GuardSpec(breaker=BreakerSpec(consecutive=2, probes=1, ejection_s=4.0))


def call(guard: Guard, model: str, said: int, now: float = 0.0) -> None:
    breaker = guard.of(model)
    ticket = guard.begin(breaker, retry=False)
    guard.end(breaker, ticket, FAILED if said == FAILED else GOOD, now, retry=False)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "completed"}, GOOD),
        ({"kind": "failed", "status": 500, "error": "upstream_status"}, FAILED),
        ({"kind": "failed", "status": 429, "error": "upstream_status"}, FAILED),
        ({"kind": "failed", "status": 0, "error": "timeout_connect"}, FAILED),
        ({"kind": "failed", "status": 502, "error": "tls"}, FAILED),
        ({"kind": "failed", "status": 200, "error": "truncated"}, FAILED),
        ({"kind": "failed", "status": 500, "error": "upstream_status", "caller_fault": True}, IGNORED),
        ({"kind": "failed", "status": 400, "error": "upstream_status", "caller_fault": True}, IGNORED),
        ({"kind": "aborted", "error": "client_closed"}, IGNORED),
        ({"kind": "failed", "status": 503, "error": "shed"}, IGNORED),
        ({"kind": "failed", "status": 408, "error": "timeout_body"}, IGNORED),
    ],
)
def test_what_an_end_says_of_the_upstream(fields: dict[str, object], said: int) -> None:
    """GW-24: no connection, TLS, timeouts, 5xx and 429 are failures of the upstream; a caller's mistake, a client that left
    and what the sidecar refuses are not."""
    assert health_of(outcome(**fields)) == said  # type: ignore[arg-type]  # fields of one case


@pytest.mark.parametrize(
    ("trigger", "said"),
    [("connect", FAILED), ("timeout", FAILED), ("503", FAILED), ("429", FAILED), ("408", FAILED), ("404", IGNORED)],
)
def test_what_a_fallback_says_of_the_upstream(trigger: str, said: int) -> None:
    assert health_of_trigger(trigger) == said


def test_models_have_breakers_of_their_own() -> None:
    """One that fails opens alone. Models that no arm names share one, however many clients invent."""
    guards = Guards(SPEC)
    guard = guards.of(OPENAI)
    one, two = guard.own("one"), guard.own("two")
    assert guard.own("one") is one
    for _ in range(2):
        call(guard, "one", FAILED)
    assert (one.state, two.state) == ("open", "closed")
    assert guards.unwell == {one: guard}
    assert guard.of("invented") is guard.of(None) is guard.rest
    assert [breaker.model for breaker in guard.breakers] == ["one", "two", REST]


def test_breakers_are_bounded() -> None:
    guard = Guards(SPEC).of(OPENAI)
    for number in range(MAX_MODELS + 5):
        guard.own(f"model-{number}")
    assert len(guard.breakers) == MAX_MODELS + 1
    assert guard.own("one more") is guard.rest


def test_changes_are_told_once_and_in_order() -> None:
    """Opened, half open, closed: with what there is to know, and no word of a request."""
    guards = Guards(SPEC)
    guard = guards.of(OPENAI)
    guard.own("one")
    for _ in range(2):
        call(guard, "one", FAILED, 10.0)
    events = guards.tick(10.0)
    assert kinds(events) == ["breaker.opened"]
    assert events[0].severity == "high"
    assert events[0].detail == {
        "upstream": "openai", "model": "one", "times": 1, "seconds": 4.0, "in_a_row": 2, "calls": 2, "failed": 2,
    }  # fmt: skip
    assert "2 failures in a row, 2 of the last 2 calls; not offered for 4 s" in events[0].message
    assert guards.tick(13.9) == []
    assert kinds(guards.tick(14.0)) == ["breaker.half_open"]
    call(guard, "one", GOOD, 14.5)
    assert guards.unwell == {}
    assert kinds(guards.tick(15.0)) == ["breaker.closed"]


def test_what_nobody_asks_for_is_bounded() -> None:
    guards = Guards(SPEC)
    guard = guards.of(OPENAI)
    for number in range(MAX_MODELS):
        guard.own(str(number))
        call(guard, str(number), FAILED)
        call(guard, str(number), FAILED)
    call(guard, "rest", FAILED)
    call(guard, "rest", FAILED)
    assert len(guards.tick(0.0)) == MAX_UNTOLD


def test_an_upstream_that_is_gone_is_forgotten() -> None:
    """Its last calls end without a trace; one that stays keeps its state; the same name elsewhere begins anew."""
    guards = Guards(SPEC)
    gone, stays = guards.of(OPENAI), guards.of(UPSTREAMS["cheap"])
    for guard in (gone, stays):
        guard.own("one")
        call(guard, "one", FAILED)
        call(guard, "one", FAILED)
    guards.tick(0.0)
    guards.keep([UPSTREAMS["cheap"]])
    assert list(guards.unwell.values()) == [stays]
    assert guards.all == (stays,)
    late = gone.of("two")
    ticket = gone.begin(late, retry=True)
    gone.end(late, ticket, FAILED, 1.0, retry=True)
    call(gone, "two", FAILED, 1.0)
    assert late.state == "open"
    assert guards.tick(1.0) == []
    assert guards.of(OPENAI) is not gone


def test_what_is_under_way_is_counted() -> None:
    guard = Guards(SPEC).of(OPENAI)
    breaker = guard.of("one")
    tickets = [guard.begin(breaker, retry=retry) for retry in (False, True)]
    assert (guard.budget.active, guard.budget.retries) == (2, 1)
    guard.end(breaker, tickets[1], IGNORED, 0.0, retry=True)
    assert (guard.budget.active, guard.budget.retries) == (1, 0)


def test_status_is_for_people() -> None:
    guards = Guards(SPEC)
    guard = guards.of(OPENAI)
    guard.own("one")
    call(guard, "one", FAILED)
    call(guard, "one", FAILED)
    one, rest = guards.status(1.0)
    assert (one.state, one.left_s, one.opened, one.calls, one.fails) == ("open", 3.0, 1, 2, 2)
    assert one.text() == "The breaker of one at openai is open; it is tried again in 3 s."
    assert (rest.model, rest.state, rest.left_s) == ("*", "closed", 0.0)
    guards.tick(4.0)
    assert guards.status(4.0)[0].text() == "The breaker of one at openai is half open."


def test_the_limit_learns_from_ends() -> None:
    """From 429, 503, 529 and refused connections less; from first bytes of streams; never from a client that left."""
    clocks = Clocks(sent_s=0.1, ttfb_s=0.4, duration_s=2.0)
    off = Guards(GuardSpec()).of(OPENAI)
    off.learn(outcome(status=503), 5, 0.0)
    assert off.limit is None
    for status, error in ((429, "upstream_status"), (503, "upstream_status"), (529, "upstream_status"), (0, "connect")):
        guard = Guards(GuardSpec(limit="overload")).of(OPENAI)
        assert guard.limit is not None
        guard.learn(outcome("aborted", status=status), 50, 0.0)
        guard.learn(outcome("failed", status=500, error="upstream_status", clocks=clocks), 50, 0.0)
        for ours in ("shed", "shutdown"):  # answered with 503 by us, while it waited for its turn
            guard.learn(outcome("failed", status=503, error=ours, clocks=Clocks()), 50, 0.0)
        assert guard.limit.value == float("inf")
        guard.learn(outcome("failed", status=status, error=error), 50, 0.0)
        assert guard.limit.value == 45.0
    guard = Guards(GuardSpec(limit="gradient")).of(OPENAI)
    assert guard.limit is not None
    for turn in range(16):
        good = outcome(clocks=clocks)
        for unknown in (replace(good, stream=False), replace(good, clocks=Clocks(sent_s=0.1))):
            guard.learn(unknown, 1, float(turn))
        guard.learn(replace(good, clocks=Clocks(sent_s=0.5, ttfb_s=0.5)), 1, float(turn))
        assert guard.limit.usual_s is None
        guard.learn(good, 1, float(turn))
    assert guard.limit.usual_s == pytest.approx(0.3)


def test_the_limit_learns_from_what_a_fallback_took_over() -> None:
    """A 429 that another arm serves is the upstream's word all the same; what is no status says nothing of load."""
    for trigger, value in (("429", 45.0), ("503", 45.0), ("500", float("inf")), ("connect", float("inf"))):
        guard = Guards(GuardSpec(limit="overload")).of(OPENAI)
        guard.failed_over(trigger, 50, 0.0)
        assert guard.limit is not None
        assert guard.limit.value == value
    off = Guards(GuardSpec()).of(OPENAI)
    off.failed_over("429", 50, 0.0)
    assert off.limit is None


def test_models_that_no_arm_names_any_more_are_forgotten() -> None:
    """However often a policy changes: their breakers do not stay open for ever, nor use up those of new models."""
    guards = Guards(SPEC)
    guard, other = guards.of(OPENAI), guards.of(UPSTREAMS["cheap"])
    old = guard.own("old")
    other.own("old")
    for _ in range(2):
        call(guard, "old", FAILED)
    ticket = guard.begin(old, retry=False)
    assert guards.unwell == {old: guard}
    for turn in range(2 * MAX_MODELS):
        guard.own(f"m{turn}")
        guards.name({OPENAI: {f"m{turn}"}})
    assert guards.unwell == {}
    assert [one.model for one in guard.breakers] == [f"m{2 * MAX_MODELS - 1}", REST]
    assert other.breakers == (other.rest,)
    old.tick(4.0)
    guard.end(old, ticket, FAILED, 5.0, retry=False)
    late = guard.begin(old, retry=False)
    guard.end(old, late, FAILED, 5.0, retry=False)  # its state changes, and nobody is told
    assert (guards.unwell, guard.budget.active) == ({}, 0)
