"""Cohere's v2 chat: what is asked of it, and what its answers and streams say."""

from contextlib import suppress
from copy import deepcopy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.types import Usage
from sidecar.errors import TranslationError
from sidecar.wire.neutral import (
    AnyPart,
    Choice,
    Close,
    Delta,
    Done,
    Event,
    Failed,
    Mark,
    Media,
    Message,
    Opaque,
    Open,
    Output,
    Problem,
    Reasoning,
    Refusal,
    Report,
    Request,
    Response,
    Start,
    Stopped,
    Text,
    Thinking,
    TokenLogprob,
    Told,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from sidecar.wire.spokes.cohere.spoke import SPOKE
from sidecar.wire.sse import SseEvent

Json = dict[str, Any]
HI = {"role": "user", "content": "hi"}


def user(*parts: AnyPart) -> Message:
    return Message(role="user", parts=list(parts))


def written(**members: Any) -> tuple[Json, list[str], list[str]]:
    report = Report()
    given: Json = {"format": "chat", "model": "command-a", "messages": [user(Text(text="hi"))]}
    body = SPOKE.write_request(Request(**{**given, **members}), report)
    assert body.pop("model") == "command-a"
    return body, report.lost, report.mapped


def test_a_conversation_with_tools() -> None:
    messages = [
        Message(role="developer", parts=[Text(text="be brief")]),
        user(Text(text="hi")),
        Message(
            role="assistant",
            parts=[
                Thinking(text="hm"), Thinking(text="x", signature="claude's"), Text(text="I look"),
                ToolCall(id="a", name="f", arguments='{"a": 1}'), ToolCall(id="b", name="g"),
            ],
        ),
        Message(role="tool", parts=[ToolResult(call_id="a", parts=[Text(text="1")], failed=True)]),
        user(ToolResult(call_id="b", parts=[Text(text="2"), Text(text="3")]), Text(text="and?"), Text(text="")),
        Message(role="assistant", parts=[ToolCall(id="c", name="f")]),
        Message(role="assistant", parts=[Refusal(text="no")]),
        Message(role="assistant", parts=[Thinking(redacted="x"), Thinking()]),
    ]  # fmt: skip
    body, lost, mapped = written(messages=messages)
    calls = [
        {"id": name, "type": "function", "function": {"name": tool, "arguments": arguments}}
        for name, tool, arguments in (("a", "f", '{"a": 1}'), ("b", "g", "{}"), ("c", "f", "{}"))
    ]
    assert body["messages"] == [
        {"role": "system", "content": "be brief"}, HI,
        {"role": "assistant", "tool_calls": calls[:2], "tool_plan": "I look",
         "content": [{"type": "thinking", "thinking": "hm"}]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "2"}, {"type": "text", "text": "3"}]},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "tool_calls": calls[2:]},
        {"role": "assistant", "content": "no"},
    ]  # fmt: skip
    assert lost == []
    assert mapped == [
        f"messages[{where}" for where in ("2].parts[1]", "3].parts[0].failed", "6].parts[0]", "7].parts[0]")
    ]


def test_media() -> None:
    png = Media(kind="image", media_type="image/png", data="QQ==", detail="low")
    parts = [
        png, Media(kind="image", url="https://e.com/a"), Media(kind="document", text="t", name="n"),
        Media(kind="document", text="u"), Media(kind="document", data="QQ=="), Media(kind="image", file_id="f"),
        Opaque(value={}),
    ]  # fmt: skip
    system = Message(role="system", parts=[png])
    body, lost, mapped = written(messages=[user(*parts), system])
    assert body["messages"] == [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ==", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://e.com/a"}},
    ]}]  # fmt: skip
    assert body["documents"] == [{"data": {"title": "n", "text": "t"}}, {"data": {"text": "u"}}]
    assert lost == [*(f"messages[0].parts[{number}]" for number in (4, 5, 6)), "messages[1].parts[0]"]
    assert mapped == ["messages[0].parts[2]", "messages[0].parts[3]"]


def test_arguments_of_calls_are_objects() -> None:
    calls: list[AnyPart] = [
        ToolCall(id="a", name="f", arguments='{"b": 1}', signature="s"), ToolCall(id="b", name="f"),
        ToolCall(id="c", name="shell", arguments="ls", custom=True),
    ]  # fmt: skip
    body, lost, mapped = written(messages=[Message(role="assistant", parts=calls)])
    assert [call["function"]["arguments"] for call in body["messages"][0]["tool_calls"]] == [
        '{"b": 1}', "{}", '{"arguments":"ls"}',
    ]  # fmt: skip
    where = "messages[0].parts"
    assert (lost, mapped) == ([], [f"{where}[0].signature", f"{where}[2].arguments"])


def test_results_hold_texts_only() -> None:
    parts: list[AnyPart] = [Media(kind="image", url="https://e.com"), Text(text="a", cache="5m", extra={"x": 1})]
    body, lost, mapped = written(
        messages=[user(ToolResult(call_id="a", parts=parts), ToolResult(call_id="b", parts=[]))]
    )
    assert [message["content"] for message in body["messages"]] == ["a", ""]
    where = "messages[0].parts[0].parts"
    assert lost == [f"{where}[0]", f"{where}[1].x"]
    assert mapped == [f"{where}[1].cache"]


def test_tools() -> None:
    tools = [
        Tool(name="f", description="d", parameters={"type": "object"}, strict=True, cache="5m", extra={"x": 1}),
        Tool(name="g"), Tool(name="h", custom=True, grammar={"syntax": "lark"}), Tool(name="w", opaque={"type": "w"}),
    ]  # fmt: skip
    body, lost, mapped = written(tools=tools, tool_choice=ToolChoice(mode="auto", extra={"y": 1}))
    assert [tool["function"] for tool in body["tools"]] == [
        {"name": "f", "description": "d", "parameters": {"type": "object"}},
        {"name": "g", "parameters": {"type": "object", "properties": {}}},
        {"name": "h", "parameters": {"type": "object", "properties": {"arguments": {"type": "string"}},
                                     "required": ["arguments"]}},
    ]  # fmt: skip
    assert body["strict_tools"] is True
    assert "tool_choice" not in body
    assert lost == ["tools[0].x", "tools[2].grammar", "tools[3]", "tool_choice.y"]
    assert mapped == ["tools[0].cache", "tools[2]", "tools.strict"]


def test_only_named_tools_are_offered() -> None:
    choice = ToolChoice(mode="required", tools=["g"])
    body, lost, mapped = written(tools=[Tool(name="f"), Tool(name="g", strict=True)], tool_choice=choice)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["g"]
    assert (body["tool_choice"], body["strict_tools"]) == ("REQUIRED", True)
    assert (lost, mapped) == ([], ["tool_choice.tools"])
    assert written(tool_choice=ToolChoice(mode="none"))[0]["tool_choice"] == "NONE"


def test_numbers() -> None:
    body, lost, mapped = written(
        max_tokens=9, temperature=1.5, top_p=1.0, top_k=40, frequency_penalty=-1, presence_penalty=0, n=1, seed=7,
        stop=list("abcdefg"), logprobs=3, stream=True,
    )  # fmt: skip
    assert body == {
        "messages": [HI], "stream": True, "max_tokens": 9, "temperature": 1, "k": 40, "frequency_penalty": 0,
        "stop_sequences": list("abcde"), "seed": 7, "logprobs": True,
    }  # fmt: skip
    assert lost == ["stop[5]", "stop[6]", "logprobs"]
    assert mapped == ["temperature", "frequency_penalty"]
    assert written(logprobs=0, stop=["a"])[1:] == ([], [])


def test_members_that_cohere_has_no_word_for() -> None:
    message = Message(role="user", parts=[Text(text="hi", cache="5m", extra={"a": 1})], name="Bo", extra={"b": 1})
    body, lost, mapped = written(
        messages=[message], user="u", n=2, seed=-1, parallel_tools=False, service_tier="flex", extra={"c": 1},
        logit_bias={"1": 1.0}, metadata={"a": "b"},
    )  # fmt: skip
    assert body == {"messages": [HI]}
    assert lost == [
        "messages[0].b", "messages[0].name", "messages[0].parts[0].a", "seed", "c", "logit_bias", "n",
    ]  # fmt: skip
    assert mapped == ["messages[0].parts[0].cache", "user", "metadata", "service_tier"]
    assert written(tools=[Tool(name="f")], parallel_tools=False)[1:] == ([], ["parallel_tools"])


@pytest.mark.parametrize(
    ("reasoning", "thinking", "mapped"),
    [
        (Reasoning(effort="high"), {"type": "enabled", "token_budget": 16384}, ["reasoning.effort"]),
        (Reasoning(effort="none"), {"type": "disabled"}, ["reasoning.effort"]),
        (Reasoning(budget_tokens=9), {"type": "enabled", "token_budget": 9}, []),
        (Reasoning(budget_tokens=0, effort="low"), {"type": "disabled"}, ["reasoning.effort"]),
        (Reasoning(adaptive=True), {"type": "enabled"}, []),
        (Reasoning(summary="auto"), None, ["reasoning.summary"]),
        (Reasoning(show=False), None, ["reasoning.show"]),
    ],
)
def test_how_much_to_think(reasoning: Reasoning, thinking: Json | None, mapped: list[str]) -> None:
    body, lost, told = written(reasoning=reasoning)
    assert (body.get("thinking"), lost, told) == (thinking, [], mapped)


def test_the_form_of_the_answer() -> None:
    schema = {"type": "object"}
    body, lost, _ = written(output=Output(schema=schema, name="n", extra={"x": 1}))
    assert body["response_format"] == {"type": "json_object", "json_schema": schema}
    assert lost == ["output.x"]
    assert written(output=Output())[0]["response_format"] == {"type": "json_object"}
    body, lost, mapped = written(output=Output(schema=schema, description="a city"))
    assert body["response_format"]["json_schema"]["description"] == "a city"
    assert (lost, mapped) == ([], ["output.description"])


# ---- answers

USED = {
    "billed_units": {"input_tokens": 5.0, "output_tokens": 3.0},
    "tokens": {"input_tokens": 70.0, "output_tokens": 4},
}


def test_an_answer() -> None:
    message = {
        "role": "assistant", "tool_plan": "I look", "citations": [{"start": 0}],
        "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a", "x": 1}, {"type": "new"}],
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}, {"id": "d"}],
    }  # fmt: skip
    tokens = [
        {"text": "a", "token_ids": [7], "logprobs": [-1]},
        {"text": "bc", "token_ids": [8, 9], "logprobs": [-1, -2.5, "x", 1e308, 2**63]},
        {},
    ]
    body = {"id": "r", "finish_reason": "TOOL_CALL", "message": message, "usage": USED, "logprobs": tokens, "more": 1}
    assert SPOKE.read_response(body) == Response(
        format="cohere", id="r", model="", usage_said=USED, extra={"more": 1},
        usage=Usage(input_tokens=5, output_tokens=3),
        choices=[Choice(
            index=0, stop="tool_calls", extra={"citations": [{"start": 0}]},
            parts=[
                Text(text="I look"), Thinking(text="hm"), Text(text="a", extra={"x": 1}), Opaque(value={"type": "new"}),
                ToolCall(id="c", name="f", arguments="{}"), ToolCall(id="d", name="", arguments="{}"),
            ],
            logprobs=[
                TokenLogprob(token="a", number=7, logprob=-1.0), TokenLogprob(token="bc", logprob=-3.5),
                TokenLogprob(token="", logprob=0.0),
            ],
        )],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (None, None),
        ({}, Usage()),
        ({"tokens": {"input_tokens": 7, "output_tokens": -1}}, Usage(input_tokens=7)),
        ({"billed_units": {"input_tokens": True}, "cached_tokens": 3.0}, Usage(cached_input_tokens=3)),
        ({**USED, "cached_tokens": 5}, Usage(input_tokens=5, output_tokens=3, cached_input_tokens=5)),
        ({**USED, "cached_tokens": 64}, Usage(input_tokens=5, output_tokens=3)),
    ],
)
def test_usage(usage: Json | None, read: Usage | None) -> None:
    assert SPOKE.read_response({"message": {"content": "a"}, "usage": usage}).usage == read


@pytest.mark.parametrize(("reason", "stop"), [("ERROR_TOXIC", "content_filter"), ("NEW", "stop"), (None, None)])
def test_reasons_to_stop(reason: str | None, stop: str | None) -> None:
    choice = SPOKE.read_response({"message": {"content": "a"}, "finish_reason": reason}).choices[0]
    assert choice.parts == [Text(text="a")]
    assert (choice.stop, choice.extra) == (stop, {"finish_reason": "NEW"} if reason == "NEW" else {})


@pytest.mark.parametrize(
    "body", [{}, {"choices": []}, {"message": 3}, {"message": {"content": [3]}}, {"message": {"content": 3}}]
)
def test_an_answer_of_another_format(body: Json) -> None:
    with pytest.raises(TranslationError, match="expected"):
        SPOKE.read_response(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message":"invalid api token"}', "invalid api token"),
        (b'{"message":3}', "the provider answered with status 401"),
        (b"[]", "the provider answered with status 401"),
        (b"<html>", "the provider answered with status 401"),
    ],
)
def test_errors(body: bytes, message: str) -> None:
    assert SPOKE.read_problem(401, body) == Problem(status=401, kind="authentication", message=message)


# ---- streams


def read(*said: Any) -> list[Event]:
    reader = SPOKE.stream_reader()
    start = {"type": "message-start", "id": "r", "delta": {"message": {"role": "assistant"}}}
    events = [event for one in (start, *said) for event in reader.feed(SseEvent(b"x", orjson.dumps(one)))]
    assert events[0] == Start(id="r", model="", format="cohere")
    return events[1:]


def content(kind: str, index: int, **more: Any) -> Json:
    return {"type": kind, "index": index, "delta": {"message": {"content": more}}}


def call(kind: str, index: int, **more: Any) -> Json:
    return {"type": kind, "index": index, "delta": {"message": {"tool_calls": more}}}


def end(**more: Any) -> Json:
    return {"type": "message-end", "delta": more}


def test_thoughts_and_text_in_pieces() -> None:
    cited = {"type": "citation-start", "index": 0, "delta": {"message": {"citations": {"start": 0}}}}
    tokens = {"text": "b", "token_ids": [1], "logprobs": [-1]}
    events = read(
        content("content-start", 0, type="thinking", thinking=""), content("content-delta", 0, thinking="hm"),
        {"type": "content-end", "index": 0}, cited, content("content-start", 1, type="text", text=""),
        content("content-delta", 1, text="a"), {"type": "debug"},
        {**content("content-delta", 1, text="b"), "logprobs": tokens},
        cited, {"type": "citation-end", "index": 0}, {"type": "content-end", "index": 1},
        end(finish_reason="COMPLETE", usage=USED), end(),
    )  # fmt: skip
    assert events == [
        Open(choice=0, index=0, part=Thinking()), Delta(choice=0, index=0, text="hm"), Close(choice=0, index=0),
        Open(choice=0, index=1, part=Text(text="")), Delta(choice=0, index=1, text="a"),
        Delta(choice=0, index=1, text="b", logprobs=[TokenLogprob(token="b", number=1, logprob=-1.0)]),
        Mark(choice=0, index=1, extra={"citations": {"start": 0}}), Close(choice=0, index=1),
        Told(usage=Usage(input_tokens=5, output_tokens=3), said=USED), Stopped(choice=0, stop="stop"), Done(),
    ]  # fmt: skip


def test_a_plan_and_calls() -> None:
    plan = {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I look"}}}
    events = read(
        plan, {"type": "tool-plan-delta"},
        call("tool-call-start", 0, id="c", type="function", function={"name": "f", "arguments": ""}),
        call("tool-call-delta", 0, function={"arguments": '{"a"'}),
        call("tool-call-delta", 0, function={"arguments": ":1}"}),
        {"type": "tool-call-end", "index": 0}, {"type": "tool-call-start", "index": 1},
        call("tool-call-start", 1, id="d", function={"name": "g"}), content("content-delta", 0, text="x"),
        end(finish_reason="NEW"),
    )  # fmt: skip
    assert events == [
        Open(choice=0, index=0, part=Text(text="")), Delta(choice=0, index=0, text="I look"), Close(choice=0, index=0),
        Open(choice=0, index=1, part=ToolCall(id="c", name="f")), Delta(choice=0, index=1, text='{"a"'),
        Delta(choice=0, index=1, text=":1}"), Close(choice=0, index=1),
        Open(choice=0, index=2, part=ToolCall(id="d", name="g")), Delta(choice=0, index=2, text="{}"),
        Close(choice=0, index=2),
        Open(choice=0, index=3, part=Text(text="")), Delta(choice=0, index=3, text="x"), Close(choice=0, index=3),
        Stopped(choice=0, stop="stop", extra={"finish_reason": "NEW"}), Done(),
    ]  # fmt: skip


@pytest.mark.parametrize(("reason", "status", "kind"), [("ERROR", 500, "server"), ("TIMEOUT", 504, "timeout")])
def test_an_error_at_the_end(reason: str, status: int, kind: str) -> None:
    failed = read(end(finish_reason=reason, error="broken"))[-1]
    assert isinstance(failed, Failed)
    assert (failed.problem.status, failed.problem.kind, failed.problem.message) == (status, kind, "broken")


def test_what_an_error_cuts_is_not_whole() -> None:
    """A text that was open is not closed: the error is all that follows."""
    events = read(content("content-start", 0, text=""), content("content-delta", 0, text="Hi"), end(error="broken"))
    assert [type(one) for one in events] == [Open, Delta, Failed]


@pytest.mark.parametrize(
    "said",
    [
        3, [], {}, {"type": 3}, {"type": "content-delta", "delta": 3}, content("content-delta", 0, text=3), {"type": "new"},
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_no_event(said: Any) -> None:
    assert read(said) == []
    assert list(SPOKE.stream_reader().feed(SseEvent(b"", b"[DONE]"))) == []
    assert list(SPOKE.stream_reader().feed(SseEvent(b"", orjson.dumps(end())))) == []


def test_a_stream_begins_once() -> None:
    """A second beginning is none, and an id of a wrong type does not keep the answer from beginning."""
    again = {"type": "message-start", "id": "again"}
    assert read(again, again) == []
    assert list(SPOKE.stream_reader().feed(SseEvent(b"", orjson.dumps({"type": "message-start", "id": 3})))) == [
        Start(id="", model="", format="cohere")
    ]


def test_a_call_that_did_not_begin_is_none() -> None:
    """Nobody could answer a call without an id or a name; one that began without an id is named by its place."""
    assert read(call("tool-call-delta", 0, function={"arguments": "{}"})) == []
    assert read(call("tool-call-start", 2, function={"name": "f"})) == [
        Open(choice=0, index=0, part=ToolCall(id="call_2", name="f"))
    ]


def test_thoughts_and_text_are_kept_apart() -> None:
    """Also where a server counts both as the same piece of content, and does not say where one ends."""
    events = read(content("content-delta", 0, thinking="hm"), content("content-delta", 0, text="a"))
    assert events == [
        Open(choice=0, index=0, part=Thinking()), Delta(choice=0, index=0, text="hm"), Close(choice=0, index=0),
        Open(choice=0, index=1, part=Text(text="")), Delta(choice=0, index=1, text="a"),
    ]  # fmt: skip


VALUES = st.sampled_from(
    [None, True, 0, -1.5, 2**70, 1e308, "", "x", [], {}, [[]], [{}], {"type": "text"}, ["a", 1], "NaN"]
)
WHOLE = {
    "id": "r", "finish_reason": "COMPLETE", "usage": USED, "logprobs": [{"text": "a", "token_ids": [7], "logprobs": [-1]}],
    "message": {
        "tool_plan": "p", "content": [{"type": "text", "text": "a"}],
        "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
    },
}  # fmt: skip


@given(st.data())
def test_hostile_answers_are_refused_or_read(data: st.DataObject) -> None:
    body = deepcopy(WHOLE)
    node: Any = body
    while isinstance(node, dict | list) and node:
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else list(range(len(node)))))
        if data.draw(st.booleans()) or not isinstance(node[key], dict | list):
            node[key] = data.draw(VALUES)
            break
        node = node[key]
    with suppress(TranslationError):
        assert SPOKE.read_response(body).format == "cohere"
