"""Both ends of the sidecar as raw sockets: an upstream that answers by a script and a client that sees every byte.

Nothing here interprets more HTTP than it must: the upstream finds where a request ends, the client where a response ends.
"""

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from sidecar.clock import monotonic

WAIT_S = 5.0  # no wait in these tests is longer, whatever the machine does
TOLD_S = 2.0  # for telling an upstream that its client left: 0.1 s is promised, the rest is for a busy machine
PROMISED_S = 0.1  # what the soonest of some has to keep: a machine is not busy all the time

# what to write, how many seconds to wait, what to wait for, or how to end
Step = bytes | float | asyncio.Event | Literal["close", "reset", "fin"]
Script = Sequence[Step]
_RESET = struct.pack("ii", 1, 0)


def chunked(*payloads: bytes) -> bytes:
    """A whole chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in payloads if one) + b"0\r\n\r\n"


def ok(body: bytes = b"{}", *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """A response with a Content-Length."""
    head = b"".join(line + b"\r\n" for line in (b"HTTP/1.1 " + status, b"content-type: application/json", *lines))
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(text: bytes) -> bytes:
    """One SSE event in a chunk of its own."""
    data = b"data: " + text + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def delta(text: str) -> bytes:
    """A chat completion chunk with a piece of text."""
    return event(b'{"id":"c1","choices":[{"index":0,"delta":{"content":"%b"}}]}' % text.encode())


def post(path: str = "/v1/chat/completions", body: bytes = b'{"model":"m","messages":[]}', *lines: bytes) -> bytes:
    """A request with a Content-Length, as an SDK sends it."""
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % path.encode()
    return head + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def get(path: str = "/v1/models", *lines: bytes) -> bytes:
    head = b"GET %b HTTP/1.1\r\nHost: localhost\r\n" % path.encode("latin-1")
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


@dataclass
class Seen:
    """A request as the upstream received it."""

    head: bytes  # with the blank line
    body: bytes  # payload; of a chunked body its raw bytes are in `raw`
    raw: bytes
    connection: int

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def lines(self) -> list[bytes]:
        return self.head[:-4].split(b"\r\n")[1:]

    def value(self, name: bytes) -> bytes | None:
        found = [line.partition(b":")[2].strip() for line in self.lines if line.lower().startswith(name.lower() + b":")]
        return found[0] if found else None


class Peer(asyncio.Protocol):
    """One connection of the scripted upstream."""

    def __init__(self, upstream: "ScriptedUpstream") -> None:
        self.upstream = upstream
        self.number = len(upstream.peers)
        self.transport: asyncio.Transport
        self.data = b""
        self.bytes_received = 0
        self.lost = asyncio.Event()
        self.lost_at = 0.0
        self.answering: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self.bytes_written = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.upstream.peers.append(self)
        if self.upstream.on_connect is not None:
            self.upstream.on_connect(self)

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        if self.upstream.thrown_away:
            if self.bytes_received >= self.upstream.thrown_away and self.answering is None:
                self._answer(data)
            return
        self.data += data
        self.upstream.changed.set()
        if self.upstream.early and b"\r\n\r\n" in self.data and self.answering is None:
            self._answer(self.data)
        while not self.upstream.early and (found := whole_request(self.data)) is not None:
            head, body, end = found
            self.upstream.requests.append(Seen(head, body, self.data[:end], self.number))
            self.data = self.data[end:]
            self.upstream.changed.set()
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        script = self.upstream.next_script(head)
        self.answering = asyncio.get_running_loop().create_task(self._play(script))

    async def _play(self, script: Script) -> None:
        for step in script:
            if isinstance(step, bytes):
                if self.lost.is_set():
                    return
                await asyncio.wait_for(self._room.wait(), 30)
                self.transport.write(step)
                self.bytes_written += len(step)
            elif isinstance(step, asyncio.Event):
                await asyncio.wait_for(step.wait(), 30)
            elif step == "close":
                self.transport.close()
            elif step == "reset":
                reset(self.transport)
            elif step == "fin":
                self.transport.write_eof()
            else:
                try:
                    await asyncio.wait_for(self.lost.wait(), float(step))
                except TimeoutError:
                    continue
                return

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost_at = monotonic()
        self.lost.set()
        self._room.set()
        self.upstream.changed.set()


class ScriptedUpstream:
    """Answers the n-th request with the n-th script (the last one again and again), and keeps what it received."""

    def __init__(
        self, *scripts: Script, early: bool = False, by: Callable[[bytes], Script] | None = None, thrown_away: int = 0
    ) -> None:
        """`early` answers at the end of the head; `by` chooses the script from the head; with `thrown_away` nothing is
        kept and the answer comes when so many bytes have."""
        self.scripts: list[Script] = list(scripts) or [[ok()]]
        self.early = early
        self.by = by
        self.thrown_away = thrown_away
        self.peers: list[Peer] = []
        self.requests: list[Seen] = []
        self.changed = asyncio.Event()
        self.port = 0
        self.on_connect: Callable[[Peer], None] | None = None
        self._server: asyncio.Server | None = None
        self._served = 0

    def next_script(self, head: bytes) -> Script:
        if self.by is not None:
            return self.by(head)
        script = self.scripts[min(self._served, len(self.scripts) - 1)]
        self._served += 1
        return script

    async def start(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), host, 0, ssl=tls, backlog=2048)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self.peers:
            if peer.answering is not None:
                peer.answering.cancel()
            peer.transport.abort()
        await asyncio.sleep(0)

    async def until(self, true: Callable[[], bool], within_s: float = WAIT_S) -> bool:
        return await until(true, within_s)


async def until(true: Callable[[], bool], within_s: float = WAIT_S) -> bool:
    """Whether `true()` came true in time; looked at every 2 ms."""
    end = monotonic() + within_s
    while not true():
        if monotonic() > end:
            return False
        await asyncio.sleep(0.002)
    return True


def whole_request(data: bytes) -> tuple[bytes, bytes, int] | None:
    """(head, payload, end) of the request at the start of `data`; None while it is incomplete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, at = data[: end + 4], end + 4
    if re.search(rb"\r\ntransfer-encoding: *chunked", head, re.IGNORECASE):
        return _whole_chunked(data, head, at)
    length = re.search(rb"\r\ncontent-length: *([0-9]+)", head, re.IGNORECASE)
    size = int(length[1]) if length else 0
    return (head, data[at : at + size], at + size) if len(data) - at >= size else None


def _whole_chunked(data: bytes, head: bytes, at: int) -> tuple[bytes, bytes, int] | None:
    payload = b""
    while (line := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line].split(b";")[0], 16)
        if len(data) < line + 2 + size + 2:
            return None
        payload += data[line + 2 : line + 2 + size]
        at = line + 2 + size + 2
        if not size:
            return head, payload, at
    return None


def reset(transport: Any) -> None:
    """Closes a transport with RST."""
    sock = transport.get_extra_info("socket")
    if sock is not None:  # None: it is closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


@dataclass
class Response:
    """A response as it came. `end`: whole (its framing ended), eof, reset, silent."""

    raw: bytes = b""
    end: str = ""
    reads: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.raw[9:12])

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0]

    @property
    def wire_body(self) -> bytes:
        """The body with its framing."""
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def chunked(self) -> bool:
        return re.search(rb"\r\ntransfer-encoding: *chunked", self.head, re.IGNORECASE) is not None

    @property
    def body(self) -> bytes:
        """The payload, of a chunked body that may be cut."""
        if not self.chunked:
            return self.wire_body
        payload, rest = b"", self.wire_body
        while rest:
            line, gap, rest = rest.partition(b"\r\n")
            if not gap or not int(line, 16):
                break
            payload, rest = payload + rest[: int(line, 16)], rest[int(line, 16) + 2 :]
        return payload

    @property
    def lines(self) -> list[bytes]:
        return self.head.split(b"\r\n")[1:]

    def value(self, name: bytes) -> bytes | None:
        found = [line.partition(b":")[2].strip() for line in self.lines if line.lower().startswith(name.lower() + b":")]
        return found[0] if found else None

    @property
    def foreign_lines(self) -> list[bytes]:
        """Header lines without hop-by-hop ones and those that the sidecar adds."""
        ours = (b"x-sidecar-", b"connection:", b"keep-alive:", b"transfer-encoding:", b"content-length:")
        return [line for line in self.lines if not line.lower().startswith(ours)]


class Client:
    """A connection to the sidecar."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.data = b""  # read and not yet given out

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self, *, method: str = "POST", timeout_s: float = WAIT_S) -> Response:
        """The next response, up to the end that its framing gives or that the peer makes."""
        got = Response()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    end = response_end(self.data, method)
                    if end is not None:
                        got.raw, self.data, got.end = self.data[:end], self.data[end:], "whole"
                        return got
                    piece = await self.reader.read(65536)
                    got.reads.append((monotonic(), piece))
                    if not piece:
                        got.raw, self.data, got.end = self.data, b"", "eof"
                        return got
                    self.data += piece
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError):
            got.end = "reset"
        except TimeoutError:
            got.end = "silent"
        got.raw, self.data = self.data, b""
        return got

    async def until(self, text: bytes, timeout_s: float = WAIT_S) -> bytes:
        """Reads until `text` has come; gives what was read and keeps it for `response`."""
        async with asyncio.timeout(timeout_s):
            while text not in self.data:
                piece = await self.reader.read(65536)
                assert piece, f"closed before {text!r} came: {self.data!r}"
                self.data += piece
        return self.data

    async def ended(self, timeout_s: float = WAIT_S) -> str:
        """How the peer ended the connection: eof, reset, or silent when it did not; what comes first is kept in `data`."""
        try:
            async with asyncio.timeout(timeout_s):
                while piece := await self.reader.read(65536):
                    self.data += piece
                return "eof"
        except ConnectionResetError:
            return "reset"
        except TimeoutError:
            return "silent"

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        reset(self.writer.transport)


def response_end(data: bytes, method: str) -> int | None:
    """Where the response at the start of `data` ends; None while unknown. Interim ones (1xx but 101) are part of it."""
    start = 0
    while True:
        end = data.find(b"\r\n\r\n", start)
        if end < 0:
            return None
        head = data[start : end + 2].lower()
        status = int(head[9:12])
        if status >= 200 or status == 101:
            break
        start = end + 4
    at = end + 4
    if method == "HEAD" or status in (101, 204, 304):
        return at
    if b"\r\ntransfer-encoding: chunked" in head:
        while (line := data.find(b"\r\n", at)) >= 0:
            size = int(data[at:line].split(b";")[0], 16)
            if not size:
                close = data.find(b"\r\n\r\n", line)
                return None if close < 0 else close + 4
            at = line + 2 + size + 2
        return None
    length = re.search(rb"\r\ncontent-length: *([0-9]+)", head)
    if length is None:
        return None
    return at + int(length[1]) if len(data) - at >= int(length[1]) else None


@asynccontextmanager
async def connected(port: int, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    """A client connection that is closed at the end."""
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls else None, limit=2**20
        )
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def call(port: int, request: bytes, *, method: str = "POST", timeout_s: float = WAIT_S) -> Response:
    """One request on a connection of its own."""
    async with connected(port) as client:
        client.send(request)
        return await client.response(method=method, timeout_s=timeout_s)
