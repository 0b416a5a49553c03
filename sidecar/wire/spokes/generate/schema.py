"""Reads Gemini's own `Schema` (a dialect of OpenAPI 3.0) as JSON schema.

Types become lower case, `nullable` another type, counts that stand as strings numbers, `example` `examples`; the order of
`propertyOrdering` becomes the order of the properties. What is JSON schema already stays as it is, so reading twice is
reading once. Nothing is written back: `parametersJsonSchema` and `responseJsonSchema` take what this makes.
"""

from typing import Any

from sidecar.errors import TranslationError
from sidecar.wire.members import Json, wrong
from sidecar.wire.spokes.generate.members import MAX_DEPTH, camel, is_texts

_COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})
_ONE = frozenset({"items", "additionalProperties", "not"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_MAPS = frozenset({"properties", "$defs", "patternProperties"})
_RENAMED = {"ref": "$ref", "defs": "$defs"}
_TEXTS = frozenset({"type", "description", "title", "format"})
_PLAIN = _TEXTS | {"properties", "required", "items", "enum", "anyOf"}
_OPENAPI = frozenset({"nullable", "propertyOrdering", "example"})


def json_schema(schema: Json, where: str, depth: int = 0) -> Json:
    """The JSON schema that says the same as a Gemini Schema. Raises TranslationError on wrong types and on deep nesting."""
    if depth > MAX_DEPTH:
        raise TranslationError(f"{where}: expected a schema of at most {MAX_DEPTH} levels")
    members = schema if _PLAIN.issuperset(schema) else _renamed(schema)
    read: Json = {}
    for name, value in members.items():
        if name in _TEXTS and isinstance(value, str):
            read[name] = value.lower() if name == "type" else value
        elif value is not None and name not in _OPENAPI:
            read[name] = _member(name, value, f"{where}.{name}", depth + 1)
    if read.get("type") == "type_unspecified":
        del read["type"]
    if read.get("format") == "enum":
        del read["format"]
    if members.get("example") is not None:
        read.setdefault("examples", [members["example"]])
    _order(read, members.get("propertyOrdering"))
    if members.get("nullable") is True:
        _allow_null(read)
    return read


def _renamed(schema: Json) -> Json:
    """With the names of JSON schema, where it has the same member."""
    named = ((camel(name), value) for name, value in schema.items())
    return {_RENAMED.get(name, name): value for name, value in named}


def _member(name: str, value: Any, where: str, depth: int) -> Any:  # noqa: ANN401 - whatever a schema holds
    if name == "type":
        return _types(value, where)
    if name in _COUNTS and isinstance(value, str) and value.isdecimal() and len(value) < 20:
        return int(value)
    if name in _ONE and isinstance(value, dict):
        return json_schema(value, where, depth)
    if name in _LISTS:
        return [_inner(one, f"{where}[{number}]", depth) for number, one in enumerate(_list(value, where))]
    if name in _MAPS:
        if not isinstance(value, dict):
            wrong(where, "an object", value)
        return {key: _inner(one, f"{where}.*", depth) for key, one in value.items()}
    return value


def _types(value: object, where: str) -> list[str]:
    """Types as a list; one alone was read before."""
    if not is_texts(value):
        wrong(where, "a string", value)
    return [one.lower() for one in value]


def _inner(value: object, where: str, depth: int) -> Any:  # noqa: ANN401 - true and false are schemas too
    if isinstance(value, bool):
        return value
    if not isinstance(value, dict):
        wrong(where, "an object", value)
    return json_schema(value, where, depth)


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        wrong(where, "a list", value)
    return value


def _order(read: Json, names: object) -> None:
    properties = read.get("properties")
    if is_texts(names) and isinstance(properties, dict):
        first = {name: properties[name] for name in names if name in properties}
        read["properties"] = {**first, **properties}


def _allow_null(read: Json) -> None:
    """Lets null pass too."""
    kind = read.get("type")
    if isinstance(kind, str) and kind != "null":
        read["type"] = [kind, "null"]
    elif isinstance(kind, list) and "null" not in kind:
        read["type"] = [*kind, "null"]
    elif kind is None and isinstance(read.get("anyOf"), list) and {"type": "null"} not in read["anyOf"]:
        read["anyOf"] = [*read["anyOf"], {"type": "null"}]
    allowed = read.get("enum")
    if isinstance(allowed, list) and None not in allowed:
        read["enum"] = [*allowed, None]
