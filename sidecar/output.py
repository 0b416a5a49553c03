"""What the command line prints: tables for people, one JSON object a line for programs."""

import csv
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

# What readers of lines or terminals act on: controls, line and paragraph ends, and marks that turn or hide text.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_MAX_CELL: Final = 48


def print_json(records: Iterable[Mapping[str, Any]]) -> None:
    """One object a line."""
    for record in records:
        text = orjson.dumps(record, option=orjson.OPT_NON_STR_KEYS).decode()
        sys.stdout.write(plain(text) + "\n")  # JSON itself leaves most of them alone


def print_csv(records: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """A line of names, then one line a record, also when a value holds line ends: they are escaped as in JSON."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        writer.writerow([_field(record[column]) for column in columns])


def _field(value: object) -> object:
    if isinstance(value, dict | list):
        value = orjson.dumps(value).decode()
    return plain(value) if isinstance(value, str) else value


def plain(text: str) -> str:
    """The same text on one line, without characters that act on a terminal: `\\uXXXX` stands for them."""
    return text if text.isprintable() else _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_table(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Aligned columns; unknown values are a dash."""
    rows = [[cell(record.get(column)) for column in columns] for record in records]
    widths = [max([len(column), *(len(row[at]) for row in rows)]) for at, column in enumerate(columns)]
    for row in [list(columns), *rows]:
        sys.stdout.write("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() + "\n")


def cell(value: object) -> str:
    """One value as a person reads it; control characters of foreign text are escaped."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    text = text if text.isprintable() else text.encode("unicode_escape").decode()
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 1] + "…"
