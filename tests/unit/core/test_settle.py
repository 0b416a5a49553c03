"""What one exchange or score teaches a route, and that it teaches nothing which is not its own."""

from dataclasses import replace

import numpy as np
import pytest

from sidecar.core.engine import Engine
from sidecar.core.policy import Arm, Match, Policy, Quality, RolloutSpec, Route, Threshold, Upstream
from sidecar.core.types import Clocks, Facts, Feedback, Outcome

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
