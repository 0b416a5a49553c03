"""`python -m bench.unread PORT UPSTREAM_PORT`: passes bytes between loopback connections and reads none of them.

The least that any proxy in Python costs: one callback a read, one write each way, upstream connections kept. Two calls on
one client connection at a time, an answer in several reads, a lost connection: all of that it gets wrong, so it is a floor
to compare with and no proxy.
"""

import asyncio
import sys
from typing import cast

import uvloop


class _Side(asyncio.Protocol):
    def __init__(self, owner: "_Floor") -> None:
        self.owner = owner
        self.other: asyncio.Transport | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)


class _Up(_Side):
    def data_received(self, data: bytes) -> None:
        other, self.other = self.other, None
        self.owner.idle.append(self)
        if other is not None:
            other.write(data)


class _Down(_Side):
    def data_received(self, data: bytes) -> None:
        if self.owner.idle:
            self.send(self.owner.idle.pop(), data)
        else:
            self.owner.tasks.add(asyncio.ensure_future(self.dial(data)))

    def send(self, up: _Up, data: bytes) -> None:
        up.other = self.transport
        up.transport.write(data)

    async def dial(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, up = await loop.create_connection(lambda: _Up(self.owner), "127.0.0.1", self.owner.upstream)
        self.send(up, data)


class _Floor:
    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.idle: list[_Up] = []
        self.tasks: set[asyncio.Future[None]] = set()

    async def serve(self, port: int) -> None:
        server = await asyncio.get_running_loop().create_server(lambda: _Down(self), "127.0.0.1", port, backlog=1024)
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_Floor(int(sys.argv[2])).serve(int(sys.argv[1])))
