"""The few calls that the injector makes to the API server, as the service account of its pod.

Each call reads the token and the authority's file anew, since both rotate; answers or raises within its timeout; and sends
nothing through a proxy or behind a redirect. An error names the call, the status and the API server's one-word reason:
its message may quote an object, and objects here hold keys. What callers do about an error is not known here.
"""

import asyncio
import base64
import binascii
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import aiohttp
import orjson

from sidecar.errors import ConfigError, SidecarError
from sidecar.inject.identity import Owner

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CALLS: Final = ("secret_get", "secret_create", "secret_update", "webhook_get", "webhook_patch", "version", "owner")
NATIVE_SINCE: Final = (1, 29)  # SidecarContainers is on by default
_TIMEOUT_S: Final = 5.0
_DESIRED: Final = ("deployment.kubernetes.io/desired-replicas", "rollout.argoproj.io/desired-replicas")
# merges `webhooks` by their names, where JSON merge replaces all
_MERGE: Final = "application/strategic-merge-patch+json"
_TLS: Final = "kubernetes.io/tls"
_WORD: Final = re.compile(r"[A-Za-z]{1,40}")

Call = Literal["secret_get", "secret_create", "secret_update", "webhook_get", "webhook_patch", "version", "owner"]
Object = Mapping[str, object]


class ClusterError(SidecarError):
    """A call that the API server refused, or did not answer in time. `status` 0: no answer at all."""

    code = "cluster"
    retryable = True

    def __init__(self, call: Call, message: str, answered: int = 0) -> None:
        super().__init__(message)
        self.call = call
        self.answered = answered


@dataclass(frozen=True, slots=True)
class Name:
    """A namespaced object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Secret:
    """A Secret as it was read. `metadata` goes back as it came: labels and owners are other people's."""

    data: Mapping[str, bytes] = field(repr=False)
    metadata: Object = field(repr=False)
    kind: str = _TLS  # a Secret's type cannot be changed


@dataclass(frozen=True, slots=True)
class Webhook:
    """What matters of a MutatingWebhookConfiguration: each webhook's bundle by its name, and the Services they call."""

    version: str
    bundles: Mapping[str, bytes]
    services: tuple[Name, ...]


class Cluster:
    """A client of one API server. `on_error(call)` counts each failed call; `close` ends its connections."""

    def __init__(self, url: str, account: Path = ACCOUNT, on_error: Callable[[str], None] = lambda _call: None) -> None:
        self._url, self._account, self._on_error = url, account, on_error
        self._session: aiohttp.ClientSession | None = None
        self._trusted: tuple[str, ssl.SSLContext] | None = None

    @classmethod
    def here(cls, environ: Mapping[str, str], account: Path, on_error: Callable[[str], None]) -> "Cluster":
        """The API server of the cluster that this process runs in.

        Raises:
            ConfigError: the variables that Kubernetes gives to each container are not there.
        """
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise ConfigError("KUBERNETES_SERVICE_HOST is not set: run the injector as a pod of the cluster it serves")
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", account, on_error)

    async def secret(self, name: Name) -> Secret | None:
        """The Secret; None when there is none. What is not base64 in it reads as empty."""
        found = await self._ask("secret_get", "GET", _secrets(name, name.name), absent=(404,))
        if found is None:
            return None
        data = {key: _decoded(text) for key, text in _map(found, "data").items()}
        return Secret(data, _map(found, "metadata"), str(found.get("type", _TLS)))

    async def create_secret(self, name: Name, data: Mapping[str, bytes]) -> bool:
        """Makes the Secret; False when somebody else was quicker."""
        body = _written(Secret(data, {"name": name.name, "namespace": name.namespace}))
        return await self._ask("secret_create", "POST", _secrets(name), body, absent=(409,)) is not None

    async def update_secret(self, name: Name, old: Secret, data: Mapping[str, bytes]) -> bool:
        """Replaces the content of the Secret that was read as `old`; False when it is another one, or gone, by now."""
        body = _written(replace(old, data=data))
        path = _secrets(name, name.name)
        try:
            return await self._ask("secret_update", "PUT", path, body, absent=(409,)) is not None
        except ClusterError as error:
            if error.answered == 404:
                return False
            raise

    async def webhook(self, name: str) -> Webhook:
        """The webhook's configuration. Raises ClusterError (`answered` 404) while it is not there yet."""
        found = await self._ask("webhook_get", "GET", _webhooks(name)) or {}
        listed = found.get("webhooks")
        hooks = [hook for hook in listed if isinstance(hook, dict)] if isinstance(listed, list) else []
        clients = {str(hook.get("name")): _map(hook, "clientConfig") for hook in hooks}
        services = [_map(client, "service") for client in clients.values()]
        return Webhook(
            str(_map(found, "metadata").get("resourceVersion", "")),
            {name: _decoded(client.get("caBundle")) for name, client in clients.items()},
            tuple(
                {
                    Name(str(one["namespace"]), str(one["name"])): None
                    for one in services
                    if {"name", "namespace"} <= one.keys()
                }
            ),
        )

    async def trust(self, name: str, seen: Webhook, bundle: bytes) -> bool:
        """Puts `bundle` into each webhook of the configuration; False when that was changed after it was `seen`."""
        client = {"caBundle": base64.b64encode(bundle).decode()}
        hooks = [{"name": hook, "clientConfig": client} for hook in seen.bundles]
        body = {"metadata": {"resourceVersion": seen.version}, "webhooks": hooks}
        return await self._ask("webhook_patch", "PATCH", _webhooks(name), body, absent=(409,)) is not None

    async def has_native(self) -> bool:
        """Whether the API server knows native sidecars (init containers that restart always)."""
        found = await self._ask("version", "GET", "/version") or {}
        digits = [re.match(r"[0-9]{1,4}", str(found.get(part, ""))) for part in ("major", "minor")]
        return all(digits) and tuple(int(one[0]) for one in digits if one) >= NATIVE_SINCE

    async def replicas(self, owner: Owner) -> int | None:
        """How many pods this owner wants; None for a kind without such a number, when it is gone, or where looking is not
        allowed.

        Of a ReplicaSet it is its Deployment's number: during an update the set itself begins with few.
        """
        plural = {"ReplicaSet": "replicasets", "StatefulSet": "statefulsets"}.get(owner.kind)
        if plural is None:
            return None
        path = f"/apis/apps/v1/namespaces/{_safe(owner.namespace)}/{plural}/{_safe(owner.name)}"
        found = await self._ask("owner", "GET", path, absent=(403, 404))  # an installation may forbid it
        if found is None:
            return None
        notes = _map(_map(found, "metadata"), "annotations")
        for text in (notes.get(note) for note in _DESIRED):
            if isinstance(text, str) and re.fullmatch(r"[0-9]{1,6}", text, re.ASCII):
                return int(text)
        number = _map(found, "spec").get("replicas")
        return number if isinstance(number, int) else None

    async def close(self) -> None:
        """Ends the connections."""
        if self._session is not None:
            await self._session.close()

    async def _ask(
        self, call: Call, method: str, path: str, body: object = None, absent: Sequence[int] = ()
    ) -> Object | None:
        """The object that the API server answers with; None for a status of `absent`."""
        try:
            return await self._told(call, method, path, body, absent)
        except ClusterError:
            self._on_error(call)
            raise
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            self._on_error(call)
            raise ClusterError(call, f"{method} {path}: {_reason(error)}") from None

    async def _told(self, call: Call, method: str, path: str, body: object, absent: Sequence[int]) -> Object | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        headers = {"Authorization": f"Bearer {self._read('token').strip()}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = _MERGE if method == "PATCH" else "application/json"
        data = None if body is None else orjson.dumps(body)
        asked = self._session.request(
            method, self._url + path, data=data, headers=headers, ssl=self._context(), allow_redirects=False
        )
        async with asked as response:
            text = await response.read()
            if response.status in absent:
                return None
            found = orjson.loads(text) if text else None
            if response.status >= 300 or not isinstance(found, dict):
                word = found.get("reason") if isinstance(found, dict) else None
                word = word if isinstance(word, str) and _WORD.fullmatch(word) else "no object"
                raise ClusterError(call, f"{method} {path}: {response.status} {word}", response.status)
            return found

    def _context(self) -> ssl.SSLContext:
        pem = self._read("ca.crt")
        if self._trusted is None or self._trusted[0] != pem:
            self._trusted = (pem, ssl.create_default_context(cadata=pem))
        return self._trusted[1]

    def _read(self, name: str) -> str:
        return (self._account / name).read_text("ascii")


def names_of(services: Sequence[Name]) -> tuple[str, ...]:
    """What API servers and people call these Services: the names that a leaf has to have."""
    return tuple(f"{one.name}.{one.namespace}.svc{tail}" for one in services for tail in ("", ".cluster.local"))


def _reason(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer within {_TIMEOUT_S:g} s"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not of the authority in ca.crt"
    if isinstance(error, OSError):
        return f"{type(error).__name__}{f' ({error.strerror})' if error.strerror else ''}"
    return type(error).__name__


def _written(secret: Secret) -> Object:
    coded = {name: base64.b64encode(content).decode() for name, content in secret.data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "type": secret.kind, "metadata": secret.metadata, "data": coded}


def _secrets(name: Name, one: str = "") -> str:
    return f"/api/v1/namespaces/{_safe(name.namespace)}/secrets{f'/{_safe(one)}' if one else ''}"


def _webhooks(name: str) -> str:
    return f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{_safe(name)}"


def _safe(name: str) -> str:
    """A name as a segment of a path. Raises ValueError on what Kubernetes would not call an object."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", name, re.ASCII):
        raise ValueError("no name of an object")
    return name


def _map(found: Object, key: str) -> Mapping[str, object]:
    value = found.get(key)
    return value if isinstance(value, dict) else {}


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (ValueError, binascii.Error):
        return b""
