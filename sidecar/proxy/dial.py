"""Opening connections to upstreams: TCP, TLS, and CONNECT through an egress proxy as the app's own SDK would have gone."""

import asyncio
import base64
import errno
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from sidecar.config.address import Address, comes_back
from sidecar.config.files import require_bounded
from sidecar.config.watch import Watch
from sidecar.errors import ConfigError, SidecarError
from sidecar.proxy.reach import Name, reach


class Dialled(asyncio.Protocol):
    """One side of a connection that is opened here."""

    def on_secured(self, below: asyncio.Transport) -> None:
        """The connection speaks TLS; `below` is the one that carries it. Called once, behind `connection_made`."""


P = TypeVar("P", bound=Dialled)

_CONNECT_OK: Final = re.compile(rb"HTTP/1\.[01] 2[0-9][0-9][ \r]")
_UNSHAKEN: Final = "the connection was closed during the TLS handshake"
_MAX_CONNECT_HEAD: Final = 16384
_KEEPALIVE: Final = (
    (socket.TCP_KEEPIDLE, 60),  # below the 350 s after which cloud NATs forget a silent flow
    (socket.TCP_KEEPINTVL, 15),
    (socket.TCP_KEEPCNT, 4),
)


class DialError(SidecarError):
    """No connection to the upstream. `reason` is the outcome's `error`: timeout_connect, dns, connect, tls, egress, or shed
    where the lack is our own."""

    code = "upstream"
    status = 502
    retryable = True

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def of_tls(error: ssl.SSLError) -> DialError:
    """TLS that an alert or a check of ours ended; told is OpenSSL's name of that, and nothing that anybody sent."""
    reason = getattr(error, "verify_message", "") or error.reason or "handshake failed"
    return DialError("tls", f"TLS to the upstream failed: {reason}")


class Egress(Struct, frozen=True):
    """An HTTP proxy for https upstreams (HTTPS_PROXY) and the hosts that go without it (NO_PROXY)."""

    host: str
    port: int
    authorization: bytes = b""  # a whole header line, or nothing
    direct: tuple[str, ...] = ()

    @classmethod
    def parse(cls, proxy: str, no_proxy: Iterable[str]) -> "Egress":
        """Reads the two variables as curl does.

        Raises:
            ConfigError: the proxy is no http:// URL with a host.
        """
        wrong = "HTTPS_PROXY: only http://[user:password@]host:port is understood; correct or unset it"
        try:
            parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            port = parts.port or 8080
        except ValueError:  # its text holds what stands in the port's place, which may be a password
            raise ConfigError(wrong) from None
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(wrong)
        authorization = b""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            authorization = b"Proxy-Authorization: Basic " + base64.b64encode(pair) + b"\r\n"
        direct = tuple(name if name == "*" else name.lower().lstrip("*").lstrip(".") for name in no_proxy)
        return cls(parts.hostname, port, authorization, direct)

    def serves(self, host: str) -> bool:
        """Whether connections to `host` go through the proxy."""
        host = host.lower()
        return not any(_covers(entry, host) for entry in self.direct)


def _covers(entry: str, host: str) -> bool:
    if entry == "*" or host == entry or host.endswith("." + entry):
        return True
    if "/" not in entry:
        return False
    try:
        return ipaddress.ip_address(host.strip("[]")) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def client_tls(ca_file: str | None) -> ssl.SSLContext:
    """Verification on, host name checked, TLS 1.2 or newer; `ca_file` is trusted instead of the system's list.

    Raises:
        ConfigError: the file cannot be read, is larger than a MiB, or holds no certificate.
    """
    try:
        if ca_file is not None:
            require_bounded(Path(ca_file))
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"ca_file {ca_file}: {error.strerror}; give a readable PEM file of certificates") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class Trust:
    """What a server's certificate is verified with. A CA file that changes is read again before the next handshake; while
    it cannot be read, what it said before counts."""

    def __init__(self, ca_file: str | None) -> None:
        """Raises ConfigError where `ca_file` cannot be read."""
        self._ca_file = ca_file
        self._watch = Watch([] if ca_file is None else [Path(ca_file)])
        self._context = client_tls(ca_file)

    def context(self) -> ssl.SSLContext:
        """As the file is now."""
        if self._watch.changed():
            with suppress(ConfigError):
                self._context = client_tls(self._ca_file)
        return self._context


def set_keepalive(transport: asyncio.BaseTransport) -> None:
    """TCP keep-alive probes, so that a flow that a NAT forgot is found (INC-25)."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Dialer:
    """Connects to one host and port, unless that is one of our own `listeners`, whatever name leads there."""

    def __init__(
        self,
        host: str,
        port: int,
        tls: Trust | None,
        egress: Egress | None,
        listeners: tuple[Address, ...] = (),
    ) -> None:
        self._listeners = listeners
        self._host = host
        self._port = port
        self._tls = tls
        self._egress = egress if egress is not None and tls is not None and egress.serves(host) else None
        self._name = Name(host, port) if self._egress is None else Name(self._egress.host, self._egress.port)

    async def connect(self, factory: Callable[[], P], timeout_s: float) -> P:
        """Opens one connection and gives its protocol, TLS established.

        Raises:
            DialError: it did not work within `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if self._egress is not None:
                    return await self._through(self._egress, factory)
                return await self._direct(factory)
        except TimeoutError:
            raise DialError("timeout_connect", f"no connection to the upstream within {timeout_s:g} s") from None
        except socket.gaierror:
            raise DialError("dns", "the upstream's name, or the egress proxy's, cannot be resolved") from None
        except ssl.SSLError as error:
            raise of_tls(error) from None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise DialError("shed", "the sidecar may open no further connection (ulimit -n)") from None
            raise DialError(
                "connect", f"the upstream cannot be reached: {error.strerror or type(error).__name__}"
            ) from None

    async def _direct(self, factory: Callable[[], P]) -> P:
        loop = asyncio.get_running_loop()
        left = await self._name.addresses()
        while True:
            sock = await reach(left)
            if _leads_back(sock, self._listeners):
                sock.close()
                raise DialError("connect", "the upstream's name leads to this sidecar itself: calls would never end")
            try:
                if self._tls is None:
                    transport, protocol = await loop.create_connection(factory, sock=sock)
                else:
                    transport, early = await loop.create_connection(_Early, sock=sock)
                    if early.spoke:
                        transport.abort()
                        raise DialError("tls", "TLS to the upstream failed: it speaks first, so not TLS")
                    protocol = await self._secured(transport, self._tls.context(), factory)
            except ssl.SSLError:
                raise
            except OSError:
                if not left:
                    raise
            else:
                set_keepalive(transport)
                return protocol

    async def _through(self, egress: Egress, factory: Callable[[], P]) -> P:
        loop = asyncio.get_running_loop()
        transport, opening = await loop.create_connection(_Connect, sock=await reach(await self._name.addresses()))
        set_keepalive(transport)
        try:
            host = f"[{self._host}]" if ":" in self._host else self._host
            where = f"{host}:{self._port}".encode()
            transport.write(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (where, where, egress.authorization))
            head = await opening.head
            if _CONNECT_OK.match(head) is None:
                status = head[9:12].decode("latin-1") or "nothing"
                raise DialError("egress", f"the egress proxy refused the connection (status {status})")
            assert self._tls is not None, "only https upstreams go through the egress proxy"
            return await self._secured(transport, self._tls.context(), factory)
        except BaseException:
            transport.abort()
            raise

    async def _secured(self, below: asyncio.Transport, tls: ssl.SSLContext, factory: Callable[[], P]) -> P:
        """TLS over an open connection, which is closed when that fails."""
        if below.is_closing():  # uvloop would begin the handshake all the same, and stumble
            raise ConnectionResetError(errno.ECONNRESET, _UNSHAKEN)
        protocol = factory()
        try:
            secured = await asyncio.get_running_loop().start_tls(below, protocol, tls, server_hostname=self._host)
        except BaseException as error:
            below.abort()
            if isinstance(error, ConnectionError):
                raise ConnectionResetError(errno.ECONNRESET, _UNSHAKEN) from None
            raise
        if secured is None:
            raise DialError("tls", _UNSHAKEN)
        protocol.connection_made(secured)
        protocol.on_secured(below)
        return protocol


def _leads_back(sock: socket.socket, listeners: tuple[Address, ...]) -> bool:
    try:
        return comes_back(sock.getpeername()[:2], sock.getsockname()[0], listeners)
    except OSError:
        return False  # it was closed meanwhile, as who uses it will see


class _Early(asyncio.Protocol):
    """What a peer says before TLS has begun is lost: no server of TLS speaks first."""

    spoke = False

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 - asyncio's signature
        self.spoke = True


class _Connect(asyncio.Protocol):
    """Waits for the egress proxy's answer to CONNECT."""

    def __init__(self) -> None:
        self.head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._read = b""

    def data_received(self, data: bytes) -> None:
        self._read += data
        if b"\r\n\r\n" in self._read or len(self._read) > _MAX_CONNECT_HEAD:
            self._settle()

    def eof_received(self) -> None:
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._settle()

    def _settle(self) -> None:
        if not self.head.done():
            self.head.set_result(self._read)
