"""The anthropic SDK gets the same typed objects whatever dialect the arm behind it speaks."""

from collections.abc import Callable
from itertools import product
from typing import Any

import anthropic
import pytest

from tests.sdk.alike import failure, unlike
from tests.sdk.asked import ASK, PIXEL, RESULT, SCHEMA, SYSTEM, TOOLS, Trip
from tests.sdk.stack import ARMS, Stack, tags

USER: list[Any] = [{"role": "user", "content": ASK}]
TOOLS_SAID: list[Any] = [
    {"name": name, "description": f"The {name} of a city.", "input_schema": SCHEMA} for name in TOOLS
]
FORMAT: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
IMAGE: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}


def client_of(stack: Stack, arm: str | None) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=stack.url, api_key="k", max_retries=0, default_headers=tags(arm))


def _ask(client: anthropic.Anthropic, model: str = "plain", **more: Any) -> Any:
    asked = {"model": model, "max_tokens": 200, "system": SYSTEM, "messages": USER}
    return client.messages.create(**{**asked, **more})


def _stream(client: anthropic.Anthropic, model: str = "plain", **more: Any) -> Any:
    """What the SDK's own accumulator makes of the stream, and the kinds of events without repeats."""
    kinds: list[str] = []
    with client.messages.stream(
        model=model, max_tokens=more.pop("max_tokens", 200), system=SYSTEM, messages=USER, **more
    ) as stream:
        for event in stream:
            if not event.type.startswith("signature") and kinds[-1:] != [event.type]:
                kinds.append(event.type)
        return stream.get_final_message(), kinds[0], kinds[-1]


def _turn(client: anthropic.Anthropic) -> Any:
    """The calls are answered, with the SDK's own objects in the history."""
    asked = _ask(client, "two-calls", tools=TOOLS_SAID)
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": RESULT}
        for block in asked.content
        if block.type == "tool_use"
    ]
    history = [*USER, {"role": "assistant", "content": asked.content}, {"role": "user", "content": results}]
    return _ask(client, "two-calls", tools=TOOLS_SAID, messages=history)


CASES: dict[str, Callable[[anthropic.Anthropic], Any]] = {
    "text": _ask,
    "text_stream": _stream,
    "blocks": lambda client: _ask(
        client, system=[{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
    ),
    "tool": lambda client: _ask(client, tools=TOOLS_SAID[:1], tool_choice={"type": "any"}),
    "named_tool": lambda client: _ask(client, tools=TOOLS_SAID, tool_choice={"type": "tool", "name": "clock"}),
    "tools": lambda client: _ask(client, "two-calls", tools=TOOLS_SAID),
    "tools_stream": lambda client: _stream(client, "two-calls", tools=TOOLS_SAID),
    "tools_turn": _turn,
    "no_parallel_tools": lambda client: _ask(
        client, "two-calls", tools=TOOLS_SAID, tool_choice={"type": "auto", "disable_parallel_tool_use": True}
    ),
    "schema": lambda client: _ask(client, output_config=FORMAT),
    "schema_parsed": lambda client: client.messages.parse(
        model="plain", max_tokens=200, messages=USER, output_format=Trip
    ),
    "thinks": lambda client: _ask(client, "thinks", thinking=THINKING, max_tokens=2000),
    "thinks_stream": lambda client: _stream(client, "thinks", thinking=THINKING, max_tokens=2000),
    "image": lambda client: _ask(
        client, messages=[{"role": "user", "content": [IMAGE, {"type": "text", "text": ASK}]}]
    ),
    "cut": lambda client: _ask(client, max_tokens=5),
    "cut_stream": lambda client: _stream(client, max_tokens=5),
    "busy": lambda client: failure(lambda: _ask(client, "busy")),
    "down": lambda client: failure(lambda: _ask(client, "down"))[1] >= 500,
    "breaks": lambda client: failure(lambda: _stream(client, "breaks")),
}
ONE_BY_US = ("gemini", "cohere", "bedrock")  # arms that cannot be told: the client gets the first call of several
ONE_AT_A_TIME = [("no_parallel_tools", arm) for arm in ONE_BY_US]  # has a test of its own
CANNOT = {
    ("thinks", "bedrock"): "reasoning",
    ("thinks_stream", "bedrock"): "reasoning",
}  # what an arm has no words for is refused by name, as the policy allows no loss


@pytest.mark.parametrize(("case", "arm"), [pair for pair in product(CASES, ARMS) if pair not in ONE_AT_A_TIME])
def test_messages(stack: Stack, case: str, arm: str) -> None:
    """The typed objects of messages, from each arm as from Anthropic itself."""
    with client_of(stack, None) as own, client_of(stack, arm) as other:
        if member := CANNOT.get((case, arm)):
            with pytest.raises(anthropic.BadRequestError, match=f"cannot say: {member};"):
                CASES[case](other)
        else:
            assert unlike(case, arm, CASES[case](other), CASES[case](own)) == []


@pytest.mark.parametrize("arm", ONE_BY_US)
def test_one_tool_at_a_time_where_the_arm_cannot_be_told(stack: Stack, arm: str) -> None:
    """`disable_parallel_tool_use` holds before an arm that answers with two calls all the same."""
    with client_of(stack, arm) as client:
        calls = [block for block in CASES["no_parallel_tools"](client).content if block.type == "tool_use"]
        assert [call.name for call in calls] == list(TOOLS)[:1]


def test_the_answers_are_worth_comparing(stack: Stack) -> None:
    """The own provider's answers hold what the cases are about."""
    with client_of(stack, None) as client:
        assert "42" in CASES["text_stream"](client)[0].content[0].text
        assert [block.name for block in CASES["tools"](client).content] == list(TOOLS)
        assert CASES["thinks"](client).content[0].type == "thinking"
        assert CASES["schema_parsed"](client).parsed_output.city
        assert CASES["busy"](client) == ("RateLimitError", 429)


def test_tokens_are_counted_by_the_own_provider(stack: Stack) -> None:
    """count_tokens is no call that an arm of another dialect answers."""
    with client_of(stack, None) as client:
        assert client.messages.count_tokens(model="plain", messages=USER).input_tokens > 0
