"""Streams of chat completions: what servers do differently, and what clients of this format are told of others."""

import json
from typing import Any

import pytest

from sidecar.core.types import Usage
from sidecar.wire.neutral import (
    Close,
    Delta,
    Done,
    Event,
    Failed,
    Mark,
    Media,
    Opaque,
    Open,
    Ping,
    Problem,
    Refusal,
    Report,
    Request,
    Start,
    Stopped,
    Text,
    Thinking,
    TokenLogprob,
    Told,
    ToolCall,
)
from sidecar.wire.spokes.chat.read import ChatReader
from sidecar.wire.spokes.chat.write import ChatWriter
from sidecar.wire.sse import SseEvent, SseParser
from tests.fixtures.grammar_chat import check

START = Start(format="chat", id="i", model="m", created=5)
FOREIGN = Start(format="messages", id="i", model="m")


def chunk(delta: Any = None, reason: str | None = None, index: int = 0, **beside: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta or {}, "finish_reason": reason, **beside}
    return {"id": "i", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": [choice]}


def read(*chunks: Any, done: bool = False) -> list[Event]:
    """The events after Start."""
    reader, events = ChatReader(), []
    for one in chunks:
        events += reader.feed(SseEvent(b"", json.dumps(one).encode()))
    if done:
        events += reader.feed(SseEvent(b"", b"[DONE]"))
    assert isinstance(events[0], Start)
    return events[1:]


def calls(*items: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return chunk({"tool_calls": list(items), **beside})


def call(arguments: str | None, name: str | None = None, **beside: Any) -> dict[str, Any]:
    inner = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {"function": inner, **beside}


def opened(events: list[Event]) -> list[tuple[str, str]]:
    """Id and arguments of each call."""
    ids = {
        event.index: event.part.id for event in events if isinstance(event, Open) and isinstance(event.part, ToolCall)
    }
    texts = dict.fromkeys(ids, "")
    for event in events:
        if isinstance(event, Delta) and event.index in texts:
            texts[event.index] += event.text
    return [(ids[index], texts[index]) for index in ids]


# ---- reading


def test_text_and_a_call_in_one_chunk() -> None:
    events = read(chunk({"content": "Hi", "tool_calls": [call("{}", "f", index=0, id="c")]}, "tool_calls"))
    assert events == [
        Open(choice=0, index=0, part=Text(text="")),
        Delta(choice=0, index=0, text="Hi"),
        Close(choice=0, index=0),
        Open(choice=0, index=1, part=ToolCall(id="c", name="f")),
        Delta(choice=0, index=1, text="{}"),
        Close(choice=0, index=1),
        Stopped(choice=0, stop="tool_calls"),
    ]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        # no index, no id: whole calls in one chunk, as Ollama and Mistral had it
        ([calls(call("{}", "f"), call('{"a":1}', "g"))], [("call_0", "{}"), ("call_1", '{"a":1}')]),
        ([calls(call("{}", "f")), calls(call("{}", "g"))], [("call_0", "{}"), ("call_1", "{}")]),
        # no index, in pieces
        ([calls(call("", "f", id="c")), calls(call("{")), calls(call("}", id="c"))], [("c", "{}")]),
        ([calls(call("", "f"), call("", "g")), calls(call("{}"), call("[]"))], [("call_0", "{}"), ("call_1", "[]")]),
        # every call has index 0
        (
            [calls(call("{}", "f", index=0, id="c")), calls(call("{}", "f", index=0, id="d"))],
            [("c", "{}"), ("d", "{}")],
        ),
        (
            [calls(call('{"a":1}', "f", index=0, id="")), calls(call("{}", "g", index=0, id=""))],
            [("call_0", '{"a":1}'), ("call_1", "{}")],
        ),
        # id and name are repeated in every chunk
        ([calls(call("{", "f", index=0)), calls(call("}", "f", index=0))], [("call_0", "{}")]),
        ([calls(call("{", "f", index=0, id="c")), calls(call("}", "f", index=0, id="c"))], [("c", "{}")]),
        # two calls told in turns
        (
            [
                calls(call("", "f", index=0, id="c"), call("", "g", index=1, id="d")),
                calls(call("{", index=0)),
                calls(call("{", index=1)),
                calls(call("}", index=0)),
                calls(call("}", index=1)),
            ],
            [("c", "{}"), ("d", "{}")],
        ),
        # arguments as an object
        ([calls({"index": 0, "id": "c", "function": {"name": "f", "arguments": {"a": 1}}})], [("c", '{"a":1}')]),
        # a custom tool
        (
            [
                calls({"index": 0, "id": "c", "type": "custom", "custom": {"name": "sh", "input": ""}}),
                calls({"index": 0, "custom": {"input": "ls"}}),
            ],
            [("c", "ls")],
        ),
        # the old spelling
        (
            [chunk({"function_call": {"name": "f", "arguments": ""}}), chunk({"function_call": {"arguments": "{}"}})],
            [("call_0", "{}")],
        ),
        # blanks after a call that is over
        (
            [calls(call("{}", "f", index=0)), calls(call("{}", "g", index=1)), calls(call("\n", index=0))],
            [("call_0", "{}"), ("call_1", "{}")],
        ),
        # no name, or nothing in it
        ([calls({"index": 0, "id": "c"}), calls({"index": 0, "function": {"name": 3, "arguments": 4}})], [("c", "")]),
        # empty, and of a wrong type
        ([chunk({"tool_calls": []}), chunk({"tool_calls": 3, "function_call": 3}), calls(3)], []),  # type: ignore[arg-type]
    ],
)
def test_calls_as_servers_write_them(chunks: list[Any], expected: list[tuple[str, str]]) -> None:
    events = read(*chunks, done=True)
    assert opened(events) == expected
    assert isinstance(events[-1], Done)
    assert isinstance(events[-2], Stopped)
    assert events[-2].stop == ("tool_calls" if expected else "stop")


def test_a_call_that_goes_on_after_its_end_breaks_the_stream() -> None:
    events = read(
        calls(call("{}", "f", index=0, id="c")),
        calls(call("{}", "g", index=1, id="d")),
        calls(call("{}", index=0)),
        chunk({"content": "more"}),
        done=True,
    )
    assert isinstance(events[-1], Failed)
    assert events[-1].problem.status == 502
    assert len([event for event in events if isinstance(event, Failed)]) == 1


def test_text_amid_the_arguments_of_a_call_is_told_when_they_are_whole() -> None:
    drawn = {"images": [{"type": "image_url", "image_url": {"url": "https://a"}}]}
    events = read(
        calls(call('{"a":', "f", index=0, id="c"), content="before"),
        chunk({"content": "amid"}, logprobs={"content": [{"token": "amid", "logprob": -1}]}),
        chunk(drawn),
        calls(call("1}", index=0)),
        calls(call('{"b', "g", index=1, id="d")),
        chunk({"content": "late"}),
        chunk(None, "stop"),
    )
    texts = [event.text for event in events if isinstance(event, Delta)]
    assert texts == ["before", '{"a":', "1}", "amid", '{"b', "late"]
    parts = [type(event.part) for event in events if isinstance(event, Open)]
    assert parts == [Text, ToolCall, Text, Media, ToolCall, Text]
    assert [event.extra for event in events if isinstance(event, Ping)] == [
        {"choices": [{"index": 0, "logprobs": {"content": [{"token": "amid", "logprob": -1}]}}]}
    ]
    assert len([event for event in events if isinstance(event, Close)]) == 6


def test_arguments_that_only_look_whole_go_on() -> None:
    assert opened(
        read(calls(call('{"a":{}', "f", index=0)), calls(call("{}", "g", index=1)), calls(call("}", index=0)))
    ) == [
        ("call_0", '{"a":{}}'),
        ("call_1", "{}"),
    ]


def test_the_first_chunk_of_azure_is_told_with_the_next() -> None:
    reader = ChatReader()
    first = {"id": "", "model": "", "object": "", "created": 0, "choices": [], "prompt_filter_results": [1]}
    assert reader.feed(SseEvent(b"", json.dumps(first).encode())) == []
    (start,) = reader.feed(SseEvent(b"", json.dumps({**chunk({"role": "assistant"}), "service_tier": "flex"}).encode()))
    assert start == Start(
        format="chat", id="i", model="m", created=5, service_tier="flex", extra={"prompt_filter_results": [1]}
    )


def test_usage_may_come_on_any_chunk() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    known = Usage(input_tokens=3, output_tokens=2)
    assert read({**chunk({"content": "a"}, "stop"), "usage": usage})[-1] == Told(usage=known, said=usage)
    groq = {**chunk(None, "stop"), "x_groq": {"id": "g", "usage": usage}}
    assert read({**chunk(), "x_groq": {"id": "g"}}, groq)[-1] == Told(usage=known, said=usage)
    moonshot = read(chunk({"content": "a"}, usage=None), chunk(None, "stop", usage=usage))
    assert moonshot[-2:] == [Stopped(choice=0, stop="stop"), Told(usage=known, said=usage)]
    both = {**chunk(None, "stop"), "usage": usage, "x_groq": {"usage": {"prompt_tokens": 9}}}
    assert read(chunk(), both)[-1] == Told(usage=known, said=usage)
    names = ("prompt", "completion", "input", "output")
    unreadable = {f"{name}_tokens{more}": "x" for name in names for more in ("", "_details")} | {"cost": []}
    assert read(chunk(), {**chunk(), "usage": unreadable}) == []


def test_what_has_no_place_comes_beside() -> None:
    first = {**chunk(), "system_fingerprint": "fp"}
    second = {**chunk({"content": "a", "x": 1}, None, y=2, empty={}), "system_fingerprint": "fp", "timings": {"n": 1}}
    last = chunk({"z": 3}, "strange", matched=4)
    events = read(first, second, last)
    assert events[2] == Ping(extra={"timings": {"n": 1}, "choices": [{"index": 0, "y": 2, "delta": {"x": 1}}]})
    assert events[-1] == Stopped(
        choice=0, stop="stop", extra={"matched": 4, "message": {"z": 3}, "finish_reason": "strange"}
    )


def test_nothing_follows_an_end() -> None:
    assert read(chunk({"content": "a"}, "stop"), chunk({"content": "b"}, "stop"), done=True)[3:] == [
        Stopped(choice=0, stop="stop"),
        Done(),
    ]
    reader = ChatReader()
    reader.feed(SseEvent(b"", b"[DONE]"))
    assert reader.feed(SseEvent(b"", json.dumps(chunk()).encode())) == ()


def test_an_empty_reason_is_none() -> None:
    """SGLang, Ollama and others write `"finish_reason": ""` in every chunk but the last."""
    pieces = [chunk({"role": "assistant", "content": "a"}, ""), chunk({"content": "b"}, ""), chunk({}, "length")]
    events = read(*pieces, done=True)
    assert [event.text for event in events if isinstance(event, Delta)] == ["a", "b"]
    assert events[-2:] == [Stopped(choice=0, stop="length"), Done()]


def test_thoughts_as_servers_write_them() -> None:
    block = {"type": "thinking", "thinking": "hm", "signature": "s"}
    signed = Mark(choice=0, index=0, signature="s", origin="messages")
    for deltas in (
        [{"reasoning_content": "hm"}, {"thinking_blocks": [block]}],
        [{"reasoning": "hm", "reasoning_content": "hm"}, {"thinking_blocks": [block]}],
        [
            {"thinking_blocks": [{"type": "thinking", "thinking": "hm"}]},
            {"thinking_blocks": [{**block, "thinking": ""}]},
        ],
        [{"reasoning_content": "hm", "thinking_blocks": [block]}],
        [{"thinking_blocks": [block]}],
        [{"content": [{"type": "thinking", "thinking": "hm"}]}, {"thinking_blocks": [block]}],
    ):
        assert read(*(chunk(delta) for delta in deltas)) == [
            Open(choice=0, index=0, part=Thinking()),
            Delta(choice=0, index=0, text="hm"),
            signed,
            Close(choice=0, index=0),
        ]


def test_thoughts_amid_a_call_are_told_once() -> None:
    """Their signed block waits with them."""
    call = {"index": 0, "id": "c", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    block = {"type": "thinking", "thinking": "hm", "signature": "s"}
    deltas = ({"tool_calls": [call]}, {"reasoning_content": "hm"}, {"thinking_blocks": [block]})
    assert read(*(chunk(delta) for delta in deltas), chunk({}, "stop"))[3:-1] == [
        Open(choice=0, index=1, part=Thinking()),
        Delta(choice=0, index=1, text="hm"),
        Mark(choice=0, index=1, signature="s", origin="messages"),
        Close(choice=0, index=1),
    ]


def test_thoughts_without_text_and_strange_ones() -> None:
    unsigned = {"thinking_blocks": [{"type": "thinking", "thinking": "", "signature": "s"}]}
    assert read(chunk(unsigned))[:2] == [
        Open(choice=0, index=0, part=Thinking()),
        Mark(choice=0, index=0, signature="s", origin="messages"),
    ]
    hidden = Thinking(redacted="r", origin="responses")
    block = {"type": "redacted_thinking", "data": "r", "origin": "responses"}
    assert read(chunk({"thinking_blocks": [block]})) == [Open(choice=0, index=0, part=hidden), Close(choice=0, index=0)]
    for strange in ({"thinking_blocks": [3]}, {"thinking_blocks": "a"}, {"images": [3]}, {"reasoning": {"a": 1}}):
        assert read(chunk(strange)) == [Ping(extra={"choices": [{"index": 0, "delta": strange}]})]


def test_content_as_a_list() -> None:
    reference = {"type": "reference", "reference_ids": [1]}
    events = read(chunk({"content": [{"type": "text", "text": "a"}, reference]}), chunk({"content": [{"x": 1}]}))
    assert events[1:] == [
        Delta(choice=0, index=0, text="a"),
        Ping(extra={"choices": [{"index": 0, "delta": {"content": [reference]}}]}),
    ]


def test_log_probabilities_go_with_their_text() -> None:
    said = [{"token": "a", "logprob": -1, "top_logprobs": []}]
    tokens = [TokenLogprob(token="a", logprob=-1)]
    assert read(chunk({"content": "a"}, logprobs={"content": said}))[1] == Delta(
        choice=0, index=0, text="a", logprobs=tokens
    )
    assert read(chunk({"refusal": "a"}, logprobs={"content": None, "refusal": said}))[1] == Delta(
        choice=0, index=0, text="a", logprobs=tokens
    )
    assert read(chunk(None, logprobs={"content": said})) == [
        Open(choice=0, index=0, part=Text(text="")),
        Delta(choice=0, index=0, text="", logprobs=tokens),
    ]
    assert read(chunk({"content": "a"}), chunk(None, logprobs={"content": said}))[2] == Delta(
        choice=0, index=0, text="", logprobs=tokens
    )
    assert read(chunk(None, logprobs={"tokens": ["a"]}))[0] == Ping(
        extra={"choices": [{"index": 0, "logprobs": {"tokens": ["a"]}}]}
    )
    for nothing in ({"content": []}, 3):
        assert read(chunk(None, logprobs=nothing)) == []


def test_signatures_and_extras_of_calls() -> None:
    signature = {"google": {"thought_signature": "s"}}
    item = call("", "f", index=0, id="c", extra_content=signature, x=1)
    item["function"]["y"] = 2
    events = read(calls(item), calls({"index": 0, "extra_content": signature}), calls({"index": 0, "z": 3}))
    part = ToolCall(id="c", name="f", signature="s", extra={"x": 1, "function": {"y": 2}})
    assert events == [
        Open(choice=0, index=0, part=part),
        Mark(choice=0, index=0, signature="s"),
        Mark(choice=0, index=0, extra={"z": 3}),
    ]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"3", b"[]", b'"a"', b"\xff", b'{"choices":3,"id":4,"model":"m"}', b'{"choices":[3]}']
)
def test_what_is_no_chunk_says_nothing(data: bytes) -> None:
    assert [event for event in ChatReader().feed(SseEvent(b"", data)) if not isinstance(event, Start)] == []


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        (b"", b'{"error":{"message":"no","code":"rate_limit_exceeded"}}', 429),
        (b"", b'{"object":"error","message":"no","code":404}', 404),
        (b"", b'{"choices":[],"error":{"message":"no","code":502}}', 502),
        (b"error", b'{"message":"no"}', 500),
        (b"error", b"no", 500),
        (b"error", b'"no"', 500),
    ],
)
def test_errors_in_a_stream(name: bytes, data: bytes, status: int) -> None:
    (failed,) = ChatReader().feed(SseEvent(name, data))
    assert isinstance(failed, Failed)
    assert failed.problem.status == status


def test_too_many_choices_are_told_by_their_place() -> None:
    (opened_part, _) = read(chunk({"content": "a"}, index=10**9))
    assert opened_part == Open(choice=0, index=0, part=Text(text=""))


# ---- writing


def write(*events: Event, usage: bool = True, old: bool = False) -> tuple[list[Any], list[str], list[str]]:
    """The chunks, without their frame; what was lost; what was mapped."""
    spelling = {"calls": "functions"} if old else {}
    asked = Request(format="chat", model="m", messages=[], stream=True, include_usage=usage, spelling=spelling)
    report = Report()
    writer = ChatWriter(asked, report)
    parsed = SseParser().feed(b"".join(writer.feed(event) for event in events))
    check(parsed, whole=False)
    chunks: list[Any] = []
    for one in parsed:
        if one.data == b"[DONE]":
            chunks.append("[DONE]")
            continue
        said = json.loads(one.data)
        choices = said.get("choices")
        chunks.append({"usage": said["usage"]} if "usage" in said else choices[0] if choices else said)
    return chunks, report.lost, report.mapped


def deltas(*events: Event, old: bool = False) -> list[Any]:
    return [one["delta"] for one in write(FOREIGN, *events, old=old)[0][1:]]


def test_a_stream_of_another_format() -> None:
    events = [
        Start(format="messages", id="i", model="m", usage=Usage(input_tokens=9, cached_input_tokens=4), said={"x": 1}),
        Open(choice=0, index=0, part=Text(text="")),
        Delta(choice=0, index=0, text="a"),
        Ping(),
        Close(choice=0, index=0),
        Open(choice=0, index=1, part=ToolCall(id="c", name="f")),
        Delta(choice=0, index=1, text="{}"),
        Close(choice=0, index=1),
        Told(usage=Usage(output_tokens=3), said={"output_tokens": 3}),
        Stopped(choice=0, stop="tool_calls"),
        Done(),
    ]
    chunks, lost, mapped = write(*events)
    assert chunks == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None},
        {"index": 0, "delta": {"content": "a"}, "logprobs": None, "finish_reason": None},
        {
            "index": 0,
            "delta": {
                "tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}]
            },
            "logprobs": None,
            "finish_reason": None,
        },
        {
            "index": 0,
            "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
            "logprobs": None,
            "finish_reason": None,
        },
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"},
        {
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 3,
                "total_tokens": 12,
                "prompt_tokens_details": {"cached_tokens": 4},
            }
        },
        "[DONE]",
    ]
    assert lost == mapped == []
    assert not any("usage" in one for one in write(*events, usage=False)[0])


def test_usage_is_the_providers_own_words_in_its_own_format() -> None:
    said = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "queue": 3}
    assert write(START, Stopped(choice=0, stop="stop"), Told(usage=Usage(), said=said), Done())[0][-2] == {
        "usage": said
    }


def test_thoughts_are_shown_and_their_signatures_follow() -> None:
    assert deltas(
        Open(choice=0, index=0, part=Thinking()),
        Delta(choice=0, index=0, text="h"),
        Delta(choice=0, index=0, text="m"),
        Mark(choice=0, index=0, signature="s"),
        Close(choice=0, index=0),
        Open(choice=0, index=1, part=Thinking(redacted="r")),
        Close(choice=0, index=1),
    ) == [
        {"reasoning_content": "h"},
        {"reasoning_content": "m"},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"thinking_blocks": [{"type": "redacted_thinking", "data": "r"}]},
    ]


def test_the_origin_of_a_signature_is_named_where_it_is_not_anthropic() -> None:
    chunks, _, _ = write(
        Start(format="responses", id="i", model="m"),
        Open(choice=0, index=0, part=Thinking()),
        Mark(choice=0, index=0, signature="s"),
    )
    block = {"type": "thinking", "thinking": "", "signature": "s", "origin": "responses"}
    assert chunks[-1]["delta"] == {"thinking_blocks": [block]}


def test_marks_of_calls_and_of_texts() -> None:
    signed = {"google": {"thought_signature": "s"}}
    chunks, lost, _ = write(
        Start(format="generate", id="i", model="m"),
        Open(choice=0, index=0, part=ToolCall(id="c", name="f", signature="s")),
        Mark(choice=0, index=0, signature="s"),
        Mark(choice=0, index=0, extra={"x": 1}),
        Close(choice=0, index=0),
        Mark(choice=0, index=0, signature="s"),
        Open(choice=0, index=1, part=Text(text="", extra={"y": 1})),
        Mark(choice=0, index=1, extra={"citations": 1}),
    )
    assert chunks[1]["delta"]["tool_calls"][0]["extra_content"] == signed
    assert chunks[2]["delta"]["tool_calls"] == [{"index": 0, "extra_content": signed}]
    assert len(chunks) == 3
    assert lost == ["choices[0].content[0].x", "choices[0].content[1].y", "choices[0].content[1].citations"]


def test_a_client_of_functions_gets_one_call_in_a_stream() -> None:
    events = [
        FOREIGN,
        Open(choice=0, index=0, part=ToolCall(id="c", name="f")),
        Delta(choice=0, index=0, text="{}"),
        Mark(choice=0, index=0, signature="s"),
        Close(choice=0, index=0),
        Open(choice=0, index=1, part=ToolCall(id="d", name="g")),
        Delta(choice=0, index=1, text="{}"),
        Stopped(choice=0, stop="tool_calls"),
    ]
    chunks, lost, _ = write(*events, old=True)
    assert [one["delta"] for one in chunks[1:]] == [
        {"function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": "{}"}},
        {},
    ]
    assert chunks[-1]["finish_reason"] == "function_call"
    assert lost == ["choices[0].content[1]"]
    assert write(FOREIGN, Stopped(choice=0, stop="length"), old=True)[0][-1]["finish_reason"] == "length"


def test_custom_calls_and_refusals_and_pictures() -> None:
    assert deltas(
        Open(choice=0, index=0, part=ToolCall(id="c", name="sh", custom=True)),
        Delta(choice=0, index=0, text="ls"),
        Open(choice=0, index=1, part=Refusal(text="")),
        Delta(choice=0, index=1, text="no"),
        Open(choice=0, index=2, part=Media(kind="image", url="https://a")),
    ) == [
        {"tool_calls": [{"index": 0, "id": "c", "type": "custom", "custom": {"name": "sh", "input": ""}}]},
        {"tool_calls": [{"index": 0, "custom": {"input": "ls"}}]},
        {"refusal": "no"},
        {"images": [{"type": "image_url", "image_url": {"url": "https://a"}}]},
    ]


def test_what_has_no_place_in_a_stream_is_lost_once() -> None:
    chunks, lost, mapped = write(
        Start(format="messages", id="i", model="m", extra={"container": 1}),
        Open(choice=0, index=0, part=Opaque(value={})),
        Delta(choice=0, index=0, text="x"),
        Ping(extra={"p": 1}),
        Ping(extra={"p": 2}),
        Stopped(choice=0, stop="pause", extra={"q": 1}),
    )
    assert len(chunks) == 2
    assert lost == ["container", "choices[0].content[0]", "p", "choices[0].q"]
    assert mapped == ["choices[0].stop"]


def test_every_choice_begins_with_its_role() -> None:
    tokens = [TokenLogprob(token="a", logprob=-1, number=3)]
    chunks, _, _ = write(
        START,
        Open(choice=1, index=0, part=Text(text="")),
        Delta(choice=1, index=0, text="a", logprobs=tokens),
        Open(choice=2, index=0, part=Refusal(text="")),
        Delta(choice=2, index=0, text="a", logprobs=tokens),
        Ping(extra={"choices": [{"index": 3, "y": 1}], "timings": 2}),
        Stopped(choice=1, stop="stop_sequence", stop_sequence="E"),
    )
    said = [{"id": 3, "token": "a", "bytes": None, "logprob": -1, "top_logprobs": []}]
    assert chunks[1]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[2]["logprobs"] == {"content": said, "refusal": None}
    assert chunks[4]["logprobs"] == {"content": None, "refusal": said}
    assert chunks[5] == {"index": 3, "delta": {"role": "assistant", "content": ""}, "finish_reason": None, "y": 1}
    assert (chunks[6]["finish_reason"], chunks[6]["stop_reason"]) == ("stop", "E")


def test_half_characters_become_a_sign_of_it() -> None:
    assert deltas(Open(choice=0, index=0, part=Text(text="")), Delta(choice=0, index=0, text="a\ud83d")) == [
        {"content": "a\ufffd"}
    ]


def test_an_error_ends_the_stream() -> None:
    problem = Problem(status=529, kind="overloaded", message="busy")
    chunks, _, _ = write(FOREIGN, Failed(problem=problem))
    assert chunks[-1] == {"error": {"message": "busy", "type": "overloaded_error", "param": None, "code": None}}


def test_an_event_that_chat_does_not_know_says_nothing() -> None:
    assert ChatWriter(Request(format="chat", model="m", messages=[]), Report()).feed(Event()) == b""
