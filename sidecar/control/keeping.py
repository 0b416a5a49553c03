"""When what was learnt goes to the store: behind the rows that taught it, and at once where it must not be forgotten."""

from collections.abc import Sequence
from typing import Final

from sidecar.clock import monotonic
from sidecar.control.archive import Archive
from sidecar.core.engine import Engine
from sidecar.core.record import Row

BINDINGS_EVERY_S: Final = 2.0  # thousands of conversations take milliseconds, and a lost one costs little
SNAPSHOT_EVERY_S: Final = 0.2  # with the store's group commit: learning survives a kill but for a quarter of a second


class Keeping:
    """Snapshots of one engine, for one archive."""

    def __init__(self, engine: Engine, archive: Archive) -> None:
        self._engine = engine
        self._archive = archive
        self._snapshot_at = self._bindings_at = 0.0
        self._owed = False  # something was learnt that no snapshot has

    def owe(self) -> None:
        """Something is learnt that has no row: the next `pay` keeps it."""
        self._owed = True

    def pay(self) -> None:
        """Keeps what no row has led to, such as the last calls before a silence. Call it every second."""
        if self._owed:
            self.keep(())

    def keep(self, _rows: Sequence[Row]) -> None:
        """These rows were put: what they taught follows, a few times a second."""
        now = monotonic()
        self._owed = now < self._snapshot_at
        if self._engine.policy.routes and not self._owed:
            self._snapshot_at = now + SNAPSHOT_EVERY_S
            bindings = now >= self._bindings_at
            if bindings:
                self._bindings_at = now + BINDINGS_EVERY_S
            self._archive.state(self._engine.snapshot(bindings=bindings))

    def keep_all(self) -> None:
        """All of it, whenever it was kept last."""
        self._archive.state(self._engine.snapshot())
