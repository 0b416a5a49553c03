"""What one exchange or score teaches a route, and that it teaches nothing which is not its own."""

from dataclasses import replace

import numpy as np
import pytest
from msgspec.structs import replace as replace_struct

from sidecar.core.engine import Engine
from sidecar.core.policy import (
    JUDGE,
    Arm,
    Budget,
    Fallback,
    Knob,
    Match,
    Policy,
    Quality,
    RolloutSpec,
    Route,
    Threshold,
    Tuning,
    Upstream,
)
from sidecar.core.types import Clocks, Event, Facts, Feedback, Outcome
from tests.unit.core.engines import engine as shared_engine
from tests.unit.core.engines import facts as shared_facts
from tests.unit.core.engines import fall_back
from tests.unit.core.engines import outcome as shared_outcome
from tests.unit.core.engines import policy as shared_policy

NOW = 20_000 * 86_400.0
BASE, MINI = Arm("big", "up", "gpt-4o"), Arm("mini", "up", "gpt-4o-mini")
ROUTE = Route(
    "chat", Match(models=("gpt-4o", "gpt-4o-mini")), "canary", BASE, (MINI,), rollout=RolloutSpec(steps=(50, 100))
)
FAILED = Outcome(kind="failed", status=500, clocks=Clocks(duration_s=0.1))


def policy(version: str, **changes: object) -> Policy:
    upstreams = {name: Upstream(name, "openai", "https", name, 443) for name in ("up", "else")}
    return Policy("bot", version, upstreams, (replace(ROUTE, **changes),))  # type: ignore[arg-type]  # of one test


def engine(made: Policy) -> Engine:
    return Engine(made, np.random.default_rng(1), NOW)


def facts(key: int, model: str = "gpt-4o", *, off: bool = False) -> Facts:
    return Facts(
        endpoint="chat", dialect="openai", path="/v1/chat/completions", model=model, key=key,
        key_source="conversation", draw=key, off=off, stream=True, input_bytes=300,
    )  # fmt: skip


def learnt(made: Engine) -> list[float]:
    return [made._order[0].selector.beliefs[arm].answered.n for arm in ("big", "mini")]


@pytest.mark.parametrize(
    ("arm", "taught"),
    [
        (MINI, 1),
        (replace(MINI, model="gpt-5-mini"), 0),
        (replace(MINI, upstream="else"), 0),
        (replace(MINI, params=(("temperature", b"0"),)), 0),
        (replace(MINI, id="other"), 0),
    ],
)
def test_requests_in_flight_at_a_reload_teach_only_the_arm_that_they_met(arm: Arm, taught: int) -> None:
    """A broken model name is repaired: the last failures of the old one are not the first of the new one."""
    made = engine(policy("v1"))
    key = next(key for key in range(1, 50) if made.decide(facts(key), NOW).arm == "mini")
    decision = made.decide(facts(key), NOW)
    made.apply(policy("v2", arms=(arm,)), NOW)
    made.settle(facts(key), decision, FAILED, NOW)
    assert made._order[0].selector.beliefs[arm.id].answered.n == taught
    assert made.status()[0].rollouts[0].canary_units == taught


def test_a_request_that_was_not_rewritten_is_judged_by_the_model_it_named() -> None:
    """Passed through under v1, settled under v2: the baseline is the same arm still; a changed one is not."""
    asked = facts(1, off=True)
    for base, taught in ((BASE, 1.0), (replace(BASE, params=(("temperature", b"0"),)), 1.0)):
        made = engine(policy("v1"))
        decision = made.decide(asked, NOW)
        assert (decision.arm, decision.model) == ("big", None)
        made.apply(policy("v2", baseline=base), NOW)
        made.settle(asked, decision, FAILED, NOW)
        assert learnt(made) == [taught, 0.0]


def test_what_a_fallback_served_under_an_earlier_policy_teaches_nothing() -> None:
    made = engine(policy("v1"))
    decision = made.decide(facts(1), NOW)
    served = Outcome(kind="completed", status=200, clocks=Clocks(duration_s=1.0), served_arm="big")
    made.apply(policy("v2"), NOW)
    made.settle(facts(1), decision, served, NOW)
    assert learnt(made) == [0.0, 0.0]


def test_one_client_cannot_breach_a_threshold_by_scoring_one_answer_again_and_again() -> None:
    """The posterior takes the last score, a window the first of each source; six answers are six samples."""
    bad = Threshold("bad", "quality", None, 0.5, 60.0, "critical", "rollback", min_samples=5)
    made = engine(policy("v1", thresholds=(bad,), quality=Quality((), feedback=True)))
    first = Feedback(decision_id="d", route="chat", arm="mini", score=0.0)
    again = Feedback(decision_id="d", route="chat", arm="mini", score=0.0, previous=0.0)
    assert [made.feedback(one, NOW) for one in (first, again, again, again, again, again, again)] == [[]] * 7
    assert made._order[0].thresholds.status(NOW)[0].samples == 1
    events = [event for n in range(2, 8) for event in made.feedback(first, NOW + n)]
    assert [event.kind for event in events] == ["threshold.breached", "rollout.rolled_back"]


HOT = (("temperature", b"1"),)


def in_flight(first: Policy, second: Policy) -> float:
    """What a failure of the canary teaches that was decided under the first policy and ends under the second."""
    made = engine(first)
    key = next(key for key in range(1, 50) if made.decide(facts(key), NOW).arm == "mini")
    decision = made.decide(facts(key), NOW)
    made.apply(second, NOW)
    made.settle(facts(key), decision, FAILED, NOW)
    return learnt(made)[1]


def test_params_that_a_reload_takes_away_are_a_change_of_the_arm_too() -> None:
    """v1 sent a temperature, v2 sends none: another arm. Where both send it, it is the same."""
    hot = policy("v1", arms=(replace(MINI, params=HOT),))
    assert in_flight(hot, policy("v2")) == 0.0
    assert in_flight(hot, replace(hot, version="v2")) == 1.0


def test_what_tuning_adds_to_an_arms_params_does_not_make_it_another_arm() -> None:
    tuned = policy("v1", tuning=Tuning((Knob("temperature", 0.0, 1.0, 0.5),)))
    assert in_flight(tuned, replace(tuned, version="v2")) == 1.0
    assert in_flight(tuned, policy("v2", tuning=tuned.routes[0].tuning, arms=(replace(MINI, params=HOT),))) == 0.0


def test_scores_that_nobody_asked_for_teach_nothing_but_ones_own() -> None:
    """With `feedback: false` an app's score is dropped; what the sidecar's judge says is learnt."""
    made = engine(policy("v1", quality=Quality((), feedback=False)))
    for source, labels in (("user", 0), (JUDGE, 1)):
        score = Feedback(decision_id="d", route="chat", arm="mini", score=0.5, source=source)
        assert made.feedback(score, NOW) == []
        assert made.status()[0].arms[1].labels == labels


def test_a_recovery_is_told_and_orders_nothing() -> None:
    """Slow answers breach a limit, which rolls the canary back; when the window has moved on, that is over."""
    slow = Threshold("slow", "latency_p95", 2.0, None, 60.0, "critical", "rollback", min_samples=3)
    made = engine(policy("v1", thresholds=(slow,)))
    late = Outcome(kind="completed", status=200, clocks=Clocks(sent_s=0.0, duration_s=30.0))
    events: list[Event] = []
    for key in range(1, 40):
        events += made.settle(facts(key), made.decide(facts(key), NOW + key), late, NOW + key).events
    assert [event.kind for event in events[:2]] == ["threshold.breached", "rollout.rolled_back"]
    fast = Outcome(kind="completed", status=200, clocks=Clocks(sent_s=0.0, duration_s=0.1))
    after: list[Event] = []
    for second in range(0, 400, 4):
        now = NOW + 60 + second
        after += made.settle(facts(second + 100), made.decide(facts(second + 100), now), fast, now).events
        after += made.tick(now)
    assert [event.kind for event in after if event.kind.startswith("threshold")] == ["threshold.recovered"]
    assert made.status()[0].rollouts[0].phase == "rolled_back"


def test_a_reservation_is_given_back_also_when_the_budget_went_away_meanwhile() -> None:
    """Budget on, request out, budget off, request over, budget on: nothing is reserved for ever."""
    limited, free = (shared_policy(budget=budget) for budget in (Budget(daily_nusd=10**9), None))
    made = shared_engine(limited)
    out = made.decide(shared_facts(1), NOW)
    assert out.reserved_nusd > 0
    made.apply(free, NOW)
    made.settle(shared_facts(1), out, shared_outcome(), NOW)
    made.apply(limited, NOW)
    assert made.status()[0].reserved_nusd == 0


def test_a_failure_that_cost_nothing_saves_nothing_under_a_mean() -> None:
    """The arm that fails and the one that serves instead are one call of the mean; a free answer is a call."""
    made = shared_engine(
        shared_policy(budget=Budget(mean_request_nusd=1_000), fallback=Fallback(("gpt-4o",), ("5xx",)))
    )
    asked, savings = shared_facts(0), made._routes["support"].ledger.savings
    first = replace_struct(made.decide(asked, NOW), arm="mini", fallbacks=("gpt-4o",))
    second = fall_back(made, asked, first, "500", NOW)
    assert second is not None
    assert savings.nusd == 0.0
    made.settle(asked, second, shared_outcome(cost_nusd=1_500), NOW)
    assert savings.nusd == -500.0
    made.settle(asked, made.decide(asked, NOW), shared_outcome(cost_nusd=0), NOW)
    assert savings.nusd == 500.0


def test_a_score_of_the_arms_former_model_does_not_teach_its_new_one() -> None:
    """Scores come late; the arm's name may mean another model by then. What served is not always known: then it counts."""
    made = engine(policy("v1"))
    for served, known in ((("up", "old"), 0), (("up", "gpt-4o-mini"), 1), (None, 2)):
        score = Feedback(decision_id=str(known), route="chat", arm="mini", score=1.0, served=served)
        made.feedback(score, NOW)
        assert made.status()[0].arms[1].labels == known
