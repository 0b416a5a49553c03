r"""How much work a regular expression may make on a text, so that a bad one is given up instead of run.

Python's `re` backtracks and cannot be interrupted: `(a+)+$` takes years on thirty letters. The number of ways in which
a match can be tried is bounded from the expression's own structure, for a text of n characters:

    one character, class, anchor     1
    x y                              ways(x) ways(y)
    x | y                            ways(x) + ways(y)
    x{low,high}                      (m - low + 1) ways(x)^m,  m = min(high, max(n, low))
    anywhere in the text             n + 1 beginnings, unless all of it starts with ^ or \A

and each way is worth one more for every _WAY_CHARS characters that it must read (`[ab]{9999}`). An expression runs only
when that stays below MOST_WAYS. The bound is coarse on purpose: `([a-z]+-)+` is refused
although engines without backtracking have no trouble with it. What is not understood (look-around, back references,
conditions) is refused too. Reference: R. Cox, "Regular Expression Matching Can Be Simple And Fast", 2007.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

MOST_WAYS: Final = 100_000  # some 10 ms of matching at the very worst; smaller refuses more, larger may hold the loop
MAX_PATTERN_CHARS: Final = 512
_MAX_DEPTH: Final = 32  # of groups in groups
_WAY_CHARS: Final = 16  # read in the time of a way; smaller refuses more, larger may hold the loop
_COUNT: Final = re.compile(r"\{(?!\})([0-9]*)(,([0-9]*))?\}", re.ASCII)  # as `re` reads it: {,5} and {,} count too
_MAX_DIGITS: Final = 4  # of a count
_GROUP: Final = re.compile(r"\?(?::|P<[A-Za-z_][A-Za-z0-9_]{0,63}>)", re.ASCII)
_SET_IN_SET: Final = re.compile(r"\[|--|&&|~~|\|\|")  # Python warns that these will mean something else one day
_REFUSED_ESCAPES: Final = frozenset("0123456789gN")


class _Work(NamedTuple):
    """What a part of an expression may cost."""

    ways: float = 1.0
    chars: float = 1.0  # that one way reads at least


class _Refused(Exception):
    """The expression is not understood, or would make too much work."""


def search(pattern: str, text: str) -> bool | None:
    """Whether the pattern is found anywhere in the text; None where that would be too much work, or it is no pattern."""
    found = _compiled(pattern) if ways(pattern, len(text)) <= MOST_WAYS else None
    return None if found is None else found.search(text) is not None


def ways(pattern: str, size: int) -> float:
    """A bound on the ways in which `pattern` can be tried on `size` characters; infinite for what is not understood."""
    if len(pattern) > MAX_PATTERN_CHARS:
        return float("inf")
    try:
        return _Reader(pattern, size).whole()
    except _Refused:
        return float("inf")


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> "re.Pattern[str] | None":
    try:
        return re.compile(pattern)
    except re.error:
        return None


class _Reader:
    """Walks over one expression from left to right and counts."""

    def __init__(self, pattern: str, size: int) -> None:
        self._text = pattern
        self._size = size
        self._at = 0
        self._depth = 0

    def whole(self) -> float:
        """The ways of all of it, from all places where it may begin. Raises _Refused."""
        work = self._row()
        anchored = self._text.startswith(("^", "\\A")) and self._peek() != "|"
        work = self._or_else(work)
        if self._at < len(self._text):
            raise _Refused
        count = work.ways * max(1.0, min(work.chars, self._size) / _WAY_CHARS)
        return count if anchored else count * (self._size + 1)

    def _or_else(self, work: _Work) -> _Work:
        """`work`, and the alternatives that follow."""
        while self._peek() == "|":
            self._at += 1
            other = self._row()
            work = _Work(work.ways + other.ways, max(work.chars, other.chars))
        return work

    def _row(self) -> _Work:
        ways, chars = 1.0, 0.0
        while self._peek() not in ("", "|", ")"):
            part = self._repeated(self._one())
            ways *= part.ways
            chars += part.chars
            if ways > MOST_WAYS:
                raise _Refused
        return _Work(ways, chars)

    def _one(self) -> _Work:
        """One character, class or group."""
        first = self._text[self._at]
        self._at += 1
        if first == "\\":
            if self._peek() in _REFUSED_ESCAPES:
                raise _Refused
            self._at += 1
        elif first == "[":
            self._class()
        elif first == "(":
            return self._group()
        return _Work()

    def _class(self) -> None:
        """Past the closing bracket; the first character of a class may be one itself."""
        self._at += self._peek() == "^"
        begin = self._at
        self._at += self._peek() == "]"
        while self._peek() not in ("", "]"):
            self._at += 2 if self._peek() == "\\" else 1
        if _SET_IN_SET.search(self._text, begin, self._at):
            raise _Refused
        self._at += 1

    def _group(self) -> _Work:
        if self._peek() == "?":
            named = _GROUP.match(self._text, self._at)
            if named is None:
                raise _Refused
            self._at = named.end()
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _Refused
        work = self._or_else(self._row())
        self._depth -= 1
        self._at += 1
        return work

    def _repeated(self, inner: _Work) -> _Work:
        """The work with the quantifier that follows, if one does."""
        low, high = self._quantifier()
        self._at += self._peek() in ("?", "+") and (low, high) != (1, 1)  # lazy or possessive: no more ways
        most = min(high, max(self._size, low))  # rounds that match nothing count until `low`
        if most <= 1 or inner.ways == 1.0:
            power = inner.ways
        elif most > 64:
            raise _Refused
        else:
            power = inner.ways**most
        return _Work((max(most - low, 0) + 1) * power, inner.chars * max(low, 1))

    def _quantifier(self) -> tuple[int, int]:
        mark = self._peek()
        if mark in ("*", "+", "?"):
            self._at += 1
            return (1 if mark == "+" else 0), (1 if mark == "?" else self._size)
        counted = _COUNT.match(self._text, self._at)
        if counted is None:
            return 1, 1
        self._at = counted.end()
        if max(len(counted[1]), len(counted[3] or "")) > _MAX_DIGITS:
            raise _Refused
        low = int(counted[1] or 0)
        if counted[2] is None:
            return low, low
        return low, int(counted[3]) if counted[3] else self._size

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]
