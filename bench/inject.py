"""`python -m bench.inject [--seconds N] [--connections N]`: admission reviews per second that one core answers.

The real injector as a process on one core, with its own certificate from the simulated API server of the tests; the caller
on another, as an API server calls: HTTP/1.1 over TLS by kept connections, a review of some 6 kB of a Deployment's pod each,
answers of which the first is read to the patch and all others by status and length. Goal: 500/s.

`by processor` is reviews per second of the injector's processor time: what a whole core could do, whatever else the
machine does. Not known: the network, an API server's own work, and the other injectors of a real cluster.
"""

import argparse
import asyncio
import contextlib
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop

from bench.machine import cpu_s, pinned, two_cores
from bench.stats import percentile
from sidecar.clock import monotonic
from sidecar.inject.cluster import Name
from sidecar.injector import Injector, Plan
from sidecar.telemetry.log import configure
from tests.fixtures import pods
from tests.fixtures.apiserver import HOST, NAMESPACE, SECRET, WEBHOOK, ApiServer

GOAL: Final = 500.0
ROUNDS: Final = 3
LOCAL: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Figures:
    """One round: reviews per second of time and of processor time, and the latencies in milliseconds."""

    per_second: float
    per_processor_second: float
    p50_ms: float
    p99_ms: float


def review() -> bytes:
    """A review of a Deployment's pod as teams write them: some 6 kB."""
    env = [pods.variable(f"SETTING_{number}", f"value-of-the-setting-{number}") for number in range(16)]
    env += [pods.from_secret(f"KEY_{number}") for number in range(4)]
    probe = {
        "httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"},
        "periodSeconds": 10,
        "failureThreshold": 3,
    }
    sizes = pods.sized("250m", "512Mi", "1", "1Gi")
    app = pods.container(env=env, resources=sizes, livenessProbe=probe, readinessProbe=probe)
    exporter = pods.container("exporter", env=env[:4], resources=sizes, livenessProbe=probe)
    notes = {f"team.example.com/note-{number}": "what somebody wanted to know of each pod" for number in range(8)}
    made = pods.pod(app, exporter, init=[pods.container("migrate", env=env[:8])], annotations=notes)
    return orjson.dumps(pods.review(made))


async def serve(folder: Path, environ: dict[str, str]) -> int:
    """The process that is measured: what the verb does, with another folder of the service account."""
    own: dict[str, Any] = {"secret": Name(NAMESPACE, SECRET), "webhook": WEBHOOK, "account": folder / "account"}
    local = ((LOCAL, 0),)
    plan = Plan(config=folder / "config.yaml", listen=local, health_listen=local, drain_idle_s=0.1, **own)

    def announce(injector: Injector) -> None:
        (folder / "port").write_text(str(injector.ports["webhook"][0]))

    sink = configure(terminal=False)
    try:
        return await Injector(plan, environ).run(announce)
    finally:
        sink.close()


@contextlib.asynccontextmanager
async def injector(folder: Path, api: ApiServer, core: int | None) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The process, as soon as the webhook trusts it."""
    (folder / "config.yaml").write_text("resources: cpu=100m,memory=256Mi,memory-limit=512Mi\n")
    command = [sys.executable, "-m", "bench.inject", "--serve", str(folder)]
    environ = os.environ | api.environ
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, env=environ, preexec_fn=pinned(core), stderr=log)  # noqa: ASYNC220 - at the start
    try:
        async with asyncio.timeout(30):
            while not (api.bundles[0] and (folder / "port").exists() and await trusted(folder, api)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(30)
        log.close()


async def trusted(folder: Path, api: ApiServer) -> bool:
    """Whether a handshake succeeds by now."""
    try:
        _, writer = await connect(folder, api)
    except (OSError, ValueError):
        return False
    writer.close()
    return True


async def connect(folder: Path, api: ApiServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that trusts the caBundle and nothing else."""
    context = ssl.create_default_context(cadata=api.bundles[0].decode())
    port = int((folder / "port").read_text())
    return await asyncio.open_connection(LOCAL, port, ssl=context, server_hostname=HOST)


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The body of one answer. Raises ValueError on any status but 200."""
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"not answered: {head.splitlines()[0]!r}")
    length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
    return await reader.readexactly(length)


async def measure(folder: Path, api: ApiServer, pid: int, connections: int, seconds: float) -> Figures:
    """One round of a closed loop: each connection asks again as soon as it is answered."""
    body = review()
    head = f"POST /mutate?timeout=5s HTTP/1.1\r\nHost: {HOST}:443\r\nContent-Type: application/json\r\n"
    asked = head.encode() + f"Accept: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    opened = [await connect(folder, api) for _ in range(connections)]
    took: list[float] = []
    lengths: set[int] = set()
    began, used = monotonic(), cpu_s(pid)
    end = began + seconds

    async def load(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (at := monotonic()) < end:
            writer.write(asked)
            told = await answer(reader)
            if not lengths and b'"patch"' not in told:
                raise ValueError("the pod was not injected")
            lengths.add(len(told))
            took.append(monotonic() - at)

    async with asyncio.TaskGroup() as group:
        for reader, writer in opened:
            group.create_task(load(reader, writer))
    past, spent = monotonic() - began, cpu_s(pid) - used
    for _, writer in opened:
        writer.close()
    if len(lengths) != 1:
        raise ValueError(f"answers of {len(lengths)} lengths to one question")
    p50, p99 = percentile(took, 0.5) * 1000, percentile(took, 0.99) * 1000
    return Figures(len(took) / past, len(took) / spent, p50, p99)


async def bench(seconds: float, connections: int) -> list[Figures]:
    """All rounds, printed as they come."""
    served, calling = two_cores()
    if calling is not None:
        os.sched_setaffinity(0, {calling})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with ApiServer(folder) as api, injector(folder, api, served) as process:
            api.owners["web-5d8f7c9b6d"] = {"spec": {"replicas": 4}}
            print(f"review {len(review())} bytes, {connections} connections, one core")
            await measure(folder, api, process.pid, connections, 1.0)
            return [await measure(folder, api, process.pid, connections, seconds) for _ in range(ROUNDS)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The verb; 1 when the median round misses the goal."""
    parser = argparse.ArgumentParser(prog="python -m bench.inject", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round (default: 5)")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve is not None:
        return uvloop.run(serve(options.serve, dict(os.environ)))
    rounds = sorted(uvloop.run(bench(options.seconds, options.connections)), key=lambda one: one.per_second)
    for one in rounds:
        print(
            f"{one.per_second:7.0f} reviews/s  {one.per_processor_second:7.0f} by processor  "
            f"p50 {one.p50_ms:5.1f} ms  p99 {one.p99_ms:5.1f} ms"
        )
    median = rounds[len(rounds) // 2]
    print(f"median {median.per_second:.0f}/s: {median.per_second / GOAL:.2f} x the goal of {GOAL:.0f}/s")
    return 0 if median.per_second >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
