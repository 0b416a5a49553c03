"""What the command line prints: tables for people, one JSON object a line for programs."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

_UNSAFE: Final = re.compile("[\x7f-\x9f\u2028\u2029]")
_MAX_CELL: Final = 48


def print_json(records: Iterable[Mapping[str, Any]]) -> None:
    """One object a line."""
    for record in records:
        text = orjson.dumps(record, option=orjson.OPT_NON_STR_KEYS).decode()
        if not text.isprintable():  # what JSON leaves alone although readers of lines and terminals would act on it
            text = _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        sys.stdout.write(text + "\n")


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
