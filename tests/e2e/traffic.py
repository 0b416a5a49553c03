"""Steady load on a real sidecar: connections that ask one after another, and what each of them saw."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from sidecar.clock import monotonic

WAIT_S = 30.0  # longest wait for one answer: far above every latency here, so it only ends what hangs
CHAT = "/v1/chat/completions"
Head = dict[str, str]


class Broken(OSError):
    """The answer did not arrive whole."""


@dataclass(slots=True)
class Reply:
    """One whole answer, and the monotonic times around it."""

    status: int
    headers: Head
    body: bytes
    begun: float
    ended: float

    @property
    def decision(self) -> str:
        return self.headers.get("x-sidecar-decision", "")


class Connection:
    """One keep-alive connection. `call` waits for the whole answer; `stream` gives its chunks as they come."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, body: object, headers: Mapping[str, str] | None = None, path: str = CHAT) -> Reply:
        """POSTs `body` as JSON. Raises OSError when the answer does not arrive whole."""
        begun = monotonic()
        async with asyncio.timeout(WAIT_S):
            status, fields = await self.begin(body, headers, path)
            text = b"".join([chunk async for chunk in self.chunks(fields)])
        return Reply(status, fields, text, begun, monotonic())

    async def begin(self, body: object, headers: Mapping[str, str] | None = None, path: str = CHAT) -> tuple[int, Head]:
        """Sends the request and reads the answer's head: status, fields with lower-case names."""
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {
            "Host": f"localhost:{self._port}",
            "Content-Type": "application/json",
            "Authorization": "Bearer sk-of-the-client",
            "Content-Length": str(len(text)),
            **(headers or {}),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        reader, writer = await self._open()
        writer.write(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + text)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError as error:
            raise Broken("the connection ended before a head") from error
        pairs = (line.partition(":") for line in head[1:] if line)
        return int(head[0].split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}

    async def chunks(self, fields: Head) -> AsyncIterator[bytes]:
        """The answer's body, piece by piece; Broken when it is cut."""
        assert self._reader is not None
        try:
            if fields.get("transfer-encoding") == "chunked":
                while size := int(await self._reader.readuntil(b"\r\n"), 16):
                    yield (await self._reader.readexactly(size + 2))[:-2]
                await self._reader.readexactly(2)
            else:
                yield await self._reader.readexactly(int(fields.get("content-length", "0")))
        except asyncio.IncompleteReadError as error:
            raise Broken("the answer was cut") from error
        if fields.get("connection", "").lower() == "close":
            await self.close()

    async def close(self) -> None:
        """Ends the connection; the next call opens a new one."""
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self._reader, self._writer


def chat(text: str, *, model: str = "gpt-4o", stream: bool = False, **more: object) -> dict[str, object]:
    """A chat completion's body."""
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}], **more}


@dataclass(slots=True)
class Load:
    """A closed loop of `connections` clients that think `pause_s` between calls, each call a new conversation.

    `replies` holds what arrived whole, `broken` counts what did not, by exception.
    """

    port: int
    connections: int = 8
    pause_s: float = 0.02
    model: str = "gpt-4o"
    name: str = "load"
    streams: bool = True  # every second call
    replies: list[Reply] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    _stopped: bool = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        """Asks until the block ends, then waits for what is under way."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.connections):
                group.create_task(self._client(number))
            try:
                yield self
            finally:
                self._stopped = True

    def stop(self) -> None:
        """No new calls."""
        self._stopped = True

    @property
    def failed(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.status != 200]

    def p99_s(self, since: float = 0.0, until: float = float("inf")) -> float:
        """99th percentile of the whole calls that began in this span of monotonic time."""
        took = sorted(one.ended - one.begun for one in self.replies if since <= one.begun < until)
        return took[int(len(took) * 0.99)] if took else float("nan")

    async def _client(self, number: int) -> None:
        connection = Connection(self.port)
        try:
            while not self._stopped:
                self.sent += 1
                text = f"{self.name} {number} {self.sent}: what is 2 + 2?"
                body = chat(text, model=self.model, stream=self.streams and self.sent % 2 == 0)
                try:
                    reply = await connection.call(body, {"x-sidecar-session": text})
                except (OSError, TimeoutError) as error:
                    self.broken[type(error).__name__] += 1
                    await connection.close()
                else:
                    self.replies.append(reply)
                await asyncio.sleep(self.pause_s)
        finally:
            await connection.close()
