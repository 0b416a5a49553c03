"""The openai SDK gets the same typed objects whatever dialect the arm behind it speaks: chat completions and Responses."""

import json
from collections.abc import Callable
from itertools import product
from typing import Any

import openai
import pytest

from tests.sdk.alike import failure, unlike
from tests.sdk.asked import ASK, PIXEL, RESULT, SCHEMA, SYSTEM, TOOLS, Trip, chat_tools
from tests.sdk.stack import ARMS, Stack, tags

USER: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ASK}]
FUNCTIONS: list[Any] = [
    {"type": "function", "name": name, "description": f"The {name} of a city.", "parameters": SCHEMA, "strict": False}
    for name in TOOLS
]
STRICT: Any = {"type": "json_schema", "name": "trip", "schema": SCHEMA, "strict": True}
LIMIT = 200


def client_of(stack: Stack, arm: str | None) -> openai.OpenAI:
    return openai.OpenAI(base_url=stack.v1, api_key="k", max_retries=0, default_headers=tags(arm))


def _chat(client: openai.OpenAI, model: str = "plain", **more: Any) -> Any:
    return client.chat.completions.create(**{"model": model, "messages": USER, "max_completion_tokens": LIMIT, **more})


def _chat_stream(client: openai.OpenAI, model: str = "plain", **more: Any) -> Any:
    """What the SDK's own accumulator makes of the stream, and the text of each chunk."""
    pieces: list[str] = []
    with client.chat.completions.stream(
        model=model,
        messages=USER,
        max_completion_tokens=LIMIT,
        stream_options={"include_usage": True},
        **more,
    ) as stream:
        chunks = (event.chunk for event in stream if event.type == "chunk")
        pieces.extend(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        final = stream.get_final_completion()
    assert final.usage is not None
    return final, "".join(pieces), len(pieces) > 3


def _chat_turn(client: openai.OpenAI) -> Any:
    """The calls are answered, with the SDK's own objects in the history."""
    asked = _chat(client, "two-calls", tools=chat_tools())
    calls = asked.choices[0].message.tool_calls
    results = [{"role": "tool", "tool_call_id": call.id, "content": RESULT} for call in calls]
    return _chat(client, "two-calls", tools=chat_tools(), messages=[*USER, asked.choices[0].message, *results])


def _image(kind: str, client: openai.OpenAI) -> Any:
    url = f"data:image/png;base64,{PIXEL}"
    if kind == "chat":
        parts: Any = [{"type": "text", "text": ASK}, {"type": "image_url", "image_url": {"url": url}}]
        return _chat(client, messages=[{"role": "user", "content": parts}])
    parts = [{"type": "input_text", "text": ASK}, {"type": "input_image", "image_url": url, "detail": "auto"}]
    return _respond(client, input=[{"role": "user", "content": parts}])


def _respond(client: openai.OpenAI, model: str = "plain", **more: Any) -> Any:
    asked = {"model": model, "instructions": SYSTEM, "input": ASK, "max_output_tokens": LIMIT, "store": False}
    return _answered(client.responses.create(**{**asked, **more}))


def _answered(response: Any) -> Any:
    """What is answered, without what is only said back of the request."""
    names = ("status", "model", "output", "output_text", "incomplete_details", "error", "usage")
    return type(response), {name: getattr(response, name) for name in names}


def _respond_stream(client: openai.OpenAI, model: str = "plain", **more: Any) -> Any:
    pieces = 0
    with client.responses.stream(
        model=model, instructions=SYSTEM, input=ASK, max_output_tokens=LIMIT, store=False, **more
    ) as stream:
        for event in stream:
            pieces += event.type.endswith(".delta")
        final = stream.get_final_response()
    return _answered(final), pieces > 1


def _respond_turn(client: openai.OpenAI) -> Any:
    asked = _respond(client, "two-calls", tools=FUNCTIONS)
    output = asked[1]["output"]
    calls = [item for item in output if item.type == "function_call"]
    results = [{"type": "function_call_output", "call_id": call.call_id, "output": RESULT} for call in calls]
    history = [{"role": "user", "content": ASK}, *output, *results]
    return _respond(client, "two-calls", tools=FUNCTIONS, input=history)


def _is_told(client: openai.OpenAI) -> bool:
    """Whether a stream that breaks says so: older SDKs pass the event on, newer ones raise it."""
    try:
        events = list(client.responses.create(model="breaks", input=ASK, stream=True))
    except openai.APIError:
        return True
    return events[-1].type in {"error", "response.failed"}


Case = Callable[[openai.OpenAI], Any]
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}
CHAT: dict[str, Case] = {
    "text": _chat,
    "text_stream": _chat_stream,
    "tool": lambda client: _chat(client, tools=chat_tools(1), tool_choice="required"),
    "named_tool": lambda client: _chat(
        client, tools=chat_tools(), tool_choice={"type": "function", "function": {"name": "clock"}}
    ),
    "tools": lambda client: _chat(client, "two-calls", tools=chat_tools()),
    "tools_stream": lambda client: _chat_stream(client, "two-calls", tools=chat_tools()),
    "tools_turn": _chat_turn,
    "no_parallel_tools": lambda client: _chat(client, "two-calls", tools=chat_tools(), parallel_tool_calls=False),
    "schema": lambda client: _chat(client, response_format=FORMAT),
    "schema_parsed": lambda client: client.chat.completions.parse(
        model="plain", messages=USER, response_format=Trip, max_completion_tokens=LIMIT
    ),
    "schema_stream": lambda client: _chat_stream(client, response_format=Trip),
    "thinks": lambda client: _chat(client, "thinks"),
    "thinks_stream": lambda client: _chat_stream(client, "thinks"),
    "image": lambda client: _image("chat", client),
    "cut": lambda client: _chat(client, max_completion_tokens=5),
    "cut_stream": lambda client: [
        chunk.choices[0].finish_reason
        for chunk in _chat(client, max_completion_tokens=5, stream=True)
        if chunk.choices and chunk.choices[0].finish_reason
    ],
    "busy": lambda client: failure(lambda: _chat(client, "busy")),
    "down": lambda client: failure(lambda: _chat(client, "down")),
    "busy_stream": lambda client: failure(lambda: _chat(client, "busy", stream=True)),
    "breaks": lambda client: failure(lambda: list(_chat(client, "breaks", stream=True))),
}
RESPONSES: dict[str, Case] = {
    "text": _respond,
    "text_stream": _respond_stream,
    "tool": lambda client: _respond(client, tools=FUNCTIONS[:1], tool_choice="required"),
    "tools": lambda client: _respond(client, "two-calls", tools=FUNCTIONS),
    "tools_stream": lambda client: _respond_stream(client, "two-calls", tools=FUNCTIONS),
    "tools_turn": _respond_turn,
    "schema": lambda client: _respond(client, text={"format": STRICT}),
    "schema_parsed": lambda client: (
        client.responses.parse(
            model="plain", input=ASK, text_format=Trip, max_output_tokens=LIMIT, store=False
        ).output_parsed
    ),
    "schema_stream": lambda client: _respond_stream(client, text_format=Trip),
    "thinks": lambda client: _respond(client, "thinks", reasoning={"effort": "low"})[1]["output_text"],
    "image": lambda client: _image("responses", client),
    "cut": lambda client: _respond(client, max_output_tokens=16),
    "busy": lambda client: failure(lambda: _respond(client, "busy")),
    "down": lambda client: failure(lambda: _respond(client, "down")),
    "breaks": _is_told,
}

ONE_BY_US = ("gemini", "cohere", "bedrock")  # arms that cannot be told: the client gets the first call of several
ONE_AT_A_TIME = [("no_parallel_tools", arm) for arm in ONE_BY_US]  # has a test of its own
CANNOT = {
    ("responses_thinks", "bedrock"): "reasoning",
}  # what an arm has no words for is refused by name, as the policy allows no loss


@pytest.mark.parametrize(("case", "arm"), [pair for pair in product(CHAT, ARMS) if pair not in ONE_AT_A_TIME])
def test_chat_completions(stack: Stack, case: str, arm: str) -> None:
    """The typed objects of chat completions, from each arm as from OpenAI itself."""
    with client_of(stack, None) as own, client_of(stack, arm) as other:
        if member := CANNOT.get((case, arm)):
            with pytest.raises(openai.BadRequestError, match=f"cannot say: {member};"):
                CHAT[case](other)
        else:
            assert unlike(case, arm, CHAT[case](other), CHAT[case](own)) == []


@pytest.mark.parametrize("arm", ONE_BY_US)
def test_one_tool_at_a_time_where_the_arm_cannot_be_told(stack: Stack, arm: str) -> None:
    """`parallel_tool_calls: false` holds before an arm that answers with two calls all the same."""
    with client_of(stack, arm) as client:
        message = CHAT["no_parallel_tools"](client).choices[0].message
        assert [call.function.name for call in message.tool_calls] == list(TOOLS)[:1]


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("case", RESPONSES)
def test_responses(stack: Stack, case: str, arm: str) -> None:
    """The typed objects of Responses, from each arm as from OpenAI itself."""
    with client_of(stack, None) as own, client_of(stack, arm) as other:
        if member := CANNOT.get((f"responses_{case}", arm)):
            with pytest.raises(openai.BadRequestError, match=f"cannot say: {member};"):
                RESPONSES[case](other)
        else:
            assert unlike(case, arm, RESPONSES[case](other), RESPONSES[case](own)) == []


def test_the_answers_are_worth_comparing(stack: Stack) -> None:
    """The own provider's answers hold what the cases are about."""
    with client_of(stack, None) as client:
        assert "42" in CHAT["text_stream"](client)[1]
        assert [call.function.name for call in CHAT["tools"](client).choices[0].message.tool_calls] == list(TOOLS)
        assert json.loads(CHAT["schema"](client).choices[0].message.content).keys() == {"city", "days"}
        assert RESPONSES["schema_parsed"](client).city
        assert CHAT["busy"](client) == ("RateLimitError", 429)


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "cohere"])  # it has one word for all that goes wrong
def test_a_filtered_answer_is_told(stack: Stack, arm: str) -> None:
    """An answer that a filter has cut never looks like a whole one."""
    with client_of(stack, arm) as client:
        assert _chat(client, "filtered").choices[0].finish_reason == "content_filter"


@pytest.mark.parametrize("arm", ARMS)
def test_the_arm_is_the_one_that_served(stack: Stack, arm: str) -> None:
    """Else all of the above would prove nothing."""
    with client_of(stack, arm) as client:
        raw = client.chat.completions.with_raw_response.create(model="plain", messages=USER)
        assert raw.headers["x-sidecar-model"] == f"{arm}/plain"
