"""OpenAI Responses: calls of clients that are read, and calls of other formats that are written."""

from typing import Any

import pytest

from sidecar.errors import TranslationError
from sidecar.wire.neutral import (
    Format,
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
from sidecar.wire.spokes.responses.spoke import SPOKE

read_request, write_request = SPOKE.read_request, SPOKE.write_request
assert read_request is not None


def read(**members: Any) -> Request:
    assert read_request is not None
    return read_request({"model": "m", "input": "x", **members})


def say(messages: list[Message], source: Format = "chat", **members: Any) -> tuple[dict[str, Any], Report]:
    report = Report()
    return write_request(Request(format=source, model="m", messages=messages, **members), report), report


def said_by(role: Any, *parts: Any, **members: Any) -> Message:
    return Message(role=role, parts=list(parts), **members)


# ---- reading


def test_items_of_an_assistant_in_a_row_are_one_message_in_their_order() -> None:
    request = read(
        input=[
            {"role": "user", "content": "weather?"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "gA=="},
            {"role": "assistant", "content": "let me look"},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "1"},
            {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]},
        ]
    )
    assert [message.role for message in request.messages] == ["user", "assistant", "tool", "tool"]
    thought, text, first, second = request.messages[1].parts
    assert isinstance(thought, Thinking)
    assert (thought.text, thought.signature, thought.origin) == ("hm", "gA==", None)
    assert isinstance(text, Text)
    assert [call.id for call in (first, second) if isinstance(call, ToolCall)] == ["a", "b"]


def test_instructions_are_a_first_system_message() -> None:
    request = read(instructions="Be brief.", input=[{"role": "developer", "content": "More."}])
    assert [message.role for message in request.messages] == ["system", "developer"]
    assert write_request(request, Report())["instructions"] == "Be brief."
    system = read(input=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"}])
    assert "instructions" not in write_request(system, Report()), "what was an item stays one"


def test_thoughts_of_another_maker_know_it() -> None:
    items = [
        {"type": "reasoning", "summary": [], "encrypted_content": "sidecar:messages:sig"},
        {"type": "reasoning", "summary": [], "encrypted_content": "sidecar:messages:redacted:data"},
        {"type": "reasoning", "summary": [], "encrypted_content": "sidecar:unknown:sig"},
        {"type": "reasoning", "summary": [], "encrypted_content": "sidecar:generate:"},
    ]
    parts = read(input=items).messages[0].parts
    found = [(part.signature, part.redacted, part.origin) for part in parts if isinstance(part, Thinking)]
    assert found == [
        ("sig", None, "messages"),
        (None, "data", "messages"),
        ("sidecar:unknown:sig", None, None),
        (None, None, None),
    ]
    report = Report()
    said = write_request(read(input=items), report)
    sealed = [item.get("encrypted_content") for item in said["input"]]
    assert sealed == ["sidecar:unknown:sig", None], "what is not OpenAI's is not sent to it"
    assert report.mapped == ["messages[0].content[0]", "messages[0].content[1]"]


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({"input": 3}, "input"),
        ({"input": None}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "message", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": 1, "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 1}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0].input_audio"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"tool_choice": 1}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name"),
        ({"include": [1]}, "include[0]"),
    ],
)
def test_what_the_format_does_not_allow_is_refused_with_its_path(members: dict[str, Any], where: str) -> None:
    with pytest.raises(TranslationError) as error:
        read(**members)
    assert str(error.value).startswith(f"{where}: expected")


def test_a_call_may_have_its_input_elsewhere() -> None:
    assert read_request is not None
    request = read_request({"model": "m", "previous_response_id": "resp_1"})
    assert request.messages == []
    assert request.extra == {"previous_response_id": "resp_1"}
    assert read(input="").messages == [said_by("user")]
    assert read(input=[{"role": "user", "content": ""}]).messages == [said_by("user")]


def test_what_does_not_fit_together_stays_whole() -> None:
    parts = [
        {"type": "input_image"},
        {"type": "input_file", "file_id": "f", "file_url": "https://example.com"},
        {"type": "text", "text": "as in chat"},
    ]
    message = read(input=[{"role": "user", "content": parts}]).messages[0]
    assert [type(part) for part in message.parts] == [Opaque, Opaque, Text]
    items = [
        {"type": "reasoning", "summary": [{"type": "new_text", "text": "x"}]},
        {"type": "message", "role": "assistant", "content": [], "x_item": 1},
        {"type": "function_call_output", "output": "without a call"},
    ]
    request = read(input=items)
    assert [type(part) for message in request.messages for part in message.parts] == [Opaque, Opaque, Opaque]
    assert write_request(request, Report())["input"] == items
    assert read(input=[{"type": "message", "role": "assistant", "content": []}]).messages == []


def test_everything_of_its_own_format_is_said_again() -> None:
    content = [
        {"type": "input_video", "video_url": "https://example.com/a.mp4"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "mp3", "x_rate": 8}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "flac"}},
        {"type": "refusal", "refusal": "no"},
        {"type": "input_file", "file_data": "AA"},
        {"type": "input_file", "file_id": "file-1", "detail": "low"},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "input_text", "text": "a", "input_audio": {"x": 1}},  # of nothing that we know
    ]
    output = {"type": "function_call_output", "call_id": "c", "output": "", "name": "f"}
    tools = [
        {"type": "custom", "name": "a", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        {"type": "custom", "name": "b", "format": {"type": "grammar", "syntax": "lark"}},
        {"type": "custom", "name": "c", "description": "d"},
    ]
    members: dict[str, Any] = {
        "input": [
            {"type": "message", "role": "user", "content": content},
            output,
            {"id": "rs_9"},
            {"type": "message", "role": "user", "content": "x", "id": "msg_1", "status": "completed"},
        ],
        "tools": tools,
        "reasoning": {"effort": "ultra", "summary": "auto"},
        "text": {"format": {"type": "json_object"}, "x": 1},
        "tool_choice": {"type": "allowed_tools", "mode": "none", "tools": []},
        "top_logprobs": 3,
        "include": ["a", "message.output_text.logprobs"],
    }
    report = Report()
    assert write_request(read(**members), report) == {"model": "m", **members}
    assert (report.lost, report.mapped) == ([], [])
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    assert read(text={"format": form}).output == Output(schema={"type": "object"}, name="n")
    assert write_request(read(text={"format": form}), report)["text"] == {"format": form}
    assert write_request(read(reasoning={"context": "all_turns"}), report)["reasoning"] == {"context": "all_turns"}
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}
    assert write_request(read(tool_choice=allowed), report)["tool_choice"] == allowed
    function = {"type": "function", "name": "f"}
    allowed["tools"] = [function, function]
    assert read(tool_choice=allowed).tool_choice == ToolChoice(mode="auto", tools=["f", "f"])
    plain = read(text={"format": {"type": "text"}}, tools=[{"type": "custom", "name": "a", "format": {"type": "text"}}])
    assert (plain.output, plain.tools[0].extra) == (None, {})
    assert read(text={"format": {"type": "text", "x": 1}}).extra == {"text": {"format": {"type": "text", "x": 1}}}
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;a=b;base64,AA"}]}]
    assert read(input=image).messages[0].parts == [Media(kind="image", url="data:image/png;a=b;base64,AA")]


def test_what_others_do_anyway_is_no_extra() -> None:
    request = read(
        truncation="disabled", include=["reasoning.encrypted_content"], stream_options={"include_obfuscation": False}
    )
    assert request.extra == {}
    said = write_request(request, Report())
    assert (said["truncation"], said["include"]) == ("disabled", ["reasoning.encrypted_content"])


# ---- calls of other formats


def test_the_first_system_text_is_instructions_and_later_ones_stay_where_they_are() -> None:
    said, report = say(
        [
            said_by("system", Text(text="Be brief.")),
            said_by("user", Text(text="x")),
            said_by("developer", Text(text="y")),
        ]
    )
    assert said["instructions"] == "Be brief."
    assert said["input"] == [
        {"type": "message", "role": "user", "content": "x"},
        {"type": "message", "role": "developer", "content": "y"},
    ]
    assert (report.lost, report.mapped) == ([], [])
    named, report = say([said_by("system", Text(text="a"), name="ops"), said_by("user", Text(text="x"))])
    assert "instructions" not in named
    assert report.lost == ["messages[0].name"]


def test_a_conversation_with_tools() -> None:
    said, report = say(
        [
            said_by("user", Text(text="x")),
            said_by("assistant", Text(text="a"), Text(text="b"), ToolCall(id="c1", name="f", arguments='{"a":1}')),
            said_by("assistant", ToolCall(id="c2", name="g", arguments="free", custom=True, signature="s")),
            said_by(
                "user",
                Text(text="and"),
                ToolResult(
                    call_id="c1", parts=[Text(text="1"), Media(kind="image", data="AA", media_type="image/png")]
                ),
                ToolResult(call_id="c2", parts=[Text(text="2")], failed=True, cache="5m"),
            ),
            said_by("tool", Text(text="alone")),
        ],
        "messages",
    )
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "auto"}
    parts = [{"type": "output_text", "text": "a"}, {"type": "output_text", "text": "b"}]
    assert said["input"][1:] == [
        {"type": "message", "role": "assistant", "content": parts},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'},
        {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "free"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "1"}, image]},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "2"},
        {"type": "message", "role": "user", "content": "and"},
        {"type": "message", "role": "user", "content": "alone"},
    ]
    assert report.lost == []
    assert report.mapped == [
        "messages[2].content[0].signature",
        "messages[3].content[2].failed",
        "messages[3].content[2].cache",
    ]


def test_media_of_other_formats() -> None:
    parts = [
        Media(kind="image", url="https://example.com/a.png", detail="low"),
        Media(kind="image", file_id="file-1"),
        Media(kind="image"),
        Media(kind="document", data="AA"),
        Media(kind="document", url="https://example.com/a.pdf", name="a.pdf"),
        Media(kind="document", text="plain"),
        Media(kind="document"),
        Media(kind="audio", data="AA", media_type="audio/wav"),
        Media(kind="video", url="https://example.com/a.mp4"),
        Refusal(text="no"),
        Thinking(text="hm"),
        Text(text="cached", cache="5m", extra={"citations": [1]}),
    ]
    said, report = say([said_by("user", *parts)], "messages")
    assert said["input"][0]["content"] == [
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
        {"type": "input_file", "file_data": "data:application/pdf;base64,AA", "filename": "document.pdf"},
        {"type": "input_file", "file_url": "https://example.com/a.pdf", "filename": "a.pdf"},
        {"type": "input_text", "text": "plain"},
        {"type": "input_text", "text": "no"},
        {"type": "input_text", "text": "cached"},
    ]
    assert report.lost == [f"messages[0].content[{n}]" for n in (10, 1, 2, 6, 7, 8)] + [
        "messages[0].content[11].citations"
    ]
    assert report.mapped == ["messages[0].content[5]", "messages[0].content[9]", "messages[0].content[11].cache"]


def test_thoughts_go_to_the_provider_that_signed_them() -> None:
    parts = [
        Thinking(text="a", origin="responses"),
        Thinking(text="b", signature="gA==", origin="responses"),
        Thinking(text="c", signature="sig"),
        Thinking(text="d", origin="responses"),
        Text(text="x"),
        Media(kind="image", data="AA"),
        Opaque(value={"type": "server_tool_use"}),
        Thinking(text="e", origin="responses"),
    ]
    said, report = say([said_by("assistant", *parts)], "messages")
    summary = [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}]
    assert said["input"] == [
        {"type": "reasoning", "summary": summary, "encrypted_content": "gA=="},
        {"type": "message", "role": "assistant", "content": "x"},
    ]
    assert report.mapped == [f"messages[0].content[{n}]" for n in (2, 3, 7)]
    assert report.lost == [f"messages[0].content[{n}]" for n in (5, 6)]


def test_tools_of_other_formats_are_not_strict_unless_they_say_so() -> None:
    tools = [
        Tool(name="f", description="d", cache="5m", extra={"x": 1}),
        Tool(name="g", parameters={"type": "object"}, strict=True),
        Tool(name="h", custom=True, grammar={"syntax": "lark", "definition": "a"}),
        Tool(name="web", opaque={"type": "web_search_20250305"}),
    ]
    said, report = say([], "messages", tools=tools, parallel_tools=False)
    nothing = {"type": "object", "properties": {}}
    assert said["tools"] == [
        {"type": "function", "name": "f", "description": "d", "parameters": nothing, "strict": False},
        {"type": "function", "name": "g", "parameters": {"type": "object"}, "strict": True},
        {"type": "custom", "name": "h", "format": {"type": "grammar", "syntax": "lark", "definition": "a"}},
    ]
    assert said["parallel_tool_calls"] is False
    assert report.lost == ["tools[0].x", "tools[3]"]
    assert report.mapped == ["tools[0].cache"]


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (ToolChoice(mode="auto"), "auto"),
        (ToolChoice(mode="none", tools=["f"]), "none"),
        (ToolChoice(mode="required", tools=["h"]), {"type": "custom", "name": "h"}),
        (
            ToolChoice(mode="auto", tools=["f", "h"]),
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "h"}],
            },
        ),
    ],
)
def test_the_choice_among_tools(choice: ToolChoice, said: Any) -> None:
    tools = [Tool(name="f"), Tool(name="h", custom=True)]
    assert say([], tools=tools, tool_choice=choice)[0]["tool_choice"] == said
    assert "tool_choice" not in say([], tool_choice=choice)[0], "there is nothing to choose from"


def test_what_the_format_does_not_have_is_lost_and_nothing_else() -> None:
    asked: dict[str, Any] = {"top_k": 1, "seed": 0, "stop": ["END"], "frequency_penalty": 0.5, "presence_penalty": 1}
    _, report = say([], **asked, logit_bias={"1": 1.0}, n=2, extra={"modalities": ["text"], "prediction": None})
    assert sorted(report.lost) == sorted([*asked, "logit_bias", "n", "modalities"])
    _, report = say([], n=1, frequency_penalty=0, presence_penalty=0, store=False)
    assert (report.lost, report.mapped) == ([], [])


def test_numbers_out_of_range_are_brought_into_it() -> None:
    said, report = say([], max_tokens=5, temperature=3, service_tier="standard_only")
    assert (said["max_output_tokens"], said["temperature"], said["service_tier"]) == (16, 2, "default")
    assert report.mapped == ["max_tokens", "temperature", "service_tier"]
    said, report = say([], max_tokens=50, temperature=1, top_p=0.5, logprobs=0)
    assert (said["max_output_tokens"], said["temperature"], said["top_p"]) == (50, 1, 0.5)
    assert said["include"] == ["message.output_text.logprobs"]
    assert report.mapped == []


@pytest.mark.parametrize(
    ("reasoning", "said", "mapped"),
    [
        (Reasoning(effort="high"), {"effort": "high"}, []),
        (Reasoning(budget_tokens=5000), {"effort": "medium"}, ["reasoning"]),
        (Reasoning(budget_tokens=0, effort="low"), {"effort": "none"}, ["reasoning"]),
        (Reasoning(adaptive=True, show=True), {"summary": "auto"}, ["reasoning"]),
        (Reasoning(effort="none"), {"effort": "none"}, []),
        (Reasoning(show=False), None, []),
    ],
)
def test_how_much_to_think(reasoning: Reasoning, said: Any, mapped: list[str]) -> None:
    body, report = say([], "messages", reasoning=reasoning)
    assert body.get("reasoning") == said
    assert report.mapped == mapped
    sealed = said is not None and said.get("effort") != "none"
    assert body.get("include") == (["reasoning.encrypted_content"] if sealed else None), "so that it can be given back"


def test_an_answer_of_another_formats_call_is_not_kept() -> None:
    assert say([])[0]["store"] is False
    assert say([], store=True)[0]["store"] is True


def test_the_form_of_the_answer() -> None:
    assert say([], output=Output())[0]["text"] == {"format": {"type": "json_object"}}
    output = Output(schema={}, description="d", strict=True, extra={"x": 1})
    said, report = say([], output=output, verbosity="low")
    form = {"type": "json_schema", "name": "answer", "schema": {}, "description": "d", "strict": True}
    assert said["text"] == {"format": form, "verbosity": "low"}
    assert report.lost == ["output.x"]
