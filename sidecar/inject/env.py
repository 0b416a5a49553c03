"""The environment: what an app's container gets so that its SDK calls the sidecar, and what the sidecar takes over.

An app's own value wins, always: where OPENAI_BASE_URL or ANTHROPIC_BASE_URL is set, it stays, and a warning says so. A
proxy that is set must not be asked for localhost, so NO_PROXY gets three more entries. What `envFrom` brings in is read
by the kubelet only and cannot be seen here; `env` wins over it, so that is told too. Messages name variables and
containers, never values.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from sidecar.config import scalars
from sidecar.inject.patch import Patch, pointer
from sidecar.inject.tree import Place

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
EXCEPTIONS = ("NO_PROXY", "no_proxy")
_TAKEN_OVER = ("HTTPS_PROXY", "https_proxy", *EXCEPTIONS)  # what the sidecar's own settings read
_COPIED = ("secretKeyRef", "configMapKeyRef", "fieldRef")  # mean the same in another container of the pod


def base_urls(port: int) -> dict[str, str]:
    """The two variables that the official SDKs read."""
    return {"OPENAI_BASE_URL": f"http://localhost:{port}/v1", "ANTHROPIC_BASE_URL": f"http://localhost:{port}"}


@dataclass(frozen=True, slots=True)
class _Variables:
    """A container's `env`: the last entry of a name counts, as for the kubelet."""

    container: str
    entries: dict[str, tuple[int, Place]] = field(default_factory=dict)

    @classmethod
    def of(cls, container: Place) -> "_Variables":
        entries = {one["name"].text(): (at, one) for at, one in enumerate(container["env"].items())}
        return cls(container["name"].text(), entries)

    def is_set(self, name: str) -> bool:
        """Whether it has a value, or gets one from somewhere."""
        if name not in self.entries:
            return False
        entry = self.entries[name][1]
        return bool(entry["value"].text()) or not entry["valueFrom"].is_absent


def extend(container: Place, path: str, port: int, patch: Patch) -> list[str]:
    """Puts the base URLs and the proxy's exceptions into the container at pointer `path`; returns the warnings."""
    variables, warnings = _Variables.of(container), []
    added: list[object] = []
    for name, url in base_urls(port).items():
        if not variables.is_set(name):
            added += _put(variables, name, url, path, patch)
        elif variables.entries[name][1]["value"].text() != url:
            warnings.append(f"container {variables.container} sets {name} itself: its calls go there")
    for name in _exceptions_due(variables):
        before = variables.entries[name][1] if name in variables.entries else Place(None)
        if not before["valueFrom"].is_absent:
            warnings.append(
                f"container {variables.container} has {name} from elsewhere: add {','.join(LOOPBACK)} there"
            )
            continue
        wanted = _with_loopback(before["value"].text())
        if wanted != before["value"].text():
            added += _put(variables, name, wanted, path, patch)
    patch.append(container["env"], f"{path}/env", added)
    if container["envFrom"].items():
        warnings.append(
            f"container {variables.container} has envFrom, which cannot be seen here: a base URL in it is overridden "
            "(set it in env to keep it), and with a proxy in it NO_PROXY needs localhost"
        )
    return warnings


def _put(variables: _Variables, name: str, value: str, path: str, patch: Patch) -> list[object]:
    """Sets the value of the entry that is there (empty so far, or to be longer), or returns a new one to be added."""
    if name not in variables.entries:
        return [{"name": name, "value": value}]
    patch.set(f"{path}/env/{variables.entries[name][0]}{pointer('value')}", value)
    return []


def _exceptions_due(variables: _Variables) -> tuple[str, ...]:
    """Which spellings of NO_PROXY count: those that are set; both when only a proxy is."""
    found = tuple(name for name in EXCEPTIONS if variables.is_set(name))
    if found or not any(variables.is_set(name) for name in PROXIES):
        return found
    return EXCEPTIONS


def _with_loopback(text: str) -> str:
    entries = [one.strip() for one in text.split(",") if one.strip()]
    if "*" in entries:
        return text
    missing = [one for one in LOOPBACK if one not in entries]
    return ",".join([*([text.strip().rstrip(",")] if entries else []), *missing]) if missing else text


def proxies(containers: Iterable[Place], own: Iterable[str]) -> tuple[list[dict[str, object]], list[str]]:
    """The sidecar's entries for the app's proxy, and the warnings: upstreams are reached as the app would have reached them.

    The first container that names a proxy decides. Nothing is taken over when the installation sets one (`own`).
    """
    if {"HTTPS_PROXY", "https_proxy"} & set(own):
        return [], []
    for container in containers:
        variables = _Variables.of(container)
        if not any(variables.is_set(name) for name in _TAKEN_OVER[:2]):
            continue
        entries, warnings = [], []
        for name in _TAKEN_OVER:
            if variables.is_set(name):
                entry = _copied(variables.entries[name][1], name)
                if entry is None:
                    warnings.append(f"container {variables.container} has {name} in a form that the sidecar cannot use")
                else:
                    entries.append(entry)
        return entries, warnings
    return [], []


def _copied(entry: Place, name: str) -> dict[str, object] | None:
    """The same entry for our container; None where it would mean something else there, or keep us from starting."""
    source = entry["valueFrom"].mapping()
    if source:
        return {"name": name, "valueFrom": dict(source)} if source.keys() <= set(_COPIED) else None
    value = entry["value"].text()
    if "$(" in value:
        return None
    if name not in EXCEPTIONS:
        try:
            scalars.proxy(value)
        except ValueError:
            return None
    return {"name": name, "value": value}
