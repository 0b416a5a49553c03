"""Requests of the Messages API: what each member means, and how other formats' calls are said."""

import base64
from typing import Any

import pytest

from sidecar.errors import TranslationError
from sidecar.wire.neutral import (
    Media,
    Message,
    Opaque,
    Output,
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
from sidecar.wire.spoke import kind_of, problem_of
from sidecar.wire.spokes.messages.request import read_request, write_request

ASK = {"role": "user", "content": "Hi"}


def body(**members: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": [ASK], **members}


def read_block(block: dict[str, Any]) -> Any:
    return read_request(body(messages=[{"role": "user", "content": [block]}])).messages[0].parts[0]


def chat(*messages: Message, **members: Any) -> Request:
    given = list(messages) or [Message(role="user", parts=[Text(text="Hi")])]
    return Request(**{"format": "chat", "model": "m", "messages": given, "max_tokens": 9, **members})


def say(request: Request) -> tuple[dict[str, Any], list[str], list[str]]:
    report = Report()
    return write_request(request, report), report.lost, report.mapped


# ---- reading


def test_the_members_of_a_request() -> None:
    request = read_request(
        body(
            system=[{"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
            stop_sequences=["END"],
            metadata={"user_id": "u1"},
            service_tier="auto",
            output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
            tool_choice={"type": "tool", "name": "f", "disable_parallel_tool_use": True},
            tools=[
                {"type": "custom", "name": "f", "input_schema": {"type": "object"}, "strict": True},
                {"type": "bash_1"},
            ],
        )
    )
    assert request.messages[0] == Message(role="system", parts=[Text(text="Be brief", cache="1h")])
    assert (request.stop, request.user, request.service_tier, request.max_tokens) == (["END"], "u1", "auto", 9)
    assert request.output == Output(schema={"type": "object"})
    assert request.tool_choice == ToolChoice(mode="required", tools=["f"])
    assert request.parallel_tools is False
    assert request.tools[0] == Tool(name="f", parameters={"type": "object"}, strict=True)
    assert request.tools[1] == Tool(name="bash_1", opaque={"type": "bash_1"})
    assert request.extra == {}


def test_a_count_tokens_request_has_no_limit() -> None:
    counted = {"model": "m", "messages": [ASK]}
    assert say(read_request(counted)) == (counted, [], [])


@pytest.mark.parametrize(
    ("thinking", "meant"),
    [
        ({"type": "enabled", "budget_tokens": 2048, "display": "omitted"}, (2048, False, False)),
        ({"type": "adaptive", "display": "summarized"}, (None, True, True)),
        ({"type": "disabled"}, (0, False, None)),
    ],
)
def test_thinking(thinking: dict[str, Any], meant: tuple[Any, ...]) -> None:
    reasoning = read_request(body(thinking=thinking)).reasoning
    assert reasoning is not None
    assert (reasoning.budget_tokens, reasoning.adaptive, reasoning.show) == meant


@pytest.mark.parametrize(
    "members",
    [
        {"thinking": {"type": "enabled", "budget_tokens": 2048, "display": "omitted"}},
        {"thinking": {"type": "adaptive", "display": "later"}, "output_config": {"effort": "max"}},
        {"thinking": {"type": "disabled"}, "output_config": {"effort": "later", "format": {"type": "later"}}},
        {"thinking": {"type": "between_tools", "x": 1}},
        {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}, "x": 1}, "x": 1}},
        {"metadata": {"user_id": "u", "x": 1}, "container": "c", "mcp_servers": [{"name": "m"}]},
        {
            "tools": [{"name": "f", "input_schema": {}, "x": 1}, {"type": "bash_1", "name": "bash"}],
            "tool_choice": {"type": "any", "x": 1},
        },
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": False}, "temperature": 0, "top_p": 1, "top_k": 5},
        {"messages": [{"role": "user", "content": []}]},
        {"messages": [ASK, {"role": "system", "content": "Now"}], "service_tier": "auto", "stop_sequences": ["a"]},
    ],
)
def test_members_are_said_again(members: dict[str, Any]) -> None:
    """Known ones, and unknown ones at every place."""
    assert say(read_request(body(**members))) == (body(**members), [], [])


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "a", "citations": [{}], "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "a", "cache_control": {"type": "later"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
        {"type": "image", "source": {"type": "url", "url": "u", "x": 1}, "transformations": {}},
        {"type": "document", "source": {"type": "file", "file_id": "f"}, "title": "t", "context": "c"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}},
        {"type": "document", "source": {"type": "content", "content": "c"}},
        {"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": {"type": "x"}}]}},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "search_result"}], "is_error": True},
        {"type": "tool_use", "id": "t", "name": "f", "input": {}, "caller": {"type": "direct"}},
        {"type": "tool_use", "id": "t", "name": "f", "input": {}, "caller": {"type": "code", "tool_id": "s"}},
    ],
)
def test_blocks_are_said_again(block: dict[str, Any]) -> None:
    given = body(messages=[{"role": "user", "content": [block]}])
    assert say(read_request(given)) == (given, [], [])


def test_what_null_and_empty_mean() -> None:
    """They are absent; the canonical form of `messages` lists it."""
    given = body(system=None, thinking=None, stream=False, tools=[], stop_sequences=[], metadata={}, output_config={})
    assert say(read_request(given)) == (body(), [], [])
    call = {"type": "tool_use", "id": "t", "name": "f"}
    assert say(read_request(body(messages=[{"role": "assistant", "content": [call]}])))[0]["messages"][0][
        "content"
    ] == [{**call, "input": {}}]
    cited = read_block({"type": "text", "text": "a", "citations": []})
    assert cited == Text(text="a")


def test_documents() -> None:
    plain = read_block({"type": "document", "title": "T", "source": {"type": "text", "data": "abc"}})
    assert plain == Media(kind="document", media_type="text/plain", text="abc", name="T")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    content = read_block({"type": "document", "source": {"type": "content", "content": parts}})
    assert content.text == "a\n\nb"
    unknown = {"type": "image", "source": {"type": "text", "data": "no image"}}
    assert read_block(unknown) == Opaque(value=unknown)


def test_a_signature_says_who_made_it() -> None:
    """Thoughts of another provider came to the client with their maker; an empty signature proves nothing."""
    block = {"type": "thinking", "thinking": "t", "signature": "sidecar:generate:abc"}
    assert read_block(block) == Thinking(text="t", signature="abc", origin="generate")
    assert read_block({**block, "signature": "sidecar:other:abc"}).signature == "sidecar:other:abc"
    assert read_block({**block, "signature": ""}) == Thinking(text="t")
    assert read_block({"type": "redacted_thinking", "data": "sidecar:responses:x"}).origin == "responses"


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({"messages": None}, "messages: expected a list"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role: expected user, assistant or system"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages[0].content: expected a string or a list, got a number",
        ),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type: expected a string"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "content[0].source: expected an object"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens: expected a whole number, got null"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type: expected auto, any, tool or none"),
    ],
)
def test_an_error_says_where(members: dict[str, Any], where: str) -> None:
    with pytest.raises(TranslationError) as caught:
        read_request(body(**members))
    assert where in str(caught.value)


def test_a_system_message_at_the_head_is_the_system_prompt() -> None:
    head = {"role": "system", "content": "Be brief"}
    assert say(read_request(body(messages=[head, ASK])))[0] == body(system="Be brief")
    kept = body(messages=[{**head, "clear_at": "never"}, ASK])
    assert say(read_request(kept)) == (kept, [], [])


def test_system_prompts_and_head_messages_join() -> None:
    joined = say(read_request(body(system="A", messages=[{"role": "system", "content": "B"}, ASK])))[0]
    assert joined["system"] == [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]


# ---- other formats' calls


def test_a_limit_is_needed() -> None:
    said, lost, mapped = say(chat(max_tokens=None))
    assert (said["max_tokens"], lost, mapped) == (4096, [], ["max_tokens"])


def test_instructions_go_to_one_place() -> None:
    """Leading ones exactly, later ones with a word; images have no place there."""
    system = Message(role="system", parts=[Text(text="A", cache="5m"), Text(text="")])
    later = Message(role="developer", parts=[Text(text="B"), Media(kind="image", url="https://x/y.png")])
    said, lost, mapped = say(chat(system, Message(role="user", parts=[Text(text="Hi")]), later))
    assert said["system"] == [
        {"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "B"},
    ]
    assert said["messages"] == [ASK]
    assert (lost, mapped) == (["messages[2].content[1]"], ["messages[2]"])


def test_instructions_alone_are_a_turn() -> None:
    said, lost, mapped = say(chat(Message(role="system", parts=[Text(text="Hi")])))
    assert said["messages"] == [ASK]
    assert "system" not in said
    assert (lost, mapped) == ([], ["messages"])


def test_results_of_tools_are_one_turn() -> None:
    """Parallel results in order, their ids as the API allows them, the same in call and result."""
    calls = [ToolCall(id="a.1", name="f", arguments='{"x":1}'), ToolCall(id="a:1", name="g"), ToolCall(id="", name="h")]
    said, lost, mapped = say(
        chat(
            Message(role="user", parts=[Text(text="Hi")]),
            Message(role="assistant", parts=[Text(text=""), *calls]),
            Message(role="tool", parts=[ToolResult(call_id="a.1", parts=[Text(text="1")], name="f")]),
            Message(role="tool", parts=[ToolResult(call_id="a:1", parts=[], failed=True)]),
            Message(role="tool", parts=[ToolResult(call_id="", parts=[Text(text="3"), Text(text="4", cache="1h")])]),
            Message(role="user", parts=[Text(text="Hi")]),
        )
    )
    assert (lost, mapped) == ([], [])
    assert said["messages"][1]["content"] == [
        {"type": "tool_use", "id": "a_1", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "a_1_2", "name": "g", "input": {}},
        {"type": "tool_use", "id": "_", "name": "h", "input": {}},
    ]
    assert said["messages"][2] == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "a_1", "content": "1"},
            {"type": "tool_result", "tool_use_id": "a_1_2", "is_error": True},
            {
                "type": "tool_result",
                "tool_use_id": "_",
                "content": [
                    {"type": "text", "text": "3"},
                    {"type": "text", "text": "4", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
                ],
            },
        ],
    }
    assert said["messages"][3] == ASK


def test_results_stand_first_in_a_turn() -> None:
    result = ToolResult(call_id="t", parts=[Text(text="1")])
    said, _, mapped = say(chat(Message(role="user", parts=[Text(text="Hi"), result])))
    assert [block["type"] for block in said["messages"][0]["content"]] == ["tool_result", "text"]
    assert mapped == ["messages[0].content"]


def test_arguments_that_are_no_object() -> None:
    calls = [ToolCall(id="a", name="f", arguments="[1]"), ToolCall(id="b", name="f", arguments="{", signature="s")]
    said, lost, mapped = say(chat(Message(role="assistant", parts=[*calls, ToolCall(id="c", name="f", custom=True)])))
    assert [block["input"] for block in said["messages"][0]["content"]] == [
        {"arguments": "[1]"},
        {"arguments": "{"},
        {"arguments": ""},
    ]
    places = ("[0].arguments", "[1].arguments", "[1].signature", "[2].arguments")
    assert mapped == [f"messages[0].content{place}" for place in places]
    assert lost == []


def test_texts_of_white_space_alone() -> None:
    """The API refuses them; models of other makers write them before calls."""
    call = ToolCall(id="c", name="f", arguments="{}")
    spoken = Message(role="assistant", parts=[Text(text="\n\n"), call])
    result = Message(role="tool", parts=[ToolResult(call_id="c", parts=[Text(text=" ")])])
    said, lost, mapped = say(chat(Message(role="system", parts=[Text(text=" ")]), spoken, result))
    assert "system" not in said
    assert [[block["type"] for block in turn["content"]] for turn in said["messages"]] == [
        ["tool_use"],
        ["tool_result"],
    ]
    assert "content" not in said["messages"][1]["content"][0]
    assert lost == []
    assert mapped[:2] == ["messages[0].content[0]", "messages[1].content[0]"]


def test_what_a_turn_cannot_say_is_told() -> None:
    said, lost, mapped = say(
        chat(
            Message(role="user", parts=[Opaque(value={}), Text(text="")], name="Ann", extra={"x": 1, "y": None}),
            Message(role="assistant", parts=[Refusal(text="No"), Media(kind="image", url="https://x/y.png")]),
            Message(role="user", parts=[Text(text="Hi", extra={"annotations": [1], "empty": []})]),
        )
    )
    assert said["messages"] == [{"role": "assistant", "content": "No"}, ASK]
    assert lost == [
        "messages[0].name",
        "messages[0].x",
        "messages[0].content[0]",
        "messages[1].content[1]",
        "messages[2].content[0].annotations",
    ]
    assert mapped == ["messages[0]", "messages[1].content[0]"]


TEXT = base64.b64encode("é".encode()).decode()


@pytest.mark.parametrize(
    ("media", "source"),
    [
        (
            Media(kind="image", media_type="image/png", data="AA=="),
            {"type": "base64", "media_type": "image/png", "data": "AA=="},
        ),
        (Media(kind="image", url="https://x/y.png"), {"type": "url", "url": "https://x/y.png"}),
        (
            Media(kind="document", url="https://x/y.pdf", media_type="application/pdf"),
            {"type": "url", "url": "https://x/y.pdf"},
        ),
        (Media(kind="document", text="é"), {"type": "text", "media_type": "text/plain", "data": "é"}),
        (
            Media(kind="document", media_type="text/plain", data=TEXT),
            {"type": "text", "media_type": "text/plain", "data": "é"},
        ),
    ],
)
def test_media_that_the_api_takes(media: Media, source: dict[str, str]) -> None:
    media.name, media.detail = "n", "auto"
    said, lost, mapped = say(chat(Message(role="user", parts=[media])))
    title = {"title": "n"} if media.kind == "document" else {}
    assert said["messages"][0]["content"] == [{"type": media.kind, "source": source, **title}]
    assert (lost, mapped) == ([], [] if title else ["messages[0].content[0].name"])


@pytest.mark.parametrize(
    "media",
    [
        Media(kind="image", media_type="image/tiff", data="AA=="),
        Media(kind="image", data="AA=="),
        Media(kind="image", file_id="f"),
        Media(kind="image", url="gs://bucket/y.png"),
        Media(kind="document", url="https://x/y.txt", media_type="text/plain"),
        Media(kind="document", media_type="text/plain", data="no base64"),
        Media(kind="document", media_type="text/plain", data="/w=="),
        Media(kind="audio", media_type="audio/wav", data="AA=="),
        Media(kind="video", url="https://x/y.mp4"),
    ],
)
def test_media_that_it_does_not_take(media: Media) -> None:
    said, lost, _ = say(chat(Message(role="user", parts=[Text(text="Hi"), media])))
    assert said["messages"] == [ASK]
    assert lost == ["messages[0].content[1]"]


def test_media_in_other_words() -> None:
    markdown = Media(kind="document", media_type="text/markdown", data=TEXT)
    image = Media(kind="image", url="https://x/y.png", detail="high")
    _, lost, mapped = say(chat(Message(role="user", parts=[markdown, image])))
    assert (lost, mapped) == (["messages[0].content[1].detail"], ["messages[0].content[0].media_type"])


def test_thoughts_go_to_their_maker_only() -> None:
    """Those that Anthropic signed go, whatever format brought them; others, and unsigned ones, do not."""
    thoughts = [
        Thinking(text="a", signature="s"),
        Thinking(text="b", signature="s", origin="messages"),
        Thinking(redacted="c", origin="messages"),
        Thinking(text="d", origin="messages"),
    ]
    said, lost, mapped = say(chat(Message(role="assistant", parts=[*thoughts, Text(text="Hi")])))
    assert said["messages"][0]["content"] == [
        {"type": "thinking", "thinking": "b", "signature": "s"},
        {"type": "redacted_thinking", "data": "c"},
        {"type": "text", "text": "Hi"},
    ]
    assert (lost, mapped) == ([], ["messages[0].content[0]", "messages[0].content[3]"])


def test_thoughts_of_another_maker_in_an_own_call() -> None:
    """The client gives back what another provider thought: it goes nowhere, and then thinking is left out for this call."""
    thought = {"type": "thinking", "thinking": "t", "signature": "sidecar:generate:abc"}
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}
    turns = [ASK, {"role": "assistant", "content": [thought, call]}, result]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    said, lost, mapped = say(read_request(body(messages=turns, thinking=thinking)))
    assert said["messages"] == [ASK, {"role": "assistant", "content": [call]}, result]
    assert "thinking" not in said
    assert (lost, mapped) == ([], ["messages[1].content[0]", "reasoning"])


def test_shared_problem_kinds() -> None:
    assert (kind_of(529), kind_of(409), kind_of(502)) == ("overloaded", "invalid", "server")
    assert problem_of(200).status == 500
