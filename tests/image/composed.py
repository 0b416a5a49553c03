"""The services of a compose file that are our own image, started by podman from the file's own words.

Every key is either carried out or named here as one that this machine cannot carry out; any other is refused, so that the
file never says what no test has read. Compose's network is stood in for by one namespace without a way out, in which the
services have their names: no bridge, no firewall and no resolver are needed, and no call can leave it.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from tests.fixtures.waiting import wait_for
from tests.image.engine import Container, health_check

LEFT_OUT: Final = frozenset(
    {"build", "ports", "stop_grace_period", "healthcheck", "depends_on", "network_mode", "image", "pull_policy"}
)
HEALTHY_S: Final = 30.0
OPTIONS: Final = {"read_only": "--read-only={}", "mem_limit": "--memory={}", "cap_drop": "--cap-drop={}",
                  "security_opt": "--security-opt={}"}  # fmt: skip


def _command(service: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(podman's options, what follows the image) of a service's entrypoint and command."""
    first, *rest = service.get("entrypoint", [""])
    options = [f"--entrypoint={first}"] if first else []
    return options, [*rest, *service.get("command", [])]


def _start(folder: Path, service: Mapping[str, Any], image: str, network: str, hosts: Path) -> Container:
    """Raises ValueError for a key that nobody here carries out."""
    options, arguments = _command(service)
    for key, value in service.items():
        if key in OPTIONS:
            values = value if isinstance(value, list) else [value]
            options += [OPTIONS[key].format(str(one).lower() if isinstance(one, bool) else one) for one in values]
        elif key not in LEFT_OUT | {"environment", "volumes", "entrypoint", "command"}:
            raise ValueError(f"compose: {key} is not carried out by this test")
    volumes = [
        str(folder / volume) if volume.startswith(".") else volume.split(":")[1]
        for volume in service.get("volumes", [])
    ]
    return Container(
        image,
        *arguments,
        environ=service.get("environment", {}),
        volumes=[*volumes, f"{hosts}:/etc/hosts:ro"],
        network=network,
        options=options,
    )


@contextmanager
def started(file: Path, image: str, hosts: Path, *names: str) -> Iterator[dict[str, Container]]:
    """These services, in this order, each after those that it depends on are as it wants them; in place of their image
    `image`. `hosts` is a file to be written."""
    services: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text())["services"]
    running: dict[str, Container] = {}
    hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *services)))
    with ExitStack() as stack:
        for name in names:
            network = f"container:{next(iter(running.values())).name}" if running else "none"
            wanted = services[name].get("depends_on", [])
            for other, how in wanted.items() if isinstance(wanted, dict) else ():
                assert how == {"condition": "service_healthy"}
                check = health_check(image)
                assert wait_for(
                    lambda one=running[other], check=check: one.execute(*check).returncode == 0, HEALTHY_S, 0.2
                )
            running[name] = stack.enter_context(_start(file.parent, services[name], image, network, hosts))
        yield running
