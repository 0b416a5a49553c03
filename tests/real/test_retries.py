"""Retries are the SDK's business: through the sidecar an upstream in trouble sees no more attempts than without it."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.real import process

pytestmark = pytest.mark.real


class Trouble(http.server.ThreadingHTTPServer):
    """Answers every POST with `status` (0: closes without an answer) and counts them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status, self.attempts = 503, 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Trouble

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.attempts += 1
        if not self.server.status:
            self.close_connection = True
            return
        body = b'{"error": {"type": "server_error", "message": "in trouble"}}'
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("retry-after-ms", "5")  # the SDK would wait for seconds otherwise
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is written."""


@pytest.fixture(scope="module")
def trouble() -> Iterator[Trouble]:
    server = Trouble()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def front(trouble: Trouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("trouble")
    with process.running(folder, {"OPENAI_UPSTREAM": trouble.url, "ANTHROPIC_UPSTREAM": trouble.url}) as sidecar:
        yield sidecar.url


def _ask(origin: str, client: str, retries: int) -> None:
    asked: Any = [{"role": "user", "content": "hi"}]
    if client == "openai":
        with openai.OpenAI(base_url=origin + "/v1", api_key="sk-test", max_retries=retries) as sdk:
            sdk.chat.completions.create(model="m", messages=asked)
    else:
        with anthropic.Anthropic(base_url=origin, api_key="sk-test", max_retries=retries) as other:
            other.messages.create(model="m", messages=asked, max_tokens=4)


def _attempts(trouble: Trouble, origin: str, client: str, retries: int) -> tuple[int, type[BaseException]]:
    """(requests that the upstream saw, what the SDK raised)."""
    trouble.attempts = 0
    with pytest.raises((openai.APIError, anthropic.APIError)) as caught:
        _ask(origin, client, retries)
    return trouble.attempts, caught.type


@pytest.mark.parametrize("client", ["openai", "anthropic"])
@pytest.mark.parametrize(("status", "attempts"), [(503, 3), (500, 3), (429, 3), (400, 1), (401, 1)])
def test_the_upstream_sees_the_sdks_own_attempts(
    client: str, status: int, attempts: int, trouble: Trouble, front: str
) -> None:
    """INC-13, INC-14: as many requests as without a sidecar, and the same exception in the end."""
    trouble.status = status
    without = _attempts(trouble, trouble.url, client, retries=2)
    assert without[0] == attempts
    assert _attempts(trouble, front, client, retries=2) == without


@pytest.mark.parametrize("client", ["openai", "anthropic"])
def test_a_request_that_was_sent_is_never_sent_again(client: str, trouble: Trouble, front: str) -> None:
    """INC-13: the upstream read the request and closed; an SDK that does not retry makes exactly one request of it."""
    trouble.status = 0
    assert _attempts(trouble, front, client, retries=0)[0] == 1
