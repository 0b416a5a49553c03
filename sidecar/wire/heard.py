"""Meters answers of formats that only upstreams speak (Cohere, Bedrock) where their own clients ask: by their spokes.

The answer passes byte for byte; what the spoke reads of the copy is for the meter alone. What cannot be read is unknown.
"""

from typing import Any, Final

import orjson
from msgspec.structs import replace

from sidecar.errors import TranslationError
from sidecar.wire.eventstream import BadFrame, EventStreamParser
from sidecar.wire.meter import reading_of
from sidecar.wire.neutral import Event, Format
from sidecar.wire.reading import Reading, loads
from sidecar.wire.spokes import SPOKES
from sidecar.wire.sse import SseParser
from sidecar.wire.told import Listener, ToldMeter, piece_of_whole

_UNREADABLE: Final = (orjson.JSONDecodeError, TranslationError, RecursionError)


class HeardMeter(ToldMeter):
    """One answer. `max_bytes` bounds a whole body, or one event of a stream."""

    def __init__(self, form: Format, *, event_stream: bool, max_bytes: int) -> None:
        super().__init__(max_bytes)
        spoke = SPOKES[form]
        self._form = form
        self._streamed = event_stream
        self._room = max_bytes
        self._parts: list[bytes] = []
        self._frames = (SseParser if spoke.framing == "sse" else EventStreamParser)(max_bytes)
        self._reader = spoke.stream_reader()
        self._listener = Listener()

    def feed(self, data: bytes, t_s: float) -> None:
        """One read of the decoded answer, which arrived at `t_s`."""
        if self._room < 0:
            return
        if not self._streamed:
            self._room -= len(data)
            self._parts.append(data)
            return
        events: list[Event] = []
        try:
            for one in self._frames.feed(data):
                events += self._reader.feed(one)
        except (BadFrame, RecursionError):
            self._room = -1
        pieces = self._listener.pieces(events)
        if pieces:
            self.take(pieces, t_s, streamed=True)

    def finish(self) -> Reading:
        """What was seen until now; an empty reading where a whole answer was too large or cannot be read."""
        if self._streamed:
            return super().finish()
        body = b"" if self._room < 0 else b"".join(self._parts)
        try:
            return self._whole_of(loads(body))
        except _UNREADABLE:
            return Reading()

    def _whole_of(self, value: Any) -> Reading:  # noqa: ANN401 - whatever JSON holds
        meta = value.get("meta") if self._form == "cohere" and isinstance(value, dict) else None
        if not isinstance(meta, dict):
            return reading_of(piece_of_whole(SPOKES[self._form].read_response(value)))
        from sidecar.wire.spokes.cohere.answer import read_usage  # not before there is such an answer

        usage = read_usage(meta)  # embeddings and ranks: nothing is generated, so 0 is known where the input is
        known = None if usage is None or usage.input_tokens is None else replace(usage, output_tokens=0)
        return Reading(usage=known, terminal=True)
