"""What was used of late: a table of bounded size with O(1) verbs and no clock.

Two halves, young and old. What is put or used is young; when the young half is full it becomes the old one, and what was
old is gone. So the `size / 2` entries that were used last are always there, and never more than `size`. This is the
generational approximation of "least recently used" (two spaces, as in copying garbage collectors): it forgets by halves
and keeps no order between two uses within a half but that of their arrival.
"""

from collections.abc import Hashable, Iterator
from itertools import chain
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `size` entries, those used last. `size` is even and at least 2."""

    __slots__ = ("_half", "_newer", "_older")

    def __init__(self, size: int) -> None:
        self._half = size // 2
        self._newer: dict[K, V] = {}
        self._older: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    def __contains__(self, key: K) -> bool:
        """Whether `key` is there; it does not become younger by this."""
        return key in self._newer or key in self._older

    def pop(self, key: K) -> V | None:
        """Takes an entry out; None when there is none."""
        found = self._newer.pop(key, None)
        return self._older.pop(key, None) if found is None else found

    def put(self, key: K, value: V) -> bool:
        """Makes the entry the youngest; whether there was one of this key."""
        newer, known = self._newer, True
        if key in newer:
            del newer[key]
        else:
            known = self._older.pop(key, None) is not None
            if len(newer) >= self._half:
                self._older = newer
                self._newer = newer = {}
        newer[key] = value
        return known

    def youngest(self) -> Iterator[tuple[K, V]]:
        """All entries, the last that was put first. The table must not change meanwhile."""
        return chain(reversed(self._newer.items()), reversed(self._older.items()))

    def youngest_keys(self) -> Iterator[K]:
        """The keys of `youngest`, in its order."""
        return chain(reversed(self._newer), reversed(self._older))
