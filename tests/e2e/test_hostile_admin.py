"""The admin and health ports against raw sockets: other names, two readings, other ways in, and many who say nothing."""

import contextlib
from collections.abc import Iterator

import psutil
import pytest

from tests.e2e.hostile import Recorder, connection, read_all, send, statuses
from tests.e2e.process import LOOPBACK, Sidecar, ask
from tests.fixtures.desync import BAD_CHUNKS, CODINGS, HOSTS, LENGTHS
from tests.fixtures.waiting import wait_for

STATUS = b"/api/v1/status"
LOCAL = b"Host: localhost\r\n"


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with Recorder() as one:
        yield one


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Iterator[Sidecar]:
    with Sidecar(tmp_path_factory.mktemp("admin"), recorder.url) as one:
        yield one
        assert one.stop() == 0
        assert "Traceback" not in one.output()


def said(port: int, head: bytes, rest: bytes = b"") -> bytes:
    with connection(port) as sock:
        send(sock, head + b"\r\n" + rest)
        return read_all(sock)


def bearer(sidecar: Sidecar) -> bytes:
    return f"Authorization: Bearer {sidecar.token()}\r\nConnection: close\r\n".encode()


def get(target: bytes, *lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"GET " + target + b" HTTP/" + version + b"\r\n" + b"".join(lines)


def test_the_token_opens_the_port(sidecar: Sidecar) -> None:
    """What the others are measured by: with a local name and the token the status is told."""
    assert b'"service":"bot"' in said(sidecar.admin_port, get(STATUS, LOCAL, bearer(sidecar)))


@pytest.mark.parametrize("name", HOSTS)
def test_other_names_are_refused_with_the_token_too(sidecar: Sidecar, name: str) -> None:
    """SEC-ADMIN: DNS rebinding: whatever a browser or a proxy makes of the name, nothing is told, in any version."""
    for version in (b"1.1", b"1.0"):
        answer = said(sidecar.admin_port, get(STATUS, HOSTS[name], bearer(sidecar), version=version))
        assert statuses(answer.replace(b"HTTP/1.0", b"HTTP/1.1"))[0] in (400, 421), answer
        assert b"service" not in answer


def test_a_target_with_another_name_is_refused(sidecar: Sidecar) -> None:
    """SEC-ADMIN: in absolute form the target's name counts and not the Host field's (RFC 9112 3.2.2)."""
    for target in (b"http://evil.example" + STATUS, b"http://localhost" + STATUS, b"evil.example:80", b"*"):
        answer = said(sidecar.admin_port, get(target, LOCAL, bearer(sidecar))).replace(b"HTTP/1.0", b"HTTP/1.1")
        assert statuses(answer)[0] in (400, 421), (target, answer)
        assert b"service" not in answer


CALL = b"POST /api/v1/cycle HTTP/1.1\r\nContent-Type: application/json\r\n"
INNER = b"POST /api/v1/store/prune HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_what_can_be_read_in_two_ways_is_refused(sidecar: Sidecar) -> None:
    """INC-42, SEC-ADMIN: both lengths, odd lengths, odd codings and odd chunks: at most one answer that is an error."""
    front = CALL + LOCAL + bearer(sidecar)
    chunked = b"Transfer-Encoding: chunked\r\n"
    heads = [front + line + b"Content-Length: 2\r\n" for line in CODINGS.values()]
    heads += [front + line for name, line in LENGTHS.items() if name != "over 63 bits"]  # is waited for, with a token
    for head in heads:
        answer = said(sidecar.admin_port, head, b"2\r\n{}\r\n0\r\n\r\n" + INNER).replace(b"HTTP/1.0", b"HTTP/1.1")
        assert len(statuses(answer)) == 1, (head, answer)
        assert statuses(answer)[0] >= 400, (head, answer)
    for rest in BAD_CHUNKS.values():
        answer = said(sidecar.admin_port, front + chunked, rest + INNER).replace(b"HTTP/1.0", b"HTTP/1.1")
        assert len(statuses(answer)) == 1, (rest[:50], answer)


PATHS = [
    "/api/v1/status",
    "//api/v1/status",
    "/v1/../api/v1/status",
    "/v1/..%2fapi/v1/status",
    "/v1/%2e%2e/api/v1/status",
    "/v1/..;/api/v1/status",
    "/%61pi/v1/status",
    "/v1/api/v1/status",
    "/_sidecar/v1/status",
    "/_sidecar/v1/../../api/v1/status",
    "/openapi.json",
    "/v1/openapi.json",
    "/metrics",
    "/ready",
]


def test_no_path_of_the_traffic_port_leads_to_the_admin_port(sidecar: Sidecar, recorder: Recorder) -> None:
    """SEC-ADMIN, GW-47: paths, Host and forwarding fields that name the admin port: 404 or 421 here, or the path goes to
    the provider as it is; nothing of the admin API is told, and the admin port is not asked."""
    token = {"Authorization": f"Bearer {sidecar.token()}"}
    recorder.take()
    admin = f"{LOOPBACK}:{sidecar.admin_port}"
    for path in PATHS:
        for more in ({}, {"X-Forwarded-Host": admin, "X-Original-URL": "/api/v1/status"}, {"Host": admin}):
            status, body = ask(sidecar.port, "GET", path, headers={**token, **more})
            assert (status == 200 and body == b"{}") or status in (400, 404, 421), (path, more)
            assert b"rollout" not in body
    assert {one.values(b"host")[0] for one in recorder.take()} <= {f"{LOOPBACK}:{recorder.port}".encode()}
    for port in (sidecar.port, sidecar.health_port):
        assert statuses(
            said(port, b"CONNECT " + admin.encode() + b" HTTP/1.1\r\n" + LOCAL + b"Connection: close\r\n")
        ) not in ([], [200])
        answer = said(port, get(b"http://" + admin.encode() + STATUS, LOCAL, bearer(sidecar)))
        assert b"service" not in answer


def test_the_traffic_port_is_no_way_around_the_methods(sidecar: Sidecar) -> None:
    """SEC-ADMIN: fields and parameters that want to be another method are not."""
    for line in (b"X-HTTP-Method-Override: POST\r\n", b"X-Method-Override: POST\r\n", b"X-HTTP-Method: POST\r\n"):
        answer = said(sidecar.admin_port, get(b"/api/v1/cycle?_method=POST", LOCAL, bearer(sidecar), line))
        assert statuses(answer) == [405]


def test_nothing_that_a_stranger_writes_is_in_the_log(sidecar: Sidecar) -> None:
    """SEC-INJECTION, SEC-KEYS: malformed requests to the ports of the cluster and of people: the log says nothing of them,
    not even that they came: neither their words nor credentials of theirs."""
    before = sidecar.output()
    for port in (sidecar.health_port, sidecar.admin_port, sidecar.port):
        for line in (b"Authorization: Bearer CANARY\x00\r\n", b"CANARY\r\n", b"X-A: \x1b[2JCANARY\nb\r\n"):
            answer = said(port, get(STATUS, LOCAL, line)).replace(b"HTTP/1.0", b"HTTP/1.1")
            assert statuses(answer) == [400]
        assert statuses(said(port, b"GET /CANARY HTTP/CANARY\r\n").replace(b"HTTP/1.0", b"HTTP/1.1"))[0] in (400, 505)
    assert sidecar.output() == before


def test_connections_that_say_nothing_leave_room(sidecar: Sidecar) -> None:
    """INC-43: a thousand connections at the health port, which the cluster reaches, and at the admin port, idle or with
    half a head: a few stay, the oldest go; probes, people and calls are served meanwhile."""
    process = psutil.Process(sidecar.process.pid)
    before = process.num_fds()
    with contextlib.ExitStack() as stack:
        for number in range(1000):
            port = (sidecar.health_port, sidecar.admin_port)[number % 2]
            send(stack.enter_context(connection(port)), b"" if number % 3 else b"GET /hea")
            if number % 100 == 0:
                assert ask(sidecar.health_port, "GET", "/health")[0] == 200
        assert wait_for(lambda: process.num_fds() - before <= 2 * 128 + 8), process.num_fds()
        assert b'"service":"bot"' in said(sidecar.admin_port, get(STATUS, LOCAL, bearer(sidecar)))
        assert ask(sidecar.health_port, "GET", "/ready")[0] == 200
        assert ask(sidecar.port, "POST", "/v1/chat/completions", body={"model": "m"})[0] == 200
