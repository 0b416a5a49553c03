"""Answers as few servers give them: what is measured and charged of them, and what of them goes down."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.integration.canary import rows_of
from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import SSE_HEAD, call, chunked, connected, get, ok, post

ASK = b'{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
WHOLE = ASK.replace(b"true", b"false")
CHUNK = b'data: {"id":"c1","model":"gpt-4o-mini","choices":[{"index":0,"delta":%b,"finish_reason":%b}]%%b}\n\n'
TOKEN, END = CHUNK % (b'{"content":"Hi"}', b"null"), CHUNK % (b"{}", b'"stop"')
COUNTS = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
USAGE = b'data: {"id":"c1","choices":[],"usage":%b}\n\n' % json.dumps(COUNTS).encode()
DONE = b"data: [DONE]\n\n"
TOLD = TOKEN % b',"usage":null' + END % b',"usage":null' + USAGE + DONE
BARE = TOKEN % b"" + END % b"" + DONE
EVENTS = b"content-type: text/event-stream"


def whole(**usage: int) -> bytes:
    message = {"message": {"content": "Hi"}, "finish_reason": "stop"}
    return json.dumps({"id": "c", "model": "gpt-4o-mini", "choices": [message], "usage": usage or COUNTS}).encode()


@pytest.mark.parametrize("coding", [b"identity", b"none", b"Identity"])
async def test_a_coding_that_is_none(upstream: Upstream, serve: Serve, coding: bytes) -> None:
    """Servers say so that no proxy compresses their streams: such a body is metered, and loses what we asked for."""
    line = b"Content-Encoding: " + coding
    up = await upstream([SSE_HEAD.replace(b"\r\n\r\n", b"\r\n%b\r\n\r\n" % line) + chunked(TOLD)], [ok(whole(), line)])
    side = await serve(up)
    rows = rows_of(side)
    assert (await call(side.port, post(body=ASK))).body == BARE
    await call(side.port, post(body=WHOLE))
    for one in rows:
        usage = one.outcome.usage
        assert usage is not None
        assert (usage.output_tokens, one.outcome.cost_kind) == (1, "exact")
    assert rows[0].outcome.clocks.ttft_s is not None


async def test_a_library_that_is_older(upstream: Upstream, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian 12's zstandard knows one frame only; of a library that is none of those we know nothing is read. The answer
    passes."""

    real = zstandard.ZstdDecompressor()

    class Old:
        def decompressobj(self) -> Any:
            return real.decompressobj()

    body = zstandard.ZstdCompressor().compress(whole())
    up = await upstream(*[[ok(body, b"Content-Encoding: zstd")]] * 2)
    side = await serve(up)
    rows = rows_of(side)
    for known in (Old, None):
        monkeypatch.setattr(zstandard, "ZstdDecompressor", known)
        assert (await call(side.port, post(body=WHOLE))).body == body
    assert [row.outcome.usage is not None for row in rows] == [True, False]
    assert side.books.bugs == 0


async def test_zstd_of_several_frames(upstream: Upstream, serve: Serve) -> None:
    """RFC 8878 section 3.1: frames in a row are one body, of whichever length."""
    pack, body = zstandard.ZstdCompressor().compress, whole()
    up = await upstream([ok(pack(body[:40]) + pack(body[40:]), b"Content-Encoding: zstd")])
    side = await serve(up)
    rows = rows_of(side)
    await call(side.port, post(body=WHOLE))
    assert (rows[0].outcome.kind, rows[0].outcome.usage is not None) == ("completed", True)


async def test_a_refusal_that_is_none_of_our_question(upstream: Upstream, serve: Serve) -> None:
    """A server that repeats a wrong call in its answer names our member too. The call is sent once more without it; when
    that is refused as well it was not the question, and others go on being asked."""
    wrong = {"detail": [{"loc": ["body", "messages"], "input": {"stream_options": {"include_usage": True}}}]}
    refusal = ok(json.dumps(wrong).encode(), status=b"422 Unprocessable Entity")
    up = await upstream([refusal], [refusal], [SSE_HEAD + chunked(TOLD)])
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(post(body=b'{"model":"m","stream":true}'))
        assert (await client.response()).status == 422
        client.send(post(body=ASK))
        assert (await client.response()).body == BARE
    assert [b"stream_options" in one.body for one in up.requests] == [True, False, True]


REFUSAL = ok(b'{"error":{"message":"unknown field stream_options"}}', status=b"400 Bad Request")
TWO = """
version: 1
service: default
upstreams:
  one: {{dialect: openai, base_url: "http://127.0.0.1:{one}/v1"}}
  two: {{dialect: openai, base_url: "http://127.0.0.1:{two}/v1", usage: never, api_key: {{env: NEW_KEY}}}}
routes:
  - name: all
    mode: canary
    baseline: {{id: base, upstream: one, model: gpt-4o-mini}}
    arms: [{{id: other, upstream: two, model: n}}]
    fallback: {{arms: [other], on: [connect, "503"], max: 1}}
"""


async def test_doubt_about_one_upstream_says_nothing_of_another(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """`usage: never` stays so, whoever refused the question before the call went there."""
    one = await upstream([REFUSAL], ["reset"], [REFUSAL], ["reset"])
    two = await upstream([ok(b"{}", status=b"500 No")])
    (tmp_path / "p.yaml").write_text(TWO.format(one=one.port, two=two.port))
    side = await serve("http://127.0.0.1:1", policies=tmp_path, environ={"NEW_KEY": "held-key"})
    for _ in range(2):
        await call(side.port, post(body=ASK))
    assert (len(one.requests), len(two.requests)) == (4, 2)
    assert all(b"stream_options" not in one.body for one in two.requests)


async def test_another_model_of_the_upstream_says_nothing_of_the_question(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """The call that was refused never went through without it: the one that did asked for another model."""
    up = await upstream([REFUSAL], [ok(b"{}", status=b"503 No")], [SSE_HEAD + chunked(TOLD)])
    policy = TWO.format(one=up.port, two=up.port).replace("upstream: two", "upstream: one")
    (tmp_path / "p.yaml").write_text(policy)
    side = await serve("http://127.0.0.1:1", policies=tmp_path, environ={"NEW_KEY": "held-key"})
    for _ in range(2):
        assert (await call(side.port, post(body=ASK))).status == 200
    assert [b"stream_options" in one.body for one in up.requests] == [True, False, True, True]


async def test_one_model_of_a_gateway_does_not_end_the_question_for_others(upstream: Upstream, serve: Serve) -> None:
    up = await upstream([REFUSAL], [SSE_HEAD + chunked(BARE)])
    side = await serve(up)
    for model in (b"old", b"gpt-4o-mini", b"old"):
        await call(side.port, post(body=ASK.replace(b"gpt-4o-mini", model)))
    assert [b"stream_options" in one.body for one in up.requests] == [True, False, True, False]


async def test_what_no_model_has_read_is_not_billed(upstream: Upstream, serve: Serve) -> None:
    """A client that leaves while an error is held until it is whole, in the middle of an upload that goes up as it comes."""
    one = await upstream([REFUSAL[:-20], 9.0], [9.0])
    side = await serve(one)
    rows = rows_of(side)
    async with connected(side.port) as client:
        client.send(post(body=ASK))
        assert await one.until(lambda: bool(one.requests))
        await asyncio.sleep(0.1)
    assert await one.until(lambda: len(rows) == 1)
    async with connected(side.port) as client:
        client.send(post(body=b'{"model":"gpt-4o-mini","x":"%b"}' % (b"x" * 9_000_000))[:300_000])
        assert await one.until(lambda: one.peers[-1].bytes_received > 200_000)
    assert await one.until(lambda: len(rows) == 2)
    assert [(row.outcome.kind, row.outcome.usage, row.outcome.cost_nusd) for row in rows] == [
        ("aborted", None, None)
    ] * 2


@pytest.mark.parametrize(
    ("options", "asked"), [(b'{"bogus":1}', True), (b"[]", False), (b'{"include_usage":"maybe"}', False)]
)
async def test_options_of_the_clients_own(upstream: Upstream, serve: Serve, options: bytes, *, asked: bool) -> None:
    """What a server refuses of them is between the two: it is not mended, and not held against the server. Where we added
    to them the call goes up as it came, too, before the client is told."""
    refusal = ok(b'{"error":{"message":"stream_options: unknown or wrong"}}', status=b"400 Bad Request")
    up = await upstream(*[[refusal]] * (1 + asked), [SSE_HEAD + chunked(TOLD)])
    side = await serve(up)
    body = ASK.replace(b'"stream"', b'"stream_options":%b,"stream"' % options)
    async with connected(side.port) as client:
        client.send(post(body=body))
        assert (await client.response()).status == 400
        client.send(post(body=ASK))
        assert (await client.response()).body == BARE
    *first, as_it_came, later = [one.body for one in up.requests]
    assert (len(first), as_it_came) == (asked, body)
    assert b'"include_usage":true' in later


@pytest.mark.parametrize("options", [b"null", b"{}", b'{"include_usage":false}', b'{"include_obfuscation":false}'])
async def test_options_that_the_server_takes_without_ours(upstream: Upstream, serve: Serve, options: bytes) -> None:
    """A call that ours made wrong is sent as it came."""
    up = await upstream([REFUSAL], [SSE_HEAD + chunked(BARE)])
    side = await serve(up)
    body = ASK.replace(b'"stream"', b'"stream_options":%b,"stream"' % options)
    assert (await call(side.port, post(body=body))).status == 200
    assert up.requests[1].body == body


@pytest.mark.parametrize("second", ["429 Slow", "503 No", "401 No", "302 Found", "reset", "slow"])
async def test_the_question_ends_where_the_call_goes_through_without_it(
    upstream: Upstream, serve: Serve, second: str
) -> None:
    """Not where it is refused for another reason, breaks, or its client does not wait for the answer."""
    script = {"reset": "reset", "slow": 9.0}.get(second, ok(b"{}", status=second.encode()))
    up = await upstream([REFUSAL], [script], [SSE_HEAD + chunked(TOLD)])
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(post(body=ASK))
        assert await up.until(lambda: len(up.requests) == 2)
        if second != "slow":
            await client.response()
    assert await up.until(lambda: not side.app.plane.exchanges)
    assert (await call(side.port, post(body=ASK))).body == BARE
    assert [b"stream_options" in one.body for one in up.requests] == [True, False, True]


STORED = b'{"id":"x","model":"gpt-4o-mini","usage":{"input_tokens":%d,"output_tokens":%d}}'


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions/chatcmpl-1", whole()),
        ("/v1/responses/resp_1/cancel", STORED % (9, 9)),
        ("/v1/batches/batch_1/cancel", STORED % (9, 9)),
        ("/v1/batches", STORED % (0, 0)),
        ("/v1/threads/thread_1/runs/run_1", STORED % (9, 9)),
        ("/v1/threads/thread_1/runs/run_1/cancel", STORED % (9, 9)),
    ],
)
async def test_what_is_stored_is_not_paid_for_again(upstream: Upstream, serve: Serve, path: str, body: bytes) -> None:
    """A call that changes or ends what an earlier one made shows that one's usage."""
    up = await upstream([ok(body)])
    side = await serve(up)
    rows = rows_of(side)
    assert (await call(side.port, post(path, b'{"metadata":{"a":"b"}}'))).body == body
    assert (rows[0].outcome.usage, rows[0].outcome.cost_nusd) == (None, None)


async def test_a_length_for_a_client_that_knows_no_chunks(upstream: Upstream, serve: Serve) -> None:
    """HTTP/1.0: where something is cut out the body ends with its connection, and no length is told."""
    up = await upstream([ok(TOLD, EVENTS)])
    side = await serve(up)
    got = await call(side.port, post(body=ASK).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert (got.body, got.value(b"content-length")) == (BARE, None)


async def test_an_old_server_whose_answer_is_framed_anew(upstream: Upstream, serve: Serve) -> None:
    """RFC 9112 section 6.1: what has chunks is no HTTP/1.0."""
    up = await upstream([ok(TOLD, EVENTS).replace(b"HTTP/1.1", b"HTTP/1.0", 1)])
    side = await serve(up)
    got = await call(side.port, post(body=ASK))
    assert got.raw.startswith(b"HTTP/1.1 200")
    assert got.body == BARE


async def test_an_interim_answer_goes_down_without_what_is_between_two(upstream: Upstream, serve: Serve) -> None:
    """RFC 9110 section 15.2: passed on, but for hop-by-hop lines and names of ours."""
    hints = b"HTTP/1.1 103 Early Hints\r\nConnection: X-Own\r\nX-Own: 1\r\nx-sidecar-model: fake\r\nLink: </a>\r\n\r\n"
    up = await upstream([hints + ok(b"{}")])
    side = await serve(up)
    got = await call(side.port, get(), method="GET")
    assert b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" in got.raw
    assert b"X-Own" not in got.raw
    assert b"fake" not in got.raw


async def test_a_client_that_leaves_before_the_first_byte(upstream: Upstream, serve: Serve) -> None:
    """The model may have begun: the prompt is the least that the call costs."""
    up = await upstream([3.0])
    side = await serve(up)
    rows = rows_of(side)
    async with connected(side.port) as client:
        client.send(post(body=ASK))
        assert await up.until(lambda: bool(up.requests))
        await asyncio.sleep(0.1)
    assert await up.until(lambda: bool(rows))
    assert (rows[0].outcome.kind, rows[0].outcome.cost_kind) == ("aborted", "lower_bound")


async def test_a_body_refused_while_it_waits_for_a_connection(upstream: Upstream, serve: Serve) -> None:
    """It waits no longer, so that the connection goes to who still does."""
    up = await upstream([1.0, ok(b"{}")])
    side = await serve(up, max_upstream_connections=1)
    async with connected(side.port) as one, connected(side.port) as two:
        one.send(post("/v1/files", b"x"))
        assert await up.until(lambda: bool(up.requests))
        two.send(b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.1)
        two.send(b"zz\r\n")
        assert (await two.response()).status == 400
        assert side.pool[2] == 0, "nobody waits"
        assert (await one.response()).status == 200
    assert side.balanced
    assert side.books.bugs == 0
    assert side.pool[:2] == (1, 1), "its connection is kept"


TAGGED = """
version: 1
service: gateway
upstreams:
  passing: {{dialect: openai, base_url: "http://127.0.0.1:{port}", price: free}}
routes:
  - name: others
    baseline: {{id: m, upstream: passing, model: m}}
    mode: canary
    sticky: conversation
    arms: [{{id: o, upstream: passing, model: o}}]
"""


@pytest.mark.parametrize("lines", [(), (b"x-sidecar-tags: tenant=acme",), (b"x-sidecar-tenant: acme",)])
async def test_whoever_tags_a_tenant_keeps_its_conversation(
    upstream: Upstream, serve: Serve, tmp_path: Path, lines: tuple[bytes, ...]
) -> None:
    """Also where a tag of the app's own names it, in any mode."""
    said: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": []}
    up = await upstream([ok(json.dumps(said | {"usage": {"input_tokens": 1, "output_tokens": 1}}).encode())])
    (tmp_path / "gateway.yaml").write_text(TAGGED.format(port=up.port))
    side = await serve(up, service="gateway", policies=tmp_path)
    rows = rows_of(side)
    for more in (b"", b',"previous_response_id":"resp_1"'):
        await call(side.port, post("/v1/responses", b'{"model":"m","input":"Hi"%b}' % more, *lines))
    first, later = [one.facts for one in rows]
    assert (later.key, later.pinned) == (first.key, rows[0].decision.arm)
