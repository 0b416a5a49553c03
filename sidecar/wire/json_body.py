"""Reads a whole body as JSON, and says of one that cannot be read what is wrong with it and where.

The words are those of the JSON reader, with a line and a column; no part of the body is in them. Columns count characters.
What it does not know: any dialect. What a member must be is the readers' to say.
"""

from typing import Any

import orjson

from sidecar.errors import TranslationError


def json_of(body: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The value of a body.

    Raises:
        TranslationError: 400, it is no UTF-8, no JSON, or nested more deeply than can be read (1,024 levels); says where.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise TranslationError(_fault(body, error)) from None


def _fault(body: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        body.decode()
    except UnicodeDecodeError as odd:
        return f"the body is not valid UTF-8: see byte {odd.start}, counted from 0"
    if not body:
        return "the body is empty, and JSON was expected"
    place = f"line {error.lineno}, column {error.colno}"
    if "depth" in error.msg:
        return f"the body is nested too deeply: see {place}"
    return f"the body is not valid JSON: {error.msg}: see {place}"
