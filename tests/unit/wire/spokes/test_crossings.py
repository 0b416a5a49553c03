"""Faults that only pairs of formats showed (`test_pairs`), each as small as it gets."""

from typing import Any

from sidecar.wire.neutral import AnyPart, Format, Media, Message, Refusal, Report, Request, Text, Thinking, ToolCall
from sidecar.wire.spokes import SPOKES


def written(arm: Format, *parts: AnyPart, stop: tuple[str, ...] = ()) -> tuple[Any, Report]:
    """A call of a Responses client, whose assistant said `parts`, as an arm is asked."""
    messages = [Message(role="user", parts=[Text(text="Hi")]), Message(role="assistant", parts=list(parts))]
    report = Report()
    request = Request(format="responses", model="m", messages=messages, stop=list(stop))
    return SPOKES[arm].write_request(request, report), report


def test_extras_of_thoughts_and_refusals_are_lost_by_name() -> None:
    """GW-32: chat joins them to one text each, and has no place beside it."""
    _, report = written(
        "chat", Thinking(text="Hm.", extra={"a": 1}), Text(text="x"), Refusal(text="No.", extra={"b": 2})
    )
    assert sorted(report.lost) == ["messages[1].content[0].a", "messages[1].content[2].b"]


def test_the_detail_of_a_document_is_lost_in_chat() -> None:
    """As that of a picture is elsewhere."""
    _, report = written("chat", Media(kind="document", media_type="application/pdf", data="QQ==", detail="low"))
    assert report.lost == ["messages[1].content[0].detail"]


def test_each_stop_text_too_many_is_named_for_gemini() -> None:
    """Not the first of them only."""
    _, report = written("generate", Text(text="x"), stop=tuple("abcdefg"))
    assert report.lost == ["stop[5]", "stop[6]"]


def test_the_text_of_a_custom_tool_is_text_for_gemini() -> None:
    """Even where it looks like an object: the tool takes one argument there."""
    body, report = written("generate", ToolCall(id="c", name="run", arguments="{}", custom=True))
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == {"arguments": "{}"}
    assert report.mapped == ["messages[1].parts[0].arguments"]


def test_a_result_without_id_answers_the_call_without_one() -> None:
    """An older call with an id that nobody answered keeps its id."""
    call, old = {"name": "f", "args": {}}, {"id": "x", "name": "f", "args": {}}
    result = {"functionResponse": {"name": "f", "response": {"output": "1"}}}
    turns: list[tuple[str, Any]] = [
        ("model", {"functionCall": old}),
        ("model", {"functionCall": call}),
        ("user", result),
    ]
    body = {"contents": [{"role": role, "parts": [part]} for role, part in turns]}
    read = SPOKES["generate"].read_request
    assert read is not None
    assert SPOKES["generate"].write_request(read(body), Report()) == body


def test_a_document_of_chat_is_written_as_it_was_read() -> None:
    """With its type in the address, and without one."""
    for data in ("data:application/pdf;base64,QQ==", "QQ=="):
        part = {"type": "file", "file": {"file_data": data, "filename": "a.pdf"}}
        body = {"model": "m", "messages": [{"role": "user", "content": [part]}]}
        read = SPOKES["chat"].read_request
        assert read is not None
        assert SPOKES["chat"].write_request(read(body), Report()) == body
