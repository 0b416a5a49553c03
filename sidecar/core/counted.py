"""The units that counted once already, in bounded memory and over a restart.

Keys are hashes already: 32 bits of them take a new unit for a counted one with probability 4e-6, whatever it shows.
"""

from base64 import b64decode, b64encode
from itertools import islice
from typing import Final

import numpy as np

from sidecar.core.recent import Recent

REMEMBERED: Final = 16_384  # 1e3..1e6; fewer: long conversations count twice, more: memory (about 100 bytes each)
STORED: Final = 4_096  # 0..16,384 of them outlive a restart, 5.3 bytes each; fewer: more count twice then
_UNIT: Final = 2**32 - 1


class Counted:
    """Units by their keys; key 0 is a unit of its own each time."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen = Recent[int, None](REMEMBERED)

    def is_first(self, key: int) -> bool:
        """Whether `key` was not counted yet; it is afterwards."""
        unit = key & _UNIT
        if not key:
            return True
        first = unit not in self._seen
        if first:
            self._seen.put(unit, None)
        return first

    def to_state(self) -> str:
        """The STORED youngest units in base64, four bytes each, the youngest first."""
        units = np.fromiter(islice(self._seen.youngest_keys(), STORED), dtype="<u4")
        return b64encode(units.tobytes()).decode()

    def restore(self, state: str) -> None:
        """Adds what `to_state` wrote. Raises ValueError for what it did not write."""
        for unit in reversed(np.frombuffer(b64decode(state, validate=True), dtype="<u4").tolist()):
            self._seen.put(unit, None)
