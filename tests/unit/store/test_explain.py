"""An explanation states what the record states, and calls unknown what is unknown."""

from typing import Any

import orjson
from msgspec.structs import replace

from sidecar.core.record import COLUMNS, row
from sidecar.core.types import Clocks, Outcome, Settled
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
    assert "a lower bound: the call ended early and the provider may bill more, the policy's own price." in text
    assert "(estimated)" in text
    assert "at an unknown step" in "\n".join(explain(record(settled(1), rollout_id="r1", context=None)))
    assert "Reason: new-word." in explain(record(settled(1), reason="new-word"))


def test_the_stable_arm_of_a_canary_route_is_named() -> None:
    """After a promotion it is not the baseline: the text says which arm it is, and what makes it so."""
    text = "\n".join(explain(record(settled(1), reason="baseline", mode="canary", arm="mini")))
    assert "The route's stable arm, mini, served: the one promoted last, or the baseline before any was." in text
    assert "The route's baseline served." not in text
    assert "The route's baseline served." in explain(record(settled(1), reason="baseline", mode="optimize"))
