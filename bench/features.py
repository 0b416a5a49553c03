"""`python -m bench.features --out FILE.json`: what each feature costs a call, by switching it off.

Every variant of the sidecar is measured in every round, one after the other; a feature's price is the median over rounds
of the difference to the neighbour that lacks it, in the same round; there is none where one of the two lost a round.
Metrics have no switch and are in every row. In a route of mode optimize each call is a draw only once its arms are
promoted: before, nineteen of twenty have the baseline. So both are rows of their own. `bench.unread` is what a
proxy in Python costs that does nothing.

What it does not show: latency. Most of this is done behind the answer.
"""

import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import machine, peers, sections
from bench.sections import Bench, Plan
from sidecar.clock import rfc3339, wall

UNREAD: Final = "bytes passed unread (bench.unread)"
BARE: Final = "neither policy nor log nor store"
LINE: Final = "log line"
ROW: Final = "log line, store"
OBSERVE: Final = "observe: log line, store, policy"
SPANS: Final = "observe with spans"
CANARY: Final = "canary of 10 %"
OPTIMIZE: Final = "optimize, two arms in rollout"
SAMPLED: Final = "optimize, three arms sampled, text features"
NEIGHBOURS: Final[Mapping[str, tuple[str, str]]] = {
    "log line": (LINE, BARE),
    "store": (ROW, LINE),
    "policy, usage by route": (OBSERVE, ROW),
    "spans": (SPANS, OBSERVE),
    "canary": (CANARY, OBSERVE),
    "rollouts of an optimize route": (OPTIMIZE, OBSERVE),
    "selection by text": (SAMPLED, OBSERVE),
}  # feature: (with it, without it)
NGINX: Final = "nginx"


def recipes(collector: str) -> dict[str, peers.Recipe]:
    """The variants, from nothing to everything, beside nginx. `collector` takes the spans."""
    return {
        NGINX: peers.nginx(NGINX, log=True),
        UNREAD: peers.custom(f"{UNREAD}={sys.executable} -m bench.unread {{port}} {{upstream}}")[1],
        BARE: peers.sidecar(BARE, "", SIDECAR_DB=None, SIDECAR_REQUEST_LOG="off"),
        LINE: peers.sidecar(LINE, "", SIDECAR_DB=None),
        ROW: peers.sidecar(ROW, ""),
        OBSERVE: peers.sidecar(OBSERVE, "observe"),
        SPANS: peers.sidecar(SPANS, "observe", OBSERVATORY_URL=collector),
        CANARY: peers.sidecar(CANARY, "canary"),
        OPTIMIZE: peers.sidecar(OPTIMIZE, "optimize"),
        SAMPLED: peers.sidecar(SAMPLED, "sampled"),
    }


class _Collector(BaseHTTPRequestHandler):
    """Takes every batch of spans and says that it has it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


@contextmanager
def collector() -> Iterator[str]:
    """A collector's address on loopback, while it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def prices(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By connections and feature: microseconds of processor time a call, the median of paired rounds."""
    told: dict[str, dict[str, float]] = {}
    for load, cells in found.items():
        rounds = {name: [one["cpu_us"] for one in cell["rounds"]] for name, cell in cells.items() if "rounds" in cell}
        told[load] = {
            feature: median(a - b for a, b in zip(rounds[more], rounds[less], strict=True))
            for feature, (more, less) in NEIGHBOURS.items()
            if more in rounds and less in rounds and len(rounds[more]) == len(rounds[less])  # else: which lost one?
        }
    return told


def run(plan: Plan) -> dict[str, Any]:
    """The report. Raises PeerError when the upstream does not start."""
    peer_core, load_core = machine.two_cores()
    with tempfile.TemporaryDirectory(prefix="bench-features-") as folder, collector() as url:
        upstream = peers.upstream(load_core)
        bench = Bench(plan, recipes(url), frozenset(), upstream, Path(folder), peer_core, load_core)
        try:
            bench.start_all()
            if SAMPLED in bench.running:
                peers.establish(bench.running[SAMPLED])
            found = sections.cpu(bench)
        finally:
            bench.stop_all()
            upstream.stop()
    about = {"at": rfc3339(wall()), "machine": machine.description(), "failed": bench.failed, "wrong": bench.wrong}
    return about | {"cpu": found, "prices": prices(found)}


def table(report: Mapping[str, Any]) -> str:
    """Markdown: the variants with their ratio to nginx of the same run, and what each feature adds."""
    loads = list(report["cpu"])
    lines = [f"| variant, CPU us a call | {' | '.join(loads)} |", "| --- |" + " ---: |" * len(loads)]
    for name in recipes(""):
        cells = [report["cpu"][load].get(name, {}).get("median", {}).get("cpu_us") for load in loads]
        base = [report["cpu"][load].get(NGINX, {}).get("median", {}).get("cpu_us") for load in loads]
        said = ["-" if us is None else f"{us:.0f}" + (f" ({us / of:.1f} x)" if of and name != NGINX else "")
                for us, of in zip(cells, base, strict=True)]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(said)} |")
    lines += ["", f"| feature, us added | {' | '.join(loads)} |", "| --- |" + " ---: |" * len(loads)]
    for feature in NEIGHBOURS:
        added = [report["prices"][load].get(feature) for load in loads]
        lines.append(f"| {feature} | {' | '.join('-' if us is None else f'{us:.1f}' for us in added)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(sections.cpu_command(__doc__, run, table))
