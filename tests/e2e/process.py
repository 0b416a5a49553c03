"""The real sidecar and the simulated provider as processes of their own, on free ports: started, asked, stopped, killed."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sidecar.clock import monotonic
from tests.fixtures.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 30.0  # a start takes half a second; other test runs may hold both cores
STOP_TIMEOUT_S = 40.0  # drain is 25 s at most, closing the store 5 s
LOOPBACK = "127.0.0.1"


_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on now, and that was not given before: the kernel gives one again as soon as it is free."""
    while True:
        with socket.socket() as sock:
            sock.bind((LOOPBACK, 0))
            port = int(sock.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def ask(
    port: int, method: str, path: str, *, body: object = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body. Raises OSError when nobody answers."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=15)
    try:
        sent = {"Content-Type": "application/json"} if body is not None else {}
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {**sent, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


class Child:
    """A process whose output goes to a file. Leaving the `with` block ends it, whatever happened."""

    def __init__(self, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        self.log = log
        self.started = monotonic()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(environ), cwd=ROOT
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.alive:
            self.process.kill()
        self.process.wait(10)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> float:
        """SIGKILL; the monotonic time of it."""
        at = monotonic()
        self.process.kill()
        self.process.wait(10)
        return at

    def stop(self) -> int:
        """SIGTERM, as a pod's end does it; the exit status."""
        if self.alive:
            self.process.terminate()
        return self.process.wait(STOP_TIMEOUT_S)


class Provider(Child):
    """The simulated provider. `knobs` are its `--set` values."""

    def __init__(
        self,
        folder: Path,
        *knobs: str,
        faults: Sequence[Mapping[str, object]] = (),
        port: int = 0,
        host: str = LOOPBACK,
    ) -> None:
        self.port, self.host = port or free_port(), host
        command = [sys.executable, "-m", "sidecar.sim", "--host", host, "--port", str(self.port)]
        for knob in (*knobs, f"faults={json.dumps(list(faults))}"):
            command += ["--set", knob]
        super().__init__(command, folder / "provider.log", os.environ)
        if not wait_for(self._listens, READY_TIMEOUT_S):
            self.kill()
            raise RuntimeError(f"the provider did not start:\n{self.output()}")

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex((self.host, self.port)) == 0

    def set_models(self, **models: Mapping[str, object]) -> None:
        """Replaces the knobs of these models from the next request on."""
        assert ask(self.port, "POST", "/_sim/models", body=models)[0] == 200

    def set_faults(self, *faults: Mapping[str, object]) -> None:
        """Replaces all faults from the next request on."""
        assert ask(self.port, "POST", "/_sim/faults", body=list(faults))[0] == 200


class Sidecar(Child):
    """`python -m sidecar run` with its files in `folder`. Settings are environment variables or `--set` keys."""

    def __init__(
        self,
        folder: Path,
        upstream: str = "http://127.0.0.1:9",
        *,
        environ: Mapping[str, str] | None = None,
        program: Sequence[str] = ("-m", "sidecar"),
        wait: bool = True,
        **settings: object,
    ) -> None:
        """`program` is what the interpreter runs. With `wait` it is ready when this returns."""
        self.folder = folder
        self.port, self.health_port, self.admin_port = free_port(), free_port(), free_port()
        self.db = Path(str(settings.pop("db", folder / "store" / "sidecar.db")))
        self.request_log = folder / "requests.jsonl"
        values: dict[str, object] = {
            "listen": f"{LOOPBACK}:{self.port}",
            "health_listen": f"{LOOPBACK}:{self.health_port}",
            "admin_listen": f"{LOOPBACK}:{self.admin_port}",
            "db": self.db,
            "service": "bot",
            "request_log": self.request_log,
            "openai_upstream": upstream,
            "anthropic_upstream": upstream,
            "gemini_upstream": upstream,
            **settings,
        }
        self.arguments = [sys.executable, *program, "run"]
        for key, value in values.items():
            self.arguments += ["--set", f"{key}={value}"]
        self.environ = {**os.environ, **(environ or {})}
        super().__init__(self.arguments, folder / "sidecar.log", self.environ)
        if wait:
            self.wait()

    def start_again(self) -> float:
        """The same command once more, after its end; seconds until it was ready."""
        Child.__init__(self, self.arguments, self.log, self.environ)
        return self.wait()

    def wait(self) -> float:
        """Returns the seconds from the start until /ready said 200; RuntimeError with the output otherwise."""
        if not wait_for(lambda: not self.alive or self.ready()[0] == 200, READY_TIMEOUT_S, 0.005) or not self.alive:
            if self.alive:
                self.kill()
            raise RuntimeError(f"the sidecar did not become ready:\n{self.output()[-4000:]}")
        return monotonic() - self.started

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def ready(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /ready; status 0 when nobody answers."""
        try:
            status, body = ask(self.health_port, "GET", "/ready")
        except OSError:
            return 0, {}
        return status, json.loads(body)

    def metrics(self) -> str:
        """One scrape in the Prometheus text format."""
        return ask(self.health_port, "GET", "/metrics")[1].decode()

    def token(self) -> str:
        """The admin token that the process made beside its database."""
        return self.db.with_name(self.db.name + ".admin-token").read_text().strip()

    def admin(self, method: str, path: str, body: object = None) -> Any:
        """The JSON that the admin API answers; AssertionError unless its status is 200."""
        headers = {"Authorization": f"Bearer {self.token()}"}
        status, answer = ask(self.admin_port, method, path, body=body, headers=headers)
        assert status == 200, answer
        return json.loads(answer)

    def verb(self, *arguments: str) -> str:
        """What a verb of the command line prints about this database; CalledProcessError when it fails."""
        command = [sys.executable, "-m", "sidecar", *arguments, "--db", str(self.db), "--set", "service=bot"]
        return subprocess.run(
            command, env=self.environ, check=True, capture_output=True, text=True, timeout=60, cwd=ROOT
        ).stdout

    def decisions(self, last: int = 100_000) -> list[dict[str, Any]]:
        """Rows of the database, newest first, as `llm-sidecar decisions --json` prints them."""
        return [json.loads(line) for line in self.verb("decisions", "--last", str(last), "--json").splitlines()]


@contextlib.contextmanager
def serving(
    folder: Path, *knobs: str, faults: Sequence[Mapping[str, object]] = (), **settings: Any
) -> Iterator[tuple[Sidecar, Provider]]:
    """A sidecar in front of a simulated provider; the sidecar has to end with status 0 on SIGTERM."""
    with Provider(folder, *knobs, faults=faults) as provider, Sidecar(folder, provider.url, **settings) as sidecar:
        yield sidecar, provider
        assert sidecar.stop() == 0, sidecar.output()[-4000:]
