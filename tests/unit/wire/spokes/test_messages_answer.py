"""Whole answers and errors of the Messages API; the official SDK's own types judge what is written."""

from typing import Any

import orjson
import pytest
from anthropic.types import Message as SdkMessage
from anthropic.types import ToolUseBlock
from anthropic.types.shared import ErrorResponse

from sidecar.core.types import Usage
from sidecar.errors import TranslationError
from sidecar.wire.neutral import (
    Choice,
    Media,
    Opaque,
    Problem,
    Refusal,
    Report,
    Request,
    Response,
    Stop,
    Text,
    Thinking,
    ToolCall,
)
from sidecar.wire.spokes.messages.answer import read_response, write_response
from sidecar.wire.spokes.messages.problem import read_problem, write_problem

ASKED = Request(format="messages", model="asked", messages=[])


def answer(**members: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 2},
        **members,
    }


def foreign(*parts: Any, stop: Stop | None = "stop", **members: Any) -> Response:
    choice = Choice(index=0, parts=list(parts), stop=stop)
    return Response(**{"format": "chat", "id": "c1", "model": "m", "choices": [choice], **members})


def say(response: Response) -> tuple[dict[str, Any], list[str], list[str]]:
    report = Report()
    said = write_response(response, ASKED, report)
    SdkMessage.model_validate(said, strict=False)
    return said, report.lost, report.mapped


def test_counts_are_inclusive() -> None:
    """Anthropic leaves the cache out of input_tokens; writes are split by their time to live."""
    usage = {
        "input_tokens": 10,
        "output_tokens": 7,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "cache_read_input_tokens": 100,
        "output_tokens_details": {"thinking_tokens": 3},
        "service_tier": "priority",
    }
    response = read_response(answer(usage=usage))
    assert response.usage == Usage(
        input_tokens=140,
        output_tokens=7,
        cached_input_tokens=100,
        cache_write_tokens=30,
        cache_write_1h_tokens=20,
        reasoning_tokens=3,
        service_tier="priority",
    )
    assert response.service_tier == "priority"
    response.format, response.usage_said = "chat", None
    assert say(response)[0]["usage"] == usage


def test_writes_of_an_unknown_time_to_live() -> None:
    usage = Usage(input_tokens=40, output_tokens=2, cache_write_tokens=30)
    assert say(foreign(Text(text="a"), usage=usage))[0]["usage"] == {
        "input_tokens": 10,
        "output_tokens": 2,
        "cache_creation_input_tokens": 30,
    }


def test_an_answer_without_usage() -> None:
    response = read_response(answer(usage=None, stop_reason=None))
    assert (response.usage, response.choices[0].stop) == (None, None)
    said = say(response)[0]
    assert (said["usage"], said["stop_reason"]) == ({"input_tokens": 0, "output_tokens": 0}, None)
    odd = read_response(answer(usage={"input_tokens": "x", "output_tokens": 3}))
    assert odd.usage == Usage(output_tokens=3)


@pytest.mark.parametrize(
    "body",
    [{"type": "error", "error": {}}, answer(type="x"), answer(error={"message": "no"}), answer(content=None), []],
)
def test_what_is_no_answer(body: Any) -> None:
    with pytest.raises(TranslationError, match="expected"):
        read_response(body)


def test_counts_that_cannot_be_read_are_unknown() -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"a": deep}
    assert read_response(answer(usage=deep)).usage == Usage()


def test_an_unknown_stop_reason_is_kept() -> None:
    response = read_response(answer(stop_reason="compaction"))
    assert (response.choices[0].stop, response.choices[0].extra) == ("stop", {"stop_reason": "compaction"})
    assert write_response(response, ASKED, Report())["stop_reason"] == "compaction"


@pytest.mark.parametrize(
    ("stop", "part", "reason", "mapped"),
    [
        ("stop", Text(text="a"), "end_turn", []),
        ("stop", ToolCall(id="a", name="f"), "tool_use", []),
        ("stop", Refusal(text="a"), "refusal", ["content[0]"]),
        ("length", Text(text="a"), "max_tokens", []),
        ("context", Text(text="a"), "model_context_window_exceeded", []),
        ("pause", Text(text="a"), "pause_turn", []),
        ("content_filter", Text(text="a"), "refusal", ["choices[0].stop"]),
        ("error", Text(text="a"), "end_turn", ["choices[0].stop"]),
        (None, Text(text="a"), "end_turn", []),
    ],
)
def test_stop_reasons(stop: Stop | None, part: Any, reason: str, mapped: list[str]) -> None:
    said, lost, told = say(foreign(part, stop=stop))
    assert (said["stop_reason"], lost, told) == (reason, [], mapped)


def test_an_answer_of_another_format() -> None:
    """Calls have objects, thoughts carry their maker, and what has no place is told."""
    response = foreign(
        Thinking(text="t", signature="s"),
        Thinking(text="u"),
        Thinking(redacted="r", origin="responses"),
        Text(text="a", extra={"annotations": [1]}),
        Text(text=""),
        ToolCall(id="call:1", name="f", arguments='{"a":1}', signature="g"),
        Media(kind="image", data="AA==", media_type="image/png"),
        Opaque(value={}),
        service_tier="default",
        extra={"system_fingerprint": "f"},
    )
    response.choices[0].logprobs = []
    response.choices[0].extra = {"native": 1}
    response.choices.append(Choice(index=1, parts=[]))
    said, lost, mapped = say(response)
    assert said["content"] == [
        {"type": "thinking", "thinking": "t", "signature": "sidecar:chat:s"},
        {"type": "thinking", "thinking": "u", "signature": ""},
        {"type": "redacted_thinking", "data": "sidecar:responses:r"},
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "call:1", "name": "f", "input": {"a": 1}},
    ]
    assert said["usage"]["service_tier"] == "standard"
    assert lost == [
        "choices[1]",
        "choices[0].logprobs",
        "content[3].annotations",
        "content[5].signature",
        "content[6]",
        "content[7]",
        "system_fingerprint",
        "choices[0].native",
    ]
    assert mapped == []


def test_an_answer_without_choices_or_model() -> None:
    said, _, mapped = say(Response(format="chat", id="", model="", choices=[]))
    assert (said["content"], said["model"], mapped) == ([], "asked", ["choices[0].stop"])


def test_the_sdk_reads_it() -> None:
    message = SdkMessage.model_validate(say(foreign(ToolCall(id="a", name="f", arguments='{"x":[1]}')))[0])
    assert message.content == [ToolUseBlock(id="a", name="f", input={"x": [1]}, type="tool_use")]


# ---- errors


STATUS = "the provider answered with status "


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "message"),
    [
        (529, b'{"error":{"type":"overloaded_error","message":"Busy"}}', "overloaded", "overloaded_error", "Busy"),
        (400, b'{"error":{"code":400,"message":"long","type":"exceed_x"}}', "invalid", "exceed_x", "long"),
        (401, b"<html>", "authentication", None, STATUS + "401"),
        (500, b'{"error":"no"}', "server", None, STATUS + "500"),
        (429, b"\xff\xfe", "rate_limit", None, STATUS + "429"),
        (0, b'{"error":{"type":"rate_limit_error"}}', "rate_limit", "rate_limit_error", STATUS + "429"),
        (0, b'{"error":{"message":"m"}}', "server", None, "m"),
        (0, b"{}", "server", None, STATUS + "500"),
    ],
)
def test_problems_are_read(status: int, body: bytes, kind: str, code: str | None, message: str) -> None:
    problem = read_problem(status, body)
    assert (problem.kind, problem.code, problem.message) == (kind, code, message)


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (Problem(status=422, kind="invalid", message="m"), "invalid_request_error"),
        (Problem(status=413, kind="invalid", message="m"), "request_too_large"),
        (Problem(status=504, kind="timeout", message="m"), "timeout_error"),
        (Problem(status=500, kind="server", message="m" * 5000), "api_error"),
    ],
)
def test_problems_are_written(problem: Problem, kind: str) -> None:
    said = write_problem(problem)
    assert said["error"]["type"] == kind
    assert len(said["error"]["message"]) <= 2000
    if kind != "request_too_large":
        ErrorResponse.model_validate_json(orjson.dumps(said))
