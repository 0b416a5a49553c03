"""A request to the sidecar itself on the traffic port, while the control plane answers it."""

from typing import Any, Protocol

from sidecar.proxy.answer import response


class Client(Protocol):
    """Its connection."""

    exchange: Any

    def write(self, data: bytes) -> None: ...
    def on_exchange_over(self, *, keep: bool) -> None: ...


class LocalCall:
    """Stands in the exchange's place while the control plane answers a request to ourselves."""

    reader = None
    reply = None

    def __init__(self, client: Client, *, keep: bool) -> None:
        self._client = client
        self._keep = keep

    def answer(self, status: int, body: bytes) -> None:
        """Writes the answer, unless the client has left meanwhile."""
        client = self._client
        if client.exchange is self:
            client.write(response(status, body, close=not self._keep))
            client.on_exchange_over(keep=self._keep)

    def on_client_lost(self, why: str = "") -> None:  # noqa: ARG002 - nobody asks
        self._client.exchange = None

    def on_client_full(self, full: bool) -> None:
        """An answer of a few bytes: nothing to slow down."""

    def on_body(self, data: bytes) -> int:
        """Never reached: the body was whole before the call began."""
        return len(data)
