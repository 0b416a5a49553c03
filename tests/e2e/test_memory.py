"""Memory is watched in a real process: calls are refused before it is gone, and served again when there is some."""

import asyncio
import contextlib
import re
import socket
from pathlib import Path

import psutil

from tests.e2e.process import LOOPBACK, Sidecar
from tests.fixtures.waiting import wait_for

MIB = 2**20
LIMIT = 140 * MIB
CLIENTS = 260
BODY = b'{"model":"m","stream":true,"messages":[]}'
CALL = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 8000)
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)

Reply = tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An upstream that answers each call for ever, as fast as it is taken."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        while not writer.is_closing():
            writer.write(CHUNK)
            await writer.drain()
    writer.transport.abort()


async def begun(port: int) -> Reply:
    """A call, and the head of its answer; no more of it is read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)  # what waits shall wait in the process
    sock.connect((LOOPBACK, port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=2_048)
    writer.write(CALL)
    return reader, writer, await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)


async def test_calls_are_refused_before_memory_is_gone(tmp_path: Path) -> None:
    """So many clients ask for endless streams and do not read that some 130 MiB would wait in the process. It stays within
    its limit, says 503 with Retry-After to those that come when it is nearly reached, says why in its log, and serves
    everybody again when they have gone."""
    server = await asyncio.start_server(endless, LOOPBACK, 0, backlog=1_000)
    url = f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
    with Sidecar(tmp_path, url, memory_limit=LIMIT) as sidecar:
        process, most = psutil.Process(sidecar.process.pid), 0
        held: list[Reply] = []
        refused: list[Reply] = []
        for _ in range(CLIENTS):
            reply = await begun(sidecar.port)
            (held if b" 200 " in reply[2][:16] else refused).append(reply)
            most = max(most, process.memory_info().rss)
        assert most <= LIMIT, f"{most / MIB:.0f} MiB"
        assert len(held) >= 64
        assert refused
        assert all(re.match(rb"HTTP/1.1 503 .*\r\nretry-after: 1\r\n", head, re.DOTALL) for _, _, head in refused)
        assert "overload.memory" in sidecar.output()
        for _, writer, _ in (*held, *refused):
            writer.transport.abort()
        assert await asyncio.to_thread(wait_for, lambda: sidecar.output().count("overload.memory") >= 2, 10)
        for _ in range(20):
            _, writer, head = await begun(sidecar.port)
            assert b" 200 " in head[:16]
            writer.transport.abort()
    server.close()
