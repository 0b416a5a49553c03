"""`python -m bench.pod_resources [--out FILE.json] [--seconds N]`: what a sidecar in a pod needs of processor and memory.

One sidecar with everything on (a policy with three arms, a row, a log line and metrics for each call) lives through what a
pod's does: its start, silence, 10, 100 and 1,000 small calls a second (507 B in, 1.1 kB out), 50 streams at once. Processor
time is that of its whole process tree, from the kernel's own clocks; memory is resident, with its peak so far. Cores are
processor seconds per second, which a busy machine changes little; latencies are not told, as it would change those.

What it does not know: bodies of megabytes (`max_buffered` bounds them), a policy with judges, and a longer life
(`bench.soak`).
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep

from bench import machine, peers
from bench.job import Job
from bench.rounds import measure

STREAMS = 50
RATES = (10, 100, 1000)  # calls a second
CHUNKS, GAP_MS = 64, 15  # of a stream: a second of 67 tokens a second


@dataclass(frozen=True, slots=True)
class Need:
    """One scene. `calls` per second are those that were answered; `per_call_us` is null where there were none."""

    scene: str
    calls: float
    cores: float
    per_call_us: float | None
    rss_mib: float
    peak_mib: float


def scenes(seconds: float) -> Iterator[tuple[str, Job]]:
    """The loads, lightest first, so that each peak is of its own scene."""
    for rate in RATES:
        yield f"{rate:,} calls/s", Job("open", 0, min(32, rate), seconds, rate=rate)
    yield f"{STREAMS} streams", Job("streams", 0, STREAMS, seconds, chunks=CHUNKS, gap_ms=GAP_MS, first_ms=50)


def needs(seconds: float) -> Iterator[Need]:
    """Measures scene after scene. Raises PeerError when a call was answered wrongly, or a process ends."""
    first, second = machine.two_cores()
    with tempfile.TemporaryDirectory(prefix="pod-resources-") as folder:
        upstream = peers.upstream(second)
        try:
            recipe = peers.sidecar("sidecar", "optimize", OPENBLAS_NUM_THREADS="1")
            for name in ("compiled", "run"):  # an image has its bytecode
                (Path(folder) / name).mkdir()
            peers.start(recipe(Path(folder) / "compiled", upstream.peer.port), first).stop()
            running = peers.start(recipe(Path(folder) / "run", upstream.peer.port), first)
            try:
                assert running.process is not None
                pid = running.process.pid
                yield _need("start", pid, 0, machine.cpu_s(pid), 1.0)  # its cores are the whole seconds that it took
                before = machine.cpu_s(pid)
                sleep(seconds)
                yield _need("idle", pid, 0, machine.cpu_s(pid) - before, seconds)
                for scene, job in scenes(seconds):
                    done = measure(running, job, core=second)
                    if done.result.errors:
                        raise peers.PeerError(f"{scene}: {done.result.errors}")
                    yield _need(scene, pid, done.result.requests, done.cpu_s, done.result.elapsed_s)
            finally:
                running.stop()
        finally:
            upstream.stop()


def _need(scene: str, pid: int, calls: int, cpu_s: float, elapsed_s: float) -> Need:
    return Need(
        scene,
        round(calls / elapsed_s, 1),
        round(cpu_s / elapsed_s, 4),
        round(cpu_s / calls * 1e6, 1) if calls else None,
        round(machine.memory_mib(pid)["rss"], 1),
        round(_peak_mib(pid), 1),
    )


def _peak_mib(pid: int) -> float:
    """The most that was ever resident; NaN where the kernel does not say."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), float("nan"))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.pod_resources")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each scene")
    options = parser.parse_args(argv)
    print(f"{'scene':<16}{'calls/s':>10}{'millicores':>12}{'us/call':>10}{'RSS MiB':>10}{'peak MiB':>10}")
    found = []
    for one in needs(options.seconds):
        found.append(one)
        each = "" if one.per_call_us is None else f"{one.per_call_us:.0f}"
        print(
            f"{one.scene:<16}{one.calls:>10,.0f}{one.cores * 1000:>12.0f}{each:>10}{one.rss_mib:>10.0f}{one.peak_mib:>10.0f}"
        )
    if options.out is not None:
        told = {"machine": machine.description(), "needs": [asdict(one) for one in found]}
        options.out.write_text(json.dumps(told, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
