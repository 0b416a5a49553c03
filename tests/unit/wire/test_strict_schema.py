"""Which schemas OpenAI's strict mode takes, and that only those are sent as strict."""

from typing import Any

import orjson
import pytest

from sidecar.wire.neutral import Format, Message, Output, Report, Request, Text
from sidecar.wire.providers import PROVIDERS
from sidecar.wire.strict_schema import fits_strict
from sidecar.wire.translate import losses, say

Json = dict[str, Any]
TEXT: Json = {"type": "string"}


def closed(**properties: Any) -> Json:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def nested(levels: int) -> Json:
    made = TEXT
    for _ in range(levels):
        made = closed(a=made)
    return made


@pytest.mark.parametrize(
    "schema",
    [
        closed(),
        {"type": "object", "properties": {}, "additionalProperties": False},
        closed(a=TEXT, b={"type": ["integer", "null"], "minimum": 0}, c={"enum": ["x", 1]}, d={"const": 1}),
        closed(a={"type": "array", "items": closed(b=TEXT), "minItems": 1}),
        closed(a={"anyOf": [TEXT, {"type": "null"}]}, b={"type": "string", "format": "date-time"}),
        closed(a={"$ref": "#/$defs/t"}) | {"$defs": {"t": closed(b={"$ref": "#"})}, "$schema": "x", "title": "T"},
        closed(a={"$ref": "#/definitions/t"}) | {"definitions": {"t": TEXT}},
        nested(10),
        closed(a={"enum": [*range(1000)]}),
    ],
)
def test_schemas_that_are_taken(schema: Json) -> None:
    """As its guide to structured outputs has them."""
    assert fits_strict(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        TEXT,
        {"type": ["object", "null"], "properties": {}, "additionalProperties": False},
        closed() | {"anyOf": [closed()]},
        {"type": "object"},
        {"type": "object", "additionalProperties": False},
        closed(a=TEXT) | {"additionalProperties": True},
        closed(a=TEXT) | {"required": []},
        closed(a=TEXT, b=TEXT) | {"required": ["a", "a"]},
        closed(a=TEXT) | {"required": [["a"]]},
        closed(a=TEXT) | {"required": "a"},
        closed(a=TEXT) | {"properties": [TEXT]},
        closed(a=TEXT) | {"$defs": [TEXT]},
        closed(a=TEXT) | {"$defs": {"t": {"type": "object"}}},
        closed(a=True),
        closed(a={}),
        closed(a={"description": "anything"}),
        closed(a={"type": "array"}),
        closed(a={"type": "array", "items": {"type": "object"}}),
        closed(a={"properties": {"b": TEXT}, "anyOf": [TEXT]}),
        closed(a={"allOf": [TEXT], "type": "string"}),
        closed(a=TEXT | {"pattern": "^a"}),
        closed(a=TEXT | {"default": "x"}),
        closed(a=TEXT | {"format": "uri"}),
        closed(a=TEXT | {"format": ["date"]}),
        closed(a=TEXT | {"format": {}}),
        closed(a={"anyOf": [TEXT, {"not": TEXT}]}),
        closed(a={"anyOf": TEXT}),
        nested(11),
        closed(**{f"p{number}": TEXT for number in range(5000)}),
        closed(a={"enum": [*range(600)]}, b={"enum": [*range(600)]}),
    ],
)
def test_schemas_that_are_not(schema: Json) -> None:
    """A call with one of them would get a 400."""
    assert not fits_strict(schema)


def call(client: Format, schema: Json | None, strict: bool | None = None) -> Request:
    turn = Message(role="user", parts=[Text(text="hi")])
    return Request(format=client, model="m", messages=[turn], max_tokens=9, output=Output(schema=schema, strict=strict))


def strict_of(request: Request, arm: Format, provider: str) -> tuple[object, bool]:
    """What the arm is told of it, and whether the client is told that its answer may not keep to its schema."""
    report = Report()
    said = orjson.loads(say(request, arm, PROVIDERS[provider], "m", report))
    form = said["response_format"].get("json_schema", {}) if arm == "chat" else said["text"]["format"]
    return form.get("strict"), "output.strict" in report.mapped


@pytest.mark.parametrize("client", ["messages", "generate"])
@pytest.mark.parametrize(("arm", "provider"), [("chat", "openai"), ("responses", "azure"), ("chat", "vllm")])
def test_who_always_keeps_to_a_schema_does_so_here(client: Format, arm: Format, provider: str) -> None:
    """Where the schema can be; else it is sent as a wish, which is told and no reason to refuse the call."""
    assert strict_of(call(client, closed(a=TEXT)), arm, provider) == (True, False)
    loose = call(client, {"type": "object", "properties": {"a": TEXT}})
    assert strict_of(loose, arm, provider) == (None, True)
    assert losses(loose, arm, PROVIDERS[provider]) == ()
    assert strict_of(call(client, None), arm, provider) == (None, False)


def test_a_server_where_few_models_are_strict() -> None:
    """It would refuse the call."""
    assert strict_of(call("messages", closed(a=TEXT)), "chat", "groq") == (None, True)


def test_openais_own_clients_say_it_themselves() -> None:
    """Without a word they do not ask for it."""
    assert strict_of(call("chat", closed(a=TEXT)), "responses", "openai") == (None, False)
    assert strict_of(call("responses", closed(a=TEXT), strict=True), "chat", "openai") == (True, False)
