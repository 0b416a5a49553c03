"""Gemini's and Vertex's dialect of the simulated provider."""

import orjson
import pytest

from sidecar.sim.knobs import Distribution, Fault
from tests.unit.sim.ask import SCHEMA, WANTED, ask, service

WHOLE = "/v1beta/models/gemini-x:generateContent"
SSE = "/v1beta/models/gemini-x:streamGenerateContent?alt=sse"
ARRAY = "/v1beta/models/gemini-x:streamGenerateContent"
VERTEX = "/v1/projects/p/locations/eu/publishers/google/models/gemini-x:generateContent"
USER = {"role": "user", "parts": [{"text": "What is 17 + 25?"}]}
TOOLS = [
    {
        "functionDeclarations": [
            {
                "name": "weather",
                "parameters": {
                    "type": "OBJECT",
                    "properties": {"city": {"type": "STRING"}, "days": {"type": "INTEGER"}},
                    "required": ["city", "days"],
                },
            },
            {"name": "clock", "parametersJsonSchema": SCHEMA},
        ]
    },
    {"googleSearch": {}},
]


def parts(event: dict) -> list[dict]:
    return event["candidates"][0].get("content", {"parts": []})["parts"]


def test_a_whole_answer_counts_as_gemini_does() -> None:
    """The prompt includes the cache, the candidates exclude the thoughts, the total has all."""
    sim = service(cached_fraction=0.5, reasoning_tokens=Distribution(7))
    shape = ask(sim, WHOLE, {"contents": [USER]}).json
    usage = shape["usageMetadata"]
    prompt = usage["promptTokenCount"]
    assert (usage["candidatesTokenCount"], usage["thoughtsTokenCount"]) == (24, 7)
    assert usage["totalTokenCount"] == prompt + 24 + 7
    assert usage["cachedContentTokenCount"] == prompt // 2
    assert usage["promptTokensDetails"] == [{"modality": "TEXT", "tokenCount": prompt}]
    assert (shape["candidates"][0]["finishReason"], shape["modelVersion"]) == ("STOP", "gemini-x")
    assert "42" in parts(shape)[0]["text"]
    assert "createTime" not in shape


def test_what_is_not_there_is_not_said() -> None:
    """Without thoughts and cache their members are absent, as in the real API."""
    usage = ask(service(), WHOLE, {"contents": [USER]}).json["usageMetadata"]
    assert set(usage) == {"promptTokenCount", "candidatesTokenCount", "totalTokenCount", "promptTokensDetails"}


def test_a_stream_says_its_usage_as_it_grows() -> None:
    """Events are separated as Google separates them; counts grow to the whole; the last event has the reason."""
    reply = ask(service(), SSE, {"contents": [USER]})
    assert b"}\r\n\r\n" in reply.body
    assert b"text/event-stream" in reply.head
    counts = [event["usageMetadata"]["candidatesTokenCount"] for event in reply.events]
    assert counts == [*range(1, 25), 24]
    assert ["finishReason" in event["candidates"][0] for event in reply.events] == [False] * 24 + [True]
    assert "= 42" in "".join(part["text"] for event in reply.events for part in parts(event))


def test_without_alt_sse_a_stream_is_one_array() -> None:
    """The same answers, as JSON."""
    reply = ask(service(), ARRAY, {"contents": [USER]})
    assert b"application/json" in reply.head
    events = orjson.loads(reply.body)
    assert len(events) == 25
    assert events[-1]["candidates"][0]["finishReason"] == "STOP"


def test_vertex_has_no_call_ids_and_says_when() -> None:
    """What differs between Google's two services."""
    sim = service()
    body = {"contents": [USER], "tools": TOOLS}
    vertex, studio = ask(sim, VERTEX, body).json, ask(sim, WHOLE, body).json
    assert "id" not in parts(vertex)[0]["functionCall"]
    assert len(parts(studio)[0]["functionCall"]["id"]) == 8
    assert vertex["createTime"].endswith("Z")
    assert vertex["usageMetadata"]["trafficType"] == "ON_DEMAND"


@pytest.mark.parametrize("path", [WHOLE, SSE])
def test_parallel_calls_are_whole_and_the_first_is_signed(path: str) -> None:
    """Each call is one part; ids differ; only the first has the signature of the thoughts."""
    sim = service(tool_calls=2, reasoning_tokens=Distribution(3), reasoning_visible=True)
    reply = ask(sim, path, {"contents": [USER], "tools": TOOLS})
    events = reply.events if path is SSE else [reply.json]
    found = [part for event in events for part in parts(event)]
    calls = [part for part in found if "functionCall" in part]
    assert [call["functionCall"]["name"] for call in calls] == ["weather", "clock"]
    assert [call["functionCall"]["args"] for call in calls] == [WANTED, WANTED]
    assert ["thoughtSignature" in call for call in calls] == [True, False]
    assert calls[0]["functionCall"]["id"] != calls[1]["functionCall"]["id"]
    assert found[0]["thought"] is True
    assert events[-1]["candidates"][0]["finishReason"] == "STOP"
    assert events[-1]["usageMetadata"]["candidatesTokenCount"] == 8


def test_thoughts_are_parts_and_text_is_signed() -> None:
    """Visible thoughts stand before the text; the signature is in the last part, also in a stream."""
    sim = service(reasoning_tokens=Distribution(3), reasoning_visible=True)
    thought, text = parts(ask(sim, WHOLE, {"contents": [USER]}).json)
    assert (thought["thought"], "thoughtSignature" in text) == (True, True)
    events = ask(sim, SSE, {"contents": [USER]}).events
    assert [part.get("thought", False) for event in events[:4] for part in parts(event)] == [True] * 3 + [False]
    assert "thoughtSignature" in parts(events[-1])[0]


def test_tools_are_called_where_the_request_allows_them() -> None:
    """Mode NONE forbids, allowed names choose, results end the calling."""
    sim = service()

    def said(**members: object) -> dict:
        return parts(ask(sim, WHOLE, {"contents": [USER], "tools": TOOLS} | members).json)[0]

    assert "text" in said(toolConfig={"functionCallingConfig": {"mode": "NONE"}})
    chosen = {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["clock"]}}
    assert said(tool_config=chosen)["functionCall"]["name"] == "clock"
    call = {"role": "model", "parts": [{"functionCall": {"name": "clock", "args": {"a_b": 1}}}]}
    result = {"role": "user", "parts": [{"functionResponse": {"name": "clock", "response": {}}}]}
    assert "text" in said(contents=[USER, call, result])


@pytest.mark.parametrize("member", ["responseSchema", "responseJsonSchema", "response_json_schema"])
def test_schema_output(member: str) -> None:
    """Both members that name a schema give JSON that satisfies it, in both spellings; the mime type alone any object."""
    config = {"responseMimeType": "application/json", member: SCHEMA}
    shape = ask(service(), WHOLE, {"contents": [USER], "generationConfig": config}).json
    assert orjson.loads(parts(shape)[0]["text"]) == WANTED
    plain = {"contents": [USER], "generationConfig": {"responseMimeType": "application/json"}}
    assert orjson.loads(parts(ask(service(), WHOLE, plain).json)[0]["text"]) == {"answer": "Paris"}


def test_a_limit_cuts() -> None:
    """maxOutputTokens ends with MAX_TOKENS."""
    body = {"contents": [USER], "generationConfig": {"maxOutputTokens": 3}}
    shape = ask(service(), WHOLE, body).json
    assert shape["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert shape["usageMetadata"]["candidatesTokenCount"] == 3


def test_filters_and_refusals() -> None:
    """A struck answer has no content, a blocked prompt no candidate; a model's own refusal is text."""
    struck = ask(service(filtered=1.0), WHOLE, {"contents": [USER]}).json["candidates"][0]
    assert (struck["finishReason"], "content" in struck, struck["safetyRatings"][0]["blocked"]) == (
        "SAFETY",
        False,
        True,
    )
    events = ask(service(filtered=1.0), SSE, {"contents": [USER]}).events
    assert len(events) == 13  # half of the tokens and the end
    assert (events[-1]["candidates"][0]["finishReason"], parts(events[-1])) == ("SAFETY", [])
    blocked = ask(service(blocked=1.0), WHOLE, {"contents": [USER]}).json
    assert blocked["promptFeedback"]["blockReason"] == "PROHIBITED_CONTENT"
    assert "candidates" not in blocked
    assert len(ask(service(blocked=1.0), SSE, {"contents": [USER]}).events) == 1
    refused = ask(service(refusal=1.0), WHOLE, {"contents": [USER]}).json
    assert (refused["candidates"][0]["finishReason"], "sorry" in parts(refused)[0]["text"]) == ("STOP", True)


def test_malformed_calls_end_with_a_reason_of_their_own() -> None:
    """Arguments that are no object cannot be said: the candidate has no content."""
    tools = [{"functionDeclarations": [{"name": "f"}]}]
    for path in (WHOLE, SSE):
        reply = ask(service(malformed=1.0), path, {"contents": [USER], "tools": tools})
        shape = reply.events[-1] if path is SSE else reply.json
        assert shape["candidates"][0]["finishReason"] == "MALFORMED_FUNCTION_CALL"
        assert parts(shape) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "Invalid JSON"),
        (b'{"contents":[{"parts":[{"text":"\xff"}]}]}', "Invalid JSON"),
        (b"[" * 5000, "Invalid JSON"),
        ([], "Expected"),
        ({}, "contents is not specified"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "valid role"),
        ({"contents": [{"role": "user", "parts": []}]}, "must not be empty"),
        ({"contents": [USER], "messages": []}, "messages"),
        ({"contents": [USER], "generationConfig": {"max_tokens": 3}}, "maxTokens"),
        (
            {"contents": [USER, {"role": "model", "parts": [{"functionCall": {"name": "f"}}]}, USER]},
            "number of function",
        ),
        ({"contents": [{"role": "user", "parts": [{"functionResponse": {"name": "f"}}]}]}, "number of function"),
    ],
)
def test_wrong_requests_are_refused_as_google_does(body: object, said: str) -> None:
    """Unknown members, roles and results that do not fit are INVALID_ARGUMENT."""
    reply = ask(service(), WHOLE, body)
    error = reply.json["error"]
    assert (reply.status, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert said in error["message"]


def test_faults_in_googles_form() -> None:
    """A 429 says in its body how long to wait; a broken stream ends with an error, in both framings."""
    sim = service()
    sim.set_faults([Fault("status", status=429, retry_after_s=34.0)])
    reply = ask(sim, SSE, {"contents": [USER]})
    assert (reply.status, reply.json["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert reply.json["error"]["details"][0]["retryDelay"] == "34s"
    assert b"retry-after" not in reply.head
    sim.set_faults([Fault("error_event", after_tokens=2)])
    assert ask(sim, SSE, {"contents": [USER]}).events[-1]["error"]["status"] == "UNAVAILABLE"
    for tokens in (0, 2):
        sim.set_faults([Fault("error_event", after_tokens=tokens)])
        events = orjson.loads(ask(sim, ARRAY, {"contents": [USER]}).body)
        assert (len(events), events[-1]["error"]["code"]) == (tokens + 1, 503)


def test_counts_and_embeddings() -> None:
    """countTokens, embedContent and its batch."""
    sim = service()
    content = {"parts": [{"text": "a"}]}
    assert ask(sim, "/v1beta/models/e:countTokens", {"contents": [USER]}).json["totalTokens"] > 0
    one = ask(sim, "/v1beta/models/e:embedContent", {"content": content, "outputDimensionality": 3}).json
    assert len(one["embedding"]["values"]) == 3
    many = ask(sim, "/v1beta/models/e:batchEmbedContents", {"requests": [{"content": content}] * 2}).json
    assert many["embeddings"][0] == many["embeddings"][1]
    assert ask(sim, "/v1beta/models/e:embedContent", {}).status == 400
    assert ask(sim, "/v1beta/models/e:embedContent", b"{").status == 400
