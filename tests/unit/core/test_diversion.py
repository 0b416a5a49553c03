"""Several breached thresholds: the first arm that may get the traffic does."""

from dataclasses import replace

from msgspec.structs import replace as with_

from sidecar.core.engine import Engine
from sidecar.core.policy import Policy, Threshold
from sidecar.core.types import Clocks
from tests.unit.core.engines import MINI, NANO, NOW, ROUTE, UPSTREAMS, engine, facts, outcome, policy, rule
from tests.unit.core.test_following import Crew

SLOW = Threshold("slow", "latency_p95", 2.0, None, 60.0, "high", "route_to", "mini", 3)
SLOWER = replace(SLOW, name="slower", arm="nano")
BOTH = replace(ROUTE, arms=(MINI, NANO), thresholds=(SLOW, SLOWER))
PLAIN = facts(0, draw=2**63 - 1, stream=False)


def breached(made: Engine) -> Engine:
    """Both thresholds are: their arms have not served a call, the baseline's took five seconds each."""
    slow = outcome(stream=False, clocks=Clocks(sent_s=0.0, duration_s=5.0))
    decisions = [made.decide(PLAIN, NOW) for _ in range(5)]
    for number, decision in enumerate(decisions):
        made.settle(PLAIN, decision, slow, NOW + number)
    assert [one.level for one in made.status()[0].thresholds] == ["breached", "breached"]
    return made


def test_the_first_of_two_gets_the_traffic() -> None:
    made = breached(engine(policy(BOTH)))
    assert made.status()[0].diverted_to == "mini"
    assert made.decide(PLAIN, NOW + 6).arm == "mini"


def test_readiness_tells_of_the_breach_and_shares_of_where_calls_go() -> None:
    """`/ready` has metric, value and limit, and nothing of it while no limit is breached."""
    made = engine(policy(BOTH))
    assert not [text for text in made.explanations() if "threshold" in text]
    breached(made).tick(NOW + 5)
    assert [text for text in made.explanations() if "threshold" in text] == [
        "On this pod, on route support, threshold slow: breached, latency_p95 5.003 s, limit 2 s, 5 calls.",
        "On this pod, on route support, threshold slower: breached, latency_p95 5.003 s, limit 2 s, 5 calls.",
        "On this pod, thresholds send the calls of route support to mini.",
    ]
    assert {arm.id: arm.share for arm in made.status()[0].arms} == {"gpt-4o": 0.0, "mini": 1.0, "nano": 0.0}


def test_where_a_rule_denies_the_first_the_second_is_tried() -> None:
    when = "change.kind == 'threshold.route_to' && change.arm == 'mini'"
    made = breached(engine(Policy("bot", "v1", UPSTREAMS, (BOTH,), (rule(when),))))
    assert made.status()[0].diverted_to == "nano"
    decision = made.decide(PLAIN, NOW + 6)
    assert (decision.arm, decision.reason) == ("nano", "threshold")


def test_a_breach_that_another_policy_or_process_finds_is_asked_about_and_told_too() -> None:
    """The traffic goes elsewhere by a rule that came later: that is told at the next tick, once."""
    before, rules = breached(engine(policy(BOTH))), rule("change.kind == 'threshold.route_to' && change.arm == 'mini'")
    after = engine(policy(BOTH, rules))
    after.restore(before.snapshot(), NOW + 5)
    before.apply(policy(BOTH, rules), NOW + 5)
    for made in (before, after):
        assert made.decide(PLAIN, NOW + 6).arm == "nano"
        told = [event for event in made.tick(NOW + 6) if event.kind == "change.denied"]
        assert [(event.route, event.arm) for event in told] == [("support", "mini")]
        assert "a threshold is breached; denied: " in told[0].message
        assert made.decide(PLAIN, NOW + 7).arm == "nano"
        assert [event for event in made.tick(NOW + 7) if event.kind == "change.denied"] == []


def test_where_a_request_may_not_use_the_first_it_uses_the_second() -> None:
    """A rule about requests leaves mini out for one region only."""
    made = breached(engine(policy(BOTH, rule("model.id == 'mini' && user.region == 'US'"))))
    assert made.decide(facts(0, stream=False, tags={"region": "EU"}), NOW + 6).arm == "mini"
    assert made.decide(facts(0, stream=False, tags={"region": "US"}), NOW + 6).arm == "nano"


def test_an_arm_that_was_rolled_back_is_passed_over() -> None:
    made = engine(policy(BOTH))
    made.rollback("support", NOW)
    breached(made)
    assert made.status()[0].diverted_to == "nano"


def test_followers_ask_rules_again_about_each_breach() -> None:
    """As their leader does: what was right for one breach is denied for the next by a rule about the day's cost."""
    made = policy(BOTH, rule("change.kind == 'threshold.route_to' && daily_cost > 0.000005"))
    crew = Crew(made)
    for second, expected in ((0, "mini"), (600, None)):
        fill(crew.leader, 5.0, NOW + second)
        crew.tell(NOW + second)
        assert crew.leader.status()[0].diverted_to == expected
        assert crew[0].decide(PLAIN, NOW + second).arm == (expected or "gpt-4o")
        fill(crew.leader, 0.1, NOW + second + 300)
        crew.leader.tick(NOW + second + 300)
        crew.tell(NOW + second + 300)
        assert crew.leader.status()[0].diverted_to is None
        assert crew[0].decide(PLAIN, NOW + second + 300).arm == "gpt-4o"


def fill(made: Engine, duration_s: float, now: float) -> None:
    """Calls of the baseline that took so long."""
    for number in range(5):
        decision = with_(made.decide(PLAIN, now), arm="gpt-4o")
        ended = outcome(stream=False, clocks=Clocks(sent_s=0.0, duration_s=duration_s))
        made.settle(PLAIN, decision, ended, now + number)
