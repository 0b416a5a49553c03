"""Addresses, credentials and prefixes of all dialects, and several calls at once in OpenAI's and Anthropic's."""

import orjson
import pytest

from sidecar.sim.knobs import Fault, SimConfig, SimulatedModel
from sidecar.sim.problems import Problem, body, said
from sidecar.sim.routes import find
from sidecar.sim.service import Service
from tests.unit.sim.ask import SCHEMA, WANTED, ask, service
from tests.unit.sim.client import post, send
from tests.unit.sim.conftest import Start

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("target", "dialect", "model", "stream"),
    [
        ("/google/v1beta/models/g:generateContent", "gemini", "g", False),
        ("/v1alpha/models/g:streamGenerateContent?alt=sse", "gemini", "g", True),
        ("/v1beta1/projects/p/locations/l/publishers/google/models/g:streamGenerateContent", "vertex", "g", True),
        ("/v1/publishers/google/models/g:generateContent", "vertex", "g", False),
        ("/aws/model/us.a%3A0/converse-stream", "bedrock", "us.a:0", True),
        ("/co/v2/chat", "cohere", "", None),
        ("/az/openai/deployments/d%20e/chat/completions?api-version=1", "azure", "d e", None),
        ("/anthropic/v1/messages", "anthropic", "", None),
    ],
)
def test_addresses(target: str, dialect: str, model: str, stream: bool | None) -> None:
    """The path says the dialect, and for some the model and whether to stream, below any prefix."""
    route = find(target)
    assert route is not None
    assert (route.dialect, route.model, route.stream) == (dialect, model, stream)


@pytest.mark.parametrize(
    ("path", "status", "without"),
    [
        ("/v1beta/models/m:generateContent", 400, 403),
        ("/v1/projects/p/locations/l/publishers/google/models/m:generateContent", 401, 401),
        ("/v2/chat", 401, 401),
        ("/model/m/converse", 403, 403),
        ("/openai/v1/chat/completions", 401, 401),
    ],
)
def test_wrong_and_missing_keys(path: str, status: int, without: int) -> None:
    """Each service answers a wrong and a missing credential in its own way."""
    sim = Service(SimConfig(keys=("right",)))
    assert ask(sim, path, {}, "wrong").status == status
    assert ask(sim, path, {}).status == without
    assert ask(sim, path, {}, "right").status in (400, 404)
    assert ask(sim, path, {}, "right", method="GET").status == 405


def test_unknown_models() -> None:
    """Each service says so in its own way."""
    sim = Service(SimConfig(known_models_only=True))
    contents = {"contents": [{"parts": [{"text": "x"}]}]}
    turns = {"messages": [{"role": "user", "content": [{"text": "x"}]}]}
    assert ask(sim, "/v1beta/models/m:generateContent", contents).json["error"]["status"] == "NOT_FOUND"
    assert ask(sim, "/v1/publishers/google/models/m:generateContent", contents).status == 404
    assert ask(sim, "/v2/chat", {"model": "m", "messages": MESSAGES}).status == 404
    assert ask(sim, "/model/m/converse", turns).json["message"] == "The provided model identifier is invalid."


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1beta/models/m:countTokens?key=k1", ""),
        ("/v1beta/models/m:countTokens", "X-Goog-Api-Key: k1\r\n"),
        ("/openai/deployments/d/embeddings?api-version=1", "api-key: k1\r\n"),
        ("/openai/deployments/d/embeddings?api-version=1", "Authorization: Bearer k1\r\n"),
        (
            "/model/m/converse",
            "Authorization: AWS4-HMAC-SHA256 Credential=k1/20260101/us-east-1/bedrock/aws4_request, Signature=x\r\n",
        ),
    ],
)
async def test_where_keys_stand(start: Start, path: str, headers: str) -> None:
    """Google's header and query, Azure's header, the access key of a signed request."""
    provider = await start(SimConfig(keys=("k1",)))
    turns = {"messages": [{"role": "user", "content": [{"text": "x"}]}], "input": "x", "contents": []}
    assert (await send(provider.port, post(path, turns, headers))).status == 200
    wrong = await send(provider.port, post(path.replace("k1", "k2"), turns, headers.replace("k1", "k2")))
    assert wrong.status in (400, 401, 403)


def test_several_calls_at_once_in_the_older_dialects() -> None:
    """Chat, Responses and messages call each tool once; a request may forbid it."""
    sim = service(tool_calls=2)
    functions = [
        {"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("weather", "clock")
    ]
    chat = {"model": "m", "messages": MESSAGES, "tools": functions}
    calls = ask(sim, "/v1/chat/completions", chat).json["choices"][0]["message"]["tool_calls"]
    assert [orjson.loads(call["function"]["arguments"]) for call in calls] == [WANTED, WANTED]
    one = ask(sim, "/v1/chat/completions", chat | {"parallel_tool_calls": False}).json
    assert len(one["choices"][0]["message"]["tool_calls"]) == 1
    deltas = [
        event["choices"][0]["delta"] for event in ask(sim, "/v1/chat/completions", chat | {"stream": True}).events
    ]
    indexes = [delta["tool_calls"][0]["index"] for delta in deltas if "tool_calls" in delta]
    assert (indexes[0], indexes[-1], indexes) == (0, 1, sorted(indexes))
    tools = [{"name": name, "input_schema": SCHEMA} for name in ("weather", "clock")]
    message = {"model": "m", "max_tokens": 99, "messages": MESSAGES, "tools": tools}
    assert [block["name"] for block in ask(sim, "/v1/messages", message).json["content"]] == ["weather", "clock"]
    single = message | {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
    assert len(ask(sim, "/v1/messages", single).json["content"]) == 1
    flat = [{"type": "function", "name": name, "parameters": SCHEMA} for name in ("weather", "clock")]
    events = ask(sim, "/v1/responses", {"model": "m", "input": "x", "tools": flat, "stream": True}).events
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    added = [event["item"]["name"] for event in events if event["type"] == "response.output_item.added"]
    assert added == ["weather", "clock"]


def test_filters_in_the_older_dialects() -> None:
    """A struck answer ends with each dialect's own word; a blocked prompt has no text."""
    chat = {"model": "m", "messages": MESSAGES, "prompt": "x"}
    for knobs in ({"filtered": 1.0}, {"blocked": 1.0}):
        sim = service(**knobs)
        for path in ("/v1/chat/completions", "/v1/completions"):
            assert ask(sim, path, chat).json["choices"][0]["finish_reason"] == "content_filter"
        response = ask(sim, "/v1/responses", {"model": "m", "input": "x"}).json
        assert response["incomplete_details"]["reason"] == "content_filter"
        assert ask(sim, "/v1/messages", chat | {"max_tokens": 99}).json["stop_reason"] == "refusal"
    message = chat | {"max_tokens": 99}
    assert ask(service(blocked=1.0), "/v1/messages", message).json["content"] == []
    kinds = [event["type"] for event in ask(service(blocked=1.0), "/v1/messages", message | {"stream": True}).events]
    assert kinds == ["message_start", "message_delta", "message_stop"]


def test_output_config_is_anthropics_form_of_a_schema() -> None:
    """`output_config.format` as well as the older `output_format`."""
    body_ = {"model": "m", "max_tokens": 99, "messages": MESSAGES}
    config = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    assert orjson.loads(ask(service(), "/v1/messages", body_ | config).json["content"][0]["text"]) == WANTED


@pytest.mark.parametrize(
    ("status", "google", "mistral"),
    [(418, "INVALID_ARGUMENT", "invalid_request_error"), (599, "INTERNAL", "internal_server_error")],
)
def test_statuses_that_no_service_names(status: int, google: str, mistral: str) -> None:
    """They still have the dialect's form."""
    problem = Problem(status, "x")
    assert orjson.loads(body("gemini", problem, "1"))["error"]["status"] == google
    assert orjson.loads(body("mistral", problem, "1"))["type"] == mistral


def test_mistrals_key_and_types() -> None:
    """A wrong key is its gateway's, a wrong type its validation's."""
    assert orjson.loads(body("mistral", said("mistral", "key"), "1")) == {"detail": "Unauthorized"}
    wrong = orjson.loads(body("mistral", said("mistral", "type", "Expected `int`"), "1"))
    assert wrong["detail"][0]["msg"] == "Expected `int`"


def test_faults_of_models_in_the_path() -> None:
    """A fault for one model strikes it also where the path names it."""
    sim = Service(SimConfig(default=SimulatedModel(), faults=(Fault("status", status=503, models=("bad",)),)))
    contents = {"contents": [{"parts": [{"text": "x"}]}]}
    assert ask(sim, "/v1beta/models/bad:generateContent", contents).status == 503
    assert ask(sim, "/v1beta/models/good:generateContent", contents).status == 200
