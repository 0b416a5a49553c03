import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.policy import Objective
from sidecar.core.reward import SILENT, cost_score, latency_score, measure, validate, weights
from sidecar.core.types import Clocks, Outcome

WEIGHING = weights(Objective())
ALL = ("finish_reason", "refusal", "empty", "json_schema")


def outcome(**fields: object) -> Outcome:
    known: dict[str, object] = {
        "kind": "completed",
        "clocks": Clocks(sent_s=0.01, ttft_s=0.5, duration_s=2.0),
        "stream": True,
        "finish": "stop",
        "empty": False,
        "cost_nusd": 100,
    }
    return Outcome(**{**known, **fields})  # type: ignore[arg-type]  # fields of one test


def test_weights_are_normalised_and_latency_may_lead() -> None:
    """0.6 / 0.3 / 0.1 by default; `minimize: latency` lets cost and latency change places; no weights mean quality."""
    assert pytest.approx((0.6, 0.3, 0.1)) == WEIGHING
    assert weights(Objective(minimize="latency")) == pytest.approx((0.6, 0.1, 0.3))
    assert weights(Objective(quality_weight=2, cost_weight=1, latency_weight=1)) == (0.5, 0.25, 0.25)
    assert weights(Objective(quality_weight=0, cost_weight=0, latency_weight=0)) == (1.0, 0.0, 0.0)


def test_aborts_and_callers_mistakes_teach_nothing() -> None:
    """An abort by the client and a caller's own error have no reward."""
    assert measure(outcome(kind="aborted"), WEIGHING, ALL, 100.0) is SILENT
    assert measure(outcome(kind="failed", caller_fault=True), WEIGHING, ALL, 100.0) is SILENT


def test_a_failure_is_quality_zero() -> None:
    """An arm that fails is told so, even where no validator is listed."""
    signal = measure(outcome(kind="failed", status=503), WEIGHING, (), None)
    assert (signal.answered, signal.quality, signal.quality_source) == (0.0, 0.0, "outcome")
    assert signal.reward == pytest.approx(0.15)


def test_no_quality_means_no_reward() -> None:
    """A cheap, fast answer of unknown worth teaches its latency and that it came, and has no reward."""
    signal = measure(outcome(), WEIGHING, (), 100.0)
    assert (signal.answered, signal.quality, signal.reward) == (1.0, None, None)
    assert signal.latency is not None


def test_unknown_latency_is_neutral() -> None:
    """Reporting less never pays."""
    assert measure(outcome(clocks=Clocks()), WEIGHING, ALL, 100.0).reward == pytest.approx(0.6 + 0.15 + 0.05)


@pytest.mark.parametrize(
    ("fields", "quality"),
    [
        ({}, 1.0),
        ({"finish": "length"}, 0.5),
        ({"finish": "content_filter"}, 0.0),
        ({"refused": True}, 0.0),
        ({"empty": True}, 0.0),
        ({"finish": None, "empty": None}, 1.0),
    ],
)
def test_validators_judge_what_the_outcome_tells(fields: dict[str, object], quality: float) -> None:
    """Quality is the product of the listed validators that could tell."""
    assert validate(outcome(**fields), ALL) == quality


def test_validators_that_cannot_tell_give_none() -> None:
    """A validator without evidence, or one that needs the body, judges nothing."""
    assert validate(outcome(finish=None, empty=None), ("finish_reason", "empty", "json_schema")) is None


def test_latency_is_raw_ttft_whatever_the_length() -> None:
    """GW-09: a slow start is slow however long the answer is; streams count TTFT, whole answers duration."""
    short = outcome(clocks=Clocks(sent_s=0.0, ttft_s=3.0, duration_s=3.1))
    long = outcome(clocks=Clocks(sent_s=0.0, ttft_s=3.0, duration_s=300.0))
    assert latency_score(short) == latency_score(long)
    assert latency_score(outcome(stream=False, clocks=Clocks(sent_s=0.0, ttft_s=0.1, duration_s=400.0))) == 0.0
    assert latency_score(outcome(clocks=Clocks(sent_s=1.0, ttft_s=1.04))) == 1.0
    assert latency_score(outcome(stream=False, clocks=Clocks(duration_s=0.05))) == 1.0


def test_cost_is_relative_to_the_baseline_and_logarithmic() -> None:
    """As dear as the baseline is 0.5, free is 1, a hundred times as dear is 0; unknown is neutral."""
    assert cost_score(100, 100.0) == 0.5
    assert cost_score(10, 100.0) == pytest.approx(0.75)
    assert cost_score(10**9, 100.0) == 0.0
    assert cost_score(1, 10.0**9) == 1.0
    assert cost_score(0, 5.0) == 1.0
    assert cost_score(0, 0.0) == 0.5
    assert cost_score(5, 0.0) == 0.0
    assert cost_score(None, 5.0) == cost_score(5, None) == 0.5


@given(
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.one_of(st.none(), st.integers(0, 10**12)),
    st.booleans(),
    st.sampled_from(["stop", "length", "x", None]),
)
def test_rewards_lie_between_zero_and_one(
    sent_s: float, later_s: float, cost_nusd: int | None, stream: bool, finish: str | None
) -> None:
    """Every reward and every score is in [0, 1]."""
    clocks = Clocks(sent_s=sent_s, ttft_s=later_s, duration_s=later_s)
    signal = measure(outcome(clocks=clocks, cost_nusd=cost_nusd, stream=stream, finish=finish), WEIGHING, ALL, 1000.0)
    for value in (signal.reward, signal.quality, signal.latency):
        assert value is not None
        assert 0.0 <= value <= 1.0
