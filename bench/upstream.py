"""The bench's upstream: a raw protocol on uvloop that answers a small request or streams one, as cheaply as it can.

`python -m bench.upstream --port N` serves until it is terminated; with `--tls-port M --certificate FILE` (key and chain in
one PEM file) by TLS on port M, too. It refuses (400) a body that is not the bench's own,
so that a proxy which damages requests is found at the caller.
"""

import argparse
import asyncio
import ssl
from dataclasses import dataclass
from typing import cast

import numpy as np
import uvloop

from bench import payloads
from sidecar.clock import monotonic
from sidecar.sim.timer import ExactTimer

_REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_JITTER = 1021  # gaps are drawn once; a prime, so that streams do not march in step


def _stamp() -> int:
    return int(monotonic() * 1e9)


def _framed(*events: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


class Pace:
    """The one timer of all streams, and the table of gaps: uniform within a third of the mean on either side."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.timer = ExactTimer(loop)
        self._shares: list[float] = np.random.default_rng(7).uniform(2 / 3, 4 / 3, _JITTER).tolist()
        self._drawn = 0

    def gap_s(self, mean_s: float) -> float:
        """The next gap; 15 ms means 10 to 20 ms."""
        self._drawn = (self._drawn + 1) % _JITTER
        return mean_s * self._shares[self._drawn]


@dataclass(slots=True)
class Stream:
    """One stream on its way out. Times itself on the monotonic clock, so a late tick does not delay the next one."""

    transport: asyncio.Transport
    pace: Pace
    number: int
    read_ns: int
    gap_s: float
    chunks: int
    due: float
    sent: int = 0

    def start(self, first_s: float) -> None:
        """Head and role event at once; the first token after `first_s`, in the same write when that is 0."""
        opening = payloads.STREAM_HEAD + _framed(payloads.role_event(self.number, self.read_ns))
        if first_s > 0:
            self.transport.write(opening)
            self._later(first_s)
        else:
            self.token(opening)

    def token(self, opening: bytes = b"") -> None:
        """Writes one token, and after the last one the end of the stream."""
        if self.transport.is_closing():
            return
        event = payloads.token_event(self.number, self.read_ns, _stamp())
        self.sent += 1
        if self.sent < self.chunks:
            self.transport.write(opening + _framed(event))
            self._later(self.pace.gap_s(self.gap_s))
        else:
            end = payloads.last_events(self.number, self.read_ns, self.chunks)
            self.transport.write(opening + _framed(event, *end) + b"0\r\n\r\n")

    def _later(self, delay_s: float) -> None:
        self.due += delay_s
        self.pace.timer.at(self.due, self.token)


class Server(asyncio.Protocol):
    """One connection: whole requests in, one at a time, no pipelining."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports derive from nothing

    def data_received(self, data: bytes) -> None:
        """Answers as soon as head and body are complete."""
        received = self._rest + data if self._rest else data
        end = received.find(b"\r\n\r\n")
        found = payloads.LENGTH.search(received, 0, end + 2) if end > 0 else None
        if end < 0 or (found is not None and len(received) < end + 4 + int(found[1])):
            self._rest = received
            return
        self._rest = b""
        self._answer(received[end + 4 :])

    def _answer(self, body: bytes) -> None:
        assert self._transport is not None
        knobs = payloads.ticket(body)
        if knobs is None:
            self._transport.write(_REFUSED)
            self._transport.close()
            return
        number, first_ms, gap_ms, chunks = knobs
        if chunks == 0:
            self._transport.write(payloads.answer(number))
            return
        now = monotonic()
        stream = Stream(self._transport, self._pace, number, int(now * 1e9), gap_ms / 1e3, chunks, now)
        stream.start(first_ms / 1e3)


async def serve(port: int, secured: ssl.SSLContext | None = None) -> asyncio.Server:
    """Listens on 127.0.0.1; port 0 takes a free one."""
    loop = asyncio.get_running_loop()
    pace = Pace(loop)
    return await loop.create_server(lambda: Server(pace), "127.0.0.1", port, backlog=1024, ssl=secured)


async def _main(options: argparse.Namespace) -> None:
    if options.tls_port:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate)
        await serve(options.tls_port, context)
    server = await serve(options.port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls-port", type=int)
    parser.add_argument("--certificate", help="PEM: key and chain")
    uvloop.run(_main(parser.parse_args()))
