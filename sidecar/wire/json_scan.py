"""Finds the top-level members of a JSON object in the bytes as they came, in slices of bounded time.

Request bodies are never re-serialised, so we need places and not values: where each top-level key and its value stand.
Bodies of megabytes are mostly a few long strings, and the next quote is found at memory speed; brackets and quotes are
the only other bytes looked at. The grammar is checked at the top level (keys, colons, commas, scalars); inside values
only brackets and string ends are: what is wrong in there is the upstream's to refuse.
"""

import re
import sys
from collections import deque
from collections.abc import Generator
from typing import NamedTuple

import msgspec

MAX_MEMBERS = 4096  # of one object; a body with more is no request we know, and is left alone
_MAX_TOKENS = 1500  # looked at between two pauses: about 1 ms of Python, whatever the bytes are
_MAX_DEPTH = 900  # about where the other reader, which is recursive, gives up too
_STEPS = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}
_KEPT_ITEMS = 64  # messages remembered from each end of a conversation
_decode_str = msgspec.json.Decoder(str).decode

# Runs are bounded so that no single match can hold the loop: 1 KiB of key, 4 KiB of number, 64 KiB of white space.
_KEY = re.compile(rb'[ \t\r\n]{0,65536}"((?>(?:[^"\\]|\\.){0,1024}))"[ \t\r\n]{0,65536}:[ \t\r\n]{0,65536}', re.DOTALL)
_SCALAR = re.compile(rb"(?:true|false|null|-?(?:0|[1-9][0-9]{0,4096})(?:\.[0-9]{1,4096})?(?:[eE][-+]?[0-9]{1,4096})?)")
_SPACE = re.compile(rb"[ \t\r\n]{0,65536}")
# Everything inside a value up to the next bracket or long string; strings of up to 200 bytes between escapes are short.
# Groups that repeat keep what they have: possessive, or where that goes wrong (`wire.http1`) atomic, which takes longer.
_ESCAPED = rb"(?:\\.[^\"\\]{0,200}+){0,20}"
_TURNS = rb'(?:[^"{}\[\]]++|"[^"\\]{0,200}+%b")*'
_TEXTS = rb'(?:\\.[^"\\]*+)*'
_RIGHT = sys.version_info >= (3, 11, 7)
_KEPT = rb"%b+" if _RIGHT else rb"(?>%b)"
_PLAIN = re.compile(_KEPT % (_TURNS % (_KEPT % _ESCAPED)), re.DOTALL)
_TEXT = re.compile(rb'[^"\\]*+' + _KEPT % _TEXTS, re.DOTALL)  # a text, from any place not in an escape


class Member(NamedTuple):
    """One top-level member: where the key's text (without quotes) and the value begin and end."""

    key_start: int
    key_end: int
    start: int
    end: int


class MemberScanner:
    """Scans one object. Call `step` until it returns True; then `valid`, `members` and `items` are final."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.valid = False
        self.members: list[Member] = []
        self._kept: dict[bytes, _Kept] = {}
        self._max_bytes = 0
        self._mark = 0  # where the present slice began
        self._tokens = 0
        self._run = self._object()

    def step(self, max_bytes: int) -> bool:
        """Scans about `max_bytes` further (less where tokens are dense). True when there is nothing more to do."""
        self._max_bytes = max(max_bytes, 64)  # so that every slice makes progress
        self._tokens = 0
        return next(self._run, True)

    def finish(self) -> "MemberScanner":
        """Scans to the end in one go: for bodies known to be small."""
        while not self.step(len(self.body) + 1):
            pass
        return self

    def key(self, member: Member) -> bytes:
        """The key as a parser reads it."""
        return _plain(self.body[member.key_start : member.key_end])

    def items(self, key: bytes) -> list[tuple[int, int]]:
        """The places of the objects directly in the array `messages` or `input`: the first and the last 64 of them."""
        return self._kept.get(key, _Kept()).all()

    def _object(self) -> Generator[bool, None, None]:
        body = self.body
        pos = self._space(0)
        if body[pos : pos + 1] != b"{":
            return
        pos = self._space(pos + 1)
        while body[pos : pos + 1] != b"}" or body[pos - 1 : pos] == b",":
            key = _KEY.match(body, pos)
            if key is None or len(self.members) == MAX_MEMBERS:
                return
            start = key.end()
            end = yield from self._value(start, key[1])
            if end < 0:
                return
            self.members.append(Member(key.start(1), key.end(1), start, end))
            pos = self._space(end)
            if body[pos : pos + 1] == b",":
                pos += 1
            elif body[pos : pos + 1] != b"}":
                return
            if self._spent(pos):
                yield False
        self.valid = self._space(pos + 1) == len(body)

    def _space(self, pos: int) -> int:
        """Where the white space at `pos` ends."""
        return _SPACE.match(self.body, pos).end()  # type: ignore[union-attr]  # matches the empty string too

    def _spent(self, pos: int) -> bool:
        """Counts one token at `pos`; True when this slice is used up, and then the next one begins here."""
        self._tokens += 1
        if self._tokens < _MAX_TOKENS and pos - self._mark < self._max_bytes:
            return False
        self._mark = pos
        return True

    def _value(self, pos: int, key: bytes) -> Generator[bool, None, int]:
        """The end of the value at `pos`, or -1. `key` is as it is written."""
        first = self.body[pos : pos + 1]
        if first == b'"':
            return (yield from self._string(pos + 1))
        if first == b"{":
            return (yield from self._nested(pos, _Kept()))
        if first == b"[":
            kept = _Kept()
            if (plain := _plain(key)) in (b"messages", b"input"):
                self._kept[plain] = kept
            return (yield from self._nested(pos, kept))
        scalar = _SCALAR.match(self.body, pos)
        return -1 if scalar is None else scalar.end()

    def _string(self, pos: int) -> Generator[bool, None, int]:
        """The end of the string whose text begins at `pos`, past its closing quote, or -1.

        The first quote is looked for at memory speed; where it is escaped, more will be, and an expression goes on.
        """
        body, start, size = self.body, pos, len(self.body)
        plain = True
        while True:
            limit = max(pos + 2, self._mark + self._max_bytes)
            if plain:
                quote = body.find(b'"', pos, limit)
                if quote >= 0 and not _escaped(body, start, quote):
                    return quote + 1
                plain = quote < 0
                pos = limit if plain else quote + 1
            else:
                pos = _TEXT.match(body, pos, limit).end()  # type: ignore[union-attr]  # matches the empty string too
                if body[pos : pos + 1] == b'"':
                    return pos + 1
                plain = False
            if limit >= size and (plain or pos >= size - 1):
                return -1
            if self._spent(pos):
                yield False

    def _nested(self, pos: int, kept: "_Kept") -> Generator[bool, None, int]:
        """The end of the object or array at `pos`, or -1. `kept` gets the places of the objects directly in it."""
        body = self.body
        depth, item = 0, -1
        while True:
            pos = _PLAIN.match(body, pos, max(pos + 2, self._mark + self._max_bytes)).end()  # type: ignore[union-attr]
            char = body[pos : pos + 1]
            if char == b'"':
                pos = yield from self._string(pos + 1)
                if pos < 0:
                    return -1
            elif not char or depth > _MAX_DEPTH:
                return -1
            elif step := _STEPS.get(char):
                if depth == 1 and char == b"{":
                    item = pos
                depth += step
                pos += 1
                if depth == 1 and char == b"}":
                    kept.add((item, pos))
                elif depth == 0:
                    return pos
            if self._spent(pos):
                yield False


class _Kept:
    """The first and the last 64 places of a sequence of any length."""

    def __init__(self) -> None:
        self.first: list[tuple[int, int]] = []
        self.last: deque[tuple[int, int]] = deque(maxlen=_KEPT_ITEMS)

    def add(self, place: tuple[int, int]) -> None:
        (self.first if len(self.first) < _KEPT_ITEMS else self.last).append(place)

    def all(self) -> list[tuple[int, int]]:
        return [*self.first, *self.last]


def _plain(key: bytes) -> bytes:
    """A key as a parser reads it; one that it cannot read as it is written."""
    if b"\\" not in key:
        return key
    try:
        return _decode_str(b'"' + key + b'"').encode()
    except (msgspec.MsgspecError, UnicodeError):
        return key


def _escaped(body: bytes, start: int, quote: int) -> bool:
    """Whether the quote is escaped: an odd number of backslashes stands before it, none of them before `start`."""
    near = body[max(start, quote - 64) : quote]
    run = len(near) - len(near.rstrip(b"\\"))
    if run == 64:
        far = body[start:quote]
        run = len(far) - len(far.rstrip(b"\\"))
    return run % 2 == 1
