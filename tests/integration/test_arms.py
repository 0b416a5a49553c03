"""Requests that a policy sends elsewhere: keys that stay where they belong, fallbacks, refusals, feedback, sticky heads."""

from pathlib import Path

import pytest
from openai import APIConnectionError, AsyncOpenAI, AsyncStream, InternalServerError
from openai.types.chat import ChatCompletionChunk

from tests.integration.conftest import Running, Serve, Upstream
from tests.integration.raw import (
    SSE_HEAD,
    TOLD_S,
    Response,
    Script,
    ScriptedUpstream,
    call,
    chunked,
    connected,
    delta,
    ok,
    post,
)

BODY = b'{"messages":[{"role":"user","content":"Hi"}],"model":"m"}'
KEYS = [
    b"Authorization: Bearer client-key",
    b"x-api-key: client-key",
    b"api-key: client-key",
    b"x-goog-api-key: client-key",
]


def policy(folder: Path, first: ScriptedUpstream, second: ScriptedUpstream, route: str = "") -> Path:
    """Two upstreams of which the second has a key of its own; `route` adds to the one route."""
    (folder / "key").write_text("held-key-0123456789\n")
    (folder / "key").chmod(0o600)
    (folder / "policies").mkdir()
    (folder / "policies" / "p.yaml").write_text(
        f"""version: 1
service: default
upstreams:
  one: {{dialect: openai, base_url: "http://127.0.0.1:{first.port}/v1"}}
  two: {{dialect: openai, base_url: "http://127.0.0.1:{second.port}/v1", api_key: {{file: {folder}/key}}}}
routes:
  - name: all
    match: {{models: ["m"]}}
    mode: canary
    sticky: session
    baseline: {{id: base, upstream: one, model: m}}
    arms: [{{id: other, upstream: two, model: n}}]
{route}
  - name: held
    match: {{models: ["held"]}}
    mode: canary
    baseline: {{id: base, upstream: two, model: real-name}}
"""
    )
    return folder / "policies"


async def ask(
    side: Running, one: ScriptedUpstream, two: ScriptedUpstream, failing: Script, *lines: bytes, body: bytes = BODY
) -> Response:
    """One call of a session that the canary does not have, while the first upstream answers with `failing`."""
    one.by = lambda _head: [ok()]
    for number in range(100):
        session = b"x-sidecar-session: s%d" % number
        if (await call(side.port, post("/v1/chat/completions", BODY, session))).value(b"x-sidecar-model") == b"one/m":
            break
    one.requests.clear()
    two.requests.clear()
    one.by = lambda _head: failing
    return await call(side.port, post("/v1/chat/completions", body, session, *lines))


FALLBACK = "    fallback: {arms: [other], on: [connect, 429, 5xx, timeout], max: 1}"


async def test_a_held_key_replaces_every_credential(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """SEC-KEYS: the client's credentials are for another origin: none goes along; only the model's name is rewritten."""
    one, two = await upstream(), await upstream()
    side = await serve("http://127.0.0.1:1", policies=policy(tmp_path, one, two))
    async with connected(side.port) as client:
        for lines in (KEYS, KEYS[1:], []):
            client.send(post("/v1/chat/completions", b'{"a":1, "model" : "held","b":[1.0] }', *lines))
            got = await client.response()
            assert got.status == 200
            assert got.value(b"x-sidecar-model") == b"two/real-name"
    for seen in two.requests:
        assert b"client-key" not in seen.head
        assert seen.value(b"authorization") == b"Bearer held-key-0123456789"
        assert seen.body == b'{"a":1, "model" : "real-name","b":[1.0] }'
    assert not one.requests


async def test_a_key_that_cannot_be_read_is_not_replaced_by_the_clients(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """SEC-KEYS: rather no key than another one's."""
    one, two = await upstream(), await upstream()
    folder = policy(tmp_path, one, two)
    (tmp_path / "key").write_text("")
    side = await serve("http://127.0.0.1:1", policies=folder)
    await call(side.port, post("/v1/chat/completions", b'{"model":"held"}', *KEYS))
    assert all(b"client-key" not in seen.head for seen in two.requests)


@pytest.mark.parametrize(
    "failure",
    [
        ["reset"],
        ["close"],
        [ok(b"{}", b"Retry-After: 9", status=b"503 Busy")],
        [ok(b"{}", status=b"429 Slow")],
        [5.0],
        [b"HTTP/1.1 200 O", "reset"],
    ],
    ids=["reset", "close", "503", "429", "silent", "half a head"],
)
async def test_a_listed_failure_falls_back_once(
    upstream: Upstream, serve: Serve, tmp_path: Path, failure: list[object]
) -> None:
    """GW-22, GW-24, GW-27: before the first byte: the other arm, with its own key and model, the same body otherwise."""
    one, two = await upstream(), await upstream([ok(b'{"id":"2"}')])
    side = await serve("http://127.0.0.1:1", policies=policy(tmp_path, one, two, FALLBACK), first_byte_timeout="1s")
    got = await ask(side, one, two, failure, *KEYS)  # type: ignore[arg-type]
    assert (got.status, got.body) == (200, b'{"id":"2"}')
    assert got.value(b"x-sidecar-model") == b"two/n"
    assert got.value(b"x-sidecar-reason") == b"fallback"
    assert two.requests[0].body == BODY.replace(b'"m"', b'"n"')
    assert b"client-key" not in two.requests[0].head
    assert (len(one.requests), len(two.requests)) == (1, 1)
    assert side.balanced
    assert side.books.failed == side.books.aborted == 0


async def test_the_last_error_tells_the_sdk_not_to_retry(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """INC-13: after a retry of ours the SDK's would multiply it: x-should-retry: false, once."""
    one = await upstream()
    two = await upstream([ok(b"{}", b"x-should-retry: true", status=b"503 Busy")])
    side = await serve("http://127.0.0.1:1", policies=policy(tmp_path, one, two, FALLBACK))
    got = await ask(side, one, two, [ok(b"{}", status=b"503 Busy")])
    assert got.status == 503
    assert [line for line in got.lines if b"should-retry" in line.lower()] == [b"x-should-retry: false"]
    assert (len(one.requests), len(two.requests)) == (1, 1)


async def test_nothing_is_spliced_after_the_first_byte(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """GW-22: once a byte is with the client a failure is a cut, whatever the policy lists."""
    one, two = await upstream(), await upstream([ok(b'{"id":"2"}')])
    side = await serve("http://127.0.0.1:1", policies=policy(tmp_path, one, two, FALLBACK))
    got = await ask(side, one, two, [SSE_HEAD + delta("a"), 0.05, "reset"], body=BODY[:-1] + b',"stream":true}')
    assert got.end in ("eof", "reset")
    assert b'"a"' in got.raw
    assert not two.requests


async def test_a_client_that_leaves_during_the_fallback(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """GW-21: the second upstream is told as the first would have been."""
    one, two = await upstream(), await upstream(by=lambda head: [ok()] if b"probe" in head else [30.0])
    side = await serve("http://127.0.0.1:1", policies=policy(tmp_path, one, two, FALLBACK))
    one.by = lambda _head: ["reset"]
    async with connected(side.port) as client:
        client.send(post(body=BODY))
        assert await two.until(lambda: bool(two.requests))
        client.close()
        assert await two.until(lambda: two.peers[0].lost.is_set(), TOLD_S)
    assert side.books.aborted == 1


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_a_denied_request_is_told_so(upstream: Upstream, serve: Serve, tmp_path: Path, dialect: str) -> None:
    """Rules fail closed, in the client's dialect, without a retry, and without a byte upstream."""
    one, two = await upstream(), await upstream()
    folder = policy(tmp_path, one, two)
    file = folder / "p.yaml"
    file.write_text(
        file.read_text()
        + """rules:
  - {id: eu, when: "user.region == 'EU'", action: deny, message: "Not from there"}
"""
    )
    side = await serve("http://127.0.0.1:1", policies=folder)
    path = "/v1/chat/completions" if dialect == "openai" else "/v1/messages"
    got = await call(side.port, post(path, BODY, b"x-sidecar-tags: region=EU"))
    assert not one.peers + two.peers
    if dialect == "openai":
        assert (got.status, got.value(b"x-should-retry")) == (403, b"false")
        assert b"Not from there" in got.body
        assert (await call(side.port, post(path, BODY, b"x-sidecar-tags: region=US"))).status == 200
        # the share of a canary is a hash with the process's own salt: one call in twenty is the other arm's
        assert len(one.requests + two.requests) == 1
    else:
        assert got.status in (403, 502)


async def test_feedback_finds_its_decision(upstream: Upstream, serve: Serve) -> None:
    """202 for a known id, 404 unknown, 422 out of range, 413, 415 and 405; the connection is kept."""
    up = await upstream([ok(b'{"id":"chatcmpl-1","choices":[]}')])
    side = await serve(up)
    lines = b"Host: localhost\r\nContent-Type: application/json\r\n"

    def feedback(body: bytes) -> bytes:
        return b"POST /_sidecar/v1/feedback HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), body)

    async with connected(side.port) as client:
        client.send(post(body=BODY))
        identity = (await client.response()).value(b"x-sidecar-decision") or b""
        await up.until(lambda: False, 0.2)
        statuses = []
        for body in (
            b'{"id":"%b","score":1,"source":"user"}' % identity,
            b'{"id":"none","score":1,"source":"user"}',
            b'{"id":"%b","score":2,"source":"user"}' % identity,
            b"{",
        ):
            request = feedback(body)
            client.send(request[:-3])
            client.send(request[-3:])
            statuses.append((await client.response()).status)
        assert statuses[:3] == [202, 404, 422]
        assert 400 <= statuses[3] < 500
        client.send(b"GET /_sidecar/v1/feedback HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.response()).status == 405
        client.send(feedback(b"{}").replace(b"application/json", b"text/plain"))
        assert (await client.response()).status == 415
        client.send(feedback(b" " * 5000))
        assert (await client.response()).status == 413
    assert len(up.requests) == 1
    for bad in (
        feedback(b"{}").replace(b"Content-Length: 2\r\n", b""),
        feedback(b"{}").replace(b"Content-Length: 2", b"Transfer-Encoding: chunked"),
    ):
        assert (await call(side.port, bad)).status == 413


async def test_feedback_of_a_web_page_is_refused(upstream: Upstream, serve: Serve) -> None:
    """SEC-ADMIN: a page must not teach the engine."""
    up = await upstream()
    side = await serve(up)
    got = await call(side.port, post("/_sidecar/v1/feedback", b"{}", b"Origin: https://evil.example"))
    assert got.status == 403


async def test_the_sdks_own_three_tries_are_all(upstream: Upstream, serve: Serve) -> None:
    """INC-13: with 503 for all, the upstream sees what the SDK sent and no more."""
    up = await upstream([ok(b"{}", b"retry-after-ms: 1", status=b"503 Busy")])
    side = await serve(up)
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{side.port}/v1", api_key="k") as sdk:
        with pytest.raises(InternalServerError):
            await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    assert len(up.requests) == 3


async def read_texts(stream: AsyncStream[ChatCompletionChunk], texts: list[str | None]) -> None:
    """Appends as it reads, so that what came before a failure is kept."""
    async for one in stream:
        texts.append(one.choices[0].delta.content)  # noqa: PERF401 - see above


async def test_an_sdk_sees_a_cut_stream_as_an_error(upstream: Upstream, serve: Serve) -> None:
    """INC-7, GW-22: through a real SDK: an exception, not the end of the answer."""
    up = await upstream([SSE_HEAD + delta("a"), 0.05, "close"])
    side = await serve(up)
    texts: list[str | None] = []
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{side.port}/v1", api_key="k", max_retries=0) as sdk:
        stream = await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
        with pytest.raises(APIConnectionError):
            await read_texts(stream, texts)
    assert texts == ["a"]


async def test_an_sdk_that_hangs_up_at_done_is_no_abort(upstream: Upstream, serve: Serve) -> None:
    """SDKs close at [DONE] without waiting for the last chunk: the call is complete."""
    up = await upstream([SSE_HEAD + delta("a") + chunked(b"data: [DONE]\n\n")[:-5], 30.0])
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(post(body=BODY[:-1] + b',"stream":true}'))
        await client.until(b"[DONE]")
        client.close()
        assert await up.until(lambda: up.peers[0].lost.is_set(), TOLD_S)
    assert (side.books.completed, side.books.aborted) == (1, 0)
