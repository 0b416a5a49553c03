"""What the demo plays on: a folder with a policy and the provider's knobs, and two processes as a user starts them.

The policy is an ordinary file. Only what a production rollout waits for is shortened (`SHORTENED`, printed at the
start): the tests that decide are the ones of every other rollout.
"""

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final

from sidecar.clock import monotonic
from sidecar.config.settings import Settings
from sidecar.config.sources import Sources
from sidecar.errors import SidecarError

SHORTENED: Final = "interval 15m -> 6s, min_requests 200 -> 30, quality.min_samples 200 -> 30"
BASELINE: Final = "gpt-4o"
CHEAPER: Final = "mini"
BROKEN: Final = "nano"
BROKEN_MODEL: Final = "gpt-4.1-nano"
_START_S: Final = 20.0
_STOP_S: Final = 10.0
_POLL_S: Final = 0.05

_POLICY: Final = """\
# The demo's policy. Try it: change a number while the demo runs; it is in force within two seconds.
version: 1
service: demo
upstreams:
  openai:
    dialect: openai
    base_url: {provider}/v1
    provider: openai                 # the simulated models have the list prices of the real ones
routes:
  - name: chat
    match: {{models: [gpt-4o]}}        # what the app asks for
    mode: optimize
    baseline: {{id: gpt-4o, upstream: openai, model: gpt-4o}}
    arms:
      - {{id: mini, upstream: openai, model: gpt-4o-mini}}
{more}    objective: {{minimize: cost, max_quality_loss: 0.05}}
    sticky: conversation
    rollout:
      steps: [5, 25, 50, 100]
      min_requests: 30               # production: 200
      interval: 6s                   # production: 15m
      guardrails: {{error_rate: 1.5x, ttft_p95: 1.5x, cost: 1.2x, quality: -5%}}
    quality: {{validators: [finish_reason, empty], feedback: true, min_samples: 30}}   # production: 200
"""
_SECOND_ARM: Final = "      - {id: nano, upstream: openai, model: gpt-4.1-nano}\n"
_KNOBS: Final = """\
# What the simulated models are like. `quality` is the chance that a sum in an answer is right; only the text tells it.
seed: 3
known_models_only: true
models:
  gpt-4o:
    {ttft: {kind: lognormal, mean: 0.14, cv: 0.3}, itl: 0.003, tokens_per_chunk: 4, quality: 0.96,
     output_tokens: {kind: lognormal, mean: 40, cv: 0.4, low: 8, high: 200}}
  gpt-4o-mini:
    {ttft: {kind: lognormal, mean: 0.08, cv: 0.3}, itl: 0.002, tokens_per_chunk: 4, quality: 0.98,
     output_tokens: {kind: lognormal, mean: 40, cv: 0.4, low: 8, high: 200}}
  gpt-4.1-nano:
    {ttft: {kind: lognormal, mean: 0.06, cv: 0.3}, itl: 0.002, tokens_per_chunk: 4, quality: 0.96,
     output_tokens: {kind: lognormal, mean: 40, cv: 0.4, low: 8, high: 200}}
"""


class StoryError(SidecarError):
    """A step of the demo did not happen; the message says which, and where the logs are."""

    code = "demo"


@dataclass(frozen=True, slots=True)
class Stage:
    """A folder and two running processes. Addresses are origins without a slash at the end."""

    folder: Path
    provider: str
    traffic: str
    admin: str
    processes: Mapping[str, subprocess.Popen[bytes]]

    @property
    def db(self) -> Path:
        return self.folder / "sidecar.db"

    @property
    def policy(self) -> Path:
        return self.folder / "policies" / "demo.yaml"

    @property
    def token(self) -> str:
        """The admin token, which the sidecar made beside its database."""
        return self.db.with_name(self.db.name + ".admin-token").read_text("ascii").strip()

    def add_arm(self) -> None:
        """Writes the second arm into the policy, in one step, as an editor or a ConfigMap does."""
        write_policy(self.policy, self.provider, _SECOND_ARM)

    def check(self) -> None:
        """Raises StoryError when one of the processes has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                log = self.folder / f"{name}.log"
                last = log.read_text("utf-8", "replace").strip().rpartition("\n")[2]
                raise StoryError(f"the {name} ended with status {process.returncode}; {log} ends with: {last}")


def build(folder: Path, undo: ExitStack) -> Stage:
    """Writes the files and starts both processes; `undo` ends them, by their ids. Raises StoryError."""
    (folder / "policies").mkdir()
    knobs = folder / "provider.yaml"
    knobs.write_text(_KNOBS, encoding="utf-8")
    traffic, health, admin, provider = _free_ports(4)
    origin = f"http://127.0.0.1:{provider}"
    write_policy(folder / "policies" / "demo.yaml", origin)
    verb = ["simulate-provider", "--config", str(knobs), "--port", str(provider)]
    processes = {"provider": _start("provider", verb, folder, {}, undo)}
    environ = {
        "SERVICE_ID": "demo",
        "SIDECAR_LISTEN": f"127.0.0.1:{traffic}",
        "SIDECAR_HEALTH_LISTEN": f"127.0.0.1:{health}",
        "SIDECAR_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "SIDECAR_DB": str(folder / "sidecar.db"),
        "SIDECAR_POLICIES": str(folder / "policies"),
        "SIDECAR_REQUEST_LOG": str(folder / "requests.jsonl"),
        "SIDECAR_DRAIN_IDLE": "100ms",
    }
    processes["sidecar"] = _start("sidecar", ["run"], folder, environ, undo)
    stage = Stage(folder, origin, f"http://127.0.0.1:{traffic}", f"http://127.0.0.1:{admin}", processes)
    _wait_for(f"{origin}/v1/models", stage)
    _wait_for(f"http://127.0.0.1:{health}/ready", stage)
    return stage


def write_policy(file: Path, provider: str, more: str = "") -> None:
    """Replaces the policy file atomically."""
    fresh = file.with_suffix(".new")
    fresh.write_text(_POLICY.format(provider=provider, more=more), encoding="utf-8")
    fresh.replace(file)


def command() -> str:
    """How this program is started, for the commands that the demo prints."""
    name = Path(sys.argv[0])
    return str(name) if name.name.startswith("llm-sidecar") else f"{sys.executable} -m sidecar"


def _start(
    name: str, arguments: list[str], folder: Path, environ: Mapping[str, str], undo: ExitStack
) -> subprocess.Popen[bytes]:
    """One of our own verbs as a process, in its own session, so that Ctrl-C reaches it through us only."""
    settings = Sources(Settings).variables
    inherited = {
        key: value for key, value in os.environ.items() if key not in settings and not key.startswith("SIDECAR_")
    }
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program with our own arguments
            [sys.executable, "-m", "sidecar", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=inherited | dict(environ), start_new_session=True,
        )  # fmt: skip
    undo.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL when that is not obeyed in time."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; all are held until all are known, so that they differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _wait_for(url: str, stage: Stage) -> None:
    """Until a GET is answered with 200: for `/ready` that is when all listeners serve."""
    end = monotonic() + _START_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        stage.check()
        try:
            opener.open(url, timeout=1.0).close()
        except OSError as error:  # also what urllib makes of a 503
            if monotonic() > end:
                raise StoryError(f"{url} did not answer within {_START_S:.0f} s: {error}; see {stage.folder}") from None
            Event().wait(_POLL_S)
            continue
        return
