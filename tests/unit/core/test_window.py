"""Windows equal the naive recomputation, within their stated granularity and relative error."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.window import RELATIVE_ERROR, Histogram, Window

TIMES = st.floats(0, 100, allow_nan=False)
VALUES = st.one_of(st.just(0.0), st.floats(1e-6, 1e9))


def naive(entries: list[tuple[float, float]], now: float, window_s: float, slots: int) -> list[float]:
    """The values whose slot is among the newest `slots` at `now`; none is so old that it was dropped on arrival."""
    slot = [int(at * slots / window_s) for at, _ in entries]
    newest = int(now * slots / window_s)
    return [v for (_, v), s in zip(entries, slot, strict=True) if newest - slots < s <= newest]


@given(st.lists(st.tuples(TIMES, VALUES), max_size=60), st.floats(0, 40), st.sampled_from([0.01, 0.5, 0.95, 1.0]))
def test_readings_equal_the_naive_recomputation(entries: list[tuple[float, float]], ahead: float, q: float) -> None:
    """In order of time: counts exact, sums to rounding, quantiles within the relative error."""
    entries = sorted(entries)
    window = Window(10.0, slots=5)
    for at, value in entries:
        window.add(at, value)
    now = (entries[-1][0] if entries else 0.0) + ahead
    expected = naive(entries, now, 10.0, 5)
    assert window.count(now) == len(expected)
    assert window.total(now) == pytest.approx(sum(expected))
    if expected:
        assert window.mean(now) == pytest.approx(sum(expected) / len(expected))
        exact = sorted(expected)[max(1, math.ceil(q * len(expected) - 1e-9)) - 1]
        assert window.quantile(now, q) == pytest.approx(exact, rel=RELATIVE_ERROR * 1.001)
    else:
        assert window.mean(now) is None
        assert window.quantile(now, q) is None


@given(st.lists(st.tuples(st.floats(90, 100), VALUES), max_size=40))
def test_out_of_order_values_within_the_window_all_count(entries: list[tuple[float, float]]) -> None:
    """Ten seconds fit in a window of twenty: the order of arrival does not matter."""
    window = Window(20.0, slots=10)
    for at, value in entries:
        window.add(at, value)
    assert window.count(100.0) == len(entries)


def test_what_is_too_old_is_dropped_and_a_stalled_clock_is_harmless() -> None:
    """A value older than the ring cannot displace a newer one; a clock that stands still keeps everything."""
    window = Window(10.0, slots=5)
    window.add(100.0, 1.0)
    window.add(90.0, 7.0)  # the same place in the ring, ten seconds older
    assert window.mean(100.0) == 1.0
    for _ in range(1000):
        window.add(100.0, 1.0)
    assert window.count(100.0) == 1001
    assert window.count(50.0) == 0  # a reading before the values sees none of them
    assert window.count(110.0) == 0


def test_reading_does_not_change_the_state() -> None:
    window = Window(10.0)
    window.add(5.0, 2.0)
    before = window.to_state()
    window.quantile(1e6, 0.5)
    assert (window.count(1e6), window.mean(1e6)) == (0, None)
    assert window.to_state() == before


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_impossible_values_are_dropped(value: float) -> None:
    window = Window(10.0)
    window.add(1.0, value)
    assert window.count(1.0) == 0


@pytest.mark.parametrize(("window_s", "slots"), [(0.0, 60), (-1.0, 60), (math.inf, 60), (10.0, 0)])
def test_impossible_sizes_are_refused(window_s: float, slots: int) -> None:
    with pytest.raises(ValueError, match="positive finite length"):
        Window(window_s, slots)


def test_a_window_without_quantiles_counts_only() -> None:
    window = Window(10.0, quantiles=False)
    window.add(1.0, 3.0)
    assert (window.mean(1.0), window.quantile(1.0, 0.5)) == (3.0, None)


def test_state_survives_json_and_unreadable_parts_are_left_out() -> None:
    window = Window(10.0)
    for i in range(100):
        window.add(i * 0.2, i)
    again = Window(10.0)
    again.restore(json.loads(json.dumps(window.to_state())))
    assert again.to_state() == window.to_state()
    assert again.quantile(19.8, 0.95) == window.quantile(19.8, 0.95)
    odd = Window(10.0)
    odd.restore(["x", [1], [6, 1, "?", None], [6 - 60, 9, 9.0, []]])
    assert (odd.count(1.0), odd.total(1.0)) == (1, 0.0)


def test_slots_are_added_where_no_newer_one_lies() -> None:
    """To the same slot, to one that is free, and not to one whose time is over."""
    one, other = Window(60.0, quantiles=False), Window(60.0, quantiles=False)
    one.add(5.0, 1.0)
    one.add(70.0, 2.0)
    other.add(5.0, 10.0)
    other.add(10.0, 20.0)
    other.add(30.0, 30.0)
    one.put(other.sums())
    assert one.sums() == {5: (2, 11.0), 30: (1, 30.0), 70: (1, 2.0)}


def test_memory_is_bounded() -> None:
    """Clamped bins: any values at all fill at most 2,765 bins of one slot."""
    values = Histogram()
    for exponent in range(-400, 300):
        for step in range(10):
            values.add(10.0 ** (exponent / 1.0) * (1 + step / 10) if exponent < 290 else 1e300)
    assert len(values.bins) <= 2765
    assert values.quantile(1.0) == pytest.approx(1e15, rel=0.02)
    assert values.quantile(0.0) == 0.0


@given(st.lists(VALUES, max_size=50))
def test_a_histogram_round_trips_and_keeps_its_mean(values: list[float]) -> None:
    one = Histogram()
    assert one.mean() is None
    for value in values:
        one.add(value)
    again = Histogram.from_state(json.loads(json.dumps(one.to_state())))
    assert (again.count, again.bins, again.mean()) == (one.count, one.bins, one.mean())
    if values:
        assert one.mean() == pytest.approx(sum(values) / len(values))


@given(values=st.lists(st.floats(0.0, 1e16), max_size=30))
def test_many_values_at_once_are_as_many_one_by_one(values: list[float]) -> None:
    one, other = Histogram(), Histogram()
    for value in values:
        one.add(value)
    other.extend(values)
    assert other.to_state() == one.to_state()
    assert other.count == one.count
