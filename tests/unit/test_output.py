"""What the command line prints stays on its line and does nothing to a terminal, and programs read the same value back."""

import csv
import io
import json

import pytest

from sidecar.output import cell, plain, print_csv, print_json

HOSTILE = "a\x00\t\n\r\x0b\x0c\x1b[31m\x7f\x85\x9b\u200b\u202e\u2028\u2029\u2066\ufeffé€😀"


def test_a_json_record_is_one_line_of_harmless_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Line ends of Unicode (U+0085, U+2028, U+2029), controls and marks that turn text are escapes; letters are not."""
    print_json([{"model": HOSTILE, HOSTILE: 1}])
    text = capsys.readouterr().out
    assert text.count("\n") == 1 == len(text.splitlines())
    assert text.removesuffix("\n").isprintable()
    assert json.loads(text) == {"model": HOSTILE, HOSTILE: 1}
    assert "é€😀" in text


def test_a_csv_record_is_one_line_of_harmless_text(capsys: pytest.CaptureFixture[str]) -> None:
    """The same escapes; lists as JSON, null as nothing, and a line of names also without records."""
    print_csv([{"a": HOSTILE, "b": [HOSTILE, 1], "c": None, "d": 'q",', "e": 1.5}], "abcde")
    text = capsys.readouterr().out
    assert len(text.splitlines()) == 2
    assert all(line.isprintable() for line in text.splitlines())
    (row,) = csv.DictReader(io.StringIO(text))
    assert json.loads(f'"{row["a"]}"') == HOSTILE
    assert json.loads(row["b"]) == [HOSTILE, 1]
    assert (row["c"], row["d"], row["e"]) == ("", 'q",', "1.5")
    print_csv([], ("x", "y"))
    assert capsys.readouterr().out == "x,y\n"


def test_cells_are_harmless_too() -> None:
    assert cell(HOSTILE).isprintable()
    assert plain("as it is") == "as it is"
