"""What a process that serves does without, and how it ends before it serves. It knows nothing of the rest; it is called
before what is large is imported, which takes most of the start."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

_AUTHORITIES: Final = dict.fromkeys(("SSL_CERT_FILE", "SSL_CERT_DIR"), os.devnull)
_SERVING: Final = ("run", "inject-webhook")  # verbs that end with 0 when they are told to


def stand_in() -> None:
    """Call before anything opens a file: a standard stream that was closed for us leads nowhere. Its descriptor would be
    given to the next file or connection, and into that would go what is printed and logged."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115  # never closed
            setattr(sys, name, stream)


def spare() -> None:
    """Call before numpy and structlog are imported: threads that numpy would start and nothing uses, and the 3 MiB of
    rich, which structlog loads wherever it is installed, to colour what we print in one colour."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type] # None is how the import system is told that there is none


@contextmanager
def without_authorities() -> Iterator[None]:
    """Import aiohttp in it: for its own client it reads the certificates that the system trusts as soon as it is imported,
    which costs a MiB and a fifteenth of the start. Here who calls out over TLS says whom to trust, and that is read then
    (`proxy.dial`)."""
    own = {name: os.environ.get(name) for name in _AUTHORITIES}
    os.environ.update(_AUTHORITIES)
    try:
        yield
    finally:
        for name, value in own.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def heed(arguments: Sequence[str]) -> None:
    """Call first thing with the command line: while a verb that serves only starts, SIGTERM ends it with exit code 0, and
    SIGHUP does nothing to `run`, because all is about to be read. What serves sets handlers of its own later.

    Without a handler the first process of a container would never hear SIGTERM, and any other one would end by it with
    another code. There is nothing to close yet, so it ends wherever it is: an exception could be caught by what is imported.
    """
    verb = arguments[1] if len(arguments) > 1 else ""
    if verb in _SERVING:
        signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    if verb == "run":
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def heed_nothing() -> None:
    """Call first thing in a worker: signals are for its leader, also while it starts."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
