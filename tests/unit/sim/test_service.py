"""Requests that the provider refuses, and what quality, refusals and structure look like."""

from pathlib import Path

import orjson
import pytest

from sidecar.errors import ConfigError
from sidecar.sim.knobs import Distribution, SimConfig, SimulatedModel
from sidecar.sim.marker import asked, score
from sidecar.sim.service import Service


def answer(service: Service, path: str, body: object, key: str | None = None, method: str = "POST") -> tuple[int, dict]:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    raw = service.respond(method, path, key, data).steps[0][1]
    head, _, rest = raw.partition(b"\r\n\r\n")
    return int(head[9:12]), orjson.loads(rest)


def chat(service: Service, **members: object) -> dict:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | members
    return answer(service, "/v1/chat/completions", body)[1]["choices"][0]


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/v1/chat/completions", b"{", 400, "invalid_request_error"),
        ("/v1/chat/completions", {"model": 3}, 400, "invalid_request_error"),
        ("/v1/chat/completions", {"messages": []}, 400, "invalid_request_error"),
        ("/v1/chat/completions", {"model": "m"}, 400, "invalid_request_error"),
        ("/v1/messages", {"model": "m", "messages": [1]}, 400, "invalid_request_error"),
        ("/v1/messages", {"model": "unknown", "messages": [1], "max_tokens": 1}, 404, "not_found_error"),
        ("/v1/chat/completions", {"model": "unknown", "messages": [1]}, 404, "invalid_request_error"),
        ("/v1/nothing", {}, 404, "invalid_request_error"),
    ],
)
def test_wrong_requests_get_the_real_answers(path: str, body: object, status: int, kind: str) -> None:
    """Bad JSON, wrong types, missing parameters, unknown models and paths, each in its dialect."""
    service = Service(SimConfig(models={"m": SimulatedModel()}, known_models_only=True))
    found, shape = answer(service, path, body)
    assert (found, shape["error"]["type"]) == (status, kind)


def test_keys_are_asked_for_when_configured() -> None:
    """Without an accepted key every path is a 401, in its dialect; with it all work."""
    service = Service(SimConfig(keys=("sk-1",)))
    assert answer(service, "/v1/chat/completions", {})[0] == 401
    assert answer(service, "/v1/messages", {})[1]["error"]["type"] == "authentication_error"
    assert answer(service, "/v1/models", b"", None, "GET")[0] == 401
    assert answer(service, "/v1/models", b"", "sk-1", "GET")[0] == 200
    assert answer(service, "/v1/chat/completions", {"model": "m", "messages": [1]}, "sk-1")[0] == 200
    assert answer(service, "/v1/chat/completions", b"", "sk-1", "GET")[0] == 405


def test_a_prefix_before_the_api_path_is_taken() -> None:
    """Gateways mount the API below a prefix."""
    assert answer(Service(SimConfig()), "/gateway/v1/chat/completions", {"model": "m", "messages": [1]})[0] == 200


def test_true_quality_is_the_share_of_right_sums() -> None:
    """At quality 0.7, 700 of 1,000 answers are right; 4 standard deviations are 58."""
    service = Service(SimConfig(default=SimulatedModel(quality=0.7)))
    right = sum(score(chat(service)["message"]["content"]) == 1.0 for _ in range(1000))
    assert abs(right - 700) <= 58


def test_skills_are_the_quality_of_some_requests() -> None:
    """A word of the request decides how good the model is at it; the first that is there counts, else `quality`."""
    model = SimulatedModel(quality=0.0, skills={"sonnet": 1.0, "poem": 0.0})
    service = Service(SimConfig(default=model))
    for text, right in (("a poem", 0.0), ("a poem, a sonnet", 1.0), ("a novel", 0.0)):
        said = chat(service, messages=[{"role": "user", "content": text}])["message"]["content"]
        assert score(said) == right


def test_concentration_makes_the_sums_of_one_answer_alike() -> None:
    """With a small concentration most answers of eight sums are all right or all wrong; the mean stays."""
    model = SimulatedModel(quality=0.5, quality_concentration=0.05, sums=8, output_tokens=Distribution(60))
    service = Service(SimConfig(default=model))
    scores = [score(chat(service)["message"]["content"]) or 0.0 for _ in range(400)]
    assert sum(value in (0.0, 1.0) for value in scores) > 300
    assert abs(sum(scores) / 400 - 0.5) < 0.1  # 4 standard deviations of a coin thrown 400 times


def test_the_sum_that_was_asked_is_answered() -> None:
    """The last sum in the body is the one; bodies without a sum get one of the model's own."""
    assert asked(b'{"content":"1 + 2, no: 30+4?"}') == (30, 4)
    assert asked(b"a+b") is None
    assert asked(b"nothing") is None
    assert score("no sums here") is None


def test_schema_output_is_a_minimal_instance() -> None:
    """response_format, text.format and output_format give JSON that satisfies the schema; json_object any object."""
    service = Service(SimConfig())
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert orjson.loads(chat(service, response_format=shape)["message"]["content"]) == {"n": 3}
    assert orjson.loads(chat(service, response_format={"type": "json_object"})["message"]["content"]) == {
        "answer": "Paris"
    }
    assert not chat(service, response_format={"type": "text"})["message"]["content"].startswith("{")
    flat = {"model": "m", "input": "x", "text": {"format": {"type": "json_schema", "schema": schema}}}
    said = answer(service, "/v1/responses", flat)[1]["output"][0]["content"][0]["text"]
    assert orjson.loads(said) == {"n": 3}


def test_malformed_output_breaks_its_schema() -> None:
    """At `malformed: 1` every structured answer lacks what the schema requires."""
    service = Service(SimConfig(default=SimulatedModel(malformed=1.0)))
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    shape = {"type": "json_schema", "json_schema": {"schema": schema}}
    assert orjson.loads(chat(service, response_format=shape)["message"]["content"]) == {}


def test_refusals_say_so_in_each_dialect() -> None:
    """At `refusal: 1` chat has a refusal and no content, Responses a refusal part, messages the stop reason."""
    service = Service(SimConfig(default=SimulatedModel(refusal=1.0)))
    message = chat(service)["message"]
    assert (message["content"], bool(message["refusal"])) == (None, True)
    response = answer(service, "/v1/responses", {"model": "m", "input": "x"})[1]
    assert response["output"][0]["content"][0]["type"] == "refusal"
    asked_ = {"model": "m", "max_tokens": 90, "messages": [1]}
    assert answer(service, "/v1/messages", asked_)[1]["stop_reason"] == "refusal"
    plan = service.respond("POST", "/v1/responses", None, orjson.dumps({"model": "m", "input": "x", "stream": True}))
    assert b"response.refusal.delta" in b"".join(data for _, data in plan.steps)


def test_a_limit_cuts_the_answer() -> None:
    """max_tokens ends an answer with `length`, also inside reasoning, tools and schema output."""
    service = Service(SimConfig(default=SimulatedModel(reasoning_tokens=Distribution(5))))
    choice = chat(service, max_tokens=8)
    assert (choice["finish_reason"], choice["message"]["content"].count(" ")) == ("length", 2)
    assert chat(service, max_completion_tokens=3)["message"]["content"] == ""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert chat(service, max_tokens=6, tools=tools)["finish_reason"] == "length"
    cut = answer(service, "/v1/responses", {"model": "m", "input": "x", "max_output_tokens": 7})[1]
    assert (cut["status"], cut["incomplete_details"]["reason"]) == ("incomplete", "max_output_tokens")
    short = chat(service, max_tokens=7, response_format={"type": "json_object"})
    assert short["message"]["content"] == '{"answer'


def test_invented_model_names_do_not_grow_memory() -> None:
    """Beyond 1,024 names one speaker serves the rest, under the name `other`."""
    service = Service(SimConfig())
    body = {"messages": [1], "model": ""}
    for number in range(1100):
        _, shape = answer(service, "/v1/chat/completions", body | {"model": f"m{number}"})
    assert shape["model"] == "other"


def test_tokens_per_chunk_groups_tokens() -> None:
    """Four tokens a chunk make a quarter of the chunks."""
    service = Service(SimConfig(default=SimulatedModel(tokens_per_chunk=4)))
    body = orjson.dumps({"model": "m", "messages": [1], "stream": True})
    plan = service.respond("POST", "/v1/chat/completions", None, body)
    assert len(plan.steps) == 2 + 24 // 4 + 1


def test_configuration_errors_name_the_key(tmp_path: Path) -> None:
    """Unknown keys, wrong types and wrong overrides are errors that say where."""
    file = tmp_path / "sim.yaml"
    file.write_text("models: {a: {ttft: 0.2, qualty: 1}}")
    with pytest.raises(ConfigError, match=r"models\.a: unknown key 'qualty'"):
        SimConfig.load(file)
    file.write_text("seed: [1]")
    with pytest.raises(ConfigError, match="seed"):
        SimConfig.load(file)
    file.write_text("- 1")
    with pytest.raises(ConfigError, match="mapping"):
        SimConfig.load(file)
    file.write_text("a: [")
    with pytest.raises(ConfigError, match="cannot be read"):
        SimConfig.load(file)
    with pytest.raises(ConfigError, match="key=value"):
        SimConfig.load(None, ["seed"])
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        SimConfig.load(file)
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file or directory; name a YAML file"):
        SimConfig.load(tmp_path / "none.yaml")
    file.write_text("models: 3")
    with pytest.raises(ConfigError, match="no mapping"):
        SimConfig.load(file, ["a:ttft=1"])


def test_configuration_is_read_from_file_and_overrides(tmp_path: Path) -> None:
    """Numbers are constant distributions, mappings say their kind, overrides come last."""
    file = tmp_path / "sim.yaml"
    file.write_text(
        "models: {gpt-4.1: {ttft: 0.2, itl: {kind: gamma, mean: 0.01}}}\nfaults: [{kind: status, rate: 0.1}]"
    )
    config = SimConfig.load(file, ["seed=9", "gpt-4.1:quality=0.5", "default:ttft=0.3", "keys=[a]"])
    assert config.models["gpt-4.1"].ttft == Distribution(0.2)
    assert config.models["gpt-4.1"].itl == Distribution(0.01, "gamma")
    assert (config.models["gpt-4.1"].quality, config.seed, config.keys) == (0.5, 9, ("a",))
    assert config.default.ttft.mean == 0.3
    assert config.faults[0].rate == 0.1
