"""What is fuzzed of the wire and of the policy loader, and what must hold whatever the bytes are.

Each function takes the bytes and raises AssertionError, or what it should not raise, when a promise is broken. The promises
are those of the docstrings: only the named exceptions, the same result however the bytes were cut, and edits that change
what they name.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, cast, get_args

import msgspec
import orjson

from sidecar.config.policy import load_text
from sidecar.core.types import Dialect, Endpoint
from sidecar.errors import ConfigError, ProtocolError
from sidecar.wire.answer import Collector, read_answer
from sidecar.wire.asked import read_asked
from sidecar.wire.confidence import confidence
from sidecar.wire.conversation import last_user_text, texts_of
from sidecar.wire.decode import make_decoder
from sidecar.wire.eventstream import BadFrame, EventStreamParser
from sidecar.wire.framing import Chunked
from sidecar.wire.heard import HeardMeter
from sidecar.wire.http1 import edit_response, parse_request, parse_request_fully, parse_response, split_at_length
from sidecar.wire.json_edit import edit_request
from sidecar.wire.meter import caller_fault, make_meter
from sidecar.wire.needs import needs_of
from sidecar.wire.neutral import Format
from sidecar.wire.places import place_of, place_under
from sidecar.wire.request_view import SlicedReader, read_request
from sidecar.wire.sse import SseParser
from sidecar.wire.system_prompt import edit_system
from sidecar.wire.target import any_model_in, asks_array, has_dot_segment, join_target, path_segment, without
from sidecar.wire.usage_ask import UsageStrip, refuses_usage
from sidecar.wire.validators_schema import satisfies

_ENDPOINTS: Final = get_args(Endpoint)
_DIALECTS: Final = get_args(Dialect)
_FORMATS: Final = get_args(Format)
_PREFIXES: Final = ("", "/v1", "/tenant/a", "/v1/projects/p/locations/l/publishers/google", "/az/openai/v1")
_MAX: Final = 1 << 20


class _Feeds(Protocol):
    def feed(self, data: bytes) -> Any: ...  # noqa: ANN401 - of each parser its own


def pieces(data: bytes) -> Iterator[bytes]:
    """The bytes in reads of odd sizes, which the bytes themselves say."""
    at, step = 0, 1 + len(data) % 7
    while at < len(data):
        yield data[at : at + step]
        at, step = at + step, 1 + (data[at] * 7 + step) % 101


def _events(parser: _Feeds, reads: Iterator[bytes] | list[bytes]) -> tuple[list[object], bool]:
    """All events, and whether the parser gave the stream up."""
    found: list[object] = []
    try:
        for read in reads:
            found += parser.feed(read)
    except BadFrame:
        return found, True
    return found, False


def head(data: bytes) -> None:
    """The two parsers of request heads agree, and what goes up is one head that says the same."""
    data = data.lstrip(b"\r\n")  # as the connection does (RFC 9112 2.2)
    end = data.find(b"\r\n\r\n")
    if end < 0:
        assert parse_request(data) is None
        return
    hot = parse_request(data)
    try:
        full = parse_request_fully(data[: end + 4])
    except ProtocolError:
        assert hot is None, "the hot parser takes what the complete one refuses"
        return
    assert hot is None or hot == full
    host = b"" if b"host" in full.fields else b"host: up.example\r\n"
    before, after = split_at_length(full, target=full.target, replace={b"host": b"up.example"}, add=host)
    sent = before + b"%d" % (full.length or 0) + after if after else before
    again = parse_request_fully(sent)
    assert (again.method, again.target, again.length, again.chunked) == (
        full.method, full.target, full.length, full.chunked)  # fmt: skip
    assert again.fields[b"host"] == b"up.example"
    assert not {b"expect", b"upgrade", b"connection", b"te"} & again.fields.keys()


def answer_head(data: bytes) -> None:
    """A head of an answer is read or refused; what goes down is one that reads the same."""
    with suppress(ProtocolError):
        found = parse_response(data)
        if found is None:
            return
        sent = edit_response(found, b"x-a: 1\r\n")
        again = parse_response(sent)
        assert again is not None
        assert again.raw == sent
        assert (again.status, again.length, again.chunked) == (found.status, found.length, found.chunked)


def chunked(data: bytes) -> None:
    """The payload of a chunked body does not depend on the reads, nor does its end."""

    def read(reads: list[bytes]) -> tuple[bytes, int, bool] | None:
        body, payload, used = Chunked(), b"", 0
        try:
            for one in reads:
                if body.done:
                    break
                got, end = body.feed(one)
                payload, used = payload + got, used + end
        except ProtocolError:
            return None
        return payload, used, body.done

    assert read([data] if data else []) == read(list(pieces(data)))


def sse(data: bytes) -> None:
    """Events do not depend on the reads."""
    whole, cut = SseParser(256), SseParser(256)
    assert _events(whole, [data])[0] == _events(cut, pieces(data))[0]
    assert whole.overflow == cut.overflow


def eventstream(data: bytes) -> None:
    """Frames do not depend on the reads; only BadFrame comes."""
    assert _events(EventStreamParser(4096), [data])[1] == _events(EventStreamParser(4096), pieces(data))[1]


class _Asking(msgspec.Struct):
    stream_options: msgspec.Raw = msgspec.Raw(b"")


def json_edit(data: bytes) -> None:
    """Both readers agree; an edited body is JSON that differs in what was named."""
    view = read_request(data)
    slices = SlicedReader(data, needs=True)
    while not slices.step(64):
        pass
    needs_of(data)
    if view is None:
        return  # the other one does not look inside values
    layout = slices.view
    assert layout is not None, "the two readers do not agree"
    assert msgspec.structs.replace(layout, layout=None, needs=None) == view
    new = edit_request(data, model="new", params=(("temperature", b"0.5"),), ask_usage=True, view=view)
    assert new == edit_request(data, model="new", params=(("temperature", b"0.5"),), ask_usage=True, view=layout)
    after = read_request(new)
    assert after is not None
    said = bytes(msgspec.json.decode(new, type=_Asking).stream_options)  # of another type it goes up as it is
    assert (after.model, after.include_usage) == ("new", True if said.startswith(b"{") else view.include_usage)
    assert (after.stream, after.tools, after.conversation) == (view.stream, view.tools, view.conversation)


def request_texts(data: bytes) -> None:
    """Whatever a request is, its texts, tools and prompts are found or not; a changed prompt leaves JSON."""
    view = read_request(data)
    texts_of(data, view)
    last_user_text(data, view=view)
    for endpoint in _ENDPOINTS:
        read_asked(data, endpoint)
        edited = edit_system(data, endpoint, lambda old: old[:10] + "be brief")
        if edited is not None and view is not None:
            assert read_request(edited[0]) is not None, "the edit broke the body"


def usage(data: bytes) -> None:
    """Meters of every endpoint and format: nothing is raised, counts are not negative, reads do not matter to a body."""
    endpoint = cast("Endpoint", _ENDPOINTS[data[0] % len(_ENDPOINTS)] if data else "chat")
    dialect = cast("Dialect", _DIALECTS[len(data) % 3])
    form = cast("Format", _FORMATS[data[0] % len(_FORMATS)] if data else "chat")
    body = data[1:]
    for stream in (False, True):
        read = [make_meter(endpoint, dialect, event_stream=stream, max_bytes=_MAX, collector=Collector(endpoint)),
                HeardMeter(form, event_stream=stream, max_bytes=_MAX)]  # fmt: skip
        for meter in read:
            for number, one in enumerate(pieces(body)):
                meter.feed(one, float(number))
            found = meter.finish().usage
            counts = [] if found is None else [found.input_tokens, found.output_tokens, found.reasoning_tokens]
            assert all(count is None or count >= 0 for count in counts), found
    caller_fault(400, body)
    refuses_usage(400, body)
    read_answer(body, endpoint)
    confidence(body)


def usage_strip(data: bytes) -> None:
    """What is taken out of a stream does not depend on the reads, and what is left is in it, in order."""
    whole, cut = UsageStrip(), UsageStrip()
    one = whole.feed(data) + whole.finish()
    two = b"".join([*(cut.feed(read) for read in pieces(data)), cut.finish()])
    assert one == two or whole.changed or cut.changed, "bytes were lost without a change"
    if not whole.changed:
        assert one == data


def target(data: bytes) -> None:
    """No target climbs over a prefix, and none raises anything but ProtocolError."""
    text = data.decode("latin-1")
    place = place_of(text.partition("?")[0])
    any_model_in(data)
    asks_array(data)
    without(data, frozenset({b"key"}))
    with suppress(ProtocolError):
        assert b"/" not in path_segment(text)
    for prefix in _PREFIXES:
        for join in (join_target,) if place is None else (join_target, place_under):
            with suppress(ProtocolError):
                joined = join(prefix, data)
                assert prefix in ("", "/v1") or data.startswith(b"/openai/") or not has_dot_segment(joined)


def decode(data: bytes) -> None:
    """A packed answer is opened within bounds, or given up."""
    packed = (data, gzip.compress(data, 1), zlib.compress(data, 1))
    for coding in ("gzip", "deflate", "br", "zstd", "gzip, deflate"):
        for one in packed:
            decoder = make_decoder(coding, 4096)
            if decoder is not None:
                assert sum(len(decoder.feed(read)) for read in (one[: len(one) // 2], one[len(one) // 2 :])) <= 4096


def schema(data: bytes) -> None:
    """A stranger's schema against a stranger's text: an answer or none, within its steps."""
    told, _, text = data.partition(b"\0")
    for openapi in (False, True):
        assert satisfies(told, text.decode("utf-8", "replace"), openapi=openapi) in (None, 0.0, 1.0)


def policy(data: bytes) -> None:
    """A policy is loaded or refused with what is wrong."""
    with suppress(ConfigError):
        load_text(data.decode("utf-8", "replace"), Path("p.yaml"), {})


def problem_bodies(data: bytes) -> bytes:
    """What an error's body may be: the bytes, or JSON with them in it."""
    return data if len(data) % 2 else orjson.dumps({"error": {"message": data.decode("latin-1")}})


WIRE: Final[dict[str, Callable[[bytes], None]]] = {
    "head": head, "answer-head": answer_head, "chunked": chunked, "sse": sse, "eventstream": eventstream,
    "json-edit": json_edit, "request-texts": request_texts, "usage": usage, "usage-strip": usage_strip, "target": target,
    "decode": decode, "schema": schema, "policy": policy,
}  # fmt: skip
