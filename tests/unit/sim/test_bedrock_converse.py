"""Bedrock Converse's dialect of the simulated provider."""

import orjson
import pytest

from sidecar.sim.knobs import Distribution, Fault
from tests.unit.sim.ask import SCHEMA, WANTED, Reply, ask, service

WHOLE = "/model/anthropic.claude-x-v1%3A0/converse"
STREAM = "/model/anthropic.claude-x-v1%3A0/converse-stream"
USER = {"role": "user", "content": [{"text": "What is 17 + 25?"}]}
BODY = {"messages": [USER], "inferenceConfig": {"maxTokens": 500}}
TOOLS = {"tools": [{"toolSpec": {"name": name, "inputSchema": {"json": SCHEMA}}} for name in ("weather", "clock")]}
CALL = {"toolUse": {"toolUseId": "a", "name": "weather", "input": {}}}
RESULT = {"toolResult": {"toolUseId": "a", "content": [{"text": "sunny"}]}}


def told(reply: Reply) -> list[tuple[str, dict]]:
    return [(event.name.decode(), orjson.loads(event.data)) for event in reply.frames]


def test_a_whole_answer_counts_as_bedrock_does() -> None:
    """The input excludes what the cache gave, the total includes it."""
    sim = service(cached_fraction=0.5, ttft=Distribution(0.25))
    reply = ask(sim, WHOLE, BODY)
    shape = reply.json
    usage = shape["usage"]
    assert usage["totalTokens"] == usage["inputTokens"] + usage["cacheReadInputTokens"] + 24
    assert usage["cacheReadInputTokens"] > 0
    assert (shape["stopReason"], shape["metrics"]["latencyMs"]) == ("end_turn", 250)
    assert "42" in shape["output"]["message"]["content"][0]["text"]
    assert b"x-amzn-requestid: " in reply.head


def test_a_stream_is_aws_binary() -> None:
    """A text has no contentBlockStart; the usage comes last; every event is padded."""
    reply = ask(service(), STREAM, BODY)
    assert b"content-type: application/vnd.amazon.eventstream" in reply.head
    events = told(reply)
    kinds = [kind for kind, _ in events]
    assert kinds == ["messageStart", *["contentBlockDelta"] * 24, "contentBlockStop", "messageStop", "metadata"]
    assert "42" in "".join(data["delta"]["text"] for kind, data in events if kind == "contentBlockDelta")
    assert events[-1][1]["usage"]["outputTokens"] == 24
    assert all(data["p"] for _, data in events)


def test_parallel_calls_are_streamed_in_pieces() -> None:
    """Each call is a block that has a start; pieces make up the arguments."""
    events = told(ask(service(tool_calls=2), STREAM, BODY | {"toolConfig": TOOLS}))
    starts = [data["start"]["toolUse"] for kind, data in events if kind == "contentBlockStart"]
    assert [start["name"] for start in starts] == ["weather", "clock"]
    assert starts[0]["toolUseId"] != starts[1]["toolUseId"]
    for index in (0, 1):
        deltas = [data for kind, data in events if kind == "contentBlockDelta" and data["contentBlockIndex"] == index]
        assert len(deltas) > 2
        assert orjson.loads("".join(data["delta"]["toolUse"]["input"] for data in deltas)) == WANTED
    assert ("messageStop", "tool_use") in [(kind, data.get("stopReason")) for kind, data in events]


def test_calls_and_their_results() -> None:
    """Whole calls; a tool that the request names; text after the results."""
    shape = ask(service(), WHOLE, BODY | {"toolConfig": TOOLS}).json
    use = shape["output"]["message"]["content"][0]["toolUse"]
    assert (use["name"], use["input"], shape["stopReason"]) == ("weather", WANTED, "tool_use")
    chosen = TOOLS | {"toolChoice": {"tool": {"name": "clock"}}}
    named = ask(service(), WHOLE, BODY | {"toolConfig": chosen}).json["output"]["message"]["content"]
    assert named[0]["toolUse"]["name"] == "clock"
    messages = [USER, {"role": "assistant", "content": [CALL]}, {"role": "user", "content": [RESULT]}]
    after = ask(service(), WHOLE, {"messages": messages, "toolConfig": TOOLS}).json
    assert "text" in after["output"]["message"]["content"][0]


def test_thinking_is_signed() -> None:
    """reasoningContent stands before the text, whole and streamed."""
    sim = service(reasoning_tokens=Distribution(3), reasoning_visible=True)
    thought = ask(sim, WHOLE, BODY).json["output"]["message"]["content"][0]["reasoningContent"]["reasoningText"]
    assert thought["text"]
    assert thought["signature"]
    deltas = [data["delta"] for kind, data in told(ask(sim, STREAM, BODY)) if kind == "contentBlockDelta"]
    reasoning = [set(delta["reasoningContent"]) for delta in deltas[:4]]
    assert reasoning == [{"text"}, {"text"}, {"text"}, {"signature"}]
    assert "text" in deltas[4]


def test_schema_output() -> None:
    """The schema is JSON text in outputConfig."""
    schema = {
        "textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": orjson.dumps(SCHEMA).decode()}}}
    }
    said = ask(service(), WHOLE, BODY | {"outputConfig": schema}).json["output"]["message"]["content"][0]["text"]
    assert orjson.loads(said) == WANTED
    assert "text" in ask(service(), WHOLE, BODY | {"outputConfig": {}}).json["output"]["message"]["content"][0]


def test_how_answers_end() -> None:
    """A limit, a filter, a guardrail, a malformed call and a refusal, each in Bedrock's words."""
    short = {"messages": [USER], "inferenceConfig": {"maxTokens": 3}}
    assert ask(service(), WHOLE, short).json["stopReason"] == "max_tokens"
    assert ask(service(filtered=1.0), WHOLE, BODY).json["stopReason"] == "content_filtered"
    blocked = ask(service(blocked=1.0), WHOLE, BODY).json
    assert (blocked["stopReason"], blocked["usage"]["outputTokens"]) == ("guardrail_intervened", 0)
    assert blocked["output"]["message"]["content"][0]["text"].startswith("Sorry")
    bare = {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {}}}}]}
    assert ask(service(malformed=1.0), WHOLE, BODY | {"toolConfig": bare}).json["stopReason"] == "malformed_tool_use"
    assert ask(service(refusal=1.0), WHOLE, BODY).json["stopReason"] == "end_turn"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "Malformed"),
        (b'{"messages":[{"role":"user","content":[{"text":"\\ud800"}]}]}', "Malformed"),
        ({"messages": "x"}, "Expected"),
        ({}, "start with a user"),
        ({"messages": [{"role": "assistant", "content": [{"text": "x"}]}]}, "start with a user"),
        ({"messages": [USER, USER]}, "alternate"),
        ({"messages": [{"role": "user", "content": []}]}, "empty"),
        ({"messages": [{"role": "user", "content": [{"text": ""}]}]}, "blank"),
        ({"messages": [{"role": "user", "content": [{"text": "x", "image": {}}]}]}, "exactly one"),
        ({"messages": [USER, {"role": "assistant", "content": [CALL]}, USER], "toolConfig": TOOLS}, "toolResult"),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"toolUse": {"input": "x"}}]}], "toolConfig": TOOLS},
            "json object",
        ),
        ({"messages": [USER, {"role": "assistant", "content": [CALL]}]}, "toolConfig"),
        (BODY | {"outputConfig": {"textFormat": {"structure": {"jsonSchema": {"schema": "{"}}}}}, "not valid JSON"),
    ],
)
def test_wrong_requests_are_validation_exceptions(body: object, said: str) -> None:
    """The rules of turns, blocks and results are the service's."""
    reply = ask(service(), WHOLE, body)
    assert (reply.status, b"x-amzn-errortype: validationexception" in reply.head) == (400, True)
    assert said in reply.json["message"]


@pytest.mark.parametrize(
    ("status", "kind"), [(429, b"throttling"), (503, b"serviceunavailable"), (500, b"internalserver")]
)
def test_faults_in_bedrocks_form(status: int, kind: bytes) -> None:
    """The exception's name stands in a header."""
    sim = service()
    sim.set_faults([Fault("status", status=status)])
    reply = ask(sim, WHOLE, BODY)
    assert (reply.status, b"x-amzn-errortype: " + kind + b"exception" in reply.head) == (status, True)
    assert reply.json["message"]


def test_a_broken_stream_ends_with_an_exception() -> None:
    """It is a message of its own type in the binary stream."""
    sim = service()
    sim.set_faults([Fault("error_event", after_tokens=2)])
    assert ask(sim, STREAM, BODY).frames[-1].name == b"!internalServerException"
