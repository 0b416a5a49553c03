"""Which files may be read, and how much of them: policies, price lists and catalogues are read again when they change."""

import errno
import stat
from pathlib import Path
from typing import Final

from sidecar.errors import TooLarge

MIB: Final = 1 << 20  # the most that a ConfigMap can hold
LARGEST_STATE: Final = 256 * MIB  # what was learnt is some MiB


def is_endless(file: Path) -> bool:
    """Whether to read it may take for ever: a pipe, a socket or a device. What cannot be looked at is none."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def content_of(file: Path, most: int = MIB) -> bytes:
    """What the file holds, at most so many bytes (whole MiB). Raises OSError: it cannot be read; TooLarge: it holds more."""
    with file.open("rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise TooLarge(errno.EFBIG, f"is larger than {most // MIB} MiB", str(file))
    return content


def require_bounded(file: Path) -> None:
    """For who hands on the file's name, and all of it is read: OpenSSL does, and would wait for a pipe. Raises OSError: it
    is a pipe or a device, cannot be read, or holds more than a MiB."""
    if is_endless(file):
        raise OSError(errno.EINVAL, "is a pipe or a device", str(file))
    content_of(file)


def fault(error: Exception) -> str:
    """What is wrong with a file that could not be read, for a message that names it."""
    what = error.strerror if isinstance(error, TooLarge) else None
    return what or f"cannot be read ({type(error).__name__})"
