"""What a process that serves does without. It knows nothing of the rest; it is called before what is large is imported."""

import os
import sys


def spare() -> None:
    """Call before numpy and structlog are imported: threads that numpy would start and nothing uses, and the 3 MiB of
    rich, which structlog loads wherever it is installed, to colour what we print in one colour."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type] # None is how the import system is told that there is none
