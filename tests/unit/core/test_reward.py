import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.policy import OTHER, SOURCES, Objective, Source
from sidecar.core.reward import SILENT, cost_score, label, latency_score, measure, scaled, shares, validate, weights
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


def test_checks_of_the_answer_are_part_of_the_product() -> None:
    """What the shell found counts where the policy lists it; a listed validator of the form is judged from the outcome."""
    checked = outcome(checks=(("json_schema", 0.0), ("language", 0.0)))
    assert validate(checked, ALL) == 0.0
    assert validate(checked, ("finish_reason", "regex")) == 1.0
    assert validate(checked, ("language",)) == 0.0
    assert validate(outcome(checks=(("json_schema", 1.0),), finish="length"), ("json_schema", "finish_reason")) == 0.5
    assert validate(outcome(checks=(("finish_reason", 0.5),), finish="length"), ("finish_reason",)) == 0.5
    signal = measure(checked, WEIGHING, ALL, 100.0)
    assert (signal.quality, signal.quality_source) == (0.0, "validators")


# ---- scores that come later


@pytest.mark.parametrize(
    ("source", "value", "score"),
    [
        (SOURCES["stars"], 1, 0.0),
        (SOURCES["stars"], 4, 0.75),
        (SOURCES["stars"], 5, 1.0),
        (SOURCES["thumbs"], 1, 1.0),
        (SOURCES["retry"], 1, 0.0),
        (SOURCES["edit_distance"], 0.25, 0.75),
        (SOURCES["revenue"], 0, 0.0),
        (SOURCES["revenue"], 1000, 1.0),
        (Source(0.0, 8.0, log=True), 2, 0.5),
        (Source(1.0, 9.0, better="lower", log=True), 3, 0.5),
        (SOURCES["stars"], 0, None),
        (SOURCES["stars"], 5.01, None),
        (SOURCES["stars"], float("nan"), None),
        (SOURCES["stars"], float("inf"), None),
    ],
)
def test_a_value_on_its_scale(source: Source, value: float, score: float | None) -> None:
    """Linear, or by ratios; up or down; nothing outside of the scale."""
    assert scaled(source, value) == (None if score is None else pytest.approx(score))


def test_one_source_is_its_own_label() -> None:
    """Whatever its share may be beside others."""
    assert label({"stars": 0.75}, SOURCES) == (0.75, 1.0)
    assert label({"dwell_time": 0.5}, SOURCES) == (0.5, 0.25)
    assert label({"nobody": 0.5}, SOURCES) == (0.5, 1.0)


def test_sources_are_weighed() -> None:
    """Two equal ones have the mean; a weak one beside a strong one has its part."""
    assert label({"stars": 1.0, "thumbs": 0.0}, SOURCES) == (0.5, 1.0)
    assert label({"stars": 1.0, "dwell_time": 0.0}, SOURCES) == (pytest.approx(0.8), 1.0)
    assert label({"repeat": 0.0, "abandoned": 1.0}, SOURCES) == (0.5, pytest.approx(0.2))


def test_a_source_is_held_to_its_share() -> None:
    """However much it weighs."""
    sources = {"loud": Source(weight=1.0, max_share=0.25), "quiet": Source(weight=0.25)}
    assert label({"loud": 0.0, "quiet": 1.0}, sources) == (pytest.approx(0.75), 1.0)


def test_invented_names_are_one_source() -> None:
    """A thousand unknown sources together have the share of one."""
    crowd = {f"bot{number}": 0.0 for number in range(1000)}
    assert label({"stars": 1.0, **crowd}, SOURCES) == (pytest.approx(0.5), 1.0)
    assert label({"stars": 1.0, **crowd, OTHER: 0.0}, {"stars": Source()}) == (pytest.approx(0.5), 1.0)


def test_a_source_without_weight_is_no_label() -> None:
    """It is stored, and that is all."""
    sources = {"a": Source(weight=0.0), "b": Source(weight=0.5)}
    assert label({"a": 1.0}, sources) == (0.0, 0.0)
    assert label({"a": 1.0, "b": 0.25}, sources) == (0.25, 0.5)


@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)), min_size=1, max_size=8))
def test_shares_sum_to_one_and_keep_their_limits(limits: list[tuple[float, float]]) -> None:
    """None above its limit where all can keep it; in proportion to the limits where they cannot."""
    parts = shares(limits)
    assert sum(parts) == pytest.approx(1.0)
    room = sum(limit for _, limit in limits)
    for part, (weight, limit) in zip(parts, limits, strict=True):
        assert part <= max(limit, limit / room) + 1e-9
        others = [one / own for one, (own, most) in zip(parts, limits, strict=True) if one < most - 1e-9]
        if part < limit - 1e-9 and room > 1.0:
            assert part / weight == pytest.approx(max(others)), "below its limit a part is in proportion to its weight"


@given(st.dictionaries(st.sampled_from([*SOURCES, "x", "y"]), st.floats(0.0, 1.0), min_size=1))
def test_a_label_does_not_depend_on_the_order(scores: dict[str, float]) -> None:
    """Which source spoke first is of no consequence; a label lies between its scores."""
    turned = dict(reversed(scores.items()))
    score, weight = label(scores, SOURCES)
    assert label(turned, SOURCES) == (pytest.approx(score), pytest.approx(weight))
    assert min(scores.values()) - 1e-9 <= score <= max(scores.values()) + 1e-9
    assert 0.0 < weight <= 1.0


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
