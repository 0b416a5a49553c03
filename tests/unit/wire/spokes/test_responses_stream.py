"""OpenAI Responses: streams that servers say in other ways, and streams of other formats."""

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
from sidecar.wire.spoke import problem_of
from sidecar.wire.spokes.responses.spoke import SPOKE
from sidecar.wire.sse import SseEvent, SseParser
from tests.fixtures.grammar_responses import check

ASKED = Request(format="responses", model="asked", messages=[], stream=True)
CREATED = {"type": "response.created", "response": {"id": "resp_1", "model": "m"}}
COMPLETED = {"type": "response.completed", "response": {"id": "resp_1", "status": "completed", "output": []}}
MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
_COUNTS = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
PLACE = {"item_id": "msg_1", "output_index": 0, "content_index": 0}


def read(*bodies: dict[str, Any]) -> list[Event]:
    reader, events = SPOKE.stream_reader(), []
    for body in bodies:
        events += reader.feed(SseEvent(b"", json.dumps(body).encode()))
    return events


def inner(*bodies: dict[str, Any]) -> list[Event]:
    """What stands between the beginning and the end."""
    events = read(CREATED, *bodies, COMPLETED)
    assert isinstance(events[0], Start)
    assert isinstance(events[-1], Done)
    return events[1:-2]


def say(*events: Event, source: Any = "chat", report: Report | None = None) -> list[SseEvent]:
    assert SPOKE.stream_writer is not None
    writer = SPOKE.stream_writer(ASKED, report or Report())
    start = Start(id="a", model="", format=source)
    return SseParser().feed(b"".join(writer.feed(event) for event in (start, *events)))


def told(events: list[SseEvent], kind: str) -> list[dict[str, Any]]:
    return [body for event in events if (body := json.loads(event.data))["type"] == kind]


def added(item: dict[str, Any], index: int | None = 0) -> dict[str, Any]:
    place = {} if index is None else {"output_index": index}
    return {"type": "response.output_item.added", **place, "item": item}


def done(item: dict[str, Any], index: int | None = 0) -> dict[str, Any]:
    place = {} if index is None else {"output_index": index}
    return {"type": "response.output_item.done", **place, "item": item}


# ---- reading


def test_a_text_that_nothing_began_is_read() -> None:
    delta = {"type": "response.output_text.delta", "delta": "Hi"}
    opened, text, closed = inner(delta)
    assert opened == Open(choice=0, index=0, part=Text(text="", frame={"item": {}}))
    assert text == Delta(choice=0, index=0, text="Hi")
    assert closed == Close(choice=0, index=0)
    named = inner({**delta, "item_id": "msg_9", "output_index": 3})
    assert named[0] == Open(choice=0, index=0, part=Text(text="", frame={"item": {"id": "msg_9"}}))


@pytest.mark.parametrize(
    "late",
    [
        [{"type": "response.output_text.done", **PLACE, "text": "Hi"}],
        [{"type": "response.content_part.done", **PLACE, "part": {"type": "output_text", "text": "Hi"}}],
        [{"type": "response.content_part.added", **PLACE, "part": {"type": "output_text", "text": "Hi"}}],
        [done({**MESSAGE, "content": [{"type": "output_text", "text": "Hi"}]})],
    ],
)
def test_a_text_that_comes_whole_is_said_once(late: list[dict[str, Any]]) -> None:
    whole = done({**MESSAGE, "content": [{"type": "output_text", "text": "Hi"}]})
    events = inner(added(MESSAGE), *late, whole, whole)
    assert events[1:] == [Delta(choice=0, index=0, text="Hi"), Close(choice=0, index=0)]


def test_an_answer_that_comes_only_at_the_end_is_said_then() -> None:
    items = [
        {**MESSAGE, "content": [{"type": "output_text", "text": "Hi"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "sidecar:messages:redacted:data"},
        {"type": "web_search_call", "id": "ws_1"},
    ]
    events = read(CREATED, {**COMPLETED, "response": {"id": "resp_1", "output": [*items, 1]}})
    parts = [event.part for event in events if isinstance(event, Open)]
    assert [type(part) for part in parts] == [Text, ToolCall, Thinking, Opaque]
    assert isinstance(parts[2], Thinking)
    assert (parts[2].redacted, parts[2].origin) == ("data", "messages")
    assert [event.text for event in events if isinstance(event, Delta)] == ["Hi", "{}"]
    assert len([event for event in events if isinstance(event, Close)]) == 4
    assert [event.stop for event in events if isinstance(event, Stopped)] == ["tool_calls"]


def test_a_call_whose_members_are_missing_or_late() -> None:
    bare = {"type": "function_call", "id": "fc_1", "arguments": '{"a"'}
    events = inner(
        added(bare),
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": ":1}"},
        {"type": "response.function_call_arguments.done", "output_index": 0, "arguments": '{"a":1}'},
        done({**bare, "arguments": '{"a":1}', "namespace": "n"}),
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "late"},
        {"type": "response.function_call_arguments.delta", "output_index": 7, "delta": "of no item"},
        {"type": "response.function_call_arguments.done", "output_index": 7, "arguments": "of no item"},
    )
    assert isinstance(events[0], Open)
    assert events[0].part == ToolCall(id="call_0", name="", frame={"item": {"id": "fc_1"}})
    assert [event.text for event in events if isinstance(event, Delta)] == ['{"a"', ":1}"]
    assert events[-2:] == [Mark(choice=0, index=0, extra={"namespace": "n"}), Close(choice=0, index=0)]


def test_what_comes_of_an_item_after_another_one_began_opens_a_new_part() -> None:
    delta = {"type": "response.output_text.delta", **PLACE}
    events = inner(
        added(MESSAGE),
        {**delta, "delta": "a"},
        added({**MESSAGE, "id": "msg_2"}, 1),
        {**delta, "item_id": "msg_2", "output_index": 1, "delta": "b"},
        {**delta, "delta": "c"},
        done({**MESSAGE, "id": "msg_2", "content": [{"type": "output_text", "text": "b"}]}, 1),
        {
            "type": "response.content_part.done",
            **PLACE,
            "item_id": "msg_2",
            "output_index": 1,
            "part": {"type": "output_text"},
        },
    )
    assert [event.text for event in events if isinstance(event, Delta)] == ["a", "b", "c"]
    assert [event.index for event in events if isinstance(event, Open)] == [0, 1, 2]
    check(say(*events, Done()))


def test_what_a_server_says_beside_a_text_is_kept() -> None:
    delta = {"type": "response.output_text.delta", **PLACE}
    events = inner(
        added(MESSAGE), {**delta, "delta": "", "timings": {"n": 1}}, {**delta, "delta": "a", "x": 2, "y": None}
    )
    assert events[1:4] == [
        Mark(choice=0, index=0, extra={"event": {"timings": {"n": 1}}}),
        Delta(choice=0, index=0, text="a"),
        Mark(choice=0, index=0, extra={"event": {"x": 2}}),
    ]
    said = say(*events, Stopped(choice=0, stop="stop"), Done(), source="responses")
    assert [body.get("timings") for body in told(said, "response.output_text.delta")] == [{"n": 1}, None, None]
    check(said)


def test_members_of_an_item_that_come_at_its_end_are_kept() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    events = inner(
        added(thought),
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "hm"},
        {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "Hi"},
        done({**thought, "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "gA==", "x": 1}),
        added({"type": "web_search_call", "id": "ws_1"}, 2),
        done({"type": "web_search_call", "id": "ws_1", "status": "completed"}, 2),
    )
    assert Mark(choice=0, index=2, signature="gA==") in events
    assert Mark(choice=0, index=2, extra={"item": {"x": 1}}) in events
    assert events[-2].extra["item"]["status"] == "completed"  # type: ignore[union-attr]  # a Mark
    said = say(*events, Stopped(choice=0, stop="stop"), Done(), source="responses")
    last = told(said, "response.completed")[0]["response"]["output"]
    assert [(item["type"], item.get("encrypted_content")) for item in last][2:] == [
        ("reasoning", "gA=="),
        ("web_search_call", None),
    ]
    assert last[2]["x"] == 1


@pytest.mark.parametrize(
    ("bodies", "status", "message"),
    [
        ([{"type": "error", "code": "rate_limit_exceeded", "message": "slow"}], 429, "slow"),
        ([{"error": {"message": "no", "code": 503}}], 503, "no"),
        (
            [CREATED, {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "x"}}}],
            500,
            "x",
        ),
        (
            [{"type": "response.failed", "response": {"error": None}}],
            502,
            "the provider's answer failed or was cancelled",
        ),
        (
            [CREATED, {"type": "response.cancelled", "response": {}}],
            502,
            "the provider's answer failed or was cancelled",
        ),
        ([CREATED, {"type": "response.failed"}], 500, "the provider answered with status 500"),
    ],
)
def test_an_answer_that_fails(bodies: list[dict[str, Any]], status: int, message: str) -> None:
    events = read(*bodies, COMPLETED)
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert (failed.problem.status, failed.problem.message) == (status, message)


def test_what_failed_is_billed_too() -> None:
    failed = {"type": "response.failed", "response": {"error": {"message": "x"}, "usage": {"input_tokens": 3}}}
    assert read(CREATED, failed)[1] == Told(usage=Usage(input_tokens=3), said={"input_tokens": 3})


def test_what_cannot_be_read_is_no_event() -> None:
    reader = SPOKE.stream_reader()
    assert list(reader.feed(SseEvent(b"", b"{broken"))) == []
    assert list(reader.feed(SseEvent(b"", b"[1]"))) == []
    assert list(reader.feed(SseEvent(b"", b'{"type":1}'))) == []
    assert read({"choices": [], "object": "chat.completion.chunk"}, {"type": "message_start"}, {"type": "ping"}) == []
    assert inner({"no": "type"}) == []
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    assert read({"type": "response.new", "x": deep})[1:] == [], "nested too deeply to be written"
    assert read({**CREATED, "response": {"id": "a", "tools": deep}}) == [Start(id="", model="", format="responses")]
    assert (
        inner(
            added({"no": "type"}),
            done({"no": "type"}),
            {"type": "response.content_part.added", **PLACE, "part": {"type": "new"}},
            {"type": "response.content_part.done", **PLACE, "part": 1},
            {"type": "response.output_text.annotation.added", **PLACE, "annotation": {"type": "url_citation"}},
        )
        == []
    )
    odd = {**COMPLETED, "response": {"id": "resp_1", "status": 5, "output": 1}}
    assert [type(event) for event in read(CREATED, odd)] == [Start], "an end that cannot be read is none"


def test_the_end_tells_what_the_beginning_did_not() -> None:
    late = {
        "id": "resp_1",
        "model": "late",
        "created_at": 5,
        "usage": dict.fromkeys((*_COUNTS, *(f"{name}_details" for name in _COUNTS), "prompt_cache_hit_tokens"), "x"),
        "service_tier": "flex",
    }
    events = read(
        {"type": "response.created", "response": {"id": "resp_1"}}, {"type": "response.completed", "response": late}
    )
    assert events[0] == Start(id="resp_1", model="", format="responses")
    assert isinstance(events[1], Stopped)
    assert events[1].frame == {"model": "late", "created_at": 5, "service_tier": "flex"}
    last = told(say(*events[1:], source="responses"), "response.completed")[0]["response"]
    assert (last["model"], last["created_at"], last["service_tier"]) == ("late", 5, "flex")


def test_citations_that_come_with_the_whole_text_are_kept_once() -> None:
    note = {"type": "url_citation", "url": "https://example.com"}
    part = {"type": "output_text", "text": "Hi", "annotations": [note, note]}
    events = inner(
        added(MESSAGE),
        {"type": "response.output_text.delta", **PLACE, "delta": "Hi"},
        {"type": "response.output_text.annotation.added", **PLACE, "annotation": note},
        {"type": "response.content_part.done", **PLACE, "part": part},
        done({**MESSAGE, "content": [part]}),
    )
    assert [event.extra for event in events if isinstance(event, Mark)] == [
        {"annotations": [note]},
        {"annotations": [note]},
    ]
    said = say(*events, Stopped(choice=0, stop="stop"), Done(), source="responses")
    check(said)
    assert told(said, "response.completed")[0]["response"]["output"][0]["content"] == [{**part, "logprobs": []}]


def test_an_item_may_begin_while_a_call_is_open() -> None:
    said = say(
        Open(choice=0, index=0, part=ToolCall(id="c", name="f")),
        Open(choice=0, index=1, part=Text(text="")),
        Delta(choice=0, index=0, text="{}"),
        Delta(choice=0, index=1, text="x"),
        Stopped(choice=0, stop="length"),
        Done(),
    )
    check(said)
    last = told(said, "response.incomplete")[0]["response"]["output"]
    assert [(item["type"], item["status"]) for item in last] == [
        ("function_call", "incomplete"),
        ("message", "incomplete"),
    ]


def test_a_part_that_begins_twice_or_only_ends_is_one() -> None:
    begun = {"type": "response.content_part.added", **PLACE, "part": {"type": "output_text", "text": ""}}
    ended = {
        "type": "response.content_part.done",
        **PLACE,
        "content_index": 1,
        "part": {"type": "refusal", "refusal": ""},
    }
    delta = {"type": "response.output_text.delta", **PLACE, "delta": "", "logprobs": [1]}
    events = inner(added(MESSAGE), begun, begun, delta, {**delta, "delta": 5, "logprobs": []}, ended)
    assert [type(event) for event in events] == [Open, Close, Open, Close]
    assert isinstance(events[2], Open)
    assert events[2].part == Refusal(text="")


def test_events_of_the_providers_own_tools_come_whole() -> None:
    event = {"type": "response.mcp_call_arguments.delta", "output_index": 0, "item_id": "mcp_1", "delta": "{"}
    events = inner(
        added({"type": "mcp_call", "id": "mcp_1"}),
        {**event, "sequence_number": 2},
        done({"type": "mcp_call", "id": "mcp_1"}),
    )
    assert events[1] == Ping(extra={"event": event})
    said = say(*events, Stopped(choice=0, stop="stop"), Done(), source="responses")
    check(said)
    assert told(said, event["type"])[0]["delta"] == "{"


# ---- writing


def test_overlapping_calls_are_items_that_overlap() -> None:
    said = say(
        Open(choice=0, index=0, part=ToolCall(id="a", name="f")),
        Open(choice=0, index=1, part=ToolCall(id="b", name="f", signature="s")),
        Delta(choice=0, index=0, text="{}"),
        Delta(choice=0, index=1, text="{}"),
        Close(choice=0, index=1),
        Stopped(choice=0, stop="length"),
        Done(),
    )
    check(said)
    last = told(said, "response.incomplete")[0]["response"]
    assert [(item["call_id"], item["status"]) for item in last["output"]] == [("a", "incomplete"), ("b", "completed")]
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_message_goes_on_until_another_part_begins() -> None:
    parts = [Text(text=""), Refusal(text=""), Thinking(), Thinking(redacted="data"), Text(text="")]
    events: list[Event] = []
    for index, part in enumerate(parts):
        events += [
            Open(choice=0, index=index, part=part),
            Delta(choice=0, index=index, text="x"),
            Close(choice=0, index=index),
        ]
    said = say(*events, source="messages")
    kinds = [event.name.decode() for event in said]
    assert kinds[-1] == "response.content_part.done", "whether the message is whole is not known yet"
    said = say(*events, Stopped(choice=0, stop="length"), Done(), source="messages")
    check(said)
    last = told(said, "response.incomplete")[0]["response"]["output"]
    shape = [(item["type"], len(item.get("content") or item.get("summary")), item["status"]) for item in last]
    assert shape == [
        ("message", 2, "completed"),
        ("reasoning", 1, "completed"),
        ("reasoning", 0, "completed"),
        ("message", 1, "incomplete"),
    ]
    assert last[2]["encrypted_content"] == "sidecar:messages:redacted:data"


@pytest.mark.parametrize(("part", "status"), [(Text(text=""), "incomplete"), (Refusal(text=""), "completed")])
def test_a_refusal_without_a_part_of_its_own_cuts_its_message(part: Text | Refusal, status: str) -> None:
    """The item says the same as the answer: incomplete where a filter spoke, completed where the model did."""
    events = [Open(choice=0, index=0, part=part), Delta(choice=0, index=0, text="No."), Close(choice=0, index=0)]
    said = say(*events, Stopped(choice=0, stop="refusal"), Done(), source="messages")
    check(said)
    last = told(said, f"response.{status}")[0]["response"]
    assert [last["status"], *(item["status"] for item in last["output"])] == [status, status]


def test_what_a_stream_cannot_say_is_told_once() -> None:
    report = Report()
    logprobs = [TokenLogprob(token="x", logprob=-1.0)]
    said = say(
        Open(choice=0, index=0, part=Media(kind="image", data="AA")),
        Delta(choice=0, index=0, text="of it"),
        Close(choice=0, index=0),
        Open(choice=1, index=0, part=Text(text="")),
        Delta(choice=1, index=0, text="x"),
        Open(choice=0, index=1, part=Opaque(value={"type": "server_tool_use"})),
        Mark(choice=0, index=1, extra={"delta": 1}),
        Open(choice=0, index=2, part=ToolCall(id="c", name="f", extra={"x": 1})),
        Delta(choice=0, index=2, text="{}", logprobs=logprobs),
        Delta(choice=0, index=2, text=" ", logprobs=logprobs),
        Mark(choice=0, index=2, signature="s"),
        Close(choice=0, index=2),
        Ping(),
        Ping(extra={"x_chunk": 1}),
        Ping(extra={"x_chunk": 2}),
        Stopped(choice=0, stop="pause", extra={"y": 1}),
        Stopped(choice=1, stop="stop"),
        Told(usage=Usage(input_tokens=3)),
        Told(usage=Usage(output_tokens=4)),
        Done(),
        report=report,
    )
    check(said)
    assert report.lost == [
        "choices[0].content[0]",
        "choices[1]",
        "choices[0].content[1]",
        "choices[0].content[1].delta",
        "choices[0].content[2].x",
        "choices[0].call.logprobs",
        "x_chunk",
        "choices[0].y",
    ]
    assert report.mapped == ["choices[0].content[2].signature", "choices[0].stop"]
    usage = told(said, "response.completed")[0]["response"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (3, 4, 7)


def test_an_error_ends_the_answer_with_what_was_said() -> None:
    said = say(
        Open(choice=0, index=0, part=Text(text="")),
        Delta(choice=0, index=0, text="Hal"),
        Failed(problem=problem_of(503, "busy")),
    )
    check(said)
    assert json.loads(said[-2].data)["code"] == "overloaded_error"
    last = json.loads(said[-1].data)["response"]
    assert (last["status"], last["error"]["message"]) == ("failed", "busy")
    assert last["output"][0]["content"][0]["text"] == "Hal"
    assert SPOKE.stream_writer is not None
    early = SPOKE.stream_writer(ASKED, Report()).feed(Failed(problem=problem_of(500)))
    check(SseParser().feed(early))


def test_a_stream_without_a_stop_is_completed_and_a_provider_that_failed_says_so() -> None:
    said = say(Open(choice=0, index=0, part=Text(text="")), Done())
    check(said)
    assert told(said, "response.completed")[0]["response"]["output"][0]["status"] == "completed"
    said = say(
        Open(choice=0, index=0, part=Opaque(value={"id": "x", "type": "x"})),
        Stopped(choice=0, stop="error"),
        Done(),
        source="responses",
    )
    check(said)
    assert json.loads(said[-1].data)["response"]["error"]["code"] == "server_error"


def test_a_lone_surrogate_is_replaced() -> None:
    said = say(Open(choice=0, index=0, part=Text(text="")), Delta(choice=0, index=0, text="a\ud800"))
    assert told(said, "response.output_text.delta")[0]["delta"] == "a\ufffd"


def test_marks_of_its_own_format_are_said_where_they_belong() -> None:
    said = say(
        Open(choice=0, index=0, part=Media(kind="video")),
        Mark(choice=0, index=0, extra={"x": 1}),
        Open(choice=0, index=1, part=ToolCall(id="c", name="f")),
        Mark(choice=0, index=1, extra={"event": {"y": 2}, "namespace": "n"}),
        Close(choice=0, index=1),
        Stopped(choice=0, stop="tool_calls"),
        Done(),
        source="responses",
    )
    check(said)
    assert told(said, "response.function_call_arguments.delta")[0]["y"] == 2
    assert told(said, "response.completed")[0]["response"]["output"][0]["namespace"] == "n"


def test_an_event_that_no_reader_gives_has_nothing_to_say() -> None:
    assert SPOKE.stream_writer is not None
    assert SPOKE.stream_writer(ASKED, Report()).feed(Event()) == b""
