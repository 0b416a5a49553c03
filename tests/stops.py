"""`python -m tests.stops [--tree] PYTEST-ARGUMENT...`: runs tests while their process is stopped at random, as on a machine
that others use too.

A test that fails under it holds its own pace, or its machine's, for the product's. With `--tree` the processes that a
test has started are stopped too, all or some of them.
"""

import signal
import subprocess
import sys
from contextlib import suppress
from time import sleep
from typing import Final

import numpy as np
import psutil

_RUNS_S: Final = 0.2  # at most, between two stops
_STANDS_S: Final = 0.3  # at most


def _send(processes: list[psutil.Process], number: int) -> None:
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(number)


def main(arguments: list[str]) -> int:
    """The exit code of pytest."""
    rng = np.random.default_rng()
    tree = "--tree" in arguments
    command = [sys.executable, "-m", "pytest", "-q", *(one for one in arguments if one != "--tree")]
    tests = subprocess.Popen(command)
    root = psutil.Process(tests.pid)
    while tests.poll() is None:
        sleep(rng.uniform(0.0, _RUNS_S))
        stopped = [root]
        with suppress(psutil.Error):
            # those that a test has stopped itself stay so
            children = [one for one in root.children(recursive=True) if one.status() != psutil.STATUS_STOPPED]
            stopped = ([root], children, [root, *children])[rng.integers(3)] if tree else stopped
        _send(stopped, signal.SIGSTOP)
        sleep(rng.uniform(0.0, _STANDS_S))
        _send(stopped, signal.SIGCONT)
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
