"""What is measured of a response: clocks, tokens, usage, ends. Golden values come from recorded servers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.types import Usage
from sidecar.wire import openai
from sidecar.wire.meter import Gaps, caller_fault, make_meter
from sidecar.wire.reading import Reading
from tests.unit.wire.recordings import Recording, load, names

CAP = 8 * 1024 * 1024


def event(body: Any, name: str = "") -> bytes:
    text = body if isinstance(body, str) else json.dumps(body)
    return (f"event: {name}\n" if name else "").encode() + b"data: " + text.encode() + b"\n\n"


def stream(*events: bytes, endpoint: Any = "chat", dialect: Any = "openai") -> Reading:
    """The reading of a stream whose n-th read (from 0) arrives at second n + 1."""
    meter = make_meter(endpoint, dialect, event_stream=True, max_bytes=CAP)
    for number, read in enumerate(events):
        meter.feed(read, number + 1.0)
    return meter.finish()


def whole(body: Any, endpoint: Any = "chat", dialect: Any = "openai") -> Reading:
    meter = make_meter(endpoint, dialect, event_stream=False, max_bytes=CAP)
    meter.feed(body if isinstance(body, bytes) else json.dumps(body).encode(), 1.0)
    return meter.finish()


def delta(finish: str | None = None, /, **members: Any) -> bytes:
    return event({"id": "c1", "model": "m", "choices": [{"index": 0, "delta": members, "finish_reason": finish}]})


DONE = event("[DONE]")


def play(recording: Recording, size: int) -> Reading:
    meter = make_meter(recording.endpoint, recording.dialect, event_stream=recording.stream, max_bytes=CAP)  # type: ignore[arg-type]
    for at in range(0, len(recording.body), size):
        meter.feed(recording.body[at : at + size], 1.0 + at / 1000)
    return meter.finish()


GOLDEN = {  # name: input, output, cached, finish, token events
    "smollm2_chat": (37, 32, 0, "length", 0),
    "smollm2_chat_stream": (None, None, None, "length", 32),
    "smollm2_chat_stream_usage": (37, 8, 0, "stop", 7),
    "chat_cached": (37, 12, 36, "length", 0),
    "chat_n2_stream": (34, 8, 0, "length", 16),
    "chat_tools_auto_stream": (182, 32, 0, "tool_calls", 9),
    "chat_tools_required": (182, 31, 0, "tool_calls", 0),
    "chat_progress_stream": (793, 8, 0, "length", 8),
    "chat_sse_ping_stream": (1173, 8, 0, "length", 8),
    "chat_context_full_stream": (36, 220, 0, "length", 220),
    "smollm2_completions": (5, 12, 0, "length", 0),
    "smollm2_completions_stream": (5, 12, 0, "length", 12),
    "smollm2_messages": (25, 32, 4, "max_tokens", 0),
    "smollm2_messages_stream": (37, 8, 4, "end_turn", 7),
    "messages_tools": (182, 31, 181, "tool_use", 0),
    "messages_tools_stream": (182, 31, 181, "tool_use", 8),
    "messages_sse_ping_stream": (873, 8, 0, "max_tokens", 8),
    "smollm2_responses": (37, 32, 0, "completed", 0),
    "smollm2_responses_stream": (37, 32, 0, "completed", 32),
    "responses_tools_stream": (182, 31, 0, "completed", 8),
    "embeddings": (2, 0, None, None, 0),
    "embeddings_base64": (1, 0, None, None, 0),
}


def test_golden_recordings(shared: Path) -> None:
    """GW-01, GW-03: usage, finish and tokens of every endpoint, streamed and whole, however the reads are cut."""
    for name, (into, out, cached, finish, tokens) in GOLDEN.items():
        recording = load(shared, name)
        for size in (17, 4096, len(recording.body)):
            reading = play(recording, size)
            usage = reading.usage or Usage()
            assert (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens) == (into, out, cached), name
            assert (reading.finish, reading.token_events) == (finish, tokens), name
            assert reading.terminal, name
            assert reading.error is None, name
            assert reading.empty is (None if recording.endpoint == "embeddings" else False), name


def test_every_recording_is_read_without_fault(shared: Path) -> None:
    """No recorded answer, also none of the broken ones, disturbs a meter; cut streams are not terminal."""
    for name in names(shared):
        recording = load(shared, name)
        reading = play(recording, 100)
        assert reading == play(recording, 100)
        if recording.status >= 400 and recording.endpoint != "other":
            assert reading.error, name
        if name in ("chat_stream_server_killed", "chat_stream_server_stopped", "chat_stream_stalled"):
            assert not reading.terminal
            assert reading.empty is None
            assert reading.output_bytes > 100


def test_first_token_is_the_first_generated_one() -> None:
    """GW-08: comments, role-only, empty and null chunks are events, but no tokens; reasoning is no answer."""
    reading = stream(
        b": ping\n\n",
        delta(role="assistant", content=None),
        delta(role="assistant", content=""),
        delta(reasoning_content="hm"),
        delta(reasoning="hm"),
        delta(content="é"),
        delta("stop"),
        DONE,
    )
    assert (reading.ttfe_s, reading.ttft_s, reading.ttfa_s, reading.last_token_s) == (2.0, 4.0, 6.0, 6.0)
    assert (reading.token_events, reading.output_bytes, reading.events) == (3, 6, 7)
    assert (reading.completion_id, reading.model, reading.finish) == ("c1", "m", "stop")
    assert reading.terminal
    assert reading.empty is False


@pytest.mark.parametrize(
    "members",
    [
        {"content": "x"},
        {"refusal": "no"},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
        {"tool_calls": [{"index": 0, "custom": {"input": "x"}}]},
        {"function_call": {"arguments": "{"}},
        {"audio": {"data": "UklG"}},
        {"audio": {"transcript": "hi"}},
        {"content": "", "images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        {"content": "x", "tool_calls": []},
    ],
)
def test_each_kind_of_answer_token(members: dict[str, Any]) -> None:
    """GW-08: text, refusal, tool arguments and audio are answer tokens."""
    reading = stream(delta(role="assistant"), delta(**members))
    assert reading.ttft_s == reading.ttfa_s == 2.0 or "audio" in members
    assert reading.ttfa_s == 2.0
    assert reading.refused is ("refusal" in members)


def test_a_call_without_arguments_is_not_empty() -> None:
    call = {"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}
    assert stream(delta(tool_calls=[call]), delta("tool_calls"), DONE).empty is False
    assert stream(delta(tool_calls=[call])).ttft_s is None
    assert stream(delta(role="assistant"), delta("stop")).empty is True
    assert whole({"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}).empty is True
    assert whole({"choices": [{"message": {"tool_calls": [call]}}]}).empty is False


def test_usage_on_any_chunk_and_the_last_wins() -> None:
    """GW-03, GW-06: usage first, on every chunk, beside choices: the last counts, and nothing ends there."""
    first = event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}})
    mixed = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "service_tier": "flex"}
    last = mixed | {
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
    }
    reading = stream(first, delta(content="a"), event(last), delta(content="b"))
    assert reading.usage == Usage(input_tokens=9, output_tokens=4, cached_input_tokens=3, service_tier="flex")
    assert reading.token_events == 3


def test_zero_usage_with_output_is_unknown() -> None:
    """GW-04: all zeros beside generated text is a server that does not count; an empty answer may have none, a call has
    an input."""
    zero = event({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}})
    assert stream(delta(content="a"), zero, DONE).usage is None
    assert stream(delta("stop"), zero, DONE).usage == Usage(output_tokens=0)


def test_details_and_stated_cost() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 10, "audio_tokens": 5, "cache_write_tokens": 7},
        "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 2},
        "cost": 0.0001234565,
    }
    body = {"id": "x", "choices": [{"message": {"content": "a"}}], "usage": usage, "service_tier": "priority"}
    assert whole(body).usage == Usage(
        input_tokens=100,
        output_tokens=50,
        cached_input_tokens=10,
        cache_write_tokens=7,
        reasoning_tokens=30,
        input_audio_tokens=5,
        output_audio_tokens=2,
        service_tier="priority",
        reported_cost_nusd=123456,
    )
    odd = whole({"usage": {"prompt_tokens": -1, "completion_tokens": 2**60, "cost": -1, "prompt_cache_hit_tokens": 4}})
    assert odd.usage == Usage(cached_input_tokens=4)


def test_wrong_types_cost_only_their_own_member() -> None:
    """A member of another type is skipped; the rest of the event still counts."""
    chunk = {
        "id": 7,
        "choices": [{"delta": {"content": [{"text": "x"}], "refusal": "r"}}, None],
        "usage": {"prompt_tokens": "9", "completion_tokens": 3},
    }
    reading = stream(event(chunk))
    assert reading.usage == Usage(output_tokens=3)
    assert reading.refused
    assert stream(event("[1]"), event("{nope"), event('{"id":"\\ud800"}'), delta(content="a")).token_events == 1
    assert stream(event({"choices": [{"finish_reason": n} for n in range(20)]}), delta(content="a")).token_events == 1
    assert stream(b'data: {"id":"\xff"}\n\n', b'data: {"model":7,"id":"\xff"}\n\n').events == 2


def test_errors_are_named_but_never_quoted() -> None:
    secret = "the prompt was: my password"
    assert (
        stream(delta(content="a"), event({"error": {"message": secret, "type": "server_error"}})).error
        == "server_error"
    )
    assert stream(event({"error": {"message": secret, "code": 500}})).error == "500"
    assert stream(event({"error": {"message": secret, "code": secret}})).error == "error"
    assert stream(event({"error": secret})).error == "error"
    assert stream(event({"message": secret}, "error")).error == "error"
    assert stream(event("overloaded", "error")).error == "error"
    assert whole({"error": {"type": "invalid_request_error", "message": secret}}).error == "invalid_request_error"
    assert whole({"error": {"type": "x"}}).empty is None


def test_gaps_lie_between_reads() -> None:
    """GW-12: float seconds; tokens of one read have no gap; one token has none either."""
    two = delta(content="a") + delta(content="b")
    reading = stream(two, delta(content="c"), delta(content="d"))
    assert reading.token_events == 4
    assert reading.gap_p50_s == pytest.approx(1.0, rel=0.02)
    assert reading.gap_p95_s == pytest.approx(1.0, rel=0.02)
    assert stream(two).gap_p50_s is None


@given(st.lists(st.floats(1e-6, 900.0), min_size=1, max_size=300), st.sampled_from([0.5, 0.95, 1.0]))
def test_gap_percentiles_are_within_two_percent(gaps: list[float], q: float) -> None:
    histogram = Gaps()
    for gap in gaps:
        histogram.add(gap)
    exact = sorted(gaps)[math.ceil(q * len(gaps)) - 1]
    assert histogram.percentile(q) == pytest.approx(exact, rel=0.02)


def test_many_gaps_give_the_same_percentiles() -> None:
    """What is put into bins on the way gives the values that the same gaps give when they are few."""
    few, many = Gaps(), Gaps()
    for number in range(200):
        few.add(0.01 + number / 1000)
    for number in range(200):
        for _ in range(3):
            many.add(0.01 + number / 1000)
    assert [many.percentile(q) for q in (0.5, 0.95, 1.0)] == [few.percentile(q) for q in (0.5, 0.95, 1.0)]


def test_gap_floor() -> None:
    histogram = Gaps()
    histogram.add(0.0)
    histogram.add(-1.0)
    assert histogram.percentile(0.5) == pytest.approx(1e-6, rel=0.02)


def test_a_body_over_the_limit_is_unknown() -> None:
    meter = make_meter("chat", "openai", event_stream=False, max_bytes=20)
    for _ in range(3):
        meter.feed(b'{"usage":{}}', 1.0)
    assert meter.finish() == Reading()
    assert whole(b"not json") == Reading()
    pieces = make_meter("chat", "openai", event_stream=False, max_bytes=50)
    pieces.feed(b'{"id":', 1.0)
    pieces.feed(b'"x"}', 1.0)
    assert pieces.finish().completion_id == "x"


def test_an_event_over_the_limit_leaves_emptiness_unknown() -> None:
    meter = make_meter("chat", "openai", event_stream=True, max_bytes=200)
    meter.feed(event({"choices": [{"delta": {"content": "x" * 500}}]}), 1.0)
    meter.feed(delta("stop"), 2.0)
    reading = meter.finish()
    assert (reading.terminal, reading.empty) == (True, None)


def test_other_endpoints_are_metered_where_usage_is_recognisable() -> None:
    """GW-34: images, audio and the like: usage in either spelling; counting tokens is no usage."""
    assert whole({"usage": {"input_tokens": 3, "output_tokens": 9}}, "other").usage == Usage(
        input_tokens=3, output_tokens=9
    )
    assert whole({"data": []}, "other").usage is None
    assert whole({"input_tokens": 3}, "count_tokens", "anthropic").usage is None
    audio = stream(
        event({"type": "transcript.text.delta", "delta": "hi"}),
        event({"type": "transcript.text.done", "usage": {"input_tokens": 5, "output_tokens": 1}}),
        endpoint="other",
    )
    assert audio.usage == Usage(input_tokens=5, output_tokens=1)
    assert audio.token_events == 1
    assert whole({"data": [], "usage": {"prompt_tokens": 3, "completion_tokens": 0}}, "embeddings").usage == Usage(
        input_tokens=3, output_tokens=0
    )
    assert whole({"data": []}, "embeddings").usage is None


# Responses


def responses(kind: str, **members: Any) -> bytes:
    return event({"type": kind, **members}, kind)


def test_responses_tokens() -> None:
    """GW-08: lifecycle and added events are no tokens; reasoning deltas are no answer."""
    reading = stream(
        responses("response.created", response={"id": "r", "model": "m", "status": "in_progress"}),
        responses("response.output_item.added", item={"type": "reasoning"}),
        responses("response.reasoning_summary_text.delta", delta="hm"),
        responses("response.refusal.delta", delta="no"),
        responses("response.output_text.delta", delta=""),
        responses("response.output_text.done", text="no"),
        responses(
            "response.completed",
            response={
                "id": "r",
                "status": "completed",
                "usage": {"input_tokens": 3, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 1}},
            },
        ),
        endpoint="responses",
    )
    assert (reading.ttfe_s, reading.ttft_s, reading.ttfa_s, reading.token_events) == (1.0, 3.0, 4.0, 2)
    assert reading.usage == Usage(input_tokens=3, output_tokens=2, reasoning_tokens=1)
    assert (reading.completion_id, reading.model, reading.finish) == ("r", "m", "completed")
    assert reading.refused
    assert reading.terminal


@pytest.mark.parametrize(
    ("kind", "details", "finish", "error"),
    [
        ("response.incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}, "max_output_tokens", None),
        ("response.failed", {"error": {"code": "server_error", "message": "x"}}, "failed", "server_error"),
        ("response.failed", {}, "failed", "error"),
    ],
)
def test_every_terminal_event_has_usage(kind: str, details: dict[str, Any], finish: str, error: str | None) -> None:
    """GW-05: incomplete and failed responses report usage too."""
    body = {"status": kind.split(".")[1], "usage": {"input_tokens": 3, "output_tokens": 2}, **details}
    reading = stream(responses(kind, response=body), endpoint="responses")
    assert reading.usage == Usage(input_tokens=3, output_tokens=2)
    assert (reading.finish, reading.error, reading.terminal) == (finish, error, True)


def test_responses_errors_and_oddities() -> None:
    assert (
        stream(responses("error", code="rate_limit_exceeded", message="x"), endpoint="responses").error
        == "rate_limit_exceeded"
    )
    assert stream(event({"type": "error", "error": {"type": "t"}}), endpoint="responses").error == "t"
    assert stream(event({"delta": "x"}, "response.output_text.delta"), endpoint="responses").token_events == 1
    assert stream(DONE, endpoint="responses").terminal
    assert not stream(event("{nope"), endpoint="responses").terminal
    assert whole(b"nope", "responses") == Reading()


def test_whole_responses_body() -> None:
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]},
        {"type": "function_call", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "input": "x"},
    ]
    reading = whole(
        {"id": "r", "status": "completed", "output": output, "usage": {"input_tokens": 1, "output_tokens": 1}},
        "responses",
    )
    assert (reading.output_bytes, reading.refused, reading.empty, reading.finish) == (7, True, False, "completed")
    assert whole({"status": "completed", "output": [{"type": "web_search_call"}]}, "responses").empty is False
    assert whole({"status": "completed", "output": []}, "responses").empty is True


# Anthropic


def messages(*events: dict[str, Any]) -> Reading:
    return stream(*(event(body, body["type"]) for body in events), endpoint="messages", dialect="anthropic")


START = {
    "type": "message_start",
    "message": {
        "id": "m1",
        "model": "claude",
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 20,
            "cache_read_input_tokens": 30,
            "cache_creation": {"ephemeral_5m_input_tokens": 15, "ephemeral_1h_input_tokens": 5},
            "output_tokens": 1,
            "service_tier": "standard",
        },
    },
}


def block(**members: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": members}


def test_anthropic_usage_is_inclusive_and_cumulative() -> None:
    """The last report per field, never a sum; cache inside the input; the split of cache writes kept."""
    reading = messages(
        START,
        {"type": "ping"},
        {"type": "content_block_start", "content_block": {"type": "thinking", "thinking": ""}},
        block(type="thinking_delta", thinking="hm"),
        block(type="signature_delta", signature="sig"),
        block(type="text_delta", text="hi"),
        block(type="input_json_delta", partial_json=""),
        block(type="citations_delta", citation={"cited_text": "x"}),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {
            "type": "message_delta",
            "usage": {"input_tokens": 0, "output_tokens": 12, "output_tokens_details": {"thinking_tokens": 4}},
        },
        {"type": "message_stop"},
    )
    assert reading.usage == Usage(
        input_tokens=60,
        output_tokens=12,
        cached_input_tokens=30,
        cache_write_tokens=20,
        cache_write_1h_tokens=5,
        reasoning_tokens=4,
        service_tier="standard",
    )
    assert (reading.ttfe_s, reading.ttft_s, reading.ttfa_s, reading.token_events) == (1.0, 4.0, 6.0, 3)
    assert (reading.completion_id, reading.model, reading.finish, reading.terminal) == (
        "m1",
        "claude",
        "end_turn",
        True,
    )


def test_anthropic_cut_stream_knows_its_input_only() -> None:
    """The output count of message_start is a beginning, not a total."""
    reading = messages(START, block(type="text_delta", text="hi"))
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (60, None)
    assert not reading.terminal


def test_anthropic_oddities() -> None:
    assert (
        messages({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}).error == "overloaded_error"
    )
    assert messages({"type": "error"}).error == "error"
    assert stream(event("x", "error"), endpoint="messages", dialect="anthropic").error == "error"
    assert stream(event("x"), endpoint="messages", dialect="anthropic").error is None
    assert (
        messages({"type": "message_start"}, {"type": "content_block_delta"}, {"type": "content_block_start"}).events
        == 3
    )
    assert messages({"type": "message_delta", "delta": {"stop_reason": "refusal"}}).refused
    tool = {"type": "content_block_start", "content_block": {"type": "tool_use", "name": "f", "input": {}}}
    assert messages(tool).ttft_s is None
    assert messages(tool, {"type": "message_stop"}).empty is False
    late = messages({"type": "message_delta", "usage": {"input_tokens": 4, "output_tokens": 2}}, START)
    assert late.usage is not None
    assert late.usage.input_tokens == 60


def test_anthropic_whole_bodies() -> None:
    body = {
        "id": "m1",
        "stop_reason": "refusal",
        "content": [
            {"type": "text", "text": "no"},
            {"type": "thinking", "thinking": "hm"},
            {"type": "tool_use", "name": "f", "input": {"a": 1}},
        ],
        "usage": {"output_tokens": 3, "cache_creation": {"ephemeral_1h_input_tokens": 2}},
    }
    reading = whole(body, "messages", "anthropic")
    assert reading.usage == Usage(output_tokens=3, cache_write_tokens=2, cache_write_1h_tokens=2)
    assert (reading.output_bytes, reading.refused, reading.empty) == (4 + len('{"a": 1}'), True, False)
    error = whole({"type": "error", "id": "x", "error": {"type": "overloaded_error"}}, "messages", "anthropic")
    assert (error.error, error.completion_id, error.usage) == ("overloaded_error", None, None)
    assert whole(b"nope", "messages", "anthropic") == Reading()
    assert whole({"usage": {"input_tokens": -1, "output_tokens": 1}}, "other", "anthropic").usage == Usage(
        output_tokens=1
    )


# Gemini

GEMINI_USAGE = {
    "promptTokenCount": 10,
    "cachedContentTokenCount": 4,
    "candidatesTokenCount": 6,
    "thoughtsTokenCount": 3,
    "toolUsePromptTokenCount": 2,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 8}, {"modality": "AUDIO", "tokenCount": 2}],
}
GEMINI_TOTAL = Usage(input_tokens=12, output_tokens=9, cached_input_tokens=4, reasoning_tokens=3, input_audio_tokens=2)


def gemini(*parts: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts)}, **members}], "responseId": "g", "modelVersion": "gemini"}


def test_gemini_stream_and_body() -> None:
    """Thoughts are output as well; the last usage of the stream counts; a finish reason is the end."""
    chunks = [
        gemini({"text": "hm", "thought": True}) | {"usageMetadata": {"promptTokenCount": 1}},
        gemini({"text": "hi"}, {"functionCall": {"name": "f", "args": {}}}, {"inlineData": {"data": "x"}}),
        gemini(finishReason="STOP") | {"usageMetadata": GEMINI_USAGE},
    ]
    reading = stream(*(event(chunk) for chunk in chunks), endpoint="generate", dialect="gemini")
    assert reading.usage == GEMINI_TOTAL
    assert (reading.ttft_s, reading.ttfa_s, reading.finish, reading.terminal) == (1.0, 2.0, "STOP", True)
    joined = whole(chunks, "generate", "gemini")
    assert (joined.usage, joined.finish, joined.output_bytes) == (GEMINI_TOTAL, "STOP", reading.output_bytes)
    assert whole(chunks[2], "generate", "gemini").usage == GEMINI_TOTAL


def test_the_model_of_an_answer_without_an_id() -> None:
    """It is named in some chunk, and what follows does not take that back."""
    said = {"model": "m", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}
    assert stream(event(said), DONE).model == "m"
    named = {"candidates": [{"content": {"parts": [{"text": "a"}]}}], "modelVersion": "gemini"}
    ends = {"candidates": [{"finishReason": "STOP"}]}
    assert stream(event(named), event(ends), endpoint="generate", dialect="gemini").model == "gemini"


def test_gemini_refusals_and_errors() -> None:
    blocked = whole({"promptFeedback": {"blockReason": "SAFETY"}}, "generate", "gemini")
    assert (blocked.finish, blocked.refused, blocked.empty) == ("SAFETY", True, True)
    assert (
        whole({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}, "generate", "gemini").error
        == "RESOURCE_EXHAUSTED"
    )
    assert whole({"candidates": [{}], "usageMetadata": {"thoughtsTokenCount": 3}}, "generate", "gemini").usage == Usage(
        output_tokens=3, reasoning_tokens=3
    )
    assert whole(b"nope", "generate", "gemini") == whole(b"[nope", "generate", "gemini") == Reading()
    assert stream(event("x", "error"), endpoint="generate", dialect="gemini").error == "error"
    assert stream(event("x"), endpoint="generate", dialect="gemini").error is None


# Whose fault


def test_recorded_errors_blame_the_right_side(shared: Path) -> None:
    """A caller's mistake answered with 500 does not blame the arm; loading, crashes and unknown models do."""
    for name in names(shared):
        recording = load(shared, name)
        if recording.status >= 400:
            server = "503_loading" in name or "unknown_model" in name
            assert caller_fault(recording.status, recording.body) is not server, name


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b"{}", False),
        (400, b"", True),
        (429, b'{"error":{"type":"invalid_request_error"}}', False),
        (408, b"", False),
        (404, b'{"error":{"message":"The model `x` does not exist"}}', False),
        (404, b'{"error":"model \'x\' not found"}', False),
        (404, b'{"message":"model \'x\' not found, make sure the correct model ID was used"}', False),
        (400, b'{"message":"The provided model identifier is invalid."}', False),
        (400, b'{"message":"Invocation of model ID x with on-demand throughput isn\xe2\x80\x99t supported."}', False),
        (403, b'{"message":"You don\'t have access to the model with the specified model ID."}', False),
        (400, b'{"object":"error","message":"Invalid model: x","type":"invalid_model"}', False),
        (400, b'{"message":"invalid request: all elements in history must have a message."}', True),
        (500, b'{"message":"the prompt is too long"}', True),
        (500, b'{"error":"Internal"}', False),
        (500, b'{"error":{"type":"invalid_request_error"}}', True),
        (500, b"<html>prompt is too long</html>", False),
        (502, b"", False),
        (529, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', False),
    ],
)
def test_caller_fault_by_example(status: int, body: bytes, expected: bool) -> None:
    assert caller_fault(status, body) is expected


def test_old_completions_are_read() -> None:
    """`/v1/completions` has texts instead of messages; an empty one is no answer."""
    read = openai.read_completion(b'{"id":"c","choices":[{"text":"abc","finish_reason":"stop"},{"text":""}]}')
    assert read is not None
    assert (read.text_bytes, read.answer, read.finish, read.completion_id) == (3, True, "stop", "c")
    empty = openai.read_completion(b'{"choices":[{"text":""}]}')
    assert empty is not None
    assert (empty.text_bytes, empty.answer) == (0, False)


THOUGHT = [{"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]}]
SAID = [{"type": "text", "text": "Hello"}]


def test_content_in_parts() -> None:
    """Mistral: what was thought and what is said come as parts; neither is an empty answer."""
    read = stream(delta(content=THOUGHT), delta(content=SAID), delta("stop"), DONE)
    assert (read.ttft_s, read.ttfa_s, read.output_bytes, read.empty) == (1.0, 2.0, 8, False)
    body = {"id": "x", "choices": [{"message": {"content": THOUGHT + SAID}, "finish_reason": "stop"}]}
    assert (whole(body).output_bytes, whole(body).empty) == (8, False)


def test_sound_is_a_token_of_unknown_size() -> None:
    """Audio is a first token; base64 is no text."""
    sound = stream(delta(role="assistant"), delta(audio={"data": "A" * 4000}), delta("stop"), DONE)
    assert (sound.ttft_s, sound.ttfa_s, sound.output_bytes, sound.empty) == (2.0, 2.0, 1, False)
    for member in ("delta", "audio"):
        kind = "response.audio.delta" if member == "delta" else "speech.audio.delta"
        pieces = [event({"type": kind, member: letter * 4000}) for letter in "ABCDEFGH" * 8]
        read = stream(*pieces, endpoint="responses")
        assert (read.ttft_s, read.output_bytes, read.token_events) == (1.0, 64, 64)


def test_an_answer_ends_with_the_last_of_its_choices() -> None:
    """Whoever leaves before has not got all; with [DONE] it is over, however many there were."""
    meter = make_meter("chat", "openai", event_stream=True, max_bytes=CAP)
    ends = [{"choices": [{"index": at, "delta": {}, "finish_reason": "stop"}]} for at in (0, 1)]
    meter.feed(event({"choices": [{"index": 1, "delta": {"content": "b"}}]}), 1.0)
    seen = []
    for one in (*ends, "[DONE]"):
        meter.feed(event(one), 2.0)
        seen.append(meter.ended)
    assert seen == [False, True, True]
    late = make_meter("chat", "openai", event_stream=True, max_bytes=CAP)
    late.feed(event({"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]}), 1.0)
    assert late.ended, "its only choice has this number"
    other = make_meter("generate", "gemini", event_stream=True, max_bytes=CAP)
    for at, finish in ((1, None), (0, "STOP"), (1, "STOP")):
        content = {"index": at, "content": {"parts": [{"text": "x"}]}, "finishReason": finish}
        other.feed(event({"candidates": [content]}), 1.0)
        assert other.ended == (at == 1 and finish == "STOP")


def test_an_end_in_each_chunk_is_none() -> None:
    """Servers of Gemini's kind write `finishReason` so: whoever leaves midway has not got all. The end of all is one."""
    meter = make_meter("generate", "gemini", event_stream=True, max_bytes=CAP)
    seen = []
    for text in ("a", "b", "c", ""):
        content = {"index": 0, "content": {"parts": [{"text": text}]}, "finishReason": "STOP"}
        meter.feed(event({"candidates": [content], "responseId": "r"}), 1.0)
        seen.append(meter.ended)
    assert seen == [True, False, False, False], "the first may be all of it"
    assert meter.finish().terminal
    chat = make_meter("chat", "openai", event_stream=True, max_bytes=CAP)
    seen = []
    for one in ("a", "b", "c"):
        chat.feed(event({"choices": [{"index": 0, "delta": {"content": one}, "finish_reason": "stop"}]}), 1.0)
        seen.append(chat.ended)
    chat.feed(event("[DONE]"), 1.0)
    assert [*seen, chat.ended] == [True, False, False, True]


def test_a_report_without_counts_replaces_none() -> None:
    """GW-04: an empty usage behind the real one says nothing; nor does Anthropic's make its first guess final."""
    told = event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}})
    read = stream(delta(content="a"), delta("stop"), told, event({"choices": [], "usage": {}}), DONE)
    assert read.usage == Usage(input_tokens=9, output_tokens=4)
    begun = {"id": "m1", "model": "claude", "usage": {"input_tokens": 100, "output_tokens": 1}}
    text = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a" * 900}}
    last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}}
    events = [{"type": "message_start", "message": begun}, text, last, {"type": "message_stop"}]
    guessed = stream(*map(event, events), endpoint="messages", dialect="anthropic").usage
    assert guessed is not None
    assert (guessed.input_tokens, guessed.output_tokens) == (100, None)


def test_embeddings_of_no_tokens_were_not_counted() -> None:
    """GW-04: unknown, never 0."""
    read = whole({"model": "e", "data": [], "usage": {"prompt_tokens": 0, "total_tokens": 0}}, endpoint="embeddings")
    assert read.usage is None or (read.usage.input_tokens, read.usage.output_tokens) == (None, None)
