"""One measurement: a load against a peer, with the peer's processor time read before and after."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from time import sleep

from bench import machine
from bench.job import Job, Result
from bench.peers import ROOT, PeerError, Running


@dataclass(frozen=True, slots=True)
class Measured:
    """A load's result, and the processor seconds that the peer's whole process tree used for it.

    `settle_s` of silence around it belong to the peer's time: rows and log lines that it writes late are counted.
    """

    result: Result
    cpu_s: float
    main_thread_cpu_s: float | None = None  # of a peer that is one process

    def per_request_us(self) -> float:
        """Processor microseconds per request; NaN when nothing was answered."""
        return self.cpu_s / self.result.requests * 1e6 if self.result.requests else float("nan")

    def other_threads_us(self) -> float:
        """The part of `per_request_us` that threads other than the first one used; NaN where it is not known."""
        if self.main_thread_cpu_s is None or not self.result.requests:
            return float("nan")
        return (self.cpu_s - self.main_thread_cpu_s) / self.result.requests * 1e6

    def per_chunk_us(self) -> float:
        """Processor microseconds per streamed token, or milliseconds per 1,000 of them; NaN when none arrived."""
        return self.cpu_s / self.result.chunks * 1e6 if self.result.chunks else float("nan")


def measure(running: Running, job: Job, *, core: int | None, settle_s: float = 0.3) -> Measured:
    """Warms the peer up, runs the job in a process of its own on `core`, and returns what both used and saw.

    Raises PeerError when the generator itself ends without a result.
    """
    job = replace(job, port=running.peer.port, base=running.next_number)
    process = subprocess.Popen(
        (sys.executable, "-m", "bench.load"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=machine.pinned(core),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(asdict(job)) + "\n")
        process.stdin.flush()
        if process.stdout.readline().strip() != "ready":
            raise PeerError(f"the load generator did not get ready: {process.communicate(timeout=5)[1][-400:]}")
        sleep(settle_s)
        before, main_before = _cpu_s(running)
        process.stdin.write("go\n")
        process.stdin.flush()
        line = process.stdout.readline()
        sleep(settle_s)
        after, main_after = _cpu_s(running)
        if not line:
            raise PeerError(f"the load generator ended: {process.communicate(timeout=5)[1][-400:]}")
    finally:
        process.kill()
        process.wait(5)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    result = Result(**json.loads(line))
    running.next_number = result.next_number
    main = None if main_before is None or main_after is None else main_after - main_before
    return Measured(result, after - before, main)


def _cpu_s(running: Running) -> tuple[float, float | None]:
    """Processor seconds of the whole tree, and of the first thread when the tree is one process."""
    if running.process is None or running.process.poll() is not None:
        return 0.0, None
    pid = running.process.pid
    return machine.cpu_s(pid), machine.main_thread_cpu_s(pid) if len(machine.tree(pid)) == 1 else None
