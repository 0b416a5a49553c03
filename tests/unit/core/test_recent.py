"""The table of what was used last: bounded, and never without the younger half."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.recent import Recent


def test_what_was_used_last_is_there_and_the_table_is_bounded() -> None:
    table = Recent[int, str](8)
    for key in range(100):
        table.put(key, str(key))
        if 50 in table:
            table.put(50, "50")
    assert len(table) <= 8
    assert all(key in table for key in (50, 97, 98, 99))
    assert 90 not in table
    assert [key for key, _ in table.youngest()][:2] == [50, 99]


def test_a_value_that_counts_as_false_is_a_value() -> None:
    table = Recent[int, bool](4)
    table.put(1, False)
    assert table.pop(1) is False
    assert table.pop(1) is None
    assert 1 not in table


@given(keys=st.lists(st.integers(0, 12), max_size=200), half=st.integers(1, 5))
def test_the_younger_half_of_the_distinct_keys_is_always_known(keys: list[int], half: int) -> None:
    """After any uses: the last `half` distinct keys are there, in this order, and never more than 2 x half entries."""
    table = Recent[int, int](2 * half)
    used: list[int] = []
    for number, key in enumerate(keys):
        table.put(key, number)
        used = [key, *(one for one in used if one != key)]
        assert len(table) <= 2 * half
        assert [found for found, _ in table.youngest()][:half] == used[:half]
        assert dict(table.youngest())[key] == number
        assert list(table.youngest_keys()) == [found for found, _ in table.youngest()]


def test_a_put_tells_whether_the_key_was_there() -> None:
    """Also of a key that the same put would push out."""
    table = Recent[int, bool](4)
    assert [table.put(key, True) for key in (1, 2, 1, 3, 2)] == [False, False, True, False, True]
