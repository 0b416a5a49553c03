"""`python -m bench.bodies --out FILE.json`: requests with images. How fast are they read, and who waits meanwhile?

**Read.** In this process: a body is read as the sidecar reads it, in slices (the members that it acts on, whether it carries
an upstream's state, what it needs of a model), with megabytes a second and the longest slice of the fastest of the rounds.

**Stalls.** One connection sends such bodies one after the other through a proxy on a core of its own; every answer is
checked. Another asks the health of the proxy, a thousand times a second at most: who answers late was busy with a body. The
prober shares its core with sender and upstream and waits for them, too: nginx beside it, and the same probe without bodies,
say how long.

What it does not show: a body that arrives slowly, many at once.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import sleep, thread_time
from typing import Any, Final

from bench import machine, payloads, peers, stats
from bench.peers import Peer, PeerError, Running
from sidecar.clock import monotonic, rfc3339, wall
from sidecar.wire.needs import needs_of
from sidecar.wire.request_view import SMALL_BODY_BYTES, SlicedReader, read_request

SIZES: Final = (
    2_000,
    2_000_000,
    8_000_000,
)  # bytes of base64; above 8 MiB a body is not read but streamed to the baseline
_HEALTH: Final = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_PATIENCE_S: Final = 20.0


def reading(size: int, rounds: int) -> dict[str, float]:
    """Megabytes a second, and milliseconds of the longest slice, of the fastest of `rounds` readings."""
    body = payloads.image_request(0, 1, size).partition(b"\r\n\r\n")[2]
    best: list[float] = []
    for _ in range(rounds):
        steps = _steps(body)
        if not best or sum(steps) < sum(best):
            best = steps
    return {"mb_per_s": len(body) / 1e6 / sum(best), "slice_ms": max(best) * 1e3}


def _steps(body: bytes) -> list[float]:
    """Seconds of each slice of one reading; a body of at most 256 KiB is read in one go."""
    steps: list[float] = []
    began = thread_time()
    if len(body) <= SMALL_BODY_BYTES:
        view = read_request(body)
        needs_of(body)
        steps.append(thread_time() - began)
    else:
        reader, through = SlicedReader(body, needs=True), False
        while not through:
            through = reader.step()
            steps.append(thread_time() - began - sum(steps))
        view = reader.view
    assert view is not None
    assert view.model == payloads.MODEL.decode()
    return steps


def send(port: int, size: int, seconds: float, base: int) -> dict[str, Any]:
    """What the sender's process does: bodies one after the other; how many were answered, and what was wrong."""
    done, wrong = 0, ""
    stop = monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port), _PATIENCE_S) as connection:
        while not wrong and monotonic() < stop:
            connection.sendall(payloads.image_request(base + done, port, size))
            received, verdict = b"", None
            while verdict is None:
                got = connection.recv(65_536)
                received += got
                verdict = payloads.verify(received, base + done) if got else "connection lost"
            wrong = verdict
            done += not wrong
    return {"bodies": done, "wrong": wrong}


class Prober:
    """Asks a peer's health over one connection, until told otherwise."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), _PATIENCE_S)

    def waits(self, seconds: float, sender: "subprocess.Popen[str] | None" = None) -> list[float]:
        """How long each answer took, seconds; for `seconds`, or while `sender` runs."""
        found: list[float] = []
        stop = monotonic() + seconds
        while monotonic() < stop if sender is None else sender.poll() is None:
            began = monotonic()
            self._connection.sendall(_HEALTH)
            received = b""
            while not self._whole(received):
                got = self._connection.recv(65_536)
                if not got:
                    raise PeerError("the health port closed the prober's connection")
                received += got
            found.append(monotonic() - began)
            sleep(0.001)
        return found

    @staticmethod
    def _whole(received: bytes) -> bool:
        end = received.find(b"\r\n\r\n")
        length = payloads.LENGTH.search(received, 0, end + 2) if end > 0 else None
        return end > 0 and len(received) >= end + 4 + (int(length[1]) if length else 0)

    def close(self) -> None:
        self._connection.close()


def _health_port(peer: Peer) -> int:
    """The sidecar's own port for it, or the peer's only one."""
    return int(peer.environ.get("SIDECAR_HEALTH_LISTEN", f":{peer.port}").rpartition(":")[2])


def stalls(running: Running, size: int, seconds: float) -> dict[str, Any]:
    """Bodies a second and processor time of each; what a prober waited without bodies and beside them, ms. Raises
    PeerError."""
    assert running.process is not None
    prober = Prober(_health_port(running.peer))
    try:
        idle = prober.waits(seconds / 2)
        before, began = machine.cpu_s(running.process.pid), monotonic()
        told = (str(running.peer.port), str(size), str(seconds), str(running.next_number))
        command = (sys.executable, "-m", "bench.bodies", "--send", *told)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=peers.ROOT) as sender:
            busy = prober.waits(seconds, sender)
            assert sender.stdout is not None
            sent = json.loads(sender.stdout.read() or '{"bodies": 0, "wrong": "the sender ended"}')
    finally:
        prober.close()
    running.next_number += sent["bodies"] + 1
    took, used = monotonic() - began, machine.cpu_s(running.process.pid) - before
    rates = {"bodies_per_s": sent["bodies"] / took, "cpu_ms": used * 1e3 / max(1, sent["bodies"])}
    return rates | {"wrong": sent["wrong"], "idle_ms": stats.spread(idle, 1e3), "busy_ms": stats.spread(busy, 1e3)}


def run(rounds: int, seconds: float) -> dict[str, Any]:
    """The report. Raises PeerError when the upstream does not start."""
    peer_core, load_core = machine.two_cores()
    if load_core is not None:
        os.sched_setaffinity(0, {load_core})
    found: dict[str, Any] = {"at": rfc3339(wall()), "machine": machine.description(), "failed": {}}
    found["reading"] = {str(size): reading(size, rounds) for size in SIZES}
    recipes = {"nginx": peers.nginx("nginx", log=True)}
    recipes |= {f"sidecar {mode}": peers.sidecar(f"sidecar {mode}", mode) for mode in ("observe", "sampled")}
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {str(size): {name: [] for name in recipes} for size in SIZES}
    with tempfile.TemporaryDirectory(prefix="bench-bodies-") as path:
        upstream, running = peers.upstream(load_core), {}
        try:
            for place, (name, recipe) in enumerate(recipes.items()):
                folder = Path(path) / str(place)
                folder.mkdir()
                try:
                    running[name] = peers.start(recipe(folder, upstream.peer.port), peer_core)
                except PeerError as error:
                    found["failed"][name] = str(error)
            if "sidecar sampled" in running:
                peers.establish(running["sidecar sampled"])
            for _ in range(rounds):
                for size in SIZES:
                    for name, one in running.items():
                        cells[str(size)][name].append(stalls(one, size, seconds))
        finally:
            for one in (*running.values(), upstream):
                one.stop()
    return found | {"stalls": cells}


def table(report: Mapping[str, Any]) -> str:
    """Markdown: medians over the rounds."""
    lines = ["| base64 bytes | read MB/s | longest slice ms |", "| ---: | ---: | ---: |"]
    for size, read in report["reading"].items():
        lines.append(f"| {int(size):,} | {read['mb_per_s']:,.0f} | {read['slice_ms']:.2f} |")
    heads = "base64 bytes | peer | bodies/s | CPU ms a body | probe alone: p50, p99, most ms | beside bodies: the same"
    lines += ["", f"| {heads} |", "| ---: | --- | ---: | ---: | ---: | ---: |"]
    for size, cells in report["stalls"].items():
        for name, rounds in cells.items():
            if rounds:
                rates = " | ".join(
                    f"{_middle(rounds, key):.{places}f}" for key, places in (("bodies_per_s", 1), ("cpu_ms", 2))
                )
                lines.append(
                    f"| {int(size):,} | {name} | {rates} | {_waits(rounds, 'idle_ms')} | {_waits(rounds, 'busy_ms')} |"
                )
    return "\n".join(lines)


def _middle(rounds: Sequence[Mapping[str, Any]], key: str) -> float:
    return stats.median([one[key] for one in rounds])


def _waits(rounds: Sequence[Mapping[str, Any]], key: str) -> str:
    return ", ".join(f"{stats.median([one[key][share] for one in rounds]):.2f}" for share in ("p50", "p99", "max"))


def main() -> int:
    """Status 1 where a peer did not run or gave a wrong answer."""
    parser = argparse.ArgumentParser(prog="python -m bench.bodies", description=__doc__)
    parser.add_argument("--out", type=Path, help="write the report there as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of bodies in a round (2)")
    parser.add_argument("--send", nargs=4, metavar=("PORT", "SIZE", "SECONDS", "FIRST"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        port, size, seconds, base = options.send
        print(json.dumps(send(int(port), int(size), float(seconds), int(base))))
        return 0
    report = run(options.rounds, options.seconds)
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))
    wrong = [one["wrong"] for cells in report["stalls"].values() for rounds in cells.values() for one in rounds]
    return 1 if report["failed"] or any(wrong) else 0


if __name__ == "__main__":
    sys.exit(main())
