from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.sticky import COUNTERS, HALVE_AFTER, MAX_KEYS, SHARE, TEMPLATE_REPEATS, Binding, HeavyKeys, Sticky


def binding(sticky: Sticky, owner: str) -> Binding:
    return Binding(owner, owner, 1.0, sticky.generation(owner))


def test_a_binding_holds_until_its_owner_is_unbound() -> None:
    """Unbinding an arm frees all its conversations at once and touches no other."""
    sticky = Sticky()
    sticky.bind(1, binding(sticky, "r/a"))
    sticky.bind(2, binding(sticky, "r/b"))
    sticky.unbind("r/a")
    assert sticky.get(1) is None
    assert sticky.get(2) == binding(sticky, "r/b")
    assert len(sticky) == 1
    sticky.bind(1, binding(sticky, "r/a"))
    assert sticky.get(1) is not None


def test_youngest_leaves_out_void_bindings_and_obeys_its_limit() -> None:
    """A snapshot takes the youngest conversations that still hold."""
    sticky = Sticky()
    for key in range(6):
        sticky.bind(key, binding(sticky, "r/a" if key % 2 else "r/b"))
    sticky.unbind("r/b")
    assert [key for key, _ in sticky.youngest(2)] == [5, 3]
    assert sticky.get(1) is not None  # used again: among the youngest, however long ago it was made
    assert [key for key, _ in sticky.youngest(2)] == [1, 5]
    assert sticky.get(3) is not None
    assert sticky.get(5) is not None
    assert [key for key, _ in sticky.youngest(9)] == [5, 3, 1]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_the_keys_that_were_used_last_are_always_there(steps: list[tuple[bool, int]]) -> None:
    """The table never exceeds its bound; the younger half of it is exact, and nothing is there that was never bound."""
    sticky, used, bound = Sticky(6), list[int](), set[int]()
    for bind, key in steps:
        if bind:
            sticky.bind(key, binding(sticky, "r/a"))
            bound.add(key)
        there = sticky.get(key) is not None
        assert there or key not in used[-3:]
        assert key in bound or not there
        if there:
            used = [*(one for one in used if one != key), key]
        assert len(sticky) <= 6


def test_a_void_binding_is_dropped_wherever_it_lies() -> None:
    """Also from the old half, where a look would have made it young."""
    sticky = Sticky(4)
    for key in range(3):
        sticky.bind(key, binding(sticky, "r/a"))
    sticky.unbind("r/a")
    assert sticky.get(0) is None
    assert sticky.get(2) is None
    assert len(sticky) == 1


def test_a_template_that_grows_and_begins_again_is_found_by_its_share() -> None:
    """An agent's task: three calls that grow, then anew. One call of three is smaller than the last, so these are 4 %
    of the traffic when the task is 12 %; it never has many more repeats than growths. Conversations of three turns are never
    found (Misra-Gries has no false alarm: its counts are too low, never too high)."""
    rng = np.random.default_rng(5)
    heavy, flagged, tasks, rare, others = HeavyKeys(), 0, 0, 0, 0
    for index in range(3 * HALVE_AFTER):
        if rng.random() < 0.12:
            tasks += 1
            found = heavy.observe(7, 100 * (tasks % 3))
            flagged += found and index > 2000
        else:
            others += 1
            rare += heavy.observe(1000 + others // 3, 100 * (others % 3))
    assert flagged > 0.9 * 0.12 * (3 * HALVE_AFTER - 2000)
    assert rare == 0
    assert len(heavy._counts) <= COUNTERS


@given(st.integers(0, 2**32), st.floats(1.01, 3.0))
@settings(max_examples=20)
def test_keys_that_are_called_frequent_truly_exceed_the_share(seed: int, exponent: float) -> None:
    """Counts of what is reported are above 2 % of all calls so far, at every moment (Zipf traffic of any steepness)."""
    heavy, counts = HeavyKeys(), Counter[int]()
    keys = np.random.default_rng(seed).zipf(exponent, 1_500).tolist()
    for index, key in enumerate(keys):
        counts[key] += 1
        if heavy._is_frequent(key, counted=True):
            assert counts[key] > SHARE * (index + 1)
    assert sum(counts.values()) == 1_500


def test_a_key_is_a_template_after_sixteen_repeats_and_for_good() -> None:
    """Whatever the traffic; a smaller call is a repeat too; growth takes one back until then, and nothing afterwards."""
    heavy = HeavyKeys()
    assert [heavy.observe(1, 100 - n) for n in range(TEMPLATE_REPEATS)] == [False] * TEMPLATE_REPEATS
    assert [heavy.observe(1, 500), heavy.observe(1, 500), heavy.observe(1, 500)] == [False, False, True]
    assert all(heavy.observe(1, 500 + n) for n in range(100))
    assert [heavy.observe(2, 500) for _ in range(3)] == [False] * 3


def test_remembered_keys_are_bounded_and_the_least_recent_goes_first() -> None:
    heavy = HeavyKeys()
    for key in range(1, MAX_KEYS + 100):
        heavy.observe(1, 10)
        heavy.observe(key, 10)
    assert MAX_KEYS // 2 <= len(heavy) <= MAX_KEYS
    assert heavy.observe(1, 10)
    assert not heavy.observe(2, 10)
