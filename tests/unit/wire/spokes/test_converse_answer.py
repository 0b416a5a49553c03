"""Converse's whole answers and its errors, also those inside streams: what they say, and that a wrong one is refused."""

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.types import Usage
from sidecar.errors import TranslationError
from sidecar.wire.eventstream import EventStreamParser
from sidecar.wire.neutral import (
    Choice,
    Event,
    Failed,
    Media,
    Opaque,
    Problem,
    Response,
    Start,
    Stopped,
    Text,
    Thinking,
    Told,
    ToolCall,
)
from sidecar.wire.spokes.converse.spoke import SPOKE
from sidecar.wire.sse import SseEvent
from tests.fixtures import said_converse as said

Json = dict[str, Any]
START = SseEvent(b"messageStart", b'{"role":"assistant","p":"abc"}')


def answer(*content: Json, **members: Any) -> Response:
    return SPOKE.read_response({"output": {"message": {"role": "assistant", "content": list(content)}}, **members})


def event(kind: str, **body: Any) -> SseEvent:
    return SseEvent(kind.encode(), orjson.dumps(body))


def delta(number: int, **of: Any) -> SseEvent:
    return event("contentBlockDelta", contentBlockIndex=number, delta=of)


def heard(*events: SseEvent) -> list[Event]:
    """What a stream says after its start."""
    reader = SPOKE.stream_reader()
    assert list(reader.feed(START)) == [Start(id="", model="", format="converse")]
    return [one for event in events for one in reader.feed(event)]


# ---- whole answers


def test_an_answer() -> None:
    read = answer(
        {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
        {"reasoningContent": {"redactedContent": "QQ=="}},
        {"text": "I look"},
        {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"a": [1, "é"]}}},
        {"toolUse": {"toolUseId": "t2", "name": "g"}},
        {"citationsContent": {"content": [{"text": "a"}, {}, {"text": "b"}], "citations": [{"title": "t"}]}},
        {"citationsContent": {}},
        {"image": {"format": "jpeg", "source": {"bytes": "QQ=="}}},
        stopReason="tool_use",
        usage={"inputTokens": 5, "outputTokens": 7, "totalTokens": 12},
        metrics={"latencyMs": 3},
        performanceConfig={"latency": "optimized"},
        serviceTier={"type": "flex"},
        trace={"guardrail": {}},
    )
    assert read == Response(
        format="converse",
        id="",
        model="",
        choices=[
            Choice(
                index=0,
                parts=[
                    Thinking(text="hm", signature="s"),
                    Thinking(redacted="QQ=="),
                    Text(text="I look"),
                    ToolCall(id="t1", name="f", arguments='{"a":[1,"é"]}'),
                    ToolCall(id="t2", name="g"),
                    Text(text="ab", extra={"citations": [{"title": "t"}]}),
                    Text(text=""),
                    Media(kind="image", media_type="image/jpeg", data="QQ=="),
                ],
                stop="tool_calls",
            )
        ],
        usage=Usage(input_tokens=5, output_tokens=7, service_tier="flex"),
        usage_said={"inputTokens": 5, "outputTokens": 7, "totalTokens": 12},
        service_tier="flex",
        extra={"trace": {"guardrail": {}}},
        frame={"metrics": {"latencyMs": 3}, "performanceConfig": {"latency": "optimized"}},
    )


@pytest.mark.parametrize(
    "block",
    [
        {"toolUse": {"type": "server_tool_use", "toolUseId": "t", "name": "web", "input": {}}},
        {"toolResult": {"toolUseId": "t", "content": []}},
        {"reasoningContent": {"x": 1}},
        {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://b/k"}}}},
        {"image": {"format": "png"}},
        {"guardContent": {}},
        {},
    ],
)
def test_a_block_without_a_neutral_form_stays_whole(block: Json) -> None:
    assert answer(block).choices[0].parts == [Opaque(value=block)]


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("end_turn", "stop"),
        ("tool_use", "tool_calls"),
        ("max_tokens", "length"),
        ("stop_sequence", "stop_sequence"),
        ("guardrail_intervened", "content_filter"),
        ("content_filtered", "content_filter"),
        ("malformed_model_output", "error"),
        ("malformed_tool_use", "error"),
        ("model_context_window_exceeded", "context"),
    ],
)
def test_stop_reasons(reason: str, stop: str) -> None:
    choice = answer(stopReason=reason).choices[0]
    assert (choice.stop, choice.extra) == (stop, {})
    assert [one.stop for one in heard(event("messageStop", stopReason=reason)) if isinstance(one, Stopped)] == [stop]


def test_an_unknown_reason_is_kept_and_a_missing_one_is_none() -> None:
    unknown = answer(stopReason="later", additionalModelResponseFields={"stop_sequence": None, "x": 1}).choices[0]
    assert (unknown.stop, unknown.stop_sequence) == ("stop", None)
    assert unknown.extra == {"stopReason": "later", "additionalModelResponseFields": {"x": 1}}
    missing = answer()
    assert (missing.choices[0].stop, missing.usage, missing.usage_said, missing.frame) == (None, None, None, None)


def test_the_stop_sequence_is_a_member_of_the_model() -> None:
    choice = answer(stopReason="stop_sequence", additionalModelResponseFields={"stop_sequence": "END"}).choices[0]
    assert (choice.stop_sequence, choice.extra) == ("END", {})


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        (
            {"inputTokens": 4, "outputTokens": 2, "cacheReadInputTokens": 10, "cacheWriteInputTokens": 100},
            Usage(input_tokens=114, output_tokens=2, cached_input_tokens=10, cache_write_tokens=100),
        ),
        (
            {
                "inputTokens": 4,
                "outputTokens": 2,
                "cacheWriteInputTokens": 9,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 6}, {"ttl": "5m", "inputTokens": 3}],
            },
            Usage(input_tokens=13, output_tokens=2, cache_write_tokens=9, cache_write_1h_tokens=6),
        ),
        (
            {"inputTokens": 1, "cacheDetails": [{"ttl": "5m", "inputTokens": 3}, 1, {"ttl": 2, "inputTokens": 1}]},
            Usage(input_tokens=4, cache_write_tokens=3, cache_write_1h_tokens=0),
        ),
        ({"inputTokens": 0, "outputTokens": 0, "cacheDetails": {}}, Usage(input_tokens=0, output_tokens=0)),
        ({"inputTokens": True, "outputTokens": -1, "cacheReadInputTokens": 1 << 60}, Usage()),
        ({"inputTokens": None, "outputTokens": 1.5, "cacheReadInputTokens": 3}, Usage(cached_input_tokens=3)),
    ],
)
def test_counts_are_inclusive(counts: Json, usage: Usage) -> None:
    assert answer(usage=counts).usage == usage
    told = heard(event("metadata", usage=counts))
    assert told == [Told(usage=usage, said=counts)]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ([], "the body"),
        ({}, "output.message"),
        ({"output": {}}, "output.message"),
        ({"output": {"message": {"content": [1]}}}, "output.message.content[0]"),
        ({"output": {"message": {"content": [{"text": 1}]}}}, "output.message.content[0].text"),
        ({"output": {"message": {"content": [{"toolUse": {"name": "f"}}]}}}, "content[0].toolUse.toolUseId"),
        ({"output": {"message": {}}, "usage": 1}, "usage"),
        ({"choices": []}, "output.message"),
    ],
)
def test_what_is_no_answer_is_refused_with_a_path(body: Any, where: str) -> None:
    with pytest.raises(TranslationError, match="expected") as caught:
        SPOKE.read_response(body)
    assert where in str(caught.value)


def test_an_input_that_is_nested_too_deeply_is_refused() -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"a": deep}
    with pytest.raises(TranslationError, match=r"content\[0\]\.toolUse\.input: expected"):
        answer({"toolUse": {"toolUseId": "t", "name": "f", "input": deep}})


# ---- errors


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (400, b'{"message":"no"}', Problem(status=400, kind="invalid", message="no")),
        (403, b'{"Message":"no key"}', Problem(status=403, kind="permission", message="no key")),
        (
            429,
            b'{"__type":"com.amazon#ThrottlingException","message":"slow"}',
            Problem(status=429, kind="rate_limit", message="slow", code="ThrottlingException"),
        ),
        (424, b'{"message":"x","originalStatusCode":400}', Problem(status=400, kind="invalid", message="x")),
        (424, b'{"message":"x"}', Problem(status=500, kind="server", message="x")),
        (424, b'{"message":"x","originalStatusCode":7}', Problem(status=500, kind="server", message="x")),
        (408, b"{}", Problem(status=408, kind="timeout", message="the provider answered with status 408")),
        (503, b"<html>", Problem(status=503, kind="overloaded", message="the provider answered with status 503")),
        (500, b"[1]", Problem(status=500, kind="server", message="the provider answered with status 500")),
        (500, b'{"message":{}}', Problem(status=500, kind="server", message="the provider answered with status 500")),
    ],
)
def test_errors(status: int, body: bytes, problem: Problem) -> None:
    assert SPOKE.read_problem(status, body) == problem


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("throttlingException", 429, "rate_limit"),
        ("ThrottlingException", 429, "rate_limit"),
        ("validationException", 400, "invalid"),
        ("serviceUnavailableException", 503, "overloaded"),
        ("internalServerException", 500, "server"),
        ("modelStreamErrorException", 500, "server"),
        ("modelTimeoutException", 408, "timeout"),
        ("later", 500, "server"),
    ],
)
def test_an_error_ends_a_stream(name: str, status: int, kind: Any) -> None:
    parser = EventStreamParser(1 << 20)
    (one,) = parser.feed(said.exception(name, {"message": "m"}))
    failed = Failed(problem=Problem(status=status, kind=kind, message="m", code=name))
    assert heard(one, event("messageStop", stopReason="end_turn"), one) == [failed]


def test_an_error_may_come_first() -> None:
    one = SseEvent(b"!\xff", b"")
    (failed,) = SPOKE.stream_reader().feed(one)
    assert isinstance(failed, Failed)
    assert (failed.problem.status, failed.problem.code) == (500, "error")


def spoilt(value: Any, draw: st.DataObject) -> Any:
    """The value with one thing in it replaced."""
    if isinstance(value, dict) and value and draw.draw(st.integers(0, 5)):
        name = draw.draw(st.sampled_from(sorted(value)))
        return {**value, name: spoilt(value[name], draw)}
    if isinstance(value, list) and value and draw.draw(st.integers(0, 5)):
        at = draw.draw(st.integers(0, len(value) - 1))
        return [*value[:at], spoilt(value[at], draw), *value[at + 1 :]]
    return draw.draw(st.sampled_from([None, True, 0, -1, 1e300, 2**63 - 1, "", "x", [], {}, [{}], [[]], {"text": "t"}]))


@settings(max_examples=60)
@given(said.responses(), st.data())
def test_a_wrong_answer_is_read_or_refused(body: Json, data: st.DataObject) -> None:
    with suppress(TranslationError):
        assert SPOKE.read_response(spoilt(body, data)).format == "converse"
