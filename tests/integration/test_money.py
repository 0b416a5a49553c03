"""What a call is said to have cost, through the whole sidecar: free counts, deployments, tiers in heads, stated costs."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.prices import bundled_prices, load_prices
from sidecar.core.types import Settled, Usage
from tests.integration.canary import rows_of, written
from tests.integration.conftest import Running, Serve, Upstream
from tests.integration.raw import SSE_HEAD, call, chunked, ok, post

LIST = load_prices().version
POLICY = """version: 1
service: default
upstreams:
  far: {{dialect: openai, base_url: "http://127.0.0.1:{port}/v1", provider: {provider}}}
routes:
  - name: all
    match: {{models: ["auto"]}}
    virtual: ["auto"]
    baseline: {{id: base, upstream: far, model: {model}}}
"""


BODY = b'{"model":"auto","messages":[]}'


def answer(model: str, **usage: Any) -> bytes:
    return json.dumps(
        {
            "id": "c",
            "model": model,
            "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
            "usage": usage,
        }
    ).encode()


async def settled(side: Running, path: str, body: bytes) -> Settled:
    rows = rows_of(side)
    assert (await call(side.port, post(path, body))).status == 200
    return rows[-1]


def price(one: Settled) -> tuple[int | None, str | None, str | None]:
    return one.outcome.cost_nusd, one.outcome.price_version, one.outcome.cost_kind


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages/count_tokens", b'{"input_tokens":9}'),
        ("/v1beta/models/gemini-2.5-pro:countTokens", b'{"totalTokens":9}'),
        ("/v1/responses/input_tokens", b'{"object":"response.input_tokens","input_tokens":9}'),
    ],
)
async def test_counting_is_free(upstream: Upstream, serve: Serve, path: str, body: bytes) -> None:
    """Providers do not bill it: known to be 0, of a model that has a price or has none."""
    side = await serve(await upstream([ok(body), "close"]))
    one = await settled(side, path, b'{"model":"claude-haiku-4-5","messages":[]}')
    assert one.outcome.usage is None
    assert price(one) == (0, LIST, "exact")


async def test_an_embedding_of_gemini(upstream: Upstream, serve: Serve) -> None:
    """Its model is in the path, its usage where Gemini's always is, and it has no output."""
    told = b'{"embedding":{"values":[0.1]},"usageMetadata":{"promptTokenCount":1000}}'
    side = await serve(await upstream([ok(told), "close"]))
    one = await settled(side, "/v1beta/models/gemini-embedding-001:embedContent", b'{"content":{"parts":[]}}')
    assert one.facts.model == "gemini-embedding-001"
    assert one.outcome.usage == Usage(input_tokens=1000, output_tokens=0)
    assert price(one) == (150_000, LIST, "exact")


@pytest.mark.parametrize(("tier", "nusd", "kind"), [(b"STANDARD", 2_800, "exact"), (b"batch", 1_400, "exact"),
                                                    (b"gold", 2_800, "estimate")])  # fmt: skip
async def test_gemini_names_the_tier_in_its_head(
    upstream: Upstream, serve: Serve, tier: bytes, nusd: int, kind: str
) -> None:
    told = b'{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP"}],'
    told += b'"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":1}}'
    side = await serve(await upstream([ok(told, b"X-Gemini-Service-Tier: " + tier), "close"]))
    assert price(await settled(side, "/v1beta/models/gemini-2.5-flash:generateContent", b'{"contents":[]}')) == (
        nusd,
        LIST,
        kind,
    )


async def through(
    upstream: Upstream, serve: Serve, tmp_path: Path, arm: tuple[str, str], wire: bytes, body: bytes
) -> tuple[Settled, Any, bytes]:
    """One call by a policy with this (provider, model): what it came to, what was sent, what the client got."""
    up = await upstream([wire, "close"])
    policy = POLICY.format(port=up.port, provider=arm[0], model=arm[1])
    side = await serve(up, policies=written(tmp_path / "p", policy), environ={})
    rows = rows_of(side)
    got = await call(side.port, post(body=body))
    return rows[-1], up.requests[0], got.body


@pytest.mark.parametrize(
    ("provider", "served", "nusd"),
    [
        ("azure", "gpt-4o-2024-11-20", 3_500_000),
        ("azure", "house-model", None),
        ("openai", "gpt-4o-2024-11-20", 3_500_000),
    ],
)
async def test_the_model_of_the_answer_prices_a_name_of_ones_own(
    upstream: Upstream, serve: Serve, tmp_path: Path, provider: str, served: str, nusd: int | None
) -> None:
    """A deployment says nothing of its model; where neither name is listed the cost is unknown, and says by which list."""
    wire = ok(answer(served, prompt_tokens=1000, completion_tokens=100))
    one, _, _ = await through(upstream, serve, tmp_path, (provider, "our-chat"), wire, BODY)
    assert price(one) == (nusd, LIST, None if nusd is None else "exact")


async def test_a_deployment_with_the_name_of_another_model(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    wire = ok(answer("gpt-4o-mini-2024-07-18", prompt_tokens=1000, completion_tokens=100))
    one, _, _ = await through(upstream, serve, tmp_path, ("azure", "gpt-4o"), wire, BODY)
    assert price(one) == (210_000, LIST, "exact")


STREAM = b'{"model":"auto","stream":true,"messages":[]}'
TEXT = b'data: {"id":"g","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
END = b'data: {"id":"g","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
COST = b'data: {"id":"g","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],'
COST += b'"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10,"cost":0.00095}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("provider", ["openrouter", "groq"])
async def test_only_openrouter_is_asked_for_its_cost(
    upstream: Upstream, serve: Serve, tmp_path: Path, provider: str
) -> None:
    """GW-02: asked in its own words where they are known, nowhere else; the client sees nothing of question and answer."""
    wire = SSE_HEAD + chunked(TEXT + END + COST + DONE)
    one, sent, got = await through(upstream, serve, tmp_path, (provider, "openai/gpt-4o"), wire, STREAM)
    asked = {"stream_options": {"include_usage": True}}
    if provider == "openrouter":
        asked["usage"] = {"include": True}
    assert json.loads(sent.body) == json.loads(STREAM) | {"model": "openai/gpt-4o"} | asked
    assert got == TEXT + END + DONE
    assert price(one) == (950_000, "provider", "exact")


async def test_a_client_that_asks_openrouter_itself_gets_its_answer(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    body = STREAM[:-1] + b',"usage":{"include":true}}'
    wire = SSE_HEAD + chunked(TEXT + END + COST + DONE)
    one, sent, got = await through(upstream, serve, tmp_path, ("openrouter", "openai/gpt-4o"), wire, body)
    assert (sent.body, got) == (body.replace(b"auto", b"openai/gpt-4o"), TEXT + END + COST + DONE)
    assert price(one) == (950_000, "provider", "exact")


async def test_other_endpoints_are_metered_where_usage_is_recognisable(upstream: Upstream, serve: Serve) -> None:
    told = b'{"model":"gpt-4o-transcribe","text":"a","usage":{"input_tokens":100,"output_tokens":10,'
    told += b'"input_token_details":{"audio_tokens":100}}}'
    side = await serve(await upstream([ok(told), "close"]))
    one = await settled(side, "/v1/audio/transcriptions", b"--x--")
    assert one.outcome.usage is not None
    assert price(one) == (700_000, LIST, "exact")


async def test_a_mounted_list_takes_the_place_of_the_bundled_one(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """GW-17: every row names the list by which it was priced."""
    text = bundled_prices().read_text().replace(f'"version":"{LIST}"', '"version":"ours-7"')
    mounted = tmp_path / "prices.json"
    mounted.write_text(text)
    wire = ok(answer("gpt-4o", prompt_tokens=1000, completion_tokens=100))
    side = await serve(await upstream([wire, "close"]), prices=mounted)
    assert price(await settled(side, "/v1/chat/completions", b'{"model":"gpt-4o","messages":[]}')) == (
        3_500_000,
        "ours-7",
        "exact",
    )


async def test_a_call_that_ended_behind_its_usage_costs_what_was_told(upstream: Upstream, serve: Serve) -> None:
    """The connection breaks between the usage and [DONE]: counts are the provider's, and the cost is at least theirs."""
    counts = b'"usage":{"prompt_tokens":1000,"completion_tokens":100}}\n\n'
    sent = TEXT + END + b'data: {"id":"g","choices":[],' + counts
    side = await serve(await upstream([SSE_HEAD + b"%x\r\n%b\r\n" % (len(sent), sent), "close"]))
    rows = rows_of(side)
    body = b'{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"messages":[]}'
    await call(side.port, post(body=body))
    assert rows[-1].outcome.kind == "failed"
    assert rows[-1].outcome.usage_source == "provider"
    assert price(rows[-1]) == (3_500_000, LIST, "lower_bound")
