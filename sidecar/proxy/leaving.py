"""How a process that carries traffic stops: first what is open may end, then the rest is cut.

It knows nothing of what runs beside the traffic: who calls it stops that.
"""

import asyncio
import contextlib
from collections.abc import Iterable

from sidecar.clock import monotonic
from sidecar.proxy.plane import Plane
from sidecar.proxy.stall import waiting_bytes


async def drain(plane: Plane, cut: asyncio.Event) -> None:
    """New requests are still served until nothing, exchange or tunnel, was open or unsent for `drain_idle_s`, `drain_s` is
    over, or `cut` is set."""
    settings = plane.settings
    began = plane.last_active = monotonic()
    while monotonic() - began < settings.drain_s and not cut.is_set():
        if plane.tunnels or any(waiting_bytes(one.transport) for one in plane.connections):
            plane.last_active = monotonic()  # nobody reads what passes a tunnel: an open one counts as one in use
        if not plane.exchanges and monotonic() - plane.last_active >= settings.drain_idle_s:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(cut.wait(), 0.05)


async def end_traffic(plane: Plane, servers: Iterable[asyncio.AbstractServer]) -> None:
    """No new connection; open exchanges are cut visibly, and every connection is closed."""
    for server in servers:
        server.close()
    for exchange in list(plane.exchanges):
        exchange.on_shutdown()
    await asyncio.sleep(0)  # what was just written goes out
    for tunnel in list(plane.tunnels):
        tunnel.cut()
    for connection in list(plane.connections):
        connection.transport.abort()
    plane.stop()
