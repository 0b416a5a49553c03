"""Connections of the load generator: one that asks for small answers, one that reads streams. Both check every byte."""

import asyncio
from collections.abc import Callable
from typing import cast

from bench import payloads
from bench.job import SPREAD, Job
from bench.reader import StreamReader
from sidecar.clock import monotonic


class Call(asyncio.Protocol):
    """A connection that asks for one small answer at a time and verifies it."""

    __slots__ = ("_done", "_number", "_rest", "due", "transport")

    def __init__(self, done: "Callable[[Call, float, str], None]") -> None:
        self._done = done
        self._rest = b""
        self._number = -1
        self.due = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports derive from nothing

    def ask(self, number: int, due: float, port: int) -> None:
        """Sends request `number`, which was due at `due`."""
        assert self.transport is not None
        self._number = number
        self.due = due
        self.transport.write(payloads.request(number, port))

    def data_received(self, data: bytes) -> None:
        now = monotonic()
        received = self._rest + data if self._rest else data
        wrong = payloads.verify(received, self._number)
        if wrong is None:
            self._rest = received
            return
        self._rest = b""
        self._number = -1
        self._done(self, now, wrong)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        if self._number >= 0:
            self._number = -1
            self._done(self, monotonic(), "connection lost")


class StreamCall(asyncio.Protocol):
    """A connection that reads one stream at a time."""

    __slots__ = ("_done", "reader", "sent_at", "transport")

    def __init__(self, done: "Callable[[StreamCall], None]") -> None:
        self._done = done
        self.reader: StreamReader | None = None
        self.sent_at = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports derive from nothing

    def ask(self, number: int, job: Job, chunks: int) -> None:
        """Asks for a stream of `chunks` tokens."""
        assert self.transport is not None
        first_ms = number * 137 % 501 if job.first_ms == SPREAD else job.first_ms
        self.reader = StreamReader(number, chunks)
        self.sent_at = monotonic()
        self.transport.write(payloads.stream_request(number, job.port, first_ms, job.gap_ms, chunks))

    def data_received(self, data: bytes) -> None:
        if self.reader is None:
            return
        self.reader.feed(data, monotonic())
        if self.reader.done or self.reader.error:
            self._done(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        if self.reader is not None and not self.reader.done and not self.reader.error:
            self.reader.error = "connection lost"
            self._done(self)
