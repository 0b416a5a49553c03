"""Heads: the hot parser against the complete one against llhttp, and edits that touch only the lines that they name."""

from pathlib import Path

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import ProtocolError
from sidecar.wire.http1 import (
    RequestHead,
    edit_response,
    field_names,
    fields_of,
    parse_request,
    parse_request_fully,
    parse_response,
    split_at_length,
)

HEADS = [
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:9090\r\nContent-Length: 12\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nhost:localhost\r\ncontent-length:\t 0012 \t\r\nConnection: Keep-Alive\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer \xe9\xff\r\nContent-Length: 1\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nConnection: X-Secret, keep-alive\r\nX-Secret: 1\r\nContent-Length: 1\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
    b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET /v1/a/../b%7E%2f?x=[1] HTTP/1.1\r\nHost: a\r\nX-Empty:\r\nX-Empty:\r\n\r\n",
    b"GET /v1/x HTTP/1.0\r\n\r\n",
    b"GET /v1/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /v1/x HTTP/1.1\r\nHost: a\r\nx-sidecar-session: s\r\nx-sidecar-tags: a=b\r\nTE: trailers\r\n\r\n",
    b"PROPFIND /v1/x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nConnection: x-a\r\nX-A: 1\r\nContent-Length: 1\r\n\r\n",
]
REFUSED = {
    "absolute form": b"GET http://evil.example/v1/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "authority form": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "connect with a path": b"CONNECT /v1/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "userinfo": b"GET @evil/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "star": b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no host": b"GET /v1/x HTTP/1.1\r\nA: b\r\n\r\n",
    "two hosts": b"GET /v1/x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "host list": b"GET /v1/x HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "two lengths": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
    "length list": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
    "length sign": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
    "length negative": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "length empty": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
    "length hex": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n",
    "length underscore": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n",
    "length too long": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0000000000000000001\r\n\r\n",
    "length and chunked": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked and length": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
    "gzip, chunked": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "identity": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
    "xchunked": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "vertical tab": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
    "two codings": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked in 1.0": b"POST /v1/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "blank before colon": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\n",
    "tab before colon": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n",
    "folded": b"POST /v1/x HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
    "folded first": b"POST /v1/x HTTP/1.1\r\n Host: a\r\n\r\n",
    "bare lf": b"POST /v1/x HTTP/1.1\nHost: a\r\n\r\n",
    "bare lf in block": b"GET /v1/x HTTP/1.1\r\nHost: a\nContent-Length: 5\r\n\r\n",
    "bare cr": b"GET /v1/x HTTP/1.1\r\nHost: a\rContent-Length: 5\r\n\r\n",
    "nul": b"GET /v1/x HTTP/1.1\r\nHost: a\r\nA: \x00\r\n\r\n",
    "control": b"GET /v1/x HTTP/1.1\r\nHost: a\r\nA: \x7f\r\n\r\n",
    "no colon": b"GET /v1/x HTTP/1.1\r\nHost: a\r\nA\r\n\r\n",
    "empty name": b"GET /v1/x HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "name byte": b"GET /v1/x HTTP/1.1\r\nHost: a\r\nA\xe9: b\r\n\r\n",
    "two blanks": b"GET  /v1/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab": b"GET\t/v1/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "blank in target": b"GET /v1/x y HTTP/1.1\r\nHost: a\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\n",
    "http 0.9": b"GET /v1/x HTTP/0.9\r\n\r\n",
    "http 1.2": b"GET /v1/x HTTP/1.2\r\nHost: a\r\n\r\n",
    "http 3": b"GET /v1/x HTTP/3.0\r\nHost: a\r\n\r\n",
    "lower case": b"get /v1/x http/1.1\r\nHost: a\r\n\r\n",
    "unknown method": b"EVIL /v1/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "icecast": b"SOURCE /v1/x ICE/1.0\r\nHost: a\r\n\r\n",
    "rtsp": b"DESCRIBE /v1/x RTSP/1.0\r\nHost: a\r\n\r\n",
}


def read_fully(raw: bytes) -> RequestHead | None:
    try:
        return parse_request_fully(raw)
    except ProtocolError:
        return None


class Oracle:
    """llhttp's reading of a head."""

    def __init__(self, raw: bytes) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(raw)

    def on_headers_complete(self) -> None:
        self.meaning = self._parser.get_method(), self._parser.should_keep_alive()


Reading = tuple[RequestHead, tuple[bytes, bool]]  # the whole head; method and keep-alive


def hot_reading(raw: bytes) -> Reading | None:
    """What the hot parser says of a head that it accepts."""
    hot = parse_request(raw)
    return None if hot is None else (hot, (hot.method, hot.keep_alive))


def other_reading(raw: bytes) -> Reading | None:
    """What the complete parser and llhttp say of a head that the hot one accepts: the same, or the two do not agree."""
    hot = parse_request(raw)
    return None if hot is None else (parse_request_fully(hot.raw), Oracle(hot.raw).meaning)


@pytest.mark.parametrize("raw", HEADS, ids=range(len(HEADS)))
def test_the_two_parsers_agree(raw: bytes) -> None:
    """INC-42: both paths give the same answer, and the complete one takes every legal head."""
    assert hot_reading(raw) == other_reading(raw)
    head = parse_request_fully(raw)
    assert head.raw == raw
    assert head.length is None or raw[slice(*head.length_span)].isdigit()


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_both(name: str) -> None:
    """INC-42, FID-21, FID-22: smuggling lists and foreign targets are refused by each path."""
    raw = REFUSED[name]
    assert parse_request(raw) is None
    with pytest.raises(ProtocolError) as caught:
        parse_request_fully(raw)
    assert caught.value.answer in (400, 501, 505)


def test_http_2_is_answered_505() -> None:
    """A version that is not spoken here is said to be so, where llhttp knows it."""
    with pytest.raises(ProtocolError) as caught:
        parse_request_fully(b"GET /v1/x HTTP/2.0\r\nHost: a\r\n\r\n")
    assert caught.value.answer in (400, 505)


def test_bytes_behind_the_head_are_not_a_head() -> None:
    """`parse_request_fully` is given exactly one head."""
    with pytest.raises(ProtocolError):
        parse_request_fully(b"GET /v1/x HTTP/1.1\r\nHost: a\r\n\r")


def test_incomplete_is_none_at_every_byte() -> None:
    """A head is found only when its last byte is there."""
    raw = HEADS[1]
    assert all(parse_request(raw[:at]) is None for at in range(len(raw)))


def test_real_heads_take_the_hot_path(shared: Path) -> None:
    """Heads of real SDKs are ordinary, but for those that stream their body (Node) or upgrade."""
    files = sorted((shared / "fixtures" / "clients").glob("*/*.http"))
    assert len(files) > 100
    hot = 0
    for file in files:
        raw = file.read_bytes()
        assert hot_reading(raw) == other_reading(raw)
        hot += parse_request(raw) is not None
        assert read_fully(raw[: raw.index(b"\r\n\r\n") + 4]) is not None
    assert hot >= 0.9 * len(files)


NAMES = [
    b"Host",
    b"Content-Length",
    b"Transfer-Encoding",
    b"Connection",
    b"Expect",
    b"Upgrade",
    b"Accept-Encoding",
    b"Origin",
    b"X-A",
    b"Keep-Alive",
    b"TE",
    b"x-sidecar-tags",
    b"Authorization",
    b"Content-Encoding",
    b"HOST",
    b"content-length",
]
VALUES = [
    b"localhost",
    b"a:1",
    b"0",
    b"12",
    b"012",
    b"1, 1",
    b"+1",
    b"",
    b" ",
    b"chunked",
    b"Chunked",
    b"close",
    b"keep-alive",
    b"Close , X-A",
    b"100-continue",
    b"websocket",
    b"\xe9",
    b"a\tb",
    b"gzip, br",
    b"\x0b",
    b"x" * 300,
    b"12 ",
    b"1 2",
]
lines = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from([b":", b": ", b":\t", b" :"]), st.sampled_from(VALUES)),
    max_size=7,
)
targets = st.sampled_from(
    [b"/", b"/v1/x", b"/v1/../x", b"/v1/%2e?a=b#c", b"*", b"http://a/", b"//evil/", b"/\xe9", b"/a b", b"a:1"]
)
methods = st.sampled_from([b"GET", b"POST", b"HEAD", b"PATCH", b"CONNECT", b"OPTIONS", b"FOO", b"PURGE"])
versions = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1"])


@given(methods, targets, versions, lines)
@settings(max_examples=600)
def test_generated_heads_agree(
    method: bytes, target: bytes, version: bytes, fields: list[tuple[bytes, bytes, bytes]]
) -> None:
    """INC-42: whatever the hot parser accepts, the complete one accepts with an equal result."""
    block = b"".join(name + colon + value + b"\r\n" for name, colon, value in fields)
    for raw in (
        b"%b %b %b\r\nHost: localhost\r\n%b\r\n" % (method, target, version, block),
        b"%b %b %b\r\n%b\r\n" % (method, target, version, block),
    ):
        assert hot_reading(raw) == other_reading(raw)


@given(st.sampled_from(HEADS + list(REFUSED.values())), st.integers(0, 140), st.integers(0, 3), st.binary(max_size=3))
@settings(max_examples=1200)
def test_mutated_heads_agree(raw: bytes, at: int, cut: int, insert: bytes) -> None:
    """INC-42: the same for heads with bytes cut out and put in."""
    mutated = raw[:at] + insert + raw[at + cut :]
    assert hot_reading(mutated) == other_reading(mutated)


def test_mutated_real_heads_agree(shared: Path) -> None:
    """INC-42: every byte of real heads replaced by the bytes that smugglers use."""
    folder = shared / "fixtures" / "clients"
    accepted = 0
    for name in ("openai/chat_stream.http", "anthropic/messages.http", "node/chat.http"):
        raw = (folder / name).read_bytes()
        raw = raw[: raw.index(b"\r\n\r\n") + 4]
        for at in range(len(raw)):
            for byte in (b"", b"\r", b"\n", b" ", b":", b"\x00", b"\xe9", b"\r\n", b"1"):
                mutated = raw[:at] + byte + raw[at + 1 :]
                hot = hot_reading(mutated)
                assert hot == other_reading(mutated)
                accepted += hot is not None
    assert accepted > 1000


# ---- edits


def joined(head: RequestHead, length: bytes = b"", **options: object) -> bytes:
    before, after = split_at_length(head, **{"target": head.target, "replace": {}, **options})  # type: ignore[arg-type]
    return before + length + after if after else before


@pytest.mark.parametrize("raw", HEADS[:4], ids=range(4))
def test_a_head_without_hop_by_hop_fields_goes_up_as_it_came(raw: bytes) -> None:
    """FID-1, FID-2, FID-18: nothing is added, lost, re-cased or moved."""
    head = parse_request_fully(raw)
    kept = b"\r\n".join(line for line in raw.split(b"\r\n") if not line.lower().startswith(b"connection:"))
    digits = raw[slice(*head.length_span)]
    assert joined(head, digits) == kept


def test_only_named_lines_change() -> None:
    """FID-19: hop-by-hop, nominated, expect and x-sidecar lines go; replaced ones keep their place and their name's case."""
    head = parse_request_fully(
        b"POST /v1/x?q=1 HTTP/1.1\r\nA: 1\r\nhOsT:  me\r\nKeep-Alive: 5\r\nConnection: X-Secret, close\r\nx-secret: s\r\n"
        b"X-Secret2: t\r\nContent-Length: 3\r\nX-API-Key: k\r\nExpect: 100-continue\r\nTE: trailers\r\nB:2\r\n"
        b"x-sidecar-session: s\r\nAccept-Encoding: gzip\r\n\r\n"
    )
    replace = {b"host": b"up.example", b"x-api-key": None, b"accept-encoding": b"identity"}
    before, after = split_at_length(head, target=b"/pre/v1/x?q=1", replace=replace, add=b"authorization: Bearer z\r\n")
    assert before == b"POST /pre/v1/x?q=1 HTTP/1.1\r\nA: 1\r\nhOsT: up.example\r\nX-Secret2: t\r\nContent-Length: "
    assert after == b"\r\nB:2\r\nAccept-Encoding: identity\r\nauthorization: Bearer z\r\n\r\n"


def test_guarded_fields_cannot_be_nominated_away() -> None:
    """INC-42: `Connection: content-length, host` does not take the message's framing away."""
    head = parse_request_fully(
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nConnection: host, content-length, authorization\r\n"
        b"Authorization: k\r\nContent-Length: 3\r\n\r\n"
    )
    assert joined(head, b"3") == b"POST /v1/x HTTP/1.1\r\nHost: a\r\nAuthorization: k\r\nContent-Length: 3\r\n\r\n"


def test_no_line_but_a_field_can_be_nominated_away() -> None:
    """INC-42: `Connection` names the request line itself: it stays. Found by `python -m bench.fuzz --target head`."""
    head = parse_request_fully(
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nConnection: POST /v1/x HTTP/1.1, x-gone\r\n"
        b"X-Gone: b\r\nContent-Length: 3\r\n\r\n"
    )
    assert joined(head, b"3") == b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"


def test_chunks_are_said_in_small_letters() -> None:
    """INC-42: CHUNKED is legal, but a server may compare bytes: what goes up is a word that all know."""
    head = parse_request_fully(b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTRANSFER-Encoding:  CHUNKED\r\nB: c\r\n\r\n")
    assert joined(head) == b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTRANSFER-Encoding:  chunked\r\nB: c\r\n\r\n"


def test_http_1_0_goes_up_as_http_1_1() -> None:
    """The upstream leg is ours: its version is HTTP/1.1."""
    assert joined(parse_request_fully(b"GET /v1/x HTTP/1.0\r\nA: b\r\n\r\n")) == b"GET /v1/x HTTP/1.1\r\nA: b\r\n\r\n"


@given(lines)
@settings(max_examples=300)
def test_every_other_line_is_kept(fields: list[tuple[bytes, bytes, bytes]]) -> None:
    """FID-18: an edit keeps every line that it does not name, in order, whatever stands between."""
    block = b"".join(name + colon + value + b"\r\n" for name, colon, value in fields)
    head = read_fully(b"POST /v1/x HTTP/1.1\r\nHost: q\r\n%b\r\n" % block)
    if head is None:
        return
    gone = {b"connection", b"keep-alive", b"te", b"upgrade", b"expect", b"x-sidecar-tags"} | head.nominated
    sent = head.raw.split(b"\r\n")
    kept = [line for line in sent if line.partition(b":")[0].lower() not in gone]
    kept = [line.replace(b"Chunked", b"chunked") if line.startswith(b"Transfer-Encoding:") else line for line in kept]
    assert joined(head, head.raw[slice(*head.length_span)]).split(b"\r\n") == kept


# ---- responses

RESPONSE = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nset-cookie: B=2\r\nX-Name: \xe9\r\nContent-Length: 5\r\n\r\n"


def test_a_response_goes_down_as_it_came() -> None:
    """FID-9, FID-18: with our lines at the end."""
    head = parse_response(RESPONSE + b"hello")
    assert head is not None
    assert (head.status, head.length, head.chunked, head.keep_alive) == (200, 5, False, True)
    assert edit_response(head, b"x-a: 1\r\n") == RESPONSE[:-2] + b"x-a: 1\r\n\r\n"


def test_response_lines_that_go() -> None:
    """Hop-by-hop and nominated lines, an upstream's own x-sidecar lines and those to cut."""
    raw = (
        b"HTTP/1.1 200\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-Sidecar-Model: forged\r\n"
        b"Proxy-Authenticate: x\r\nTransfer-Encoding: CHUNKED\r\nServer: a\r\n\r\n"
    )
    head = parse_response(raw)
    assert head is not None
    assert (head.chunked, head.keep_alive, head.nominated) == (True, False, {b"x-hop"})
    assert edit_response(head, b"", cut=frozenset({b"transfer-encoding"})) == b"HTTP/1.1 200\r\nServer: a\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "status", "minor", "keep"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n", 200, 0, False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", 200, 0, True),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 103, 1, True),
        (b"HTTP/1.1 999 Odd\r\n\r\n", 999, 1, True),
        (b"HTTP/1.1 200 \xe9t\xe9\r\nConnection: close\r\n\r\n", 200, 1, False),
        (b"HTTP/1.1 200 OK\r\nConnection: a\r\nConnection: close\r\n\r\n", 200, 1, False),
        (b"HTTP/1.1 204\r\nContent-Type: a\r\nContent-Type: b\r\n\r\n", 204, 1, True),
    ],
)
def test_odd_responses(raw: bytes, status: int, minor: int, keep: bool) -> None:
    """What is unusual but legal is read."""
    head = parse_response(raw)
    assert head is not None
    assert (head.status, head.minor, head.keep_alive) == (status, minor, keep)


@pytest.mark.parametrize(
    "raw",
    [
        b"garbage\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_refused_responses(raw: bytes) -> None:
    """INC-42: a response whose end could be found in two ways is an upstream's fault."""
    with pytest.raises(ProtocolError):
        parse_response(raw)


def test_an_incomplete_response_is_none_at_every_byte() -> None:
    """The head may arrive a byte at a time."""
    assert all(parse_response(RESPONSE[:at]) is None for at in range(len(RESPONSE)))


def test_recorded_response_heads(shared: Path) -> None:
    """Heads of a real server: found, and given back with nothing but our line added."""
    for file in sorted((shared / "fixtures" / "llama_server").glob("*.http")):
        raw = file.read_bytes()
        head = parse_response(raw)
        if not raw:
            assert head is None
            continue
        assert head is not None, file
        kept = [
            line for line in head.raw.split(b"\r\n") if not line.lower().startswith((b"keep-alive:", b"connection:"))
        ]
        assert edit_response(head, b"x-a: 1\r\n").split(b"\r\n") == [*kept[:-2], b"x-a: 1", b"", b""]


def test_other_fields_are_found_when_asked_for() -> None:
    """In requests and in responses: the name in any case, the value as sent, the last of several, and no part of a name."""
    names = field_names(b"x-a", b"retry-after")
    request = parse_request(b"GET /v1 HTTP/1.1\r\nHost: h\r\nX-A:  One \r\nx-ab: no\r\nno-x-a: no\r\nx-A: Two\r\n\r\n")
    response = parse_response(b"HTTP/1.1 429 x-a: no\r\nRetry-After: Sat, 21 Nov\r\n\r\nx-a: body\r\n")
    assert request is not None
    assert response is not None
    assert fields_of(request, names) == {b"x-a": b"Two"}
    assert fields_of(response, names) == {b"retry-after": b"Sat, 21 Nov"}
