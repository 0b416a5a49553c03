"""What a process that serves does without, and how it ends before it serves. It knows nothing of the rest; it is called
before what is large is imported, which takes most of the start."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

_SERVING: Final = ("run", "inject-webhook")  # verbs that end with 0 when they are told to


def spare() -> None:
    """Call before numpy and structlog are imported: threads that numpy would start and nothing uses, and the 3 MiB of
    rich, which structlog loads wherever it is installed, to colour what we print in one colour."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type] # None is how the import system is told that there is none


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
