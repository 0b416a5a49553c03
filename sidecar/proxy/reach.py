"""The way to a host: a socket that is connected to the first of its addresses that answers."""

import asyncio
import errno
import os
import socket
from collections import deque
from typing import Any, Final

NEXT_S: Final = 0.25  # .1..2 (RFC 8305); shorter: far hosts are dialled twice, longer: one that is silent costs more

Address = tuple[int, Any]  # family, and what `socket.connect` takes


async def reach(addresses: list[Address]) -> socket.socket:
    """A connected socket; its address is taken out of `addresses`. Each is tried NEXT_S after the one before it, or as soon
    as that failed, and the first that answers is the one.

    Raises:
        OSError: what the last of them failed with.
    """
    race = _Race()
    try:
        address, sock = await race.run(addresses)
    finally:
        race.end()
    addresses.remove(address)
    return sock


class _Race:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun: dict[socket.socket, Address] = {}
        self._answered: asyncio.Queue[tuple[socket.socket, int]] = asyncio.Queue()

    async def run(self, addresses: list[Address]) -> tuple[Address, socket.socket]:
        ahead, code = deque(addresses), errno.EHOSTUNREACH
        while ahead or self._begun:
            if ahead:
                try:
                    self._begin(ahead.popleft())
                except OSError as error:
                    code = error.errno or code
                    continue
            try:
                async with asyncio.timeout(NEXT_S if ahead else None):
                    sock, code = await self._answered.get()
            except TimeoutError:
                continue
            address = self._begun.pop(sock)
            if not code:
                return address, sock
            sock.close()
        raise OSError(code, os.strerror(code))

    def end(self) -> None:
        """Gives up what did not win."""
        for sock in self._begun:
            self._loop.remove_writer(sock)
            sock.close()

    def _begin(self, address: Address) -> None:
        family, where = address
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        self._begun[sock] = address
        code = sock.connect_ex(where)
        if code == errno.EINPROGRESS:
            self._loop.add_writer(sock, self._on_answer, sock)
        else:
            self._answered.put_nowait((sock, code))

    def _on_answer(self, sock: socket.socket) -> None:
        self._loop.remove_writer(sock)
        self._answered.put_nowait((sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
