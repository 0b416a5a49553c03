"""The response of one exchange from its head on: how it goes down, and what is measured of it on the way."""

from collections.abc import Callable
from typing import Final

from sidecar.proxy.gate import Way
from sidecar.proxy.response import ResponseBody, framing_of
from sidecar.wire.decode import CopyDecoder, make_decoder
from sidecar.wire.http1 import RequestHead, ResponseHead, edit_response
from sidecar.wire.meter import Meter, make_meter
from sidecar.wire.usage_ask import UsageStrip

_METERED: Final = frozenset({"chat", "completions", "responses", "messages", "embeddings"})
_MAX_ERROR_BYTES: Final = 64 * 1024
_REFRAMED: Final = frozenset({b"content-length", b"transfer-encoding"})
_DECHUNKED: Final = frozenset({b"transfer-encoding"})
_NOTHING_CUT: Final[frozenset[bytes]] = frozenset()


class Reply:
    """Built when the response's head is complete. Its body is read by `body.feed`; `measure` gets what was forwarded."""

    __slots__ = ("_cut", "_decoder", "_error", "_framing_line", "body", "head", "meter", "size")

    def __init__(
        self, head: ResponseHead, request: RequestHead, way: Way, *, asked: bool, meter_max_bytes: int
    ) -> None:
        """`asked`: we asked for usage that the client had not asked for, and take it out again."""
        self.head = head
        self.size = 0  # payload bytes so far
        self.meter: Meter | None = None
        self._error: list[bytes] | None = None
        self._decoder: CopyDecoder | None = None
        self._cut = _NOTHING_CUT
        self._framing_line = b""
        framing = framing_of(head, request.method)
        plain = not request.minor
        fields = head.fields
        events = fields.get(b"content-type", b"").lower().startswith(b"text/event-stream")
        encoding = fields.get(b"content-encoding")
        strip = UsageStrip() if asked and events and head.status == 200 and encoding is None else None
        self.body = ResponseBody(head, framing, strip=strip, plain=plain)
        if plain and framing == "chunked":
            self._cut = _DECHUNKED
        elif strip is not None and framing != "close" and not plain:
            self._cut = _REFRAMED
            self._framing_line = b"Transfer-Encoding: chunked\r\n"
        if head.status >= 400:
            self._error = []
        elif way.endpoint in _METERED and request.method == b"POST":
            if encoding is not None:
                self._decoder = make_decoder(encoding.decode("latin-1"), meter_max_bytes)
            if encoding is None or self._decoder is not None:
                self.meter = make_meter(way.endpoint, way.dialect, event_stream=events, max_bytes=meter_max_bytes)

    def head_bytes(self, add: bytes, *, close: bool) -> bytes:
        """The head for the client with `add` (whole lines) at its end."""
        line = b"connection: close\r\n" if close else b""
        return edit_response(self.head, add + self._framing_line + line, cut=self._cut)

    def measure(self, payload: bytes, t_s: float, on_bug: Callable[[str, BaseException], None]) -> None:
        """Gives the meter its copy. A fault of the meter costs its figures, never the call."""
        self.size += len(payload)
        if self._error is not None:
            if self.size <= _MAX_ERROR_BYTES:
                self._error.append(payload)
            return
        meter = self.meter
        if meter is None:
            return
        try:
            if self._decoder is not None:
                payload = self._decoder.feed(payload)
            if payload:
                meter.feed(payload, t_s)
        except Exception as error:  # noqa: BLE001 - see the docstring
            self.meter = None
            on_bug("meter", error)

    @property
    def error_body(self) -> bytes:
        """The beginning of an error's body, to tell whose fault it was; never stored."""
        return b"".join(self._error or ())
