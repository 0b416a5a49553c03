"""The hub, with the real spokes: a call goes up in another format, and its answer comes down in the client's own."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from sidecar.core.types import Usage
from sidecar.errors import TranslationError
from sidecar.wire.neutral import Format, Media, Message, Problem, Report, Request, Text
from sidecar.wire.providers import BY_DIALECT, PROVIDERS
from sidecar.wire.spokes import SPOKES
from sidecar.wire.sse import SseParser
from sidecar.wire.translate import (
    Answer,
    Named,
    StreamedAnswer,
    WholeAnswer,
    WrongAnswer,
    changes,
    losses,
    problem_body,
    read,
    say,
)
from tests.fixtures import grammar_messages, said_converse

Json = dict[str, Any]
ASKED: Json = {
    "model": "asked",
    "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
    "max_tokens": 9,
    "stop": ["END"],
}


def call(*, stream: bool = False, **members: Any) -> Request:
    """A client's chat completion."""
    return read(orjson.dumps(ASKED | members), "chat", "asked", stream=stream)


def said(request: Request, form: Format, provider: str) -> tuple[Json, Report]:
    report = Report()
    return orjson.loads(say(request, form, PROVIDERS[provider], "arm", report)), report


def deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def papers(levels: int) -> Json:
    """A document in a document in a document: what the Messages API can nest."""
    block: Json = {"type": "text", "text": "a"}
    for _ in range(levels):
        block = {"type": "document", "source": {"type": "content", "content": [block]}}
    return block


# ---- the call


def test_the_path_says_model_and_stream() -> None:
    body = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    request = read(orjson.dumps(body), "generate", "gemini-pro", stream=True)
    assert (request.model, request.stream, request.format) == ("gemini-pro", True, "generate")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "the body is not valid JSON"),
        (b"[]", "the body: expected an object, got a list"),
        (b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":7}]}]}', r"messages\[0\]"),
        (b'{"model":"m","messages":"hi"}', "messages: expected a list, got a string"),
    ],
)
def test_what_cannot_be_read_says_where(body: bytes, why: str) -> None:
    with pytest.raises(TranslationError, match=why):
        read(body, "chat", "m", stream=False)


def test_what_is_nested_too_deeply_is_refused() -> None:
    """To be read; and to be written, where it could be read."""
    nested = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [papers(250)]}]}
    with pytest.raises(TranslationError, match="nested too deeply"):
        read(orjson_deep(nested), "messages", "m", stream=False)
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": deep(600)}}
    request = read(orjson_deep(ASKED | {"response_format": form}), "chat", "m", stream=False)
    for name, arm in (("anthropic", "messages"), ("google", "generate"), ("openai", "responses")):
        assert losses(request, arm, PROVIDERS[name]) == ("the body",)  # type: ignore[arg-type]  # they are formats
        with pytest.raises(TranslationError, match="nested too deeply"):
            say(request, arm, PROVIDERS[name], "arm", Report())  # type: ignore[arg-type]


def orjson_deep(value: Any) -> bytes:
    """JSON that is nested more deeply than orjson writes."""
    if isinstance(value, dict) and len(value) == 1 and "a" in value:
        levels = 0
        while value:
            value, levels = value["a"], levels + 1
        return b'{"a":' * levels + b"{}" + b"}" * levels
    if isinstance(value, dict) and value.get("type") == "document":
        before, after = b'{"type":"document","source":{"type":"content","content":[', b"]}}"
        levels = 0
        while value["type"] == "document":
            (value,), levels = value["source"]["content"], levels + 1
        return before * levels + orjson.dumps(value) + after * levels
    if isinstance(value, dict):
        return b"{%b}" % b",".join(b"%b:%b" % (orjson.dumps(name), orjson_deep(one)) for name, one in value.items())
    if isinstance(value, list):
        return b"[%b]" % b",".join(orjson_deep(one) for one in value)
    return orjson.dumps(value)


def test_a_call_is_said_in_another_format() -> None:
    body, report = said(call(), "messages", "anthropic")
    assert (body["model"], body["system"], body["max_tokens"]) == ("arm", "be brief", 9)
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert (report.lost, report.mapped) == ([], [])
    body, _ = said(call(), "converse", "bedrock")
    assert body == {
        "messages": [{"role": "user", "content": [{"text": "hi"}]}],
        "system": [{"text": "be brief"}],
        "inferenceConfig": {"maxTokens": 9, "stopSequences": ["END"]},
    }


def test_losses_are_told_before_and_leave_the_call_as_it_was() -> None:
    request = call(seed=7, logit_bias={"5": 1})
    assert losses(request, "messages", PROVIDERS["anthropic"]) == ("seed", "logit_bias")
    assert losses(request, "chat", PROVIDERS["openai"]) == ()
    assert (request.seed, request.model) == (7, "asked")


def test_a_providers_name_for_the_limit() -> None:
    messages = Request(
        format="messages", model="m", max_tokens=9, messages=[Message(role="user", parts=[Text(text="hi")])]
    )
    body, _ = said(messages, "chat", "openai")
    assert (body.get("max_tokens"), body["max_completion_tokens"]) == (None, 9)
    assert said(messages, "chat", "vllm")[0]["max_tokens"] == 9
    messages.max_tokens = None
    assert "max_completion_tokens" not in said(messages, "chat", "openai")[0]


def test_usage_is_asked_for_in_streams_of_chat() -> None:
    request = Request(format="messages", model="m", messages=[Message(role="user", parts=[Text(text="hi")])])
    assert "stream_options" not in said(request, "chat", "openai")[0]
    request.stream = True
    body, _ = said(request, "chat", "openai")
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert said(request, "chat", "openrouter")[0]["usage"] == {"include": True}
    assert "stream_options" not in said(request, "responses", "openai")[0]


def test_what_a_server_refuses_is_lost() -> None:
    """Only of other formats' calls, and not where it asks for nothing."""
    request = Request(
        format="generate", model="m", messages=[], n=2, seed=0, logprobs=0, frequency_penalty=0, service_tier="flex"
    )
    body, report = said(request, "chat", "deepseek")
    assert (report.lost, report.mapped) == (["n", "seed"], ["service_tier"])
    assert not {"n", "seed", "service_tier"} & set(body)
    assert body["logprobs"] is True
    assert (request.n, request.seed) == (2, 0)
    assert said(request, "chat", "groq")[1].lost == ["logprobs", "n"]
    request.n = 1
    assert "n" not in said(request, "chat", "groq")[1].lost
    assert said(call(n=2), "chat", "groq")[0]["n"] == 2
    plain = Request(format="generate", model="m", messages=[])
    assert said(plain, "chat", "groq")[1].lost == []


def test_changes_are_names_and_bounded() -> None:
    report = Report()
    assert changes(report) == ""
    report.map("max_tokens")
    report.lose("messages[0].content[1].citations")
    report.lose("output.a b\r\nx: é")
    report.lose("")
    assert changes(report) == "messages[0].content[1].citations, output.a_b__x___, max_tokens"
    for number in range(20):
        report.lose("x" * 100 + str(number))
    told = changes(report).split(", ")
    assert (len(told), told[-1]) == (17, "and-7-more")
    assert max(map(len, told)) == 64


# ---- whole answers

CHAT: Json = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "arm",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


def whole(request: Request, form: Format, body: bytes, status: int = 200) -> tuple[Answer, Json]:
    answer = WholeAnswer(request, form, status, Report())
    half = len(body) // 2
    assert answer.feed(body[:half]) == b""
    assert answer.feed(body[half:]) == b""
    return answer, orjson.loads(answer.end())


def test_a_whole_answer() -> None:
    request = Request(format="messages", model="asked", messages=[])
    answer, body = whole(request, "chat", orjson.dumps(CHAT))
    assert (body["type"], body["id"], body["stop_reason"]) == ("message", "c1", "end_turn")
    assert body["content"] == [{"type": "text", "text": "hello"}]
    assert (body["usage"]["input_tokens"], body["usage"]["output_tokens"]) == (3, 2)
    (piece,) = answer.pieces
    assert (piece.completion_id, piece.usage, piece.terminal) == ("c1", Usage(input_tokens=3, output_tokens=2), True)


def test_an_error_is_told_in_the_clients_dialect() -> None:
    request = Request(format="messages", model="asked", messages=[])
    answer, body = whole(request, "chat", b'{"error":{"message":"slow down","type":"rate","code":"slow"}}', 429)
    assert body == {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
    assert isinstance(answer, WholeAnswer)
    assert answer.problem is not None
    assert (answer.problem.status, answer.problem.kind, answer.pieces) == (429, "rate_limit", [])


@pytest.mark.parametrize("client", ["chat", "responses", "messages", "generate"])
def test_an_error_of_ours(client: Format) -> None:
    problem = Problem(status=400, kind="invalid", message="this arm cannot")
    assert "this arm cannot" in problem_body(problem, client).decode()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>", "it is no JSON"),
        (b"", "it is no JSON"),
        (b'{"type":"message","content":[]}', "choices"),
        (b'{"choices":[{"index":0,"message":{"content":7}}]}', r"choices\[0\]"),
    ],
)
def test_an_answer_of_another_format_is_the_arms_fault(body: bytes, why: str) -> None:
    answer = WholeAnswer(call(), "chat", 200, Report())
    answer.feed(body)
    with pytest.raises(WrongAnswer, match=why):
        answer.end()


def test_an_answer_that_is_nested_too_deeply() -> None:
    """To be read, or to be written."""
    given = orjson.dumps(orjson_deep(deep(600)).decode())
    called = b'{"choices":[{"index":0,"message":{"tool_calls":[{"id":"a","type":"function","function":{"name":"f",'
    answers: list[tuple[Format, Format, bytes]] = [
        ("chat", "messages", orjson_deep({"type": "message", "content": [papers(250)]})),
        ("messages", "chat", b'%b"arguments":%b}}]}}]}' % (called, given)),
    ]
    for client, form, body in answers:
        answer = WholeAnswer(Request(format=client, model="m", messages=[]), form, 200, Report())
        answer.feed(body)
        with pytest.raises(WrongAnswer, match="nested too deeply"):
            answer.end()


# ---- streams


def chunk(choices: list[Json], **members: Any) -> bytes:
    said = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "arm", "choices": choices, **members}
    return b"data: %b\n\n" % orjson.dumps(said)


def test_a_stream() -> None:
    answer = StreamedAnswer(Request(format="messages", model="asked", messages=[], stream=True), "chat", Report())
    first = answer.feed(chunk([{"index": 0, "delta": {"role": "assistant", "content": "he"}}]))
    assert b'"he"' in first  # at once
    assert (answer.begun, answer.done) == (True, False)
    out = first + answer.feed(chunk([{"index": 0, "delta": {"content": "llo"}}])[:20])
    out += answer.feed(chunk([{"index": 0, "delta": {"content": "llo"}}])[20:])
    out += answer.feed(chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    out += answer.feed(chunk([], usage=CHAT["usage"]) + b"data: [DONE]\n\n")
    assert answer.done
    out += answer.end()
    events = SseParser().feed(out)
    grammar_messages.check(events)
    assert sum(piece.text_bytes for piece in answer.pieces) == 5
    usages = [piece.usage for piece in answer.pieces if piece.usage is not None]
    assert usages[-1] == Usage(input_tokens=3, output_tokens=2)


def test_a_binary_stream() -> None:
    """Bedrock's frames, cut anywhere."""
    body = {
        "output": {"message": {"content": [{"text": "hello"}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5},
        "metrics": {"latencyMs": 1},
    }
    data = b"".join(said_converse.frames(body, 2))
    answer = StreamedAnswer(Request(format="messages", model="asked", messages=[], stream=True), "converse", Report())
    out = b"".join(answer.feed(data[at : at + 7]) for at in range(0, len(data), 7))
    assert (answer.end(), answer.done) == (b"", True)
    grammar_messages.check(SseParser().feed(out))
    for piece in (b'"he"', b'"ll"', b'"o"'):
        assert piece in out


def test_an_error_ends_a_stream() -> None:
    answer = StreamedAnswer(call(stream=True), "converse", Report())
    out = answer.feed(said_converse.exception("throttlingException", {"message": "slow down"}))
    assert (answer.done, answer.end(), b"slow down" in out) == (True, b"", True)
    assert [piece.error for piece in answer.pieces] == ["throttlingException"]


def test_a_stream_that_is_none() -> None:
    answer = StreamedAnswer(call(stream=True), "converse", Report())
    with pytest.raises(WrongAnswer, match="checksum"):
        answer.feed(b'{"message":"I am no event stream"}')


def test_a_stream_of_another_format() -> None:
    answer = StreamedAnswer(call(stream=True), "messages", Report())
    assert answer.feed(chunk([{"index": 0, "delta": {"content": "hi"}}])) == b""
    with pytest.raises(WrongAnswer, match="another format"):
        answer.end()


def test_a_stream_without_its_end() -> None:
    answer = StreamedAnswer(Request(format="messages", model="m", messages=[]), "chat", Report())
    answer.feed(chunk([{"index": 0, "delta": {"role": "assistant", "content": "hi"}}]))
    with pytest.raises(WrongAnswer, match="no end"):
        answer.end()


def test_a_stream_that_is_nested_too_deeply() -> None:
    start = b'event: message_start\ndata: {"type":"message_start","message":{"id":"a","model":"m"}}\n\n'
    block = orjson_deep({"type": "content_block_start", "index": 0, "content_block": papers(250)})
    answer = StreamedAnswer(call(stream=True), "messages", Report())
    with pytest.raises(WrongAnswer, match="nested too deeply"):
        answer.feed(start + b"event: content_block_start\ndata: " + block + b"\n\n")


def chat_calls(numbers: range) -> bytes:
    calls = [{"index": n, "id": f"c{n}", "function": {"name": "f", "arguments": "{"}} for n in numbers]
    return b"data: %b\n\n" % orjson.dumps({"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": calls}}]})


def messages_calls(numbers: range) -> bytes:
    blocks = [{"type": "tool_use", "id": f"c{n}", "name": "f", "input": {}} for n in numbers]
    events: list[Json] = [
        {"type": "message_start", "message": {"id": "m", "usage": {}}},
        *({"type": "content_block_start", "index": n, "content_block": block} for n, block in enumerate(blocks)),
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{"}},
    ]
    return b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in events)


def converse_calls(numbers: range) -> bytes:
    starts = [{"contentBlockIndex": n, "start": {"toolUse": {"toolUseId": f"c{n}", "name": "f"}}} for n in numbers]
    events = [("messageStart", {"role": "assistant"}), *(("contentBlockStart", start) for start in starts)]
    return b"".join(said_converse.event(name, body) for name, body in events)


@pytest.mark.parametrize(
    ("arm", "calls"), [("chat", chat_calls), ("messages", messages_calls), ("converse", converse_calls)]
)
def test_calls_without_end_are_no_answer(arm: Format, calls: Callable[[range], bytes]) -> None:
    """SEC-BOMBS: each one that begins is compared with those that are open; one read may hold a hundred thousand."""
    most = streamed(arm, calls(range(1024)))
    assert (most.done, len(most.pieces) > 1000) == (False, True)
    more = streamed(arm, calls(range(1100)))
    assert more.done
    assert more.pieces[-1].error == "server"
    assert len(more.pieces) < 2200


def streamed(arm: Format, data: bytes) -> StreamedAnswer:
    asked: Json = {"model": "asked", "input": "hi"}
    answer = StreamedAnswer(read(orjson.dumps(asked), "responses", "asked", stream=True), arm, Report())
    answer.feed(data)
    return answer


def test_every_spoke_reads_an_upstreams_error() -> None:
    """Whatever its body is."""
    for form, spoke in SPOKES.items():
        for body in (b"", b"<html>", b"[1]", b'{"error":1}', b'{"message":"m"}'):
            problem = spoke.read_problem(503, body)
            assert (problem.status, problem.kind) == (503, "overloaded"), form


def test_what_a_provider_does_not_say_of_its_answer() -> None:
    """Cohere names no model and no time: they are those of the call; what it says stays."""
    named = Named(id="ours", model="command", created=7)
    message = {"role": "assistant", "content": [{"type": "text", "text": "hello"}]}
    answer = WholeAnswer(call(), "cohere", 200, Report(), named)
    answer.feed(orjson.dumps({"id": "theirs", "message": message, "finish_reason": "COMPLETE"}))
    body = orjson.loads(answer.end())
    assert (body["id"], body["model"], body["created"]) == ("theirs", "command", 7)
    assert answer.pieces[0].model == "command"
    stream = StreamedAnswer(call(stream=True), "cohere", Report(), named)
    start = {"type": "message-start", "delta": {"message": {"role": "assistant"}}}
    first = SseParser().feed(stream.feed(b"event: message-start\ndata: %b\n\n" % orjson.dumps(start)))
    said = orjson.loads(first[0].data)
    assert (said["id"], said["model"], said["created"]) == ("ours", "command", 7)


def begun() -> StreamedAnswer:
    """A stream that said something."""
    answer = StreamedAnswer(Request(format="messages", model="m", messages=[]), "chat", Report())
    assert answer.feed(chunk([{"index": 0, "delta": {"role": "assistant", "content": "hi"}}]))
    return answer


def test_a_stream_that_told_why_it_stopped_is_through() -> None:
    """Also without the provider's last event; the meter is not told of one."""
    answer = begun()
    answer.feed(chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    answer.pieces.clear()
    assert b"message_stop" in answer.end()
    assert answer.done
    assert not any(piece.terminal for piece in answer.pieces)


def test_a_last_event_without_its_blank_line() -> None:
    answer = begun()
    assert not answer.feed(b"data: [DONE]")
    assert b"message_stop" in answer.end()
    assert answer.pieces[-1].terminal


def test_a_binary_stream_has_no_blank_lines() -> None:
    answer = StreamedAnswer(call(stream=True), "converse", Report())
    with pytest.raises(WrongAnswer, match="another format"):
        answer.end()


def test_an_answer_of_many_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up; of an error so much is read as tells what is wrong."""
    monkeypatch.setattr("sidecar.wire.translate.MAX_WHOLE_BYTES", 100)
    answer = WholeAnswer(call(), "messages", 200, Report())
    answer.feed(b" " * 100)
    with pytest.raises(WrongAnswer, match="too large"):
        answer.feed(b" ")
    problem = WholeAnswer(call(), "messages", 500, Report())
    for _ in range(8):
        problem.feed(b"<" * 100_000)
    assert orjson.loads(problem.end())["error"]
    assert sum(len(part) for part in problem._parts) <= 256 * 1024


def test_usage_is_not_asked_of_who_does_not_know_the_question() -> None:
    """Neither in OpenAI's words nor in those of one provider."""
    request = Request(format="messages", model="m", messages=[], stream=True, include_usage=True)
    for name in ("openai", "openrouter"):
        body = orjson.loads(say(request, "chat", PROVIDERS[name], "m", Report(), ask_usage=False))
        assert not {"stream_options", "usage"} & body.keys()


def test_a_hint_of_how_to_stream_is_no_loss() -> None:
    """Vercel's SDK sets it on every tool of a stream."""
    tools = [
        {"name": "f", "input_schema": {"type": "object"}, "eager_input_streaming": True},
        {"name": "g", "input_schema": {}},
    ]
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "tools": tools}
    request = read(orjson.dumps(body), "messages", "m", stream=True)
    assert losses(request, "chat", BY_DIALECT["openai"]) == ()
    said = orjson.loads(say(request, "messages", BY_DIALECT["anthropic"], "m", Report()))
    assert said["tools"] == tools


@pytest.mark.parametrize("arm", ["google", "cohere", "bedrock"])
def test_one_call_at_a_time_is_no_reason_to_refuse(arm: str) -> None:
    """There is no word for it, so the answer is held to it; without tools it asks for nothing."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    form = next(iter(PROVIDERS[arm].paths))
    told = [
        name for name in said(call(parallel_tool_calls=False, tools=[tool]), form, arm)[1].mapped if "tools" in name
    ]
    assert told == ["parallel_tools"]
    assert losses(call(parallel_tool_calls=False, tools=[tool]), form, PROVIDERS[arm]) == ()
    assert "parallel_tools" not in said(call(parallel_tool_calls=False), form, arm)[1].mapped


def calls(*names: str) -> Json:
    """Gemini's answer with these calls."""
    parts = [{"functionCall": {"name": name, "args": {}}} for name in names]
    return {
        "candidates": [{"content": {"parts": [*parts, {"text": "!"}]}, "finishReason": "STOP"}],
        "modelVersion": "g",
    }


@pytest.mark.parametrize(("asked", "expected"), [({}, ["a", "b"]), ({"parallel_tool_calls": False}, ["a"])])
def test_further_calls_are_left_out(asked: Json, expected: list[str]) -> None:
    """Where the client asked for one at a time; text is not, and what the model said is counted."""
    _, body = whole(call(**asked), "generate", orjson.dumps(calls("a", "b")))
    message = body["choices"][0]["message"]
    assert ([one["function"]["name"] for one in message["tool_calls"]], message["content"]) == (expected, "!")

    answer = StreamedAnswer(call(stream=True, **asked), "generate", Report())
    out = answer.feed(b"data: " + orjson.dumps(calls("a", "b")) + b"\n\n") + answer.end()
    events = [orjson.loads(event.data) for event in SseParser(1 << 20).feed(out) if event.data != b"[DONE]"]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    begun = [one["function"]["name"] for delta in deltas for one in delta.get("tool_calls", []) if "id" in one]
    assert begun == expected
    assert "".join(delta.get("content") or "" for delta in deltas) == "!"
    assert sum(piece.called for piece in answer.pieces) == 2


# ---- answers whose provider says that they failed


FAILED_CHOICE: Json = {"index": 0, "message": {"content": "half"}, "finish_reason": "error"}
FAILED_TEXT = "the provider says that its answer failed"


def ended(reason: str) -> Json:
    """Gemini's answer that ends for this reason."""
    return {"candidates": [{"finishReason": reason}]}


@pytest.mark.parametrize(
    ("form", "answer", "status", "message"),
    [
        ("chat", {"choices": [FAILED_CHOICE]}, 502, FAILED_TEXT),
        ("chat", {"choices": [FAILED_CHOICE | {"error": {"code": 429, "message": "slow"}}]}, 429, "slow"),
        ("chat", {"error": {"code": 503, "message": "busy"}}, 503, "busy"),
        ("responses", {"output": [], "status": "failed", "error": {"code": "server_error", "message": "x"}}, 500, "x"),
        ("responses", {"output": [], "status": "cancelled"}, 502, "the provider's answer failed or was cancelled"),
        ("generate", ended("MALFORMED_FUNCTION_CALL"), 502, f"{FAILED_TEXT}: MALFORMED_FUNCTION_CALL"),
        ("chat", {"choices": [FAILED_CHOICE | {"finishReason": "Words of an answer"}]}, 502, FAILED_TEXT),
    ],
)
def test_a_whole_answer_that_failed_is_an_error(form: Format, answer: Json, status: int, message: str) -> None:
    """In the client's dialect, with the provider's own words where there are some; the meter learns that it failed."""
    asked = Request(format="messages", model="m", messages=[])
    made, body = whole(asked, form, orjson.dumps(answer))
    assert isinstance(made, WholeAnswer)
    assert made.problem is not None
    assert (made.problem.status, body["type"], body["error"]["message"]) == (status, "error", message)
    assert made.pieces[-1].error


def test_a_stream_that_stops_by_a_failure_ends_with_an_error() -> None:
    """What is counted behind it is metered still, and nothing more is told."""
    answer = StreamedAnswer(Request(format="messages", model="m", messages=[], stream=True), "chat", Report())
    out = answer.feed(chunk([{"index": 0, "delta": {"content": "half"}}]))
    out += answer.feed(chunk([{"index": 0, "delta": {}, "finish_reason": "error"}]))
    behind = (
        answer.feed(chunk([], usage={"prompt_tokens": 3, "completion_tokens": 4}) + b"data: [DONE]\n\n") + answer.end()
    )
    events = [event.name for event in SseParser(1 << 20).feed(out)]
    assert (events[-1], b"message_stop" in events, behind) == (b"error", False, b"")
    assert any(piece.error for piece in answer.pieces)
    assert any(piece.usage is not None and piece.usage.output_tokens == 4 for piece in answer.pieces)


@pytest.mark.parametrize("client", ["chat", "responses", "messages"])
def test_a_call_that_cannot_be_read_is_no_end_of_a_stream(client: Format) -> None:
    """No dialect but Gemini's has a word for it, and every other end would be taken for a good one."""
    answer = StreamedAnswer(Request(format=client, model="m", messages=[], stream=True), "generate", Report())
    out = answer.feed(b"data: " + orjson.dumps(ended("MALFORMED_FUNCTION_CALL")) + b"\n\n") + answer.end()
    assert FAILED_TEXT.encode() + b": MALFORMED_FUNCTION_CALL" in out
    assert b'"error"' in out
    for good in (b"[DONE]", b"message_stop", b"response.completed", b'"finish_reason":"stop"'):
        assert good not in out


@pytest.mark.parametrize("arm", ["openai", "anthropic", "cohere", "bedrock"])
def test_the_name_of_a_picture_is_told_to_be_missing(arm: str) -> None:
    """Only Gemini's clients give one; the picture itself is there."""
    picture = Media(kind="image", media_type="image/png", data="AA==", name="cat")
    request = Request(format="generate", model="m", messages=[Message(role="user", parts=[picture, Text(text="?")])])
    for form in PROVIDERS[arm].paths:
        report = said(request, form, arm)[1]
        assert report.lost == []
        assert [name for name in report.mapped if name.endswith(".name")] != []


@pytest.mark.parametrize("arm", ["anthropic", "google", "cohere", "bedrock"])
def test_an_app_that_names_its_users_is_served(arm: str) -> None:
    """Who asks, labels, tiers and caches are hints: no answer depends on them."""
    hints = {
        "user": "u",
        "safety_identifier": "s",
        "metadata": {"a": "b"},
        "prompt_cache_key": "k",
        "service_tier": "flex",
    }
    request = read(orjson.dumps({"model": "m", "messages": [], **hints, "store": False}), "chat", "m", stream=False)
    assert losses(request, next(iter(PROVIDERS[arm].paths)), PROVIDERS[arm]) == ()


@pytest.mark.parametrize("form", ["chat", "responses"])
def test_a_users_name_that_openai_refuses_for_its_length(form: Format) -> None:
    """Claude Code names device, account and session: such a name is said as its hash, the same each time."""
    said: Json = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    names = ["u" * 64, "u" * 65, "u" * 65, "u" * 64 + "v"]
    asked = [
        read(orjson.dumps({**said, "metadata": {"user_id": name}}), "messages", "m", stream=False) for name in names
    ]
    reports = [Report() for _ in names]
    sent = [
        orjson.loads(say(one, form, PROVIDERS["openai"], "m", report))["user"]
        for one, report in zip(asked, reports, strict=True)
    ]
    assert sent[0] == names[0]
    assert [len(user) for user in sent] == [64] * 4
    assert sent[1] == sent[2] != sent[3]
    assert ["user" in report.mapped for report in reports] == [False, True, True, True]
    assert not any(report.lost for report in reports)


@pytest.mark.parametrize(("form", "most"), [("chat", 40), ("responses", 64)])
def test_ids_of_calls_that_openai_refuses_for_their_length(form: Format, most: int) -> None:
    """Some gateways put signatures into them: the same other id stands in the call and in its result."""
    ids = ["c" * most, "c" * most + "1", "c" * most + "2"]
    uses = [{"type": "tool_use", "id": one, "name": "f", "input": {}} for one in ids]
    results = [{"type": "tool_result", "tool_use_id": one, "content": "1"} for one in ids]
    turns = [{"role": "assistant", "content": uses}, {"role": "user", "content": results}]
    asked = read(orjson.dumps({"model": "m", "max_tokens": 9, "messages": turns}), "messages", "m", stream=False)
    report = Report()
    body = orjson.loads(say(asked, form, PROVIDERS["openai"], "m", report))
    if form == "chat":
        called = [one["id"] for one in body["messages"][0]["tool_calls"]]
        answered = [one["tool_call_id"] for one in body["messages"][1:]]
    else:
        called, answered = [[one["call_id"] for one in body["input"][at : at + 3]] for at in (0, 3)]
    assert called == answered
    assert called[0] == ids[0]
    assert len({*called}) == 3
    assert max(map(len, called)) == most
    assert not report.lost
    assert ids[1].encode() in say(asked, form, PROVIDERS["vllm"], "m", Report())


@pytest.mark.parametrize("form", ["chat", "messages", "generate", "cohere", "converse"])
def test_what_codex_says_of_itself_is_a_hint(form: Format) -> None:
    said = {"model": "m", "input": "hi", "client_metadata": {"x-codex-installation-id": "u"}}
    report = Report()
    provider = next(one for one in PROVIDERS.values() if form in one.paths)
    say(read(orjson.dumps(said), "responses", "m", stream=False), form, provider, "m", report)
    assert report.lost == []
    assert "client_metadata" in report.mapped


@pytest.mark.parametrize("form", ["chat", "responses", "generate", "cohere", "converse"])
def test_which_thoughts_to_keep_is_a_hint(form: Format) -> None:
    """Claude Code says with each call that thoughts are kept: another provider gets none that it did not make. Results of
    tools that the provider shall take out are more than that."""
    provider = next(one for one in PROVIDERS.values() if form in one.paths)
    thoughts = {"type": "clear_thinking_20251015", "keep": "all"}
    results = {"type": "clear_tool_uses_20250919"}
    said = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    for edits, lost in (([thoughts], []), ([], []), ([thoughts, results], ["context_management"])):
        edited = {**said, "context_management": {"edits": edits}}
        request, report = read(orjson.dumps(edited), "messages", "m", stream=False), Report()
        say(request, form, provider, "m", report)
        assert report.lost == lost
        assert "context_management" in report.lost + report.mapped
        assert orjson.loads(say(request, "messages", BY_DIALECT["anthropic"], "m", Report())) == edited


@pytest.mark.parametrize("form", ["chat", "responses", "generate", "cohere", "converse"])
def test_a_mark_of_what_to_cache_is_a_hint_wherever_it_stands(form: Format) -> None:
    """Claude Code marks a prompt for all its sessions; a mark at the top is Anthropic's automatic one; fast is a pace."""
    provider = next(one for one in PROVIDERS.values() if form in one.paths)
    mark = {"type": "ephemeral", "scope": "global"}
    said = {
        "model": "m",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "s", "cache_control": mark}],
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}, "cache_control": mark}],
        "cache_control": {"type": "ephemeral"},
        "speed": "fast",
    }
    request, report = read(orjson.dumps(said), "messages", "m", stream=False), Report()
    say(request, form, provider, "m", report)
    assert report.lost == []
    assert {"cache_control", "speed", "tools[0].cache_control"} < set(report.mapped)
    assert orjson.loads(say(request, "messages", BY_DIALECT["anthropic"], "m", Report())) == said


@pytest.mark.parametrize("form", ["chat", "responses", "generate", "cohere", "converse"])
def test_a_call_that_says_it_is_the_models_own(form: Format) -> None:
    """Anthropic says `caller` of each call, and its SDKs give it back; only a program's call means more."""
    provider = next(one for one in PROVIDERS.values() if form in one.paths)
    for caller, lost in (({"type": "direct"}, False), (None, False), ({"type": "code", "tool_id": "s"}, True)):
        use = {"type": "tool_use", "id": "c", "name": "f", "input": {}, "caller": caller}
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": [use]}]
        asked = read(orjson.dumps({"model": "m", "max_tokens": 9, "messages": turns}), "messages", "m", stream=False)
        assert any("caller" in one for one in losses(asked, form, provider)) is lost
