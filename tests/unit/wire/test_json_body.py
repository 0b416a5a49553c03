"""A body that is no JSON: what is wrong with it, and where, without a part of it."""

import pytest

from sidecar.errors import TranslationError
from sidecar.wire.json_body import json_of


def test_json_is_read() -> None:
    assert json_of(b' {"a": [1, null]} ') == {"a": [1, None]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty, and JSON was expected"),
        (b'{"a":"\xff"}', "the body is not valid UTF-8: see byte 6, counted from 0"),
        (b"[" * 1_100 + b"]" * 1_100, "the body is nested too deeply: see line 1, column "),
        (b'{"a":1,\n"b": secret}', "the body is not valid JSON: "),
        (b'{"a":1,\n"b": secret}', ": see line 2, column 6"),
        ('{"é":"secret'.encode(), ": see line 1, column "),
        (b'{"a":"\\ud800"}', "see line 1, column "),
    ],
)
def test_the_fault_is_named_with_its_place(body: bytes, words: str) -> None:
    with pytest.raises(TranslationError) as caught:
        json_of(body)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
