"""An app of one dialect, served by an arm of another: the official SDKs see what they would see from their own provider."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from anthropic import BadRequestError as AnthropicBadRequest
from openai import AsyncOpenAI, BadRequestError

from sidecar.sim.knobs import SimConfig
from sidecar.sim.provider import SimulatedProvider
from tests.integration.conftest import Running, serving

TOOL = {"name": "weather", "description": "The weather of a city.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}  # fmt: skip


def policy(folder: Path, port: int, dialect: str, route: str = "") -> Path:
    """One upstream that speaks `dialect`; every model is served by its `m`."""
    (folder / "key").write_text("held-key-0123456789\n")
    (folder / "key").chmod(0o600)
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies" / "p.yaml").write_text(
        f"""version: 1
service: default
upstreams:
  far:
    dialect: {dialect}
    base_url: "http://127.0.0.1:{port}"
    api_key: {{file: {folder}/key}}
    price: {{input_mtok: 1, output_mtok: 2}}
routes:
  - name: all
    match: {{models: ["auto"]}}
    virtual: ["auto"]
    baseline: {{id: base, upstream: far, model: m}}
{route}
"""
    )
    return folder / "policies"


@asynccontextmanager
async def far(folder: Path, dialect: str, route: str = "") -> AsyncIterator[tuple[Running, SimulatedProvider]]:
    """A sidecar before a simulated provider that it asks in `dialect` only."""
    provider = SimulatedProvider(SimConfig(requests_kept=64))
    await provider.start()
    try:
        policies = policy(folder, provider.port, dialect, route)
        async with serving(f"http://127.0.0.1:{provider.port}", policies=policies) as running:
            yield running, provider
    finally:
        await provider.close()


def openai_at(running: Running) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="client-key", max_retries=0)


def anthropic_at(running: Running) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=f"http://127.0.0.1:{running.port}", api_key="client-key", max_retries=0)


async def test_anthropic_app_on_an_openai_arm(tmp_path: Path) -> None:
    """Whole and streamed; text, usage and stop reason are there, and the arm got the key that the sidecar holds."""
    async with far(tmp_path, "openai") as (running, provider), anthropic_at(running) as client:
        ask: dict[str, Any] = {
            "model": "auto",
            "max_tokens": 64,
            "system": "Be brief.",
            "messages": [{"role": "user", "content": "Hi"}],
        }
        whole = await client.messages.create(**ask)
        assert whole.content[0].type == "text"
        assert whole.content[0].text
        assert whole.usage.output_tokens > 0
        async with client.messages.stream(**ask) as stream:
            streamed = await stream.get_final_message()
        assert streamed.content[0].type == "text"
        assert streamed.stop_reason == whole.stop_reason
        assert streamed.usage.output_tokens > 0
        heads = [one.head.lower() for one in provider.requests]
        assert all(one.target == "/v1/chat/completions" for one in provider.requests)
        assert all(b"held-key" in head and b"client-key" not in head for head in heads)


async def test_openai_app_on_an_anthropic_arm(tmp_path: Path) -> None:
    """Whole, streamed and with a tool."""
    async with far(tmp_path, "anthropic") as (running, provider), openai_at(running) as client:
        ask: dict[str, Any] = {"model": "auto", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
        raw = await client.chat.completions.with_raw_response.create(**ask)
        assert raw.headers["x-sidecar-model"] == "far/m"
        assert raw.parse().choices[0].message.content
        text = ""
        async for chunk in await client.chat.completions.create(
            **ask, stream=True, stream_options={"include_usage": True}
        ):
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            usage = chunk.usage
        assert text
        assert usage is not None
        assert usage.completion_tokens > 0
        called = await client.chat.completions.create(
            **ask, tools=[{"type": "function", "function": TOOL}], tool_choice="required"
        )
        calls = called.choices[0].message.tool_calls
        assert calls
        assert called.choices[0].finish_reason == "tool_calls"
        assert all(one.target == "/v1/messages" for one in provider.requests)


async def test_what_cannot_be_said_is_refused_by_name(tmp_path: Path) -> None:
    """logit_bias has no place in Anthropic's format; nothing is sent."""
    async with far(tmp_path, "anthropic") as (running, provider), openai_at(running) as client:
        with pytest.raises(BadRequestError, match="logit_bias"):
            await client.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": "Hi"}], max_tokens=8, logit_bias={"1": 5}
            )
        assert not provider.requests


async def test_loss_is_told_where_the_policy_allows_it(tmp_path: Path) -> None:
    """The same call is served, and the header names what was left out."""
    async with far(tmp_path, "anthropic", "    allow_loss: true") as (running, _), openai_at(running) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="auto", messages=[{"role": "user", "content": "Hi"}], max_tokens=8, logit_bias={"1": 5}
        )
        assert "logit_bias" in raw.headers["x-sidecar-changed"]


async def test_errors_come_in_the_clients_dialect(tmp_path: Path) -> None:
    """A malformed call of an Anthropic app is refused in Anthropic's words, with the place of the fault."""
    async with far(tmp_path, "openai") as (running, _), anthropic_at(running) as client:
        with pytest.raises(AnthropicBadRequest, match=r"messages\[0\]"):
            await client.messages.create(model="auto", max_tokens=8, messages=[{"role": "user", "content": 5}])  # type: ignore[typeddict-item]  # that is the point
