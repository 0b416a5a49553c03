"""What a listener of ours shows in TLS handshakes, and how that is replaced while it listens."""

import ssl


def server_context() -> ssl.SSLContext:
    """For servers: TLS 1.2 or newer, without a certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Shown:
    """`context` is for the listener. New handshakes get the chain of `newest`, connections that are open go on.

    The chain is not loaded into `context` itself: beside one of another kind of key the former would be shown, too.
    """

    def __init__(self, first: ssl.SSLContext) -> None:
        self.context = self.newest = first
        self.context.sni_callback = self._show  # called at each handshake, also where no name is asked for

    def _show(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = self.newest
