"""How near the end of memory is: levels, hysteresis."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.pressure import CALLS, RECORDS, RELIEF, Pressure


def test_records_go_first_and_calls_last() -> None:
    """Up in order, and down only when there is relief."""
    one = Pressure(1000)
    levels = []
    for used in (500, 849, 850, 820, 801, 799, 949, 950, 920, 901, 899, 700, 960, 100):
        one.observe(used)
        levels.append(one.level)
    assert levels == [0, 0, 1, 1, 1, 0, 1, 2, 2, 2, 1, 0, 2, 0]


def test_without_a_limit_nothing_is_given_up() -> None:
    one = Pressure(None)
    assert not one.observe(10**12)
    assert (one.level, one.used_bytes) == (0, 10**12)


def test_a_change_is_told_once() -> None:
    one = Pressure(100)
    assert [one.observe(used) for used in (10, 90, 90, 96, 96, 10)] == [False, True, False, True, False, True]


@given(st.lists(st.integers(0, 1200), max_size=60))
def test_levels_keep_their_bounds(readings: list[int]) -> None:
    """At or above a mark its level holds; below the mark less the relief it does not, whatever came before."""
    one = Pressure(1000)
    for used in readings:
        one.observe(used)
        share = used / 1000
        assert one.level >= (share >= RECORDS) + (share >= CALLS)
        assert one.level <= (share >= RECORDS - RELIEF) + (share >= CALLS - RELIEF)


@pytest.mark.parametrize("used", [849, 850])
def test_the_mark_belongs_to_the_level(used: int) -> None:
    one = Pressure(1000)
    assert one.observe(used) == (used == 850)
