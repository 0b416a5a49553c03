"""The way to a host: where its name leads, and a socket that is connected to the first of its addresses that answers.

Names are looked up in threads of our own, a name in one at a time. The loop's lookups share four threads, so that a silent
resolver, which costs each of them ten seconds and more, holds up the names of others too; and a loop that is closed waits
for them. Nobody waits for these, not even the end of the process.
"""

import asyncio
import errno
import os
import socket
import threading
from collections import deque
from contextlib import suppress
from typing import Any, Final

from sidecar.clock import monotonic

LOOKUP_S: Final = 1.0  # .2..5; shorter: slow resolvers are not heard, longer: dials wait for one that is silent
NEXT_S: Final = 0.25  # .1..2 (RFC 8305); shorter: far hosts are dialled twice, longer: one that is silent costs more

Address = tuple[int, Any]  # family, and what `socket.connect` takes


class Name:
    """A host's name and a port. Remembers its last good addresses for the time when the resolver is down (INC-22)."""

    def __init__(self, host: str, port: int) -> None:
        """`host` may be an address itself, which is not looked up."""
        self._host = host
        self._port = port
        self._good = _literal(host, port)
        self._literal = bool(self._good)
        self._lookup: asyncio.Future[None] | None = None  # the one that is under way
        self._late_at = 0.0  # when its answer is waited for no longer

    async def addresses(self) -> list[Address]:
        """Where the name leads now, as the system orders it; where it led last, when the resolver fails or says nothing for
        LOOKUP_S. Who has no such addresses waits for it.

        Raises:
            socket.gaierror: it leads nowhere.
        """
        if not self._literal:
            lookup = self._lookup or self._look_up()
            left_s = max(0.0, self._late_at - monotonic()) if self._good else None
            await asyncio.wait({lookup}, timeout=left_s)
            if not self._good:
                raise socket.gaierror(socket.EAI_NONAME, "no address")
        return list(self._good)

    def _look_up(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        self._lookup = lookup = loop.create_future()
        self._late_at = monotonic() + LOOKUP_S
        ask = threading.Thread(target=self._ask, args=(loop,), name="lookup", daemon=True)
        try:
            ask.start()
        except RuntimeError:  # no thread can be had
            self._take([])
        return lookup

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        found: list[Address] = []
        try:
            entries = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys((int(family), where) for family, _, _, _, where in entries))
        except (OSError, UnicodeError):
            pass  # it is told by there being none
        finally:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._take, found)

    def _take(self, found: list[Address]) -> None:
        lookup, self._lookup = self._lookup, None
        self._good = found or self._good
        if lookup is not None:
            lookup.set_result(None)


def _literal(host: str, port: int) -> list[Address]:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return [(family, (host, port))]
    return []


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
        """The first that answers. Raises OSError when none does."""
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
