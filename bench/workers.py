"""`python -m bench.workers --out FILE.json`: what `--workers N` costs and brings beside one process, in alternating rounds.

Closed loop at 64 connections, bodies checked, rows, log lines and metrics on. Two figures for each mode:

* CPU microseconds per request, of all its processes; for workers also the part of the leader (L) and of the workers (W).
* requests per second here, where load generator and upstream share the cores with what is measured.

What follows from the first: with c for one process, two cores that carry nothing else give at most `2 c / (W + L)` times
the requests of one core, and N workers with a core each and one for the leader `min(N c / W, c / L)` times.
What follows from the second: only what this machine does under all three at once.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

from bench import machine, peers
from bench.job import Job
from bench.peers import Running
from bench.rounds import measure
from bench.stats import median
from sidecar.clock import rfc3339, wall

CONNECTIONS: Final = 64
CORES: Final = 2


@dataclass(frozen=True, slots=True)
class Round:
    """One load: requests per second, CPU microseconds per request of the first process and of its children, errors."""

    per_s: float
    first_us: float
    children_us: float
    errors: int


def one(running: Running, seconds: float, core: int | None) -> Round:
    """Loads the peer once from `core`. The warm-up tells how the processes share the work, too."""
    assert running.process is not None
    pid = running.process.pid
    first, tree = _cpu_s(pid), machine.cpu_s(pid)
    found = measure(running, Job("closed", running.peer.port, CONNECTIONS, seconds), core=core)
    share = (_cpu_s(pid) - first) / (machine.cpu_s(pid) - tree)
    each, result = found.per_request_us(), found.result
    children = each * (1.0 - share) if len(machine.tree(pid)) > 1 else 0.0
    return Round(result.requests / result.elapsed_s, each - children, children, sum(result.errors.values()))


def _cpu_s(pid: int) -> float:
    """Processor seconds of the process alone."""
    return float(sum(psutil.Process(pid).cpu_times()[:2]))


def run(mode: str, workers: int, rounds: int, seconds: float) -> dict[str, object]:
    """One process on a core of its own, and the workers wherever the kernel puts them, in turns."""
    peer_core, load_core = machine.two_cores()
    with tempfile.TemporaryDirectory(prefix="bench-workers-") as name:
        upstream = peers.upstream(load_core)
        started: list[Running] = []
        try:
            for count, core in ((1, peer_core), (workers, None)):
                folder = Path(name) / str(count)
                folder.mkdir()
                peer = peers.sidecar(f"{count}", mode, count)(folder, upstream.peer.port)
                started.append(peers.start(peer, core))
            found: list[list[Round]] = [[], []]
            for number in range(rounds):
                for place in (0, 1) if number % 2 == 0 else (1, 0):
                    found[place].append(one(started[place], seconds, load_core))
                print(f"{mode}, round {number + 1} of {rounds}", file=sys.stderr)
        finally:
            for running in (*started, upstream):
                running.stop()
    return summary(found[0], found[1], workers)


def summary(alone: list[Round], together: list[Round], workers: int) -> dict[str, object]:
    """Medians over the rounds, and what follows from them; the rounds stand beside."""
    c = median([one.first_us for one in alone])
    leader, worker = median([one.first_us for one in together]), median([one.children_us for one in together])
    here = median([two.per_s / one.per_s for one, two in zip(alone, together, strict=True)])
    return {
        "one_us": c,
        "leader_us": leader,
        "workers_us": worker,
        "one_per_s": median([one.per_s for one in alone]),
        "workers_per_s": median([one.per_s for one in together]),
        "factor_here": here,
        "factor_two_free_cores": CORES * c / (worker + leader),
        "factor_a_core_each": min(workers * c / worker, c / leader),
        "errors": sum(one.errors for one in (*alone, *together)),
        "rounds": {"one": [asdict(one) for one in alone], "workers": [asdict(one) for one in together]},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--modes", default="observe,optimize")
    options = parser.parse_args()
    report: dict[str, object] = {"at": rfc3339(wall()), "machine": machine.description(), "workers": options.workers}
    for mode in options.modes.split(","):
        found = report[mode] = run(mode, options.workers, options.rounds, options.seconds)
        for name, value in found.items():
            if isinstance(value, int | float):
                print(f"{mode:10} {name:24} {value:10.2f}")
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
