"""`llm-sidecar inject-webhook` as a process: from its options to its end by SIGTERM, amid reviews."""

import http.client
import os
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

import orjson
import trustme

from tests.e2e.process import LOOPBACK, READY_TIMEOUT_S, Child, ask, free_port
from tests.fixtures import pods
from tests.fixtures.waiting import wait_for

REVIEW = pods.body(pods.pod(pods.container(env=[pods.variable("PASSWORD", "canary-of-a-pod")])))


class Asking(threading.Thread):
    """Asks one review after the other, on connections that are kept as long as the server keeps them."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPSConnection("localhost", port, timeout=15, context=context)
        self.over = threading.Event()
        self.answered: list[dict[str, Any]] = []
        self.failed: list[str] = []

    def run(self) -> None:
        while not self.over.wait(0.005):
            try:
                self._connection.request("POST", "/mutate", REVIEW, {"Content-Type": "application/json"})
                response = self._connection.getresponse()
                self.answered.append(orjson.loads(response.read())["response"])
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
        self._connection.close()


def test_it_serves_mounted_certificates_until_sigterm_and_loses_nothing(tmp_path: Path) -> None:
    """GW-52: /ready tells, then 503; reviews are answered on; exit 0; what pods hold is in no line of its log."""
    authority = trustme.CA()
    made = authority.issue_cert("localhost", LOOPBACK)
    made.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    made.private_key_pem.write_to_path(tmp_path / "tls.key")
    config = tmp_path / "config.yaml"
    config.write_text("mode: plain\n")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port, health = free_port(), free_port()
    command = [sys.executable, "-m", "sidecar", "inject-webhook", "--config", str(config)]
    command += ["--listen", f"localhost:{port}", "--health-listen", f"{LOOPBACK}:{health}"]
    command += ["--certificates", "files", "--tls-dir", str(tmp_path)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KUBERNETES_")}

    def status(path: str) -> int:
        try:
            return ask(health, "GET", path)[0]
        except OSError:
            return 0

    with Child(command, tmp_path / "log", environ) as child:
        assert wait_for(lambda: status("/ready") == 200, READY_TIMEOUT_S), child.output()
        asking = [Asking(port, context) for _ in range(4)]
        for one in asking:
            one.start()
        assert wait_for(lambda: all(len(one.answered) > 5 for one in asking))
        child.process.terminate()
        assert wait_for(lambda: status("/ready") == 503)
        assert status("/health") == 200
        before = [len(one.answered) for one in asking]
        assert wait_for(lambda: all(len(one.answered) > count + 5 for one, count in zip(asking, before, strict=True)))
        for one in asking:
            one.over.set()
            one.join(10)
        assert child.process.wait(30) == 0
        log = [orjson.loads(line) for line in child.output().splitlines()]
    assert [one.failed for one in asking] == [[]] * 4
    assert all(response["allowed"] and "patch" in response for one in asking for response in one.answered)
    assert sum(line["event"] == "inject.review" for line in log) == sum(len(one.answered) for one in asking)
    assert [line["event"] for line in log if line["event"] != "inject.review"] == [
        "inject.serving",
        "inject.certificate",
        "inject.draining",
        "inject.stopped",
    ]
    assert "canary-of-a-pod" not in str(log)
