"""Who is measured: nginx, the sidecar in two modes, and any other forwarder; how each is started and stopped.

A recipe makes a `Peer` (command, environment, port) for a working folder and an upstream; `start` runs it on its core
and returns once it has answered its first request correctly.
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from time import sleep
from typing import Any

from bench import machine, payloads
from sidecar.clock import monotonic

ROOT = Path(__file__).resolve().parent.parent
_PATIENCE_S = 20.0  # a peer that has not answered by then counts as not started
_PROBE = 90_000_000  # numbers of probing requests, above those of any load


class PeerError(Exception):
    """The peer is not installed or did not start; the message says what it printed."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A program under test. An empty command means that the port is served already (direct)."""

    name: str
    command: tuple[str, ...]
    port: int
    environ: Mapping[str, str] = field(default_factory=dict)
    output: Path | None = None  # where its standard output and error go
    request_log: Path | None = None  # JSON lines with `completion_id`, `ttft_s`, `sent_s`


Recipe = Callable[[Path, int], Peer]  # (empty working folder, upstream's port) -> peer


@dataclass(slots=True)
class Running:
    """A started peer. `next_number` keeps request numbers, hence completion ids, unique over its life."""

    peer: Peer
    process: subprocess.Popen[bytes] | None
    started_s: float
    next_number: int = 0

    def check(self) -> None:
        """Raises PeerError, with exit code (negative: signal) and last output, when the process has ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            raise PeerError(f"{_tail(self.peer.output)}\nended by itself, exit code {self.process.returncode}")

    def stop(self) -> None:
        """SIGTERM, ten seconds for a clean end, then SIGKILL. Does nothing the second time."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int, number: int = _PROBE) -> bool:
    """Whether one request through `port` comes back right, whole and within a second."""
    received = b""
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
            connection.sendall(payloads.request(number, port))
            while (verdict := payloads.verify(received, number)) is None:
                got = connection.recv(65536)
                if not got:
                    return False
                received += got
    except OSError:
        return False
    return verdict == ""


def start(peer: Peer, core: int | None, patience_s: float = _PATIENCE_S) -> Running:
    """Runs the peer on `core` until its first right answer. Raises PeerError, with the end of its output."""
    began = monotonic()
    process: subprocess.Popen[bytes] | None = None
    if peer.command:
        output = (peer.output or Path(os.devnull)).open("wb")
        try:
            process = subprocess.Popen(
                peer.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **peer.environ},
                cwd=ROOT,
                preexec_fn=machine.pinned(core),
            )
        except OSError as error:
            raise PeerError(f"{peer.command[0]}: {error.strerror}") from error
        finally:
            output.close()
    running = Running(peer, process, 0.0)
    while not answers(peer.port):
        ended = process is not None and process.poll() is not None
        if ended or monotonic() - began > patience_s:
            running.stop()
            raise PeerError(("ended" if ended else "gave no right answer") + f": {_tail(peer.output)}")
        sleep(0.002)
    running.started_s = monotonic() - began
    return running


def _tail(output: Path | None) -> str:
    return output.read_text(errors="replace")[-800:].strip() if output is not None and output.exists() else "no output"


def upstream(core: int | None, *more: str) -> Running:
    """The bench's own upstream, which is also the peer `direct`; `more` are further arguments of its command."""
    port = free_port()
    command = (sys.executable, "-m", "bench.upstream", "--port", str(port), *more)
    return start(Peer("direct", command, port), core)


_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
http {{
  access_log {log}; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000; keepalive_timeout 75s; tcp_nodelay on; client_max_body_size 64m;
  client_body_buffer_size 64m;
  upstream provider {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location = /health {{ access_log off; return 200; }}
    location / {{
      proxy_pass {provider}; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering on; proxy_read_timeout 300s;
    }}
  }}
}}
"""

_NGINX_TLS = (
    "proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca}; proxy_ssl_name localhost; proxy_ssl_protocols TLSv1.3"
)


def nginx(name: str, *, log: bool, ca: Path | None = None) -> Recipe:
    """nginx as one would put it there: one worker, keep-alive on both legs, no buffering, log to a file or off. With `ca`
    it speaks TLS to the upstream, and verifies it."""

    def recipe(folder: Path, upstream_port: int) -> Peer:
        found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if found is None:
            raise PeerError("nginx is not installed (Debian: nginx-light)")
        port = free_port()
        target = str(folder / "access.log") if log else "off"
        provider = "http://provider" if ca is None else f"https://provider; {_NGINX_TLS.format(ca=ca)}"
        text = _NGINX.format(folder=folder, log=target, upstream=upstream_port, port=port, provider=provider)
        (folder / "nginx.conf").write_text(text)
        command = (found, "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf"))
        return Peer(name, command, port, output=folder / "output")

    return recipe


_POLICY = """\
version: 1
service: bench
upstreams:
  provider: {{dialect: openai, base_url: "http://127.0.0.1:{upstream}/v1", api_key: {{from: client}}, provider: openai}}
routes:
  - name: bench
    match: {{models: ["gpt-4o"]}}
    mode: {mode}
    baseline: {{id: gpt-4o, upstream: provider, model: gpt-4o}}
"""
_ARMS = """\
    arms:
      - {id: mini, upstream: provider, model: gpt-4o-mini}
      - {id: full, upstream: provider, model: gpt-4o-2024-11-20}
    objective: {minimize: cost, max_quality_loss: 0.05}
"""


_TEXT = """\
    context: {text: true}
    sticky: request
"""
_CANARY = """\
    arms:
      - {id: mini, upstream: provider, model: gpt-4o-mini}
    rollout: {steps: [10, 100], min_requests: 1000000}
"""


def sidecar(name: str, mode: str, workers: int = 1, ca: Path | None = None, **settings: str | None) -> Recipe:
    """The sidecar with everything on: policy in `mode`, metrics, log line and row a request. Modes: optimize (three arms, of
    which two begin their rollouts, so that 5 % of the calls have another one than the baseline), sampled (the same with text
    features, see `establish`), canary (10 %), "" (no policy). With `ca` it speaks TLS to the upstream, and verifies it.
    `settings` change that: SIDECAR_... variables; None takes one away."""
    scheme = "http" if ca is None else "https"

    def recipe(folder: Path, upstream_port: int) -> Peer:
        ports = [free_port() for _ in range(3)]
        policies = folder / "policies"
        policies.mkdir()
        arms = {"optimize": _ARMS, "sampled": _ARMS + _TEXT, "canary": _CANARY}.get(mode, "")
        if mode:
            written = "optimize" if mode == "sampled" else mode
            policy = _POLICY.format(upstream=upstream_port, mode=written) + arms
            (policies / "bench.yaml").write_text(policy.replace("http://", f"{scheme}://"))
        request_log = folder / "requests.jsonl"
        environ = {
            "PYTHONDONTWRITEBYTECODE": "",  # compiled once, as an installed package is, whatever this shell says
            "PYTHONPYCACHEPREFIX": str(folder.parent / "bytecode"),
            "SERVICE_ID": "bench",
            "SIDECAR_WORKERS": str(workers),
            "SIDECAR_LISTEN": f"127.0.0.1:{ports[0]}",
            "SIDECAR_HEALTH_LISTEN": f"127.0.0.1:{ports[1]}",
            "SIDECAR_ADMIN_LISTEN": f"127.0.0.1:{ports[2]}",
            "SIDECAR_DB": str(folder / "sidecar.db"),
            "SIDECAR_POLICIES": str(policies) if mode else None,
            "SIDECAR_REQUEST_LOG": str(request_log),
            "OPENAI_UPSTREAM": f"{scheme}://127.0.0.1:{upstream_port}",
            "SIDECAR_CA_FILE": None if ca is None else str(ca),
            **settings,
        }
        kept = {key: value for key, value in environ.items() if value is not None}
        return Peer(name, (sys.executable, "-m", "sidecar", "run"), ports[0], kept, folder / "output", request_log)

    return recipe


def establish(running: Running, patience_s: float = 60.0) -> None:
    """Promotes all arms of the route, so that each call is a draw among them. Raises PeerError when that takes longer."""
    began = monotonic()
    while monotonic() - began < patience_s:
        rollouts = _admin(running, "GET", "/api/v1/status")["routes"][0]["rollouts"]
        if all(one["phase"] == "promoted" for one in rollouts):
            return
        if any(one["phase"] == "running" for one in rollouts):
            _admin(running, "POST", "/api/v1/routes/bench/rollout", '{"action": "promote"}')
        else:
            sleep(0.2)  # the next one begins at a tick
    raise PeerError("its arms were not promoted in time")


def _admin(running: Running, method: str, path: str, body: str | None = None) -> dict[str, Any]:
    environ = running.peer.environ
    token = Path(environ["SIDECAR_DB"] + ".admin-token").read_text().strip()
    connection = HTTPConnection(environ["SIDECAR_ADMIN_LISTEN"], timeout=10)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


def custom(spec: str) -> tuple[str, Recipe]:
    """`NAME=COMMAND` with {port}, {upstream} and {folder} filled in. Raises ValueError for anything else."""
    name, equals, command = spec.partition("=")
    if not (name and equals and "{port}" in command):
        raise ValueError(f"--peer {spec!r}: must be NAME=COMMAND, and the command must contain {{port}}")

    def recipe(folder: Path, upstream_port: int) -> Peer:
        port = free_port()
        filled = command.format(port=port, upstream=upstream_port, folder=folder)
        return Peer(name, tuple(shlex.split(filled)), port, output=folder / "output")

    return name, recipe
