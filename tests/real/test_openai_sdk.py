"""The official OpenAI SDK gets from real models, through the sidecar, the typed objects that it gets without it."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.real.conftest import Pair
from tests.real.same import stable

pytestmark = pytest.mark.real

SAME_EVERY_TIME: dict[str, Any] = {"temperature": 0, "seed": 1, "extra_body": {"cache_prompt": False}}
ASK: Any = [{"role": "user", "content": "What is the capital of Italy? Answer with the city name only."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TOOL_ASK: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
    "tools": [WEATHER],
    "tool_choice": "required",
    "max_tokens": 48,
}


class Person(BaseModel):
    name: str
    age: int


Call = Callable[[openai.OpenAI, str], Any]


def chat(client: openai.OpenAI, model: str) -> Any:
    return client.chat.completions.create(model=model, messages=ASK, max_tokens=12, **SAME_EVERY_TIME)


def chat_stream(client: openai.OpenAI, model: str) -> Any:
    stream = client.chat.completions.create(model=model, messages=ASK, max_tokens=12, stream=True, **SAME_EVERY_TIME)
    return list(stream)


def chat_stream_usage(client: openai.OpenAI, model: str) -> Any:
    stream = client.chat.completions.create(
        model=model,
        messages=ASK,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
        **SAME_EVERY_TIME,
    )
    chunks = list(stream)
    assert chunks[-1].usage is not None
    return chunks


def tools(client: openai.OpenAI, model: str) -> Any:
    return client.chat.completions.create(model=model, **TOOL_ASK, **SAME_EVERY_TIME)


def tools_stream(client: openai.OpenAI, model: str) -> Any:
    return list(client.chat.completions.create(model=model, stream=True, **TOOL_ASK, **SAME_EVERY_TIME))


def json_schema(client: openai.OpenAI, model: str) -> Any:
    messages: Any = [{"role": "user", "content": "Give name and age as JSON: Ann is 52 years old."}]
    answer = client.chat.completions.parse(
        model=model, messages=messages, response_format=Person, max_tokens=64, **SAME_EVERY_TIME
    )
    assert isinstance(answer.choices[0].message.parsed, Person)
    return answer


def completions(client: openai.OpenAI, model: str) -> Any:
    return client.completions.create(model=model, prompt="The capital of Italy is", max_tokens=8, **SAME_EVERY_TIME)


def completions_stream(client: openai.OpenAI, model: str) -> Any:
    prompt = "The capital of Italy is"
    return list(client.completions.create(model=model, prompt=prompt, max_tokens=8, stream=True, **SAME_EVERY_TIME))


def responses(client: openai.OpenAI, model: str) -> Any:
    extra = {"cache_prompt": False, "seed": 1}
    return client.responses.create(
        model=model, input="What is the capital of Italy?", max_output_tokens=12, temperature=0, extra_body=extra
    )


def responses_stream(client: openai.OpenAI, model: str) -> Any:
    extra = {"cache_prompt": False, "seed": 1}
    asked = "What is the capital of Italy?"
    return list(
        client.responses.create(
            model=model, input=asked, max_output_tokens=12, temperature=0, stream=True, extra_body=extra
        )
    )


def embeddings(client: openai.OpenAI, model: str) -> Any:
    return client.embeddings.create(model=model, input=["a red house", "a blue boat"])


def models(client: openai.OpenAI, model: str) -> Any:
    listed = client.models.list()
    assert [one.id for one in listed.data] == [model]
    return listed


CALLS: list[Call] = [
    chat,
    chat_stream,
    chat_stream_usage,
    tools,
    tools_stream,
    json_schema,
    completions,
    completions_stream,
    responses,
    responses_stream,
    embeddings,
    models,
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_the_sdk_gets_the_same_objects(call: Call, openai_pair: Pair) -> None:
    """Typed objects through the sidecar equal those without it in all but ids and times."""
    with (
        openai.OpenAI(base_url=openai_pair.direct + "/v1", api_key="sk-test", max_retries=0) as direct,
        openai.OpenAI(base_url=openai_pair.through + "/v1", api_key="sk-test", max_retries=0) as through,
    ):
        expected = stable(call(direct, openai_pair.model))
        assert expected
        assert stable(call(through, openai_pair.model)) == expected


@pytest.mark.parametrize("stream", [False, True])
async def test_the_async_sdk_gets_the_same_objects(stream: bool, openai_pair: Pair) -> None:
    """The asynchronous client of the same SDK, whole and streamed."""
    answers = []
    for origin in (openai_pair.direct, openai_pair.through):
        async with openai.AsyncOpenAI(base_url=origin + "/v1", api_key="sk-test", max_retries=0) as client:
            answer: Any = await client.chat.completions.create(
                model=openai_pair.model, messages=ASK, max_tokens=12, stream=stream, **SAME_EVERY_TIME
            )
            answers.append(stable([chunk async for chunk in answer] if stream else answer))
    assert answers[0]
    assert answers[1] == answers[0]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (openai.BadRequestError, {"messages": [{"role": "user", "content": "long " * 4000}], "max_tokens": 4}),
        (openai.APIStatusError, {"messages": ASK, "max_tokens": 4, "temperature": "hot"}),
        (openai.APIStatusError, {"messages": [{"role": "user"}]}),
    ],
)
def test_the_models_errors_reach_the_sdk_unchanged(
    kind: type[openai.APIStatusError], body: Any, openai_pair: Pair
) -> None:
    """A refusal of the model's server raises the same exception with the same status and body."""
    errors = []
    for origin in (openai_pair.direct, openai_pair.through):
        with openai.OpenAI(base_url=origin + "/v1", api_key="sk-test", max_retries=0) as client:
            with pytest.raises(kind) as caught:
                client.chat.completions.create(model=openai_pair.model, **body)
            errors.append((type(caught.value), caught.value.status_code, caught.value.body))
    assert errors[1] == errors[0]
