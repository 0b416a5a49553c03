"""Translated calls when things go wrong: whatever the arm does, the client gets an answer or sees the cut."""

import asyncio
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.core.types import Settled
from tests.integration.canary import rows_of, written
from tests.integration.conftest import Running, Serve, Upstream
from tests.integration.raw import SSE_HEAD, Response, ScriptedUpstream, call, chunked, connected, event, ok, post

HELD = {"HELD_KEY": "held-key-0123456789"}
CLIENT_KEY = b"Authorization: Bearer client-key-9876543210"
ANSWER = {
    "id": "c1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}  # fmt: skip
WHOLE = orjson.dumps(ANSWER)


def piece(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return event(
        orjson.dumps({"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": choices, **more})
    )


BEGIN, TEXT, STOP = piece({"role": "assistant", "content": ""}), piece({"content": "Hello"}), piece({}, "stop")
USAGE = event(orjson.dumps({"id": "c1", "model": "m", "choices": [], "usage": ANSWER["usage"]}))
DONE = event(b"[DONE]")
END = b"0\r\n\r\n"


def policy(port: int, **changes: Any) -> dict[str, Any]:
    """Every call for `auto` is served by an upstream that speaks OpenAI's chat format."""
    far = {
        "dialect": "openai",
        "base_url": f"http://127.0.0.1:{port}",
        "api_key": {"env": "HELD_KEY"},
        "price": {"input_mtok": 1, "output_mtok": 2},
    }
    far |= changes.pop("far", {})
    if far["api_key"] == "client":
        del far["api_key"]
    upstreams = {"far": far} | changes.pop("upstreams", {})
    made = {
        "name": "all",
        "match": {"models": ["auto"]},
        "virtual": ["auto"],
        "baseline": {"id": "base", "upstream": "far", "model": "m"},
    }
    return {"version": 1, "upstreams": upstreams, "routes": [made | changes]}


@pytest.fixture
def begin(serve: Serve, tmp_path: Path) -> Callable[..., Any]:
    """Starts a sidecar in front of an upstream of another format."""

    async def start(at: ScriptedUpstream, settings: dict[str, Any] | None = None, **changes: Any) -> Running:
        folder = written(tmp_path / "policies", policy(at.port, **changes))
        side = await serve(at, policies=folder, environ=HELD, **(settings or {}))
        assert side.app.policies.error is None
        return side

    return start


def asking(*lines: bytes, stream: bool = False, **more: Any) -> bytes:
    """A call of an Anthropic app."""
    body = {"model": "auto", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}], **more}
    return post("/v1/messages", orjson.dumps(body | ({"stream": True} if stream else {})), CLIENT_KEY, *lines)


async def asked(side: Running, *lines: bytes, stream: bool = False, **more: Any) -> tuple[Response, Settled]:
    """One call, and the row that it left."""
    rows = rows_of(side)
    got = await call(side.port, asking(*lines, stream=stream, **more))
    side.app.plane.settle()
    assert side.balanced
    return got, rows[0]


def complaint(got: Response) -> str:
    """What an Anthropic SDK would tell of this error."""
    said = orjson.loads(got.body)
    assert said["type"] == "error"
    return str(said["error"]["message"])


GZIP = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00C\xbf\xa6\xa3\x02\x00\x00\x00"
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        ([ok(b"<html>hello</html>")], False),
        ([ok(b"<html>hello</html>")], True),
        ([ok(b"")], False),
        ([ok(b"")], True),
        ([ok(WHOLE)], True),  # no stream, though one was asked for
        ([SSE_HEAD + BEGIN + TEXT + STOP + DONE + END], False),  # a stream, which nobody asked for
        ([SSE_HEAD + END], True),
        ([SSE_HEAD + event(b"hello") + END], True),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], False),
        ([b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n"], False),
        ([ok(WHOLE)[:-9], "close"], False),
        ([ok(WHOLE)[:-9], "reset"], False),
        ([CHUNKED + b"5\r\n", WHOLE[:5], b"zz\r\n"], False),
        ([CHUNKED + b"5\r\n", WHOLE[:5], "close"], False),
        ([ok(b"[" * 5000)], False),
        ([ok(b"null")], False),
        ([ok(b'{"choices":5}')], False),
    ],
)
async def test_what_is_no_answer_becomes_a_502(
    upstream: Upstream, begin: Callable[..., Any], script: list[Any], *, stream: bool
) -> None:
    """In the client's own words, with a row that says so, and the client's connection lives on."""
    far = await upstream(script, [ok(WHOLE)])
    side = await begin(far)
    rows = rows_of(side)
    async with connected(side.port) as client:
        client.send(asking(stream=stream))
        got = await client.response()
        assert (got.status, got.end) == (502, "whole")
        assert complaint(got)
        client.send(asking())
        again = await client.response()
        assert (again.status, orjson.loads(again.body)["content"][0]["text"]) == (200, "Hello")
    side.app.plane.settle()
    assert (rows[0].outcome.kind, rows[0].outcome.status) == ("failed", 502)
    assert side.balanced


async def test_a_huge_answer_is_given_up(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """A whole answer is held to be translated, but not whatever its size; of an error nobody reads so much either."""
    long = b"x" * 1_000_000
    far = await upstream([CHUNKED] + [b"%x\r\n%b\r\n" % (len(long), long)] * 80 + [END])
    side = await begin(far)
    got, row = await asked(side)
    assert (got.status, row.outcome.error) == (502, "bad_response")
    assert "large" in complaint(got)
    assert far.peers[0].bytes_written < 79_000_000


async def test_a_declared_huge_answer_is_given_up_at_once(upstream: Upstream, begin: Callable[..., Any]) -> None:
    far = await upstream(
        [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99000000\r\n\r\n{", 9.0]
    )
    side = await begin(far)
    got, _ = await asked(side)
    assert got.status == 502
    assert "large" in complaint(got)


async def test_json_where_a_stream_was_asked_is_told_at_once(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """The rest of a body that cannot be used is not waited for."""
    far = await upstream([ok(WHOLE)[:-5], 9.0])
    side = await begin(far)
    got, _ = await asked(side, stream=True)
    assert got.status == 502


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_stream_is_told_in_whole(upstream: Upstream, begin: Callable[..., Any], framing: str) -> None:
    """Usage, cost and stop reason are those of the arm's own answer, whatever its framing; bytes come one by one."""
    data = BEGIN + TEXT + STOP + USAGE + DONE
    if framing == "chunked":
        script: list[Any] = [SSE_HEAD[:-2] + b"\r\n", *[bytes([one]) for one in data], END]
    else:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        plain = b"".join(part for part in data.split(b"\r\n") if part.startswith(b"data"))
        script = [head, plain, "close"]
    side = await begin(await upstream(script))
    got, row = await asked(side, stream=True)
    assert (got.status, got.end) == (200, "whole")
    assert got.body.rstrip().endswith(b'{"type":"message_stop"}')
    outcome = row.outcome
    assert (outcome.kind, outcome.error, outcome.finish) == ("completed", None, "stop")
    assert outcome.usage is not None
    assert (outcome.usage.input_tokens, outcome.usage.output_tokens, outcome.cost_nusd) == (7, 3, 13_000)
    assert outcome.clocks.ttft_s is not None


async def test_a_last_event_without_its_blank_line(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """Servers that end with `data: [DONE]` and the connection have said that they are through."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    plain = b"".join(part for part in (BEGIN + TEXT + STOP).split(b"\r\n") if part.startswith(b"data"))
    side = await begin(await upstream([head + plain + b"data: [DONE]", "close"]))
    got, row = await asked(side, stream=True)
    assert b"message_stop" in got.body
    assert (got.end, row.outcome.kind, row.outcome.error) == ("whole", "completed", None)


async def test_a_stream_without_its_last_event(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """Why it stopped was told: the client's stream is ended, and the row names what was missing, as for any stream."""
    side = await begin(await upstream([SSE_HEAD + BEGIN + TEXT + STOP + END]))
    got, row = await asked(side, stream=True)
    assert b"message_stop" in got.body
    assert (got.end, row.outcome.kind, row.outcome.error) == ("whole", "completed", "no_terminal")


async def test_a_stream_that_breaks_is_cut(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """What had been said arrives; then the client sees the break, also where all came in one read."""
    for last, error in (((END,), "bad_framing"), (("reset",), "truncated"), (("close",), "truncated")):
        side = await begin(await upstream([SSE_HEAD + BEGIN + TEXT, *last]))
        got, row = await asked(side, stream=True)
        assert (got.status, got.end) == (200, "eof"), last
        assert b"Hello" in got.body, last
        assert b"message_stop" not in got.body
        assert (row.outcome.kind, row.outcome.error) == ("failed", error)


async def test_a_break_of_a_stream_that_ends_with_its_connection(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """The client has chunks of ours: it sees the break without losing what was said before."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    plain = b"".join(part for part in (BEGIN + TEXT).split(b"\r\n") if part.startswith(b"data"))
    side = await begin(await upstream([head + plain, "close"]))
    got, row = await asked(side, stream=True)
    assert (got.status, got.end, row.outcome.kind) == (200, "eof", "failed")
    assert b"Hello" in got.body


@pytest.mark.parametrize("method", [b"HEAD", b"GET", b"PUT"])
async def test_only_posts_are_translated(upstream: Upstream, begin: Callable[..., Any], method: bytes) -> None:
    """Another method is none of the API's: it is not made a POST."""
    far = await upstream([ok(WHOLE)])
    side = await begin(far)
    got = await call(side.port, asking().replace(b"POST", method, 1), method=method.decode())
    assert got.status == 200
    assert all(one.line.startswith(method) for one in far.requests)
    assert all(b"held-key" not in one.head for one in far.requests)


async def test_http_1_0(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """An old client gets no chunks."""
    far = await upstream([SSE_HEAD + BEGIN + TEXT + STOP + DONE + END], [ok(WHOLE)])
    side = await begin(far)
    got = await call(side.port, asking(stream=True).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert (got.end, got.chunked, got.value(b"connection")) == ("eof", False, b"close")
    assert got.wire_body.startswith(b"event: message_start\n")
    got = await call(side.port, asking().replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert (orjson.loads(got.wire_body)["content"][0]["text"], got.head.count(b"connection:")) == ("Hello", 1)


async def test_pipelined_calls(upstream: Upstream, begin: Callable[..., Any]) -> None:
    far = await upstream([SSE_HEAD + BEGIN + TEXT + STOP + DONE + END], [ok(WHOLE)])
    side = await begin(far)
    async with connected(side.port) as client:
        client.send(asking(stream=True) + asking() + asking())
        first, second, third = [await client.response() for _ in range(3)]
    assert b"message_stop" in first.body
    assert orjson.loads(second.body)["content"] == orjson.loads(third.body)["content"]
    assert len(far.peers) == 1  # whose connection carried them all


@pytest.mark.parametrize("stream", [True, False])
async def test_silence_while_nothing_is_told(upstream: Upstream, begin: Callable[..., Any], *, stream: bool) -> None:
    """A head and then nothing: 504, because nothing is with the client yet."""
    far = await upstream([SSE_HEAD if stream else ok(WHOLE)[:-4], 9.0])
    side = await begin(far, {"idle_timeout": "150ms"})
    got, row = await asked(side, stream=stream)
    assert (got.status, row.outcome.error) == (504, "timeout_idle")


async def test_a_client_that_leaves(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """Before the first byte, while an answer is held, in mid-stream: the upstream learns it."""
    scripts: list[list[Any]] = [[9.0], [ok(WHOLE)[:-4], 9.0], [SSE_HEAD + BEGIN + TEXT, 9.0]]
    far = await upstream(*scripts)
    side = await begin(far)
    rows = rows_of(side)
    for number in range(3):
        async with connected(side.port) as client:
            client.send(asking(stream=number == 2))
            if number == 2:
                await client.until(b"Hello")
            else:
                assert await far.until(lambda at=number: len(far.requests) > at)  # type: ignore[misc]
        assert await far.until(lambda at=number: far.peers[at].lost.is_set())  # type: ignore[misc]
    side.app.plane.settle()
    assert [(row.outcome.kind, row.outcome.error) for row in rows] == [("aborted", "client_closed")] * 3
    assert side.balanced


async def test_a_client_that_leaves_at_the_end(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """SDKs hang up at the last event of their dialect: that is a whole answer."""
    side = await begin(await upstream([SSE_HEAD + BEGIN + TEXT + STOP + USAGE + DONE, 9.0]))
    rows = rows_of(side)
    async with connected(side.port) as client:
        client.send(asking(stream=True))
        await client.until(b"message_stop")
    while not rows:
        await asyncio.sleep(0.002)
        side.app.plane.settle()
    assert (rows[0].outcome.kind, rows[0].outcome.cost_nusd) == ("completed", 13_000)


async def test_a_refused_question_about_usage(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """A server that does not know stream_options is asked again without, and not again with."""
    refusal = ok(b'{"error":{"message":"Unknown parameter: stream_options"}}', status=b"400 Bad Request")
    far = await upstream([refusal], [SSE_HEAD + BEGIN + TEXT + STOP + DONE + END])
    side = await begin(far)
    got, _ = await asked(side, stream=True)
    assert got.status == 200
    got, _ = await asked(side, stream=True)
    assert got.status == 200
    assert [b"stream_options" in one.body for one in far.requests] == [True, False, False]


async def test_options_of_a_translated_call(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """A Responses client's own never go to a chat server: what that refuses is ours alone."""
    refusal = ok(b'{"error":{"message":"Unknown parameter: stream_options"}}', status=b"400 Bad Request")
    far = await upstream([refusal], [SSE_HEAD + BEGIN + TEXT + STOP + DONE + END])
    side = await begin(far, far={"provider": "mistral"})
    body = {"model": "auto", "input": "Hi", "stream": True, "stream_options": {"include_obfuscation": False}}
    assert (await call(side.port, post("/v1/responses", orjson.dumps(body), CLIENT_KEY))).status == 200
    assert [b"stream_options" in one.body for one in far.requests] == [True, False]


async def test_nothing_of_the_prompt_stays_with_the_row(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """Facts hold no text of the prompt: rows wait in a queue, and may be looked at by anybody."""
    side = await begin(await upstream([ok(WHOLE)]))
    _, row = await asked(side)
    assert not row.facts.lost


async def test_keys(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """The client's key never goes where the sidecar holds one."""
    far = await upstream([ok(WHOLE)])
    side = await begin(far)
    await asked(side, *(name + b": client-key-9876543210" for name in (b"x-api-key", b"api-key", b"cookie")))
    assert b"client-key" not in far.requests[0].raw
    assert far.requests[0].value(b"authorization") == b"Bearer held-key-0123456789"


GENERATED = orjson.dumps(
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hello"}]}, "finishReason": "STOP", "index": 0}]}
)


def gemini(target: str, *lines: bytes) -> bytes:
    return post(target, b'{"contents":[{"role":"user","parts":[{"text":"Hi"}]}]}', *lines)


async def test_a_key_in_the_query(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """Gemini's clients may send their key in the query: it goes no further than a header would."""
    far = await upstream([ok(GENERATED)])
    side = await begin(far, far={"dialect": "gemini"})
    for target in ("auto:generateContent?key=client-key-1&a=b", "auto:generateContent?a=b&key=client-key-1",
                   "auto:countTokens?key=client-key-1"):  # fmt: skip
        await call(side.port, gemini(f"/v1beta/models/{target}"))
    lines = [one.line for one in far.requests]
    assert lines[:2] == [b"POST /v1beta/models/m:generateContent?a=b HTTP/1.1"] * 2
    assert not any(b"client-key" in one.raw for one in far.requests)


async def test_a_key_in_the_query_of_a_client_that_brings_its_own(
    upstream: Upstream, begin: Callable[..., Any]
) -> None:
    """Where the policy says so it goes on as the arm's own header; what could be a line of its own goes nowhere."""
    at = await upstream([ok(WHOLE)])
    side = await begin(at, far={"api_key": "client"})
    for key in ("their%2Dkey", "a%0d%0ax-evil:1"):
        await call(side.port, gemini(f"/v1beta/models/auto:generateContent?key={key}"))
    assert [one.value(b"authorization") for one in at.requests] == [b"Bearer their-key", None]
    assert all(one.line == b"POST /v1/chat/completions HTTP/1.1" for one in at.requests)
    assert not any(b"evil" in one.raw for one in at.requests)


async def test_a_gemini_client_without_alt(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """It asks for a JSON array: the arm of its own dialect is asked for the same, and one of another is not asked."""
    far = await upstream([ok(b"[" + GENERATED + b"]")])
    side = await begin(far, far={"dialect": "gemini"})
    for query in ("", "?x=alt%3Dsse&alt=json", "?alt=sse&x=1"):
        await call(side.port, gemini(f"/v1beta/models/auto:streamGenerateContent{query}"))
    assert [one.line.split(b" ")[1].partition(b"?")[2] for one in far.requests] == [
        b"",
        b"x=alt%3Dsse&alt=json",
        b"alt=sse&x=1",
    ]


async def test_azure_deployments(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """The model that the app names is the deployment, where no arm names another; and no path can be climbed with it."""
    far = await upstream([ok(WHOLE)])
    side = await begin(far, far={"provider": "azure-deployments"}, match={}, virtual=[])
    for model in ("gpt", "a/b"):
        await call(side.port, post(body=orjson.dumps({"model": model, "messages": []})))
    got = await call(side.port, post(body=orjson.dumps({"model": "..", "messages": []})))
    assert got.status == 400
    assert [one.line.split(b"?")[0] for one in far.requests] == [
        b"POST /openai/deployments/gpt/chat/completions",
        b"POST /openai/deployments/a%2Fb/chat/completions",
    ]


async def test_an_odd_key_for_bedrock(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """A client's key with bytes that no signature can hold is passed on as it came, and nothing breaks."""
    far = await upstream([ok(b'{"message":"no"}', status=b"403 Forbidden")])
    side = await begin(far, far={"dialect": "bedrock", "api_key": "client"})
    got = await call(side.port, asking().replace(CLIENT_KEY, b"x-api-key: a\xe9:b"))
    assert got.status == 403


async def test_a_gemini_client_without_alt_and_a_foreign_arm(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """A stream that is one JSON array is nothing that another format has: it is refused, and the reason is named."""
    far = await upstream([SSE_HEAD + BEGIN + TEXT + STOP + DONE + END])
    side = await begin(far)
    got = await call(side.port, gemini("/v1beta/models/auto:streamGenerateContent"))
    assert (got.status, orjson.loads(got.body)["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert "alt" in orjson.loads(got.body)["error"]["message"]
    assert not far.requests
    got = await call(side.port, gemini("/v1beta/models/auto:streamGenerateContent?alt=sse"))
    assert got.body.startswith(b"data: ")


async def test_a_compressed_answer(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """A server that compresses what nobody asked it to compress is understood, whole, streamed, and in errors."""
    stream = b"".join(
        part + b"\n\n" for part in (BEGIN + TEXT + STOP + DONE).split(b"\r\n") if part.startswith(b"data")
    )
    packed = gzip.compress(WHOLE)
    zipped = gzip.compress(stream)
    head = SSE_HEAD[:-2] + b"content-encoding: gzip\r\n\r\n"
    refusal = gzip.compress(b'{"error":{"message":"too many cooks"}}')
    far = await upstream(
        [ok(packed, b"content-encoding: gzip")],
        [head + chunked(zipped[:30], zipped[30:])],
        [ok(refusal, b"content-encoding: gzip", status=b"400 Bad Request")],
        [ok(WHOLE, b"content-encoding: gzip")],
        [ok(WHOLE, b"content-encoding: odd")],
    )
    side = await begin(far)
    got, _ = await asked(side)
    assert orjson.loads(got.body)["content"][0]["text"] == "Hello"
    got, row = await asked(side, stream=True)
    assert b"message_stop" in got.body
    assert row.outcome.error is None
    got, _ = await asked(side)
    assert (got.status, complaint(got)) == (400, "too many cooks")
    for _ in range(2):
        got, _ = await asked(side)
        assert got.status == 502


async def test_a_refusal_repeats_little(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """Names of members are the client's own text: what is told of them is bounded."""
    side = await begin(await upstream([ok(WHOLE)]))
    got, _ = await asked(side, stream=False, **{"x" * 100_000: 1})
    assert got.status == 400
    assert len(got.body) < 1_000


async def test_an_answer_that_failed_is_an_error(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """The provider says so with status 200, whole and streamed: an error, that counts as failed and is paid."""
    failed = ANSWER | {"choices": [{"index": 0, "finish_reason": "error", "message": {"content": "Hel"}}]}
    side = await begin(await upstream([ok(orjson.dumps(failed))]))
    got, row = await asked(side)
    assert (got.status, complaint(got)) == (502, "the provider says that its answer failed")
    assert (row.outcome.kind, row.outcome.error, row.outcome.cost_nusd) == ("failed", "error_event", 13_000)


async def test_a_stream_that_failed_ends_with_an_error(upstream: Upstream, begin: Callable[..., Any]) -> None:
    """No end that looks well stands behind it."""
    data = BEGIN + TEXT + piece({}, "error") + USAGE + DONE
    side = await begin(await upstream([SSE_HEAD[:-2] + b"\r\n" + data + END]))
    got, row = await asked(side, stream=True)
    assert (got.status, b"event: error" in got.body, b"message_stop" in got.body) == (200, True, False)
    assert (row.outcome.kind, row.outcome.error, row.outcome.cost_nusd) == ("failed", "error_event", 13_000)


@pytest.mark.parametrize("reason", ["STOP", "MALFORMED_FUNCTION_CALL"])
async def test_an_end_that_comes_alone_is_measured(upstream: Upstream, begin: Callable[..., Any], reason: str) -> None:
    """A stream of Gemini's is told to its end when the last chunk is there: its row is the same if that comes by itself."""
    said = {"content": {"parts": [{"text": "Hello"}]}, "finishReason": reason}
    last = SSE_HEAD + event(orjson.dumps({"responseId": "g1", "modelVersion": "m", "candidates": [said]}))
    side = await begin(await upstream([last + END], [last, 0.05, END]), far={"dialect": "gemini"})
    one, other = [(await asked(side, stream=True))[1].outcome for _ in range(2)]
    assert (one.kind, one.error, one.finish) == (other.kind, other.error, other.finish)
    assert (one.empty, other.empty) == (False, False)
