"""Binds listening sockets: an address family that the machine lacks is skipped, a busy port is a clear error."""

import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from sidecar.config.address import show_listen
from sidecar.errors import ConfigError

_BACKLOG: Final = 1024
_NO_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


class Listeners:
    """The listening sockets of one process, by what each is for, from their binding until `close`."""

    def __init__(self) -> None:
        self.sockets: dict[str, Sequence[socket.socket]] = {}
        self.ports: dict[str, list[int]] = {}  # that they really have: 0 in the settings means any
        self.shown: dict[str, list[str]] = {}  # their addresses, for people

    def take(self, what: str, sockets: Sequence[socket.socket]) -> None:
        """They are bound, and ours to close."""
        self.sockets[what] = sockets
        addresses = [sock.getsockname()[:2] for sock in sockets]
        self.ports[what] = [int(port) for _, port in addresses]
        self.shown[what] = [show_listen([address]) for address in addresses]

    def close(self) -> None:
        for sockets in self.sockets.values():
            for sock in sockets:
                sock.close()


def bind(
    what: str, addresses: Iterable[tuple[str, int]], on_skip: Callable[[str], None], *, shared: bool = False
) -> list[socket.socket]:
    """One listening socket per address. `on_skip` is told of addresses that this machine does not have. With `shared` the
    kernel spreads connections over all sockets of the address that are shared too.

    Raises:
        ConfigError: a port is busy or not allowed, or no address could be bound at all.
    """
    return _each(what, addresses, on_skip, lambda host, port: _listening(host, port, shared))


def hold(what: str, addresses: Iterable[tuple[str, int]], on_skip: Callable[[str], None]) -> list[socket.socket]:
    """One socket per address that has the port and does not listen, so that only sockets that share it can. The kernel would
    let any process of this user share it: that nobody listens there now is asked first.

    Raises:
        ConfigError: as `bind`.
    """
    return _each(what, addresses, on_skip, _held)


def _each(
    what: str,
    addresses: Iterable[tuple[str, int]],
    on_skip: Callable[[str], None],
    make: Callable[[str, int], socket.socket],
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for host, port in addresses:
            try:
                sockets.append(make(host, port))
            except OSError as error:
                where = f"{what} listener {host}:{port}"
                if error.errno not in _NO_FAMILY:
                    fix = (
                        "stop the other program or choose another port"
                        if error.errno == errno.EADDRINUSE
                        else "choose another"
                    )
                    raise ConfigError(f"{where}: {error.strerror}; {fix}") from None
                on_skip(f"{where} skipped: {error.strerror}")
        if not sockets:
            raise ConfigError(f"{what} listener: none of its addresses exists on this machine; correct the list")
    except ConfigError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listening(host: str, port: int, shared: bool = False) -> socket.socket:
    sock = _bound(host, port, shared)
    try:
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _held(host: str, port: int) -> socket.socket:
    probe = _listening(host, port)
    port = int(probe.getsockname()[1])
    probe.close()
    return _bound(host, port, shared=True)


def _bound(host: str, port: int, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
