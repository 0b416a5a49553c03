"""The google-genai SDK gets the same typed objects whatever dialect the arm behind it speaks."""

from collections.abc import Callable
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from tests.sdk.alike import failure, unlike
from tests.sdk.asked import ASK, PIXEL, RESULT, SCHEMA, SYSTEM, TOOLS, Trip
from tests.sdk.stack import ARMS, Stack, tags


def client_of(stack: Stack, arm: str | None) -> genai.Client:
    options = types.HttpOptions(base_url=stack.url, headers=tags(arm), retry_options=types.HttpRetryOptions(attempts=1))
    return genai.Client(api_key="k", http_options=options)


def _config(**more: Any) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(**{"system_instruction": SYSTEM, "max_output_tokens": 200, **more})


def _tools(count: int = 2) -> Any:
    declared = [
        types.FunctionDeclaration(name=name, description=f"The {name} of a city.", parameters_json_schema=SCHEMA)
        for name in TOOLS[:count]
    ]
    return [types.Tool(function_declarations=declared)]


def _calls(mode: str, *names: str) -> Any:
    chosen = types.FunctionCallingConfig(
        mode=types.FunctionCallingConfigMode[mode], allowed_function_names=names or None
    )
    return types.ToolConfig(function_calling_config=chosen)


def _ask(client: genai.Client, model: str = "plain", contents: Any = ASK, **config: Any) -> Any:
    return client.models.generate_content(model=model, contents=contents, config=_config(**config))


def _stream(client: genai.Client, model: str = "plain", **config: Any) -> Any:
    """What all chunks say together; the SDK has no accumulator of its own."""
    chunks = list(client.models.generate_content_stream(model=model, contents=ASK, config=_config(**config)))
    parts = [
        part
        for chunk in chunks
        for one in chunk.candidates or ()
        for part in (one.content or types.Content()).parts or ()
    ]
    last = chunks[-1]
    assert last.candidates
    assert last.usage_metadata
    return {
        "thoughts": "".join(part.text or "" for part in parts if part.thought),
        "text": "".join(part.text or "" for part in parts if not part.thought),
        "function_calls": [part.function_call for part in parts if part.function_call],
        "finish_reason": last.candidates[0].finish_reason,
        "usage": last.usage_metadata,
        "model": last.model_version,
        "streamed": len(chunks) > 1,
    }


def _turn(client: genai.Client) -> Any:
    """The calls are answered, with the SDK's own objects in the history."""
    asked = _ask(client, "two-calls", tools=_tools())
    results = [
        types.Part(function_response=types.FunctionResponse(id=call.id, name=call.name, response={"result": RESULT}))
        for call in asked.function_calls
    ]
    history = [
        types.Content(role="user", parts=[types.Part(text=ASK)]),
        asked.candidates[0].content,
        types.Content(role="user", parts=results),
    ]
    return _ask(client, "two-calls", history, tools=_tools())


THINKING = types.ThinkingConfig(include_thoughts=True, thinking_budget=1024)
JSON = "application/json"
CASES: dict[str, Callable[[genai.Client], Any]] = {
    "text": _ask,
    "text_stream": _stream,
    "tool": lambda client: _ask(client, tools=_tools(1), tool_config=_calls("ANY")),
    "named_tool": lambda client: _ask(client, tools=_tools(), tool_config=_calls("ANY", "clock")),
    "tools": lambda client: _ask(client, "two-calls", tools=_tools()),
    "tools_stream": lambda client: _stream(client, "two-calls", tools=_tools()),
    "tools_turn": _turn,
    "schema": lambda client: _ask(client, response_mime_type=JSON, response_json_schema=SCHEMA),
    "schema_parsed": lambda client: _ask(client, response_mime_type=JSON, response_schema=Trip),
    "schema_stream": lambda client: _stream(client, response_mime_type=JSON, response_json_schema=SCHEMA),
    "thinks": lambda client: _ask(client, "thinks", thinking_config=THINKING),
    "thinks_stream": lambda client: _stream(client, "thinks", thinking_config=THINKING),
    "image": lambda client: _ask(
        client, contents=[types.Part.from_bytes(data=PIXEL.encode(), mime_type="image/png"), types.Part(text=ASK)]
    ),
    "cut": lambda client: _ask(client, max_output_tokens=5),
    "cut_stream": lambda client: _stream(client, max_output_tokens=5),
    "busy": lambda client: failure(lambda: _ask(client, "busy")),
    "down": lambda client: failure(lambda: _ask(client, "down")),
    "breaks": lambda client: failure(lambda: _stream(client, "breaks"))[0],
}

CANNOT = {
    ("thinks", "bedrock"): "reasoning",
    ("thinks_stream", "bedrock"): "reasoning",
}  # what an arm has no words for is refused by name, as the policy allows no loss


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("case", CASES)
def test_generate_content(stack: Stack, case: str, arm: str) -> None:
    """The typed objects of generateContent, from each arm as from Google itself."""
    own, other = client_of(stack, None), client_of(stack, arm)
    if member := CANNOT.get((case, arm)):
        with pytest.raises(errors.ClientError, match=f"cannot say: {member};"):
            CASES[case](other)
    else:
        assert unlike(case, arm, CASES[case](other), CASES[case](own)) == []


def test_the_answers_are_worth_comparing(stack: Stack) -> None:
    """The own provider's answers hold what the cases are about."""
    client = client_of(stack, None)
    assert "42" in CASES["text_stream"](client)["text"]
    assert [call.name for call in CASES["tools"](client).function_calls] == list(TOOLS)
    assert CASES["thinks"](client).candidates[0].content.parts[0].thought
    assert isinstance(CASES["schema_parsed"](client).parsed, Trip)
    assert CASES["busy"](client) == (errors.ClientError.__name__, 429)


def test_tokens_are_counted_and_texts_embedded_by_the_own_provider(stack: Stack) -> None:
    """countTokens and embedContent are no calls that an arm of another dialect answers."""
    client = client_of(stack, None)
    assert client.models.count_tokens(model="plain", contents=ASK).total_tokens
    assert client.models.embed_content(model="gemini-embedding-001", contents="a").embeddings
