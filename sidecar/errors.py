"""The exception tree: every failure that we expect and cannot return as a value.

A message says what was wrong, where, and how to fix it. Any exception that is not a SidecarError is our bug.
"""

from pathlib import Path
from typing import ClassVar, Final


class TooLarge(OSError):
    """A file that holds more than may be read of it. What has no end, like `/dev/zero`, is one."""


# until somebody mends it
_LASTING: Final = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, TooLarge)


class SidecarError(Exception):
    """Base of all our exceptions. `code` is stable and may be matched on; `status` is what a client would be told."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False


class ConfigError(SidecarError):
    """A setting, policy or secret that cannot be used. The command line exits 2 on it. `named` has the other files that
    were read for it: a change of one of them may mend it."""

    code = "config"
    named: tuple[Path, ...] = ()


class UnreadableError(ConfigError):
    """A file or folder of the configuration that the system would not read; a moment later it may."""

    retryable = True

    @staticmethod
    def of(error: Exception, message: str) -> ConfigError:
        """A ConfigError of this message: this one, unless what was met lasts."""
        lasts = isinstance(error, _LASTING) or not isinstance(error, OSError)
        return ConfigError(message) if lasts else UnreadableError(message)


class StoreError(SidecarError):
    """The database cannot be read or written now. Traffic never sees it."""

    code = "store"
    retryable = True


class ProtocolError(SidecarError):
    """The peer sent bytes that HTTP/1.1 does not allow, or more of them than a limit permits.

    `status` is the answer that the client gets before its connection is closed (RFC 9112 section 2.2, RFC 6585).
    """

    code = "protocol"

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.answer = status


class TranslationError(SidecarError):
    """A body that cannot be said in another dialect: what is wrong with it, and where. Told to the client in its own."""

    code = "translation"
    status = 400


class RolloutError(SidecarError):
    """A manual rollout verb that the rollout's present phase does not allow."""

    code = "rollout"
    status = 409


class ReplayError(SidecarError):
    """The log cannot answer for a policy: the message names every reason."""

    code = "replay"
    status = 422
