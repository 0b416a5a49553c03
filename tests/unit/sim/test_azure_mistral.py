"""Azure OpenAI's and Mistral's spellings of chat completions in the simulated provider."""

import orjson
import pytest

from sidecar.sim.knobs import Distribution, Fault, SimConfig, SimulatedModel
from sidecar.sim.service import Service
from tests.unit.sim.ask import SCHEMA, WANTED, ask, service

AZURE = "/openai/deployments/prod/chat/completions?api-version=2024-10-21"
CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "What is 17 + 25?"}]}
MISTRAL = BODY | {"model": "mistral-large-latest"}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("weather", "clock")]


def test_azure_names_the_model_and_what_its_filter_found() -> None:
    """The deployment is in the path, the true model in the answer; no tier is told."""
    sim = Service(SimConfig(models={"prod": SimulatedModel(version="gpt-4.1-2025-04-14")}))
    shape = ask(sim, AZURE, BODY).json
    assert shape["model"] == "gpt-4.1-2025-04-14"
    assert shape["prompt_filter_results"][0]["content_filter_results"]["hate"] == {
        "filtered": False,
        "severity": "safe",
    }
    assert shape["choices"][0]["content_filter_results"]["violence"]["filtered"] is False
    assert "42" in shape["choices"][0]["message"]["content"]
    assert "service_tier" not in shape


def test_azure_begins_a_stream_with_a_chunk_without_choices() -> None:
    """It has an empty id and model; usage comes at the end, if it is asked for."""
    body = BODY | {"stream": True, "stream_options": {"include_usage": True}}
    events = ask(service(), AZURE, body).events
    assert (events[0]["choices"], events[0]["id"], events[0]["model"]) == ([], "", "")
    assert events[0]["prompt_filter_results"]
    assert events[1]["choices"][0]["delta"]["role"] == "assistant"
    assert all(event["choices"][0]["content_filter_results"]["hate"] for event in events[2:26])
    assert (events[-1]["choices"], events[-1]["usage"]["completion_tokens"]) == ([], 24)


def test_azures_filter() -> None:
    """A blocked prompt is a 400 that says which category struck; a struck answer ends with content_filter."""
    reply = ask(service(blocked=1.0), AZURE, BODY)
    error = reply.json["error"]
    assert (reply.status, error["code"], error["innererror"]["code"]) == (
        400,
        "content_filter",
        "ResponsibleAIPolicyViolation",
    )
    choice = ask(service(filtered=1.0), AZURE, BODY).json["choices"][0]
    assert (choice["finish_reason"], choice["content_filter_results"]["violence"]["filtered"]) == (
        "content_filter",
        True,
    )
    last = ask(service(filtered=1.0), AZURE, BODY | {"stream": True}).events[-1]["choices"][0]
    assert last["content_filter_results"]["violence"]["filtered"] is True


def test_azures_addresses() -> None:
    """Deployments need an api-version, /openai/v1 does not; embeddings and Responses are there too."""
    sim = service()
    assert ask(sim, "/openai/deployments/prod/chat/completions", BODY).json["error"]["code"] == "404"
    body = BODY | {"model": "m", "stream": True}
    assert ask(sim, "/openai/v1/chat/completions", body).events[0]["choices"] == []
    assert ask(sim, "/openai/deployments/e/embeddings?api-version=1", {"input": "x"}).json["data"][0]["embedding"]
    assert ask(sim, "/openai/responses?api-version=1", {"model": "m", "input": "x"}).json["object"] == "response"


def test_azures_errors() -> None:
    """Its gateway's errors have a code and a message."""
    sim = Service(SimConfig(keys=("k",), known_models_only=True))
    assert ask(sim, AZURE, BODY).json["error"]["code"] == "401"
    assert ask(sim, AZURE, BODY, "k").json["error"]["code"] == "DeploymentNotFound"
    sim = service()
    sim.set_faults([Fault("status", status=429, retry_after_s=2.0)])
    reply = ask(sim, AZURE, BODY)
    assert (reply.json["error"]["code"], b"x-ratelimit-limit-requests" in reply.head) == ("429", True)


def test_mistral_is_known_by_its_models() -> None:
    """A name of its families, or the knob."""
    assert ask(service(), CHAT, MISTRAL).json["usage"].keys() == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert "system_fingerprint" in ask(service(mistral=False), CHAT, MISTRAL).json
    assert "system_fingerprint" not in ask(service(mistral=True), CHAT, BODY | {"model": "own"}).json


def test_mistrals_usage_is_on_the_last_chunk_with_choices() -> None:
    """Unasked, and on no other chunk."""
    reply = ask(service(cached_fraction=0.5), CHAT, MISTRAL | {"stream": True})
    events = reply.events
    assert ["usage" in event for event in events] == [False] * 25 + [True]
    assert (events[-1]["choices"][0]["finish_reason"], events[-1]["usage"]["completion_tokens"]) == ("stop", 24)
    assert events[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert "42" in "".join(event["choices"][0]["delta"]["content"] for event in events)
    assert reply.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_mistrals_calls_are_whole(stream: bool) -> None:
    """Both calls in one chunk, with ids of nine letters or digits."""
    reply = ask(service(tool_calls=2), CHAT, MISTRAL | {"tools": TOOLS, "stream": stream})
    choice = (reply.events[-1] if stream else reply.json)["choices"][0]
    calls = choice["delta" if stream else "message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["weather", "clock"]
    assert [orjson.loads(call["function"]["arguments"]) for call in calls] == [WANTED, WANTED]
    assert all(len(call["id"]) == 9 and call["id"].isalnum() for call in calls)
    assert calls[0]["id"] != calls[1]["id"]
    assert choice["finish_reason"] == "tool_calls"


def test_mistrals_thinking_is_content() -> None:
    """Chunks of type thinking before the text, whole and streamed."""
    sim = service(reasoning_tokens=Distribution(3), reasoning_visible=True)
    thinking, text = ask(sim, CHAT, MISTRAL).json["choices"][0]["message"]["content"]
    assert (thinking["type"], text["type"]) == ("thinking", "text")
    deltas = [event["choices"][0]["delta"]["content"] for event in ask(sim, CHAT, MISTRAL | {"stream": True}).events]
    assert [isinstance(content, list) for content in deltas[:5]] == [False, True, True, True, False]


def test_how_mistrals_answers_end() -> None:
    """A limit, a filter and a refusal in Mistral's words."""
    assert ask(service(), CHAT, MISTRAL | {"max_tokens": 3}).json["choices"][0]["finish_reason"] == "length"
    assert ask(service(filtered=1.0), CHAT, MISTRAL).json["choices"][0]["finish_reason"] == "error"
    refused = ask(service(refusal=1.0), CHAT, MISTRAL).json["choices"][0]
    assert (refused["finish_reason"], "sorry" in refused["message"]["content"]) == ("stop", True)


def test_mistrals_errors() -> None:
    """Validation is a 422 with `detail`; the service's own errors are `object: error`."""
    missing = ask(service(), CHAT, {"model": "mistral-small", "messages": []})
    assert (missing.status, missing.json["detail"][0]["loc"]) == (422, ["body", "messages"])
    sim = service()
    sim.set_faults([Fault("status", status=429, retry_after_s=1.0)])
    limited = ask(sim, CHAT, MISTRAL)
    assert (limited.status, limited.json["object"], limited.json["type"]) == (429, "error", "rate_limited")
    sim.set_faults([Fault("error_event", after_tokens=1)])
    assert ask(sim, CHAT, MISTRAL | {"stream": True}).events[-1]["object"] == "error"
    unknown = Service(SimConfig(known_models_only=True))
    assert ask(unknown, CHAT, MISTRAL).json["message"] == "Invalid model: mistral-large-latest"
