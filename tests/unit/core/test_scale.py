"""Metrics as numbers of 0..1, and back."""

from math import isclose, log

import pytest

from sidecar.core.scale import FIRST, SPAN, Scale
from sidecar.core.types import Clocks, Outcome, OutcomeKind


def done(kind: OutcomeKind = "completed", cost: int | None = 5, ttft: float | None = 1.0) -> Outcome:
    return Outcome(kind=kind, clocks=Clocks(sent_s=0.5, ttft_s=ttft, duration_s=2.5), cost_nusd=cost)


@pytest.mark.parametrize(
    ("metric", "outcome", "value"),
    [
        ("quality", done(), 0.25),
        ("quality", done("failed"), None),
        ("error_rate", done(), 0.0),
        ("error_rate", done("failed"), 1.0),
        ("cost", done(), 5.0),
        ("cost", done(cost=None), None),
        ("latency", done(), 2.0),
        ("ttft", done(), 0.5),
        ("ttft", done(ttft=None), None),
    ],
)
def test_what_an_exchange_says(metric: str, outcome: Outcome, value: float | None) -> None:
    """Times count from when the request was sent; what is not known is not a value."""
    assert Scale(metric).value(outcome, 0.25) == value


def test_times_without_sent() -> None:
    assert Scale("latency").value(Outcome(kind="completed", clocks=Clocks(duration_s=2.0)), None) == 2.0


@pytest.mark.parametrize("metric", ["quality", "error_rate", "cost"])
def test_back_and_forth(metric: str) -> None:
    """`shown` undoes `scaled` inside the span; larger scaled values are better ones."""
    scale = Scale(metric)
    assert scale.shown(0.5) == (1.0 if metric == "cost" else 0.5)  # before any value: the unit
    values = [0.2, 0.3, 0.9]
    scaled = [one for value in FIRST * [0.2] + values if (one := scale.scaled(value)) is not None][-3:]
    assert all(isclose(scale.shown(one), value) for one, value in zip(scaled, values, strict=True))
    assert (scaled == sorted(scaled)) == (metric == "quality")


def test_ratios() -> None:
    """The first values fix the middle, which odd ones do not move; a difference is a ratio; beyond SPAN values are cut, and
    0 is no logarithm."""
    scale = Scale("cost")
    assert [scale.scaled(value) for value in (1e9, 0.0, *(FIRST - 2) * [100.0])] == FIRST * [None]
    assert scale.scaled(100.0) == 0.5
    assert scale.scaled(100.0 * SPAN * 2) == 0.0
    assert scale.scaled(0.0) == 1.0
    assert isclose(scale.effect((scale.scaled(50.0) or 0.0) - (scale.scaled(100.0) or 0.0)), 0.5)
    assert isclose(scale.margin(0.1), log(1.1) / (2 * log(SPAN)))


def test_differences() -> None:
    assert Scale("quality").effect(0.1) == 0.1
    assert Scale("error_rate").effect(0.1) == -0.1
    assert Scale("error_rate").margin(0.1) == 0.1
