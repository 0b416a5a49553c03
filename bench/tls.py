"""`python -m bench.tls --out FILE.json`: what a small call costs where the upstream is reached by TLS, beside nginx.

The call from the app is plain, as it is on loopback; the upstream has a certificate of a throw-away authority, which both
proxies verify, and both keep their connections. So this is what encryption costs a call, not what a handshake costs.
The rows without TLS are of the same rounds.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import trustme

from bench import machine, peers, report, sections
from bench.peers import Recipe
from bench.sections import Bench, Plan
from sidecar.clock import rfc3339, wall


def certificates(folder: Path) -> tuple[Path, Path]:
    """A new authority's certificate, and key and chain of a server on loopback, as PEM files in `folder`."""
    authority = trustme.CA()
    trusted, served = folder / "ca.pem", folder / "server.pem"
    authority.cert_pem.write_to_path(str(trusted))
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(str(served))
    return trusted, served


def _towards(port: int, recipe: Recipe) -> Recipe:
    """The recipe with another upstream's port than the bench's first one."""
    return lambda folder, _: recipe(folder, port)


def recipes(trusted: Path, port: int) -> dict[str, Recipe]:
    """nginx first with TLS, because ratios are to the peer of that name; then everybody else, and all without."""
    return {
        report.BASE: _towards(port, peers.nginx(report.BASE, log=True, ca=trusted)),
        "sidecar observe": _towards(port, peers.sidecar("sidecar observe", "observe", ca=trusted)),
        "sidecar optimize": _towards(port, peers.sidecar("sidecar optimize", "optimize", ca=trusted)),
        "nginx, no TLS": peers.nginx("nginx, no TLS", log=True),
        "sidecar observe, no TLS": peers.sidecar("sidecar observe, no TLS", "observe"),
    }


def run(plan: Plan) -> dict[str, Any]:
    """The report, as `bench.proxy` writes it. Raises PeerError when the upstream does not start."""
    about = machine.description()
    peer_core, load_core = machine.two_cores()
    with tempfile.TemporaryDirectory(prefix="bench-tls-") as path:
        folder = Path(path)
        trusted, served = certificates(folder)
        port = peers.free_port()
        upstream = peers.upstream(load_core, "--tls-port", str(port), "--certificate", str(served))
        bench = Bench(plan, recipes(trusted, port), frozenset(), upstream, folder, peer_core, load_core)
        try:
            bench.start_all()
            found = {"cpu": sections.cpu(bench)}
        finally:
            bench.stop_all()
            upstream.stop()
    told = {"at": rfc3339(wall()), "machine": about, "sections": found, "ratios": report.ratios(found)}
    return told | {"failed": bench.failed, "wrong": bench.wrong}


if __name__ == "__main__":
    sys.exit(sections.cpu_command(__doc__, run, report.markdown))
