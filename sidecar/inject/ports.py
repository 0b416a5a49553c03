"""Which ports the sidecar gets in a pod: those of the installation, unless a container of the pod has them.

All containers of a pod share one network, so two listeners on one port cannot both start. A port counts as taken when a
container declares it (TCP, also as hostPort), a probe or a hook asks it, or `prometheus.io/port` names it; what listens
without saying so cannot be seen. A taken port is moved by hundreds (9090 -> 9190) to one that is free. A port that an
annotation gives is never moved: if it is taken, that is an error. A health port that is given may be the one of
`prometheus.io/port`: then the sidecar is what is to be scraped.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sidecar.errors import ConfigError
from sidecar.inject.options import PORTS, PREFIX, Defaults, Port
from sidecar.inject.texts import HIGHEST_PORT, LOWEST_PORT
from sidecar.inject.tree import Place

_STEP = 100
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_HOOKS = ("postStart", "preStop")
_ASKS = ("httpGet", "tcpSocket", "grpc")
_SCRAPED = "annotation prometheus.io/port"


@dataclass(frozen=True, slots=True)
class Ports:
    """The sidecar's ports in one pod, and from where to where they were moved: {usual: chosen}."""

    traffic: int
    health: int
    admin: int
    moved: Mapping[int, int]


def taken(containers: Iterable[Place], annotations: Mapping[str, object]) -> dict[int, str]:
    """Every port that the pod uses as far as it says so -> who uses it. Raises WrongShape."""
    found: dict[int, str] = {}
    for container in containers:
        whose = f"container {container['name'].text()}"
        for number in _ports_of(container):
            found.setdefault(number, whose)
    scraped = annotations.get("prometheus.io/port")
    if isinstance(scraped, str) and scraped.isascii() and scraped.isdigit():
        found.setdefault(int(scraped), _SCRAPED)
    return found


def _ports_of(container: Place) -> Iterator[int]:
    for port in container["ports"].items():
        if port["protocol"].text() in ("", "TCP"):
            yield from (number for number in (port["containerPort"].number(), port["hostPort"].number()) if number)
    asked = [container[name] for name in _PROBES] + [container["lifecycle"][name] for name in _HOOKS]
    for one in asked:
        for way in _ASKS:
            number = one[way]["port"].value  # a number, or the name of a port that is declared above
            if isinstance(number, int):
                yield number


def choose(defaults: Defaults, given: Mapping[str, int], used: Mapping[int, str]) -> Ports:
    """The three ports. Raises ConfigError when an annotation gives one that is taken."""
    clashes = [
        f"annotation {PREFIX}{name}: {given[name]} is taken by {used[given[name]]}; choose another port"
        for name in PORTS
        if name in given and given[name] in used and (name, used[given[name]]) != ("health-port", _SCRAPED)
    ]
    if clashes:
        raise ConfigError("\n".join(clashes))
    usual: dict[Port, int] = {
        "port": defaults.port,
        "health-port": defaults.health_port,
        "admin-port": defaults.admin_port,
    }
    barred = {*used, *given.values()}
    chosen: dict[Port, int] = {}
    for name in PORTS:
        chosen[name] = given[name] if name in given else _free(usual[name], barred)
        barred.add(chosen[name])
    moved = {usual[name]: chosen[name] for name in PORTS if name not in given and chosen[name] != usual[name]}
    return Ports(chosen["port"], chosen["health-port"], chosen["admin-port"], moved)


def _free(usual: int, barred: set[int]) -> int:
    """The first port from `usual` on, in steps of a hundred, then one by one, that nobody has."""
    for steps in (range(usual, HIGHEST_PORT + 1, _STEP), range(LOWEST_PORT, HIGHEST_PORT + 1)):
        for port in steps:
            if port not in barred:
                return port
    raise ConfigError("the pod declares every port from 1024 on; declare fewer")
