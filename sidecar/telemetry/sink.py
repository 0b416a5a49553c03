"""Where log lines go: standard output, standard error or a file, and never a wait for whoever reads it.

Lines are written with one system call a batch. What the other side does not take waits in a bounded backlog; beyond it
new lines are dropped and counted, whole, so that no line is ever torn. A file that was renamed or removed (logrotate)
is noticed within a second and opened again; a line of which the old one took only a part begins the new one, whole.
"""

import os
from collections import deque

from sidecar.clock import monotonic

_BACKLOG_BYTES = 4 * 1024 * 1024  # some 4,000 lines: a reader may pause for a second at a thousand requests a second
_LOOK_EVERY_S = 1.0
STREAMS = {"-": 1, "stdout": 1, "stderr": 2}


class Sink:
    """`target` is `-` (standard output), `stderr`, or the path of a file that is created with mode 0600."""

    def __init__(self, target: str, backlog_bytes: int = _BACKLOG_BYTES) -> None:
        self.target = target
        self.dropped = 0  # lines that nobody will see
        self.errors = 0
        self.trouble = ""  # what keeps lines from the file, and why
        self._backlog: deque[bytes] = deque()
        self._taken = 0  # bytes of the first batch that the other side has
        self._waiting_bytes = 0
        self._limit = backlog_bytes
        self._fd = -1
        self._inode = 0
        self._looked_at = -_LOOK_EVERY_S
        self._open()

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the other side has not taken yet."""
        return self._waiting_bytes

    def put(self, lines: bytes, count: int) -> None:
        """Writes whole lines, at once where possible; never blocks and never raises."""
        if self.target not in STREAMS:
            self._look()
        if self._waiting_bytes + len(lines) > self._limit:
            self.flush()
        if self._waiting_bytes + len(lines) > self._limit:
            self.dropped += count
            return
        self._backlog.append(lines)
        self._waiting_bytes += len(lines)
        self.flush()

    def write(self, line: bytes) -> None:
        """One line (the file protocol that structlog writes to)."""
        self.put(line, 1)

    def flush(self) -> None:
        """Writes what waits until the other side takes no more."""
        backlog = self._backlog
        while backlog and self._fd >= 0:
            try:
                written = os.write(self._fd, memoryview(backlog[0])[self._taken :] if self._taken else backlog[0])
            except BlockingIOError:
                return
            except OSError as error:  # disk full, reader gone, file system away: the lines wait
                self._fails("written", error)
                return
            self.trouble = ""
            self._waiting_bytes -= written
            self._taken += written
            if self._taken == len(backlog[0]):
                backlog.popleft()
                self._taken = 0

    def reopen(self) -> None:
        """Opens the file again now (SIGHUP); nothing to do for streams."""
        if self.target not in STREAMS:
            former, inode = self._fd, self._inode
            self._open()
            _shut(former)  # not before: a new file would have the number of one that is gone
            if self._inode != inode and self._taken:
                self._begin_line()
            self.flush()

    def _begin_line(self) -> None:
        """Goes back to the beginning of the line that is partly written."""
        begin = self._backlog[0].rfind(b"\n", 0, self._taken) + 1
        self._waiting_bytes += self._taken - begin
        self._taken = begin

    def close(self) -> None:
        """Writes what can be written without waiting. What is left is counted as dropped."""
        self.flush()
        if self._backlog:
            self.dropped += sum(lines.count(b"\n") for lines in self._backlog) - self._backlog[0].count(
                b"\n", 0, self._taken
            )
        self._backlog.clear()
        self._taken = self._waiting_bytes = 0
        _shut(self._fd)
        self._fd = -1

    def _look(self) -> None:
        now = monotonic()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        try:
            moved = os.stat(self.target).st_ino != self._inode  # noqa: PTH116  # one system call, on the loop
        except OSError:
            moved = True
        if moved:
            self.reopen()

    def _open(self) -> None:
        try:
            if self.target in STREAMS:
                self._fd = _unblocked(STREAMS[self.target])
            else:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
                self._fd = os.open(self.target, flags, 0o600)
                self._inode = os.fstat(self._fd).st_ino
            self.trouble = ""
        except OSError as error:
            self._fd = -1
            self._fails("opened", error)

    def _fails(self, to_be: str, error: OSError) -> None:
        self.errors += 1
        self.trouble = f"cannot be {to_be} ({error.strerror or type(error).__name__})"


def _shut(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _unblocked(number: int) -> int:
    """A descriptor for a standard stream that does not block. Opening it anew leaves everyone else's blocking as it is;
    where that is impossible (sockets, no /proc) the stream itself is made non-blocking."""
    try:
        return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        fd = os.dup(number)
        os.set_blocking(fd, False)
        return fd
