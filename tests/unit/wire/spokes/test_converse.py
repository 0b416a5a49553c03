"""Requests of Bedrock's Converse: what other formats' calls become, and what is told of it."""

import itertools
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.wire.neutral import (
    AnyPart,
    Media,
    Message,
    Opaque,
    Refusal,
    Report,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from sidecar.wire.spokes.chat import spoke as chat
from sidecar.wire.spokes.converse.spoke import SPOKE
from sidecar.wire.spokes.generate import spoke as generate
from sidecar.wire.spokes.messages import spoke as messages
from sidecar.wire.spokes.responses import spoke as responses
from tests.fixtures import said_chat, said_generate, said_messages, said_responses

Json = dict[str, Any]
HAIKU = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
OPUS = "anthropic.claude-opus-4-6-v1"
NEWEST = "global.anthropic.claude-opus-4-8"
NOVA = "amazon.nova-pro-v1:0"
LLAMA = "meta.llama3-3-70b-instruct-v1:0"


def user(*parts: AnyPart) -> Message:
    return Message(role="user", parts=list(parts))


def assistant(*parts: AnyPart) -> Message:
    return Message(role="assistant", parts=list(parts))


HI = user(Text(text="hi"))
SAID_HI = {"role": "user", "content": [{"text": "hi"}]}


def written(**members: Any) -> tuple[Json, list[str], list[str]]:
    """The body, and what was lost and mapped."""
    report = Report()
    given: Json = {"format": "chat", "model": HAIKU, "messages": [HI]}
    body = SPOKE.write_request(Request(**{**given, **members}), report)
    return body, report.lost, report.mapped


def content(*parts: AnyPart, model: str = HAIKU) -> tuple[list[Json], list[str], list[str]]:
    """What the parts become in a turn of the user."""
    body, lost, mapped = written(messages=[user(Text(text="hi"), *parts)], model=model)
    return body["messages"][0]["content"][1:], lost, mapped


# ---- turns


def test_a_plain_call() -> None:
    """The model and the stream are in the path."""
    assert written(stream=True) == ({"messages": [SAID_HI]}, [], [])


def test_a_conversation_with_tools() -> None:
    talk = [
        Message(role="system", parts=[Text(text="be brief", cache="1h")]),
        Message(role="developer", parts=[Text(text="and kind"), Media(kind="image", url="u")]),
        HI,
        user(Text(text="again"), Text(text="")),
        assistant(Text(text="I look")),
        assistant(ToolCall(id="a", name="f", arguments='{"a": 1}'), ToolCall(id="b", name="g", signature="s")),
        Message(role="tool", parts=[ToolResult(call_id="a", parts=[Text(text="1")], failed=True)]),
        Message(role="tool", parts=[ToolResult(call_id="b", parts=[])]),
        user(Text(text="and?")),
        Message(role="system", parts=[Text(text="late")], name="n"),
        assistant(ToolCall(id="c", name="f", arguments="[1"), ToolCall(id="d", name="f", arguments="{}", custom=True)),
        user(Text(text="b"), ToolResult(call_id="c", parts=[Text(text=" ")])),
        assistant(Refusal(text="no"), Refusal(text="")),
    ]
    body, lost, mapped = written(messages=talk, tools=[Tool(name="f"), Tool(name="g")])
    assert body["system"] == [
        {"text": "be brief"},
        {"cachePoint": {"type": "default", "ttl": "1h"}},
        {"text": "and kind"},
        {"text": "late"},
    ]
    assert body["messages"] == [
        {"role": "user", "content": [{"text": "hi"}, {"text": "again"}]},
        {
            "role": "assistant",
            "content": [
                {"text": "I look"},
                {"toolUse": {"toolUseId": "a", "name": "f", "input": {"a": 1}}},
                {"toolUse": {"toolUseId": "b", "name": "g", "input": {}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "a", "content": [{"text": "1"}], "status": "error"}},
                {"toolResult": {"toolUseId": "b", "content": [{"text": ""}]}},
                {"text": "and?"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"toolUse": {"toolUseId": "c", "name": "f", "input": {"arguments": "[1"}}},
                {"toolUse": {"toolUseId": "d", "name": "f", "input": {"arguments": "{}"}}},
            ],
        },
        {"role": "user", "content": [{"toolResult": {"toolUseId": "c", "content": [{"text": " "}]}}, {"text": "b"}]},
        {"role": "assistant", "content": [{"text": "no"}]},
    ]
    assert lost == ["messages[1].content[1]", "messages[9].name"]
    assert mapped == [
        "messages[5].content[1].signature",
        "messages[9]",
        "messages[10].content[0].arguments",
        "messages[10].content[1].arguments",
        "messages[11].content[1]",
        "messages[12].content[0]",
        "messages[12].content[1]",
    ]


def test_the_user_begins() -> None:
    body, lost, mapped = written(messages=[assistant(Text(text="welcome")), HI])
    assert (body["messages"], lost, mapped) == ([SAID_HI], ["messages[0]"], [])


def test_a_result_needs_its_call() -> None:
    """Also where the call was lost with all that came before the user."""
    early = assistant(ToolCall(id="a", name="f"))
    late = user(ToolResult(call_id="a", parts=[]), Text(text="hi"), ToolResult(call_id="b", parts=[]))
    body, lost, mapped = written(messages=[early, late])
    assert (body, mapped) == ({"messages": [SAID_HI]}, [])
    assert lost == ["messages[0]", "messages[1].content[0]", "messages[1].content[2]"]


def test_what_is_left_without_a_block_is_no_turn() -> None:
    talk = [HI, assistant(Text(text="\n")), user(Text(text="there", extra={"x": 1})), assistant(Text(text=""))]
    body, lost, mapped = written(messages=talk)
    assert body["messages"] == [{"role": "user", "content": [{"text": "hi"}, {"text": "there"}]}]
    assert lost == ["messages[2].content[0].x"]
    assert mapped == ["messages[1].content[0]", "messages[1]", "messages[3]"]


def test_instructions_alone_are_a_turn() -> None:
    body, _, mapped = written(messages=[Message(role="system", parts=[Text(text="hi")])])
    assert (body, mapped) == ({"messages": [SAID_HI]}, ["messages"])
    assert written(messages=[]) == ({"messages": []}, [], [])


# ---- parts


def test_thoughts_go_back_to_who_signed_them() -> None:
    own = [
        Thinking(text="hm", signature="s", origin="converse"),
        Thinking(redacted="QQ==", origin="converse"),
        Thinking(text="x", signature="s"),
        Thinking(text="y", origin="converse"),
        Thinking(redacted="z", origin="messages"),
        Text(text="a"),
    ]
    body, lost, mapped = written(messages=[HI, assistant(*own)], format="messages")
    assert body["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
        {"reasoningContent": {"redactedContent": "QQ=="}},
        {"text": "a"},
    ]
    assert (lost, mapped) == ([], [f"messages[1].content[{number}]" for number in (2, 3, 4)])


def test_images() -> None:
    blocks, lost, mapped = content(
        Media(kind="image", media_type="image/jpg", data="QQ==", detail="low"),
        Media(kind="image", media_type="image/png", data="QQ==", detail="auto", cache="5m"),
        Media(kind="image", media_type="image/png", url="https://e.com/a.png"),
        Media(kind="image", media_type="image/tiff", data="QQ=="),
        Media(kind="image", data="QQ=="),
        Media(kind="image", file_id="f"),
    )
    assert blocks == [
        {"image": {"format": "jpeg", "source": {"bytes": "QQ=="}}},
        {"image": {"format": "png", "source": {"bytes": "QQ=="}}},
        {"cachePoint": {"type": "default"}},
    ]
    assert lost == ["messages[0].content[1].detail", *(f"messages[0].content[{number}]" for number in (3, 4, 5, 6))]
    assert mapped == []


def test_sounds_and_films() -> None:
    blocks, lost, _ = content(
        Media(kind="audio", media_type="audio/mpeg", data="QQ=="),
        Media(kind="video", media_type="video/3gpp", data="QQ=="),
        Media(kind="audio", media_type="audio/midi", data="QQ=="),
    )
    assert blocks == [
        {"audio": {"format": "mp3", "source": {"bytes": "QQ=="}}},
        {"video": {"format": "three_gp", "source": {"bytes": "QQ=="}}},
    ]
    assert lost == ["messages[0].content[3]"]


def test_documents() -> None:
    """Each has a name of its own, of letters that the service allows."""
    blocks, lost, mapped = content(
        Media(kind="document", media_type="application/pdf", data="QQ==", name="My  report_v2.pdf"),
        Media(kind="document", media_type="application/pdf", data="QQ=="),
        Media(kind="document", text="é"),
        Media(kind="document", media_type="text/markdown; charset=utf-8", text="# a", name="notes (1) [x]"),
        Media(kind="document", media_type="text/x-log", data="QQ==", name="l"),
        Media(kind="document", media_type="application/zip", data="QQ=="),
        Media(kind="document", media_type="application/pdf", url="https://e.com/a.pdf"),
        Media(kind="document", media_type="text/csv", data="QQ==", name="é" * 300),
        Media(kind="document", media_type="text/csv", data="QQ==", name="é" * 200),
    )
    said = [(block["document"]["format"], block["document"]["name"]) for block in blocks]
    assert said == [
        ("pdf", "My report-v2-pdf"),
        ("pdf", "document"),
        ("txt", "document-2"),
        ("md", "notes (1) [x]"),
        ("txt", "l"),
        ("csv", "-" * 200),
        ("csv", "-" * 199 + "2"),
    ]
    assert [block["document"]["source"]["bytes"] for block in blocks[2:4]] == ["w6k=", "IyBh"]
    assert lost == ["messages[0].content[6]", "messages[0].content[7]"]
    assert mapped == [
        "messages[0].content[1].name",
        "messages[0].content[5].media_type",
        "messages[0].content[8].name",
        "messages[0].content[9].name",
    ]


def test_a_document_needs_a_text() -> None:
    paper = Media(kind="document", media_type="application/pdf", data="QQ==", name="a")
    picture = Media(kind="image", media_type="image/png", data="QQ==")
    body, lost, mapped = written(messages=[user(paper, picture), assistant(Text(text="b")), user(picture)])
    assert body["messages"][0]["content"][2] == {"text": "a"}
    assert len(body["messages"][2]["content"]) == 1
    assert (lost, mapped) == ([], ["messages[0]"])


def test_media_are_the_users() -> None:
    picture = Media(kind="image", media_type="image/png", data="QQ==")
    body, lost, _ = written(messages=[HI, assistant(picture, Text(text="a"))])
    assert body["messages"][1]["content"] == [{"text": "a"}]
    assert lost == ["messages[1].content[0]"]


def test_results_hold_texts_and_media() -> None:
    inner: list[AnyPart] = [
        Text(text="a", cache="5m", extra={"x": 1}),
        Media(kind="image", media_type="image/png", data="QQ=="),
        Media(kind="image", url="https://e.com"),
        Media(kind="audio", media_type="audio/wav", data="QQ=="),
        Opaque(value={"type": "x"}),
    ]
    body, lost, mapped = written(
        messages=[HI, assistant(ToolCall(id="a", name="f")), user(ToolResult(call_id="a", parts=inner, failed=True))],
        tools=[Tool(name="f")],
        model=LLAMA,
    )
    assert body["messages"][2]["content"] == [
        {
            "toolResult": {
                "toolUseId": "a",
                "content": [{"text": "a"}, {"image": {"format": "png", "source": {"bytes": "QQ=="}}}],
            }
        }
    ]
    where = "messages[2].content[0]"
    assert lost == [f"{where}.content[0].x"] + [f"{where}.content[{number}]" for number in (2, 3, 4)]
    assert sorted(mapped) == [f"{where}.content[0].cache", f"{where}.failed"]


def test_other_makers_have_no_cache() -> None:
    cached = Text(text="a", cache="5m")
    assert content(cached, model=NOVA)[0] == [{"text": "a"}, {"cachePoint": {"type": "default"}}]
    assert content(cached, model=LLAMA) == ([{"text": "a"}], [], ["messages[0].content[1].cache"])


def test_what_only_another_format_knows_is_lost() -> None:
    report = Report()
    talk = [Message(role="user", parts=[Opaque(value={}), Text(text="hi")], extra={"x": 1, "y": False})]
    body = SPOKE.write_request(Request(format="chat", model=HAIKU, messages=talk, extra={"z": 1}), report)
    assert (body["messages"], report.lost) == ([SAID_HI], ["messages[0].x", "messages[0].content[0]", "z"])


def test_ids_of_calls() -> None:
    """What the service does not allow is replaced, the same way in the result, and never twice by the same."""
    ids = ["a|b", "a b", "", "c" * 70, "c" * 80, "d.e:f-g_h"]
    calls = assistant(*(ToolCall(id=one, name="f") for one in ids))
    results = user(*(ToolResult(call_id=one, parts=[]) for one in ids))
    body, _, _ = written(messages=[HI, calls, results], tools=[Tool(name="f")])
    made = [block["toolUse"]["toolUseId"] for block in body["messages"][1]["content"]]
    assert made == ["a_b", "a_b_2", "_", "c" * 64, "c" * 62 + "_2", "d.e:f-g_h"]
    assert [block["toolResult"]["toolUseId"] for block in body["messages"][2]["content"]] == made


# ---- any call at all

CALLS = st.one_of(
    said_chat.requests().map(chat.SPOKE.read_request),
    said_messages.requests().map(messages.SPOKE.read_request),
    said_generate.requests().map(generate.SPOKE.read_request),
    said_responses.requests().map(responses.SPOKE.read_request),
)


@settings(max_examples=60)
@given(CALLS, st.sampled_from([HAIKU, OPUS, NEWEST, NOVA, LLAMA]))
def test_every_call_can_be_said(request: Request, model: str) -> None:
    """Turns alternate and none is empty, each block says one thing, and equal calls give equal bytes."""
    request.model = model
    body = SPOKE.write_request(request, Report())
    turns = body["messages"]
    assert [turn["role"] for turn in turns] == [
        role for _, role in zip(turns, itertools.cycle(["user", "assistant"]), strict=False)
    ]
    for turn in turns:
        assert turn["content"]
        assert all(len(block) == 1 for block in turn["content"])
        assert all(block["text"].strip() for block in turn["content"] if "text" in block)
    if any("toolUse" in block for turn in turns for block in turn["content"]):
        assert body["toolConfig"]["tools"]
    assert orjson.dumps(SPOKE.write_request(request, Report())) == orjson.dumps(body)
