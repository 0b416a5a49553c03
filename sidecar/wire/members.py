"""Takes the members of a decoded JSON object one by one, with their types checked; what nobody took is left over.

An error says where and what: "messages[2].content: expected a string, got a number". null counts as absent. No value of the
body is ever part of a message: it may be a prompt or a key.
"""

from collections.abc import Iterator
from typing import Any, NoReturn, TypeGuard

from sidecar.errors import TranslationError

Json = dict[str, Any]
_LARGEST = 1 << 63  # JSON has no limit, its writers have this one
_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}


def wrong(where: str, wanted: str, value: object) -> NoReturn:
    """Raises the TranslationError that says it."""
    got = "null" if value is None else _NAMES.get(type(value), "something else")
    raise TranslationError(f"{where or 'the body'}: expected {wanted}, got {got}")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether JSON says a number; for Python `true` is one, too."""
    return type(value) in (int, float)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether JSON says a whole number, without a point."""
    return type(value) is int


class Members:
    """One object at the path `where` ("" for the body itself). Raises TranslationError where a type is wrong."""

    __slots__ = ("_left", "where")

    def __init__(self, value: object, where: str = "") -> None:
        if not isinstance(value, dict):
            wrong(where, "an object", value)
        self._left: Json = value.copy()
        self.where = where

    def at(self, name: str) -> str:
        """The path of a member."""
        return f"{self.where}.{name}" if self.where else name

    def has(self, name: str) -> bool:
        """Whether it is there, and not null, and not taken yet."""
        return self._left.get(name) is not None

    def has_any(self, names: frozenset[str]) -> bool:
        """Whether one of these members is there, be it null, and not taken yet."""
        return not names.isdisjoint(self._left)

    def peek(self, name: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        """The value as it is, which is not taken by this; None: absent."""
        return self._left.get(name)

    def any(self, name: str) -> Any:  # noqa: ANN401 - whatever JSON holds
        """The value as it is; None: absent."""
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        value = self._left.pop(name, None)
        if value is not None and not isinstance(value, str):
            wrong(self.at(name), "a string", value)
        return value

    def needed_text(self, name: str) -> str:
        value = self._left.pop(name, None)
        if not isinstance(value, str):
            wrong(self.at(name), "a string", value)
        return value

    def integer(self, name: str) -> int | None:
        """A whole number of at most 64 bits; 16.0 is one too."""
        value = self._left.pop(name, None)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not is_whole(value) or not -_LARGEST <= value < _LARGEST:
            wrong(self.at(name), "a whole number", value)
        return value

    def number(self, name: str) -> float | None:
        """A number, as it was written: 1 stays an int."""
        value = self._left.pop(name, None)
        if value is not None and not is_number(value):
            wrong(self.at(name), "a number", value)
        return value

    def flag(self, name: str) -> bool | None:
        value = self._left.pop(name, None)
        if value is not None and not isinstance(value, bool):
            wrong(self.at(name), "true or false", value)
        return value

    def object(self, name: str) -> "Members | None":
        value = self._left.pop(name, None)
        return None if value is None else Members(value, self.at(name))

    def mapping(self, name: str) -> Json | None:
        """An object that is carried as it is."""
        value = self._left.pop(name, None)
        if value is not None and not isinstance(value, dict):
            wrong(self.at(name), "an object", value)
        return value

    def items(self, name: str) -> list[Any] | None:
        value = self._left.pop(name, None)
        if value is not None and not isinstance(value, list):
            wrong(self.at(name), "a list", value)
        return value

    def objects(self, name: str) -> "Iterator[Members]":
        """The objects of a list, each with its path; nothing when it is absent."""
        for number, value in enumerate(self.items(name) or ()):
            yield Members(value, f"{self.at(name)}[{number}]")

    def texts(self, name: str) -> list[str] | None:
        """A list of strings."""
        values = self.items(name)
        for number, value in enumerate(values or ()):
            if not isinstance(value, str):
                wrong(f"{self.at(name)}[{number}]", "a string", value)
        return values

    def keep(self, name: str, value: Any) -> None:  # noqa: ANN401 - whatever JSON holds
        """Gives back what was taken, or a part of it: it is left over."""
        self._left[name] = value

    def rest(self) -> Json:
        """What nobody took, without nulls."""
        if not self._left:
            return {}
        return {name: value for name, value in self._left.items() if value is not None}
