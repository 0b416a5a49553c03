"""An explanation states what the record states, and calls unknown what is unknown."""

from typing import Any

import orjson
from msgspec.structs import replace

from sidecar.core.learnt import state_of
from sidecar.core.policy import Objective
from sidecar.core.record import COLUMNS, row
from sidecar.core.reward import Signal
from sidecar.core.selector import Selector
from sidecar.core.types import Clocks, Feedback, Outcome, Settled, Stage
from sidecar.store.explain import explain
from tests.fixtures.settled import settled


def record(one: Settled, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = dict(zip(COLUMNS, row(one, "bot"), strict=True)) | changes
    for name in ("eligible", "context"):
        if isinstance(found[name], str):
            found[name] = orjson.loads(found[name])
    return found


def test_an_ordinary_decision_reads_like_an_explanation() -> None:
    """What was asked, what served and why, with what chance, clocks, tokens, money, quality."""
    text = "\n".join(explain(record(settled(1)), [{"score": 0.5, "source": "user", "at": "T"}]))
    for part in (
        "Asked: openai chat for gpt-4o, a stream (service bot).",
        "Served: openai/gpt-4o-mini, arm mini, on route support in mode optimize, policy p1.",
        "The selector drew this arm",
        "Probability of this choice: 25 %, per request.",
        "Also eligible: gpt-4o.",
        "Outcome: completed with status 200.",
        "first token 210.0 ms",
        "end 1.50 s",
        "100 input, 20 of them cached, 50 output (as the provider reports)",
        "Cost: $0.000012345, exact, price list list-1.",
        "Quality: 1 by validators.",
        "Feedback: 0.5 by user at T.",
        "Reward: 0.8.",
    ):
        assert part in text


def test_what_the_answer_did_not_pass_is_named() -> None:
    """By the validators that failed it."""
    one = settled(1)
    failed = replace(one, outcome=replace(one.outcome, checks=(("json_schema", 0.0), ("empty", 1.0))), quality=0.0)
    text = "\n".join(explain(record(failed)))
    assert "The answer did not pass: json_schema." in text
    assert "Quality: 0 by validators." in text
    assert "did not pass" not in "\n".join(explain(record(one)))


def test_a_cascade_tells_its_stages() -> None:
    """Which arms were asked before, why their answers were not given, and what that cost; no rule is blamed."""
    one = settled(1)
    stages = (
        Stage(arm="weak", why="json_schema", cost_nusd=1_500_000, cost_kind="exact", duration_s=0.25),
        Stage(arm="mild", why="503", duration_s=2.0),
    )
    given = replace(one, decision=replace(one.decision, reason="policy"), stages=stages)
    text = "\n".join(explain(record(given)))
    assert "The route's cascade asks its arms in turn; this one's answer was given." in text
    assert "Before it: arm weak, not given because of json_schema; $0.0015, 250.0 ms." in text
    assert "Before it: arm mild, not given because of 503; cost unknown, 2.00 s." in text
    assert "rule" not in text
    after = replace(given, decision=replace(one.decision, reason="fallback"))
    assert "the one before failed, and this one's answer was given." in "\n".join(explain(record(after)))


def test_the_unknown_is_called_unknown() -> None:
    """No tokens, no cost, no quality, no model: said in words, never as zero."""
    bare = replace(
        settled(1),
        outcome=Outcome(kind="failed", error="timeout_connect", clocks=Clocks()),
        sent_model=None,
        reward=None,
        quality=None,
    )
    text = "\n".join(
        explain(
            record(
                bare,
                requested_model=None,
                arm=None,
                stream=False,
                duration_s=None,
                context={"tools": True, "input_bytes": 9},
                eligible=[],
                policy_version="",
            )
        )
    )
    for part in (
        "for no model that could be read, one answer, 9 bytes, with tools",
        "openai/the model as asked, no arm of the policy",
        "Outcome: failed with no response, error timeout_connect.",
        "Tokens: unknown.",
        "Cost: unknown",
        "Quality: no evidence.",
        "taught the selector nothing",
    ):
        assert part in text
    assert "Clock" not in text
    assert "eligible" not in text


def test_an_answer_without_a_judgement_is_not_said_to_teach_nothing() -> None:
    """That it came, when and at what cost has taught; so has the score that came later."""
    one = record(settled(1), reward=None, quality=None, quality_source=None)
    text = "\n".join(explain(one, [{"score": 1.0, "source": "user", "at": "2026-01-01T00:00:00Z"}]))
    assert "Feedback: 1 by user at 2026-01-01T00:00:00Z.\nReward: none; nothing was known of its quality" in text
    assert "taught" not in text


def test_an_experiment_names_the_variant() -> None:
    """A decision of mode ab says which experiment drew it, and not that a rollout did."""
    text = "\n".join(explain(record(settled(1), rollout_id="e1:short", rollout_step=3, mode="ab", reason="sampled")))
    assert "The experiment drew this" in text
    assert "selector" not in text.partition("Outcome")[0]
    assert "is over" in "\n".join(explain(record(settled(1), mode="ab", reason="policy")))
    assert "Experiment e1 gave it the variant short, by its shares number 3." in text
    assert "Rollout" not in text


def test_rollouts_fallbacks_and_lower_bounds() -> None:
    """The step, the arm that was chosen first, and what a lower bound means."""
    text = "\n".join(
        explain(
            record(
                settled(1),
                rollout_id="r1",
                rollout_step=25,
                reason="fallback",
                context={"unit": "conversation", "decided": "haiku"},
                eligible=["haiku"],
                cost_kind="lower_bound",
                price_version="policy",
                usage_source="estimate",
            )
        )
    )
    assert "Rollout r1 stood at 25 %." in text
    assert "chosen first (haiku) failed before its first byte" in text
    assert "No other arm was eligible." in text
    certain = record(settled(1), reason="baseline", mode="canary", propensity=1.0)
    assert "Also able to serve it, but without a chance here: gpt-4o." in "\n".join(explain(certain))
    assert "a lower bound: the call ended early and the provider may bill more, the policy's own price." in text
    assert "(estimated)" in text
    again = explain(record(settled(1), rollout_id="r1.2", rollout_step=25))
    assert "Rollout r1 stood at 25 %, in attempt 2." in "\n".join(again)
    assert "at an unknown step" in "\n".join(explain(record(settled(1), rollout_id="r1", context=None)))
    assert "Reason: new-word." in explain(record(settled(1), reason="new-word"))


def test_the_stable_arm_of_a_canary_route_is_named() -> None:
    """After a promotion it is not the baseline: the text says which arm it is, and what makes it so."""
    text = "\n".join(explain(record(settled(1), reason="baseline", mode="canary", arm="mini")))
    assert "The route's stable arm, mini, served: the one promoted last, or the baseline before any was." in text
    assert "The route's baseline served." not in text
    assert "The route's baseline served." in explain(record(settled(1), reason="baseline", mode="optimize"))


def test_what_the_selector_drew_is_told_best_first() -> None:
    """Scores and prices stand in the row's context when the selector chose."""
    drawn = record(settled(1))
    drawn["context"] |= {
        "scores": {"gpt-4o": 0.25, "mini": 0.5, "nano": None},
        "prices": {"quality": 1.5, "money": 0.0},
    }
    text = "\n".join(explain(drawn))
    assert "Drawn for this call: mini 0.5, gpt-4o 0.25 (quality less" in text
    told = "1.5 for what the objective minimises, 0 for cost beside it, because of the ceiling"
    assert f"Prices then: {told} (in points of quality, for as much as a call of the baseline costs)." in text
    assert "Drawn" not in "\n".join(explain(record(settled(1))))


def taught(*arms: str) -> dict[str, dict[str, object]]:
    """What a snapshot holds of arms with forty scores of 0.9 each on one task."""
    selector = Selector(arms, Objective())
    for number in range(40 * len(arms)):
        arm = arms[number % len(arms)]
        selector.label(Feedback(decision_id=str(number), route="support", arm=arm, score=0.9, task="easy"))
        fine = Signal(answered=1.0)
        selector.partial_fit(arm, fine, settled(1).facts)
    return state_of(selector)


def test_what_is_known_now_is_told_with_its_time() -> None:
    """Posteriors of the snapshot, the rollout's row, and arms that could not serve."""
    beliefs = taught("gpt-4o", "mini", "nano")
    route = {"beliefs": beliefs, "prices": {"quality": 2.0}}
    rollout = {"phase": "paused", "step": 25, "at": "T1", "message": "too slow"}
    one = record(settled(1))
    one["context"] |= {"task": "easy"}
    text = "\n".join(explain(one, (), {"at": "T2", "route": route, "rollout": rollout}))
    assert "That rollout now: paused at 25 % since T1: too slow" in text
    assert "Known now (state of T2):" in text
    assert "  mini: quality 0.8" in text
    assert ", on task easy 0." in text
    assert ", 40 labels, answers 9" in text
    assert "Prices now: 2 for what the objective minimises (in points of quality, for as much" in text
    assert "Not eligible for this call: nano" in text
    del one["context"]["task"]
    plain = "\n".join(
        explain(one, (), {"at": "T2", "route": {"beliefs": taught("mini")}, "rollout": rollout | {"step": None}})
    )
    assert "on task" not in plain
    assert "Not eligible" not in plain
    assert "now: paused since" in plain


def test_a_state_of_another_version_is_no_reason_to_fail() -> None:
    lines = explain(record(settled(1)), (), {"at": "T", "route": {"beliefs": {"mini": {}}}, "rollout": None})
    assert lines[-1] == "The stored state of this route cannot be read by this version."


def test_the_rule_that_decided_is_named() -> None:
    """Of a call that was refused, and of one that lost arms; rows of before name none."""
    one = settled(1)
    ruled = replace(one, decision=replace(one.decision, rules=("eu-only", "no-big")))
    assert "Taken out of the choice: by rules eu-only, no-big of policy p1." in explain(record(ruled))
    assert not any("rule" in line for line in explain(record(one)))
    denied = replace(one, decision=replace(one.decision, reason="policy", rules=("eu-only",)))
    text = "\n".join(explain(record(denied, error="refused", status=403)))
    assert "Nothing was sent: rule eu-only of policy p1 refused the call with status 403" in text
    older = replace(denied, decision=replace(denied.decision, rules=()))
    assert "A rule of the policy refused the call" in "\n".join(explain(record(older, error="refused", status=403)))
    selector = Selector(("gpt-4o", "mini", "far"), Objective())
    beliefs = {"at": "T", "route": {"beliefs": state_of(selector)}}
    assert any(
        "far (another dialect, or taken out by rules eu-only" in one for one in explain(record(ruled), (), beliefs)
    )


def test_arms_that_are_out_now_are_told_with_why() -> None:
    """One rests, one did; what an older version stored has no rests."""
    rest = {"kind": "held", "since": 0.0, "until": 300.0, "cause": "it fails", "times": 1}
    resting = {"mini": {"digest": "d", "rest": rest}, "nano": {"digest": "d", "rest": None}}
    for staging, told in (({"resting": resting}, 1), ({}, 0)):
        route = {"beliefs": taught("gpt-4o", "mini", "nano"), "staging": staging}
        lines = explain(record(settled(1)), (), {"at": "T2", "route": route})
        assert [line for line in lines if "Out of the choice" in line] == [
            "Out of the choice now: mini is held (it fails)."
        ] * told


def test_an_arm_whose_breaker_is_open_is_named() -> None:
    """It is told apart from arms that could not have served, and is not called a rule's doing."""
    one = settled(1)
    out = (("nano", "breaker"), ("tiny", "context_tokens"))
    text = "\n".join(explain(record(replace(one, decision=replace(one.decision, left_out=out)))))
    assert "Not offered, breaker: nano (too many calls there had failed)." in text
    assert "Left out because they cannot serve this call" in text
    assert "tiny (its context is too small)" in text
    alone = "\n".join(explain(record(replace(one, decision=replace(one.decision, left_out=out[:1])))))
    assert "Not offered, breaker: nano" in alone
    assert "cannot serve" not in alone
