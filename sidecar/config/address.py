"""Listen addresses and upstream origins: text to values, and the question whether an upstream would be ourselves.

Listen addresses are numbers, never names: a name lookup can block for seconds and can change under our feet.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, urlsplit

Address = tuple[str, int]
ANY = ("0.0.0.0", "::")  # noqa: S104  the two spellings of "all addresses", one per family
LOOPBACK = ("127.0.0.1", "::1")
_NAME = re.compile(r"(?=.{1,253}\.?$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of an upstream, and the path before the API path ("" or "/x", no trailing slash)."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    prefix: str = ""


def parse_origin(text: str) -> Origin:
    """Reads `http(s)://host[:port][/prefix]`. Raises ValueError on any more: user, query, fragment, dot segments."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(_how("is not a URL, or its port is none of 1..65535")) from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(_how("does not begin with http:// or https://"))
    _refuse_extras(text, parts)
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    return Origin(scheme, parts.hostname or "", port or (443 if scheme == "https" else 80), parts.path.rstrip("/"))


def _refuse_extras(text: str, parts: SplitResult) -> None:
    if "@" in parts.netloc:
        raise ValueError(_how("holds a user name or password"))
    if "?" in text or "#" in text:
        raise ValueError(_how("holds a query or fragment"))
    if not _is_host(parts) or parts.port == 0:
        raise ValueError(_how("names no usable host and port"))
    segments = parts.path.lower().replace("%2e", ".").split("/")
    if not _PATH.fullmatch(parts.path) or "" in segments[1:-1] or {".", ".."} & set(segments):
        raise ValueError(_how("has a path with empty or dot segments, or with characters that a path cannot have"))


def _is_host(parts: SplitResult) -> bool:
    """Whether there is a name that could be looked up, or an address; what ends in a number is an address or nothing."""
    host = parts.hostname or ""
    try:
        if "[" in parts.netloc:
            return bool(ipaddress.IPv6Address(host))
        return bool(_NAME.fullmatch(host)) and (
            not host.rpartition(".")[2].isdigit() or bool(ipaddress.IPv4Address(host))
        )
    except ValueError:
        return False


def _how(what: str) -> str:
    return f"{what}; write an origin with an optional path, like https://api.example.com/v1"


def parse_listen(text: str) -> tuple[Address, ...]:
    """A comma list of `host:port`, `[v6]:port`, `localhost:port` (both loopbacks), `:port` or `*:port` (all addresses).

    An empty list is allowed: the listener is off.
    """
    found: dict[Address, None] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        host, colon, port = item.rpartition(":")
        if not colon or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or int(port) > 65535:
            raise ValueError("is not a listen address; write host:port, [::1]:9090 or :9090")
        for address in _addresses(host):
            found[(address, int(port))] = None
    return tuple(found)


def _addresses(host: str) -> tuple[str, ...]:
    if host in ("", "*"):
        return ANY
    if host == "localhost":
        return LOOPBACK
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        address = None
    if address is None or (address.version == 6) != (bare != host):
        raise ValueError(
            "is not a listen address; the host must be an IP number (IPv6 in brackets), localhost or empty"
        )
    return (str(address),)


def is_loopback(host: str) -> bool:
    """Whether packets to this address cannot leave the machine; `localhost` counts, other names do not."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(_unmapped(host))
    except ValueError:
        return False
    return address.is_loopback


def _unmapped(host: str) -> str:
    """The IPv4 address that an IPv6 one stands for (`::ffff:127.0.0.1`): connections to it end there. Others as they are."""
    try:
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
    except ValueError:
        return host
    return host if mapped is None else str(mapped)


def is_ourselves(origin: Origin, listeners: Iterable[Address]) -> bool:
    """Whether the origin is one of these listeners, so that a request to it would come back to us for ever.

    Compares numbers, not names: a name that resolves to one of our addresses is seen when it is dialled (`comes_back`).
    """
    return any(origin.port == port and _same_host(origin.host, host) for host, port in listeners)


def comes_back(peer: Address, local: str, listeners: Iterable[Address]) -> bool:
    """Whether a connection from the address `local` to `peer` ends at one of these listeners. Who listens on all addresses
    has those of this machine: loopback, and those from which it is called itself."""
    host, number = _unmapped(peer[0]), peer[1]
    here = is_loopback(host) or host == _unmapped(local)
    listening = {_unmapped(address) for address, port in listeners if port == number}
    return host in listening or (here and not listening.isdisjoint(ANY))


def _same_host(host: str, listening: str) -> bool:
    host, listening = _unmapped(host), _unmapped(listening)
    here = is_loopback(host) or host in ANY
    if listening in ANY:
        return here
    return host == listening or (here and is_loopback(listening))


def show_listen(addresses: Iterable[Address]) -> str:
    """The comma list that `parse_listen` reads."""
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses)
