"""The requests of late: on which mixes of tasks, kinds and texts prices are solved and shares are shown.

A ring of the last RECENT requests that the selector chose for; O(1) a request. What it does not know: their answers.
"""

from collections import Counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sidecar.core.features import FEATURES
from sidecar.core.types import Facts

RECENT: Final = 256  # 32..4,096 requests; fewer are noisy, more are old


class Asked:
    """Task and kind (stream or not) of the requests of late, in no order, and their texts."""

    __slots__ = ("_has_texts", "_next", "_texts", "kinds")

    def __init__(self) -> None:
        self.kinds: list[tuple[str, bool]] = []
        self._texts = np.zeros((RECENT, FEATURES), dtype=np.float32)
        self._has_texts = False  # some of them came with a text
        self._next = 0

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def texts(self) -> NDArray[np.float32]:
        """(B, FEATURES), in the order of `kinds`; zeros where there was none."""
        return self._texts[: len(self.kinds)]

    def remember(self, facts: Facts) -> None:
        """Takes one request in; the oldest goes."""
        one, place = (facts.task, facts.stream), self._next
        if place < len(self.kinds):
            self.kinds[place] = one
        else:
            self.kinds.append(one)
        if facts.text is not None:
            self._texts[place] = facts.text
            self._has_texts = True
        elif self._has_texts:
            self._texts[place] = 0.0
        self._next = (place + 1) % RECENT

    def by_task(self) -> tuple[list[str], list[int]]:
        """The tasks, each once, and for each request the place of its task among them, (B,)."""
        rows: dict[str, int] = {}
        places = [rows.setdefault(task, len(rows)) for task, _ in self.kinds]
        return list(rows), places

    def mostly_streams(self) -> bool:
        """Whether more than half of them were streams."""
        return sum(stream for _, stream in self.kinds) * 2 > len(self.kinds)

    def usual(self, stream: bool, count: int) -> list[str]:
        """The tasks of most requests of a kind, at most `count`."""
        return [task for task, _ in Counter(task for task, kind in self.kinds if kind is stream).most_common(count)]
