"""What a request asked its answer to be, in the spelling of every API."""

import json
from typing import Any

import pytest

from sidecar.core.types import Endpoint
from sidecar.wire.asked import ANY_OBJECT, MAX_REQUEST_BYTES, Asked, read_asked

S = {"type": "object", "properties": {"a": {"type": "integer"}}}


def asked(endpoint: Endpoint = "chat", **body: Any) -> Asked | None:
    return read_asked(json.dumps(body).encode(), endpoint)


def schema(endpoint: Endpoint = "chat", **body: Any) -> Any:
    found = asked(endpoint, **body)
    assert found is not None
    return None if found.schema is None else json.loads(found.schema)


def tools(endpoint: Endpoint = "chat", **body: Any) -> Any:
    found = asked(endpoint, **body)
    assert found is not None
    return (
        found.tools if found.tools is None else {name: json.loads(text or b"0") for name, text in found.tools.items()}
    )


def test_structured_output_in_every_api() -> None:
    """Chat, Responses, Anthropic (both spellings) and Gemini (both)."""
    assert schema(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": S}}) == S
    assert schema("responses", text={"format": {"type": "json_schema", "name": "n", "schema": S}}) == S
    assert schema("messages", output_format={"type": "json_schema", "schema": S}) == S
    assert schema("messages", output_config={"format": {"type": "json_schema", "schema": S}}) == S
    assert schema("generate", generationConfig={"responseSchema": S}) == S
    assert schema("generate", generationConfig={"responseJsonSchema": S, "responseSchema": {}}) == S


def test_json_without_a_schema() -> None:
    """`json_object` is any object; Gemini's JSON type is any JSON."""
    found = asked(response_format={"type": "json_object"})
    assert found is not None
    assert found.schema == ANY_OBJECT
    assert schema("generate", generationConfig={"responseMimeType": "application/json"}) is True


def test_free_text_has_no_schema() -> None:
    """Nothing asked, text asked, or a shape that nobody reads."""
    assert asked() == Asked()
    assert schema(response_format={"type": "text"}) is None
    assert schema("responses", text={"format": {"type": "text"}, "verbosity": "low"}) is None
    assert schema(response_format={"type": "json_schema"}) is None
    assert schema(response_format=7, text="x", output_config=[]) is None
    assert schema("generate", generationConfig={"temperature": 1}) is None
    assert schema("generate") is None


def test_tools_in_every_api() -> None:
    """Wrapped, flat, with another name for the schema, several in one, and the old `functions`."""
    assert tools(tools=[{"type": "function", "function": {"name": "a", "parameters": S}}]) == {"a": S}
    assert tools("responses", tools=[{"type": "function", "name": "a", "parameters": S}]) == {"a": S}
    assert tools("messages", tools=[{"name": "a", "input_schema": S}, {"name": "b"}]) == {"a": S, "b": 0}
    declared = [{"name": "a", "parameters": S}, {"name": "b", "parametersJsonSchema": S}, {"parameters": S}]
    assert tools("generate", tools=[{"functionDeclarations": declared}, {"googleSearch": {}}]) == {"a": S, "b": S}
    assert tools(functions=[{"name": "a", "parameters": S}]) == {"a": S}


def test_no_tools_and_tools_that_cannot_be_read() -> None:
    """Both are unknown: a call may then be of anything."""
    assert tools() is None
    assert tools(tools=[]) is None
    assert tools("responses", tools=[{"type": "web_search"}]) is None
    assert tools(tools=[7]) is None
    assert tools(functions={"a": 1}) is None


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b"7", b" " * MAX_REQUEST_BYTES + b"{}"])
def test_a_body_that_cannot_be_read(body: bytes) -> None:
    """Empty, no object, or larger than a megabyte: nothing is known."""
    assert read_asked(body, "chat") is None
