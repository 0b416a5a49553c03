"""Runs jobs in processes, says how far they are, and gives their results back in an order that does not depend on it.

Workers are started afresh (`spawn`), so that numpy comes up with one thread in each, and read the matrices themselves.
With one process the jobs run in this one.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench import router_rows
from bench.matrices import load
from bench.router_row import Alone, Asked, Figures, Job, Values
from bench.tape import Tape, tape
from sidecar.clock import monotonic

SAY_EVERY_S: Final = 5.0
AHEAD: Final = 4  # jobs that wait for each process: more take memory, fewer let it wait


class Worker:
    """What one process keeps: the folder, and the matrices that it has met."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tapes: dict[str, Tape] = {}

    def run(self, job: Job) -> Values:
        """One job's result."""
        if job.matrix not in self._tapes:
            self._tapes[job.matrix] = tape(load(self._folder / f"{job.matrix}.csv.gz"))
        return router_rows.FAMILIES[job.family].run(self._tapes[job.matrix], job.setting, job.seed)


_worker: Worker | None = None  # of this process, when it is one of the pool's


def _begin(folder: Path) -> None:
    global _worker  # a pool gives its processes no other place
    _worker = Worker(folder)


def _run(job: Job) -> Values:
    assert _worker is not None, "the pool begins each process"
    return _worker.run(job)


def run(jobs: Sequence[Job], folder: Path, processes: int) -> dict[Job, Values]:
    """Every job's result, in the order of `jobs`."""
    found: dict[Job, Values] = {}
    progress = _Progress(sum(job.requests for job in jobs), len(jobs))
    for job, values in _here(jobs, folder) if processes == 1 else _spread(jobs, folder, processes):
        found[job] = values
        progress.done(job)
    return {job: found[job] for job in jobs}


def _here(jobs: Sequence[Job], folder: Path) -> Iterator[tuple[Job, Values]]:
    worker = Worker(folder)
    for job in jobs:
        yield job, worker.run(job)


def _spread(jobs: Sequence[Job], folder: Path, processes: int) -> Iterator[tuple[Job, Values]]:
    """Results as they come, the long jobs begun first."""
    waiting = sorted(jobs, key=lambda job: job.requests)
    with _pool(processes, folder) as pool:
        running: dict[Future[Values], Job] = {}
        while waiting or running:
            while waiting and len(running) < AHEAD * processes:
                job = waiting.pop()
                running[pool.submit(_run, job)] = job
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for one in ended:
                yield running.pop(one), one.result()


@contextmanager
def _pool(processes: int, folder: Path) -> Iterator[ProcessPoolExecutor]:
    """Processes with one numpy thread each: more would only be in each other's way."""
    before = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(folder,)) as pool:
            yield pool
    finally:
        if before is None:
            del os.environ["OPENBLAS_NUM_THREADS"]
        else:
            os.environ["OPENBLAS_NUM_THREADS"] = before


def run_alone(rows: Sequence[Alone], asked: Asked, processes: int) -> dict[str, dict[str, Figures]]:
    """What each of the rows made in one go comes to: name -> pseudo matrix -> figures. Timed ones have no company."""
    if processes == 1:
        return {row.name: row.run(asked, say) for row in rows}
    found: dict[str, dict[str, Figures]] = {}
    for timed, at_once in ((False, processes), (True, 1)):
        names = [row.name for row in rows if row.timed is timed]
        if names:
            with _pool(min(at_once, len(names)), asked.data) as pool:
                found |= zip(names, pool.map(_run_alone, names, [asked] * len(names)), strict=True)
    return {row.name: found[row.name] for row in rows}


def _run_alone(name: str, asked: Asked) -> dict[str, Figures]:
    return router_rows.ALONE[name].run(asked, say)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


class _Progress:
    """Says now and then how many jobs are done and when the rest will be."""

    def __init__(self, requests: int, jobs: int) -> None:
        self._left, self._all, self._jobs = requests, requests, jobs
        self._done, self._began, self._said = 0, monotonic(), monotonic()

    def done(self, job: Job) -> None:
        """Counts one job; the last one is always told."""
        self._done += 1
        self._left -= job.requests
        now = monotonic()
        if now - self._said < SAY_EVERY_S and self._done < self._jobs:
            return
        self._said = now
        rate = (self._all - self._left) / max(now - self._began, 1e-9)
        say(
            f"{self._done}/{self._jobs} jobs, {rate:,.0f} requests/s, {self._left / rate / 60:.1f} min left"
            f" ({job.family}, {job.matrix}, seed {job.seed})"
        )
