"""The certificate that the traffic port shows: a pair of files that may be replaced while it serves."""

import ssl
from collections.abc import Sequence
from pathlib import Path

from sidecar.config.files import require_bounded
from sidecar.config.watch import Watch
from sidecar.core.types import Event
from sidecar.errors import ConfigError
from sidecar.tls import Shown, server_context


class Certificate:
    """`context` is for the listener, None without a pair. A handshake gets the newest pair that could be used; connections
    that are open go on. `error` says why what the files hold now is not in use, None when it is."""

    def __init__(self, cert: Path | None, key: Path | None) -> None:
        """Raises ConfigError where the pair cannot be used."""
        self.error: str | None = None
        self._pair: tuple[Path, ...] = () if cert is None or key is None else (cert, key)
        self._watch = Watch(self._pair)
        self._shown = Shown(_server_tls(*self._pair)) if self._pair else None
        self.context = None if self._shown is None else self._shown.context

    def poll(self) -> Sequence[Event]:
        """Looks whether the pair changed. Call this every second. One that cannot be used, or of which only a half has been
        replaced yet, is told once and tried again."""
        if self._shown is None or not self._watch.changed():
            return ()
        before = self.error
        try:
            self._shown.newest, self.error = _server_tls(*self._pair), None
        except ConfigError as error:
            self._watch.forget()
            self.error = f"{error}; the one before stays in use"
            return () if self.error == before else [Event(kind="file.refused", severity="high", message=self.error)]
        return [Event(kind="file.accepted", message="tls_cert: the new pair is shown from now on")]


def _server_tls(cert: Path, key: Path) -> ssl.SSLContext:
    context = server_context()
    try:
        for file in (cert, key):
            require_bounded(file)
        context.load_cert_chain(cert, key, password="")  # OpenSSL would ask for one at the terminal
    except OSError as error:
        raise ConfigError(f"tls_cert {cert}: {error}; give a readable PEM certificate and its key") from None
    return context
