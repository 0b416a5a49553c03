"""Sliding windows of counts, sums, means and quantiles, with bounded memory.

Theory. Time is cut into slots of `window_s / slots` seconds; a ring keeps the newest `slots` of them. A reading at
`now` covers the slot of `now` and the `slots - 1` before it: between `window_s * (1 - 1/slots)` and `window_s`
seconds back, and within that span it equals the naive recomputation exactly (counts, sums, means).

Quantiles come from one histogram per slot with logarithmic bins: bin i holds the values in (g^(i-1), g^i] with g = (1
+ e) / (1 - e) and is read as 2 g^i / (g + 1), which is within e = 1 % of every value in it (Masson, Rim, Lee 2019,
"DDSketch", arXiv 1908.10693). Values are clamped to [1e-9, 1e15], zero has a bin of its own, so a slot has at most
2,765 bins; real traffic fills 20 to 150.

Time is an argument and may stall or come out of order: a value goes to the slot of its own time, and is dropped when
that slot has left the ring. A reading never changes the state. Values that are negative, infinite or not a number are
dropped. What it does not do: exponential decay; exact quantiles.
"""

from collections.abc import Sequence
from math import ceil, inf, isfinite, log

from sidecar.core.types import MOST_SUM

RELATIVE_ERROR = 0.01
_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_NEPER = 1 / log(_GROWTH)
_LOWEST, _HIGHEST = 1e-9, 1e15
_ZERO_BIN = ceil(log(_LOWEST) * _PER_NEPER) - 1  # below every other bin: sorts first

Bins = dict[int, int]
Sums = dict[int, tuple[int, float]]  # by a slot's number: how many values, and their sum


def bin_of(value: float) -> int:
    """The bin of a value >= 0."""
    if _LOWEST <= value <= _HIGHEST:
        return ceil(log(value) * _PER_NEPER)
    return _ZERO_BIN if value < _LOWEST else ceil(log(_HIGHEST) * _PER_NEPER)


def quantile_of(bins: Bins, q: float) -> float | None:
    """The value of rank ceil(q n) among n, within 1 %; None when there are no values. `q` in 0..1."""
    rank = max(1.0, ceil(q * sum(bins.values()) - 1e-9))
    for index in sorted(bins):
        rank -= bins[index]
        if rank <= 0:
            return _read(index)
    return None


def _read(index: int) -> float:
    return 0.0 if index == _ZERO_BIN else 2 * _GROWTH**index / (_GROWTH + 1)


class Histogram:
    """All values since the beginning: count, mean, and quantiles within 1 %. Values must be finite and >= 0."""

    __slots__ = ("bins", "count", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.bins: Bins = {}

    def add(self, value: float) -> None:
        index = bin_of(value)
        self.bins[index] = self.bins.get(index, 0) + 1
        self.count += 1
        self.total += value

    def extend(self, values: Sequence[float]) -> None:
        """As `add` of each."""
        bins = self.bins
        for value in values:
            index = ceil(log(value) * _PER_NEPER) if _LOWEST <= value <= _HIGHEST else bin_of(value)
            bins[index] = bins.get(index, 0) + 1
        self.count += len(values)
        self.total = sum(values, self.total)

    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def quantile(self, q: float) -> float | None:
        return quantile_of(self.bins, q)

    def values(self) -> list[tuple[float, int]]:
        """Each bin's value as it is read, and how many values it holds; lowest first."""
        return [(_read(index), count) for index, count in sorted(self.bins.items())]

    def to_state(self) -> list[object]:
        return [self.total, *([i, n] for i, n in sorted(self.bins.items()))]

    @classmethod
    def from_state(cls, state: list[object]) -> "Histogram":
        """The inverse of `to_state`."""
        made = cls()
        made.total = _number(state[0])
        made.bins = _bins(state[1:])
        made.count = sum(made.bins.values())
        return made


class _Slot:
    __slots__ = ("bins", "count", "index", "kept", "total")

    def __init__(self) -> None:
        self.clear(-1)

    def clear(self, index: int) -> None:
        self.index = index
        self.count = 0
        self.total = 0.0
        self.bins: Bins = {}
        self.kept: list[object] | None = None  # its state, once asked for


class Window:
    """The values of the last `window_s` seconds (see the head of this file). Adding is O(1), reading O(slots).

    `quantiles=False` saves the histograms and half the cost of `add`; then `quantile` answers None.
    """

    __slots__ = ("_quantiles", "_ring", "_slots", "_slots_per_s", "window_s")

    def __init__(self, window_s: float, slots: int = 60, *, quantiles: bool = True) -> None:
        if not (isfinite(window_s) and window_s > 0 and slots >= 1):
            raise ValueError(
                f"a window needs a positive finite length and at least one slot, not {window_s} s, {slots}"
            )
        self.window_s = window_s
        self._slots = slots
        self._slots_per_s = slots / window_s
        self._ring = [_Slot() for _ in range(slots)]
        self._quantiles = quantiles

    def add(self, now: float, value: float = 1.0) -> None:
        """Counts one value at steady time `now` >= 0. Drops what is too old, negative or not finite."""
        if not 0.0 <= value < inf:
            return
        index = int(now * self._slots_per_s)
        slot = self._ring[index % self._slots]
        if slot.index != index:
            if slot.index > index:
                return
            slot.clear(index)
        slot.count += 1
        slot.total += value
        slot.kept = None
        if self._quantiles:
            bins = slot.bins
            at = bin_of(value)
            bins[at] = bins.get(at, 0) + 1

    def _live(self, now: float) -> list[_Slot]:
        newest = int(now * self._slots_per_s)
        oldest = newest - self._slots
        return [slot for slot in self._ring if oldest < slot.index <= newest and slot.count]

    def count(self, now: float) -> int:
        return sum(slot.count for slot in self._live(now))

    def total(self, now: float) -> float:
        return sum(slot.total for slot in self._live(now))

    def mean(self, now: float) -> float | None:
        """The mean of the values, None when there are none."""
        live = self._live(now)
        count = sum(slot.count for slot in live)
        return sum(slot.total for slot in live) / count if count else None

    def quantile(self, now: float, q: float) -> float | None:
        """The value of rank ceil(q n), within 1 %; None when there are no values."""
        merged: Bins = {}
        for slot in self._live(now):
            for index, count in slot.bins.items():
                merged[index] = merged.get(index, 0) + count
        return quantile_of(merged, q)

    def sums(self) -> Sums:
        """What each slot holds, quantiles apart."""
        return {slot.index: (slot.count, slot.total) for slot in self._ring if slot.count}

    def put(self, sums: Sums) -> None:
        """Adds slots of a window of the same length, without quantiles; leaves out those that newer ones displaced."""
        for index, (count, total) in sums.items():
            slot = self._ring[index % self._slots]
            if slot.index < index:
                slot.clear(index)
            if slot.index == index:
                slot.count += count
                slot.total += total
                slot.kept = None

    def clear(self) -> None:
        """Forgets all values."""
        for slot in self._ring:
            slot.clear(-1)

    def to_state(self) -> list[object]:
        """JSON values: one entry per slot that holds something. A slot that did not change is not written anew."""
        made: list[object] = []
        for slot in self._ring:
            if slot.count:
                if slot.kept is None:
                    bins = [[i, n] for i, n in sorted(slot.bins.items())]
                    slot.kept = [slot.index, slot.count, min(MOST_SUM, slot.total), bins]
                made.append(slot.kept)
        return made

    def restore(self, state: list[object], now: float = inf) -> None:
        """Takes over what `to_state` of a window of the same length and slots gave; leaves out what it cannot read.

        Slots later than `now` are left out too: the clock went back between two processes, and they would block
        their places until it is there again. Slots that are too old do no harm: no reading covers them.
        """
        self.clear()
        newest = now * self._slots_per_s
        for entry in state:
            if not (isinstance(entry, list) and len(entry) == 4 and isinstance(entry[0], int)):
                continue
            index, count, total, bins = entry
            slot = self._ring[index % self._slots]
            if slot.index < index <= newest:
                slot.clear(index)
                slot.count, slot.total, slot.bins = int(count), _number(total), _bins(bins)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _bins(pairs: object) -> Bins:
    return {int(i): int(n) for i, n in pairs} if isinstance(pairs, list) else {}
