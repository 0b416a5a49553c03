"""The one question that we add to a request, and that the client never sees that it was asked."""

from pathlib import Path

import pytest

from sidecar.sim.knobs import SimulatedModel
from tests.integration.conftest import Serve, Sim, Upstream
from tests.integration.raw import SSE_HEAD, Response, call, chunked, connected, ok, post

STREAM = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
QUESTION = b'"stream_options":{"include_usage":true}'
REFUSAL = b'{"error":{"message":"Unknown field: stream_options","type":"invalid_request_error"}}'


def sse(*texts: bytes) -> bytes:
    return b"".join(b"data: " + text + b"\n\n" for text in texts)


TOKEN = b'{"id":"c1","object":"chunk","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]%b}'
FINISH = b'{"id":"c1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]%b}'
USAGE = b'{"id":"c1","object":"chunk","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}'
PLAIN = sse(TOKEN % b"", FINISH % b"", b"[DONE]")
OPENAI = sse(TOKEN % b',"usage":null', FINISH % b',"usage":null', USAGE, b"[DONE]")
VLLM = sse(TOKEN % b"", FINISH % b"", USAGE, b"[DONE]")


def pieces(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@pytest.mark.parametrize("asked", [OPENAI, VLLM], ids=["usage null in every chunk", "usage event only"])
@pytest.mark.parametrize("size", [1, 3, 50, 10_000])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_the_clients_bytes_are_what_they_would_have_been(
    upstream: Upstream, serve: Serve, asked: bytes, size: int, framing: str
) -> None:
    """GW-02: asked for, recorded, and taken out again, byte for byte, in every framing and however it is cut."""
    plain = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    wire = {
        "chunked": SSE_HEAD + chunked(*pieces(asked, size)),
        "length": plain + b"Content-Length: %d\r\n\r\n" % len(asked) + asked,
        "close": plain + b"\r\n" + asked,
    }[framing]
    up = await upstream([*pieces(wire, max(size, len(wire) // 300)), "close"])
    side = await serve(up)
    settled: list[object] = []
    side.app.plane.emit = settled.append
    got = await call(side.port, post(body=STREAM))
    assert got.body == PLAIN
    assert got.end == ("eof" if framing == "close" else "whole")
    assert QUESTION in up.requests[0].body
    assert up.requests[0].body.replace(QUESTION + b",", b"") == STREAM
    assert settled[0].outcome.usage.output_tokens == 1  # type: ignore[attr-defined]
    assert settled[0].outcome.usage_source == "provider"  # type: ignore[attr-defined]


async def test_the_simulated_provider_is_asked_unseen(sim: Sim, serve: Serve) -> None:
    """GW-01, GW-02: the simulated provider's chat and completions: shaped as without us, with usage in the record."""
    provider = await sim(default=SimulatedModel())
    side = await serve(provider)
    settled: list[object] = []
    side.app.plane.emit = settled.append
    for path, body in (
        ("/v1/chat/completions", STREAM),
        ("/v1/completions", b'{"model":"m","stream":true,"prompt":"Hi"}'),
    ):
        through, direct = await call(side.port, post(path, body)), await call(provider.port, post(path, body))
        assert b'"usage"' not in through.body
        assert shape(through) == shape(direct)
    assert all(one.outcome.usage.output_tokens > 0 for one in settled)  # type: ignore[attr-defined]
    assert len(settled) == 2


def shape(got: Response) -> tuple[bytes, set[bytes], bytes]:
    """Status line, header names and how the body begins and ends."""
    names = {line.partition(b":")[0].lower() for line in got.foreign_lines}
    return got.raw.split(b"\r\n")[0], names, got.body[-14:]


@pytest.mark.parametrize(
    "options", [b'"stream_options":{"include_usage":true}', b'"stream_options": {"include_usage" : true }']
)
async def test_a_client_that_asked_itself_gets_its_usage(upstream: Upstream, serve: Serve, options: bytes) -> None:
    """GW-02: its request and its answer are not touched, compression included."""
    wire = SSE_HEAD + chunked(OPENAI)
    up = await upstream([wire])
    side = await serve(up)
    body = STREAM[:-1] + b"," + options + b"}"
    got = await call(side.port, post("/v1/chat/completions", body, b"Accept-Encoding: gzip"))
    assert got.body == OPENAI
    assert up.requests[0].body == body
    assert up.requests[0].value(b"accept-encoding") == b"gzip"


async def test_a_client_that_said_no_is_asked_for_and_gets_none(upstream: Upstream, serve: Serve) -> None:
    """GW-02: include_usage false: the answer has none, whatever we asked."""
    up = await upstream([SSE_HEAD + chunked(VLLM)])
    side = await serve(up)
    body = STREAM[:-1] + b',"stream_options":{"include_usage":false}}'
    got = await call(side.port, post(body=body))
    assert got.body == (PLAIN if b"true" in up.requests[0].body.replace(b'"stream":true', b"") else VLLM)


async def test_compression_is_not_asked_for_where_we_read_along(upstream: Upstream, serve: Serve) -> None:
    """GW-31: Accept-Encoding becomes identity, in its place; where there was none none is added."""
    up = await upstream([SSE_HEAD + chunked(VLLM)])
    side = await serve(up)
    await call(side.port, post("/v1/chat/completions", STREAM, b"Accept-Encoding: gzip, br", b"A: b"))
    await call(side.port, post("/v1/chat/completions", STREAM))
    assert up.requests[0].lines[2:4] == [b"Accept-Encoding: identity", b"A: b"]
    assert up.requests[1].value(b"accept-encoding") is None


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/files"])
async def test_other_endpoints_are_not_asked(upstream: Upstream, serve: Serve, path: str) -> None:
    """GW-36: no additions where the question does not exist."""
    up = await upstream()
    side = await serve(up)
    await call(side.port, post(path, STREAM, b"Accept-Encoding: gzip"))
    assert up.requests[0].body == STREAM
    assert up.requests[0].value(b"accept-encoding") == b"gzip"


async def test_an_answer_that_is_no_stream_passes(upstream: Upstream, serve: Serve) -> None:
    """GW-02: an upstream that ignores `stream` is not edited."""
    body = b'{"choices":[],"usage":{"completion_tokens":3}}'
    up = await upstream([ok(body)])
    side = await serve(up)
    got = await call(side.port, post(body=STREAM))
    assert got.body == body
    assert got.value(b"content-length") == b"%d" % len(body)


@pytest.mark.parametrize("status", [b"400 Bad Request", b"422 Unprocessable"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close", "split chunks"])
async def test_a_refused_question_is_taken_back_once_and_remembered(
    upstream: Upstream, serve: Serve, status: bytes, framing: str
) -> None:
    """A 400 that names stream_options is re-sent once without it; later calls do not ask."""
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\n"
    wire = {
        "length": head + b"Content-Length: %d\r\n\r\n" % len(REFUSAL) + REFUSAL,
        "chunked": head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(REFUSAL),
        "split chunks": head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*pieces(REFUSAL, 5)),
        "close": head + b"\r\n" + REFUSAL,
    }[framing]
    up = await upstream(
        [wire[:-30], 0.02, wire[-30:], *(["close"] if framing == "close" else [])], [SSE_HEAD + chunked(PLAIN)]
    )
    side = await serve(up)
    for _ in range(2):
        got = await call(side.port, post(body=STREAM))
        assert (got.status, got.body) == (200, PLAIN)
    assert [QUESTION in seen.body for seen in up.requests] == [True, False, False]
    assert up.requests[1].body == STREAM
    assert (side.books.accepted, side.books.completed) == (2, 2)


async def test_the_repeat_is_not_repeated(upstream: Upstream, serve: Serve) -> None:
    """INC-12, GW-23: when the second try is refused too, that answer is the client's."""
    up = await upstream([ok(REFUSAL, status=b"400 Bad Request")])
    side = await serve(up)
    got = await call(side.port, post(body=STREAM))
    assert (got.status, got.body) == (400, REFUSAL)
    assert len(up.requests) == 2


async def test_a_400_about_something_else_is_not_repeated(upstream: Upstream, serve: Serve) -> None:
    """INC-12: passed on as it came, after one request."""
    refusal = b'{"error":{"message":"messages must not be empty"}}'
    up = await upstream([ok(refusal, status=b"400 Bad Request")])
    side = await serve(up)
    got = await call(side.port, post(body=STREAM))
    assert (got.status, got.body) == (400, refusal)
    assert len(up.requests) == 1


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_400_that_breaks_while_it_is_looked_at(upstream: Upstream, serve: Serve, end: str) -> None:
    """INC-7: a refusal cut short of its length is no whole answer to the client."""
    wire = ok(REFUSAL, status=b"400 Bad Request")
    up = await upstream([wire[:-40], 0.03, end])  # type: ignore[list-item]
    side = await serve(up)
    got = await call(side.port, post(body=STREAM))
    assert got.status == 502 or got.end in ("eof", "reset")
    assert len(up.requests) == 1


async def test_usage_never(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """`usage: never` of an upstream: nothing is asked, nothing is taken out."""
    up = await upstream([SSE_HEAD + chunked(OPENAI)])
    (tmp_path / "p.yaml").write_text(
        f"""version: 1
service: default
upstreams:
  main: {{dialect: openai, base_url: "http://127.0.0.1:{up.port}/v1", usage: never}}
routes:
  - name: all
    match: {{models: ["m"]}}
    mode: observe
    baseline: {{id: m, upstream: main, model: m}}
"""
    )
    side = await serve("http://127.0.0.1:1", policies=tmp_path)
    got = await call(side.port, post(body=STREAM))
    assert got.body == OPENAI
    assert up.requests[0].body == STREAM


async def test_the_question_keeps_every_other_byte(upstream: Upstream, serve: Serve) -> None:
    """INC-38, GW-20: odd spacing, big numbers, escapes, duplicate keys and trailing blanks stay."""
    up = await upstream([SSE_HEAD + chunked(VLLM)])
    side = await serve(up)
    bodies = [
        b'{ "model" : "m",\n "stream" : true , "n":1.0e0, "x":12345678901234567890, "a":"\\u00e9\xc3\xa9", "a":2 } \r\n',
        b'{"stream":true,"model":"m","messages":[{"content":"\\"stream_options\\":{}"}]}',
    ]
    async with connected(side.port) as client:
        for body in bodies:
            client.send(post(body=body))
            assert (await client.response()).body == PLAIN
    for body, seen in zip(bodies, up.requests, strict=True):
        assert seen.body != body
        assert seen.body.replace(b"," + QUESTION, b"").replace(QUESTION + b",", b"") == body
