"""Keeps the certificate that is served, the Secret and the webhook's caBundle in step, one round at a time.

Of several replicas each does the same: what is to be done follows from the Secret and the webhook alone, a change that
somebody else made first is refused by the API server (resourceVersion), and the next round begins with theirs. The order of
a round is the promise: bundle into the webhook first, then the leaf that it vouches for into the listener. A round that
fails changes nothing that is served.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from sidecar.clock import monotonic, rfc3339, wall
from sidecar.errors import SidecarError
from sidecar.inject.certificates import KEYS, Certificates, Lifetimes, begin, next_step, read, trusts
from sidecar.inject.cluster import Cluster, ClusterError, Name, Secret, Webhook, names_of
from sidecar.inject.served import Served

log = structlog.get_logger()  # `stored` names the Secret: the value of a member called "secret" is never written
_TRIES: Final = 5  # in one round, against others that write at the same moment
_CERTIFICATE_BYTES: Final = 1024 * 1024


class RotationError(SidecarError):
    """No certificate can be served as things are; the message says what to do."""

    code = "certificates"
    retryable = True


@dataclass(frozen=True, slots=True)
class Timing:
    """The clocks, the lifetimes and this replica's place among the others (see `certificates.jitter_of`)."""

    times: Lifetimes = field(default_factory=Lifetimes)
    every_s: float = 10.0  # a caBundle that somebody overwrites is put back within that
    jitter: float = 0.0
    wall: Callable[[], float] = wall
    monotonic: Callable[[], float] = monotonic


class OwnCertificates:
    """An authority of our own in a Secret. `trusted` is true as soon as the webhook has been told of it once."""

    def __init__(self, cluster: Cluster, secret: Name, webhook: str, served: Served, timing: Timing) -> None:
        self.trusted = False
        self.every_s = timing.every_s
        self._cluster, self._secret, self._webhook = cluster, secret, webhook
        self._served, self._timing = served, timing
        self._held: Certificates | None = None
        self._in_place: tuple[bytes, float] | None = None  # the bundle that the webhook has, and since when

    async def keep(self) -> None:
        """One round.

        Raises:
            ClusterError: the API server refused or is away.
            RotationError: the webhook calls no Service, or others never stopped writing.
        """
        for _ in range(_TRIES):
            if await self._round():
                return
        raise RotationError(f"{self._secret} and webhook {self._webhook}: others change them all the time; who?")

    async def _round(self) -> bool:
        """False when somebody else was quicker."""
        seen = await self._cluster.webhook(self._webhook)
        names = names_of(seen.services)
        if not names:
            raise RotationError(f"webhook {self._webhook} calls no Service: give it a clientConfig.service")
        try:
            held = await self._kept(names)
        except ClusterError:
            await self._put_back(seen)
            raise
        if held is None:
            return False
        self._held = held
        if any(bundle != held.bundle for bundle in seen.bundles.values()):
            self._in_place = None
            if not await self._cluster.trust(self._webhook, seen, held.bundle):
                return False
            log.info("inject.trusted", webhook=self._webhook)
        if self._in_place is None or self._in_place[0] != held.bundle:
            self._in_place = (held.bundle, self._timing.monotonic())
        self._serve(held)
        return True

    async def _put_back(self, seen: Webhook) -> None:
        """Without the Secret nobody knows the newest bundle: only one that makes what is served fail is replaced."""
        held = self._held
        if held is not None and not all(trusts(bundle, held.leaf) for bundle in seen.bundles.values()):
            self._in_place = None
            if await self._cluster.trust(self._webhook, seen, held.bundle):
                log.info("inject.trusted", webhook=self._webhook)

    def _serve(self, held: Certificates) -> None:
        if not trusts(held.bundle, held.leaf):
            raise RotationError(f"{self._secret}: nobody vouches for its leaf; it is replaced in the next round")
        try:
            changed = self._served.use(held.leaf, held.key, held.bundle)
        except ValueError as error:
            raise RotationError(f"{self._secret}: {error}; empty it for a new one (docs/kubernetes.md)") from None
        self.trusted = True
        if changed and self._served.facts is not None:
            log.info("inject.certificate", stored=str(self._secret), expires=rfc3339(self._served.facts.expires))

    async def _kept(self, names: Sequence[str]) -> Certificates | None:
        """The set that the Secret holds now, brought one step further where it is time; None: somebody was quicker."""
        found = await self._cluster.secret(self._secret)
        now, times = self._timing.wall(), self._timing.times
        if found is None or not any(found.data.get(name) for name in KEYS):  # installed empty: that is no trouble
            return await self._write(found, begin(names, now, times, self._held), "there was none")
        try:
            held = read(found.data)
        except ValueError as error:
            log.warning("inject.secret", stored=str(self._secret), note=f"is replaced: {error}")
            return await self._write(found, begin(names, now, times, self._held), str(error))
        settled = (
            self._in_place is not None
            and self._in_place[0] == held.bundle
            and self._timing.monotonic() - self._in_place[1] >= times.settle_s
        )
        step = next_step(held, names, now, settled=settled, times=times, jitter=self._timing.jitter)
        return held if step is None else await self._write(found, step.certificates, step.why)

    async def _write(self, old: Secret | None, new: Certificates, why: str) -> Certificates | None:
        if old is None:
            written = await self._cluster.create_secret(self._secret, new.data)
        else:
            written = await self._cluster.update_secret(self._secret, old, {**old.data, **new.data})
        if not written:
            return None
        log.info("inject.rotated", stored=str(self._secret), why=why)
        return new


class MountedCertificates:
    """Certificates that somebody else renews (cert-manager): tls.crt, tls.key and, if there, ca.crt of a folder.

    Who trusts them is that other's business. `trusted` is true as soon as they were served once.
    """

    every_s = 1.0

    def __init__(self, folder: Path, served: Served) -> None:
        self.trusted = False
        self._folder, self._served = folder, served

    async def keep(self) -> None:
        """Looks at the files and serves what changed.

        Raises:
            RotationError: they are missing or do not belong together; what is served stays.
        """
        try:
            leaf, key = self._read("tls.crt"), self._read("tls.key")
            bundle = self._read("ca.crt") if (self._folder / "ca.crt").exists() else b""
            changed = self._served.use(leaf, key, bundle)
        except OSError as error:
            raise RotationError(f"{error.filename or self._folder}: {error.strerror}; mount the Secret there") from None
        except ValueError as error:
            raise RotationError(f"{self._folder}: {error}; what is served stays") from None
        self.trusted = True
        if changed and self._served.facts is not None:
            log.info("inject.certificate", folder=str(self._folder), expires=rfc3339(self._served.facts.expires))

    def _read(self, name: str) -> bytes:
        with (self._folder / name).open("rb") as file:
            return file.read(_CERTIFICATE_BYTES)
