"""What the writer gave up for want of room, or because no file could store it: counted until the file is told of it."""

from dataclasses import dataclass
from typing import Any, Final

from sidecar.core.types import Event
from sidecar.store.audit import ITSELF, Audit

_WHY: Final = "the database could not be written"


@dataclass(slots=True)
class Losses:
    """How many of each kind since the file was told last, and the ids of the first and the last row."""

    rows: int = 0
    scores: int = 0
    events: int = 0
    lines: int = 0  # of the audit
    first_id: str | None = None
    last_id: str | None = None

    def row(self, key: str) -> None:
        """One row was dropped."""
        self.rows += 1
        self.first_id = self.first_id or key
        self.last_id = key

    def gap(self) -> Event | None:
        """The event that tells of rows, scores and events, if there are any."""
        others = {kind: lost for kind, lost in (("scores", self.scores), ("events", self.events)) if lost}
        if not self.rows and not others:
            return None
        detail: dict[str, object] = {"rows": self.rows, "first_id": self.first_id, "last_id": self.last_id, **others}
        lost = ", ".join(f"{number} {kind}" for kind, number in {"rows": self.rows, **others}.items())
        return Event(kind="gap", severity="medium", message=f"{lost} were dropped because {_WHY}", detail=detail)

    def line(self, at: float) -> Audit | None:
        """The line that tells of lines of the audit, if there are any."""
        if not self.lines:
            return None
        why = f"lines of the audit were lost while {_WHY}"
        return Audit(at, ITSELF, "audit.lost", "audit", f'{{"lines":{self.lines}}}', why)


def cut(waiting: list[Any], most: int) -> int:
    """Drops the oldest beyond so many; how many."""
    over = max(0, len(waiting) - most)
    del waiting[:over]
    return over
