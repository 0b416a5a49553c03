"""Members of Gemini's objects, in either of the two spellings that its servers take.

REST clients write `generationConfig` or `generation_config`: both are read, the first is written. Where a list is due, its
only element may stand alone, as many of the provider's own examples have it. Objects that hold a user's names (arguments,
labels, JSON schemas) are never renamed.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

import orjson

from sidecar.errors import TranslationError
from sidecar.wire.members import Json, Members

MAX_DEPTH = 100
_HUMP = re.compile(r"(?<=[a-z0-9])_+([a-z0-9])")
_ALIASES = {"_responseJsonSchema": "responseJsonSchema"}  # the first name that it had


def camel(name: str) -> str:
    """`top_k` as `topK`."""
    if "_" not in name:
        return name
    known = _ALIASES.get(name)
    return known if known is not None else _HUMP.sub(lambda found: found[1].upper(), name)


def camelled(value: Json) -> Json:
    """The object with its own members' names in camelCase; what is inside of them stays. null does not replace a value."""
    if "_" not in "".join(value):
        return value
    renamed: Json = {}
    for name, member in value.items():
        key = camel(name)
        if member is not None or key not in renamed:
            renamed[key] = member
    return renamed


class GenerateMembers(Members):
    """One object of a Gemini body. As Members, in both spellings."""

    __slots__ = ()

    def __init__(self, value: object, where: str = "") -> None:
        super().__init__(value, where)
        if "_" in "".join(self._left):
            self._left = camelled(self._left)

    def object(self, name: str) -> "GenerateMembers | None":
        value = self._left.pop(name, None)
        return None if value is None else GenerateMembers(value, self.at(name))

    def items(self, name: str) -> list[Any] | None:
        """The list; one object or string that stands where a list is due is a list of one."""
        value = self._left.get(name)
        if isinstance(value, dict | str):
            del self._left[name]
            return [value]
        return super().items(name)

    def objects(self, name: str) -> "Iterator[GenerateMembers]":
        where = self.at(name)
        for number, value in enumerate(self.items(name) or ()):
            yield GenerateMembers(value, f"{where}[{number}]")


def json_text(value: object, where: str) -> str:
    """A JSON value as text. Raises TranslationError where UTF-8, 64 bits or a sane depth cannot hold it."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        raise TranslationError(
            f"{where}: expected JSON that is valid UTF-8, of 64-bit numbers and not too deep"
        ) from None


def json_object(text: str) -> Json | None:
    """The object that the text is; None: it is none, or one that is too deep to be written again."""
    try:
        value = orjson.loads(text)
        if text.count("{") + text.count("[") > MAX_DEPTH:
            orjson.dumps(value)
    except (orjson.JSONDecodeError, TypeError):
        return None
    return value if isinstance(value, dict) else None


def json_bytes(value: object) -> bytes:
    """A JSON value for the wire, whatever it holds: a lone surrogate stays an escape."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def is_texts(value: object) -> "TypeGuard[list[str]]":
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
