"""Which rules are asked about changes, and what they answer."""

import pytest

from sidecar.core.governance import Governance
from sidecar.core.policy import Arm, Rule
from sidecar.core.rules import parse
from tests.unit.core.engines import NOW, ROUTE, engine, facts, policy, rule

MINI = Arm("mini", "up", "gpt-4o-mini", facts={"region": "EU"})
STEP = {"kind": "rollout.step", "route": "chat", "arm": "mini", "step": 25.0}


def governance(when: str, action: str = "deny", message: str = "no") -> Governance:
    return Governance([Rule("r1", parse(when), when, action, message)])  # type: ignore[arg-type]  # one of three actions


@pytest.mark.parametrize(
    ("when", "denied"),
    [
        ("change.kind == 'rollout.step' && change.step > 5", True),
        ("change.kind == 'tuning.temperature'", False),
        ("change.route == 'chat' && model.region != 'US'", True),
        ("change.size > 5", True),  # a fact that is not known: rules fail closed
        ("model.region != 'EU'", False),
        ("model.region == 'EU'", True),  # no request may use it, so it is not rolled out either
        ("model.tier == 'free'", True),
        ("daily_cost > 10", True),
        ("daily_cost > 1000", False),
        ("monthly_cost > 100", True),
        ("user.region == 'EU' && model.region != 'EU'", False),  # the requests decide
        ("request.stream", False),
    ],
)
def test_rules_about_changes(when: str, denied: bool) -> None:
    """Those that mention changes, and those that need no request."""
    assert governance(when).refuses(STEP, MINI, 20 * 10**9, 200 * 10**9) == ("no" if denied else None)


def test_a_rule_without_a_message_is_named() -> None:
    assert governance("change.step > 5", message="").refuses(STEP, MINI, 0, 0) == "rule r1"


def test_a_change_that_concerns_no_arm_is_not_judged_by_rules_about_arms() -> None:
    assert governance("model.region != 'EU'").refuses({"kind": "constraint"}, None, 0, 0) is None
    assert governance("change.kind == 'constraint' && model.region != 'EU'").refuses({"kind": "constraint"}, None, 0, 0)


def test_a_rule_about_changes_is_no_rule_about_requests() -> None:
    """It would be unknown for every request, and deny them all."""
    made = governance("change.kind == 'rollout.step'")
    assert not made.active
    assert made.allowed(facts(), (MINI,), 0, 0) == (("mini",), None, ())


def test_a_log_rule_counts_changes_and_denies_none() -> None:
    made = governance("change.step > 5", "log")
    assert made.refuses(STEP, MINI, 0, 0) is None
    assert [event.detail["count"] for event in made.tick()] == [1]


def test_the_rules_that_took_arms_out_are_named() -> None:
    """In order; those that changed nothing are not, nor is what only logs."""
    rules = [
        Rule(name, parse(when), when, action, "")  # type: ignore[arg-type]  # one of three actions
        for name, when, action in (
            ("eu", "model.region != 'EU'", "filter"),
            ("told", "request.stream", "log"),
            ("all", "request.dialect == 'gemini'", "deny"),
            ("none", "request.model == 'secret'", "deny"),
        )
    ]
    far = Arm("far", "up", "gpt-4o", facts={"region": "US"})
    made = Governance(rules)
    assert made.allowed(facts(), (MINI, far), 0, 0) == (("mini",), None, ("eu",))
    assert made.allowed(facts(), (MINI,), 0, 0) == (("mini",), None, ())
    left, refusal, named = made.allowed(facts(model="secret"), (MINI, far), 0, 0)
    assert (left, named) == ((), ("eu", "none"))
    assert refusal is not None


def test_a_decision_names_the_rules_that_shaped_it() -> None:
    """Also a refusal, on a route and beside all routes; without a rule that did something there is nothing to name."""
    one = engine(policy(ROUTE, rule("model.region == 'EU'", "filter")))
    assert one.decide(facts(), NOW).rules == ("r1",)
    assert engine(policy(ROUTE, rule("model.region == 'FR'", "filter"))).decide(facts(), NOW).rules == ()
    denied = engine(policy(ROUTE, rule("request.stream")))
    assert denied.decide(facts(), NOW).rules == ("r1",)
    assert denied.decide(facts(stream=False), NOW).rules == ()
    assert denied.decide(facts(model="elsewhere"), NOW).rules == ("r1",)
