"""Requests of chat completions: what is refused, what old clients mean, and what calls of other formats lose."""

from typing import Any

import orjson
import pytest

from sidecar.errors import TranslationError
from sidecar.wire.neutral import (
    Media,
    Message,
    Opaque,
    Output,
    Reasoning,
    Refusal,
    Report,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from sidecar.wire.spokes.chat.request import read_request, write_request

HI = [{"role": "user", "content": "Hi"}]


def said(request: Request) -> tuple[dict[str, Any], list[str], list[str]]:
    report = Report()
    return write_request(request, report), report.lost, report.mapped


def foreign(messages: list[Message] | None = None, **members: Any) -> Request:
    """A call that an Anthropic client made."""
    return Request(format="messages", model="m", messages=messages or [], **members)


def talk(*parts: Any, role: Any = "user", **members: Any) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    body, lost, mapped = said(foreign([Message(role=role, parts=list(parts), **members)]))
    return body["messages"], lost, mapped


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "the body: expected an object, got a list"),
        ({}, "messages: expected a list, got null"),
        ({"messages": [1]}, "messages[0]: expected an object, got a number"),
        (
            {"messages": [{"role": "wizard"}]},
            "messages[0].role: expected system, developer, user, assistant or tool",
        ),
        ({"messages": [{"content": "x"}]}, "messages[0].role: expected a string, got null"),
        (
            {"messages": [{"role": "user", "content": 3}]},
            "messages[0].content: expected a string or a list, got a number",
        ),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type: expected a string, got null"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].image_url: expected an object, got null",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id: expected a string, got null"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "function"}]}]},
            "messages[0].tool_calls[0].function: expected an object, got null",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}]},
            "messages[0].tool_calls[0].function.arguments: expected a string, got a list",
        ),
        ({"messages": HI, "tool_choice": "maybe"}, "tool_choice: expected none, auto or required"),
        ({"messages": HI, "tool_choice": 3}, "tool_choice: expected a string or an object, got a number"),
        ({"messages": HI, "function_call": "maybe"}, "function_call: expected none, auto or an object with a name"),
        ({"messages": HI, "logit_bias": {"a": True}}, "logit_bias: expected numbers in it, got a boolean"),
        ({"messages": HI, "logit_bias": []}, "logit_bias: expected an object, got a list"),
        ({"messages": HI, "stop": ["a", 1]}, "stop[1]: expected a string, got a number"),
        ({"messages": HI, "seed": 1 << 63}, "seed: expected a whole number, got a number"),
        ({"messages": HI, "n": 2.5}, "n: expected a whole number, got a number"),
        ({"messages": HI, "seed": 1e300}, "seed: expected a whole number, got a number"),
        ({"messages": HI, "response_format": []}, "response_format: expected an object, got a list"),
        (
            {"messages": HI, "response_format": {"type": "json_schema"}},
            "response_format.json_schema: expected an object, got null",
        ),
    ],
)
def test_what_chat_does_not_allow_is_refused_with_its_place(body: Any, message: str) -> None:
    with pytest.raises(TranslationError) as caught:
        read_request(body)
    assert str(caught.value) == message


def test_old_functions_are_tools_that_are_called_one_at_a_time() -> None:
    body = {
        "model": "m",
        "messages": [
            *HI,
            {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": "{}"}},
            {"role": "function", "name": "add", "content": "3"},
        ],
        "functions": [{"name": "add", "description": "Adds", "parameters": {}, "x": 1}],
        "function_call": {"name": "add"},
    }
    request = read_request(body)
    assert request.spelling == {"calls": "functions"}
    written, lost, mapped = said(request)
    function = {"name": "add", "description": "Adds", "parameters": {}, "x": 1}
    assert written == {
        "model": "m",
        "messages": [
            *HI,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call_0", "type": "function", "function": {"name": "add", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "call_0", "content": "3", "name": "add"},
        ],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "parallel_tool_calls": False,
    }
    assert lost == mapped == []


def test_what_only_its_own_server_knows_stays_as_it_is() -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: A"}, "x": 1}
    plain = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a"}}
    body: dict[str, Any] = {
        "model": "m",
        "messages": HI,
        "tools": [
            {"type": "custom", "custom": {"name": "sh", "format": grammar}},
            {"type": "custom", "custom": {"name": "sh", "format": plain, "y": 1}},
            {"type": "web_search", "z": 1},
            {"type": "function", "function": {"name": "f", "description": "d", "x": 1}, "y": 2},
        ],
        "stop": ["a"],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "description": "d", "strict": True, "schema": {}, "x": 1},
        },
        "tool_choice": {"type": "mcp"},
        "stream": True,
        "stream_options": {"include_usage": True, "x": 1},
        "reasoning_effort": "default",
        "metadata": {"a": 1},
        "logit_bias": {"1": 2},
        "top_logprobs": 3,
    }
    assert said(read_request(body)) == (body, [], [])
    for form in ({"type": "regex", "regex": "a"}, {"type": "text", "x": 1}):
        assert said(read_request({**body, "response_format": form}))[0] == {**body, "response_format": form}


def test_the_canonical_form() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "assistant", "reasoning_content": "", "reasoning": "so", "content": "x"}],
        "stop": "a",
        "response_format": {"type": "text"},
        "stream": False,
        "tools": [{"type": "custom", "custom": {"name": "sh", "format": {"type": "text"}}}],
    }
    assert said(read_request(body))[0] == {
        "model": "m",
        "messages": [{"role": "assistant", "content": "x", "reasoning_content": "so"}],
        "stop": ["a"],
        "tools": [{"type": "custom", "custom": {"name": "sh"}}],
    }
    twice = {"role": "assistant", "content": "x", "reasoning_content": "so", "reasoning": "so"}
    assert said(read_request({"model": "m", "messages": [twice]}))[0]["messages"] == [
        {"role": "assistant", "content": "x", "reasoning_content": "so"}
    ]
    empty = {"model": "m", "messages": [{"role": "assistant", "content": "x", "reasoning_content": ""}]}
    assert said(read_request(empty))[0]["messages"] == [{"role": "assistant", "content": "x"}]


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_the_old_choice_is_the_new_one(mode: str) -> None:
    assert read_request({"messages": HI, "function_call": mode}).tool_choice == ToolChoice(mode=mode)  # type: ignore[arg-type]


def test_the_limit_is_written_as_it_was_said() -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        request = read_request({"messages": HI, name: 5})
        assert (request.max_tokens, said(request)[0][name]) == (5, 5)
    both = said(read_request({"messages": HI, "max_tokens": 5, "max_completion_tokens": 6}))[0]
    assert (both["max_tokens"], both["max_completion_tokens"]) == (5, 6)
    assert said(foreign(max_tokens=7))[0]["max_tokens"] == 7


def test_variants_of_servers_and_clients_are_understood() -> None:
    request = read_request(
        {
            "messages": [
                {"role": "user", "content": ["a", {"type": "image_url", "image_url": "https://example.com/a.png"}]},
                {
                    "role": "assistant",
                    "reasoning": "so",
                    "content": [
                        {"type": "thinking", "thinking": "hm"},
                        {"type": "thinking", "thinking": [{"text": "m"}]},
                    ],
                    "tool_calls": [
                        {"function": {"name": "f", "arguments": {"a": 1}}, "index": 0},
                        {"function": {"name": "g"}, "extra_content": {"google": {"thought_signature": 1}}},
                        {"type": "mcp", "id": "x"},
                    ],
                },
                {"role": "function", "name": "h", "content": "?"},
            ],
            "tool_choice": "any",
            "response_format": {"type": "json_object", "schema": {"type": "object"}},
        }
    )
    user, assistant, result = request.messages
    assert user.parts == [Text(text="a"), Media(kind="image", url="https://example.com/a.png")]
    assert assistant.parts == [
        Thinking(text="so"),
        Thinking(text="hm"),
        Thinking(text="m"),
        ToolCall(id="call_0", name="f", arguments='{"a":1}'),
        ToolCall(id="call_1", name="g", extra={"extra_content": {"google": {"thought_signature": 1}}}),
    ]
    assert result.parts == [ToolResult(call_id="call_0", parts=[Text(text="?")], name="h")]
    assert request.tool_choice == ToolChoice(mode="required")
    assert request.output == Output(schema={"type": "object"})
    written = said(request)[0]
    assert written["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}},
    }
    assert [call.get("type") for call in written["messages"][1]["tool_calls"]] == ["function", "function", "mcp"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": [{"reference": 1}]},
        {"type": "thinking", "thinking": 4},
        {"type": "file", "file": {}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "mpeg"}},
        {"type": "video_url", "video_url": {"url": "https://example.com"}},
    ],
)
def test_parts_that_are_not_known_travel_whole(part: dict[str, Any]) -> None:
    request = read_request({"model": "m", "messages": [{"role": "user", "content": [part]}]})
    assert request.messages[0].parts == [Opaque(value=part)]
    assert said(request)[0]["messages"][0]["content"] == [part]


@pytest.mark.parametrize(
    "mark", [{"type": "ephemeral", "ttl": "2h"}, {"type": "ephemeral", "x": 1}, "ephemeral", {"type": "x"}]
)
def test_a_cache_mark_of_another_form_stays_as_it_is(mark: Any) -> None:
    part = {"type": "text", "text": "a", "cache_control": mark}
    request = read_request({"model": "m", "messages": [{"role": "user", "content": [part]}]})
    assert request.messages[0].parts[0].cache is None
    assert said(request)[0]["messages"][0]["content"] == [part]


@pytest.mark.parametrize(
    "url", ["data:image/png,AA", "data:;base64,AA", "data:image/png;x=1;base64,AA", "http://a;base64,b"]
)
def test_urls_that_are_no_plain_base64_stay_urls(url: str) -> None:
    request = read_request(
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}
    )
    assert request.messages[0].parts == [Media(kind="image", url=url)]


def test_long_data_urls_are_split_too() -> None:
    url = "data:image/png;base64," + "A" * 400
    request = read_request(
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}
    )
    assert request.messages[0].parts == [Media(kind="image", media_type="image/png", data="A" * 400)]
    assert said(request)[0]["messages"][0]["content"] == [{"type": "image_url", "image_url": {"url": url}}]


def test_thinking_of_a_user_keeps_its_spelling() -> None:
    content = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]
    request = read_request({"model": "m", "messages": [{"role": "user", "content": content}]})
    assert said(request)[0]["messages"][0]["content"] == content


@pytest.mark.parametrize(
    "message",
    [
        {"thinking_blocks": [{"type": "thinking", "thinking": "a"}], "reasoning_content": "b"},
        {"thinking_blocks": [{"type": "strange"}], "reasoning_content": "b"},
        {"thinking_blocks": [{"type": "thinking", "thinking": 3}]},
        {"thinking_blocks": "a", "reasoning_content": "b"},
        {"reasoning_content": "a", "reasoning": "b"},
        {"reasoning_content": {"a": 1}},
        {"images": [{"type": "image_url", "image_url": {"url": "https://a", "x": 1}}]},
        {"images": [3]},
        {"audio": {"id": "a", "x": 1}},
    ],
)
def test_thoughts_and_media_in_strange_forms_lose_nothing(message: dict[str, Any]) -> None:
    whole = {"role": "assistant", "content": "x", **message}
    assert said(read_request({"model": "m", "messages": [whole]}))[0]["messages"] == [whole]


def test_an_image_with_more_in_an_assistants_content_stays_there() -> None:
    content = [{"type": "image_url", "image_url": {"url": "https://a", "detail": "low"}}]
    whole = {"role": "assistant", "content": content}
    assert said(read_request({"model": "m", "messages": [whole]}))[0]["messages"] == [whole]


# ---- of other formats


def test_everything_that_chat_can_say_of_another_format_is_exact() -> None:
    request = foreign(
        [
            Message(role="system", parts=[Text(text="s")]),
            Message(role="user", parts=[Media(kind="image", media_type="image/png", data="AA"), Text(text="?")]),
            Message(role="assistant", parts=[Text(text="ok"), ToolCall(id="c", name="f", arguments="{}")]),
            Message(role="user", parts=[Text(text="and"), ToolResult(call_id="c", parts=[Text(text="3")], name="f")]),
        ],
        tools=[Tool(name="f", parameters={"type": "object"}, strict=True)],
        tool_choice=ToolChoice(mode="required", tools=["f"]),
        parallel_tools=True,
        stream=True,
        temperature=1,
        top_p=0.5,
        stop=["x"],
        output=Output(),
        metadata={"a": "b"},
        user="u",
    )
    body, lost, mapped = said(request)
    assert body["messages"] == [
        {"role": "system", "content": "s"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                {"type": "text", "text": "?"},
            ],
        },
        {
            "role": "assistant",
            "content": "ok",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "3"},
        {"role": "user", "content": "and"},
    ]
    assert body["stream_options"] == {"include_usage": True}
    assert body["response_format"] == {"type": "json_object"}
    assert body["parallel_tool_calls"] is True
    assert lost == mapped == []


def test_what_chat_cannot_say_is_lost_with_its_place() -> None:
    request = foreign(
        [
            Message(
                role="user", parts=[Opaque(value={"type": "x"}), Media(kind="video", url="https://a")], extra={"m": 1}
            )
        ],
        tools=[Tool(name="web", opaque={"type": "web"})],
        tool_choice=ToolChoice(mode="auto", extra={"c": 1}),
        parallel_tools=False,
        top_k=4,
        output=Output(schema={}, extra={"o": 1}),
        reasoning=Reasoning(show=False, summary="auto"),
        extra={"container": "x", "quiet": False},
    )
    body, lost, mapped = said(request)
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": ""}],
        "tool_choice": "auto",
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {}}},
    }
    assert lost == [
        "messages[0].content[0]",
        "messages[0].content[1]",
        "messages[0].m",
        "tools[0]",
        "tool_choice.c",
        "top_k",
        "output.o",
        "container",
    ]
    assert mapped == ["reasoning.show", "reasoning.summary"]


def test_a_call_for_text_is_no_news_to_other_formats() -> None:
    """Answers are text there anyway; sound is another matter."""
    request = read_request({"model": "m", "messages": HI, "modalities": ["text"]})
    assert (request.extra, said(request)[0]["modalities"]) == ({}, ["text"])
    assert read_request({"model": "m", "messages": HI, "modalities": ["text", "audio"]}).extra


def test_what_chat_says_in_other_words_is_mapped() -> None:
    body, lost, mapped = said(
        foreign(
            [Message(role="developer", parts=[Text(text="s", cache="1h")])],
            tools=[Tool(name="f", cache="5m")],
            temperature=2.5,
            service_tier="standard_only",
            reasoning=Reasoning(budget_tokens=5000),
        )
    )
    assert body["messages"] == [{"role": "system", "content": "s"}]
    assert (body["temperature"], body["service_tier"], body["reasoning_effort"]) == (2, "default", "medium")
    assert mapped == ["messages[0].content[0].cache", "tools[0].cache", "temperature", "service_tier", "reasoning"]
    assert lost == []


@pytest.mark.parametrize(
    ("reasoning", "effort", "mapped"),
    [
        (Reasoning(effort="high"), "high", []),
        (Reasoning(budget_tokens=0), "none", ["reasoning"]),
        (Reasoning(budget_tokens=0, effort="low"), "none", ["reasoning"]),
        (Reasoning(budget_tokens=100), "minimal", ["reasoning"]),
        (Reasoning(budget_tokens=1024), "low", ["reasoning"]),
        (Reasoning(budget_tokens=60000), "xhigh", ["reasoning"]),
        (Reasoning(adaptive=True), None, ["reasoning"]),
        (Reasoning(show=True), None, []),
    ],
)
def test_reasoning_of_other_formats(reasoning: Reasoning, effort: str | None, mapped: list[str]) -> None:
    body, lost, told = said(foreign(reasoning=reasoning))
    assert (body.get("reasoning_effort"), told, lost) == (effort, mapped, [])


def test_signatures_are_not_told_to_another_provider() -> None:
    messages, lost, mapped = talk(
        Thinking(text="a", signature="s"),
        Thinking(redacted="r"),
        Thinking(text="plain"),
        ToolCall(id="c", name="f", signature="g"),
        role="assistant",
    )
    assert messages == [
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "plain",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}],
        }
    ]
    assert mapped == ["messages[0].content[0]", "messages[0].content[1]", "messages[0].content[3]"]
    assert lost == []


def test_a_text_after_a_call_comes_before_it_and_is_told() -> None:
    messages, _, mapped = talk(ToolCall(id="c", name="f"), Text(text="b"), role="assistant", name="ann")
    assert (messages[0]["content"], messages[0]["name"], mapped) == ("b", "ann", ["messages[0].content[1]"])


def test_images_in_results_follow_in_a_users_message() -> None:
    image = Media(kind="image", url="https://a")
    messages, lost, mapped = talk(
        ToolResult(call_id="c", parts=[Text(text="see"), image], failed=True, cache="5m", extra={"x": 1}),
        ToolResult(call_id="d", parts=[]),
        Text(text="go on"),
    )
    assert messages == [
        {"role": "tool", "tool_call_id": "c", "content": "see"},
        {"role": "tool", "tool_call_id": "d", "content": ""},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "https://a"}}, {"type": "text", "text": "go on"}],
        },
    ]
    assert lost == ["messages[0].content[0].x"]
    place = "messages[0].content[0]"
    assert mapped == [f"{place}.content[1]", f"{place}.failed", f"{place}.cache"]


def test_a_tools_message_without_a_result_is_a_users() -> None:
    assert talk(Text(text="?"), role="tool")[0] == [{"role": "user", "content": "?"}]


@pytest.mark.parametrize(
    ("media", "part"),
    [
        (Media(kind="document", text="t", name="n"), "t"),
        (
            Media(kind="document", media_type="application/pdf", data="AA"),
            [{"type": "file", "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,AA"}}],
        ),
        (
            Media(kind="document", data="AA", name="n.pdf"),
            [{"type": "file", "file": {"filename": "n.pdf", "file_data": "data:application/pdf;base64,AA"}}],
        ),
        (
            Media(kind="audio", media_type="audio/mpeg", data="AA"),
            [{"type": "input_audio", "input_audio": {"data": "AA", "format": "mp3"}}],
        ),
        (Media(kind="image", data="AA"), [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]),
        (
            Media(kind="image", url="https://a", detail="low"),
            [{"type": "image_url", "image_url": {"url": "https://a", "detail": "low"}}],
        ),
    ],
)
def test_media_of_other_formats(media: Media, part: Any) -> None:
    messages, lost, _ = talk(media)
    assert (messages[0]["content"], lost) == (part, [])


@pytest.mark.parametrize(
    "media",
    [
        Media(kind="image", file_id="f"),
        Media(kind="document", url="https://a"),
        Media(kind="document", file_id="f"),
        Media(kind="audio", media_type="audio/ogg", data="AA"),
        Media(kind="audio", url="https://a"),
    ],
)
def test_media_that_chat_has_not_are_lost(media: Media) -> None:
    assert talk(media)[1] == ["messages[0].content[0]"]


def test_what_a_model_drew_goes_back_among_its_images() -> None:
    messages, lost, _ = talk(
        Media(kind="image", media_type="image/png", data="AA", extra={"x": 1}),
        Media(kind="audio", data="AA"),
        role="assistant",
    )
    assert messages[0]["images"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
    assert lost == ["messages[0].content[0].x", "messages[0].content[1]"]


def test_refusals_and_custom_tools_are_exact() -> None:
    body, lost, mapped = said(
        foreign(
            [
                Message(
                    role="assistant",
                    parts=[Refusal(text="no"), ToolCall(id="c", name="sh", arguments="ls", custom=True)],
                )
            ],
            tools=[Tool(name="sh", custom=True, description="d", grammar={"syntax": "regex", "definition": "a"})],
            tool_choice=ToolChoice(mode="required", tools=["sh"]),
        )
    )
    assert body["messages"][0]["refusal"] == "no"
    assert body["messages"][0]["tool_calls"] == [{"id": "c", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]
    assert body["tools"][0]["custom"]["format"]["grammar"] == {"syntax": "regex", "definition": "a"}
    assert body["tool_choice"] == {"type": "custom", "custom": {"name": "sh"}}
    assert lost == mapped == []


def test_a_refusal_of_a_user_in_its_own_format() -> None:
    content = [{"type": "refusal", "refusal": "no"}]
    request = read_request({"model": "m", "messages": [{"role": "user", "content": content}]})
    assert said(request)[0]["messages"][0]["content"] == content


def test_choices_among_tools() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    for choice in (
        {"type": "function", "function": {"name": "f", "x": 1}},
        {"type": "function", "function": {"name": 3}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": tools}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
        {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [1]}},
    ):
        body = {"model": "m", "messages": HI, "tool_choice": choice}
        assert said(read_request(body))[0] == body
    assert said(foreign(tool_choice=ToolChoice(mode="none", tools=["f"])))[0]["tool_choice"] == "none"


def test_files_that_the_provider_holds_are_said_in_its_own_format() -> None:
    content = [{"type": "file", "file": {"file_id": "f", "filename": "a.pdf"}}, {"type": "text", "text": "?"}]
    request = read_request({"model": "m", "messages": [{"role": "user", "content": content}]})
    assert said(request)[0]["messages"][0]["content"] == content


def test_an_error_never_tells_a_value() -> None:
    with pytest.raises(TranslationError) as caught:
        read_request({"messages": [{"role": "secret", "content": "secret"}], "tool_choice": "secret"})
    assert "secret" not in str(caught.value)


def test_equal_requests_give_equal_bytes() -> None:
    body = {"model": "m", "messages": HI, "seed": 1, "user": "u"}
    assert orjson.dumps(said(read_request(body))[0]) == orjson.dumps(said(read_request(body))[0])
    assert list(said(read_request(body))[0]) == list(said(read_request(dict(reversed(body.items()))))[0])
