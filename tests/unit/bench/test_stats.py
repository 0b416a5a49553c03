"""The percentile maths of the bench."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import stats

observations = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=200)


@given(observations, st.floats(0, 1))
def test_percentile_is_an_observation_that_enough_others_do_not_exceed(values: list[float], share: float) -> None:
    """Nearest rank by its definition, recounted naively."""
    found = stats.percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) * (1 - 1e-12)
    assert sum(value < found for value in values) <= share * len(values) * (1 + 1e-12)


def test_percentile_of_a_known_series() -> None:
    """1..100: the p50 is 50 and the p99 is 99, in any order of the series."""
    values = [float(value) for value in range(100, 0, -1)]
    assert [stats.percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 1.5), ([1.0], -0.1)])
def test_percentile_refuses_what_has_none(values: list[float], share: float) -> None:
    """No observations and shares outside 0..1 are errors, not numbers."""
    with pytest.raises(ValueError, match=r"no observations|not within"):
        stats.percentile(values, share)


def test_median_of_even_and_odd_counts() -> None:
    """The middle one, or the mean of both middle ones; none is an error."""
    assert stats.median([3.0, 1.0, 2.0]) == 2.0
    assert stats.median([4.0, 1.0, 2.0, 3.0]) == 2.5
    with pytest.raises(ValueError, match="no observations"):
        stats.median([])


def test_spread_scales_and_counts() -> None:
    """Seconds become microseconds, and an empty run says so instead of failing."""
    assert stats.spread([0.001, 0.002], 1e6) == {"n": 2, "p50": 1000.0, "p90": 2000.0, "p99": 2000.0, "max": 2000.0}
    assert stats.spread([]) == {"n": 0}


def test_medians_leave_out_rounds_without_the_key() -> None:
    """A key that one round lacks has the median of the others; a key that all lack is absent."""
    assert stats.medians([{"a": 1.0}, {"a": 3.0, "b": 5.0}], ["a", "b", "c"]) == {"a": 2.0, "b": 5.0}


def test_ratio_needs_both_and_a_base() -> None:
    """None rather than infinity or a made-up number."""
    assert stats.ratio(3.0, 2.0) == 1.5
    assert [stats.ratio(None, 1.0), stats.ratio(1.0, None), stats.ratio(1.0, 0.0)] == [None, None, None]
