"""The mistralai and cohere SDKs. Any arm may serve the first, which asks for chat completions; only Cohere the second."""

import json
from collections.abc import Callable
from typing import Any

import cohere
import pytest
from cohere.core.api_error import ApiError
from mistralai.client import Mistral
from mistralai.client.errors import ResponseValidationError

from tests.sdk.alike import failure, unlike
from tests.sdk.asked import ASK, RESULT, SCHEMA, SYSTEM, TOOLS, Trip, chat_tools
from tests.sdk.stack import ARMS, Stack, tags

USER: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ASK}]
PLAIN, PARALLEL = "mistral-plain", "mistral-two-calls"  # the simulated provider answers these as Mistral does


class MistralAt:
    """Mistral's client, with the headers that put an arm behind each call."""

    def __init__(self, stack: Stack, arm: str | None) -> None:
        self._client = Mistral(api_key="k", server_url=stack.url)
        self._headers = tags(arm)

    def ask(self, model: str = PLAIN, **more: Any) -> Any:
        asked = {"messages": USER, "max_tokens": 200, **more}
        return self._client.chat.complete(model=model, http_headers=self._headers, retries=None, **asked)

    def stream(self, model: str = PLAIN, **more: Any) -> Any:
        asked = {"messages": USER, "max_tokens": 200, **more}
        events = [event.data for event in self._client.chat.stream(model=model, http_headers=self._headers, **asked)]
        deltas = [event.choices[0].delta for event in events if event.choices]
        calls: dict[int, list[str]] = {}
        for call in (call for delta in deltas for call in delta.tool_calls or ()):
            said = calls.setdefault(call.index, ["", ""])
            said[0] += call.function.name or ""
            said[1] += call.function.arguments
        return {
            "text": "".join(delta.content or "" for delta in deltas),
            "calls": list(calls.values()),
            "finish": [one for event in events for choice in event.choices if (one := choice.finish_reason)],
            "usage": next((event.usage for event in reversed(events) if event.usage), None),
        }

    def parse(self) -> Any:
        answer = self._client.chat.parse(Trip, model=PLAIN, messages=USER, http_headers=self._headers)
        assert answer.choices
        assert answer.choices[0].message
        return answer.choices[0].message.parsed

    def turn(self) -> Any:
        """The calls are answered, with the SDK's own objects in the history."""
        said = self.ask(PARALLEL, tools=chat_tools()).choices[0].message
        results = [
            {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": RESULT}
            for call in said.tool_calls
        ]
        return self.ask(PARALLEL, tools=chat_tools(), messages=[*USER, said, *results])


FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}
CASES: dict[str, Callable[[MistralAt], Any]] = {
    "text": MistralAt.ask,
    "text_stream": MistralAt.stream,
    "tool": lambda client: client.ask(tools=chat_tools(1), tool_choice="any"),
    "tools": lambda client: client.ask(PARALLEL, tools=chat_tools()),
    "tools_stream": lambda client: client.stream(PARALLEL, tools=chat_tools()),
    "tools_turn": MistralAt.turn,
    "schema": lambda client: client.ask(response_format=FORMAT),
    "schema_parsed": MistralAt.parse,
    "cut": lambda client: client.ask(max_tokens=5),
    "busy": lambda client: failure(lambda: client.ask("busy")),
    "down": lambda client: failure(lambda: client.ask("down")),
}


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("case", CASES)
def test_mistral(stack: Stack, case: str, arm: str) -> None:
    """The typed objects of Mistral's chat, from each arm as from Mistral itself. Its SDK cannot read calls that are streamed
    in pieces, as OpenAI's format has them, and does not ask for the usage of a stream, which Mistral tells unasked."""
    own, other = MistralAt(stack, None), MistralAt(stack, arm)
    if case == "tools_stream" and arm != "openai":
        with pytest.raises(ResponseValidationError, match="name"):
            CASES[case](other)
        return
    got, expected = CASES[case](other), CASES[case](own)
    if case == "text_stream" and arm != "openai":
        assert expected.pop("usage").completion_tokens > 0
        assert got.pop("usage") is None
    assert unlike(case, arm, got, expected) == []


def test_the_answers_are_worth_comparing(stack: Stack) -> None:
    """Mistral's own answers hold what the cases are about."""
    client = MistralAt(stack, None)
    assert "42" in CASES["text_stream"](client)["text"]
    assert [name for name, _ in CASES["tools_stream"](client)["calls"]] == list(TOOLS)
    assert isinstance(CASES["schema_parsed"](client), Trip)


@pytest.fixture
def co(stack: Stack) -> cohere.ClientV2:
    return cohere.ClientV2(api_key="k", base_url=stack.url)


def test_cohere_answers_its_own_clients(co: cohere.ClientV2) -> None:
    """Chat and its stream pass as they are: the policy has an upstream of that dialect."""
    asked: Any = [{"role": "user", "content": ASK}]
    whole = co.chat(model="plain", messages=asked)
    assert whole.message.content
    assert "42" in whole.message.content[0].text  # type: ignore[union-attr]  # a text, as no thoughts were asked for
    events = list(co.chat_stream(model="plain", messages=asked))
    assert (events[0].type, events[-1].type) == ("message-start", "message-end")
    text = "".join(event.delta.message.content.text for event in events if event.type == "content-delta")
    assert text == whole.message.content[0].text  # type: ignore[union-attr]


def test_cohere_calls_tools_and_keeps_to_schemas(co: cohere.ClientV2) -> None:
    """Parallel calls, their results, JSON."""
    asked: list[Any] = [{"role": "user", "content": ASK}]
    message = co.chat(model="two-calls", messages=asked, tools=chat_tools()).message
    calls = message.tool_calls or []
    assert [call.function.name for call in calls] == list(TOOLS)
    said = {"role": "assistant", "tool_plan": message.tool_plan, "tool_calls": [call.model_dump() for call in calls]}
    results = [{"role": "tool", "tool_call_id": call.id, "content": RESULT} for call in calls]
    assert co.chat(model="two-calls", messages=[*asked, said, *results], tools=chat_tools()).message.content
    form: Any = {"type": "json_object", "json_schema": SCHEMA}
    answer = co.chat(model="plain", messages=asked, response_format=form).message.content
    assert json.loads(answer[0].text).keys() == {"city", "days"}  # type: ignore[index, union-attr]


def test_cohere_says_what_went_wrong(co: cohere.ClientV2) -> None:
    """Its errors pass as they are."""
    with pytest.raises(ApiError) as caught:
        co.chat(model="busy", messages=[{"role": "user", "content": ASK}], request_options={"max_retries": 0})
    assert caught.value.status_code == 429
