"""What is read of an exchange, and samples of one size from windows of any."""

import math

import pytest

from sidecar.core.policy import WatchedMetric
from sidecar.core.samples import Sample, keys, read
from sidecar.core.types import Clocks, Outcome, Usage

CALL = Outcome(
    kind="completed", status=200, clocks=Clocks(sent_s=0.5, duration_s=2.5), cost_nusd=7,
    usage=Usage(input_tokens=100, output_tokens=20),
)  # fmt: skip
STREAM = Outcome(kind="completed", stream=True, clocks=Clocks(ttft_s=1.5, duration_s=3.0))


@pytest.mark.parametrize(
    ("metric", "outcome", "expected"),
    [
        ("ttft", CALL, None),
        ("ttft", STREAM, (("ttft", "a"), 1.5)),
        ("ttft", Outcome(kind="completed", stream=True, clocks=Clocks()), None),
        ("latency", CALL, (("latency", "a"), 2.0)),
        ("latency", STREAM, (("latency", "a stream"), 3.0)),
        ("cost", CALL, (("cost", "a"), 7)),
        ("cost", STREAM, None),
        ("quality", CALL, (("quality", "a"), 0.75)),
        ("input_tokens", CALL, (("input_tokens", ""), 100)),
        ("input_tokens", STREAM, None),
        ("output_tokens", CALL, (("output_tokens", "a"), 20)),
        ("output_tokens", STREAM, None),
    ],
)
def test_each_metric_is_read(metric: WatchedMetric, outcome: Outcome, expected: object) -> None:
    """Streams and whole answers have latencies of their own; input tokens belong to the route, the rest to the arm."""
    assert read(metric, "a", outcome, 0.75) == expected


def test_every_key_that_can_be_read_is_known() -> None:
    metrics: tuple[WatchedMetric, ...] = ("latency", "input_tokens", "cost")
    assert list(keys(metrics, ("a", "b"))) == [
        ("latency", "a"), ("latency", "a stream"), ("latency", "b"), ("latency", "b stream"), ("input_tokens", ""),
        ("cost", "a"), ("cost", "b"),
    ]  # fmt: skip


@pytest.mark.parametrize("n", [10, 19, 20, 21, 1000])
def test_a_sample_has_its_size_and_spans_the_window(n: int) -> None:
    """However many values came: the first and the last tenth of the window are in it."""
    sample = Sample(60.0, 10)
    for at in range(n):
        sample.add(float(at), at * 60.0 / n)
    assert sample.ready(61.0)
    taken = sample.take()
    assert len(taken) == 10
    assert taken == sorted(set(taken))
    assert taken[0] <= n / 10
    assert taken[-1] >= n * 0.8 - 1
    assert not sample.values


def test_a_window_ends_by_time_and_number() -> None:
    sample = Sample(60.0, 3)
    for at in (10.0, 20.0):
        sample.add(1.0, at)
    for bad in (-1.0, math.nan, math.inf):
        sample.add(bad, 21.0)
    assert not sample.ready(200.0)
    sample.add(1.0, 30.0)
    assert not sample.ready(69.0)
    assert sample.ready(70.0)
    assert sample.ready(9.0), "the clock went back: what it holds is old"
    assert not Sample(1.0, 1).ready(5.0)
