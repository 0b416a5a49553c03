"""After a 101 on /v1/realtime: bytes pass both ways, unread, with backpressure, until either side closes."""

import asyncio
from collections.abc import Callable

from sidecar.proxy.dial import DialError
from sidecar.proxy.stall import Stall
from sidecar.proxy.upstream import LEAVE_S, UpstreamConnection


class Tunnel:
    """Rides on the upstream's connection in place of the exchange that opened it, and counts as open until both sides have
    what was said, or will never have it."""

    def __init__(
        self,
        open_ones: "set[Tunnel]",
        client: asyncio.Transport,
        connection: UpstreamConnection,
        close: Callable[[], None],
        set_reading: Callable[[bool], None],
    ) -> None:
        """It stands among `open_ones` while it is open. `close` closes the client's side behind what was written;
        `set_reading` stops and starts its reading."""
        open_ones.add(self)
        self.all_said = False  # the client has closed its side
        self._open_ones = open_ones
        self._client = client
        self._set_reading = set_reading
        self._close_client = close
        self._connection = connection
        connection.carry(self)

    def from_client(self, data: bytes) -> None:
        if not self._connection.closed:
            self._connection.transport.write(data)

    def client_full(self, full: bool) -> None:
        """The client reads slowly, or does no longer."""
        if self._connection.closed:
            return
        if full:
            self._connection.set_reading(False)
        else:
            self._connection.set_reading(True)

    def close(self) -> None:
        """The client is gone; where it had closed its side in order, what it said before still goes up."""
        if self.all_said:
            self._connection.leave(self._over)
        else:
            self._connection.close()
            self._over()

    def patience(self, now: float) -> Stall:
        """With an upstream that has to read what a client said that has left."""
        return Stall(self._connection.transport, LEAVE_S, now)

    def cut(self) -> None:
        """Ends both sides at once, whatever was not sent yet."""
        self._client.abort()
        self._connection.transport.abort()

    def _over(self) -> None:
        self._open_ones.discard(self)

    def on_connection(self, connection: UpstreamConnection) -> None:
        """Never called: a tunnel has its connection from the start."""

    def on_no_connection(self, error: DialError) -> None:
        """Never called: a tunnel waits in no queue."""

    def on_upstream_data(self, data: bytes) -> None:
        self._client.write(data)

    def on_upstream_lost(self, error: Exception | None) -> None:
        del error
        self._close_client()

    def on_upstream_full(self, full: bool) -> None:
        """The upstream reads slowly, or does no longer."""
        self._set_reading(not full)
