"""The flat row of one finished exchange."""

import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.clock import rfc3339
from sidecar.core.features import features
from sidecar.core.record import COLUMNS, at_text, row
from sidecar.core.types import Clocks, Decision, Drawn, Facts, Outcome, Settled, Stage, Usage


def settled(**outcome: object) -> Settled:
    facts = Facts(
        endpoint="chat",
        dialect="openai",
        path="/v1/chat/completions",
        model="auto",
        stream=True,
        key=0xABC,
        max_tokens=64,
        tools=True,
        tags={"tenant": "a", "kind": "sums"},
        task="sums",
        text=features("the words of this text are not for the database"),
        input_bytes=507,
    )
    decision = Decision(
        route="support", mode="optimize", arm="mini", upstream="openai", model="gpt-4o-mini", reason="sampled",
        propensity=0.25, unit="conversation", eligible=("gpt-4o", "mini"), rollout_id="r1", rollout_step=25,
        policy_version="v1",
    )  # fmt: skip
    values: dict[str, object] = {
        "kind": "completed",
        "status": 200,
        "clocks": Clocks(sent_s=0.001, ttfb_s=0.1, ttft_s=0.2, duration_s=1.5, gap_p50_s=0.01, gap_p95_s=0.02),
        "stream": True,
        "usage": Usage(input_tokens=10, output_tokens=20, cached_input_tokens=4),
        "usage_source": "provider",
        "cost_nusd": 1234,
        "cost_kind": "exact",
    }
    return Settled(
        id="00abc", at=1_700_000_000.25, facts=facts, decision=decision, outcome=Outcome(**(values | outcome)),
        upstream="openai", sent_model="gpt-4o-mini", quality=1.0, quality_source="validator", reward=0.9,
    )  # fmt: skip


def test_every_column_of_the_contract_has_its_value() -> None:
    """Each value stands under its own name, in the contract's order."""
    record = dict(zip(COLUMNS, row(settled(), "bot"), strict=True))
    assert record["at"] == "2023-11-14T22:13:20.250000Z"
    assert record["service"] == "bot"
    assert (record["arm"], record["model"], record["reason"]) == ("mini", "gpt-4o-mini", "sampled")
    assert record["sticky_key"] == "0000000000000abc"
    assert orjson.loads(str(record["eligible"])) == ["gpt-4o", "mini"]
    assert orjson.loads(str(record["context"])) == {
        "endpoint": "chat",
        "unit": "conversation",
        "input_bytes": 507,
        "max_tokens": 64,
        "tools": True,
        "tags": {"tenant": "a", "kind": "sums"},
        "task": "sums",
    }
    assert (record["itl_p50_s"], record["itl_p95_s"]) == (0.01, 0.02)
    assert (record["input_tokens"], record["output_tokens"], record["cached_input_tokens"]) == (10, 20, 4)
    assert (record["cost_nusd"], record["reward"], record["quality"]) == (1234, 0.9, 1.0)


def test_columns_are_those_of_the_contract() -> None:
    """The order that `decisions --json` promises."""
    contract = (
        "id at service route mode dialect stream requested_model arm upstream model reason propensity eligible context "
        "sticky_key rollout_id rollout_step policy_version completion_id outcome error status sent_s ttfb_s ttfe_s "
        "ttft_s ttfa_s duration_s itl_s itl_p50_s itl_p95_s input_tokens cached_input_tokens cache_write_tokens "
        "output_tokens reasoning_tokens usage_source cost_nusd cost_kind price_version quality quality_source reward"
    )
    assert " ".join(COLUMNS) == contract


def test_a_fallback_names_who_served_and_who_was_decided() -> None:
    """After a fallback the row names the arm that served; the decided arm stays in the context."""
    record = dict(zip(COLUMNS, row(settled(served_arm="gpt-4o"), "bot"), strict=True))
    assert (record["arm"], record["reason"]) == ("gpt-4o", "fallback")
    assert orjson.loads(str(record["context"]))["decided"] == "mini"


def test_failed_checks_stand_in_the_context() -> None:
    """By the names of the validators; of checks that all passed nothing is written."""
    checks = (("finish_reason", 0.5), ("json_schema", 0.0), ("language", 1.0))
    for found, failed in ((checks, ["finish_reason", "json_schema"]), ((("language", 1.0),), None), ((), None)):
        record = dict(zip(COLUMNS, row(settled(checks=found), "bot"), strict=True))
        assert orjson.loads(str(record["context"])).get("failed") == failed


def test_unknown_is_null_and_never_zero() -> None:
    """Usage, cost and status that nobody reported are None."""
    bare = Settled(
        id="x",
        at=0.0,
        facts=Facts(endpoint="other", dialect="openai", path="/v1/x", model=None, stream=False, key=0),
        decision=Decision(
            route="", mode="observe", arm=None, upstream=None, model=None, reason="passthrough", propensity=1.0
        ),
        outcome=Outcome(kind="failed", error="timeout_connect", clocks=Clocks(), served_model="m"),
        upstream="default",
        sent_model=None,
    )
    record = dict(zip(COLUMNS, row(bare, "bot"), strict=True))
    for name in ("status", "cost_nusd", "input_tokens", "output_tokens", "sticky_key", "ttft_s", "requested_model"):
        assert record[name] is None
    assert record["model"] == "m"
    assert orjson.loads(str(record["context"])) == {"endpoint": "other", "unit": "request", "input_bytes": 0}


@given(st.integers(min_value=0, max_value=4_102_444_800_000_000))
def test_at_is_what_the_clock_would_write(micros: int) -> None:
    """The cached formatting equals `clock.rfc3339` to a microsecond (both round a double)."""
    at = micros / 1_000_000
    assert abs(int(at_text(at)[20:26]) - int(rfc3339(at)[20:26])) in (0, 1, 999_999)
    assert at_text(at)[19::7] == ".Z"


@pytest.mark.parametrize("at", [0.9999996, 59.9999999, 1_700_000_000.9999999])
def test_rounding_up_carries_into_the_second(at: float) -> None:
    """No row ever has 1000000 microseconds."""
    assert len(at_text(at)) == 27


def test_the_stages_of_a_cascade() -> None:
    """What was asked before the arm that served stands in the context, in order; money and seconds as they are."""
    stages = (
        Stage(arm="tiny", why="503", cost_nusd=0, cost_kind="exact"),
        Stage(arm="mini", why="empty", cost_nusd=None, duration_s=0.25),
    )
    record = dict(zip(COLUMNS, row(replace(settled(), stages=stages), "bot"), strict=True))
    assert orjson.loads(str(record["context"]))["stages"] == [
        {"arm": "tiny", "why": "503", "cost_nusd": 0, "duration_s": 0.0},
        {"arm": "mini", "why": "empty", "cost_nusd": None, "duration_s": 0.25},
    ]


def test_what_was_drawn_has_four_digits() -> None:
    """As `round` gives them, also of what is negative or large."""
    for value in (0.51234567, 0.5, 0.00004999, 0.00005001, -0.12346, 123456.7891, 1e6, 12345678.125):
        text = row(
            replace(settled(), decision=replace(settled().decision, drawn=Drawn(("a",), (value,), value, 0.0))), "bot"
        )
        context = orjson.loads(str(text[COLUMNS.index("context")]))
        assert context["scores"] == {"a": round(value, 4)}
        assert context["prices"] == {"quality": round(value, 4), "money": 0.0}


def test_what_the_selector_drew_is_kept_for_explanations() -> None:
    """Scores by arm and the prices, as `explain` reads them; an arm that a limit kept out has null."""
    one = settled()
    drawn = Drawn(("gpt-4o", "mini", "nano"), (0.51234567, 0.25, -math.inf), 1.5, 0.0)
    context = orjson.loads(_context(replace(one, decision=replace(one.decision, drawn=drawn))))
    assert context["scores"] == {"gpt-4o": 0.5123, "mini": 0.25, "nano": None}
    assert context["prices"] == {"quality": 1.5, "money": 0.0}
    assert "scores" not in _context(one)


def _context(one: Settled) -> str:
    return str(dict(zip(COLUMNS, row(one, "bot"), strict=True))["context"])
