"""Means before and after: what a change is expected to do, and what it did."""

import pytest

from sidecar.core.impact import (
    KEPT,
    METRICS,
    MIN_VALUES,
    Minutes,
    Sums,
    actual,
    confidence,
    excess,
    expected,
    never,
    total,
    usual_of,
    worse,
)
from sidecar.core.types import Clocks, Outcome


def ended(kind: str = "completed", *, cost: int | None = 100, took: float = 1.0, stream: bool = False) -> Outcome:
    clocks = Clocks(sent_s=0.5, ttft_s=0.5 + took if stream else None, duration_s=0.5 + took)
    return Outcome(kind=kind, clocks=clocks, cost_nusd=cost, stream=stream)  # type: ignore[arg-type]  # a kind of outcome


def sums(count: int = MIN_VALUES, quality: float | None = 1.0, **fields: object) -> Sums:
    made = Sums()
    for _ in range(count):
        made.add(ended(**fields), quality)  # type: ignore[arg-type]  # fields of one test
    return made


def test_each_metric_counts_what_is_known() -> None:
    """An abort is paid for and nothing else; a failure has no duration; a caller's fault is no failure."""
    one = Sums()
    one.add(ended(), 0.5)
    one.add(ended("aborted", cost=50), None)
    one.add(ended("failed", cost=None), 0.0)
    fault = Outcome(kind="failed", clocks=Clocks(duration_s=2.0), caller_fault=True)
    one.add(fault, None)
    counts = dict(zip(METRICS, one.rows[::3], strict=True))
    assert one.calls == 4
    assert counts == {"quality": 2, "cost_nusd": 2, "latency_s": 2, "failed": 3, "late": 0}


def test_streams_are_timed_to_their_first_token() -> None:
    assert sums(stream=True, took=0.25).mean("latency_s") == pytest.approx((0.25, 0.0, MIN_VALUES))
    silent = Sums()
    silent.add(Outcome(kind="completed", clocks=Clocks(duration_s=9.0), stream=True), None)
    assert silent.rows[6] == 0


def test_few_values_have_no_mean() -> None:
    assert sums(MIN_VALUES - 1).mean("quality") is None
    assert sums(MIN_VALUES).mean("quality") == pytest.approx((1.0, 0.0, MIN_VALUES))


def test_minutes_are_summed_by_arm_and_forgotten_in_time() -> None:
    minutes = Minutes()
    for at in (0.0, 59.0, 60.0, 121.0):
        minutes.add(("r", "a"), ended(), 1.0, at)
    minutes.add(("r", "b"), ended(), 1.0, 119.0 + 60)
    assert {arm: one.calls for arm, one in minutes.between("r", 0.0, 121.0).items()} == {"a": 4, "b": 1}
    assert minutes.between("r", 60.0, 120.0)["a"].calls == 1
    for number in range(KEPT + 5):
        minutes.add(("r", "a"), ended(), 1.0, 600.0 + 60.0 * number)
    assert total(minutes.between("r", 0.0, 1e9)).calls == KEPT
    minutes.forget(["other"])
    assert minutes.between("r", 0.0, 1e9) == {}


def test_routes_that_stay_are_kept() -> None:
    minutes = Minutes()
    minutes.add(("r", "a"), ended(), 1.0, 0.0)
    minutes.forget(["r", "new"])
    assert minutes.between("r", 0.0, 1.0)["a"].calls == 1


def test_a_step_moves_the_mean_by_its_share() -> None:
    """From none to half of the calls for an arm at a tenth of the cost: 45 % less."""
    arms = {"base": sums(cost=1000), "mini": sums(cost=100)}
    found = expected(arms, "mini", 0.0, 0.5)
    assert found["cost_nusd"] == pytest.approx(-0.45)
    assert found["quality"] == pytest.approx(0.0)
    assert "failed" not in found  # nothing failed before: no relative change
    assert expected(arms, "nano", 0.0, 0.5) == {}


def test_confidence_is_that_the_arm_is_cheaper() -> None:
    cheap, dear = sums(cost=100), sums(cost=1000)
    assert confidence({"base": dear, "mini": cheap}, "mini") == pytest.approx(1.0)
    assert confidence({"base": cheap, "mini": dear}, "mini") == pytest.approx(0.0)
    assert confidence({"base": cheap, "mini": sums(cost=100)}, "mini") == pytest.approx(0.5)
    assert confidence({"base": cheap}, "mini") is None
    mixed = sums(20, cost=100)
    mixed.join(sums(20, cost=300))
    between = confidence({"base": sums(cost=220), "mini": mixed}, "mini")
    assert between == pytest.approx(0.8970, abs=1e-3)  # z = 20 / (100 / sqrt 40)


def test_what_happened_is_told_relative_to_before() -> None:
    found = actual(sums(cost=1000), sums(cost=900, quality=0.9))
    assert found == {"quality": pytest.approx(-0.1), "cost_nusd": pytest.approx(-0.1), "latency_s": pytest.approx(0.0)}
    assert actual(sums(3), sums()) == {}


def test_only_quality_and_failures_are_harm() -> None:
    good, bad = sums(100), sums(60)
    bad.join(sums(40, quality=0.0, kind="failed", cost=None))
    assert worse(good, bad, 3.0) is not None
    assert "quality got worse" in str(worse(good, bad, 3.0))
    assert worse(bad, good, 3.0) is None
    assert worse(good, sums(100, cost=10**9), 3.0) is None
    unlabelled, failing = sums(100, quality=None), sums(60, quality=None)
    failing.join(sums(40, quality=None, kind="failed"))
    assert "failed got worse by" in str(worse(unlabelled, failing, 3.0))
    assert worse(sums(3), sums(3), 3.0) is None


def test_late_answers_are_counted_where_there_is_a_limit() -> None:
    """Longer than 2 s is late on r; failures took no time, and nothing is late where nobody says so."""
    minutes = Minutes(lambda route, one: None if route != "r" else one.clocks.duration_s > 2.0)
    for took in (1.0, 3.0, 4.0):
        minutes.add(("r", "a"), ended(took=took), None, 0.0)
        minutes.add(("s", "a"), ended(took=took), None, 0.0)
    minutes.add(("r", "a"), ended("failed", took=9.0), None, 0.0)
    assert minutes.between("r", 0.0, 1.0)["a"].share("late") == (2.0, 3.0)
    assert minutes.between("s", 0.0, 1.0)["a"].share("late") == (0.0, 0.0)
    assert never("r", ended()) is None


def test_an_excess_is_told_in_standard_errors() -> None:
    """10 of 98 against 1 of 98, each with a good and a bad one more: .11 and .02, and what is allowed lowers it."""
    bad, good = sums(88), sums(97)
    for one, count in ((bad, 10), (good, 1)):
        for _ in range(count):
            one.add(ended("failed"), None)
    error = (0.11 * 0.89 / 100 + 0.02 * 0.98 / 100) ** 0.5
    assert excess(bad, good, "failed", 0.0) == pytest.approx(0.09 / error)
    assert excess(bad, good, "failed", 0.05) == pytest.approx(0.04 / error)
    assert excess(Sums(), Sums(), "failed", 0.0) == 0.0
    assert usual_of(good, "failed") == (0.02, 10.0)
    assert usual_of(Sums(), "failed") == (0.5, 2.0)


def test_late_answers_are_harm_too() -> None:
    before, after = Sums(), Sums()
    for at in range(100):
        before.add(ended(), 1.0, late=at % 10 == 0)
        after.add(ended(), 1.0, late=at % 2 == 0)
    assert worse(before, after, 3.0) is not None
    assert worse(before, before, 3.0) is None
