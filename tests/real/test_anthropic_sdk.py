"""The official Anthropic SDK gets from real models, through the sidecar, the typed objects that it gets without it."""

from collections.abc import Callable
from typing import Any

import anthropic
import pytest

from tests.real.conftest import Pair
from tests.real.same import stable

pytestmark = pytest.mark.real

SAME_EVERY_TIME: dict[str, Any] = {"extra_body": {"temperature": 0, "seed": 1, "cache_prompt": False}}
ASK: Any = [{"role": "user", "content": "What is the capital of Italy? Answer with the city name only."}]
TOOL_ASK: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
    "tools": [
        {
            "name": "get_weather",
            "description": "The weather of a city",
            "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        }
    ],
    "tool_choice": {"type": "any"},
    "max_tokens": 48,
}
Call = Callable[[anthropic.Anthropic, str], Any]


def messages(client: anthropic.Anthropic, model: str) -> Any:
    return client.messages.create(model=model, system="Be brief.", messages=ASK, max_tokens=12, **SAME_EVERY_TIME)


def messages_stream(client: anthropic.Anthropic, model: str) -> Any:
    return list(client.messages.create(model=model, messages=ASK, max_tokens=12, stream=True, **SAME_EVERY_TIME))


def stream_reader(client: anthropic.Anthropic, model: str) -> Any:
    """The SDK's own accumulating reader."""
    with client.messages.stream(model=model, messages=ASK, max_tokens=12, **SAME_EVERY_TIME) as stream:
        text = "".join(stream.text_stream)
        return text, stream.get_final_message()


def tools(client: anthropic.Anthropic, model: str) -> Any:
    return client.messages.create(model=model, **TOOL_ASK, **SAME_EVERY_TIME)


def tools_stream(client: anthropic.Anthropic, model: str) -> Any:
    return list(client.messages.create(model=model, stream=True, **TOOL_ASK, **SAME_EVERY_TIME))


def count_tokens(client: anthropic.Anthropic, model: str) -> Any:
    counted = client.messages.count_tokens(model=model, messages=ASK)
    assert counted.input_tokens > 5
    return counted


CALLS: list[Call] = [messages, messages_stream, stream_reader, tools, tools_stream, count_tokens]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_the_sdk_gets_the_same_objects(call: Call, anthropic_pair: Pair) -> None:
    """Typed objects through the sidecar equal those without it in all but ids."""
    with (
        anthropic.Anthropic(base_url=anthropic_pair.direct, api_key="sk-test", max_retries=0) as direct,
        anthropic.Anthropic(base_url=anthropic_pair.through, api_key="sk-test", max_retries=0) as through,
    ):
        expected = stable(call(direct, anthropic_pair.model))
        assert expected
        assert stable(call(through, anthropic_pair.model)) == expected


def test_the_models_errors_reach_the_sdk_unchanged(anthropic_pair: Pair) -> None:
    """A refusal of the model's server raises the same exception with the same status and body."""
    errors = []
    asked: Any = [{"role": "user", "content": "long " * 4000}]
    for origin in (anthropic_pair.direct, anthropic_pair.through):
        with anthropic.Anthropic(base_url=origin, api_key="sk-test", max_retries=0) as client:
            with pytest.raises(anthropic.APIStatusError) as caught:
                client.messages.create(model=anthropic_pair.model, messages=asked, max_tokens=4)
            errors.append((type(caught.value), caught.value.status_code, caught.value.body))
    assert errors[1] == errors[0]
