"""Cohere's dialect of the simulated provider."""

import orjson
import pytest

from sidecar.sim.knobs import Distribution, Fault
from tests.unit.sim.ask import SCHEMA, WANTED, ask, service

PATH = "/v2/chat"
BODY = {"model": "command-x", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("weather", "clock")]


def test_a_whole_answer_has_both_counts() -> None:
    """`tokens` has the template's tokens, `billed_units` has not; thinking is billed as output."""
    shape = ask(service(cached_fraction=0.5, reasoning_tokens=Distribution(6)), PATH, BODY).json
    usage = shape["usage"]
    assert usage["billed_units"]["output_tokens"] == usage["tokens"]["output_tokens"] == 30
    assert usage["tokens"]["input_tokens"] > usage["billed_units"]["input_tokens"] >= 2 * usage["cached_tokens"] > 0
    assert (shape["finish_reason"], "42" in shape["message"]["content"][0]["text"]) == ("COMPLETE", True)
    assert len(shape["id"]) == 36


def test_a_stream_is_begun_and_ended() -> None:
    """message-start, one content, message-end with the usage, and no [DONE]."""
    events = ask(service(), PATH, BODY | {"stream": True}).named
    kinds = [kind for kind, _ in events]
    assert kinds == ["message-start", "content-start", *["content-delta"] * 24, "content-end", "message-end"]
    assert all(data["type"] == kind for kind, data in events)
    assert "42" in "".join(data["delta"]["message"]["content"]["text"] for _, data in events[2:26])
    assert events[-1][1]["delta"]["usage"]["billed_units"]["output_tokens"] == 24
    assert events[0][1]["id"]


def test_parallel_calls_are_streamed_in_pieces() -> None:
    """The plan comes first; each call has its index; pieces make up the arguments."""
    body = BODY | {"tools": TOOLS, "stream": True}
    events = ask(service(tool_calls=2), PATH, body).named
    calls: dict[int, list[str]] = {}
    names = []
    for kind, data in events:
        if kind == "tool-call-start":
            call = data["delta"]["message"]["tool_calls"]
            names.append(call["function"]["name"])
            calls[data["index"]] = [call["function"]["arguments"]]
        elif kind == "tool-call-delta":
            calls[data["index"]].append(data["delta"]["message"]["tool_calls"]["function"]["arguments"])
    assert names == ["weather", "clock"]
    assert [orjson.loads("".join(pieces)) for pieces in calls.values()] == [WANTED, WANTED]
    assert all(len(pieces) > 2 for pieces in calls.values())
    assert events[1][0] == "tool-plan-delta"
    assert events[-1][1]["delta"]["finish_reason"] == "TOOL_CALL"


def test_calls_and_their_results() -> None:
    """Whole calls have ids of their own; once they are answered the model says text; NONE forbids calls."""
    sim = service(tool_calls=2)
    message = ask(sim, PATH, BODY | {"tools": TOOLS}).json["message"]
    first, second = message["tool_calls"]
    assert first["id"] != second["id"]
    assert message["tool_plan"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in (first, second)]
    answered = [*BODY["messages"], message | {"role": "assistant"}, *results]
    assert "content" in ask(sim, PATH, BODY | {"tools": TOOLS, "messages": answered}).json["message"]
    assert "tool_calls" not in ask(sim, PATH, BODY | {"tools": TOOLS, "tool_choice": "NONE"}).json["message"]


@pytest.mark.parametrize("member", ["json_schema", "schema"])
def test_schema_output(member: str) -> None:
    """A schema is satisfied under its new and its old name; json_object alone gives any object."""
    shape = {"type": "json_object", member: SCHEMA}
    said = ask(service(), PATH, BODY | {"response_format": shape}).json["message"]["content"][0]["text"]
    assert orjson.loads(said) == WANTED
    plain = ask(service(), PATH, BODY | {"response_format": {"type": "json_object"}}).json
    assert orjson.loads(plain["message"]["content"][0]["text"]) == {"answer": "Paris"}


def test_thinking_is_a_content_of_its_own() -> None:
    """Whole it stands before the text, streamed it has index 0 and the text index 1."""
    sim = service(reasoning_tokens=Distribution(3), reasoning_visible=True, output_tokens=Distribution(6))
    thinking, text = ask(sim, PATH, BODY).json["message"]["content"]
    assert (thinking["type"], text["type"]) == ("thinking", "text")
    events = [data for _, data in ask(sim, PATH, BODY | {"stream": True}).named]
    starts = [data["delta"]["message"]["content"]["type"] for data in events if data["type"] == "content-start"]
    assert starts == ["thinking", "text"]
    assert [data["index"] for data in events if data["type"] == "content-delta"] == [0] * 3 + [1] * 6


def test_how_answers_end() -> None:
    """A limit, a filter, a blocked prompt and a refusal, each in Cohere's words."""
    assert ask(service(), PATH, BODY | {"max_tokens": 3}).json["finish_reason"] == "MAX_TOKENS"
    assert ask(service(filtered=1.0), PATH, BODY).json["finish_reason"] == "ERROR"
    blocked = ask(service(blocked=1.0), PATH, BODY).json
    assert (blocked["finish_reason"], "content" in blocked["message"]) == ("ERROR", False)
    kinds = [kind for kind, _ in ask(service(blocked=1.0), PATH, BODY | {"stream": True}).named]
    assert kinds == ["message-start", "message-end"]
    refused = ask(service(refusal=1.0), PATH, BODY).json
    assert (refused["finish_reason"], "sorry" in refused["message"]["content"][0]["text"]) == ("COMPLETE", True)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "json"),
        ([], "object"),
        ({"messages": [{"role": "user", "content": "x"}]}, "model"),
        ({"model": "m", "messages": []}, "messages"),
        (BODY | {"top_p": 0.5}, "top_p"),
        (BODY | {"tool_choice": "auto"}, "tool_choice"),
        (BODY | {"messages": [{"role": "model", "content": "x"}]}, "role"),
        (BODY | {"messages": [{"role": "tool", "tool_call_id": "x", "content": "y"}]}, "tool_call_id"),
    ],
)
def test_wrong_requests_are_refused_as_cohere_does(body: object, said: str) -> None:
    """Unknown members and results without calls are 400 with a message."""
    reply = ask(service(), PATH, body)
    assert reply.status == 400
    assert said in reply.json["message"]


def test_faults_in_coheres_form() -> None:
    """A 429 has a message, a broken stream a message-end that says so."""
    sim = service()
    sim.set_faults([Fault("status", status=429, retry_after_s=2.0)])
    reply = ask(sim, PATH, BODY)
    assert (reply.status, "Trial" in reply.json["message"], b"retry-after: 2" in reply.head) == (429, True, True)
    sim.set_faults([Fault("error_event", after_tokens=2)])
    last = ask(sim, PATH, BODY | {"stream": True}).named[-1][1]
    assert (last["type"], last["delta"]["finish_reason"]) == ("message-end", "ERROR")
