"""Reading a request's body: the payload, its end, and its limit."""

import pytest

from sidecar.errors import ProtocolError
from sidecar.proxy.body import LARGE_BYTES, RequestBody, slices
from sidecar.wire.http1 import RequestHead, parse_request_fully


def head(line: str) -> RequestHead:
    return parse_request_fully(f"POST /v1/x HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n".encode())


@pytest.mark.parametrize("step", [1, 3, 100])
def test_by_length(step: int) -> None:
    """Bytes behind the body are left for the next request."""
    data = b"....0123456789GET /"
    body, at, got = RequestBody(head("Content-Length: 10"), 10), 4, b""
    while not body.done:
        payload, at = body.feed(data[: at + step], at)
        got += payload
        body.keep(payload)
    assert (got, body.take(), body.take(), at, body.size) == (b"0123456789", b"0123456789", b"", 14, 10)


@pytest.mark.parametrize("step", [1, 3, 100])
def test_by_chunks(step: int) -> None:
    """The same through the chunked coding."""
    data = b"..4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\nGET /"
    body, at, got = RequestBody(head("Transfer-Encoding: chunked"), 10), 2, b""
    while not body.done:
        payload, at = body.feed(data[: at + step], at)
        got += payload
    assert (got, data[at:]) == (b"0123456789", b"GET /")


def test_the_limit() -> None:
    """413 from the length at once, from chunks as soon as they are over it."""
    with pytest.raises(ProtocolError) as caught:
        RequestBody(head("Content-Length: 11"), 10)
    assert caught.value.answer == 413
    body = RequestBody(head("Transfer-Encoding: chunked"), 10)
    body.feed(b"a\r\n0123456789\r\n")
    with pytest.raises(ProtocolError) as caught:
        body.feed(b"1\r\nx\r\n")
    assert caught.value.answer == 413


@pytest.mark.parametrize("size", [LARGE_BYTES, LARGE_BYTES + 1, 5 * LARGE_BYTES])
@pytest.mark.parametrize("step", [1_000, 65_536, 10 * LARGE_BYTES])
def test_a_large_body_is_put_together_as_it_comes(size: int, step: int) -> None:
    """The same bytes, whatever the size of the pieces; what is asked for too early is what had come."""
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    body = RequestBody(head(f"Content-Length: {size}"), size)
    for at in range(0, size, step):
        body.keep(body.feed(data[at : at + step])[0])
    assert (body.done, body.take() == data, body.take()) == (True, True, b"")
    half = RequestBody(head(f"Content-Length: {size}"), size)
    half.keep(half.feed(data[:1_000])[0])
    assert half.take() == data[:1_000]


def test_slices_are_the_parts_in_order() -> None:
    """None is longer than LARGE_BYTES, and nothing is lost."""
    parts = (b"a" * 7, memoryview(b"b" * (2 * LARGE_BYTES + 3)), b"", b"c")
    made = list(slices(parts))
    assert [len(one) for one in made] == [7, LARGE_BYTES, LARGE_BYTES, 3, 1]
    assert b"".join(made) == b"".join(parts)
