"""A real process whose system lets it open few files, or lets it ask for more."""

import contextlib
import json
import select
import socket
import time
from pathlib import Path

import pytest

from tests.e2e.process import LOOPBACK, Provider, Sidecar, ask
from tests.fixtures.waiting import wait_for

BUSY_S = 20.0
BODY = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()
CALL = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CALL += b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
VERSION = b"\r\nanthropic-version: 2023-06-01\r\n\r\n"
# Runs a module under these soft and hard limits of open files.
LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv.pop(1)), int(sys.argv.pop(1))))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("soft", "hard", "most"), [(128, 128, 48), (128, 1000, 375)])
def test_few_descriptors(tmp_path: Path, soft: int, hard: int, most: int, workers: int) -> None:
    """As many calls as the hard limit holds are carried, by every process, and `/ready` says how many; one more is a 503
    that says when to come again, `/ready` answers meanwhile, and no breaker opens for a lack of our own."""
    program = ("-c", LIMITED, str(soft), str(hard), "sidecar")
    with (
        Provider(tmp_path, "default:ttft=600") as provider,
        Sidecar(tmp_path, provider.url, program=program, workers=workers) as sidecar,
        contextlib.ExitStack() as stack,
    ):
        notes = sidecar.ready()[1]["notes"]
        assert len(notes) == (1 if workers == 1 else 1 + workers)
        assert all(f"hold {most} calls" in note for note in notes)
        if workers > 1:
            return
        clients = []
        for _ in range(most + 40):
            clients.append(stack.enter_context(socket.create_connection((LOOPBACK, sidecar.port))))
            clients[-1].sendall(CALL)
        assert wait_for(lambda: len(select.select(clients, [], [], 0)[0]) == 40, BUSY_S)
        for client in select.select(clients, [], [], 0)[0]:
            answer = client.recv(65536).lower()
            assert answer.startswith(b"http/1.1 503 ")
            assert b"\r\nretry-after: 1\r\n" in answer
        status, ready = sidecar.ready()
        assert (status, ready["exchanges"]) == (200, most)
        assert {one["state"] for one in ready["breakers"]} == {"closed"}
        sidecar.kill()


def test_connections_that_lie_idle(tmp_path: Path) -> None:
    """An app that leaks connections takes neither the health port nor its own calls: those that lie idle the
    longest give way, and an event tells it."""
    program = ("-c", LIMITED, "512", "512", "sidecar")
    body = json.loads(BODY)
    with (
        Provider(tmp_path) as provider,
        Sidecar(tmp_path, provider.url, program=program) as sidecar,
        contextlib.ExitStack() as stack,
    ):
        for count in (700, *[100] * 8):
            for _ in range(count):
                stack.enter_context(socket.create_connection((LOOPBACK, sidecar.port)))
            time.sleep(1.5 if count > 100 else 0.5)
            assert sidecar.ready()[0] == 200
            assert ask(sidecar.port, "POST", "/v1/chat/completions", body=body)[0] == 200
        assert 100 < sidecar.admin("GET", "/api/v1/status")["load"]["connections"] <= 512 - 48
        assert sidecar.output().count('"event":"overload.files"') == 1
        sidecar.kill()


def test_idle_connections_to_upstreams_give_way_to_new_clients(tmp_path: Path) -> None:
    """Clients that come at once, for another upstream than those before: none of their connections is refused."""
    program = ("-c", LIMITED, "512", "512", "sidecar")
    message = CALL.replace(BODY, BODY[:-1] + b', "max_tokens": 9}').replace(b"%d" % len(BODY), b"%d" % (len(BODY) + 17))
    message = message.replace(b"/v1/chat/completions", b"/v1/messages").replace(b"\r\n\r\n", VERSION)
    with (
        Provider(tmp_path, "default:ttft=1.0") as provider,
        Sidecar(tmp_path, provider.url, program=program) as sidecar,
    ):
        for call in (CALL, message):
            with contextlib.ExitStack() as stack:
                clients = []
                for _ in range(180):
                    clients.append(stack.enter_context(socket.create_connection((LOOPBACK, sidecar.port), 15)))
                    clients[-1].sendall(call)
                assert {client.recv(12) for client in clients} == {b"HTTP/1.1 200"}
        sidecar.kill()
