"""Arms whose breaker is open are not offered where another may serve; never the last."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.breaker import FAILED, GOOD, BreakerSpec
from sidecar.core.ejection import Ejection
from sidecar.core.engine import Engine
from sidecar.core.guard import Guards, GuardSpec
from sidecar.core.policy import Arm, ExperimentSpec, Fallback, Route, Threshold, Variant
from sidecar.core.retry_budget import RetrySpec
from sidecar.core.types import Clocks, Decision
from tests.unit.core.engines import (
    BASE,
    HAIKU,
    MINI,
    NANO,
    NOW,
    ROUTE,
    UPSTREAMS,
    engine,
    facts,
    fall_back,
    kinds,
    outcome,
    policy,
    promoted,
)

ARMS = replace(ROUTE, mode="optimize", arms=(MINI, NANO))
IDS = ("gpt-4o", "mini", "nano")


def shut(guards: Guards, *arms: Arm, now: float = NOW) -> None:
    """Opens the breakers of these arms, in this order."""
    for later, arm in enumerate(arms):
        guard = guards.of(UPSTREAMS[arm.upstream])
        breaker = guard.own(arm.model)
        while breaker.state != "open":
            guard.end(breaker, guard.begin(breaker, retry=False), FAILED, now + later, retry=False)


def heal(guards: Guards, arm: Arm, now: float) -> None:
    guard = guards.of(UPSTREAMS[arm.upstream])
    breaker = guard.own(arm.model)
    guards.tick(now)
    while breaker.state != "closed":
        guard.end(breaker, guard.begin(breaker, retry=False), GOOD, now, retry=False)


def test_an_open_arm_is_not_offered() -> None:
    """The choice is made among the others with probabilities of their own, and the row says why."""
    made = promoted(policy(ARMS))
    shut(made.guards, MINI)
    for key in range(1, 60):
        one = made.decide(facts(key), NOW)
        assert one.arm in ("gpt-4o", "nano")
        assert one.eligible == ("gpt-4o", "nano")
        assert one.left_out == (("mini", "breaker"),)
        assert 0.0 < one.propensity <= 1.0
    assert [arm.breaker for arm in made.status()[0].arms] == ["closed", "open", "closed"]
    heal(made.guards, MINI, NOW + 100)
    assert made.decide(facts(99), NOW + 100).eligible == IDS


def test_a_conversation_gets_another_arm_and_keeps_it() -> None:
    """It does not flap back when the breaker closes."""
    made = promoted(policy(replace(ARMS, arms=(MINI,))))
    bound = next(key for key in range(1, 200) if made.decide(facts(key), NOW).arm == "mini")
    shut(made.guards, MINI)
    assert made.decide(facts(bound), NOW).arm == "gpt-4o"
    heal(made.guards, MINI, NOW + 100)
    again = made.decide(facts(bound), NOW + 100)
    assert (again.arm, again.reason) == ("gpt-4o", "sticky")


def test_state_is_where_it_is() -> None:
    """A call that carries an arm's state goes there: no other arm could serve it."""
    made = promoted(policy(ARMS))
    shut(made.guards, MINI)
    one = made.decide(facts(pinned="mini", stateful=True), NOW)
    assert (one.arm, one.reason, one.left_out) == ("mini", "pinned", ())


def test_never_the_last() -> None:
    """With every arm open all established ones stay; so does the only one that rules left."""
    made = promoted(policy(ARMS))
    shut(made.guards, BASE, MINI, NANO)
    served = {made.decide(facts(key), NOW).arm for key in range(1, 80)}
    assert served <= {"nano"}  # two of three may be out: the one that has failed for the shortest time serves
    alone = engine(policy(ROUTE))
    shut(alone.guards, BASE)
    arms = {alone.decide(facts(key), NOW).arm for key in range(1, 200)}
    assert arms == {"gpt-4o", "mini"}  # the canary keeps its share, and gets no more


def test_traffic_is_not_sent_to_an_arm_that_was_not_tried() -> None:
    """The baseline is open and only a canary is left: everybody but its own share stays with the baseline."""
    made = engine(policy(ROUTE))
    before = [made.decide(facts(key), NOW).arm for key in range(1, 400)]
    fresh = engine(policy(ROUTE))
    shut(fresh.guards, BASE)
    assert [fresh.decide(facts(key), NOW).arm for key in range(1, 400)] == before


def test_an_open_canary_is_judged_by_its_rollout() -> None:
    """It keeps its share, and its calls count: without them nothing would ever take it out."""
    before = [engine(policy(ROUTE)).decide(facts(key), NOW).rollout_id for key in range(1, 200)]
    made = engine(policy(ROUTE))
    shut(made.guards, MINI)
    served = [made.decide(facts(key), NOW) for key in range(1, 200)]
    assert {one.arm for one in served} == {"gpt-4o", "mini"}
    assert [one.rollout_id for one in served] == before


def test_an_experiment_waits_while_a_variant_is_open() -> None:
    """Nobody is drawn, so the variants are compared on the same traffic."""
    spec = ExperimentSpec(variants=(Variant("a", "gpt-4o"), Variant("b", "mini")))
    made = engine(policy(ROUTE, mode="ab", rollout=None, experiment=spec))
    assert any(made.decide(facts(key), NOW).rollout_id for key in range(1, 20))
    shut(made.guards, MINI)
    served = [made.decide(facts(key), NOW) for key in range(100, 130)]
    assert {(one.arm, one.rollout_id) for one in served} == {("gpt-4o", None)}


def test_a_threshold_does_not_send_traffic_to_an_open_arm() -> None:
    """Two are breached, and the arm of the first is open: the traffic goes to the second's."""
    slow = Threshold("slow", "latency_p95", 2.0, None, 60.0, "high", "route_to", "mini", 3)
    made = engine(policy(replace(ROUTE, arms=(MINI, NANO), thresholds=(slow, replace(slow, name="too", arm="nano")))))
    plain = facts(0, draw=2**63 - 1, stream=False)
    late = outcome(stream=False, clocks=Clocks(sent_s=0.0, duration_s=5.0))
    for number, one in enumerate([made.decide(plain, NOW) for _ in range(5)]):
        made.settle(plain, one, late, NOW + number)
    assert made.decide(plain, NOW + 6).arm == "mini"
    shut(made.guards, MINI)
    diverted = made.decide(plain, NOW + 6)
    assert (diverted.arm, diverted.reason) == ("nano", "threshold")


@pytest.mark.parametrize(("share", "out"), [(0.0, 1), (0.5, 1), (0.75, 2), (1.0, 2)])
def test_a_share_of_the_arms_at_most(share: float, out: int) -> None:
    """One always may be out; those that have been open for longest are; one established arm always stays."""
    guards = Guards(GuardSpec(breaker=BreakerSpec(max_ejected=share)))
    made = Ejection(ARMS, UPSTREAMS, guards)
    shut(guards, NANO, MINI)
    left = made.offered(IDS, IDS)
    assert len(left) == 3 - out
    assert "nano" not in left
    assert "gpt-4o" in left


def test_without_an_established_arm_nothing_is_taken_out() -> None:
    guards = Guards()
    made = Ejection(ARMS, UPSTREAMS, guards)
    shut(guards, MINI)
    assert made.offered(("mini", "nano"), ("gpt-4o",)) == ("mini", "nano")


def test_arms_without_an_upstream_are_left_alone() -> None:
    """A policy in a test, or one that is replayed, may have none."""
    guards = Guards()
    made = Ejection(ARMS, {"cheap": UPSTREAMS["cheap"]}, guards)
    shut(guards, MINI)
    assert made.offered(IDS, IDS) == ("gpt-4o", "nano")
    assert made.may_retry("gpt-4o")
    assert made.state_of("gpt-4o") == "closed"
    assert made.state_of("mini") == "open"


def test_probes_are_offered_while_it_is_half_open() -> None:
    """Three calls each round, as they are begun; then nobody until the next round."""
    made = promoted(policy(ARMS))
    shut(made.guards, MINI)
    made.tick(NOW + 31)
    guard = made.guards.of(UPSTREAMS["cheap"])
    for _ in range(3):
        assert made.decide(facts(7, key_source="request"), NOW + 31).eligible == IDS
        guard.begin(guard.own("gpt-4o-mini"), retry=False)
    assert made.decide(facts(8), NOW + 31).eligible == ("gpt-4o", "nano")
    made.tick(NOW + 37)
    assert made.decide(facts(9), NOW + 37).eligible == IDS


def test_events_come_with_the_tick() -> None:
    made = promoted(policy(ARMS))
    made.tick(NOW)
    shut(made.guards, MINI)
    assert "breaker.opened" in kinds(made.tick(NOW + 1))


# ---- fallbacks


def falling(floor: int = 10) -> Engine:
    spec = Fallback(("mini", "nano"), ("connect", "5xx"), 2)
    route = replace(ARMS, fallback=spec)
    guards = Guards(GuardSpec(retry=RetrySpec(0.2, floor)))
    made = Engine(policy(route), np.random.default_rng(1), NOW, guards=guards)
    for _ in range(2):
        while any(one.phase == "running" for one in made.status()[0].rollouts):
            made.promote("support", NOW)
        made.tick(NOW)
    return made


def on_baseline(made: Engine) -> tuple[int, Decision]:
    return next((key, one) for key in range(1, 500) if (one := made.decide(facts(key), NOW)).arm == "gpt-4o")


def test_a_fallback_skips_arms_that_are_open() -> None:
    """The next one that is listed is taken; with all of them open there is none, and nothing is learnt twice."""
    made = falling()
    key, first = on_baseline(made)
    shut(made.guards, MINI)
    second = fall_back(made, facts(key), first, "503", NOW)
    assert second is not None
    assert second.arm == "nano"
    shut(made.guards, NANO)
    assert fall_back(made, facts(key), first, "503", NOW) is None
    assert made.guards.of(UPSTREAMS["cheap"]).budget.denied == 2


def test_a_fallback_stays_within_the_retry_budget() -> None:
    """Two are under way to the cheap upstream: the third goes to the other one, and then there is none."""
    made = falling(floor=2)
    key, first = on_baseline(made)
    guard, breaker = made.guards.of(UPSTREAMS["cheap"]), made.guards.of(UPSTREAMS["cheap"]).own("gpt-4o-mini")
    arms = []
    for _ in range(4):
        one = fall_back(made, facts(key), first, "connect", NOW)
        arms.append(None if one is None else one.arm)
        if one is not None and one.arm == "mini":
            guard.begin(breaker, retry=True)
    assert arms == ["mini", "mini", "mini", "nano"]  # 2 < 2 + 0.2 x 2, and 3 is not below 2 + 0.2 x 3
    assert guard.budget.denied == 1
    assert made.may_retry("support", "nano")
    assert not made.may_retry("support", "mini")
    assert made.may_retry("gone", "mini")


# ---- every order


ROUTES = (replace(ARMS, arms=(MINI, NANO, HAIKU)), replace(ROUTE, arms=(MINI, NANO)))


@settings(max_examples=60)
@given(
    st.sampled_from(ROUTES),
    st.lists(
        st.one_of(
            st.tuples(st.just("call"), st.integers(1, 40), st.sampled_from((GOOD, FAILED))),
            st.tuples(st.just("burst"), st.integers(0, 3), st.just(0)),
            st.tuples(st.just("wait"), st.integers(1, 40), st.just(0)),
        ),
        max_size=60,
    ),
)
def test_somebody_serves_whatever_is_open(route: Route, steps: list[tuple[str, int, int]]) -> None:
    """GW-25, seen from a route: whatever opened in whatever order, each call gets an arm that can serve it, at least one
    established arm stays in the choice, no more than the share is out, and calls that were refused or lost are none."""
    made, now, held = promoted(policy(route)), NOW, []
    for verb, number, said in steps:
        if verb == "wait":
            now += number
            made.tick(now)
        elif verb == "burst":
            arm = route.all_arms[number % len(route.all_arms)]
            shut(made.guards, arm, now=now)
        else:
            one = made.decide(facts(number), now)
            assert one.refusal is None
            assert one.arm is not None
            assert one.reason != "fail-open"
            assert one.arm in one.eligible
            assert one.upstream is not None
            assert any(arm in made.routes[0].staging.pool for arm in one.eligible)
            speaking = [arm for arm in route.all_arms if arm.upstream != "claude"]
            assert len(speaking) - len(one.eligible) <= max(1, int(0.75 * len(route.all_arms)))
            guard = made.guards.of(UPSTREAMS[one.upstream])
            breaker = guard.of(one.model)
            held.append((guard, breaker, guard.begin(breaker, retry=False), said))
            if number % 3 == 0:
                guard, breaker, ticket, late = held.pop(number % len(held))
                guard.end(breaker, ticket, FAILED if late == FAILED else GOOD, now, retry=False)


def test_a_policy_without_an_arm_forgets_its_breaker() -> None:
    """Nobody would call it any more, so that it would be open or half open, and told so, for ever."""
    made = promoted(policy(ARMS))
    shut(made.guards, MINI, NANO)
    assert {one.model for one in made.guards.unwell} == {MINI.model, NANO.model}
    made.apply(policy(replace(ARMS, arms=(NANO,))), NOW)
    assert {one.model for one in made.guards.unwell} == {NANO.model}
    assert all(one.model != MINI.model for one in made.guards.status(NOW))
