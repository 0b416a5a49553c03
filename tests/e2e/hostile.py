"""What hostile tests need at both ends: an upstream that keeps each byte, a strict reader of its own, and plain sockets.

The reader takes what RFC 9112 lets a sender write and nothing else; it shares no code with the sidecar, so that a request
which it finds well formed is one for any server.
"""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.e2e.process import LOOPBACK

WAIT_S = 10.0
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_LINE = re.compile(rb"([A-Z]+) (/[!-~]*) HTTP/1\.1")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_DIGITS = re.compile(rb"[0-9]{1,18}")
_SIZE = re.compile(rb"[0-9a-f]{1,8}")


class NotWellFormed(Exception):
    """What the upstream received is no HTTP/1.1 request."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the upstream read it. Names of fields are in lower case."""

    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for one, value in self.fields if one == name]


def read_head(raw: bytes) -> Request:
    """The head before its blank line, checked. Raises NotWellFormed."""
    first, *lines = raw.split(b"\r\n")
    line = _LINE.fullmatch(first)
    found = [_FIELD.fullmatch(one) for one in lines]
    if line is None or not all(found):
        raise NotWellFormed(raw)
    request = Request(line[1], line[2], tuple((one[1].lower(), one[2]) for one in found if one), b"")
    lengths, codings = request.values(b"content-length"), request.values(b"transfer-encoding")
    if len(request.values(b"host")) != 1 or len(lengths) + len(codings) > 1:
        raise NotWellFormed(raw)
    if (lengths and not _DIGITS.fullmatch(lengths[0])) or (codings and codings[0] != b"chunked"):
        raise NotWellFormed(raw)
    return request


def read_request(data: bytes) -> tuple[Request, int] | None:
    """The request at the start of `data` and its end; None while it is incomplete. Raises NotWellFormed."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    request, at = read_head(data[:end]), end + 4
    if request.values(b"transfer-encoding"):
        body = _read_chunks(data, at)
        return None if body is None else (Request(request.method, request.target, request.fields, body[0]), body[1])
    size = int((request.values(b"content-length") or [b"0"])[0])
    if len(data) < at + size:
        return None
    return Request(request.method, request.target, request.fields, data[at : at + size]), at + size


def _read_chunks(data: bytes, at: int) -> tuple[bytes, int] | None:
    payload = b""
    while (end := data.find(b"\r\n", at)) >= 0:
        if _SIZE.fullmatch(data[at:end]) is None:
            raise NotWellFormed(data[at:end])
        size, begin = int(data[at:end], 16), end + 2
        if len(data) < begin + size + 2:
            return None
        if data[begin + size : begin + size + 2] != b"\r\n":
            raise NotWellFormed(data[begin:])
        payload, at = payload + data[begin : begin + size], begin + size + 2
        if not size:
            return payload, at
    return None


@dataclass
class Recorder:
    """An upstream on a port of its own, in threads: answers each whole request with an empty object."""

    requests: list[Request] = field(default_factory=list)
    broken: list[bytes] = field(default_factory=list)  # what was not well formed
    connections: int = 0

    def __post_init__(self) -> None:
        self._sock = socket.create_server((LOOPBACK, 0), backlog=1024)
        self.port = int(self._sock.getsockname()[1])
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)  # else its thread goes on accepting, from whoever has its number next
        self._sock.close()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def take(self) -> list[Request]:
        """The requests since the last time."""
        with self._lock:
            taken, self.requests = self.requests, []
        return taken

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._sock.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        data = b""
        with peer, contextlib.suppress(OSError):
            while piece := peer.recv(65536):
                data += piece
                try:
                    while (found := read_request(data)) is not None:
                        request, end = found
                        data = data[end:]
                        with self._lock:
                            self.requests.append(request)
                        peer.sendall(OK)
                except NotWellFormed:
                    self.broken.append(data)
                    return


@contextlib.contextmanager
def connection(port: int) -> Iterator[socket.socket]:
    """A socket to this port, with small packets sent at once."""
    with socket.create_connection((LOOPBACK, port), timeout=WAIT_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


def send(sock: socket.socket, data: bytes, *, step: int = 0) -> None:
    """Sends all, or `step` bytes at a time; a peer that has closed already is no fault."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        if not step:
            sock.sendall(data)
        for at in range(0, len(data) if step else 0, step or 1):
            sock.sendall(data[at : at + step])


def read_all(sock: socket.socket) -> bytes:
    """What comes until the peer closes. Raises TimeoutError when it does not."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            data += piece
    return data


def statuses(answer: bytes) -> list[int]:
    """Of each final answer in these bytes."""
    found = [int(one) for one in re.findall(rb"HTTP/1\.1 ([0-9]{3})", answer)]
    return [one for one in found if one >= 200]


def asked(port: int, path: str = "/v1/chat/completions", *lines: str, body: bytes = b'{"model":"m"}') -> bytes:
    """The whole answer to one good POST."""
    fields = "".join(f"{line}\r\n" for line in ("Host: localhost", "Content-Type: application/json", *lines))
    head = f"POST {path} HTTP/1.1\r\n{fields}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with connection(port) as sock:
        send(sock, head.encode("latin-1") + body)
        return read_all(sock)
