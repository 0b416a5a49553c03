"""Files that guard: keys of the audit, keys of sealed fields, roles of the admin port. Read at start, and again on change.

At start a file that cannot be used is an error of configuration. Later the last good content stays in use, and that is
told: by an event when it begins, and by a note in `/ready` for as long as it lasts.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from sidecar.config.secrets import SecretFile
from sidecar.config.settings import Settings
from sidecar.core.types import Event
from sidecar.errors import ConfigError, StoreError
from sidecar.store.keys import KeySet, StoreKeys, no_keys, parse_keys
from sidecar.store.vault import require

T = TypeVar("T")


class Watched(Generic[T]):
    """One such file. `current` is its last good content; any thread may read it, one calls `poll`."""

    def __init__(self, setting: str, path: Path, parse: Callable[[bytes], T], now: float) -> None:
        """Reads the file.

        Raises:
            ConfigError: it cannot be used; the message names the setting and says why, without the content.
        """
        self._setting = setting
        self._file = SecretFile(path, parse)
        found = self._file.get(now)
        if found is None:
            raise ConfigError(f"{setting}: {self._file.error}")
        self.current: T = found
        self._told: str | None = None

    def __call__(self) -> T:
        return self.current

    @property
    def note(self) -> str | None:
        """Why the newest content is not in use, if so."""
        return None if self._file.error is None else f"{self._setting}: {self._file.error}"

    def read(self, now: float) -> None:
        """Reads the file at once. Raises StoreError when its content is not what is in use then."""
        self.current = self._file.read(now) or self.current
        if self.note is not None:
            raise StoreError(self.note)

    def poll(self, now: float) -> list[Event]:
        """Looks at the file, at most once a second; an event when its content begins to be unusable, or is usable again."""
        self.current = self._file.get(now) or self.current
        note, before = self.note, self._told
        self._told = note
        if note is not None and note != before:
            return [Event(kind="file.refused", severity="high", message=note)]
        if note is None and before is not None:
            return [Event(kind="file.accepted", message=f"{self._setting}: its content is in use again")]
        return []


class KeyFiles:
    """The key files of one process."""

    def __init__(self, settings: Settings, now: float) -> None:
        """Raises ConfigError when one that is set cannot be used, or the package that it needs is not there."""
        self._files: list[Watched[KeySet]] = []
        if settings.encryption_key_file is not None:
            require()
        self.keys = StoreKeys(
            self._keys("audit_key_file", settings.audit_key_file, now),
            self._keys("encryption_key_file", settings.encryption_key_file, now),
        )

    def _keys(self, setting: str, path: Path | None, now: float) -> Callable[[], KeySet | None]:
        if path is None:
            return no_keys
        file = Watched(setting, path, parse_keys, now)
        self._files.append(file)
        return file

    def poll(self, now: float) -> Sequence[Event]:
        """Call this every second."""
        return [event for file in self._files for event in file.poll(now)]

    def read(self, now: float) -> None:
        """Reads the files at once. Raises StoreError when one cannot be used."""
        for file in self._files:
            file.read(now)

    def notes(self) -> list[str]:
        """What people should know, for `/ready`."""
        return [note for file in self._files if (note := file.note) is not None]
