"""Whole answers and errors of Gemini's format: what they mean to others, and how others' answers are said."""

import base64
from typing import Any

import orjson
import pytest

from sidecar.core.types import Usage
from sidecar.errors import TranslationError
from sidecar.wire.neutral import (
    AnyPart,
    Choice,
    Message,
    Opaque,
    Problem,
    Refusal,
    Report,
    Request,
    Response,
    Stop,
    Text,
    Thinking,
    TokenLogprob,
    ToolCall,
)
from sidecar.wire.spokes.generate.answer import read_problem, read_response, write_problem, write_response
from sidecar.wire.spokes.generate.request import read_request

Json = dict[str, Any]
ASKED = Request(format="generate", model="m", messages=[Message(role="user", parts=[Text(text="hi")])])


def answer(*parts: Json, reason: str | None = "STOP", **more: Any) -> Response:
    candidate: Json = {"content": {"role": "model", "parts": list(parts)}, "finishReason": reason, **more}
    return read_response({"candidates": [candidate], "responseId": "r1", "modelVersion": "gemini-2.5-pro"})


def written(*choices: Choice, **more: Any) -> tuple[Json, Report]:
    """The answer of an Anthropic model, for a client of Gemini's format."""
    report = Report()
    given: Json = {"format": "messages", "id": "msg_1", "model": "claude", "choices": list(choices)}
    return write_response(Response(**{**given, **more}), ASKED, report), report


def test_calls_make_another_reason_to_stop() -> None:
    response = answer({"text": "so"}, {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "QQ"})
    assert response.choices == [
        Choice(
            index=0,
            stop="tool_calls",
            parts=[Text(text="so"), ToolCall(id="call_r1_0", name="f", arguments='{"a":1}', signature="QQ")],
        )
    ]
    assert (response.id, response.model) == ("r1", "gemini-2.5-pro")


@pytest.mark.parametrize(
    ("reason", "stop", "extra"),
    [
        ("STOP", "stop", {}),
        ("MAX_TOKENS", "length", {}),
        ("SAFETY", "content_filter", {}),
        ("RECITATION", "content_filter", {"finishReason": "RECITATION"}),
        ("MALFORMED_FUNCTION_CALL", "error", {"finishReason": "MALFORMED_FUNCTION_CALL"}),
        ("OF_TOMORROW", "stop", {"finishReason": "OF_TOMORROW"}),
        (None, None, {}),
    ],
)
def test_reasons_to_stop(reason: str | None, stop: Stop | None, extra: Json) -> None:
    choice = answer({"text": "a"}, reason=reason).choices[0]
    assert (choice.stop, choice.extra) == (stop, extra)


def test_a_blocked_prompt_is_a_filtered_choice() -> None:
    response = read_response({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}})
    assert response.choices == [Choice(index=0, parts=[], stop="content_filter")]
    assert response.usage == Usage(input_tokens=3)
    assert (response.id, response.model) == ("", "")


def test_a_candidate_without_content() -> None:
    response = read_response({"candidates": [{"finishReason": "SAFETY", "content": None}, {"content": {"x": 1}}]})
    assert response.choices == [
        Choice(index=0, parts=[], stop="content_filter"),
        Choice(index=1, parts=[], extra={"content": {"x": 1}}),
    ]
    body = write_response(response, ASKED, Report())
    assert body["candidates"][1]["content"] == {"role": "model", "x": 1}


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"candidates": None}])
def test_an_answer_of_another_format_is_refused(body: Json) -> None:
    with pytest.raises(TranslationError, match="expected candidates"):
        read_response(body)


def test_usage_counts_thoughts_and_tools() -> None:
    said = {
        "prompt_token_count": 100, "cachedContentTokenCount": 40, "toolUsePromptTokenCount": 7, "candidatesTokenCount": 20,
        "thoughtsTokenCount": 30, "totalTokenCount": 157,
    }  # fmt: skip
    response = read_response({"candidates": [], "usageMetadata": said})
    assert response.usage == Usage(input_tokens=107, output_tokens=50, cached_input_tokens=40, reasoning_tokens=30)
    assert response.usage_said is not None
    assert response.usage_said["promptTokenCount"] == 100
    odd = {"promptTokenCount": "many", "candidatesTokenCount": 2.0}
    assert read_response({"candidates": [], "usageMetadata": odd}).usage == Usage(output_tokens=2)


@pytest.mark.parametrize(
    ("time", "created", "extra"),
    [
        ("2026-01-02T03:04:05.678Z", 1767323045, {}),
        ("2026-01-02T03:04:05", None, {"createTime": "2026-01-02T03:04:05"}),
        ("soon", None, {"createTime": "soon"}),
        (3, None, {"createTime": 3}),
    ],
)
def test_when_it_was_made(time: Any, created: int | None, extra: Json) -> None:
    response = read_response({"candidates": [], "modelVersion": "m", "usageMetadata": {}, "createTime": time})
    assert (response.created, response.extra) == (created, extra)


def test_log_probabilities() -> None:
    result = {
        "chosenCandidates": [{"token": "a", "tokenId": 7, "logProbability": -0.5}, {}],
        "topCandidates": [{"candidates": [{"token": "b", "logProbability": -1}]}],
        "logProbabilitySum": -0.5,
    }
    choice = answer({"text": "a"}, logprobsResult=result).choices[0]
    assert choice.logprobs == [
        TokenLogprob(token="a", number=7, logprob=-0.5, top=[TokenLogprob(token="b", logprob=-1)]),
        TokenLogprob(token="", logprob=0.0),
    ]
    assert choice.extra == {"logprobsResult": {"logProbabilitySum": -0.5}}


# ---- answers of others


def test_an_answer_of_another_model() -> None:
    parts: list[AnyPart] = [
        Thinking(text="hm", signature="ab+/"), Thinking(redacted="zz"), Refusal(text="no"),
        ToolCall(id="toolu_1", name="f", arguments='{"a": 1}'), Opaque(value={"type": "x"}),
    ]  # fmt: skip
    usage = Usage(
        input_tokens=100, output_tokens=50, cached_input_tokens=40, reasoning_tokens=30, input_audio_tokens=5,
    )  # fmt: skip
    body, report = written(
        Choice(index=0, parts=parts, stop="tool_calls", extra={"x": 1}), created=0, usage=usage, extra={"y": 1}
    )
    thought, redacted, *rest = body["candidates"][0]["content"]["parts"]
    assert rest == [{"text": "no"}, {"functionCall": {"id": "toolu_1", "name": "f", "args": {"a": 1}}}]
    assert body["candidates"][0]["finishReason"] == "STOP"
    assert body["usageMetadata"] == {
        "promptTokenCount": 100, "cachedContentTokenCount": 40, "candidatesTokenCount": 20, "thoughtsTokenCount": 30,
        "totalTokenCount": 150, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 5}],
    }  # fmt: skip
    assert (body["responseId"], body["modelVersion"]) == ("msg_1", "claude")
    assert body["createTime"] == "1970-01-01T00:00:00Z"
    assert report.lost == ["choices[0].parts[4]", "choices[0].x", "y"]
    assert report.mapped == ["choices[0].parts[2]"]
    for part in (thought, redacted):
        base64.b64decode(part["thoughtSignature"], validate=True)  # the SDK holds it as bytes
    back = read_request({"contents": [{"role": "model", "parts": [thought, redacted]}]})
    assert back.messages[0].parts == [
        Thinking(text="hm", signature="ab+/", origin="messages"),
        Thinking(redacted="zz", origin="messages"),
    ]


@pytest.mark.parametrize(
    ("stop", "sequence", "reason", "mapped"),
    [
        ("stop", None, "STOP", []),
        ("stop_sequence", "###", "STOP", ["choices[0].stop_sequence"]),
        ("length", None, "MAX_TOKENS", []),
        ("context", None, "MAX_TOKENS", ["choices[0].stop"]),
        ("refusal", None, "SAFETY", ["choices[0].stop"]),
        ("error", None, "OTHER", ["choices[0].stop"]),
        ("pause", None, "CONTINUATION", []),
    ],
)
def test_reasons_of_others(stop: Stop, sequence: str | None, reason: str, mapped: list[str]) -> None:
    body, report = written(Choice(index=0, parts=[], stop=stop, stop_sequence=sequence))
    assert body["candidates"] == [{"content": {"role": "model"}, "finishReason": reason, "index": 0}]
    assert (report.lost, report.mapped) == ([], mapped)


def test_little_is_known_of_an_answer() -> None:
    body, report = written(Choice(index=0, parts=[]), id="", model="", created=10**30, service_tier="scale")
    assert body == {"candidates": [{"content": {"role": "model"}, "index": 0}]}
    assert (report.lost, report.mapped) == ([], ["service_tier"])
    assert written(usage=Usage(output_tokens=3, reasoning_tokens=5))[0]["usageMetadata"] == {
        "candidatesTokenCount": 0,
        "thoughtsTokenCount": 5,
    }


@pytest.mark.parametrize("name", ["", "chat_1"])
def test_an_answer_of_nothing_is_one_of_gemini(name: str) -> None:
    body, _ = written(id=name, model="")
    assert body["candidates"] == []
    assert read_response(body).choices == []


def test_an_answer_that_tells_no_usage_stays_one_of_gemini() -> None:
    read = read_response({"usageMetadata": {}, "new": []})
    told = write_response(read, ASKED, Report())
    assert told == {"candidates": [], "new": []}


def test_tokens_of_others() -> None:
    tokens = [TokenLogprob(token="a", logprob=-1.0, bytes=[97])]
    body, _ = written(Choice(index=0, parts=[Text(text="a")], logprobs=tokens))
    assert body["candidates"][0]["logprobsResult"] == {"chosenCandidates": [{"token": "a", "logProbability": -1.0}]}


# ---- errors


def test_an_error_of_gemini() -> None:
    error = {
        "code": 400, "message": "bad field", "status": "INVALID_ARGUMENT",
        "details": [{"@type": "x/google.rpc.BadRequest", "fieldViolations": [{"field": "contents[0]"}]}, 3],
    }  # fmt: skip
    problem = Problem(status=400, kind="invalid", message="bad field", code="INVALID_ARGUMENT", param="contents[0]")
    assert read_problem(400, orjson.dumps({"error": error})) == problem
    assert read_problem(400, orjson.dumps([{"error": error}])) == problem
    assert read_problem(400, orjson.dumps(write_problem(problem))) == problem


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"3", b"[]", b'{"error":"x"}', b'{"error":{"message":3,"status":[],"details":3}}', b"[" * 3000,
     b'{"error":{"details":[{"fieldViolations":[]},{"fieldViolations":[3]},{"fieldViolations":[{"field":3}]}]}}'],
)  # fmt: skip
def test_whatever_an_error_is_it_is_a_problem(body: bytes) -> None:
    assert read_problem(503, body) == Problem(
        status=503, kind="overloaded", message="the provider answered with status 503"
    )


def test_a_code_of_others_is_the_reason() -> None:
    problem = Problem(status=429, kind="rate_limit", message="x" * 3000, code="insufficient_quota")
    body = write_problem(problem)
    assert body["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert body["error"]["code"] == 429
    assert len(body["error"]["message"]) == 2000
    assert read_problem(429, orjson.dumps(body)).code == "insufficient_quota"
    plain = Problem(status=500, kind="server", message="m")
    assert write_problem(plain) == {"error": {"code": 500, "message": "m", "status": "INTERNAL"}}
