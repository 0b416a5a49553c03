"""Listens for the health and the admin port: keeps few connections, and tells no log what strangers write.

The health port is open to the cluster, so that the kubelet reaches it. Connections that lie idle there would take the
descriptors that the app's calls need: when one comes beyond `MOST`, the oldest one goes. A probe or a scrape takes
milliseconds, so one that is young is let through however many others are held open.

The library would write each malformed request into its log, with the line that was wrong, which may be a credential.
Here such a request gets its 400 and nothing else; a fault of our own goes where all others go, by its kind and place.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

MOST: Final = 128  # connections of one port; a kubelet, two Prometheuses and some people need ten
_IDLE_S: Final = 75.0  # a connection that asks nothing for so long is closed; Prometheus asks each minute

OnBug = Callable[[str, BaseException], None]


def runner_of(which: str, app: web.Application, on_bug: OnBug) -> web.AppRunner:
    """The runner of a port's application, not set up yet. `on_bug` gets what its handlers let through."""
    quiet = logging.Logger(f"sidecar.{which}")  # of its own: in no hierarchy, so that nobody's handler prints it
    quiet.addHandler(_Bugs(which, on_bug))
    return web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=1.0, keepalive_timeout=_IDLE_S, logger=quiet
    )


class Door(web.SockSite):
    """One listening socket of a runner."""

    async def start(self) -> None:
        """Listens. Beyond MOST connections the oldest goes for each that comes. Raises OSError where nobody can listen."""
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None, "the runner was set up"

        def admit() -> RequestHandler:
            known = server.connections
            for oldest in known[: max(0, len(known) - MOST + 1)]:
                if oldest.transport is not None:
                    oldest.transport.abort()
            return server()

        self._server = await asyncio.get_running_loop().create_server(admit, sock=self._sock, backlog=MOST)


class _Bugs(logging.Handler):
    """Takes what the library would log."""

    def __init__(self, which: str, on_bug: OnBug) -> None:
        super().__init__(logging.ERROR)
        self._which = which
        self._on_bug = on_bug

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, HttpProcessingError):
            self._on_bug(f"{self._which} port", error)
