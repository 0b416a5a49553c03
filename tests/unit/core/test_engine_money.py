"""Ceilings on means and the books of the engine: what is spent in the long run, what a draw tells, what is booked once."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.constraint import CREDIT
from sidecar.core.engine import Engine
from sidecar.core.policy import Budget, Knob, Objective, Quality, Tuning
from sidecar.core.types import Decision, Feedback
from sidecar.core.watch import Watch
from tests.unit.core.engines import MINI, NANO, NOW, engine, facts, outcome, policy, promoted

COST = {"gpt-4o": 600, "mini": 60}
BEST = Objective(max_quality_loss=0.0)


def optimizing(budget: Budget | None) -> Engine:
    return promoted(
        policy(
            mode="optimize", sticky="request", budget=budget, objective=BEST, quality=Quality(("empty",), min_samples=0)
        )
    )


def spent_by(made: Engine, calls: int) -> list[int]:
    """Costs of calls of which the dear arm's are scored 0.9 and the cheap one's 0.3."""
    costs = []
    for at in range(calls):
        asked, now = facts(0, draw=at), NOW + at
        decision = made.decide(asked, now)
        arm = decision.arm or ""
        made.settle(asked, decision, outcome(cost_nusd=COST[arm]), now)
        score = 0.9 if arm == "gpt-4o" else 0.3
        made.feedback(Feedback(decision_id=str(at), route="support", arm=arm, score=score), now)
        made.refresh(now)
        costs.append(COST[arm])
    return costs


def test_the_mean_cost_keeps_its_ceiling_at_every_moment_and_uses_it() -> None:
    """The better arm costs 600 and the ceiling is 300: after n calls at most 300 (n + CREDIT) and one call's difference
    between its cost and what was expected (at most 600); in the end more than three quarters of it are used. Without
    the ceiling nearly every call goes to the better arm."""
    costs = spent_by(optimizing(Budget(mean_request_nusd=300)), 600)
    for n in range(1, len(costs) + 1):
        assert sum(costs[:n]) <= 300 * (n + CREDIT) + 600
    assert 0.75 * 300 <= sum(costs) / len(costs) <= 1.02 * 300
    free = spent_by(optimizing(None), 600)
    assert sum(free) / len(free) > 500


def test_what_is_paid_beside_a_call_is_no_call_of_the_mean() -> None:
    """A stage of a cascade and a judge's call are paid out of the ceiling on the mean, and add nothing to it: after one
    call of 60 and 240 beside it nothing is left of 300 and nothing is missing."""
    made = optimizing(Budget(mean_request_nusd=300))
    ledger = made._routes["support"].ledger
    for cost, call in ((40, False), (60, True)):
        asked = facts(0, draw=1)
        made.settle(asked, made.decide(asked, NOW), outcome(cost_nusd=cost), NOW, call=call)
    made.charge("support", 200, NOW)
    assert ledger.savings.nusd == 0.0
    assert ledger.spent_day_nusd == 300


def test_before_token_counts_are_known_a_ceiling_shuts_out_what_2048_tokens_make_too_dear() -> None:
    """The dear arm's 1,024 + 1,024 tokens cost 10,240, which the CREDIT of 3 calls pays at 3,414 and not at 3,413. One
    answer of 100 + 50 tokens and a tick later a call is known to cost 600, and the lower ceiling opens."""
    assert CREDIT == 3.0
    asked = facts(0, draw=1)
    drawn = {
        ceiling: optimizing(Budget(mean_request_nusd=ceiling)).decide(asked, NOW).drawn for ceiling in (3_414, 3_413)
    }
    assert [one.arms for one in drawn.values() if one is not None] == [("gpt-4o", "mini"), ("mini",)]
    made = optimizing(Budget(mean_request_nusd=300))
    made.settle(asked, made.decide(asked, NOW), outcome(cost_nusd=60), NOW)
    again = made.decide(asked, NOW).drawn
    made.tick(NOW + 1)
    later = made.decide(asked, NOW + 1).drawn
    assert [one.arms for one in (again, later) if one is not None] == [("mini",), ("gpt-4o", "mini")]


def test_a_draw_names_only_the_arms_that_the_call_could_pay() -> None:
    """Under a ceiling that is overspent the cheapest arm alone is left, and the record says so."""
    made = optimizing(Budget(mean_request_nusd=10_000))
    asked = facts(0, draw=1)
    whole = made.decide(asked, NOW)
    assert whole.drawn is not None
    assert whole.drawn.arms == ("gpt-4o", "mini")
    made.settle(asked, whole, outcome(cost_nusd=100_000), NOW)
    after = made.decide(asked, NOW)
    assert after.drawn is not None
    assert (after.arm, after.propensity, after.drawn.arms, len(after.drawn.worth)) == ("mini", 1.0, ("mini",), 1)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(["admit", "settle", "release"]), st.integers(0, 9), st.integers(0, 6_000)),
        max_size=60,
    )
)
def test_the_engine_passes_a_ceiling_by_at_most_what_calls_in_flight_cost_beyond_their_reservation(
    steps: list[tuple[str, int, int]],
) -> None:
    """Through the engine's own verbs and with any costs; and in the end no reservation is left."""
    ceiling = 10_000
    made = promoted(policy(mode="optimize", arms=(MINI, NANO), budget=Budget(daily_nusd=ceiling, on_exceeded="deny")))
    flying, beyond = list[tuple[int, Decision]](), 0

    def end(at: int, cost_nusd: int) -> int:
        key, decision = flying.pop(at % len(flying))
        made.settle(facts(key), decision, outcome(cost_nusd=cost_nusd), NOW)
        return max(0, cost_nusd - decision.reserved_nusd)

    for verb, number, cost_nusd in steps:
        if verb == "admit":
            decision = made.decide(facts(number), NOW)
            if decision.refusal is None:
                flying.append((number, decision))
        elif flying and verb == "release":
            made.release(flying.pop(number % len(flying))[1])
        elif flying:
            beyond += end(number, cost_nusd)
        status = made.status()[0]
        assert status.reserved_nusd == sum(decision.reserved_nusd for _, decision in flying)
        assert status.spent_day_nusd <= ceiling + beyond
    while flying:
        beyond += end(0, 0)
    assert made.status()[0].reserved_nusd == 0


def test_a_new_policy_without_the_budget_lets_everything_pass() -> None:
    made = engine(policy(budget=Budget(daily_nusd=1, on_exceeded="deny")))
    assert made.decide(facts(), NOW).refusal is not None
    made.apply(replace(policy(), version="v2"), NOW)
    assert made.decide(facts(), NOW).refusal is None
    assert made.status()[0].spent_day_nusd is None  # nobody counts


def test_a_decision_that_raises_reserves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call is served all the same, and nobody will settle what it had reserved: calls would be refused for money that
    nobody spends. Here ten of them would use the budget up."""
    tuning = Tuning(knobs=(Knob("temperature", 0.0, 1.0, 0.7),))
    made = engine(policy(budget=Budget(daily_nusd=10_000), tuning=tuning))
    state = made._routes["support"]
    flying = made.decide(facts(99), NOW).reserved_nusd

    def raises(*_arguments: object) -> Decision:
        assert state.ledger.reserved_nusd > flying
        raise ZeroDivisionError

    with monkeypatch.context() as faulty:
        faulty.setattr(Watch, "decide", raises)
        for key in range(1, 31):
            with pytest.raises(ZeroDivisionError):
                made.decide(facts(key), NOW)
    assert (state.ledger.reserved_nusd, state.ledger.flying) == (flying, 1)
    assert made.decide(facts(100), NOW).refusal is None
