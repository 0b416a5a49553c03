"""Numbers of a text: their shape and size, what they tell, and on what they depend."""

from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.features import FEATURES, HASHED, MAX_BYTES, WORDS_FROM, features

TEXTS = st.text(max_size=300)


@given(TEXTS, st.integers(0, 2**32 - 1))
def test_any_text_gives_so_many_finite_numbers_and_equal_texts_equal_ones(text: str, salt: int) -> None:
    """float32, FEATURES of them, none negative before the words; the words have length one or none at all."""
    made = features(text, salt)
    assert made.shape == (FEATURES,)
    assert made.dtype == np.float32
    assert FEATURES == 4 + HASHED == 36
    assert np.isfinite(made).all()
    assert (made[:4] >= 0).all()
    assert float(np.linalg.norm(made[4:])) == pytest.approx(1.0, abs=1e-6) or not made[4:].any()
    assert np.array_equal(made, features(text, salt))


def test_the_first_numbers_are_length_digits_code_and_lines() -> None:
    """Stated by hand: one digit, one sign and one line end in eight bytes."""
    made = features("ab 1;\ncd")
    assert made[:4] == pytest.approx([np.log1p(8) / 8, 4 / 8, 8 / 8, 20 / 8])
    longer = features("ab 1;\ncd" * 10)
    assert longer[0] > made[0]
    assert longer[1:4] == pytest.approx(made[1:4])


def test_an_empty_text_is_all_zeros() -> None:
    assert not features("").any()


def test_texts_of_other_scripts_show_their_length_and_no_words() -> None:
    """The bytes of other scripts are no ASCII letters; a lone surrogate is no error."""
    made = features("数学の問題 12")
    assert made[0] > 0.0
    assert made[1] > 0.0
    assert not made[4:].any()
    assert features("\ud800").shape == (FEATURES,)


def test_words_do_not_depend_on_case_or_place_and_the_salt_moves_them() -> None:
    made = features("Sort the List")
    assert np.array_equal(made[4:], features("list the SORT")[4:])
    assert not np.array_equal(made[4:], features("Sort the List", 1)[4:])
    assert np.array_equal(made[:4], features("Sort the List", 1)[:4])


def test_words_of_opposite_signs_in_one_place_take_each_other_out() -> None:
    """Two words that hash to one place with opposite signs sum to nothing: no division by zero, no words."""
    by_place: dict[int, str] = {}
    for number in range(26**2):
        word = chr(97 + number // 26) + chr(97 + number % 26)
        by_place.setdefault(crc32(word.encode()) & (2 * HASHED - 1), word)
    plus, minus = next((by_place[at], by_place[at + HASHED]) for at in range(HASHED) if at + HASHED in by_place)
    assert features(plus)[4:].any()
    assert not features(f"{plus} {minus}")[4:].any()


def test_only_the_end_of_a_long_text_is_looked_at() -> None:
    """Shares come from the last MAX_BYTES, words from the last WORDS_FROM; only the length counts all."""
    end = "word " * (WORDS_FROM // 5 + 1)
    first, second = features("1" * MAX_BYTES + end), features("{" * MAX_BYTES + end)
    assert np.array_equal(first[4:], second[4:])
    assert first[0] == second[0]
    assert not np.array_equal(first[1:3], second[1:3])
    whole = "x" * MAX_BYTES
    assert np.array_equal(features("1" * MAX_BYTES + whole)[1:], features("{" * MAX_BYTES + whole)[1:])
