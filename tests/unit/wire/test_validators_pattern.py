"""An expression runs only where the work it can make is bounded."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.wire.validators_pattern import MAX_PATTERN_CHARS, MOST_WAYS, search, ways

INFINITE = float("inf")


@pytest.mark.parametrize(
    ("pattern", "size", "count"),
    [
        (r"^\d{4}-\d{2}-\d{2}$", 10, 1),
        ("cat", 9, 10),
        ("^cat|dog|cow", 9, 30),  # only the first of them is held to the beginning
        ("^(cat|dog)", 9, 2),
        ("^a*", 9, 10),
        ("^a+b*", 9, 90),
        ("^a?", 9, 2),
        ("^a??", 9, 2),
        ("^a++", 9, 9),
        ("^a{2}", 9, 1),
        ("^a{2,4}", 9, 3),
        ("^a{2,}", 9, 8),
        ("^a{,2}", 9, 3),
        ("^a{,}", 9, 10),
        ("^a{}", 9, 1),  # no quantifier: the characters themselves
        ("^a{63}", 99, 4),  # one way, which reads as much as four
        ("^(?:a{9}){7,8}", 99, 8),
        ("^a{9999}", 32, 2),  # a way ends with the text
        ("^(?:ab)(?P<n>c)", 9, 1),
        (r"\Aa+", 9, 9),
        (r"^[^]a\]]+x", 9, 9),
        ("^[]]", 9, 1),
        ("^(a|b){3}", 9, 8),
        ("^(a|b)?", 9, 4),
        ("^(a?){12}", 3, 4096),  # rounds that match nothing can be any nine of the twelve
        ("^((a))", 9, 1),
        ("^(a+)+$", 5, 5.0**5 * 5),
    ],
)
def test_ways(pattern: str, size: int, count: float) -> None:
    """The formula of the module's head."""
    assert ways(pattern, size) == count


@pytest.mark.parametrize(
    "pattern",
    [
        "^(a+)+$",
        "(a|b|ab)*c",
        "(?=a)b",
        r"(a)\1",
        "(?(1)a|b)",
        "(?i)a",
        "a)b",
        r"\g<0>",
        "(" * 40 + "a" + ")" * 40,
        "a" * (MAX_PATTERN_CHARS + 1),
        "(a*)*" * 9,
        "[[a]]",
        "[a--b]",
        "^(a+){,64}$",
        "^(a+){,}$",
        "^(a+){0,99999}$",
        "^(a+){00000}$",
        "a{99999999999999}",
    ],
)
def test_what_is_refused(pattern: str) -> None:
    """Nested choice, what is not understood, what is too long: never run on a long text."""
    assert ways(pattern, 5000) == INFINITE
    assert search(pattern, "a" * 5000) is None


def test_search() -> None:
    """Found, not found, and unknown where it is no expression or the text is too long for it."""
    assert search(r"\bcat\b", "a cat sat") is True
    assert search(r"\bcat\b", "category") is False
    assert search("(", "x") is None
    assert search(r"\d+\s+\w+", "x" * 1000) is None
    assert search(r"\d+\s+\w+", "take 5 apples") is True
    assert search("x" * 600, "x") is None


def test_an_evil_expression_is_harmless() -> None:
    """Thirty letters would take (a+)+$ minutes; it is refused at once."""
    assert search("^(a+)+$", "a" * 30 + "b") is None
    assert ways("^(a+)+$", 30) > MOST_WAYS
    assert search("^(a?){40}b", "a" * 10) is None, "more rounds than characters"


@pytest.mark.parametrize("pattern", ["^x|a*c", "(?:[ac]{9999}){3}b", "[^b]{9999}c"])
def test_a_long_text_is_not_read_again_from_each_place(pattern: str) -> None:
    """Few ways, each of them long, from 65,000 places: that is seconds of matching."""
    assert search(pattern, "a" * 65_000) is None


@settings(max_examples=300)
@given(st.text(alphabet="ab(|)*+?[]^$.\\{}02,d:P", max_size=12), st.text(alphabet="ab2d", max_size=12))
def test_whatever_the_expression_it_answers_like_python_or_not_at_all(pattern: str, text: str) -> None:
    """Where there is an answer it is `re.search`'s."""
    found = search(pattern, text)
    if found is not None:
        assert found == (re.search(pattern, text) is not None)
