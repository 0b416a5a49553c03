from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.sticky import COUNTERS, HALVE_AFTER, SHARE, Binding, HeavyKeys, Sticky


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
    assert [key for key, _ in sticky.youngest(9)] == [5, 3, 1]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_the_table_is_an_exact_lru(steps: list[tuple[bool, int]]) -> None:
    """The table never exceeds its bound and always drops the key that was used longest ago."""
    sticky, naive = Sticky(4), list[int]()
    for bind, key in steps:
        if bind:
            sticky.bind(key, binding(sticky, "r/a"))
        found = sticky.get(key) is not None
        assert found == (bind or key in naive)
        if found:
            naive = [*(one for one in naive if one != key), key][-4:]
        assert len(sticky) == len(naive)


def test_a_template_is_heavy_and_conversations_are_not() -> None:
    """A derived key of more than 2.5 % of traffic is found, single conversations never are (Misra-Gries has no false
    alarm: its counts are too low, never too high)."""
    rng = np.random.default_rng(5)
    heavy, flagged, rare = HeavyKeys(), 0, 0
    for index in range(3 * HALVE_AFTER):
        if rng.random() < 0.04:
            flagged += heavy.observe(7)
        else:
            rare += heavy.observe(1000 + index // 3)
    assert flagged > 0.9 * 0.04 * (3 * HALVE_AFTER - 1000)
    assert rare == 0
    assert len(heavy) <= COUNTERS


@given(st.integers(0, 2**32), st.floats(1.01, 3.0))
@settings(max_examples=20)
def test_heavy_keys_truly_exceed_the_share(seed: int, exponent: float) -> None:
    """What is reported is above 2 % of all keys so far, at every moment (Zipf traffic of any steepness)."""
    heavy, counts = HeavyKeys(), Counter[int]()
    keys = np.random.default_rng(seed).zipf(exponent, 1_500).tolist()
    for index, key in enumerate(keys):
        counts[key] += 1
        if heavy.observe(key):
            assert counts[key] > SHARE * (index + 1)
    assert sum(counts.values()) == 1_500


def test_little_traffic_has_no_heavy_keys() -> None:
    """A service with one conversation is not a template."""
    heavy = HeavyKeys()
    assert not any(heavy.observe(1) for _ in range(400))
