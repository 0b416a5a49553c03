"""Headers of a call that is translated: what asked its own provider for another answer is told to be gone."""

import orjson
import pytest

from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import SSE_HEAD, call, ok, post
from tests.integration.test_translation_faults import BEGIN, CLIENT_KEY, DONE, END, STOP, TEXT, WHOLE, asking, begin

__all__ = ["begin"]  # the fixture
_ALWAYS = {b"user-agent": b"app/1", b"x-request-id": b"r1"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([b"anthropic-beta: context-1m-2025-08-07,tools"], b"header anthropic-beta"),
        ([b"Anthropic-Version: 2023-06-01", b"anthropic-beta: "], None),
        ([b"anthropic-version: 2023-01-01", b"openai-beta: x=v1"], b"header openai-beta, header anthropic-version"),
        ([b"openai-organization: org", b"x-goog-user-project: p", b"x-stainless-lang: python"], None),
    ],
)
async def test_what_a_header_asked_for_is_told(
    upstream: Upstream, begin: object, lines: list[bytes], told: bytes | None, *, stream: bool
) -> None:
    """It is no refusal; the arm gets none of them, and no value of theirs is repeated."""
    far = await upstream([SSE_HEAD + BEGIN + TEXT + STOP + DONE + END] if stream else [ok(WHOLE)])
    side = await begin(far)  # type: ignore[operator]
    always = [b"%b: %b" % pair for pair in _ALWAYS.items()]
    got = await call(side.port, asking(*lines, *always, stream=stream))
    assert (got.status, got.value(b"x-sidecar-changed")) == (200, told)
    fields = far.requests[0].head.lower()
    assert all(one in fields for one in always), fields
    assert not [one for one in lines if one.split(b":")[0].lower() in fields]


@pytest.mark.parametrize("status", [b"200 OK", b"429 Too Many Requests"])
async def test_what_a_client_acts_on_comes_back(upstream: Upstream, begin: object, status: bytes) -> None:
    """When to come back, and by which name the provider knows the call; nothing else of the arm's head."""
    lines = [b"Retry-After: 7", b"X-Request-Id: Req-1", b"x-ratelimit-remaining-tokens: 3", b"set-cookie: a=b"]
    side = await begin(await upstream([ok(WHOLE, *lines, status=status)]))  # type: ignore[operator]
    got = await call(side.port, asking())
    assert got.status == int(status[:3])
    assert (got.value(b"retry-after"), got.value(b"x-request-id")) == (b"7", b"Req-1")
    assert (got.value(b"x-ratelimit-remaining-tokens"), got.value(b"set-cookie")) == (None, None)


async def test_between_equal_dialects_they_pass(upstream: Upstream, serve: Serve) -> None:
    up = await upstream([ok(b"{}")])
    side = await serve(up)
    body = orjson.dumps({"model": "claude", "max_tokens": 9, "messages": []})
    got = await call(side.port, post("/v1/messages", body, CLIENT_KEY, b"anthropic-beta: one"))
    assert (got.status, got.value(b"x-sidecar-changed")) == (200, None)
    assert b"anthropic-beta: one" in up.requests[0].head
