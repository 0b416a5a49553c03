"""OpenAI Responses as a whole: what it can say comes back, however its bytes were cut and whatever a server does."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from sidecar.core.types import Usage
from sidecar.errors import TranslationError
from sidecar.wire.neutral import (
    Choice,
    Close,
    Delta,
    Done,
    Event,
    Failed,
    Mark,
    Open,
    Ping,
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
    ToolCall,
)
from sidecar.wire.spokes.responses.spoke import SPOKE
from sidecar.wire.sse import SseParser
from tests.fixtures.grammar_responses import check
from tests.fixtures.said_responses import canonical_request, canonical_response, requests, responses, streams
from tests.unit.wire import recordings

read_request, read_response = SPOKE.read_request, SPOKE.read_response
write_request, write_response, stream_writer = SPOKE.write_request, SPOKE.write_response, SPOKE.stream_writer
assert read_request is not None
assert write_response is not None
assert stream_writer is not None
ASKED = Request(format="responses", model="m", messages=[], stream=True)
usual = settings(max_examples=25, suppress_health_check=list(HealthCheck))


def read_stream(data: bytes, size: int = 1 << 30) -> list[Event]:
    parser, reader, events = SseParser(), SPOKE.stream_reader(), []
    for at in range(0, len(data), size):
        for event in parser.feed(data[at : at + size]):
            events += reader.feed(event)
    return events


def say_stream(events: Sequence[Event], report: Report | None = None, asked: Request = ASKED) -> bytes:
    assert stream_writer is not None
    writer = stream_writer(asked, report or Report())
    return b"".join(writer.feed(event) for event in events)


def settled(events: Sequence[Event]) -> list[Event]:
    """Without signs of life, which are comments when they are written, and the usage of what failed: it comes too late."""
    failed = bool(events) and isinstance(events[-1], Failed)
    return [event for event in events if event != Ping() and not (failed and isinstance(event, Told))]


@usual
@given(requests())
def test_a_request_loses_nothing_in_its_own_format(body: dict[str, Any]) -> None:
    report = Report()
    said = write_request(read_request(json.loads(json.dumps(body))), report)
    assert canonical_request(said) == canonical_request(body)
    assert (report.lost, report.mapped) == ([], [])
    assert orjson.dumps(write_request(read_request(said), Report())) == orjson.dumps(said), "equal input, equal bytes"


@usual
@given(responses())
def test_an_answer_loses_nothing_in_its_own_format(body: dict[str, Any]) -> None:
    report = Report()
    said = write_response(read_response(json.loads(json.dumps(body))), ASKED, report)
    assert canonical_response(said) == canonical_response(body)
    assert (report.lost, report.mapped) == ([], [])


@usual
@given(streams(), st.data())
def test_a_stream_is_the_same_when_read_again_and_however_it_is_cut(events: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(events)
    check(SseParser().feed(whole))
    told = read_stream(whole)
    assert isinstance(told[0], Start)
    report = Report()
    said = say_stream(told, report)
    check(SseParser().feed(said))
    assert (report.lost, report.mapped) == ([], [])
    assert settled(read_stream(said)) == settled(told)
    assert read_stream(whole, data.draw(st.integers(1, 40))) == told


def _changed(value: Any, draw: Any, depth: int = 0) -> Any:
    """The same JSON with one node of another kind."""
    if isinstance(value, dict | list) and value and (depth == 0 or draw(st.integers(0, 4))):
        key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else list(range(len(value)))))
        copy: Any = value.copy()
        copy[key] = _changed(value[key], draw, depth + 1)
        return copy
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    strange = [None, True, 0, -1, 1e300, 2**63, "", "\udc80", "x", [], {}, [None], {"type": 1}, {"type": "text"}, deep]
    return draw(st.sampled_from(strange))


@usual
@given(requests(), st.data())
def test_a_broken_request_gives_only_a_translation_error(body: dict[str, Any], data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        body = _changed(body, data.draw)
    try:
        request = read_request(body)
    except TranslationError:
        return
    write_request(request, Report())
    write_response(read_response({"output": []}), request, Report())
    request.format = "messages"
    write_request(request, Report())


@usual
@given(responses(), st.data())
def test_a_broken_answer_gives_only_a_translation_error(body: dict[str, Any], data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        body = _changed(body, data.draw)
    try:
        answer = read_response(body)
    except TranslationError:
        return
    write_response(answer, ASKED, Report())
    answer.format = "messages"
    write_response(answer, ASKED, Report())


@usual
@given(streams(), st.data())
def test_a_broken_stream_is_read_without_an_exception(events: list[bytes], data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(events) - 1))
        head, _, payload = events[at].rpartition(b"data: ")
        value = json.loads(payload) if payload.strip().startswith(b"{") and payload.strip().endswith(b"}") else 1
        changed = data.draw(st.one_of(st.just(payload[:-5]), st.just(json.dumps(_changed(value, data.draw)).encode())))
        events[at] = head + b"data: " + changed + b"\n\n"
        if data.draw(st.booleans()):
            del events[at]
    told = read_stream(b"".join(events))
    say_stream([*told, *told[:1]])
    other = [replace(event, format="chat") if isinstance(event, Start) else event for event in told]
    said = say_stream(other)
    if other and isinstance(other[0], Start) and isinstance(other[-1], Done | Failed):
        check(SseParser().feed(said))


# ---- what real servers and clients said


def _recorded(shared: Path) -> list[recordings.Recording]:
    found = [recordings.load(shared, name) for name in recordings.names(shared)]
    return [one for one in found if one.endpoint == "responses"]


def test_every_recorded_stream_is_read_and_said_again(shared: Path) -> None:
    streamed = [one for one in _recorded(shared) if one.stream]
    assert {one.name for one in streamed} >= {
        "gemma3_responses_stream",
        "responses_tools_stream",
        "smollm2_responses_stream",
    }
    for one in streamed:
        told = read_stream(one.body)
        report = Report()
        said = say_stream(told, report)
        check(SseParser().feed(said))
        assert [_nameless(event) for event in read_stream(said)] == [_nameless(event) for event in told], one.name
        assert report.lost == report.mapped == [], one.name
        last = orjson.loads(said.rstrip().rpartition(b"data: ")[2])
        assert last["response"]["output"] == _last_of(one.body)["response"]["output"]
        assert last["timings"] == _last_of(one.body)["timings"], "what llama.cpp says beside the answer"
        assert last["response"]["model"] == _last_of(one.body)["response"]["model"]


def _last_of(body: bytes) -> Any:
    return orjson.loads(SseParser().feed(body)[-1].data)


def _nameless(event: Event) -> Event | None:
    """llama.cpp tells the model at the end, and repeats nothing of the request: what is written does both."""
    if isinstance(event, Ping):
        return None
    if isinstance(event, Start):
        return replace(event, model="", created=None, frame=None)
    return replace(event, frame=None) if isinstance(event, Stopped) else event


def test_every_recorded_answer_is_read_and_said_again(shared: Path) -> None:
    count = 0
    for one in _recorded(shared):
        if one.stream or not one.body:
            continue
        count += 1
        if one.status >= 400:
            problem = SPOKE.read_problem(one.status, one.body)
            assert problem.message == json.loads(one.body)["error"]["message"]
            assert problem.kind == "invalid"
            continue
        said = write_response(read_response(json.loads(one.body)), ASKED, Report())
        assert canonical_response(said) == canonical_response(json.loads(one.body)), one.name
    assert count >= 7


def test_every_recorded_request_is_read_and_said_again(shared: Path) -> None:
    bodies = [
        json.loads(one.request) for one in _recorded(shared) if one.request.startswith(b'{"') and one.status == 200
    ]
    raw = (shared / "fixtures" / "clients" / "langchain_openai" / "responses_api.http").read_bytes()
    bodies.append(json.loads(raw.partition(b"\r\n\r\n")[2]))
    assert len(bodies) >= 6
    for body in bodies:
        report = Report()
        said = write_request(read_request(json.loads(json.dumps(body))), report)
        for tool in body.get("tools", []):
            tool.setdefault("strict", None)
        assert canonical_request(said) == canonical_request(body)
        assert report.lost == report.mapped == []


# ---- the official SDK is the judge


def _client(body: bytes, kind: str) -> openai.OpenAI:
    """The official client, whose server answers this."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body, headers={"content-type": kind})

    transport = httpx.Client(transport=httpx.MockTransport(answer))
    return openai.OpenAI(api_key="x", base_url="http://sidecar.invalid/v1", http_client=transport, max_retries=0)


@settings(usual, max_examples=8)
@given(streams())
def test_the_official_client_gathers_what_was_said(events: list[bytes]) -> None:
    said = say_stream(read_stream(b"".join(events)))
    last = _last_of(said)
    seen = [
        event.type for event in _client(said, "text/event-stream").responses.create(model="m", input="x", stream=True)
    ]
    assert seen[-1] == last["type"]
    if last["type"] != "response.completed":
        return
    with _client(said, "text/event-stream").responses.stream(model="m", input="x") as stream:
        final = stream.get_final_response()
    assert [item.id for item in final.output] == [item["id"] for item in last["response"]["output"]]
    texts = [part.get("text", "") for item in last["response"]["output"] for part in item.get("content") or ()]
    kinds = [part["type"] for item in last["response"]["output"] for part in item.get("content") or ()]
    assert final.output_text == "".join(text for text, kind in zip(texts, kinds, strict=True) if kind == "output_text")


OTHERS = [
    Start(id="chatcmpl:1", model="gpt-y", created=7, format="chat", usage=Usage(input_tokens=9)),
    Open(choice=0, index=0, part=Thinking()),
    Delta(choice=0, index=0, text="hm"),
    Mark(choice=0, index=0, signature="sig", origin="messages"),
    Close(choice=0, index=0),
    Open(choice=0, index=1, part=Text(text="")),
    Delta(choice=0, index=1, text="He", logprobs=[TokenLogprob(token="He", logprob=-0.5)]),
    Delta(choice=0, index=1, text="y"),
    Close(choice=0, index=1),
    Open(choice=0, index=2, part=Refusal(text="")),
    Delta(choice=0, index=2, text="No."),
    Close(choice=0, index=2),
    Open(choice=0, index=3, part=ToolCall(id="c1", name="f")),
    Open(choice=0, index=4, part=ToolCall(id="c2", name="g", custom=True)),
    Delta(choice=0, index=4, text="free"),
    Delta(choice=0, index=3, text='{"a":'),
    Delta(choice=0, index=3, text="1}"),
    Close(choice=0, index=3),
    Close(choice=0, index=4),
    Stopped(choice=0, stop="tool_calls"),
    Told(usage=Usage(output_tokens=5, reasoning_tokens=2)),
    Done(),
]


def test_a_stream_of_another_format_is_what_the_official_types_want() -> None:
    """Each event is of the SDK's type for it, with every member that the type needs."""
    asked = read_request(
        {
            "model": "gpt-x",
            "instructions": "Be brief.",
            "input": "x",
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}],
            "tool_choice": {"type": "function", "name": "f"},
            "parallel_tool_calls": False,
            "temperature": 0.5,
            "text": {"format": {"type": "json_object"}},
            "metadata": {"a": "b"},
        }
    )
    report = Report()
    said = say_stream(OTHERS, report, asked)
    events = SseParser().feed(said)
    check(events)
    assert (report.lost, report.mapped) == ([], [])
    for event in events:
        TypeAdapter(ResponseStreamEvent).validate_json(event.data)
    with _client(said, "text/event-stream").responses.stream(model="m", input="x") as stream:
        final = stream.get_final_response()
    assert final.output_text == "Hey"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "custom_tool_call"]
    assert final.output[0].encrypted_content == "sidecar:messages:sig"
    assert final.output[2].arguments == '{"a":1}'
    assert final.output[3].input == "free"
    assert final.usage is not None
    assert (final.usage.input_tokens, final.usage.output_tokens, final.usage.total_tokens) == (9, 5, 14)
    assert (final.instructions, final.temperature, final.metadata) == ("Be brief.", 0.5, {"a": "b"})
    assert (final.parallel_tool_calls, final.tool_choice.name, final.tools[0].name) == (False, "f", "f")


def test_a_whole_answer_of_another_format_is_what_the_official_types_want() -> None:
    parts = [
        Thinking(text="hm", signature="sig"),
        Text(text="Hey"),
        Refusal(text="No."),
        ToolCall(id="c1", name="f", arguments="{}"),
        ToolCall(id="c2", name="g", arguments="free", custom=True),
    ]
    logprobs = [TokenLogprob(token="Hey", logprob=-0.5, top=[TokenLogprob(token="Ho", logprob=-2.0)])]
    choice = Choice(index=0, parts=parts, stop="tool_calls", logprobs=logprobs)
    usage = Usage(input_tokens=9, output_tokens=5, cached_input_tokens=4)
    answer = Response(format="messages", id="msg_01", model="claude", choices=[choice], usage=usage)
    report = Report()
    said = write_response(answer, ASKED, report)
    assert (report.lost, report.mapped) == ([], [])
    TypeAdapter(openai.types.responses.Response).validate_python(said)
    final = _client(orjson.dumps(said), "application/json").responses.create(model="m", input="x")
    assert (final.output_text, final.status, final.created_at) == ("Hey", "completed", 0)
    again = read_response(said)
    assert [type(part) for part in again.choices[0].parts] == [type(part) for part in parts]
    thought = again.choices[0].parts[0]
    assert isinstance(thought, Thinking)
    assert (thought.signature, thought.origin) == ("sig", "messages"), "whose it is comes back with it"
    assert again.choices[0].logprobs is not None
    assert again.choices[0].logprobs[0].top[0].token == "Ho"
