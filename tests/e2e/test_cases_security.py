"""Cases of docs/cases.md about attackers: the admin port, words that want to be code, and bodies that want to be huge."""

import gzip
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.process import LOOPBACK, Sidecar, ask, serving
from tests.fixtures.waiting import wait_for

MIB = 2**20
POLICY = """
version: 1
service: bot
upstreams: {{sim: {{dialect: openai, base_url: "{url}/v1", price: free}}}}
routes:
  - name: support
    match: {{models: ["gpt-4o"]}}
    mode: canary
    baseline: {{id: base, upstream: sim, model: gpt-4o}}
    arms: [{{id: new, upstream: sim, model: quick}}]
    rollout: {{steps: [5, 50, 100], min_requests: 100000, interval: 1h}}
"""


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A process with a rollout at 5 %."""
    folder = tmp_path_factory.mktemp("security")
    (folder / "policies").mkdir()
    with serving(folder, "default:output_tokens=3", policies=folder / "policies") as (one, provider):
        (folder / "policies" / "p.yaml").write_text(POLICY.format(url=provider.url))
        assert wait_for(lambda: bool(one.admin("GET", "/api/v1/status")["routes"]), 10.0)
        yield one


CHANGE = "/api/v1/routes/support/rollout"


def change(sidecar: Sidecar, **headers: str) -> int:
    """The status of a promotion that is sent with these fields besides a good token."""
    connection = http.client.HTTPConnection(LOOPBACK, sidecar.admin_port, timeout=10)
    fields = {"Authorization": f"Bearer {sidecar.token()}", "Content-Type": "application/json"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request("POST", CHANGE, b'{"action":"promote"}', fields)
        answer = connection.getresponse()
        answer.read()
        assert not [name for name, _ in answer.getheaders() if name.lower().startswith("access-control")]
        return answer.status
    finally:
        connection.close()


def step(sidecar: Sidecar) -> int:
    return int(sidecar.admin("GET", "/api/v1/status")["routes"][0]["rollouts"][0]["step"])


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic YWRtaW46YWRtaW4="}, 401),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:9092"}, 421),
        ({"Origin": "http://localhost:9092"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_the_admin_port_refuses(sidecar: Sidecar, fields: dict[str, str], status: int) -> None:
    """SEC-ADMIN: without the token (also on loopback), under another Host, from a web page, in a form's content type:
    refused, without CORS, and nothing has changed."""
    before = step(sidecar)
    assert change(sidecar, **fields) == status
    assert step(sidecar) == before


def test_nothing_changes_by_get(sidecar: Sidecar) -> None:
    """SEC-ADMIN: a link or an image can send GET; it finds no verb there. A preflight finds no permission."""
    before = step(sidecar)
    token = {"Authorization": f"Bearer {sidecar.token()}"}
    for method in ("GET", "HEAD", "OPTIONS"):
        status, _ = ask(sidecar.admin_port, method, CHANGE + "?action=promote", headers=token)
        assert status in (404, 405, 415), method
    assert step(sidecar) == before


def test_the_admin_port_is_not_behind_the_traffic_port(sidecar: Sidecar) -> None:
    """SEC-ADMIN, GW-47: CVE-2025-23217: admin and metrics paths on the traffic port are a 404 that goes nowhere, and the
    admin API is not on the health port."""
    token = {"Authorization": f"Bearer {sidecar.token()}"}
    for port in (sidecar.port, sidecar.health_port):
        for path in ("/api/v1/status", "/openapi.json", "/metrics" if port == sidecar.port else "/v1/models"):
            assert ask(port, "GET", path, headers=token)[0] == 404, (port, path)


WORDS = [
    'gpt\r\n{"level":"error","event":"forged"}',
    "gpt\u2028forged\u2029line\x85",
    "\x1b[2J\x1b[31mred\x07",
    "'; DROP TABLE decisions; --",
    "{{7*7}}${7*7}<%= 7*7 %>$(touch /forged)`id`",
    "\ud800lone",
    "m" * 5000,
]


def request(body: bytes, *lines: str) -> bytes:
    """A chat completion's bytes."""
    fields = "".join(f"{line}\r\n" for line in ("Host: localhost", *lines, f"Content-Length: {len(body)}"))
    return f"POST /v1/chat/completions HTTP/1.1\r\n{fields}\r\n".encode() + body


def test_words_of_a_request_stay_words(tmp_path: Path) -> None:
    """SEC-INJECTION: line ends, terminal codes, SQL, templates and shell text in a model's name and in the credentials: each
    exchange is one line of JSON and one row with the name as it was, or cut; the tables are whole, the process serves on."""
    with serving(tmp_path, "default:output_tokens=2") as (sidecar, _):
        for word in WORDS:
            body = json.dumps({"model": word, "messages": [{"role": "user", "content": "Hi"}]}).encode()
            with socket.create_connection((LOOPBACK, sidecar.port), timeout=10) as sock:
                sock.sendall(request(body, "Authorization: Bearer ' OR '1'='1"))
                answer = sock.recv(65536)
            head_lines = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
            assert not [
                line for line in head_lines if b"forged" in line and not line.lower().startswith(b"x-sidecar-model:")
            ]
            assert b"\x1b" not in answer.partition(b"\r\n\r\n")[0]
        assert sidecar.stop() == 0
        lines = sidecar.request_log.read_bytes().decode().split("\n")
        assert lines.pop() == ""
        assert len(lines) == len(WORDS)
        assert all(line.isprintable() for line in lines)
        assert all(isinstance(json.loads(line), dict) for line in lines)
        rows = [json.loads(line) for line in sidecar.verb("decisions", "--json").split("\n") if line]
        assert len(rows) == len(WORDS)
        named = {row["requested_model"] for row in rows}
        assert {"'; DROP TABLE decisions; --", "{{7*7}}${7*7}<%= 7*7 %>$(touch /forged)`id`"} <= named
        for told in (sidecar.verb("decisions"), *(sidecar.verb("explain", row["id"]) for row in rows)):
            assert not {"\x1b", "\x07", "\u2028", "\x85"} & set(told), "a terminal would obey"
            assert not [line for line in told.split("\n") if line.startswith('{"level"')]
        log = sidecar.output()
        assert "\x1b[2J" not in log
        assert "forged" not in [line.strip() for line in log.splitlines()]


class Bomb:
    """An upstream that answers everything with 256 MiB of spaces, compressed to a quarter of a megabyte."""

    def __init__(self) -> None:
        self.packed = gzip.compress(b" " * (256 * MIB), 6)
        self._sock = socket.create_server((LOOPBACK, 0))
        self.port = self._sock.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._sock.accept()
            except OSError:
                return
            with peer:
                peer.recv(65536)
                lines = f"Content-Encoding: gzip\r\nContent-Length: {len(self.packed)}\r\nConnection: close\r\n"
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{lines}\r\n"
                peer.sendall(head.encode() + self.packed)

    def close(self) -> None:
        self._sock.close()
        self._thread.join(5)


def test_a_bomb_is_passed_on_and_not_opened(tmp_path: Path) -> None:
    """SEC-BOMBS: CVE-2025-69223: the client gets the compressed bytes as they are; the reader of usage gives up at its cap:
    the process grows by no more than that (8 MiB) and a little, /health stays quick, usage is unknown, not zero."""
    bomb = Bomb()
    with Sidecar(tmp_path, f"http://{LOOPBACK}:{bomb.port}") as sidecar:
        process = psutil.Process(sidecar.process.pid)
        body = b'{"model":"gpt-4o","messages":[]}'
        before = process.memory_info().rss
        for _ in range(3):
            with socket.create_connection((LOOPBACK, sidecar.port), timeout=20) as sock:
                sock.sendall(request(body, "Accept-Encoding: gzip", "Connection: close"))
                answer = b""
                while piece := sock.recv(MIB):
                    answer += piece
            assert answer.partition(b"\r\n\r\n")[2] == bomb.packed
        assert process.memory_info().rss - before < 40 * MIB
        assert ask(sidecar.health_port, "GET", "/health")[0] == 200
        assert sidecar.stop() == 0
        assert {(row["outcome"], row["output_tokens"], row["cost_nusd"]) for row in sidecar.decisions()} == {
            ("completed", None, None)
        }
    bomb.close()
