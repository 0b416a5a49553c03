"""Sees that a policy folder or the catalogue changed, and keeps the last good policy when the new one is bad.

Polling and not inotify: a ConfigMap changes by the swap of one symlink (`..data`), network file systems send no events,
and a handful of `stat` calls a second costs nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from sidecar.config.policy import Loaded, load_policies, policy_files
from sidecar.config.settings import Settings
from sidecar.core.policy import NO_POLICY
from sidecar.errors import ConfigError, UnreadableError

Signature = tuple[tuple[str, int, int, int, int], ...]


class Watch:
    """Files and folders to look at. Symlinks are followed, so that a swapped one counts as a change."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._more: tuple[Path, ...] = ()
        self._last: Signature | None = self._look()

    def changed(self) -> bool:
        """Whether a file's inode, times, size or rights, or the list of policy files, differ from the last call."""
        last, self._last = self._last, self._look()
        return last != self._last

    def forget(self) -> None:
        """What was found could not be read: the next look finds a change, whatever it finds."""
        self._last = None

    def beside(self, more: tuple[Path, ...]) -> None:
        """Looks at these files, too, and no longer at those of the last call. What was read of new ones may be old by now:
        the next look finds a change, whatever it finds."""
        if more != self._more:
            self._more = more
            self.forget()

    def _look(self) -> Signature:
        return tuple(_signature(file) for path in (*self._paths, *self._more) for file in _files(path))


def _files(path: Path) -> list[Path]:
    try:
        return [path, *policy_files(path)] if path.is_dir() else [path]
    except (ConfigError, OSError):
        return [path]


def _signature(file: Path) -> tuple[str, int, int, int, int]:
    try:
        found = file.stat()
    except OSError:
        return (str(file), 0, 0, 0, 0)
    return (str(file), found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


class PolicySource:
    """The policy in force. `error` says why the folder's newest content is not in force, None when it is."""

    def __init__(
        self, directory: Path | None, service: str, environ: Mapping[str, str], settings: Settings | None = None
    ) -> None:
        self.current = self._former = Loaded(NO_POLICY)
        self._refused: Loaded | None = None
        self.error: str | None = None
        self._directory, self._service, self._environ, self._settings = directory, service, environ, settings
        catalogue = settings.catalogue if settings is not None else None
        self._watch = Watch([path for path in (directory, catalogue if directory else None) if path is not None])
        self.take(self.read())

    def changed(self) -> bool:
        """Whether the folder or the catalogue is another than at the last call."""
        return self._watch.changed()

    def read(self) -> Loaded | Exception:
        """What the folder says now, or what is wrong with it. Changes nothing and never raises; a large policy takes
        seconds, so this is for a thread."""
        try:
            return load_policies(self._directory, self._service, self._environ, self._settings)
        except Exception as error:  # noqa: BLE001  our bug must not take the policy in force away
            return error

    def take(self, read: Loaded | Exception) -> Loaded | None:
        """Takes over what `read` found. Returns the policy to apply when its content is new.

        Who cannot apply it says so with `refuse`; until then it counts as the one in force.

        What is wrong goes to `error`, and the policy in force stays. So it does when the service's file is gone and none
        is for `*`: a deleted file is more often an accident than a wish; a file without routes says the wish. Where one
        is for `*`, that is what the folder says now, as it does for a process that starts; a warning tells of it.
        """
        self._refused = None
        self._watch.beside(read.named if isinstance(read, ConfigError) else ())
        if isinstance(read, Exception):
            self.error = str(read) if isinstance(read, ConfigError) else self._bug(read)
            if isinstance(read, UnreadableError):
                self._watch.forget()
            return None
        if read.file is None and self.current.file is not None:
            self.error = (
                f"{self.current.file}: is gone, its policy stays in force; write a policy with `routes: []` instead"
            )
            return None
        if read.policy.service == "*" and self.current.policy.service == self._service != "*":
            told = (
                f"{self.current.file}: has no policy for {self._service!r} any more; {read.file}, for `*`, is in force"
            )
            read = replace(read, warnings=(*read.warnings, told))
        is_new = read.policy != self.current.policy  # not the version alone: the catalogue is no part of it
        self._former, self.current, self.error = self.current, read, None
        return read if is_new else None

    def retry(self) -> Loaded | None:
        """The policy that was refused last, if there is one: what it wants may be there now."""
        if self._refused is not None:
            self._former, self.current, self.error = self.current, self._refused, None
        again, self._refused = self._refused, None
        return again

    def refuse(self, error: str) -> None:
        """The policy that was returned last is not in force, because of `error`: the one before it still is, and `retry`
        returns the refused one again."""
        self.current, self._refused, self.error = self._former, self.current, error

    def refuse_bug(self, error: Exception) -> None:
        """As `refuse`, for a fault of ours; what is to be tried again is what a later reading finds."""
        self.refuse(self._bug(error))
        self._refused = None

    def notes(self) -> list[str]:
        """What people should know of it, for `/ready`."""
        refused = [] if self.error is None else [f"policy not in force: {self.error}"]
        return [*self.current.warnings, *refused]

    def _bug(self, error: Exception) -> str:
        return f"{self._directory}: cannot be loaded ({type(error).__name__}: our bug); please report it"
