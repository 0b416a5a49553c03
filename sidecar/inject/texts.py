"""The values that an installation or an annotation may hold: text to a value, or ValueError with `what; how to fix`.

Each is checked as the API server would check it: what passes here is never the reason why a pod with our sidecar is
refused. Not known here: what exists (images, ConfigMaps, Secrets).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from sidecar.config.document import nearest

MAX_SECRETS = 16
MAX_REPLICAS = 10_000  # what the sidecar's own setting takes
LOWEST_PORT, HIGHEST_PORT = 1024, 65535  # uid 10001 may bind these on every kernel
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_CONTAINER = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}", re.ASCII)
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,1023}", re.ASCII)
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", re.ASCII)
_SCALES = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** (power + 1) for power, unit in enumerate("kMGT")},
    **{f"{unit}i": Decimal(1024) ** (power + 1) for power, unit in enumerate("KMGT")},
}
_RESOURCES = ("cpu", "memory", "cpu-limit", "memory-limit")


@dataclass(frozen=True, slots=True)
class Resources:
    """What the sidecar's container asks for and may use, as Kubernetes quantities; no limit where it is None."""

    cpu: str = "100m"
    memory: str = "256Mi"
    cpu_limit: str | None = "500m"
    memory_limit: str | None = "512Mi"

    def guaranteed(self) -> "Resources":
        """The same with requests equal to limits: what a pod of QoS class Guaranteed needs to stay one."""
        cpu, memory = self.cpu_limit or self.cpu, self.memory_limit or self.memory
        return Resources(cpu, memory, cpu, memory)


def quantity(text: str) -> Decimal:
    """The amount that a Kubernetes quantity stands for (`100m` is 0.1, `1Ki` is 1024)."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError("is not a quantity; write 100m, 0.5, 256Mi or 1Gi")
    return Decimal(found[1]) * _SCALES[found[2] or ""]


def resources(text: str, before: Resources | None = None) -> Resources:
    """`cpu=100m,memory=256Mi,cpu-limit=none,memory-limit=512Mi`: what it leaves out is as `before` (or the default).

    A limit that is not written never stands below its request: it is raised to it.
    """
    said: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, amount = (word.strip() for word in part.partition("="))
        if name not in _RESOURCES:
            raise ValueError(f"has an entry that is not known; {nearest(name, _RESOURCES)}")
        if amount != "none" or not name.endswith("-limit"):
            _check_amount(name, amount)
        said[name] = amount
    base = before or Resources()
    cpu, memory = said.get("cpu", base.cpu), said.get("memory", base.memory)
    return Resources(
        cpu, memory, _limit("cpu", cpu, said, base.cpu_limit), _limit("memory", memory, said, base.memory_limit)
    )


def _limit(name: str, asked: str, said: Mapping[str, str], before: str | None) -> str | None:
    """The limit that is said or was before; None for `none`. Raises ValueError where it is said below its request."""
    most = said.get(f"{name}-limit", before)
    if most is None or most == "none":
        return None
    if quantity(most) >= quantity(asked):
        return most
    if f"{name}-limit" in said:
        raise ValueError(f"has a {name}-limit below {name}; a limit is at least what is asked for")
    return asked


def _check_amount(name: str, amount: str) -> None:
    """Raises ValueError where the API server would refuse the amount, or no process could live with it."""
    try:
        value = quantity(amount)
    except ValueError as error:
        what, _, fix = str(error).partition("; ")
        raise ValueError(f"has a {name} that {what}; {fix}") from None
    if name.startswith("cpu"):
        if value % Decimal("0.001") or not value:
            raise ValueError(f"has a {name} that is no whole number of thousandths above 0; write 100m or more")
    elif value < 32 * 2**20 or value % 1:
        raise ValueError(f"has a {name} that is no whole number of bytes from 32Mi on; write 256Mi")


def size(text: str) -> str:
    """A quantity of bytes, 1Mi or more."""
    if quantity(text) < 2**20 or quantity(text) % 1:
        raise ValueError("is not a size from 1Mi on; write 512Mi")
    return text


def object_name(text: str) -> str:
    """The name of a ConfigMap or Secret."""
    if len(text) > 253 or not _SUBDOMAIN.fullmatch(text):
        raise ValueError("is not the name of an object; use a-z, 0-9, `-` and `.`, at most 253")
    return text


def secret_names(text: str) -> tuple[str, ...]:
    """A comma list of Secrets, each once."""
    found = tuple(dict.fromkeys(object_name(part.strip()) for part in text.split(",") if part.strip()))
    if len(found) > MAX_SECRETS:
        raise ValueError(f"names more than {MAX_SECRETS} Secrets; put several keys into one")
    return found


def container_names(text: str) -> tuple[str, ...]:
    """A comma list of containers, at least one."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found or not all(_CONTAINER.fullmatch(name) for name in found):
        raise ValueError("is not a list of containers; write their names with commas between them")
    return found


def service(text: str) -> str:
    if not _SERVICE.fullmatch(text):
        raise ValueError("is not a usable name; use letters, digits and . _ / - (at most 128)")
    return text


def image(text: str) -> str:
    if not _IMAGE.fullmatch(text):
        raise ValueError("is not the name of an image; write registry/name:tag or registry/name@sha256:...")
    return text


def port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not LOWEST_PORT <= int(text) <= HIGHEST_PORT:
        raise ValueError(f"is not a port; write a number from {LOWEST_PORT} to {HIGHEST_PORT}")
    return int(text)


def replicas(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text, re.ASCII) or not 1 <= int(text) <= MAX_REPLICAS:
        raise ValueError(f"is not a number of pods; write 1 to {MAX_REPLICAS}")
    return int(text)


def wanted(text: str) -> bool:
    """`true` or `false`, or as the namespace's label says it."""
    if text not in ("true", "false", "enabled", "disabled"):
        raise ValueError('is neither "true" nor "false"; write one of them, in quotes')
    return text in ("true", "enabled")


def variable(text: str) -> str:
    """The value of an environment variable, as it stands."""
    if len(text) > 4096 or "\x00" in text:
        raise ValueError("is not the value of a variable; write at most 4096 characters")
    return text
