"""A client on a raw socket for the simulated provider: sees bytes and times as they come."""

import asyncio
from dataclasses import dataclass, field

import orjson

from sidecar.clock import monotonic


@dataclass
class Exchange:
    """What came back: raw bytes, the arrival of each read, and how it ended (eof, reset, silent, whole)."""

    raw: bytes = b""
    reads: list[tuple[float, bytes]] = field(default_factory=list)
    sent_at: float = 0.0
    end: str = ""

    def came_s(self, text: bytes) -> float:
        """Seconds from the request until this text was there, alone or with others in one read."""
        raw = b""
        for at, read in self.reads:
            raw += read
            if text in raw:
                return at - self.sent_at
        raise AssertionError(f"{text!r} did not come")

    @property
    def status(self) -> int:
        return int(self.raw[9:12])

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0].lower()

    @property
    def body(self) -> bytes:
        body = self.raw.partition(b"\r\n\r\n")[2]
        if b"transfer-encoding: chunked" not in self.head:
            return body
        parts = []
        while body:
            size, _, body = body.partition(b"\r\n")
            parts.append(body[: int(size, 16)])
            body = body[int(size, 16) + 2 :]
        return b"".join(parts)

    @property
    def json(self) -> dict:
        return orjson.loads(self.body)

    @property
    def events(self) -> list[dict]:
        lines = [line for line in self.body.split(b"\n") if line.startswith(b"data: {")]
        return [orjson.loads(line[6:]) for line in lines]


def whole(raw: bytes) -> bool:
    head, gap, body = raw.partition(b"\r\n\r\n")
    if not gap:
        return False
    if b"transfer-encoding: chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line[15:])
    return False


async def send(port: int, request: bytes, timeout_s: float = 2.0) -> Exchange:
    """One request on a fresh connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await on(reader, writer, request, timeout_s)
    finally:
        writer.close()


async def on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, timeout_s: float = 2.0
) -> Exchange:
    exchange = Exchange(sent_at=monotonic())
    writer.write(request)
    try:
        async with asyncio.timeout(timeout_s):
            while not whole(exchange.raw):
                read = await reader.read(65536)
                if not read:
                    exchange.end = "eof"
                    return exchange
                exchange.reads.append((monotonic(), read))
                exchange.raw += read
        exchange.end = "whole"
    except ConnectionResetError:
        exchange.end = "reset"
    except TimeoutError:
        exchange.end = "silent"
    return exchange


def post(path: str, body: object, headers: str = "", method: str = "POST") -> bytes:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data


def chat(model: str = "m", **members: object) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]} | members
    return post("/v1/chat/completions", body)
