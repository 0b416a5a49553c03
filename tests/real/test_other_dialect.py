"""Real models behind another dialect: an Anthropic app on an arm that speaks only OpenAI's, and the reverse.

The same model is asked in its own dialect and through the sidecar in the other one; what the two SDKs make of the answers
says the same: text, calls, why it ended, tokens. The models are small, so tools are forced.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.real import process
from tests.real.models import ModelServer
from tests.real.process import Sidecar

pytestmark = pytest.mark.real

ASK: list[Any] = [{"role": "user", "content": "What is the capital of Italy? Answer with the city name only."}]
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": SCHEMA}}
CLAUDE_TOOL: Any = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}
ALIKE = {"temperature": 0}
UNCACHED = {
    "temperature": 0,
    "cache_prompt": False,
}  # a cached prompt changes the arithmetic; the arm's params say it too
ENDS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
POLICY = """
version: 1
service: real-tests
upstreams:
  far: {{dialect: {dialect}, base_url: "{url}", api_key: {{file: "{key}"}}, price: free}}
routes:
  - name: all
    match: {{models: ["auto"]}}
    virtual: ["auto"]
    baseline: {{id: far, upstream: far, model: "{model}", params: {{cache_prompt: false}}}}
"""


def _sidecar(folder: Path, server: ModelServer, dialect: str) -> Iterator[Sidecar]:
    """A sidecar whose one upstream is asked in `dialect` only."""
    (folder / "policies").mkdir()
    key = folder / "key"
    key.write_text("sk-of-far")
    written = POLICY.format(dialect=dialect, url=server.url, key=key, model=server.model)
    (folder / "policies" / "far.yaml").write_text(written)
    with process.running(folder, {"SIDECAR_POLICIES": str(folder / "policies")}) as running:
        yield running


@pytest.fixture(scope="module")
def on_openai(smollm2: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    yield from _sidecar(tmp_path_factory.mktemp("on-openai"), smollm2, "openai")


@pytest.fixture(scope="module")
def on_anthropic(smollm2: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    yield from _sidecar(tmp_path_factory.mktemp("on-anthropic"), smollm2, "anthropic")


def _chat(origin: str, model: str, *, stream: bool, **more: Any) -> tuple[Any, ...]:
    """(text, calls, end, tokens) as the openai SDK reads them, the end in Anthropic's words."""
    with openai.OpenAI(base_url=origin + "/v1", api_key="k", max_retries=0) as client:
        asked: Any = {
            "model": model,
            "messages": ASK,
            "max_tokens": 24,
            "extra_body": ALIKE if model == "auto" else UNCACHED,
            **more,
        }
        if stream:
            with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as events:
                answer: Any = events.get_final_completion()
        else:
            answer = client.chat.completions.create(**asked)
    choice = answer.choices[0]
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls or ()]
    return (choice.message.content or "").strip(), calls, ENDS[choice.finish_reason], answer.usage.completion_tokens


def _messages(origin: str, model: str, *, stream: bool, **more: Any) -> tuple[Any, ...]:
    """The same as the anthropic SDK reads it."""
    with anthropic.Anthropic(base_url=origin, api_key="k", max_retries=0) as client:
        asked: Any = {
            "model": model,
            "messages": ASK,
            "max_tokens": 24,
            "extra_body": ALIKE if model == "auto" else UNCACHED,
            **more,
        }
        if stream:
            with client.messages.stream(**asked) as events:
                answer: Any = events.get_final_message()
        else:
            answer = client.messages.create(**asked)
    text = "".join(block.text for block in answer.content if block.type == "text")
    calls = [(block.name, block.input) for block in answer.content if block.type == "tool_use"]
    return text.strip(), calls, answer.stop_reason, answer.usage.output_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_an_anthropic_app_on_an_openai_arm(smollm2: ModelServer, on_openai: Sidecar, stream: bool) -> None:
    """It reads what an OpenAI app reads of the same model."""
    own = _chat(smollm2.url, smollm2.model, stream=stream)
    assert own[0]
    assert _messages(on_openai.url, "auto", stream=stream) == own


@pytest.mark.parametrize("stream", [False, True])
def test_an_openai_app_on_an_anthropic_arm(smollm2: ModelServer, on_anthropic: Sidecar, stream: bool) -> None:
    """It reads what an Anthropic app reads of the same model."""
    own = _messages(smollm2.url, smollm2.model, stream=stream)
    assert own[0]
    assert _chat(on_anthropic.url, "auto", stream=stream) == own


@pytest.mark.parametrize("stream", [False, True])
def test_tools_of_an_anthropic_app(smollm2: ModelServer, on_openai: Sidecar, stream: bool) -> None:
    """A forced tool is called with the same arguments."""
    own = _chat(smollm2.url, smollm2.model, stream=stream, tools=[TOOL], tool_choice="required", max_tokens=96)
    assert [name for name, _ in own[1]] == ["weather"]
    choice = {"type": "any"}
    got = _messages(on_openai.url, "auto", stream=stream, tools=[CLAUDE_TOOL], tool_choice=choice, max_tokens=96)
    assert got == own


@pytest.mark.parametrize("stream", [False, True])
def test_tools_of_an_openai_app(smollm2: ModelServer, on_anthropic: Sidecar, stream: bool) -> None:
    """A forced tool is called with the same arguments."""
    choice = {"type": "any"}
    own = _messages(smollm2.url, smollm2.model, stream=stream, tools=[CLAUDE_TOOL], tool_choice=choice, max_tokens=96)
    assert [name for name, _ in own[1]] == ["weather"]
    got = _chat(on_anthropic.url, "auto", stream=stream, tools=[TOOL], tool_choice="required", max_tokens=96)
    assert got == own
