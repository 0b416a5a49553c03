"""Clients of Azure OpenAI, Vertex AI, Cohere and Bedrock at their own paths: served, metered, and told what is missing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI

from sidecar.core.types import Settled
from sidecar.sim.provider import SimRequest
from sidecar.wire.sigv4 import Credentials, Place, sign
from tests.integration.canary import rows_of, written
from tests.integration.conftest import Running, Serve, Sim, Upstream
from tests.integration.raw import SSE_HEAD, Response, call, connected, event, get, ok, post
from tests.integration.test_bodies import SWITCH, UPGRADE
from tests.integration.test_translation_faults import END

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "What is 17 + 25?"}]}
TURN = b'{"contents":[{"role":"user","parts":[{"text":"What is 17 + 25?"}]}]}'
OURS = "/v1/projects/ours/locations/here"
THEIRS = "/v1/projects/theirs/locations/there"
PRICE = {"input_mtok": 1, "output_mtok": 2}
AWS = "AKIDEXAMPLE:wJalrXUtnFEMI"


async def before(
    serve: Serve,
    folder: Path,
    port: int,
    far: Mapping[str, Any],
    *more: dict[str, Any],
    key: str = "held-key",
    **rest: Any,
) -> Running:
    """A sidecar with an upstream of this kind, and routes where a test has some."""
    one = {"price": PRICE, "api_key": {"env": "HELD"}, **far, "base_url": f"http://127.0.0.1:{port}{far['base_url']}"}
    upstreams = {"far": {name: value for name, value in one.items() if value is not None}, **rest}
    made = {"version": 1, "upstreams": upstreams, "routes": list(more)}
    side = await serve("http://127.0.0.1:9", policies=written(folder / "policies", made), environ={"HELD": key})
    assert side.app.policies.error is None
    return side


def seen(side: Running, rows: list[Settled]) -> list[tuple[str | None, str, str, bool, bool]]:
    """Of each row: model, upstream, outcome, whether its usage is the provider's, and whether it has a cost."""
    side.app.plane.settle()
    return [
        (
            row.sent_model,
            row.upstream,
            row.outcome.kind,
            row.outcome.usage_source == "provider",
            bool(row.outcome.cost_nusd),
        )
        for row in rows
    ]


def fields(request: SimRequest) -> dict[str, str]:
    lines = request.head.decode().split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


AZURE = {"dialect": "openai", "provider": "azure-deployments", "base_url": ""}
AZURE_V1 = {"dialect": "openai", "provider": "azure", "base_url": "/openai/v1"}
VERTEX = {"dialect": "gemini", "provider": "vertex", "base_url": f"{OURS}/publishers/google"}
BEDROCK = {"dialect": "bedrock", "base_url": ""}


@pytest.mark.parametrize("far", [AZURE, AZURE_V1])
async def test_the_azure_client(sim: Sim, serve: Serve, tmp_path: Path, far: dict[str, Any]) -> None:
    """Its deployment is the model; path, version and body go as they came, with the key that the sidecar holds."""
    provider = await sim(requests_kept=8)
    side = await before(serve, tmp_path, provider.port, far)
    rows = rows_of(side)
    url = f"http://127.0.0.1:{side.port}"
    async with AsyncAzureOpenAI(azure_endpoint=url, api_key="mine", api_version="2024-10-21", max_retries=0) as client:
        whole = await client.chat.completions.create(model="gpt-4o", **ASK)
        assert whole.choices[0].message.content
        text = ""
        async for chunk in await client.chat.completions.create(model="gpt-4o", stream=True, **ASK):
            assert chunk.usage is None
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        assert text == whole.choices[0].message.content
        vectors = await client.embeddings.create(model="gpt-4o", input="hello", encoding_format="float")
        assert vectors.data[0].embedding
    chat = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    embed = "/openai/deployments/gpt-4o/embeddings?api-version=2024-10-21"
    assert [one.target for one in provider.requests] == [chat, chat, embed]
    assert {fields(one)["api-key"] for one in provider.requests} == {"held-key"}
    assert seen(side, rows) == [("gpt-4o", "far", "completed", True, True)] * 3
    assert [row.facts.endpoint for row in rows] == ["chat", "chat", "embeddings"]
    assert rows[1].outcome.clocks.ttft_s is not None


async def test_azures_v1_api(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Chat completions and Responses, at an upstream whose base_url ends in /openai/v1: nothing is doubled."""
    provider = await sim(requests_kept=8)
    side = await before(serve, tmp_path, provider.port, AZURE_V1)
    rows = rows_of(side)
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{side.port}/openai/v1", api_key="mine", max_retries=0) as client:
        await client.chat.completions.create(model="gpt-4o", **ASK)
        await client.responses.create(model="gpt-4o", input="What is 17 + 25?")
    assert [one.target for one in provider.requests] == ["/openai/v1/chat/completions", "/openai/v1/responses"]
    assert seen(side, rows) == [("gpt-4o", "far", "completed", True, True)] * 2


@pytest.mark.parametrize(("dialect", "target"), [("openai", "/v1/chat/completions"), ("anthropic", "/v1/messages")])
async def test_an_azure_client_may_be_routed(sim: Sim, serve: Serve, tmp_path: Path, dialect: str, target: str) -> None:
    """A call of an Azure client is a call: another arm serves it, at its own path and in its own dialect."""
    provider = await sim(requests_kept=8)
    near = {"dialect": dialect, "base_url": f"http://127.0.0.1:{provider.port}", "api_key": {"env": "HELD"}}
    route = {"name": "r", "match": {"models": ["gpt-4o"]}, "mode": "observe",
             "baseline": {"id": "near", "upstream": "near", "model": "gpt-4o"}}  # fmt: skip
    side = await before(serve, tmp_path, 9, AZURE, route, near=near)
    raw = orjson.dumps({**ASK, "max_tokens": 64})  # without a model: the path says it
    path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21&x=1"
    got = await call(side.port, post(path, raw, b"api-key: mine"))
    assert (got.status, got.value(b"x-sidecar-model")) == (200, b"near/gpt-4o"), got.body
    assert orjson.loads(got.body)["object"] == "chat.completion"
    assert provider.requests[0].target == target + ("?x=1" if dialect == "openai" else "")
    assert orjson.loads(provider.requests[0].body)["model"] == "gpt-4o"


async def test_other_paths_of_azure_pass(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Byte for byte, streamed, whatever they are; and a gateway's own prefix stays in front."""
    up = await upstream([ok(b'{"id":"file-1"}')])
    side = await before(serve, tmp_path, up.port, {**AZURE_V1, "base_url": "/gate/openai/v1"})
    body = b"--x\r\n\x00\xff\r\n--x--"
    got = await call(side.port, post("/openai/files?api-version=2024-10-21", body))
    assert got.status == 200
    assert up.requests[0].line == b"POST /gate/openai/files?api-version=2024-10-21 HTTP/1.1"
    assert up.requests[0].body == body


async def test_azures_realtime_is_a_tunnel(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    up = await upstream([SWITCH, b"hello", 5.0])
    side = await before(serve, tmp_path, up.port, AZURE)
    async with connected(side.port) as client:
        client.send(get("/openai/realtime?api-version=1&deployment=d", *UPGRADE))
        await client.until(b"hello")
        assert client.data.startswith(b"HTTP/1.1 101 ")
    assert up.requests[0].line == b"GET /openai/realtime?api-version=1&deployment=d HTTP/1.1"
    assert b"api-key: held-key" in up.requests[0].head


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ((b"realtime, openai-insecure-api-key.mine-0123456789, b",), b"Sec-WebSocket-Protocol: realtime, b"),
        ((b"realtime", b"openai-insecure-api-key.mine-0123456789"), b"Sec-WebSocket-Protocol: realtime"),
        ((b"openai-insecure-api-key.mine-0123456789",), b""),
    ],
)
async def test_a_browsers_key_is_none_of_anothers(
    upstream: Upstream, serve: Serve, tmp_path: Path, said: tuple[bytes, ...], left: bytes
) -> None:
    """It stands among the subprotocols: where the sidecar holds the key it does not go up, and the others do."""
    up = await upstream([SWITCH, b"hello", 5.0])
    side = await before(serve, tmp_path, up.port, AZURE)
    async with connected(side.port) as client:
        lines = [b"Sec-WebSocket-Protocol: " + one for one in said]
        client.send(get("/openai/realtime?api-version=1&deployment=d", *UPGRADE, *lines))
        await client.until(b"hello")
    head = up.requests[0].head
    assert b"mine" not in head
    assert [line for line in head.split(b"\r\n") if b"Protocol" in line] == ([left] if left else [])


@pytest.mark.parametrize("path", ["/openai/responses/r/cancel?api-version=1", "/openai/v1/responses/r/cancel"])
async def test_azures_stored_answers_are_not_paid_for_again(
    upstream: Upstream, serve: Serve, tmp_path: Path, path: str
) -> None:
    up = await upstream([ok(b'{"id":"r","model":"gpt-4o-mini","usage":{"input_tokens":9,"output_tokens":9}}')])
    side = await before(serve, tmp_path, up.port, AZURE)
    rows = rows_of(side)
    assert (await call(side.port, post(path, b"{}"))).status == 200
    assert (rows[0].outcome.usage, rows[0].outcome.cost_nusd) == (None, None)


async def test_gemini_on_vertex(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Whole, streamed and counted; project and location are the upstream's, whatever the client has in its path."""
    provider = await sim(requests_kept=8)
    side = await before(serve, tmp_path, provider.port, VERTEX)
    rows = rows_of(side)
    model = f"{THEIRS}/publishers/google/models/gemini-2.5-flash"
    verbs = (":generateContent", ":streamGenerateContent?alt=sse", ":countTokens")
    got = [await call(side.port, post(model + verb, TURN, b"authorization: Bearer mine")) for verb in verbs]
    assert [one.status for one in got] == [200, 200, 200], got
    assert [one.target for one in provider.requests] == [model.replace(THEIRS, OURS) + verb for verb in verbs]
    assert {fields(one)["authorization"] for one in provider.requests} == {"Bearer held-key"}
    assert seen(side, rows)[:2] == [("gemini-2.5-flash", "far", "completed", True, True)] * 2
    assert [row.facts.stream for row in rows] == [False, True, False]
    assert rows[1].outcome.clocks.ttft_s is not None
    assert rows[2].outcome.cost_nusd == 0


@pytest.mark.parametrize("verb", ["generateContent", "streamGenerateContent?alt=sse"])
async def test_a_vertex_client_may_be_routed(upstream: Upstream, serve: Serve, tmp_path: Path, verb: str) -> None:
    """Another arm of Gemini's serves it at its own path, with another model and another key."""
    up = await upstream([ok(b'{"candidates":[{"content":{"parts":[{"text":"42"}]},"finishReason":"STOP"}]}')])
    near = {"dialect": "gemini", "base_url": f"http://127.0.0.1:{up.port}", "api_key": {"env": "HELD"}}
    route = {"name": "r", "match": {"models": ["auto"]}, "virtual": ["auto"],
             "baseline": {"id": "near", "upstream": "near", "model": "gemini-2.5-pro"}}  # fmt: skip
    side = await before(serve, tmp_path, 9, VERTEX, route, near=near)
    path = f"{THEIRS}/publishers/google/models/auto:{verb}"
    got = await call(side.port, post(path, TURN, b"authorization: Bearer mine"))
    assert (got.status, got.value(b"x-sidecar-model")) == (200, b"near/gemini-2.5-pro")
    assert up.requests[0].line == f"POST /v1beta/models/gemini-2.5-pro:{verb} HTTP/1.1".encode()
    assert b"x-goog-api-key: held-key" in up.requests[0].head
    assert b"Bearer mine" not in up.requests[0].head


MESSAGE = {
    "id": "m1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "42"}], "usage": {"input_tokens": 7, "output_tokens": 3},
}  # fmt: skip
STREAMED = b"".join(
    event(orjson.dumps(one))
    for one in (
        {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "42"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    )
)


async def test_claude_on_vertex(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """rawPredict is nothing that is translated: it passes and is metered as what it says, with the path's model."""
    up = await upstream([ok(orjson.dumps(MESSAGE))], [SSE_HEAD + STREAMED + END])
    side = await before(serve, tmp_path, up.port, VERTEX)
    rows = rows_of(side)
    body = b'{"anthropic_version":"vertex-2023-10-16","max_tokens":9,"messages":[]}'
    for verb in (":rawPredict", ":streamRawPredict"):
        path = f"{THEIRS}/publishers/anthropic/models/claude-sonnet-4-5@20250929{verb}"
        assert (await call(side.port, post(path, body))).status == 200
    line = f"POST {OURS}/publishers/anthropic/models/claude-sonnet-4-5@20250929:streamRawPredict HTTP/1.1"
    assert (up.requests[1].line, up.requests[1].body) == (line.encode(), body)
    assert seen(side, rows) == [("claude-sonnet-4-5@20250929", "far", "completed", True, True)] * 2
    assert [row.outcome.cost_nusd for row in rows] == [13_000] * 2
    assert rows[1].facts.stream
    assert rows[1].outcome.clocks.ttft_s is not None
    assert rows[1].outcome.error is None


async def test_no_path_climbs_out_of_a_project(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    up = await upstream()
    side = await before(serve, tmp_path, up.port, VERTEX)
    for path in (f"{THEIRS}/../../x/endpoints", f"{THEIRS}/%2e%2e/x", "/v1beta1/..%2f../x"):
        got = await call(side.port, post(path))
        assert (got.status, got.value(b"x-sidecar-error")) == (400, b"target"), path
    assert not up.requests


CONVERSE = b'{"messages":[{"role":"user","content":[{"text":"What is 17 + 25?"}]}]}'
MODEL = "us.anthropic.claude-sonnet-4-20250514-v1%3A0"
SIGNED = (
    b"Authorization: AWS4-HMAC-SHA256 Credential=mine/20261121/us-east-1/bedrock/aws4_request, SignedHeaders=host, "
    b"Signature=00"
)


async def test_a_bedrock_client_is_signed_anew(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Its signature names the sidecar as the host: the call is signed with the upstream's key, and AWS would accept it."""
    provider = await sim(requests_kept=8)
    side = await before(serve, tmp_path, provider.port, BEDROCK, key=AWS)
    rows = rows_of(side)
    lines = (
        SIGNED,
        b"X-Amz-Date: 20260101T000000Z",
        b"amz-sdk-invocation-id: i1",
        b"x-sidecar-tags: a=b",
        b"x-near: 1",
        b"Connection: x-near",
    )
    for verb in ("converse", "converse-stream"):
        got = await call(side.port, post(f"/model/{MODEL}/{verb}", CONVERSE, *lines))
        assert got.status == 200, got.body
    for one in provider.requests:
        said = fields(one)
        where = Place("us-east-1", "bedrock", said["host"])
        who = Credentials(*AWS.split(":"))
        expected = dict(sign(who, where, one.target, one.body, stamp=said["x-amz-date"]))
        assert {name: said[name] for name in expected} == expected
        assert [one.head.lower().count(name) for name in (b"\nx-amz-date:", b"\nauthorization:", b"\nhost:")] == [
            1,
            1,
            1,
        ]
        assert (said["amz-sdk-invocation-id"], one.body) == ("i1", CONVERSE)
        assert not {"x-sidecar-tags", "x-near", "connection"} & said.keys()
        assert said["x-amz-date"] != "20260101T000000Z"
    assert seen(side, rows) == [("us.anthropic.claude-sonnet-4-20250514-v1:0", "far", "completed", True, True)] * 2
    assert [row.facts.stream for row in rows] == [False, True]
    assert rows[1].outcome.clocks.ttft_s is not None
    assert rows[1].outcome.error is None


async def test_a_bedrock_signature_cannot_pass(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Where the sidecar has no key to sign with, the client is told so; a Bedrock API key is bound to no host and passes."""
    up = await upstream([ok(b'{"output":{},"usage":{"inputTokens":7,"outputTokens":3}}')])
    side = await before(serve, tmp_path, up.port, {**BEDROCK, "api_key": None})
    rows = rows_of(side)
    got = await call(side.port, post(f"/model/{MODEL}/converse", CONVERSE, SIGNED))
    assert (got.status, got.value(b"x-sidecar-error")) == (400, b"target")
    assert "api_key" in orjson.loads(got.body)["message"]
    assert not up.requests
    got = await call(side.port, post(f"/model/{MODEL}/converse", CONVERSE, b"Authorization: Bearer ABSK1"))
    assert got.status == 200
    assert b"Authorization: Bearer ABSK1" in up.requests[0].head
    side.app.plane.settle()
    assert [(row.outcome.kind, row.outcome.status) for row in rows] == [("failed", 400), ("completed", 200)]


async def test_only_posts_are_signed(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    up = await upstream([ok()])
    side = await before(serve, tmp_path, up.port, BEDROCK, key=AWS)
    got = await call(side.port, get(f"/model/{MODEL}/converse"))
    assert (got.status, got.value(b"x-sidecar-error")) == (405, b"target")
    assert not up.requests


async def test_what_is_too_large_to_sign(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    up = await upstream([ok()])
    side = await before(serve, tmp_path, up.port, BEDROCK, key=AWS)
    got = await call(side.port, post(f"/model/{MODEL}/invoke", b"x" * (9 << 20), SIGNED))
    assert (got.status, got.value(b"x-sidecar-error")) == (413, b"target")
    assert not up.requests


COHERE = {"dialect": "cohere", "base_url": ""}


async def test_cohere_is_metered(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Chat, whole and streamed: the body's model, what was billed, and when the first token came."""
    provider = await sim(requests_kept=8)
    side = await before(serve, tmp_path, provider.port, COHERE)
    rows = rows_of(side)
    for stream in (False, True):
        body = orjson.dumps({"model": "command-a-03-2025", "stream": stream, **ASK})
        got = await call(side.port, post("/v2/chat", body, b"authorization: Bearer mine"))
        assert got.status == 200
        assert provider.requests[-1].body == body
    assert seen(side, rows) == [("command-a-03-2025", "far", "completed", True, True)] * 2
    assert [row.facts.stream for row in rows] == [False, True]
    assert [row.outcome.finish for row in rows] == ["stop", "stop"]
    assert rows[0].outcome.usage == rows[1].outcome.usage
    assert rows[1].outcome.clocks.ttft_s is not None
    assert rows[1].outcome.error is None


@pytest.mark.parametrize(
    ("path", "answer", "billed"),
    [
        ("/v2/embed", {"embeddings": {"float": [[0.1]]}, "meta": {"billed_units": {"input_tokens": 5}}}, (5, 0, 5_000)),
        ("/v2/rerank", {"results": [], "meta": {"billed_units": {"search_units": 1}}}, None),
        ("/v2/classify", {"anything": 1}, None),
    ],
)
async def test_coheres_other_calls(
    upstream: Upstream,
    serve: Serve,
    tmp_path: Path,
    path: str,
    answer: dict[str, Any],
    billed: tuple[int, int, int] | None,
) -> None:
    """Embeddings are billed by tokens; ranks by searches, which are no tokens: unknown, and never 0."""
    body = orjson.dumps(answer)
    up = await upstream([ok(body)])
    side = await before(serve, tmp_path, up.port, COHERE)
    rows = rows_of(side)
    got = await call(side.port, post(path, b'{"model":"embed-v4.0","texts":["a"]}'))
    assert (got.status, got.body) == (200, body)
    side.app.plane.settle()
    (row,) = rows
    assert (row.sent_model, row.outcome.kind) == ("embed-v4.0", "completed")
    if billed is None:
        assert (row.outcome.usage, row.outcome.cost_nusd) == (None, None)
        return
    assert row.outcome.usage is not None
    assert (row.outcome.usage.input_tokens, row.outcome.usage.output_tokens, row.outcome.cost_nusd) == billed


async def test_a_cohere_client_that_leaves(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """What was seen of a stream is estimated, as for every dialect."""
    begun = b'{"type":"message-start","id":"c1","delta":{"message":{"role":"assistant","content":[]}}}'
    said = b'{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"' + b"word " * 40 + b'"}}}}'
    opened = b'{"type":"content-start","index":0,"delta":{"message":{"content":{"type":"text","text":""}}}}'
    up = await upstream([SSE_HEAD + event(begun) + event(opened) + event(said), "close"])
    side = await before(serve, tmp_path, up.port, COHERE)
    rows = rows_of(side)
    got = await call(side.port, post("/v2/chat", b'{"model":"command-a","stream":true,"messages":[]}'))
    assert got.end == "eof"
    side.app.plane.settle()
    outcome = rows[0].outcome
    assert (outcome.kind, outcome.usage_source, outcome.cost_kind) == ("failed", "estimate", "lower_bound")


EVENTS = SSE_HEAD.replace(b"text/event-stream", b"application/vnd.amazon.eventstream")
BEGUN = b'{"type":"message-start","id":"c1","delta":{"message":{"role":"assistant","content":[]}}}'


@pytest.mark.parametrize(
    ("far", "path", "start", "paid"),
    [
        (COHERE, "/v2/chat", SSE_HEAD, True),
        (COHERE, "/v2/chat", SSE_HEAD + event(BEGUN), True),
        (COHERE, "/v2/embed", SSE_HEAD, False),
        (BEDROCK, f"/model/{MODEL}/converse-stream", EVENTS, True),
    ],
)
async def test_who_leaves_before_the_first_token(
    upstream: Upstream, serve: Serve, tmp_path: Path, far: dict[str, Any], path: str, start: bytes, paid: bool
) -> None:
    """GW-18: the model has the prompt by then: its estimate is the least that the call costs, as for every dialect."""
    up = await upstream([start, 30.0])
    side = await before(serve, tmp_path, up.port, far, key=AWS if far is BEDROCK else "held-key")
    rows = rows_of(side)
    body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":[{"text":"' + b"word " * 200 + b'"}]}]}'
    async with connected(side.port) as client:
        client.send(post(path, body))
        await client.until(b"\r\n\r\n")
        client.close()
        assert await up.until(lambda: side.books.aborted == 1)
    side.app.plane.settle()
    outcome = rows[0].outcome
    assert (outcome.kind, outcome.cost_kind) == ("aborted", "lower_bound" if paid else None)
    assert (outcome.usage_source, bool(outcome.cost_nusd)) == (("estimate", True) if paid else (None, False))
    if outcome.usage is not None:
        assert outcome.usage.input_tokens is not None
        assert outcome.usage.input_tokens > 100
        assert outcome.usage.output_tokens is None


def told(got: Response) -> str:
    said = orjson.loads(got.body)
    return str(said["message"] if "message" in said else said["error"]["message"])


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/openai/deployments/d/chat/completions?api-version=1", "provider: azure"),
        ("/openai/v1/responses", "provider: azure"),
        (f"{THEIRS}/publishers/google/models/m:generateContent", "provider: vertex"),
        (f"{THEIRS}/publishers/anthropic/models/m:rawPredict", "provider: vertex"),
        ("/v1beta1/publishers/google/models/m:generateContent", "provider: vertex"),
        ("/v2/chat", "dialect: cohere"),
        (f"/model/{MODEL}/converse", "dialect: bedrock"),
    ],
)
async def test_a_404_says_what_is_missing(upstream: Upstream, serve: Serve, path: str, wanted: str) -> None:
    up = await upstream()
    side = await serve(up)
    for raw in (post(path), get(path)):
        got = await call(side.port, raw)
        assert (got.status, got.value(b"content-type")) == (404, b"application/json")
        assert wanted in told(got)
    assert not up.peers
    assert side.books.turned_away == 2
