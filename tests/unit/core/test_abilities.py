"""What a model can do: unknown is no limit, and what rules may ask of it are plain values."""

from math import inf

import pytest

from sidecar.core.abilities import FIELDS, NEEDS, UNKNOWN, Capabilities, Limits, named

SMALL = Capabilities(tools=True, images=False, context_tokens=8192, regions=("EU",), languages=("de", "en"))


def test_unknown_is_no_limit() -> None:
    """Nothing known, or only good news, keeps no request away."""
    assert UNKNOWN.limits == Limits(0, inf, inf)
    assert not UNKNOWN.limits.any
    assert not Capabilities(tools=True, images=True, languages=("de",)).limits.any


@pytest.mark.parametrize("name", NEEDS)
def test_what_is_missing_is_a_limit(name: str) -> None:
    """One bit for each capability, and its name back from the bit."""
    limits = Capabilities(**{name: False}).limits
    assert limits.any
    assert named(limits.lacks) == [name]


def test_sizes_are_limits() -> None:
    """Of the context and of the answer."""
    assert SMALL.limits == Limits(NEEDS["images"], 8192, inf)
    assert Capabilities(max_output_tokens=5).limits == Limits(0, inf, 5)


def test_the_first_word_counts_and_the_rest_is_filled_in() -> None:
    """`over` takes from the other one what this one does not know, and nothing else."""
    other = Capabilities(tools=False, images=True, audio=True, context_tokens=1, max_output_tokens=9, regions=("US",))
    joined = SMALL.over(other)
    assert (joined.tools, joined.images, joined.audio) == (True, False, True)
    assert (joined.context_tokens, joined.max_output_tokens, joined.regions) == (8192, 9, ("EU",))
    assert UNKNOWN.over(SMALL) == SMALL == SMALL.over(UNKNOWN)
    assert all(hasattr(joined, name) for name in FIELDS)


def test_facts_for_rules_are_plain_and_known() -> None:
    """Numbers are floats as everywhere in rules; two regions are no region."""
    assert SMALL.facts() == {"tools": True, "images": False, "context_tokens": 8192.0, "region": "EU"}
    assert Capabilities(regions=("EU", "US")).facts() == {}
