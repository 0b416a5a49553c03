"""What guards the audit, the admin port and the stored fields in one process: keys, roles, and the head that is told.

The process asks `poll` every second and hands on the events. One of them, `audit.head`, tells the newest link of the
audit's chain: it goes to the log, so that a copy of it lies where who changes the database cannot reach.
"""

from collections.abc import Sequence

from sidecar.clock import steady
from sidecar.config.settings import Settings
from sidecar.control.access import Access
from sidecar.control.key_files import KeyFiles
from sidecar.core.types import Event
from sidecar.store.audit import Head


class Security:
    """The key files, the roles file and the audit head of one process, polled together."""

    def __init__(self, settings: Settings, now: float) -> None:
        """Reads the files of keys and roles.

        Raises:
            ConfigError: one that is set cannot be used.
        """
        self._files = KeyFiles(settings, now)
        self.keys = self._files.keys
        self.access = Access(settings, now)
        self._head: Head | None = None

    def read_keys(self) -> None:
        """Reads the files of keys at once. Raises StoreError when one cannot be used."""
        self._files.read(steady())

    def poll(self, now: float, head: Head | None) -> Sequence[Event]:
        """Looks at the files; `head` is the newest link of the audit that is committed."""
        events = [*self._files.poll(now), *self.access.poll(now)]
        if head is not None and head != self._head:
            self._head = head
            detail: dict[str, object] = {"links": head.seq, "head": head.hash}
            events.append(Event(kind="audit.head", message=str(head), detail=detail))
        return events

    def notes(self) -> list[str]:
        """What people should know, for `/ready`."""
        return [*self._files.notes(), *self.access.notes()]
