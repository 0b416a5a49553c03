"""Whole answers and errors of chat completions: what servers write, and what clients are told."""

from typing import Any

import pytest

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
    Text,
    Thinking,
    TokenLogprob,
    ToolCall,
)
from sidecar.wire.openai_problem import problem_in, read_problem, write_problem
from sidecar.wire.spokes.chat.answer import read_response, write_response

ASKED = Request(format="chat", model="m", messages=[])
OLD = Request(format="chat", model="m", messages=[], spelling={"calls": "functions"})


def one(message: dict[str, Any], reason: str = "stop", **beside: Any) -> Choice:
    return read_response({"choices": [{"message": message, "finish_reason": reason, **beside}]}).choices[0]


def told(choice: Choice, asked: Request = ASKED, **members: Any) -> tuple[dict[str, Any], list[str], list[str]]:
    """The answer of an Anthropic model."""
    report = Report()
    response = Response(format="messages", id="i", model="m", choices=[choice], **members)
    return write_response(response, asked, report), report.lost, report.mapped


@pytest.mark.parametrize(
    ("message", "reason", "stop"),
    [
        ({"content": "a"}, "stop", "stop"),
        ({"content": "a"}, "length", "length"),
        ({"content": "a"}, "model_length", "context"),
        ({"content": "a"}, "strange", "stop"),
        ({"refusal": "no"}, "stop", "refusal"),
        ({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}, "stop", "tool_calls"),
        ({"function_call": {"name": "f", "arguments": "{}"}}, "function_call", "tool_calls"),
    ],
)
def test_why_an_answer_stopped(message: dict[str, Any], reason: str, stop: str) -> None:
    assert one(message, reason).stop == stop


def test_a_stop_text_of_vllm_is_known() -> None:
    choice = one({"content": "a"}, stop_reason="END")
    assert (choice.stop, choice.stop_sequence) == ("stop_sequence", "END")
    assert one({"content": "a"}, stop_reason=7).extra == {"stop_reason": 7}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "secret"}, "choices: expected a list, got null"),
        ({"choices": [{}]}, "choices[0].message: expected an object, got null"),
        (
            {"choices": [{"message": {}, "finish_reason": 3}]},
            "choices[0].finish_reason: expected a string, got a number",
        ),
    ],
)
def test_what_is_no_answer_is_refused(body: Any, message: str) -> None:
    with pytest.raises(TranslationError) as caught:
        read_response(body)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "logprobs",
    [
        {"tokens": ["a"], "token_logprobs": [-1]},
        {"content": [{"token": 1}]},
        {"content": [3]},
        {"content": [{"token": "a", "logprob": -1, "bytes": 3}]},
        {"content": [{"token": "a", "logprob": -1, "top_logprobs": [4]}]},
        "a",
    ],
)
def test_log_probabilities_in_another_spelling_stay_as_they_are(logprobs: Any) -> None:
    choice = one({"content": "a"}, logprobs=logprobs)
    assert choice.logprobs is None
    assert choice.extra == {"logprobs": logprobs}


def test_log_probabilities_of_a_refusal_stay_beside_those_of_the_text() -> None:
    token = {"token": "a", "logprob": -1.0, "bytes": None, "top_logprobs": []}
    body = {
        "id": "i",
        "created": 3,
        "model": "m",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "a"},
                "finish_reason": "stop",
                "logprobs": {"content": [token], "refusal": [token]},
            }
        ],
    }
    assert write_response(read_response(body), ASKED, Report()) == body
    assert one({"content": "a"}, logprobs={"content": []}).extra == {}


def test_usage_that_cannot_be_read_is_unknown() -> None:
    for usage, known in ({"prompt_tokens": 10**30}, None), ({"prompt_tokens": "x", "completion_tokens": 3}, 3):
        answer = read_response({"choices": [], "usage": usage})
        assert (answer.usage.output_tokens if answer.usage else None) == known


# ---- answers of other formats


def test_an_answer_of_another_format() -> None:
    choice = Choice(
        index=0,
        parts=[
            Thinking(text="hm", signature="s"),
            Thinking(redacted="r"),
            Text(text="a"),
            Text(text="b"),
            ToolCall(id="c", name="f", arguments="{}"),
        ],
        stop="tool_calls",
        logprobs=[TokenLogprob(token="a", logprob=-1)],
    )
    usage = Usage(input_tokens=9, output_tokens=3, cached_input_tokens=4, reasoning_tokens=1)
    body, lost, mapped = told(choice, usage=usage, created=7, service_tier="default")
    assert body == {
        "id": "i",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "ab",
                    "reasoning_content": "hm",
                    "thinking_blocks": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "redacted_thinking", "data": "r"},
                    ],
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                "logprobs": {
                    "content": [{"token": "a", "bytes": None, "logprob": -1, "top_logprobs": []}],
                    "refusal": None,
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 3,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
        "service_tier": "default",
    }
    assert lost == mapped == []


def test_the_signature_of_gemini_goes_where_google_puts_it() -> None:
    report = Report()
    call = ToolCall(id="c", name="f", signature="s")
    response = Response(format="generate", id="i", model="m", choices=[Choice(index=0, parts=[call])])
    said = write_response(response, ASKED, report)["choices"][0]
    assert said["message"]["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "s"}}
    assert said["finish_reason"] is None
    assert report.lost == report.mapped == []


@pytest.mark.parametrize(
    ("choice", "reason", "mapped"),
    [
        (Choice(index=0, parts=[Text(text="a")], stop="refusal"), "content_filter", ["choices[0].stop"]),
        (Choice(index=0, parts=[Refusal(text="a")], stop="refusal"), "stop", []),
        (Choice(index=0, parts=[], stop="pause"), "stop", ["choices[0].stop"]),
        (Choice(index=0, parts=[], stop="context"), "length", ["choices[0].stop"]),
        (Choice(index=0, parts=[], stop="stop_sequence", stop_sequence="E"), "stop", ["choices[0].stop_sequence"]),
    ],
)
def test_stops_of_other_formats(choice: Choice, reason: str, mapped: list[str]) -> None:
    body, lost, told_mapped = told(choice)
    assert (body["choices"][0]["finish_reason"], told_mapped, lost) == (reason, mapped, [])


def test_an_answer_is_text_and_what_is_none_is_lost() -> None:
    choice = Choice(
        index=0, parts=[Text(text="a", extra={"citations": [1]}), Opaque(value={}), Media(kind="video")], stop="stop"
    )
    choice.extra = {"x": 1}
    body, lost, _ = told(choice)
    assert body["choices"][0]["message"]["content"] == "a"
    assert lost == ["choices[0].content[0].citations", "choices[0].content[1]", "choices[0].content[2]", "choices[0].x"]
    assert told(Choice(index=0, parts=[]))[0]["choices"][0]["message"]["content"] == ""


def test_pictures_are_images() -> None:
    body, lost, _ = told(Choice(index=0, parts=[Media(kind="image", media_type="image/png", data="AA")]))
    assert body["choices"][0]["message"]["images"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    ]
    assert lost == []


def test_a_client_of_functions_gets_one_call_in_its_own_words() -> None:
    calls = [ToolCall(id="c", name="f", arguments="{}"), ToolCall(id="d", name="g")]
    body, lost, _ = told(Choice(index=0, parts=[*calls], stop="tool_calls"), OLD)
    message = body["choices"][0]["message"]
    assert message["function_call"] == {"name": "f", "arguments": "{}"}
    assert "tool_calls" not in message
    assert body["choices"][0]["finish_reason"] == "function_call"
    assert lost == ["choices[0].tool_calls[1]"]
    custom = ToolCall(id="c", name="sh", arguments="ls", custom=True)
    body, _, _ = told(Choice(index=0, parts=[custom], stop="length"), OLD)
    assert body["choices"][0]["message"]["function_call"] == {"name": "sh", "arguments": "ls"}
    assert body["choices"][0]["finish_reason"] == "length"


def test_calls_of_a_type_that_is_not_known_stay_with_the_others() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}, {"type": "mcp", "id": "d"}]
    answer = read_response({"choices": [{"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]})
    assert write_response(answer, ASKED, Report())["choices"][0]["message"]["tool_calls"] == calls


# ---- errors


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (
            400,
            b'{"error":{"message":"no","type":"invalid_request_error","param":"n","code":"bad"}}',
            Problem(status=400, kind="invalid", message="no", code="bad", param="n"),
        ),
        (401, b'{"error":{"message":"no","code":401}}', Problem(status=401, kind="authentication", message="no")),
        (
            429,
            b'{"error":{"message":"no","code":"429"}}',
            Problem(status=429, kind="rate_limit", message="no", code="429"),
        ),
        (404, b'{"error":"model not found"}', Problem(status=404, kind="not_found", message="model not found")),
        (
            400,
            b'{"object":"error","message":"no","code":40001}',
            Problem(status=400, kind="invalid", message="no", code="40001"),
        ),
        (
            422,
            b'{"detail":[{"loc":["a"],"msg":"is wrong"},{"msg":"b"},3]}',
            Problem(status=422, kind="invalid", message="is wrong; b"),
        ),
        (422, b'{"message":{"detail":[{"msg":"is wrong"}]}}', Problem(status=422, kind="invalid", message="is wrong")),
        (403, b'{"detail":"no"}', Problem(status=403, kind="permission", message="no")),
        (
            403,
            b'[{"error":{"message":"no","code":403,"status":"X"}}]',
            Problem(status=403, kind="permission", message="no"),
        ),
        (500, b'"oops"', Problem(status=500, kind="server", message="oops")),
        (502, b"<html>bad</html>", Problem(status=502, kind="server", message="the provider answered with status 502")),
        (503, b"busy \xff", Problem(status=503, kind="overloaded", message="busy \ufffd")),
        (504, b"", Problem(status=504, kind="timeout", message="the provider answered with status 504")),
        (402, b"[]", Problem(status=402, kind="billing", message="the provider answered with status 402")),
        (418, b"{}", Problem(status=418, kind="invalid", message="the provider answered with status 418")),
        (299, b"{}", Problem(status=500, kind="server", message="the provider answered with status 500")),
    ],
)
def test_errors_as_servers_write_them(status: int, body: bytes, problem: Problem) -> None:
    assert read_problem(status, body) == problem


def test_a_long_message_is_cut() -> None:
    assert len(read_problem(500, b'{"error":"' + b"x" * 9000 + b'"}').message) == 2000


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 503}, 503),
        ({"code": 7, "type": "rate_limit_error"}, 429),
        ({"code": "invalid_api_key"}, 401),
        ({"code": True}, 500),
        ({}, 500),
    ],
)
def test_an_error_in_a_stream_has_the_status_that_it_names(error: dict[str, Any], status: int) -> None:
    assert problem_in(None, {"error": error}).status == status


def test_errors_are_told_as_openai_does() -> None:
    problem = Problem(status=429, kind="rate_limit", message="slow", code="x")
    assert write_problem(problem) == {
        "error": {"message": "slow", "type": "rate_limit_error", "param": None, "code": "x"}
    }


@pytest.mark.parametrize(
    ("tier", "said"), [("standard", "default"), ("priority", "priority"), ("batch", None), (None, None)]
)
def test_the_tier_of_another_provider(tier: str | None, said: str | None) -> None:
    """OpenAI has a few words for it: Anthropic's for the usual one is mapped, one that has no place here is told."""
    report = Report()
    answer = Response(format="messages", id="i", model="m", choices=[], service_tier=tier)
    assert write_response(answer, ASKED, report).get("service_tier") == said
    assert report.mapped == ([] if tier == said else ["service_tier"])
