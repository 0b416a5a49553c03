"""HTTP/1.1 heads as the bytes that came: found, checked, and edited only in the lines that must change.

Two parsers give one value, `RequestHead`. The hot one is a single strict regular expression (a subset of RFC 9112) over the
head; whatever it does not match goes to the complete one, which has llhttp judge the same bytes. Neither builds a header
list: the few fields that we act on are found by offset in the block, every other byte is never looked at again. A
differential test holds the two together: what the hot one accepts, the complete one accepts with an equal result.

References: RFC 9110 (semantics; 7.6.1 hop-by-hop), RFC 9112 (syntax; 6.3 message length, 11.2 smuggling).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import httptools
from msgspec import Struct

from sidecar.errors import ProtocolError

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_FIELD = rb"(?:" + _TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)"
# No backtracking: a hostile head costs what a kind one costs. A group that repeats is atomic, not possessive: where one of
# those fails half-way Python 3.11.2, which is Debian 12's, does not go back (3.11.7 does).
_HOT_REQUEST: Final = re.compile(
    rb"(GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS) (/[A-Za-z0-9\-._~!$&'()*+,;=:@/%?]*+) HTTP/1\.1(\r\n)"
    + rb"(?>"
    + _FIELD
    + rb"+)\r\n"
)
_HOT_RESPONSE: Final = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*+)?(\r\n)(?>" + _FIELD + rb"*)\r\n"
)
_ODD_RESPONSE: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*+)?(\r\n)(?>" + _FIELD + rb"*)\r\n"
)

_HOP_BY_HOP = (
    rb"connection|keep-alive|proxy-connection|proxy-authenticate|proxy-authorization|te|upgrade|http2-settings"
)
_REQUEST_FIELDS: Final = re.compile(
    rb"\n(host|content-length|content-type|content-encoding|transfer-encoding|expect|accept-encoding|origin|sec-fetch-site"
    rb"|authorization|x-api-key|api-key|x-goog-api-key|ocp-apim-subscription-key|anthropic-version|traceparent|sec-websocket-protocol|x-sidecar-[!#$%&'*+\-.^_`|~0-9a-z]+|"
    + _HOP_BY_HOP
    + rb"):[\t ]*([^\r]*)\r"
)
_RESPONSE_FIELDS: Final = re.compile(
    rb"\n(content-length|content-type|content-encoding|transfer-encoding|x-should-retry"
    rb"|x-gemini-service-tier|x-sidecar-[!#$%&'*+\-.^_`|~0-9a-z]+|" + _HOP_BY_HOP + rb"):[\t ]*([^\r]*)\r"
)
_STATUS: Final = {b"%d" % status: status for status in range(200, 600)}  # int() of bytes costs five times as much
_NAME: Final = re.compile(_TOKEN + rb"+")
_HOP_NAMES: Final = frozenset(_HOP_BY_HOP.split(b"|"))
_MAX_LENGTH_DIGITS: Final = 18  # fits 64 bits
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_LENGTH_FIELDS: Final = frozenset({b"content-length", b"transfer-encoding"})
_ONCE: Final = _LENGTH_FIELDS | {b"host", b"expect", b"content-encoding"}
_END_TO_END: Final = frozenset(  # of the fields of a response that we look at: they stay unless they are to be cut
    {
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"transfer-encoding",
        b"x-should-retry",
        b"x-gemini-service-tier",
    }
)
_SIMPLE_CONNECTION: Final = frozenset({b"", b"keep-alive", b"close"})


class RequestHead(Struct, gc=False):
    """A checked request head. `raw` is every byte of it, blank line included; spans are offsets into `raw`.

    `fields` holds the fields that we act on (lower-case name to value as sent), `spans` their whole lines in order.
    """

    raw: bytes
    method: bytes
    target: bytes
    block: int  # where the first field line begins
    minor: int  # HTTP/1.minor
    length: int | None  # of the body; None when there is no Content-Length
    length_span: tuple[int, int]  # its digits; (0, 0) when there is none
    chunked: bool
    keep_alive: bool
    fields: dict[bytes, bytes]
    spans: list[tuple[bytes, int, int]]
    nominated: frozenset[bytes] = frozenset()  # fields that Connection names (RFC 9110 7.6.1)
    spent: bool = False  # its credential was meant for us, and goes no further
    protocols: bytes | None = None  # what goes on of its Sec-WebSocket-Protocol, where a part of that was meant for us


class ResponseHead(Struct, gc=False):
    """A checked response head; the same conventions as RequestHead."""

    raw: bytes
    status: int
    block: int
    minor: int
    length: int | None
    chunked: bool
    keep_alive: bool
    fields: dict[bytes, bytes]
    nominated: frozenset[bytes] = frozenset()


def field_names(*names: bytes) -> re.Pattern[bytes]:
    """What `fields_of` looks for; lower-case names."""
    return re.compile(rb"\n(" + b"|".join(re.escape(name) for name in names) + rb"):[\t ]*([^\r]*)\r")


def fields_of(head: RequestHead | ResponseHead, names: re.Pattern[bytes]) -> dict[bytes, bytes]:
    """Fields that the parsers do not look for, by lower-case name, with their values as sent; of a repeated one the last."""
    raw = head.raw
    found = names.finditer(raw.lower(), head.block - 1)
    return {match[1]: raw[match.start(2) : match.end(2)].rstrip(b"\t ") for match in found}


def parse_request(data: bytes) -> RequestHead | None:
    """The hot path: the head of an ordinary request at the start of `data`, or None (incomplete, or not ordinary)."""
    match = _HOT_REQUEST.match(data)
    if match is None:
        return None
    block = match.end(3)
    raw = data[: match.end()]
    fields, spans, repeated = _find(_REQUEST_FIELDS, raw, block)
    if (
        repeated
        or b"," in fields.get(b"host", b",")
        or b"transfer-encoding" in fields
        or b"expect" in fields
        or b"upgrade" in fields
    ):
        return None
    connection = fields.get(b"connection", b"").lower()
    if connection not in _SIMPLE_CONNECTION:
        return None
    length, length_span = None, (0, 0)
    if b"content-length" in fields:
        value = fields[b"content-length"]
        if _DIGITS.fullmatch(value) is None:
            return None
        length, length_span = int(value), _value_span(raw, spans, b"content-length")
    return RequestHead(
        raw=raw,
        method=match[1],
        target=match[2],
        block=block,
        minor=1,
        length=length,
        length_span=length_span,
        chunked=False,
        keep_alive=connection != b"close",
        fields=fields,
        spans=spans,
    )


def parse_request_fully(raw: bytes) -> RequestHead:
    """The complete path: any head that llhttp accepts in strict mode. `raw` ends with the blank line.

    Raises:
        ProtocolError: 400 for a head that RFC 9112 does not allow or that could be read in two ways.
    """
    parser = _Judge(raw)
    block = raw.index(b"\r\n") + 2
    fields, spans, repeated = _find(_REQUEST_FIELDS, raw, block)
    target, version = raw[: block - 2].split(b" ")[1:3]
    if not version.startswith(b"HTTP/"):
        raise ProtocolError("this is not an HTTP/1.1 request head")  # llhttp knows RTSP and ICE too
    if parser.method == "CONNECT" or not (target.startswith(b"/") or (target == b"*" and parser.method == "OPTIONS")):
        raise ProtocolError("the request target must begin with '/': this is no forward proxy")
    if not repeated.isdisjoint(_ONCE):
        raise ProtocolError("a header that may occur once is repeated")
    if (b"host" not in fields and parser.minor) or b"," in fields.get(b"host", b""):
        raise ProtocolError("exactly one Host header is needed")
    chunked = _chunked(fields, parser.minor)
    assert not (chunked and b"content-length" in fields), "llhttp refuses both lengths together"
    length, length_span = None, (0, 0)
    if b"content-length" in fields:
        if _DIGITS.fullmatch(fields[b"content-length"]) is None:
            raise ProtocolError("Content-Length must be a number")
        length, length_span = int(fields[b"content-length"]), _value_span(raw, spans, b"content-length")
    keep_alive, nominated = _connection(raw, block, fields, parser.minor, several=b"connection" in repeated)
    return RequestHead(
        raw=raw,
        method=parser.method.encode(),
        target=target,
        block=block,
        minor=parser.minor,
        length=length,
        length_span=length_span,
        chunked=chunked,
        keep_alive=keep_alive,
        fields=fields,
        spans=spans,
        nominated=nominated,
    )


def parse_response(data: bytes) -> ResponseHead | None:
    """The head of the response at the start of `data`; None while it is incomplete. Values in `fields` are lower-case.

    Raises:
        ProtocolError: it is complete and not HTTP/1.x as RFC 9112 has it, or its length could be read in two ways.
    """
    match = _HOT_RESPONSE.match(data)
    if match is None:
        return _parse_odd_response(data)
    raw = match[0]
    block = match.end(2)
    found = _RESPONSE_FIELDS.findall(raw.lower(), block - 1)
    fields: dict[bytes, bytes] = dict(found)
    if len(fields) != len(found):
        return _parse_odd_response(data)
    coding = fields.get(b"transfer-encoding")
    length = fields.get(b"content-length")
    connection = fields.get(b"connection", b"")
    if (
        connection not in _SIMPLE_CONNECTION
        or (coding is not None and (coding != b"chunked" or length is not None))
        or (length is not None and (not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS))
    ):
        return _parse_odd_response(data)
    return ResponseHead(
        raw,
        _STATUS[match[1]],
        block,
        1,
        None if length is None else int(length),
        coding is not None,
        connection != b"close",
        fields,
    )


def _parse_odd_response(data: bytes) -> ResponseHead | None:
    """The complete path for responses: HTTP/1.0, interim ones, repeated and unusual fields."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    match = _ODD_RESPONSE.match(data)
    if match is None or match.end() != end + 4:
        raise ProtocolError("the upstream's response head is malformed", 502)
    raw, block, minor = match[0], match.end(3), int(match[1])
    found, _, repeated = _find(_RESPONSE_FIELDS, raw, block)
    fields = {name: value.lower() for name, value in found.items()}
    if not repeated.isdisjoint(_LENGTH_FIELDS):
        raise ProtocolError("the upstream repeats a length header", 502)
    chunked = _chunked(fields, minor)
    length = fields.get(b"content-length")
    if length is not None and (chunked or _DIGITS.fullmatch(length) is None):
        raise ProtocolError("the upstream's Content-Length is ambiguous", 502)
    keep_alive, nominated = _connection(raw, block, fields, minor, several=b"connection" in repeated)
    size = None if length is None else int(length)
    return ResponseHead(raw, int(match[2]), block, minor, size, chunked, keep_alive, fields, nominated)


def split_at_length(
    head: RequestHead, *, target: bytes, replace: Mapping[bytes, bytes | None], add: bytes = b""
) -> tuple[bytes, bytes]:
    """The head for the upstream, cut in two where the Content-Length digits go (second part empty when there are none).

    Every line stays as it came, except: hop-by-hop lines, lines that Connection names and `x-sidecar-*` go; a field in
    `replace` gets that value (None: goes); `add` (whole lines) comes last. The length is the caller's to write.
    """
    raw = head.raw
    parts: list[bytes] = [head.method, b" ", target, b" HTTP/1.1\r\n"]
    before: bytes | None = None
    at = head.block
    for name, start, end in head.spans:
        if name == b"content-length":
            parts.append(raw[at : head.length_span[0]])
            before, parts, at = b"".join(parts), [], head.length_span[1]
        elif name in replace:
            value = replace[name]
            colon = raw.index(b":", start)
            parts.append(raw[at:start] if value is None else raw[at : colon + 1] + b" " + value + b"\r\n")
            at = end
        elif name == b"transfer-encoding" and head.fields[name] != b"chunked":
            # CHUNKED is legal, and a server that compares bytes would read no body then.
            parts.append(raw[at:start] + raw[start:end].replace(head.fields[name], b"chunked"))
            at = end
        elif name in _HOP_NAMES or name in head.nominated or name == b"expect" or name.startswith(b"x-sidecar-"):
            parts.append(raw[at:start])
            at = end
    parts.append(raw[at:-2])
    if head.nominated:
        parts = [_without(b"".join(parts), head.nominated)]
        before = None if before is None else _without(before, head.nominated)
    parts += [add, b"\r\n"]
    last = b"".join(parts)
    return (last, b"") if before is None else (before, last)


def edit_response(head: ResponseHead, add: bytes, *, cut: frozenset[bytes] = frozenset()) -> bytes:
    """The head for the client: hop-by-hop lines, the upstream's own `x-sidecar-*` and those in `cut` go, `add` is last."""
    raw = head.raw
    if not cut and head.fields.keys() <= _END_TO_END:
        return raw[:-2] + add + b"\r\n"
    parts: list[bytes] = []
    at = 0
    _, spans, _ = _find(_RESPONSE_FIELDS, raw, head.block)
    for name, start, end in spans:
        if name in _HOP_NAMES or name in cut or name.startswith(b"x-sidecar-"):
            parts.append(raw[at:start])
            at = end
    parts.append(raw[at:-2])
    block = b"".join(parts)
    if head.nominated:
        block = _without(block, head.nominated)
    return block + add + b"\r\n"


class _Judge:
    """llhttp's verdict on one head; refuses what llhttp refuses, bytes after the head included."""

    def __init__(self, raw: bytes) -> None:
        self.minor = 1
        self.method = ""
        self._complete = False
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass  # llhttp stops here by design; the head itself was read whole
        except httptools.HttpParserError as error:
            raise ProtocolError(f"malformed request head: {error}") from None
        if not self._complete:
            raise ProtocolError("malformed request head")
        self.method = parser.get_method().decode("ascii")
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise ProtocolError(f"HTTP/{version} is not spoken here", 505)
        self.minor = int(version[-1])

    def on_headers_complete(self) -> None:
        self._complete = True


def _find(
    pattern: re.Pattern[bytes], raw: bytes, block: int
) -> tuple[dict[bytes, bytes], list[tuple[bytes, int, int]], set[bytes]]:
    """The fields of `pattern` in the block: name to last value, whole-line spans in order, and the names that repeat."""
    fields: dict[bytes, bytes] = {}
    spans: list[tuple[bytes, int, int]] = []
    repeated: set[bytes] = set()
    for found in pattern.finditer(raw.lower(), block - 1):
        name = found[1]
        if name in fields:
            repeated.add(name)
        start, end = found.span(2)
        fields[name] = raw[start:end].rstrip(b" \t")
        spans.append((name, found.start() + 1, end + 2))
    return fields, spans, repeated


def _value_span(raw: bytes, spans: Iterable[tuple[bytes, int, int]], name: bytes) -> tuple[int, int]:
    start, end = next((start, end) for found, start, end in spans if found == name)
    value = _DIGITS.search(raw, start + len(name) + 1, end)
    assert value is not None, "the caller checked that the value is digits"
    return value.span()


def _chunked(fields: Mapping[bytes, bytes], minor: int) -> bool:
    coding = fields.get(b"transfer-encoding")
    if coding is None:
        return False
    if coding.lower() != b"chunked" or not minor:
        raise ProtocolError("only 'Transfer-Encoding: chunked' over HTTP/1.1 is understood", 501 if minor else 400)
    return True


_NONE: Final[frozenset[bytes]] = frozenset()


def _connection(
    raw: bytes, block: int, fields: Mapping[bytes, bytes], minor: int, *, several: bool
) -> tuple[bool, frozenset[bytes]]:
    """Whether the connection persists, and the fields that Connection names (all Connection lines count)."""
    only = fields.get(b"connection", b"").lower()
    if not several and only in _SIMPLE_CONNECTION:
        return (only != b"close" if minor else only == b"keep-alive"), _NONE
    options: set[bytes] = set()
    for line in raw[block:-4].lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"connection":
            options.update(option.strip(b" \t") for option in value.split(b","))
    keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    # Naming an end-to-end field that frames or guards the message is an attack (request smuggling lists): not obeyed.
    guarded = {b"", b"close", b"keep-alive", b"host", b"content-length", b"transfer-encoding", b"authorization"}
    # No more than names: a line that is none, as the first one, is not a field to be taken away.
    return keep_alive, frozenset(name for name in options - guarded - _HOP_NAMES if _NAME.fullmatch(name))


def _without(block: bytes, names: frozenset[bytes]) -> bytes:
    lines = block.split(b"\r\n")
    return b"\r\n".join(line for line in lines if line.partition(b":")[0].lower() not in names)
