"""What every process that serves needs of the machine: its loop, its certificate, the key of its hashes, and that nothing
prints the text of an exception, which may hold a request's words or a key.

It knows nothing of single requests, of policies or of other processes.
"""

import asyncio
import gc
import hashlib
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sidecar.config.files import content_of
from sidecar.config.settings import Settings
from sidecar.errors import ConfigError
from sidecar.proxy.downstream import Downstream
from sidecar.proxy.plane import Plane

_SWITCH_S = 0.0005  # for how long another thread, such as the store's, may keep the interpreter; Python's own is 5 ms
_LAST_READ_S = 86400.0  # 3,600..; shorter: the loop cuts who reads slowly, which `proxy.downstream` watches
OnBug = Callable[[str, BaseException], None]


async def serve_traffic(plane: Plane, sockets: Iterable[socket.socket]) -> list[asyncio.Server]:
    """Opens the traffic port. A TLS handshake stands before the head, and has no more time than that; how long a client may
    take to read the end of an answer is not the loop's to say."""
    loop, tls = asyncio.get_running_loop(), plane.certificate.context
    shake_s, end_s = (None, None) if tls is None else (plane.settings.head_timeout_s, _LAST_READ_S)
    return [
        await loop.create_server(
            lambda: Downstream(plane),
            sock=sock,
            ssl=tls,
            backlog=1024,
            ssl_handshake_timeout=shake_s,
            ssl_shutdown_timeout=end_s,
        )
        for sock in sockets
    ]


def salt_of(settings: Settings) -> bytes:
    """The key of all keyed hashes: from the file, else from the service's name (equal in all pods, but no secret).

    Raises:
        ConfigError: the file cannot be read.
    """
    secret = settings.service.encode()
    if settings.salt_file is not None:
        try:
            secret = content_of(settings.salt_file)
        except OSError as error:
            raise ConfigError(f"salt_file {settings.salt_file}: {error.strerror}; give a readable file") from None
    return hashlib.blake2b(secret, digest_size=32).digest()


def place(error: BaseException) -> str:
    """File and line of the innermost frame."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def tune_interpreter() -> None:
    """Sets the garbage collector and the switching of threads to what traffic needs, for the whole process."""
    gc.set_threshold(50_000, 20, 100)  # a request leaves no cycles: collect rarely
    sys.setswitchinterval(_SWITCH_S)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where there is uvloop; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def hush() -> None:
    """What Python and its libraries print of an exception that nobody caught: its kind and its place, never its text."""
    sys.excepthook = lambda _kind, error, _trace: _told("the process", error)
    threading.excepthook = lambda args: _told("a thread", args.exc_value)
    sys.unraisablehook = lambda args: _told("a callback", args.exc_value)
    logging.lastResort = _Untold(logging.WARNING)


def watch_loop(loop: asyncio.AbstractEventLoop, on_bug: OnBug) -> Callable[[], None]:
    """Exceptions that the loop's callbacks let through go to `on_bug` from now on; what it gives undoes that.

    A connection's own failure is no bug, and is seen by whoever holds the connection.
    """
    before = loop.get_exception_handler()

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, OSError):
            on_bug("loop", error)

    loop.set_exception_handler(handle)
    return lambda: loop.set_exception_handler(before)


def _told(where: str, error: BaseException | None) -> None:
    if error is not None and sys.stderr is not None:
        sys.stderr.write(f"llm-sidecar: bug in {where}: {type(error).__name__} at {place(error)}\n")


class _Untold(logging.Handler):
    """Takes what a library logs: from which one it comes, and the kind and place of an exception."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            _told(record.name, error)
        else:
            where = f"{record.levelname.lower()} at {record.filename}:{record.lineno}"
            sys.stderr.write(f"llm-sidecar: {record.name}: {where}\n")
