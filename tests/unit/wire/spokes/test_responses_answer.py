"""OpenAI Responses: whole answers and errors."""

from typing import Any

import pytest

from sidecar.core.types import Usage
from sidecar.errors import TranslationError
from sidecar.wire.neutral import (
    Choice,
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
from sidecar.wire.openai_problem import problem_in
from sidecar.wire.spoke import problem_of
from sidecar.wire.spokes.responses.problem import write_error, write_event
from sidecar.wire.spokes.responses.spoke import SPOKE

read_response, write_response, write_problem = SPOKE.read_response, SPOKE.write_response, SPOKE.write_problem
assert write_problem is not None
ASKED = Request(format="responses", model="asked", messages=[])


def say(*parts: Any, request: Request = ASKED, **members: Any) -> tuple[dict[str, Any], Report]:
    assert write_response is not None
    report = Report()
    choice = Choice(index=0, parts=list(parts), **members)
    return write_response(
        Response(format="chat", id="chatcmpl-1", model="m", choices=[choice]), request, report
    ), report


def read(*items: Any, **members: Any) -> Response:
    return read_response({"id": "resp_1", "model": "m", "status": "completed", "output": list(items), **members})


TEXT = {"type": "message", "role": "assistant", "id": "msg_1", "content": [{"type": "output_text", "text": "hi"}]}
NO = {"type": "message", "role": "assistant", "id": "msg_1", "content": [{"type": "refusal", "refusal": "no"}]}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("items", "members", "stop"),
    [
        ([TEXT], {}, "stop"),
        ([TEXT], {"status": None}, "stop"),
        ([TEXT, CALL], {}, "tool_calls"),
        ([NO], {}, "refusal"),
        ([TEXT], {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ([CALL], {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ([TEXT], {"status": "incomplete", "incomplete_details": {"reason": "steered"}}, "length"),
        ([], {"status": "failed", "error": {"code": "server_error", "message": "no"}}, "error"),
        ([], {"status": "queued"}, None),
    ],
)
def test_the_stop_of_an_answer(items: list[Any], members: dict[str, Any], stop: str | None) -> None:
    assert read(*items, **members).choices[0].stop == stop


@pytest.mark.parametrize(("body", "where"), [({}, "output"), ({"output": [1]}, "output[0]")])
def test_what_is_no_answer_is_refused_with_its_path(body: dict[str, Any], where: str) -> None:
    with pytest.raises(TranslationError, match="expected") as error:
        read_response(body)
    assert str(error.value).startswith(where)


def test_usage_that_cannot_be_read_is_unknown() -> None:
    assert read(TEXT, usage={"input_tokens": 1 << 70}).usage is None
    usage = read(
        TEXT, usage={"input_tokens": 5, "output_tokens": "x", "input_tokens_details": {"cached_tokens": 2}}
    ).usage
    assert usage == Usage(input_tokens=5, cached_input_tokens=2)


@pytest.mark.parametrize(
    ("stop", "parts", "status", "reason", "mapped"),
    [
        ("stop", [Text(text="x")], "completed", None, False),
        ("tool_calls", [ToolCall(id="c", name="f")], "completed", None, False),
        ("length", [Text(text="x")], "incomplete", "max_output_tokens", False),
        ("context", [Text(text="x")], "incomplete", "max_output_tokens", True),
        ("content_filter", [], "incomplete", "content_filter", False),
        ("refusal", [Text(text="x")], "incomplete", "content_filter", True),
        ("refusal", [Refusal(text="x")], "completed", None, False),
        ("pause", [Text(text="x")], "completed", None, True),
        ("error", [], "failed", None, False),
        (None, [], "completed", None, False),
    ],
)
def test_the_status_of_another_formats_stop(
    stop: Any, parts: Any, status: str, reason: str | None, *, mapped: bool
) -> None:
    said, report = say(*parts, stop=stop)
    assert said["status"] == status
    assert (said["incomplete_details"] or {}).get("reason") == reason
    assert report.mapped == (["choices[0].stop"] if mapped else [])
    assert all(item["status"] == status for item in said["output"] if status == "incomplete"), "the item was cut, too"


def test_what_an_answer_cannot_say_is_told() -> None:
    assert write_response is not None
    parts = [Opaque(value={}), ToolCall(id="c", name="f", signature="s"), Thinking(text="t", extra={"x": 1})]
    choices = [
        Choice(index=0, parts=parts, stop_sequence="END", stop="stop_sequence", extra={"y": 1}),
        Choice(index=1, parts=[]),
    ]
    report = Report()
    answer = Response(format="chat", id="", model="", choices=choices, extra={"z": 1}, service_tier="flex")
    said = write_response(answer, ASKED, report)
    assert report.lost == ["choices[1]", "choices[0].content[0]", "choices[0].content[2].x", "choices[0].y", "z"]
    assert report.mapped == ["choices[0].content[1].signature", "choices[0].stop", "choices[0].stop_sequence"]
    assert (said["model"], said["service_tier"], said["usage"]) == ("asked", "flex", None)
    assert write_response(Response(format="chat", id="", model="m", choices=[]), ASKED, Report())["output"] == []


def test_redacted_thoughts_come_back_as_they_were() -> None:
    said, _ = say(
        Thinking(redacted="data", origin="messages"), Thinking(text="t"), Thinking(redacted="own", origin="responses")
    )
    assert said["output"][0]["encrypted_content"] == "sidecar:messages:redacted:data"
    assert said["output"][2]["encrypted_content"] == "own"
    assert [item["summary"] for item in said["output"]] == [[], [{"type": "summary_text", "text": "t"}], []]
    parts = read(*said["output"]).choices[0].parts
    assert isinstance(parts[0], Thinking)
    assert (parts[0].redacted, parts[0].origin) == ("data", "messages")
    assert len({item["id"] for item in said["output"]}) == 3


def test_tokens_go_to_the_texts_that_they_make() -> None:
    tokens = [TokenLogprob(token=token, logprob=-1.0, number=7) for token in ("He", "y", " you")]
    said, _ = say(Text(text="Hey"), ToolCall(id="c", name="f"), Text(text=" you"), logprobs=tokens)
    first, _, second = said["output"]
    assert [one["token"] for one in first["content"][0]["logprobs"]] == ["He", "y"]
    assert [one["token"] for one in second["content"][0]["logprobs"]] == [" you"]
    assert first["content"][0]["logprobs"][0] == {
        "id": 7,
        "token": "He",
        "bytes": [72, 101],
        "logprob": -1.0,
        "top_logprobs": [],
    }


@pytest.mark.parametrize(
    "tokens", [[1], [{"token": 1}], [{"token": "a", "logprob": -1, "top_logprobs": [1]}], {"a": 1}, [{"token": "a"}]]
)
def test_tokens_that_cannot_be_read_stay_where_they_are(tokens: Any) -> None:
    choice = read({**TEXT, "content": [{"type": "output_text", "text": "hi", "logprobs": tokens}]}).choices[0]
    assert choice.logprobs is None
    assert choice.parts[0].extra == {"logprobs": tokens}


def test_an_answer_repeats_what_its_request_cannot_leave_out() -> None:
    assert SPOKE.read_request is not None
    asked = SPOKE.read_request(
        {
            "model": "m",
            "input": "x",
            "tool_choice": {"type": "web_search"},
            "truncation": "auto",
            "service_tier": "flex",
        }
    )
    said, _ = say(Text(text="x"), request=asked)
    assert (said["tool_choice"], said["truncation"]) == ({"type": "web_search"}, "auto")
    assert "service_tier" not in said, "which one it was is the provider's to say"
    asked = SPOKE.read_request(
        {"model": "m", "input": "x", "tool_choice": "required", "top_logprobs": 2, "truncation": "auto"}
    )
    assert say(Text(text="x"), request=asked)[0]["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("tier", "said", "mapped"),
    [("flex", "flex", []), ("standard", "default", ["service_tier"]), ("batch", None, ["service_tier"])],
)
def test_the_tier_of_another_provider_is_one_of_the_words_that_the_sdk_knows(
    tier: str, said: Any, mapped: list[str]
) -> None:
    assert write_response is not None
    report = Report()
    answer = Response(format="messages", id="a", model="m", choices=[], service_tier=tier)
    assert write_response(answer, ASKED, report).get("service_tier") == said
    assert report.mapped == mapped


# ---- errors


@pytest.mark.parametrize(
    ("status", "body", "kind", "message", "code"),
    [
        (
            429,
            b'{"error":{"message":"slow","type":"x","code":"rate_limit_exceeded"}}',
            "rate_limit",
            "slow",
            "rate_limit_exceeded",
        ),
        (400, b'{"error":"plain"}', "invalid", "plain", None),
        (422, b'{"detail":[{"msg":"a"},{"msg":"b"},3]}', "invalid", "a; b", None),
        (422, b'{"detail":"c"}', "invalid", "c", None),
        (502, b"<html>", "server", "the provider answered with status 502", None),
        (503, b"busy", "overloaded", "busy", None),
        (500, b"[]", "server", "the provider answered with status 500", None),
        (500, b'"text"', "server", "text", None),
        (400, b'{"error":{"code":400,"message":"m","param":"input"}}', "invalid", "m", None),
    ],
)
def test_errors_are_read_whatever_they_are(status: int, body: bytes, kind: str, message: str, code: str | None) -> None:
    problem = SPOKE.read_problem(status, body)
    assert (problem.status, problem.kind, problem.message, problem.code) == (status, kind, message, code)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ({"code": "invalid_base64_image", "message": "m"}, 400),
        ({"code": "rate_limit_exceeded"}, 429),
        ({"error": {"type": "authentication_error"}}, 401),
        ({"code": 503}, 503),
        ({"code": True}, 500),
        (None, 500),
    ],
)
def test_an_error_inside_an_answer_has_the_status_of_its_code(value: Any, status: int) -> None:
    assert problem_in(None, value).status == status


def test_errors_are_written_as_the_sdk_reads_them() -> None:
    assert write_problem is not None
    problem = problem_of(400, "m", "c", "input")
    assert write_problem(problem) == {
        "error": {"message": "m", "type": "invalid_request_error", "param": "input", "code": "c"}
    }
    assert write_event(problem) == {"code": "c", "message": "m", "param": "input"}
    assert write_error(problem) == {"code": "invalid_prompt", "message": "m"}
    assert write_event(Problem(status=429, kind="rate_limit", message="m"))["code"] == "rate_limit_error"
    assert write_event(Problem(status=500, kind="server", message="m"))["code"] is None
    assert write_error(Problem(status=503, kind="overloaded", message="m"))["code"] == "server_error"
