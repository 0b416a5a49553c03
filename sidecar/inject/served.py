"""The certificate that the webhook's port serves: a TLS context whose chain is replaced, never taken away.

New handshakes get the new chain, connections that are open go on. A chain that cannot be used changes nothing.
"""

import os
import ssl

from sidecar.inject.certificates import Facts, facts
from sidecar.tls import Shown, server_context


class Served:
    """`context` is for the listener; `facts` tells of its chain, None before the first; `rotations` counts changes."""

    def __init__(self) -> None:
        self._shown = Shown(_empty())
        self.context = self._shown.context
        self.facts: Facts | None = None
        self.rotations = 0
        self._in_use: tuple[bytes, bytes, bytes] | None = None

    def use(self, leaf: bytes, key: bytes, bundle: bytes) -> bool:
        """Serves this chain (PEM) from the next handshake on; False when it is the one in use. `bundle` is for `facts`.

        Raises:
            ValueError: the chain and the key cannot be served; the message holds neither.
        """
        new = (leaf, key, bundle)
        if new == self._in_use:
            return False
        try:
            told = facts(leaf, bundle)
            same = self._in_use is not None and self._in_use[:2] == (leaf, key)
            if not same:
                context = _empty()
                _load(context, leaf, key)
                self._shown.newest = context
        except ssl.SSLError as error:
            raise ValueError(f"certificate and key cannot be served ({error.reason or 'no PEM'})") from None
        self.rotations += self._in_use is not None and not same
        self.facts, self._in_use = told, new
        return not same


def _empty() -> ssl.SSLContext:
    context = server_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(context: ssl.SSLContext, leaf: bytes, key: bytes) -> None:
    """`ssl` reads files only: this one has no name and lies in memory, so that no key touches a disk."""
    descriptor = os.memfd_create("chain", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(leaf.rstrip() + b"\n" + key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
