"""The real sidecar as a process of its own, for tests marked `real`: `python -m sidecar run` and its other verbs."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.real.models import free_port

PYTHON = os.environ.get("LLM_SIDECAR_PYTHON", sys.executable)  # where the tests run in an environment of their own
READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 30.0  # drain is 25 s at most


class Sidecar:
    """A running sidecar. `url` is the traffic listener's origin, `env` what its verbs have to be started with."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.port, self.health_port, self.admin_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.db = folder / "sidecar.db"
        self.log = folder / "sidecar.log"
        self.env = os.environ | {
            "SIDECAR_LISTEN": f"127.0.0.1:{self.port}",
            "SIDECAR_HEALTH_LISTEN": f"127.0.0.1:{self.health_port}",
            "SIDECAR_ADMIN_LISTEN": f"127.0.0.1:{self.admin_port}",
            "SIDECAR_DB": str(self.db),
            "SERVICE_ID": "real-tests",
            **settings,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "sidecar", "run"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env
            )

    def wait(self) -> "Sidecar":
        """Returns itself once /ready answers 200; RuntimeError with the process's output when that does not happen."""
        end = time.perf_counter() + READY_TIMEOUT_S
        while not self.ready():
            if self.process.poll() is not None or time.perf_counter() > end:
                self.process.kill()
                raise RuntimeError(f"the sidecar did not become ready:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)
        return self

    def ready(self) -> bool:
        """Whether /ready answers 200. RuntimeError when a policy was given and is not in force."""
        connection = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=2)
        try:
            connection.request("GET", "/ready")
            answer = connection.getresponse()
            told = json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if "SIDECAR_POLICIES" in self.env and told["policy_version"] == "none" and answer.status == 200:
            self.process.kill()
            raise RuntimeError(f"the policy is not in force: {told['notes']}")
        return answer.status == 200

    def stop(self) -> int:
        """SIGTERM, as a pod's end does it; returns the exit status."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        finally:
            self.process.kill()
            self.process.wait()

    def verb(self, *arguments: str) -> str:
        """What a verb of the command line prints; CalledProcessError when it fails."""
        command = [PYTHON, "-m", "sidecar", *arguments]
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True, timeout=60).stdout

    def decisions(self, last: int = 1000) -> list[dict[str, Any]]:
        """Rows of the database, oldest first, as `llm-sidecar decisions --json` prints them."""
        lines = self.verb("decisions", "--last", str(last), "--json").splitlines()
        return [json.loads(line) for line in reversed(lines)]

    def settled(self, ids: set[str]) -> dict[str, dict[str, Any]]:
        """The rows of these decisions once all of them are written (a group commit later); by id."""
        end = time.perf_counter() + 10
        while True:
            rows = {row["id"]: row for row in self.decisions(len(ids) + 200) if row["id"] in ids and row["outcome"]}
            if rows.keys() == ids or time.perf_counter() > end:
                return rows
            time.sleep(0.25)

    def feedback(self, decision: str, score: float) -> int:
        """Sends a score for a decision as an app does; returns the status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            body = json.dumps({"id": decision, "score": score, "source": "task"})
            connection.request("POST", "/_sidecar/v1/feedback", body, {"Content-Type": "application/json"})
            return connection.getresponse().status
        finally:
            connection.close()


@contextlib.contextmanager
def running(folder: Path, settings: Mapping[str, str]) -> Iterator[Sidecar]:
    """A ready sidecar with its files in `folder`; it has to end with status 0 on SIGTERM."""
    sidecar = Sidecar(folder, settings)
    try:
        yield sidecar.wait()
    finally:
        status = sidecar.stop()
    assert status == 0, sidecar.log.read_text()[-4000:]
