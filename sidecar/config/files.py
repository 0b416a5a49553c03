"""Which files a running process may read: policies, price lists and catalogues are read again whenever they change."""

import stat
from pathlib import Path


def is_endless(file: Path) -> bool:
    """Whether to read it may take for ever: a pipe, a socket or a device. What cannot be looked at is none."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
