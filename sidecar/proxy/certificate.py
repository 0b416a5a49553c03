"""The certificate that the traffic port shows: a pair of files that may be replaced while it serves."""

import ssl
from collections.abc import Sequence
from pathlib import Path

from sidecar.config.files import require_bounded
from sidecar.config.watch import Watch
from sidecar.core.types import Event
from sidecar.errors import ConfigError


class Certificate:
    """`context` is for the listener, None without a pair. A handshake gets the newest pair that could be used; connections
    that are open go on. `error` says why what the files hold now is not in use, None when it is."""

    def __init__(self, cert: Path | None, key: Path | None) -> None:
        """Raises ConfigError where the pair cannot be used."""
        self.error: str | None = None
        self.context: ssl.SSLContext | None = None
        self._pair: tuple[Path, ...] = () if cert is None or key is None else (cert, key)
        self._watch = Watch(self._pair)
        if self._pair:
            self.context = self._newest = _server_tls(*self._pair)
            self.context.sni_callback = self._show  # called at each handshake, also where no name is asked for

    def poll(self) -> Sequence[Event]:
        """Looks whether the pair changed. Call this every second. One that cannot be used, or of which only a half has been
        replaced yet, is told once and tried again."""
        if not self._watch.changed():
            return ()
        before = self.error
        try:
            self._newest, self.error = _server_tls(*self._pair), None
        except ConfigError as error:
            self._watch.forget()
            self.error = f"{error}; the one before stays in use"
            return () if self.error == before else [Event(kind="file.refused", severity="high", message=self.error)]
        return [Event(kind="file.accepted", message="tls_cert: the new pair is shown from now on")]

    def _show(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """In a context of its own: beside a new pair of another kind of key the former would be shown, too."""
        handshake.context = self._newest


def _server_tls(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        for file in (cert, key):
            require_bounded(file)
        context.load_cert_chain(cert, key, password="")  # OpenSSL would ask for one at the terminal
    except OSError as error:
        raise ConfigError(f"tls_cert {cert}: {error}; give a readable PEM certificate and its key") from None
    return context
