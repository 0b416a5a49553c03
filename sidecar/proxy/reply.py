"""The response of one exchange from its head on: how its bytes go down, and what is measured of them on the way.

Bytes pass as they came, chunk framing included. They are framed anew only where something has to come out of them (the
usage event that we asked for) or where the client cannot take the framing (HTTP/1.0).
"""

import re
from collections.abc import Callable
from typing import Final, Literal

from sidecar.errors import ProtocolError
from sidecar.proxy.gate import Way
from sidecar.wire.alike import AlikeChunks
from sidecar.wire.answer import Collector
from sidecar.wire.decode import CopyDecoder, coding_of, make_decoder
from sidecar.wire.framing import LAST_CHUNK, Chunked, chunk
from sidecar.wire.heard import HeardMeter
from sidecar.wire.http1 import RequestHead, ResponseHead, edit_response
from sidecar.wire.meter import Meter, make_meter
from sidecar.wire.usage_ask import UsageStrip

Framing = Literal["none", "length", "chunked", "close"]
_NO_BODY: Final = frozenset({204, 304})
_METERED: Final = frozenset({"chat", "completions", "responses", "messages", "generate", "embeddings"})
_LEGIBLE: Final = (
    b"application/json",
    b"text/event-stream",
    b"application/vnd.amazon.eventstream",
)  # of other endpoints: what usage may be recognised in
_STREAMS: Final = _LEGIBLE[1:]
_STORED: Final = re.compile(
    r"/(?:batches(?:/[^/]+/cancel)?|responses/[^/]+/cancel|chat/completions/[^/]+|threads/[^/]+/runs/[^/]+(?:/cancel)?)/?$"
)
MAX_ERROR_BYTES: Final = 64 * 1024  # kept of an error's body
AT_ONCE: Final = 2  # 1..64 reads of a stream; more: what may be counted only is known later, and the loop held longer
AT_ONCE_BYTES: Final = 16 * 1024  # together; a larger body is read as it comes
_REFRAMED: Final = frozenset({b"content-length", b"transfer-encoding"})
_DECHUNKED: Final = frozenset({b"transfer-encoding"})
_RETRY: Final = frozenset({b"x-should-retry"})  # an upstream's own goes when we have tried again already
_NOTHING_CUT: Final[frozenset[bytes]] = frozenset()


def _tells(path: str, content_type: bytes) -> bool:
    """Whether an answer of another endpoint may tell what the call used. One that only shows a stored answer, or ends it,
    tells again what an earlier one cost."""
    return content_type.startswith(_LEGIBLE) and not _STORED.search(path)


def framing_of(head: ResponseHead, method: bytes) -> Framing:
    """How the end of this response is found (RFC 9112 section 6.3)."""
    if method == b"HEAD" or head.status in _NO_BODY:
        return "none"
    if head.chunked:
        return "chunked"
    return "length" if head.length is not None else "close"


class Reply:
    """Built when the response's head is complete; `feed` reads its body, `measure` gets what was forwarded."""

    # Defaults stand on the class: the ordinary response sets few of its own.
    done = False  # the body is whole
    extra = False  # bytes came behind the end: whatever they are, this connection is not to be trusted again
    size = 0  # payload bytes so far
    meter: Meter | None = None
    alike: AlikeChunks | None = None  # asked first: what it takes is counted, and goes down as it says
    _left = 0
    _chunked: Chunked | None = None
    _strip: UsageStrip | None = None
    _rechunk = False  # what is taken out makes a Content-Length wrong, so a stripped body goes on as chunks
    _decoder: CopyDecoder | None = None
    _error: list[bytes] | None = None
    _cut = _NOTHING_CUT
    _framing_line = b""
    _read_at = AT_ONCE_BYTES

    def __init__(
        self,
        head: ResponseHead,
        request: RequestHead,
        way: Way,
        *,
        asked: bool,
        meter_max_bytes: int,
        collector: Collector | None = None,
    ) -> None:
        """`asked`: we asked for usage that the client had not asked for, and take it out again. `collector` keeps what
        the answer says, for those who check it."""
        self.head = head
        self.collector = collector
        self._unread: list[tuple[bytes, float]] = []
        self._meter_max_bytes = meter_max_bytes
        self.framing = framing = framing_of(head, request.method)
        if framing == "length":
            self._left = head.length or 0
            self.done = not self._left
        elif framing == "chunked":
            self._chunked = Chunked()
        elif framing == "none":
            self.done = True
        self._plain = plain = not request.minor
        events = head.fields.get(b"content-type", b"").startswith(b"text/event-stream")
        coding = coding_of(head.fields)
        if head.status >= 400:
            self._error = []
        elif request.method == b"POST" and (
            way.endpoint in _METERED
            or (way.endpoint == "other" and _tells(way.path, head.fields.get(b"content-type", b"")))
        ):
            self._open_meter(way, events, meter_max_bytes, coding)
        if asked and events and head.status == 200 and coding is None:
            self._strip = UsageStrip()
            if framing != "close":
                self._cut = _REFRAMED
            if framing != "close" and not plain:
                self._rechunk = True
                self._framing_line = b"Transfer-Encoding: chunked\r\n"
        elif head.chunked and request.method != b"HEAD" and (plain or framing == "none"):
            self._cut = _DECHUNKED  # with "none" an empty body may have come; who reads with llhttp would wait for it

    def _open_meter(self, way: Way, events: bool, limit: int, coding: str | None) -> None:
        if coding is not None:
            self._decoder = make_decoder(coding, limit)
            if self._decoder is None:
                return
        if way.form is not None:
            streamed = self.head.fields[b"content-type"].startswith(_STREAMS)
            self.meter = HeardMeter(way.form, event_stream=streamed, max_bytes=limit)
        else:
            self.meter = make_meter(
                way.endpoint, way.dialect, event_stream=events, max_bytes=limit, collector=self.collector
            )

    def head_bytes(self, add: bytes, *, close: bool) -> bytes:
        """The head for the client with `add` (whole lines) at its end."""
        cut = self._cut | _RETRY if b"x-should-retry" in add else self._cut
        line = b"connection: close\r\n" if close else b""
        head = edit_response(self.head, add + self._framing_line + line, cut=cut)
        return b"HTTP/1.1" + head[8:] if self._rechunk and not self.head.minor else head  # 1.0 knows no chunks

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """One read of the upstream: (bytes for the client, payload for the meter).

        Raises:
            ProtocolError: the chunked framing is broken.
        """
        chunked = self._chunked
        if self.alike is not None:
            self._count()
        if chunked is not None:
            payload, end = chunked.feed(data)
            self.done = chunked.done
            if end < len(data):
                self.extra = True
                data = data[:end]
            if self._strip is None and not self._plain:
                return data, payload
        elif self.framing == "length":
            left = self._left - len(data)
            if left < 0:
                self.extra = True
                data = data[:left]
                left = 0
            self._left = left
            self.done = not left
            payload = data
        elif self.framing == "close":
            payload = data
        else:
            self.extra = True
            return b"", b""
        return (payload if self._strip is None else self._stripped(self._strip, payload)), payload

    def end(self, error: Exception | None, on_bug: Callable[[str, BaseException], None]) -> bytes:
        """The upstream's connection is gone, broken where there is an `error`: what is left for the client, when that is
        how this body ends. One that broke behind the dialect's own last event was over.

        Raises:
            ProtocolError: the body is not whole.
        """
        if self.framing != "close":
            raise ProtocolError("the upstream closed the connection before the response was whole", 502)
        if error is not None:
            self.catch_up(on_bug)
            if self.meter is None or not self.meter.ended:
                raise ProtocolError("the upstream's connection broke", 502)
        self.done = True
        return self._strip.finish() if self._strip is not None else b""

    def _stripped(self, strip: UsageStrip, payload: bytes) -> bytes:
        kept = strip.feed(payload) if payload else b""
        if self.done:
            kept += strip.finish()
        if not self._rechunk:
            return kept
        return chunk(kept) + LAST_CHUNK if self.done else chunk(kept)

    def measure(self, payload: bytes, t_s: float, on_bug: Callable[[str, BaseException], None]) -> None:
        """Puts the meter's copy of a read aside: it reads AT_ONCE together, behind what is waiting to go down."""
        self.size += len(payload)
        if self.meter is None:
            if self._error is not None and self.size <= MAX_ERROR_BYTES:
                self._error.append(payload)
        elif payload:
            self._unread.append((payload, t_s))
            if len(self._unread) >= AT_ONCE or self.size >= self._read_at:
                self.catch_up(on_bug)

    def catch_up(self, on_bug: Callable[[str, BaseException], None]) -> None:
        """Lets the meter read what was put aside. A fault of the meter costs its figures, never the call."""
        if self.alike is not None:
            self._count()
        meter, decoder, unread = self.meter, self._decoder, self._unread
        if meter is None or not unread:
            return
        self._unread = []
        self._read_at = self.size + AT_ONCE_BYTES
        try:
            for payload, t_s in unread:
                copy = payload if decoder is None else decoder.feed(payload)
                if copy:
                    meter.feed(copy, t_s)
        except Exception as error:  # noqa: BLE001 - see the docstring
            self.meter = None
            on_bug("meter", error)
        else:
            self._know(meter)

    def _know(self, meter: Meter) -> None:
        """What is next may be one more event like those before: then there is nothing to do but to count it."""
        alike, chunked = meter.alike, self._chunked
        if alike is None or chunked is None or not chunked.fresh or self._plain or self._decoder is not None:
            return
        kept = alike.tail if self._strip is None else self._strip.kept_of(alike)
        if kept is not None:
            self.alike = AlikeChunks(alike, kept)

    def _count(self) -> None:
        """Something else than another such event comes: the meter learns of those that came."""
        alike, self.alike = self.alike, None
        if alike is not None and self.meter is not None:
            self.meter.count(alike.times, alike.events, alike.text_bytes)
            self.size += alike.payload_bytes

    @property
    def ends_with_connection(self) -> bool:
        """Whether the client knows the end of this body by the end of its connection."""
        return self.framing == "close"

    @property
    def reusable(self) -> bool:
        """Whether its connection is clean behind it, and the upstream keeps it."""
        return self.head.keep_alive and self.framing != "close" and not self.extra

    @property
    def readable(self) -> bool:
        """Whether the meter saw the whole body: not too large for it, and decoded without a fault."""
        return self.size <= self._meter_max_bytes and (self._decoder is None or not self._decoder.failed)

    @property
    def stripped(self) -> bool:
        """Whether anything of ours was taken out of this response."""
        return self._strip is not None and self._strip.changed

    @property
    def error_body(self) -> bytes:
        """The beginning of an error's body, to tell whose fault it was; never stored."""
        return b"".join(self._error or ())
